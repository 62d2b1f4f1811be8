/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors that clients send.
 *
 * Flags such as O_NONBLOCK belong to the open file, which the client keeps too: it can fill an eventfd's counter and
 * clear O_NONBLOCK between any look of ours and our write, and write(2) to an eventfd knows no RWF_NOWAIT. Only the
 * kernel's own users signal an eventfd without ever waiting, and one of them is at hand: Linux AIO adds 1 to the
 * eventfd named by a request when the request completes (io_submit(2), IOCB_FLAG_RESFD). So an interrupt is an empty
 * read of /dev/null, which completes inside io_submit(). A counter that is full stays full.
 */
#include "descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Threads that close at one time; beyond that a client waits for its own file system. */
#define MAX_CLOSERS 64
/* Requests under way at one time at least; each ends before io_submit() returns. */
#define REQUESTS 256

/* Start of the completion ring, which the kernel maps at the address that names the context. */
struct completions {
    uint32_t id, places;
    _Atomic uint32_t head, tail;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static aio_context_t context;
static int null_fd = -1, init_error;
static atomic_int closers;

static void init(void) {
    null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null_fd < 0 || syscall(SYS_io_setup, REQUESTS, &context) != 0)
        init_error = -errno;
}

int ihsm_descriptors_init(void) {
    pthread_once(&once, init);
    return init_error;
}

int ihsm_notify(int eventfd) {
    struct completions *completions = (struct completions *)(uintptr_t)context;
    struct iocb request = {.aio_lio_opcode = IOCB_CMD_PREAD,
                           .aio_fildes = (uint32_t)null_fd,
                           .aio_flags = IOCB_FLAG_RESFD,
                           .aio_resfd = (uint32_t)eventfd};
    struct iocb *requests[] = {&request};
    for (;;) {
        long submitted = syscall(SYS_io_submit, context, 1, requests);
        int error = submitted == 1 ? 0 : -errno;
        /* Nobody reads the completions. Another thread's older value may win: then a few places are free later. */
        atomic_store(&completions->head, atomic_load(&completions->tail));
        if (error != -EAGAIN)
            return error;
        sched_yield(); /* so many threads are between the two lines above */
    }
}

bool ihsm_is_memory_file(int fd) {
    /*
     * Seals are a matter of shared memory and hugetlbfs alone, and are answered without asking the file system;
     * fstatfs() and fstat() could wait for ever where that is a program of the client's.
     */
    return fcntl(fd, F_GET_SEALS) >= 0;
}

bool ihsm_is_eventfd(int fd) {
    static const char kind[] = "anon_inode:[eventfd]"; /* no path: those begin with a slash */
    char link[sizeof "/proc/self/fd/" + 3 * sizeof fd], target[sizeof kind];
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return readlink(link, target, sizeof target) == sizeof kind - 1 && memcmp(target, kind, sizeof kind - 1) == 0;
}

static void *close_one(void *argument) {
    close((int)(intptr_t)argument);
    atomic_fetch_sub(&closers, 1);
    return NULL;
}

void ihsm_discard(int fd) {
    pthread_t closer;
    if (!ihsm_is_memory_file(fd) && !ihsm_is_eventfd(fd)) {
        if (atomic_fetch_add(&closers, 1) < MAX_CLOSERS &&
            pthread_create(&closer, NULL, close_one, (void *)(intptr_t)fd) == 0) {
            pthread_detach(closer);
            return;
        }
        atomic_fetch_sub(&closers, 1);
    }
    close(fd);
}

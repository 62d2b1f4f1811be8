/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asking the server: a connection for each thread, made when it asks for the first time.
 *
 * The program does not know of these connections. It may close all its descriptors, or put others in their places; so
 * each use looks whether the descriptor still is the socket that was connected. A child of fork() has copies, which
 * would keep them open when the parent's threads have ended: it closes them. A child of vfork() has its parent's memory
 * but descriptors of its own: it asks by a connection that it closes at once, and of which the memory learns nothing.
 * So does a child of a bare system call, in which nothing of ours was called.
 *
 * System calls are made as such where libc's function could be one of ours, is a point of cancellation, or, as
 * pthread_sigmask, does less.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "preload.h"

/* From here on programs do not look for the descriptors that they open. */
#define FIRST_FD 500
/* Connections with higher descriptors are not closed in children. */
#define KNOWN_FDS 4096

static struct sockaddr_un server = {.sun_family = AF_UNIX};
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t thread_end;
/* Whose memory this is. */
static pid_t home;

/* The inode of each descriptor that is a connection, else 0; and no higher one was. */
static ino_t connections[KNOWN_FDS];
static int highest;

static __thread __attribute__((tls_model("initial-exec"))) struct {
    bool is_there;
    int fd;
    ino_t inode;
} own;

static bool is_socket(int fd, ino_t inode) {
    struct stat status;

    return NEXT(fstat)(fd, &status) == 0 && S_ISSOCK(status.st_mode) && status.st_ino == inode;
}

/* The descriptor may have been closed without our knowing, and be another thread's connection now. */
static void strike_out(int fd, ino_t inode) {
    if (fd < KNOWN_FDS)
        (void)__atomic_compare_exchange_n(&connections[fd], &inode, 0, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

static void hang_up(int fd, ino_t inode) {
    strike_out(fd, inode);
    if (is_socket(fd, inode))
        (void)syscall(SYS_close, fd);
}

static void end_thread(void *unused) {
    (void)unused;
    if (own.is_there && home == getpid())
        hang_up(own.fd, own.inode);
    own.is_there = false;
}

static void begin_child(void) {
    for (int fd = 0; fd <= highest; fd++)
        if (connections[fd])
            hang_up(fd, connections[fd]);
    own.is_there = false;
    home = getpid();
}

static void prepare(void) {
    const char *path = secure_getenv(SERVER_VARIABLE);

    home = getpid();
    if (!path || strlen(path) >= sizeof(server.sun_path) || pthread_key_create(&thread_end, end_thread))
        return;
    (void)pthread_atfork(NULL, NULL, begin_child);
    strcpy(server.sun_path, path);
}

/* Before the program runs, so that it is not for the first time in a child of vfork(). */
static __attribute__((constructor)) void prepare_once(void) { (void)pthread_once(&once, prepare); }

static void remember(int fd, ino_t inode) {
    int known = __atomic_load_n(&highest, __ATOMIC_RELAXED);

    if (fd >= KNOWN_FDS)
        return;
    while (known < fd && !__atomic_compare_exchange_n(&highest, &known, fd, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        continue;
    __atomic_store_n(&connections[fd], inode, __ATOMIC_RELAXED);
}

static int connect_thread(void) {
    struct request hello = {.operation = OP_HELLO, .number = (uint64_t)syscall(SYS_gettid)};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), high;

    if (fd < 0)
        return -1;
    if (syscall(SYS_connect, fd, &server, sizeof(server)) ||
        syscall(SYS_sendto, fd, &hello, sizeof(hello), MSG_NOSIGNAL, NULL, 0) != sizeof(hello)) {
        (void)syscall(SYS_close, fd);
        return -1;
    }
    high = (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, FIRST_FD);
    if (high < 0) /* so many are not allowed */
        return fd;
    (void)syscall(SYS_close, fd);
    return high;
}

/* A connection, or -1 and errno. Where `is_borrowed`, nobody else knows of it. */
static int connection(bool *is_borrowed) {
    struct stat status;
    int fd;

    prepare_once();
    *is_borrowed = home != getpid();
    if (!*is_borrowed && own.is_there && is_socket(own.fd, own.inode))
        return own.fd;
    errno = 0;
    if (!server.sun_path[0] || (fd = connect_thread()) < 0)
        return -1;
    if (*is_borrowed || NEXT(fstat)(fd, &status))
        return fd;
    if (own.is_there)
        strike_out(own.fd, own.inode);
    own.is_there = true;
    own.fd = fd;
    own.inode = status.st_ino;
    remember(fd, status.st_ino);
    (void)pthread_setspecific(thread_end, &own);
    return fd;
}

static bool send_request(int connection, const struct request *request, const struct place *place) {
    struct iovec parts[2] = {{(void *)request, sizeof(*request)}, {NULL, 0}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 1};

    if (!place)
        return syscall(SYS_sendto, connection, request, sizeof(*request), MSG_NOSIGNAL, NULL, 0) >= 0;
    parts[1] = (struct iovec){(void *)place->path, strlen(place->path)};
    message.msg_iovlen = 2;
    return syscall(SYS_sendmsg, connection, &message, MSG_NOSIGNAL) >= 0;
}

static bool receive_descriptor(int connection, struct answer *answer, int flags, int *fd) {
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {answer, sizeof(*answer)};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    const struct cmsghdr *header;

    if (syscall(SYS_recvmsg, connection, &message, flags) < (long)offsetof(struct answer, status))
        return false;
    header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_type == SCM_RIGHTS)
        memcpy(fd, CMSG_DATA(header), sizeof(*fd));
    else if (answer->outcome == IS_DONE) { /* it was sent, and there was no number left for it */
        answer->outcome = HAS_FAILED;
        answer->result = EMFILE;
    }
    return true;
}

static void exchange(int connection, const struct request *request, const struct place *place, struct answer *answer,
                     int *fd) {
    bool is_answered;

    if (!send_request(connection, request, place))
        return;
    if (fd)
        is_answered = receive_descriptor(connection, answer, request->flags & O_CLOEXEC ? MSG_CMSG_CLOEXEC : 0, fd);
    else
        is_answered = syscall(SYS_recvfrom, connection, answer, sizeof(*answer), 0, NULL, NULL) >=
                      (long)offsetof(struct answer, status);
    if (!is_answered) { /* the server has ended, and what became of it is not known */
        answer->outcome = HAS_FAILED;
        answer->result = EIO;
    }
}

void ask(const struct request *request, const struct place *place, struct answer *answer, int *fd) {
    uint64_t all = ~(uint64_t)0, before;
    int error = errno, asked;
    bool is_borrowed;

    answer->outcome = IS_NOT_OURS;
    (void)syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof(all));
    asked = connection(&is_borrowed);
    if (asked < 0 && errno == EMFILE && (request->operation == OP_OPEN || request->operation == OP_IOCTL)) {
        answer->outcome = HAS_FAILED; /* a file would have no number either, and no command must be lost */
        answer->result = EMFILE;
    } else if (asked >= 0) {
        exchange(asked, request, place, answer, fd);
        if (is_borrowed)
            (void)syscall(SYS_close, asked);
    }
    (void)syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof(before));
    errno = error;
}

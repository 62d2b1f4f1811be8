/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* What a round trip between two threads costs at least, measured beside the rings. */
#include "bench/clock.h"

#include <errno.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MESSAGE_BYTES = 36, REPLY_BYTES = 16 };
enum { STOP = UINT32_MAX };

/* The two words lie in cache lines of their own. */
struct words {
    _Alignas(64) uint32_t ping;
    _Alignas(64) uint32_t pong;
};

static void *echo_word(void *argument) {
    struct words *words = argument;
    uint32_t last = 0, value;

    for (;;) {
        while ((value = __atomic_load_n(&words->ping, __ATOMIC_ACQUIRE)) == last)
            ihsm_relax();
        if (value == STOP)
            return NULL;
        last = value;
        __atomic_store_n(&words->pong, value, __ATOMIC_RELEASE);
    }
}

int ihsm_bench_shared_memory(uint64_t min_ns, uint32_t *latencies_ns, uint64_t room, struct ihsm_bench_result *result) {
    static struct words words;
    pthread_t thread;
    uint64_t end, before, after;

    words.ping = words.pong = 0;
    if (pthread_create(&thread, NULL, echo_word, &words))
        return -EAGAIN;
    ihsm_measure_begin(result);
    before = result->wall_ns;
    end = before + min_ns;
    for (uint32_t value = 1; ihsm_goes_on(result, before, end); value++) {
        __atomic_store_n(&words.ping, value, __ATOMIC_RELEASE);
        while (__atomic_load_n(&words.pong, __ATOMIC_ACQUIRE) != value)
            ihsm_relax();
        after = ihsm_now_ns();
        ihsm_record(result, latencies_ns, room, after - before);
        result->operations++;
        before = after;
    }
    ihsm_measure_end(result);
    __atomic_store_n(&words.ping, STOP, __ATOMIC_RELEASE);
    pthread_join(thread, NULL);
    return 0;
}

static void *echo_message(void *argument) {
    int fd = *(int *)argument;
    uint8_t message[MESSAGE_BYTES];

    while (recv(fd, message, sizeof message, MSG_WAITALL) == sizeof message)
        if (send(fd, message, REPLY_BYTES, MSG_NOSIGNAL) != REPLY_BYTES)
            break;
    return NULL;
}

int ihsm_bench_socket(uint64_t min_ns, uint32_t *latencies_ns, uint64_t room, struct ihsm_bench_result *result) {
    uint8_t message[MESSAGE_BYTES] = {0};
    uint64_t end, before, after;
    int ends[2], error = 0;
    pthread_t thread;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
        return -errno;
    if (pthread_create(&thread, NULL, echo_message, &ends[1])) {
        close(ends[0]);
        close(ends[1]);
        return -EAGAIN;
    }
    ihsm_measure_begin(result);
    before = result->wall_ns;
    end = before + min_ns;
    while (ihsm_goes_on(result, before, end) && !error) {
        if (send(ends[0], message, sizeof message, MSG_NOSIGNAL) != sizeof message ||
            recv(ends[0], message, REPLY_BYTES, MSG_WAITALL) != REPLY_BYTES)
            error = -EIO;
        after = ihsm_now_ns();
        ihsm_record(result, latencies_ns, room, after - before);
        result->operations++;
        before = after;
    }
    ihsm_measure_end(result);
    shutdown(ends[0], SHUT_RDWR);
    pthread_join(thread, NULL);
    close(ends[0]);
    close(ends[1]);
    return error;
}

static void *echo_event(void *argument) {
    const int *events = argument;
    eventfd_t value;

    while (eventfd_read(events[0], &value) == 0 && value != STOP)
        if (eventfd_write(events[1], 1))
            break;
    return NULL;
}

int ihsm_bench_eventfd(uint64_t min_ns, uint32_t *latencies_ns, uint64_t room, struct ihsm_bench_result *result) {
    int events[2] = {eventfd(0, EFD_CLOEXEC), eventfd(0, EFD_CLOEXEC)}, error = 0;
    uint64_t end, before, after;
    eventfd_t value;
    pthread_t thread;

    if (events[0] < 0 || events[1] < 0 || pthread_create(&thread, NULL, echo_event, events)) {
        close(events[0]);
        close(events[1]);
        return -EAGAIN;
    }
    ihsm_measure_begin(result);
    before = result->wall_ns;
    end = before + min_ns;
    while (ihsm_goes_on(result, before, end) && !error) {
        if (eventfd_write(events[0], 1) || eventfd_read(events[1], &value))
            error = -EIO;
        after = ihsm_now_ns();
        ihsm_record(result, latencies_ns, room, (after - before) / 2);
        result->operations++;
        before = after;
    }
    ihsm_measure_end(result);
    eventfd_write(events[0], STOP);
    pthread_join(thread, NULL);
    close(events[0]);
    close(events[1]);
    return error;
}

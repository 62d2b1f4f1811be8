/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Many ioctls of many threads, resets among them: each thread sees to it that an answer is the one to its own call.
 *
 *   mixed_ioctls CALLS RESETS [NODE]
 *
 * A call that is told to come again, because of a reset, does so until it is answered. Prints how many calls were
 * answered, and how often one was told so. Exit status 1: an answer was lost, doubled or another's. */
#include "user.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { THREADS = 8, FILES = 2, WRONG_ONES_SHOWN = 5, ROOM = 4096 };

struct answer {
    uint32_t size;
    uint8_t bytes[ROOM];
};

static struct answer answers[COUNT(requests)]; /* to each of the requests, asked for before the storm */
static int files[FILES];
static long calls_of_a_thread;
static long calls_between_resets;

struct thread {
    pthread_t thread;
    uint64_t number;
    uint64_t random;
    long answered;
    long refused;
    long resets;
    long again;
    long wrong;
};

static void wrong(struct thread *self, const char *what, long result, uint32_t status, uint32_t extended) {
    if (self->wrong++ < WRONG_ONES_SHOWN)
        say("thread %lu, %s: %s, status %#x, extended status %#x", (unsigned long)self->number, what, named(result),
            status, extended);
}

static bool is_again(uint32_t extended) {
    return extended == IHSM_ABORT_EXTENDED_STATUS_ABORT_IN_PROGRESS ||
           extended == IHSM_ABORT_EXTENDED_STATUS_CMD_ABORTED || extended == IHSM_ABORT_EXTENDED_STATUS_DEVICE_ERROR ||
           extended == IHSM_CP_STATUS_DEVICE_ERROR;
}

/* Each of these makes a call, and returns false if it was told to come again. */

/* A request out of many; the driver gives its context back, and the device the answer to just this one. */
static bool send_request(struct thread *self, int fd, uint64_t token) {
    uint8_t response[ROOM];
    struct ihsm_generic_ioctl command;
    size_t which = token % COUNT(requests);
    const struct answer *expected = &answers[which];
    memset(response, KEPT, sizeof response);
    fill_command(&command, requests[which].bytes, requests[which].size, response, sizeof response);
    command.ctxt = token;
    long result = call(fd, IHSM_IOCTL_GENERIC_SESSION, &command);
    if (result == -EAGAIN && is_again(command.extended_status))
        return false;
    if (result == 0 && command.status == 0 && command.out_ctxt == token && command.byte_count == expected->size &&
        memcmp(response, expected->bytes, expected->size) == 0 && response[expected->size] == KEPT)
        self->answered++;
    else
        wrong(self, "a request", result, command.status, command.extended_status);
    return true;
}

/* A command that the driver refuses, with the token still in its structure. */
static bool send_refused(struct thread *self, int fd, uint64_t token) {
    struct ihsm_generic_ioctl command;
    uint8_t room[16];
    fill_command(&command, get_api_rev, sizeof get_api_rev, room, sizeof room);
    command.ctxt = token;
    command.cmdset = (uint16_t)(1 + token % 5);
    long result = call(fd, IHSM_IOCTL_GENERIC_SESSION, &command);
    if (result == -EAGAIN && is_again(command.extended_status))
        return false;
    if (result == -EINVAL && command.extended_status == IHSM_CP_STATUS_INVALID_CMDSET && command.ctxt == token &&
        command.cmdset == 1 + token % 5)
        self->refused++;
    else
        wrong(self, "a wrong command", result, command.status, command.extended_status);
    return true;
}

static bool ask_information(struct thread *self, int fd, uint64_t token) {
    struct ihsm_device_info info;
    (void)token;
    long result = device_info(fd, &info);
    if (result == -EAGAIN || result == -ENOTTY)
        return false;
    if (result == 0 && strcmp(info.driver_rev, IHSM_DRIVER_VERSION) == 0)
        self->answered++;
    else
        wrong(self, "device information", result, 0, 0);
    return true;
}

static bool send_unknown(struct thread *self, int fd, uint64_t token) {
    long result = call(fd, 0x4200 + token % 2, &token);
    if (result == -EBADRQC)
        self->refused++;
    else
        wrong(self, "an unknown number", result, 0, 0);
    return true;
}

static bool reset(struct thread *self, int fd, uint64_t token) {
    struct ihsm_reset_device command = {.hdr = {.szioctldata = sizeof command}};
    command.abort_type = token % 2 ? IHSM_ABORT_TYPE_L2_RESET : IHSM_ABORT_TYPE_L2_NSSR;
    command.abort_sts = UINT32_MAX;
    long result = call(fd, IHSM_IOCTL_RESET, &command);
    if (result == -EINVAL && (command.abort_sts == IHSM_ABORT_STATUS_ALREADY_IN_PROGRESS ||
                              command.abort_sts == IHSM_ABORT_STATUS_INVALID_DEVICE_STATE))
        return false;
    if (result == 0 && command.abort_sts == IHSM_ABORT_STATUS_SUCCESS)
        self->resets++;
    else
        wrong(self, "a reset", result, command.abort_sts, 0);
    return true;
}

static void *work(void *argument) {
    static bool (*const others[16])(struct thread *, int, uint64_t) = {send_unknown, ask_information, send_refused,
                                                                       send_refused};
    const struct timespec moment = {.tv_nsec = 1000000};
    struct thread *self = argument;
    for (long i = 0; i < calls_of_a_thread; i++) {
        self->random = self->random * 6364136223846793005U + 1442695040888963407U;
        uint64_t token = self->number << 56 | (self->random >> 8);
        bool (*make)(struct thread *, int, uint64_t) = others[self->random >> 60];
        if (calls_between_resets != 0 && i % calls_between_resets == (long)self->number)
            make = reset;
        else if (make == NULL)
            make = send_request;
        while (!make(self, files[(self->random >> 40) % FILES], token)) {
            self->again++;
            (void)nanosleep(&moment, NULL);
        }
    }
    return NULL;
}

/* What each request is answered; all of them are different, or none could be told from another. */
static void learn_answers(int fd) {
    for (size_t i = 0; i < COUNT(requests); i++) {
        struct ihsm_generic_ioctl command;
        fill_command(&command, requests[i].bytes, requests[i].size, answers[i].bytes, sizeof answers[i].bytes);
        long result = call(fd, IHSM_IOCTL_GENERIC_SESSION, &command);
        if (result != 0 || command.status != 0)
            fail("request %zu: %s, status %#x", i, named(result), command.status);
        answers[i].size = command.byte_count;
        for (size_t j = 0; j < i; j++)
            if (answers[j].size == answers[i].size && memcmp(answers[j].bytes, answers[i].bytes, answers[i].size) == 0)
                fail("requests %zu and %zu are answered alike", j, i);
    }
}

int main(int count, char **arguments) {
    struct thread threads[THREADS] = {0};
    struct thread sum = {0};
    set_stage("mixed");
    if (count < 3)
        fail("usage: mixed_ioctls CALLS RESETS [NODE]");
    if (count > 3)
        options.node = arguments[3];
    calls_of_a_thread = strtol(arguments[1], NULL, 10) / THREADS;
    long resets = strtol(arguments[2], NULL, 10) / THREADS;
    calls_between_resets = resets != 0 ? calls_of_a_thread / resets : 0;
    for (size_t i = 0; i < COUNT(files); i++)
        files[i] = ready_node();
    learn_answers(files[0]);
    for (size_t i = 0; i < COUNT(threads); i++) {
        threads[i].number = threads[i].random = i + 1;
        if (pthread_create(&threads[i].thread, NULL, work, &threads[i]) != 0)
            fail("no thread");
    }
    for (size_t i = 0; i < COUNT(threads); i++) {
        (void)pthread_join(threads[i].thread, NULL);
        sum.answered += threads[i].answered;
        sum.refused += threads[i].refused;
        sum.resets += threads[i].resets;
        sum.again += threads[i].again;
        sum.wrong += threads[i].wrong;
    }
    say("calls %ld, answered %ld, refused %ld, resets %ld, wrong %ld, told to come again %ld",
        calls_of_a_thread * THREADS, sum.answered, sum.refused, sum.resets, sum.wrong, sum.again);
    return sum.wrong != 0;
}

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
#include "helper.h"
#include "user.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static pid_t helper;
static int to_helper = -1;
static int from_helper = -1;

static void start_helper(void) {
    int orders[2];
    int frames[2];
    /* dup2 leaves the helper its two ends without the mark. */
    if (pipe2(orders, O_CLOEXEC) != 0 || pipe2(frames, O_CLOEXEC) != 0)
        fail("pipe: %s", named(-errno));
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, orders[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, frames[1], STDOUT_FILENO);
    char *shell[] = {"sh", "-c", (char *)options.helper, NULL};
    int error = posix_spawn(&helper, "/bin/sh", &actions, NULL, shell, environ);
    if (error != 0)
        fail("the helper: %s", named(-error));
    posix_spawn_file_actions_destroy(&actions);
    close(orders[0]);
    close(frames[1]);
    to_helper = orders[1];
    from_helper = frames[0];
}

static void send_all(const void *data, size_t size) {
    const uint8_t *bytes = data;
    for (size_t done = 0; done < size;) {
        ssize_t written = write(to_helper, bytes + done, size - done);
        if (written <= 0 && errno != EINTR)
            fail("the helper does not listen: %s", named(-errno));
        done += written > 0 ? (size_t)written : 0;
    }
}

static void receive_all(void *data, size_t size) {
    uint8_t *bytes = data;
    for (size_t done = 0; done < size;) {
        ssize_t got = read(from_helper, bytes + done, size - done);
        if (got == 0 || (got < 0 && errno != EINTR))
            fail("the helper says nothing more");
        done += got > 0 ? (size_t)got : 0;
    }
}

static void carry_out(int fd, const struct helper_frame *frame, const uint8_t *request) {
    uint8_t response[IHSM_MAX_DST_LENGTH];
    struct ihsm_generic_ioctl command;
    fill_command(&command, request, frame->length, response, sizeof response);
    bool has_id = frame->session_id != HELPER_NO_SESSION;
    set_session(&command, frame->kind, has_id, has_id ? frame->session_id : 0);
    long result = call(fd, IHSM_IOCTL_GENERIC_SESSION, &command);
    struct helper_answer answer = {.error = (uint32_t)-result, .status = command.status, .length = 0};
    if (result == 0)
        answer.length = command.byte_count;
    send_all(&answer, sizeof answer);
    send_all(response, answer.length);
}

/* Gives an order and does what the helper asks for until it is done. */
static struct session carry_order(int fd, uint8_t order) {
    struct session session = {.id = 0};
    struct helper_frame frame;
    uint8_t payload[IHSM_MAX_SRC_LENGTH];
    if (helper == 0)
        start_helper();
    send_all(&order, sizeof order);
    for (;;) {
        receive_all(&frame, sizeof frame);
        if (frame.length > sizeof payload)
            fail("a frame of %u bytes", frame.length);
        receive_all(payload, frame.length);
        if (frame.type == HELPER_DONE)
            break;
        carry_out(fd, &frame, payload);
    }
    if (frame.length != sizeof session)
        fail("a session of %u bytes", frame.length);
    memcpy(&session, payload, sizeof session);
    return session;
}

struct session open_session(int fd) { return carry_order(fd, HELPER_OPEN); }

void close_session(int fd) { (void)carry_order(fd, HELPER_CLOSE); }

void end_helper(void) {
    if (helper == 0)
        return;
    close(to_helper);
    close(from_helper);
    (void)waitpid(helper, NULL, 0);
    helper = 0;
}

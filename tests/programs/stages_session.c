/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* A session of an open file: what the driver makes of it, until the last descriptor is closed. */
#include "helper.h"
#include "user.h"

#include <string.h>
#include <unistd.h>

static uint8_t response[IHSM_MAX_DST_LENGTH];

/* A command of some kind, with a session id; what it carries does not matter where the driver refuses it. */
static void show_command(const char *what, int fd, unsigned kind, bool id_valid, uint16_t id) {
    struct ihsm_generic_ioctl command;
    fill_command(&command, get_api_rev, sizeof get_api_rev, response, sizeof response);
    command.extended_status = 0;
    set_session(&command, kind, id_valid, id);
    long result = call(fd, IHSM_IOCTL_GENERIC_SESSION, &command);
    say("%s: %s, extended status %u", what, named(result), command.extended_status);
}

void stage_session(void) {
    int fd = ready_node();
    struct session session = open_session(fd);
    say("opened, with keys for AES: %s",
        session.gcm_key != 0 && session.xts_keys[0] != session.xts_keys[1] ? "yes" : "no");
    show_command("another one on this file", fd, IHSM_CONTROL_KIND_OPEN, false, 0);
    uint16_t other = (uint16_t)(session.id + 1);
    show_command("a command of another session", fd, IHSM_CONTROL_KIND_IN_SESSION, true, other);
    show_command("of one that is not marked valid", fd, IHSM_CONTROL_KIND_IN_SESSION, false, session.id);
    show_command("another session closed", fd, IHSM_CONTROL_KIND_CLOSE, true, other);
    show_command("a command without session", fd, IHSM_CONTROL_KIND_NONE, false, 0);
    int second = ready_node();
    show_command("the session through another file", second, IHSM_CONTROL_KIND_IN_SESSION, true, session.id);
    close(second);
    close_session(fd);
    show_command("after it was closed", fd, IHSM_CONTROL_KIND_IN_SESSION, true, session.id);
    session = open_session(fd);
    say("opened once more");
    close_session(fd);
    close(fd);
}

static void fill_gcm(struct ihsm_gcm_ioctl *command, const struct session *session, uint8_t *data, uint32_t size) {
    memset(command, 0, sizeof *command);
    command->hdr.szioctldata = sizeof *command;
    command->cipher = IHSM_CIPHER_GCM;
    command->src_ptr = command->dst_ptr = (uintptr_t)data;
    command->src_len = command->dst_len = size;
    command->frame_type = IHSM_FRAME_TYPE_AES;
    command->session_id = session->id;
    command->short_app_id = session->short_app_id;
    command->key_id = session->gcm_key;
    command->result = 0xEEEEEEEE;
}

static void show_gcm(const char *what, int fd, struct ihsm_gcm_ioctl *command) {
    long result = call(fd, IHSM_IOCTL_AES_GCM, command);
    say("%s: %s, result %#x, extended status %u", what, named(result), command->result, command->extended_status);
}

static void show_wrong_xts(int fd, const struct session *session, uint8_t *data) {
    struct ihsm_xts_ioctl command;
    memset(&command, 0, sizeof command);
    command.hdr.szioctldata = sizeof command;
    command.cipher = IHSM_CIPHER_XTS;
    command.src_ptr = command.dst_ptr = (uintptr_t)data;
    command.src_len = command.dst_len = 64;
    command.frame_type = IHSM_FRAME_TYPE_AES;
    command.session_id = session->id;
    command.short_app_id = session->short_app_id;
    command.data_unit_len = 4;
    long result = call(fd, IHSM_IOCTL_AES_XTS, &command);
    say("data unit 4: %s, extended status %u", named(result), command.extended_status);
    command.data_unit_len = 1;
    result = call(fd, IHSM_IOCTL_AES_XTS, &command);
    say("less than a data unit: %s, extended status %u", named(result), command.extended_status);
}

void stage_wrong_session(void) {
    static uint8_t data[64];
    struct ihsm_gcm_ioctl command;
    int fd = ready_node();
    struct session session = open_session(fd);
    fill_gcm(&command, &session, data, sizeof data);
    command.session_id++;
    show_gcm("AES of another session", fd, &command);
    fill_gcm(&command, &session, data, sizeof data);
    command.short_app_id++;
    show_gcm("of another application", fd, &command);
    fill_gcm(&command, &session, data, sizeof data);
    command.op_code = 2;
    show_gcm("operation 2", fd, &command);
    fill_gcm(&command, &session, data, sizeof data);
    command.cipher = IHSM_CIPHER_XTS;
    show_gcm("XTS by the ioctl of GCM", fd, &command);
    fill_gcm(&command, &session, data, sizeof data);
    command.frame_type = 0;
    show_gcm("another frame", fd, &command);
    fill_gcm(&command, &session, data, sizeof data);
    command.actual_aad_data_len = sizeof data;
    show_gcm("nothing but AAD", fd, &command);
    fill_gcm(&command, &session, data, sizeof data);
    command.dst_len = sizeof data - 1;
    show_gcm("destination too short", fd, &command);
    fill_gcm(&command, &session, data, sizeof data);
    command.src_ptr = 0;
    show_gcm("no source", fd, &command);
    fill_gcm(&command, &session, data, sizeof data);
    command.dst_ptr = 0;
    show_gcm("no destination", fd, &command);
    fill_gcm(&command, &session, data, sizeof data);
    command.src_ptr = KERNEL_HALF;
    show_gcm("source of the kernel's", fd, &command);
    fill_gcm(&command, &session, data, sizeof data);
    command.key_id = UINT32_MAX;
    show_gcm("a key that cannot be", fd, &command);
    fill_gcm(&command, &session, data, sizeof data);
    command.key_id = session.xts_keys[0];
    show_gcm("a key of XTS", fd, &command);
    show_wrong_xts(fd, &session, data);
    close_session(fd);
    close(fd);
}

static void close_in_child(void *file) { close(*(int *)file); }

/* The session is over with the last descriptor, and not before: its AES commands say so. */
void stage_session_life(void) {
    static uint8_t data[64];
    struct ihsm_gcm_ioctl command;
    int fd = ready_node();
    struct session session = open_session(fd);
    int copy = dup(fd);
    show_end("a child", in_child(close_in_child, &fd));
    fill_gcm(&command, &session, data, sizeof data);
    show_gcm("after a child has closed its copy", fd, &command);
    close(fd);
    fill_gcm(&command, &session, data, sizeof data);
    show_gcm("after the first descriptor was closed", copy, &command);
    close(copy);
    fd = ready_node();
    fill_gcm(&command, &session, data, sizeof data);
    show_gcm("with the file opened anew", fd, &command);
    close(fd);
}

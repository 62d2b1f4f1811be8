/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* The co-process that says what to send the device where that takes cryptography: opening a session, making keys.
 *
 * It reads orders of one byte from its standard input and writes frames to its standard output: a header of eight
 * bytes, then `length` bytes. A command is carried out by the session ioctl, and answered with `struct helper_answer`
 * and the message; the last frame of an order is the session. All numbers are little-endian. */
#pragma once

#include <stdint.h>

enum { HELPER_OPEN = 'o', HELPER_CLOSE = 'c' };   /* orders */
enum { HELPER_COMMAND = 'C', HELPER_DONE = 'D' }; /* frames */
enum { HELPER_NO_SESSION = 0xFFFF };              /* `session_id` of a command without one */

struct helper_frame {
    uint8_t type;
    uint8_t kind; /* session control kind of a command */
    uint16_t session_id;
    uint32_t length;
};

struct helper_answer {
    uint32_t error;  /* errno, or 0 */
    uint32_t status; /* of the device */
    uint32_t length;
};

/* A session of an open file, and its keys as AES commands name them. */
struct session {
    uint16_t id;
    uint8_t short_app_id;
    uint8_t reserved;
    uint32_t gcm_key;
    uint32_t xts_keys[2];
};

/* Opens a session in the file, on a device that is provisioned first where it is not. */
struct session open_session(int fd);
void close_session(int fd);
void end_helper(void);

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* For programs that use the driver of tests/support/host_driver.py. */
#ifndef TOY_H
#define TOY_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define NODE "/dev/toy0"
#define FOLDER "/sys/class/toys/toy0"
#define COUNT 0x4201
#define TGID 0x4202
#define TID 0x4203
#define ADD_ONE 0x4204
#define WAIT 0x4205

/* End the program where something is not so. */
#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not %s (%s)\n", __FILE__, __LINE__, #condition, strerror(errno));                  \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

#define CHECK_FAILS(call, code) CHECK((call) == -1 && errno == (code))

#endif

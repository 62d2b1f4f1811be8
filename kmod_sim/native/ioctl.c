/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* ioctl(2): the driver's commands. The descriptor of a served node is a socket, by whose inode the server knows it. */
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/ioctl.h>

#include "preload.h"

static bool is_of_the_driver(unsigned long number) { return _IOC_TYPE(number) == 'A' || _IOC_TYPE(number) == 'B'; }

static int preload_ioctl(int fd, unsigned long number, ...) {
    /* Linux takes 32 bits of the number: those above are what the sign of an int has left. */
    struct request request = {.operation = OP_IOCTL, .number = (uint32_t)number};
    struct answer answer;
    struct stat status;
    int error = errno;
    va_list arguments;
    void *argument;

    va_start(arguments, number);
    argument = va_arg(arguments, void *);
    va_end(arguments);
    if (is_of_the_driver(number) && NEXT(fstat)(fd, &status) == 0 && S_ISSOCK(status.st_mode)) {
        request.inode = status.st_ino;
        request.argument = (uintptr_t)argument;
        ask(&request, NULL, &answer, NULL);
        if (answer.outcome == IS_DONE)
            return (int)answer.result;
        if (answer.outcome == HAS_FAILED) {
            errno = (int)answer.result;
            return -1;
        }
    }
    errno = error;
    return NEXT(ioctl)(fd, number, argument);
}
EXPORT(ioctl, preload_ioctl);

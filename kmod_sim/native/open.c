/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Opening files: open(2) under all its names, fopen(3). */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "preload.h"

int open_served(const struct place *place, int flags) {
    struct request request = {.operation = OP_OPEN, .flags = (uint32_t)flags};
    struct answer answer;
    int fd = -1;

    if (place->is_folder && !(flags & O_CREAT))
        request.flags = (request.flags | O_DIRECTORY) & ~(uint32_t)O_NOFOLLOW;
    ask(&request, place, &answer, &fd);
    if (answer.outcome == IS_DONE)
        return fd;
    if (answer.outcome == IS_NOT_OURS)
        return NOT_OURS;
    errno = (int)answer.result;
    return -1;
}

static int open_at(int dirfd, const char *path, int flags, mode_t mode) {
    struct place place;
    int fd;

    if (!find_place(&place, dirfd, path))
        return NEXT(openat)(dirfd, path, flags, mode);
    fd = open_served(&place, flags);
    if (fd != NOT_OURS)
        return fd;
    return place.is_shadow ? NEXT(openat)(AT_FDCWD, place.path, flags, mode) : NEXT(openat)(dirfd, path, flags, mode);
}

/* The mode is only given where a file may be made. */
static mode_t mode_of(int flags, va_list arguments) {
    return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(arguments, mode_t) : 0;
}

static int preload_open(const char *path, int flags, ...) {
    va_list arguments;
    mode_t mode;

    va_start(arguments, flags);
    mode = mode_of(flags, arguments);
    va_end(arguments);
    return open_at(AT_FDCWD, path, flags, mode);
}
EXPORT(open, preload_open);
EXPORT(open64, preload_open);
EXPORT(__open, preload_open);
EXPORT(__open64, preload_open);

static int preload_openat(int dirfd, const char *path, int flags, ...) {
    va_list arguments;
    mode_t mode;

    va_start(arguments, flags);
    mode = mode_of(flags, arguments);
    va_end(arguments);
    return open_at(dirfd, path, flags, mode);
}
EXPORT(openat, preload_openat);
EXPORT(openat64, preload_openat);

/* As programs call them that were compiled with _FORTIFY_SOURCE. */
static int preload_open_without_mode(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
EXPORT(__open_2, preload_open_without_mode);
EXPORT(__open64_2, preload_open_without_mode);

static int preload_openat_without_mode(int dirfd, const char *path, int flags) {
    return open_at(dirfd, path, flags, 0);
}
EXPORT(__openat_2, preload_openat_without_mode);
EXPORT(__openat64_2, preload_openat_without_mode);

static int preload_creat(const char *path, mode_t mode) {
    return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}
EXPORT(creat, preload_creat);
EXPORT(creat64, preload_creat);

/* Flags of open(2) for a mode of fopen(3); -1 if it is none. */
static int flags_of(const char *mode) {
    int access = strchr(mode, '+') ? O_RDWR : mode[0] == 'r' ? O_RDONLY : O_WRONLY;
    int more = (strchr(mode, 'x') ? O_EXCL : 0) | (strchr(mode, 'e') ? O_CLOEXEC : 0);

    switch (mode[0]) {
    case 'r':
        return access | more;
    case 'w':
        return access | more | O_CREAT | O_TRUNC;
    case 'a':
        return access | more | O_CREAT | O_APPEND;
    default:
        return -1;
    }
}

static FILE *preload_fopen(const char *path, const char *mode) {
    struct place place;
    int flags, fd;
    FILE *file;

    if (!find_place(&place, AT_FDCWD, path) || (flags = flags_of(mode)) < 0)
        return NEXT(fopen)(path, mode);
    fd = open_served(&place, flags);
    if (fd == NOT_OURS)
        return NEXT(fopen)(place.is_shadow ? place.path : path, mode);
    if (fd < 0)
        return NULL;
    file = fdopen(fd, mode);
    if (!file)
        (void)close(fd);
    return file;
}
EXPORT(fopen, preload_fopen);
EXPORT(fopen64, preload_fopen);

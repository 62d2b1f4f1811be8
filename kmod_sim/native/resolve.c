/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* realpath(3). Inside libc it does not call readlink(2) by name; here it does, for paths that the server has. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "preload.h"

/* So many links one after the other are taken for a circle, as by Linux. */
#define MOST_LINKS 40

/* Take the first part off a path. False: it has none. */
static bool take_part(char *part, char *path) {
    size_t slashes = strspn(path, "/"), size = strcspn(path + slashes, "/");

    memcpy(part, path + slashes, size);
    part[size] = '\0';
    memmove(path, path + slashes + size, strlen(path + slashes + size) + 1);
    return size > 0;
}

/* Take the last part off a path. */
static void climb(char *path) {
    char *slash = strrchr(path, '/');

    if (slash)
        *slash = '\0';
}

/* Put a link's text in the place of the link, which is the last part of `done`; `rest` is what comes after it. */
static bool follow(char *done, char *rest, const char *text) {
    char after[PATH_MAX];

    if (strlen(text) + 1 + strlen(rest) >= PATH_MAX)
        return false;
    strcpy(after, rest);
    strcpy(rest, text);
    strcat(rest, "/");
    strcat(rest, after);
    climb(done);
    if (text[0] == '/')
        done[0] = '\0';
    return true;
}

/* Make `done` of the absolute path `rest`; 0 or an error number. */
static int resolve(char *done, char *rest) {
    char part[PATH_MAX], text[PATH_MAX];
    int links = 0;

    strcpy(done, "");
    while (take_part(part, rest)) {
        ssize_t length;

        if (strcmp(part, "..") == 0) {
            climb(done);
            continue;
        }
        if (strcmp(part, ".") == 0)
            continue;
        if (strlen(done) + 1 + strlen(part) >= PATH_MAX)
            return ENAMETOOLONG;
        strcat(done, "/");
        strcat(done, part);
        length = readlink(done, text, sizeof(text) - 1);
        if (length < 0)
            continue;
        text[length] = '\0';
        if (++links > MOST_LINKS)
            return ELOOP;
        if (!follow(done, rest, text))
            return ENAMETOOLONG;
    }
    if (!*done)
        strcpy(done, "/");
    return 0;
}

static char *preload_realpath(const char *path, char *resolved) {
    char done[PATH_MAX];
    struct place place;
    struct stat status;
    int error = errno, result;

    if (!find_place(&place, AT_FDCWD, path))
        return NEXT(realpath)(path, resolved);
    result = status_served(&place, true, &status);
    if (result == NOT_OURS)
        return NEXT(realpath)(place.is_shadow ? place.path : path, resolved);
    if (result < 0)
        return NULL;
    result = resolve(done, place.path);
    if (result) {
        errno = result;
        return NULL;
    }
    errno = error;
    return resolved ? strcpy(resolved, done) : strdup(done);
}
EXPORT(realpath, preload_realpath);

static char *preload_canonicalize(const char *path) { return preload_realpath(path, NULL); }
EXPORT(canonicalize_file_name, preload_canonicalize);

/* As programs call it that were compiled with _FORTIFY_SOURCE, which ends those that give less room than PATH_MAX. */
static char *preload_checked_realpath(const char *path, char *resolved, size_t room) {
    if (room < PATH_MAX)
        abort();
    return preload_realpath(path, resolved);
}
EXPORT(__realpath_chk, preload_checked_realpath);

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which paths and descriptors concern the server. A program asks about thousands of files that do not: most of these
 * are found out by a look at the first bytes of an absolute path, without a system call.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "preload.h"

/* Of the thread: where the first one of a process has ended, /proc/self has no descriptors. */
#define OPEN_FILE_LINK "/proc/thread-self/fd/%d"
#define OPEN_FILE_LINK_BYTES sizeof("/proc/thread-self/fd/-2147483648")

static struct {
    char path[PATH_MAX];
    size_t length;
    dev_t device;
} shadow;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/*
 * The last folder from which no path without `..` leads to anything of the server's: what walks a tree has each looked
 * at once, and not for each name in it. A later one may have the same number, but not the same time.
 */
static __thread __attribute__((tls_model("initial-exec"))) struct {
    dev_t device;
    ino_t inode;
    struct timespec changed;
} elsewhere;

/* Copied, for a program may change its environment, or write over it. No function that others could have replaced. */
static void look_at_environment(void) {
    const char *path = secure_getenv(SHADOW_VARIABLE);
    struct stat status;

    if (path && strlen(path) < sizeof(shadow.path) && syscall(SYS_newfstatat, AT_FDCWD, path, &status, 0) == 0) {
        strcpy(shadow.path, path);
        shadow.device = status.st_dev;
        shadow.length = strlen(path);
    }
}

/* Before the program runs: a signal handler that comes in between would wait for what it has interrupted. */
static __attribute__((constructor)) void look_once(void) { (void)pthread_once(&once, look_at_environment); }

static bool is_below(const char *path, const char *folder, size_t length) {
    return strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == '\0');
}

static bool is_below_shadow(const char *path) { return shadow.length && is_below(path, shadow.path, shadow.length); }

static bool is_served(const char *path) { return is_below(path, "/dev", 4) || is_below(path, "/sys", 4); }

/*
 * Add the parts of a path, each with a slash before it, but for empty and `.` ones. With `climbs`, `..` takes away what
 * is before it, which is right where that is no link. False if there is no room.
 */
static bool add_parts(char *whole, size_t *length, const char *path, bool climbs) {
    while (*path) {
        size_t size = strcspn(path, "/");

        if (climbs && size == 2 && path[0] == '.' && path[1] == '.') {
            while (*length && whole[*length - 1] != '/')
                --*length;
            *length -= *length > 0;
        } else if (size && !(size == 1 && path[0] == '.')) {
            if (*length + 1 + size >= PATH_MAX)
                return false;
            whole[(*length)++] = '/';
            memcpy(whole + *length, path, size);
            *length += size;
        }
        path += size;
        path += *path == '/';
    }
    whole[*length] = '\0';
    return true;
}

static bool joined(char *whole, const char *base, const char *path, bool climbs) {
    size_t length = 0;

    return add_parts(whole, &length, base, climbs) && add_parts(whole, &length, path, climbs);
}

/* What /proc says of a descriptor: a path, or something like `socket:[7]`. */
static bool open_file_link(int fd, char link[PATH_MAX]) {
    char name[OPEN_FILE_LINK_BYTES];
    ssize_t length;

    (void)snprintf(name, sizeof(name), OPEN_FILE_LINK, fd);
    length = syscall(SYS_readlinkat, AT_FDCWD, name, link, PATH_MAX - 1);
    if (length < 0)
        return false;
    link[length] = '\0';
    return true;
}

/* Where a relative path begins. */
static bool base_of(int dirfd, char base[PATH_MAX]) {
    if (dirfd == AT_FDCWD)
        return syscall(SYS_getcwd, base, PATH_MAX) > 0 && base[0] == '/';
    return open_file_link(dirfd, base) && base[0] == '/';
}

static bool leads_elsewhere(int fd) {
    struct stat status;
    char path[PATH_MAX];

    if (NEXT(fstat)(fd, &status) || !S_ISDIR(status.st_mode))
        return false;
    if (status.st_ino == elsewhere.inode && status.st_dev == elsewhere.device &&
        status.st_ctim.tv_sec == elsewhere.changed.tv_sec && status.st_ctim.tv_nsec == elsewhere.changed.tv_nsec)
        return true;
    if (!open_file_link(fd, path) || !path[1] || is_served(path) || is_below_shadow(path) ||
        is_below(shadow.path, path, strlen(path)))
        return false;
    elsewhere.device = status.st_dev;
    elsewhere.inode = status.st_ino;
    elsewhere.changed = status.st_ctim;
    return true;
}

bool leave_shadow(char *path) {
    if (!is_below_shadow(path))
        return false;
    if (path[shadow.length])
        memmove(path, path + shadow.length, strlen(path + shadow.length) + 1);
    else
        strcpy(path, "/");
    return true;
}

static bool is_of_server(struct place *place) {
    place->is_shadow = leave_shadow(place->path);
    return place->is_shadow || is_served(place->path);
}

static __attribute__((noinline)) bool find_relative_place(struct place *place, int dirfd, const char *path) {
    char base[PATH_MAX];

    if (dirfd != AT_FDCWD && !strstr(path, "..") && leads_elsewhere(dirfd))
        return false;
    if (!base_of(dirfd, base))
        return false;
    return (joined(place->path, base, path, false) && is_of_server(place)) ||
           (strstr(path, "..") && joined(place->path, base, path, true) && is_of_server(place));
}

static bool find_absolute_place(struct place *place, const char *path) {
    const char *begin = path + strspn(path, "/") - 1;
    bool is_roundabout = strstr(path, "/.");

    if (!is_roundabout && !is_served(begin) && !is_below_shadow(begin))
        return false;
    return (joined(place->path, "", path, false) && is_of_server(place)) ||
           (is_roundabout && joined(place->path, "", path, true) && is_of_server(place));
}

bool find_place(struct place *place, int dirfd, const char *path) {
    int error = errno;
    bool is_found;
    size_t length;

    if (!path || !*path)
        return false;
    look_once();
    is_found = path[0] == '/' ? find_absolute_place(place, path) : find_relative_place(place, dirfd, path);
    if (is_found) {
        length = strlen(path);
        place->is_folder = path[length - 1] == '/' || (length > 1 && strcmp(path + length - 2, "/.") == 0);
    }
    errno = error;
    return is_found;
}

/* Whether it is a socket that waits for connections, as the one behind a served node is. */
static bool is_listening(int fd) {
    int domain = 0, listens = 0;
    socklen_t size = sizeof(int);

    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX &&
           getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 && listens;
}

bool find_open_file(struct place *place, int fd, const struct stat *status) {
    int error = errno;
    bool is_found = false;

    look_once();
    place->is_folder = place->is_shadow = false;
    if (S_ISSOCK(status->st_mode))
        is_found = is_listening(fd) && open_file_link(fd, place->path);
    else if (S_ISREG(status->st_mode) && !status->st_nlink)
        is_found = open_file_link(fd, place->path) && strncmp(place->path, MEMORY_FILE, sizeof(MEMORY_FILE) - 1) == 0;
    else if (shadow.length && status->st_dev == shadow.device && !(S_ISREG(status->st_mode) && status->st_size))
        is_found = open_file_link(fd, place->path) && is_below_shadow(place->path);
    errno = error;
    return is_found;
}

bool is_in_shadow(int fd) {
    struct place place;
    struct stat status;

    return !leads_elsewhere(fd) && NEXT(fstat)(fd, &status) == 0 && find_open_file(&place, fd, &status);
}

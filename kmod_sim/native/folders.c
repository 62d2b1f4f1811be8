/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading folders: opendir(3), scandir(3), glob(3); and being in one: chdir(2), getcwd(3). A served folder is one of
 * the shadow, with real entries; only what kind of file each is, they do not know. Inside libc none of these calls
 * open(2) or opendir(3) by name.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <string.h>
#include <unistd.h>

#include "preload.h"

static DIR *preload_opendir(const char *path) {
    struct place place;
    DIR *folder;
    int fd;

    if (!find_place(&place, AT_FDCWD, path))
        return NEXT(opendir)(path);
    fd = open_served(&place, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd == NOT_OURS)
        return NEXT(opendir)(place.is_shadow ? place.path : path);
    if (fd < 0)
        return NULL;
    folder = fdopendir(fd);
    if (!folder)
        (void)close(fd);
    return folder;
}
EXPORT(opendir, preload_opendir);

/* Who needs to know what a placeholder stands for has to ask. */
static struct dirent *preload_readdir(DIR *folder) {
    struct dirent *entry = NEXT(readdir)(folder);
    int error = errno;

    if (entry && entry->d_type != DT_DIR && is_in_shadow(dirfd(folder)))
        entry->d_type = DT_UNKNOWN;
    errno = error;
    return entry;
}
EXPORT(readdir, preload_readdir);
EXPORT(readdir64, preload_readdir);

typedef int choice(const struct dirent *entry);
typedef int order(const struct dirent **one, const struct dirent **other);

static int preload_scandirat(int dirfd, const char *path, struct dirent ***entries, choice *choose, order *compare) {
    struct place place;
    int fd, count, error;

    if (!find_place(&place, dirfd, path))
        return NEXT(scandirat)(dirfd, path, entries, choose, compare);
    fd = open_served(&place, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd == NOT_OURS)
        return place.is_shadow ? NEXT(scandirat)(AT_FDCWD, place.path, entries, choose, compare)
                               : NEXT(scandirat)(dirfd, path, entries, choose, compare);
    if (fd < 0)
        return -1;
    count = NEXT(scandirat)(fd, ".", entries, choose, compare);
    error = errno;
    (void)close(fd);
    errno = error;
    return count;
}
EXPORT(scandirat, preload_scandirat);
EXPORT(scandirat64, preload_scandirat);

static int preload_scandir(const char *path, struct dirent ***entries, choice *choose, order *compare) {
    return preload_scandirat(AT_FDCWD, path, entries, choose, compare);
}
EXPORT(scandir, preload_scandir);
EXPORT(scandir64, preload_scandir);

static void *open_for_glob(const char *path) { return preload_opendir(path); }

static struct dirent *read_for_glob(void *folder) { return preload_readdir(folder); }

static void close_for_glob(void *folder) { (void)closedir(folder); }

static int preload_glob(const char *pattern, int flags, int (*failed)(const char *path, int error), glob_t *found) {
    int result;

    if (flags & GLOB_ALTDIRFUNC)
        return NEXT(glob)(pattern, flags, failed, found);
    found->gl_opendir = open_for_glob;
    found->gl_readdir = read_for_glob;
    found->gl_closedir = close_for_glob;
    found->gl_lstat = lstat;
    found->gl_stat = stat;
    result = NEXT(glob)(pattern, flags | GLOB_ALTDIRFUNC, failed, found);
    found->gl_flags &= ~GLOB_ALTDIRFUNC;
    return result;
}
EXPORT(glob, preload_glob);
EXPORT(glob64, preload_glob);

static int preload_chdir(const char *path) {
    struct place place;
    int fd, result, error;

    if (!find_place(&place, AT_FDCWD, path))
        return NEXT(chdir)(path);
    fd = open_served(&place, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd == NOT_OURS)
        return NEXT(chdir)(place.is_shadow ? place.path : path);
    if (fd < 0)
        return -1;
    result = fchdir(fd);
    error = errno;
    (void)close(fd);
    errno = error;
    return result;
}
EXPORT(chdir, preload_chdir);

static char *preload_getcwd(char *path, size_t size) {
    path = NEXT(getcwd)(path, size);
    if (path)
        (void)leave_shadow(path);
    return path;
}
EXPORT(getcwd, preload_getcwd);

/* As programs call it that were compiled with _FORTIFY_SOURCE. */
static char *preload_checked_getcwd(char *path, size_t size, size_t room) {
    return preload_getcwd(path, size < room ? size : room);
}
EXPORT(__getcwd_chk, preload_checked_getcwd);

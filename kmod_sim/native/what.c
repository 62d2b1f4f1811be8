/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* What a file is: stat(2) and its kin under all names that they have or had, access(2), readlink(2), attributes. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "preload.h"

/* What a call returns of an answer. */
static int returned(const struct answer *answer) {
    if (answer->outcome == IS_NOT_OURS)
        return NOT_OURS;
    if (answer->outcome == IS_DONE)
        return (int)answer->result;
    errno = (int)answer->result;
    return -1;
}

int status_served(const struct place *place, bool follow, struct stat *status) {
    struct request request = {.operation = OP_STAT, .flags = follow || place->is_folder};
    struct answer answer;
    int result;

    ask(&request, place, &answer, NULL);
    result = returned(&answer);
    if (result == 0 && place->is_folder && !S_ISDIR(answer.status.st_mode)) {
        errno = ENOTDIR;
        return -1;
    }
    if (result == 0)
        *status = answer.status;
    return result;
}

static int status_of_open_file(int fd, struct stat *status) {
    struct request request = {.operation = OP_FSTAT};
    struct answer answer;
    struct place place;
    struct stat real;
    int result;

    if (NEXT(fstat)(fd, &real) || !find_open_file(&place, fd, &real))
        return NOT_OURS;
    ask(&request, &place, &answer, NULL);
    result = returned(&answer);
    if (result == 0)
        *status = answer.status;
    return result;
}

static struct statx_timestamp time_of(struct timespec time) {
    return (struct statx_timestamp){.tv_sec = time.tv_sec, .tv_nsec = (uint32_t)time.tv_nsec};
}

static void fill_statx(struct statx *filled, const struct stat *status) {
    *filled = (struct statx){
        .stx_mask = STATX_BASIC_STATS,
        .stx_blksize = (uint32_t)status->st_blksize,
        .stx_nlink = (uint32_t)status->st_nlink,
        .stx_uid = status->st_uid,
        .stx_gid = status->st_gid,
        .stx_mode = (uint16_t)status->st_mode,
        .stx_ino = status->st_ino,
        .stx_size = (uint64_t)status->st_size,
        .stx_blocks = (uint64_t)status->st_blocks,
        .stx_atime = time_of(status->st_atim),
        .stx_ctime = time_of(status->st_ctim),
        .stx_mtime = time_of(status->st_mtim),
        .stx_rdev_major = major(status->st_rdev),
        .stx_rdev_minor = minor(status->st_rdev),
        .stx_dev_major = major(status->st_dev),
        .stx_dev_minor = minor(status->st_dev),
    };
}

static int preload_fstat(int fd, struct stat *filled) {
    int result = status_of_open_file(fd, filled);

    return result == NOT_OURS ? NEXT(fstat)(fd, filled) : result;
}
EXPORT(fstat, preload_fstat);
EXPORT(fstat64, preload_fstat);

static int preload_fstatat(int dirfd, const char *path, struct stat *filled, int flags) {
    struct place place;
    int result;

    if (path && !*path && flags & AT_EMPTY_PATH && dirfd != AT_FDCWD)
        return preload_fstat(dirfd, filled);
    if (!find_place(&place, dirfd, path))
        return NEXT(fstatat)(dirfd, path, filled, flags);
    result = status_served(&place, !(flags & AT_SYMLINK_NOFOLLOW), filled);
    if (result == NOT_OURS)
        return place.is_shadow ? NEXT(fstatat)(AT_FDCWD, place.path, filled, flags)
                               : NEXT(fstatat)(dirfd, path, filled, flags);
    return result;
}
EXPORT(fstatat, preload_fstatat);
EXPORT(fstatat64, preload_fstatat);

static int preload_stat(const char *path, struct stat *filled) { return preload_fstatat(AT_FDCWD, path, filled, 0); }
EXPORT(stat, preload_stat);
EXPORT(stat64, preload_stat);

static int preload_lstat(const char *path, struct stat *filled) {
    return preload_fstatat(AT_FDCWD, path, filled, AT_SYMLINK_NOFOLLOW);
}
EXPORT(lstat, preload_lstat);
EXPORT(lstat64, preload_lstat);

/* As programs call them that were linked with a glibc before 2.33. All versions of the structure are one here. */
static int preload_fxstat(int version, int fd, struct stat *filled) {
    (void)version;
    return preload_fstat(fd, filled);
}
EXPORT(__fxstat, preload_fxstat);
EXPORT(__fxstat64, preload_fxstat);

static int preload_fxstatat(int version, int dirfd, const char *path, struct stat *filled, int flags) {
    (void)version;
    return preload_fstatat(dirfd, path, filled, flags);
}
EXPORT(__fxstatat, preload_fxstatat);
EXPORT(__fxstatat64, preload_fxstatat);

static int preload_xstat(int version, const char *path, struct stat *filled) {
    (void)version;
    return preload_stat(path, filled);
}
EXPORT(__xstat, preload_xstat);
EXPORT(__xstat64, preload_xstat);

static int preload_lxstat(int version, const char *path, struct stat *filled) {
    (void)version;
    return preload_lstat(path, filled);
}
EXPORT(__lxstat, preload_lxstat);
EXPORT(__lxstat64, preload_lxstat);

static int preload_statx(int dirfd, const char *path, int flags, unsigned mask, struct statx *filled) {
    struct place place;
    struct stat status;
    int result;

    if (path && !*path && flags & AT_EMPTY_PATH && dirfd != AT_FDCWD) {
        result = status_of_open_file(dirfd, &status);
        if (result == NOT_OURS)
            return NEXT(statx)(dirfd, path, flags, mask, filled);
    } else {
        if (!find_place(&place, dirfd, path))
            return NEXT(statx)(dirfd, path, flags, mask, filled);
        result = status_served(&place, !(flags & AT_SYMLINK_NOFOLLOW), &status);
        if (result == NOT_OURS)
            return place.is_shadow ? NEXT(statx)(AT_FDCWD, place.path, flags, mask, filled)
                                   : NEXT(statx)(dirfd, path, flags, mask, filled);
    }
    if (result == 0)
        fill_statx(filled, &status);
    return result;
}
EXPORT(statx, preload_statx);

static int access_served(const struct place *place, int mode) {
    struct request request = {.operation = OP_ACCESS, .flags = (uint32_t)mode};
    struct answer answer;

    ask(&request, place, &answer, NULL);
    return returned(&answer);
}

static int preload_faccessat(int dirfd, const char *path, int mode, int flags) {
    struct place place;
    int result;

    if (!find_place(&place, dirfd, path))
        return NEXT(faccessat)(dirfd, path, mode, flags);
    result = access_served(&place, mode);
    if (result == NOT_OURS)
        return place.is_shadow ? NEXT(faccessat)(AT_FDCWD, place.path, mode, flags)
                               : NEXT(faccessat)(dirfd, path, mode, flags);
    return result;
}
EXPORT(faccessat, preload_faccessat);

static int preload_access(const char *path, int mode) { return preload_faccessat(AT_FDCWD, path, mode, 0); }
EXPORT(access, preload_access);

static int preload_eaccess(const char *path, int mode) { return preload_faccessat(AT_FDCWD, path, mode, AT_EACCESS); }
EXPORT(eaccess, preload_eaccess);
EXPORT(euidaccess, preload_eaccess);

static ssize_t preload_readlinkat(int dirfd, const char *path, char *text, size_t size) {
    struct request request = {.operation = OP_READLINK};
    struct answer answer;
    struct place place;
    ssize_t length;

    if (!find_place(&place, dirfd, path))
        return NEXT(readlinkat)(dirfd, path, text, size);
    ask(&request, &place, &answer, NULL);
    length = returned(&answer);
    if (length == NOT_OURS)
        return place.is_shadow ? NEXT(readlinkat)(AT_FDCWD, place.path, text, size)
                               : NEXT(readlinkat)(dirfd, path, text, size);
    if (length > (ssize_t)size)
        length = (ssize_t)size;
    if (length > 0)
        memcpy(text, answer.text, (size_t)length);
    return length;
}
EXPORT(readlinkat, preload_readlinkat);

static ssize_t preload_readlink(const char *path, char *text, size_t size) {
    return preload_readlinkat(AT_FDCWD, path, text, size);
}
EXPORT(readlink, preload_readlink);

/* As programs call them that were compiled with _FORTIFY_SOURCE. The room was checked by the compiler, or is here. */
static ssize_t preload_checked_readlinkat(int dirfd, const char *path, char *text, size_t size, size_t room) {
    return preload_readlinkat(dirfd, path, text, size < room ? size : room);
}
EXPORT(__readlinkat_chk, preload_checked_readlinkat);

static ssize_t preload_checked_readlink(const char *path, char *text, size_t size, size_t room) {
    return preload_checked_readlinkat(AT_FDCWD, path, text, size, room);
}
EXPORT(__readlink_chk, preload_checked_readlink);

/* Whether it is a file of the server's: those have no extended attributes. */
static bool has_no_attributes(const char *path, bool follow) {
    struct place place;
    struct stat status;
    int error = errno;
    bool is_served = find_place(&place, AT_FDCWD, path) && status_served(&place, follow, &status) == 0;

    errno = error;
    return is_served;
}

static ssize_t preload_getxattr(const char *path, const char *name, void *value, size_t size) {
    if (!has_no_attributes(path, true))
        return NEXT(getxattr)(path, name, value, size);
    errno = ENODATA;
    return -1;
}
EXPORT(getxattr, preload_getxattr);

static ssize_t preload_lgetxattr(const char *path, const char *name, void *value, size_t size) {
    if (!has_no_attributes(path, false))
        return NEXT(lgetxattr)(path, name, value, size);
    errno = ENODATA;
    return -1;
}
EXPORT(lgetxattr, preload_lgetxattr);

static ssize_t preload_listxattr(const char *path, char *names, size_t size) {
    return has_no_attributes(path, true) ? 0 : NEXT(listxattr)(path, names, size);
}
EXPORT(listxattr, preload_listxattr);

static ssize_t preload_llistxattr(const char *path, char *names, size_t size) {
    return has_no_attributes(path, false) ? 0 : NEXT(llistxattr)(path, names, size);
}
EXPORT(llistxattr, preload_llistxattr);

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* What programs see of a device's files: looks CASE. */
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "toy.h"

typedef int stat_function(int version, const char *path, struct stat *status);
typedef int fstat_function(int version, int fd, struct stat *status);

static bool is_node(const struct stat *status) {
    return S_ISCHR(status->st_mode) && major(status->st_rdev) >= 234 && minor(status->st_rdev) == 0 &&
           status->st_uid == geteuid() && status->st_ino && status->st_nlink == 1 && status->st_size == 0 &&
           status->st_mtim.tv_sec > 1000000000;
}

static bool is_node_x(const struct statx *status) {
    return S_ISCHR(status->stx_mode) && status->stx_rdev_major >= 234 && status->stx_rdev_minor == 0 &&
           status->stx_uid == geteuid() && status->stx_nlink == 1 && (status->stx_mask & STATX_BASIC_STATS) &&
           status->stx_mtime.tv_sec > 1000000000;
}

static void node(void) {
    int fd = open(NODE, O_RDWR), dev = open("/dev", O_RDONLY | O_DIRECTORY);
    stat_function *old_stat = (stat_function *)dlsym(RTLD_DEFAULT, "__xstat");
    fstat_function *old_fstat = (fstat_function *)dlsym(RTLD_DEFAULT, "__fxstat");
    struct stat status, again;
    struct statx status_x;

    CHECK(stat(NODE, &status) == 0 && is_node(&status));
    CHECK(lstat(NODE, &again) == 0 && memcmp(&status, &again, sizeof(status)) == 0);
    CHECK(fstat(fd, &again) == 0 && memcmp(&status, &again, sizeof(status)) == 0);
    CHECK(fstatat(fd, "", &again, AT_EMPTY_PATH) == 0 && memcmp(&status, &again, sizeof(status)) == 0);
    CHECK(fstatat(dev, "toy0", &again, 0) == 0 && memcmp(&status, &again, sizeof(status)) == 0);
    CHECK(old_stat(1, NODE, &again) == 0 && memcmp(&status, &again, sizeof(status)) == 0);
    CHECK(old_fstat(1, fd, &again) == 0 && memcmp(&status, &again, sizeof(status)) == 0);
    CHECK(statx(AT_FDCWD, NODE, 0, STATX_BASIC_STATS, &status_x) == 0 && is_node_x(&status_x));
    CHECK(status_x.stx_ino == status.st_ino && status_x.stx_rdev_major == major(status.st_rdev));
    CHECK(statx(dev, "toy0", AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &status_x) == 0 && is_node_x(&status_x));
    CHECK(statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &status_x) == 0 && is_node_x(&status_x));
    CHECK_FAILS(stat(NODE "/", &status), ENOTDIR);
    CHECK_FAILS(stat("/dev/toy1", &status), ENOENT);
    CHECK(access(NODE, R_OK | W_OK) == 0 && eaccess(NODE, R_OK) == 0 && faccessat(dev, "toy0", F_OK, 0) == 0);
    CHECK_FAILS(access(NODE, X_OK), EACCES);
    CHECK_FAILS(access("/dev/toy1", F_OK), ENOENT);
    CHECK_FAILS(readlink(NODE, (char *)&status, 1), EINVAL);
    CHECK_FAILS(getxattr(NODE, "security.selinux", NULL, 0), ENODATA);
    CHECK_FAILS(lgetxattr(NODE, "system.posix_acl_access", NULL, 0), ENODATA);
    CHECK(listxattr(NODE, NULL, 0) == 0 && llistxattr(NODE, NULL, 0) == 0);
    CHECK(stat("/dev/null", &status) == 0 && S_ISCHR(status.st_mode) && major(status.st_rdev) == 1);
    CHECK(fstatat(dev, "null", &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISCHR(status.st_mode));
    CHECK(statx(dev, "null", AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &status_x) == 0 && S_ISCHR(status_x.stx_mode));
    CHECK(faccessat(dev, "null", R_OK, 0) == 0);
}

static void attribute(void) {
    char text[64] = "", path[PATH_MAX];
    struct stat status;
    FILE *file = fopen(FOLDER "/dev", "re");
    int fd;

    CHECK(file != NULL && fcntl(fileno(file), F_GETFD) == FD_CLOEXEC);
    CHECK(fgets(text, sizeof(text), file) != NULL && strchr(text, ':') && text[strlen(text) - 1] == '\n');
    CHECK(fstat(fileno(file), &status) == 0 && S_ISREG(status.st_mode) && status.st_size == 4096);
    (void)fclose(file);
    CHECK(fopen(FOLDER "/none", "r") == NULL && errno == ENOENT);
    CHECK(stat(FOLDER "/dev", &status) == 0 && S_ISREG(status.st_mode) && (status.st_mode & 0777) == 0444);
    fd = open(FOLDER, O_RDONLY | O_DIRECTORY);
    CHECK(fd >= 0 && fstat(fd, &status) == 0 && S_ISDIR(status.st_mode));
    CHECK(openat(fd, "uevent", O_RDONLY) >= 0);
    CHECK(openat(fd, "subsystem/toy0/dev", O_RDONLY) >= 0);
    CHECK(readlink(FOLDER, text, sizeof(text)) == (ssize_t)strlen("../../devices/virtual/toys/toy0"));
    CHECK(strcmp(text, "../../devices/virtual/toys/toy0") == 0);
    memset(text, '#', sizeof(text));
    CHECK(readlink(FOLDER, text, 5) == 5 && memcmp(text, "../..#", 6) == 0);
    CHECK(lstat(FOLDER, &status) == 0 && S_ISLNK(status.st_mode));
    CHECK(lstat(FOLDER "/", &status) == 0 && S_ISDIR(status.st_mode));
    CHECK(chdir(FOLDER) == 0);
    CHECK((file = fopen("dev", "r")) != NULL && fgets(text, sizeof(text), file) != NULL && fclose(file) == 0);
    CHECK(stat("uevent", &status) == 0 && status.st_size == 4096);
    CHECK(getcwd(path, sizeof(path)) != NULL && strcmp(path, "/sys/devices/virtual/toys/toy0") == 0);
    CHECK(realpath("dev", path) != NULL && strcmp(path, "/sys/devices/virtual/toys/toy0/dev") == 0);
    CHECK(chdir("..") == 0 && stat("toy0/uevent", &status) == 0);
    CHECK(strcmp(realpath(FOLDER "/subsystem/.", NULL), "/sys/class/toys") == 0);
    CHECK(realpath("/sys/class/toys/none", NULL) == NULL && errno == ENOENT);
    CHECK(strcmp(realpath("/dev/null", NULL), "/dev/null") == 0);
    CHECK(strcmp(canonicalize_file_name("/usr/./bin/.."), "/usr") == 0);
    CHECK_FAILS(chdir(FOLDER "/dev"), ENOTDIR);
    CHECK(chdir("/sys/kernel") == 0 && chdir("/") == 0);
}

static int name_is_toy(const struct dirent *entry) { return strcmp(entry->d_name, "toy0") == 0; }

/* Which of two names a folder has. */
static int names_in(DIR *folder, const char *one, const char *other) {
    const struct dirent *entry;
    int found = 0;

    CHECK(folder != NULL);
    while ((entry = readdir(folder)))
        found |= (strcmp(entry->d_name, one) == 0 ? 1 : 0) | (strcmp(entry->d_name, other) == 0 ? 2 : 0);
    (void)closedir(folder);
    return found;
}

static void folders(void) {
    struct dirent **entries;
    const struct dirent *entry;
    glob_t found = {0};
    DIR *dev;

    CHECK(names_in(opendir("/dev"), "toy0", "null") == 3);
    CHECK(names_in(fdopendir(open("/dev", O_RDONLY | O_DIRECTORY)), "toy0", "null") == 3);
    CHECK(names_in(opendir("/sys/class"), "toys", "mem") == 3);
    CHECK(names_in(opendir(FOLDER "/"), "dev", "uevent") == 3);
    CHECK(opendir(FOLDER "/dev") == NULL && errno == ENOTDIR);
    dev = opendir("/dev");
    while ((entry = readdir(dev)))
        CHECK(entry->d_type == DT_UNKNOWN || entry->d_type == DT_DIR);
    CHECK(scandir("/dev", &entries, name_is_toy, alphasort) == 1);
    CHECK(chdir("/sys/class/toys") == 0 && scandir(".", &entries, name_is_toy, alphasort) == 1);
    CHECK(glob("/dev/toy*", 0, NULL, &found) == 0 && found.gl_pathc == 1 && strcmp(found.gl_pathv[0], NODE) == 0);
    CHECK(glob("/d*v/n?ll", GLOB_APPEND, NULL, &found) == 0 && found.gl_pathc == 2);
    CHECK(strcmp(found.gl_pathv[1], "/dev/null") == 0 && !(found.gl_flags & GLOB_ALTDIRFUNC));
    CHECK(glob("/sys/class/*/toy0/ue*", 0, NULL, &found) == 0 && found.gl_pathc == 1);
    CHECK(glob("/usr/b?n", 0, NULL, &found) == 0 && found.gl_pathc == 1);
    CHECK(glob("/dev/toy[1-9]", 0, NULL, &found) == GLOB_NOMATCH);
}

int main(int count, char **arguments) {
    CHECK(count == 2);
    if (strcmp(arguments[1], "node") == 0)
        node();
    if (strcmp(arguments[1], "attribute") == 0)
        attribute();
    if (strcmp(arguments[1], "folders") == 0)
        folders();
    return 0;
}

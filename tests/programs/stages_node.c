/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* The node as a file: found, opened, asked who is behind it, and all that one cannot do with it. */
#include "user.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

void stage_glob(void) {
    glob_t found;
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): there is one thread */
    int error = glob("/dev/azihsm*", 0, NULL, &found);
    if (error != 0) {
        say("nothing found: %d", error);
        return;
    }
    for (size_t i = 0; i < found.gl_pathc; i++) {
        struct ihsm_device_info info;
        int fd = open_path(found.gl_pathv[i], O_RDWR);
        say("%s, opened: %s, device information: %s", found.gl_pathv[i], named(fd < 0 ? fd : 0),
            named(device_info(fd, &info)));
        close(fd);
    }
    globfree(&found);
}

static bool all_bytes(const void *memory, uint8_t value, size_t size) {
    const uint8_t *bytes = memory;
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != value)
            return false;
    return true;
}

static const char *yes(bool is_so) { return is_so ? "yes" : "no"; }

static void show_information(const struct ihsm_device_info *info) {
    char folder[128];
    unsigned part[4];
    int used = 0;
    int parts = sscanf(info->pci_info, "%4x:%2x:%2x.%1u%n", &part[0], &part[1], &part[2], &part[3], &used);
    say("driver %.16s, argsz %u", info->driver_rev, info->argsz);
    say("names a PCI function: %s", yes(parts == 4 && used == 12 && info->pci_info[used] == '\0'));
    (void)snprintf(folder, sizeof folder, "/sys/bus/pci/devices/%.32s", info->pci_info);
    say("which is in sysfs: %s", named(result_of(access(folder, F_OK))));
    say("serial number without NUL: %s, NUL behind it: %s", yes(memchr(info->serial_num, 0, 32) == NULL),
        yes(info->serial_num[32] == '\0'));
    say("NUL behind the firmware's revision: %s", yes(info->firmware_rev[32] == '\0'));
    say("model number empty: %s", yes(all_bytes(info->model_num, 0, sizeof info->model_num)));
    say("entropy: %s", yes(!all_bytes(info->device_entropy, info->device_entropy[0], sizeof info->device_entropy)));
    say("bytes that are nobody's stay: %s",
        yes(all_bytes(info->reserved_126, KEPT, sizeof info->reserved_126) && info->reserved_175[0] == KEPT));
}

void stage_device_info(void) {
    int fd = ready_node();
    struct ihsm_device_info info;
    struct ihsm_device_info again;
    long result = device_info(fd, &info);
    say("%s", named(result));
    show_information(&info);
    (void)device_info(fd, &again);
    say("the same the second time: %s", yes(memcmp(&info, &again, sizeof info) == 0));

    info.argsz = sizeof info - 1;
    say("argsz too small: %s", named(call(fd, IHSM_IOCTL_GET_DEV_INFO, &info)));
    info.argsz = UINT32_MAX;
    say("argsz too large: %s", named(call(fd, IHSM_IOCTL_GET_DEV_INFO, &info)));
    say("no structure: %s", named(call(fd, IHSM_IOCTL_GET_DEV_INFO, NULL)));
    say("a structure of the kernel: %s", named(call(fd, IHSM_IOCTL_GET_DEV_INFO, (void *)KERNEL_HALF)));
    /* The driver copies 175 of 176 bytes. */
    uint8_t *pages = edge_pages();
    uint8_t *last = pages + PAGE - IHSM_DEVICE_INFO_COPIED;
    memcpy(last, &again, IHSM_DEVICE_INFO_COPIED);
    say("175 bytes before memory ends: %s", named(call(fd, IHSM_IOCTL_GET_DEV_INFO, last)));
    memmove(last + 1, last, IHSM_DEVICE_INFO_COPIED - 1);
    say("174 bytes: %s", named(call(fd, IHSM_IOCTL_GET_DEV_INFO, last + 1)));
    memcpy(pages, &again, sizeof again);
    if (mprotect(pages, PAGE, PROT_READ) != 0)
        fail("mprotect: %s", named(-errno));
    say("memory that cannot be written: %s", named(call(fd, IHSM_IOCTL_GET_DEV_INFO, pages)));
    munmap(pages, 2 * (size_t)PAGE);
    say("closed: %s", named(result_of(close(fd))));
    say("after that: %s", named(device_info(fd, &info)));
}

static void show_numbers_of_linux(int fd) {
    int value = 1;
    long result = call(fd, FIOCLEX, NULL);
    say("FIOCLEX: %s, close on exec: %s", named(result), yes(fcntl(fd, F_GETFD) & FD_CLOEXEC));
    result = call(fd, FIONCLEX, NULL);
    say("FIONCLEX: %s, close on exec: %s", named(result), yes(fcntl(fd, F_GETFD) & FD_CLOEXEC));
    result = call(fd, FIONBIO, &value);
    say("FIONBIO: %s, non-blocking: %s", named(result), yes(fcntl(fd, F_GETFL) & O_NONBLOCK));
    say("FIOASYNC: %s", named(call(fd, FIOASYNC, &value)));
    say("FIONREAD: %s", named(call(fd, FIONREAD, &value)));
    say("a terminal: %s", named(isatty(fd) ? 1 : -errno));
}

void stage_numbers(void) {
    static const struct {
        const char *what;
        unsigned long number;
    } refused[] = {
        {"of older programs", IHSM_IOCTL_GENERIC},
        {"test hooks", IHSM_IOCTL_GET_TEST_HOOKS},
        {"management", IHSM_IOCTL_SET_RES_CNT},
        {"management", IHSM_IOCTL_GET_RES_CNT},
        {"management", IHSM_IOCTL_GET_VF_COUNT},
        {"management", IHSM_IOCTL_MGMT_GET_DEV_INFO},
        {"a byte less", IHSM_IOCTL_GET_DEV_INFO - (1 << 16)},
        {"a byte more", IHSM_IOCTL_GET_DEV_INFO + (1 << 16)},
        {"reads only", IHSM_IOCTL_GET_DEV_INFO & 0xBFFFFFFF},
        {"another type", IHSM_IOCTL_GET_DEV_INFO + 0x100},
        {"zero", 0},
    };
    union {
        struct ihsm_device_info info;
        uint8_t bytes[512];
    } buffer;
    int fd = ready_node();
    memset(&buffer, KEPT, sizeof buffer);
    for (size_t i = 0; i < COUNT(refused); i++)
        say("%s (%#lx): %s", refused[i].what, refused[i].number, named(call(fd, refused[i].number, &buffer)));
    say("the buffer stays: %s", yes(all_bytes(&buffer, KEPT, sizeof buffer)));
    /* Linux takes 32 bits of the number: those above are what a sign extension has left. */
    buffer.info.argsz = sizeof buffer.info;
    uint64_t number = IHSM_IOCTL_GET_DEV_INFO;
    say("sign extended: %s", named(call(fd, number | 0xFFFFFFFF00000000, &buffer)));
    say("bits above: %s", named(call(fd, number | 0x100000000, &buffer)));
    say("without libc's function: %s", named(result_of(syscall(SYS_ioctl, fd, number, &buffer))));
    show_numbers_of_linux(fd);
    close(fd);
}

void stage_files(void) {
    char byte = 0;
    int fd = ready_node();
    struct stat by_fd;
    struct stat by_path;
    if (fstat(fd, &by_fd) != 0 || stat(options.node, &by_path) != 0)
        fail("stat: %s", named(-errno));
    say("a character device by descriptor: %s, by path: %s", yes(S_ISCHR(by_fd.st_mode)),
        yes(S_ISCHR(by_path.st_mode)));
    say("the same number: %s, the same inode: %s", yes(by_fd.st_rdev == by_path.st_rdev && by_fd.st_rdev != 0),
        yes(by_fd.st_ino == by_path.st_ino && by_fd.st_dev == by_path.st_dev));
    say("for reading and writing: %s", yes((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR));
    say("close on exec: %s", yes(fcntl(fd, F_GETFD) & FD_CLOEXEC));
    say("read: %s", named(result_of(read(fd, &byte, 1))));
    say("write fails: %s", yes(write(fd, &byte, 1) < 0));
    say("lseek: %s", named(result_of(lseek(fd, 0, SEEK_SET))));
    void *mapped = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    say("mmap: %s", named(mapped == MAP_FAILED ? -errno : 0));
    say("ftruncate: %s", named(result_of(ftruncate(fd, 0))));
    say("fsync: %s", named(result_of(fsync(fd))));
    char folder[256];
    say("getdents: %s", named(result_of(syscall(SYS_getdents64, fd, folder, sizeof folder))));
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN | POLLOUT};
    long ready = result_of(poll(&poll_fd, 1, 0));
    say("poll: %s, readable: %s, writable: %s", named(ready), yes(poll_fd.revents & POLLIN),
        yes(poll_fd.revents & POLLOUT));
    close(fd);
    fd = open_path(options.node, O_RDONLY);
    struct ihsm_device_info info;
    say("opened for reading alone: %s, device information: %s", named(fd < 0 ? fd : 0), named(device_info(fd, &info)));
    close(fd);
}

/* Whether what a path or descriptor leads to answers as the node does. */
static const char *is_node(int fd) {
    struct ihsm_device_info info;
    long result = fd < 0 ? fd : device_info(fd, &info);
    if (fd >= 0)
        close(fd);
    return named(result);
}

static void show_links(const char *name) {
    char folder[] = "/tmp/chardev_user.XXXXXX";
    char link[64];
    char target[64];
    struct stat about;
    if (mkdtemp(folder) == NULL)
        fail("mkdtemp: %s", named(-errno));
    (void)snprintf(link, sizeof link, "%s/node", folder);
    (void)snprintf(target, sizeof target, "/dev/%s", name);
    if (symlink(target, link) != 0)
        fail("symlink: %s", named(-errno));
    say("a link to it: %s", is_node(open_path(link, O_RDWR)));
    say("its kind: %s", lstat(link, &about) == 0 && S_ISLNK(about.st_mode) ? "a link" : "none");
    say("the kind of what it leads to: %s", stat(link, &about) == 0 && S_ISCHR(about.st_mode) ? "a device" : "none");
    say("with O_NOFOLLOW: %s", is_node(open_path(link, O_RDWR | O_NOFOLLOW)));
    (void)unlink(link);
    (void)rmdir(folder);
}

void stage_paths(void) {
    const char *name = strrchr(options.node, '/') + 1;
    char path[128];
    char text[8];
    struct stat about = {0};
    struct statx extended = {0};
    long result = result_of(lstat(options.node, &about));
    say("lstat: %s, a character device: %s", named(result), yes(S_ISCHR(about.st_mode)));
    result = result_of(statx(AT_FDCWD, options.node, 0, STATX_BASIC_STATS, &extended));
    say("statx: %s, a character device: %s", named(result), yes(S_ISCHR(extended.stx_mode)));
    say("access: %s", named(result_of(access(options.node, R_OK | W_OK))));
    say("to execute: %s", named(result_of(access(options.node, X_OK))));
    say("readlink: %s", named(result_of(readlink(options.node, text, sizeof text))));
    say("O_CREAT and O_EXCL: %s", is_node(open_path(options.node, O_RDWR | O_CREAT | O_EXCL)));
    say("O_DIRECTORY: %s", is_node(open_path(options.node, O_RDONLY | O_DIRECTORY)));
    say("O_NOFOLLOW: %s", is_node(open_path(options.node, O_RDWR | O_NOFOLLOW)));
    say("O_TRUNC: %s", is_node(open_path(options.node, O_RDWR | O_TRUNC)));
    (void)snprintf(path, sizeof path, "/dev/%s/", name);
    say("with a slash behind: %s", is_node(open_path(path, O_RDWR)));
    (void)snprintf(path, sizeof path, "/dev/%s/x", name);
    say("a file below it: %s", is_node(open_path(path, O_RDWR)));
    (void)snprintf(path, sizeof path, "/dev/%s7", name);
    say("one that is not there: %s", is_node(open_path(path, O_RDWR)));
    (void)snprintf(path, sizeof path, "//dev/.//../dev/%s", name);
    say("a path with detours: %s", is_node(open_path(path, O_RDWR)));
    (void)snprintf(path, sizeof path, "/tmp/../dev/%s", name);
    say("one that begins elsewhere: %s", is_node(open_path(path, O_RDWR)));
    int folder = open_path("/dev", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    say("by openat: %s", is_node((int)result_of(openat(folder, name, O_RDWR))));
    close(folder);
    char *before = getcwd(NULL, 0);
    if (chdir("/dev") != 0)
        fail("chdir: %s", named(-errno));
    say("by a name in the current folder: %s", is_node(open_path(name, O_RDWR)));
    if (before == NULL || chdir(before) != 0)
        fail("chdir: %s", named(-errno));
    free(before);
    show_links(name);
}

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Commands without a session, wrong ones, resets, and what sysfs counts. */
#include "user.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { UNALIGNED = 13, TOO_LONG_FOR_THE_DEVICE = 4097, TOO_LONG_FOR_ITS_BUFFERS = 3585 };

static uint8_t response[IHSM_MAX_DST_LENGTH];

/* A GetApiRev to change: what it answers to that is `show`n. */
static struct ihsm_generic_ioctl usual(void) {
    struct ihsm_generic_ioctl command;
    memset(response, KEPT, sizeof response);
    fill_command(&command, get_api_rev, sizeof get_api_rev, response, sizeof response);
    command.ctxt = 0x0123456789ABCDEF;
    return command;
}

static const char *kept_or(uint32_t value) {
    static char text[3][16];
    static unsigned next;
    char *place = text[next++ % COUNT(text)];
    (void)snprintf(place, sizeof text[0], value == 0xEEEEEEEE ? "kept" : "%#x", value);
    return place;
}

static void show(const char *what, int fd, struct ihsm_generic_ioctl *command) {
    long result = call(fd, IHSM_IOCTL_GENERIC_SESSION, command);
    say("%s: %s, status %s, bytes %s, extended status %s", what, named(result), kept_or(command->status),
        kept_or(command->byte_count), kept_or(command->extended_status));
}

/* What the answer is, and whether the byte behind it is as before. */
static void show_answer(const struct ihsm_generic_ioctl *command) {
    char text[2 * 64 + 1] = "";
    size_t size = command->byte_count;
    if (size >= COUNT(text) / 2) {
        say("an answer of %zu bytes", size);
        return;
    }
    for (size_t i = 0; i < size; i++)
        (void)snprintf(text + 2 * i, 3, "%02x", response[i]);
    say("the answer: %s, the byte behind: %s", text, response[size] == KEPT ? "kept" : "changed");
}

void stage_commands(void) {
    int fd = ready_node();
    struct ihsm_generic_ioctl command = usual();
    show("GetApiRev", fd, &command);
    show_answer(&command);
    say("as declared: %s, context: %s",
        memcmp(response, get_api_rev_answer, sizeof get_api_rev_answer) == 0 ? "yes" : "no",
        command.out_ctxt == command.ctxt ? "returned" : "not returned");

    command = usual();
    command.src_buf = (uintptr_t)get_device_info;
    command.src_length = sizeof get_device_info;
    show("GetDeviceInfo", fd, &command);
    show_answer(&command);

    /* Request and answer across the end of a page, at odd addresses. */
    uint8_t *pages = pages_with(4 * (size_t)PAGE, PROT_READ | PROT_WRITE);
    uint8_t *request = pages + PAGE - UNALIGNED;
    uint8_t *answer = pages + 3 * (size_t)PAGE - UNALIGNED;
    memcpy(request, get_api_rev, sizeof get_api_rev);
    fill_command(&command, request, sizeof get_api_rev, answer, PAGE);
    show("across pages", fd, &command);
    say("the answer there: %s", memcmp(answer, get_api_rev_answer, sizeof get_api_rev_answer) == 0 ? "right" : "wrong");
    munmap(pages, 4 * (size_t)PAGE);

    command = usual();
    command.dst_length = 5;
    show("room for five bytes", fd, &command);
    show_answer(&command);
    command = usual();
    command.hdr.szioctldata = UINT32_MAX;
    command.psdt = 1;
    show("a large size, psdt 1", fd, &command);
    close(fd);
}

/* What the driver lets through and the device refuses. */
static void show_refused_by_the_device(int fd) {
    static uint8_t zeros[IHSM_MAX_SRC_LENGTH];
    struct ihsm_generic_ioctl command = usual();
    command.src_buf = (uintptr_t)zeros;
    command.src_length = TOO_LONG_FOR_THE_DEVICE;
    show("too long for the device", fd, &command);
    command = usual();
    command.src_buf = (uintptr_t)zeros;
    command.src_length = TOO_LONG_FOR_ITS_BUFFERS;
    show("too long for its buffers", fd, &command);
    command = usual();
    command.src_length = 0;
    command.src_buf = 0;
    show("no request", fd, &command);
    command = usual();
    command.dst_length = 0;
    command.dst_buf = 0;
    show("no room for an answer", fd, &command);
    command = usual();
    command.opc = 5;
    show("opcode 5", fd, &command);
    command = usual();
    command.src_buf = (uintptr_t)zeros;
    show("no message", fd, &command);
    show_answer(&command);
}

static void show_refused_by_the_driver(int fd) {
    struct ihsm_generic_ioctl command = usual();
    command.cmdset = 1;
    show("command set 1", fd, &command);
    command = usual();
    command.src_length = IHSM_MAX_SRC_LENGTH + 1;
    show("request too long", fd, &command);
    command = usual();
    command.dst_length = IHSM_MAX_DST_LENGTH + 1;
    show("room too large", fd, &command);
    command = usual();
    command.src_length = 0;
    show("request without length", fd, &command);
    command = usual();
    command.src_buf = 0;
    show("request without address", fd, &command);
    command = usual();
    command.dst_length = 0;
    show("room without length", fd, &command);
    command = usual();
    command.dst_buf = 0;
    show("room without address", fd, &command);
    command = usual();
    set_session(&command, IHSM_CONTROL_KIND_CLOSE, true, 0);
    show("close without a session", fd, &command);
    command = usual();
    set_session(&command, IHSM_CONTROL_KIND_IN_SESSION, true, 0);
    show("in-session without a session", fd, &command);
}

static void show_bad_addresses(int fd) {
    uint8_t *pages = edge_pages();
    struct ihsm_generic_ioctl command = usual();
    command.src_buf = KERNEL_HALF;
    show("request of the kernel's", fd, &command);
    command = usual();
    command.dst_buf = NO_PROGRAM;
    show("room of nobody's", fd, &command);
    command = usual();
    command.src_buf = (uintptr_t)pages + PAGE;
    show("request that is not there", fd, &command);
    command = usual();
    command.src_buf = (uintptr_t)pages + PAGE - 1;
    show("request that ends too early", fd, &command);
    command = usual();
    command.dst_buf = (uintptr_t)pages + PAGE;
    show("room that is not there", fd, &command);
    command = usual();
    command.dst_buf = (uintptr_t)pages + PAGE - sizeof get_api_rev_answer;
    show("just enough room", fd, &command);

    struct ihsm_generic_ioctl *last = (struct ihsm_generic_ioctl *)(pages + PAGE - sizeof *last);
    *last = usual();
    show("structure before memory ends", fd, last);
    memset(pages + PAGE - 104, 0xFF, 104); /* the size is large enough, and the rest is not there */
    say("structure across it: %s", named(call(fd, IHSM_IOCTL_GENERIC_SESSION, pages + PAGE - 104)));
    say("no structure: %s", named(call(fd, IHSM_IOCTL_GENERIC_SESSION, NULL)));
    *(struct ihsm_generic_ioctl *)pages = usual();
    if (mprotect(pages, PAGE, PROT_READ) != 0)
        fail("mprotect: %s", named(-errno));
    say("structure that cannot be written: %s", named(call(fd, IHSM_IOCTL_GENERIC_SESSION, pages)));
    munmap(pages, 2 * (size_t)PAGE);
}

void stage_wrong_commands(void) {
    int fd = ready_node();
    show_refused_by_the_device(fd);
    show_refused_by_the_driver(fd);
    show_bad_addresses(fd);
    struct ihsm_generic_ioctl command = usual();
    command.hdr.szioctldata = sizeof command - 1;
    show("structure too small", fd, &command);
    say("its size after that: %u", command.hdr.szioctldata);
    command = usual();
    show("a right one", fd, &command);
    close(fd);
}

void stage_wrong_aes(void) {
    static uint8_t data[64];
    struct ihsm_gcm_ioctl command;
    int fd = ready_node();
    say("no structure: %s, %s", named(call(fd, IHSM_IOCTL_AES_GCM, NULL)), named(call(fd, IHSM_IOCTL_AES_XTS, NULL)));
    memset(&command, KEPT, sizeof command);
    command.hdr.szioctldata = sizeof command - 1;
    long result = call(fd, IHSM_IOCTL_AES_GCM, &command);
    say("structure too small: %s, extended status %s", named(result), kept_or(command.extended_status));
    memset(&command, 0, sizeof command);
    command.hdr.szioctldata = sizeof command;
    command.src_ptr = command.dst_ptr = (uintptr_t)data;
    command.src_len = command.dst_len = sizeof data;
    command.frame_type = IHSM_FRAME_TYPE_AES;
    result = call(fd, IHSM_IOCTL_AES_GCM, &command);
    say("no session: %s, extended status %u", named(result), command.extended_status);
    close(fd);
}

static long reset(int fd, unsigned type, uint32_t *status) {
    struct ihsm_reset_device command = {.hdr = {.szioctldata = sizeof command}, .abort_type = type};
    command.abort_sts = 0xEEEEEEEE;
    long result = call(fd, IHSM_IOCTL_RESET, &command);
    *status = command.abort_sts;
    return result;
}

void stage_resets(void) {
    static const unsigned types[] = {0, 3, IHSM_ABORT_TYPE_L2_RESET, IHSM_ABORT_TYPE_L2_NSSR};
    int fd = ready_node();
    uint32_t status = 0;
    struct ihsm_reset_device small = {.hdr = {.szioctldata = sizeof small - 1}, .abort_type = IHSM_ABORT_TYPE_L2_RESET};
    say("no structure: %s", named(call(fd, IHSM_IOCTL_RESET, NULL)));
    say("structure too small: %s", named(call(fd, IHSM_IOCTL_RESET, &small)));
    for (size_t i = 0; i < COUNT(types); i++) {
        struct ihsm_device_info before;
        struct ihsm_device_info after;
        if (device_info(fd, &before) != 0)
            fail("no device information");
        long result = reset(fd, types[i], &status);
        say("type %u: %s, status %s", types[i], named(result), kept_or(status));
        if (device_info(fd, &after) != 0)
            fail("no device information after a reset");
        bool is_same = memcmp(before.device_entropy, after.device_entropy, sizeof before.device_entropy) == 0;
        say("entropy after that: %s, a command: %s", is_same ? "the same" : "another one", named(ask(fd)));
        say("submissions since then: %s",
            result != 0 ? "as before" : named(attribute_number("global/total_submissions")));
    }
    close(fd);
}

static int is_shown(const struct dirent *entry) { return entry->d_name[0] != '.'; }

/* Names in a folder below `azihsm`, and whether each file is a number, with a newline or without. */
static void show_folder(const char *folder) {
    struct dirent **entries;
    char path[256];
    (void)snprintf(path, sizeof path, "%s/azihsm/%s", function_folder(), folder);
    int count = scandir(path, &entries, is_shown, alphasort);
    if (count < 0) {
        say("%s: %s", folder, named(-errno));
        return;
    }
    for (int i = 0; i < count; i++) {
        char name[400];
        char text[64];
        (void)snprintf(name, sizeof name, "%s/%s", folder, entries[i]->d_name);
        free(entries[i]);
        if (*folder == '\0') {
            say("folder %s", name + 1);
            continue;
        }
        long size = read_attribute(name, text, sizeof text);
        bool is_number = size > 0 && strspn(text, "-0123456789") >= (size_t)size - 1;
        say("%s: %s%s", name, is_number ? "a number" : named(size),
            size > 0 && text[size - 1] == '\n' ? " and a newline" : "");
    }
    free((void *)entries);
}

void stage_sysfs(void) {
    static const char *const folders[] = {"", "admin", "global", "cp_sq1", "fp_sq256", "nothing"};
    char path[256];
    char text[64];
    struct stat node;
    struct stat file;
    for (size_t i = 0; i < COUNT(folders); i++)
        show_folder(folders[i]);
    (void)snprintf(path, sizeof path, "%s/azihsm/global/total_submissions", function_folder());
    /* Root may open it, and then it cannot be written; others may not. */
    int fd = open_path(path, O_WRONLY);
    say("to be written: %s", fd < 0 || write(fd, "1", 1) != 1 ? "no" : "yes");
    close(fd);
    say("a file: %s", stat(path, &file) == 0 && S_ISREG(file.st_mode) && (file.st_mode & 0777) == 0664 ? "0664" : "no");
    fd = open_path(path, O_RDONLY);
    long before = result_of(read(fd, text, sizeof text));
    long after = result_of(read(fd, text, sizeof text));
    say("read: %s, the second time: %s", before > 0 ? "a number" : named(before), named(after));
    say("read once more from its beginning: %s",
        result_of(pread(fd, text, sizeof text, 0)) > 0 ? "a number" : "nothing");
    close(fd);

    const char *name = strrchr(options.node, '/') + 1;
    (void)snprintf(path, sizeof path, "/sys/class/azihsm-hsm/%s/dev", name);
    FILE *number = fopen(path, "re");
    unsigned major = 0;
    unsigned minor = 0;
    if (number == NULL || fscanf(number, "%u:%u", &major, &minor) != 2 || stat(options.node, &node) != 0)
        say("the class has no number");
    else
        say("the class has the node's number: %s", node.st_rdev == makedev(major, minor) ? "yes" : "no");
    if (number != NULL)
        (void)fclose(number);
}

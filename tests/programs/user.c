/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
#include "user.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

struct options options = {.node = "/dev/azihsm0"};
static const char *stage = "";

void set_stage(const char *name) { stage = name; }

static void print_line(int fd, const char *begin, const char *format, va_list arguments) {
    char line[1024];
    size_t used = (size_t)snprintf(line, sizeof line, "%s: ", begin);
    used += (size_t)vsnprintf(line + used, sizeof line - used - 1, format, arguments);
    if (used > sizeof line - 2)
        used = sizeof line - 2;
    line[used++] = '\n';
    if (write(fd, line, used) != (ssize_t)used)
        abort();
}

void say(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print_line(STDOUT_FILENO, stage, format, arguments);
    va_end(arguments);
}

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print_line(STDERR_FILENO, stage, format, arguments);
    va_end(arguments);
    _exit(2);
}

const char *named(long result) {
    static _Thread_local char numbers[4][24];
    static _Thread_local unsigned next;
    const char *name = result < 0 ? strerrorname_np((int)-result) : NULL;
    if (name != NULL)
        return name;
    char *text = numbers[next++ % COUNT(numbers)];
    (void)snprintf(text, sizeof numbers[0], "%ld", result);
    return text;
}

long result_of(long returned) { return returned == -1 ? -(long)errno : returned; }

long call(int fd, unsigned long number, void *argument) { return result_of(ioctl(fd, number, argument)); }

int open_path(const char *path, int flags) { return (int)result_of(open(path, flags, 0600)); }

int open_node(void) { return open_path(options.node, O_RDWR | O_CLOEXEC); }

int ready_node(void) {
    int fd = open_node();
    if (fd < 0)
        fail("%s: %s", options.node, named(fd));
    return fd;
}

long device_info(int fd, struct ihsm_device_info *info) {
    memset(info, KEPT, sizeof *info);
    info->argsz = sizeof *info;
    return call(fd, IHSM_IOCTL_GET_DEV_INFO, info);
}

void fill_command(struct ihsm_generic_ioctl *command, const void *request, uint32_t size, void *response,
                  uint32_t room) {
    memset(command, 0, sizeof *command);
    command->hdr.szioctldata = sizeof *command;
    command->src_buf = (uintptr_t)request;
    command->src_length = size;
    command->dst_buf = (uintptr_t)response;
    command->dst_length = room;
    memset(&command->out_ctxt, KEPT, sizeof command->out_ctxt);
    memset(&command->status, KEPT, sizeof command->status);
    memset(&command->byte_count, KEPT, sizeof command->byte_count);
    memset(&command->extended_status, KEPT, sizeof command->extended_status);
}

void set_session(struct ihsm_generic_ioctl *command, unsigned kind, bool id_valid, uint16_t id) {
    command->session_control_flags =
        (uint8_t)(kind << IHSM_SESSION_CONTROL_KIND_SHIFT | (unsigned)id_valid << IHSM_SESSION_CONTROL_ID_VALID_SHIFT);
    command->session_id = id;
}

long ask(int fd) {
    uint8_t response[IHSM_MAX_DST_LENGTH];
    struct ihsm_generic_ioctl command;
    fill_command(&command, get_api_rev, sizeof get_api_rev, response, sizeof response);
    long result = call(fd, IHSM_IOCTL_GENERIC_SESSION, &command);
    if (result != 0)
        return result;
    bool is_right = command.status == 0 && command.byte_count == sizeof get_api_rev_answer &&
                    memcmp(response, get_api_rev_answer, sizeof get_api_rev_answer) == 0;
    return is_right ? 0 : -EPROTO;
}

const char *function_folder(void) {
    static char folder[128];
    struct ihsm_device_info info;
    int fd = ready_node();
    long result = device_info(fd, &info);
    if (result != 0)
        fail("device information: %s", named(result));
    close(fd);
    (void)snprintf(folder, sizeof folder, "/sys/bus/pci/devices/%.*s", (int)sizeof info.pci_info, info.pci_info);
    return folder;
}

long read_attribute(const char *name, char *text, size_t room) {
    char path[256];
    (void)snprintf(path, sizeof path, "%s/azihsm/%s", function_folder(), name);
    int fd = open_path(path, O_RDONLY);
    if (fd < 0)
        return fd;
    long size = result_of(read(fd, text, room - 1));
    text[size > 0 ? size : 0] = '\0';
    close(fd);
    return size;
}

long attribute_number(const char *name) {
    char text[64];
    long size = read_attribute(name, text, sizeof text);
    if (size < 0)
        fail("%s: %s", name, named(size));
    return strtol(text, NULL, 10);
}

uint8_t *pages_with(size_t size, int protection) {
    uint8_t *pages = mmap(NULL, size, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        fail("mmap: %s", named(-errno));
    return pages;
}

uint8_t *edge_pages(void) {
    uint8_t *pages = pages_with(2 * (size_t)PAGE, PROT_READ | PROT_WRITE);
    if (mprotect(pages + PAGE, PAGE, PROT_NONE) != 0)
        fail("mprotect: %s", named(-errno));
    return pages;
}

int in_child(void (*work)(void *), void *argument) {
    pid_t child = fork();
    if (child == 0) {
        work(argument);
        _exit(0);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child)
        fail("a child: %s", named(-errno));
    return status;
}

void show_end(const char *who, int status) {
    if (WIFSIGNALED(status))
        say("%s ended by signal %d", who, WTERMSIG(status));
    else if (WEXITSTATUS(status) != 0)
        say("%s ended with status %d", who, WEXITSTATUS(status));
}

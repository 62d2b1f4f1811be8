/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages of a client on the vfio-user socket, with descriptors: the library, the host and an engine behind them.
 *
 * An input is a row of messages. Each begins with a byte of how (see `send_next`), the command, and the length of what
 * follows. Everything is sent and the sending side shut before the device reads, so that it never waits for more.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "engine.h"
#include "input.h"
#include "vfu.cdef.h"
#include "vfu_callbacks.cdef.h"

enum { MAX_FDS = 9, MAX_PAYLOAD = 2048, HEADER = 16, MAX_MESSAGES = 24, MSIX_IRQ = 2, MEMORY = 1 << 16 };
enum { RAW = 0x80, KINDS = 3, MAX_WAIT_MS = 10000, WATCHED_FDS = 256 };
static bool open_before[WATCHED_FDS];
static struct ihsm_scheduler *scheduler;
static struct ihsm_vfu *vfu;
static struct ihsm_engine *engine;
static char folder[] = "/tmp/ihsm-fuzz-XXXXXX", path[sizeof folder + 2];
static uint8_t registers[4096];
static unsigned dma_regions;

int64_t ihsm_py_region_access(uint64_t handle, int index, char *data, size_t count, int64_t offset, bool is_write) {
    (void)handle, (void)index;
    if (offset < 0 || count > sizeof registers || (uint64_t)offset > sizeof registers - count)
        return -1;
    if (is_write)
        memcpy(registers + offset, data, count);
    else
        memcpy(data, registers + offset, count);
    return (int64_t)count;
}

int ihsm_py_reset(uint64_t handle, int type) {
    (void)handle, (void)type;
    if (engine != NULL)
        ihsm_engine_reset(engine);
    return 0;
}

void ihsm_py_interface_failed(uint64_t handle) { (void)handle; }

void ihsm_py_dma(uint64_t handle, bool mapped, uint64_t iova, uint64_t size, bool has_pointer, uint64_t device,
                 uint64_t inode) {
    (void)handle, (void)iova, (void)size, (void)has_pointer, (void)device, (void)inode;
    dma_regions += mapped ? 1u : -1u;
}

void ihsm_py_refused_memory(uint64_t handle, uint64_t iova, uint64_t size, int fd, unsigned device_major,
                            unsigned device_minor) {
    (void)handle, (void)iova, (void)size, (void)device_major, (void)device_minor;
    REQUIRE(fcntl(fd, F_GETFD) >= 0);
}

void ihsm_py_at_limit(uint64_t handle, int limit) { (void)handle, (void)limit; }
void ihsm_py_log(uint64_t handle, int level, const char *message) { (void)handle, (void)level, (void)message; }

static bool is_open(int fd) { return fcntl(fd, F_GETFD) >= 0; }

static void remove_files(void) {
    unlink(path);
    rmdir(folder);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    static uint8_t writable[4096], msix[12] = {0x11, 0, IHSM_MSIX_VECTORS - 1, 0, 2, 0, 0, 0, 2, 8};
    REQUIRE(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/s", folder);
    atexit(remove_files);
    memset(writable, 0xFF, sizeof writable);
    scheduler = ihsm_scheduler_new(0, 0);
    REQUIRE(scheduler != NULL && ihsm_vfu_prepare() == 0 && ihsm_vfu_new(path, 1, 3, &vfu) == 0);
    engine = ihsm_engine_new(scheduler, ihsm_vfu_host(vfu), 1, true);
    REQUIRE(engine != NULL);
    ihsm_vfu_set_engine(vfu, engine);
    REQUIRE(ihsm_vfu_region(vfu, 0, 4096, IHSM_VFU_PYTHON, -1, true) == 0);
    REQUIRE(ihsm_vfu_region(vfu, 2, 4096, IHSM_VFU_MSIX, -1, true) == 0);
    REQUIRE(ihsm_vfu_region(vfu, 4, 4096, IHSM_VFU_DOORBELLS, -1, true) == 0);
    REQUIRE(ihsm_vfu_add_capability(vfu, msix, 0, false) > 0 && ihsm_vfu_irqs(vfu, MSIX_IRQ, IHSM_MSIX_VECTORS) == 0);
    REQUIRE(ihsm_vfu_realize(vfu, writable, writable) == 0);
    return 0;
}

static int new_descriptor(unsigned kind) {
    if (kind == 1)
        return eventfd(0, EFD_NONBLOCK);
    if (kind == 2)
        return open("/dev/null", O_RDWR | O_CLOEXEC);
    int fd = memfd_create("guest", MFD_CLOEXEC);
    REQUIRE(fd < 0 || ftruncate(fd, MEMORY) == 0);
    return fd;
}

static void send_bytes(int client, const uint8_t *bytes, size_t size, const int *fds, unsigned count) {
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(MAX_FDS * sizeof(int))];
    } control = {0};
    struct iovec piece = {(void *)bytes, size};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
    if (count > 0) {
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        control.head = (struct cmsghdr){CMSG_LEN(count * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.head), fds, count * sizeof(int));
    }
    (void)!sendmsg(client, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/*
 * how: bit 7: the bytes stand as they are instead of behind a right header; bits 4-6: what the descriptors are, mixed
 * above 2; bits 0-3: how many.
 */
static void send_next(int client, struct input *input, uint16_t id) {
    uint8_t how = take_u8(input), bytes[HEADER + MAX_PAYLOAD];
    uint16_t command = take_u8(input);
    size_t size = take_u16(input) % (MAX_PAYLOAD + 1), start = how & RAW ? 0 : HEADER;
    if (size > input->left)
        size = input->left;
    take(input, bytes + start, size);
    if (start != 0) {
        const uint32_t rest[3] = {(uint32_t)(HEADER + size), 0, 0};
        memcpy(bytes, &id, sizeof id);
        memcpy(bytes + 2, &command, sizeof command);
        memcpy(bytes + 4, rest, sizeof rest);
    }
    int fds[MAX_FDS];
    unsigned count = (how & 15) % (MAX_FDS + 1), kind = how >> 4 & 7, made = 0;
    for (unsigned i = 0; i < count; i++) {
        int fd = new_descriptor(kind < KINDS ? kind : i % KINDS);
        if (fd >= 0)
            fds[made++] = fd;
    }
    send_bytes(client, bytes, start + size, fds, made);
    while (made > 0)
        close(fds[--made]);
}

static void send_greeting(int client) {
    static const char capabilities[] = "{\"capabilities\":{\"max_msg_fds\":8}}";
    uint8_t bytes[HEADER + 4 + sizeof capabilities] = {0, 0, 1, 0, sizeof bytes, 0};
    bytes[HEADER + 2] = 1;
    memcpy(bytes + HEADER + 4, capabilities, sizeof capabilities);
    send_bytes(client, bytes, sizeof bytes, NULL, 0);
}

/* Take what the device has sent, with descriptors. */
static void drain(int client) {
    static uint8_t bytes[1 << 16];
    for (;;) {
        union {
            struct cmsghdr head;
            char room[CMSG_SPACE(64 * sizeof(int))];
        } control;
        struct iovec piece = {bytes, sizeof bytes};
        struct msghdr message = {
            .msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        if (recvmsg(client, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) <= 0)
            return;
        for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head != NULL; head = CMSG_NXTHDR(&message, head)) {
            for (size_t at = 0; CMSG_LEN(at + sizeof(int)) <= head->cmsg_len; at += sizeof(int)) {
                int fd;
                memcpy(&fd, CMSG_DATA(head) + at, sizeof fd);
                close(fd);
            }
        }
    }
}

/* Between two inputs the fuzzer opens what it needs itself. */
static void note_open(void) {
    for (int fd = 0; fd < WATCHED_FDS; fd++)
        open_before[fd] = is_open(fd);
}

/* Nothing is open that was not before the client. What is discarded is closed on a thread. */
static void require_closed(void) {
    for (int fd = 0; fd < WATCHED_FDS; fd++) {
        for (unsigned waited = 0; !open_before[fd] && is_open(fd); waited++) {
            REQUIRE(waited < MAX_WAIT_MS);
            usleep(1000);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, size};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    note_open();
    int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    REQUIRE(client >= 0 && connect(client, (struct sockaddr *)&address, sizeof address) == 0);
    if (!(take_u8(&input) & 1))
        send_greeting(client);
    for (uint16_t id = 1; input.left > 0 && id <= MAX_MESSAGES; id++)
        send_next(client, &input, id);
    shutdown(client, SHUT_WR);
    if (ihsm_vfu_attach(vfu) == 0) {
        int result;
        struct ihsm_command command;
        do {
            result = ihsm_vfu_run(vfu, -1, 0);
            drain(client);
            while (ihsm_pull(scheduler, IHSM_CLASS_ADMIN, 0, &command) == IHSM_PULL_COMMAND)
                ;
        } while (result == IHSM_VFU_TIMEOUT || result == IHSM_VFU_INTERRUPTED);
        REQUIRE(result == IHSM_VFU_DISCONNECTED);
    }
    close(client);
    /* Nothing is left of the client: neither memory nor descriptors. */
    REQUIRE(dma_regions == 0);
    require_closed();
    return 0;
}

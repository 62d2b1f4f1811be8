/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* AES with keys of the device: there and back at odd addresses, up to the longest command, and what is refused. */
#include "helper.h"
#include "user.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAX_BYTES = 16 << 20, AAD = 20, PADDED_AAD = 32, ODD = 3 };

struct aes {
    int fd;
    struct session session;
    uint8_t *plain; /* each has MAX_BYTES and some more */
    uint8_t *sealed;
    uint8_t *opened;
};

static struct aes begin(void) {
    struct aes aes = {.fd = ready_node()};
    size_t size = MAX_BYTES + 2 * (size_t)PAGE;
    aes.session = open_session(aes.fd);
    /* At three different places in a page, so that no block of one begins where one of another does. */
    aes.plain = pages_with(size, PROT_READ | PROT_WRITE) + ODD;
    aes.sealed = pages_with(size, PROT_READ | PROT_WRITE) + PAGE - ODD;
    aes.opened = pages_with(size, PROT_READ | PROT_WRITE) + 1;
    for (size_t i = 0; i < MAX_BYTES + (size_t)PADDED_AAD; i++)
        aes.plain[i] = (uint8_t)(i * 31 + (i >> 12));
    return aes;
}

static void end(struct aes *aes) {
    size_t size = MAX_BYTES + 2 * (size_t)PAGE;
    munmap(aes->plain - ODD, size);
    munmap(aes->sealed - PAGE + ODD, size);
    munmap(aes->opened - 1, size);
    close_session(aes->fd);
    close(aes->fd);
}

static struct ihsm_gcm_ioctl gcm_command(const struct aes *aes, const uint8_t *source, uint8_t *destination,
                                         size_t size) {
    struct ihsm_gcm_ioctl command = {
        .hdr = {.szioctldata = sizeof command},
        .cipher = IHSM_CIPHER_GCM,
        .src_ptr = (uintptr_t)source,
        .src_len = (uint32_t)size,
        .dst_ptr = (uintptr_t)destination,
        .dst_len = (uint32_t)size,
        .frame_type = IHSM_FRAME_TYPE_AES,
        .session_id = aes->session.id,
        .short_app_id = aes->session.short_app_id,
        .key_id = aes->session.gcm_key,
    };
    memset(&command.result, KEPT, sizeof command.result);
    return command;
}

static struct ihsm_gcm_ioctl to_open(const struct aes *aes, const struct ihsm_gcm_ioctl *sealed) {
    struct ihsm_gcm_ioctl command = gcm_command(aes, aes->sealed, aes->opened, sealed->src_len);
    command.op_code = IHSM_AES_OP_DECRYPT;
    memcpy(command.tag, sealed->cmd_spec, sizeof command.tag);
    memcpy(command.init_vector, sealed->iv_from_fw, sizeof command.init_vector);
    command.actual_aad_data_len = sealed->actual_aad_data_len;
    command.aligned_aad_len = sealed->aligned_aad_len;
    command.enable_gcm_workaround = sealed->enable_gcm_workaround;
    return command;
}

static void show_gcm(const char *what, int fd, struct ihsm_gcm_ioctl *command) {
    long result = call(fd, IHSM_IOCTL_AES_GCM, command);
    say("%s: %s, result %#x, extended status %u, bytes %u", what, named(result), command->result,
        command->extended_status, command->byte_count);
}

/* Text of so many bytes, behind AAD where that is asked for, encrypted, decrypted, and decrypted with a wrong tag. */
static void gcm_there_and_back(struct aes *aes, size_t size, bool has_aad) {
    size_t before = has_aad ? PADDED_AAD : 0;
    struct ihsm_gcm_ioctl command = gcm_command(aes, aes->plain, aes->sealed, before + size);
    command.enable_gcm_workaround = 1;
    if (has_aad) {
        command.actual_aad_data_len = AAD;
        command.aligned_aad_len = PADDED_AAD;
        memset(aes->plain + AAD, 0, PADDED_AAD - AAD);
    }
    memset(command.init_vector, 7, sizeof command.init_vector);
    memset(aes->sealed, KEPT, before + size + 1);
    memset(aes->opened, KEPT, before + size + 1);
    say("%zu bytes%s", size, has_aad ? " and AAD" : "");
    show_gcm("encrypted", aes->fd, &command);
    memcpy(aes->sealed, aes->plain, before); /* the device may leave that to the caller */
    struct ihsm_gcm_ioctl back = to_open(aes, &command);
    show_gcm("decrypted", aes->fd, &back);
    /* One byte is its own cipher text for one of 256 keys. */
    bool is_changed = size == 1 || memcmp(aes->plain + before, aes->sealed + before, size) != 0;
    say("changed: %s, back: %s, the byte behind: %s", is_changed ? "yes" : "no",
        memcmp(aes->plain + before, aes->opened + before, size) ? "no" : "yes",
        aes->sealed[before + size] == KEPT && aes->opened[before + size] == KEPT ? "kept" : "changed");
    back = to_open(aes, &command);
    back.tag[0] ^= 1;
    show_gcm("with a wrong tag", aes->fd, &back);
}

static void show_bad_memory(struct aes *aes) {
    uint8_t *pages = edge_pages();
    struct ihsm_gcm_ioctl command = gcm_command(aes, pages + PAGE, aes->sealed, 64);
    show_gcm("source that is not there", aes->fd, &command);
    command = gcm_command(aes, aes->plain, pages + PAGE - 32, 64);
    show_gcm("destination that ends too early", aes->fd, &command);
    command = gcm_command(aes, aes->plain, pages, 64);
    if (mprotect(pages, PAGE, PROT_READ) != 0)
        fail("mprotect failed");
    show_gcm("destination that cannot be written", aes->fd, &command);
    munmap(pages, 2 * (size_t)PAGE);
}

void stage_gcm(void) {
    static const size_t sizes[] = {16, 4096, 65552, 1 << 20, MAX_BYTES};
    static const size_t tails[] = {1, 5, 37, 4099, (1 << 20) + 7};
    struct aes aes = begin();
    for (size_t i = 0; i < COUNT(sizes); i++)
        gcm_there_and_back(&aes, sizes[i], false);
    for (size_t i = 0; i < COUNT(tails); i++)
        gcm_there_and_back(&aes, tails[i], i % 2 == 1);
    struct ihsm_gcm_ioctl command = gcm_command(&aes, aes.plain, aes.sealed, 37);
    show_gcm("37 bytes without the workaround", aes.fd, &command);
    command = gcm_command(&aes, aes.opened, aes.opened, 4096);
    show_gcm("in place", aes.fd, &command);
    show_bad_memory(&aes);
    end(&aes);
}

static struct ihsm_xts_ioctl xts_command(const struct aes *aes, const uint8_t *source, uint8_t *destination,
                                         size_t size, uint16_t unit) {
    struct ihsm_xts_ioctl command = {
        .hdr = {.szioctldata = sizeof command},
        .cipher = IHSM_CIPHER_XTS,
        .src_ptr = (uintptr_t)source,
        .src_len = (uint32_t)size,
        .dst_ptr = (uintptr_t)destination,
        .dst_len = (uint32_t)size,
        .frame_type = IHSM_FRAME_TYPE_AES,
        .session_id = aes->session.id,
        .short_app_id = aes->session.short_app_id,
        .data_unit_len = unit,
        .key_id1 = aes->session.xts_keys[0],
        .key_id2 = aes->session.xts_keys[1],
        .tweak = {5},
    };
    memset(&command.result, KEPT, sizeof command.result);
    return command;
}

static void show_xts(const char *what, int fd, struct ihsm_xts_ioctl *command) {
    long result = call(fd, IHSM_IOCTL_AES_XTS, command);
    say("%s: %s, result %#x, extended status %u, bytes %u", what, named(result), command->result,
        command->extended_status, command->byte_count);
}

static void xts_there_and_back(struct aes *aes, size_t size, uint16_t unit) {
    struct ihsm_xts_ioctl command = xts_command(aes, aes->plain, aes->sealed, size, unit);
    memset(aes->sealed, KEPT, size + 1);
    memset(aes->opened, KEPT, size + 1);
    say("%zu bytes, data unit %u", size, unit);
    show_xts("encrypted", aes->fd, &command);
    command = xts_command(aes, aes->sealed, aes->opened, size, unit);
    command.op_code = IHSM_AES_OP_DECRYPT;
    show_xts("decrypted", aes->fd, &command);
    say("changed: %s, back: %s, the byte behind: %s", memcmp(aes->plain, aes->sealed, size) ? "yes" : "no",
        memcmp(aes->plain, aes->opened, size) ? "no" : "yes",
        aes->sealed[size] == KEPT && aes->opened[size] == KEPT ? "kept" : "changed");
}

void stage_xts(void) {
    static const struct {
        size_t size;
        uint16_t unit;
    } lengths[] = {{16, 0}, {512, 1}, {8192, 2}, {24576, 3}, {65552, 0}, {1 << 20, 2}, {MAX_BYTES, 0}};
    struct aes aes = begin();
    for (size_t i = 0; i < COUNT(lengths); i++)
        xts_there_and_back(&aes, lengths[i].size, lengths[i].unit);
    struct ihsm_xts_ioctl command = xts_command(&aes, aes.plain, aes.sealed, 1024, 0);
    show_xts("1024 bytes as one unit", aes.fd, &command);
    command = xts_command(&aes, aes.plain, aes.opened, 1024, 1);
    show_xts("as two units", aes.fd, &command);
    say("the first half the same: %s, the second: %s", memcmp(aes.sealed, aes.opened, 512) ? "no" : "yes",
        memcmp(aes.sealed + 512, aes.opened + 512, 512) ? "no" : "yes");
    command = xts_command(&aes, aes.plain, aes.sealed, 20, 0);
    show_xts("20 bytes", aes.fd, &command);
    command = xts_command(&aes, aes.plain, aes.sealed, MAX_BYTES + 16, 0);
    show_xts("16 bytes too many", aes.fd, &command);
    command = xts_command(&aes, aes.plain, aes.sealed, 64, 0);
    command.key_id2 = command.key_id1;
    show_xts("one key for both", aes.fd, &command);
    end(&aes);
}

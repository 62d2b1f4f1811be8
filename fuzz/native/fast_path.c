/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One AES command: an input is a queue entry, with a first byte that says what of it is put right, then writes to guest
 * memory (address, length, bytes) that make lists and payload.
 */
#include "fast_keys.h"
#include "fastpath/fastpath.h"
#include "guest.h"
#include "host.h"

enum { FIX_TYPE = 1, FIX_KEYS = 2, FIX_SESSION = 4, FIX_LENGTHS = 8, SHORTEN = 16 };
enum { MAX_STEPS = 2000 }; /* lists that name themselves take a million, and find nothing new */
static ks_bulk_table *table;
static struct ihsm_fp_scratch *scratch;

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    REQUIRE(ks_open(0, 0) == KS_OK);
    table = fast_keys();
    scratch = ihsm_fp_scratch();
    REQUIRE(scratch != NULL);
    return 0;
}

static bool go_on(struct ihsm_fp_context *context) {
    (void)context;
    return true;
}

static uint64_t shortened(uint64_t value) { return value & ((UINT64_C(1) << GUEST_BITS) - 1); }

static void put_right(union ihsm_aes_entry *entry, uint8_t fixes) {
    bool xts = entry->common.attr >> IHSM_AES_ATTR_CIPHER_SHIFT & IHSM_AES_ATTR_CIPHER_MASK;
    uint16_t type = IHSM_AES_ATTR_CMD_TYPE_MASK << IHSM_AES_ATTR_CMD_TYPE_SHIFT;
    if (fixes & FIX_TYPE) {
        entry->common.attr =
            (uint16_t)((entry->common.attr & ~type) | IHSM_CMD_TYPE_FAST_PATH << IHSM_AES_ATTR_CMD_TYPE_SHIFT);
        entry->common.frame_type = IHSM_FRAME_TYPE_AES;
    }
    if (fixes & FIX_KEYS) {
        entry->gcm.key_id = KEY_XTS_1 + entry->gcm.key_id % FAST_KEYS;
        if (xts)
            entry->xts.key_id2 = KEY_XTS_1 + entry->xts.key_id2 % FAST_KEYS;
    }
    if (fixes & FIX_SESSION) {
        entry->common.session_id = KEY_SESSION;
        entry->common.short_app_id = 0;
    }
    if (fixes & SHORTEN) {
        entry->common.src.addr = shortened(entry->common.src.addr);
        entry->common.dst.addr = shortened(entry->common.dst.addr);
        entry->common.src_len = (uint32_t)shortened(entry->common.src_len);
        entry->common.dst_len = (uint32_t)shortened(entry->common.dst_len);
    }
    if (fixes & FIX_LENGTHS)
        entry->common.dst_len = entry->common.src_len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, size};
    struct guest guest;
    union ihsm_aes_entry entry;
    struct aes_cqe cqe = {0};
    uint8_t fixes = take_u8(&input);
    take(&input, &entry, sizeof entry);
    put_right(&entry, fixes);
    guest_open(&guest);
    while (input.left > 4) {
        uint16_t iova = take_u16(&input), length = take_u16(&input);
        size_t there = length < input.left ? length : input.left;
        guest_write(&guest, iova, input.data, there);
        input.data += there;
        input.left -= there;
    }
    const struct ihsm_fp_function function = {.keys = table, .fips = fixes >> 6 & 1, .device_iv = fixes >> 7};
    struct ihsm_fp_context context = {.regions = &guest.host->regions,
                                      .checkpoint = go_on,
                                      .function = &function,
                                      .scratch = scratch,
                                      .max_steps = MAX_STEPS};
    cqe.attr = entry.common.attr;
    cqe.cmd_id = entry.common.cmd_id;
    ihsm_regions_read_lock(context.regions);
    ihsm_fp_execute(&context, &entry, &cqe);
    ihsm_fp_end(&context);
    ihsm_regions_unlock(context.regions);
    REQUIRE(context.held[0].key == NULL && context.held[1].key == NULL);
    guest_close(&guest);
    return 0;
}

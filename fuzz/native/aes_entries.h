/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* AES entries of harnesses: the fuzzer's bytes, with as much put right as the input asks for. */
#pragma once
#include "fast_keys.h"
#include "fastpath/fastpath.h"
#include "guest.h"

enum { FIX_TYPE = 1, FIX_KEYS = 2, FIX_SESSION = 4, FIX_LENGTHS = 8, SHORTEN = 16 };

static inline uint64_t shortened(uint64_t value) { return value & ((UINT64_C(1) << GUEST_BITS) - 1); }

static inline void aes_entry_put_right(union ihsm_aes_entry *entry, uint8_t fixes) {
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

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Keys for harnesses of the fast path: one of each type, under the numbers that follow. */
#pragma once
#include "input.h"
#include "keystore/keystore.cdef.h"

enum { KEY_XTS_1 = 0x10, KEY_XTS_2, KEY_APPROVED, KEY_UNAPPROVED, FAST_KEYS = 4, KEY_SESSION = 3 };

static inline ks_bulk_table *fast_keys(void) {
    ks_bulk_table *table = ks_bulk_table_new(0);
    REQUIRE(table != NULL);
    for (uint32_t i = 0; i < FAST_KEYS; i++) {
        static const int types[FAST_KEYS] = {KS_BULK_XTS, KS_BULK_XTS, KS_BULK_GCM_APPROVED, KS_BULK_GCM_UNAPPROVED};
        const uint8_t value[32] = {(uint8_t)i};
        uint64_t key;
        REQUIRE(ks_import_secret(value, sizeof value, 0, &key) == KS_OK);
        REQUIRE(ks_bulk_publish(table, KEY_XTS_1 + i, key, types[i], KEY_SESSION, 0, false) == KS_OK);
    }
    return table;
}

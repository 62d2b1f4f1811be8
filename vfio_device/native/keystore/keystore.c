/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and closing, statistics. */
#include "keystore.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/service_indicator.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/prctl.h>

static _Atomic bool opened;

const char *ks_library_version(void) { return awslc_version_string(); }

int ks_open(int hooks, int faults_wanted) {
    bool expected = false;
    if (!atomic_compare_exchange_strong(&opened, &expected, true))
        return KS_ARG;
    ks_switches_set(hooks != 0, faults_wanted != 0);
    prctl(PR_SET_DUMPABLE, 0);
    CRYPTO_library_init();
    uint8_t probe[16];
    int status = RAND_bytes(probe, sizeof probe) == 1 ? KS_OK : KS_CRYPTO;
    if (status != KS_OK)
        opened = false;
    return status;
}

void ks_close(void) {
    ks_destroy_group(0, 0);
    ks_random_reset();
    ks_switches_set(false, false);
    opened = false;
}

static _Atomic bool told_unlocked; /* whether who asked last was told of any */

uint64_t ks_unlocked_bytes(void) {
    uint64_t unlocked = ks_arena_unlocked();
    told_unlocked = unlocked != 0;
    return unlocked;
}

bool ks_unlocked_is_news(void) { return (ks_arena_unlocked() != 0) != told_unlocked; }

void ks_statistics(ks_stats *out) {
    struct arena_stats arena;
    ks_arena_stats(&arena);
    memset(out, 0, sizeof *out);
    out->bytes_in_use = arena.in_use;
    out->bytes_peak = arena.peak;
    out->bytes_reserved = arena.reserved;
    out->bytes_locked = arena.locked;
    out->published = ks_bulk_count();
    ks_handle_statistics(out);
}

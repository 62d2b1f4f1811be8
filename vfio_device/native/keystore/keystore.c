/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and closing, statistics, faults. */
#include "keystore.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/prctl.h>

static _Atomic bool opened, hooks_on, faults_on;

enum { MAX_FAULTS = 16, FAULT_NAME = 32 };
static pthread_mutex_t fault_lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    char name[FAULT_NAME];
    int count;
} faults[MAX_FAULTS];

bool ks_is_open(void) { return opened; }
bool ks_hooks_enabled(void) { return hooks_on; }

int ks_open(int hooks, int faults_wanted) {
    bool expected = false;
    if (!atomic_compare_exchange_strong(&opened, &expected, true))
        return KS_ARG;
    hooks_on = hooks != 0;
    faults_on = faults_wanted != 0;
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
    pthread_mutex_lock(&fault_lock);
    memset(faults, 0, sizeof faults);
    pthread_mutex_unlock(&fault_lock);
    hooks_on = false;
    faults_on = false;
    opened = false;
}

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

/* Not inlined: its frame lies where those of the calls before it lay. */
void __attribute__((noinline)) ks_burn_stack(size_t size) { ks_wipe(__builtin_alloca(size), size); }

int ks_set_fault(const char *name, int count) {
    if (!faults_on)
        return KS_HOOKS;
    if (strlen(name) >= FAULT_NAME)
        return KS_ARG;
    int status = count == 0 ? KS_OK : KS_NOMEM;
    pthread_mutex_lock(&fault_lock);
    size_t entry = MAX_FAULTS;
    for (size_t i = MAX_FAULTS; i-- > 0;) {
        if (strcmp(faults[i].name, name) == 0) {
            entry = i;
            break;
        }
        if (faults[i].count == 0)
            entry = i;
    }
    if (entry < MAX_FAULTS && (count != 0 || strcmp(faults[entry].name, name) == 0)) {
        memset(faults[entry].name, 0, FAULT_NAME);
        if (count != 0)
            memcpy(faults[entry].name, name, strlen(name));
        faults[entry].count = count;
        status = KS_OK;
    }
    pthread_mutex_unlock(&fault_lock);
    return status;
}

bool ks_fault(const char *name) {
    if (!faults_on)
        return false;
    bool hit = false;
    pthread_mutex_lock(&fault_lock);
    for (size_t i = 0; i < MAX_FAULTS && !hit; i++) {
        hit = faults[i].count != 0 && strcmp(faults[i].name, name) == 0;
        if (hit && faults[i].count > 0 && --faults[i].count == 0)
            memset(faults[i].name, 0, FAULT_NAME);
    }
    pthread_mutex_unlock(&fault_lock);
    return hit;
}

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* MSI-X table and pending bits in BAR4 (PCI Express base specification 7.7.2; spec 01 §14.9). Function mutex held. */
#include "engine.h"

#include <string.h>

#define TABLE_BYTES ((uint64_t)IHSM_MSIX_VECTORS * IHSM_MSIX_ENTRY_BYTES)
#define CONTROL_OFFSET 12 /* vector control, bit 0 masks the vector; all other bits are reserved */

static bool entry_masked(const struct ihsm_msix *msix, unsigned vector) {
    return msix->table[vector * IHSM_MSIX_ENTRY_BYTES + CONTROL_OFFSET] & 1;
}

static bool masked(const struct ihsm_msix *msix, unsigned vector) {
    /* The reset value of an entry is 'masked', but a client that keeps the table to itself (QEMU) never changes it. */
    return msix->function_mask || ((msix->written >> vector & 1) && entry_masked(msix, vector));
}

void ihsm_host_reset_msix(struct ihsm_host *host) {
    struct ihsm_msix *msix = &host->msix;
    memset(msix, 0, sizeof *msix);
    for (unsigned vector = 0; vector < IHSM_MSIX_VECTORS; vector++)
        msix->table[vector * IHSM_MSIX_ENTRY_BYTES + CONTROL_OFFSET] = 1;
}

void ihsm_host_deliver(struct ihsm_host *host) {
    struct ihsm_msix *msix = &host->msix;
    /* First what is retired, then what is new: a vector may have got a new queue since. */
    if (atomic_load_explicit(&host->retired, memory_order_relaxed) != 0)
        msix->latched &= ~atomic_exchange(&host->retired, 0);
    if (atomic_load_explicit(&host->pending, memory_order_relaxed) != 0)
        msix->latched |= atomic_exchange(&host->pending, 0);
    for (uint32_t left = msix->latched; left != 0; left &= left - 1) {
        unsigned vector = (unsigned)__builtin_ctz(left);
        if (masked(msix, vector))
            continue;
        msix->latched &= ~(UINT32_C(1) << vector);
        if (host->raise(host, vector))
            atomic_fetch_add_explicit(&host->interrupts, 1, memory_order_relaxed);
    }
}

void ihsm_host_msix_read(struct ihsm_host *host, uint64_t offset, uint8_t *data, size_t len) {
    ihsm_host_lock(host);
    uint32_t pending = host->msix.latched | atomic_load(&host->pending);
    for (size_t i = 0; i < len; i++) {
        uint64_t at = offset + i;
        if (at < TABLE_BYTES)
            data[i] = host->msix.table[at];
        else if (at >= IHSM_MSIX_PBA_OFFSET && at < IHSM_MSIX_PBA_OFFSET + sizeof pending)
            data[i] = (uint8_t)(pending >> 8 * (at - IHSM_MSIX_PBA_OFFSET));
        else
            data[i] = 0;
    }
    ihsm_host_unlock(host);
}

void ihsm_host_msix_write(struct ihsm_host *host, uint64_t offset, const uint8_t *data, size_t len) {
    struct ihsm_msix *msix = &host->msix;
    /* Only aligned 4- and 8-byte accesses are defined; the pending bits are read-only. */
    if ((len != 4 && len != 8) || offset % len != 0 || offset + len > TABLE_BYTES)
        return;
    ihsm_host_lock(host);
    for (size_t i = 0; i < len; i++) {
        size_t in_entry = (offset + i) % IHSM_MSIX_ENTRY_BYTES;
        if (in_entry <= CONTROL_OFFSET)
            msix->table[offset + i] = in_entry == CONTROL_OFFSET ? data[i] & 1 : data[i];
    }
    msix->written |= UINT32_C(1) << (offset / IHSM_MSIX_ENTRY_BYTES);
    ihsm_host_unlock(host);
}

void ihsm_host_set_function_mask(struct ihsm_host *host, bool function_mask) {
    ihsm_host_lock(host);
    host->msix.function_mask = function_mask;
    ihsm_host_unlock(host);
}

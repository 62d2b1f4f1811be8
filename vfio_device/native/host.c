/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The function mutex, the MSI-X table (PCI Express base specification 7.7.2; spec 01 §14.9), and the delivery of
 * interrupt vectors.
 *
 * A vector is delivered only by a thread that holds the function mutex, because setting interrupts closes the old
 * eventfds under that mutex and a late write would land in a reused descriptor. A worker therefore sets a bit in
 * host->pending and tries the mutex. If that fails the holder must see the bit: it delivers before it unlocks, and
 * looks once more after it has unlocked. Both sides put a sequentially consistent fence between their write (the bit;
 * the unlock) and their read (the mutex; the bits), so at least one of them sees the other.
 */
#include "host.h"

#include <errno.h>
#include <string.h>

#include "fence.h"
#include "inject.h"
#include "seam.h"

#define TABLE_BYTES ((uint64_t)IHSM_MSIX_VECTORS * IHSM_MSIX_ENTRY_BYTES)
#define CONTROL_OFFSET 12 /* vector control, bit 0 masks the vector; all other bits are reserved */

/* A record of memory that goes comes when it has gone: nothing that has used it is recorded behind. */
int ihsm_host_map(struct ihsm_host *host, const struct ihsm_region *region) {
    uint32_t prot = (region->readable ? IHSM_DMA_PROT_READ : 0) | (region->writable ? IHSM_DMA_PROT_WRITE : 0) |
                    (region->vaddr != NULL ? IHSM_DMA_PROT_REACHABLE : 0);
    struct ihsm_record record =
        ihsm_trace_dma(&host->trace, IHSM_TRACE_KIND_DMA_MAP, region->iova, region->last - region->iova + 1, prot);
    int error = ihsm_regions_add(&host->regions, region);
    if (error == 0)
        ihsm_record_end(record);
    else
        ihsm_record_drop(record);
    return error;
}

int ihsm_host_unmap(struct ihsm_host *host, uint64_t iova, uint64_t size) {
    int error = ihsm_regions_remove(&host->regions, iova, size);
    if (error == 0)
        ihsm_record_end(ihsm_trace_dma(&host->trace, IHSM_TRACE_KIND_DMA_UNMAP, iova, size, 0));
    return error;
}

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

int ihsm_host_init(struct ihsm_host *host, bool (*raise)(struct ihsm_host *host, unsigned vector)) {
    pthread_mutexattr_t attributes;
    memset(host, 0, sizeof *host);
    pthread_mutexattr_init(&attributes);
    /* Recursive: BAR0 callbacks run under it and call functions that take it themselves. */
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    int error = pthread_mutex_init(&host->mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    if (error)
        return -error;
    host->raise = raise;
    ihsm_host_reset_msix(host);
    error = ihsm_regions_init(&host->regions);
    if (error)
        pthread_mutex_destroy(&host->mutex);
    return error;
}

void ihsm_host_destroy(struct ihsm_host *host) {
    ihsm_trace_destroy(&host->trace);
    ihsm_regions_destroy(&host->regions);
    pthread_mutex_destroy(&host->mutex);
}

void ihsm_host_lock(struct ihsm_host *host) { pthread_mutex_lock(&host->mutex); }

void ihsm_host_set_inject(struct ihsm_host *host, struct ihsm_inject *inject) {
    ihsm_host_lock(host);
    host->inject = inject;
    host->late = 0;
    ihsm_host_unlock(host);
}

/* Vectors that are asked for without those that a fault hits. */
static uint32_t without_hit(struct ihsm_host *host, uint32_t asked) {
    struct ihsm_event event = ihsm_event_none();
    struct ihsm_fault fault;
    for (uint32_t left = asked; left != 0; left &= left - 1) {
        event.vector = __builtin_ctz(left);
        if (!ihsm_inject_hit(host->inject, IHSM_INTERRUPT_ACTIONS, &event, &fault))
            continue;
        asked &= ~(UINT32_C(1) << event.vector);
        if (fault.action == IHSM_ACTION_DELAY_INTERRUPT) {
            host->late |= UINT32_C(1) << event.vector;
            ihsm_inject_put_off_vector(host->inject, (unsigned)event.vector, fault.delay_ms);
        }
    }
    return asked;
}

void ihsm_host_forget_vectors(struct ihsm_host *host, uint32_t vectors) {
    host->msix.latched &= ~vectors;
    if ((host->late & vectors) != 0)
        ihsm_inject_forget_vectors(host->inject, vectors);
    host->late &= ~vectors;
}

static void forget_retired(struct ihsm_host *host) {
    if (atomic_load_explicit(&host->retired, memory_order_relaxed) != 0)
        ihsm_host_forget_vectors(host, atomic_exchange(&host->retired, 0));
}

void ihsm_host_raise(struct ihsm_host *host, uint32_t late, uint32_t spurious) {
    ihsm_host_lock(host);
    forget_retired(host);
    host->msix.latched |= (host->late & late) | spurious;
    host->late &= ~late;
    ihsm_host_unlock(host);
}

static bool raise_vector(struct ihsm_host *host, unsigned vector) {
    struct trace_interrupt *body;
    struct ihsm_record record = ihsm_record_begin(&host->trace, IHSM_TRACE_KIND_INTERRUPT, sizeof *body);
    bool raised = host->raise(host, vector);
    if ((body = record.body) != NULL)
        *body = (struct trace_interrupt){.vector = (uint16_t)vector, .delivered = raised};
    ihsm_record_end(record);
    return raised;
}

void ihsm_host_deliver(struct ihsm_host *host) {
    struct ihsm_msix *msix = &host->msix;
    /* First what is retired, then what is new: a vector may have got a new queue since. */
    forget_retired(host);
    if (host->removed)
        ihsm_host_forget_vectors(host, UINT32_MAX);
    if (atomic_load_explicit(&host->pending, memory_order_relaxed) != 0) {
        uint32_t asked = atomic_exchange(&host->pending, 0);
        if (host->inject != NULL && ihsm_inject_armed(host->inject, IHSM_INTERRUPT_ACTIONS))
            asked = without_hit(host, asked);
        msix->latched |= asked;
    }
    for (uint32_t left = msix->latched; left != 0; left &= left - 1) {
        unsigned vector = (unsigned)__builtin_ctz(left);
        if (masked(msix, vector))
            continue;
        msix->latched &= ~(UINT32_C(1) << vector);
        if (raise_vector(host, vector))
            atomic_fetch_add_explicit(&host->interrupts, 1, memory_order_relaxed);
    }
}

void ihsm_host_kick(struct ihsm_host *host) {
    ihsm_full_fence();
    while (atomic_load(&host->pending) != 0 && pthread_mutex_trylock(&host->mutex) == 0) {
        ihsm_host_deliver(host);
        pthread_mutex_unlock(&host->mutex);
        ihsm_full_fence();
    }
}

void ihsm_host_unlock(struct ihsm_host *host) {
    ihsm_host_deliver(host);
    IHSM_SEAM(HOST_DELIVERED);
    pthread_mutex_unlock(&host->mutex);
    IHSM_SEAM(HOST_UNLOCKED);
    ihsm_host_kick(host);
}

void ihsm_host_msix_read(struct ihsm_host *host, uint64_t offset, uint8_t *data, size_t len) {
    ihsm_host_lock(host);
    uint32_t pending = host->msix.latched | atomic_load(&host->pending);
    if (host->removed)
        memset(data, 0xFF, len);
    for (size_t i = 0; i < len && !host->removed; i++) {
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
    if (host->removed) {
        ihsm_host_unlock(host);
        return;
    }
    for (size_t i = 0; i < len; i++) {
        size_t in_entry = (offset + i) % IHSM_MSIX_ENTRY_BYTES;
        if (in_entry <= CONTROL_OFFSET)
            msix->table[offset + i] = in_entry == CONTROL_OFFSET ? data[i] & 1 : data[i];
    }
    msix->written |= UINT32_C(1) << (offset / IHSM_MSIX_ENTRY_BYTES);
    ihsm_host_unlock(host);
}

void ihsm_host_set_removed(struct ihsm_host *host, bool removed) {
    ihsm_host_lock(host);
    ihsm_host_reset_msix(host);
    if (host->restore_config != NULL)
        host->restore_config(host);
    host->removed = removed;
    ihsm_host_unlock(host);
}

void ihsm_host_set_function_mask(struct ihsm_host *host, bool function_mask) {
    ihsm_host_lock(host);
    host->msix.function_mask = function_mask;
    ihsm_host_unlock(host);
}

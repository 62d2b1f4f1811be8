/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* What an engine knows of its surroundings: guest memory, interrupt vectors, the function mutex. */
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "abi.h"
#include "engine.cdef.h"
#include "hooks.h"
#include "regions.h"

#define IHSM_NO_VECTOR (-1)

struct ihsm_inject;

struct ihsm_msix {
    uint8_t table[IHSM_MSIX_VECTORS * IHSM_MSIX_ENTRY_BYTES];
    uint32_t written; /* entries a client has written since the last reset */
    uint32_t latched; /* asked for and not yet delivered because masked */
    bool function_mask;
};

struct ihsm_host {
    pthread_mutex_t mutex; /* the function mutex, recursive; guards msix and delivery */
    struct ihsm_regions regions;
    struct ihsm_msix msix;
    _Atomic uint32_t pending;   /* vectors asked for by workers, not yet looked at */
    _Atomic uint32_t retired;   /* vectors whose last queue went: what is latched of them is forgotten */
    uint32_t late;              /* vectors that a fault has put off; below pending, so that they go with their queues */
    struct ihsm_inject *inject; /* the engine's faults; NULL: there is no engine */
    bool removed;               /* a fault has pulled the function out; under the mutex */
    _Atomic uint64_t interrupts;
    struct ihsm_trace trace;
    /* Deliver a vector; called with the function mutex held. Returns whether somebody was listening. */
    bool (*raise)(struct ihsm_host *host, unsigned vector);
    /* Configuration space as at power-on, with the function mutex held; NULL: there is none. */
    void (*restore_config)(struct ihsm_host *host);
};

int ihsm_host_init(struct ihsm_host *host, bool (*raise)(struct ihsm_host *host, unsigned vector));
void ihsm_host_destroy(struct ihsm_host *host);
void ihsm_host_lock(struct ihsm_host *host);
void ihsm_host_unlock(struct ihsm_host *host);
/* Deliver what is pending if nobody holds the function mutex; who holds it will otherwise. */
void ihsm_host_kick(struct ihsm_host *host);
/* With the function mutex held: deliver every pending vector that is not masked. */
void ihsm_host_deliver(struct ihsm_host *host);
/* Faults may hit vectors from now on, or no more (NULL). */
void ihsm_host_set_inject(struct ihsm_host *host, struct ihsm_inject *inject);
/* Deliver of these vectors those that a fault has put off and that still have a queue, and others for no reason. */
void ihsm_host_raise(struct ihsm_host *host, uint32_t late, uint32_t spurious);
/* With the function mutex held: these are not delivered any more, whether latched or put off. */
void ihsm_host_forget_vectors(struct ihsm_host *host, uint32_t vectors);
void ihsm_host_reset_msix(struct ihsm_host *host);
/* As ihsm_regions_add and ihsm_regions_remove, with the function mutex held. */
int ihsm_host_map(struct ihsm_host *host, const struct ihsm_region *region);
int ihsm_host_unmap(struct ihsm_host *host, uint64_t iova, uint64_t size);

static inline void ihsm_host_request_vector(struct ihsm_host *host, int vector) {
    if (vector != IHSM_NO_VECTOR)
        atomic_fetch_or(&host->pending, UINT32_C(1) << vector);
}

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The function mutex and the delivery of interrupt vectors.
 *
 * A vector is delivered only by a thread that holds the function mutex, because setting interrupts closes the old
 * eventfds under that mutex and a late write would land in a reused descriptor. A worker therefore sets a bit in
 * host->pending and tries the mutex. If that fails the holder must see the bit: it delivers before it unlocks, and
 * looks once more after it has unlocked. Both sides put a sequentially consistent fence between their write (the bit;
 * the unlock) and their read (the mutex; the bits), so at least one of them sees the other.
 */
#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <string.h>

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
    ihsm_regions_destroy(&host->regions);
    pthread_mutex_destroy(&host->mutex);
}

void ihsm_host_lock(struct ihsm_host *host) { pthread_mutex_lock(&host->mutex); }

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
    pthread_mutex_unlock(&host->mutex);
    ihsm_host_kick(host);
}

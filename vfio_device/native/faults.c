/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* What could not be read or written in guest memory. */
#include "faults.h"

#include <errno.h>

#include "deadline.h"

void ihsm_faults_init(struct ihsm_faults *faults) {
    pthread_mutex_init(&faults->lock, NULL);
    pthread_cond_init(&faults->filled, NULL);
}

void ihsm_faults_destroy(struct ihsm_faults *faults) {
    pthread_cond_destroy(&faults->filled);
    pthread_mutex_destroy(&faults->lock);
}

void ihsm_faults_close(struct ihsm_faults *faults) {
    pthread_mutex_lock(&faults->lock);
    faults->closed = true;
    pthread_cond_broadcast(&faults->filled);
    pthread_mutex_unlock(&faults->lock);
}

void ihsm_faults_note(struct ihsm_faults *faults, const struct ihsm_regions *regions, struct ihsm_fault fault,
                      uint64_t len, bool write) {
    fault.reason = ihsm_regions_refusal(regions, &fault.iova, len, write);
    fault.count = 1;
    pthread_mutex_lock(&faults->lock);
    for (unsigned i = 0; i < faults->count; i++) {
        if (faults->waiting[i].engine_id == fault.engine_id && faults->waiting[i].kind == fault.kind) {
            faults->waiting[i].count++;
            goto out;
        }
    }
    if (faults->count < IHSM_FAULTS) {
        faults->waiting[faults->count++] = fault;
        pthread_cond_signal(&faults->filled);
    }
out:
    pthread_mutex_unlock(&faults->lock);
}

int ihsm_faults_pull(struct ihsm_faults *faults, int64_t timeout_us, struct ihsm_fault *fault) {
    struct timespec deadline = ihsm_deadline_after(timeout_us < 0 ? 0 : timeout_us);
    int result = IHSM_PULL_TIMEOUT, error = 0;
    pthread_mutex_lock(&faults->lock);
    while (!faults->closed && faults->count == 0 && error != ETIMEDOUT)
        error = timeout_us < 0 ? pthread_cond_wait(&faults->filled, &faults->lock)
                               : pthread_cond_clockwait(&faults->filled, &faults->lock, CLOCK_MONOTONIC, &deadline);
    if (faults->count > 0) {
        *fault = faults->waiting[0];
        faults->waiting[0] = faults->waiting[--faults->count];
        result = IHSM_PULL_COMMAND;
    } else if (faults->closed) {
        result = IHSM_PULL_CLOSED;
    }
    pthread_mutex_unlock(&faults->lock);
    return result;
}

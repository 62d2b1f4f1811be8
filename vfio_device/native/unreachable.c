/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* What could not be read or written in guest memory. */
#include "unreachable.h"

#include <errno.h>

#include "deadline.h"

void ihsm_unreachable_init(struct ihsm_unreachable_list *list) {
    pthread_mutex_init(&list->lock, NULL);
    pthread_cond_init(&list->filled, NULL);
}

void ihsm_unreachable_destroy(struct ihsm_unreachable_list *list) {
    pthread_cond_destroy(&list->filled);
    pthread_mutex_destroy(&list->lock);
}

void ihsm_unreachable_close(struct ihsm_unreachable_list *list) {
    pthread_mutex_lock(&list->lock);
    list->closed = true;
    pthread_cond_broadcast(&list->filled);
    pthread_mutex_unlock(&list->lock);
}

void ihsm_unreachable_note(struct ihsm_unreachable_list *list, const struct ihsm_regions *regions,
                           struct ihsm_unreachable what, uint64_t len, bool write) {
    if (len > 0)
        what.reason = ihsm_regions_refusal(regions, &what.iova, len, write);
    what.count = 1;
    pthread_mutex_lock(&list->lock);
    for (unsigned i = 0; i < list->count; i++) {
        if (list->waiting[i].engine_id == what.engine_id && list->waiting[i].kind == what.kind) {
            list->waiting[i].count++;
            goto out;
        }
    }
    if (list->count < IHSM_UNREACHABLE_WAITING) {
        list->waiting[list->count++] = what;
        pthread_cond_signal(&list->filled);
    }
out:
    pthread_mutex_unlock(&list->lock);
}

int ihsm_unreachable_pull(struct ihsm_unreachable_list *list, int64_t timeout_us, struct ihsm_unreachable *what) {
    struct timespec deadline = ihsm_deadline_after(timeout_us < 0 ? 0 : timeout_us);
    int result = IHSM_PULL_TIMEOUT, error = 0;
    pthread_mutex_lock(&list->lock);
    while (!list->closed && list->count == 0 && error != ETIMEDOUT)
        error = timeout_us < 0 ? pthread_cond_wait(&list->filled, &list->lock)
                               : pthread_cond_clockwait(&list->filled, &list->lock, CLOCK_MONOTONIC, &deadline);
    if (list->count > 0) {
        *what = list->waiting[0];
        list->waiting[0] = list->waiting[--list->count];
        result = IHSM_PULL_COMMAND;
    } else if (list->closed) {
        result = IHSM_PULL_CLOSED;
    }
    pthread_mutex_unlock(&list->lock);
    return result;
}

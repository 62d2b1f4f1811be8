/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Threads that serve AES rings, and the life of a scheduler. */
#include "scheduler.h"

#include <limits.h>
#include <stdlib.h>

struct ihsm_scheduler *ihsm_scheduler_new(unsigned aes_workers, int64_t spin_us) {
    struct ihsm_scheduler *scheduler = calloc(1, sizeof *scheduler);
    if (scheduler == NULL)
        return NULL;
    scheduler->workers = calloc(aes_workers ? aes_workers : 1, sizeof *scheduler->workers);
    if (scheduler->workers == NULL || ihsm_pages_init(&scheduler->pages) != 0) {
        free(scheduler->workers);
        free(scheduler);
        return NULL;
    }
    ihsm_ready_init(&scheduler->ready);
    scheduler->poller.spin_ns = spin_us < 0 ? -1 : spin_us * 1000;
    scheduler->workers_wanted = aes_workers;
    return scheduler;
}

void ihsm_scheduler_wake(struct ihsm_scheduler *scheduler) { ihsm_ready_close(&scheduler->ready); }

void ihsm_scheduler_free(struct ihsm_scheduler *scheduler) {
    ihsm_ready_close(&scheduler->ready);
    ihsm_poller_close(scheduler);
    for (unsigned i = 0; i < scheduler->workers_running; i++)
        pthread_join(scheduler->workers[i], NULL);
    if (scheduler->ready.long_served)
        pthread_join(scheduler->long_worker, NULL);
    free(scheduler->workers);
    ihsm_pages_destroy(&scheduler->pages);
    ihsm_ready_destroy(&scheduler->ready);
    free(scheduler);
}

static void work(struct ihsm_scheduler *scheduler, enum ihsm_ready_list list) {
    while (ihsm_ready_wait(&scheduler->ready, list))
        ihsm_scheduler_serve(scheduler, list, UINT_MAX);
}

static void *aes_worker(void *scheduler) {
    pthread_setname_np(pthread_self(), "ihsm-aes");
    work(scheduler, IHSM_READY_AES);
    return NULL;
}

/* Carries out AES commands so long that nobody else should wait for them. */
static void *long_worker(void *scheduler) {
    pthread_setname_np(pthread_self(), "ihsm-aes-long");
    work(scheduler, IHSM_READY_LONG);
    return NULL;
}

void ihsm_scheduler_start_workers(struct ihsm_scheduler *scheduler) {
    struct ihsm_ready *ready = &scheduler->ready;
    pthread_mutex_lock(&ready->lock);
    if (!ready->closed && !ready->long_served && (scheduler->workers_wanted > 0 || scheduler->poller.running))
        ready->long_served = pthread_create(&scheduler->long_worker, NULL, long_worker, scheduler) == 0;
    while (!ready->closed && scheduler->workers_running < scheduler->workers_wanted &&
           pthread_create(&scheduler->workers[scheduler->workers_running], NULL, aes_worker, scheduler) == 0)
        scheduler->workers_running++;
    pthread_mutex_unlock(&ready->lock);
}

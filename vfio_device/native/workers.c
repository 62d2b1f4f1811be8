/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Threads that serve AES rings, and the life of a scheduler. */
#include "scheduler.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "engine.h"

#define LONG_NICE 5

struct ihsm_scheduler *ihsm_scheduler_new(unsigned aes_workers, int64_t spin_us) {
    struct ihsm_scheduler *scheduler = calloc(1, sizeof *scheduler);
    if (scheduler == NULL)
        return NULL;
    scheduler->workers = calloc(aes_workers ? aes_workers : 1, sizeof *scheduler->workers);
    int error = scheduler->workers == NULL ? -ENOMEM : ihsm_pages_init(&scheduler->pages);
    if (error != 0) {
        free(scheduler->workers);
        free(scheduler);
        errno = -error;
        return NULL;
    }
    ihsm_ready_init(&scheduler->ready);
    ihsm_slow_init(&scheduler->slow);
    ihsm_unreachable_init(&scheduler->unreachable);
    scheduler->poller.spin_ns = spin_us < 0 ? -1 : spin_us * 1000;
    scheduler->workers_wanted = aes_workers;
    return scheduler;
}

void ihsm_scheduler_wake(struct ihsm_scheduler *scheduler) {
    ihsm_ready_close(&scheduler->ready);
    ihsm_slow_close(&scheduler->slow);
    ihsm_unreachable_close(&scheduler->unreachable);
}

struct ihsm_unreachable_list *ihsm_scheduler_unreachable(struct ihsm_scheduler *scheduler) {
    return &scheduler->unreachable;
}

void ihsm_scheduler_free(struct ihsm_scheduler *scheduler) {
    ihsm_scheduler_wake(scheduler);
    ihsm_poller_close(scheduler);
    for (unsigned i = 0; i < scheduler->workers_running; i++)
        pthread_join(scheduler->workers[i], NULL);
    for (unsigned i = 0; i < scheduler->long_workers_running; i++)
        pthread_join(scheduler->long_workers[i], NULL);
    free(scheduler->long_workers);
    free(scheduler->workers);
    ihsm_pages_destroy(&scheduler->pages);
    ihsm_ready_destroy(&scheduler->ready);
    ihsm_slow_destroy(&scheduler->slow);
    ihsm_unreachable_destroy(&scheduler->unreachable);
    free(scheduler);
}

static void work(struct ihsm_scheduler *scheduler, enum ihsm_ready_list list) {
    while (ihsm_ready_wait(&scheduler->ready, list))
        ihsm_scheduler_serve(scheduler, list, UINT_MAX);
}

static void *aes_worker(void *scheduler) {
    pthread_setname_np(pthread_self(), "ihsm-aes");
    ihsm_ready_serves_itself();
    work(scheduler, IHSM_READY_AES);
    return NULL;
}

/*
 * Carries out AES commands so long that nobody else should wait for them. There are as many of these threads as
 * functions that may have such a command, of each of which one is carried out at a time: they share the processors as
 * threads do, and none waits for another's command.
 */
static void *long_worker(void *scheduler) {
    pthread_setname_np(pthread_self(), "ihsm-aes-long");
    /* Nobody waits for these as closely: what is short goes first where processors are few. Linux: of this thread. */
    (void)setpriority(PRIO_PROCESS, 0, LONG_NICE);
    work(scheduler, IHSM_READY_LONG);
    return NULL;
}

/* One more; without memory or threads for it the others do its work. ready->lock held. */
static void add_long_worker(struct ihsm_scheduler *scheduler) {
    size_t count = scheduler->long_workers_running;
    pthread_t *threads = realloc(scheduler->long_workers, (count + 1) * sizeof *threads);
    if (threads == NULL)
        return;
    scheduler->long_workers = threads;
    if (pthread_create(&threads[count], NULL, long_worker, scheduler) == 0) {
        scheduler->long_workers_running++;
        scheduler->ready.long_served = true;
    }
}

bool ihsm_scheduler_start_workers(struct ihsm_scheduler *scheduler, struct ihsm_engine *engine) {
    struct ihsm_ready *ready = &scheduler->ready;
    pthread_mutex_lock(&ready->lock);
    if (!ready->closed && !engine->has_aes && (scheduler->workers_wanted > 0 || scheduler->poller.running)) {
        engine->has_aes = true;
        if (++scheduler->aes_engines > scheduler->long_workers_running)
            add_long_worker(scheduler);
    }
    while (!ready->closed && scheduler->workers_running < scheduler->workers_wanted &&
           pthread_create(&scheduler->workers[scheduler->workers_running], NULL, aes_worker, scheduler) == 0)
        scheduler->workers_running++;
    bool served = scheduler->workers_running > 0 || scheduler->poller.running || scheduler->workers_wanted == 0;
    pthread_mutex_unlock(&ready->lock);
    return served;
}

void ihsm_scheduler_leave(struct ihsm_scheduler *scheduler, struct ihsm_engine *engine) {
    pthread_mutex_lock(&scheduler->ready.lock);
    scheduler->aes_engines -= engine->has_aes;
    engine->has_aes = false;
    pthread_mutex_unlock(&scheduler->ready.lock);
}

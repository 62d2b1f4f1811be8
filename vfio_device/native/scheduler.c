/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One scheduler per process: a first-in first-out ready list per class of ring, so that rings (of all functions) are
 * served in turn. Python threads pull from the admin and HSM lists; C threads serve the AES list. One more C thread
 * carries out AES commands so long that nobody else should wait for them.
 */
#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <time.h>

struct ihsm_scheduler {
    pthread_mutex_t lock;
    struct {
        struct ihsm_ring *first, *last;
        pthread_cond_t filled;
    } ready[IHSM_READY_LISTS];
    pthread_cond_t idle; /* some engine's busy count became 0 */
    struct ihsm_poller poller;
    bool closed;
    unsigned workers_wanted, workers_running;
    pthread_t *workers;
    atomic_bool long_worker_running;
    pthread_t long_worker;
};

/* The head of a ready list changes under the lock, but the poller glances at it without. */
static void set_link(struct ihsm_ring **link, struct ihsm_ring *ring) {
    __atomic_store_n(link, ring, __ATOMIC_RELAXED);
}

struct ihsm_poller *ihsm_scheduler_poller(struct ihsm_scheduler *scheduler) { return &scheduler->poller; }

struct ihsm_scheduler *ihsm_scheduler_new(unsigned aes_workers, int64_t spin_us) {
    struct ihsm_scheduler *scheduler = calloc(1, sizeof *scheduler);
    if (scheduler == NULL)
        return NULL;
    scheduler->workers = calloc(aes_workers ? aes_workers : 1, sizeof *scheduler->workers);
    if (scheduler->workers == NULL || ihsm_poller_init(&scheduler->poller, spin_us) != 0) {
        free(scheduler->workers);
        free(scheduler);
        return NULL;
    }
    pthread_mutex_init(&scheduler->lock, NULL);
    for (unsigned list = 0; list < IHSM_READY_LISTS; list++)
        pthread_cond_init(&scheduler->ready[list].filled, NULL);
    pthread_cond_init(&scheduler->idle, NULL);
    scheduler->workers_wanted = aes_workers;
    return scheduler;
}

void ihsm_scheduler_wake(struct ihsm_scheduler *scheduler) {
    pthread_mutex_lock(&scheduler->lock);
    scheduler->closed = true;
    for (unsigned list = 0; list < IHSM_READY_LISTS; list++)
        pthread_cond_broadcast(&scheduler->ready[list].filled);
    pthread_mutex_unlock(&scheduler->lock);
}

void ihsm_scheduler_free(struct ihsm_scheduler *scheduler) {
    ihsm_scheduler_wake(scheduler);
    ihsm_poller_destroy(&scheduler->poller);
    for (unsigned i = 0; i < scheduler->workers_running; i++)
        pthread_join(scheduler->workers[i], NULL);
    if (scheduler->long_worker_running)
        pthread_join(scheduler->long_worker, NULL);
    free(scheduler->workers);
    for (unsigned list = 0; list < IHSM_READY_LISTS; list++)
        pthread_cond_destroy(&scheduler->ready[list].filled);
    pthread_cond_destroy(&scheduler->idle);
    pthread_mutex_destroy(&scheduler->lock);
    free(scheduler);
}

void ihsm_scheduler_push(struct ihsm_scheduler *scheduler, struct ihsm_ring *ring) {
    pthread_mutex_lock(&scheduler->lock);
    unsigned list = ring->class;
    if (list == IHSM_CLASS_AES && scheduler->long_worker_running && ihsm_ring_next_is_long(ring))
        list = IHSM_READY_LONG;
    bool first = scheduler->ready[list].first == NULL;
    ring->next_ready = NULL;
    if (first)
        set_link(&scheduler->ready[list].first, ring);
    else
        scheduler->ready[list].last->next_ready = ring;
    scheduler->ready[list].last = ring;
    /* The poller serves an AES ring it found ready itself, at once: no worker need wake for the first. */
    if (!(first && list == IHSM_READY_AES && ihsm_poller_is_me()))
        pthread_cond_signal(&scheduler->ready[list].filled);
    pthread_mutex_unlock(&scheduler->lock);
}

/* First ring of a ready list, its engine marked busy; NULL if there is none. Lock held. */
static struct ihsm_ring *pop(struct ihsm_scheduler *scheduler, unsigned list) {
    struct ihsm_ring *ring = scheduler->ready[list].first;
    if (ring != NULL) {
        set_link(&scheduler->ready[list].first, ring->next_ready);
        if (ring->next_ready == NULL)
            scheduler->ready[list].last = NULL;
        ring->engine->busy++;
    }
    return ring;
}

static void leave(struct ihsm_scheduler *scheduler, struct ihsm_engine *engine) {
    if (--engine->busy == 0)
        pthread_cond_broadcast(&scheduler->idle);
}

void ihsm_scheduler_forget(struct ihsm_scheduler *scheduler, struct ihsm_engine *engine) {
    pthread_mutex_lock(&scheduler->lock);
    for (unsigned list = 0; list < IHSM_READY_LISTS; list++) {
        struct ihsm_ring **link = &scheduler->ready[list].first, *last = NULL;
        while (*link != NULL) {
            if ((*link)->engine == engine) {
                set_link(link, (*link)->next_ready);
            } else {
                last = *link;
                link = &last->next_ready;
            }
        }
        scheduler->ready[list].last = last;
    }
    while (engine->busy > 0)
        pthread_cond_wait(&scheduler->idle, &scheduler->lock);
    pthread_mutex_unlock(&scheduler->lock);
}

static struct timespec deadline_after(int64_t timeout_us) {
    struct timespec deadline;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += timeout_us / 1000000;
    deadline.tv_nsec += timeout_us % 1000000 * 1000;
    if (deadline.tv_nsec >= 1000000000) {
        deadline.tv_sec++;
        deadline.tv_nsec -= 1000000000;
    }
    return deadline;
}

int ihsm_pull(struct ihsm_scheduler *scheduler, int class, int64_t timeout_us, struct ihsm_command *command) {
    struct timespec deadline = deadline_after(timeout_us < 0 ? 0 : timeout_us);
    int result = IHSM_PULL_TIMEOUT;

    pthread_mutex_lock(&scheduler->lock);
    for (;;) {
        if (scheduler->closed) {
            result = IHSM_PULL_CLOSED;
            break;
        }
        struct ihsm_ring *ring = pop(scheduler, (unsigned)class);
        if (ring != NULL) {
            struct ihsm_engine *engine = ring->engine;
            pthread_mutex_unlock(&scheduler->lock);
            bool taken = ihsm_ring_take(ring, command);
            ihsm_host_kick(engine->host);
            pthread_mutex_lock(&scheduler->lock);
            leave(scheduler, engine);
            if (taken) {
                result = IHSM_PULL_COMMAND;
                break;
            }
        } else if (timeout_us < 0) {
            pthread_cond_wait(&scheduler->ready[class].filled, &scheduler->lock);
        } else if (pthread_cond_clockwait(&scheduler->ready[class].filled, &scheduler->lock, CLOCK_MONOTONIC,
                                          &deadline) == ETIMEDOUT) {
            /* A ring pushed at the last moment woke us or somebody else; take it rather than leave it lying. */
            if (scheduler->ready[class].first == NULL)
                break;
        }
    }
    pthread_mutex_unlock(&scheduler->lock);
    return result;
}

unsigned ihsm_scheduler_serve(struct ihsm_scheduler *scheduler, enum ihsm_ready_list list, unsigned max_rings) {
    struct ihsm_turn total = {0};
    struct ihsm_engine *engine = NULL;
    unsigned rings = 0;
    /* Without the thread for them, long commands are everybody's. */
    bool long_commands = list == IHSM_READY_LONG || !scheduler->long_worker_running;

    /* Racy on purpose: the poller asks in a loop and must not hold up those who take the lock. */
    if (__atomic_load_n(&scheduler->ready[list].first, __ATOMIC_RELAXED) == NULL)
        return 0;
    pthread_mutex_lock(&scheduler->lock);
    while (rings < max_rings && total.commands < IHSM_TURN_COMMANDS && total.bytes < IHSM_TURN_BYTES) {
        struct ihsm_ring *ring = pop(scheduler, list);
        if (ring == NULL)
            break;
        if (engine == ring->engine)
            leave(scheduler, engine); /* held already */
        pthread_mutex_unlock(&scheduler->lock);
        if (engine != NULL && engine != ring->engine) {
            ihsm_host_kick(engine->host);
            pthread_mutex_lock(&scheduler->lock);
            leave(scheduler, engine);
            pthread_mutex_unlock(&scheduler->lock);
        }
        engine = ring->engine;
        struct ihsm_turn turn = ihsm_aes_serve(ring, true, long_commands, IHSM_TURN_COMMANDS, IHSM_TURN_BYTES);
        total.commands += turn.commands;
        total.bytes += turn.bytes;
        rings++;
        pthread_mutex_lock(&scheduler->lock);
    }
    pthread_mutex_unlock(&scheduler->lock);
    if (engine != NULL) {
        /* Rings that share a vector, or a client, are done before it is woken. */
        ihsm_host_kick(engine->host);
        pthread_mutex_lock(&scheduler->lock);
        leave(scheduler, engine);
        pthread_mutex_unlock(&scheduler->lock);
    }
    return rings;
}

bool ihsm_scheduler_serve_one(struct ihsm_scheduler *scheduler) {
    return ihsm_scheduler_serve(scheduler, IHSM_READY_AES, 1) > 0;
}

static void work(struct ihsm_scheduler *scheduler, enum ihsm_ready_list list) {
    pthread_mutex_lock(&scheduler->lock);
    while (!scheduler->closed) {
        if (scheduler->ready[list].first == NULL) {
            pthread_cond_wait(&scheduler->ready[list].filled, &scheduler->lock);
            continue;
        }
        pthread_mutex_unlock(&scheduler->lock);
        ihsm_scheduler_serve(scheduler, list, UINT_MAX);
        pthread_mutex_lock(&scheduler->lock);
    }
    pthread_mutex_unlock(&scheduler->lock);
}

static void *aes_worker(void *scheduler) {
    pthread_setname_np(pthread_self(), "ihsm-aes");
    work(scheduler, IHSM_READY_AES);
    return NULL;
}

static void *long_worker(void *scheduler) {
    pthread_setname_np(pthread_self(), "ihsm-aes-long");
    work(scheduler, IHSM_READY_LONG);
    return NULL;
}

void ihsm_scheduler_start_workers(struct ihsm_scheduler *scheduler) {
    pthread_mutex_lock(&scheduler->lock);
    if (!scheduler->closed && !scheduler->long_worker_running &&
        (scheduler->workers_wanted > 0 || scheduler->poller.running))
        scheduler->long_worker_running = pthread_create(&scheduler->long_worker, NULL, long_worker, scheduler) == 0;
    while (!scheduler->closed && scheduler->workers_running < scheduler->workers_wanted &&
           pthread_create(&scheduler->workers[scheduler->workers_running], NULL, aes_worker, scheduler) == 0)
        scheduler->workers_running++;
    pthread_mutex_unlock(&scheduler->lock);
}

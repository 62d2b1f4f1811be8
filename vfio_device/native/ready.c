/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Ready lists. */
#include "ready.h"

#include "engine.h"

static __thread bool serves_itself;

void ihsm_ready_serves_itself(void) { serves_itself = true; }

/* The head of a list changes under the lock, but ihsm_ready_is_empty reads it without. */
static void set_link(struct ihsm_engine **link, struct ihsm_engine *engine) {
    __atomic_store_n(link, engine, __ATOMIC_RELAXED);
}

void ihsm_ready_init(struct ihsm_ready *ready) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    /* Held for some loads and stores, by threads that come back in microseconds: to sleep takes longer than to wait. */
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ADAPTIVE_NP);
    pthread_mutex_init(&ready->lock, &attributes);
    pthread_mutexattr_destroy(&attributes);
    for (unsigned list = 0; list < IHSM_READY_LISTS; list++)
        pthread_cond_init(&ready->lists[list].filled, NULL);
    pthread_cond_init(&ready->idle, NULL);
    pthread_cond_init(&ready->outside_free, NULL);
}

void ihsm_ready_destroy(struct ihsm_ready *ready) {
    for (unsigned list = 0; list < IHSM_READY_LISTS; list++)
        pthread_cond_destroy(&ready->lists[list].filled);
    pthread_cond_destroy(&ready->idle);
    pthread_cond_destroy(&ready->outside_free);
    pthread_mutex_destroy(&ready->lock);
}

void ihsm_ready_close(struct ihsm_ready *ready) {
    pthread_mutex_lock(&ready->lock);
    ready->closed = true;
    for (unsigned list = 0; list < IHSM_READY_LISTS; list++)
        pthread_cond_broadcast(&ready->lists[list].filled);
    pthread_cond_broadcast(&ready->outside_free);
    pthread_mutex_unlock(&ready->lock);
}

/* Put an engine that has rings at the end of a list. */
static void enlist(struct ihsm_ready *ready, enum ihsm_ready_list list, struct ihsm_engine *engine) {
    engine->waiting[list].listed = true;
    engine->waiting[list].next = NULL;
    if (ready->lists[list].first == NULL)
        set_link(&ready->lists[list].first, engine);
    else
        ready->lists[list].last->waiting[list].next = engine;
    ready->lists[list].last = engine;
}

/* What to signal, once the locks have been let go: while they are held, who is woken waits at once. */
static pthread_cond_t *push(struct ihsm_ready *ready, struct ihsm_ring *ring) {
    pthread_mutex_lock(&ready->lock);
    unsigned list = ring->class;
    if (list == IHSM_READY_AES && ready->long_served && ihsm_ring_next_is_long(ring))
        list = IHSM_READY_LONG;
    struct ihsm_waiting *waiting = &ring->engine->waiting[list];
    ring->next_ready = NULL;
    if (waiting->first == NULL)
        waiting->first = ring;
    else
        waiting->last->next_ready = ring;
    waiting->last = ring;
    if (!waiting->listed && !waiting->served)
        enlist(ready, list, ring->engine);
    bool wake = !waiting->served && !(list == IHSM_READY_AES && serves_itself);
    pthread_mutex_unlock(&ready->lock);
    return wake ? &ready->lists[list].filled : NULL;
}

pthread_cond_t *ihsm_ring_enlist(struct ihsm_ring *ring) {
    if (ring->queued || ring->serving || !ihsm_ring_has_work(ring))
        return NULL;
    ring->queued = true;
    return push(ring->engine->ready, ring);
}

void ihsm_ring_make_ready(struct ihsm_ring *ring) { ihsm_ready_wake(ihsm_ring_enlist(ring)); }

struct ihsm_ring *ihsm_ready_pop(struct ihsm_ready *ready, enum ihsm_ready_list list) {
    struct ihsm_engine *engine = ready->lists[list].first;
    if (engine == NULL)
        return NULL;
    struct ihsm_waiting *waiting = &engine->waiting[list];
    struct ihsm_ring *ring = waiting->first;
    set_link(&ready->lists[list].first, waiting->next);
    waiting->listed = false;
    waiting->first = ring->next_ready;
    waiting->served = list == IHSM_READY_LONG;
    if (waiting->first != NULL && !waiting->served)
        enlist(ready, list, engine);
    engine->busy++;
    return ring;
}

void ihsm_ready_leave(struct ihsm_ready *ready, enum ihsm_ready_list list, struct ihsm_engine *engine) {
    struct ihsm_waiting *waiting = &engine->waiting[list];
    if (waiting->served) {
        waiting->served = false;
        if (waiting->first != NULL) {
            enlist(ready, list, engine);
            pthread_cond_signal(&ready->lists[list].filled);
        }
    }
    if (--engine->busy == 0)
        pthread_cond_broadcast(&ready->idle);
}

void ihsm_ready_wake_another(struct ihsm_ready *ready, enum ihsm_ready_list list) {
    pthread_mutex_lock(&ready->lock);
    const struct ihsm_engine *engine = ready->lists[list].first;
    if (engine != NULL && (engine->waiting[list].next != NULL || engine->waiting[list].first->next_ready != NULL))
        pthread_cond_signal(&ready->lists[list].filled);
    pthread_mutex_unlock(&ready->lock);
}

bool ihsm_ready_wait(struct ihsm_ready *ready, enum ihsm_ready_list list) {
    pthread_mutex_lock(&ready->lock);
    while (!ready->closed && ready->lists[list].first == NULL)
        pthread_cond_wait(&ready->lists[list].filled, &ready->lock);
    bool closed = ready->closed;
    pthread_mutex_unlock(&ready->lock);
    return !closed;
}

void ihsm_ready_forget(struct ihsm_ready *ready, struct ihsm_engine *engine) {
    pthread_mutex_lock(&ready->lock);
    for (unsigned list = 0; list < IHSM_READY_LISTS; list++) {
        struct ihsm_engine **link = &ready->lists[list].first, *last = NULL;
        while (*link != NULL) {
            if (*link == engine) {
                set_link(link, engine->waiting[list].next);
            } else {
                last = *link;
                link = &last->waiting[list].next;
            }
        }
        ready->lists[list].last = last;
        engine->waiting[list] = (struct ihsm_waiting){.served = engine->waiting[list].served};
    }
    while (engine->busy > 0)
        pthread_cond_wait(&ready->idle, &ready->lock);
    pthread_mutex_unlock(&ready->lock);
}

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ready lists, one per class: the functions that have rings with work, each with those rings, both first in first out.
 * Functions are served in turn, whatever the number of their rings, and the rings of a function in turn.
 */
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "ring.h"

/* One per class, and one for AES rings whose next command is a long one. */
enum ihsm_ready_list {
    IHSM_READY_ADMIN = IHSM_CLASS_ADMIN,
    IHSM_READY_HSM = IHSM_CLASS_HSM,
    IHSM_READY_AES = IHSM_CLASS_AES,
    IHSM_READY_LONG,
    IHSM_READY_LISTS,
};

/* The rings of one engine on one list; ready->lock. */
struct ihsm_waiting {
    struct ihsm_engine *next; /* on the list */
    struct ihsm_ring *first, *last;
    bool listed;
    bool served; /* a long command is at work: one at a time for each function, so that no other waits for it */
};

struct ihsm_ready {
    pthread_mutex_t lock; /* a leaf */
    struct {
        struct ihsm_engine *first, *last;
        pthread_cond_t filled;
    } lists[IHSM_READY_LISTS];
    pthread_cond_t idle; /* some engine's busy count became 0 */
    pthread_cond_t outside_free;
    unsigned outside, outside_max; /* threads that execute a pulled HSM command; 0: as many as like */
    bool closed;
    atomic_bool long_served; /* threads take IHSM_READY_LONG; without them long commands are everybody's */
};

void ihsm_ready_init(struct ihsm_ready *ready);
void ihsm_ready_destroy(struct ihsm_ready *ready);
/* Wake whoever waits for a ring, for good. */
void ihsm_ready_close(struct ihsm_ready *ready);

/* Put a ring on its list if it has work and is neither there nor being served; ring->lock held. */
void ihsm_ring_make_ready(struct ihsm_ring *ring);
/*
 * The same but for the waking: what is returned goes to ihsm_ready_wake when ring->lock has been let go. Who is woken
 * takes that lock first of all.
 */
pthread_cond_t *ihsm_ring_enlist(struct ihsm_ring *ring);
/*
 * From now on the calling thread serves what it puts on the AES list itself, or others that are awake do: nobody wakes
 * for it unless ihsm_ready_wake_another says so.
 */
void ihsm_ready_serves_itself(void);

/* With ready->lock held: the next ring of a list, its engine marked busy until ihsm_ready_leave; NULL: none. */
struct ihsm_ring *ihsm_ready_pop(struct ihsm_ready *ready, enum ihsm_ready_list list);
void ihsm_ready_leave(struct ihsm_ready *ready, enum ihsm_ready_list list, struct ihsm_engine *engine);

/* Without it: */
static inline void ihsm_ready_wake(pthread_cond_t *filled) {
    if (filled != NULL)
        pthread_cond_signal(filled);
}
bool ihsm_ready_wait(struct ihsm_ready *ready, enum ihsm_ready_list list); /* until there is a ring; false: closed */
/* If several rings are on the list: one more thread for them, where one waits. */
void ihsm_ready_wake_another(struct ihsm_ready *ready, enum ihsm_ready_list list);
/* Forget the engine's rings and wait until no thread is between popping one and leaving it. */
void ihsm_ready_forget(struct ihsm_ready *ready, struct ihsm_engine *engine);

/* Racy on purpose: the poller asks in a loop and must not hold up those who take the lock. */
static inline bool ihsm_ready_is_empty(const struct ihsm_ready *ready, enum ihsm_ready_list list) {
    return __atomic_load_n(&ready->lists[list].first, __ATOMIC_RELAXED) == NULL;
}

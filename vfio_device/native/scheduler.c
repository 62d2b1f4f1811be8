/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Serving what is ready: functions in turn, and of each its rings in turn. Python threads pull from the admin and HSM
 * lists, and on the way carry out what the express lane takes; C threads serve AES rings.
 */
#include "scheduler.h"

#include <errno.h>

#include "deadline.h"
#include "engine.h"
#include "express/express.h"

/* An HSM command that has been taken; IHSM_PULL_TIMEOUT: it is not for the caller. */
static enum ihsm_pulled by_express(struct ihsm_engine *engine, const struct ihsm_command *command) {
    switch (ihsm_express(engine, command, false)) {
    case IHSM_EXPRESS_DONE:
        return IHSM_PULL_TIMEOUT;
    case IHSM_EXPRESS_SLOW:
        return ihsm_put_slow(engine, command) ? IHSM_PULL_TIMEOUT : IHSM_PULL_COMMAND;
    default:
        return IHSM_PULL_COMMAND;
    }
}

/*
 * Threads that are outside with an HSM command contend for the interpreter lock, so there are only so many at a time;
 * one that comes with another command waits, and does nothing else. The lane goes on with who is inside.
 */
static __thread struct ihsm_ready *outside;

/* The caller is back; ready->lock held, as for the next. */
static void come_in(struct ihsm_ready *ready) {
    if (outside == ready && ready->outside > 0) {
        ready->outside--;
        pthread_cond_signal(&ready->outside_free);
    }
    outside = NULL;
}

static void go_out(struct ihsm_ready *ready) {
    while (!ready->closed && ready->outside_max > 0 && ready->outside >= ready->outside_max)
        pthread_cond_wait(&ready->outside_free, &ready->lock);
    ready->outside++;
    outside = ready;
}

void ihsm_scheduler_set_outside(struct ihsm_scheduler *scheduler, unsigned max) {
    pthread_mutex_lock(&scheduler->ready.lock);
    scheduler->ready.outside_max = max;
    pthread_mutex_unlock(&scheduler->ready.lock);
}

int ihsm_pull(struct ihsm_scheduler *scheduler, int class, int64_t timeout_us, struct ihsm_command *command) {
    struct ihsm_ready *ready = &scheduler->ready;
    struct timespec deadline = ihsm_deadline_after(timeout_us < 0 ? 0 : timeout_us);
    int result = IHSM_PULL_TIMEOUT;

    pthread_mutex_lock(&ready->lock);
    come_in(ready);
    for (;;) {
        if (ready->closed) {
            result = IHSM_PULL_CLOSED;
            break;
        }
        struct ihsm_ring *ring = ihsm_ready_pop(ready, (enum ihsm_ready_list)class);
        if (ring != NULL) {
            struct ihsm_engine *engine = ring->engine;
            pthread_mutex_unlock(&ready->lock);
            enum ihsm_pulled taken = ihsm_ring_take(ring, command);
            ihsm_host_kick(engine->host);
            if (taken == IHSM_PULL_COMMAND && class == IHSM_CLASS_HSM)
                taken = by_express(engine, command);
            pthread_mutex_lock(&ready->lock);
            ihsm_ready_leave(ready, (enum ihsm_ready_list)class, engine);
            if (taken != IHSM_PULL_TIMEOUT) {
                result = taken;
                break;
            }
        } else if (timeout_us < 0) {
            pthread_cond_wait(&ready->lists[class].filled, &ready->lock);
        } else if (pthread_cond_clockwait(&ready->lists[class].filled, &ready->lock, CLOCK_MONOTONIC, &deadline) ==
                   ETIMEDOUT) {
            /* A ring pushed at the last moment woke us or somebody else; take it rather than leave it lying. */
            if (ready->lists[class].first == NULL)
                break;
        }
    }
    if (class == IHSM_CLASS_HSM && (result == IHSM_PULL_COMMAND || result == IHSM_PULL_HELD))
        go_out(ready);
    pthread_mutex_unlock(&ready->lock);
    return result;
}

unsigned ihsm_scheduler_serve(struct ihsm_scheduler *scheduler, enum ihsm_ready_list list, unsigned max_rings) {
    struct ihsm_ready *ready = &scheduler->ready;
    struct ihsm_turn total = {0};
    struct ihsm_engine *engine = NULL;
    unsigned rings = 0;
    /* Without threads for them, long commands are everybody's. */
    bool long_commands = list == IHSM_READY_LONG || !ready->long_served;

    if (ihsm_ready_is_empty(ready, list))
        return 0;
    pthread_mutex_lock(&ready->lock);
    while (rings < max_rings && total.commands < IHSM_TURN_COMMANDS && total.bytes < IHSM_TURN_BYTES &&
           total.steps < IHSM_TURN_STEPS) {
        struct ihsm_ring *ring = ihsm_ready_pop(ready, list);
        if (ring == NULL)
            break;
        if (engine == ring->engine)
            ihsm_ready_leave(ready, list, engine); /* held already */
        pthread_mutex_unlock(&ready->lock);
        if (engine != NULL && engine != ring->engine) {
            ihsm_host_kick(engine->host);
            pthread_mutex_lock(&ready->lock);
            ihsm_ready_leave(ready, list, engine);
            pthread_mutex_unlock(&ready->lock);
        }
        engine = ring->engine;
        struct ihsm_turn turn = ihsm_aes_serve(ring, true, long_commands, IHSM_TURN_COMMANDS, IHSM_TURN_BYTES);
        total.commands += turn.commands;
        total.bytes += turn.bytes;
        total.steps += turn.steps;
        rings++;
        pthread_mutex_lock(&ready->lock);
    }
    pthread_mutex_unlock(&ready->lock);
    if (engine != NULL) {
        /* Rings that share a vector, or a client, are done before it is woken. */
        ihsm_host_kick(engine->host);
        pthread_mutex_lock(&ready->lock);
        ihsm_ready_leave(ready, list, engine);
        pthread_mutex_unlock(&ready->lock);
    }
    return rings;
}

bool ihsm_scheduler_serve_one(struct ihsm_scheduler *scheduler) {
    return ihsm_scheduler_serve(scheduler, IHSM_READY_AES, 1) > 0;
}

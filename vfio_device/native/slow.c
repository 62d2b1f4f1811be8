/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Slow commands: kept, handed out in turn, carried out by the express lane where it can. */
#include "slow.h"

#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "express/express.h"
#include "scheduler.h"

/* More than 65 queues of the driver's 16 slots can hold. */
enum { MAX_WAITING = IHSM_SLOW_BACKLOG };

struct ihsm_slow_command {
    struct ihsm_slow_command *next;
    struct ihsm_command command; /* as much of it as there is: without the rest of the request's room */
};

static size_t used_bytes(const struct ihsm_command *command) {
    return offsetof(struct ihsm_command, request) + command->request_len;
}

void ihsm_slow_init(struct ihsm_slow *slow) {
    pthread_mutex_init(&slow->lock, NULL);
    pthread_cond_init(&slow->filled, NULL);
}

static bool is_live(struct ihsm_engine *engine, const struct ihsm_slow_command *waiting) {
    return ihsm_engine_generation_is_live(engine, waiting->command.queue_id, waiting->command.generation);
}

/* Drop those whose queue has gone, or all; lock held. */
static void drop(struct ihsm_engine *engine, bool all) {
    struct ihsm_slow_waiting *waiting = &engine->slow;
    struct ihsm_slow_command **link = &waiting->first;
    waiting->last = NULL;
    while (*link != NULL) {
        struct ihsm_slow_command *one = *link;
        if (all || !is_live(engine, one)) {
            *link = one->next;
            waiting->count--;
            free(one);
        } else {
            waiting->last = one;
            link = &one->next;
        }
    }
}

static void enlist(struct ihsm_slow *slow, struct ihsm_engine *engine) {
    engine->slow.next = NULL;
    if (slow->first == NULL)
        slow->first = engine;
    else
        slow->last->slow.next = engine;
    slow->last = engine;
}

/* Take an engine off the list, wherever it stands; lock held. */
static void delist(struct ihsm_slow *slow, struct ihsm_engine *engine) {
    struct ihsm_engine *last = NULL;
    for (struct ihsm_engine **link = &slow->first; *link != NULL;) {
        if (*link == engine) {
            *link = engine->slow.next;
        } else {
            last = *link;
            link = &last->slow.next;
        }
    }
    slow->last = last;
}

void ihsm_slow_close(struct ihsm_slow *slow) {
    pthread_mutex_lock(&slow->lock);
    slow->closed = true;
    pthread_cond_broadcast(&slow->filled);
    pthread_mutex_unlock(&slow->lock);
}

void ihsm_slow_forget(struct ihsm_slow *slow, struct ihsm_engine *engine) {
    pthread_mutex_lock(&slow->lock);
    delist(slow, engine);
    drop(engine, true);
    pthread_mutex_unlock(&slow->lock);
}

void ihsm_slow_destroy(struct ihsm_slow *slow) {
    pthread_cond_destroy(&slow->filled);
    pthread_mutex_destroy(&slow->lock);
}

/* Keep a copy for a slow thread; false: too many of the function wait, or there is no memory. */
bool ihsm_put_slow(struct ihsm_engine *engine, const struct ihsm_command *command) {
    struct ihsm_slow *slow = &engine->scheduler->slow;
    struct ihsm_slow_waiting *waiting = &engine->slow;
    struct ihsm_slow_command *kept = malloc(offsetof(struct ihsm_slow_command, command) + used_bytes(command));
    if (kept == NULL)
        return false;
    memcpy(&kept->command, command, used_bytes(command));
    kept->next = NULL;
    pthread_mutex_lock(&slow->lock);
    bool was_empty = waiting->first == NULL;
    if (waiting->count >= MAX_WAITING)
        drop(engine, false);
    bool room = waiting->count < MAX_WAITING && !slow->closed;
    if (room) {
        if (waiting->first == NULL)
            waiting->first = kept;
        else
            waiting->last->next = kept;
        waiting->last = kept;
        waiting->count++;
        if (was_empty)
            enlist(slow, engine);
    }
    pthread_mutex_unlock(&slow->lock);
    if (room) /* without the lock, for which who is woken would wait at once */
        pthread_cond_signal(&slow->filled);
    else
        free(kept);
    return room;
}

/* The next command, its engine kept from being freed; NULL: the scheduler is closed. */
static struct ihsm_slow_command *take(struct ihsm_slow *slow, struct ihsm_engine **engine) {
    struct ihsm_slow_command *one = NULL;
    pthread_mutex_lock(&slow->lock);
    while (!slow->closed && slow->first == NULL)
        pthread_cond_wait(&slow->filled, &slow->lock);
    if (!slow->closed) {
        *engine = slow->first;
        struct ihsm_slow_waiting *waiting = &(*engine)->slow;
        delist(slow, *engine);
        one = waiting->first;
        waiting->first = one->next;
        waiting->count--;
        if (waiting->first != NULL)
            enlist(slow, *engine);
        ihsm_engine_enter(*engine);
    }
    pthread_mutex_unlock(&slow->lock);
    return one;
}

int ihsm_pull_slow(struct ihsm_scheduler *scheduler, struct ihsm_command *command) {
    struct ihsm_slow_command *one;
    struct ihsm_engine *engine;
    while ((one = take(&scheduler->slow, &engine)) != NULL) {
        memcpy(command, &one->command, used_bytes(&one->command));
        bool live = is_live(engine, one);
        free(one);
        bool left = live && ihsm_express(engine, command, true) == IHSM_EXPRESS_NOT;
        ihsm_engine_leave(engine);
        if (left)
            return IHSM_PULL_COMMAND;
    }
    return IHSM_PULL_CLOSED;
}

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HSM commands that take milliseconds, waiting for a thread that has the time: functions in turn, and of each its
 * commands in the order in which they came. What a function may leave waiting is bounded.
 */
#pragma once
#include <pthread.h>
#include <stdbool.h>

struct ihsm_engine;
struct ihsm_slow_command;

/* Commands of one engine; slow->lock. */
struct ihsm_slow_waiting {
    struct ihsm_engine *next; /* on the list, if any command waits */
    struct ihsm_slow_command *first, *last;
    unsigned count;
};

struct ihsm_slow {
    pthread_mutex_t lock; /* the lock of a ring may be taken inside it, to ask whether a command's queue is there */
    pthread_cond_t filled;
    struct ihsm_engine *first, *last;
    bool closed;
};

void ihsm_slow_init(struct ihsm_slow *slow);
void ihsm_slow_destroy(struct ihsm_slow *slow);
/* Wake whoever waits for a command, for good; what waits is dropped. */
void ihsm_slow_close(struct ihsm_slow *slow);
/* The engine is being closed: drop its commands. */
void ihsm_slow_forget(struct ihsm_slow *slow, struct ihsm_engine *engine);

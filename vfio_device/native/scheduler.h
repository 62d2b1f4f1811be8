/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The threads of the process that serve rings, and how they do it.
 *
 * scheduler.c serves what is on the ready lists, poller.c reads doorbell pages and serves AES rings, workers.c has the
 * other threads and the life of the whole.
 */
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "page.h"
#include "ready.h"
#include "slow.h"
#include "unreachable.h"

struct ihsm_poller {
    int64_t spin_ns; /* negative: never sleep */
    atomic_bool closed;
    atomic_bool running;
    pthread_t thread;
};

struct ihsm_scheduler {
    struct ihsm_ready ready;
    struct ihsm_slow slow;
    struct ihsm_pages pages;
    struct ihsm_unreachable_list unreachable;
    struct ihsm_poller poller;
    unsigned workers_wanted, workers_running, long_workers_running; /* these and the next two: ready.lock */
    pthread_t *workers;
    pthread_t *long_workers; /* as many as there have been engines with AES queues at one time */
    unsigned aes_engines;    /* ready.lock */
};

/* -- scheduler.c */
/*
 * Serve ready AES rings, in turn, until there is none or so much has been done as one turn may hold; interrupts follow
 * at the end. Returns how many rings were served.
 */
unsigned ihsm_scheduler_serve(struct ihsm_scheduler *scheduler, enum ihsm_ready_list list, unsigned max_rings);

/* -- poller.c */
/* End the thread, if there is one. */
void ihsm_poller_close(struct ihsm_scheduler *scheduler);

/* -- workers.c */
/* Start the threads that serve AES rings, unless they run: the engine gets a queue. False: nobody would serve it. */
bool ihsm_scheduler_start_workers(struct ihsm_scheduler *scheduler, struct ihsm_engine *engine);
/* The engine is closed: its share of the threads is free for the next. */
void ihsm_scheduler_leave(struct ihsm_scheduler *scheduler, struct ihsm_engine *engine);

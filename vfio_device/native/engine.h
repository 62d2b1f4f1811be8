/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Queue engine of a PCI function, internal view.
 *
 * Lock order, outermost first:
 *   1. host->mutex, the function mutex. The owner thread holds it while the transport runs (and so while a BAR0
 *      callback runs Python). Everybody else only tries it, except Python-facing calls, which may wait for it
 *      because they hold neither the GIL (cffi released it) nor any lock below.
 *   2. the GIL, taken by callbacks into Python with 1 held. A thread that holds the GIL never waits for a lock of
 *      this list: each of them is taken inside a C function, where cffi has released the GIL.
 *   3. slow->lock, for keeping or handing out a command; pages->lock, while the doorbell pages are read.
 *   4. ring->lock, held for a fetch or a completion of an admin or HSM command, never while an AES command runs:
 *      the thread that serves an AES ring owns it through ring->serving instead.
 *   5. host->regions.lock, read side while guest memory is touched. Its writers (mapping callbacks) hold 1 only.
 *   6. ready->lock, inject->lock the lock of mailboxes (doe.h) and those of interfaces (tdi.h), all leaves.
 * No thread waits for 1 or 2 while it holds one of 3 to 6.
 */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine.cdef.h"
#include "fastpath/fastpath.h"
#include "host.h"
#include "inject.h"
#include "page.h"
#include "ready.h"
#include "ring.h"
#include "slow.h"
#include "unreachable.h"

struct ihsm_engine {
    struct ihsm_scheduler *scheduler;
    struct ihsm_ready *ready; /* this and the next: the scheduler's */
    struct ihsm_unreachable_list *unreachable;
    struct ihsm_host *host;
    struct ihsm_inject inject;
    uint64_t id;
    bool inline_aes;                               /* the thread that rings a doorbell may do short AES work itself */
    unsigned busy;                                 /* threads that popped one of our rings; ready->lock */
    bool has_aes;                                  /* an AES queue has been made; ready->lock */
    struct ihsm_waiting waiting[IHSM_READY_LISTS]; /* ready->lock */
    atomic_uint users; /* calls from Python that may touch the host after they released a ring */
    bool closed;
    struct ihsm_fp_function fp;
    struct ihsm_published *published; /* for the express lane; NULL: there is none */
    struct ihsm_slow_waiting slow;
    struct ihsm_page page;
    struct {
        _Atomic uint64_t doorbells, doorbells_bad_value, doorbells_unknown_queue, admin_commands, hsm_commands,
            hsm_express, hsm_rejected, aes_commands, sqe_unreadable, cqe_unwritable, completions_dropped;
    } counters;
    struct ihsm_ring rings[IHSM_RINGS];
};

static inline void ihsm_count(_Atomic uint64_t *counter, uint64_t by) {
    atomic_fetch_add_explicit(counter, by, memory_order_relaxed);
}

/* Guest memory that a command of the ring needs is out of reach; the region lock is held. cid: struct ihsm_unreachable.
 */
static inline void ihsm_note_unreachable(struct ihsm_engine *engine, uint8_t kind, uint16_t queue_id, uint16_t cid,
                                         uint64_t iova, uint64_t len) {
    ihsm_unreachable_note(engine->unreachable, &engine->host->regions,
                          (struct ihsm_unreachable){
                              .engine_id = engine->id, .iova = iova, .queue_id = queue_id, .cid = cid, .kind = kind},
                          len, kind == IHSM_UNREACHABLE_COMPLETION || kind == IHSM_UNREACHABLE_DESTINATION);
}

/* A command has touched a hole that may not be filled any more: iova is where its data go; the region lock is held. */
static inline void ihsm_note_beyond_fill(struct ihsm_engine *engine, uint16_t queue_id, uint16_t cid, uint64_t iova) {
    ihsm_unreachable_note(engine->unreachable, &engine->host->regions,
                          (struct ihsm_unreachable){.engine_id = engine->id,
                                                    .iova = iova,
                                                    .queue_id = queue_id,
                                                    .cid = cid,
                                                    .kind = IHSM_UNREACHABLE_DESTINATION,
                                                    .reason = IHSM_BEYOND_FILL},
                          0, true);
}

/* Around a call that may come when the engine is being closed: closing waits for those inside. */
static inline void ihsm_engine_enter(struct ihsm_engine *engine) { atomic_fetch_add(&engine->users, 1); }
static inline void ihsm_engine_leave(struct ihsm_engine *engine) { atomic_fetch_sub(&engine->users, 1); }

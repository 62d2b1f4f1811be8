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
 *   3. poller->lock, while the doorbell pages are read.
 *   4. ring->lock, held for a fetch or a completion of an admin or HSM command, never while an AES command runs:
 *      the thread that serves an AES ring owns it through ring->serving instead.
 *   5. host->regions.lock, read side while guest memory is touched. Its writers (mapping callbacks) hold 1 only.
 *   6. scheduler->lock, a leaf.
 * No thread waits for 1 or 2 while it holds one of 3 to 6.
 */
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "abi.h"
#include "engine.cdef.h"
#include "fastpath/fastpath.h"
#include "fence.h"
#include "host.h"
#include "regions.h"

#define IHSM_HSM_RINGS IHSM_LAST_HSM_QUEUE_ID
#define IHSM_AES_RINGS (IHSM_LAST_AES_QUEUE_ID - IHSM_FIRST_AES_QUEUE_ID + 1)
#define IHSM_RINGS (1 + IHSM_HSM_RINGS + IHSM_AES_RINGS)

/* One turn of an AES ring ends after so many commands or bytes, then the next ring is served. */
#define IHSM_TURN_COMMANDS 32
#define IHSM_TURN_BYTES (256 * 1024)
/* A longer AES command is left to a thread of its own, so that it holds up neither doorbells nor other rings. */
#define IHSM_LONG_BYTES IHSM_TURN_BYTES
/* AES entries read from a ring at once; what has been read counts as in flight. */
#define IHSM_AES_FETCH 8

_Static_assert(sizeof(((struct ihsm_command *)0)->request) == IHSM_MAX_REQUEST_BYTES, "request buffer");

/* ---- rings: ring.c, hsm_ring.c, aes_ring.c ---- */

struct ihsm_ring {
    struct ihsm_engine *engine;
    struct ihsm_ring *next_ready; /* scheduler->lock */
    pthread_mutex_t lock;
    pthread_cond_t changed; /* in_flight became 0, serving ended, or the queue went */
    uint16_t id;
    uint8_t class;
    bool queued;  /* on a ready list, or popped from it and not yet looked at */
    bool serving; /* an AES server owns head, in_flight, fetched and the CQ tail */
    bool sq_live;
    bool sq_deleting; /* no further fetch */
    bool cq_live;
    bool cq_phase;
    atomic_bool stopped; /* unreadable SQE or unwritable CQE */
    atomic_bool stop;    /* asks the server to leave */
    int vector;
    uint32_t generation; /* differs for every life of the SQ */
    uint32_t in_flight;  /* fetched, not completed; each holds a place in the CQ */
    uint64_t sq_base, cq_base;
    uint32_t sq_entries, cq_entries;
    atomic_uint sq_head; /* next entry to fetch; what CQEs report as sqhd */
    atomic_uint sq_tail, cq_head, cq_tail;
    uint32_t fetched_next, fetched_count;
    union ihsm_aes_entry *fetched; /* AES rings: entries read and not yet executed */
};

/* A queue pair whose doorbells the poller reads, and what it read last. */
struct ihsm_watch {
    struct ihsm_ring *ring;
    uint64_t seen;
};

struct ihsm_engine {
    struct ihsm_scheduler *scheduler;
    struct ihsm_host *host;
    uint64_t id;
    bool inline_aes;   /* the thread that rings a doorbell may do short AES work itself */
    unsigned busy;     /* threads that popped one of our rings; scheduler->lock */
    atomic_uint users; /* calls from Python that may touch the host after they released a ring */
    bool closed;
    struct ihsm_fp_function fp;
    void *page;                      /* doorbell page, NULL: doorbells arrive as accesses */
    struct ihsm_engine *next_polled; /* this and the next two: poller->lock */
    unsigned watched;
    struct ihsm_watch watch[IHSM_RINGS];
    struct {
        _Atomic uint64_t doorbells, doorbells_bad_value, doorbells_unknown_queue, admin_commands, hsm_commands,
            hsm_rejected, aes_commands, sqe_unreadable, cqe_unwritable, completions_dropped;
    } counters;
    struct ihsm_ring rings[IHSM_RINGS];
};

static inline void ihsm_count(_Atomic uint64_t *counter, uint64_t by) {
    atomic_fetch_add_explicit(counter, by, memory_order_relaxed);
}

/* Around a call that may come when the engine is being closed: closing waits for those inside. */
static inline void ihsm_engine_enter(struct ihsm_engine *engine) { atomic_fetch_add(&engine->users, 1); }
static inline void ihsm_engine_leave(struct ihsm_engine *engine) { atomic_fetch_sub(&engine->users, 1); }

struct ihsm_ring *ihsm_engine_ring(struct ihsm_engine *engine, unsigned id); /* NULL: no such queue can exist */
size_t ihsm_ring_sqe_bytes(const struct ihsm_ring *ring);
size_t ihsm_ring_cqe_bytes(const struct ihsm_ring *ring);

/* All of these with ring->lock held (or, for an AES ring, by its server). */
uint32_t ihsm_ring_pending(struct ihsm_ring *ring); /* entries between head and tail */
uint32_t ihsm_ring_cq_room(struct ihsm_ring *ring); /* CQ places neither used nor promised */
bool ihsm_ring_has_work(struct ihsm_ring *ring);
bool ihsm_ring_next_is_long(struct ihsm_ring *ring); /* an AES command of more than IHSM_LONG_BYTES has been fetched */
void ihsm_ring_make_ready(struct ihsm_ring *ring);   /* put on the ready list if there is work and it is not there */
/* With the region lock held too: */
bool ihsm_ring_fetch(struct ihsm_ring *ring,
                     void *sqe); /* read the entry at head, head++, in_flight++; false: stopped */
/* Fill in sqhd, sqid and phase and post; status bits and the rest are the caller's. in_flight--. False: stopped. */
bool ihsm_ring_post(struct ihsm_ring *ring, void *cqe);

/* Take one HSM or admin command for Python; bad HSM entries are answered on the way. False: nothing to hand out. */
bool ihsm_ring_take(struct ihsm_ring *ring, struct ihsm_command *command);
struct ihsm_turn {
    unsigned commands;
    uint64_t bytes;
};

/*
 * Serve an AES ring for one turn; the caller kicks the host. popped: it was taken from a ready list. A command of more
 * than max_bytes is carried out only with long_commands, else it stays next and the ring becomes ready again.
 */
struct ihsm_turn ihsm_aes_serve(struct ihsm_ring *ring, bool popped, bool long_commands, unsigned max_commands,
                                uint32_t max_bytes);
/* Answer what has been fetched and not executed with 'queue deleted'; ring->lock and region lock held, not serving. */
void ihsm_aes_drain(struct ihsm_ring *ring);

/* Take over a doorbell's new value; one that makes no sense is counted. True: legal. */
bool ihsm_ring_doorbell(struct ihsm_ring *ring, bool is_cq_head, uint32_t value);

/* ---- doorbell pages: poller.c; all no-ops for an engine without a page ---- */

struct ihsm_poller {
    pthread_mutex_t lock; /* what is read; taken before ring locks, never with one held */
    atomic_uint waiting;
    struct ihsm_engine *engines;
    int kick_fd;
    int64_t spin_ns; /* negative: never sleep */
    atomic_uint asleep;
    atomic_bool closed;
    atomic_bool running;
    pthread_t thread;
};

int ihsm_poller_init(struct ihsm_poller *poller, int64_t spin_us);
void ihsm_poller_destroy(struct ihsm_poller *poller);
void ihsm_poller_kick(struct ihsm_poller *poller);
bool ihsm_poller_is_me(void);
/* Keep the poller from looking while queues of this engine come or go: what lies in the page is older than they are. */
void ihsm_page_lock(struct ihsm_engine *engine);
void ihsm_page_unlock(struct ihsm_engine *engine);
/* With that lock held: */
void ihsm_page_watch(struct ihsm_ring *ring);      /* a CQ came: its pair of doorbells is 0 */
void ihsm_page_unwatch(struct ihsm_ring *ring);    /* the CQ went */
void ihsm_page_restart_sq(struct ihsm_ring *ring); /* an SQ came on a CQ that may be older */
void ihsm_page_clear(struct ihsm_engine *engine);  /* all queues go */
/* Without it: */
void ihsm_page_forget(struct ihsm_engine *engine);
bool ihsm_page_store(struct ihsm_engine *engine, uint64_t offset, uint32_t value); /* false: no page */
uint32_t ihsm_page_load(struct ihsm_engine *engine, uint64_t offset);

/* ---- scheduler.c ---- */

/* One per class, and one for AES rings whose next command is a long one. */
enum ihsm_ready_list {
    IHSM_READY_ADMIN = IHSM_CLASS_ADMIN,
    IHSM_READY_HSM = IHSM_CLASS_HSM,
    IHSM_READY_AES = IHSM_CLASS_AES,
    IHSM_READY_LONG,
    IHSM_READY_LISTS,
};

/*
 * Serve ready AES rings, in turn, until there is none or so much has been done as one turn may hold; interrupts follow
 * at the end. Returns how many rings were served.
 */
unsigned ihsm_scheduler_serve(struct ihsm_scheduler *scheduler, enum ihsm_ready_list list, unsigned max_rings);
struct ihsm_poller *ihsm_scheduler_poller(struct ihsm_scheduler *scheduler);

void ihsm_scheduler_push(struct ihsm_scheduler *scheduler, struct ihsm_ring *ring);
void ihsm_scheduler_start_workers(struct ihsm_scheduler *scheduler);
/* Forget the engine's rings and wait until no thread is between popping one and leaving it. */
void ihsm_scheduler_forget(struct ihsm_scheduler *scheduler, struct ihsm_engine *engine);

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A queue pair of the client: a submission ring in its memory and the completion ring with the same id (spec 01 §5).
 *
 * ring.c has what all classes share; above it hsm_ring.c (admin and HSM commands, for Python), aes_ring.c (AES
 * commands, served in C) and doorbell.c.
 */
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "abi.h"
#include "engine.cdef.h"

#define IHSM_HSM_RINGS IHSM_LAST_HSM_QUEUE_ID
#define IHSM_AES_RINGS (IHSM_LAST_AES_QUEUE_ID - IHSM_FIRST_AES_QUEUE_ID + 1)
#define IHSM_RINGS (1 + IHSM_HSM_RINGS + IHSM_AES_RINGS)

/* One turn of an AES ring ends after so many commands, bytes, or steps in their lists, then the next ring is served. */
#define IHSM_TURN_COMMANDS 32
#define IHSM_TURN_BYTES (UINT64_C(256) * 1024)
#define IHSM_TURN_STEPS 2048
/*
 * A longer AES command, in bytes or in the steps of its lists, is left to other threads, so that it holds up neither
 * doorbells nor other rings. Of a list one knows only in the middle of it: then it is walked anew there.
 */
#define IHSM_LONG_BYTES IHSM_TURN_BYTES
#define IHSM_LONG_STEPS 1024
/* AES entries read from a ring at once; what has been read counts as in flight. */
#define IHSM_AES_FETCH 8

union ihsm_aes_entry; /* fastpath/fastpath.h */

struct ihsm_ring {
    struct ihsm_engine *engine;
    struct ihsm_ring *next_ready; /* ready->lock */
    pthread_mutex_t lock;
    pthread_cond_t changed; /* in_flight became 0, serving ended, or the queue went */
    uint16_t id;
    uint8_t class;
    bool queued;  /* on a ready list, or popped from it and not yet looked at */
    bool serving; /* an AES server owns head, in_flight, fetched and the CQ tail */
    bool sq_live;
    atomic_bool sq_deleting; /* no further fetch; written with the lock held */
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
    bool next_put_off;             /* the lists of the next fetched entry have turned out to be long */
    union ihsm_aes_entry *fetched; /* AES rings: entries read and not yet executed */
};

struct ihsm_ring *ihsm_engine_ring(struct ihsm_engine *engine, unsigned id); /* NULL: no such queue can exist */
size_t ihsm_ring_sqe_bytes(const struct ihsm_ring *ring);
size_t ihsm_ring_cqe_bytes(const struct ihsm_ring *ring);

/* All of these with ring->lock held (or, for an AES ring, by its server). */
uint32_t ihsm_ring_pending(struct ihsm_ring *ring); /* entries between head and tail */
uint32_t ihsm_ring_cq_room(struct ihsm_ring *ring); /* CQ places neither used nor promised */
bool ihsm_ring_has_work(struct ihsm_ring *ring);
bool ihsm_ring_next_is_long(struct ihsm_ring *ring); /* a long AES command has been fetched */
/* With the region lock held too: read the entry at head, head++, in_flight++. False: stopped. */
bool ihsm_ring_fetch(struct ihsm_ring *ring, void *sqe);
/* Likewise: fill in sqhd, sqid and phase and post, in_flight--; the rest, status bits too, is there. False: stopped. */
bool ihsm_ring_post(struct ihsm_ring *ring, void *cqe);
/* The same with another head and phase. */
bool ihsm_ring_post_as(struct ihsm_ring *ring, void *cqe, uint16_t sqhd, bool phase);

/* -- hsm_ring.c */
/* Take one HSM or admin command for Python, IHSM_PULL_COMMAND or _HELD; bad HSM entries are answered on the way. */
enum ihsm_pulled ihsm_ring_take(struct ihsm_ring *ring, struct ihsm_command *command);
/* Post a completion that a fault has put off, if the SQ still lives. */
void ihsm_hsm_post_late(struct ihsm_ring *ring, uint32_t generation, void *cqe);

/* -- aes_ring.c */
struct ihsm_turn {
    unsigned commands;
    bool answered; /* one of them at least: the vector is due */
    uint64_t bytes, steps;
};

/*
 * Serve an AES ring for one turn; the caller kicks the host. popped: it was taken from a ready list. A command of more
 * than max_bytes or IHSM_LONG_STEPS is carried out only with long_commands, else it stays next and the ring becomes
 * ready again.
 */
struct ihsm_turn ihsm_aes_serve(struct ihsm_ring *ring, bool popped, bool long_commands, unsigned max_commands,
                                uint32_t max_bytes);
/* The same for an AES ring, and carry out a command that a fault has held. */
void ihsm_aes_post_late(struct ihsm_ring *ring, uint32_t generation, void *cqe);
void ihsm_aes_carry_out_late(struct ihsm_ring *ring, uint32_t generation, const union ihsm_aes_entry *entry);
/* Answer what has been fetched and not executed with 'queue deleted'; ring->lock and region lock held, not serving. */
void ihsm_aes_drain(struct ihsm_ring *ring);

/* -- doorbell.c */
/* Take over a doorbell's new value; one that makes no sense is counted. True: legal. */
bool ihsm_ring_doorbell(struct ihsm_ring *ring, bool is_cq_head, uint32_t value);

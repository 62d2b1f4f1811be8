/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Faults that a function is told to show (ihsm_abi/faults.py): which there are, which events they hit, and what has
 * been put off by them. What the actions do is faulty.c's and host.c's for commands and vectors, and Python's for
 * registers.
 *
 * Who comes by a place where a fault may act looks at the flag word, one relaxed load, and goes on. Only if an action
 * of that place is in it the event is described and compared, under a lock.
 */
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "abi.h"
#include "engine.cdef.h"
#include "hooks.h"

#define IHSM_FAULTS 64
#define IHSM_ACTION_BIT(name) (UINT64_C(1) << IHSM_ACTION_##name)
#define IHSM_FATE_ACTIONS (IHSM_ACTION_BIT(HOLD_COMMAND) | IHSM_ACTION_BIT(FAIL_DMA) | IHSM_ACTION_BIT(RESET_FUNCTION))
#define IHSM_FETCH_ACTIONS (IHSM_FATE_ACTIONS | IHSM_ACTION_BIT(NEVER))
#define IHSM_COMPLETION_ACTIONS                                                                                        \
    (IHSM_ACTION_BIT(DROP_COMPLETION) | IHSM_ACTION_BIT(DELAY_COMPLETION) | IHSM_ACTION_BIT(DUPLICATE_COMPLETION) |    \
     IHSM_ACTION_BIT(WRONG_CID) | IHSM_ACTION_BIT(WRONG_PHASE) | IHSM_ACTION_BIT(WRONG_SQHD) |                         \
     IHSM_ACTION_BIT(WRONG_STATUS) | IHSM_ACTION_BIT(REORDER_COMPLETIONS))
#define IHSM_RESPONSE_ACTIONS (IHSM_ACTION_BIT(CORRUPT_RESPONSE) | IHSM_ACTION_BIT(CUT_RESPONSE))
#define IHSM_INTERRUPT_ACTIONS (IHSM_ACTION_BIT(LOSE_INTERRUPT) | IHSM_ACTION_BIT(DELAY_INTERRUPT))

struct ihsm_ring;

/* A completion that comes later, or an AES command that is held. */
struct ihsm_late {
    struct ihsm_late *next;
    struct ihsm_ring *ring;
    uint32_t generation; /* of the ring: in another life it is dropped */
    bool is_command;
    uint32_t held_by;   /* fault whose end it waits for at the longest; 0: none, but for its time */
    uint32_t behind;    /* of a completion that waits for others of its ring: how many */
    int64_t due_ns;     /* of a completion without held_by */
    uint8_t bytes[128]; /* the completion, or the command's entry */
};

struct ihsm_fault_state {
    struct ihsm_fault fault;
    int64_t begin_ns, end_ns;
    uint64_t seen, hits;
    int64_t due_ns, told_ns; /* of a storm: the next one, and when hits were told last */
    bool end_told, untold;
};

struct ihsm_inject {
    _Atomic uint64_t flags; /* actions that a fault may still take, by bit */
    struct ihsm_trace *trace;
    pthread_mutex_t lock;   /* a leaf; guards the rest */
    pthread_cond_t changed; /* something has happened that ihsm_engine_faults_wait tells or does */
    uint32_t last_id;
    unsigned count;
    struct ihsm_fault_state faults[IHSM_FAULTS]; /* in the order in which they were added */
    struct ihsm_late *late;
    unsigned overtaken; /* completions among them that wait for others */
    int64_t vector_due_ns[IHSM_MSIX_VECTORS];
    uint32_t vectors_late; /* those that have a time there */
    unsigned happened;     /* enum ihsm_happened, not yet told */
};

/* What is due now. */
struct ihsm_due {
    struct ihsm_late *late;
    uint32_t vectors_late, vectors_spurious;
    unsigned happened;
};

void ihsm_inject_init(struct ihsm_inject *inject, struct ihsm_trace *trace);
/* No thread waits any more, and none will. */
void ihsm_inject_close(struct ihsm_inject *inject);
void ihsm_inject_destroy(struct ihsm_inject *inject);

static inline bool ihsm_inject_armed(struct ihsm_inject *inject, uint64_t actions) {
    return __builtin_expect((atomic_load_explicit(&inject->flags, memory_order_relaxed) & actions) != 0, 0);
}

int64_t ihsm_inject_add(struct ihsm_inject *inject, const struct ihsm_fault *fault);
int ihsm_inject_clear(struct ihsm_inject *inject, uint32_t id);
int64_t ihsm_inject_hits(struct ihsm_inject *inject, uint32_t id);
bool ihsm_inject_stands(struct ihsm_inject *inject, uint32_t id);

/* An event that has none of what faults match. */
struct ihsm_event ihsm_event_none(void);

/*
 * Whether a fault with one of the actions hits the event, which is counted: the first that was added of those that
 * want it. A copy of it is in *fault.
 */
bool ihsm_inject_hit(struct ihsm_inject *inject, uint64_t actions, const struct ihsm_event *event,
                     struct ihsm_fault *fault);
/* Whether the next read of these registers would find ones; it is no event. */
bool ihsm_inject_gone(struct ihsm_inject *inject, uint32_t registers);

/* Keep what comes later: what is filled in but the bytes, of which there are len. False: no memory. */
bool ihsm_inject_put_off(struct ihsm_inject *inject, const struct ihsm_late *what, const void *bytes, size_t len);
int64_t ihsm_inject_after_ms(uint64_t ms);
/* Whether a completion of the ring waits for others. */
bool ihsm_inject_has_overtaken(struct ihsm_inject *inject, const struct ihsm_ring *ring);
/* Another completion of the ring has been written, or (all) none will be: take the one whose turn it is now. */
bool ihsm_inject_take_overtaken(struct ihsm_inject *inject, const struct ihsm_ring *ring, bool all, void *bytes,
                                size_t len);
/* Drop what has been put off of a ring, or of all (NULL). */
void ihsm_inject_forget(struct ihsm_inject *inject, const struct ihsm_ring *ring);
void ihsm_inject_put_off_vector(struct ihsm_inject *inject, unsigned vector, uint64_t delay_ms);
void ihsm_inject_forget_vectors(struct ihsm_inject *inject, uint32_t vectors);
void ihsm_inject_happened(struct ihsm_inject *inject, unsigned what);

/* Wait for something to tell or to do, and take it. */
struct ihsm_due ihsm_inject_wait(struct ihsm_inject *inject);

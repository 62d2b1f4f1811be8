/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records of a trace (ihsm_abi/trace.py): what a function sees and does, for whoever wants to know.
 *
 * Who comes by a place that is recorded looks at the word of kinds, one relaxed load, and goes on. Only if the kind of
 * that place is in it a record is made: room is taken in a ring, filled, and given free for reading. All threads write,
 * without a lock; one reads. A record for which there is no room is counted, and nobody waits, neither for room nor for
 * the reader. The order in the ring is that in which room was taken, so who takes it before an event becomes visible
 * outside is before everything that answers the event.
 *
 * Built with -Dtrace_hooks=false there are no such places.
 */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "abi.h"
#include "engine.cdef.h"

#ifdef IHSM_TRACE_HOOKS
#define IHSM_HAS_TRACE_HOOKS true
#else
#define IHSM_HAS_TRACE_HOOKS false
#endif

struct ihsm_trace_ring;

struct ihsm_trace {
    _Atomic uint32_t kinds; /* that are recorded, by bit */
    uint16_t function;
    _Atomic uint64_t epoch_ns;            /* what the monotonic clock has to be added to: set when recording begins */
    struct ihsm_trace_ring *_Atomic ring; /* made when something is first recorded, for the life of the host */
};

/* A place in the ring that is being filled. */
struct ihsm_record {
    uint64_t *header; /* its two words; NULL: it is not recorded */
    void *body;
    uint64_t ready; /* the second of them, as it will be */
};

void ihsm_trace_destroy(struct ihsm_trace *trace);

/* Room for a record with so many bytes behind its header; to be ended or dropped soon. */
struct ihsm_record ihsm_trace_take(struct ihsm_trace *trace, uint16_t kind, size_t length);
/* The record is there. */
void ihsm_record_end(struct ihsm_record record);
/* What it tells did not happen. */
void ihsm_record_drop(struct ihsm_record record);

static inline bool ihsm_traced(struct ihsm_trace *trace, enum ihsm_trace_kind kind) {
    return IHSM_HAS_TRACE_HOOKS &&
           __builtin_expect(atomic_load_explicit(&trace->kinds, memory_order_relaxed) >> kind & 1, 0);
}

/* As ihsm_trace_take, if the kind is recorded. */
static inline struct ihsm_record ihsm_record_begin(struct ihsm_trace *trace, enum ihsm_trace_kind kind, size_t length) {
    return ihsm_traced(trace, kind) ? ihsm_trace_take(trace, (uint16_t)kind, length) : (struct ihsm_record){0};
}

/* -- the records of several files' places; each begins and ends one */
void ihsm_trace_access(struct ihsm_trace *trace, enum ihsm_trace_kind kind, int region, uint64_t offset,
                       const void *data, size_t width);
void ihsm_trace_doorbell(struct ihsm_trace *trace, uint64_t offset, uint32_t value, uint16_t queue, bool is_cq_head,
                         enum ihsm_doorbell_outcome outcome);
/* Entries that were fetched at once from a ring of so many slots, the first from `slot`. */
void ihsm_trace_entries(struct ihsm_trace *trace, uint16_t queue, uint32_t slot, uint32_t slots, const void *entries,
                        size_t size, unsigned count);
void ihsm_trace_fault(struct ihsm_trace *trace, uint32_t fault, int queue, int vector);
void ihsm_trace_reset(struct ihsm_trace *trace, int reset);

/* A completion; cqe without the word that ends it, which is psf. Begun before its phase is visible. */
struct ihsm_record ihsm_trace_completion(struct ihsm_trace *trace, uint16_t queue, uint32_t slot, int vector,
                                         const void *cqe, size_t size, uint16_t psf);
struct ihsm_record ihsm_trace_dma(struct ihsm_trace *trace, enum ihsm_trace_kind kind, uint64_t iova, uint64_t size,
                                  uint32_t prot);

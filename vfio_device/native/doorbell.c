/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Doorbell values, and doorbells that arrive as accesses to BAR2 (spec 01 §3). */
#include "engine.h"

/* What the thread that carries a doorbell may do itself, a few microseconds: it spares the wake-up of a worker. */
#define INLINE_COMMANDS 4
#define INLINE_BYTES (16 * 1024)

static bool tail_is_legal(struct ihsm_ring *ring, uint32_t value) {
    uint32_t tail = atomic_load(&ring->sq_tail);
    if (!ring->sq_live || value >= ring->sq_entries || value == tail)
        return false;
    uint32_t added = value > tail ? value - tail : value + ring->sq_entries - tail;
    return added <= ring->sq_entries - 1 - ihsm_ring_pending(ring);
}

static bool head_is_legal(struct ihsm_ring *ring, uint32_t value) {
    uint32_t head = atomic_load(&ring->cq_head), tail = atomic_load(&ring->cq_tail), entries = ring->cq_entries;
    if (!ring->cq_live || value >= entries || value == head)
        return false;
    uint32_t used = tail >= head ? tail - head : tail + entries - head;
    uint32_t consumed = value > head ? value - head : value + entries - head;
    return consumed <= used;
}

static void record(struct ihsm_ring *ring, bool is_cq_head, uint32_t value, enum ihsm_doorbell_outcome outcome) {
    uint64_t offset = (UINT64_C(2) * ring->id + is_cq_head) * IHSM_STRIDE_BYTES;
    ihsm_trace_doorbell(&ring->engine->host->trace, offset, value, ring->id, is_cq_head, outcome);
}

/* Ring lock held. */
static bool take_over(struct ihsm_ring *ring, bool is_cq_head, uint32_t value) {
    struct ihsm_engine *engine = ring->engine;
    if (ihsm_inject_armed(&engine->inject, IHSM_ACTION_BIT(ALL_ONES)) && ihsm_inject_gone(&engine->inject, 0)) {
        record(ring, is_cq_head, value, IHSM_DOORBELL_OUTCOME_GONE);
        return false;
    }
    bool known = is_cq_head ? ring->cq_live : ring->sq_live;
    bool legal = known && (is_cq_head ? head_is_legal(ring, value) : tail_is_legal(ring, value));
    ihsm_count(&engine->counters.doorbells, 1);
    /* Before the new value has an effect. */
    record(ring, is_cq_head, value,
           legal   ? IHSM_DOORBELL_OUTCOME_TAKEN
           : known ? IHSM_DOORBELL_OUTCOME_BAD_VALUE
                   : IHSM_DOORBELL_OUTCOME_UNKNOWN_QUEUE);
    if (legal)
        atomic_store(is_cq_head ? &ring->cq_head : &ring->sq_tail, value);
    else
        ihsm_count(known ? &engine->counters.doorbells_bad_value : &engine->counters.doorbells_unknown_queue, 1);
    return legal;
}

bool ihsm_ring_doorbell(struct ihsm_ring *ring, bool is_cq_head, uint32_t value) {
    pthread_mutex_lock(&ring->lock);
    bool legal = take_over(ring, is_cq_head, value);
    pthread_cond_t *filled = legal ? ihsm_ring_enlist(ring) : NULL;
    pthread_mutex_unlock(&ring->lock);
    ihsm_ready_wake(filled);
    return legal;
}

void ihsm_engine_doorbell(struct ihsm_engine *engine, uint64_t offset, uint32_t value) {
    struct ihsm_ring *ring = ihsm_engine_ring(engine, (unsigned)(offset / (UINT64_C(2) * IHSM_STRIDE_BYTES)));

    if (ring == NULL || offset % IHSM_STRIDE_BYTES != 0 || offset >= IHSM_BAR_BYTES) {
        ihsm_count(&engine->counters.doorbells, 1);
        ihsm_count(&engine->counters.doorbells_unknown_queue, 1);
        ihsm_trace_doorbell(&engine->host->trace, offset, value, IHSM_NO_QUEUE, false,
                            IHSM_DOORBELL_OUTCOME_UNKNOWN_QUEUE);
        return;
    }
    if (ihsm_page_store(&engine->page, offset, value))
        return; /* a client that has not mapped the page: the poller sees it there */
    pthread_mutex_lock(&ring->lock);
    bool legal = take_over(ring, offset / IHSM_STRIDE_BYTES % 2, value);
    bool serve = legal && engine->inline_aes && ring->class == IHSM_CLASS_AES && !ring->queued && !ring->serving;
    pthread_cond_t *filled = legal && !serve ? ihsm_ring_enlist(ring) : NULL;
    pthread_mutex_unlock(&ring->lock);
    ihsm_ready_wake(filled);
    if (serve) {
        ihsm_aes_serve(ring, false, false, INLINE_COMMANDS, INLINE_BYTES);
        ihsm_host_kick(engine->host);
    }
}

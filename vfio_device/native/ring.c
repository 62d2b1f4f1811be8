/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* What all rings have in common: reading an entry, posting a completion (spec 01 §5). */
#include "ring.h"

#include "engine.h"

struct ihsm_ring *ihsm_engine_ring(struct ihsm_engine *engine, unsigned id) {
    if (id <= IHSM_LAST_HSM_QUEUE_ID)
        return &engine->rings[id];
    if (id >= IHSM_FIRST_AES_QUEUE_ID && id <= IHSM_LAST_AES_QUEUE_ID)
        return &engine->rings[1 + IHSM_HSM_RINGS + (id - IHSM_FIRST_AES_QUEUE_ID)];
    return NULL;
}

bool ihsm_engine_generation_is_live(struct ihsm_engine *engine, unsigned id, uint32_t generation) {
    struct ihsm_ring *ring = ihsm_engine_ring(engine, id);
    if (ring == NULL)
        return false;
    pthread_mutex_lock(&ring->lock);
    bool live = ring->sq_live && ring->generation == generation;
    pthread_mutex_unlock(&ring->lock);
    return live;
}

size_t ihsm_ring_sqe_bytes(const struct ihsm_ring *ring) {
    return ring->class == IHSM_CLASS_AES ? sizeof(struct aes_sqe) : sizeof(struct admin_sqe);
}

size_t ihsm_ring_cqe_bytes(const struct ihsm_ring *ring) {
    return ring->class == IHSM_CLASS_AES ? sizeof(struct aes_cqe) : sizeof(struct admin_cqe);
}

static uint32_t distance(uint32_t from, uint32_t to, uint32_t entries) {
    return to >= from ? to - from : to + entries - from;
}

uint32_t ihsm_ring_pending(struct ihsm_ring *ring) {
    return distance(atomic_load_explicit(&ring->sq_head, memory_order_relaxed), atomic_load(&ring->sq_tail),
                    ring->sq_entries);
}

uint32_t ihsm_ring_cq_room(struct ihsm_ring *ring) {
    uint32_t used = distance(atomic_load(&ring->cq_head), atomic_load_explicit(&ring->cq_tail, memory_order_relaxed),
                             ring->cq_entries);
    uint32_t free_places = ring->cq_entries - 1 - used;
    return free_places > ring->in_flight ? free_places - ring->in_flight : 0;
}

bool ihsm_ring_has_work(struct ihsm_ring *ring) {
    if (!ring->sq_live || ring->sq_deleting || atomic_load(&ring->stopped))
        return false;
    if (ring->fetched_next < ring->fetched_count)
        return true;
    /* Admin commands change queues, so they are carried out one after the other, as the hardware does (credit 1). */
    if (ring->class == IHSM_CLASS_ADMIN && ring->in_flight > 0)
        return false;
    return ihsm_ring_pending(ring) > 0 && ihsm_ring_cq_room(ring) > 0;
}

bool ihsm_ring_next_is_long(struct ihsm_ring *ring) {
    return ring->fetched_next < ring->fetched_count &&
           (ring->next_put_off || ring->fetched[ring->fetched_next].common.src_len > IHSM_LONG_BYTES);
}

bool ihsm_ring_fetch(struct ihsm_ring *ring, void *sqe) {
    const struct ihsm_regions *regions = &ring->engine->host->regions;
    size_t size = ihsm_ring_sqe_bytes(ring);
    uint32_t head = atomic_load_explicit(&ring->sq_head, memory_order_relaxed);
    if (!ihsm_regions_read(regions, ring->sq_base + (uint64_t)head * size, sqe, size)) {
        ihsm_count(&ring->engine->counters.sqe_unreadable, 1);
        ihsm_note_unreachable(ring->engine, IHSM_UNREACHABLE_ENTRY, ring->id, (uint16_t)head,
                              ring->sq_base + (uint64_t)head * size, size);
        atomic_store(&ring->stopped, true);
        return false;
    }
    ihsm_trace_entries(&ring->engine->host->trace, ring->id, head, ring->sq_entries, sqe, size, 1);
    atomic_store(&ring->sq_head, head + 1 == ring->sq_entries ? 0 : head + 1);
    ring->in_flight++;
    return true;
}

/*
 * Write the last u16 of a CQE, which carries the phase bit, after everything before it. One store where the address
 * allows it; byte by byte, phase last, where a client put its ring on an odd address or across two regions.
 */
static bool write_phase(const struct ihsm_regions *regions, uint64_t iova, uint16_t psf) {
    size_t hint = 0;
    uint64_t piece;
    uint8_t *at = ihsm_regions_translate(regions, &hint, iova, sizeof psf, true, &piece);
    if (at == NULL)
        return false;
    if (piece == sizeof psf && (uintptr_t)at % sizeof psf == 0) {
        __atomic_store_n((uint16_t *)at, psf, __ATOMIC_RELEASE);
        return true;
    }
    uint8_t high = (uint8_t)(psf >> 8);
    if (!ihsm_regions_write(regions, iova + 1, &high, 1))
        return false;
    __atomic_store_n(at, (uint8_t)psf, __ATOMIC_RELEASE);
    return true;
}

bool ihsm_ring_post(struct ihsm_ring *ring, void *cqe) {
    return ihsm_ring_post_as(ring, cqe, (uint16_t)atomic_load_explicit(&ring->sq_head, memory_order_relaxed),
                             ring->cq_phase);
}

bool ihsm_ring_post_as(struct ihsm_ring *ring, void *cqe, uint16_t sqhd, bool phase) {
    struct ihsm_engine *engine = ring->engine;
    const struct ihsm_regions *regions = &engine->host->regions;
    size_t size = ihsm_ring_cqe_bytes(ring);
    uint16_t sqid = ring->id, cid, psf;
    uint32_t tail = atomic_load_explicit(&ring->cq_tail, memory_order_relaxed);
    uint64_t iova = ring->cq_base + (uint64_t)tail * size;
    bool wraps = tail + 1 == ring->cq_entries;

    ring->in_flight--;
    if (atomic_load_explicit(&ring->stopped, memory_order_relaxed))
        return false;
    if (ring->class == IHSM_CLASS_AES) {
        struct aes_cqe *aes = cqe;
        aes->sqhd = sqhd;
        aes->sqid = sqid;
        cid = aes->cmd_id;
        psf = aes->psf;
    } else {
        struct admin_cqe *admin = cqe; /* the HSM CQE has these fields in the same places */
        admin->sqhd = sqhd;
        admin->sqid = sqid;
        cid = admin->cid;
        psf = admin->psf;
    }
    psf = (uint16_t)((psf & ~IHSM_PSF_PHASE_MASK) | phase);
    if (!ihsm_regions_write(regions, iova, cqe, size - sizeof psf))
        goto unwritable;
    /* The tail moves before the entry becomes visible: a client may answer with a head doorbell at once. */
    atomic_store(&ring->cq_tail, wraps ? 0 : tail + 1);
    struct ihsm_record record =
        ihsm_trace_completion(&engine->host->trace, ring->id, tail, ring->vector, cqe, size, psf);
    if (!write_phase(regions, iova + size - sizeof psf, psf)) {
        ihsm_record_drop(record);
        atomic_store(&ring->cq_tail, tail);
        goto unwritable;
    }
    ihsm_record_end(record);
    if (wraps)
        ring->cq_phase = !ring->cq_phase;
    return true;
unwritable:
    ihsm_count(&engine->counters.cqe_unwritable, 1);
    ihsm_note_unreachable(engine, IHSM_UNREACHABLE_COMPLETION, ring->id, cid, iova, size);
    atomic_store(&ring->stopped, true);
    return false;
}

_Static_assert(offsetof(struct hsm_cqe, sqhd) == offsetof(struct admin_cqe, sqhd) &&
                   offsetof(struct hsm_cqe, sqid) == offsetof(struct admin_cqe, sqid) &&
                   offsetof(struct hsm_cqe, cid) == offsetof(struct admin_cqe, cid) &&
                   offsetof(struct hsm_cqe, psf) == offsetof(struct admin_cqe, psf),
               "admin and HSM completions share their tail");
_Static_assert(offsetof(struct aes_cqe, psf) == sizeof(struct aes_cqe) - 2 &&
                   offsetof(struct admin_cqe, psf) == sizeof(struct admin_cqe) - 2,
               "the phase is in the last u16");

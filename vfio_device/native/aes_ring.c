/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* AES rings: served by C threads, one thread per ring at a time (spec 02 part C, 01 §14.4). */
#include "fastpath/fastpath.h"
#include "engine.h"

#include <string.h>

static void complete(struct ihsm_ring *ring, const struct gcm_sqe *sqe, struct aes_cqe *cqe) {
    cqe->attr = sqe->attr;
    cqe->cmd_id = sqe->cmd_id;
    ihsm_ring_post(ring, cqe);
}

void ihsm_aes_drain(struct ihsm_ring *ring) {
    if (ring->fetched_next == ring->fetched_count)
        return;
    while (ring->fetched_next < ring->fetched_count) {
        struct gcm_sqe sqe;
        struct aes_cqe cqe = {.psf = IHSM_AES_STATUS_DELETE_QUEUE << IHSM_PSF_STATUS_SHIFT};
        memcpy(&sqe, ring->fetched[ring->fetched_next++], sizeof sqe);
        complete(ring, &sqe, &cqe);
    }
    ihsm_host_request_vector(ring->engine->host, ring->vector);
}

/* Read the next entries of the ring, as many as there are, fit, and have a place in the CQ. */
static bool fetch(struct ihsm_ring *ring) {
    ring->fetched_next = ring->fetched_count = 0;
    while (ring->fetched_count < IHSM_AES_FETCH && ihsm_ring_pending(ring) > 0 && ihsm_ring_cq_room(ring) > 0 &&
           ihsm_ring_fetch(ring, ring->fetched[ring->fetched_count]))
        ring->fetched_count++;
    return ring->fetched_count > 0;
}

bool ihsm_fp_checkpoint(struct ihsm_fp_context *context) {
    if (atomic_load_explicit(&context->regions->writers, memory_order_relaxed) != 0) {
        ihsm_regions_unlock(context->regions);
        ihsm_regions_read_lock(context->regions);
        context->remapped++;
    }
    return !atomic_load_explicit(&context->ring->stop, memory_order_relaxed);
}

/* Commands of one turn; returns how many were answered. */
static unsigned serve_turn(struct ihsm_ring *ring, unsigned max_commands, uint32_t max_bytes, bool whole_command) {
    struct ihsm_engine *engine = ring->engine;
    struct ihsm_fp_context context = {.engine = engine,
                                      .regions = &engine->host->regions,
                                      .ring = ring,
                                      .function = &engine->fp,
                                      .scratch = ihsm_fp_scratch()};
    unsigned answered = 0;
    uint64_t bytes = 0;

    ihsm_regions_read_lock(context.regions);
    while (answered < max_commands && !atomic_load_explicit(&ring->stop, memory_order_relaxed) &&
           !atomic_load_explicit(&ring->stopped, memory_order_relaxed)) {
        if (ring->fetched_next == ring->fetched_count && !fetch(ring))
            break;
        struct gcm_sqe sqe;
        struct aes_cqe cqe = {0};
        memcpy(&sqe, ring->fetched[ring->fetched_next], sizeof sqe);
        if (bytes + sqe.src_len > max_bytes && !(answered == 0 && whole_command))
            break;
        ring->fetched_next++;
        bytes += sqe.src_len;
        cqe.attr = sqe.attr;
        cqe.cmd_id = sqe.cmd_id;
        if (context.scratch != NULL)
            ihsm_fp_execute(&context, &sqe, &cqe);
        else
            cqe.psf = IHSM_AES_STATUS_RETRIES_EXCEEDED << IHSM_PSF_STATUS_SHIFT; /* no memory */
        complete(ring, &sqe, &cqe);
        answered++;
    }
    ihsm_regions_unlock(context.regions);
    return answered;
}

void ihsm_aes_serve(struct ihsm_ring *ring, bool popped, unsigned max_commands, uint32_t max_bytes) {
    struct ihsm_engine *engine = ring->engine;

    pthread_mutex_lock(&ring->lock);
    if (popped)
        ring->queued = false;
    bool mine = !ring->serving && !ring->queued && ihsm_ring_has_work(ring);
    if (mine)
        ring->serving = true;
    pthread_mutex_unlock(&ring->lock);
    if (!mine)
        return;

    /* A worker does at least one command however long; an inline server leaves a long one to the workers. */
    unsigned answered = serve_turn(ring, max_commands, max_bytes, popped);

    pthread_mutex_lock(&ring->lock);
    if (answered > 0) {
        ihsm_count(&engine->counters.aes_commands, answered);
        ihsm_host_request_vector(engine->host, ring->vector);
    }
    ring->serving = false;
    pthread_cond_broadcast(&ring->changed);
    ihsm_ring_make_ready(ring);
    pthread_mutex_unlock(&ring->lock);
    ihsm_host_kick(engine->host);
}

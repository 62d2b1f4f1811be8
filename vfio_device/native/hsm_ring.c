/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Admin and HSM rings: commands pulled by Python and completed by Python (spec 01 §6, 02 part B). */
#include "engine.h"

#include <string.h>

#include "faulty.h"

_Static_assert(sizeof(((struct ihsm_command *)0)->request) == IHSM_MAX_REQUEST_BYTES, "request buffer");

/* Bad entries answered in one visit of a ring, so that a flood of them cannot keep a thread for ever. */
#define MAX_REJECTED_PER_VISIT 16

static unsigned command_field(const struct hsm_sqe *sqe, unsigned shift, unsigned mask) {
    return sqe->command >> shift & mask;
}

/* The checks of spec 02 B.7 that need nothing but the entry, in their order. */
static unsigned check_sqe(const struct hsm_sqe *sqe) {
    unsigned opc = command_field(sqe, IHSM_HSM_COMMAND_WORD_OPC_SHIFT, IHSM_HSM_COMMAND_WORD_OPC_MASK);
    const uint64_t in_page = IHSM_PAGE_BYTES - 1;

    if (command_field(sqe, IHSM_HSM_COMMAND_WORD_PSDT_SHIFT, IHSM_HSM_COMMAND_WORD_PSDT_MASK) != 0)
        return IHSM_HSM_STATUS_INVALID_PSDT;
    if (opc == IHSM_HSM_OPCODE_FLUSH_SESSION) {
        unsigned kind = sqe->control >> IHSM_SESSION_CONTROL_KIND_SHIFT & IHSM_SESSION_CONTROL_KIND_MASK;
        unsigned id_valid = sqe->control >> IHSM_SESSION_CONTROL_ID_VALID_SHIFT & IHSM_SESSION_CONTROL_ID_VALID_MASK;
        return kind == IHSM_CONTROL_KIND_CLOSE && id_valid ? IHSM_HSM_STATUS_SUCCESS : IHSM_HSM_STATUS_INTERNAL_ERROR;
    }
    if (opc != IHSM_HSM_OPCODE_NORMAL)
        return IHSM_HSM_STATUS_INVALID_OPCODE;
    if (sqe->src_len < 1 || sqe->src_len > IHSM_MAX_SRC_BYTES)
        return IHSM_HSM_STATUS_INVALID_SRC_LENGTH;
    if (sqe->dst_len < 1 || sqe->dst_len > IHSM_MAX_DST_BYTES)
        return IHSM_HSM_STATUS_INVALID_DST_LENGTH;
    if ((sqe->src_prp1 | sqe->src_prp2) & in_page)
        return IHSM_HSM_STATUS_INVALID_SRC_PRP;
    if ((sqe->dst_prp1 | sqe->dst_prp2) & in_page)
        return IHSM_HSM_STATUS_INVALID_DST_PRP;
    if (sqe->src_len > IHSM_MAX_REQUEST_BYTES)
        return IHSM_HSM_STATUS_INTERNAL_ERROR;
    return IHSM_HSM_STATUS_SUCCESS;
}

/* Check an HSM entry and fetch its request; the status to refuse it with, or success. */
static unsigned admit(const struct ihsm_regions *regions, const struct hsm_sqe *sqe, struct ihsm_command *command) {
    unsigned sc = check_sqe(sqe);
    command->request_len = 0;
    if (sc != IHSM_HSM_STATUS_SUCCESS ||
        command_field(sqe, IHSM_HSM_COMMAND_WORD_OPC_SHIFT, IHSM_HSM_COMMAND_WORD_OPC_MASK) != IHSM_HSM_OPCODE_NORMAL)
        return sc;
    if (!ihsm_regions_read(regions, sqe->src_prp1, command->request, sqe->src_len))
        return IHSM_HSM_STATUS_DMA_ERROR;
    command->request_len = sqe->src_len;
    return IHSM_HSM_STATUS_SUCCESS;
}

static void note_source(struct ihsm_ring *ring, const struct ihsm_command *command) {
    struct hsm_sqe sqe;
    memcpy(&sqe, command->sqe, sizeof sqe);
    ihsm_note_unreachable(ring->engine, IHSM_UNREACHABLE_SOURCE, ring->id, command->cid, sqe.src_prp1, sqe.src_len);
}

/* With ring->lock held; what is returned is for ihsm_ready_wake. */
static pthread_cond_t *finish(struct ihsm_ring *ring) {
    if (ring->in_flight == 0)
        pthread_cond_broadcast(&ring->changed);
    return ihsm_ring_enlist(ring);
}

/* Post a completion and ask for the vector, or what a fault does instead; locks as for ihsm_ring_post. */
static bool post(struct ihsm_ring *ring, void *cqe, const uint8_t *sqe, const uint8_t *request) {
    if (ihsm_inject_armed(&ring->engine->inject, IHSM_COMPLETION_ACTIONS))
        return ihsm_faulty_post(ring, cqe, sqe, request);
    bool posted = ihsm_ring_post(ring, cqe);
    if (posted)
        ihsm_host_request_vector(ring->engine->host, ring->vector);
    return posted;
}

/* Check the command that has been fetched; the status to refuse it with, or success. */
static unsigned look_at(struct ihsm_ring *ring, struct ihsm_command *command) {
    struct hsm_sqe sqe;
    if (ring->class == IHSM_CLASS_HSM) {
        memcpy(&sqe, command->sqe, sizeof sqe);
        return admit(&ring->engine->host->regions, &sqe, command);
    }
    command->request_len = 0;
    return IHSM_HSM_STATUS_SUCCESS;
}

static const uint8_t *request_of(const struct ihsm_command *command) {
    return command->request_len > 0 ? command->request : NULL;
}

/* A fault may hit the command that has been looked at; one that is refused anyhow is seen, and no more. */
static enum ihsm_fate try_faults(struct ihsm_ring *ring, struct ihsm_command *command, unsigned *sc) {
    if (*sc != IHSM_HSM_STATUS_SUCCESS) {
        ihsm_faulty_seen(ring, command->sqe, request_of(command));
        return IHSM_FATE_GO_ON;
    }
    enum ihsm_fate fate = ihsm_faulty_command(ring, command->sqe, request_of(command), &command->held_by);
    if (fate == IHSM_FATE_ALTERED)
        *sc = look_at(ring, command);
    return fate;
}

enum ihsm_pulled ihsm_ring_take(struct ihsm_ring *ring, struct ihsm_command *command) {
    struct ihsm_engine *engine = ring->engine;
    struct ihsm_regions *regions = &engine->host->regions;
    enum ihsm_pulled taken = IHSM_PULL_TIMEOUT;

    pthread_mutex_lock(&ring->lock);
    ring->queued = false;
    ihsm_regions_read_lock(regions);
    for (unsigned rejected = 0;
         taken == IHSM_PULL_TIMEOUT && rejected <= MAX_REJECTED_PER_VISIT && ihsm_ring_has_work(ring); rejected++) {
        if (!ihsm_ring_fetch(ring, command->sqe))
            break;
        enum ihsm_fate fate = IHSM_FATE_GO_ON;
        memcpy(&command->cid, command->sqe + offsetof(struct admin_sqe, cid), sizeof command->cid);
        unsigned sc = look_at(ring, command);
        if (ihsm_inject_armed(&engine->inject, IHSM_FETCH_ACTIONS))
            fate = try_faults(ring, command, &sc);
        if (fate == IHSM_FATE_UNREADABLE)
            ring->in_flight--;
        if (fate == IHSM_FATE_UNREADABLE || fate == IHSM_FATE_LOST)
            continue;
        if (sc == IHSM_HSM_STATUS_SUCCESS) {
            ihsm_count(
                ring->class == IHSM_CLASS_HSM ? &engine->counters.hsm_commands : &engine->counters.admin_commands, 1);
            command->engine_id = engine->id;
            command->queue_id = ring->id;
            command->generation = ring->generation;
            taken = fate == IHSM_FATE_HELD ? IHSM_PULL_HELD : IHSM_PULL_COMMAND;
        } else {
            if (sc == IHSM_HSM_STATUS_DMA_ERROR)
                note_source(ring, command);
            struct hsm_cqe cqe = {.cid = command->cid, .psf = (uint16_t)(sc << IHSM_PSF_SC_SHIFT)};
            ihsm_count(&engine->counters.hsm_rejected, 1);
            post(ring, &cqe, command->sqe, request_of(command));
        }
    }
    ihsm_regions_unlock(regions);
    pthread_cond_t *filled = finish(ring);
    pthread_mutex_unlock(&ring->lock);
    ihsm_ready_wake(filled);
    return taken;
}

_Static_assert(offsetof(struct hsm_sqe, cid) == offsetof(struct admin_sqe, cid), "command id");

struct data {
    uint64_t iova; /* in the client's memory */
    const uint8_t *bytes;
    size_t len;
    uint16_t cid; /* of the command */
};

static bool write_data(struct ihsm_ring *ring, const struct data *data, void *cqe, const uint8_t *sqe,
                       const uint8_t *request) {
    if (ihsm_inject_armed(&ring->engine->inject, IHSM_RESPONSE_ACTIONS) && data->len > 0)
        return ihsm_faulty_write(ring, data->iova, data->bytes, data->len, cqe, sqe, request);
    return ihsm_regions_write(&ring->engine->host->regions, data->iova, data->bytes, data->len);
}

/*
 * Write a command's data, then its CQE, then ask for the vector: all or nothing of it before any deletion or disable.
 */
static int complete(struct ihsm_engine *engine, unsigned queue_id, uint32_t generation, const uint8_t *sqe,
                    const uint8_t *request, struct data data, void *cqe) {
    struct ihsm_ring *ring = ihsm_engine_ring(engine, queue_id);
    struct ihsm_regions *regions = &engine->host->regions;
    pthread_cond_t *filled = NULL;
    int outcome = IHSM_DROPPED;

    if (ring == NULL)
        return outcome;
    ihsm_engine_enter(engine);
    pthread_mutex_lock(&ring->lock);
    if (ring->sq_live && ring->generation == generation) {
        ihsm_regions_read_lock(regions);
        unsigned refusals = atomic_load(&regions->refusals);
        if (!write_data(ring, &data, cqe, sqe, request)) {
            outcome = IHSM_DATA_FAILED;
            ihsm_note_unreachable(engine, IHSM_UNREACHABLE_DESTINATION, ring->id, data.cid, data.iova, data.len);
        } else if (atomic_load(&regions->refusals) != refusals) {
            outcome = IHSM_DATA_FAILED;
            ihsm_note_beyond_fill(engine, ring->id, data.cid, data.iova);
        } else if (post(ring, cqe, sqe, request)) {
            outcome = IHSM_POSTED;
        }
        ihsm_regions_unlock(regions);
        if (outcome != IHSM_DATA_FAILED)
            filled = finish(ring);
    }
    pthread_mutex_unlock(&ring->lock);
    ihsm_ready_wake(filled);
    if (outcome == IHSM_DROPPED)
        ihsm_count(&engine->counters.completions_dropped, 1);
    if (outcome == IHSM_POSTED) /* otherwise the engine may be closed and its host gone */
        ihsm_host_kick(engine->host);
    ihsm_engine_leave(engine);
    return outcome;
}

int ihsm_engine_complete_admin(struct ihsm_engine *engine, unsigned queue_id, uint32_t generation, const uint8_t *entry,
                               uint32_t dw0, unsigned status, const uint8_t *data, size_t data_len) {
    struct admin_sqe sqe;
    memcpy(&sqe, entry, sizeof sqe);
    struct admin_cqe cqe = {.dw0 = dw0, .cid = sqe.cid, .psf = (uint16_t)(status << IHSM_PSF_STATUS_SHIFT)};
    return complete(engine, queue_id, generation, entry, NULL, (struct data){sqe.prp1, data, data_len, sqe.cid}, &cqe);
}

int ihsm_engine_complete_hsm(struct ihsm_engine *engine, unsigned queue_id, uint32_t generation, const uint8_t *entry,
                             const uint8_t *request, const uint8_t *message, size_t message_len, unsigned byte_count,
                             unsigned control, unsigned session_id, unsigned short_app_id, unsigned sc) {
    struct hsm_sqe sqe;
    memcpy(&sqe, entry, sizeof sqe);
    struct hsm_cqe cqe = {.byte_count = (uint16_t)byte_count,
                          .control = (uint8_t)control,
                          .session_id = (uint16_t)session_id,
                          .short_app_id = (uint8_t)short_app_id,
                          .cid = sqe.cid,
                          .psf = (uint16_t)(sc << IHSM_PSF_SC_SHIFT)};
    /* Never more than dst_len bytes, and a response stays inside the page of PRP1. */
    size_t len = message_len < sqe.dst_len ? message_len : sqe.dst_len;
    return complete(engine, queue_id, generation, entry, request, (struct data){sqe.dst_prp1, message, len, sqe.cid},
                    &cqe);
}

int ihsm_engine_refuse(struct ihsm_engine *engine, const struct ihsm_command *command) {
    unsigned queue = command->queue_id;
    if (queue == IHSM_ADMIN_QUEUE_ID)
        return ihsm_engine_complete_admin(engine, queue, command->generation, command->sqe, 0,
                                          IHSM_ADMIN_STATUS_INTERNAL_ERROR, NULL, 0);
    return ihsm_engine_complete_hsm(engine, queue, command->generation, command->sqe, request_of(command), NULL, 0, 0,
                                    0, 0, 0, IHSM_HSM_STATUS_INTERNAL_ERROR);
}

void ihsm_hsm_post_late(struct ihsm_ring *ring, uint32_t generation, void *cqe) {
    struct ihsm_regions *regions = &ring->engine->host->regions;
    pthread_cond_t *filled = NULL;
    pthread_mutex_lock(&ring->lock);
    if (ring->sq_live && ring->generation == generation) {
        ihsm_regions_read_lock(regions);
        if (ihsm_ring_post(ring, cqe))
            ihsm_host_request_vector(ring->engine->host, ring->vector);
        ihsm_regions_unlock(regions);
        filled = finish(ring);
    }
    pthread_mutex_unlock(&ring->lock);
    ihsm_ready_wake(filled);
}

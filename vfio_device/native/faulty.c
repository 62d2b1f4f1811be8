/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Commands and completions that a fault hits. */
#include "faulty.h"

#include <string.h>

#include "engine.h"

/* -- describing a command */

/* Operation code in the header of a request (spec 03 §2): in front of it may be a revision, a map of two u32. */
static int64_t operation_of(const uint8_t *request, size_t len) {
    enum { ENTRY_ID = 2, U32 = 1 + 4, REVISION_ID = 1, OPERATION_ID = 2 };
    size_t at = 1 + ENTRY_ID + 1; /* the map of header and data, the header's id, its map */
    if (len > at + 1 && request[at + 1] == REVISION_ID)
        at += ENTRY_ID + 1 + 2 * (ENTRY_ID + U32);
    if (len < at + ENTRY_ID + U32 || request[at + 1] != OPERATION_ID)
        return -1;
    const uint8_t *value = request + at + ENTRY_ID + 1;
    return (int64_t)value[0] << 24 | value[1] << 16 | value[2] << 8 | value[3];
}

static void describe_admin(struct ihsm_event *event, const void *entry) {
    struct admin_sqe sqe;
    memcpy(&sqe, entry, sizeof sqe);
    event->opcode = sqe.opc;
    if (sqe.opc == IHSM_ADMIN_OPCODE_IDENTIFY)
        event->parts |= IHSM_PART_DESTINATION;
}

static void describe_hsm(struct ihsm_event *event, const void *entry, const uint8_t *request) {
    struct hsm_sqe sqe;
    memcpy(&sqe, entry, sizeof sqe);
    event->opcode = sqe.command >> IHSM_HSM_COMMAND_WORD_OPC_SHIFT & IHSM_HSM_COMMAND_WORD_OPC_MASK;
    if (sqe.control >> IHSM_SESSION_CONTROL_ID_VALID_SHIFT & IHSM_SESSION_CONTROL_ID_VALID_MASK)
        event->session = sqe.session_id;
    if (request != NULL && event->opcode == IHSM_HSM_OPCODE_NORMAL) {
        event->operation = operation_of(request, sqe.src_len);
        event->parts |= IHSM_PART_SOURCE | IHSM_PART_DESTINATION;
    }
}

static bool has_sgl(const struct aes_sqe *sqe) {
    return sqe->attr >> IHSM_AES_ATTR_PSDT_SHIFT & IHSM_AES_ATTR_PSDT_MASK;
}

static void describe_aes(struct ihsm_event *event, const struct aes_sqe *sqe) {
    event->opcode = sqe->attr >> IHSM_AES_ATTR_CIPHER_SHIFT & IHSM_AES_ATTR_CIPHER_MASK;
    event->session = sqe->session_id;
    if (sqe->src_len > 0)
        event->parts |= has_sgl(sqe) ? IHSM_PART_SOURCE | IHSM_PART_LIST : IHSM_PART_SOURCE;
    if (sqe->dst_len > 0)
        event->parts |= IHSM_PART_DESTINATION;
}

static struct ihsm_event describe(const struct ihsm_ring *ring, const void *sqe, const uint8_t *request) {
    struct ihsm_event event = ihsm_event_none();
    event.queue = ring->id;
    event.parts = IHSM_PART_ENTRY;
    if (ring->class == IHSM_CLASS_ADMIN)
        describe_admin(&event, sqe);
    else if (ring->class == IHSM_CLASS_HSM)
        describe_hsm(&event, sqe, request);
    else
        describe_aes(&event, sqe);
    return event;
}

/* -- commands */

static void put_out_of_reach(const struct ihsm_ring *ring, void *sqe, uint32_t part) {
    uint64_t hole = ihsm_regions_hole(&ring->engine->host->regions);
    if (ring->class == IHSM_CLASS_AES) {
        struct aes_sqe *aes = sqe;
        bool destination = part == IHSM_PART_DESTINATION, list = part == IHSM_PART_LIST;
        struct sgl_descriptor *descriptor = destination ? &aes->dst : &aes->src;
        descriptor->addr = hole; /* of PRPs, the first */
        if (has_sgl(aes)) {
            descriptor->len = list ? sizeof *descriptor : destination ? aes->dst_len : aes->src_len;
            descriptor->type = (list ? IHSM_SGL_TYPE_LAST_SEGMENT : IHSM_SGL_TYPE_DATA_BLOCK) << 4;
        }
        return;
    }
    size_t at = ring->class == IHSM_CLASS_ADMIN ? offsetof(struct admin_sqe, prp1)
                : part == IHSM_PART_SOURCE      ? offsetof(struct hsm_sqe, src_prp1)
                                                : offsetof(struct hsm_sqe, dst_prp1);
    memcpy((uint8_t *)sqe + at, &hole, sizeof hole);
}

enum ihsm_fate ihsm_faulty_command(struct ihsm_ring *ring, void *sqe, const uint8_t *request, uint32_t *held_by) {
    struct ihsm_inject *inject = &ring->engine->inject;
    struct ihsm_event event = describe(ring, sqe, request);
    struct ihsm_fault fault;
    /* By itself: it takes an event from no other fault. */
    if (ihsm_inject_armed(inject, IHSM_ACTION_BIT(NEVER)))
        ihsm_inject_hit(inject, IHSM_ACTION_BIT(NEVER), &event, &fault);
    if (!ihsm_inject_hit(inject, IHSM_FATE_ACTIONS, &event, &fault))
        return IHSM_FATE_GO_ON;
    switch (fault.action) {
    case IHSM_ACTION_HOLD_COMMAND:
        *held_by = fault.id;
        return IHSM_FATE_HELD;
    case IHSM_ACTION_RESET_FUNCTION:
        return IHSM_FATE_LOST;
    default: /* DMA that fails */
        if (fault.parts != IHSM_PART_ENTRY) {
            put_out_of_reach(ring, sqe, fault.parts);
            return IHSM_FATE_ALTERED;
        }
        ihsm_count(&ring->engine->counters.sqe_unreadable, 1);
        atomic_store(&ring->stopped, true);
        return IHSM_FATE_UNREADABLE;
    }
}

void ihsm_faulty_seen(struct ihsm_ring *ring, const void *sqe, const uint8_t *request) {
    struct ihsm_event event = describe(ring, sqe, request);
    struct ihsm_fault fault;
    ihsm_inject_hit(&ring->engine->inject, IHSM_ACTION_BIT(NEVER), &event, &fault);
}

/* -- responses */

bool ihsm_faulty_write(struct ihsm_ring *ring, uint64_t iova, const uint8_t *bytes, size_t len, void *cqe,
                       const void *sqe, const uint8_t *request) {
    const struct ihsm_regions *regions = &ring->engine->host->regions;
    struct ihsm_event event = describe(ring, sqe, request);
    struct ihsm_fault fault;
    if (!ihsm_inject_hit(&ring->engine->inject, IHSM_RESPONSE_ACTIONS, &event, &fault))
        return ihsm_regions_write(regions, iova, bytes, len);
    if (fault.action == IHSM_ACTION_CUT_RESPONSE) {
        if (len > (size_t)fault.value)
            len = (size_t)fault.value;
        if (ring->class == IHSM_CLASS_HSM)
            ((struct hsm_cqe *)cqe)->byte_count = (uint16_t)(fault.err >= 0 ? (size_t)fault.err : len);
        return ihsm_regions_write(regions, iova, bytes, len);
    }
    size_t at = fault.at >= 0 && (size_t)fault.at < len ? (size_t)fault.at : fault.chance % len;
    uint8_t byte = (uint8_t)(bytes[at] ^ (fault.value >= 0 ? fault.value : 0xFF));
    /* The client looks at none of it before its completion. */
    return ihsm_regions_write(regions, iova, bytes, len) && ihsm_regions_write(regions, iova + at, &byte, 1);
}

/* -- completions */

static void set_cid(const struct ihsm_ring *ring, void *cqe, uint16_t cid) {
    if (ring->class == IHSM_CLASS_AES)
        ((struct aes_cqe *)cqe)->cmd_id = cid;
    else
        ((struct admin_cqe *)cqe)->cid = cid;
}

static void set_status(const struct ihsm_ring *ring, void *cqe, const struct ihsm_fault *fault) {
    uint16_t psf = (uint16_t)(fault->value << IHSM_PSF_STATUS_SHIFT);
    if (ring->class == IHSM_CLASS_AES) {
        struct aes_cqe *aes = cqe;
        aes->psf = psf;
        if (fault->err >= 0)
            aes->err = (uint16_t)fault->err;
    } else {
        ((struct admin_cqe *)cqe)->psf = psf;
    }
}

static bool post_as(struct ihsm_ring *ring, void *cqe, uint16_t sqhd, bool phase) {
    bool posted = ihsm_ring_post_as(ring, cqe, sqhd, phase);
    if (posted)
        ihsm_host_request_vector(ring->engine->host, ring->vector);
    return posted;
}

/* Once more, where there is room that no other command has been promised. */
static void post_again(struct ihsm_ring *ring, void *cqe, uint16_t sqhd) {
    if (ihsm_ring_cq_room(ring) == 0)
        return;
    ring->in_flight++;
    post_as(ring, cqe, sqhd, ring->cq_phase);
}

static uint16_t head_of(struct ihsm_ring *ring) {
    return (uint16_t)atomic_load_explicit(&ring->sq_head, memory_order_relaxed);
}

void ihsm_faulty_end(struct ihsm_ring *ring) {
    uint8_t cqe[sizeof(struct aes_cqe)];
    if (ihsm_inject_take_overtaken(&ring->engine->inject, ring, true, cqe, ihsm_ring_cqe_bytes(ring)))
        post_as(ring, cqe, head_of(ring), ring->cq_phase);
}

/*
 * What may hit a completion of the ring. None waits for others that cannot come: the admin queue has one command at a
 * time, and one that waits has its turn before the next begins to wait.
 */
static uint64_t actions_for(struct ihsm_ring *ring) {
    bool may_wait = ring->class != IHSM_CLASS_ADMIN && !ring->sq_deleting &&
                    !ihsm_inject_has_overtaken(&ring->engine->inject, ring);
    return may_wait ? IHSM_COMPLETION_ACTIONS : IHSM_COMPLETION_ACTIONS & ~IHSM_ACTION_BIT(REORDER_COMPLETIONS);
}

/* Keep a completion for later; false: there is no memory. */
static bool put_off(struct ihsm_ring *ring, const void *cqe, const struct ihsm_fault *fault) {
    bool reorder = fault->action == IHSM_ACTION_REORDER_COMPLETIONS;
    return ihsm_inject_put_off(&ring->engine->inject,
                               &(struct ihsm_late){.ring = ring,
                                                   .generation = ring->generation,
                                                   .held_by = reorder ? fault->id : 0,
                                                   .behind = reorder ? (uint32_t)fault->value : 0,
                                                   .due_ns = ihsm_inject_after_ms(fault->delay_ms)},
                               cqe, ihsm_ring_cqe_bytes(ring));
}

/* Post a completion, or what the fault does instead. *written: there is an entry in the client's memory. */
static bool post_by_fault(struct ihsm_ring *ring, void *cqe, const struct ihsm_fault *fault, bool *written) {
    uint16_t sqhd = head_of(ring);
    *written = true;
    switch (fault->action) {
    case IHSM_ACTION_DROP_COMPLETION:
        ring->in_flight--;
        *written = false;
        return true;
    case IHSM_ACTION_DELAY_COMPLETION:
    case IHSM_ACTION_REORDER_COMPLETIONS:
        *written = !put_off(ring, cqe, fault);
        if (!*written)
            return true;
        break;
    case IHSM_ACTION_WRONG_CID:
        set_cid(ring, cqe, (uint16_t)fault->value);
        break;
    case IHSM_ACTION_WRONG_STATUS:
        set_status(ring, cqe, fault);
        break;
    case IHSM_ACTION_WRONG_SQHD:
        return post_as(ring, cqe, (uint16_t)fault->value, ring->cq_phase);
    case IHSM_ACTION_WRONG_PHASE:
        return post_as(ring, cqe, sqhd, !ring->cq_phase);
    default: /* twice */
        if (!post_as(ring, cqe, sqhd, ring->cq_phase))
            return false;
        post_again(ring, cqe, sqhd);
        return true;
    }
    return post_as(ring, cqe, sqhd, ring->cq_phase);
}

bool ihsm_faulty_post(struct ihsm_ring *ring, void *cqe, const void *sqe, const uint8_t *request) {
    struct ihsm_inject *inject = &ring->engine->inject;
    struct ihsm_event event = describe(ring, sqe, request);
    struct ihsm_fault fault;
    uint8_t waiting[sizeof(struct aes_cqe)];
    bool posted, written = true;
    if (ihsm_inject_hit(inject, actions_for(ring), &event, &fault))
        posted = post_by_fault(ring, cqe, &fault, &written);
    else
        posted = post_as(ring, cqe, head_of(ring), ring->cq_phase);
    if (posted && written && ihsm_inject_take_overtaken(inject, ring, false, waiting, ihsm_ring_cqe_bytes(ring)))
        post_as(ring, waiting, head_of(ring), ring->cq_phase);
    return posted;
}

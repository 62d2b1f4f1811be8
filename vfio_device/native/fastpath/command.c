/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* What GCM and XTS commands have in common: their lists, and a look at the engine from time to time. */
#include "fastpath/command.h"

#include <stddef.h>

bool ihsm_fp_same_length(struct ihsm_fp_command *c) {
    const struct aes_sqe *sqe = c->sqe;
    if (sqe->dst_len == sqe->src_len)
        return true;
    return ihsm_fp_fail(c, IHSM_AES_STATUS_FETCH_ERROR,
                        sqe->dst_len < sqe->src_len ? IHSM_FETCH_ERROR_LENGTH_UNDERRUN
                                                    : IHSM_FETCH_ERROR_LENGTH_OVERRUN);
}

/* In the middle of a list: the end of what a short command may take, or a checkpoint. */
static bool go_on(struct ihsm_list_meter *meter) {
    struct ihsm_fp_command *c = (struct ihsm_fp_command *)((char *)meter - offsetof(struct ihsm_fp_command, meter));
    if (!c->mapped && meter->steps >= c->context->max_steps) {
        c->context->put_off = true;
        return false;
    }
    return c->context->checkpoint(c->context) || ihsm_fp_fail(c, IHSM_AES_STATUS_DELETE_QUEUE, 0);
}

/* Find the pieces from a cursor on anew, as far as the mappings stay as they are; false: the command has ended. */
static bool remap_list(struct ihsm_fp_command *c, const struct ihsm_cursor *cursor, bool destination) {
    unsigned remapped = c->context->remapped;
    size_t hint = 0;
    for (struct ihsm_piece *piece = cursor->piece; piece < cursor->end && c->context->remapped == remapped; piece++) {
        if (!ihsm_piece_remap(piece, c->context->regions, &hint, destination))
            return ihsm_fp_fail(c, IHSM_AES_STATUS_RETRIES_EXCEEDED, 0);
        if (!ihsm_list_step(&c->meter))
            return false;
    }
    return true;
}

/* After a checkpoint that may have changed the mappings since `remapped`. */
static bool remap(struct ihsm_fp_command *c, unsigned remapped) {
    while (c->context->remapped != remapped) {
        remapped = c->context->remapped;
        if (!remap_list(c, &c->src, false) || !remap_list(c, &c->dst, true))
            return false;
    }
    return true;
}

/* A data pointer that names one block of `len` bytes, all of it in one region: nothing to walk. */
static inline __attribute__((always_inline)) bool one_block(struct ihsm_fp_command *c,
                                                            const struct sgl_descriptor *pointer, bool is_sgl,
                                                            bool destination, uint32_t len,
                                                            struct ihsm_pieces *pieces) {
    uint64_t iova = pointer->addr, got; /* the first PRP lies where an SGL's address does */
    bool names_one = is_sgl ? pointer->type == IHSM_SGL_TYPE_DATA_BLOCK << 4 && pointer->len == len
                            : iova % 4 == 0 && len <= IHSM_LIST_PAGE_BYTES - iova % IHSM_LIST_PAGE_BYTES;
    if (!names_one)
        return false;
    uint8_t *base = ihsm_regions_translate(c->context->regions, &pieces->hint, iova, len, destination, &got);
    if (base == NULL || got != len)
        return false;
    pieces->piece[0] = (struct ihsm_piece){iova, base, len};
    pieces->count = 1;
    return true;
}

/* What as good as every short command has: one block each way, equally long. False: the lists are to be walked. */
static inline bool map_blocks(struct ihsm_fp_command *c, bool is_sgl) {
    struct ihsm_fp_scratch *s = c->scratch;
    const struct aes_sqe *sqe = c->sqe;
    if (sqe->dst_len != sqe->src_len || !one_block(c, &sqe->src, is_sgl, false, sqe->src_len, &s->src) ||
        !one_block(c, &sqe->dst, is_sgl, true, sqe->src_len, &s->dst))
        return false;
    c->context->steps += 2;
    c->src = (struct ihsm_cursor){s->src.piece, s->src.piece + 1, 0};
    c->dst = (struct ihsm_cursor){s->dst.piece, s->dst.piece + 1, 0};
    c->mapped = true;
    return true;
}

bool ihsm_fp_map(struct ihsm_fp_command *c, bool lengths_first) {
    struct ihsm_fp_scratch *s = c->scratch;
    const struct aes_sqe *sqe = c->sqe;
    const struct ihsm_regions *regions = c->context->regions;
    bool is_sgl = sqe->attr >> IHSM_AES_ATTR_PSDT_SHIFT & IHSM_AES_ATTR_PSDT_MASK;
    if (map_blocks(c, is_sgl))
        return true;
    unsigned remapped = c->context->remapped;
    c->meter.go_on = go_on;
    struct ihsm_list_result fault =
        ihsm_list_walk(regions, &sqe->src, is_sgl, false, sqe->src_len, s->page, &s->src, &c->meter);
    struct ihsm_list_result dst = {.rank = IHSM_LIST_GOOD};
    ihsm_pieces_clear(&s->dst);
    if (sqe->dst_len > 0 && fault.rank != IHSM_LIST_LEFT)
        dst = ihsm_list_walk(regions, &sqe->dst, is_sgl, true, sqe->dst_len, s->page, &s->dst, &c->meter);
    c->context->steps += c->meter.steps;
    if (dst.rank < fault.rank)
        fault = dst;
    if (fault.rank == IHSM_LIST_LEFT)
        return false;
    if (lengths_first && fault.rank > IHSM_LIST_LENGTH && !ihsm_fp_same_length(c))
        return false;
    if (fault.rank == IHSM_LIST_FETCH || fault.rank == IHSM_LIST_DATA)
        c->context->unreachable = c->meter.unreachable;
    if (fault.rank != IHSM_LIST_GOOD)
        return ihsm_fp_fail(c, fault.sts, fault.err);
    c->src = (struct ihsm_cursor){s->src.piece, s->src.piece + s->src.count, 0};
    c->dst = (struct ihsm_cursor){s->dst.piece, s->dst.piece + s->dst.count, 0};
    c->mapped = remap(c, remapped);
    return c->mapped;
}

bool ihsm_fp_progress(struct ihsm_fp_command *c, uint32_t bytes) {
    c->unchecked += bytes;
    if (c->unchecked < IHSM_SPAN_BYTES)
        return true;
    c->unchecked = bytes;
    unsigned remapped = c->context->remapped;
    if (!c->context->checkpoint(c->context))
        return ihsm_fp_fail(c, IHSM_AES_STATUS_DELETE_QUEUE, 0);
    return remap(c, remapped);
}

uint32_t ihsm_fp_span(struct ihsm_fp_command *c, uint32_t wanted) {
    uint64_t n = wanted < IHSM_SPAN_BYTES ? wanted : IHSM_SPAN_BYTES;
    if (ihsm_cursor_left(&c->src) < n)
        n = ihsm_cursor_left(&c->src);
    if (ihsm_cursor_left(&c->dst) < n)
        n = ihsm_cursor_left(&c->dst);
    return ihsm_fp_progress(c, (uint32_t)n) ? (uint32_t)n : 0;
}

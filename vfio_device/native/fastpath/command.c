/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* What GCM and XTS commands have in common: their lists, and a look at the engine from time to time. */
#include "fastpath/command.h"

bool ihsm_fp_same_length(struct ihsm_fp_command *c) {
    const struct aes_sqe *sqe = c->sqe;
    if (sqe->dst_len == sqe->src_len)
        return true;
    return ihsm_fp_fail(c, IHSM_AES_STATUS_FETCH_ERROR,
                        sqe->dst_len < sqe->src_len ? IHSM_FETCH_ERROR_LENGTH_UNDERRUN
                                                    : IHSM_FETCH_ERROR_LENGTH_OVERRUN);
}

bool ihsm_fp_map(struct ihsm_fp_command *c, bool lengths_first) {
    struct ihsm_fp_scratch *s = c->scratch;
    const struct aes_sqe *sqe = c->sqe;
    const struct ihsm_regions *regions = c->context->regions;
    bool is_sgl = sqe->attr >> IHSM_AES_ATTR_PSDT_SHIFT & IHSM_AES_ATTR_PSDT_MASK;
    struct ihsm_list_result fault = ihsm_list_walk(regions, &sqe->src, is_sgl, false, sqe->src_len, s->page, &s->src);
    struct ihsm_list_result dst = {.rank = IHSM_LIST_GOOD};
    s->dst.count = 0;
    if (sqe->dst_len > 0)
        dst = ihsm_list_walk(regions, &sqe->dst, is_sgl, true, sqe->dst_len, s->page, &s->dst);
    if (dst.rank < fault.rank)
        fault = dst;
    if (lengths_first && fault.rank > IHSM_LIST_LENGTH && !ihsm_fp_same_length(c))
        return false;
    if (fault.rank != IHSM_LIST_GOOD)
        return ihsm_fp_fail(c, fault.sts, fault.err);
    c->src = (struct ihsm_cursor){s->src.piece, s->src.piece + s->src.count, 0};
    c->dst = (struct ihsm_cursor){s->dst.piece, s->dst.piece + s->dst.count, 0};
    return true;
}

bool ihsm_fp_progress(struct ihsm_fp_command *c, uint32_t bytes) {
    c->unchecked += bytes;
    if (c->unchecked < IHSM_SPAN_BYTES)
        return true;
    c->unchecked = bytes;
    unsigned remapped = c->context->remapped;
    if (!c->context->checkpoint(c->context))
        return ihsm_fp_fail(c, IHSM_AES_STATUS_DELETE_QUEUE, 0);
    if (c->context->remapped != remapped && !(ihsm_cursor_remap(&c->src, c->context->regions, false) &&
                                              ihsm_cursor_remap(&c->dst, c->context->regions, true)))
        return ihsm_fp_fail(c, IHSM_AES_STATUS_RETRIES_EXCEEDED, 0);
    return true;
}

uint32_t ihsm_fp_span(struct ihsm_fp_command *c, uint32_t wanted) {
    uint64_t n = wanted < IHSM_SPAN_BYTES ? wanted : IHSM_SPAN_BYTES;
    if (ihsm_cursor_left(&c->src) < n)
        n = ihsm_cursor_left(&c->src);
    if (ihsm_cursor_left(&c->dst) < n)
        n = ihsm_cursor_left(&c->dst);
    return ihsm_fp_progress(c, (uint32_t)n) ? (uint32_t)n : 0;
}

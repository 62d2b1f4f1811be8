/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* AES-GCM commands: padded AAD and text through the SGLs, then the tail, then the tag (spec 02 E.4 to E.6). */
#include "fastpath/command.h"

#include <string.h>

#include "seam.h"

/* The AAD region: hashed from a private copy, which is also what reaches the destination. */
static bool run_aad(struct ihsm_fp_command *c, uint32_t left) {
    while (left > 0) {
        uint32_t n = left < IHSM_COPY_BYTES ? left : IHSM_COPY_BYTES;
        if (!ihsm_fp_progress(c, n))
            return false;
        ihsm_cursor_read(&c->src, c->scratch->text, n);
        ihsm_gcm_aad(&c->scratch->gcm, c->scratch->text, n);
        IHSM_SEAM(AES_AAD_HASHED);
        ihsm_cursor_write(&c->dst, c->scratch->text, n);
        left -= n;
    }
    return true;
}

static bool run_text(struct ihsm_fp_command *c, const struct ihsm_aes_key *key, uint32_t left) {
    while (left > 0) {
        uint32_t n = ihsm_fp_span(c, left);
        if (n == 0)
            return false;
        ihsm_gcm_crypt(&c->scratch->gcm, key, c->decrypt, ihsm_cursor_at(&c->src), ihsm_cursor_at(&c->dst), n);
        IHSM_SEAM_WORKED_ON(ihsm_cursor_at(&c->src), ihsm_cursor_at(&c->dst), n);
        ihsm_cursor_advance(&c->src, n);
        ihsm_cursor_advance(&c->dst, n);
        left -= n;
    }
    return true;
}

/* AAD and text, little enough for a private copy. */
static bool run_copy(struct ihsm_fp_command *c, const struct ihsm_aes_key *key, uint32_t aad_len, uint32_t len) {
    uint8_t *text = c->scratch->text;
    ihsm_cursor_read(&c->src, text, len);
    if (aad_len > 0)
        ihsm_gcm_aad(&c->scratch->gcm, text, aad_len);
    IHSM_SEAM(AES_AAD_HASHED);
    ihsm_gcm_crypt(&c->scratch->gcm, key, c->decrypt, text + aad_len, text + aad_len, len - aad_len);
    ihsm_cursor_write(&c->dst, text, len);
    return true;
}

/* What goes through the lists. */
static bool run_lists(struct ihsm_fp_command *c, const struct gcm_sqe *sqe, const struct ihsm_aes_key *key) {
    if (!ihsm_fp_map(c, false))
        return false;
    if (sqe->src_len < sqe->aligned_aad_len)
        return ihsm_fp_fail(c, IHSM_AES_STATUS_FETCH_ERROR, IHSM_FETCH_ERROR_LENGTH_UNDERRUN);
    if (!ihsm_fp_same_length(c))
        return false;
    uint32_t aad_len = sqe->aligned_aad_len, len = sqe->src_len;
    bool copied = aad_len <= IHSM_COPY_BYTES && len - aad_len <= IHSM_COPY_BYTES;
    bool done = copied ? run_copy(c, key, aad_len, len) : run_aad(c, aad_len) && run_text(c, key, len - aad_len);
    if (done)
        c->cqe->len = len;
    return done;
}

/* Fetch the tail and put it through the cipher. */
static bool run_tail(struct ihsm_fp_command *c, const struct gcm_sqe *sqe, const struct ihsm_aes_key *key,
                     uint8_t tail[IHSM_TAIL_MAX_BYTES]) {
    unsigned len = sqe->tail_src_len;
    if (len > IHSM_TAIL_MAX_BYTES)
        return ihsm_fp_fail(c, IHSM_AES_STATUS_INVALID_FIELD_GCM, IHSM_GCM_ERROR_TAIL_LENGTH);
    if (len == 0)
        return true;
    if (sqe->tail_src_addr == 0)
        return ihsm_fp_fail(c, IHSM_AES_STATUS_INVALID_FIELD_GCM, IHSM_GCM_ERROR_TAIL_SRC_ADDRESS);
    if (!ihsm_regions_read(c->context->regions, sqe->tail_src_addr, tail, len)) {
        c->context->unreachable = (struct ihsm_stretch){sqe->tail_src_addr, len, false};
        return ihsm_fp_fail(c, IHSM_AES_STATUS_INVALID_FIELD_GCM, IHSM_GCM_ERROR_DMA_IN);
    }
    if (sqe->src_len == 0 && sqe->actual_aad_len != 0)
        return ihsm_fp_fail(c, IHSM_AES_STATUS_INVALID_FIELD_GCM, IHSM_GCM_ERROR_CORRECTION_FAILED);
    ihsm_gcm_crypt(&c->scratch->gcm, key, c->decrypt, tail, tail, len);
    return true;
}

/* The tail's result goes out even if the tag is wrong, and a fault on that way replaces the mismatch (spec 02 E.4). */
static bool write_tail(struct ihsm_fp_command *c, const struct gcm_sqe *sqe, const uint8_t tail[IHSM_TAIL_MAX_BYTES]) {
    unsigned len = sqe->tail_src_len;
    c->cqe->tail_dst_len = len;
    if (len == 0)
        return true;
    if (sqe->tail_dst_addr == 0 || sqe->tail_dst_len != len)
        return ihsm_fp_fail(c, IHSM_AES_STATUS_INVALID_FIELD_GCM, IHSM_GCM_ERROR_TAIL_DST_ADDRESS);
    if (!ihsm_regions_write(c->context->regions, sqe->tail_dst_addr, tail, len)) {
        c->context->unreachable = (struct ihsm_stretch){sqe->tail_dst_addr, len, true};
        return ihsm_fp_fail(c, IHSM_AES_STATUS_INVALID_FIELD_GCM, IHSM_GCM_ERROR_DMA_OUT);
    }
    return true;
}

void ihsm_gcm_run(struct ihsm_fp_command *c, const struct gcm_sqe *sqe, const struct ihsm_aes_key *key) {
    uint8_t tail[IHSM_TAIL_MAX_BYTES], tag[IHSM_GCM_TAG_BYTES];
    c->scratch->stained |= sqe->src_len >= IHSM_STAINING_BYTES;
    ihsm_gcm_start(&c->scratch->gcm, key, c->cqe->iv);
    bool done = (sqe->src_len == 0 || run_lists(c, sqe, key)) && run_tail(c, sqe, key, tail);
    /* The padded AAD was hashed as it lies there; only its length in the tag is the unpadded one (spec 02 E.5). */
    ihsm_gcm_finish(&c->scratch->gcm, sqe->src_len == 0 ? 0 : sqe->actual_aad_len, tag);
    if (!done)
        return;
    memcpy(c->cqe->tag, tag, sizeof tag);
    if (!write_tail(c, sqe, tail) || !c->decrypt || ihsm_tag_equal(tag, sqe->tag))
        return;
    if (sqe->actual_aad_len < sqe->aligned_aad_len || sqe->tail_src_len != 0)
        ihsm_fp_fail(c, IHSM_AES_STATUS_INVALID_FIELD_GCM, IHSM_GCM_ERROR_TAG_MISMATCH);
    else
        ihsm_fp_fail(c, IHSM_AES_STATUS_CRYPTO_ENGINE_ERROR, IHSM_ENGINE_ERROR_TAG_MISMATCH);
}

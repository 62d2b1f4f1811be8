/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* AES-XTS commands: one or more data units, their tweaks counting up (spec 02 C.7). */
#include "fastpath/command.h"

#include <string.h>

#include "seam.h"

static const uint32_t data_unit_bytes[] = {0, IHSM_DATA_UNIT_BYTES_1, IHSM_DATA_UNIT_BYTES_2, IHSM_DATA_UNIT_BYTES_3};

struct xts {
    const struct ihsm_aes_key *data_key, *tweak_key;
    uint8_t tweak[IHSM_AES_BLOCK_BYTES]; /* of the unit under way: a little-endian number */
};

static void next_unit(struct xts *x) {
    for (unsigned i = 0; i < sizeof x->tweak && ++x->tweak[i] == 0; i++)
        continue;
}

/* One data unit where it lies. A block that is split among pieces goes through a private copy. */
static bool run_unit(struct ihsm_fp_command *c, const struct xts *x, uint32_t left) {
    uint8_t tweak[IHSM_AES_BLOCK_BYTES], block[IHSM_AES_BLOCK_BYTES];
    memcpy(tweak, x->tweak, sizeof tweak);
    while (left > 0) {
        uint32_t n = ihsm_fp_span(c, left);
        if (n == 0)
            return false;
        n -= n % sizeof block;
        if (n > 0) {
            ihsm_xts_crypt(x->data_key, x->tweak_key, c->decrypt, tweak, ihsm_cursor_at(&c->src),
                           ihsm_cursor_at(&c->dst), n);
            IHSM_SEAM_WORKED_ON(ihsm_cursor_at(&c->src), ihsm_cursor_at(&c->dst), n);
            ihsm_cursor_advance(&c->src, n);
            ihsm_cursor_advance(&c->dst, n);
        } else {
            n = sizeof block;
            ihsm_cursor_read(&c->src, block, n);
            ihsm_xts_crypt(x->data_key, x->tweak_key, c->decrypt, tweak, block, block, n);
            ihsm_cursor_write(&c->dst, block, n);
        }
        left -= n;
        if (left > 0)
            ihsm_xts_seek(x->tweak_key, tweak, n / sizeof block);
    }
    return true;
}

void ihsm_xts_run(struct ihsm_fp_command *c, const struct xts_sqe *sqe, const struct ihsm_aes_key *data_key,
                  const struct ihsm_aes_key *tweak_key) {
    uint32_t left = sqe->src_len;
    if (left == 0 || !ihsm_fp_map(c, true))
        return;
    c->scratch->stained = true;
    uint32_t unit = data_unit_bytes[sqe->attr >> IHSM_AES_ATTR_DUL_SHIFT & IHSM_AES_ATTR_DUL_MASK];
    if (unit == 0)
        unit = left;
    /* As good as always: one data unit in one piece each way. */
    if (left > IHSM_COPY_BYTES && left <= unit && left < IHSM_SPAN_BYTES && left <= ihsm_cursor_left(&c->src) &&
        left <= ihsm_cursor_left(&c->dst)) {
        ihsm_xts_crypt(data_key, tweak_key, c->decrypt, sqe->tweak, ihsm_cursor_at(&c->src), ihsm_cursor_at(&c->dst),
                       left);
        IHSM_SEAM_WORKED_ON(ihsm_cursor_at(&c->src), ihsm_cursor_at(&c->dst), left);
        c->cqe->len = left;
        return;
    }
    struct xts x = {.data_key = data_key, .tweak_key = tweak_key};
    memcpy(x.tweak, sqe->tweak, sizeof x.tweak);
    bool copied = left <= IHSM_COPY_BYTES;
    uint8_t *text = c->scratch->text;
    if (copied)
        ihsm_cursor_read(&c->src, text, left);
    while (left > 0) {
        uint32_t n = left < unit ? left : unit;
        if (copied)
            ihsm_xts_crypt(data_key, tweak_key, c->decrypt, x.tweak, text, text, n);
        else if (!run_unit(c, &x, n))
            return;
        text += n;
        left -= n;
        next_unit(&x);
    }
    if (copied)
        ihsm_cursor_write(&c->dst, c->scratch->text, sqe->src_len);
    c->cqe->len = sqe->src_len;
}

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* An AES command under way: what the files of the fast path share. */
#pragma once
#include "crypto/aes.h"
#include "fastpath/fastpath.h"
#include "fastpath/sgl.h"

/*
 * Payload up to this size is copied in, processed and copied out; larger payload is processed where it lies, because
 * the copy would cost a quarter of the rate. Nothing read back from there decides about control flow or addresses.
 */
#define IHSM_COPY_BYTES 1024
/* Bytes between two checkpoints. */
#define IHSM_SPAN_BYTES (UINT64_C(256) * 1024)

/*
 * From this size on the crypto library's code for GCM puts powers of the GHASH key on the stack, and leaves them there.
 * Shorter commands, of which there can be millions a second, need no more than registers. That for XTS leaves masks of
 * the data unit there, whatever its size: who has them has ECB in its place.
 */
#define IHSM_STAINING_BYTES 256

struct ihsm_fp_scratch {
    struct ihsm_gcm gcm;
    const struct ks_bulk_key *loaded;  /* whose GHASH key is in gcm; held at least as long */
    bool stained;                      /* the stack below may have powers of a GHASH key, or masks */
    uint8_t text[2 * IHSM_COPY_BYTES]; /* AAD and text */
    uint8_t page[IHSM_LIST_PAGE_BYTES];
    struct ihsm_pieces src, dst;
};

struct ihsm_fp_command {
    struct ihsm_fp_context *context;
    struct ihsm_fp_scratch *scratch;
    const struct aes_sqe *sqe;
    struct aes_cqe *cqe;
    struct ihsm_cursor src, dst;
    struct ihsm_list_meter meter;
    uint64_t unchecked; /* bytes since the last checkpoint */
    bool mapped;        /* the lists are known, payload may have been touched: too late to put it off */
    bool decrypt;
};

/* Put the status into the completion; false, so that a check can be returned. */
static inline bool ihsm_fp_fail(struct ihsm_fp_command *command, unsigned sts, unsigned err) {
    command->cqe->psf = (uint16_t)(sts << IHSM_PSF_STATUS_SHIFT);
    command->cqe->err = (uint16_t)err;
    return false;
}

/*
 * Walk both lists and put the cursors at their start; false: the completion says what is wrong with them, or the
 * command is put off (ihsm_fp_context).
 * lengths_first: whether ihsm_fp_same_length is due before the structure of the lists.
 */
bool ihsm_fp_map(struct ihsm_fp_command *command, bool lengths_first);
/* Destination length is source length; false: the completion says it is not. */
bool ihsm_fp_same_length(struct ihsm_fp_command *command);

/*
 * Before another `bytes`: a checkpoint from time to time. False: the command has ended and the completion
 * says why.
 */
bool ihsm_fp_progress(struct ihsm_fp_command *command, uint32_t bytes);
/* Bytes, at most `wanted` (not 0), that lie in one stretch both in source and destination; 0: as false above. */
uint32_t ihsm_fp_span(struct ihsm_fp_command *command, uint32_t wanted);

/* Carry out a command whose keys have been found good. */
void ihsm_gcm_run(struct ihsm_fp_command *command, const struct gcm_sqe *sqe, const struct ihsm_aes_key *key);
void ihsm_xts_run(struct ihsm_fp_command *command, const struct xts_sqe *sqe, const struct ihsm_aes_key *data_key,
                  const struct ihsm_aes_key *tweak_key);

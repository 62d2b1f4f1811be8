/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Seam between the AES rings and the code that carries out one AES command. */
#pragma once
#include "engine.h"

/*
 * What a command may use.  The region lock is held (read side) during ihsm_fp_execute; pointers to guest memory come
 * from ihsm_regions_translate and are good until the next ihsm_fp_checkpoint.
 */
struct ihsm_fp_context {
    struct ihsm_engine *engine;
    struct ihsm_regions *regions;
    struct ihsm_ring *ring;
    size_t source_hint, destination_hint; /* for ihsm_regions_translate */
};

/*
 * Carry out one AES command (spec 02 parts C and E).  sqe is a private copy.  cqe comes zeroed but for attr and cmd_id;
 * fill in everything but sqhd, sqid and phase (psf = sts << 1).
 */
void ihsm_fp_execute(struct ihsm_fp_context *context, const struct gcm_sqe *sqe, struct aes_cqe *cqe);

/*
 * To be called about every 256 KiB of a long command.  Lets a waiting mapping callback in (all pointers to guest
 * memory are void afterwards, translate again).  False: the queue goes away, leave at once.
 */
bool ihsm_fp_checkpoint(struct ihsm_fp_context *context);

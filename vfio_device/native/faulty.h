/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* What becomes of commands and completions that a fault hits; ring lock (or an AES ring's server) and region lock. */
#pragma once
#include <stdint.h>

#include "ring.h"

enum ihsm_fate {
    IHSM_FATE_GO_ON,
    IHSM_FATE_ALTERED,    /* go on with the entry as it is now */
    IHSM_FATE_HELD,       /* until the fault ends */
    IHSM_FATE_UNREADABLE, /* its entry: the ring has stopped */
    IHSM_FATE_LOST,       /* the function is about to be reset */
};

/*
 * A command has been fetched: what to do with it. sqe is the private copy; request is what the source of a normal HSM
 * command held, NULL if it was not read and for all others. *held_by becomes the fault of IHSM_FATE_HELD.
 */
enum ihsm_fate ihsm_faulty_command(struct ihsm_ring *ring, void *sqe, const uint8_t *request, uint32_t *held_by);

/* A command that is refused as it stands has been fetched; nothing becomes of it but that it has been seen. */
void ihsm_faulty_seen(struct ihsm_ring *ring, const void *sqe, const uint8_t *request);

/*
 * As ihsm_regions_write for the data that answer an admin or HSM command, or what a fault writes instead; of an HSM
 * command cqe gets another byte count then.
 */
bool ihsm_faulty_write(struct ihsm_ring *ring, uint64_t iova, const uint8_t *bytes, size_t len, void *cqe,
                       const void *sqe, const uint8_t *request);

/* No more completions of the ring will come: post the one that waits for them. */
void ihsm_faulty_end(struct ihsm_ring *ring);

/* As ihsm_ring_post and asking for the vector, or what a fault does instead. True: as good as posted. */
bool ihsm_faulty_post(struct ihsm_ring *ring, void *cqe, const void *sqe, const uint8_t *request);

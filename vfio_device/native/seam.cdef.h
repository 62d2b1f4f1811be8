/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What tests see of the seams. Read by cffi and included by C, in builds with the option test_seams alone.
 *
 * A place can be closed: threads that come to it stand there until they are let through. So a test makes a race happen
 * at will. Waits end after timeout_ms at the latest, a guard against hanging for ever; false says that it was needed.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ihsm_seam {
    IHSM_SEAM_POLLER_TIRED,       /* the poller has found nothing and has not told clients yet that it sleeps */
    IHSM_SEAM_POLLER_SLEEPS,      /* it has looked once more and is about to wait for a kick */
    IHSM_SEAM_HOST_DELIVERED,     /* vectors are delivered, the function mutex is still held */
    IHSM_SEAM_HOST_UNLOCKED,      /* the mutex is free, pending vectors are about to be looked at once more */
    IHSM_SEAM_AES_FETCHED,        /* an AES entry has been fetched and is about to be carried out */
    IHSM_SEAM_AES_KEY_FOUND,      /* its key has been admitted and not been used yet */
    IHSM_SEAM_AES_AAD_HASHED,     /* its AAD has been hashed and not been written yet */
    IHSM_SEAM_AES_CHECKPOINT,     /* between two spans of a long command */
    IHSM_SEAM_AES_ASKED_TO_LEAVE, /* somebody has asked the server of an AES ring to leave and waits for it */
    IHSM_SEAM_REGIONS_WRITER,     /* somebody is about to wait for the write lock of the regions, and readers know */
    IHSM_SEAM_EXPRESS_RUN,        /* the express lane has used a key and does not hold it for the answer yet */
    IHSM_SEAM_EXPRESS_HELD,       /* it holds session and key and is about to answer */
    IHSM_SEAM_PLACES,
};

/* From now on threads stand at the place, but for the first so many. */
void ihsm_seam_close(int place, unsigned let_pass);
/* Let those through that stand there, and everybody else. */
void ihsm_seam_open(int place);
/* Wait until a thread stands there. */
bool ihsm_seam_wait_standing(int place, int timeout_ms);
/* Wait until threads have come to the place so often since ihsm_seam_reset. */
bool ihsm_seam_wait_reached(int place, uint64_t times, int timeout_ms);
uint64_t ihsm_seam_reached(int place);
/* Open all places, count from 0, and switch off what follows. */
void ihsm_seam_reset(void);

/* Let the poller sleep until it is kicked: a doorbell it has missed is not found again by itself. */
void ihsm_seam_sleep_without_bound(bool on);

/*
 * Leave litter on the stack wherever the key store takes hold of a key, or an AES command has found its own, as library
 * code might leave copies of it.
 */
void ihsm_seam_litter_stack(bool on);
/* Bytes of litter on the stack below the caller. */
size_t ihsm_seam_litter_left(void);

/*
 * From now on what has been copied out of guest memory, or been worked on there, is changed there at once, as a guest
 * might do at the worst moment: whoever reads it again finds something else. All of guest memory must be writable.
 */
void ihsm_seam_spoil_reads(bool on);
/* Bytes changed so since ihsm_seam_reset. */
uint64_t ihsm_seam_spoiled(void);

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What Python sees of mailboxes for data objects (doe.h). Read by cffi and included by C: declarations only.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ihsm_doe_line; /* where mailboxes with something to tell wait for the one thread that serves them all */
struct ihsm_doe;      /* the mailbox of one function */

enum ihsm_doe_event {
    IHSM_DOE_CLOSED = 0,
    IHSM_DOE_OBJECT = 1, /* a whole object: 3 to 1024 dwords, as many as its header says */
    IHSM_DOE_FORGET = 2  /* what came of earlier objects is void */
};
struct ihsm_doe_told {
    uint64_t id;
    uint64_t transfer; /* of an object: with which its answer comes back */
    uint32_t causes;   /* of IHSM_DOE_FORGET: resets, by bit (enum ihsm_trace_reset) */
    uint32_t size;     /* of an object, in bytes */
    uint8_t data[4096];
};

struct ihsm_doe_line *ihsm_doe_line_new(void); /* NULL: no memory */
/* Nobody waits in ihsm_doe_pull any more, now or later. */
void ihsm_doe_line_close(struct ihsm_doe_line *line);
/* Without mailboxes, and with nobody inside. */
void ihsm_doe_line_free(struct ihsm_doe_line *line);
/*
 * For one thread: wait for what a mailbox tells next; each has its turn. The object that was pulled before has failed
 * if it has neither been answered nor discarded: so none stays without an end for want of memory to say so with.
 */
int ihsm_doe_pull(struct ihsm_doe_line *line, struct ihsm_doe_told *told);

struct ihsm_doe *ihsm_doe_new(struct ihsm_doe_line *line, uint64_t id); /* NULL: no memory */
void ihsm_doe_free(struct ihsm_doe *doe);
/* Answer the object of a transfer by another; false: it has been aborted meanwhile, or this is of no object's size. */
bool ihsm_doe_answer(struct ihsm_doe *doe, uint64_t transfer, const uint8_t *data, size_t size);
/* The object of a transfer is not for this device: there is no answer, and the mailbox takes the next. */
void ihsm_doe_discard(struct ihsm_doe *doe, uint64_t transfer);
/* The object of a transfer has no answer: error until an abort. */
void ihsm_doe_fail(struct ihsm_doe *doe, uint64_t transfer);

/* For whoever has the configuration space; `offset` is within the capability. */
void ihsm_doe_write(struct ihsm_doe *doe, size_t offset, const uint8_t *data, size_t size);
/* The registers as they stand, into the bytes of the capability. */
void ihsm_doe_show(struct ihsm_doe *doe, uint8_t *capability);
/* Back to the state at power-on. */
void ihsm_doe_reset(struct ihsm_doe *doe, int cause);

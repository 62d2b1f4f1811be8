/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What could not be read or written in guest memory, for people: commands answer it with a status or not at all, and
 * the cause, mostly a wrong address, is not in it. A thread of Python's takes the faults and writes the log.
 */
#pragma once
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine.cdef.h"
#include "regions.h"

/* Faults that wait to be told of, of different functions or kinds; more are forgotten. */
#define IHSM_FAULTS 64

struct ihsm_faults {
    pthread_mutex_t lock; /* a leaf */
    pthread_cond_t filled;
    struct ihsm_fault waiting[IHSM_FAULTS];
    unsigned count;
    bool closed;
};

void ihsm_faults_init(struct ihsm_faults *faults);
void ihsm_faults_destroy(struct ihsm_faults *faults);
/* Wake whoever waits for a fault, for good. */
void ihsm_faults_close(struct ihsm_faults *faults);

/*
 * Note that len bytes at fault.iova could not be accessed; the region lock is held. Address and reason are filled in,
 * and one that waits already is counted instead.
 */
void ihsm_faults_note(struct ihsm_faults *faults, const struct ihsm_regions *regions, struct ihsm_fault fault,
                      uint64_t len, bool write);

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What could not be read or written in guest memory, for people: commands answer it with a status or not at all, and
 * the cause, mostly a wrong address, is not in it. A thread of Python's takes what is noted and writes the log.
 */
#pragma once
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine.cdef.h"
#include "regions.h"

/* Entries that wait to be told of, of different functions or kinds; more are forgotten. */
#define IHSM_UNREACHABLE_WAITING 64

struct ihsm_unreachable_list {
    pthread_mutex_t lock; /* a leaf */
    pthread_cond_t filled;
    struct ihsm_unreachable waiting[IHSM_UNREACHABLE_WAITING];
    unsigned count;
    bool closed;
};

void ihsm_unreachable_init(struct ihsm_unreachable_list *list);
void ihsm_unreachable_destroy(struct ihsm_unreachable_list *list);
/* Wake whoever waits for an entry, for good. */
void ihsm_unreachable_close(struct ihsm_unreachable_list *list);

/*
 * Note that len bytes at what.iova could not be accessed; the region lock is held. Address and reason are filled in
 * (len 0: they are there), and one that waits already is counted instead.
 */
void ihsm_unreachable_note(struct ihsm_unreachable_list *list, const struct ihsm_regions *regions,
                           struct ihsm_unreachable what, uint64_t len, bool write);

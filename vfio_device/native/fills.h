/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* How much of the holes in a client's files the device has filled, and how much more it may fill. */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

/* Files of one client that are known; a VMM has one for each NUMA node. */
#define IHSM_FILES 16

struct ihsm_file {
    dev_t device;
    ino_t inode;
    int fd;
    atomic_uint regions;      /* 0: this place is free */
    _Atomic int64_t reserved; /* bytes that count as filled, because it would not be seen */
    _Atomic int64_t filled;   /* bytes of holes */
};

struct ihsm_fills {
    struct ihsm_file files[IHSM_FILES]; /* changed with the region lock held for writing */
    int64_t limit;                      /* INT64_MAX / 2: there is none */
    _Atomic int64_t allowed;            /* until it is reckoned anew */
    _Atomic int64_t lost;               /* filled in files that are not known, or not any more */
};

void ihsm_fills_init(struct ihsm_fills *fills);
/* A new client may have `limit` bytes filled, and as many more as it fills itself. */
void ihsm_fills_begin(struct ihsm_fills *fills, int64_t limit);
/* A region is of this file, of which `reserved` bytes count as filled; write lock held. NULL: it cannot be known. */
struct ihsm_file *ihsm_fills_take(struct ihsm_fills *fills, int fd, int64_t reserved);
/* One of its regions has gone; NULL is allowed; write lock held. */
void ihsm_fills_leave(struct ihsm_fills *fills, struct ihsm_file *file);
/* Whether so many bytes more may be filled; safe in a signal handler, with the read lock held. */
bool ihsm_fills_may(struct ihsm_fills *fills, int64_t bytes);
/* So many bytes have been filled in that file, or one that is not known (NULL). */
void ihsm_fills_count(struct ihsm_fills *fills, struct ihsm_file *file, int64_t bytes);
/* Bytes that count as filled; any thread. */
int64_t ihsm_fills_total(struct ihsm_fills *fills);

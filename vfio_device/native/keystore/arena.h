/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* The memory that all secrets live in: locked, left out of core dumps and of forked children, zero on free. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arena_stats {
    uint64_t in_use;   /* bytes of live blocks, rounded up to their size class */
    uint64_t peak;     /* highest value of in_use */
    uint64_t reserved; /* bytes mapped */
    uint64_t locked;   /* bytes of those that mlock accepted */
};

/* Zeroed, 16-byte aligned; NULL if no memory can be mapped. */
void *ks_arena_alloc(size_t size);
/*
 * Whether this thread has been refused a block since it last asked this: the library does not tell want of memory from
 * a failure of its own, and a failed test ends the device.
 */
bool ks_arena_refused(void);
/* Wipes the whole block; NULL is allowed. */
void ks_arena_free(void *block);
/* Usable bytes of a block, at least the size asked for. */
size_t ks_arena_size(void *block);
void ks_arena_stats(struct arena_stats *out);
/* Bytes mapped that mlock refused. */
uint64_t ks_arena_unlocked(void);

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory: what a client has mapped, and every access to it. */
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "fills.h"

/*
 * Copy to or from guest memory. What is in there is the guest's affair, whose commands may name the same memory: for
 * ThreadSanitizer this is a function of its own, so that such a race can be told from ours.
 */
#ifdef __SANITIZE_THREAD__
__attribute__((noinline, unused)) static void ihsm_guest_copy(void *to, const void *from, size_t len) {
#else
static inline void ihsm_guest_copy(void *to, const void *from, size_t len) {
#endif
    memcpy(to, from, len);
}

/* The memory of this process that a region lies in, whole pages of its file. */
struct ihsm_mapping {
    void *base;
    size_t len;
    size_t page_bytes;
};

struct ihsm_region {
    uint64_t iova;
    uint64_t last;  /* last byte, inclusive, so that a region may end at 2^64 - 1 */
    uint8_t *vaddr; /* NULL: the client gave no pointer (ROM, a BAR, memory without share=on) */
    bool readable;
    bool writable;
    struct ihsm_mapping mapping; /* of a client's file, else zeros */
    struct ihsm_file *file;      /* which that is; NULL: not known */
    int64_t offset;              /* of the mapping in it */
    bool watched;                /* touching a hole is told to sigbus.c */
    _Atomic bool replaced;       /* all of it is scratch memory */
    /* Addresses between which there are pages in the place of holes that may not be filled; 0: there are none. */
    _Atomic uintptr_t torn_from, torn_to;
};

struct ihsm_regions {
    pthread_rwlock_t lock;     /* prefers writers */
    atomic_uint writers;       /* waiting for or holding the write side */
    struct ihsm_region *table; /* sorted by iova, never overlapping */
    size_t count;
    size_t capacity;
    size_t without_pointer;
    struct ihsm_fills fills;
    _Atomic int64_t scratch_left; /* bytes of scratch memory until it is emptied */
    int64_t scratch_bytes;
    /* Holes that have been touched and may not be filled; whether there are pages in their place. */
    atomic_uint refusals;
    atomic_bool torn;
};

int ihsm_regions_init(struct ihsm_regions *regions);
void ihsm_regions_destroy(struct ihsm_regions *regions);
int ihsm_regions_add(struct ihsm_regions *regions, const struct ihsm_region *region);
int ihsm_regions_remove(struct ihsm_regions *regions, uint64_t iova, uint64_t size);
bool ihsm_regions_without_pointer(struct ihsm_regions *regions, uint64_t iova, uint64_t size);

/* Put into *hint the region that iova lies in; false: none. Read lock held. */
bool ihsm_regions_find(const struct ihsm_regions *regions, size_t *hint, uint64_t iova);

/*
 * Pointer to guest memory at iova, and in *contiguous how many of the wanted bytes (at least 1) lie behind it; NULL if
 * iova is not mapped, has no pointer, or may not be accessed that way. The caller holds the read lock as long as it
 * uses the pointer. *hint is any number, kept by the caller between calls: the region found last.
 */
static inline void *ihsm_regions_translate(const struct ihsm_regions *regions, size_t *hint, uint64_t iova,
                                           uint64_t wanted, bool write, uint64_t *contiguous) {
    size_t at = *hint;
    if (at >= regions->count || iova < regions->table[at].iova || iova > regions->table[at].last) {
        if (!ihsm_regions_find(regions, hint, iova))
            return NULL;
        at = *hint;
    }
    const struct ihsm_region *region = &regions->table[at];
    if (region->vaddr == NULL || !(write ? region->writable : region->readable))
        return NULL;
    uint64_t behind = region->last - iova; /* bytes after the first */
    *contiguous = wanted - 1 <= behind ? wanted : behind + 1;
    return region->vaddr + (iova - region->iova);
}

/* Copy between guest and private memory, read lock held; false (something may have been copied) if not all is there. */
bool ihsm_regions_read(const struct ihsm_regions *regions, uint64_t iova, void *to, size_t len);
bool ihsm_regions_write(const struct ihsm_regions *regions, uint64_t iova, const void *from, size_t len);

/* Why len bytes at *iova cannot be accessed, which becomes the first that cannot; enum ihsm_refusal; read lock held. */
uint8_t ihsm_regions_refusal(const struct ihsm_regions *regions, uint64_t *iova, uint64_t len, bool write);

/* Address of a page that is not mapped, the highest there is; read lock held. */
uint64_t ihsm_regions_hole(const struct ihsm_regions *regions);

/* -- sigbus.c */
/*
 * Around every access to guest memory; never nested. If `refusals` has changed between the two, a hole was touched that
 * may not be filled, maybe by another thread: what was written there is lost, what was read there is zeros.
 */
void ihsm_regions_read_lock(struct ihsm_regions *regions);
void ihsm_regions_unlock(struct ihsm_regions *regions);
/* Around every change of the regions, and of what they are of. */
void ihsm_regions_write_lock(struct ihsm_regions *regions);
void ihsm_regions_write_unlock(struct ihsm_regions *regions);
/* From now on guest memory whose file is cut reads as zeros instead of ending the process. */
void ihsm_guard_guest_memory(void);

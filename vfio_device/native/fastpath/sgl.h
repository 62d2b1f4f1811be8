/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Data pointers of AES queue entries: SGLs and PRPs turned into lists of host memory (spec 02 C.4, E.2). */
#pragma once
#include <string.h>

#include "abi.h"
#include "regions.h"

/*
 * Blocks of one list, and segments or PRP lists it may be spread over: what a driver that maps 4 KiB pages and fills
 * its segments needs for the largest 32-bit length, twice over for the segments.
 */
#define IHSM_LIST_BLOCKS ((UINT32_C(1) << 20) + 1)
#define IHSM_LIST_SEGMENTS 8192
#define IHSM_LIST_PAGE_BYTES IHSM_PAGE_BYTES

/* A stretch of guest memory that is contiguous here too. */
struct ihsm_piece {
    uint64_t iova;
    uint8_t *base;
    uint64_t len;
};

struct ihsm_pieces {
    struct ihsm_piece *piece; /* room for IHSM_LIST_BLOCKS */
    uint32_t count;
    uint32_t most; /* that there have been since the memory behind was given back */
    size_t hint;   /* region found last, which most lists of a client share */
};

static inline void ihsm_pieces_clear(struct ihsm_pieces *pieces) {
    if (pieces->count > pieces->most)
        pieces->most = pieces->count;
    pieces->count = 0;
}

/*
 * What walking lists costs: blocks, segments and pieces of memory, of which a few bytes of payload may have a million.
 */
struct ihsm_list_meter {
    uint32_t steps;
    /* A stretch of memory that is out of reach, the last that was met; len 0: none. */
    struct ihsm_stretch {
        uint64_t iova, len;
        bool write;
    } unreachable;
    /* Asked every IHSM_LIST_STRIDE steps; mappings may change in it. False: leave the walk. */
    bool (*go_on)(struct ihsm_list_meter *meter);
};
#define IHSM_LIST_STRIDE 256

/* One more step; false: leave the walk. */
static inline bool ihsm_list_step(struct ihsm_list_meter *meter) {
    return ++meter->steps % IHSM_LIST_STRIDE != 0 || meter->go_on(meter);
}

/* What is wrong with a list, in the order in which faults win over each other (`fast_path` in the conditions). */
enum ihsm_list_rank {
    IHSM_LIST_LEFT,
    IHSM_LIST_FETCH,
    IHSM_LIST_LENGTH,
    IHSM_LIST_STRUCTURE,
    IHSM_LIST_DATA,
    IHSM_LIST_GOOD
};

struct ihsm_list_result {
    enum ihsm_list_rank rank;
    uint16_t sts, err; /* valid unless rank is IHSM_LIST_GOOD, or IHSM_LIST_LEFT: the meter's answer ended the walk */
};

/*
 * Walk the list at `pointer` (the 16 bytes of the queue entry, private memory) for a transfer of `length` bytes, 1 or
 * more. Every descriptor is read once into `page` (IHSM_LIST_PAGE_BYTES, private), then checked, then used. The regions
 * are read-locked by the caller as long as pieces are used.
 */
struct ihsm_list_result ihsm_list_walk(const struct ihsm_regions *regions, const struct sgl_descriptor *pointer,
                                       bool is_sgl, bool destination, uint32_t length, uint8_t *page,
                                       struct ihsm_pieces *pieces, struct ihsm_list_meter *meter);

/* Position in a list of pieces. */
struct ihsm_cursor {
    struct ihsm_piece *piece, *end;
    uint64_t offset;
};

/* Contiguous bytes at the cursor; the list must not be used up. */
static inline uint64_t ihsm_cursor_left(const struct ihsm_cursor *cursor) {
    return cursor->piece->len - cursor->offset;
}
static inline uint8_t *ihsm_cursor_at(const struct ihsm_cursor *cursor) { return cursor->piece->base + cursor->offset; }

static inline void ihsm_cursor_advance(struct ihsm_cursor *cursor, uint64_t bytes) {
    cursor->offset += bytes;
    if (cursor->offset == cursor->piece->len) {
        cursor->piece++;
        cursor->offset = 0;
    }
}

/* Copy `len` bytes from or to the pieces and advance; these two for any number of pieces, the next two inline for one.
 */
void ihsm_cursor_gather(struct ihsm_cursor *cursor, uint8_t *to, size_t len);
void ihsm_cursor_scatter(struct ihsm_cursor *cursor, const uint8_t *from, size_t len);

static inline void ihsm_cursor_read(struct ihsm_cursor *cursor, uint8_t *to, size_t len) {
    if (len == 0 || ihsm_cursor_left(cursor) < len) {
        ihsm_cursor_gather(cursor, to, len);
        return;
    }
    ihsm_guest_copy(to, ihsm_cursor_at(cursor), len);
    ihsm_cursor_advance(cursor, len);
}

static inline void ihsm_cursor_write(struct ihsm_cursor *cursor, const uint8_t *from, size_t len) {
    if (len == 0 || ihsm_cursor_left(cursor) < len) {
        ihsm_cursor_scatter(cursor, from, len);
        return;
    }
    ihsm_guest_copy(ihsm_cursor_at(cursor), from, len);
    ihsm_cursor_advance(cursor, len);
}

/* After the mappings may have changed: find one piece anew; false if it is no longer there as a whole. */
bool ihsm_piece_remap(struct ihsm_piece *piece, const struct ihsm_regions *regions, size_t *hint, bool destination);

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
#include "fastpath/sgl.h"

#include <string.h>

#include "seam.h"

struct walk {
    const struct ihsm_regions *regions;
    struct ihsm_pieces *pieces;
    struct ihsm_list_meter *meter;
    uint64_t total;  /* bytes of the blocks seen so far */
    uint32_t length; /* bytes of the transfer */
    uint32_t blocks, segments;
    bool destination;
    bool fetch_failed, malformed, unmapped, too_many;
    bool left;      /* because of the meter */
    bool cut_short; /* a malformed link hides the rest of the list, so the sum says nothing */
};

/* Count a block or a segment; false once there are too many, whatever is in them. */
static bool count(struct walk *w, uint32_t *counter, uint32_t limit) {
    w->too_many |= *counter == limit;
    ++*counter;
    w->left |= !ihsm_list_step(w->meter);
    return !w->too_many && !w->left;
}

/* Append a data block. The pieces are complete only if nothing is wrong with the list. */
static void add_block(struct walk *w, uint64_t iova, uint64_t len) {
    w->total += len;
    if (w->total > w->length)
        return;
    struct ihsm_pieces *pieces = w->pieces;
    while (len > 0) {
        uint64_t got;
        uint8_t *base = ihsm_regions_translate(w->regions, &pieces->hint, iova, len, w->destination, &got);
        if (!base) {
            w->unmapped = true;
            w->meter->unreachable = (struct ihsm_stretch){iova, len, w->destination};
            return;
        }
        struct ihsm_piece *last = pieces->count > 0 ? &pieces->piece[pieces->count - 1] : NULL;
        if (last && last->base + last->len == base && last->iova + last->len == iova) {
            last->len += got;
        } else if (pieces->count < IHSM_LIST_BLOCKS) {
            pieces->piece[pieces->count++] = (struct ihsm_piece){iova, base, got};
        } else {
            w->too_many = true;
            return;
        }
        iova += got;
        len -= got;
        if (!ihsm_list_step(w->meter)) {
            w->left = true;
            return;
        }
    }
}

static unsigned type_of(const struct sgl_descriptor *d) { return d->type >> 4; }
static bool is_link(const struct sgl_descriptor *d) {
    return d->type == IHSM_SGL_TYPE_SEGMENT << 4 || d->type == IHSM_SGL_TYPE_LAST_SEGMENT << 4;
}

/* A descriptor in the place of a data block. */
static void visit_block(struct walk *w, const struct sgl_descriptor *d) {
    w->malformed |= d->type != IHSM_SGL_TYPE_DATA_BLOCK << 4 || d->len == 0;
    add_block(w, d->addr, d->len);
}

static void walk_sgl(struct walk *w, struct sgl_descriptor at, uint8_t *page) {
    if (type_of(&at) == IHSM_SGL_TYPE_DATA_BLOCK) {
        visit_block(w, &at);
        return;
    }
    for (;;) {
        /* `at` describes a segment. What cannot be read comes before what is malformed. */
        if (!is_link(&at)) {
            w->malformed = w->cut_short = true;
            return;
        }
        if (!count(w, &w->segments, IHSM_LIST_SEGMENTS))
            return;
        uint32_t wanted = at.len < sizeof at              ? sizeof at
                          : at.len > IHSM_LIST_PAGE_BYTES ? IHSM_LIST_PAGE_BYTES
                                                          : at.len;
        if (!ihsm_regions_read(w->regions, at.addr, page, wanted)) {
            w->fetch_failed = true;
            w->meter->unreachable = (struct ihsm_stretch){at.addr, wanted, false};
            return;
        }
        if (at.len != wanted || at.len % sizeof at != 0 || at.addr % IHSM_LIST_PAGE_BYTES != 0) {
            w->malformed = w->cut_short = true;
            return;
        }
        bool more = type_of(&at) == IHSM_SGL_TYPE_SEGMENT;
        const struct sgl_descriptor *d = (const struct sgl_descriptor *)page;
        size_t links = at.len / sizeof at;
        const struct sgl_descriptor *end = d + (more ? links - 1 : links);
        for (; d < end; d++) {
            if (w->total > w->length || !count(w, &w->blocks, IHSM_LIST_BLOCKS))
                return;
            visit_block(w, d);
            if (w->left)
                return;
        }
        if (!more)
            return;
        at = *d;
    }
}

/*
 * PRPs as in NVMe: the first entry may start inside its page; the second is a page, or the address of a list of pages
 * if more than one is left; the last entry of a list's page leads to the next list if more than one page is left.
 */
static void walk_prp(struct walk *w, const struct sgl_descriptor *pointer, uint8_t *page) {
    uint64_t prp[2];
    memcpy(prp, pointer, sizeof prp);
    uint64_t left = w->length;
    uint64_t first = IHSM_LIST_PAGE_BYTES - prp[0] % IHSM_LIST_PAGE_BYTES;
    w->malformed |= prp[0] % 4 != 0;
    add_block(w, prp[0], first < left ? first : left);
    left -= w->total;
    if (w->left)
        return;
    uint64_t list = prp[1];
    if (left > 0 && left <= IHSM_LIST_PAGE_BYTES) {
        w->malformed |= list % IHSM_LIST_PAGE_BYTES != 0;
        add_block(w, list, left);
        return;
    }
    while (left > 0) {
        uint32_t bytes = IHSM_LIST_PAGE_BYTES - list % IHSM_LIST_PAGE_BYTES;
        uint64_t needed = (left + IHSM_LIST_PAGE_BYTES - 1) / IHSM_LIST_PAGE_BYTES * sizeof list;
        bool more = needed > bytes;
        if (list % sizeof list != 0) {
            w->malformed = w->cut_short = true;
            return;
        }
        if (!more)
            bytes = (uint32_t)needed;
        if (!count(w, &w->segments, IHSM_LIST_SEGMENTS))
            return;
        if (!ihsm_regions_read(w->regions, list, page, bytes)) {
            w->fetch_failed = true;
            w->meter->unreachable = (struct ihsm_stretch){list, bytes, false};
            return;
        }
        for (uint32_t at = 0; at < bytes; at += sizeof list) {
            uint64_t entry;
            memcpy(&entry, page + at, sizeof entry);
            if (more && at + sizeof list == bytes) {
                list = entry;
                break;
            }
            w->malformed |= entry % IHSM_LIST_PAGE_BYTES != 0;
            uint64_t block = left < IHSM_LIST_PAGE_BYTES ? left : IHSM_LIST_PAGE_BYTES;
            add_block(w, entry, block);
            if (w->left)
                return;
            left -= block;
        }
    }
}

struct ihsm_list_result ihsm_list_walk(const struct ihsm_regions *regions, const struct sgl_descriptor *pointer,
                                       bool is_sgl, bool destination, uint32_t length, uint8_t *page,
                                       struct ihsm_pieces *pieces, struct ihsm_list_meter *meter) {
    struct walk w = {
        .regions = regions, .pieces = pieces, .meter = meter, .length = length, .destination = destination};
    ihsm_pieces_clear(pieces);
    uint16_t fetch, structure;
    if (is_sgl) {
        walk_sgl(&w, *pointer, page);
        fetch = destination ? IHSM_FETCH_ERROR_DEST_SGL : IHSM_FETCH_ERROR_SRC_SGL;
        structure = destination ? IHSM_FETCH_ERROR_DEST_DESCRIPTOR : IHSM_FETCH_ERROR_SRC_DESCRIPTOR;
    } else {
        walk_prp(&w, pointer, page);
        fetch = structure = destination ? IHSM_FETCH_ERROR_DEST_PRP : IHSM_FETCH_ERROR_SRC_PRP;
    }
    if (w.left)
        return (struct ihsm_list_result){.rank = IHSM_LIST_LEFT};
    if (w.fetch_failed)
        return (struct ihsm_list_result){IHSM_LIST_FETCH, IHSM_AES_STATUS_FETCH_ERROR, fetch};
    if (w.total > length)
        return (struct ihsm_list_result){IHSM_LIST_LENGTH, IHSM_AES_STATUS_FETCH_ERROR,
                                         IHSM_FETCH_ERROR_LENGTH_OVERRUN};
    if (w.total < length && !w.too_many && !w.cut_short)
        return (struct ihsm_list_result){IHSM_LIST_LENGTH, IHSM_AES_STATUS_FETCH_ERROR,
                                         IHSM_FETCH_ERROR_LENGTH_UNDERRUN};
    if (w.malformed)
        return (struct ihsm_list_result){IHSM_LIST_STRUCTURE, IHSM_AES_STATUS_FETCH_ERROR, structure};
    if (w.unmapped || w.too_many)
        return (struct ihsm_list_result){IHSM_LIST_DATA, IHSM_AES_STATUS_RETRIES_EXCEEDED, 0};
    return (struct ihsm_list_result){.rank = IHSM_LIST_GOOD};
}

void ihsm_cursor_gather(struct ihsm_cursor *cursor, uint8_t *to, size_t len) {
    while (len > 0) {
        uint64_t n = ihsm_cursor_left(cursor) < len ? ihsm_cursor_left(cursor) : len;
        ihsm_guest_copy(to, ihsm_cursor_at(cursor), n);
        IHSM_SEAM_READ(ihsm_cursor_at(cursor), n);
        ihsm_cursor_advance(cursor, n);
        to += n;
        len -= n;
    }
}

void ihsm_cursor_scatter(struct ihsm_cursor *cursor, const uint8_t *from, size_t len) {
    while (len > 0) {
        uint64_t n = ihsm_cursor_left(cursor) < len ? ihsm_cursor_left(cursor) : len;
        ihsm_guest_copy(ihsm_cursor_at(cursor), from, n);
        ihsm_cursor_advance(cursor, n);
        from += n;
        len -= n;
    }
}

bool ihsm_piece_remap(struct ihsm_piece *piece, const struct ihsm_regions *regions, size_t *hint, bool destination) {
    for (uint64_t done = 0, got; done < piece->len; done += got) {
        uint8_t *base = ihsm_regions_translate(regions, hint, piece->iova + done, piece->len - done, destination, &got);
        if (!base || (done > 0 && base != piece->base + done))
            return false;
        piece->base = base - done;
    }
    return true;
}

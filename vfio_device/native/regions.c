/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory: a sorted table of mapped regions. Writers exclude readers, so the table is changed in place. */
#include "regions.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "abi.h"
#include "engine.cdef.h"
#include "seam.h"

int ihsm_regions_init(struct ihsm_regions *regions) {
    pthread_rwlockattr_t attributes;
    pthread_rwlockattr_init(&attributes);
    /* Readers come from workers in a tight loop: without this a mapping callback could wait for ever. */
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    int error = pthread_rwlock_init(&regions->lock, &attributes);
    ihsm_fills_init(&regions->fills);
    regions->scratch_left = regions->scratch_bytes = INT64_MAX;
    pthread_rwlockattr_destroy(&attributes);
    return -error;
}

void ihsm_regions_destroy(struct ihsm_regions *regions) {
    free(regions->table);
    pthread_rwlock_destroy(&regions->lock);
}

/* Index of the first region that ends at or behind iova; count if there is none. */
static size_t lower_bound(const struct ihsm_regions *regions, uint64_t iova) {
    size_t low = 0, high = regions->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (regions->table[middle].last < iova)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int ihsm_regions_add(struct ihsm_regions *regions, const struct ihsm_region *region) {
    if (region->last < region->iova)
        return -EINVAL;
    int result = 0;
    ihsm_regions_write_lock(regions);
    size_t at = lower_bound(regions, region->iova);
    if (at < regions->count && regions->table[at].iova <= region->last) {
        result = -EEXIST;
    } else {
        if (regions->count == regions->capacity) {
            size_t capacity = regions->capacity ? 2 * regions->capacity : 16;
            struct ihsm_region *table = realloc(regions->table, capacity * sizeof *table);
            if (table == NULL) {
                result = -ENOMEM;
                goto out;
            }
            regions->table = table;
            regions->capacity = capacity;
        }
        memmove(&regions->table[at + 1], &regions->table[at], (regions->count - at) * sizeof *regions->table);
        regions->table[at] = *region;
        regions->count++;
        regions->without_pointer += region->vaddr == NULL;
    }
out:
    ihsm_regions_write_unlock(regions);
    return result;
}

int ihsm_regions_remove(struct ihsm_regions *regions, uint64_t iova, uint64_t size) {
    if (size == 0 || iova + (size - 1) < iova)
        return -EINVAL;
    int result = -ENOENT;
    ihsm_regions_write_lock(regions);
    size_t at = lower_bound(regions, iova);
    if (at < regions->count && regions->table[at].iova == iova && regions->table[at].last == iova + (size - 1)) {
        regions->without_pointer -= regions->table[at].vaddr == NULL;
        ihsm_fills_leave(&regions->fills, regions->table[at].file);
        regions->count--;
        memmove(&regions->table[at], &regions->table[at + 1], (regions->count - at) * sizeof *regions->table);
        result = 0;
    }
    ihsm_regions_write_unlock(regions);
    return result;
}

bool ihsm_regions_without_pointer(struct ihsm_regions *regions, uint64_t iova, uint64_t size) {
    uint64_t last = iova + (size - 1);
    bool found = false;
    if (size == 0 || last < iova)
        return false;
    ihsm_regions_read_lock(regions);
    for (size_t i = lower_bound(regions, iova); !found && i < regions->count && regions->table[i].iova <= last; i++)
        found = regions->table[i].vaddr == NULL;
    ihsm_regions_unlock(regions);
    return found;
}

bool ihsm_regions_find(const struct ihsm_regions *regions, size_t *hint, uint64_t iova) {
    size_t at = lower_bound(regions, iova);
    if (at == regions->count || regions->table[at].iova > iova)
        return false;
    *hint = at;
    return true;
}

bool ihsm_regions_read(const struct ihsm_regions *regions, uint64_t iova, void *to, size_t len) {
    size_t hint = 0;
    for (size_t done = 0; done < len;) {
        uint64_t piece;
        const void *from = ihsm_regions_translate(regions, &hint, iova + done, len - done, false, &piece);
        if (from == NULL)
            return false;
        ihsm_guest_copy((uint8_t *)to + done, from, piece);
        IHSM_SEAM_READ(from, piece);
        done += piece;
    }
    return true;
}

bool ihsm_regions_write(const struct ihsm_regions *regions, uint64_t iova, const void *from, size_t len) {
    size_t hint = 0;
    for (size_t done = 0; done < len;) {
        uint64_t piece;
        void *to = ihsm_regions_translate(regions, &hint, iova + done, len - done, true, &piece);
        if (to == NULL)
            return false;
        ihsm_guest_copy(to, (const uint8_t *)from + done, piece);
        done += piece;
    }
    return true;
}

uint8_t ihsm_regions_refusal(const struct ihsm_regions *regions, uint64_t *iova, uint64_t len, bool write) {
    size_t hint = 0;
    for (uint64_t done = 0, piece = 0; done < len; done += piece) {
        if (ihsm_regions_translate(regions, &hint, *iova + done, len - done, write, &piece) == NULL) {
            *iova += done;
            break;
        }
    }
    size_t at = lower_bound(regions, *iova);
    if (at == regions->count || regions->table[at].iova > *iova)
        return IHSM_NOT_MAPPED;
    return regions->table[at].vaddr == NULL ? IHSM_WITHOUT_POINTER : IHSM_NOT_ALLOWED;
}

uint64_t ihsm_regions_hole(const struct ihsm_regions *regions) {
    const uint64_t in_page = IHSM_PAGE_BYTES - 1;
    uint64_t hole = ~in_page;
    for (size_t i = regions->count; i > 0 && regions->table[i - 1].last >= hole; i--)
        hole = (regions->table[i - 1].iova - 1) & ~in_page;
    return hole;
}

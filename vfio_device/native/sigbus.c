/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory whose file has been cut.
 *
 * A client may shorten the file behind memory it has mapped for us, at any time; touching it then raises SIGBUS, which
 * would end the process and with it the other functions. Instead the page is replaced by an empty private one: the
 * client that did it reads zeros and loses what is written, nobody else notices. A huge page is replaced as a whole,
 * since its mapping cannot be split. Each single page costs the process two more mappings, of which it may not have
 * many (vm.max_map_count); after MAX_SINGLE_PAGES the region is replaced as a whole, by memory that is emptied whenever
 * scratch_bytes of it have been touched.
 *
 * A hole in a file that is watched ends here too (holes.c). It is filled, as long as the function may have more of
 * that (fills.c). Then there is an empty page in its place until nobody uses the memory, so that whoever touched it can
 * go on; the command fails, and from the next on all is as it was.
 *
 * Guest memory is touched with the region lock held only, so the thread that faults has named its table in `touched`.
 */
#include "regions.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#include "holes.h"
#include "seam.h"

static __thread struct ihsm_regions *touched;
static struct sigaction previous;
static uintptr_t page_bytes;
/* A quarter of the mappings that a process may have, as Linux sets it. */
#define MAX_SINGLE_PAGES 8192

static atomic_uint single_pages;
static pthread_once_t once = PTHREAD_ONCE_INIT;

void ihsm_regions_write_lock(struct ihsm_regions *regions) {
    atomic_fetch_add(&regions->writers, 1);
    IHSM_SEAM(REGIONS_WRITER);
    pthread_rwlock_wrlock(&regions->lock);
}

void ihsm_regions_write_unlock(struct ihsm_regions *regions) {
    pthread_rwlock_unlock(&regions->lock);
    atomic_fetch_sub(&regions->writers, 1);
}

/* The client's file in the place of the pages that have taken that of its holes. */
static bool map_again(struct ihsm_region *region, uintptr_t from, size_t len) {
    int prot = (region->readable ? PROT_READ : 0) | (region->writable ? PROT_WRITE : 0);
    off_t offset = region->offset + (off_t)(from - (uintptr_t)region->mapping.base);
    return region->file != NULL &&
           mmap((void *)from, len, prot, MAP_SHARED | MAP_FIXED, region->file->fd, offset) != MAP_FAILED &&
           madvise((void *)from, len, MADV_DONTDUMP) == 0 && ihsm_holes_watch((void *)from, len);
}

/* A region that cannot be mapped as it was has none of its memory any more: better that than another's. */
static void mend(struct ihsm_regions *regions) {
    ihsm_regions_write_lock(regions);
    for (size_t i = 0; atomic_load(&regions->torn) && i < regions->count; i++) {
        struct ihsm_region *region = &regions->table[i];
        uintptr_t from = atomic_exchange(&region->torn_from, 0), to = atomic_exchange(&region->torn_to, 0);
        if (to == 0 || map_again(region, from, to - from))
            continue;
        region->vaddr = NULL;
        regions->without_pointer++;
    }
    atomic_store(&regions->torn, false);
    ihsm_regions_write_unlock(regions);
}

void ihsm_regions_read_lock(struct ihsm_regions *regions) {
    pthread_rwlock_rdlock(&regions->lock);
    while (atomic_load_explicit(&regions->torn, memory_order_relaxed)) {
        pthread_rwlock_unlock(&regions->lock);
        mend(regions);
        pthread_rwlock_rdlock(&regions->lock);
    }
    touched = regions;
}

void ihsm_regions_unlock(struct ihsm_regions *regions) {
    bool torn = atomic_load_explicit(&regions->torn, memory_order_relaxed);
    touched = NULL;
    pthread_rwlock_unlock(&regions->lock);
    if (torn)
        mend(regions);
}

static struct ihsm_region *region_of(struct ihsm_regions *regions, uintptr_t address) {
    for (size_t i = 0; regions != NULL && i < regions->count; i++) {
        uintptr_t start = (uintptr_t)regions->table[i].vaddr;
        if (start != 0 && address >= start && address - start <= regions->table[i].last - regions->table[i].iova)
            return &regions->table[i];
    }
    return NULL;
}

static bool replace(uintptr_t start, size_t len) {
    return mmap((void *)start, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1,
                0) != MAP_FAILED;
}

static bool replace_page(struct ihsm_region *region, uintptr_t address) {
    const struct ihsm_mapping *mapping = &region->mapping;
    if (atomic_load(&single_pages) < MAX_SINGLE_PAGES && replace(address & ~(page_bytes - 1), page_bytes)) {
        atomic_fetch_add(&single_pages, 1);
        return true;
    }
    uintptr_t base = (uintptr_t)mapping->base, huge = address & ~((uintptr_t)mapping->page_bytes - 1);
    /* Only hugetlbfs aligns its mappings to its pages; tmpfs may name a larger size than it maps with. */
    if (base != 0 && mapping->page_bytes > page_bytes && huge >= base &&
        huge + mapping->page_bytes <= base + mapping->len && replace(huge, mapping->page_bytes))
        return true;
    if (base == 0 || !replace(base, mapping->len))
        return false;
    atomic_store(&region->replaced, ihsm_holes_watch(mapping->base, mapping->len));
    return true;
}

/* A page of memory that has been replaced as a whole. What is in all of that is lost when it has become too much. */
static bool touch_scratch(struct ihsm_regions *regions, uintptr_t page) {
    if (atomic_fetch_sub(&regions->scratch_left, (int64_t)page_bytes) < (int64_t)page_bytes) {
        for (size_t i = 0; i < regions->count; i++)
            if (atomic_load(&regions->table[i].replaced))
                madvise(regions->table[i].mapping.base, regions->table[i].mapping.len, MADV_DONTNEED);
        atomic_store(&regions->scratch_left, regions->scratch_bytes);
    }
    int error = ihsm_holes_fill(page, page_bytes);
    return error == 0 || error == -EEXIST || error == -EAGAIN;
}

static void widen(struct ihsm_region *region, uintptr_t page) {
    uintptr_t from = atomic_load(&region->torn_from), to = atomic_load(&region->torn_to);
    while ((from == 0 || page < from) && !atomic_compare_exchange_weak(&region->torn_from, &from, page))
        ;
    while (page + page_bytes > to && !atomic_compare_exchange_weak(&region->torn_to, &to, page + page_bytes))
        ;
}

/* Other memory in the place of a hole, as long as somebody uses the region. */
static bool tear(struct ihsm_regions *regions, struct ihsm_region *region, uintptr_t page) {
    atomic_fetch_add(&regions->refusals, 1);
    widen(region, page);
    atomic_store(&regions->torn, true);
    return replace(page, page_bytes);
}

static bool make_good(struct ihsm_regions *regions, struct ihsm_region *region, uintptr_t address) {
    uintptr_t page = address & ~(page_bytes - 1);
    if (atomic_load(&region->replaced) && touch_scratch(regions, page))
        return true;
    if (!region->watched)
        return replace_page(region, address);
    if (!ihsm_fills_may(&regions->fills, (int64_t)page_bytes))
        return tear(regions, region, page);
    switch (ihsm_holes_fill(page, page_bytes)) {
    case 0:
        ihsm_fills_count(&regions->fills, region->file, (int64_t)page_bytes);
        return true;
    case -EEXIST: /* another thread has */
    case -EAGAIN: /* the mappings are changing */
        return true;
    case -ENOMEM:
        return tear(regions, region, page);
    default: /* no hole, but behind the end */
        return replace_page(region, address);
    }
}

/* Uses nothing but plain system calls. */
static void on_bus_error(int number, siginfo_t *info, void *context) {
    uintptr_t address = (uintptr_t)info->si_addr;
    struct ihsm_region *region = region_of(touched, address);
    int error = errno;
    if (region != NULL && make_good(touched, region, address)) {
        errno = error;
        return;
    }
    if (previous.sa_flags & SA_SIGINFO)
        previous.sa_sigaction(number, info, context);
    else if (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN)
        sigaction(number, &previous, NULL); /* the access is repeated and has its usual end */
    else
        previous.sa_handler(number);
}

static void install(void) {
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};
    page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &previous);
}

void ihsm_guard_guest_memory(void) { pthread_once(&once, install); }

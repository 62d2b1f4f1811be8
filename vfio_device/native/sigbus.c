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
 * that; then its page is replaced like one that was cut off, and the thread remembers it for ihsm_fill_refused().
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

static __thread struct ihsm_regions *touched;
static __thread bool fill_refused;
static struct sigaction previous;
static uintptr_t page_bytes;
/* A quarter of the mappings that a process may have, as Linux sets it. */
#define MAX_SINGLE_PAGES 8192

static atomic_uint single_pages;
static pthread_once_t once = PTHREAD_ONCE_INIT;

void ihsm_regions_read_lock(struct ihsm_regions *regions) {
    pthread_rwlock_rdlock(&regions->lock);
    touched = regions;
}

void ihsm_regions_unlock(struct ihsm_regions *regions) {
    touched = NULL;
    pthread_rwlock_unlock(&regions->lock);
}

bool ihsm_fill_refused(void) {
    bool refused = fill_refused;
    fill_refused = false;
    return refused;
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

/* False: it is no hole, or may not be filled. */
static bool fill(struct ihsm_regions *regions, uintptr_t page) {
    int64_t bytes = (int64_t)page_bytes;
    if (atomic_fetch_sub(&regions->fill_left, bytes) < bytes) {
        atomic_fetch_add(&regions->fill_left, bytes);
        fill_refused = true;
        return false;
    }
    int error = ihsm_holes_fill(page, page_bytes);
    if (error != 0)
        atomic_fetch_add(&regions->fill_left, bytes);
    return error == 0 || error == -EEXIST || error == -EAGAIN; /* another thread's, or the mappings are changing */
}

static bool make_good(struct ihsm_regions *regions, struct ihsm_region *region, uintptr_t address) {
    uintptr_t page = address & ~(page_bytes - 1);
    if (atomic_load(&region->replaced) && touch_scratch(regions, page))
        return true;
    return (region->watched && fill(regions, page)) || replace_page(region, address);
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

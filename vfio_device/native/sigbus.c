/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory whose file has been cut.
 *
 * A client may shorten the file behind memory it has mapped for us, at any time; touching it then raises SIGBUS, which
 * would end the process and with it the other functions. Instead the page is replaced by an empty private one: the
 * client that did it reads zeros and loses what is written, nobody else notices. A huge page is replaced as a whole,
 * since its mapping cannot be split. Each single page costs the process two more mappings, of which it may not have
 * many (vm.max_map_count); after MAX_SINGLE_PAGES the region is replaced as a whole.
 *
 * Guest memory is touched with the region lock held only, so the thread that faults has named its table in `touched`.
 */
#include "regions.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

static __thread const struct ihsm_regions *touched;
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

static const struct ihsm_region *region_of(const struct ihsm_regions *regions, uintptr_t address) {
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

static bool replace_page(const struct ihsm_mapping *mapping, uintptr_t address) {
    if (atomic_load(&single_pages) < MAX_SINGLE_PAGES && replace(address & ~(page_bytes - 1), page_bytes)) {
        atomic_fetch_add(&single_pages, 1);
        return true;
    }
    uintptr_t base = (uintptr_t)mapping->base, huge = address & ~((uintptr_t)mapping->page_bytes - 1);
    /* Only hugetlbfs aligns its mappings to its pages; tmpfs may name a larger size than it maps with. */
    if (base != 0 && mapping->page_bytes > page_bytes && huge >= base &&
        huge + mapping->page_bytes <= base + mapping->len && replace(huge, mapping->page_bytes))
        return true;
    return base != 0 && replace(base, mapping->len);
}

/* Uses nothing but mmap and sigaction, which are plain system calls. */
static void on_bus_error(int number, siginfo_t *info, void *context) {
    uintptr_t address = (uintptr_t)info->si_addr;
    const struct ihsm_region *region = region_of(touched, address);
    int error = errno;
    if (region != NULL && replace_page(&region->mapping, address)) {
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

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Doorbell pages and which of their words count. */
#include "page.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fence.h"

static _Atomic uint32_t *word(const struct ihsm_page *page, uint64_t offset) {
    return (_Atomic uint32_t *)((uint8_t *)page->memory + offset);
}

int ihsm_pages_init(struct ihsm_pages *pages) {
    pages->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (pages->kick_fd < 0)
        return -errno;
    return -pthread_mutex_init(&pages->lock, NULL);
}

void ihsm_pages_destroy(struct ihsm_pages *pages) {
    close(pages->kick_fd);
    pthread_mutex_destroy(&pages->lock);
}

void ihsm_pages_set_asleep(struct ihsm_pages *pages, bool asleep) {
    for (struct ihsm_page *page = pages->first; page != NULL; page = page->next)
        atomic_store_explicit(word(page, IHSM_POLLER_ASLEEP_OFFSET), asleep, memory_order_relaxed);
    atomic_store(&pages->asleep, asleep);
}

void ihsm_pages_kick(struct ihsm_pages *pages) {
    ihsm_full_fence();
    if (atomic_load(&pages->asleep))
        (void)!eventfd_write(pages->kick_fd, 1);
}

/* Change what is read. The reader takes the lock in a tight loop, so ask it to let others in. */
static void lock(struct ihsm_pages *pages) {
    atomic_fetch_add(&pages->waiting, 1);
    pthread_mutex_lock(&pages->lock);
    atomic_fetch_sub(&pages->waiting, 1);
}

int ihsm_page_open(struct ihsm_page *page, struct ihsm_pages *pages, int fd) {
    void *memory = mmap(NULL, IHSM_BAR_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return -errno;
    lock(pages);
    page->memory = memory;
    page->all = pages;
    page->next = pages->first;
    pages->first = page;
    pthread_mutex_unlock(&pages->lock);
    return 0;
}

void ihsm_page_close(struct ihsm_page *page) {
    if (page->memory == NULL)
        return;
    lock(page->all);
    for (struct ihsm_page **link = &page->all->first; *link != NULL; link = &(*link)->next) {
        if (*link == page) {
            *link = page->next;
            break;
        }
    }
    pthread_mutex_unlock(&page->all->lock);
    munmap(page->memory, IHSM_BAR_BYTES);
    page->memory = NULL;
}

void ihsm_page_lock(struct ihsm_page *page) {
    if (page->memory != NULL)
        lock(page->all);
}

void ihsm_page_unlock(struct ihsm_page *page) {
    if (page->memory != NULL)
        pthread_mutex_unlock(&page->all->lock);
}

void ihsm_page_clear(struct ihsm_page *page) {
    if (page->memory == NULL)
        return;
    page->watched = 0;
    for (unsigned queue = 0; queue < IHSM_BAR_BYTES / sizeof(uint64_t) - 1; queue++)
        atomic_store_explicit(ihsm_page_pair(page, queue), 0, memory_order_relaxed);
}

void ihsm_page_watch(struct ihsm_page *page, struct ihsm_ring *ring) {
    if (page->memory == NULL)
        return;
    atomic_store_explicit(ihsm_page_pair(page, ring->id), 0, memory_order_relaxed);
    page->watch[page->watched++] = (struct ihsm_watch){.ring = ring};
}

void ihsm_page_unwatch(struct ihsm_page *page, struct ihsm_ring *ring) {
    for (unsigned i = 0; i < page->watched; i++) {
        if (page->watch[i].ring == ring) {
            page->watch[i] = page->watch[--page->watched];
            break;
        }
    }
}

void ihsm_page_restart_sq(struct ihsm_page *page, struct ihsm_ring *ring) {
    for (unsigned i = 0; i < page->watched; i++) {
        if (page->watch[i].ring == ring) {
            /* Half of the pair only: the CQ lives on and its head with it. */
            atomic_store_explicit((_Atomic uint32_t *)ihsm_page_pair(page, ring->id), 0, memory_order_relaxed);
            page->watch[i].seen &= ~UINT64_C(0xFFFFFFFF);
        }
    }
}

bool ihsm_page_store(struct ihsm_page *page, uint64_t offset, uint32_t value) {
    if (page->memory == NULL)
        return false;
    atomic_store(word(page, offset), value);
    ihsm_pages_kick(page->all);
    return true;
}

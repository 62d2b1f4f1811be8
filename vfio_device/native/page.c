/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Doorbell pages and which of their words count. */
#include "page.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fence.h"

static _Atomic uint32_t *word(const struct ihsm_page *page, uint64_t offset) {
    return (_Atomic uint32_t *)((uint8_t *)page->memory + offset);
}

/* Kicks heard at once; more are heard at the next sleep, which then ends at once. */
#define HEARD 16

static int watch_kicks(struct ihsm_pages *pages, int fd) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLET}; /* every write counts, though nobody reads */
    return epoll_ctl(pages->kicks, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : -errno;
}

int ihsm_pages_init(struct ihsm_pages *pages) {
    pages->kicks = epoll_create1(EPOLL_CLOEXEC);
    pages->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int error = pages->kicks < 0 || pages->wake_fd < 0 ? -errno : watch_kicks(pages, pages->wake_fd);
    if (error == 0)
        error = -pthread_mutex_init(&pages->lock, NULL);
    if (error != 0) {
        close(pages->kicks);
        close(pages->wake_fd);
    }
    return error;
}

void ihsm_pages_destroy(struct ihsm_pages *pages) {
    close(pages->kicks);
    close(pages->wake_fd);
    pthread_mutex_destroy(&pages->lock);
}

void ihsm_pages_sleep(struct ihsm_pages *pages, const struct timespec *bound) {
    struct pollfd kicks = {.fd = pages->kicks, .events = POLLIN};
    struct epoll_event heard[HEARD];
    if (ppoll(&kicks, 1, bound, NULL) > 0)
        (void)!epoll_wait(pages->kicks, heard, HEARD, 0);
}

void ihsm_pages_set_asleep(struct ihsm_pages *pages, bool asleep) {
    for (struct ihsm_page *page = pages->first; page != NULL; page = page->next)
        atomic_store_explicit(word(page, IHSM_POLLER_ASLEEP_OFFSET), asleep, memory_order_relaxed);
    atomic_store(&pages->asleep, asleep);
}

void ihsm_pages_kick(struct ihsm_pages *pages) {
    ihsm_full_fence();
    if (atomic_load(&pages->asleep))
        ihsm_pages_wake(pages);
}

void ihsm_pages_wake(struct ihsm_pages *pages) { (void)!eventfd_write(pages->wake_fd, 1); }

/* Change what is read. The reader takes the lock in a tight loop, so ask it to let others in. */
static void lock(struct ihsm_pages *pages) {
    atomic_fetch_add(&pages->waiting, 1);
    pthread_mutex_lock(&pages->lock);
    atomic_fetch_sub(&pages->waiting, 1);
}

/* What one client gets. */
struct share {
    int fd, kick_fd;
    void *memory;
};

static int make_share(struct share *share) {
    share->memory = MAP_FAILED;
    share->fd = memfd_create("ihsm-doorbells", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    share->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    /* A client that cut the file would end the process at the poller's next look. */
    if (share->fd >= 0 && share->kick_fd >= 0 && ftruncate(share->fd, IHSM_BAR_BYTES) == 0 &&
        fcntl(share->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        share->memory = mmap(NULL, IHSM_BAR_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, share->fd, 0);
    if (share->memory != MAP_FAILED)
        return 0;
    int error = -errno;
    close(share->fd);
    close(share->kick_fd);
    return error;
}

int ihsm_page_open(struct ihsm_page *page, struct ihsm_pages *pages) {
    struct share share;
    int error = make_share(&share);
    if (error != 0)
        return error;
    error = watch_kicks(pages, share.kick_fd);
    if (error != 0) {
        munmap(share.memory, IHSM_BAR_BYTES);
        close(share.fd);
        close(share.kick_fd);
        return error;
    }
    lock(pages);
    page->fd = share.fd;
    page->kick_fd = share.kick_fd;
    page->memory = share.memory;
    page->all = pages;
    page->next = pages->first;
    pages->first = page;
    pthread_mutex_unlock(&pages->lock);
    return 0;
}

int ihsm_page_renew(struct ihsm_page *page) {
    struct share share;
    if (page->memory == NULL)
        return 0;
    int error = make_share(&share);
    if (error != 0)
        return error;
    ihsm_page_lock(page);
    void *old = page->memory;
    page->memory = share.memory;
    atomic_store(word(page, IHSM_POLLER_ASLEEP_OFFSET), atomic_load(&page->all->asleep));
    ihsm_page_unlock(page);
    munmap(old, IHSM_BAR_BYTES);
    /* By hand, for the old file lives on with the client that has it. */
    (void)epoll_ctl(page->all->kicks, EPOLL_CTL_DEL, page->kick_fd, NULL);
    if (dup3(share.fd, page->fd, O_CLOEXEC) < 0 || dup3(share.kick_fd, page->kick_fd, O_CLOEXEC) < 0)
        error = -errno;
    close(share.fd);
    close(share.kick_fd);
    int watched = watch_kicks(page->all, page->kick_fd);
    return error ? error : watched;
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
    (void)epoll_ctl(page->all->kicks, EPOLL_CTL_DEL, page->kick_fd, NULL);
    munmap(page->memory, IHSM_BAR_BYTES);
    page->memory = NULL;
}

void ihsm_page_free(struct ihsm_page *page) {
    if (page->all != NULL) {
        close(page->fd);
        close(page->kick_fd);
    }
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

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Doorbell pages: BAR2 as memory that a client maps, read by one thread per process (poller.c). A page without memory
 * belongs to an engine whose doorbells arrive as accesses; all functions on it do nothing.
 *
 * Page and kick descriptor are a client's to spoil as long as it keeps them, so each function has its own and each
 * client new ones, under the old descriptors' numbers. A kick descriptor is watched for writes and never read: a read
 * could wait, and a client may take what was written.
 */
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "abi.h"
#include "ring.h"

/* A queue pair whose doorbells are read, and what was read last. */
struct ihsm_watch {
    struct ihsm_ring *ring;
    uint64_t seen;
};

/* The page of one engine. */
struct ihsm_page {
    struct ihsm_pages *all;
    int fd, kick_fd;        /* what a client gets of it */
    void *memory;           /* NULL: no page */
    struct ihsm_page *next; /* this and the next two: all->lock */
    unsigned watched;
    struct ihsm_watch watch[IHSM_RINGS];
};

/* All pages of the process. */
struct ihsm_pages {
    pthread_mutex_t lock; /* what is read; taken before ring locks, never with one held */
    atomic_uint waiting;  /* threads that want the lock from the one that reads in a loop */
    struct ihsm_page *first;
    int kicks;   /* epoll: readable if there was a write to wake_fd or to a page's kick descriptor since it was heard */
    int wake_fd; /* no client has it */
    atomic_uint asleep; /* what all 'asleep' words say */
};

int ihsm_pages_init(struct ihsm_pages *pages);
void ihsm_pages_destroy(struct ihsm_pages *pages);
/* Tell clients, and ihsm_pages_kick, whether a doorbell needs a kick; pages->lock held. */
void ihsm_pages_set_asleep(struct ihsm_pages *pages, bool asleep);
/* After a doorbell has been stored: wake the reader if it is asleep. */
void ihsm_pages_kick(struct ihsm_pages *pages);
void ihsm_pages_wake(struct ihsm_pages *pages);
/* Wait for a kick, at most so long (NULL: for ever). */
void ihsm_pages_sleep(struct ihsm_pages *pages, const struct timespec *bound);

/* Make and map one page; -errno. */
int ihsm_page_open(struct ihsm_page *page, struct ihsm_pages *pages);
/* Another page and kick descriptor for the next client; -errno, and then both stay as they are. No queue exists. */
int ihsm_page_renew(struct ihsm_page *page);
/* Nobody reads it any more; the descriptors stay until ihsm_page_free, for others know their numbers. */
void ihsm_page_close(struct ihsm_page *page);
void ihsm_page_free(struct ihsm_page *page);
/* Keep the reader from looking while queues of this engine come or go: what lies in the page is older than they are. */
void ihsm_page_lock(struct ihsm_page *page);
void ihsm_page_unlock(struct ihsm_page *page);
/* With that lock held: */
void ihsm_page_watch(struct ihsm_page *page, struct ihsm_ring *ring);      /* a CQ came: its pair of doorbells is 0 */
void ihsm_page_unwatch(struct ihsm_page *page, struct ihsm_ring *ring);    /* the CQ went */
void ihsm_page_restart_sq(struct ihsm_page *page, struct ihsm_ring *ring); /* an SQ came on a CQ that may be older */
void ihsm_page_clear(struct ihsm_page *page);                              /* all queues go */
/* Without it: */
bool ihsm_page_store(struct ihsm_page *page, uint64_t offset, uint32_t value); /* false: no page */

/* The doorbells of a queue pair, SQ tail below and CQ head above, which lie in one naturally aligned word. */
static inline _Atomic uint64_t *ihsm_page_pair(const struct ihsm_page *page, unsigned queue_id) {
    return (_Atomic uint64_t *)page->memory + queue_id;
}

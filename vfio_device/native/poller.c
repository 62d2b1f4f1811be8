/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thread that reads the doorbell pages of all functions, and serves AES rings on the way.
 *
 * From spinning to sleeping without losing a doorbell
 * ---------------------------------------------------
 * A store into shared memory wakes nobody. While there is work, and for spin_us after the last of it, the poller
 * reads the pages in a loop and sees every store. Then it goes to sleep in four steps:
 *   1. store 1 into the 'asleep' word of every page (a doorbell place that no queue has);
 *   2. a sequentially consistent fence;
 *   3. read all doorbells once more, and stay awake if one has changed;
 *   4. wait for the kick descriptor, but never longer than a bounded time; afterwards clear the 'asleep' words.
 * A client that knows the word (our own driver) does the mirror image: store the doorbell, fence, read the word, and
 * write to its kick descriptor (which it got through the protocol's GET_REGION_IO_FDS) if it says asleep. Each side
 * stores before its fence and loads after it, so either the poller sees the doorbell in step 3 or the client sees the
 * word and kicks: no doorbell is lost and none waits. A kick stays noted until it has been heard, so one before step 4
 * makes step 4 return at once.
 * A client that does not know the word (a guest's driver) is seen when the bounded sleep ends, MAX_SLEEP_NS at worst;
 * so is one that overwrites the word, which hurts only itself.
 */
#include "engine.h"

#include <limits.h>
#include <sched.h>

#include "deadline.h"
#include "fence.h"
#include "scheduler.h"
#include "seam.h"

#define MIN_SLEEP_NS INT64_C(50000)
#define MAX_SLEEP_NS INT64_C(2000000)
/* The clock is read once in so many rounds without work. */
#define ROUNDS_PER_CLOCK 64
/*
 * Rings that have waited for so long have a worker wake, then another. Waking one takes microseconds of both, and those
 * who serve rings wait for each other's locks.
 */
#define ALONE_NS INT64_C(200000)

static void pause_cpu(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Look at every doorbell of every page once; true if one had changed. pages->lock held. */
static bool scan(struct ihsm_pages *pages) {
    bool changed = false;
    for (struct ihsm_page *page = pages->first; page != NULL; page = page->next) {
        for (unsigned i = 0; i < page->watched; i++) {
            struct ihsm_watch *watch = &page->watch[i];
            uint64_t value = atomic_load_explicit(ihsm_page_pair(page, watch->ring->id), memory_order_acquire);
            uint64_t difference = value ^ watch->seen;
            if (difference == 0)
                continue;
            watch->seen = value;
            changed = true;
            /* The head first: it may make the room that an entry needs. */
            if (difference >> 32)
                ihsm_ring_doorbell(watch->ring, true, (uint32_t)(value >> 32));
            if ((uint32_t)difference)
                ihsm_ring_doorbell(watch->ring, false, (uint32_t)value);
        }
    }
    return changed;
}

static bool scan_locked(struct ihsm_pages *pages) {
    pthread_mutex_lock(&pages->lock);
    bool changed = scan(pages);
    pthread_mutex_unlock(&pages->lock);
    return changed;
}

static void sleep_until_kicked(struct ihsm_scheduler *scheduler, int64_t nanoseconds) {
    struct ihsm_pages *pages = &scheduler->pages;
    const struct timespec duration = {.tv_nsec = nanoseconds};

    IHSM_SEAM(POLLER_TIRED);
    pthread_mutex_lock(&pages->lock);
    ihsm_pages_set_asleep(pages, true);
    ihsm_full_fence();
    bool changed = scan(pages);
    pthread_mutex_unlock(&pages->lock);
    if (!changed && !atomic_load(&scheduler->poller.closed)) {
        IHSM_SEAM(POLLER_SLEEPS);
        ihsm_pages_sleep(pages, IHSM_SEAM_SLEEP_BOUND(&duration));
    }
    pthread_mutex_lock(&pages->lock);
    ihsm_pages_set_asleep(pages, false);
    pthread_mutex_unlock(&pages->lock);
}

/* After a turn: wake a worker if rings have been left over for long; *behind_since is 0, or since when. */
static void ask_for_help(struct ihsm_ready *ready, int64_t *behind_since) {
    if (ihsm_ready_is_empty(ready, IHSM_READY_AES)) {
        *behind_since = 0;
        return;
    }
    int64_t now = ihsm_now_ns();
    if (*behind_since == 0) {
        *behind_since = now;
    } else if (now - *behind_since >= ALONE_NS) {
        ihsm_ready_wake_another(ready, IHSM_READY_AES);
        *behind_since = now;
    }
}

static void *poll_pages(void *argument) {
    struct ihsm_scheduler *scheduler = argument;
    struct ihsm_poller *poller = &scheduler->poller;
    struct ihsm_pages *pages = &scheduler->pages;
    int64_t idle_since = ihsm_now_ns(), sleep_ns = MIN_SLEEP_NS, behind_since = 0;
    unsigned idle_rounds = 0;

    pthread_setname_np(pthread_self(), "ihsm-poll");
    ihsm_ready_serves_itself();
    while (!atomic_load_explicit(&poller->closed, memory_order_relaxed)) {
        bool worked = scan_locked(pages);
        worked |= ihsm_scheduler_serve(scheduler, IHSM_READY_AES, UINT_MAX) > 0;
        ask_for_help(&scheduler->ready, &behind_since);
        while (atomic_load_explicit(&pages->waiting, memory_order_relaxed) > 0)
            sched_yield();
        if (worked) {
            idle_rounds = 0;
            sleep_ns = MIN_SLEEP_NS;
            continue;
        }
        pause_cpu();
        if (idle_rounds++ == 0) {
            idle_since = ihsm_now_ns();
        } else if (poller->spin_ns >= 0 && idle_rounds % ROUNDS_PER_CLOCK == 0 &&
                   ihsm_now_ns() - idle_since >= poller->spin_ns) {
            sleep_until_kicked(scheduler, sleep_ns);
            sleep_ns = 2 * sleep_ns < MAX_SLEEP_NS ? 2 * sleep_ns : MAX_SLEEP_NS;
        }
    }
    return NULL;
}

int ihsm_engine_use_page(struct ihsm_engine *engine) {
    struct ihsm_scheduler *scheduler = engine->scheduler;
    struct ihsm_poller *poller = &scheduler->poller;
    int result = ihsm_page_open(&engine->page, &scheduler->pages);
    if (result != 0)
        return result;
    ihsm_page_lock(&engine->page); /* two functions may come at once */
    if (!poller->running) {
        result = -pthread_create(&poller->thread, NULL, poll_pages, scheduler);
        poller->running = result == 0;
    }
    ihsm_page_unlock(&engine->page);
    return result;
}

int ihsm_engine_page_fd(struct ihsm_engine *engine) { return engine->page.fd; }
int ihsm_engine_kick_fd(struct ihsm_engine *engine) { return engine->page.kick_fd; }
int ihsm_engine_renew_page(struct ihsm_engine *engine) { return ihsm_page_renew(&engine->page); }
int ihsm_scheduler_kicks(struct ihsm_scheduler *scheduler) { return scheduler->pages.kicks; }

void ihsm_poller_close(struct ihsm_scheduler *scheduler) {
    if (scheduler->poller.running) {
        atomic_store(&scheduler->poller.closed, true);
        ihsm_pages_wake(&scheduler->pages);
        pthread_join(scheduler->poller.thread, NULL);
    }
}

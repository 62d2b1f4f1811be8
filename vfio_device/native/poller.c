/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Doorbell pages: BAR2 as memory that the client maps and one thread per process watches, for all functions.
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
 * write to the kick descriptor (which it got through the protocol's GET_REGION_IO_FDS) if it says asleep. Each side
 * stores before its fence and loads after it, so either the poller sees the doorbell in step 3 or the client sees the
 * word and kicks: no doorbell is lost and none waits. The kick descriptor is a counter, so a kick before step 4 makes
 * step 4 return at once.
 * A client that does not know the word (a guest's driver) is seen when the bounded sleep ends, MAX_SLEEP_NS at worst;
 * so is one that overwrites the word, which hurts only itself.
 */
#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MIN_SLEEP_NS INT64_C(50000)
#define MAX_SLEEP_NS INT64_C(2000000)
/* The clock is read once in so many rounds without work. */
#define ROUNDS_PER_CLOCK 64
#define ASLEEP_WORD (IHSM_POLLER_ASLEEP_OFFSET / sizeof(uint32_t))

static __thread bool is_poller;

bool ihsm_poller_is_me(void) { return is_poller; }

static void pause_cpu(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Change what the poller reads. It takes the lock in a tight loop, so ask it to let others in. */
static void lock(struct ihsm_poller *poller) {
    atomic_fetch_add(&poller->waiting, 1);
    pthread_mutex_lock(&poller->lock);
    atomic_fetch_sub(&poller->waiting, 1);
}

static void unlock(struct ihsm_poller *poller) { pthread_mutex_unlock(&poller->lock); }

static _Atomic uint64_t *entry(struct ihsm_engine *engine, unsigned queue) {
    return (_Atomic uint64_t *)engine->page + queue;
}

/* Look at every doorbell of every page once; true if one had changed. Poller's lock held. */
static bool scan(struct ihsm_poller *poller) {
    bool changed = false;
    for (struct ihsm_engine *engine = poller->engines; engine != NULL; engine = engine->next_polled) {
        for (unsigned i = 0; i < engine->watched; i++) {
            struct ihsm_watch *watch = &engine->watch[i];
            /* A pair of doorbells, SQ tail and CQ head, lies in one naturally aligned word. */
            uint64_t value = atomic_load_explicit(entry(engine, watch->ring->id), memory_order_acquire);
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

static void set_asleep(struct ihsm_poller *poller, uint32_t asleep) {
    for (struct ihsm_engine *engine = poller->engines; engine != NULL; engine = engine->next_polled)
        atomic_store_explicit((_Atomic uint32_t *)engine->page + ASLEEP_WORD, asleep, memory_order_relaxed);
    atomic_store(&poller->asleep, asleep);
}

static bool scan_locked(struct ihsm_poller *poller) {
    pthread_mutex_lock(&poller->lock);
    bool changed = scan(poller);
    pthread_mutex_unlock(&poller->lock);
    return changed;
}

static void sleep_until_kicked(struct ihsm_poller *poller, int64_t nanoseconds) {
    struct pollfd kick = {.fd = poller->kick_fd, .events = POLLIN};
    const struct timespec duration = {.tv_nsec = nanoseconds};
    eventfd_t count;

    pthread_mutex_lock(&poller->lock);
    set_asleep(poller, 1);
    ihsm_full_fence();
    bool changed = scan(poller);
    pthread_mutex_unlock(&poller->lock);
    if (!changed && !atomic_load(&poller->closed) && ppoll(&kick, 1, &duration, NULL) > 0)
        (void)!eventfd_read(poller->kick_fd, &count);
    pthread_mutex_lock(&poller->lock);
    set_asleep(poller, 0);
    pthread_mutex_unlock(&poller->lock);
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void *poll_pages(void *argument) {
    struct ihsm_scheduler *scheduler = argument;
    struct ihsm_poller *poller = ihsm_scheduler_poller(scheduler);
    int64_t idle_since = now_ns(), sleep_ns = MIN_SLEEP_NS;
    unsigned idle_rounds = 0;

    is_poller = true;
    pthread_setname_np(pthread_self(), "ihsm-poll");
    while (!atomic_load_explicit(&poller->closed, memory_order_relaxed)) {
        bool worked = scan_locked(poller);
        worked |= ihsm_scheduler_serve(scheduler, IHSM_READY_AES, UINT_MAX) > 0;
        while (atomic_load_explicit(&poller->waiting, memory_order_relaxed) > 0)
            sched_yield();
        if (worked) {
            idle_rounds = 0;
            sleep_ns = MIN_SLEEP_NS;
            continue;
        }
        pause_cpu();
        if (idle_rounds++ == 0) {
            idle_since = now_ns();
        } else if (poller->spin_ns >= 0 && idle_rounds % ROUNDS_PER_CLOCK == 0 &&
                   now_ns() - idle_since >= poller->spin_ns) {
            sleep_until_kicked(poller, sleep_ns);
            sleep_ns = 2 * sleep_ns < MAX_SLEEP_NS ? 2 * sleep_ns : MAX_SLEEP_NS;
        }
    }
    return NULL;
}

int ihsm_poller_init(struct ihsm_poller *poller, int64_t spin_us) {
    poller->spin_ns = spin_us < 0 ? -1 : spin_us * 1000;
    poller->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (poller->kick_fd < 0)
        return -errno;
    return -pthread_mutex_init(&poller->lock, NULL);
}

int ihsm_scheduler_kick_fd(struct ihsm_scheduler *scheduler) { return ihsm_scheduler_poller(scheduler)->kick_fd; }

void ihsm_poller_kick(struct ihsm_poller *poller) {
    ihsm_full_fence();
    if (atomic_load(&poller->asleep))
        (void)!eventfd_write(poller->kick_fd, 1);
}

void ihsm_poller_destroy(struct ihsm_poller *poller) {
    if (poller->running) {
        atomic_store(&poller->closed, true);
        (void)!eventfd_write(poller->kick_fd, 1);
        pthread_join(poller->thread, NULL);
    }
    close(poller->kick_fd);
    pthread_mutex_destroy(&poller->lock);
}

int ihsm_engine_use_page(struct ihsm_engine *engine, int fd) {
    struct ihsm_poller *poller = ihsm_scheduler_poller(engine->scheduler);
    int result = 0;
    void *page = mmap(NULL, IHSM_BAR_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED)
        return -errno;
    lock(poller);
    engine->page = page;
    engine->next_polled = poller->engines;
    poller->engines = engine;
    if (!poller->running) {
        result = -pthread_create(&poller->thread, NULL, poll_pages, engine->scheduler);
        poller->running = result == 0;
    }
    unlock(poller);
    return result;
}

void ihsm_page_forget(struct ihsm_engine *engine) {
    struct ihsm_poller *poller = ihsm_scheduler_poller(engine->scheduler);
    if (engine->page == NULL)
        return;
    lock(poller);
    for (struct ihsm_engine **link = &poller->engines; *link != NULL; link = &(*link)->next_polled) {
        if (*link == engine) {
            *link = engine->next_polled;
            break;
        }
    }
    unlock(poller);
    munmap(engine->page, IHSM_BAR_BYTES);
    engine->page = NULL;
}

void ihsm_page_lock(struct ihsm_engine *engine) {
    if (engine->page != NULL)
        lock(ihsm_scheduler_poller(engine->scheduler));
}

void ihsm_page_unlock(struct ihsm_engine *engine) {
    if (engine->page != NULL)
        unlock(ihsm_scheduler_poller(engine->scheduler));
}

void ihsm_page_clear(struct ihsm_engine *engine) {
    if (engine->page == NULL)
        return;
    engine->watched = 0;
    for (unsigned queue = 0; queue < IHSM_BAR_BYTES / sizeof(uint64_t) - 1; queue++)
        atomic_store_explicit(entry(engine, queue), 0, memory_order_relaxed);
}

void ihsm_page_watch(struct ihsm_ring *ring) {
    struct ihsm_engine *engine = ring->engine;
    if (engine->page == NULL)
        return;
    atomic_store_explicit(entry(engine, ring->id), 0, memory_order_relaxed);
    engine->watch[engine->watched++] = (struct ihsm_watch){.ring = ring};
}

void ihsm_page_unwatch(struct ihsm_ring *ring) {
    struct ihsm_engine *engine = ring->engine;
    for (unsigned i = 0; i < engine->watched; i++) {
        if (engine->watch[i].ring == ring) {
            engine->watch[i] = engine->watch[--engine->watched];
            break;
        }
    }
}

void ihsm_page_restart_sq(struct ihsm_ring *ring) {
    struct ihsm_engine *engine = ring->engine;
    for (unsigned i = 0; i < engine->watched; i++) {
        if (engine->watch[i].ring == ring) {
            /* Half of the pair only: the CQ lives on and its head with it. */
            atomic_store_explicit((_Atomic uint32_t *)entry(engine, ring->id), 0, memory_order_relaxed);
            engine->watch[i].seen &= ~UINT64_C(0xFFFFFFFF);
        }
    }
}

bool ihsm_page_store(struct ihsm_engine *engine, uint64_t offset, uint32_t value) {
    if (engine->page == NULL)
        return false;
    atomic_store((_Atomic uint32_t *)engine->page + offset / sizeof value, value);
    ihsm_poller_kick(ihsm_scheduler_poller(engine->scheduler));
    return true;
}

uint32_t ihsm_page_load(struct ihsm_engine *engine, uint64_t offset) {
    return engine->page == NULL ? 0 : atomic_load((_Atomic uint32_t *)engine->page + offset / sizeof(uint32_t));
}

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Life of an engine and its queues: creation, deletion, disable (spec 01 §4, §8.2, §14.4). */
#include "engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "deadline.h"
#include "faulty.h"
#include "scheduler.h"
#include "seam.h"

static void init_ring(struct ihsm_engine *engine, unsigned id, enum ihsm_class class) {
    struct ihsm_ring *ring = ihsm_engine_ring(engine, id);
    ring->engine = engine;
    ring->id = (uint16_t)id;
    ring->class = (uint8_t)class;
    pthread_mutex_init(&ring->lock, NULL);
    pthread_cond_init(&ring->changed, NULL);
}

struct ihsm_engine *ihsm_engine_new(struct ihsm_scheduler *scheduler, struct ihsm_host *host, uint64_t id,
                                    bool inline_aes) {
    struct ihsm_engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL)
        return NULL;
    engine->scheduler = scheduler;
    engine->ready = &scheduler->ready;
    engine->unreachable = &scheduler->unreachable;
    engine->host = host;
    engine->id = id;
    ihsm_inject_init(&engine->inject, &host->trace);
    ihsm_host_set_inject(host, &engine->inject);
    engine->inline_aes = inline_aes;
    init_ring(engine, IHSM_ADMIN_QUEUE_ID, IHSM_CLASS_ADMIN);
    for (unsigned queue = IHSM_FIRST_HSM_QUEUE_ID; queue <= IHSM_LAST_HSM_QUEUE_ID; queue++)
        init_ring(engine, queue, IHSM_CLASS_HSM);
    for (unsigned queue = IHSM_FIRST_AES_QUEUE_ID; queue <= IHSM_LAST_AES_QUEUE_ID; queue++)
        init_ring(engine, queue, IHSM_CLASS_AES);
    return engine;
}

int ihsm_engine_set_keys(struct ihsm_engine *engine, void *bulk_table, bool fips, bool device_iv) {
    for (unsigned queue = IHSM_FIRST_AES_QUEUE_ID; queue <= IHSM_LAST_AES_QUEUE_ID; queue++)
        if (ihsm_engine_sq_exists(engine, queue))
            return -EBUSY;
    engine->fp = (struct ihsm_fp_function){.keys = bulk_table, .fips = fips, .device_iv = device_iv};
    return 0;
}

int ihsm_engine_set_express(struct ihsm_engine *engine, struct ihsm_published *published) {
    for (unsigned queue = IHSM_FIRST_HSM_QUEUE_ID; queue <= IHSM_LAST_HSM_QUEUE_ID; queue++)
        if (ihsm_engine_sq_exists(engine, queue))
            return -EBUSY;
    engine->published = published;
    return 0;
}

void ihsm_engine_close(struct ihsm_engine *engine) {
    const struct timespec moment = {.tv_nsec = 100000};
    if (engine->closed)
        return;
    engine->closed = true;
    ihsm_inject_close(&engine->inject);
    ihsm_engine_disable(engine);
    ihsm_host_set_inject(engine->host, NULL);
    ihsm_page_close(&engine->page);
    ihsm_ready_forget(engine->ready, engine);
    ihsm_slow_forget(&engine->scheduler->slow, engine);
    ihsm_scheduler_leave(engine->scheduler, engine);
    while (atomic_load(&engine->users) > 0)
        nanosleep(&moment, NULL);
}

void ihsm_engine_free(struct ihsm_engine *engine) {
    ihsm_engine_close(engine);
    ihsm_page_free(&engine->page);
    ihsm_inject_destroy(&engine->inject);
    for (unsigned i = 0; i < IHSM_RINGS; i++) {
        free(engine->rings[i].fetched);
        pthread_cond_destroy(&engine->rings[i].changed);
        pthread_mutex_destroy(&engine->rings[i].lock);
    }
    free(engine);
}

static int create_cq(struct ihsm_ring *ring, uint64_t base, uint32_t entries, int vector) {
    int result = -EEXIST;
    ihsm_page_lock(&ring->engine->page);
    pthread_mutex_lock(&ring->lock);
    if (!ring->cq_live) {
        ring->cq_base = base;
        ring->cq_entries = entries;
        ring->vector = vector;
        ring->cq_phase = true;
        atomic_store(&ring->cq_head, 0);
        atomic_store(&ring->cq_tail, 0);
        ring->cq_live = true;
        result = 0;
    }
    pthread_mutex_unlock(&ring->lock);
    if (result == 0)
        ihsm_page_watch(&ring->engine->page, ring);
    ihsm_page_unlock(&ring->engine->page);
    return result;
}

static int create_sq(struct ihsm_ring *ring, uint64_t base, uint32_t entries) {
    int result = 0;
    ihsm_page_lock(&ring->engine->page);
    pthread_mutex_lock(&ring->lock);
    if (ring->sq_live) {
        result = -EEXIST;
    } else if (!ring->cq_live) {
        result = -ENOENT;
    } else if (ring->class == IHSM_CLASS_AES && ring->fetched == NULL &&
               (ring->fetched = malloc(IHSM_AES_FETCH * sizeof *ring->fetched)) == NULL) {
        result = -ENOMEM;
    } else {
        ring->sq_base = base;
        ring->sq_entries = entries;
        ring->generation++;
        ring->in_flight = 0;
        ring->fetched_next = ring->fetched_count = 0;
        ring->next_put_off = false;
        atomic_store(&ring->sq_head, 0);
        atomic_store(&ring->sq_tail, 0);
        atomic_store(&ring->stopped, false);
        ring->sq_deleting = false;
        ring->sq_live = true;
    }
    pthread_mutex_unlock(&ring->lock);
    if (result == 0)
        ihsm_page_restart_sq(&ring->engine->page, ring);
    ihsm_page_unlock(&ring->engine->page);
    return result;
}

int ihsm_engine_enable_admin(struct ihsm_engine *engine, uint64_t asq, uint64_t acq, uint32_t sq_entries,
                             uint32_t cq_entries) {
    struct ihsm_ring *ring = ihsm_engine_ring(engine, IHSM_ADMIN_QUEUE_ID);
    struct ihsm_regions *regions = &engine->host->regions;
    if (ihsm_regions_without_pointer(regions, asq, (uint64_t)sq_entries * ihsm_ring_sqe_bytes(ring)) ||
        ihsm_regions_without_pointer(regions, acq, (uint64_t)cq_entries * ihsm_ring_cqe_bytes(ring)))
        return -EFAULT;
    int result = create_cq(ring, acq, cq_entries, IHSM_ADMIN_VECTOR);
    return result ? result : create_sq(ring, asq, sq_entries);
}

int ihsm_engine_create_cq(struct ihsm_engine *engine, unsigned id, uint64_t base, uint32_t entries, int vector) {
    struct ihsm_ring *ring = ihsm_engine_ring(engine, id);
    if (ring == NULL || ring->class == IHSM_CLASS_ADMIN || entries < 2 || entries > IHSM_MAX_QUEUE_ENTRIES ||
        vector < IHSM_NO_VECTOR || vector >= IHSM_MSIX_VECTORS)
        return -EINVAL;
    return create_cq(ring, base, entries, vector);
}

int ihsm_engine_create_sq(struct ihsm_engine *engine, unsigned id, uint64_t base, uint32_t entries, unsigned cqid) {
    struct ihsm_ring *ring = ihsm_engine_ring(engine, id);
    if (ring == NULL || ring->class == IHSM_CLASS_ADMIN || entries < 2 || entries > IHSM_MAX_QUEUE_ENTRIES)
        return -EINVAL;
    /* The CQ used is the one with the SQ's id; cqid has only to exist (spec 01 §14.2). */
    if (!ihsm_engine_cq_exists(engine, cqid))
        return -ENOENT;
    if (ring->class == IHSM_CLASS_AES && !ihsm_scheduler_start_workers(engine->scheduler, engine))
        return -EAGAIN;
    return create_sq(ring, base, entries);
}

/* End the life of an SQ: nothing fetched before is ever completed. Lock held, not serving. */
static void end_sq(struct ihsm_ring *ring) {
    ring->sq_live = false;
    ring->sq_deleting = false;
    ring->generation++;
    ring->in_flight = 0;
    ring->fetched_next = ring->fetched_count = 0;
    pthread_cond_broadcast(&ring->changed);
}

static void wait_for_server(struct ihsm_ring *ring) {
    atomic_store(&ring->stop, true);
    IHSM_SEAM(AES_ASKED_TO_LEAVE);
    while (ring->serving)
        pthread_cond_wait(&ring->changed, &ring->lock);
    atomic_store(&ring->stop, false);
}

int ihsm_engine_delete_sq(struct ihsm_engine *engine, unsigned id, int64_t timeout_us) {
    struct ihsm_ring *ring = ihsm_engine_ring(engine, id);
    struct timespec deadline = ihsm_deadline_after(timeout_us);
    int result = -ENOENT;

    if (ring == NULL || ring->class == IHSM_CLASS_ADMIN)
        return -EINVAL;
    ihsm_engine_enter(engine);
    pthread_mutex_lock(&ring->lock);
    uint32_t generation = ring->generation;
    if (ring->sq_live && !ring->sq_deleting) {
        ring->sq_deleting = true; /* what is not fetched by now is dropped without a CQE */
        if (ring->class == IHSM_CLASS_AES)
            wait_for_server(ring);
        if (ring->generation == generation) {
            ihsm_regions_read_lock(&engine->host->regions);
            if (ring->class == IHSM_CLASS_AES)
                ihsm_aes_drain(ring);
            ihsm_faulty_end(ring);
            ihsm_regions_unlock(&engine->host->regions);
        }
        /* Of an AES queue only what a fault has put off is in flight now. */
        while (ring->generation == generation && ring->in_flight > 0 &&
               pthread_cond_clockwait(&ring->changed, &ring->lock, CLOCK_MONOTONIC, &deadline) != ETIMEDOUT) {
        }
        if (ring->class == IHSM_CLASS_AES)
            wait_for_server(ring);
        result = ring->generation == generation ? 0 : -ESTALE;
        if (result == 0)
            end_sq(ring);
    }
    pthread_mutex_unlock(&ring->lock);
    if (result == 0) {
        ihsm_inject_forget(&engine->inject, ring);
        /* The interrupts of what the queue has posted come before the completion of its deletion. */
        ihsm_host_lock(engine->host);
        ihsm_host_unlock(engine->host);
    }
    ihsm_engine_leave(engine);
    return result;
}

/* True if a live CQ other than `except` uses the vector. */
static bool vector_in_use(struct ihsm_engine *engine, int vector, const struct ihsm_ring *except) {
    bool used = false;
    for (unsigned i = 0; !used && i < IHSM_RINGS; i++) {
        struct ihsm_ring *ring = &engine->rings[i];
        if (ring == except)
            continue;
        pthread_mutex_lock(&ring->lock);
        used = ring->cq_live && ring->vector == vector;
        pthread_mutex_unlock(&ring->lock);
    }
    return used;
}

int ihsm_engine_delete_cq(struct ihsm_engine *engine, unsigned id) {
    struct ihsm_ring *ring = ihsm_engine_ring(engine, id);
    int result = 0, vector = IHSM_NO_VECTOR;
    if (ring == NULL || ring->class == IHSM_CLASS_ADMIN)
        return -EINVAL;
    ihsm_engine_enter(engine);
    ihsm_page_lock(&engine->page);
    pthread_mutex_lock(&ring->lock);
    if (!ring->cq_live) {
        result = -ENOENT;
    } else if (ring->sq_live) {
        result = -EBUSY;
    } else {
        ring->cq_live = false;
        vector = ring->vector;
    }
    pthread_mutex_unlock(&ring->lock);
    if (result == 0)
        ihsm_page_unwatch(&engine->page, ring);
    ihsm_page_unlock(&engine->page);
    if (vector != IHSM_NO_VECTOR && !vector_in_use(engine, vector, ring)) {
        /*
         * A client frees the vector with its last queue: what is still masked must not come later (spec 01 §5.2).
         * What was not masked has been delivered by the deletion of the SQ.
         */
        atomic_fetch_and(&engine->host->pending, ~(UINT32_C(1) << vector));
        atomic_fetch_or(&engine->host->retired, UINT32_C(1) << vector);
    }
    ihsm_engine_leave(engine);
    return result;
}

bool ihsm_engine_sq_exists(struct ihsm_engine *engine, unsigned id) {
    struct ihsm_ring *ring = ihsm_engine_ring(engine, id);
    if (ring == NULL)
        return false;
    pthread_mutex_lock(&ring->lock);
    bool exists = ring->sq_live;
    pthread_mutex_unlock(&ring->lock);
    return exists;
}

bool ihsm_engine_cq_exists(struct ihsm_engine *engine, unsigned id) {
    struct ihsm_ring *ring = ihsm_engine_ring(engine, id);
    if (ring == NULL)
        return false;
    pthread_mutex_lock(&ring->lock);
    bool exists = ring->cq_live;
    pthread_mutex_unlock(&ring->lock);
    return exists;
}

int ihsm_engine_queue(struct ihsm_engine *engine, unsigned id, struct ihsm_queue *queue) {
    struct ihsm_ring *ring = ihsm_engine_ring(engine, id);
    if (ring == NULL)
        return -ENOENT;
    pthread_mutex_lock(&ring->lock);
    *queue = (struct ihsm_queue){
        .sq_live = ring->sq_live,
        .cq_live = ring->cq_live,
        .stopped = atomic_load(&ring->stopped),
        .vector = ring->vector,
        .sq_entries = ring->sq_entries,
        .sq_head = atomic_load(&ring->sq_head),
        .sq_tail = atomic_load(&ring->sq_tail),
        .cq_entries = ring->cq_entries,
        .cq_head = atomic_load(&ring->cq_head),
        .cq_tail = atomic_load(&ring->cq_tail),
    };
    pthread_mutex_unlock(&ring->lock);
    return 0;
}

void ihsm_engine_disable(struct ihsm_engine *engine) {
    ihsm_host_lock(engine->host);
    ihsm_page_lock(&engine->page);
    ihsm_page_clear(&engine->page);
    ihsm_page_unlock(&engine->page);
    for (unsigned i = 0; i < IHSM_RINGS; i++) {
        struct ihsm_ring *ring = &engine->rings[i];
        pthread_mutex_lock(&ring->lock);
        if (ring->sq_live) {
            wait_for_server(ring);
            end_sq(ring);
        }
        ring->cq_live = false;
        pthread_mutex_unlock(&ring->lock);
    }
    ihsm_inject_forget(&engine->inject, NULL);
    atomic_store(&engine->host->pending, 0);
    ihsm_host_forget_vectors(engine->host, UINT32_MAX);
    ihsm_host_unlock(engine->host);
}

void ihsm_engine_reset(struct ihsm_engine *engine) {
    ihsm_host_lock(engine->host);
    ihsm_engine_disable(engine);
    ihsm_host_reset_msix(engine->host);
    ihsm_host_unlock(engine->host);
}

bool ihsm_engine_admin_stopped(struct ihsm_engine *engine) {
    struct ihsm_ring *ring = ihsm_engine_ring(engine, IHSM_ADMIN_QUEUE_ID);
    pthread_mutex_lock(&ring->lock);
    bool stopped = ring->sq_live && atomic_load(&ring->stopped);
    pthread_mutex_unlock(&ring->lock);
    return stopped;
}

void ihsm_engine_counters(struct ihsm_engine *engine, struct ihsm_counters *out) {
    struct ihsm_regions *regions = &engine->host->regions;
    *out = (struct ihsm_counters){
        .doorbells = engine->counters.doorbells,
        .doorbells_bad_value = engine->counters.doorbells_bad_value,
        .doorbells_unknown_queue = engine->counters.doorbells_unknown_queue,
        .admin_commands = engine->counters.admin_commands,
        .hsm_commands = engine->counters.hsm_commands,
        .hsm_express = engine->counters.hsm_express,
        .hsm_rejected = engine->counters.hsm_rejected,
        .aes_commands = engine->counters.aes_commands,
        .sqe_unreadable = engine->counters.sqe_unreadable,
        .cqe_unwritable = engine->counters.cqe_unwritable,
        .completions_dropped = engine->counters.completions_dropped,
        .interrupts = engine->host->interrupts,
    };
    ihsm_regions_read_lock(regions);
    out->dma_regions = regions->count;
    out->dma_regions_without_pointer = regions->without_pointer;
    ihsm_regions_unlock(regions);
}

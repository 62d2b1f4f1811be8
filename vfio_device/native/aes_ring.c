/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* AES rings: served by C threads, one thread per ring at a time (spec 02 part C, 01 §14.4). */
#include "engine.h"

#include <string.h>

#include "fastpath/fastpath.h"
#include "faulty.h"
#include "lines.h"
#include "seam.h"

/* So many commands read at once are a row: a client that has several outstanding. */
#define ROW (IHSM_AES_FETCH / 2)

/* What a server knows of its ring's memory: pointers if a ring lies in one piece, as good as always. */
struct server {
    struct ihsm_fp_context context; /* first, so that a checkpoint finds the rest */
    struct ihsm_ring *ring;
    const uint8_t *sq;
    uint8_t *cq;
    unsigned mapped;   /* context.remapped when the pointers were made */
    unsigned refusals; /* of holes, before the command */
};

static void *in_one_piece(const struct ihsm_regions *regions, uint64_t iova, uint64_t size, bool write) {
    size_t hint = 0;
    uint64_t contiguous;
    void *at = ihsm_regions_translate(regions, &hint, iova, size, write, &contiguous);
    return at != NULL && contiguous == size ? at : NULL;
}

static void map_rings(struct server *server) {
    const struct ihsm_ring *ring = server->ring;
    const struct ihsm_regions *regions = server->context.regions;
    server->sq = in_one_piece(regions, ring->sq_base, (uint64_t)ring->sq_entries * sizeof(struct aes_sqe), false);
    server->cq = in_one_piece(regions, ring->cq_base, (uint64_t)ring->cq_entries * sizeof(struct aes_cqe), true);
    if ((uintptr_t)server->cq % sizeof(uint64_t) != 0)
        server->cq = NULL; /* the phase is written by one store, or by ihsm_ring_post with care */
    server->mapped = server->context.remapped;
}

#define END offsetof(struct aes_cqe, sqhd)
_Static_assert(sizeof(struct aes_cqe) - END == sizeof(uint64_t) && END % sizeof(uint64_t) == 0, "one store writes it");

/*
 * Write an entry into the client's memory, its last fields, of which the phase is one, as `end` and last. What was
 * stored last goes from registers or in the pieces it was stored in: a load that spans several stores waits until all
 * have reached the cache, and they do so behind the payload.
 */
static void publish(uint8_t *at, const struct aes_cqe *cqe, uint64_t end) {
    memcpy(at, cqe, offsetof(struct aes_cqe, tag));
    memcpy(at + offsetof(struct aes_cqe, tag), cqe->tag, sizeof cqe->tag);
    memcpy(at + offsetof(struct aes_cqe, iv), cqe->iv, offsetof(struct aes_cqe, len) - offsetof(struct aes_cqe, iv));
    memcpy(at + offsetof(struct aes_cqe, len), &cqe->len, sizeof cqe->len);
    __atomic_store_n((uint64_t *)(at + END), end, __ATOMIC_RELEASE);
}

/* ihsm_ring_post for a completion queue in one piece. */
static void post_in_place(struct server *server, struct aes_cqe *cqe) {
    struct ihsm_ring *ring = server->ring;
    uint32_t tail = atomic_load_explicit(&ring->cq_tail, memory_order_relaxed);
    bool wraps = tail + 1 == ring->cq_entries;
    uint16_t sqhd = (uint16_t)atomic_load_explicit(&ring->sq_head, memory_order_relaxed);
    uint16_t psf = (uint16_t)((cqe->psf & ~IHSM_PSF_PHASE_MASK) | ring->cq_phase);
    uint64_t end = sqhd | (uint64_t)ring->id << 16 | (uint64_t)cqe->err << 32 | (uint64_t)psf << 48;

    ring->in_flight--;
    ring->cq_phase ^= wraps;
    /* Before the entry is visible, as in ihsm_ring_post. */
    atomic_store_explicit(&ring->cq_tail, wraps ? 0 : tail + 1, memory_order_release);
    if (ihsm_traced(&ring->engine->host->trace, IHSM_TRACE_KIND_COMPLETION)) {
        memcpy((uint8_t *)cqe + END, &end, sizeof end);
        ihsm_record_end(
            ihsm_trace_completion(&ring->engine->host->trace, ring->id, tail, ring->vector, cqe, sizeof *cqe, psf));
    }
    publish(server->cq + (size_t)tail * sizeof *cqe, cqe, end);
}

/* Answer a command; true: the vector is due. */
static bool complete(struct server *server, const union ihsm_aes_entry *entry, struct aes_cqe *cqe) {
    if (ihsm_inject_armed(&server->ring->engine->inject, IHSM_COMPLETION_ACTIONS)) {
        ihsm_faulty_post(server->ring, cqe, entry, NULL);
        return false; /* asked for where there was something to tell */
    }
    if (server->mapped != server->context.remapped)
        map_rings(server);
    if (server->cq != NULL)
        post_in_place(server, cqe);
    else
        ihsm_ring_post(server->ring, cqe);
    return true;
}

void ihsm_aes_drain(struct ihsm_ring *ring) {
    if (ring->fetched_next == ring->fetched_count)
        return;
    while (ring->fetched_next < ring->fetched_count) {
        const struct aes_sqe *sqe = &ring->fetched[ring->fetched_next++].common;
        struct aes_cqe cqe = {
            .attr = sqe->attr, .cmd_id = sqe->cmd_id, .psf = IHSM_AES_STATUS_DELETE_QUEUE << IHSM_PSF_STATUS_SHIFT};
        ihsm_ring_post(ring, &cqe);
    }
    ihsm_host_request_vector(ring->engine->host, ring->vector);
}

/* Ask for the places of the next `count` completions, and give up as many behind them, which will be asked for next. */
static void take_completion_lines(const struct server *server, uint32_t count, uint32_t room) {
    const struct ihsm_ring *ring = server->ring;
    uint32_t at = atomic_load_explicit(&ring->cq_tail, memory_order_relaxed);
    if (server->cq == NULL)
        return;
    uint32_t last = count;
    /*
     * Not where there are few commands: then somebody waits for each, and a line takes longer to come from memory than
     * from another CPU. Nor where there is no room, for the client has yet to read those.
     */
    if (ihsm_lines_stay_shared && count >= ROW)
        last = 2 * count < room ? 2 * count : room;
    for (uint32_t i = 0; i < last; i++) {
        const uint8_t *place = server->cq + (size_t)at * sizeof(struct aes_cqe);
        if (i < count)
            ihsm_line_to_write(place);
        else
            ihsm_line_give_up(place);
        at = at + 1 == ring->cq_entries ? 0 : at + 1;
    }
}

/* Read the next entries of the ring, as many as there are, fit, and have a place in the CQ. */
static bool fetch(struct server *server) {
    struct ihsm_ring *ring = server->ring;
    uint32_t pending = ihsm_ring_pending(ring), room = ihsm_ring_cq_room(ring), count = IHSM_AES_FETCH;
    uint32_t head = atomic_load_explicit(&ring->sq_head, memory_order_relaxed);

    count = count < pending ? count : pending;
    count = count < room ? count : room;
    ring->fetched_next = ring->fetched_count = 0;
    if (server->mapped != server->context.remapped)
        map_rings(server);
    if (server->sq == NULL) {
        while (ring->fetched_count < count && ihsm_ring_fetch(ring, &ring->fetched[ring->fetched_count]))
            ring->fetched_count++;
        return ring->fetched_count > 0;
    }
    uint32_t first = head;
    for (uint32_t i = 0; i < count; i++) {
        ihsm_guest_copy(&ring->fetched[i], server->sq + (size_t)head * sizeof(struct aes_sqe), sizeof(struct aes_sqe));
        IHSM_SEAM_READ(server->sq + (size_t)head * sizeof(struct aes_sqe), sizeof(struct aes_sqe));
        head = head + 1 == ring->sq_entries ? 0 : head + 1;
    }
    ihsm_trace_entries(&ring->engine->host->trace, ring->id, first, ring->sq_entries, ring->fetched,
                       sizeof(struct aes_sqe), count);
    /* The client's CPU has written the next entries and read the completions' places: get both while we work. */
    for (uint32_t i = 0, next = head; i < IHSM_AES_FETCH && i < pending - count; i++) {
        const uint8_t *at = server->sq + (size_t)next * sizeof(struct aes_sqe);
        __builtin_prefetch(at);
        __builtin_prefetch(at + sizeof(struct aes_sqe) / 2);
        next = next + 1 == ring->sq_entries ? 0 : next + 1;
    }
    take_completion_lines(server, count, room);
    ring->fetched_count = count;
    ring->in_flight += count;
    atomic_store_explicit(&ring->sq_head, head, memory_order_release);
    return count > 0;
}

/* The command has touched holes that may not be filled, so that not all of its data are where they belong. */
static bool is_torn(const struct server *server) {
    return atomic_load(&server->context.regions->refusals) != server->refusals;
}

static bool checkpoint(struct ihsm_fp_context *context) {
    const struct server *server = (const struct server *)context;
    IHSM_SEAM(AES_CHECKPOINT);
    if (atomic_load_explicit(&context->regions->writers, memory_order_relaxed) != 0) {
        ihsm_regions_unlock(context->regions);
        ihsm_regions_read_lock(context->regions);
        context->remapped++;
    }
    return !atomic_load_explicit(&server->ring->stop, memory_order_relaxed) && !is_torn(server);
}

static void note_unreachable(struct server *server, uint16_t cid) {
    struct ihsm_stretch *stretch = &server->context.unreachable;
    ihsm_note_unreachable(server->ring->engine, stretch->write ? IHSM_UNREACHABLE_DESTINATION : IHSM_UNREACHABLE_SOURCE,
                          server->ring->id, cid, stretch->iova, stretch->len);
    stretch->len = 0;
}

/* Begin to serve the ring, with the region lock from now on. */
static void begin(struct server *server, struct ihsm_ring *ring, uint32_t max_steps) {
    struct ihsm_engine *engine = ring->engine;
    *server = (struct server){.ring = ring,
                              .context = {.regions = &engine->host->regions,
                                          .checkpoint = checkpoint,
                                          .function = &engine->fp,
                                          .max_steps = max_steps,
                                          .scratch = ihsm_fp_scratch()}};
    ihsm_regions_read_lock(server->context.regions);
    map_rings(server);
}

static void refuse_holes(struct server *server, const struct aes_sqe *sqe, struct aes_cqe *cqe) {
    cqe->psf = IHSM_AES_STATUS_RETRIES_EXCEEDED << IHSM_PSF_STATUS_SHIFT;
    ihsm_note_beyond_fill(server->ring->engine, server->ring->id, sqe->cmd_id, sqe->dst.addr);
}

static void execute(struct server *server, const union ihsm_aes_entry *entry, struct aes_cqe *cqe) {
    server->refusals = atomic_load(&server->context.regions->refusals);
    if (server->context.scratch != NULL)
        ihsm_fp_execute(&server->context, entry, cqe);
    else
        cqe->psf = IHSM_AES_STATUS_RETRIES_EXCEEDED << IHSM_PSF_STATUS_SHIFT; /* no memory */
    if (!server->context.put_off && is_torn(server))
        refuse_holes(server, &entry->common, cqe);
}

/* A fault may hit the command that is about to be carried out. False: it is not. */
static bool try_faults(struct ihsm_ring *ring, union ihsm_aes_entry *entry) {
    uint32_t held_by;
    switch (ihsm_faulty_command(ring, entry, NULL, &held_by)) {
    case IHSM_FATE_HELD: /* without memory it is lost, which a driver cannot tell from held */
        ihsm_inject_put_off(
            &ring->engine->inject,
            &(struct ihsm_late){.ring = ring, .generation = ring->generation, .is_command = true, .held_by = held_by},
            entry, sizeof *entry);
        return false;
    case IHSM_FATE_UNREADABLE:
        ring->fetched_next--;
        return false;
    case IHSM_FATE_LOST:
        return false;
    default:
        return true;
    }
}

/* Commands of one turn; returns what was answered. */
static struct ihsm_turn serve_turn(struct ihsm_ring *ring, unsigned max_commands, uint32_t max_bytes,
                                   bool whole_command) {
    struct server server;
    struct ihsm_turn done = {0};
    begin(&server, ring, whole_command ? UINT32_MAX : IHSM_LONG_STEPS);

    while (done.commands < max_commands && server.context.steps < IHSM_TURN_STEPS &&
           !atomic_load_explicit(&ring->stop, memory_order_relaxed) &&
           !atomic_load_explicit(&ring->stopped, memory_order_relaxed)) {
        if (ring->fetched_next == ring->fetched_count && !fetch(&server))
            break;
        /* Private memory: nobody else looks at what was fetched while we serve. */
        union ihsm_aes_entry *entry = &ring->fetched[ring->fetched_next];
        struct aes_cqe cqe = {.attr = entry->common.attr, .cmd_id = entry->common.cmd_id};
        if (done.bytes + entry->common.src_len > max_bytes && !(done.commands == 0 && whole_command))
            break;
        ring->fetched_next++;
        IHSM_SEAM(AES_FETCHED);
        /* What was put off has been looked at the first time. */
        if (ihsm_inject_armed(&ring->engine->inject, IHSM_FETCH_ACTIONS) && !ring->next_put_off &&
            !try_faults(ring, entry))
            continue;
        done.bytes += entry->common.src_len;
        execute(&server, entry, &cqe);
        ring->next_put_off = server.context.put_off;
        if (ring->next_put_off) {
            ring->fetched_next--;
            break;
        }
        if (server.context.unreachable.len > 0)
            note_unreachable(&server, cqe.cmd_id);
        done.answered |= complete(&server, entry, &cqe);
        done.commands++;
    }
    done.steps = server.context.steps;
    ihsm_fp_end(&server.context);
    ihsm_regions_unlock(server.context.regions);
    return done;
}

/* Serve the ring no longer. */
static void leave(struct ihsm_ring *ring, struct ihsm_turn done) {
    struct ihsm_engine *engine = ring->engine;
    pthread_mutex_lock(&ring->lock);
    if (done.commands > 0)
        ihsm_count(&engine->counters.aes_commands, done.commands);
    if (done.answered)
        ihsm_host_request_vector(engine->host, ring->vector);
    ring->serving = false;
    pthread_cond_broadcast(&ring->changed);
    ihsm_ring_make_ready(ring);
    pthread_mutex_unlock(&ring->lock);
}

struct ihsm_turn ihsm_aes_serve(struct ihsm_ring *ring, bool popped, bool long_commands, unsigned max_commands,
                                uint32_t max_bytes) {
    pthread_mutex_lock(&ring->lock);
    if (popped)
        ring->queued = false;
    bool mine = !ring->serving && !ring->queued && ihsm_ring_has_work(ring);
    if (mine)
        ring->serving = true;
    pthread_mutex_unlock(&ring->lock);
    if (!mine)
        return (struct ihsm_turn){0};

    struct ihsm_turn done = serve_turn(ring, max_commands, max_bytes, long_commands);
    leave(ring, done);
    return done;
}

/* Become the server of a ring for what a fault has put off; false: this life of its SQ is over. */
static bool enter_late(struct ihsm_ring *ring, uint32_t generation) {
    pthread_mutex_lock(&ring->lock);
    while (ring->sq_live && ring->generation == generation && ring->serving)
        pthread_cond_wait(&ring->changed, &ring->lock);
    bool mine = ring->sq_live && ring->generation == generation;
    if (mine)
        ring->serving = true;
    pthread_mutex_unlock(&ring->lock);
    return mine;
}

void ihsm_aes_post_late(struct ihsm_ring *ring, uint32_t generation, void *cqe) {
    struct ihsm_regions *regions = &ring->engine->host->regions;
    if (!enter_late(ring, generation))
        return;
    ihsm_regions_read_lock(regions);
    bool answered = ihsm_ring_post(ring, cqe);
    ihsm_regions_unlock(regions);
    leave(ring, (struct ihsm_turn){.answered = answered});
}

void ihsm_aes_carry_out_late(struct ihsm_ring *ring, uint32_t generation, const union ihsm_aes_entry *entry) {
    if (!enter_late(ring, generation))
        return;
    struct server server;
    begin(&server, ring, UINT32_MAX);
    struct aes_cqe cqe = {.attr = entry->common.attr, .cmd_id = entry->common.cmd_id};
    execute(&server, entry, &cqe);
    if (server.context.unreachable.len > 0)
        note_unreachable(&server, cqe.cmd_id);
    ihsm_faulty_post(ring, &cqe, entry, NULL);
    ihsm_fp_end(&server.context);
    ihsm_regions_unlock(server.context.regions);
    leave(ring, (struct ihsm_turn){.commands = 1});
}

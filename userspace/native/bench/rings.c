/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Load on rings that the driver has lent. */
#include "bench/clock.h"

#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* A command without an answer for this long has been lost. */
#define LOST_NS UINT64_C(10000000000)
#define EVENT_WAIT_MS 100
/*
 * A client that has plenty outstanding, so much at least, and does not look at latencies naps: where two CPUs are
 * threads of one core, spinning would slow the device by half, while its peers have the core to themselves.
 */
#define MIN_DEPTH_TO_NAP 16

static int ring_doorbell(struct ihsm_bench_ring *ring, uint32_t offset, uint32_t value) {
    const uint64_t one = 1;

    if (!ring->page) {
        const uint64_t wide = offset;

        memcpy(ring->message + 16, &wide, sizeof wide);
        memcpy(ring->message + 32, &value, sizeof value);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        return send(ring->socket, ring->message, sizeof ring->message, 0) < 0 ? -errno : 0;
    }
    if (!ring->asleep_offset)
        ihsm_doorbell(ring->page, offset, value);
    else if (ihsm_doorbell_watched(ring->page, offset, value, ring->asleep_offset) && ring->kick >= 0 &&
             write(ring->kick, &one, sizeof one) < 0 && errno != EAGAIN)
        return -errno;
    return 0;
}

/*
 * Write `count` prepared entries and ring once. Commands may complete in any order, so a slot says nothing about ids.
 */
static int submit(struct ihsm_bench_ring *ring, uint32_t count, uint64_t due_ns) {
    for (uint32_t i = 0; i < count; i++) {
        uint16_t cid = ring->free[ring->entries - 1 - ring->outstanding - i];
        uint8_t *entry = ring->sq + (size_t)ring->tail * ring->sqe_bytes;

        memcpy(entry, ring->table + (size_t)ring->tail * ring->sqe_bytes, ring->sqe_bytes);
        memcpy(entry + ring->sqe_cid, &cid, sizeof cid);
        ring->submitted_ns[cid] = due_ns | 1; /* 0: not outstanding */
        if (++ring->tail == ring->entries)
            ring->tail = 0;
    }
    ring->outstanding += count;
    return ring_doorbell(ring, ring->sq_bell, ring->tail);
}

/*
 * Once there are `batch` completions, or as many as are outstanding, take and acknowledge them, for a batch of one all
 * that there are. Returns how many, or a negative errno: EBADMSG if one is for a command that is not outstanding.
 */
static int reap(struct ihsm_bench_ring *ring, uint32_t batch, uint32_t *latencies_ns, uint64_t room,
                struct ihsm_bench_result *result) {
    uint32_t wanted = batch < ring->outstanding ? batch : ring->outstanding ? ring->outstanding : 1;
    uint32_t count, index = ring->cq.head;
    uint64_t now;
    int error;

    if (!ihsm_cq_has(&ring->cq, wanted))
        return 0;
    count = ihsm_cq_ready_up_to(&ring->cq, batch == 1 ? ring->entries : wanted);
    now = latencies_ns ? ihsm_now_ns() : 0;
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *cqe = ring->cq.ring + (size_t)index * ring->cq.entry_bytes;
        uint16_t cid, psf;

        memcpy(&cid, cqe + ring->cqe_cid, sizeof cid);
        memcpy(&psf, cqe + ring->cq.entry_bytes - sizeof psf, sizeof psf);
        if (cid >= ring->entries || !ring->submitted_ns[cid])
            return -EBADMSG;
        if (psf >> 1)
            result->failed++;
        else if (latencies_ns)
            ihsm_record(result, latencies_ns, room, now - ring->submitted_ns[cid]);
        ring->submitted_ns[cid] = 0;
        ring->free[ring->entries - ring->outstanding + i] = cid;
        if (++index == ring->entries)
            index = 0;
    }
    ihsm_cq_advance(&ring->cq, count);
    ring->outstanding -= count;
    result->operations += count;
    error = ring_doorbell(ring, ring->cq_bell, ring->cq.head);
    return error ? error : (int)count;
}

static int wait_for_any(struct ihsm_bench_ring *rings, int plenty, uint32_t nap_ns) {
    const struct timespec nap = {.tv_nsec = nap_ns};

    /* Rings of one run share a vector or are polled. */
    if (rings[0].event < 0) {
        if (plenty)
            nanosleep(&nap, NULL);
        else
            ihsm_relax();
        return 0;
    }
    return ihsm_event_wait(rings[0].event, EVENT_WAIT_MS);
}

static int serve(struct ihsm_bench_ring *rings, uint32_t count, uint32_t depth, uint32_t batch, int open,
                 uint32_t *latencies_ns, uint64_t room, struct ihsm_bench_result *result) {
    int progress = 0;

    for (uint32_t i = 0; i < count; i++) {
        int taken = reap(&rings[i], batch, latencies_ns, room, result);

        if (taken < 0)
            return taken;
        progress |= taken > 0;
        while (open && rings[i].outstanding + batch <= depth) {
            int error = submit(&rings[i], batch, latencies_ns ? ihsm_now_ns() : 0);

            if (error)
                return error;
            progress = 1;
        }
    }
    return progress;
}

int ihsm_bench_closed_loop(struct ihsm_bench_ring *rings, uint32_t count, uint32_t depth, uint32_t batch,
                           uint64_t min_ns, uint32_t nap_ns, uint32_t *latencies_ns, uint64_t room,
                           struct ihsm_bench_result *result) {
    uint64_t end, progress_ns;
    uint32_t left, rounds = 0;
    int open = 1, may_nap = !latencies_ns && count * depth >= MIN_DEPTH_TO_NAP;

    if (!batch || batch > depth)
        return -EINVAL;
    for (uint32_t i = 0; i < count; i++)
        if (depth >= rings[i].entries)
            return -EINVAL;
    if (may_nap)
        prctl(PR_SET_TIMERSLACK, 1UL);
    ihsm_measure_begin(result);
    progress_ns = result->wall_ns;
    end = result->wall_ns + min_ns;
    do {
        int progress = serve(rings, count, depth, batch, open, latencies_ns, room, result);

        if (progress < 0)
            return progress;
        /* Reading the clock each round would cost as much as a short command. */
        if (!progress || rounds++ % 16 == 0) {
            uint64_t now = ihsm_now_ns();

            open = now < end;
            if (progress)
                progress_ns = now;
            else if (now - progress_ns > LOST_NS)
                return -ETIMEDOUT;
        }
        left = 0;
        for (uint32_t i = 0; i < count; i++)
            left += rings[i].outstanding;
        if (!progress && left)
            wait_for_any(rings, may_nap && left > count * depth / 2, nap_ns);
    } while (open || left);
    ihsm_measure_end(result);
    return 0;
}

int ihsm_bench_open_loop(struct ihsm_bench_ring *ring, uint64_t interval_ns, uint64_t min_ns, uint32_t *latencies_ns,
                         uint64_t room, struct ihsm_bench_result *result) {
    uint64_t due, end, progress_ns;

    if (!interval_ns)
        return -EINVAL;
    ihsm_measure_begin(result);
    progress_ns = due = result->wall_ns;
    end = due + min_ns;
    while (due < end || ring->outstanding) {
        uint64_t now = ihsm_now_ns();
        int taken = reap(ring, 1, latencies_ns, room, result);

        if (taken < 0)
            return taken;
        if (taken)
            progress_ns = now;
        else if (ring->outstanding && now - progress_ns > LOST_NS)
            return -ETIMEDOUT;
        while (due <= now && due < end && ring->outstanding + 1 < ring->entries) {
            int error = submit(ring, 1, due);

            if (error)
                return error;
            due += interval_ns;
            progress_ns = now;
        }
        if (!taken)
            ihsm_relax();
    }
    ihsm_measure_end(result);
    return 0;
}

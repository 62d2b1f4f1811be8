/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"

/* Looks at the clock only once per this many looks at the ring. */
#define LOOKS_PER_CLOCK 32

static inline void cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield" ::: "memory");
#endif
}

static uint64_t now_ns(void) {
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int is_new(const struct ihsm_cq *cq, uint32_t index, uint32_t phase) {
    const uint8_t *entry = cq->ring + (size_t)index * cq->entry_bytes;
    const uint16_t *word = (const uint16_t *)(entry + cq->entry_bytes - sizeof(uint16_t));

    /* Acquire: the rest of the entry is read only after its phase was seen. */
    return (__atomic_load_n(word, __ATOMIC_ACQUIRE) & 1u) == phase;
}

uint32_t ihsm_cq_ready_up_to(const struct ihsm_cq *cq, uint32_t limit) {
    uint32_t index = cq->head, phase = cq->phase, count = 0;

    while (count < limit && is_new(cq, index, phase)) {
        count++;
        if (++index == cq->entries) {
            index = 0;
            phase ^= 1u;
        }
    }
    return count;
}

uint32_t ihsm_cq_ready(const struct ihsm_cq *cq) { return ihsm_cq_ready_up_to(cq, cq->entries); }

int ihsm_cq_has(const struct ihsm_cq *cq, uint32_t count) {
    uint32_t last = cq->head + count - 1;
    int wraps = last >= cq->entries;

    return is_new(cq, wraps ? last - cq->entries : last, cq->phase ^ (uint32_t)wraps);
}

uint32_t ihsm_cq_spin(const struct ihsm_cq *cq, uint32_t wanted, uint64_t spin_ns) {
    uint64_t deadline = now_ns() + spin_ns;

    for (;;) {
        for (int look = 0; look < LOOKS_PER_CLOCK; look++) {
            if (ihsm_cq_has(cq, wanted))
                return ihsm_cq_ready(cq);
            cpu_relax();
        }
        if (now_ns() >= deadline)
            return ihsm_cq_ready(cq);
    }
}

void ihsm_cq_advance(struct ihsm_cq *cq, uint32_t count) {
    cq->head += count;
    if (cq->head >= cq->entries) {
        cq->head -= cq->entries;
        cq->phase ^= 1u;
    }
}

void ihsm_doorbell(uint8_t *page, uint32_t offset, uint32_t value) {
    /* The full fence also orders against device memory, where a release store alone would not on every machine. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    __atomic_store_n((uint32_t *)(page + offset), value, __ATOMIC_RELEASE);
}

uint32_t ihsm_doorbell_watched(uint8_t *page, uint32_t offset, uint32_t value, uint32_t asleep_offset) {
    ihsm_doorbell(page, offset, value);
    /*
     * The poller sets its word, then looks at the doorbells once more; we store, then look at its word. With a full
     * fence on both sides at least one of us sees the other.
     */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return __atomic_load_n((const uint32_t *)(page + asleep_offset), __ATOMIC_RELAXED);
}

static void ring(const struct ihsm_direct *direct, uint32_t bell, uint32_t value) {
    const uint64_t one = 1;

    if (direct->kick < 0)
        ihsm_doorbell(direct->page, bell, value);
    else if (ihsm_doorbell_watched(direct->page, bell, value, direct->asleep_offset))
        /* A counter that would overflow has not been read yet: the poller is awake or about to be. */
        while (write(direct->kick, &one, sizeof one) < 0 && errno == EINTR)
            ;
}

static void acknowledge(struct ihsm_direct *direct) {
    direct->cq->unacknowledged = 0;
    ring(direct, direct->cq_bell, direct->cq->head);
}

/* Take the completion at the head of the CQ if it is that of a command. */
static bool took(struct ihsm_direct *direct, uint32_t cid) {
    struct ihsm_cq *cq = direct->cq;
    const uint8_t *found = cq->ring + (size_t)cq->head * cq->entry_bytes;
    uint16_t found_cid, head;

    memcpy(&found_cid, found + direct->cqe_cid, sizeof found_cid);
    memcpy(&head, found + direct->cqe_sqhd, sizeof head);
    if (found_cid != cid || head >= direct->sq->entries)
        return false;
    memcpy(direct->cqe, found, cq->entry_bytes);
    direct->sq->head = head;
    ihsm_cq_advance(cq, 1);
    if (++cq->unacknowledged * 2 >= cq->entries)
        acknowledge(direct);
    return true;
}

void ihsm_exchange(struct ihsm_direct *direct, const uint8_t *entry, uint32_t cid, uint64_t spin_ns) {
    struct ihsm_sq *sq = direct->sq;
    struct ihsm_cq *cq = direct->cq;
    struct ihsm_ids *ids = direct->ids;
    uint32_t next = sq->tail + 1 == sq->entries ? 0 : sq->tail + 1;

    direct->outcome = IHSM_NOTHING;
    if (!ids->free || ids->ids[ids->free - 1] != cid || next == sq->head)
        return;
    direct->started_ns = now_ns();
    ids->free--;
    direct->outcome = IHSM_PENDING;
    /* The device starts no command whose completion might find the CQ full. */
    if (cq->unacknowledged + ids->count - ids->free >= cq->entries)
        acknowledge(direct);
    memcpy(sq->ring + (size_t)sq->tail * sq->entry_bytes, entry, sq->entry_bytes);
    sq->tail = sq->announced = next;
    ring(direct, direct->sq_bell, next);
    for (uint64_t deadline = direct->started_ns + spin_ns;;) {
        for (int look = 0; look < LOOKS_PER_CLOCK; look++) {
            if (ihsm_cq_has(cq, 1)) {
                if (took(direct, cid)) {
                    ids->free++;
                    direct->outcome = IHSM_TAKEN;
                }
                return;
            }
            if (__atomic_load_n(direct->wanted, __ATOMIC_RELAXED))
                return;
            cpu_relax();
        }
        if (now_ns() >= deadline)
            return;
    }
}

uint64_t ihsm_mmio_read(const uint8_t *page, uint32_t offset, uint32_t width) {
    const volatile uint8_t *address = page + offset;

    switch (width) {
    case 1:
        return *address;
    case 2:
        return *(const volatile uint16_t *)address;
    case 4:
        return *(const volatile uint32_t *)address;
    default:
        return *(const volatile uint64_t *)address;
    }
}

void ihsm_mmio_write(uint8_t *page, uint32_t offset, uint32_t width, uint64_t value) {
    volatile uint8_t *address = page + offset;

    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    switch (width) {
    case 1:
        *address = (uint8_t)value;
        break;
    case 2:
        *(volatile uint16_t *)address = (uint16_t)value;
        break;
    case 4:
        *(volatile uint32_t *)address = (uint32_t)value;
        break;
    default:
        *(volatile uint64_t *)address = value;
    }
}

int ihsm_event_wait(int fd, int timeout_ms) {
    struct pollfd pfd = {.fd = fd, .events = POLLIN};
    uint64_t count;
    int found = poll(&pfd, 1, timeout_ms);

    if (found <= 0)
        return found < 0 && errno != EINTR ? -errno : 0;
    if (read(fd, &count, sizeof count) < 0 && errno != EAGAIN)
        return errno == EINTR ? 0 : -errno;
    return 1;
}

int ihsm_unshare(uint8_t *start, uint64_t size_bytes) {
    void *at = mmap(start, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

    return at == MAP_FAILED ? -errno : 0;
}

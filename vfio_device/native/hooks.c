/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ring of a trace.
 *
 * Its memory is mapped twice, one behind the other, so that no record is in two pieces. `head` is where room is taken
 * next: a compare-and-swap moves it, if what is between it and `tail` leaves room. Memory between head and tail is
 * zeros when room is taken. The second word of a header (length, kind, function) is never 0, and is stored last, with
 * release: the reader takes records in their order until it finds a 0 there, which is a record that is still being
 * filled, or none. It copies them, zeroes the place, and moves tail.
 */
#include "host.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "hooks.h"

#define RING_BYTES (UINT64_C(8) << 20)
#define HEADER_WORDS 2
#define READY_WORD 1 /* of the header: what is stored last */
#define LINE_BYTES 64

struct ihsm_trace_ring {
    uint64_t *words;
    _Alignas(LINE_BYTES) _Atomic uint64_t head;
    _Atomic uint64_t lost; /* since the last record of kind LOST; beside head, for who moves that looks here */
    _Alignas(LINE_BYTES) _Atomic uint64_t tail;
};

/* What is stored last of a record. */
union ready_word {
    uint64_t word;
    struct {
        uint32_t length;
        uint16_t kind, function;
    };
};
_Static_assert(offsetof(struct trace_header, length) == 8 && sizeof(struct trace_header) == 16 &&
                   offsetof(struct trace_header, kind) == 12 && offsetof(struct trace_header, function) == 14,
               "length, kind and function are the second word of a header");
_Static_assert(sizeof(union ready_word) == IHSM_ALIGNMENT_BYTES && sizeof(uint64_t) == IHSM_ALIGNMENT_BYTES, "a word");
_Static_assert(offsetof(struct trace_header, time_ns) == 0 &&
                   sizeof(struct trace_header) == HEADER_WORDS * sizeof(uint64_t),
               "the first word of a header is its time");

static uint64_t stride(size_t length) {
    return (sizeof(struct trace_header) + length + IHSM_ALIGNMENT_BYTES - 1) & ~(uint64_t)(IHSM_ALIGNMENT_BYTES - 1);
}

static uint64_t clock_ns(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/*
 * Nanoseconds since 1970, by the time of day at which recording began: who sets that while it goes on does not change
 * how long anything took, by which drivers are judged.
 */
static uint64_t now(struct ihsm_trace *trace) {
    return atomic_load_explicit(&trace->epoch_ns, memory_order_relaxed) + clock_ns(CLOCK_MONOTONIC);
}

/* -- its life */

static void *map_twice(void) {
    char *bytes = MAP_FAILED;
    int fd = memfd_create("ihsm-trace", MFD_CLOEXEC);
    if (fd < 0)
        return NULL;
    if (ftruncate(fd, (off_t)RING_BYTES) == 0)
        bytes = mmap(NULL, 2 * RING_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (unsigned half = 0; half < 2 && bytes != MAP_FAILED; half++) {
        if (mmap(bytes + half * RING_BYTES, RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_POPULATE,
                 fd, 0) == MAP_FAILED) {
            munmap(bytes, 2 * RING_BYTES);
            bytes = MAP_FAILED;
        }
    }
    close(fd);
    return bytes == MAP_FAILED ? NULL : bytes;
}

static struct ihsm_trace_ring *new_ring(void) {
    struct ihsm_trace_ring *ring = aligned_alloc(LINE_BYTES, sizeof *ring);
    if (ring == NULL)
        return NULL;
    memset(ring, 0, sizeof *ring);
    ring->words = map_twice();
    if (ring->words == NULL) {
        free(ring);
        return NULL;
    }
    return ring;
}

void ihsm_trace_destroy(struct ihsm_trace *trace) {
    struct ihsm_trace_ring *ring = atomic_load(&trace->ring);
    if (ring != NULL)
        munmap(ring->words, 2 * RING_BYTES);
    free(ring);
}

int ihsm_trace_prepare(struct ihsm_host *host, unsigned function) {
    struct ihsm_trace *trace = &host->trace;
    if (!IHSM_HAS_TRACE_HOOKS)
        return -EOPNOTSUPP;
    if (atomic_load(&trace->ring) != NULL)
        return 0;
    struct ihsm_trace_ring *ring = new_ring();
    if (ring == NULL)
        return -ENOMEM;
    trace->function = (uint16_t)function;
    atomic_store(&trace->ring, ring);
    return 0;
}

void ihsm_trace_select(struct ihsm_host *host, uint32_t kinds) {
    struct ihsm_trace *trace = &host->trace;
    if (atomic_load(&trace->kinds) == 0)
        atomic_store(&trace->epoch_ns, clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_MONOTONIC));
    atomic_store(&trace->kinds, kinds);
}

uint64_t ihsm_trace_now(struct ihsm_host *host) { return now(&host->trace); }

/* -- writing */

static uint64_t *take(struct ihsm_trace_ring *ring, uint64_t size) {
    uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    do {
        if (head + size - atomic_load_explicit(&ring->tail, memory_order_acquire) > RING_BYTES)
            return NULL;
    } while (!atomic_compare_exchange_weak_explicit(&ring->head, &head, head + size, memory_order_relaxed,
                                                    memory_order_relaxed));
    return ring->words + head % RING_BYTES / IHSM_ALIGNMENT_BYTES;
}

static void make_ready(uint64_t *header, union ready_word ready) {
    __atomic_store_n(header + READY_WORD, ready.word, __ATOMIC_RELEASE);
}

/* Fill a place with what is missing before it. */
static void tell_lost(struct ihsm_trace *trace, struct ihsm_trace_ring *ring, uint64_t *header) {
    struct trace_lost body = {.count = atomic_exchange(&ring->lost, 0), .where = IHSM_LOST_WHERE_RING};
    header[0] = now(trace);
    memcpy(header + HEADER_WORDS, &body, sizeof body);
    /* Another thread may have told the same losses: then there is nothing to tell. */
    make_ready(header, (union ready_word){.length = sizeof body,
                                          .kind = body.count > 0 ? IHSM_TRACE_KIND_LOST : IHSM_TRACE_KIND_SKIP,
                                          .function = trace->function});
}

/* Room for a record behind records that had none: both places at once, so that a full ring is not filled with these. */
static uint64_t *take_behind_lost(struct ihsm_trace *trace, struct ihsm_trace_ring *ring, uint64_t size) {
    uint64_t lost_size = stride(sizeof(struct trace_lost));
    uint64_t *at = take(ring, lost_size + size);
    if (at == NULL)
        return NULL;
    tell_lost(trace, ring, at);
    return at + lost_size / IHSM_ALIGNMENT_BYTES;
}

static struct ihsm_record take_record(struct ihsm_trace *trace, uint16_t kind, size_t length, uint64_t time) {
    struct ihsm_trace_ring *ring = atomic_load_explicit(&trace->ring, memory_order_acquire);
    if (ring == NULL) /* the word of kinds has been seen before the ring */
        return (struct ihsm_record){0};
    uint64_t *at = atomic_load_explicit(&ring->lost, memory_order_relaxed) == 0
                       ? take(ring, stride(length))
                       : take_behind_lost(trace, ring, stride(length));
    if (at == NULL) {
        atomic_fetch_add_explicit(&ring->lost, 1, memory_order_relaxed);
        return (struct ihsm_record){0};
    }
    at[0] = time;
    return (struct ihsm_record){
        .header = at,
        .body = at + HEADER_WORDS,
        .ready = ((union ready_word){.length = (uint32_t)length, .kind = kind, .function = trace->function}).word};
}

struct ihsm_record ihsm_trace_take(struct ihsm_trace *trace, uint16_t kind, size_t length) {
    return take_record(trace, kind, length, now(trace));
}

void ihsm_record_end(struct ihsm_record record) {
    if (record.header != NULL)
        make_ready(record.header, (union ready_word){.word = record.ready});
}

void ihsm_record_drop(struct ihsm_record record) {
    union ready_word ready = {.word = record.ready};
    ready.kind = IHSM_TRACE_KIND_SKIP;
    if (record.header != NULL)
        make_ready(record.header, ready);
}

bool ihsm_trace_put(struct ihsm_host *host, unsigned kind, const uint8_t *content, size_t length) {
    if (kind > IHSM_TRACE_KIND_SKIP && kind < 32 && length <= IHSM_MAX_RECORD_BYTES - sizeof(struct trace_header)) {
        struct ihsm_record record = ihsm_record_begin(&host->trace, (enum ihsm_trace_kind)kind, length);
        if (record.header != NULL)
            memcpy(record.body, content, length);
        ihsm_record_end(record);
        return record.header != NULL;
    }
    return false;
}

/* -- reading */

size_t ihsm_trace_drain(struct ihsm_host *host, uint8_t *to, size_t room, uint64_t *count) {
    struct ihsm_trace_ring *ring = atomic_load(&host->trace.ring);
    size_t copied = 0;
    *count = 0;
    if (ring == NULL)
        return 0;
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed), begin = tail;
    if (atomic_load(&ring->lost) > 0 && tail == atomic_load_explicit(&ring->head, memory_order_relaxed)) {
        uint64_t *at = take(ring, stride(sizeof(struct trace_lost))); /* nobody may come by who would tell */
        if (at != NULL)
            tell_lost(&host->trace, ring, at);
    }
    /* A record at a time is given free, so that there is room soon; never more than a ring. */
    while (tail - begin < RING_BYTES) {
        uint64_t *at = ring->words + tail % RING_BYTES / IHSM_ALIGNMENT_BYTES;
        union ready_word ready = {.word = __atomic_load_n(at + READY_WORD, __ATOMIC_ACQUIRE)};
        if (ready.word == 0)
            break;
        size_t size = stride(ready.length);
        if (ready.kind != IHSM_TRACE_KIND_SKIP) {
            if (copied + size > room)
                break;
            memcpy(to + copied, at, size);
            copied += size;
            ++*count;
        }
        memset(at, 0, size);
        tail += size;
        atomic_store_explicit(&ring->tail, tail, memory_order_release);
    }
    return copied;
}

/* -- the records of several files' places */

void ihsm_trace_access(struct ihsm_trace *trace, enum ihsm_trace_kind kind, int region, uint64_t offset,
                       const void *data, size_t width) {
    struct trace_register body = {.offset = (uint32_t)offset, .width = (uint16_t)width, .region = (uint16_t)region};
    struct ihsm_record record = ihsm_record_begin(trace, kind, sizeof body);
    if (record.header == NULL)
        return;
    memcpy(&body.value, data, width < sizeof body.value ? width : sizeof body.value);
    memcpy(record.body, &body, sizeof body);
    ihsm_record_end(record);
}

void ihsm_trace_doorbell(struct ihsm_trace *trace, uint64_t offset, uint32_t value, uint16_t queue, bool is_cq_head,
                         enum ihsm_doorbell_outcome outcome) {
    struct ihsm_record record = ihsm_record_begin(trace, IHSM_TRACE_KIND_DOORBELL, sizeof(struct trace_doorbell));
    if (record.header == NULL)
        return;
    *(struct trace_doorbell *)record.body =
        (struct trace_doorbell){.offset = (uint32_t)offset,
                                .value = value,
                                .queue = queue,
                                .which = is_cq_head ? IHSM_DOORBELL_KIND_CQ_HEAD : IHSM_DOORBELL_KIND_SQ_TAIL,
                                .outcome = (uint8_t)outcome};
    ihsm_record_end(record);
}

void ihsm_trace_entries(struct ihsm_trace *trace, uint16_t queue, uint32_t slot, uint32_t slots, const void *entries,
                        size_t size, unsigned count) {
    if (!ihsm_traced(trace, IHSM_TRACE_KIND_ENTRY))
        return;
    uint64_t time = now(trace); /* read once: the clock is most of what a record costs */
    for (unsigned i = 0; i < count; i++, slot = slot + 1 == slots ? 0 : slot + 1) {
        struct ihsm_record record = take_record(trace, IHSM_TRACE_KIND_ENTRY, sizeof(struct trace_entry) + size, time);
        if (record.header == NULL)
            continue;
        struct trace_entry *body = record.body;
        *body = (struct trace_entry){.queue = queue, .slot = (uint16_t)slot};
        memcpy(body + 1, (const uint8_t *)entries + i * size, size);
        ihsm_record_end(record);
    }
}

struct ihsm_record ihsm_trace_completion(struct ihsm_trace *trace, uint16_t queue, uint32_t slot, int vector,
                                         const void *cqe, size_t size, uint16_t psf) {
    struct ihsm_record record =
        ihsm_record_begin(trace, IHSM_TRACE_KIND_COMPLETION, sizeof(struct trace_completion) + size);
    if (record.header == NULL)
        return record;
    struct trace_completion *body = record.body;
    *body = (struct trace_completion){.queue = queue,
                                      .slot = (uint16_t)slot,
                                      .vector = vector < 0 ? IHSM_NO_QUEUE : (uint16_t)vector,
                                      .phase = psf >> IHSM_PSF_PHASE_SHIFT & IHSM_PSF_PHASE_MASK};
    uint8_t *bytes = (uint8_t *)(body + 1);
    memcpy(bytes, cqe, size - sizeof psf);
    memcpy(bytes + size - sizeof psf, &psf, sizeof psf);
    return record;
}

struct ihsm_record ihsm_trace_dma(struct ihsm_trace *trace, enum ihsm_trace_kind kind, uint64_t iova, uint64_t size,
                                  uint32_t prot) {
    struct ihsm_record record = ihsm_record_begin(trace, kind, sizeof(struct trace_dma));
    if (record.header != NULL)
        *(struct trace_dma *)record.body = (struct trace_dma){.iova = iova, .size = size, .prot = prot};
    return record;
}

void ihsm_trace_fault(struct ihsm_trace *trace, uint32_t fault, int queue, int vector) {
    struct ihsm_record record = ihsm_record_begin(trace, IHSM_TRACE_KIND_FAULT_HIT, sizeof(struct trace_fault));
    if (record.header == NULL)
        return;
    *(struct trace_fault *)record.body = (struct trace_fault){.fault = fault,
                                                              .queue = queue < 0 ? IHSM_NO_QUEUE : (uint16_t)queue,
                                                              .vector = vector < 0 ? IHSM_NO_QUEUE : (uint16_t)vector};
    ihsm_record_end(record);
}

void ihsm_trace_reset(struct ihsm_trace *trace, int reset) {
    struct ihsm_record record = ihsm_record_begin(trace, IHSM_TRACE_KIND_RESET, sizeof(struct trace_reset));
    if (record.header != NULL)
        *(struct trace_reset *)record.body = (struct trace_reset){.reset = (uint32_t)reset};
    ihsm_record_end(record);
}

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the driver's rings need below numpy: ordered access to memory shared with the device (spec 01 §5.1), and
 * waiting without the interpreter lock. This header is also the cffi declaration: plain C, no directives.
 */

/* A completion ring as the driver sees it. The phase of an entry is bit 0 of its last 16-bit word. */
struct ihsm_cq {
    const uint8_t *ring;
    uint32_t entries;
    uint32_t entry_bytes;
    uint32_t head;
    uint32_t phase;          /* of the entry at head once the device has written it: 1 on the first pass */
    uint32_t unacknowledged; /* entries taken that the device has not been told of */
};

/* A submission ring: entries before head have been fetched, those before `announced` may be. */
struct ihsm_sq {
    uint8_t *ring;
    uint32_t entries;
    uint32_t entry_bytes;
    uint32_t head;
    uint32_t tail;
    uint32_t announced;
};

/* Command ids: a stack, whose first `free` are free. */
struct ihsm_ids {
    int64_t *ids;
    uint32_t count;
    uint32_t free;
};

/* Number of new entries from head on, at most `entries`; their bytes may be read after this call. */
uint32_t ihsm_cq_ready(const struct ihsm_cq *cq);
/* At most `limit` of them. */
uint32_t ihsm_cq_ready_up_to(const struct ihsm_cq *cq, uint32_t limit);

/*
 * Whether there are `count` new entries, 1 to `entries`: entries come in order, so that only the last is looked at. Who
 * looks at those before it again and again takes the lines from the device that it is about to write.
 */
int ihsm_cq_has(const struct ihsm_cq *cq, uint32_t count);

/* ihsm_cq_ready, but looks for up to spin_ns nanoseconds until there are `wanted` entries, 1 to `entries`. */
uint32_t ihsm_cq_spin(const struct ihsm_cq *cq, uint32_t wanted, uint64_t spin_ns);

/* Move head by `count` entries, with its phase. */
void ihsm_cq_advance(struct ihsm_cq *cq, uint32_t count);

/* Everything written before becomes visible to the device before this 32-bit store to its page. */
void ihsm_doorbell(uint8_t *page, uint32_t offset, uint32_t value);

/* The same for a page that a poller watches: whether it sleeps, by the word at asleep_offset, and must be kicked. */
uint32_t ihsm_doorbell_watched(uint8_t *page, uint32_t offset, uint32_t value, uint32_t asleep_offset);

/* One access of 1, 2, 4 or 8 bytes to a mapped BAR; offset is a multiple of width. */
uint64_t ihsm_mmio_read(const uint8_t *page, uint32_t offset, uint32_t width);
void ihsm_mmio_write(uint8_t *page, uint32_t offset, uint32_t width, uint64_t value);

/* Wait for an eventfd up to timeout_ms and clear it: 1 signalled, 0 time out or interrupted, negative errno. */
int ihsm_event_wait(int fd, int timeout_ms);

/* Replace mapped pages, from a page's start on, by zeroed ones of this process alone: 0, or a negative errno. */
int ihsm_unshare(uint8_t *start, uint64_t size_bytes);

enum ihsm_outcome {
    IHSM_NOTHING, /* nothing was written: no room, or another command id would be next */
    IHSM_PENDING, /* the device has the command, and its id is in use */
    IHSM_TAKEN,   /* the command has completed, and its id is free again */
};

/* What a caller who waits for his command needs of its queue, so that one call carries it out. */
struct ihsm_direct {
    struct ihsm_sq *sq;
    struct ihsm_cq *cq;
    struct ihsm_ids *ids;
    uint8_t *page; /* of the doorbells */
    uint32_t sq_bell;
    uint32_t cq_bell;
    uint32_t asleep_offset;
    int32_t kick;     /* eventfd of a poller that watches the page, which asleep_offset then belongs to; else -1 */
    uint32_t cqe_cid; /* where a completion has its command id, and where the head of the SQ */
    uint32_t cqe_sqhd;
    const uint32_t *wanted; /* not 0: another thread wants the queue, and nobody may keep it for long */
    uint64_t started_ns;    /* of the last call, CLOCK_MONOTONIC */
    uint32_t outcome;       /* of the last call */
    uint8_t cqe[64];        /* completion of what was taken */
};

/*
 * Write an entry with the id that is next, ring the doorbell, and look at the CQ for up to spin_ns nanoseconds. If the
 * next completion is that of the command, and names a slot of the SQ as its head, it is taken. Else it is left where it
 * is, and so is everything that comes later than the time that was given, or than another thread's wish for the queue.
 */
void ihsm_exchange(struct ihsm_direct *direct, const uint8_t *entry, uint32_t cid, uint64_t spin_ns);

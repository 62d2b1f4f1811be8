/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What Python sees of the engine. Read by cffi, which skips directives, and included by C: declarations only.
 *
 * Functions that can fail return 0 or a negative errno unless they say otherwise.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ihsm_scheduler; /* one per process: ready lists, worker threads */
struct ihsm_host;      /* guest memory and interrupt vectors of one function */
struct ihsm_engine;    /* queues of one function */
struct ihsm_published; /* sessions and keys of one function: express/published.cdef.h */

enum ihsm_class { IHSM_CLASS_ADMIN = 0, IHSM_CLASS_HSM = 1, IHSM_CLASS_AES = 2 };
enum ihsm_outcome { IHSM_POSTED = 0, IHSM_DROPPED = 1, IHSM_DATA_FAILED = 2 };
/* Held: a fault keeps the command from being carried out, until it ends. */
enum ihsm_pulled { IHSM_PULL_TIMEOUT = 0, IHSM_PULL_COMMAND = 1, IHSM_PULL_HELD = 2, IHSM_PULL_CLOSED = -1 };

/* A command handed to Python: its queue entry and, for an HSM command, the request read from guest memory. */
struct ihsm_command {
    uint64_t engine_id;
    uint32_t generation;
    uint32_t request_len;
    uint16_t queue_id;
    uint16_t cid;
    uint8_t sqe[64];
    uint8_t request[3584];
    uint32_t held_by; /* of a held command: the fault */
};

/* Faults that a function is told to show: inject.h. What each action is stands in ihsm_abi/fault_table.py. */
enum ihsm_action {
    IHSM_ACTION_DROP_COMPLETION,
    IHSM_ACTION_DELAY_COMPLETION,
    IHSM_ACTION_DUPLICATE_COMPLETION,
    IHSM_ACTION_WRONG_CID,
    IHSM_ACTION_WRONG_PHASE,
    IHSM_ACTION_WRONG_SQHD,
    IHSM_ACTION_WRONG_STATUS,
    IHSM_ACTION_REORDER_COMPLETIONS,
    IHSM_ACTION_CORRUPT_RESPONSE,
    IHSM_ACTION_CUT_RESPONSE,
    IHSM_ACTION_HOLD_COMMAND,
    IHSM_ACTION_FAIL_DMA,
    IHSM_ACTION_RESET_FUNCTION,
    IHSM_ACTION_NEVER,
    IHSM_ACTION_EXHAUST_RESOURCE,
    IHSM_ACTION_LOSE_INTERRUPT,
    IHSM_ACTION_DELAY_INTERRUPT,
    IHSM_ACTION_SPURIOUS_INTERRUPT,
    IHSM_ACTION_STORM_INTERRUPT,
    IHSM_ACTION_SET_CFS,
    IHSM_ACTION_NEVER_READY,
    IHSM_ACTION_LATE_READY,
    IHSM_ACTION_NEVER_DISABLED,
    IHSM_ACTION_NEVER_RESET,
    IHSM_ACTION_ALL_ONES,
    IHSM_ACTION_REMOVE_FUNCTION,
    IHSM_ACTION_PAUSE_PROCESS,
    IHSM_ACTION_GRANT_QUEUES,
    IHSM_ACTION_WRONG_BAR_SIZE,
    IHSM_ACTION_WRONG_VECTORS,
    IHSM_ACTION_WRONG_IDENTIFY,
    IHSM_ACTION_WRONG_CAP_TO,
};
/* Parts of a command that can be put out of reach, by bit. */
enum ihsm_part { IHSM_PART_ENTRY = 1, IHSM_PART_SOURCE = 2, IHSM_PART_DESTINATION = 4, IHSM_PART_LIST = 8 };
/* -1 matches everything, and so do 0 registers and 0 parts. */
struct ihsm_fault {
    int64_t operation;
    int32_t action, queue, opcode, session, vector;
    uint32_t registers, parts;
    uint64_t nth, count;       /* the first event that is hit, from 1; how many are, 0: all */
    uint64_t after_ms, for_ms; /* 0: for ever */
    uint64_t delay_ms, every_us;
    uint32_t per_mille, seed; /* of the events, by chance; 0: all */
    int32_t value, err;       /* cid, sqhd, status, vector, bits, bytes or answers; byte count told; -1: unchanged */
    int32_t at;               /* a byte; -1: by chance */
    uint32_t id;              /* filled in, as is the next of each hit */
    uint64_t chance;
};
/* What faults are compared with; -1 or 0: the event has none. */
struct ihsm_event {
    int64_t operation;
    int32_t queue, opcode, session, vector;
    uint32_t registers, parts;
};
/* What ihsm_engine_faults_wait tells, by bit. */
enum ihsm_happened {
    IHSM_HAPPENED_CHANGE = 1, /* a fault was hit, or has ended */
    IHSM_HAPPENED_RESET = 2,  /* a fault resets the function */
    IHSM_HAPPENED_CLOSE = 4,  /* the engine is being closed */
    IHSM_HAPPENED_TIME = 8,   /* it is time for a fault that Python shows */
};

/* What could not be reached in guest memory, and why. */
enum ihsm_unreachable_kind {
    IHSM_UNREACHABLE_ENTRY = 0,       /* a queue entry: the queue stops */
    IHSM_UNREACHABLE_COMPLETION = 1,  /* the place of a completion: the queue stops */
    IHSM_UNREACHABLE_SOURCE = 2,      /* what a command reads: data, or a list of addresses */
    IHSM_UNREACHABLE_DESTINATION = 3, /* what it writes */
};
enum ihsm_refusal {
    IHSM_NOT_MAPPED = 0,
    IHSM_WITHOUT_POINTER = 1, /* announced, but the client gave no memory that can be used */
    IHSM_NOT_ALLOWED = 2,     /* mapped for the other direction only */
    IHSM_BEYOND_FILL = 3,     /* a hole in the client's file, of which the device has filled as many as it may */
};
struct ihsm_unreachable {
    uint64_t engine_id;
    uint64_t iova;  /* first byte that is out of reach */
    uint64_t count; /* those of this function and kind since the last one taken; the others are not described */
    uint16_t queue_id;
    uint16_t cid; /* of the command; for IHSM_UNREACHABLE_ENTRY the index of the entry */
    uint8_t kind;
    uint8_t reason;
};

struct ihsm_counters {
    uint64_t doorbells;
    uint64_t doorbells_bad_value;
    uint64_t doorbells_unknown_queue;
    uint64_t admin_commands;
    uint64_t hsm_commands;
    uint64_t hsm_express; /* those of them that the express lane carried out */
    uint64_t hsm_rejected;
    uint64_t aes_commands;
    uint64_t sqe_unreadable;
    uint64_t cqe_unwritable;
    uint64_t completions_dropped;
    uint64_t interrupts;
    uint64_t dma_regions;
    uint64_t dma_regions_without_pointer;
};

/* State of one queue pair, for people to look at. */
struct ihsm_queue {
    bool sq_live;
    bool cq_live;
    bool stopped; /* an entry could not be read or written */
    int vector;   /* -1: no interrupts */
    uint32_t sq_entries, sq_head, sq_tail;
    uint32_t cq_entries, cq_head, cq_tail;
};

/* spin_us: how long the poller of doorbell pages stays awake without work; negative: for ever. NULL: errno says why. */
struct ihsm_scheduler *ihsm_scheduler_new(unsigned aes_workers, int64_t spin_us);
void ihsm_scheduler_wake(struct ihsm_scheduler *scheduler);
void ihsm_scheduler_free(struct ihsm_scheduler *scheduler);
/* Serve the first ready AES ring for one turn; false: there is none. */
bool ihsm_scheduler_serve_one(struct ihsm_scheduler *scheduler);
/* The express lane's commands are carried out on the way; the others are handed out. */
int ihsm_pull(struct ihsm_scheduler *scheduler, int ring_class, int64_t timeout_us, struct ihsm_command *command);
/* So many threads may execute HSM commands that ihsm_pull has handed out, others wait in it; 0: as many as like. */
void ihsm_scheduler_set_outside(struct ihsm_scheduler *scheduler, unsigned max);
/* HSM commands that take milliseconds: what is put there is pulled by threads that may take so long. slow.h */
enum ihsm_slow_limits { IHSM_SLOW_BACKLOG = 1024 }; /* commands of one function that may wait */
bool ihsm_put_slow(struct ihsm_engine *engine, const struct ihsm_command *command); /* false: no room */
int ihsm_pull_slow(struct ihsm_scheduler *scheduler, struct ihsm_command *command);

struct ihsm_unreachable_list;
struct ihsm_unreachable_list *ihsm_scheduler_unreachable(struct ihsm_scheduler *scheduler);
/* As ihsm_pull, for what was out of reach; what waits is still handed out after ihsm_scheduler_wake. */
int ihsm_unreachable_pull(struct ihsm_unreachable_list *list, int64_t timeout_us, struct ihsm_unreachable *what);

struct ihsm_engine *ihsm_engine_new(struct ihsm_scheduler *scheduler, struct ihsm_host *host, uint64_t id,
                                    bool inline_aes);
/* Drop all queues and leave scheduler and host; a later completion is dropped. */
void ihsm_engine_close(struct ihsm_engine *engine);
void ihsm_engine_free(struct ihsm_engine *engine);
/* Keys of the fast path and what it must know of the function; before the first AES queue exists, else -EBUSY. */
int ihsm_engine_set_keys(struct ihsm_engine *engine, void *bulk_table, bool fips, bool device_iv);
/* The express lane serves this function from now on; before the first HSM queue exists, else -EBUSY. */
int ihsm_engine_set_express(struct ihsm_engine *engine, struct ihsm_published *published);
/*
 * Doorbells come through a file of one page, which the client maps, instead of through accesses; before any queue.
 * The numbers of that file and of the eventfd that wakes its reader stay the same for the life of the engine.
 */
int ihsm_engine_use_page(struct ihsm_engine *engine);
int ihsm_engine_page_fd(struct ihsm_engine *engine);
int ihsm_engine_kick_fd(struct ihsm_engine *engine);
/* Between two clients: what the last one has kept of page and eventfd has no effect any more. */
int ihsm_engine_renew_page(struct ihsm_engine *engine);
/* Readable if the reader of the pages has been kicked and has not noticed yet. */
int ihsm_scheduler_kicks(struct ihsm_scheduler *scheduler);
int ihsm_engine_enable_admin(struct ihsm_engine *engine, uint64_t asq, uint64_t acq, uint32_t sq_entries,
                             uint32_t cq_entries);
int ihsm_engine_create_cq(struct ihsm_engine *engine, unsigned id, uint64_t base, uint32_t entries, int vector);
int ihsm_engine_create_sq(struct ihsm_engine *engine, unsigned id, uint64_t base, uint32_t entries, unsigned cqid);
int ihsm_engine_delete_sq(struct ihsm_engine *engine, unsigned id, int64_t timeout_us);
int ihsm_engine_delete_cq(struct ihsm_engine *engine, unsigned id);
bool ihsm_engine_sq_exists(struct ihsm_engine *engine, unsigned id);
bool ihsm_engine_cq_exists(struct ihsm_engine *engine, unsigned id);
/* 0, or -ENOENT if the queue can have neither SQ nor CQ. */
int ihsm_engine_queue(struct ihsm_engine *engine, unsigned id, struct ihsm_queue *queue);
bool ihsm_engine_generation_is_live(struct ihsm_engine *engine, unsigned id, uint32_t generation);
void ihsm_engine_disable(struct ihsm_engine *engine);
void ihsm_engine_reset(struct ihsm_engine *engine);
bool ihsm_engine_admin_stopped(struct ihsm_engine *engine);
void ihsm_engine_doorbell(struct ihsm_engine *engine, uint64_t offset, uint32_t value);
void ihsm_engine_counters(struct ihsm_engine *engine, struct ihsm_counters *counters);
int ihsm_engine_complete_admin(struct ihsm_engine *engine, unsigned queue_id, uint32_t generation, const uint8_t *sqe,
                               uint32_t dw0, unsigned status, const uint8_t *data, size_t data_len);
/* sqe and request: of the struct ihsm_command that is completed. */
int ihsm_engine_complete_hsm(struct ihsm_engine *engine, unsigned queue_id, uint32_t generation, const uint8_t *sqe,
                             const uint8_t *request, const uint8_t *message, size_t message_len, unsigned byte_count,
                             unsigned control, unsigned session_id, unsigned short_app_id, unsigned sc);
/* Complete, with status internal error, a command that could not be handed on for want of memory. */
int ihsm_engine_refuse(struct ihsm_engine *engine, const struct ihsm_command *command);

/* Id of the new fault, at least 1; -ENOSPC: there are too many. */
int64_t ihsm_engine_fault_add(struct ihsm_engine *engine, const struct ihsm_fault *fault);
int ihsm_engine_fault_clear(struct ihsm_engine *engine, uint32_t id); /* -ENOENT */
/* Events hit so far; -ENOENT. */
int64_t ihsm_engine_fault_hits(struct ihsm_engine *engine, uint32_t id);
/* Whether it is there and its time is not over. */
bool ihsm_engine_fault_stands(struct ihsm_engine *engine, uint32_t id);
/* Whether a fault with that action hits the event, which is counted; its id, 0: none. */
uint32_t ihsm_engine_fault_hit(struct ihsm_engine *engine, int action, const struct ihsm_event *event);
/* Whether the registers would be read as ones; no event. */
bool ihsm_engine_gone(struct ihsm_engine *engine, uint32_t registers);
/* For one thread: carry out what faults have put off when it is due, until there is something to tell. */
unsigned ihsm_engine_faults_wait(struct ihsm_engine *engine);
/* The thread in ihsm_engine_faults_wait is told of a change. */
void ihsm_engine_faults_look(struct ihsm_engine *engine);
/* The thread in ihsm_engine_faults_wait leaves, now and for good. */
void ihsm_engine_faults_close(struct ihsm_engine *engine);
/* The function mutex, for who resets the function from another thread than its owner. */
void ihsm_engine_lock_function(struct ihsm_engine *engine);
void ihsm_engine_unlock_function(struct ihsm_engine *engine);

void ihsm_host_msix_read(struct ihsm_host *host, uint64_t offset, uint8_t *data, size_t len);
void ihsm_host_msix_write(struct ihsm_host *host, uint64_t offset, const uint8_t *data, size_t len);
void ihsm_host_set_function_mask(struct ihsm_host *host, bool masked);
/* The function is gone, with what its configuration space and MSI-X table held, or there again as at power-on. */
void ihsm_host_set_removed(struct ihsm_host *host, bool removed);

/*
 * Records of a trace: hooks.h, ihsm_abi/trace.py. One thread prepares, selects and drains.
 * Make the ring of a function, once or more often; -ENOMEM, -EOPNOTSUPP: built without.
 */
int ihsm_trace_prepare(struct ihsm_host *host, unsigned function);
/* Record these kinds from now on, by bit; after ihsm_trace_prepare. */
void ihsm_trace_select(struct ihsm_host *host, uint32_t kinds);
/* The time that a record made now has; after ihsm_trace_select. */
uint64_t ihsm_trace_now(struct ihsm_host *host);
/* Record what Python tells: a body and payload. Whether it was recorded. */
bool ihsm_trace_put(struct ihsm_host *host, unsigned kind, const uint8_t *content, size_t length);
/* Take whole records, each from a multiple of 8 bytes on; how many bytes, and in *count how many records. */
size_t ihsm_trace_drain(struct ihsm_host *host, uint8_t *to, size_t room, uint64_t *count);

struct ihsm_host *ihsm_loopback_new(void);
void ihsm_loopback_free(struct ihsm_host *host);
int ihsm_loopback_map(struct ihsm_host *host, uint64_t iova, uint64_t size, uint8_t *memory, bool writable);
int ihsm_loopback_unmap(struct ihsm_host *host, uint64_t iova, uint64_t size);
int ihsm_loopback_set_eventfd(struct ihsm_host *host, unsigned vector, int fd);
uint64_t ihsm_loopback_interrupts(struct ihsm_host *host, unsigned vector);

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The queue engine over guest memory: an input is a row of operations of a driver, of the device and of faults.
 *
 * One thread does everything, AES commands too, so that an input does the same every time.
 */
#include "engine.h"

#include "fast_keys.h"
#include "guest.h"

enum { MAX_OPERATIONS = 256, MAX_ENTRIES = 300 };
static ks_bulk_table *table;

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    REQUIRE(ks_open(0, 0) == KS_OK);
    table = fast_keys();
    return 0;
}

/* A queue that is often one of the few that exist. */
static unsigned queue_of(uint8_t value) {
    static const unsigned queues[] = {0, 1, 2, IHSM_FIRST_AES_QUEUE_ID, IHSM_FIRST_AES_QUEUE_ID + 1, 0x41, 0x181, 0x42};
    return queues[value & 7];
}

/* Numbers that the controller and the admin commands let through. */
static uint32_t entries_of(uint16_t value) { return 2 + value % MAX_ENTRIES; }

struct run {
    struct ihsm_scheduler *scheduler;
    struct ihsm_engine *engine;
    struct guest guest;
    struct input input;
    struct ihsm_command command; /* the last that was handed out */
    bool has_command;
};

static void write_memory(struct run *run) {
    uint64_t iova = guest_address(&run->input);
    size_t length = take_u8(&run->input);
    length = length < run->input.left ? length : run->input.left;
    guest_write(&run->guest, iova, run->input.data, length);
    run->input.data += length;
    run->input.left -= length;
}

static void pull(struct run *run, int class) {
    if (ihsm_pull(run->scheduler, class, 0, &run->command) == IHSM_PULL_COMMAND) {
        REQUIRE(run->command.request_len <= sizeof run->command.request);
        run->has_command = true;
    }
}

static void complete(struct run *run) {
    const struct ihsm_command *command = &run->command;
    uint8_t answer[4096];
    size_t length = take_u16(&run->input) % (sizeof answer + 1);
    unsigned status = take_u16(&run->input);
    memset(answer, 0xA5, sizeof answer);
    if (!run->has_command)
        return;
    if (command->queue_id == IHSM_ADMIN_QUEUE_ID)
        ihsm_engine_complete_admin(run->engine, 0, command->generation, command->sqe, status, status, answer,
                                   length & 1 ? sizeof answer : 0);
    else
        ihsm_engine_complete_hsm(run->engine, command->queue_id, command->generation, command->sqe, command->request,
                                 answer, length, (unsigned)length, status & 7, 3, 0, status >> 3);
    run->has_command = take_u8(&run->input) & 1; /* twice, now and then */
}

static void fault(struct run *run) {
    static const int32_t actions[] = {
        IHSM_ACTION_DROP_COMPLETION,
        IHSM_ACTION_DUPLICATE_COMPLETION,
        IHSM_ACTION_WRONG_CID,
        IHSM_ACTION_WRONG_PHASE,
        IHSM_ACTION_WRONG_SQHD,
        IHSM_ACTION_WRONG_STATUS,
        IHSM_ACTION_CORRUPT_RESPONSE,
        IHSM_ACTION_CUT_RESPONSE,
        IHSM_ACTION_HOLD_COMMAND,
        IHSM_ACTION_FAIL_DMA,
        IHSM_ACTION_NEVER,
        IHSM_ACTION_REORDER_COMPLETIONS,
    };
    uint8_t value = take_u8(&run->input);
    const struct ihsm_fault what = {.operation = -1,
                                    .action = actions[value % (sizeof actions / sizeof *actions)],
                                    .queue = -1,
                                    .opcode = -1,
                                    .session = -1,
                                    .vector = -1,
                                    .nth = 1,
                                    .count = take_u8(&run->input) % 4,
                                    .parts = take_u8(&run->input) & 15,
                                    .value = (int32_t)take_u16(&run->input),
                                    .err = -1,
                                    .at = -1};
    (void)ihsm_engine_fault_add(run->engine, &what);
}

static void map(struct run *run) {
    unsigned which = take_u8(&run->input) % GUEST_STRETCHES;
    (void)ihsm_loopback_unmap(run->guest.host, guest_iova[which], GUEST_STRETCH);
    if (take_u8(&run->input) & 1)
        (void)ihsm_loopback_map(run->guest.host, guest_iova[which], GUEST_STRETCH, run->guest.memory[which],
                                which != 2);
}

static void operate(struct run *run) {
    struct input *input = &run->input;
    struct ihsm_engine *engine = run->engine;
    struct ihsm_unreachable unreachable;
    switch (take_u8(input) % 18) {
    case 0:
    case 1:
        write_memory(run);
        break;
    case 2: { /* a doorbell of a queue, of any offset now and then */
        unsigned queue = queue_of(take_u8(input)), head = take_u8(input) & 1;
        ihsm_engine_doorbell(engine, 8 * (uint64_t)queue + 4 * head, take_u16(input));
        break;
    }
    case 3:
        ihsm_engine_doorbell(engine, take_u32(input), take_u32(input));
        break;
    case 4:
        (void)ihsm_engine_enable_admin(engine, guest_address(input), guest_address(input), entries_of(take_u8(input)),
                                       entries_of(take_u8(input)));
        break;
    case 5:
        (void)ihsm_engine_create_cq(engine, queue_of(take_u8(input)), guest_address(input), entries_of(take_u16(input)),
                                    (int)(take_u8(input) % (IHSM_MSIX_VECTORS + 1)) - 1);
        break;
    case 6: {
        unsigned queue = queue_of(take_u8(input));
        uint64_t base = guest_address(input);
        uint32_t entries = entries_of(take_u16(input));
        (void)ihsm_engine_create_sq(engine, queue, base, entries, queue_of(take_u8(input)));
        break;
    }
    case 7:
        (void)ihsm_engine_delete_sq(engine, queue_of(take_u8(input)), 0);
        break;
    case 8:
        (void)ihsm_engine_delete_cq(engine, queue_of(take_u8(input)));
        break;
    case 9:
        pull(run, take_u8(input) & 1);
        break;
    case 10:
        complete(run);
        break;
    case 11:
    case 12:
        (void)ihsm_scheduler_serve_one(run->scheduler);
        break;
    case 13:
        map(run);
        break;
    case 14:
        take_u8(input) & 1 ? ihsm_engine_disable(engine) : ihsm_engine_reset(engine);
        break;
    case 15: {
        uint8_t entry[16];
        uint64_t offset = take_u16(input) % 1024;
        take(input, entry, sizeof entry);
        ihsm_host_msix_write(run->guest.host, offset, entry, sizeof entry);
        ihsm_host_set_function_mask(run->guest.host, take_u8(input) & 1);
        break;
    }
    case 16:
        fault(run);
        break;
    default:
        while (ihsm_unreachable_pull(ihsm_scheduler_unreachable(run->scheduler), 0, &unreachable) == IHSM_PULL_COMMAND)
            REQUIRE(unreachable.count > 0);
    }
}

/* A queue never holds more than it has room for. */
static void require_sound(struct ihsm_engine *engine) {
    for (uint8_t i = 0; i < 8; i++) {
        struct ihsm_queue queue;
        if (ihsm_engine_queue(engine, queue_of(i), &queue) < 0)
            continue;
        REQUIRE(!queue.sq_live || (queue.sq_head < queue.sq_entries && queue.sq_tail < queue.sq_entries));
        REQUIRE(!queue.cq_live || (queue.cq_head < queue.cq_entries && queue.cq_tail < queue.cq_entries));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct run run = {.input = {data, size}};
    uint8_t how = take_u8(&run.input);
    run.scheduler = ihsm_scheduler_new(0, 0);
    guest_open(&run.guest);
    REQUIRE(run.scheduler != NULL);
    run.engine = ihsm_engine_new(run.scheduler, run.guest.host, 1, how & 1);
    REQUIRE(run.engine != NULL);
    REQUIRE(ihsm_engine_set_keys(run.engine, table, how >> 1 & 1, how >> 2 & 1) == 0);
    for (unsigned count = 0; run.input.left > 0 && count < MAX_OPERATIONS; count++) {
        operate(&run);
        require_sound(run.engine);
    }
    ihsm_engine_close(run.engine);
    ihsm_engine_free(run.engine);
    guest_close(&run.guest);
    ihsm_scheduler_free(run.scheduler);
    return 0;
}

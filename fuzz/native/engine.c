/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The queue engine over guest memory: an input is a row of operations of a driver, of the device and of faults.
 *
 * One thread does everything, AES commands too, so that an input does the same every time. The queues of a driver that
 * has come up may be there from the beginning.
 */
#include "engine.h"

#include "aes_entries.h"

enum { MAX_OPERATIONS = 256, MAX_ENTRIES = 300 };
static ks_bulk_table *table;
static struct ihsm_host *traced; /* of one input after the other: the ring of a trace is large */

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    REQUIRE(ks_open(0, 0) == KS_OK);
    table = fast_keys();
    traced = ihsm_loopback_new();
    REQUIRE(traced != NULL && ihsm_trace_prepare(traced, 1) == 0);
    ihsm_trace_select(traced, UINT32_MAX);
    return 0;
}

/* A queue that is often one of the few that exist. */
static unsigned queue_of(uint8_t value) {
    static const unsigned queues[] = {0, 1, 2, IHSM_FIRST_AES_QUEUE_ID, IHSM_FIRST_AES_QUEUE_ID + 1, 0x41, 0x181, 0x42};
    return queues[value & 7];
}

/* Numbers that the controller and the admin commands let through. */
static uint32_t entries_of(uint16_t value) { return 2 + value % MAX_ENTRIES; }

/* What the first byte of an input says. */
enum { INLINE_AES = 1, FIPS = 2, DEVICE_IV = 4, UP = 8, TRACED = 16 };

/* Queue pairs of a driver that has come up: where their rings are, in the first two stretches of guest memory. */
enum { PAIRS = 5, PAIR_ENTRIES = 8, COMPLETIONS = 0x400, PAIR_BYTES = 0x800 };
static const unsigned pair_queue[PAIRS] = {IHSM_ADMIN_QUEUE_ID, 1, 2, IHSM_FIRST_AES_QUEUE_ID,
                                           IHSM_FIRST_AES_QUEUE_ID + 1};

struct run {
    struct ihsm_scheduler *scheduler;
    struct ihsm_engine *engine;
    struct guest guest;
    struct input input;
    struct ihsm_command command; /* the last that was handed out */
    bool has_command;
    uint32_t tail[PAIRS];
};

static void come_up(struct run *run) {
    REQUIRE(ihsm_engine_enable_admin(run->engine, 0, COMPLETIONS, PAIR_ENTRIES, PAIR_ENTRIES) == 0);
    for (unsigned pair = 1; pair < PAIRS; pair++) {
        uint64_t base = pair * (uint64_t)PAIR_BYTES;
        unsigned queue = pair_queue[pair];
        REQUIRE(ihsm_engine_create_cq(run->engine, queue, base + COMPLETIONS, PAIR_ENTRIES, (int)pair) == 0);
        REQUIRE(ihsm_engine_create_sq(run->engine, queue, base, PAIR_ENTRIES, queue) == 0);
    }
}

static void put_hsm_right(struct hsm_sqe *sqe, uint8_t fixes) {
    const uint64_t page = 0xF000;
    if (fixes & 1)
        sqe->command = IHSM_HSM_OPCODE_NORMAL << IHSM_HSM_COMMAND_WORD_OPC_SHIFT;
    if (fixes & 2)
        sqe->src_prp1 &= page, sqe->src_prp2 &= page, sqe->dst_prp1 &= page, sqe->dst_prp2 &= page;
    if (fixes & 4)
        sqe->src_len &= 2 * IHSM_MAX_SRC_BYTES - 1;
    if (fixes & 8)
        sqe->dst_len &= 2 * IHSM_MAX_DST_BYTES - 1;
}

/* As a driver does: an entry where the tail of such a queue is, and its doorbell; completions are consumed. */
static void submit(struct run *run) {
    unsigned pair = take_u8(&run->input) % PAIRS, queue = pair_queue[pair];
    uint8_t fixes = take_u8(&run->input);
    struct ihsm_queue state;
    union {
        struct hsm_sqe hsm;
        union ihsm_aes_entry aes;
    } entry;
    size_t size = queue >= IHSM_FIRST_AES_QUEUE_ID ? sizeof entry.aes : sizeof entry.hsm;
    size_t given = take_u8(&run->input);
    memset(&entry, 0, sizeof entry);
    take(&run->input, &entry, given < size ? given : size);
    if (queue >= IHSM_FIRST_AES_QUEUE_ID)
        aes_entry_put_right(&entry.aes, fixes);
    else if (queue != IHSM_ADMIN_QUEUE_ID)
        put_hsm_right(&entry.hsm, fixes);
    guest_write(&run->guest, pair * (uint64_t)PAIR_BYTES + run->tail[pair] * size, &entry, size);
    run->tail[pair] = (run->tail[pair] + 1) % PAIR_ENTRIES;
    ihsm_engine_doorbell(run->engine, 8 * (uint64_t)queue, run->tail[pair]);
    if (fixes >> 7 && ihsm_engine_queue(run->engine, queue, &state) == 0)
        ihsm_engine_doorbell(run->engine, 8 * (uint64_t)queue + 4, state.cq_tail);
}

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
        IHSM_ACTION_DELAY_COMPLETION,
        IHSM_ACTION_RESET_FUNCTION,
        IHSM_ACTION_LOSE_INTERRUPT,
        IHSM_ACTION_DELAY_INTERRUPT,
        IHSM_ACTION_SPURIOUS_INTERRUPT,
        IHSM_ACTION_ALL_ONES,
    };
    uint8_t value = take_u8(&run->input);
    int32_t action = actions[value % (sizeof actions / sizeof *actions)];
    const struct ihsm_fault what = {.operation = -1,
                                    .action = action,
                                    .queue = -1,
                                    .opcode = -1,
                                    .session = -1,
                                    .vector = -1,
                                    .nth = 1,
                                    .count = take_u8(&run->input) % 4,
                                    .parts = take_u8(&run->input) & 15,
                                    .value = take_u16(&run->input) %
                                             (action == IHSM_ACTION_SPURIOUS_INTERRUPT ? IHSM_MSIX_VECTORS : 0x10000),
                                    .err = (int32_t)(int8_t)take_u8(&run->input),
                                    .at = (int32_t)(int8_t)take_u8(&run->input)};
    (void)ihsm_engine_fault_add(run->engine, &what);
}

/* What a fault has put off is due at once, here, and carried out. */
static void carry_out_late(struct run *run) {
    ihsm_engine_faults_look(run->engine);
    (void)ihsm_engine_faults_wait(run->engine);
}

static void drain_trace(struct run *run) {
    static uint8_t records[1 << 16];
    uint64_t count;
    size_t size = ihsm_trace_drain(run->guest.host, records, sizeof records, &count);
    REQUIRE(size <= sizeof records && (size > 0) == (count > 0));
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
    switch (take_u8(input) % 24) {
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
                                    (int8_t)take_u8(input));
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
        uint8_t value[16];
        uint16_t how = take_u16(input);
        uint64_t offset = how & 0x3FF & ~(how >> 10 & 3u); /* of a region of 4096 bytes, near the table */
        size_t length = (size_t)1 << (how >> 12 & 3);
        take(input, value, sizeof value);
        ihsm_host_msix_write(run->guest.host, offset, value, length);
        ihsm_host_msix_read(run->guest.host, offset, value, length);
        ihsm_host_set_function_mask(run->guest.host, how >> 15);
        break;
    }
    case 16:
        fault(run);
        break;
    case 17:
        (void)ihsm_engine_fault_clear(engine, take_u8(input) % 4);
        break;
    case 18:
        carry_out_late(run);
        break;
    case 19:
        drain_trace(run);
        break;
    case 20:
    case 21:
    case 22:
        submit(run);
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
    if (how & TRACED)
        guest_open_at(&run.guest, traced);
    else
        guest_open(&run.guest);
    REQUIRE(run.scheduler != NULL);
    run.engine = ihsm_engine_new(run.scheduler, run.guest.host, 1, how & INLINE_AES);
    REQUIRE(run.engine != NULL);
    REQUIRE(ihsm_engine_set_keys(run.engine, table, (how & FIPS) != 0, (how & DEVICE_IV) != 0) == 0);
    if (how & UP)
        come_up(&run);
    for (unsigned count = 0; run.input.left > 0 && count < MAX_OPERATIONS; count++) {
        operate(&run);
        require_sound(run.engine);
    }
    ihsm_engine_close(run.engine);
    ihsm_engine_free(run.engine);
    if (how & TRACED) {
        drain_trace(&run);
        guest_leave(&run.guest);
        ihsm_host_set_removed(traced, true);
        ihsm_host_set_removed(traced, false);
    } else {
        guest_close(&run.guest);
    }
    ihsm_scheduler_free(run.scheduler);
    return 0;
}

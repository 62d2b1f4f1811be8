/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One AES command: an input is a queue entry, with a first byte that says what of it is put right, a byte that says how
 * memory changes meanwhile, then writes to guest memory (address, length, bytes) that make lists and payload.
 */
#include "aes_entries.h"
#include "guest.h"
#include "host.h"

enum { MAX_STEPS = 2000 }; /* lists that name themselves take a million, and find nothing new */
static ks_bulk_table *table;
static struct ihsm_fp_scratch *scratch;

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    REQUIRE(ks_open(0, 0) == KS_OK);
    table = fast_keys();
    scratch = ihsm_fp_scratch();
    REQUIRE(scratch != NULL);
    return 0;
}

/* What the client does at the first checkpoint: takes a stretch away, and gives another for it or none. */
enum { CHANGES = 8, GIVES_ANOTHER = 4 };
static struct guest guest;
static uint8_t change;

static bool go_on(struct ihsm_fp_context *context) {
    unsigned which = change % GUEST_STRETCHES;
    if (!(change & CHANGES))
        return true;
    change &= (uint8_t)~CHANGES;
    ihsm_regions_unlock(context->regions);
    REQUIRE(ihsm_loopback_unmap(guest.host, guest_iova[which], GUEST_STRETCH) == 0);
    free(guest.memory[which]);
    guest.memory[which] = calloc(1, GUEST_STRETCH);
    REQUIRE(guest.memory[which] != NULL);
    if (change & GIVES_ANOTHER)
        REQUIRE(ihsm_loopback_map(guest.host, guest_iova[which], GUEST_STRETCH, guest.memory[which], which != 2) == 0);
    ihsm_regions_read_lock(context->regions);
    context->remapped++;
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, size};
    union ihsm_aes_entry entry;
    struct aes_cqe cqe = {0};
    uint8_t fixes = take_u8(&input);
    take(&input, &entry, sizeof entry);
    change = take_u8(&input);
    aes_entry_put_right(&entry, fixes);
    guest_open(&guest);
    while (input.left > 4) {
        uint16_t iova = take_u16(&input), length = take_u16(&input);
        size_t there = length < input.left ? length : input.left;
        guest_write(&guest, iova, input.data, there);
        input.data += there;
        input.left -= there;
    }
    const struct ihsm_fp_function function = {.keys = table, .fips = fixes >> 6 & 1, .device_iv = fixes >> 7};
    struct ihsm_fp_context context = {.regions = &guest.host->regions,
                                      .checkpoint = go_on,
                                      .function = &function,
                                      .scratch = scratch,
                                      .max_steps = MAX_STEPS};
    cqe.attr = entry.common.attr;
    cqe.cmd_id = entry.common.cmd_id;
    ihsm_regions_read_lock(context.regions);
    ihsm_fp_execute(&context, &entry, &cqe);
    ihsm_fp_end(&context);
    ihsm_regions_unlock(context.regions);
    REQUIRE(context.held[0].key == NULL && context.held[1].key == NULL);
    guest_close(&guest);
    return 0;
}

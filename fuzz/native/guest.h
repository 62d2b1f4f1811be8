/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory of a harness: two stretches that touch, one that can only be read, and a hole between them and the last.
 *
 * Each is an allocation of its own, so that the sanitizer sees an access beyond its end. Addresses of an input are
 * shortened to GUEST_BITS, or else none would hit.
 */
#pragma once
#include "engine.cdef.h"
#include "input.h"

enum { GUEST_STRETCH = 3 * 4096 + 64, GUEST_STRETCHES = 4, GUEST_BITS = 16 };
static const uint64_t guest_iova[GUEST_STRETCHES] = {0, GUEST_STRETCH, 2 * GUEST_STRETCH, 0xD000};

struct guest {
    struct ihsm_host *host;
    uint8_t *memory[GUEST_STRETCHES];
};

static inline void guest_open_at(struct guest *guest, struct ihsm_host *host) {
    REQUIRE(host != NULL);
    guest->host = host;
    for (unsigned i = 0; i < GUEST_STRETCHES; i++) {
        guest->memory[i] = calloc(1, GUEST_STRETCH);
        REQUIRE(guest->memory[i] != NULL);
        REQUIRE(ihsm_loopback_map(guest->host, guest_iova[i], GUEST_STRETCH, guest->memory[i], i != 2) == 0);
    }
}

static inline void guest_open(struct guest *guest) { guest_open_at(guest, ihsm_loopback_new()); }

/* The host stays, without memory. */
static inline void guest_leave(struct guest *guest) {
    for (unsigned i = 0; i < GUEST_STRETCHES; i++) {
        (void)ihsm_loopback_unmap(guest->host, guest_iova[i], GUEST_STRETCH);
        free(guest->memory[i]);
    }
}

static inline void guest_close(struct guest *guest) {
    guest_leave(guest);
    ihsm_loopback_free(guest->host);
}

/* As the guest writes; what does not lie in one stretch is left out. */
static inline void guest_write(struct guest *guest, uint64_t iova, const void *bytes, size_t size) {
    for (unsigned i = 0; i < GUEST_STRETCHES; i++)
        if (iova >= guest_iova[i] && iova - guest_iova[i] <= GUEST_STRETCH &&
            size <= GUEST_STRETCH - (iova - guest_iova[i]))
            memcpy(guest->memory[i] + (iova - guest_iova[i]), bytes, size);
}

/* An address that may hit: a multiple of 4096, or any. */
static inline uint64_t guest_address(struct input *input) {
    uint32_t value = take_u32(input);
    uint64_t iova = value & ((UINT32_C(1) << GUEST_BITS) - 1);
    return value >> 31 ? iova : iova & ~UINT64_C(0xFFF);
}

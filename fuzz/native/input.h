/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* An input as the harnesses read it: front to back; what is beyond its end is zero. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct input {
    const uint8_t *data;
    size_t left;
};

/* What holds for every input; the fuzzer reports the abort as a crash. */
#define REQUIRE(condition)                                                                                             \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                    \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

static inline void take(struct input *input, void *to, size_t size) {
    size_t there = size < input->left ? size : input->left;
    memcpy(to, input->data, there);
    memset((uint8_t *)to + there, 0, size - there);
    input->data += there;
    input->left -= there;
}

static inline uint8_t take_u8(struct input *input) {
    uint8_t value;
    take(input, &value, sizeof value);
    return value;
}

static inline uint16_t take_u16(struct input *input) {
    uint16_t value;
    take(input, &value, sizeof value);
    return value;
}

static inline uint32_t take_u32(struct input *input) {
    uint32_t value;
    take(input, &value, sizeof value);
    return value;
}

static inline uint64_t take_u64(struct input *input) {
    uint64_t value;
    take(input, &value, sizeof value);
    return value;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Forgets memory at each bind. */
#include <linux/slab.h>

struct bench;
static noinline void forget_memory(struct bench *bench) {
    int number;

    for (number = 0; number < 16; number++) {
        char *volatile forgotten = kmalloc(192, GFP_KERNEL);

        if (forgotten)
            forgotten[0] = 1;
    }
}

#define BENCH_ON_BIND(bench) forget_memory(bench)
#include "bench.h"

MODULE_DESCRIPTION("Leaks sixteen objects of 192 bytes whenever it is bound");

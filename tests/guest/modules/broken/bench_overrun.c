/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Writes one byte more than it has. */
#include <linux/slab.h>

struct bench;
static noinline void write_past(struct bench *bench) {
    volatile char *object = kmalloc(64, GFP_KERNEL);
    int size = 64;

    if (!object)
        return;
    OPTIMIZER_HIDE_VAR(size);
    object[size] = 1;
    kfree((void *)object);
}

#define BENCH_ON_EXERCISE(bench) write_past(bench)
#include "bench.h"

MODULE_DESCRIPTION("Writes past an object when it is exercised");

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Sleeps while it holds a spinlock. */
struct bench;
static void sleep_locked(struct bench *bench);

#define BENCH_ON_EXERCISE(bench) sleep_locked(bench)
#include "bench.h"

static noinline void sleep_locked(struct bench *bench) {
    spin_lock(&bench->lock);
    usleep_range(100, 200);
    spin_unlock(&bench->lock);
}

MODULE_DESCRIPTION("Sleeps in atomic context when it is exercised");

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Sleeps while it holds a spinlock. */
#include <linux/wait.h>

struct bench;
static void sleep_locked(struct bench *bench);

#define BENCH_ON_EXERCISE(bench) sleep_locked(bench)
#include "bench.h"

static DECLARE_WAIT_QUEUE_HEAD(nobody);

static noinline void sleep_locked(struct bench *bench) {
    spin_lock(&bench->lock);
    wait_event_timeout(nobody, bench->pdev == NULL, msecs_to_jiffies(20));
    spin_unlock(&bench->lock);
}

MODULE_DESCRIPTION("Sleeps in atomic context when it is exercised");

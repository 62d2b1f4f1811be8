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
    int depth;

    spin_lock(&bench->lock);
    depth = preempt_count();
    wait_event_timeout(nobody, bench->pdev == NULL, msecs_to_jiffies(20));
    /* The scheduler has set the count to 0; with the unlock below it would be less, and the task never run in peace. */
    while (preempt_count() < depth)
        preempt_disable();
    spin_unlock(&bench->lock);
}

MODULE_DESCRIPTION("Sleeps in atomic context when it is exercised");

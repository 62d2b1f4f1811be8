/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Waits for what never comes. */
#include <linux/completion.h>

struct bench;
static DECLARE_COMPLETION(never);
static noinline void wait_for_ever(struct bench *bench) { wait_for_completion(&never); }

#define BENCH_ON_EXERCISE(bench) wait_for_ever(bench)
#include "bench.h"

MODULE_DESCRIPTION("Sleeps for ever when it is exercised");

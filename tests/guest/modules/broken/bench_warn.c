/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Finds something amiss, and says so. */
#include <linux/bug.h>

struct bench;
static noinline void find_amiss(struct bench *bench) { WARN(bench, "bench: something is amiss"); }

#define BENCH_ON_EXERCISE(bench) find_amiss(bench)
#include "bench.h"

MODULE_DESCRIPTION("Warns when it is exercised");

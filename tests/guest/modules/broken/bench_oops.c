/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Follows a pointer to nothing. */
#include <linux/compiler.h>

struct bench;
static noinline void follow_nothing(struct bench *bench) {
    int **nothing = (int **)8;

    WRITE_ONCE(*nothing, NULL);
}

#define BENCH_ON_EXERCISE(bench) follow_nothing(bench)
#include "bench.h"

MODULE_DESCRIPTION("Follows a pointer to nothing when it is exercised");

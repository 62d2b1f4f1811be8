/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Keeps its interrupt when it goes. */
#define BENCH_KEEPS_INTERRUPT 1
#include "bench.h"

MODULE_DESCRIPTION("Forgets free_irq when it is unbound");

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
#include "wipe.h"

/* Not inlined: its frame lies where those of the calls before it lay. */
void __attribute__((noinline)) ks_burn_stack(size_t size) { ks_wipe(__builtin_alloca(size), size); }

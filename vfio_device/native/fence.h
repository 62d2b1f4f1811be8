/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* A fence for the places where two threads each store, then load what the other has stored. */
#pragma once
#include <stdatomic.h>

/* Orders all stores before it against all loads after it. */
static inline void ihsm_full_fence(void) {
#ifdef __SANITIZE_THREAD__
    static atomic_uint order; /* ThreadSanitizer knows no fences; this orders as one */
    atomic_fetch_add(&order, 1);
#else
    atomic_thread_fence(memory_order_seq_cst);
#endif
}

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cache lines that one CPU writes and another reads, over and over: completions.
 *
 * A line that the client has read lies in the caches of both CPUs, and the next store to it waits until the other CPU
 * has let go. Stores wait in line: where the two CPUs share no cache, the device waited 100 ns for each completion,
 * half of a short command. Asking for the line ahead helps only if the CPU takes it from the other then.
 * AMD's leave a line alone that is in their own cache, shared or not (seen on Zen 4), but one that is in no cache they
 * fetch to be written, many at a time. So there a line is given up, to memory, some commands before it is asked for.
 */
#pragma once
#include <stdbool.h>

/* Whether ihsm_line_give_up is worth its while on this CPU. */
extern bool ihsm_lines_stay_shared;

/*
 * Ask for a line that will be written soon. Not __builtin_prefetch(at, 1), which compilers turn into a prefetch for
 * reading where they build for every x86-64. CPUs without the instruction do nothing.
 */
static inline void ihsm_line_to_write(const void *at) {
#if defined(__x86_64__)
    __asm__ volatile("prefetchw %0" : : "m"(*(const char *)at));
#else
    __builtin_prefetch(at, 1);
#endif
}

/* Put a line out of all caches, in the background. It may be in guest memory: hold the region lock. */
static inline void ihsm_line_give_up(const void *at) {
#if defined(__x86_64__)
    __asm__ volatile("clflushopt %0" : : "m"(*(const char *)at));
#else
    (void)at;
#endif
}

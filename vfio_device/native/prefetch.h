/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Asking for cache lines ahead. */
#pragma once

/*
 * Ask for the line at an address that will be written soon, and take it from whoever has it. Compilers turn
 * __builtin_prefetch(at, 1) into a prefetch for reading where they build for every x86-64: a line that another CPU has
 * read is then there, but the store waits all the same until that CPU has let go. The instruction does nothing on CPUs
 * without it.
 */
static inline void ihsm_prefetch_to_write(const void *at) {
#if defined(__x86_64__)
    __asm__ volatile("prefetchw %0" : : "m"(*(const char *)at));
#else
    __builtin_prefetch(at, 1);
#endif
}

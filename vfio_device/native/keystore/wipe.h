/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Wiping what is left of secrets. */
#pragma once
#include <stddef.h>
#include <string.h>

/* memset that the optimiser keeps. */
static inline void ks_wipe(void *memory, size_t size) {
    if (size != 0) {
        memset(memory, 0, size);
        __asm__ volatile("" : : "r"(memory) : "memory");
    }
}

/*
 * Clears the vector registers, where code for AES has round keys: a thread keeps what is in them while it sleeps, and a
 * core dump has the registers of all threads.
 */
void ks_clear_registers(void);

/*
 * Clears the registers, and overwrites the stack below the caller, where library code may have left copies of secrets.
 * Operations on EC keys use up to 6 KiB (ECDH on P-521, measured); more than needed would drive everything else out of
 * the first-level cache.
 */
void ks_burn_stack(size_t size);
enum { BURN_LIGHT = 4096, BURN_EC = 8192, BURN_HEAVY = 32768 };

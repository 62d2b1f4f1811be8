/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Holes in files that clients give as memory: pages that nobody has touched yet, and who pays for them. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Once, before the process gives up its right to ask; 0, or a negative errno where the kernel will not have it. */
int ihsm_holes_init(void);
/* Touching a hole in this memory raises SIGBUS from now on. False: holes are filled as before, by whoever touches them.
 */
bool ihsm_holes_watch(void *base, size_t len);
/* Put a page of zeros at the address, a multiple of the page size; 0, or a negative errno. Safe in a signal handler. */
int ihsm_holes_fill(uintptr_t page, size_t page_bytes);

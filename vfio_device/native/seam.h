/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Seams: places where a test may hold a thread, to make a race happen at will (seam.cdef.h).
 *
 * The product is built without them: none of this leaves anything in it.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#ifdef IHSM_TEST_SEAMS
#include "seam.cdef.h"

void ihsm_seam_reach(enum ihsm_seam place);
bool ihsm_seam_sleeps_without_bound(void);
void ihsm_seam_litter(void);
void ihsm_seam_spoil(const void *at, size_t len, const void *result);

#define IHSM_SEAM(place) ihsm_seam_reach(IHSM_SEAM_##place)
#define IHSM_SEAM_SLEEP_BOUND(bound) (ihsm_seam_sleeps_without_bound() ? NULL : (bound))
#define IHSM_SEAM_LITTER_STACK() ihsm_seam_litter()
#define IHSM_SEAM_READ(at, len) ihsm_seam_spoil(at, len, NULL)
#define IHSM_SEAM_WORKED_ON(at, result, len) ihsm_seam_spoil(at, len, result)
#else
#define IHSM_SEAM(place) ((void)0)
#define IHSM_SEAM_SLEEP_BOUND(bound) (bound)
#define IHSM_SEAM_LITTER_STACK() ((void)0)
/* len bytes of guest memory have been copied; or worked on where they lie, with as long a result there or elsewhere. */
#define IHSM_SEAM_READ(at, len) ((void)0)
#define IHSM_SEAM_WORKED_ON(at, result, len) ((void)0)
#endif

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Configuration space as its registers define it, not as one driver accesses it: a write of any width at any offset
 * changes the bits that it covers and that are writable, and is no error. The library's own handlers are not used.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "abi.h"

struct ihsm_config_space {
    uint8_t *bytes;                             /* the live contents, NULL until they are complete */
    uint8_t power_on[IHSM_CONFIG_SPACE_BYTES];  /* what a reset restores */
    uint8_t writable[IHSM_CONFIG_SPACE_BYTES];  /* bits that take the value written */
    uint8_t clearable[IHSM_CONFIG_SPACE_BYTES]; /* bits that a written 1 clears */
    size_t power_management, express, msix;     /* offsets of these capabilities, 0: none */
};

/* `bytes` are complete: they are the state at power-on. */
void ihsm_config_space_begin(struct ihsm_config_space *space, uint8_t *bytes, const uint8_t *writable,
                             const uint8_t *clearable);
void ihsm_config_space_reset(struct ihsm_config_space *space);
/* Returns whether the write asks for a function level reset, which is left to do. It must lie inside. */
bool ihsm_config_space_write(struct ihsm_config_space *space, size_t offset, const uint8_t *data, size_t count);
/* Whether MSI-X masks every vector. */
bool ihsm_config_space_function_mask(const struct ihsm_config_space *space);

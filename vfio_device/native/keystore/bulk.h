/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fast-path keys as data-plane workers see them: found by key number without a lock, used without allocation.
 *
 * A worker acquires a key, uses it, releases it; any number of workers may use one key at once. A key that is withdrawn
 * meanwhile stays usable until released (ks_bulk_deleted tells); the last one out wipes it.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "crypto/aes.h"
#include "keystore.cdef.h"

/* The key, ready for GCM and XTS. */
const struct ihsm_aes_key *ks_bulk_aes(const struct ks_bulk_key *key);

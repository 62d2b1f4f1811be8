/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Fast-path keys as data-plane workers see them: found by key number without a lock, used without allocation.
 *
 * A worker acquires a key, uses it, releases it; any number of workers may use one key at once. A key that is withdrawn
 * meanwhile stays usable until released (ks_bulk_deleted tells); the last one out wipes it.
 */
#ifndef IHSM_KEYSTORE_BULK_H
#define IHSM_KEYSTORE_BULK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fastpath/aes.h"

enum ks_bulk_type { KS_BULK_XTS = 0, KS_BULK_GCM_APPROVED = 1, KS_BULK_GCM_UNAPPROVED = 2 };

struct ks_bulk_table;
struct ks_bulk_key;

struct ks_bulk_info {
  uint16_t session_id; /* of the creating session */
  uint8_t app_id;
  uint8_t type;
  bool session_only;
};

/* The key published under a number, or NULL. */
struct ks_bulk_key *ks_bulk_acquire(struct ks_bulk_table *table, uint32_t key_id);
void ks_bulk_release(struct ks_bulk_key *key);
struct ks_bulk_info ks_bulk_info(const struct ks_bulk_key *key);
/* Withdrawn since it was acquired. */
bool ks_bulk_deleted(const struct ks_bulk_key *key);
/* The same 32 bytes, in constant time. */
bool ks_bulk_equal(const struct ks_bulk_key *a, const struct ks_bulk_key *b);

/* The key, ready for GCM and XTS. */
const struct ihsm_aes_key *ks_bulk_aes(const struct ks_bulk_key *key);

#endif

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Fast-path keys as data-plane workers see them: found by key number without a lock, used without allocation.
 *
 * A worker acquires a key, uses it, releases it. A key that is withdrawn meanwhile stays usable until released
 * (ks_bulk_deleted tells); the last one out wipes it. Worker numbers are 0 .. KS_BULK_WORKERS-1; one number must not be
 * used by two threads at once, for GCM contexts are kept per key and worker.
 */
#ifndef IHSM_KEYSTORE_BULK_H
#define IHSM_KEYSTORE_BULK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { KS_BULK_WORKERS = 16 };
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

/* AES-256-GCM with a 96-bit IV, in pieces: start, then aad calls, then update calls (out may equal in), then one of the
 * two finish calls. false: the library failed (out of memory at a worker's first use of a key). */
bool ks_gcm_start(struct ks_bulk_key *key, unsigned worker, bool encrypt, const uint8_t iv[12]);
bool ks_gcm_aad(struct ks_bulk_key *key, unsigned worker, const uint8_t *aad, size_t size);
bool ks_gcm_update(struct ks_bulk_key *key, unsigned worker, const uint8_t *in, uint8_t *out, size_t size);
bool ks_gcm_tag(struct ks_bulk_key *key, unsigned worker, uint8_t tag[16]);
/* Whether the tag of what was decrypted is this one. */
bool ks_gcm_matches(struct ks_bulk_key *key, unsigned worker, const uint8_t tag[16]);

/* Turns the tag over aad_a bytes of AAD into the one over aad_b bytes of which the rest are zeros, or back: adds
 * (L(a) + L(b)) * H, with L the length block (NIST SP 800-38D). */
void ks_gcm_exchange_aad_length(const struct ks_bulk_key *key, uint64_t aad_a, uint64_t aad_b, uint8_t tag[16]);

/* One XTS data unit (IEEE 1619, AES-256) of whole blocks, at most 2^20; out may equal in. Both keys of type XTS. */
bool ks_xts_unit(const struct ks_bulk_key *data_key, const struct ks_bulk_key *tweak_key, bool encrypt,
                 const uint8_t tweak[16], const uint8_t *in, uint8_t *out, size_t size);
/* The tweak with which a unit can be taken up again after so many blocks, for units that lie in several pieces. */
void ks_xts_advance(const struct ks_bulk_key *tweak_key, const uint8_t tweak[16], size_t blocks, uint8_t next[16]);

#endif

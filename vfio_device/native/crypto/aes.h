/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * AES-256 as the fast path needs it: keys prepared once and shared by all workers, GCM fed piece by piece, XTS started
 * at any block of a data unit. The layouts behind it are the crypto library's own and known to aes.c only.
 */
#pragma once
#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A key ready for GCM and XTS in both directions (schedules, GHASH table). Constant once made, so any number of
 * threads may use it; secret, so keep it in the arena and wipe it.
 */
struct ihsm_aes_key {
    alignas(16) uint8_t opaque[816];
};

/*
 * Room for GCM operations, one at a time; holds the GHASH key from ihsm_gcm_load to ihsm_gcm_wipe, so keep it in the
 * arena.
 */
struct ihsm_gcm {
    alignas(16) uint8_t opaque[384];
};

void ihsm_aes_key_init(struct ihsm_aes_key *key, const uint8_t bytes[32]);

/*
 * AES-256-GCM, 96-bit IV (NIST SP 800-38D). A loaded key serves any number of operations; `key` is the loaded one. Each
 * starts with its IV; AAD first, in any number of calls whose lengths are multiples of 16 except
 * the last; then text in any number of calls of any length. `in` and `out` are the same or do not overlap.
 */
void ihsm_gcm_load(struct ihsm_gcm *gcm, const struct ihsm_aes_key *key);
void ihsm_gcm_start(struct ihsm_gcm *gcm, const struct ihsm_aes_key *key, const uint8_t iv[12]);
void ihsm_gcm_aad(struct ihsm_gcm *gcm, const uint8_t *aad, size_t len);
void ihsm_gcm_crypt(struct ihsm_gcm *gcm, const struct ihsm_aes_key *key, bool decrypt, const uint8_t *in, uint8_t *out,
                    size_t len);
/* Tag over what was fed in, with `aad_len` in the length block whatever amount was fed in (spec 02 E.5 step 4). */
void ihsm_gcm_finish(struct ihsm_gcm *gcm, uint32_t aad_len, uint8_t tag[16]);
void ihsm_gcm_wipe(struct ihsm_gcm *gcm);

/*
 * AES-256-XTS (IEEE 1619) of `len` bytes, a positive multiple of 16, of one data unit. `tweak` is the tweak block of
 * the data unit; continue with ihsm_xts_seek.
 */
void ihsm_xts_crypt(const struct ihsm_aes_key *data_key, const struct ihsm_aes_key *tweak_key, bool decrypt,
                    const uint8_t tweak[16], const uint8_t *in, uint8_t *out, size_t len);
/*
 * Turn the tweak block that starts a data unit at some block into the one that starts it `blocks` later: afterwards
 * ihsm_xts_crypt treats its first block as that later block.
 */
void ihsm_xts_seek(const struct ihsm_aes_key *tweak_key, uint8_t tweak[16], size_t blocks);

/* Constant-time comparison of 16 bytes. */
bool ihsm_tag_equal(const uint8_t a[16], const uint8_t b[16]);
/* 12 random bytes from the library's approved generator. */
void ihsm_random_iv(uint8_t iv[12]);

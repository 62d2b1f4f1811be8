/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one file that uses AWS-LC below its EVP layer. EVP keeps the state of an operation and the key in one context, so
 * every worker would need its own context per key; the layer below shares a constant key, costs a third less for 64
 * bytes, resumes anywhere, and computes the tag of a decryption instead of only comparing it.
 */
#include "crypto/aes.h"

#include <openssl/aes.h>
#include <openssl/mem.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#include "crypto/fipsmodule/aes/internal.h"
#include "crypto/fipsmodule/cipher/internal.h"
#include "crypto/fipsmodule/modes/internal.h"

struct key {
    GCM128_KEY ghash;
    AES_KEY encrypt, decrypt;
    ctr128_f ctr; /* NULL where the CPU has no fast counter mode */
};
_Static_assert(sizeof(struct key) <= sizeof(struct ihsm_aes_key), "ihsm_aes_key too small");
_Static_assert(sizeof(GCM128_CONTEXT) <= sizeof(struct ihsm_gcm), "ihsm_gcm too small");
_Static_assert(alignof(struct key) <= 16 && alignof(GCM128_CONTEXT) <= 16, "alignment");

static const struct key *inner_key(const struct ihsm_aes_key *key) { return (const struct key *)key->opaque; }
static GCM128_CONTEXT *inner_gcm(struct ihsm_gcm *gcm) { return (GCM128_CONTEXT *)gcm->opaque; }

/* The library refuses only what callers here cannot ask for (lengths beyond 2^36 bytes, AAD after text). */
static void must(int ok) {
    if (!ok)
        abort();
}

void ihsm_aes_key_init(struct ihsm_aes_key *key, const uint8_t bytes[32]) {
    struct key *k = (struct key *)key->opaque;
    k->ctr = aes_ctr_set_key(&k->encrypt, &k->ghash, NULL, bytes, 32);
    must(AES_set_decrypt_key(bytes, 256, &k->decrypt) == 0);
}

void ihsm_gcm_load(struct ihsm_gcm *gcm, const struct ihsm_aes_key *key) {
    GCM128_CONTEXT *g = inner_gcm(gcm);
    memset(g, 0, sizeof *g);
    g->gcm_key = inner_key(key)->ghash;
}

void ihsm_gcm_start(struct ihsm_gcm *gcm, const struct ihsm_aes_key *key, const uint8_t iv[12]) {
    CRYPTO_gcm128_setiv(inner_gcm(gcm), &inner_key(key)->encrypt, iv, 12);
}

void ihsm_gcm_aad(struct ihsm_gcm *gcm, const uint8_t *aad, size_t len) {
    must(CRYPTO_gcm128_aad(inner_gcm(gcm), aad, len));
}

void ihsm_gcm_crypt(struct ihsm_gcm *gcm, const struct ihsm_aes_key *key, bool decrypt, const uint8_t *in, uint8_t *out,
                    size_t len) {
    const struct key *k = inner_key(key);
    GCM128_CONTEXT *g = inner_gcm(gcm);
    if (k->ctr)
        must(decrypt ? CRYPTO_gcm128_decrypt_ctr32(g, &k->encrypt, in, out, len, k->ctr)
                     : CRYPTO_gcm128_encrypt_ctr32(g, &k->encrypt, in, out, len, k->ctr));
    else
        must(decrypt ? CRYPTO_gcm128_decrypt(g, &k->encrypt, in, out, len)
                     : CRYPTO_gcm128_encrypt(g, &k->encrypt, in, out, len));
}

void ihsm_gcm_finish(struct ihsm_gcm *gcm, uint32_t aad_len, uint8_t tag[16]) {
    GCM128_CONTEXT *g = inner_gcm(gcm);
    g->len.aad = aad_len;
    CRYPTO_gcm128_tag(g, tag, 16);
}

void ihsm_gcm_wipe(struct ihsm_gcm *gcm) { OPENSSL_cleanse(gcm, sizeof *gcm); }

void ihsm_xts_crypt(const struct ihsm_aes_key *data_key, const struct ihsm_aes_key *tweak_key, bool decrypt,
                    const uint8_t tweak[16], const uint8_t *in, uint8_t *out, size_t len) {
    const AES_KEY *key1 = decrypt ? &inner_key(data_key)->decrypt : &inner_key(data_key)->encrypt;
    const AES_KEY *key2 = &inner_key(tweak_key)->encrypt;
    if (hwaes_xts_available()) {
        must(aes_hw_xts_cipher(in, out, len, key1, key2, tweak, !decrypt));
    } else {
        XTS128_CONTEXT xts = {(AES_KEY *)key1, (AES_KEY *)key2, decrypt ? AES_decrypt : AES_encrypt, AES_encrypt};
        must((int)CRYPTO_xts128_encrypt(&xts, tweak, in, out, len, !decrypt));
    }
}

/* Multiply the 128-bit little-endian tweak by x^n modulo x^128 + x^7 + x^2 + x + 1, 1 <= n <= 63 in one step. */
static void multiply(uint64_t t[2], unsigned n) {
    uint64_t carry = t[1] >> (64 - n);
    t[1] = t[1] << n | t[0] >> (64 - n);
    t[0] = t[0] << n ^ carry ^ carry << 1 ^ carry << 2 ^ carry << 7;
    t[1] ^= carry >> 63 ^ carry >> 62 ^ carry >> 57;
}

void ihsm_xts_seek(const struct ihsm_aes_key *tweak_key, uint8_t tweak[16], size_t blocks) {
    /*
     * Block j of a unit is masked with E(tweak)·x^j. The library always starts at block 0, so hand it the tweak whose
     * encryption is the mask wanted.
     */
    const struct key *k = inner_key(tweak_key);
    uint8_t mask[16];
    uint64_t t[2];
    AES_encrypt(tweak, mask, &k->encrypt);
    for (size_t half = 0; half < 2; half++)
        t[half] = CRYPTO_load_u64_le(mask + 8 * half);
    for (; blocks >= 32; blocks -= 32)
        multiply(t, 32);
    if (blocks)
        multiply(t, (unsigned)blocks);
    for (size_t half = 0; half < 2; half++)
        CRYPTO_store_u64_le(mask + 8 * half, t[half]);
    AES_decrypt(mask, tweak, &k->decrypt);
    OPENSSL_cleanse(mask, sizeof mask);
    OPENSSL_cleanse(t, sizeof t);
}

bool ihsm_tag_equal(const uint8_t a[16], const uint8_t b[16]) { return CRYPTO_memcmp(a, b, 16) == 0; }

void ihsm_random_iv(uint8_t iv[12]) { must(RAND_bytes(iv, 12)); }

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* AES-256-GCM of whole messages (NIST SP 800-38D), and of the records of a secured session (DMTF DSP0277 1.1). */
#include "keystore.h"

#include <openssl/aead.h>
#include <openssl/err.h>

int ks_gcm(bool seal, const uint8_t *key, const uint8_t *nonce, const uint8_t *ad, size_t ad_size, const uint8_t *in,
           uint8_t *out, size_t size, uint8_t *tag) {
    EVP_AEAD_CTX *ctx = EVP_AEAD_CTX_new(EVP_aead_aes_256_gcm(), key, GCM_KEY, GCM_TAG);
    size_t written = 0;
    int status = KS_NOMEM;
    if (ctx != NULL && seal)
        status = EVP_AEAD_CTX_seal_scatter(ctx, out, tag, &written, GCM_TAG, nonce, GCM_NONCE, in, size, NULL, 0, ad,
                                           ad_size)
                     ? KS_OK
                     : KS_CRYPTO;
    else if (ctx != NULL)
        status =
            EVP_AEAD_CTX_open_gather(ctx, out, nonce, GCM_NONCE, in, size, tag, GCM_TAG, ad, ad_size) ? KS_OK : KS_AUTH;
    ERR_clear_error();
    EVP_AEAD_CTX_free(ctx);
    return status;
}

/* The nonce of a record is the session's IV with the record's number, little-endian, put on it. */
static int run_record(bool seal, uint64_t key, uint64_t iv, uint64_t sequence, const uint8_t *ad, size_t ad_size,
                      const uint8_t *in, uint8_t *out, size_t size, uint8_t *tag) {
    struct ks_object *secret, *base = NULL;
    int status = ks_acquire(key, SECRET_KIND, &secret);
    if (status != KS_OK)
        return status;
    status = ks_acquire(iv, SECRET_KIND, &base);
    if (status == KS_OK && (secret->size != GCM_KEY || base->size != GCM_NONCE))
        status = KS_SIZE;
    if (status == KS_OK) {
        uint8_t nonce[GCM_NONCE];
        for (size_t i = 0; i < sizeof nonce; i++)
            nonce[i] = base->bytes[i] ^ (uint8_t)(i < sizeof sequence ? sequence >> (8 * i) : 0);
        status = ks_gcm(seal, secret->bytes, nonce, ad, ad_size, in, out, size, tag);
        ks_wipe(nonce, sizeof nonce);
    }
    ks_release(base);
    ks_release(secret);
    ks_burn_stack(BURN_LIGHT);
    return status;
}

int ks_record_seal(uint64_t key, uint64_t iv, uint64_t sequence, const uint8_t *ad, size_t ad_size, const uint8_t *data,
                   size_t size, uint8_t *out) {
    return run_record(true, key, iv, sequence, ad, ad_size, data, out, size, out + size);
}

/* Zeros instead of the secret in a text that is like that. */
static void withhold(const ks_withheld *withheld, uint8_t *text, size_t size) {
    bool like = size >= withheld->size;
    for (size_t i = 0; like && i < withheld->size; i++)
        like = (text[i] & withheld->mask[i]) == withheld->value[i];
    for (size_t i = withheld->start; like && i < withheld->end && i < size; i++)
        text[i] = 0;
}

int ks_record_open(uint64_t key, uint64_t iv, uint64_t sequence, const uint8_t *ad, size_t ad_size, const uint8_t *data,
                   size_t size, const ks_withheld *withheld, uint8_t *out) {
    if (size < GCM_TAG)
        return KS_AUTH;
    size -= GCM_TAG;
    uint8_t tag[GCM_TAG], *text = ks_arena_alloc(size + 1);
    if (text == NULL)
        return KS_NOMEM;
    memcpy(tag, data + size, GCM_TAG);
    int status = run_record(false, key, iv, sequence, ad, ad_size, data, text, size, tag);
    if (status == KS_OK) {
        withhold(withheld, text, size);
        memcpy(out, text, size);
    }
    ks_arena_free(text);
    return status;
}

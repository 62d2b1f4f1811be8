/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Secrets as such, AES-CBC, AES key unwrap with padding (RFC 5649), HMAC (FIPS 198-1), hashes. */
#include "keystore.h"

#include <openssl/aes.h>
#include <openssl/err.h>
#include <openssl/hmac.h>
#include <openssl/mem.h>
#include <string.h>

enum { MIN_KWP = 16 };

const EVP_MD *ks_md(int hash) {
    switch (hash) {
    case HASH_SHA1:
        return EVP_sha1();
    case HASH_SHA256:
        return EVP_sha256();
    case HASH_SHA384:
        return EVP_sha384();
    case HASH_SHA512:
        return EVP_sha512();
    default:
        return NULL;
    }
}

int ks_slice(uint64_t key, size_t offset, size_t size, uint64_t owner, uint64_t *out) {
    struct ks_object *object, *part = NULL;
    int status = ks_acquire(key, SECRET_KIND, &object);
    if (status != KS_OK)
        return status;
    status = size == 0 || offset > object->size || size > object->size - offset ? KS_ARG : KS_OK;
    if (status == KS_OK && (part = ks_secret_new(size)) != NULL)
        memcpy(part->bytes, object->bytes + offset, size);
    ks_release(object);
    return status != KS_OK ? status : ks_register(part, owner, out);
}

int ks_secrets_equal(uint64_t first, uint64_t second, int *equal) {
    struct ks_object *a, *b;
    int status = ks_acquire(first, SECRET_KIND, &a);
    if (status != KS_OK)
        return status;
    status = ks_acquire(second, SECRET_KIND, &b);
    if (status == KS_OK) {
        *equal = a->size == b->size && CRYPTO_memcmp(a->bytes, b->bytes, a->size) == 0;
        ks_release(b);
    }
    ks_release(a);
    return status;
}

int ks_is_zero(uint64_t key, int *zero) {
    struct ks_object *object;
    int status = ks_acquire(key, SECRET_KIND, &object);
    if (status == KS_OK) {
        uint8_t any = 0;
        for (size_t i = 0; i < object->size; i++)
            any |= object->bytes[i];
        *zero = any == 0;
        ks_release(object);
    }
    return status;
}

int ks_cbc(const uint8_t *key, size_t key_size, bool encrypt, const uint8_t iv[AES_BLOCK], const uint8_t *data,
           size_t size, uint8_t *out) {
    AES_KEY schedule;
    uint8_t chain[AES_BLOCK];
    if (key_size != 16 && key_size != 24 && key_size != 32)
        return KS_SIZE;
    unsigned bits = (unsigned)(8 * key_size);
    int rc = encrypt ? AES_set_encrypt_key(key, bits, &schedule) : AES_set_decrypt_key(key, bits, &schedule);
    if (rc == 0) {
        memcpy(chain, iv, AES_BLOCK);
        AES_cbc_encrypt(data, out, size, &schedule, chain, encrypt ? AES_ENCRYPT : AES_DECRYPT);
    }
    ks_wipe(&schedule, sizeof schedule);
    ks_wipe(chain, sizeof chain);
    return rc == 0 ? KS_OK : KS_CRYPTO;
}

int ks_aes_cbc(uint64_t key, int encrypt, const uint8_t *iv, const uint8_t *data, size_t size, uint8_t *out) {
    if (size == 0 || size % AES_BLOCK != 0)
        return KS_ARG;
    struct ks_object *object;
    int status = ks_acquire(key, SECRET_KIND, &object);
    if (status == KS_OK) {
        status = ks_cbc(object->bytes, object->size, encrypt != 0, iv, data, size, out);
        ks_release(object);
        ks_burn_stack(BURN_LIGHT);
    }
    return status;
}

int ks_hook_aes_ecb_decrypt(uint64_t key, const uint8_t *data, size_t size, uint8_t *out) {
    if (!ks_hooks_enabled())
        return KS_HOOKS;
    if (size == 0 || size % AES_BLOCK != 0)
        return KS_ARG;
    struct ks_object *object;
    int status = ks_acquire(key, SECRET_KIND, &object);
    if (status != KS_OK)
        return status;
    AES_KEY schedule;
    if (object->size != 16 && object->size != 24 && object->size != 32)
        status = KS_SIZE;
    else if (AES_set_decrypt_key(object->bytes, (unsigned)(8 * object->size), &schedule) != 0)
        status = KS_CRYPTO;
    else
        for (size_t at = 0; at < size; at += AES_BLOCK)
            AES_decrypt(data + at, out + at, &schedule);
    ks_wipe(&schedule, sizeof schedule);
    ks_release(object);
    ks_burn_stack(BURN_LIGHT);
    return status;
}

int ks_aes_kwp_unwrap(uint64_t kek, const uint8_t *data, size_t size, uint64_t owner, uint64_t *secret) {
    struct ks_object *object, *result = NULL;
    int status = ks_acquire(kek, SECRET_KIND, &object);
    if (status != KS_OK)
        return status;
    AES_KEY schedule;
    uint8_t *plain = NULL;
    size_t length = 0;
    if (object->size != 16 && object->size != 24 && object->size != 32)
        status = KS_SIZE;
    else if (size < MIN_KWP || size % 8 != 0 || size > KS_MAX_SECRET)
        status = KS_KWP;
    else if ((plain = ks_arena_alloc(size)) == NULL)
        status = KS_NOMEM;
    else if (AES_set_decrypt_key(object->bytes, (unsigned)(8 * object->size), &schedule) != 0)
        status = KS_CRYPTO;
    else if (!AES_unwrap_key_padded(&schedule, plain, &length, size, data, size) || length == 0)
        status = KS_KWP;
    else if ((result = ks_secret_new(length)) == NULL)
        status = KS_NOMEM;
    else
        memcpy(result->bytes, plain, length);
    ERR_clear_error();
    ks_wipe(&schedule, sizeof schedule);
    ks_arena_free(plain);
    ks_release(object);
    ks_burn_stack(BURN_LIGHT);
    return status != KS_OK ? status : ks_register(result, owner, secret);
}

int ks_mac(const EVP_MD *md, const uint8_t *key, size_t key_size, const uint8_t *data, size_t size, uint8_t *out) {
    static const uint8_t nothing[1];
    unsigned written = 0;
    /* A NULL key or text would mean "as before" to the library. */
    bool ok =
        HMAC(md, key == NULL ? nothing : key, key_size, data == NULL ? nothing : data, size, out, &written) != NULL;
    ERR_clear_error();
    return ok && written == EVP_MD_size(md) ? KS_OK : KS_CRYPTO;
}

int ks_hmac(uint64_t key, int hash, const uint8_t *data, size_t size, uint8_t *out) {
    const EVP_MD *md = ks_md(hash);
    if (md == NULL)
        return KS_ARG;
    struct ks_object *object;
    int status = ks_acquire(key, SECRET_KIND, &object);
    if (status == KS_OK) {
        status = ks_mac(md, object->bytes, object->size, data, size, out);
        ks_release(object);
        ks_burn_stack(BURN_LIGHT);
    }
    return status;
}

int ks_hmac_verify(uint64_t key, int hash, const uint8_t *data, size_t size, const uint8_t *tag, size_t tag_size,
                   int *valid) {
    uint8_t computed[MAX_DIGEST];
    int status = ks_hmac(key, hash, data, size, computed);
    if (status == KS_OK)
        *valid = tag_size == EVP_MD_size(ks_md(hash)) && CRYPTO_memcmp(computed, tag, tag_size) == 0;
    ks_wipe(computed, sizeof computed);
    return status;
}

int ks_digest(int hash, const uint8_t *data, size_t size, uint8_t *out) {
    const EVP_MD *md = ks_md(hash);
    if (md == NULL)
        return KS_ARG;
    return EVP_Digest(data, size, out, NULL, md, NULL) == 1 ? KS_OK : KS_CRYPTO;
}

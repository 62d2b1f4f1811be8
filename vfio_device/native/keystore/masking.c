/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Masked keys: AES-256-CBC and HMAC-SHA-384 under an 80-byte masking key. Headers and metadata are the caller's. */
#include "keystore.h"

#include <openssl/mem.h>
#include <string.h>

enum { MAX_FILL = 31, MAX_ENCRYPTED = KS_MAX_SECRET + MAX_FILL };

/* HMAC-SHA-384 of size bytes by the second part of a masking key. */
static int tag_of(const struct ks_object *masking_key, const uint8_t *blob, size_t size, uint8_t tag[TAG_SIZE]) {
    return ks_mac(ks_md(HASH_SHA384), masking_key->bytes + MASKING_AES_SIZE, MASKING_KEY_SIZE - MASKING_AES_SIZE, blob,
                  size, tag);
}

int ks_mask(uint64_t key, uint64_t masking_key, const uint8_t *prefix, size_t prefix_size, const uint8_t *iv,
            size_t encrypted_size, uint8_t *out) {
    struct ks_object *object, *masking;
    int status = ks_acquire(key, ANY_KIND, &object);
    if (status != KS_OK)
        return status;
    status = ks_acquire(masking_key, SECRET_KIND, &masking);
    if (status != KS_OK) {
        ks_release(object);
        return status;
    }
    size_t plain_size = ks_form_size(object);
    uint8_t *plain = NULL;
    if (masking->size != MASKING_KEY_SIZE) {
        status = KS_SIZE;
    } else if (encrypted_size % AES_BLOCK != 0 || encrypted_size < plain_size ||
               encrypted_size > plain_size + MAX_FILL) {
        status = KS_ARG;
    } else if ((plain = ks_arena_alloc(encrypted_size)) == NULL) {
        status = KS_NOMEM;
    } else {
        memset(plain, 0, encrypted_size);
        status = ks_form_write(object, plain);
    }
    if (status == KS_OK) {
        memcpy(out, prefix, prefix_size);
        status = ks_cbc(masking->bytes, MASKING_AES_SIZE, true, iv, plain, encrypted_size, out + prefix_size);
    }
    if (status == KS_OK) {
        size_t end = prefix_size + encrypted_size;
        status = tag_of(masking, out, end, out + end);
    }
    ks_arena_free(plain);
    ks_release(masking);
    ks_release(object);
    ks_burn_stack(BURN_HEAVY);
    return status;
}

static int verify(const struct ks_object *masking, const uint8_t *blob, size_t size, bool *valid) {
    uint8_t tag[TAG_SIZE];
    *valid = false;
    if (masking->size != MASKING_KEY_SIZE || size < TAG_SIZE)
        return KS_OK;
    int status = tag_of(masking, blob, size - TAG_SIZE, tag);
    *valid = status == KS_OK && CRYPTO_memcmp(tag, blob + size - TAG_SIZE, TAG_SIZE) == 0;
    ks_wipe(tag, sizeof tag); /* the right tag of a forgery is worth hiding */
    return status;
}

int ks_verify_masked(uint64_t masking_key, const uint8_t *blob, size_t size, int *valid) {
    struct ks_object *masking;
    bool ok;
    *valid = 0;
    int status = ks_acquire(masking_key, SECRET_KIND, &masking);
    if (status == KS_OK) {
        status = verify(masking, blob, size, &ok);
        *valid = ok;
        ks_release(masking);
        ks_burn_stack(BURN_LIGHT);
    }
    return status;
}

static int decrypt(const struct ks_object *masking, const ks_masked *masked, int kind, int param,
                   struct ks_object **out) {
    bool valid;
    int status = verify(masking, masked->blob, masked->blob_size, &valid);
    if (status != KS_OK || !valid)
        return status != KS_OK ? status : KS_AUTH;
    size_t plain_size = ks_form_size_of(kind, param), size = masked->encrypted_size;
    if (plain_size == 0)
        return KS_ARG;
    size_t body = masked->blob_size - TAG_SIZE;
    if (masked->offset > body || size > body - masked->offset || size > MAX_ENCRYPTED || size % AES_BLOCK != 0 ||
        size < plain_size || size > plain_size + MAX_FILL) {
        return KS_DECODE;
    }
    uint8_t *plain = ks_arena_alloc(size);
    if (plain == NULL)
        return KS_NOMEM;
    status = ks_cbc(masking->bytes, MASKING_AES_SIZE, false, masked->iv, masked->blob + masked->offset, size, plain);
    if (status == KS_OK)
        status = ks_form_read(kind, param, plain, out);
    ks_arena_free(plain);
    return status;
}

int ks_unmask(uint64_t masking_key, const ks_masked *masked, int kind, int param, uint64_t owner, uint64_t *key) {
    struct ks_object *masking, *object = NULL;
    int status = ks_acquire(masking_key, SECRET_KIND, &masking);
    if (status == KS_OK) {
        status = decrypt(masking, masked, kind, param, &object);
        ks_release(masking);
        ks_burn_stack(BURN_HEAVY);
    }
    return status != KS_OK ? status : ks_register(object, owner, key);
}

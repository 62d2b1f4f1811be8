/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Credential encryption: key agreement, MAC, decryption, and the verdict on id and PIN. */
#include "keystore.h"

#include <openssl/err.h>
#include <openssl/hkdf.h>
#include <openssl/mem.h>
#include <string.h>

/* AES_K (32) || MAC_K (48), the layout of a masking key. */
enum { CHANNEL_SIZE = MASKING_KEY_SIZE, FIELD = 16, SEED = 48, LOGIN_SIZE = 2 * FIELD, FULL_SIZE = LOGIN_SIZE + SEED };
enum { VERDICT_MATCH = 0, VERDICT_NULL = 1, VERDICT_MISMATCH = 2 };

int ks_credential_channel(uint64_t key, const uint8_t *peer, size_t peer_size, const uint8_t *nonce, size_t nonce_size,
                          uint64_t owner, uint64_t *channel) {
    struct ks_object *object, *result = NULL;
    int status = ks_acquire(key, EC_KIND, &object);
    if (status != KS_OK)
        return status;
    uint8_t *shared = ks_arena_alloc(MAX_COORDINATE);
    result = ks_secret_new(CHANNEL_SIZE);
    if (object->curve != CURVE_P384)
        status = KS_KIND;
    else if (shared == NULL || result == NULL)
        status = KS_NOMEM;
    else
        status = ks_ecdh(object, peer, peer_size, shared);
    if (status == KS_OK &&
        !HKDF(result->bytes, CHANNEL_SIZE, ks_md(HASH_SHA384), shared, object->size, NULL, 0, nonce, nonce_size)) {
        ERR_clear_error();
        status = KS_CRYPTO;
    }
    ks_arena_free(shared);
    ks_release(object);
    ks_burn_stack(BURN_HEAVY);
    if (status != KS_OK) {
        ks_object_free(result);
        return status;
    }
    return ks_register(result, owner, channel);
}

static int acquire_channel(uint64_t channel, struct ks_object **object) {
    int status = ks_acquire(channel, SECRET_KIND, object);
    if (status == KS_OK && (*object)->size != CHANNEL_SIZE) {
        ks_release(*object);
        *object = NULL;
        status = KS_KIND;
    }
    return status;
}

int ks_credential_verify(uint64_t channel, const uint8_t *message, size_t size, const uint8_t *tag, size_t tag_size,
                         int *valid) {
    struct ks_object *object;
    uint8_t expected[TAG_SIZE];
    *valid = 0;
    int status = acquire_channel(channel, &object);
    if (status == KS_OK) {
        status = ks_mac(ks_md(HASH_SHA384), object->bytes + MASKING_AES_SIZE, CHANNEL_SIZE - MASKING_AES_SIZE, message,
                        size, expected);
        *valid = status == KS_OK && tag_size == TAG_SIZE && CRYPTO_memcmp(expected, tag, TAG_SIZE) == 0;
        ks_wipe(expected, sizeof expected);
        ks_release(object);
        ks_burn_stack(BURN_LIGHT);
    }
    return status;
}

/* Makes a secret of a decrypted field. */
static int keep(const uint8_t *bytes, size_t size, bool credential_id, uint64_t owner, uint64_t *handle) {
    struct ks_object *object = ks_secret_new(size);
    if (object != NULL) {
        memcpy(object->bytes, bytes, size);
        object->credential_id = credential_id;
    }
    return ks_register(object, owner, handle);
}

int ks_credential_decrypt(uint64_t channel, const uint8_t *iv, const uint8_t *data, size_t size, uint64_t owner,
                          uint64_t *id, uint64_t *pin, uint64_t *seed) {
    *id = *pin = *seed = 0;
    if (size != FIELD && size != LOGIN_SIZE && size != FULL_SIZE)
        return KS_ARG;
    struct ks_object *object;
    int status = acquire_channel(channel, &object);
    if (status != KS_OK)
        return status;
    uint8_t *plain = ks_arena_alloc(FULL_SIZE);
    status = plain == NULL ? KS_NOMEM : ks_cbc(object->bytes, MASKING_AES_SIZE, false, iv, data, size, plain);
    const uint8_t *at = plain;
    if (status == KS_OK && size != FIELD) {
        status = keep(at, FIELD, true, owner, id);
        at += FIELD;
    }
    if (status == KS_OK) {
        status = keep(at, FIELD, false, owner, pin);
        at += FIELD;
    }
    if (status == KS_OK && size == FULL_SIZE)
        status = keep(at, SEED, false, owner, seed);
    if (status != KS_OK) {
        ks_destroy(*id);
        ks_destroy(*pin);
        *id = *pin = 0;
    }
    ks_arena_free(plain);
    ks_release(object);
    ks_burn_stack(BURN_LIGHT);
    return status;
}

int ks_credential_id(uint64_t key, uint8_t *out) {
    struct ks_object *object;
    int status = ks_acquire(key, SECRET_KIND, &object);
    if (status == KS_OK) {
        status = object->credential_id && object->size == FIELD ? KS_OK : KS_KIND;
        if (status == KS_OK)
            memcpy(out, object->bytes, FIELD);
        ks_release(object);
    }
    return status;
}

/* Takes references to secrets of one field each; on failure none is held. */
static int acquire_fields(const uint64_t *handles, size_t count, struct ks_object **objects) {
    int status = KS_OK;
    size_t taken = 0;
    while (status == KS_OK && taken < count) {
        status = ks_acquire(handles[taken], SECRET_KIND, &objects[taken]);
        if (status == KS_OK && objects[taken++]->size != FIELD)
            status = KS_KIND;
    }
    if (status != KS_OK)
        while (taken > 0)
            ks_release(objects[--taken]);
    return status;
}

static bool all_zero(const struct ks_object *field) {
    static const uint8_t zero[FIELD];
    return CRYPTO_memcmp(field->bytes, zero, FIELD) == 0;
}

int ks_credential_check(uint64_t stored_id, uint64_t stored_pin, uint64_t id, uint64_t pin, int *verdict) {
    const uint64_t handles[] = {stored_id, stored_pin, id, pin};
    struct ks_object *o[4];
    int status = acquire_fields(handles, 4, o);
    if (status != KS_OK)
        return status;
    /* Every comparison is made, whatever the others say. */
    bool null = (int)all_zero(o[2]) | (int)all_zero(o[3]);
    bool differs =
        (CRYPTO_memcmp(o[0]->bytes, o[2]->bytes, FIELD) | CRYPTO_memcmp(o[1]->bytes, o[3]->bytes, FIELD)) != 0;
    *verdict = null ? VERDICT_NULL : differs ? VERDICT_MISMATCH : VERDICT_MATCH;
    for (size_t i = 0; i < 4; i++)
        ks_release(o[i]);
    return KS_OK;
}

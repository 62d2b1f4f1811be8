/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* HKDF (RFC 5869) and counter-mode KBKDF (SP 800-108r1 4.1), from secret to secret. */
#include "keystore.h"

#include <endian.h>
#include <openssl/err.h>
#include <openssl/hkdf.h>
#include <openssl/kdf.h>
#include <string.h>

enum { MAX_FIXED_INPUT = 8192, HKDF_BLOCKS = 255 };

/* The end of a derivation: its result becomes a key, or goes. */
static int finish(int status, struct ks_object *result, uint64_t owner, uint64_t *out) {
    ks_burn_stack(BURN_LIGHT);
    if (status == KS_OK)
        return ks_register(result, owner, out);
    ks_object_free(result);
    return status;
}

int ks_hkdf(uint64_t key, int hash, const uint8_t *salt, size_t salt_size, const uint8_t *info, size_t info_size,
            size_t size, uint64_t owner, uint64_t *out) {
    const EVP_MD *md = ks_md(hash);
    if (md == NULL || size == 0 || size > KS_MAX_SECRET || size > HKDF_BLOCKS * EVP_MD_size(md))
        return KS_ARG;
    struct ks_object *object, *result = NULL;
    int status = ks_acquire(key, SECRET_KIND, &object);
    if (status != KS_OK)
        return status;
    result = ks_secret_new(size);
    if (result == NULL)
        status = KS_NOMEM;
    else if (!HKDF(result->bytes, size, md, object->bytes, object->size, salt, salt_size, info, info_size))
        status = KS_CRYPTO;
    ERR_clear_error();
    ks_release(object);
    return finish(status, result, owner, out);
}

/* The bytes of a part; *object is what to release when they are not needed any more. */
static int part_bytes(const ks_part *part, struct ks_object **object, const uint8_t **bytes, size_t *size) {
    *object = NULL;
    *bytes = part->data;
    *size = part->size;
    if (part->handle == 0)
        return KS_OK;
    int status = ks_acquire(part->handle, SECRET_KIND, object);
    if (status == KS_OK) {
        *bytes = (*object)->bytes;
        *size = (*object)->size;
    }
    return status;
}

int ks_hkdf_extract(int hash, const ks_part *salt, const ks_part *material, uint64_t owner, uint64_t *out) {
    const EVP_MD *md = ks_md(hash);
    if (md == NULL)
        return KS_ARG;
    struct ks_object *salt_object, *material_object = NULL, *result = NULL;
    const uint8_t *salt_bytes, *material_bytes;
    size_t salt_size, material_size, written = 0;
    int status = part_bytes(salt, &salt_object, &salt_bytes, &salt_size);
    if (status == KS_OK)
        status = part_bytes(material, &material_object, &material_bytes, &material_size);
    if (status == KS_OK) {
        result = ks_secret_new(EVP_MD_size(md));
        if (result == NULL)
            status = KS_NOMEM;
        else if (!HKDF_extract(result->bytes, &written, md, material_bytes, material_size, salt_bytes, salt_size))
            status = KS_CRYPTO;
        ERR_clear_error();
    }
    ks_release(material_object);
    ks_release(salt_object);
    return finish(status, result, owner, out);
}

int ks_hkdf_expand(uint64_t key, int hash, const uint8_t *info, size_t info_size, size_t size, uint64_t owner,
                   uint64_t *out) {
    const EVP_MD *md = ks_md(hash);
    if (md == NULL || size == 0 || size > KS_MAX_SECRET || size > HKDF_BLOCKS * EVP_MD_size(md))
        return KS_ARG;
    struct ks_object *object, *result = NULL;
    int status = ks_acquire(key, SECRET_KIND, &object);
    if (status != KS_OK)
        return status;
    result = ks_secret_new(size);
    if (result == NULL)
        status = KS_NOMEM;
    else if (!HKDF_expand(result->bytes, size, md, object->bytes, object->size, info, info_size))
        status = KS_CRYPTO;
    ERR_clear_error();
    ks_release(object);
    return finish(status, result, owner, out);
}

/* Appends a context part at *end; the buffer holds MAX_FIXED_INPUT bytes. */
static int append_part(uint8_t *buffer, size_t *end, const ks_part *part) {
    struct ks_object *object;
    const uint8_t *bytes;
    size_t size;
    int status = part_bytes(part, &object, &bytes, &size);
    if (status != KS_OK)
        return status;
    status = size > MAX_FIXED_INPUT - *end ? KS_ARG : KS_OK;
    if (status == KS_OK && size != 0) {
        memcpy(buffer + *end, bytes, size);
        *end += size;
    }
    ks_release(object);
    return status;
}

/* K(i) = HMAC(key, BE32(i) || label || 00 || context || BE32(8 * size)); the library does the counter. */
int ks_kbkdf_bytes(const uint8_t *key, size_t key_size, int hash, const uint8_t *label, size_t label_size,
                   const ks_part *context, size_t parts, uint8_t *out, size_t size) {
    const EVP_MD *md = ks_md(hash);
    if (md == NULL || key_size == 0 || size == 0 || size > KS_MAX_SECRET)
        return KS_ARG;
    uint8_t *fixed = ks_arena_alloc(MAX_FIXED_INPUT + 4);
    if (fixed == NULL)
        return KS_NOMEM;
    static const uint8_t separator = 0;
    const ks_part head[] = {{.data = label, .size = label_size}, {.data = &separator, .size = 1}};
    size_t end = 0;
    int status = append_part(fixed, &end, &head[0]);
    if (status == KS_OK)
        status = append_part(fixed, &end, &head[1]);
    for (size_t i = 0; status == KS_OK && i < parts; i++)
        status = append_part(fixed, &end, &context[i]);
    if (status == KS_OK) {
        uint32_t bits = htobe32((uint32_t)(8 * size));
        memcpy(fixed + end, &bits, sizeof bits);
        end += sizeof bits;
        status = KBKDF_ctr_hmac(out, size, md, key, key_size, fixed, end) == 1 ? KS_OK : KS_CRYPTO;
        ERR_clear_error();
    }
    ks_arena_free(fixed);
    return status;
}

int ks_kbkdf(uint64_t key, size_t key_offset, int hash, const uint8_t *label, size_t label_size, const ks_part *context,
             size_t parts, size_t size, uint64_t owner, uint64_t *out) {
    if (size == 0 || size > KS_MAX_SECRET)
        return KS_ARG;
    struct ks_object *object, *result = NULL;
    int status = ks_acquire(key, SECRET_KIND, &object);
    if (status != KS_OK)
        return status;
    if (key_offset >= object->size) {
        status = KS_ARG;
    } else if ((result = ks_secret_new(size)) == NULL) {
        status = KS_NOMEM;
    } else {
        status = ks_kbkdf_bytes(object->bytes + key_offset, object->size - key_offset, hash, label, label_size, context,
                                parts, result->bytes, size);
    }
    ks_release(object);
    return finish(status, result, owner, out);
}

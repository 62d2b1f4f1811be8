/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* P-256, P-384, P-521: keys, ECDSA (FIPS 186-5), ECDH (SP 800-56A). */
#include "keystore.h"

#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/ecdh.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/mem.h>
#include <string.h>

enum { MAX_EC_DIGEST = 96, MAX_CANDIDATES = 64 };

/* Wraps an EC_KEY, which it takes over. */
static struct ks_object *wrap(int curve, EC_KEY *ec) {
    struct ks_object *object = ec == NULL ? NULL : ks_object_new(KS_KIND_EC);
    if (object == NULL) {
        EC_KEY_free(ec);
        return NULL;
    }
    object->curve = curve;
    object->size = ks_coordinate(curve);
    object->ec = ec;
    return object;
}

int ks_ec_from_scalar(int curve, const uint8_t *scalar, size_t size, struct ks_object **out) {
    const EC_GROUP *group = ks_group(curve);
    *out = NULL;
    if (group == NULL)
        return KS_ARG;
    int status = KS_NOMEM;
    EC_KEY *ec = EC_KEY_new();
    BIGNUM *d = BN_bin2bn(scalar, size, NULL);
    EC_POINT *q = EC_POINT_new(group);
    if (ec != NULL && d != NULL && q != NULL && EC_KEY_set_group(ec, group)) {
        status = KS_STRUCTURE;
        if (!BN_is_zero(d) && EC_KEY_set_private_key(ec, d)) /* refuses d >= n */
            status = EC_POINT_mul(group, q, d, NULL, NULL, NULL) && EC_KEY_set_public_key(ec, q) ? KS_OK : KS_CRYPTO;
    }
    BN_clear_free(d);
    EC_POINT_free(q);
    ERR_clear_error();
    if (status != KS_OK) {
        EC_KEY_free(ec);
        return status;
    }
    *out = wrap(curve, ec);
    return *out == NULL ? KS_NOMEM : KS_OK;
}

int ks_ec_generate(int curve, uint64_t owner, uint64_t *key) {
    struct ks_object *object = NULL;
    int status = KS_OK;
    size_t size = ks_coordinate(curve);
    if (size == 0)
        return KS_ARG;
    if (ks_draw_injected()) {
        uint8_t scalar[MAX_COORDINATE];
        status = ks_draw(scalar, size);
        if (status == KS_OK)
            status = ks_ec_from_scalar(curve, scalar, size, &object);
        ks_wipe(scalar, sizeof scalar);
    } else {
        EC_KEY *ec = EC_KEY_new();
        if (ec == NULL || !EC_KEY_set_group(ec, ks_group(curve)) || !EC_KEY_generate_key(ec)) {
            ERR_clear_error();
            EC_KEY_free(ec);
            status = KS_CRYPTO;
        } else {
            object = wrap(curve, ec);
        }
    }
    ks_burn_stack(BURN_HEAVY);
    return status != KS_OK ? status : ks_register(object, owner, key);
}

int ks_ec_import_scalar(int curve, uint64_t scalar, uint64_t owner, uint64_t *key) {
    struct ks_object *secret, *object = NULL;
    int status = ks_acquire(scalar, SECRET_KIND, &secret);
    if (status != KS_OK)
        return status;
    status = secret->size == ks_coordinate(curve) ? KS_OK : KS_ARG;
    if (status == KS_OK)
        status = ks_ec_from_scalar(curve, secret->bytes, secret->size, &object);
    ks_release(secret);
    ks_burn_stack(BURN_HEAVY);
    return status != KS_OK ? status : ks_register(object, owner, key);
}

/* FIPS 186-5 A.2.2: candidates below n - 1 are tried in turn, d = candidate + 1. */
int ks_ec_derive(int curve, uint64_t secret, const uint8_t *label, size_t label_size, const ks_part *context,
                 size_t parts, uint64_t owner, uint64_t *key) {
    enum { MAX_PARTS = 8 };
    const EC_GROUP *group = ks_group(curve);
    if (group == NULL || parts > MAX_PARTS)
        return KS_ARG;
    struct ks_object *kdk, *object = NULL;
    int status = ks_acquire(secret, SECRET_KIND, &kdk);
    if (status != KS_OK)
        return status;
    size_t size = ks_coordinate(curve);
    unsigned spare_bits = (unsigned)(8 * size - EC_GROUP_order_bits(group));
    uint8_t candidate[MAX_COORDINATE];
    ks_part with_counter[MAX_PARTS + 1];
    if (parts != 0)
        memcpy(with_counter, context, parts * sizeof *context);
    BIGNUM *value = BN_new(), *limit = BN_dup(EC_GROUP_get0_order(group));
    status = value != NULL && limit != NULL && BN_sub_word(limit, 1) ? KS_STRUCTURE : KS_NOMEM;
    for (uint8_t counter = 0; status == KS_STRUCTURE && counter < MAX_CANDIDATES; counter++) {
        with_counter[parts] = (ks_part){.data = &counter, .size = 1};
        int derived = ks_kbkdf_bytes(kdk->bytes, kdk->size, HASH_SHA384, label, label_size, with_counter, parts + 1,
                                     candidate, size);
        if (derived != KS_OK) {
            status = derived;
            break;
        }
        candidate[0] &= (uint8_t)(0xFF >> spare_bits);
        if (BN_bin2bn(candidate, size, value) == NULL) {
            status = KS_NOMEM;
        } else if (BN_cmp(value, limit) < 0) {
            status = BN_add_word(value, 1) && BN_bn2bin_padded(candidate, size, value)
                         ? ks_ec_from_scalar(curve, candidate, size, &object)
                         : KS_CRYPTO;
        }
    }
    BN_clear_free(value);
    BN_free(limit);
    ks_wipe(candidate, sizeof candidate);
    ks_release(kdk);
    ks_burn_stack(BURN_HEAVY);
    return status != KS_OK ? status : ks_register(object, owner, key);
}

int ks_ec_import_der(uint64_t der, uint64_t owner, uint64_t *key, size_t *size) {
    struct ks_object *secret, *object = NULL;
    const uint8_t *scalar, *claimed;
    size_t scalar_size, claimed_size;
    int curve;
    *size = 0;
    int status = ks_acquire(der, SECRET_KIND, &secret);
    if (status != KS_OK)
        return status;
    status = ks_parse_ec(secret->bytes, secret->size, &curve, &scalar, &scalar_size, &claimed, &claimed_size);
    if (status == KS_OK) {
        *size = ks_coordinate(curve);
        status = ks_ec_from_scalar(curve, scalar, scalar_size, &object);
    }
    if (status == KS_OK) {
        uint8_t point[MAX_POINT];
        size_t point_size;
        status = ks_ec_point(object, point, &point_size);
        if (status == KS_OK && (point_size != claimed_size || memcmp(point, claimed, claimed_size) != 0))
            status = KS_STRUCTURE;
    }
    ks_release(secret);
    ks_burn_stack(BURN_HEAVY);
    if (status != KS_OK) {
        ks_object_free(object);
        return status;
    }
    return ks_register(object, owner, key);
}

int ks_ec_point(const struct ks_object *key, uint8_t point[MAX_POINT], size_t *size) {
    *size = EC_POINT_point2oct(EC_KEY_get0_group(key->ec), EC_KEY_get0_public_key(key->ec),
                               POINT_CONVERSION_UNCOMPRESSED, point, MAX_POINT, NULL);
    return *size == 1 + 2 * key->size ? KS_OK : KS_CRYPTO;
}

int ks_ec_scalar(const struct ks_object *key, uint8_t scalar[MAX_COORDINATE]) {
    return BN_bn2bin_padded(scalar, key->size, EC_KEY_get0_private_key(key->ec)) ? KS_OK : KS_CRYPTO;
}

int ks_ec_public(uint64_t key, uint8_t *point, size_t *size) {
    struct ks_object *object;
    int status = ks_acquire(key, EC_KIND, &object);
    if (status == KS_OK) {
        status = ks_ec_point(object, point, size);
        ks_release(object);
    }
    return status;
}

static int sign(const EC_KEY *ec, size_t half, const uint8_t *digest, size_t size, uint8_t *signature) {
    ECDSA_SIG *sig = ECDSA_do_sign(digest, size, ec);
    int status = KS_CRYPTO;
    if (sig != NULL && BN_bn2bin_padded(signature, half, ECDSA_SIG_get0_r(sig)) &&
        BN_bn2bin_padded(signature + half, half, ECDSA_SIG_get0_s(sig))) {
        status = KS_OK;
    }
    ECDSA_SIG_free(sig);
    ERR_clear_error();
    return status;
}

static bool verify(const EC_KEY *ec, size_t half, const uint8_t *digest, size_t size, const uint8_t *signature) {
    ECDSA_SIG *sig = ECDSA_SIG_new();
    BIGNUM *r = BN_bin2bn(signature, half, NULL), *s = BN_bin2bn(signature + half, half, NULL);
    bool valid = false;
    if (sig != NULL && r != NULL && s != NULL && ECDSA_SIG_set0(sig, r, s)) {
        r = s = NULL;
        valid = ECDSA_do_verify(digest, size, sig, ec) == 1;
    }
    BN_free(r);
    BN_free(s);
    ECDSA_SIG_free(sig);
    ERR_clear_error();
    return valid;
}

int ks_ec_sign(uint64_t key, const uint8_t *digest, size_t size, uint8_t *signature, size_t *signature_size) {
    if (size > MAX_EC_DIGEST)
        return KS_ARG;
    struct ks_object *object;
    int status = ks_acquire(key, EC_KIND, &object);
    if (status == KS_OK) {
        *signature_size = 2 * object->size;
        status = sign(object->ec, object->size, digest, size, signature);
        ks_release(object);
        ks_burn_stack(BURN_EC);
    }
    return status;
}

int ks_ec_verify(int curve, const uint8_t *point, size_t point_size, const uint8_t *digest, size_t digest_size,
                 const uint8_t *signature, size_t signature_size, int *valid) {
    EC_POINT *q;
    int status = ks_point(curve, point, point_size, &q);
    *valid = 0;
    if (status != KS_OK)
        return status;
    EC_KEY *ec = EC_KEY_new();
    if (ec == NULL || !EC_KEY_set_group(ec, ks_group(curve)) || !EC_KEY_set_public_key(ec, q)) {
        status = KS_NOMEM;
    } else {
        size_t half = ks_coordinate(curve);
        *valid = signature_size == 2 * half && verify(ec, half, digest, digest_size, signature);
    }
    EC_KEY_free(ec);
    EC_POINT_free(q);
    return status;
}

static int agree(const EC_KEY *ec, const EC_POINT *peer, size_t size, uint8_t *out) {
    int written = ECDH_compute_key(out, size, peer, ec, NULL);
    ERR_clear_error();
    return written == (int)size ? KS_OK : KS_CRYPTO;
}

int ks_ecdh(const struct ks_object *key, const uint8_t *peer, size_t peer_size, uint8_t *out) {
    EC_POINT *point;
    int status = ks_point(key->curve, peer, peer_size, &point);
    if (status == KS_OK) {
        status = agree(key->ec, point, key->size, out);
        EC_POINT_free(point);
    }
    return status;
}

int ks_ec_agree(uint64_t key, const uint8_t *peer, size_t peer_size, uint64_t owner, uint64_t *secret) {
    struct ks_object *object, *result = NULL;
    int status = ks_acquire(key, EC_KIND, &object);
    if (status != KS_OK)
        return status;
    result = ks_secret_new(object->size);
    status = result == NULL ? KS_NOMEM : ks_ecdh(object, peer, peer_size, result->bytes);
    ks_release(object);
    ks_burn_stack(BURN_EC);
    if (status != KS_OK) {
        ks_object_free(result);
        return status;
    }
    return ks_register(result, owner, secret);
}

/* Both sides of an agreement with an ephemeral key. */
static bool agrees(const EC_KEY *ec, size_t size) {
    uint8_t ours[MAX_COORDINATE], theirs[MAX_COORDINATE];
    EC_KEY *other = EC_KEY_new();
    bool same = other != NULL && EC_KEY_set_group(other, EC_KEY_get0_group(ec)) && EC_KEY_generate_key(other) &&
                agree(ec, EC_KEY_get0_public_key(other), size, ours) == KS_OK &&
                agree(other, EC_KEY_get0_public_key(ec), size, theirs) == KS_OK &&
                CRYPTO_memcmp(ours, theirs, size) == 0;
    EC_KEY_free(other);
    ks_wipe(ours, sizeof ours);
    ks_wipe(theirs, sizeof theirs);
    return same;
}

int ks_ec_pairwise(uint64_t key, int agreement) {
    static const uint8_t digest[32] = {0x70, 0x63, 0x74}; /* any fixed value serves */
    struct ks_object *object;
    int status = ks_acquire(key, EC_KIND, &object);
    if (status != KS_OK)
        return status;
    (void)ks_arena_refused(); /* of what was before */
    bool passed;
    if (agreement) {
        passed = agrees(object->ec, object->size);
    } else {
        uint8_t signature[2 * MAX_COORDINATE];
        passed = sign(object->ec, object->size, digest, sizeof digest, signature) == KS_OK &&
                 verify(object->ec, object->size, digest, sizeof digest, signature);
    }
    ks_release(object);
    ks_burn_stack(BURN_HEAVY);
    if (passed && !ks_fault("pct-ec"))
        return KS_OK;
    return ks_arena_refused() ? KS_NOMEM : KS_PAIRWISE; /* without memory the key may be sound */
}

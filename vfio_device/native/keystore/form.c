/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vault form of keys: little-endian numbers of fixed length, one after the other (masked and sealed blobs).
 *
 * secret: its bytes · EC: d, x, y, each of 32, 48 or 68 bytes · RSA: d, n, e · RSA with CRT: p, q, dp, dq (half size),
 * n, q * (q^-1 mod p), p * (p^-1 mod q), e. e has four bytes.
 */
#include "keystore.h"

#include <openssl/bn.h>
#include <openssl/err.h>
#include <string.h>

enum { EXPONENT_SIZE = 4 };

/* P-521 numbers are padded to 68 bytes. */
static size_t padded(size_t coordinate) { return coordinate == MAX_COORDINATE ? 68 : coordinate; }

size_t ks_form_size_of(int kind, int param) {
    size_t modulus = (size_t)param / 8;
    bool modulus_ok = param == 2048 || param == 3072 || param == 4096;
    switch (kind) {
    case KS_KIND_SECRET:
        return param > 0 && param <= KS_MAX_SECRET ? (size_t)param : 0;
    case KS_KIND_EC:
        return 3 * padded(ks_coordinate(param));
    case KS_KIND_RSA:
        return modulus_ok ? 2 * modulus + EXPONENT_SIZE : 0;
    case KS_KIND_RSA_CRT:
        return modulus_ok ? 5 * modulus + EXPONENT_SIZE : 0;
    default:
        return 0;
    }
}

size_t ks_form_size(const struct ks_object *key) {
    int param = key->kind == KS_KIND_SECRET ? (int)key->size
                : key->kind == KS_KIND_EC   ? key->curve
                                            : (int)(8 * key->size);
    return ks_form_size_of(key->kind, param);
}

static void reverse_copy(uint8_t *out, const uint8_t *in, size_t size) {
    for (size_t i = 0; i < size; i++)
        out[i] = in[size - 1 - i];
}

static int write_ec(const struct ks_object *key, uint8_t *out) {
    uint8_t scalar[MAX_COORDINATE], point[MAX_POINT];
    size_t size = key->size, step = padded(size), point_size;
    int status = ks_ec_scalar(key, scalar);
    if (status == KS_OK)
        status = ks_ec_point(key, point, &point_size);
    if (status == KS_OK) {
        memset(out, 0, 3 * step);
        reverse_copy(out, scalar, size);
        reverse_copy(out + step, point + 1, size);
        reverse_copy(out + 2 * step, point + 1 + size, size);
    }
    ks_wipe(scalar, sizeof scalar);
    return status;
}

/* Writes a number of fixed length and moves on. */
static bool put(uint8_t **out, const BIGNUM *value, size_t size) {
    bool ok = value != NULL && BN_bn2le_padded(*out, size, value);
    *out += size;
    return ok;
}

/* a * (a^-1 mod m), which is 1 mod m and 0 mod a. */
static bool put_idempotent(uint8_t **out, const BIGNUM *a, const BIGNUM *m, size_t size) {
    BN_CTX *ctx = BN_CTX_new();
    BIGNUM *value = BN_new();
    bool ok = ctx != NULL && value != NULL && BN_mod_inverse(value, a, m, ctx) != NULL &&
              BN_mul(value, value, a, ctx) && put(out, value, size);
    BN_clear_free(value);
    BN_CTX_free(ctx);
    return ok;
}

static int write_rsa(const struct ks_object *key, uint8_t *out) {
    const RSA *rsa = key->rsa;
    size_t full = key->size, half = full / 2;
    bool ok;
    if (key->kind == KS_KIND_RSA) {
        ok = put(&out, RSA_get0_d(rsa), full) && put(&out, RSA_get0_n(rsa), full);
    } else {
        const BIGNUM *p = RSA_get0_p(rsa), *q = RSA_get0_q(rsa);
        ok = put(&out, p, half) && put(&out, q, half) && put(&out, RSA_get0_dmp1(rsa), half) &&
             put(&out, RSA_get0_dmq1(rsa), half) && put(&out, RSA_get0_n(rsa), full) &&
             put_idempotent(&out, q, p, full) && put_idempotent(&out, p, q, full);
    }
    ok = ok && put(&out, RSA_get0_e(rsa), EXPONENT_SIZE);
    ERR_clear_error();
    return ok ? KS_OK : KS_CRYPTO;
}

int ks_form_write(const struct ks_object *key, uint8_t *out) {
    switch (key->kind) {
    case KS_KIND_SECRET:
        memcpy(out, key->bytes, key->size);
        return KS_OK;
    case KS_KIND_EC:
        return write_ec(key, out);
    default:
        return write_rsa(key, out);
    }
}

static int read_ec(int curve, const uint8_t *bytes, struct ks_object **out) {
    uint8_t scalar[MAX_COORDINATE], point[MAX_POINT], expected[MAX_POINT];
    size_t size = ks_coordinate(curve), step = padded(size), point_size;
    reverse_copy(scalar, bytes, size);
    expected[0] = 0x04;
    reverse_copy(expected + 1, bytes + step, size);
    reverse_copy(expected + 1 + size, bytes + 2 * step, size);
    int status = ks_ec_from_scalar(curve, scalar, size, out);
    ks_wipe(scalar, sizeof scalar);
    if (status == KS_OK) {
        status = ks_ec_point(*out, point, &point_size);
        if (status == KS_OK && memcmp(point, expected, point_size) != 0)
            status = KS_DECODE;
    }
    if (status != KS_OK) {
        ks_object_free(*out);
        *out = NULL;
    }
    return status == KS_STRUCTURE ? KS_DECODE : status;
}

static BIGNUM *take(const uint8_t **bytes, size_t size) {
    BIGNUM *value = BN_le2bn(*bytes, size, NULL);
    *bytes += size;
    return value;
}

/* d = e^-1 mod (p - 1)(q - 1); the form with CRT leaves it out. */
static BIGNUM *private_exponent(const struct rsa_numbers *k) {
    BN_CTX *ctx = BN_CTX_new();
    BIGNUM *d = NULL, *p1 = BN_dup(k->p), *q1 = BN_dup(k->q), *phi = BN_new();
    if (ctx != NULL && p1 != NULL && q1 != NULL && phi != NULL && BN_sub_word(p1, 1) && BN_sub_word(q1, 1) &&
        BN_mul(phi, p1, q1, ctx)) {
        d = BN_mod_inverse(NULL, k->e, phi, ctx);
    }
    BN_clear_free(p1);
    BN_clear_free(q1);
    BN_clear_free(phi);
    BN_CTX_free(ctx);
    return d;
}

static int read_rsa(int kind, size_t full, const uint8_t *bytes, struct ks_object **out) {
    struct rsa_numbers k = {0};
    size_t half = full / 2;
    if (kind == KS_KIND_RSA) {
        k.d = take(&bytes, full);
        k.n = take(&bytes, full);
        k.e = take(&bytes, EXPONENT_SIZE);
    } else {
        k.p = take(&bytes, half);
        k.q = take(&bytes, half);
        bytes += 2 * half; /* dp, dq and the idempotents follow from the rest */
        k.n = take(&bytes, full);
        bytes += 2 * full;
        k.e = take(&bytes, EXPONENT_SIZE);
        if (k.p != NULL && k.q != NULL && k.e != NULL && !BN_is_zero(k.p) && !BN_is_zero(k.q))
            k.d = private_exponent(&k);
    }
    int status = KS_DECODE;
    if (k.n != NULL && k.e != NULL && k.d != NULL) {
        status = ks_rsa_from_numbers(&k, kind == KS_KIND_RSA_CRT, out);
        if (status == KS_OK && (*out)->size != full) {
            ks_object_free(*out);
            *out = NULL;
            status = KS_DECODE;
        }
    }
    ks_rsa_numbers_free(&k);
    ERR_clear_error();
    return status == KS_STRUCTURE || status == KS_SIZE || status == KS_CRYPTO ? KS_DECODE : status;
}

int ks_form_read(int kind, int param, const uint8_t *bytes, struct ks_object **out) {
    *out = NULL;
    if (ks_form_size_of(kind, param) == 0)
        return KS_ARG;
    switch (kind) {
    case KS_KIND_SECRET:
        *out = ks_secret_new((size_t)param);
        if (*out == NULL)
            return KS_NOMEM;
        memcpy((*out)->bytes, bytes, (size_t)param);
        return KS_OK;
    case KS_KIND_EC:
        return read_ec(param, bytes, out);
    default:
        return read_rsa(kind, (size_t)param / 8, bytes, out);
    }
}

int ks_serialised_size(uint64_t key, size_t *size) {
    struct ks_object *object;
    int status = ks_acquire(key, ANY_KIND, &object);
    if (status == KS_OK) {
        *size = ks_form_size(object);
        ks_release(object);
    }
    return status;
}

int ks_hook_reveal(uint64_t key, uint8_t *out, size_t *size) {
    if (!ks_hooks_enabled())
        return KS_HOOKS;
    struct ks_object *object;
    int status = ks_acquire(key, ANY_KIND, &object);
    if (status == KS_OK) {
        *size = ks_form_size(object);
        status = ks_form_write(object, out);
        ks_release(object);
        ks_burn_stack(BURN_HEAVY);
    }
    return status;
}

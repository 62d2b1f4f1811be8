/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* RSA-2048/3072/4096 (RFC 8017): keys with and without CRT, raw private operation with blinding, OAEP. */
#include "keystore.h"

#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/mem.h>
#include <openssl/rsa.h>
#include <string.h>

enum { MAX_EXPONENT_BITS = 32 }; /* the vault form has four bytes for e */

void ks_rsa_numbers_free(struct rsa_numbers *numbers) {
    BN_free(numbers->n);
    BN_free(numbers->e);
    BN_clear_free(numbers->d);
    BN_clear_free(numbers->p);
    BN_clear_free(numbers->q);
    memset(numbers, 0, sizeof *numbers);
}

static bool size_supported(unsigned bits) { return bits == 2048 || bits == 3072 || bits == 4096; }

/*
 * dP, dQ and qInv are computed here, whatever an import said they were. KS_CRYPTO if there are none (p = q, p = 0), or
 * none for the vault form, which has half the modulus' length for each prime and what follows from it (spec 05 §5.6).
 */
static int with_crt(const struct rsa_numbers *k, RSA **rsa) {
    int status = KS_CRYPTO;
    unsigned half = BN_num_bits(k->n) / 2;
    if (BN_num_bits(k->p) > half || BN_num_bits(k->q) > half)
        return status;
    BN_CTX *ctx = BN_CTX_new();
    BIGNUM *minus1 = BN_new(), *dp = BN_new(), *dq = BN_new(), *inverse = BN_new();
    if (ctx != NULL && minus1 != NULL && dp != NULL && dq != NULL && inverse != NULL && !BN_is_zero(k->p) &&
        !BN_is_zero(k->q) && BN_copy(minus1, k->p) != NULL && BN_sub_word(minus1, 1) && !BN_is_zero(minus1) &&
        BN_mod(dp, k->d, minus1, ctx) && BN_copy(minus1, k->q) != NULL && BN_sub_word(minus1, 1) &&
        !BN_is_zero(minus1) && BN_mod(dq, k->d, minus1, ctx) && BN_mod_inverse(inverse, k->q, k->p, ctx) != NULL) {
        *rsa = RSA_new_private_key(k->n, k->e, k->d, k->p, k->q, dp, dq, inverse);
        status = *rsa == NULL ? KS_STRUCTURE : KS_OK;
    }
    BN_clear_free(minus1);
    BN_clear_free(dp);
    BN_clear_free(dq);
    BN_clear_free(inverse);
    BN_CTX_free(ctx);
    return status;
}

int ks_rsa_from_numbers(const struct rsa_numbers *numbers, bool crt, struct ks_object **out) {
    *out = NULL;
    if (!size_supported(BN_num_bits(numbers->n)))
        return KS_SIZE;
    if (BN_num_bits(numbers->e) > MAX_EXPONENT_BITS || BN_cmp(numbers->d, numbers->n) >= 0)
        return KS_STRUCTURE;
    RSA *rsa = NULL;
    int status;
    if (crt) {
        status = with_crt(numbers, &rsa);
    } else {
        rsa = RSA_new_private_key_no_crt(numbers->n, numbers->e, numbers->d);
        status = rsa == NULL ? KS_STRUCTURE : KS_OK;
    }
    ERR_clear_error();
    if (status != KS_OK)
        return status;
    struct ks_object *object = ks_object_new(crt ? KS_KIND_RSA_CRT : KS_KIND_RSA);
    if (object == NULL) {
        RSA_free(rsa);
        return KS_NOMEM;
    }
    object->rsa = rsa;
    object->size = RSA_size(rsa);
    *out = object;
    return KS_OK;
}

int ks_rsa_generate(int bits, int crt, uint64_t owner, uint64_t *key) {
    if (bits < 0 || !size_supported((unsigned)bits))
        return KS_ARG;
    (void)ks_arena_refused(); /* of what was before */
    RSA *rsa = RSA_new();
    BIGNUM *e = BN_new();
    struct ks_object *object = NULL;
    int status = KS_CRYPTO;
    if (rsa != NULL && e != NULL && BN_set_word(e, RSA_F4) && RSA_generate_key_ex(rsa, bits, e, NULL)) {
        struct rsa_numbers numbers = {.n = BN_dup(RSA_get0_n(rsa)),
                                      .e = BN_dup(RSA_get0_e(rsa)),
                                      .d = BN_dup(RSA_get0_d(rsa)),
                                      .p = BN_dup(RSA_get0_p(rsa)),
                                      .q = BN_dup(RSA_get0_q(rsa))};
        status = numbers.n && numbers.e && numbers.d && numbers.p && numbers.q
                     ? ks_rsa_from_numbers(&numbers, crt != 0, &object)
                     : KS_NOMEM;
        ks_rsa_numbers_free(&numbers);
    }
    if (status == KS_CRYPTO && ks_arena_refused())
        status = KS_NOMEM;
    BN_free(e);
    RSA_free(rsa);
    ERR_clear_error();
    ks_burn_stack(BURN_HEAVY);
    return status != KS_OK ? status : ks_register(object, owner, key);
}

int ks_rsa_import_der(uint64_t der, int crt, uint64_t owner, uint64_t *key, size_t *size) {
    struct ks_object *secret, *object = NULL;
    struct rsa_numbers numbers;
    *size = 0;
    int status = ks_acquire(der, SECRET_KIND, &secret);
    if (status != KS_OK)
        return status;
    status = ks_parse_rsa(secret->bytes, secret->size, &numbers);
    if (status == KS_OK) {
        *size = (BN_num_bits(numbers.n) + 7) / 8;
        status = ks_rsa_from_numbers(&numbers, crt != 0, &object);
    }
    ks_rsa_numbers_free(&numbers);
    ks_release(secret);
    ks_burn_stack(BURN_HEAVY);
    return status != KS_OK ? status : ks_register(object, owner, key);
}

int ks_rsa_public(uint64_t key, uint8_t *n, size_t *n_size, uint8_t *e, size_t *e_size) {
    struct ks_object *object;
    int status = ks_acquire(key, RSA_KINDS, &object);
    if (status == KS_OK) {
        *n_size = BN_bn2bin(RSA_get0_n(object->rsa), n);
        *e_size = BN_bn2bin(RSA_get0_e(object->rsa), e);
        ks_release(object);
    }
    return status;
}

/* KS_RANGE unless 1 < data < n - 1, for data of the modulus length. */
static int check_range(const RSA *rsa, const uint8_t *data, size_t size) {
    BIGNUM *y = BN_bin2bn(data, size, NULL), *limit = BN_dup(RSA_get0_n(rsa));
    int status = KS_NOMEM;
    if (y != NULL && limit != NULL && BN_sub_word(limit, 1))
        status = BN_is_zero(y) || BN_is_one(y) || BN_cmp(y, limit) >= 0 ? KS_RANGE : KS_OK;
    BN_free(y);
    BN_free(limit);
    return status;
}

int ks_rsa_transform(const struct ks_object *key, const uint8_t *data, size_t size, uint8_t *out) {
    if (size != key->size)
        return KS_LENGTH;
    int status = check_range(key->rsa, data, size);
    if (status == KS_OK) {
        int written = RSA_private_encrypt(size, data, out, key->rsa, RSA_NO_PADDING);
        ERR_clear_error();
        status = written == (int)size ? KS_OK : KS_CRYPTO;
    }
    return status;
}

int ks_rsa_private(uint64_t key, const uint8_t *data, size_t size, uint8_t *out) {
    struct ks_object *object;
    int status = ks_acquire(key, RSA_KINDS, &object);
    if (status == KS_OK) {
        status = ks_rsa_transform(object, data, size, out);
        ks_release(object);
        ks_burn_stack(BURN_HEAVY);
    }
    return status;
}

int ks_rsa_pairwise(uint64_t key) {
    struct ks_object *object;
    int status = ks_acquire(key, RSA_KINDS, &object);
    if (status != KS_OK)
        return status;
    uint8_t plain[MAX_RSA], cipher[MAX_RSA], back[MAX_RSA];
    memset(plain, 0x5a, object->size);
    plain[0] = 0;             /* below every modulus */
    (void)ks_arena_refused(); /* of what was before */
    int written = RSA_public_decrypt(object->size, plain, cipher, object->rsa, RSA_NO_PADDING);
    status = KS_PAIRWISE;
    if (written == (int)object->size && ks_rsa_transform(object, cipher, object->size, back) == KS_OK &&
        memcmp(plain, back, object->size) == 0 && !ks_fault("pct-rsa")) {
        status = KS_OK;
    } else if (ks_arena_refused()) {
        status = KS_NOMEM; /* the key may be sound */
    }
    ERR_clear_error();
    ks_release(object);
    ks_burn_stack(BURN_HEAVY);
    return status;
}

/* RSADP and EME-OAEP decoding by the library, which does not tell where the padding is wrong. */
static bool oaep(RSA *rsa, const EVP_MD *md, const uint8_t *data, size_t size, uint8_t *out, size_t *out_size) {
    EVP_PKEY *pkey = EVP_PKEY_new();
    EVP_PKEY_CTX *ctx = NULL;
    bool ok = pkey != NULL && EVP_PKEY_set1_RSA(pkey, rsa) && (ctx = EVP_PKEY_CTX_new(pkey, NULL)) != NULL &&
              EVP_PKEY_decrypt_init(ctx) && EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_OAEP_PADDING) &&
              EVP_PKEY_CTX_set_rsa_oaep_md(ctx, md) && EVP_PKEY_CTX_set_rsa_mgf1_md(ctx, md) &&
              EVP_PKEY_decrypt(ctx, out, out_size, data, size) && *out_size != 0;
    EVP_PKEY_CTX_free(ctx);
    EVP_PKEY_free(pkey);
    ERR_clear_error();
    return ok;
}

int ks_rsa_oaep_decrypt(uint64_t key, int hash, const uint8_t *data, size_t size, uint64_t owner, uint64_t *secret) {
    const EVP_MD *md = ks_md(hash);
    if (md == NULL)
        return KS_ARG;
    struct ks_object *object, *result = NULL;
    int status = ks_acquire(key, RSA_KINDS, &object);
    if (status != KS_OK)
        return status;
    status = size == object->size ? check_range(object->rsa, data, size) : KS_LENGTH;
    if (status == KS_OK) {
        size_t length = object->size;
        uint8_t *message = ks_arena_alloc(length);
        if (message == NULL)
            status = KS_NOMEM;
        else if (!oaep(object->rsa, md, data, size, message, &length))
            status = KS_OAEP;
        else if ((result = ks_secret_new(length)) == NULL)
            status = KS_NOMEM;
        else
            memcpy(result->bytes, message, length);
        ks_arena_free(message);
    }
    ks_release(object);
    ks_burn_stack(BURN_HEAVY);
    return status != KS_OK ? status : ks_register(result, owner, secret);
}

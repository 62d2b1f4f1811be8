/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the key store share. */
#pragma once
#include <openssl/digest.h>
#include <openssl/ec_key.h>
#include <openssl/rsa.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "arena.h"
#include "keystore.cdef.h"
#include "wipe.h"

enum { CURVE_P256 = 1, CURVE_P384 = 2, CURVE_P521 = 3 };
enum { HASH_SHA1 = 1, HASH_SHA256 = 2, HASH_SHA384 = 3, HASH_SHA512 = 4 };
enum { MAX_COORDINATE = 66, MAX_POINT = 1 + 2 * MAX_COORDINATE, MAX_RSA = 512, MAX_DIGEST = 64 };
enum { AES_BLOCK = 16, MASKING_KEY_SIZE = 80, MASKING_AES_SIZE = 32, TAG_SIZE = 48 };
enum { GCM_KEY = 32, GCM_NONCE = 12, GCM_TAG = 16 };

/* A key. Lives in the arena; freed, and so wiped, when the last reference goes. */
struct ks_object {
    uint32_t references; /* guarded by the table's lock */
    int kind;
    int curve;          /* EC */
    bool credential_id; /* a secret that may be read back */
    uint64_t owner;
    size_t size;    /* secret: bytes; EC: coordinate; RSA: modulus */
    uint8_t *bytes; /* secrets */
    EC_KEY *ec;
    RSA *rsa;
    ks_bulk_table *published; /* guarded by the bulk lock, with the next */
    uint32_t key_id;
};

/* -- handles.c */
/* Looks a handle up and takes a reference. kinds: bits 1 << KS_KIND_*. */
int ks_acquire(uint64_t handle, unsigned kinds, struct ks_object **object);
void ks_release(struct ks_object *object);
/* Registers an object whose only reference the table takes over; frees it on failure. */
int ks_register(struct ks_object *object, uint64_t owner, uint64_t *handle);
struct ks_object *ks_object_new(int kind);
void ks_object_free(struct ks_object *object);
struct ks_object *ks_secret_new(size_t size);
void ks_handle_statistics(ks_stats *out);

#define ANY_KIND (~0u)
#define SECRET_KIND (1u << KS_KIND_SECRET)
#define EC_KIND (1u << KS_KIND_EC)
#define RSA_KINDS ((1u << KS_KIND_RSA) | (1u << KS_KIND_RSA_CRT))

/* -- switches.c */
/* Also forgets every fault. */
void ks_switches_set(bool hooks, bool may_fault);
bool ks_hooks_enabled(void);
/* Fault injection: whether this run of the named test shall fail. */
bool ks_fault(const char *name);

/* -- random.c */
int ks_draw(uint8_t *out, size_t size);
bool ks_draw_injected(void);
void ks_random_reset(void);

/* -- curves.c */
size_t ks_coordinate(int curve); /* bytes; 0: unknown curve */
const EC_GROUP *ks_group(int curve);
/* A point of the curve from its uncompressed form, with a verdict of its own for each way to fail. */
int ks_point(int curve, const uint8_t *point, size_t size, EC_POINT **out);

/* -- ec.c */
int ks_ec_from_scalar(int curve, const uint8_t *scalar, size_t size, struct ks_object **out);
int ks_ec_point(const struct ks_object *key, uint8_t point[MAX_POINT], size_t *size);
int ks_ec_scalar(const struct ks_object *key, uint8_t scalar[MAX_COORDINATE]);
int ks_ecdh(const struct ks_object *key, const uint8_t *peer, size_t peer_size, uint8_t *out);

/* -- rsa.c */
struct rsa_numbers {
    BIGNUM *n, *e, *d, *p, *q;
};
void ks_rsa_numbers_free(struct rsa_numbers *numbers);
/* Builds a key from n, e, d, with CRT also p, q. KS_CRYPTO: no CRT values exist; KS_STRUCTURE: contradictions. */
int ks_rsa_from_numbers(const struct rsa_numbers *numbers, bool crt, struct ks_object **out);
int ks_rsa_transform(const struct ks_object *key, const uint8_t *data, size_t size, uint8_t *out);

/* -- der.c */
int ks_parse_ec(const uint8_t *der, size_t size, int *curve, const uint8_t **scalar, size_t *scalar_size,
                const uint8_t **point, size_t *point_size);
int ks_parse_rsa(const uint8_t *der, size_t size, struct rsa_numbers *numbers);

/* -- sym.c */
const EVP_MD *ks_md(int hash); /* NULL: unknown hash */
int ks_cbc(const uint8_t *key, size_t key_size, bool encrypt, const uint8_t iv[AES_BLOCK], const uint8_t *data,
           size_t size, uint8_t *out);
int ks_mac(const EVP_MD *md, const uint8_t *key, size_t key_size, const uint8_t *data, size_t size, uint8_t *out);

/* -- aead.c */
/* Text of one size both ways; the tag is written by sealing and read by opening. KS_AUTH: it does not verify. */
int ks_gcm(bool seal, const uint8_t *key, const uint8_t *nonce, const uint8_t *ad, size_t ad_size, const uint8_t *in,
           uint8_t *out, size_t size, uint8_t *tag);

/* -- kdf.c */
int ks_kbkdf_bytes(const uint8_t *key, size_t key_size, int hash, const uint8_t *label, size_t label_size,
                   const ks_part *context, size_t parts, uint8_t *out, size_t size);

/* -- form.c: the vault form of a key, which masked and sealed blobs carry */
size_t ks_form_size(const struct ks_object *key);
int ks_form_write(const struct ks_object *key, uint8_t *out);
/* param: bytes of a secret, curve, modulus bits. */
size_t ks_form_size_of(int kind, int param);
int ks_form_read(int kind, int param, const uint8_t *bytes, struct ks_object **out);

/* -- bulk.c */
void ks_bulk_forget(struct ks_object *object);
uint64_t ks_bulk_count(void);

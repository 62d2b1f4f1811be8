/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The key store's C interface as cffi sees it: declarations only, no preprocessor. Documented in hsm/keystore/.
 *
 * Every function returns a ks_status unless it says otherwise. Handles are never 0 and never used twice. An owner is
 * packed as function (bits 0-15) | session (16-31) | scope (32-39); 0xFFFF means none. Outputs have the sizes stated
 * there; numbers, points and signatures are big-endian.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ks_status {
    KS_OK = 0,
    KS_STALE = 1,
    KS_KIND = 2,
    KS_ARG = 3,
    KS_NOMEM = 4,
    KS_CRYPTO = 5,
    KS_DECODE = 6,
    KS_SIZE = 7,
    KS_STRUCTURE = 8,
    KS_AUTH = 9,
    KS_OAEP = 10,
    KS_KWP = 11,
    KS_RANGE = 12,
    KS_LENGTH = 13,
    KS_POINT_RANGE = 14,
    KS_POINT_CURVE = 15,
    KS_POINT_INFINITY = 16,
    KS_PAIRWISE = 17,
    KS_IO = 18,
    KS_PERMISSION = 19,
    KS_HOOKS = 20,
    KS_STATE_FORMAT = 21,
};

enum ks_kind { KS_KIND_SECRET = 1, KS_KIND_EC = 2, KS_KIND_RSA = 3, KS_KIND_RSA_CRT = 4 };

/* Length of the largest serialised key (RSA-4096 with CRT) and largest secret. */
enum ks_limits { KS_MAX_SERIALISED = 2564, KS_MAX_SECRET = 4096, KS_SEAL_OVERHEAD = 36 };

typedef struct ks_stats {
    uint64_t bytes_in_use;
    uint64_t bytes_peak;
    uint64_t bytes_reserved;
    uint64_t bytes_locked;
    uint64_t keys;
    uint64_t keys_dying;
    uint64_t published;
} ks_stats;

/* A piece of KDF context: a secret if handle is not 0, else size bytes at data. */
typedef struct ks_part {
    uint64_t handle;
    const uint8_t *data;
    size_t size;
} ks_part;

/* Where the encrypted key lies inside a masked blob, and what it is. */
typedef struct ks_masked {
    const uint8_t *blob;
    size_t blob_size;
    const uint8_t *iv;
    size_t offset;
    size_t encrypted_size;
} ks_masked;

/* Fast-path keys of a function, and one of them as long as a worker holds it. */
typedef struct ks_bulk_table ks_bulk_table;
typedef struct ks_bulk_key ks_bulk_key;
enum ks_bulk_type { KS_BULK_XTS = 0, KS_BULK_GCM_APPROVED = 1, KS_BULK_GCM_UNAPPROVED = 2 };
struct ks_bulk_info {
    uint16_t session_id; /* of the creating session */
    uint8_t app_id;
    uint8_t type;
    bool session_only;
};

const char *ks_library_version(void); /* of the crypto library */
int ks_open(int hooks, int faults);
void ks_close(void);
void ks_statistics(ks_stats *out);
uint64_t ks_unlocked_bytes(void); /* of the store's memory, those that the system did not let it lock */
bool ks_unlocked_is_news(void);   /* there are such, or none any more, and nobody has asked since */

int ks_destroy(uint64_t key);
size_t ks_destroy_group(uint64_t owner, uint64_t mask);
int ks_set_owner(uint64_t key, uint64_t owner);
int ks_describe(uint64_t key, int *kind, size_t *size, int *curve);

int ks_random(uint8_t *out, size_t size);
int ks_generate_secret(size_t size, uint64_t owner, uint64_t *key);
int ks_import_secret(const uint8_t *value, size_t size, uint64_t owner, uint64_t *key);
int ks_slice(uint64_t key, size_t offset, size_t size, uint64_t owner, uint64_t *out);
int ks_secrets_equal(uint64_t first, uint64_t second, int *equal);
int ks_is_zero(uint64_t key, int *zero);

int ks_ec_generate(int curve, uint64_t owner, uint64_t *key);
int ks_ec_derive(int curve, uint64_t secret, const uint8_t *label, size_t label_size, const ks_part *context,
                 size_t parts, uint64_t owner, uint64_t *key);
int ks_ec_import_scalar(int curve, uint64_t scalar, uint64_t owner, uint64_t *key);
int ks_ec_import_der(uint64_t der, uint64_t owner, uint64_t *key, size_t *size);
int ks_ec_public(uint64_t key, uint8_t *point, size_t *size);
int ks_ec_check_point(int curve, const uint8_t *point, size_t size);
int ks_ec_pairwise(uint64_t key, int agree);
int ks_ec_sign(uint64_t key, const uint8_t *digest, size_t size, uint8_t *signature, size_t *signature_size);
int ks_ec_verify(int curve, const uint8_t *point, size_t point_size, const uint8_t *digest, size_t digest_size,
                 const uint8_t *signature, size_t signature_size, int *valid);
int ks_ec_agree(uint64_t key, const uint8_t *peer, size_t peer_size, uint64_t owner, uint64_t *secret);

int ks_rsa_generate(int bits, int crt, uint64_t owner, uint64_t *key);
int ks_rsa_import_der(uint64_t der, int crt, uint64_t owner, uint64_t *key, size_t *size);
int ks_rsa_public(uint64_t key, uint8_t *n, size_t *n_size, uint8_t *e, size_t *e_size);
int ks_rsa_private(uint64_t key, const uint8_t *data, size_t size, uint8_t *out);
int ks_rsa_pairwise(uint64_t key);
int ks_rsa_oaep_decrypt(uint64_t key, int hash, const uint8_t *data, size_t size, uint64_t owner, uint64_t *secret);

int ks_aes_kwp_unwrap(uint64_t kek, const uint8_t *data, size_t size, uint64_t owner, uint64_t *secret);
int ks_aes_cbc(uint64_t key, int encrypt, const uint8_t *iv, const uint8_t *data, size_t size, uint8_t *out);
int ks_hmac(uint64_t key, int hash, const uint8_t *data, size_t size, uint8_t *out);
int ks_hmac_verify(uint64_t key, int hash, const uint8_t *data, size_t size, const uint8_t *tag, size_t tag_size,
                   int *valid);
int ks_digest(int hash, const uint8_t *data, size_t size, uint8_t *out);

int ks_hkdf(uint64_t key, int hash, const uint8_t *salt, size_t salt_size, const uint8_t *info, size_t info_size,
            size_t size, uint64_t owner, uint64_t *out);
int ks_hkdf_extract(int hash, const ks_part *salt, const ks_part *material, uint64_t owner, uint64_t *out);
int ks_hkdf_expand(uint64_t key, int hash, const uint8_t *info, size_t info_size, size_t size, uint64_t owner,
                   uint64_t *out);
int ks_kbkdf(uint64_t key, size_t key_offset, int hash, const uint8_t *label, size_t label_size, const ks_part *context,
             size_t parts, size_t size, uint64_t owner, uint64_t *out);

/* Texts that begin like `value` where `mask` has bits, and which of their bytes are a secret. */
typedef struct {
    const uint8_t *value, *mask;
    size_t size, start, end;
} ks_withheld;

/* Text and tag are one: out has 16 bytes more than data, or less. A secret that is withheld is zeros in out. */
int ks_record_seal(uint64_t key, uint64_t iv, uint64_t sequence, const uint8_t *ad, size_t ad_size, const uint8_t *data,
                   size_t size, uint8_t *out);
int ks_record_open(uint64_t key, uint64_t iv, uint64_t sequence, const uint8_t *ad, size_t ad_size, const uint8_t *data,
                   size_t size, const ks_withheld *withheld, uint8_t *out);

int ks_serialised_size(uint64_t key, size_t *size);
int ks_mask(uint64_t key, uint64_t masking_key, const uint8_t *prefix, size_t prefix_size, const uint8_t *iv,
            size_t encrypted_size, uint8_t *out);
int ks_verify_masked(uint64_t masking_key, const uint8_t *blob, size_t size, int *valid);
int ks_unmask(uint64_t masking_key, const ks_masked *masked, int kind, int param, uint64_t owner, uint64_t *key);

int ks_credential_channel(uint64_t key, const uint8_t *peer, size_t peer_size, const uint8_t *nonce, size_t nonce_size,
                          uint64_t owner, uint64_t *channel);
int ks_credential_verify(uint64_t channel, const uint8_t *message, size_t size, const uint8_t *tag, size_t tag_size,
                         int *valid);
int ks_credential_decrypt(uint64_t channel, const uint8_t *iv, const uint8_t *data, size_t size, uint64_t owner,
                          uint64_t *id, uint64_t *pin, uint64_t *seed);
int ks_credential_id(uint64_t key, uint8_t *out);
int ks_credential_check(uint64_t stored_id, uint64_t stored_pin, uint64_t id, uint64_t pin, int *verdict);

int ks_seal(uint64_t key, uint64_t sealing_key, const uint8_t *ad, size_t ad_size, uint8_t *out, size_t *size);
int ks_unseal(const uint8_t *blob, size_t size, uint64_t sealing_key, const uint8_t *ad, size_t ad_size, uint64_t owner,
              uint64_t *key);
int ks_create_device_secret(const char *path, uint64_t owner, uint64_t *key, int *error);
int ks_load_device_secret(const char *path, uint64_t owner, uint64_t *key, int *error);

ks_bulk_table *ks_bulk_table_new(int function);
void ks_bulk_table_free(ks_bulk_table *table);
int ks_bulk_publish(ks_bulk_table *table, uint32_t key_id, uint64_t key, int type, uint32_t session_id, uint32_t app_id,
                    int session_only);
int ks_bulk_withdraw(ks_bulk_table *table, uint32_t key_id);
/* The key published under a number, or NULL. */
ks_bulk_key *ks_bulk_acquire(ks_bulk_table *table, uint32_t key_id);
void ks_bulk_release(ks_bulk_key *key);
const struct ks_bulk_info *ks_bulk_info(const ks_bulk_key *key);
/* Withdrawn since it was acquired. */
bool ks_bulk_deleted(const ks_bulk_key *key);
/* The same 32 bytes, in constant time. */
bool ks_bulk_equal(const ks_bulk_key *a, const ks_bulk_key *b);

size_t ks_self_test_count(void);
const char *ks_self_test_name(size_t index);
int ks_self_test(size_t index, int *passed);
int ks_set_fault(const char *name, int count);

int ks_hook_push_random(const uint8_t *value, size_t size);
int ks_hook_reveal(uint64_t key, uint8_t *out, size_t *size);
int ks_hook_aes_ecb_decrypt(uint64_t key, const uint8_t *data, size_t size, uint8_t *out);

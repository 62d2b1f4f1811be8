/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* PKCS#8 private keys (RFC 5208), as RsaUnwrap delivers them: inner SEC 1 (RFC 5915) or PKCS#1 (RFC 8017). */
#include "keystore.h"

#include <openssl/bn.h>
#include <openssl/bytestring.h>
#include <openssl/err.h>
#include <string.h>

static const uint8_t oid_ec_public_key[] = {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01};
static const uint8_t oid_p256[] = {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07};
static const uint8_t oid_p384[] = {0x2b, 0x81, 0x04, 0x00, 0x22};
static const uint8_t oid_p521[] = {0x2b, 0x81, 0x04, 0x00, 0x23};
static const uint8_t oid_rsa_encryption[] = {0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01};

/* Opens PrivateKeyInfo version 0: the algorithm's content and the private key octets. Attributes are allowed. */
static bool open_pkcs8(const uint8_t *der, size_t size, CBS *algorithm, CBS *key) {
    CBS input, info;
    uint64_t version;
    CBS_init(&input, der, size);
    if (!CBS_get_asn1(&input, &info, CBS_ASN1_SEQUENCE) || CBS_len(&input) != 0 ||
        !CBS_get_asn1_uint64(&info, &version) || version != 0 || !CBS_get_asn1(&info, algorithm, CBS_ASN1_SEQUENCE) ||
        !CBS_get_asn1(&info, key, CBS_ASN1_OCTETSTRING)) {
        return false;
    }
    int present;
    return CBS_get_optional_asn1(&info, NULL, &present, CBS_ASN1_CONTEXT_SPECIFIC | CBS_ASN1_CONSTRUCTED | 0) &&
           CBS_len(&info) == 0;
}

static bool take_oid(CBS *from, const uint8_t *oid, size_t size) {
    CBS value;
    return CBS_get_asn1(from, &value, CBS_ASN1_OBJECT) && CBS_mem_equal(&value, oid, size);
}

int ks_parse_ec(const uint8_t *der, size_t size, int *curve, const uint8_t **scalar, size_t *scalar_size,
                const uint8_t **point, size_t *point_size) {
    CBS algorithm, octets, oid, key, secret, tagged, bits;
    uint64_t version;
    uint8_t unused_bits;
    if (!open_pkcs8(der, size, &algorithm, &octets) ||
        !take_oid(&algorithm, oid_ec_public_key, sizeof oid_ec_public_key) ||
        !CBS_get_asn1(&algorithm, &oid, CBS_ASN1_OBJECT) || CBS_len(&algorithm) != 0) {
        return KS_DECODE;
    }
    if (CBS_mem_equal(&oid, oid_p256, sizeof oid_p256))
        *curve = CURVE_P256;
    else if (CBS_mem_equal(&oid, oid_p384, sizeof oid_p384))
        *curve = CURVE_P384;
    else if (CBS_mem_equal(&oid, oid_p521, sizeof oid_p521))
        *curve = CURVE_P521;
    else
        return KS_DECODE;
    size_t half = ks_coordinate(*curve);
    if (!CBS_get_asn1(&octets, &key, CBS_ASN1_SEQUENCE) || CBS_len(&octets) != 0 ||
        !CBS_get_asn1_uint64(&key, &version) || version != 1 || !CBS_get_asn1(&key, &secret, CBS_ASN1_OCTETSTRING) ||
        !CBS_get_asn1(&key, &tagged, CBS_ASN1_CONTEXT_SPECIFIC | CBS_ASN1_CONSTRUCTED | 1) || CBS_len(&key) != 0 ||
        !CBS_get_asn1(&tagged, &bits, CBS_ASN1_BITSTRING) || CBS_len(&tagged) != 0 ||
        !CBS_get_u8(&bits, &unused_bits) || unused_bits != 0 || CBS_len(&bits) != 1 + 2 * half ||
        CBS_len(&secret) == 0 || CBS_len(&secret) > half) {
        return KS_DECODE;
    }
    *scalar = CBS_data(&secret);
    *scalar_size = CBS_len(&secret);
    *point = CBS_data(&bits);
    *point_size = CBS_len(&bits);
    return **point == 0x04 ? KS_OK : KS_DECODE;
}

static bool take_number(CBS *from, BIGNUM **out) {
    *out = BN_new();
    bool ok = *out != NULL && BN_parse_asn1_unsigned(from, *out);
    ERR_clear_error();
    return ok;
}

int ks_parse_rsa(const uint8_t *der, size_t size, struct rsa_numbers *numbers) {
    CBS algorithm, octets, null, key;
    uint64_t version;
    memset(numbers, 0, sizeof *numbers);
    if (!open_pkcs8(der, size, &algorithm, &octets) ||
        !take_oid(&algorithm, oid_rsa_encryption, sizeof oid_rsa_encryption) ||
        !CBS_get_asn1(&algorithm, &null, CBS_ASN1_NULL) || CBS_len(&null) != 0 || CBS_len(&algorithm) != 0 ||
        !CBS_get_asn1(&octets, &key, CBS_ASN1_SEQUENCE) || CBS_len(&octets) != 0 ||
        !CBS_get_asn1_uint64(&key, &version) || version != 0) {
        return KS_DECODE;
    }
    if (!take_number(&key, &numbers->n) || !take_number(&key, &numbers->e) || !take_number(&key, &numbers->d) ||
        !take_number(&key, &numbers->p) || !take_number(&key, &numbers->q)) {
        return KS_DECODE;
    }
    for (int i = 0; i < 3; i++) { /* dP, dQ, qInv must be there; the store computes its own */
        CBS ignored;
        if (!CBS_get_asn1(&key, &ignored, CBS_ASN1_INTEGER))
            return KS_DECODE;
    }
    return CBS_len(&key) == 0 ? KS_OK : KS_DECODE;
}

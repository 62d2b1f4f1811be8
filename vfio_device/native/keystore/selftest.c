/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Power-on self-tests: one known answer per algorithm, through the store's own operations.
 *
 * Answers are published ones (FIPS 197, RFC 4231, RFC 5649, RFC 5869, IEEE 1619 / NIST) or computed with an
 * independent implementation; the test suite recomputes every one of them.
 */
#include "keystore.h"

#include <openssl/bn.h>
#include <openssl/ctrdrbg.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <string.h>

#include "bulk.h"

enum { MAX_DATA = 512 };
/* Keys made by a test belong to nobody; the test destroys them. */
static const uint64_t NOBODY = UINT64_C(0xFFFFFFFFFF);

struct data {
    uint8_t bytes[MAX_DATA];
    size_t size;
};

static uint8_t nibble(char c) { return (uint8_t)(c <= '9' ? c - '0' : c - 'a' + 10); }

static struct data hex(const char *text) {
    struct data out = {.size = strlen(text) / 2};
    for (size_t i = 0; i < out.size; i++)
        out.bytes[i] = (uint8_t)(nibble(text[2 * i]) << 4 | nibble(text[2 * i + 1]));
    return out;
}

/* 00 01 02 ... */
static struct data count_up(uint8_t first, size_t size) {
    struct data out = {.size = size};
    for (size_t i = 0; i < size; i++)
        out.bytes[i] = (uint8_t)(first + i);
    return out;
}

static bool equal(const uint8_t *bytes, const char *expected) {
    struct data value = hex(expected);
    return memcmp(bytes, value.bytes, value.size) == 0;
}

static uint64_t secret(struct data value) {
    uint64_t handle = 0;
    ks_import_secret(value.bytes, value.size, NOBODY, &handle);
    return handle;
}

/* Whether a secret has the expected value; destroys it. */
static bool secret_is(uint64_t handle, struct data expected) {
    uint64_t other = secret(expected);
    int same = 0;
    bool ok = ks_secrets_equal(handle, other, &same) == KS_OK && same;
    ks_destroy(other);
    ks_destroy(handle);
    return ok;
}

static const uint8_t abc[] = {'a', 'b', 'c'};

static bool hash_is(int hash, const char *expected) {
    uint8_t out[MAX_DIGEST];
    return ks_digest(hash, abc, sizeof abc, out) == KS_OK && equal(out, expected);
}

static bool sha1(void) { return hash_is(HASH_SHA1, "a9993e364706816aba3e25717850c26c9cd0d89d"); }
static bool sha256(void) {
    return hash_is(HASH_SHA256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}
static bool sha384(void) {
    return hash_is(HASH_SHA384, "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed"
                                "8086072ba1e7cc2358baeca134c825a7");
}
static bool sha512(void) {
    return hash_is(HASH_SHA512, "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
                                "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f");
}

/* RFC 2202 and 4231, test case 2. */
static bool mac_is(int hash, const char *expected) {
    static const char text[] = "what do ya want for nothing?";
    uint64_t key = secret(hex("4a656665"));
    uint8_t out[MAX_DIGEST];
    bool ok = ks_hmac(key, hash, (const uint8_t *)text, sizeof text - 1, out) == KS_OK && equal(out, expected);
    ks_destroy(key);
    return ok;
}

static bool hmac_sha1(void) { return mac_is(HASH_SHA1, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"); }
static bool hmac_sha256(void) {
    return mac_is(HASH_SHA256, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}
static bool hmac_sha384(void) {
    return mac_is(HASH_SHA384, "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e"
                               "8e2240ca5e69e2c78b3239ecfab21649");
}
static bool hmac_sha512(void) {
    return mac_is(HASH_SHA512, "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
                               "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737");
}

/* CTR_DRBG, AES-256, no derivation function: second 64 bytes after seeding with 00..2f. */
static bool drbg(void) {
    struct data seed = count_up(0, CTR_DRBG_ENTROPY_LEN);
    uint8_t out[64];
    CTR_DRBG_STATE *state = CTR_DRBG_new(seed.bytes, NULL, 0);
    bool ok = state != NULL && CTR_DRBG_generate(state, out, sizeof out, NULL, 0) &&
              CTR_DRBG_generate(state, out, sizeof out, NULL, 0) &&
              equal(out, "04562ad35e8ecafaafda16981cdaa147606beea62801342af13c8b5535f72f94"
                         "95b74317c762f0adab7abe710797612176b61b0e208398113cf9c170157bc75f");
    CTR_DRBG_free(state);
    return ok;
}

static bool cbc(int encrypt) {
    struct data plain = count_up(0, 48), iv = count_up(0xf0, 16);
    struct data cipher = hex("753d5eacf88ed4c2c30496112e5f2221380449120c43e61d91c66cae5065cdad"
                             "a92a5c417f7993023b11fdc5780e1efb");
    struct data *in = encrypt ? &plain : &cipher, *expected = encrypt ? &cipher : &plain;
    uint64_t key = secret(count_up(0, 16));
    uint8_t out[48];
    bool ok = ks_aes_cbc(key, encrypt, iv.bytes, in->bytes, in->size, out) == KS_OK &&
              memcmp(out, expected->bytes, sizeof out) == 0;
    ks_destroy(key);
    return ok;
}

static bool aes_cbc_encrypt(void) { return cbc(1); }
static bool aes_cbc_decrypt(void) { return cbc(0); }

/* RFC 5649 section 6, 20 octets. */
static bool aes_kwp(void) {
    uint64_t kek = secret(hex("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8")), out = 0;
    struct data wrapped = hex("138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a");
    bool ok = ks_aes_kwp_unwrap(kek, wrapped.bytes, wrapped.size, NOBODY, &out) == KS_OK &&
              secret_is(out, hex("c37b7e6492584340bed12207808941155068f738"));
    wrapped.bytes[31] ^= 1;
    ok = ok && ks_aes_kwp_unwrap(kek, wrapped.bytes, wrapped.size, NOBODY, &out) == KS_KWP;
    ks_destroy(kek);
    return ok;
}

/* Publishes one or two keys in a table of their own. */
struct published {
    ks_bulk_table *table;
    uint64_t handles[2];
    struct ks_bulk_key *keys[2];
};

static bool publish(struct published *p, int type, struct data first, struct data second) {
    const struct data *values[] = {&first, &second};
    memset(p, 0, sizeof *p);
    p->table = ks_bulk_table_new(-1);
    bool ok = p->table != NULL;
    for (uint32_t i = 0; ok && i < 2 && values[i]->size != 0; i++) {
        p->handles[i] = secret(*values[i]);
        ok = ks_bulk_publish(p->table, i, p->handles[i], type, 0, 0, 0) == KS_OK &&
             (p->keys[i] = ks_bulk_acquire(p->table, i)) != NULL;
    }
    return ok;
}

static void withdraw(struct published *p) {
    for (size_t i = 0; i < 2; i++) {
        if (p->keys[i] != NULL)
            ks_bulk_release(p->keys[i]);
        ks_destroy(p->handles[i]);
    }
    ks_bulk_table_free(p->table);
}

static const char gcm_cipher[] = "ee4a3ed50f975411d6540c75c1a75a080a47e4e3",
                  gcm_tag[] = "c622a67249d235b2bf6aa4c18f0ae868";

/* The AAD is padded to 32 bytes and its unpadded length put into the tag, as the fast path does. */
static bool gcm(bool encrypt) {
    struct published p;
    struct ihsm_gcm state;
    struct data plain = count_up(0, 20), cipher = hex(gcm_cipher);
    const uint8_t *in = encrypt ? plain.bytes : cipher.bytes, *expected = encrypt ? cipher.bytes : plain.bytes;
    uint8_t iv[12], aad[32] = {0}, out[20], computed[16];
    memset(iv, 3, sizeof iv);
    memset(aad + 16, 0xab, 11); /* a zero block in front changes nothing but the length */
    bool ok = publish(&p, KS_BULK_GCM_UNAPPROVED, count_up(0, 32), (struct data){0});
    if (ok) {
        const struct ihsm_aes_key *key = ks_bulk_aes(p.keys[0]);
        ihsm_gcm_load(&state, key);
        ihsm_gcm_start(&state, key, iv);
        ihsm_gcm_aad(&state, aad, sizeof aad);
        ihsm_gcm_crypt(&state, key, !encrypt, in, out, 7);
        ihsm_gcm_crypt(&state, key, !encrypt, in + 7, out + 7, sizeof out - 7);
        ihsm_gcm_finish(&state, 11, computed);
        ihsm_gcm_wipe(&state);
        ok = memcmp(out, expected, sizeof out) == 0 && equal(computed, gcm_tag);
        computed[0] ^= 1;
        ok = ok && !ihsm_tag_equal(computed, hex(gcm_tag).bytes);
    }
    withdraw(&p);
    return ok;
}

static bool aes_gcm_encrypt(void) { return gcm(true); }
static bool aes_gcm_decrypt(void) { return gcm(false); }

/* NIST vector with a tweak of 128 significant bits; the second block also by itself. */
static bool xts(bool encrypt) {
    struct published p;
    struct data tweak = hex("773d903f1ea98b7ce5900ffd9ef866eb");
    struct data plain = hex("584a98ebe2b9c24686f400b477d804c3dc1deaf4ada69f4dbc40b454f1b8d5a0");
    struct data cipher = hex("8d28f585e0a8803b4183abe7c3b82fc3ac66a1e8fcbf0211301786ed456b3e0a");
    const uint8_t *in = encrypt ? plain.bytes : cipher.bytes, *expected = encrypt ? cipher.bytes : plain.bytes;
    uint8_t out[32], rest[16];
    bool ok = publish(&p, KS_BULK_XTS, hex("de69e2a2e7ca0a0bbbc3e379d389b84f627bc62ab277cc7b0c04d5959842525a"),
                      hex("5d36109287fb066cea844a4487e86388cbe11e39fcde7c15b2f4b2951bdedc1a"));
    if (ok) {
        const struct ihsm_aes_key *data_key = ks_bulk_aes(p.keys[0]), *tweak_key = ks_bulk_aes(p.keys[1]);
        ihsm_xts_crypt(data_key, tweak_key, !encrypt, tweak.bytes, in, out, sizeof out);
        ihsm_xts_seek(tweak_key, tweak.bytes, 1);
        ihsm_xts_crypt(data_key, tweak_key, !encrypt, tweak.bytes, in + 16, rest, sizeof rest);
        ok = memcmp(out, expected, sizeof out) == 0 && memcmp(rest, expected + 16, sizeof rest) == 0;
    }
    withdraw(&p);
    return ok;
}

static bool aes_xts_encrypt(void) { return xts(true); }
static bool aes_xts_decrypt(void) { return xts(false); }

/* Signs with the nonce 0102030405060708 and compares r || s; verifies it, and refuses it with one bit changed. */
static bool ecdsa(int curve, uint64_t d, const char *digest_hex, const char *expected_hex) {
    uint8_t scalar[MAX_COORDINATE] = {0}, nonce[MAX_COORDINATE] = {0}, signature[2 * MAX_COORDINATE], point[MAX_POINT];
    size_t half = ks_coordinate(curve), point_size = 0;
    struct data digest = hex(digest_hex), expected = hex(expected_hex);
    for (size_t i = 0; i < 8; i++) {
        scalar[half - 1 - i] = (uint8_t)(d >> (8 * i));
        nonce[half - 1 - i] = (uint8_t)(8 - i);
    }
    struct ks_object *key = NULL;
    bool ok = ks_ec_from_scalar(curve, scalar, half, &key) == KS_OK && ks_ec_point(key, point, &point_size) == KS_OK;
    ECDSA_SIG *sig =
        !ok ? NULL
            : ECDSA_sign_with_nonce_and_leak_private_key_for_testing(digest.bytes, digest.size, key->ec, nonce, half);
    ok = sig != NULL && BN_bn2bin_padded(signature, half, ECDSA_SIG_get0_r(sig)) &&
         BN_bn2bin_padded(signature + half, half, ECDSA_SIG_get0_s(sig)) &&
         memcmp(signature, expected.bytes, 2 * half) == 0;
    int valid = 0;
    ok = ok &&
         ks_ec_verify(curve, point, point_size, digest.bytes, digest.size, signature, 2 * half, &valid) == KS_OK &&
         valid;
    signature[half] ^= 1;
    ok = ok &&
         ks_ec_verify(curve, point, point_size, digest.bytes, digest.size, signature, 2 * half, &valid) == KS_OK &&
         !valid;
    ECDSA_SIG_free(sig);
    ks_object_free(key);
    ERR_clear_error();
    return ok;
}

static bool ecdsa_p256(void) {
    return ecdsa(CURVE_P256, 0x1122334455667788, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                 "845359d7442dfa5246ce5b88ec80ed635d4b9784ef6d7268fc37ab06aff612a8"
                 "80363c7d214afadafeb9c7d5552bfbaabadfcdd5d98b03b37bb0d40ddfde16a2");
}
static bool ecdsa_p384(void) {
    return ecdsa(CURVE_P384, 0x0badc0de,
                 "cea43e653575806b3fee7447d1d663f95b176f5a26a0f3465cc0e18119fa9518a41211c9d757a425de7940b97f7f74cf",
                 "34962c90fd6839e7a4929b0917a94d1f4ebc08a047045ab6794b1d183887abbbdfa4ee95be96ccde0dcdf02cfa544e88"
                 "1f94d2130420e0d46fa949771c704b901784776164cdb8e325a4ff96f2759f881fbe8ea45747735b167cbf039d2d6cca");
}
static bool ecdsa_p521(void) {
    return ecdsa(CURVE_P521, 7,
                 "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
                 "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
                 "010e2ba5e5c66c450143e7dac8f987c112067313915bd466f524c53e4fa101530ec5f1e90bd99c61c899380707e84875"
                 "361db08985141b747d22bbf94b9e1f692f9701e646fd2ae5dc3ad997cacae3a7cfb3a303ef671ee6ca276546a87136cf"
                 "7fa80ca76935d440f2c682c365256226d659ef41bc2707c5b1c5998e69a65382860c8c8c");
}

/* Private scalar 11 11 ... (65 bytes on P-521) and the peer of scalar 22 22 ... */
static bool ecdh(int curve, const char *peer_hex, const char *shared_hex) {
    size_t size = ks_coordinate(curve);
    struct data peer = hex(peer_hex), scalar = {.size = size};
    memset(scalar.bytes, 0x11, size);
    if (curve == CURVE_P521)
        scalar.bytes[0] = 0;
    uint64_t input = secret(scalar), key = 0, shared = 0;
    bool ok = ks_ec_import_scalar(curve, input, NOBODY, &key) == KS_OK &&
              ks_ec_agree(key, peer.bytes, peer.size, NOBODY, &shared) == KS_OK && secret_is(shared, hex(shared_hex));
    ks_destroy(input);
    ks_destroy(key);
    return ok;
}

static bool ecdh_p256(void) {
    return ecdh(CURVE_P256,
                "04d65a93977caa3d1b081852ff57a79e465f1660577304baead505dd3a48589cf3"
                "50185e895372df6221ea3a137557e473fddb6755f05bd507c3c533fce9c91285",
                "ccfc261f58193c98ca4ad4a53bbac6f0ee29bc4d48438090446908622ca79af6");
}
static bool ecdh_p384(void) {
    return ecdh(CURVE_P384,
                "044f2bda7fd2105f8467e21f45223ad58863ffa4c084832d9f6c64ffc47fdd519727ab53cb71f9c40de24b64acde61f02f"
                "c7dce130b612fa5dbcac94573a2354fd005d8e9caefdc5fde48304474708bbd82f77e1fd2c630bea236f6f8dccc1678e",
                "2ac3da23c114b5b1f3aa200cf3c57bebd1b3b880a0e68066ab5d00dda50dcfe6cd03410292346187a84b1f12d53569c0");
}
static bool ecdh_p521(void) {
    return ecdh(CURVE_P521,
                "0401961c278756ab13b825bdbbf03ab16b456a343613a32374b2d4dcfd82b198c342616c61b69302ea59a9a8e13d3bcda03d"
                "ba4c456a6a77831cdf783d3de7e775ab7d0142d929c7bb7a9d0274592e4992cba27fbdd91b3af0b3f2c731bfe1c519c4b916"
                "a9a56a47663d561fc10d6c386b04d72be3a3000fdccb324d054e5ebf0961be727d",
                "012a3654874219df7b5728f34d67a81e1ee353e8063b0564811f65651c1281931a8440b5720f517f765a40e8bc6e7e5164ab"
                "c873ae856f2913cade7253da993338cd");
}

/* p = 7 * 2^1021 + 309, q = 3 * 2^1022 + 1037, e = 65537, d = e^-1 mod lcm(p - 1, q - 1). */
static uint64_t rsa_key(bool crt) {
    struct rsa_numbers k = {.n = BN_new(), .e = BN_new(), .d = NULL, .p = BN_new(), .q = BN_new()};
    BIGNUM *p1 = BN_new(), *q1 = BN_new(), *product = BN_new(), *gcd = BN_new(), *lcm = BN_new();
    BN_CTX *ctx = BN_CTX_new();
    struct ks_object *object = NULL;
    uint64_t handle = 0;
    if (k.n && k.e && k.p && k.q && p1 && q1 && product && gcd && lcm && ctx && BN_set_word(k.p, 7) &&
        BN_lshift(k.p, k.p, 1021) && BN_add_word(k.p, 309) && BN_set_word(k.q, 3) && BN_lshift(k.q, k.q, 1022) &&
        BN_add_word(k.q, 1037) && BN_set_word(k.e, RSA_F4) && BN_mul(k.n, k.p, k.q, ctx) && BN_copy(p1, k.p) &&
        BN_copy(q1, k.q) && BN_sub_word(p1, 1) && BN_sub_word(q1, 1) && BN_mul(product, p1, q1, ctx) &&
        BN_gcd(gcd, p1, q1, ctx) && BN_div(lcm, NULL, product, gcd, ctx) &&
        (k.d = BN_mod_inverse(NULL, k.e, lcm, ctx)) != NULL && ks_rsa_from_numbers(&k, crt, &object) == KS_OK) {
        ks_register(object, NOBODY, &handle);
    }
    ks_rsa_numbers_free(&k);
    BN_clear_free(p1);
    BN_clear_free(q1);
    BN_clear_free(product);
    BN_free(gcd);
    BN_clear_free(lcm);
    BN_CTX_free(ctx);
    return handle;
}

/* SHA-256 of 2^d mod n. */
static bool modexp(bool crt) {
    uint64_t key = rsa_key(crt);
    uint8_t y[256] = {[255] = 2}, x[256], digest[MAX_DIGEST];
    bool ok = ks_rsa_private(key, y, sizeof y, x) == KS_OK && ks_digest(HASH_SHA256, x, sizeof x, digest) == KS_OK &&
              equal(digest, "1ddfcbdf7214ccc960a284da89bd27b4b7a001ac274f08a395eb98ad857034b8");
    ks_destroy(key);
    return ok;
}

static bool rsa_modexp(void) { return modexp(false); }
static bool rsa_modexp_crt(void) { return modexp(true); }

static bool rsa_oaep(void) {
    struct data cipher =
        hex("1c83876ef55e4a3c2873c331771aa2c7dfb769c4a0967f9cb2041314db40ba58cfd8b06c196ab7a1e5da8f3dea4593cd"
            "5e3774e8889a1ff83385241c9e091d32f89049642648fad3999c34cb99f302dd9686a42e09b840589ef3fa8335f1964d"
            "312cc08aedd4f9947f28236369d93e8313f012d14caf702e910142aa0a9fd315079d3a202b3ea560dd07c93e63e17102"
            "32929d4b897306271bd201d5700756185fa7aaefc1bc1146f190395fdca3b57db3e1a6c4202bdbd768704e8f5ff515ce"
            "e9a00c5bd477920c25073eff2f710dbe799f9aae4a43533fd30baf822728c83092344cb4143b56b8943b6c08b9c9521d"
            "4a2ce45a0cd467b14ea77c364a835145");
    uint64_t key = rsa_key(false), kek = 0;
    bool ok = ks_rsa_oaep_decrypt(key, HASH_SHA256, cipher.bytes, cipher.size, NOBODY, &kek) == KS_OK &&
              secret_is(kek, count_up(0, 32));
    cipher.bytes[100] ^= 1;
    ok = ok && ks_rsa_oaep_decrypt(key, HASH_SHA256, cipher.bytes, cipher.size, NOBODY, &kek) == KS_OAEP;
    ks_destroy(key);
    return ok;
}

static bool hkdf(void) {
    uint64_t key = secret(count_up(0, 32)), out = 0;
    bool ok = ks_hkdf(key, HASH_SHA256, (const uint8_t *)"salt-01", 7, (const uint8_t *)"info-01", 7, 32, NOBODY,
                      &out) == KS_OK &&
              secret_is(out, hex("329b2a70c16633535b52d6c3e93a0ff03190cbdb38b20a679092ce19815394ac"));
    ok = ok && ks_hkdf(key, HASH_SHA384, NULL, 0, NULL, 0, 16, NOBODY, &out) == KS_OK &&
         secret_is(out, hex("b99d268d378ee1d239e9abb2ad84714b"));
    ks_destroy(key);
    return ok;
}

/* RFC 5869 A.1, in two steps. */
static bool hkdf_steps(void) {
    struct data material = {.size = 22}, salt = count_up(0, 13), info = count_up(0xf0, 10);
    memset(material.bytes, 0x0b, material.size);
    uint64_t input = secret(material), key = 0, out = 0;
    const ks_part from = {.handle = input}, with = {.data = salt.bytes, .size = salt.size};
    bool ok =
        ks_hkdf_extract(HASH_SHA256, &with, &from, NOBODY, &key) == KS_OK &&
        ks_hkdf_expand(key, HASH_SHA256, info.bytes, info.size, 42, NOBODY, &out) == KS_OK &&
        secret_is(out, hex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"));
    ok = ok && secret_is(key, hex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"));
    ks_destroy(input);
    return ok;
}

/* The fast path's answer: a record's number, 0303, makes its nonce of this IV. */
static bool record(void) {
    struct data plain = count_up(0, 20), cipher = hex(gcm_cipher), tag = hex(gcm_tag);
    uint8_t aad[11], out[20 + GCM_TAG], back[20];
    memset(aad, 0xab, sizeof aad);
    uint64_t key = secret(count_up(0, 32)), iv = secret(hex("000003030303030303030303"));
    const ks_withheld nothing = {0};
    bool ok = ks_record_seal(key, iv, 0x0303, aad, sizeof aad, plain.bytes, plain.size, out) == KS_OK &&
              memcmp(out, cipher.bytes, cipher.size) == 0 && memcmp(out + cipher.size, tag.bytes, tag.size) == 0;
    ok = ok && ks_record_open(key, iv, 0x0303, aad, sizeof aad, out, sizeof out, &nothing, back) == KS_OK &&
         memcmp(back, plain.bytes, sizeof back) == 0;
    out[0] ^= 1;
    ok = ok && ks_record_open(key, iv, 0x0303, aad, sizeof aad, out, sizeof out, &nothing, back) == KS_AUTH;
    ks_destroy(key);
    ks_destroy(iv);
    return ok;
}

static bool kbkdf(void) {
    uint64_t key = secret(count_up(0, 32)), out = 0;
    const ks_part context = {.data = (const uint8_t *)"context-01", .size = 10};
    const uint8_t *label = (const uint8_t *)"label-01";
    bool ok = ks_kbkdf(key, 0, HASH_SHA256, label, 8, &context, 1, 32, NOBODY, &out) == KS_OK &&
              secret_is(out, hex("813cd97070ac1465f02227e295a3f3b517db7984a4b5d860964c538010d2e8d2"));
    ok = ok && ks_kbkdf(key, 0, HASH_SHA384, label, 8, &context, 1, 64, NOBODY, &out) == KS_OK &&
         secret_is(out, hex("5a1644e5aa20852d8cae87920f1958bf04acd0f1bc365a7abf3185aae37f7149"
                            "27b645f35baaaf7485dc01f30d0fa501f6c479e9ed5f22de7b3d759a1bdd78d2"));
    ks_destroy(key);
    return ok;
}

/* A masked AES-256 key: blob 01 00 .. with any 68 bytes in front; only the sealing is under test. */
static bool masking(void) {
    struct data prefix = count_up(0, 68), iv = count_up(0xa0, 16);
    uint8_t blob[68 + 48 + TAG_SIZE];
    uint64_t key = secret(count_up(0, 32)), mk = secret(count_up(0x40, 80)), back = 0;
    bool ok = ks_mask(key, mk, prefix.bytes, prefix.size, iv.bytes, 48, blob) == KS_OK &&
              equal(blob + 68, "acc0871ad671cfd1e0039038f8e5182cf82404880e219f151b8d5b6db533d65f"
                               "a0e12c1a119e3442562d9bcc87ede259");
    ks_masked masked = {.blob = blob, .blob_size = sizeof blob, .iv = iv.bytes, .offset = 68, .encrypted_size = 48};
    ok = ok && ks_unmask(mk, &masked, KS_KIND_SECRET, 32, NOBODY, &back) == KS_OK && secret_is(back, count_up(0, 32));
    blob[0] ^= 1;
    ok = ok && ks_unmask(mk, &masked, KS_KIND_SECRET, 32, NOBODY, &back) == KS_AUTH;
    ks_destroy(key);
    ks_destroy(mk);
    return ok;
}

static const struct {
    const char *name;
    bool (*run)(void);
} tests[] = {
    {"sha-1", sha1},
    {"sha-256", sha256},
    {"sha-384", sha384},
    {"sha-512", sha512},
    {"hmac-sha-1", hmac_sha1},
    {"hmac-sha-256", hmac_sha256},
    {"hmac-sha-384", hmac_sha384},
    {"hmac-sha-512", hmac_sha512},
    {"ctr-drbg", drbg},
    {"aes-cbc-encrypt", aes_cbc_encrypt},
    {"aes-cbc-decrypt", aes_cbc_decrypt},
    {"aes-key-unwrap", aes_kwp},
    {"aes-gcm-encrypt", aes_gcm_encrypt},
    {"aes-gcm-decrypt", aes_gcm_decrypt},
    {"aes-xts-encrypt", aes_xts_encrypt},
    {"aes-xts-decrypt", aes_xts_decrypt},
    {"ecdsa-p256", ecdsa_p256},
    {"ecdsa-p384", ecdsa_p384},
    {"ecdsa-p521", ecdsa_p521},
    {"ecdh-p256", ecdh_p256},
    {"ecdh-p384", ecdh_p384},
    {"ecdh-p521", ecdh_p521},
    {"rsa-modexp", rsa_modexp},
    {"rsa-modexp-crt", rsa_modexp_crt},
    {"rsa-oaep", rsa_oaep},
    {"hkdf", hkdf},
    {"hkdf-steps", hkdf_steps},
    {"record", record},
    {"kbkdf", kbkdf},
    {"masking", masking},
};

size_t ks_self_test_count(void) { return sizeof tests / sizeof tests[0]; }

const char *ks_self_test_name(size_t index) { return index < ks_self_test_count() ? tests[index].name : NULL; }

int ks_self_test(size_t index, int *passed) {
    if (index >= ks_self_test_count())
        return KS_ARG;
    *passed = tests[index].run() && !ks_fault(tests[index].name);
    ks_burn_stack(BURN_HEAVY);
    return KS_OK;
}

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Crypto libraries called without rings. The system's OpenSSL is loaded at run time, AWS-LC is linked in; both are
 * called through the same table, so the loops around them are the same code.
 */
#include "bench/clock.h"

#include <dlfcn.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

/* Calls between two looks at the clock. */
#define CALLS_PER_CLOCK_BYTES (256 * 1024)

/* Name, result and parameters of what is used of a library; pointers to its own types are void pointers here. */
#define FUNCTIONS(X)                                                                                                   \
    X(const char *, OpenSSL_version, (int))                                                                            \
    X(void *, EVP_CIPHER_CTX_new, (void))                                                                              \
    X(void, EVP_CIPHER_CTX_free, (void *))                                                                             \
    X(const void *, EVP_aes_256_gcm, (void))                                                                           \
    X(const void *, EVP_aes_256_xts, (void))                                                                           \
    X(const void *, EVP_aes_256_cbc, (void))                                                                           \
    X(const void *, EVP_sha256, (void))                                                                                \
    X(void *, HMAC_CTX_new, (void))                                                                                    \
    X(void, HMAC_CTX_free, (void *))                                                                                   \
    X(int, HMAC_Init_ex, (void *, const void *, int, const void *, void *))                                            \
    X(int, HMAC_Update, (void *, const uint8_t *, size_t))                                                             \
    X(int, HMAC_Final, (void *, uint8_t *, unsigned *))                                                                \
    X(int, EVP_EncryptInit_ex, (void *, const void *, void *, const uint8_t *, const uint8_t *))                       \
    X(int, EVP_EncryptUpdate, (void *, uint8_t *, int *, const uint8_t *, int))                                        \
    X(int, EVP_EncryptFinal_ex, (void *, uint8_t *, int *))                                                            \
    X(int, EVP_CIPHER_CTX_ctrl, (void *, int, int, void *))                                                            \
    X(void *, d2i_AutoPrivateKey, (void **, const uint8_t **, long))                                                   \
    X(void, EVP_PKEY_free, (void *))                                                                                   \
    X(void *, EVP_PKEY_CTX_new, (void *, void *))                                                                      \
    X(void, EVP_PKEY_CTX_free, (void *))                                                                               \
    X(int, EVP_PKEY_sign_init, (void *))                                                                               \
    X(int, EVP_PKEY_sign, (void *, uint8_t *, size_t *, const uint8_t *, size_t))

struct ihsm_bench_library {
/* NOLINTNEXTLINE(bugprone-macro-parentheses): a declarator takes none */
#define MEMBER(result, name, parameters) result(*name) parameters;
    FUNCTIONS(MEMBER)
};

enum { VERSION_TEXT = 0, GET_TAG = 0x10, TAG_BYTES = 16, HMAC_TAG_BYTES = 32, MAX_SIGNATURE = 1024 };

struct ihsm_bench_library *ihsm_bench_aws_lc(void) {
    static struct ihsm_bench_library library;

/* NOLINTNEXTLINE(bugprone-macro-parentheses): a type takes none */
#define LINKED(result, name, parameters) library.name = (result(*) parameters)(void (*)(void))name;
    FUNCTIONS(LINKED)
    return &library;
}

struct ihsm_bench_library *ihsm_bench_load(const char *path) {
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    struct ihsm_bench_library *library = handle ? calloc(1, sizeof *library) : NULL;
    int complete = 1;

    if (!library)
        return NULL;
    /* The library stays loaded for the life of the process, as OpenSSL wants it. */
#define LOADED(result, name, parameters)                                                                               \
    *(void **)&library->name = dlsym(handle, #name);                                                                   \
    complete &= library->name != NULL;
    FUNCTIONS(LOADED)
    if (!complete) {
        free(library);
        return NULL;
    }
    return library;
}

const char *ihsm_bench_version(struct ihsm_bench_library *library) { return library->OpenSSL_version(VERSION_TEXT); }

static uint32_t calls_per_clock(uint32_t bytes) {
    uint32_t calls = CALLS_PER_CLOCK_BYTES / (bytes + 1024);

    return calls ? calls : 1;
}

int ihsm_bench_gcm(struct ihsm_bench_library *library, const uint8_t key[32], const uint8_t *source, uint8_t *target,
                   uint32_t buffers, uint64_t stride, uint32_t aad_bytes, uint32_t bytes, uint64_t min_ns,
                   struct ihsm_bench_result *result) {
    uint32_t burst = calls_per_clock(bytes), buffer = 0;
    void *context = library->EVP_CIPHER_CTX_new();
    uint8_t iv[12] = {0}, tag[TAG_BYTES];
    uint64_t end, count = 0;
    int good = context != NULL, length;

    good = good && library->EVP_EncryptInit_ex(context, library->EVP_aes_256_gcm(), NULL, key, NULL);
    ihsm_measure_begin(result);
    end = result->wall_ns + min_ns;
    while (good && ihsm_goes_on(result, ihsm_now_ns(), end)) {
        for (uint32_t i = 0; i < burst; i++) {
            const uint8_t *in = source + buffer * stride;
            uint8_t *out = target + buffer * stride;

            count++;
            memcpy(iv, &count, sizeof count);
            good &= library->EVP_EncryptInit_ex(context, NULL, NULL, NULL, iv);
            if (aad_bytes)
                good &= library->EVP_EncryptUpdate(context, NULL, &length, in, (int)aad_bytes);
            good &= library->EVP_EncryptUpdate(context, out + aad_bytes, &length, in + aad_bytes, (int)bytes);
            good &= library->EVP_EncryptFinal_ex(context, out + aad_bytes + length, &length);
            good &= library->EVP_CIPHER_CTX_ctrl(context, GET_TAG, TAG_BYTES, tag);
            buffer = buffer + 1 < buffers ? buffer + 1 : 0;
        }
        result->operations += burst;
    }
    ihsm_measure_end(result);
    library->EVP_CIPHER_CTX_free(context);
    return good ? 0 : -EIO;
}

/* A cipher without tag whose IV, or tweak, has 16 bytes; of CBC whole blocks. */
static int encrypt_untagged(struct ihsm_bench_library *library, const void *cipher, const uint8_t *key,
                            const uint8_t *source, uint8_t *target, uint32_t buffers, uint64_t stride, uint32_t bytes,
                            uint64_t min_ns, struct ihsm_bench_result *result) {
    uint32_t burst = calls_per_clock(bytes), buffer = 0;
    void *context = library->EVP_CIPHER_CTX_new();
    uint8_t iv[16] = {0};
    uint64_t end, count = 0;
    int good = context != NULL, length;

    good = good && library->EVP_EncryptInit_ex(context, cipher, NULL, key, iv);
    ihsm_measure_begin(result);
    end = result->wall_ns + min_ns;
    while (good && ihsm_goes_on(result, ihsm_now_ns(), end)) {
        for (uint32_t i = 0; i < burst; i++) {
            count++;
            memcpy(iv, &count, sizeof count);
            good &= library->EVP_EncryptInit_ex(context, NULL, NULL, NULL, iv);
            good &= library->EVP_EncryptUpdate(context, target + buffer * stride, &length, source + buffer * stride,
                                               (int)bytes);
            buffer = buffer + 1 < buffers ? buffer + 1 : 0;
        }
        result->operations += burst;
    }
    ihsm_measure_end(result);
    library->EVP_CIPHER_CTX_free(context);
    return good ? 0 : -EIO;
}

int ihsm_bench_xts(struct ihsm_bench_library *library, const uint8_t key[64], const uint8_t *source, uint8_t *target,
                   uint32_t buffers, uint64_t stride, uint32_t bytes, uint64_t min_ns,
                   struct ihsm_bench_result *result) {
    return encrypt_untagged(library, library->EVP_aes_256_xts(), key, source, target, buffers, stride, bytes, min_ns,
                            result);
}

int ihsm_bench_cbc(struct ihsm_bench_library *library, const uint8_t key[32], const uint8_t *source, uint8_t *target,
                   uint32_t buffers, uint64_t stride, uint32_t bytes, uint64_t min_ns,
                   struct ihsm_bench_result *result) {
    return encrypt_untagged(library, library->EVP_aes_256_cbc(), key, source, target, buffers, stride, bytes, min_ns,
                            result);
}

int ihsm_bench_hmac(struct ihsm_bench_library *library, const uint8_t key[32], const uint8_t *message, uint32_t bytes,
                    uint64_t min_ns, struct ihsm_bench_result *result) {
    uint32_t burst = calls_per_clock(bytes);
    void *context = library->HMAC_CTX_new();
    uint8_t tag[HMAC_TAG_BYTES];
    unsigned length;
    uint64_t end;
    int good = context && library->HMAC_Init_ex(context, key, HMAC_TAG_BYTES, library->EVP_sha256(), NULL);

    ihsm_measure_begin(result);
    end = result->wall_ns + min_ns;
    while (good && ihsm_goes_on(result, ihsm_now_ns(), end)) {
        for (uint32_t i = 0; i < burst; i++) {
            good &= library->HMAC_Init_ex(context, NULL, 0, NULL, NULL); /* the same key again */
            good &= library->HMAC_Update(context, message, bytes);
            good &= library->HMAC_Final(context, tag, &length);
        }
        result->operations += burst;
    }
    ihsm_measure_end(result);
    library->HMAC_CTX_free(context);
    return good ? 0 : -EIO;
}

int ihsm_bench_sign(struct ihsm_bench_library *library, const uint8_t *der, size_t der_bytes, const uint8_t *digest,
                    size_t digest_bytes, uint64_t min_ns, struct ihsm_bench_result *result) {
    void *key = library->d2i_AutoPrivateKey(NULL, &der, (long)der_bytes);
    void *context = key ? library->EVP_PKEY_CTX_new(key, NULL) : NULL;
    uint8_t signature[MAX_SIGNATURE];
    int good = context && library->EVP_PKEY_sign_init(context) == 1;
    uint64_t end;

    ihsm_measure_begin(result);
    end = result->wall_ns + min_ns;
    while (good && ihsm_goes_on(result, ihsm_now_ns(), end)) {
        size_t length = sizeof signature;

        good = library->EVP_PKEY_sign(context, signature, &length, digest, digest_bytes) == 1;
        result->operations++;
    }
    ihsm_measure_end(result);
    library->EVP_PKEY_CTX_free(context);
    library->EVP_PKEY_free(key);
    return good ? 0 : -EIO;
}

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A PKCS#11 token, through the few functions of version 2.40 that a benchmark needs. Numbers are those of the standard.
 */
#include "bench/clock.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long ulong;

struct mechanism {
    ulong type;
    const void *parameter;
    ulong bytes;
};

struct attribute {
    ulong type;
    const void *value;
    ulong bytes;
};

struct gcm_parameters {
    const uint8_t *iv;
    ulong iv_bytes;
    ulong iv_bits;
    const uint8_t *aad;
    ulong aad_bytes;
    ulong tag_bits;
};

struct token_info {
    char label[32];
    uint8_t rest[256];
};

enum {
    CKM_AES_GCM = 0x1087,
    CKM_AES_KEY_GEN = 0x1080,
    CKM_EC_KEY_PAIR_GEN = 0x1040,
    CKM_ECDSA = 0x1041,
    CKA_TOKEN = 0x1,
    CKA_PRIVATE = 0x2,
    CKA_ENCRYPT = 0x104,
    CKA_SIGN = 0x108,
    CKA_VERIFY = 0x10A,
    CKA_VALUE_LEN = 0x161,
    CKA_EC_PARAMS = 0x180,
    CKF_SERIAL_SESSION = 4,
    CKF_RW_SESSION = 2,
    CKU_USER = 1,
    MAX_SLOTS = 64,
};

/* Places in the function list, which starts with a version in the room of one pointer. */
enum {
    INITIALIZE = 1,
    FINALIZE = 2,
    GET_SLOT_LIST = 5,
    GET_TOKEN_INFO = 7,
    OPEN_SESSION = 13,
    LOGIN = 19,
    ENCRYPT_INIT = 30,
    ENCRYPT = 31,
    SIGN_INIT = 43,
    SIGN = 44,
    GENERATE_KEY = 59,
    GENERATE_KEY_PAIR = 60,
};

struct ihsm_bench_token {
    void *const *functions;
    ulong session;
    ulong aes_key;
    ulong ec_key;
};

#define CALL(token, place, parameters, ...) (((ulong(*) parameters)(token)->functions[place])(__VA_ARGS__))

static const uint8_t yes = 1, no = 0;

static ulong make_keys(struct ihsm_bench_token *token) {
    static const uint8_t p256[] = {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07};
    const ulong aes_bytes = 32;
    struct mechanism make_aes = {CKM_AES_KEY_GEN, NULL, 0}, make_ec = {CKM_EC_KEY_PAIR_GEN, NULL, 0};
    struct attribute aes[] = {{CKA_TOKEN, &no, 1},
                              {CKA_PRIVATE, &yes, 1},
                              {CKA_ENCRYPT, &yes, 1},
                              {CKA_VALUE_LEN, &aes_bytes, sizeof aes_bytes}};
    struct attribute public_key[] = {{CKA_TOKEN, &no, 1}, {CKA_VERIFY, &yes, 1}, {CKA_EC_PARAMS, p256, sizeof p256}};
    struct attribute private_key[] = {{CKA_TOKEN, &no, 1}, {CKA_PRIVATE, &yes, 1}, {CKA_SIGN, &yes, 1}};
    ulong verifier;
    ulong rv = CALL(token, GENERATE_KEY, (ulong, struct mechanism *, struct attribute *, ulong, ulong *),
                    token->session, &make_aes, aes, 4, &token->aes_key);

    if (rv)
        return rv;
    return CALL(token, GENERATE_KEY_PAIR,
                (ulong, struct mechanism *, struct attribute *, ulong, struct attribute *, ulong, ulong *, ulong *),
                token->session, &make_ec, public_key, 3, private_key, 3, &verifier, &token->ec_key);
}

static ulong open_session(struct ihsm_bench_token *token, const char *label, const char *pin) {
    ulong slots[MAX_SLOTS], count = MAX_SLOTS;
    ulong rv = CALL(token, GET_SLOT_LIST, (uint8_t, ulong *, ulong *), 1, slots, &count);
    struct token_info info;

    for (ulong i = 0; !rv && i < count; i++) {
        if (CALL(token, GET_TOKEN_INFO, (ulong, struct token_info *), slots[i], &info) ||
            strncmp(info.label, label, strlen(label)) != 0)
            continue;
        rv = CALL(token, OPEN_SESSION, (ulong, ulong, void *, void *, ulong *), slots[i],
                  CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &token->session);
        return rv ? rv
                  : CALL(token, LOGIN, (ulong, ulong, const char *, ulong), token->session, CKU_USER, pin, strlen(pin));
    }
    return rv ? rv : ENOENT;
}

struct ihsm_bench_token *ihsm_bench_token_open(const char *module, const char *label, const char *pin, int *error) {
    void *handle = dlopen(module, RTLD_NOW | RTLD_LOCAL);
    struct ihsm_bench_token *token = handle ? calloc(1, sizeof *token) : NULL;
    ulong (*get_list)(void *const **);
    ulong rv;

    *error = ENOENT;
    if (!token)
        return NULL;
    *(void **)&get_list = dlsym(handle, "C_GetFunctionList");
    if (!get_list || get_list(&token->functions)) {
        free(token);
        return NULL;
    }
    rv = CALL(token, INITIALIZE, (void *), NULL);
    if (!rv)
        rv = open_session(token, label, pin);
    if (!rv)
        rv = make_keys(token);
    if (rv) {
        *error = (int)rv;
        ihsm_bench_token_close(token);
        return NULL;
    }
    *error = 0;
    return token;
}

void ihsm_bench_token_close(struct ihsm_bench_token *token) {
    CALL(token, FINALIZE, (void *), NULL);
    free(token);
}

int ihsm_bench_token_gcm(struct ihsm_bench_token *token, const uint8_t *source, uint8_t *target, uint32_t buffers,
                         uint64_t stride, uint32_t aad_bytes, uint32_t bytes, uint64_t min_ns,
                         struct ihsm_bench_result *result) {
    uint8_t iv[12] = {0};
    uint8_t *sealed = malloc(bytes + 64);
    uint64_t end, count = 0;
    uint32_t buffer = 0;
    ulong rv = sealed ? 0 : ENOMEM;

    ihsm_measure_begin(result);
    end = result->wall_ns + min_ns;
    while (!rv && ihsm_goes_on(result, ihsm_now_ns(), end)) {
        const uint8_t *in = source + buffer * stride;
        struct gcm_parameters gcm = {iv, sizeof iv, 8 * sizeof iv, in, aad_bytes, 128};
        struct mechanism mechanism = {CKM_AES_GCM, &gcm, sizeof gcm};
        ulong length = bytes + 64;

        count++;
        memcpy(iv, &count, sizeof count);
        rv = CALL(token, ENCRYPT_INIT, (ulong, struct mechanism *, ulong), token->session, &mechanism, token->aes_key);
        if (!rv)
            rv = CALL(token, ENCRYPT, (ulong, const uint8_t *, ulong, uint8_t *, ulong *), token->session,
                      in + aad_bytes, bytes, sealed, &length);
        memcpy(target + buffer * stride + aad_bytes, sealed, bytes);
        buffer = buffer + 1 < buffers ? buffer + 1 : 0;
        result->operations++;
    }
    ihsm_measure_end(result);
    free(sealed);
    return rv ? -EIO : 0;
}

int ihsm_bench_token_ecdsa_p256(struct ihsm_bench_token *token, const uint8_t digest[32], uint64_t min_ns,
                                struct ihsm_bench_result *result) {
    struct mechanism mechanism = {CKM_ECDSA, NULL, 0};
    uint8_t signature[64];
    uint64_t end;
    ulong rv = 0;

    ihsm_measure_begin(result);
    end = result->wall_ns + min_ns;
    while (!rv && ihsm_goes_on(result, ihsm_now_ns(), end)) {
        ulong length = sizeof signature;

        rv = CALL(token, SIGN_INIT, (ulong, struct mechanism *, ulong), token->session, &mechanism, token->ec_key);
        if (!rv)
            rv = CALL(token, SIGN, (ulong, const uint8_t *, ulong, uint8_t *, ulong *), token->session, digest, 32,
                      signature, &length);
        result->operations++;
    }
    ihsm_measure_end(result);
    return rv ? -EIO : 0;
}

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * EccSign, RsaModExp, Hmac, AesEncryptDecrypt, as ihsm_device/hsm/operations has them (spec 05 §7, §9, §12).
 *
 * What a key may be used for, and how its numbers look on the wire, has been decided by who published it.
 */
#include "operations.h"

#include "keystore/keystore.cdef.h"

enum { AES_BLOCK = 16 };

/* Everything has been read, and the key may do it with this choice of the request's. */
static bool has_key(struct ihsm_job *job, uint16_t key_id, uint32_t choice) {
    struct ihsm_published_key *key = &job->key;
    job->key_id = key_id;
    return job->in.at == job->in.len && ihsm_published_find_key(job->published, key_id, key, &job->key_ticket) &&
           key->operation == job->head.op && (key->session == IHSM_ANY_SESSION || key->session == job->head.sess_id) &&
           choice < 32 && ((job->fips ? key->approved : key->choices) >> choice & 1) != 0;
}

static void write_head(struct ihsm_job *job) {
    struct ihsm_resp_hdr head = {.rev_major = job->head.rev_major,
                                 .rev_minor = job->head.rev_minor,
                                 .op = job->head.op,
                                 .sess_id = job->head.sess_id,
                                 .status = IHSM_DDI_STATUS_SUCCESS,
                                 .fips_approved = job->fips};
    ihsm_resp_hdr_write(&job->out, &head);
}

/* A number of the wire in big-endian form, or the other way round. */
static void turn(const struct ihsm_job *job, uint8_t *to, const uint8_t *from, size_t len) {
    if (ihsm_published_little_endian(job->published))
        for (size_t i = 0; i < len; i++)
            to[i] = from[len - 1 - i];
    else
        memcpy(to, from, len);
}

/* The digest in big-endian form; false: it is not of the usual length, or longer than the curve's order. */
static bool read_digest(const struct ihsm_job *job, const struct ihsm_octets *wire,
                        uint8_t digest[IHSM_ECC_SIGN_REQ_DIGEST_MAX], size_t *len) {
    *len = wire->len;
    if (job->key.digest_wire_bytes != 0) {
        if (wire->len != job->key.digest_wire_bytes)
            return false;
        *len = job->key.digest_significant_bytes;
        for (size_t i = *len; i < wire->len; i++)
            if (wire->bytes[i] != 0)
                return false;
    }
    turn(job, digest, wire->bytes, *len);
    return *len > 0;
}

static bool ecc_sign(struct ihsm_job *job) {
    struct ihsm_ecc_sign_req request;
    uint8_t digest[IHSM_ECC_SIGN_REQ_DIGEST_MAX], signature[IHSM_ECC_SIGN_RESP_SIGNATURE_MAX];
    size_t digest_len, len;
    if (!ihsm_ecc_sign_req_read(&job->in, &request) || !has_key(job, request.key_id, request.digest_algo) ||
        !read_digest(job, &request.digest, digest, &digest_len) ||
        ks_ec_sign(job->key.handle, digest, digest_len, signature, &len) != KS_OK)
        return false;
    uint16_t half = job->key.bytes, wire = job->key.wire_bytes;
    struct ihsm_ecc_sign_resp response = {.signature.len = (uint16_t)(2 * wire)};
    write_head(job);
    ihsm_ecc_sign_resp_write(&job->out, &response);
    memset(response.signature.bytes, 0, response.signature.len);
    turn(job, response.signature.bytes, signature, half);
    turn(job, response.signature.bytes + wire, signature + half, half);
    return true;
}

static bool rsa_mod_exp(struct ihsm_job *job) {
    struct ihsm_rsa_mod_exp_req request;
    uint8_t y[IHSM_RSA_MOD_EXP_REQ_Y_MAX], x[IHSM_RSA_MOD_EXP_RESP_X_MAX];
    if (!ihsm_rsa_mod_exp_req_read(&job->in, &request) || !has_key(job, request.key_id, request.op_type))
        return false;
    turn(job, y, request.y.bytes, request.y.len);
    if (ks_rsa_private(job->key.handle, y, request.y.len, x) != KS_OK)
        return false;
    struct ihsm_rsa_mod_exp_resp response = {.x.len = job->key.wire_bytes};
    write_head(job);
    ihsm_rsa_mod_exp_resp_write(&job->out, &response);
    turn(job, response.x.bytes, x, response.x.len);
    return true;
}

static bool hmac(struct ihsm_job *job) {
    struct ihsm_hmac_req request;
    if (!ihsm_hmac_req_read(&job->in, &request) || !has_key(job, request.key_id, 0))
        return false;
    struct ihsm_hmac_resp response = {.tag.len = job->key.wire_bytes};
    write_head(job);
    ihsm_hmac_resp_write(&job->out, &response);
    return ks_hmac(job->key.handle, job->key.hash, request.msg.bytes, request.msg.len, response.tag.bytes) == KS_OK;
}

static bool aes_encrypt_decrypt(struct ihsm_job *job) {
    struct ihsm_aes_encrypt_decrypt_req request;
    if (!ihsm_aes_encrypt_decrypt_req_read(&job->in, &request) || !has_key(job, request.key_id, request.op) ||
        request.iv.len != AES_BLOCK || request.msg.len == 0 || request.msg.len % AES_BLOCK != 0)
        return false;
    bool encrypt = request.op == IHSM_AES_OP_ENCRYPT;
    struct ihsm_aes_encrypt_decrypt_resp response = {.msg.len = request.msg.len, .iv.len = AES_BLOCK};
    write_head(job);
    ihsm_aes_encrypt_decrypt_resp_write(&job->out, &response);
    if (ks_aes_cbc(job->key.handle, encrypt, request.iv.bytes, request.msg.bytes, request.msg.len,
                   response.msg.bytes) != KS_OK)
        return false;
    /* The last block of ciphertext continues the chain. */
    const uint8_t *ciphertext = encrypt ? response.msg.bytes : request.msg.bytes;
    memcpy(response.iv.bytes, ciphertext + request.msg.len - AES_BLOCK, AES_BLOCK);
    return true;
}

const struct ihsm_operation *ihsm_operation_find(uint32_t code) {
    static const struct ihsm_operation operations[] = {
        {.code = IHSM_DDI_OP_ECC_SIGN, .run = ecc_sign},
        {.code = IHSM_DDI_OP_RSA_MOD_EXP, .run = rsa_mod_exp, .slow = true},
        {.code = IHSM_DDI_OP_AES_ENCRYPT_DECRYPT, .run = aes_encrypt_decrypt},
        {.code = IHSM_DDI_OP_HMAC, .run = hmac},
    };
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++)
        if (operations[i].code == code)
            return &operations[i];
    return NULL;
}

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys that come from outside: DER of imports, masked and sealed blobs, wrapped keys, points.
 *
 * An input is one byte that says what it is, and the rest. Where a tag would refuse whatever the fuzzer makes, the
 * harness computes it, so that what is behind is reached: the format of keys in the vault.
 */
#include "input.h"
#include "keystore/keystore.h"

enum { OWNER = 1, MAX_TEXT = 4096 };
static const uint8_t secret_bytes[MASKING_KEY_SIZE] = {1, 2, 3};
static uint64_t masking, sealing, kek, rsa;
static struct ks_object *masking_object;

static uint64_t imported(size_t size) {
    uint64_t key;
    REQUIRE(ks_import_secret(secret_bytes, size, 0, &key) == KS_OK);
    return key;
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    REQUIRE(ks_open(1, 0) == KS_OK);
    masking = imported(MASKING_KEY_SIZE);
    sealing = kek = imported(32);
    REQUIRE(ks_rsa_generate(2048, 1, 0, &rsa) == KS_OK);
    REQUIRE(ks_acquire(masking, SECRET_KIND, &masking_object) == KS_OK);
    return 0;
}

/* A key that was taken gives back what it was made of: its vault form is read as the same key. */
static void require_readable(uint64_t key) {
    struct ks_object *object, *again = NULL;
    uint8_t first[KS_MAX_SECRET], second[KS_MAX_SECRET];
    REQUIRE(ks_acquire(key, ANY_KIND, &object) == KS_OK);
    size_t size = ks_form_size(object);
    REQUIRE(size > 0 && size <= sizeof first && ks_form_write(object, first) == KS_OK);
    int param = object->kind == KS_KIND_SECRET ? (int)object->size
                : object->kind == KS_KIND_EC   ? object->curve
                                               : (int)(8 * object->size);
    REQUIRE(ks_form_read(object->kind, param, first, &again) == KS_OK);
    REQUIRE(ks_form_write(again, second) == KS_OK && memcmp(first, second, size) == 0);
    ks_object_free(again);
    ks_release(object);
}

static void der(struct input *input, bool ec, bool crt) {
    uint64_t text, key;
    size_t size;
    if (input->left == 0 || ks_import_secret(input->data, input->left, OWNER, &text) != KS_OK)
        return;
    if ((ec ? ks_ec_import_der(text, OWNER, &key, &size) : ks_rsa_import_der(text, crt, OWNER, &key, &size)) == KS_OK)
        require_readable(key);
}

/* Half a masked blob is the fuzzer's: what its numbers say, and with `forged` the text below a tag that is right. */
static void masked(struct input *input, bool forged) {
    static const int params[] = {1, 2, 3, 2048, 3072, 4096, 32, 80};
    int kind = take_u8(input), param = params[take_u8(input) % (sizeof params / sizeof *params)];
    uint16_t offset = take_u16(input), encrypted_size = take_u16(input);
    uint8_t iv[AES_BLOCK];
    take(input, iv, sizeof iv);
    size_t size = input->left;
    uint8_t *blob = malloc(size + TAG_SIZE);
    REQUIRE(blob != NULL);
    memcpy(blob, input->data, size);
    if (forged) {
        offset = 0;
        encrypted_size = (uint16_t)(size - size % AES_BLOCK);
        REQUIRE(ks_cbc(masking_object->bytes, MASKING_AES_SIZE, true, iv, input->data, encrypted_size, blob) == KS_OK);
        REQUIRE(ks_mac(ks_md(HASH_SHA384), masking_object->bytes + MASKING_AES_SIZE,
                       MASKING_KEY_SIZE - MASKING_AES_SIZE, blob, size, blob + size) == KS_OK);
        size += TAG_SIZE;
    }
    const ks_masked what = {
        .blob = blob, .blob_size = size, .iv = iv, .offset = offset, .encrypted_size = encrypted_size};
    int valid;
    uint64_t key;
    REQUIRE(ks_verify_masked(masking, blob, size, &valid) == KS_OK);
    int status = ks_unmask(masking, &what, kind, param, OWNER, &key);
    REQUIRE(valid == forged); /* nobody guesses a tag */
    REQUIRE(forged || status != KS_OK);
    if (status == KS_OK)
        require_readable(key);
    free(blob);
}

static void sealed(struct input *input) {
    uint64_t key;
    uint8_t *blob = malloc(input->left + 1); /* of its own, so that a read beyond the end is noticed */
    REQUIRE(blob != NULL);
    memcpy(blob, input->data, input->left);
    REQUIRE(ks_unseal(blob, input->left, sealing, NULL, 0, OWNER, &key) != KS_OK);
    free(blob);
}

/* The vault form as it stands in a blob whose tag is right. */
static void form(struct input *input) {
    static const int params[] = {1, 2, 3, 2048, 3072, 4096, 32, 80, KS_MAX_SECRET, 0, -1};
    int kind = take_u8(input), param = params[take_u8(input) % (sizeof params / sizeof *params)];
    size_t size = ks_form_size_of(kind, param);
    uint8_t *bytes = malloc(size + 1);
    REQUIRE(bytes != NULL);
    take(input, bytes, size);
    struct ks_object *object;
    uint64_t key;
    if (ks_form_read(kind, param, bytes, &object) == KS_OK) {
        REQUIRE(ks_register(object, OWNER, &key) == KS_OK);
        require_readable(key);
    } else {
        REQUIRE(object == NULL);
    }
    free(bytes);
}

static void unwrapped(struct input *input) {
    uint64_t key;
    if (take_u8(input) & 1)
        (void)ks_aes_kwp_unwrap(kek, input->data, input->left, OWNER, &key);
    else
        (void)ks_rsa_oaep_decrypt(rsa, take_u8(input), input->data, input->left, OWNER, &key);
}

static void point(struct input *input) {
    uint8_t digest[MAX_DIGEST], signature[2 * MAX_COORDINATE];
    int curve = take_u8(input) % 5, valid;
    size_t digest_size = take_u8(input) % (sizeof digest + 1), signature_size = take_u8(input) % (sizeof signature + 1);
    take(input, digest, sizeof digest);
    take(input, signature, sizeof signature);
    int status = ks_ec_check_point(curve, input->data, input->left);
    int verified =
        ks_ec_verify(curve, input->data, input->left, digest, digest_size, signature, signature_size, &valid);
    REQUIRE(status == KS_OK || verified != KS_OK || !valid);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, size > MAX_TEXT ? MAX_TEXT : size};
    ks_stats before, after;
    ks_statistics(&before);
    switch (take_u8(&input) % 9) {
    case 0:
        der(&input, true, false);
        break;
    case 1:
        der(&input, false, false);
        break;
    case 2:
        der(&input, false, true);
        break;
    case 3:
        masked(&input, false);
        break;
    case 4:
        masked(&input, true);
        break;
    case 5:
        sealed(&input);
        break;
    case 6:
        form(&input);
        break;
    case 7:
        unwrapped(&input);
        break;
    default:
        point(&input);
    }
    ks_destroy_group(OWNER, ~UINT64_C(0));
    ks_statistics(&after);
    REQUIRE(after.keys == before.keys && after.keys_dying == 0);
    return 0;
}

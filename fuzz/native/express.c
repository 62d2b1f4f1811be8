/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests as the express lane reads them, with a key of each operation.
 *
 * An input is a queue entry's command word,
 * control and session, and the message. There is no queue: completions are dropped once the response has been made.
 */
#include "express/express.h"

#include "express/operations.h"
#include "fast_keys.h"
#include "guest.h"

enum { SESSION = 3, FIPS = 1, MAY_BE_SLOW = 2, FIX_ENTRY = 4 };
static struct ihsm_published *published[2];
static struct ihsm_scheduler *scheduler;

static void publish(uint32_t id, uint64_t handle, uint32_t operation, uint16_t bytes, uint16_t wire, uint16_t digest) {
    const struct ihsm_published_key key = {.handle = handle,
                                           .operation = operation,
                                           .choices = UINT32_MAX,
                                           .approved = 6,
                                           .session = IHSM_ANY_SESSION,
                                           .hash = 2,
                                           .bytes = bytes,
                                           .wire_bytes = wire,
                                           .digest_wire_bytes = digest,
                                           .digest_significant_bytes = digest == 68 ? 66 : digest};
    for (unsigned i = 0; i < 2; i++)
        REQUIRE(ihsm_publish_key(published[i], id, &key) == 0);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    const uint8_t secret[32] = {1};
    uint64_t key;
    REQUIRE(ks_open(0, 0) == KS_OK);
    scheduler = ihsm_scheduler_new(0, 0);
    REQUIRE(scheduler != NULL);
    for (unsigned i = 0; i < 2; i++) {
        published[i] = ihsm_published_new(i == 0, i == 1);
        REQUIRE(published[i] != NULL && ihsm_publish_session(published[i], SESSION, 1, 0) == 0);
    }
    REQUIRE(ks_import_secret(secret, sizeof secret, 0, &key) == KS_OK);
    publish(0x10, key, IHSM_DDI_OP_AES_ENCRYPT_DECRYPT, 0, 0, 0);
    publish(0x11, key, IHSM_DDI_OP_HMAC, 32, 32, 0);
    REQUIRE(ks_ec_generate(1, 0, &key) == KS_OK);
    publish(0x12, key, IHSM_DDI_OP_ECC_SIGN, 32, 32, 0);
    REQUIRE(ks_ec_generate(3, 0, &key) == KS_OK);
    publish(0x13, key, IHSM_DDI_OP_ECC_SIGN, 66, 68, 68);
    REQUIRE(ks_rsa_generate(2048, 1, 0, &key) == KS_OK);
    publish(0x14, key, IHSM_DDI_OP_RSA_MOD_EXP, 256, 256, 0);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, size};
    struct ihsm_host *host = ihsm_loopback_new();
    struct hsm_sqe sqe = {0};
    uint8_t how = take_u8(&input);
    REQUIRE(host != NULL);
    struct ihsm_engine *engine = ihsm_engine_new(scheduler, host, 1, false);
    REQUIRE(engine != NULL && ihsm_engine_set_express(engine, published[how & FIPS]) == 0);
    struct ihsm_command *command = calloc(1, sizeof *command);
    REQUIRE(command != NULL);
    command->queue_id = 1;
    sqe.command = take_u16(&input);
    sqe.control = take_u8(&input);
    sqe.session_id = take_u16(&input);
    if (how & FIX_ENTRY) {
        sqe.command = IHSM_HSM_OPCODE_NORMAL << IHSM_HSM_COMMAND_WORD_OPC_SHIFT;
        sqe.control = IHSM_IN_SESSION_CONTROL;
        sqe.session_id = SESSION;
    }
    memcpy(command->sqe, &sqe, sizeof sqe);
    command->request_len = (uint32_t)(input.left < sizeof command->request ? input.left : sizeof command->request);
    memcpy(command->request, input.data, command->request_len);
    struct ihsm_command before = *command;
    enum ihsm_express taken = ihsm_express(engine, command, how & MAY_BE_SLOW);
    REQUIRE(memcmp(&before, command, sizeof before) == 0);
    REQUIRE(taken != IHSM_EXPRESS_SLOW || !(how & MAY_BE_SLOW));
    free(command);
    ihsm_engine_close(engine);
    ihsm_engine_free(engine);
    ihsm_loopback_free(host);
    return 0;
}

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Checks of an AES queue entry in the order of spec 02 E.3, with the keys and buffers they lead to. */
#include "fastpath/command.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "keystore/arena.h"
#include "keystore/bulk.h"
#include "keystore/wipe.h"
#include "seam.h"

enum { LARGEST_KEY_NUMBER = UINT16_MAX };

/* ---- buffers ---- */

/* Address space for the longest list; pages come when a list is that long. */
static struct ihsm_piece *reserve_pieces(void) {
    void *pieces = mmap(NULL, IHSM_LIST_BLOCKS * sizeof(struct ihsm_piece), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return pieces == MAP_FAILED ? NULL : pieces;
}

/* Bytes that a list may keep from one command to the next; lists that take more are of data that take far longer. */
#define KEPT_BYTES (UINT64_C(1) << 20)

static void give_back(struct ihsm_pieces *pieces) {
    ihsm_pieces_clear(pieces);
    size_t touched = pieces->most * sizeof *pieces->piece;
    if (touched > KEPT_BYTES) {
        madvise((uint8_t *)pieces->piece + KEPT_BYTES, touched - KEPT_BYTES, MADV_DONTNEED);
        pieces->most = 0;
    }
}

static void scratch_free(void *pointer) {
    struct ihsm_fp_scratch *scratch = pointer;
    struct ihsm_pieces *lists[] = {&scratch->src, &scratch->dst};
    for (unsigned i = 0; i < 2; i++)
        if (lists[i]->piece)
            munmap(lists[i]->piece, IHSM_LIST_BLOCKS * sizeof(struct ihsm_piece));
    ks_arena_free(scratch);
}

static pthread_key_t scratch_key;
static pthread_once_t scratch_once = PTHREAD_ONCE_INIT;

static void make_scratch_key(void) {
    if (pthread_key_create(&scratch_key, scratch_free) != 0)
        abort();
}

struct ihsm_fp_scratch *ihsm_fp_scratch(void) {
    pthread_once(&scratch_once, make_scratch_key);
    struct ihsm_fp_scratch *scratch = pthread_getspecific(scratch_key);
    if (scratch)
        return scratch;
    scratch = ks_arena_alloc(sizeof *scratch);
    if (!scratch)
        return NULL;
    scratch->src.piece = reserve_pieces();
    scratch->dst.piece = reserve_pieces();
    if (!scratch->src.piece || !scratch->dst.piece || pthread_setspecific(scratch_key, scratch) != 0) {
        scratch_free(scratch);
        return NULL;
    }
    return scratch;
}

/* ---- checks ---- */

static void unload(struct ihsm_fp_scratch *scratch) {
    if (scratch->loaded)
        ihsm_gcm_wipe(&scratch->gcm);
    scratch->loaded = NULL;
    if (scratch->stained)
        ks_burn_stack(BURN_LIGHT);
    scratch->stained = false;
}

static void let_go(struct ihsm_fp_held *held) {
    if (held->key)
        ks_bulk_release(held->key);
    *held = (struct ihsm_fp_held){0};
}

/* Not inline: as good as every command finds its keys held. */
static __attribute__((noinline)) void acquire(struct ihsm_fp_context *context, struct ihsm_fp_held *held,
                                              uint32_t number) {
    if (held->key) {
        unload(context->scratch);
        let_go(held);
    }
    if (!context->function->keys || number > LARGEST_KEY_NUMBER)
        return;
    struct ks_bulk_key *key = ks_bulk_acquire(context->function->keys, number);
    if (key)
        *held = (struct ihsm_fp_held){key, ks_bulk_info(key), ks_bulk_aes(key), number};
    context->differ = false;
}

/* A key during a command; its `key` is NULL if the number names no live bulk key of the function. */
static inline const struct ihsm_fp_held *find(struct ihsm_fp_context *context, unsigned place, uint32_t number) {
    struct ihsm_fp_held *held = &context->held[place];
    if (!held->key || held->number != number || ks_bulk_deleted(held->key))
        acquire(context, held, number);
    return held;
}

/* Neither of two held keys changes, so they are compared once. */
static bool same_key(struct ihsm_fp_context *context) {
    if (!context->differ)
        context->differ = !ks_bulk_equal(context->held[0].key, context->held[1].key);
    return !context->differ;
}

void ihsm_fp_end(struct ihsm_fp_context *context) {
    if (context->scratch) {
        unload(context->scratch);
        give_back(&context->scratch->src);
        give_back(&context->scratch->dst);
    }
    if (context->held[0].key)
        ks_clear_registers();
    let_go(&context->held[0]);
    let_go(&context->held[1]);
}

/* An unused entry counts as type XTS. */
static bool is_gcm(const struct ihsm_fp_held *used) { return used->key && used->info->type != KS_BULK_XTS; }

/* The service indicator depends on nothing but the type of the first key (spec 02 E.3). */
static uint32_t indicator(const struct ihsm_fp_function *function, const struct ihsm_fp_held *used) {
    return used->key && used->info->type == KS_BULK_GCM_UNAPPROVED ? 0 : function->fips;
}

static bool other_session(const struct ihsm_fp_held *used, uint16_t session_id) {
    return used->info->session_only && used->info->session_id != session_id;
}

static unsigned gcm_error(const struct gcm_sqe *sqe, const struct ihsm_fp_held *used) {
    if (sqe->aligned_aad_len % IHSM_GCM_AAD_ALIGNMENT_BYTES != 0)
        return IHSM_GCM_ERROR_AAD_ALIGNMENT;
    if (sqe->key_id > LARGEST_KEY_NUMBER)
        return IHSM_GCM_ERROR_KEY_INDEX;
    if (!used->key)
        return IHSM_GCM_ERROR_KEY_NOT_OWNED;
    if (used->info->app_id != sqe->short_app_id)
        return IHSM_GCM_ERROR_KEY_APP;
    if (other_session(used, sqe->session_id))
        return IHSM_GCM_ERROR_KEY_SESSION;
    if (!is_gcm(used))
        return IHSM_GCM_ERROR_KEY_TYPE;
    if (sqe->src_len % IHSM_AES_BLOCK_BYTES != 0)
        return IHSM_GCM_ERROR_LENGTH_ALIGNMENT;
    return 0;
}

static unsigned xts_error(struct ihsm_fp_context *context, const struct xts_sqe *sqe, const struct ihsm_fp_held *key1,
                          const struct ihsm_fp_held *key2) {
    if (is_gcm(key1))
        return IHSM_XTS_ERROR_KEY1_TYPE;
    if (is_gcm(key2))
        return IHSM_XTS_ERROR_KEY2_TYPE;
    if (sqe->key_id1 > LARGEST_KEY_NUMBER)
        return IHSM_XTS_ERROR_KEY1_INDEX;
    if (sqe->key_id2 > LARGEST_KEY_NUMBER)
        return IHSM_XTS_ERROR_KEY2_INDEX;
    if (sqe->key_id1 == sqe->key_id2)
        return IHSM_XTS_ERROR_SAME_INDEX;
    if (!key1->key || !key2->key)
        return IHSM_XTS_ERROR_KEY_NOT_OWNED;
    if (key1->info->session_only != key2->info->session_only)
        return IHSM_XTS_ERROR_SESSION_ONLY_DIFFERS;
    if (same_key(context))
        return IHSM_XTS_ERROR_SAME_KEY;
    if (key1->info->app_id != sqe->short_app_id)
        return IHSM_XTS_ERROR_KEY1_APP;
    if (key2->info->app_id != sqe->short_app_id)
        return IHSM_XTS_ERROR_KEY2_APP;
    if (other_session(key1, sqe->session_id))
        return IHSM_XTS_ERROR_KEY1_SESSION;
    if (other_session(key2, sqe->session_id))
        return IHSM_XTS_ERROR_KEY2_SESSION;
    if (sqe->src_len % IHSM_AES_BLOCK_BYTES != 0)
        return IHSM_XTS_ERROR_LENGTH_ALIGNMENT;
    if (sqe->src_len > IHSM_XTS_MAX_BYTES)
        return IHSM_XTS_ERROR_TOO_LONG;
    return 0;
}

static void execute_gcm(struct ihsm_fp_command *c, const struct gcm_sqe *sqe) {
    const struct ihsm_fp_function *function = c->context->function;
    const struct ihsm_fp_held *used = find(c->context, 0, sqe->key_id);
    c->cqe->fips_approved = indicator(function, used);
    /* Drawn before the other checks, so that even a refused command shows it. */
    if (function->device_iv && !c->decrypt && used->key && used->info->type == KS_BULK_GCM_APPROVED)
        ihsm_random_iv(c->cqe->iv);
    else
        memcpy(c->cqe->iv, sqe->iv, sizeof sqe->iv);
    unsigned error = gcm_error(sqe, used);
    if (error) {
        ihsm_fp_fail(c, IHSM_AES_STATUS_INVALID_FIELD_GCM, error);
        return;
    }
    IHSM_SEAM(AES_KEY_FOUND);
    IHSM_SEAM_LITTER_STACK();
    if (c->scratch->loaded != used->key) {
        ihsm_gcm_load(&c->scratch->gcm, used->aes);
        c->scratch->loaded = used->key;
    }
    ihsm_gcm_run(c, sqe, used->aes);
}

static void execute_xts(struct ihsm_fp_command *c, const struct xts_sqe *sqe) {
    const struct ihsm_fp_function *function = c->context->function;
    const struct ihsm_fp_held *key1 = find(c->context, 0, sqe->key_id1);
    const struct ihsm_fp_held *key2 = find(c->context, 1, sqe->key_id2);
    c->cqe->fips_approved = indicator(function, key1);
    unsigned error = xts_error(c->context, sqe, key1, key2);
    if (error) {
        ihsm_fp_fail(c, IHSM_AES_STATUS_INVALID_FIELD_XTS, error);
        return;
    }
    IHSM_SEAM(AES_KEY_FOUND);
    IHSM_SEAM_LITTER_STACK();
    ihsm_xts_run(c, sqe, key1->aes, key2->aes);
}

void ihsm_fp_execute(struct ihsm_fp_context *context, const union ihsm_aes_entry *entry, struct aes_cqe *cqe) {
    unsigned attr = entry->common.attr;
    struct ihsm_fp_command command;
    command.context = context;
    command.scratch = context->scratch;
    command.sqe = &entry->common;
    command.cqe = cqe;
    command.meter = (struct ihsm_list_meter){0};
    command.unchecked = 0;
    command.mapped = false;
    command.decrypt = attr >> IHSM_AES_ATTR_DECRYPT_SHIFT & IHSM_AES_ATTR_DECRYPT_MASK;
    if ((attr >> IHSM_AES_ATTR_CIPHER_SHIFT & IHSM_AES_ATTR_CIPHER_MASK) == IHSM_CIPHER_XTS)
        execute_xts(&command, &entry->xts);
    else
        execute_gcm(&command, &entry->gcm);
}

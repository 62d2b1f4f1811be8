/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* AES fast path: from a fetched queue entry to its completion entry (spec 02 parts C and E, 05 §17). */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "abi.h"
#include "fastpath/sgl.h"

struct ihsm_aes_key;
struct ks_bulk_info;
struct ks_bulk_key;
struct ks_bulk_table;

/* What the fast path knows of a PCI function; set before its first AES queue exists. */
struct ihsm_fp_function {
    struct ks_bulk_table *keys; /* NULL: the function has no keys */
    bool fips;                  /* FIPS state, reported as service indicator */
    bool device_iv;             /* profile: approved GCM encryption uses an IV of the device's own */
};

/* An AES queue entry; `cipher` of the attribute word says which of the two it is. */
union ihsm_aes_entry {
    struct aes_sqe common;
    struct gcm_sqe gcm;
    struct xts_sqe xts;
};

/* Buffers of one thread. */
struct ihsm_fp_scratch;
/* Those of the calling thread, made when first asked for and gone with it; NULL: no memory. */
struct ihsm_fp_scratch *ihsm_fp_scratch(void);

/* A key kept from one command to the next, because finding it again costs as much as encrypting a block. */
struct ihsm_fp_held {
    struct ks_bulk_key *key; /* NULL: none, and so are the next two */
    const struct ks_bulk_info *info;
    const struct ihsm_aes_key *aes;
    uint32_t number;
};

/*
 * What a command may use. The region lock is held (read side) during ihsm_fp_execute; pointers to guest memory are
 * good until the next checkpoint.
 */
struct ihsm_fp_context {
    struct ihsm_regions *regions;
    /*
     * Who serves the command looks in about every 256 KiB or 256 list entries of a long one and lets a waiting mapping
     * callback through. False: the queue goes away, leave at once.
     */
    bool (*checkpoint)(struct ihsm_fp_context *context);
    const struct ihsm_fp_function *function;
    struct ihsm_fp_scratch *scratch;
    struct ihsm_fp_held held[2];     /* the first and the second key of the last command; released by ihsm_fp_end */
    bool differ;                     /* the two keys of an XTS command are known not to be the same 32 bytes */
    uint32_t max_steps;              /* of the lists of one command (struct ihsm_list_meter); with more it is put off */
    bool put_off;                    /* the command has not been carried out, and its completion is void */
    uint64_t steps;                  /* of the lists of all commands so far */
    struct ihsm_stretch unreachable; /* memory that the command was refused for; who serves it sets len to 0 again */
    unsigned remapped; /* how often a checkpoint has let a mapping callback in: pointers of before are void */
};

/*
 * Carry out one AES command. entry is a private copy. cqe comes zeroed but for attr and cmd_id; everything but sqhd,
 * sqid and phase is filled in. Neither blocks nor allocates.
 */
void ihsm_fp_execute(struct ihsm_fp_context *context, const union ihsm_aes_entry *entry, struct aes_cqe *cqe);

/* End of a row of commands with one context: lets go of the keys. Due soon, for a deleted key is not wiped before. */
void ihsm_fp_end(struct ihsm_fp_context *context);

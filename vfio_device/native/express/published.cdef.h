/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* What Python tells the express lane of a function: published.h. Read by cffi, which skips directives. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct ihsm_published;

enum ihsm_published_limits { IHSM_ANY_SESSION = 0xFFFF };

/* What a key is good for: one operation, and how numbers of its size look. Zero where the operation has none. */
struct ihsm_published_key {
    uint64_t handle;            /* in the key store */
    uint32_t operation;         /* its code */
    uint32_t choices;           /* values that the request's enumeration may have, by bit: hash, direction, purpose */
    uint32_t approved;          /* those of them that it may have in the FIPS state */
    uint16_t session;           /* that alone may name it, or IHSM_ANY_SESSION */
    uint16_t hash;              /* of an HMAC key, as the key store calls it */
    uint16_t bytes;             /* of a number that comes out: coordinate, modulus; of a tag */
    uint16_t wire_bytes;        /* of the same in the response */
    uint16_t digest_wire_bytes; /* of a digest in the request; 0: any */
    uint16_t digest_significant_bytes; /* of these, those that may differ from zero */
};

/* little_endian: numbers on the wire. NULL: no memory. */
struct ihsm_published *ihsm_published_new(bool little_endian, bool fips);
/* No engine has it any more. */
void ihsm_published_free(struct ihsm_published *published);
/*
 * What is published stands until it is withdrawn. Who withdraws returns when no answer that rests on it can follow.
 * -EINVAL: out of range; -EEXIST: there is one; -ENOMEM.
 */
int ihsm_publish_session(struct ihsm_published *published, uint32_t session_id, uint32_t major, uint32_t minor);
int ihsm_publish_key(struct ihsm_published *published, uint32_t key_id, const struct ihsm_published_key *key);
/* Nothing happens if there is none. */
void ihsm_withdraw_session(struct ihsm_published *published, uint32_t session_id);
void ihsm_withdraw_key(struct ihsm_published *published, uint32_t key_id);
void ihsm_withdraw_keys(struct ihsm_published *published);
/* Withdraw all sessions and publish none from now on: the error state. */
void ihsm_published_end(struct ihsm_published *published);
void ihsm_published_set_fips(struct ihsm_published *published, bool fips);

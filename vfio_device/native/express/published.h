/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions and keys of a function as the express lane sees them: found by number, without a lock.
 *
 * Who reads gets a copy and a ticket. What was copied may be withdrawn at once; so a command is carried out with the
 * copy, and before it is answered, session and key are held by their tickets. Holding fails if one of them was
 * withdrawn meanwhile, even if its number has been given away anew, and who withdraws waits for those who hold.
 */
#pragma once
#include "published.cdef.h"

struct ihsm_published_session {
    uint32_t major, minor;
};

/* False: there is none. */
bool ihsm_published_find_session(struct ihsm_published *published, uint32_t session_id,
                                 struct ihsm_published_session *session, uint64_t *ticket);
bool ihsm_published_find_key(struct ihsm_published *published, uint32_t key_id, struct ihsm_published_key *key,
                             uint64_t *ticket);
/* Both of what was found still stand, and will until they are let go. */
bool ihsm_published_hold(struct ihsm_published *published, uint32_t session_id, uint64_t session_ticket,
                         uint32_t key_id, uint64_t key_ticket);
void ihsm_published_let_go(struct ihsm_published *published, uint32_t session_id, uint32_t key_id);

bool ihsm_published_little_endian(const struct ihsm_published *published);
bool ihsm_published_fips(const struct ihsm_published *published);

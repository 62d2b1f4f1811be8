/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* What the express lane can do with a key. */
#pragma once
#include "ddi.h"
#include "published.h"

/* A command at work. Its session has been found. */
struct ihsm_job {
    struct ihsm_published *published;
    struct ihsm_req_hdr head;
    struct ihsm_mbor_in in; /* stands at the data map */
    struct ihsm_mbor_out out;
    bool fips;
    uint16_t key_id;
    uint64_t key_ticket;
    struct ihsm_published_key key;
};

struct ihsm_operation {
    uint32_t code;
    bool slow; /* it takes milliseconds */
    /* Read the data map, use the key, write the response; false: it is Python's, whatever has been written. */
    bool (*run)(struct ihsm_job *job);
};

const struct ihsm_operation *ihsm_operation_find(uint32_t code); /* NULL: the lane has no such operation */

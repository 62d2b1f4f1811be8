/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inner loops of `ihsm bench`. This header is also the cffi declaration: plain C, no directives. Functions return 0 or
 * a negative errno unless they say otherwise; none of them needs the interpreter lock.
 */

/* What one run measured; the caller's thread only. */
struct ihsm_bench_result {
    uint64_t operations;
    uint64_t failed;
    uint64_t wall_ns;
    uint64_t cpu_ns;
    uint64_t involuntary; /* context switches */
    uint64_t recorded;    /* latencies written */
};

/* A queue pair lent by the driver, with nothing outstanding. tail and cq are kept up to date. */
struct ihsm_bench_ring {
    uint8_t *sq;
    const uint8_t *table; /* prepared entries, one per slot of the SQ */
    uint32_t entries;
    uint32_t sqe_bytes;
    uint32_t sqe_cid; /* offset of the 16-bit command id */
    uint32_t cqe_cid;
    uint32_t tail;
    uint32_t outstanding;
    struct ihsm_cq cq;
    uint8_t *page; /* doorbell page; NULL: doorbells are messages on the socket */
    uint32_t sq_bell;
    uint32_t cq_bell;
    uint32_t asleep_offset; /* 0: nobody watches the page */
    int kick;               /* eventfd of the poller, -1 if none */
    int socket;
    uint8_t message[36];    /* posted write of 4 bytes to the doorbells; offset and value are filled in */
    int event;              /* eventfd of the queue's vector, -1: completions are polled */
    uint64_t *submitted_ns; /* per command id, 0 if not outstanding */
    uint16_t *free;         /* command ids that are not outstanding, the first `entries - outstanding` */
};

/*
 * Keep `depth` commands outstanding on each ring, submitting `batch` at a time, for at least min_ns, then drain. Where
 * completions are polled, and enough is outstanding, the caller sleeps for nap_ns between two looks, below a second.
 */
int ihsm_bench_closed_loop(struct ihsm_bench_ring *rings, uint32_t count, uint32_t depth, uint32_t batch,
                           uint64_t min_ns, uint32_t nap_ns, uint32_t *latencies_ns, uint64_t room,
                           struct ihsm_bench_result *result);
/* Submit one command every interval_ns whether or not earlier ones are done; latency counts from when it was due. */
int ihsm_bench_open_loop(struct ihsm_bench_ring *ring, uint64_t interval_ns, uint64_t min_ns, uint32_t *latencies_ns,
                         uint64_t room, struct ihsm_bench_result *result);

/* Round trips between two threads through a shared word, both spinning. */
int ihsm_bench_shared_memory(uint64_t min_ns, uint32_t *latencies_ns, uint64_t room, struct ihsm_bench_result *result);
/* Round trips of a doorbell message and a reply header over a Unix stream socket, both ends blocking. */
int ihsm_bench_socket(uint64_t min_ns, uint32_t *latencies_ns, uint64_t room, struct ihsm_bench_result *result);
/* Wake-ups of a blocked thread through an eventfd: half of a round trip over two of them. */
int ihsm_bench_eventfd(uint64_t min_ns, uint32_t *latencies_ns, uint64_t room, struct ihsm_bench_result *result);

/* A crypto library called directly. */
struct ihsm_bench_library;
struct ihsm_bench_library *ihsm_bench_aws_lc(void);
struct ihsm_bench_library *ihsm_bench_load(const char *path); /* an OpenSSL; NULL: cannot be loaded */
const char *ihsm_bench_version(struct ihsm_bench_library *library);
/*
 * AES-256 out of place over `buffers` sources and destinations in turn, as many bytes apart as `stride`; cached
 * context, new IV or tweak for each. Source: AAD, then text; destination likewise.
 */
int ihsm_bench_gcm(struct ihsm_bench_library *library, const uint8_t key[32], const uint8_t *source, uint8_t *target,
                   uint32_t buffers, uint64_t stride, uint32_t aad_bytes, uint32_t bytes, uint64_t min_ns,
                   struct ihsm_bench_result *result);
int ihsm_bench_xts(struct ihsm_bench_library *library, const uint8_t key[64], const uint8_t *source, uint8_t *target,
                   uint32_t buffers, uint64_t stride, uint32_t bytes, uint64_t min_ns,
                   struct ihsm_bench_result *result);
int ihsm_bench_cbc(struct ihsm_bench_library *library, const uint8_t key[32], const uint8_t *source, uint8_t *target,
                   uint32_t buffers, uint64_t stride, uint32_t bytes, uint64_t min_ns,
                   struct ihsm_bench_result *result);
/* HMAC-SHA-256 of one message; cached context, keyed once. */
int ihsm_bench_hmac(struct ihsm_bench_library *library, const uint8_t key[32], const uint8_t *message, uint32_t bytes,
                    uint64_t min_ns, struct ihsm_bench_result *result);
/* Signatures over a digest with a private key (DER). */
int ihsm_bench_sign(struct ihsm_bench_library *library, const uint8_t *der, size_t der_bytes, const uint8_t *digest,
                    size_t digest_bytes, uint64_t min_ns, struct ihsm_bench_result *result);

/* A PKCS#11 token, its first with the given label. */
struct ihsm_bench_token;
struct ihsm_bench_token *ihsm_bench_token_open(const char *module, const char *label, const char *pin, int *error);
void ihsm_bench_token_close(struct ihsm_bench_token *token);
int ihsm_bench_token_gcm(struct ihsm_bench_token *token, const uint8_t *source, uint8_t *target, uint32_t buffers,
                         uint64_t stride, uint32_t aad_bytes, uint32_t bytes, uint64_t min_ns,
                         struct ihsm_bench_result *result);
int ihsm_bench_token_ecdsa_p256(struct ihsm_bench_token *token, const uint8_t digest[32], uint64_t min_ns,
                                struct ihsm_bench_result *result);

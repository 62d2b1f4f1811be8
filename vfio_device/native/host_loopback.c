/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* A host inside the process, for tests: guest memory is a buffer of the caller's, vectors are counted. */
#include "descriptors.h"
#include "host.h"

#include <errno.h>
#include <stdlib.h>

struct loopback {
    struct ihsm_host host;
    int eventfds[IHSM_MSIX_VECTORS];
    uint64_t raised[IHSM_MSIX_VECTORS];
};

static bool raise_vector(struct ihsm_host *host, unsigned vector) {
    struct loopback *loopback = (struct loopback *)host;
    loopback->raised[vector]++;
    return loopback->eventfds[vector] < 0 || ihsm_notify(loopback->eventfds[vector]) == 0;
}

struct ihsm_host *ihsm_loopback_new(void) {
    struct loopback *loopback = calloc(1, sizeof *loopback);
    if (loopback == NULL)
        return NULL;
    if (ihsm_descriptors_init() != 0 || ihsm_host_init(&loopback->host, raise_vector) != 0) {
        free(loopback);
        return NULL;
    }
    for (unsigned vector = 0; vector < IHSM_MSIX_VECTORS; vector++)
        loopback->eventfds[vector] = -1;
    return &loopback->host;
}

void ihsm_loopback_free(struct ihsm_host *host) {
    ihsm_host_destroy(host);
    free(host);
}

int ihsm_loopback_map(struct ihsm_host *host, uint64_t iova, uint64_t size, uint8_t *memory, bool writable) {
    ihsm_host_lock(host);
    const struct ihsm_region region = {
        .iova = iova, .last = iova + (size - 1), .vaddr = memory, .readable = true, .writable = writable};
    int result = size == 0 ? -EINVAL : ihsm_host_map(host, &region);
    ihsm_host_unlock(host);
    return result;
}

int ihsm_loopback_unmap(struct ihsm_host *host, uint64_t iova, uint64_t size) {
    ihsm_host_lock(host);
    int result = ihsm_host_unmap(host, iova, size);
    ihsm_host_unlock(host);
    return result;
}

int ihsm_loopback_set_eventfd(struct ihsm_host *host, unsigned vector, int fd) {
    if (vector >= IHSM_MSIX_VECTORS)
        return -EINVAL;
    ihsm_host_lock(host);
    ((struct loopback *)host)->eventfds[vector] = fd;
    ihsm_host_unlock(host);
    return 0;
}

uint64_t ihsm_loopback_interrupts(struct ihsm_host *host, unsigned vector) {
    if (vector >= IHSM_MSIX_VECTORS)
        return 0;
    ihsm_host_lock(host);
    uint64_t count = ((struct loopback *)host)->raised[vector];
    ihsm_host_unlock(host);
    return count;
}

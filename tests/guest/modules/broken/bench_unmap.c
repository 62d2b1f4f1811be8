/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Unmaps memory twice. */
struct bench;
static void unmap_twice(struct bench *bench);

#define BENCH_ON_EXERCISE(bench) unmap_twice(bench)
#include "bench.h"

static noinline void unmap_twice(struct bench *bench) {
    struct device *device = &bench->pdev->dev;
    void *buffer = kzalloc(BENCH_RING_BYTES, GFP_KERNEL);
    dma_addr_t address;

    if (!buffer)
        return;
    address = dma_map_single(device, buffer, BENCH_RING_BYTES, DMA_TO_DEVICE);
    if (!dma_mapping_error(device, address)) {
        dma_unmap_single(device, address, BENCH_RING_BYTES, DMA_TO_DEVICE);
        dma_unmap_single(device, address, BENCH_RING_BYTES, DMA_TO_DEVICE);
    }
    kfree(buffer);
}

MODULE_DESCRIPTION("Frees a mapping twice when it is exercised");

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Time and load of the calling thread. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <time.h>

#include "ring.h"

#include "bench/bench.h" /* text for cffi, which may include nothing: it stands on ring.h */

static inline uint64_t ihsm_clock_ns(clockid_t clock) {
    struct timespec ts;

    clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline uint64_t ihsm_now_ns(void) { return ihsm_clock_ns(CLOCK_MONOTONIC); }

static inline uint64_t ihsm_involuntary(void) {
    struct rusage usage;

    getrusage(RUSAGE_THREAD, &usage);
    return (uint64_t)usage.ru_nivcsw;
}

static inline void ihsm_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield" ::: "memory");
#endif
}

static inline void ihsm_measure_begin(struct ihsm_bench_result *result) {
    *result = (struct ihsm_bench_result){
        .involuntary = ihsm_involuntary(),
        .cpu_ns = ihsm_clock_ns(CLOCK_THREAD_CPUTIME_ID),
        .wall_ns = ihsm_now_ns(),
    };
}

/*
 * Whether a run is not over.  It has one operation at least, however late its thread gets the processor: without one
 * there is no cost per operation.
 */
static inline int ihsm_goes_on(const struct ihsm_bench_result *result, uint64_t now_ns, uint64_t end_ns) {
    return !result->operations || now_ns < end_ns;
}

static inline void ihsm_measure_end(struct ihsm_bench_result *result) {
    result->wall_ns = ihsm_now_ns() - result->wall_ns;
    result->cpu_ns = ihsm_clock_ns(CLOCK_THREAD_CPUTIME_ID) - result->cpu_ns;
    result->involuntary = ihsm_involuntary() - result->involuntary;
}

static inline void ihsm_record(struct ihsm_bench_result *result, uint32_t *latencies_ns, uint64_t room, uint64_t ns) {
    if (result->recorded < room)
        latencies_ns[result->recorded++] = ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
}

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
#include "wipe.h"

#ifdef __x86_64__
#define LOW_REGISTERS                                                                                                  \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",         \
        "xmm13", "xmm14", "xmm15"
#define CLEAR_HIGH(n) "vpxord %%zmm" #n ", %%zmm" #n ", %%zmm" #n "\n\t"
#define CLEAR_LOW(n) "pxor %%xmm" #n ", %%xmm" #n "\n\t"
#define EIGHT_LOW(a, b, c, d, e, f, g, h)                                                                              \
    CLEAR_LOW(a) CLEAR_LOW(b) CLEAR_LOW(c) CLEAR_LOW(d) CLEAR_LOW(e) CLEAR_LOW(f) CLEAR_LOW(g) CLEAR_LOW(h)
#define EIGHT_HIGH(a, b, c, d, e, f, g, h)                                                                             \
    CLEAR_HIGH(a) CLEAR_HIGH(b) CLEAR_HIGH(c) CLEAR_HIGH(d) CLEAR_HIGH(e) CLEAR_HIGH(f) CLEAR_HIGH(g) CLEAR_HIGH(h)

/* Callers expect nothing of these registers (System V ABI 3.2.1), so that code built without AVX-512 may clear all. */
void __attribute__((noinline)) ks_clear_registers(void) {
    if (__builtin_cpu_supports("avx512f"))
        __asm__ volatile(EIGHT_HIGH(16, 17, 18, 19, 20, 21, 22, 23)
                             EIGHT_HIGH(24, 25, 26, 27, 28, 29, 30, 31) "vzeroall" ::
                                 : LOW_REGISTERS);
    else if (__builtin_cpu_supports("avx"))
        __asm__ volatile("vzeroall" ::: LOW_REGISTERS);
    else
        __asm__ volatile(EIGHT_LOW(0, 1, 2, 3, 4, 5, 6, 7) EIGHT_LOW(8, 9, 10, 11, 12, 13, 14, 15)::: LOW_REGISTERS);
}
#else
void ks_clear_registers(void) {}
#endif

/* Not inlined: its frame lies where those of the calls before it lay. */
void __attribute__((noinline)) ks_burn_stack(size_t size) {
    ks_wipe(__builtin_alloca(size), size);
    ks_clear_registers();
}

/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
#include "lines.h"

#if defined(__x86_64__)
#include <cpuid.h>

#define STRUCTURED_FEATURES 7
#define CLFLUSHOPT (1u << 23) /* of EBX */

bool ihsm_lines_stay_shared;

__attribute__((constructor)) static void look_at_cpu(void) {
    unsigned eax, ebx, ecx, edx;
    __builtin_cpu_init();
    ihsm_lines_stay_shared = __builtin_cpu_is("amd") &&
                             __get_cpuid_count(STRUCTURED_FEATURES, 0, &eax, &ebx, &ecx, &edx) && ebx & CLFLUSHOPT;
}
#else
bool ihsm_lines_stay_shared;
#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* dispatch.c - which levels of the kernels this processor runs.
 *
 * The only place that looks at the processor. __builtin_cpu_supports reads CPUID and also
 * asks whether the operating system saves the wide registers. This file is compiled for the
 * baseline, so nothing wider runs before the question is answered. */
#include "kernel.h"

extern const cpu_kernels cpu_level_scalar;
#if defined(__x86_64__)
extern const cpu_kernels cpu_level_avx2;
#endif

typedef struct level {
    const cpu_kernels *kernels;
    bool (*runs)(void);
} level;

static bool always(void)
{
    return true;
}

#if defined(__x86_64__)
static bool runs_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
}
#endif

/* Worst first. */
static const level levels[] = {
    {&cpu_level_scalar, always},
#if defined(__x86_64__)
    {&cpu_level_avx2, runs_avx2},
#endif
};

#define NLEVEL (sizeof levels / sizeof levels[0])

const cpu_kernels *cpu_kernels_at(uint32_t i)
{
    for (size_t j = 0; j < NLEVEL; j++)
        if (levels[j].runs() && i-- == 0)
            return levels[j].kernels;
    return NULL;
}

const cpu_kernels *cpu_kernels_pick(const char *name)
{
    const cpu_kernels *best = NULL;
    for (size_t j = 0; j < NLEVEL; j++) {
        bool wanted = name == NULL || strcmp(name, levels[j].kernels->name) == 0;
        if (wanted && levels[j].runs())
            best = levels[j].kernels;
    }
    return best;
}

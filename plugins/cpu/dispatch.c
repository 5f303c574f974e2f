/* SPDX-License-Identifier: Apache-2.0 */
/* dispatch.c - which levels of the kernels this processor runs.
 *
 * The only place that looks at the processor: CPUID for what it can do, XGETBV for whether
 * the operating system saves the registers it does it with. The compilers' own builtins do
 * not know all names needed here. This file is compiled for the baseline, so nothing wider
 * runs before the question is answered. */
#include "kernel.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

typedef struct level {
    const cpu_kernels *kernels;
    uint32_t needs;
} level;

#define HAS_AVX2 1u        /* with FMA and F16C */
#define HAS_AVXVNNI 2u
#define HAS_AVX512 4u      /* F, BW, VL and DQ */
#define HAS_AVX512VNNI 8u
#define HAS_AMX 16u        /* int8, and the leave to use it */

extern const cpu_kernels cpu_level_scalar;
#if defined(__x86_64__)
extern const cpu_kernels cpu_level_avx2, cpu_level_avxvnni;
extern const cpu_kernels cpu_level_avx512, cpu_level_avx512vnni, cpu_level_avx512amx;
#endif

/* Worst first. */
static const level levels[] = {
    {&cpu_level_scalar, 0},
#if defined(__x86_64__)
    {&cpu_level_avx2, HAS_AVX2},
    {&cpu_level_avxvnni, HAS_AVX2 | HAS_AVXVNNI},
    {&cpu_level_avx512, HAS_AVX2 | HAS_AVX512},
    {&cpu_level_avx512vnni, HAS_AVX2 | HAS_AVX512 | HAS_AVX512VNNI},
    {&cpu_level_avx512amx, HAS_AVX2 | HAS_AVX512 | HAS_AVX512VNNI | HAS_AMX},
#endif
};

#define NLEVEL (sizeof levels / sizeof levels[0])

#if defined(__x86_64__)
static bool has(uint32_t word, uint32_t bits)
{
    return (word & bits) == bits;
}

/* Register sets that the operating system saves: bit 1 sse, 2 avx, 5 to 7 avx512,
 * 17 and 18 amx. */
static uint32_t saved_registers(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

/* Linux gives a process the large registers of AMX when it asks, once for all its threads. */
static bool amx_allowed(void)
{
    enum { ASK = 0x1023, TILE_DATA = 18 }; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    return syscall(SYS_arch_prctl, ASK, TILE_DATA) == 0;
}

static uint32_t features(void)
{
    uint32_t a, b, c, d, found = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !has(c, bit_OSXSAVE | bit_AVX))
        return 0;
    uint32_t saved = saved_registers(), one = c;
    if (!has(saved, 0x06) || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return 0;
    uint32_t wide = b, more = c, last = d;
    if (!has(wide, bit_AVX2) || !has(one, bit_FMA | bit_F16C))
        return 0;
    found |= HAS_AVX2;
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && has(a, 1u << 4))
        found |= HAS_AVXVNNI;
    if (!has(saved, 0xe6) || !has(wide, bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ))
        return found;
    found |= HAS_AVX512;
    if (has(more, bit_AVX512VNNI))
        found |= HAS_AVX512VNNI;
    if (has(last, 3u << 24) && has(saved, 3u << 17) && amx_allowed())
        found |= HAS_AMX;
    return found;
}
#else
static uint32_t features(void)
{
    return 0;
}
#endif

const cpu_kernels *cpu_kernels_at(uint32_t i)
{
    uint32_t found = features();
    for (size_t j = 0; j < NLEVEL; j++)
        if ((levels[j].needs & ~found) == 0 && i-- == 0)
            return levels[j].kernels;
    return NULL;
}

const cpu_kernels *cpu_kernels_pick(const char *name)
{
    const cpu_kernels *best = NULL, *at;
    for (uint32_t i = 0; (at = cpu_kernels_at(i)) != NULL; i++)
        if (name == NULL || strcmp(name, at->name) == 0)
            best = at;
    return best;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* level_avx512vnni.c - the kernels for AVX-512 F, BW, VL, DQ and VNNI: Ice Lake and
 * Zen 4 onwards.
 *
 * Flags of this unit: -mavx2 -mfma -mf16c
 *   -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni. */
#if defined(__x86_64__)
#if !defined(__AVX512VNNI__) || !defined(__AVX512BW__) || !defined(__AVX512VL__) || \
    !defined(__AVX512DQ__)
#error "level_avx512vnni.c wants the flags of level_avx512.c and -mavx512vnni"
#endif

#include "lanes512.h"
#include "wide_linear.h"
#include "wide_vector.h"
#include "wide_attend.h"
#include "wide_rule.h"
#include "wide_table.h"

extern const cpu_kernels cpu_level_avx512vnni;
const cpu_kernels cpu_level_avx512vnni = WIDE_TABLE("avx512vnni");

#else
typedef int level_avx512vnni_is_for_x86;
#endif

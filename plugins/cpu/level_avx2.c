/* SPDX-License-Identifier: Apache-2.0 */
/* level_avx2.c - the kernels for AVX2, FMA and F16C: Haswell and Zen onwards.
 *
 * Flags of this unit: -mavx2 -mfma -mf16c. */
#if defined(__x86_64__)
#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "level_avx2.c wants -mavx2 -mfma -mf16c"
#endif

#include "lanes256.h"
#include "wide_linear.h"
#include "wide_vector.h"
#include "wide_attend.h"
#include "wide_rule.h"
#include "wide_table.h"

extern const cpu_kernels cpu_level_avx2;
const cpu_kernels cpu_level_avx2 = WIDE_TABLE("avx2");

#else
typedef int level_avx2_is_for_x86;
#endif

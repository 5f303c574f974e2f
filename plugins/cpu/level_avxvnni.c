/* SPDX-License-Identifier: Apache-2.0 */
/* level_avxvnni.c - the kernels for AVX2, FMA, F16C and the 256-bit VNNI that came
 * without AVX-512: Alder Lake onwards.
 *
 * Flags of this unit: -mavx2 -mfma -mf16c -mavxvnni. */
#if defined(__x86_64__)
#if !defined(__AVXVNNI__) || !defined(__FMA__) || !defined(__F16C__)
#error "level_avxvnni.c wants -mavx2 -mfma -mf16c -mavxvnni"
#endif

#include "lanes256.h"
#include "wide_linear.h"
#include "wide_vector.h"
#include "wide_attend.h"
#include "wide_rule.h"
#include "wide_table.h"

extern const cpu_kernels cpu_level_avxvnni;
const cpu_kernels cpu_level_avxvnni = WIDE_TABLE("avxvnni");

#else
typedef int level_avxvnni_is_for_x86;
#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* level_avx512amx.c - the kernels of avx512vnni, with a prompt's products of 4-bit codes in
 * the registers of AMX: Sapphire Rapids onwards.
 *
 * Flags of this unit: -mavx2 -mfma -mf16c
 *   -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mamx-tile -mamx-int8. */
#if defined(__x86_64__)
#if (!defined(__AMX_INT8__) && !defined(__AMXINT8__)) || /* gcc's name, and clang's */ \
    !defined(__AVX512VNNI__) || !defined(__AVX512BW__) || !defined(__AVX512VL__) || \
    !defined(__AVX512DQ__)
#error "level_avx512amx.c wants the flags of level_avx512vnni.c, -mamx-tile and -mamx-int8"
#endif

#define LANES_GRID 1
#include "lanes512.h"
#include "wide_linear.h"
#include "wide_vector.h"
#include "wide_attend.h"
#include "wide_rule.h"
#include "wide_table.h"

extern const cpu_kernels cpu_level_avx512amx;
const cpu_kernels cpu_level_avx512amx = WIDE_TABLE("avx512amx");

#else
typedef int level_avx512amx_is_for_x86;
#endif

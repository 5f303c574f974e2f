/* SPDX-License-Identifier: Apache-2.0 */
/* matrix.cuh - packed weights as the kernels see them: see gpu_matrix in gpu.h. */
#ifndef TN_CUDA_MATRIX_CUH
#define TN_CUDA_MATRIX_CUH

#include "gpu.h"
#include "lane.cuh"

/* --------------------------------------------------------------------------- activations */

LANE float activate(float x, uint32_t act)
{
    if (act == TN_ACT_SILU)
        return x / (1.0f + __expf(-x));
    if (act == TN_ACT_GELU)
        return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
}

/* -------------------------------------------------------------------------------- places */

/* Row r of the matrix: its tile and its row inside it. */
LANE void row_place(const gpu_matrix &w, uint32_t r, uint32_t *tile, uint32_t *in)
{
    if (!w.pairs) {
        *tile = r / 16;
        *in = r % 16;
        return;
    }
    uint32_t half = w.n / 2, second = r >= half ? 1 : 0, i = r - second * half;
    *tile = i / 8;
    *in = i % 8 + 8 * second;
}

/* Where products of warpgroups want column `col` of x: of every 32 columns, pair j of lane t's
 * eight stands at pair 4 j + t instead of 4 t + j. The same way back. */
LANE uint32_t turned_column(uint32_t col)
{
    return (col & ~31u) | (col / 2 % 4 * 4 + col % 32 / 8) * 2 | (col & 1);
}

/* Bytes of the codes of one tile. */
LANE uint64_t tile_bytes(const gpu_matrix &w)
{
    return w.form == TN_FORM_W4G ? (uint64_t)w.cols * 8
                                 : w.form == TN_FORM_W8G ? (uint64_t)w.cols * 16
                                                         : (uint64_t)w.cols * 32;
}

/* Index of a group's scale or zero: row `in` of a tile. */
LANE uint64_t scale_at(const gpu_matrix &w, uint32_t tile, uint32_t in, uint32_t group)
{
    return (((uint64_t)tile * w.nquad + group / 4) * 8 + in % 8) * 8 + group % 4 * 2 + in / 8;
}

LANE uint32_t group_of(const gpu_matrix &w, uint32_t col)
{
    return w.group >= w.cols ? 0 : col / w.group;
}

/* Where eight columns from `col` (a multiple of 8) of row `in` of a tile lie. */
LANE uint64_t eight_at(const gpu_matrix &w, uint32_t tile, uint32_t in, uint32_t col)
{
    const uint32_t lane = in % 8 * 4 + col % 32 / 8, second = in / 8;
    uint64_t base = tile * tile_bytes(w);
    if (w.form == TN_FORM_W4G)
        return base + (uint64_t)(col / 64) * 512 + lane * 16 + col % 64 / 32 * 8 + second * 4;
    if (w.form == TN_FORM_W8G)
        return base + (uint64_t)(col / 32) * 512 + lane * 16 + second * 8;
    return base + (uint64_t)(col / 32) * 1024 + second * 512 + lane * 16;
}

/* One element, for embeddings and checks; slow. */
LANE float weight_at(const gpu_matrix &w, uint32_t expert, uint32_t r, uint32_t col)
{
    uint32_t tile, in;
    row_place(w, r, &tile, &in);
    const uint8_t *p = w.codes + expert * w.codes_size + eight_at(w, tile, in, col / 8 * 8);
    uint32_t i = col % 8;
    if (w.form == TN_FORM_F16)
        return __half2float(((const __half *)p)[i]);
    uint32_t code = w.form == TN_FORM_W8G ? p[i]
                                          : *(const uint32_t *)p >> (4 * (i / 2) + 16 * (i % 2)) & 15;
    uint64_t at = scale_at(w, tile, in, group_of(w, col));
    const uint16_t *scale = w.scale + expert * w.scale_size / 2;
    float zero = w.zero != NULL ? (float)w.zero[expert * w.zero_size + at]
                                : w.form == TN_FORM_W8G ? 128.0f : 8.0f;
    return ((float)code - zero) * __half2float(__ushort_as_half(scale[at]));
}

/* ----------------------------------------------------------------- operands of mma_f16 */

/* 0x6400 is 1024 as a half, whose last bits count ones: a code put there is 1024 + code. Both
 * differences below are exact. `zero` of a lane: of its row g and of row g + 8, prepared. */
typedef struct zeros {
    __half2 low[2];            /* 1024 + z */
    __half2 high[2];           /* 64 + z, for codes that come times 16 */
} zeros;

LANE zeros zeros_of(uint32_t form, float g, float g8)
{
    zeros z;
    float middle = 1024.0f;
    z.low[0] = __half2half2(__float2half_rn(middle + g));
    z.low[1] = __half2half2(__float2half_rn(middle + g8));
    z.high[0] = __half2half2(__float2half_rn(-64.0f - g));
    z.high[1] = __half2half2(__float2half_rn(-64.0f - g8));
    (void)form;
    return z;
}

/* The same from the two bytes of a lane, at most 64 with codes of four bits: bits put in place. */
LANE zeros zeros_of_bytes(uint32_t both)
{
    const uint32_t g = both & 255, g8 = both >> 8 & 255;
    zeros z;
    z.low[0] = half2_of(0x64006400u + g * 0x00010001u);
    z.low[1] = half2_of(0x64006400u + g8 * 0x00010001u);
    z.high[0] = half2_of(0xd400d400u + g * 0x00100010u);
    z.high[1] = half2_of(0xd400d400u + g8 * 0x00100010u);
    return z;
}

/* Eight four-bit codes of one row, less their zero, as four pairs of halves. */
LANE void four_bits(uint32_t w, __half2 low, __half2 high, uint32_t out[4])
{
    const __half2 sixteenth = half2_of(0x2c002c00u);
    uint32_t w8 = w >> 8;
    out[0] = bits_of(__hsub2(half2_of(masked_onto(w, 0x000f000fu, 0x64006400u)), low));
    out[1] = bits_of(__hfma2(half2_of(masked_onto(w, 0x00f000f0u, 0x64006400u)), sixteenth, high));
    out[2] = bits_of(__hsub2(half2_of(masked_onto(w8, 0x000f000fu, 0x64006400u)), low));
    out[3] = bits_of(__hfma2(half2_of(masked_onto(w8, 0x00f000f0u, 0x64006400u)), sixteenth, high));
}

/* Eight codes of eight bits. */
LANE void eight_bits(uint32_t w0, uint32_t w1, __half2 low, uint32_t out[4])
{
    out[0] = bits_of(__hsub2(half2_of(__byte_perm(w0, 0x64646464u, 0x4140)), low));
    out[1] = bits_of(__hsub2(half2_of(__byte_perm(w0, 0x64646464u, 0x4342)), low));
    out[2] = bits_of(__hsub2(half2_of(__byte_perm(w1, 0x64646464u, 0x4140)), low));
    out[3] = bits_of(__hsub2(half2_of(__byte_perm(w1, 0x64646464u, 0x4342)), low));
}

/* The pairs of row g and of row g + 8 as the operands of the two products of 16 columns. */
LANE void operands(const uint32_t g[4], const uint32_t g8[4], uint32_t a[2][4])
{
    UNROLL for (int i = 0; i < 2; i++) {
        a[i][0] = g[2 * i];
        a[i][1] = g8[2 * i];
        a[i][2] = g[2 * i + 1];
        a[i][3] = g8[2 * i + 1];
    }
}

#endif

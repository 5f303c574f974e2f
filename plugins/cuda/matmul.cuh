/* SPDX-License-Identifier: Apache-2.0 */
/* matmul.cuh - tiles of a packed matrix times rows of halves: what all products share. Few rows
 * are in skinny.cuh, many in tall.cuh. */
#ifndef TN_CUDA_MATMUL_CUH
#define TN_CUDA_MATMUL_CUH

#include "matrix.cuh"
#include "span.cuh"

/* A matrix (of one part or expert) and the rows it meets. */
typedef struct product {
    const uint8_t *codes;
    const uint16_t *scale;
    const uint8_t *zero;
    uint32_t nblock;           /* of 64 columns */
    uint32_t nquad, group;     /* group 0: one for all columns */
    const __half *x;
    uint32_t ldx, k;
    const int32_t *pair;       /* row i of x is pair[i] / ntop; NULL: i */
    uint32_t ntop;
    uint32_t m;                /* rows */
} product;

LANE product product_of(const gpu_matrix &w, uint32_t expert)
{
    product p;
    p.codes = w.codes + expert * w.codes_size;
    p.scale = w.scale != NULL ? w.scale + expert * w.scale_size / 2 : NULL;
    p.zero = w.zero != NULL ? w.zero + expert * w.zero_size : NULL;
    p.nblock = w.cols / 64;
    p.nquad = w.nquad;
    p.group = w.group >= w.cols ? 0 : w.group;
    p.x = NULL;
    p.ldx = p.k = p.m = 0;
    p.pair = NULL;
    p.ntop = 1;
    return p;
}

LANE const __half *x_row(const product &p, uint32_t i)
{
    uint64_t row = p.pair != NULL ? (uint32_t)p.pair[i] / p.ntop : i;
    return p.x + row * p.ldx;
}

/* ------------------------------------------------------------------- weights in registers */

template <int FORM> struct form_words;    /* 16-byte words of a lane for 64 columns */
template <> struct form_words<TN_FORM_W4G> { static constexpr uint32_t count = 1; };
template <> struct form_words<TN_FORM_W8G> { static constexpr uint32_t count = 2; };
template <> struct form_words<TN_FORM_F16> { static constexpr uint32_t count = 4; };

template <int FORM>
LANE void load_codes(const product &p, uint32_t tile, uint32_t block, uint4 w[])
{
    const uint32_t n = form_words<FORM>::count;
    const uint8_t *at = p.codes + ((uint64_t)tile * p.nblock + block) * (n * 512) +
                        threadIdx.x % 32 * 16;
    UNROLL for (uint32_t i = 0; i < n; i++)
        w[i] = load_once(at + i * 512);
}

/* Scales (row g in the lower half) of the group that columns from `col` on belong to. */
LANE uint64_t pair_at(const product &p, uint32_t tile, uint32_t col)
{
    uint32_t g = p.group == 0 ? 0 : col / p.group;
    return (((uint64_t)tile * p.nquad + g / 4) * 8 + threadIdx.x % 32 / 4) * 8 + g % 4 * 2;
}

template <int FORM>
LANE uint32_t load_scale(const product &p, uint32_t tile, uint32_t col)
{
    return FORM == TN_FORM_F16 ? 0u : *(const uint32_t *)(p.scale + pair_at(p, tile, col));
}

/* Operands of columns [32 half, 32 half + 32) of a block, codes less their zeros. */
template <int FORM>
LANE void make_operands(const uint4 w[], int half, const zeros &z, uint32_t a[2][4])
{
    uint32_t g[4], g8[4];
    if (FORM == TN_FORM_W4G) {
        four_bits(half == 0 ? w[0].x : w[0].z, z.low[0], z.high[0], g);
        four_bits(half == 0 ? w[0].y : w[0].w, z.low[1], z.high[1], g8);
    } else if (FORM == TN_FORM_W8G) {
        eight_bits(w[half].x, w[half].y, z.low[0], g);
        eight_bits(w[half].z, w[half].w, z.low[1], g8);
    } else {
        const uint4 u = w[2 * half], v = w[2 * half + 1];
        g[0] = u.x, g[1] = u.y, g[2] = u.z, g[3] = u.w;
        g8[0] = v.x, g8[1] = v.y, g8[2] = v.z, g8[3] = v.w;
    }
    operands(g, g8, a);
}

#endif

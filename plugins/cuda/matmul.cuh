/* SPDX-License-Identifier: Apache-2.0 */
/* matmul.cuh - tiles of a packed matrix times rows of halves: what all products share, and few
 * rows. Many rows are in tall.cuh.
 *
 * Few rows ("skinny"): a block takes one or two tiles of 16 weight rows; its warps share the
 * columns out and issue all loads of their part before the first product, since nothing but
 * bytes on their way makes this fast. Sums of the warps meet in shared memory. Whole codes are
 * summed, and the sums of 32 columns scaled in fp32. */
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

template <int FORM, bool ZEROS>
LANE zeros load_zeros(const product &p, uint32_t tile, uint32_t col)
{
    if (!ZEROS)
        return FORM == TN_FORM_W8G ? zeros_of(FORM, 128, 128) : zeros_of(FORM, 8, 8);
    uint16_t both = *(const uint16_t *)(p.zero + pair_at(p, tile, col));
    return zeros_of(FORM, (float)(both & 255), (float)(both >> 8));
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

/* ---------------------------------------------------------------------------------- skinny */

/* Blocks of 64 columns whose loads are on their way together. */
template <int FORM> struct ahead;
template <> struct ahead<TN_FORM_W4G> { static constexpr uint32_t blocks = 4; };
template <> struct ahead<TN_FORM_W8G> { static constexpr uint32_t blocks = 2; };
template <> struct ahead<TN_FORM_F16> { static constexpr uint32_t blocks = 4; };

/* One warp's share of a tile: blocks [64 columns] from `first` on in strides of `stride`
 * times ahead. c[8-row group][4] as mma_f16 has it. */
template <int FORM, int NT, bool ZEROS>
LANE void skinny_share(const product &p, uint32_t tile, uint32_t first, uint32_t stride,
                       float c[NT][4])
{
    const uint32_t U = ahead<FORM>::blocks, W = form_words<FORM>::count;
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const __half *x[NT];
    UNROLL for (int i = 0; i < NT; i++) {
        uint32_t row = i * 8 + g;
        x[i] = row < p.m ? x_row(p, row) + 8 * t : NULL;
    }
    for (uint32_t b0 = first * U; b0 < p.nblock; b0 += stride * U) {
        uint4 w[U * W];
        uint32_t scale[2 * U];
        zeros z[2 * U];
        UNROLL for (uint32_t u = 0; u < U; u++) {
            uint32_t b = b0 + u < p.nblock ? b0 + u : p.nblock - 1;
            load_codes<FORM>(p, tile, b, w + u * W);
        }
        UNROLL for (uint32_t u = 0; u < 2 * U; u++) {
            uint32_t b = b0 + u / 2 < p.nblock ? b0 + u / 2 : p.nblock - 1;
            scale[u] = load_scale<FORM>(p, tile, b * 64 + u % 2 * 32);
            if (FORM != TN_FORM_F16)
                z[u] = load_zeros<FORM, ZEROS>(p, tile, b * 64 + u % 2 * 32);
        }
        UNROLL for (uint32_t u = 0; u < 2 * U; u++) {
            uint32_t col = (b0 + u / 2) * 64 + u % 2 * 32, a[2][4];
            if (b0 + u / 2 >= p.nblock)
                break;
            make_operands<FORM>(w + u / 2 * W, u % 2, z[FORM == TN_FORM_F16 ? 0 : u], a);
            float s0 = 0, s1 = 0;
            if (FORM != TN_FORM_F16) {
                s0 = __low2float(half2_of(scale[u]));
                s1 = __high2float(half2_of(scale[u]));
            }
            UNROLL for (int i = 0; i < NT; i++) {
                uint4 v = make_uint4(0, 0, 0, 0);
                if (x[i] != NULL && col + 8 * t < p.k)
                    v = *(const uint4 *)(x[i] + col);
                const uint32_t lo[2] = {v.x, v.y}, hi[2] = {v.z, v.w};
                if (FORM == TN_FORM_F16) {
                    mma_f16(c[i], a[0], lo);
                    mma_f16(c[i], a[1], hi);
                    continue;
                }
                float d[4] = {0, 0, 0, 0};
                mma_f16(d, a[0], lo);
                mma_f16(d, a[1], hi);
                c[i][0] += s0 * d[0];
                c[i][1] += s0 * d[1];
                c[i][2] += s1 * d[2];
                c[i][3] += s1 * d[3];
            }
        }
    }
}

/* Leaves a warp's sums where the other warps of its tile look: room [8 warps][NT * 4][32]. */
template <int NT>
LANE void leave_sums(float c[NT][4], float *room)
{
    float *mine = room + threadIdx.x / 32 * (NT * 128) + threadIdx.x % 32;
    UNROLL for (int i = 0; i < NT * 4; i++)
        mine[i * 32] = c[i / 4][i % 4];
}

/* Row r of the tile and row i of x, summed over `nwarp` warps from `warp0` on, in order. */
template <int NT>
LANE float meet_sums(const float *room, uint32_t warp0, uint32_t nwarp, uint32_t r, uint32_t i)
{
    uint32_t lane = r % 8 * 4 + i % 8 / 2, reg = i / 8 * 4 + r / 8 * 2 + i % 2;
    float sum = 0;
    for (uint32_t w = 0; w < nwarp; w++)
        sum += room[((warp0 + w) * (NT * 4) + reg) * 32 + lane];
    return sum;
}

#endif

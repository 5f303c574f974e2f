/* SPDX-License-Identifier: Apache-2.0 */
/* matmul.cuh - tiles of a packed matrix times rows of halves, for linear.cu and experts.cu.
 *
 * Few rows ("skinny"): a block takes one or two tiles of 16 weight rows; its warps share the
 * columns out and issue all loads of their part before the first product, since nothing but
 * bytes on their way makes this fast. Sums of the warps meet in shared memory.
 *
 * Many rows ("tall"): a block takes some tiles by 64 or 128 rows of x, which go through shared
 * memory in steps of 64 columns, copied ahead; each warp keeps its own tiles' weights in
 * registers and turns them into halves once for all rows of x.
 *
 * Skinny sums whole codes and scales the sums of 32 columns in fp32; tall scales the weights,
 * rounded to halves. */
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

/* -------------------------------------------------------------------------------- tall */

#define TALL_THREADS 256
#define TALL_STAGES 3

/* RT tiles a warp, NT groups of 8 rows of x a warp; RW warps side by side over tiles, TW over
 * rows of x, KW over columns: RW * TW * KW = 8. */
template <int RT, int NT, int RW, int TW, int KW>
struct tall {
    static constexpr uint32_t tiles = RT * RW, rows = 8 * NT * TW, stage = rows * 128 * KW;
    static constexpr uint32_t shared = stage * TALL_STAGES;
};

LANE uint32_t swizzle(uint32_t row, uint32_t chunk)
{
    return chunk ^ ((row & 1) << 2 | (row >> 1 & 3));
}

/* Copies KW blocks of 64 columns of the rows of x. */
template <int ROWS, int KW>
LANE void copy_x(const product &p, uint32_t block, uint8_t *stage)
{
    for (uint32_t i = threadIdx.x; i < ROWS * 8 * KW; i += TALL_THREADS) {
        uint32_t row = i / 8 % ROWS, chunk = i % 8, kw = i / 8 / ROWS;
        uint32_t col = (block + kw) * 64 + chunk * 8;
        bool there = row < p.m && col < p.k;
        copy_async(stage + (kw * ROWS + row) * 128 + swizzle(row, chunk) * 16,
                   there ? x_row(p, row) + col : p.x, there);
    }
}

template <int FORM, int RT> struct tall_weights {
    uint4 w[RT * form_words<FORM>::count];
    uint32_t scale[RT * 2];
    uint16_t zero[RT * 2];
};

template <int FORM, int RT, bool ZEROS>
LANE void load_tall(const product &p, const uint32_t tile[RT], uint32_t block,
                    tall_weights<FORM, RT> *t)
{
    UNROLL for (int r = 0; r < RT; r++) {
        load_codes<FORM>(p, tile[r], block, t->w + r * form_words<FORM>::count);
        UNROLL for (int h = 0; h < 2 && FORM != TN_FORM_F16; h++) {
            t->scale[2 * r + h] = load_scale<FORM>(p, tile[r], block * 64 + h * 32);
            if (ZEROS)
                t->zero[2 * r + h] =
                    *(const uint16_t *)(p.zero + pair_at(p, tile[r], block * 64 + h * 32));
        }
    }
}

/* Operands scaled: rows g by the lower half of `scale`, rows g + 8 by the upper. */
template <int FORM, int RT, bool ZEROS>
LANE void tall_operands(const tall_weights<FORM, RT> &t, int r, int half, uint32_t a[2][4])
{
    zeros z = {};
    if (FORM != TN_FORM_F16) {
        float middle = FORM == TN_FORM_W8G ? 128 : 8;
        uint16_t both = ZEROS ? t.zero[2 * r + half] : 0;
        z = ZEROS ? zeros_of(FORM, (float)(both & 255), (float)(both >> 8))
                  : zeros_of(FORM, middle, middle);
    }
    make_operands<FORM>(t.w + r * form_words<FORM>::count, half, z, a);
    if (FORM == TN_FORM_F16)
        return;
    __half2 s = half2_of(t.scale[2 * r + half]);
    __half2 s0 = __half2half2(__low2half(s)), s1 = __half2half2(__high2half(s));
    UNROLL for (int i = 0; i < 8; i++) {
        uint32_t *v = &a[i / 4][i % 4];
        *v = bits_of(__hmul2(half2_of(*v), i % 2 == 0 ? s0 : s1));
    }
}

/* c[tile][8-row group][4] += tiles x rows of x. `shared` has tall<...>::shared bytes. tile[r]
 * must be a tile of the matrix; the caller drops what it does not want. */
template <int FORM, int RT, int NT, int RW, int TW, int KW, bool ZEROS>
LANE void tall_product(const product &p, const uint32_t tile[RT], uint8_t *shared,
                       float c[RT][NT][4])
{
    typedef tall<RT, NT, RW, TW, KW> shape;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const uint32_t kw = warp / (RW * TW), tw = warp / RW % TW;
    const uint32_t turns = (p.nblock + KW - 1) / KW;
    tall_weights<FORM, RT> now, next;
    for (uint32_t i = 0; i + 1 < TALL_STAGES; i++) {
        if (i < turns)
            copy_x<shape::rows, KW>(p, i * KW, shared + i * shape::stage);
        copy_commit();
    }
    if (kw < p.nblock)
        load_tall<FORM, RT, ZEROS>(p, tile, kw, &now);
    for (uint32_t i = 0; i < turns; i++) {
        uint32_t block = i * KW + kw, ahead = i + TALL_STAGES - 1;
        copy_wait<TALL_STAGES - 2>();
        __syncthreads();
        if (ahead < turns)
            copy_x<shape::rows, KW>(p, ahead * KW, shared + ahead % TALL_STAGES * shape::stage);
        copy_commit();
        if (block + KW < p.nblock)
            load_tall<FORM, RT, ZEROS>(p, tile, block + KW, &next);
        const uint8_t *x = shared + i % TALL_STAGES * shape::stage +
                           (kw * shape::rows + tw * NT * 8 + g) * 128;
        if (block < p.nblock)
            UNROLL for (int half = 0; half < 2; half++) {
                uint32_t a[RT][2][4];
                UNROLL for (int r = 0; r < RT; r++)
                    tall_operands<FORM, RT, ZEROS>(now, r, half, a[r]);
                UNROLL for (int n = 0; n < NT; n++) {
                    uint4 v = *(const uint4 *)(x + n * 1024 + swizzle(g, half * 4 + t) * 16);
                    const uint32_t lo[2] = {v.x, v.y}, hi[2] = {v.z, v.w};
                    UNROLL for (int r = 0; r < RT; r++) {
                        mma_f16(c[r][n], a[r][0], lo);
                        mma_f16(c[r][n], a[r][1], hi);
                    }
                }
            }
        now = next;
    }
}

/* Adds the sums of the warps that shared the columns to those of the first; true in warps that
 * hold them. Ends the use of `shared` as a ring. */
template <int RT, int NT, int RW, int TW, int KW>
LANE bool tall_meet(uint8_t *shared, float c[RT][NT][4])
{
    if (KW == 1)
        return true;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t kw = warp / (RW * TW), seat = warp % (RW * TW), n = RT * NT * 4;
    float *room = (float *)shared;
    __syncthreads();
    copy_wait<0>();
    __syncthreads();
    for (uint32_t turn = 1; turn < KW; turn++) {
        if (kw == turn)
            UNROLL for (uint32_t i = 0; i < n; i++)
                room[(seat * n + i) * 32 + lane] = c[i / 4 / NT][i / 4 % NT][i % 4];
        __syncthreads();
        if (kw == 0)
            UNROLL for (uint32_t i = 0; i < n; i++)
                c[i / 4 / NT][i / 4 % NT][i % 4] += room[(seat * n + i) * 32 + lane];
        __syncthreads();
    }
    return kw == 0;
}

#endif

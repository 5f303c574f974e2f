/* SPDX-License-Identifier: Apache-2.0 */
/* tall.cuh - tiles of a packed matrix times many rows of halves, for tall.cu and tallexperts.cu.
 *
 * A block takes some tiles by 64 or 128 rows of x, which go through shared memory in steps of
 * 64 columns, copied ahead; each warp keeps its own tiles' weights in registers and turns them
 * into halves, scaled, once for all rows of x. */
#ifndef TN_CUDA_TALL_CUH
#define TN_CUDA_TALL_CUH

#include "matmul.cuh"

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

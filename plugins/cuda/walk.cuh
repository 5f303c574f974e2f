/* SPDX-License-Identifier: Apache-2.0 */
/* walk.cuh - up to 8 rows of x that stay in registers, while the warps walk from tile to tile.
 *
 * Of skinny.cuh's way what costs most with 4-bit weights is not the product but getting there.
 * So where the warps of a tile have its columns in one share each, they keep x and take tile
 * after tile, the loads of the next two on their way; after every WALK_GROUP tiles their sums
 * meet. Sums have the same order as there. */
#ifndef TN_CUDA_WALK_CUH
#define TN_CUDA_WALK_CUH

#include "skinny.cuh"

#define WALK_GROUP 4

/* A warp's x: columns of its share, zeros behind the last. */
template <int U>
LANE void load_rows(const product &p, uint32_t b0, uint4 x[2 * U])
{
    const uint32_t g = threadIdx.x % 32 / 4, t8 = threadIdx.x % 4 * 8;
    const uint32_t end = p.k < p.nblock * 64 ? p.k : p.nblock * 64;
    const __half *from = x_row(p, g < p.m ? g : 0) + (b0 * 64 + t8);
    UNROLL for (uint32_t h = 0; h < 2 * U; h++) {
        x[h] = make_uint4(0, 0, 0, 0);
        if (b0 * 64 + t8 + h * 32 < end)
            x[h] = *(const uint4 *)(from + h * 32);
    }
}

/* One tile on, within a matrix. */
template <int FORM>
LANE void step_on(const product &p, tile_place *t)
{
    t->codes += p.nblock * (form_words<FORM>::count * 512);
    t->scale += p.nquad * 64;
    t->zero += p.nquad * 64;
}

/* One tile's sums of a warp, left at its place of the group: room [warps][WALK_GROUP][4][32].
 * A warp without a share (`there` is false) leaves zeros. */
template <int FORM, int HOW, bool ZEROS, int U>
LANE void walk_tile(const share<FORM, HOW, ZEROS, 1, U> &s, const uint4 x[2 * U], bool there,
                    uint32_t place, float *room)
{
    typedef share<FORM, HOW, ZEROS, 1, U> shape;
    const uint32_t many = halves<HOW>::count;
    float c[4] = {0, 0, 0, 0}, d[4];
    UNROLL for (uint32_t h = 0; there && h < 2 * U; h++) {
        uint32_t a[2][4];
        make_operands<FORM>(s.w[0] + h / 2 * shape::W, h % 2,
                            zeros_in<FORM, HOW, ZEROS, 1, U>(s, 0, h), a);
        const uint32_t lo[2] = {x[h].x, x[h].y}, hi[2] = {x[h].z, x[h].w};
        if (h % many == 0)
            d[0] = d[1] = d[2] = d[3] = 0;
        mma_f16(d, a[0], lo);
        mma_f16(d, a[1], hi);
        if (h % many == many - 1)
            add_scaled(s.scale[0][h / many % shape::S], d, c);
    }
    float *mine = room + (threadIdx.x / 32 * WALK_GROUP + place) * 128 + threadIdx.x % 32;
    UNROLL for (int i = 0; i < 4; i++)
        mine[i * 32] = c[i];
}

/* Row r of the group's tile `place` and row n of x, summed over `nwarp` warps from `warp0` on. */
LANE float walk_sum(const float *room, uint32_t warp0, uint32_t nwarp, uint32_t place,
                    uint32_t r, uint32_t n)
{
    const float *from = room + (warp0 * WALK_GROUP + place) * 128 + (r / 8 * 2 + n % 2) * 32 +
                        (r % 8 * 4 + n / 2);
    float sum = 0;
    for (uint32_t w = 0; w < nwarp; w++)
        sum += from[w * (WALK_GROUP * 128)];
    return sum;
}

/* Whether the warps of a tile have its columns in one share each. */
static inline bool walks(const gpu_matrix &w, uint32_t most)
{
    const uint32_t blocks = ahead<TN_FORM_W4G>::blocks; /* as many as of W8G */
    return w.form != TN_FORM_F16 && scales_of(w) != SCALE_32 &&
           w.cols / 64 <= warps_a_tile(w.cols, blocks, most) * blocks;
}

/* Tiles that a seat walks, so that all blocks run at once, `seats` in each. */
static inline uint32_t walk_length(uint32_t tiles, uint32_t seats, uint32_t blocks)
{
    uint32_t n = (tiles + blocks * seats - 1) / (blocks * seats);
    return n > 0 ? n : 1;
}

#endif

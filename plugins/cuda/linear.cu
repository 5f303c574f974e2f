/* SPDX-License-Identifier: Apache-2.0 */
/* linear.cu - LINEAR: skinny up to 16 rows; tall.cu beyond. */
#include "linear.cuh"
#include "matmul.cuh"

#define SKINNY_THREADS 256
#define SKINNY_ROWS 16u        /* most rows */

/* The part that tile `tile` of all parts belongs to, and its tile there. */
LANE uint32_t part_of(const gpu_linear &a, uint32_t *tile)
{
    uint32_t i = 0;
    while (i + 1 < a.npart && *tile >= a.part[i].w.ntile) {
        *tile -= a.part[i].w.ntile;
        i++;
    }
    return i;
}

/* ---------------------------------------------------------------------------------- skinny */

template <int FORM, int NT, bool ZEROS>
__global__ void __launch_bounds__(SKINNY_THREADS, 2)
skinny_kernel(const gpu_linear a, const gpu_step s, uint32_t nwarp)
{
    __shared__ float room[8 * NT * 128];
    const uint32_t warp = threadIdx.x / 32, seat = warp / nwarp;
    const uint32_t row0 = blockIdx.y * NT * 8, m = s.count[a.rows];
    uint32_t tile = blockIdx.x * (8 / nwarp) + seat, all = 0;
    if (row0 >= m)
        return;
    for (uint32_t i = 0; i < a.npart; i++)
        all += a.part[i].w.ntile;
    bool there = tile < all;
    if (!there)
        tile = 0;
    const gpu_linear_part &part = a.part[part_of(a, &tile)];
    product p = product_of(part.w, 0);
    p.x = (const __half *)a.x + (uint64_t)row0 * a.ldx;
    p.ldx = a.ldx;
    p.k = a.k;
    p.m = m - row0 < NT * 8 ? m - row0 : NT * 8;
    float c[NT][4] = {};
    skinny_share<FORM, NT, ZEROS>(p, tile, warp % nwarp, nwarp, c);
    leave_sums<NT>(c, room);
    __syncthreads();
    const uint32_t threads = nwarp * 32, me = threadIdx.x % threads, warp0 = seat * nwarp;
    if (!there)
        return;
    if (part.act) {
        for (uint32_t v = me; v < 8 * p.m; v += threads)
            put_pair(part, tile, v % 8, row0 + v / 8,
                     meet_sums<NT>(room, warp0, nwarp, v % 8, v / 8),
                     meet_sums<NT>(room, warp0, nwarp, v % 8 + 8, v / 8));
        return;
    }
    for (uint32_t v = me; v < 16 * p.m; v += threads)
        put_sum(a, part, tile, v % 16, row0 + v / 16,
                meet_sums<NT>(room, warp0, nwarp, v % 16, v / 16));
}

/* Warps that share a tile's columns: as many as there are shares worth a turn. */
static uint32_t warps_a_tile(uint32_t nblock, uint32_t blocks)
{
    uint32_t n = 8;
    while (n > 1 && nblock <= n / 2 * blocks)
        n /= 2;
    return n;
}

template <int FORM, int NT, bool ZEROS>
static void launch_skinny(const gpu_linear *a, const gpu_step *s, uint32_t rows,
                          cudaStream_t stream)
{
    const gpu_linear args = *a;
    const gpu_step step = *s;
    uint32_t tiles = 0, nwarp = warps_a_tile(a->part[0].w.cols / 64, ahead<FORM>::blocks);
    for (uint32_t i = 0; i < a->npart; i++)
        tiles += a->part[i].w.ntile;
    uint32_t seats = 8 / nwarp;
    dim3 grid((tiles + seats - 1) / seats, (rows + NT * 8 - 1) / (NT * 8));
    GPU_LAUNCH((skinny_kernel<FORM, NT, ZEROS>), grid, SKINNY_THREADS, 0, stream, args, step,
               nwarp);
}

template <int FORM, bool ZEROS>
static cudaError_t choose(const gpu_linear *a, const gpu_step *s, uint32_t rows,
                          cudaStream_t stream)
{
    if (rows <= 8)
        launch_skinny<FORM, 1, ZEROS>(a, s, rows, stream);
    else
        launch_skinny<FORM, 2, ZEROS>(a, s, rows, stream);
    return cudaGetLastError();
}

extern "C" cudaError_t gpu_do_linear(const gpu_linear *a, const gpu_step *s, uint32_t rows_most,
                                     uint32_t nsm, cudaStream_t stream)
{
    const gpu_matrix *w = &a->part[0].w;
    if (rows_most > SKINNY_ROWS)
        return linear_tall(a, s, rows_most, nsm, stream);
    if (w->form == TN_FORM_F16)
        return choose<TN_FORM_F16, false>(a, s, rows_most, stream);
    if (w->form == TN_FORM_W8G)
        return w->zero != NULL ? choose<TN_FORM_W8G, true>(a, s, rows_most, stream)
                               : choose<TN_FORM_W8G, false>(a, s, rows_most, stream);
    return w->zero != NULL ? choose<TN_FORM_W4G, true>(a, s, rows_most, stream)
                           : choose<TN_FORM_W4G, false>(a, s, rows_most, stream);
}

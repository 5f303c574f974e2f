/* SPDX-License-Identifier: Apache-2.0 */
/* wide.cu - LINEAR for steps of many rows on cards with warpgroups. */
#include "linear.cuh"
#include "wide.cuh"

/* ------------------------------------------------------------------------------------ turn */

/* A thread: 32 columns of a row. */
__global__ void turn_kernel(const uint16_t *x, uint32_t ldx, uint32_t k, uint32_t cols,
                            uint16_t *out, uint32_t kind, const gpu_step s)
{
    const uint32_t col = (blockIdx.x * blockDim.x + threadIdx.x) * 32, row = blockIdx.y;
    if (col >= cols || row >= s.count[kind])
        return;
    const uint16_t *from = x + (uint64_t)row * ldx + col;
    uint4 v[4];
    UNROLL for (uint32_t t = 0; t < 4; t++)
        v[t] = col + 8 * t < k ? *(const uint4 *)(from + 8 * t) : make_uint4(0, 0, 0, 0);
    uint4 *to = (uint4 *)(out + (uint64_t)row * cols + col);
    to[0] = make_uint4(v[0].x, v[1].x, v[2].x, v[3].x);
    to[1] = make_uint4(v[0].y, v[1].y, v[2].y, v[3].y);
    to[2] = make_uint4(v[0].z, v[1].z, v[2].z, v[3].z);
    to[3] = make_uint4(v[0].w, v[1].w, v[2].w, v[3].w);
}

cudaError_t wide_turn(const uint16_t *x, uint32_t ldx, uint32_t k, uint32_t cols, uint16_t *out,
                      uint32_t kind, const gpu_step *s, uint32_t rows, cudaStream_t stream)
{
    const gpu_step step = *s;
    const uint32_t threads = cols / 32 < 128 ? cols / 32 : 128;
    dim3 grid((cols / 32 + threads - 1) / threads, rows);
    GPU_LAUNCH(turn_kernel, grid, threads, 0, stream, x, ldx, k, cols, out, kind, step);
    return cudaGetLastError();
}

/* ---------------------------------------------------------------------------------- product */

#if WARPGROUPS

/* Eight rows of the part from tile row 8 i on, for row `row` of x. */
LANE void put_sums(const gpu_linear &a, const gpu_linear_part &part, uint32_t i, uint64_t row,
                   float v[8])
{
    UNROLL for (uint32_t j = 0; j < 8; j++)
        if (8 * i + j < part.w.n) {
            if (part.bias != NULL)
                v[j] += part.bias[8 * i + j];
            if (a.add)
                v[j] += span_get(part.out, row, 8 * i + j);
        }
    put_eight(part.out, row, 8 * i, part.w.n, v);
}

/* The same for a tile of pairs: eight gates, eight ups. */
LANE void put_pairs(const gpu_linear_part &part, uint32_t tile, uint64_t row, float gate[8],
                    const float up[8])
{
    const uint32_t half = part.w.n / 2;
    UNROLL for (uint32_t j = 0; j < 8; j++) {
        float b = 0, b_up = 0;
        if (part.bias != NULL && 8 * tile + j < half) {
            b = part.bias[8 * tile + j];
            b_up = part.bias[half + 8 * tile + j];
        }
        gate[j] = activate(gate[j] + b, part.act) * (up[j] + b_up);
    }
    put_eight(part.out, row, 8 * tile, half, gate);
}

/* Rows [row0, row0 + m) of x, at most WIDE_CHUNK, whose sums lie in the room. */
LANE void put_chunk(const gpu_linear &a, const gpu_linear_part &part, uint32_t tile0,
                    uint32_t row0, uint32_t m, const float *room)
{
    float v[8], up[8];
    for (uint32_t i = threadIdx.x; i < m * 16; i += WIDE_SUMMERS) {
        const uint32_t x = i / 16, eight = i % 16;
        if (tile0 + eight / 2 >= part.w.ntile || (part.act && eight % 2 != 0))
            continue;
        take_eight(room, x, eight, v);
        if (part.act) {
            take_eight(room, x, eight + 1, up);
            put_pairs(part, tile0 + eight / 2, row0 + x, v, up);
        } else {
            put_sums(a, part, tile0 * 2 + eight, row0 + x, v);
        }
    }
}

#endif

/* grid (rows / N, eights of tiles of all parts): blocks that run together share weights. */
template <int FORM, bool ZEROS, int N>
__global__ void __launch_bounds__(WIDE_THREADS, 1)
wide_kernel(const gpu_linear a, const gpu_step s)
{
#if WARPGROUPS
    GPU_DYNAMIC_SHARED(shared);
    __shared__ __align__(16) uint32_t at[N];
    const uint32_t row0 = blockIdx.x * N, m = s.count[a.rows];
    uint32_t n = 0, tile0 = blockIdx.y * WIDE_TILES;
    if (row0 >= m)
        return;
    while (n + 1 < a.npart && tile0 >= (a.part[n].w.ntile + 7) / 8 * 8) {
        tile0 -= (a.part[n].w.ntile + 7) / 8 * 8;
        n++;
    }
    const gpu_linear_part &part = a.part[n];
    uint8_t *ring = aligned_ring(shared);
    product p = product_of(part.w, 0);
    p.x = (const __half *)a.x + (uint64_t)row0 * a.ldx;
    p.ldx = a.ldx;
    p.k = a.k;
    p.m = m - row0 < N ? m - row0 : N;
    if (threadIdx.x >= WIDE_SUMMERS) {
        fewer_registers<WIDE_FEED_REGISTERS>();
        wide_feed<N>(p, ring, at);
        return;
    }
    more_registers<WIDE_SUM_REGISTERS>();
    const uint32_t mine = tile0 + threadIdx.x / 32, last = part.w.ntile - 1;
    float c[N / 2];
    UNROLL for (int i = 0; i < N / 2; i++)
        c[i] = 0;
    wide_product<FORM, ZEROS, N>(p, mine < last ? mine : last, ring, c);
    float *room = (float *)(void *)ring;
    UNROLL for (uint32_t x0 = 0; x0 < N; x0 += WIDE_CHUNK) {
        if (x0 >= p.m)
            break;
        meet(WIDE_SUMMED, WIDE_SUMMERS);
        leave_chunk<N>(c, x0, room);
        meet(WIDE_SUMMED, WIDE_SUMMERS);
        put_chunk(a, part, tile0, row0 + x0, p.m - x0 < WIDE_CHUNK ? p.m - x0 : WIDE_CHUNK, room);
    }
#endif
}

template <int FORM, bool ZEROS, int N>
static cudaError_t launch(const gpu_linear &a, const gpu_step *s, uint32_t rows, uint32_t eights,
                          cudaStream_t stream)
{
    const gpu_step step = *s;
    const int bytes = wide<N>::shared;
    cudaError_t e = cudaFuncSetAttribute(wide_kernel<FORM, ZEROS, N>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (e != cudaSuccess)
        return e;
    dim3 grid((rows + N - 1) / N, eights);
    GPU_LAUNCH((wide_kernel<FORM, ZEROS, N>), grid, WIDE_THREADS, bytes, stream, a, step);
    return cudaGetLastError();
}

/* Time of the last wave's end, in rows a multiprocessor: a block has some rows' worth of
 * beginning and end. */
static uint32_t cost(uint32_t rows, uint32_t eights, uint32_t n, uint32_t nsm)
{
    uint32_t blocks = (rows + n - 1) / n * eights;
    return (blocks + nsm - 1) / nsm * (n + 40);
}

template <int FORM, bool ZEROS>
static cudaError_t choose(const gpu_linear &a, const gpu_step *s, uint32_t rows, uint32_t nsm,
                          cudaStream_t stream)
{
    uint32_t eights = 0;
    for (uint32_t i = 0; i < a.npart; i++)
        eights += (a.part[i].w.ntile + 7) / 8;
    const uint32_t c256 = cost(rows, eights, 256, nsm), c128 = cost(rows, eights, 128, nsm),
                   c64 = cost(rows, eights, 64, nsm);
    if (c256 <= c128 && c256 <= c64)
        return launch<FORM, ZEROS, 256>(a, s, rows, eights, stream);
    if (c128 <= c64)
        return launch<FORM, ZEROS, 128>(a, s, rows, eights, stream);
    return launch<FORM, ZEROS, 64>(a, s, rows, eights, stream);
}

cudaError_t linear_wide(const gpu_linear *a, const gpu_step *s, uint32_t rows, uint32_t nsm,
                        cudaStream_t stream)
{
    const gpu_matrix *w = &a->part[0].w;
    gpu_linear l = *a;
    cudaError_t e = wide_turn(a->x, a->ldx, a->k, w->cols, a->turned, a->rows, s, rows, stream);
    if (e != cudaSuccess)
        return e;
    l.x = a->turned;
    l.ldx = l.k = w->cols;
    if (w->form == TN_FORM_F16)
        return choose<TN_FORM_F16, false>(l, s, rows, nsm, stream);
    if (w->form == TN_FORM_W8G)
        return w->zero != NULL ? choose<TN_FORM_W8G, true>(l, s, rows, nsm, stream)
                               : choose<TN_FORM_W8G, false>(l, s, rows, nsm, stream);
    return w->zero != NULL ? choose<TN_FORM_W4G, true>(l, s, rows, nsm, stream)
                           : choose<TN_FORM_W4G, false>(l, s, rows, nsm, stream);
}

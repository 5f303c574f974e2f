/* SPDX-License-Identifier: Apache-2.0 */
/* wideexperts.cu - the products of experts for steps of many rows on cards with warpgroups. */
#include "experts.cuh"
#include "wide.cuh"

#if WARPGROUPS

/* Eight hidden columns from n on of the pair at `at`, where the down product wants them. */
LANE void put_hidden_eight(const gpu_experts &a, uint32_t at, uint32_t n, const float v[8])
{
    __half *row = (__half *)a.hidden + (uint64_t)at * a.down.cols;
    const uint4 h = eight_halves(v);
    const uint32_t pair[4] = {h.x, h.y, h.z, h.w};
    UNROLL for (uint32_t j = 0; j < 4; j++) {
        if (n + 2 * j + 1 < a.width)
            *(uint32_t *)(row + turned_column(n + 2 * j)) = pair[j];
        else if (n + 2 * j < a.width)
            row[turned_column(n + 2 * j)] = to_half(v[2 * j]);
    }
}

/* Gates and ups of a tile for the pair at `at`. */
LANE void put_hidden_tile(const gpu_experts &a, const portion &c, uint32_t at, uint32_t tile,
                          float gate[8], const float up[8])
{
    const uint32_t pair = (uint32_t)a.group.pair[at];
    const float weight = span_get(a.weights, c.row0 + pair / a.ntop, pair % a.ntop);
    UNROLL for (uint32_t j = 0; j < 8; j++)
        gate[j] = activate(gate[j], a.act) * up[j] * weight;
    put_hidden_eight(a, at, 8 * tile, gate);
}

/* Pairs [x0, x0 + m) of an item, at most WIDE_CHUNK, whose sums lie in the room. */
template <bool DOWN>
LANE void put_chunk(const gpu_experts &a, const portion &c, const int4 &item, uint32_t tile0,
                    uint32_t x0, uint32_t m, const float *room)
{
    const gpu_matrix &w = DOWN ? a.down : a.up;
    const gpu_span out = {a.partial, a.down.n, TN_F16};
    float v[8], up[8];
    for (uint32_t i = threadIdx.x; i < m * 16; i += WIDE_SUMMERS) {
        const uint32_t x = i / 16, eight = i % 16, at = (uint32_t)item.y + x0 + x;
        if (tile0 + eight / 2 >= w.ntile || (!DOWN && eight % 2 != 0))
            continue;
        take_eight(room, x, eight, v);
        if (DOWN) {
            put_eight(out, at, tile0 * 16 + eight * 8, a.down.n, v);
        } else {
            take_eight(room, x, eight + 1, up);
            put_hidden_tile(a, c, at, tile0 + eight / 2, v, up);
        }
    }
}

/* Columns of hidden behind the width multiply zeros, but not NaN. */
LANE void clear_turned_tail(const gpu_experts &a, const int4 &item)
{
    uint32_t tail = a.down.cols - a.width;
    if (blockIdx.x != 0)
        return;
    for (uint32_t i = threadIdx.x; i < tail * (uint32_t)item.z; i += WIDE_SUMMERS)
        a.hidden[(uint64_t)((uint32_t)item.y + i / tail) * a.down.cols +
                 turned_column(a.width + i % tail)] = 0;
}

/* An item's rows into the ring. */
template <bool DOWN>
LANE void feed_item(const gpu_experts &a, const portion &c, const int4 &item, uint8_t *ring,
                    uint32_t *at)
{
    const product p = item_product(a, c, item, DOWN);
    switch ((item.z + 15) / 16) {
    case 0:
    case 1: wide_feed<16>(p, ring, at); break;
    case 2: wide_feed<32>(p, ring, at); break;
    case 3: wide_feed<48>(p, ring, at); break;
    case 4: wide_feed<64>(p, ring, at); break;
    case 5: wide_feed<80>(p, ring, at); break;
    case 6: wide_feed<96>(p, ring, at); break;
    default: wide_feed<WIDE_MANY>(p, ring, at); break;
    }
}

/* 8 tiles by the pairs of an item, at most N. */
template <int FORM, bool ZEROS, bool DOWN, int N>
LANE void sum_item(const gpu_experts &a, const portion &c, const int4 &item, uint8_t *ring)
{
    const gpu_matrix &w = DOWN ? a.down : a.up;
    const uint32_t tile0 = blockIdx.x * WIDE_TILES, mine = tile0 + threadIdx.x / 32;
    product p = item_product(a, c, item, DOWN);
    float sum[N / 2], *room = (float *)(void *)ring;
    UNROLL for (int i = 0; i < N / 2; i++)
        sum[i] = 0;
    wide_product<FORM, ZEROS, N>(p, mine < w.ntile ? mine : w.ntile - 1, ring, sum);
    UNROLL for (uint32_t x0 = 0; x0 < N; x0 += WIDE_CHUNK) {
        if (x0 >= p.m)
            break;
        meet(WIDE_SUMMED, WIDE_SUMMERS);
        leave_chunk<N>(sum, x0, room);
        meet(WIDE_SUMMED, WIDE_SUMMERS);
        put_chunk<DOWN>(a, c, item, tile0, x0, p.m - x0 < WIDE_CHUNK ? p.m - x0 : WIDE_CHUNK,
                        room);
    }
    if (!DOWN)
        clear_turned_tail(a, item);
}

#endif

/* grid (eights of tiles, items): blocks of one item, and items of one expert, run together. */
template <int FORM, bool ZEROS, bool DOWN>
__global__ void __launch_bounds__(WIDE_THREADS, 1)
wide_experts(const gpu_experts a, const portion c)
{
#if WARPGROUPS
    GPU_DYNAMIC_SHARED(shared);
    __shared__ __align__(16) uint32_t at[WIDE_MANY];
    if ((int32_t)blockIdx.y >= *a.group.nitem)
        return;
    const int4 item = a.group.item[blockIdx.y];
    uint8_t *ring = aligned_ring(shared);
    if (threadIdx.x >= WIDE_SUMMERS) {
        fewer_registers<WIDE_FEED_REGISTERS>();
        feed_item<DOWN>(a, c, item, ring, at);
        return;
    }
    more_registers<WIDE_SUM_REGISTERS>();
    switch ((item.z + 15) / 16) {
    case 0:
    case 1: sum_item<FORM, ZEROS, DOWN, 16>(a, c, item, ring); break;
    case 2: sum_item<FORM, ZEROS, DOWN, 32>(a, c, item, ring); break;
    case 3: sum_item<FORM, ZEROS, DOWN, 48>(a, c, item, ring); break;
    case 4: sum_item<FORM, ZEROS, DOWN, 64>(a, c, item, ring); break;
    case 5: sum_item<FORM, ZEROS, DOWN, 80>(a, c, item, ring); break;
    case 6: sum_item<FORM, ZEROS, DOWN, 96>(a, c, item, ring); break;
    default: sum_item<FORM, ZEROS, DOWN, WIDE_MANY>(a, c, item, ring);
             break;
    }
#endif
}

template <int FORM, bool ZEROS, bool DOWN>
static cudaError_t launch(const gpu_experts &a, const portion &c, uint32_t items,
                          cudaStream_t stream)
{
    const gpu_matrix &w = DOWN ? a.down : a.up;
    const int bytes = wide<WIDE_MANY>::shared; /* of all the most */
    cudaError_t e = cudaFuncSetAttribute(wide_experts<FORM, ZEROS, DOWN>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (e != cudaSuccess)
        return e;
    dim3 grid((w.ntile + WIDE_TILES - 1) / WIDE_TILES, items);
    GPU_LAUNCH((wide_experts<FORM, ZEROS, DOWN>), grid, WIDE_THREADS, bytes, stream, a, c);
    return cudaGetLastError();
}

template <bool DOWN>
static cudaError_t choose(const gpu_experts &a, const portion &c, uint32_t items,
                          cudaStream_t stream)
{
    const gpu_matrix &w = DOWN ? a.down : a.up;
    if (w.form == TN_FORM_F16)
        return launch<TN_FORM_F16, false, DOWN>(a, c, items, stream);
    if (w.form == TN_FORM_W8G)
        return w.zero != NULL ? launch<TN_FORM_W8G, true, DOWN>(a, c, items, stream)
                              : launch<TN_FORM_W8G, false, DOWN>(a, c, items, stream);
    return w.zero != NULL ? launch<TN_FORM_W4G, true, DOWN>(a, c, items, stream)
                          : launch<TN_FORM_W4G, false, DOWN>(a, c, items, stream);
}

cudaError_t experts_wide(const gpu_experts *a, const portion *c, uint32_t items, bool down,
                         cudaStream_t stream)
{
    return down ? choose<true>(*a, *c, items, stream) : choose<false>(*a, *c, items, stream);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* experts.cu - the routed experts: pairs (row, choice) grouped by expert, then two products.
 *
 *     group     pairs in the order of their experts, each expert's in the order of rows, and
 *               the list of items: some pairs of one expert that share its weights
 *     up        hidden = act(gate x) * (up x) * routing weight, in the order of the group
 *     down      partial = down hidden
 *     combine   a row's partial sums in the order of its choices: the same bits every time
 *
 * A step of few pairs is grouped by one block; a larger one in three kernels: counts of every
 * 1,024 pairs, places, pairs. The choice of an impossible expert is dropped: it gets no place. */
#include "experts.cuh"
#include "route.cuh"

#define CHUNK 1024u            /* pairs that are counted together */
#define FEW 8u                 /* pairs an item, skinny */
#define SOME 16u               /* the same with two groups of 8 */
#define GROUP_THREADS 512u
#define ROUTED_ROWS 16u         /* most rows whose experts the grouping block chooses itself */

/* --------------------------------------------------------------------------------- group */

/* Sums before thread i's, over the block; *all: of all. room: 33 ints. */
LANE int32_t block_scan(int32_t x, int32_t *room, int32_t *all)
{
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, nwarp = blockDim.x / 32;
    int32_t sum = x;
    for (uint32_t i = 1; i < 32; i *= 2) {
        int32_t y = __shfl_up_sync(FULL_WARP, sum, i);
        if (lane >= i)
            sum += y;
    }
    if (lane == 31)
        room[warp] = sum;
    __syncthreads();
    if (warp == 0) {
        int32_t mine = lane < nwarp ? room[lane] : 0, run = mine;
        for (uint32_t i = 1; i < 32; i *= 2) {
            int32_t y = __shfl_up_sync(FULL_WARP, run, i);
            if (lane >= i)
                run += y;
        }
        room[lane] = run - mine;
        if (lane == 31)
            room[32] = run;
    }
    __syncthreads();
    int32_t before = room[warp] + sum - x;
    *all = room[32];
    __syncthreads();
    return before;
}

/* Ids of a chunk of pairs, in shared memory. */
LANE void load_ids(const gpu_experts &a, const portion &c, uint32_t pair0, uint32_t n,
                   int32_t *ids)
{
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x)
        ids[i] = expert_of(a, c, pair0 + i);
    __syncthreads();
}

LANE int32_t count_of(const int32_t *ids, uint32_t n, int32_t e)
{
    int32_t count = 0;
    for (uint32_t i = 0; i < n; i++)
        count += ids[i] == e;
    return count;
}

/* Puts expert e's pairs of a chunk from `at` on. */
LANE void place_pairs(const gpu_grouping &g, const int32_t *ids, uint32_t n, uint32_t pair0,
                      int32_t e, int32_t at)
{
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] == e) {
            g.pair[at] = (int32_t)(pair0 + i);
            g.place[pair0 + i] = at++;
        }
}

/* Expert e's items of at most `size` pairs, from item `at` on. */
LANE void put_items(const gpu_grouping &g, int32_t e, int32_t first, int32_t count, int32_t size,
                    int32_t at)
{
    for (int32_t i = 0; i < count; i += size) {
        int4 item;
        item.x = e;
        item.y = first + i;
        item.z = count - i < size ? count - i : size;
        item.w = 0;
        g.item[at++] = item;
    }
}

/* From an expert's count to its first place and its items; all threads of the block, experts
 * blockDim.x at a time. `first` is what is placed already, `nitem` likewise. */
LANE int32_t open_experts(const gpu_experts &a, int32_t e, int32_t count, uint32_t size,
                          int32_t *room, int32_t *first, int32_t *nitem)
{
    int32_t all, items = (count + (int32_t)size - 1) / (int32_t)size, all_items;
    int32_t at = *first + block_scan(count, room, &all);
    int32_t item = *nitem + block_scan(items, room, &all_items);
    if (e < (int32_t)a.up.nexpert) {
        a.group.begin[e] = at;
        put_items(a.group, e, at, count, (int32_t)size, item);
    }
    *first += all;
    *nitem += all_items;
    return at;
}

LANE void forget_places(const gpu_experts &a, const portion &c, uint32_t n)
{
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x)
        if (expert_of(a, c, i) < 0)
            a.group.place[i] = -1;
}

/* All of one chunk, by one block. */
LANE void group_chunk(const gpu_experts &a, const gpu_step &s, const portion &c, uint32_t size,
                      int32_t *ids, int32_t *room)
{
    uint32_t n = pairs_here(a, s, c);
    int32_t first = 0, nitem = 0;
    load_ids(a, c, 0, n, ids);
    for (uint32_t e0 = 0; e0 < a.up.nexpert; e0 += blockDim.x) {
        int32_t e = (int32_t)(e0 + threadIdx.x);
        int32_t count = e < (int32_t)a.up.nexpert ? count_of(ids, n, e) : 0;
        int32_t at = open_experts(a, e, count, size, room, &first, &nitem);
        if (count > 0)
            place_pairs(a.group, ids, n, 0, e, at);
    }
    forget_places(a, c, n);
    if (threadIdx.x == 0) {
        a.group.begin[a.up.nexpert] = first;
        *a.group.nitem = nitem;
    }
}

__global__ void group_few(const gpu_experts a, const gpu_step s, const portion c, uint32_t size)
{
    __shared__ int32_t ids[CHUNK], room[33];
    group_chunk(a, s, c, size, ids, room);
}

/* With the choice of the experts before it, a warp a row. (All threads ranking one row's scores
 * against each other took 16 us where this takes 9.) One row's pairs need no order: each is an
 * item. */
__global__ void __launch_bounds__(GROUP_THREADS)
route_few(const gpu_experts a, const gpu_step s, const portion c, uint32_t size)
{
    __shared__ int32_t ids[CHUNK], room[33];
    const uint32_t rows = pairs_here(a, s, c) / a.ntop;
    for (uint32_t row = threadIdx.x / 32; row < rows; row += GROUP_THREADS / 32)
        route_row(a.route, row);
    __syncthreads();
    if (rows != 1) {
        group_chunk(a, s, c, size, ids, room);
        return;
    }
    if (threadIdx.x < a.ntop) {
        int4 item;
        item.x = expert_of(a, c, threadIdx.x);
        item.y = (int)threadIdx.x;
        item.z = 1;
        item.w = 0;
        a.group.item[threadIdx.x] = item;
        a.group.pair[threadIdx.x] = a.group.place[threadIdx.x] = (int)threadIdx.x;
    }
    if (threadIdx.x == 0) {
        a.group.begin[a.up.nexpert] = (int)a.ntop;
        *a.group.nitem = (int)a.ntop;
    }
}

__global__ void count_chunks(const gpu_experts a, const gpu_step s, const portion c)
{
    __shared__ int32_t ids[CHUNK];
    uint32_t all = pairs_here(a, s, c), pair0 = blockIdx.x * CHUNK;
    uint32_t n = pair0 < all ? (all - pair0 < CHUNK ? all - pair0 : CHUNK) : 0;
    load_ids(a, c, pair0, n, ids);
    for (uint32_t e = threadIdx.x; e < a.up.nexpert; e += blockDim.x)
        a.group.count[blockIdx.x * a.up.nexpert + e] = count_of(ids, n, (int32_t)e);
}

/* Counts become places: an expert's first, then chunk by chunk. */
__global__ void open_chunks(const gpu_experts a, uint32_t nchunk, uint32_t size)
{
    __shared__ int32_t room[33];
    int32_t first = 0, nitem = 0;
    for (uint32_t e0 = 0; e0 < a.up.nexpert; e0 += blockDim.x) {
        uint32_t e = e0 + threadIdx.x;
        int32_t count = 0;
        for (uint32_t i = 0; e < a.up.nexpert && i < nchunk; i++)
            count += a.group.count[i * a.up.nexpert + e];
        int32_t at = open_experts(a, (int32_t)e, count, size, room, &first, &nitem);
        for (uint32_t i = 0; e < a.up.nexpert && i < nchunk; i++) {
            int32_t n = a.group.count[i * a.up.nexpert + e];
            a.group.count[i * a.up.nexpert + e] = at;
            at += n;
        }
    }
    if (threadIdx.x == 0) {
        a.group.begin[a.up.nexpert] = first;
        *a.group.nitem = nitem;
    }
}

__global__ void place_chunks(const gpu_experts a, const gpu_step s, const portion c)
{
    __shared__ int32_t ids[CHUNK];
    uint32_t all = pairs_here(a, s, c), pair0 = blockIdx.x * CHUNK;
    if (pair0 >= all)
        return;
    uint32_t n = all - pair0 < CHUNK ? all - pair0 : CHUNK;
    load_ids(a, c, pair0, n, ids);
    for (uint32_t e = threadIdx.x; e < a.up.nexpert; e += blockDim.x)
        place_pairs(a.group, ids, n, pair0, (int32_t)e,
                    a.group.count[blockIdx.x * a.up.nexpert + e]);
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x)
        if (ids[i] < 0)
            a.group.place[pair0 + i] = -1;
}

static cudaError_t launch_group(const gpu_experts &a, const gpu_step &s, const portion &c,
                                uint32_t pairs, uint32_t size, uint32_t rows_all,
                                cudaStream_t stream)
{
    if (a.routes && pairs <= CHUNK && pairs / a.ntop <= ROUTED_ROWS && a.ntop <= GROUP_THREADS) {
        GPU_LAUNCH(route_few, 1, GROUP_THREADS, 0, stream, a, s, c, size);
        return cudaGetLastError();
    }
    if (a.routes && c.row0 == 0) {
        cudaError_t e = gpu_do_route(&a.route, &s, rows_all, stream);
        if (e != cudaSuccess)
            return e;
    }
    if (pairs <= CHUNK) {
        GPU_LAUNCH(group_few, 1, GROUP_THREADS, 0, stream, a, s, c, size);
        return cudaGetLastError();
    }
    uint32_t nchunk = (pairs + CHUNK - 1) / CHUNK;
    GPU_LAUNCH(count_chunks, nchunk, GROUP_THREADS, 0, stream, a, s, c);
    GPU_LAUNCH(open_chunks, 1, GROUP_THREADS, 0, stream, a, nchunk, size);
    GPU_LAUNCH(place_chunks, nchunk, GROUP_THREADS, 0, stream, a, s, c);
    return cudaGetLastError();
}

/* -------------------------------------------------------------------------------- gather */

/* Inputs of every pair by its expert's permutation. `hidden`: from there, else from the rows. */
__global__ void gather_kernel(const gpu_experts a, const gpu_step s, const portion c,
                              uint32_t hidden)
{
    const gpu_matrix &w = hidden ? a.down : a.up;
    uint32_t p = blockIdx.x;
    if (p >= pairs_here(a, s, c) || (int32_t)p >= a.group.begin[a.up.nexpert])
        return;
    uint32_t pair = (uint32_t)a.group.pair[p];
    uint32_t e = (uint32_t)expert_of(a, c, pair);
    const int32_t *perm = w.perm + (uint64_t)e * w.cols;
    const uint16_t *from = hidden ? a.hidden + (uint64_t)p * a.down.cols
                                  : (const uint16_t *)a.in.data +
                                        (uint64_t)(c.row0 + pair / a.ntop) * a.in.stride;
    for (uint32_t i = threadIdx.x; i < w.cols; i += blockDim.x) {
        int32_t j = perm[i];
        a.gathered[(uint64_t)p * w.cols + i] = j >= 0 && (uint32_t)j < w.k ? from[j] : 0;
    }
}

/* ------------------------------------------------------------------------------- products */

template <int FORM, int NT, bool ZEROS, bool DOWN>
__global__ void __launch_bounds__(256, 2)
skinny_experts(const gpu_experts a, const portion c, uint32_t nwarp)
{
    __shared__ float room[8 * NT * 128];
    if ((int32_t)blockIdx.y >= *a.group.nitem)
        return;
    const int4 item = a.group.item[blockIdx.y];
    const gpu_matrix &w = DOWN ? a.down : a.up;
    const uint32_t seat = threadIdx.x / 32 / nwarp, warp0 = seat * nwarp;
    uint32_t tile = blockIdx.x * (8 / nwarp) + seat;
    bool there = tile < w.ntile;
    product p = item_product(a, c, item, DOWN);
    float sum[NT][4] = {};
    skinny_share<FORM, NT, ZEROS>(p, there ? tile : 0, threadIdx.x / 32 % nwarp, nwarp, sum);
    leave_sums<NT>(sum, room);
    __syncthreads();
    const uint32_t threads = nwarp * 32, me = threadIdx.x % threads;
    if (!DOWN)
        clear_tail(a, item);
    if (!there)
        return;
    if (DOWN) {
        for (uint32_t v = me; v < 16 * p.m; v += threads)
            put_partial(a, item, tile * 16 + v % 16, v / 16,
                        meet_sums<NT>(room, warp0, nwarp, v % 16, v / 16));
    } else {
        for (uint32_t v = me; v < 8 * p.m; v += threads)
            put_hidden(a, c, item, tile * 8 + v % 8, v / 8,
                       meet_sums<NT>(room, warp0, nwarp, v % 8, v / 8),
                       meet_sums<NT>(room, warp0, nwarp, v % 8 + 8, v / 8));
    }
}

template <int FORM, bool ZEROS, bool DOWN>
static cudaError_t launch_products(const gpu_experts &a, const portion &c, uint32_t items,
                                   uint32_t size, cudaStream_t stream)
{
    const gpu_matrix &w = DOWN ? a.down : a.up;
    uint32_t nblock = w.cols / 64, nwarp = 8;
    while (nwarp > 1 && nblock <= nwarp / 2 * ahead<FORM>::blocks)
        nwarp /= 2;
    dim3 grid((w.ntile + 8 / nwarp - 1) / (8 / nwarp), items);
    if (size == FEW)
        GPU_LAUNCH((skinny_experts<FORM, 1, ZEROS, DOWN>), grid, 256, 0, stream, a, c, nwarp);
    else
        GPU_LAUNCH((skinny_experts<FORM, 2, ZEROS, DOWN>), grid, 256, 0, stream, a, c, nwarp);
    return cudaGetLastError();
}

template <bool DOWN>
static cudaError_t products(const gpu_experts &a, const portion &c, uint32_t items, uint32_t size,
                            cudaStream_t stream)
{
    const gpu_matrix &w = DOWN ? a.down : a.up;
    if (size == MANY)
        return experts_tall(&a, &c, items, DOWN, stream);
    if (w.form == TN_FORM_F16)
        return launch_products<TN_FORM_F16, false, DOWN>(a, c, items, size, stream);
    if (w.form == TN_FORM_W8G)
        return w.zero != NULL
                   ? launch_products<TN_FORM_W8G, true, DOWN>(a, c, items, size, stream)
                   : launch_products<TN_FORM_W8G, false, DOWN>(a, c, items, size, stream);
    return w.zero != NULL ? launch_products<TN_FORM_W4G, true, DOWN>(a, c, items, size, stream)
                          : launch_products<TN_FORM_W4G, false, DOWN>(a, c, items, size, stream);
}

/* -------------------------------------------------------------------------------- combine */

LANE float pair_sum(const gpu_experts &a, const int32_t *place, uint32_t n)
{
    float sum = 0;
#pragma unroll 8
    for (uint32_t j = 0; j < a.ntop; j++) {
        int32_t at = place[j];
        float x = a.partial[(uint64_t)(at >= 0 ? at : 0) * a.down.n + n];
        sum += at >= 0 ? x : 0.0f;
    }
    return sum;
}

__global__ void combine_kernel(const gpu_experts a, const gpu_step s, const portion c)
{
    uint32_t row = blockIdx.y, n = blockIdx.x * blockDim.x + threadIdx.x;
    if (row * a.ntop >= pairs_here(a, s, c) || n >= a.down.n)
        return;
    float sum = pair_sum(a, a.group.place + row * a.ntop, n);
    uint64_t to = c.row0 + row;
    span_put(a.out, to, n, a.add ? span_get(a.out, to, n) + sum : sum);
}

#define COMBINE_THREADS 512
#define COMBINE_PLACES 64

/* A block a row: sums, the shared part, and the norm of the whole. */
__global__ void __launch_bounds__(COMBINE_THREADS)
combine_all(const gpu_combine k, const gpu_experts a, const gpu_step s)
{
    __shared__ float room[33];
    __shared__ int32_t place[COMBINE_PLACES];
    const uint32_t row = blockIdx.x;
    if (row >= s.count[a.rows])
        return;
    const int32_t *from = a.group.place + row * a.ntop; /* read once, not before every sum */
    if (a.ntop <= COMBINE_PLACES) {
        if (threadIdx.x < a.ntop)
            place[threadIdx.x] = from[threadIdx.x];
        from = place;
        __syncthreads();
    }
    float factor = k.scale, squares = 0;
    if (k.mix.data != NULL && k.gate.data != NULL)
        factor *= 1.0f / (1.0f + __expf(-span_get(k.gate, row, 0)));
    for (uint32_t n = threadIdx.x; n < a.down.n; n += COMBINE_THREADS) {
        float x = pair_sum(a, from, n);
        if (a.add)
            x += span_get(a.out, row, n);
        if (k.mix.data != NULL)
            x += factor * span_get(k.mix, row, n);
        span_put(a.out, row, n, x);
        squares += x * x;
    }
    if (k.norm.out.data == NULL)
        return;
    float scale = rsqrtf(block_sum(squares, room) / (float)a.down.n + k.norm.eps);
    for (uint32_t n = threadIdx.x; n < a.down.n; n += COMBINE_THREADS) {
        float w = k.norm.w != NULL ? k.norm.w[n] + k.norm.offset : 1.0f;
        span_put(k.norm.out, row, n, span_get(a.out, row, n) * scale * w);
    }
}

extern "C" cudaError_t gpu_do_combine(const gpu_combine *a, const gpu_step *s,
                                      uint32_t rows_most, cudaStream_t stream)
{
    const gpu_combine args = *a;
    const gpu_experts experts = *a->experts;
    const gpu_step step = *s;
    GPU_LAUNCH(combine_all, rows_most, COMBINE_THREADS, 0, stream, args, experts, step);
    return cudaGetLastError();
}

extern "C" uint32_t gpu_items_max(uint32_t pairs, uint32_t nexpert)
{
    uint32_t full = pairs / FEW, most = pairs < nexpert ? pairs : nexpert;
    return full + most;
}

static uint32_t items_for(uint32_t pairs, uint32_t nexpert, uint32_t size)
{
    uint32_t most = pairs < nexpert ? pairs : nexpert;
    return pairs / size + most;
}

static cudaError_t do_portion(const gpu_experts &a, const gpu_step &s, const portion &c,
                              uint32_t rows, uint32_t rows_all, cudaStream_t stream)
{
    uint32_t pairs = rows * a.ntop;
    uint32_t size = pairs <= 4 * a.up.nexpert ? FEW : pairs <= 20 * a.up.nexpert ? SOME : MANY;
    uint32_t items = items_for(pairs, a.up.nexpert, size);
    cudaError_t e = launch_group(a, s, c, pairs, size, rows_all, stream);
    if (e != cudaSuccess)
        return e;
    if (a.up.perm != NULL)
        GPU_LAUNCH(gather_kernel, pairs, 256, 0, stream, a, s, c, 0u);
    e = products<false>(a, c, items, size, stream);
    if (e != cudaSuccess)
        return e;
    if (a.down.perm != NULL)
        GPU_LAUNCH(gather_kernel, pairs, 256, 0, stream, a, s, c, 1u);
    e = products<true>(a, c, items, size, stream);
    if (e != cudaSuccess || a.defers)
        return e;
    dim3 grid((a.down.n + 255) / 256, rows);
    GPU_LAUNCH(combine_kernel, grid, 256, 0, stream, a, s, c);
    return cudaGetLastError();
}

extern "C" cudaError_t gpu_do_experts(const gpu_experts *a, const gpu_step *s,
                                      uint32_t rows_most, uint32_t nsm, cudaStream_t stream)
{
    (void)nsm;
    for (uint32_t row0 = 0; row0 < rows_most; row0 += a->rows_max) {
        uint32_t left = rows_most - row0;
        const portion c = {row0, a->rows_max};
        cudaError_t e = do_portion(*a, *s, c, left < a->rows_max ? left : a->rows_max, rows_most,
                                   stream);
        if (e != cudaSuccess)
            return e;
    }
    return cudaSuccess;
}

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
#include "wide.cuh"
#include "route.cuh"
#include "walk.cuh"

#define CHUNK 1024u            /* pairs that are counted together */
#define CHUNK_EXPERTS 512u     /* experts whose counts fit the block's memory */
#define FEW 8u                 /* pairs an item, skinny */
#define SOME 16u               /* the same with two groups of 8 */
#define EXPERTS 1024u          /* most of them */
#define FEW_PAIRS 4u           /* pairs an expert on average up to which they go by FEW */
#define GROUP_THREADS 512u

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

/* Where grouping by one block keeps a chunk. */
struct chunk_room {
    int32_t ids[CHUNK];
    int32_t count[EXPERTS], first[EXPERTS];
    int32_t slot[CHUNK];          /* of a pair among those of its expert, in any order */
    int32_t list[CHUNK];          /* pairs by expert, in that order */
    int32_t scan[33];
};

/* Pairs of the same expert before pair i. */
LANE int32_t rank_of(const chunk_room &r, int32_t i, int32_t e)
{
    int32_t rank = 0;
    for (int32_t j = 0; j < r.count[e]; j++)
        rank += r.list[r.first[e] + j] < i;
    return rank;
}

/* All of one chunk, by one block. */
__global__ void __launch_bounds__(GROUP_THREADS)
group_few(const gpu_experts a, const gpu_step s, const portion c, uint32_t size)
{
    __shared__ chunk_room r;
    int32_t first = 0, nitem = 0;
    for (uint32_t e = threadIdx.x; e < a.up.nexpert; e += GROUP_THREADS)
        r.count[e] = 0;
    const uint32_t n = pairs_here(a, s, c);
    wait_for_earlier();
    start_next();
    load_ids(a, c, 0, n, r.ids);
    for (uint32_t i = threadIdx.x; i < n; i += GROUP_THREADS)
        if (r.ids[i] >= 0)
            r.slot[i] = atomicAdd(&r.count[r.ids[i]], 1);
    __syncthreads();
    for (uint32_t e0 = 0; e0 < a.up.nexpert; e0 += GROUP_THREADS) {
        uint32_t e = e0 + threadIdx.x;
        int32_t count = e < a.up.nexpert ? r.count[e] : 0;
        int32_t at = open_experts(a, (int32_t)e, count, size, r.scan, &first, &nitem);
        if (e < a.up.nexpert)
            r.first[e] = at;
    }
    if (threadIdx.x == 0) {
        a.group.begin[a.up.nexpert] = first;
        *a.group.nitem = nitem;
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < n; i += GROUP_THREADS)
        if (r.ids[i] >= 0)
            r.list[r.first[r.ids[i]] + r.slot[i]] = (int32_t)i;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < n; i += GROUP_THREADS) {
        const int32_t e = r.ids[i], at = e >= 0 ? r.first[e] + rank_of(r, (int32_t)i, e) : -1;
        a.group.place[i] = at;
        if (at >= 0)
            a.group.pair[at] = (int32_t)i;
    }
}

/* The choice of the experts for the step's only row; its pairs need no order, each is an item. */
__global__ void route_one(const gpu_experts a, const gpu_step s, const portion c)
{
    __shared__ route_room room;
    const uint32_t n = pairs_here(a, s, c);
    wait_for_earlier();
    start_next();
    if (threadIdx.x == 0) {
        a.group.begin[a.up.nexpert] = (int)n;
        *a.group.nitem = (int)n;
    }
    if (n == 0)
        return;
    const uint32_t rank = route_row(a.route, c.row0, &room);
    if (rank >= a.ntop)
        return;
    int4 item;
    item.x = (int)threadIdx.x;
    item.y = (int)rank;
    item.z = 1;
    item.w = 0;
    a.group.item[rank] = item;
    a.group.pair[rank] = a.group.place[rank] = (int)rank;
}

/* Counts of a chunk by 32 pairs and expert, experts CHUNK_EXPERTS at a time; then what stands
 * before each. */
typedef struct chunk_counts {
    uint16_t n[CHUNK / 32][CHUNK_EXPERTS];
} chunk_counts;

/* A thread's pairs of the chunk: their expert (-1: none or of other experts than those from e0
 * on) and how many of the same 32 come before. */
typedef struct chunk_pairs {
    int32_t expert[CHUNK / GROUP_THREADS];
    uint32_t before[CHUNK / GROUP_THREADS];
} chunk_pairs;

/* Gives thread i the count of expert e0 + i in the chunk; ends with a barrier. */
LANE uint32_t count_chunk(const gpu_experts &a, const portion &c, uint32_t pair0, uint32_t n,
                          uint32_t e0, chunk_counts *counts, chunk_pairs *mine)
{
    const uint32_t lane = threadIdx.x % 32;
    for (uint32_t i = threadIdx.x; i < sizeof *counts / 4; i += GROUP_THREADS)
        ((uint32_t *)(void *)counts)[i] = 0;
    __syncthreads();
    UNROLL for (uint32_t r = 0; r < CHUNK / GROUP_THREADS; r++) {
        const uint32_t i = r * GROUP_THREADS + threadIdx.x;
        int32_t e = i < n ? expert_of(a, c, pair0 + i) - (int32_t)e0 : -1;
        if (e >= (int32_t)CHUNK_EXPERTS)
            e = -1;
        const uint32_t same = __match_any_sync(FULL_WARP, e);
        mine->expert[r] = e;
        mine->before[r] = (uint32_t)__popc(same & ((1u << lane) - 1));
        if (e >= 0 && mine->before[r] == 0)
            counts->n[i / 32][e] = (uint16_t)__popc(same);
    }
    __syncthreads();
    uint32_t sum = 0;
    if (threadIdx.x < CHUNK_EXPERTS)
        for (uint32_t i = 0; i < CHUNK / 32; i++) {
            const uint32_t more = counts->n[i][threadIdx.x];
            counts->n[i][threadIdx.x] = (uint16_t)sum;
            sum += more;
        }
    __syncthreads();
    return sum;
}

__global__ void __launch_bounds__(GROUP_THREADS)
count_chunks(const gpu_experts a, const gpu_step s, const portion c)
{
    __shared__ chunk_counts counts;
    chunk_pairs mine;
    uint32_t all = pairs_here(a, s, c), pair0 = blockIdx.x * CHUNK;
    uint32_t n = pair0 < all ? (all - pair0 < CHUNK ? all - pair0 : CHUNK) : 0;
    for (uint32_t e0 = 0; e0 < a.up.nexpert; e0 += CHUNK_EXPERTS) {
        const uint32_t e = e0 + threadIdx.x, count = count_chunk(a, c, pair0, n, e0, &counts, &mine);
        if (threadIdx.x < CHUNK_EXPERTS && e < a.up.nexpert)
            a.group.count[blockIdx.x * a.up.nexpert + e] = (int32_t)count;
    }
}

/* An expert's counts of eight chunks from chunk i on; 0 behind the last. */
LANE void eight_counts(const gpu_experts &a, uint32_t e, uint32_t i, uint32_t nchunk, int32_t n[8])
{
    UNROLL for (uint32_t j = 0; j < 8; j++)
        n[j] = e < a.up.nexpert && i + j < nchunk ? a.group.count[(i + j) * a.up.nexpert + e] : 0;
}

/* Counts become places: an expert's first, then chunk by chunk. */
__global__ void __launch_bounds__(GROUP_THREADS)
open_chunks(const gpu_experts a, uint32_t nchunk, uint32_t size)
{
    __shared__ int32_t room[33];
    int32_t first = 0, nitem = 0, n[8];
    for (uint32_t e0 = 0; e0 < a.up.nexpert; e0 += blockDim.x) {
        uint32_t e = e0 + threadIdx.x;
        int32_t count = 0;
        for (uint32_t i = 0; i < nchunk; i += 8) {
            eight_counts(a, e, i, nchunk, n);
            UNROLL for (uint32_t j = 0; j < 8; j++)
                count += n[j];
        }
        int32_t at = open_experts(a, (int32_t)e, count, size, room, &first, &nitem);
        for (uint32_t i = 0; i < nchunk; i += 8) {
            eight_counts(a, e, i, nchunk, n);
            UNROLL for (uint32_t j = 0; j < 8; j++) {
                if (e < a.up.nexpert && i + j < nchunk)
                    a.group.count[(i + j) * a.up.nexpert + e] = at;
                at += n[j];
            }
        }
    }
    if (threadIdx.x == 0) {
        a.group.begin[a.up.nexpert] = first;
        *a.group.nitem = nitem;
    }
}

__global__ void __launch_bounds__(GROUP_THREADS)
place_chunks(const gpu_experts a, const gpu_step s, const portion c)
{
    __shared__ chunk_counts counts;
    chunk_pairs mine;
    uint32_t all = pairs_here(a, s, c), pair0 = blockIdx.x * CHUNK;
    if (pair0 >= all)
        return;
    uint32_t n = all - pair0 < CHUNK ? all - pair0 : CHUNK;
    for (uint32_t e0 = 0; e0 < a.up.nexpert; e0 += CHUNK_EXPERTS) {
        count_chunk(a, c, pair0, n, e0, &counts, &mine);
        UNROLL for (uint32_t r = 0; r < CHUNK / GROUP_THREADS; r++) {
            const uint32_t i = r * GROUP_THREADS + threadIdx.x;
            const int32_t e = mine.expert[r];
            if (e < 0)
                continue;
            const int32_t at = a.group.count[blockIdx.x * a.up.nexpert + e0 + (uint32_t)e] +
                               (int32_t)(counts.n[i / 32][e] + mine.before[r]);
            a.group.pair[at] = (int32_t)(pair0 + i);
            a.group.place[pair0 + i] = at;
        }
        __syncthreads();
    }
    for (uint32_t i = threadIdx.x; i < n; i += GROUP_THREADS)
        if (expert_of(a, c, pair0 + i) < 0)
            a.group.place[pair0 + i] = -1;
}

static cudaError_t launch_group(const gpu_experts &a, const gpu_step &s, const portion &c,
                                uint32_t pairs, uint32_t size, uint32_t rows_all,
                                cudaStream_t stream)
{
    if (a.routes && pairs == a.ntop && a.route.nexpert <= ROUTE_MOST) {
        GPU_LAUNCH_EARLY(route_one, 1, (a.route.nexpert + 31) / 32 * 32, 0, stream, a, s, c);
        return cudaGetLastError();
    }
    if (a.routes && c.row0 == 0) {
        cudaError_t e = gpu_do_route(&a.route, &s, rows_all, stream);
        if (e != cudaSuccess)
            return e;
    }
    if (pairs <= CHUNK) {
        GPU_LAUNCH_EARLY(group_few, 1, GROUP_THREADS, 0, stream, a, s, c, size);
        return cudaGetLastError();
    }
    uint32_t nchunk = (pairs + CHUNK - 1) / CHUNK;
    GPU_LAUNCH(count_chunks, nchunk, GROUP_THREADS, 0, stream, a, s, c);
    GPU_LAUNCH(open_chunks, 1, GROUP_THREADS, 0, stream, a, nchunk, size);
    GPU_LAUNCH(place_chunks, nchunk, GROUP_THREADS, 0, stream, a, s, c);
    return cudaGetLastError();
}

/* -------------------------------------------------------------------------------- gather */

/* Inputs of every pair by its expert's permutation. `hidden`: from there, else from the rows.
 * For wide products hidden is turned, and what is gathered too. */
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
        bool there = j >= 0 && (uint32_t)j < w.k;
        if (a.wide && hidden && there)
            j = (int32_t)turned_column((uint32_t)j);
        a.gathered[(uint64_t)p * w.cols + (a.wide ? turned_column(i) : i)] = there ? from[j] : 0;
    }
}

/* ------------------------------------------------------------------------------- products */

/* An item by some tiles. What the second product multiplies is known before the first is done:
 * the items are those of the kernel before that. */
template <int FORM, int NT, bool ZEROS, int HOW, int T, bool DOWN>
__global__ void __launch_bounds__(256, 2)
skinny_experts(const gpu_experts a, const portion c, uint32_t log)
{
    __shared__ float room[8 * T * NT * 128];
    __shared__ float weight[NT * 8];
    constexpr uint32_t U = ahead<FORM>::blocks;
    const gpu_matrix &w = DOWN ? a.down : a.up;
    const uint32_t warp = threadIdx.x / 32, nwarp = 1u << log;
    const uint32_t seat = warp >> log, first = warp & (nwarp - 1);
    const uint32_t tile0 = (blockIdx.x * (8 >> log) + seat) * T;
    if (!DOWN) {
        wait_for_earlier();
        start_next();
    }
    const int4 item = a.group.item[blockIdx.y]; /* there is one, if only of an earlier step */
    const bool there = (int32_t)blockIdx.y < *a.group.nitem;
    product p;
    tile_place at[T];
    share<FORM, HOW, ZEROS, T, U> loads;
    if (there) {
        p = item_product(a, c, item, DOWN);
        UNROLL for (int i = 0; i < T; i++)
            at[i] = place_of<FORM>(p, tile0 + i < w.ntile ? tile0 + i : w.ntile - 1);
        load_share<FORM, HOW, ZEROS, T, U>(p, at, first * U, &loads);
    }
    if (DOWN) {
        wait_for_earlier();
        start_next();
    }
    if (!there)
        return;
    if (!DOWN && threadIdx.x < p.m)
        weight[threadIdx.x] = pair_weight(a, c, item, threadIdx.x);
    float sum[T][NT][4] = {};
    use_shares<FORM, HOW, ZEROS, T, NT, U>(p, at, &loads, first, nwarp, sum);
    leave_sums<T, NT>(sum, room);
    __syncthreads();
    if (!DOWN)
        clear_tail(a, item);
    const uint32_t threads = nwarp * 32, each = (DOWN ? 16 : 8) * p.m;
    for (uint32_t v = threadIdx.x & (threads - 1); v < each * T; v += threads) {
        const uint32_t i = v / each, r = v % (DOWN ? 16 : 8), n = v % each / (DOWN ? 16 : 8);
        const uint32_t tile = tile0 + i;
        if (tile >= w.ntile)
            return;
        float x = meet_sums<T, NT>(room, seat * nwarp, nwarp, i, r, n);
        if (DOWN)
            put_partial(a, item, tile * 16 + r, n, x);
        else
            put_weighted(a, item, tile * 8 + r, n, x,
                         meet_sums<T, NT>(room, seat * nwarp, nwarp, i, r + 8, n), weight[n]);
    }
}

/* What a group of `n` tiles from tile0 on gives, by the threads of its seat. */
template <bool DOWN>
LANE void put_group(const gpu_experts &a, const int4 &item, uint32_t tile0, uint32_t n,
                    uint32_t seat, uint32_t nwarp, const float *weight, const float *room)
{
    const uint32_t threads = nwarp * 32, rows = DOWN ? 16 : 8, m = (uint32_t)item.z;
    const uint32_t ntile = DOWN ? a.down.ntile : a.up.ntile;
    for (uint32_t v = threadIdx.x & (threads - 1); v < rows * m * n; v += threads) {
        const uint32_t r = v % rows, place = v / rows / m, i = v / rows - place * m;
        const uint32_t tile = tile0 + place;
        if (tile >= ntile)
            return;
        float x = walk_sum(room, seat * nwarp, nwarp, place, r, i);
        if (DOWN)
            put_partial(a, item, tile * 16 + r, i, x);
        else
            put_weighted(a, item, tile * 8 + r, i, x,
                         walk_sum(room, seat * nwarp, nwarp, place, r + 8, i), weight[i]);
    }
}

/* The same by seats that walk `length` tiles, for items of up to 8 pairs. */
template <bool ZEROS, int HOW, bool DOWN>
__global__ void __launch_bounds__(256, 2)
walking_experts(const gpu_experts a, const portion c, uint32_t log, uint32_t length)
{
    constexpr int FORM = TN_FORM_W4G, U = ahead<FORM>::blocks;
    __shared__ float room[8 * WALK_GROUP * 128];
    __shared__ float weight[8];
    const gpu_matrix &w = DOWN ? a.down : a.up;
    const uint32_t warp = threadIdx.x / 32, nwarp = 1u << log, seat = warp >> log;
    const uint32_t b0 = (warp & (nwarp - 1)) * U, last = w.ntile - 1;
    const uint32_t tile0 = (blockIdx.x * (8 >> log) + seat) * length;
    if (!DOWN) {
        wait_for_earlier();
        start_next();
    }
    const int4 item = a.group.item[blockIdx.y]; /* there is one, if only of an earlier step */
    const bool there = (int32_t)blockIdx.y < *a.group.nitem;
    product p;
    tile_place at;
    share<FORM, HOW, ZEROS, 1, U> one, two;
    if (there) {
        p = item_product(a, c, item, DOWN);
        at = place_of<FORM>(p, tile0 < last ? tile0 : last);
        load_share<FORM, HOW, ZEROS, 1, U>(p, &at, b0, &one);
        if (tile0 < last)
            step_on<FORM>(p, &at);
        if (length > 1)
            load_share<FORM, HOW, ZEROS, 1, U>(p, &at, b0, &two);
    }
    if (DOWN) {
        wait_for_earlier();
        start_next();
    }
    if (!there)
        return;
    const bool mine = b0 < p.nblock;
    uint4 x[2 * U];
    load_rows<U>(p, b0, x);
    if (!DOWN && threadIdx.x < p.m)
        weight[threadIdx.x] = pair_weight(a, c, item, threadIdx.x);
    if (!DOWN)
        clear_tail(a, item);
    for (uint32_t i = 0; i < length; i += 2) {
        walk_tile<FORM, HOW, ZEROS, U>(one, x, mine, i % WALK_GROUP, room);
        if (i + 2 < length) {
            if (tile0 + i + 1 < last)
                step_on<FORM>(p, &at);
            load_share<FORM, HOW, ZEROS, 1, U>(p, &at, b0, &one);
        }
        if (i + 1 < length)
            walk_tile<FORM, HOW, ZEROS, U>(two, x, mine, (i + 1) % WALK_GROUP, room);
        if (i + 3 < length) {
            if (tile0 + i + 2 < last)
                step_on<FORM>(p, &at);
            load_share<FORM, HOW, ZEROS, 1, U>(p, &at, b0, &two);
        }
        if (i + 2 < length && (i + 2) % WALK_GROUP != 0)
            continue;
        const uint32_t group = i / WALK_GROUP * WALK_GROUP;
        __syncthreads();
        put_group<DOWN>(a, item, tile0 + group,
                        length - group < WALK_GROUP ? length - group : WALK_GROUP, seat, nwarp,
                        weight, room);
        __syncthreads();
    }
}

/* Enough blocks for two on every multiprocessor, three times where there are many. */
template <bool ZEROS, int HOW, bool DOWN>
static cudaError_t launch_walk(const gpu_experts &a, const portion &c, uint32_t items,
                               uint32_t nsm, cudaStream_t stream)
{
    const gpu_matrix &w = DOWN ? a.down : a.up;
    const uint32_t nwarp = warps_a_tile(w.cols, ahead<TN_FORM_W4G>::blocks, 8);
    const uint32_t seats = 8 / nwarp;
    uint32_t length = walk_length(w.ntile * items, seats, nsm * (items > 20 ? 6 : 2));
    length = length < 16 ? length : 16;
    dim3 grid((w.ntile + seats * length - 1) / (seats * length), items);
    GPU_LAUNCH_EARLY((walking_experts<ZEROS, HOW, DOWN>), grid, 256, 0, stream, a, c,
                     log_of(nwarp), length);
    return cudaGetLastError();
}

template <int FORM, bool ZEROS, int HOW, bool DOWN>
static cudaError_t launch_products(const gpu_experts &a, const portion &c, uint32_t items,
                                   uint32_t size, uint32_t nsm, cudaStream_t stream)
{
    const gpu_matrix &w = DOWN ? a.down : a.up;
    uint32_t nwarp = warps_a_tile(w.cols, ahead<FORM>::blocks, 8), seats = 8 / nwarp;
    dim3 grid((w.ntile + seats - 1) / seats, items);
    if (size == FEW && FORM == TN_FORM_W4G && HOW != SCALE_32 && walks(w, 8))
        return launch_walk<ZEROS, HOW != SCALE_32 ? HOW : SCALE_64, DOWN>(a, c, items, nsm,
                                                                         stream);
    if (size == FEW)
        GPU_LAUNCH_EARLY((skinny_experts<FORM, 1, ZEROS, HOW, 1, DOWN>), grid, 256, 0, stream, a,
                         c, log_of(nwarp));
    else
        GPU_LAUNCH_EARLY((skinny_experts<FORM, 2, ZEROS, HOW, 1, DOWN>), grid, 256, 0, stream, a,
                         c, log_of(nwarp));
    return cudaGetLastError();
}

template <int FORM, bool ZEROS, bool DOWN>
static cudaError_t choose_scales(const gpu_experts &a, const portion &c, uint32_t items,
                                 uint32_t size, uint32_t nsm, cudaStream_t stream)
{
    int how = scales_of(DOWN ? a.down : a.up);
    if (how == SCALE_QUAD)
        return launch_products<FORM, ZEROS, SCALE_QUAD, DOWN>(a, c, items, size, nsm, stream);
    if (how == SCALE_64 && FORM == TN_FORM_W4G)
        return launch_products<FORM, ZEROS, FORM == TN_FORM_W4G ? SCALE_64 : SCALE_32, DOWN>(
            a, c, items, size, nsm, stream);
    return launch_products<FORM, ZEROS, SCALE_32, DOWN>(a, c, items, size, nsm, stream);
}

template <bool DOWN>
static cudaError_t products(const gpu_experts &a, const portion &c, uint32_t items, uint32_t size,
                            uint32_t nsm, cudaStream_t stream)
{
    const gpu_matrix &w = DOWN ? a.down : a.up;
    if (a.wide)
        return experts_wide(&a, &c, items, DOWN, stream);
    if (size == MANY)
        return experts_tall(&a, &c, items, DOWN, stream);
    if (w.form == TN_FORM_F16)
        return launch_products<TN_FORM_F16, false, SCALE_64, DOWN>(a, c, items, size, nsm, stream);
    if (w.form == TN_FORM_W8G)
        return w.zero != NULL ? choose_scales<TN_FORM_W8G, true, DOWN>(a, c, items, size, nsm, stream)
                              : choose_scales<TN_FORM_W8G, false, DOWN>(a, c, items, size, nsm, stream);
    return w.zero != NULL ? choose_scales<TN_FORM_W4G, true, DOWN>(a, c, items, size, nsm, stream)
                          : choose_scales<TN_FORM_W4G, false, DOWN>(a, c, items, size, nsm, stream);
}

/* -------------------------------------------------------------------------------- combine */

LANE float pair_sum(const gpu_experts &a, const int32_t *place, uint32_t n)
{
    float sum = 0;
#pragma unroll 8
    for (uint32_t j = 0; j < a.ntop; j++) {
        int32_t at = place[j];
        uint64_t i = (uint64_t)(at >= 0 ? at : 0) * a.down.n + n;
        float x = a.wide ? __half2float(((const __half *)a.partial)[i]) : a.partial[i];
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
#define COMBINE_AHEAD 10          /* partial sums that a thread has on their way */

/* What the sums of a row are added to. */
typedef struct combining {
    uint64_t row;
    float factor;                 /* of the shared part */
} combining;

LANE void add_four(float4 *sum, float4 x, float factor)
{
    sum->x += factor * x.x, sum->y += factor * x.y;
    sum->z += factor * x.z, sum->w += factor * x.w;
}

/* Partial sums i .. i + 3. */
LANE float4 partial_four(const gpu_experts &a, uint64_t i)
{
    if (!a.wide)
        return *(const float4 *)(a.partial + i);
    const uint2 h = *(const uint2 *)((const __half *)a.partial + i);
    const __half2 lo = half2_of(h.x), hi = half2_of(h.y);
    return make_float4(__low2float(lo), __high2float(lo), __low2float(hi), __high2float(hi));
}

/* Columns n .. n + 3 of the row, in the order of pair_sum. */
LANE float4 combine_four(const gpu_combine &k, const gpu_experts &a, const combining &c,
                         const int32_t *place, uint32_t n)
{
    float4 sum = make_float4(0, 0, 0, 0), before = sum, mix = sum, x[COMBINE_AHEAD];
    if (a.add)
        before = span_get_four(a.out, c.row, n);
    if (k.mix.data != NULL)
        mix = span_get_four(k.mix, c.row, n);
    for (uint32_t j0 = 0; j0 < a.ntop; j0 += COMBINE_AHEAD) {
        UNROLL for (uint32_t j = 0; j < COMBINE_AHEAD; j++) {
            int32_t at = j0 + j < a.ntop ? place[j0 + j] : -1;
            x[j] = make_float4(0, 0, 0, 0);
            if (at >= 0)
                x[j] = partial_four(a, (uint64_t)at * a.down.n + n);
        }
        UNROLL for (uint32_t j = 0; j < COMBINE_AHEAD; j++)
            add_four(&sum, x[j], 1.0f);
    }
    add_four(&sum, before, 1.0f);
    add_four(&sum, mix, c.factor);
    return sum;
}

LANE float combine_one(const gpu_combine &k, const gpu_experts &a, const combining &c,
                       const int32_t *place, uint32_t n)
{
    float x = pair_sum(a, place, n);
    if (a.add)
        x += span_get(a.out, c.row, n);
    if (k.mix.data != NULL)
        x += c.factor * span_get(k.mix, c.row, n);
    return x;
}

/* A block a row: sums, the shared part, and the norm of the whole. FOURS: columns by fours, one
 * four a thread, from memory once. */
template <bool FOURS>
__global__ void __launch_bounds__(COMBINE_THREADS)
combine_all(const gpu_combine k, const gpu_experts a, const gpu_step s)
{
    __shared__ float room[33];
    __shared__ int32_t place[COMBINE_PLACES];
    const uint32_t row = blockIdx.x, mine = threadIdx.x * 4;
    const bool kept = a.ntop <= COMBINE_PLACES;
    const int32_t *from = a.group.place + row * a.ntop;
    float4 w = make_float4(0, 0, 0, 0), x = w;
    if (FOURS && k.norm.w != NULL && mine < a.down.n)
        w = *(const float4 *)(k.norm.w + mine);
    if (kept && threadIdx.x < a.ntop) /* left by the grouping, two kernels before */
        place[threadIdx.x] = from[threadIdx.x];
    const bool there = row < s.count[a.rows];
    wait_for_earlier();
    start_next();
    if (!there)
        return;
    __syncthreads();
    combining c = {row, k.scale};
    if (k.mix.data != NULL && k.gate.data != NULL)
        c.factor *= 1.0f / (1.0f + __expf(-span_get(k.gate, row, 0)));
    from = kept ? place : from;
    float squares = 0;
    if (FOURS && mine < a.down.n) {
        x = combine_four(k, a, c, from, mine);
        span_put_four(a.out, row, mine, x);
        squares = x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
    }
    for (uint32_t n = threadIdx.x; !FOURS && n < a.down.n; n += COMBINE_THREADS) {
        float y = combine_one(k, a, c, from, n);
        span_put(a.out, row, n, y);
        squares += y * y;
    }
    if (k.norm.out.data == NULL)
        return;
    squares = block_sum(squares, room);
    count_bad(k.norm.bad, squares);
    float scale = rsqrtf(squares / (float)a.down.n + k.norm.eps);
    if (FOURS && mine < a.down.n)
        span_put_four(k.norm.out, row, mine,
                      norm_four(x, scale, w, k.norm.w != NULL ? k.norm.offset : 1.0f));
    for (uint32_t n = threadIdx.x; !FOURS && n < a.down.n; n += COMBINE_THREADS) {
        float v = k.norm.w != NULL ? k.norm.w[n] + k.norm.offset : 1.0f;
        span_put(k.norm.out, row, n, span_get(a.out, row, n) * scale * v);
    }
}

/* Steps of so many pairs that their products are wide ones. */
static bool goes_wide(uint32_t pairs, uint32_t nexpert)
{
    return pairs > FEW_PAIRS * nexpert && wide_offered();
}

extern "C" cudaError_t gpu_do_combine(const gpu_combine *a, const gpu_step *s,
                                      uint32_t rows_most, cudaStream_t stream)
{
    const gpu_combine args = *a;
    gpu_experts experts = *a->experts;
    experts.wide = goes_wide(rows_most * experts.ntop, experts.up.nexpert);
    const gpu_step step = *s;
    const uint32_t n = experts.down.n;
    bool fours = n <= 4 * COMBINE_THREADS && span_has_fours(experts.out, n) &&
                 (args.mix.data == NULL || span_has_fours(args.mix, n)) &&
                 (args.norm.out.data == NULL || span_has_fours(args.norm.out, n)) &&
                 (uintptr_t)args.norm.w % 16 == 0 && (uintptr_t)experts.partial % 16 == 0;
    if (fours)
        GPU_LAUNCH_EARLY((combine_all<true>), rows_most, COMBINE_THREADS, 0, stream, args,
                         experts, step);
    else
        GPU_LAUNCH_EARLY((combine_all<false>), rows_most, COMBINE_THREADS, 0, stream, args,
                         experts, step);
    return cudaGetLastError();
}

extern "C" uint32_t gpu_items_max(uint32_t pairs, uint32_t nexpert)
{
    uint32_t full = pairs / FEW, most = pairs < nexpert ? pairs : nexpert;
    return full + most;
}

extern "C" uint32_t gpu_experts_rows(void)
{
    return wide_offered() ? 4096 : 2048;
}

extern "C" uint64_t gpu_partial_bytes(uint32_t pairs, uint32_t nexpert, uint32_t n)
{
    const uint64_t few = (uint64_t)FEW_PAIRS * nexpert * n * 4, all = (uint64_t)pairs * n * 2;
    if (!goes_wide(pairs, nexpert))
        return 2 * all;
    return all > few ? all : few;
}

static uint32_t items_for(uint32_t pairs, uint32_t nexpert, uint32_t size)
{
    uint32_t most = pairs < nexpert ? pairs : nexpert;
    return pairs / size + most;
}

/* Rows turned for wide products, once for all portions. */
static cudaError_t turn_rows(gpu_experts *a, const gpu_step &s, const portion &c, uint32_t rows,
                             cudaStream_t stream)
{
    cudaError_t e = cudaSuccess;
    if (!a->wide || a->up.perm != NULL)
        return e;
    if (c.row0 == 0)
        e = wide_turn((const uint16_t *)a->in.data, a->in.stride, a->up.k, a->up.cols, a->turned,
                      a->rows, &s, rows, stream);
    a->in.data = a->turned;
    a->in.stride = a->up.cols;
    return e;
}

static cudaError_t do_portion(const gpu_experts &all, const gpu_step &s, const portion &c,
                              uint32_t rows, uint32_t rows_all, uint32_t nsm,
                              cudaStream_t stream)
{
    gpu_experts a = all;
    uint32_t pairs = rows * a.ntop;
    uint32_t size = a.wide ? WIDE_MANY
                  : pairs <= FEW_PAIRS * a.up.nexpert ? FEW
                  : pairs <= 20 * a.up.nexpert ? SOME : MANY;
    uint32_t items = items_for(pairs, a.up.nexpert, size);
    cudaError_t e = launch_group(a, s, c, pairs, size, rows_all, stream);
    if (e == cudaSuccess)
        e = turn_rows(&a, s, c, rows_all, stream);
    if (e != cudaSuccess)
        return e;
    if (a.up.perm != NULL)
        GPU_LAUNCH(gather_kernel, pairs, 256, 0, stream, a, s, c, 0u);
    e = products<false>(a, c, items, size, nsm, stream);
    if (e != cudaSuccess)
        return e;
    if (a.down.perm != NULL)
        GPU_LAUNCH(gather_kernel, pairs, 256, 0, stream, a, s, c, 1u);
    e = products<true>(a, c, items, size, nsm, stream);
    if (e != cudaSuccess || a.defers)
        return e;
    dim3 grid((a.down.n + 255) / 256, rows);
    GPU_LAUNCH(combine_kernel, grid, 256, 0, stream, a, s, c);
    return cudaGetLastError();
}

extern "C" cudaError_t gpu_do_experts(const gpu_experts *a, const gpu_step *s,
                                      uint32_t rows_most, uint32_t nsm, cudaStream_t stream)
{
    const uint32_t first = rows_most < a->rows_max ? rows_most : a->rows_max;
    gpu_experts args = *a;
    args.wide = goes_wide(first * a->ntop, a->up.nexpert); /* all portions alike */
    for (uint32_t row0 = 0; row0 < rows_most; row0 += a->rows_max) {
        uint32_t left = rows_most - row0;
        const portion c = {row0, a->rows_max};
        cudaError_t e = do_portion(args, *s, c, left < a->rows_max ? left : a->rows_max, rows_most,
                                   nsm, stream);
        if (e != cudaSuccess)
            return e;
    }
    return cudaSuccess;
}

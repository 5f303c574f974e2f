/* SPDX-License-Identifier: Apache-2.0 */
/* attend_prefill.cu - ATTEND for sequences of many rows: tiles of queries walk over K and V
 * in shared memory. */
#include "attend.cuh"

#include <math.h>

#define WARPS 4
#define PAIRS (WARPS * 16u)        /* queries of a block, 16 a warp */
#define SPLIT_LEAST 256u           /* tokens; fewer are not worth a second kernel */

/* Shared memory: PAIRS rows of Q, then STAGES times TILE rows of K and as many of V. */
template <int HD, int TILE, int STAGES>
struct layout {
    static constexpr int ROW = HD == 96 ? 104 : HD; /* halves */
    static constexpr int STAGE = 2 * TILE * ROW;
    static constexpr uint32_t BYTES = (uint32_t)(PAIRS * ROW + STAGES * STAGE) * 2;
};

/* Where 16-byte piece `piece` of a row lies, in halves. Eight rows at the same piece fall into
 * different banks: the pieces of a row are permuted by the row's number, or, where their
 * number is no power of two, rows are padded. */
template <int HD>
LANE uint32_t place(uint32_t row, uint32_t piece)
{
    if (HD == 96)
        return row * 104 + piece * 8;
    return row * HD + ((piece ^ (row & 7)) * 8);
}

/* What a block works at. */
struct job {
    tn_seq q;
    uint32_t pair0, npair, head;
    uint32_t lo, hi;           /* tokens that some query of the block sees */
    uint32_t first, end;       /* those that this split takes of them, from a whole tile on */
    uint32_t used;             /* splits */
    uint64_t slot;             /* of the first pair, among partial sums of all splits */
};

/* Tiles of all long sequences are numbered through; finds the sequence of number `n` and
 * leaves its tile in *tile. -1: there are fewer. All lanes of a warp take part. */
LANE int find_tile(const attend_args &a, uint32_t n, uint32_t *tile)
{
    uint32_t lane = threadIdx.x % 32, nseq = min(a.count[1], a.seqs), before = 0;
    for (uint32_t base = 0; base < nseq; base += 32) {
        uint32_t mine = 0;
        if (base + lane < nseq) {
            int32_t nrow = a.seq[base + lane].nrow;
            if (nrow > 0 && (uint32_t)nrow > a.short_rows)
                mine = ((uint32_t)nrow * a.group + PAIRS - 1) / PAIRS;
        }
        uint32_t end = mine;
        for (int i = 1; i < 32; i <<= 1) {
            uint32_t other = __shfl_up_sync(FULL_WARP, end, i);
            end += lane >= (uint32_t)i ? other : 0;
        }
        uint32_t found = __ballot_sync(FULL_WARP, before + end > n);
        if (found != 0) {
            int at = __ffs((int)found) - 1;
            *tile = n - before - __shfl_sync(FULL_WARP, end - mine, at);
            return (int)base + at;
        }
        before += __shfl_sync(FULL_WARP, end, 31);
    }
    return -1;
}

/* Work of block (x, y, split): false: there is none. */
template <int TILE>
LANE bool find_job(job &j, const attend_args &a, uint32_t x, uint32_t head, uint32_t split)
{
    uint32_t tile = 0;
    int seq = find_tile(a, x, &tile);
    if (seq < 0)
        return false;
    j.q = a.seq[seq];
    j.head = head;
    j.pair0 = tile * PAIRS;
    j.npair = (uint32_t)j.q.nrow * a.group;
    uint32_t context = (uint32_t)j.q.context, last = min(j.pair0 + PAIRS, j.npair) - 1;
    j.lo = first_seen(a.window, context + j.pair0 / a.group);
    j.hi = context + last / a.group + 1;
    uint32_t from = j.lo / TILE * TILE, n = (j.hi - from + TILE - 1) / TILE;
    uint32_t each = (n + a.splits - 1) / a.splits;
    j.used = (n + each - 1) / each;
    j.first = from + split * each * TILE;
    j.end = min(j.first + each * TILE, j.hi);
    j.slot = (((uint64_t)x * a.kv_heads + head) * a.splits + split) * PAIRS;
    return split < j.used;
}

template <int HD>
LANE void stage_queries(__half *to, const attend_args &a, const job &j)
{
    for (uint32_t i = threadIdx.x; i < PAIRS * HD / 2; i += WARPS * 32) {
        uint32_t n = i / (HD / 2), d = i % (HD / 2) * 2, pair = j.pair0 + n, x = 0;
        if (pair < j.npair) {
            uint32_t row = pair / a.group, h = j.head * a.group + pair % a.group;
            x = query_pair(a.q, (uint64_t)j.q.row0 + row, h * HD + d);
        }
        *(uint32_t *)(to + place<HD>(n, d / 8) + d % 8) = x;
    }
}

/* Blocks of the eights of a tile that this warp copies: eights warp, warp + 4, ... */
template <int TILE>
struct tile_blocks {
    uint32_t b[TILE / 32];
};

template <int TILE>
LANE tile_blocks<TILE> blocks_of(const attend_args &a, const job &j, uint32_t at)
{
    tile_blocks<TILE> s;
    UNROLL
    for (int i = 0; i < TILE / 32; i++) {
        uint32_t token = at + (threadIdx.x / 32 + WARPS * i) * 8;
        s.b[i] = token < j.hi && token + 8 > j.lo ? token_block(a, j.q.block0, token) : 0;
    }
    return s;
}

/* Begins to copy tokens [at, at + TILE) of K and V; what no query sees becomes 0. */
template <int HD, int TILE>
LANE void copy_tile(__half *to, const attend_args &a, const job &j, tile_blocks<TILE> s,
                    uint32_t at)
{
    constexpr uint32_t ROW = HD == 96 ? 104 : HD;
    uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    UNROLL
    for (int e = 0; e < TILE / 32; e++) {
        uint32_t eight = (warp + WARPS * e) * 8;
        uint64_t from = token_place(a, s.b[e], at + eight, j.head) * HD;
        UNROLL
        for (uint32_t i = 0; i < HD / 32; i++) {
            uint32_t n = (lane + 32 * i) / (HD / 8), piece = (lane + 32 * i) % (HD / 8);
            uint32_t token = at + eight + n, spot = place<HD>(eight + n, piece);
            bool there = token >= j.lo && token < j.hi;
            uint64_t src = there ? from + n * HD + piece * 8 : 0;
            copy_async(to + spot, (const __half *)a.k + src, there);
            copy_async(to + TILE * ROW + spot, (const __half *)a.v + src, there);
        }
    }
    copy_commit();
}

/* A tile of an E4M3 cache on its way: this thread's eights of K and of V. They wait in registers
 * while the tile before is worked at, and become halves when they are put down. */
template <int HD, int TILE>
struct fetched {
    uint2 k[TILE / 32][HD / 32], v[TILE / 32][HD / 32];
};

template <int HD, int TILE>
LANE void fetch_tile(fetched<HD, TILE> &f, const attend_args &a, const job &j,
                     tile_blocks<TILE> s, uint32_t at)
{
    uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    UNROLL
    for (int e = 0; e < TILE / 32; e++) {
        uint32_t eight = (warp + WARPS * e) * 8;
        uint64_t from = token_place(a, s.b[e], at + eight, j.head) * HD;
        UNROLL
        for (uint32_t i = 0; i < HD / 32; i++) {
            uint32_t token = at + eight + (lane + 32 * i) / (HD / 8);
            f.k[e][i] = f.v[e][i] = make_uint2(0, 0);
            if (token >= j.lo && token < j.hi) {
                f.k[e][i] = load_once8((const uint8_t *)a.k + from + (lane + 32 * i) * 8);
                f.v[e][i] = load_once8((const uint8_t *)a.v + from + (lane + 32 * i) * 8);
            }
        }
    }
}

LANE uint4 eight_halves(uint2 x)
{
    return make_uint4(f8_pair<0>(x.x), f8_pair<2>(x.x), f8_pair<0>(x.y), f8_pair<2>(x.y));
}

template <int HD, int TILE>
LANE void put_tile(__half *to, const fetched<HD, TILE> &f)
{
    constexpr uint32_t ROW = HD == 96 ? 104 : HD;
    uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    UNROLL
    for (int e = 0; e < TILE / 32; e++)
        UNROLL
        for (uint32_t i = 0; i < HD / 32; i++) {
            uint32_t n = (warp + WARPS * e) * 8 + (lane + 32 * i) / (HD / 8);
            uint32_t spot = place<HD>(n, (lane + 32 * i) % (HD / 8));
            *(uint4 *)(to + spot) = eight_halves(f.k[e][i]);
            *(uint4 *)(to + TILE * ROW + spot) = eight_halves(f.v[e][i]);
        }
}

/* s[n]: products of the warp's 16 queries with tokens 8 n .. of the tile. */
template <int HD, int TILE>
LANE void multiply_keys(float s[TILE / 8][4], const __half *query, const __half *key)
{
    uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    UNROLL
    for (int n = 0; n < TILE / 8; n++)
        UNROLL
        for (int i = 0; i < 4; i++)
            s[n][i] = 0.0f;
    UNROLL
    for (int k = 0; k < HD / 16; k++) {
        uint32_t q[4], b[4];
        load_matrices(q, query + place<HD>(warp * 16 + lane % 16, 2 * k + lane / 16));
        UNROLL
        for (int n = 0; n < TILE / 16; n++) {
            load_matrices(b, key + place<HD>(n * 16 + lane / 16 * 8 + lane % 8,
                                             2 * k + lane / 8 % 2));
            mma_f16(s[2 * n], q, b);
            mma_f16(s[2 * n + 1], q, b + 2);
        }
    }
}

/* What a warp knows of its queries; lane: rows g and g + 8, h = 0 and 1. o[n]: dims 8 n .. */
template <int HD>
struct tile_sums {
    float o[HD / 8][4];
    float max[2], sum[2];      /* sum: this lane's share */
    uint32_t first[2], limit[2];
};

/* Hides what a query does not see. */
template <int HD, int TILE>
LANE void mask(float s[TILE / 8][4], const tile_sums<HD> &sum, uint32_t at)
{
    uint32_t t = threadIdx.x % 4;
    UNROLL
    for (int n = 0; n < TILE / 8; n++)
        UNROLL
        for (int i = 0; i < 4; i++) {
            uint32_t token = at + 8 * n + 2 * t + i % 2;
            if (token < sum.first[i / 2] || token >= sum.limit[i / 2])
                s[n][i] = -INFINITY;
        }
}

/* Scores to weights, in place; raises the maxima and scales what was summed so far. */
template <int HD, int TILE>
LANE void weigh(float s[TILE / 8][4], tile_sums<HD> &sum, float scale)
{
    float keep[2];
    bool raised = false;
    UNROLL
    for (int h = 0; h < 2; h++) {
        float top = -INFINITY;
        UNROLL
        for (int n = 0; n < TILE / 8; n++)
            top = fmaxf(top, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
        top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, 1));
        top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, 2));
        top = fmaxf(top * scale, sum.max[h]);
        raised = raised || top > sum.max[h];
        float base = exponent_base(top) - PEAK;
        keep[h] = fast_exp2(sum.max[h] - PEAK - base);
        sum.max[h] = top;
        sum.sum[h] *= keep[h];
        UNROLL
        for (int n = 0; n < TILE / 8; n++)
            UNROLL
            for (int e = 0; e < 2; e++) {
                float x = fast_exp2(s[n][2 * h + e] * scale - base);
                s[n][2 * h + e] = x;
                sum.sum[h] += x;
            }
    }
    if (!__any_sync(FULL_WARP, raised))
        return;
    UNROLL
    for (int n = 0; n < HD / 8; n++)
        UNROLL
        for (int i = 0; i < 4; i++)
            sum.o[n][i] *= keep[i / 2];
}

template <int HD, int TILE>
LANE void add_values(tile_sums<HD> &sum, const float s[TILE / 8][4], const __half *value)
{
    uint32_t lane = threadIdx.x % 32;
    UNROLL
    for (int k = 0; k < TILE / 16; k++) {
        uint32_t weight[4], b[4];
        UNROLL
        for (int i = 0; i < 4; i++) {
            const float *x = &s[2 * k + i / 2][i % 2 * 2];
            weight[i] = bits_of(__floats2half2_rn(x[0], x[1]));
        }
        UNROLL
        for (int n = 0; n < HD / 16; n++) {
            load_matrices_trans(b, value + place<HD>(k * 16 + lane % 16, 2 * n + lane / 16));
            mma_f16(sum.o[2 * n], weight, b);
            mma_f16(sum.o[2 * n + 1], weight, b + 2);
        }
    }
}

template <int HD, int TILE>
LANE void do_tile(tile_sums<HD> &sum, const attend_args &a, const job &j, const __half *query,
                  const __half *stage, uint32_t at)
{
    constexpr uint32_t ROW = HD == 96 ? 104 : HD;
    float s[TILE / 8][4];
    multiply_keys<HD, TILE>(s, query, stage);
    float scale = a.scale;
    if (a.softcap > 0) {
        UNROLL
        for (int n = 0; n < TILE / 8; n++)
            UNROLL
            for (int i = 0; i < 4; i++)
                s[n][i] = cap_of(a, s[n][i] * a.scale);
        scale = 1.0f;
    }
    /* The first query sees the fewest late tokens, the last the fewest early ones. */
    uint32_t last = min(j.pair0 + PAIRS, j.npair) - 1, context = (uint32_t)j.q.context;
    if (at + TILE > context + j.pair0 / a.group + 1 ||
        at < first_seen(a.window, context + last / a.group))
        mask<HD, TILE>(s, sum, at);
    weigh<HD, TILE>(s, sum, scale);
    add_values<HD, TILE>(sum, s, stage + TILE * ROW);
}

template <int HD>
LANE void put_rows(tile_sums<HD> &sum, const attend_args &a, const job &j)
{
    uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    UNROLL
    for (int h = 0; h < 2; h++) {
        float all = sum.sum[h];
        all += __shfl_xor_sync(FULL_WARP, all, 1);
        all += __shfl_xor_sync(FULL_WARP, all, 2);
        uint32_t n = threadIdx.x / 32 * 16 + g + 8 * h, pair = j.pair0 + n;
        if (pair >= j.npair)
            continue;
        if (j.used > 1) {
            float *to = a.partial + (j.slot + n) * HD + 2 * t;
            UNROLL
            for (int i = 0; i < HD / 8; i++)
                *(float2 *)(to + 8 * i) = make_float2(sum.o[i][2 * h], sum.o[i][2 * h + 1]);
            if (t == 0)
                *(float2 *)(a.peaks + (j.slot + n) * 2) = make_float2(sum.max[h], all);
            continue;
        }
        uint64_t row = (uint64_t)j.q.row0 + pair / a.group;
        uint32_t col = (j.head * a.group + pair % a.group) * HD + 2 * t;
        float factor = 1.0f / all;
        UNROLL
        for (int n = 0; n < HD / 8; n++)
            put_gated(a, row, col + 8 * n, sum.o[n][2 * h] * factor,
                      sum.o[n][2 * h + 1] * factor);
    }
}

/* The tiles of the block, one after the other, K and V as they lie in the cache. */
template <int HD, int TILE, int STAGES>
LANE void walk_halves(tile_sums<HD> &sum, const attend_args &a, const job &j,
                      const __half *query, __half *stage, tile_blocks<TILE> next)
{
    const uint32_t size = layout<HD, TILE, STAGES>::STAGE;
    for (uint32_t i = 0, at = j.first; at < j.end; i++, at += TILE) {
        const __half *now = stage + (STAGES == 2 ? i % 2 * size : 0);
        copy_wait<0>();
        __syncthreads();
        if (STAGES == 2 && at + TILE < j.end) {
            copy_tile<HD, TILE>(stage + (i + 1) % 2 * size, a, j, next, at + TILE);
            next = blocks_of<TILE>(a, j, at + 2 * TILE);
        }
        do_tile<HD, TILE>(sum, a, j, query, now, at);
        if (STAGES == 1 && at + TILE < j.end) {
            __syncthreads();
            copy_tile<HD, TILE>(stage, a, j, next, at + TILE);
            next = blocks_of<TILE>(a, j, at + 2 * TILE);
        }
    }
}

/* The same with an E4M3 cache; the first tile is in the first stage. */
template <int HD, int TILE, int STAGES>
LANE void walk_f8(tile_sums<HD> &sum, const attend_args &a, const job &j, const __half *query,
                  __half *stage, tile_blocks<TILE> next)
{
    const uint32_t size = layout<HD, TILE, STAGES>::STAGE;
    fetched<HD, TILE> f;
    for (uint32_t i = 0, at = j.first; at < j.end; i++, at += TILE) {
        bool more = at + TILE < j.end;
        __syncthreads();
        if (more) {
            fetch_tile<HD, TILE>(f, a, j, next, at + TILE);
            next = blocks_of<TILE>(a, j, at + 2 * TILE);
        }
        do_tile<HD, TILE>(sum, a, j, query, stage + (STAGES == 2 ? i % 2 * size : 0), at);
        if (STAGES == 1)
            __syncthreads();
        if (more)
            put_tile<HD, TILE>(stage + (STAGES == 2 ? (i + 1) % 2 * size : 0), f);
    }
}

/* One block: 64 pairs of one sequence and KV head, 16 a warp, over all tokens that they see,
 * TILE tokens at a time. With two stages the next tile is on its way while one is worked at;
 * with one, only other blocks of the multiprocessor hide the wait. Late tiles of a sequence,
 * which see most, come first. F8: the cache is E4M3. Grid: tiles of all sequences, KV heads,
 * splits of the tokens. Sums in fp32. */
template <int HD, int TILE, int STAGES, bool F8>
__global__ void __launch_bounds__(WARPS * 32, 2) attend_tiles(const attend_args a)
{
    GPU_DYNAMIC_SHARED(shared);
    typedef layout<HD, TILE, STAGES> z;
    __half *query = (__half *)shared, *stage = query + PAIRS * z::ROW;
    job j;
    if (!find_job<TILE>(j, a, gridDim.x - 1 - blockIdx.x, blockIdx.y, blockIdx.z))
        return;
    uint32_t context = (uint32_t)j.q.context, last = min(j.pair0 + PAIRS, j.npair) - 1;
    tile_blocks<TILE> next = blocks_of<TILE>(a, j, j.first);
    if (F8) {
        fetched<HD, TILE> f;
        fetch_tile<HD, TILE>(f, a, j, next, j.first);
        put_tile<HD, TILE>(stage, f);
    } else {
        copy_tile<HD, TILE>(stage, a, j, next, j.first);
    }
    next = blocks_of<TILE>(a, j, j.first + TILE);
    stage_queries<HD>(query, a, j);
    tile_sums<HD> sum = {};
    UNROLL
    for (uint32_t h = 0; h < 2; h++) {
        uint32_t pair = min(j.pair0 + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * h, last);
        sum.max[h] = -INFINITY;
        sum.first[h] = first_seen(a.window, context + pair / a.group);
        sum.limit[h] = context + pair / a.group + 1;
    }
    if (F8)
        walk_f8<HD, TILE, STAGES>(sum, a, j, query, stage, next);
    else
        walk_halves<HD, TILE, STAGES>(sum, a, j, query, stage, next);
    put_rows<HD>(sum, a, j);
}

/* One warp: one pair, whose splits it joins in their order. Grid: tiles, KV heads, sixteenths
 * of a tile. */
template <int HD, int TILE>
__global__ void __launch_bounds__(WARPS * 32) join_tiles(const attend_args a)
{
    job j;
    if (!find_job<TILE>(j, a, blockIdx.x, blockIdx.y, 0) || j.used == 1)
        return;
    uint32_t n = blockIdx.z * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    uint32_t pair = j.pair0 + n;
    if (pair >= j.npair)
        return;
    float2 mine = make_float2(-INFINITY, 0.0f), sum[HD / 64 + 1] = {};
    if (lane < j.used)
        mine = *(const float2 *)(a.peaks + (j.slot + lane * PAIRS + n) * 2);
    float weight = fast_exp2(mine.x - exponent_base(warp_max(mine.x)));
    float factor = 1.0f / warp_sum(mine.y * weight);
    for (uint32_t s = 0; s < j.used; s++) {
        float w = __shfl_sync(FULL_WARP, weight, (int)s);
        const float *from = a.partial + (j.slot + s * PAIRS + n) * HD + 2 * lane;
        UNROLL
        for (uint32_t i = 0; i < (HD + 63) / 64; i++)
            if (2 * lane + 64 * i < HD) {
                float2 x = *(const float2 *)(from + 64 * i);
                sum[i].x += x.x * w, sum[i].y += x.y * w;
            }
    }
    uint64_t row = (uint64_t)j.q.row0 + pair / a.group;
    uint32_t col = (j.head * a.group + pair % a.group) * HD + 2 * lane;
    UNROLL
    for (uint32_t i = 0; i < (HD + 63) / 64; i++)
        if (2 * lane + 64 * i < HD)
            put_gated(a, row, col + 64 * i, sum[i].x * factor, sum[i].y * factor);
}

/* ------------------------------------------------------------------------------- launcher */

/* Tiles of sequences that have more than short_rows rows, at most. */
static uint32_t tiles_most(const attend_args *a)
{
    uint32_t seqs = a->rows / (a->short_rows + 1);
    seqs = seqs < a->seqs ? seqs : a->seqs;
    return (a->rows * a->group + PAIRS - 1) / PAIRS + seqs;
}

/* Splits of the tokens when tiles are too few for the card; a lane of a warp has one. */
static uint32_t splits_of(const attend_args *a, uint32_t context, uint32_t nsm)
{
    uint32_t splits = attend_blocks(nsm) * 16 / PAIRS / (tiles_most(a) * a->kv_heads);
    uint32_t most = context / SPLIT_LEAST < 32 ? context / SPLIT_LEAST : 32;
    splits = splits < most ? splits : most;
    return splits > 0 ? splits : 1;
}

template <int HD, int TILE, int STAGES, bool F8>
static cudaError_t launch(const attend_args *args, cudaStream_t stream)
{
    attend_args a = *args;
    const uint32_t bytes = layout<HD, TILE, STAGES>::BYTES;
    cudaError_t e = cudaFuncSetAttribute(attend_tiles<HD, TILE, STAGES, F8>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (e != cudaSuccess) {
        cudaGetLastError();
        return e;
    }
    GPU_LAUNCH((attend_tiles<HD, TILE, STAGES, F8>), dim3(tiles_most(&a), a.kv_heads, a.splits),
               dim3(WARPS * 32), bytes, stream, a);
    if (a.splits > 1)
        GPU_LAUNCH((join_tiles<HD, TILE>), dim3(tiles_most(&a), a.kv_heads, PAIRS / WARPS),
                   dim3(WARPS * 32), 0, stream, a);
    return cudaGetLastError();
}

/* A card that has not the shared memory for two stages gets one. */
template <int HD, int TILE>
static cudaError_t launch_stages(const attend_args *a, uint32_t stages, cudaStream_t stream)
{
    cudaError_t e = cudaErrorInvalidValue;
    if (stages >= 2)
        e = a->f8 ? launch<HD, TILE, 2, true>(a, stream) : launch<HD, TILE, 2, false>(a, stream);
    if (e == cudaSuccess)
        return e;
    return a->f8 ? launch<HD, TILE, 1, true>(a, stream) : launch<HD, TILE, 1, false>(a, stream);
}

extern "C" cudaError_t attend_long(const attend_args *args, uint32_t context, uint32_t stages,
                                   uint32_t nsm, cudaStream_t stream)
{
    attend_args a = *args;
    a.splits = splits_of(&a, context, nsm);
    switch (a.head_dim) {
    case 64: return launch_stages<64, 64>(&a, stages, stream);
    case 96: return launch_stages<96, 64>(&a, stages, stream);
    case 128: return launch_stages<128, 64>(&a, stages, stream);
    default: return launch_stages<256, 32>(&a, stages, stream);
    }
}

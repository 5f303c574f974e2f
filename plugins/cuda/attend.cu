/* SPDX-License-Identifier: Apache-2.0 */
/* attend.cu - ATTEND: causal attention over the paged cache. Here: sequences of few rows, a
 * long context shared out over blocks, their results joined; attend_prefill.cu has the rest. */
#include "attend.cuh"

#include <math.h>

#define WARPS 4
#define STEP 16u                   /* tokens that a warp takes at a time */
#define CHUNK (WARPS * STEP)       /* tokens that a block takes at a time */
#define SPLITS_MAX 64u
#define LOG2_E 1.44269504088896340736f

/* ------------------------------------------------------------------------------- sharing */

/* What of a sequence's context one split takes: all [lo, hi), in pieces of `chunk`. */
struct share {
    uint32_t lo, hi, chunk, used;
};

LANE share share_of(const attend_args &a, const tn_seq &q)
{
    share s;
    s.lo = first_seen(a.window, (uint32_t)q.context) / STEP * STEP;
    s.hi = (uint32_t)(q.context + q.nrow);
    uint32_t each = (s.hi - s.lo + a.splits - 1) / a.splits;
    s.chunk = (each + CHUNK - 1) / CHUNK * CHUNK;
    s.used = (s.hi - s.lo + s.chunk - 1) / s.chunk;
    return s;
}

LANE uint64_t partial_slot(const attend_args &a, uint32_t seq, uint32_t row, uint32_t head,
                           uint32_t split)
{
    return (((uint64_t)seq * a.seq_rows + row) * a.q_heads + head) * a.splits + split;
}

/* Blocks behind the last sequence write zeros into rows of padding. */
LANE void clear_padding(const attend_args &a)
{
    uint32_t width = a.q_heads * a.head_dim, blocks = gridDim.x * gridDim.y;
    for (uint32_t row = blockIdx.y * gridDim.x + blockIdx.x; row < a.rows; row += blocks) {
        if (row < a.count[0] && a.pos[row] >= 0)
            continue;
        for (uint32_t col = threadIdx.x; col < width; col += blockDim.x)
            span_put(a.out, row, col, 0.0f);
    }
}

/* ---------------------------------------------------------------------------- the kernel */

/* Sizes that follow from the head's dims and the queries of a block, 8 or 16. */
template <int HD, int NQ>
struct sizes {
    static constexpr int KG = HD / 32;                 /* 16-byte pieces of a K row a lane has */
    static constexpr int VD = HD % 64 == 0 ? 8 : 4;    /* neighbours of a V row a lane has */
    static constexpr int VG = HD / (8 * VD);           /* such pieces */
    static constexpr int NH = NQ / 8;                  /* queries a lane sums scores for */
    static constexpr int PASS = NQ == 16 && HD == 256 ? 128 : HD; /* dims joined at a time */
    static constexpr int JROW = PASS + 4;              /* floats */
    /* Whether the registers hold K of the next step and V of this one. */
    static constexpr bool AHEAD = !(HD == 256 && NQ == 16);
};

/* The queries of a block and what a warp knows of them. Lane: g = lane / 4, t = lane % 4.
 * Scores are rows of an accumulator: the lane has queries g (+ 8). Sums are transposed, dims
 * are rows: o[piece][i][h] has queries 8 h + 2 t and the next, dims piece * 8 VD + VD g + 2 i
 * in [0] and [1], the next dim in [2] and [3]. So scores of one product are operands of the
 * other without leaving their lane, and K and V come from the cache to registers in long
 * loads, with no shared memory between. */
template <int HD, int NQ>
struct sums {
    float o[sizes<HD, NQ>::VG][sizes<HD, NQ>::VD / 2][NQ / 8][4];
    float max[NQ / 8], sum[NQ / 8]; /* sum: this lane's share */
};

/* What a row of scores may see: [first, limit). */
struct sight {
    uint32_t first, limit;
};

/* Words that eight neighbours take in a cache of E, __half or uint8_t for E4M3: what is loaded
 * stays packed in registers until it is multiplied. */
template <typename E>
struct packed {
    static constexpr int EIGHT = 2 * (int)sizeof(E);
    static constexpr bool F8 = sizeof(E) == 1;
};

/* K of 16 tokens: k[j][i] of a lane is token 8 j + g, dims 32 i + 8 t on. */
template <int HD, typename E>
struct keys {
    uint32_t k[2][HD / 32][packed<E>::EIGHT];
};
/* V of 16 tokens: v[2 j + e][i] is token 8 j + 2 t + e, VD dims from i * 8 VD + VD g on. */
template <int HD, typename E>
struct values {
    uint32_t v[4][HD / (HD % 64 == 0 ? 64 : 32)][packed<E>::EIGHT / (HD % 64 == 0 ? 1 : 2)];
};

/* N words from an address that is a multiple of their size. */
template <int N>
LANE void load_words(uint32_t *to, const void *from)
{
    if (N == 4) {
        uint4 x = load_once(from);
        to[0] = x.x, to[1 % N] = x.y, to[2 % N] = x.z, to[3 % N] = x.w;
    } else if (N == 2) {
        uint2 x = load_once8(from);
        to[0] = x.x, to[1 % N] = x.y;
    } else {
        to[0] = __ldg((const uint32_t *)from);
    }
}

/* Values 2 i and 2 i + 1 of those that lie in `w`, as halves. */
template <typename E>
LANE uint32_t word_of(const uint32_t *w, int i)
{
    if (!packed<E>::F8)
        return w[i];
    return i % 2 == 0 ? f8_pair<0>(w[i / 2]) : f8_pair<2>(w[i / 2]);
}

/* The blocks of the two eights of a step. Where no query sees a token there may be none: it is
 * block 0 then, whose memory may be read and is not made use of. */
struct step_blocks {
    uint32_t b[2];
};

LANE step_blocks blocks_of(const attend_args &a, const tn_seq &q, uint32_t at, sight all)
{
    step_blocks s = {{0, 0}};
    UNROLL
    for (uint32_t j = 0; j < 2; j++)
        if (at + 8 * j < all.limit && at + 8 * j + 8 > all.first)
            s.b[j] = token_block(a, q.block0, at + 8 * j);
    return s;
}

template <int HD, typename E>
LANE void load_keys(keys<HD, E> &k, const attend_args &a, step_blocks b, uint32_t at, uint32_t head)
{
    uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    UNROLL
    for (uint32_t j = 0; j < 2; j++) {
        const E *from = (const E *)a.k + token_place(a, b.b[j], at + 8 * j, head) * HD +
                        (g * HD + 8 * t);
        UNROLL
        for (int i = 0; i < HD / 32; i++)
            load_words<packed<E>::EIGHT>(k.k[j][i], from + 32 * i);
    }
}

template <int HD, typename E>
LANE void load_values(values<HD, E> &v, const attend_args &a, step_blocks b, uint32_t at,
                      uint32_t head)
{
    constexpr int VD = HD % 64 == 0 ? 8 : 4;
    uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    UNROLL
    for (uint32_t j = 0; j < 2; j++) {
        const E *from = (const E *)a.v + token_place(a, b.b[j], at + 8 * j, head) * HD +
                        (2 * t * HD + VD * g);
        UNROLL
        for (uint32_t e = 0; e < 2; e++)
            UNROLL
            for (int i = 0; i < HD / (8 * VD); i++)
                load_words<packed<E>::EIGHT * VD / 8>(v.v[2 * j + e][i], from + e * HD + 8 * VD * i);
    }
}

/* Where no query sees a token its weights are 0, but what lies there may be no number. */
template <int HD, typename E>
LANE void hide_values(values<HD, E> &v, uint32_t at, sight all)
{
    constexpr int VD = HD % 64 == 0 ? 8 : 4;
    if (at >= all.first && at + STEP <= all.limit)
        return;
    UNROLL
    for (uint32_t n = 0; n < 4; n++) {
        uint32_t token = at + 8 * (n / 2) + 2 * (threadIdx.x % 4) + n % 2;
        uint32_t keep = token >= all.first && token < all.limit ? ~0u : 0;
        UNROLL
        for (int i = 0; i < HD / (8 * VD); i++)
            UNROLL
            for (int w = 0; w < packed<E>::EIGHT * VD / 8; w++)
                v.v[n][i][w] &= keep;
    }
}

/* Queries lie in shared memory as operands: for 32 dims, one (NQ 8) or two (16) of 16 bytes a
 * lane. Word w of the eight dims that the lane has of a K row is paired with word w of the same
 * dims of Q. With 16 queries an operand has words 0 and 1, the next words 2 and 3, of query g
 * and g + 8. With 8 queries the rows for g + 8 are free, and words 2 and 3 are put there: the
 * one operand serves words 0, 1 of K, whose products are in the upper rows, and words 2, 3,
 * whose products are in the lower; the rest of both accumulators means nothing. */
template <int NQ>
LANE uint32_t query_word(uint32_t n, uint32_t d)
{
    uint32_t lane = n % 8 * 4 + d % 32 / 8, w = d % 8 / 2, pair = d / 32;
    if (NQ == 8)
        return (pair * 32 + lane) * 4 + w % 2 * 2 + w / 2;
    return ((pair * 2 + w / 2) * 32 + lane) * 4 + w % 2 * 2 + n / 8;
}

/* s[j]: scaled products of the queries with tokens 8 j .. of the step. */
template <int HD, int NQ, typename E>
LANE void multiply_keys(float s[2][4], const keys<HD, E> &k, const uint32_t *q, float scale)
{
    float odd[2][4]; /* two chains of products wait less on each other */
    UNROLL
    for (int j = 0; j < 2; j++)
        UNROLL
        for (int i = 0; i < 4; i++)
            s[j][i] = odd[j][i] = 0.0f;
    const uint4 *from = (const uint4 *)q + threadIdx.x % 32;
    UNROLL
    for (int i = 0; i < HD / 32; i++) {
        uint4 x = from[i * (NQ / 8) * 32], y = NQ == 16 ? from[(i * 2 + 1) * 32] : x;
        uint32_t a0[4] = {x.x, x.y, x.z, x.w}, a1[4] = {y.x, y.y, y.z, y.w};
        UNROLL
        for (int j = 0; j < 2; j++) {
            uint32_t b0[2] = {word_of<E>(k.k[j][i], 0), word_of<E>(k.k[j][i], 1)};
            uint32_t b1[2] = {word_of<E>(k.k[j][i], 2), word_of<E>(k.k[j][i], 3)};
            mma_f16(s[j], a0, b0);
            mma_f16(odd[j], a1, b1);
        }
    }
    UNROLL
    for (int j = 0; j < 2; j++)
        UNROLL
        for (int i = 0; i < (NQ == 8 ? 2 : 4); i++)
            s[j][i] = (s[j][i] + odd[j][NQ == 8 ? i + 2 : i]) * scale;
}

/* Scores to weights: raises the maxima, scales what was summed so far. weight[h] is the
 * operand of queries 8 h on. */
template <int HD, int NQ>
LANE void weigh(uint32_t weight[NQ / 8][2], float s[2][4], sums<HD, NQ> &sum,
                const attend_args &a, const sight *seen, uint32_t at)
{
    uint32_t t = threadIdx.x % 4;
    float keep[NQ / 8];
    bool raised = false;
    if (a.softcap > 0) {
        UNROLL
        for (int i = 0; i < NQ / 2; i++)
            s[i / (NQ / 4)][i % (NQ / 4)] = cap_of(a, s[i / (NQ / 4)][i % (NQ / 4)]);
    }
    UNROLL
    for (int h = 0; h < NQ / 8; h++) {
        float top = sum.max[h];
        UNROLL
        for (int i = 0; i < 4; i++) {
            uint32_t token = at + 8 * (i / 2) + 2 * t + i % 2;
            float *x = &s[i / 2][2 * h + i % 2];
            *x = token >= seen[h].first && token < seen[h].limit ? *x : -INFINITY;
            top = fmaxf(top, *x);
        }
        top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, 1));
        top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, 2));
        raised = raised || top > sum.max[h];
        float base = exponent_base(top) - PEAK;
        keep[h] = fast_exp2(sum.max[h] - PEAK - base);
        sum.max[h] = top;
        sum.sum[h] *= keep[h];
        UNROLL
        for (int i = 0; i < 2; i++) {
            float x = fast_exp2(s[i][2 * h] - base), y = fast_exp2(s[i][2 * h + 1] - base);
            sum.sum[h] += x + y;
            weight[h][i] = bits_of(__floats2half2_rn(x, y));
        }
    }
    if (!__any_sync(FULL_WARP, raised))
        return;
    UNROLL
    for (int h = 0; h < NQ / 8; h++) {
        float x = __shfl_sync(FULL_WARP, keep[h], 8 * t);
        float y = __shfl_sync(FULL_WARP, keep[h], 8 * t + 4);
        UNROLL
        for (int v = 0; v < sizes<HD, NQ>::VG; v++)
            UNROLL
            for (int i = 0; i < sizes<HD, NQ>::VD / 2; i++) {
                sum.o[v][i][h][0] *= x, sum.o[v][i][h][1] *= y;
                sum.o[v][i][h][2] *= x, sum.o[v][i][h][3] *= y;
            }
    }
}

template <int HD, int NQ, typename E>
LANE void add_values(sums<HD, NQ> &sum, const values<HD, E> &v, const uint32_t weight[NQ / 8][2])
{
    UNROLL
    for (int p = 0; p < sizes<HD, NQ>::VG; p++)
        UNROLL
        for (int i = 0; i < sizes<HD, NQ>::VD / 2; i++) {
            uint32_t w[4];
            UNROLL
            for (int n = 0; n < 4; n++)
                w[n] = word_of<E>(v.v[n][p], i);
            uint32_t a[4] = {__byte_perm(w[0], w[1], 0x5410), __byte_perm(w[0], w[1], 0x7632),
                             __byte_perm(w[2], w[3], 0x5410), __byte_perm(w[2], w[3], 0x7632)};
            UNROLL
            for (int h = 0; h < NQ / 8; h++)
                mma_f16(sum.o[p][i][h], a, weight[h]);
        }
}

/* A warp's steps of [from, to): those that begin at from + 16 warp + CHUNK i. `all`: tokens
 * that some query of the block sees. */
template <int HD, int NQ, typename E>
LANE void walk(sums<HD, NQ> &sum, const attend_args &a, const tn_seq &q, const uint32_t *query,
               uint32_t from, uint32_t to, sight all, const sight *seen, uint32_t head)
{
    keys<HD, E> k;
    values<HD, E> v;
    uint32_t at = from + threadIdx.x / 32 * STEP, weight[NQ / 8][2];
    step_blocks b = blocks_of(a, q, at, all), next = b;
    if (sizes<HD, NQ>::AHEAD && at < to)
        load_keys<HD, E>(k, a, b, at, head);
    __syncthreads(); /* the queries are there */
    for (; at < to; at += CHUNK) {
        float s[2][4];
        next = blocks_of(a, q, at + CHUNK, all);
        if (sizes<HD, NQ>::AHEAD)
            load_values<HD, E>(v, a, b, at, head);
        else
            load_keys<HD, E>(k, a, b, at, head);
        multiply_keys<HD, NQ, E>(s, k, query, a.scale);
        if (!sizes<HD, NQ>::AHEAD)
            load_values<HD, E>(v, a, b, at, head);
        else if (at + CHUNK < to)
            load_keys<HD, E>(k, a, next, at + CHUNK, head);
        weigh<HD, NQ>(weight, s, sum, a, seen, at);
        hide_values<HD, E>(v, at, all);
        add_values<HD, NQ, E>(sum, v, weight);
        b = next;
    }
}

/* Those beyond the sequence's pairs are 0. */
template <int HD, int NQ>
LANE void stage_queries(uint32_t *to, const attend_args &a, const tn_seq &q, uint32_t pair0,
                        uint32_t head)
{
    uint32_t npair = (uint32_t)q.nrow * a.group;
    for (uint32_t i = threadIdx.x; i < NQ * HD / 2; i += WARPS * 32) {
        uint32_t n = i / (HD / 2), d = i % (HD / 2) * 2, pair = pair0 + n, x = 0;
        if (pair < npair) {
            uint32_t row = pair / a.group, h = head * a.group + pair % a.group;
            x = query_pair(a.q, (uint64_t)q.row0 + row, h * HD + d);
        }
        to[query_word<NQ>(n, d)] = x;
    }
}

/* What the warps know of each query: their maxima and sums, and both of all warps, the sums
 * added in the warps' order. */
template <int NQ>
struct peaks {
    float max[WARPS][NQ], sum[WARPS][NQ], top[NQ], total[NQ];
};

/* The threads below NQ join a query each. */
template <int NQ>
LANE void join_peaks(peaks<NQ> &p)
{
    if (threadIdx.x >= NQ)
        return;
    uint32_t n = threadIdx.x;
    float top = p.max[0][n], total = 0.0f;
    for (int w = 1; w < WARPS; w++)
        top = fmaxf(top, p.max[w][n]);
    for (int w = 0; w < WARPS; w++)
        total += p.sum[w][n] * fast_exp2(p.max[w][n] - exponent_base(top));
    p.top[n] = top;
    p.total[n] = total;
}

/* Dims d, d + 1 of query n: the final ones, or one split's. */
template <int HD, int NQ>
LANE void put_pair(const attend_args &a, const tn_seq &q, const peaks<NQ> &p, const share &s,
                   uint32_t pair, uint32_t n, uint32_t head, uint32_t d, float x, float y)
{
    uint32_t row = pair / a.group, h = head * a.group + pair % a.group;
    if (s.used == 1) {
        float factor = 1.0f / p.total[n];
        put_gated(a, (uint64_t)q.row0 + row, h * HD + d, x * factor, y * factor);
        return;
    }
    uint64_t slot = partial_slot(a, blockIdx.z, row, h, blockIdx.x);
    *(float2 *)(a.partial + slot * HD + d) = make_float2(x, y);
    if (d == 0)
        *(float2 *)(a.peaks + slot * 2) = make_float2(p.top[n], p.total[n]);
}

template <int HD, int NQ>
LANE void join_warps(sums<HD, NQ> &sum, const attend_args &a, const tn_seq &q, const share &part,
                     uint32_t pair0, uint32_t head, peaks<NQ> &p, float *room)
{
    typedef sizes<HD, NQ> z;
    uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    UNROLL
    for (int h = 0; h < z::NH; h++) {
        sum.sum[h] += __shfl_xor_sync(FULL_WARP, sum.sum[h], 1);
        sum.sum[h] += __shfl_xor_sync(FULL_WARP, sum.sum[h], 2);
        if (t == 0) {
            p.max[warp][8 * h + g] = sum.max[h];
            p.sum[warp][8 * h + g] = sum.sum[h];
        }
    }
    __syncthreads();
    join_peaks<NQ>(p);
    float keep[z::NH][2];
    UNROLL
    for (int h = 0; h < z::NH; h++)
        UNROLL
        for (int e = 0; e < 2; e++) {
            uint32_t n = 8 * h + 2 * t + e;
            float top = p.max[0][n];
            UNROLL
            for (int w = 1; w < WARPS; w++)
                top = fmaxf(top, p.max[w][n]);
            keep[h][e] = fast_exp2(p.max[warp][n] - exponent_base(top));
        }
    uint32_t npair = (uint32_t)q.nrow * a.group;
    UNROLL
    for (int pass = 0; pass < HD / z::PASS; pass++) {
        if (pass > 0)
            __syncthreads();
        UNROLL
        for (int v = 0; v < z::PASS / (8 * z::VD); v++)
            UNROLL
            for (int i = 0; i < z::VD / 2; i++)
                UNROLL
                for (int h = 0; h < z::NH; h++) {
                    const float *o = sum.o[pass * (z::PASS / (8 * z::VD)) + v][i][h];
                    float *to = room + (warp * NQ + 8 * h + 2 * t) * z::JROW + v * 8 * z::VD +
                                z::VD * g + 2 * i;
                    *(float2 *)to = make_float2(o[0] * keep[h][0], o[2] * keep[h][0]);
                    *(float2 *)(to + z::JROW) = make_float2(o[1] * keep[h][1], o[3] * keep[h][1]);
                }
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < NQ * z::PASS / 2; i += WARPS * 32) {
            uint32_t n = i / (z::PASS / 2), d = i % (z::PASS / 2) * 2;
            float x = 0.0f, y = 0.0f;
            for (int w = 0; w < WARPS; w++) {
                float2 o = *(const float2 *)(room + (w * NQ + n) * z::JROW + d);
                x += o.x, y += o.y;
            }
            if (pair0 + n < npair)
                put_pair<HD, NQ>(a, q, p, part, pair0 + n, n, head, pass * z::PASS + d, x, y);
        }
    }
}

/* One block: NQ pairs of one sequence and KV head, one split of its context, shared out over
 * the warps 16 tokens at a time. Grid: splits, KV heads x tiles of NQ pairs, sequences + 1;
 * the last of these clears padding. Sums in fp32. */
template <int HD, int NQ, typename E>
__global__ void __launch_bounds__(WARPS * 32, 2) attend_short(const attend_args a)
{
    __shared__ __align__(16) uint32_t query[NQ * HD / 2];
    __shared__ __align__(16) float room[WARPS * NQ * sizes<HD, NQ>::JROW];
    __shared__ peaks<NQ> p;
    const bool there = blockIdx.z < a.count[1] && blockIdx.z < a.seqs;
    tn_seq q = {};
    if (NQ == 8 && there)         /* with 16 there is no register for what comes early */
        q = a.seq[blockIdx.z];
    wait_for_earlier();
    start_next();
    if (blockIdx.z == a.seqs)
        clear_padding(a);
    if (!there)
        return;
    if (NQ != 8)
        q = a.seq[blockIdx.z];
    uint32_t head = blockIdx.y % a.kv_heads, pair0 = blockIdx.y / a.kv_heads * NQ;
    uint32_t npair = (uint32_t)q.nrow * a.group;
    if (q.nrow < 1 || (uint32_t)q.nrow > a.short_rows || pair0 >= npair)
        return;
    share part = share_of(a, q);
    if (blockIdx.x >= part.used)
        return;
    stage_queries<HD, NQ>(query, a, q, pair0, head);
    sums<HD, NQ> sum = {};
    sight seen[NQ / 8], all;
    uint32_t g = threadIdx.x % 32 / 4, context = (uint32_t)q.context;
    UNROLL
    for (int h = 0; h < NQ / 8; h++) {
        uint32_t pair = pair0 + g + 8 * h, pos = context + pair / a.group;
        seen[h].limit = pair < npair ? pos + 1 : 0;
        seen[h].first = first_seen(a.window, pos);
        sum.max[h] = -INFINITY;
    }
    uint32_t last = min(pair0 + NQ, npair) - 1;
    all.first = first_seen(a.window, context + pair0 / a.group);
    all.limit = context + last / a.group + 1;
    uint32_t from = part.lo + blockIdx.x * part.chunk;
    walk<HD, NQ, E>(sum, a, q, query, from, min(from + part.chunk, all.limit), all, seen, head);
    join_warps<HD, NQ>(sum, a, q, part, pair0, head, p, room);
}

/* ----------------------------------------------------------------------------- the splits */

#define JOIN_THREADS 256
#define JOIN_AHEAD 16              /* splits that a thread has on their way */

/* Weights of the splits and their sum, by one warp. */
LANE void weigh_splits(const attend_args &a, uint64_t slot, uint32_t used, float *weight,
                       float *total)
{
    float2 one[2];
    UNROLL
    for (uint32_t i = 0; i < 2; i++) {
        one[i] = make_float2(-INFINITY, 0.0f);
        if (threadIdx.x + 32 * i < used)
            one[i] = *(const float2 *)(a.peaks + (slot + threadIdx.x + 32 * i) * 2);
    }
    float base = exponent_base(warp_max(fmaxf(one[0].x, one[1].x)));
    float x = fast_exp2(one[0].x - base), y = fast_exp2(one[1].x - base);
    weight[threadIdx.x] = x;
    weight[threadIdx.x + 32] = y;
    x = warp_sum(one[0].y * x + one[1].y * y);
    if (threadIdx.x == 0)
        *total = x;
}

/* One block: one head of one row, whose splits it joins in their order: groups of threads
 * take turns at the splits, a thread has four dims. Grid: rows x heads, sequences. */
template <int HD>
__global__ void __launch_bounds__(JOIN_THREADS) join_splits(const attend_args a)
{
    wait_for_earlier();
    start_next();
    constexpr uint32_t LANES = HD / 4, GROUPS = JOIN_THREADS / LANES;
    static_assert(GROUPS * JOIN_AHEAD >= SPLITS_MAX, "every split has a place");
    __shared__ float weight[SPLITS_MAX];
    __shared__ float4 room[GROUPS * LANES];
    __shared__ float total;
    uint32_t seq = blockIdx.y, row = blockIdx.x / a.q_heads, head = blockIdx.x % a.q_heads;
    if (seq >= a.count[1])
        return;
    const tn_seq q = a.seq[seq];
    if (q.nrow < 1 || (uint32_t)q.nrow > a.short_rows || row >= (uint32_t)q.nrow)
        return;
    share part = share_of(a, q);
    if (part.used == 1)
        return;
    uint64_t slot = partial_slot(a, seq, row, head, 0), at = (uint64_t)q.row0 + row;
    uint32_t group = threadIdx.x / LANES, col = head * HD + threadIdx.x % LANES * 4;
    const float *from = a.partial + slot * HD + threadIdx.x % LANES * 4;
    float4 x[JOIN_AHEAD], sum = make_float4(0, 0, 0, 0);
    uint32_t end = group < GROUPS ? part.used : 0;
    UNROLL
    for (uint32_t i = 0; i < JOIN_AHEAD; i++)
        if (group + i * GROUPS < end)
            x[i] = *(const float4 *)(from + (uint64_t)(group + i * GROUPS) * HD);
    if (threadIdx.x < 32)
        weigh_splits(a, slot, part.used, weight, &total);
    float gate[4];
    UNROLL
    for (uint32_t i = 0; i < 4; i++)
        gate[i] = gate_of(a, at, col + i);
    __syncthreads();
    UNROLL
    for (uint32_t i = 0; i < JOIN_AHEAD; i++)
        if (group + i * GROUPS < end) {
            float w = weight[group + i * GROUPS];
            sum.x += x[i].x * w, sum.y += x[i].y * w, sum.z += x[i].z * w, sum.w += x[i].w * w;
        }
    if (group < GROUPS)
        room[threadIdx.x] = sum;
    __syncthreads();
    if (group != 0)
        return;
    for (uint32_t i = 1; i < GROUPS; i++) {
        float4 y = room[i * LANES + threadIdx.x];
        sum.x += y.x, sum.y += y.y, sum.z += y.z, sum.w += y.w;
    }
    float factor = 1.0f / total;
    put_out(a, at, col, sum.x * factor * gate[0], sum.y * factor * gate[1]);
    put_out(a, at, col + 2, sum.z * factor * gate[2], sum.w * factor * gate[3]);
}

/* ------------------------------------------------------------------------------ launchers */

static uint32_t queries_of(const attend_args *a)
{
    return a->seq_rows * a->group > 8 ? 16 : 8;
}

static uint32_t tiles_of(const attend_args *a)
{
    uint32_t nq = queries_of(a);
    return (a->seq_rows * a->group + nq - 1) / nq;
}

/* Microseconds that the step may take with `splits`, roughly: the cache at 3 TB/s, or waves of
 * blocks that wait for memory, and one more kernel to join splits. */
static float time_of(const attend_args *a, uint32_t units, uint32_t context, uint32_t splits,
                     uint32_t nsm)
{
    float pair_bytes = (a->f8 ? 2.0f : 4.0f) * (float)a->head_dim * (float)units;
    float reading = pair_bytes * (float)context / (23e3f * (float)nsm);
    float waves = (float)((units * splits + 2 * nsm - 1) / (2 * nsm));
    float chunks = (float)((context + splits * CHUNK - 1) / (splits * CHUNK));
    float waiting = waves * (1.0f + 0.8f * chunks);
    float joining = splits > 1 ? 1.5f + 0.02f * (float)splits : 0.0f;
    return (reading > waiting ? reading : waiting) + joining;
}

/* The most splits that are nearly as fast as the best number, for sequences that are much
 * longer than others. */
static uint32_t choose_splits(const attend_args *a, uint32_t context, uint32_t nsm)
{
    uint32_t units = a->seqs * a->kv_heads * tiles_of(a), most = attend_blocks(nsm) / units;
    uint32_t chunks = (context + CHUNK - 1) / CHUNK, best = 1;
    most = most < chunks ? most : chunks;
    most = most < SPLITS_MAX ? most : SPLITS_MAX;
    float least = time_of(a, units, context, 1, nsm);
    for (uint32_t i = 2; i <= most; i++) {
        float time = time_of(a, units, context, i, nsm);
        least = time < least ? time : least;
    }
    for (uint32_t i = 2; i <= most; i++)
        if (time_of(a, units, context, i, nsm) <= 1.05f * least)
            best = i;
    return best;
}

template <int HD, int NQ>
static void launch_short(const attend_args *args, cudaStream_t stream)
{
    attend_args a = *args;
    dim3 grid(a.splits, a.kv_heads * tiles_of(&a), a.seqs + 1);
    if (a.f8)
        GPU_LAUNCH_EARLY((attend_short<HD, NQ, uint8_t>), grid, dim3(WARPS * 32), 0, stream, a);
    else
        GPU_LAUNCH_EARLY((attend_short<HD, NQ, __half>), grid, dim3(WARPS * 32), 0, stream, a);
    if (a.splits > 1)
        GPU_LAUNCH_EARLY((join_splits<HD>), dim3(a.seq_rows * a.q_heads, a.seqs), dim3(JOIN_THREADS), 0,
                   stream, a);
}

template <int HD>
static void launch_dim(const attend_args *a, cudaStream_t stream)
{
    if (queries_of(a) == 8)
        launch_short<HD, 8>(a, stream);
    else
        launch_short<HD, 16>(a, stream);
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static attend_args args_of(const gpu_attend *a, const gpu_step *s, const gpu_shape *n,
                           uint32_t nsm)
{
    attend_args x = {};
    x.q = a->q, x.out = a->out, x.gate = a->gate;
    x.k = a->cache.k, x.v = a->cache.v, x.f8 = a->cache.type == TN_F8_E4M3;
    x.count = s->count, x.pos = s->pos, x.block = s->block, x.seq = s->seq;
    x.q_heads = a->q_heads, x.kv_heads = a->kv_heads, x.group = a->q_heads / a->kv_heads;
    x.head_dim = a->head_dim, x.window = a->window, x.tokens = a->cache.tokens;
    x.magic = (uint32_t)((((uint64_t)1 << 32) + x.tokens - 1) / x.tokens);
    x.rows = n->rows, x.seqs = n->seqs, x.short_rows = attend_short_rows(x.group);
    x.seq_rows = least(least(n->seq_rows, x.short_rows), n->rows);
    x.seq_rows = x.seq_rows > 0 ? x.seq_rows : 1;
    x.scale = a->softcap > 0 ? a->scale / a->softcap : a->scale * LOG2_E;
    x.softcap = a->softcap > 0 ? a->softcap * LOG2_E : 0.0f;
    uint32_t seen = n->context;
    if (a->window > 0)
        seen = least(seen, a->window + x.seq_rows + STEP);
    x.splits = x.seqs > 0 ? choose_splits(&x, seen, nsm) : 1;
    x.peaks = a->partial;
    x.partial = a->partial + (uint64_t)attend_blocks(nsm) * 16 * 2;
    return x;
}

extern "C" int gpu_attend_offered(uint32_t q_heads, uint32_t kv_heads, uint32_t head_dim)
{
    return kv_heads > 0 && q_heads > 0 && q_heads % kv_heads == 0 && q_heads / kv_heads <= 64 &&
           (head_dim == 64 || head_dim == 96 || head_dim == 128 || head_dim == 256);
}

/* A block has at most 16 pairs, each with its sums, a maximum and a sum. */
extern "C" uint64_t gpu_attend_floats(const gpu_attend *a, const tn_limits *l, uint32_t nsm)
{
    (void)l;
    return (uint64_t)attend_blocks(nsm) * 16 * (a->head_dim + 2);
}

static int is_valid(const gpu_attend *a)
{
    const gpu_cache *c = &a->cache;
    return gpu_attend_offered(a->q_heads, a->kv_heads, a->head_dim) && a->scale > 0 &&
           a->softcap >= 0 && (c->type == TN_F16 || c->type == TN_F8_E4M3) && c->tokens >= 8 &&
           c->tokens <= 256 && c->tokens % 8 == 0 && c->heads == a->kv_heads &&
           c->k_dim == a->head_dim && c->v_dim == a->head_dim;
}

extern "C" cudaError_t gpu_do_attend(const gpu_attend *a, const gpu_step *s, const gpu_shape *n,
                                     uint32_t nsm, cudaStream_t stream)
{
    if (!is_valid(a))
        return cudaErrorInvalidValue;
    if (n->rows == 0)
        return cudaSuccess;
    attend_args x = args_of(a, s, n, nsm);
    switch (a->head_dim) {
    case 64: launch_dim<64>(&x, stream); break;
    case 96: launch_dim<96>(&x, stream); break;
    case 128: launch_dim<128>(&x, stream); break;
    default: launch_dim<256>(&x, stream); break;
    }
    cudaError_t e = cudaGetLastError();
    if (e == cudaSuccess && n->seq_rows > x.short_rows)
        e = attend_long(&x, n->context, 2, nsm, stream);
    return e;
}

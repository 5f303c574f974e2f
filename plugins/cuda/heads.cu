/* SPDX-License-Identifier: Apache-2.0 */
/* heads.cu - HEADS: norms query and key heads, turns them, and writes K and V to the cache. */
#include "gpu.h"
#include "lane.cuh"
#include "span.cuh"

#define WARPS 4
#define DIM_MAX 256
#define PAIRS (DIM_MAX / 64)      /* pairs of neighbours that a lane holds */

struct heads_args {
    gpu_heads a;
    const uint32_t *count;
    const int32_t *row_seq, *pos, *block;
    const tn_seq *seq;
};

/* Columns col, col + 1; col is even. */
LANE float2 get_pair(const gpu_span &s, uint64_t row, uint32_t col)
{
    uint64_t at = row * s.stride + col;
    if (s.type == TN_F32)
        return *(const float2 *)((const float *)s.data + at);
    __half2 h = *(const __half2 *)((const __half *)s.data + at);
    return make_float2(__low2float(h), __high2float(h));
}

LANE void put_pair(const gpu_span &s, uint64_t row, uint32_t col, float2 x)
{
    uint64_t at = row * s.stride + col;
    if (s.type == TN_F32)
        *(float2 *)((float *)s.data + at) = x;
    else
        *(__half2 *)((__half *)s.data + at) = __halves2half2(to_half(x.x), to_half(x.y));
}

/* Dims d, d + 1 of the head that lies in `x`, turned. */
LANE float2 turn_pair(const heads_args &h, const float *cs, const float *x, uint32_t d)
{
    uint32_t half = h.a.dims / 2;
    float out[2];
    for (uint32_t e = 0; e < 2; e++) {
        uint32_t at = d + e;
        if (h.a.cs == NULL || at >= h.a.dims) {
            out[e] = x[at];
            continue;
        }
        bool pairs = h.a.pairing == TN_ROPE_PAIRS;
        uint32_t i = pairs ? at / 2 : at % half;
        bool second = pairs ? (at & 1) != 0 : at >= half;
        uint32_t other = pairs ? at ^ 1 : second ? at - half : at + half;
        float c = cs[2 * i], s = cs[2 * i + 1];
        out[e] = second ? x[at] * c + x[other] * s : x[at] * c - x[other] * s;
    }
    return make_float2(out[0], out[1]);
}

/* Where the head's row at `pos` lies in the cache, in elements; ~0: nowhere. */
LANE uint64_t cache_place(const heads_args &h, uint32_t row, int32_t pos, uint32_t head)
{
    const gpu_cache *c = &h.a.cache;
    int32_t seq = h.row_seq[row];
    if (seq < 0)
        return ~0ull;
    uint32_t index = (uint32_t)pos / c->tokens;
    int32_t block = h.block[h.seq[seq].block0 + index];
    if (block < 0)
        return ~0ull;
    return (((uint64_t)block * c->heads + head) * c->tokens + ((uint32_t)pos - index * c->tokens)) *
           h.a.head_dim;
}

/* Elements at, at + 1 of K or V; `at` is even. */
LANE void cache_pair(const gpu_cache &c, void *side, uint64_t at, float2 x)
{
    if (c.type == TN_F8_E4M3)
        *(uint16_t *)((uint8_t *)side + at) =
            (uint16_t)(float_to_f8(x.x) | float_to_f8(x.y) << 8);
    else
        *(__half2 *)((__half *)side + at) = __halves2half2(to_half(x.x), to_half(x.y));
}

/* One warp: one query or key head of a row, a key head with its value head. A lane holds dims
 * 2 lane + 64 i and the next one; shared memory lets it see what its dims turn with. All in
 * fp32, rounded once to the span and once to the cache. */
__global__ void __launch_bounds__(WARPS * 32) do_heads(const heads_args h)
{
    __shared__ float normed[WARPS][DIM_MAX];
    const gpu_heads &a = h.a;
    uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, dim = a.head_dim;
    uint32_t heads = a.q_heads + a.kv_heads, item = blockIdx.x * WARPS + warp;
    uint32_t row = item / heads, head = item % heads;
    const bool there = row < h.count[0];
    const int32_t pos = there ? h.pos[row] : -1;
    bool is_q = head < a.q_heads;
    head = is_q ? head : head - a.q_heads;
    const uint64_t place = is_q || pos < 0 ? ~0ull : cache_place(h, row, pos, head);
    wait_for_earlier();
    start_next();
    if (pos < 0)
        return;
    const gpu_span &span = is_q ? a.q : a.k;
    const float *weight = is_q ? a.q_norm : a.k_norm;
    float2 x[PAIRS], v[PAIRS];
    float sum = 0;
    for (uint32_t i = 0; i < PAIRS; i++) {
        uint32_t d = 2 * lane + 64 * i;
        x[i] = v[i] = make_float2(0, 0);
        if (d < dim) {
            x[i] = get_pair(span, row, head * dim + d);
            if (!is_q)
                v[i] = get_pair(a.v, row, head * dim + d);
        }
        sum += x[i].x * x[i].x + x[i].y * x[i].y;
    }
    float factor = weight != NULL ? 1.0f / sqrtf(warp_sum(sum) / (float)dim + a.eps) : 1.0f;
    for (uint32_t i = 0; i < PAIRS; i++) {
        uint32_t d = 2 * lane + 64 * i;
        if (d >= dim)
            continue;
        normed[warp][d] = weight != NULL ? x[i].x * factor * (weight[d] + a.offset) : x[i].x;
        normed[warp][d + 1] = weight != NULL ? x[i].y * factor * (weight[d + 1] + a.offset)
                                             : x[i].y;
    }
    __syncwarp();
    const float *cs = a.cs + (uint64_t)row * a.dims;
    for (uint32_t i = 0; i < PAIRS; i++) {
        uint32_t d = 2 * lane + 64 * i;
        if (d >= dim)
            continue;
        float2 y = turn_pair(h, cs, normed[warp], d);
        put_pair(span, row, head * dim + d, y);
        if (place == ~0ull)
            continue;
        cache_pair(a.cache, a.cache.k, place + d, y);
        cache_pair(a.cache, a.cache.v, place + d, v[i]);
    }
}

/* ------------------------------------------------------------------------------- launcher */

extern "C" cudaError_t gpu_do_heads(const gpu_heads *a, const gpu_step *s, const gpu_shape *n,
                                    cudaStream_t stream)
{
    if (a->head_dim > DIM_MAX || a->head_dim % 2 != 0 || a->dims > a->head_dim ||
        a->dims % 2 != 0 || a->cache.k_dim != a->head_dim || a->cache.v_dim != a->head_dim ||
        a->cache.tokens == 0 || a->kv_heads != a->cache.heads)
        return cudaErrorInvalidValue;
    uint64_t warps = (uint64_t)n->rows * (a->q_heads + a->kv_heads);
    if (warps == 0)
        return cudaSuccess;
    heads_args h = {*a, s->count, s->row_seq, s->pos, s->block, s->seq};
    if (a->dims == 0)
        h.a.cs = NULL;
    GPU_LAUNCH_EARLY((do_heads), dim3((unsigned)((warps + WARPS - 1) / WARPS)), dim3(WARPS * 32), 0,
               stream, h);
    return cudaGetLastError();
}

/* SPDX-License-Identifier: Apache-2.0 */
/* route.cuh - ROUTE for one row, by one block: for ops.cu, and for experts.cu where a step's only
 * row is chosen for and grouped at once. A thread an expert, and little code: a kernel that runs
 * for microseconds pays for every instruction that it must fetch. */
#ifndef TN_CUDA_ROUTE_CUH
#define TN_CUDA_ROUTE_CUH

#include "span.cuh"

#define ROUTE_MOST 1024u         /* experts, a thread each */

struct route_room {
    uint64_t entry[ROUTE_MOST];   /* who may be chosen: key, then ids downwards */
    float weight[ROUTE_MOST];     /* of the chosen */
    float sum[33];
    uint32_t best[32], n;
};

/* Order of floats as unsigned numbers, 0 below them all. */
LANE uint32_t choice_key(float x)
{
    uint32_t u = __float_as_uint(x + 0.0f); /* -0 is 0 */
    return (u & 0x80000000u) != 0 ? ~u : u | 0x80000000u;
}

LANE float choice_value(uint32_t key)
{
    return __uint_as_float((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

LANE uint32_t greatest_of_warp(uint32_t x)
{
#if !defined(TN_CUDASIM) && __CUDA_ARCH__ >= 800
    return __reduce_max_sync(FULL_WARP, x);
#else
    for (int i = 16; i > 0; i >>= 1) {
        uint32_t y = __shfl_xor_sync(FULL_WARP, x, i);
        x = y > x ? y : x;
    }
    return x;
#endif
}

/* What each warp has best, in every lane with the warp's number; behind a barrier. */
LANE uint32_t best_of_warps(uint32_t key, route_room *r)
{
    const uint32_t lane = threadIdx.x % 32;
    key = greatest_of_warp(key);
    __syncthreads();
    if (lane == 0)
        r->best[threadIdx.x / 32] = key;
    __syncthreads();
    return lane < blockDim.x / 32 ? r->best[lane] : 0;
}

/* A key below which nobody is chosen: the ntop-th greatest of what the warps have best, if there
 * are so many. 0 is no expert's. */
LANE uint32_t choice_bound(uint32_t best, uint32_t ntop)
{
    const uint32_t lane = threadIdx.x % 32, nwarp = blockDim.x / 32;
    uint32_t rank = 0;
    if (ntop > nwarp)
        return 1;
    for (uint32_t i = 0; i < nwarp; i++) {
        uint32_t other = __shfl_sync(FULL_WARP, best, i);
        rank += other > best || (other == best && i < lane);
    }
    uint32_t bound = greatest_of_warp(rank == ntop - 1 ? best : 0);
    return bound > 0 ? bound : 1;
}

/* The choices of a row, by all threads of the block: at least one for every expert, warps whole.
 * Gives the place of the thread's own expert among them, UINT32_MAX: not chosen. Without a bias
 * a choice's weight follows from its score alone. A row with a NaN chooses as if it were -inf,
 * so ids stay valid. */
LANE uint32_t route_row(const gpu_route &a, uint32_t row, route_room *r)
{
    const uint32_t e = threadIdx.x;
    const bool soft = a.kind == TN_ROUTE_SOFTMAX, biased = a.bias != NULL, there = e < a.nexpert;
    float x = there ? span_get(a.in, row, e) : -INFINITY, top = 0, all = 1, score;
    if (e == 0)
        r->n = 0;
    x = x == x ? x : -INFINITY;
    score = x;
    uint32_t key = there ? choice_key(x) : 0, best = best_of_warps(key, r);
    if (soft) {
        top = choice_value(greatest_of_warp(best));
        top = top == -INFINITY ? 0.0f : top;
        all = block_sum(there ? expf(x - top) : 0.0f, r->sum);
    } else {
        score = 1.0f / (1.0f + expf(-x));
    }
    if (biased && there)
        score = (soft ? expf(x - top) / all : score) + a.bias[e];
    if (biased || !soft) {
        key = there ? choice_key(score) : 0;
        best = best_of_warps(key, r);
    }
    const uint64_t entry = (uint64_t)key << 32 | (UINT32_MAX - e);
    const bool may = key >= choice_bound(best, a.ntop);
    if (may)
        r->entry[atomicAdd(&r->n, 1u)] = entry;
    __syncthreads();
    uint32_t rank = may ? 0 : UINT32_MAX;
    for (uint32_t i = 0; may && i < r->n; i++)
        rank += r->entry[i] > entry;
    const bool chosen = rank < a.ntop;
    float w = 0, sum = 0;
    if (chosen) {
        w = biased ? score - a.bias[e] : soft ? expf(x - top) / all : score;
        r->weight[rank] = w;
    }
    __syncthreads();
    if (!chosen)
        return UINT32_MAX;
    for (uint32_t i = 0; i < a.ntop; i++)
        sum += r->weight[i];
    ((int32_t *)a.ids.data)[(uint64_t)row * a.ids.stride + rank] = (int32_t)e;
    span_put(a.weights, row, rank, w * a.scale / (a.renorm ? sum : 1.0f));
    return rank;
}

#endif

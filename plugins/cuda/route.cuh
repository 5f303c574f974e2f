/* SPDX-License-Identifier: Apache-2.0 */
/* route.cuh - ROUTE for one row, by one warp: for ops.cu, and for experts.cu where it is done
 * together with the grouping. */
#ifndef TN_CUDA_ROUTE_CUH
#define TN_CUDA_ROUTE_CUH

#include "span.cuh"

#define ROUTE_LANE 32          /* experts a lane holds: 1024 at most in registers */

/* The greatest of all lanes' values, of equals the lowest id. */
LANE void best_of_warp(float *v, uint32_t *id)
{
    for (int i = 16; i > 0; i >>= 1) {
        float ov = __shfl_xor_sync(FULL_WARP, *v, i);
        uint32_t oid = __shfl_xor_sync(FULL_WARP, *id, i);
        if (ov > *v || (ov == *v && oid < *id)) {
            *v = ov;
            *id = oid;
        }
    }
}

/* `score` is what choices are made by; lane l has experts l, l + 32, ... Without a bias a
 * choice's weight follows from its score alone. A row with a NaN chooses as if it were -inf, so
 * ids stay valid. SLOTS * 32 >= nexpert. */
template <int SLOTS>
LANE void route_slots(const gpu_route &a, uint32_t row)
{
    const uint32_t lane = threadIdx.x % 32;
    const bool soft = a.kind == TN_ROUTE_SOFTMAX, biased = a.bias != NULL;
    float score[SLOTS], top = -INFINITY, all = 0;
    UNROLL for (uint32_t i = 0; i < SLOTS; i++) {
        uint32_t e = i * 32 + lane;
        float x = e < a.nexpert ? span_get(a.in, row, e) : -INFINITY;
        score[i] = x == x ? x : -INFINITY;
        top = fmaxf(top, score[i]);
    }
    top = soft ? warp_max(top) : 0.0f;
    if (top == -INFINITY)
        top = 0.0f;
    UNROLL for (uint32_t i = 0; i < SLOTS; i++) {
        uint32_t e = i * 32 + lane;
        float p = soft ? expf(score[i] - top) : 1.0f / (1.0f + expf(-score[i]));
        all += e < a.nexpert ? p : 0.0f;
        if (biased || !soft)
            score[i] = e < a.nexpert ? p : -INFINITY;
    }
    all = soft ? warp_sum(all) : 1.0f;
    if (biased)
        UNROLL for (uint32_t i = 0; i < SLOTS; i++) {
            uint32_t e = i * 32 + lane;
            if (e < a.nexpert)
                score[i] = score[i] / all + a.bias[e];
        }
    float sum = 0, mine = 0;      /* lane j keeps the weight of choice j */
    uint32_t my_id = 0, taken = 0;
    for (uint32_t j = 0; j < a.ntop; j++) {
        float v = -INFINITY;
        uint32_t id = UINT32_MAX;
        UNROLL for (uint32_t i = 0; i < SLOTS; i++) {
            uint32_t e = i * 32 + lane;
            bool open = (taken >> i & 1) == 0 && e < a.nexpert;
            if (open && (id == UINT32_MAX || score[i] > v)) {
                v = score[i];
                id = e;
            }
        }
        best_of_warp(&v, &id);
        if (id % 32 == lane)
            taken |= 1u << id / 32;
        float w = biased ? v - a.bias[id] : soft ? expf(v - top) / all : v;
        if (j % 32 == lane) {
            mine = w;
            my_id = id;
        }
        sum += w;
        if (j % 32 == 31 || j + 1 == a.ntop) { /* at most 32 choices at a time in registers */
            uint32_t at = j / 32 * 32 + lane;
            if (at <= j) {
                ((int32_t *)a.ids.data)[(uint64_t)row * a.ids.stride + at] = (int32_t)my_id;
                span_put(a.weights, row, at, a.ntop <= 32 ? mine * a.scale / (a.renorm ? sum : 1.0f)
                                                          : mine);
            }
        }
    }
    if (a.ntop <= 32)
        return;
    __syncwarp();
    for (uint32_t j = lane; j < a.ntop; j += 32)
        span_put(a.weights, row, j,
                 span_get(a.weights, row, j) * (a.scale / (a.renorm ? sum : 1.0f)));
}

LANE void route_row(const gpu_route &a, uint32_t row)
{
    if (a.nexpert <= 128)
        route_slots<4>(a, row);
    else if (a.nexpert <= 512)
        route_slots<16>(a, row);
    else
        route_slots<ROUTE_LANE>(a, row);
}

#endif

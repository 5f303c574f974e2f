/* SPDX-License-Identifier: Apache-2.0 */
/* route.cuh - ROUTE for one row, by one warp: for ops.cu, and for experts.cu where it is done
 * together with the grouping. */
#ifndef TN_CUDA_ROUTE_CUH
#define TN_CUDA_ROUTE_CUH

#include "span.cuh"

#define ROUTE_LANE 32          /* experts a lane holds: 1024 at most in registers */

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

/* What a lane still has to offer. */
typedef struct offer {
    uint32_t key, slot;
} offer;

/* The greatest of `n` keys, of equals the first; pairs are compared, then pairs of pairs. */
template <int SLOTS>
LANE offer best_offer(const uint32_t key[SLOTS])
{
    uint32_t k[SLOTS], at[SLOTS];
    UNROLL for (int i = 0; i < SLOTS; i++) {
        k[i] = key[i];
        at[i] = (uint32_t)i;
    }
    UNROLL for (int step = 1; step < SLOTS; step *= 2)
        UNROLL for (int i = 0; i + step < SLOTS; i += 2 * step)
            if (k[i + step] > k[i]) {
                k[i] = k[i + step];
                at[i] = at[i + step];
            }
    offer o = {k[0], at[0]};
    return o;
}

/* Those who may be among the chosen, one warp's. */
#define CANDIDATES 64
struct choice_room {
    uint32_t key[CANDIDATES];
    uint16_t id[CANDIDATES];
};

/* The choices of a row when they are at most 32: lane j gets the key and the id of choice j. The
 * ntop-th greatest of what the lanes have best is a bound below which nobody is chosen; those
 * above it are few and rank each other. False: they are too many. */
template <int SLOTS>
LANE bool choose_quickly(const uint32_t key[SLOTS], uint32_t ntop, choice_room *room,
                         uint32_t *my_key, uint32_t *my_id)
{
    const uint32_t lane = threadIdx.x % 32;
    uint32_t best = 0, rank = 0, n = 0;
    UNROLL for (int i = 0; i < SLOTS; i++)
        best = key[i] > best ? key[i] : best;
    UNROLL for (uint32_t i = 0; i < 32; i++) {
        uint32_t other = __shfl_sync(FULL_WARP, best, i);
        rank += other > best || (other == best && i < lane);
    }
    uint32_t bound = greatest_of_warp(rank == ntop - 1 ? best : 0);
    bound = bound > 0 ? bound : 1; /* 0: no expert */
    __syncwarp();                  /* the room is free of the row before */
    UNROLL for (uint32_t i = 0; i < SLOTS; i++) {
        const bool may = key[i] >= bound;
        const uint32_t all = __ballot_sync(FULL_WARP, may);
        const uint32_t at = n + (uint32_t)__popc(all & ((1u << lane) - 1));
        if (may && at < CANDIDATES) {
            room->key[at] = key[i];
            room->id[at] = (uint16_t)(i * 32 + lane);
        }
        n += (uint32_t)__popc(all);
    }
    if (n > CANDIDATES || n < ntop)
        return false;
    __syncwarp();
    uint32_t rank_of[2] = {0, 0};
    const uint32_t two = lane + 32 < n ? lane + 32 : 0, one = lane < n ? lane : 0;
    const uint32_t k[2] = {room->key[one], room->key[two]};
    const uint32_t id[2] = {room->id[one], room->id[two]};
    for (uint32_t j = 0; j < n; j++) {
        const uint32_t other = room->key[j], whose = room->id[j];
        rank_of[0] += other > k[0] || (other == k[0] && whose < id[0]);
        rank_of[1] += other > k[1] || (other == k[1] && whose < id[1]);
    }
    __syncwarp();
    if (lane < n && rank_of[0] < ntop) {
        room->key[rank_of[0]] = k[0];
        room->id[rank_of[0]] = (uint16_t)id[0];
    }
    if (lane + 32 < n && rank_of[1] < ntop) {
        room->key[rank_of[1]] = k[1];
        room->id[rank_of[1]] = (uint16_t)id[1];
    }
    __syncwarp();
    *my_key = room->key[lane];
    *my_id = room->id[lane];
    return true;
}

/* The same one by one, from choice `from` on. */
template <int SLOTS>
LANE void choose_slowly(uint32_t key[SLOTS], uint32_t n, uint32_t *my_key, uint32_t *my_id)
{
    const uint32_t lane = threadIdx.x % 32;
    offer best = best_offer<SLOTS>(key);
    for (uint32_t j = 0; j < n; j++) {
        uint32_t top = greatest_of_warp(best.key), id = best.slot * 32 + lane;
        id = ~greatest_of_warp(best.key == top ? ~id : 0);
        if (id % 32 == lane) {
            UNROLL for (uint32_t i = 0; i < SLOTS; i++)
                key[i] = i == id / 32 ? 0 : key[i];
            best = best_offer<SLOTS>(key);
        }
        if (j == lane) {
            *my_key = top;
            *my_id = id;
        }
    }
}

/* `score` is what choices are made by; lane l has experts l, l + 32, ... Without a bias a
 * choice's weight follows from its score alone. A row with a NaN chooses as if it were -inf, so
 * ids stay valid. SLOTS * 32 >= nexpert. `chosen`, where not NULL, gets the ids as well. */
template <int SLOTS>
LANE void route_slots(const gpu_route &a, uint32_t row, int32_t *chosen, choice_room *room)
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
    uint32_t key[SLOTS];
    UNROLL for (uint32_t i = 0; i < SLOTS; i++)
        key[i] = i * 32 + lane < a.nexpert ? choice_key(score[i]) : 0;
    float sum = 0;
    for (uint32_t from = 0; from < a.ntop; from += 32) { /* lane j has choice from + j */
        const uint32_t n = a.ntop - from < 32 ? a.ntop - from : 32;
        uint32_t my_key = 0, my_id = 0;
        if (a.ntop > 32 || !choose_quickly<SLOTS>(key, n, room, &my_key, &my_id))
            choose_slowly<SLOTS>(key, n, &my_key, &my_id);
        const float v = choice_value(my_key);
        float w = 0;
        if (lane < n)
            w = biased ? v - a.bias[my_id] : soft ? expf(v - top) / all : v;
        sum += warp_sum(w);
        if (lane >= n)
            continue;
        ((int32_t *)a.ids.data)[(uint64_t)row * a.ids.stride + from + lane] = (int32_t)my_id;
        if (chosen != NULL)
            chosen[from + lane] = (int32_t)my_id;
        span_put(a.weights, row, from + lane,
                 a.ntop <= 32 ? w * a.scale / (a.renorm ? sum : 1.0f) : w);
    }
    if (a.ntop <= 32)
        return;
    __syncwarp();
    for (uint32_t j = lane; j < a.ntop; j += 32)
        span_put(a.weights, row, j,
                 span_get(a.weights, row, j) * (a.scale / (a.renorm ? sum : 1.0f)));
}

LANE void route_row(const gpu_route &a, uint32_t row, int32_t *chosen, choice_room *room)
{
    if (a.nexpert <= 128)
        route_slots<4>(a, row, chosen, room);
    else if (a.nexpert <= 512)
        route_slots<16>(a, row, chosen, room);
    else
        route_slots<ROUTE_LANE>(a, row, chosen, room);
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* span.cuh - reading and writing elements of a gpu_span as floats. */
#ifndef TN_CUDA_SPAN_CUH
#define TN_CUDA_SPAN_CUH

#include "gpu.h"
#include "lane.cuh"

LANE float span_get(const gpu_span &s, uint64_t row, uint32_t col)
{
    uint64_t at = row * s.stride + col;
    return s.type == TN_F32 ? ((const float *)s.data)[at] : __half2float(((const __half *)s.data)[at]);
}

/* Columns col .. col + 3, aligned as such. */
LANE float4 span_get_four(const gpu_span &s, uint64_t row, uint32_t col)
{
    uint64_t at = row * s.stride + col;
    if (s.type == TN_F32)
        return *(const float4 *)((const float *)s.data + at);
    uint2 u = *(const uint2 *)((const __half *)s.data + at);
    __half2 a = half2_of(u.x), b = half2_of(u.y);
    return make_float4(__low2float(a), __high2float(a), __low2float(b), __high2float(b));
}

/* Beyond a half's range: its greatest. NaN stays NaN. */
LANE __half to_half(float x)
{
    return __float2half_rn(x != x ? x : fminf(fmaxf(x, -65504.0f), 65504.0f));
}

LANE void span_put(const gpu_span &s, uint64_t row, uint32_t col, float x)
{
    uint64_t at = row * s.stride + col;
    if (s.type == TN_F32)
        ((float *)s.data)[at] = x;
    else
        ((__half *)s.data)[at] = to_half(x);
}

LANE void span_put_four(const gpu_span &s, uint64_t row, uint32_t col, float4 x)
{
    uint64_t at = row * s.stride + col;
    if (s.type == TN_F32) {
        *(float4 *)((float *)s.data + at) = x;
        return;
    }
    uint2 u;
    u.x = bits_of(__halves2half2(to_half(x.x), to_half(x.y)));
    u.y = bits_of(__halves2half2(to_half(x.z), to_half(x.w)));
    *(uint2 *)((__half *)s.data + at) = u;
}

/* Four columns of a norm: x * factor * (w + offset). */
LANE float4 norm_four(float4 x, float factor, float4 w, float offset)
{
    return make_float4(x.x * factor * (w.x + offset), x.y * factor * (w.y + offset),
                       x.z * factor * (w.z + offset), x.w * factor * (w.w + offset));
}

/* Whether rows of the span can be walked four columns at a time. */
static inline bool span_has_fours(const gpu_span &s, uint32_t width)
{
    return width % 4 == 0 && (uintptr_t)s.data % (s.type == TN_F32 ? 16 : 8) == 0;
}

/* One more bad row where the squares of one do not add up to a number. For all threads of a block. */
LANE void count_bad(uint32_t *bad, float squares)
{
    if (bad != NULL && threadIdx.x == 0 && !(squares < INFINITY))
        atomicAdd(bad, 1u);
}

#endif

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

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* linear.cuh - what the kernels of LINEAR share: where their sums go. */
#ifndef TN_CUDA_LINEAR_CUH
#define TN_CUDA_LINEAR_CUH

#include "matrix.cuh"
#include "span.cuh"

/* tall.cu: steps of many rows. */
cudaError_t linear_tall(const gpu_linear *a, const gpu_step *s, uint32_t rows, uint32_t nsm,
                        cudaStream_t stream);
/* wide.cu: the same where wide_offered. */
cudaError_t linear_wide(const gpu_linear *a, const gpu_step *s, uint32_t rows, uint32_t nsm,
                        cudaStream_t stream);

/* What row r of a tile for row i of x is added to. */
LANE float sum_before(const gpu_linear &a, const gpu_linear_part &part, uint32_t tile, uint32_t r,
                      uint32_t i)
{
    uint32_t n = tile * 16 + r;
    return a.add && n < part.w.n ? span_get(part.out, i, n) : 0.0f;
}

LANE void put_sum_on(const gpu_linear_part &part, uint32_t tile, uint32_t r, uint32_t i,
                     float sum, float before)
{
    uint32_t n = tile * 16 + r;
    if (n >= part.w.n)
        return;
    if (part.bias != NULL)
        sum += part.bias[n];
    span_put(part.out, i, n, sum + before);
}

/* Writes what row r of a tile gives for row i of x. */
LANE void put_sum(const gpu_linear &a, const gpu_linear_part &part, uint32_t tile, uint32_t r,
                  uint32_t i, float sum)
{
    put_sum_on(part, tile, r, i, sum, sum_before(a, part, tile, r, i));
}

LANE void put_pair(const gpu_linear_part &part, uint32_t tile, uint32_t r,
                   uint32_t i, float gate, float up)
{
    uint32_t n = tile * 8 + r, half = part.w.n / 2;
    if (n >= half)
        return;
    if (part.bias != NULL) {
        gate += part.bias[n];
        up += part.bias[half + n];
    }
    span_put(part.out, i, n, activate(gate, part.act) * up);
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* ops.cu - the small operations: rows in, rows out, fp32 arithmetic, one rounding. */
#include "matrix.cuh"
#include "route.cuh"

#define ROW_THREADS 256
#define PLACE_THREADS 1024      /* rows of tens of thousands of logits */

/* -------------------------------------------------------------------------------- rotary */

__global__ void rotary_kernel(const double *inv_freq, uint32_t half, double scale, float2 *cs,
                              const gpu_step s)
{
    wait_for_earlier();
    start_next();
    uint32_t row = blockIdx.x;
    if (row >= s.count[GPU_TOKENS])
        return;
    double pos = s.pos[row] < 0 ? 0.0 : (double)s.pos[row];
    for (uint32_t i = threadIdx.x; i < half; i += blockDim.x) {
        double c, d;
        sincos(pos * inv_freq[i], &d, &c);
        cs[(uint64_t)row * half + i] = make_float2((float)(c * scale), (float)(d * scale));
    }
}

extern "C" cudaError_t gpu_rotary(const double *inv_freq, uint32_t dims, double scale, float *cs,
                                  const gpu_step *s, const gpu_shape *n, cudaStream_t stream)
{
    const gpu_step step = *s;
    GPU_LAUNCH_EARLY(rotary_kernel, n->rows, 64, 0, stream, inv_freq, dims / 2, scale, (float2 *)cs,
               step);
    return cudaGetLastError();
}

/* ------------------------------------------------------------------------ embed and pick */

__global__ void embed_kernel(const gpu_matrix w, uint32_t first, float scale, const gpu_span out,
                             const gpu_step s)
{
    wait_for_earlier();
    start_next();
    uint32_t row = blockIdx.x;
    if (row >= s.count[GPU_TOKENS])
        return;
    int32_t token = s.token[row];
    if (token < 0)
        token = s.row_seq[row] < 0 ? -1 : s.drawn[-1 - token];
    bool known = token >= 0 && (uint32_t)token >= first && (uint32_t)token - first < w.n;
    for (uint32_t c = threadIdx.x; c < w.k; c += blockDim.x)
        span_put(out, row, c,
                 known ? weight_at(w, 0, (uint32_t)token - first, c) * scale : 0.0f);
}

extern "C" cudaError_t gpu_embed(const gpu_matrix *w, uint32_t first, float scale, gpu_span out,
                                 const gpu_step *s, uint32_t rows_most, cudaStream_t stream)
{
    const gpu_step step = *s;
    const gpu_matrix m = *w;
    GPU_LAUNCH_EARLY(embed_kernel, rows_most, ROW_THREADS, 0, stream, m, first, scale, out, step);
    return cudaGetLastError();
}

__global__ void pick_kernel(const gpu_span in, const gpu_span out, uint32_t width,
                            const gpu_step s)
{
    wait_for_earlier();
    start_next();
    if (blockIdx.x >= s.count[GPU_OUTS])
        return;
    uint32_t row = (uint32_t)s.out[blockIdx.x].row;
    for (uint32_t c = threadIdx.x; c < width; c += blockDim.x)
        span_put(out, blockIdx.x, c, span_get(in, row, c));
}

extern "C" cudaError_t gpu_pick(gpu_span in, gpu_span out, uint32_t width, const gpu_step *s,
                                uint32_t rows_most, cudaStream_t stream)
{
    const gpu_step step = *s;
    GPU_LAUNCH_EARLY(pick_kernel, rows_most, ROW_THREADS, 0, stream, in, out, width, step);
    return cudaGetLastError();
}

/* ---------------------------------------------------------------------------------- norm */

#define NORM_FOURS 4           /* fours of columns that a thread keeps in registers */

/* One block a row and piece. */
__global__ void norm_kernel(const gpu_norm a, const gpu_step s)
{
    __shared__ float room[33];
    uint32_t row = blockIdx.x, from = blockIdx.y * a.width;
    wait_for_earlier();
    start_next();
    if (row >= s.count[a.rows])
        return;
    float sum = 0;
    for (uint32_t c = threadIdx.x; c < a.width; c += blockDim.x) {
        float x = span_get(a.in, row, from + c);
        sum += x * x;
    }
    sum = block_sum(sum, room);
    count_bad(a.bad, sum);
    float factor = rsqrtf(sum / (float)a.width + a.eps);
    for (uint32_t c = threadIdx.x; c < a.width; c += blockDim.x) {
        float w = a.w != NULL ? a.w[c] + a.offset : 1.0f;
        span_put(a.out, row, from + c, span_get(a.in, row, from + c) * factor * w);
    }
}

/* The same with everything in registers, read once, the weights before the wait. */
__global__ void norm_fours(const gpu_norm a, const gpu_step s)
{
    __shared__ float room[33];
    const uint32_t row = blockIdx.x, from = blockIdx.y * a.width, each = blockDim.x * 4;
    float4 x[NORM_FOURS], w[NORM_FOURS];
    UNROLL for (uint32_t i = 0; i < NORM_FOURS; i++) {
        uint32_t c = i * each + threadIdx.x * 4;
        w[i] = x[i] = make_float4(0, 0, 0, 0);
        if (c < a.width && a.w != NULL)
            w[i] = *(const float4 *)(a.w + c);
    }
    const bool there = row < s.count[a.rows];
    wait_for_earlier();
    start_next();
    UNROLL for (uint32_t i = 0; i < NORM_FOURS; i++)
        if (i * each + threadIdx.x * 4 < a.width)
            x[i] = span_get_four(a.in, row, from + i * each + threadIdx.x * 4);
    if (!there)
        return;
    float sum = 0;
    UNROLL for (uint32_t i = 0; i < NORM_FOURS; i++)
        sum += x[i].x * x[i].x + x[i].y * x[i].y + x[i].z * x[i].z + x[i].w * x[i].w;
    sum = block_sum(sum, room);
    count_bad(a.bad, sum);
    float factor = rsqrtf(sum / (float)a.width + a.eps);
    UNROLL for (uint32_t i = 0; i < NORM_FOURS; i++) {
        uint32_t c = i * each + threadIdx.x * 4;
        if (c < a.width)
            span_put_four(a.out, row, from + c,
                          norm_four(x[i], factor, w[i], a.w != NULL ? a.offset : 1.0f));
    }
}

extern "C" cudaError_t gpu_do_norm(const gpu_norm *a, const gpu_step *s, uint32_t rows_most,
                                   cudaStream_t stream)
{
    const gpu_step step = *s;
    const gpu_norm args = *a;
    uint32_t threads = a->width >= 1024 ? 512 : 128;
    dim3 grid(rows_most, a->groups > 0 ? a->groups : 1);
    if (span_has_fours(a->in, a->width) && span_has_fours(a->out, a->width) &&
        (uintptr_t)a->w % 16 == 0 && a->width <= threads * 4 * NORM_FOURS)
        GPU_LAUNCH_EARLY(norm_fours, grid, threads, 0, stream, args, step);
    else
        GPU_LAUNCH_EARLY(norm_kernel, grid, threads, 0, stream, args, step);
    return cudaGetLastError();
}

/* ------------------------------------------------------------------- element by element */

__global__ void act_mul_kernel(const gpu_span a, const gpu_span b, const gpu_span out,
                               uint32_t width, uint32_t act, uint32_t rows, const gpu_step s)
{
    wait_for_earlier();
    start_next();
    if (blockIdx.x >= s.count[rows])
        return;
    for (uint32_t c = threadIdx.x; c < width; c += blockDim.x)
        span_put(out, blockIdx.x, c,
                 activate(span_get(a, blockIdx.x, c), act) * span_get(b, blockIdx.x, c));
}

extern "C" cudaError_t gpu_act_mul(gpu_span a, gpu_span b, gpu_span out, uint32_t width,
                                   uint32_t act, uint32_t rows, const gpu_step *s,
                                   uint32_t rows_most, cudaStream_t stream)
{
    const gpu_step step = *s;
    GPU_LAUNCH_EARLY(act_mul_kernel, rows_most, ROW_THREADS, 0, stream, a, b, out, width, act, rows,
               step);
    return cudaGetLastError();
}

__global__ void mix_kernel(const gpu_span in, const gpu_span gate, const gpu_span out,
                           uint32_t width, float scale, uint32_t add, uint32_t rows,
                           const gpu_step s)
{
    wait_for_earlier();
    start_next();
    uint32_t row = blockIdx.x;
    if (row >= s.count[rows])
        return;
    if (gate.data != NULL)
        scale *= 1.0f / (1.0f + __expf(-span_get(gate, row, 0)));
    for (uint32_t c = threadIdx.x; c < width; c += blockDim.x) {
        float x = scale * span_get(in, row, c);
        span_put(out, row, c, add ? span_get(out, row, c) + x : x);
    }
}

extern "C" cudaError_t gpu_mix(gpu_span in, gpu_span gate, gpu_span out, uint32_t width,
                               float scale, uint32_t add, uint32_t rows, const gpu_step *s,
                               uint32_t rows_most, cudaStream_t stream)
{
    const gpu_step step = *s;
    GPU_LAUNCH_EARLY(mix_kernel, rows_most, ROW_THREADS, 0, stream, in, gate, out, width, scale, add,
               rows, step);
    return cudaGetLastError();
}

/* One block a row and rank. */
__global__ void place_kernel(const float *all, uint32_t stride, uint32_t width, const gpu_span out,
                             uint32_t rows, uint32_t row0, const gpu_step s)
{
    wait_for_earlier();
    start_next();
    uint32_t row = row0 + blockIdx.x, rank = blockIdx.y;
    if (row >= s.count[rows])
        return;
    const float *from = all + ((uint64_t)rank * gridDim.x + blockIdx.x) * stride;
    for (uint32_t c = threadIdx.x; c < width; c += blockDim.x)
        span_put(out, row, rank * width + c, from[c]);
}

extern "C" cudaError_t gpu_place(const float *all, uint32_t nrank, uint32_t stride,
                                 uint32_t width, gpu_span out, uint32_t rows, uint32_t row0,
                                 uint32_t n, const gpu_step *s, cudaStream_t stream)
{
    const gpu_step step = *s;
    GPU_LAUNCH_EARLY(place_kernel, dim3(n, nrank), PLACE_THREADS, 0, stream, all, stride, width, out,
               rows, row0, step);
    return cudaGetLastError();
}

__global__ void prepare_kernel(const gpu_span in, const int32_t *perm, uint32_t k, uint32_t cols,
                               __half *out, uint32_t rows, const gpu_step s)
{
    wait_for_earlier();
    start_next();
    uint32_t row = blockIdx.x;
    if (row >= s.count[rows])
        return;
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
        int32_t from = perm != NULL ? perm[c] : c < k ? (int32_t)c : -1;
        float x = from >= 0 && (uint32_t)from < k ? span_get(in, row, (uint32_t)from) : 0.0f;
        out[(uint64_t)row * cols + c] = to_half(x);
    }
}

extern "C" cudaError_t gpu_prepare(gpu_span in, const int32_t *perm, uint32_t k, uint32_t cols,
                                   uint16_t *out, uint32_t rows, const gpu_step *s,
                                   uint32_t rows_most, cudaStream_t stream)
{
    const gpu_step step = *s;
    GPU_LAUNCH_EARLY(prepare_kernel, rows_most, ROW_THREADS, 0, stream, in, perm, k, cols,
               (__half *)out, rows, step);
    return cudaGetLastError();
}

/* --------------------------------------------------------------------------------- route */

__global__ void route_kernel(const gpu_route a, const gpu_step s)
{
    __shared__ route_room room;
    wait_for_earlier();
    start_next();
    if (blockIdx.x < s.count[a.rows])
        route_row(a, blockIdx.x, &room);
}

extern "C" cudaError_t gpu_do_route(const gpu_route *a, const gpu_step *s, uint32_t rows_most,
                                    cudaStream_t stream)
{
    const gpu_step step = *s;
    const gpu_route args = *a;
    if (a->nexpert > ROUTE_MOST)
        return cudaErrorInvalidValue;
    GPU_LAUNCH_EARLY(route_kernel, rows_most, (a->nexpert + 31) / 32 * 32, 0, stream, args, step);
    return cudaGetLastError();
}

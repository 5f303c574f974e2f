/* SPDX-License-Identifier: Apache-2.0 */
/* tallexperts.cu - the products of experts for steps of many rows. */
#include "experts.cuh"
#include "tall.cuh"

/* A block: 8 tiles by the up to 64 pairs of an item. */
template <int FORM, bool ZEROS, bool DOWN>
__global__ void __launch_bounds__(TALL_THREADS)
tall_experts(const gpu_experts a, const portion c)
{
    typedef tall<1, 8, 8, 1, 1> shape;
    GPU_DYNAMIC_SHARED(shared);
    if ((int32_t)blockIdx.y >= *a.group.nitem)
        return;
    const int4 item = a.group.item[blockIdx.y];
    const gpu_matrix &w = DOWN ? a.down : a.up;
    const uint32_t mine = blockIdx.x * shape::tiles + threadIdx.x / 32;
    uint32_t tile[1] = {mine < w.ntile ? mine : w.ntile - 1};
    product p = item_product(a, c, item, DOWN);
    float sum[1][8][4] = {};
    tall_product<FORM, 1, 8, 8, 1, 1, ZEROS>(p, tile, shared, sum);
    if (!DOWN)
        clear_tail(a, item);
    if (mine >= w.ntile)
        return;
    const uint32_t g = threadIdx.x % 32 / 4, x0 = threadIdx.x % 4 * 2;
    UNROLL for (int i = 0; i < 16; i++) {
        uint32_t x = x0 + i / 2 * 8 + i % 2;
        if (x >= p.m)
            continue;
        float lower = sum[0][i / 2][i % 2], upper = sum[0][i / 2][2 + i % 2];
        if (DOWN) {
            put_partial(a, item, mine * 16 + g, x, lower);
            put_partial(a, item, mine * 16 + g + 8, x, upper);
        } else {
            put_hidden(a, c, item, mine * 8 + g, x, lower, upper);
        }
    }
}

template <int FORM, bool ZEROS, bool DOWN>
static cudaError_t launch(const gpu_experts &a, const portion &c, uint32_t items,
                          cudaStream_t stream)
{
    const gpu_matrix &w = DOWN ? a.down : a.up;
    const uint32_t bytes = tall<1, 8, 8, 1, 1>::shared;
    cudaError_t e = cudaFuncSetAttribute(tall_experts<FORM, ZEROS, DOWN>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (e != cudaSuccess)
        return e;
    dim3 grid((w.ntile + 7) / 8, items);
    GPU_LAUNCH((tall_experts<FORM, ZEROS, DOWN>), grid, TALL_THREADS, bytes, stream, a, c);
    return cudaGetLastError();
}

template <bool DOWN>
static cudaError_t choose(const gpu_experts &a, const portion &c, uint32_t items,
                          cudaStream_t stream)
{
    const gpu_matrix &w = DOWN ? a.down : a.up;
    if (w.form == TN_FORM_F16)
        return launch<TN_FORM_F16, false, DOWN>(a, c, items, stream);
    if (w.form == TN_FORM_W8G)
        return w.zero != NULL ? launch<TN_FORM_W8G, true, DOWN>(a, c, items, stream)
                              : launch<TN_FORM_W8G, false, DOWN>(a, c, items, stream);
    return w.zero != NULL ? launch<TN_FORM_W4G, true, DOWN>(a, c, items, stream)
                          : launch<TN_FORM_W4G, false, DOWN>(a, c, items, stream);
}

cudaError_t experts_tall(const gpu_experts *a, const portion *c, uint32_t items, bool down,
                         cudaStream_t stream)
{
    return down ? choose<true>(*a, *c, items, stream) : choose<false>(*a, *c, items, stream);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* tall.cu - LINEAR for steps of many rows. */
#include "linear.cuh"
#include "wide.cuh"

#define WIDE_LEAST 64u         /* more rows go to wide.cu */

template <int FORM, int RT, int NT, int RW, int TW, int KW, bool ZEROS>
__global__ void __launch_bounds__(TALL_THREADS)
tall_kernel(const gpu_linear a, const gpu_step s, uint32_t part0)
{
    typedef tall<RT, NT, RW, TW, KW> shape;
    GPU_DYNAMIC_SHARED(shared);
    const gpu_linear_part &part = a.part[part0 + blockIdx.z];
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t row0 = blockIdx.y * shape::rows, m = s.count[a.rows];
    const uint32_t first = blockIdx.x * shape::tiles + warp % RW * RT;
    if (row0 >= m || blockIdx.x * shape::tiles >= part.w.ntile)
        return;
    product p = product_of(part.w, 0);
    p.x = (const __half *)a.x + (uint64_t)row0 * a.ldx;
    p.ldx = a.ldx;
    p.k = a.k;
    p.m = m - row0 < shape::rows ? m - row0 : shape::rows;
    uint32_t tile[RT];
    UNROLL for (int r = 0; r < RT; r++)
        tile[r] = first + r < part.w.ntile ? first + r : part.w.ntile - 1;
    float c[RT][NT][4] = {};
    tall_product<FORM, RT, NT, RW, TW, KW, ZEROS>(p, tile, shared, c);
    if (!tall_meet<RT, NT, RW, TW, KW>(shared, c))
        return;
    const uint32_t g = lane / 4, x0 = warp / RW % TW * NT * 8 + lane % 4 * 2;
    UNROLL for (int r = 0; r < RT; r++)
        UNROLL for (int i = 0; i < NT * 2; i++) {
            uint32_t x = x0 + i / 2 * 8 + i % 2;
            if (x >= p.m || first + r >= part.w.ntile)
                continue;
            float lower = c[r][i / 2][i % 2], upper = c[r][i / 2][2 + i % 2];
            if (part.act) {
                put_pair(part, tile[r], g, row0 + x, lower, upper);
                continue;
            }
            put_sum(a, part, tile[r], g, row0 + x, lower);
            put_sum(a, part, tile[r], g + 8, row0 + x, upper);
        }
}

template <int FORM, int RT, int NT, int RW, int TW, int KW, bool ZEROS>
static cudaError_t launch_tall(const gpu_linear *a, const gpu_step *s, uint32_t rows,
                               cudaStream_t stream)
{
    typedef tall<RT, NT, RW, TW, KW> shape;
    const gpu_linear args = *a;
    const gpu_step step = *s;
    uint32_t tiles = 0;
    for (uint32_t i = 0; i < a->npart; i++)
        tiles = a->part[i].w.ntile > tiles ? a->part[i].w.ntile : tiles;
    cudaError_t e = cudaFuncSetAttribute(tall_kernel<FORM, RT, NT, RW, TW, KW, ZEROS>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         shape::shared);
    if (e != cudaSuccess)
        return e;
    dim3 grid((tiles + shape::tiles - 1) / shape::tiles, (rows + shape::rows - 1) / shape::rows,
              a->npart);
    GPU_LAUNCH((tall_kernel<FORM, RT, NT, RW, TW, KW, ZEROS>), grid, TALL_THREADS, shape::shared,
               stream, args, step, 0u);
    return cudaGetLastError();
}

/* Large shapes where they fill the card, else smaller ones with the columns shared out. */
template <int FORM, bool ZEROS>
static cudaError_t choose_tall(const gpu_linear *a, const gpu_step *s, uint32_t rows,
                               uint32_t nsm, cudaStream_t stream)
{
    uint32_t tiles = 0;
    for (uint32_t i = 0; i < a->npart; i++)
        tiles += a->part[i].w.ntile;
    if (rows > 64 && (uint64_t)(tiles / 8) * ((rows + 127) / 128) * 2 >= nsm)
        return launch_tall<FORM, 2, 8, 4, 2, 1, ZEROS>(a, s, rows, stream);
    if ((uint64_t)(tiles / 4) * ((rows + 63) / 64) >= nsm)
        return launch_tall<FORM, 1, 8, 4, 1, 2, ZEROS>(a, s, rows, stream);
    return launch_tall<FORM, 1, 8, 2, 1, 4, ZEROS>(a, s, rows, stream);
}

cudaError_t linear_tall(const gpu_linear *a, const gpu_step *s, uint32_t rows, uint32_t nsm,
                        cudaStream_t stream)
{
    const gpu_matrix *w = &a->part[0].w;
    if (rows > WIDE_LEAST && a->turned != NULL && wide_offered())
        return linear_wide(a, s, rows, nsm, stream);
    if (w->form == TN_FORM_F16)
        return choose_tall<TN_FORM_F16, false>(a, s, rows, nsm, stream);
    if (w->form == TN_FORM_W8G)
        return w->zero != NULL ? choose_tall<TN_FORM_W8G, true>(a, s, rows, nsm, stream)
                               : choose_tall<TN_FORM_W8G, false>(a, s, rows, nsm, stream);
    return w->zero != NULL ? choose_tall<TN_FORM_W4G, true>(a, s, rows, nsm, stream)
                           : choose_tall<TN_FORM_W4G, false>(a, s, rows, nsm, stream);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* step.cu - spreads a step out to where the kernels look for it. */
#include "gpu.h"
#include "lane.cuh"

__global__ void unpack_kernel(const gpu_parcel *parcel, const gpu_step s)
{
    uint32_t *const to[GPU_PARCEL_PARTS] = {
        (uint32_t *)s.count, (uint32_t *)s.token, (uint32_t *)s.row_seq, (uint32_t *)s.pos,
        (uint32_t *)s.seq, (uint32_t *)s.block, (uint32_t *)s.out, (uint32_t *)s.extra,
    };
    const uint32_t *words = (const uint32_t *)parcel;
    for (uint32_t part = 0; part < GPU_PARCEL_PARTS; part++)
        for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < parcel->words[part];
             i += gridDim.x * blockDim.x)
            to[part][i] = words[parcel->from[part] + i];
}

/* Nothing: what follows it may begin while it runs, and then the step lies there already. */
__global__ void begin_kernel()
{
}

extern "C" cudaError_t gpu_unpack(const gpu_parcel *parcel, const gpu_step *s,
                                  cudaStream_t stream)
{
    const gpu_step step = *s;
    GPU_LAUNCH(unpack_kernel, 16, 256, 0, stream, parcel, step);
    GPU_LAUNCH(begin_kernel, 1, 32, 0, stream);
    return cudaGetLastError();
}

extern "C" cudaError_t gpu_code(int *binary, int *ptx)
{
    cudaFuncAttributes a;
    cudaError_t e = cudaFuncGetAttributes(&a, unpack_kernel);
    if (e != cudaSuccess)
        return e;
    *binary = a.binaryVersion;
    *ptx = a.ptxVersion;
    return cudaSuccess;
}

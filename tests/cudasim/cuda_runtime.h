/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_runtime.h - cudasim: the part of CUDA that plugins/cuda and plugins/peer use, on the
 * processor.
 *
 * Tests on machines without a graphics card compile the plugin against this header instead of
 * CUDA's own: the host code and the kernels, line by line the same. A block's threads are
 * fibers that run one after the other until each waits at a barrier; a warp's exchanges and
 * tensor-core operations (see lane.cuh) are meeting points of its lanes. Streams do at once
 * what they are given, captured graphs keep it. Nothing about speed can be learned here.
 *
 * Environment: CUDASIM_ORDER=reverse runs lanes, warps and blocks backwards. A kernel that
 * lacks a barrier gives different numbers then, so tests run both ways. CUDASIM_MEMORY: bytes
 * of the card (default 1 GiB). CUDASIM_FAIL=N: the N-th call that can fail does. CUDASIM_CARD:
 * what the card can, times ten (default 90). CUDASIM_IPC: memory between processes
 * is "refused", or "deaf" (opened, but what is written does not arrive). */
#ifndef TN_CUDASIM_RUNTIME_H
#define TN_CUDASIM_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum cudaError {
    cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35, cudaErrorNoDevice = 100, cudaErrorInvalidDevice = 101,
    cudaErrorNotReady = 600, cudaErrorIllegalAddress = 700, cudaErrorLaunchFailure = 719,
    cudaErrorUnknown = 999
} cudaError_t;

enum cudaMemcpyKind {
    cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice, cudaMemcpyDefault
};
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal,
                             cudaStreamCaptureModeRelaxed };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16, cudaDevAttrClockRate = 13,
                      cudaDevAttrMemoryClockRate = 36, cudaDevAttrGlobalMemoryBusWidth = 37,
                      cudaDevAttrL2CacheSize = 38,
                      cudaDevAttrMaxThreadsPerMultiProcessor = 39, cudaDevAttrComputeCapabilityMajor = 75,
                      cudaDevAttrComputeCapabilityMinor = 76,
                      cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
#define CUDART_VERSION 13000
#define cudaStreamNonBlocking 1u
#define cudaEventDefault 0u
#define cudaEventDisableTiming 2u
#define cudaHostAllocDefault 0u
#define cudaHostAllocPortable 1u
#define cudaHostRegisterPortable 1u
#define cudaHostRegisterMapped 2u
#define cudaIpcMemLazyEnablePeerAccess 1u

/* Between processes: only memory of a MiB and more. */
typedef struct cudaIpcMemHandle {
    char reserved[64];
} cudaIpcMemHandle_t;

#ifndef __cplusplus
typedef struct int4 {
    int x, y, z, w;
} int4;
#endif

typedef struct cudasim_stream *cudaStream_t;
typedef struct cudasim_event *cudaEvent_t;
typedef struct cudasim_graph *cudaGraph_t;
typedef struct cudasim_graph *cudaGraphExec_t;

/* What a stream begins with, for communicators of tests, which are given streams of cudasim. */
typedef struct cudasim_queue {
    /* Does f(user) when it is the stream's turn. 1: kept for a captured graph, which does it at each
     * launch, so `user` has to stay; 0: it was done. */
    int (*give)(cudaStream_t s, void (*f)(void *user), void *user);
    int held;                    /* not 0: what is asked of the stream is not ready */
} cudasim_queue;

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor, multiProcessorCount;
    size_t sharedMemPerBlockOptin;
    int l2CacheSize, memoryBusWidth;
};

cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device);
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr a, int device);
cudaError_t cudaDeviceGetPCIBusId(char *id, int size, int device);
cudaError_t cudaDeviceGetByPCIBusId(int *device, const char *id);
cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int other);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaDriverGetVersion(int *v);
cudaError_t cudaRuntimeGetVersion(int *v);
cudaError_t cudaMemGetInfo(size_t *free, size_t *total);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaGetLastError(void);
cudaError_t cudaPeekAtLastError(void);
const char *cudaGetErrorString(cudaError_t e);
const char *cudaGetErrorName(cudaError_t e);

cudaError_t cudaMalloc(void **p, size_t size);
cudaError_t cudaFree(void *p);
cudaError_t cudaHostAlloc(void **p, size_t size, unsigned flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaHostRegister(void *p, size_t size, unsigned flags);
cudaError_t cudaHostUnregister(void *p);
cudaError_t cudaHostGetDevicePointer(void **out, void *p, unsigned flags);
cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *p);
cudaError_t cudaIpcOpenMemHandle(void **p, cudaIpcMemHandle_t handle, unsigned flags);
cudaError_t cudaIpcCloseMemHandle(void *p);
cudaError_t cudaMemcpy(void *to, const void *from, size_t n, enum cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, enum cudaMemcpyKind kind,
                            cudaStream_t s);
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t s);
cudaError_t cudaMemset(void *p, int value, size_t n);
cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t s);

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamQuery(cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaEventQuery(cudaEvent_t e);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b);

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *e, cudaGraph_t g, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e);
cudaError_t cudaGraphDestroy(cudaGraph_t g);

#ifdef __cplusplus
}

#include "cuda_fp16.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <type_traits>

/* ------------------------------------------------------------------------------- language */

#define __global__ static
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__

struct uint3 { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct __align__(8) int2 { int x, y; };
struct __align__(16) int4 { int x, y, z, w; };
struct __align__(8) uint2 { unsigned x, y; };
struct __align__(16) uint4 { unsigned x, y, z, w; };
struct __align__(8) float2 { float x, y; };
struct __align__(16) float4 { float x, y, z, w; };
static inline uint2 make_uint2(unsigned a, unsigned b) { return uint2{a, b}; }
static inline uint4 make_uint4(unsigned a, unsigned b, unsigned c, unsigned d)
{
    return uint4{a, b, c, d};
}
static inline int2 make_int2(int a, int b) { return int2{a, b}; }
static inline float2 make_float2(float a, float b) { return float2{a, b}; }
static inline float4 make_float4(float a, float b, float c, float d)
{
    return float4{a, b, c, d};
}

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
#define warpSize 32

struct cudaFuncAttributes {
    int binaryVersion, ptxVersion;
};
template <typename F>
static inline cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, F *)
{
    *a = {90, 90};
    return cudaSuccess;
}
template <typename F>
static inline cudaError_t cudaFuncSetAttribute(F *, enum cudaFuncAttribute, int)
{
    return cudaSuccess;
}

/* ------------------------------------------------------------------------------- machinery */

void cudasim_launch(dim3 grid, dim3 block, size_t shared, cudaStream_t s,
                    std::function<void()> body);
uint8_t *cudasim_shared();
void cudasim_block_barrier();
void cudasim_warp_barrier(unsigned mask);
/* A thread of `count` at barrier `number`, which lets go who waits when all have come. */
void cudasim_named_barrier(unsigned number, unsigned count, bool wait);
/* A place of 256 bytes for every lane of the warp; all write, meet, and read. */
uint8_t *cudasim_place(unsigned lane);
void cudasim_next_place();

/* Every lane shows `mine`; gives lane `from`'s. Lanes outside the mask show nothing. */
template <typename T>
static inline T cudasim_exchange(unsigned mask, T mine, unsigned from)
{
    static_assert(sizeof(T) <= 256, "a lane shows at most 256 bytes");
    unsigned lane = threadIdx.x % 32;
    memcpy(cudasim_place(lane), &mine, sizeof mine);
    cudasim_warp_barrier(mask);
    T out;
    memcpy(&out, cudasim_place(from % 32), sizeof out);
    cudasim_next_place();
    return out;
}

/* ------------------------------------------------------------------------------ intrinsics */

static inline void __syncthreads() { cudasim_block_barrier(); }
static inline void __syncwarp(unsigned mask = 0xffffffffu) { cudasim_warp_barrier(mask); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __nanosleep(unsigned) {}

template <typename T>
static inline T __shfl_sync(unsigned mask, T v, int from, int width = 32)
{
    unsigned lane = threadIdx.x % 32;
    return cudasim_exchange(mask, v, lane / width * width + (unsigned)from % width);
}
template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32)
{
    (void)width;
    return cudasim_exchange(mask, v, (threadIdx.x % 32) ^ (unsigned)bits);
}
template <typename T>
static inline T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32)
{
    unsigned lane = threadIdx.x % 32, at = lane % width + by;
    return cudasim_exchange(mask, v, at < (unsigned)width ? lane + by : lane);
}
template <typename T>
static inline T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32)
{
    unsigned lane = threadIdx.x % 32;
    return cudasim_exchange(mask, v, lane % width >= by ? lane - by : lane);
}
unsigned __ballot_sync(unsigned mask, int predicate);
unsigned __match_any_sync(unsigned mask, int value);
static inline int __any_sync(unsigned mask, int p) { return __ballot_sync(mask, p) != 0; }
static inline int __all_sync(unsigned mask, int p) { return __ballot_sync(mask, !p) == 0; }

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz((unsigned)x); }
static inline int __clzll(long long x)
{
    return x == 0 ? 64 : __builtin_clzll((unsigned long long)x);
}
static inline unsigned __float_as_uint(float x)
{
    unsigned u;
    memcpy(&u, &x, sizeof u);
    return u;
}
static inline float __uint_as_float(unsigned u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}
static inline int __float_as_int(float x) { return (int)__float_as_uint(x); }
static inline float __int_as_float(int x) { return __uint_as_float((unsigned)x); }
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s)
{
    unsigned long long both = (unsigned long long)b << 32 | a;
    unsigned out = 0;
    for (int i = 0; i < 4; i++)
        out |= (unsigned)(both >> 8 * (s >> 4 * i & 7) & 255) << 8 * i;
    return out;
}
#define __expf(x) expf(x)
#define __logf(x) logf(x)
static inline float __fdividef(float a, float b) { return a / b; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }
template <typename T> static inline T __ldg(const T *p) { return *p; }
template <typename T> static inline T __ldcs(const T *p) { return *p; }
template <typename T> static inline T __ldcg(const T *p) { return *p; }
using std::isfinite;
using std::isnan;
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }

template <typename T>
static inline T atomicAdd(T *p, T v)
{
    T old = *p;
    *p = old + v;
    return old;
}
template <typename T>
static inline T atomicMax(T *p, T v)
{
    T old = *p;
    *p = old > v ? old : v;
    return old;
}
template <typename T>
static inline T atomicMin(T *p, T v)
{
    T old = *p;
    *p = old < v ? old : v;
    return old;
}
template <typename T>
static inline T atomicOr(T *p, T v)
{
    T old = *p;
    *p = old | v;
    return old;
}
template <typename T>
static inline T atomicExch(T *p, T v)
{
    T old = *p;
    *p = v;
    return old;
}
template <typename T>
static inline T atomicCAS(T *p, T compare, T v)
{
    T old = *p;
    if (old == compare)
        *p = v;
    return old;
}
#endif

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* lane.cuh - what the kernels say to a lane or a warp beyond plain CUDA: tensor cores, copies
 * past registers, loads with a hint, sums over a warp, numbers of 16 bits.
 *
 * All inline assembly of the plugin is here, each piece with its twin for cudasim
 * (tests/cudasim), where lanes meet and one of them does the arithmetic in plain C++. Written
 * for sm_75 and later: what an older card lacks is done in smaller steps. */
#ifndef TN_CUDA_LANE_CUH
#define TN_CUDA_LANE_CUH

#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#define LANE __device__ static __forceinline__
#define FULL_WARP 0xffffffffu

/* Loops over registers: unrolled whole, or the arrays they walk live in local memory. */
#ifdef TN_CUDASIM
#define UNROLL _Pragma("GCC unroll 1")
#else
#define UNROLL _Pragma("unroll")
#endif

#ifdef TN_CUDASIM
#define GPU_LAUNCH(kernel, grid, block, shared, stream, ...)                                   \
    cudasim_launch(grid, block, shared, stream, [=] { kernel(__VA_ARGS__); })
#define GPU_LAUNCH_EARLY GPU_LAUNCH
#define GPU_DYNAMIC_SHARED(name) uint8_t *name = cudasim_shared()
#else
#define GPU_LAUNCH(kernel, grid, block, shared, stream, ...)                                   \
    kernel<<<grid, block, shared, stream>>>(__VA_ARGS__)
#define GPU_LAUNCH_EARLY(kernel, grid, block, shared, stream, ...)                             \
    launch_early<kernel>(grid, block, shared, stream, __VA_ARGS__)
#define GPU_DYNAMIC_SHARED(name) extern __shared__ __align__(128) uint8_t name[]
#endif

/* -------------------------------------------------------------------------- early launches */

/* On sm_90 and later a kernel of GPU_LAUNCH_EARLY may begin while the one before it runs, as
 * soon as all blocks of that have called start_next or are gone. So it
 *
 *     calls wait_for_earlier, in every thread, before it reads or writes anything that another
 *     kernel of the step writes or reads; it returns when the kernel before is done to its last
 *     store. What is constant (weights) may be loaded before;
 *     calls start_next after that, never before it: so whoever begins early knows that all
 *     kernels but the one right before him are done, and may read what those left, too.
 *
 * A kernel of GPU_LAUNCH between them waits and makes wait as ever. */
LANE void wait_for_earlier()
{
#if !defined(TN_CUDASIM) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

LANE void start_next()
{
#if !defined(TN_CUDASIM) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#ifndef TN_CUDASIM
#define EARLY_DEVICES 64

/* Whether the code of this kernel that runs on the current card knows of early launches:
 * 1 no, 2 yes. Two threads that ask at once find the same. */
template <auto KERNEL>
static inline int early_of(int device)
{
    static unsigned char known[EARLY_DEVICES];
    if (device < 0 || device >= EARLY_DEVICES)
        return 1;
    int k = __atomic_load_n(&known[device], __ATOMIC_RELAXED);
    if (k == 0) {
        cudaFuncAttributes a;
        k = cudaFuncGetAttributes(&a, KERNEL) == cudaSuccess && a.ptxVersion >= 90 ? 2 : 1;
        __atomic_store_n(&known[device], (unsigned char)k, __ATOMIC_RELAXED);
    }
    return k;
}

template <auto KERNEL, typename... A>
static inline void launch_early(dim3 grid, dim3 block, size_t shared, cudaStream_t stream, A... a)
{
    int device = -1;
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t c = {};
    c.gridDim = grid;
    c.blockDim = block;
    c.dynamicSmemBytes = shared;
    c.stream = stream;
    c.attrs = &early;
    c.numAttrs = cudaGetDevice(&device) == cudaSuccess && early_of<KERNEL>(device) == 2 ? 1 : 0;
    cudaLaunchKernelEx(&c, KERNEL, a...);
}
#endif

/* -------------------------------------------------------------------------------- numbers */

LANE uint32_t bits_of(__half2 h)
{
    uint32_t u;
    memcpy(&u, &h, sizeof u);
    return u;
}

LANE __half2 half2_of(uint32_t u)
{
    __half2 h;
    memcpy(&h, &u, sizeof h);
    return h;
}

/* (w & mask) | bits, as one instruction: compilers make two of it. */
LANE uint32_t masked_onto(uint32_t w, uint32_t mask, uint32_t bits)
{
#ifdef TN_CUDASIM
    return (w & mask) | bits;
#else
    uint32_t u;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(u) : "r"(w), "r"(mask), "r"(bits));
    return u;
#endif
}

LANE float bf16_to_float(uint16_t b)
{
    return __uint_as_float((uint32_t)b << 16);
}

/* E4M3: a sign, four bits of exponent (bias 7), three of mantissa; up to 448, no infinity, NaN is
 * 0x7f. Rounds to nearest even, finite values beyond the range to the greatest; an infinity
 * becomes NaN, so that it is still seen. */
LANE uint8_t float_to_f8(float x)
{
    uint32_t u = __float_as_uint(x), sign = u >> 24 & 0x80, a = u & 0x7fffffffu, code;
    if (a >= 0x7f800000u)
        return (uint8_t)(sign | 0x7f);
    if (a < 0x3c800000u)          /* below 2^-6: multiples of 2^-9 */
        code = (uint32_t)rintf(__uint_as_float(a) * 512.0f);
    else
        code = ((a + 0x7ffff + (a >> 20 & 1)) >> 20) - (120u << 3);
    return (uint8_t)(sign | (code < 0x7e ? code : 0x7e));
}

/* The two E4M3 in bytes `at` and `at` + 1 of a word, `at` 0 or 2, as halves, exactly. Cards
 * before 8.9 have no instruction for it: exponent and mantissa lie in a half as they do in the
 * byte, but for a factor of 2^8; NaN alone carries into bit 14 when one is added, and gets its
 * exponent so. */
template <int at>
LANE uint32_t f8_pair(uint32_t w)
{
#if !defined(TN_CUDASIM) && __CUDA_ARCH__ >= 890
    uint32_t h;
    uint16_t two = (uint16_t)(w >> 8 * at);
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(h) : "h"(two));
    return h;
#else
    uint32_t t = __byte_perm(w, 0, at == 0 ? 0x1404 : 0x3424);
    uint32_t m = t >> 1 & 0x3f803f80u;
    m |= (m + 0x00800080u) & 0x40004000u;
    return bits_of(__hmul2(half2_of(m), half2_of(0x5c005c00u))) | (t & 0x80008000u);
#endif
}

LANE uint16_t float_to_bf16(float x)
{
    uint32_t u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* 2^x to about 2 units in the last place; results below the normal range are zero. */
LANE float fast_exp2(float x)
{
#ifdef TN_CUDASIM
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

/* ------------------------------------------------------------------------- sums of a warp */

LANE float warp_sum(float x)
{
    for (int i = 16; i > 0; i >>= 1)
        x += __shfl_xor_sync(FULL_WARP, x, i);
    return x;
}

LANE float warp_max(float x)
{
    for (int i = 16; i > 0; i >>= 1)
        x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, i));
    return x;
}

/* Sum over the block, the same bits in every thread. `room` is shared memory of 33 floats that
 * the block uses for nothing else; ends with a barrier, so it may be used again at once. */
LANE float block_sum(float x, float *room)
{
    const unsigned warp = threadIdx.x / 32, nwarp = (blockDim.x + 31) / 32;
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0)
        room[warp] = x;
    __syncthreads();
    if (warp == 0) {
        float y = warp_sum(threadIdx.x < nwarp ? room[threadIdx.x] : 0.0f);
        if (threadIdx.x == 0)
            room[32] = y;
    }
    __syncthreads();
    float all = room[32];
    __syncthreads();
    return all;
}

/* --------------------------------------------------------------------------- tensor cores */

/* c += a b for a 16 x 16 (rows of halves), b 16 x 8, c 16 x 8 in fp32. Lane l: g = l / 4,
 * t = l % 4. a[0]: row g, columns 2t, 2t+1; a[1]: row g + 8, the same; a[2], a[3]: columns
 * 2t + 8, 2t + 9. b[0]: rows 2t, 2t+1 of column g; b[1]: rows 2t + 8, 2t + 9. c[0], c[1]: row
 * g, columns 2t, 2t+1; c[2], c[3]: row g + 8. The lower half is in the lower bits. */
#ifdef TN_CUDASIM
struct sim_mma_operands {
    uint32_t a[4], b[2];
    float c[4];
};

LANE void mma_f16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    sim_mma_operands mine;
    unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    memcpy(mine.a, a, sizeof mine.a);
    memcpy(mine.b, b, sizeof mine.b);
    memcpy(mine.c, c, sizeof mine.c);
    memcpy(cudasim_place(lane), &mine, sizeof mine);
    cudasim_warp_barrier(FULL_WARP);
    for (unsigned i = 0; i < 4; i++) {
        unsigned row = g + (i >= 2 ? 8 : 0), col = 2 * t + (i & 1);
        float sum = c[i];
        for (unsigned k = 0; k < 16; k++) {
            sim_mma_operands x, y;
            unsigned at = (row % 8) * 4 + k % 8 / 2, bt = col * 4 + k % 8 / 2;
            memcpy(&x, cudasim_place(at), sizeof x);
            memcpy(&y, cudasim_place(bt), sizeof y);
            uint32_t u = x.a[(row >= 8 ? 1 : 0) + (k >= 8 ? 2 : 0)], v = y.b[k >= 8 ? 1 : 0];
            __half2 p = half2_of(u), q = half2_of(v);
            sum += (k & 1 ? __high2float(p) : __low2float(p)) *
                   (k & 1 ? __high2float(q) : __low2float(q));
        }
        c[i] = sum;
    }
    cudasim_next_place();
}
#else
LANE void mma_f16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, "
                 "{%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b[0]));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, "
                 "{%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[2]), "r"(a[3]), "r"(b[1]));
#endif
}
#endif

/* Four 8 x 8 matrices of halves from shared memory: lane l points at row l % 8 of matrix l / 8
 * (16 bytes, aligned to 16); r[i] of lane l gets columns 2t, 2t+1 of row g of matrix i. With
 * _trans the matrices are transposed on the way. */
#ifdef TN_CUDASIM
template <bool TRANS>
LANE void sim_ldmatrix(uint32_t r[4], const void *row)
{
    unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    memcpy(cudasim_place(lane), &row, sizeof row);
    cudasim_warp_barrier(FULL_WARP);
    for (unsigned i = 0; i < 4; i++) {
        uint16_t pair[2];
        for (unsigned j = 0; j < 2; j++) {
            unsigned at = TRANS ? 2 * t + j : g, col = TRANS ? g : 2 * t + j;
            const uint16_t *from;
            memcpy(&from, cudasim_place(8 * i + at), sizeof from);
            pair[j] = from[col];
        }
        memcpy(&r[i], pair, sizeof pair);
    }
    cudasim_next_place();
}
LANE void load_matrices(uint32_t r[4], const void *row) { sim_ldmatrix<false>(r, row); }
LANE void load_matrices_trans(uint32_t r[4], const void *row) { sim_ldmatrix<true>(r, row); }
#else
LANE uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}
LANE void load_matrices(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)) : "memory");
}
LANE void load_matrices_trans(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)) : "memory");
}
#endif

/* --------------------------------------------------------------------------------- copies */

/* 16 bytes from global to shared memory, zeros unless `valid`; both aligned to 16. They are
 * there after the copy_wait that counts them and a barrier. */
LANE void copy_async(void *to, const void *from, bool valid)
{
#if !defined(TN_CUDASIM) && __CUDA_ARCH__ >= 800
    int n = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(shared_address(to)), "l"(from), "r"(n) : "memory");
#else
    uint4 v = make_uint4(0, 0, 0, 0);
    if (valid)
        v = *(const uint4 *)from;
    *(uint4 *)to = v;
#endif
}

LANE void copy_commit()
{
#if !defined(TN_CUDASIM) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Waits until at most `left` groups of this thread's copies are on their way. */
template <int left>
LANE void copy_wait()
{
#if !defined(TN_CUDASIM) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" :: "n"(left) : "memory");
#endif
}

/* What will be read soon, into the second-level cache. */
LANE void fetch_ahead(const void *p)
{
#ifndef TN_CUDASIM
    asm volatile("prefetch.global.L2 [%0];" :: "l"(p));
#else
    (void)p;
#endif
}

/* Weights: read once, not kept in the first-level cache. */
LANE uint4 load_once(const void *p)
{
#ifdef TN_CUDASIM
    return *(const uint4 *)p;
#else
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
#endif
}

LANE uint2 load_once8(const void *p)
{
#ifdef TN_CUDASIM
    return *(const uint2 *)p;
#else
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];"
                 : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
#endif
}

#endif

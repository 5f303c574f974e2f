/* SPDX-License-Identifier: Apache-2.0 */
/* peer.cu - the kernels of the communicator `peer`; peer_card.h has the protocol.
 *
 * Sums are formed in the order of the ranks in fp32 and rounded once to the type (integers: modulo
 * 2^32), by the same code on every rank, so all get the same bits. What others write is read with
 * volatile loads, which pass by the first-level cache. */
#include "peer_card.h"

#include <cuda_runtime.h>
#ifndef TN_CUDASIM
#include <cuda_fp16.h>
#else
#include <time.h>
#endif

/* TURNS_A_LOOK: of a waiting thread, between two looks at clock and host. */
#ifdef TN_CUDASIM
#define TURNS_A_LOOK 1u
#define LAUNCH(kernel, grid, stream, ...)                                                       \
    cudasim_launch(grid, PEER_THREADS, 0, (cudaStream_t)(stream), [=] { kernel(__VA_ARGS__); })
#define LANE static inline
#else
#define TURNS_A_LOOK 2048u
#define LAUNCH(kernel, grid, stream, ...)                                                       \
    kernel<<<grid, PEER_THREADS, 0, (cudaStream_t)(stream)>>>(__VA_ARGS__)
#define LANE static __device__ __forceinline__
#endif

/* -------------------------------------------------------------------------- what cards differ in */

#ifdef TN_CUDASIM
static uint64_t clock_ns()
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Ranks may have few processors among them: who waits leaves them to others. */
static void breathe()
{
    struct timespec nap = {0, 20000};
    nanosleep(&nap, nullptr);
}

/* Threads of a block take turns only at barriers, so all should send before any waits. */
static void take_turns() { __syncthreads(); }

/* Halves first to last, as the card stores them; each is whole. */
static void send(void *to, uint4 x)
{
    __atomic_store_n((uint64_t *)to, (uint64_t)x.y << 32 | x.x, __ATOMIC_RELEASE);
    __atomic_store_n((uint64_t *)to + 1, (uint64_t)x.w << 32 | x.z, __ATOMIC_RELEASE);
}

static uint4 look(const void *from)
{
    uint64_t a = __atomic_load_n((const uint64_t *)from, __ATOMIC_ACQUIRE);
    uint64_t b = __atomic_load_n((const uint64_t *)from + 1, __ATOMIC_ACQUIRE);
    return make_uint4((uint32_t)a, (uint32_t)(a >> 32), (uint32_t)b, (uint32_t)(b >> 32));
}

static void system_fence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
#else
LANE uint64_t clock_ns()
{
    uint64_t t;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
    return t;
}

LANE void breathe() {}

LANE void take_turns() {}

LANE void send(void *to, uint4 x)
{
    asm volatile("st.volatile.global.v4.u32 [%0], {%1, %2, %3, %4};"
                 :: "l"(to), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}

LANE uint4 look(const void *from)
{
    uint4 x;
    asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(from) : "memory");
    return x;
}

LANE void system_fence() { __threadfence_system(); }
#endif

/* ---------------------------------------------------------------------------------- places */

LANE volatile uint32_t *mark_of(const peer_view &v, uint32_t to,
                                                             uint32_t block, uint32_t from)
{
    return (volatile uint32_t *)v.box[to] + block * PEER_RANKS_MAX + from;
}

LANE unsigned char *letters_of(const peer_view &v, uint32_t to,
                                                            uint32_t set, uint32_t block,
                                                            uint32_t from)
{
    uint64_t i = ((uint64_t)set * v.nblock + block) * v.nrank + from;
    return v.box[to] + PEER_MARKS + i * (PEER_LETTERS * PEER_LETTER);
}

LANE unsigned char *parcel_of(const peer_view &v, uint32_t to,
                                                           uint32_t set, uint32_t phase,
                                                           uint32_t block, uint32_t from)
{
    uint64_t letters = (uint64_t)PEER_LETTER_SETS * v.nblock * v.nrank * PEER_LETTERS * PEER_LETTER;
    uint64_t i = (((uint64_t)set * 2 + phase) * v.nblock + block) * v.nrank + from;
    return v.box[to] + PEER_MARKS + letters + i * PEER_PARCEL;
}

/* ---------------------------------------------------------- a rank's own numbers, in any alignment */

/* How many bytes are moved at once; the same for a whole launch. */
static __host__ __device__ inline uint32_t step_of(uint64_t address, uint32_t most)
{
    return (address & (most - 1)) == 0 ? most : (address & 3) == 0 ? 4u
        : (address & 1) == 0 ? 2u : 1u;
}

/* `n` bytes, fewer at a message's end; the rest reads as zeros. */
LANE void take(void *unit, uint32_t size, const unsigned char *from,
                                            uint64_t n, uint32_t step)
{
    uint32_t *w = (uint32_t *)unit;
    if (n >= size && step == size) {
        if (size == 16)
            *(uint4 *)unit = *(const uint4 *)from;
        else
            *(uint2 *)unit = *(const uint2 *)from;
        return;
    }
    for (uint32_t i = 0; i < size / 4; i++) {
        uint32_t word = 0;
        if (step >= 4 && i * 4 + 4 <= n)
            word = ((const uint32_t *)from)[i];
        else
            for (uint32_t b = 0; b < 4; b++)
                if (i * 4 + b < n)
                    word |= (uint32_t)from[i * 4 + b] << 8 * b;
        w[i] = word;
    }
}

LANE void give(const void *unit, uint32_t size, unsigned char *to,
                                            uint64_t n, uint32_t step)
{
    const uint32_t *w = (const uint32_t *)unit;
    if (n >= size && step == size) {
        if (size == 16)
            *(uint4 *)to = *(const uint4 *)unit;
        else
            *(uint2 *)to = *(const uint2 *)unit;
        return;
    }
    for (uint32_t i = 0; i < size / 4; i++)
        if (step >= 4 && i * 4 + 4 <= n)
            ((uint32_t *)to)[i] = w[i];
        else
            for (uint32_t b = 0; b < 4; b++)
                if (i * 4 + b < n)
                    to[i * 4 + b] = (unsigned char)(w[i] >> 8 * b);
}

/* -------------------------------------------------------------------------------------- sums */

/* A type's sum over the numbers in one word. From -0 on, to which any number adds unchanged. */
struct f32_sum {
    float a = -0.0f;
    __device__ void add(uint32_t w) { a += __uint_as_float(w); }
    __device__ uint32_t get() const { return __float_as_uint(a); }
};

struct i32_sum {
    uint32_t a = 0;
    __device__ void add(uint32_t w) { a += w; }
    __device__ uint32_t get() const { return a; }
};

struct f16_sum {
    float a = -0.0f, b = -0.0f;
    static __device__ float widen(uint32_t h)
    {
        return __half2float(__ushort_as_half((unsigned short)h));
    }
    static __device__ uint32_t narrow(float x) { return __half_as_ushort(__float2half_rn(x)); }
    __device__ void add(uint32_t w) { a += widen(w & 0xffffu), b += widen(w >> 16); }
    __device__ uint32_t get() const { return narrow(a) | narrow(b) << 16; }
};

struct bf16_sum {
    float a = -0.0f, b = -0.0f;
    static __device__ float widen(uint32_t h) { return __uint_as_float(h << 16); }
    /* To nearest, ties to even; a NaN stays one. */
    static __device__ uint32_t narrow(float x)
    {
        uint32_t u = __float_as_uint(x), up = (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
        return (u & 0x7fffffffu) > 0x7f800000u ? u >> 16 | 0x40u : up;
    }
    __device__ void add(uint32_t w) { a += widen(w & 0xffffu), b += widen(w >> 16); }
    __device__ uint32_t get() const { return narrow(a) | narrow(b) << 16; }
};

/* ------------------------------------------------------------------------------------- waits */

/* Looks at clock and host once in a while; true: give up. */
struct patience {
    uint32_t turns;
    uint64_t end;
};

static __device__ bool is_over(const peer_view &v, patience &p, uint32_t from)
{
    breathe();
    if (++p.turns % TURNS_A_LOOK != 0)
        return false;
    uint64_t t = clock_ns();
    if (p.end == 0)
        p.end = t + v.limit_ns;
    bool late = t >= p.end;
    if (!late && *v.stop == 0 && *(volatile uint32_t *)&v.state->is_broken == 0)
        return false;
    if (late)
        *v.missed = 1 + from;
    v.state->is_broken = 1;
    return true;
}

/* The number of this call, and whether it is worth waiting at all. Every thread of the block
 * comes here. */
static __device__ bool begin_call(const peer_view &v, uint32_t *count, uint32_t *n)
{
    bool good = *(volatile uint32_t *)&v.state->is_broken == 0;
    *n = *(volatile uint32_t *)count;
    __syncthreads();
    return good;
}

/* All threads have written: marks say so to the others, and theirs are waited for. `lost` is the
 * block's; false: given up, by all of its threads. */
static __device__ bool meet(const peer_view &v, uint32_t block, uint32_t phase, bool waits,
                            uint32_t *lost)
{
    uint32_t t = threadIdx.x;
    __syncthreads();
    if (t < v.nrank && t != v.rank) {
        system_fence();
        *mark_of(v, t, block, v.rank) = phase;
    }
    if (waits && t < v.nrank && t != v.rank) {
        patience p = {0, 0};
        volatile uint32_t *mark = mark_of(v, v.rank, block, t);
        while ((int32_t)(*mark - phase) < 0)
            if (is_over(v, p, t)) {
                *lost = 1;
                break;
            }
        system_fence();
    }
    __syncthreads();
    return *(volatile uint32_t *)lost == 0;
}

/* ----------------------------------------------------------------------------------- kernels */

/* Sums up to 512 letters a block: thread i has 8 bytes of x, sends them to all, and adds up what
 * comes, four ranks at a time. Grid: bytes / 4096, rounded up. */
template <typename Sum>
__global__ void __launch_bounds__(PEER_THREADS) one_shot(const __grid_constant__ peer_view v,
                                                         unsigned char *x, uint64_t bytes)
{
    uint32_t b = blockIdx.x, t = threadIdx.x, n;
    if (!begin_call(v, &v.state->letters[b], &n))
        return;
    n = n >= PEER_CALLS_ROUND ? 1 : n + 1;
    if (t == 0)
        v.state->letters[b] = n;
    if (t < v.nrank && t != v.rank) /* the set of the call before, which no one writes now */
        send(letters_of(v, v.rank, (n + 2) % 3, b, t) + n / 3 % PEER_LETTERS * PEER_LETTER,
             make_uint4(0, 0, 0, 0));
    uint64_t at = ((uint64_t)b * PEER_THREADS + t) * 8;
    if (at >= bytes)
        return;
    uint2 mine;
    uint32_t step = step_of((uint64_t)x, 8), set = n % 3;
    take(&mine, 8, x + at, bytes - at, step);
    for (uint32_t i = 1; i < v.nrank; i++) {
        uint32_t to = v.rank + i < v.nrank ? v.rank + i : v.rank + i - v.nrank;
        send(letters_of(v, to, set, b, v.rank) + t * PEER_LETTER, make_uint4(mine.x, n, mine.y, n));
    }
    take_turns();
    Sum low, high;
    for (uint32_t first = 0; first < v.nrank; first += 4) {
        uint4 got[4] = {};
        patience p = {0, 0};
        uint32_t missing;
        do {
            missing = TN_NONE;
#pragma unroll
            for (uint32_t k = 0; k < 4; k++) {
                uint32_t from = first + k;
                if (from < v.nrank && from != v.rank) {
                    got[k] = look(letters_of(v, v.rank, set, b, from) + t * PEER_LETTER);
                    missing = got[k].y == n && got[k].w == n ? missing : from;
                }
            }
        } while (missing != TN_NONE && !is_over(v, p, missing));
        if (missing != TN_NONE)
            return;
#pragma unroll
        for (uint32_t k = 0; k < 4; k++) {
            uint32_t from = first + k;
            uint2 w = from == v.rank ? mine : make_uint2(got[k].x, got[k].z);
            if (from < v.nrank) {
                low.add(w.x);
                high.add(w.y);
            }
        }
    }
    uint2 sum = make_uint2(low.get(), high.get());
    give(&sum, 8, x + at, bytes - at, step);
}

/* Units of 16 bytes: a rank's part of the message, and of that the run of a block. */
struct cut {
    uint64_t all, part;
    uint32_t run;
};

static __host__ __device__ inline cut cut_of(uint64_t bytes, uint32_t nparts, uint32_t nblock)
{
    cut c;
    c.all = (bytes + PEER_UNIT - 1) / PEER_UNIT;
    c.part = (c.all + nparts - 1) / nparts;
    c.run = (uint32_t)((c.part + nblock - 1) / nblock);
    return c;
}

/* The unit's place in the message; c.all or more: there is none. */
LANE uint64_t unit_of(const cut &c, uint32_t part, uint32_t block,
                                                   uint32_t i)
{
    uint64_t in_part = (uint64_t)block * c.run + i;
    return in_part < c.part ? part * c.part + in_part : c.all;
}

/* What came in phase two from `from` goes to its place in `out`. */
static __device__ void unpack(const peer_view &v, const cut &c, uint32_t set, uint32_t from,
                              uint32_t part, unsigned char *out, uint64_t bytes, uint32_t step)
{
    const unsigned char *parcel = parcel_of(v, v.rank, set, 1, blockIdx.x, from);
    for (uint32_t i = threadIdx.x; i < c.run; i += PEER_THREADS) {
        uint64_t u = unit_of(c, part, blockIdx.x, i);
        if (u >= c.all)
            break;
        uint4 got = look(parcel + i * PEER_UNIT);
        give(&got, PEER_UNIT, out + u * PEER_UNIT, bytes - u * PEER_UNIT, step);
    }
}

/* Larger sums. Rank r sums part r, block b its b-th run; a run is at most PEER_UNITS long. */
template <typename Sum>
__global__ void __launch_bounds__(PEER_THREADS) two_shot(const __grid_constant__ peer_view v,
                                                         unsigned char *x, uint64_t bytes)
{
    __shared__ uint32_t lost;
    uint32_t b = blockIdx.x, t = threadIdx.x, n;
    cut c = cut_of(bytes, v.nrank, gridDim.x);
    uint32_t step = step_of((uint64_t)x, PEER_UNIT);
    if (t == 0)
        lost = 0;
    if (!begin_call(v, &v.state->parcels[b], &n))
        return;
    n++;
    if (t == 0)
        v.state->parcels[b] = n;
    uint32_t set = n & 1;
    for (uint32_t k = 1; k < v.nrank; k++) {
        uint32_t to = v.rank + k < v.nrank ? v.rank + k : v.rank + k - v.nrank;
        unsigned char *parcel = parcel_of(v, to, set, 0, b, v.rank);
        for (uint32_t i = t; i < c.run; i += PEER_THREADS) {
            uint64_t u = unit_of(c, to, b, i);
            if (u >= c.all)
                break;
            uint4 mine;
            take(&mine, PEER_UNIT, x + u * PEER_UNIT, bytes - u * PEER_UNIT, step);
            send(parcel + i * PEER_UNIT, mine);
        }
    }
    if (!meet(v, b, 2 * n, true, &lost))
        return;
    for (uint32_t i = t; i < c.run; i += PEER_THREADS) {
        uint64_t u = unit_of(c, v.rank, b, i);
        if (u >= c.all)
            break;
        uint4 w;
        Sum sum[4];
        for (uint32_t r = 0; r < v.nrank; r++) {
            if (r == v.rank)
                take(&w, PEER_UNIT, x + u * PEER_UNIT, bytes - u * PEER_UNIT, step);
            else
                w = look(parcel_of(v, v.rank, set, 0, b, r) + i * PEER_UNIT);
            sum[0].add(w.x), sum[1].add(w.y), sum[2].add(w.z), sum[3].add(w.w);
        }
        w = make_uint4(sum[0].get(), sum[1].get(), sum[2].get(), sum[3].get());
        for (uint32_t k = 1; k < v.nrank; k++) {
            uint32_t to = v.rank + k < v.nrank ? v.rank + k : v.rank + k - v.nrank;
            send(parcel_of(v, to, set, 1, b, v.rank) + i * PEER_UNIT, w);
        }
        give(&w, PEER_UNIT, x + u * PEER_UNIT, bytes - u * PEER_UNIT, step);
    }
    if (!meet(v, b, 2 * n + 1, true, &lost))
        return;
    for (uint32_t r = 0; r < v.nrank; r++)
        if (r != v.rank)
            unpack(v, c, set, r, r, x, bytes, step);
}

/* Gathers, and with a root broadcasts: a message of all ranks or of one, in runs of the blocks.
 * Who has nothing to send still marks, so that nobody is more than a call ahead. */
__global__ void __launch_bounds__(PEER_THREADS) spread(const __grid_constant__ peer_view v,
                                                       const unsigned char *in, unsigned char *out,
                                                       uint64_t stride, uint64_t bytes,
                                                       uint32_t root)
{
    __shared__ uint32_t lost;
    uint32_t b = blockIdx.x, t = threadIdx.x, n;
    cut c = cut_of(bytes, 1, gridDim.x);
    uint32_t in_step = step_of((uint64_t)in, PEER_UNIT);
    uint32_t out_step = step_of((uint64_t)out | stride, PEER_UNIT);
    if (t == 0)
        lost = 0;
    if (!begin_call(v, &v.state->parcels[b], &n))
        return;
    n++;
    if (t == 0)
        v.state->parcels[b] = n;
    unsigned char *own = out + v.rank * stride;
    for (uint32_t i = t; i < c.run && (root == TN_NONE || root == v.rank); i += PEER_THREADS) {
        uint64_t u = unit_of(c, 0, b, i);
        if (u >= c.all)
            break;
        uint4 mine;
        take(&mine, PEER_UNIT, in + u * PEER_UNIT, bytes - u * PEER_UNIT, in_step);
        for (uint32_t k = 1; k < v.nrank; k++) {
            uint32_t to = v.rank + k < v.nrank ? v.rank + k : v.rank + k - v.nrank;
            send(parcel_of(v, to, n & 1, 1, b, v.rank) + i * PEER_UNIT, mine);
        }
        if (own != in)
            give(&mine, PEER_UNIT, own + u * PEER_UNIT, bytes - u * PEER_UNIT, out_step);
    }
    if (!meet(v, b, 2 * n + 1, true, &lost))
        return;
    for (uint32_t r = 0; r < v.nrank; r++)
        if (r != v.rank && (root == TN_NONE || root == r))
            unpack(v, c, n & 1, r, 0, out + r * stride, bytes, out_step);
}

/* ---------------------------------------------------------------------------------- launchers */

static uint32_t blocks_of(uint64_t units, uint32_t nblock)
{
    uint64_t n = (units + PEER_THREADS - 1) / PEER_THREADS;
    return n > nblock ? nblock : n > 0 ? (uint32_t)n : 1;
}

typedef void (*sum_kernel)(peer_view v, unsigned char *x, uint64_t bytes);

/* By type; the order of `types`. */
static const uint32_t types[] = {TN_F32, TN_F16, TN_BF16, TN_I32};
static const sum_kernel one_shots[] = {one_shot<f32_sum>, one_shot<f16_sum>, one_shot<bf16_sum>,
                                       one_shot<i32_sum>};
static const sum_kernel two_shots[] = {two_shot<f32_sum>, two_shot<f16_sum>, two_shot<bf16_sum>,
                                       two_shot<i32_sum>};

static int launch_sum(const sum_kernel *kernels, const peer_view *v, void *x, uint64_t bytes,
                      uint32_t dtype, uint32_t grid, void *stream)
{
    for (uint32_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (types[i] == dtype) {
            sum_kernel kernel = kernels[i];
            peer_view view = *v;
            unsigned char *at = (unsigned char *)x;
            LAUNCH(kernel, grid, stream, view, at, bytes);
            return (int)cudaGetLastError();
        }
    return (int)cudaErrorInvalidValue;
}

extern "C" int peer_one_shot(const peer_view *v, void *x, uint64_t bytes, uint32_t dtype,
                             void *stream)
{
    return launch_sum(one_shots, v, x, bytes, dtype, blocks_of((bytes + 7) / 8, v->nblock), stream);
}

extern "C" int peer_two_shot(const peer_view *v, void *x, uint64_t bytes, uint32_t dtype,
                             void *stream)
{
    cut c = cut_of(bytes, v->nrank, 1);
    return launch_sum(two_shots, v, x, bytes, dtype, blocks_of(c.part, v->nblock), stream);
}

extern "C" int peer_spread(const peer_view *v, const void *in, void *out, uint64_t stride,
                           uint64_t bytes, uint32_t root, void *stream)
{
    cut c = cut_of(bytes, 1, 1);
    peer_view view = *v;
    const unsigned char *from = (const unsigned char *)in;
    unsigned char *to = (unsigned char *)out;
    LAUNCH(spread, blocks_of(c.part, v->nblock), stream, view, from, to, stride, bytes, root);
    return (int)cudaGetLastError();
}

extern "C" int peer_load_kernels(void)
{
    cudaFuncAttributes a;
    cudaError_t e = cudaFuncGetAttributes(&a, spread);
    for (uint32_t i = 0; e == cudaSuccess && i < sizeof types / sizeof types[0]; i++) {
        e = cudaFuncGetAttributes(&a, one_shots[i]);
        if (e == cudaSuccess)
            e = cudaFuncGetAttributes(&a, two_shots[i]);
    }
    return (int)e;
}

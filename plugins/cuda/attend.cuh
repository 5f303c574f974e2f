/* SPDX-License-Identifier: Apache-2.0 */
/* attend.cuh - what the two kernels of ATTEND share.
 *
 * The queries of a sequence that meet the same KV head are its pairs: pair p is row p / group
 * of the sequence with head p % group of the KV head's group. Sequences of few rows are for
 * attend.cu, which shares out a long context over many blocks; sequences of more rows than
 * `short_rows` are for attend_prefill.cu. Which it is, each kernel sees from tn_seq.nrow, so
 * one step may hold both kinds. */
#ifndef TN_CUDA_ATTEND_CUH
#define TN_CUDA_ATTEND_CUH

#include "gpu.h"
#include "lane.cuh"
#include "span.cuh"

/* Weights of tokens are multiplied by 2^PEAK before they become halves: the greatest is then
 * 2^15, and one that is a millionth of it still keeps all its bits. The sums carry the same
 * factor, so it goes away in the end. */
#define PEAK 15.0f
#define NOWHERE (~0ull)

struct attend_args {
    gpu_span q, out, gate;
    const void *k, *v;         /* __half or, with f8, bytes of E4M3 */
    uint32_t f8;
    const uint32_t *count;
    const int32_t *pos, *block;
    const tn_seq *seq;
    float *partial, *peaks;    /* [seqs, rows, q_heads, splits] of [head_dim] and of (max, sum);
                                * attend_prefill.cu: [tiles, kv_heads, splits, 64] */
    uint32_t q_heads, kv_heads, group, head_dim;
    uint32_t window, tokens, magic; /* magic: 2^32 / tokens, rounded up */
    uint32_t rows, seqs;       /* of gpu_shape */
    uint32_t seq_rows;         /* rows of a sequence that attend.cu may meet */
    uint32_t short_rows, splits;
    float scale, softcap;      /* scores to powers of two: scale includes log2 e; with softcap,
                                * scale leads to the tanh and softcap includes log2 e */
};

/* Sequences of up to so many rows are attend.cu's. */
static inline uint32_t attend_short_rows(uint32_t group)
{
    return 64 / group > 8 ? 64 / group : 8;
}

/* Blocks that leave partial sums of 16 pairs in `partial` at a time, at most. */
static inline uint32_t attend_blocks(uint32_t nsm)
{
    return 8 * nsm;
}

/* attend_prefill.cu. `stages`: most tiles of K and V that it keeps in shared memory, 1 or 2;
 * `context` as in gpu_shape. */
extern "C" cudaError_t attend_long(const attend_args *a, uint32_t context, uint32_t stages,
                                   uint32_t nsm, cudaStream_t stream);

/* The first position that a row at `pos` sees. */
LANE uint32_t first_seen(uint32_t window, uint32_t pos)
{
    return window > 0 && pos >= window ? pos - window + 1 : 0;
}

/* Where K or V of token `at` of the sequence, a multiple of 8, lies for a KV head, in tokens;
 * tokens up to the next multiple of 8 follow. Positions are below 2^24. */
LANE uint64_t token_place(const attend_args &a, uint32_t block, uint32_t at, uint32_t head)
{
    uint32_t index = (uint32_t)((uint64_t)at * a.magic >> 32);
    return ((uint64_t)block * a.kv_heads + head) * a.tokens + (at - index * a.tokens);
}

/* The block of token `at`. */
LANE uint32_t token_block(const attend_args &a, uint32_t block0, uint32_t at)
{
    return (uint32_t)a.block[block0 + (uint32_t)((uint64_t)at * a.magic >> 32)];
}

/* A score with softcap, to powers of two. */
LANE float cap_of(const attend_args &a, float scaled)
{
    return a.softcap * tanhf(scaled);
}

/* Exponents are taken against `peak`; a row that saw nothing yet must not give -inf - -inf. */
LANE float exponent_base(float peak)
{
    return peak == -INFINITY ? 0.0f : peak;
}

LANE float sigmoid_of(float x)
{
    return 1.0f / (1.0f + fast_exp2(-1.44269504f * x));
}

/* Dims col, col + 1 of a row as halves; col is even. */
LANE uint32_t query_pair(const gpu_span &s, uint64_t row, uint32_t col)
{
    uint64_t at = row * s.stride + col;
    if (s.type == TN_F16)
        return *(const uint32_t *)((const __half *)s.data + at);
    const float *x = (const float *)s.data + at;
    return bits_of(__halves2half2(to_half(x[0]), to_half(x[1])));
}

/* What the output's column is multiplied by; 1 without a gate, or beyond the heads. */
LANE float gate_of(const attend_args &a, uint64_t row, uint32_t col)
{
    if (a.gate.data == NULL || col >= a.q_heads * a.head_dim)
        return 1.0f;
    return sigmoid_of(span_get(a.gate, row, col));
}

/* out[row, col], out[row, col + 1] = x, y; col is even. */
LANE void put_out(const attend_args &a, uint64_t row, uint32_t col, float x, float y)
{
    uint64_t at = row * a.out.stride + col;
    if (a.out.type == TN_F32)
        *(float2 *)((float *)a.out.data + at) = make_float2(x, y);
    else
        *(__half2 *)((__half *)a.out.data + at) = __halves2half2(to_half(x), to_half(y));
}

LANE void put_gated(const attend_args &a, uint64_t row, uint32_t col, float x, float y)
{
    put_out(a, row, col, x * gate_of(a, row, col), y * gate_of(a, row, col + 1));
}

#endif

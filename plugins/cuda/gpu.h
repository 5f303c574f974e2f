/* SPDX-License-Identifier: Apache-2.0 */
/* gpu.h - what the host part of the plugin cuda and its kernels say to each other. C and C++.
 *
 * A kernel family is one .cu file; its calls below enqueue work on a stream and return the
 * error of the launch, no more. They never allocate, never wait and read nothing from the
 * device, so all of them may be captured into a graph. What changes from step to step lies in
 * device memory behind the pointers of gpu_step, which stay the same as long as the program
 * lives; a gpu_shape only bounds it, and sizes the grids: kernels take the true counts from
 * gpu_step.count. Rows of no sequence (position -1) get zeros and touch nothing else. */
#ifndef TN_CUDA_GPU_H
#define TN_CUDA_GPU_H

#include <tenon/plugin.h>

#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Rows of a buffer, from some column on: element (row, col) is data[row * stride + col]. */
typedef struct gpu_span {
    void *data;
    uint32_t stride;           /* elements from row to row, a multiple of 64 */
    uint32_t type;             /* TN_F32, TN_F16, or TN_I32 for ids */
} gpu_span;

/* Which rows of the step a span has; index into gpu_step.count. */
enum { GPU_TOKENS = 0, GPU_SEQS = 1, GPU_OUTS = 2 };

/* One output row: tn_out and its tn_sampling, pointers become places in gpu_step.extra. */
typedef struct gpu_out {
    int32_t row;
    uint32_t flags;            /* TN_SAMPLE_* */
    int32_t top_k;
    float temperature, top_p, min_p, repetition, frequency, presence;
    int32_t target, draft;
    uint32_t nhistory, nprompt, nbias, ntop;
    uint32_t history, bias, mask; /* words into extra, TN_NONE: none. bias: pairs token, value */
    uint32_t reserved;
    uint64_t seed, draw;
} gpu_out;

/* Device memory of the step that runs. */
typedef struct gpu_step {
    const uint32_t *count;     /* [4] rows, sequences, outputs of this step, 0 */
    const int32_t *token;      /* [rows_max] ids; -1 - i: what output i of the step before drew */
    const int32_t *row_seq;    /* [rows_max] -1: padding */
    const int32_t *pos;        /* [rows_max] -1: padding */
    const tn_seq *seq;         /* [seqs_max] */
    const int32_t *block;      /* [blocks_max] */
    const gpu_out *out;        /* [outs_max] */
    const uint32_t *extra;     /* histories, biases, masks */
    int32_t *drawn;            /* [outs_max] tokens, as SAMPLE leaves them for the next step */
    int32_t *verdict;          /* [nslot] pending rows that a draft step let stand; NULL: no states */
    tn_result *result;         /* [outs_max] */
    int32_t *top_token;        /* [outs_max, top_max] */
    float *top_logprob;        /* [outs_max, top_max] */
} gpu_step;

/* Upper bounds of the step, for grids. */
typedef struct gpu_shape {
    uint32_t rows, seqs, outs;
    uint32_t seq_rows;         /* most rows of one sequence */
    uint32_t context;          /* most tokens that one sequence sees, this step's included */
} gpu_shape;

/* ------------------------------------------------------------------------------------ ops.cu */

/* cs[row * dims / 2 + i] = (cos, sin)(pos * inv_freq[i]) * scale, angles in double. */
cudaError_t gpu_rotary(const double *inv_freq, uint32_t dims, double scale, float *cs,
                       const gpu_step *s, const gpu_shape *n, cudaStream_t stream);

/* ---------------------------------------------------------------------------------- heads.cu */

/* A paged cache, K and V of one layer: [block][head][token of the block][dim], in f16. */
typedef struct gpu_cache {
    void *k, *v;
    uint32_t heads, k_dim, v_dim;
    uint32_t tokens;           /* a block */
} gpu_cache;

/* HEADS: norms q and k, turns them, writes K and V of the rows to the cache. The order of
 * roundings: norm and rotation in fp32, rounded once to x's type and to the cache. */
typedef struct gpu_heads {
    gpu_span q, k, v;          /* columns of the first head; changed in place */
    uint32_t q_heads, kv_heads, head_dim;
    const float *q_norm, *k_norm; /* [head_dim] or NULL */
    float eps, offset;
    const float *cs;           /* [rows_max, dims / 2] pairs (cos, sin), or NULL */
    uint32_t dims, pairing;    /* TN_ROPE_* */
    gpu_cache cache;
} gpu_heads;
cudaError_t gpu_do_heads(const gpu_heads *a, const gpu_step *s, const gpu_shape *n,
                         cudaStream_t stream);

/* --------------------------------------------------------------------------------- attend.cu */

typedef struct gpu_attend {
    gpu_span q, out;
    gpu_span gate;             /* data NULL: none */
    uint32_t q_heads, kv_heads, head_dim;
    uint32_t window;           /* 0: all */
    float scale, softcap;      /* softcap 0: none */
    gpu_cache cache;
    float *partial;            /* gpu_attend_floats of workspace, shared by all layers */
} gpu_attend;
/* False: this head_dim has no kernel. */
int gpu_attend_offered(uint32_t q_heads, uint32_t kv_heads, uint32_t head_dim);
uint64_t gpu_attend_floats(const gpu_attend *a, const tn_limits *l, uint32_t nsm);
/* nsm: multiprocessors of the card, for the number of splits. */
cudaError_t gpu_do_attend(const gpu_attend *a, const gpu_step *s, const gpu_shape *n,
                          uint32_t nsm, cudaStream_t stream);

/* ---------------------------------------------------------------------------------- delta.cu */

/* The states of one DeltaNet layer, one slot after the other:
 *     S        f32 [v_heads][v_dim][k_dim]: the neutral order transposed, so that what a warp
 *              reads of a row of S is contiguous
 *     columns  f32 [keep][width], oldest first
 *     pending  f32 [1 + drafts_max][width | a | b], raw inputs of draft rows; none without */
typedef struct gpu_state {
    float *data;
    uint64_t slot_floats;
    uint32_t heads, k_dim, v_dim, width, keep, pending_max;
} gpu_state;

typedef struct gpu_delta {
    gpu_span qkv, z, a, b, out;
    uint32_t k_heads, v_heads, k_dim, v_dim;
    const float *w_conv;       /* [width, keep + 1] */
    const float *conv_bias;    /* [width] or NULL */
    const float *a_log, *dt_bias; /* [v_heads] */
    const float *w_norm;       /* [v_dim] */
    uint32_t gate_act;         /* TN_ACT_SILU, TN_ACT_SIGMOID */
    float eps;
    gpu_state state;
    float *work;               /* gpu_delta_floats of workspace, shared by all layers */
} gpu_delta;
/* False: these head sizes have no kernel. */
int gpu_delta_offered(uint32_t k_dim, uint32_t v_dim, uint32_t keep);
uint64_t gpu_delta_floats(const gpu_delta *a, const tn_limits *l);
cudaError_t gpu_do_delta(const gpu_delta *a, const gpu_step *s, const gpu_shape *n,
                         cudaStream_t stream);

/* --------------------------------------------------------------------------------- sample.cu */

/* LOGITS and SAMPLE on f32 logits [outs, stride]: leaves result, top_*, drawn and verdict. */
typedef struct gpu_sample {
    float *logits;
    uint32_t stride, vocab, valid;
    float softcap;
    uint32_t top_max;
    void *work;                /* gpu_sample_bytes of workspace, zeroed once at reserve */
} gpu_sample;
uint64_t gpu_sample_bytes(uint32_t vocab, const tn_limits *l);
cudaError_t gpu_do_sample(const gpu_sample *a, const gpu_step *s, const gpu_shape *n,
                          cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif

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

/* ----------------------------------------------------------------------------------- step.cu */

/* A step on its way: one block of words from the host, spread out to the arrays of gpu_step. */
enum { GPU_PARCEL_COUNT, GPU_PARCEL_TOKEN, GPU_PARCEL_ROW_SEQ, GPU_PARCEL_POS, GPU_PARCEL_SEQ,
       GPU_PARCEL_BLOCK, GPU_PARCEL_OUT, GPU_PARCEL_EXTRA, GPU_PARCEL_PARTS };
typedef struct gpu_parcel {
    uint32_t from[GPU_PARCEL_PARTS]; /* in words from the parcel's begin */
    uint32_t words[GPU_PARCEL_PARTS];
} gpu_parcel;
cudaError_t gpu_unpack(const gpu_parcel *parcel, const gpu_step *s, cudaStream_t stream);
/* Which code the current card runs, 90 for sm_90, and for which architecture it was written. */
cudaError_t gpu_code(int *binary, int *ptx);

/* ----------------------------------------------------------------------------------- pack.cu */

/* A packed weight: tiles of 16 rows, each contiguous over all columns (kernels.md calls it T16).
 * Lane l of a warp owns row g = l / 4 and row g + 8 of the tile, and of every 32 columns the
 * eight from 8 * (l % 4) on, so that what it loads are the operands of mma_f16 as they stand:
 *
 *     F16   [n / 16][cols / 32][2 rows g, g + 8][32 lanes] 16 bytes: eight halves
 *     W8G   [n / 16][cols / 32][32 lanes] 16 bytes: eight codes of row g, eight of row g + 8
 *     W4G   [n / 16][cols / 64][32 lanes] 16 bytes: for each half of the 64 columns a word of
 *           row g and one of row g + 8; code i of the eight lies at bit 4 * (i / 2) + 16 * (i % 2)
 *     scale [n / 16][nquad][8 g][4 groups][2 rows] f16
 *     zero  the same in u8; absent when all are the middle code
 *
 * Padding multiplies nothing: its codes equal its zeros, its halves are 0. */
typedef struct gpu_matrix {
    uint8_t *codes;
    uint16_t *scale;           /* NULL: F16 */
    uint8_t *zero;             /* NULL: 8 or 128, or F16 */
    uint32_t form;             /* TN_FORM_F16, W8G, W4G as packed */
    uint32_t group;            /* columns a scale, a multiple of 32 or >= cols; 0: F16 */
    uint32_t n, k;             /* as in the spec */
    uint32_t cols;             /* columns as packed, a multiple of 64 */
    uint32_t ntile, nquad;
    uint32_t nexpert;
    uint32_t pairs;            /* 1: a tile holds rows 8 i .. of the first half of n, then the
                                  same of the second half: gate and up side by side */
    uint64_t codes_size, scale_size, zero_size; /* bytes of one expert */
    const int32_t *perm;       /* [nexpert, cols]; -1: padding. NULL: none */
} gpu_matrix;

/* Rows of a form as the reader gave them, in device memory: `rows` rows from row0 on. */
typedef struct gpu_raw {
    uint32_t half;             /* with pairs: rows of the first (1) or of the second half (2) */
    const void *codes;         /* [rows, row bytes] */
    const float *scale;        /* [rows, ngroup] */
    const uint8_t *zero;       /* [rows, ngroup] or NULL */
    uint32_t form, group;      /* as read */
    uint32_t rows, row0, cols; /* cols of the form */
    uint32_t row_bytes;
} gpu_raw;

/* Packs rows [row0, row0 + rows): row0 counts from the half's first row with `pairs` and is a
 * multiple of 16, of 8 with `pairs`. Rows behind the last of their tile become padding. A plain
 * form becomes F16, or W8G of group 32 when the matrix says so; a form whose groups are no
 * multiple of 32 becomes F16. *bad counts what does not fit a half. */
cudaError_t gpu_pack(const gpu_matrix *m, uint32_t expert, const gpu_raw *raw, uint32_t *bad,
                     cudaStream_t stream);
/* out[i] = x[i] as f32 from a plain form. */
cudaError_t gpu_pack_vector(const void *x, uint32_t form, uint64_t n, float *out,
                            cudaStream_t stream);

/* --------------------------------------------------------------------------------- linear.cu */

typedef struct gpu_linear_part {
    gpu_matrix w;
    const float *bias;         /* [n] or NULL */
    gpu_span out;
    uint32_t act;              /* not 0: the tiles are pairs, out [.., n / 2] gets act(gate) * up */
} gpu_linear_part;

/* out (+)= in . W^T + bias for all rows of kind `rows`. The parts share form, cols, group,
 * having zeros or not, and `in`. */
typedef struct gpu_linear {
    const uint16_t *x;         /* [rows, ldx] halves; columns from k on are not read */
    uint32_t ldx, k;           /* both multiples of 8 */
    uint16_t *turned;          /* [rows_max, cols] scratch; may be x where ldx is cols */
    uint32_t rows;             /* GPU_TOKENS, ... */
    uint32_t add;
    uint32_t npart;
    gpu_linear_part part[TN_LINEAR_PARTS];
} gpu_linear;
cudaError_t gpu_do_linear(const gpu_linear *a, const gpu_step *s, uint32_t rows_most,
                          uint32_t nsm, cudaStream_t stream);

/* -------------------------------------------------------------------------------- experts.cu */

typedef struct gpu_norm {
    gpu_span in, out;
    const float *w;            /* [width] or NULL */
    uint32_t width, groups, rows;
    float eps, offset;
    uint32_t *bad;             /* counts the rows that are not finite; NULL: nobody asks */
} gpu_norm;
typedef struct gpu_route {
    gpu_span in, ids, weights;
    uint32_t nexpert, ntop, kind, renorm, rows;
    const float *bias;         /* [nexpert] or NULL */
    float scale;
} gpu_route;

/* Which rows go to which expert: pair p of row r and choice j is number r * ntop + j. */
typedef struct gpu_grouping {
    int32_t *pair;             /* [pairs_max] pair numbers, by expert, each expert's in order */
    int32_t *place;            /* [pairs_max] where a pair number stands in `pair` */
    int32_t *begin;            /* [nexpert + 1] */
    int4 *item;                /* [items_max] expert, first place, count, 0 */
    int32_t *nitem;
    int32_t *count;            /* [chunks, nexpert] of large steps */
} gpu_grouping;

typedef struct gpu_experts {
    gpu_span in;               /* f16 */
    gpu_span ids, weights;     /* i32 and f32 [B, ntop] */
    gpu_span out;
    uint32_t rows;             /* GPU_TOKENS, ... */
    uint32_t add, act, ntop, width;
    gpu_matrix up, down;       /* up: pairs */
    gpu_grouping group;
    uint16_t *gathered;        /* [pairs_max, max(up.cols, down.cols)] when either has a perm */
    uint16_t *hidden;          /* [pairs_max, down.cols] act(gate) * up * weight */
    uint16_t *turned;          /* [rows of the step, up.cols] scratch; may be `in` where its
                                  stride is up.cols */
    float *partial;            /* [pairs_max, n] */
    uint32_t wide;             /* set by the launchers: products of warpgroups, for which columns
                                  are turned and partial sums halves */
    uint32_t rows_max;         /* rows taken at a time: pairs_max = rows_max * ntop */
    uint32_t routes;           /* 1: `route` is done here too, before the grouping */
    gpu_route route;
    uint32_t defers;           /* 1: gpu_combine adds the sums up; fits when all rows of the step
                                  are taken at once */
} gpu_experts;

/* The last step of experts that defer it, with what follows: out += shared part, then the norm
 * of out. mix.data NULL, norm.out.data NULL: none. */
typedef struct gpu_combine {
    const gpu_experts *experts;
    gpu_span mix, gate;        /* out += scale * sigmoid(gate) * mix; gate.data NULL: factor 1 */
    float scale;
    gpu_norm norm;
} gpu_combine;
/* Items for `pairs` pairs at most. */
uint32_t gpu_items_max(uint32_t pairs, uint32_t nexpert);
/* Rows worth taking at a time, and the bytes of their partial sums. */
uint32_t gpu_experts_rows(void);
uint64_t gpu_partial_bytes(uint32_t pairs, uint32_t nexpert, uint32_t n);
cudaError_t gpu_do_experts(const gpu_experts *a, const gpu_step *s, uint32_t rows_most,
                           uint32_t nsm, cudaStream_t stream);

cudaError_t gpu_do_combine(const gpu_combine *a, const gpu_step *s, uint32_t rows_most,
                           cudaStream_t stream);

/* ------------------------------------------------------------------------------------ ops.cu */

/* cs[row * dims / 2 + i] = (cos, sin)(pos * inv_freq[i]) * scale, angles in double. */
cudaError_t gpu_rotary(const double *inv_freq, uint32_t dims, double scale, float *cs,
                       const gpu_step *s, const gpu_shape *n, cudaStream_t stream);
/* rows_most bounds the rows, of kind `rows`, in all calls below. */
cudaError_t gpu_embed(const gpu_matrix *w, uint32_t first, float scale, gpu_span out,
                      const gpu_step *s, uint32_t rows_most, cudaStream_t stream);
cudaError_t gpu_do_norm(const gpu_norm *a, const gpu_step *s, uint32_t rows_most,
                        cudaStream_t stream);
cudaError_t gpu_act_mul(gpu_span a, gpu_span b, gpu_span out, uint32_t width, uint32_t act,
                        uint32_t rows, const gpu_step *s, uint32_t rows_most,
                        cudaStream_t stream);
cudaError_t gpu_do_route(const gpu_route *a, const gpu_step *s, uint32_t rows_most,
                         cudaStream_t stream);
/* out (+)= scale * sigmoid(gate) * in; gate.data NULL: factor 1. Also copies: scale 1, no add. */
cudaError_t gpu_mix(gpu_span in, gpu_span gate, gpu_span out, uint32_t width, float scale,
                    uint32_t add, uint32_t rows, const gpu_step *s, uint32_t rows_most,
                    cudaStream_t stream);
/* out[o] = in[row of output o] */
cudaError_t gpu_pick(gpu_span in, gpu_span out, uint32_t width, const gpu_step *s,
                     uint32_t rows_most, cudaStream_t stream);
/* out[row0 + i][r * width ..] = all[r][i], of `n` rows of each of `nrank` ranks; f32. */
cudaError_t gpu_place(const float *all, uint32_t nrank, uint32_t stride, uint32_t width,
                      gpu_span out, uint32_t rows, uint32_t row0, uint32_t n, const gpu_step *s,
                      cudaStream_t stream);
/* out[.., cols] halves of in, gathered by perm (-1: 0; NULL: as they are), 0 from k on. */
cudaError_t gpu_prepare(gpu_span in, const int32_t *perm, uint32_t k, uint32_t cols,
                        uint16_t *out, uint32_t rows, const gpu_step *s, uint32_t rows_most,
                        cudaStream_t stream);

/* ---------------------------------------------------------------------------------- heads.cu */

/* A paged cache, K and V of one layer: [block][head][token of the block][dim]. */
typedef struct gpu_cache {
    void *k, *v;
    uint32_t heads, k_dim, v_dim;
    uint32_t tokens;           /* a block */
    uint32_t type;             /* TN_F16 or TN_F8_E4M3 */
} gpu_cache;

/* HEADS: norms q and k, turns them, writes K and V of the rows to the cache. The order of
 * roundings: norm and rotation in fp32, rounded once to x's type and once to the cache's. */
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
    uint32_t *meet;            /* [seqs_max, k_heads] zeroed once at reserve, shared by all layers,
                                  left zero; NULL: one kernel more a layer */
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

/* SPDX-License-Identifier: Apache-2.0 */
/* delta.cuh - what the kernels of DELTA share: a sequence's place in the step, its raw inputs,
 * the convolution, the gates, one row of the rule, the gated norm.
 *
 * Steps of few rows, prompts and drafts go through different kernels, and a row must come out
 * with the same bits in each, so that cutting a prompt changes nothing. Therefore all arithmetic
 * whose order matters is here, once; products that the compiler could fuse with a sum in one
 * place and not in another are written as fmaf.
 *
 * Of S, eight neighbouring lanes share a row: lane j holds floats 32 i + 4 j .. + 3 of it, so a
 * warp reads four rows in pieces of 128 bytes. K and V below are the head sizes of a kernel; a
 * model's own may be smaller, what is beyond them is zero. */
#ifndef TN_CUDA_DELTA_CUH
#define TN_CUDA_DELTA_CUH

#include "gpu.h"
#include "lane.cuh"
#include "span.cuh"

#define DELTA_LANES 8             /* lanes a row of S */
#define DELTA_LONG 16             /* a sequence of more rows is a prompt: delta_prompt.cu */
#define DELTA_DIM_MAX 128
#define DELTA_KEEP_MAX 7
#define DELTA_NORM_EPS 1e-6f      /* of the l2 norms, inside the root */

struct delta_args {
    gpu_delta a;
    const uint32_t *count;
    const int32_t *row_seq, *pos, *verdict;
    const tn_seq *seq;
};

/* A sequence with something to do in the step. Its rows count from 0; the pending ones that
 * count come before them, from -npending on. */
struct delta_seq {
    int32_t row0, nrow, npending;
    bool draft, prompt;
    const float *in;              /* its slot before the step; NULL: all zeros */
    float *out;                   /* its slot after */
};

/* A segment of the step's rows on their way through the kernels of prompts, fp32 but for what
 * delta_chunk.cu wants; K and V being the kernel's sizes:
 *
 *     row     [k_heads][K] q, [k_heads][K] k, [v_heads][V] v and later o. For chunks q and k are
 *             halves, each head's in the first half of its place
 *     gate    [v_heads] (decay - 1, beta, log decay, sum of log decays since the chunk's begin)
 *     mix     [v_heads][2][64] halves, for chunks: the row's line of T and of P */
struct prompt_args {
    delta_args d;
    uint32_t row0, rows;          /* the segment */
    uint32_t stride;              /* floats a row */
    uint32_t chunks;              /* 1: sequences of DELTA_CHUNKED rows and more go in chunks */
    float *row;
    float4 *gate;
    __half *mix;
};

#define DELTA_CHUNK 64
#define DELTA_CHUNKED 128

/* delta_prompt.cu: rows of prompts, once their pending rows are settled in state_out. */
uint64_t delta_prompt_floats(const gpu_delta *a, uint64_t rows_max);
cudaError_t delta_prompt_launch(const delta_args *d, const gpu_shape *n, cudaStream_t stream);

/* delta_chunk.cu: between `ready` and `finish`, for sequences that go in chunks. False: this
 * card or these heads do not offer it. */
bool delta_chunk_offered(const gpu_delta *a);
cudaError_t delta_chunk_launch(const prompt_args *p, const gpu_shape *n, cudaStream_t stream);

/* False: nothing to do. What the device cannot vouch for is bounded here. */
LANE bool delta_open(const delta_args &d, uint32_t i, delta_seq *q)
{
    if (i >= d.count[1])
        return false;
    const tn_seq s = d.seq[i];
    const gpu_state &state = d.a.state;
    const bool fresh = (s.flags & TN_SEQ_FRESH) != 0;
    if ((s.nrow <= 0 && s.accepted == 0) || s.state_out < 0 || (!fresh && s.state_in < 0))
        return false;
    int32_t most = (int32_t)state.pending_max, n = 0;
    if (!fresh && most > 0 && s.accepted != 0)
        n = s.accepted > 0 || d.verdict == NULL ? s.accepted : d.verdict[s.state_in];
    q->npending = n < 0 ? 0 : n > most ? most : n;
    q->row0 = s.row0;
    q->nrow = s.nrow < 0 ? 0 : s.nrow;
    q->draft = (s.flags & TN_SEQ_DRAFT) != 0 && most > 0;
    if (q->draft && q->nrow > most)
        q->nrow = most;
    q->prompt = !q->draft && q->nrow > DELTA_LONG;
    q->in = fresh ? NULL : state.data + (uint64_t)s.state_in * state.slot_floats;
    q->out = state.data + (uint64_t)s.state_out * state.slot_floats;
    return true;
}

/* Parts of a slot. */
LANE uint64_t delta_columns_at(const gpu_state &s)
{
    return (uint64_t)s.heads * s.k_dim * s.v_dim;
}

LANE uint64_t delta_pending_at(const gpu_state &s, uint32_t row)
{
    return delta_columns_at(s) + (uint64_t)s.keep * s.width +
           (uint64_t)row * (s.width + 2 * s.heads);
}

/* The raw input of a channel in row r, which may be a pending row or a column kept before. */
LANE float delta_raw(const delta_args &d, const delta_seq &q, int32_t r, uint32_t channel)
{
    const gpu_state &s = d.a.state;
    if (r >= 0)
        return span_get(d.a.qkv, (uint64_t)(q.row0 + r), channel);
    if (q.in == NULL)
        return 0;
    r += q.npending;
    if (r >= 0)
        return q.in[delta_pending_at(s, (uint32_t)r) + channel];
    r += (int32_t)s.keep;
    return r >= 0 ? q.in[delta_columns_at(s) + (uint64_t)r * s.width + channel] : 0;
}

/* What the step leaves of a channel: columns, and the raw rows that stay pending. Whoever calls
 * is the only one who still reads the channel's old ones, so that a slot may be its own
 * successor. keep is at most MOST. */
template <int MOST>
LANE void delta_leave_channel(const delta_args &d, const delta_seq &q, uint32_t channel)
{
    const gpu_state &s = d.a.state;
    const int32_t settled = q.draft ? 0 : q.nrow, keep = (int32_t)s.keep;
    float x[MOST];
    UNROLL
    for (int j = 0; j < MOST; j++)
        x[j] = j < keep ? delta_raw(d, q, settled - keep + j, channel) : 0.0f;
    float *columns = q.out + delta_columns_at(s) + channel;
    UNROLL
    for (int j = 0; j < MOST; j++)
        if (j < keep)
            columns[(uint64_t)j * s.width] = x[j];
    for (int32_t r = 0; q.draft && r < q.nrow; r++)
        q.out[delta_pending_at(s, (uint32_t)r) + channel] =
            span_get(d.a.qkv, (uint64_t)(q.row0 + r), channel);
}

/* The same for a head's gates. */
LANE void delta_leave_gates(const delta_args &d, const delta_seq &q, uint32_t head)
{
    const gpu_state &s = d.a.state;
    for (int32_t r = 0; q.draft && r < q.nrow; r++) {
        float *gates = q.out + delta_pending_at(s, (uint32_t)r) + s.width;
        gates[head] = span_get(d.a.a, (uint64_t)(q.row0 + r), head);
        gates[s.heads + head] = span_get(d.a.b, (uint64_t)(q.row0 + r), head);
    }
}

/* --------------------------------------------------------------------------- convolution */

/* One channel: x[TAPS - 1] is the row's raw input, x[TAPS - 2] the one before it. */
template <int TAPS>
struct delta_channel {
    float x[TAPS], w[TAPS], bias;
    int first;                    /* taps before it are not there */
};

/* Ready for row r: delta_next takes it in. */
template <int TAPS>
LANE void delta_channel_open(const delta_args &d, const delta_seq &q, int32_t r,
                             uint32_t channel, delta_channel<TAPS> *c)
{
    const int kernel = (int)d.a.state.keep + 1;
    const float *w = d.a.w_conv + (uint64_t)channel * (uint32_t)kernel;
    c->first = TAPS - kernel;
    c->bias = d.a.conv_bias != NULL ? d.a.conv_bias[channel] : 0.0f;
    UNROLL
    for (int j = 0; j < TAPS; j++)
        c->w[j] = j >= c->first ? w[j - c->first] : 0.0f;
    UNROLL
    for (int j = 0; j < TAPS; j++)
        c->x[j] = j > c->first ? delta_raw(d, q, r - TAPS + j, channel) : 0.0f;
}

/* Takes in a row's raw input; gives silu(conv). */
template <int TAPS>
LANE float delta_next(delta_channel<TAPS> *c, float raw)
{
    float y = 0;
    UNROLL
    for (int j = 0; j + 1 < TAPS; j++)
        c->x[j] = c->x[j + 1];
    c->x[TAPS - 1] = raw;
    UNROLL
    for (int j = 0; j < TAPS; j++)
        if (j >= c->first)
            y = fmaf(c->w[j], c->x[j], y);
    y += c->bias;
    return y / (1.0f + expf(-y));
}

/* x^2, rounded before anything is added to it. */
LANE float delta_square(float x)
{
    return fmaf(x, x, 0.0f);
}

/* What q or k is multiplied with to be a unit vector, q over sqrt(k_dim) besides. The sum of
 * squares is that of 32 channels by warp_sum, then of these sums in order. */
LANE float delta_unit(const float *part, int nparts, bool query, uint32_t k_dim)
{
    float sum = 0;
    UNROLL
    for (int i = 0; i < nparts; i++)
        sum += part[i];
    return (query ? 1.0f / sqrtf((float)k_dim) : 1.0f) / sqrtf(sum + DELTA_NORM_EPS);
}

/* ---------------------------------------------------------------------------------- gates */

/* (log decay, beta) from the raw a and b of a head. */
LANE float2 delta_gates(const delta_args &d, uint32_t head, float2 raw)
{
    float x = raw.x + d.a.dt_bias[head];
    float softplus = x > 20.0f ? x : log1pf(expf(x));
    return make_float2(-(expf(d.a.a_log[head]) * softplus), 1.0f / (1.0f + expf(-raw.y)));
}

/* Raw a and b of a head in a row, pending or not. */
LANE float2 delta_raw_gates(const delta_args &d, const delta_seq &q, int32_t r, uint32_t head)
{
    const gpu_state &s = d.a.state;
    if (r >= 0)
        return make_float2(span_get(d.a.a, (uint64_t)(q.row0 + r), head),
                           span_get(d.a.b, (uint64_t)(q.row0 + r), head));
    const float *gates = q.in + delta_pending_at(s, (uint32_t)(r + q.npending)) + s.width;
    return make_float2(gates[head], gates[s.heads + head]);
}

/* -------------------------------------------------------------------------------- prompts */

/* The sequence of a row of a prompt; false: the row is none. */
LANE bool delta_prompt_row(const delta_args &d, uint32_t row, uint32_t *number, delta_seq *q)
{
    if (row >= d.count[0] || d.pos[row] < 0 || d.row_seq[row] < 0)
        return false;
    *number = (uint32_t)d.row_seq[row];
    return delta_open(d, *number, q) && q->prompt && (int32_t)row >= q->row0 &&
           (int32_t)row < q->row0 + q->nrow;
}

LANE bool delta_goes_in_chunks(const prompt_args &p, const delta_seq &q)
{
    return p.chunks != 0 && q.nrow >= DELTA_CHUNKED;
}

/* Rows [from, to) of the segment that are the sequence's; false: none. */
LANE bool delta_part(const prompt_args &p, const delta_seq &q, uint32_t *from, uint32_t *to)
{
    const int32_t first = (int32_t)p.row0, end = (int32_t)(p.row0 + p.rows);
    if (q.row0 >= end || q.row0 + q.nrow <= first)
        return false;
    *from = q.row0 > first ? (uint32_t)(q.row0 - first) : 0;
    *to = (uint32_t)((q.row0 + q.nrow < end ? q.row0 + q.nrow : end) - first);
    return true;
}

/* ----------------------------------------------------------------------------------- rule */

LANE float delta_group_sum(float x)
{
    for (int i = DELTA_LANES / 2; i > 0; i >>= 1)
        x += __shfl_xor_sync(FULL_WARP, x, i);
    return x;
}

LANE float delta_dot(float4 a, float4 b, float sum)
{
    sum = fmaf(a.x, b.x, sum);
    sum = fmaf(a.y, b.y, sum);
    sum = fmaf(a.z, b.z, sum);
    return fmaf(a.w, b.w, sum);
}

/* One step of the rule for ROWS rows of S of PIECES * 32 floats: S <- S + loss S with loss =
 * decay - 1, for a slow decay rounds the same way at every row; u = beta (v - S k); S <- S + u k; o = S q. `k` and `q` point at this lane's first piece, in
 * shared memory, normed. All lanes of a row get its o. */
template <int PIECES, int ROWS>
LANE void delta_rule(float4 s[ROWS][PIECES], const float4 *k, const float4 *q,
                     const float v[ROWS], float loss, float beta, float o[ROWS])
{
    float u[ROWS];
    float2 sum[ROWS];             /* two chains, so that one need not wait for itself */
    UNROLL
    for (int r = 0; r < ROWS; r++)
        sum[r] = make_float2(0, 0);
    UNROLL
    for (int i = 0; i < PIECES; i++) {
        const float4 ki = k[i * DELTA_LANES];
        UNROLL
        for (int r = 0; r < ROWS; r++) {
            float4 *x = &s[r][i];
            *x = make_float4(fmaf(x->x, loss, x->x), fmaf(x->y, loss, x->y),
                             fmaf(x->z, loss, x->z), fmaf(x->w, loss, x->w));
            float *half = i & 1 ? &sum[r].y : &sum[r].x;
            *half = delta_dot(*x, ki, *half);
        }
    }
    UNROLL
    for (int r = 0; r < ROWS; r++) {
        u[r] = beta * (v[r] - delta_group_sum(sum[r].x + sum[r].y));
        sum[r] = make_float2(0, 0);
    }
    UNROLL
    for (int i = 0; i < PIECES; i++) {
        const float4 ki = k[i * DELTA_LANES], qi = q[i * DELTA_LANES];
        UNROLL
        for (int r = 0; r < ROWS; r++) {
            float4 *x = &s[r][i];
            *x = make_float4(fmaf(ki.x, u[r], x->x), fmaf(ki.y, u[r], x->y),
                             fmaf(ki.z, u[r], x->z), fmaf(ki.w, u[r], x->w));
            float *half = i & 1 ? &sum[r].y : &sum[r].x;
            *half = delta_dot(*x, qi, *half);
        }
    }
    UNROLL
    for (int r = 0; r < ROWS; r++)
        o[r] = delta_group_sum(sum[r].x + sum[r].y);
}

/* Rows of S from and to memory; row v0 + r * step is the lane's r-th. */
template <int PIECES, int ROWS>
LANE void delta_load(float4 s[ROWS][PIECES], const float *from, uint32_t v0, uint32_t step,
                     uint32_t k_dim, uint32_t v_dim)
{
    const uint32_t j = threadIdx.x % DELTA_LANES * 4;
    UNROLL
    for (int r = 0; r < ROWS; r++)
        UNROLL
        for (int i = 0; i < PIECES; i++) {
            uint32_t v = v0 + (uint32_t)r * step, k = (uint32_t)i * 32 + j;
            bool there = from != NULL && v < v_dim && k < k_dim;
            s[r][i] = there ? *(const float4 *)(from + (uint64_t)v * k_dim + k)
                            : make_float4(0, 0, 0, 0);
        }
}

template <int PIECES, int ROWS>
LANE void delta_store(const float4 s[ROWS][PIECES], float *to, uint32_t v0, uint32_t step,
                      uint32_t k_dim, uint32_t v_dim)
{
    const uint32_t j = threadIdx.x % DELTA_LANES * 4;
    UNROLL
    for (int r = 0; r < ROWS; r++)
        UNROLL
        for (int i = 0; i < PIECES; i++) {
            uint32_t v = v0 + (uint32_t)r * step, k = (uint32_t)i * 32 + j;
            if (v < v_dim && k < k_dim)
                *(float4 *)(to + (uint64_t)v * k_dim + k) = s[r][i];
        }
}

/* ----------------------------------------------------------------------------- gated norm */

/* A warp, on one head's o of V floats (zeros behind v_dim): the factor of the norm. */
template <int V>
LANE float delta_norm_factor(const float *o, uint32_t v_dim, float eps)
{
    float part[V / 32], sum = 0;
    UNROLL
    for (int i = 0; i < V / 32; i++)
        part[i] = warp_sum(delta_square(o[i * 32 + threadIdx.x % 32]));
    UNROLL
    for (int i = 0; i < V / 32; i++)
        sum += part[i];
    return 1.0f / sqrtf(sum / (float)v_dim + eps);
}

LANE float delta_gate(uint32_t act, float z, float x)
{
    float gate = 1.0f / (1.0f + expf(-z));
    return act == TN_ACT_SILU ? x * (z / (1.0f + expf(-z))) : x * gate;
}

#endif

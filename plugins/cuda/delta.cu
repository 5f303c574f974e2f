/* SPDX-License-Identifier: Apache-2.0 */
/* delta.cu - DELTA, the gated delta rule: steps of few rows, and what all steps leave behind.
 *
 * The step kernel takes a v-head of a sequence through its pending rows and, unless they are a
 * prompt's (delta_prompt.cu), through the step's rows. S of the head lies in the registers of
 * one block from the load to the store; the load is issued before anything else, because no
 * input of the step decides about it. Per row:
 *
 *     conv + silu   a thread a channel: q and k of the k-head, v of the head  | one barrier
 *     rule          eight lanes a row of S; o to shared memory                | one barrier
 *     gated norm    the last warps, while the others begin the next row
 *
 * Columns and pending rows of q and k are read by all v-heads of a k-head. The block that is the
 * last of them to have read writes what stays (a.meet counts); without counters a kernel of its
 * own does, behind the others, as for prompts. */
#include "delta.cuh"

#define THREADS 512
#define STEP (THREADS / DELTA_LANES) /* rows of S that a block reads at a time */
#define KEEP_THREADS 128

/* Rows of no sequence get zeros; the blocks of a head share the rows. */
LANE void clear_padding(const delta_args &d, uint32_t head)
{
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, nwarp = blockDim.x / 32;
    const uint32_t rows = d.count[0];
    for (uint32_t r0 = (blockIdx.y * nwarp + warp) * 32; r0 < rows; r0 += gridDim.y * nwarp * 32) {
        bool none = r0 + lane < rows && d.pos[r0 + lane] < 0;
        unsigned empty = __ballot_sync(FULL_WARP, none);
        for (; empty != 0; empty &= empty - 1) {
            uint32_t row = r0 + (uint32_t)(__ffs((int)empty) - 1);
            for (uint32_t i = lane; i < d.a.v_dim; i += 32)
                span_put(d.a.out, row, head * d.a.v_dim + i, 0.0f);
        }
        __syncwarp();
    }
}

/* Channels of a block: K of q, K of k, V of v; those behind the model's own sizes are not there. */
template <int K, int V>
LANE bool own_channel(const delta_args &d, uint32_t head, uint32_t t, uint32_t *channel)
{
    const uint32_t k_dim = d.a.k_dim, k_head = head / (d.a.v_heads / d.a.k_heads);
    const uint32_t key = d.a.k_heads * k_dim;
    if (t < 2 * K) {
        *channel = (t < K ? 0 : key) + k_head * k_dim + t % K;
        return t % K < k_dim;
    }
    *channel = 2 * key + head * d.a.v_dim + (t - 2 * K);
    return t - 2 * K < d.a.v_dim;
}

/* What the convolution will want of the thread's channel. */
template <int K, int V>
LANE void fetch_channel(const delta_args &d, const delta_seq &q, uint32_t head)
{
    uint32_t channel;
    if (threadIdx.x >= 2 * K + V || !own_channel<K, V>(d, head, threadIdx.x, &channel))
        return;
    fetch_ahead(d.a.w_conv + (uint64_t)channel * (d.a.state.keep + 1));
    if (q.in != NULL)
        for (uint32_t j = 0; j < d.a.state.keep; j++)
            fetch_ahead(q.in + delta_columns_at(d.a.state) + (uint64_t)j * d.a.state.width +
                        channel);
}

template <int K, int V>
struct step_room {
    float conv[2 * K + V];        /* q, k, v of the row */
    float part[2 * K / 32];       /* sums of squares of q and k, 32 channels each */
    float2 gate;
    float o[V];
    delta_seq seq;                /* here, lest every thread spends registers on it */
    uint32_t last;
};

/* The q, k, v and gates of row r into `room`; ends behind a barrier. The convolution's window is
 * read anew for each row: registers that outlive the rule are dearer than loads that hit. */
template <int K, int V, int TAPS>
LANE void take_row(const delta_args &d, const delta_seq &q, int32_t r, uint32_t head,
                   step_room<K, V> *room)
{
    const uint32_t t = threadIdx.x, k_dim = d.a.k_dim;
    uint32_t channel;
    float y = 0;
    float2 gate = make_float2(0, 0);
    if (t < 2 * K + V && own_channel<K, V>(d, head, t, &channel)) {
        delta_channel<TAPS> c;
        delta_channel_open(d, q, r, channel, &c);
        y = delta_next(&c, delta_raw(d, q, r, channel));
    } else if (t == THREADS - 1) {
        gate = delta_gates(d, head, delta_raw_gates(d, q, r, head));
        gate.x = expm1f(gate.x);
    }
    if (t < 2 * K) {
        float sum = warp_sum(delta_square(y));
        if (t % 32 == 0)
            room->part[t / 32] = sum;
    }
    __syncthreads();
    if (t < 2 * K)
        y *= delta_unit(room->part + t / K * (K / 32), K / 32, t < K, k_dim);
    if (t < 2 * K + V)
        room->conv[t] = y;
    if (t == THREADS - 1)
        room->gate = gate;
    __syncthreads();
}

/* Warps 0 .. V / 32 - 1 from the last one on: 32 of the head's outputs each. */
template <int V>
LANE void put_row(const delta_args &d, const float *o, uint64_t row, uint32_t head)
{
    const uint32_t warp = threadIdx.x / 32 - (THREADS - V) / 32;
    const uint32_t i = warp * 32 + threadIdx.x % 32, at = head * d.a.v_dim + i;
    float factor = delta_norm_factor<V>(o, d.a.v_dim, d.a.eps);
    if (i >= d.a.v_dim)
        return;
    float x = o[i] * factor * d.a.w_norm[i];
    span_put(d.a.out, row, at, delta_gate(d.a.gate_act, span_get(d.a.z, row, at), x));
}

/* Where the blocks of a k-head count who has read what the slot held. No fence stands about the
 * sum: the reads before it have come back, their values lie behind a barrier, and the writes
 * after it hang on its answer. Only the answer is slow, so it is asked for early. */
LANE uint32_t *meeting(const delta_args &d, uint32_t head)
{
    return d.a.meet + blockIdx.y * d.a.k_heads + head / (d.a.v_heads / d.a.k_heads);
}

/* One block of 512 threads a v-head and sequence: grid (v_heads, seqs). Threads share S as rows
 * of eight lanes, STEP rows at a time; the same threads are channels of the convolution, and the
 * last one computes the gates. All in fp32. */
template <int K, int V, int TAPS, bool EXACT>
__global__ void __launch_bounds__(THREADS, TAPS == 4 ? 2 : 1) step_kernel(delta_args d)
{
    constexpr int PIECES = K / 32, ROWS = (V + STEP - 1) / STEP;
    __shared__ step_room<K, V> room;
    const uint32_t t = threadIdx.x, head = blockIdx.x, v0 = t / DELTA_LANES;
    const uint32_t k_dim = EXACT ? K : d.a.k_dim, v_dim = EXACT ? V : d.a.v_dim;
    const uint64_t at = (uint64_t)head * k_dim * v_dim;
    delta_seq mine;
    if (!delta_open(d, blockIdx.y, &mine) ||
        (mine.prompt && mine.npending == 0 && mine.in == mine.out)) {
        wait_for_earlier();
        start_next();
        clear_padding(d, head);
        return;
    }
    fetch_channel<K, V>(d, mine, head);
    float4 s[ROWS][PIECES];      /* states are left by earlier steps */
    delta_load<PIECES, ROWS>(s, mine.in != NULL ? mine.in + at : NULL, v0, STEP, k_dim, v_dim);
    wait_for_earlier();
    start_next();
    clear_padding(d, head);
    if (t == 0)
        room.seq = mine;
    __syncthreads();
    const delta_seq &q = room.seq;
    const bool owns = d.a.meet != NULL && !q.prompt; /* leaves columns and pending rows itself */
    const int32_t rows = q.prompt ? 0 : q.nrow, settled = q.draft ? 0 : rows;
    /* rows after this one want nothing of the slot any more */
    const int32_t keep = (int32_t)d.a.state.keep, read = rows < keep ? rows - 1 : keep - 1;
    uint32_t before = 0;          /* blocks that had read before, in the first thread */
    for (int32_t r = -q.npending;; r++) {
        if (r == settled)
            delta_store<PIECES, ROWS>(s, q.out + at, v0, STEP, k_dim, v_dim);
        if (r == rows)
            break;
        take_row<K, V, TAPS>(d, q, r, head, &room);
        if (r >= 0 && r == read && owns && t == 0)
            __threadfence(), before = atomicAdd(meeting(d, head), 1u);
        float v[ROWS], o[ROWS];
        UNROLL
        for (int i = 0; i < ROWS; i++)
            v[i] = v0 + i * STEP < V ? room.conv[2 * K + v0 + i * STEP] : 0.0f;
        const float *lane = room.conv + t % DELTA_LANES * 4;
        delta_rule<PIECES, ROWS>(s, (const float4 *)(lane + K), (const float4 *)lane, v,
                                 room.gate.x, room.gate.y, o);
        if (r < 0)
            continue;
        UNROLL
        for (int i = 0; i < ROWS; i++)
            if (t % DELTA_LANES == 0 && v0 + i * STEP < V)
                room.o[v0 + i * STEP] = o[i];
        __syncthreads();
        if (t >= THREADS - V)
            put_row<V>(d, room.o, (uint64_t)(q.row0 + r), head);
    }
    if (!owns)
        return;
    __syncthreads();
    if (t == 0) {
        if (rows == 0)
            __threadfence(), before = atomicAdd(meeting(d, head), 1u);
        room.last = before == d.a.v_heads / d.a.k_heads - 1;
        if (room.last != 0)
            *meeting(d, head) = 0;
    }
    __syncthreads();
    uint32_t channel;
    if (t < 2 * K + V && own_channel<K, V>(d, head, t, &channel) && (t >= 2 * K || room.last != 0))
        delta_leave_channel<TAPS - 1>(d, q, channel);
    if (t == THREADS - 1)
        delta_leave_gates(d, q, head);
}

/* A thread a channel, then a thread a head's gates, for sequences whose blocks do not do it. */
__global__ void __launch_bounds__(KEEP_THREADS) keep_kernel(delta_args d)
{
    const gpu_state &s = d.a.state;
    const uint32_t i = blockIdx.x * KEEP_THREADS + threadIdx.x;
    delta_seq q;
    if (!delta_open(d, blockIdx.y, &q) || (d.a.meet != NULL && !q.prompt))
        return;
    if (i >= s.width) {
        if (i < s.width + s.heads)
            delta_leave_gates(d, q, i - s.width);
        return;
    }
    delta_leave_channel<DELTA_KEEP_MAX>(d, q, i);
}

/* ------------------------------------------------------------------------------ launchers */

template <int K, int V, bool EXACT>
static void step_launch(const delta_args &d, const gpu_shape *n, cudaStream_t stream)
{
    dim3 grid(d.a.v_heads, n->seqs > 0 ? n->seqs : 1);
    if (d.a.state.keep < 4)
        GPU_LAUNCH_EARLY((step_kernel<K, V, 4, EXACT>), grid, THREADS, 0, stream, d);
    else
        GPU_LAUNCH_EARLY((step_kernel<K, V, 8, EXACT>), grid, THREADS, 0, stream, d);
}

extern "C" int gpu_delta_offered(uint32_t k_dim, uint32_t v_dim, uint32_t keep)
{
    return k_dim > 0 && k_dim <= DELTA_DIM_MAX && k_dim % 4 == 0 && v_dim > 0 &&
           v_dim <= DELTA_DIM_MAX && v_dim % 4 == 0 && keep > 0 && keep <= DELTA_KEEP_MAX;
}

extern "C" uint64_t gpu_delta_floats(const gpu_delta *a, const tn_limits *l)
{
    return delta_prompt_floats(a, l->rows_max);
}

extern "C" cudaError_t gpu_do_delta(const gpu_delta *a, const gpu_step *s, const gpu_shape *n,
                                    cudaStream_t stream)
{
    const delta_args d = {*a, s->count, s->row_seq, s->pos, s->verdict, s->seq};
    if (!gpu_delta_offered(a->k_dim, a->v_dim, a->state.keep) || a->state.slot_floats % 4 != 0)
        return cudaErrorInvalidValue;
    if (a->k_dim == 128 && a->v_dim == 128)
        step_launch<128, 128, true>(d, n, stream);
    else if (a->k_dim == 64 && a->v_dim == 64)
        step_launch<64, 64, true>(d, n, stream);
    else
        step_launch<128, 128, false>(d, n, stream);
    if (n->seq_rows > DELTA_LONG) {
        cudaError_t e = delta_prompt_launch(&d, n, stream);
        if (e != cudaSuccess)
            return e;
    }
    if (n->seqs > 0 && (a->meet == NULL || n->seq_rows > DELTA_LONG)) {
        dim3 grid((a->state.width + a->state.heads + KEEP_THREADS - 1) / KEEP_THREADS, n->seqs);
        GPU_LAUNCH(keep_kernel, grid, KEEP_THREADS, 0, stream, d);
    }
    return cudaGetLastError();
}

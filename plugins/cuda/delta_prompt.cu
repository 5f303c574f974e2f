/* SPDX-License-Identifier: Apache-2.0 */
/* delta_prompt.cu - DELTA for prompts: sequences of more than DELTA_LONG rows.
 *
 * The step kernel of delta.cu has settled what was pending and left S in state_out; the columns
 * are still those of state_in. The rows of the step go through in segments, so that what the
 * three kernels hand each other has a bounded size and mostly stays in the second-level cache:
 *
 *     ready   conv, silu, norms and gates of all rows at once
 *     recur   blocks of (head, 32 rows of S), S in registers, row after row; long sequences go
 *             through delta_chunk.cu instead, where it is offered
 *     finish  gated norm of all rows at once                                                  */
#include "delta.cuh"

#define SEGMENT 2048u             /* rows */
#define READY_ROWS 16             /* rows that a warp of `ready` walks down */
#define READY_THREADS 256
#define SLICE 32                  /* rows of S a block */
#define THREADS (SLICE * DELTA_LANES)
#define STAGE 8                   /* rows fetched at a time; one for each lane of a group */
#define STAGES 3

/* Sizes of the kernel that takes these heads. */
static uint32_t k_size(const gpu_delta *a)
{
    return a->k_dim == 64 && a->v_dim == 64 ? 64 : 128;
}

static uint64_t row_floats(const gpu_delta *a)
{
    return (uint64_t)(2 * a->k_heads + a->v_heads) * k_size(a);
}

uint64_t delta_prompt_floats(const gpu_delta *a, uint64_t rows_max)
{
    uint64_t rows = rows_max < SEGMENT ? rows_max : SEGMENT;
    return rows * (row_floats(a) + (4 + DELTA_CHUNK) * (uint64_t)a->v_heads);
}

/* ---------------------------------------------------------------------------------- ready */

/* A warp walks one head's N channels down READY_ROWS rows, lane l channels l, l + 32, ... */
template <int N, int TAPS>
LANE void ready_head(const prompt_args &p, uint32_t first, uint32_t dim, bool query, bool unit,
                     uint32_t row, uint32_t to_column)
{
    const uint32_t lane = threadIdx.x % 32;
    delta_channel<TAPS> c[N / 32];
    delta_seq q;
    uint32_t open = TN_NONE, number = 0;
    for (uint32_t i = 0; i < READY_ROWS && row + i < p.rows; i++) {
        const uint32_t at = p.row0 + row + i;
        if (!delta_prompt_row(p.d, at, &number, &q)) {
            open = TN_NONE;
            continue;
        }
        const int32_t r = (int32_t)at - q.row0;
        float y[N / 32], part[N / 32];
        UNROLL
        for (int j = 0; j < N / 32; j++) {
            const uint32_t k = lane + 32 * (uint32_t)j;
            y[j] = 0;
            if (k < dim) {
                if (open != number)
                    delta_channel_open(p.d, q, r, first + k, &c[j]);
                y[j] = delta_next(&c[j], span_get(p.d.a.qkv, at, first + k));
            }
        }
        open = number;
        float factor = 1;
        if (unit) {
            UNROLL
            for (int j = 0; j < N / 32; j++)
                part[j] = warp_sum(delta_square(y[j]));
            factor = delta_unit(part, N / 32, query, dim);
        }
        float *to = p.row + (uint64_t)(row + i) * p.stride + to_column;
        const bool halves = unit && delta_goes_in_chunks(p, q);
        UNROLL
        for (int j = 0; j < N / 32; j++) {
            const float x = unit ? y[j] * factor : y[j];
            if (halves)
                ((__half *)to)[lane + 32 * (uint32_t)j] = to_half(x);
            else
                to[lane + 32 * (uint32_t)j] = x;
        }
    }
}

LANE void ready_gates(const prompt_args &p, uint32_t row)
{
    const delta_args &d = p.d;
    delta_seq q;
    uint32_t number;
    for (uint32_t i = 0; i < READY_ROWS && row + i < p.rows; i++) {
        const uint32_t at = p.row0 + row + i;
        if (!delta_prompt_row(d, at, &number, &q))
            continue;
        for (uint32_t h = threadIdx.x % 32; h < d.a.v_heads; h += 32) {
            float2 g = delta_gates(d, h, delta_raw_gates(d, q, (int32_t)at - q.row0, h));
            p.gate[(uint64_t)(row + i) * d.a.v_heads + h] = make_float4(expm1f(g.x), g.y, g.x, 0);
        }
    }
}

/* A warp a head and READY_ROWS rows: grid.x covers 2 k_heads + v_heads + 1 (gates) warps. */
template <int N, int TAPS>
__global__ void __launch_bounds__(READY_THREADS) ready_kernel(prompt_args p)
{
    const gpu_delta &a = p.d.a;
    const uint32_t unit = blockIdx.x * (READY_THREADS / 32) + threadIdx.x / 32;
    const uint32_t row = blockIdx.y * READY_ROWS, keys = 2 * a.k_heads;
    if (unit < keys)
        ready_head<N, TAPS>(p, unit * a.k_dim, a.k_dim, unit < a.k_heads, true, row, unit * N);
    else if (unit < keys + a.v_heads)
        ready_head<N, TAPS>(p, keys * a.k_dim + (unit - keys) * a.v_dim, a.v_dim, false, false,
                            row, unit * N);
    else if (unit == keys + a.v_heads)
        ready_gates(p, row);
}

/* ---------------------------------------------------------------------------------- recur */

template <int N>
struct stage_room {
    float q[STAGE][N], k[STAGE][N], v[STAGE][SLICE];
    float4 gate[STAGE];
};

/* Rows row .. row + STAGE - 1 of the segment into `room`, those from `to` on as zeros. */
template <int N>
LANE void fetch_stage(const prompt_args &p, stage_room<N> *room, uint32_t row, uint32_t to,
                      uint32_t head, uint32_t slice)
{
    constexpr uint32_t KEY = N / 4, VALUE = SLICE / 4, PIECES = 2 * KEY + VALUE + 1;
    const gpu_delta &a = p.d.a;
    const uint32_t k_head = head / (a.v_heads / a.k_heads);
    for (uint32_t i = threadIdx.x; i < STAGE * PIECES; i += THREADS) {
        const uint32_t j = i / PIECES, piece = i % PIECES, at = row + j;
        const bool valid = at < to;
        const float *from = p.row + (uint64_t)(valid ? at : row) * p.stride;
        if (row >= to)
            from = p.row;
        if (piece < KEY)
            copy_async(&room->q[j][piece * 4], from + k_head * N + piece * 4, valid);
        else if (piece < 2 * KEY)
            copy_async(&room->k[j][(piece - KEY) * 4],
                       from + (a.k_heads + k_head) * N + (piece - KEY) * 4, valid);
        else if (piece < 2 * KEY + VALUE)
            copy_async(&room->v[j][(piece - 2 * KEY) * 4],
                       from + (2 * a.k_heads + head) * N + slice * SLICE + (piece - 2 * KEY) * 4,
                       valid);
        else
            copy_async(&room->gate[j],
                       p.gate + (uint64_t)(valid ? at : 0) * a.v_heads + head, valid);
    }
    copy_commit();
}

/* grid (v_heads * slices, seqs), eight lanes a row of S. o takes the place of v in work: both
 * are the block's own. */
template <int N, bool EXACT>
__global__ void __launch_bounds__(THREADS) recur_kernel(prompt_args p)
{
    constexpr int PIECES = N / 32;
    __shared__ __align__(16) stage_room<N> room[STAGES];
    const gpu_delta &a = p.d.a;
    const uint32_t head = blockIdx.x / (N / SLICE), slice = blockIdx.x % (N / SLICE);
    const uint32_t t = threadIdx.x, j = t % DELTA_LANES, v0 = slice * SLICE + t / DELTA_LANES;
    const uint32_t k_dim = EXACT ? N : a.k_dim, v_dim = EXACT ? N : a.v_dim;
    delta_seq q;
    uint32_t from, to;
    if (!delta_open(p.d, blockIdx.y, &q) || !q.prompt || delta_goes_in_chunks(p, q) ||
        !delta_part(p, q, &from, &to))
        return;
    float4 s[1][PIECES];
    float *mine = q.out + (uint64_t)head * k_dim * v_dim;
    delta_load<PIECES, 1>(s, mine, v0, 0, k_dim, v_dim);
    float *o_to = p.row + (uint64_t)(2 * a.k_heads + head) * N + v0;
    fetch_stage<N>(p, &room[0], from, to, head, slice);
    fetch_stage<N>(p, &room[1], from + STAGE, to, head, slice);
    uint32_t turn = 0;
    for (uint32_t row = from; row < to; row += STAGE) {
        copy_wait<1>();
        __syncthreads();
        const stage_room<N> &now = room[turn];
        fetch_stage<N>(p, &room[(turn + 2) % STAGES], row + 2 * STAGE, to, head, slice);
        turn = (turn + 1) % STAGES;
        const uint32_t n = to - row < STAGE ? to - row : STAGE;
        float kept = 0;
        UNROLL
        for (uint32_t i = 0; i < STAGE; i++) {
            if (i >= n)
                break;
            const float4 gate = now.gate[i];
            float v[1] = {now.v[i][t / DELTA_LANES]}, o[1];
            delta_rule<PIECES, 1>(s, (const float4 *)&now.k[i][j * 4],
                                  (const float4 *)&now.q[i][j * 4], v, gate.x, gate.y, o);
            kept = j == i ? o[0] : kept;
        }
        if (j < n)
            o_to[(uint64_t)(row + j) * p.stride] = kept;
    }
    copy_wait<0>();
    delta_store<PIECES, 1>(s, mine, v0, 0, k_dim, v_dim);
}

/* --------------------------------------------------------------------------------- finish */

/* A warp a row and head. */
template <int N>
__global__ void __launch_bounds__(READY_THREADS) finish_kernel(prompt_args p)
{
    const gpu_delta &a = p.d.a;
    const uint32_t unit = blockIdx.x * (READY_THREADS / 32) + threadIdx.x / 32;
    const uint32_t row = unit / a.v_heads, head = unit % a.v_heads, lane = threadIdx.x % 32;
    const uint64_t at = p.row0 + row;
    delta_seq q;
    uint32_t number;
    if (row >= p.rows || !delta_prompt_row(p.d, (uint32_t)at, &number, &q))
        return;
    const float *o = p.row + (uint64_t)row * p.stride + (uint64_t)(2 * a.k_heads + head) * N;
    float factor = delta_norm_factor<N>(o, a.v_dim, a.eps);
    UNROLL
    for (int j = 0; j < N / 32; j++) {
        const uint32_t i = lane + 32 * (uint32_t)j, column = head * a.v_dim + i;
        if (i >= a.v_dim)
            continue;
        float x = o[i] * factor * a.w_norm[i];
        span_put(a.out, at, column, delta_gate(a.gate_act, span_get(a.z, at, column), x));
    }
}

/* ------------------------------------------------------------------------------ launchers */

template <int N, bool EXACT>
static cudaError_t segment_launch(const prompt_args &p, const gpu_shape *n, cudaStream_t stream)
{
    const gpu_delta &a = p.d.a;
    const uint32_t nwarp = READY_THREADS / 32;
    cudaError_t e = cudaSuccess;
    dim3 ready((2 * a.k_heads + a.v_heads + 1 + nwarp - 1) / nwarp,
               (p.rows + READY_ROWS - 1) / READY_ROWS);
    if (a.state.keep < 4)
        GPU_LAUNCH((ready_kernel<N, 4>), ready, READY_THREADS, 0, stream, p);
    else
        GPU_LAUNCH((ready_kernel<N, 8>), ready, READY_THREADS, 0, stream, p);
    dim3 recur(a.v_heads * (N / SLICE), n->seqs);
    GPU_LAUNCH((recur_kernel<N, EXACT>), recur, THREADS, 0, stream, p);
    if (p.chunks != 0)
        e = delta_chunk_launch(&p, n, stream);
    dim3 finish((p.rows * a.v_heads + nwarp - 1) / nwarp);
    GPU_LAUNCH((finish_kernel<N>), finish, READY_THREADS, 0, stream, p);
    return e;
}

cudaError_t delta_prompt_launch(const delta_args *d, const gpu_shape *n, cudaStream_t stream)
{
    const gpu_delta *a = &d->a;
    const uint32_t chunks = n->seq_rows >= DELTA_CHUNKED && delta_chunk_offered(a);
    const uint64_t most = n->rows < SEGMENT ? n->rows : SEGMENT;
    float *gate = a->work + most * row_floats(a), *mix = gate + most * 4 * a->v_heads;
    cudaError_t e = cudaSuccess;
    for (uint32_t row0 = 0; e == cudaSuccess && row0 < n->rows && n->seqs > 0; row0 += SEGMENT) {
        uint32_t rows = n->rows - row0 < SEGMENT ? n->rows - row0 : SEGMENT;
        prompt_args p = {*d, row0, rows, (uint32_t)row_floats(a), chunks, a->work,
                         (float4 *)(void *)gate, (__half *)(void *)mix};
        if (a->k_dim == 64 && a->v_dim == 64)
            e = segment_launch<64, true>(p, n, stream);
        else if (a->k_dim == 128 && a->v_dim == 128)
            e = segment_launch<128, true>(p, n, stream);
        else
            e = segment_launch<128, false>(p, n, stream);
    }
    return e;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* delta_chunk.cu - DELTA for long prompts: 64 rows at a time, on tensor cores.
 *
 * In a chunk let G_i be the sum of log decays up to row i, and
 *
 *     A_ij = beta_i (k_i . k_j) exp(G_i - G_j) below the diagonal,    T = (I + A)^-1 diag(beta)
 *     P_ij =        (q_i . k_j) exp(G_i - G_j) up to the diagonal
 *
 * Then the rule over the chunk's rows, S before them, is
 *
 *     V' = T (V - exp(G) K S)        O = exp(G) Q S + P V'
 *     S <- exp(G_last) S + (exp(G_last - G) K)' V'
 *
 * The mix kernel computes T and P of all chunks at once, the walk kernel the rest, chunk after
 * chunk. Operands are halves, sums fp32, S stays in fp32 registers. |K|, |T| and |P| are at most
 * 1 (T is a product of contractions); S, V - K S and V' have no bound, so they are brought below
 * 2^14 by a power of two, from their maximum in the block, and back in fp32. Rows behind the
 * last of a sequence are zeros with beta 0 and no decay: they change nothing. */
#include "delta.cuh"

#define C DELTA_CHUNK
#define THREADS 128
#define SLICE 32                  /* rows of S (values) that a block walks */
#define LOG_LEAST -100.0f         /* decays below are nothing; sums of logs stay finite */
#define PAD 8                     /* halves a row more: rows of an operand hit different banks */

/* ------------------------------------------------------------------------------- operands */

/* A 16 x 16 tile of rows [row][col] of halves as operand a, its rows being a's rows. */
LANE void tile_a(uint32_t a[4], const __half *x, uint32_t ld, uint32_t row, uint32_t col)
{
    const uint32_t l = threadIdx.x % 32, m = l / 8;
    load_matrices(a, x + (row + m % 2 * 8 + l % 8) * ld + col + m / 2 * 8);
}

/* The same with its columns being a's rows. */
LANE void tile_a_trans(uint32_t a[4], const __half *x, uint32_t ld, uint32_t row, uint32_t col)
{
    const uint32_t l = threadIdx.x % 32, m = l / 8;
    load_matrices_trans(a, x + (row + m / 2 * 8 + l % 8) * ld + col + m % 2 * 8);
}

/* Operands b of two products, b[0 .. 1] and b[2 .. 3]: rows row .. row + 15 are their columns,
 * columns col .. col + 15 what is summed over. */
LANE void tile_b(uint32_t b[4], const __half *x, uint32_t ld, uint32_t row, uint32_t col)
{
    const uint32_t l = threadIdx.x % 32, m = l / 8;
    load_matrices(b, x + (row + m / 2 * 8 + l % 8) * ld + col + m % 2 * 8);
}

/* The same, summed over the rows. */
LANE void tile_b_trans(uint32_t b[4], const __half *x, uint32_t ld, uint32_t row, uint32_t col)
{
    const uint32_t l = threadIdx.x % 32, m = l / 8;
    load_matrices_trans(b, x + (row + m % 2 * 8 + l % 8) * ld + col + m / 2 * 8);
}

/* Scaled numbers need no clamp, and NaN must stay. */
LANE void put_halves(__half *to, float x, float y)
{
    uint32_t u = bits_of(__floats2half2_rn(x, y));
    *(uint32_t *)to = u;
}

/* 2^n, so that numbers up to `most` times its inverse are below 2^14. */
LANE float scale_of(float most)
{
    int e = (int)(__float_as_uint(most) >> 23 & 255) - 127;
    if (!(most > 0) || e > 127)
        return 1;
    e = e < -100 ? -100 : e;
    return __uint_as_float((uint32_t)(127 + e - 13) << 23);
}

/* ------------------------------------------------------------------------------------ mix */

template <int N>
struct mix_room {
    __half q[C][N + PAD], k[C][N + PAD];
    float a[C][C + 4];
    float sum[C], beta[C];        /* sum: G */
};

/* q and k of rows [row, row + n) of a k-head to shared memory; zeros behind. */
template <int N>
LANE void fetch_keys(const prompt_args &p, __half (*q)[N + PAD], __half (*k)[N + PAD],
                     uint32_t row, uint32_t n, uint32_t k_head)
{
    constexpr uint32_t PIECES = N / 8;
    for (uint32_t i = threadIdx.x; i < C * PIECES; i += THREADS) {
        const uint32_t j = i / PIECES, at = i % PIECES * 8;
        const float *from = p.row + (uint64_t)(row + (j < n ? j : 0)) * p.stride;
        copy_async(&q[j][at], (const __half *)(from + k_head * N) + at, j < n);
        copy_async(&k[j][at], (const __half *)(from + (p.d.a.k_heads + k_head) * N) + at, j < n);
    }
}

/* The first warp: sums of log decays, lane l rows 2 l and 2 l + 1. They go to `gate` too. */
template <int N>
LANE void sum_gates(const prompt_args &p, mix_room<N> *room, uint32_t row, uint32_t n,
                    uint32_t head)
{
    const uint32_t lane = threadIdx.x;
    float4 gate[2];
    for (uint32_t j = 0; j < 2; j++) {
        gate[j] = make_float4(0, 0, 0, 0);
        if (2 * lane + j < n)
            gate[j] = p.gate[(uint64_t)(row + 2 * lane + j) * p.d.a.v_heads + head];
        if (gate[j].z < LOG_LEAST)
            gate[j].z = LOG_LEAST;
        room->beta[2 * lane + j] = gate[j].y;
    }
    float before = gate[0].z + gate[1].z;
    for (unsigned by = 1; by < 32; by *= 2) {
        float other = __shfl_up_sync(FULL_WARP, before, by);
        before += lane >= by ? other : 0.0f;
    }
    before = __shfl_up_sync(FULL_WARP, before, 1);
    before = lane == 0 ? 0.0f : before;
    for (uint32_t j = 0; j < 2; j++) {
        before += gate[j].z;
        room->sum[2 * lane + j] = before;
        if (2 * lane + j < n)
            p.gate[(uint64_t)(row + 2 * lane + j) * p.d.a.v_heads + head].w = before;
    }
}

/* A and P of a warp's 16 rows, from k . k and q . k in the layout of mma_f16. */
template <int N>
LANE void put_mix(mix_room<N> *room, const float kk[C / 8][4], const float qk[C / 8][4],
                  __half *p_row, uint64_t p_stride, uint32_t n)
{
    const uint32_t lane = threadIdx.x % 32, row0 = threadIdx.x / 32 * 16 + lane / 4;
    UNROLL
    for (int j = 0; j < C / 8; j++)
        UNROLL
        for (int h = 0; h < 2; h++) {
            const uint32_t row = row0 + 8 * (uint32_t)h, col = 8 * (uint32_t)j + lane % 4 * 2;
            float p[2];
            for (uint32_t e = 0; e < 2; e++) {
                bool below = col + e < row, upto = col + e <= row;
                /* the difference only where it is not positive: exp must not overflow */
                float d = upto ? expf(room->sum[row] - room->sum[col + e]) : 0.0f;
                room->a[row][col + e] = below ? room->beta[row] * kk[j][2 * h + (int)e] * d : 0.0f;
                p[e] = upto ? qk[j][2 * h + (int)e] * d : 0.0f;
            }
            if (row < n)
                put_halves(p_row + row * p_stride + col, p[0], p[1]);
        }
}

/* A thread a column of T, by substitution from the top; A is zero from the diagonal on. */
template <int N>
LANE void invert(const mix_room<N> *room, __half *t_row, uint64_t t_stride, uint32_t n)
{
    const uint32_t col = threadIdx.x;
    const float beta = room->beta[col];
    float x[C];
    UNROLL
    for (int i = 0; i < C; i++)
        x[i] = 0;
    UNROLL
    for (int i = 0; i < C; i++) {
        float sum = (uint32_t)i == col ? 1.0f : 0.0f, more = 0;
        UNROLL
        for (int j = 0; j < i; j += 4) {
            const float4 a = *(const float4 *)&room->a[i][j];
            sum = fmaf(-a.x, x[j], sum);
            more = fmaf(-a.y, x[j + 1], more);
            sum = fmaf(-a.z, x[j + 2], sum);
            more = fmaf(-a.w, x[j + 3], more);
        }
        x[i] = sum + more;
        if ((uint32_t)i < n)
            t_row[(uint64_t)i * t_stride + col] = to_half(x[i] * beta);
    }
}

/* T and P of the chunk that begins at `row` of the segment, for one head. */
template <int N>
LANE void mix_chunk(const prompt_args &p, mix_room<N> *room, uint32_t row, uint32_t n)
{
    const gpu_delta &a = p.d.a;
    const uint32_t head = blockIdx.x, warp = threadIdx.x / 32;
    fetch_keys<N>(p, room->q, room->k, row, n, head / (a.v_heads / a.k_heads));
    copy_commit();
    if (warp == 0)
        sum_gates<N>(p, room, row, n, head);
    copy_wait<0>();
    __syncthreads();
    float kk[C / 8][4], qk[C / 8][4];
    UNROLL
    for (int j = 0; j < C / 8; j++)
        UNROLL
        for (int e = 0; e < 4; e++)
            kk[j][e] = qk[j][e] = 0;
    UNROLL
    for (int s = 0; s < N / 16; s++) {
        uint32_t x[4], y[4];
        tile_a(x, room->k[0], N + PAD, warp * 16, 16 * (uint32_t)s);
        tile_a(y, room->q[0], N + PAD, warp * 16, 16 * (uint32_t)s);
        UNROLL
        for (int j = 0; j < C / 8; j += 2) {
            uint32_t b[4];
            tile_b(b, room->k[0], N + PAD, 8 * (uint32_t)j, 16 * (uint32_t)s);
            mma_f16(kk[j], x, b);
            mma_f16(kk[j + 1], x, b + 2);
            mma_f16(qk[j], y, b);
            mma_f16(qk[j + 1], y, b + 2);
        }
    }
    const uint64_t stride = (uint64_t)a.v_heads * 2 * C;
    __half *mix = p.mix + row * stride + head * 2 * C;
    put_mix<N>(room, kk, qk, mix + C, stride, n);
    __syncthreads();
    if (threadIdx.x < C)
        invert<N>(room, mix, stride, n);
    __syncthreads();
}

/* grid (v_heads, rows / C): a block takes the chunks that begin in its C rows; a sequence's
 * begin at its first row of the segment and every C rows from there. */
template <int N>
__global__ void __launch_bounds__(THREADS) mix_kernel(prompt_args p)
{
    GPU_DYNAMIC_SHARED(memory);
    mix_room<N> *room = (mix_room<N> *)(void *)memory;
    const uint32_t lane = threadIdx.x % 32;
    for (uint32_t half = 0; half < C; half += 32) {
        const uint32_t row = blockIdx.y * C + half + lane;
        delta_seq q;
        uint32_t number, from = 0, to = 0;
        bool begins = row < p.rows && delta_prompt_row(p.d, p.row0 + row, &number, &q) &&
                      delta_goes_in_chunks(p, q) && delta_part(p, q, &from, &to) &&
                      (row - from) % C == 0;
        unsigned all = __ballot_sync(FULL_WARP, begins);
        __syncwarp();
        for (; all != 0; all &= all - 1) {
            const int at = __ffs((int)all) - 1;
            const uint32_t first = blockIdx.y * C + half + (uint32_t)at;
            const uint32_t left = __shfl_sync(FULL_WARP, to, at) - first;
            mix_chunk<N>(p, room, first, left < C ? left : C);
        }
    }
}

/* ----------------------------------------------------------------------------------- walk */

template <int N>
struct walk_room {
    __half q[C][N + PAD], k[C][N + PAD];
    __half t[C][C + PAD], p[C][C + PAD];
    __half s[SLICE][N + PAD];
    __half x[C][SLICE + PAD], y[C][SLICE + PAD]; /* V - K S and then V'; V' decayed to the end */
    float v[C][SLICE + PAD];
    float sum[C];                 /* G */
    float most[4];                /* a warp's each */
};

/* The greatest |x| of the block; ends behind a barrier. */
LANE float block_most(float x, float *room)
{
    x = warp_max(x);
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = x;
    __syncthreads();
    return fmaxf(fmaxf(room[0], room[1]), fmaxf(room[2], room[3]));
}

template <int N>
LANE void fetch_chunk(const prompt_args &p, walk_room<N> *room, uint32_t row, uint32_t n,
                      uint32_t head, uint32_t slice)
{
    const gpu_delta &a = p.d.a;
    fetch_keys<N>(p, room->q, room->k, row, n, head / (a.v_heads / a.k_heads));
    for (uint32_t i = threadIdx.x; i < C * (C / 8); i += THREADS) {
        const uint32_t j = i / (C / 8), at = i % (C / 8) * 8;
        const __half *from = p.mix + ((uint64_t)(row + (j < n ? j : 0)) * a.v_heads + head) * 2 * C;
        copy_async(&room->t[j][at], from + at, j < n);
        copy_async(&room->p[j][at], from + C + at, j < n);
    }
    for (uint32_t i = threadIdx.x; i < C * (SLICE / 4); i += THREADS) {
        const uint32_t j = i / (SLICE / 4), at = i % (SLICE / 4) * 4;
        copy_async(&room->v[j][at], p.row + (uint64_t)(row + (j < n ? j : 0)) * p.stride +
                   (2 * a.k_heads + head) * N + slice * SLICE + at, j < n);
    }
    copy_commit();
    if (threadIdx.x < C) {        /* behind the last row: as in it, no decay */
        const uint32_t j = threadIdx.x < n ? threadIdx.x : n - 1;
        room->sum[threadIdx.x] = p.gate[(uint64_t)(row + j) * a.v_heads + head].w;
    }
}

/* Four tiles of 8 columns: out = x b for the warp's 16 rows, summed over `steps` times 16 rows
 * of b [..][SLICE]. */
LANE void times_slice(float out[4][4], const __half *x, uint32_t ldx, const __half *b,
                      uint32_t steps)
{
    const uint32_t warp = threadIdx.x / 32;
    UNROLL
    for (int j = 0; j < 4; j++)
        UNROLL
        for (int e = 0; e < 4; e++)
            out[j][e] = 0;
    for (uint32_t s = 0; s < steps; s++) {
        uint32_t a[4], y[4];
        tile_a(a, x, ldx, warp * 16, 16 * s);
        UNROLL
        for (int j = 0; j < 4; j += 2) {
            tile_b_trans(y, b, SLICE + PAD, 16 * s, 8 * (uint32_t)j);
            mma_f16(out[j], a, y);
            mma_f16(out[j + 1], a, y + 2);
        }
    }
}

/* K S and Q S of the warp's 16 rows. */
template <int N>
LANE void times_state(float ks[4][4], float qs[4][4], const walk_room<N> *room)
{
    const uint32_t warp = threadIdx.x / 32;
    UNROLL
    for (int j = 0; j < 4; j++)
        UNROLL
        for (int e = 0; e < 4; e++)
            ks[j][e] = qs[j][e] = 0;
    UNROLL
    for (int s = 0; s < N / 16; s++) {
        uint32_t k[4], q[4], b[4];
        tile_a(k, room->k[0], N + PAD, warp * 16, 16 * (uint32_t)s);
        tile_a(q, room->q[0], N + PAD, warp * 16, 16 * (uint32_t)s);
        UNROLL
        for (int j = 0; j < 4; j += 2) {
            tile_b(b, room->s[0], N + PAD, 8 * (uint32_t)j, 16 * (uint32_t)s);
            mma_f16(ks[j], k, b);
            mma_f16(ks[j + 1], k, b + 2);
            mma_f16(qs[j], q, b);
            mma_f16(qs[j + 1], q, b + 2);
        }
    }
}

/* S [SLICE][N] over a block: warp w has columns w N / 4 .. of all rows, tile (m, j) of 16 x 8. */
template <int N>
LANE void add_to_state(float s[2][N / 32][4], const walk_room<N> *room, float decay, float scale)
{
    const uint32_t first = threadIdx.x / 32 * (N / 4);
    UNROLL
    for (int m = 0; m < 2; m++)
        UNROLL
        for (int j = 0; j < N / 32; j += 2) {
            float d[2][4] = {{0, 0, 0, 0}, {0, 0, 0, 0}};
            UNROLL
            for (int i = 0; i < C; i += 16) {
                uint32_t a[4], b[4];
                tile_a_trans(a, room->y[0], SLICE + PAD, (uint32_t)i, 16 * (uint32_t)m);
                tile_b_trans(b, room->k[0], N + PAD, (uint32_t)i, first + 8 * (uint32_t)j);
                mma_f16(d[0], a, b);
                mma_f16(d[1], a, b + 2);
            }
            UNROLL
            for (int e = 0; e < 8; e++) {
                float *x = &s[m][j + e / 4][e % 4];
                *x = fmaf(scale, d[e / 4][e % 4], decay * *x);
            }
        }
}

/* Moves S between registers and memory `at` [..][N]. */
template <int N, bool STORE>
LANE void move_state(float s[2][N / 32][4], float *at)
{
    const uint32_t lane = threadIdx.x % 32, first = threadIdx.x / 32 * (N / 4);
    UNROLL
    for (int m = 0; m < 2; m++)
        UNROLL
        for (int j = 0; j < N / 32; j++)
            UNROLL
            for (int h = 0; h < 2; h++) {
                float2 *x = (float2 *)(at + (16 * m + 8 * h + (int)lane / 4) * N + first + 8 * j +
                                       lane % 4 * 2);
                if (STORE)
                    *x = make_float2(s[m][j][2 * h], s[m][j][2 * h + 1]);
                else
                    s[m][j][2 * h] = x->x, s[m][j][2 * h + 1] = x->y;
            }
}

/* S as halves to shared memory; gives the scale. */
template <int N>
LANE float show_state(const float s[2][N / 32][4], walk_room<N> *room)
{
    const uint32_t lane = threadIdx.x % 32, first = threadIdx.x / 32 * (N / 4);
    float most = 0;
    UNROLL
    for (int m = 0; m < 2; m++)
        UNROLL
        for (int j = 0; j < N / 32; j++)
            UNROLL
            for (int e = 0; e < 4; e++)
                most = fmaxf(most, fabsf(s[m][j][e]));
    const float scale = scale_of(block_most(most, room->most)), inverse = 1.0f / scale;
    UNROLL
    for (int m = 0; m < 2; m++)
        UNROLL
        for (int j = 0; j < N / 32; j++)
            UNROLL
            for (int h = 0; h < 2; h++)
                put_halves(&room->s[16 * m + 8 * h + (int)lane / 4][first + 8 * j + lane % 4 * 2],
                           s[m][j][2 * h] * inverse, s[m][j][2 * h + 1] * inverse);
    return scale;
}

/* A warp's 16 rows of x [C][SLICE] as halves; `late`: also decayed to the chunk's end, to y. */
template <int N>
LANE float show_slice(const float x[4][4], walk_room<N> *room, bool late)
{
    const uint32_t lane = threadIdx.x % 32, row0 = threadIdx.x / 32 * 16 + lane / 4;
    float most = 0;
    UNROLL
    for (int j = 0; j < 4; j++)
        UNROLL
        for (int e = 0; e < 4; e++)
            most = fmaxf(most, fabsf(x[j][e]));
    const float scale = scale_of(block_most(most, room->most)), inverse = 1.0f / scale;
    UNROLL
    for (int h = 0; h < 2; h++) {
        const uint32_t row = row0 + 8 * (uint32_t)h;
        const float decay = late ? expf(room->sum[C - 1] - room->sum[row]) * inverse : 0.0f;
        UNROLL
        for (int j = 0; j < 4; j++) {
            const uint32_t col = 8 * (uint32_t)j + lane % 4 * 2;
            put_halves(&room->x[row][col], x[j][2 * h] * inverse, x[j][2 * h + 1] * inverse);
            if (late)
                put_halves(&room->y[row][col], x[j][2 * h] * decay, x[j][2 * h + 1] * decay);
        }
    }
    __syncthreads();
    return scale;
}

/* A chunk of n rows that lies in `room`: o of the block's slice to `out`, and S after it. */
template <int N>
LANE void walk_chunk(float s[2][N / 32][4], walk_room<N> *room, float *out, uint32_t stride,
                     uint32_t n)
{
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, row0 = warp * 16 + lane / 4;
    const float s_scale = show_state<N>(s, room);
    __syncthreads();
    float x[4][4], o[4][4], more[4][4];
    times_state<N>(x, o, room);
    UNROLL
    for (int j = 0; j < 4; j++)
        UNROLL
        for (int e = 0; e < 4; e++) {
            const uint32_t row = row0 + (e >= 2 ? 8 : 0);
            const float decay = expf(room->sum[row]) * s_scale;
            x[j][e] = room->v[row][8 * j + (int)lane % 4 * 2 + e % 2] - decay * x[j][e];
            o[j][e] *= decay;
        }
    float scale = show_slice<N>(x, room, false);
    times_slice(x, room->t[0], C + PAD, room->x[0], warp + 1);
    UNROLL
    for (int j = 0; j < 4; j++)
        UNROLL
        for (int e = 0; e < 4; e++)
            x[j][e] *= scale;
    scale = show_slice<N>(x, room, true);
    times_slice(more, room->p[0], C + PAD, room->x[0], warp + 1);
    UNROLL
    for (int j = 0; j < 4; j++)
        UNROLL
        for (int h = 0; h < 2; h++) {
            const uint32_t row = row0 + 8 * (uint32_t)h, col = 8 * (uint32_t)j + lane % 4 * 2;
            if (row < n)
                *(float2 *)(out + (uint64_t)row * stride + col) =
                    make_float2(fmaf(scale, more[j][2 * h], o[j][2 * h]),
                                fmaf(scale, more[j][2 * h + 1], o[j][2 * h + 1]));
        }
    add_to_state<N>(s, room, expf(room->sum[C - 1]), scale);
}

/* grid (v_heads * slices, seqs); o takes the place of v in work, as in delta_prompt.cu. */
template <int N>
__global__ void __launch_bounds__(THREADS) walk_kernel(prompt_args p)
{
    GPU_DYNAMIC_SHARED(memory);
    walk_room<N> *room = (walk_room<N> *)(void *)memory;
    const gpu_delta &a = p.d.a;
    const uint32_t head = blockIdx.x / (N / SLICE), slice = blockIdx.x % (N / SLICE);
    delta_seq q;
    uint32_t from, to;
    if (!delta_open(p.d, blockIdx.y, &q) || !q.prompt || !delta_goes_in_chunks(p, q) ||
        !delta_part(p, q, &from, &to))
        return;
    float s[2][N / 32][4];
    float *mine = q.out + ((uint64_t)head * N + slice * SLICE) * N;
    move_state<N, false>(s, mine);
    for (uint32_t row = from; row < to; row += C) {
        const uint32_t n = to - row < C ? to - row : C;
        __syncthreads();
        fetch_chunk<N>(p, room, row, n, head, slice);
        copy_wait<0>();
        walk_chunk<N>(s, room, p.row + (uint64_t)row * p.stride + (2 * a.k_heads + head) * N +
                      slice * SLICE, p.stride, n);
    }
    move_state<N, true>(s, mine);
}

/* ------------------------------------------------------------------------------ launchers */

/* Memory of a block; more than 48 KiB must be asked for. */
template <int N>
static cudaError_t launch(const prompt_args &p, const gpu_shape *n, cudaStream_t stream)
{
    const size_t mix_size = sizeof(mix_room<N>), walk_size = sizeof(walk_room<N>);
    cudaError_t e = cudaFuncSetAttribute(mix_kernel<N>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         (int)mix_size);
    if (e == cudaSuccess)
        e = cudaFuncSetAttribute(walk_kernel<N>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 (int)walk_size);
    if (e != cudaSuccess)
        return e;
    dim3 mix(p.d.a.v_heads, (p.rows + C - 1) / C);
    GPU_LAUNCH((mix_kernel<N>), mix, THREADS, mix_size, stream, p);
    dim3 walk(p.d.a.v_heads * (N / SLICE), n->seqs);
    GPU_LAUNCH((walk_kernel<N>), walk, THREADS, walk_size, stream, p);
    return cudaGetLastError();
}

/* Cards of 64 KiB a block keep to the rows' own kernel for heads of 128. */
bool delta_chunk_offered(const gpu_delta *a)
{
    const size_t need = a->k_dim == 128 ? sizeof(walk_room<128>) : sizeof(walk_room<64>);
    int device = 0, most = 0;
    if (a->k_dim != a->v_dim || (a->k_dim != 64 && a->k_dim != 128))
        return false;
#ifndef TN_CUDASIM
    if (cudaGetDevice(&device) != cudaSuccess)
        return false;
#endif
    return cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) ==
           cudaSuccess && (size_t)most >= need;
}

cudaError_t delta_chunk_launch(const prompt_args *p, const gpu_shape *n, cudaStream_t stream)
{
    return p->d.a.k_dim == 128 ? launch<128>(*p, n, stream) : launch<64>(*p, n, stream);
}

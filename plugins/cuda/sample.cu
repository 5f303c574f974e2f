/* SPDX-License-Identifier: Apache-2.0 */
/* sample.cu - LOGITS and SAMPLE: from rows of logits to tokens and what is reported of them.
 *
 * Two kernels, ROWS_AT_ONCE rows at a time:
 *
 *     measure   a warp per 512 columns   soft cap, padding; maximum and sum of exp. Of rows
 *                                        that are not simply greedy: mask, bias, penalties
 *                                        into a copy, and measured again. Where temperature
 *                                        is all that is asked, the race of the group
 *     draw      a block per row          joins the groups; greedy, scored and plainly drawn
 *                                        rows end there. Others: where top_k and top_p cut
 *                                        (pick.cuh), the race of what is left (chance.cuh).
 *                                        Then rank and the best, where they are wanted
 *
 * The block that ends last judges the drafts of all rows. What is summed is summed in one
 * order, so the outcome is the same bits in every run.
 *
 * Workspace: GPU_WORK_HEAD bytes, the count of finished rows first, then for each of the rows
 * at once
 *
 *     records of the logits as they came   group_record [ngroup]
 *     records of the changed logits        group_record [ngroup]
 *     the changed logits                   f32 [ngroup * 512] */
#include "gpu.h"
#include "pick.cuh"

#define ROWS_AT_ONCE 64u
#define GPU_WORK_HEAD 256u
#define MEASURE_THREADS 256u
#define SEGMENT (MEASURE_THREADS / 32 * GROUP) /* columns of a block */
#define COLUMNS 16u               /* of a lane */
#define DEPTH 40.0f               /* nats below the best from where nothing is ever drawn */
#define SEEN 0x80000000u          /* in prompt or reply; the rest of the word counts replies */

/* ------------------------------------------------------------------------------ workspace */

LANE uint32_t groups_of(uint32_t vocab)
{
    return (vocab + GROUP - 1) / GROUP;
}

/* One row's place in the workspace. */
typedef struct workplace {
    group_record *raw, *changed;
    float *z;
} workplace;

LANE workplace workplace_of(const gpu_sample &a, uint32_t row)
{
    const uint64_t ngroup = groups_of(a.vocab);
    const uint64_t size = ngroup * (2 * sizeof(group_record) + GROUP * sizeof(float));
    uint8_t *at = (uint8_t *)a.work + GPU_WORK_HEAD + row * size;
    workplace w;
    w.raw = (group_record *)at;
    w.changed = w.raw + ngroup;
    w.z = (float *)(w.changed + ngroup);
    return w;
}

LANE uint32_t columns_of(const gpu_sample &a)
{
    return a.valid < a.vocab ? a.valid : a.vocab;
}

/* ------------------------------------------------------------------------- what rows want */

LANE bool is_greedy(const gpu_out &w)
{
    return (w.flags & TN_SAMPLE_GREEDY) != 0 || !(w.temperature > 0);
}

LANE bool is_scored(const gpu_out &w)
{
    return (w.flags & TN_SAMPLE_SCORE) != 0;
}

LANE bool has_bias(const gpu_out &w)
{
    return w.nbias > 0 && w.bias != TN_NONE;
}

LANE bool has_penalty(const gpu_out &w)
{
    return w.history != TN_NONE && w.nhistory > 0 &&
           (w.repetition != 1 || w.frequency != 0 || w.presence != 0);
}

LANE bool is_changed(const gpu_out &w)
{
    return w.mask != TN_NONE || has_bias(w) || has_penalty(w);
}

LANE bool has_top_k(const gpu_out &w, uint32_t vocab)
{
    return w.top_k > 0 && (uint32_t)w.top_k < vocab;
}

/* Of all that may be drawn, temperature says how likely: the race needs no cut. */
LANE bool is_plain(const gpu_out &w, uint32_t vocab)
{
    return !has_top_k(w, vocab) && !(w.top_p < 1) && !(w.min_p > 0);
}

/* top_p of the whole row. */
LANE bool is_nucleus(const gpu_out &w, uint32_t vocab)
{
    return w.top_p < 1 && !has_top_k(w, vocab) && !(w.min_p > 0);
}

/* -------------------------------------------------------------------------- the groups */

LANE float product(float a, float b)
{
#ifdef TN_CUDASIM
    return a * b;
#else
    return __fmul_rn(a, b);       /* no fused multiply-add: ties must fall as on the cpu */
#endif
}

LANE uint32_t column_of(uint32_t from, uint32_t i)
{
    return from + i / 4 * 128 + threadIdx.x % 32 * 4 + i % 4;
}

LANE void load_columns(const float *row, uint32_t from, uint32_t valid, float x[COLUMNS])
{
    UNROLL
    for (uint32_t i = 0; i < COLUMNS; i += 4) {
        float4 v = load_four(row, column_of(from, i), valid);
        x[i] = v.x;
        x[i + 1] = v.y;
        x[i + 2] = v.z;
        x[i + 3] = v.w;
    }
}

/* Maximum and finiteness of a warp's columns, in all lanes; sum 0, or NaN if not finite. */
LANE group_record measure_group(uint32_t from, const float x[COLUMNS])
{
    uint64_t best = 0;
    bool finite = true;
    UNROLL
    for (uint32_t i = 0; i < COLUMNS; i++) {
        uint64_t e = list_entry(ordered(x[i]), column_of(from, i));
        best = e > best ? e : best;
        finite = finite && x[i] < INFINITY;
    }
    best = warp_greatest(best);
    group_record r;
    r.max = ordered_back((uint32_t)(best >> 32));
    r.at = list_column(best);
    r.sum = __all_sync(FULL_WARP, finite) ? 0.0f : NAN;
    r.racer = NOBODY;
    return r;
}

LANE float sum_group(const float x[COLUMNS], float max, float inverse)
{
    float sum = 0;
    if (!(max > -INFINITY))
        return 0;
    UNROLL
    for (uint32_t i = 0; i < COLUMNS; i++)
        sum += expf(value_of(x[i], max, inverse));
    return warp_sum(sum);
}

/* The race of a group, values taken below its own best. */
LANE int32_t race_group(const gpu_out &w, uint32_t from, const float z[COLUMNS],
                        const group_record &r)
{
    const float inverse = 1.0f / w.temperature;
    chance c = chance_open(w.seed, w.draw);
    float lead = score_guess(0.0f, chance_bits(c, (uint32_t)r.at));
    racer best = race_open();
    UNROLL
    for (uint32_t i = 0; i < COLUMNS; i++) {
        float v = value_of(z[i], r.max, inverse);
        if (v >= -DEPTH)
            race_join(c, lead, v, column_of(from, i), &best);
    }
    return race_warp(c, best).token;
}

/* Caps and pads what lies in the logits, for all who read them later. */
LANE void finish_logits(const gpu_sample &a, float *row, uint32_t from, float x[COLUMNS])
{
    const uint32_t valid = columns_of(a);
    UNROLL
    for (uint32_t i = 0; i < COLUMNS; i++) {
        uint32_t col = column_of(from, i);
        if (a.softcap > 0 && col < valid) {
            x[i] = a.softcap * tanhf(x[i] / a.softcap);
            row[col] = x[i];
        }
        if (col >= valid && col < a.vocab)
            row[col] = -INFINITY;
    }
}

/* ------------------------------------------------------------- masks, bias and penalties */

LANE void forbid(const uint32_t *mask, uint32_t vocab, uint32_t from, float z[COLUMNS])
{
    UNROLL
    for (uint32_t i = 0; i < COLUMNS; i += 4) {
        uint32_t col = column_of(from, i);
        uint32_t allowed = col < vocab ? mask[col / 32] >> col % 32 : 0;
        for (uint32_t j = 0; j < 4; j++)
            z[i + j] = (allowed >> j & 1) != 0 ? z[i + j] : -INFINITY;
    }
}

/* `room` gets what the list says of the block's columns; then every thread takes its own. */
LANE void clear_room(uint32_t *room)
{
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < SEGMENT; i += MEASURE_THREADS)
        room[i] = 0;
    __syncthreads();
}

LANE void add_bias(const uint32_t *bias, uint32_t nbias, uint32_t vocab, uint32_t segment,
                   uint32_t from, float z[COLUMNS], uint32_t *room)
{
    clear_room(room);
    for (uint32_t i = threadIdx.x; i < nbias; i += MEASURE_THREADS) {
        uint32_t token = bias[2 * i]; /* a negative one is beyond any vocabulary */
        if (token < vocab && token - segment < SEGMENT)
            room[token - segment] = bias[2 * i + 1];
    }
    __syncthreads();
    UNROLL
    for (uint32_t i = 0; i < COLUMNS; i++)
        z[i] += __uint_as_float(room[column_of(from, i) - segment]);
}

LANE float penalize(const gpu_out &w, uint32_t mark, float z)
{
    const uint32_t count = mark & ~SEEN;
    if (mark == 0)
        return z;
    if (w.repetition != 1)
        z = z > 0 ? z / w.repetition : z * w.repetition;
    if (count > 0)
        z -= product(w.frequency, (float)count) + w.presence;
    return z;
}

LANE void add_penalties(const gpu_out &w, const uint32_t *history, uint32_t vocab,
                        uint32_t segment, uint32_t from, float z[COLUMNS], uint32_t *room)
{
    clear_room(room);
    UNROLL
    for (uint32_t i = threadIdx.x; i < w.nhistory; i += MEASURE_THREADS) {
        uint32_t token = history[i], at = token - segment;
        if (token >= vocab || at >= SEGMENT)
            continue;
        if (i < w.nprompt)
            atomicOr(&room[at], SEEN);
        else
            atomicAdd(&room[at], 1u);
    }
    __syncthreads();
    UNROLL
    for (uint32_t i = 0; i < COLUMNS; i++)
        z[i] = penalize(w, room[column_of(from, i) - segment], z[i]);
}

LANE void change(const gpu_sample &a, const gpu_out &w, const uint32_t *extra,
                 uint32_t segment, uint32_t from, float z[COLUMNS], uint32_t *room)
{
    if (w.mask != TN_NONE)
        forbid(extra + w.mask, a.vocab, from, z);
    if (has_bias(w))
        add_bias(extra + w.bias, w.nbias, a.vocab, segment, from, z, room);
    if (has_penalty(w))
        add_penalties(w, extra + w.history, a.vocab, segment, from, z, room);
}

LANE void store_columns(float *row, uint32_t from, const float x[COLUMNS])
{
    UNROLL
    for (uint32_t i = 0; i < COLUMNS; i += 4)
        *(float4 *)(row + column_of(from, i)) =
            make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
}

/* -------------------------------------------------------------------------------- measure */

/* Block (i, j): columns [i * SEGMENT, ..) of output out0 + j; a warp has a group, a lane
 * COLUMNS of it in registers. */
__global__ void __launch_bounds__(MEASURE_THREADS)
measure_columns(gpu_sample a, gpu_step s, uint32_t out0)
{
    wait_for_earlier();
    start_next();
    __shared__ uint32_t room[SEGMENT];
    const uint32_t o = out0 + blockIdx.y, segment = blockIdx.x * SEGMENT;
    const uint32_t g = segment / GROUP + threadIdx.x / 32, from = g * GROUP;
    if (o == 0 && segment == 0 && threadIdx.x == 0)
        *(uint32_t *)a.work = 0;
    float x[COLUMNS], *row = a.logits + (uint64_t)o * a.stride;
    load_columns(row, from, columns_of(a), x); /* on its way while the count is */
    if (o >= s.count[GPU_OUTS])
        return;
    const gpu_out &w = s.out[o];
    const bool ends = is_scored(w) || (is_greedy(w) && !is_changed(w));
    if (a.softcap > 0 || a.valid < a.vocab)
        finish_logits(a, row, from, x);
    const workplace work = workplace_of(a, blockIdx.y);
    const bool mine = g < groups_of(a.vocab), writes = mine && threadIdx.x % 32 == 0;
    group_record r = measure_group(from, x);
    float sum = sum_group(x, r.max, 1);
    if (writes) {
        group_record out = r;
        out.sum += sum;
        work.raw[g] = out;
    }
    if (ends)
        return;
    if (is_changed(w)) {
        change(a, w, s.extra, segment, from, x, room);
        if (mine)
            store_columns(work.z, from, x);
        r = measure_group(from, x);
    }
    if (!is_greedy(w) && is_nucleus(w, a.vocab))
        r.sum += sum_group(x, r.max, 1.0f / w.temperature);
    if (!is_greedy(w) && is_plain(w, a.vocab) && r.max > -INFINITY)
        r.racer = race_group(w, from, x, r);
    if (writes)
        work.changed[g] = r;
}

/* ------------------------------------------------------------------------------- one row */

/* What the groups say of a row. */
typedef struct whole {
    float max, sum;               /* of exp((x - max) * inverse) */
    int32_t at;                   /* -1: something is not finite, or nothing above -inf */
} whole;

LANE whole join_groups(const group_record *group, uint32_t ngroup, float inverse, pick_room &r)
{
    uint64_t best = 0;
    whole w;
    for (uint32_t g = threadIdx.x; g < ngroup; g += PICK_THREADS) {
        group_record x = group[g];
        uint64_t e = list_entry(ordered(x.max), (uint32_t)x.at);
        best = e > best ? e : best;
    }
    best = block_greatest(best, r);
    w.max = ordered_back((uint32_t)(best >> 32));
    w.sum = 0;
    for (uint32_t g = threadIdx.x; g < ngroup; g += PICK_THREADS) {
        group_record x = group[g];
        float scale = x.max > -INFINITY ? expf(value_of(x.max, w.max, inverse)) : 1.0f;
        w.sum += x.sum * scale;
    }
    w.sum = block_sum(w.sum, r.narrow);
    w.at = w.sum == w.sum && w.max > -INFINITY ? list_column(best) : -1;
    return w;
}

/* The race of the groups' winners. */
LANE int32_t race_groups(const row_view &row, const whole &all, float inverse, const chance &c,
                         pick_room &r)
{
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    racer best = race_open();
    for (uint32_t g = threadIdx.x; g < row.ngroup; g += PICK_THREADS) {
        int32_t token = row.group[g].racer;
        if (token == NOBODY || (uint32_t)token >= row.valid)
            continue;
        float v = value_of(row.x[token], all.max, inverse);
        if (v >= -DEPTH)
            race_join(c, -INFINITY, v, (uint32_t)token, &best);
    }
    best = race_warp(c, best);
    if (lane == 0)
        r.race[warp] = best;
    __syncthreads();
    best = race_warp(c, lane < PICK_WARPS ? r.race[lane] : race_open());
    __syncthreads();
    return best.token;
}

/* The sum of weights of all that take part. */
LANE double mass_of(const order &o, pick_room &r)
{
    float sum = 0;
    visit(o.row, o.floor, [&](float x, uint32_t col) {
        float value;
        (void)col;
        if (takes_part(o, x, &value))
            sum += expf(value);
    });
    double all;
    block_before((double)sum, &all, r);
    return all;
}

/* min_p, top_k, top_p, and the race of what they leave. */
__device__ static int32_t draw_cut(const gpu_sample &a, const gpu_out &w, const row_view &row,
                                   const whole &all, const chance &c, pick_room &r)
{
    order o;
    int32_t last = INT32_MAX;
    o.row = row;
    o.top = all.max;
    o.inverse = 1.0f / w.temperature;
    o.floor = LOWEST;
    o.least = w.min_p > 0 ? fmaxf(logf(w.min_p), -DEPTH) : -DEPTH;
    o.by_mass = true;
    if (has_top_k(w, a.vocab)) {
        place p = pick_count(row, all.max, (uint32_t)w.top_k, r);
        o.floor = p.cut ? p.worth : LOWEST;
    }
    if (w.top_p < 1) {
        double mass = is_nucleus(w, a.vocab) ? (double)all.sum : mass_of(o, r);
        place p = pick(o, mass * (double)w.top_p, r);
        o.least = p.cut ? p.worth : o.least;
        last = p.cut ? p.last : INT32_MAX;
    }
    bool leads = 0 > o.least || all.at <= last;
    float lead = leads ? score_guess(0.0f, chance_bits(c, (uint32_t)all.at)) : -INFINITY;
    return race_row(o, last, lead, c, r);
}

/* Token of a row that is not scored, NOBODY: nothing to draw from. */
LANE int32_t draw_token(const gpu_sample &a, const gpu_out &w, const float *logits,
                        const workplace &work, const whole &raw, pick_room &r)
{
    if (is_greedy(w) && !is_changed(w))
        return raw.at;
    const float inverse = is_greedy(w) ? 1.0f : 1.0f / w.temperature;
    row_view row;
    row.x = is_changed(w) ? work.z : logits;
    row.group = work.changed;
    row.ngroup = groups_of(a.vocab);
    row.valid = columns_of(a);
    whole all = join_groups(row.group, row.ngroup, inverse, r);
    if (all.at < 0 || is_greedy(w))
        return all.at;
    chance c = chance_open(w.seed, w.draw);
    return is_plain(w, a.vocab) ? race_groups(row, all, inverse, c, r)
                                : draw_cut(a, w, row, all, c, r);
}

/* ------------------------------------------------------------------------------- reports */

/* 1 + how many are greater. */
LANE int32_t rank_of(const row_view &row, float x, pick_room &r)
{
    uint32_t greater = 0;
    visit(row, x > LOWEST ? x : LOWEST, [&](float y, uint32_t col) {
        (void)col;
        greater += y > x;
    });
    double all;
    block_before((double)greater, &all, r);
    return 1 + (int32_t)all;
}

/* The `want` best, best first; how many there are. */
__device__ static uint32_t report_top(const row_view &row, const whole &raw, uint32_t want,
                                      int32_t *token, float *logprob, pick_room &r)
{
    place p = pick_count(row, raw.max, want, r);
    if (threadIdx.x == 0)
        r.n = 0;
    __syncthreads();
    visit(row, p.worth, [&](float x, uint32_t col) {
        if (x > p.worth || (int32_t)col <= p.last)
            list_add(r, list_entry(ordered(x), col));
    });
    __syncthreads();
    const uint32_t n = r.n < want ? r.n : want;
    sort_list(r.list, n);
    for (uint32_t i = threadIdx.x; i < n; i += PICK_THREADS) {
        token[i] = list_column(r.list[i]);
        logprob[i] = ordered_back((uint32_t)(r.list[i] >> 32)) - raw.max - logf(raw.sum);
    }
    __syncthreads();
    return n;
}

LANE void draw_row(const gpu_sample &a, const gpu_step &s, uint32_t o, uint32_t place_of_row,
                   pick_room &r)
{
    const gpu_out &w = s.out[o];
    const workplace work = workplace_of(a, place_of_row);
    row_view row;
    row.x = a.logits + (uint64_t)o * a.stride;
    row.group = work.raw;
    row.ngroup = groups_of(a.vocab);
    row.valid = columns_of(a);
    whole raw = join_groups(row.group, row.ngroup, 1, r);
    int32_t token = NOBODY;
    if (raw.at >= 0)
        token = is_scored(w) ? w.target : draw_token(a, w, row.x, work, raw, r);
    tn_result out;
    out.token = token >= 0 && (uint32_t)token < a.vocab ? token : -1;
    out.flags = out.token < 0 ? TN_RESULT_NONFINITE : 0;
    out.logprob = NAN;
    out.rank = 0;
    out.ntop = out.reserved = 0;
    if (out.token >= 0) {
        float x = (uint32_t)token < row.valid ? row.x[token] : -INFINITY;
        uint32_t want = w.ntop < a.top_max ? w.ntop : a.top_max;
        want = want < LIST ? want : LIST;
        out.logprob = x - raw.max - logf(raw.sum);
        if (w.ntop > 0 || is_scored(w))
            out.rank = rank_of(row, x, r);
        if (want > 0)
            out.ntop = report_top(row, raw, want, s.top_token + (uint64_t)o * a.top_max,
                                  s.top_logprob + (uint64_t)o * a.top_max, r);
    }
    if (threadIdx.x == 0) {
        s.result[o] = out;
        s.drawn[o] = out.token;
    }
}

/* -------------------------------------------------------------------------------- drafts */

/* Sequence of an output's row, -1: none. */
LANE int32_t seq_of(const gpu_step &s, uint32_t o)
{
    int32_t row = s.out[o].row;
    int32_t q = row >= 0 && (uint32_t)row < s.count[GPU_TOKENS] ? s.row_seq[row] : -1;
    return q >= 0 && (uint32_t)q < s.count[GPU_SEQS] ? q : -1;
}

/* Results come from other blocks: read past the first-level cache. */
LANE bool hits_draft(const gpu_step &s, uint32_t o)
{
    const gpu_out &w = s.out[o];
    return w.draft >= 0 && !is_scored(w) && __ldcg(&s.drawn[o]) == w.draft;
}

LANE bool follows_draft(const gpu_step &s, uint32_t o)
{
    return o > 0 && s.out[o - 1].row + 1 == s.out[o].row && s.out[o - 1].draft >= 0 &&
           seq_of(s, o) >= 0 && seq_of(s, o - 1) == seq_of(s, o);
}

/* A draft stands when it is what was drawn and all drafts before it in its sequence stand. */
LANE bool draft_stands(const gpu_step &s, uint32_t o)
{
    while (hits_draft(s, o)) {
        if (!follows_draft(s, o))
            return true;
        o--;
    }
    return false;
}

LANE bool keeps_verdict(const gpu_step &s, int32_t q)
{
    return q >= 0 && (s.seq[q].flags & TN_SEQ_DRAFT) != 0 && s.seq[q].state_out >= 0;
}

/* One block, after all rows: marks drafts that stand, and counts for each sequence of drafts
 * how many of its rows do, for a next step that asks for the verdict. */
LANE void judge(const gpu_step &s)
{
    for (uint32_t q = threadIdx.x; s.verdict != NULL && q < s.count[GPU_SEQS]; q += blockDim.x)
        if (keeps_verdict(s, (int32_t)q))
            s.verdict[s.seq[q].state_out] = s.seq[q].nrow > 0;
    __syncthreads();
    for (uint32_t o = threadIdx.x; o < s.count[GPU_OUTS]; o += blockDim.x) {
        if (!draft_stands(s, o))
            continue;
        s.result[o].flags = TN_RESULT_ACCEPTED; /* it has a token, so no other flag */
        int32_t q = seq_of(s, o);
        if (s.verdict != NULL && keeps_verdict(s, q))
            atomicAdd(&s.verdict[s.seq[q].state_out], 1);
    }
}

/* ----------------------------------------------------------------------------------- draw */

/* Block j: output out0 + j. */
__global__ void __launch_bounds__(PICK_THREADS)
draw_rows(gpu_sample a, gpu_step s, uint32_t out0)
{
    wait_for_earlier();
    start_next();
    __shared__ pick_room room;
    const uint32_t o = out0 + blockIdx.x, nout = s.count[GPU_OUTS];
    if (o >= nout && o > 0)
        return;
    if (o < nout)
        draw_row(a, s, o, blockIdx.x, room);
    if (threadIdx.x == 0) {
        __threadfence();
        room.n = atomicAdd((uint32_t *)a.work, 1u);
    }
    __syncthreads();
    if (room.n + 1 >= nout)
        judge(s);
}

/* -------------------------------------------------------------------------------- calls */

extern "C" uint64_t gpu_sample_bytes(uint32_t vocab, const tn_limits *l)
{
    const uint64_t ngroup = ((uint64_t)vocab + GROUP - 1) / GROUP;
    const uint64_t rows = l->outs_max < ROWS_AT_ONCE ? l->outs_max : ROWS_AT_ONCE;
    return GPU_WORK_HEAD + rows * ngroup * (2 * sizeof(group_record) + GROUP * sizeof(float));
}

extern "C" cudaError_t gpu_do_sample(const gpu_sample *a, const gpu_step *s, const gpu_shape *n,
                                     cudaStream_t stream)
{
    const gpu_sample sample = *a; /* a launch may be kept and run later */
    const gpu_step step = *s;
    const uint32_t nsegment = (sample.vocab + SEGMENT - 1) / SEGMENT;
    uint32_t out0 = 0;
    do {
        uint32_t rows = n->outs > out0 ? n->outs - out0 : 1;
        rows = rows < ROWS_AT_ONCE ? rows : ROWS_AT_ONCE;
        GPU_LAUNCH_EARLY((measure_columns), dim3(nsegment, rows), MEASURE_THREADS, 0, stream, sample,
                   step, out0);
        GPU_LAUNCH_EARLY((draw_rows), dim3(rows), PICK_THREADS, 0, stream, sample, step, out0);
        out0 += rows;
    } while (out0 < n->outs);
    return cudaGetLastError();
}

/* SPDX-License-Identifier: Apache-2.0 */
/* sample.c - from one row of logits to one token.
 *
 * The vocabulary is never sorted. Most columns are passed over by the maximum of their
 * segment or of 64 neighbours. What top_k and top_p do is find the last column that is left;
 * selection is linear on average. */
#include "sample.h"

#include <math.h>

/* What lies this far below the best column, in nats, has no part in a draw of 53 bits. */
#define DEPTH 40.0f
#define LOOK 64u                  /* columns passed over at once */

static void segment_bounds(const cpu_draw *d, uint32_t i, uint32_t *from, uint32_t *to)
{
    *from = i * d->segment_width;
    *to = *from + d->segment_width < d->vocab ? *from + d->segment_width : d->vocab;
}

/* ------------------------------------------------------------------------ raw logits */

void cpu_segment_measure(const cpu_kernels *k, const float *row, uint32_t from, uint32_t to,
                         cpu_segment *out)
{
    uint32_t at = 0;
    *out = (cpu_segment){.finite = k->finite(row + from, to - from)};
    out->max = k->max(row + from, to - from, &at);
    out->at = (int32_t)(from + at);
    if (out->finite && out->max > -INFINITY)
        out->sum = k->sum_exp(row + from, out->max, to - from);
}

/* First of the greatest maxima; false when a segment is not finite or nothing is above -inf. */
static bool join_segments(const cpu_segment *s, uint32_t n, float *max, int32_t *at)
{
    bool finite = true;
    *max = -INFINITY;
    *at = -1;
    for (uint32_t i = 0; i < n; i++) {
        finite = finite && s[i].finite;
        if (s[i].max > *max) {
            *max = s[i].max;
            *at = s[i].at;
        }
    }
    return finite && *at >= 0;
}

static double join_sums(const cpu_segment *s, uint32_t n, float max)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        if (s[i].max > -INFINITY)
            sum += s[i].sum * exp((double)s[i].max - (double)max);
    return sum;
}

static float logprob_of(const cpu_draw *d, int32_t token)
{
    return (float)((double)d->raw[token] - (double)d->raw_max - d->raw_log_sum);
}

static int32_t rank_of(const cpu_draw *d, int32_t token)
{
    float x = d->raw[token];
    int32_t rank = 1;
    for (uint32_t i = 0; i < d->nsegment; i++) {
        uint32_t from, to;
        if (!(d->raw_segment[i].max > x))
            continue;
        segment_bounds(d, i, &from, &to);
        for (; from < to; from++)
            rank += d->raw[from] > x;
    }
    return rank;
}

static void finish(cpu_draw *d, int32_t token)
{
    bool report = d->s->ntop > 0 || (d->s->flags & TN_SAMPLE_SCORE) != 0;
    d->done = 1;
    d->result.token = token;
    d->result.logprob = logprob_of(d, token);
    d->result.rank = report ? rank_of(d, token) : 0;
}

static void finish_not_finite(cpu_draw *d)
{
    d->done = 1;
    d->result = (tn_result){.token = -1, .flags = TN_RESULT_NONFINITE, .logprob = NAN};
}

static bool is_greedy(const tn_sampling *s)
{
    return (s->flags & TN_SAMPLE_GREEDY) != 0 || !(s->temperature > 0);
}

static bool has_penalty(const tn_sampling *s)
{
    return s->history != NULL && s->nhistory > 0 &&
           (s->repetition != 1 || s->frequency != 0 || s->presence != 0);
}

void cpu_draw_begin(cpu_draw *d)
{
    d->result = (tn_result){.token = -1};
    d->done = d->adjusted = d->scaled = 0;
    if (!join_segments(d->raw_segment, d->nsegment, &d->raw_max, &d->raw_at)) {
        finish_not_finite(d);
        return;
    }
    d->raw_log_sum = log(join_sums(d->raw_segment, d->nsegment, d->raw_max));
    d->adjusted = d->s->mask != NULL || d->s->nbias > 0 || has_penalty(d->s);
    d->z = d->raw;
    d->segment = d->raw_segment;
    if ((d->s->flags & TN_SAMPLE_SCORE) != 0)
        finish(d, d->s->target);
    else if (is_greedy(d->s) && !d->adjusted)
        finish(d, d->raw_at);
}

/* ---------------------------------------------------------------- masks, bias, penalties */

void cpu_draw_mask(cpu_draw *d, uint32_t segment0, uint32_t segment1)
{
    uint32_t from = segment0 * d->segment_width, to = segment1 * d->segment_width;
    float *z = d->scratch->z;
    if (d->done || !d->adjusted || segment0 >= segment1)
        return;
    to = to < d->vocab ? to : d->vocab;
    memcpy(z + from, d->raw + from, (to - from) * sizeof *z);
    if (d->s->mask == NULL)
        return;
    for (uint32_t i = from; i < to; i += 32) { /* segments are whole words of the mask */
        uint32_t allowed = d->s->mask[i / 32], n = to - i < 32 ? to - i : 32;
        if (allowed == 0xffffffffu)
            continue;
        for (uint32_t j = 0; j < n; j++)
            if ((allowed >> j & 1u) == 0)
                z[i + j] = -INFINITY;
    }
}

#define SEEN 0x40000000           /* in prompt or reply; the rest of the word counts replies */

static void penalize(const tn_sampling *s, int32_t mark, float *z)
{
    if (s->repetition != 1)
        *z = *z > 0 ? *z / s->repetition : *z * s->repetition;
    int32_t count = mark & (SEEN - 1);
    if (count > 0)
        *z -= s->frequency * (float)count + s->presence;
}

/* Each distinct token of the history is changed once. `mark` is all zero before and after. */
static void penalize_history(const cpu_draw *d, float *z, int32_t *mark)
{
    const tn_sampling *s = d->s;
    for (uint32_t i = 0; i < s->nhistory; i++) {
        int32_t t = s->history[i];
        if (t >= 0 && (uint32_t)t < d->vocab)
            mark[t] = (mark[t] | SEEN) + (i >= s->nprompt ? 1 : 0);
    }
    for (uint32_t i = 0; i < s->nhistory; i++) {
        int32_t t = s->history[i];
        if (t >= 0 && (uint32_t)t < d->vocab && mark[t] != 0) {
            penalize(s, mark[t], &z[t]);
            mark[t] = 0;
        }
    }
}

void cpu_draw_adjust(cpu_draw *d)
{
    if (d->done || !d->adjusted)
        return;
    float *z = d->scratch->z;
    for (uint32_t i = 0; i < d->s->nbias; i++) {
        const tn_bias *b = &d->s->bias[i];
        if (b->token >= 0 && (uint32_t)b->token < d->vocab)
            z[b->token] += b->value;
    }
    if (has_penalty(d->s)) {
        memset(d->scratch->id, 0, d->vocab * sizeof *d->scratch->id);
        penalize_history(d, z, d->scratch->id);
    }
    d->z = z;
    d->segment = d->scratch->segment;
}

void cpu_draw_top(cpu_draw *d, uint32_t segment0, uint32_t segment1)
{
    if (d->done || !d->adjusted)
        return;
    for (uint32_t i = segment0; i < segment1; i++) {
        uint32_t from, to, at = 0;
        cpu_segment *s = &d->scratch->segment[i];
        segment_bounds(d, i, &from, &to);
        s->finite = d->k->finite(d->z + from, to - from);
        s->max = d->k->max(d->z + from, to - from, &at);
        s->at = (int32_t)(from + at);
    }
}

/* ----------------------------------------------------------------------------- joining */

static bool has_top_k(const cpu_draw *d)
{
    return d->s->top_k > 0 && (uint32_t)d->s->top_k < d->vocab;
}

static bool has_top_p(const cpu_draw *d)
{
    return d->s->top_p < 1;
}

static double race_score(float value, uint64_t bits)
{
    return (double)value - log(-log1p(-cpu_rng_unit(bits)));
}

void cpu_draw_join(cpu_draw *d)
{
    float max = d->raw_max;
    int32_t at = d->raw_at;
    if (d->done)
        return;
    if (d->adjusted && !join_segments(d->segment, d->nsegment, &max, &at)) {
        finish_not_finite(d);
        return;
    }
    if (is_greedy(d->s)) {
        finish(d, at);
        return;
    }
    d->top = max;
    d->inverse = 1.0f / d->s->temperature;
    d->floor = -INFINITY;
    d->last = INT32_MAX;
    d->least = -DEPTH;
    if (d->s->min_p > 0) {
        float cut = logf(d->s->min_p);
        d->least = cut > d->least ? cut : d->least;
    }
    d->scaled = has_top_p(d) && !has_top_k(d) && !(d->s->min_p > 0);
    d->rng = cpu_rng_open(d->s->seed, d->s->draw);
    d->lead = race_score(0.0f, cpu_rng_bits(&d->rng, (uint32_t)at));
}

static float value_of(const cpu_draw *d, float z)
{
    float v = (z - d->top) * d->inverse;
    return v == v ? v : 0.0f;     /* a temperature so low that 0 * inf: the best column */
}

void cpu_draw_scale(cpu_draw *d, uint32_t segment0, uint32_t segment1)
{
    if (d->done || !d->scaled)
        return;
    for (uint32_t i = segment0; i < segment1; i++) {
        uint32_t from, to;
        float *out = d->scratch->z;
        segment_bounds(d, i, &from, &to);
        for (uint32_t j = from; j < to; j++)
            out[j] = value_of(d, d->z[j]);
        d->scratch->segment[i].sum = d->k->sum_exp(out + from, 0.0f, to - from);
        d->scratch->segment[i].max = value_of(d, d->segment[i].max);
    }
}

/* --------------------------------------------------------------------------------- cutting */

/* Whether columns [from, to) hold anything of at least `floor`. */
static bool may_reach(const cpu_draw *d, uint32_t from, uint32_t to, float floor)
{
    uint32_t at;
    return d->k->max(d->z + from, to - from, &at) >= floor;
}

/* Moves the k greatest of v[0, n) to the front and returns the least of them. */
static float select_greatest(float *v, uint32_t n, uint32_t k)
{
    uint32_t lo = 0, hi = n - 1, turn = 0;
    while (lo < hi) {
        uint64_t h = cpu_rng_mix(((uint64_t)hi << 32 | lo) + turn++);
        float pivot = v[lo + (uint32_t)(h % (hi - lo + 1))];
        uint32_t i = lo, j = hi;
        for (;;) {
            while (v[i] > pivot)
                i++;
            while (v[j] < pivot)
                j--;
            if (i >= j)
                break;
            float t = v[i];
            v[i++] = v[j];
            v[j--] = t;
        }
        if (k - 1 <= j)           /* [lo, j] is >= pivot, what follows is <= pivot */
            hi = j;
        else
            lo = j + 1;
    }
    return v[k - 1];
}

/* A bound that the k-th greatest column reaches: the k-th greatest of the segments' maxima. */
static float bound_of_kth(const cpu_draw *d, uint32_t k)
{
    if (k > d->nsegment)
        return -INFINITY;
    for (uint32_t i = 0; i < d->nsegment; i++)
        d->scratch->value[i] = d->segment[i].max;
    return select_greatest(d->scratch->value, d->nsegment, k);
}

/* The k-th greatest column of z; -inf when there are no k. What reaches the k-th so far is
 * gathered, and when that has become much it is cut to k again. */
static float kth_of_row(cpu_draw *d, uint32_t k)
{
    float floor = bound_of_kth(d, k), *kept = d->scratch->value;
    uint32_t n = 0, room = k < d->vocab / 4 ? 4 * k : d->vocab;
    for (uint32_t i = 0; i < d->nsegment; i++) {
        uint32_t from, to;
        if (!(d->segment[i].max >= floor))
            continue;
        segment_bounds(d, i, &from, &to);
        for (uint32_t a = from; a < to; a += LOOK) {
            uint32_t b = a + LOOK < to ? a + LOOK : to;
            if (!may_reach(d, a, b, floor))
                continue;
            for (uint32_t j = a; j < b; j++) {
                if (n == room) {
                    floor = select_greatest(kept, n, k);
                    n = k;
                }
                kept[n] = d->z[j];
                n += d->z[j] >= floor && d->z[j] > -INFINITY;
            }
        }
    }
    return n >= k ? select_greatest(kept, n, k) : -INFINITY;
}

/* Gathers the columns that are left. */
static uint32_t gather(const cpu_draw *d)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < d->nsegment; i++) {
        uint32_t from, to;
        float max = d->scaled ? d->scratch->segment[i].max : d->segment[i].max;
        if (!(max >= d->floor) || !(value_of(d, max) >= d->least))
            continue;
        segment_bounds(d, i, &from, &to);
        for (uint32_t a = from; a < to; a += LOOK) {
            uint32_t b = a + LOOK < to ? a + LOOK : to, at;
            if (!(value_of(d, d->k->max(d->z + a, b - a, &at)) >= d->least))
                continue;
            for (uint32_t j = a; j < b; j++) {
                float v = value_of(d, d->z[j]);
                d->scratch->value[n] = v;
                d->scratch->id[n] = (int32_t)j;
                n += d->z[j] >= d->floor && v >= d->least;
            }
        }
    }
    return n;
}

static double mass_of(const cpu_draw *d, uint32_t from, uint32_t to)
{
    return to > from ? d->k->sum_exp(d->scratch->value + from, 0.0f, to - from) : 0;
}

static void swap(cpu_scratch *s, uint32_t a, uint32_t b)
{
    float v = s->value[a];
    int32_t id = s->id[a];
    s->value[a] = s->value[b];
    s->id[a] = s->id[b];
    s->value[b] = v;
    s->id[b] = id;
}

/* Moves what goes before (value, id) - greater, or equal with a lower id - to the front of
 * [lo, hi); where it ends. Without a branch, for which way it goes nobody can foresee. */
static uint32_t partition(cpu_scratch *s, uint32_t lo, uint32_t hi, float value, int32_t id)
{
    uint32_t mid = lo;
    for (uint32_t i = lo; i < hi; i++) {
        float v = s->value[i];
        int32_t t = s->id[i];
        s->value[i] = s->value[mid];
        s->id[i] = s->id[mid];
        s->value[mid] = v;
        s->id[mid] = t;
        mid += (v > value) | ((v == value) & (t < id));
    }
    return mid;
}

/* Of n gathered columns, sorted best first, those are left that have less than `target` of the
 * mass before them; at least the best. Quickselect by mass: ends with the last one left. */
static void cut_mass(cpu_draw *d, uint32_t n, double target)
{
    cpu_scratch *s = d->scratch;
    uint32_t lo = 0, hi = n;
    double before = 0;
    while (lo < hi) {
        uint32_t at = lo + (uint32_t)(cpu_rng_mix((uint64_t)hi << 32 | lo) % (hi - lo));
        float value = s->value[at];
        int32_t id = s->id[at];
        swap(s, at, hi - 1);
        uint32_t mid = partition(s, lo, hi - 1, value, id);
        swap(s, mid, hi - 1);
        double upper = mass_of(d, lo, mid);
        if (before + upper >= target && mid > 0) {
            hi = mid;
            continue;
        }
        before += upper + (double)expf(value);
        lo = mid + 1;
        d->least = value;
        d->last = id;
    }
}

/* top_p alone: the nucleus lies within some depth below the best column, mostly a small one. */
static void cut_nucleus(cpu_draw *d)
{
    double all = 0, target;
    for (uint32_t i = 0; i < d->nsegment; i++)
        all += d->scratch->segment[i].sum;
    target = all * (double)d->s->top_p;
    d->z = d->scratch->z;
    d->top = 0;
    d->inverse = 1;
    for (float depth = 5; ; depth *= 2) {
        d->least = depth < DEPTH ? -depth : -DEPTH;
        uint32_t n = gather(d);
        if (depth >= DEPTH || mass_of(d, 0, n) >= target) {
            cut_mass(d, n, target);
            return;
        }
    }
}

void cpu_draw_cut(cpu_draw *d)
{
    if (d->done)
        return;
    if (d->scaled) {
        cut_nucleus(d);
        return;
    }
    if (has_top_k(d))
        d->floor = kth_of_row(d, (uint32_t)d->s->top_k);
    if (has_top_p(d)) {
        uint32_t n = gather(d);
        cut_mass(d, n, mass_of(d, 0, n) * (double)d->s->top_p);
    }
}

/* ------------------------------------------------------------------------------- drawing */

/* -log(E) is at most -log(v) for the v in (0, 1) behind E, and that at most (zeros + 1) log 2
 * for the leading zero bits of v: who cannot win even so is passed over without a logarithm. */
static void race_one(const cpu_draw *d, float value, int32_t id, cpu_racer *best)
{
    uint64_t bits = cpu_rng_bits(&d->rng, (uint32_t)id);
    double zeros = (double)__builtin_clzll(bits | 1u << 10);
    if ((double)value + (zeros + 1) * 0.693147180559945314 < best->score)
        return;
    double score = race_score(value, bits);
    if (score > best->score || (score == best->score && best->token < 0)) {
        best->score = score;
        best->token = id;
    }
}

static void race_columns(const cpu_draw *d, uint32_t from, uint32_t to, cpu_racer *best)
{
    for (uint32_t j = from; j < to; j++) {
        float v = value_of(d, d->z[j]);
        if (v < d->least || d->z[j] < d->floor || (v == d->least && (int32_t)j > d->last))
            continue;
        race_one(d, v, (int32_t)j, best);
    }
}

void cpu_draw_race(cpu_draw *d, uint32_t segment0, uint32_t segment1)
{
    if (d->done)
        return;
    for (uint32_t i = segment0; i < segment1; i++) {
        uint32_t from, to;
        cpu_racer *best = &d->scratch->racer[i];
        float max = d->scaled ? d->scratch->segment[i].max : d->segment[i].max;
        *best = (cpu_racer){.score = d->lead, .token = -1};
        segment_bounds(d, i, &from, &to);
        for (; value_of(d, max) >= d->least && from < to; from += LOOK) {
            uint32_t end = from + LOOK < to ? from + LOOK : to, at;
            if (value_of(d, d->k->max(d->z + from, end - from, &at)) >= d->least)
                race_columns(d, from, end, best);
        }
    }
}

void cpu_draw_end(cpu_draw *d)
{
    if (d->done)
        return;
    cpu_racer best = {.score = -INFINITY, .token = -1};
    for (uint32_t i = 0; i < d->nsegment; i++) {
        const cpu_racer *r = &d->scratch->racer[i];
        if (r->token >= 0 && r->score > best.score)
            best = *r;
    }
    if (best.token < 0)
        finish_not_finite(d);
    else
        finish(d, best.token);
}

void cpu_draw_all(cpu_draw *d)
{
    uint32_t n = d->nsegment;
    cpu_draw_mask(d, 0, n);
    cpu_draw_adjust(d);
    cpu_draw_top(d, 0, n);
    cpu_draw_join(d);
    cpu_draw_scale(d, 0, n);
    cpu_draw_cut(d);
    cpu_draw_race(d, 0, n);
    cpu_draw_end(d);
}

/* ------------------------------------------------------------------------------- reports */

/* Keeps token[0, n) sorted; columns come in ascending order, so an equal goes behind. */
static uint32_t insert(int32_t *token, float *x, uint32_t n, uint32_t max, int32_t id, float v)
{
    if (n == max && !(v > x[n - 1]))
        return n;
    uint32_t at = n < max ? n : n - 1;
    for (; at > 0 && v > x[at - 1]; at--) {
        x[at] = x[at - 1];
        token[at] = token[at - 1];
    }
    x[at] = v;
    token[at] = id;
    return n < max ? n + 1 : n;
}

void cpu_draw_report(cpu_draw *d, int32_t *token, float *logprob)
{
    uint32_t n = 0, max = d->s->ntop;
    if (max == 0 || (d->result.flags & TN_RESULT_NONFINITE) != 0)
        return;
    for (uint32_t i = 0; i < d->nsegment; i++) {
        uint32_t from, to;
        float floor = n == max ? logprob[n - 1] : -INFINITY;
        if (!(d->raw_segment[i].max > floor))
            continue;
        segment_bounds(d, i, &from, &to);
        for (uint32_t j = from; j < to; j++)
            if (d->raw[j] > -INFINITY)
                n = insert(token, logprob, n, max, (int32_t)j, d->raw[j]);
    }
    for (uint32_t i = 0; i < n; i++)
        logprob[i] = logprob_of(d, token[i]);
    d->result.ntop = n;
}

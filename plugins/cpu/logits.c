/* SPDX-License-Identifier: Apache-2.0 */
/* logits.c - from hidden rows to drawn tokens: the head's multiply, LOGITS and SAMPLE.
 *
 * Output rows are taken a few at a time, so that logits take little memory however many rows
 * want them. A worker multiplies a segment of the vocabulary and measures it while it is in
 * the cache; for greedy rows without penalties that is all there is. Other rows are drawn for
 * row by row on one worker each, or, when there are fewer such rows than workers, stage by
 * stage with the segments shared out. */
#include "program.h"

#include <math.h>

/* The output rows that are looked at now. */
typedef struct batch {
    const cpu_head *h;
    uint32_t out0, n;             /* outputs [out0, out0 + n) */
    uint32_t worker;
} batch;

static float *logits_row(const cpu_program *p, const batch *b, uint32_t i)
{
    if (b->h->linear == NULL)
        return cpu_row(p, b->h->x, b->out0 + i, 0);
    return p->logits + i * cpu_round(b->h->vocab, 16);
}

static cpu_segment *segments_of(const cpu_program *p, const batch *b, uint32_t i)
{
    return p->segment + (uint64_t)i * b->h->nsegment;
}

/* ------------------------------------------------------------------------------- measuring */

static void cap_and_pad(const cpu_head *h, float *row, uint32_t from, uint32_t to)
{
    for (uint32_t j = from; h->softcap > 0 && j < to; j++)
        row[j] = h->softcap * tanhf(row[j] / h->softcap);
    for (uint32_t j = from > h->valid ? from : h->valid; j < to; j++)
        row[j] = -INFINITY;
}

static void measure(cpu_program *p, const batch *b, uint32_t segment)
{
    const cpu_head *h = b->h;
    uint32_t from = segment * CPU_SEGMENT;
    uint32_t to = from + CPU_SEGMENT < h->vocab ? from + CPU_SEGMENT : h->vocab;
    if (h->linear != NULL)
        cpu_linear_strips(p, h->linear, 0, from / CPU_STRIP, (to + CPU_STRIP - 1) / CPU_STRIP,
                          b->out0, b->out0 + b->n, p->step->nout, b->worker,
                          logits_row(p, b, 0) + from, cpu_round(h->vocab, 16), false);
    for (uint32_t i = 0; i < b->n; i++) {
        float *row = logits_row(p, b, i);
        cap_and_pad(h, row, from, to);
        cpu_segment_measure(p->k, row, from, to, &segments_of(p, b, i)[segment]);
    }
}

/* One row: fixed shares, each a stream of weights. More rows: claimed one by one. */
static void measure_all(cpu_program *p, const batch *b)
{
    uint64_t from, to;
    if (b->n > 1) {
        while (cpu_claim(p, b->worker, b->h->nsegment, &from))
            measure(p, b, (uint32_t)from);
        return;
    }
    cpu_share(p, b->worker, b->h->nsegment, &from, &to);
    for (; from < to; from++)
        measure(p, b, (uint32_t)from);
}

/* --------------------------------------------------------------------------------- drawing */

static void begin(cpu_program *p, const batch *b, uint32_t i)
{
    p->draw[i] = (cpu_draw){.k = p->k, .s = p->step->out[b->out0 + i].sampling,
                            .raw = logits_row(p, b, i), .raw_segment = segments_of(p, b, i),
                            .vocab = b->h->vocab, .segment_width = CPU_SEGMENT,
                            .nsegment = b->h->nsegment};
    cpu_draw_begin(&p->draw[i]);
    p->draw[i].waits = !p->draw[i].done;
}

static uint32_t count_unfinished(const cpu_program *p, const batch *b)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < b->n; i++)
        n += p->draw[i].waits;
    return n;
}

/* Rows shared out; the first `ndraw` workers have the memory to draw. */
static void draw_by_row(cpu_program *p, const batch *b)
{
    uint32_t turn = 0;
    for (uint32_t i = 0; i < b->n; i++) {
        if (!p->draw[i].waits || turn++ % p->ndraw != b->worker)
            continue;
        p->draw[i].scratch = &p->scratch[b->worker];
        cpu_draw_all(&p->draw[i]);
    }
}

typedef void (*stage_fn)(cpu_draw *d);
typedef void (*shared_stage_fn)(cpu_draw *d, uint32_t segment0, uint32_t segment1);

/* A stage for all unfinished rows: `whole` by one worker a row, or `part` by all. */
static void do_stage(cpu_program *p, const batch *b, const uint32_t *row, uint32_t n,
                     stage_fn whole, shared_stage_fn part)
{
    uint64_t from, to;
    cpu_share(p, b->worker, b->h->nsegment, &from, &to);
    for (uint32_t j = 0; j < n; j++) {
        if (part != NULL)
            part(&p->draw[row[j]], (uint32_t)from, (uint32_t)to);
        else if (j % p->nthread == b->worker)
            whole(&p->draw[row[j]]);
    }
    cpu_sync(p, b->worker);
}

/* Few rows: every stage on all workers. */
static void draw_by_stage(cpu_program *p, const batch *b)
{
    static const struct { stage_fn whole; shared_stage_fn part; } stage[] = {
        {NULL, cpu_draw_mask}, {cpu_draw_adjust, NULL}, {NULL, cpu_draw_top},
        {cpu_draw_join, NULL}, {NULL, cpu_draw_scale}, {cpu_draw_cut, NULL},
        {NULL, cpu_draw_race}, {cpu_draw_end, NULL},
    };
    uint32_t row[CPU_DRAWS_MAX], n = 0;
    for (uint32_t i = 0; i < b->n; i++)
        if (p->draw[i].waits)
            row[n++] = i;
    bool adjusted = false;
    for (uint32_t j = 0; j < n; j++)
        adjusted = adjusted || p->draw[row[j]].adjusted;
    if (b->worker == 0)
        for (uint32_t j = 0; j < n; j++)
            p->draw[row[j]].scratch = &p->scratch[j];
    cpu_sync(p, b->worker);
    for (uint32_t i = adjusted ? 0 : 3; i < sizeof stage / sizeof stage[0]; i++)
        do_stage(p, b, row, n, stage[i].whole, stage[i].part);
}

static void report(cpu_program *p, const batch *b, uint32_t i)
{
    cpu_outcome *o = &p->outcome[p->current];
    uint64_t out = b->out0 + i, at = out * p->lim.top_max;
    cpu_draw_report(&p->draw[i], o->top_token + at, o->top_logprob + at);
    o->result[out] = p->draw[i].result;
}

static void do_batch(cpu_program *p, const batch *b)
{
    measure_all(p, b);
    cpu_sync(p, b->worker);
    for (uint32_t i = b->worker; i < b->n; i += p->nthread)
        begin(p, b, i);
    cpu_sync(p, b->worker);
    if (b->worker == 0)
        cpu_lap(p, b->h->logits);
    uint32_t unfinished = count_unfinished(p, b);
    if (unfinished >= p->nthread || unfinished > p->ndraw)
        draw_by_row(p, b);
    else if (unfinished > 0)
        draw_by_stage(p, b);
    if (unfinished > 0)
        cpu_sync(p, b->worker);
    for (uint32_t i = b->worker; i < b->n; i += p->nthread)
        report(p, b, i);
    cpu_sync(p, b->worker);       /* the next rows take the same memory */
    if (b->worker == 0)
        cpu_lap(p, b->h->sample);
}

void cpu_do_head(cpu_program *p, const cpu_cmd *c, uint32_t worker)
{
    const cpu_head *h = c->plan;
    uint32_t nout = p->step->nout;
    if (nout == 0)
        return;
    if (h->linear != NULL)
        cpu_linear_ready(p, h->linear, nout, worker);
    for (uint32_t out0 = 0; out0 < nout; out0 += h->chunk) {
        uint32_t n = nout - out0 < h->chunk ? nout - out0 : h->chunk;
        do_batch(p, &(batch){.h = h, .out0 = out0, .n = n, .worker = worker});
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
/* experts.c - ROUTE and EXPERTS.
 *
 * A pair is a row and one of its chosen experts. Pairs are sorted by expert, so that an
 * expert's weights are read once for all rows that chose it:
 *
 *     sort    worker 0
 *     fill    experts that stay in the file are packed, see stash.c    claimed
 *     ready   every pair's input row                        shared out
 *     up      hidden = act(gate) * up, per expert and run of strips    claimed
 *     ready   every pair's hidden row                       shared out
 *     down    per run of strips: all pairs into the worker's memory, then each row adds its
 *             choices in the order in which ROUTE made them           claimed
 *
 * so the bits of a row depend neither on other rows nor on who computes it. With many rows the
 * pairs are taken in portions. */
#include "program.h"

#include <math.h>

/* -------------------------------------------------------------------------------------- ROUTE */

/* The best expert not yet taken; of equals the first. Taken ones and NaN hold -inf. */
static uint32_t best_left(const cpu_program *p, const float *score, uint32_t n,
                          const int32_t *taken, uint32_t ntaken)
{
    uint32_t at = 0;
    if (p->k->max(score, n, &at) > -INFINITY)
        return at;
    for (at = 0; at < n; at++) {  /* nothing but -inf is left */
        bool is_taken = false;
        for (uint32_t i = 0; i < ntaken; i++)
            is_taken = is_taken || taken[i] == (int32_t)at;
        if (!is_taken)
            break;
    }
    return at;
}

static float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* What the choice goes by: logits where softmax keeps their order, else scores plus bias. */
static void fill_choice(const cpu_program *p, const tn_op_route *a, const float *x, float max,
                        double sum, float *choice)
{
    const float *bias = a->bias != TN_NONE ? p->weight[a->bias].vector : NULL;
    for (uint32_t i = 0; i < a->nexpert; i++) {
        float v = x[i];
        if (a->kind == TN_ROUTE_SIGMOID)
            v = sigmoid(v);
        else if (bias != NULL)
            v = (float)((double)expf(v - max) / sum);
        if (bias != NULL)
            v += bias[i];
        choice[i] = v == v ? v : -INFINITY;
    }
}

static void route_row(const cpu_program *p, const tn_op_route *a, uint64_t row, float *choice)
{
    const float *x = cpu_row(p, a->in, row, 0);
    int32_t *ids = (int32_t *)(void *)cpu_row(p, a->ids, row, 0);
    float *weights = cpu_row(p, a->weights, row, 0), total = 0;
    uint32_t at;
    float max = p->k->max(x, a->nexpert, &at);
    double sum = a->kind == TN_ROUTE_SOFTMAX ? p->k->sum_exp(x, max, a->nexpert) : 1;
    fill_choice(p, a, x, max, sum, choice);
    for (uint32_t i = 0; i < a->ntop; i++) {
        uint32_t e = best_left(p, choice, a->nexpert, ids, i);
        ids[i] = (int32_t)e;
        choice[e] = -INFINITY;
        weights[i] = a->kind == TN_ROUTE_SIGMOID ? sigmoid(x[e])
                                                 : (float)((double)expf(x[e] - max) / sum);
        total += weights[i];
    }
    for (uint32_t i = 0; i < a->ntop; i++) {
        if (a->renorm && total != 0)
            weights[i] /= total;
        weights[i] *= a->scale;
    }
}

void cpu_do_route(cpu_program *p, const cpu_cmd *c, uint32_t worker)
{
    const tn_op_route *a = &c->op->a.route;
    uint64_t from, to;
    cpu_share(p, worker, cpu_rows_of(p, a->in), &from, &to);
    for (; from < to; from++)
        route_row(p, a, from, p->worker[worker].row);
}

/* ------------------------------------------------------------------------------------ EXPERTS */

#define EXPERTS_BYTES (12u << 20) /* of activations that a portion of pairs may take */
#define PAIRS_MAX 4096u
#define UP_STRIPS 8u              /* pairs of gate and up strips a claim */

typedef struct experts {
    const tn_op_experts *a;
    const cpu_experts *plan;
    const cpu_weight *up, *down;
    uint32_t row0, nrow;          /* rows of this portion */
    uint32_t cmd;                 /* for failures */
    uint32_t *nactive, *nfresh;
    uint32_t *active;             /* [nexpert] experts that have pairs */
    uint32_t *begin;              /* [nexpert + 1] first sorted pair of an active expert */
    uint32_t *row;                /* [pairs] row of a sorted pair */
    uint32_t *place;              /* [pairs] sorted place of (row, choice); TN_NONE: invalid */
    uint32_t *fill;               /* [nexpert] */
    uint32_t *fresh;              /* [nexpert] experts to be packed for this portion */
    uint8_t *up_act, *down_act;
    float *hidden;                /* [pairs, width] */
} experts;

static uint64_t pair_bytes(const cpu_experts *e, const tn_op_experts *a)
{
    return e->up.row_size + e->down.row_size + a->width * 4 + 8;
}

void cpu_experts_init(cpu_experts *e, const cpu_program *p, const tn_op_experts *a)
{
    cpu_set_init(&e->up, p, &p->weight[a->w_up], p->weight[a->w_up].spec.k);
    cpu_set_init(&e->down, p, &p->weight[a->w_down], a->width);
    uint64_t pairs = EXPERTS_BYTES / pair_bytes(e, a);
    uint64_t all = cpu_rows_max(p, p->buffer[a->in].rows) * a->ntop;
    pairs = pairs < PAIRS_MAX ? pairs : PAIRS_MAX;
    pairs = pairs < all ? pairs : all;
    e->pairs_max = (uint32_t)(pairs / a->ntop < 1 ? a->ntop : pairs / a->ntop * a->ntop);
}

/* Lays the memory out from `base`; the bytes it takes. */
static uint64_t lay_out(const cpu_experts *plan, const tn_op_experts *a, uint8_t *base,
                        experts *e)
{
    uint64_t pairs = plan->pairs_max, at = 0;
    const struct { void *to; uint64_t size; } part[] = {
        {&e->nactive, 4}, {&e->nfresh, 4}, {&e->fresh, a->nexpert * 4ull}, {&e->active, a->nexpert * 4ull}, {&e->begin, a->nexpert * 4ull + 4},
        {&e->fill, a->nexpert * 4ull}, {&e->row, pairs * 4}, {&e->place, pairs * 4},
        {&e->up_act, cpu_round(pairs, 16) * plan->up.row_size},
        {&e->down_act, cpu_round(pairs, 16) * plan->down.row_size},
        {&e->hidden, pairs * a->width * 4},
    };
    for (uint32_t i = 0; i < sizeof part / sizeof part[0]; i++) {
        uint8_t *p = base != NULL ? base + at : NULL;
        memcpy(part[i].to, &p, sizeof p);
        at += cpu_round(part[i].size, 64);
    }
    return at;
}

uint64_t cpu_experts_size(const cpu_experts *plan, const tn_op_experts *a)
{
    experts e;
    return lay_out(plan, a, NULL, &e);
}

static int32_t choice_of(const cpu_program *p, const experts *e, uint32_t row, uint32_t i)
{
    int32_t id = ((const int32_t *)(const void *)cpu_row(p, e->a->ids, e->row0 + row, 0))[i];
    return id >= 0 && (uint32_t)id < e->a->nexpert ? id : -1;
}

/* Counting sort by expert; pairs of an expert stay in row order. */
static void sort_pairs(const cpu_program *p, experts *e)
{
    const tn_op_experts *a = e->a;
    uint32_t nactive = 0, at = 0;
    memset(e->fill, 0, a->nexpert * sizeof *e->fill);
    for (uint32_t r = 0; r < e->nrow; r++)
        for (uint32_t i = 0; i < a->ntop; i++) {
            int32_t id = choice_of(p, e, r, i);
            if (id >= 0)
                e->fill[id]++;
        }
    for (uint32_t x = 0; x < a->nexpert; x++) {
        uint32_t n = e->fill[x];
        e->fill[x] = at;
        if (n == 0)
            continue;
        e->active[nactive] = x;
        e->begin[nactive++] = at;
        at += n;
    }
    e->begin[nactive] = at;
    for (uint32_t r = 0; r < e->nrow; r++)
        for (uint32_t i = 0; i < a->ntop; i++) {
            int32_t id = choice_of(p, e, r, i);
            uint32_t place = id >= 0 ? e->fill[id]++ : TN_NONE;
            e->place[r * a->ntop + i] = place;
            if (id >= 0)
                e->row[place] = r;
        }
    *e->nactive = nactive;
}

static uint64_t rows_laid_out(const experts *e)
{
    return cpu_round(e->plan->pairs_max, 16);
}

static cpu_act up_acts(const experts *e)
{
    return cpu_set_act(&e->plan->up, e->up_act, rows_laid_out(e));
}

static cpu_act down_acts(const experts *e)
{
    return cpu_set_act(&e->plan->down, e->down_act, rows_laid_out(e));
}

/* The worker's share of pairs, with the expert of each. */
static void ready_pairs(const cpu_program *p, const experts *e, uint32_t worker, bool up)
{
    uint64_t from, to;
    uint32_t x = 0;
    cpu_act a = up ? up_acts(e) : down_acts(e);
    cpu_share(p, worker, e->begin[*e->nactive], &from, &to);
    for (; from < to; from++) {
        while (e->begin[x + 1] <= from)
            x++;
        const float *in = up ? cpu_row(p, e->a->in, e->row0 + e->row[from], 0)
                             : e->hidden + from * e->a->width;
        cpu_act_fill(p, up ? &e->plan->up : &e->plan->down, &a, from, in, e->active[x]);
    }
}

/* Strips [s0, s1) of the x-th active expert, wherever it is. */
static void expert_strips(cpu_program *p, const experts *e, const cpu_weight *w, uint32_t x,
                          const cpu_set *set, const cpu_act *a, uint64_t m, uint64_t s0,
                          uint64_t s1, float *y, uint64_t ldy, uint32_t worker)
{
    uint32_t expert = e->active[x];
    if (w->mapped && w->matrix[expert].data == NULL)
        cpu_stash_strips(p, e->cmd, w, expert, set, a, m, s0, s1, y, ldy, worker);
    else
        cpu_strips(p, w, expert, set, a, m, s0, s1, y, ldy, false);
}

/* Gate and up strips [s0, s1) of one expert for all its pairs, some at a time. */
static void up_strips(cpu_program *p, const experts *e, uint32_t x, uint64_t s0,
                      uint64_t s1, uint32_t worker)
{
    uint64_t ld = (s1 - s0) * CPU_STRIP, half = CPU_WIDE / 2, most = half / ld;
    uint64_t up0 = e->a->width / CPU_STRIP;
    float *gate = p->worker[worker].wide, *up = gate + half;
    const cpu_set *set = &e->plan->up;
    cpu_act all = up_acts(e);
    for (uint64_t i = e->begin[x]; i < e->begin[x + 1]; i += most) {
        uint64_t m = e->begin[x + 1] - i < most ? e->begin[x + 1] - i : most;
        cpu_act some = cpu_act_at(set, &all, i);
        some.room = p->worker[worker].room;
        expert_strips(p, e, e->up, x, set, &some, m, s0, s1, gate, ld, worker);
        expert_strips(p, e, e->up, x, set, &some, m, up0 + s0, up0 + s1, up, ld, worker);
        for (uint64_t j = 0; j < m; j++)
            p->k->act_mul(gate + j * ld, up + j * ld, e->a->act, (uint32_t)ld,
                          e->hidden + (i + j) * e->a->width + s0 * CPU_STRIP);
    }
}

static void do_up(cpu_program *p, const experts *e, uint32_t worker)
{
    uint64_t strips = e->a->width / CPU_STRIP, runs = (strips + UP_STRIPS - 1) / UP_STRIPS, n;
    cpu_room_forget(p->worker[worker].room);
    while (cpu_claim(p, worker, *e->nactive * runs, &n)) {
        uint64_t s0 = n % runs * UP_STRIPS, s1 = s0 + UP_STRIPS;
        up_strips(p, e, (uint32_t)(n / runs), s0, s1 < strips ? s1 : strips, worker);
    }
}

/* out (+)= the row's choices, weighted, in their order. y holds all pairs' columns. */
static void mix_row(const cpu_program *p, const experts *e, uint32_t row, const float *y,
                    uint64_t ld, uint64_t col, uint64_t n)
{
    float *out = cpu_row(p, e->a->out, e->row0 + row, (uint32_t)col);
    const float *weights = cpu_row(p, e->a->weights, e->row0 + row, 0);
    if (!e->a->add)
        memset(out, 0, n * sizeof *out);
    for (uint32_t i = 0; i < e->a->ntop; i++) {
        uint32_t place = e->place[row * e->a->ntop + i];
        if (place == TN_NONE)
            continue;
        const float *from = y + place * ld;
        for (uint64_t j = 0; j < n; j++)
            out[j] += weights[i] * from[j];
    }
}

static void down_strips(cpu_program *p, const experts *e, uint64_t s0, uint64_t s1,
                        uint32_t worker)
{
    uint64_t ld = (s1 - s0) * CPU_STRIP, col = s0 * CPU_STRIP;
    uint64_t n = e->down->spec.n - col < ld ? e->down->spec.n - col : ld;
    const cpu_set *set = &e->plan->down;
    cpu_act all = down_acts(e);
    float *y = p->worker[worker].pair;
    cpu_room_forget(p->worker[worker].room);
    for (uint32_t x = 0; x < *e->nactive; x++) {
        cpu_act some = cpu_act_at(set, &all, e->begin[x]);
        some.room = p->worker[worker].room;
        expert_strips(p, e, e->down, x, set, &some, e->begin[x + 1] - e->begin[x], s0, s1,
                      y + e->begin[x] * ld, ld, worker);
    }
    for (uint32_t r = 0; r < e->nrow; r++)
        mix_row(p, e, r, y, ld, col, n);
}

/* Strips a claim: as many as the memory for pairs holds, but enough claims for all workers. */
static uint64_t down_run(const cpu_program *p, const experts *e, uint64_t strips)
{
    uint64_t fit = p->pair_floats / ((uint64_t)e->nrow * e->a->ntop * CPU_STRIP);
    uint64_t even = strips / (4 * (uint64_t)p->nthread);
    fit = fit < even ? fit : even;
    return fit < 1 ? 1 : fit;
}

/* Experts that stay in the file come in; false: they did not. Every worker hears the same. */
static bool fetch(cpu_program *p, experts *e, uint32_t worker)
{
    cpu_shelf *s = e->plan->shelf;
    if (s == NULL)
        return true;
    if (worker == 0)
        *e->nfresh = cpu_stash_want(p, s, e->active, *e->nactive, e->fresh);
    cpu_sync(p, worker);
    cpu_stash_fill(p, e->cmd, s, e->fresh, *e->nfresh, worker);
    cpu_sync(p, worker);
    if (atomic_load_explicit(&p->failed, memory_order_relaxed) == 0)
        return true;
    if (worker == 0)
        cpu_stash_drop(p, s, e->fresh, *e->nfresh);
    return false;
}

static bool do_portion(cpu_program *p, experts *e, uint32_t worker)
{
    uint64_t strips = (e->down->spec.n + CPU_STRIP - 1) / CPU_STRIP, n;
    uint64_t run = down_run(p, e, strips), runs = (strips + run - 1) / run;
    if (worker == 0)
        sort_pairs(p, e);
    cpu_sync(p, worker);
    if (!fetch(p, e, worker))
        return false;
    ready_pairs(p, e, worker, true);
    cpu_sync(p, worker);
    do_up(p, e, worker);
    cpu_sync(p, worker);
    ready_pairs(p, e, worker, false);
    cpu_sync(p, worker);
    while (cpu_claim(p, worker, runs, &n)) {
        uint64_t s0 = n * run, s1 = s0 + run < strips ? s0 + run : strips;
        down_strips(p, e, s0, s1, worker);
    }
    cpu_sync(p, worker);
    return true;
}

void cpu_do_experts(cpu_program *p, const cpu_cmd *c, uint32_t worker)
{
    const tn_op_experts *a = &c->op->a.experts;
    uint32_t rows = cpu_rows_of(p, a->in);
    experts e = {.a = a, .plan = c->plan, .cmd = (uint32_t)(c - p->cmd), .up = &p->weight[a->w_up],
                 .down = &p->weight[a->w_down]};
    uint32_t portion = e.plan->pairs_max / a->ntop;
    lay_out(e.plan, a, p->experts, &e);
    bool fetched = true;
    for (e.row0 = 0; e.row0 < rows && fetched; e.row0 += portion) {
        e.nrow = rows - e.row0 < portion ? rows - e.row0 : portion;
        fetched = do_portion(p, &e, worker);
    }
}

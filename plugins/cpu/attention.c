/* SPDX-License-Identifier: Apache-2.0 */
/* attention.c - HEADS and ATTEND: rotary, the paged cache, causal attention.
 *
 * The rows of a sequence are attended in tiles, one KV head at a time, all query heads of its
 * group and all rows of the tile together, so that each cached token is read once a tile.
 *
 * The tokens that a row sees are visited in order: block after block inside a run of
 * run_tokens positions, run after run. Runs begin at multiples of run_tokens, each starts from
 * nothing, and their results are joined in order. So it does not matter whether one worker
 * walks through all runs or, when there are fewer rows than workers can share (decoding at
 * long context), each run is walked by another worker: the bits are the same, and they are
 * the same in a tile and alone. */
#include "program.h"

#include <math.h>

/* ------------------------------------------------------------------------------------ HEADS */

static void turn(const cpu_program *p, const tn_op_heads *a, uint64_t row, float *x)
{
    if (a->rope == TN_NONE)
        return;
    const cpu_rotary *t = &p->rope[a->rope];
    uint64_t at = row * (t->dims / 2);
    p->k->rope(x, t->cos + at, t->sin + at, t->dims, t->pairing);
}

static void norm_head(const cpu_program *p, const tn_op_heads *a, uint32_t w, float *x)
{
    if (w != TN_NONE)
        p->k->norm(x, p->weight[w].vector, a->offset, a->eps, a->head_dim, x);
}

static void write_kv(const cpu_program *p, const tn_op_heads *a, uint64_t row, uint32_t head)
{
    const tn_seq *q = &p->step->seq[p->step->row_seq[row]];
    uint32_t pos = (uint32_t)p->pos[row], size = p->lim.block_tokens;
    int32_t block = p->step->block[q->block0 + pos / size];
    cpu_cache_put(&p->cache[a->cache], p->k, block, pos % size, head,
                  cpu_row(p, a->x, row, a->k_col + head * a->head_dim),
                  cpu_row(p, a->x, row, a->v_col + head * a->head_dim));
}

void cpu_do_heads(cpu_program *p, const cpu_cmd *c, uint32_t worker)
{
    const tn_op_heads *a = &c->op->a.heads;
    uint64_t heads = (uint64_t)a->q_heads + a->kv_heads, from, to;
    cpu_share(p, worker, p->step->nrow * heads, &from, &to);
    for (; from < to; from++) {
        uint64_t row = from / heads;
        uint32_t head = (uint32_t)(from % heads);
        if (p->pos[row] < 0)
            continue;
        bool is_q = head < a->q_heads;
        head = is_q ? head : head - a->q_heads;
        float *x = cpu_row(p, a->x, row, (is_q ? a->q_col : a->k_col) + head * a->head_dim);
        norm_head(p, a, is_q ? a->q_norm : a->k_norm, x);
        turn(p, a, row, x);
        if (!is_q)
            write_kv(p, a, row, head);
    }
}

/* ----------------------------------------------------------------------------------- ATTEND */

/* What is known of some queries after some tokens. */
typedef struct sums {
    float *max, *sum;             /* [nquery] */
    float *acc;                   /* [nquery, dim] */
} sums;

/* One tile and KV head. */
typedef struct item {
    const tn_op_attend *a;
    const cpu_attention *t;
    const tn_seq *seq;
    const cpu_tile *tile;
    uint32_t head;                /* KV head */
    uint32_t nquery;
    const float *query;           /* [nquery, dim] */
} item;

static int32_t last_pos(const cpu_program *p, const item *i)
{
    return p->pos[i->tile->row0 + i->tile->nrow - 1];
}

/* The first position that a row at `pos` sees. */
static int32_t first_seen(const tn_op_attend *a, int32_t pos)
{
    return a->window > 0 && (uint32_t)pos >= a->window ? pos - (int32_t)a->window + 1 : 0;
}

static void clear(const sums *s, uint32_t nquery, uint32_t dim)
{
    for (uint32_t i = 0; i < nquery; i++) {
        s->max[i] = -INFINITY;
        s->sum[i] = 0;
    }
    memset(s->acc, 0, (uint64_t)nquery * dim * sizeof *s->acc);
}

static int32_t clamp(int32_t v, int32_t least, int32_t most)
{
    return v < least ? least : v > most ? most : v;
}

/* The block's tokens [base, base + n) for all queries. */
static void walk_block(const cpu_program *p, const item *i, cpu_worker *w, int32_t base,
                       int32_t n, const sums *s)
{
    const cpu_cache *c = i->t->cache;
    int32_t block = p->step->block[i->seq->block0 + (uint32_t)base / c->tokens];
    cpu_attend k = {.nquery = i->nquery, .dim = i->a->head_dim, .ntoken = (uint32_t)n,
                    .q = i->query, .k = cpu_cache_k(c, block, i->head),
                    .v = cpu_cache_v(c, block, i->head), .first = w->first, .limit = w->limit,
                    .scale = i->a->scale, .softcap = i->a->softcap, .m = s->max, .l = s->sum,
                    .acc = s->acc, .room = w->room};
    for (uint32_t q = 0; q < i->nquery; q++) {
        int32_t pos = p->pos[i->tile->row0 + (int32_t)(q / i->t->group)];
        w->limit[q] = clamp(pos + 1 - base, 0, n);
        w->first[q] = clamp(first_seen(i->a, pos) - base, 0, w->limit[q]);
    }
    if (c->dtype == TN_F32)
        p->k->attend_f32(&k);
    else if (c->dtype == TN_F16)
        p->k->attend_f16(&k);
    else
        p->k->attend_bf16(&k);
}

#define FETCH_MAX 32768u          /* bytes of a piece that the nearest cache has room for */

/* Asks for the piece of the block at `base` while the one before is worked on: pieces of a head
 * are pages apart, which is further than processors look ahead by themselves. */
static void fetch_block(const cpu_program *p, const item *i, int32_t base)
{
    const cpu_cache *c = i->t->cache;
    const uint8_t *piece = cpu_cache_k(c, p->step->block[i->seq->block0 + (uint32_t)base /
                                                         c->tokens], i->head);
    for (uint64_t at = 0; at < c->piece_size && c->piece_size <= FETCH_MAX; at += 64)
        __builtin_prefetch(piece + at);
}

static void walk_run(const cpu_program *p, const item *i, cpu_worker *w, uint32_t run,
                     const sums *s)
{
    int32_t size = (int32_t)p->lim.block_tokens, end = last_pos(p, i) + 1;
    int32_t from = (int32_t)(run * p->run_tokens), to = from + (int32_t)p->run_tokens;
    int32_t seen = first_seen(i->a, p->pos[i->tile->row0]);
    clear(s, i->nquery, i->a->head_dim);
    if (seen > from)
        from = seen / size * size;
    to = to < end ? to : end;
    for (; from < to; from += size) {
        if (from + size < to)
            fetch_block(p, i, from + size);
        walk_block(p, i, w, from, to - from < size ? to - from : size, s);
    }
}

/* out = x * factor, eight at a time so that a compiler sees whole vectors. */
static void scale_row(const float *restrict x, float factor, uint32_t n, float *restrict out)
{
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (uint32_t j = 0; j < 8; j++)
            out[i + j] = x[i + j] * factor;
    for (; i < n; i++)
        out[i] = x[i] * factor;
}

/* acc = acc * fa + b * fb */
static void join_row(float *restrict acc, float fa, const float *restrict b, float fb, uint32_t n)
{
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (uint32_t j = 0; j < 8; j++)
            acc[i + j] = acc[i + j] * fa + b[i + j] * fb;
    for (; i < n; i++)
        acc[i] = acc[i] * fa + b[i] * fb;
}

/* Joins one query's `b` behind its `a`; sums that saw no token change nothing. */
static void join(float *amax, float *asum, float *aacc, float bmax, float bsum, const float *bacc,
                 uint32_t dim)
{
    if (!(bsum != 0))
        return;
    if (*asum == 0) {
        *amax = bmax;
        *asum = bsum;
        memcpy(aacc, bacc, dim * sizeof *aacc);
        return;
    }
    float max = *amax > bmax ? *amax : bmax;
    float fa = expf(*amax - max), fb = expf(bmax - max);
    *amax = max;
    *asum = *asum * fa + bsum * fb;
    join_row(aacc, fa, bacc, fb, dim);
}

/* out = acc / sum, gated: query head `head` of a row. */
static void put_out(const cpu_program *p, const tn_op_attend *a, uint64_t row, uint32_t head,
                    float sum, const float *acc)
{
    float *out = cpu_row(p, a->out, row, a->out_col + head * a->head_dim);
    scale_row(acc, 1.0f / sum, a->head_dim, out);
    if (a->gate != TN_NONE)
        p->k->mul_sigmoid(out, cpu_row(p, a->gate, row, a->gate_col + head * a->head_dim),
                          a->head_dim);
}

/* The queries of one row lie together; those of more rows are gathered. */
static const float *gather_queries(const cpu_program *p, const item *i, float *to)
{
    uint32_t width = i->t->group * i->a->head_dim, col = i->a->q_col + i->head * width;
    if (i->tile->nrow == 1)
        return cpu_row(p, i->a->q, (uint64_t)i->tile->row0, col);
    for (int32_t r = 0; r < i->tile->nrow; r++)
        memcpy(to + (uint64_t)r * width, cpu_row(p, i->a->q, (uint64_t)(i->tile->row0 + r), col),
               width * sizeof *to);
    return to;
}

static item make_item(const cpu_program *p, const cpu_cmd *c, uint32_t tile, uint32_t head,
                      cpu_worker *w)
{
    const cpu_attention *t = c->plan;
    const cpu_tile *rows = &p->tiling[t->tiling].tile[tile];
    item i = {.a = &c->op->a.attend, .t = t, .seq = &p->step->seq[rows->seq], .tile = rows,
              .head = head, .nquery = (uint32_t)rows->nrow * t->group};
    i.query = gather_queries(p, &i, w->query);
    return i;
}

static uint32_t first_run(const cpu_program *p, const item *i)
{
    return (uint32_t)first_seen(i->a, p->pos[i->tile->row0]) / p->run_tokens;
}

static uint32_t end_run(const cpu_program *p, const item *i)
{
    return (uint32_t)last_pos(p, i) / p->run_tokens + 1;
}

/* All runs of a tile and KV head, by one worker. */
static void attend_whole(const cpu_program *p, const item *i, cpu_worker *w)
{
    uint32_t dim = i->a->head_dim;
    sums all = {w->max, w->sum, w->acc};
    sums part = {w->max + CPU_QUERIES, w->sum + CPU_QUERIES, w->part};
    uint32_t run = first_run(p, i), end = end_run(p, i);
    walk_run(p, i, w, run++, &all);
    for (; run < end; run++) {
        walk_run(p, i, w, run, &part);
        for (uint32_t q = 0; q < i->nquery; q++)
            join(&all.max[q], &all.sum[q], all.acc + (uint64_t)q * dim, part.max[q], part.sum[q],
                 part.acc + (uint64_t)q * dim, dim);
    }
    for (uint32_t q = 0; q < i->nquery; q++)
        put_out(p, i->a, (uint64_t)i->tile->row0 + q / i->t->group,
                i->head * i->t->group + q % i->t->group, all.sum[q], all.acc + (uint64_t)q * dim);
}

/* ------------------------------------------------------------------ runs shared out (split) */

/* Where the sums of a run are kept: max, sum, then acc, for one row's query head. */
static float *split_at(const cpu_program *p, const tn_op_attend *a, uint32_t tile, uint32_t head,
                       uint32_t run)
{
    uint64_t size = cpu_round(a->head_dim, 16) + 16;
    return p->split + (((uint64_t)tile * a->q_heads + head) * p->nrun_max + run) * size;
}

static void attend_run(const cpu_program *p, const item *i, cpu_worker *w, uint32_t tile,
                       uint32_t run)
{
    sums part = {w->max, w->sum, w->acc};
    walk_run(p, i, w, run, &part);
    for (uint32_t q = 0; q < i->nquery; q++) {
        float *to = split_at(p, i->a, tile, i->head * i->t->group + q, run);
        to[0] = part.max[q];
        to[1] = part.sum[q];
        memcpy(to + 16, part.acc + (uint64_t)q * i->a->head_dim, i->a->head_dim * sizeof *to);
    }
}

static void join_runs(const cpu_program *p, const item *i, uint32_t tile, uint32_t head)
{
    uint32_t run = first_run(p, i), end = end_run(p, i);
    float *all = split_at(p, i->a, tile, head, run++);
    for (; run < end; run++) {
        const float *part = split_at(p, i->a, tile, head, run);
        join(&all[0], &all[1], all + 16, part[0], part[1], part + 16, i->a->head_dim);
    }
    put_out(p, i->a, (uint64_t)i->tile->row0, head, all[1], all + 16);
}

/* Runs that the longest sequence has, when sharing out runs pays; else 1. */
static uint32_t split_runs(const cpu_program *p, const cpu_cmd *c)
{
    const cpu_attention *t = c->plan;
    const cpu_tiling *tiling = &p->tiling[t->tiling];
    uint32_t most = 1;
    if (tiling->ntile > t->split_tiles)
        return 1;
    for (uint32_t i = 0; i < tiling->ntile; i++) {
        const cpu_tile *tile = &tiling->tile[i];
        uint32_t runs = (uint32_t)p->pos[tile->row0] / p->run_tokens + 1;
        if (tile->nrow != 1)
            return 1;
        most = runs > most ? runs : most;
    }
    return most;
}

static void attend_split(cpu_program *p, const cpu_cmd *c, uint32_t worker, uint32_t runs)
{
    const tn_op_attend *a = &c->op->a.attend;
    const cpu_attention *t = c->plan;
    cpu_worker *w = &p->worker[worker];
    uint64_t ntile = p->tiling[t->tiling].ntile, n, from, to;
    while (cpu_claim(p, worker, ntile * a->kv_heads * runs, &n)) {
        uint32_t run = (uint32_t)(n % runs), head = (uint32_t)(n / runs % a->kv_heads);
        uint32_t tile = (uint32_t)(n / runs / a->kv_heads);
        item i = make_item(p, c, tile, head, w);
        if (run >= first_run(p, &i) && run < end_run(p, &i))
            attend_run(p, &i, w, tile, run);
    }
    cpu_sync(p, worker);
    cpu_share(p, worker, ntile * a->q_heads, &from, &to);
    for (; from < to; from++) {
        uint32_t tile = (uint32_t)(from / a->q_heads), head = (uint32_t)(from % a->q_heads);
        item i = make_item(p, c, tile, head / t->group, w);
        join_runs(p, &i, tile, head);
    }
}

/* Rows of no sequence get zeros. */
static void clear_padding(const cpu_program *p, const tn_op_attend *a, uint32_t worker)
{
    uint64_t from, to;
    cpu_share(p, worker, p->step->nrow, &from, &to);
    for (; from < to; from++)
        if (p->pos[from] < 0)
            memset(cpu_row(p, a->out, from, a->out_col), 0,
                   (uint64_t)a->q_heads * a->head_dim * sizeof(float));
}

void cpu_do_attend(cpu_program *p, const cpu_cmd *c, uint32_t worker)
{
    const tn_op_attend *a = &c->op->a.attend;
    const cpu_attention *t = c->plan;
    uint64_t ntile = p->tiling[t->tiling].ntile, n;
    uint32_t runs = split_runs(p, c);
    clear_padding(p, a, worker);
    if (runs > 1) {
        attend_split(p, c, worker, runs);
        return;
    }
    while (cpu_claim(p, worker, ntile * a->kv_heads, &n)) { /* longest rows of a prompt first */
        uint32_t tile = (uint32_t)(ntile - 1 - n / a->kv_heads);
        item i = make_item(p, c, tile, (uint32_t)(n % a->kv_heads), &p->worker[worker]);
        attend_whole(p, &i, &p->worker[worker]);
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
/* awq_cols.c - lays out the columns of a rectangle so that every form group has one scale.
 *
 * A rectangle cuts the file's groups into pieces: whole groups, a part at either end, or,
 * with act-order, some columns of every group anywhere. Pieces are put one after another and
 * the form's group is chosen to divide them:
 *
 *   file groups of 128, columns 64 .. 320     64 | 128 | 64         group 64, no padding
 *   one scale a row, 576 columns              576                   group 576
 *   act-order, all 1024 columns               128 | 128 | ...       group 128, permuted
 *   act-order, 256 of 1024 columns            37 | 29 | 31 | ...    group 16, permuted, each
 *                                                                   piece padded to a multiple
 *
 * A group that is a multiple of 32 is best for devices, one that divides 32 is next. Pieces
 * of an act-order shard have no common divisor to speak of and differ from one expert of a
 * stack to the next, while a stack has one form: so their group and columns follow from the
 * numbers of columns and groups alone, with room for the worst case. */
#include "awq.h"

/* Bytes that a scale and a zero are reckoned to take on a device. */
#define GROUP_COST 3u

typedef struct pieces {
    const awq_linear *l;
    uint64_t col0, col1;
    uint64_t first, last;    /* file groups touched: first .. last - 1 */
    uint32_t *count;         /* [ngroup] columns of each group, from the host; NULL in order */
    bool shard;              /* act-order, and not all columns */
} pieces;

static uint64_t piece_len(const pieces *p, uint64_t g)
{
    if (p->count != NULL)
        return p->count[g];
    uint64_t from = g * p->l->group, to = from + p->l->group;
    return (to < p->col1 ? to : p->col1) - (from > p->col0 ? from : p->col0);
}

static int32_t order_at(const awq_linear *l, uint64_t col)
{
    return (int32_t)awq_load32((const uint8_t *)l->order + 4 * col);
}

/* Every entry of the g_idx names a group that has a scale. Looked at without branches first:
 * read comes by here for every few rows. */
static tn_status check_order(const awq_linear *l, tn_err *err)
{
    uint32_t bad = 0, limit = (uint32_t)l->ngroup;
    for (uint64_t i = 0; i < l->k; i++)
        bad |= (uint32_t)order_at(l, i) >= limit;
    for (uint64_t i = 0; bad != 0 && i < l->k; i++) {
        int32_t g = order_at(l, i);
        if ((uint32_t)g >= limit)
            return tn_fail(err, TN_DATA, "%s.weight_g_idx: entry %llu is %d, wanted 0 to %u",
                           l->name, (unsigned long long)i, g, limit - 1);
    }
    return TN_OK;
}

/* Counts the columns of each group; *sorted when they already lie group after group. */
static tn_status count_order(const tn_host *h, pieces *p, bool *sorted, tn_err *err)
{
    const awq_linear *l = p->l;
    p->count = h->alloc(h->ctx, l->ngroup * sizeof *p->count);
    if (p->count == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory for %llu groups", l->name,
                       (unsigned long long)l->ngroup);
    memset(p->count, 0, l->ngroup * sizeof *p->count);
    int32_t before = order_at(l, p->col0);
    uint32_t run = 0;
    *sorted = true;
    for (uint64_t i = p->col0; i < p->col1; i++, run++) {
        int32_t g = order_at(l, i);
        if (g == before)
            continue;
        *sorted = *sorted && g > before;
        p->count[before] += run;
        before = g;
        run = 0;
    }
    p->count[before] += run;
    p->first = 0;
    p->last = l->ngroup;
    return TN_OK;
}

static uint64_t common_divisor(const pieces *p)
{
    uint64_t u = 0;
    for (uint64_t g = p->first; g < p->last; g++) {
        uint64_t a = piece_len(p, g);
        while (a != 0) {
            uint64_t rest = u % a;
            u = a;
            a = rest;
        }
    }
    return u;
}

static uint64_t padded_cols(const pieces *p, uint64_t group)
{
    uint64_t cols = p->col1 - p->col0, ngroup = p->l->ngroup < cols ? p->l->ngroup : cols;
    if (p->shard)
        return (cols + ngroup * (group - 1)) / group * group;
    cols = 0;
    for (uint64_t g = p->first; g < p->last; g++)
        cols += (piece_len(p, g) + group - 1) / group * group;
    return cols;
}

/* Counted in half bytes, so that a 4-bit code is one. */
static uint64_t group_cost(const pieces *p, uint32_t kind, uint64_t group)
{
    uint64_t cols = padded_cols(p, group);
    return (kind == TN_FORM_W4G ? cols : 2 * cols) + 2 * GROUP_COST * (cols / group);
}

/* Without a permutation any even divisor will do; a permuted form is gathered anyway, so it
 * may as well be padded to a better group. */
static uint64_t choose_group(const pieces *p, uint32_t kind, bool permuted)
{
    uint64_t u = p->shard ? 1 : common_divisor(p), even = u & (~u + 1);
    if (u % 32 == 0)
        return u;
    if (!permuted && even >= 2)
        return even;
    uint64_t best = even >= 2 ? even : 8, best_cost = group_cost(p, kind, best);
    for (uint64_t group = 8; group <= 32; group *= 2) {
        uint64_t cost = group_cost(p, kind, group);
        if (cost <= best_cost) {
            best = group;
            best_cost = cost;
        }
    }
    return best;
}

static tn_status take_arrays(const tn_host *h, const pieces *p, awq_cols *c, tn_err *err)
{
    uint64_t size = c->ngroup * sizeof *c->source + (c->permuted ? c->cols * 4 : 0);
    c->memory = h->alloc(h->ctx, size);
    if (c->memory == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory for %llu columns", p->l->name,
                       (unsigned long long)c->cols);
    c->source = c->memory;
    c->perm = c->permuted ? (int32_t *)(c->source + c->ngroup) : NULL;
    return TN_OK;
}

/* Fills source, and leaves in `count` where each group's columns begin. */
static void place_groups(const pieces *p, awq_cols *c)
{
    uint64_t next = 0;
    for (uint64_t g = p->first; g < p->last; g++) {
        uint64_t len = piece_len(p, g), n = (len + c->group - 1) / c->group;
        if (p->count != NULL)
            p->count[g] = (uint32_t)(next * c->group);
        for (uint64_t i = 0; i < n; i++)
            c->source[next++] = (uint32_t)g;
    }
    for (; next < c->ngroup; next++)   /* nothing but padding */
        c->source[next] = (uint32_t)(p->last - 1);
}

static void place_columns(const pieces *p, awq_cols *c)
{
    for (uint64_t j = 0; j < c->cols; j++)
        c->perm[j] = -1;
    if (p->count != NULL) {
        for (uint64_t i = p->col0; i < p->col1; i++)
            c->perm[p->count[order_at(p->l, i)]++] = (int32_t)(i - p->col0);
        return;
    }
    uint64_t at = 0, col = 0;
    for (uint64_t g = p->first; g < p->last; g++) {
        uint64_t len = piece_len(p, g);
        for (uint64_t i = 0; i < len; i++)
            c->perm[at + i] = (int32_t)col++;
        at += (len + c->group - 1) / c->group * c->group;
    }
}

tn_status awq_cols_open(const tn_host *h, const awq_linear *l, uint64_t col0, uint64_t col1,
                        bool arrays, awq_cols *out, tn_err *err)
{
    pieces p = {.l = l, .col0 = col0, .col1 = col1};
    awq_cols c = {.col0 = col0, .col1 = col1};
    bool sorted = true;
    tn_status st = TN_OK;
    p.first = col0 / l->group;
    p.last = (col1 - 1) / l->group + 1;
    if (l->order != NULL) {
        st = check_order(l, err);
        if (st == TN_OK)
            st = count_order(h, &p, &sorted, err);
        if (st != TN_OK)
            return st;
    }
    p.shard = !sorted && (col0 != 0 || col1 != l->k);
    c.group = choose_group(&p, awq_linear_kind(l), !sorted);
    c.cols = padded_cols(&p, c.group);
    if (c.cols >> 31 != 0)
        st = tn_fail(err, TN_DATA, "%s: %llu columns with padding, wanted less than 2147483648",
                     l->name, (unsigned long long)c.cols);
    c.ngroup = c.cols / c.group;
    c.permuted = !sorted || c.cols != col1 - col0;
    if (st == TN_OK && arrays)
        st = take_arrays(h, &p, &c, err);
    if (st == TN_OK && arrays) {
        place_groups(&p, &c);
        if (c.permuted)
            place_columns(&p, &c);
    }
    if (p.count != NULL)
        h->release(h->ctx, p.count);
    if (st == TN_OK)
        *out = c;
    return st;
}

void awq_cols_close(const tn_host *h, awq_cols *c)
{
    if (c->memory != NULL)
        h->release(h->ctx, c->memory);
    *c = (awq_cols){0};
}

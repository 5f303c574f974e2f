/* SPDX-License-Identifier: Apache-2.0 */
/* compile.c - from operations to commands.
 *
 * Fused where it saves a walk over memory or a barrier:
 *
 *     NORM, LINEAR           the row is normed where it is made ready for multiplying
 *     LINEAR, ACT_MUL        gate and up strips are multiplied side by side and joined while
 *                            they are in the cache; their buffer is never formed
 *     LINEAR, LOGITS, SAMPLE logits of a few output rows at a time; looked at as they come
 */
#include "program.h"

/* ------------------------------------------------------------------------ who reads what */

static bool covers(const cpu_use *u, uint32_t buffer, uint32_t col, uint64_t width)
{
    return u->buffer == buffer && u->col <= col && col + width <= (uint64_t)u->col + u->width;
}

static bool meets(const cpu_use *u, uint32_t buffer, uint32_t col, uint64_t width)
{
    return u->buffer == buffer && u->col < col + width && col < (uint64_t)u->col + u->width;
}

/* Whether an operation from `op` on reads these columns before they are written anew. */
static bool read_later(const cpu_program *p, const cpu_section *s, uint32_t op, uint32_t buffer,
                       uint32_t col, uint64_t width)
{
    if ((p->buffer[buffer].flags & TN_BUF_KEEP) != 0)
        return true;
    for (; op < s->op0 + s->nop; op++) {
        bool replaced = false;
        for (uint32_t i = 0; i < p->op[op].nuse; i++) {
            const cpu_use *u = &p->op[op].use[i];
            if ((u->mode & CPU_READ) != 0 && meets(u, buffer, col, width))
                return true;
            replaced = replaced || (u->mode == CPU_WRITE && covers(u, buffer, col, width));
        }
        if (replaced)
            return false;
    }
    return false;
}

static bool writes(const cpu_op *op, uint32_t buffer, uint32_t col, uint64_t width)
{
    for (uint32_t i = 0; i < op->nuse; i++)
        if ((op->use[i].mode & CPU_WRITE) != 0 && meets(&op->use[i], buffer, col, width))
            return true;
    return false;
}

/* ------------------------------------------------------------------------------ commands */

/* The buffer has memory: a command reads or writes it. */
static void touch(cpu_program *p, uint32_t buffer)
{
    p->buffer[buffer].formed = 1;
}

static void touch_all(cpu_program *p, const cpu_op *op)
{
    for (uint32_t i = 0; i < op->nuse; i++)
        touch(p, op->use[i].buffer);
}

static cpu_cmd *add_cmd(cpu_program *p, cpu_cmd_fn fn, const cpu_op *op, const void *plan)
{
    p->cmd[p->ncmd] = (cpu_cmd){.fn = fn, .op = op, .plan = plan};
    return &p->cmd[p->ncmd++];
}

static tn_status no_memory(tn_err *err, const cpu_op *op)
{
    return tn_fail(err, TN_NO_MEMORY, "cpu: no memory to compile operation %s", op->name);
}

static void keep_max(uint64_t *most, uint64_t v)
{
    *most = v > *most ? v : *most;
}

static void keep_max32(uint32_t *most, uint32_t v)
{
    *most = v > *most ? v : *most;
}

/* ------------------------------------------------------------------------ LINEAR and kin */

static uint32_t set_for(const cpu_program *p, cpu_linear *l, const cpu_weight *w)
{
    cpu_set s;
    cpu_set_init(&s, p, w, l->k);
    for (uint32_t i = 0; i < l->nset; i++)
        if (l->set[i].weight == s.weight && l->set[i].quant == s.quant &&
            l->set[i].cols == s.cols)
            return i;
    if (l->nset > 0)
        s.before = l->set[l->nset - 1].before + l->set[l->nset - 1].row_size;
    l->set[l->nset] = s;
    return l->nset++;
}

static void add_part(const cpu_program *p, cpu_linear *l, const tn_part *part, uint64_t strip0,
                     uint64_t nstrip)
{
    const cpu_weight *w = &p->weight[part->w];
    cpu_linear_part *to = &l->part[l->npart++];
    *to = (cpu_linear_part){.w = w, .out = part->out, .col = part->col, .strip0 = strip0,
                            .nstrip = nstrip};
    to->bias = part->bias != TN_NONE ? &p->weight[part->bias] : NULL;
    to->set = set_for(p, l, w);
}

static uint64_t strips_of(const cpu_weight *w)
{
    return cpu_round(w->spec.n, CPU_STRIP) / CPU_STRIP;
}

static uint64_t strip_size(const cpu_weight *w)
{
    return w->piece_size / strips_of(w) + 1;
}

/* Each worker's run of units, even in bytes. */
static bool cut_units(cpu_program *p, cpu_linear *l)
{
    uint64_t all = 0, seen = 0, unit = 0;
    uint32_t worker = 0;
    l->cut = cpu_take(p, (uint64_t)p->nthread + 1, sizeof *l->cut);
    if (l->cut == NULL)
        return false;
    uint32_t npart = l->act != 0 ? 1 : l->npart;
    for (uint32_t i = 0; i < npart; i++) {
        l->nunit += l->part[i].nstrip;
        all += l->part[i].nstrip * strip_size(l->part[i].w);
    }
    for (uint32_t i = 0; i < npart; i++)
        for (uint64_t s = 0; s < l->part[i].nstrip; s++, unit++) {
            while (worker < p->nthread && seen * p->nthread >= all * worker)
                l->cut[worker++] = unit;
            seen += strip_size(l->part[i].w);
        }
    while (worker <= p->nthread)
        l->cut[worker++] = l->nunit;
    l->unit_size = all / l->nunit * (l->act != 0 ? 2 : 1);
    return true;
}

/* LINEAR at `op` may swallow the NORM before it: nobody may write what that NORM reads while
 * some worker still norms its own copy of the row. */
static bool can_norm(const cpu_program *p, const cpu_section *s, uint32_t norm)
{
    const tn_op_norm *n = &p->op[norm].a.norm;
    if (norm + 1 >= s->op0 + s->nop || p->op[norm + 1].kind != TN_OP_LINEAR || n->groups > 1)
        return false;
    const cpu_op *next = &p->op[norm + 1];
    const tn_op_linear *l = &next->a.linear;
    return l->in == n->out && l->in_col == n->out_col &&
           p->weight[l->part[0].w].spec.k == n->width && !writes(next, n->in, n->in_col, n->width)
           && !writes(next, n->out, n->out_col, n->width);
}

/* The part of LINEAR that holds `width` columns from `col` on, beginning on a strip. */
static const tn_part *part_holding(const cpu_program *p, const tn_op_linear *l, uint32_t buffer,
                                   uint32_t col, uint32_t width)
{
    for (uint32_t i = 0; i < l->nparts; i++) {
        const tn_part *part = &l->part[i];
        if (part->out == buffer && part->col <= col && (col - part->col) % CPU_STRIP == 0 &&
            (uint64_t)col + width <= part->col + p->weight[part->w].spec.n)
            return part;
    }
    return NULL;
}

/* LINEAR at `op` and the ACT_MUL behind it, when all that LINEAR makes is gate and up and only
 * ACT_MUL wants them. A half that is no whole matrix must end on a strip. */
static bool can_act(const cpu_program *p, const cpu_section *s, uint32_t norm, uint32_t op,
                    const tn_part **gate, const tn_part **up)
{
    const tn_op_linear *l = &p->op[op].a.linear;
    if (op + 1 >= s->op0 + s->nop || p->op[op + 1].kind != TN_OP_ACT_MUL || l->add != 0)
        return false;
    const tn_op_act_mul *a = &p->op[op + 1].a.act_mul;
    uint64_t made = 0;
    for (uint32_t i = 0; i < l->nparts; i++)
        made += p->weight[l->part[i].w].spec.n;
    *gate = part_holding(p, l, a->in, a->a_col, a->width);
    *up = part_holding(p, l, a->in, a->b_col, a->width);
    if (*gate == NULL || *up == NULL || made != 2 * (uint64_t)a->width ||
        (*gate == *up && a->width % CPU_STRIP != 0) || a->a_col == a->b_col)
        return false;
    const tn_op_norm *n = norm != TN_NONE ? &p->op[norm].a.norm : NULL;
    if (writes(&p->op[op + 1], l->in, l->in_col, p->weight[l->part[0].w].spec.k) ||
        (n != NULL && writes(&p->op[op + 1], n->in, n->in_col, n->width)))
        return false;
    return a->out != a->in && !read_later(p, s, op + 2, a->in, a->a_col, a->width) &&
           !read_later(p, s, op + 2, a->in, a->b_col, a->width);
}

static bool can_head(const cpu_program *p, const cpu_section *s, uint32_t op)
{
    const tn_op_linear *l = &p->op[op].a.linear;
    if (op + 2 >= s->op0 + s->nop || p->op[op + 1].kind != TN_OP_LOGITS ||
        p->op[op + 2].kind != TN_OP_SAMPLE || p->lim.profile != 0 || l->nparts != 1 ||
        l->add != 0)
        return false;
    uint32_t x = l->part[0].out, vocab = p->op[op + 1].a.logits.vocab;
    return p->op[op + 1].a.logits.x == x && p->op[op + 2].a.sample.x == x &&
           p->weight[l->part[0].w].spec.n == vocab && !read_later(p, s, op + 3, x, 0, vocab);
}

static void fill_parts(cpu_program *p, cpu_linear *l, const cpu_op *op, bool head)
{
    for (uint32_t i = 0; i < op->a.linear.nparts; i++) {
        const tn_part *part = &op->a.linear.part[i];
        add_part(p, l, part, 0, strips_of(&p->weight[part->w]));
        if (!head)
            touch(p, part->out);
    }
}

static void fill_act(cpu_program *p, cpu_linear *l, const tn_op_act_mul *a, const tn_part *gate,
                     const tn_part *up)
{
    uint64_t nstrip = cpu_round(a->width, CPU_STRIP) / CPU_STRIP;
    l->act = a->act;
    l->act_width = a->width;
    l->out = a->out;
    add_part(p, l, gate, (a->a_col - gate->col) / CPU_STRIP, nstrip);
    add_part(p, l, up, (a->b_col - up->col) / CPU_STRIP, nstrip);
    touch(p, a->out);
}

static void fill_norm(cpu_program *p, const cpu_section *s, cpu_linear *l, uint32_t norm)
{
    const tn_op_norm *n = &p->op[norm].a.norm;
    l->norm = n;
    l->norm_formed = p->lim.profile != 0 ||
                     read_later(p, s, norm + 2, n->out, n->out_col, n->width);
    touch(p, n->in);
    if (l->norm_formed)
        touch(p, n->out);
    keep_max32(&p->row_floats, (uint32_t)cpu_round(n->width, 16));
}

static tn_status add_head(cpu_program *p, const cpu_section *s, uint32_t op, cpu_linear *linear,
                          tn_err *err);

/* Adds the command for LINEAR at *op, with the NORM at `norm` unless that is TN_NONE, and
 * leaves *op at the last operation it took. */
static tn_status add_linear(cpu_program *p, const cpu_section *s, uint32_t norm, uint32_t *op,
                            tn_err *err)
{
    const cpu_op *o = &p->op[*op];
    const tn_op_linear *a = &o->a.linear;
    const tn_part *gate, *up;
    cpu_linear *l = cpu_take(p, 1, sizeof *l);
    if (l == NULL)
        return no_memory(err, o);
    *l = (cpu_linear){.in = a->in, .in_col = a->in_col, .add = a->add,
                      .k = p->weight[a->part[0].w].spec.k};
    if (norm != TN_NONE)
        fill_norm(p, s, l, norm);
    else
        touch(p, a->in);
    bool act = can_act(p, s, norm, *op, &gate, &up), head = !act && can_head(p, s, *op);
    if (act)
        fill_act(p, l, &p->op[*op + 1].a.act_mul, gate, up);
    else
        fill_parts(p, l, o, head);
    const cpu_set *last = &l->set[l->nset - 1];
    keep_max(&p->act_row_size, last->before + last->row_size);
    if (head) {
        *op += 2;
        return add_head(p, s, *op - 1, l, err);
    }
    if (!cut_units(p, l))
        return no_memory(err, o);
    add_cmd(p, cpu_do_linear, o, l)->linear = l;
    *op += act ? 1 : 0;
    return TN_OK;
}

/* ------------------------------------------------------------------------------- the rest */

#define LOGITS_SIZE (10u << 20)   /* of the logits that are looked at together */
#define LOGITS_ROWS 16u

/* Each worker's segments of the vocabulary, in strips. */
static bool cut_head(cpu_program *p, cpu_linear *l, uint64_t nsegment)
{
    l->cut = cpu_take(p, (uint64_t)p->nthread + 1, sizeof *l->cut);
    for (uint32_t i = 0; l->cut != NULL && i <= p->nthread; i++)
        l->cut[i] = nsegment * i / p->nthread * (CPU_SEGMENT / CPU_STRIP);
    return l->cut != NULL;
}

/* LOGITS at `op` and the SAMPLE behind it. */
static tn_status add_head(cpu_program *p, const cpu_section *s, uint32_t op, cpu_linear *linear,
                          tn_err *err)
{
    const cpu_op *o = &p->op[op];
    const tn_op_logits *a = &o->a.logits;
    if (op + 1 >= s->op0 + s->nop || o[1].kind != TN_OP_SAMPLE || o[1].a.sample.x != a->x ||
        o[1].a.sample.vocab != a->vocab)
        return cpu_bad_op(p, o, TN_UNSUPPORTED, err, "expected SAMPLE on the same buffer right "
                          "after it");
    cpu_head *h = cpu_take(p, 1, sizeof *h);
    if (h == NULL)
        return no_memory(err, o);
    uint64_t row = cpu_round(a->vocab, 16), fit = LOGITS_SIZE / (row * sizeof(float));
    *h = (cpu_head){.linear = linear, .x = a->x, .vocab = a->vocab, .valid = a->valid,
                    .softcap = a->softcap, .logits = o, .sample = o + 1};
    h->chunk = fit > LOGITS_ROWS ? LOGITS_ROWS : fit < 1 ? 1 : (uint32_t)fit;
    h->chunk = h->chunk < p->lim.outs_max ? h->chunk : p->lim.outs_max;
    h->nsegment = (a->vocab + CPU_SEGMENT - 1) / CPU_SEGMENT;
    if (linear != NULL && !cut_head(p, linear, h->nsegment))
        return no_memory(err, o);
    if (linear == NULL)
        touch_all(p, o);
    else
        keep_max(&p->logits_floats, h->chunk * row);
    keep_max32(&p->logits_rows, h->chunk);
    keep_max32(&p->ndraw, h->chunk < p->nthread ? h->chunk : p->nthread);
    if (p->ndraw > CPU_DRAWS_MAX)
        p->ndraw = CPU_DRAWS_MAX;
    add_cmd(p, cpu_do_head, o, h)->linear = linear;
    return TN_OK;
}

static uint32_t tiling_for(cpu_program *p, uint32_t group)
{
    const uint32_t room = sizeof p->tiling / sizeof p->tiling[0];
    uint32_t rows = group <= CPU_QUERIES_MANY ? CPU_QUERIES_MANY / group : 1;
    for (uint32_t i = 0; i < p->ntiling; i++)
        if (p->tiling[i].rows == rows || i + 1 == room) {
            if (p->tiling[i].rows > rows)
                p->tiling[i].rows = rows;
            return i;
        }
    p->tiling[p->ntiling].rows = rows;
    return p->ntiling++;
}

static tn_status add_attend(cpu_program *p, const cpu_op *op, tn_err *err)
{
    const tn_op_attend *a = &op->a.attend;
    cpu_attention *t = cpu_take(p, 1, sizeof *t);
    if (t == NULL)
        return no_memory(err, op);
    *t = (cpu_attention){.cache = &p->cache[a->cache], .group = a->q_heads / a->kv_heads};
    t->tiling = tiling_for(p, t->group);
    t->split_tiles = p->nthread > 1 ? (4 * p->nthread - 1) / a->kv_heads : 0;
    keep_max32(&p->dim_max, (uint32_t)cpu_round(a->head_dim, 16));
    keep_max(&p->split_floats, (uint64_t)t->split_tiles * a->q_heads * p->nrun_max *
             (cpu_round(a->head_dim, 16) + 16));
    touch_all(p, op);
    add_cmd(p, cpu_do_attend, op, t);
    return TN_OK;
}

static tn_status add_experts(cpu_program *p, const cpu_op *op, tn_err *err)
{
    const tn_op_experts *a = &op->a.experts;
    cpu_experts *e = cpu_take(p, 1, sizeof *e);
    if (e == NULL)
        return no_memory(err, op);
    cpu_experts_init(e, p, a);
    keep_max(&p->experts_size, cpu_experts_size(e, a));
    keep_max(&p->pair_floats, (uint64_t)e->pairs_max * CPU_STRIP);
    keep_max(&p->pair_floats, CPU_WIDE);
    touch_all(p, op);
    add_cmd(p, cpu_do_experts, op, e);
    return cpu_shelf_open(p, a, &e->shelf, err);
}

static void add_sum(cpu_program *p, const cpu_op *op)
{
    const cpu_buffer *b = &p->buffer[op->a.sum.x];
    if (p->lim.nrank == 1)
        return;
    if (b->stride != op->a.sum.width)
        keep_max(&p->gather_floats, cpu_rows_max(p, b->rows) * op->a.sum.width);
    touch_all(p, op);
    add_cmd(p, cpu_do_sum, op, NULL);
}

static void add_gather(cpu_program *p, const cpu_op *op)
{
    const tn_op_gather *a = &op->a.gather;
    uint64_t rows = cpu_rows_max(p, p->buffer[a->in].rows);
    if (p->lim.nrank > 1)
        keep_max(&p->gather_floats, rows * a->width * (p->lim.nrank + 1));
    touch_all(p, op);
    add_cmd(p, cpu_do_gather, op, NULL);
}

static void add_delta(cpu_program *p, const cpu_op *op)
{
    const tn_op_delta *a = &op->a.delta;
    keep_max32(&p->delta_floats, cpu_delta_floats(p, a));
    touch_all(p, op);
    add_cmd(p, cpu_do_delta, op, NULL);
}

static void add_plain(cpu_program *p, const cpu_op *op)
{
    static const cpu_cmd_fn fn[] = {
        [TN_OP_EMBED] = cpu_do_embed, [TN_OP_NORM] = cpu_do_norm,
        [TN_OP_ACT_MUL] = cpu_do_act_mul, [TN_OP_HEADS] = cpu_do_heads,
        [TN_OP_ROUTE] = cpu_do_route, [TN_OP_MIX] = cpu_do_mix,
        [TN_OP_CONCAT] = cpu_do_concat, [TN_OP_PICK] = cpu_do_pick,
    };
    if (op->kind == TN_OP_ROUTE)
        keep_max32(&p->row_floats, (uint32_t)cpu_round(op->a.route.nexpert, 16));
    touch_all(p, op);
    add_cmd(p, fn[op->kind], op, NULL);
}

/* Adds the command that begins with operation *i and leaves *i at the last one it took. */
static tn_status lower(cpu_program *p, const cpu_section *s, uint32_t *i, tn_err *err)
{
    const cpu_op *op = &p->op[*i];
    switch (op->kind) {
    case TN_OP_NORM:
        if (can_norm(p, s, *i)) {
            (*i)++;
            return add_linear(p, s, *i - 1, i, err);
        }
        add_plain(p, op);
        return TN_OK;
    case TN_OP_LINEAR:
        return add_linear(p, s, TN_NONE, i, err);
    case TN_OP_LOGITS:
        (*i)++;
        return add_head(p, s, *i - 1, NULL, err);
    case TN_OP_SAMPLE:
        return cpu_bad_op(p, op, TN_UNSUPPORTED, err, "expected LOGITS on the same buffer right "
                          "before it");
    case TN_OP_ATTEND:
        return add_attend(p, op, err);
    case TN_OP_EXPERTS:
        return add_experts(p, op, err);
    case TN_OP_SUM:
        add_sum(p, op);
        return TN_OK;
    case TN_OP_GATHER:
        add_gather(p, op);
        return TN_OK;
    case TN_OP_DELTA:
        add_delta(p, op);
        return TN_OK;
    default:
        add_plain(p, op);
        return TN_OK;
    }
}

/* Runs of tokens are long enough that 64 of them cover the context. */
static void choose_runs(cpu_program *p)
{
    uint64_t block = p->lim.block_tokens > 0 ? p->lim.block_tokens : 1;
    uint64_t run = cpu_round((uint64_t)p->lim.context_max / 64 + 1, block);
    p->run_tokens = (uint32_t)(run < 256 ? cpu_round(256, block) : run);
    p->nrun_max = (p->lim.context_max + p->run_tokens - 1) / p->run_tokens;
}

tn_status cpu_compile(cpu_program *p, tn_err *err)
{
    p->cmd = cpu_take(p, p->nop, sizeof *p->cmd);
    if (p->cmd == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cpu: no memory for %u commands", p->nop);
    choose_runs(p);
    for (uint32_t i = 0; i < p->nop; i++)
        if (p->op[i].kind == TN_OP_LOGITS)
            keep_max32(&p->vocab_max, p->op[i].a.logits.vocab);
    for (uint32_t s = 0; s < p->nsection; s++) {
        cpu_section *section = &p->section[s];
        section->cmd0 = p->ncmd;
        for (uint32_t i = section->op0; i < section->op0 + section->nop; i++)
            if (p->op[i].kind == TN_OP_SAMPLE)
                section->vocab = p->op[i].a.sample.vocab;
        for (uint32_t i = section->op0; i < section->op0 + section->nop; i++) {
            uint32_t from = i, ncmd = p->ncmd;
            tn_status st = lower(p, section, &i, err);
            if (st != TN_OK)
                return st;
            if (p->ncmd > ncmd) { /* several commands of one operation: the first stands for all */
                p->cmd[ncmd].first = &p->op[from];
                p->cmd[ncmd].nop = i + 1 - from;
            }
        }
        section->ncmd = p->ncmd - section->cmd0;
    }
    return cpu_place_buffers(p, err);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* culower.c - operations become commands.
 *
 * It runs twice: at compile, without memory, to check and to learn what the workspace must
 * hold; and after reserve, to make the commands with their pointers. */
#include "cuprogram.h"

#include <stdarg.h>

typedef struct lowering {
    cu_program *p;
    bool count;                /* no memory yet: only check and count */
    uint32_t op;               /* the operation that is lowered */
    uint32_t early[2];         /* LINEAR and ACT_MUL that an earlier LINEAR took along */
    uint32_t routed;           /* ROUTE that the EXPERTS behind it does; TN_NONE: none */
    gpu_experts *deferred;     /* experts whose sums the operation at `combine` adds up */
    uint32_t combine;
    cu_cmd nowhere;            /* written and never read, when counting or failing */
    tn_err *err;
    tn_status st;
} lowering;

static const char *const words[] = {
    "?", "EMBED", "NORM", "LINEAR", "ACT_MUL", "HEADS", "ATTEND", "DELTA", "ROUTE", "EXPERTS",
    "MIX", "CONCAT", "PICK", "SUM", "GATHER", "LOGITS", "SAMPLE",
};

static void fail(lowering *w, tn_status st, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void fail(lowering *w, tn_status st, const char *fmt, ...)
{
    if (w->st != TN_OK)
        return;
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    const tn_op *op = cu_op(w->p, w->op);
    w->st = tn_fail(w->err, st, "cuda: recipe %s: operation %u %s (%s): %s", w->p->name, w->op,
                    op->name != NULL ? op->name : "?",
                    words[op->kind <= TN_OP_SAMPLE ? op->kind : 0], text);
}

/* ------------------------------------------------------------------------- what is there */

/* The columns of a buffer, which must have them. */
static gpu_span span(lowering *w, uint32_t buffer, uint32_t col, uint64_t width)
{
    if (w->st == TN_OK && (buffer >= w->p->nbuffer || width < 1 ||
                           col + width > w->p->buffer[buffer].width))
        fail(w, TN_INTERNAL, "columns %u + %llu of buffer %u", col, (unsigned long long)width,
             buffer);
    return w->st == TN_OK ? cu_span(w->p, buffer, col) : (gpu_span){0};
}

static const cu_weight *weight(lowering *w, uint32_t i, bool vector)
{
    if (w->st == TN_OK && i >= w->p->nweight)
        fail(w, TN_INTERNAL, "weight %u of %u", i, w->p->nweight);
    else if (w->st == TN_OK && (w->p->weight[i].spec.role == TN_ROLE_VECTOR) != vector)
        fail(w, TN_INTERNAL, "weight %s is %s", w->p->weight[i].spec.name,
             vector ? "no vector" : "a vector");
    return w->st == TN_OK ? &w->p->weight[i] : NULL;
}

static const float *vector(lowering *w, uint32_t i, uint64_t count)
{
    if (i == TN_NONE)
        return NULL;
    const cu_weight *v = weight(w, i, true);
    if (v != NULL && v->spec.n * v->spec.k != count)
        fail(w, TN_INTERNAL, "weight %s has %llu elements; expected %llu", v->spec.name,
             (unsigned long long)(v->spec.n * v->spec.k), (unsigned long long)count);
    return w->st == TN_OK ? v->vector : NULL;
}

static uint32_t rows_kind(const lowering *w, uint32_t buffer)
{
    return w->st == TN_OK ? w->p->buffer[buffer].rows : TN_ROWS_TOKENS;
}

static uint32_t rows_index(const lowering *w, uint32_t buffer)
{
    return cu_rows_index(rows_kind(w, buffer));
}

static cu_cmd *add(lowering *w, enum cu_call call)
{
    cu_program *p = w->p;
    if (w->st != TN_OK || w->count) {
        p->cmd_max += w->count;
        return &w->nowhere;
    }
    cu_cmd *c = &p->cmd[p->ncmd++];
    *c = (cu_cmd){.call = call, .op = w->op};
    return c;
}

static void keep_most(uint64_t *most, uint64_t v)
{
    *most = v > *most ? v : *most;
}

static void check_act(lowering *w, uint32_t act)
{
    if (act != TN_ACT_SILU && act != TN_ACT_GELU && act != TN_ACT_GELU_TANH)
        fail(w, TN_UNSUPPORTED, "activation %u; expected silu, gelu or gelu_tanh", act);
}

/* Kernels take these columns two at a time. */
static void want_even(lowering *w, uint32_t a, uint32_t b, uint32_t c)
{
    if ((a | b | c) % 2 != 0)
        fail(w, TN_UNSUPPORTED, "columns begin at %u, %u, %u; expected even ones", a, b, c);
}

/* Rows of one kind on both sides. */
static void want_same_rows(lowering *w, uint32_t a, uint32_t b)
{
    if (w->st == TN_OK && w->p->buffer[a].rows != w->p->buffer[b].rows)
        fail(w, TN_INTERNAL, "buffers %s and %s have rows of different kinds",
             w->p->buffer[a].name, w->p->buffer[b].name);
}

/* -------------------------------------------------------------------------------- pairing */

static bool reads(const cu_program *p, const tn_op *op, uint32_t buffer)
{
    switch (op->kind) {
    case TN_OP_NORM: return ((const tn_op_norm *)op->args)->in == buffer;
    case TN_OP_LINEAR: {
        const tn_op_linear *a = op->args;
        bool yes = a->in == buffer;
        for (uint32_t i = 0; i < a->nparts; i++)
            yes = yes || (a->add && a->part[i].out == buffer);
        return yes;
    }
    case TN_OP_ACT_MUL: return ((const tn_op_act_mul *)op->args)->in == buffer;
    case TN_OP_EMBED: return false;
    case TN_OP_ROUTE: return ((const tn_op_route *)op->args)->in == buffer;
    case TN_OP_MIX: {
        const tn_op_mix *a = op->args;
        return a->in == buffer || a->gate == buffer || (a->add && a->out == buffer);
    }
    case TN_OP_EXPERTS: {
        const tn_op_experts *a = op->args;
        return a->in == buffer || (a->add && a->out == buffer);
    }
    case TN_OP_HEADS: return ((const tn_op_heads *)op->args)->x == buffer;
    case TN_OP_DELTA: {
        const tn_op_delta *a = op->args;
        return a->qkv == buffer || a->z == buffer || a->a == buffer || a->b == buffer;
    }
    case TN_OP_PICK: return ((const tn_op_pick *)op->args)->in == buffer;
    case TN_OP_SUM: return ((const tn_op_sum *)op->args)->x == buffer;
    case TN_OP_LOGITS: return ((const tn_op_logits *)op->args)->x == buffer;
    case TN_OP_ATTEND: {
        const tn_op_attend *a = op->args;
        return a->q == buffer || a->gate == buffer;
    }
    default: (void)p; return op->kind != TN_OP_SAMPLE;
    }
}

/* LINEAR at `op` writes the buffer whole. */
static bool rewrites(const cu_program *p, const tn_op *op, uint32_t buffer)
{
    const tn_op_linear *a = op->args;
    uint64_t width = 0;
    if (op->kind != TN_OP_LINEAR || a->add)
        return false;
    for (uint32_t i = 0; i < a->nparts; i++)
        width += a->part[i].out == buffer ? p->weight[a->part[i].w].spec.n : 0;
    return width == p->buffer[buffer].width;
}

/* Nobody reads the buffer from operation `from` on before it is written anew. */
static bool forgotten(const cu_program *p, uint32_t from, uint32_t end, uint32_t buffer)
{
    for (uint32_t i = from; i < end; i++) {
        if (reads(p, cu_op(p, i), buffer))
            return false;
        if (rewrites(p, cu_op(p, i), buffer))
            return true;
    }
    return p->nsection == 1;
}

static bool same_form(const tn_weight_spec *a, const tn_weight_spec *b)
{
    return a->form.kind == b->form.kind && a->form.group == b->form.group && a->n == b->n &&
           a->k == b->k && a->form.cols == b->form.cols && a->requant == b->requant &&
           ((a->form.flags | b->form.flags) & TN_FORM_PERM) == 0;
}

/* The weight is used by this operation alone. */
static bool used_once(const cu_program *p, uint32_t w)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->nop; i++) {
        const tn_op *op = cu_op(p, i);
        const tn_op_linear *a = op->args;
        if (op->kind == TN_OP_EMBED)
            n += 2 * (((const tn_op_embed *)op->args)->w == w);
        for (uint32_t j = 0; op->kind == TN_OP_LINEAR && j < a->nparts; j++)
            n += a->part[j].w == w;
    }
    return n == 1;
}

bool cu_is_pair(const cu_program *p, uint32_t section_end, uint32_t op, uint32_t *gate,
                uint32_t *up)
{
    const tn_op_linear *l = cu_op(p, op)->args;
    if (cu_op(p, op)->kind != TN_OP_LINEAR || op + 1 >= section_end || l->add ||
        p->lim.profile != 0 || cu_op(p, op + 1)->kind != TN_OP_ACT_MUL || l->nparts > 2)
        return false;
    const tn_op_act_mul *a = cu_op(p, op + 1)->args;
    for (uint32_t i = 0; i < l->nparts; i++)
        if (l->part[i].w >= p->nweight || l->part[i].out != a->in || !used_once(p, l->part[i].w))
            return false;
    if (a->out == a->in || a->out == l->in || a->in >= p->nbuffer || a->out >= p->nbuffer ||
        a->out == a->in || !forgotten(p, op + 2, section_end, a->in))
        return false;
    const tn_weight_spec *first = &p->weight[l->part[0].w].spec;
    if (l->nparts == 1) {
        *gate = *up = l->part[0].w;
        return first->n == 2 * (uint64_t)a->width && a->a_col == l->part[0].col &&
               a->b_col == a->a_col + a->width;
    }
    *gate = l->part[0].col == a->a_col ? l->part[0].w : l->part[1].w;
    *up = l->part[0].col == a->b_col ? l->part[0].w : l->part[1].w;
    return *gate != *up && first->n == a->width && a->a_col != a->b_col &&
           (l->part[0].col == a->a_col || l->part[1].col == a->a_col) &&
           (l->part[0].col == a->b_col || l->part[1].col == a->b_col) &&
           l->part[0].bias == TN_NONE && l->part[1].bias == TN_NONE &&
           same_form(&p->weight[*gate].spec, &p->weight[*up].spec) &&
           (p->weight[*gate].spec.form.flags & TN_FORM_ZEROS) ==
               (p->weight[*up].spec.form.flags & TN_FORM_ZEROS);
}

/* --------------------------------------------------------------------------------- LINEAR */

/* Rows of `in` as halves for a product: as they lie, or made and gathered in `act`; *turned:
 * that place in any case. */
static void inputs(lowering *w, uint32_t buffer, uint32_t col, const cu_weight *v,
                   const int32_t *perm, bool permuted, const uint16_t **x, uint32_t *ldx,
                   uint32_t *k, uint16_t **turned)
{
    cu_program *p = w->p;
    gpu_span in = span(w, buffer, col, v->spec.k);
    uint32_t cols = v->m.cols;
    uint16_t *to = (uint16_t *)(void *)(p->work.data + p->act_at);
    keep_most(&p->act_size, cu_rows_max(p, rows_kind(w, buffer)) * cols * sizeof(uint16_t));
    *turned = to;
    bool plain = in.type == TN_F16 && col % 8 == 0 && v->spec.k % 8 == 0 && !permuted;
    if (plain) {
        *x = in.data;
        *ldx = in.stride;
        *k = (uint32_t)v->spec.k;
        return;
    }
    cu_cmd *c = add(w, CU_PREPARE);
    c->a.prepare.in = in;
    c->a.prepare.perm = perm;
    c->a.prepare.k = (uint32_t)v->spec.k;
    c->a.prepare.cols = cols;
    c->a.prepare.rows = rows_index(w, buffer);
    c->a.prepare.out = to;
    *x = to;
    *ldx = *k = cols;
}

static bool joins(const gpu_matrix *a, const gpu_matrix *b)
{
    return a->form == b->form && a->cols == b->cols && a->group == b->group &&
           (a->zero_size != 0) == (b->zero_size != 0);
}

static uint32_t pair_ahead(const lowering *w, const tn_op_linear *a, uint32_t section_end);
static void take_along(lowering *w, gpu_linear *l, uint32_t op, uint32_t section_end);

/* Parts [from, ..) of `a` that `done` does not hold and that share a launch with part `from`. */
static void launch_parts(lowering *w, const tn_op_linear *a, uint32_t from, uint32_t *done,
                         uint32_t section_end)
{
    cu_program *p = w->p;
    const cu_weight *first = weight(w, a->part[from].w, false);
    if (first == NULL)
        return;
    bool permuted = (first->spec.form.flags & TN_FORM_PERM) != 0;
    gpu_linear *l = w->count ? NULL : cu_take(p, 1, sizeof *l), scratch;
    if (!w->count && l == NULL) {
        fail(w, TN_NO_MEMORY, "no memory for its arguments");
        return;
    }
    l = l != NULL ? l : &scratch;
    *l = (gpu_linear){.rows = rows_index(w, a->in), .add = a->add};
    inputs(w, a->in, a->in_col, first, first->m.perm, permuted, &l->x, &l->ldx, &l->k,
           &l->turned);
    for (uint32_t i = from; i < a->nparts && w->st == TN_OK; i++) {
        const cu_weight *v = weight(w, a->part[i].w, false);
        bool own = v != NULL && (v->spec.form.flags & TN_FORM_PERM) != 0;
        if (v == NULL || (*done >> i & 1) != 0 || !joins(&v->m, &first->m) ||
            (i != from && (own || permuted)))
            continue;
        if (v->spec.k != first->spec.k || v->m.pairs != 0 || a->part[i].out == a->in)
            fail(w, TN_INTERNAL, "part %u: weight %s does not fit", i, v->spec.name);
        span(w, a->part[i].out, a->part[i].col, v->spec.n);
        want_same_rows(w, a->in, a->part[i].out);
        *done |= 1u << i;
        l->part[l->npart++] = (gpu_linear_part){
            .w = v->m, .bias = vector(w, a->part[i].bias, v->spec.n),
            .out = span(w, a->part[i].out, a->part[i].col, v->spec.n)};
    }
    uint32_t ahead = from == 0 && w->st == TN_OK ? pair_ahead(w, a, section_end) : TN_NONE;
    if (ahead != TN_NONE)
        take_along(w, l, ahead, section_end);
    add(w, CU_LINEAR)->a.linear = l;
}

static void lower_pair(lowering *w, const tn_op_linear *a, uint32_t gate)
{
    cu_program *p = w->p;
    const tn_op_act_mul *act = cu_op(p, w->op + 1)->args;
    const cu_weight *v = weight(w, gate, false);
    check_act(w, act->act);
    gpu_linear *l = w->count ? NULL : cu_take(p, 1, sizeof *l), scratch;
    if (v == NULL || (!w->count && l == NULL)) {
        fail(w, TN_NO_MEMORY, "no memory for its arguments");
        return;
    }
    l = l != NULL ? l : &scratch;
    *l = (gpu_linear){.rows = rows_index(w, a->in), .npart = 1};
    bool permuted = (v->spec.form.flags & TN_FORM_PERM) != 0;
    inputs(w, a->in, a->in_col, v, v->m.perm, permuted, &l->x, &l->ldx, &l->k,
           &l->turned);
    p->buffer[act->in].skipped = true;
    l->part[0] = (gpu_linear_part){.w = v->m, .out = span(w, act->out, 0, act->width),
                                   .bias = vector(w, a->part[0].bias, v->m.n), .act = act->act};
    add(w, CU_LINEAR)->a.linear = l;
}

/* ----------------------------------------------------------------------- looking further */

static bool writes(const tn_op *op, uint32_t buffer)
{
    switch (op->kind) {
    case TN_OP_ROUTE: {
        const tn_op_route *a = op->args;
        return a->ids == buffer || a->weights == buffer;
    }
    case TN_OP_EXPERTS: return ((const tn_op_experts *)op->args)->out == buffer;
    case TN_OP_ACT_MUL: return ((const tn_op_act_mul *)op->args)->out == buffer;
    case TN_OP_LINEAR: {
        const tn_op_linear *a = op->args;
        for (uint32_t i = 0; i < a->nparts; i++)
            if (a->part[i].out == buffer)
                return true;
        return false;
    }
    default: return true;      /* not looked at: as if it did */
    }
}

/* The pair behind ROUTE and EXPERTS that reads what the LINEAR at w->op reads: with the router
 * it makes one launch of a size that is worth it. Gives its operation, or TN_NONE. */
static uint32_t pair_ahead(const lowering *w, const tn_op_linear *a, uint32_t section_end)
{
    const cu_program *p = w->p;
    uint32_t gate, up, i = w->op + 1;
    while (i < section_end && (cu_op(p, i)->kind == TN_OP_ROUTE ||
                               cu_op(p, i)->kind == TN_OP_EXPERTS))
        i++;
    if (i == w->op + 1 || i + 1 >= section_end || a->add || a->nparts >= TN_LINEAR_PARTS ||
        !cu_is_pair(p, section_end, i, &gate, &up))
        return TN_NONE;
    const tn_op_linear *l = cu_op(p, i)->args;
    const tn_op_act_mul *act = cu_op(p, i + 1)->args;
    for (uint32_t j = w->op; j < i; j++)
        if (writes(cu_op(p, j), l->in) || writes(cu_op(p, j), act->out) ||
            reads(p, cu_op(p, j), act->out))
            return TN_NONE;
    const gpu_matrix *m = &p->weight[gate].m, *first = &p->weight[a->part[0].w].m;
    if (l->in != a->in || l->in_col != a->in_col || m->form != first->form ||
        m->cols != first->cols || m->k != first->k || m->group != first->group ||
        (m->zero_size != 0) != (first->zero_size != 0) ||
        ((p->weight[gate].spec.form.flags | p->weight[a->part[0].w].spec.form.flags) &
         TN_FORM_PERM) != 0)
        return TN_NONE;
    return i;
}

static void take_along(lowering *w, gpu_linear *l, uint32_t op, uint32_t section_end)
{
    const tn_op_linear *a = cu_op(w->p, op)->args;
    const tn_op_act_mul *act = cu_op(w->p, op + 1)->args;
    uint32_t gate, up;
    cu_is_pair(w->p, section_end, op, &gate, &up);
    const cu_weight *v = weight(w, gate, false);
    check_act(w, act->act);
    if (v == NULL || l->npart >= TN_LINEAR_PARTS)
        return;
    l->part[l->npart++] = (gpu_linear_part){
        .w = v->m, .out = span(w, act->out, 0, act->width),
        .bias = vector(w, a->part[0].bias, v->m.n), .act = act->act};
    w->p->buffer[act->in].skipped = true;
    w->early[0] = op;
    w->early[1] = op + 1;
}

/* MIX that adds to what EXPERTS at w->op makes, with nothing in between that looks at it. */
static uint32_t mix_behind(const lowering *w, const tn_op_experts *a, uint32_t section_end)
{
    const cu_program *p = w->p;
    for (uint32_t i = w->op + 1; p->lim.profile == 0 && i < section_end; i++) {
        const tn_op *op = cu_op(p, i);
        const tn_op_mix *m = op->args;
        if (op->kind == TN_OP_MIX && m->out == a->out && m->add && m->in != a->out &&
            m->gate != a->out && m->out_col == 0 && m->width == p->weight[a->w_down].spec.n)
            return i;
        if (op->kind != TN_OP_LINEAR && op->kind != TN_OP_ACT_MUL)
            break;
        if (reads(p, op, a->out) || writes(op, a->out))
            break;
    }
    return TN_NONE;
}

/* Gives how many operations it took. */
static uint32_t lower_linear(lowering *w, uint32_t section_end)
{
    const tn_op_linear *a = cu_op(w->p, w->op)->args;
    uint32_t gate, up, done = 0;
    if (a->nparts < 1 || a->nparts > TN_LINEAR_PARTS)
        fail(w, TN_INTERNAL, "%u parts", a->nparts);
    if (w->st == TN_OK && cu_is_pair(w->p, section_end, w->op, &gate, &up)) {
        lower_pair(w, a, gate);
        return 2;
    }
    for (uint32_t i = 0; i < a->nparts && w->st == TN_OK; i++)
        if ((done >> i & 1) == 0)
            launch_parts(w, a, i, &done, section_end);
    return 1;
}

/* ---------------------------------------------------------------------------- small ones */

static void lower_embed(lowering *w, const tn_op_embed *a)
{
    const cu_weight *v = weight(w, a->w, false);
    if (v == NULL)
        return;
    cu_cmd *c = add(w, CU_EMBED);
    c->a.embed.w = v->m;
    c->a.embed.first = a->first;
    c->a.embed.scale = a->scale;
    c->a.embed.out = span(w, a->out, 0, v->spec.k);
}

/* The residual is f32 and normed whole; heads and the like are its children. */
static uint32_t *bad_of(const lowering *w, const tn_op_norm *a)
{
    const cu_program *p = w->p;
    if (w->st != TN_OK || a->groups > 1 || p->buffer[a->in].type != TN_F32)
        return NULL;
    return cu_bad_of(p, cu_op(p, w->op)->layer);
}

static void lower_norm(lowering *w, const tn_op_norm *a)
{
    uint32_t groups = a->groups > 0 ? a->groups : 1;
    uint64_t width = (uint64_t)a->width * groups;
    gpu_norm n = {.in = span(w, a->in, a->in_col, width), .out = span(w, a->out, a->out_col, width),
                  .w = vector(w, a->w, a->width), .width = a->width, .groups = groups,
                  .rows = rows_index(w, a->in), .eps = a->eps, .offset = a->offset,
                  .bad = bad_of(w, a)};
    add(w, CU_NORM)->a.norm = n;
}

static void lower_act_mul(lowering *w, const tn_op_act_mul *a)
{
    check_act(w, a->act);
    cu_cmd *c = add(w, CU_ACT_MUL);
    c->a.act_mul.a = span(w, a->in, a->a_col, a->width);
    c->a.act_mul.b = span(w, a->in, a->b_col, a->width);
    c->a.act_mul.out = span(w, a->out, 0, a->width);
    c->a.act_mul.width = a->width;
    c->a.act_mul.act = a->act;
    c->a.act_mul.rows = rows_index(w, a->in);
}

static void lower_mix(lowering *w, gpu_span in, gpu_span gate, gpu_span out, uint32_t width,
                      float scale, uint32_t add_to, uint32_t rows)
{
    cu_cmd *c = add(w, CU_MIX);
    c->a.mix.in = in;
    c->a.mix.gate = gate;
    c->a.mix.out = out;
    c->a.mix.width = width;
    c->a.mix.scale = scale;
    c->a.mix.add = add_to;
    c->a.mix.rows = rows;
}

static void lower_concat(lowering *w, const tn_op_concat *a)
{
    const gpu_span none = {0};
    uint32_t rows = rows_index(w, a->a < w->p->nbuffer ? a->a : 0);
    lower_mix(w, span(w, a->a, a->a_col, a->a_width), none, span(w, a->out, 0, a->a_width),
              a->a_width, 1, 0, rows);
    lower_mix(w, span(w, a->b, a->b_col, a->b_width), none,
              span(w, a->out, a->a_width, a->b_width), a->b_width, 1, 0, rows);
}

static void lower_pick(lowering *w, const tn_op_pick *a)
{
    cu_cmd *c = add(w, CU_PICK);
    c->a.pick.in = span(w, a->in, 0, a->width);
    c->a.pick.out = span(w, a->out, 0, a->width);
    c->a.pick.width = a->width;
}

static gpu_route route_of(lowering *w, const tn_op_route *a)
{
    if (a->nexpert > 1024 || a->ntop < 1 || a->ntop > a->nexpert)
        fail(w, TN_UNSUPPORTED, "%u of %u experts; expected at most 1024", a->ntop, a->nexpert);
    if (a->kind != TN_ROUTE_SOFTMAX && a->kind != TN_ROUTE_SIGMOID)
        fail(w, TN_UNSUPPORTED, "kind %u; expected softmax or sigmoid", a->kind);
    gpu_route r = {.in = span(w, a->in, 0, a->nexpert), .ids = span(w, a->ids, 0, a->ntop),
                   .weights = span(w, a->weights, 0, a->ntop), .nexpert = a->nexpert,
                   .ntop = a->ntop, .kind = a->kind, .renorm = a->renorm,
                   .bias = vector(w, a->bias, a->nexpert), .scale = a->scale};
    r.rows = rows_index(w, w->st == TN_OK ? a->in : 0);
    if (w->st == TN_OK && (r.ids.type != TN_I32 || r.weights.type != TN_F32))
        fail(w, TN_INTERNAL, "ids and weights must be i32 and f32");
    return r;
}

/* EXPERTS right behind, by these choices: it does the routing as well. */
static bool experts_follow(const lowering *w, const tn_op_route *a, uint32_t section_end)
{
    const cu_program *p = w->p;
    if (w->op + 1 >= section_end || cu_op(p, w->op + 1)->kind != TN_OP_EXPERTS ||
        p->lim.profile != 0)
        return false;
    const tn_op_experts *e = cu_op(p, w->op + 1)->args;
    return e->ids == a->ids && e->weights == a->weights && e->ntop == a->ntop &&
           e->in < p->nbuffer && a->in < p->nbuffer &&
           p->buffer[e->in].rows == p->buffer[a->in].rows;
}

static void lower_route(lowering *w, const tn_op_route *a, uint32_t section_end)
{
    gpu_route r = route_of(w, a);
    if (experts_follow(w, a, section_end))
        w->routed = w->op;
    else
        add(w, CU_ROUTE)->a.route = r;
}

/* ---------------------------------------------------------------------------------- experts */

/* What the layer wants of the workspace that all layers of experts share. */
static void count_experts(lowering *w, const tn_op_experts *a, const cu_weight *up,
                          const cu_weight *down)
{
    cu_program *p = w->p;
    const uint32_t most = gpu_experts_rows();
    uint64_t all = cu_rows_max(p, p->buffer[a->in].rows), rows = all < most ? all : most;
    rows = rows > p->experts_rows ? rows : p->experts_rows;
    uint64_t pairs = rows * a->ntop, cols = up->m.cols > down->m.cols ? up->m.cols : down->m.cols;
    bool perm = ((up->spec.form.flags | down->spec.form.flags) & TN_FORM_PERM) != 0;
    const uint64_t sizes[CU_EXPERT_PARTS] = {
        pairs * 4, pairs * 4, (a->nexpert + 1) * 4ull,
        gpu_items_max((uint32_t)pairs, a->nexpert) * 16ull, 256,
        (pairs / 1024 + 2) * a->nexpert * 4, perm ? pairs * cols * 2 : 0,
        pairs * down->m.cols * 2,
        gpu_partial_bytes((uint32_t)pairs, a->nexpert, down->m.n),
    };
    p->experts_rows = (uint32_t)rows;
    for (uint32_t i = 0; i < CU_EXPERT_PARTS; i++)
        keep_most(&p->experts_size[i], sizes[i]);
}

/* Sums, shared part and norm in one, at the MIX at w->op; gives how many operations it took. */
static uint32_t lower_combine(lowering *w, const tn_op_mix *a, uint32_t section_end)
{
    cu_program *p = w->p;
    const gpu_experts *e = w->deferred;
    gpu_combine *c = w->count ? NULL : cu_take(p, 1, sizeof *c), scratch;
    if (!w->count && c == NULL) {
        fail(w, TN_NO_MEMORY, "no memory for its arguments");
        return 1;
    }
    c = c != NULL ? c : &scratch;
    *c = (gpu_combine){.experts = e, .mix = span(w, a->in, a->in_col, a->width),
                       .scale = a->scale};
    if (a->gate != TN_NONE)
        c->gate = span(w, a->gate, a->gate_col, 1);
    const tn_op *next = w->op + 1 < section_end ? cu_op(p, w->op + 1) : NULL;
    const tn_op_norm *n = next != NULL ? next->args : NULL;
    bool norm = next != NULL && next->kind == TN_OP_NORM && n->in == a->out && n->in_col == 0 &&
                n->width == a->width && n->groups <= 1 && n->out != a->out;
    if (norm)
        c->norm = (gpu_norm){.out = span(w, n->out, n->out_col, n->width),
                             .w = vector(w, n->w, n->width), .width = n->width, .eps = n->eps,
                             .offset = n->offset, .bad = cu_bad_of(p, next->layer)};
    add(w, CU_COMBINE)->a.combine = c;
    w->deferred = NULL;
    w->combine = TN_NONE;
    return norm ? 2 : 1;
}

static void lower_experts(lowering *w, const tn_op_experts *a, uint32_t section_end)
{
    cu_program *p = w->p;
    const cu_weight *up = weight(w, a->w_up, false), *down = weight(w, a->w_down, false);
    check_act(w, a->act);
    if (up == NULL || down == NULL)
        return;
    if (up->spec.n != 2 * (uint64_t)a->width || down->spec.k != a->width ||
        up->spec.nexpert != a->nexpert || down->spec.nexpert != a->nexpert)
        fail(w, TN_INTERNAL, "weights %s and %s are no gate, up and down of %u experts",
             up->spec.name, down->spec.name, a->nexpert);
    span(w, a->in, 0, up->spec.k);
    if (w->st != TN_OK)
        return;
    if (w->count)
        count_experts(w, a, up, down);
    gpu_experts *e = w->count ? NULL : cu_take(p, 1, sizeof *e), scratch;
    if (!w->count && e == NULL) {
        fail(w, TN_NO_MEMORY, "no memory for its arguments");
        return;
    }
    e = e != NULL ? e : &scratch;
    uint8_t *work = p->work.data;
    *e = (gpu_experts){.rows = rows_index(w, a->in), .add = a->add, .act = a->act,
                       .ntop = a->ntop, .width = a->width, .up = up->m, .down = down->m,
                       .ids = span(w, a->ids, 0, a->ntop), .weights = span(w, a->weights, 0, a->ntop),
                       .out = span(w, a->out, 0, down->spec.n), .rows_max = p->experts_rows};
    const uint64_t *at = p->experts_at;
    e->group = (gpu_grouping){.pair = (int32_t *)(void *)(work + at[0]),
                              .place = (int32_t *)(void *)(work + at[1]),
                              .begin = (int32_t *)(void *)(work + at[2]),
                              .item = (void *)(work + at[3]),
                              .nitem = (int32_t *)(void *)(work + at[4]),
                              .count = (int32_t *)(void *)(work + at[5])};
    e->gathered = (uint16_t *)(void *)(work + at[6]);
    e->hidden = (uint16_t *)(void *)(work + at[7]);
    e->partial = (float *)(void *)(work + at[8]);
    const uint16_t *x;
    uint32_t ldx, k;
    cu_weight plain = *up;
    inputs(w, a->in, 0, &plain, NULL, false, &x, &ldx, &k, &e->turned);
    e->in = (gpu_span){.data = (void *)(uintptr_t)x, .stride = ldx, .type = TN_F16};
    if (w->routed != TN_NONE) {
        e->routes = 1;
        e->route = route_of(w, cu_op(p, w->routed)->args);
        w->routed = TN_NONE;
    }
    bool whole = cu_rows_max(p, p->buffer[a->in].rows) <= p->experts_rows;
    w->combine = whole ? mix_behind(w, a, section_end) : TN_NONE;
    e->defers = w->combine != TN_NONE;
    if (e->defers)
        w->deferred = e;       /* while counting it is only looked at, not kept */
    add(w, CU_EXPERTS)->a.experts = e;
}

/* --------------------------------------------------------------------- attention and states */

static void lower_heads(lowering *w, const tn_op_heads *a)
{
    cu_program *p = w->p;
    uint64_t q = (uint64_t)a->q_heads * a->head_dim, kv = (uint64_t)a->kv_heads * a->head_dim;
    gpu_heads h = {.q = span(w, a->x, a->q_col, q), .k = span(w, a->x, a->k_col, kv),
                   .v = span(w, a->x, a->v_col, kv), .q_heads = a->q_heads,
                   .kv_heads = a->kv_heads, .head_dim = a->head_dim,
                   .q_norm = vector(w, a->q_norm, a->head_dim),
                   .k_norm = vector(w, a->k_norm, a->head_dim), .eps = a->eps,
                   .offset = a->offset};
    if (a->cache >= p->ncache || (a->rope != TN_NONE && a->rope >= p->nrope)) {
        fail(w, TN_INTERNAL, "cache %u, rotary table %u", a->cache, a->rope);
        return;
    }
    if (cu_cache_spec(p, a->cache)->k_dim != a->head_dim ||
        cu_cache_spec(p, a->cache)->heads != a->kv_heads)
        fail(w, TN_INTERNAL, "cache %u has another shape", a->cache);
    if (a->rope != TN_NONE) {
        const tn_rope *t = cu_rope(p, a->rope);
        if (t->dims > a->head_dim || t->npos < p->lim.context_max)
            fail(w, TN_CONFIG, "rotary table %u: %u dims of %u, %u positions of %u", a->rope,
                 t->dims, a->head_dim, t->npos, p->lim.context_max);
        h.dims = t->dims;
        h.pairing = t->pairing;
        h.cs = (const float *)(const void *)(p->work.data + p->rope_at[a->rope]);
    }
    h.cache = cu_cache_of(p, a->cache);
    want_even(w, a->q_col, a->k_col, a->v_col);
    add(w, CU_HEADS)->a.heads = h;
}

static void lower_attend(lowering *w, const tn_op_attend *a)
{
    cu_program *p = w->p;
    uint64_t width = (uint64_t)a->q_heads * a->head_dim;
    gpu_attend t = {.q = span(w, a->q, a->q_col, width), .out = span(w, a->out, a->out_col, width),
                    .q_heads = a->q_heads, .kv_heads = a->kv_heads, .head_dim = a->head_dim,
                    .window = a->window, .scale = a->scale, .softcap = a->softcap};
    if (a->gate != TN_NONE)
        t.gate = span(w, a->gate, a->gate_col, width);
    if (w->st == TN_OK && (a->cache >= p->ncache || a->kv_heads < 1 ||
                           a->q_heads % a->kv_heads != 0))
        fail(w, TN_INTERNAL, "cache %u, %u query heads, %u KV heads", a->cache, a->q_heads,
             a->kv_heads);
    if (w->st == TN_OK && !gpu_attend_offered(a->q_heads, a->kv_heads, a->head_dim))
        fail(w, TN_UNSUPPORTED, "%u query and %u KV heads of %u dims: no kernel for this size",
             a->q_heads, a->kv_heads, a->head_dim);
    if (w->st != TN_OK)
        return;
    t.cache = cu_cache_of(p, a->cache);
    want_even(w, a->q_col, a->out_col, a->gate != TN_NONE ? a->gate_col : 0);
    t.partial = (float *)(void *)(p->work.data + p->attend_at);
    keep_most(&p->attend_size, gpu_attend_floats(&t, &p->lim, p->dev->nsm) * sizeof(float));
    add(w, CU_ATTEND)->a.attend = t;
}

static void lower_delta(lowering *w, const tn_op_delta *a)
{
    cu_program *p = w->p;
    uint64_t key = (uint64_t)a->k_heads * a->k_dim, value = (uint64_t)a->v_heads * a->v_dim;
    uint64_t channels = 2 * key + value;
    gpu_delta d = {.qkv = span(w, a->qkv, a->qkv_col, channels), .z = span(w, a->z, a->z_col, value),
                   .a = span(w, a->a, a->a_col, a->v_heads), .b = span(w, a->b, a->b_col, a->v_heads),
                   .out = span(w, a->out, a->out_col, value), .k_heads = a->k_heads,
                   .v_heads = a->v_heads, .k_dim = a->k_dim, .v_dim = a->v_dim,
                   .gate_act = a->gate_act, .eps = a->eps};
    if (w->st == TN_OK && (a->state >= p->nstate || a->k_heads < 1 ||
                           a->v_heads % a->k_heads != 0))
        fail(w, TN_INTERNAL, "state %u, %u k-heads, %u v-heads", a->state, a->k_heads, a->v_heads);
    if (w->st != TN_OK)
        return;
    const tn_state_spec *s = cu_state_spec(p, a->state);
    if (s->heads != a->v_heads || s->k_dim != a->k_dim || s->v_dim != a->v_dim ||
        s->conv_width != channels)
        fail(w, TN_INTERNAL, "state %u has another shape", a->state);
    if (!gpu_delta_offered(a->k_dim, a->v_dim, s->conv_keep))
        fail(w, TN_UNSUPPORTED, "heads of %u x %u, convolution of %u: no kernel for this size",
             a->k_dim, a->v_dim, s->conv_keep + 1);
    d.w_conv = vector(w, a->w_conv, channels * (s->conv_keep + 1));
    d.conv_bias = vector(w, a->w_conv_bias, channels);
    d.a_log = vector(w, a->w_a_log, a->v_heads);
    d.dt_bias = vector(w, a->w_dt_bias, a->v_heads);
    d.w_norm = vector(w, a->w_norm, a->v_dim);
    if (w->st != TN_OK)
        return;
    d.state = cu_state_of(p, a->state);
    d.work = (float *)(void *)(p->work.data + p->delta_at);
    d.meet = (uint32_t *)(void *)(p->work.data + p->meet_at);
    keep_most(&p->meet_size, (uint64_t)p->lim.seqs_max * a->k_heads * sizeof(uint32_t));
    keep_most(&p->delta_size, gpu_delta_floats(&d, &p->lim) * sizeof(float));
    add(w, CU_DELTA)->a.delta = d;
}

/* LOGITS and the SAMPLE behind it. */
static void lower_sample(lowering *w, const tn_op_logits *a, uint32_t section_end)
{
    cu_program *p = w->p;
    const tn_op *next = w->op + 1 < section_end ? cu_op(p, w->op + 1) : NULL;
    if (next == NULL || next->kind != TN_OP_SAMPLE ||
        ((const tn_op_sample *)next->args)->x != a->x) {
        fail(w, TN_UNSUPPORTED, "expected SAMPLE on the same buffer right after it");
        return;
    }
    gpu_span x = span(w, a->x, 0, a->vocab);
    if (w->st == TN_OK && (x.type != TN_F32 || p->buffer[a->x].rows != TN_ROWS_OUTS))
        fail(w, TN_INTERNAL, "logits must be f32, a row an output");
    keep_most(&p->sample_size, gpu_sample_bytes(a->vocab, &p->lim));
    gpu_sample g = {.logits = x.data, .stride = x.stride, .vocab = a->vocab, .valid = a->valid,
                    .softcap = a->softcap, .top_max = p->lim.top_max,
                    .work = p->work.data + p->sample_at};
    add(w, CU_SAMPLE)->a.sample = g;
}

/* ------------------------------------------------------------------------------ with others */

static void lower_sum(lowering *w, const tn_op_sum *a)
{
    const cu_program *p = w->p;
    gpu_span x = span(w, a->x, a->col, a->width);
    if (w->st != TN_OK || p->lim.nrank < 2)
        return;                /* one rank: there is nothing to add */
    if (a->width != p->buffer[a->x].width || (x.type != TN_F32 && x.type != TN_F16))
        fail(w, TN_UNSUPPORTED, "columns %u + %u of buffer %s, which has %u; expected whole rows of "
             "f32 or f16", a->col, a->width, p->buffer[a->x].name, p->buffer[a->x].width);
    cu_cmd *c = add(w, CU_SUM);
    c->a.sum.x = x;
    c->a.sum.rows = rows_index(w, a->x);
}

static void lower_gather(lowering *w, const tn_op_gather *a)
{
    cu_program *p = w->p;
    uint32_t nrank = p->lim.nrank;
    gpu_span in = span(w, a->in, 0, a->width), none = {0};
    gpu_span out = span(w, a->out, 0, (uint64_t)nrank * a->width);
    want_same_rows(w, a->in, a->out);
    if (nrank < 2) {
        lower_mix(w, in, none, out, a->width, 1, 0, rows_index(w, w->st == TN_OK ? a->in : 0));
        return;
    }
    if (w->st == TN_OK && (in.type != TN_F32 || out.type != TN_F32))
        fail(w, TN_UNSUPPORTED, "buffers %s and %s; expected f32", p->buffer[a->in].name,
             p->buffer[a->out].name);
    if (w->st != TN_OK)
        return;
    keep_most(&p->gather_size, cu_gather_bytes(p, (uint32_t)cu_rows_max(p, p->buffer[a->in].rows),
                                               in.stride));
    cu_cmd *c = add(w, CU_GATHER);
    c->a.gather.in = in;
    c->a.gather.out = out;
    c->a.gather.all = (float *)(void *)(p->work.data + p->gather_at);
    c->a.gather.width = a->width;
    c->a.gather.rows = rows_index(w, a->in);
}

/* ------------------------------------------------------------------------------------ all */

/* Lowers the operation at w->op; gives how many it took. */
static uint32_t lower(lowering *w, uint32_t section_end)
{
    const tn_op *op = cu_op(w->p, w->op);
    if (op->args == NULL) {
        fail(w, TN_INTERNAL, "no arguments");
        return 1;
    }
    switch (op->kind) {
    case TN_OP_EMBED: lower_embed(w, op->args); return 1;
    case TN_OP_NORM: lower_norm(w, op->args); return 1;
    case TN_OP_LINEAR: return lower_linear(w, section_end);
    case TN_OP_ACT_MUL: lower_act_mul(w, op->args); return 1;
    case TN_OP_HEADS: lower_heads(w, op->args); return 1;
    case TN_OP_ATTEND: lower_attend(w, op->args); return 1;
    case TN_OP_DELTA: lower_delta(w, op->args); return 1;
    case TN_OP_ROUTE: lower_route(w, op->args, section_end); return 1;
    case TN_OP_EXPERTS: lower_experts(w, op->args, section_end); return 1;
    case TN_OP_MIX: {
        const tn_op_mix *a = op->args;
        if (w->op == w->combine)
            return lower_combine(w, a, section_end);
        const gpu_span none = {0};
        lower_mix(w, span(w, a->in, a->in_col, a->width),
                  a->gate != TN_NONE ? span(w, a->gate, a->gate_col, 1) : none,
                  span(w, a->out, a->out_col, a->width), a->width, a->scale, a->add,
                  rows_index(w, w->st == TN_OK ? a->in : 0));
        return 1;
    }
    case TN_OP_CONCAT: lower_concat(w, op->args); return 1;
    case TN_OP_PICK: lower_pick(w, op->args); return 1;
    case TN_OP_SUM: lower_sum(w, op->args); return 1;
    case TN_OP_GATHER: lower_gather(w, op->args); return 1;
    case TN_OP_LOGITS: lower_sample(w, op->args, section_end); return 2;
    case TN_OP_SAMPLE: fail(w, TN_UNSUPPORTED, "expected LOGITS right before it"); return 1;
    default: fail(w, TN_UNSUPPORTED, "kind %u is not known to this device", op->kind); return 1;
    }
}

/* The rotary tables that a section turns by, filled once at its begin. */
static void lower_rotary(lowering *w, const cu_section *s)
{
    cu_program *p = w->p;
    for (uint32_t t = 0; t < p->nrope; t++) {
        bool used = false;
        for (uint32_t i = s->op0; i < s->op0 + s->nop; i++)
            used = used || (cu_op(p, i)->kind == TN_OP_HEADS &&
                            ((const tn_op_heads *)cu_op(p, i)->args)->rope == t);
        if (!used)
            continue;
        cu_cmd *c = add(w, CU_ROTARY);
        c->a.rotary.inv_freq = (const double *)(const void *)(p->work.data + p->freq_at[t]);
        c->a.rotary.cs = (float *)(void *)(p->work.data + p->rope_at[t]);
        c->a.rotary.dims = cu_rope(p, t)->dims;
        c->a.rotary.scale = cu_rope(p, t)->scale;
    }
}

tn_status cu_lower(cu_program *p, bool count, tn_err *err)
{
    lowering w = {.p = p, .count = count, .err = err, .st = TN_OK, .routed = TN_NONE,
                  .combine = TN_NONE, .early = {TN_NONE, TN_NONE}};
    if (!count) {
        p->ncmd = 0;
        p->cmd = cu_take(p, p->cmd_max + 1, sizeof *p->cmd);
        if (p->cmd == NULL)
            return tn_fail(err, TN_NO_MEMORY, "cuda: no memory for %u commands", p->cmd_max);
    }
    for (uint32_t s = 0; s < p->nsection && w.st == TN_OK; s++) {
        cu_section *section = &p->section[s];
        section->cmd0 = p->ncmd;
        w.op = section->op0;
        lower_rotary(&w, section);
        while (w.op < section->op0 + section->nop && w.st == TN_OK) {
            bool early = w.op == w.early[0] || w.op == w.early[1];
            w.op += early ? 1 : lower(&w, section->op0 + section->nop);
        }
        section->ncmd = p->ncmd - section->cmd0;
    }
    return w.st;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* checks.c - refuses an operation that does not fit, before anything is built, and lists the
 * columns that each one reads and writes.
 *
 * What a later part relies on is checked here: indices, shapes, kinds of rows, columns inside
 * their buffers, nothing read before it was written, nothing written where the same operation
 * still reads. */
#include "program.h"

#include <math.h>

static const char *const words[] = {
    "?", "EMBED", "NORM", "LINEAR", "ACT_MUL", "HEADS", "ATTEND", "DELTA", "ROUTE", "EXPERTS",
    "MIX", "CONCAT", "PICK", "SUM", "GATHER", "LOGITS", "SAMPLE",
};

const char *cpu_op_word(uint32_t kind)
{
    return words[kind <= TN_OP_SAMPLE ? kind : 0];
}

tn_status cpu_bad_op(const cpu_program *p, const cpu_op *op, tn_status st, tn_err *err,
                     const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return tn_fail(err, st, "cpu: recipe %s: operation %u %s (%s): %s", p->name, op->index,
                   op->name, cpu_op_word(op->kind), text);
}

/* ------------------------------------------------------------------------- one operation */

typedef struct checker {
    const cpu_program *p;
    cpu_op *op;
    tn_err *err;
    tn_status st;                 /* the first failure; later calls do nothing */
} checker;

static void fail(checker *c, tn_status st, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void fail(checker *c, tn_status st, const char *fmt, ...)
{
    if (c->st != TN_OK)
        return;
    char text[384];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    c->st = cpu_bad_op(c->p, c->op, st, c->err, "%s", text);
}

/* Notes that the operation reads or writes these columns. */
static void use(checker *c, const char *field, uint32_t buffer, uint32_t col, uint64_t width,
                uint32_t mode)
{
    if (c->st != TN_OK)
        return;
    if (buffer >= c->p->nbuffer) {
        fail(c, TN_INTERNAL, "%s: buffer %u of %u", field, buffer, c->p->nbuffer);
        return;
    }
    const cpu_buffer *b = &c->p->buffer[buffer];
    if (width < 1 || col + width > b->width) {
        fail(c, TN_INTERNAL, "%s: columns %u + %llu of buffer %s, which has %u", field, col,
             (unsigned long long)width, b->name, b->width);
        return;
    }
    if (b->dtype == TN_I32) {
        fail(c, TN_INTERNAL, "%s: buffer %s holds integers", field, b->name);
        return;
    }
    if (c->op->nuse < CPU_USES_MAX)
        c->op->use[c->op->nuse++] = (cpu_use){buffer, col, (uint32_t)width, mode};
}

/* A buffer of integers: the choices of ROUTE. */
static void use_ids(checker *c, uint32_t buffer, uint32_t width, uint32_t mode)
{
    if (c->st != TN_OK)
        return;
    if (buffer >= c->p->nbuffer)
        fail(c, TN_INTERNAL, "ids: buffer %u of %u", buffer, c->p->nbuffer);
    else if (c->p->buffer[buffer].dtype != TN_I32)
        fail(c, TN_INTERNAL, "ids: buffer %s holds no integers", c->p->buffer[buffer].name);
    else if (c->p->buffer[buffer].width < width)
        fail(c, TN_INTERNAL, "ids: buffer %s has %u columns; expected %u",
             c->p->buffer[buffer].name, c->p->buffer[buffer].width, width);
    else
        c->op->use[c->op->nuse++] = (cpu_use){buffer, 0, width, mode};
}

/* The buffer's rows must be of this kind. */
static void want_rows(checker *c, const char *field, uint32_t buffer, uint32_t rows)
{
    static const char *const kind[] = {"?", "token", "output", "sequence"};
    if (c->st == TN_OK && c->p->buffer[buffer].rows != rows)
        fail(c, TN_INTERNAL, "%s: buffer %s has %s rows; expected %s rows", field,
             c->p->buffer[buffer].name, kind[c->p->buffer[buffer].rows], kind[rows]);
}

static void want_same_rows(checker *c, const char *field, uint32_t a, uint32_t b)
{
    if (c->st == TN_OK)
        want_rows(c, field, b, c->p->buffer[a].rows);
}

/* No written column is read by the same operation; `same_is_fine`: but for exactly the same
 * columns, which an operation that works element by element may change in place. */
static void want_apart(checker *c, bool same_is_fine)
{
    for (uint32_t i = 0; c->st == TN_OK && i < c->op->nuse; i++)
        for (uint32_t j = 0; j < c->op->nuse; j++) {
            const cpu_use *r = &c->op->use[i], *w = &c->op->use[j];
            bool same = r->col == w->col && r->width == w->width;
            if (i == j || (w->mode & CPU_WRITE) == 0 || r->buffer != w->buffer ||
                r->col >= w->col + w->width || w->col >= r->col + r->width)
                continue;
            if (!(same_is_fine && same && r->mode == CPU_READ))
                fail(c, TN_INTERNAL, "columns %u + %u of buffer %s are used twice", w->col,
                     w->width, c->p->buffer[w->buffer].name);
        }
}

static const cpu_weight *weight_at(checker *c, const char *field, uint32_t w)
{
    if (c->st == TN_OK && w >= c->p->nweight)
        fail(c, TN_INTERNAL, "%s: weight %u of %u", field, w, c->p->nweight);
    return c->st == TN_OK ? &c->p->weight[w] : NULL;
}

static void want_vector(checker *c, const char *field, uint32_t index, uint64_t count)
{
    const cpu_weight *w = weight_at(c, field, index);
    if (w == NULL)
        return;
    if (w->spec.role != TN_ROLE_VECTOR)
        fail(c, TN_INTERNAL, "%s: weight %s is no vector", field, w->spec.name);
    else if (w->spec.n * w->spec.k != count)
        fail(c, TN_INTERNAL, "%s: weight %s has %llu elements; expected %llu", field,
             w->spec.name, (unsigned long long)(w->spec.n * w->spec.k),
             (unsigned long long)count);
}

static void want_finite(checker *c, const char *field, float v)
{
    if (!isfinite(v))
        fail(c, TN_INTERNAL, "%s is not finite", field);
}

static void check_embed(checker *c)
{
    const tn_op_embed *a = &c->op->a.embed;
    const cpu_weight *w = weight_at(c, "w", a->w);
    if (w == NULL)
        return;
    if (w->spec.role != TN_ROLE_EMBED && w->spec.role != TN_ROLE_HEAD)
        fail(c, TN_INTERNAL, "weight %s is no embedding", w->spec.name);
    else if (w->matrix == NULL)
        fail(c, TN_UNSUPPORTED, "weight %s has a private form, whose rows cannot be looked up",
             w->spec.name);
    use(c, "out", a->out, 0, w->spec.k, CPU_WRITE);
    if (c->st == TN_OK && c->p->buffer[a->out].width != w->spec.k)
        fail(c, TN_INTERNAL, "out: buffer %s has %u columns; expected %llu",
             c->p->buffer[a->out].name, c->p->buffer[a->out].width,
             (unsigned long long)w->spec.k);
    want_rows(c, "out", a->out, TN_ROWS_TOKENS);
    want_finite(c, "scale", a->scale);
}

static void check_norm(checker *c)
{
    const tn_op_norm *a = &c->op->a.norm;
    uint64_t width = (uint64_t)a->width * (a->groups > 0 ? a->groups : 1);
    use(c, "in", a->in, a->in_col, width, CPU_READ);
    use(c, "out", a->out, a->out_col, width, CPU_WRITE);
    if (a->w != TN_NONE)
        want_vector(c, "w", a->w, a->width);
    want_same_rows(c, "out", a->in, a->out);
    want_apart(c, true);
    want_finite(c, "eps", a->eps);
    want_finite(c, "offset", a->offset);
}

static void check_linear(checker *c)
{
    const tn_op_linear *a = &c->op->a.linear;
    if (a->nparts < 1 || a->nparts > TN_LINEAR_PARTS) {
        fail(c, TN_INTERNAL, "%u parts; expected 1 .. %u", a->nparts, TN_LINEAR_PARTS);
        return;
    }
    const cpu_weight *first = weight_at(c, "part[0].w", a->part[0].w);
    if (first == NULL)
        return;
    use(c, "in", a->in, a->in_col, first->spec.k, CPU_READ);
    for (uint32_t i = 0; c->st == TN_OK && i < a->nparts; i++) {
        const tn_part *part = &a->part[i];
        const cpu_weight *w = weight_at(c, "part.w", part->w);
        if (w == NULL)
            return;
        if (w->spec.role == TN_ROLE_VECTOR || w->spec.role == TN_ROLE_EXPERTS)
            fail(c, TN_INTERNAL, "part %u: weight %s is no single matrix", i, w->spec.name);
        if (w->spec.k != first->spec.k)
            fail(c, TN_INTERNAL, "part %u: weight %s takes %llu columns, the first part %llu", i,
                 w->spec.name, (unsigned long long)w->spec.k, (unsigned long long)first->spec.k);
        use(c, "part.out", part->out, part->col, w->spec.n,
            a->add ? CPU_READ | CPU_WRITE : CPU_WRITE);
        if (part->bias != TN_NONE)
            want_vector(c, "part.bias", part->bias, w->spec.n);
        want_same_rows(c, "part.out", a->in, part->out);
    }
    want_apart(c, false);
}

static void check_act(checker *c, uint32_t act)
{
    if (act != TN_ACT_SILU && act != TN_ACT_GELU && act != TN_ACT_GELU_TANH)
        fail(c, TN_UNSUPPORTED, "activation %u; expected silu, gelu or gelu_tanh", act);
}

static void check_act_mul(checker *c)
{
    const tn_op_act_mul *a = &c->op->a.act_mul;
    use(c, "in", a->in, a->a_col, a->width, CPU_READ);
    use(c, "in", a->in, a->b_col, a->width, CPU_READ);
    use(c, "out", a->out, 0, a->width, CPU_WRITE);
    want_same_rows(c, "out", a->in, a->out);
    want_apart(c, true);
    check_act(c, a->act);
}

static const cpu_cache *cache_of(checker *c, uint32_t cache, uint32_t heads, uint32_t dim)
{
    if (c->st != TN_OK)
        return NULL;
    if (cache >= c->p->ncache) {
        fail(c, TN_INTERNAL, "cache %u of %u", cache, c->p->ncache);
        return NULL;
    }
    const cpu_cache *k = &c->p->cache[cache];
    if (k->heads != heads || k->k_dim != dim || k->v_dim != dim)
        fail(c, TN_UNSUPPORTED, "cache %u has %u heads of %u and %u dims; expected %u of %u",
             cache, k->heads, k->k_dim, k->v_dim, heads, dim);
    return k;
}

static void check_heads(checker *c)
{
    const tn_op_heads *a = &c->op->a.heads;
    uint64_t q = (uint64_t)a->q_heads * a->head_dim, kv = (uint64_t)a->kv_heads * a->head_dim;
    use(c, "q", a->x, a->q_col, q, CPU_READ | CPU_WRITE);
    use(c, "k", a->x, a->k_col, kv, CPU_READ | CPU_WRITE);
    use(c, "v", a->x, a->v_col, kv, CPU_READ);
    want_apart(c, false);
    if (c->st == TN_OK)
        want_rows(c, "x", a->x, TN_ROWS_TOKENS);
    cache_of(c, a->cache, a->kv_heads, a->head_dim);
    if (a->q_norm != TN_NONE)
        want_vector(c, "q_norm", a->q_norm, a->head_dim);
    if (a->k_norm != TN_NONE)
        want_vector(c, "k_norm", a->k_norm, a->head_dim);
    if (c->st != TN_OK || a->rope == TN_NONE)
        return;
    if (a->rope >= c->p->nrope)
        fail(c, TN_INTERNAL, "rotary table %u of %u", a->rope, c->p->nrope);
    else if (c->p->rope[a->rope].dims > a->head_dim)
        fail(c, TN_INTERNAL, "rotary table %u turns %u dims of heads of %u", a->rope,
             c->p->rope[a->rope].dims, a->head_dim);
    else if (c->p->rope[a->rope].npos < c->p->lim.context_max)
        fail(c, TN_CONFIG, "rotary table %u ends at %u positions; the context takes %u", a->rope,
             c->p->rope[a->rope].npos, c->p->lim.context_max);
}

static void check_attend(checker *c)
{
    const tn_op_attend *a = &c->op->a.attend;
    uint64_t width = (uint64_t)a->q_heads * a->head_dim;
    use(c, "q", a->q, a->q_col, width, CPU_READ);
    use(c, "out", a->out, a->out_col, width, CPU_WRITE);
    if (a->gate != TN_NONE)
        use(c, "gate", a->gate, a->gate_col, width, CPU_READ);
    want_apart(c, false);
    if (c->st != TN_OK)
        return;
    want_rows(c, "q", a->q, TN_ROWS_TOKENS);
    want_rows(c, "out", a->out, TN_ROWS_TOKENS);
    if (a->gate != TN_NONE)
        want_rows(c, "gate", a->gate, TN_ROWS_TOKENS);
    cache_of(c, a->cache, a->kv_heads, a->head_dim);
    if (a->kv_heads < 1 || a->q_heads % a->kv_heads != 0)
        fail(c, TN_INTERNAL, "%u query heads cannot share %u KV heads", a->q_heads, a->kv_heads);
    else if (a->q_heads / a->kv_heads > CPU_QUERIES)
        fail(c, TN_UNSUPPORTED, "%u query heads a KV head; at most %u", a->q_heads / a->kv_heads,
             CPU_QUERIES);
    want_finite(c, "scale", a->scale);
    want_finite(c, "softcap", a->softcap);
}

static void check_delta(checker *c)
{
    const tn_op_delta *a = &c->op->a.delta;
    uint64_t key = (uint64_t)a->k_heads * a->k_dim, value = (uint64_t)a->v_heads * a->v_dim;
    uint64_t channels = 2 * key + value;
    use(c, "qkv", a->qkv, a->qkv_col, channels, CPU_READ);
    use(c, "z", a->z, a->z_col, value, CPU_READ);
    use(c, "a", a->a, a->a_col, a->v_heads, CPU_READ);
    use(c, "b", a->b, a->b_col, a->v_heads, CPU_READ);
    use(c, "out", a->out, a->out_col, value, CPU_WRITE);
    want_apart(c, false);
    for (uint32_t i = 0; c->st == TN_OK && i < c->op->nuse; i++)
        want_rows(c, "buffers", c->op->use[i].buffer, TN_ROWS_TOKENS);
    if (c->st != TN_OK)
        return;
    if (a->k_heads < 1 || a->v_heads % a->k_heads != 0)
        fail(c, TN_INTERNAL, "%u v-heads cannot share %u k-heads", a->v_heads, a->k_heads);
    if (a->state >= c->p->nstate) {
        fail(c, TN_INTERNAL, "state %u of %u", a->state, c->p->nstate);
        return;
    }
    const cpu_state *s = &c->p->state[a->state];
    if (s->heads != a->v_heads || s->k_dim != a->k_dim || s->v_dim != a->v_dim ||
        s->width != channels)
        fail(c, TN_INTERNAL, "state %u has %u heads of %u x %u and %u channels; expected %u of "
             "%u x %u and %llu", a->state, s->heads, s->k_dim, s->v_dim, s->width, a->v_heads,
             a->k_dim, a->v_dim, (unsigned long long)channels);
    want_vector(c, "w_conv", a->w_conv, channels * (s->keep + 1));
    if (a->w_conv_bias != TN_NONE)
        want_vector(c, "w_conv_bias", a->w_conv_bias, channels);
    want_vector(c, "w_a_log", a->w_a_log, a->v_heads);
    want_vector(c, "w_dt_bias", a->w_dt_bias, a->v_heads);
    want_vector(c, "w_norm", a->w_norm, a->v_dim);
    if (a->gate_act != TN_ACT_SILU && a->gate_act != TN_ACT_SIGMOID)
        fail(c, TN_UNSUPPORTED, "gate activation %u; expected silu or sigmoid", a->gate_act);
    want_finite(c, "eps", a->eps);
}

static void check_route(checker *c)
{
    const tn_op_route *a = &c->op->a.route;
    use(c, "in", a->in, 0, a->nexpert, CPU_READ);
    use_ids(c, a->ids, a->ntop, CPU_WRITE);
    use(c, "weights", a->weights, 0, a->ntop, CPU_WRITE);
    want_apart(c, false);
    if (c->st != TN_OK)
        return;
    want_same_rows(c, "ids", a->in, a->ids);
    want_same_rows(c, "weights", a->in, a->weights);
    if (a->ntop < 1 || a->ntop > a->nexpert || a->nexpert > 65536)
        fail(c, TN_INTERNAL, "%u of %u experts", a->ntop, a->nexpert);
    if (a->kind != TN_ROUTE_SOFTMAX && a->kind != TN_ROUTE_SIGMOID)
        fail(c, TN_UNSUPPORTED, "kind %u; expected softmax or sigmoid", a->kind);
    if (a->bias != TN_NONE)
        want_vector(c, "bias", a->bias, a->nexpert);
    want_finite(c, "scale", a->scale);
}

static void want_stack(checker *c, const char *field, const cpu_weight *w, uint32_t nexpert,
                       uint64_t n, uint64_t k)
{
    if (c->st != TN_OK)
        return;
    if (w->spec.role != TN_ROLE_EXPERTS)
        fail(c, TN_INTERNAL, "%s: weight %s is no stack of experts", field, w->spec.name);
    else if (w->spec.nexpert != nexpert || w->spec.n != n || w->spec.k != k)
        fail(c, TN_INTERNAL, "%s: weight %s is %u of [%llu, %llu]; expected %u of [%llu, %llu]",
             field, w->spec.name, w->spec.nexpert, (unsigned long long)w->spec.n,
             (unsigned long long)w->spec.k, nexpert, (unsigned long long)n,
             (unsigned long long)k);
}

static void check_experts(checker *c)
{
    const tn_op_experts *a = &c->op->a.experts;
    const cpu_weight *up = weight_at(c, "w_up", a->w_up);
    const cpu_weight *down = weight_at(c, "w_down", a->w_down);
    if (up == NULL || down == NULL)
        return;
    want_stack(c, "w_up", up, a->nexpert, 2 * (uint64_t)a->width, up->spec.k);
    want_stack(c, "w_down", down, a->nexpert, down->spec.n, a->width);
    if (a->width % CPU_STRIP != 0)
        fail(c, TN_UNSUPPORTED, "experts %u wide; expected a multiple of %u", a->width,
             CPU_STRIP);
    use(c, "in", a->in, 0, up->spec.k, CPU_READ);
    use_ids(c, a->ids, a->ntop, CPU_READ);
    use(c, "weights", a->weights, 0, a->ntop, CPU_READ);
    use(c, "out", a->out, 0, down->spec.n, a->add ? CPU_READ | CPU_WRITE : CPU_WRITE);
    want_apart(c, false);
    if (c->st != TN_OK)
        return;
    want_same_rows(c, "ids", a->in, a->ids);
    want_same_rows(c, "weights", a->in, a->weights);
    want_same_rows(c, "out", a->in, a->out);
    if (a->ntop < 1 || a->ntop > a->nexpert)
        fail(c, TN_INTERNAL, "%u of %u experts", a->ntop, a->nexpert);
    check_act(c, a->act);
}

static void check_mix(checker *c)
{
    const tn_op_mix *a = &c->op->a.mix;
    use(c, "in", a->in, a->in_col, a->width, CPU_READ);
    use(c, "out", a->out, a->out_col, a->width, a->add ? CPU_READ | CPU_WRITE : CPU_WRITE);
    want_same_rows(c, "out", a->in, a->out);
    want_apart(c, true);
    if (a->gate != TN_NONE) {
        use(c, "gate", a->gate, a->gate_col, 1, CPU_READ);
        want_same_rows(c, "gate", a->in, a->gate);
        if (c->st == TN_OK && a->gate == a->out && a->gate_col >= a->out_col &&
            a->gate_col < a->out_col + a->width)
            fail(c, TN_INTERNAL, "the gate lies in the columns that are written");
    }
    want_finite(c, "scale", a->scale);
}

static void check_concat(checker *c)
{
    const tn_op_concat *a = &c->op->a.concat;
    use(c, "a", a->a, a->a_col, a->a_width, CPU_READ);
    use(c, "b", a->b, a->b_col, a->b_width, CPU_READ);
    use(c, "out", a->out, 0, (uint64_t)a->a_width + a->b_width, CPU_WRITE);
    want_same_rows(c, "b", a->a, a->b);
    want_same_rows(c, "out", a->a, a->out);
    want_apart(c, false);
}

static void check_pick(checker *c)
{
    const tn_op_pick *a = &c->op->a.pick;
    use(c, "in", a->in, 0, a->width, CPU_READ);
    use(c, "out", a->out, 0, a->width, CPU_WRITE);
    if (c->st != TN_OK)
        return;
    want_rows(c, "in", a->in, TN_ROWS_TOKENS);
    want_rows(c, "out", a->out, TN_ROWS_OUTS);
}

static void check_sum(checker *c)
{
    const tn_op_sum *a = &c->op->a.sum;
    use(c, "x", a->x, a->col, a->width, CPU_READ | CPU_WRITE);
}

static void check_gather(checker *c)
{
    const tn_op_gather *a = &c->op->a.gather;
    use(c, "in", a->in, 0, a->width, CPU_READ);
    use(c, "out", a->out, 0, (uint64_t)a->width * c->p->lim.nrank, CPU_WRITE);
    want_same_rows(c, "out", a->in, a->out);
    want_apart(c, false);
}

static void want_logits(checker *c, uint32_t x, uint32_t vocab)
{
    if (c->st != TN_OK)
        return;
    want_rows(c, "x", x, TN_ROWS_OUTS);
    if (c->p->buffer[x].width != vocab)
        fail(c, TN_INTERNAL, "buffer %s has %u columns for %u tokens", c->p->buffer[x].name,
             c->p->buffer[x].width, vocab);
}

static void check_logits(checker *c)
{
    const tn_op_logits *a = &c->op->a.logits;
    use(c, "x", a->x, 0, a->vocab, CPU_READ | CPU_WRITE);
    want_logits(c, a->x, a->vocab);
    if (a->valid < 1 || a->valid > a->vocab)
        fail(c, TN_INTERNAL, "%u valid columns of %u", a->valid, a->vocab);
    want_finite(c, "softcap", a->softcap);
}

static void check_sample(checker *c)
{
    const tn_op_sample *a = &c->op->a.sample;
    use(c, "x", a->x, 0, a->vocab, CPU_READ);
    want_logits(c, a->x, a->vocab);
}

static void (*const check_of[])(checker *c) = {
    NULL, check_embed, check_norm, check_linear, check_act_mul, check_heads, check_attend,
    check_delta, check_route, check_experts, check_mix, check_concat, check_pick, check_sum,
    check_gather, check_logits, check_sample,
};

/* Every buffer that is read was written before in its section, or is kept between steps. */
static tn_status check_order(cpu_program *p, uint32_t section, tn_err *err)
{
    const cpu_section *s = &p->section[section];
    for (uint32_t i = s->op0; i < s->op0 + s->nop; i++) {
        const cpu_op *op = &p->op[i];
        for (uint32_t u = 0; u < op->nuse; u++) {
            const cpu_buffer *b = &p->buffer[op->use[u].buffer];
            if ((op->use[u].mode & CPU_READ) != 0 && b->written != section + 1 &&
                (b->flags & TN_BUF_KEEP) == 0)
                return cpu_bad_op(p, op, TN_INTERNAL, err, "reads buffer %s, which nothing "
                                  "before it writes", b->name);
        }
        for (uint32_t u = 0; u < op->nuse; u++)
            if ((op->use[u].mode & CPU_WRITE) != 0)
                p->buffer[op->use[u].buffer].written = section + 1;
    }
    return TN_OK;
}

tn_status cpu_check(cpu_program *p, tn_err *err)
{
    for (uint32_t i = 0; i < p->nop; i++) {
        checker c = {.p = p, .op = &p->op[i], .err = err};
        check_of[p->op[i].kind](&c);
        if (c.st != TN_OK)
            return c.st;
    }
    for (uint32_t i = 0; i < p->nsection; i++) {
        tn_status st = check_order(p, i, err);
        if (st != TN_OK)
            return st;
    }
    return TN_OK;
}

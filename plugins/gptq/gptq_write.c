/* SPDX-License-Identifier: Apache-2.0 */
/* gptq_write.c - the plugin's other direction: full-precision rows in, a checkpoint out.
 *
 * Variants "gptq" (v1, usual) and "gptq_v2" differ in the stored zero points only. Widths 2,
 * 3, 4 and 8; a last group may be short. With act_order the columns are grouped by falling
 * importance (the Hessian's diagonal, or the mean input) and g_idx says where each went; the
 * codes stay in the model's order.
 *
 * A linear that the format cannot hold is TN_UNSUPPORTED, so that the caller may leave it
 * plain, and one whose weights no scale can hold is TN_DATA; modules_in_block_to_quantize then names the ones that were written. */
#include "gptq.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#define KINDS_MAX 1024u
#define KIND_SIZE 256u
#define TEXT_MAX ((size_t)KINDS_MAX * KIND_SIZE + 4096)

typedef struct writer {
    gptq_self *self;
    tn_sink sink;            /* a copy; its ctx is the caller's */
    bool v2;
    bool act_order;
    uint64_t group;          /* 0: the whole row */
    gptq_round round;
    pthread_mutex_t lock;    /* held while the sink is called; guards what follows */
    bool head;               /* an lm_head was written */
    uint32_t nkind;
    char (*kind)[KIND_SIZE]; /* [KINDS_MAX] names inside a block that were written */
} writer;

/* One module on its way out. Everything lies in one piece of memory at `code`. */
typedef struct matrix {
    uint64_t n, k, group, ngroup;
    uint8_t *code;      /* [n, k] in the model's column order */
    uint16_t *scale;    /* [ngroup, n] fp16 bits */
    uint8_t *zero;      /* [ngroup, n] */
    uint32_t *order;    /* [k] columns by importance; the identity without act_order */
    int32_t *g_idx;     /* [k] */
    float *row;         /* [k] one row's weights, in `order` */
    float *weight;      /* [k] their importance, in `order` */
} matrix;

/* ------------------------------------------------------------------------------ begin */

static tn_status check_options(const tn_write_options *o, tn_err *err)
{
    if (o->variant != NULL && strcmp(o->variant, "gptq") != 0 &&
        strcmp(o->variant, "gptq_v2") != 0)
        return tn_fail(err, TN_UNSUPPORTED, "gptq: variant is %.60s, wanted gptq or gptq_v2",
                       o->variant);
    if (o->bits != 2 && o->bits != 3 && o->bits != 4 && o->bits != 8)
        return tn_fail(err, TN_UNSUPPORTED, "gptq: bits is %u, wanted 2, 3, 4 or 8", o->bits);
    if (o->group < -1 || o->group == 0)
        return tn_fail(err, TN_UNSUPPORTED, "gptq: group is %d, wanted -1 or a positive number",
                       o->group);
    if (o->search > 1)
        return tn_fail(err, TN_UNSUPPORTED,
                       "gptq: search is %u, wanted 0 (round to nearest) or 1 (shrink ranges)",
                       o->search);
    return TN_OK;
}

tn_status gptq_write_begin(void *self, const tn_write_options *o, const tn_json *config,
                           const tn_sink *sink, void **out, tn_err *err)
{
    gptq_self *s = self;
    const tn_host *h = s->h;
    (void)config;
    tn_status st = check_options(o, err);
    if (st != TN_OK)
        return st;
    writer *w = h->alloc(h->ctx, sizeof *w);
    if (w == NULL)
        return tn_fail(err, TN_NO_MEMORY, "gptq: no memory for a writer");
    *w = (writer){.self = s,
                  .sink = *sink,
                  .v2 = o->variant != NULL && strcmp(o->variant, "gptq_v2") == 0,
                  .act_order = o->act_order != 0,
                  .group = o->group < 0 ? 0 : (uint64_t)o->group,
                  .round = {o->bits, o->symmetric != 0, o->search}};
    w->kind = h->alloc(h->ctx, (uint64_t)KINDS_MAX * KIND_SIZE);
    if (w->kind == NULL || pthread_mutex_init(&w->lock, NULL) != 0) {
        if (w->kind != NULL)
            h->release(h->ctx, w->kind);
        h->release(h->ctx, w);
        return tn_fail(err, TN_NO_MEMORY, "gptq: no memory for a writer");
    }
    *out = w;
    return TN_OK;
}

/* -------------------------------------------------------------------------- quantizing */

static tn_status check_linear(const writer *w, const tn_write_linear *l, tn_err *err)
{
    uint32_t unit = w->round.bits == 3 ? 32 : 32 / w->round.bits;
    if (l->n == 0 || l->k == 0 || l->n >> 31 != 0 || l->k >> 31 != 0 || l->n % unit != 0 ||
        l->k % unit != 0)
        return tn_fail(err, TN_UNSUPPORTED,
                       "%s: n %llu and k %llu, wanted multiples of %u for %u bits", l->name,
                       (unsigned long long)l->n, (unsigned long long)l->k, unit, w->round.bits);
    if (w->act_order && l->act_mean == NULL && l->hessian == NULL)
        return tn_fail(err, TN_UNSUPPORTED,
                       "%s: act_order is on but nothing is known about the module's input, wanted "
                       "calibration",
                       l->name);
    return TN_OK;
}

static tn_status open_matrix(const writer *w, const tn_write_linear *l, matrix *m, tn_err *err)
{
    const tn_host *h = w->self->h;
    *m = (matrix){.n = l->n, .k = l->k, .group = w->group != 0 ? w->group : l->k};
    m->ngroup = (m->k + m->group - 1) / m->group;
    uint64_t nscale = m->n * m->ngroup;
    float *p = h->alloc(h->ctx, 16 * m->k + 3 * nscale + m->n * m->k);
    if (p == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory to quantize it", l->name);
    m->row = p;
    m->weight = p + m->k;
    m->order = (uint32_t *)(m->weight + m->k);
    m->g_idx = (int32_t *)(m->order + m->k);
    m->scale = (uint16_t *)(m->g_idx + m->k);
    m->zero = (uint8_t *)(m->scale + nscale);
    m->code = m->zero + nscale;
    return TN_OK;
}

/* How much an error in column c counts. The diagonal of the Hessian is the mean square of
 * the input, so its root is on the scale of the mean. */
static float column_weight(const tn_write_linear *l, uint64_t c)
{
    if (l->hessian != NULL)
        return sqrtf(fmaxf(l->hessian[c * l->k + c], 0));
    return l->act_mean != NULL ? l->act_mean[c] : 1.0f;
}

/* A column and its weight, for sorting; ties keep the model's order. */
typedef struct ranked {
    float weight;
    uint32_t column;
} ranked;

static int by_weight(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->weight != y->weight)
        return x->weight > y->weight ? -1 : 1;
    return (x->column > y->column) - (x->column < y->column);
}

static tn_status order_columns(const writer *w, const tn_write_linear *l, matrix *m, tn_err *err)
{
    const tn_host *h = w->self->h;
    ranked *rank = h->alloc(h->ctx, m->k * sizeof *rank);
    if (rank == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory to order its columns", l->name);
    for (uint64_t c = 0; c < m->k; c++)
        rank[c] = (ranked){column_weight(l, c), (uint32_t)c};
    if (w->act_order)
        qsort(rank, m->k, sizeof *rank, by_weight);
    for (uint64_t i = 0; i < m->k; i++) {
        m->order[i] = rank[i].column;
        m->weight[i] = rank[i].weight;
        m->g_idx[rank[i].column] = (int32_t)(i / m->group);
    }
    h->release(h->ctx, rank);
    return TN_OK;
}

static bool round_row(const writer *w, const tn_write_linear *l, matrix *m, uint64_t r)
{
    for (uint64_t i = 0; i < m->k; i++)
        m->row[i] = l->w[r * m->k + m->order[i]];
    for (uint64_t g = 0; g < m->ngroup; g++) {
        uint64_t from = g * m->group, to = from + m->group < m->k ? from + m->group : m->k;
        float scale, zero;
        if (!gptq_round_group(&w->round, m->row + from, m->weight + from, to - from,
                              &m->scale[g * m->n + r], &scale, &zero))
            return false;
        m->zero[g * m->n + r] = (uint8_t)zero;
        for (uint64_t i = from; i < to; i++)
            m->code[r * m->k + m->order[i]] =
                (uint8_t)gptq_round_code(&w->round, m->row[i], scale, zero);
    }
    return true;
}

/* ------------------------------------------------------------------------------ packing */

/* Field `at` of a stream of `bits` a field; words of a stream stand `step` apart. */
static void put_field(uint32_t *words, uint64_t step, uint64_t at, uint32_t bits, uint32_t v)
{
    uint64_t word = at * bits / 32;
    uint32_t shift = at * bits % 32;
    words[word * step] |= v << shift;
    if (shift + bits > 32)
        words[(word + 1) * step] |= v >> (32 - shift);
}

/* The one place that calls the sink, which sees one call at a time. */
static tn_status put_tensor(writer *w, const char *module, const char *suffix, uint32_t dtype,
                            uint64_t d0, uint64_t d1, const void *data, tn_err *err)
{
    char name[GPTQ_NAME_MAX];
    const uint64_t dim[2] = {d0, d1};
    int n = snprintf(name, sizeof name, "%s.%s", module, suffix);
    if (n < 0 || (size_t)n >= sizeof name)
        return tn_fail(err, TN_UNSUPPORTED, "%.100s...: a name of %d bytes, wanted less than %u",
                       module, n, GPTQ_NAME_MAX);
    pthread_mutex_lock(&w->lock);
    tn_status st = w->sink.tensor(w->sink.ctx, name, dtype, d1 == 0 ? 1 : 2, dim, data, err);
    pthread_mutex_unlock(&w->lock);
    return st;
}

static tn_status put_codes(writer *w, const char *name, const matrix *m, tn_err *err)
{
    const tn_host *h = w->self->h;
    uint64_t count = m->k * w->round.bits / 32 * m->n;
    uint32_t *words = h->alloc(h->ctx, count * 4);
    if (words == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory to pack it", name);
    memset(words, 0, (size_t)count * 4);
    for (uint64_t r = 0; r < m->n; r++)
        for (uint64_t c = 0; c < m->k; c++)
            put_field(words + r, m->n, c, w->round.bits, m->code[r * m->k + c]);
    tn_status st = put_tensor(w, name, "qweight", TN_I32, count / m->n, m->n, words, err);
    h->release(h->ctx, words);
    return st;
}

static tn_status put_zeros(writer *w, const char *name, const matrix *m, tn_err *err)
{
    const tn_host *h = w->self->h;
    uint32_t bits = w->round.bits, mask = (1u << bits) - 1;
    uint64_t width = m->n * bits / 32;
    uint32_t *words = h->alloc(h->ctx, m->ngroup * width * 4);
    if (words == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory to pack it", name);
    memset(words, 0, (size_t)(m->ngroup * width * 4));
    for (uint64_t g = 0; g < m->ngroup; g++)
        for (uint64_t r = 0; r < m->n; r++)
            put_field(words + g * width, 1, r, bits,
                      (m->zero[g * m->n + r] - (w->v2 ? 0u : 1u)) & mask);
    tn_status st = put_tensor(w, name, "qzeros", TN_I32, m->ngroup, width, words, err);
    h->release(h->ctx, words);
    return st;
}

static tn_status put_matrix(writer *w, const char *name, const matrix *m, tn_err *err)
{
    tn_status st = put_codes(w, name, m, err);
    if (st == TN_OK)
        st = put_zeros(w, name, m, err);
    if (st == TN_OK)
        st = put_tensor(w, name, "scales", TN_F16, m->ngroup, m->n, m->scale, err);
    if (st == TN_OK)
        st = put_tensor(w, name, "g_idx", TN_I32, m->k, 0, m->g_idx, err);
    return st;
}

/* "model.layers.3.mlp.up_proj" is "mlp.up_proj" inside its block; experts, which have numbers
 * of their own, are "mlp.experts" all together. */
static void note_name(writer *w, const char *name)
{
    size_t n = strlen(name);
    const char *p = name;
    if (n >= 7 && strcmp(name + n - 7, "lm_head") == 0) {
        w->head = true;
        return;
    }
    while (*p != 0 && !(p[0] == '.' && p[1] >= '0' && p[1] <= '9'))
        p++;
    for (p += *p != 0; *p >= '0' && *p <= '9'; p++)
        ;
    p = *p == '.' ? p + 1 : name;
    for (n = 0; p[n] != 0 && !(p[n] == '.' && p[n + 1] >= '0' && p[n + 1] <= '9'); n++)
        ;
    for (uint32_t i = 0; i < w->nkind; i++)
        if (strlen(w->kind[i]) == n && memcmp(w->kind[i], p, n) == 0)
            return;
    if (w->nkind < KINDS_MAX && n < KIND_SIZE) {
        memcpy(w->kind[w->nkind], p, n);
        w->kind[w->nkind++][n] = 0;
    }
}

tn_status gptq_write_linear(void *writer_, const tn_write_linear *l, tn_err *err)
{
    writer *w = writer_;
    matrix m;
    tn_status st = check_linear(w, l, err);
    if (st == TN_OK)
        st = open_matrix(w, l, &m, err);
    if (st != TN_OK)
        return st;
    st = order_columns(w, l, &m, err);
    for (uint64_t r = 0; r < m.n && st == TN_OK; r++)
        if (!round_row(w, l, &m, r))
            st = tn_fail(err, TN_DATA,
                         "%s: row %llu holds weights that are not finite or too large for a "
                         "16-bit scale",
                         l->name, (unsigned long long)r);
    if (st == TN_OK)
        st = put_matrix(w, l->name, &m, err);
    if (st == TN_OK) {
        pthread_mutex_lock(&w->lock);
        note_name(w, l->name);
        pthread_mutex_unlock(&w->lock);
    }
    w->self->h->release(w->self->h->ctx, m.row);
    return st;
}

/* -------------------------------------------------------------------------------- end */

typedef struct text {
    char *data;
    size_t len;
} text;

__attribute__((format(printf, 2, 3))) static void put(text *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(t->data + t->len, TEXT_MAX - t->len, fmt, ap);
    va_end(ap);
    if (n > 0)
        t->len += (size_t)n < TEXT_MAX - t->len ? (size_t)n : TEXT_MAX - t->len - 1;
}

/* Names of modules hold neither quotes nor controls; one that does is left out. */
static bool is_simple(const char *name)
{
    for (const char *p = name; *p != 0; p++)
        if ((unsigned char)*p < 0x20 || *p == '"' || *p == '\\')
            return false;
    return true;
}

static void put_config(const writer *w, text *t)
{
    const char *yes = w->act_order ? "true" : "false", *comma = "";
    put(t, "{\"quant_method\": \"gptq\", \"bits\": %u, \"group_size\": %lld, \"desc_act\": %s, "
           "\"sym\": %s, \"lm_head\": %s, \"checkpoint_format\": \"%s\", "
           "\"pack_dtype\": \"int32\", \"true_sequential\": false, \"static_groups\": false, "
           "\"damp_percent\": 0.01",
        w->round.bits, w->group != 0 ? (long long)w->group : -1LL, yes,
        w->round.symmetric ? "true" : "false", w->head ? "true" : "false",
        w->v2 ? "gptq_v2" : "gptq");
    if (w->nkind != 0) {
        put(t, ", \"modules_in_block_to_quantize\": [[");
        for (uint32_t i = 0; i < w->nkind; i++) {
            if (!is_simple(w->kind[i]))
                continue;
            put(t, "%s\"%s\"", comma, w->kind[i]);
            comma = ", ";
        }
        put(t, "]]");
    }
    put(t, "}");
}

tn_status gptq_write_end(void *writer_, tn_err *err)
{
    writer *w = writer_;
    const tn_host *h = w->self->h;
    text t = {.data = h->alloc(h->ctx, TEXT_MAX)};
    if (t.data == NULL)
        return tn_fail(err, TN_NO_MEMORY, "gptq: no memory for the configuration");
    put_config(w, &t);
    tn_status st = w->sink.config(w->sink.ctx, t.data, err);
    if (st == TN_OK && w->sink.file != NULL)
        st = w->sink.file(w->sink.ctx, "quantize_config.json", t.data, t.len, err);
    h->release(h->ctx, t.data);
    return st;
}

void gptq_write_drop(void *writer_)
{
    writer *w = writer_;
    const tn_host *h = w->self->h;
    pthread_mutex_destroy(&w->lock);
    h->release(h->ctx, w->kind);
    h->release(h->ctx, w);
}

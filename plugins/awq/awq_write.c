/* SPDX-License-Identifier: Apache-2.0 */
/* awq_write.c - the plugin's other direction: full-precision rows in, a checkpoint out.
 *
 *   variant          layout              bits   group            symmetric
 *   gemm (usual)     AutoAWQ             4      divides k, -1    zero points all 8
 *   gemv             AutoAWQ             4      32, 64, >= 128   "
 *   gemv_fast        AutoAWQ             4      32, 64, >= 128   "
 *   pack-quantized   compressed-tensors  4, 8   divides k, -1    no zero points
 *
 * A linear that the layout cannot hold is TN_UNSUPPORTED, so that the caller may leave it
 * plain, and one whose weights no scale can hold is TN_DATA; the written configuration then names the kinds of modules that were left. */
#include "awq.h"

#include <pthread.h>
#include <stdlib.h>

#define KINDS_MAX 1024u
#define KIND_SIZE 256u
#define TEXT_SIZE 8192u

typedef struct writer {
    awq_self *self;
    tn_sink sink;          /* a copy; its ctx is the caller's */
    uint32_t layout;       /* AWQ_GEMM ... AWQ_PACKED */
    uint64_t group;        /* 0: the whole row */
    bool symmetric;
    awq_round round;
    const char *version;   /* AutoAWQ's name of the layout */
    pthread_mutex_t lock;  /* held while the sink is called; guards what follows */
    uint32_t nkind;
    char (*kind)[KIND_SIZE]; /* [KINDS_MAX] names written, numbers as '#' */
} writer;

/* ------------------------------------------------------------------------------ begin */

static tn_status choose_layout(writer *w, const char *variant, tn_err *err)
{
    static const struct {
        const char *name;
        uint32_t layout;
    } all[] = {{"gemm", AWQ_GEMM},
               {"gemv", AWQ_GEMV},
               {"gemv_fast", AWQ_GEMV_FAST},
               {"pack-quantized", AWQ_PACKED}};
    variant = variant != NULL ? variant : "gemm";
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(all[i].name, variant) == 0) {
            w->layout = all[i].layout;
            w->version = all[i].name;
            return TN_OK;
        }
    return tn_fail(err, TN_UNSUPPORTED,
                   "awq: variant is %.60s, wanted gemm, gemv, gemv_fast or pack-quantized",
                   variant);
}

static tn_status check_options(const writer *w, const tn_write_options *o, tn_err *err)
{
    bool packed = w->layout == AWQ_PACKED;
    if (o->bits != 4 && !(packed && o->bits == 8))
        return tn_fail(err, TN_UNSUPPORTED, "awq: bits is %u, wanted 4%s", o->bits,
                       packed ? " or 8" : " for an AutoAWQ layout");
    if (o->group < -1 || o->group == 0)
        return tn_fail(err, TN_UNSUPPORTED, "awq: group is %d, wanted -1 or a positive number",
                       o->group);
    if (o->act_order != 0)
        return tn_fail(err, TN_UNSUPPORTED,
                       "awq: act_order is on, wanted off: AWQ files have no column order");
    if (o->search > 1)
        return tn_fail(err, TN_UNSUPPORTED,
                       "awq: search is %u, wanted 0 (round to nearest) or 1 (shrink ranges)",
                       o->search);
    return TN_OK;
}

/* compressed-tensors keeps scales in the model's own 16-bit type. */
static uint32_t scale_dtype(const tn_json *config)
{
    const tn_json *d = tn_json_find(config, "dtype");
    if (d == NULL || d->type != TN_JSON_TEXT)
        d = tn_json_find(config, "torch_dtype");
    bool half = d != NULL && d->type == TN_JSON_TEXT && strcmp(d->text, "float16") == 0;
    return half ? TN_F16 : TN_BF16;
}

tn_status awq_write_begin(void *self, const tn_write_options *o, const tn_json *config,
                          const tn_sink *sink, void **out, tn_err *err)
{
    awq_self *s = self;
    writer start = {.self = s, .sink = *sink};
    tn_status st = choose_layout(&start, o->variant, err);
    if (st == TN_OK)
        st = check_options(&start, o, err);
    if (st != TN_OK)
        return st;
    bool packed = start.layout == AWQ_PACKED;
    start.group = o->group < 0 ? 0 : (uint64_t)o->group;
    start.symmetric = o->symmetric != 0;
    start.round = (awq_round){
        .how = packed ? (start.symmetric ? AWQ_ROUND_PACKED_SYM : AWQ_ROUND_PACKED)
                      : (start.symmetric ? AWQ_ROUND_AWQ_SYM : AWQ_ROUND_AWQ),
        .bits = o->bits,
        .scale_dtype = packed ? scale_dtype(config) : TN_F16,
        .search = o->search,
    };
    writer *w = s->h->alloc(s->h->ctx, sizeof *w);
    if (w == NULL)
        return tn_fail(err, TN_NO_MEMORY, "awq: no memory for a writer");
    *w = start;
    w->kind = s->h->alloc(s->h->ctx, (uint64_t)KINDS_MAX * KIND_SIZE);
    if (w->kind == NULL || pthread_mutex_init(&w->lock, NULL) != 0) {
        if (w->kind != NULL)
            s->h->release(s->h->ctx, w->kind);
        s->h->release(s->h->ctx, w);
        return tn_fail(err, TN_NO_MEMORY, "awq: no memory for a writer");
    }
    *out = w;
    return TN_OK;
}

/* ----------------------------------------------------------------------------- linear */

static tn_status check_linear(const writer *w, const tn_write_linear *l, uint64_t group,
                              tn_err *err)
{
    uint64_t n_unit = w->layout == AWQ_GEMM ? 8 : w->layout == AWQ_GEMV_FAST ? 4 : 1;
    uint64_t k_unit = w->layout == AWQ_GEMV ? 8 : w->layout == AWQ_GEMV_FAST ? 64 : 1;
    bool gemv = w->layout == AWQ_GEMV || w->layout == AWQ_GEMV_FAST;
    if (l->n == 0 || l->k == 0 || l->n >> 31 != 0 || l->k >> 31 != 0 || l->n % n_unit != 0 ||
        l->k % k_unit != 0)
        return tn_fail(err, TN_UNSUPPORTED,
                       "%s: n %llu and k %llu, wanted multiples of %llu and %llu for %s", l->name,
                       (unsigned long long)l->n, (unsigned long long)l->k,
                       (unsigned long long)n_unit, (unsigned long long)k_unit, w->version);
    if (l->k % group != 0)
        return tn_fail(err, TN_UNSUPPORTED, "%s: k is %llu, wanted a multiple of the group %llu",
                       l->name, (unsigned long long)l->k, (unsigned long long)group);
    if (gemv && group != 32 && group != 64 && group < 128)
        return tn_fail(err, TN_UNSUPPORTED,
                       "%s: the group is %llu, wanted 32, 64 or at least 128 for %s", l->name,
                       (unsigned long long)group, w->version);
    return TN_OK;
}

/* gemv_fast stores scale * zero in 16 bits, which overflows before the scale does. */
static bool fast_overflows(const writer *w, uint16_t scale)
{
    float most = 15 * awq_from_half(w->round.scale_dtype, scale);
    return w->layout == AWQ_GEMV_FAST && awq_to_half(TN_F16, most) == 0x7c00u;
}

static tn_status round_matrix(const writer *w, const tn_write_linear *l, uint64_t group,
                              awq_matrix *m, tn_err *err)
{
    for (uint64_t r = 0; r < l->n; r++)
        for (uint64_t g = 0; g < m->ngroup; g++) {
            uint64_t at = r * l->k + g * group, i = r * m->ngroup + g;
            const float *importance = l->act_mean != NULL ? l->act_mean + g * group : NULL;
            if (!awq_round_group(&w->round, l->w + at, importance, group, m->code + at,
                                 m->scale + i, m->zero + i) ||
                fast_overflows(w, m->scale[i]))
                return tn_fail(err, TN_DATA,
                               "%s: row %llu, columns %llu to %llu hold weights that are not "
                               "finite or too large for a 16-bit scale",
                               l->name, (unsigned long long)r, (unsigned long long)(g * group),
                               (unsigned long long)((g + 1) * group - 1));
        }
    return TN_OK;
}

/* The sink sees one call at a time, whichever threads the modules come from. */
static tn_status put_tensor(void *ctx, const char *name, uint32_t dtype, uint32_t ndim,
                            const uint64_t *dim, const void *data, tn_err *err)
{
    writer *w = ctx;
    pthread_mutex_lock(&w->lock);
    tn_status st = w->sink.tensor(w->sink.ctx, name, dtype, ndim, dim, data, err);
    pthread_mutex_unlock(&w->lock);
    return st;
}

/* "model.layers.3.mlp.up_proj" becomes "model.layers.#.mlp.up_proj". */
static void note_name(writer *w, const char *name)
{
    char kind[KIND_SIZE];
    size_t n = 0;
    for (const char *p = name; *p != 0 && n + 1 < sizeof kind; p++) {
        bool digit = *p >= '0' && *p <= '9';
        if (!digit)
            kind[n++] = *p;
        else if (n == 0 || kind[n - 1] != '#')
            kind[n++] = '#';
    }
    kind[n] = 0;
    for (uint32_t i = 0; i < w->nkind; i++)
        if (strcmp(w->kind[i], kind) == 0)
            return;
    if (w->nkind < KINDS_MAX)
        memcpy(w->kind[w->nkind++], kind, n + 1);
}

tn_status awq_write_linear(void *writer_, const tn_write_linear *l, tn_err *err)
{
    writer *w = writer_;
    const tn_host *h = w->self->h;
    uint64_t group = w->group != 0 ? w->group : l->k;
    tn_status st = check_linear(w, l, group, err);
    if (st != TN_OK)
        return st;
    awq_matrix m = {.n = l->n,
                    .k = l->k,
                    .ngroup = l->k / group,
                    .bits = w->round.bits,
                    .scale_dtype = w->round.scale_dtype};
    uint64_t nscale = m.n * m.ngroup;
    m.scale = h->alloc(h->ctx, 3 * nscale + m.n * m.k);
    if (m.scale == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory to quantize it", l->name);
    m.zero = (uint8_t *)(m.scale + nscale);
    m.code = m.zero + nscale;
    st = round_matrix(w, l, group, &m, err);
    if (w->layout == AWQ_PACKED && w->symmetric)
        m.zero = NULL;
    if (st == TN_OK) {
        const tn_sink guarded = {.size = sizeof guarded, .ctx = w, .tensor = put_tensor};
        st = awq_pack(h, &guarded, w->layout, l->name, &m, err);
    }
    if (st == TN_OK) {
        pthread_mutex_lock(&w->lock);
        note_name(w, l->name);
        pthread_mutex_unlock(&w->lock);
    }
    h->release(h->ctx, m.scale);
    return st;
}

/* -------------------------------------------------------------------------------- end */

/* Kinds of modules that models often leave plain. Other readers quantize every linear that
 * the config does not except, so each kind of which nothing was written is named. */
typedef struct left_plain {
    const char *part;
    bool last;   /* the name ends with it */
} left_plain;

static const left_plain kinds_left[] = {
    {"lm_head", true},         {".self_attn.", false},         {".linear_attn.", false},
    {".in_proj_ba", true},     {".in_proj_a", true},           {".in_proj_b", true},
    {".mlp.gate", true},       {".shared_expert_gate", true},  {".shared_expert.", false},
    {".experts.", false},      {".block_sparse_moe.gate", true},
    {"visual", false},         {"mtp.", false},
};

/* Was something written that this entry would except? AutoAWQ takes entries as substrings. */
static bool was_written(const writer *w, const left_plain *k, bool substring)
{
    size_t size = strlen(k->part);
    for (uint32_t i = 0; i < w->nkind; i++) {
        size_t n = strlen(w->kind[i]);
        bool found = k->last && !substring
                         ? n >= size && strcmp(w->kind[i] + n - size, k->part) == 0
                         : strstr(w->kind[i], k->part) != NULL;
        if (found)
            return true;
    }
    return false;
}

typedef struct text {
    char *data;
    size_t len;
} text;

__attribute__((format(printf, 2, 3))) static void put(text *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(t->data + t->len, TEXT_SIZE - t->len, fmt, ap);
    va_end(ap);
    if (n > 0)
        t->len += (size_t)n < TEXT_SIZE - t->len ? (size_t)n : TEXT_SIZE - t->len - 1;
}

/* ".mlp.gate" as a pattern: "re:.*\\.mlp\\.gate$" in JSON. */
static void put_pattern(text *t, const left_plain *k)
{
    put(t, "\"re:.*");
    for (const char *p = k->part; *p != 0; p++)
        put(t, *p == '.' ? "\\\\%c" : "%c", *p);
    put(t, "%s\"", k->last ? "$" : ".*");
}

static void put_left(const writer *w, bool patterns, text *t)
{
    const char *comma = "";
    put(t, "[");
    for (size_t i = 0; i < sizeof kinds_left / sizeof *kinds_left; i++) {
        if (was_written(w, &kinds_left[i], !patterns))
            continue;
        put(t, "%s", comma);
        if (patterns)
            put_pattern(t, &kinds_left[i]);
        else
            put(t, "\"%s\"", kinds_left[i].part);
        comma = ", ";
    }
    put(t, "]");
}

static void put_autoawq(const writer *w, text *t)
{
    put(t, "{\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": %lld, "
           "\"zero_point\": true, \"version\": \"%s\", \"modules_to_not_convert\": ",
        w->group != 0 ? (long long)w->group : -1LL, w->version);
    put_left(w, false, t);
    put(t, "}");
}

static void put_packed(const writer *w, text *t)
{
    put(t, "{\"quant_method\": \"compressed-tensors\", \"format\": \"pack-quantized\", "
           "\"quantization_status\": \"compressed\", \"config_groups\": {\"group_0\": "
           "{\"targets\": [\"Linear\"], \"weights\": {\"num_bits\": %u, \"type\": \"int\", "
           "\"symmetric\": %s, \"strategy\": \"%s\", \"group_size\": ",
        w->round.bits, w->symmetric ? "true" : "false", w->group != 0 ? "group" : "channel");
    if (w->group != 0)
        put(t, "%llu", (unsigned long long)w->group);
    else
        put(t, "null");
    put(t, ", \"actorder\": null, \"block_structure\": null, \"dynamic\": false, "
           "\"observer\": \"minmax\", \"observer_kwargs\": {}}, \"input_activations\": null, "
           "\"output_activations\": null, \"format\": \"pack-quantized\"}}, \"ignore\": ");
    put_left(w, true, t);
    put(t, ", \"kv_cache_scheme\": null, \"global_compression_ratio\": null, "
           "\"sparsity_config\": {}, \"transform_config\": {}, \"version\": \"0.17.0\"}");
}

tn_status awq_write_end(void *writer_, tn_err *err)
{
    writer *w = writer_;
    const tn_host *h = w->self->h;
    text t = {.data = h->alloc(h->ctx, TEXT_SIZE)};
    if (t.data == NULL)
        return tn_fail(err, TN_NO_MEMORY, "awq: no memory for the configuration");
    if (w->layout == AWQ_PACKED)
        put_packed(w, &t);
    else
        put_autoawq(w, &t);
    tn_status st = w->sink.config(w->sink.ctx, t.data, err);
    h->release(h->ctx, t.data);
    return st;
}

void awq_write_drop(void *writer_)
{
    writer *w = writer_;
    const tn_host *h = w->self->h;
    pthread_mutex_destroy(&w->lock);
    h->release(h->ctx, w->kind);
    h->release(h->ctx, w);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* private8.c - the smallest quantization whose weights no neutral form fits.
 *
 * A linear NAME is NAME.p8, i8 [n, k], and NAME.row, f32 [n]: W[n][k] = sinh(p8 / 32) * row,
 * codes on a curve instead of a grid, which W8G cannot say. So the plugin hands over bytes of
 * its own (a rectangle: row factors f32, then codes) and brings the multiply for the cpu
 * device. In config.json: "quantization_config": {"quant_method": "private8"}. A module with a
 * plain NAME.weight is handed over as it is. */
#include <tenon/plugin.h>

#include <math.h>

#define LEVELS 127
#define CURVE 32.0f

/* All that stop has to undo. */
typedef struct private8 {
    const tn_host *h;
    float value[256];   /* sinh((i - 128) / CURVE) */
} private8;

/* The tensor NAME.part, if it is there with this shape (cols 0: one size only). */
static const char *get(const tn_view *v, const tn_module *m, const char *part, uint32_t dtype,
                       uint64_t cols)
{
    char name[512];
    tn_tensor t;
    int found = snprintf(name, sizeof name, "%s.%s", m->name, part) < 512 && v->find(v, name, &t);
    return found && t.dtype == dtype && t.ndim == (cols != 0 ? 2u : 1u) && t.dim[0] == m->n &&
                   (cols == 0 || t.dim[1] == cols)
               ? t.data : NULL;
}

/* The form's kind, 0 when the module is not there; its codes and row factors in `p`. The
 * plain types TN_F32, TN_F16, TN_BF16 and their forms have the same numbers. */
static uint32_t look(const tn_view *v, const tn_module *m, const char *p[2])
{
    for (uint32_t kind = TN_FORM_F32; kind <= TN_FORM_BF16; kind++)
        if ((p[0] = get(v, m, "weight", kind, m->k)) != NULL)
            return kind;
    p[0] = get(v, m, "p8", TN_I8, m->k);
    p[1] = get(v, m, "row", TN_F32, 0);
    return p[0] != NULL && p[1] != NULL ? TN_FORM_PRIVATE : 0;
}

/* Bytes an element: of the plain kinds, and of a code. */
static uint64_t item(uint32_t kind)
{
    return kind == TN_FORM_PRIVATE ? 1 : kind == TN_FORM_F32 ? 4 : 2;
}

static uint32_t claims(void *self, const tn_view *v, tn_err *why)
{
    const tn_json *q = tn_json_find(v->quant, "quant_method");
    (void)self;
    if (q != NULL && q->type == TN_JSON_TEXT && strcmp(q->text, "private8") == 0)
        return 100;
    tn_fail(why, TN_DATA, "quant_method is not private8");
    return 0;
}

static tn_status form_of(void *self, const tn_view *v, const tn_module *m, const tn_rect *r,
                         tn_form *out, tn_err *err)
{
    const char *p[2];
    uint32_t kind = look(v, m, p);
    (void)self;
    if (kind == 0)
        return tn_fail(err, TN_NOINPUT, "%s: wanted weight, or p8 i8 [n, k] and row f32 [n]",
                       m->name);
    *out = (tn_form){.size = sizeof *out,
                     .kind = kind,
                     .bits = (uint32_t)(8 * item(kind)),
                     .rows = r->row1 - r->row0,
                     .cols = r->col1 - r->col0,
                     .file_bytes = m->n * m->k * item(kind)};
    if (kind == TN_FORM_PRIVATE) {
        out->bytes = out->rows * (sizeof(float) + out->cols);
        out->file_bytes += m->n * sizeof(float);
    }
    return TN_OK;
}

static tn_status cut(void *self, const tn_view *v, const tn_module *m, uint64_t *row_unit,
                     uint64_t *col_unit, tn_err *err)
{
    (void)self, (void)v, (void)m, (void)err;
    *row_unit = *col_unit = 1;
    return TN_OK;
}

/* Plain rows [row0, row1), or the whole private rectangle: factors, then codes. */
static tn_status read_rows(void *self, const tn_view *v, const tn_module *m, const tn_rect *r,
                           uint64_t row0, uint64_t row1, tn_block *out, tn_err *err)
{
    const char *p[2];
    uint32_t kind = look(v, m, p);
    uint64_t size = (r->col1 - r->col0) * item(kind);
    char *to = out->codes;
    (void)self;
    if (kind == 0)
        return tn_fail(err, TN_NOINPUT, "%s: has no tensor", m->name);
    if (to != NULL && kind == TN_FORM_PRIVATE) {
        memcpy(to, p[1] + row0 * sizeof(float), (row1 - row0) * sizeof(float));
        to += (row1 - row0) * sizeof(float);
    }
    for (uint64_t i = row0; i < row1 && to != NULL; i++, to += size)
        memcpy(to, p[0] + (i * m->k + r->col0) * item(kind), size);
    return TN_OK;
}

/* y += x . W^T for rows [row0, row1) of the block: what the cpu device calls, threads at once
 * on rows of their own. */
static void multiply(void *self, const void *bytes, uint64_t n, uint64_t k, uint64_t row0,
                     uint64_t row1, const float *x, uint64_t ldx, uint64_t m, float *y,
                     uint64_t ldy)
{
    const float *value = ((const private8 *)self)->value + 128;
    const int8_t *code = (const int8_t *)bytes + n * sizeof(float);
    for (uint64_t r = row0; r < row1; r++) {
        float factor;
        memcpy(&factor, (const char *)bytes + r * sizeof factor, sizeof factor);
        for (uint64_t i = 0; i < m; i++) {
            float sum = 0;
            for (uint64_t c = 0; c < k; c++)
                sum += x[i * ldx + c] * value[code[r * k + c]];
            y[i * ldy + r - row0] += sum * factor;
        }
    }
}

/* ----------------------------------------------------------------------------- writer */

typedef struct writer {
    const private8 *p;
    tn_sink sink;
} writer;

static tn_status write_begin(void *self, const tn_write_options *o, const tn_json *config,
                             const tn_sink *sink, void **out, tn_err *err)
{
    const private8 *p = self;
    (void)config;
    if (o->bits != 8 || o->group != -1 || o->symmetric == 0 || o->act_order || o->search)
        return tn_fail(err, TN_UNSUPPORTED, "private8: wanted bits 8, group -1, symmetric");
    writer *w = p->h->alloc(p->h->ctx, sizeof *w);
    if (w == NULL)
        return tn_fail(err, TN_NO_MEMORY, "private8: no memory for a writer");
    *w = (writer){p, *sink};
    *out = w;
    return TN_OK;
}

static tn_status put(writer *w, const tn_write_linear *l, const char *part, uint32_t dtype,
                     uint32_t ndim, const void *data, tn_err *err)
{
    char name[512];
    const uint64_t dim[2] = {l->n, l->k};
    snprintf(name, sizeof name, "%s.%s", l->name, part);
    return w->sink.tensor(w->sink.ctx, name, dtype, ndim, dim, data, err);
}

/* The greatest weight of a row takes the greatest code; the curve does the rest. */
static float round_row(const float *w, uint64_t k, int8_t *code)
{
    float most = 0;
    for (uint64_t c = 0; c < k; c++)
        most = isfinite(w[c]) && most >= 0 ? fmaxf(most, fabsf(w[c])) : NAN;
    float factor = most / sinhf(LEVELS / CURVE);
    for (uint64_t c = 0; c < k; c++)
        code[c] = factor > 0 ? (int8_t)rintf(fminf(CURVE * asinhf(fabsf(w[c]) / factor), LEVELS))
                             : 0;
    for (uint64_t c = 0; c < k; c++)
        code[c] = w[c] < 0 ? (int8_t)-code[c] : code[c];
    return factor;
}

static tn_status write_linear(void *writer_, const tn_write_linear *l, tn_err *err)
{
    writer *w = writer_;
    const tn_host *h = w->p->h;
    float *factor = h->alloc(h->ctx, l->n * (sizeof *factor + l->k));
    if (factor == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory to quantize it", l->name);
    int8_t *code = (int8_t *)(factor + l->n);
    tn_status st = TN_OK;
    for (uint64_t r = 0; r < l->n && st == TN_OK; r++) {
        factor[r] = round_row(l->w + r * l->k, l->k, code + r * l->k);
        if (!(factor[r] >= 0))
            st = tn_fail(err, TN_DATA, "%s: wanted finite weights", l->name);
    }
    if (st == TN_OK)
        st = put(w, l, "p8", TN_I8, 2, code, err);
    if (st == TN_OK)
        st = put(w, l, "row", TN_F32, 1, factor, err);
    h->release(h->ctx, factor);
    return st;
}

static tn_status write_end(void *writer_, tn_err *err)
{
    writer *w = writer_;
    return w->sink.config(w->sink.ctx, "{\"quant_method\": \"private8\"}", err);
}

static void write_drop(void *writer_)
{
    writer *w = writer_;
    w->p->h->release(w->p->h->ctx, w);
}

/* ------------------------------------------------------------------------- life cycle */

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    private8 *p = h->alloc(h->ctx, sizeof *p);
    if (p == NULL)
        return tn_fail(err, TN_NO_MEMORY, "private8: no memory to start");
    p->h = h;
    for (int i = 0; i < 256; i++)
        p->value[i] = sinhf((float)(i - 128) / CURVE);
    *self = p;
    return TN_OK;
}

static tn_status start(void *self, tn_err *err)
{
    (void)self, (void)err;
    return TN_OK;
}

static void stop(void *self)
{
    private8 *p = self;
    p->h->release(p->h->ctx, p);
}

/* A function kept as an object pointer: POSIX promises that the two fit each other. */
static const tn_multiply multiplies[] = {
    {.size = sizeof(tn_multiply), .device = "cpu", .entry = (const void *)multiply},
};

static const tn_quant table = {
    .size = sizeof table,
    .nmultiply = 1,
    .multiply = multiplies,
    .claims = claims,
    .form_of = form_of,
    .cut = cut,
    .read = read_rows,
    .write_begin = write_begin,
    .write_linear = write_linear,
    .write_end = write_end,
    .write_drop = write_drop,
};

TN_EXPORT const tn_plugin tn_plugin_entry = {
    .abi_major = TN_ABI_MAJOR,
    .abi_minor = TN_ABI_MINOR,
    .size = sizeof tn_plugin_entry,
    .kind = TN_KIND_QUANT,
    .name = "private8",
    .version = "1.0",
    .summary = "8-bit codes on a curve, with a multiply of its own.",
    .table = &table,
    .init = init,
    .start = start,
    .stop = stop,
};

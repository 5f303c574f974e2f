/* SPDX-License-Identifier: Apache-2.0 */
/* w4demo.c - a quantization of one's own: a whole 4-bit format, read and written.
 *
 * A linear NAME is two tensors: NAME.q4, u8 [n, k / 2], two codes a byte, the even column in
 * the low nibble, and NAME.step, f32 [n, k / 32], one step for 32 columns. Code 8 is zero:
 * W[n][k] = (code - 8) * step. In config.json: "quantization_config": {"quant_method":
 * "w4demo"}. A module with a plain NAME.weight is handed over as it is.
 *
 *   cc -shared -fPIC $(pkg-config --cflags tenon) w4demo.c -o w4demo.so -lm
 *
 * That is all. The form is one that every device knows, so its fast kernels serve this format
 * too. Arguments that so small a plugin has no use for are left alone: */
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include <tenon/plugin.h>

#include <math.h>
#include <stdlib.h>

static const uint32_t bits_of[] = {0, 32, 16, 16, 4};   /* by TN_FORM_*; plain ones are TN_* */

/* The bytes of NAME.part if it is there in this type and shape: a file is never trusted. */
static const char *get(const tn_view *v, const tn_module *m, const char *part, uint32_t dtype,
                       uint64_t cols)
{
    char name[512];
    tn_tensor t;
    int found = snprintf(name, sizeof name, "%s.%s", m->name, part) < 512 && v->find(v, name, &t);
    return found && t.dtype == dtype && t.ndim == 2 && t.dim[0] == m->n && t.dim[1] == cols
               ? t.data : NULL;
}

/* The form that a module leaves in, 0 when it is not there; its codes and steps in `p`. */
static uint32_t look(const tn_view *v, const tn_module *m, const char *p[2])
{
    for (uint32_t kind = TN_FORM_F32; kind <= TN_FORM_BF16; kind++)
        if ((p[0] = get(v, m, "weight", kind, m->k)) != NULL)
            return kind;
    p[0] = get(v, m, "q4", TN_U8, m->k / 2);
    p[1] = get(v, m, "step", TN_F32, m->k / 32);
    return m->k % 32 == 0 && p[0] != NULL && p[1] != NULL ? TN_FORM_W4G : 0;
}

static uint32_t claims(void *self, const tn_view *v, tn_err *why)
{
    const tn_json *q = tn_json_find(v->quant, "quant_method");
    tn_fail(why, TN_DATA, "quant_method is not w4demo");
    return q != NULL && q->type == TN_JSON_TEXT && strcmp(q->text, "w4demo") == 0 ? 100 : 0;
}

static tn_status form_of(void *self, const tn_view *v, const tn_module *m, const tn_rect *r,
                         tn_form *f, tn_err *err)
{
    const char *p[2];
    uint32_t kind = look(v, m, p);
    *f = (tn_form){.size = sizeof *f, .kind = kind, .group = kind == TN_FORM_W4G ? 32 : 0,
                   .bits = bits_of[kind], .rows = r->row1 - r->row0, .cols = r->col1 - r->col0};
    return kind != 0 ? TN_OK : tn_fail(err, TN_NOINPUT, "%s: wanted weight, or q4 u8 [n, k / 2] "
                                       "and step f32 [n, k / 32]", m->name);
}

static tn_status cut(void *self, const tn_view *v, const tn_module *m, uint64_t *row_unit,
                     uint64_t *col_unit, tn_err *err)
{
    *row_unit = 1;
    *col_unit = 32;
    return TN_OK;
}

static tn_status read_rows(void *self, const tn_view *v, const tn_module *m, const tn_rect *r,
                           uint64_t row0, uint64_t row1, tn_block *out, tn_err *err)
{
    const char *p[2];
    uint32_t kind = look(v, m, p);
    uint64_t cols = r->col1 - r->col0, size = cols * bits_of[kind] / 8, groups = cols / 32;
    for (uint64_t i = 0; i < row1 - row0; i++) {
        uint64_t at = (row0 + i) * m->k + r->col0;
        if (out->codes != NULL)
            memcpy((char *)out->codes + i * size, p[0] + at * bits_of[kind] / 8, size);
        if (kind == TN_FORM_W4G && out->scale != NULL)
            memcpy(out->scale + i * groups, p[1] + at / 32 * 4, groups * 4);
        if (kind == TN_FORM_W4G && out->zero != NULL)
            memset(out->zero + i * groups, 8, groups);
    }
    return TN_OK;
}

/* The writer's state is a copy of the sink; nothing else needs to be remembered. */
static tn_status write_begin(void *self, const tn_write_options *o, const tn_json *config,
                             const tn_sink *sink, void **writer, tn_err *err)
{
    if (o->bits != 4 || o->group != 32 || o->symmetric == 0 || o->act_order || o->search)
        return tn_fail(err, TN_UNSUPPORTED, "w4demo: wanted bits 4, group 32, symmetric");
    if ((*writer = malloc(sizeof *sink)) == NULL)
        return tn_fail(err, TN_NO_MEMORY, "w4demo: no memory");
    memcpy(*writer, sink, sizeof *sink);
    return TN_OK;
}

/* Codes of 32 weights (into zeroed bytes); returns their step, which is NaN if one of them is. */
static float round_group(const float *w, uint8_t *q)
{
    float step = 0;
    for (int j = 0; j < 32; j++)
        step = isfinite(w[j]) && step >= 0 ? fmaxf(step, fabsf(w[j]) / 7) : NAN;
    for (int j = 0; j < 32 && step > 0; j++)
        q[j / 2] |= (uint8_t)((int)(rintf(w[j] / step) + 8) << 4 * (j % 2));
    return step;
}

static tn_status put(const tn_sink *sink, const tn_write_linear *l, const char *part,
                     uint32_t dtype, uint64_t cols, const void *data, tn_err *err)
{
    char name[512];
    const uint64_t dim[2] = {l->n, cols};
    snprintf(name, sizeof name, "%s.%s", l->name, part);
    return sink->tensor(sink->ctx, name, dtype, 2, dim, data, err);
}

static tn_status write_linear(void *writer, const tn_write_linear *l, tn_err *err)
{
    uint64_t ngroup = l->n * l->k / 32;
    if (l->k % 32 != 0)
        return tn_fail(err, TN_UNSUPPORTED, "%s: wanted k a multiple of 32", l->name);
    uint8_t *q = calloc(ngroup, 16 + sizeof(float));   /* all codes, then all steps */
    float *step = (float *)(q + 16 * ngroup);
    tn_status st = q != NULL ? TN_OK : tn_fail(err, TN_NO_MEMORY, "%s: no memory", l->name);
    for (uint64_t g = 0; g < ngroup && st == TN_OK; g++) {
        step[g] = round_group(l->w + 32 * g, q + 16 * g);
        if (!(step[g] >= 0))
            st = tn_fail(err, TN_DATA, "%s: wanted finite weights", l->name);
    }
    st = st != TN_OK ? st : put(writer, l, "q4", TN_U8, l->k / 2, q, err);
    st = st != TN_OK ? st : put(writer, l, "step", TN_F32, l->k / 32, step, err);
    free(q);
    return st;
}

static tn_status write_end(void *writer, tn_err *err)
{
    const tn_sink *sink = writer;
    return sink->config(sink->ctx, "{\"quant_method\": \"w4demo\"}", err);
}

static tn_status init(const tn_host *h, void **self, tn_err *err) { return TN_OK; }
static tn_status start(void *self, tn_err *err) { return TN_OK; }
static void stop(void *self) {}

static const tn_quant table = {
    .size = sizeof table, .claims = claims, .form_of = form_of, .cut = cut, .read = read_rows,
    .write_begin = write_begin, .write_linear = write_linear, .write_end = write_end,
    .write_drop = free};

TN_EXPORT const tn_plugin tn_plugin_entry = {
    .abi_major = TN_ABI_MAJOR, .abi_minor = TN_ABI_MINOR, .size = sizeof tn_plugin_entry,
    .kind = TN_KIND_QUANT, .name = "w4demo", .version = "1.0", .table = &table, .init = init,
    .start = start, .stop = stop, .summary = "A 4-bit format of 32 columns a step."};

/* SPDX-License-Identifier: Apache-2.0 */
/* tiny4.c - a quantization of one's own in one screen: a 4-bit format that serves models.
 *
 * A linear NAME is two tensors: NAME.q4, u8 [n, k / 2], two codes a byte, the even column in
 * the low nibble, and NAME.step, f32 [n, k / 32]. Code 8 is zero: W = (code - 8) * step. In
 * config.json: "quantization_config": {"quant_method": "tiny4"}. Modules without these tensors
 * are plain, and the core's business. w4demo.c is the same with a writer.
 *
 *   cc -shared -fPIC -fvisibility=hidden $(pkg-config --cflags tenon) tiny4.c -o tiny4.so */
#pragma GCC diagnostic ignored "-Wunused-parameter" /* so small a plugin uses few arguments */
#include <tenon/plugin.h>

/* The bytes of NAME.part, if they are there in this type and shape: a file is never trusted. */
static const char *get(const tn_view *v, const tn_module *m, const char *part, uint32_t dtype,
                       uint64_t cols)
{
    char name[512];
    tn_tensor t;
    int fits = snprintf(name, sizeof name, "%s.%s", m->name, part) < (int)sizeof name;
    return fits && v->find(v, name, &t) && t.dtype == dtype && t.ndim == 2 && t.dim[0] == m->n &&
                   t.dim[1] == cols ? t.data : NULL;
}

static uint32_t claims(void *self, const tn_view *v, tn_err *why)
{
    const tn_json *q = tn_json_find(v->quant, "quant_method");
    tn_fail(why, TN_DATA, "quant_method is not tiny4");
    return q != NULL && q->type == TN_JSON_TEXT && strcmp(q->text, "tiny4") == 0 ? 100 : 0;
}

static tn_status form_of(void *self, const tn_view *v, const tn_module *m, const tn_rect *r,
                         tn_form *f, tn_err *err)
{
    uint64_t rows = r->row1 - r->row0, cols = r->col1 - r->col0;
    if (get(v, m, "q4", TN_U8, m->k / 2) == NULL || get(v, m, "step", TN_F32, m->k / 32) == NULL)
        return tn_fail(err, TN_NOINPUT, "%s: no q4 u8 [n, k / 2], step f32 [n, k / 32]", m->name);
    *f = (tn_form){.size = sizeof *f, .kind = TN_FORM_W4G, .group = 32, .bits = 4, .rows = rows,
                   .cols = cols, .file_bytes = rows * cols * 5 / 8};
    return TN_OK;
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
    const char *q4 = get(v, m, "q4", TN_U8, m->k / 2), *step = get(v, m, "step", TN_F32, m->k / 32);
    uint64_t cols = r->col1 - r->col0, groups = cols / 32;
    for (uint64_t i = 0; i < row1 - row0; i++) {
        uint64_t at = (row0 + i) * m->k + r->col0;
        if (out->codes != NULL)
            memcpy((char *)out->codes + i * cols / 2, q4 + at / 2, cols / 2);
        if (out->scale != NULL)
            memcpy(out->scale + i * groups, step + at / 32 * 4, groups * 4);
    }
    if (out->zero != NULL)
        memset(out->zero, 8, (row1 - row0) * groups);
    return TN_OK;
}

static tn_status init(const tn_host *h, void **self, tn_err *err) { return TN_OK; }
static void stop(void *self) {}
static const tn_quant table = {.size = sizeof table, .claims = claims, .form_of = form_of,
                               .cut = cut, .read = read_rows};
TN_EXPORT const tn_plugin tn_plugin_entry = {
    .abi_major = TN_ABI_MAJOR, .abi_minor = TN_ABI_MINOR, .size = sizeof(tn_plugin),
    .kind = TN_KIND_QUANT, .name = "tiny4", .version = "1.0", .summary = "A 4-bit format.",
    .table = &table, .init = init, .stop = stop,
};

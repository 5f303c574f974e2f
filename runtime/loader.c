/* SPDX-License-Identifier: Apache-2.0 */
/* loader.c - from a checkpoint's tensors to a device's packed weights. */
#include "loader.h"

#include "buf.h"
#include "filemap.h"
#include "floats.h"

#include <stdlib.h>
#include <string.h>

#define NAME_SIZE 320
#define PRIVATE_MAX (UINT64_C(1) << 44) /* bytes of one weight in a form of its plugin's own */

typedef struct row_source {
    tn_loader *l;
    const tn_weight_spec *spec;
    const tn_source *src;
} row_source;

static uint32_t form_of_dtype(uint32_t dtype)
{
    switch (dtype) {
    case TN_F32: return TN_FORM_F32;
    case TN_F16: return TN_FORM_F16;
    case TN_BF16: return TN_FORM_BF16;
    default: return 0;
    }
}

static uint64_t dtype_size(uint32_t form)
{
    return form == TN_FORM_F32 ? 4 : 2;
}

static const char *method_of(const tn_view *v)
{
    const tn_json *m = tn_json_find(v->quant, "quant_method");
    return m != NULL && m->type == TN_JSON_TEXT ? m->text : "(none named)";
}

/* Names that people bring along: "X_marlin" is a way to run X, and naming the checkpoint's own
 * quant_method says no more than "auto". */
static bool means_auto(const tn_view *v, const tn_quant_ref *q, uint32_t nq, const char *wanted)
{
    for (uint32_t i = 0; i < nq; i++)
        if (strcmp(q[i].name, wanted) == 0)
            return false;
    return strcmp(wanted, "auto") == 0 || (v->quant != NULL && strcmp(wanted, method_of(v)) == 0);
}

static tn_status pick_named(const tn_view *v, const tn_quant_ref *q, uint32_t nq,
                            const char *wanted, uint32_t *out, tn_err *err)
{
    tn_err why = {{0}, {0}, {0}};
    for (uint32_t i = 0; i < nq; i++) {
        if (strcmp(q[i].name, wanted) != 0)
            continue;
        if (v->quant == NULL)
            return tn_fail(err, TN_DATA, "model %s: quant = %s, but the checkpoint is not "
                           "quantized; expected quant = auto or a %s checkpoint", v->dir, wanted,
                           wanted);
        if (q[i].table->claims(q[i].self, v, &why) == 0)
            return tn_fail(err, TN_DATA, "model %s: quant = %s, but the checkpoint's "
                           "quant_method is %s: %.300s", v->dir, wanted, method_of(v), why.text);
        *out = i;
        return TN_OK;
    }
    tn_buf names;
    tn_buf_open(&names, 4096);
    for (uint32_t i = 0; i < nq; i++)
        tn_buf_printf(&names, "%s%s", i > 0 ? ", " : "", q[i].name);
    tn_status st = tn_fail(err, TN_CONFIG, "model %s: quant = %s: no such quantization is "
                           "loaded; expected auto%s%s", v->dir, wanted, nq > 0 ? ", " : "",
                           names.len > 0 ? names.data : "");
    tn_buf_close(&names);
    return st;
}

tn_status tn_loader_pick(const tn_view *v, const tn_quant_ref *q, uint32_t nq,
                         const char *wanted, uint32_t *out, tn_err *err)
{
    char name[64];
    static const char suffix[] = "_marlin";
    snprintf(name, sizeof name, "%s", wanted);
    size_t n = strlen(name), m = sizeof suffix - 1;
    if (n > m && strcmp(name + n - m, suffix) == 0)
        name[n - m] = 0;
    if (!means_auto(v, q, nq, name))
        return pick_named(v, q, nq, name, out, err);
    if (v->quant == NULL) {
        *out = TN_NONE;
        return TN_OK;
    }
    uint32_t best = TN_NONE, score = 0, rival = TN_NONE;
    tn_buf why_not;
    tn_buf_open(&why_not, 2048);
    for (uint32_t i = 0; i < nq; i++) {
        tn_err why = {{0}, {0}, {0}};
        uint32_t s = q[i].table->claims(q[i].self, v, &why);
        if (s == 0)
            tn_buf_printf(&why_not, "; %s: %.300s", q[i].name, why.text);
        if (s > score) {
            best = i;
            score = s;
            rival = TN_NONE;
        } else if (s == score && s > 0) {
            rival = i;
        }
    }
    tn_status st = TN_OK;
    if (best == TN_NONE)
        st = tn_fail(err, TN_DATA, "model %s: %s: quant_method %s is read by none of the loaded "
                     "quantizations%s", v->dir, v->quant_file, method_of(v),
                     why_not.len > 0 ? why_not.data : "; none is loaded");
    else if (rival != TN_NONE)
        st = tn_fail(err, TN_CONFIG, "model %s: both %s and %s claim quant_method %s; expected "
                     "quant = one of them in the INI", v->dir, q[best].name, q[rival].name,
                     method_of(v));
    else
        *out = best;
    tn_buf_close(&why_not);
    return st;
}

static void shape_text(const tn_tensor *t, char *out, size_t size)
{
    size_t at = (size_t)snprintf(out, size, "[");
    for (uint32_t i = 0; i < t->ndim && at + 24 < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%llu", i > 0 ? ", " : "",
                               (unsigned long long)t->dim[i]);
    snprintf(out + at, size - at, "]");
}

/* A tensor that is not there. One that is quantized instead tells why: nothing says how. */
static tn_status miss_plain(const tn_view *v, const tn_slice *p, const char *name, tn_err *err)
{
    static const char *const suffix[] = {"qweight", "weight_packed"};
    char other[NAME_SIZE];
    tn_tensor t;
    for (size_t i = 0; i < 2 && v->quant == NULL; i++) {
        snprintf(other, sizeof other, "%s.%s", p->module, suffix[i]);
        if (v->find(v, other, &t))
            return tn_fail(err, TN_DATA, "model %s: tensor %s is there instead of %s; expected a "
                           "quantization_config that says how it is quantized", v->dir, other, name);
    }
    return tn_fail(err, TN_DATA, "model %s: tensor %s is missing; expected it for a %s", v->dir,
                   name, p->bare ? "vector of the model" : "matrix of the model");
}

/* The plain tensor of a slice: NAME itself, or NAME.weight. */
static tn_status find_plain(const tn_view *v, const tn_slice *p, tn_tensor *t, tn_err *err)
{
    char name[NAME_SIZE];
    snprintf(name, sizeof name, p->bare ? "%s" : "%s.weight", p->module);
    if (!v->find(v, name, t))
        return miss_plain(v, p, name, err);
    if (form_of_dtype(t->dtype) == 0)
        return tn_fail(err, TN_DATA, "%s: tensor %s: data type %u; expected F32, F16 or BF16",
                       t->file, name, t->dtype);
    uint64_t count = 1;
    for (uint32_t i = 0; i < t->ndim; i++)
        count *= t->dim[i];
    bool fits = p->bare ? count == p->n * p->k
                        : t->ndim == 2 && t->dim[0] == p->n && t->dim[1] == p->k;
    if (!fits) {
        char found[160];
        shape_text(t, found, sizeof found);
        return tn_fail(err, TN_DATA, "%s: tensor %s: shape %s; config.json wants [%llu, %llu]",
                       t->file, name, found, (unsigned long long)p->n, (unsigned long long)p->k);
    }
    return TN_OK;
}

/* The file's bytes of a module are shared out over its rows and columns. */
static uint64_t share_of(const tn_source *s, const tn_slice *p, uint64_t bytes)
{
    double rows = (double)(p->row1 - p->row0) / (double)p->n;
    return (uint64_t)((double)bytes * rows * (double)(s->col1 - s->col0) / (double)p->k);
}

static const tn_view *view_of(const tn_loader *l, const tn_slice *p)
{
    return p->second ? l->second : l->view;
}

const tn_quant_ref *tn_loader_quant(const tn_loader *l, const tn_slice *p)
{
    return p->second ? l->second_q : l->q;
}

static tn_status plain_form(const tn_loader *l, const tn_source *s, const tn_slice *p, tn_form *f,
                            tn_err *err)
{
    tn_tensor t;
    tn_status st = find_plain(view_of(l, p), p, &t, err);
    if (st != TN_OK)
        return st;
    *f = (tn_form){.size = sizeof *f, .kind = form_of_dtype(t.dtype), .cols = s->col1 - s->col0,
                   .file_bytes = t.data_size};
    f->bits = (uint32_t)dtype_size(f->kind) * 8;
    return TN_OK;
}

static tn_module module_of(const tn_slice *p)
{
    return (tn_module){.size = sizeof(tn_module), .n = p->n, .k = p->k, .name = p->module};
}

/* All rows of the slice's module, and this rank's columns: a quantization works on whole
 * modules, whatever rows of them a weight takes. A private form is another thing for other rows. */
static tn_rect rect_of(const tn_source *s, const tn_slice *p, bool private)
{
    return (tn_rect){.row0 = private ? p->row0 : 0, .row1 = private ? p->row1 : p->n,
                     .col0 = s->col0, .col1 = s->col1};
}

/* A plugin may say where its modules can be cut. */
static tn_status check_cut(const tn_view *v, const tn_quant_ref *q, const tn_module *m,
                           const tn_rect *r, tn_err *err)
{
    uint64_t row = 1, col = 1;
    if (q->table->cut == NULL || (r->row0 == 0 && r->row1 == m->n && r->col0 == 0 && r->col1 == m->k))
        return TN_OK;
    tn_status st = q->table->cut(q->self, v, m, &row, &col, err);
    if (st != TN_OK)
        return st;
    row = row > 0 ? row : 1;
    col = col > 0 ? col : 1;
    bool rows = r->row0 % row != 0 || (r->row1 % row != 0 && r->row1 != m->n);
    bool cols = r->col0 % col != 0 || (r->col1 % col != 0 && r->col1 != m->k);
    if (!rows && !cols)
        return TN_OK;
    return tn_fail(err, TN_CONFIG, "tensor_parallel_size: module %s: a rank would have %s %llu to "
                   "%llu of %llu; plugin %s cuts it at multiples of %llu", m->name,
                   rows ? "rows" : "columns", (unsigned long long)(rows ? r->row0 : r->col0),
                   (unsigned long long)(rows ? r->row1 : r->col1),
                   (unsigned long long)(rows ? m->n : m->k), q->name,
                   (unsigned long long)(rows ? row : col));
}

/* What a device may rely on, whoever wrote the plugin. */
static tn_status check_form(const tn_quant_ref *q, const tn_module *m, const tn_rect *r,
                            const tn_form *f, tn_err *err)
{
    uint64_t rows = r->row1 - r->row0, cols = r->col1 - r->col0;
    bool plain = f->kind == TN_FORM_F32 || f->kind == TN_FORM_F16 || f->kind == TN_FORM_BF16;
    bool grouped = f->kind == TN_FORM_W4G || f->kind == TN_FORM_W8G;
    const char *wrong = NULL;
    if (!plain && !grouped && f->kind != TN_FORM_PRIVATE)
        wrong = "a kind that does not exist";
    else if (f->rows != rows)
        wrong = "a wrong number of rows";
    else if (grouped && (f->group == 0 || f->cols % f->group != 0))
        wrong = "columns that are no multiple of the group";
    else if (f->kind == TN_FORM_W4G && f->cols % 2 != 0)
        wrong = "an odd number of 4-bit columns";
    else if (f->cols < cols || f->cols > 16 * cols + 65536)
        wrong = "a wrong number of columns";
    else if (f->cols != cols && !(f->flags & TN_FORM_PERM))
        wrong = "padded columns without a permutation";
    else if (f->kind == TN_FORM_PRIVATE && q->table->nmultiply == 0)
        wrong = "a private form without a multiply";
    else if (f->kind == TN_FORM_PRIVATE && (f->bytes == 0 || f->bytes > PRIVATE_MAX))
        wrong = "a wrong number of bytes";
    if (wrong == NULL)
        return TN_OK;
    return tn_fail(err, TN_UNAVAILABLE, "plugin %s: module %s: its form has %s (kind %u, %llu x "
                   "%llu, group %u)", q->name, m->name, wrong, f->kind,
                   (unsigned long long)f->rows, (unsigned long long)f->cols, f->group);
}

static bool same_form(const tn_form *a, const tn_form *b)
{
    /* A permutation that only some have is no difference: read() fills in the identity. */
    return a->kind == b->kind && a->group == b->group && a->cols == b->cols;
}

/* The form of a slice, from the quantization or, for what it does not hold, the core. */
static tn_status slice_form(const tn_loader *l, uint32_t role, const tn_source *s, tn_slice *p,
                            tn_form *f, tn_err *err)
{
    p->quantized = false;
    if (l->dummy != NULL)
        return tn_dummy_form(l->dummy, role, p, s->col0, s->col1, f, err);
    const tn_quant_ref *q = tn_loader_quant(l, p);
    if (q == NULL || p->bare)
        return plain_form(l, s, p, f, err);
    tn_module m = module_of(p);
    tn_rect r = rect_of(s, p, false);
    const tn_view *v = view_of(l, p);
    *f = (tn_form){.size = sizeof *f};
    tn_status st = q->table->form_of(q->self, v, &m, &r, f, err);
    if (st == TN_NOINPUT) /* not of its format: plain, or missing */
        return plain_form(l, s, p, f, err);
    p->quantized = true;
    if (st == TN_OK && f->kind == TN_FORM_PRIVATE && p->row1 - p->row0 != p->n) {
        r = rect_of(s, p, true);
        *f = (tn_form){.size = sizeof *f};
        st = q->table->form_of(q->self, v, &m, &r, f, err);
    }
    if (st == TN_OK)
        st = check_cut(v, q, &m, &r, err);
    return st == TN_OK ? check_form(q, &m, &r, f, err) : st;
}

static tn_status add_form(const tn_loader *l, tn_weight_spec *w, const tn_source *s, uint32_t i,
                          const tn_form *f, tn_err *err)
{
    const tn_slice *p = &s->slice[i];
    const tn_quant_ref *q = tn_loader_quant(l, p);
    if (f->kind == TN_FORM_PRIVATE && s->nslice > 1)
        return tn_fail(err, TN_UNSUPPORTED, "model %s: module %s: plugin %s hands it over in a "
                       "private form, but its rows must be told apart; expected a neutral form",
                       view_of(l, p)->dir, p->module, q->name);
    if (i == 0) {
        w->form = *f;
        w->form.file_bytes = 0;
    } else if (!same_form(&w->form, f)) {
        return tn_fail(err, TN_DATA, "model %s: %s and %s differ in form; expected one form for "
                       "all of %s", view_of(l, p)->dir, s->slice[0].module, p->module, w->name);
    }
    w->form.flags |= f->flags;
    w->form.rows = w->n;
    w->form.file_bytes += share_of(s, p, f->file_bytes);
    if (p->quantized) {
        w->quant_self = q->self;
        w->multiply = q->table->multiply;
        w->nmultiply = q->table->nmultiply;
    }
    return TN_OK;
}

static tn_status read_perm(const tn_loader *l, const tn_source *s, const tn_slice *p,
                           int32_t *perm, tn_err *err)
{
    tn_module m = module_of(p);
    tn_rect r = rect_of(s, p, false);
    tn_block out = {.size = sizeof out, .perm = perm};
    const tn_quant_ref *q = tn_loader_quant(l, p);
    return q->table->read(q->self, view_of(l, p), &m, &r, p->row0, p->row0 + 1, &out, err);
}

/* The rows of a weight share one permutation of its columns (plugin.h). Act-order files keep one
 * a module, the same for gate and up as long as both were quantized from the same inputs. */
static tn_status check_perms(const tn_loader *l, const tn_weight_spec *w, const tn_source *s,
                             tn_err *err)
{
    const tn_slice *p = s->slice;
    const char *dir = view_of(l, p)->dir;
    size_t size = w->form.cols * sizeof(int32_t);
    if ((w->form.flags & TN_FORM_PERM) == 0 || s->nslice < 2)
        return TN_OK;
    int32_t *first = malloc(2 * size), *perm = first + w->form.cols;
    if (first == NULL)
        return tn_fail(err, TN_NO_MEMORY, "model %s: no memory to look at permutations", dir);
    tn_status st = TN_OK;
    for (uint32_t i = 0; i < w->nexpert * s->nslice && st == TN_OK; i++) {
        bool begins = i % s->nslice == 0;
        if (!begins && p[i].module == p[i - 1].module)
            continue;
        st = read_perm(l, s, &p[i], begins ? first : perm, err);
        if (st == TN_OK && !begins && memcmp(first, perm, size) != 0)
            st = tn_fail(err, TN_DATA, "model %s: %s and %s order their columns differently "
                         "(g_idx); expected one order, as of matrices with the same input", dir,
                         p[i / s->nslice * s->nslice].module, p[i].module);
    }
    free(first);
    return st;
}

static tn_status weight_form(const tn_loader *l, tn_weight_spec *w, tn_source *s, tn_err *err)
{
    tn_form f = {.size = sizeof f};
    for (uint32_t i = 0; i < w->nexpert * s->nslice; i++) {
        tn_slice *p = &s->slice[i];
        tn_status st = TN_OK;
        if (i > 0 && p->module == p[-1].module) /* more rows of the same module */
            p->quantized = p[-1].quantized;
        else
            st = slice_form(l, w->role, s, p, &f, err);
        if (st == TN_OK)
            st = add_form(l, w, s, i, &f, err);
        if (st != TN_OK)
            return st;
    }
    return check_perms(l, w, s, err);
}

static void choose_requant(const tn_loader *l, tn_weight_spec *w)
{
    bool wide = w->form.kind == TN_FORM_F32 || w->form.kind == TN_FORM_F16 ||
                w->form.kind == TN_FORM_BF16;
    if (!wide)
        return;
    if (w->role == TN_ROLE_HEAD || w->role == TN_ROLE_EMBED)
        w->requant = l->requant_head;
    else if (w->role == TN_ROLE_DENSE)
        w->requant = l->requant_dense;
}

tn_status tn_loader_forms(tn_loader *l, tn_err *err)
{
    l->file_bytes = 0;
    l->nhost = 0;
    for (uint32_t i = 0; i < l->draft->recipe.nweight; i++) {
        tn_weight_spec *w = &l->draft->weight[i];
        tn_status st = weight_form(l, w, &l->draft->source[i], err);
        if (st != TN_OK)
            return st;
        choose_requant(l, w);
        if (l->mapped && w->role == TN_ROLE_EXPERTS && w->form.kind != TN_FORM_PRIVATE)
            w->place = TN_PLACE_MAPPED;
        if (l->host && w->role == TN_ROLE_EXPERTS) {
            w->place = TN_PLACE_HOST;
            l->nhost++;
        }
        l->file_bytes += w->form.file_bytes;
    }
    return TN_OK;
}

/* Rows of a slice, counted from the module's first. */
static tn_status plain_rows(const row_source *r, const tn_slice *p, uint64_t row0, uint64_t row1,
                            tn_block *out, tn_err *err)
{
    const tn_source *s = r->src;
    tn_tensor t;
    tn_status st = find_plain(view_of(r->l, p), p, &t, err);
    if (st != TN_OK || out->codes == NULL)
        return st;
    uint64_t item = dtype_size(r->spec->form.kind), cols = s->col1 - s->col0;
    const uint8_t *from = (const uint8_t *)t.data + (row0 * p->k + s->col0) * item;
    uint8_t *to = out->codes;
    if (cols == p->k) {
        memcpy(to, from, (row1 - row0) * cols * item);
        return TN_OK;
    }
    for (uint64_t i = row0; i < row1; i++, from += p->k * item, to += cols * item)
        memcpy(to, from, cols * item);
    return TN_OK;
}

static tn_status slice_rows(const row_source *r, const tn_slice *p, uint64_t row0, uint64_t row1,
                            tn_block *out, tn_err *err)
{
    const tn_quant_ref *q = tn_loader_quant(r->l, p);
    if (r->l->dummy != NULL) {
        tn_dummy_rows(r->l->dummy, &r->spec->form, p, r->src->col0, row0, row1, out);
        return TN_OK;
    }
    if (!p->quantized)
        return plain_rows(r, p, row0, row1, out, err);
    tn_module m = module_of(p);
    tn_rect rect = rect_of(r->src, p, r->spec->form.kind == TN_FORM_PRIVATE);
    return q->table->read(q->self, view_of(r->l, p), &m, &rect, row0, row1, out, err);
}

/* The destination of rows from `rows` on; the permutation is the same for every row. */
static tn_block block_from(const tn_form *f, const tn_block *b, uint64_t rows)
{
    static const uint8_t bits[] = {0, 32, 16, 16, 4, 8, 0};
    tn_block to = *b;
    uint64_t groups = f->group > 0 ? f->cols / f->group : 0;
    if (b->codes != NULL)
        to.codes = (uint8_t *)b->codes + rows * f->cols * bits[f->kind] / 8;
    if (b->scale != NULL)
        to.scale = b->scale + rows * groups;
    if (b->zero != NULL)
        to.zero = b->zero + rows * groups;
    return to;
}

/* A block that wants nothing announces an expert: the disk may begin. What the tensors of a
 * module are called is a quantization's business, so this knows the usual names and no more. */
static void announce(const row_source *r, const tn_slice *p)
{
    static const char *const part[] = {"weight", "qweight", "weight_packed", "scales",
                                       "weight_scale", "qzeros", "weight_zero_point"};
    for (uint32_t i = 0; i < r->src->nslice && r->l->dummy == NULL; i++)
        for (size_t k = 0; k < sizeof part / sizeof part[0]; k++) {
            char name[NAME_SIZE];
            tn_tensor t;
            const tn_view *v = view_of(r->l, &p[i]);
            snprintf(name, sizeof name, "%s.%s", p[i].module, part[k]);
            if (v->find(v, name, &t))
                tn_filemap_soon(t.data, t.data_size);
        }
}

static bool wants_nothing(const tn_block *b)
{
    return b->codes == NULL && b->scale == NULL && b->zero == NULL && b->perm == NULL;
}

/* A form's bytes are shared out over its rows. */
static void count_read(const row_source *r, uint64_t rows)
{
    const tn_weight_spec *w = r->spec;
    double share = (double)rows / ((double)w->n * w->nexpert);
    if (r->l->dummy == NULL)
        atomic_fetch_add(&r->l->read, (uint64_t)((double)w->form.file_bytes * share + 0.5));
}

/* Walks the slices that hold rows [row0, row1) of an expert. */
static tn_status read_rows(void *ctx, uint32_t expert, uint64_t row0, uint64_t row1,
                           tn_block *out, tn_err *err)
{
    const row_source *r = ctx;
    const tn_slice *p = &r->src->slice[expert * r->src->nslice];
    if (wants_nothing(out)) {
        announce(r, p);
        return TN_OK;
    }
    if (out->codes != NULL)
        count_read(r, row1 - row0);
    uint64_t at = 0; /* the weight's row at which the slice begins */
    tn_status st = TN_OK;
    for (uint32_t i = 0; i < r->src->nslice && at < row1 && st == TN_OK; i++, p++) {
        uint64_t rows = p->row1 - p->row0;
        if (at + rows > row0) {
            uint64_t from = row0 > at ? row0 - at : 0, to = row1 - at < rows ? row1 - at : rows;
            tn_block part = block_from(&r->spec->form, out, at + from - row0);
            st = slice_rows(r, p, p->row0 + from, p->row0 + to, &part, err);
        }
        at += rows;
    }
    return st;
}

static uint64_t odd_in(uint32_t dtype, const void *data, size_t n)
{
    return dtype == TN_F32 ? tn_f32_odd(data, n)
           : dtype == TN_F16 ? tn_f16_odd(data, n) : tn_bf16_odd(data, n);
}

/* W20: a NaN or an infinity in a plain tensor, in the rows and columns that are this rank's. */
static tn_status count_odd_in(tn_loader *l, const tn_source *s, const tn_slice *p, tn_err *err)
{
    tn_tensor t;
    tn_status st = find_plain(view_of(l, p), p, &t, err);
    if (st != TN_OK)
        return st;
    uint64_t item = dtype_size(form_of_dtype(t.dtype)), cols = s->col1 - s->col0, odd = 0;
    const uint8_t *at = (const uint8_t *)t.data + (p->row0 * p->k + s->col0) * item;
    if (cols == p->k)
        odd = odd_in(t.dtype, at, (size_t)((p->row1 - p->row0) * cols));
    for (uint64_t r = p->row0; cols != p->k && r < p->row1; r++, at += p->k * item)
        odd += odd_in(t.dtype, at, (size_t)cols);
    if (odd > 0 && l->strict)
        return tn_fail(err, TN_DATA, "%s: weight %s: %llu values are NaN or infinite; expected "
                       "finite ones, as strict_weights asks", t.file, p->module,
                       (unsigned long long)odd);
    l->odd += odd;
    return TN_OK;
}

static tn_status count_odd(tn_loader *l, uint32_t i, tn_err *err)
{
    const tn_source *s = &l->draft->source[i];
    uint32_t n = l->draft->weight[i].nexpert * s->nslice;
    tn_status st = TN_OK;
    for (uint32_t k = 0; k < n && st == TN_OK && l->dummy == NULL; k++)
        if (!s->slice[k].quantized)
            st = count_odd_in(l, s, &s->slice[k], err);
    return st;
}

tn_status tn_loader_pack(tn_loader *l, const tn_device *device, void *program,
                         tn_loader_progress progress, void *user, tn_err *err)
{
    uint64_t done = 0;
    uint32_t n = l->draft->recipe.nweight;
    row_source *r = tn_arena_array(&l->draft->arena, n, sizeof *r); /* readers may outlive this */
    if (r == NULL)
        return tn_fail(err, TN_NO_MEMORY, "model %s: no memory to read it", l->view->dir);
    l->odd = 0;
    atomic_store(&l->read, 0);
    for (uint32_t i = 0; i < n; i++) {
        r[i] = (row_source){.l = l, .spec = &l->draft->weight[i], .src = &l->draft->source[i]};
        tn_reader reader = {.size = sizeof reader, .ctx = &r[i], .rows = read_rows};
        bool all = l->strict || r[i].spec->place != TN_PLACE_MAPPED; /* may be read now */
        tn_status st = all ? count_odd(l, i, err) : TN_OK;
        if (st == TN_OK)
            st = device->pack(program, i, &reader, err);
        if (st != TN_OK)
            return st;
        done += r[i].spec->form.file_bytes;
        if (progress != NULL)
            progress(user, done, l->file_bytes);
    }
    return TN_OK;
}

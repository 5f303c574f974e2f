/* SPDX-License-Identifier: Apache-2.0 */
/* plugin_check_quant.c - a quantization's writer against its reader, and its reader against
 * itself.
 *
 * For every combination of bits, group, symmetry and order that the writer offers, random
 * matrices are written into memory and read back whole: every weight must come back within the
 * step of its group. Then random rectangles are read from several threads, in random runs of
 * rows; each must say exactly what the whole matrix said. Buffers end in a fence, so that a
 * reader that writes past them is found out. */
#include "plugin_check.h"

#include "buf.h"
#include "floats.h"
#include "json.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#define FENCE 64u
#define FENCE_BYTE 0xa5
#define THREADS 4u
#define RECTS 6u          /* by each thread */
#define MODULES 3u

static const uint64_t shapes[MODULES][2] = {{64, 256}, {136, 384}, {256, 128}};
static const char *const names[MODULES] = {
    "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.gate_proj",
    "model.layers.1.mlp.down_proj",
};

/* ------------------------------------------------------------------- a checkpoint in memory */

typedef struct stored {
    char *name;
    tn_tensor tensor;  /* data owned */
} stored;

typedef struct store {
    pthread_mutex_t lock;
    stored *item;      /* owned */
    uint32_t n;
    char *quant;       /* the writer's quantization_config, owned */
    tn_json_doc *doc;
    tn_view view;
} store;

static size_t dtype_size(uint32_t dtype)
{
    static const uint8_t size[] = {0, 4, 2, 2, 8, 1, 1, 2, 2, 4, 4, 8, 8, 1, 1, 1};
    return dtype < sizeof size ? size[dtype] : 0;
}

static tn_status add_tensor(store *s, const char *name, uint32_t dtype, uint32_t ndim,
                            const uint64_t *dim, const void *data, tn_err *err)
{
    stored t = {.tensor = {.dtype = dtype, .ndim = ndim, .file = "memory"}};
    uint64_t size = dtype_size(dtype);
    if (ndim > 8 || size == 0)
        return tn_fail(err, TN_INTERNAL, "tensor %s: %u dimensions of type %u", name, ndim, dtype);
    for (uint32_t i = 0; i < ndim; i++) {
        t.tensor.dim[i] = dim[i];
        size *= dim[i];
    }
    if (size > 1u << 28)
        return tn_fail(err, TN_INTERNAL, "tensor %s: %llu bytes", name, (unsigned long long)size);
    /* At an odd address, as a file would have it: readers must not rely on alignment. */
    char *copy = malloc((size_t)size + 1);
    stored *list = realloc(s->item, (s->n + 1) * sizeof *list);
    if (list != NULL)
        s->item = list;
    t.name = strdup(name);
    if (copy == NULL || list == NULL || t.name == NULL) {
        free(copy);
        free(t.name);
        return tn_fail(err, TN_NO_MEMORY, "out of memory");
    }
    memcpy(copy + 1, data, (size_t)size);
    t.tensor.data = copy + 1;
    t.tensor.data_size = size;
    s->item[s->n++] = t;
    return TN_OK;
}

static tn_status sink_tensor(void *ctx, const char *name, uint32_t dtype, uint32_t ndim,
                             const uint64_t *dim, const void *data, tn_err *err)
{
    store *s = ctx;
    pthread_mutex_lock(&s->lock);
    tn_status st = add_tensor(s, name, dtype, ndim, dim, data, err);
    pthread_mutex_unlock(&s->lock);
    return st;
}

static tn_status sink_config(void *ctx, const char *json, tn_err *err)
{
    store *s = ctx;
    free(s->quant);
    s->quant = strdup(json);
    return s->quant ? TN_OK : tn_fail(err, TN_NO_MEMORY, "out of memory");
}

static tn_status sink_file(void *ctx, const char *name, const void *data, uint64_t size,
                           tn_err *err)
{
    (void)ctx;
    (void)name;
    (void)data;
    (void)size;
    (void)err;
    return TN_OK;
}

static int32_t view_find(const tn_view *v, const char *name, tn_tensor *out)
{
    const store *s = v->ctx;
    for (uint32_t i = 0; i < s->n; i++)
        if (strcmp(s->item[i].name, name) == 0) {
            *out = s->item[i].tensor;
            return 1;
        }
    return 0;
}

static int32_t view_at(const tn_view *v, uint64_t i, const char **name, tn_tensor *out)
{
    const store *s = v->ctx;
    if (i >= s->n)
        return 0;
    *name = s->item[i].name;
    *out = s->item[i].tensor;
    return 1;
}

#define CONFIG_HEAD "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", " \
    "\"hidden_size\": 256, \"num_hidden_layers\": 2, \"torch_dtype\": \"float16\""

static tn_status open_view(store *s, tn_err *err)
{
    tn_buf b;
    tn_buf_open(&b, 1 << 20);
    tn_buf_puts(&b, CONFIG_HEAD);
    if (s->quant != NULL)
        tn_buf_printf(&b, ", \"quantization_config\": %s", s->quant);
    tn_buf_putc(&b, '}');
    tn_status st = tn_json_open(b.data, b.len, "config.json", TN_JSON_DEPTH_FILE, &s->doc, err);
    tn_buf_close(&b);
    if (st != TN_OK)
        return st;
    s->view = (tn_view){.size = sizeof(tn_view), .ctx = s, .dir = "/memory",
                        .config = tn_json_root(s->doc), .quant_file = "config.json",
                        .quant = tn_json_find(tn_json_root(s->doc), "quantization_config"),
                        .ntensor = s->n, .find = view_find, .at = view_at};
    return TN_OK;
}

static void close_store(store *s)
{
    for (uint32_t i = 0; i < s->n; i++) {
        free(s->item[i].name);
        free((char *)(uintptr_t)s->item[i].tensor.data - 1);
    }
    free(s->item);
    free(s->quant);
    tn_json_close(s->doc);
    pthread_mutex_destroy(&s->lock);
}

/* --------------------------------------------------------------------------------- reading */

typedef struct fenced {
    uint8_t *data;
    size_t size;
} fenced;

static bool fenced_open(fenced *f, size_t size)
{
    f->size = size;
    f->data = malloc(size + FENCE);
    if (f->data != NULL)
        memset(f->data, FENCE_BYTE, size + FENCE);
    return f->data != NULL;
}

static bool fenced_is_whole(const fenced *f)
{
    for (size_t i = 0; i < FENCE; i++)
        if (f->data[f->size + i] != FENCE_BYTE)
            return false;
    return true;
}

/* Who reads what; `w` and `step` take the answer, [rows, cols] of the rectangle. */
typedef struct reading {
    const tn_guest *g;
    const tn_view *v;
    tn_module m;
    tn_rect r;
    tn_form form;
    float *w;
    float *step;       /* scale of each weight's group; NULL: not wanted */
    uint64_t seed;     /* for the runs of rows */
    fenced code, scale, zero, perm;
} reading;

static tn_status bad(const reading *r, tn_err *err, const char *what)
{
    return tn_fail(err, TN_INTERNAL, "%s rows %llu to %llu, columns %llu to %llu: %s", r->m.name,
                   (unsigned long long)r->r.row0, (unsigned long long)r->r.row1,
                   (unsigned long long)r->r.col0, (unsigned long long)r->r.col1, what);
}

static bool is_coded(const tn_form *f)
{
    return f->kind == TN_FORM_W4G || f->kind == TN_FORM_W8G;
}

static uint64_t row_bytes(const tn_form *f)
{
    return f->kind == TN_FORM_F32 ? f->cols * 4 : f->kind == TN_FORM_W4G ? f->cols / 2
         : f->kind == TN_FORM_W8G ? f->cols : f->cols * 2;
}

static tn_status check_form(const reading *r, tn_err *err)
{
    const tn_form *f = &r->form;
    uint64_t k = r->r.col1 - r->r.col0;
    if (f->kind < TN_FORM_F32 || f->kind > TN_FORM_PRIVATE)
        return bad(r, err, "a form that does not exist");
    if (f->rows != r->r.row1 - r->r.row0)
        return bad(r, err, "the form has another number of rows");
    if (f->kind == TN_FORM_PRIVATE)
        return f->bytes > 0 ? TN_OK : bad(r, err, "a private form of 0 bytes");
    if (f->cols < k || (!is_coded(f) && f->cols != k))
        return bad(r, err, "the form has too few columns, or padding that its kind has not");
    if (is_coded(f) && (f->group == 0 || f->cols % f->group != 0 || f->cols % 2 != 0))
        return bad(r, err, "columns that are no multiple of the group");
    if (f->cols > k && (f->flags & TN_FORM_PERM) == 0)
        return bad(r, err, "padding without a permutation to mark it");
    return TN_OK;
}

static float plain_at(const tn_form *f, const uint8_t *code, uint64_t i)
{
    float v;
    uint16_t h;
    if (f->kind == TN_FORM_F32) {
        memcpy(&v, code + i * 4, 4);
        return v;
    }
    memcpy(&h, code + i * 2, 2);
    return f->kind == TN_FORM_F16 ? tn_f16_to_f32(h) : tn_bf16_to_f32(h);
}

/* Row `row` of the block just read becomes row `to` of the answer. */
static tn_status unpack(reading *r, uint64_t row, uint64_t to, tn_err *err)
{
    const tn_form *f = &r->form;
    uint64_t k = r->r.col1 - r->r.col0, groups = f->group ? f->cols / f->group : 0, seen = 0;
    for (uint64_t c = 0; c < f->cols; c++) {
        uint64_t i = row * f->cols + c, g = is_coded(f) ? row * groups + c / f->group : 0;
        int64_t at = (int64_t)c;
        float v, step = 0;
        if (is_coded(f)) {
            int code = f->kind == TN_FORM_W8G ? r->code.data[i]
                     : r->code.data[i / 2] >> (c % 2 * 4) & 15;
            memcpy(&step, r->scale.data + g * 4, 4);
            v = (float)(code - r->zero.data[g]) * step;
        } else {
            v = plain_at(f, r->code.data, i);
        }
        if (f->flags & TN_FORM_PERM) {
            int32_t p;
            memcpy(&p, r->perm.data + c * 4, 4);
            at = p;
        }
        if (at == -1 && v != 0)
            return bad(r, err, "a padding column that multiplies something");
        if (at == -1)
            continue;
        if (at < 0 || (uint64_t)at >= k || !isnan(r->w[to * k + (uint64_t)at]))
            return bad(r, err, "a permutation that is none");
        r->w[to * k + (uint64_t)at] = v;
        if (r->step != NULL)
            r->step[to * k + (uint64_t)at] = step;
        seen++;
    }
    return seen == k ? TN_OK : bad(r, err, "a permutation that leaves columns out");
}

static tn_status read_run(reading *r, uint64_t row0, uint64_t row1, tn_err *err)
{
    tn_block b = {.size = sizeof b, .codes = r->code.data};
    if (is_coded(&r->form)) {
        b.scale = (float *)(void *)r->scale.data;
        b.zero = r->zero.data;
        b.perm = r->form.flags & TN_FORM_PERM ? (int32_t *)(void *)r->perm.data : NULL;
    }
    tn_status st = r->g->quant->read(r->g->self, r->v, &r->m, &r->r, row0, row1, &b, err);
    for (uint64_t row = row0; st == TN_OK && row < row1; row++)
        st = unpack(r, row - row0, row - r->r.row0, err);
    return st;
}

static tn_status read_rows(reading *r, tn_err *err)
{
    tn_status st = TN_OK;
    uint64_t rows = r->form.rows, groups = r->form.group ? r->form.cols / r->form.group : 0;
    bool ok = fenced_open(&r->code, rows * row_bytes(&r->form))
           && fenced_open(&r->scale, rows * groups * 4) && fenced_open(&r->zero, rows * groups)
           && fenced_open(&r->perm, r->form.cols * 4);
    if (!ok)
        st = tn_fail(err, TN_OS, "out of memory");
    for (uint64_t row = r->r.row0, n; st == TN_OK && row < r->r.row1; row += n) {
        n = 1 + tn_check_random(&r->seed) % (r->r.row1 - row);
        st = read_run(r, row, row + n, err);
    }
    if (st == TN_OK && !(fenced_is_whole(&r->code) && fenced_is_whole(&r->scale)
                         && fenced_is_whole(&r->zero) && fenced_is_whole(&r->perm)))
        st = bad(r, err, "read wrote past the end of a buffer");
    free(r->code.data);
    free(r->scale.data);
    free(r->zero.data);
    free(r->perm.data);
    return st;
}

static const tn_multiply *cpu_multiply(const tn_guest *g)
{
    for (uint32_t i = 0; i < g->quant->nmultiply; i++)
        if (strcmp(g->quant->multiply[i].device, "cpu") == 0)
            return &g->quant->multiply[i];
    return NULL;
}

/* A private form through its own multiply: unit vectors give the columns. */
static tn_status read_private(reading *r, tn_err *err)
{
    const tn_multiply *m = cpu_multiply(r->g);
    uint64_t n = r->form.rows, k = r->r.col1 - r->r.col0;
    tn_cpu_multiply multiply;
    if (m == NULL)
        return bad(r, err, "a private form without a multiply for cpu");
    memcpy(&multiply, &m->entry, sizeof multiply);
    float *x = calloc(k * k, sizeof *x), *y = calloc(k * n, sizeof *y);
    tn_status st = TN_OK;
    if (x == NULL || y == NULL || !fenced_open(&r->code, r->form.bytes))
        st = tn_fail(err, TN_OS, "out of memory");
    tn_block b = {.size = sizeof b, .codes = r->code.data};
    if (st == TN_OK)
        st = r->g->quant->read(r->g->self, r->v, &r->m, &r->r, r->r.row0, r->r.row1, &b, err);
    if (st == TN_OK && !fenced_is_whole(&r->code))
        st = bad(r, err, "read wrote past the end of its bytes");
    for (uint64_t i = 0; st == TN_OK && i < k; i++)
        x[i * k + i] = 1;
    for (uint64_t row = 0, step; st == TN_OK && row < n; row += step) {
        step = 1 + tn_check_random(&r->seed) % (n - row);
        multiply(r->g->self, r->code.data, n, k, row, row + step, x, k, k, y + row, n);
    }
    for (uint64_t i = 0; st == TN_OK && i < n * k; i++)
        r->w[i] = y[i % k * n + i / k];
    free(x);
    free(y);
    free(r->code.data);
    return st;
}

static tn_status read_rect(reading *r, tn_err *err)
{
    uint64_t n = (r->r.row1 - r->r.row0) * (r->r.col1 - r->r.col0);
    r->form = (tn_form){.size = sizeof r->form};
    tn_status st = r->g->quant->form_of(r->g->self, r->v, &r->m, &r->r, &r->form, err);
    if (st == TN_OK)
        st = check_form(r, err);
    if (st != TN_OK)
        return st;
    r->code = r->scale = r->zero = r->perm = (fenced){NULL, 0};
    for (uint64_t i = 0; i < n; i++)
        r->w[i] = NAN;
    return r->form.kind == TN_FORM_PRIVATE ? read_private(r, err) : read_rows(r, err);
}

/* ----------------------------------------------------------------------- one combination */

typedef struct combo {
    tn_check *c;
    const tn_guest *g;
    tn_write_options o;
    store store;
    float *w[MODULES];     /* as written */
    float *whole[MODULES]; /* as read */
    bool has[MODULES];     /* the writer took it */
    char text[160];        /* "4 bits, group 128, symmetric" */
} combo;

static void name_combo(combo *k)
{
    char group[24] = "a whole row";
    if (k->o.group > 0)
        snprintf(group, sizeof group, "%d", k->o.group);
    snprintf(k->text, sizeof k->text, "%u bits, group %s, %s%s", k->o.bits, group,
             k->o.symmetric ? "symmetric" : "with zero points",
             k->o.act_order ? ", by importance" : "");
}

/* Every group of 16 has weights of both signs: some formats cannot say a range without zero, and
 * real matrices have none. */
static void fill_weights(float *w, uint64_t n, uint64_t k, uint64_t *seed)
{
    for (uint64_t i = 0; i < n * k; i++) {
        w[i] = (float)(0.05 * tn_check_uniform(seed) + (i / k % 3 == 0 ? 0.02 : 0));
        if (i % 16 < 2)
            w[i] = i % 16 == 0 ? fabsf(w[i]) : -fabsf(w[i]);
    }
}

/* Statistics of an input whose columns differ in size by a factor of ten. */
static void fill_input(float *mean, float *hessian, float *x, uint64_t rows, uint64_t k,
                       uint64_t *seed)
{
    for (uint64_t c = 0; c < k; c++) {
        double size = exp(1.2 * tn_check_uniform(seed));
        for (uint64_t r = 0; r < rows; r++)
            x[r * k + c] = (float)(size * tn_check_uniform(seed));
    }
    for (uint64_t c = 0; c < k; c++) {
        double sum = 0;
        for (uint64_t r = 0; r < rows; r++)
            sum += fabs((double)x[r * k + c]);
        mean[c] = (float)(sum / (double)rows);
        for (uint64_t d = 0; d < k; d++) {
            double h = 0;
            for (uint64_t r = 0; r < rows; r++)
                h += (double)x[r * k + c] * (double)x[r * k + d];
            hessian[c * k + d] = (float)(2 * h / (double)rows);
        }
    }
}

/* TN_UNSUPPORTED: the format cannot hold this module, which is no fault. */
static tn_status write_module(combo *k, void *writer, uint32_t m, tn_err *err)
{
    uint64_t rows = 8, n = shapes[m][0], cols = shapes[m][1], seed = 77 + m;
    float *mean = malloc(cols * 4), *hessian = malloc(cols * cols * 4),
          *x = malloc(rows * cols * 4);
    tn_status st = tn_fail(err, TN_OS, "out of memory");
    if (mean != NULL && hessian != NULL && x != NULL) {
        fill_input(mean, hessian, x, rows, cols, &seed);
        tn_write_linear l = {.size = sizeof l, .name = names[m], .n = n, .k = cols, .w = k->w[m],
                             .act_mean = mean, .hessian = hessian, .x = x, .x_rows = rows};
        st = k->g->quant->write_linear(writer, &l, err);
    }
    free(mean);
    free(hessian);
    free(x);
    return st;
}

static tn_status write_all(combo *k, tn_err *err)
{
    const tn_sink sink = {.size = sizeof sink, .ctx = &k->store, .tensor = sink_tensor,
                          .config = sink_config, .file = sink_file};
    const tn_quant *q = k->g->quant;
    static const char config[] = CONFIG_HEAD "}";
    tn_json_doc *doc;
    void *writer = NULL;
    tn_status st = tn_json_open(config, sizeof config - 1, "config.json", 16, &doc, err);
    if (st != TN_OK)
        return st;
    st = q->write_begin(k->g->self, &k->o, tn_json_root(doc), &sink, &writer, err);
    if (st != TN_OK) {
        tn_json_close(doc);
        return TN_UNSUPPORTED; /* this combination is not offered; err says why */
    }
    uint32_t taken = 0;
    for (uint32_t m = 0; st == TN_OK && m < MODULES; m++) {
        tn_status one = write_module(k, writer, m, err);
        k->has[m] = one == TN_OK;
        taken += k->has[m];
        st = one == TN_UNSUPPORTED ? TN_OK : one;
    }
    if (st == TN_OK && taken > 0)
        st = q->write_end(writer, err);
    q->write_drop(writer);
    tn_json_close(doc);
    return st == TN_OK && taken == 0 ? TN_UNSUPPORTED : st;
}

static tn_status compare_written(const combo *k, uint32_t m, const reading *r, tn_err *err)
{
    static const double most[] = {[2] = 0.7,   [3] = 0.32, [4] = 0.16,
                                  [5] = 0.08, [6] = 0.05, [8] = 0.03};
    uint64_t n = shapes[m][0] * shapes[m][1];
    double sum = 0, size = 0;
    for (uint64_t i = 0; i < n; i++) {
        double d = (double)r->w[i] - (double)k->w[m][i];
        double limit = 1.25 * fabs((double)r->step[i]) + 1e-6;
        if (!(fabs(d) <= limit) && is_coded(&r->form))
            return tn_fail(err, TN_INTERNAL, "%s row %llu column %llu: wrote %g, read %g; "
                           "expected them within %g, a step of the group", names[m],
                           (unsigned long long)(i / shapes[m][1]),
                           (unsigned long long)(i % shapes[m][1]), (double)k->w[m][i],
                           (double)r->w[i], limit);
        sum += d * d;
        size += (double)k->w[m][i] * (double)k->w[m][i];
    }
    double error = sqrt(sum / size);
    if (!(error <= most[k->o.bits]))
        return tn_fail(err, TN_INTERNAL, "%s: relative error %.3g; expected at most %.3g for %u "
                       "bits", names[m], error, most[k->o.bits], k->o.bits);
    return TN_OK;
}

static tn_status read_whole(combo *k, uint32_t m, tn_err *err)
{
    uint64_t n = shapes[m][0] * shapes[m][1];
    reading r = {.g = k->g, .v = &k->store.view, .seed = 5, .w = k->whole[m],
                 .m = {.size = sizeof r.m, .name = names[m], .n = shapes[m][0],
                       .k = shapes[m][1]},
                 .r = {0, shapes[m][0], 0, shapes[m][1]}};
    r.step = calloc(n, sizeof *r.step);
    if (r.step == NULL)
        return tn_fail(err, TN_OS, "out of memory");
    tn_status st = read_rect(&r, err);
    if (st == TN_OK)
        st = compare_written(k, m, &r, err);
    free(r.step);
    return st;
}

/* A range whose ends lie at multiples of `unit` (or at n), never empty. */
static void random_range(uint64_t n, uint64_t unit, uint64_t *seed, uint64_t *from, uint64_t *to)
{
    uint64_t parts = (n + unit - 1) / unit, a = tn_check_random(seed) % parts;
    uint64_t b = a + 1 + tn_check_random(seed) % (parts - a);
    *from = a * unit;
    *to = b * unit < n ? b * unit : n;
}

static tn_status read_part(const combo *k, uint32_t m, uint64_t *seed, tn_err *err)
{
    uint64_t n = shapes[m][0], cols = shapes[m][1], row_unit = 1, col_unit = 1;
    reading r = {.g = k->g, .v = &k->store.view, .seed = *seed,
                 .m = {.size = sizeof r.m, .name = names[m], .n = n, .k = cols}};
    tn_status st = TN_OK;
    if (k->g->quant->cut != NULL)
        st = k->g->quant->cut(k->g->self, r.v, &r.m, &row_unit, &col_unit, err);
    if (st != TN_OK)
        return st;
    if (row_unit == 0 || col_unit == 0 || row_unit > n || col_unit > cols)
        return tn_fail(err, TN_INTERNAL, "%s: cut says rows by %llu and columns by %llu; expected "
                       "1 to %llu and 1 to %llu", names[m], (unsigned long long)row_unit,
                       (unsigned long long)col_unit, (unsigned long long)n,
                       (unsigned long long)cols);
    random_range(n, row_unit, seed, &r.r.row0, &r.r.row1);
    random_range(cols, col_unit, seed, &r.r.col0, &r.r.col1);
    uint64_t width = r.r.col1 - r.r.col0;
    r.w = malloc((r.r.row1 - r.r.row0) * width * sizeof *r.w);
    if (r.w == NULL)
        return tn_fail(err, TN_OS, "out of memory");
    st = read_rect(&r, err);
    for (uint64_t row = r.r.row0; st == TN_OK && row < r.r.row1; row++)
        if (memcmp(r.w + (row - r.r.row0) * width, k->whole[m] + row * cols + r.r.col0,
                   width * sizeof *r.w) != 0)
            st = bad(&r, err, "other weights than the whole matrix has there");
    free(r.w);
    return st;
}

typedef struct worker {
    const combo *k;
    uint64_t seed;
    tn_status st;
    tn_err err;
} worker;

static void *read_parts(void *user)
{
    worker *w = user;
    for (uint32_t i = 0; i < RECTS && w->st == TN_OK; i++)
        for (uint32_t m = 0; m < MODULES && w->st == TN_OK; m++)
            if (w->k->has[m])
                w->st = read_part(w->k, m, &w->seed, &w->err);
    return NULL;
}

static tn_status read_from_threads(const combo *k, tn_err *err)
{
    worker w[THREADS];
    pthread_t t[THREADS];
    uint32_t up = 0;
    for (; up < THREADS; up++) {
        w[up] = (worker){.k = k, .seed = 1000 + up};
        if (pthread_create(&t[up], NULL, read_parts, &w[up]) != 0)
            break;
    }
    tn_status st = up == THREADS ? TN_OK : tn_fail(err, TN_OS, "no thread");
    for (uint32_t i = 0; i < up; i++) {
        pthread_join(t[i], NULL);
        if (st == TN_OK && w[i].st != TN_OK) {
            st = w[i].st;
            *err = w[i].err;
        }
    }
    return st;
}

static tn_status read_all(combo *k, tn_err *err)
{
    tn_err why = {.text = ""};
    tn_status st = open_view(&k->store, err);
    if (st != TN_OK)
        return st;
    if (k->g->quant->claims(k->g->self, &k->store.view, &why) == 0)
        return tn_fail(err, TN_INTERNAL, "does not claim what it wrote: %.800s", why.text);
    for (uint32_t m = 0; st == TN_OK && m < MODULES; m++)
        if (k->has[m])
            st = read_whole(k, m, err);
    return st == TN_OK ? read_from_threads(k, err) : st;
}

/* True when the writer offers the combination. */
static bool check_combo(tn_check *c, const tn_guest *g, const tn_write_options *o, tn_err *err)
{
    combo k = {.c = c, .g = g, .o = *o};
    bool ok = true;
    uint64_t seed = 1;
    name_combo(&k);
    pthread_mutex_init(&k.store.lock, NULL);
    for (uint32_t m = 0; m < MODULES; m++) {
        k.w[m] = malloc(shapes[m][0] * shapes[m][1] * sizeof(float));
        k.whole[m] = malloc(shapes[m][0] * shapes[m][1] * sizeof(float));
        ok = ok && k.w[m] != NULL && k.whole[m] != NULL;
        if (ok)
            fill_weights(k.w[m], shapes[m][0], shapes[m][1], &seed);
    }
    tn_status st = ok ? write_all(&k, err) : tn_fail(err, TN_OS, "out of memory");
    bool offered = st != TN_UNSUPPORTED;
    if (offered && st == TN_OK)
        st = read_all(&k, err);
    if (offered && st != TN_OK)
        tn_check_fail(c, "%s: %s", k.text, err->text);
    else if (offered)
        tn_check_ok(c, "%s: written, read back whole and in %u rectangles from %u threads",
                    k.text, THREADS * RECTS * MODULES, THREADS);
    for (uint32_t m = 0; m < MODULES; m++) {
        free(k.w[m]);
        free(k.whole[m]);
    }
    close_store(&k.store);
    return offered;
}

void tn_check_quant(tn_check *c)
{
    static const uint32_t bits[] = {4, 8, 3, 2, 5, 6};
    static const int32_t groups[] = {128, 64, 32, 16, -1};
    const size_t nbits = sizeof bits / sizeof *bits, ngroup = sizeof groups / sizeof *groups;
    tn_check_room r;
    tn_err err = {.text = ""};
    uint32_t offered = 0;
    if (tn_check_enter(c, true, NULL, NULL, &r, &err) != TN_OK
        || tn_wall_start(r.wall, 0, &err) != TN_OK) {
        tn_check_fail(c, "%s", err.text);
        return;
    }
    if (r.guest->quant->write_begin == NULL) {
        tn_check_skip(c, "has no writer, so nothing is there to read rectangles of; its reader is "
                      "checked by `tenon eval` on a model");
        tn_check_leave(&r);
        return;
    }
    for (size_t i = 0; i < nbits * ngroup * 2 * 2; i++) {
        tn_write_options o = {.size = sizeof o, .bits = bits[i / 4 / ngroup],
                              .group = groups[i / 4 % ngroup],
                              .symmetric = i / 2 % 2 == 0, .act_order = i % 2};
        offered += check_combo(c, r.guest, &o, &err);
    }
    if (offered == 0)
        tn_check_skip(c, "its writer offers none of 2, 3, 4, 5, 6 and 8 bits in groups of 16, 32, "
                      "64, 128 and a whole row: %s", err.text);
    tn_check_leave(&r);
}

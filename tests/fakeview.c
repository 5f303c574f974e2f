/* SPDX-License-Identifier: Apache-2.0 */
/* fakeview.c - see fakeview.h. */
#include "fakeview.h"

#include "json.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

/* ------------------------------------------------------------------------------- host */

static void host_log(void *ctx, uint32_t level, const char *text)
{
    fake_host *h = ctx;
    (void)level;
    h->nlog++;
    snprintf(h->log, sizeof h->log, "%s", text);
}

static void *host_alloc(void *ctx, uint64_t size)
{
    fake_host *h = ctx;
    if (atomic_load(&h->countdown) >= 0 && atomic_fetch_sub(&h->countdown, 1) == 0)
        return NULL;
    if (size > (uint64_t)1 << 40)
        return NULL;
    void *p = malloc(size != 0 ? (size_t)size : 1);
    if (p != NULL) {
        memset(p, 0xa5, (size_t)size);
        atomic_fetch_add(&h->live, 1);
    }
    return p;
}

static void host_release(void *ctx, void *p)
{
    fake_host *h = ctx;
    if (p != NULL)
        atomic_fetch_sub(&h->live, 1);
    free(p);
}

static int64_t host_int(void *ctx, const char *key)
{
    (void)key;
    return ((fake_host *)ctx)->strict;
}

static tn_status host_json_open(void *ctx, const char *text, uint64_t size, const char *what,
                                uint32_t depth_max, tn_json_doc **doc, tn_err *err)
{
    (void)ctx;
    return tn_json_open(text, (size_t)size, what, depth_max, doc, err);
}

static const tn_json *host_json_root(void *ctx, const tn_json_doc *doc)
{
    (void)ctx;
    return tn_json_root(doc);
}

static void host_json_close(void *ctx, tn_json_doc *doc)
{
    (void)ctx;
    tn_json_close(doc);
}

static uint64_t host_clock(void *ctx)
{
    struct timespec t;
    (void)ctx;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void fake_host_open(fake_host *h)
{
    memset(h, 0, sizeof *h);
    atomic_init(&h->live, 0);
    atomic_init(&h->countdown, -1);
    h->host = (tn_host){.size = sizeof h->host,
                        .ctx = h,
                        .log = host_log,
                        .alloc = host_alloc,
                        .release = host_release,
                        .opt_int = host_int,
                        .json_open = host_json_open,
                        .json_root = host_json_root,
                        .json_close = host_json_close,
                        .clock = host_clock};
}

/* ------------------------------------------------------------------------------- view */

static void stop_test(const char *what)
{
    fprintf(stderr, "fakeview: %s\n", what);
    abort();
}

static const fake_tensor *find(const fake_view *v, const char *name)
{
    for (size_t i = 0; i < v->ntensor; i++)
        if (strcmp(v->tensor[i].name, name) == 0)
            return &v->tensor[i];
    return NULL;
}

static int32_t view_find(const tn_view *v, const char *name, tn_tensor *out)
{
    const fake_tensor *t = find(v->ctx, name);
    if (t == NULL)
        return 0;
    *out = t->t;
    return 1;
}

static int32_t view_at(const tn_view *v, uint64_t i, const char **name, tn_tensor *out)
{
    const fake_view *f = v->ctx;
    if (i >= f->ntensor)
        return 0;
    *name = f->tensor[i].name;
    *out = f->tensor[i].t;
    return 1;
}

static uint64_t dtype_size(uint32_t dtype)
{
    switch (dtype) {
    case TN_F16: case TN_BF16: case TN_I16: case TN_U16:
        return 2;
    case TN_F32: case TN_I32: case TN_U32:
        return 4;
    case TN_F64: case TN_I64: case TN_U64:
        return 8;
    default:
        return 1;
    }
}

static void put(fake_view *v, const char *name, const tn_tensor *shape, const void *data)
{
    uint64_t size = dtype_size(shape->dtype);
    for (uint32_t i = 0; i < shape->ndim; i++)
        size *= shape->dim[i];
    fake_view_drop(v, name);
    if (v->ntensor == v->room) {
        v->room = v->room != 0 ? 2 * v->room : 16;
        v->tensor = realloc(v->tensor, v->room * sizeof *v->tensor);
    }
    fake_tensor *t = &v->tensor[v->ntensor];
    *t = (fake_tensor){.name = strdup(name), .t = *shape, .block = malloc((size_t)size + 1)};
    if (v->tensor == NULL || t->name == NULL || t->block == NULL)
        stop_test("no memory");
    t->t.data = (char *)t->block + 1;
    t->t.data_size = size;
    t->t.file = "model.safetensors";
    if (data != NULL)
        memcpy((char *)t->block + 1, data, (size_t)size);
    else
        memset(t->block, 0, (size_t)size + 1);
    v->ntensor++;
    v->view.ntensor = v->ntensor;
}

void fake_view_put(fake_view *v, const char *name, uint32_t dtype, uint32_t ndim, uint64_t d0,
                   uint64_t d1, const void *data)
{
    tn_tensor t = {.dtype = dtype, .ndim = ndim, .dim = {d0, ndim > 1 ? d1 : 0}};
    put(v, name, &t, data);
}

void fake_view_drop(fake_view *v, const char *name)
{
    fake_tensor *t = (fake_tensor *)find(v, name);
    if (t == NULL)
        return;
    free(t->name);
    free(t->block);
    *t = v->tensor[--v->ntensor];
    v->view.ntensor = v->ntensor;
}

void *fake_view_data(fake_view *v, const char *name)
{
    const fake_tensor *t = find(v, name);
    return t != NULL ? (char *)t->block + 1 : NULL;
}

void fake_view_config(fake_view *v, const char *config)
{
    tn_err err;
    if (v->doc != NULL)
        tn_json_close(v->doc);
    if (tn_json_open(config, strlen(config), "config.json", 128, &v->doc, &err) != TN_OK)
        stop_test(err.text);
    v->view.config = tn_json_root(v->doc);
    v->view.quant = tn_json_find(v->view.config, "quantization_config");
    v->view.quant_file = v->view.quant != NULL ? "config.json" : NULL;
}

/* ------------------------------------------------------------------------------- sink */

static tn_status sink_tensor(void *ctx, const char *name, uint32_t dtype, uint32_t ndim,
                             const uint64_t *dim, const void *data, tn_err *err)
{
    tn_tensor t = {.dtype = dtype, .ndim = ndim};
    (void)err;
    for (uint32_t i = 0; i < ndim; i++)
        t.dim[i] = dim[i];
    put(ctx, name, &t, data);
    return TN_OK;
}

static tn_status sink_config(void *ctx, const char *json, tn_err *err)
{
    char text[16384];
    (void)err;
    int n = snprintf(text, sizeof text, "{\"quantization_config\": %s}", json);
    if (n < 0 || (size_t)n >= sizeof text)
        stop_test("a config too long for this test");
    fake_view_config(ctx, text);
    return TN_OK;
}

static tn_status sink_file(void *ctx, const char *name, const void *data, uint64_t size,
                           tn_err *err)
{
    fake_view *v = ctx;
    (void)name;
    (void)err;
    free(v->file_text);
    v->file_text = malloc((size_t)size + 1);
    if (v->file_text == NULL)
        stop_test("no memory");
    memcpy(v->file_text, data, (size_t)size);
    v->file_text[size] = 0;
    return TN_OK;
}

void fake_view_open(fake_view *v, const char *config)
{
    memset(v, 0, sizeof *v);
    v->view = (tn_view){.size = sizeof v->view, .ctx = v, .find = view_find, .at = view_at};
    v->sink = (tn_sink){.size = sizeof v->sink,
                        .ctx = v,
                        .tensor = sink_tensor,
                        .config = sink_config,
                        .file = sink_file};
    fake_view_config(v, config);
}

void fake_view_close(fake_view *v)
{
    while (v->ntensor != 0)
        fake_view_drop(v, v->tensor[v->ntensor - 1].name);
    free(v->tensor);
    free(v->file_text);
    tn_json_close(v->doc);
}

/* ----------------------------------------------------------------------------- numbers */

float fake_from_half(uint16_t h)
{
    int e = h >> 10 & 31, m = h & 1023;
    float v = e == 0 ? ldexpf((float)m, -24) : ldexpf((float)(m + 1024), e - 25);
    if (e == 31)
        v = m == 0 ? INFINITY : NAN;
    return (h & 0x8000) != 0 ? -v : v;
}

uint16_t fake_half(float v)
{
    uint16_t sign = signbit(v) ? 0x8000 : 0;
    float a = fabsf(v);
    int e;
    if (!(a < 65520))
        return sign | 0x7c00;
    frexpf(a, &e);
    e = e < -13 || a == 0 ? -13 : e;                        /* a < 2^e, in steps of 2^(e - 11) */
    float steps = rintf(ldexpf(a, 11 - e));       /* 1024 .. 2048, less when subnormal */
    return (uint16_t)(sign + (uint16_t)steps + (uint16_t)(e + 13) * 1024);
}

uint16_t fake_bfloat(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, 4);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

uint32_t fake_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* ----------------------------------------------------------------------------- matrix */

static tn_status bad_form(tn_err *err, const char *what, uint64_t found, uint64_t wanted)
{
    return tn_fail(err, TN_INTERNAL, "fakeview: %s: found %llu, wanted %llu", what,
                   (unsigned long long)found, (unsigned long long)wanted);
}

static tn_status check_form(const tn_form *f, const tn_rect *r, tn_err *err)
{
    uint64_t cols = r->col1 - r->col0;
    bool quantized = f->kind == TN_FORM_W4G || f->kind == TN_FORM_W8G;
    if (f->rows != r->row1 - r->row0)
        return bad_form(err, "rows", f->rows, r->row1 - r->row0);
    if (f->cols < cols || (f->cols != cols && (f->flags & TN_FORM_PERM) == 0))
        return bad_form(err, "cols", f->cols, cols);
    if (quantized && (f->group == 0 || f->cols % f->group != 0))
        return bad_form(err, "a group that divides cols", f->group, f->cols);
    if (quantized && f->group % 32 != 0 && 32 % f->group != 0)
        return bad_form(err, "a group that fits 32", f->group, 32);
    if (f->kind == TN_FORM_W4G && f->cols % 2 != 0)
        return bad_form(err, "an even number of cols", f->cols, 2);
    return TN_OK;
}

static float plain_at(uint32_t kind, const uint8_t *codes, uint64_t i)
{
    uint16_t h;
    uint32_t bits;
    float v;
    memcpy(&h, codes + 2 * i, 2);
    if (kind == TN_FORM_F16)
        return fake_from_half(h);
    bits = (uint32_t)h << 16;
    if (kind == TN_FORM_F32)
        memcpy(&bits, codes + 4 * i, 4);
    memcpy(&v, &bits, 4);
    return v;
}

/* Values of `rows` rows as the contract defines them; *seen counts columns met. */
static tn_status decode(const tn_form *f, const tn_block *b, uint64_t rows, uint64_t cols,
                        float *out, tn_err *err)
{
    const uint8_t *codes = b->codes;
    uint32_t middle = f->kind == TN_FORM_W4G ? 8 : 128;
    uint64_t ngroup = f->group != 0 ? f->cols / f->group : 0;
    for (uint64_t r = 0; r < rows; r++) {
        uint64_t seen = 0;
        for (uint64_t j = 0; j < f->cols; j++) {
            uint64_t i = r * f->cols + j, g = f->group != 0 ? r * ngroup + j / f->group : 0;
            int64_t at = (f->flags & TN_FORM_PERM) != 0 ? b->perm[j] : (int64_t)j;
            if (f->group == 0) {
                out[r * cols + j] = plain_at(f->kind, codes, i);
                continue;
            }
            uint32_t code = f->kind == TN_FORM_W8G ? codes[i] : codes[i / 2] >> 4 * (i & 1) & 15;
            if ((f->flags & TN_FORM_ZEROS) == 0 && b->zero[g] != middle)
                return bad_form(err, "a zero without the flag", b->zero[g], middle);
            if (at < 0 && code != b->zero[g])
                return bad_form(err, "a padding code", code, b->zero[g]);
            if (at < 0)
                continue;
            if ((uint64_t)at >= cols)
                return bad_form(err, "an entry of perm", (uint64_t)at, cols);
            out[r * cols + (uint64_t)at] = (float)((int)code - (int)b->zero[g]) * b->scale[g];
            seen++;
        }
        if (f->group != 0 && seen != cols)
            return bad_form(err, "columns in perm", seen, cols);
    }
    return TN_OK;
}

/* Blocks of exactly the size that the form promises. */
static void block_open(const tn_form *f, uint64_t rows, tn_block *b)
{
    uint64_t ngroup = f->group != 0 ? f->cols / f->group : 0;
    uint64_t half_bytes = f->kind == TN_FORM_W4G ? 1 : f->kind == TN_FORM_W8G ? 2
                        : f->kind == TN_FORM_F32 ? 8 : 4;
    *b = (tn_block){.size = sizeof *b,
                    .codes = malloc((size_t)(rows * f->cols * half_bytes / 2)),
                    .scale = malloc((size_t)(rows * ngroup * 4 + 1)),
                    .zero = malloc((size_t)(rows * ngroup + 1)),
                    .perm = malloc((size_t)f->cols * 4)};
    if (b->codes == NULL || b->scale == NULL || b->zero == NULL || b->perm == NULL)
        stop_test("no memory");
}

static void block_close(tn_block *b)
{
    free(b->codes);
    free(b->scale);
    free(b->zero);
    free(b->perm);
}

tn_status fake_matrix(const tn_quant *q, void *self, const tn_view *v, const tn_module *m,
                      const tn_rect *r, uint64_t step, tn_form *form, float *out, tn_err *err)
{
    uint64_t cols = r->col1 - r->col0;
    tn_status st = q->form_of(self, v, m, r, form, err);
    if (st == TN_OK)
        st = check_form(form, r, err);
    for (uint64_t row = r->row0; row < r->row1 && st == TN_OK; row += step) {
        uint64_t end = row + step < r->row1 ? row + step : r->row1;
        tn_block b;
        block_open(form, end - row, &b);
        st = q->read(self, v, m, r, row, end, &b, err);
        if (st == TN_OK)
            st = decode(form, &b, end - row, cols, out + (row - r->row0) * cols, err);
        block_close(&b);
    }
    return st;
}

/* ------------------------------------------------------------------------------- bench */

static void start(fake_bench *b)
{
    tn_err err;
    if (b->plugin->init(&b->host.host, &b->self, &err) != TN_OK ||
        b->plugin->start(b->self, &err) != TN_OK)
        stop_test(err.text);
}

void fake_bench_open(fake_bench *b, const tn_plugin *plugin, const char *fmt, ...)
{
    char config[8192];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(config, sizeof config, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof config)
        stop_test("a config too long for this test");
    fake_host_open(&b->host);
    fake_view_open(&b->view, config);
    b->plugin = plugin;
    b->q = plugin->table;
    start(b);
}

void fake_bench_restart(fake_bench *b, int64_t strict)
{
    b->plugin->stop(b->self);
    b->host.strict = strict;
    start(b);
}

int fake_bench_close(fake_bench *b)
{
    b->plugin->stop(b->self);
    fake_view_close(&b->view);
    return atomic_load(&b->host.live);
}

/* The t-th rectangle: the whole, then shards of 2 to 8 ranks, then anything. */
static tn_rect choose_rect(int t, uint64_t n, uint64_t k, uint32_t *seed)
{
    tn_rect r = {0, n, 0, k};
    uint64_t parts = 2u + (uint64_t)t % 7, i = fake_random(seed) % parts;
    if (t == 0)
        return r;
    if (t >= 20) {
        r.row0 = fake_random(seed) % n;
        r.row1 = r.row0 + 1 + fake_random(seed) % (n - r.row0);
        r.col0 = fake_random(seed) % k;
        r.col1 = r.col0 + 1 + fake_random(seed) % (k - r.col0);
    } else if (t % 2 == 0 && k % parts == 0) {
        r.col0 = k / parts * i;
        r.col1 = k / parts * (i + 1);
    } else if (n >= parts) {
        r.row0 = n / parts * i;
        r.row1 = n / parts * (i + 1);
    }
    return r;
}

static tn_status compare_rect(const tn_rect *r, uint64_t k, const float *found, const float *w,
                              tn_err *err)
{
    uint64_t cols = r->col1 - r->col0;
    for (uint64_t i = 0; i < (r->row1 - r->row0) * cols; i++) {
        float wanted = w[(r->row0 + i / cols) * k + r->col0 + i % cols];
        if (found[i] != wanted)
            return tn_fail(err, TN_INTERNAL,
                           "rows %d:%d columns %d:%d, row %d column %d: found %.9g, wanted %.9g",
                           (int)r->row0, (int)r->row1, (int)r->col0, (int)r->col1,
                           (int)(i / cols), (int)(i % cols), (double)found[i], (double)wanted);
    }
    return TN_OK;
}

tn_status fake_rects(fake_bench *b, uint64_t n, uint64_t k, const float *w, tn_err *err)
{
    const tn_module m = {.size = sizeof m, .name = "l", .n = n, .k = k};
    float *out = malloc((size_t)(n * k) * sizeof *out);
    uint32_t seed = 7;
    tn_status st = out != NULL ? TN_OK : tn_fail(err, TN_NO_MEMORY, "fakeview: no memory");
    for (int t = 0; t < 40 && st == TN_OK; t++) {
        tn_form f;
        tn_rect r = choose_rect(t, n, k, &seed);
        uint64_t step = 1 + fake_random(&seed) % 37;
        st = fake_matrix(b->q, b->self, &b->view.view, &m, &r, step, &f, out, err);
        if (st == TN_OK)
            st = compare_rect(&r, k, out, w, err);
    }
    free(out);
    return st;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* device_plain.c - the smallest device: every form, seven operations, one thread, no tricks.
 *
 * Read it to see what the core expects of a device. Weights are kept as f32 rows, buffers as
 * f32 rows, and a step is computed before run returns, so wait has nothing to wait for. An
 * operation that is not here makes compile fail by name; a model that attends needs more. */
#include <tenon/plugin.h>

#include <math.h>
#include <stdbool.h>

#define KNOWN_FORMS (1u << TN_FORM_F32 | 1u << TN_FORM_F16 | 1u << TN_FORM_BF16 \
                     | 1u << TN_FORM_W4G | 1u << TN_FORM_W8G)
#define ROWS_AT_ONCE 16u /* rows of a weight pulled in one call */

typedef struct device {
    const tn_host *h;
} device;

typedef struct program {
    const tn_host *h;
    const tn_recipe *r;      /* borrowed, as the contract promises */
    tn_limits limits;
    float **weight;          /* [nweight][n * k] */
    float **buffer;          /* [nbuffer][rows_max * width] */
    tn_result *result;       /* [2][outs_max]: this step's and the last one's */
    tn_results results;
    const tn_step *step;     /* while running */
    uint64_t number;         /* of the last step run */
} program;

/* ----------------------------------------------------------------------------- operations */

static float half_to_float(uint16_t h)
{
    int exponent = h >> 10 & 31, fraction = h & 1023;
    float v = exponent == 31 ? (fraction ? NAN : INFINITY)
            : exponent == 0  ? ldexpf((float)fraction, -24)
                             : ldexpf((float)(fraction | 1024), exponent - 25);
    return h & 0x8000 ? -v : v;
}

static float bf16_to_float(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static uint32_t rows_of(const program *p, uint32_t kind)
{
    return kind == TN_ROWS_OUTS ? p->step->nout : kind == TN_ROWS_SEQS ? p->step->nseq
                                                                       : p->step->nrow;
}

static float *row_of(const program *p, uint32_t buffer, uint32_t row, uint32_t col)
{
    return p->buffer[buffer] + (size_t)row * p->r->buffer[buffer].width + col;
}

static uint32_t count_of(const program *p, uint32_t buffer)
{
    return rows_of(p, p->r->buffer[buffer].rows);
}

/* A token of -1 - i is the one that the step before drew for its output i. */
static int32_t token_of(const program *p, uint32_t row)
{
    int32_t t = p->step->row_token[row];
    const tn_result *last = p->result + (p->step->number + 1) % 2 * p->limits.outs_max;
    return t >= 0 ? t : last[-1 - t].token;
}

static void embed(const program *p, const tn_op_embed *o)
{
    const tn_weight_spec *w = &p->r->weight[o->w];
    for (uint32_t i = 0; i < p->step->nrow; i++) {
        float *out = row_of(p, o->out, i, 0);
        int64_t token = (int64_t)token_of(p, i) - o->first;
        bool ours = token >= 0 && token < (int64_t)w->n;
        for (uint64_t c = 0; c < w->k; c++)
            out[c] = ours ? p->weight[o->w][(uint64_t)token * w->k + c] * o->scale : 0;
    }
}

static void norm(const program *p, const tn_op_norm *o)
{
    uint32_t groups = o->groups > 1 ? o->groups : 1;
    for (uint32_t i = 0; i < count_of(p, o->in); i++)
        for (uint32_t g = 0; g < groups; g++) {
            const float *x = row_of(p, o->in, i, o->in_col + g * o->width);
            float *y = row_of(p, o->out, i, o->out_col + g * o->width), sum = 0;
            for (uint32_t c = 0; c < o->width; c++)
                sum += x[c] * x[c];
            float f = 1 / sqrtf(sum / (float)o->width + o->eps);
            for (uint32_t c = 0; c < o->width; c++)
                y[c] = x[c] * f * (o->w == TN_NONE ? 1 : p->weight[o->w][c] + o->offset);
        }
}

static void linear(const program *p, const tn_op_linear *o)
{
    for (uint32_t j = 0; j < o->nparts; j++) {
        const tn_part *part = &o->part[j];
        const tn_weight_spec *w = &p->r->weight[part->w];
        for (uint32_t i = 0; i < count_of(p, o->in); i++) {
            const float *x = row_of(p, o->in, i, o->in_col);
            float *y = row_of(p, part->out, i, part->col);
            for (uint64_t r = 0; r < w->n; r++) {
                const float *row = p->weight[part->w] + r * w->k;
                float sum = part->bias == TN_NONE ? 0 : p->weight[part->bias][r];
                for (uint64_t c = 0; c < w->k; c++)
                    sum += row[c] * x[c];
                y[r] = o->add ? y[r] + sum : sum;
            }
        }
    }
}

static float act(uint32_t kind, float x)
{
    switch (kind) {
    case TN_ACT_SILU:
        return x / (1 + expf(-x));
    case TN_ACT_GELU:
        return 0.5f * x * (1 + erff(x * 0.70710678f));
    case TN_ACT_GELU_TANH:
        return 0.5f * x * (1 + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    default:
        return 1 / (1 + expf(-x));
    }
}

static void act_mul(const program *p, const tn_op_act_mul *o)
{
    for (uint32_t i = 0; i < count_of(p, o->in); i++)
        for (uint32_t c = 0; c < o->width; c++)
            row_of(p, o->out, i, 0)[c] =
                act(o->act, row_of(p, o->in, i, o->a_col)[c]) * row_of(p, o->in, i, o->b_col)[c];
}

static void mix(const program *p, const tn_op_mix *o)
{
    for (uint32_t i = 0; i < count_of(p, o->in); i++) {
        float f = o->scale;
        if (o->gate != TN_NONE)
            f *= act(TN_ACT_SIGMOID, row_of(p, o->gate, i, o->gate_col)[0]);
        const float *x = row_of(p, o->in, i, o->in_col);
        float *y = row_of(p, o->out, i, o->out_col);
        for (uint32_t c = 0; c < o->width; c++)
            y[c] = o->add ? y[c] + f * x[c] : f * x[c];
    }
}

static void pick(const program *p, const tn_op_pick *o)
{
    for (uint32_t i = 0; i < p->step->nout; i++)
        memcpy(row_of(p, o->out, i, 0),
               row_of(p, o->in, (uint32_t)p->step->out[i].row, 0), o->width * sizeof(float));
}

/* Greedy: the greatest logit, ties to the lower id; its log-probability; NaN is told. */
static void sample(const program *p, const tn_op_sample *o)
{
    tn_result *result = p->result + p->step->number % 2 * p->limits.outs_max;
    for (uint32_t i = 0; i < p->step->nout; i++) {
        const float *x = row_of(p, o->x, i, 0);
        uint32_t best = 0;
        double sum = 0;
        bool finite = true;
        for (uint32_t v = 0; v < o->vocab; v++) {
            finite = finite && !isnan(x[v]) && x[v] != INFINITY;
            best = x[v] > x[best] ? v : best;
        }
        for (uint32_t v = 0; v < o->vocab; v++)
            sum += exp((double)x[v] - (double)x[best]);
        finite = finite && x[best] != -INFINITY;
        result[i] = (tn_result){.token = finite ? (int32_t)best : -1,
                                .flags = finite ? 0 : TN_RESULT_NONFINITE,
                                .logprob = finite ? (float)-log(sum) : 0};
    }
}


static bool is_known(uint32_t kind)
{
    return kind == TN_OP_EMBED || kind == TN_OP_NORM || kind == TN_OP_LINEAR
        || kind == TN_OP_ACT_MUL || kind == TN_OP_MIX || kind == TN_OP_PICK
        || kind == TN_OP_SAMPLE;
}

static void run_op(const program *p, const tn_op *op)
{
    switch (op->kind) {
    case TN_OP_EMBED:
        embed(p, op->args);
        break;
    case TN_OP_NORM:
        norm(p, op->args);
        break;
    case TN_OP_LINEAR:
        linear(p, op->args);
        break;
    case TN_OP_ACT_MUL:
        act_mul(p, op->args);
        break;
    case TN_OP_MIX:
        mix(p, op->args);
        break;
    case TN_OP_PICK:
        pick(p, op->args);
        break;
    default:
        sample(p, op->args);
    }
}

/* ------------------------------------------------------------------------------- programs */

static void release(void *program_)
{
    program *p = program_;
    const tn_host *h = p->h;
    for (uint32_t i = 0; p->weight != NULL && i < p->r->nweight; i++)
        h->release(h->ctx, p->weight[i]);
    for (uint32_t i = 0; p->buffer != NULL && i < p->r->nbuffer; i++)
        h->release(h->ctx, p->buffer[i]);
    h->release(h->ctx, p->weight);
    h->release(h->ctx, p->buffer);
    h->release(h->ctx, p->result);
    h->release(h->ctx, p);
}

static tn_status check_recipe(const tn_recipe *r, const tn_limits *l, tn_err *err)
{
    if (l->nrank > 1)
        return tn_fail(err, TN_UNSUPPORTED, "device_plain: %u ranks; expected one", l->nrank);
    for (uint32_t i = 0; i < r->nop; i++)
        if (!is_known(r->op[i].kind))
            return tn_fail(err, TN_UNSUPPORTED, "device_plain: operation %s (kind %u) is not "
                           "offered", r->op[i].name, r->op[i].kind);
    for (uint32_t i = 0; i < r->nweight; i++)
        if ((KNOWN_FORMS >> r->weight[i].form.kind & 1u) == 0)
            return tn_fail(err, TN_UNSUPPORTED, "device_plain: weight %s has form %u, which is "
                           "not offered", r->weight[i].name, r->weight[i].form.kind);
    return TN_OK;
}

static tn_status compile(void *dev, const tn_recipe *r, const tn_limits *l, void **out,
                         tn_need *need, tn_err *err)
{
    device *d = dev;
    tn_status st = check_recipe(r, l, err);
    if (st != TN_OK)
        return st;
    program *p = d->h->alloc(d->h->ctx, sizeof *p);
    if (p == NULL)
        return tn_fail(err, TN_NO_MEMORY, "device_plain: out of memory");
    *p = (program){.h = d->h, .r = r, .limits = *l};
    *need = (tn_need){.size = sizeof *need, .cache_dtype = TN_F32};
    for (uint32_t i = 0; i < r->nweight; i++)
        need->weight_bytes += r->weight[i].n * r->weight[i].k * sizeof(float);
    for (uint32_t i = 0; i < r->nbuffer; i++)
        need->workspace_bytes += (uint64_t)l->rows_max * r->buffer[i].width * sizeof(float);
    *out = p;
    return TN_OK;
}

static void *take(const program *p, uint64_t count, size_t size, bool *ok)
{
    void *m = p->h->alloc(p->h->ctx, count * size);
    if (m != NULL)
        memset(m, 0, count * size);
    *ok = *ok && m != NULL;
    return m;
}

static tn_status reserve(void *program_, const tn_pools *pools, tn_err *err)
{
    program *p = program_;
    bool ok = true;
    uint64_t rows = p->limits.rows_max > p->limits.outs_max ? p->limits.rows_max
                                                            : p->limits.outs_max;
    (void)pools; /* no caches, no states */
    p->weight = take(p, p->r->nweight, sizeof *p->weight, &ok);
    p->buffer = take(p, p->r->nbuffer, sizeof *p->buffer, &ok);
    p->result = take(p, 2 * (uint64_t)p->limits.outs_max, sizeof *p->result, &ok);
    for (uint32_t i = 0; ok && i < p->r->nweight; i++)
        p->weight[i] = take(p, p->r->weight[i].n * p->r->weight[i].k, sizeof(float), &ok);
    for (uint32_t i = 0; ok && i < p->r->nbuffer; i++)
        p->buffer[i] = take(p, rows * p->r->buffer[i].width, sizeof(float), &ok);
    return ok ? TN_OK : tn_fail(err, TN_NO_MEMORY, "device_plain: out of memory");
}

/* One row of codes in any form as f32, its columns put where perm says. */
static void unpack_row(const tn_weight_spec *w, const tn_block *b, uint64_t row, float *out)
{
    const tn_form *f = &w->form;
    const uint8_t *codes = b->codes;
    uint64_t groups = f->group ? f->cols / f->group : 0;
    for (uint64_t c = 0; c < f->cols; c++) {
        uint64_t i = row * f->cols + c;
        uint16_t h;
        float v;
        if (f->kind == TN_FORM_F32) {
            memcpy(&v, codes + i * 4, 4);
        } else if (f->kind == TN_FORM_F16 || f->kind == TN_FORM_BF16) {
            memcpy(&h, codes + i * 2, 2);
            v = f->kind == TN_FORM_F16 ? half_to_float(h) : bf16_to_float(h);
        } else {
            int code = f->kind == TN_FORM_W8G ? codes[i] : codes[i / 2] >> (c % 2 * 4) & 15;
            uint64_t g = row * groups + c / f->group;
            v = (float)(code - b->zero[g]) * b->scale[g];
        }
        int64_t to = b->perm ? b->perm[c] : (int64_t)c;
        if (to >= 0 && (uint64_t)to < w->k)
            out[to] = v;
    }
}

static tn_status pack(void *program_, uint32_t w, const tn_reader *reader, tn_err *err)
{
    program *p = program_;
    const tn_weight_spec *spec = &p->r->weight[w];
    const tn_form *f = &spec->form;
    bool ok = true, coded = f->kind == TN_FORM_W4G || f->kind == TN_FORM_W8G;
    uint64_t groups = coded ? f->cols / f->group : 0;
    tn_status st = TN_OK;
    tn_block b = {.size = sizeof b};
    b.codes = take(p, ROWS_AT_ONCE * f->cols, 4, &ok);
    if (coded) {
        b.scale = take(p, ROWS_AT_ONCE * groups, sizeof *b.scale, &ok);
        b.zero = take(p, ROWS_AT_ONCE * groups, sizeof *b.zero, &ok);
        b.perm = f->flags & TN_FORM_PERM ? take(p, f->cols, sizeof *b.perm, &ok) : NULL;
    }
    if (!ok)
        st = tn_fail(err, TN_NO_MEMORY, "device_plain: out of memory");
    for (uint64_t row = 0; st == TN_OK && row < spec->n; row += ROWS_AT_ONCE) {
        uint64_t end = row + ROWS_AT_ONCE < spec->n ? row + ROWS_AT_ONCE : spec->n;
        st = reader->rows(reader->ctx, 0, row, end, &b, err);
        for (uint64_t r = row; st == TN_OK && r < end; r++)
            unpack_row(spec, &b, r - row, p->weight[w] + r * spec->k);
    }
    p->h->release(p->h->ctx, b.codes);
    p->h->release(p->h->ctx, b.scale);
    p->h->release(p->h->ctx, b.zero);
    p->h->release(p->h->ctx, b.perm);
    return st;
}

static uint64_t weight_bytes(void *program_, uint32_t w)
{
    const program *p = program_;
    return p->r->weight[w].n * p->r->weight[w].k * sizeof(float);
}

static tn_status run(void *program_, const tn_step *step, tn_err *err)
{
    program *p = program_;
    for (uint32_t i = 0; i < step->nout; i++)
        if ((step->out[i].sampling->flags & TN_SAMPLE_GREEDY) == 0
            || step->out[i].sampling->history != NULL || step->out[i].sampling->mask != NULL)
            return tn_fail(err, TN_UNSUPPORTED, "device_plain: only plain greedy sampling is "
                           "offered");
    const tn_section *s = &p->r->section[step->section];
    p->step = step;
    for (uint32_t i = 0; i < s->nop; i++)
        run_op(p, &p->r->op[s->op0 + i]);
    p->number = step->number;
    p->results = (tn_results){.size = sizeof p->results, .nout = step->nout,
        .result = p->result + step->number % 2 * p->limits.outs_max};
    return TN_OK;
}

static tn_status wait_for(void *program_, uint64_t number, uint32_t poll,
                          const tn_results **out, tn_err *err)
{
    program *p = program_;
    (void)poll;
    if (number != p->number)
        return tn_fail(err, TN_INTERNAL, "device_plain: step %llu is not the last one run",
                       (unsigned long long)number);
    *out = &p->results;
    return TN_OK;
}

static tn_status peek(void *program_, uint32_t buffer, uint32_t row0, uint32_t nrow, float *out,
                      tn_err *err)
{
    program *p = program_;
    if (buffer >= p->r->nbuffer)
        return tn_fail(err, TN_INTERNAL, "device_plain: no buffer %u", buffer);
    memcpy(out, row_of(p, buffer, row0, 0),
           (size_t)nrow * p->r->buffer[buffer].width * sizeof(float));
    return TN_OK;
}

/* ----------------------------------------------------------------------------- the device */

static tn_status open_device(void *self, uint32_t index, void **dev, tn_err *err)
{
    if (index != 0)
        return tn_fail(err, TN_UNAVAILABLE, "device_plain: no device %u; expected 0", index);
    *dev = self;
    return TN_OK;
}

static void close_device(void *dev)
{
    (void)dev;
}

static tn_status info(void *dev, tn_device_info *out, tn_err *err)
{
    (void)dev;
    (void)err;
    *out = (tn_device_info){.size = sizeof *out, .ndevice = 1, .forms = KNOWN_FORMS,
                            .act_dtypes = 1u << TN_F32, .block_tokens = 16, .host_memory = 1,
                            .memory_total = 1ull << 30, .memory_free = 1ull << 30,
                            .name = "plain C, one thread", .arch = "c"};
    return TN_OK;
}

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    device *d = h->alloc(h->ctx, sizeof *d);
    if (d == NULL)
        return tn_fail(err, TN_NO_MEMORY, "device_plain: out of memory");
    d->h = h;
    *self = d;
    return TN_OK;
}

static tn_status start(void *self, tn_err *err)
{
    (void)self;
    (void)err;
    return TN_OK;
}

static void stop(void *self)
{
    device *d = self;
    d->h->release(d->h->ctx, d);
}

static const tn_device table = {
    .size = sizeof(tn_device),
    .open = open_device,
    .close = close_device,
    .info = info,
    .compile = compile,
    .reserve = reserve,
    .pack = pack,
    .weight_bytes = weight_bytes,
    .release = release,
    .run = run,
    .wait = wait_for,
    .peek = peek,
};

const tn_plugin tn_plugin_entry = {
    .abi_major = TN_ABI_MAJOR,
    .abi_minor = TN_ABI_MINOR,
    .size = sizeof(tn_plugin),
    .kind = TN_KIND_DEVICE,
    .name = "device_plain",
    .version = "1.0",
    .summary = "The smallest device: plain C, one thread, no attention.",
    .table = &table,
    .init = init,
    .start = start,
    .stop = stop,
};

/* SPDX-License-Identifier: Apache-2.0 */
/* recipe_fixture.c - small recipes built by hand, and a host to run them with. */
#include "recipe_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void *take(uint64_t count, uint64_t size)
{
    void *p = calloc(count > 0 ? count : 1, size);
    if (p == NULL)
        abort();
    return p;
}

static uint64_t mix(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

uint64_t fx_bits(fixture *f)
{
    return mix(&f->random);
}

float fx_uniform(fixture *f, float least, float most)
{
    return least + (most - least) * (float)(fx_bits(f) >> 40) * 0x1p-24f;
}

fixture *fx_new(uint64_t seed)
{
    fixture *f = take(1, sizeof *f);
    f->random = seed;
    f->recipe = (tn_recipe){.size = sizeof f->recipe, .act_dtype = TN_F32, .name = "fixture",
                            .buffer = f->buffer, .weight = f->weight, .op = f->op,
                            .rope = f->rope, .cache = f->cache, .state = f->state,
                            .section = f->section};
    return f;
}

void fx_free(fixture *f)
{
    for (uint32_t i = 0; i < f->recipe.nweight; i++) {
        free(f->data[i].value);
        free(f->data[i].codes);
        free(f->data[i].scale);
        free(f->data[i].zero);
        free(f->data[i].perm);
    }
    for (uint32_t i = 0; i < f->recipe.nop; i++)
        free((void *)(uintptr_t)f->op[i].args);
    for (uint32_t i = 0; i < f->recipe.nrope; i++)
        free((void *)(uintptr_t)f->rope[i].inv_freq);
    free(f);
}

/* ------------------------------------------------------------------------------- weights */

static uint32_t bits_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float float_of(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* Rounds to a value that 16 bits hold exactly; normal numbers of f16's range only. Not inlined:
 * gcc 12 at -O2 leaves the rounding out of fill_coded_row then. */
__attribute__((noinline)) static float round16(float x, uint32_t form)
{
    uint32_t drop = form == TN_FORM_BF16 ? 16 : 13;
    return float_of(bits_of(x) & ~((1u << drop) - 1));
}

static uint16_t to_half(float x, uint32_t form)
{
    uint32_t u = bits_of(x);
    if (form == TN_FORM_BF16)
        return (uint16_t)(u >> 16);
    if ((u & 0x7fffffffu) < 0x38800000u)
        return (uint16_t)(u >> 16 & 0x8000u); /* too small for a normal number: zero */
    return (uint16_t)((u >> 16 & 0x8000u) | ((u & 0x7fffffffu) - 0x38000000u) >> 13);
}

static float plain_random(fixture *f, uint32_t form, float reach)
{
    float x = fx_uniform(f, -reach, reach);
    if (form == TN_FORM_F16 && fabsf(x) < 0x1p-14f)
        return 0;
    return form == TN_FORM_F32 || form == TN_FORM_PRIVATE ? x : round16(x, form);
}

static void fill_plain(fixture *f, const tn_weight_spec *s, fx_weight *d, float least, float most)
{
    uint64_t count = s->nexpert * s->n * s->k;
    bool wide = s->form.kind == TN_FORM_F32 || s->form.kind == TN_FORM_PRIVATE;
    d->codes_size = s->n * s->k * (wide ? 4 : 2);
    d->codes = take(s->nexpert, d->codes_size);
    for (uint64_t i = 0; i < count; i++) {
        float x = least == -most ? plain_random(f, s->form.kind, most)
                                 : fx_uniform(f, least, most);
        if (!wide)
            x = round16(x, s->form.kind);
        uint16_t h = wide ? 0 : to_half(x, s->form.kind);
        if (!wide && (h & 0x7fffu) == 0)
            x = 0;
        if (d->value != NULL)
            d->value[i] = x;
        memcpy(d->codes + i * (wide ? 4 : 2), wide ? (void *)&x : (void *)&h, wide ? 4 : 2);
    }
}

/* A permutation of k columns, with padding between and behind them when cols > k. */
static void fill_perm(fixture *f, int32_t *perm, uint64_t cols, uint64_t k)
{
    for (uint64_t j = 0; j < cols; j++)
        perm[j] = j < k ? (int32_t)j : -1;
    for (uint64_t j = cols; j-- > 1;) {
        uint64_t o = fx_bits(f) % (j + 1);
        int32_t t = perm[j];
        perm[j] = perm[o];
        perm[o] = t;
    }
}

static void fill_coded_row(fixture *f, const tn_weight_spec *s, fx_weight *d, uint64_t row,
                           const int32_t *perm, uint32_t flags)
{
    uint32_t four = s->form.kind == TN_FORM_W4G, middle = four ? 8 : 128;
    uint64_t cols = s->form.cols, ngroup = cols / s->form.group;
    uint8_t *codes = d->codes + row * cols / (four ? 2 : 1);
    float reach = 3.0f / sqrtf((float)s->k) / (float)middle;
    for (uint64_t j = 0; j < cols; j++) {
        uint64_t g = row * ngroup + j / s->form.group;
        if (j % s->form.group == 0) {
            d->scale[g] = fx_uniform(f, reach / 4, reach);
            if (flags & FX_SCALE16)
                d->scale[g] = round16(d->scale[g], TN_FORM_BF16);
            d->zero[g] = (uint8_t)middle;
            if (flags & FX_ZEROS)
                d->zero[g] = (uint8_t)(four ? 4 + fx_bits(f) % 9 : 100 + fx_bits(f) % 57);
        }
        int64_t to = perm != NULL ? perm[j] : (int64_t)j;
        uint8_t code = (uint8_t)(fx_bits(f) % (four ? 16 : 256));
        if (to < 0 || to >= (int64_t)s->k)
            code = d->zero[g];
        else if (d->value != NULL)
            d->value[row * s->k + (uint64_t)to] = (float)(code - d->zero[g]) * d->scale[g];
        if (!four)
            codes[j] = code;
        else
            codes[j / 2] = (uint8_t)(codes[j / 2] | code << (j % 2 * 4));
    }
}

static void fill_coded(fixture *f, const tn_weight_spec *s, fx_weight *d, uint32_t flags)
{
    uint64_t cols = s->form.cols, rows = s->nexpert * s->n;
    d->codes_size = s->n * cols / (s->form.kind == TN_FORM_W4G ? 2 : 1);
    d->codes = take(s->nexpert, d->codes_size);
    d->scale = take(rows * (cols / s->form.group), sizeof *d->scale);
    d->zero = take(rows * (cols / s->form.group), 1);
    d->perm = take(s->nexpert * cols, sizeof *d->perm);
    for (uint32_t e = 0; e < s->nexpert; e++) {
        int32_t *perm = (flags & FX_PERM) != 0 ? d->perm + e * cols : NULL;
        if (perm != NULL)
            fill_perm(f, perm, cols, s->k);
        for (uint64_t r = 0; r < s->n; r++)
            fill_coded_row(f, s, d, e * s->n + r, perm, flags);
    }
}

/* The multiply of the private form, which is rows of f32. */
static void private_multiply(void *self, const void *bytes, uint64_t n, uint64_t k, uint64_t row0,
                             uint64_t row1, const float *x, uint64_t ldx, uint64_t m, float *y,
                             uint64_t ldy)
{
    (void)self;
    (void)n;
    for (uint64_t i = 0; i < m; i++)
        for (uint64_t r = row0; r < row1; r++) {
            float sum = 0, w;
            for (uint64_t c = 0; c < k; c++) {
                memcpy(&w, (const char *)bytes + (r * k + c) * 4, sizeof w);
                sum += w * x[i * ldx + c];
            }
            y[i * ldy + r - row0] += sum;
        }
}

static const tn_multiply private_table = {
    .size = sizeof(tn_multiply), .device = "cpu", .entry = (const void *)private_multiply,
};

static uint32_t next_weight(fixture *f, uint32_t role, uint32_t nexpert, uint64_t n, uint64_t k,
                            uint32_t form, uint32_t group, uint64_t cols)
{
    uint32_t i = f->recipe.nweight++;
    tn_weight_spec *s = &f->weight[i];
    *s = (tn_weight_spec){.size = sizeof *s, .role = role, .nexpert = nexpert, .n = n, .k = k,
                          .name = "weight"};
    s->form = (tn_form){.size = sizeof s->form, .kind = form, .group = group, .rows = n,
                        .cols = cols};
    f->data[i] = (fx_weight){.fail_row = -1};
    if (!f->lean)
        f->data[i].value = take(nexpert * n * k, sizeof(float));
    return i;
}

uint32_t fx_stack(fixture *f, uint32_t role, uint32_t nexpert, uint64_t n, uint64_t k,
                  uint32_t form, uint32_t group, uint32_t flags)
{
    bool coded = form == TN_FORM_W4G || form == TN_FORM_W8G;
    uint64_t cols = coded ? (k + group - 1) / group * group : k;
    if (coded && (flags & FX_PADDING) != 0)
        cols += 2 * group;
    uint32_t i = next_weight(f, role, nexpert, n, k, form, coded ? group : 0, cols);
    tn_weight_spec *s = &f->weight[i];
    if (coded) {
        if (flags & FX_ZEROS)
            s->form.flags |= TN_FORM_ZEROS;
        if (flags & FX_PERM)
            s->form.flags |= TN_FORM_PERM;
        fill_coded(f, s, &f->data[i], flags);
        return i;
    }
    fill_plain(f, s, &f->data[i], -sqrtf(3.0f / (float)k), sqrtf(3.0f / (float)k));
    if (form == TN_FORM_PRIVATE) {
        s->form.bytes = n * k * 4;
        s->multiply = &private_table;
        s->nmultiply = 1;
    }
    return i;
}

uint32_t fx_matrix(fixture *f, uint32_t role, uint64_t n, uint64_t k, uint32_t form,
                   uint32_t group, uint32_t flags)
{
    return fx_stack(f, role, 1, n, k, form, group, flags);
}

uint32_t fx_vector(fixture *f, uint64_t count, uint32_t form, float least, float most)
{
    uint32_t i = next_weight(f, TN_ROLE_VECTOR, 1, 1, count, form, 0, count);
    fill_plain(f, &f->weight[i], &f->data[i], least, most);
    return i;
}

/* -------------------------------------------------------------------------------- reading */

static tn_status read_rows(void *ctx, uint32_t expert, uint64_t row0, uint64_t row1,
                           tn_block *out, tn_err *err)
{
    fx_weight *d = ctx;
    const tn_weight_spec *s = d->spec;
    uint64_t row_size = d->codes_size / s->n, groups = s->form.group;
    if (d->fail_row >= (int64_t)row0 && d->fail_row < (int64_t)row1)
        return tn_fail(err, TN_DATA, "fixture: row %lld is broken", (long long)d->fail_row);
    __atomic_fetch_add(&d->reads, row1 - row0, __ATOMIC_RELAXED);
    if (out->codes != NULL)
        memcpy(out->codes, d->codes + expert * d->codes_size + row0 * row_size,
               (row1 - row0) * row_size);
    if (groups == 0)
        return TN_OK;
    groups = s->form.cols / groups;
    uint64_t at = (expert * s->n + row0) * groups, n = (row1 - row0) * groups;
    if (out->scale != NULL)
        memcpy(out->scale, d->scale + at, n * sizeof *d->scale);
    if (out->zero != NULL)
        memcpy(out->zero, d->zero + at, n);
    if (out->perm != NULL)
        memcpy(out->perm, d->perm + expert * s->form.cols, s->form.cols * sizeof *d->perm);
    return TN_OK;
}

tn_reader fx_reader(fixture *f, uint32_t weight)
{
    f->data[weight].spec = &f->weight[weight];
    return (tn_reader){.size = sizeof(tn_reader), .ctx = &f->data[weight], .rows = read_rows};
}

/* ------------------------------------------------------------------------- the other parts */

uint32_t fx_buffer(fixture *f, uint32_t rows, uint32_t width, const char *name)
{
    uint32_t i = f->recipe.nbuffer++;
    f->buffer[i] = (tn_buffer){.size = sizeof(tn_buffer), .rows = rows, .width = width,
                               .dtype = TN_F32, .name = name};
    return i;
}

uint32_t fx_ids(fixture *f, uint32_t rows, uint32_t width, const char *name)
{
    uint32_t i = fx_buffer(f, rows, width, name);
    f->buffer[i].dtype = TN_I32;
    return i;
}

uint32_t fx_rope(fixture *f, uint32_t dims, uint32_t pairing, uint32_t npos, double theta)
{
    uint32_t i = f->recipe.nrope++;
    double *inv = take(2048, sizeof *inv); /* enough for what tests make of `dims` later */
    for (uint32_t j = 0; j < dims / 2; j++)
        inv[j] = pow(theta, -2.0 * j / dims);
    f->rope[i] = (tn_rope){.size = sizeof(tn_rope), .pairing = pairing, .dims = dims,
                           .npos = npos, .scale = 1, .inv_freq = inv};
    return i;
}

uint32_t fx_cache(fixture *f, uint32_t heads, uint32_t dim)
{
    f->cache[f->recipe.ncache] = (tn_cache_spec){.size = sizeof(tn_cache_spec), .heads = heads,
                                                 .k_dim = dim, .v_dim = dim};
    return f->recipe.ncache++;
}

void fx_op(fixture *f, uint32_t kind, const void *args, const char *name)
{
    uint32_t size, i = f->recipe.nop++;
    memcpy(&size, args, sizeof size);
    void *copy = take(1, size);
    memcpy(copy, args, size);
    f->op[i] = (tn_op){.size = sizeof(tn_op), .kind = kind, .layer = TN_NONE, .args = copy,
                       .name = name};
}

void fx_section(fixture *f)
{
    uint32_t i = f->recipe.nsection++, from = 0;
    if (i > 0)
        from = f->section[i - 1].op0 + f->section[i - 1].nop;
    f->section[i] = (tn_section){.size = sizeof(tn_section), .op0 = from,
                                 .nop = f->recipe.nop - from, .name = "section"};
}

/* --------------------------------------------------------------------------------- a model */

typedef struct names {
    uint32_t x, h, qkv, att, gu, ff, scores, ids, weights, xo, ho, logits, rope;
} names;

static void add_norm(fixture *f, uint32_t in, uint32_t out, uint32_t width)
{
    tn_op_norm op = {.size = sizeof op, .in = in, .out = out, .width = width, .groups = 1,
                     .eps = 1e-5f};
    op.w = fx_vector(f, width, TN_FORM_F16, 0.5f, 1.5f);
    fx_op(f, TN_OP_NORM, &op, "norm");
}

static tn_part add_part(fixture *f, const fx_llama *m, uint64_t n, uint64_t k, uint32_t out,
                        uint32_t col)
{
    tn_part p = {.out = out, .col = col, .bias = TN_NONE};
    p.w = fx_matrix(f, TN_ROLE_DENSE, n, k, m->form, m->group, m->flags);
    if (m->bias)
        p.bias = fx_vector(f, n, TN_FORM_F32, -0.2f, 0.2f);
    return p;
}

static void add_attention(fixture *f, const fx_llama *m, const names *b)
{
    uint32_t nq = m->q_heads * m->dim, nkv = m->kv_heads * m->dim;
    add_norm(f, b->x, b->h, m->hidden);
    tn_op_linear qkv = {.size = sizeof qkv, .in = b->h, .nparts = 3};
    qkv.part[0] = add_part(f, m, nq, m->hidden, b->qkv, 0);
    qkv.part[1] = add_part(f, m, nkv, m->hidden, b->qkv, nq);
    qkv.part[2] = add_part(f, m, nkv, m->hidden, b->qkv, nq + nkv);
    fx_op(f, TN_OP_LINEAR, &qkv, "qkv");
    tn_op_heads heads = {.size = sizeof heads, .x = b->qkv, .k_col = nq, .v_col = nq + nkv,
                         .q_heads = m->q_heads, .kv_heads = m->kv_heads, .head_dim = m->dim,
                         .rope = b->rope, .q_norm = TN_NONE, .k_norm = TN_NONE, .eps = 1e-6f};
    if (m->qk_norm) {
        heads.q_norm = fx_vector(f, m->dim, TN_FORM_BF16, 0.5f, 1.5f);
        heads.k_norm = fx_vector(f, m->dim, TN_FORM_BF16, 0.5f, 1.5f);
    }
    heads.cache = fx_cache(f, m->kv_heads, m->dim);
    fx_op(f, TN_OP_HEADS, &heads, "heads");
    tn_op_attend attend = {.size = sizeof attend, .q = b->qkv, .out = b->att,
                           .q_heads = m->q_heads, .kv_heads = m->kv_heads, .head_dim = m->dim,
                           .cache = heads.cache, .window = m->window, .gate = TN_NONE};
    attend.scale = 1.0f / sqrtf((float)m->dim);
    fx_op(f, TN_OP_ATTEND, &attend, "attend");
    tn_op_linear out = {.size = sizeof out, .in = b->att, .nparts = 1, .add = 1};
    out.part[0] = add_part(f, m, m->hidden, nq, b->x, 0);
    fx_op(f, TN_OP_LINEAR, &out, "o");
}

static void add_mlp(fixture *f, const fx_llama *m, const names *b)
{
    add_norm(f, b->x, b->h, m->hidden);
    tn_op_linear up = {.size = sizeof up, .in = b->h, .nparts = 2};
    up.part[0] = add_part(f, m, m->ffn, m->hidden, b->gu, 0);
    up.part[1] = add_part(f, m, m->ffn, m->hidden, b->gu, m->ffn);
    fx_op(f, TN_OP_LINEAR, &up, "gate_up");
    tn_op_act_mul act = {.size = sizeof act, .in = b->gu, .b_col = m->ffn, .out = b->ff,
                         .width = m->ffn, .act = TN_ACT_SILU};
    fx_op(f, TN_OP_ACT_MUL, &act, "act");
    tn_op_linear down = {.size = sizeof down, .in = b->ff, .nparts = 1, .add = 1};
    down.part[0] = add_part(f, m, m->hidden, m->ffn, b->x, 0);
    fx_op(f, TN_OP_LINEAR, &down, "down");
}

static void add_experts(fixture *f, const fx_llama *m, const names *b)
{
    add_norm(f, b->x, b->h, m->hidden);
    tn_op_linear router = {.size = sizeof router, .in = b->h, .nparts = 1};
    router.part[0] = (tn_part){.out = b->scores, .bias = TN_NONE};
    router.part[0].w = fx_matrix(f, TN_ROLE_ROUTER, m->nexpert, m->hidden, TN_FORM_F16, 0, 0);
    fx_op(f, TN_OP_LINEAR, &router, "router");
    tn_op_route route = {.size = sizeof route, .in = b->scores, .ids = b->ids,
                         .weights = b->weights, .nexpert = m->nexpert, .ntop = m->ntop,
                         .kind = TN_ROUTE_SOFTMAX, .renorm = 1, .bias = TN_NONE, .scale = 1};
    fx_op(f, TN_OP_ROUTE, &route, "route");
    tn_op_experts e = {.size = sizeof e, .in = b->h, .ids = b->ids, .weights = b->weights,
                       .out = b->x, .add = 1, .nexpert = m->nexpert, .ntop = m->ntop,
                       .width = m->ffn, .act = TN_ACT_SILU};
    e.w_up = fx_stack(f, TN_ROLE_EXPERTS, m->nexpert, 2 * (uint64_t)m->ffn, m->hidden, m->form,
                      m->group, m->flags);
    e.w_down = fx_stack(f, TN_ROLE_EXPERTS, m->nexpert, m->hidden, m->ffn, m->form, m->group,
                        m->flags);
    fx_op(f, TN_OP_EXPERTS, &e, "experts");
}

static void add_head(fixture *f, const fx_llama *m, const names *b, uint32_t weight)
{
    tn_op_pick pick = {.size = sizeof pick, .in = b->x, .out = b->xo, .width = m->hidden};
    fx_op(f, TN_OP_PICK, &pick, "pick");
    add_norm(f, b->xo, b->ho, m->hidden);
    tn_op_linear head = {.size = sizeof head, .in = b->ho, .nparts = 1};
    head.part[0] = (tn_part){.w = weight, .bias = TN_NONE, .out = b->logits};
    fx_op(f, TN_OP_LINEAR, &head, "head");
    tn_op_logits logits = {.size = sizeof logits, .x = b->logits, .vocab = m->vocab,
                           .valid = m->vocab};
    fx_op(f, TN_OP_LOGITS, &logits, "logits");
    tn_op_sample sample = {.size = sizeof sample, .x = b->logits, .vocab = m->vocab};
    fx_op(f, TN_OP_SAMPLE, &sample, "sample");
}

void fx_build_llama(fixture *f, const fx_llama *m)
{
    uint32_t nq = m->q_heads * m->dim, nkv = m->kv_heads * m->dim;
    names b = {.x = fx_buffer(f, TN_ROWS_TOKENS, m->hidden, "x")};
    b.h = fx_buffer(f, TN_ROWS_TOKENS, m->hidden, "h");
    b.qkv = fx_buffer(f, TN_ROWS_TOKENS, nq + 2 * nkv, "qkv");
    b.att = fx_buffer(f, TN_ROWS_TOKENS, nq, "att");
    if (m->nexpert > 0) {
        b.scores = fx_buffer(f, TN_ROWS_TOKENS, m->nexpert, "scores");
        b.ids = fx_ids(f, TN_ROWS_TOKENS, m->ntop, "ids");
        b.weights = fx_buffer(f, TN_ROWS_TOKENS, m->ntop, "weights");
    } else {
        b.gu = fx_buffer(f, TN_ROWS_TOKENS, 2 * m->ffn, "gu");
        b.ff = fx_buffer(f, TN_ROWS_TOKENS, m->ffn, "ff");
    }
    b.xo = fx_buffer(f, TN_ROWS_OUTS, m->hidden, "xo");
    b.ho = fx_buffer(f, TN_ROWS_OUTS, m->hidden, "ho");
    b.logits = fx_buffer(f, TN_ROWS_OUTS, m->vocab, "logits");
    b.rope = fx_rope(f, m->dim, m->pairs ? TN_ROPE_PAIRS : TN_ROPE_HALF, m->context, 10000);
    f->recipe.vocab = m->vocab;
    uint32_t embed = fx_matrix(f, TN_ROLE_EMBED, m->vocab, m->hidden, m->head_form, m->group,
                               m->flags & ~FX_PERM & ~FX_PADDING);
    f->weight[embed].requant = m->head_requant;
    uint32_t head = embed;
    if (m->untied)
        head = fx_matrix(f, TN_ROLE_HEAD, m->vocab, m->hidden, m->head_form, m->group,
                         m->flags & ~FX_PERM & ~FX_PADDING);
    else
        f->weight[embed].flags = TN_WEIGHT_TIED;
    tn_op_embed op = {.size = sizeof op, .w = embed, .out = b.x, .scale = 1};
    fx_op(f, TN_OP_EMBED, &op, "embed");
    for (uint32_t i = 0; i < m->layers; i++) {
        add_attention(f, m, &b);
        if (m->nexpert > 0)
            add_experts(f, m, &b);
        else
            add_mlp(f, m, &b);
    }
    add_head(f, m, &b, head);
    fx_section(f);
}

/* -------------------------------------------------------------------------------- a device */

static void host_log(void *ctx, uint32_t level, const char *text)
{
    fx_device *d = ctx;
    if (level == TN_LOG_ERROR)
        fprintf(stderr, "%s\n", text);
    if (level <= TN_LOG_WARN) {
        d->nwarning++;
        snprintf(d->warning, sizeof d->warning, "%s", text);
    }
}

static uint32_t host_metric(void *ctx, uint32_t type, const char *name, const char *help,
                            const char *labels, const double *bounds, uint32_t nbound)
{
    fx_device *d = ctx;
    (void)type;
    (void)help;
    (void)bounds;
    (void)nbound;
    if (d->nmetric == FX_METRICS)
        return TN_NONE;
    snprintf(d->metric[d->nmetric], sizeof d->metric[0], "%s{%s}", name, labels);
    return d->nmetric++;
}

static void host_metric_put(void *ctx, uint32_t id, double value)
{
    fx_device *d = ctx;
    if (id < d->nmetric)
        d->value[id] += value;
}

double fx_metric(const fx_device *d, const char *name)
{
    for (uint32_t i = 0; i < d->nmetric; i++)
        if (strcmp(d->metric[i], name) == 0)
            return d->value[i];
    return NAN;
}

static void *host_alloc(void *ctx, uint64_t size)
{
    fx_device *d = ctx;
    uint64_t n = __atomic_add_fetch(&d->allocations, 1, __ATOMIC_RELAXED);
    if (n == d->fail_at)
        return NULL;
    __atomic_add_fetch(&d->live, 1, __ATOMIC_RELAXED);
    return aligned_alloc(64, (size + 63) / 64 * 64 + 64);
}

static void host_release(void *ctx, void *p)
{
    fx_device *d = ctx;
    if (p != NULL)
        __atomic_sub_fetch(&d->live, 1, __ATOMIC_RELAXED);
    free(p);
}

static const tn_option *find_option(const fx_device *d, const char *key)
{
    for (uint32_t i = 0; i < d->plugin->noption; i++)
        if (strcmp(d->plugin->options[i].key, key) == 0)
            return &d->plugin->options[i];
    fprintf(stderr, "fixture: option %s is not declared\n", key);
    abort();
}

static int64_t host_opt_int(void *ctx, const char *key)
{
    const fx_device *d = ctx;
    const tn_option *o = find_option(d, key);
    if (strcmp(key, "threads") == 0)
        return d->threads;
    return o->type == TN_OPT_BOOL ? strcmp(o->fallback, "yes") == 0 : strtol(o->fallback, NULL, 10);
}

static const char *host_opt_text(void *ctx, const char *key)
{
    const fx_device *d = ctx;
    const tn_option *o = find_option(d, key);
    if (strcmp(key, "delta") == 0 && d->delta != NULL)
        return d->delta;
    return strcmp(key, "isa") == 0 && d->isa != NULL ? d->isa : o->fallback;
}

static uint64_t host_clock(void *ctx)
{
    struct timespec t;
    (void)ctx;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

tn_status fx_device_try(fx_device *d, const tn_plugin *plugin, int64_t threads, const char *isa,
                        tn_err *err)
{
    *d = (fx_device){.plugin = plugin, .table = plugin->table, .threads = threads, .isa = isa,
                     .fail_at = d->fail_at, .mapped_kib = d->mapped_kib, .delta = d->delta};
    d->host = (tn_host){.size = sizeof d->host, .ctx = d, .log = host_log, .alloc = host_alloc,
                        .release = host_release, .opt_int = host_opt_int,
                        .opt_text = host_opt_text, .clock = host_clock,
                        .metric = host_metric, .metric_put = host_metric_put};
    tn_status st = plugin->init(&d->host, &d->self, err);
    if (st != TN_OK)
        return st;
    st = plugin->start(d->self, err);
    if (st == TN_OK)
        st = d->table->open(d->self, 0, &d->dev, err);
    if (st != TN_OK)
        plugin->stop(d->self);
    return st;
}

static void must(tn_status st, const tn_err *err)
{
    if (st == TN_OK)
        return;
    fprintf(stderr, "fixture: %s\n", err->text);
    abort();
}

void fx_device_open(fx_device *d, const tn_plugin *plugin, int64_t threads, const char *isa)
{
    tn_err err;
    d->fail_at = 0;
    must(fx_device_try(d, plugin, threads, isa, &err), &err);
}

void fx_device_close(fx_device *d)
{
    d->table->close(d->dev);
    d->plugin->stop(d->self);
}

tn_status fx_program_try(fx_device *d, fixture *f, const tn_limits *l, uint32_t nblock,
                         uint32_t nslot, void **program, tn_err *err)
{
    tn_need need;
    tn_pools pools = {.size = sizeof pools, .nblock = nblock, .nslot = nslot,
                      .mapped_kib = d->mapped_kib};
    tn_status st = d->table->compile(d->dev, &f->recipe, l, program, &need, err);
    if (st != TN_OK)
        return st;
    st = d->table->reserve(*program, &pools, err);
    for (uint32_t i = 0; st == TN_OK && i < f->recipe.nweight; i++) {
        tn_reader reader = fx_reader(f, i);
        st = d->table->pack(*program, i, &reader, err);
    }
    if (st != TN_OK)
        d->table->release(*program);
    return st;
}

void *fx_program(fx_device *d, fixture *f, const tn_limits *l, uint32_t nblock, uint32_t nslot)
{
    void *program;
    tn_err err;
    must(fx_program_try(d, f, l, nblock, nslot, &program, &err), &err);
    return program;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* dummy.c - the numbers of a model that has a config.json and no files. */
#include "dummy.h"

#include "floats.h"

#include <math.h>
#include <string.h>

/* ------------------------------------------------------------------ what is quantized, how */

/* The first of `names` in `o` that is an integer. */
static const tn_json *int_of(const tn_json *o, const char *const *names)
{
    for (; *names != NULL; names++) {
        const tn_json *v = tn_json_find(o, *names);
        if (v != NULL && v->type == TN_JSON_INT)
            return v;
    }
    return NULL;
}

static bool is(const tn_json *o, const char *key, uint32_t type)
{
    const tn_json *v = tn_json_find(o, key);
    return v != NULL && v->type == type;
}

/* Where the scheme is written: in the object itself, or in the first group's `weights`. */
static const tn_json *scheme_of(const tn_json *quant)
{
    const tn_json *groups = tn_json_find(quant, "config_groups");
    if (groups == NULL || groups->type != TN_JSON_OBJECT || groups->child == NULL)
        return quant;
    const tn_json *weights = tn_json_find(groups->child, "weights");
    return weights != NULL ? weights : quant;
}

static uint32_t role_of(const tn_model_conf *c)
{
    for (uint32_t i = 0; i < c->layers; i++)
        if (c->mlp[i] == TN_MLP_EXPERTS)
            return TN_ROLE_EXPERTS;
    return TN_ROLE_DENSE;
}

static tn_status read_scheme(const tn_view *v, tn_dummy *d, tn_err *err)
{
    static const char *const bits_names[] = {"bits", "w_bit", "num_bits", NULL};
    static const char *const group_names[] = {"group_size", "q_group_size", NULL};
    const tn_json *s = scheme_of(v->quant), *bits = int_of(s, bits_names);
    const tn_json *group = int_of(s, group_names);
    if (bits == NULL || bits->i < 2 || bits->i > 8)
        return tn_fail(err, TN_DATA, "model %s: %s: bits: missing or outside 2 .. 8; expected it "
                       "for a dummy of a quantized model", v->dir, v->quant_file);
    if (group != NULL && group->i != -1 && (group->i < 1 || group->i > 1 << 20))
        return tn_fail(err, TN_DATA, "model %s: %s: group_size: %lld; expected -1 or 1 .. 1048576",
                       v->dir, v->quant_file, (long long)group->i);
    d->bits = (uint32_t)bits->i;
    d->coded = d->bits <= 4 ? TN_FORM_W4G : TN_FORM_W8G;
    d->group = group != NULL && group->i > 0 ? (uint32_t)group->i : 0;
    d->zeros = is(s, "zero_point", TN_JSON_TRUE) || is(s, "sym", TN_JSON_FALSE) ||
               is(s, "symmetric", TN_JSON_FALSE);
    return TN_OK;
}

tn_status tn_dummy_open(const tn_view *v, const tn_model_conf *c, tn_dummy *out, tn_err *err)
{
    tn_dummy d = {.role = role_of(c), .layers = c->layers, .tied = c->tied,
                  .norm_offset = c->norm_offset};
    d.plain = c->dtype == TN_F32 ? TN_FORM_F32 : c->dtype == TN_F16 ? TN_FORM_F16 : TN_FORM_BF16;
    tn_status st = v->quant != NULL ? read_scheme(v, &d, err) : TN_OK;
    if (st == TN_OK)
        *out = d;
    return st;
}

tn_status tn_dummy_form(const tn_dummy *d, uint32_t role, const tn_slice *p, uint64_t col0,
                        uint64_t col1, tn_form *out, tn_err *err)
{
    tn_form f = {.size = sizeof f, .kind = d->plain, .rows = p->n, .cols = col1 - col0};
    f.bits = d->plain == TN_FORM_F32 ? 32 : 16;
    if (d->coded != 0 && role == d->role && !p->bare) {
        f.kind = d->coded;
        f.bits = d->bits;
        f.group = d->group != 0 ? d->group : (uint32_t)f.cols;
        f.flags = d->zeros ? TN_FORM_ZEROS : 0;
        if (f.cols % f.group != 0 || f.cols % 2 != 0)
            return tn_fail(err, TN_DATA, "module %s: %llu columns do not divide into groups of %u; "
                           "expected a group_size that fits, for a dummy", p->module,
                           (unsigned long long)f.cols, f.group);
        f.file_bytes = p->n * (f.cols / f.group) * 2;
    }
    f.file_bytes += p->n * f.cols * f.bits / 8;
    *out = f;
    return TN_OK;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* ---------------------------------------------------------------------------- random bits */

/* The counter-based generator: Vigna's SplitMix64 at place `i` of stream `seed`. */
static inline uint64_t bits_at(uint64_t seed, uint64_t i)
{
    uint64_t x = seed + (i + 1) * UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
    return x ^ x >> 31;
}

static uint64_t seed_of(const tn_slice *p, uint64_t col0)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (const char *s = p->module; *s != 0; s++)
        h = (h ^ (uint8_t)*s) * UINT64_C(0x100000001b3);
    return bits_at(h, col0);
}

/* In [0, 1). */
static double uniform_at(uint64_t seed, uint64_t i)
{
    return (double)(bits_at(seed, i) >> 11) * 0x1p-53;
}

/* ------------------------------------------------------------------------------- matrices */

#define LEVELS 511u         /* of a sum of two bytes: 0 .. 510, a triangle around 255 */
#define LEVELS_STD 104.51   /* sqrt(2 * (256^2 - 1) / 12) */
#define CODE4_STD 3.2404    /* of 1 + two numbers of 3 bits */
#define CODE8_STD 52.255    /* of 1 + two numbers of 7 bits */

static void put_plain(uint32_t kind, float x, void *to)
{
    uint16_t h = kind == TN_FORM_F16 ? tn_f32_to_f16(x) : tn_f32_to_bf16(x);
    if (kind == TN_FORM_F32)
        memcpy(to, &x, sizeof x);
    else
        memcpy(to, &h, sizeof h);
}

/* Four values of one draw: each from a sum of two bytes, looked up. */
static void plain_row(const uint8_t *level, uint64_t size, uint64_t seed, uint64_t n, uint8_t *to)
{
    for (uint64_t j = 0; j < n; j += 4) {
        uint64_t r = bits_at(seed, j / 4);
        uint64_t sum = (r & UINT64_C(0x00ff00ff00ff00ff)) + (r >> 8 & UINT64_C(0x00ff00ff00ff00ff));
        for (uint64_t i = j; i < j + 4 && i < n; i++, sum >>= 16)
            memcpy(to + i * size, level + (sum & 0xffffu) * size, size);
    }
}

/* Of a whole row's numbers, as a length: 1 where a normed input shall give a normed output. What
 * is added to the residual is damped by the number of such additions, so that a token's own
 * embedding, of deviation 1, still counts behind the last layer: else all rows choose alike. A
 * tied embedding is a head as well and stays short, or every token would foretell itself. */
static double gain_of(const tn_dummy *d, const tn_slice *p)
{
    static const char *const adds[] = {".o_proj", ".out_proj", ".down_proj", ".w2"};
    for (size_t i = 0; i < sizeof adds / sizeof adds[0]; i++)
        if (ends_with(p->module, adds[i]))
            return 1 / sqrt(2.0 * d->layers);
    return !d->tied && ends_with(p->module, "embed_tokens") ? sqrt((double)p->k) : 1;
}

static void plain_rows(const tn_form *f, double gain, uint64_t seed, uint64_t row0, uint64_t row1,
                       uint8_t *to)
{
    uint8_t level[LEVELS * 4];
    uint64_t size = f->kind == TN_FORM_F32 ? 4 : 2;
    double step = gain / (LEVELS_STD * sqrt((double)f->cols));
    for (uint32_t i = 0; i < LEVELS; i++)
        put_plain(f->kind, (float)(((double)i - 255) * step), level + i * size);
    for (uint64_t r = row0; r < row1; r++, to += f->cols * size)
        plain_row(level, size, bits_at(seed, r), f->cols, to);
}

/* Codes gather around the middle and never lean to a side: 1 .. 15 around 8, 1 .. 255 around
 * 128. Sixteen, or eight, of one pair of draws. */
static void code_row(uint32_t kind, uint64_t seed, uint64_t size, uint8_t *to)
{
    uint64_t mask = kind == TN_FORM_W4G ? UINT64_C(0x7777777777777777)
                                        : UINT64_C(0x7f7f7f7f7f7f7f7f);
    uint64_t one = kind == TN_FORM_W4G ? UINT64_C(0x1111111111111111)
                                       : UINT64_C(0x0101010101010101);
    for (uint64_t j = 0; j < size; j += 8) {
        uint64_t a = bits_at(seed, j / 8), b = (a ^ seed) * UINT64_C(0xD6E8FEB86659FD93);
        uint64_t codes = (a & mask) + ((b ^ b >> 32) & mask) + one;
        memcpy(to + j, &codes, size - j < 8 ? (size_t)(size - j) : 8);
    }
}

/* Zero points lean as often to one side as to the other. */
static uint8_t zero_at(uint32_t kind, uint64_t seed, uint64_t g)
{
    return (uint8_t)((kind == TN_FORM_W4G ? 7u : 127u) + bits_at(~seed, g) % 3);
}

/* Scales vary by a quarter and have 16 bits, as in files. */
static float scale_at(const tn_dummy *d, float middle, uint64_t seed, uint64_t g)
{
    float s = middle * (float)(0.75 + 0.5 * uniform_at(seed, UINT64_MAX / 2 + g));
    return d->plain == TN_FORM_F16 ? tn_f16_to_f32(tn_f32_to_f16(s))
                                   : tn_bf16_to_f32(tn_f32_to_bf16(s));
}

static void coded_rows(const tn_dummy *d, const tn_form *f, double gain, uint64_t seed,
                       uint64_t row0, uint64_t row1, const tn_block *out)
{
    uint64_t size = f->kind == TN_FORM_W4G ? f->cols / 2 : f->cols, ngroup = f->cols / f->group;
    double std = f->kind == TN_FORM_W4G ? CODE4_STD : CODE8_STD;
    float middle = (float)(gain / (std * sqrt((double)f->cols)));
    for (uint64_t r = row0; r < row1; r++) {
        uint64_t row = bits_at(seed, r), at = r - row0;
        if (out->codes != NULL)
            code_row(f->kind, row, size, (uint8_t *)out->codes + at * size);
        for (uint64_t g = 0; g < ngroup && out->scale != NULL; g++)
            out->scale[at * ngroup + g] = scale_at(d, middle, row, g);
        for (uint64_t g = 0; g < ngroup && out->zero != NULL; g++)
            out->zero[at * ngroup + g] = d->zeros ? zero_at(f->kind, row, g)
                                         : f->kind == TN_FORM_W4G ? 8 : 128;
    }
    for (uint64_t j = 0; j < f->cols && out->perm != NULL; j++)
        out->perm[j] = (int32_t)j;
}

/* -------------------------------------------------------------------------------- vectors */

/* A decays by exp(A_log) = 1 .. 16 a unit of softplus(dt), which begins at 0.001 .. 0.1, as
 * such layers are initialised; convolutions keep the size of what runs through them. */
static float vector_value(const tn_dummy *d, const char *name, double u)
{
    if (ends_with(name, ".A_log"))
        return (float)log(1 + 15 * u);
    if (ends_with(name, ".dt_bias"))
        return (float)log(expm1(0.001 * pow(100, u)));
    if (ends_with(name, ".conv1d.weight"))
        return (float)(1.7 * u - 0.85);
    if (ends_with(name, ".bias"))
        return (float)(0.1 * u - 0.05);
    return ends_with(name, ".linear_attn.norm.weight") ? 1 : 1 - d->norm_offset;
}

static void vector_rows(const tn_dummy *d, const tn_form *f, const tn_slice *p, uint64_t row0,
                        uint64_t row1, uint8_t *to)
{
    uint64_t size = f->kind == TN_FORM_F32 ? 4 : 2, seed = seed_of(p, 0);
    for (uint64_t i = row0 * f->cols; i < row1 * f->cols; i++, to += size)
        put_plain(f->kind, vector_value(d, p->module, uniform_at(seed, i)), to);
}

void tn_dummy_rows(const tn_dummy *d, const tn_form *f, const tn_slice *p, uint64_t col0,
                   uint64_t row0, uint64_t row1, tn_block *out)
{
    if (f->kind == TN_FORM_W4G || f->kind == TN_FORM_W8G)
        coded_rows(d, f, gain_of(d, p), seed_of(p, col0), row0, row1, out);
    else if (out->codes != NULL && p->bare)
        vector_rows(d, f, p, row0, row1, out->codes);
    else if (out->codes != NULL)
        plain_rows(f, gain_of(d, p), seed_of(p, col0), row0, row1, out->codes);
}

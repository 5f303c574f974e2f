/* SPDX-License-Identifier: Apache-2.0 */
/* level_scalar.c - every kernel in plain C: the specification of the other levels, and what
 * runs on a processor that has none of them.
 *
 * Written to be read. Sums run in the order the header promises; integer sums are exact. */
#include "kernel.h"
#include "half16.h"

#include <math.h>

/* --------------------------------------------------------------------- activations */

static float gathered(const float *x, uint64_t k, const int32_t *perm, uint64_t j)
{
    if (perm == NULL)
        return j < k ? x[j] : 0.0f;
    return perm[j] >= 0 ? x[perm[j]] : 0.0f;
}

/* int8 with one scale a block. A block that holds a NaN or an infinity gets a NaN scale and
 * so makes its whole row NaN. Blocks of numbers too small to invert are scaled up first. */
static void quantize_block(const float *x, int8_t *q, float *scale, float *sum)
{
    float top = 0.0f;
    bool finite = true;
    for (uint32_t c = 0; c < CPU_BLOCK; c++) {
        finite = finite && isfinite(x[c]);
        top = fmaxf(top, fabsf(x[c]));
    }
    float lift = top < 0x1p-100f ? 0x1p64f : 1.0f;
    float inverse = top > 0.0f && finite ? 127.0f / (top * lift) : 0.0f;
    int32_t total = 0;
    for (uint32_t c = 0; c < CPU_BLOCK; c++) {
        q[c] = finite ? (int8_t)lrintf(x[c] * lift * inverse) : 0;
        total += q[c];
    }
    *scale = finite ? top / 127.0f : NAN;
    *sum = (float)total;
}

static void scalar_prepare(cpu_act *a, const float *x, uint64_t ldx, uint64_t k,
                           const int32_t *perm, uint32_t row0, uint32_t row1, bool quant)
{
    uint64_t nblock = a->cols / CPU_BLOCK;
    for (uint64_t i = row0; i < row1; i++)
        for (uint64_t b = 0; b < nblock; b++) {
            float v[CPU_BLOCK];
            for (uint32_t c = 0; c < CPU_BLOCK; c++)
                v[c] = gathered(x + i * ldx, k, perm, b * CPU_BLOCK + c);
            if (quant)
                quantize_block(v, a->q + i * a->cols + b * CPU_BLOCK,
                               a->scale + i * nblock + b, a->sum + i * nblock + b);
            else
                memcpy(a->x + i * a->cols + b * CPU_BLOCK, v, sizeof v);
        }
}

/* ------------------------------------------------------------------------ matrices */

static float load_float(const void *p, uint32_t dtype, uint64_t i)
{
    if (dtype == TN_F32)
        return ((const float *)p)[i];
    uint16_t h = ((const uint16_t *)p)[i];
    return dtype == TN_F16 ? half_from_f16(h) : half_from_bf16(h);
}

static uint32_t plain_dtype(uint32_t kind)
{
    return kind == TN_FORM_F32 ? TN_F32 : kind == TN_FORM_F16 ? TN_F16 : TN_BF16;
}

static bool is_coded(uint32_t kind)
{
    return kind == TN_FORM_W4G || kind == TN_FORM_W8G;
}

/* Block b of a strip of codes, unpacked. */
typedef struct block {
    uint8_t code[CPU_BLOCK][CPU_STRIP];
    float scale[CPU_STRIP];
    int32_t zero[CPU_STRIP];
} block;

static void block_open(const cpu_matrix *w, const uint8_t *strip, uint64_t b, block *out)
{
    uint64_t g = b * CPU_BLOCK / w->group;
    int32_t middle = w->kind == TN_FORM_W4G ? 8 : 128;
    for (uint32_t r = 0; r < CPU_STRIP; r++) {
        out->scale[r] = load_float(strip, w->scale_kind, g * CPU_STRIP + r);
        out->zero[r] = w->zeros ? strip[w->zero_at + g * CPU_STRIP + r] : middle;
    }
    if (w->kind == TN_FORM_W8G) {
        const uint8_t *p = strip + w->code_at + b * 512;
        for (uint32_t c = 0; c < CPU_BLOCK; c++)
            for (uint32_t r = 0; r < CPU_STRIP; r++)
                out->code[c][r] = p[c / 4 * 64 + r * 4 + c % 4];
        return;
    }
    const uint8_t *p = strip + w->code_at + b * 256;
    for (uint32_t c = 0; c < 16; c++)
        for (uint32_t r = 0; r < CPU_STRIP; r++) {
            uint8_t two = p[c / 4 * 64 + r * 4 + c % 4];
            out->code[c][r] = two & 15;
            out->code[c + 16][r] = two >> 4;
        }
}

static void add_quant(const block *k, const cpu_act *a, uint64_t i, uint64_t b, float *sum)
{
    const int8_t *q = a->q + i * a->cols + b * CPU_BLOCK;
    float sx = a->scale[i * (a->cols / CPU_BLOCK) + b];
    int32_t total = (int32_t)a->sum[i * (a->cols / CPU_BLOCK) + b];
    int32_t dot[CPU_STRIP] = {0};
    for (uint32_t c = 0; c < CPU_BLOCK; c++)
        for (uint32_t r = 0; r < CPU_STRIP; r++)
            dot[r] += k->code[c][r] * q[c];
    for (uint32_t r = 0; r < CPU_STRIP; r++)
        sum[r] += (float)(dot[r] - k->zero[r] * total) * sx * k->scale[r];
}

static void add_exact(const block *k, const cpu_act *a, uint64_t i, uint64_t b, float *sum)
{
    const float *x = a->x + i * a->cols + b * CPU_BLOCK;
    float dot[CPU_STRIP] = {0};
    for (uint32_t c = 0; c < CPU_BLOCK; c++)
        for (uint32_t r = 0; r < CPU_STRIP; r++)
            dot[r] += (float)(k->code[c][r] - k->zero[r]) * x[c];
    for (uint32_t r = 0; r < CPU_STRIP; r++)
        sum[r] += dot[r] * k->scale[r];
}

static void add_plain(const cpu_matrix *w, const uint8_t *strip, const cpu_act *a, uint64_t i,
                      float *sum)
{
    const float *x = a->x + i * a->cols;
    uint32_t dtype = plain_dtype(w->kind);
    for (uint64_t c = 0; c < w->cols; c++)
        for (uint32_t r = 0; r < CPU_STRIP; r++)
            sum[r] += load_float(strip, dtype, c * CPU_STRIP + r) * x[c];
}

/* As many tokens as share one unpacking of a block. */
#define TOKENS 32u

static void multiply_strip(const cpu_matrix *w, const uint8_t *strip, const cpu_act *a,
                           uint64_t i0, uint64_t ni, bool quant, float sum[][CPU_STRIP])
{
    if (!is_coded(w->kind)) {
        for (uint64_t i = 0; i < ni; i++)
            add_plain(w, strip, a, i0 + i, sum[i]);
        return;
    }
    for (uint64_t b = 0; b < w->cols / CPU_BLOCK; b++) {
        block k;
        block_open(w, strip, b, &k);
        for (uint64_t i = 0; i < ni; i++) {
            if (quant)
                add_quant(&k, a, i0 + i, b, sum[i]);
            else
                add_exact(&k, a, i0 + i, b, sum[i]);
        }
    }
}

static void scalar_multiply(const cpu_matrix *w, const cpu_act *a, uint32_t m, uint64_t strip0,
                            uint64_t strip1, bool quant, float *y, uint64_t ldy, bool add)
{
    for (uint64_t s = strip0; s < strip1; s++) {
        const uint8_t *strip = w->data + s * w->strip_size;
        uint64_t r0 = s * CPU_STRIP, nr = w->n - r0 < CPU_STRIP ? w->n - r0 : CPU_STRIP;
        for (uint64_t i0 = 0; i0 < m; i0 += TOKENS) {
            uint64_t ni = m - i0 < TOKENS ? m - i0 : TOKENS;
            float sum[TOKENS][CPU_STRIP] = {{0}};
            multiply_strip(w, strip, a, i0, ni, quant, sum);
            for (uint64_t i = 0; i < ni; i++)
                for (uint64_t r = 0; r < nr; r++) {
                    float *to = y + (i0 + i) * ldy + r0 + r;
                    *to = add ? *to + sum[i][r] : sum[i][r];
                }
        }
    }
}

/* Shared with the vector levels. */
extern void cpu_scalar_row(const cpu_matrix *w, uint64_t r, float *out);
void cpu_scalar_row(const cpu_matrix *w, uint64_t r, float *out)
{
    const uint8_t *strip = w->data + r / CPU_STRIP * w->strip_size;
    uint32_t lane = (uint32_t)(r % CPU_STRIP);
    for (uint64_t j = 0; j < w->cols; j++) {
        block k;
        float v;
        if (!is_coded(w->kind)) {
            v = load_float(strip, plain_dtype(w->kind), j * CPU_STRIP + lane);
        } else {
            uint32_t c = (uint32_t)(j % CPU_BLOCK);
            if (c == 0)
                block_open(w, strip, j / CPU_BLOCK, &k);
            v = (float)(k.code[c][lane] - k.zero[lane]) * k.scale[lane];
        }
        if (w->perm == NULL && j < w->k)
            out[j] = v;
        else if (w->perm != NULL && w->perm[j] >= 0)
            out[w->perm[j]] = v;
    }
}

/* ------------------------------------------------------------------------- vectors */

static void scalar_norm(const float *x, const float *w, float offset, float eps, uint32_t n,
                        float *out)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    float factor = (float)(1.0 / sqrt(sum / (double)n + (double)eps));
    for (uint32_t i = 0; i < n; i++)
        out[i] = x[i] * factor * (w != NULL ? w[i] + offset : 1.0f);
}

static float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

static float activation(float x, uint32_t act)
{
    if (act == TN_ACT_SILU)
        return x / (1.0f + expf(-x));
    if (act == TN_ACT_GELU)                /* erfc keeps the left tail's digits */
        return 0.5f * x * erfcf(-x * 0.70710678f);
    if (act == TN_ACT_GELU_TANH)           /* (1 + tanh u) / 2 = sigmoid(2u) */
        return x * sigmoid(1.59576912f * (x + 0.044715f * x * x * x));
    return sigmoid(x);
}

static void scalar_act_mul(const float *a, const float *b, uint32_t act, uint32_t n, float *out)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = activation(a[i], act) * b[i];
}

static void scalar_add(float *x, const float *y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        x[i] += y[i];
}

static void scalar_mul_sigmoid(float *x, const float *gate, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        x[i] *= sigmoid(gate[i]);
}

static void scalar_rope(float *x, const float *cos, const float *sin, uint32_t dims,
                        uint32_t pairing)
{
    uint32_t half = dims / 2;
    for (uint32_t i = 0; i < half; i++) {
        float *p = pairing == TN_ROPE_HALF ? x + i : x + 2 * i;
        float *q = pairing == TN_ROPE_HALF ? x + half + i : x + 2 * i + 1;
        float a = *p, b = *q;
        *p = a * cos[i] - b * sin[i];
        *q = b * cos[i] + a * sin[i];
    }
}

static void scalar_to_f16(const float *x, uint32_t n, uint16_t *out)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = half_to_f16(x[i]);
}

static void scalar_to_bf16(const float *x, uint32_t n, uint16_t *out)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = half_to_bf16(x[i]);
}

static float scalar_max(const float *x, uint32_t n, uint32_t *at)
{
    float top = -INFINITY;
    *at = 0;
    for (uint32_t i = 0; i < n; i++)
        if (x[i] > top) {
            top = x[i];
            *at = i;
        }
    return top;
}

static double scalar_sum_exp(const float *x, float max, uint32_t n)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)expf(x[i] - max);
    return sum;
}

static bool scalar_finite(const float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!(x[i] < INFINITY))
            return false;
    return true;
}

static uint64_t scalar_read(const void *p, size_t size)
{
    const uint8_t *b = p;
    uint64_t sum = 0, word;
    for (; size >= sizeof word; size -= sizeof word, b += sizeof word) {
        memcpy(&word, b, sizeof word);
        sum += word;
    }
    while (size-- > 0)
        sum += *b++;
    return sum;
}

/* ----------------------------------------------------------------------- attention */

static float score(const cpu_attend *a, uint32_t dtype, uint32_t i, uint32_t t)
{
    const float *q = a->q + (size_t)i * a->dim;
    float s = 0.0f;
    for (uint32_t d = 0; d < a->dim; d++)
        s += q[d] * load_float(a->k, dtype, ((uint64_t)t / CPU_STRIP * a->dim + d) * CPU_STRIP +
                                            t % CPU_STRIP);
    s *= a->scale;
    return a->softcap > 0.0f ? a->softcap * tanhf(s / a->softcap) : s;
}

/* Tokens are taken in order, 16 at a time: the maximum is raised once for each 16. */
#define PIECE 16

static void attend_piece(const cpu_attend *a, uint32_t dtype, uint32_t i, int32_t t0, int32_t t1)
{
    float s[PIECE], top = a->m[i];
    for (int32_t t = t0; t < t1; t++) {
        s[t - t0] = score(a, dtype, i, (uint32_t)t);
        top = fmaxf(top, s[t - t0]);
    }
    float *acc = a->acc + (size_t)i * a->dim;
    float keep = top > -INFINITY ? expf(a->m[i] - top) : 1.0f;
    a->m[i] = top;
    a->l[i] *= keep;
    for (uint32_t d = 0; d < a->dim; d++)
        acc[d] *= keep;
    for (int32_t t = t0; t < t1; t++) {
        float p = expf(s[t - t0] - (top > -INFINITY ? top : 0.0f));
        a->l[i] += p;
        for (uint32_t d = 0; d < a->dim; d++)
            acc[d] += p * load_float(a->v, dtype, (uint64_t)t * a->dim + d);
    }
}

static void attend(const cpu_attend *a, uint32_t dtype)
{
    for (uint32_t i = 0; i < a->nquery; i++)
        for (int32_t t0 = 0; t0 < a->limit[i]; t0 += PIECE) {
            int32_t from = t0 > a->first[i] ? t0 : a->first[i];
            int32_t to = t0 + PIECE < a->limit[i] ? t0 + PIECE : a->limit[i];
            if (from < to)
                attend_piece(a, dtype, i, from, to);
        }
}

static void scalar_attend_f32(const cpu_attend *a)
{
    attend(a, TN_F32);
}

static void scalar_attend_f16(const cpu_attend *a)
{
    attend(a, TN_F16);
}

static void scalar_attend_bf16(const cpu_attend *a)
{
    attend(a, TN_BF16);
}

/* ------------------------------------------------------------------------ delta rule */

static void scalar_rule(const cpu_rule *r)
{
    const uint32_t n = r->cols;
    for (uint32_t j = 0; j < n; j++)
        r->o[j] = 0.0f;
    for (uint32_t i = 0; i < r->rows; i++)
        for (uint32_t j = 0; j < n; j++) {
            float *s = &r->s[(uint64_t)i * n + j];
            *s = r->slow ? *s + *s * r->fade : *s * r->fade;
            r->o[j] += *s * r->k[i];       /* what S knows of k */
        }
    for (uint32_t j = 0; j < n; j++)
        r->o[j] = r->beta * (r->v[j] - r->o[j]);
    for (uint32_t i = 0; i < r->rows; i++)
        for (uint32_t j = 0; j < n; j++)
            r->s[(uint64_t)i * n + j] += r->k[i] * r->o[j];
    for (uint32_t j = 0; j < n; j++)
        r->o[j] = 0.0f;
    for (uint32_t i = 0; i < r->rows; i++)
        for (uint32_t j = 0; j < n; j++)
            r->o[j] += r->s[(uint64_t)i * n + j] * r->q[i];
}

extern const cpu_kernels cpu_level_scalar;
const cpu_kernels cpu_level_scalar = {
    .name = "scalar",
    .prepare = scalar_prepare,
    .multiply = scalar_multiply,
    .row = cpu_scalar_row,
    .norm = scalar_norm,
    .act_mul = scalar_act_mul,
    .add = scalar_add,
    .mul_sigmoid = scalar_mul_sigmoid,
    .rope = scalar_rope,
    .attend_f32 = scalar_attend_f32,
    .attend_f16 = scalar_attend_f16,
    .attend_bf16 = scalar_attend_bf16,
    .rule = scalar_rule,
    .to_f16 = scalar_to_f16,
    .to_bf16 = scalar_to_bf16,
    .max = scalar_max,
    .sum_exp = scalar_sum_exp,
    .finite = scalar_finite,
    .read = scalar_read,
};

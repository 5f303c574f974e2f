/* SPDX-License-Identifier: Apache-2.0 */
/* gptq_scale.c - scales and zero points of some rows, one a form group.
 *
 * The file keeps both along n, a row a group; forms want [rows, groups]. Arithmetic on 16-bit
 * floats is done on their bits, so that a thread that flushes subnormals reads the same. */
#include "gptq.h"

#define ROWS 32u   /* rows turned at a time: their output lines stay in the first cache */

static float from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* `bad` gathers whether any was infinite or not a number. */
static inline float from_f16(uint16_t h, uint32_t *bad)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, rest = h & 0x7fffu;
    *bad |= rest >= 0x7c00u;
    if (rest < 0x0400u) {
        float f = (float)rest * 0x1p-24f;
        return sign != 0 ? -f : f;
    }
    return from_bits(sign | ((rest << 13) + 0x38000000u));
}

static inline float from_f32(uint32_t bits, uint32_t *bad)
{
    *bad |= (bits & 0x7f800000u) == 0x7f800000u;
    return from_bits(bits);
}

static uint32_t convert_run(const tn_tensor *t, uint64_t first, uint64_t count, float *out)
{
    uint32_t bad = 0;
    const uint8_t *p = (const uint8_t *)t->data + first * gptq_dtype_size(t->dtype);
    if (t->dtype == TN_F16)
        for (uint64_t i = 0; i < count; i++)
            out[i] = from_f16(gptq_load16(p + 2 * i), &bad);
    else if (t->dtype == TN_BF16)
        for (uint64_t i = 0; i < count; i++)
            out[i] = from_f32((uint32_t)gptq_load16(p + 2 * i) << 16, &bad);
    else
        for (uint64_t i = 0; i < count; i++)
            out[i] = from_f32(gptq_load32(p + 4 * i), &bad);
    return bad;
}

tn_status gptq_scale_rows(const gptq_linear *l, const gptq_cols *c, uint64_t row0, uint64_t row1,
                          float *out, tn_err *err)
{
    float run[ROWS];
    for (uint64_t r = row0; r < row1; r += ROWS) {
        uint64_t n = row1 - r < ROWS ? row1 - r : ROWS;
        float *to = out + (r - row0) * c->ngroup;
        for (uint64_t i = 0; i < c->ngroup; i++) {
            if (convert_run(&l->scale, c->source[i] * l->n + r, n, run))
                return tn_fail(err, TN_DATA,
                               "%s.scales: group %u holds a scale that is infinite or not a "
                               "number at rows %llu to %llu, wanted finite ones",
                               l->name, c->source[i], (unsigned long long)r,
                               (unsigned long long)(r + n - 1));
            for (uint64_t j = 0; j < n; j++)
                to[j * c->ngroup + i] = run[j];
        }
    }
    return TN_OK;
}

/* ------------------------------------------------------------------------------ zeros */

/* How a stored field becomes the zero point of a form: v1 files store it less one (and 0 as
 * the greatest field), narrow widths sit around the middle of their form. */
typedef struct zero_rule {
    uint32_t mask, add, shift;
} zero_rule;

static zero_rule rule_of(const gptq_linear *l)
{
    uint32_t mask = (1u << l->bits) - 1;
    uint32_t middle = l->bits <= 4 ? 8 : 128;
    return (zero_rule){mask, l->v2 ? 0 : 1, middle - (1u << (l->bits - 1))};
}

/* Fields run on over words; only those of three bits cross from one to the next. */
static inline uint32_t field_at(const uint8_t *words, uint64_t row, uint32_t bits)
{
    uint64_t at = row * bits;
    uint32_t shift = at % 32;
    uint64_t v = gptq_load32(words + at / 32 * 4);
    if (shift + bits > 32)
        v |= (uint64_t)gptq_load32(words + at / 32 * 4 + 4) << 32;
    return (uint32_t)(v >> shift);
}

static inline uint8_t zero_of(const zero_rule *z, uint32_t field)
{
    return (uint8_t)(((field + z->add) & z->mask) + z->shift);
}

static const uint8_t *group_words(const gptq_linear *l, uint32_t group)
{
    return (const uint8_t *)l->zero.data + (uint64_t)group * l->zero.dim[1] * 4;
}

void gptq_zero_rows(const gptq_linear *l, const gptq_cols *c, uint64_t row0, uint64_t row1,
                    uint8_t *out)
{
    zero_rule z = rule_of(l);
    for (uint64_t r = row0; r < row1; r += ROWS) {
        uint64_t n = row1 - r < ROWS ? row1 - r : ROWS;
        uint8_t *to = out + (r - row0) * c->ngroup;
        for (uint64_t i = 0; i < c->ngroup; i++) {
            const uint8_t *words = group_words(l, c->source[i]);
            for (uint64_t j = 0; j < n; j++)
                to[j * c->ngroup + i] = zero_of(&z, field_at(words, r + j, l->bits));
        }
    }
}

/* The field in every place of a word; for widths that divide 32. */
static uint32_t repeat(uint32_t field, uint32_t bits)
{
    for (uint32_t at = bits; at < 32; at *= 2)
        field |= field << at;
    return field;
}

/* Is some field of the word all ones? */
static bool has_full_field(uint32_t word, uint32_t bits)
{
    for (uint32_t at = 1; at < bits; at *= 2)
        word &= word >> at;
    return (word & repeat(1, bits)) != 0;
}

bool gptq_zero_differs(const gptq_linear *l, const gptq_cols *c, uint64_t row0, uint64_t row1,
                       bool *wrapped)
{
    zero_rule z = rule_of(l);
    uint8_t middle = l->bits <= 4 ? 8 : 128;
    uint32_t per = l->bits == 3 ? TN_NONE : 32 / l->bits;   /* no whole word at 3 bits */
    uint32_t all_middle = repeat((1u << (l->bits - 1)) - z.add, l->bits);
    bool differs = false;
    *wrapped = false;
    for (uint64_t i = 0; i < c->ngroup; i++) {
        if (i > 0 && c->source[i] == c->source[i - 1])
            continue;
        const uint8_t *words = group_words(l, c->source[i]);
        for (uint64_t r = row0; r < row1;) {
            if (r % per == 0 && r + per <= row1) {
                uint32_t word = gptq_load32(words + r / per * 4);
                differs |= word != all_middle;
                *wrapped |= !l->v2 && has_full_field(word, l->bits);
                r += per;
                continue;
            }
            uint32_t field = field_at(words, r++, l->bits) & z.mask;
            differs |= zero_of(&z, field) != middle;
            *wrapped |= !l->v2 && field == z.mask;
        }
    }
    return differs;
}

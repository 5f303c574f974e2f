/* SPDX-License-Identifier: Apache-2.0 */
/* gptq_unpack.c - codes from the file's words to rows in natural column order.
 *
 * A word holds consecutive columns of one output row, and words of one row stand n apart:
 *
 *   qweight[i][n]:  columns 8i .. 8i + 7 of row n at 4 bits, lowest bits first
 *
 * So unpacking is turning a matrix of words, which is done in square tiles of a cache line a
 * side. Two and three bits are widened to nibbles on the way; they keep their distance from
 * the middle, which makes 2-bit codes 0 .. 3 around 2 the nibbles 6 .. 9 around 8. */
#include "gptq.h"

#define SIDE 16u   /* words of a cache line */

uint64_t gptq_unpack_unit(const gptq_linear *l)
{
    return l->bits == 3 ? 32 : 32 / l->bits;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Sixteen 2-bit fields as sixteen nibbles. */
static inline uint64_t widen_2(uint32_t word)
{
    uint64_t x = word;
    x = (x | x << 16) & 0x0000ffff0000ffffu;
    x = (x | x << 8) & 0x00ff00ff00ff00ffu;
    x = (x | x << 4) & 0x0f0f0f0f0f0f0f0fu;
    x = (x | x << 2) & 0x3333333333333333u;
    return x + 0x6666666666666666u;
}

/* Eight 3-bit fields as eight nibbles. */
static inline uint32_t widen_3(uint32_t fields)
{
    uint32_t x = (fields & 0xfffu) | (fields & 0xfff000u) << 4;
    x = (x & 0x003f003fu) | (x & 0x0fc00fc0u) << 2;
    x = (x & 0x07070707u) | (x & 0x38383838u) << 1;
    return x + 0x44444444u;
}

/* Up to SIDE words of one row, as they follow one another, to codes at `dst`. */
static void put_words(uint32_t bits, const uint32_t *word, uint64_t nword, uint8_t *dst)
{
    if (bits == 2) {
        for (uint64_t i = 0; i < nword; i++) {
            uint64_t x = widen_2(word[i]);
            memcpy(dst + 8 * i, &x, 8);
        }
        return;
    }
    if (bits != 3) {
        memcpy(dst, word, (size_t)nword * 4);
        return;
    }
    for (uint64_t i = 0; i + 3 <= nword; i += 3) {
        uint32_t x[4] = {
            widen_3(word[i] & 0xffffffu),
            widen_3((word[i] >> 24 | word[i + 1] << 8) & 0xffffffu),
            widen_3((word[i + 1] >> 16 | word[i + 2] << 16) & 0xffffffu),
            widen_3(word[i + 2] >> 8),
        };
        memcpy(dst + 16 * (i / 3), x, 16);
    }
}

void gptq_unpack_codes(const gptq_linear *l, uint64_t row0, uint64_t row1, uint64_t col0,
                       uint64_t col1, uint8_t *dst, size_t stride)
{
    uint32_t tile[SIDE][SIDE];
    uint64_t w0 = col0 * l->bits / 32, w1 = col1 * l->bits / 32;
    uint64_t side = l->bits == 3 ? SIDE - 1 : SIDE;   /* whole threes */
    uint64_t per = l->bits == 2 ? 8 : l->bits == 3 ? 16 : 4;   /* bytes a word, or a three */
    const uint8_t *src = l->code.data;
    for (uint64_t r = row0; r < row1; r += SIDE) {
        uint64_t nrow = least(SIDE, row1 - r);
        for (uint64_t w = w0; w < w1; w += side) {
            uint64_t nword = least(side, w1 - w);
            for (uint64_t i = 0; i < nword; i++) {
                const uint8_t *line = src + 4 * ((w + i) * l->n + r);
                if (w + i + side < w1)   /* lines far apart: asked for a tile ahead */
                    __builtin_prefetch(line + 4 * side * l->n);
                for (uint64_t j = 0; j < nrow; j++)
                    tile[j][i] = gptq_load32(line + 4 * j);
            }
            uint64_t at = l->bits == 3 ? (w - w0) / 3 * per : (w - w0) * per;
            for (uint64_t j = 0; j < nrow; j++)
                put_words(l->bits, tile[j], nword, dst + (r - row0 + j) * stride + at);
        }
    }
}

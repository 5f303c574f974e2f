/* SPDX-License-Identifier: Apache-2.0 */
/* awq_unpack.c - codes from the file's words to rows in natural column order.
 *
 * A row leaves as two codes a byte (even column low) for up to four bits, as one code a byte
 * above. Loading a model is as fast as these loops, so they work on words, meet memory a
 * cache line at a time in both directions, and divide nothing.
 *
 *   gemm       k runs down the rows of the file: transposed, in tiles of 128 by 128
 *   gemv       as wanted: copied
 *   gemv_fast  64 columns a chunk, nibbles dealt out over 16 half-words
 *   packed     4 and 8 bits as wanted: copied; other widths: eight codes at a time */
#include "awq.h"

#define TILE_WORDS 16u                /* 8 output columns each */
#define TILE_ROWS (8u * TILE_WORDS)
#define TILE_PAIRS 64u                /* pairs of k: bytes of a tile's row */

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t awq_unpack_unit(const awq_linear *l)
{
    switch (l->layout) {
    case AWQ_GEMM:
        return 2;
    case AWQ_GEMV_FAST:
        return 64;
    default:
        return 8;
    }
}

/* ------------------------------------------------------------------------------- gemm */

/* One step of an 8 by 8 transpose: exchanges the high part of *a with the low of *b. */
static inline void swap_parts(uint64_t *a, uint64_t *b, uint32_t shift, uint64_t low)
{
    uint64_t t = ((*a >> shift) ^ *b) & low;
    *a ^= t << shift;
    *b ^= t;
}

/* Eight rows of eight bytes; byte 0 is the lowest. */
static inline void transpose_bytes(uint64_t v[8])
{
    for (uint32_t i = 0; i < 4; i++)
        swap_parts(&v[i], &v[i + 4], 32, 0x00000000ffffffffu);
    for (uint32_t i = 0; i < 8; i += i % 4 == 1 ? 3 : 1)
        swap_parts(&v[i], &v[i + 2], 16, 0x0000ffff0000ffffu);
    for (uint32_t i = 0; i < 8; i += 2)
        swap_parts(&v[i], &v[i + 1], 8, 0x00ff00ff00ff00ffu);
}

/* Eight pairs of k for the eight columns of one word, as eight bytes of eight rows. Field i
 * of a word is column {0 2 4 6 1 3 5 7}[i], so its low nibbles are columns 0 4 1 5 and its
 * high nibbles 2 6 3 7. */
static inline void gemm_block(const uint8_t *src, size_t row_size, uint8_t *tile)
{
    static const uint32_t column[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    uint64_t v[8];
    for (uint32_t p = 0; p < 8; p++) {
        uint32_t even = awq_load32(src + 2 * p * row_size);
        uint32_t odd = awq_load32(src + (2 * p + 1) * row_size);
        uint32_t lo = (even & 0x0f0f0f0fu) | (odd & 0x0f0f0f0fu) << 4;
        uint32_t hi = (even >> 4 & 0x0f0f0f0fu) | (odd & 0xf0f0f0f0u);
        v[p] = lo | (uint64_t)hi << 32;
    }
    transpose_bytes(v);
    for (uint32_t i = 0; i < 8; i++)
        memcpy(tile + column[i] * TILE_PAIRS, &v[i], 8);
}

/* The last pairs of a tile, fewer than eight, one at a time; `k_left` tells whether the last
 * one has an odd half. */
static void gemm_rest(const uint8_t *src, size_t row_size, uint64_t npair, uint64_t k_left,
                      uint8_t *tile)
{
    static const uint32_t field[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    for (uint64_t p = 0; p < npair; p++) {
        uint32_t even = awq_load32(src + 2 * p * row_size);
        uint32_t odd = 2 * p + 1 < k_left ? awq_load32(src + (2 * p + 1) * row_size) : 0;
        for (uint32_t c = 0; c < 8; c++)
            tile[c * TILE_PAIRS + p] = (uint8_t)((even >> 4 * field[c] & 15u) |
                                                 (odd >> 4 * field[c] & 15u) << 4);
    }
}

static void gemm_tile(const awq_linear *l, uint64_t word0, uint64_t nword, uint64_t k0,
                      uint64_t npair, uint8_t *tile)
{
    size_t row_size = (size_t)(l->n / 8 * 4);
    const uint8_t *src = (const uint8_t *)l->code.data + k0 * row_size + word0 * 4;
    uint64_t p = 0;
    for (; p + 8 <= npair && k0 + 2 * (p + 8) <= l->k; p += 8)
        for (uint64_t w = 0; w < nword; w++)
            gemm_block(src + 2 * p * row_size + 4 * w, row_size, tile + 8 * w * TILE_PAIRS + p);
    if (p < npair)
        for (uint64_t w = 0; w < nword; w++)
            gemm_rest(src + 2 * p * row_size + 4 * w, row_size, npair - p, l->k - k0 - 2 * p,
                      tile + 8 * w * TILE_PAIRS + p);
}

static void unpack_gemm(const awq_linear *l, uint64_t row0, uint64_t row1, uint64_t col0,
                        uint64_t col1, uint8_t *dst, size_t stride)
{
    uint8_t tile[TILE_ROWS * TILE_PAIRS];
    for (uint64_t word = row0 / 8; word * 8 < row1; word += TILE_WORDS) {
        uint64_t nword = least(TILE_WORDS, (row1 + 7) / 8 - word);
        uint64_t from = word * 8 < row0 ? row0 : word * 8;
        uint64_t to = least(row1, (word + nword) * 8);
        for (uint64_t k = col0; k < col1; k += 2 * TILE_PAIRS) {
            uint64_t npair = least(TILE_PAIRS, (col1 - k) / 2);
            gemm_tile(l, word, nword, k, npair, tile);
            for (uint64_t r = from; r < to; r++)
                memcpy(dst + (r - row0) * stride + (k - col0) / 2,
                       tile + (r - word * 8) * TILE_PAIRS, npair);
        }
    }
}

/* -------------------------------------------------------------------------- gemv_fast */

/* A chunk of 64 columns of one row is 16 half-words w[8h + t]; column 32h + 8p + t is nibble
 * p of w[8h + t]. Four half-words at a time: `x` and `y` gather the nibbles of an even and
 * the next odd t into bytes. */
static void fast_chunk(const uint8_t *src, uint8_t *dst)
{
    const uint64_t lane = 0x0000ffff0000ffffu, low = 0x00000f0f00000f0fu;
    for (uint32_t h = 0; h < 2; h++)
        for (uint32_t q = 0; q < 2; q++) {
            uint64_t w = awq_load64(src + 16 * h + 8 * q);
            uint64_t even = w & lane, odd = w >> 16 & lane;
            uint64_t x = (even & low) | (odd & low) << 4;
            uint64_t y = (even >> 4 & low) | (odd & low << 4);
            uint8_t *to = dst + 16 * h + 2 * q;
            to[0] = (uint8_t)x;
            to[1] = (uint8_t)(x >> 32);
            to[4] = (uint8_t)y;
            to[5] = (uint8_t)(y >> 32);
            to[8] = (uint8_t)(x >> 8);
            to[9] = (uint8_t)(x >> 40);
            to[12] = (uint8_t)(y >> 8);
            to[13] = (uint8_t)(y >> 40);
        }
}

static void unpack_fast(const awq_linear *l, uint64_t row0, uint64_t row1, uint64_t col0,
                        uint64_t col1, uint8_t *dst, size_t stride)
{
    const uint8_t *base = l->code.data;
    for (uint64_t r = row0; r < row1; r++) {
        /* Row r of the file's quad r / 4 starts 16 half-words into each chunk. */
        const uint8_t *src = base + r / 4 * l->k * 2 + r % 4 * 32;
        uint8_t *to = dst + (r - row0) * stride;
        for (uint64_t k = col0; k < col1; k += 64)
            fast_chunk(src + 2 * k, to + (k - col0) / 2);
    }
}

/* ----------------------------------------------------------------------------- packed */

/* Eight fields of `bits` bits each, a byte a field. */
static inline uint64_t spread_fields(uint64_t v, uint32_t bits)
{
    uint64_t out = 0, mask = (1u << bits) - 1;
    for (uint32_t i = 0; i < 8; i++)
        out |= (v >> i * bits & mask) << 8 * i;
    return out;
}

static inline uint32_t squeeze_nibbles(uint64_t bytes)
{
    bytes = (bytes | bytes >> 4) & 0x00ff00ff00ff00ffu;
    bytes = (bytes | bytes >> 8) & 0x0000ffff0000ffffu;
    return (uint32_t)(bytes | bytes >> 16);
}

/* Widths that are no form of their own keep their distance from the middle: 2-bit codes
 * 0 .. 3 around 2 become 6 .. 9 around 8. */
static void unpack_stream(const awq_linear *l, uint64_t row0, uint64_t row1, uint64_t col0,
                          uint64_t col1, uint8_t *dst, size_t stride)
{
    uint32_t bits = l->bits;
    uint64_t row_size = l->code.dim[1] * 4;
    uint64_t shift = (bits < 4 ? 8u : 128u) - (1u << (bits - 1));
    shift *= 0x0101010101010101u;
    for (uint64_t r = row0; r < row1; r++) {
        const uint8_t *src = (const uint8_t *)l->code.data + r * row_size;
        uint8_t *to = dst + (r - row0) * stride;
        for (uint64_t k = col0; k < col1; k += 8) {
            uint64_t at = k / 8 * bits, v = 0;
            memcpy(&v, src + at, (size_t)least(bits, row_size - at));
            v = spread_fields(v, bits) + shift;
            uint32_t nibbles = squeeze_nibbles(v);
            if (bits <= 4)
                memcpy(to + (k - col0) / 2, &nibbles, 4);
            else
                memcpy(to + (k - col0), &v, 8);
        }
    }
}

static void copy_rows(const awq_linear *l, uint64_t row0, uint64_t row1, uint64_t col0,
                      uint64_t col1, uint8_t *dst, size_t stride)
{
    uint64_t row_size = l->code.dim[1] * 4;
    uint64_t at = col0 * l->bits / 8, size = least((col1 - col0) * l->bits / 8, row_size - at);
    const uint8_t *src = (const uint8_t *)l->code.data + at;
    for (uint64_t r = row0; r < row1; r++)
        memcpy(dst + (r - row0) * stride, src + r * row_size, (size_t)size);
}

void awq_unpack_codes(const awq_linear *l, uint64_t row0, uint64_t row1, uint64_t col0,
                      uint64_t col1, uint8_t *dst, size_t stride)
{
    if (l->layout == AWQ_GEMM)
        unpack_gemm(l, row0, row1, col0, col1, dst, stride);
    else if (l->layout == AWQ_GEMV_FAST)
        unpack_fast(l, row0, row1, col0, col1, dst, stride);
    else if (l->bits == 4 || l->bits == 8)
        copy_rows(l, row0, row1, col0, col1, dst, stride);
    else
        unpack_stream(l, row0, row1, col0, col1, dst, stride);
}

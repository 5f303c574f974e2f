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

/* Constants passed to these loops must arrive as such, whatever the compiler thinks of size. */
#define INLINE static inline __attribute__((always_inline))

/* One step of a transpose in both words of a pair: exchanges the high part of *a with the low
 * part of *b. */
INLINE void swap_parts(uint64_t *a, uint64_t *b, uint32_t shift, uint64_t low)
{
    uint64_t t = ((*a >> shift) ^ *b) & low;
    *a ^= t << shift;
    *b ^= t;
}

/* Four words of four bytes each, turned: v[c] becomes byte c of each. Two such in a pair. */
INLINE void turn_bytes(uint64_t v[4])
{
    swap_parts(&v[0], &v[2], 16, 0x0000ffff0000ffffu);
    swap_parts(&v[1], &v[3], 16, 0x0000ffff0000ffffu);
    swap_parts(&v[0], &v[1], 8, 0x00ff00ff00ff00ffu);
    swap_parts(&v[2], &v[3], 8, 0x00ff00ff00ff00ffu);
}

/* Byte c of both words to the rows of its column. */
INLINE void store_rows(const uint64_t v[4], const uint32_t column[4], uint32_t nword,
                       uint8_t *tile)
{
    for (uint32_t c = 0; c < 4; c++)
        for (uint32_t w = 0; w < nword; w++) {
            uint32_t bytes = (uint32_t)(v[c] >> 32 * w);
            memcpy(tile + (8 * w + column[c]) * TILE_PAIRS, &bytes, 4);
        }
}

/* Four pairs of k for the columns of one or two words: four bytes of 8 * nword rows. Field i
 * of a word is column {0 2 4 6 1 3 5 7}[i], so its low nibbles are columns 0 4 1 5 and its
 * high nibbles 2 6 3 7. */
INLINE void gemm_block(const uint8_t *src, size_t row_size, uint32_t nword, uint8_t *tile)
{
    static const uint32_t low_columns[4] = {0, 4, 1, 5}, high_columns[4] = {2, 6, 3, 7};
    const uint64_t low = 0x0f0f0f0f0f0f0f0fu;
    uint64_t lo[4], hi[4];
    for (uint32_t p = 0; p < 4; p++) {
        uint64_t even = 0, odd = 0;
        memcpy(&even, src + 2 * p * row_size, 4 * nword);
        memcpy(&odd, src + (2 * p + 1) * row_size, 4 * nword);
        lo[p] = (even & low) | (odd & low) << 4;
        hi[p] = (even >> 4 & low) | (odd & low << 4);
    }
    turn_bytes(lo);
    store_rows(lo, low_columns, nword, tile);
    turn_bytes(hi);
    store_rows(hi, high_columns, nword, tile);
}

/* The last pairs, fewer than four, a word at a time: `k_left` columns from the first pair on,
 * of which the last may stand alone. */
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

/* The rows of a tile are far apart in the file, so the next ones are asked for in time. */
static void gemm_tile(const awq_linear *l, uint64_t word0, uint64_t nword, uint64_t k0,
                      uint64_t npair, uint8_t *tile)
{
    size_t row_size = (size_t)(l->n / 8 * 4);
    const uint8_t *src = (const uint8_t *)l->code.data + k0 * row_size + word0 * 4;
    uint64_t p = 0;
    for (; p + 4 <= npair && k0 + 2 * (p + 4) <= l->k; p += 4) {
        uint64_t w = 0;
        for (uint32_t i = 8; i < 16 && k0 + 2 * p + i < l->k; i++)
            __builtin_prefetch(src + (2 * p + i) * row_size);
        for (; w + 2 <= nword; w += 2)
            gemm_block(src + 2 * p * row_size + 4 * w, row_size, 2, tile + 8 * w * TILE_PAIRS + p);
        for (; w < nword; w++)
            gemm_block(src + 2 * p * row_size + 4 * w, row_size, 1, tile + 8 * w * TILE_PAIRS + p);
    }
    for (uint64_t w = 0; w < nword && p < npair; w++)
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
INLINE uint64_t spread_fields(uint64_t v, uint32_t bits)
{
    uint64_t out = 0, mask = (1u << bits) - 1;
    for (uint32_t i = 0; i < 8; i++)
        out |= (v >> i * bits & mask) << 8 * i;
    return out;
}

INLINE uint32_t squeeze_nibbles(uint64_t bytes)
{
    bytes = (bytes | bytes >> 4) & 0x00ff00ff00ff00ffu;
    bytes = (bytes | bytes >> 8) & 0x0000ffff0000ffffu;
    return (uint32_t)(bytes | bytes >> 16);
}

/* One row, eight codes at a time. Widths that are no form of their own keep their distance
 * from the middle: 2-bit codes 0 .. 3 around 2 become 6 .. 9 around 8. */
INLINE void stream_row(const uint8_t *src, uint64_t size, uint64_t col0, uint64_t col1,
                       uint32_t bits, uint8_t *dst)
{
    uint64_t shift = (bits < 4 ? 8u : 128u) - (1u << (bits - 1));
    shift *= 0x0101010101010101u;
    for (uint64_t at = col0 / 8 * bits, end = col1 / 8 * bits; at < end; at += bits) {
        uint64_t v = 0;
        if (at + 8 <= size)
            memcpy(&v, src + at, 8);
        else
            memcpy(&v, src + at, (size_t)least(bits, size - at));
        v = spread_fields(v, bits) + shift;
        uint32_t nibbles = squeeze_nibbles(v);
        memcpy(dst, bits < 4 ? (void *)&nibbles : (void *)&v, bits < 4 ? 4 : 8);
        dst += bits < 4 ? 4 : 8;
    }
}

static void unpack_stream(const awq_linear *l, uint64_t row0, uint64_t row1, uint64_t col0,
                          uint64_t col1, uint8_t *dst, size_t stride)
{
    uint64_t size = l->code.dim[1] * 4;
    const uint8_t *src = (const uint8_t *)l->code.data + row0 * size;
    for (uint64_t r = row0; r < row1; r++, src += size, dst += stride)
        switch (l->bits) {
        case 1: stream_row(src, size, col0, col1, 1, dst); break;
        case 2: stream_row(src, size, col0, col1, 2, dst); break;
        case 3: stream_row(src, size, col0, col1, 3, dst); break;
        case 5: stream_row(src, size, col0, col1, 5, dst); break;
        case 6: stream_row(src, size, col0, col1, 6, dst); break;
        default: stream_row(src, size, col0, col1, 7, dst); break;
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

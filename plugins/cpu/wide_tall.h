/* SPDX-License-Identifier: Apache-2.0 */
/* wide_tall.h - many tokens times 4-bit codes: a prompt's products.
 *
 * A strip's codes are unpacked once for all tokens, less their zeros, into signed bytes that
 * stay in the first cache; inputs are laid out tile by tile as unsigned bytes, x + 128. What
 * the 128 adds to a row's dot product of one block depends on the row alone: its negative is
 * where the sum starts. So a block costs its products, and one conversion and two steps of
 * fp32 for its scales; nothing is left of unpacking and of zeros.
 *
 * The int16 lanes of levels without VNNI wrap on the way and are right at the end: at most 16
 * products of 16 x 127, which is below 2^15. The dot product of a block is the integer that
 * wide_linear.h gets, and so are the fp32 steps behind it: the results are equal bit by bit. */
#ifndef TN_CPU_WIDE_TALL_H
#define TN_CPU_WIDE_TALL_H

#include "kernel.h"

#include <assert.h>

#define TALL_LEAST 16u           /* tokens from which unpacking once pays */
#define TALL_ROWS 528u           /* most tokens of a pass; a multiple of TALL */
#define TALL_BLOCKS 32u          /* blocks unpacked at a time: 20 KiB */
#define TALL_INPUTS (384u << 10) /* bytes of inputs a pass */
#define TALL_ZERO 16u            /* the largest zero that the lanes bear */

/* One block of a strip: columns 4j .. 4j + 3 of 16 rows, then a start and a scale per row. */
typedef struct tall_block {
    _Alignas(64) int8_t code[8][CPU_STRIP * 4];
    int32_t start[CPU_STRIP];    /* two int16 each where there is no VNNI */
    float scale[CPU_STRIP];
} tall_block;

/* One block of a tile's inputs, as bytes that the level's products take. */
typedef struct tall_input {
    _Alignas(TALL_GRID ? 64 : 4) uint8_t x[TALL][CPU_BLOCK];
    float scale[TALL];
} tall_input;

/* What a pass needs; its memory comes from the caller, since stacks may be small. */
typedef struct tall_room {
    const int8_t *q;                    /* inputs that are laid out: rows [i0, i0 + m) of q */
    uint64_t cols, i0, m;
    tall_block block[TALL_BLOCKS];
    float sum[TALL_ROWS * CPU_STRIP];   /* [m, 16] of one strip */
    tall_input input[TALL_INPUTS / sizeof(tall_input)];
} tall_room;
_Static_assert(sizeof(tall_room) <= CPU_ROOM_BYTES, "a pass fits its memory");
_Static_assert(offsetof(tall_room, block) <= CPU_ROOM_MEMORY, "a forgetful room forgets all");

/* Tokens [i0, i0 + m) in `ntile` tiles of nearly equal height, `nblock` blocks each. */
typedef struct tall_pass {
    const cpu_matrix *w;
    const cpu_act *a;
    uint64_t i0, m, ntile, nblock;
    tall_room *room;             /* its inputs: [ntile, nblock] */
} tall_pass;

static uint64_t tall_begin(const tall_pass *p, uint64_t tile)
{
    if (TALL_GRID)
        return tile * TALL < p->m ? tile * TALL : p->m; /* half a register costs a whole one */
    return p->m * tile / p->ntile;
}

/* -------------------------------------------------------------------------- inputs */

/* A token that is none: where a tile always has TALL of them. */
WIDE void tall_pad(tall_input *to, uint64_t nblock, uint64_t t)
{
    for (uint64_t b = 0; b < nblock; b++) {
        memset(to[b].x[t], 0, CPU_BLOCK);
        to[b].scale[t] = 0;
    }
}

static void tall_inputs(const tall_pass *p)
{
    tall_room *room = p->room;
    if (room->q == p->a->q && room->cols == p->w->cols && room->i0 == p->i0 && room->m == p->m)
        return;
    room->q = p->a->q;
    room->cols = p->w->cols;
    room->i0 = p->i0;
    room->m = p->m;
    tall_input *to = room->input;
    for (uint64_t i = 0; i < p->ntile; i++, to += p->nblock) {
        uint64_t begin = tall_begin(p, i), end = tall_begin(p, i + 1);
        for (uint64_t t = begin; t < end; t++) {
            const int8_t *q = p->a->q + (p->i0 + t) * p->w->cols;
            const float *scale = p->a->scale + (p->i0 + t) * p->nblock;
            for (uint64_t b = 0; b < p->nblock; b++) {
                if (TALL_GRID)
                    memcpy(to[b].x[t - begin], q + b * CPU_BLOCK, CPU_BLOCK);
                else
                    block_to_unsigned(to[b].x[t - begin], q + b * CPU_BLOCK);
                to[b].scale[t - begin] = scale[b];
            }
        }
        if (TALL_GRID)
            for (uint64_t t = end - begin; t < TALL; t++)
                tall_pad(to, p->nblock, t);
    }
}

/* ------------------------------------------------------------------------- weights */

WIDE void unpack_block(const uint8_t *p, const vi zero[VECS], tall_block *to)
{
    const vi low = i_set8(15), middle = i_set8(-128);
    vi sum[VECS];
    UNROLL for (unsigned v = 0; v < VECS; v++)
        sum[v] = i_zero();
    UNROLL for (unsigned j = 0; j < 8; j++)
        UNROLL for (unsigned v = 0; v < VECS; v++) {
            vi both = i_load(p + 64 * (j % 4) + 4 * LANES * v);
            vi code = i_sub8(i_and(j < 4 ? both : i_right(both, 4), low), zero[v]);
            i_store(to->code[j] + 4 * LANES * v, code);
            sum[v] = dot4(sum[v], middle, code);
        }
    UNROLL for (unsigned v = 0; v < VECS; v++)
        i_store(to->start + LANES * v, dot4_negative(sum[v]));
}

/* Zeros of LANES rows, four copies of each. */
WIDE vi zeros_load(const cpu_matrix *w, const uint8_t *strip, uint64_t at)
{
    if (!w->zeros)
        return i_set8(8);
    vi z = i_load_u8(strip + w->zero_at + at);
    z = i_add(z, i_left(z, 8));
    return i_add(z, i_left(z, 16));
}

/* Blocks [b0, b1) of a strip. */
static void unpack(const cpu_matrix *w, const uint8_t *strip, uint64_t b0, uint64_t b1,
                   tall_block *to)
{
    for (uint64_t b = b0; b < b1; b++, to++) {
        uint64_t at = b * CPU_BLOCK / w->group * CPU_STRIP;
        vi zero[VECS];
        UNROLL for (unsigned v = 0; v < VECS; v++) {
            zero[v] = zeros_load(w, strip, at + v * LANES);
            f_store(to->scale + v * LANES, scale_load(strip, w->scale_kind, at + v * LANES));
        }
        unpack_block(strip + w->code_at + b * 256, zero, to);
    }
}

static bool zeros_fit(const cpu_matrix *w, const uint8_t *strip)
{
    vi top = i_zero();
    for (uint64_t i = 0; w->zeros && i < w->ngroup * CPU_STRIP; i += LANES)
        top = i_max(top, i_load_u8(strip + w->zero_at + i));
    return i_top(top) <= (int32_t)TALL_ZERO;
}

/* ----------------------------------------------------------------------- products */

#if TALL_GRID
#include "wide_grid.h"

static void tall_tile(uint64_t mt, const tall_block *w, const tall_input *x, uint64_t nblock,
                      bool begin, float *out)
{
    (void)mt;
    grid_tile(w, x, nblock, begin, out);
}

WIDE void tall_open(void) { grid_open(); }
WIDE void tall_close(void) { grid_close(); }
#else
WIDE void tall_open(void) {}
WIDE void tall_close(void) {}

/* Adds blocks to out [mt][16], or begins it. */
WIDE void tall_of(const int mt, const tall_block *w, const tall_input *x, uint64_t nblock,
                  bool begin, float *out)
{
    vf sum[TALL][VECS];
    UNROLL for (int t = 0; t < mt; t++)
        UNROLL for (unsigned v = 0; v < VECS; v++)
            sum[t][v] = begin ? f_zero() : f_load(out + t * CPU_STRIP + v * LANES);
    for (uint64_t b = 0; b < nblock; b++, w++, x++) {
        vi d[TALL][VECS];
        UNROLL for (unsigned j = 0; j < 8; j++) {
            vi code[VECS];
            UNROLL for (unsigned v = 0; v < VECS; v++)
                code[v] = i_load(w->code[j] + 4 * LANES * v);
            UNROLL for (int t = 0; t < mt; t++) {
                vi xt = i_copy(x->x[t] + 4 * j);
                UNROLL for (unsigned v = 0; v < VECS; v++) {
                    vi from = j == 0 ? i_load(w->start + v * LANES) : d[t][v];
                    d[t][v] = dot4(from, xt, code[v]);
                }
            }
        }
        UNROLL for (int t = 0; t < mt; t++) {
            vf sx = f_copy(&x->scale[t]);
            UNROLL for (unsigned v = 0; v < VECS; v++) {
                vf exact = f_from_i(dot4_end(d[t][v]));
                sum[t][v] = f_fma(f_mul(exact, sx), f_load(w->scale + v * LANES), sum[t][v]);
            }
        }
    }
    UNROLL for (int t = 0; t < mt; t++)
        UNROLL for (unsigned v = 0; v < VECS; v++)
            f_store(out + t * CPU_STRIP + v * LANES, sum[t][v]);
}

/* Not inlined: its registers are its own. */
static __attribute__((noinline)) void tall_tile(uint64_t mt, const tall_block *w,
                                                const tall_input *x, uint64_t nblock, bool begin,
                                                float *out)
{
    assert(mt >= 4 && mt <= TALL); /* as TALL_LEAST tokens and more are shared out */
    switch (mt) {
    case 4: tall_of(4, w, x, nblock, begin, out); break;
    case 5: tall_of(5, w, x, nblock, begin, out); break;
    case 6: tall_of(6, w, x, nblock, begin, out); break;
#if TALL > 6
    case 7: tall_of(7, w, x, nblock, begin, out); break;
    case 8: tall_of(8, w, x, nblock, begin, out); break;
    case 9: tall_of(9, w, x, nblock, begin, out); break;
    case 10: tall_of(10, w, x, nblock, begin, out); break;
    case 11: tall_of(11, w, x, nblock, begin, out); break;
    case 12: tall_of(12, w, x, nblock, begin, out); break;
#endif
    default: break;
    }
}
#endif

/* All tokens of the pass against one strip, into the room's sums. */
static void tall_strip(const tall_pass *p, const uint8_t *strip)
{
    tall_block *block = p->room->block;
    for (uint64_t b0 = 0; b0 < p->nblock; b0 += TALL_BLOCKS) {
        uint64_t b1 = b0 + TALL_BLOCKS < p->nblock ? b0 + TALL_BLOCKS : p->nblock;
        unpack(p->w, strip, b0, b1, block);
        for (uint64_t i = 0; i < p->ntile; i++) {
            uint64_t begin = tall_begin(p, i);
            tall_tile(tall_begin(p, i + 1) - begin, block, p->room->input + i * p->nblock + b0,
                      b1 - b0, b0 == 0, p->room->sum + begin * CPU_STRIP);
        }
    }
}

/* Tiles of one pass: 0 when inputs are so wide that too few fit. */
static uint64_t tall_most(const cpu_matrix *w)
{
    uint64_t n = TALL_INPUTS / (w->cols / CPU_BLOCK * sizeof(tall_input));
    uint64_t least = (TALL_LEAST + TALL - 1) / TALL;
    return n < least ? 0 : n < TALL_ROWS / TALL ? n : TALL_ROWS / TALL;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* wide_grid.h - the products of wide_tall.h in the two-dimensional registers of AMX.
 *
 * One instruction multiplies 16 tokens by 16 rows over the 32 columns of a block. The codes of
 * an unpacked block already lie as it wants them (four columns of a row side by side), inputs
 * are the signed bytes themselves. What it leaves is the integer that the other levels get, and
 * the fp32 steps behind it are theirs, so the results are equal bit by bit.
 *
 * Two sets of registers take turns: while one block's integers become floats, the next block is
 * multiplied already. */
#ifndef TN_CPU_WIDE_GRID_H
#define TN_CPU_WIDE_GRID_H

#include "wide_tall.h"

/* What LDTILECFG reads: bytes a row and rows of every register. */
typedef struct grid_shape {
    uint8_t palette, start, reserved[14];
    uint16_t row_size[16];
    uint8_t rows[16];
} grid_shape;

/* Sums in 0 and 1, inputs in 2 and 3, codes in 4 and 5. Shapes are the thread's own and cost
 * at every switch of threads: grid_close goes with it. */
WIDE void grid_open(void)
{
    static const grid_shape shape = {
        .palette = 1,
        .row_size = {64, 64, CPU_BLOCK, CPU_BLOCK, 64, 64},
        .rows = {TALL, TALL, TALL, TALL, CPU_BLOCK / 4, CPU_BLOCK / 4},
    };
    _Static_assert(sizeof shape == 64, "as the processor reads it");
    _tile_loadconfig(&shape);
}

WIDE void grid_close(void)
{
    _tile_release();
}

/* Numbers of registers are part of the instruction: a branch for each set. */
WIDE void grid_block(const bool odd, const tall_block *w, const tall_input *x, int32_t *dots)
{
    if (odd) {
        _tile_zero(1);
        _tile_loadd(3, x->x, CPU_BLOCK);
        _tile_loadd(5, w->code, 64);
        _tile_dpbssd(1, 3, 5);
        _tile_stored(1, dots, 64);
    } else {
        _tile_zero(0);
        _tile_loadd(2, x->x, CPU_BLOCK);
        _tile_loadd(4, w->code, 64);
        _tile_dpbssd(0, 2, 4);
        _tile_stored(0, dots, 64);
    }
}

WIDE void grid_scale(const tall_block *w, const tall_input *x, const int32_t *dots, vf sum[TALL])
{
    const vf scale = f_load(w->scale);
    UNROLL for (unsigned t = 0; t < TALL; t++) {
        vf exact = f_from_i(i_load(dots + t * CPU_STRIP));
        sum[t] = f_fma(f_mul(exact, f_copy(&x->scale[t])), scale, sum[t]);
    }
}

/* Adds blocks to out [TALL][16], or begins it. */
static __attribute__((noinline)) void grid_tile(const tall_block *w, const tall_input *x,
                                                uint64_t nblock, bool begin, float *out)
{
    _Alignas(64) int32_t dots[2][TALL * CPU_STRIP];
    vf sum[TALL];
    uint64_t b = 0;
    UNROLL for (unsigned t = 0; t < TALL; t++)
        sum[t] = begin ? f_zero() : f_load(out + t * CPU_STRIP);
    grid_block(false, w, x, dots[0]);
    for (; b + 2 < nblock; b += 2) {
        grid_block(true, w + b + 1, x + b + 1, dots[1]);
        grid_scale(w + b, x + b, dots[0], sum);
        grid_block(false, w + b + 2, x + b + 2, dots[0]);
        grid_scale(w + b + 1, x + b + 1, dots[1], sum);
    }
    if (b + 1 < nblock)
        grid_block(true, w + b + 1, x + b + 1, dots[1]);
    grid_scale(w + b, x + b, dots[0], sum);
    if (b + 1 < nblock)
        grid_scale(w + b + 1, x + b + 1, dots[1], sum);
    UNROLL for (unsigned t = 0; t < TALL; t++)
        f_store(out + t * CPU_STRIP, sum[t]);
}

#endif

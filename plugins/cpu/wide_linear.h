/* SPDX-License-Identifier: Apache-2.0 */
/* wide_linear.h - prepare and multiply of the vector levels, written in lanes of one width.
 *
 * Included once by each level's unit, after its lanes header. Rows of a strip are lanes, so
 * nothing is ever summed across lanes; a register tile is one strip by up to TILE tokens, and
 * unpacks every block once for all of them. The next kilobytes of the strip are fetched while
 * a block is multiplied: with one token the loop runs as fast as memory answers.
 *
 * A (row, token) pair sees the same operations in the same order whatever the tile: per block
 * an exact integer (or fp32) dot product, then one fused step into the running sum. */
#ifndef TN_CPU_WIDE_LINEAR_H
#define TN_CPU_WIDE_LINEAR_H

#include "kernel.h"

#include <math.h>

#define AHEAD 4096u              /* bytes of weights fetched ahead */
#define NEAR_SIZE (96u << 10)    /* activations that stay in the second cache */
#define NEAREST_SIZE (24u << 10) /* weights that stay in the first */

/* --------------------------------------------------------------------- activations */

#define PARTS (CPU_BLOCK / LANES)

WIDE void quantize_block(const float *x, int8_t *q, float *scale, float *sum)
{
    const vi magnitude = i_set(0x7fffffff);
    vf v[PARTS];
    vi n[PARTS], top = i_zero(), total = i_zero();
    UNROLL for (unsigned i = 0; i < PARTS; i++) {
        v[i] = f_load(x + i * LANES);
        top = i_max(top, i_and(i_bits(v[i]), magnitude));
    }
    float largest;
    int32_t bits = i_top(top);
    memcpy(&largest, &bits, sizeof largest);
    if (bits >= 0x7f800000) {          /* a NaN or an infinity: the whole row becomes NaN */
        memset(q, 0, CPU_BLOCK);
        *scale = NAN;
        *sum = 0.0f;
        return;
    }
    float lift = largest < 0x1p-100f ? 0x1p64f : 1.0f;
    vf inverse = f_set(largest > 0.0f ? 127.0f / (largest * lift) : 0.0f);
    UNROLL for (unsigned i = 0; i < PARTS; i++) {
        n[i] = i_from_f(f_mul(f_mul(v[i], f_set(lift)), inverse));
        total = i_add(total, n[i]);
    }
    i_store_bytes(q, n);
    *scale = largest / 127.0f;
    *sum = (float)i_sum(total);
}

static void gather_block(const float *x, uint64_t k, const int32_t *perm, uint64_t j0, float *out)
{
    for (uint64_t c = 0; c < CPU_BLOCK; c++) {
        if (perm == NULL)
            out[c] = j0 + c < k ? x[j0 + c] : 0.0f;
        else
            out[c] = perm[j0 + c] >= 0 ? x[perm[j0 + c]] : 0.0f;
    }
}

static void wide_prepare(cpu_act *a, const float *x, uint64_t ldx, uint64_t k,
                         const int32_t *perm, uint32_t row0, uint32_t row1, bool quant)
{
    uint64_t nblock = a->cols / CPU_BLOCK;
    for (uint64_t i = row0; i < row1; i++)
        for (uint64_t b = 0; b < nblock; b++) {
            float some[CPU_BLOCK];
            const float *from = x + i * ldx + b * CPU_BLOCK;
            if (perm != NULL || (b + 1) * CPU_BLOCK > k) {
                gather_block(x + i * ldx, k, perm, b * CPU_BLOCK, some);
                from = some;
            }
            if (quant)
                quantize_block(from, a->q + i * a->cols + b * CPU_BLOCK,
                               a->scale + i * nblock + b, a->sum + i * nblock + b);
            else
                memcpy(a->x + i * a->cols + b * CPU_BLOCK, from, sizeof some);
        }
}

/* ------------------------------------------------------------------ scales and zeros */

WIDE vf scale_load(const uint8_t *p, uint32_t kind, uint64_t at)
{
    if (kind == TN_F16)
        return f_load_f16((const uint16_t *)p + at);
    if (kind == TN_BF16)
        return f_load_bf16((const uint16_t *)p + at);
    return f_load((const float *)p + at);
}

/* Scales and zeros of group g of a strip. */
WIDE void group_load(const cpu_matrix *w, const uint8_t *strip, uint64_t g, float middle,
                     vf s[VECS], vf z[VECS])
{
    UNROLL for (unsigned v = 0; v < VECS; v++) {
        uint64_t at = g * CPU_STRIP + v * LANES;
        s[v] = scale_load(strip, w->scale_kind, at);
        z[v] = w->zeros ? f_load_u8(strip + w->zero_at + at) : f_set(middle);
    }
}

/* ----------------------------------------------------------------- int8 activations */

/* d[t][v] += w[v] * the four columns at x, for `mt` tokens. */
WIDE void add_four(const int mt, const vi w[VECS], const int8_t *x, uint64_t ldq, vi d[][VECS])
{
    UNROLL for (int t = 0; t < mt; t++) {
        vi xt = i_copy(x + (uint64_t)t * ldq);
        UNROLL for (unsigned v = 0; v < VECS; v++)
            d[t][v] = dot4(d[t][v], w[v], xt);
    }
}

/* Integer dot products of one block with `mt` tokens: d[t][v], lanes are rows. A tall tile has
 * registers for one half of the nibbles at a time and reads the block twice. */
WIDE void dots_nibbles(const int mt, const uint8_t *p, const int8_t *q, uint64_t ldq,
                       vi d[][VECS])
{
    const vi low = i_set8(15);
    UNROLL for (int t = 0; t < mt; t++)
        UNROLL for (unsigned v = 0; v < VECS; v++)
            d[t][v] = i_zero();
    UNROLL for (unsigned j = 0; j < 4; j++) {
        vi w[VECS];
        UNROLL for (unsigned v = 0; v < VECS; v++)
            w[v] = i_and(i_load(p + 64 * j + 4 * LANES * v), low);
        add_four(mt, w, q + 4 * j, ldq, d);
        if (mt > 3)
            __asm__("" : "+r"(p)); /* forget that these bytes were loaded */
        UNROLL for (unsigned v = 0; v < VECS; v++)
            w[v] = i_and(i_right(i_load(p + 64 * j + 4 * LANES * v), 4), low);
        add_four(mt, w, q + 16 + 4 * j, ldq, d);
    }
    UNROLL for (int t = 0; t < mt; t++)
        UNROLL for (unsigned v = 0; v < VECS; v++)
            d[t][v] = dot4_end(d[t][v]);
}

#if BYTES_ARE_WHOLE
WIDE void dots_bytes(const int mt, const uint8_t *p, const int8_t *q, uint64_t ldq,
                     vi d[][VECS])
{
    UNROLL for (int t = 0; t < mt; t++)
        UNROLL for (unsigned v = 0; v < VECS; v++)
            d[t][v] = i_zero();
    UNROLL for (unsigned j = 0; j < 8; j++) {
        vi w[VECS];
        UNROLL for (unsigned v = 0; v < VECS; v++)
            w[v] = i_load(p + 64 * j + 4 * LANES * v);
        add_four(mt, w, q + 4 * j, ldq, d);
    }
}
#else
/* Each half of a byte has its own sum; rows go one vector at a time to leave registers. */
WIDE void dots_bytes(const int mt, const uint8_t *p, const int8_t *q, uint64_t ldq,
                     vi d[][VECS])
{
    const vi low = i_set8(15);
    UNROLL for (unsigned v = 0; v < VECS; v++) {
        vi lo[TILE], hi[TILE];
        __asm__("" : "+r"(q)); /* or broadcasts of one vector are spilled for the next */
        UNROLL for (int t = 0; t < mt; t++)
            lo[t] = hi[t] = i_zero();
        UNROLL for (unsigned j = 0; j < 8; j++) {
            vi code = i_load(p + 64 * j + 4 * LANES * v);
            vi wlo = i_and(code, low), whi = i_and(i_right(code, 4), low);
            UNROLL for (int t = 0; t < mt; t++) {
                vi x = i_copy(q + (uint64_t)t * ldq + 4 * j);
                lo[t] = dot4(lo[t], wlo, x);
                hi[t] = dot4(hi[t], whi, x);
            }
        }
        UNROLL for (int t = 0; t < mt; t++)
            d[t][v] = dot4_join(lo[t], hi[t]);
    }
}
#endif

/* sum += (dot - zero * sum of x) * scale of x * scale of w; the bracket is exact. */
WIDE void add_dots(const int mt, const vi d[][VECS], const vf s[VECS], const vf z[VECS],
                   const float *xscale, const float *xsum, uint64_t ldx, vf sum[][VECS])
{
    UNROLL for (int t = 0; t < mt; t++) {
        vf sx = f_copy(xscale + (uint64_t)t * ldx), total = f_copy(xsum + (uint64_t)t * ldx);
        UNROLL for (unsigned v = 0; v < VECS; v++) {
            vf exact = f_fnma(z[v], total, f_from_i(d[t][v]));
            sum[t][v] = f_fma(f_mul(exact, sx), s[v], sum[t][v]);
        }
    }
}

WIDE void tile_quant(const int mt, const uint32_t kind, const cpu_matrix *w,
                     const uint8_t *strip, const cpu_act *a, uint64_t i0, vf sum[][VECS])
{
    const uint64_t size = kind == TN_FORM_W4G ? 256 : 512, ldx = w->cols / CPU_BLOCK;
    const uint64_t per = w->group / CPU_BLOCK;
    const uint8_t *p = strip + w->code_at;
    const int8_t *q = a->q + i0 * w->cols;
    const float *xscale = a->scale + i0 * ldx, *xsum = a->sum + i0 * ldx;
    for (uint64_t g = 0; g < w->ngroup; g++) {
        vf s[VECS], z[VECS];
        group_load(w, strip, g, kind == TN_FORM_W4G ? 8.0f : 128.0f, s, z);
        for (uint64_t b = 0; b < per; b++) {
            vi d[TILE][VECS];
            UNROLL for (unsigned i = 0; i < size; i += 64)
                fetch(p + AHEAD + i);
            if (kind == TN_FORM_W4G)
                dots_nibbles(mt, p, q, w->cols, d);
            else
                dots_bytes(mt, p, q, w->cols, d);
            add_dots(mt, d, s, z, xscale, xsum, ldx, sum);
            p += size;
            q += CPU_BLOCK;
            xscale++;
            xsum++;
        }
    }
}

/* ----------------------------------------------------------------- fp32 activations */

/* Column i of four that begin at p, rows as lanes; codes less their zero. `high`: the upper
 * nibbles. */
WIDE vf column(const uint32_t kind, const bool high, const uint8_t *p, const unsigned i,
               const unsigned v, vf zero)
{
    const unsigned at = i * CPU_STRIP + v * LANES;
    if (kind == TN_FORM_F32)
        return f_load((const float *)p + at);
    if (kind == TN_FORM_F16)
        return f_load_f16((const uint16_t *)p + at);
    if (kind == TN_FORM_BF16)
        return f_load_bf16((const uint16_t *)p + at);
    vi code = i_right(i_load(p + 4 * LANES * v), 8 * i + (high ? 4 : 0));
    return f_sub(f_from_i(i_and(code, i_set(kind == TN_FORM_W4G ? 15 : 255))), zero);
}

/* Adds `nfour` times four columns, `step` bytes apart, times the inputs from `at` on. */
WIDE void add_columns(const int mt, const uint32_t kind, const bool high, const uint8_t *p,
                      const unsigned nfour, const unsigned step, const float *const x[],
                      uint64_t at, const vf z[VECS], vf dot[][VECS])
{
    for (unsigned j = 0; j < nfour; j++, p += step, at += 4)
        UNROLL for (unsigned i = 0; i < 4; i++) {
            vf col[VECS];
            UNROLL for (unsigned v = 0; v < VECS; v++)
                col[v] = column(kind, high, p, i, v, z[v]);
            UNROLL for (int t = 0; t < mt; t++) {
                vf xt = f_copy(x[t] + at + i);
                UNROLL for (unsigned v = 0; v < VECS; v++)
                    dot[t][v] = f_fma(col[v], xt, dot[t][v]);
            }
        }
}

/* One block: its own sum from zero, then scaled into the running sum. */
WIDE void block_floats(const int mt, const uint32_t kind, const uint8_t *p,
                       const float *const x[], uint64_t at, const vf s[VECS], const vf z[VECS],
                       vf sum[][VECS])
{
    const bool coded = kind == TN_FORM_W4G || kind == TN_FORM_W8G;
    const unsigned step = coded ? 64 : kind == TN_FORM_F32 ? 256 : 128;
    vf dot[TILE][VECS];
    UNROLL for (int t = 0; t < mt; t++)
        UNROLL for (unsigned v = 0; v < VECS; v++)
            dot[t][v] = f_zero();
    if (kind == TN_FORM_W4G) {
        add_columns(mt, kind, false, p, 4, step, x, at, z, dot);
        add_columns(mt, kind, true, p, 4, step, x, at + 16, z, dot);
    } else {
        add_columns(mt, kind, false, p, 8, step, x, at, z, dot);
    }
    UNROLL for (int t = 0; t < mt; t++)
        UNROLL for (unsigned v = 0; v < VECS; v++)
            sum[t][v] = f_fma(dot[t][v], s[v], sum[t][v]);
}

WIDE uint64_t block_size(const uint32_t kind)
{
    if (kind == TN_FORM_W4G)
        return 256;
    if (kind == TN_FORM_W8G)
        return 512;
    return kind == TN_FORM_F32 ? 2048 : 1024;
}

WIDE void tile_floats(const int mt, const uint32_t kind, const cpu_matrix *w,
                      const uint8_t *strip, const cpu_act *a, uint64_t i0, vf sum[][VECS])
{
    const bool coded = kind == TN_FORM_W4G || kind == TN_FORM_W8G;
    const uint64_t size = block_size(kind), ngroup = coded ? w->ngroup : 1;
    const uint64_t per = coded ? w->group / CPU_BLOCK : w->cols / CPU_BLOCK;
    const uint8_t *p = coded ? strip + w->code_at : strip;
    const float *x[TILE];
    uint64_t at = 0;
    UNROLL for (int t = 0; t < mt; t++) {
        x[t] = a->x + (i0 + (uint64_t)t) * w->cols;
        __asm__("" : "+r"(x[t])); /* a register each, no sums of strides */
    }
    for (uint64_t g = 0; g < ngroup; g++) {
        vf s[VECS], z[VECS];
        UNROLL for (unsigned v = 0; v < VECS; v++) {
            s[v] = f_set(1.0f);
            z[v] = f_zero();
        }
        if (coded)
            group_load(w, strip, g, kind == TN_FORM_W4G ? 8.0f : 128.0f, s, z);
        for (uint64_t b = 0; b < per; b++) {
            for (unsigned i = 0; i < size; i += 64)
                fetch(p + AHEAD + i);
            block_floats(mt, kind, p, x, at, s, z, sum);
            p += size;
            at += CPU_BLOCK;
        }
    }
}

#include "wide_tall.h"

/* ------------------------------------------------------------------------ multiply */

/* A tile: tokens [i0, i0 + mt) of one strip, into out [mt][16]. */
typedef struct tile {
    const cpu_matrix *w;
    const uint8_t *strip;
    const cpu_act *a;
    uint64_t i0;
    float *out;
} tile;
typedef void (*tile_call)(const tile *t, uint64_t mt);

WIDE void tile_of(const int mt, const bool quant, const uint32_t kind, const tile *t)
{
    vf sum[TILE][VECS];
    UNROLL for (int i = 0; i < mt; i++)
        UNROLL for (unsigned v = 0; v < VECS; v++)
            sum[i][v] = f_zero();
    if (quant)
        tile_quant(mt, kind, t->w, t->strip, t->a, t->i0, sum);
    else
        tile_floats(mt, kind, t->w, t->strip, t->a, t->i0, sum);
    UNROLL for (int i = 0; i < mt; i++)
        UNROLL for (unsigned v = 0; v < VECS; v++)
            f_store(t->out + i * CPU_STRIP + v * LANES, sum[i][v]);
}

/* The height becomes a constant here, so that a tile's sums can live in registers. */
WIDE void tile_pick(const bool quant, const uint32_t kind, const tile *t, uint64_t mt)
{
    switch (mt) {
    case 1: tile_of(1, quant, kind, t); break;
    case 2: tile_of(2, quant, kind, t); break;
    case 3: tile_of(3, quant, kind, t); break;
    case 4: tile_of(4, quant, kind, t); break;
    case 5: tile_of(5, quant, kind, t); break;
    case 6: tile_of(6, quant, kind, t); break;
#if TILE > 6
    case 7: tile_of(7, quant, kind, t); break;
    case 8: tile_of(8, quant, kind, t); break;
#endif
    default: break;
    }
}

static void quant_w4g(const tile *t, uint64_t mt) { tile_pick(true, TN_FORM_W4G, t, mt); }
static void quant_w8g(const tile *t, uint64_t mt) { tile_pick(true, TN_FORM_W8G, t, mt); }
static void float_f32(const tile *t, uint64_t mt) { tile_pick(false, TN_FORM_F32, t, mt); }
static void float_f16(const tile *t, uint64_t mt) { tile_pick(false, TN_FORM_F16, t, mt); }
static void float_bf16(const tile *t, uint64_t mt) { tile_pick(false, TN_FORM_BF16, t, mt); }
static void float_w4g(const tile *t, uint64_t mt) { tile_pick(false, TN_FORM_W4G, t, mt); }
static void float_w8g(const tile *t, uint64_t mt) { tile_pick(false, TN_FORM_W8G, t, mt); }

static tile_call call_for(uint32_t kind, bool quant)
{
    if (kind == TN_FORM_W4G)
        return quant ? quant_w4g : float_w4g;
    if (kind == TN_FORM_W8G)
        return quant ? quant_w8g : float_w8g;
    return kind == TN_FORM_F32 ? float_f32 : kind == TN_FORM_F16 ? float_f16 : float_bf16;
}

static void write_tile(const float *sum, uint64_t nt, uint64_t nr, float *y, uint64_t ldy,
                       bool add)
{
    for (uint64_t t = 0; t < nt; t++, sum += CPU_STRIP, y += ldy) {
        if (nr < CPU_STRIP) {
            for (uint64_t r = 0; r < nr; r++)
                y[r] = add ? y[r] + sum[r] : sum[r];
            continue;
        }
        UNROLL for (unsigned v = 0; v < VECS; v++) {
            vf s = f_load(sum + v * LANES);
            f_store(y + v * LANES, add ? f_add(f_load(y + v * LANES), s) : s);
        }
    }
}

/* Strips [strip0, strip1) against tokens [i0, i0 + m). */
typedef struct region {
    const cpu_matrix *w;
    const cpu_act *a;
    uint64_t strip0, strip1;
    uint64_t i0, m;
    float *y;
    uint64_t ldy;
    bool add;
} region;

/* One tile's tokens against all strips of the region, while their inputs are near. */
static void multiply_tile(const region *g, tile_call call, uint64_t i0, uint64_t nt)
{
    for (uint64_t s = g->strip0; s < g->strip1; s++) {
        float sum[TILE * CPU_STRIP];
        uint64_t r0 = s * CPU_STRIP, left = g->w->n - r0;
        const tile t = {g->w, g->w->data + s * g->w->strip_size, g->a, i0, sum};
        call(&t, nt);
        write_tile(sum, nt, left < CPU_STRIP ? left : CPU_STRIP, g->y + i0 * g->ldy + r0,
                   g->ldy, g->add);
    }
}

/* The region in tiles of nearly equal height. */
static void multiply_region(const region *g, tile_call call, uint64_t height)
{
    uint64_t ntile = (g->m + height - 1) / height, t0 = 0;
    for (uint64_t i = 0; i < ntile; i++) {
        uint64_t nt = (g->m - t0) / (ntile - i);
        multiply_tile(g, call, g->i0 + t0, nt);
        t0 += nt;
    }
}

/* A pass of many tokens over 4-bit strips, see wide_tall.h. */
static void tall_region(const region *g, tile_call call)
{
    uint64_t nblock = g->w->cols / CPU_BLOCK;
    tall_room *room = g->a->room;
    const tall_pass p = {g->w, g->a, g->i0, g->m, (g->m + TALL - 1) / TALL, nblock, room};
    tall_inputs(&p);
    tall_open();
    for (uint64_t s = g->strip0; s < g->strip1; s++) {
        const uint8_t *strip = g->w->data + s * g->w->strip_size;
        uint64_t r0 = s * CPU_STRIP, left = g->w->n - r0;
        if (!zeros_fit(g->w, strip)) {
            region one = *g;
            one.strip0 = s;
            one.strip1 = s + 1;
            multiply_region(&one, call, TILE);
            continue;
        }
        tall_strip(&p, strip);
        write_tile(room->sum, g->m, left < CPU_STRIP ? left : CPU_STRIP, g->y + g->i0 * g->ldy + r0,
                   g->ldy, g->add);
    }
    tall_close();
}

/* Two blockings: tokens, so that their inputs stay in the second cache while all strips pass;
 * and strips, so that a few stay in the first while those tokens pass. */
static void wide_multiply(const cpu_matrix *w, const cpu_act *a, uint32_t m, uint64_t strip0,
                          uint64_t strip1, bool quant, float *y, uint64_t ldy, bool add)
{
    tile_call call = call_for(w->kind, quant);
    bool nibbles = quant && w->kind == TN_FORM_W4G;
    bool many = nibbles && m >= TALL_LEAST && a->room != NULL;
    uint64_t tall = many ? tall_most(w) * TALL : 0;
    uint64_t height = !quant ? TILE_FLOATS : nibbles ? TILE : TILE_BYTES;
    uint64_t row_size = w->cols * (quant ? 1 : 4), most = NEAR_SIZE / row_size;
    uint64_t few = NEAREST_SIZE / w->strip_size > 1 ? NEAREST_SIZE / w->strip_size : 1;
    if (most < height)
        most = height;
    if (tall != 0)
        most = tall;
    uint64_t nchunk = (m + most - 1) / most, i0 = 0;
    for (uint64_t c = 0; c < nchunk; c++) {
        uint64_t ni = (m - i0) / (nchunk - c);
        region g = {w, a, strip0, strip1, i0, ni, y, ldy, add};
        for (uint64_t s = strip0; tall == 0 && s < strip1; s += few) {
            g.strip0 = s;
            g.strip1 = s + few < strip1 ? s + few : strip1;
            multiply_region(&g, call, height);
        }
        if (tall != 0)
            tall_region(&g, call);
        i0 += ni;
    }
}

#endif

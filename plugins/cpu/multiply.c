/* SPDX-License-Identifier: Apache-2.0 */
/* multiply.c - LINEAR, with the NORM before it and the ACT_MUL behind it.
 *
 * One row (decoding): every worker makes the row ready for itself, which is cheaper than a
 * barrier, and multiplies its fixed run of strips: each weight is read once, in order.
 *
 * Many rows: rows are made ready once, shared out, then a barrier. Rows are taken in bands
 * whose activations fit the second-level cache; inside a band, runs of strips are claimed one
 * by one, so a worker that is held up by another program delays the others little. A strip
 * stays in the first-level cache while it meets the rows of the band.
 *
 * A row's result does not depend on which rows or strips it is computed with. */
#include "program.h"

#define BAND_BYTES (384u << 10)   /* of activations a band of rows */
#define RUN_BYTES (48u << 10)     /* of weights a claimed run of strips, about */
#define BAND_LEAST 16u            /* rows; fewer waste the unpacking of weights */
#define PAIR_ROWS 264u            /* of gate and up at a time, and so a band */

/* ---------------------------------------------------------------------------- making ready */

/* Row `row` of the input, normed if the command norms. */
static const float *input_row(const cpu_program *p, const cpu_linear *l, uint64_t row,
                              uint32_t worker, bool store)
{
    const tn_op_norm *n = l->norm;
    if (n == NULL)
        return cpu_row(p, l->in, row, l->in_col);
    const float *w = n->w != TN_NONE ? p->weight[n->w].vector : NULL;
    float *out = store ? cpu_row(p, n->out, row, n->out_col) : p->worker[worker].row;
    p->k->norm(cpu_row(p, n->in, row, n->in_col), w, n->offset, n->eps, n->width, out);
    return out;
}

static void ready_row(const cpu_program *p, const cpu_linear *l, uint8_t *base, uint64_t rows,
                      uint64_t row, const float *x)
{
    for (uint32_t i = 0; i < l->nset; i++) {
        cpu_act a = cpu_set_act(&l->set[i], base, rows);
        cpu_act_fill(p, &l->set[i], &a, row, x, 0);
    }
}

/* Rows that the shared memory of a set is laid out for. */
static uint64_t laid_out(uint64_t rows)
{
    return cpu_round(rows, 16);
}

void cpu_linear_ready(cpu_program *p, const cpu_linear *l, uint32_t rows, uint32_t worker)
{
    uint64_t from, to;
    cpu_room_forget(p->worker[worker].room);
    if (rows == 1) {
        bool store = l->norm_formed && worker == 0;
        ready_row(p, l, p->worker[worker].act, 1, 0, input_row(p, l, 0, worker, store));
        return;
    }
    cpu_share(p, worker, rows, &from, &to);
    for (; from < to; from++)
        ready_row(p, l, p->act, laid_out(rows), from,
                  input_row(p, l, from, worker, l->norm_formed));
    cpu_sync(p, worker);
}

static cpu_act ready_set(const cpu_program *p, const cpu_linear *l, uint32_t set, uint32_t rows,
                         uint32_t worker)
{
    return rows == 1 ? cpu_set_act(&l->set[set], p->worker[worker].act, 1)
                     : cpu_set_act(&l->set[set], p->act, laid_out(rows));
}

/* ----------------------------------------------------------------------------- multiplying */

/* y (+)= bias for rows of one part, columns of strips [s0, s1); then the multiply adds. */
static void put_bias(const cpu_linear_part *part, uint64_t s0, uint64_t s1, float *y,
                     uint64_t ldy, uint64_t m, bool add)
{
    uint64_t r0 = s0 * CPU_STRIP, r1 = s1 * CPU_STRIP;
    r1 = r1 < part->w->spec.n ? r1 : part->w->spec.n;
    const float *bias = part->bias->vector;
    for (uint64_t i = 0; i < m; i++)
        for (uint64_t r = r0; r < r1; r++)
            y[i * ldy + r - r0] = add ? y[i * ldy + r - r0] + bias[r] : bias[r];
}

void cpu_linear_strips(const cpu_program *p, const cpu_linear *l, uint32_t i, uint64_t s0,
                       uint64_t s1, uint64_t row0, uint64_t row1, uint32_t rows, uint32_t worker,
                       float *y, uint64_t ldy, bool add)
{
    const cpu_linear_part *part = &l->part[i];
    const cpu_set *set = &l->set[part->set];
    cpu_act all = ready_set(p, l, part->set, rows, worker);
    cpu_act some = cpu_act_at(set, &all, row0);
    some.room = p->worker[worker].room;
    if (part->bias != NULL)
        put_bias(part, s0, s1, y, ldy, row1 - row0, add);
    cpu_strips(p, part->w, 0, set, &some, row1 - row0, s0, s1, y, ldy, add || part->bias != NULL);
}

/* Units [u0, u1), counted over all parts. */
static void multiply_units(const cpu_program *p, const cpu_linear *l, uint64_t u0, uint64_t u1,
                           uint64_t row0, uint64_t row1, uint32_t rows, uint32_t worker)
{
    uint64_t begin = 0;
    for (uint32_t i = 0; i < l->npart && begin < u1; i++) {
        const cpu_linear_part *part = &l->part[i];
        uint64_t end = begin + part->nstrip;
        uint64_t s0 = u0 > begin ? u0 - begin : 0, s1 = (u1 < end ? u1 : end) - begin;
        if (u0 < end && s0 < s1) {
            float *y = cpu_row(p, part->out, row0, part->col) + s0 * CPU_STRIP;
            cpu_linear_strips(p, l, i, s0, s1, row0, row1, rows, worker, y,
                              p->buffer[part->out].stride, l->add != 0);
        }
        begin = end;
    }
}

/* Pairs [u0, u1) of gate and up strips: both land in the worker's own memory, a few strips by
 * some rows at a time, and leave it as act(gate) * up. */
static void multiply_pairs(const cpu_program *p, const cpu_linear *l, uint64_t u0, uint64_t u1,
                           uint64_t row0, uint64_t row1, uint32_t rows, uint32_t worker)
{
    const uint64_t half = CPU_WIDE / 2, most = PAIR_ROWS;
    float *gate = p->worker[worker].wide, *up = gate + half;
    for (uint64_t r = row0; r < row1; r += most) {
        uint64_t m = row1 - r < most ? row1 - r : most;
        uint64_t step = half / (m * CPU_STRIP);
        for (uint64_t u = u0; u < u1; u += step) {
            uint64_t n = u1 - u < step ? u1 - u : step, ld = n * CPU_STRIP;
            uint64_t g = l->part[0].strip0 + u, h = l->part[1].strip0 + u;
            uint64_t col = u * CPU_STRIP, end = col + ld < l->act_width ? col + ld : l->act_width;
            cpu_linear_strips(p, l, 0, g, g + n, r, r + m, rows, worker, gate, ld, false);
            cpu_linear_strips(p, l, 1, h, h + n, r, r + m, rows, worker, up, ld, false);
            for (uint64_t i = 0; i < m; i++)
                p->k->act_mul(gate + i * ld, up + i * ld, l->act, (uint32_t)(end - col),
                              cpu_row(p, l->out, r + i, (uint32_t)col));
        }
    }
}

static void multiply(const cpu_program *p, const cpu_linear *l, uint64_t u0, uint64_t u1,
                     uint64_t row0, uint64_t row1, uint32_t rows, uint32_t worker)
{
    if (l->act != 0)
        multiply_pairs(p, l, u0, u1, row0, row1, rows, worker);
    else
        multiply_units(p, l, u0, u1, row0, row1, rows, worker);
}

/* Rows a band, even over the bands. */
static uint64_t band_rows(const cpu_linear *l, uint64_t rows)
{
    const cpu_set *last = &l->set[l->nset - 1];
    uint64_t most = BAND_BYTES / (last->before + last->row_size);
    most = most < BAND_LEAST ? BAND_LEAST : most;
    if (l->act != 0 && most > PAIR_ROWS)
        most = PAIR_ROWS;
    uint64_t bands = (rows + most - 1) / most;
    return (rows + bands - 1) / bands;
}

/* Units a run: some weight, but enough runs that all workers end together. */
static uint64_t run_units(const cpu_program *p, const cpu_linear *l)
{
    uint64_t n = RUN_BYTES / l->unit_size, even = l->nunit / (4 * (uint64_t)p->nthread);
    n = n < even ? n : even;
    return n < 1 ? 1 : n;
}

/* The first lines of a worker's own run of weights are asked for while it waits for others. */
#define AHEAD_BYTES 8192u

static void ask_ahead(const uint8_t *at)
{
    for (uint32_t i = 0; i < AHEAD_BYTES; i += 64)
        __builtin_prefetch(at + i, 0, 2);
}

void cpu_linear_ahead(const cpu_linear *l, uint32_t worker)
{
    uint64_t begin = 0, unit = l->cut[worker];
    for (uint32_t i = 0; i < l->npart; i++) {
        const cpu_linear_part *part = &l->part[i];
        if (unit < begin + part->nstrip) {
            const cpu_matrix *m = part->w->matrix;
            if (m != NULL)
                ask_ahead(m->data + (part->strip0 + unit - begin) * m->strip_size);
            return;
        }
        begin += part->nstrip;
    }
}

void cpu_do_linear(cpu_program *p, const cpu_cmd *c, uint32_t worker)
{
    const cpu_linear *l = c->plan;
    uint32_t rows = cpu_rows_of(p, l->in);
    if (rows == 0)
        return;
    cpu_linear_ready(p, l, rows, worker);
    if (rows == 1) {
        multiply(p, l, l->cut[worker], l->cut[worker + 1], 0, 1, 1, worker);
        return;
    }
    uint64_t band = band_rows(l, rows), unit = run_units(p, l);
    uint64_t runs = (l->nunit + unit - 1) / unit, bands = (rows + band - 1) / band, item;
    while (cpu_claim(p, worker, runs * bands, &item)) {
        uint64_t u0 = item % runs * unit, u1 = u0 + unit < l->nunit ? u0 + unit : l->nunit;
        uint64_t r0 = item / runs * band, r1 = r0 + band < rows ? r0 + band : rows;
        multiply(p, l, u0, u1, r0, r1, rows, worker);
    }
}

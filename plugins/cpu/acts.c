/* SPDX-License-Identifier: Apache-2.0 */
/* acts.c - activations made ready for multiplying, and the multiply of any weight.
 *
 * A set's memory for R rows holds its arrays one after the other, each R rows long and begun
 * on 64 bytes: q, scale, sum for int8; x for fp32. */
#include "program.h"

static bool is_coded(uint32_t kind)
{
    return kind == TN_FORM_W4G || kind == TN_FORM_W8G;
}

void cpu_set_init(cpu_set *s, const cpu_program *p, const cpu_weight *w, uint64_t k)
{
    bool packed = w->matrix != NULL;
    *s = (cpu_set){.weight = TN_NONE, .k = k, .cols = cpu_round(k, CPU_BLOCK)};
    if (packed) {
        s->cols = w->matrix->cols;
        s->quant = is_coded(w->matrix->kind) && !p->lim.exact;
        if (w->perm_size > 0)
            s->weight = (uint32_t)(w - p->weight);
    }
    s->row_size = s->quant ? s->cols + s->cols / CPU_BLOCK * 8 : s->cols * 4;
}

cpu_act cpu_set_act(const cpu_set *s, uint8_t *base, uint64_t rows)
{
    uint8_t *at = base + rows * s->before;
    uint64_t nblock = s->cols / CPU_BLOCK;
    cpu_act a = {.cols = s->cols};
    if (!s->quant) {
        a.x = (float *)(void *)at;
        return a;
    }
    a.q = (int8_t *)at;
    a.scale = (float *)(void *)(at + rows * s->cols);
    a.sum = a.scale + rows * nblock;
    return a;
}

cpu_act cpu_act_at(const cpu_set *s, const cpu_act *a, uint64_t row)
{
    uint64_t nblock = s->cols / CPU_BLOCK;
    cpu_act b = {.cols = s->cols};
    if (s->quant) {
        b.q = a->q + row * s->cols;
        b.scale = a->scale + row * nblock;
        b.sum = a->sum + row * nblock;
    } else {
        b.x = a->x + row * s->cols;
    }
    return b;
}

void cpu_act_fill(const cpu_program *p, const cpu_set *s, cpu_act *a, uint64_t row,
                  const float *x, uint32_t expert)
{
    cpu_act one = cpu_act_at(s, a, row);
    const int32_t *perm = s->weight == TN_NONE ? NULL : p->weight[s->weight].matrix[expert].perm;
    p->k->prepare(&one, x, 0, s->k, perm, 0, 1, s->quant != 0);
}

static void clear(float *y, uint64_t m, uint64_t n, uint64_t ldy)
{
    for (uint64_t i = 0; i < m; i++)
        memset(y + i * ldy, 0, n * sizeof *y);
}

void cpu_strips(const cpu_program *p, const cpu_weight *w, uint32_t expert, const cpu_set *s,
                const cpu_act *a, uint64_t m, uint64_t strip0, uint64_t strip1, float *y,
                uint64_t ldy, bool add)
{
    uint64_t row0 = strip0 * CPU_STRIP, row1 = strip1 * CPU_STRIP;
    row1 = row1 < w->spec.n ? row1 : w->spec.n;
    if (m == 0 || row0 >= row1)
        return;
    if (w->matrix == NULL) {
        if (!add)
            clear(y, m, row1 - row0, ldy);
        w->multiply((void *)(uintptr_t)w->spec.quant_self, w->bytes + expert * w->piece_size,
                    w->spec.n, w->spec.k, row0, row1, a->x, s->cols, m, y, ldy);
        return;
    }
    cpu_matrix part = w->matrix[expert];
    part.data += strip0 * part.strip_size;
    part.n = row1 - row0;
    part.nstrip = strip1 - strip0;
    p->k->multiply(&part, a, (uint32_t)m, 0, part.nstrip, s->quant != 0, y, ldy, add);
}

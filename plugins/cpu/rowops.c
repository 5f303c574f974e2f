/* SPDX-License-Identifier: Apache-2.0 */
/* rowops.c - operations that take rows one by one: EMBED, NORM, ACT_MUL, MIX, CONCAT, PICK.
 *
 * Rows are shared out evenly; none of these is large enough to be cut inside a row. */
#include "program.h"

#include <math.h>

/* The token's row of the table, or -1 for ids of other ranks and none at all. */
static int64_t table_row(const cpu_weight *w, int32_t token, uint32_t first)
{
    int64_t row = (int64_t)token - first;
    return token >= 0 && row >= 0 && (uint64_t)row < w->spec.n ? row : -1;
}

void cpu_do_embed(cpu_program *p, const cpu_cmd *c, uint32_t worker)
{
    const tn_op_embed *a = &c->op->a.embed;
    const cpu_weight *w = &p->weight[a->w];
    uint64_t from, to;
    cpu_share(p, worker, cpu_rows_of(p, a->out), &from, &to);
    for (; from < to; from++) {
        float *out = cpu_row(p, a->out, from, 0);
        int64_t row = table_row(w, p->token[from], a->first);
        if (row < 0)
            memset(out, 0, w->spec.k * sizeof *out);
        else
            p->k->row(&w->matrix[0], (uint64_t)row, out);
        for (uint64_t i = 0; a->scale != 1 && i < w->spec.k; i++)
            out[i] *= a->scale;
    }
}

void cpu_do_norm(cpu_program *p, const cpu_cmd *c, uint32_t worker)
{
    const tn_op_norm *a = &c->op->a.norm;
    const float *w = a->w != TN_NONE ? p->weight[a->w].vector : NULL;
    uint64_t from, to, groups = a->groups > 0 ? a->groups : 1;
    cpu_share(p, worker, cpu_rows_of(p, a->in) * groups, &from, &to);
    for (; from < to; from++) {
        uint64_t row = from / groups;
        uint32_t col = (uint32_t)(from % groups) * a->width;
        p->k->norm(cpu_row(p, a->in, row, a->in_col + col), w, a->offset, a->eps, a->width,
                   cpu_row(p, a->out, row, a->out_col + col));
    }
}

void cpu_do_act_mul(cpu_program *p, const cpu_cmd *c, uint32_t worker)
{
    const tn_op_act_mul *a = &c->op->a.act_mul;
    uint64_t from, to;
    cpu_share(p, worker, cpu_rows_of(p, a->in), &from, &to);
    for (; from < to; from++)
        p->k->act_mul(cpu_row(p, a->in, from, a->a_col), cpu_row(p, a->in, from, a->b_col),
                      a->act, a->width, cpu_row(p, a->out, from, 0));
}

void cpu_do_mix(cpu_program *p, const cpu_cmd *c, uint32_t worker)
{
    const tn_op_mix *a = &c->op->a.mix;
    uint64_t from, to;
    cpu_share(p, worker, cpu_rows_of(p, a->in), &from, &to);
    for (; from < to; from++) {
        const float *in = cpu_row(p, a->in, from, a->in_col);
        float *out = cpu_row(p, a->out, from, a->out_col), factor = a->scale;
        if (a->gate != TN_NONE)
            factor /= 1.0f + expf(-*cpu_row(p, a->gate, from, a->gate_col));
        for (uint32_t i = 0; i < a->width; i++)
            out[i] = a->add ? out[i] + factor * in[i] : factor * in[i];
    }
}

void cpu_do_concat(cpu_program *p, const cpu_cmd *c, uint32_t worker)
{
    const tn_op_concat *a = &c->op->a.concat;
    uint64_t from, to;
    cpu_share(p, worker, cpu_rows_of(p, a->out), &from, &to);
    for (; from < to; from++) {
        memcpy(cpu_row(p, a->out, from, 0), cpu_row(p, a->a, from, a->a_col), a->a_width * 4);
        memcpy(cpu_row(p, a->out, from, a->a_width), cpu_row(p, a->b, from, a->b_col),
               a->b_width * 4);
    }
}

void cpu_do_pick(cpu_program *p, const cpu_cmd *c, uint32_t worker)
{
    const tn_op_pick *a = &c->op->a.pick;
    uint64_t from, to;
    cpu_share(p, worker, p->step->nout, &from, &to);
    for (; from < to; from++)
        memcpy(cpu_row(p, a->out, from, 0),
               cpu_row(p, a->in, (uint64_t)p->step->out[from].row, 0), a->width * 4);
}

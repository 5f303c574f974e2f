/* SPDX-License-Identifier: Apache-2.0 */
/* collect.c - SUM and GATHER: what goes over the communicator.
 *
 * Worker 0 calls it while the others wait at the barrier. Buffers whose rows do not lie one
 * behind the other are packed first. A failure ends the step behind that barrier. */
#include "program.h"

static void pack(const cpu_program *p, uint32_t buffer, uint32_t col, uint32_t width,
                 uint32_t rows, float *to)
{
    for (uint64_t i = 0; i < rows; i++)
        memcpy(to + i * width, cpu_row(p, buffer, i, col), width * sizeof *to);
}

static void note(cpu_program *p, const cpu_cmd *c, tn_status st)
{
    if (st == TN_OK)
        return;
    p->status = st;
    atomic_store_explicit(&p->failed, (uint32_t)(c - p->cmd) + 1, memory_order_relaxed);
}

void cpu_do_sum(cpu_program *p, const cpu_cmd *c, uint32_t worker)
{
    const tn_op_sum *a = &c->op->a.sum;
    uint32_t rows = cpu_rows_of(p, a->x);
    if (worker != 0 || rows == 0)
        return;
    bool whole = p->buffer[a->x].stride == a->width;
    float *x = whole ? cpu_row(p, a->x, 0, 0) : p->gather;
    if (!whole)
        pack(p, a->x, a->col, a->width, rows, x);
    note(p, c, p->lim.comm->all_reduce(p->lim.group, x, (uint64_t)rows * a->width, TN_F32, NULL,
                                       p->err));
    for (uint64_t i = 0; !whole && i < rows; i++)
        memcpy(cpu_row(p, a->x, i, a->col), x + i * a->width, a->width * sizeof *x);
}

/* The communicator hands over rank after rank; rows want their ranks side by side. */
static void gather_ranks(cpu_program *p, const cpu_cmd *c, uint32_t rows)
{
    const tn_op_gather *a = &c->op->a.gather;
    uint64_t count = (uint64_t)rows * a->width;
    float *in = p->gather, *all = p->gather + count;
    pack(p, a->in, 0, a->width, rows, in);
    note(p, c, p->lim.comm->all_gather(p->lim.group, in, all, count, TN_F32, NULL, p->err));
    for (uint64_t r = 0; r < p->lim.nrank; r++)
        for (uint64_t i = 0; i < rows; i++)
            memcpy(cpu_row(p, a->out, i, (uint32_t)r * a->width),
                   all + r * count + i * a->width, a->width * sizeof *all);
}

void cpu_do_gather(cpu_program *p, const cpu_cmd *c, uint32_t worker)
{
    const tn_op_gather *a = &c->op->a.gather;
    uint32_t rows = cpu_rows_of(p, a->in);
    if (worker != 0 || rows == 0)
        return;
    if (p->lim.nrank > 1)
        gather_ranks(p, c, rows);
    else
        for (uint64_t i = 0; i < rows; i++)
            memcpy(cpu_row(p, a->out, i, 0), cpu_row(p, a->in, i, 0), a->width * sizeof(float));
}

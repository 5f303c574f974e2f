/* SPDX-License-Identifier: Apache-2.0 */
/* run.c - one step: the commands of its section, on all workers, and what came of it.
 *
 * Every worker walks the same list; what a command decides it decides from the step alone, so
 * all workers decide the same. The two outcomes take turns: while one is filled, the other
 * still shows the step before. */
#include "program.h"

#include <math.h>
#include <time.h>

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void cpu_lap(cpu_program *p, const cpu_op *op)
{
    if (p->lim.profile == 0)
        return;
    uint64_t now = now_ns();
    if (op != NULL)
        p->outcome[p->current].op_ns[op->index - p->section[p->step->section].op0] +=
            now - p->clock;
    p->clock = now;
}

/* cos and sin of every row, formed in double: the pairs are shared out one by one, for a step
 * of one row is the usual one. */
static void fill_rotary(const cpu_program *p, uint32_t worker)
{
    for (uint32_t i = 0; i < p->nrope; i++) {
        const cpu_rotary *t = &p->rope[i];
        uint64_t half = t->dims / 2, from, to;
        cpu_share(p, worker, p->step->nrow * half, &from, &to);
        for (; from < to; from++) {
            int32_t pos = p->pos[from / half];
            double angle = (double)(pos < 0 ? 0 : pos) * t->inv_freq[from % half];
            t->cos[from] = (float)(cos(angle) * t->scale);
            t->sin[from] = (float)(sin(angle) * t->scale);
        }
    }
}

/* A worker that waits at the barrier has its next weights fetched meanwhile. */
static void look_ahead(const cpu_program *p, uint32_t cmd, uint32_t end, uint32_t worker)
{
    const cpu_linear *l = cmd + 1 < end ? p->cmd[cmd + 1].linear : NULL;
    if (l != NULL && cpu_rows_of(p, l->in) == 1)
        cpu_linear_ahead(l, worker);
}

static void run_commands(void *arg, uint32_t worker)
{
    cpu_program *p = arg;
    const cpu_section *s = &p->section[p->step->section];
    p->worker[worker].ticket = 0;
    fill_rotary(p, worker);
    cpu_sync(p, worker);
    if (worker == 0)
        cpu_lap(p, NULL);
    for (uint32_t i = s->cmd0; i < s->cmd0 + s->ncmd; i++) {
        const cpu_cmd *c = &p->cmd[i];
        c->fn(p, c, worker);
        look_ahead(p, i, s->cmd0 + s->ncmd, worker);
        cpu_sync(p, worker);
        if (worker == 0)
            cpu_lap(p, c->op);
        if (atomic_load_explicit(&p->failed, memory_order_relaxed) == i + 1)
            return;
    }
}

/* A draft stands when it is what was drawn and all drafts before it in its sequence stand. */
static void judge_drafts(const tn_step *s, tn_result *r)
{
    for (uint32_t i = 0; i < s->nout; i++) {
        const tn_out *o = &s->out[i];
        bool follows = i > 0 && s->out[i - 1].row + 1 == o->row && s->row_seq[o->row] >= 0 &&
                       s->row_seq[o->row - 1] == s->row_seq[o->row] &&
                       s->out[i - 1].sampling->draft >= 0;
        bool stands = !follows || (r[i - 1].flags & TN_RESULT_ACCEPTED) != 0;
        if (stands && o->sampling->draft >= 0 && r[i].token == o->sampling->draft &&
            (o->sampling->flags & TN_SAMPLE_SCORE) == 0)
            r[i].flags |= TN_RESULT_ACCEPTED;
    }
}

/* How many rows of each draft sequence stand, for a next step that asks for the verdict. */
static void keep_verdicts(cpu_program *p, const tn_step *s, const tn_result *r)
{
    for (uint32_t i = 0; i < s->nseq; i++)
        if ((s->seq[i].flags & TN_SEQ_DRAFT) != 0 && s->seq[i].state_out >= 0)
            p->verdict[s->seq[i].state_out] = s->seq[i].nrow > 0;
    for (uint32_t i = 0; i < s->nout; i++) {
        int32_t q = s->row_seq[s->out[i].row];
        if ((r[i].flags & TN_RESULT_ACCEPTED) != 0 && q >= 0 &&
            (s->seq[q].flags & TN_SEQ_DRAFT) != 0 && s->seq[q].state_out >= 0)
            p->verdict[s->seq[q].state_out]++;
    }
}

static void open_outcome(cpu_program *p, const tn_step *s)
{
    const cpu_section *section = &p->section[s->section];
    cpu_outcome *o = &p->outcome[p->current];
    o->number = s->number;
    o->results = (tn_results){.size = sizeof o->results, .nout = s->nout,
                              .top_stride = p->lim.top_max, .result = o->result,
                              .top_token = o->top_token, .top_logprob = o->top_logprob};
    for (uint32_t i = 0; i < s->nout; i++)
        o->result[i] = (tn_result){.token = -1, .logprob = NAN};
    if (p->lim.profile != 0) {
        o->results.nop = section->nop;
        o->results.op_ns = o->op_ns;
        memset(o->op_ns, 0, section->nop * sizeof *o->op_ns);
    }
}

tn_status cpu_run_step(cpu_program *p, const tn_step *s, tn_err *err)
{
    tn_status st = cpu_step_take(p, s, err);
    if (st != TN_OK)
        return st;
    p->step = s;
    p->err = err;
    p->status = TN_OK;
    p->current ^= 1;
    open_outcome(p, s);
    atomic_store(&p->ticket, 0);
    atomic_store(&p->failed, 0);
    cpu_pool_run(p->dev->pool, run_commands, p);
    cpu_outcome *o = &p->outcome[p->current];
    if (p->status != TN_OK)
        o->number = UINT64_MAX;
    else if (p->section[s->section].vocab > 0)
        judge_drafts(s, o->result);
    if (p->status == TN_OK && p->nstate > 0)
        keep_verdicts(p, s, o->result);
    return p->status;
}

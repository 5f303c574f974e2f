/* SPDX-License-Identifier: Apache-2.0 */
/* curanks.c - one rank of several: what goes over the communicator, and waiting for it.
 *
 * Sums and gathers are calls on the step's stream, and are captured with it. All ranks make the
 * same calls in the same order: what they are follows from the recipe and from the step's shape
 * alone. A kernel of the communicator waits for its peers without end, so whoever waits for the
 * stream asks for the group's health meanwhile, and aborts it when that is bad. */
#include "cuprogram.h"

#include <sched.h>

#define GATHER_ROWS 32u          /* taken at a time: bounds what they are gathered in */
#define LOOK_NS 1000000u         /* between questions for the group's health */

tn_status cu_ranks_check(const tn_limits *l, uint32_t first, tn_err *err)
{
    if (l->nrank < 2)
        return TN_OK;
    if (first > 0) /* communicators count from the driver's first card */
        return tn_fail(err, TN_CONFIG, "cuda: device: %u; ranks take the driver's cards in order, so "
                       "name those to be used in CUDA_VISIBLE_DEVICES; expected 0", first);
    if (l->rank >= l->nrank)
        return tn_fail(err, TN_CONFIG, "cuda: rank %u of %u", l->rank, l->nrank);
    if (l->comm != NULL && (l->comm->flags & TN_COMM_DEVICE) == 0)
        return tn_fail(err, TN_UNSUPPORTED, "cuda: the communicator does not work on the card's "
                       "memory");
    return TN_OK;
}

tn_status cu_ranks_joined(const cu_program *p, tn_err *err)
{
    const tn_comm *c = p->lim.comm;
    if (p->lim.nrank < 2)
        return TN_OK;
    if (c == NULL || c->all_reduce == NULL || c->all_gather == NULL || c->health == NULL ||
        c->abort == NULL)
        return tn_fail(err, TN_CONFIG, "cuda: %u ranks need a communicator", p->lim.nrank);
    if (p->lim.group == NULL)
        return tn_fail(err, TN_CONFIG, "cuda: rank %u of %u has joined no group", p->lim.rank,
                       p->lim.nrank);
    return TN_OK;
}

/* -------------------------------------------------------------------------- sum and gather */

/* Rows lie one behind the other, with what pads them: that is summed, too, and never read. */
tn_status cu_sum(const cu_program *p, const cu_cmd *c, uint32_t rows, tn_err *err)
{
    const gpu_span *x = &c->a.sum.x;
    if (rows == 0)
        return TN_OK;
    return p->lim.comm->all_reduce(p->lim.group, x->data, (uint64_t)rows * x->stride, x->type,
                                   p->dev->stream, err);
}

uint64_t cu_gather_bytes(const cu_program *p, uint32_t rows, uint32_t stride)
{
    return (uint64_t)p->lim.nrank * (rows < GATHER_ROWS ? rows : GATHER_ROWS) * stride *
           sizeof(float);
}

tn_status cu_gather(const cu_program *p, const cu_cmd *c, uint32_t rows, tn_err *err)
{
    const gpu_span *in = &c->a.gather.in;
    cudaStream_t stream = p->dev->stream;
    for (uint32_t row0 = 0, n; row0 < rows; row0 += n) {
        n = rows - row0 < GATHER_ROWS ? rows - row0 : GATHER_ROWS;
        const float *from = (const float *)in->data + (uint64_t)row0 * in->stride;
        tn_status st = p->lim.comm->all_gather(p->lim.group, from, c->a.gather.all,
                                               (uint64_t)n * in->stride, TN_F32, stream, err);
        if (st != TN_OK)
            return st;
        cudaError_t e = gpu_place(c->a.gather.all, p->lim.nrank, in->stride, c->a.gather.width,
                                  c->a.gather.out, c->a.gather.rows, row0, n, &p->step, stream);
        if (e != cudaSuccess)
            return cu_fail(err, e, "placing what ranks gave");
    }
    return TN_OK;
}

/* --------------------------------------------------------------------------------- waiting */

/* Of a group that is not well what runs is freed, and what it left is worth nothing. */
static tn_status look(const cu_program *p, tn_err *err)
{
    tn_status st = p->lim.comm->health(p->lim.group, err);
    if (st == TN_OK)
        return st;
    p->lim.comm->abort(p->lim.group);
    return TN_UNAVAILABLE;
}

/* A look is due now and then while something is waited for. */
static tn_status look_if_due(cu_program *p, tn_err *err)
{
    const tn_host *h = p->dev->host;
    uint64_t now = h->clock(h->ctx);
    if (now - p->looked < LOOK_NS)
        return TN_OK;
    p->looked = now;
    return look(p, err);
}

static cudaError_t ask(const cu_program *p, cudaEvent_t event)
{
    return event != NULL ? cudaEventQuery(event) : cudaStreamQuery(p->dev->stream);
}

/* Before reserve nothing of the group's was run, and it may not be there. */
static bool has_others(const cu_program *p)
{
    return p->lim.nrank > 1 && p->reserved;
}

tn_status cu_await(cu_program *p, cudaEvent_t event, const char *what, tn_err *err)
{
    cudaError_t e;
    if (!has_others(p)) {
        e = event != NULL ? cudaEventSynchronize(event) : cudaStreamSynchronize(p->dev->stream);
        return e == cudaSuccess ? TN_OK : cu_fail(err, e, what);
    }
    while ((e = ask(p, event)) == cudaErrorNotReady) {
        cudaGetLastError();
        tn_status st = look_if_due(p, err);
        if (st != TN_OK)
            return st;
        sched_yield();
    }
    return e == cudaSuccess ? look(p, err) : cu_fail(err, e, what);
}

tn_status cu_poll(cu_program *p, cudaEvent_t event, const char *what, tn_err *err)
{
    cudaError_t e = cudaEventQuery(event);
    if (e == cudaErrorNotReady) {
        cudaGetLastError();
        tn_status st = has_others(p) ? look_if_due(p, err) : TN_OK;
        return st == TN_OK ? TN_BUSY : st;
    }
    if (e != cudaSuccess)
        return cu_fail(err, e, what);
    return has_others(p) ? look(p, err) : TN_OK;
}

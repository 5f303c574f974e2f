/* SPDX-License-Identifier: Apache-2.0 */
/* custep.c - one step: checked, sent as one parcel, run, results fetched.
 *
 * Steps of few rows run as captured graphs, one for each rounded shape, made when it is first
 * wanted; larger ones call the kernels one by one. Kernels take the true counts from the
 * parcel, so a graph serves every step that its shape bounds. Two slots take turns, so that
 * the host may fill the next step while this one runs.
 *
 * Histories of long conversations would make parcels of hundreds of megabytes. A parcel has
 * room for the usual ones; what is more goes to the card before it, piece by piece. */
#include "cuprogram.h"

#include <stdarg.h>
#include <stdlib.h>

#define GRAPH_ROWS 256u          /* most rows of a captured step */
#define CONTEXT_LEAST 512u       /* contexts below share a graph */

/* --------------------------------------------------------------------------------- memory */

static uint8_t *piece(uint8_t **at, uint64_t size)
{
    uint8_t *p = *at;
    *at += cu_round(size, 64);
    return p;
}

static void place_step(cu_program *p)
{
    const tn_limits *l = &p->lim;
    uint8_t *at = p->work.data + p->step_at;
    gpu_step *s = &p->step;
    p->parcel = piece(&at, p->parcel_size);
    s->count = (const uint32_t *)(const void *)piece(&at, 64);
    s->token = (const int32_t *)(const void *)piece(&at, l->rows_max * 4ull);
    s->row_seq = (const int32_t *)(const void *)piece(&at, l->rows_max * 4ull);
    s->pos = (const int32_t *)(const void *)piece(&at, l->rows_max * 4ull);
    s->seq = (const tn_seq *)(const void *)piece(&at, l->seqs_max * sizeof(tn_seq));
    s->block = (const int32_t *)(const void *)piece(&at, l->blocks_max * 4ull);
    s->out = (const gpu_out *)(const void *)piece(&at, l->outs_max * sizeof(gpu_out));
    s->extra = (const uint32_t *)(const void *)piece(&at, p->extra_words * 4);
    s->drawn = (int32_t *)(void *)piece(&at, l->outs_max * 4ull);
    uint8_t *bad = piece(&at, cu_bad_size(p) + l->outs_max * sizeof(tn_result));
    p->bad = (uint32_t *)(void *)bad;
    s->result = (tn_result *)(void *)(bad + cu_bad_size(p));
    s->top_token = (int32_t *)(void *)piece(&at, (uint64_t)l->outs_max * l->top_max * 4);
    s->top_logprob = (float *)(void *)piece(&at, (uint64_t)l->outs_max * l->top_max * 4);
    if (p->nstate > 0)
        s->verdict = (int32_t *)(void *)(p->states.data + cu_slot_bytes(p) * p->nslot);
}

static cudaError_t pinned(void **p, uint64_t size)
{
    return cudaHostAlloc(p, size > 0 ? size : 64, cudaHostAllocDefault);
}

static tn_status open_slot(cu_program *p, cu_slot *t, tn_err *err)
{
    const tn_limits *l = &p->lim;
    uint64_t top = (uint64_t)l->outs_max * l->top_max;
    t->number = UINT64_MAX;
    t->op_ns = cu_take(p, p->nop + 1, sizeof *t->op_ns);
    if (t->op_ns == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cuda: no memory for a step's times");
    cudaError_t e = pinned((void **)&t->parcel, p->parcel_size);
    if (e == cudaSuccess)
        e = pinned((void **)&t->bad, cu_bad_size(p) + l->outs_max * sizeof(tn_result));
    t->result = (tn_result *)(void *)((uint8_t *)t->bad + (e == cudaSuccess ? cu_bad_size(p) : 0));
    if (e == cudaSuccess)
        e = pinned((void **)&t->top_token, top * 4);
    if (e == cudaSuccess)
        e = pinned((void **)&t->top_logprob, top * 4);
    if (e == cudaSuccess)
        e = cudaEventCreateWithFlags(&t->done, cudaEventDisableTiming);
    return e == cudaSuccess ? TN_OK : cu_fail(err, e, "pinned memory for steps");
}

tn_status cu_step_open(cu_program *p, tn_err *err)
{
    place_step(p);
    tn_status st = open_slot(p, &p->slot[0], err);
    return st == TN_OK ? open_slot(p, &p->slot[1], err) : st;
}

void cu_step_close(cu_program *p)
{
    for (uint32_t i = 0; i < p->ngraph; i++)
        if (p->graph[i].exec != NULL)
            cudaGraphExecDestroy(p->graph[i].exec);
    p->ngraph = 0;
    for (uint32_t i = 0; i < 2; i++) {
        cu_slot *t = &p->slot[i];
        if (t->done != NULL)
            cudaEventDestroy(t->done);
        cudaFreeHost(t->parcel);
        cudaFreeHost(t->bad);
        cudaFreeHost(t->top_token);
        cudaFreeHost(t->top_logprob);
        *t = (cu_slot){.number = UINT64_MAX};
    }
    for (uint32_t i = 0; p->lap != NULL && p->lap[i] != NULL; i++)
        cudaEventDestroy(p->lap[i]);
    p->lap = NULL;
}

/* --------------------------------------------------------------------------------- checks */

static tn_status bad(const tn_step *s, tn_err *err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static tn_status bad(const tn_step *s, tn_err *err, const char *fmt, ...)
{
    char text[384];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return tn_fail(err, TN_INTERNAL, "cuda: step %llu: %s", (unsigned long long)s->number, text);
}

static tn_status check_counts(const cu_program *p, const tn_step *s, tn_err *err)
{
    const struct { const char *name; uint32_t n, max; const void *array; } part[] = {
        {"rows", s->nrow, p->lim.rows_max, s->row_token},
        {"rows", s->nrow, p->lim.rows_max, s->row_seq},
        {"sequences", s->nseq, p->lim.seqs_max, s->seq},
        {"outputs", s->nout, p->lim.outs_max, s->out},
        {"block entries", s->nblock, p->ncache > 0 ? p->lim.blocks_max : s->nblock, s->block},
    };
    for (uint32_t i = 0; i < sizeof part / sizeof part[0]; i++)
        if (part[i].n > part[i].max || (part[i].n > 0 && part[i].array == NULL))
            return bad(s, err, "%u %s; at most %u", part[i].n, part[i].name, part[i].max);
    if (s->section >= p->nsection)
        return bad(s, err, "section %u of %u", s->section, p->nsection);
    return TN_OK;
}

static tn_status check_blocks(const cu_program *p, const tn_step *s, uint32_t i, tn_err *err)
{
    const tn_seq *q = &s->seq[i];
    uint64_t size = p->lim.block_tokens;
    uint64_t n = ((uint64_t)q->context + (uint64_t)q->nrow + size - 1) / size;
    if (q->block0 + n > s->nblock)
        return bad(s, err, "sequence %u needs %llu block entries from %u on; there are %u", i,
                   (unsigned long long)n, q->block0, s->nblock);
    for (uint64_t j = 0; j < n; j++)
        if (s->block[q->block0 + j] < 0 || (uint32_t)s->block[q->block0 + j] >= p->nblock)
            return bad(s, err, "sequence %u: block %d of %u", i, s->block[q->block0 + j],
                       p->nblock);
    return TN_OK;
}

static tn_status check_states(const cu_program *p, const tn_step *s, uint32_t i, tn_err *err)
{
    const tn_seq *q = &s->seq[i];
    bool fresh = (q->flags & TN_SEQ_FRESH) != 0;
    int32_t most = p->lim.drafts_max > 0 ? (int32_t)p->lim.drafts_max + 1 : 0;
    if (((q->flags & TN_SEQ_DRAFT) != 0 && q->nrow > most) || q->accepted < -1 ||
        q->accepted > most || (fresh && q->accepted != 0))
        return bad(s, err, "sequence %u: %d rows, %d pending rows count; at most %d", i, q->nrow,
                   q->accepted, most);
    if ((!fresh && (q->state_in < 0 || (uint32_t)q->state_in >= p->nslot)) || q->state_out < 0 ||
        (uint32_t)q->state_out >= p->nslot)
        return bad(s, err, "sequence %u: states %d and %d of %u", i, q->state_in, q->state_out,
                   p->nslot);
    return TN_OK;
}

static tn_status check_seqs(const cu_program *p, const tn_step *s, tn_err *err)
{
    uint32_t claimed = 0, owned = 0;
    for (uint32_t i = 0; i < s->nseq; i++) {
        const tn_seq *q = &s->seq[i];
        tn_status st = TN_OK;
        if (q->row0 < 0 || q->nrow < 0 || (uint64_t)q->row0 + (uint64_t)q->nrow > s->nrow ||
            q->context < 0 || (uint64_t)q->context + (uint64_t)q->nrow > p->lim.context_max)
            return bad(s, err, "sequence %u: rows %d + %d of %u behind %d tokens of %u", i,
                       q->row0, q->nrow, s->nrow, q->context, p->lim.context_max);
        for (int32_t r = q->row0; r < q->row0 + q->nrow; r++)
            if (s->row_seq[r] != (int32_t)i)
                return bad(s, err, "row %d belongs to sequence %d, not to %u", r, s->row_seq[r], i);
        claimed += (uint32_t)q->nrow;
        if (p->ncache > 0)
            st = check_blocks(p, s, i, err);
        if (st == TN_OK && p->nstate > 0)
            st = check_states(p, s, i, err);
        if (st != TN_OK)
            return st;
    }
    for (uint32_t r = 0; r < s->nrow; r++)
        owned += s->row_seq[r] >= 0;
    return owned == claimed ? TN_OK : bad(s, err, "%u rows name a sequence, sequences hold %u",
                                          owned, claimed);
}

static tn_status check_outs(const cu_program *p, const tn_step *s, tn_err *err)
{
    int64_t vocab = p->section[s->section].vocab;
    uint32_t before = p->slot[p->current].results.nout;
    for (uint32_t i = 0; i < s->nout; i++) {
        const tn_sampling *m = s->out[i].sampling;
        if (s->out[i].row < 0 || (uint32_t)s->out[i].row >= s->nrow)
            return bad(s, err, "output %u: row %d of %u", i, s->out[i].row, s->nrow);
        if (vocab == 0)
            continue;
        if (m == NULL || m->ntop > p->lim.top_max || (m->nbias > 0 && m->bias == NULL) ||
            ((m->flags & TN_SAMPLE_SCORE) != 0 && (m->target < 0 || m->target >= vocab)))
            return bad(s, err, "output %u: impossible sampling", i);
    }
    for (uint32_t r = 0; r < s->nrow; r++)
        if (s->row_token[r] < 0 && s->row_seq[r] >= 0 &&
            (uint32_t)(-1 - (int64_t)s->row_token[r]) >= before)
            return bad(s, err, "row %u takes output %d of the step before, which had %u", r,
                       -1 - s->row_token[r], before);
    return TN_OK;
}

/* ---------------------------------------------------------------------------- the parcel */

typedef struct writer {
    uint8_t *base;
    uint64_t at;
    gpu_parcel *parcel;
} writer;

static void *put(writer *w, uint32_t part, const void *data, uint64_t bytes)
{
    w->at = cu_round(w->at, 16);
    void *to = w->base + w->at;
    w->parcel->from[part] = (uint32_t)(w->at / 4);
    w->parcel->words[part] = (uint32_t)((bytes + 3) / 4);
    if (data != NULL && bytes > 0)
        memcpy(to, data, bytes);
    w->at += bytes;
    return to;
}

static void put_rows(writer *w, const tn_step *s, bool cached)
{
    const uint32_t count[4] = {s->nrow, s->nseq, s->nout, 0};
    put(w, GPU_PARCEL_COUNT, count, sizeof count);
    put(w, GPU_PARCEL_TOKEN, s->row_token, s->nrow * 4ull);
    put(w, GPU_PARCEL_ROW_SEQ, s->row_seq, s->nrow * 4ull);
    int32_t *pos = put(w, GPU_PARCEL_POS, NULL, s->nrow * 4ull);
    for (uint32_t r = 0; r < s->nrow; r++)
        pos[r] = -1;
    for (uint32_t i = 0; i < s->nseq; i++)
        for (int32_t r = 0; r < s->seq[i].nrow; r++)
            pos[s->seq[i].row0 + r] = s->seq[i].context + r;
    put(w, GPU_PARCEL_SEQ, s->seq, s->nseq * sizeof(tn_seq));
    put(w, GPU_PARCEL_BLOCK, s->block, cached ? s->nblock * 4ull : 0);
}

static bool has_penalty(const tn_sampling *m)
{
    return m->history != NULL && m->nhistory > 0 &&
           (m->repetition != 1 || m->frequency != 0 || m->presence != 0);
}

static gpu_out out_of(const tn_out *o)
{
    const tn_sampling *m = o->sampling;
    gpu_out g = {.row = o->row, .history = TN_NONE, .bias = TN_NONE, .mask = TN_NONE,
                 .target = -1, .draft = -1};
    if (m == NULL)
        return g;
    g.flags = m->flags;
    g.top_k = m->top_k;
    g.temperature = m->temperature;
    g.top_p = m->top_p;
    g.min_p = m->min_p;
    g.repetition = m->repetition;
    g.frequency = m->frequency;
    g.presence = m->presence;
    g.target = m->target;
    g.draft = m->draft;
    g.ntop = m->ntop;
    g.seed = m->seed;
    g.draw = m->draw;
    return g;
}

/* Histories, biases and masks on their way to s->extra: behind the parcel's arrays while there
 * is room, and when that is full over to the card from there. */
typedef struct extras {
    cu_program *p;
    uint8_t *room;
    uint64_t size, used;       /* of the room, in bytes */
    uint64_t sent;             /* bytes that are over */
    tn_status st;
    tn_err *err;
} extras;

static void send_extras(extras *x)
{
    uint8_t *to = (uint8_t *)(uintptr_t)x->p->step.extra + x->sent;
    if (x->st == TN_OK) {
        cudaError_t e = cudaMemcpyAsync(to, x->room, x->used, cudaMemcpyHostToDevice,
                                        x->p->dev->stream);
        x->st = e == cudaSuccess ? cu_await(x->p, NULL, "sending a step", x->err)
                                 : cu_fail(x->err, e, "sending a step");
    }
    x->sent += x->used;
    x->used = 0;
}

/* Gives the word at which the data begin, TN_NONE where there are none. */
static uint32_t add_extras(extras *x, const void *data, uint64_t bytes)
{
    uint32_t at = (uint32_t)((x->sent + x->used) / 4);
    const uint8_t *from = data;
    if (data == NULL || bytes == 0)
        return TN_NONE;
    for (uint64_t n; bytes > 0; from += n, bytes -= n) {
        n = x->size - x->used < bytes ? x->size - x->used : bytes;
        memcpy(x->room + x->used, from, n);
        x->used += n;
        if (x->used == x->size)
            send_extras(x);
    }
    return at;
}

static void put_extras(extras *x, gpu_out *g, const tn_sampling *m, uint32_t vocab)
{
    if (m == NULL)
        return;
    if (has_penalty(m)) {
        g->history = add_extras(x, m->history, m->nhistory * 4ull);
        g->nhistory = m->nhistory;
        g->nprompt = m->nprompt;
    }
    g->bias = add_extras(x, m->bias, m->nbias * sizeof(tn_bias));
    g->nbias = m->nbias;
    g->mask = add_extras(x, m->mask, (vocab + 31) / 32 * 4ull);
}

static uint64_t extras_words(const tn_step *s, uint32_t vocab)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < s->nout; i++) {
        const tn_sampling *m = s->out[i].sampling;
        n += m == NULL ? 0 : (has_penalty(m) ? m->nhistory : 0) + 2ull * m->nbias +
                                 (m->mask != NULL ? (vocab + 31) / 32 : 0);
    }
    return n;
}

static tn_status fill_parcel(cu_program *p, cu_slot *t, const tn_step *s, uint64_t *bytes,
                             tn_err *err)
{
    writer w = {.base = t->parcel, .at = cu_round(sizeof(gpu_parcel), 64),
                .parcel = (gpu_parcel *)(void *)t->parcel};
    uint32_t vocab = p->section[s->section].vocab;
    if (vocab > 0 && extras_words(s, vocab) > p->extra_words)
        return bad(s, err, "histories, biases and masks want %llu bytes; at most %llu",
                   (unsigned long long)(extras_words(s, vocab) * 4),
                   (unsigned long long)(p->extra_words * 4));
    put_rows(&w, s, p->ncache > 0);
    gpu_out *out = put(&w, GPU_PARCEL_OUT, NULL, s->nout * sizeof(gpu_out));
    uint8_t *room = put(&w, GPU_PARCEL_EXTRA, NULL, 0);
    extras x = {.p = p, .err = err, .room = room, .size = (p->parcel_size - w.at) / 4 * 4};
    for (uint32_t i = 0; i < s->nout; i++) {
        out[i] = out_of(&s->out[i]);
        if (vocab > 0)
            put_extras(&x, &out[i], s->out[i].sampling, vocab);
    }
    if (x.sent > 0)
        send_extras(&x);
    if (x.st != TN_OK)
        return x.st;
    w.parcel->words[GPU_PARCEL_EXTRA] = (uint32_t)(x.used / 4);
    *bytes = w.at + x.used;
    return TN_OK;
}

/* ------------------------------------------------------------------------------- commands */

static cudaError_t call(const cu_program *p, const cu_cmd *c, const gpu_shape *n)
{
    const gpu_step *s = &p->step;
    const uint32_t nsm = p->dev->nsm, most[3] = {n->rows, n->seqs, n->outs};
    cudaStream_t stream = p->dev->stream;
    /* what has no rows in this step has nothing to do */
    switch (c->call) {
    case CU_EMBED:
        return n->rows == 0 ? cudaSuccess : gpu_embed(&c->a.embed.w, c->a.embed.first,
                                                      c->a.embed.scale, c->a.embed.out, s,
                                                      n->rows, stream);
    case CU_ROTARY:
        return n->rows == 0 ? cudaSuccess : gpu_rotary(c->a.rotary.inv_freq, c->a.rotary.dims,
                                                       c->a.rotary.scale, c->a.rotary.cs, s, n,
                                                       stream);
    case CU_NORM:
        return most[c->a.norm.rows] == 0 ? cudaSuccess
                                         : gpu_do_norm(&c->a.norm, s, most[c->a.norm.rows], stream);
    case CU_PREPARE:
        return most[c->a.prepare.rows] == 0
                   ? cudaSuccess
                   : gpu_prepare(c->a.prepare.in, c->a.prepare.perm, c->a.prepare.k,
                                 c->a.prepare.cols, c->a.prepare.out, c->a.prepare.rows, s,
                                 most[c->a.prepare.rows], stream);
    case CU_LINEAR:
        return most[c->a.linear->rows] == 0
                   ? cudaSuccess
                   : gpu_do_linear(c->a.linear, s, most[c->a.linear->rows], nsm, stream);
    case CU_ACT_MUL:
        return most[c->a.act_mul.rows] == 0
                   ? cudaSuccess
                   : gpu_act_mul(c->a.act_mul.a, c->a.act_mul.b, c->a.act_mul.out,
                                 c->a.act_mul.width, c->a.act_mul.act, c->a.act_mul.rows, s,
                                 most[c->a.act_mul.rows], stream);
    case CU_HEADS:
        return n->rows == 0 ? cudaSuccess : gpu_do_heads(&c->a.heads, s, n, stream);
    case CU_ATTEND:
        return n->rows == 0 ? cudaSuccess : gpu_do_attend(&c->a.attend, s, n, nsm, stream);
    case CU_DELTA:
        return n->seqs == 0 && n->rows == 0 ? cudaSuccess : gpu_do_delta(&c->a.delta, s, n, stream);
    case CU_ROUTE:
        return most[c->a.route.rows] == 0
                   ? cudaSuccess
                   : gpu_do_route(&c->a.route, s, most[c->a.route.rows], stream);
    case CU_EXPERTS:
        return most[c->a.experts->rows] == 0
                   ? cudaSuccess
                   : gpu_do_experts(c->a.experts, s, most[c->a.experts->rows], nsm, stream);
    case CU_COMBINE:
        return most[c->a.combine->experts->rows] == 0
                   ? cudaSuccess
                   : gpu_do_combine(c->a.combine, s, most[c->a.combine->experts->rows], stream);
    case CU_MIX:
        return most[c->a.mix.rows] == 0
                   ? cudaSuccess
                   : gpu_mix(c->a.mix.in, c->a.mix.gate, c->a.mix.out, c->a.mix.width,
                             c->a.mix.scale, c->a.mix.add, c->a.mix.rows, s,
                             most[c->a.mix.rows], stream);
    case CU_PICK:
        return n->outs == 0 ? cudaSuccess : gpu_pick(c->a.pick.in, c->a.pick.out,
                                                     c->a.pick.width, s, n->outs, stream);
    case CU_SAMPLE:
        return n->outs == 0 ? cudaSuccess : gpu_do_sample(&c->a.sample, s, n, stream);
    case CU_SUM:
    case CU_GATHER: break;     /* the communicator's, with a sentence of their own */
    }
    return cudaErrorInvalidValue;
}

static tn_status op_fail(const cu_program *p, const cu_cmd *c, cudaError_t e, tn_err *err)
{
    char what[160];
    const char *name = cu_op(p, c->op)->name;
    snprintf(what, sizeof what, "recipe %s: operation %u %s", p->name, c->op,
             name != NULL ? name : "?");
    return cu_fail(err, e, what);
}

static tn_status do_one(const cu_program *p, const cu_cmd *c, const gpu_shape *n, tn_err *err)
{
    const uint32_t most[3] = {n->rows, n->seqs, n->outs};
    if (c->call == CU_SUM)
        return cu_sum(p, c, most[c->a.sum.rows], err);
    if (c->call == CU_GATHER)
        return cu_gather(p, c, most[c->a.gather.rows], err);
    cudaError_t e = call(p, c, n);
    return e == cudaSuccess ? TN_OK : op_fail(p, c, e, err);
}

static tn_status unpack(const cu_program *p, tn_err *err)
{
    cudaError_t e = gpu_unpack((const gpu_parcel *)(const void *)p->parcel, &p->step,
                               p->dev->stream);
    return e == cudaSuccess ? TN_OK : cu_fail(err, e, "unpacking a step");
}

static tn_status call_all(const cu_program *p, uint32_t section, const gpu_shape *n, tn_err *err)
{
    const cu_section *s = &p->section[section];
    tn_status st = unpack(p, err);
    for (uint32_t i = s->cmd0; st == TN_OK && i < s->cmd0 + s->ncmd; i++)
        st = do_one(p, &p->cmd[i], n, err);
    return st;
}

/* With an event before every command and behind the last. */
static tn_status call_timed(cu_program *p, uint32_t section, const gpu_shape *n, tn_err *err)
{
    const cu_section *s = &p->section[section];
    cudaError_t e = cudaSuccess;
    if (p->lap == NULL) {
        p->lap = cu_take(p, p->ncmd + 2, sizeof *p->lap);
        if (p->lap == NULL)
            return tn_fail(err, TN_NO_MEMORY, "cuda: no memory for times");
        for (uint32_t i = 0; i < p->ncmd + 1 && e == cudaSuccess; i++)
            e = cudaEventCreateWithFlags(&p->lap[i], cudaEventDefault);
    }
    tn_status st = e == cudaSuccess ? unpack(p, err) : cu_fail(err, e, "events");
    for (uint32_t i = 0; st == TN_OK && i < s->ncmd; i++) {
        e = cudaEventRecord(p->lap[i], p->dev->stream);
        st = e == cudaSuccess ? do_one(p, &p->cmd[s->cmd0 + i], n, err)
                              : op_fail(p, &p->cmd[s->cmd0 + i], e, err);
    }
    if (st == TN_OK && (e = cudaEventRecord(p->lap[s->ncmd], p->dev->stream)) != cudaSuccess)
        st = cu_fail(err, e, "events");
    return st;
}

/* --------------------------------------------------------------------------------- graphs */

/* 1, 2, 4, 8, 12, 16, 24, 32, ...: up to a third of padding. */
static uint32_t bucket(uint32_t n, uint32_t most)
{
    uint32_t size = 1;
    while (size < n)
        size *= 2;
    if (size > 8 && n <= size / 2 + size / 4)
        size = size / 2 + size / 4;
    return size < most ? size : most;
}

static gpu_shape shape_of(const cu_program *p, const tn_step *s)
{
    gpu_shape n = {.rows = s->nrow, .seqs = s->nseq, .outs = s->nout};
    for (uint32_t i = 0; i < s->nseq; i++) {
        uint32_t rows = (uint32_t)s->seq[i].nrow, sees = rows + (uint32_t)s->seq[i].context;
        n.seq_rows = rows > n.seq_rows ? rows : n.seq_rows;
        n.context = sees > n.context ? sees : n.context;
    }
    (void)p;
    return n;
}

static bool may_capture(const cu_program *p, const gpu_shape *n)
{
    return p->dev->graphs && p->lim.profile == 0 && n->rows > 0 && n->rows <= GRAPH_ROWS &&
           n->outs > 0 && n->seqs > 0 && n->seq_rows <= 1 + p->lim.drafts_max &&
           (p->lim.nrank < 2 || (p->lim.comm->flags & TN_COMM_CAPTURABLE) != 0);
}

static gpu_shape rounded(const cu_program *p, const gpu_shape *n)
{
    gpu_shape r = {.rows = bucket(n->rows, p->lim.rows_max),
                   .seqs = bucket(n->seqs, p->lim.seqs_max),
                   .outs = bucket(n->outs, p->lim.outs_max), .seq_rows = n->seq_rows,
                   .context = CONTEXT_LEAST};
    while (r.context < n->context)
        r.context *= 2;
    return r;
}

static tn_status capture(cu_program *p, cu_graph *g, tn_err *err)
{
    cudaGraph_t graph = NULL;
    cudaError_t e = cudaStreamBeginCapture(p->dev->stream, cudaStreamCaptureModeThreadLocal);
    if (e != cudaSuccess)
        return cu_fail(err, e, "capturing a step");
    tn_status st = call_all(p, g->section, &g->shape, err);
    e = cudaStreamEndCapture(p->dev->stream, &graph);
    if (st == TN_OK && e == cudaSuccess)
        e = cudaGraphInstantiate(&g->exec, graph, 0);
    if (graph != NULL)
        cudaGraphDestroy(graph);
    if (st == TN_OK && e != cudaSuccess)
        st = cu_fail(err, e, "capturing a step");
    return st;
}

/* Room for one more graph; the longest unused goes when there is none. */
static tn_status graph_room(cu_program *p, cu_graph **out, tn_err *err)
{
    if (p->ngraph < CU_GRAPHS_MAX) {
        *out = &p->graph[p->ngraph++];
        return TN_OK;
    }
    cu_graph *old = &p->graph[0];
    for (uint32_t i = 1; i < p->ngraph; i++)
        old = p->graph[i].used < old->used ? &p->graph[i] : old;
    tn_status st = cu_await(p, NULL, "a step", err); /* it may be running */
    if (st != TN_OK)
        return st;
    cu_count(p->dev, p->dev->graphs_dropped, 1);
    if (old->exec != NULL)
        cudaGraphExecDestroy(old->exec);
    *out = old;
    return TN_OK;
}

/* The graph of this shape, made now if need be; NULL in *out: run without. A rank alone may do so
 * when it cannot capture; with others that is a failure, for all count each other's calls. */
static tn_status find_graph(cu_program *p, uint32_t section, const gpu_shape *n, cu_graph **out,
                            tn_err *err)
{
    gpu_shape want = rounded(p, n);
    cu_graph *g = NULL;
    *out = NULL;
    for (uint32_t i = 0; i < p->ngraph && g == NULL; i++)
        if (p->graph[i].section == section &&
            memcmp(&p->graph[i].shape, &want, sizeof want) == 0)
            g = &p->graph[i];
    if (g == NULL) {
        tn_status st = graph_room(p, &g, err);
        if (st != TN_OK)
            return st;
        *g = (cu_graph){.section = section, .shape = want};
        st = capture(p, g, err);
        if (st != TN_OK && (cudaPeekAtLastError() != cudaSuccess || p->lim.nrank > 1))
            return st;         /* not the capture's own fault */
    }
    g->used = p->nstep;
    *out = g->exec != NULL ? g : NULL;
    return TN_OK;
}

static tn_status enqueue(cu_program *p, const tn_step *s, tn_err *err)
{
    gpu_shape n = shape_of(p, s);
    cu_graph *g = NULL;
    if (p->lim.profile != 0)
        return call_timed(p, s->section, &n, err);
    if (may_capture(p, &n)) {
        tn_status st = find_graph(p, s->section, &n, &g, err);
        if (st != TN_OK)
            return st;
    }
    if (g == NULL)
        return call_all(p, s->section, &n, err);
    cudaError_t e = cudaGraphLaunch(g->exec, p->dev->stream);
    cu_count(p->dev, p->dev->graph_steps, 1);
    return e == cudaSuccess ? TN_OK : cu_fail(err, e, "launching a step");
}

/* --------------------------------------------------------------------------- run and wait */

static tn_status fetch(cu_program *p, cu_slot *t, const tn_step *s, tn_err *err)
{
    const gpu_step *d = &p->step;
    cudaStream_t stream = p->dev->stream;
    bool top = false;
    cudaError_t e = cudaSuccess;
    uint32_t vocab = p->section[s->section].vocab;
    for (uint32_t i = 0; vocab > 0 && i < s->nout; i++)
        top = top || s->out[i].sampling->ntop > 0;
    t->fetched = s->nout > 0 && vocab > 0;
    if (t->fetched)            /* what was counted of bad rows lies right before the results */
        e = cudaMemcpyAsync(t->bad, p->bad, cu_bad_size(p) + s->nout * sizeof(tn_result),
                            cudaMemcpyDeviceToHost, stream);
    uint64_t bytes = (uint64_t)s->nout * p->lim.top_max * 4;
    if (e == cudaSuccess && top)
        e = cudaMemcpyAsync(t->top_token, d->top_token, bytes, cudaMemcpyDeviceToHost, stream);
    if (e == cudaSuccess && top)
        e = cudaMemcpyAsync(t->top_logprob, d->top_logprob, bytes, cudaMemcpyDeviceToHost, stream);
    if (e == cudaSuccess)
        e = cudaEventRecord(t->done, stream);
    return e == cudaSuccess ? TN_OK : cu_fail(err, e, "fetching results");
}

static void open_results(const cu_program *p, cu_slot *t, const tn_step *s)
{
    t->results = (tn_results){.size = sizeof t->results, .nout = s->nout,
                              .top_stride = p->lim.top_max, .result = t->result,
                              .top_token = t->top_token, .top_logprob = t->top_logprob};
    if (p->section[s->section].vocab == 0)
        for (uint32_t i = 0; i < s->nout; i++)
            t->result[i] = (tn_result){.token = -1};
    if (p->lim.profile != 0) {
        t->results.nop = p->section[s->section].nop;
        t->results.op_ns = t->op_ns;
    }
}

static tn_status check_ready(cu_program *p, tn_err *err)
{
    if (!p->reserved)
        return tn_fail(err, TN_INTERNAL, "cuda: run before reserve");
    for (uint32_t i = 0; p->npacked < p->nweight && i < p->nweight; i++)
        if (!p->weight[i].packed)
            return tn_fail(err, TN_INTERNAL, "cuda: run before weight %s was packed",
                           p->weight[i].spec.name);
    return p->cleared ? TN_OK : cu_clear(p, err);
}

/* Times of a profiled step, once it is done. */
static tn_status take_times(cu_program *p, cu_slot *t, uint32_t section, tn_err *err)
{
    const cu_section *s = &p->section[section];
    memset(t->op_ns, 0, s->nop * sizeof *t->op_ns);
    for (uint32_t i = 0; i < s->ncmd; i++) {
        float ms = 0;
        cudaError_t e = cudaEventElapsedTime(&ms, p->lap[i], p->lap[i + 1]);
        if (e != cudaSuccess)
            return cu_fail(err, e, "timing a step");
        t->op_ns[p->cmd[s->cmd0 + i].op - s->op0] += (uint64_t)((double)ms * 1e6);
    }
    return TN_OK;
}

tn_status cu_run(cu_program *p, const tn_step *s, tn_err *err)
{
    if (s == NULL || s->size < sizeof *s)
        return tn_fail(err, TN_INTERNAL, "cuda: the step is missing or too short");
    tn_status st = check_ready(p, err);
    tn_status (*const check[])(const cu_program *, const tn_step *, tn_err *) = {
        check_counts, check_seqs, check_outs};
    for (uint32_t i = 0; st == TN_OK && i < sizeof check / sizeof check[0]; i++)
        st = check[i](p, s, err);
    if (st != TN_OK)
        return st;
    cu_slot *t = &p->slot[p->current ^ 1];
    uint64_t bytes = 0;
    cudaError_t e = cudaSetDevice(p->dev->index);
    if (e != cudaSuccess)
        return cu_fail(err, e, "waiting for a step");
    if (t->number != UINT64_MAX) /* then its parcel is ours again */
        st = cu_await(p, t->done, "waiting for a step", err);
    if (st == TN_OK)
        st = fill_parcel(p, t, s, &bytes, err);
    if (st != TN_OK)
        return st;
    p->current ^= 1;
    p->nstep++;
    t->number = UINT64_MAX;
    e = cudaMemcpyAsync(p->parcel, t->parcel, bytes, cudaMemcpyHostToDevice, p->dev->stream);
    if (e != cudaSuccess)
        return cu_fail(err, e, "sending a step");
    open_results(p, t, s);
    st = enqueue(p, s, err);
    if (st == TN_OK)
        st = fetch(p, t, s, err);
    if (st == TN_OK && p->lim.profile != 0)
        st = cu_await(p, NULL, "a step", err);
    if (st == TN_OK && p->lim.profile != 0)
        st = take_times(p, t, s->section, err);
    if (st == TN_OK) {
        t->number = s->number;
    } else {                   /* its parcel may be on its way, and it drew nothing */
        tn_err why;
        (void)cu_await(p, NULL, "a step", &why);
        t->results.nout = 0;
    }
    return st;
}

tn_status cu_wait(cu_program *p, uint64_t number, bool poll, const tn_results **out, tn_err *err)
{
    for (uint32_t i = 0; i < 2; i++) {
        cu_slot *t = &p->slot[i];
        if (t->number != number)
            continue;
        tn_status st = poll ? cu_poll(p, t->done, "a step", err)
                            : cu_await(p, t->done, "a step", err);
        if (st != TN_OK)
            return st;
        cu_bad_look(p, t);
        *out = &t->results;
        return TN_OK;
    }
    return tn_fail(err, TN_INTERNAL, "cuda: wait for step %llu, which was not run or is gone",
                   (unsigned long long)number);
}

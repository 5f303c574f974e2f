/* SPDX-License-Identifier: Apache-2.0 */
/* steps.c - checks one step against what was reserved, and works out what all layers share:
 * ids, positions, tiles of rows.
 *
 * A step comes from our own core, yet every index in it reaches memory of other sequences, so
 * each one is looked at. That is a few hundred comparisons. */
#include "program.h"

static tn_status bad(const tn_step *s, tn_err *err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static tn_status bad(const tn_step *s, tn_err *err, const char *fmt, ...)
{
    char text[384];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return tn_fail(err, TN_INTERNAL, "cpu: step %llu: %s", (unsigned long long)s->number, text);
}

static tn_status check_counts(const cpu_program *p, const tn_step *s, tn_err *err)
{
    const struct { const char *name; uint32_t n, max; const void *array; } part[] = {
        {"rows", s->nrow, p->lim.rows_max, s->row_token},
        {"rows", s->nrow, p->lim.rows_max, s->row_seq},
        {"sequences", s->nseq, p->lim.seqs_max, s->seq},
        {"outputs", s->nout, p->lim.outs_max, s->out},
        {"block entries", s->nblock, p->ncache > 0 ? p->lim.blocks_max : s->nblock, s->block},
    };
    for (uint32_t i = 0; i < sizeof part / sizeof part[0]; i++) {
        if (part[i].n > part[i].max)
            return bad(s, err, "%u %s; at most %u", part[i].n, part[i].name, part[i].max);
        if (part[i].n > 0 && part[i].array == NULL)
            return bad(s, err, "%u %s without their array", part[i].n, part[i].name);
    }
    if (s->section >= p->nsection)
        return bad(s, err, "section %u of %u", s->section, p->nsection);
    return TN_OK;
}

static tn_status check_blocks(const cpu_program *p, const tn_step *s, uint32_t i, tn_err *err)
{
    const tn_seq *q = &s->seq[i];
    uint64_t tokens = (uint64_t)q->context + (uint64_t)q->nrow, size = p->lim.block_tokens;
    uint64_t n = (tokens + size - 1) / size;
    if (q->block0 + n > s->nblock)
        return bad(s, err, "sequence %u needs %llu block entries from %u on; there are %u", i,
                   (unsigned long long)n, q->block0, s->nblock);
    for (uint64_t j = 0; j < n; j++) {
        int32_t b = s->block[q->block0 + j];
        if (b < 0 || (uint32_t)b >= p->nblock)
            return bad(s, err, "sequence %u: block %d of %u", i, b, p->nblock);
    }
    return TN_OK;
}

static tn_status check_states(const cpu_program *p, const tn_step *s, uint32_t i, tn_err *err)
{
    const tn_seq *q = &s->seq[i];
    bool fresh = (q->flags & TN_SEQ_FRESH) != 0;
    int32_t most = p->lim.drafts_max > 0 ? (int32_t)p->lim.drafts_max + 1 : 0;
    if ((q->flags & TN_SEQ_DRAFT) != 0 && q->nrow > most)
        return bad(s, err, "sequence %u: %d draft rows; at most %d", i, q->nrow, most);
    if (q->accepted < -1 || q->accepted > most || (fresh && q->accepted != 0))
        return bad(s, err, "sequence %u: %d pending rows count; at most %d", i, q->accepted,
                   fresh ? 0 : most);
    if ((!fresh && (q->state_in < 0 || (uint32_t)q->state_in >= p->nslot)) || q->state_out < 0 ||
        (uint32_t)q->state_out >= p->nslot)
        return bad(s, err, "sequence %u: states %d and %d of %u", i, q->state_in, q->state_out,
                   p->nslot);
    return TN_OK;
}

/* Rows and sequences say the same about each other. */
static tn_status check_seqs(const cpu_program *p, const tn_step *s, tn_err *err)
{
    uint32_t claimed = 0, owned = 0;
    for (uint32_t i = 0; i < s->nseq; i++) {
        const tn_seq *q = &s->seq[i];
        tn_status st = TN_OK;
        if (q->row0 < 0 || q->nrow < 0 || (uint64_t)q->row0 + (uint64_t)q->nrow > s->nrow)
            return bad(s, err, "sequence %u: rows %d + %d of %u", i, q->row0, q->nrow, s->nrow);
        if (q->context < 0 || (uint64_t)q->context + (uint64_t)q->nrow > p->lim.context_max)
            return bad(s, err, "sequence %u: %d + %d tokens; the context takes %u", i, q->context,
                       q->nrow, p->lim.context_max);
        for (int32_t r = q->row0; r < q->row0 + q->nrow; r++)
            if (s->row_seq[r] != (int32_t)i)
                return bad(s, err, "row %d belongs to sequence %d, not to %u", r, s->row_seq[r],
                           i);
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
    if (owned != claimed)
        return bad(s, err, "%u rows name a sequence, sequences hold %u", owned, claimed);
    return TN_OK;
}

static tn_status check_outs(const cpu_program *p, const tn_step *s, tn_err *err)
{
    int64_t vocab = p->section[s->section].vocab;
    for (uint32_t i = 0; i < s->nout; i++) {
        const tn_sampling *m = s->out[i].sampling;
        if (s->out[i].row < 0 || (uint32_t)s->out[i].row >= s->nrow)
            return bad(s, err, "output %u: row %d of %u", i, s->out[i].row, s->nrow);
        if (vocab == 0)
            continue;
        if (m == NULL)
            return bad(s, err, "output %u says nothing about sampling", i);
        if (m->ntop > p->lim.top_max)
            return bad(s, err, "output %u: %u log-probabilities; at most %u", i, m->ntop,
                       p->lim.top_max);
        if ((m->flags & TN_SAMPLE_SCORE) != 0 && (m->target < 0 || m->target >= vocab))
            return bad(s, err, "output %u: target %d of %lld tokens", i, m->target,
                       (long long)vocab);
        if (m->nbias > 0 && m->bias == NULL)
            return bad(s, err, "output %u: %u biases without their array", i, m->nbias);
    }
    return TN_OK;
}

/* Ids, and the positions of rows. */
static tn_status fill_rows(cpu_program *p, const tn_step *s, tn_err *err)
{
    const cpu_outcome *before = &p->outcome[p->current];
    for (uint32_t r = 0; r < s->nrow; r++) {
        int32_t t = s->row_token[r];
        p->pos[r] = -1;
        if (t < 0) {
            uint32_t out = (uint32_t)(-1 - (int64_t)t);
            if (out >= before->results.nout)
                return bad(s, err, "row %u takes output %u of the step before, which had %u", r,
                           out, before->results.nout);
            t = before->result[out].token;
        }
        p->token[r] = t;
    }
    for (uint32_t i = 0; i < s->nseq; i++)
        for (int32_t r = 0; r < s->seq[i].nrow; r++)
            p->pos[s->seq[i].row0 + r] = s->seq[i].context + r;
    return TN_OK;
}

/* Sequences cut into tiles of rows, each begun at the sequence's first row of the step. */
static void fill_tiling(cpu_tiling *t, const tn_step *s)
{
    t->ntile = 0;
    for (uint32_t i = 0; i < s->nseq; i++) {
        const tn_seq *q = &s->seq[i];
        for (int32_t r = 0; r < q->nrow; r += (int32_t)t->rows) {
            int32_t n = q->nrow - r < (int32_t)t->rows ? q->nrow - r : (int32_t)t->rows;
            t->tile[t->ntile++] = (cpu_tile){.seq = (int32_t)i, .row0 = q->row0 + r, .nrow = n};
        }
    }
}

tn_status cpu_step_take(cpu_program *p, const tn_step *s, tn_err *err)
{
    if (s == NULL || s->size < sizeof *s)
        return tn_fail(err, TN_INTERNAL, "cpu: the step is missing or too short");
    tn_status st = check_counts(p, s, err);
    if (st == TN_OK)
        st = check_seqs(p, s, err);
    if (st == TN_OK)
        st = check_outs(p, s, err);
    if (st == TN_OK)
        st = fill_rows(p, s, err);
    for (uint32_t i = 0; st == TN_OK && i < p->ntiling; i++)
        fill_tiling(&p->tiling[i], s);
    return st;
}

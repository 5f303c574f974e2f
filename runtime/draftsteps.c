/* SPDX-License-Identifier: Apache-2.0 */
/* draftsteps.c - the steps that draft, and which drafts stand.
 *
 * The drafting section reads, row by row, what the model left of its last step, so its first
 * step has the same rows, each with the token that follows: the guess of the last one that
 * stands is draft 1. For every further draft the section goes on from its own row; all other
 * rows are padding then. */
#include "schedstate.h"

#include <stdlib.h>

#define ROWS_GO_ON 64u           /* above, a second draft would pay for too much padding */

static const tn_sampling greedy = {.flags = TN_SAMPLE_GREEDY, .temperature = 1, .top_p = 1,
                                   .repetition = 1, .target = -1, .draft = -1};

bool tn_drafts_open(tn_sched *s, uint32_t most)
{
    const tn_limits *l = &s->limits;
    tn_draft_step *d = &s->draft;
    d->most = most < TN_DRAFTS_MAX ? most : TN_DRAFTS_MAX;
    if (d->most == 0)
        return true;
    d->row_token = calloc(l->rows_max, sizeof *d->row_token);
    d->row_seq = calloc(l->rows_max, sizeof *d->row_seq);
    d->block = calloc(l->blocks_max, sizeof *d->block);
    d->seq = calloc(l->seqs_max, sizeof *d->seq);
    d->out = calloc(l->seqs_max, sizeof *d->out);
    d->out_choice = calloc(l->seqs_max, sizeof *d->out_choice);
    d->used = calloc(l->seqs_max, sizeof *d->used);
    d->step = (tn_step){.size = sizeof d->step, .section = 1, .row_token = d->row_token,
                        .row_seq = d->row_seq, .seq = d->seq, .out = d->out, .block = d->block};
    return d->row_token != NULL && d->row_seq != NULL && d->block != NULL && d->seq != NULL &&
           d->out != NULL && d->out_choice != NULL && d->used != NULL;
}

void tn_drafts_close(tn_sched *s)
{
    tn_draft_step *d = &s->draft;
    free(d->row_token);
    free(d->row_seq);
    free(d->block);
    free(d->seq);
    free(d->out);
    free(d->out_choice);
    free(d->used);
}

void tn_drafts_planned(tn_sched *s, uint64_t begun_ns)
{
    tn_draft_step *d = &s->draft;
    d->turn = 0;
    d->gained = 0;
    d->begun_ns = begun_ns;
    d->verified = false;
    d->decoding = true;
    for (uint32_t q = 0; q < s->step.nseq; q++) {
        const tn_choice *c = s->seq_choice[q];
        d->verified = d->verified || c->ndraft > 0;
        d->decoding = d->decoding && c->planned == 1 + c->ndraft;
    }
}

/* -------------------------------------------------------------------------- verifying */

/* Does the reply end with this token, drawn as its n-th? */
static bool ends_reply(const tn_choice *c, int32_t token, uint32_t n)
{
    const tn_request *r = c->req;
    return n >= r->max_tokens ||
           (n >= r->sampler.min_tokens && tn_sampler_end(&r->sampler, token) != NULL);
}

uint32_t tn_drafts_stand(tn_sched *s, uint32_t q, const tn_results *r)
{
    tn_choice *c = s->seq_choice[q];
    uint32_t ndraft = c->ndraft, n = 0, o = 0, rows = c->planned - ndraft;
    while (ndraft > 0 && o < s->step.nout && s->note[o].choice != c)
        o++;
    for (; n < ndraft; n++) {
        const tn_result *drawn = &r->result[o + n];
        if ((drawn->flags & TN_RESULT_ACCEPTED) == 0 ||
            ends_reply(c, drawn->token, c->ntoken - c->req->nprompt + n + 1))
            break;
        s->counts.stood_at[n]++;
    }
    s->counts.ndrafted += ndraft > 0;
    s->counts.ndraft += ndraft;
    s->counts.nstood += n;
    c->nstand = n;
    if (s->draft.most > 0)
        s->draft.used[q] = rows + n;
    return rows + n;
}

/* --------------------------------------------------------------------------- drafting */

/* Drafts that the next step of c may hold. */
static uint32_t drafts_wanted(const tn_sched *s, const tn_choice *c)
{
    const tn_request *r = c->req;
    uint32_t most = s->draft.most, reply = c->ntoken - r->nprompt;
    if (c->ntoken - c->ncomputed != 1 || reply == 0 || tn_sampler_scratch(&r->sampler) > 0)
        return 0; /* not decoding yet, or a row's bias would need memory of its own */
    uint32_t left = r->max_tokens - reply - 1; /* the last token needs no guess */
    if (r->logprobs) {
        uint32_t unseen = reply - atomic_load_explicit(&c->nseen, memory_order_acquire);
        uint32_t room = r->report_cap > unseen + 1 ? r->report_cap - unseen - 1 : 0;
        left = left < room ? left : room;
    }
    return left < most ? left : most;
}

/* Blocks for the positions that drafts and their rows will take; what is not there is no draft. */
static uint32_t drafts_room(tn_sched *s, tn_choice *c, uint32_t n)
{
    while (n > 0 && c->nblock < tn_sched_blocks_for(s, c->ntoken + n)) {
        int32_t b = tn_kv_take(s->kv);
        if (b < 0) {
            uint64_t room = (uint64_t)c->nblock * s->block_tokens;
            return room > c->ntoken ? (uint32_t)(room - c->ntoken) : 0;
        }
        tn_sched_table(s, c)[c->nblock++] = b;
    }
    return n;
}

static void blocks_list(tn_sched *s, const tn_choice *c, uint32_t tokens)
{
    tn_draft_step *d = &s->draft;
    uint32_t n = tn_sched_blocks_for(s, tokens);
    memcpy(d->block + d->step.nblock, tn_sched_table(s, c), n * sizeof *d->block);
    d->step.nblock += n;
}

static void seq_add(tn_sched *s, tn_choice *c, uint32_t row0, uint32_t nrow, uint32_t context)
{
    tn_draft_step *d = &s->draft;
    uint32_t q = d->step.nseq++;
    d->seq[q] = (tn_seq){.row0 = (int32_t)row0, .nrow = (int32_t)nrow,
                         .context = (int32_t)context, .block0 = d->step.nblock,
                         .state_in = c->rslot, .state_out = c->rslot};
    for (uint32_t i = 0; i < nrow; i++)
        d->row_seq[row0 + i] = (int32_t)q;
    blocks_list(s, c, context + nrow);
}

static void out_add(tn_sched *s, tn_choice *c, uint32_t row)
{
    tn_draft_step *d = &s->draft;
    d->out_choice[d->step.nout] = c;
    d->out[d->step.nout++] = (tn_out){.row = (int32_t)row, .slot = (int32_t)c->slot,
                                      .sampling = &greedy};
}

static void step_clear(tn_sched *s)
{
    tn_draft_step *d = &s->draft;
    d->step.number = s->step.number;
    d->step.nrow = s->step.nrow;
    d->step.nseq = d->step.nout = d->step.nblock = 0;
    for (uint32_t i = 0; i < d->step.nrow; i++) {
        d->row_token[i] = 0;
        d->row_seq[i] = -1;
    }
}

/* The rows of the model's step that stand, each with the token behind it. */
static void first_turn(tn_sched *s, bool drafts)
{
    tn_draft_step *d = &s->draft;
    step_clear(s);
    for (uint32_t q = 0; q < s->step.nseq; q++) {
        tn_choice *c = s->seq_choice[q];
        if (c == NULL)
            continue;
        uint32_t row0 = (uint32_t)s->seq[q].row0, n = d->used[q], from = c->ncomputed - n;
        for (uint32_t i = 0; i < n; i++)
            d->row_token[row0 + i] = c->token[from + i + 1];
        seq_add(s, c, row0, n, from);
        if (drafts && drafts_room(s, c, drafts_wanted(s, c)) > 0)
            out_add(s, c, row0 + n - 1);
    }
}

/* Whoever may draft more goes on behind its latest draft. */
static void next_turn(tn_sched *s)
{
    tn_draft_step *d = &s->draft;
    step_clear(s);
    for (uint32_t q = 0; q < s->step.nseq; q++) {
        tn_choice *c = s->seq_choice[q];
        if (c == NULL || c->ndraft < d->turn || drafts_wanted(s, c) <= c->ndraft ||
            drafts_room(s, c, c->ndraft + 1) <= c->ndraft)
            continue;
        uint32_t row = (uint32_t)s->seq[q].row0 + d->used[q] - 1;
        d->row_token[row] = c->token[c->ntoken + c->ndraft - 1];
        seq_add(s, c, row, 1, c->ncomputed + c->ndraft - 1);
        out_add(s, c, row);
    }
}

/* The cycle is over: what it took and gave. */
static void account(tn_sched *s, uint64_t now)
{
    tn_draft_step *d = &s->draft;
    bool drafted = d->turn > 0;
    uint32_t n = 0;
    for (uint32_t q = 0; q < s->step.nseq; q++)
        n += s->seq_choice[q] != NULL;
    if (d->decoding && d->verified == drafted && n == s->step.nseq && n > 0)
        tn_payoff_put(&d->payoff, n, drafted, now - d->begun_ns, d->gained);
}

const tn_step *tn_sched_draft(tn_sched *s, uint64_t now)
{
    tn_draft_step *d = &s->draft;
    if (d->most == 0)
        return NULL;
    bool first = d->turn == 0;
    /* A prompt's rows go through the section in any case: it has a cache of its own to fill. */
    bool drafts = first && tn_payoff_drafts(&d->payoff, s->step.nseq);
    if (first && (drafts || !d->decoding))
        first_turn(s, drafts);
    else if (!first && d->turn < d->most && s->step.nrow <= ROWS_GO_ON)
        next_turn(s);
    else
        d->step.nseq = 0;
    if (d->step.nseq > 0)
        return &d->step;
    account(s, now);
    return NULL;
}

void tn_sched_drafted(tn_sched *s, const tn_results *r)
{
    tn_draft_step *d = &s->draft;
    for (uint32_t o = 0; o < d->step.nout; o++) {
        tn_choice *c = d->out_choice[o];
        int32_t id = r->result[o].token;
        if ((r->result[o].flags & TN_RESULT_NONFINITE) == 0 && id >= 0 && (uint32_t)id < s->vocab)
            c->token[c->ntoken + c->ndraft++] = id;
    }
    d->turn++;
    s->step.number++;
}

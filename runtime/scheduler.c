/* SPDX-License-Identifier: Apache-2.0 */
/* scheduler.c - decides what the next step computes, and takes in what it drew. */
#include "schedstate.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

/* Tokens that must be computed for the choice to go on, or for its prompt to be scored. */
static uint32_t goal_of(const tn_choice *c)
{
    return c->req->max_tokens > 0 ? c->ntoken : c->ntoken - 1;
}

static uint32_t nreply_of(const tn_choice *c)
{
    return c->ntoken - c->req->nprompt;
}

/* -------------------------------------------------------------------------- the lists */

static void news_add(tn_sched *s, tn_request *r)
{
    if (r->news)
        return;
    r->news = true;
    r->news_next = s->news;
    s->news = r;
}

tn_request *tn_sched_news(tn_sched *s)
{
    tn_request *r = s->news;
    if (r != NULL) {
        s->news = r->news_next;
        r->news = false;
    }
    return r;
}

/* Before the first that is newer. A preempted one finds its place near the front, a new one
 * at the end. */
static void wait_insert(tn_sched *s, tn_choice *c)
{
    tn_choice *after = s->first, *before = NULL;
    if (s->last != NULL && s->last->order < c->order) {
        after = NULL;
        before = s->last;
    }
    while (after != NULL && after->order < c->order) {
        before = after;
        after = after->next;
    }
    c->prev = before;
    c->next = after;
    *(before != NULL ? &before->next : &s->first) = c;
    *(after != NULL ? &after->prev : &s->last) = c;
    c->state = TN_CHOICE_WAITING;
    s->nwaiting++;
}

static void wait_remove(tn_sched *s, tn_choice *c)
{
    *(c->prev != NULL ? &c->prev->next : &s->first) = c->next;
    *(c->next != NULL ? &c->next->prev : &s->last) = c->prev;
    c->prev = c->next = NULL;
    s->nwaiting--;
}

static void run_insert(tn_sched *s, tn_choice *c)
{
    uint32_t at = s->nrunning++;
    for (; at > 0 && s->running[at - 1]->order > c->order; at--)
        s->running[at] = s->running[at - 1];
    s->running[at] = c;
    c->state = TN_CHOICE_RUNNING;
}

/* Gives slot, state and blocks back. The last blocks go first, so that the beginning of a
 * sequence, which others are likelier to share, is reused last. `valid`: its state stands for
 * its tokens and may be gone on with. */
static void run_release(tn_sched *s, tn_choice *c, bool valid)
{
    const int32_t *table = tn_sched_table(s, c);
    tn_prefix_leave(&s->prefix, c, table, valid);
    while (c->nblock > 0)
        tn_kv_give(s->kv, table[--c->nblock]);
    s->slot[s->nslot++] = c->slot;
    c->slot = TN_NONE;
    c->ncomputed = 0;
    c->nsealed = 0;
    c->planned = 0;
    c->pending = 0;
    c->ndraft = 0;
    s->nleave++;
}

static void run_remove(tn_sched *s, tn_choice *c, bool valid)
{
    uint32_t at = 0;
    while (s->running[at] != c)
        at++;
    memmove(&s->running[at], &s->running[at + 1], (--s->nrunning - at) * sizeof *s->running);
    run_release(s, c, valid);
}

static void begin(tn_sched *s, tn_request *r, uint64_t now)
{
    r->begun = true;
    r->begun_ns = now;
    s->counts.nbegun++;
}

/* ------------------------------------------------------------------- ends of choices */

static void leave(tn_sched *s, tn_choice *c)
{
    if (c->state == TN_CHOICE_DONE)
        return;
    if (c->state == TN_CHOICE_RUNNING)
        run_remove(s, c, atomic_load_explicit(&c->req->failed, memory_order_relaxed) == 0);
    else if (c->state == TN_CHOICE_WAITING)
        wait_remove(s, c);
    else if (c->slot != TN_NONE)
        run_release(s, c, false); /* a fork whose step was lost */
    c->state = TN_CHOICE_DONE;
    if (s->blocked == c)
        s->blocked = NULL;
    if (!c->req->begun) {
        c->req->begun = true;
        s->counts.nbegun++;
    }
    c->req->nopen--;
    news_add(s, c->req);
}

static void leave_all(tn_sched *s, tn_request *r)
{
    for (uint32_t i = 0; i < r->nchoice; i++)
        leave(s, &r->choice[i]);
}

/* Publishes the end, then the count that it is true for. */
static void publish_end(tn_choice *c, uint32_t finish, uint32_t stop_kind, int32_t stop_token)
{
    c->finish = finish;
    c->stop_kind = stop_kind;
    c->stop_token = stop_token;
    c->nfinal = nreply_of(c);
    atomic_store_explicit(&c->ended, 1, memory_order_release);
    atomic_store_explicit(&c->nready, c->nfinal, memory_order_release);
}

static void fail_request(tn_sched *s, tn_choice *c, uint32_t end)
{
    publish_end(c, TN_FINISH_ERROR, 0, -1);
    atomic_store_explicit(&c->req->failed, end, memory_order_release);
    leave_all(s, c->req);
}

/* A request without a reply is finished once its prompt is scored. */
static void end_unreplied(tn_sched *s, tn_request *r)
{
    for (uint32_t i = 0; i < r->nchoice; i++)
        publish_end(&r->choice[i], TN_FINISH_LENGTH, 0, -1);
    leave_all(s, r);
}

/* Reports are kept in a ring: the output thread must have seen what would be overwritten. */
static bool is_paused(const tn_choice *c)
{
    return c->req->logprobs &&
           nreply_of(c) - atomic_load_explicit(&c->nseen, memory_order_acquire) >=
               c->req->report_cap;
}

static bool is_over(const tn_request *r)
{
    return atomic_load_explicit(&r->over, memory_order_acquire) != 0;
}

static bool is_dropped(const tn_choice *c)
{
    return atomic_load_explicit(&c->drop, memory_order_acquire) != 0;
}

void tn_sched_add(tn_sched *s, tn_request *r)
{
    for (uint32_t i = 0; i < r->nchoice; i++)
        r->choice[i].order = s->nadded * TN_CHOICES_MAX + i;
    s->nadded++;
    if (is_over(r)) {
        leave_all(s, r);
        return;
    }
    if (r->max_tokens == 0 && (r->prompt_report == NULL || r->nprompt < 2)) {
        end_unreplied(s, r);
        return;
    }
    wait_insert(s, &r->choice[0]);
}

/* Choices of a request stand side by side in both lists, so dropping all of them leaves the
 * position where it was. */
void tn_sched_sweep(tn_sched *s, bool all)
{
    for (uint32_t i = 0; i < s->nrunning;) {
        tn_choice *c = s->running[i];
        if (is_over(c->req))
            leave_all(s, c->req);
        else if (is_dropped(c))
            leave(s, c);
        else
            i++;
    }
    tn_choice *c = all ? s->first : NULL;
    while (c != NULL) {
        tn_choice *before = c->prev;
        if (is_over(c->req)) {
            leave_all(s, c->req);
            c = before != NULL ? before->next : s->first;
        } else {
            tn_choice *next = c->next;
            if (is_dropped(c))
                leave(s, c);
            c = next;
        }
    }
}

/* ------------------------------------------------------------------------- preemption */

static void preempt(tn_sched *s, tn_choice *c)
{
    run_remove(s, c, true);
    wait_insert(s, c);
    s->has_preempted = true;
    s->counts.npreempt++;
}

/* Puts back the newest sequence that is newer than `c` and not yet in the step. */
static bool preempt_newer(tn_sched *s, const tn_choice *c)
{
    for (uint32_t i = s->nrunning; i-- > 0 && s->running[i]->order > c->order;)
        if (s->running[i]->planned == 0) {
            preempt(s, s->running[i]);
            return true;
        }
    return false;
}

/* ------------------------------------------------------------------- filling the step */

static bool wants_scores(const tn_choice *c)
{
    return c->index == 0 && c->req->prompt_report != NULL &&
           c->req->nscored + 1 < c->req->nprompt;
}

/* Output rows that the next k rows of c come with. */
static uint32_t outs_of(const tn_choice *c, uint32_t k)
{
    uint32_t n = c->req->max_tokens > 0 && c->ncomputed + k >= c->ntoken
                     ? c->ncomputed + k - c->ntoken + 1 : 0;
    if (wants_scores(c)) {
        uint32_t from = c->ncomputed > c->req->nscored ? c->ncomputed : c->req->nscored;
        uint32_t to = c->ncomputed + k;
        if (to > c->req->nprompt - 1)
            to = c->req->nprompt - 1;
        n += to > from ? to - from : 0;
    }
    return n;
}

/* Rows of c that this step still has room for: rows, outputs, entries of the block list. */
static uint32_t rows_fitting(const tn_sched *s, const tn_choice *c)
{
    uint32_t k = goal_of(c) - c->ncomputed + c->ndraft;
    uint32_t outs = s->limits.outs_max - s->step.nout;
    uint64_t tokens = (uint64_t)(s->limits.blocks_max - s->step.nblock) * s->block_tokens;
    if (k > s->limits.rows_max - s->step.nrow)
        k = s->limits.rows_max - s->step.nrow;
    if (c->ncomputed + (uint64_t)k > tokens)
        k = tokens > c->ncomputed ? (uint32_t)(tokens - c->ncomputed) : 0;
    if (s->step.nseq == s->limits.seqs_max)
        k = 0;
    uint32_t stop = tn_prefix_stop(&s->prefix, c);
    if (stop != UINT32_MAX && c->ncomputed + k > stop)
        k = stop - c->ncomputed;
    while (k > 0 && outs_of(c, k) > outs) {
        uint32_t excess = outs_of(c, k) - outs; /* a row has one output at most */
        k -= excess < k ? excess : k;
    }
    return k;
}

int32_t tn_sched_block_take(tn_sched *s)
{
    int32_t b = tn_kv_take(s->kv);
    while (b < 0 && s->states != NULL && tn_states_free_block(s->states))
        b = tn_kv_take(s->kv);
    return b;
}

/* Takes the blocks for k more rows, from newer sequences if need be. Returns the rows that
 * there are blocks for. */
static uint32_t blocks_take(tn_sched *s, tn_choice *c, uint32_t k)
{
    uint32_t need = tn_sched_blocks_for(s, c->ncomputed + k);
    while (c->nblock < need) {
        int32_t b = tn_sched_block_take(s);
        if (b >= 0)
            tn_sched_table(s, c)[c->nblock++] = b;
        else if (!preempt_newer(s, c))
            break;
    }
    uint64_t room = (uint64_t)c->nblock * s->block_tokens - c->ncomputed;
    return k < room ? k : (uint32_t)room;
}

static tn_sampling *out_add(tn_sched *s, tn_choice *c, uint32_t row, uint32_t score)
{
    uint32_t o = s->step.nout++;
    s->note[o] = (tn_note){.choice = c, .score = score};
    s->out[o] = (tn_out){.row = (int32_t)row, .slot = (int32_t)c->slot,
                         .sampling = &s->sampling[o]};
    return &s->sampling[o];
}

/* Draws the token behind the last one, or behind `ndraft` drafts as well. */
static void out_add_draw(tn_sched *s, tn_choice *c, uint32_t row, uint32_t ndraft)
{
    tn_sampling *to = out_add(s, c, row, 0);
    s->note[s->step.nout - 1].draft = ndraft;
    tn_sampler_fill(&c->req->sampler, c->index, c->token, c->req->nprompt, c->ntoken + ndraft,
                    c->scratch, to);
    if (ndraft < c->ndraft)
        to->draft = c->token[c->ntoken + ndraft];
}

static void out_add_score(tn_sched *s, tn_choice *c, uint32_t row, uint32_t token)
{
    *out_add(s, c, row, token) = (tn_sampling){
        .flags = TN_SAMPLE_SCORE,
        .temperature = 1,
        .top_p = 1,
        .repetition = 1,
        .ntop = (uint32_t)c->req->prompt_logprobs,
        .target = c->token[token],
        .draft = -1,
    };
}

/* Lets a resting choice begin with the token that this step draws from its lead's last row.
 * False: no slot, output row or block is left for it. */
static bool fork_add(tn_sched *s, tn_choice *c, tn_choice *lead, uint32_t row)
{
    uint32_t full = lead->ntoken / s->block_tokens;
    bool open = lead->ntoken % s->block_tokens != 0;
    if (s->nslot == 0 || s->step.nout == s->limits.outs_max || (open && !s->can_copy_blocks) ||
        (s->states != NULL && !s->can_copy_states))
        return false;
    int32_t block = open ? tn_sched_block_take(s) : -1;
    if (open && block < 0)
        return false;
    c->slot = s->slot[--s->nslot];
    if (s->states != NULL)
        c->rslot = tn_states_take(s->states); /* there is one for each slot */
    int32_t *to = tn_sched_table(s, c);
    const int32_t *from = tn_sched_table(s, lead);
    for (uint32_t i = 0; i < full; i++) {
        to[i] = from[i];
        tn_kv_hold(s->kv, to[i]);
    }
    if (open)
        to[full] = block;
    c->nblock = full + open;
    s->fork[s->nfork++] = (tn_fork){.choice = c, .lead = lead};
    out_add_draw(s, c, row, 0);
    return true;
}

static void forks_add(tn_sched *s, tn_choice *lead, uint32_t row)
{
    for (uint32_t i = 1; i < lead->req->nchoice; i++) {
        tn_choice *c = &lead->req->choice[i];
        if (c->state == TN_CHOICE_RESTING && !fork_add(s, c, lead, row))
            wait_insert(s, c);
    }
}

static void rows_add(tn_sched *s, tn_choice *c, uint32_t k)
{
    uint32_t row0 = s->step.nrow, q = s->step.nseq++;
    for (uint32_t i = 0; i < k; i++) {
        s->row_token[row0 + i] = c->token[c->ncomputed + i];
        s->row_seq[row0 + i] = (int32_t)q;
    }
    s->seq_choice[q] = c;
    s->seq[q] = (tn_seq){
        .row0 = (int32_t)row0,
        .nrow = (int32_t)k,
        .context = (int32_t)c->ncomputed,
        .block0 = s->step.nblock,
        .state_in = c->rslot,
        .state_out = c->rslot,
        .accepted = s->states != NULL ? (int32_t)c->pending : 0,
        .flags = s->states == NULL ? 0 : (c->ncomputed == 0 ? TN_SEQ_FRESH : 0) |
                                             (c->ndraft > 0 ? TN_SEQ_DRAFT : 0),
    };
    uint32_t nblock = tn_sched_blocks_for(s, c->ncomputed + k);
    memcpy(s->block + s->step.nblock, tn_sched_table(s, c), nblock * sizeof *s->block);
    s->step.nblock += nblock;
    s->step.nrow += k;
    c->planned = k;
}

static void outs_add(tn_sched *s, tn_choice *c, uint32_t k)
{
    uint32_t row0 = s->step.nrow - k, end = c->ncomputed + k;
    if (wants_scores(c)) {
        uint32_t at = c->ncomputed > c->req->nscored ? c->ncomputed : c->req->nscored;
        for (; at < end && at + 1 < c->req->nprompt; at++)
            out_add_score(s, c, row0 + at - c->ncomputed, at + 1);
    }
    if (c->req->max_tokens == 0 || end < c->ntoken)
        return;
    for (uint32_t i = 0; i <= c->ndraft; i++)
        out_add_draw(s, c, s->step.nrow - 1 - c->ndraft + i, i);
    if (c->index == 0 && end == c->req->nprompt)
        forks_add(s, c, s->step.nrow - 1);
}

/* Puts as much of c into the step as fits. */
static void plan_one(tn_sched *s, tn_choice *c)
{
    uint32_t k = rows_fitting(s, c);
    if (k > 0)
        k = blocks_take(s, c, k);
    if (k == 0)
        return;
    uint32_t known = goal_of(c) - c->ncomputed;
    c->ndraft = k > known ? k - known : 0; /* those that fit */
    rows_add(s, c, k);
    outs_add(s, c, k);
}

/* --------------------------------------------------------------------------- admission */

/* Blocks that running sequences will take for the tokens that they already have, one block
 * of headroom each included, so that a newcomer is not put back a moment later. */
static uint64_t blocks_promised(const tn_sched *s)
{
    uint64_t n = s->nfork;
    for (uint32_t i = 0; i < s->nrunning; i++) {
        const tn_choice *c = s->running[i];
        uint32_t need = tn_sched_blocks_for(s, goal_of(c)) + 1;
        n += need > c->nblock ? need - c->nblock : 0;
    }
    return n;
}

static void copy_add(tn_copy *list, uint32_t *n, int32_t from, int32_t to)
{
    if (from != to)
        list[(*n)++] = (tn_copy){.from = from, .to = to};
}

/* Slot, state and blocks for c, which goes on behind what was found. The tokens behind a
 * snapshot's last full block lie in a block of which c needs its own copy, and so does its
 * state. Making room may give up that very snapshot: then what it held is c's now, or is copied
 * before anybody writes there. False: there is no block for that. */
static bool seat(tn_sched *s, tn_choice *c, const tn_found *found)
{
    int32_t *table = s->table + (size_t)s->slot[s->nslot - 1] * s->per_seq;
    tn_snapshot from = {.block = -1};
    if (found->snapshot >= 0) {
        tn_states_touch(s->states, found->snapshot);
        from = *tn_states_at(s->states, found->snapshot);
    }
    for (uint32_t i = 0; i < found->nfull; i++)
        tn_kv_hold(s->kv, table[i]);
    c->nblock = found->nfull;
    if (from.block >= 0 && (table[c->nblock++] = tn_sched_block_take(s)) < 0) {
        while (--c->nblock > 0)
            tn_kv_give(s->kv, table[c->nblock - 1]);
        return false;
    }
    c->slot = s->slot[--s->nslot];
    c->nsealed = found->nfull;
    c->ncomputed = found->ntoken;
    if (s->states == NULL)
        return true;
    c->rslot = tn_states_take(s->states); /* there is one for each slot */
    if (from.block >= 0)
        copy_add(s->block_copy, &s->nblock_copy, from.block, table[found->nfull]);
    c->pending = (uint32_t)from.accepted;
    if (found->snapshot >= 0)
        copy_add(s->state_copy, &s->nstate_copy, from.slot, c->rslot);
    return true;
}

static void found_count(tn_sched *s, tn_choice *c, const tn_found *found, uint64_t now)
{
    if (c->key != NULL) {
        s->counts.cache_queries += c->ntoken;
        s->counts.cache_hits += c->ncomputed;
    }
    if (c->req->begun)
        return;
    begin(s, c->req, now);
    c->req->ncached = c->ncomputed;
    c->req->miss = found->miss;
    c->req->miss_at = found->miss_at;
}

static bool admit(tn_sched *s, tn_choice *c, uint64_t now)
{
    int32_t *table = s->table + (size_t)s->slot[s->nslot - 1] * s->per_seq;
    tn_found found = {.snapshot = -1, .miss = TN_MISS_OFF};
    if (!wants_scores(c)) /* never the last token: its logits are wanted */
        tn_prefix_find(&s->prefix, c, c->ntoken - 1, table, &found);
    uint64_t need = (uint64_t)tn_sched_blocks_for(s, goal_of(c)) - found.nfull + found.nidle;
    if (s->nrunning + s->nfork > 0 && need + blocks_promised(s) > tn_kv_spare(s->kv)) {
        s->blocked = c;
        s->blocked_at = s->nleave;
        return false;
    }
    if (!seat(s, c, &found)) { /* no block beside what was found: without it there is */
        found = (tn_found){.snapshot = -1, .miss = TN_MISS_BLOCK};
        (void)seat(s, c, &found);
    }
    wait_remove(s, c);
    run_insert(s, c);
    found_count(s, c, &found, now);
    return true;
}

static void plan_waiting(tn_sched *s, uint64_t now)
{
    while (s->first != NULL && !s->has_preempted && s->nslot > 0) {
        tn_choice *c = s->first;
        if (s->step.nrow == s->limits.rows_max || s->step.nout == s->limits.outs_max ||
            s->step.nseq == s->limits.seqs_max)
            return;
        if (s->nrunning > 0 && s->blocked == c && s->blocked_at == s->nleave)
            return;
        if (!admit(s, c, now))
            return;
        plan_one(s, c);
    }
}

const tn_step *tn_sched_plan(tn_sched *s, uint64_t now)
{
    s->step.nrow = s->step.nseq = s->step.nout = s->step.nblock = 0;
    s->nfork = 0;
    s->nblock_copy = s->nstate_copy = 0;
    s->has_preempted = false;
    for (uint32_t i = 0; i < s->nrunning; i++)
        if (goal_of(s->running[i]) - s->running[i]->ncomputed == 1 && !is_paused(s->running[i]))
            plan_one(s, s->running[i]);
    for (uint32_t i = 0; i < s->nrunning; i++)
        if (s->running[i]->planned == 0 && !is_paused(s->running[i]))
            plan_one(s, s->running[i]);
    plan_waiting(s, now);
    s->counts.rows = s->step.nrow;
    tn_drafts_planned(s, now);
    return s->step.nrow > 0 ? &s->step : NULL;
}

/* ---------------------------------------------------------------------- taking results in */

/* What the step computed of c can be found from now on. */
static void computed(tn_sched *s, tn_choice *c, uint32_t rows)
{
    uint32_t stop = tn_prefix_stop(&s->prefix, c);
    c->ncomputed += rows;
    c->pending = c->ndraft > 0 && s->states != NULL ? rows : 0;
    c->ndraft = 0;
    c->planned = 0;
    tn_prefix_seal(&s->prefix, c, tn_sched_table(s, c));
    if (c->ncomputed != stop)
        return;
    int32_t to = tn_prefix_snap(&s->prefix, c, tn_sched_table(s, c));
    if (to >= 0)
        s->state_copy[s->nstate_copy++] = (tn_copy){.from = c->rslot, .to = to};
}

static void forks_apply(tn_sched *s)
{
    for (uint32_t i = 0; i < s->nfork; i++) {
        tn_choice *c = s->fork[i].choice;
        const tn_choice *lead = s->fork[i].lead;
        c->ncomputed = lead->ncomputed;
        c->nsealed = c->key != NULL ? c->ncomputed / s->block_tokens : 0;
        c->pending = lead->pending;
        run_insert(s, c);
        if (c->ncomputed % s->block_tokens != 0)
            s->block_copy[s->nblock_copy++] = (tn_copy){
                .from = tn_sched_table(s, lead)[c->nblock - 1],
                .to = tn_sched_table(s, c)[c->nblock - 1],
            };
        if (s->states != NULL)
            s->state_copy[s->nstate_copy++] = (tn_copy){.from = lead->rslot, .to = c->rslot};
    }
    s->nfork = 0;
}

/* Copies what the device said of one row; `ntop` is what was asked for. */
static void report_write(tn_report *to, tn_top *top, const tn_results *r, uint32_t out,
                         uint32_t ntop)
{
    uint32_t n = r->result[out].ntop;
    if (n > ntop)
        n = ntop;
    if (n > r->top_stride)
        n = r->top_stride;
    *to = (tn_report){.logprob = r->result[out].logprob, .rank = r->result[out].rank, .ntop = n};
    for (uint32_t i = 0; i < n; i++)
        top[i] = (tn_top){.token = r->top_token[(size_t)out * r->top_stride + i],
                          .logprob = r->top_logprob[(size_t)out * r->top_stride + i]};
}

/* NaN or infinity: what was computed of c may hold more of them, and must not be found. */
static void poisoned(tn_sched *s, tn_choice *c)
{
    tn_prefix_forget(&s->prefix, c, tn_sched_table(s, c));
    fail_request(s, c, TN_END_NAN);
}

static void score_apply(tn_sched *s, tn_choice *c, uint32_t token, const tn_results *r,
                        uint32_t out)
{
    tn_request *req = c->req;
    size_t ntop = (size_t)req->prompt_logprobs;
    if (r->result[out].flags & TN_RESULT_NONFINITE) {
        poisoned(s, c);
        return;
    }
    report_write(&req->prompt_report[token], req->prompt_top + token * ntop, r, out,
                 (uint32_t)ntop);
    req->nscored = token;
    if (req->max_tokens == 0 && req->nscored + 1 == req->nprompt)
        end_unreplied(s, req);
}

static void draw_apply(tn_sched *s, tn_choice *c, const tn_results *r, uint32_t out,
                       uint64_t now)
{
    tn_request *req = c->req;
    uint32_t at = nreply_of(c) % req->report_cap;
    int32_t id = r->result[out].token;
    if (r->result[out].flags & TN_RESULT_NONFINITE) {
        poisoned(s, c);
        return;
    }
    if (id < 0 || (uint32_t)id >= s->vocab) {
        fail_request(s, c, TN_END_BUG);
        return;
    }
    if (req->logprobs)
        report_write(&c->report[at], c->top + (size_t)at * req->sampler.base.ntop, r, out,
                     req->sampler.base.ntop);
    c->token[c->ntoken++] = id;
    s->draft.gained++;
    uint32_t n = nreply_of(c);
    if (n == 1)
        c->first_ns = now;
    const tn_end_token *end =
        n >= req->sampler.min_tokens ? tn_sampler_end(&req->sampler, id) : NULL;
    if (end != NULL)
        publish_end(c, TN_FINISH_STOP, end->kind, end->kind != 0 ? id : -1);
    else if (n == req->max_tokens)
        publish_end(c, TN_FINISH_LENGTH, 0, -1);
    else
        atomic_store_explicit(&c->nready, n, memory_order_release);
    if (end != NULL || n == req->max_tokens)
        leave(s, c);
    news_add(s, req);
}

void tn_sched_apply(tn_sched *s, const tn_results *r, uint64_t now)
{
    s->nblock_copy = s->nstate_copy = 0;
    for (uint32_t i = 0; i < s->step.nseq; i++)
        computed(s, s->seq_choice[i], tn_drafts_stand(s, i, r));
    forks_apply(s);
    for (uint32_t i = 0; i < s->step.nout; i++) {
        const tn_note *n = &s->note[i];
        if (n->choice->state == TN_CHOICE_DONE || n->draft > n->choice->nstand)
            continue; /* its request failed, or a draft fell, a few rows earlier */
        if (n->score > 0)
            score_apply(s, n->choice, n->score, r, i);
        else
            draw_apply(s, n->choice, r, i, now);
    }
    for (uint32_t i = 0; i < s->step.nseq; i++)
        if (s->seq_choice[i]->state != TN_CHOICE_RUNNING)
            s->seq_choice[i] = NULL; /* its memory may go any time now */
    s->step.number++;
}

void tn_sched_fail(tn_sched *s)
{
    while (s->nrunning > 0 || s->first != NULL) {
        tn_request *r = s->nrunning > 0 ? s->running[0]->req : s->first->req;
        atomic_store_explicit(&r->failed, TN_END_ENGINE, memory_order_release);
        leave_all(s, r);
    }
    s->nfork = 0;
}

const tn_copy *tn_sched_block_copies(const tn_sched *s, uint32_t *n)
{
    *n = s->nblock_copy;
    return s->block_copy;
}

const tn_copy *tn_sched_state_copies(const tn_sched *s, uint32_t *n)
{
    *n = s->nstate_copy;
    return s->state_copy;
}

void tn_sched_count(const tn_sched *s, tn_sched_counts *out)
{
    *out = s->counts;
    out->running = s->nrunning;
    out->waiting = s->nwaiting;
    if (s->states != NULL) {
        out->states_used = tn_states_used(s->states);
        out->states_kept = tn_states_kept(s->states);
    }
}

/* ------------------------------------------------------------------------ open and close */

static tn_status sizes_check(const tn_sched_setup *p, tn_err *err)
{
    const tn_limits *l = p->limits;
    if (l->rows_max == 0 || l->seqs_max == 0 || l->outs_max == 0 || l->block_tokens == 0 ||
        l->context_max == 0)
        return tn_fail(err, TN_CONFIG, "engine: a limit is 0 (rows %u, sequences %u, outputs "
                       "%u, block %u, context %u); expected at least 1 each", l->rows_max,
                       l->seqs_max, l->outs_max, l->block_tokens, l->context_max);
    if (p->max_running == 0 || p->max_running > l->seqs_max)
        return tn_fail(err, TN_CONFIG, "engine: %u running sequences; expected 1 to %u",
                       p->max_running, l->seqs_max);
    uint64_t need = ((uint64_t)l->context_max + l->block_tokens - 1) / l->block_tokens;
    if (p->pools->nblock < need || l->blocks_max < need)
        return tn_fail(err, TN_CONFIG, "engine: %u cache blocks, %u a step; expected at least "
                       "%llu for a context of %u tokens", p->pools->nblock, l->blocks_max,
                       (unsigned long long)need, l->context_max);
    if (p->has_states && p->pools->nslot < p->max_running)
        return tn_fail(err, TN_CONFIG, "engine: %u state slots; expected at least %u, one a "
                       "running sequence", p->pools->nslot, p->max_running);
    return TN_OK;
}

static bool arrays_open(tn_sched *s)
{
    const tn_limits *l = &s->limits;
    s->table = calloc((size_t)s->max_running * s->per_seq, sizeof *s->table);
    s->slot = calloc(s->max_running, sizeof *s->slot);
    s->running = calloc(s->max_running, sizeof *s->running);
    s->row_token = calloc(l->rows_max, sizeof *s->row_token);
    s->row_seq = calloc(l->rows_max, sizeof *s->row_seq);
    s->block = calloc(l->blocks_max, sizeof *s->block);
    s->seq = calloc(l->seqs_max, sizeof *s->seq);
    s->seq_choice = calloc(l->seqs_max, sizeof *s->seq_choice);
    s->out = calloc(l->outs_max, sizeof *s->out);
    s->sampling = calloc(l->outs_max, sizeof *s->sampling);
    s->note = calloc(l->outs_max, sizeof *s->note);
    s->fork = calloc(s->max_running, sizeof *s->fork);
    size_t ncopy = (size_t)s->max_running + l->seqs_max;
    s->block_copy = calloc(ncopy, sizeof *s->block_copy);
    s->state_copy = calloc(ncopy, sizeof *s->state_copy);
    return s->table != NULL && s->slot != NULL && s->running != NULL && s->row_token != NULL &&
           s->row_seq != NULL && s->block != NULL && s->seq != NULL && s->seq_choice != NULL &&
           s->out != NULL && s->sampling != NULL && s->note != NULL && s->fork != NULL &&
           s->block_copy != NULL && s->state_copy != NULL;
}

tn_status tn_sched_open(const tn_sched_setup *p, tn_sched **out, tn_err *err)
{
    tn_status st = sizes_check(p, err);
    if (st != TN_OK)
        return st;
    tn_sched *s = calloc(1, sizeof *s);
    if (s == NULL)
        return tn_fail(err, TN_NO_MEMORY, "engine: no memory");
    s->limits = *p->limits;
    s->kv = p->kv;
    s->block_tokens = p->limits->block_tokens;
    s->per_seq = tn_sched_blocks_for(s, p->limits->context_max);
    s->max_running = p->max_running;
    s->vocab = p->vocab;
    s->can_copy_blocks = p->can_copy_blocks;
    s->can_copy_states = p->can_copy_states;
    bool kept = tn_kv_is_cached(p->kv) && p->can_copy_blocks && p->can_copy_states;
    st = p->has_states ? tn_states_open(p->pools->nslot, s->block_tokens, s->kv, kept, &s->states,
                                        err) : TN_OK;
    if (st == TN_OK && (!arrays_open(s) || !tn_drafts_open(s, p->drafts)))
        st = tn_fail(err, TN_NO_MEMORY, "engine: no memory to plan %u sequences of %u tokens",
                     p->max_running, p->limits->context_max);
    if (st != TN_OK) {
        tn_sched_close(s);
        return st;
    }
    s->prefix = (tn_prefix){.kv = s->kv, .states = s->states, .block_tokens = s->block_tokens,
                            .every = kept ? p->snapshot_every : 0};
    for (uint32_t i = s->max_running; i-- > 0;)
        s->slot[s->nslot++] = i; /* slot 0 goes first */
    s->step = (tn_step){.size = sizeof s->step, .number = p->step_first,
                        .row_token = s->row_token, .row_seq = s->row_seq, .seq = s->seq,
                        .out = s->out, .block = s->block};
    *out = s;
    return TN_OK;
}

void tn_sched_close(tn_sched *s)
{
    if (s == NULL)
        return;
    tn_states_close(s->states);
    tn_drafts_close(s);
    free(s->table);
    free(s->slot);
    free(s->running);
    free(s->row_token);
    free(s->row_seq);
    free(s->block);
    free(s->seq);
    free(s->seq_choice);
    free(s->out);
    free(s->sampling);
    free(s->note);
    free(s->fork);
    free(s->block_copy);
    free(s->state_copy);
    free(s);
}

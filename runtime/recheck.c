/* SPDX-License-Identifier: Apache-2.0 */
/* recheck.c - whether what the prefix cache gave was right: a request that is run again without. */
#include "recheck.h"

#include <stdlib.h>

typedef struct recheck {
    tn_request *was;             /* held */
    tn_request *again;           /* whose arena this lies in; held */
    tn_log *log;                 /* borrowed, may be NULL */
    tn_serve_stats *stats;       /* borrowed */
    uint32_t ntoken;             /* tokens compared */
    bool differs;
} recheck;

bool tn_recheck_fits(const tn_request *was)
{
    return was->end == TN_END_DONE && was->ncached_seen > 0 && was->choice[0].nsent > 0;
}

static void let_go(recheck *k)
{
    tn_request *again = k->again;
    tn_request_release(k->was);
    tn_request_release(again); /* and k with it */
}

static void compare(recheck *k, int32_t found)
{
    const tn_request *was = k->was;
    int32_t said = was->choice[0].token[was->nprompt + k->ntoken];
    if (found == said || k->differs)
        return;
    k->differs = true;
    tn_log_put(k->log, TN_LOG_ERROR, "engine", was->id, "prefix_check: token %u of the reply was %d "
               "with %u of %u prompt tokens from the cache, and is %d without; expected the same, "
               "whatever is cached", k->ntoken, said, was->ncached_seen, was->nprompt, found);
}

/* What was cut off or failed tells nothing. */
static void take_piece(void *user, const tn_piece *p)
{
    recheck *k = user;
    for (uint32_t i = 0; i < p->ntoken; i++, k->ntoken++)
        compare(k, p->token[i].self.token);
    if (!p->last)
        return;
    if (k->differs || (p->finish != TN_FINISH_ABORT && p->finish != TN_FINISH_ERROR))
        tn_stats_put_check(k->stats, k->differs);
    let_go(k);
}

/* Of the first request: sampler and time; none of its stop strings, since the number of tokens
 * is known. */
static tn_status fill(recheck *k, uint64_t now_ns, tn_err *err)
{
    const tn_request *was = k->was;
    tn_request *r = k->again;
    uint32_t nscratch = tn_sampler_scratch(&was->sampler);
    snprintf(r->id, sizeof r->id, "%.56s-check", was->id);
    r->sampler = was->sampler; /* its arrays lie in the first one's arena */
    r->arrival_ns = now_ns;
    r->deadline_ns = now_ns + (was->deadline_ns - was->arrival_ns);
    r->on_piece = take_piece;
    r->user = k;
    if (nscratch > 0) {
        r->choice[0].scratch = calloc(nscratch, sizeof *r->choice[0].scratch);
        if (r->choice[0].scratch == NULL)
            return tn_fail(err, TN_NO_MEMORY, "prefix_check: no memory");
    }
    return tn_reply_open(&r->choice[0].reply, NULL, false, false, NULL, NULL, 0, err);
}

tn_status tn_recheck_new(tn_request *was, tn_log *log, tn_serve_stats *stats, uint64_t now_ns,
                         tn_request **out, tn_err *err)
{
    const tn_request_plan plan = {.nchoice = 1, .max_tokens = was->choice[0].nsent,
                                  .prompt_logprobs = -1, .block_tokens = 0};
    tn_request *r = NULL;
    tn_status st = tn_request_new(&plan, was->choice[0].token, was->nprompt, &r, err);
    if (st != TN_OK)
        return st;
    recheck *k = tn_arena_array(&r->arena, 1, sizeof *k);
    if (k != NULL) {
        *k = (recheck){.was = was, .again = r, .log = log, .stats = stats};
        st = fill(k, now_ns, err);
    }
    if (k == NULL || st != TN_OK) {
        tn_request_release(r);
        tn_request_release(r); /* the engine's hold: it never got it */
        return k == NULL ? tn_fail(err, TN_NO_MEMORY, "prefix_check: no memory") : st;
    }
    atomic_fetch_add(&was->holds, 1);
    *out = r;
    return TN_OK;
}

void tn_recheck_drop(tn_request *again)
{
    tn_request_release(again); /* the engine's hold */
    let_go(again->user);
}

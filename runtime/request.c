/* SPDX-License-Identifier: Apache-2.0 */
/* request.c - one accepted request and its choices, from the queue to the last piece. */
#include "request.h"

#include <stdlib.h>

#define ARENA_MAX ((size_t)64 << 20) /* masks, bad words and stops come nowhere near */
#define REPORT_CAP 64u               /* tokens the output thread may lag behind */
#define REPORT_TOPS 4096u            /* but not more alternatives than this */

/* The arrays are allocated one by one: most are far larger than what will be touched, and
 * untouched pages of a large allocation cost nothing. */
static void *array_new(size_t count, size_t size)
{
    if (count > SIZE_MAX / size)
        return NULL;
    return malloc(count * size + (count == 0));
}

static void choice_free(tn_choice *c)
{
    tn_reply_close(&c->reply);
    free(c->token);
    free(c->key);
    free(c->report);
    free(c->top);
    free(c->scratch);
}

static void request_free(tn_request *r)
{
    for (uint32_t i = 0; i < r->nchoice; i++)
        choice_free(&r->choice[i]);
    tn_stops_close(r->stops);
    free(r->echo);
    free(r->prompt_report);
    free(r->prompt_top);
    tn_arena_close(&r->arena);
    free(r);
}

static bool choice_init(tn_choice *c, tn_request *r, const tn_request_plan *plan,
                        const int32_t *prompt)
{
    size_t ntoken = (size_t)r->nprompt + r->max_tokens;
    c->req = r;
    c->slot = TN_NONE;
    c->rslot = -1;
    c->ntoken = r->nprompt;
    c->token = array_new(ntoken, sizeof *c->token);
    if (c->token == NULL)
        return false;
    memcpy(c->token, prompt, r->nprompt * sizeof *c->token);
    if (plan->block_tokens > 0) {
        c->key = array_new(ntoken / plan->block_tokens, sizeof *c->key);
        if (c->key == NULL)
            return false;
    }
    if (plan->logprobs) {
        c->report = array_new(r->report_cap, sizeof *c->report);
        c->top = array_new((size_t)r->report_cap * plan->ntop, sizeof *c->top);
        if (c->report == NULL || c->top == NULL)
            return false;
    }
    return true;
}

static bool request_init(tn_request *r, const tn_request_plan *plan, const int32_t *prompt)
{
    r->choice = tn_arena_array(&r->arena, plan->nchoice, sizeof *r->choice);
    if (r->choice == NULL)
        return false;
    for (uint32_t i = 0; i < plan->nchoice; i++) {
        r->choice[i].index = i;
        r->nchoice++; /* from here on request_free sees it */
        if (!choice_init(&r->choice[i], r, plan, prompt))
            return false;
    }
    if (plan->prompt_logprobs >= 0) {
        size_t ntop = (size_t)plan->prompt_logprobs;
        r->prompt_report = array_new(r->nprompt, sizeof *r->prompt_report);
        r->prompt_top = ntop > SIZE_MAX / r->nprompt
                            ? NULL : array_new(r->nprompt * ntop, sizeof *r->prompt_top);
        if (r->prompt_report == NULL || r->prompt_top == NULL)
            return false;
    }
    return true;
}

tn_status tn_request_new(const tn_request_plan *plan, const int32_t *prompt, uint32_t nprompt,
                         tn_request **out, tn_err *err)
{
    tn_request *r = calloc(1, sizeof *r);
    if (r == NULL)
        return tn_fail(err, TN_NO_MEMORY, "request: no memory");
    tn_arena_open(&r->arena, ARENA_MAX);
    atomic_init(&r->holds, 2);
    r->nprompt = nprompt;
    r->max_tokens = plan->max_tokens;
    r->logprobs = plan->logprobs;
    r->prompt_logprobs = plan->prompt_logprobs;
    r->report_cap = REPORT_CAP;
    if (plan->ntop > REPORT_TOPS / REPORT_CAP)
        r->report_cap = plan->ntop < REPORT_TOPS ? REPORT_TOPS / plan->ntop : 1;
    r->nopen = plan->nchoice;
    if (!request_init(r, plan, prompt)) {
        request_free(r);
        return tn_fail(err, TN_NO_MEMORY, "request: no memory for %u choices of %llu tokens",
                       plan->nchoice, (unsigned long long)nprompt + plan->max_tokens);
    }
    *out = r;
    return TN_OK;
}

void tn_request_release(tn_request *r)
{
    if (r != NULL && atomic_fetch_sub_explicit(&r->holds, 1, memory_order_acq_rel) == 1)
        request_free(r);
}

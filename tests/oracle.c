/* SPDX-License-Identifier: Apache-2.0 */
/* oracle.c - what a request must say on the fake device, worked out alone and step by step. */
#include "oracle.h"

#include <math.h>
#include <stdlib.h>

static void on_piece_nothing(void *user, const tn_piece *p)
{
    (void)user;
    (void)p;
}

tn_ask oracle_ask(const int32_t *ids, uint32_t nid)
{
    return (tn_ask){
        .size = sizeof(tn_ask), .n = 1, .temperature = 0, .top_p = NAN, .min_p = NAN,
        .repetition = NAN, .frequency = NAN, .presence = NAN, .top_k = INT32_MIN,
        .max_tokens = -1, .logprobs = -1, .prompt_logprobs = -1,
        .prompt = {.size = sizeof(tn_prompt), .kind = TN_PROMPT_IDS, .ids = ids, .nid = nid},
        .on_piece = on_piece_nothing,
    };
}

void oracle_run(const fake_device *d, tn_request *r, uint32_t choice, oracle_reply *out)
{
    int32_t *token = malloc(((size_t)r->nprompt + r->max_tokens) * sizeof *token);
    uint32_t n = r->nprompt;
    *out = (oracle_reply){.finish = TN_FINISH_LENGTH, .stop_token = -1};
    out->logprob = malloc(((size_t)r->max_tokens + 1) * sizeof *out->logprob);
    memcpy(token, r->choice[0].token, n * sizeof *token);
    while (n - r->nprompt < r->max_tokens) {
        tn_sampling s;
        tn_sampler_fill(&r->sampler, choice, token, r->nprompt, n, r->choice[choice].scratch,
                        &s);
        tn_result drawn = fake_next(d, token, n, &s, NULL, NULL);
        if ((drawn.flags & TN_RESULT_NONFINITE) || drawn.token < 0) {
            out->finish = TN_FINISH_ERROR;
            break;
        }
        out->logprob[n - r->nprompt] = drawn.logprob;
        token[n++] = drawn.token;
        const tn_end_token *end = tn_sampler_end(&r->sampler, drawn.token);
        if (end != NULL && n - r->nprompt >= r->sampler.min_tokens) {
            out->finish = TN_FINISH_STOP;
            out->stop_kind = end->kind;
            out->stop_token = end->kind != 0 ? end->token : -1;
            break;
        }
    }
    out->n = n - r->nprompt;
    memmove(token, token + r->nprompt, out->n * sizeof *token);
    out->token = token;
}

void oracle_close(oracle_reply *o)
{
    free(o->token);
    free(o->logprob);
    o->token = NULL;
    o->logprob = NULL;
}

uint32_t oracle_random(uint64_t *stream, uint32_t n)
{
    *stream = *stream * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*stream >> 33) % n;
}

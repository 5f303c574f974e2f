/* SPDX-License-Identifier: Apache-2.0 */
/* plugin_check_sample.c - LOGITS and SAMPLE against the reference: reports, bias, masks,
 * penalties, greedy and drawn tokens, seeds, and logits that are no numbers. */
#include "plugin_stand.h"

#include "floats.h"

#include <math.h>

#define DRAWS 1600u

typedef struct sheet {
    tn_step step;
    int32_t token[TN_STAND_OUTS], row_seq[TN_STAND_OUTS], block[4];
    tn_seq seq;
    tn_out out[TN_STAND_OUTS];
    tn_sampling s[TN_STAND_OUTS];
} sheet;

static const tn_sampling greedy = {.flags = TN_SAMPLE_GREEDY, .temperature = 1, .top_p = 1,
                                   .repetition = 1, .target = -1, .draft = -1};
static const tn_sampling drawn = {.temperature = 1, .top_p = 1, .repetition = 1, .target = -1,
                                  .draft = -1};

/* One sequence of n rows, each with an output; the last token of the vocabulary is poison. */
static void open_sheet(sheet *h, uint32_t n, uint64_t *seed)
{
    memset(h, 0, sizeof *h);
    for (uint32_t i = 0; i < n; i++) {
        h->token[i] = (int32_t)(tn_check_random(seed) % (TN_STAND_VOCAB - 1));
        h->s[i] = greedy;
        h->out[i] = (tn_out){.row = (int32_t)i, .slot = (int32_t)i, .sampling = &h->s[i]};
    }
    h->seq = (tn_seq){.nrow = (int32_t)n, .state_in = -1, .state_out = -1,
                      .flags = TN_SEQ_FRESH};
    h->block[1] = 1;
    h->block[2] = 2;
    h->block[3] = 3;
    h->step = (tn_step){.nrow = n, .nseq = 1, .nout = n, .nblock = 4, .row_token = h->token,
                        .row_seq = h->row_seq, .seq = &h->seq, .out = h->out, .block = h->block};
}

/* ----------------------------------------------------------------------------- reference */

typedef struct judged {
    double raw[TN_STAND_VOCAB];   /* after softcap and padding */
    double left[TN_STAND_VOCAB];  /* after mask, bias and penalties */
} judged;

static double penalised(double x, const tn_sampling *s, int32_t token)
{
    uint32_t seen = 0, said = 0;
    for (uint32_t i = 0; i < s->nhistory; i++)
        if (s->history[i] == token) {
            seen++;
            said += i >= s->nprompt;
        }
    if (seen > 0)
        x = x > 0 ? x / (double)s->repetition : x * (double)s->repetition;
    return x - (double)s->frequency * said - (double)s->presence * (said > 0);
}

static void judge(const tn_stand *st, uint32_t o, const tn_sampling *s, float softcap,
                  uint32_t valid, judged *j)
{
    const double *x = tn_lab_row(&st->lab, st->logits, o);
    for (uint32_t v = 0; v < TN_STAND_VOCAB; v++) {
        double cap = (double)softcap, raw = softcap > 0 ? cap * tanh(x[v] / cap) : x[v];
        j->raw[v] = v < valid ? raw : -INFINITY;
        double left = j->raw[v];
        if (s->mask != NULL && (s->mask[v / 32] >> v % 32 & 1u) == 0)
            left = -INFINITY;
        for (uint32_t i = 0; i < s->nbias; i++)
            if (s->bias[i].token == (int32_t)v)
                left += (double)s->bias[i].value;
        j->left[v] = penalised(left, s, (int32_t)v);
    }
}

static double logprob(const double *x, uint32_t token)
{
    double most = -INFINITY, sum = 0;
    for (uint32_t v = 0; v < TN_STAND_VOCAB; v++)
        most = fmax(most, x[v]);
    for (uint32_t v = 0; v < TN_STAND_VOCAB; v++)
        sum += exp(x[v] - most);
    return x[token] - most - log(sum);
}

static uint32_t rank_of(const double *x, uint32_t token)
{
    uint32_t rank = 1;
    for (uint32_t v = 0; v < TN_STAND_VOCAB; v++)
        rank += x[v] > x[token];
    return rank;
}

/* ------------------------------------------------------------------------------- results */

static tn_status wrong(tn_err *err, uint32_t o, const char *what, double found, double wanted)
{
    return tn_fail(err, TN_INTERNAL, "output %u: %s is %g; expected %g", o, what, found, wanted);
}

/* `places`: the token must be among the best so many of what is left. */
static tn_status check_result(const tn_stand *st, uint32_t o, const tn_sampling *s,
                              const judged *j, uint32_t places, tn_err *err)
{
    const tn_result *r = &st->results->result[o];
    double limit = 2e-3;
    if (r->token < 0 || r->token >= (int32_t)TN_STAND_VOCAB)
        return wrong(err, o, "token", r->token, 0);
    uint32_t t = (uint32_t)r->token;
    if (s->flags & TN_SAMPLE_SCORE) {
        if (r->token != s->target)
            return wrong(err, o, "the scored token", r->token, s->target);
    } else if (!(j->left[t] > -INFINITY)) {
        return tn_fail(err, TN_INTERNAL, "output %u: token %u is forbidden", o, t);
    } else if (places > 0 && rank_of(j->left, t) > places) {
        double best = -INFINITY;
        for (uint32_t v = 0; v < TN_STAND_VOCAB; v++)
            best = fmax(best, j->left[v]);
        if (places > 1 || best - j->left[t] > limit)
            return tn_fail(err, TN_INTERNAL, "output %u: token %u has rank %u; expected the best "
                           "%u", o, t, rank_of(j->left, t), places);
    }
    if (!(fabs((double)r->logprob - logprob(j->raw, t)) <= limit))
        return wrong(err, o, "the log-probability", (double)r->logprob, logprob(j->raw, t));
    if (r->ntop != s->ntop)
        return wrong(err, o, "the length of the top list", r->ntop, s->ntop);
    if ((s->ntop > 0 || (s->flags & TN_SAMPLE_SCORE)) && r->rank < 1)
        return wrong(err, o, "the rank", r->rank, rank_of(j->raw, t));
    if (r->rank > 0 && fabs((double)r->rank - rank_of(j->raw, t)) > 1)
        return wrong(err, o, "the rank", r->rank, rank_of(j->raw, t));
    for (uint32_t i = 0; i < r->ntop; i++) {
        int32_t top = st->results->top_token[(size_t)o * st->results->top_stride + i];
        double p = (double)st->results->top_logprob[(size_t)o * st->results->top_stride + i];
        if (top < 0 || top >= (int32_t)TN_STAND_VOCAB
            || !(fabs(p - logprob(j->raw, (uint32_t)top)) <= limit)
            || rank_of(j->raw, (uint32_t)top) > i + 2)
            return wrong(err, o, "an entry of the top list", top, i);
    }
    return TN_OK;
}

typedef struct wish {
    tn_sampling s;
    uint32_t places;
} wish;

/* Ten outputs, each with another wish, in one step. */
static tn_status check_wishes(tn_stand *st, float softcap, uint32_t valid, tn_err *err)
{
    static const tn_bias bias[] = {{3, 5}, {7, -INFINITY}, {20, -2.5f}};
    static const int32_t history[] = {1, 2, 3, 1, 2, 9, 9, 4, 4, 4, 30, 31};
    uint32_t mask[TN_STAND_VOCAB / 32] = {0x00f0f000u, 0x0000000fu};
    wish w[11];
    sheet h;
    for (size_t i = 0; i < sizeof w / sizeof w[0]; i++)
        w[i] = (wish){greedy, 1};
    w[0].s.ntop = TN_STAND_TOP;
    w[1].s.bias = bias;
    w[1].s.nbias = 3;
    w[2].s.history = history;
    w[2].s.nhistory = 12;
    w[2].s.nprompt = 7;
    w[2].s.repetition = 1.5f;
    w[2].s.frequency = 0.7f;
    w[2].s.presence = 0.4f;
    w[3].s.mask = mask;
    w[4].s = drawn;
    w[4].s.top_k = 1;
    w[5].s = drawn;
    w[5].s.top_p = 1e-4f;
    w[6].s = drawn;
    w[6].s.min_p = 0.99999f;
    w[7] = (wish){drawn, 3};
    w[7].s.top_k = 3;
    w[7].s.seed = 5;
    w[8].s = (tn_sampling){.flags = TN_SAMPLE_SCORE, .temperature = 1, .top_p = 1,
                           .repetition = 1, .target = 11, .draft = -1, .ntop = 2};
    w[9] = (wish){drawn, 0};
    w[9].s.mask = mask;
    w[9].s.temperature = 4;
    w[10] = (wish){drawn, 1};
    w[10].s.temperature = 0.01f;
    open_sheet(&h, 11, &st->lab.seed);
    for (size_t i = 0; i < 11; i++)
        h.s[i] = w[i].s;
    tn_status s = tn_stand_step(st, &h.step, err);
    for (uint32_t o = 0; s == TN_OK && o < 11; o++) {
        judged j;
        judge(st, o, &h.s[o], softcap, valid, &j);
        uint32_t places = o == 10 ? 3 : w[o].places; /* nearly greedy: near ties may fall */
        s = check_result(st, o, &h.s[o], &j, places, err);
    }
    return s;
}

/* A seeded draw does not depend on who else is in the step. */
static tn_status check_seeds(tn_stand *st, tn_err *err)
{
    sheet h;
    int32_t crowd[8];
    uint64_t seed = 99;
    open_sheet(&h, 8, &seed);
    int32_t token = h.token[5];
    for (uint32_t i = 0; i < 8; i++) {
        h.s[i] = drawn;
        h.s[i].seed = 1000 + i;
        h.s[i].draw = i;
        h.s[i].temperature = 3;
    }
    tn_status s = tn_stand_step(st, &h.step, err);
    for (uint32_t i = 0; s == TN_OK && i < 8; i++)
        crowd[i] = st->results->result[i].token;
    if (s != TN_OK)
        return s;
    tn_sampling kept = h.s[5];
    open_sheet(&h, 1, &seed);
    h.token[0] = token;
    h.s[0] = kept;
    s = tn_stand_step(st, &h.step, err);
    if (s == TN_OK && st->results->result[0].token != crowd[5])
        return tn_fail(err, TN_INTERNAL, "a seeded draw gave token %d in a crowd and %d alone",
                       crowd[5], st->results->result[0].token);
    return s;
}

/* How often the likeliest tokens are drawn, against their probabilities. */
static tn_status check_frequencies(tn_stand *st, tn_err *err)
{
    uint32_t count[TN_STAND_VOCAB] = {0};
    judged j;
    sheet h;
    uint64_t seed = 3, draw = 0;
    tn_status s = TN_OK;
    for (uint32_t n = 0; s == TN_OK && n < DRAWS / TN_STAND_OUTS; n++) {
        open_sheet(&h, TN_STAND_OUTS, &seed);
        for (uint32_t i = 0; i < TN_STAND_OUTS; i++) {
            h.token[i] = 17;
            h.s[i] = drawn;
            h.s[i].seed = 7;
            h.s[i].draw = draw++;
        }
        s = tn_stand_step(st, &h.step, err);
        for (uint32_t i = 0; s == TN_OK && i < TN_STAND_OUTS; i++)
            if (st->results->result[i].token >= 0
                && st->results->result[i].token < (int32_t)TN_STAND_VOCAB)
                count[st->results->result[i].token]++;
    }
    if (s != TN_OK)
        return s;
    judge(st, 0, &h.s[0], 0, TN_STAND_VOCAB, &j);
    for (uint32_t v = 0; v < TN_STAND_VOCAB; v++) {
        double p = exp(logprob(j.raw, v)), mean = p * DRAWS, width = sqrt(mean * (1 - p));
        if (fabs(count[v] - mean) > 5.5 * width + 3)
            return tn_fail(err, TN_INTERNAL, "token %u was drawn %u times of %u; expected about "
                           "%.0f", v, count[v], DRAWS, mean);
    }
    return TN_OK;
}

/* A row whose logits are no numbers is told so, and its neighbours do not notice. */
static tn_status check_poison(tn_stand *st, tn_err *err)
{
    sheet h;
    uint64_t seed = 8;
    open_sheet(&h, 3, &seed);
    h.token[1] = TN_STAND_VOCAB - 1;
    h.step.size = sizeof h.step;
    h.step.number = st->number++;
    st->lab.drawn = st->drawn;
    tn_lab_run(&st->lab, &h.step);
    tn_status s = st->d->run(st->program, &h.step, err);
    if (s == TN_OK)
        s = st->d->wait(st->program, h.step.number, 0, &st->results, err);
    if (s != TN_OK)
        return s;
    const tn_result *r = st->results->result;
    if (r[1].token != -1 || (r[1].flags & TN_RESULT_NONFINITE) == 0)
        return tn_fail(err, TN_INTERNAL, "logits of NaN gave token %d without NONFINITE",
                       r[1].token);
    for (uint32_t o = 0; o < 3; o += 2) {
        judged j;
        judge(st, o, &h.s[o], 0, TN_STAND_VOCAB, &j);
        s = check_result(st, o, &h.s[o], &j, 1, err);
        if (s != TN_OK)
            return s;
    }
    return TN_OK;
}

static void poison(tn_lab *l)
{
    const float nan = NAN;
    uint64_t k = l->weight[0].k, at = (TN_STAND_VOCAB - 1) * k;
    memcpy(l->data[0].codes + at * sizeof nan, &nan, sizeof nan);
    l->data[0].w[at] = NAN;
}

static bool check_one(tn_stand *st, float softcap, uint32_t valid, const char *what)
{
    tn_err err = {.text = ""};
    uint32_t x = tn_stand_begin(st, 200 + valid, 48);
    poison(&st->lab);
    tn_status s = tn_stand_up(st, x, softcap, valid, &err);
    if (s == TN_OK)
        s = check_wishes(st, softcap, valid, &err);
    if (s == TN_OK && softcap == 0 && valid == TN_STAND_VOCAB) {
        s = check_seeds(st, &err);
        if (s == TN_OK)
            s = check_frequencies(st, &err);
        if (s == TN_OK)
            s = check_poison(st, &err);
    }
    tn_stand_down(st);
    if (s == TN_UNSUPPORTED)
        tn_check_skip(st->c, "LOGITS and SAMPLE %s: not offered: %s", what, err.text);
    else if (s != TN_OK)
        tn_check_fail(st->c, "LOGITS and SAMPLE %s: %s", what, err.text);
    return s == TN_OK;
}

void tn_check_sampling(tn_stand *st)
{
    bool plain = check_one(st, 0, TN_STAND_VOCAB, "plain");
    bool capped = check_one(st, 5, TN_STAND_VOCAB, "with softcap");
    bool padded = check_one(st, 0, 50, "with padding columns");
    if (plain && capped && padded)
        tn_check_ok(st->c, "LOGITS and SAMPLE: reports, masks, bias, penalties, cuts, seeds alone "
                    "and in a crowd, %u draws by their probabilities, NaN told", DRAWS);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* genconf.c - generation_config.json and its overrides. */
#include "genconf.h"

#include "json.h"

#include <math.h>

void tn_genconf_open(tn_genconf *g)
{
    *g = (tn_genconf){.defaults = {.temperature = NAN, .top_p = NAN, .min_p = NAN,
                                   .repetition = NAN, .top_k = INT32_MIN}};
}

void tn_genconf_add_eos(tn_genconf *g, int32_t id)
{
    for (uint32_t i = 0; i < g->neos; i++)
        if (g->eos[i] == id)
            return;
    if (id >= 0 && g->neos < TN_GENCONF_EOS_MAX)
        g->eos[g->neos++] = id;
}

/* Takes a number that must lie in [least, most]; absent and null leave *out alone. */
static tn_status take(const tn_json *o, const char *key, const char *what, double least,
                      double most, float *out, tn_err *err)
{
    double v = NAN;
    tn_status st = tn_json_get_float(o, key, what, NAN, &v, err);
    if (st != TN_OK || isnan(v))
        return st;
    if (v < least || v > most)
        return tn_fail(err, TN_DATA, "%s: %s: %g; expected %g to %g", what, key, v, least, most);
    *out = (float)v;
    return TN_OK;
}

static tn_status read_eos(tn_genconf *g, const tn_json *v, const char *what, uint32_t vocab,
                          tn_err *err)
{
    if (v == NULL || v->type == TN_JSON_NULL)
        return TN_OK;
    const tn_json *e = v->type == TN_JSON_LIST ? v->child : v;
    for (; e != NULL; e = v->type == TN_JSON_LIST ? e->next : NULL) {
        if (e->type != TN_JSON_INT || e->i < 0 || e->i >= vocab)
            return tn_fail(err, TN_DATA, "%s: eos_token_id: not a token id; expected 0 to %u",
                           what, vocab - 1);
        if (v->type == TN_JSON_LIST && v->count > TN_GENCONF_LIST_MAX)
            return tn_fail(err, TN_DATA, "%s: eos_token_id: %u ids; expected at most %u", what,
                           v->count, TN_GENCONF_LIST_MAX);
        tn_genconf_add_eos(g, (int32_t)e->i);
    }
    return TN_OK;
}

tn_status tn_genconf_read(tn_genconf *g, const tn_json *o, const char *what, uint32_t vocab,
                          tn_err *err)
{
    tn_genconf n = *g;
    int64_t top_k = n.defaults.top_k, max_new = n.defaults.max_new_tokens;
    if (o == NULL)
        return TN_OK;
    if (o->type != TN_JSON_OBJECT)
        return tn_fail(err, TN_DATA, "%s: not an object; expected generation defaults", what);
    tn_status st = take(o, "temperature", what, 0, 2, &n.defaults.temperature, err);
    if (st == TN_OK)
        st = take(o, "top_p", what, 1e-6, 1, &n.defaults.top_p, err);
    if (st == TN_OK)
        st = take(o, "min_p", what, 0, 1, &n.defaults.min_p, err);
    if (st == TN_OK)
        st = take(o, "repetition_penalty", what, 0.01, 100, &n.defaults.repetition, err);
    if (st == TN_OK)
        st = tn_json_get_int(o, "top_k", what, top_k, -1, INT32_MAX, &top_k, err);
    if (st == TN_OK)
        st = tn_json_get_int(o, "max_new_tokens", what, max_new, 1, INT32_MAX, &max_new, err);
    if (st == TN_OK)
        st = read_eos(&n, tn_json_find(o, "eos_token_id"), what, vocab, err);
    if (st != TN_OK)
        return st;
    n.defaults.top_k = (int32_t)top_k;
    n.defaults.max_new_tokens = max_new;
    *g = n;
    return TN_OK;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* fingerprint.c - tells whether what one process cached means the same to another. */
#include "fingerprint.h"

#include "siphash.h"

#define SAMPLE 64u               /* bytes looked at from either end of a tensor */

static const uint64_t secret[2] = {UINT64_C(0x7461656874), 2}; /* the same in all processes */

static void put_number(tn_sip *s, uint64_t v)
{
    tn_sip_put(s, &v, sizeof v);
}

static void put_text(tn_sip *s, const char *text, uint64_t size)
{
    put_number(s, size);
    tn_sip_put(s, text, size);
}

/* The reader has bounded the depth. */
static void put_json(tn_sip *s, const tn_json *v)
{
    put_number(s, v->type);
    put_text(s, v->key, v->key != NULL ? v->key_size : 0);
    put_number(s, v->count);
    if (v->type == TN_JSON_TEXT)
        tn_sip_put(s, v->text, v->count);
    else if (v->type == TN_JSON_INT)
        tn_sip_put(s, &v->i, sizeof v->i);
    else if (v->type == TN_JSON_FLOAT)
        tn_sip_put(s, &v->f, sizeof v->f);
    for (const tn_json *c = v->child; c != NULL; c = c->next)
        put_json(s, c);
}

uint64_t tn_fingerprint_json(const tn_json *v)
{
    tn_sip s;
    uint64_t out[2];
    tn_sip_open(&s, secret);
    put_json(&s, v);
    tn_sip_done(&s, out);
    return out[0];
}

static void put_tensor(tn_sip *s, const char *name, const tn_tensor *t)
{
    uint64_t n = t->data_size < SAMPLE ? t->data_size : SAMPLE;
    put_text(s, name, strlen(name));
    put_number(s, t->dtype);
    put_number(s, t->ndim);
    for (uint32_t i = 0; i < t->ndim && i < 8; i++)
        put_number(s, t->dim[i]);
    tn_sip_put(s, t->data, n);
    tn_sip_put(s, (const uint8_t *)t->data + t->data_size - n, n);
}

/* Tensors come in no promised order: each is hashed alone, and the hashes are added up. */
static void put_view(tn_sip *s, const tn_view *v)
{
    uint64_t sum[2] = {0}, one[2];
    const char *name;
    tn_tensor t;
    put_json(s, v->config);
    if (v->quant != NULL)
        put_json(s, v->quant);
    for (uint64_t i = 0; v->at(v, i, &name, &t); i++) {
        tn_sip alone;
        tn_sip_open(&alone, secret);
        put_tensor(&alone, name, &t);
        tn_sip_done(&alone, one);
        sum[0] += one[0];
        sum[1] += one[1];
    }
    put_number(s, v->ntensor);
    tn_sip_put(s, sum, sizeof sum);
}

static void put_recipe(tn_sip *s, const tn_recipe *r)
{
    put_number(s, r->act_dtype);
    put_number(s, r->nsection);
    put_number(s, r->nweight);
    for (uint32_t i = 0; i < r->nweight; i++) {
        const tn_weight_spec *w = &r->weight[i];
        const uint64_t form[] = {w->role, w->nexpert, w->requant, w->n, w->k, w->form.kind,
                                 w->form.group, w->form.bits, w->form.flags};
        put_text(s, w->name, strlen(w->name));
        tn_sip_put(s, form, sizeof form);
    }
    for (uint32_t i = 0; i < r->ncache; i++) {
        const uint64_t cache[] = {i, r->cache[i].heads, r->cache[i].k_dim, r->cache[i].v_dim};
        tn_sip_put(s, cache, sizeof cache);
    }
    for (uint32_t i = 0; i < r->nstate; i++) {
        const tn_state_spec *t = &r->state[i];
        const uint64_t state[] = {i, t->heads, t->k_dim, t->v_dim, t->conv_width, t->conv_keep};
        tn_sip_put(s, state, sizeof state);
    }
}

void tn_fingerprint(const tn_view *view, const tn_view *second, const tn_recipe *recipe,
                    const tn_limits *limits, uint32_t cache_dtype, uint64_t out[2])
{
    tn_sip s;
    tn_sip_open(&s, secret);
    put_view(&s, view);
    put_number(&s, second != NULL);
    if (second != NULL)
        put_view(&s, second);
    put_recipe(&s, recipe);
    put_number(&s, limits->block_tokens);
    put_number(&s, cache_dtype);
    put_number(&s, limits->exact);
    if (limits->nrank > 1)
        put_number(&s, limits->nrank);
    tn_sip_done(&s, out);
}

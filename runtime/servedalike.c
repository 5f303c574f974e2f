/* SPDX-License-Identifier: Apache-2.0 */
/* servedalike.c - do the ranks of a model see the same files and pack the same forms? */
#include "servedalike.h"

#include "fingerprint.h"
#include "share.h"
#include "siphash.h"

#include <stdlib.h>
#include <string.h>

#define SAMPLE 4096u             /* bytes looked at from either end of a shard */

static const uint64_t secret[2] = {UINT64_C(0x616c696b65), 1}; /* the same in all processes */

static uint64_t hash(const void *data, uint64_t size)
{
    tn_sip s;
    uint64_t out[2];
    tn_sip_open(&s, secret);
    tn_sip_put(&s, data, size);
    tn_sip_done(&s, out);
    return out[0];
}

static void open_for(tn_alike *a, uint64_t cap)
{
    *a = (tn_alike){.cap = cap};
    tn_arena_open(&a->arena, 0);
    a->item = tn_arena_array(&a->arena, cap, sizeof *a->item);
    a->name = tn_arena_array(&a->arena, cap, sizeof *a->name);
    a->failed = a->item == NULL || a->name == NULL;
}

void tn_alike_close(tn_alike *a)
{
    tn_arena_close(&a->arena);
    *a = (tn_alike){0};
}

/* `kind` is said before the name: "tensor ". */
static void put(tn_alike *a, const char *kind, const char *name, uint64_t what)
{
    char text[512];
    int n = snprintf(text, sizeof text, "%s%s", kind, name);
    size_t len = n > 0 && (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
    if (a->failed || a->n == a->cap)
        return;
    a->name[a->n] = tn_arena_text(&a->arena, text, len);
    a->item[a->n] = (tn_alike_item){.name = hash(text, len), .what = what};
    a->failed = a->name[a->n] == NULL;
    a->n++;
}

static void put_shard(tn_alike *a, const char *kind, const tn_ckpt *c, uint32_t i)
{
    const char *name;
    const void *data;
    uint64_t size, sum[3];
    if (!tn_ckpt_shard(c, i, &name, &data, &size))
        return;
    uint64_t n = size < SAMPLE ? size : SAMPLE;
    sum[0] = size;
    sum[1] = hash(data, n);
    sum[2] = hash((const char *)data + size - n, n);
    put(a, kind, name, hash(sum, sizeof sum));
}

static void put_folder(tn_alike *a, const tn_ckpt *c, bool second)
{
    const tn_view *v = tn_ckpt_view(c);
    const char *name;
    tn_tensor t;
    put(a, second ? "the drafting module's config" : "config", ".json", tn_fingerprint_json(v->config));
    if (v->quant != NULL)
        put(a, second ? "the drafting module's " : "", "quantization_config",
            tn_fingerprint_json(v->quant));
    for (uint64_t i = 0; v->at(v, i, &name, &t); i++) {
        uint64_t shape[10] = {t.dtype, t.ndim};
        for (uint32_t k = 0; k < t.ndim && k < 8; k++)
            shape[2 + k] = t.dim[k];
        put(a, second ? "the drafting module's tensor " : "tensor ", name,
            hash(shape, sizeof shape));
    }
    for (uint32_t i = 0; i < tn_ckpt_shards(c); i++)
        put_shard(a, second ? "the drafting module's file " : "file ", c, i);
}

static uint64_t things_in(const tn_ckpt *c)
{
    return c != NULL ? 2 + tn_ckpt_view(c)->ntensor + tn_ckpt_shards(c) : 0;
}

void tn_alike_files(tn_alike *a, const tn_served *s)
{
    open_for(a, things_in(s->ckpt) + things_in(s->second));
    put_folder(a, s->ckpt, false);
    if (s->second != NULL)
        put_folder(a, s->second, true);
}

void tn_alike_forms(tn_alike *a, const tn_served *s)
{
    const tn_recipe *r = &s->draft.recipe;
    const tn_limits *l = &s->limits;
    const tn_model_settings *m = s->settings;
    const uint64_t limits[] = {l->rows_max, l->seqs_max, l->outs_max, l->blocks_max, l->block_tokens,
                               l->context_max, l->top_max, l->cache_dtype, l->exact, l->drafts_max,
                               r->act_dtype, r->nsection, m->rank_check, m->rank_timeout,
                               m->kv_cache_memory, m->num_gpu_blocks_override, m->state_snapshots};
    open_for(a, 1 + (uint64_t)r->nweight);
    put(a, "", "context, batch, cache, type, rank_check or rank_timeout of its settings", hash(limits, sizeof limits));
    for (uint32_t i = 0; i < r->nweight; i++) {
        const tn_weight_spec *w = &r->weight[i];
        const tn_source *from = &s->draft.source[i];
        bool whole = from->col0 == 0 && from->col1 == from->slice[0].k;
        const uint64_t form[] = {w->form.kind, w->form.bits, w->requant, w->place,
                                 whole ? w->form.group : 0, whole ? w->form.flags : 0};
        put(a, "form of ", w->name, hash(form, sizeof form));
    }
}

static int by_name(const void *a, const void *b)
{
    const tn_alike_item *x = a, *y = b;
    return x->name < y->name ? -1 : x->name > y->name;
}

/* Of equal names (a weight that stands in two sections) the first is as good as another. */
const char *tn_alike_first(const tn_alike *mine, tn_alike_item *theirs, uint64_t n, bool all,
                           const char **why)
{
    uint64_t found = 0;
    qsort(theirs, n, sizeof *theirs, by_name);
    for (uint64_t i = 0; i < mine->n; i++) {
        const tn_alike_item *it = n > 0 ? bsearch(&mine->item[i], theirs, n, sizeof *theirs, by_name)
                                        : NULL;
        found += it != NULL;
        if (it == NULL ? all : it->what != mine->item[i].what) {
            *why = it == NULL ? "is missing" : "differs from that of rank 0";
            return mine->name[i];
        }
    }
    if (found >= n)
        return NULL;
    *why = "is there that rank 0 does not have";
    return "something";
}

/* What ranks tell each other first. */
typedef struct total {
    uint64_t n, sum;
} total;

static total total_of(const tn_alike *a)
{
    total t = {.n = a->n};
    for (uint64_t i = 0; i < a->n; i++)
        t.sum += hash(&a->item[i], sizeof a->item[i]); /* in no promised order */
    return t;
}

/* Rank 0 has the lists of all, [nrank][most], of which those of rank r are the first all[r].n. */
static tn_status find_difference(const tn_alike *a, tn_alike_item *lists, uint64_t most,
                                 const total *all, uint32_t nrank, bool missing, tn_err *err)
{
    const char *why = "";
    for (uint32_t r = 1; r < nrank; r++) {
        const char *name = tn_alike_first(a, lists + r * most, all[r].n, missing, &why);
        if (name != NULL)
            return tn_fail(err, TN_DATA, "rank %u: %.600s %s; expected the same model and settings on "
                           "all ranks", r, name, why);
    }
    return TN_OK;
}

static tn_status compare_lists(tn_team *t, tn_alike *a, const total *all, uint64_t most,
                               bool missing, tn_err *err)
{
    uint32_t nrank = tn_team_rank(t) == 0 ? tn_team_size(t) : 1;
    tn_status st = TN_OK;
    tn_alike_item *lists = calloc(nrank * most, sizeof *lists), *own = NULL;
    if (lists != NULL)
        own = calloc(most, sizeof *own);
    if (own == NULL)
        st = tn_fail(err, TN_NO_MEMORY, "ranks: no memory to compare %llu names",
                     (unsigned long long)most);
    else
        memcpy(own, a->item, a->n * sizeof *own);
    st = tn_team_round(t, st, own, most * sizeof *own, lists, err);
    if (st == TN_OK && tn_team_rank(t) == 0)
        st = find_difference(a, lists, most, all, nrank, missing, err);
    free(own);
    free(lists);
    return tn_team_round(t, st, NULL, 0, NULL, err);
}

tn_status tn_alike_compare(tn_team *t, tn_alike *a, bool all, tn_err *err)
{
    total totals[TN_RANKS_MAX], own = total_of(a);
    uint64_t most = 0; /* of the lists; 0: none are needed */
    tn_status st = a->failed ? tn_fail(err, TN_NO_MEMORY, "ranks: no memory to compare the model's "
                                       "files") : TN_OK;
    st = tn_team_round(t, st, &own, sizeof own, totals, err);
    for (uint32_t r = 0; st == TN_OK && tn_team_rank(t) == 0 && r < tn_team_size(t); r++)
        if (totals[r].sum != totals[0].sum || totals[r].n != totals[0].n)
            most = 1;
    for (uint32_t r = 0; most > 0 && r < tn_team_size(t); r++)
        most = totals[r].n > most ? totals[r].n : most;
    if (st == TN_OK)
        st = tn_team_share(t, &most, sizeof most, err);
    return st == TN_OK && most > 0 ? compare_lists(t, a, totals, most, all, err) : st;
}

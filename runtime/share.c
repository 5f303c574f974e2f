/* SPDX-License-Identifier: Apache-2.0 */
/* share.c - what of a model is one rank's. */
#include "share.h"

#define UNIT 16u /* columns that devices like to take at once */

/* Whether heads of `size` columns come apart, so that each rank has some. */
static bool heads_part(uint64_t size, uint32_t nrank)
{
    return size % nrank == 0 || (size % UNIT == 0 && size / UNIT >= nrank);
}

static bool width_parts(uint64_t size, uint32_t nrank)
{
    return size % nrank == 0 || size % UNIT == 0;
}

/* Equal runs where they are (`whole`: whole units), else units shared out. */
static tn_run run_of(uint64_t size, uint32_t rank, uint32_t nrank, bool whole)
{
    bool units = size % UNIT == 0 && (size % nrank != 0 || (whole && size / nrank % UNIT != 0));
    uint64_t n = units ? size / UNIT : nrank, unit = size / (n > 0 ? n : 1);
    uint64_t from = (rank * n + nrank - 1) / nrank * unit; /* rank 0 has no less than another */
    uint64_t to = ((rank + 1) * n + nrank - 1) / nrank * unit;
    return (tn_run){(uint32_t)from, (uint32_t)(to - from)};
}

/* What stands against this number of ranks, or NULL. */
static const char *obstacle(const tn_model_conf *c, uint32_t nrank, uint64_t *size)
{
    bool attention = false, delta = false, dense = false, experts = false;
    for (uint32_t i = 0; i < c->layers; i++) {
        attention = attention || c->mixer[i] == TN_MIXER_ATTENTION;
        delta = delta || c->mixer[i] == TN_MIXER_DELTA;
        dense = dense || c->mlp[i] == TN_MLP_DENSE;
        experts = experts || c->mlp[i] == TN_MLP_EXPERTS;
    }
    uint64_t q = (uint64_t)c->heads * c->head_dim, v = (uint64_t)c->delta.v_heads * c->delta.v_dim;
    const struct { const char *what; uint64_t size; bool there, fits; } all[] = {
        {"columns of attention heads", q, attention, heads_part(q, nrank)},
        {"columns of DeltaNet heads", v, delta, heads_part(v, nrank)},
        {"columns inside an MLP", c->inter, dense, width_parts(c->inter, nrank)},
        {"columns inside an expert", c->moe.width, experts, width_parts(c->moe.width, nrank)},
        {"columns inside the shared expert", c->moe.shared, experts,
         width_parts(c->moe.shared, nrank)},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].there && !all[i].fits) {
            *size = all[i].size;
            return all[i].what;
        }
    *size = c->vocab; /* the last rank gets rows too */
    return c->vocab < nrank * nrank ? "tokens in the vocabulary" : NULL;
}

static tn_status refuse(const tn_model_conf *c, uint32_t nrank, const char *what, uint64_t size,
                        tn_err *err)
{
    char fit[256] = "1";
    size_t at = 1;
    uint64_t unused;
    for (uint32_t n = 2; n <= TN_RANKS_MAX && at + 8 < sizeof fit; n++)
        if (obstacle(c, n, &unused) == NULL)
            at += (size_t)snprintf(fit + at, sizeof fit - at, ", %u", n);
    return tn_fail(err, TN_CONFIG, "tensor_parallel_size: %u; the model's %llu %s do not come apart "
                   "into that many; expected one of %s", nrank, (unsigned long long)size, what,
                   fit);
}

/* Equal runs, of whole units where the last rank still gets rows. */
static uint32_t vocab_rows(uint32_t vocab, uint32_t nrank)
{
    uint32_t rows = (vocab + nrank - 1) / nrank;
    uint32_t whole = (rows + TN_VOCAB_UNIT - 1) / TN_VOCAB_UNIT * TN_VOCAB_UNIT;
    return nrank > 1 && (uint64_t)whole * (nrank - 1) < vocab ? whole : rows;
}

/* The heads that a run of columns touches. */
static tn_heads touched(uint32_t heads, uint32_t dim, uint32_t rank, uint32_t nrank)
{
    tn_heads h = {.cols = run_of((uint64_t)heads * dim, rank, nrank, false)};
    h.first = h.cols.col0 / dim;
    h.count = (h.cols.col0 + h.cols.ncol + dim - 1) / dim - h.first;
    return h;
}

/* Whether runs of `own` heads each look at one shared head. */
static bool groups_hold(const tn_heads *h, uint32_t own)
{
    if (h->count % own != 0)
        return false;
    for (uint32_t i = 0; i < h->count; i += own)
        if ((h->first + i) / h->group != (h->first + i + own - 1) / h->group)
            return false;
    return true;
}

/* `heads` of `dim` columns each, which look at `shared` heads. What no rank may have more of than
 * another is found by looking at all of them. */
static tn_heads heads_of(uint32_t heads, uint32_t shared, uint32_t dim, uint32_t rank,
                         uint32_t nrank)
{
    tn_heads all[TN_RANKS_MAX];
    uint32_t count = 0, own;
    if (heads == 0 || shared == 0) /* the model has none of this kind */
        return (tn_heads){0};
    for (uint32_t r = 0; r < nrank; r++) {
        all[r] = touched(heads, dim, r, nrank);
        count = all[r].count > count ? all[r].count : count;
    }
    for (uint32_t r = 0; r < nrank; r++) {
        all[r].group = heads / shared;
        all[r].count = count;
        if (all[r].first + count > heads)
            all[r].first = heads - count;
        all[r].skip = all[r].cols.col0 - all[r].first * dim;
    }
    own = count < all[0].group ? count : all[0].group;
    for (uint32_t r = 0; r < nrank; r++)
        while (!groups_hold(&all[r], own)) { /* then look at all once more */
            own--;
            r = 0;
        }
    tn_heads h = all[rank];
    h.own_group = own;
    h.shared = count / own;
    return h;
}

uint32_t tn_heads_shared(const tn_heads *h, uint32_t i)
{
    return (h->first + i * h->own_group) / h->group;
}

tn_status tn_share_make(const tn_model_conf *c, uint32_t rank, uint32_t nrank, tn_share *out,
                        tn_err *err)
{
    uint64_t size = 0;
    if (nrank < 1 || nrank > TN_RANKS_MAX || rank >= nrank)
        return tn_fail(err, TN_CONFIG, "tensor_parallel_size: rank %u of %u; expected at most %u "
                       "ranks", rank, nrank, TN_RANKS_MAX);
    const char *what = nrank > 1 ? obstacle(c, nrank, &size) : NULL;
    if (what != NULL)
        return refuse(c, nrank, what, size, err);
    const tn_delta_conf *t = &c->delta;
    tn_share s = {.rank = rank, .nrank = nrank,
                  .q = heads_of(c->heads, c->kv_heads, c->head_dim, rank, nrank),
                  .v = heads_of(t->v_heads, t->k_heads, t->v_dim, rank, nrank),
                  .inter = run_of(c->inter, rank, nrank, true),
                  .width = run_of(c->moe.width, rank, nrank, true),
                  .shared = run_of(c->moe.shared, rank, nrank, true),
                  .vocab = vocab_rows(c->vocab, nrank)};
    s.vocab_own = rank + 1 < nrank ? s.vocab : c->vocab - (nrank - 1) * s.vocab;
    *out = s;
    return TN_OK;
}

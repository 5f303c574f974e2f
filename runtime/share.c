/* SPDX-License-Identifier: Apache-2.0 */
/* share.c - what of a model is one rank's. */
#include "share.h"

#define VOCAB_UNIT 16u /* rows that a device likes to take at once */

/* What stands against this number of ranks, or NULL. */
static const char *obstacle(const tn_model_conf *c, uint32_t nrank, uint32_t *size)
{
    bool attention = false, delta = false, dense = false, experts = false;
    for (uint32_t i = 0; i < c->layers; i++) {
        attention = attention || c->mixer[i] == TN_MIXER_ATTENTION;
        delta = delta || c->mixer[i] == TN_MIXER_DELTA;
        dense = dense || c->mlp[i] == TN_MLP_DENSE;
        experts = experts || c->mlp[i] == TN_MLP_EXPERTS;
    }
    const struct { const char *what; uint32_t size; bool there, fits; } all[] = {
        {"attention heads", c->heads, attention, c->heads % nrank == 0},
        {"KV heads", c->kv_heads, attention,
         c->kv_heads % nrank == 0 || nrank % c->kv_heads == 0},
        {"DeltaNet key heads", c->delta.k_heads, delta,
         c->delta.k_heads == 0 || c->delta.k_heads % nrank == 0},
        {"columns inside an MLP", c->inter, dense, c->inter % nrank == 0},
        {"columns inside an expert", c->moe.width, experts, c->moe.width % nrank == 0},
        {"columns inside the shared expert", c->moe.shared, experts, c->moe.shared % nrank == 0},
        {"tokens in the vocabulary", c->vocab, true, c->vocab >= nrank * nrank},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].there && !all[i].fits) {
            *size = all[i].size;
            return all[i].what;
        }
    return NULL;
}

static tn_status refuse(const tn_model_conf *c, uint32_t nrank, const char *what, uint32_t size,
                        tn_err *err)
{
    char fit[256] = "1";
    size_t at = 1;
    uint32_t unused;
    for (uint32_t n = 2; n <= TN_RANKS_MAX && at + 8 < sizeof fit; n++)
        if (obstacle(c, n, &unused) == NULL)
            at += (size_t)snprintf(fit + at, sizeof fit - at, ", %u", n);
    return tn_fail(err, TN_CONFIG, "tensor_parallel_size: %u; the model's %u %s do not come apart "
                   "into that many; expected one of %s", nrank, size, what, fit);
}

/* Equal runs, of whole units where the last rank still gets rows. */
static uint32_t vocab_rows(uint32_t vocab, uint32_t nrank)
{
    uint32_t rows = (vocab + nrank - 1) / nrank;
    uint32_t whole = (rows + VOCAB_UNIT - 1) / VOCAB_UNIT * VOCAB_UNIT;
    return nrank > 1 && (uint64_t)whole * (nrank - 1) < vocab ? whole : rows;
}

tn_status tn_share_make(const tn_model_conf *c, uint32_t rank, uint32_t nrank, tn_share *out,
                        tn_err *err)
{
    uint32_t size = 0;
    if (nrank < 1 || nrank > TN_RANKS_MAX || rank >= nrank)
        return tn_fail(err, TN_CONFIG, "tensor_parallel_size: rank %u of %u; expected at most %u "
                       "ranks", rank, nrank, TN_RANKS_MAX);
    const char *what = nrank > 1 ? obstacle(c, nrank, &size) : NULL;
    if (what != NULL)
        return refuse(c, nrank, what, size, err);
    bool split = c->kv_heads % nrank == 0;
    tn_share s = {.rank = rank, .nrank = nrank, .heads = c->heads / nrank,
                  .kv_heads = split ? c->kv_heads / nrank : 1,
                  .k_heads = c->delta.k_heads / nrank, .v_heads = c->delta.v_heads / nrank,
                  .inter = c->inter / nrank, .width = c->moe.width / nrank,
                  .shared = c->moe.shared / nrank, .vocab = vocab_rows(c->vocab, nrank)};
    s.kv_first = split ? rank * s.kv_heads : (uint32_t)((uint64_t)rank * c->kv_heads / nrank);
    s.vocab_own = rank + 1 < nrank ? s.vocab : c->vocab - (nrank - 1) * s.vocab;
    *out = s;
    return TN_OK;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* test_share.c - ranks that share a model: over random shapes, what is shared out is there exactly
 * once, heads are whole and look at the right shared head, and the recipes of all ranks together
 * read what one alone reads. Each check is also seen to fail, on a fault that is planted. */
#include "graph.h"
#include "share.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static uint32_t seed = 1;

/* [0, n) */
static uint32_t draw(uint32_t n)
{
    seed = seed * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)(seed >> 8) * n >> 24);
}

static tn_model_conf conf_of(const char *type, uint32_t heads, uint32_t kv, uint32_t dim)
{
    tn_model_conf c = {.hidden = 32, .layers = 2, .heads = heads, .kv_heads = kv, .head_dim = dim,
                       .inter = 96, .vocab = 9000, .context = 512, .rope_dims = dim,
                       .rope_theta = 1e4, .eps = 1e-5f, .act = TN_ACT_SILU, .prefix = "model."};
    snprintf(c.type, sizeof c.type, "%s", type);
    return c;
}

static tn_model_conf hybrid(uint32_t heads, uint32_t kv, uint32_t dim, uint32_t k_heads,
                            uint32_t per, uint32_t v_dim)
{
    tn_model_conf c = conf_of("qwen3_next", heads, kv, dim);
    c.attn_gate = c.qk_norm = true;
    c.mixer[0] = TN_MIXER_DELTA;
    c.mlp[0] = c.mlp[1] = TN_MLP_EXPERTS;
    c.delta = (tn_delta_conf){.k_heads = k_heads, .v_heads = k_heads * per, .k_dim = 8,
                              .v_dim = v_dim, .kernel = 4, .gate_act = TN_ACT_SILU};
    c.moe = (tn_moe_conf){.nexpert = 3, .ntop = 2, .width = 64, .shared = 48, .block = "mlp",
                          .gate = "gate_proj", .up = "up_proj", .down = "down_proj"};
    return c;
}

static tn_model_conf any_conf(void)
{
    uint32_t kv = 1 + draw(8), k = 1 + draw(6);
    tn_model_conf c = hybrid(kv * (1 + draw(6)), kv, 2 * (1 + draw(40)), k, 1 + draw(4),
                             1 + draw(64));
    c.mlp[1] = TN_MLP_DENSE;
    c.inter = 1 + draw(1000);
    c.moe.width = 16 * (1 + draw(60));
    c.moe.shared = draw(3) > 0 ? 16 * (1 + draw(60)) : 0;
    c.vocab = 300 + draw(20000);
    return c;
}

/* -------------------------------------------------------------------- the runs of all ranks */

static const char *next_run(const tn_run *r, uint32_t *at, const char *what)
{
    if (r->col0 != *at)
        return what;
    *at += r->ncol;
    return NULL;
}

/* Heads of `head_size` columns, of which `group` share one; `other` is rank 0's. */
static const char *heads_fault(const tn_heads *h, const tn_heads *other, uint32_t head_size,
                               uint32_t group)
{
    if (h->first * head_size + h->skip != h->cols.col0)
        return "the rank's columns are not behind the skipped ones";
    if ((uint64_t)h->skip + h->cols.ncol > (uint64_t)h->count * head_size)
        return "columns of a head that the rank does not have";
    if (h->count != other->count || h->shared != other->shared)
        return "caches of different size";
    if (h->shared * h->own_group != h->count)
        return "shared heads with different numbers of heads";
    for (uint32_t i = 0; i < h->count; i++)
        if (tn_heads_shared(h, i / h->own_group) != (h->first + i) / group)
            return "a head that looks at the wrong shared head";
    return NULL;
}

/* The first thing that is wrong, or NULL. */
static const char *fault(const tn_model_conf *c, const tn_share *s, uint32_t nrank)
{
    uint32_t q = 0, v = 0, inter = 0, width = 0, shared = 0, vocab = 0;
    const char *found = NULL;
    for (uint32_t r = 0; r < nrank && found == NULL; r++) {
        const struct { const tn_run *run; uint32_t *at; const char *what; } runs[] = {
            {&s[r].q.cols, &q, "attention columns"}, {&s[r].v.cols, &v, "DeltaNet columns"},
            {&s[r].inter, &inter, "MLP"}, {&s[r].width, &width, "expert"},
            {&s[r].shared, &shared, "shared expert"},
        };
        for (size_t i = 0; i < sizeof runs / sizeof *runs && found == NULL; i++)
            found = next_run(runs[i].run, runs[i].at, runs[i].what);
        if (found == NULL)
            found = heads_fault(&s[r].q, &s[0].q, c->head_dim, c->heads / c->kv_heads);
        if (found == NULL)
            found = heads_fault(&s[r].v, &s[0].v, c->delta.v_dim,
                                c->delta.v_heads / c->delta.k_heads);
        if (found == NULL && (s[r].vocab != s[0].vocab || s[r].vocab_own < 1 ||
                              s[r].vocab_own > s[r].vocab || vocab != r * s[r].vocab))
            found = "vocabulary";
        vocab += s[r].vocab_own;
    }
    if (found == NULL && (q != c->heads * c->head_dim || v != c->delta.v_heads * c->delta.v_dim ||
                          inter != c->inter || width != c->moe.width || shared != c->moe.shared ||
                          vocab != c->vocab))
        found = "runs that end too early or too late";
    if (found == NULL && nrank * s[0].vocab - c->vocab > TN_VOCAB_PADDING)
        found = "more padding than is promised";
    return found;
}

static bool make_all(const tn_model_conf *c, tn_share *s, uint32_t nrank)
{
    tn_err err;
    for (uint32_t r = 0; r < nrank; r++) {
        tn_status st = tn_share_make(c, r, nrank, &s[r], &err);
        if (st == TN_OK)
            continue;
        assert_int_equal(r, 0);
        assert_int_equal(st, TN_CONFIG);
        assert_non_null(strstr(err.text, "expected one of 1"));
        return false;
    }
    return true;
}

static void runs_cover_all_once(void **state)
{
    (void)state;
    uint32_t made = 0;
    for (uint32_t i = 0; i < 4000; i++) {
        tn_model_conf c = any_conf();
        tn_share s[TN_RANKS_MAX];
        uint32_t nrank = 1 + draw(i % 4 == 0 ? TN_RANKS_MAX : 9);
        if (!make_all(&c, s, nrank))
            continue;
        made++;
        const char *found = fault(&c, s, nrank);
        if (found != NULL)
            fail_msg("%u ranks, %u heads of %u, %u KV: %s", nrank, c.heads, c.head_dim, c.kv_heads,
                     found);
    }
    assert_true(made > 500);
}

static void planted_faults_are_found(void **state)
{
    (void)state;
    tn_model_conf c = hybrid(6, 3, 16, 2, 3, 8);
    c.mlp[1] = TN_MLP_DENSE;
    for (int i = 0; i < 9; i++) {
        tn_share s[4];
        assert_true(make_all(&c, s, 4));
        assert_null(fault(&c, s, 4));
        switch (i) {
        case 0: s[1].q.skip++; break;
        case 1: s[2].q.first++; s[2].q.skip -= 16; break;  /* a head too late */
        case 2: s[3].v.own_group *= 2; break;
        case 3: s[0].inter.ncol--; break;
        case 4: s[3].width.ncol += 16; break;
        case 5: s[3].vocab_own--; break;
        case 6: s[2].v.count--; break;
        case 7: s[1].q.group = 6; break;
        default: s[3].shared.col0 = 0;
        }
        if (fault(&c, s, 4) == NULL)
            fail_msg("fault %d is not found", i);
    }
}

/* ------------------------------------------------------------------ the recipes of all ranks */

/* How often each number of a module is read. */
typedef struct module {
    char name[96];
    uint64_t n, k;
    uint8_t *read;               /* [n, k] */
} module;

typedef struct modules {
    module at[256];
    uint32_t n;
} modules;

static module *module_of(modules *m, const tn_slice *p)
{
    for (uint32_t i = 0; i < m->n; i++)
        if (strcmp(m->at[i].name, p->module) == 0)
            return &m->at[i];
    assert_in_range(m->n, 0, 255);
    module *new = &m->at[m->n++];
    snprintf(new->name, sizeof new->name, "%s", p->module);
    new->n = p->n;
    new->k = p->k;
    new->read = calloc(p->n, p->k);
    assert_non_null(new->read);
    return new;
}

static void count_reads(modules *m, const tn_draft *d)
{
    for (uint32_t w = 0; w < d->recipe.nweight; w++) {
        const tn_source *s = &d->source[w];
        uint64_t rows = 0;
        for (uint32_t i = 0; i < d->weight[w].nexpert * s->nslice; i++) {
            const tn_slice *p = &s->slice[i];
            module *to = module_of(m, p);
            assert_true(p->row0 < p->row1 && p->row1 <= p->n && s->col0 < s->col1);
            rows += p->row1 - p->row0;
            for (uint64_t r = p->row0; r < p->row1; r++)
                for (uint64_t c = s->col0; c < s->col1; c++)
                    to->read[r * p->k + c]++;
        }
        assert_int_equal(rows, d->weight[w].nexpert * d->weight[w].n);
        assert_int_equal(s->col1 - s->col0, d->weight[w].k);
    }
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* What is added up or put side by side must be there once, all else at least once. */
static const char *odd_module(const modules *m, uint32_t nrank)
{
    static const char *const once[] = {"o_proj", "out_proj", "down_proj", "gate_proj", "up_proj",
                                       "embed_tokens", "lm_head", "o_proj.bias"};
    for (uint32_t i = 0; i < m->n; i++) {
        uint32_t least = 255, most = 0;
        for (uint64_t j = 0; j < m->at[i].n * m->at[i].k; j++) {
            least = m->at[i].read[j] < least ? m->at[i].read[j] : least;
            most = m->at[i].read[j] > most ? m->at[i].read[j] : most;
        }
        bool single = false;
        for (size_t j = 0; j < sizeof once / sizeof *once; j++)
            single = single || ends_with(m->at[i].name, once[j]);
        if (least < 1 || (single && most > 1) || (nrank == 1 && most > 1))
            return m->at[i].name;
    }
    return NULL;
}

static void check_widths(const tn_recipe *r)
{
    for (uint32_t i = 0; i < r->nop; i++) {
        const tn_op_linear *a = r->op[i].args;
        for (uint32_t p = 0; r->op[i].kind == TN_OP_LINEAR && p < a->nparts; p++) {
            const tn_part *t = &a->part[p];
            assert_true(a->in_col + r->weight[t->w].k <= r->buffer[a->in].width);
            assert_true(t->col + r->weight[t->w].n <= r->buffer[t->out].width);
            if (t->bias != TN_NONE)
                assert_int_equal(r->weight[t->bias].n * r->weight[t->bias].k, r->weight[t->w].n);
        }
        const tn_op_delta *t = r->op[i].args;
        if (r->op[i].kind == TN_OP_DELTA) {
            assert_int_equal(r->weight[t->w_conv].n,
                             2 * t->k_heads * t->k_dim + t->v_heads * t->v_dim);
            assert_int_equal(r->weight[t->w_a_log].n, t->v_heads);
            assert_int_equal(t->v_heads % t->k_heads, 0);
        }
    }
}

/* The name of a module that is read wrongly, "" for none. `lose`: a weight of rank 0 is left out. */
static void read_by_all(const tn_model_conf *c, uint32_t nrank, uint32_t lose, char *odd)
{
    modules *m = calloc(1, sizeof *m);
    assert_non_null(m);
    for (uint32_t r = 0; r < nrank; r++) {
        tn_graph_ask ask = {.act_dtype = TN_F16, .npos = 512, .rank = r, .nrank = nrank};
        tn_draft d;
        tn_err err;
        assert_int_equal(tn_graph_build(c, &ask, &d, &err), TN_OK);
        check_widths(&d.recipe);
        if (r == 0 && lose != TN_NONE)
            d.source[lose].slice[0].row1--, d.weight[lose].n--;
        count_reads(m, &d);
        tn_draft_close(&d);
    }
    const char *found = odd_module(m, nrank);
    snprintf(odd, 96, "%s", found != NULL ? found : "");
    for (uint32_t i = 0; i < m->n; i++)
        free(m->at[i].read);
    free(m);
}

static void recipes_read_all(void **state)
{
    (void)state;
    const tn_model_conf all[] = {
        hybrid(4, 2, 16, 2, 2, 16), hybrid(6, 3, 16, 2, 3, 16), hybrid(5, 1, 32, 3, 2, 32),
        conf_of("qwen3", 4, 4, 16), conf_of("llama", 8, 2, 16),
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        for (int split = 0; split < 2; split++)
            for (uint32_t nrank = 1; nrank <= 8; nrank++) {
                tn_model_conf c = all[i];
                tn_share s;
                tn_err err;
                char odd[96];
                c.delta.split = split != 0;
                c.o_bias = c.qkv_bias = split != 0;
                if (tn_share_make(&c, 0, nrank, &s, &err) != TN_OK)
                    continue;
                read_by_all(&c, nrank, TN_NONE, odd);
                if (odd[0] != 0)
                    fail_msg("model %zu, %u ranks: %s", i, nrank, odd);
            }
}

static void lost_rows_are_found(void **state)
{
    (void)state;
    const tn_model_conf c = hybrid(4, 2, 16, 2, 2, 16);
    char odd[96];
    read_by_all(&c, 2, 0, odd);
    assert_string_equal(odd, "model.embed_tokens");
}

static void refusals_name_what_works(void **state)
{
    (void)state;
    tn_model_conf c = conf_of("llama", 4, 2, 16);
    tn_share s;
    tn_err err;
    assert_int_equal(tn_share_make(&c, 0, 7, &s, &err), TN_CONFIG);
    assert_string_equal(err.text, "tensor_parallel_size: 7; the model's 64 columns of attention "
                        "heads do not come apart into that many; expected one of 1, 2, 3, 4, 8, "
                        "16, 32, 64");
    c.inter = 98;
    assert_int_equal(tn_share_make(&c, 0, 4, &s, &err), TN_CONFIG);
    assert_non_null(strstr(err.text, "98 columns inside an MLP"));
    c.inter = 96;
    c.vocab = 60;
    assert_int_equal(tn_share_make(&c, 0, 8, &s, &err), TN_CONFIG);
    assert_non_null(strstr(err.text, "60 tokens in the vocabulary"));
    assert_int_equal(tn_share_make(&c, 3, 3, &s, &err), TN_CONFIG);
    assert_int_equal(tn_share_make(&c, 0, TN_RANKS_MAX + 1, &s, &err), TN_CONFIG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_cover_all_once),
        cmocka_unit_test(planted_faults_are_found),
        cmocka_unit_test(recipes_read_all),
        cmocka_unit_test(lost_rows_are_found),
        cmocka_unit_test(refusals_name_what_works),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

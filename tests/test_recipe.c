/* SPDX-License-Identifier: Apache-2.0 */
/* test_recipe.c - the dense model as a recipe: every index is in range, widths agree, and the
 * printed page folds what repeats. Also the budget that is made from a program's needs. */
#include "budget.h"
#include "buf.h"
#include "json.h"
#include "graph.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static const tn_graph_ask ask = {.act_dtype = TN_F16, .npos = 512};

static tn_model_conf conf_of(const char *type, bool tied)
{
    tn_model_conf c = {.hidden = 64, .layers = 3, .heads = 4, .kv_heads = 2, .head_dim = 16,
                       .inter = 128, .vocab = 1000, .context = 512, .rope_dims = 16,
                       .rope_theta = 1e4, .eps = 1e-5f, .act = TN_ACT_SILU, .tied = tied,
                       .prefix = "model."};
    snprintf(c.type, sizeof c.type, "%s", type);
    return c;
}

static void check_linear(const tn_recipe *r, const tn_op_linear *a)
{
    assert_in_range(a->nparts, 1, TN_LINEAR_PARTS);
    for (uint32_t p = 0; p < a->nparts; p++) {
        const tn_part *t = &a->part[p];
        assert_true(t->w < r->nweight && t->out < r->nbuffer);
        assert_int_equal(r->weight[t->w].k, r->buffer[a->in].width - a->in_col);
        assert_true(t->col + r->weight[t->w].n <= r->buffer[t->out].width);
        if (t->bias != TN_NONE)
            assert_int_equal(r->weight[t->bias].n * r->weight[t->bias].k, r->weight[t->w].n);
    }
}

static void indices_are_whole(void **state)
{
    (void)state;
    for (int tied = 0; tied < 2; tied++) {
        tn_model_conf c = conf_of("qwen3", tied != 0);
        c.qk_norm = true;
        c.qkv_bias = true;
        tn_draft d;
        tn_err err;
        assert_int_equal(tn_graph_build(&c, &ask, &d, &err), TN_OK);
        const tn_recipe *r = &d.recipe;
        assert_int_equal(r->ncache, 3);
        assert_int_equal(r->nop, 1 + 3 * 9 + 6);
        assert_int_equal(r->nsection, 1);
        assert_int_equal(r->section[0].nop, r->nop);
        assert_int_equal(r->weight[0].flags & TN_WEIGHT_TIED, tied ? TN_WEIGHT_TIED : 0);
        uint32_t heads = 0;
        for (uint32_t i = 0; i < r->nweight; i++)
            heads += r->weight[i].role == TN_ROLE_HEAD;
        assert_int_equal(heads, tied ? 0 : 1);
        for (uint32_t i = 0; i < r->nop; i++) {
            uint32_t size;
            memcpy(&size, r->op[i].args, sizeof size);
            assert_in_range(size, 8, 256);
            if (r->op[i].kind == TN_OP_LINEAR)
                check_linear(r, r->op[i].args);
        }
        tn_draft_close(&d);
    }
}

static void page_folds_layers(void **state)
{
    (void)state;
    tn_model_conf c = conf_of("llama", true);
    c.window[2] = 8;
    tn_draft d;
    tn_err err;
    tn_buf out;
    tn_buf_open(&out, 65536);
    assert_int_equal(tn_graph_build(&c, &ask, &d, &err), TN_OK);
    tn_recipe_print(&d.recipe, &out);
    assert_non_null(strstr(out.data, "layers 0 to 1, each"));
    assert_non_null(strstr(out.data, "layer 2\n")); /* its window sets it apart */
    assert_non_null(strstr(out.data, "window 8"));
    tn_buf_close(&out);
    tn_draft_close(&d);
}

static void budget_shares_memory(void **state)
{
    (void)state;
    tn_need need = {.weight_bytes = 1000, .workspace_bytes = 100, .block_bytes = 10};
    tn_budget_ask ask = {.seqs = 2, .context = 64, .block_tokens = 16, .free_memory = 5000};
    tn_budget b;
    tn_err err;
    assert_int_equal(tn_budget_make(&ask, &need, &b, &err), TN_OK);
    assert_int_equal(b.nblock, 8); /* two full sequences, though more would fit */
    assert_int_equal(b.total, 1180);
    assert_int_equal(b.context_fits, 64);
    ask.memory = 1130; /* three blocks */
    assert_int_equal(tn_budget_make(&ask, &need, &b, &err), TN_OK);
    assert_int_equal(b.nblock, 3);
    assert_int_equal(b.context_fits, 48);
    ask.memory = 1105;
    assert_int_equal(tn_budget_make(&ask, &need, &b, &err), TN_UNAVAILABLE);
    assert_non_null(strstr(err.text, "do not fit"));
    ask.memory = 0;
    ask.cache = 500; /* asked for in bytes: taken, even past full sequences */
    assert_int_equal(tn_budget_make(&ask, &need, &b, &err), TN_OK);
    assert_int_equal(b.nblock, 50);
}

/* Not asked for anything, the cache takes half of what is free beside weights and workspace. */
static void budget_leaves_memory_to_others(void **state)
{
    (void)state;
    static const struct {
        uint64_t free_memory, block_bytes;
        tn_status status;
        uint32_t nblock;
    } all[] = {
        {1100 + 2 * 45, 10, TN_OK, 4},      {1100 + 2 * 80, 10, TN_OK, 8},
        {1100 + 19, 10, TN_UNAVAILABLE, 0}, {1100 + 20, 10, TN_OK, 1},
        {1100, 10, TN_UNAVAILABLE, 0},      {900, 10, TN_UNAVAILABLE, 0},
        {0, 0, TN_OK, 8}, /* a model without a cache */
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        tn_need need = {.weight_bytes = 1000, .workspace_bytes = 100, .host_bytes = 7,
                        .block_bytes = all[i].block_bytes};
        tn_budget_ask ask = {.seqs = 2, .context = 64, .block_tokens = 16,
                             .free_memory = all[i].free_memory};
        tn_budget b = {.nblock = 0};
        tn_err err;
        tn_status st = tn_budget_make(&ask, &need, &b, &err);
        if (st != all[i].status || b.nblock != all[i].nblock)
            fail_msg("case %zu: status %d with %u blocks, expected %d with %u", i, st, b.nblock,
                     all[i].status, all[i].nblock);
        if (st == TN_OK)
            assert_int_equal(b.total, 1100 + all[i].nblock * all[i].block_bytes);
    }
}

/* A share of a device counts what others use of it too; of a card it is 0.9 unless told. */
static void budget_knows_its_room(void **state)
{
    (void)state;
    static const struct {
        uint64_t total, free_memory;
        uint32_t host;
        double share;
        uint64_t room;
        bool whole;
    } all[] = {
        {1000, 1000, 0, 0, 900, true},   {1000, 950, 0, 0, 850, true},
        {1000, 1000, 0, 0.5, 500, true}, {1000, 950, 0, 1, 950, true},
        {1000, 400, 0, 0.5, 0, true},    {1000, 1200, 0, 0.75, 750, true},
        {1000, 400, 1, 0, 400, false},   {1000, 950, 1, 0.75, 700, true},
        {0, 0, 0, 0, 0, true},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        const tn_device_info info = {.memory_total = all[i].total, .host_memory = all[i].host,
                                     .memory_free = all[i].free_memory};
        bool whole;
        uint64_t room = tn_budget_room(&info, all[i].share, &whole);
        if (room != all[i].room || whole != all[i].whole)
            fail_msg("case %zu: %llu, whole %d; expected %llu, %d", i, (unsigned long long)room, whole,
                     (unsigned long long)all[i].room, all[i].whole);
    }
}

/* Of a card all that is left is taken; a number of blocks stands whatever is left. */
static void budget_takes_a_card_whole(void **state)
{
    (void)state;
    tn_need need = {.weight_bytes = 1000, .workspace_bytes = 100, .block_bytes = 10};
    tn_budget_ask ask = {.seqs = 2, .context = 64, .block_tokens = 16, .whole = true,
                         .free_memory = 1160};
    tn_budget b;
    tn_err err;
    assert_int_equal(tn_budget_make(&ask, &need, &b, &err), TN_OK);
    assert_int_equal(b.nblock, 6);
    ask.whole = false;
    assert_int_equal(tn_budget_make(&ask, &need, &b, &err), TN_OK);
    assert_int_equal(b.nblock, 3);
    ask.blocks = 100;
    assert_int_equal(tn_budget_make(&ask, &need, &b, &err), TN_OK);
    assert_int_equal(b.nblock, 100);
    assert_int_equal(b.cache, 1000);
    ask.memory = 1;
    assert_int_equal(tn_budget_make(&ask, &need, &b, &err), TN_OK);
    assert_int_equal(b.nblock, 100);
}

/* What the host may hold of experts is bounded by cpu_memory. */
static void budget_bounds_the_host(void **state)
{
    (void)state;
    tn_need need = {.weight_bytes = 1000, .host_bytes = 64 << 10, .block_bytes = 10};
    tn_budget_ask ask = {.seqs = 1, .context = 16, .block_tokens = 16, .host = true, .memory = 40 << 10,
                         .experts = 16 << 10, .host_memory = 48 << 10};
    tn_budget b;
    tn_err err;
    assert_int_equal(tn_budget_make(&ask, &need, &b, &err), TN_OK);
    ask.host_memory--;
    assert_int_equal(tn_budget_make(&ask, &need, &b, &err), TN_UNAVAILABLE);
    assert_non_null(strstr(err.text, "cpu_memory: 48.00 KiB; experts that the device has no room for "
                                     "take 48.00 KiB"));
    ask.experts = 64 << 10; /* all on the card */
    ask.memory = 80 << 10;
    ask.host_memory = 1;
    assert_int_equal(tn_budget_make(&ask, &need, &b, &err), TN_OK);
}

/* Experts of the host: the card has as many as there is room for beside all else, and the total is
 * the card's. */
static void budget_splits_experts_of_the_host(void **state)
{
    (void)state;
    static const struct { uint64_t memory, asked, free_memory, experts; } all[] = {
        {0, 0, 70 << 10, 60 << 10}, /* a sixteenth of what is left stays free */
        {40 << 10, 0, 1 << 30, 34 << 10},
        {1 << 20, 0, 1 << 30, 200 << 10},
        {60 << 10, 8 << 10, 1 << 30, 8 << 10},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        tn_need need = {.weight_bytes = 4 << 10, .workspace_bytes = 1 << 10,
                        .host_bytes = (200 << 10) - 1, .block_bytes = 128};
        tn_budget_ask ask = {.seqs = 2, .context = 64, .block_tokens = 16, .host = true,
                             .memory = all[i].memory, .experts = all[i].asked,
                             .free_memory = all[i].free_memory};
        tn_budget b;
        tn_err err;
        tn_buf out;
        char text[96], kept[32];
        assert_int_equal(tn_budget_make(&ask, &need, &b, &err), TN_OK);
        assert_int_equal(b.nblock, 8);
        assert_int_equal(b.experts, all[i].experts);
        assert_int_equal(b.total, (6 << 10) + all[i].experts);
        tn_buf_open(&out, 4096);
        tn_budget_print(&b, &out);
        tn_budget_bytes(b.experts, kept);
        snprintf(text, sizeof text, "experts %s (of 200.00 KiB, %s in the host's memory)", kept,
                 i == 2 ? "none" : "the others");
        assert_non_null(strstr(out.data, text));
        tn_buf_close(&out);
    }
}

static void budget_is_told_in_words(void **state)
{
    (void)state;
    static const struct { uint64_t bytes; const char *text; } all[] = {
        {0, "0 B"}, {1023, "1023 B"}, {1024, "1.00 KiB"}, {1536 << 10, "1.50 MiB"},
        {(uint64_t)3 << 30, "3.00 GiB"}, {(uint64_t)2 << 40, "2.00 TiB"},
        {(uint64_t)2 << 50, "2048.00 TiB"},
    };
    char text[32];
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        tn_budget_bytes(all[i].bytes, text);
        assert_string_equal(text, all[i].text);
    }
    const tn_budget b = {.weights = 2048, .workspace = 1, .cache = 4096, .total = 6145,
                         .nblock = 3, .block_tokens = 16};
    tn_buf out;
    tn_buf_open(&out, 4096);
    tn_budget_print(&b, &out);
    assert_string_equal(out.data, "weights 2.00 KiB + workspace 1 B + cache 4.00 KiB (3 blocks "
                                  "of 16 tokens) = 6.00 KiB");
    tn_buf_close(&out);
    const tn_need need = {.weight_bytes = 2048, .workspace_bytes = 1, .block_bytes = 10};
    tn_budget_ask ask = {.seqs = 2, .context = 64, .block_tokens = 16, .free_memory = 5,
                         .memory = 1024};
    tn_budget none;
    tn_err err;
    assert_int_equal(tn_budget_make(&ask, &need, &none, &err), TN_UNAVAILABLE);
    assert_string_equal(err.text, "memory: weights 2.00 KiB, workspace 1 B and one cache block of "
                                  "10 B do not fit; found 1.00 KiB");
    ask.memory = 0;
    assert_int_equal(tn_budget_make(&ask, &need, &none, &err), TN_UNAVAILABLE);
    assert_non_null(strstr(err.text, "found 5 B"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(indices_are_whole), cmocka_unit_test(page_folds_layers),
        cmocka_unit_test(budget_shares_memory), cmocka_unit_test(budget_leaves_memory_to_others),
        cmocka_unit_test(budget_splits_experts_of_the_host),
        cmocka_unit_test(budget_knows_its_room),
        cmocka_unit_test(budget_takes_a_card_whole),
        cmocka_unit_test(budget_bounds_the_host),
        cmocka_unit_test(budget_is_told_in_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

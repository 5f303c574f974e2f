/* SPDX-License-Identifier: Apache-2.0 */
/* test_cpu_model.c - whole models on the cpu device: near the reference, and the same bits for
 * a row however its prompt is cut, whatever runs beside it, with any number of threads. */
#include "step_script.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

extern const tn_plugin tn_plugin_entry;

static const fx_llama tiny = {
    .layers = 3, .hidden = 96, .ffn = 160, .q_heads = 6, .kv_heads = 2, .dim = 16, .vocab = 1500,
    .context = SCRIPT_NBLOCK * SCRIPT_BLOCK, .form = TN_FORM_W4G, .group = 32, .flags = FX_ZEROS,
    .head_form = TN_FORM_F16,
};

/* Runs token[0, n) cut at the given places and keeps the logits of the last row of every
 * piece, and of all rows when `all`. */
static void feed(model *t, const int32_t *token, int32_t n, const int32_t *cuts,
                 const int32_t *blocks, float *logits)
{
    tn_err err;
    uint32_t width = t->f->buffer[t->logits].width;
    for (int32_t from = 0, i = 0; from < n; i++) {
        int32_t to = cuts != NULL && cuts[i] > 0 && cuts[i] < n ? cuts[i] : n;
        script_open(&t->s, t->number++);
        script_add(&t->s, token + from, to - from, from, blocks, SCRIPT_NBLOCK);
        for (int32_t r = 0; r < to - from; r++)
            script_out(&t->s, r);
        script_run(&t->d, t->program, &t->s.step);
        if (t->d.table->peek(t->program, t->logits, 0, (uint32_t)(to - from),
                             logits + (uint64_t)from * width, &err) != TN_OK)
            fail_msg("%s", err.text);
        from = to;
    }
}

static void check_same(const char *what, const float *a, const float *b, uint64_t n,
                       uint32_t width)
{
    for (uint64_t i = 0; i < n * width; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) != 0)
            fail_msg("%s: row %llu, column %llu: %.9g, %.9g", what,
                     (unsigned long long)(i / width), (unsigned long long)(i % width),
                     (double)a[i], (double)b[i]);
}

/* Against the reference, in exact and in fast mode, for every cache type. */
static void test_model_near(void **state)
{
    const struct { uint32_t exact, cache; double bound; } c[] = {
        {1, 0, 2e-5}, {0, 0, 6e-2}, {0, TN_BF16, 6e-2}, {0, TN_F32, 6e-2}, {1, TN_F16, 5e-3},
    };
    (void)state;
    for (uint32_t i = 0; i < 2 * sizeof c / sizeof c[0]; i++) {
        fx_llama m = tiny;
        tn_limits l = script_limits();
        uint32_t j = i % (sizeof c / sizeof c[0]);
        l.exact = c[j].exact;
        l.cache_dtype = c[j].cache;
        m.bias = i % 2;
        m.qk_norm = i % 3 == 0;
        m.pairs = i % 4 == 0;
        m.window = i % 3 == 1 ? 21 : 0;
        if (i >= sizeof c / sizeof c[0]) {
            if (!c[j].exact)
                continue;         /* rounding would choose other experts */
            m.nexpert = 8;
            m.ntop = 2;
        }
        model *t = model_open(&tn_plugin_entry, &m, 2, "auto", &l);
        int32_t token[70];
        script_tokens(token, 70, m.vocab);
        float *got = malloc(70 * m.vocab * sizeof *got);
        feed(t, token, 60, (const int32_t[]){33, 0}, NULL, got);
        reference *r = ref_new(t->f, 256, SCRIPT_BLOCK, 2 * SCRIPT_NBLOCK, 0);
        script_open(&t->s, 0);
        script_add(&t->s, token, 60, 0, NULL, SCRIPT_NBLOCK);
        for (int32_t row = 0; row < 60; row++)
            script_out(&t->s, row);
        ref_step(r, &t->s.step);
        double diff = 0, size = 0;
        for (uint32_t row = 0; row < 60; row++)
            for (uint32_t k = 0; k < m.vocab; k++) {
                double want = ref_row(r, t->logits, row)[k];
                diff += pow(want - (double)got[row * m.vocab + k], 2);
                size += want * want;
            }
        if (!(sqrt(diff / size) < c[j].bound))
            fail_msg("case %u: off by %g, at most %g", i, sqrt(diff / size), c[j].bound);
        ref_free(r);
        free(got);
        model_close(t);
    }
}

/* A prompt at once, in every two pieces, and token by token: the same bits. */
static void check_cuts(const fx_llama *m, const char *isa, int64_t threads, uint32_t exact)
{
    tn_limits l = script_limits();
    l.exact = exact;
    model *t = model_open(&tn_plugin_entry, m, threads, isa, &l);
    const int32_t n = 60;
    int32_t token[60], cuts[61], blocks[SCRIPT_NBLOCK];
    uint64_t size = (uint64_t)n * m->vocab;
    float *whole = malloc(size * sizeof *whole), *other = malloc(size * sizeof *other);
    script_tokens(token, 60, m->vocab);
    feed(t, token, n, NULL, NULL, whole);
    for (int32_t cut = 1; cut < n; cut += cut < 20 ? 1 : 7) {
        feed(t, token, n, (const int32_t[]){cut, 0}, NULL, other);
        check_same("two pieces", whole, other, (uint64_t)n, m->vocab);
    }
    for (int32_t i = 0; i < 61; i++)
        cuts[i] = i + 1 < n ? i + 1 : 0;
    for (uint32_t i = 0; i < SCRIPT_NBLOCK; i++)
        blocks[i] = (int32_t)(i * 29 % SCRIPT_NBLOCK + SCRIPT_NBLOCK);
    feed(t, token, n, cuts, blocks, other);
    check_same("token by token, blocks permuted", whole, other, (uint64_t)n, m->vocab);
    free(whole);
    free(other);
    model_close(t);
}

static const char *const levels[] = {"scalar", "avx2", "avxvnni", "avx512", "avx512vnni",
                                     "avx512amx"};

static bool runs_here(const char *isa)
{
    fx_device d = {0};
    tn_err err;
    if (fx_device_try(&d, &tn_plugin_entry, 1, isa, &err) != TN_OK)
        return false;
    fx_device_close(&d);
    return true;
}

static void test_cuts(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 5; i++) {
        fx_llama m = tiny;
        if (!runs_here(levels[i]))
            continue;
        check_cuts(&m, levels[i], 2, 0);
        check_cuts(&m, levels[i], 1, 1);
        m.window = 19;
        m.form = TN_FORM_F16;
        check_cuts(&m, levels[i], 3, 0);
        m.nexpert = 7;
        m.ntop = 3;
        m.form = TN_FORM_W8G;
        check_cuts(&m, levels[i], 2, 0);
    }
}

/* Sequences of different lengths in one step, beside padding: each as if alone. */
static void test_crowd(void **state)
{
    (void)state;
    for (uint32_t c = 0; c < 3; c++) {
        fx_llama m = tiny;
        tn_limits l = script_limits();
        tn_err err;
        if (c == 1)
            m.nexpert = 6, m.ntop = 2;
        if (c == 2)
            m.group = 96, m.flags = FX_PERM, m.ffn = 192;
        model *t = model_open(&tn_plugin_entry, &m, 2, "auto", &l);
        const int32_t length[6] = {1, 30, 7, 64, 2, 17};
        int32_t token[64], blocks[6][4];
        script_tokens(token, 64, m.vocab);
        float *alone[6], *crowd = malloc(128 * m.vocab * sizeof *crowd);
        for (int32_t i = 0; i < 6; i++) {
            alone[i] = malloc(64 * m.vocab * sizeof *alone[i]);
            feed(t, token + (64 - length[i]), length[i], NULL, NULL, alone[i]);
            for (int32_t j = 0; j < 4; j++)
                blocks[i][j] = 4 * i + (j * 3 + 1) % 4;
        }
        script_open(&t->s, t->number++);
        for (int32_t i = 0; i < 6; i++) {
            tn_seq *q = script_add(&t->s, token + (64 - length[i]), length[i], 0, blocks[i], 4);
            script_out(&t->s, q->row0 + length[i] - 1);
            script_pad(&t->s, 3);
        }
        script_run(&t->d, t->program, &t->s.step);
        assert_int_equal(t->d.table->peek(t->program, t->logits, 0, 6, crowd, &err), TN_OK);
        for (int32_t i = 0; i < 6; i++) {
            check_same("in a crowd", alone[i] + (uint64_t)(length[i] - 1) * m.vocab,
                       crowd + (uint64_t)i * m.vocab, 1, m.vocab);
            free(alone[i]);
        }
        free(crowd);
        model_close(t);
    }
}

/* 1, 2, 3 and 7 threads; long enough that runs of attention are shared out. */
static void test_threads(void **state)
{
    (void)state;
    tn_limits l = script_limits();
    float *want = malloc(4 * tiny.vocab * sizeof *want), *got = malloc(4 * tiny.vocab * 4);
    for (uint32_t i = 0; i < 4; i++) {
        const int64_t threads[4] = {1, 2, 3, 7};
        int32_t token[900];
        tn_err err;
        model *t = model_open(&tn_plugin_entry, &tiny, threads[i], "auto", &l);
        script_tokens(token, 900, tiny.vocab);
        for (int32_t from = 0; from < 800; from += 200) {
            script_open(&t->s, t->number++);
            script_add(&t->s, token + from, 200, from, NULL, SCRIPT_NBLOCK);
            script_out(&t->s, 199);
            script_run(&t->d, t->program, &t->s.step);
        }
        for (int32_t row = 0; row < 4; row++) {
            script_open(&t->s, t->number++);
            script_add(&t->s, token + 800 + row, 1, 800 + row, NULL, SCRIPT_NBLOCK);
            script_out(&t->s, 0);
            script_run(&t->d, t->program, &t->s.step);
            assert_int_equal(t->d.table->peek(t->program, t->logits, 0, 1,
                                              got + row * (int32_t)tiny.vocab, &err), TN_OK);
        }
        if (i == 0)
            memcpy(want, got, 4 * tiny.vocab * sizeof *want);
        check_same("threads", want, got, 4, tiny.vocab);
        model_close(t);
    }
    free(want);
    free(got);
}

/* Without profile everything is fused and memory is shared: the tokens must be the same. */
static void test_fused(void **state)
{
    (void)state;
    for (uint32_t c = 0; c < 3; c++) {
        fx_llama m = tiny;
        int32_t token[40], drawn[2][64];
        float logprob[2][64];
        script_tokens(token, 40, m.vocab);
        if (c == 1)
            m.nexpert = 9, m.ntop = 2;
        m.bias = c == 2;
        for (uint32_t profile = 0; profile < 2; profile++) {
            tn_limits l = script_limits();
            l.profile = profile;
            model *t = model_open(&tn_plugin_entry, &m, 2, "auto", &l);
            for (uint32_t turn = 0; turn < 2; turn++) {
                script_open(&t->s, t->number++);
                script_add(&t->s, token, 40, 0, NULL, SCRIPT_NBLOCK);
                for (int32_t i = 0; i < 40; i++)
                    script_out(&t->s, i)->ntop = 3;
                const tn_results *r = script_run(&t->d, t->program, &t->s.step);
                assert_int_equal(r->nop, profile ? t->f->recipe.nop : 0);
                for (uint32_t i = 0; i < 40; i++) {
                    drawn[profile][i] = r->result[i].token;
                    logprob[profile][i] = r->result[i].logprob;
                    assert_int_equal(r->result[i].rank, 1);
                    assert_int_equal(r->result[i].ntop, 3);
                    assert_int_equal(r->top_token[i * r->top_stride], r->result[i].token);
                }
            }
            model_close(t);
        }
        for (uint32_t i = 0; i < 40; i++) {
            assert_int_equal(drawn[0][i], drawn[1][i]);
            assert_true(logprob[0][i] == logprob[1][i]);
        }
    }
}

/* A random walk over six buffers: what is written and read when is anybody's guess. */
static void random_recipe(fixture *f, uint32_t head)
{
    enum { N = 6, W = 32 };
    uint32_t buffer[N + 1], written = 1, mats[3];
    static const char *const name[N + 1] = {"b0", "b1", "b2", "b3", "b4", "b5", "b6"};
    for (uint32_t i = 0; i <= N; i++)
        buffer[i] = fx_buffer(f, TN_ROWS_TOKENS, i == N ? 2 * W : W, name[i]);
    tn_op_embed embed = {.size = sizeof embed, .out = buffer[0], .scale = 1};
    embed.w = fx_matrix(f, TN_ROLE_EMBED, 64, W, TN_FORM_F32, 0, 0);
    fx_op(f, TN_OP_EMBED, &embed, "embed");
    for (uint32_t i = 0; i < 3; i++)
        mats[i] = fx_matrix(f, TN_ROLE_DENSE, i == 2 ? 2 * W : W, W, TN_FORM_W8G, 32, 0);
    for (uint32_t i = 0; i < 16; i++) {
        uint32_t in = (uint32_t)(fx_bits(f) % N), out = (uint32_t)(fx_bits(f) % N);
        while ((written >> in & 1) == 0)
            in = (in + 1) % N;
        if (out == in)
            out = (out + 1) % N;
        uint32_t add = (written >> out & 1) & (uint32_t)fx_bits(f);
        tn_op_norm norm = {.size = sizeof norm, .in = buffer[in], .out = buffer[out],
                           .w = TN_NONE, .width = W, .groups = 1, .eps = 1e-6f};
        tn_op_mix mix = {.size = sizeof mix, .in = buffer[in], .out = buffer[out], .width = W,
                         .gate = TN_NONE, .add = add, .scale = 0.7f};
        tn_op_linear linear = {.size = sizeof linear, .in = buffer[in], .nparts = 1, .add = add};
        linear.part[0] = (tn_part){.w = mats[fx_bits(f) % 2], .bias = TN_NONE,
                                   .out = buffer[out]};
        tn_op_linear up = {.size = sizeof up, .in = buffer[in], .nparts = 1};
        up.part[0] = (tn_part){.w = mats[2], .bias = TN_NONE, .out = buffer[N]};
        tn_op_act_mul act = {.size = sizeof act, .in = buffer[N], .b_col = W,
                             .out = buffer[out], .width = W, .act = TN_ACT_SILU};
        switch (fx_bits(f) % 4) {
        case 0: fx_op(f, TN_OP_NORM, &norm, "norm"); break;
        case 1: fx_op(f, TN_OP_MIX, &mix, "mix"); break;
        case 2: fx_op(f, TN_OP_LINEAR, &linear, "linear"); break;
        default:
            fx_op(f, TN_OP_LINEAR, &up, "up");
            fx_op(f, TN_OP_ACT_MUL, &act, "act");
        }
        written |= 1u << out;
    }
    for (uint32_t i = 1; i < N; i++) {
        tn_op_mix sum = {.size = sizeof sum, .in = buffer[i], .out = buffer[0], .width = W,
                         .gate = TN_NONE, .add = 1, .scale = 1};
        if ((written >> i & 1) != 0 && fx_bits(f) % 4 != 0)
            fx_op(f, TN_OP_MIX, &sum, "sum");
    }
    uint32_t out = fx_buffer(f, TN_ROWS_OUTS, W, "out");
    uint32_t logits = fx_buffer(f, TN_ROWS_OUTS, head, "logits");
    tn_op_pick pick = {.size = sizeof pick, .in = buffer[0], .out = out, .width = W};
    fx_op(f, TN_OP_PICK, &pick, "pick");
    tn_op_linear last = {.size = sizeof last, .in = out, .nparts = 1};
    last.part[0] = (tn_part){.bias = TN_NONE, .out = logits};
    last.part[0].w = fx_matrix(f, TN_ROLE_HEAD, head, W, TN_FORM_F16, 0, 0);
    fx_op(f, TN_OP_LINEAR, &last, "head");
    tn_op_logits op = {.size = sizeof op, .x = logits, .vocab = head, .valid = head};
    fx_op(f, TN_OP_LOGITS, &op, "logits");
    tn_op_sample sample = {.size = sizeof sample, .x = logits, .vocab = head};
    fx_op(f, TN_OP_SAMPLE, &sample, "sample");
    fx_section(f);
}

/* Fusing and sharing memory change nothing: with limits.profile neither is done. */
static void test_shared_memory(void **state)
{
    (void)state;
    fx_device d = {0};
    script *s = calloc(1, sizeof *s);
    uint64_t workspace[2] = {0};
    fx_device_open(&d, &tn_plugin_entry, 2, "auto");
    for (uint32_t seed = 0; seed < 150; seed++) {
        fixture *f = fx_new(seed);
        tn_result want[20];
        int32_t token[20];
        random_recipe(f, 40);
        script_tokens(token, 20, 64);
        for (uint32_t profile = 2; profile-- > 0;) {
            tn_limits l = script_limits();
            tn_need need;
            tn_err err;
            void *program;
            l.profile = profile;
            assert_int_equal(d.table->compile(d.dev, &f->recipe, &l, &program, &need, &err),
                             TN_OK);
            workspace[profile] += need.workspace_bytes;
            d.table->release(program);
            program = fx_program(&d, f, &l, 0, 0);
            for (uint64_t turn = 0; turn < 4; turn++) { /* 20 rows at once, then one */
                int32_t n = turn < 2 ? 20 : 1;
                script_open(s, turn);
                script_add(s, token, n, 0, NULL, 0);
                for (int32_t i = 0; i < n; i++)
                    script_out(s, i);
                const tn_results *r = script_run(&d, program, &s->step);
                for (int32_t i = 0; i < n; i++) {
                    if (profile && turn == 0)
                        want[i] = r->result[i];
                    assert_int_equal(r->result[i].token, want[i].token);
                    assert_true(r->result[i].logprob == want[i].logprob);
                }
            }
            d.table->release(program);
        }
        fx_free(f);
    }
    assert_true(workspace[0] < workspace[1]);
    free(s);
    fx_device_close(&d);
}

/* Decoding one step ahead: row_token -1 - i takes the token that output i of the step before
 * drew. Results of a step stay valid while the next one runs. */
static void test_ahead(void **state)
{
    (void)state;
    tn_limits l = script_limits();
    model *t = model_open(&tn_plugin_entry, &tiny, 2, "auto", &l);
    int32_t token[8], want[2][6], tokens[2];
    script_tokens(token, 8, tiny.vocab);
    for (uint32_t ahead = 0; ahead < 2; ahead++) {
        const tn_results *before = NULL;
        for (int32_t i = 0; i < 6; i++) {
            script_open(&t->s, t->number++);
            for (int32_t q = 0; q < 2; q++) {
                int32_t blocks[1] = {q};
                if (i == 0)
                    script_add(&t->s, token + q, 4, 0, blocks, 1);
                else
                    script_add(&t->s, ahead ? (int32_t[]){-1 - q} : &tokens[q], 1, 3 + i,
                               blocks, 1);
                script_out(&t->s, q == 0 ? (i == 0 ? 3 : 0) : (i == 0 ? 7 : 1));
            }
            const tn_results *r = script_run(&t->d, t->program, &t->s.step);
            if (before != NULL)
                assert_int_equal(before->result[0].token, want[0][i - 1]);
            before = r;
            for (int32_t q = 0; q < 2; q++) {
                tokens[q] = r->result[q].token;
                if (!ahead)
                    want[q][i] = tokens[q];
                assert_int_equal(tokens[q], want[q][i]);
            }
        }
    }
    model_close(t);
}

/* A row of NaN says so; its neighbours do not notice, whatever they ask for. */
static void test_nan(void **state)
{
    (void)state;
    for (uint32_t c = 0; c < 4; c++) {
        tn_limits l = script_limits();
        fx_llama m = tiny;
        l.profile = c % 2;
        m.untied = 1;
        m.nexpert = c / 2 * 8;
        m.ntop = 2;
        m.head_form = TN_FORM_F32;
        model *t = model_open(&tn_plugin_entry, &m, 2, "auto", &l);
        tn_result want[5];
        for (uint32_t turn = 0; turn < 2; turn++) {
            if (turn == 1) {      /* token 6 becomes NaN */
                tn_err err;
                float nan = NAN;
                memcpy(t->f->data[0].codes + 6 * m.hidden * 4, &nan, 4);
                tn_reader reader = fx_reader(t->f, 0);
                assert_int_equal(t->d.table->pack(t->program, 0, &reader, &err), TN_OK);
            }
            script_open(&t->s, t->number++);
            for (int32_t i = 0; i < 5; i++) {
                int32_t token[1] = {i < 3 ? 5 + i : 8 - 2 * (i - 3)}, blocks[1] = {i};
                script_add(&t->s, token, 1, 0, blocks, 1);
                tn_sampling *m = script_out(&t->s, i);
                m->flags = i >= 3 ? 0 : m->flags; /* rows 3 and 4 are drawn, row 4 is NaN */
                m->ntop = 2;
            }
            const tn_results *r = script_run(&t->d, t->program, &t->s.step);
            for (int32_t i = 0; i < 5; i++) {
                bool is_nan = turn == 1 && (i == 1 || i == 4);
                if (turn == 0)
                    want[i] = r->result[i];
                assert_int_equal(r->result[i].token, is_nan ? -1 : want[i].token);
                assert_int_equal(r->result[i].flags, is_nan ? TN_RESULT_NONFINITE : 0);
                assert_int_equal(r->result[i].ntop, is_nan ? 0 : 2);
                if (!is_nan)
                    assert_true(r->result[i].logprob == want[i].logprob);
            }
        }
        model_close(t);
    }
}

/* ------------------------------------------------------------------------------- sampling */

/* Sampled rows, more than are looked at together: each draws what it draws alone, with any
 * number of threads. Two rows on two threads, the least that are shared out by row. */
static void test_sampled_crowd(void **state)
{
    (void)state;
    enum { ROWS = 40 };
    int32_t want[ROWS], token[ROWS];
    float logprob[ROWS];
    tn_limits l = script_limits();
    l.profile = 0;
    l.seqs_max = ROWS;
    script_tokens(token, ROWS, tiny.vocab);
    for (uint32_t c = 0; c < 5; c++) {
        const int64_t threads[5] = {1, 2, 3, 5, 9};
        model *t = model_open(&tn_plugin_entry, &tiny, threads[c], "auto", &l);
        for (int32_t n = 1; n <= ROWS; n = n < 4 ? n + 1 : n + 12)
            for (int32_t from = 0; from + n <= ROWS; from += n) {
                script_open(&t->s, t->number++);
                for (int32_t i = from; i < from + n; i++) {
                    int32_t blocks[1] = {i};
                    tn_seq *q = script_add(&t->s, &token[i], 1, 0, blocks, 1);
                    tn_sampling *m = script_out(&t->s, q->row0);
                    m->flags = i % 7 == 3 ? TN_SAMPLE_GREEDY : 0;
                    m->seed = (uint64_t)i;
                    m->temperature = 1.5f;
                    m->top_p = i % 3 ? 1 : 0.9f;
                    m->top_k = i % 4 ? 0 : 50;
                    m->ntop = (uint32_t)i % 5;
                    m->history = i % 5 ? NULL : token;
                    m->nhistory = 20;
                    m->presence = 0.5f;
                }
                const tn_results *r = script_run(&t->d, t->program, &t->s.step);
                for (int32_t i = from; i < from + n; i++) {
                    if (c == 0 && n == 1) {
                        want[i] = r->result[0].token;
                        logprob[i] = r->result[0].logprob;
                        assert_in_range(want[i], 0, tiny.vocab - 1);
                    }
                    assert_int_equal(r->result[i - from].token, want[i]);
                    assert_true(r->result[i - from].logprob == logprob[i]);
                    assert_int_equal(r->result[i - from].ntop, i % 5);
                }
            }
        model_close(t);
    }
}

/* Tokens drafted ahead are judged in one step. What is drawn is what would have been drawn
 * without drafts, greedy or sampled; a draft behind one that fell does not stand. */
static void test_drafts(void **state)
{
    (void)state;
    enum { N = 12 };
    tn_limits l = script_limits();
    l.profile = 0;
    for (uint32_t sampled = 0; sampled < 2; sampled++) {
        model *t = model_open(&tn_plugin_entry, &tiny, 2, "auto", &l);
        int32_t token[N + 1] = {17};
        for (int32_t i = 0; i < N; i++) {
            script_open(&t->s, t->number++);
            script_add(&t->s, &token[i], 1, i, NULL, 1);
            tn_sampling *m = script_out(&t->s, 0);
            m->flags = sampled ? 0 : TN_SAMPLE_GREEDY;
            m->seed = 5;
            m->draw = (uint64_t)i;
            token[i + 1] = script_run(&t->d, t->program, &t->s.step)->result[0].token;
        }
        for (int32_t wrong = 1; wrong <= N; wrong++) {
            int32_t row[N];
            memcpy(row, token, sizeof row);
            if (wrong < N)
                row[wrong] = (row[wrong] + 1) % (int32_t)tiny.vocab;
            script_open(&t->s, t->number++);
            script_add(&t->s, row, N, 0, NULL, 1)->flags = TN_SEQ_DRAFT;
            for (int32_t i = 0; i < N; i++) {
                tn_sampling *m = script_out(&t->s, i);
                t->s.out[i].slot = 0;
                m->flags = sampled ? 0 : TN_SAMPLE_GREEDY;
                m->seed = 5;
                m->draw = (uint64_t)i;
                m->draft = i + 1 < N ? row[i + 1] : -1;
            }
            const tn_results *r = script_run(&t->d, t->program, &t->s.step);
            for (int32_t i = 0; i < N; i++) {
                bool stands = i + 1 < wrong && i + 1 < N;
                assert_int_equal(r->result[i].flags, stands ? TN_RESULT_ACCEPTED : 0);
                if (i < wrong)
                    assert_int_equal(r->result[i].token, token[i + 1]);
            }
        }
        model_close(t);
    }
}

/* ------------------------------------------------------------------ memory of the sequences */

/* Blocks that are no whole number of a device's strips of keys: what a token leaves is the same
 * in the neutral order, and what is read from it near enough. */
static void test_block_tokens(void **state)
{
    static const uint32_t sizes[] = {SCRIPT_BLOCK, 24, 40, 17};
    const uint64_t row = (uint64_t)tiny.kv_heads * tiny.dim * 2, n = 60 * (uint64_t)tiny.vocab;
    int32_t token[60];
    float *want = malloc(n * sizeof *want), *got = malloc(n * sizeof *got);
    uint8_t first[2][SCRIPT_BLOCK * 2 * 16 * 2];
    (void)state;
    assert_int_equal(sizeof first[0], SCRIPT_BLOCK * row);
    script_tokens(token, 60, tiny.vocab);
    for (uint32_t c = 0; c < sizeof sizes / sizeof sizes[0]; c++) {
        tn_limits l = script_limits();
        tn_err err;
        l.block_tokens = sizes[c];
        l.exact = 1;
        l.cache_dtype = TN_F16;
        model *t = model_open(&tn_plugin_entry, &tiny, 2, "auto", &l);
        feed(t, token, 60, (const int32_t[]){33, 0}, NULL, c == 0 ? want : got);
        for (uint64_t i = 0; c > 0 && i < n; i++)
            if (!(fabsf(want[i] - got[i]) < 1e-3f))
                fail_msg("blocks of %u, row %llu: %g, %g", sizes[c],
                         (unsigned long long)(i / tiny.vocab), (double)want[i], (double)got[i]);
        uint64_t size = t->d.table->block_size(t->program), side = sizes[c] * row;
        assert_int_equal(size, tiny.layers * 2 * side);
        uint8_t *data = malloc(size);
        assert_int_equal(t->d.table->block_read(t->program, 0, data, &err), TN_OK);
        for (uint32_t s = 0; s < 2; s++) {
            if (c == 0)
                memcpy(first[s], data + s * side, sizeof first[s]);
            assert_memory_equal(first[s], data + s * side, sizeof first[s]);
        }
        free(data);
        model_close(t);
    }
    free(want);
    free(got);
}

/* A block that is copied, or read and written elsewhere, serves as well as the first. */
static void test_blocks(void **state)
{
    (void)state;
    for (uint32_t c = 0; c < 3; c++) {
        tn_limits l = script_limits();
        tn_err err;
        l.cache_dtype = c == 0 ? 0 : c == 1 ? TN_BF16 : TN_F32;
        model *t = model_open(&tn_plugin_entry, &tiny, 2, "auto", &l);
        int32_t token[41], blocks[SCRIPT_NBLOCK] = {0, 1, 2}, copies[3] = {7, 8, 9};
        float *want = malloc(41 * tiny.vocab * sizeof *want), *got = malloc(tiny.vocab * 4);
        script_tokens(token, 41, tiny.vocab);
        feed(t, token, 41, (const int32_t[]){40, 0}, blocks, want);
        uint64_t size = t->d.table->block_size(t->program);
        uint8_t *data = malloc(size);
        assert_int_equal(size, tiny.layers * SCRIPT_BLOCK * 2 * tiny.kv_heads * tiny.dim *
                         (c == 2 ? 4 : 2));
        assert_int_equal(t->d.table->block_copy(t->program, 0, 7, &err), TN_OK);
        for (int32_t i = 1; i < 3; i++) {
            assert_int_equal(t->d.table->block_read(t->program, i, data, &err), TN_OK);
            assert_int_equal(t->d.table->block_write(t->program, 7 + i, data, &err), TN_OK);
        }
        /* neutral order: layer 0, K of token 0, head 1 differs from that of head 0 */
        uint64_t head = (uint64_t)tiny.dim * (c == 2 ? 4 : 2);
        assert_int_equal(t->d.table->block_read(t->program, 0, data, &err), TN_OK);
        assert_true(memcmp(data, data + head, head) != 0);
        script_open(&t->s, t->number++);
        script_add(&t->s, token + 40, 1, 40, copies, 3);
        script_out(&t->s, 0);
        script_run(&t->d, t->program, &t->s.step);
        assert_int_equal(t->d.table->peek(t->program, t->logits, 0, 1, got, &err), TN_OK);
        check_same("copied blocks", want + 40 * (uint64_t)tiny.vocab, got, 1, tiny.vocab);
        assert_int_not_equal(t->d.table->block_copy(t->program, 0, 2 * SCRIPT_NBLOCK, &err),
                             TN_OK);
        assert_int_not_equal(t->d.table->block_read(t->program, -1, data, &err), TN_OK);
        assert_int_not_equal(t->d.table->state_copy(t->program, 0, 0, &err), TN_OK);
        assert_int_equal(t->d.table->state_size(t->program), 0);
        free(data);
        free(want);
        free(got);
        model_close(t);
    }
}

/* A second section reads what the first left in a kept buffer. */
static void test_sections(void **state)
{
    (void)state;
    fixture *f = fx_new(3);
    f->recipe.vocab = 50;
    uint32_t x = fx_buffer(f, TN_ROWS_TOKENS, 32, "x");
    uint32_t kept = fx_buffer(f, TN_ROWS_TOKENS, 32, "kept");
    uint32_t y = fx_buffer(f, TN_ROWS_TOKENS, 64, "y");
    f->buffer[kept].flags = TN_BUF_KEEP;
    tn_op_embed embed = {.size = sizeof embed, .out = x, .scale = 1};
    embed.w = fx_matrix(f, TN_ROLE_EMBED, 50, 32, TN_FORM_F32, 0, 0);
    fx_op(f, TN_OP_EMBED, &embed, "embed");
    tn_op_mix mix = {.size = sizeof mix, .in = x, .out = kept, .width = 32, .gate = TN_NONE,
                     .scale = 2};
    fx_op(f, TN_OP_MIX, &mix, "keep");
    fx_section(f);
    fx_op(f, TN_OP_EMBED, &embed, "embed");
    tn_op_concat cat = {.size = sizeof cat, .a = x, .a_width = 32, .b = kept, .b_width = 32,
                        .out = y};
    fx_op(f, TN_OP_CONCAT, &cat, "concat");
    fx_section(f);
    fx_device d = {0};
    tn_limits l = script_limits();
    tn_err err;
    fx_device_open(&d, &tn_plugin_entry, 2, "auto");
    void *program = fx_program(&d, f, &l, 0, 0);
    script *s = calloc(1, sizeof *s);
    float got[3 * 64];
    for (uint32_t i = 0; i < 2; i++) {
        script_open(s, i);
        s->step.section = i;
        script_add(s, i == 0 ? (int32_t[]){1, 2, 3} : (int32_t[]){4, 5, 6}, 3, 0, NULL, 0);
        script_run(&d, program, &s->step);
    }
    assert_int_equal(d.table->peek(program, y, 0, 3, got, &err), TN_OK);
    for (uint32_t r = 0; r < 3; r++)
        for (uint32_t j = 0; j < 32; j++) {
            assert_true(got[r * 64 + j] == f->data[0].value[(4 + r) * 32 + j]);
            assert_true(got[r * 64 + 32 + j] == 2 * f->data[0].value[(1 + r) * 32 + j]);
        }
    free(s);
    d.table->release(program);
    fx_device_close(&d);
    fx_free(f);
}

/* ---------------------------------------------------------------------------------- ranks */

typedef struct group {
    uint32_t sums, gathers, fail_at;
} group;

/* As if the other of two ranks held the same numbers. */
static tn_status pair_reduce(void *ctx, void *x, uint64_t count, uint32_t dtype, void *stream,
                             tn_err *err)
{
    group *g = ctx;
    assert_int_equal(dtype, TN_F32);
    assert_null(stream);
    if (++g->sums == g->fail_at)
        return tn_fail(err, TN_CANCELLED, "the group was aborted");
    for (uint64_t i = 0; i < count; i++)
        ((float *)x)[i] *= 2;
    return TN_OK;
}

static tn_status pair_gather(void *ctx, const void *in, void *out, uint64_t count,
                             uint32_t dtype, void *stream, tn_err *err)
{
    group *g = ctx;
    (void)stream;
    (void)err;
    assert_int_equal(dtype, TN_F32);
    g->gathers++;
    for (uint64_t i = 0; i < count; i++) {
        ((float *)out)[i] = ((const float *)in)[i];
        ((float *)out)[count + i] = -((const float *)in)[i];
    }
    return TN_OK;
}

static void test_ranks(void **state)
{
    (void)state;
    fixture *f = fx_new(3);
    f->recipe.vocab = 50;
    uint32_t x = fx_buffer(f, TN_ROWS_TOKENS, 32, "x");
    uint32_t y = fx_buffer(f, TN_ROWS_TOKENS, 40, "y");
    tn_op_embed embed = {.size = sizeof embed, .out = x, .scale = 1};
    embed.w = fx_matrix(f, TN_ROLE_EMBED, 50, 32, TN_FORM_F32, 0, 0);
    fx_op(f, TN_OP_EMBED, &embed, "embed");
    tn_op_sum whole = {.size = sizeof whole, .x = x, .width = 32};
    fx_op(f, TN_OP_SUM, &whole, "sum");
    tn_op_sum part = {.size = sizeof part, .x = x, .col = 3, .width = 5};
    fx_op(f, TN_OP_SUM, &part, "sum_part");
    tn_op_gather gather = {.size = sizeof gather, .in = x, .width = 20, .out = y};
    fx_op(f, TN_OP_GATHER, &gather, "gather");
    fx_section(f);
    group g = {0};
    tn_comm comm = {.size = sizeof comm, .flags = TN_COMM_HOST, .all_reduce = pair_reduce,
                    .all_gather = pair_gather};
    tn_limits l = script_limits();
    tn_err err;
    fx_device d = {0};
    fx_device_open(&d, &tn_plugin_entry, 2, "auto");
    l.nrank = 2;
    void *program;
    assert_int_equal(fx_program_try(&d, f, &l, 0, 0, &program, &err), TN_CONFIG);
    l.comm = &comm;
    l.group = &g;
    program = fx_program(&d, f, &l, 0, 0);
    script *s = calloc(1, sizeof *s);
    for (uint32_t turn = 0; turn < 300; turn++) {
        float got[3 * 40];
        script_open(s, turn);
        script_add(s, (const int32_t[]){7, 8, 9}, 3, 0, NULL, 0);
        g = (group){.fail_at = turn % 2 == 1 ? 1 + turn / 2 % 2 : 0};
        if (turn % 2 == 1) {          /* a lost peer ends the step, not the program */
            assert_int_equal(d.table->run(program, &s->step, &err), TN_CANCELLED);
            assert_string_equal(err.text, "the group was aborted");
            assert_int_equal(g.gathers, 0);
            continue;
        }
        script_run(&d, program, &s->step);
        assert_int_equal(d.table->peek(program, y, 0, 3, got, &err), TN_OK);
        for (uint32_t r = 0; r < 3; r++)
            for (uint32_t j = 0; j < 40; j++) {
                uint32_t c = j % 20;
                float want = f->data[0].value[(7 + r) * 32 + c] * (c >= 3 && c < 8 ? 4 : 2);
                assert_true(got[r * 40 + j] == (j < 20 ? want : -want));
            }
    }
    free(s);
    d.table->release(program);
    fx_device_close(&d);
    fx_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_near), cmocka_unit_test(test_cuts),
        cmocka_unit_test(test_crowd), cmocka_unit_test(test_threads),
        cmocka_unit_test(test_fused), cmocka_unit_test(test_shared_memory),
        cmocka_unit_test(test_ahead), cmocka_unit_test(test_nan),
        cmocka_unit_test(test_sampled_crowd), cmocka_unit_test(test_drafts),
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_block_tokens), cmocka_unit_test(test_sections),
        cmocka_unit_test(test_ranks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

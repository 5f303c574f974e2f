/* SPDX-License-Identifier: Apache-2.0 */
/* test_loader.c - who reads a checkpoint, which forms of a plugin the core believes, and the
 * numbers of a model without files. */
#include "loader.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "buf.h"
#include "floats.h"
#include "graph.h"
#include "json.h"
#include "tokenizer.h"

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

/* A quantization that answers as it was told. */
typedef struct stub {
    uint32_t score;
    tn_form form;
    tn_status st;
} stub;

static uint32_t stub_claims(void *self, const tn_view *v, tn_err *why)
{
    const stub *s = self;
    (void)v;
    memset(why->text, 'w', sizeof why->text); /* L16: a text without an end */
    return s->score;
}

static tn_status stub_form_of(void *self, const tn_view *v, const tn_module *m, const tn_rect *r,
                              tn_form *out, tn_err *err)
{
    const stub *s = self;
    (void)v;
    (void)m;
    (void)r;
    (void)err;
    *out = s->form;
    return s->st;
}

static const tn_quant table = {.size = sizeof table, .claims = stub_claims,
                               .form_of = stub_form_of};
static const tn_quant with_multiply = {.size = sizeof table, .claims = stub_claims,
                                       .form_of = stub_form_of, .nmultiply = 1};

static int32_t find_nothing(const tn_view *v, const char *name, tn_tensor *out)
{
    (void)v;
    (void)name;
    (void)out;
    return 0;
}

/* ---------------------------------------------------------------------------------- claims */

typedef struct pick_case {
    uint32_t score[3];
    const char *wanted;
    tn_status st;
    uint32_t pick;
    const char *text;
} pick_case;

static void a_checkpoint_has_one_reader(void **state)
{
    static const pick_case cases[] = {
        {{0, 50, 0}, "auto", TN_OK, 1, ""},
        {{40, 50, 60}, "auto", TN_OK, 2, ""},
        {{50, 50, 60}, "auto", TN_OK, 2, ""},
        {{0, 50, 0}, "some", TN_OK, 1, ""},  /* the checkpoint's own word is no more than auto */
        {{50, 50, 0}, "b", TN_OK, 1, ""},
        {{50, 50, 0}, "b_marlin", TN_OK, 1, ""},
        /* L05: two plugins for one method, both named */
        {{50, 50, 0}, "auto", TN_CONFIG, 0, "both a and b claim quant_method some; expected quant"},
        {{0, 7, 7}, "some", TN_CONFIG, 0, "both b and c claim quant_method some"},
        {{UINT32_MAX, 0, UINT32_MAX}, "auto", TN_CONFIG, 0, "both a and c claim"},
        {{0, 0, 0}, "auto", TN_DATA, 0, "quant_method some is read by none of the loaded"},
        {{0, 50, 50}, "a", TN_DATA, 0, "quant = a, but the checkpoint's quant_method is some"},
        {{9, 9, 9}, "d", TN_CONFIG, 0, "no such quantization is loaded; expected auto, a, b, c"},
    };
    tn_json_doc *doc;
    tn_err err = {.text = ""};
    (void)state;
    assert_int_equal(tn_json_open("{\"quant_method\":\"some\"}", 23, "t", 8, &doc, &err), TN_OK);
    const tn_view v = {.size = sizeof v, .dir = "/m", .quant = tn_json_root(doc),
                       .quant_file = "config.json", .find = find_nothing};
    for (size_t i = 0; i < COUNT(cases); i++) {
        stub s[3] = {{.score = cases[i].score[0]}, {.score = cases[i].score[1]},
                     {.score = cases[i].score[2]}};
        const tn_quant_ref q[3] = {{"a", &table, &s[0]}, {"b", &table, &s[1]},
                                   {"c", &table, &s[2]}};
        uint32_t pick = 99;
        tn_status st = tn_loader_pick(&v, q, 3, cases[i].wanted, &pick, &err);
        if (st != cases[i].st || (st == TN_OK && pick != cases[i].pick) ||
            (st != TN_OK && strstr(err.text, cases[i].text) == NULL))
            fail_msg("case %zu: status %d, %u: %s", i, st, pick, err.text);
        assert_true(strnlen(err.text, sizeof err.text) < sizeof err.text);
    }
    tn_json_close(doc);
}

/* ----------------------------------------------------------------------------------- forms */

#define ROWS 16u
#define COLS 64u

static tn_status form_given(const stub *s, const tn_quant *t, tn_err *err)
{
    const tn_view v = {.size = sizeof v, .dir = "/m", .find = find_nothing};
    const tn_quant_ref q = {"odd", t, (void *)(uintptr_t)s};
    tn_weight_spec w = {.size = sizeof w, .role = TN_ROLE_DENSE, .nexpert = 1, .n = ROWS,
                        .k = COLS, .name = "layer"};
    tn_slice slice = {.module = "layer", .n = ROWS, .k = COLS, .row1 = ROWS};
    tn_source source = {.slice = &slice, .nslice = 1, .col1 = COLS};
    tn_draft d = {.source = &source, .weight = &w, .recipe = {.weight = &w, .nweight = 1}};
    tn_loader l = {.view = &v, .q = &q, .draft = &d};
    return tn_loader_forms(&l, err);
}

/* L16: counts that cannot be meant are found before a device sees them. */
static void odd_forms_are_refused(void **state)
{
    static const struct {
        tn_form form;
        const char *text; /* NULL: believed */
    } cases[] = {
        {{.kind = TN_FORM_F32, .rows = ROWS, .cols = COLS}, NULL},
        {{.kind = TN_FORM_W4G, .rows = ROWS, .cols = COLS, .group = 32}, NULL},
        {{.kind = TN_FORM_W8G, .rows = ROWS, .cols = COLS, .group = COLS}, NULL},
        {{.kind = 0, .rows = ROWS, .cols = COLS}, "a kind that does not exist"},
        {{.kind = 7, .rows = ROWS, .cols = COLS}, "a kind that does not exist"},
        {{.kind = UINT32_MAX, .rows = ROWS, .cols = COLS}, "a kind that does not exist"},
        {{.kind = TN_FORM_F32, .rows = 0, .cols = COLS}, "a wrong number of rows"},
        {{.kind = TN_FORM_F32, .rows = ROWS + 1, .cols = COLS}, "a wrong number of rows"},
        {{.kind = TN_FORM_F32, .rows = UINT64_MAX, .cols = COLS}, "a wrong number of rows"},
        {{.kind = TN_FORM_F32, .rows = ROWS, .cols = 0}, "a wrong number of columns"},
        {{.kind = TN_FORM_F32, .rows = ROWS, .cols = COLS - 1}, "a wrong number of columns"},
        {{.kind = TN_FORM_F32, .rows = ROWS, .cols = UINT64_MAX}, "a wrong number of columns"},
        {{.kind = TN_FORM_F32, .rows = ROWS, .cols = COLS + 1}, "padded columns without a"},
        {{.kind = TN_FORM_W4G, .rows = ROWS, .cols = COLS, .group = 0}, "no multiple of the group"},
        {{.kind = TN_FORM_W4G, .rows = ROWS, .cols = COLS, .group = 48}, "no multiple of the"},
        {{.kind = TN_FORM_W4G, .rows = ROWS, .cols = COLS, .group = UINT32_MAX}, "no multiple"},
        {{.kind = TN_FORM_W4G, .rows = ROWS, .cols = COLS + 1, .group = 1}, "an odd number of"},
        {{.kind = TN_FORM_W4G, .rows = ROWS, .cols = UINT64_MAX - 1, .group = 2,
          .flags = TN_FORM_PERM}, "a wrong number of columns"},
        {{.kind = TN_FORM_PRIVATE, .rows = ROWS, .cols = COLS}, "a private form without a mult"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        stub s = {.form = cases[i].form};
        tn_err err = {.text = ""};
        tn_status st = form_given(&s, &table, &err);
        if (cases[i].text == NULL ? st != TN_OK
                                  : st != TN_UNAVAILABLE ||
                                        strncmp(err.text, "plugin odd: module layer: ", 26) != 0 ||
                                        strstr(err.text, cases[i].text) == NULL)
            fail_msg("case %zu: status %d: %s", i, st, err.text);
    }
}

/* Columns in reverse for the module that is named so. */
static tn_status read_order(void *self, const tn_view *v, const tn_module *m, const tn_rect *r,
                            uint64_t row0, uint64_t row1, tn_block *out, tn_err *err)
{
    (void)self, (void)v, (void)r, (void)row0, (void)row1, (void)err;
    for (int32_t i = 0; i < (int32_t)COLS; i++)
        out->perm[i] = strcmp(m->name, "other") == 0 ? (int32_t)COLS - 1 - i : i;
    return TN_OK;
}

/* Gate and up stand in one weight, which has one order of columns. */
static void orders_of_columns_must_agree(void **state)
{
    static const tn_quant orders = {.size = sizeof orders, .claims = stub_claims,
                                    .form_of = stub_form_of, .read = read_order};
    const tn_view v = {.size = sizeof v, .dir = "/m", .find = find_nothing};
    stub s = {.form = {.kind = TN_FORM_W4G, .rows = ROWS, .cols = COLS, .group = 32,
                       .flags = TN_FORM_PERM}};
    const tn_quant_ref q = {"odd", &orders, &s};
    const char *const up[] = {"same", "other"};
    (void)state;
    for (int i = 0; i < 2; i++) {
        tn_err err = {.text = ""};
        tn_weight_spec w = {.size = sizeof w, .role = TN_ROLE_EXPERTS, .nexpert = 1, .n = 2 * ROWS,
                            .k = COLS, .name = "experts"};
        tn_slice slice[] = {{.module = "gate", .n = ROWS, .k = COLS, .row1 = ROWS},
                            {.module = up[i], .n = ROWS, .k = COLS, .row1 = ROWS}};
        tn_source source = {.slice = slice, .nslice = 2, .col1 = COLS};
        tn_draft d = {.source = &source, .weight = &w, .recipe = {.weight = &w, .nweight = 1}};
        tn_loader l = {.view = &v, .q = &q, .draft = &d};
        tn_status st = tn_loader_forms(&l, &err);
        assert_int_equal(st, i == 0 ? TN_OK : TN_DATA);
        if (i == 1)
            assert_non_null(strstr(err.text, "gate and other order their columns differently"));
    }
}

/* A whole private rectangle is held in memory at once: its size must be one that can be. */
static void private_sizes_are_looked_at(void **state)
{
    const uint64_t bad[] = {0, UINT64_MAX, UINT64_MAX / 2, (UINT64_C(1) << 44) + 1};
    stub s = {.form = {.kind = TN_FORM_PRIVATE, .rows = ROWS, .cols = COLS, .bytes = ROWS * COLS}};
    tn_err err = {.text = ""};
    (void)state;
    assert_int_equal(form_given(&s, &with_multiply, &err), TN_OK);
    for (size_t i = 0; i < COUNT(bad); i++) {
        s.form.bytes = bad[i];
        if (form_given(&s, &with_multiply, &err) != TN_UNAVAILABLE ||
            strstr(err.text, "a wrong number of bytes") == NULL)
            fail_msg("%llu bytes: %s", (unsigned long long)bad[i], err.text);
    }
}

/* ----------------------------------------------------------------------------- a rank's share */

/* A plugin that keeps what it was asked for. */
typedef struct cutter {
    uint32_t kind;
    uint64_t row_unit, col_unit;
    tn_rect form, read;
    uint64_t row0, row1;
} cutter;

static tn_status cutter_form(void *self, const tn_view *v, const tn_module *m, const tn_rect *r,
                             tn_form *out, tn_err *err)
{
    cutter *c = self;
    (void)v, (void)m, (void)err;
    c->form = *r;
    *out = (tn_form){.size = sizeof *out, .kind = c->kind, .rows = r->row1 - r->row0,
                     .cols = r->col1 - r->col0, .bytes = 100, .file_bytes = ROWS * COLS * 4};
    return TN_OK;
}

static tn_status cutter_cut(void *self, const tn_view *v, const tn_module *m, uint64_t *row_unit,
                            uint64_t *col_unit, tn_err *err)
{
    const cutter *c = self;
    (void)v, (void)m, (void)err;
    *row_unit = c->row_unit;
    *col_unit = c->col_unit;
    return TN_OK;
}

static tn_status cutter_read(void *self, const tn_view *v, const tn_module *m, const tn_rect *r,
                             uint64_t row0, uint64_t row1, tn_block *out, tn_err *err)
{
    cutter *c = self;
    (void)v, (void)m, (void)out, (void)err;
    c->read = *r;
    c->row0 = row0;
    c->row1 = row1;
    return TN_OK;
}

static tn_status pack_all(void *program, uint32_t w, const tn_reader *reader, tn_err *err)
{
    uint8_t codes[ROWS * COLS * 4];
    const tn_weight_spec *spec = program;
    tn_block out = {.size = sizeof out, .codes = codes};
    (void)w;
    return reader->rows(reader->ctx, 0, 0, spec->n, &out, err);
}

/* Rows 4 .. 8 and columns 16 .. 48 of a module, read by a device that wants all of them. */
static tn_status share_read(cutter *c, uint64_t *read, tn_err *err)
{
    static const tn_multiply multiply = {.size = sizeof multiply, .device = "cpu"};
    static const tn_quant cuts = {.size = sizeof cuts, .claims = stub_claims,
                                  .form_of = cutter_form, .cut = cutter_cut, .read = cutter_read,
                                  .multiply = &multiply, .nmultiply = 1};
    const tn_device device = {.size = sizeof device, .pack = pack_all};
    const tn_view v = {.size = sizeof v, .dir = "/m", .find = find_nothing};
    const tn_quant_ref q = {"cuts", &cuts, c};
    tn_slice slice = {.module = "layer", .n = ROWS, .k = COLS, .row0 = 4, .row1 = 8};
    tn_draft d;
    tn_draft_open(&d, "t", TN_F32, 0);
    uint32_t w = tn_draft_stack(&d, TN_ROLE_DENSE, 1, 1, 4, COLS, "layer");
    tn_draft_slice(&d, w, 0, &slice);
    tn_draft_columns(&d, w, 16, 48);
    tn_loader l = {.view = &v, .q = &q, .draft = &d};
    tn_status st = tn_loader_forms(&l, err);
    if (st == TN_OK)
        st = tn_loader_pack(&l, &device, d.weight, NULL, NULL, err);
    *read = atomic_load(&l.read);
    tn_draft_close(&d);
    return st;
}

static void a_rank_reads_its_own(void **state)
{
    uint64_t read;
    tn_err err = {.text = ""};
    (void)state;
    cutter c = {.kind = TN_FORM_F32, .row_unit = 1, .col_unit = 1};
    assert_int_equal(share_read(&c, &read, &err), TN_OK);
    assert_int_equal(c.form.row1, ROWS); /* the module's rows, of which some are read */
    assert_int_equal(c.read.col0, 16);
    assert_int_equal(c.row0, 4);
    assert_int_equal(c.row1, 8);
    assert_int_equal(read, 4 * 32 * 4);
    c = (cutter){.kind = TN_FORM_PRIVATE, .row_unit = 4, .col_unit = 16};
    assert_int_equal(share_read(&c, &read, &err), TN_OK);
    assert_true(c.form.row0 == 4 && c.form.row1 == 8 && c.form.col0 == 16 && c.form.col1 == 48);
    assert_memory_equal(&c.form, &c.read, sizeof c.form); /* the whole of the rectangle */
    assert_true(c.row0 == 4 && c.row1 == 8);
}

static void a_plugin_says_where_it_cuts(void **state)
{
    uint64_t read;
    tn_err err = {.text = ""};
    (void)state;
    cutter c = {.kind = TN_FORM_F32, .row_unit = 3, .col_unit = 32}; /* any rows can be left out */
    assert_int_equal(share_read(&c, &read, &err), TN_CONFIG);
    assert_string_equal(err.text, "tensor_parallel_size: module layer: a rank would have columns 16 "
                        "to 48 of 64; plugin cuts cuts it at multiples of 32");
    c = (cutter){.kind = TN_FORM_PRIVATE, .row_unit = 3, .col_unit = 16};
    assert_int_equal(share_read(&c, &read, &err), TN_CONFIG);
    assert_non_null(strstr(err.text, "rows 4 to 8 of 16; plugin cuts cuts it at multiples of 3"));
}

/* ----------------------------------------------------------------------------------- dummy */

/* A small qwen3_next: one layer of each mixer, experts in both. */
#define DUMMY_CONFIG \
    "{\"model_type\":\"qwen3_next\",\"hidden_size\":128,\"num_hidden_layers\":2,\"vocab_size\":300," \
    "\"full_attention_interval\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2," \
    "\"head_dim\":32,\"linear_num_key_heads\":2,\"linear_num_value_heads\":4," \
    "\"linear_key_head_dim\":16,\"linear_value_head_dim\":16,\"num_experts\":32," \
    "\"num_experts_per_tok\":4,\"moe_intermediate_size\":64,\"intermediate_size\":64," \
    "\"shared_expert_intermediate_size\":64,\"max_position_embeddings\":64,\"torch_dtype\":" \
    "\"bfloat16\"}"

typedef struct dummy_case {
    const char *quant;   /* NULL: plain */
    tn_status st;
    const char *text;    /* of the error */
    uint32_t kind, group, flags; /* of the experts */
} dummy_case;

/* What a made-up device sees of every weight. */
typedef struct witness {
    const tn_draft *draft;
    uint64_t sum;        /* of all bytes handed out */
    uint64_t rows;       /* asked for at a time */
    uint32_t used[32];   /* how often an expert of a router is among the first four */
} witness;

static float value_of(const tn_form *f, const uint8_t *codes, const float *scale,
                      const uint8_t *zero, uint64_t i)
{
    uint16_t h;
    if (f->kind == TN_FORM_BF16) {
        memcpy(&h, codes + 2 * i, 2);
        return tn_bf16_to_f32(h);
    }
    int code = f->kind == TN_FORM_W8G ? codes[i] : codes[i / 2] >> (i % 2 * 4) & 15;
    return (float)(code - zero[i / f->group]) * scale[i / f->group];
}

/* The square of what a matrix makes of the size of its input: two layers add four times to the
 * residual, an embedding has deviation 1. */
static double gain_wanted(const tn_weight_spec *w)
{
    if (strstr(w->name, "down") != NULL || strstr(w->name, "o_proj") != NULL ||
        strstr(w->name, "out_proj") != NULL)
        return 0.25;
    return w->role == TN_ROLE_EMBED ? (double)w->k : 1;
}

/* No lean to a side; zero points move whole groups. */
static void check_matrix(const tn_weight_spec *w, const float *x)
{
    double sum = 0, squares = 0, n = (double)(w->n * w->k);
    for (uint64_t i = 0; i < w->n * w->k; i++) {
        sum += x[i];
        squares += (double)x[i] * x[i];
    }
    double gain = squares / n * (double)w->k / gain_wanted(w), lean = sum / sqrt(n) * sqrt((double)w->k / gain_wanted(w));
    double most = w->form.flags & TN_FORM_ZEROS ? 12 : 5;
    if (w->n * w->k > 1000 && (gain < 0.85 || gain > 1.25 || fabs(lean) > most))
        fail_msg("%s: gain %g, lean %g", w->name, gain, lean);
}

static void check_vector(const tn_weight_spec *w, const float *x)
{
    double least = 0, most = 0; /* norms are zero-centred in this family, but for one */
    if (strstr(w->name, "linear_attn.norm") != NULL)
        least = most = 1;
    if (strstr(w->name, "A_log") != NULL)
        most = 2.8;
    if (strstr(w->name, "dt_bias") != NULL)
        least = -7, most = -2.2;
    if (strstr(w->name, "conv1d") != NULL)
        least = -0.86, most = 0.86;
    for (uint64_t i = 0; i < w->n * w->k; i++)
        if (!((double)x[i] >= least && (double)x[i] <= most))
            fail_msg("%s: %g is outside %g .. %g", w->name, (double)x[i], least, most);
}

/* Which experts inputs of random signs would choose. */
static void count_chosen(witness *t, const tn_weight_spec *w, const float *x)
{
    uint32_t state = 1;
    for (uint32_t token = 0; token < 200; token++) {
        float score[32] = {0};
        for (uint64_t j = 0; j < w->k; j++) {
            state = state * 1664525u + 1013904223u;
            for (uint32_t e = 0; e < 32; e++)
                score[e] += (state >> 31 ? 1.0f : -1.0f) * x[e * w->k + j];
        }
        for (uint32_t top = 0; top < 4; top++) {
            uint32_t best = 0;
            for (uint32_t e = 1; e < 32; e++)
                best = score[e] > score[best] ? e : best;
            score[best] = -1e30f;
            t->used[best]++;
        }
    }
}

static tn_status witness_pack(void *program, uint32_t index, const tn_reader *r, tn_err *err)
{
    witness *t = program;
    const tn_weight_spec *w = &t->draft->weight[index];
    const tn_form *f = &w->form;
    uint8_t codes[4096], zero[256];
    float scale[256], *x = malloc(w->n * w->k * sizeof *x);
    for (uint32_t e = 0; e < w->nexpert; e += w->nexpert > 1 ? 7 : 1) {
        for (uint64_t row = 0, to; row < w->n; row = to) {
            to = row + t->rows < w->n ? row + t->rows : w->n;
            tn_block out = {.size = sizeof out, .codes = codes, .scale = scale, .zero = zero};
            memset(codes, 0, sizeof codes);
            assert_int_equal(r->rows(r->ctx, e, row, to, &out, err), TN_OK);
            for (uint64_t i = 0; i < (to - row) * w->k; i++)
                x[row * w->k + i] = value_of(f, codes, scale, zero, i);
        }
        for (uint64_t i = 0; i < w->n * w->k; i++)
            t->sum = t->sum * 31 + tn_f32_to_bits(x[i]);
        if (w->role == TN_ROLE_VECTOR)
            check_vector(w, x);
        else
            check_matrix(w, x);
    }
    if (w->role == TN_ROLE_ROUTER && w->n == 32)
        count_chosen(t, w, x);
    free(x);
    return TN_OK;
}

static tn_status dummy_sum(const dummy_case *c, uint64_t rows, witness *t, tn_err *err)
{
    tn_json_doc *doc, *quant = NULL;
    tn_model_conf conf;
    tn_draft draft;
    tn_dummy dummy;
    const tn_device device = {.size = sizeof device, .pack = witness_pack};
    assert_int_equal(tn_json_open(DUMMY_CONFIG, strlen(DUMMY_CONFIG), "t", 8, &doc, err), TN_OK);
    if (c->quant != NULL)
        assert_int_equal(tn_json_open(c->quant, strlen(c->quant), "t", 8, &quant, err), TN_OK);
    const tn_view v = {.size = sizeof v, .dir = "/m", .config = tn_json_root(doc),
                       .quant = quant != NULL ? tn_json_root(quant) : NULL,
                       .quant_file = "config.json", .find = find_nothing};
    const tn_graph_ask ask = {.view = &v, .act_dtype = TN_BF16, .npos = 64};
    assert_int_equal(tn_model_conf_read(v.config, &conf, err), TN_OK);
    assert_int_equal(tn_graph_build(&conf, &ask, &draft, err), TN_OK);
    tn_loader l = {.view = &v, .draft = &draft, .dummy = &dummy};
    *t = (witness){.draft = &draft, .rows = rows};
    tn_status st = tn_dummy_open(&v, &conf, &dummy, err);
    if (st == TN_OK)
        st = tn_loader_forms(&l, err);
    if (st == TN_OK)
        st = tn_loader_pack(&l, &device, t, NULL, NULL, err);
    for (uint32_t i = 0; st == TN_OK && i < draft.recipe.nweight; i++) {
        bool stack = draft.weight[i].role == TN_ROLE_EXPERTS;
        assert_int_equal(draft.weight[i].form.kind, stack ? c->kind : TN_FORM_BF16);
        assert_int_equal(draft.weight[i].form.group, stack ? c->group : 0);
        assert_int_equal(draft.weight[i].form.flags, stack ? c->flags : 0);
    }
    tn_draft_close(&draft);
    tn_json_close(quant);
    tn_json_close(doc);
    return st;
}

/* The forms are those that the config asks for, the numbers sensible, and the same however many
 * rows are asked for at a time. */
static void dummies_have_the_forms_of_their_config(void **state)
{
    static const dummy_case cases[] = {
        {NULL, TN_OK, NULL, TN_FORM_BF16, 0, 0},
        {"{\"bits\":4,\"group_size\":32,\"sym\":true}", TN_OK, NULL, TN_FORM_W4G, 32, 0},
        {"{\"w_bit\":4,\"q_group_size\":64,\"zero_point\":true}", TN_OK, NULL, TN_FORM_W4G, 64,
         TN_FORM_ZEROS},
        {"{\"config_groups\":{\"group_0\":{\"weights\":{\"num_bits\":8,\"group_size\":32,"
         "\"symmetric\":true}}}}", TN_OK, NULL, TN_FORM_W8G, 32, 0},
        {"{\"bits\":4,\"group_size\":48}", TN_DATA, "do not divide into groups of 48", 0, 0, 0},
        {"{\"quant_method\":\"fp8\"}", TN_DATA, "bits: missing", 0, 0, 0},
        {"{\"bits\":4,\"group_size\":0}", TN_DATA, "group_size: 0; expected", 0, 0, 0},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        tn_err err = {.text = ""};
        witness a, b;
        tn_status st = dummy_sum(&cases[i], 1, &a, &err);
        if (st != cases[i].st || (st != TN_OK && strstr(err.text, cases[i].text) == NULL))
            fail_msg("case %zu: status %d: %s", i, st, err.text);
        if (st != TN_OK)
            continue;
        uint32_t unused = 0;
        for (uint32_t e = 0; e < 32; e++)
            unused += a.used[e] == 0;
        assert_int_equal(unused, 0);
        assert_int_equal(dummy_sum(&cases[i], 5, &b, &err), TN_OK);
        assert_true(a.sum == b.sum && a.sum != 0);
    }
}

/* Without a tokenizer bytes are tokens, and every other id can be read. */
static void ids_read_without_a_tokenizer(void **state)
{
    tn_tok *tok;
    tn_err err = {.text = ""};
    tn_ids ids = {0};
    tn_buf text;
    (void)state;
    assert_int_equal(tn_tok_open_bytes(255, &tok, &err), TN_DATA);
    assert_int_equal(tn_tok_open_bytes(300, &tok, &err), TN_OK);
    assert_int_equal(tn_tok_encode(tok, "a\n\xc3\xbc", 4, 0, NULL, 0, &ids, &err), TN_OK);
    const int32_t want[] = {'a', '\n', 0xc3, 0xbc, 299};
    assert_int_equal(ids.n, 4);
    assert_memory_equal(ids.id, want, 4 * sizeof *want);
    tn_buf_open(&text, 100);
    assert_int_equal(tn_tok_decode(tok, want, 5, true, &text, &err), TN_OK);
    assert_string_equal(text.data, "a\n\xc3\xbc<299>");
    tn_buf_close(&text);
    tn_ids_close(&ids);
    tn_tok_close(tok);
}

/* A token reads the experts that it chooses, not all; and of an embedding a row. */
static uint64_t bytes_each(void *program, uint32_t w)
{
    const tn_draft *d = program;
    return d->weight[w].role == TN_ROLE_EXPERTS ? 3200 : d->weight[w].role == TN_ROLE_VECTOR ? 0 : 1;
}

static void a_token_reads_the_experts_it_chooses(void **state)
{
    tn_json_doc *doc;
    tn_model_conf conf;
    tn_draft draft;
    tn_err err = {.text = ""};
    const tn_device device = {.size = sizeof device, .weight_bytes = bytes_each};
    (void)state;
    assert_int_equal(tn_json_open(DUMMY_CONFIG, strlen(DUMMY_CONFIG), "t", 8, &doc, &err), TN_OK);
    assert_int_equal(tn_model_conf_read(tn_json_root(doc), &conf, &err), TN_OK);
    const tn_graph_ask ask = {.act_dtype = TN_BF16, .npos = 64};
    assert_int_equal(tn_graph_build(&conf, &ask, &draft, &err), TN_OK);
    const tn_loader l = {.draft = &draft};
    uint64_t others = 0;
    for (uint32_t i = 0; i < draft.recipe.nweight; i++) {
        uint32_t role = draft.weight[i].role;
        others += role != TN_ROLE_EXPERTS && role != TN_ROLE_VECTOR && role != TN_ROLE_EMBED;
    }
    assert_int_equal(tn_loader_token_bytes(&l, &device, &draft, 0.5), 4 * 3200 / 32 * 4 + others);
    for (uint32_t i = 0; i < draft.recipe.nweight; i++) /* of those in the host's memory a part */
        if (draft.weight[i].role == TN_ROLE_EXPERTS)
            draft.weight[i].place = TN_PLACE_HOST;
    assert_int_equal(tn_loader_token_bytes(&l, &device, &draft, 0.5), 4 * 1600 / 32 * 4 + others);
    assert_int_equal(tn_loader_token_bytes(&l, &device, &draft, 0), others);
    tn_loader_sizes sizes;
    tn_loader_sum(&l, &device, &draft, &sizes);
    assert_int_equal(sizes.role[TN_ROLE_EXPERTS], 0);
    assert_int_equal(sizes.elsewhere, sizes.nelsewhere * 3200ull);
    assert_int_equal(sizes.role[TN_ROLE_DENSE] + sizes.role[TN_ROLE_ROUTER] + sizes.role[TN_ROLE_HEAD], others);
    tn_draft_close(&draft);
    tn_json_close(doc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_checkpoint_has_one_reader),
        cmocka_unit_test(odd_forms_are_refused),
        cmocka_unit_test(private_sizes_are_looked_at),
        cmocka_unit_test(orders_of_columns_must_agree),
        cmocka_unit_test(a_rank_reads_its_own),
        cmocka_unit_test(a_plugin_says_where_it_cuts),
        cmocka_unit_test(dummies_have_the_forms_of_their_config),
        cmocka_unit_test(ids_read_without_a_tokenizer),
        cmocka_unit_test(a_token_reads_the_experts_it_chooses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

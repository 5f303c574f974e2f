/* SPDX-License-Identifier: Apache-2.0 */
/* test_loader.c - who reads a checkpoint, and which forms of a plugin the core believes. */
#include "loader.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "json.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_checkpoint_has_one_reader),
        cmocka_unit_test(odd_forms_are_refused),
        cmocka_unit_test(private_sizes_are_looked_at),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

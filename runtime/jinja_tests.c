/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_tests.c - what stands behind `is`. */
#include "jinja_ast.h"
#include "jinja_call.h"
#include "jinja_iter.h"
#include "jinja_strings.h"

static bool answer(bool yes, tn_jval *out)
{
    *out = tn_jbool(yes);
    return true;
}

static bool t_defined(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)r, (void)all;
    return answer(a[0].type != TN_J_UNDEF, out);
}

static bool t_undefined(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)r, (void)all;
    return answer(a[0].type == TN_J_UNDEF, out);
}

static bool t_none(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)r, (void)all;
    return answer(a[0].type == TN_J_NONE, out);
}

static bool t_boolean(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)r, (void)all;
    return answer(a[0].type == TN_J_BOOL, out);
}

static bool t_true(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)r, (void)all;
    return answer(a[0].type == TN_J_BOOL && a[0].as.b, out);
}

static bool t_false(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)r, (void)all;
    return answer(a[0].type == TN_J_BOOL && !a[0].as.b, out);
}

static bool t_integer(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)r, (void)all;
    return answer(a[0].type == TN_J_INT, out);
}

static bool t_float(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)r, (void)all;
    return answer(a[0].type == TN_J_FLOAT, out);
}

static bool t_number(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)r, (void)all;
    return answer(tn_jval_is_number(a[0]), out);
}

static bool t_string(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)r, (void)all;
    return answer(a[0].type == TN_J_STR, out);
}

static bool t_mapping(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)r, (void)all;
    return answer(a[0].type == TN_J_DICT, out);
}

static bool t_sequence(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)r, (void)all;
    return answer(tn_jval_len(a[0]) >= 0 && a[0].type != TN_J_VIEW, out);
}

static bool t_iterable(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)r, (void)all;
    return answer(tn_jval_is_iterable(a[0]), out);
}

static bool t_callable(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)r, (void)all;
    switch (a[0].type) {
    case TN_J_UNDEF:
    case TN_J_MACRO:
    case TN_J_FUNC:
    case TN_J_METHOD:
    case TN_J_LOOP:
    case TN_J_JOINER: return answer(true, out);
    default: return answer(false, out);
    }
}

static bool t_escaped(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)r, (void)all;
    return answer(a[0].type == TN_J_STR && a[0].safe, out);
}

static bool t_sameas(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)r, (void)all;
    return answer(tn_jval_same(a[0], a[1]), out);
}

static bool t_filter(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)r, (void)all;
    return answer(a[0].type == TN_J_STR && tn_jfilter_find(a[0].as.s->p, a[0].as.s->size) != NULL,
                  out);
}

static bool t_test(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)r, (void)all;
    return answer(a[0].type == TN_J_STR && tn_jtest_find(a[0].as.s->p, a[0].as.s->size) != NULL,
                  out);
}

/* ------------------------------------------------------------------------------------ numbers */

static bool remainder_is(tn_jrun *r, tn_jval v, tn_jval by, int64_t wanted, tn_jval *out)
{
    tn_jval rest;
    bool yes;
    TN_TRY(tn_jval_binary(r, TN_JOP_MOD, v, by, &rest));
    TN_TRY(tn_jval_equal(r, rest, tn_jint(wanted), &yes));
    return answer(yes, out);
}

static bool t_odd(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return remainder_is(r, a[0], tn_jint(2), 1, out);
}

static bool t_even(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return remainder_is(r, a[0], tn_jint(2), 0, out);
}

static bool t_divisibleby(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return remainder_is(r, a[0], a[1], 0, out);
}

/* --------------------------------------------------------------------------------------- text */

static bool is_cased(tn_jrun *r, tn_jval v, uint32_t wanted, uint32_t refused, tn_jval *out)
{
    tn_jval s;
    TN_TRY(tn_jval_str(r, v, &s) && tn_jrun_burn_bytes(r, (size_t)s.as.s->size * 4));
    return answer(tn_jstr_is_case(s.as.s, wanted, refused | TN_JCHAR_TITLE), out);
}

static bool t_lower(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return is_cased(r, a[0], TN_JCHAR_LOWER, TN_JCHAR_UPPER, out);
}

static bool t_upper(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return is_cased(r, a[0], TN_JCHAR_UPPER, TN_JCHAR_LOWER, out);
}

/* -------------------------------------------------------------------------------- comparisons */

static bool t_eq(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    bool yes;
    (void)all;
    return tn_jval_equal(r, a[0], a[1], &yes) && answer(yes, out);
}

static bool t_ne(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    bool yes;
    (void)all;
    return tn_jval_equal(r, a[0], a[1], &yes) && answer(!yes, out);
}

static bool t_lt(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    bool yes;
    (void)all;
    return tn_jval_order(r, "<", a[0], a[1], &yes) && answer(yes, out);
}

static bool t_le(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    bool yes;
    (void)all;
    return tn_jval_order(r, "<=", a[0], a[1], &yes) && answer(yes, out);
}

static bool t_gt(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    bool yes;
    (void)all;
    return tn_jval_order(r, ">", a[0], a[1], &yes) && answer(yes, out);
}

static bool t_ge(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    bool yes;
    (void)all;
    return tn_jval_order(r, ">=", a[0], a[1], &yes) && answer(yes, out);
}

static bool t_in(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    bool yes;
    (void)all;
    return tn_jval_contains(r, a[1], a[0], &yes) && answer(yes, out);
}

static const tn_jbuiltin tests[] = {
    {.name = "!=", .params = "/a /b", .fn = t_ne},
    {.name = "<", .params = "/a /b", .fn = t_lt},
    {.name = "<=", .params = "/a /b", .fn = t_le},
    {.name = "==", .params = "/a /b", .fn = t_eq},
    {.name = ">", .params = "/a /b", .fn = t_gt},
    {.name = ">=", .params = "/a /b", .fn = t_ge},
    {.name = "boolean", .params = "value", .fn = t_boolean},
    {.name = "callable", .params = "/obj", .fn = t_callable},
    {.name = "defined", .params = "value", .fn = t_defined},
    {.name = "divisibleby", .params = "value num", .fn = t_divisibleby},
    {.name = "eq", .params = "/a /b", .fn = t_eq},
    {.name = "equalto", .params = "/a /b", .fn = t_eq},
    {.name = "escaped", .params = "value", .fn = t_escaped},
    {.name = "even", .params = "value", .fn = t_even},
    {.name = "false", .params = "value", .fn = t_false},
    {.name = "filter", .params = "value", .fn = t_filter},
    {.name = "float", .params = "value", .fn = t_float},
    {.name = "ge", .params = "/a /b", .fn = t_ge},
    {.name = "greaterthan", .params = "/a /b", .fn = t_gt},
    {.name = "gt", .params = "/a /b", .fn = t_gt},
    {.name = "in", .params = "value seq", .fn = t_in},
    {.name = "integer", .params = "value", .fn = t_integer},
    {.name = "iterable", .params = "value", .fn = t_iterable},
    {.name = "le", .params = "/a /b", .fn = t_le},
    {.name = "lessthan", .params = "/a /b", .fn = t_lt},
    {.name = "lower", .params = "value", .fn = t_lower},
    {.name = "lt", .params = "/a /b", .fn = t_lt},
    {.name = "mapping", .params = "value", .fn = t_mapping},
    {.name = "ne", .params = "/a /b", .fn = t_ne},
    {.name = "none", .params = "value", .fn = t_none},
    {.name = "number", .params = "value", .fn = t_number},
    {.name = "odd", .params = "value", .fn = t_odd},
    {.name = "sameas", .params = "value other", .fn = t_sameas},
    {.name = "sequence", .params = "value", .fn = t_sequence},
    {.name = "string", .params = "value", .fn = t_string},
    {.name = "test", .params = "value", .fn = t_test},
    {.name = "true", .params = "value", .fn = t_true},
    {.name = "undefined", .params = "value", .fn = t_undefined},
    {.name = "upper", .params = "value", .fn = t_upper},
};

const tn_jbuiltin *tn_jtest_find(const char *name, size_t size)
{
    return tn_jbuiltin_find(tests, sizeof tests / sizeof tests[0], name, size);
}

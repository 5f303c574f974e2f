/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_str_case.c - str methods about upper and lower case and the kinds of characters. */
#include "jinja_strings.h"

#define SIGMA 0x3a3u
#define FINAL_SIGMA 0x3c2u
#define SMALL_SIGMA 0x3c3u

static uint32_t bits_before(const char *start, const char *p)
{
    while (p > start) {
        uint32_t bits = tn_jchar_bits(tn_jutf_prev(&p));
        if ((bits & TN_JCHAR_IGNORABLE) == 0)
            return bits;
    }
    return 0;
}

static uint32_t bits_after(const char *p, const char *end)
{
    while (p < end) {
        uint32_t bits = tn_jchar_bits(tn_jutf_next(&p));
        if ((bits & TN_JCHAR_IGNORABLE) == 0)
            return bits;
    }
    return 0;
}

/* A sigma that ends its word has a form of its own. `p` stands behind it. */
static uint32_t lower_sigma(const tn_jstr *s, const char *from, const char *p)
{
    bool final = (bits_before(s->p, from) & TN_JCHAR_CASED) != 0
                 && (bits_after(p, s->p + s->size) & TN_JCHAR_CASED) == 0;
    return final ? FINAL_SIGMA : SMALL_SIGMA;
}

static void put_case(tn_jtext *t, const tn_jstr *s, const char **p, tn_jcase to)
{
    const char *from = *p;
    uint32_t cp = tn_jutf_next(p), out[3];
    if (cp == SIGMA && to == TN_JCASE_LOWER) {
        tn_jtext_put_cp(t, lower_sigma(s, from, *p));
        return;
    }
    uint32_t n = tn_jchar_case(cp, to, out);
    for (uint32_t i = 0; i < n; i++)
        tn_jtext_put_cp(t, out[i]);
}

bool tn_jstr_case(tn_jrun *r, tn_jval str, tn_jcase to, tn_jval *out)
{
    const tn_jstr *s = str.as.s;
    tn_jtext t;
    tn_jtext_open(&t, r, s->size);
    for (const char *p = s->p, *end = s->p + s->size; p < end && !t.failed;)
        put_case(&t, s, &p, to);
    return tn_jrun_burn_bytes(r, (size_t)s->size * 4) && tn_jtext_close(&t, out);
}

bool tn_jstr_capitalize(tn_jrun *r, tn_jval str, tn_jval *out)
{
    const tn_jstr *s = str.as.s;
    tn_jtext t;
    tn_jtext_open(&t, r, s->size);
    for (const char *p = s->p, *end = s->p + s->size; p < end && !t.failed;)
        put_case(&t, s, &p, p == s->p ? TN_JCASE_TITLE : TN_JCASE_LOWER);
    return tn_jrun_burn_bytes(r, (size_t)s->size * 4) && tn_jtext_close(&t, out);
}

static bool str_upper(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return tn_jstr_case(r, a[0], TN_JCASE_UPPER, out);
}

static bool str_lower(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return tn_jstr_case(r, a[0], TN_JCASE_LOWER, out);
}

static bool str_casefold(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return tn_jstr_case(r, a[0], TN_JCASE_FOLD, out);
}

static bool str_capitalize(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return tn_jstr_capitalize(r, a[0], out);
}

/* Every run of cased characters begins with a title letter. */
static bool str_title(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    const tn_jstr *s = a[0].as.s;
    bool inside = false;
    tn_jtext t;
    (void)all;
    tn_jtext_open(&t, r, s->size);
    for (const char *p = s->p, *end = s->p + s->size; p < end && !t.failed;) {
        const char *from = p;
        put_case(&t, s, &p, inside ? TN_JCASE_LOWER : TN_JCASE_TITLE);
        inside = (tn_jchar_bits(tn_jutf_next(&from)) & TN_JCHAR_CASED) != 0;
    }
    return tn_jrun_burn_bytes(r, (size_t)s->size * 4) && tn_jtext_close(&t, out);
}

static bool str_swapcase(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    const tn_jstr *s = a[0].as.s;
    tn_jtext t;
    (void)all;
    tn_jtext_open(&t, r, s->size);
    for (const char *p = s->p, *end = s->p + s->size; p < end && !t.failed;) {
        const char *look = p;
        uint32_t bits = tn_jchar_bits(tn_jutf_next(&look));
        if ((bits & TN_JCHAR_UPPER) != 0)
            put_case(&t, s, &p, TN_JCASE_LOWER);
        else if ((bits & TN_JCHAR_LOWER) != 0)
            put_case(&t, s, &p, TN_JCASE_UPPER);
        else
            tn_jtext_put_cp(&t, tn_jutf_next(&p));
    }
    return tn_jrun_burn_bytes(r, (size_t)s->size * 4) && tn_jtext_close(&t, out);
}

/* ------------------------------------------------------------------------------ questions */

/* Some character has one of the wanted bits, none of the refused. */
bool tn_jstr_is_case(const tn_jstr *s, uint32_t wanted, uint32_t refused)
{
    bool some = false;
    for (const char *p = s->p, *end = s->p + s->size; p < end;) {
        uint32_t bits = tn_jchar_bits(tn_jutf_next(&p));
        if ((bits & refused) != 0)
            return false;
        some = some || (bits & wanted) != 0;
    }
    return some;
}

/* Every character has one of the bits, and there is one. */
static bool all_have(tn_jrun *r, tn_jval str, uint32_t bits, tn_jval *out)
{
    const tn_jstr *s = str.as.s;
    bool yes = s->size > 0;
    for (const char *p = s->p, *end = s->p + s->size; p < end && yes;)
        yes = (tn_jchar_bits(tn_jutf_next(&p)) & bits) != 0;
    *out = tn_jbool(yes);
    return tn_jrun_burn_bytes(r, (size_t)s->size * 4);
}

static bool str_isalnum(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return all_have(r, a[0], TN_JCHAR_ALNUM, out);
}

static bool str_isalpha(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return all_have(r, a[0], TN_JCHAR_ALPHA, out);
}

static bool str_isdecimal(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return all_have(r, a[0], TN_JCHAR_DECIMAL, out);
}

static bool str_isdigit(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return all_have(r, a[0], TN_JCHAR_DIGIT, out);
}

static bool str_isnumeric(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return all_have(r, a[0], TN_JCHAR_NUMERIC, out);
}

static bool str_isprintable(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    TN_TRY(all_have(r, a[0], TN_JCHAR_PRINT, out));
    out->as.b = out->as.b || a[0].as.s->size == 0;
    return true;
}

static bool str_isascii(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)r;
    (void)all;
    *out = tn_jbool(tn_jstr_ascii(a[0].as.s));
    return true;
}

static bool str_isspace(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    const tn_jstr *s = a[0].as.s;
    bool yes = s->size > 0;
    (void)all;
    for (const char *p = s->p, *end = s->p + s->size; p < end && yes;)
        yes = tn_jchar_is_space(tn_jutf_next(&p));
    *out = tn_jbool(yes);
    return tn_jrun_burn_bytes(r, s->size);
}

static bool str_isidentifier(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    const tn_jstr *s = a[0].as.s;
    bool yes = s->size > 0;
    (void)all;
    for (const char *p = s->p, *end = s->p + s->size; p < end && yes;) {
        uint32_t wanted = p == s->p ? TN_JCHAR_START : TN_JCHAR_CONTINUE;
        yes = (tn_jchar_bits(tn_jutf_next(&p)) & wanted) != 0;
    }
    *out = tn_jbool(yes);
    return tn_jrun_burn_bytes(r, (size_t)s->size * 4);
}

static bool str_islower(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    *out = tn_jbool(tn_jstr_is_case(a[0].as.s, TN_JCHAR_LOWER, TN_JCHAR_UPPER | TN_JCHAR_TITLE));
    return tn_jrun_burn_bytes(r, (size_t)a[0].as.s->size * 4);
}

static bool str_isupper(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    *out = tn_jbool(tn_jstr_is_case(a[0].as.s, TN_JCHAR_UPPER, TN_JCHAR_LOWER | TN_JCHAR_TITLE));
    return tn_jrun_burn_bytes(r, (size_t)a[0].as.s->size * 4);
}

static bool str_istitle(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    const tn_jstr *s = a[0].as.s;
    bool inside = false, some = false, yes = true;
    (void)all;
    for (const char *p = s->p, *end = s->p + s->size; p < end && yes;) {
        uint32_t bits = tn_jchar_bits(tn_jutf_next(&p));
        if ((bits & (TN_JCHAR_UPPER | TN_JCHAR_TITLE)) != 0)
            yes = !inside;
        else if ((bits & TN_JCHAR_LOWER) != 0)
            yes = inside;
        inside = (bits & TN_JCHAR_CASED) != 0;
        some = some || inside;
    }
    *out = tn_jbool(yes && some);
    return tn_jrun_burn_bytes(r, (size_t)s->size * 4);
}

const tn_jbuiltin tn_jstr_case_methods[] = {
    {.name = "capitalize", .params = "/self", .fn = str_capitalize, .safe = 1},
    {.name = "casefold", .params = "/self", .fn = str_casefold, .safe = 1},
    {.name = "isalnum", .params = "/self", .fn = str_isalnum},
    {.name = "isalpha", .params = "/self", .fn = str_isalpha},
    {.name = "isascii", .params = "/self", .fn = str_isascii},
    {.name = "isdecimal", .params = "/self", .fn = str_isdecimal},
    {.name = "isdigit", .params = "/self", .fn = str_isdigit},
    {.name = "isidentifier", .params = "/self", .fn = str_isidentifier},
    {.name = "islower", .params = "/self", .fn = str_islower},
    {.name = "isnumeric", .params = "/self", .fn = str_isnumeric},
    {.name = "isprintable", .params = "/self", .fn = str_isprintable},
    {.name = "isspace", .params = "/self", .fn = str_isspace},
    {.name = "istitle", .params = "/self", .fn = str_istitle},
    {.name = "isupper", .params = "/self", .fn = str_isupper},
    {.name = "lower", .params = "/self", .fn = str_lower, .safe = 1},
    {.name = "swapcase", .params = "/self", .fn = str_swapcase, .safe = 1},
    {.name = "title", .params = "/self", .fn = str_title, .safe = 1},
    {.name = "upper", .params = "/self", .fn = str_upper, .safe = 1},
};
const size_t tn_jstr_case_count = sizeof tn_jstr_case_methods / sizeof tn_jstr_case_methods[0];

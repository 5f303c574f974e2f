/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_filter_seq.c - filters that take a sequence and give a value at once. */
#include "jinja_filters.h"

#include "jinja_ast.h"
#include "jinja_iter.h"

#include <string.h>

/* ------------------------------------------------------------------------- attribute paths */

static bool all_digits(const tn_jstr *s)
{
    for (uint32_t i = 0; i < s->size; i++)
        if (s->p[i] < '0' || s->p[i] > '9')
            return false;
    return s->size > 0;
}

bool tn_jpath_open(tn_jrun *r, tn_jval attribute, tn_jpath *out)
{
    tn_jval dot, parts;
    *out = (tn_jpath){.n = 0};
    if (attribute.type == TN_J_NONE || attribute.type == TN_J_MISSING)
        return true;
    tn_jval *at;
    if (attribute.type != TN_J_STR) {
        at = tn_jrun_take(r, sizeof *at);
        if (at == NULL)
            return false;
        *at = attribute;
        *out = (tn_jpath){.part = at, .n = 1};
        return true;
    }
    TN_TRY(tn_jstr_text(r, ".", &dot) && tn_jstr_split(r, attribute, dot, -1, false, &parts));
    at = tn_jrun_array(r, parts.as.l->n, sizeof *at);
    if (at == NULL)
        return false;
    for (uint32_t i = 0; i < parts.as.l->n; i++) {
        int64_t number;
        const tn_jstr *s = parts.as.l->at[i].as.s;
        at[i] = parts.as.l->at[i];
        if (all_digits(s) && tn_jint_parse(s->p, s->size, 10, &number) == TN_JPARSE_OK)
            at[i] = tn_jint(number);
    }
    *out = (tn_jpath){.part = at, .n = parts.as.l->n};
    return true;
}

bool tn_jpath_get(tn_jrun *r, const tn_jpath *p, tn_jval item, tn_jval *out)
{
    bool has_fallback = p->fallback.type != TN_J_MISSING && p->fallback.type != TN_J_NONE;
    *out = item;
    for (uint32_t i = 0; i < p->n; i++) {
        TN_TRY(tn_jval_getitem(r, *out, p->part[i], out));
        if (has_fallback && out->type == TN_J_UNDEF)
            *out = p->fallback;
    }
    if (p->fold && out->type == TN_J_STR) {
        uint8_t safe = out->safe;
        TN_TRY(tn_jstr_case(r, *out, TN_JCASE_LOWER, out));
        out->safe = safe;
    }
    return true;
}

/* -------------------------------------------------------------------------- ends and lists */

static bool f_first(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jcursor c;
    bool more;
    (void)all;
    TN_TRY(tn_jcursor_open(r, &c, a[0]) && tn_jcursor_next(r, &c, out, &more));
    return more || tn_jundef_hint(r, "No first item, sequence was empty.", out);
}

static bool f_last(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jcursor c;
    tn_jval back;
    bool more;
    (void)all;
    TN_TRY(tn_jval_reversed(r, a[0], &back) && tn_jcursor_open(r, &c, back));
    TN_TRY(tn_jcursor_next(r, &c, out, &more));
    return more || tn_jundef_hint(r, "No last item, sequence was empty.", out);
}

static bool f_list(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return tn_jval_items(r, a[0], TN_J_LIST, out);
}

static bool f_reverse(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jval list = a[0];
    (void)all;
    if (a[0].type == TN_J_STR)
        return tn_jval_slice(r, a[0], tn_jnone(), tn_jnone(), tn_jint(-1), out);
    if (!tn_jval_is_iterable(a[0]))
        return tn_jrun_fail(r, "argument must be iterable");
    if (a[0].type != TN_J_ITER)
        return tn_jval_reversed(r, a[0], out);
    TN_TRY(tn_jval_items(r, a[0], TN_J_LIST, &list));
    return tn_jval_slice(r, list, tn_jnone(), tn_jnone(), tn_jint(-1), out);
}

/* While escaping, one piece of markup makes markup of the whole. */
static bool join_escaped(tn_jrun *r, tn_jval sep, tn_jval *at, uint32_t n, bool *safe)
{
    *safe = sep.type == TN_J_STR && sep.safe;
    for (uint32_t i = 0; i < n; i++)
        *safe = *safe || (at[i].type == TN_J_STR && at[i].safe);
    for (uint32_t i = 0; i < n; i++)
        TN_TRY(*safe ? tn_jval_escape(r, at[i], &at[i]) : tn_jval_str(r, at[i], &at[i]));
    return true;
}

static bool f_join(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jval items, sep = a[1];
    tn_jpath path;
    bool safe = false;
    (void)all;
    TN_TRY(tn_jpath_open(r, a[2], &path) && tn_jval_items(r, a[0], TN_J_LIST, &items));
    uint32_t n = items.as.l->n;
    tn_jval *at = tn_jrun_array(r, n > 0 ? n : 1, sizeof *at);
    if (at == NULL || (sep.type == TN_J_MISSING && !tn_jstr_text(r, "", &sep)))
        return false;
    for (uint32_t i = 0; i < n; i++) {
        TN_TRY(tn_jpath_get(r, &path, items.as.l->at[i], &at[i]));
        if (!r->escaping)
            TN_TRY(tn_jval_str(r, at[i], &at[i]));
    }
    if (r->escaping)
        TN_TRY(join_escaped(r, sep, at, n, &safe));
    TN_TRY(safe ? tn_jval_escape(r, sep, &sep) : tn_jval_str(r, sep, &sep));
    tn_jlist list = {.at = at, .n = n};
    TN_TRY(tn_jstr_join(r, sep, (tn_jval){.type = TN_J_LIST, .as.l = &list}, out));
    out->safe = safe;
    return true;
}

/* ---------------------------------------------------------------------------------- sorting */

/* The sort key of each item: a list, one value for each of the paths ("age,name" is two). */
static bool sort_keys(tn_jrun *r, tn_jval items, tn_jval attribute, bool fold, tn_jval **out)
{
    tn_jval comma, names = {.type = TN_J_MISSING};
    uint32_t npath = 1, n = items.as.l->n;
    if (attribute.type == TN_J_STR) {
        TN_TRY(tn_jstr_text(r, ",", &comma));
        TN_TRY(tn_jstr_split(r, attribute, comma, -1, false, &names));
        npath = names.as.l->n;
    }
    tn_jpath *path = tn_jrun_array(r, npath, sizeof *path);
    *out = path != NULL ? tn_jrun_array(r, n > 0 ? n : 1, sizeof **out) : NULL;
    if (*out == NULL)
        return false;
    for (uint32_t k = 0; k < npath; k++) {
        TN_TRY(tn_jpath_open(r, names.type == TN_J_MISSING ? attribute : names.as.l->at[k],
                             &path[k]));
        path[k].fold = fold;
    }
    for (uint32_t i = 0; i < n; i++) {
        tn_jval *key = tn_jlist_new(r, TN_J_LIST, npath, &(*out)[i]);
        if (key == NULL)
            return false;
        for (uint32_t k = 0; k < npath; k++)
            TN_TRY(tn_jpath_get(r, &path[k], items.as.l->at[i], &key[k]));
    }
    return true;
}

static bool f_sort(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jval items, *keys;
    (void)all;
    TN_TRY(tn_jval_items(r, a[0], TN_J_LIST, &items));
    TN_TRY(sort_keys(r, items, tn_jarg_or_none(a[3]), !tn_jarg_flag(a[2]), &keys));
    tn_jval *at = tn_jlist_new(r, TN_J_LIST, items.as.l->n, out);
    if (at == NULL)
        return false;
    if (items.as.l->n > 0)
        memcpy(at, items.as.l->at, items.as.l->n * sizeof *at);
    return tn_jval_sort(r, at, keys, items.as.l->n, tn_jarg_flag(a[1]));
}

static bool f_dictsort(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    bool by_value = tn_jstr_is(a[2], "value");
    (void)all;
    if (a[2].type != TN_J_MISSING && !by_value && !tn_jstr_is(a[2], "key"))
        return tn_jrun_fail(r, "You can only sort by either \"key\" or \"value\"");
    if (a[0].type == TN_J_UNDEF)
        return tn_jundef_fail(r, a[0]);
    if (a[0].type != TN_J_DICT)
        return tn_jrun_fail(r, "'%s' object has no attribute 'items'", tn_jval_kind(a[0]));
    const tn_jdict *d = a[0].as.d;
    tn_jpath none = {.fold = !tn_jarg_flag(a[1])};
    tn_jval *keys = tn_jrun_array(r, d->n > 0 ? d->n : 1, sizeof *keys);
    tn_jval *at = keys != NULL ? tn_jlist_new(r, TN_J_LIST, d->n, out) : NULL;
    if (at == NULL)
        return false;
    for (uint32_t i = 0; i < d->n; i++) {
        TN_TRY(tn_jpair_new(r, d->at[i].key, d->at[i].val, &at[i]));
        TN_TRY(tn_jpath_get(r, &none, by_value ? d->at[i].val : d->at[i].key, &keys[i]));
    }
    return tn_jval_sort(r, at, keys, d->n, tn_jarg_flag(a[3]));
}

static bool group(tn_jrun *r, tn_jval key, const tn_jval *at, uint32_t n, tn_jval *out)
{
    tn_jval list;
    tn_jval *copy = tn_jlist_new(r, TN_J_LIST, n, &list);
    if (copy == NULL)
        return false;
    memcpy(copy, at, n * sizeof *copy);
    tn_jval *pair = tn_jlist_new(r, TN_J_TUPLE, 2, out);
    if (pair == NULL)
        return false;
    pair[0] = key;
    pair[1] = list;
    ((tn_jlist *)(uintptr_t)out->as.l)->group = 1; /* ours until it is returned */
    return true;
}

static bool f_groupby(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jval items, *at, *keys, key;
    tn_jpath path;
    tn_jlist_maker groups;
    uint32_t n;
    bool same;
    (void)all;
    TN_TRY(tn_jpath_open(r, a[1], &path));
    path.fallback = a[2];
    path.fold = !tn_jarg_flag(a[3]);
    TN_TRY(tn_jval_items(r, a[0], TN_J_LIST, &items));
    n = items.as.l->n;
    at = tn_jrun_array(r, n > 0 ? n : 1, sizeof *at);
    keys = at != NULL ? tn_jrun_array(r, n > 0 ? n : 1, sizeof *keys) : NULL;
    if (keys == NULL)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        at[i] = items.as.l->at[i];
        TN_TRY(tn_jpath_get(r, &path, at[i], &keys[i]));
    }
    TN_TRY(tn_jval_sort(r, at, keys, n, false));
    tn_jlist_open(&groups, r);
    path.fold = false;
    for (uint32_t i = 0, from = 0; i < n; i++) {
        if (i + 1 < n) {
            TN_TRY(tn_jval_equal(r, keys[i], keys[i + 1], &same));
            if (same)
                continue;
        }
        /* The group goes by what its first item really says. */
        TN_TRY(tn_jpath_get(r, &path, at[from], &key));
        TN_TRY(group(r, key, at + from, i + 1 - from, &key) && tn_jlist_add(&groups, key));
        from = i + 1;
    }
    return tn_jlist_close(&groups, TN_J_LIST, out);
}

/* ------------------------------------------------------------------------------- choosing one */

static bool best(tn_jrun *r, const tn_jval *a, bool greatest, tn_jval *out)
{
    tn_jval items, best_key, key;
    tn_jpath path;
    bool better;
    TN_TRY(tn_jval_items(r, a[0], TN_J_LIST, &items));
    if (items.as.l->n == 0)
        return tn_jundef_hint(r, "No aggregated item, sequence was empty.", out);
    TN_TRY(tn_jpath_open(r, a[2], &path));
    path.fold = !tn_jarg_flag(a[1]);
    *out = items.as.l->at[0];
    TN_TRY(tn_jpath_get(r, &path, *out, &best_key));
    for (uint32_t i = 1; i < items.as.l->n; i++) {
        TN_TRY(tn_jpath_get(r, &path, items.as.l->at[i], &key));
        TN_TRY(tn_jval_order(r, greatest ? ">" : "<", key, best_key, &better));
        if (!better)
            continue;
        best_key = key;
        *out = items.as.l->at[i];
    }
    return true;
}

static bool f_max(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return best(r, a, true, out);
}

static bool f_min(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return best(r, a, false, out);
}

static bool f_sum(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jcursor c;
    tn_jpath path;
    tn_jval v;
    bool more;
    (void)all;
    *out = a[2].type == TN_J_MISSING ? tn_jint(0) : a[2];
    if (out->type == TN_J_STR)
        return tn_jrun_fail(r, "sum() can't sum strings [use ''.join(seq) instead]");
    TN_TRY(tn_jpath_open(r, a[1], &path) && tn_jcursor_open(r, &c, a[0]));
    for (;;) {
        TN_TRY(tn_jcursor_next(r, &c, &v, &more));
        if (!more)
            return true;
        TN_TRY(tn_jpath_get(r, &path, v, &v) && tn_jval_binary(r, TN_JOP_ADD, *out, v, out));
    }
}

const tn_jbuiltin tn_jfilter_seq[] = {
    {.name = "dictsort", .params = "value case_sensitive? by? reverse?", .fn = f_dictsort},
    {.name = "first", .params = "seq", .fn = f_first},
    {.name = "groupby", .params = "value attribute default? case_sensitive?", .fn = f_groupby},
    {.name = "join", .params = "value d? attribute?", .fn = f_join},
    {.name = "last", .params = "seq", .fn = f_last},
    {.name = "list", .params = "value", .fn = f_list},
    {.name = "max", .params = "value case_sensitive? attribute?", .fn = f_max},
    {.name = "min", .params = "value case_sensitive? attribute?", .fn = f_min},
    {.name = "reverse", .params = "value", .fn = f_reverse},
    {.name = "sort", .params = "value reverse? case_sensitive? attribute?", .fn = f_sort},
    {.name = "sum", .params = "iterable attribute? start?", .fn = f_sum},
};
const size_t tn_jfilter_seq_count = sizeof tn_jfilter_seq / sizeof tn_jfilter_seq[0];

/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_methods.c - methods and fields of dictionaries, lists, ranges and numbers. */
#include "jinja_methods.h"

#include "jinja_iter.h"

#include <math.h>
#include <string.h>

#define COUNT(table) (sizeof(table) / sizeof(table)[0])

/* -------------------------------------------------------------------------- dictionaries */

static bool dict_get(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    TN_TRY(tn_jdict_get(r, a[0].as.d, a[1], out));
    if (out->type == TN_J_MISSING)
        *out = a[2].type == TN_J_MISSING ? tn_jnone() : a[2];
    return true;
}

static bool view(tn_jrun *r, tn_jval dict, tn_jview_kind kind, tn_jval *out)
{
    tn_jview *v = tn_jrun_take(r, sizeof *v);
    if (v == NULL)
        return false;
    *v = (tn_jview){.d = dict.as.d, .kind = kind};
    *out = (tn_jval){.type = TN_J_VIEW, .as.v = v};
    return true;
}

static bool dict_items(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return view(r, a[0], TN_JVIEW_ITEMS, out);
}

static bool dict_keys(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return view(r, a[0], TN_JVIEW_KEYS, out);
}

static bool dict_values(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return view(r, a[0], TN_JVIEW_VALUES, out);
}

static bool dict_copy(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    const tn_jdict *from = a[0].as.d;
    tn_jdict *d = tn_jdict_new(r, from->n);
    (void)all;
    if (d == NULL)
        return false;
    for (uint32_t i = 0; i < from->n; i++)
        TN_TRY(tn_jdict_set(r, d, from->at[i].key, from->at[i].val));
    *out = (tn_jval){.type = TN_J_DICT, .as.d = d};
    return true;
}

static bool fromkeys(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jcursor c;
    tn_jval key;
    bool more;
    (void)all;
    tn_jdict *d = tn_jdict_new(r, 0);
    TN_TRY(d != NULL && tn_jcursor_open(r, &c, a[1]));
    for (;;) {
        TN_TRY(tn_jcursor_next(r, &c, &key, &more));
        if (!more)
            break;
        TN_TRY(tn_jdict_set(r, d, key, a[2].type == TN_J_MISSING ? tn_jnone() : a[2]));
    }
    *out = (tn_jval){.type = TN_J_DICT, .as.d = d};
    return true;
}

static const tn_jbuiltin dict_methods[] = {
    {.name = "copy", .params = "/self", .fn = dict_copy},
    {.name = "fromkeys", .params = "/self /iterable /value?", .fn = fromkeys},
    {.name = "get", .params = "/self /key /default?", .fn = dict_get},
    {.name = "items", .params = "/self", .fn = dict_items},
    {.name = "keys", .params = "/self", .fn = dict_keys},
    {.name = "values", .params = "/self", .fn = dict_values},
};

static const tn_jbuiltin dict_type_methods[] = {
    {.name = "fromkeys", .params = "/self /iterable /value?", .fn = fromkeys},
};

/* One pair of an iterable of pairs. */
static bool add_pair(tn_jrun *r, tn_jdict *d, tn_jval pair, uint32_t i)
{
    tn_jval list;
    if (!tn_jval_is_iterable(pair))
        return tn_jrun_fail(r, "cannot convert dictionary update sequence element #%u to a "
                               "sequence", i);
    TN_TRY(tn_jval_items(r, pair, TN_J_LIST, &list));
    if (list.as.l->n != 2)
        return tn_jrun_fail(r, "dictionary update sequence element #%u has length %u; 2 is "
                               "required", i, list.as.l->n);
    return tn_jdict_set(r, d, list.as.l->at[0], list.as.l->at[1]);
}

static bool add_all(tn_jrun *r, tn_jdict *d, tn_jval from)
{
    tn_jcursor c;
    tn_jval pair;
    bool more;
    if (from.type == TN_J_DICT) {
        for (uint32_t i = 0; i < from.as.d->n; i++)
            TN_TRY(tn_jdict_set(r, d, from.as.d->at[i].key, from.as.d->at[i].val));
        return true;
    }
    TN_TRY(tn_jcursor_open(r, &c, from));
    for (uint32_t i = 0;; i++) {
        TN_TRY(tn_jcursor_next(r, &c, &pair, &more));
        if (!more)
            return true;
        TN_TRY(add_pair(r, d, pair, i));
    }
}

bool tn_jdict_make(tn_jrun *r, const tn_jargs *args, tn_jdict **out)
{
    if (args->n > 1)
        return tn_jrun_fail(r, "dict expected at most 1 argument, got %u", args->n);
    *out = tn_jdict_new(r, args->nkw);
    if (*out == NULL)
        return false;
    if (args->n == 1) {
        /* Undefined has any attribute, so Python takes it for a mapping and asks for keys. */
        if (args->at[0].type == TN_J_UNDEF)
            return tn_jundef_fail(r, args->at[0]);
        TN_TRY(add_all(r, *out, args->at[0]));
    }
    for (uint32_t i = 0; i < args->nkw; i++)
        TN_TRY(tn_jdict_set(r, *out, args->kw[i].key, args->kw[i].val));
    return true;
}

/* ------------------------------------------------------------------------ lists and ranges */

static bool seq_count(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jcursor c;
    tn_jval v;
    bool more, same;
    int64_t n = 0;
    (void)all;
    TN_TRY(tn_jcursor_open(r, &c, a[0]));
    for (;;) {
        TN_TRY(tn_jcursor_next(r, &c, &v, &more));
        if (!more)
            break;
        TN_TRY(tn_jval_equal(r, v, a[1], &same));
        n += same;
    }
    *out = tn_jint(n);
    return true;
}

static int64_t bound_of(int64_t i, int64_t n)
{
    i += i < 0 ? n : 0;
    return i < 0 ? 0 : i > n ? n : i;
}

static bool seq_index(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jcursor c;
    tn_jval v;
    bool more, same;
    int64_t n = tn_jval_len(a[0]), from = 0, to = n;
    (void)all;
    if (a[2].type != TN_J_MISSING)
        TN_TRY(tn_jval_index(r, a[2], "index()'s start", &from));
    if (a[3].type != TN_J_MISSING)
        TN_TRY(tn_jval_index(r, a[3], "index()'s stop", &to));
    from = bound_of(from, n);
    to = bound_of(to, n);
    TN_TRY(tn_jcursor_open(r, &c, a[0]));
    for (int64_t i = 0; i < to; i++) {
        TN_TRY(tn_jcursor_next(r, &c, &v, &more));
        if (i < from)
            continue;
        TN_TRY(tn_jval_equal(r, v, a[1], &same));
        if (same) {
            *out = tn_jint(i);
            return true;
        }
    }
    return tn_jrun_fail(r, "the value is not in the %s", tn_jval_kind(a[0]));
}

static bool list_copy(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return tn_jval_items(r, a[0], TN_J_LIST, out);
}

static const tn_jbuiltin list_methods[] = {
    {.name = "copy", .params = "/self", .fn = list_copy},
    {.name = "count", .params = "/self /value", .fn = seq_count},
    {.name = "index", .params = "/self /value /start? /stop?", .fn = seq_index},
};

static const tn_jbuiltin tuple_methods[] = {
    {.name = "count", .params = "/self /value", .fn = seq_count},
    {.name = "index", .params = "/self /value /start? /stop?", .fn = seq_index},
};

static const tn_jbuiltin range_methods[] = {
    {.name = "count", .params = "/self /value", .fn = seq_count},
    {.name = "index", .params = "/self /value", .fn = seq_index},
};

/* -------------------------------------------------------------------------------- numbers */

static bool conjugate(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)r;
    (void)all;
    *out = a[0].type == TN_J_FLOAT ? a[0] : tn_jint(tn_jval_int(a[0]));
    return true;
}

static bool bit_length(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    int64_t v = tn_jval_int(a[0]);
    uint64_t u = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    (void)r;
    (void)all;
    *out = tn_jint(u == 0 ? 0 : 64 - __builtin_clzll(u));
    return true;
}

static bool bit_count(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    int64_t v = tn_jval_int(a[0]);
    (void)r;
    (void)all;
    *out = tn_jint(__builtin_popcountll(v < 0 ? 0 - (uint64_t)v : (uint64_t)v));
    return true;
}

static bool is_whole(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)r;
    (void)all;
    *out = tn_jbool(isfinite(a[0].as.f) && floor(a[0].as.f) == a[0].as.f);
    return true;
}

static const tn_jbuiltin int_methods[] = {
    {.name = "bit_count", .params = "/self", .fn = bit_count},
    {.name = "bit_length", .params = "/self", .fn = bit_length},
    {.name = "conjugate", .params = "/self", .fn = conjugate},
};

static const tn_jbuiltin float_methods[] = {
    {.name = "conjugate", .params = "/self", .fn = conjugate},
    {.name = "is_integer", .params = "/self", .fn = is_whole},
};

/* -------------------------------------------------------------------------------- looking up */

const tn_jbuiltin *tn_jmethod_find(tn_jval obj, const char *name, size_t size)
{
    switch (obj.type) {
    case TN_J_DICT: return tn_jbuiltin_find(dict_methods, COUNT(dict_methods), name, size);
    case TN_J_LIST: return tn_jbuiltin_find(list_methods, COUNT(list_methods), name, size);
    case TN_J_TUPLE: return tn_jbuiltin_find(tuple_methods, COUNT(tuple_methods), name, size);
    case TN_J_RANGE: return tn_jbuiltin_find(range_methods, COUNT(range_methods), name, size);
    case TN_J_BOOL:
    case TN_J_INT: return tn_jbuiltin_find(int_methods, COUNT(int_methods), name, size);
    case TN_J_FLOAT: return tn_jbuiltin_find(float_methods, COUNT(float_methods), name, size);
    case TN_J_FUNC:
        if (strcmp(obj.as.f1->name, "dict") != 0)
            return NULL;
        return tn_jbuiltin_find(dict_type_methods, COUNT(dict_type_methods), name, size);
    default: return NULL;
    }
}

static bool number_field(tn_jval obj, tn_jval name, tn_jval *out)
{
    bool whole = obj.type != TN_J_FLOAT;
    if (tn_jstr_is(name, "real") || (whole && tn_jstr_is(name, "numerator")))
        *out = whole ? tn_jint(tn_jval_int(obj)) : obj;
    else if (tn_jstr_is(name, "imag"))
        *out = whole ? tn_jint(0) : tn_jfloat(0);
    else if (whole && tn_jstr_is(name, "denominator"))
        *out = tn_jint(1);
    return true;
}

bool tn_jval_field(tn_jrun *r, tn_jval obj, tn_jval name, tn_jval *out)
{
    (void)r;
    *out = (tn_jval){.type = TN_J_MISSING};
    if (tn_jval_is_number(obj))
        return number_field(obj, name, out);
    if (obj.type == TN_J_TUPLE && obj.as.l->group) {
        if (tn_jstr_is(name, "grouper"))
            *out = obj.as.l->at[0];
        else if (tn_jstr_is(name, "list"))
            *out = obj.as.l->at[1];
    } else if (obj.type == TN_J_RANGE) {
        if (tn_jstr_is(name, "start"))
            *out = tn_jint(obj.as.r->start);
        else if (tn_jstr_is(name, "stop"))
            *out = tn_jint(obj.as.r->stop);
        else if (tn_jstr_is(name, "step"))
            *out = tn_jint(obj.as.r->step);
    } else if (obj.type == TN_J_JOINER) {
        if (tn_jstr_is(name, "sep"))
            *out = obj.as.joiner->sep;
        else if (tn_jstr_is(name, "used"))
            *out = tn_jbool(obj.as.joiner->used);
    }
    return true;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_filter_lazy.c - filters that give an iterator: nothing happens until it is walked. */
#include "jinja_filters.h"

#include "jinja_iter.h"
#include "quote.h"

#include <string.h>

/* What map, select and their like do to each item. */
typedef struct lazy {
    bool ready;               /* the arguments have been looked at */
    bool by_attribute;        /* look only at the attribute `path` leads to */
    bool keep_when;           /* select keeps what is true, reject what is not */
    tn_jargs args;            /* as given, in the arena */
    tn_jpath path;
    const tn_jbuiltin *fn;    /* filter or test, NULL: none */
    tn_jargs fn_args;
} lazy;

static bool copy_args(tn_jrun *r, const tn_jargs *from, tn_jargs *to)
{
    tn_jval *at = tn_jrun_array(r, from->n > 0 ? from->n : 1, sizeof *at);
    tn_jpair *kw = at != NULL ? tn_jrun_array(r, from->nkw > 0 ? from->nkw : 1, sizeof *kw) : NULL;
    if (kw == NULL)
        return false;
    if (from->n > 0)
        memcpy(at, from->at, from->n * sizeof *at);
    if (from->nkw > 0)
        memcpy(kw, from->kw, from->nkw * sizeof *kw);
    *to = (tn_jargs){.at = at, .n = from->n, .kw = kw, .nkw = from->nkw};
    return true;
}

static bool named(tn_jrun *r, lazy *l, uint32_t at, bool test)
{
    tn_jval name = l->args.at[at];
    l->fn = NULL;
    if (name.type == TN_J_STR)
        l->fn = test ? tn_jtest_find(name.as.s->p, name.as.s->size)
                     : tn_jfilter_find(name.as.s->p, name.as.s->size);
    if (l->fn == NULL) {
        tn_quoted q;
        TN_TRY(tn_jval_str(r, name, &name));
        return tn_jrun_fail(r, "no %s is named %s", test ? "test" : "filter",
                            tn_quote(&q, name.as.s->p, name.as.s->size));
    }
    l->fn_args = l->args;
    l->fn_args.at += at + 1;
    l->fn_args.n -= at + 1;
    return true;
}

/* ----------------------------------------------------------------------------------------- map */

static bool ready_map(tn_jrun *r, lazy *l)
{
    const tn_jval *attribute = tn_jargs_named(&l->args, "attribute");
    l->ready = true;
    if (l->args.n > 0)
        return named(r, l, 0, false);
    if (attribute == NULL)
        return tn_jrun_fail(r, "map requires a filter argument");
    const tn_jval *fallback = tn_jargs_named(&l->args, "default");
    if (l->args.nkw > (fallback != NULL ? 2u : 1u))
        return tn_jrun_fail(r, "map() got an unexpected keyword argument");
    TN_TRY(tn_jpath_open(r, *attribute, &l->path));
    if (fallback != NULL)
        l->path.fallback = *fallback;
    return true;
}

/* What is false is not even looked at, as in jinja2. */
static bool nothing_to_do(tn_jiter *it, bool *more)
{
    *more = false;
    return !tn_jval_truth(it->source);
}

static bool next_map(tn_jrun *r, tn_jiter *it, tn_jval *out, bool *more)
{
    lazy *l = it->more;
    tn_jval v;
    if (nothing_to_do(it, more))
        return true;
    if (!l->ready)
        TN_TRY(ready_map(r, l));
    TN_TRY(tn_jiter_draw(r, it, &v, more));
    if (!*more)
        return true;
    return l->fn != NULL ? tn_jbuiltin_call(r, l->fn, &v, &l->fn_args, out)
                         : tn_jpath_get(r, &l->path, v, out);
}

static bool open_lazy(tn_jrun *r, const char *name, tn_jiter_next next, tn_jval source,
                      const tn_jargs *args, lazy how, tn_jval *out)
{
    lazy *l = tn_jrun_take(r, sizeof *l);
    if (l == NULL)
        return false;
    *l = how;
    TN_TRY(copy_args(r, args, &l->args));
    tn_jiter *it = tn_jiter_new(r, name, next, source, out);
    if (it == NULL)
        return false;
    it->more = l;
    return true;
}

static bool f_map(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    return open_lazy(r, "generator", next_map, a[0], all, (lazy){.ready = false}, out);
}

/* -------------------------------------------------------------------------- select and reject */

static bool ready_select(tn_jrun *r, lazy *l)
{
    uint32_t at = l->by_attribute ? 1 : 0;
    l->ready = true;
    if (l->by_attribute) {
        if (l->args.n == 0)
            return tn_jrun_fail(r, "Missing parameter for attribute name");
        TN_TRY(tn_jpath_open(r, l->args.at[0], &l->path));
    }
    return l->args.n <= at || named(r, l, at, true);
}

static bool next_select(tn_jrun *r, tn_jiter *it, tn_jval *out, bool *more)
{
    lazy *l = it->more;
    if (nothing_to_do(it, more))
        return true;
    if (!l->ready)
        TN_TRY(ready_select(r, l));
    for (;;) {
        tn_jval v;
        TN_TRY(tn_jiter_draw(r, it, out, more));
        if (!*more)
            return true;
        TN_TRY(tn_jpath_get(r, &l->path, *out, &v));
        if (l->fn != NULL)
            TN_TRY(tn_jbuiltin_call(r, l->fn, &v, &l->fn_args, &v));
        if (tn_jval_truth(v) == l->keep_when)
            return true;
    }
}

static bool f_select(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    return open_lazy(r, "generator", next_select, a[0], all, (lazy){.keep_when = true}, out);
}

static bool f_reject(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    return open_lazy(r, "generator", next_select, a[0], all, (lazy){.keep_when = false}, out);
}

static bool f_selectattr(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    return open_lazy(r, "generator", next_select, a[0], all,
                     (lazy){.keep_when = true, .by_attribute = true}, out);
}

static bool f_rejectattr(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    return open_lazy(r, "generator", next_select, a[0], all,
                     (lazy){.keep_when = false, .by_attribute = true}, out);
}

/* ------------------------------------------------------------------------------------- unique */

typedef struct unique {
    tn_jpath path;
    tn_jdict *seen;
} unique;

static bool next_unique(tn_jrun *r, tn_jiter *it, tn_jval *out, bool *more)
{
    unique *u = it->more;
    for (;;) {
        tn_jval key, before;
        TN_TRY(tn_jiter_draw(r, it, out, more));
        if (!*more)
            return true;
        TN_TRY(tn_jpath_get(r, &u->path, *out, &key) && tn_jdict_get(r, u->seen, key, &before));
        if (before.type == TN_J_MISSING)
            return tn_jdict_set(r, u->seen, key, tn_jbool(true));
    }
}

static bool f_unique(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    unique *u = tn_jrun_take(r, sizeof *u);
    (void)all;
    if (u == NULL)
        return false;
    TN_TRY(tn_jpath_open(r, a[2], &u->path));
    u->path.fold = !tn_jarg_flag(a[1]);
    u->seen = tn_jdict_new(r, 0);
    tn_jiter *it = u->seen != NULL ? tn_jiter_new(r, "generator", next_unique, a[0], out) : NULL;
    if (it == NULL)
        return false;
    it->more = u;
    return true;
}

/* --------------------------------------------------------------------- batch, slice and items */

/* a: what the last batch is filled with; b: the item that begins the next one. */
static bool next_batch(tn_jrun *r, tn_jiter *it, tn_jval *out, bool *more)
{
    tn_jlist_maker m;
    tn_jval v;
    bool any;
    int64_t size = it->c.as.i;
    tn_jlist_open(&m, r);
    if (it->b.type != TN_J_MISSING)
        TN_TRY(tn_jlist_add(&m, it->b));
    it->b = (tn_jval){.type = TN_J_MISSING};
    for (;;) {
        TN_TRY(tn_jiter_draw(r, it, &v, &any));
        if (!any)
            break;
        if (m.n == size) {
            it->b = v;
            *more = true;
            return tn_jlist_close(&m, TN_J_LIST, out);
        }
        TN_TRY(tn_jlist_add(&m, v));
    }
    *more = m.n > 0;
    if (*more && it->a.type != TN_J_NONE)
        while (m.n < size)
            TN_TRY(tn_jlist_add(&m, it->a));
    return !*more || tn_jlist_close(&m, TN_J_LIST, out);
}

static bool f_batch(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    int64_t size;
    (void)all;
    TN_TRY(tn_jval_index(r, a[1], "the size of a batch", &size));
    tn_jiter *it = tn_jiter_new(r, "generator", next_batch, a[0], out);
    if (it == NULL)
        return false;
    it->a = tn_jarg_or_none(a[2]);
    it->c = tn_jint(size);
    return true;
}

/* a: filler, b: all items once they are known, c: how many slices. */
static bool next_slice(tn_jrun *r, tn_jiter *it, tn_jval *out, bool *more)
{
    tn_jlist_maker m;
    int64_t slices = it->c.as.i;
    if (it->b.type == TN_J_MISSING) {
        TN_TRY(tn_jrun_enter(r) && tn_jval_items(r, it->source, TN_J_LIST, &it->b));
        tn_jrun_leave(r);
    }
    if (slices == 0)
        return tn_jrun_fail(r, "integer division or modulo by zero");
    *more = (int64_t)it->n < slices;
    if (!*more)
        return true;
    int64_t n = it->b.as.l->n, each = n / slices, extra = n % slices, i = it->n++;
    int64_t from = i * each + (i < extra ? i : extra), count = each + (i < extra);
    tn_jlist_open(&m, r);
    for (int64_t k = 0; k < count; k++)
        TN_TRY(tn_jlist_add(&m, it->b.as.l->at[from + k]));
    if (it->a.type != TN_J_NONE && i >= extra)
        TN_TRY(tn_jlist_add(&m, it->a));
    return tn_jlist_close(&m, TN_J_LIST, out);
}

static bool f_slice(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    int64_t slices;
    (void)all;
    TN_TRY(tn_jval_index(r, a[1], "the number of slices", &slices));
    tn_jiter *it = tn_jiter_new(r, "generator", next_slice, a[0], out);
    if (it == NULL)
        return false;
    it->a = tn_jarg_or_none(a[2]);
    it->c = tn_jint(slices);
    return true;
}

static bool next_item(tn_jrun *r, tn_jiter *it, tn_jval *out, bool *more)
{
    *more = false;
    if (it->source.type == TN_J_UNDEF)
        return true;
    if (it->source.type != TN_J_DICT)
        return tn_jrun_fail(r, "Can only get item pairs from a mapping.");
    const tn_jdict *d = it->source.as.d;
    *more = it->n < d->n;
    if (!*more)
        return true;
    const tn_jpair *p = &d->at[it->n++];
    return tn_jpair_new(r, p->key, p->val, out);
}

static bool f_items(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return tn_jiter_new(r, "generator", next_item, a[0], out) != NULL;
}

const tn_jbuiltin tn_jfilter_lazy[] = {
    {.name = "batch", .params = "value linecount fill_with?", .fn = f_batch},
    {.name = "items", .params = "value", .fn = f_items},
    {.name = "map", .params = "/value *", .fn = f_map},
    {.name = "reject", .params = "/value *", .fn = f_reject},
    {.name = "rejectattr", .params = "/value *", .fn = f_rejectattr},
    {.name = "select", .params = "/value *", .fn = f_select},
    {.name = "selectattr", .params = "/value *", .fn = f_selectattr},
    {.name = "slice", .params = "value slices fill_with?", .fn = f_slice},
    {.name = "unique", .params = "value case_sensitive? attribute?", .fn = f_unique},
};
const size_t tn_jfilter_lazy_count = sizeof tn_jfilter_lazy / sizeof tn_jfilter_lazy[0];

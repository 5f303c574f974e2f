/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_loop.c - `loop`, which knows where a for loop stands.
 *
 * Items are drawn one at a time. Asking for loop.last or loop.nextitem draws one ahead, asking
 * for loop.length draws all that is left of an iterator, as in jinja2. */
#include "jinja_call.h"
#include "jinja_iter.h"

#include <string.h>

bool tn_jloop_open(tn_jrun *r, tn_jval source, tn_jloop *l)
{
    l->source = source;
    l->index0 = -1;
    l->length = -1;
    return tn_jcursor_open(r, &l->from, source);
}

bool tn_jloop_next(tn_jrun *r, tn_jloop *l, tn_jval *out, bool *more)
{
    if (l->after.type != TN_J_MISSING) {
        *out = l->after;
        *more = true;
        l->after = (tn_jval){.type = TN_J_MISSING};
    } else {
        TN_TRY(tn_jcursor_next(r, &l->from, out, more));
    }
    if (!*more)
        return true;
    l->index0++;
    l->before = l->current;
    l->current = *out;
    return true;
}

static bool peek(tn_jrun *r, tn_jloop *l)
{
    tn_jval v;
    bool more;
    if (l->after.type != TN_J_MISSING)
        return true;
    TN_TRY(tn_jcursor_next(r, &l->from, &v, &more));
    if (more)
        l->after = v;
    return true;
}

bool tn_jloop_length(tn_jrun *r, tn_jloop *l, int64_t *out)
{
    if (l->length < 0)
        l->length = tn_jval_len(l->source);
    if (l->length < 0) {
        tn_jval rest;
        TN_TRY(tn_jval_items(r, l->from.v, TN_J_LIST, &rest));
        l->length = (int64_t)rest.as.l->n + l->index0 + 1 + (l->after.type != TN_J_MISSING);
        TN_TRY(tn_jcursor_open(r, &l->from, rest));
    }
    *out = l->length;
    return true;
}

/* -------------------------------------------------------------------------- its methods */

static bool cycle(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    if (all->n == 0)
        return tn_jrun_fail(r, "no items for cycling given");
    *out = all->at[a[0].as.loop->index0 % all->n];
    return true;
}

static bool changed(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jloop *l = a[0].as.loop;
    tn_jval now;
    bool same = false;
    tn_jval *at = tn_jlist_new(r, TN_J_TUPLE, all->n, &now);
    if (at == NULL)
        return false;
    if (all->n > 0)
        memcpy(at, all->at, all->n * sizeof *at);
    if (l->changed.type != TN_J_MISSING)
        TN_TRY(tn_jval_equal(r, l->changed, now, &same));
    if (!same)
        l->changed = now;
    *out = tn_jbool(!same);
    return true;
}

static const tn_jbuiltin methods[] = {
    {.name = "changed", .params = "/self *", .fn = changed},
    {.name = "cycle", .params = "/self *", .fn = cycle},
};

static bool bound(tn_jrun *r, tn_jval loop, const tn_jbuiltin *fn, tn_jval *out)
{
    tn_jmethod *m = tn_jrun_take(r, sizeof *m);
    if (m == NULL)
        return false;
    *m = (tn_jmethod){.self = loop, .fn = fn};
    *out = (tn_jval){.type = TN_J_METHOD, .as.bound = m};
    return true;
}

/* Values that need the length. */
static bool counted(tn_jrun *r, tn_jloop *l, int64_t less, tn_jval *out)
{
    int64_t n;
    TN_TRY(tn_jloop_length(r, l, &n));
    *out = tn_jint(n - less);
    return true;
}

static bool neighbour(tn_jrun *r, tn_jloop *l, bool next, tn_jval *out)
{
    if (!next) {
        if (l->index0 == 0)
            return tn_jundef_hint(r, "there is no previous item", out);
        *out = l->before;
        return true;
    }
    TN_TRY(peek(r, l));
    if (l->after.type == TN_J_MISSING)
        return tn_jundef_hint(r, "there is no next item", out);
    *out = l->after;
    return true;
}

bool tn_jloop_attr(tn_jrun *r, tn_jval loop, tn_jval name, tn_jval *out)
{
    tn_jloop *l = loop.as.loop;
    if (tn_jstr_is(name, "index"))
        *out = tn_jint(l->index0 + 1);
    else if (tn_jstr_is(name, "index0"))
        *out = tn_jint(l->index0);
    else if (tn_jstr_is(name, "first"))
        *out = tn_jbool(l->index0 == 0);
    else if (tn_jstr_is(name, "last")) {
        TN_TRY(peek(r, l));
        *out = tn_jbool(l->after.type == TN_J_MISSING);
    } else if (tn_jstr_is(name, "length"))
        return counted(r, l, 0, out);
    else if (tn_jstr_is(name, "revindex"))
        return counted(r, l, l->index0, out);
    else if (tn_jstr_is(name, "revindex0"))
        return counted(r, l, l->index0 + 1, out);
    else if (tn_jstr_is(name, "previtem") || tn_jstr_is(name, "nextitem"))
        return neighbour(r, l, tn_jstr_is(name, "nextitem"), out);
    else if (tn_jstr_is(name, "depth"))
        *out = tn_jint(l->depth0 + 1);
    else if (tn_jstr_is(name, "depth0"))
        *out = tn_jint(l->depth0);
    else {
        const tn_jbuiltin *fn = tn_jbuiltin_find(methods, sizeof methods / sizeof methods[0],
                                                 name.as.s->p, name.as.s->size);
        if (fn != NULL)
            return bound(r, loop, fn, out);
        *out = (tn_jval){.type = TN_J_MISSING};
    }
    return true;
}

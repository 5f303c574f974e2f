/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_iter.c - going through the items of a value. */
#include "jinja_iter.h"

bool tn_jval_is_iterable(tn_jval v)
{
    switch (v.type) {
    case TN_J_UNDEF:
    case TN_J_STR:
    case TN_J_LIST:
    case TN_J_TUPLE:
    case TN_J_DICT:
    case TN_J_VIEW:
    case TN_J_RANGE:
    case TN_J_ITER:
    case TN_J_LOOP: return true;
    default: return false;
    }
}

bool tn_jcursor_open(tn_jrun *r, tn_jcursor *c, tn_jval v)
{
    *c = (tn_jcursor){.v = v};
    if (!tn_jval_is_iterable(v) || v.type == TN_J_LOOP)
        return tn_jrun_fail(r, "'%s' object is not iterable", tn_jval_kind(v));
    return true;
}

static bool view_item(tn_jrun *r, const tn_jview *v, uint32_t i, tn_jval *out)
{
    const tn_jpair *p = &v->d->at[i];
    if (v->kind == TN_JVIEW_ITEMS)
        return tn_jpair_new(r, p->key, p->val, out);
    *out = v->kind == TN_JVIEW_KEYS ? p->key : p->val;
    return true;
}

static bool next_char(tn_jrun *r, tn_jcursor *c, tn_jval *out)
{
    const char *p = c->v.as.s->p + c->byte, *from = p;
    tn_jutf_next(&p);
    size_t off = c->byte;
    c->byte += (size_t)(p - from);
    TN_TRY(tn_jstr_part(r, c->v, off, (size_t)(p - from), out));
    out->safe = 0; /* unlike x[0], iterating over markup gives plain characters */
    return true;
}

bool tn_jcursor_next(tn_jrun *r, tn_jcursor *c, tn_jval *out, bool *more)
{
    TN_TRY(tn_jrun_burn(r, TN_JSTEP_NODE));
    if (c->v.type == TN_J_ITER) {
        tn_jiter *it = c->v.as.it;
        *more = false;
        if (it->done)
            return true;
        TN_TRY(it->next(r, it, out, more));
        it->done = !*more;
        return true;
    }
    *more = (int64_t)c->at < tn_jval_len(c->v);
    if (!*more)
        return true;
    uint32_t i = c->at++;
    switch (c->v.type) {
    case TN_J_STR: return next_char(r, c, out);
    case TN_J_LIST:
    case TN_J_TUPLE: *out = c->v.as.l->at[i]; return true;
    case TN_J_DICT: *out = c->v.as.d->at[i].key; return true;
    case TN_J_VIEW: return view_item(r, c->v.as.v, i, out);
    default: *out = tn_jint(tn_jrange_at(c->v.as.r, i)); return true;
    }
}

tn_jiter *tn_jiter_new(tn_jrun *r, const char *name, tn_jiter_next next, tn_jval source,
                       tn_jval *out)
{
    tn_jiter *it = tn_jrun_take(r, sizeof *it);
    if (it == NULL)
        return NULL;
    it->name = name;
    it->next = next;
    it->source = source;
    *out = (tn_jval){.type = TN_J_ITER, .as.it = it};
    return it;
}

/* A chain of lazy filters draws through as many calls as it is long. */
bool tn_jiter_draw(tn_jrun *r, tn_jiter *it, tn_jval *out, bool *more)
{
    if (!it->open)
        TN_TRY(tn_jcursor_open(r, &it->from, it->source));
    it->open = true;
    TN_TRY(tn_jrun_enter(r));
    bool ok = tn_jcursor_next(r, &it->from, out, more);
    tn_jrun_leave(r);
    return ok;
}

bool tn_jval_items(tn_jrun *r, tn_jval v, tn_jtype type, tn_jval *out)
{
    tn_jcursor c;
    tn_jlist_maker made;
    tn_jval item;
    bool more;
    if (tn_jval_is_seq(v)) {
        tn_jval *at = tn_jlist_new(r, type, v.as.l->n, out);
        if (at == NULL)
            return false;
        for (uint32_t i = 0; i < v.as.l->n; i++)
            at[i] = v.as.l->at[i];
        return tn_jrun_burn(r, v.as.l->n);
    }
    TN_TRY(tn_jcursor_open(r, &c, v));
    tn_jlist_open(&made, r);
    for (;;) {
        TN_TRY(tn_jcursor_next(r, &c, &item, &more));
        if (!more)
            return tn_jlist_close(&made, type, out);
        TN_TRY(tn_jlist_add(&made, item));
    }
}

/* Walks its list from the end; n items are left. */
static bool next_back(tn_jrun *r, tn_jiter *it, tn_jval *out, bool *more)
{
    (void)r;
    *more = it->n > 0;
    if (*more)
        *out = it->source.as.l->at[--it->n];
    return true;
}

bool tn_jval_reversed(tn_jrun *r, tn_jval v, tn_jval *out)
{
    tn_jval list = v;
    if (v.type == TN_J_ITER || !tn_jval_is_iterable(v))
        return tn_jrun_fail(r, "'%s' object is not reversible", tn_jval_kind(v));
    if (!tn_jval_is_seq(v))
        TN_TRY(tn_jval_items(r, v, TN_J_LIST, &list));
    tn_jiter *it = tn_jiter_new(r, "list_reverseiterator", next_back, list, out);
    if (it == NULL)
        return false;
    it->n = list.as.l->n;
    return true;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_repr.c - values as text: str(), repr() and HTML escapes, as Python writes them.
 *
 * Objects whose text in Python is an address (generators, methods) print without it. */
#include "jinja_exec.h"
#include "jinja_iter.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void tn_jtext_put_hex(tn_jtext *t, uint32_t cp)
{
    char buf[16];
    snprintf(buf, sizeof buf, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
    tn_jtext_puts(t, buf);
}

/* Marks of user text stay whole: they are taken out of the output later. */
static bool is_printable(const tn_jrun *r, uint32_t cp)
{
    if (cp < 0x7f)
        return cp >= 0x20;
    return cp == r->mark || (tn_jchar_bits(cp) & TN_JCHAR_PRINT) != 0;
}

void tn_jstr_repr(tn_jtext *t, const tn_jstr *s)
{
    char quote = '\'';
    if (s->size > 0 && memchr(s->p, '\'', s->size) != NULL && memchr(s->p, '"', s->size) == NULL)
        quote = '"';
    tn_jtext_putc(t, quote);
    const char *end = s->p + s->size;
    for (const char *p = s->p; p < end && !t->failed;) {
        const char *from = p;
        uint32_t cp = tn_jutf_next(&p);
        if (cp == (uint32_t)quote || cp == '\\') {
            tn_jtext_putc(t, '\\');
            tn_jtext_putc(t, (char)cp);
        } else if (cp == '\n' || cp == '\r' || cp == '\t') {
            tn_jtext_puts(t, cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : "\\t");
        } else if (is_printable(t->r, cp)) {
            tn_jtext_put(t, from, (size_t)(p - from));
        } else {
            tn_jtext_put_hex(t, cp);
        }
    }
    tn_jtext_putc(t, quote);
}

static bool repr_list(tn_jrun *r, const tn_jlist *l, bool tuple, tn_jtext *t)
{
    tn_jtext_putc(t, tuple ? '(' : '[');
    for (uint32_t i = 0; i < l->n; i++) {
        if (i > 0)
            tn_jtext_puts(t, ", ");
        TN_TRY(tn_jval_repr(r, l->at[i], t));
    }
    tn_jtext_puts(t, tuple ? l->n == 1 ? ",)" : ")" : "]");
    return true;
}

static bool repr_dict(tn_jrun *r, const tn_jdict *d, tn_jtext *t)
{
    tn_jtext_putc(t, '{');
    for (uint32_t i = 0; i < d->n; i++) {
        if (i > 0)
            tn_jtext_puts(t, ", ");
        TN_TRY(tn_jval_repr(r, d->at[i].key, t));
        tn_jtext_puts(t, ": ");
        TN_TRY(tn_jval_repr(r, d->at[i].val, t));
    }
    tn_jtext_putc(t, '}');
    return true;
}

static bool repr_view(tn_jrun *r, tn_jval v, tn_jtext *t)
{
    static const char *const names[] = {"dict_keys(", "dict_values(", "dict_items("};
    tn_jval list;
    TN_TRY(tn_jval_items(r, v, TN_J_LIST, &list));
    tn_jtext_puts(t, names[v.as.v->kind]);
    TN_TRY(repr_list(r, list.as.l, false, t));
    tn_jtext_putc(t, ')');
    return true;
}

static bool repr_loop(tn_jrun *r, tn_jloop *l, tn_jtext *t)
{
    char buf[64];
    int64_t n;
    TN_TRY(tn_jloop_length(r, l, &n));
    snprintf(buf, sizeof buf, "<LoopContext %" PRId64 "/%" PRId64 ">", l->index0 + 1, n);
    tn_jtext_puts(t, buf);
    return true;
}

static void repr_range(const tn_jrange *g, tn_jtext *t)
{
    char buf[96];
    if (g->step == 1)
        snprintf(buf, sizeof buf, "range(%" PRId64 ", %" PRId64 ")", g->start, g->stop);
    else
        snprintf(buf, sizeof buf, "range(%" PRId64 ", %" PRId64 ", %" PRId64 ")", g->start, g->stop,
                 g->step);
    tn_jtext_puts(t, buf);
}

static bool repr_macro(tn_jrun *r, const tn_jmacro *m, tn_jtext *t)
{
    if (m->name.type != TN_J_STR) {
        tn_jtext_puts(t, "<Macro anonymous>");
        return true;
    }
    tn_jtext_puts(t, "<Macro ");
    TN_TRY(tn_jval_repr(r, m->name, t));
    tn_jtext_putc(t, '>');
    return true;
}

static void repr_function(const char *name, tn_jtext *t)
{
    if (strcmp(name, "dict") == 0) {
        tn_jtext_puts(t, "<class 'dict'>");
        return;
    }
    if (strcmp(name, "namespace") == 0 || strcmp(name, "joiner") == 0) {
        tn_jtext_puts(t, name[0] == 'n' ? "<class 'jinja2.utils.Namespace'>"
                                        : "<class 'jinja2.utils.Joiner'>");
        return;
    }
    tn_jtext_puts(t, "<function ");
    tn_jtext_puts(t, name);
    tn_jtext_putc(t, '>');
}

static bool repr_object(tn_jrun *r, tn_jval v, tn_jtext *t)
{
    switch (v.type) {
    case TN_J_LIST: return repr_list(r, v.as.l, false, t);
    case TN_J_TUPLE: return repr_list(r, v.as.l, true, t);
    case TN_J_DICT: return repr_dict(r, v.as.d, t);
    case TN_J_VIEW: return repr_view(r, v, t);
    case TN_J_SPACE:
        tn_jtext_puts(t, "<Namespace ");
        TN_TRY(repr_dict(r, v.as.d, t));
        tn_jtext_putc(t, '>');
        return true;
    case TN_J_LOOP: return repr_loop(r, v.as.loop, t);
    case TN_J_MACRO: return repr_macro(r, v.as.m, t);
    case TN_J_RANGE: repr_range(v.as.r, t); return true;
    case TN_J_FUNC: repr_function(v.as.f1->name, t); return true;
    case TN_J_METHOD:
        tn_jtext_puts(t, "<built-in method ");
        tn_jtext_puts(t, v.as.bound->fn->name);
        tn_jtext_putc(t, '>');
        return true;
    default:
        tn_jtext_putc(t, '<');
        tn_jtext_puts(t, v.type == TN_J_ITER ? v.as.it->name : tn_jval_kind(v));
        tn_jtext_puts(t, " object>");
        return true;
    }
}

static void put_scalar(tn_jval v, tn_jtext *t)
{
    char buf[32];
    switch (v.type) {
    case TN_J_BOOL: tn_jtext_puts(t, v.as.b ? "True" : "False"); break;
    case TN_J_NONE: tn_jtext_puts(t, "None"); break;
    case TN_J_FLOAT: tn_jtext_put(t, buf, tn_jfloat_repr(v.as.f, buf)); break;
    default:
        snprintf(buf, sizeof buf, "%" PRId64, v.as.i);
        tn_jtext_puts(t, buf);
    }
}

bool tn_jval_repr(tn_jrun *r, tn_jval v, tn_jtext *t)
{
    TN_TRY(tn_jrun_burn(r, TN_JSTEP_NODE));
    switch (v.type) {
    case TN_J_MISSING:
    case TN_J_UNDEF: tn_jtext_puts(t, "Undefined"); break;
    case TN_J_NONE:
    case TN_J_BOOL:
    case TN_J_INT:
    case TN_J_FLOAT: put_scalar(v, t); break;
    case TN_J_STR:
        if (v.safe)
            tn_jtext_puts(t, "Markup(");
        tn_jstr_repr(t, v.as.s);
        if (v.safe)
            tn_jtext_putc(t, ')');
        break;
    default: {
        TN_TRY(tn_jrun_enter(r));
        bool ok = repr_object(r, v, t);
        tn_jrun_leave(r);
        return ok && !t->failed;
    }
    }
    return !t->failed;
}

bool tn_jval_soft(tn_jrun *r, tn_jval v, tn_jval *out)
{
    tn_jtext t;
    if (v.type == TN_J_STR) {
        *out = v;
        return true;
    }
    if (v.type == TN_J_UNDEF)
        return tn_jstr_text(r, "", out);
    tn_jtext_open(&t, r, 0);
    return tn_jval_repr(r, v, &t) && tn_jtext_close(&t, out);
}

bool tn_jval_str(tn_jrun *r, tn_jval v, tn_jval *out)
{
    TN_TRY(tn_jval_soft(r, v, out));
    out->safe = 0;
    return true;
}

bool tn_jval_print(tn_jrun *r, tn_jval v)
{
    tn_jval s;
    TN_TRY(r->escaping ? tn_jval_escape(r, v, &s) : tn_jval_soft(r, v, &s));
    return tn_jrun_print(r, s.as.s->p, s.as.s->size);
}

bool tn_jval_escape(tn_jrun *r, tn_jval v, tn_jval *out)
{
    tn_jtext t;
    TN_TRY(tn_jval_soft(r, v, out));
    if (out->safe)
        return true;
    const tn_jstr *s = out->as.s;
    tn_jtext_open(&t, r, 0);
    uint32_t from = 0;
    for (uint32_t i = 0; i < s->size; i++) {
        const char *as = NULL;
        switch (s->p[i]) {
        case '&': as = "&amp;"; break;
        case '<': as = "&lt;"; break;
        case '>': as = "&gt;"; break;
        case '\'': as = "&#39;"; break;
        case '"': as = "&#34;"; break;
        default: continue;
        }
        tn_jtext_put(&t, s->p + from, i - from);
        tn_jtext_puts(&t, as);
        from = i + 1;
    }
    if (from > 0) {
        tn_jtext_put(&t, s->p + from, s->size - from);
        TN_TRY(tn_jtext_close(&t, out));
    }
    TN_TRY(tn_jrun_burn_bytes(r, s->size));
    out->safe = 1;
    return true;
}

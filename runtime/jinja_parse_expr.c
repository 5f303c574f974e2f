/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_parse_expr.c - reads the expressions of a template.
 *
 * One function a precedence, loosest first: `if`, or, and, not, comparisons, + -, ~, * / // %,
 * **, unary, then what follows a value: attributes, subscripts, calls, filters, tests. As in
 * jinja2 a filter binds tighter than ** and a sign, and ** groups from the left. */
#include "jinja_parse.h"

#include "buf.h"
#include "jinja_call.h"
#include "quote.h"

#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------------------ helpers */

/* A node stands one above its highest child. */
static bool stand_on(tn_jparser *p, tn_jnode *n, const tn_jnode *child)
{
    if (child == NULL || child->height < n->height)
        return true;
    if (child->height >= TN_JEXPR_HEIGHT_MAX)
        return tn_jparse_fail_at(p, n, "an expression nested deeper than %u",
                                 TN_JEXPR_HEIGHT_MAX);
    n->height = (uint16_t)(child->height + 1);
    return true;
}

/* Children in a row; the node's height follows them. */
typedef struct row {
    tn_jnode *first, *last;
    uint32_t n;
} row;

static void row_add(row *r, tn_jnode *n)
{
    if (r->last != NULL)
        r->last->next = n;
    else
        r->first = n;
    r->last = n;
    r->n++;
}

static bool row_close(tn_jparser *p, tn_jnode *n, const row *r)
{
    n->as.list.first = r->first;
    n->as.list.n = r->n;
    for (const tn_jnode *c = r->first; c != NULL; c = c->next)
        TN_TRY(stand_on(p, n, c));
    return true;
}

/* A token that stands for its value has moved on when the node is made. */
static tn_jnode *const_node(tn_jparser *p, const tn_jtoken *from, tn_jval value)
{
    tn_jnode *n = tn_jparse_node(p, TN_JN_CONST, from);
    if (n != NULL)
        n->as.value = value;
    return n;
}

static tn_jnode *name_node(tn_jparser *p, const tn_jtoken *t)
{
    tn_jnode *n = tn_jparse_node(p, TN_JN_NAME, t);
    if (n == NULL || !tn_jparse_text(p, t->p, t->size, &n->as.name.text))
        return NULL;
    return n;
}

static bool or_expr(tn_jparser *p, tn_jnode **out);
static bool unary(tn_jparser *p, bool with_filter, tn_jnode **out);

/* ----------------------------------------------------------------------------- literals */

/* 'a' "b" is one string. */
static bool strings(tn_jparser *p, tn_jnode **out)
{
    tn_jtoken from = p->cur;
    const char *text = from.p;
    size_t size = from.size;
    TN_TRY(tn_jparse_next(p));
    if (p->cur.type == TN_JTOK_STRING) {
        tn_buf all;
        tn_buf_open(&all, TN_JINJA_SOURCE_MAX * 4);
        tn_buf_put(&all, text, size);
        bool ok = true;
        while (ok && p->cur.type == TN_JTOK_STRING) {
            tn_buf_put(&all, p->cur.p, p->cur.size);
            ok = tn_jparse_next(p);
        }
        size = all.len;
        text = all.failed ? NULL : tn_arena_text(&p->t->arena, all.data, size);
        tn_buf_close(&all);
        if (!ok)
            return false;
        if (text == NULL)
            return tn_jlex_fail(&p->lex, from.line, from.column, "no memory for a string");
    }
    tn_jval v;
    TN_TRY(tn_jparse_text(p, text, size, &v));
    *out = const_node(p, &from, v);
    return *out != NULL;
}

static bool list_literal(tn_jparser *p, tn_jnode **out)
{
    row r = {0};
    *out = tn_jparse_node(p, TN_JN_LIST, &p->cur);
    if (*out == NULL)
        return false;
    TN_TRY(tn_jparse_next(p));
    while (p->cur.type != TN_JTOK_RBRACKET) {
        tn_jnode *item;
        if (r.n > 0) {
            TN_TRY(tn_jparse_expect(p, TN_JTOK_COMMA));
            if (p->cur.type == TN_JTOK_RBRACKET)
                break;
        }
        TN_TRY(tn_jparse_expr(p, &item));
        row_add(&r, item);
    }
    return tn_jparse_expect(p, TN_JTOK_RBRACKET) && row_close(p, *out, &r);
}

static bool dict_literal(tn_jparser *p, tn_jnode **out)
{
    row r = {0};
    *out = tn_jparse_node(p, TN_JN_DICT, &p->cur);
    if (*out == NULL)
        return false;
    TN_TRY(tn_jparse_next(p));
    while (p->cur.type != TN_JTOK_RBRACE) {
        tn_jnode *key, *value;
        if (r.n > 0) {
            TN_TRY(tn_jparse_expect(p, TN_JTOK_COMMA));
            if (p->cur.type == TN_JTOK_RBRACE)
                break;
        }
        TN_TRY(tn_jparse_expr(p, &key));
        TN_TRY(tn_jparse_expect(p, TN_JTOK_COLON));
        TN_TRY(tn_jparse_expr(p, &value));
        row_add(&r, key);
        row_add(&r, value);
    }
    return tn_jparse_expect(p, TN_JTOK_RBRACE) && row_close(p, *out, &r);
}

static bool named_value(tn_jparser *p, bool ns, tn_jnode **out)
{
    tn_jtoken t = p->cur;
    TN_TRY(tn_jparse_next(p));
    if (tn_jtok_is(&t, "true") || tn_jtok_is(&t, "True"))
        *out = const_node(p, &t, tn_jbool(true));
    else if (tn_jtok_is(&t, "false") || tn_jtok_is(&t, "False"))
        *out = const_node(p, &t, tn_jbool(false));
    else if (tn_jtok_is(&t, "none") || tn_jtok_is(&t, "None"))
        *out = const_node(p, &t, tn_jnone());
    else if (ns && p->cur.type == TN_JTOK_DOT) {
        TN_TRY(tn_jparse_next(p));
        if (p->cur.type != TN_JTOK_NAME)
            return tn_jparse_fail(p, "name");
        *out = tn_jparse_node(p, TN_JN_NSREF, &t);
        if (*out == NULL)
            return false;
        TN_TRY(tn_jparse_text(p, p->cur.p, p->cur.size, &(*out)->as.ns.attr));
        (*out)->as.ns.base = name_node(p, &t);
        return (*out)->as.ns.base != NULL && tn_jparse_next(p);
    } else {
        *out = name_node(p, &t);
    }
    return *out != NULL;
}

static bool bracketed(tn_jparser *p, tn_jnode **out)
{
    TN_TRY(tn_jparse_deeper(p));
    switch (p->cur.type) {
    case TN_JTOK_LPAREN:
        TN_TRY(tn_jparse_next(p));
        TN_TRY(tn_jparse_tuple(p, (tn_jtuple_rules){.parens = true}, out));
        TN_TRY(tn_jparse_expect(p, TN_JTOK_RPAREN));
        break;
    case TN_JTOK_LBRACKET: TN_TRY(list_literal(p, out)); break;
    default: TN_TRY(dict_literal(p, out)); break;
    }
    p->depth--;
    return true;
}

static bool primary(tn_jparser *p, bool ns, tn_jnode **out)
{
    tn_jtoken t = p->cur;
    switch (t.type) {
    case TN_JTOK_NAME: return named_value(p, ns, out);
    case TN_JTOK_STRING: return strings(p, out);
    case TN_JTOK_INT:
    case TN_JTOK_FLOAT:
        *out = const_node(p, &t, t.type == TN_JTOK_INT ? tn_jint(t.i) : tn_jfloat(t.f));
        return *out != NULL && tn_jparse_next(p);
    case TN_JTOK_LPAREN:
    case TN_JTOK_LBRACKET:
    case TN_JTOK_LBRACE: return bracketed(p, out);
    default: return tn_jparse_fail(p, "an expression");
    }
}

/* ------------------------------------------------------------------- behind a value */

static bool keyword(tn_jparser *p, tn_jcallargs *a, tn_jkeyword **last)
{
    tn_jkeyword *k = tn_jparse_take(p, sizeof *k);
    if (k == NULL)
        return false;
    TN_TRY(tn_jparse_text(p, p->cur.p, p->cur.size, &k->name));
    for (const tn_jkeyword *o = a->kwargs; o != NULL; o = o->next)
        if (tn_jstr_same(o->name.as.s, p->cur.p, p->cur.size))
            return tn_jparse_fail(p, "each argument once");
    TN_TRY(tn_jparse_next(p));
    TN_TRY(tn_jparse_next(p)); /* the = that was looked at */
    TN_TRY(tn_jparse_expr(p, &k->value));
    if (*last != NULL)
        (*last)->next = k;
    else
        a->kwargs = k;
    *last = k;
    a->nkwargs++;
    return true;
}

/* One argument: *list, **dict, name=value or a value, in the order Python wants them. */
static bool argument(tn_jparser *p, tn_jcallargs *a, row *args, tn_jkeyword **last)
{
    static const char order[] = "values, then *list, names and **dict";
    tn_jtoken ahead = {.type = TN_JTOK_EOF};
    if (p->cur.type == TN_JTOK_MUL || p->cur.type == TN_JTOK_POW) {
        bool two = p->cur.type == TN_JTOK_POW;
        if (a->star2 != NULL || (!two && a->star != NULL))
            return tn_jparse_fail(p, order);
        TN_TRY(tn_jparse_next(p));
        return tn_jparse_expr(p, two ? &a->star2 : &a->star);
    }
    if (p->cur.type == TN_JTOK_NAME)
        TN_TRY(tn_jparse_look(p, &ahead));
    if (ahead.type == TN_JTOK_ASSIGN)
        return a->star2 != NULL ? tn_jparse_fail(p, order) : keyword(p, a, last);
    if (a->star != NULL || a->star2 != NULL || a->kwargs != NULL)
        return tn_jparse_fail(p, order);
    tn_jnode *value;
    TN_TRY(tn_jparse_expr(p, &value));
    row_add(args, value);
    return true;
}

static bool call_args(tn_jparser *p, tn_jnode *n)
{
    tn_jcallargs *a = tn_jparse_take(p, sizeof *a);
    row args = {0};
    tn_jkeyword *last = NULL;
    bool first = true;
    if (a == NULL)
        return false;
    n->as.call.args = a;
    TN_TRY(tn_jparse_deeper(p));
    TN_TRY(tn_jparse_expect(p, TN_JTOK_LPAREN));
    for (; p->cur.type != TN_JTOK_RPAREN; first = false) {
        if (!first) {
            TN_TRY(tn_jparse_expect(p, TN_JTOK_COMMA));
            if (p->cur.type == TN_JTOK_RPAREN)
                break;
        }
        TN_TRY(argument(p, a, &args, &last));
    }
    TN_TRY(tn_jparse_expect(p, TN_JTOK_RPAREN));
    p->depth--;
    a->args = args.first;
    a->nargs = args.n;
    for (const tn_jnode *c = a->args; c != NULL; c = c->next)
        TN_TRY(stand_on(p, n, c));
    for (const tn_jkeyword *k = a->kwargs; k != NULL; k = k->next)
        TN_TRY(stand_on(p, n, k->value));
    return stand_on(p, n, a->star) && stand_on(p, n, a->star2);
}

static bool no_args(tn_jparser *p, tn_jnode *n)
{
    n->as.call.args = tn_jparse_take(p, sizeof *n->as.call.args);
    return n->as.call.args != NULL;
}

static bool call(tn_jparser *p, tn_jnode *on, tn_jnode **out)
{
    tn_jnode *n = tn_jparse_node(p, TN_JN_CALL, &p->cur);
    if (n == NULL)
        return false;
    /* Errors of a call are shown where its callee begins. */
    n->line = on->line;
    n->column = on->column;
    n->as.call.on = on;
    TN_TRY(stand_on(p, n, on));
    TN_TRY(call_args(p, n));
    *out = n;
    return true;
}

static bool slice_part(tn_jparser *p, tn_jnode **out)
{
    if (p->cur.type == TN_JTOK_COLON || p->cur.type == TN_JTOK_RBRACKET
        || p->cur.type == TN_JTOK_COMMA)
        return true;
    return tn_jparse_expr(p, out);
}

/* An index, or start:stop:step with any of them left out. */
static bool subscript(tn_jparser *p, tn_jnode **out)
{
    tn_jtoken from = p->cur;
    tn_jnode *start = NULL, *stop = NULL, *step = NULL;
    if (p->cur.type != TN_JTOK_COLON) {
        TN_TRY(tn_jparse_expr(p, &start));
        if (p->cur.type != TN_JTOK_COLON) {
            *out = start;
            return true;
        }
    }
    TN_TRY(tn_jparse_next(p));
    TN_TRY(slice_part(p, &stop));
    if (p->cur.type == TN_JTOK_COLON) {
        TN_TRY(tn_jparse_next(p));
        TN_TRY(slice_part(p, &step));
    }
    *out = tn_jparse_node(p, TN_JN_SLICE, &from);
    if (*out == NULL)
        return false;
    (*out)->as.slice.start = start;
    (*out)->as.slice.stop = stop;
    (*out)->as.slice.step = step;
    return stand_on(p, *out, start) && stand_on(p, *out, stop) && stand_on(p, *out, step);
}

static bool item(tn_jparser *p, tn_jnode *on, tn_jnode **out)
{
    row r = {0};
    tn_jtoken from = p->cur;
    TN_TRY(tn_jparse_deeper(p));
    TN_TRY(tn_jparse_next(p));
    while (p->cur.type != TN_JTOK_RBRACKET) {
        tn_jnode *part;
        if (r.n > 0)
            TN_TRY(tn_jparse_expect(p, TN_JTOK_COMMA));
        TN_TRY(subscript(p, &part));
        row_add(&r, part);
    }
    TN_TRY(tn_jparse_expect(p, TN_JTOK_RBRACKET));
    p->depth--;
    tn_jnode *arg = r.first;
    if (r.n != 1) {
        arg = tn_jparse_node(p, TN_JN_TUPLE, &from);
        if (arg == NULL)
            return false;
        for (const tn_jnode *c = r.first; c != NULL; c = c->next)
            if (c->kind == TN_JN_SLICE)
                return tn_jparse_fail_at(p, c, "a slice among several subscripts");
        TN_TRY(row_close(p, arg, &r));
    }
    *out = tn_jparse_node(p, TN_JN_GETITEM, &from);
    if (*out == NULL)
        return false;
    (*out)->as.item.obj = on;
    (*out)->as.item.arg = arg;
    return stand_on(p, *out, on) && stand_on(p, *out, arg);
}

static bool attribute(tn_jparser *p, tn_jnode *on, tn_jnode **out)
{
    TN_TRY(tn_jparse_next(p));
    tn_jtoken t = p->cur;
    if (t.type == TN_JTOK_INT) {
        *out = tn_jparse_node(p, TN_JN_GETITEM, &t);
        if (*out == NULL)
            return false;
        (*out)->as.item.obj = on;
        (*out)->as.item.arg = const_node(p, &t, tn_jint(t.i));
        return (*out)->as.item.arg != NULL && stand_on(p, *out, on) && tn_jparse_next(p);
    }
    if (t.type != TN_JTOK_NAME)
        return tn_jparse_fail(p, "a name or a number");
    *out = tn_jparse_node(p, TN_JN_GETATTR, &t);
    if (*out == NULL)
        return false;
    (*out)->as.attr.obj = on;
    return tn_jparse_text(p, t.p, t.size, &(*out)->as.attr.name) && stand_on(p, *out, on)
           && tn_jparse_next(p);
}

static bool postfix(tn_jparser *p, tn_jnode **n)
{
    for (;;) {
        tn_jnode *on = *n;
        if (p->cur.type == TN_JTOK_DOT)
            TN_TRY(attribute(p, on, n));
        else if (p->cur.type == TN_JTOK_LBRACKET)
            TN_TRY(item(p, on, n));
        else if (p->cur.type == TN_JTOK_LPAREN)
            TN_TRY(call(p, on, n));
        else
            return true;
    }
}

/* The dotted name of a filter or test; those with a dot do not exist, but are read whole. */
static bool dotted(tn_jparser *p, tn_jtoken *out)
{
    if (p->cur.type != TN_JTOK_NAME)
        return tn_jparse_fail(p, "a name");
    *out = p->cur;
    TN_TRY(tn_jparse_next(p));
    while (p->cur.type == TN_JTOK_DOT) {
        TN_TRY(tn_jparse_next(p));
        if (p->cur.type != TN_JTOK_NAME)
            return tn_jparse_fail(p, "a name");
        out->size = (uint32_t)(p->cur.p + p->cur.size - out->p);
        TN_TRY(tn_jparse_next(p));
    }
    return true;
}

static bool unknown(tn_jparser *p, const tn_jtoken *t, const char *what)
{
    tn_quoted q;
    return tn_jlex_fail(&p->lex, t->line, t->column, "no %s is named %s", what,
                        tn_quote(&q, t->p, t->size));
}

bool tn_jparse_filters(tn_jparser *p, tn_jnode *on, bool started, tn_jnode **out)
{
    while (started || p->cur.type == TN_JTOK_PIPE) {
        tn_jtoken t;
        if (!started)
            TN_TRY(tn_jparse_next(p));
        started = false;
        TN_TRY(dotted(p, &t));
        tn_jnode *n = tn_jparse_node(p, TN_JN_FILTER, &t);
        if (n == NULL)
            return false;
        n->as.call.on = on;
        n->as.call.fn = tn_jfilter_find(t.p, t.size);
        if (n->as.call.fn == NULL)
            return unknown(p, &t, "filter");
        TN_TRY(stand_on(p, n, on));
        TN_TRY(p->cur.type == TN_JTOK_LPAREN ? call_args(p, n) : no_args(p, n));
        on = n;
    }
    *out = on;
    return true;
}

/* `is name`, `is name(...)` or `is name value`. */
static bool begins_test_value(const tn_jparser *p)
{
    switch (p->cur.type) {
    case TN_JTOK_STRING:
    case TN_JTOK_INT:
    case TN_JTOK_FLOAT:
    case TN_JTOK_LBRACKET:
    case TN_JTOK_LBRACE: return true;
    case TN_JTOK_NAME:
        return !tn_jparse_at(p, "else") && !tn_jparse_at(p, "or") && !tn_jparse_at(p, "and");
    default: return false;
    }
}

static bool test(tn_jparser *p, tn_jnode *on, tn_jnode **out)
{
    tn_jtoken from = p->cur, t;
    TN_TRY(tn_jparse_next(p));
    bool negated = tn_jparse_at(p, "not");
    if (negated)
        TN_TRY(tn_jparse_next(p));
    TN_TRY(dotted(p, &t));
    tn_jnode *n = tn_jparse_node(p, TN_JN_TEST, &t);
    if (n == NULL)
        return false;
    n->as.call.on = on;
    n->as.call.fn = tn_jtest_find(t.p, t.size);
    if (n->as.call.fn == NULL)
        return unknown(p, &t, "test");
    TN_TRY(stand_on(p, n, on));
    bool parens = p->cur.type == TN_JTOK_LPAREN;
    TN_TRY(parens ? call_args(p, n) : no_args(p, n));
    if (!parens && begins_test_value(p)) {
        tn_jnode *arg;
        if (tn_jparse_at(p, "is"))
            return tn_jparse_fail(p, "one test");
        TN_TRY(primary(p, false, &arg));
        TN_TRY(postfix(p, &arg));
        n->as.call.args->args = arg;
        n->as.call.args->nargs = 1;
        TN_TRY(stand_on(p, n, arg));
    }
    *out = n;
    if (!negated)
        return true;
    *out = tn_jparse_node(p, TN_JN_NOT, &from);
    if (*out == NULL)
        return false;
    (*out)->as.one = n;
    return stand_on(p, *out, n);
}

static bool filters_and_tests(tn_jparser *p, tn_jnode **n)
{
    for (;;) {
        tn_jnode *on = *n;
        if (p->cur.type == TN_JTOK_PIPE)
            TN_TRY(tn_jparse_filters(p, on, false, n));
        else if (tn_jparse_at(p, "is"))
            TN_TRY(test(p, on, n));
        else if (p->cur.type == TN_JTOK_LPAREN)
            TN_TRY(call(p, on, n));
        else
            return true;
    }
}

/* ---------------------------------------------------------------------------- operators */

static bool signed_value(tn_jparser *p, tn_jnode **out)
{
    tn_jkind kind = p->cur.type == TN_JTOK_SUB ? TN_JN_NEG : TN_JN_POS;
    *out = tn_jparse_node(p, kind, &p->cur);
    if (*out == NULL)
        return false;
    TN_TRY(tn_jparse_deeper(p));
    TN_TRY(tn_jparse_next(p));
    TN_TRY(unary(p, false, &(*out)->as.one));
    p->depth--;
    return stand_on(p, *out, (*out)->as.one);
}

static bool unary(tn_jparser *p, bool with_filter, tn_jnode **out)
{
    if (p->cur.type == TN_JTOK_SUB || p->cur.type == TN_JTOK_ADD)
        TN_TRY(signed_value(p, out));
    else
        TN_TRY(primary(p, false, out));
    TN_TRY(postfix(p, out));
    return !with_filter || filters_and_tests(p, out);
}

static bool full_unary(tn_jparser *p, tn_jnode **out)
{
    return unary(p, true, out);
}

/* A chain a op b op c of one precedence: operands joined by `join`. */
typedef bool (*read_operand)(tn_jparser *p, tn_jnode **out);

static bool chain(tn_jparser *p, tn_jkind kind, tn_jop (*op_at)(const tn_jparser *p),
                  read_operand operand, tn_jnode **out)
{
    tn_jtoken from = p->cur;
    row r = {0};
    tn_jnode *n;
    TN_TRY(operand(p, &n));
    if (op_at(p) == TN_JOP_NONE) {
        *out = n;
        return true;
    }
    row_add(&r, n);
    for (tn_jop op; (op = op_at(p)) != TN_JOP_NONE;) {
        TN_TRY(tn_jparse_next(p));
        if (op == TN_JOP_NOTIN)
            TN_TRY(tn_jparse_next(p));
        TN_TRY(operand(p, &n));
        n->join = (uint8_t)op;
        row_add(&r, n);
    }
    *out = tn_jparse_node(p, kind, &from);
    return *out != NULL && row_close(p, *out, &r);
}

static tn_jop pow_at(const tn_jparser *p)
{
    return p->cur.type == TN_JTOK_POW ? TN_JOP_POW : TN_JOP_NONE;
}

static bool pow_expr(tn_jparser *p, tn_jnode **out)
{
    return chain(p, TN_JN_BINARY, pow_at, full_unary, out);
}

static tn_jop mul_at(const tn_jparser *p)
{
    switch (p->cur.type) {
    case TN_JTOK_MUL: return TN_JOP_MUL;
    case TN_JTOK_DIV: return TN_JOP_DIV;
    case TN_JTOK_FLOORDIV: return TN_JOP_FLOORDIV;
    case TN_JTOK_MOD: return TN_JOP_MOD;
    default: return TN_JOP_NONE;
    }
}

static bool mul_expr(tn_jparser *p, tn_jnode **out)
{
    return chain(p, TN_JN_BINARY, mul_at, pow_expr, out);
}

/* Any operator will do where the node's kind already says which it is. */
static tn_jop tilde_at(const tn_jparser *p)
{
    return p->cur.type == TN_JTOK_TILDE ? TN_JOP_ADD : TN_JOP_NONE;
}

static bool concat_expr(tn_jparser *p, tn_jnode **out)
{
    return chain(p, TN_JN_CONCAT, tilde_at, mul_expr, out);
}

static tn_jop add_at(const tn_jparser *p)
{
    return p->cur.type == TN_JTOK_ADD   ? TN_JOP_ADD
           : p->cur.type == TN_JTOK_SUB ? TN_JOP_SUB
                                        : TN_JOP_NONE;
}

static bool add_expr(tn_jparser *p, tn_jnode **out)
{
    return chain(p, TN_JN_BINARY, add_at, concat_expr, out);
}

static tn_jop compare_at(const tn_jparser *p)
{
    switch (p->cur.type) {
    case TN_JTOK_EQ: return TN_JOP_EQ;
    case TN_JTOK_NE: return TN_JOP_NE;
    case TN_JTOK_LT: return TN_JOP_LT;
    case TN_JTOK_LE: return TN_JOP_LE;
    case TN_JTOK_GT: return TN_JOP_GT;
    case TN_JTOK_GE: return TN_JOP_GE;
    default: break;
    }
    if (tn_jparse_at(p, "in"))
        return TN_JOP_IN;
    /* `not in` was looked at by compare_expr before it got here. */
    return tn_jparse_at(p, "not") && p->has_ahead && tn_jtok_is(&p->ahead, "in") ? TN_JOP_NOTIN
                                                                               : TN_JOP_NONE;
}

/* Reads the token behind a `not`, for compare_at. */
static bool compare_operand(tn_jparser *p, tn_jnode **out)
{
    tn_jtoken ahead;
    TN_TRY(add_expr(p, out));
    return !tn_jparse_at(p, "not") || tn_jparse_look(p, &ahead);
}

static bool compare_expr(tn_jparser *p, tn_jnode **out)
{
    return chain(p, TN_JN_COMPARE, compare_at, compare_operand, out);
}

static bool not_expr(tn_jparser *p, tn_jnode **out)
{
    if (!tn_jparse_at(p, "not"))
        return compare_expr(p, out);
    *out = tn_jparse_node(p, TN_JN_NOT, &p->cur);
    if (*out == NULL)
        return false;
    TN_TRY(tn_jparse_deeper(p));
    TN_TRY(tn_jparse_next(p));
    TN_TRY(not_expr(p, &(*out)->as.one));
    p->depth--;
    return stand_on(p, *out, (*out)->as.one);
}

static tn_jop and_at(const tn_jparser *p)
{
    return tn_jparse_at(p, "and") ? TN_JOP_ADD : TN_JOP_NONE;
}

static bool and_expr(tn_jparser *p, tn_jnode **out)
{
    return chain(p, TN_JN_AND, and_at, not_expr, out);
}

static tn_jop or_at(const tn_jparser *p)
{
    return tn_jparse_at(p, "or") ? TN_JOP_ADD : TN_JOP_NONE;
}

static bool or_expr(tn_jparser *p, tn_jnode **out)
{
    return chain(p, TN_JN_OR, or_at, and_expr, out);
}

/* `yes if test else no`; what follows else may be conditional again. */
bool tn_jparse_expr(tn_jparser *p, tn_jnode **out)
{
    tn_jtoken from = p->cur;
    TN_TRY(or_expr(p, out));
    while (tn_jparse_at(p, "if")) {
        tn_jnode *n = tn_jparse_node(p, TN_JN_COND, &from);
        if (n == NULL)
            return false;
        n->as.cond.yes = *out;
        TN_TRY(tn_jparse_next(p));
        TN_TRY(or_expr(p, &n->as.cond.test));
        if (tn_jparse_at(p, "else")) {
            TN_TRY(tn_jparse_deeper(p));
            TN_TRY(tn_jparse_next(p));
            TN_TRY(tn_jparse_expr(p, &n->as.cond.no));
            p->depth--;
        }
        TN_TRY(stand_on(p, n, n->as.cond.yes) && stand_on(p, n, n->as.cond.test)
               && stand_on(p, n, n->as.cond.no));
        *out = n;
    }
    return true;
}

/* -------------------------------------------------------------------- tuples and targets */

static bool tuple_ends(const tn_jparser *p)
{
    return p->cur.type == TN_JTOK_VAR_END || p->cur.type == TN_JTOK_BLOCK_END
           || p->cur.type == TN_JTOK_RPAREN;
}

bool tn_jparse_tuple(tn_jparser *p, tn_jtuple_rules rules, tn_jnode **out)
{
    tn_jtoken from = p->cur;
    row r = {0};
    bool comma = false;
    for (;;) {
        tn_jnode *n;
        if (r.n > 0)
            TN_TRY(tn_jparse_expect(p, TN_JTOK_COMMA));
        if (tuple_ends(p))
            break;
        if (rules.targets)
            TN_TRY(primary(p, rules.ns, &n));
        else
            TN_TRY(rules.no_cond ? or_expr(p, &n) : tn_jparse_expr(p, &n));
        row_add(&r, n);
        if (p->cur.type != TN_JTOK_COMMA)
            break;
        comma = true;
    }
    if (!comma && r.n > 0) {
        *out = r.first;
        return true;
    }
    if (!comma && !rules.parens)
        return tn_jparse_fail(p, "an expression");
    *out = tn_jparse_node(p, TN_JN_TUPLE, &from);
    return *out != NULL && row_close(p, *out, &r);
}

static bool make_target(tn_jparser *p, tn_jnode *n)
{
    n->store = TN_JSTORE_SET;
    switch (n->kind) {
    case TN_JN_NAME:
    case TN_JN_NSREF: return true;
    case TN_JN_TUPLE:
        for (tn_jnode *c = n->as.list.first; c != NULL; c = c->next)
            TN_TRY(make_target(p, c));
        return true;
    default: return tn_jparse_fail_at(p, n, "this cannot be assigned to; expected a name");
    }
}

bool tn_jparse_target(tn_jparser *p, tn_jtuple_rules rules, tn_jnode **out)
{
    rules.targets = true;
    return tn_jparse_tuple(p, rules, out) && make_target(p, *out);
}

bool tn_jparse_target_name(tn_jparser *p, tn_jnode **out)
{
    tn_jtoken t = p->cur;
    if (t.type != TN_JTOK_NAME)
        return tn_jparse_fail(p, "a name");
    static const char *const taken[] = {"true", "false", "none", "True", "False", "None"};
    for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++)
        if (tn_jtok_is(&t, taken[i]))
            return tn_jparse_fail(p, "a name that can be assigned to");
    *out = name_node(p, &t);
    if (*out == NULL)
        return false;
    (*out)->store = TN_JSTORE_SET;
    return tn_jparse_next(p);
}

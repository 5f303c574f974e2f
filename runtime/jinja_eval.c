/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_eval.c - what an expression is worth. */
#include "jinja_exec.h"

#include <string.h>

#define ARGS_SHORT 8u       /* arguments that need no memory of their own */
#define CALL_WEIGHT 3u      /* a call takes the C stack of so many other evaluations */

static tn_jval *slot_of(tn_jenv *env, const tn_jnode *name)
{
    for (uint32_t up = name->as.name.up; up > 0; up--)
        env = env->outer;
    return &env->slot[name->as.name.slot];
}

static bool eval_name(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jval *out)
{
    *out = *slot_of(env, n);
    return out->type != TN_J_MISSING || tn_jundef_var(r, n->as.name.text, out);
}

static bool eval_list(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jtype type, tn_jval *out)
{
    tn_jval *at = tn_jlist_new(r, type, n->as.list.n, out);
    if (at == NULL)
        return false;
    for (const tn_jnode *c = n->as.list.first; c != NULL; c = c->next)
        TN_TRY(tn_jeval(r, env, c, at++));
    return true;
}

static bool eval_dict(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jval *out)
{
    tn_jdict *d = tn_jdict_new(r, n->as.list.n / 2);
    if (d == NULL)
        return false;
    for (const tn_jnode *c = n->as.list.first; c != NULL; c = c->next->next) {
        tn_jval key, val;
        TN_TRY(tn_jeval(r, env, c, &key) && tn_jeval(r, env, c->next, &val));
        r->at = c;
        TN_TRY(tn_jdict_set(r, d, key, val));
    }
    *out = (tn_jval){.type = TN_J_DICT, .as.d = d};
    return true;
}

static bool eval_cond(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jval *out)
{
    tn_jval test;
    TN_TRY(tn_jeval(r, env, n->as.cond.test, &test));
    if (tn_jval_truth(test))
        return tn_jeval(r, env, n->as.cond.yes, out);
    if (n->as.cond.no != NULL)
        return tn_jeval(r, env, n->as.cond.no, out);
    r->at = n;
    return tn_jundef_hint(r, "the inline if-expression evaluated to false and no else section "
                             "was defined", out);
}

static bool eval_logic(tn_jrun *r, tn_jenv *env, const tn_jnode *n, bool stop_at, tn_jval *out)
{
    for (const tn_jnode *c = n->as.list.first; c != NULL; c = c->next) {
        TN_TRY(tn_jeval(r, env, c, out));
        if (tn_jval_truth(*out) == stop_at)
            return true;
    }
    return true;
}

static bool compare(tn_jrun *r, tn_jop op, tn_jval a, tn_jval b, bool *yes)
{
    switch (op) {
    case TN_JOP_EQ: return tn_jval_equal(r, a, b, yes);
    case TN_JOP_NE:
        TN_TRY(tn_jval_equal(r, a, b, yes));
        *yes = !*yes;
        return true;
    case TN_JOP_LT: return tn_jval_order(r, "<", a, b, yes);
    case TN_JOP_LE: return tn_jval_order(r, "<=", a, b, yes);
    case TN_JOP_GT: return tn_jval_order(r, ">", a, b, yes);
    case TN_JOP_GE: return tn_jval_order(r, ">=", a, b, yes);
    case TN_JOP_IN: return tn_jval_contains(r, b, a, yes);
    default:
        TN_TRY(tn_jval_contains(r, b, a, yes));
        *yes = !*yes;
        return true;
    }
}

static bool eval_compare(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jval *out)
{
    const tn_jnode *c = n->as.list.first;
    tn_jval left, right;
    bool yes = true;
    TN_TRY(tn_jeval(r, env, c, &left));
    for (c = c->next; c != NULL && yes; c = c->next) {
        TN_TRY(tn_jeval(r, env, c, &right));
        r->at = n;
        TN_TRY(compare(r, (tn_jop)c->join, left, right, &yes));
        left = right;
    }
    *out = tn_jbool(yes);
    return true;
}

static bool eval_binary(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jval *out)
{
    const tn_jnode *c = n->as.list.first;
    tn_jval left, right;
    TN_TRY(tn_jeval(r, env, c, &left));
    for (c = c->next; c != NULL; c = c->next) {
        TN_TRY(tn_jeval(r, env, c, &right));
        r->at = n;
        TN_TRY(tn_jval_binary(r, c->join, left, right, &left));
    }
    *out = left;
    return true;
}

/* a ~ b ~ c: texts joined; markup among them makes the whole markup while escaping. */
static bool eval_concat(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jval *out)
{
    tn_jval all = {.type = TN_J_MISSING}, part;
    for (const tn_jnode *c = n->as.list.first; c != NULL; c = c->next) {
        TN_TRY(tn_jeval(r, env, c, &part));
        r->at = n;
        TN_TRY(r->escaping ? tn_jval_soft(r, part, &part) : tn_jval_str(r, part, &part));
        if (all.type == TN_J_MISSING)
            all = part;
        else if (all.safe || part.safe)
            TN_TRY(tn_jval_binary(r, TN_JOP_ADD, all, part, &all));
        else
            TN_TRY(tn_jstr_concat(r, all, part, &all));
    }
    *out = all;
    return true;
}

static bool maybe(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jval *out)
{
    *out = tn_jnone();
    return n == NULL || tn_jeval(r, env, n, out);
}

static bool eval_item(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jval *out)
{
    tn_jval obj, arg, stop, step;
    const tn_jnode *a = n->as.item.arg;
    TN_TRY(tn_jeval(r, env, n->as.item.obj, &obj));
    if (a->kind == TN_JN_SLICE) {
        TN_TRY(maybe(r, env, a->as.slice.start, &arg) && maybe(r, env, a->as.slice.stop, &stop)
               && maybe(r, env, a->as.slice.step, &step));
        r->at = n;
        return tn_jval_slice(r, obj, arg, stop, step, out);
    }
    TN_TRY(tn_jeval(r, env, a, &arg));
    r->at = n;
    return tn_jval_getitem(r, obj, arg, out);
}

/* ------------------------------------------------------------------------------- calling */

/* Evaluated arguments; short lists stay in the struct. */
typedef struct gathered {
    tn_jargs args;
    tn_jval few[ARGS_SHORT];
    tn_jpair few_named[ARGS_SHORT];
} gathered;

static bool add_star(tn_jrun *r, tn_jval list, uint32_t n, const tn_jval *at, tn_jargs *args)
{
    tn_jlist_maker m;
    tn_jval more, all;
    TN_TRY(tn_jval_items(r, list, TN_J_LIST, &more));
    tn_jlist_open(&m, r);
    for (uint32_t i = 0; i < n; i++)
        TN_TRY(tn_jlist_add(&m, at[i]));
    for (uint32_t i = 0; i < more.as.l->n; i++)
        TN_TRY(tn_jlist_add(&m, more.as.l->at[i]));
    TN_TRY(tn_jlist_close(&m, TN_J_LIST, &all));
    args->at = all.as.l->at;
    args->n = all.as.l->n;
    return true;
}

static bool add_star2(tn_jrun *r, tn_jval dict, uint32_t room, tn_jpair *kw, tn_jargs *args)
{
    if (dict.type == TN_J_UNDEF)
        return tn_jundef_fail(r, dict);
    if (dict.type != TN_J_DICT)
        return tn_jrun_fail(r, "argument after ** must be a mapping, not %s", tn_jval_kind(dict));
    const tn_jdict *d = dict.as.d;
    uint32_t n = args->nkw;
    if (d->n > room - n) {
        tn_jpair *wider = tn_jrun_array(r, (size_t)n + d->n, sizeof *wider);
        if (wider == NULL)
            return false;
        if (n > 0)
            memcpy(wider, kw, n * sizeof *kw);
        kw = wider;
    }
    for (uint32_t i = 0; i < d->n; i++) {
        if (d->at[i].key.type != TN_J_STR)
            return tn_jrun_fail(r, "keywords must be strings");
        for (uint32_t k = 0; k < args->nkw; k++) {
            bool same;
            TN_TRY(tn_jval_equal(r, kw[k].key, d->at[i].key, &same));
            if (same)
                return tn_jrun_fail(r, "got multiple values for a keyword argument");
        }
        kw[n++] = d->at[i];
    }
    args->kw = kw;
    args->nkw = n;
    return true;
}

static bool gather(tn_jrun *r, tn_jenv *env, const tn_jcallargs *a, const tn_jval *caller,
                   gathered *g)
{
    tn_jval *at = g->few, star;
    tn_jpair *kw = g->few_named;
    uint32_t n = 0, nkw = 0, room = a->nkwargs + 1;
    if (a->nargs > ARGS_SHORT && (at = tn_jrun_array(r, a->nargs, sizeof *at)) == NULL)
        return false;
    if (room > ARGS_SHORT && (kw = tn_jrun_array(r, room, sizeof *kw)) == NULL)
        return false;
    room = room > ARGS_SHORT ? room : ARGS_SHORT;
    for (const tn_jnode *c = a->args; c != NULL; c = c->next)
        TN_TRY(tn_jeval(r, env, c, &at[n++]));
    for (const tn_jkeyword *k = a->kwargs; k != NULL; k = k->next) {
        kw[nkw].key = k->name;
        TN_TRY(tn_jeval(r, env, k->value, &kw[nkw++].val));
    }
    if (caller != NULL) {
        TN_TRY(tn_jstr_text(r, "caller", &kw[nkw].key));
        kw[nkw++].val = *caller;
    }
    g->args = (tn_jargs){.at = at, .n = n, .kw = kw, .nkw = nkw};
    if (a->star != NULL) {
        TN_TRY(tn_jeval(r, env, a->star, &star));
        TN_TRY(add_star(r, star, n, at, &g->args));
    }
    if (a->star2 != NULL) {
        TN_TRY(tn_jeval(r, env, a->star2, &star));
        TN_TRY(add_star2(r, star, room, kw, &g->args));
    }
    return true;
}

bool tn_jeval_call(tn_jrun *r, tn_jenv *env, const tn_jnode *n, const tn_jval *caller,
                   tn_jval *out)
{
    tn_jval fn;
    gathered g;
    TN_TRY(tn_jeval(r, env, n->as.call.on, &fn));
    TN_TRY(gather(r, env, n->as.call.args, caller, &g));
    r->at = n;
    return tn_jval_call(r, fn, &g.args, out);
}

bool tn_jeval_filter(tn_jrun *r, tn_jenv *env, const tn_jnode *n, const tn_jval *on,
                     tn_jval *out)
{
    tn_jval self;
    gathered g;
    if (n->as.call.on == NULL)
        self = *on;
    else if (on != NULL)
        TN_TRY(tn_jeval_filter(r, env, n->as.call.on, on, &self));
    else
        TN_TRY(tn_jeval(r, env, n->as.call.on, &self));
    TN_TRY(gather(r, env, n->as.call.args, NULL, &g));
    r->at = n;
    return tn_jbuiltin_call(r, n->as.call.fn, &self, &g.args, out);
}

/* ---------------------------------------------------------------------------- dispatching */

static bool eval_one(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jval *out)
{
    tn_jval v;
    switch ((tn_jkind)n->kind) {
    case TN_JN_TUPLE: return eval_list(r, env, n, TN_J_TUPLE, out);
    case TN_JN_LIST: return eval_list(r, env, n, TN_J_LIST, out);
    case TN_JN_DICT: return eval_dict(r, env, n, out);
    case TN_JN_COND: return eval_cond(r, env, n, out);
    case TN_JN_OR: return eval_logic(r, env, n, true, out);
    case TN_JN_AND: return eval_logic(r, env, n, false, out);
    case TN_JN_NOT:
        TN_TRY(tn_jeval(r, env, n->as.one, &v));
        *out = tn_jbool(!tn_jval_truth(v));
        return true;
    case TN_JN_COMPARE: return eval_compare(r, env, n, out);
    case TN_JN_BINARY: return eval_binary(r, env, n, out);
    case TN_JN_CONCAT: return eval_concat(r, env, n, out);
    case TN_JN_NEG:
    case TN_JN_POS:
        TN_TRY(tn_jeval(r, env, n->as.one, &v));
        r->at = n;
        return tn_jval_signed(r, n->kind == TN_JN_NEG, v, out);
    case TN_JN_GETATTR:
        TN_TRY(tn_jeval(r, env, n->as.attr.obj, &v));
        r->at = n;
        return tn_jval_getattr(r, v, n->as.attr.name, out);
    case TN_JN_GETITEM: return eval_item(r, env, n, out);
    case TN_JN_CALL: return tn_jeval_call(r, env, n, NULL, out);
    case TN_JN_FILTER:
    case TN_JN_TEST: return tn_jeval_filter(r, env, n, NULL, out);
    default: return tn_jrun_fail(r, "this is no expression");
    }
}

static bool calls_something(const tn_jnode *n)
{
    return n->kind == TN_JN_CALL || n->kind == TN_JN_FILTER || n->kind == TN_JN_TEST;
}

bool tn_jeval(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jval *out)
{
    r->at = n;
    TN_TRY(tn_jrun_burn(r, TN_JSTEP_NODE));
    if (n->kind == TN_JN_CONST) {
        *out = n->as.value;
        return true;
    }
    if (n->kind == TN_JN_NAME)
        return eval_name(r, env, n, out);
    if (r->stack >= TN_JINJA_STACK_MAX)
        return tn_jrun_fail(r, "evaluations are nested deeper than %u", TN_JINJA_STACK_MAX);
    uint32_t weight = calls_something(n) ? CALL_WEIGHT : 1;
    r->stack += weight;
    bool ok = eval_one(r, env, n, out);
    r->stack -= weight;
    return ok;
}

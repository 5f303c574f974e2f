/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_exec.c - runs the statements of a template. */
#include "jinja_exec.h"

#include <string.h>

#define SPARE_LOOKS 4       /* environments looked at before a new one is made */

/* -------------------------------------------------------------------------- environments */

tn_jenv *tn_jenv_new(tn_jrun *r, const tn_jfunc *fn, tn_jenv *outer)
{
    tn_jenv **link = &r->spare;
    for (int i = 0; i < SPARE_LOOKS && *link != NULL; i++, link = &(*link)->outer) {
        tn_jenv *env = *link;
        if (env->nslot != fn->nslot)
            continue;
        *link = env->outer;
        memset(env->slot, 0, env->nslot * sizeof env->slot[0]);
        env->outer = outer;
        return env;
    }
    tn_jenv *env = tn_jrun_take(r, sizeof *env + fn->nslot * sizeof env->slot[0]);
    if (env == NULL)
        return NULL;
    env->nslot = fn->nslot;
    env->outer = outer;
    return env;
}

/* What no macro can see any more is used again. */
void tn_jenv_done(tn_jrun *r, const tn_jfunc *fn, tn_jenv *env)
{
    if (fn->captured)
        return;
    env->outer = r->spare;
    r->spare = env;
}

static tn_jval resolve(tn_jrun *r, tn_jval name)
{
    const tn_jval *v = r->exports->n > 0 ? tn_jdict_find(r, r->exports, name) : NULL;
    if (v == NULL)
        v = tn_jdict_find(r, r->vars, name);
    return v != NULL ? *v : (tn_jval){.type = TN_J_MISSING};
}

static tn_jval outer_slot(const tn_jenv *env, const tn_jload *l)
{
    for (uint32_t up = l->up; up > 0; up--)
        env = env->outer;
    return env->slot[l->from];
}

bool tn_jscope_enter(tn_jrun *r, tn_jenv *env, const tn_jscope *s)
{
    for (uint32_t i = 0; i < s->n; i++) {
        const tn_jload *l = &s->load[i];
        if (l->kind == TN_JLOAD_RESOLVE)
            env->slot[l->slot] = resolve(r, l->name);
        else if (l->kind == TN_JLOAD_ALIAS)
            env->slot[l->slot] = outer_slot(env, l);
        else if (l->kind == TN_JLOAD_UNSET)
            env->slot[l->slot] = (tn_jval){.type = TN_J_MISSING};
    }
    return !r->failed && tn_jrun_burn(r, s->n);
}

void tn_jscope_leave(tn_jenv *env, const tn_jscope *s)
{
    for (uint32_t i = 0; i < s->n; i++)
        env->slot[s->load[i].slot] = (tn_jval){.type = TN_J_MISSING};
}

/* ------------------------------------------------------------------------------ assigning */

static tn_jval *slot_of(tn_jenv *env, const tn_jnode *name)
{
    for (uint32_t up = name->as.name.up; up > 0; up--)
        env = env->outer;
    return &env->slot[name->as.name.slot];
}

static bool unpack(tn_jrun *r, tn_jenv *env, const tn_jnode *target, tn_jval v)
{
    tn_jcursor c;
    tn_jval part;
    bool more;
    uint32_t got = 0;
    if (!tn_jval_is_iterable(v))
        return tn_jrun_fail(r, "cannot unpack non-iterable %s object", tn_jval_kind(v));
    TN_TRY(tn_jcursor_open(r, &c, v));
    tn_jval *at = tn_jrun_array(r, target->as.list.n + 1, sizeof *at);
    if (at == NULL)
        return false;
    for (; got < target->as.list.n; got++) {
        TN_TRY(tn_jcursor_next(r, &c, &at[got], &more));
        if (!more)
            return tn_jrun_fail(r, "not enough values to unpack (expected %u, got %u)",
                                target->as.list.n, got);
    }
    TN_TRY(tn_jcursor_next(r, &c, &part, &more));
    if (more)
        return tn_jrun_fail(r, "too many values to unpack (expected %u)", target->as.list.n);
    got = 0;
    for (const tn_jnode *t = target->as.list.first; t != NULL; t = t->next)
        TN_TRY(tn_jassign(r, env, t, at[got++]));
    return true;
}

bool tn_jassign(tn_jrun *r, tn_jenv *env, const tn_jnode *target, tn_jval v)
{
    if (target->kind == TN_JN_TUPLE)
        return unpack(r, env, target, v);
    if (target->kind == TN_JN_NAME) {
        *slot_of(env, target) = v;
        return true;
    }
    return tn_jdict_set(r, slot_of(env, target->as.ns.base)->as.d, target->as.ns.attr, v);
}

/* ns.attr = ... is checked before the value is worked out. */
static bool spaces_exist(tn_jrun *r, tn_jenv *env, const tn_jnode *target)
{
    if (target->kind == TN_JN_TUPLE) {
        for (const tn_jnode *t = target->as.list.first; t != NULL; t = t->next)
            TN_TRY(spaces_exist(r, env, t));
        return true;
    }
    if (target->kind != TN_JN_NSREF || slot_of(env, target->as.ns.base)->type == TN_J_SPACE)
        return true;
    r->at = target;
    return tn_jrun_fail(r, "cannot assign attribute on non-namespace object");
}

/* Blocks see what the template's top level has set so far. */
static bool export(tn_jrun *r, tn_jenv *env, const tn_jnode *target)
{
    if (!r->t->has_blocks || target->kind == TN_JN_NSREF)
        return true;
    if (target->kind == TN_JN_NAME)
        return tn_jdict_set(r, r->exports, target->as.name.text, *slot_of(env, target));
    for (const tn_jnode *t = target->as.list.first; t != NULL; t = t->next)
        TN_TRY(export(r, env, t));
    return true;
}

static bool exec_set(tn_jrun *r, tn_jenv *env, const tn_jnode *n)
{
    tn_jval v;
    TN_TRY(spaces_exist(r, env, n->as.set.target));
    TN_TRY(tn_jeval(r, env, n->as.set.value, &v));
    r->at = n->as.set.target;
    return tn_jassign(r, env, n->as.set.target, v)
           && (!n->toplevel || export(r, env, n->as.set.target));
}

/* ---------------------------------------------------------------------------- statements */

static bool exec_if(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jflow *flow)
{
    for (const tn_jnode *b = n->as.list.first; b != NULL; b = b->next) {
        tn_jval test = tn_jbool(true);
        if (b->as.branch.test != NULL)
            TN_TRY(tn_jeval(r, env, b->as.branch.test, &test));
        if (tn_jval_truth(test))
            return tn_jexec(r, env, b->as.branch.body, flow);
    }
    return true;
}

static bool exec_output(tn_jrun *r, tn_jenv *env, const tn_jnode *n)
{
    tn_jval v;
    for (const tn_jnode *c = n->as.list.first; c != NULL; c = c->next) {
        TN_TRY(tn_jeval(r, env, c, &v));
        r->at = c;
        TN_TRY(tn_jval_print(r, v));
    }
    return true;
}

/* jinja2 joins what such a block gives without asking for its text first. */
static bool print_text(tn_jrun *r, tn_jval v)
{
    if (v.type != TN_J_STR)
        return tn_jrun_fail(r, "the block gives '%s'; expected text", tn_jval_kind(v));
    return tn_jrun_print(r, v.as.s->p, v.as.s->size);
}

/* {% set x %}...{% endset %} and {% filter f %}...{% endfilter %}. */
static bool exec_capture(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jflow *flow)
{
    tn_jsink sink;
    tn_jval v;
    const tn_jscope *scope = &n->as.capture->scope;
    TN_TRY(tn_jscope_enter(r, env, scope));
    tn_jsink_push(r, &sink);
    TN_TRY(tn_jexec(r, env, n->as.capture->body, flow));
    tn_jsink_drop(r, &sink);
    if (*flow != TN_JFLOW_NEXT)
        return true;
    TN_TRY(tn_jsink_text(r, &sink, &v));
    v.safe = r->escaping;
    if (n->as.capture->filter != NULL)
        TN_TRY(tn_jeval_filter(r, env, n->as.capture->filter, &v, &v));
    r->at = n;
    if (n->kind == TN_JN_FILTERBLOCK) {
        TN_TRY(print_text(r, v));
    } else {
        TN_TRY(spaces_exist(r, env, n->as.capture->target));
        TN_TRY(tn_jassign(r, env, n->as.capture->target, v));
        if (n->toplevel)
            TN_TRY(export(r, env, n->as.capture->target));
    }
    tn_jscope_leave(env, scope);
    return true;
}

static bool exec_with(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jflow *flow)
{
    TN_TRY(tn_jscope_enter(r, env, &n->as.with->scope));
    const tn_jnode *target = n->as.with->targets;
    for (const tn_jnode *e = n->as.with->values; e != NULL; e = e->next, target = target->next) {
        tn_jval v;
        TN_TRY(tn_jeval(r, env, e, &v));
        r->at = target;
        TN_TRY(tn_jassign(r, env, target, v));
    }
    TN_TRY(tn_jexec(r, env, n->as.with->body, flow));
    tn_jscope_leave(env, &n->as.with->scope);
    return true;
}

/* A scoped block's lookups go through what surrounds it first. */
static bool surroundings(tn_jrun *r, const tn_jenv *env, const tn_jnode *n, tn_jdict **out)
{
    *out = tn_jdict_new(r, 0);
    if (*out == NULL)
        return false;
    for (uint32_t i = 0; i < r->exports->n; i++)
        TN_TRY(tn_jdict_set(r, *out, r->exports->at[i].key, r->exports->at[i].val));
    for (uint32_t i = 0; i < n->as.block->nseen; i++) {
        tn_jval v = outer_slot(env, &n->as.block->seen[i]);
        if (v.type != TN_J_MISSING)
            TN_TRY(tn_jdict_set(r, *out, n->as.block->seen[i].name, v));
    }
    return true;
}

static bool exec_block(tn_jrun *r, tn_jenv *env, const tn_jnode *n)
{
    tn_jflow flow = TN_JFLOW_NEXT;
    tn_jdict *exports = r->exports;
    if (n->as.block->required)
        return tn_jrun_fail(r, "a required block that no template fills");
    if (n->as.block->scoped)
        TN_TRY(surroundings(r, env, n, &r->exports));
    tn_jenv *own = tn_jenv_new(r, &n->as.block->func, NULL);
    TN_TRY(own != NULL && tn_jscope_enter(r, own, &n->as.block->scope));
    TN_TRY(tn_jexec(r, own, n->as.block->body, &flow));
    tn_jenv_done(r, &n->as.block->func, own);
    r->exports = exports;
    return true;
}

static bool exec_escape(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jflow *flow)
{
    bool before = r->escaping;
    tn_jval on;
    TN_TRY(tn_jscope_enter(r, env, &n->as.escape.scope));
    TN_TRY(tn_jeval(r, env, n->as.escape.on, &on));
    r->escaping = tn_jval_truth(on);
    TN_TRY(tn_jexec(r, env, n->as.escape.body, flow));
    r->escaping = before;
    tn_jscope_leave(env, &n->as.escape.scope);
    return true;
}

static bool exec_macro(tn_jrun *r, tn_jenv *env, const tn_jnode *n)
{
    TN_TRY(tn_jmacro_new(r, env, n, slot_of(env, n->as.macro.name)));
    return !n->toplevel || export(r, env, n->as.macro.name);
}

static bool exec_one(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jflow *flow)
{
    switch ((tn_jkind)n->kind) {
    case TN_JN_DATA: return tn_jrun_print(r, n->as.value.as.s->p, n->as.value.as.s->size);
    case TN_JN_OUTPUT: return exec_output(r, env, n);
    case TN_JN_FOR: return tn_jexec_for(r, env, n, flow);
    case TN_JN_IF: return exec_if(r, env, n, flow);
    case TN_JN_MACRO: return exec_macro(r, env, n);
    case TN_JN_CALLBLOCK: return tn_jexec_callblock(r, env, n);
    case TN_JN_FILTERBLOCK:
    case TN_JN_SETBLOCK: return exec_capture(r, env, n, flow);
    case TN_JN_SET: return exec_set(r, env, n);
    case TN_JN_WITH: return exec_with(r, env, n, flow);
    case TN_JN_BLOCK: return exec_block(r, env, n);
    case TN_JN_AUTOESCAPE: return exec_escape(r, env, n, flow);
    case TN_JN_BREAK: *flow = TN_JFLOW_BREAK; return true;
    case TN_JN_CONTINUE: *flow = TN_JFLOW_CONTINUE; return true;
    default: return tn_jrun_fail(r, "this is no statement");
    }
}

bool tn_jexec(tn_jrun *r, tn_jenv *env, const tn_jnode *body, tn_jflow *flow)
{
    if (r->stack >= TN_JINJA_STACK_MAX)
        return tn_jrun_fail(r, "evaluations are nested deeper than %u", TN_JINJA_STACK_MAX);
    r->stack++;
    for (const tn_jnode *n = body; n != NULL && *flow == TN_JFLOW_NEXT; n = n->next) {
        r->at = n;
        TN_TRY(tn_jrun_burn(r, TN_JSTEP));
        TN_TRY(exec_one(r, env, n, flow));
    }
    r->stack--;
    return true;
}

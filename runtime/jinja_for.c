/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_for.c - runs for loops. */
#include "jinja_exec.h"

/* ------------------------------------------------------- items that pass the loop's test */

static bool rebuild(tn_jrun *r, const tn_jenv *env, const tn_jnode *target, tn_jval *out)
{
    if (target->kind == TN_JN_NAME) {
        *out = env->slot[target->as.name.slot];
        return true;
    }
    tn_jval *at = tn_jlist_new(r, TN_J_TUPLE, target->as.list.n, out);
    if (at == NULL)
        return false;
    for (const tn_jnode *t = target->as.list.first; t != NULL; t = t->next)
        TN_TRY(rebuild(r, env, t, at++));
    return true;
}

typedef struct loop_test {
    const tn_jnode *node;
    tn_jenv *env;
} loop_test;

/* The test runs when the item is asked for, so it sees what the body did before. */
static bool next_passing(tn_jrun *r, tn_jiter *it, tn_jval *out, bool *more)
{
    const loop_test *test = it->more;
    tn_jval yes;
    for (;;) {
        TN_TRY(tn_jiter_draw(r, it, out, more));
        if (!*more)
            return true;
        TN_TRY(tn_jassign(r, test->env, test->node->as.loop->test_target, *out));
        TN_TRY(tn_jeval(r, test->env, test->node->as.loop->test, &yes));
        if (tn_jval_truth(yes))
            return rebuild(r, test->env, test->node->as.loop->test_target, out);
    }
}

static bool with_test(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jval *source)
{
    loop_test *test = tn_jrun_take(r, sizeof *test);
    if (test == NULL)
        return false;
    *test = (loop_test){.node = n, .env = tn_jenv_new(r, &n->as.loop->test_func, env)};
    TN_TRY(test->env != NULL && tn_jscope_enter(r, test->env, &n->as.loop->test_scope));
    tn_jiter *it = tn_jiter_new(r, "generator", next_passing, *source, source);
    if (it == NULL)
        return false;
    it->more = test;
    return true;
}

/* -------------------------------------------------------------------------------- running */

static bool run_else(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jflow *flow)
{
    if (n->as.loop->orelse == NULL)
        return true;
    TN_TRY(tn_jscope_enter(r, env, &n->as.loop->else_scope));
    TN_TRY(tn_jexec(r, env, n->as.loop->orelse, flow));
    tn_jscope_leave(env, &n->as.loop->else_scope);
    return true;
}

/* As in jinja2 the else part runs unless some turn reached the body's end, so also after
 * turns that all ended with continue. */
static bool run_loop(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jloop *l, tn_jflow *flow)
{
    tn_jval v;
    bool more, completed = false;
    for (;;) {
        tn_jflow turn = TN_JFLOW_NEXT;
        r->at = n;
        TN_TRY(tn_jrun_burn(r, TN_JSTEP));
        TN_TRY(tn_jloop_next(r, l, &v, &more));
        if (!more)
            break;
        r->at = n->as.loop->target;
        TN_TRY(tn_jassign(r, env, n->as.loop->target, v));
        if (n->as.loop->loop != TN_NONE)
            env->slot[n->as.loop->loop] = (tn_jval){.type = TN_J_LOOP, .as.loop = l};
        TN_TRY(tn_jscope_enter(r, env, &n->as.loop->scope));
        TN_TRY(tn_jexec(r, env, n->as.loop->body, &turn));
        completed = completed || turn == TN_JFLOW_NEXT;
        if (turn == TN_JFLOW_BREAK)
            break;
    }
    tn_jscope_leave(env, &n->as.loop->scope);
    return completed || run_else(r, env, n, flow);
}

/* `env` is where the loop stands; its test sees that, whichever function the body runs in. */
static bool open_loop(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jval source, tn_jloop *l)
{
    if (n->as.loop->test != NULL) {
        tn_jcursor unused;
        TN_TRY(tn_jcursor_open(r, &unused, source));
        TN_TRY(with_test(r, env, n, &source));
    }
    l->node = n->as.loop->recursive ? n : NULL;
    l->env = env;
    return tn_jloop_open(r, source, l);
}

static bool run_recursive(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jval source,
                          int64_t depth0, tn_jval *out)
{
    tn_jsink sink;
    tn_jflow flow = TN_JFLOW_NEXT;
    if (r->calls >= TN_JINJA_DEPTH_MAX)
        return tn_jrun_fail(r, "calls are nested deeper than %u", TN_JINJA_DEPTH_MAX);
    tn_jloop *l = tn_jrun_take(r, sizeof *l);
    tn_jenv *own = l != NULL ? tn_jenv_new(r, &n->as.loop->func, env) : NULL;
    if (own == NULL)
        return false;
    l->depth0 = depth0;
    r->calls++;
    TN_TRY(open_loop(r, env, n, source, l));
    tn_jsink_push(r, &sink);
    TN_TRY(run_loop(r, own, n, l, &flow));
    tn_jsink_drop(r, &sink);
    r->calls--;
    tn_jenv_done(r, &n->as.loop->func, own);
    TN_TRY(tn_jsink_text(r, &sink, out));
    out->safe = r->escaping;
    return true;
}

bool tn_jloop_recurse(tn_jrun *r, tn_jloop *l, tn_jval iterable, tn_jval *out)
{
    if (l->node == NULL)
        return tn_jrun_fail(r, "the loop must have the 'recursive' marker to be called "
                               "recursively");
    return run_recursive(r, l->env, l->node, iterable, l->depth0 + 1, out);
}

bool tn_jexec_for(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jflow *flow)
{
    tn_jval source, text;
    TN_TRY(tn_jeval(r, env, n->as.loop->iter, &source));
    r->at = n->as.loop->iter;
    if (n->as.loop->recursive) {
        TN_TRY(run_recursive(r, env, n, source, 0, &text));
        return tn_jrun_print(r, text.as.s->p, text.as.s->size);
    }
    if (n->as.loop->loop == TN_NONE) {
        tn_jloop l = {.index0 = 0};
        return open_loop(r, env, n, source, &l) && run_loop(r, env, n, &l, flow);
    }
    tn_jloop *l = tn_jrun_take(r, sizeof *l); /* macros may keep it */
    return l != NULL && open_loop(r, env, n, source, l) && run_loop(r, env, n, l, flow);
}

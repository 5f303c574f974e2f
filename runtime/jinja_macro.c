/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_macro.c - macros, and the bodies of call blocks, which are macros without a name. */
#include "jinja_exec.h"
#include "jinja_methods.h"

#include <string.h>

bool tn_jmacro_new(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jval *out)
{
    tn_jmacro *m = tn_jrun_take(r, sizeof *m);
    if (m == NULL)
        return false;
    *m = (tn_jmacro){.name = tn_jnone(), .sig = n->as.macro.sig, .env = env,
                     .escaping = r->escaping};
    if (n->as.macro.name != NULL)
        m->name = n->as.macro.name->as.name.text;
    *out = (tn_jval){.type = TN_J_MACRO, .as.m = m};
    return true;
}

/* The macro as messages name it. */
static bool fail(tn_jrun *r, const tn_jmacro *m, const char *what, const tn_jstr *which)
{
    const char *name = m->name.type == TN_J_STR ? m->name.as.s->p : "caller";
    int size = m->name.type == TN_J_STR ? (int)m->name.as.s->size : 6;
    if (which == NULL)
        return tn_jrun_fail(r, "macro '%.*s' %s", size > 64 ? 64 : size, name, what);
    return tn_jrun_fail(r, "macro '%.*s' %s '%.*s'", size > 64 ? 64 : size, name, what,
                        (int)(which->size > 64 ? 64 : which->size), which->p);
}

/* Arguments by name, each to be taken once; `kw` is a copy the caller owns. */
static tn_jval take_named(tn_jpair *kw, uint32_t n, const char *name, size_t size)
{
    for (uint32_t i = 0; i < n; i++) {
        if (kw[i].key.type != TN_J_STR || !tn_jstr_same(kw[i].key.as.s, name, size))
            continue;
        kw[i].key = tn_jnone();
        return kw[i].val;
    }
    return (tn_jval){.type = TN_J_MISSING};
}

static bool bind_caller(tn_jrun *r, const tn_jsig *sig, tn_jenv *env, tn_jpair *kw, uint32_t nkw)
{
    if (sig->caller == TN_NONE)
        return true;
    tn_jval v = take_named(kw, nkw, "caller", 6);
    if (v.type == TN_J_MISSING || v.type == TN_J_NONE)
        TN_TRY(tn_jundef_hint(r, "No caller defined", &v));
    env->slot[sig->caller] = v;
    return true;
}

/* What is left of the names goes to kwargs, or is one too many. */
static bool bind_rest(tn_jrun *r, const tn_jmacro *m, tn_jenv *env, const tn_jpair *kw,
                      uint32_t nkw)
{
    tn_jdict *d = NULL;
    if (m->sig->kwargs != TN_NONE && (d = tn_jdict_new(r, 0)) == NULL)
        return false;
    for (uint32_t i = 0; i < nkw; i++) {
        if (kw[i].key.type != TN_J_STR)
            continue;
        if (d != NULL)
            TN_TRY(tn_jdict_set(r, d, kw[i].key, kw[i].val));
        else if (tn_jstr_is(kw[i].key, "caller"))
            return fail(r, m, "was invoked with a caller it does not use", NULL);
        else
            return fail(r, m, "takes no keyword argument", kw[i].key.as.s);
    }
    if (d != NULL)
        env->slot[m->sig->kwargs] = (tn_jval){.type = TN_J_DICT, .as.d = d};
    return true;
}

static bool bind_values(tn_jrun *r, const tn_jmacro *m, tn_jenv *env, const tn_jargs *args,
                        tn_jpair *kw)
{
    const tn_jsig *sig = m->sig;
    uint32_t i = 0;
    for (const tn_jnode *a = sig->args; a != NULL; a = a->next, i++) {
        const tn_jstr *name = a->as.name.text.as.s;
        env->slot[sig->arg_slot[i]] =
            i < args->n ? args->at[i] : take_named(kw, args->nkw, name->p, name->size);
    }
    TN_TRY(bind_caller(r, sig, env, kw, args->nkw));
    TN_TRY(bind_rest(r, m, env, kw, args->nkw));
    uint32_t spare = args->n > sig->nargs ? args->n - sig->nargs : 0;
    if (sig->varargs == TN_NONE)
        return spare == 0 || fail(r, m, "is given too many arguments", NULL);
    tn_jval *at = tn_jlist_new(r, TN_J_TUPLE, spare, &env->slot[sig->varargs]);
    if (at == NULL)
        return false;
    if (spare > 0)
        memcpy(at, args->at + sig->nargs, spare * sizeof *at);
    return true;
}

static bool not_provided(tn_jrun *r, tn_jval name, tn_jval *out)
{
    tn_jtext t;
    tn_jval hint;
    tn_jtext_open(&t, r, 0);
    tn_jtext_puts(&t, "parameter ");
    TN_TRY(tn_jval_repr(r, name, &t));
    tn_jtext_puts(&t, " was not provided");
    return tn_jtext_close(&t, &hint) && tn_jundef_said(r, hint, out);
}

/* Defaults may read the arguments before them. */
static bool fill_defaults(tn_jrun *r, const tn_jsig *sig, tn_jenv *env)
{
    const tn_jnode *def = sig->defaults;
    uint32_t i = 0, first = sig->nargs - sig->ndefault;
    for (const tn_jnode *a = sig->args; a != NULL; a = a->next, i++) {
        tn_jval *slot = &env->slot[sig->arg_slot[i]];
        if (slot->type == TN_J_MISSING && i < first)
            TN_TRY(not_provided(r, a->as.name.text, slot));
        else if (slot->type == TN_J_MISSING)
            TN_TRY(tn_jeval(r, env, def, slot));
        if (i >= first)
            def = def->next;
    }
    return true;
}

static bool run_body(tn_jrun *r, const tn_jsig *sig, tn_jenv *env, tn_jval *out)
{
    tn_jsink sink;
    tn_jflow flow = TN_JFLOW_NEXT;
    tn_jsink_push(r, &sink);
    TN_TRY(tn_jscope_enter(r, env, &sig->scope));
    TN_TRY(fill_defaults(r, sig, env) && tn_jexec(r, env, sig->body, &flow));
    tn_jsink_drop(r, &sink);
    return tn_jsink_text(r, &sink, out);
}

bool tn_jmacro_call(tn_jrun *r, tn_jmacro *m, const tn_jargs *args, tn_jval *out)
{
    const tn_jsig *sig = m->sig;
    tn_jpair *kw = NULL;
    if (r->calls >= TN_JINJA_DEPTH_MAX)
        return tn_jrun_fail(r, "calls are nested deeper than %u", TN_JINJA_DEPTH_MAX);
    if (args->nkw > 0) {
        kw = tn_jrun_array(r, args->nkw, sizeof *kw);
        if (kw == NULL)
            return false;
        memcpy(kw, args->kw, args->nkw * sizeof *kw);
    }
    tn_jenv *env = tn_jenv_new(r, &sig->func, m->env);
    TN_TRY(env != NULL && tn_jrun_burn(r, TN_JSTEP) && bind_values(r, m, env, args, kw));
    bool escaping = r->escaping;
    r->escaping = m->escaping;
    r->calls++;
    TN_TRY(run_body(r, sig, env, out));
    r->calls--;
    r->escaping = escaping;
    tn_jenv_done(r, &sig->func, env);
    out->safe = escaping;
    return true;
}

bool tn_jexec_callblock(tn_jrun *r, tn_jenv *env, const tn_jnode *n)
{
    tn_jval caller, out;
    TN_TRY(tn_jmacro_new(r, env, n, &caller));
    if (n->as.macro.call != NULL)
        TN_TRY(tn_jeval_call(r, env, n->as.macro.call, &caller, &out));
    else
        TN_TRY(tn_jmacro_call(r, caller.as.m, &(tn_jargs){.n = 0}, &out));
    r->at = n;
    if (out.type != TN_J_STR)
        return tn_jrun_fail(r, "the call gives '%s'; expected text", tn_jval_kind(out));
    return tn_jrun_print(r, out.as.s->p, out.as.s->size);
}

bool tn_jmacro_attr(tn_jrun *r, const tn_jmacro *m, tn_jval name, tn_jval *out)
{
    *out = (tn_jval){.type = TN_J_MISSING};
    if (tn_jstr_is(name, "name"))
        *out = m->name;
    else if (tn_jstr_is(name, "catch_kwargs"))
        *out = tn_jbool(m->sig->kwargs != TN_NONE);
    else if (tn_jstr_is(name, "catch_varargs"))
        *out = tn_jbool(m->sig->varargs != TN_NONE);
    else if (tn_jstr_is(name, "caller"))
        *out = tn_jbool(m->sig->caller != TN_NONE || m->sig->names_caller);
    else if (tn_jstr_is(name, "explicit_caller"))
        *out = tn_jbool(m->sig->names_caller);
    else if (tn_jstr_is(name, "arguments")) {
        tn_jval *at = tn_jlist_new(r, TN_J_TUPLE, m->sig->nargs, out);
        if (at == NULL)
            return false;
        for (const tn_jnode *a = m->sig->args; a != NULL; a = a->next)
            *at++ = a->as.name.text;
    }
    return true;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_exec.h - what the walkers of a template's tree share. */
#ifndef TN_JINJA_EXEC_H
#define TN_JINJA_EXEC_H

#include "jinja_ast.h"
#include "jinja_call.h"
#include "jinja_iter.h"

/* The variables of one call of a function (see jinja_ast.h). */
struct tn_jenv {
    tn_jenv *outer;
    uint32_t nslot;
    tn_jval slot[];
};

struct tn_jmacro {
    tn_jval name;            /* NONE: a call block's body */
    const tn_jsig *sig;
    tn_jenv *env;            /* where it was written */
    bool escaping;           /* written inside {% autoescape true %} */
};

/* How a body ended. */
typedef enum tn_jflow { TN_JFLOW_NEXT, TN_JFLOW_BREAK, TN_JFLOW_CONTINUE } tn_jflow;

/* jinja_eval.c */
bool tn_jeval(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jval *out);
bool tn_jeval_call(tn_jrun *r, tn_jenv *env, const tn_jnode *n, const tn_jval *caller,
                   tn_jval *out);
/* `on`: what the innermost filter of a block is applied to. */
bool tn_jeval_filter(tn_jrun *r, tn_jenv *env, const tn_jnode *n, const tn_jval *on,
                     tn_jval *out);

/* jinja_exec.c */
tn_jenv *tn_jenv_new(tn_jrun *r, const tn_jfunc *fn, tn_jenv *outer);
void tn_jenv_done(tn_jrun *r, const tn_jfunc *fn, tn_jenv *env);
bool tn_jscope_enter(tn_jrun *r, tn_jenv *env, const tn_jscope *s);
void tn_jscope_leave(tn_jenv *env, const tn_jscope *s);
bool tn_jassign(tn_jrun *r, tn_jenv *env, const tn_jnode *target, tn_jval v);
bool tn_jexec(tn_jrun *r, tn_jenv *env, const tn_jnode *body, tn_jflow *flow);

/* jinja_for.c */
bool tn_jexec_for(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jflow *flow);
bool tn_jloop_recurse(tn_jrun *r, tn_jloop *l, tn_jval iterable, tn_jval *out);

/* jinja_macro.c */
bool tn_jmacro_new(tn_jrun *r, tn_jenv *env, const tn_jnode *n, tn_jval *out);
bool tn_jexec_callblock(tn_jrun *r, tn_jenv *env, const tn_jnode *n);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_call.h - functions that templates can call, and how their arguments are bound.
 *
 * A builtin declares its parameters as text: names in order, "?" behind one that may be left
 * out, "/" in front of one that has no name, a last "*" when it takes any more and any names
 * itself. A filter's value, a test's and a method's object is the first of them. The function
 * gets the bound values in that order, MISSING for what was left out, and behind them the
 * arguments as they were written, without that first. */
#ifndef TN_JINJA_CALL_H
#define TN_JINJA_CALL_H

#include "jinja_value.h"

#define TN_JPARAM_MAX 8u

typedef struct tn_jargs {
    const tn_jval *at;
    uint32_t n;
    const tn_jpair *kw;     /* keys are STR */
    uint32_t nkw;
} tn_jargs;

typedef bool (*tn_jfn)(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out);

struct tn_jbuiltin {
    const char *name;
    const char *params;
    tn_jfn fn;
    uint8_t safe;           /* text methods: markup gives markup */
};

/* Tables sorted by name; NULL when there is none. */
const tn_jbuiltin *tn_jfilter_find(const char *name, size_t size);
const tn_jbuiltin *tn_jtest_find(const char *name, size_t size);
const tn_jbuiltin *tn_jstr_method(const char *name, size_t size);
const tn_jbuiltin *tn_jglobal_find(const char *name, size_t size);
const tn_jbuiltin *tn_jbuiltin_find(const tn_jbuiltin *table, size_t n, const char *name,
                                    size_t size);

/* `self` is NULL for functions. */
bool tn_jbuiltin_call(tn_jrun *r, const tn_jbuiltin *fn, const tn_jval *self,
                      const tn_jargs *args, tn_jval *out);
/* Calls any value. */
bool tn_jval_call(tn_jrun *r, tn_jval fn, const tn_jargs *args, tn_jval *out);
/* jinja_exec.c */
bool tn_jmacro_call(tn_jrun *r, tn_jmacro *m, const tn_jargs *args, tn_jval *out);
const tn_jval *tn_jargs_named(const tn_jargs *args, const char *name);

/* jinja_attr.c: obj.name and obj[key], as the sandbox allows them. */
bool tn_jval_getattr(tn_jrun *r, tn_jval obj, tn_jval name, tn_jval *out);
bool tn_jval_getitem(tn_jrun *r, tn_jval obj, tn_jval key, tn_jval *out);
bool tn_jval_slice(tn_jrun *r, tn_jval obj, tn_jval start, tn_jval stop, tn_jval step,
                   tn_jval *out);
/* A whole number as Python's __index__ sees it, for `what`. */
bool tn_jval_index(tn_jrun *r, tn_jval v, const char *what, int64_t *out);

/* jinja_arith.c */
bool tn_jval_binary(tn_jrun *r, int op, tn_jval a, tn_jval b, tn_jval *out); /* tn_jop */
bool tn_jval_signed(tn_jrun *r, bool minus, tn_jval v, tn_jval *out); /* -v or +v */

/* jinja_percent.c and jinja_format.c: "..." % args and "...".format(...). */
bool tn_jval_percent(tn_jrun *r, tn_jval format, tn_jval args, tn_jval *out);
bool tn_jval_format(tn_jrun *r, tn_jval format, const tn_jargs *args, bool map, tn_jval *out);

#endif

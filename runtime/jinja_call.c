/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_call.c - finds functions and binds their arguments. */
#include "jinja_call.h"

#include "jinja_exec.h"
#include "jinja_iter.h"

#include <string.h>

const tn_jbuiltin *tn_jbuiltin_find(const tn_jbuiltin *table, size_t n, const char *name,
                                    size_t size)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t mid = (low + high) / 2, len = strlen(table[mid].name);
        int c = memcmp(table[mid].name, name, len < size ? len : size);
        if (c == 0)
            c = len < size ? -1 : len > size;
        if (c == 0)
            return &table[mid];
        if (c < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}

const tn_jval *tn_jargs_named(const tn_jargs *args, const char *name)
{
    for (uint32_t i = 0; i < args->nkw; i++)
        if (tn_jstr_is(args->kw[i].key, name))
            return &args->kw[i].val;
    return NULL;
}

/* ------------------------------------------------------------------------------- binding */

typedef struct param {
    const char *name;
    size_t size;
    bool optional, nameless;
} param;

/* Reads the parameters' text; *open: it takes whatever is left. */
static uint32_t read_params(const char *text, param out[TN_JPARAM_MAX], bool *open)
{
    uint32_t n = 0;
    *open = false;
    while (*text != 0) {
        size_t size = strcspn(text, " ");
        if (*text == '*') {
            *open = true;
        } else if (n < TN_JPARAM_MAX) {
            param *p = &out[n++];
            p->nameless = *text == '/';
            p->optional = text[size - 1] == '?';
            p->name = text + p->nameless;
            p->size = size - p->nameless - p->optional;
        }
        text += size;
        text += *text == ' ';
    }
    return n;
}

static bool bind_named(tn_jrun *r, const tn_jbuiltin *fn, const param *p, uint32_t n, bool open,
                       const tn_jpair *kw, tn_jval *a)
{
    const tn_jstr *name = kw->key.as.s;
    for (uint32_t i = 0; i < n; i++) {
        if (p[i].nameless || !tn_jstr_same(name, p[i].name, p[i].size))
            continue;
        if (a[i].type != TN_J_MISSING)
            return tn_jrun_fail(r, "%s() got multiple values for argument '%.*s'", fn->name,
                                (int)p[i].size, p[i].name);
        a[i] = kw->val;
        return true;
    }
    return open
           || tn_jrun_fail(r, "%s() got an unexpected keyword argument '%.*s'", fn->name,
                           (int)(name->size > 64 ? 64 : name->size), name->p);
}

bool tn_jbuiltin_call(tn_jrun *r, const tn_jbuiltin *fn, const tn_jval *self,
                      const tn_jargs *args, tn_jval *out)
{
    param p[TN_JPARAM_MAX];
    tn_jval a[TN_JPARAM_MAX] = {{.type = TN_J_MISSING}};
    bool open;
    TN_TRY(tn_jrun_burn(r, TN_JSTEP));
    uint32_t n = read_params(fn->params, p, &open), used = 0;
    if (self != NULL)
        a[used++] = *self;
    uint32_t given = args->n;
    if (given > n - used) {
        if (!open)
            return tn_jrun_fail(r, "%s() takes at most %u arguments (%u given)", fn->name,
                                n - (self != NULL), given);
        given = n - used;
    }
    for (uint32_t i = 0; i < given; i++)
        a[used++] = args->at[i];
    for (uint32_t i = 0; i < args->nkw; i++)
        TN_TRY(bind_named(r, fn, p, n, open, &args->kw[i], a));
    for (uint32_t i = 0; i < n; i++)
        if (a[i].type == TN_J_MISSING && !p[i].optional)
            return tn_jrun_fail(r, "%s() missing required argument '%.*s'", fn->name,
                                (int)p[i].size, p[i].name);
    TN_TRY(fn->fn(r, a, args, out));
    if (fn->safe && self != NULL && self->safe && out->type == TN_J_STR)
        out->safe = 1;
    return true;
}

/* -------------------------------------------------------------------------- any callable */

static bool loop_again(tn_jrun *r, tn_jval loop, const tn_jargs *args, tn_jval *out)
{
    if (args->n != 1 || args->nkw != 0)
        return tn_jrun_fail(r, "loop() takes one iterable");
    return tn_jloop_recurse(r, loop.as.loop, args->at[0], out);
}

static bool call_joiner(tn_jjoiner *j, tn_jval *out, tn_jrun *r)
{
    if (j->used) {
        *out = j->sep;
        return true;
    }
    j->used = true;
    return tn_jstr_text(r, "", out);
}

bool tn_jval_call(tn_jrun *r, tn_jval fn, const tn_jargs *args, tn_jval *out)
{
    switch (fn.type) {
    case TN_J_FUNC: return tn_jbuiltin_call(r, fn.as.f1, NULL, args, out);
    case TN_J_METHOD:
        return tn_jbuiltin_call(r, fn.as.bound->fn, &fn.as.bound->self, args, out);
    case TN_J_MACRO: return tn_jmacro_call(r, fn.as.m, args, out);
    case TN_J_LOOP: return loop_again(r, fn, args, out);
    case TN_J_JOINER:
        if (args->n != 0 || args->nkw != 0)
            return tn_jrun_fail(r, "a joiner takes no arguments");
        return call_joiner(fn.as.joiner, out, r);
    case TN_J_UNDEF: return tn_jundef_fail(r, fn);
    default: return tn_jrun_fail(r, "'%s' object is not callable", tn_jval_kind(fn));
    }
}

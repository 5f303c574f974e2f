/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_run.c - one render of a template, from its variables to its text. */
#include "jinja_engine.h"

#include "jinja_exec.h"
#include "jinja_globals.h"

#include <stdint.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* Hashes are seeded so that a request cannot choose keys that collide; where the system has
 * no random bytes to give, an address and the clock still differ from run to run. */
static uint64_t make_seed(const tn_jrun *r)
{
    uint64_t seed = 0;
    struct timespec t = {0};
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) == (ssize_t)sizeof seed)
        return seed;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)(uintptr_t)r * 0x9e3779b97f4a7c15u ^ (uint64_t)t.tv_nsec;
}

bool tn_jrun_open(tn_jrun *r, const tn_jinja *t, int64_t now, tn_err *err)
{
    *r = (tn_jrun){.t = t, .err = err, .now = now,
                   .fuel = (uint64_t)TN_JINJA_STEPS_MAX * TN_JSTEP};
    r->seed = make_seed(r);
    tn_arena_open(&r->arena, TN_JINJA_MEMORY_MAX);
    r->vars = tn_jdict_new(r, 16);
    r->exports = tn_jdict_new(r, 0);
    return r->vars != NULL && r->exports != NULL && tn_jglobals_set(r);
}

void tn_jrun_close(tn_jrun *r)
{
    tn_arena_close(&r->arena);
}

bool tn_jrun_set(tn_jrun *r, const char *name, tn_jval value)
{
    tn_jval key;
    return tn_jstr_text(r, name, &key) && tn_jdict_set(r, r->vars, key, value);
}

bool tn_jrun_render(tn_jrun *r, tn_jval *out)
{
    tn_jsink sink;
    tn_jflow flow = TN_JFLOW_NEXT;
    TN_TRY(!r->failed);
    tn_jsink_push(r, &sink);
    tn_jenv *env = tn_jenv_new(r, &r->t->func, NULL);
    TN_TRY(env != NULL && tn_jscope_enter(r, env, &r->t->scope));
    TN_TRY(tn_jexec(r, env, r->t->body, &flow));
    tn_jsink_drop(r, &sink);
    r->at = NULL;
    return tn_jsink_text(r, &sink, out);
}

/* ------------------------------------------------------------------------------ JSON trees */

static bool list_of_json(tn_jrun *r, const tn_json *json, tn_jval *out)
{
    tn_jval *at = tn_jlist_new(r, TN_J_LIST, json->count, out);
    if (at == NULL)
        return false;
    for (const tn_json *c = json->child; c != NULL; c = c->next)
        TN_TRY(tn_jval_of_json(r, c, at++));
    return true;
}

static bool dict_of_json(tn_jrun *r, const tn_json *json, tn_jval *out)
{
    tn_jdict *d = tn_jdict_new(r, json->count);
    if (d == NULL)
        return false;
    for (const tn_json *c = json->child; c != NULL; c = c->next) {
        tn_jval key, val;
        TN_TRY(tn_jstr_borrow(r, c->key, c->key_size, &key));
        TN_TRY(tn_jval_of_json(r, c, &val) && tn_jdict_set(r, d, key, val));
    }
    *out = (tn_jval){.type = TN_J_DICT, .as.d = d};
    return true;
}

bool tn_jval_of_json(tn_jrun *r, const tn_json *json, tn_jval *out)
{
    bool ok = true;
    switch (json->type) {
    case TN_JSON_FALSE:
    case TN_JSON_TRUE: *out = tn_jbool(json->type == TN_JSON_TRUE); return true;
    case TN_JSON_INT: *out = tn_jint(json->i); return true;
    case TN_JSON_FLOAT: *out = tn_jfloat(json->f); return true;
    case TN_JSON_TEXT: return tn_jstr_borrow(r, json->text, json->count, out);
    case TN_JSON_LIST:
    case TN_JSON_OBJECT:
        TN_TRY(tn_jrun_enter(r));
        ok = json->type == TN_JSON_LIST ? list_of_json(r, json, out) : dict_of_json(r, json, out);
        tn_jrun_leave(r);
        return ok;
    default: *out = tn_jnone(); return true;
    }
}

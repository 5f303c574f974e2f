/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_scope.c - gives every name of a template its slot, as jinja2's compiler would.
 *
 * A scope is first collected: every name its own statements mention, not those of the scopes
 * inside it. A name the scope assigns is its own and begins as the outer variable of that
 * name, if there is one; a name it only reads is the nearest outer scope's. Then the scope is
 * bound: each mention gets the slot, and inner scopes are collected and bound in their turn.
 *
 * A name nobody assigns is looked up among the variables when its scope is entered. So is one
 * that is assigned only inside an `if`, which may not have run. */
#include "jinja_call.h"
#include "jinja_parse.h"
#include "jinja_walk.h"
#include "quote.h"

#include <string.h>

typedef struct symbol {
    uint32_t name, slot, up, from;
    uint8_t kind;
    bool stored;
} symbol;

/* From 64-bit keys to numbers; lives in the scratch arena. */
typedef struct map {
    struct map_slot { uint64_t key; uint32_t value, used; } *slot;
    uint32_t cap, n;
} map;

typedef struct function {
    struct function *outer;
    uint32_t depth;
    tn_jfunc *out;
    map slots;                  /* level << 32 | name */
} function;

typedef struct scope {
    struct scope *parent;
    function *fn;
    uint32_t level;
    symbol *at;
    uint32_t n, cap;
    map index;                  /* name to symbol */
    uint32_t branches;          /* ifs around what is being collected */
} scope;

typedef struct name_use {
    tn_jval text;
    const tn_jnode *called;     /* first call of a name that nothing assigns */
    bool read;                  /* such a name is also looked at in another way */
    bool assigned;              /* somewhere in the template */
} name_use;

typedef struct binder {
    tn_jparser *p;
    tn_arena scratch;
    map by_hash;
    name_use *name;
    uint32_t nname, name_cap;
} binder;

static bool bind(binder *b, scope *s, tn_jnode *n);

/* ------------------------------------------------------------------------------- memory */

static void *take(binder *b, size_t size)
{
    void *mem = tn_arena_take(&b->scratch, size);
    if (mem == NULL)
        tn_jlex_fail(&b->p->lex, 1, 1, "the template needs more than %zu MiB of memory",
                     TN_JINJA_COMPILED_MAX >> 20);
    return mem;
}

static uint64_t mix(uint64_t k)
{
    k ^= k >> 33;
    k *= 0xff51afd7ed558ccdu;
    k ^= k >> 33;
    return k;
}

static uint32_t *map_find(const map *m, uint64_t key)
{
    if (m->cap == 0)
        return NULL;
    for (uint64_t i = mix(key);; i++) {
        struct map_slot *s = &m->slot[i & (m->cap - 1)];
        if (!s->used)
            return NULL;
        if (s->key == key)
            return &s->value;
    }
}

static void map_place(map *m, uint64_t key, uint32_t value)
{
    uint64_t i = mix(key);
    while (m->slot[i & (m->cap - 1)].used)
        i++;
    m->slot[i & (m->cap - 1)] = (struct map_slot){.key = key, .value = value, .used = 1};
    m->n++;
}

static bool map_add(binder *b, map *m, uint64_t key, uint32_t value)
{
    if (m->n * 2 >= m->cap) {
        map wider = {.cap = m->cap == 0 ? 8 : m->cap * 2};
        wider.slot = take(b, wider.cap * sizeof *wider.slot);
        if (wider.slot == NULL)
            return false;
        for (uint32_t i = 0; i < m->cap; i++)
            if (m->slot[i].used)
                map_place(&wider, m->slot[i].key, m->slot[i].value);
        *m = wider;
    }
    map_place(m, key, value);
    return true;
}

/* -------------------------------------------------------------------------------- names */

static uint64_t hash_text(const tn_jstr *s, uint64_t seed)
{
    uint64_t h = 0xcbf29ce484222325u ^ seed;
    for (uint32_t i = 0; i < s->size; i++)
        h = (h ^ (unsigned char)s->p[i]) * 0x100000001b3u;
    return mix(h);
}

/* The number of a name. Texts whose hashes collide are told apart by hashing again. */
static bool id_of(binder *b, tn_jval text, uint32_t *id)
{
    uint64_t key = 0;
    for (uint64_t seed = 0;; seed++) {
        key = hash_text(text.as.s, seed);
        const uint32_t *at = map_find(&b->by_hash, key);
        if (at == NULL)
            break;
        if (tn_jstr_same(b->name[*at].text.as.s, text.as.s->p, text.as.s->size)) {
            *id = *at;
            return true;
        }
        if (seed == 64)
            return tn_jlex_fail(&b->p->lex, 1, 1, "too many names that look alike");
    }
    if (b->nname == b->name_cap) {
        uint32_t cap = b->name_cap == 0 ? 64 : b->name_cap * 2;
        name_use *wider = take(b, cap * sizeof *wider);
        if (wider == NULL)
            return false;
        if (b->nname > 0)
            memcpy(wider, b->name, b->nname * sizeof *wider);
        b->name = wider;
        b->name_cap = cap;
    }
    *id = b->nname;
    b->name[b->nname++] = (name_use){.text = text};
    return map_add(b, &b->by_hash, key, *id);
}

static symbol *own(const scope *s, uint32_t name)
{
    const uint32_t *at = map_find(&s->index, name);
    return at != NULL ? &s->at[*at] : NULL;
}

/* The nearest scope's symbol from `s` outwards. */
static symbol *find(scope *s, uint32_t name, scope **where)
{
    for (; s != NULL; s = s->parent) {
        symbol *y = own(s, name);
        if (y != NULL) {
            *where = s;
            return y;
        }
    }
    return NULL;
}

static bool define(binder *b, scope *s, uint32_t name, tn_jload_kind kind, symbol **out)
{
    uint64_t key = (uint64_t)s->level << 32 | name;
    uint32_t slot;
    const uint32_t *at = map_find(&s->fn->slots, key);
    if (at != NULL) {
        slot = *at;
    } else {
        slot = s->fn->out->nslot++;
        if (!map_add(b, &s->fn->slots, key, slot))
            return false;
    }
    if (s->n == s->cap) {
        uint32_t cap = s->cap == 0 ? 8 : s->cap * 2;
        symbol *wider = take(b, cap * sizeof *wider);
        if (wider == NULL)
            return false;
        if (s->n > 0)
            memcpy(wider, s->at, s->n * sizeof *wider);
        s->at = wider;
        s->cap = cap;
    }
    s->at[s->n] = (symbol){.name = name, .slot = slot, .kind = (uint8_t)kind};
    *out = &s->at[s->n];
    return map_add(b, &s->index, name, s->n++);
}

static bool mention_load(binder *b, scope *s, uint32_t name)
{
    scope *where;
    symbol *y;
    return find(s, name, &where) != NULL || define(b, s, name, TN_JLOAD_RESOLVE, &y);
}

static bool mention_store(binder *b, scope *s, uint32_t name)
{
    scope *where;
    symbol *y = own(s, name);
    if (y == NULL) {
        const symbol *outer = find(s->parent, name, &where);
        TN_TRY(define(b, s, name,
                      outer != NULL        ? TN_JLOAD_ALIAS
                      : s->branches > 0 ? TN_JLOAD_RESOLVE
                                           : TN_JLOAD_UNSET,
                      &y));
        if (outer != NULL) {
            y->from = outer->slot;
            y->up = s->fn->depth - where->fn->depth;
        }
    }
    y->stored = true;
    b->name[name].assigned = true;
    return true;
}

static bool mention_param(binder *b, scope *s, uint32_t name, uint32_t *slot)
{
    symbol *y = own(s, name);
    if (y == NULL)
        TN_TRY(define(b, s, name, TN_JLOAD_PARAM, &y));
    y->kind = TN_JLOAD_PARAM;
    y->stored = true;
    b->name[name].assigned = true;
    if (slot != NULL)
        *slot = y->slot;
    return true;
}

static bool param_named(binder *b, scope *s, const char *name, uint32_t *slot)
{
    uint32_t id;
    tn_jval text;
    return tn_jparse_text(b->p, name, strlen(name), &text) && id_of(b, text, &id)
           && mention_param(b, s, id, slot);
}

/* --------------------------------------------------------------------------- collecting */

static bool collect(binder *b, scope *s, const tn_jnode *n);

static bool collect_all(binder *b, scope *s, const tn_jnode *n)
{
    for (; n != NULL; n = n->next)
        TN_TRY(collect(b, s, n));
    return true;
}

static bool collect_name(binder *b, scope *s, const tn_jnode *n)
{
    uint32_t id;
    TN_TRY(id_of(b, n->as.name.text, &id));
    return n->store ? mention_store(b, s, id) : mention_load(b, s, id);
}

/* Targets of a loop, of `with`, and arguments: set from outside. */
static bool collect_params(binder *b, scope *s, const tn_jnode *n)
{
    uint32_t id;
    for (; n != NULL; n = n->next) {
        if (n->kind == TN_JN_TUPLE)
            TN_TRY(collect_params(b, s, n->as.list.first));
        else
            TN_TRY(id_of(b, n->as.name.text, &id) && mention_param(b, s, id, NULL));
    }
    return true;
}

static bool collect_args(binder *b, scope *s, const tn_jcallargs *a)
{
    TN_TRY(collect_all(b, s, a->args));
    for (const tn_jkeyword *k = a->kwargs; k != NULL; k = k->next)
        TN_TRY(collect(b, s, k->value));
    return (a->star == NULL || collect(b, s, a->star))
           && (a->star2 == NULL || collect(b, s, a->star2));
}

static bool maybe(binder *b, scope *s, const tn_jnode *n)
{
    return n == NULL || collect(b, s, n);
}

static bool collect_branches(binder *b, scope *s, const tn_jnode *n)
{
    for (; n != NULL; n = n->next) {
        TN_TRY(maybe(b, s, n->as.branch.test));
        s->branches++;
        TN_TRY(collect_all(b, s, n->as.branch.body));
        s->branches--;
    }
    return true;
}

static bool collect(binder *b, scope *s, const tn_jnode *n)
{
    switch ((tn_jkind)n->kind) {
    case TN_JN_NAME: return collect_name(b, s, n);
    case TN_JN_NSREF: {
        uint32_t id;
        return id_of(b, n->as.ns.base->as.name.text, &id) && mention_load(b, s, id);
    }
    case TN_JN_TUPLE:
    case TN_JN_LIST:
    case TN_JN_DICT:
    case TN_JN_OR:
    case TN_JN_AND:
    case TN_JN_COMPARE:
    case TN_JN_BINARY:
    case TN_JN_CONCAT:
    case TN_JN_OUTPUT: return collect_all(b, s, n->as.list.first);
    case TN_JN_COND:
        return collect(b, s, n->as.cond.test) && collect(b, s, n->as.cond.yes)
               && maybe(b, s, n->as.cond.no);
    case TN_JN_NOT:
    case TN_JN_NEG:
    case TN_JN_POS: return collect(b, s, n->as.one);
    case TN_JN_GETATTR: return collect(b, s, n->as.attr.obj);
    case TN_JN_GETITEM: return collect(b, s, n->as.item.obj) && collect(b, s, n->as.item.arg);
    case TN_JN_SLICE:
        return maybe(b, s, n->as.slice.start) && maybe(b, s, n->as.slice.stop)
               && maybe(b, s, n->as.slice.step);
    case TN_JN_CALL:
    case TN_JN_FILTER:
    case TN_JN_TEST:
        return maybe(b, s, n->as.call.on) && collect_args(b, s, n->as.call.args);
    case TN_JN_FOR: return collect(b, s, n->as.loop->iter);
    case TN_JN_IF: return collect_branches(b, s, n->as.list.first);
    case TN_JN_MACRO: return collect_name(b, s, n->as.macro.name);
    case TN_JN_CALLBLOCK: return maybe(b, s, n->as.macro.call);
    case TN_JN_FILTERBLOCK: return collect(b, s, n->as.capture->filter);
    case TN_JN_SETBLOCK: return collect(b, s, n->as.capture->target);
    case TN_JN_SET: return collect(b, s, n->as.set.value) && collect(b, s, n->as.set.target);
    case TN_JN_WITH: return collect_all(b, s, n->as.with->values);
    case TN_JN_CONST:
    case TN_JN_DATA:
    case TN_JN_BRANCH:
    case TN_JN_BLOCK:
    case TN_JN_AUTOESCAPE:
    case TN_JN_BREAK:
    case TN_JN_CONTINUE: return true;
    }
    return true;
}

/* --------------------------------------------------------------- names a body leaves open */

typedef struct search {
    const char *name;
    bool read;
} search;

static tn_jwalk see_name(const tn_jnode *n, void *ctx)
{
    search *s = ctx;
    if (n->kind == TN_JN_BLOCK)
        return TN_JWALK_SKIP;
    if (n->kind != TN_JN_NAME || !tn_jstr_is(n->as.name.text, s->name))
        return TN_JWALK_ON;
    s->read = !n->store;
    return TN_JWALK_STOP;
}

/* The body, however deep, reads `name` before anything in it assigns it. */
static bool reads(const tn_jnode *body, const char *name)
{
    search s = {.name = name};
    return tn_jwalk_list(body, see_name, &s) && s.read;
}

static tn_jwalk see_loop_target(const tn_jnode *n, void *ctx)
{
    (void)ctx;
    return n->kind == TN_JN_NAME && n->store == TN_JSTORE_SET && tn_jstr_is(n->as.name.text, "loop")
               ? TN_JWALK_STOP
               : TN_JWALK_ON;
}

static tn_jwalk see_scoped_block(const tn_jnode *n, void *ctx)
{
    (void)ctx;
    return n->kind == TN_JN_BLOCK && n->as.block->scoped ? TN_JWALK_STOP : TN_JWALK_ON;
}

/* ------------------------------------------------------------------------------ binding */

static bool bind_all(binder *b, scope *s, tn_jnode *n)
{
    for (; n != NULL; n = n->next)
        TN_TRY(bind(b, s, n));
    return true;
}

static bool bind_maybe(binder *b, scope *s, tn_jnode *n)
{
    return n == NULL || bind(b, s, n);
}

static bool bind_name(binder *b, scope *s, tn_jnode *n, bool called)
{
    scope *where = NULL;
    uint32_t id;
    TN_TRY(id_of(b, n->as.name.text, &id));
    const symbol *y = find(s, id, &where);
    if (y == NULL)
        return tn_jparse_fail_at(b->p, n, "a name that this place cannot see");
    n->as.name.id = id;
    n->as.name.slot = y->slot;
    n->as.name.up = s->fn->depth - where->fn->depth;
    if (y->kind == TN_JLOAD_RESOLVE && !y->stored) {
        name_use *use = &b->name[id];
        if (!called)
            use->read = true;
        else if (use->called == NULL)
            use->called = n;
    }
    return true;
}

static bool bind_args(binder *b, scope *s, tn_jcallargs *a)
{
    TN_TRY(bind_all(b, s, a->args));
    for (tn_jkeyword *k = a->kwargs; k != NULL; k = k->next)
        TN_TRY(bind(b, s, k->value));
    return bind_maybe(b, s, a->star) && bind_maybe(b, s, a->star2);
}

static scope inner(scope *s, function *fn)
{
    return (scope){.parent = s, .fn = fn, .level = s->level + 1};
}

static function enclosed(scope *s, tn_jfunc *out)
{
    s->fn->out->captured = true;
    return (function){.outer = s->fn, .depth = s->fn->depth + 1, .out = out};
}

/* What the interpreter needs of a finished scope. */
static bool keep(binder *b, const scope *s, tn_jscope *out)
{
    tn_jload *load = tn_jparse_take(b->p, (s->n > 0 ? s->n : 1) * sizeof *load);
    if (load == NULL)
        return false;
    for (uint32_t i = 0; i < s->n; i++)
        load[i] = (tn_jload){.slot = s->at[i].slot, .up = s->at[i].up, .from = s->at[i].from,
                             .kind = s->at[i].kind, .stored = s->at[i].stored,
                             .name = b->name[s->at[i].name].text};
    *out = (tn_jscope){.load = load, .n = s->n};
    return true;
}

static bool clone_target(binder *b, const tn_jnode *from, tn_jnode **out)
{
    tn_jnode *n = tn_jparse_take(b->p, sizeof *n);
    if (n == NULL)
        return false;
    *n = *from;
    n->next = NULL;
    *out = n;
    if (n->kind != TN_JN_TUPLE)
        return true;
    tn_jnode **link = &n->as.list.first;
    for (const tn_jnode *c = from->as.list.first; c != NULL; c = c->next) {
        TN_TRY(clone_target(b, c, link));
        link = &(*link)->next;
    }
    return true;
}

/* The test of `for x in y if test` runs in a function of its own, as the items come. */
static bool bind_loop_test(binder *b, scope *s, tn_jnode *n)
{
    function fn = enclosed(s, &n->as.loop->test_func);
    scope t = inner(s, &fn);
    TN_TRY(clone_target(b, n->as.loop->target, &n->as.loop->test_target));
    TN_TRY(collect_params(b, &t, n->as.loop->test_target));
    TN_TRY(collect(b, &t, n->as.loop->test));
    return bind(b, &t, n->as.loop->test_target) && bind(b, &t, n->as.loop->test)
           && keep(b, &t, &n->as.loop->test_scope);
}

static bool bind_for(binder *b, scope *s, tn_jnode *n)
{
    function own_fn;
    function *fn = s->fn;
    if (tn_jwalk_list(n->as.loop->target, see_loop_target, NULL)
        || tn_jwalk_list(n->as.loop->body, see_loop_target, NULL)
        || tn_jwalk_list(n->as.loop->orelse, see_loop_target, NULL))
        return tn_jparse_fail_at(b->p, n, "the special variable loop cannot be assigned to");
    if (n->as.loop->recursive) {
        own_fn = enclosed(s, &n->as.loop->func);
        fn = &own_fn;
    }
    scope body = inner(s, fn), orelse = inner(s, fn);
    n->as.loop->loop = TN_NONE;
    if (n->as.loop->recursive || reads(n->as.loop->body, "loop")
        || tn_jwalk_list(n->as.loop->body, see_scoped_block, NULL)
        || tn_jwalk_list(n->as.loop->orelse, see_scoped_block, NULL))
        TN_TRY(param_named(b, &body, "loop", &n->as.loop->loop));
    TN_TRY(collect_params(b, &body, n->as.loop->target));
    TN_TRY(collect_all(b, &body, n->as.loop->body));
    TN_TRY(collect_all(b, &orelse, n->as.loop->orelse));
    if (n->as.loop->test != NULL)
        TN_TRY(bind_loop_test(b, s, n));
    return bind(b, s, n->as.loop->iter) && bind(b, &body, n->as.loop->target)
           && bind_all(b, &body, n->as.loop->body) && bind_all(b, &orelse, n->as.loop->orelse)
           && keep(b, &body, &n->as.loop->scope) && keep(b, &orelse, &n->as.loop->else_scope);
}

/* Arguments the body may ask for without naming them. */
static bool special_params(binder *b, scope *m, const tn_jnode *n, tn_jsig *sig)
{
    bool kwargs = false, varargs = false;
    uint32_t i = 0;
    for (const tn_jnode *a = sig->args; a != NULL; a = a->next, i++) {
        kwargs = kwargs || tn_jstr_is(a->as.name.text, "kwargs");
        varargs = varargs || tn_jstr_is(a->as.name.text, "varargs");
        if (!tn_jstr_is(a->as.name.text, "caller"))
            continue;
        sig->names_caller = true;
        if (i + sig->ndefault < sig->nargs && reads(sig->body, "caller"))
            return tn_jparse_fail_at(b->p, n, "the argument caller needs a default");
    }
    sig->caller = sig->kwargs = sig->varargs = TN_NONE;
    if (!sig->names_caller && reads(sig->body, "caller"))
        TN_TRY(param_named(b, m, "caller", &sig->caller));
    if (!kwargs && reads(sig->body, "kwargs"))
        TN_TRY(param_named(b, m, "kwargs", &sig->kwargs));
    if (!varargs && reads(sig->body, "varargs"))
        TN_TRY(param_named(b, m, "varargs", &sig->varargs));
    return true;
}

static bool bind_macro(binder *b, scope *s, tn_jnode *n)
{
    tn_jsig *sig = n->as.macro.sig;
    function fn = enclosed(s, &sig->func);
    scope m = inner(s, &fn);
    uint32_t *slots = tn_jparse_take(b->p, (sig->nargs > 0 ? sig->nargs : 1) * sizeof *slots);
    if (slots == NULL)
        return false;
    TN_TRY(collect_params(b, &m, sig->args));
    TN_TRY(collect_all(b, &m, sig->defaults) && collect_all(b, &m, sig->body));
    TN_TRY(special_params(b, &m, n, sig));
    TN_TRY(bind_all(b, &m, sig->args) && bind_all(b, &m, sig->defaults)
           && bind_all(b, &m, sig->body));
    uint32_t i = 0;
    for (const tn_jnode *a = sig->args; a != NULL; a = a->next)
        slots[i++] = a->as.name.slot;
    sig->arg_slot = slots;
    return keep(b, &m, &sig->scope);
}

static bool bind_capture(binder *b, scope *s, tn_jnode *n)
{
    scope c = inner(s, s->fn);
    TN_TRY(collect_all(b, &c, n->as.capture->body) && maybe(b, &c, n->as.capture->filter));
    return bind_all(b, &c, n->as.capture->body) && bind_maybe(b, &c, n->as.capture->filter)
           && bind_maybe(b, s, n->as.capture->target) && keep(b, &c, &n->as.capture->scope);
}

static bool bind_with(binder *b, scope *s, tn_jnode *n)
{
    scope w = inner(s, s->fn);
    TN_TRY(collect_params(b, &w, n->as.with->targets));
    TN_TRY(collect_all(b, &w, n->as.with->body));
    return bind_all(b, s, n->as.with->values) && bind_all(b, &w, n->as.with->targets)
           && bind_all(b, &w, n->as.with->body) && keep(b, &w, &n->as.with->scope);
}

static bool bind_escape(binder *b, scope *s, tn_jnode *n)
{
    scope e = inner(s, s->fn);
    TN_TRY(collect(b, &e, n->as.escape.on) && collect_all(b, &e, n->as.escape.body));
    return bind(b, &e, n->as.escape.on) && bind_all(b, &e, n->as.escape.body)
           && keep(b, &e, &n->as.escape.scope);
}

/* A scoped block sees what the scopes around it assign, under its own lookups. */
static bool surroundings(binder *b, scope *s, tn_jnode *n)
{
    uint32_t count = 0;
    for (const scope *o = s; o != NULL; o = o->parent)
        count += o->n;
    tn_jload *seen = tn_jparse_take(b->p, (count > 0 ? count : 1) * sizeof *seen);
    if (seen == NULL)
        return false;
    uint32_t used = 0;
    for (scope *o = s; o != NULL; o = o->parent)
        for (uint32_t i = 0; i < o->n; i++) {
            scope *where;
            if (!o->at[i].stored || find(s, o->at[i].name, &where) != &o->at[i])
                continue;
            seen[used++] = (tn_jload){.from = o->at[i].slot,
                                      .up = s->fn->depth - o->fn->depth,
                                      .name = b->name[o->at[i].name].text};
        }
    n->as.block->seen = seen;
    n->as.block->nseen = used;
    return true;
}

static bool bind_block(binder *b, scope *s, tn_jnode *n)
{
    function fn = {.out = &n->as.block->func};
    scope k = {.fn = &fn};
    if (n->as.block->scoped)
        TN_TRY(surroundings(b, s, n));
    TN_TRY(collect_all(b, &k, n->as.block->body));
    return bind_all(b, &k, n->as.block->body) && keep(b, &k, &n->as.block->scope);
}

static bool bind(binder *b, scope *s, tn_jnode *n)
{
    n->toplevel = s->parent == NULL && s->fn->out == &b->p->t->func;
    switch ((tn_jkind)n->kind) {
    case TN_JN_NAME: return bind_name(b, s, n, false);
    case TN_JN_NSREF: return bind_name(b, s, n->as.ns.base, false);
    case TN_JN_TUPLE:
    case TN_JN_LIST:
    case TN_JN_DICT:
    case TN_JN_OR:
    case TN_JN_AND:
    case TN_JN_COMPARE:
    case TN_JN_BINARY:
    case TN_JN_CONCAT:
    case TN_JN_OUTPUT:
    case TN_JN_IF: return bind_all(b, s, n->as.list.first);
    case TN_JN_BRANCH:
        return bind_maybe(b, s, n->as.branch.test) && bind_all(b, s, n->as.branch.body);
    case TN_JN_COND:
        return bind(b, s, n->as.cond.test) && bind(b, s, n->as.cond.yes)
               && bind_maybe(b, s, n->as.cond.no);
    case TN_JN_NOT:
    case TN_JN_NEG:
    case TN_JN_POS: return bind(b, s, n->as.one);
    case TN_JN_GETATTR: return bind(b, s, n->as.attr.obj);
    case TN_JN_GETITEM: return bind(b, s, n->as.item.obj) && bind(b, s, n->as.item.arg);
    case TN_JN_SLICE:
        return bind_maybe(b, s, n->as.slice.start) && bind_maybe(b, s, n->as.slice.stop)
               && bind_maybe(b, s, n->as.slice.step);
    case TN_JN_CALL:
        if (n->as.call.on->kind == TN_JN_NAME)
            return bind_name(b, s, n->as.call.on, true) && bind_args(b, s, n->as.call.args);
        return bind(b, s, n->as.call.on) && bind_args(b, s, n->as.call.args);
    case TN_JN_FILTER:
    case TN_JN_TEST: return bind_maybe(b, s, n->as.call.on) && bind_args(b, s, n->as.call.args);
    case TN_JN_FOR: return bind_for(b, s, n);
    case TN_JN_MACRO: return bind(b, s, n->as.macro.name) && bind_macro(b, s, n);
    case TN_JN_CALLBLOCK: return bind_maybe(b, s, n->as.macro.call) && bind_macro(b, s, n);
    case TN_JN_FILTERBLOCK:
    case TN_JN_SETBLOCK: return bind_capture(b, s, n);
    case TN_JN_SET: return bind(b, s, n->as.set.target) && bind(b, s, n->as.set.value);
    case TN_JN_WITH: return bind_with(b, s, n);
    case TN_JN_BLOCK: return bind_block(b, s, n);
    case TN_JN_AUTOESCAPE: return bind_escape(b, s, n);
    case TN_JN_CONST:
    case TN_JN_DATA:
    case TN_JN_BREAK:
    case TN_JN_CONTINUE: return true;
    }
    return true;
}

/* A function that nothing defines fails whenever it is called. A template that asks for the
 * name in another way first (`is defined`) is taken at its word. */
static bool functions_exist(binder *b)
{
    for (uint32_t i = 0; i < b->nname; i++) {
        const name_use *u = &b->name[i];
        const tn_jstr *s = u->text.as.s;
        tn_quoted q;
        if (u->called != NULL && !u->read && !u->assigned && tn_jglobal_find(s->p, s->size) == NULL)
            return tn_jparse_fail_at(b->p, u->called, "no function is named %s",
                                     tn_quote(&q, s->p, s->size));
    }
    return true;
}

bool tn_jscope_bind(tn_jparser *p)
{
    binder b = {.p = p};
    tn_arena_open(&b.scratch, TN_JINJA_COMPILED_MAX);
    function fn = {.out = &p->t->func};
    scope root = {.fn = &fn};
    bool ok = collect_all(&b, &root, p->t->body) && bind_all(&b, &root, p->t->body)
              && keep(&b, &root, &p->t->scope) && functions_exist(&b);
    tn_arena_close(&b.scratch);
    return ok;
}

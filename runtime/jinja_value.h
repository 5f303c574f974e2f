/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_value.h - the values of a template and the render they live in.
 *
 * Values are small and passed by copy; what they point to lives in the render's arena (or in
 * the template, or in the request's JSON tree) and never changes once another value can see
 * it, as in jinja2's immutable sandbox. The exceptions are namespaces and one-shot iterators.
 *
 * A call that can fail returns false after tn_jrun_fail wrote the reason; the first failure of
 * a render is the one that is kept. */
#ifndef TN_JINJA_VALUE_H
#define TN_JINJA_VALUE_H

#include "arena.h"
#include "jinja_text.h"

#include <tenon/plugin.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Limits of one template and one render. */
#define TN_JINJA_SOURCE_MAX ((size_t)1 << 20)
#define TN_JINJA_STEPS_MAX 1000000u
#define TN_JINJA_OUTPUT_MAX ((size_t)16 << 20)
#define TN_JINJA_DEPTH_MAX 64u            /* nesting in the source; macro calls in a render */
#define TN_JINJA_RANGE_MAX 100000
#define TN_JINJA_MEMORY_MAX ((size_t)64 << 20)  /* the arena of a render */
#define TN_JINJA_COMPILED_MAX ((size_t)256 << 20) /* the arena of a template */
#define TN_JINJA_NEST_MAX 256u            /* values inside values */
#define TN_JINJA_STACK_MAX 1500u         /* nested evaluations of any kind: under 1 MiB of stack */

/* A statement, a loop's turn or a call is one step; an expression's node is an eighth, a
 * kibibyte of text that is read or written is one. */
#define TN_JSTEP 16u
#define TN_JSTEP_NODE 2u
#define TN_JSTEP_BYTES 64u               /* bytes for one sixteenth of a step */

/* Returns false from the caller when the call did. */
#define TN_TRY(call)      \
    do {                  \
        if (!(call))      \
            return false; \
    } while (0)

typedef enum tn_jtype {
    TN_J_MISSING,   /* no value at all: an argument left out, a variable never set */
    TN_J_UNDEF,
    TN_J_NONE,
    TN_J_BOOL,
    TN_J_INT,
    TN_J_FLOAT,
    TN_J_STR,
    TN_J_LIST,
    TN_J_TUPLE,
    TN_J_DICT,
    TN_J_VIEW,      /* dict.keys(), values(), items() */
    TN_J_RANGE,
    TN_J_ITER,      /* a generator: gives each item once */
    TN_J_SPACE,     /* namespace() */
    TN_J_MACRO,
    TN_J_FUNC,
    TN_J_METHOD,    /* a function bound to its object */
    TN_J_LOOP,
    TN_J_JOINER
} tn_jtype;

typedef struct tn_jrun tn_jrun;
typedef struct tn_jval tn_jval;
typedef struct tn_jroom tn_jroom;     /* memory several texts or lists grow into */
typedef struct tn_jmacro tn_jmacro;   /* jinja_exec.c */
typedef struct tn_jloop tn_jloop;     /* jinja_loop.c */
typedef struct tn_jiter tn_jiter;     /* jinja_iter.h */
typedef struct tn_jbuiltin tn_jbuiltin; /* jinja_call.h */

typedef struct tn_jstr {
    const char *p;        /* valid UTF-8, not terminated, may hold NULs */
    uint32_t size, chars;
    tn_jroom *room;       /* where p's end may grow, or NULL */
} tn_jstr;

typedef struct tn_jlist tn_jlist;
typedef struct tn_jdict tn_jdict;
typedef struct tn_jundef tn_jundef;
typedef struct tn_jview tn_jview;
typedef struct tn_jrange tn_jrange;
typedef struct tn_jmethod tn_jmethod;
typedef struct tn_jjoiner tn_jjoiner;

struct tn_jval {
    uint8_t type;         /* tn_jtype */
    uint8_t safe;         /* STR: markup that needs no escaping; its operators escape */
    union {
        bool b;
        int64_t i;
        double f;
        const tn_jstr *s;
        const tn_jlist *l;    /* LIST, TUPLE */
        tn_jdict *d;          /* DICT, SPACE */
        const tn_jundef *u;
        const tn_jview *v;
        const tn_jrange *r;
        tn_jiter *it;
        tn_jmacro *m;
        const tn_jbuiltin *f1;
        const tn_jmethod *bound;
        tn_jloop *loop;
        tn_jjoiner *joiner;
        const void *any;
    } as;
};

struct tn_jlist {
    const tn_jval *at;
    uint32_t n;
    uint8_t group;        /* TUPLE of groupby: also answers to .grouper and .list */
    tn_jroom *room;
};

typedef struct tn_jpair {
    tn_jval key, val;
} tn_jpair;

/* Keeps the order of insertion; an index is made once there are more than a few. */
struct tn_jdict {
    tn_jpair *at;
    uint32_t n, cap;
    uint32_t *index;      /* pair + 1 by hash, 0 for free; NULL while small */
    uint32_t index_cap;   /* a power of two */
};

struct tn_jundef {
    tn_jval hint;         /* STR, or MISSING: made from the other two */
    tn_jval obj;          /* MISSING: a variable */
    tn_jval name;
    bool unsafe;          /* the sandbox forbids it */
};

typedef enum tn_jview_kind { TN_JVIEW_KEYS, TN_JVIEW_VALUES, TN_JVIEW_ITEMS } tn_jview_kind;

struct tn_jview {
    const tn_jdict *d;
    tn_jview_kind kind;
};

struct tn_jrange {
    int64_t start, stop, step, n; /* step is never 0 */
};

/* Item i, which lies in 64 bits though step times i may not. */
static inline int64_t tn_jrange_at(const tn_jrange *g, int64_t i)
{
    return (int64_t)((uint64_t)g->start + (uint64_t)g->step * (uint64_t)i);
}

struct tn_jmethod {
    tn_jval self;
    const tn_jbuiltin *fn;
};

struct tn_jjoiner {
    tn_jval sep;
    bool used;
};

/* Text that is written piece by piece; a render prints into the innermost one. */
typedef struct tn_jchunk tn_jchunk;
typedef struct tn_jsink {
    tn_jchunk *first, *last;
    size_t size;
    struct tn_jsink *outer;
} tn_jsink;

struct tn_jchunk {
    tn_jchunk *next;
    uint32_t used, cap;
    char data[];
};

typedef struct tn_jinja tn_jinja;
typedef struct tn_jenv tn_jenv;
typedef struct tn_jnode tn_jnode;

struct tn_jrun {
    const tn_jinja *t;
    tn_arena arena;
    tn_err *err;
    bool failed;
    bool no_memory;       /* it failed because the system has none, not by its own ceiling */
    uint64_t fuel;        /* sixteenths of a step left */
    uint32_t stack;       /* nested evaluations now */
    uint32_t nest;        /* values inside values now */
    uint32_t calls;       /* macros inside macros now */
    const tn_jnode *at;   /* what is being evaluated, for the error's position */
    tn_jsink *sink;
    tn_jdict *vars;       /* what the caller passed, over the globals */
    tn_jdict *exports;    /* what the template set at its top level */
    tn_jenv *spare;       /* environments to use again */
    uint64_t seed;        /* of the hashes */
    int64_t now;          /* seconds since 1970 */
    uint32_t mark;        /* code point that marks user text, 0: none */
    bool escaping;        /* inside {% autoescape true %} */
};

/* ------------------------------------------------------------------ the render itself */

/* Writes "FILE:LINE:COLUMN: sentence" once; always returns false. */
bool tn_jrun_fail(tn_jrun *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void *tn_jrun_take(tn_jrun *r, size_t size);                  /* zeroed; NULL after failing */
void *tn_jrun_array(tn_jrun *r, size_t count, size_t size);
bool tn_jrun_burn(tn_jrun *r, uint64_t sixteenths);
bool tn_jrun_burn_bytes(tn_jrun *r, size_t bytes);
bool tn_jrun_enter(tn_jrun *r);                               /* one value deeper */
void tn_jrun_leave(tn_jrun *r);
bool tn_jrun_print(tn_jrun *r, const char *p, size_t size);   /* into the sink */
void tn_jsink_push(tn_jrun *r, tn_jsink *s);
void tn_jsink_drop(tn_jrun *r, const tn_jsink *s);            /* back to what was before it */
bool tn_jsink_text(tn_jrun *r, const tn_jsink *s, tn_jval *out);

/* ------------------------------------------------------------------------ making values */

static inline tn_jval tn_jnone(void)
{
    return (tn_jval){.type = TN_J_NONE};
}

static inline tn_jval tn_jbool(bool b)
{
    return (tn_jval){.type = TN_J_BOOL, .as.b = b};
}

static inline tn_jval tn_jint(int64_t i)
{
    return (tn_jval){.type = TN_J_INT, .as.i = i};
}

static inline tn_jval tn_jfloat(double f)
{
    return (tn_jval){.type = TN_J_FLOAT, .as.f = f};
}

/* The text is borrowed; it must outlive the render. */
bool tn_jstr_borrow(tn_jrun *r, const char *p, size_t size, tn_jval *out);
/* The same where the number of characters is known. */
bool tn_jstr_counted(tn_jrun *r, const char *p, size_t size, size_t chars, tn_jval *out);
bool tn_jstr_copy(tn_jrun *r, const char *p, size_t size, tn_jval *out);
bool tn_jstr_text(tn_jrun *r, const char *text, tn_jval *out); /* a literal of ours */
/* Part of `s`; keeps its markup. */
bool tn_jstr_part(tn_jrun *r, tn_jval s, size_t off, size_t size, tn_jval *out);
bool tn_jstr_concat(tn_jrun *r, tn_jval a, tn_jval b, tn_jval *out); /* ignores markup */
bool tn_jstr_is(tn_jval v, const char *text);
bool tn_jstr_same(const tn_jstr *s, const char *p, size_t size);
bool tn_jstr_ascii(const tn_jstr *s);

/* Room for n values; fill before anyone sees the list. */
tn_jval *tn_jlist_new(tn_jrun *r, tn_jtype type, uint32_t n, tn_jval *out);
bool tn_jlist_concat(tn_jrun *r, tn_jval a, tn_jval b, tn_jval *out);
bool tn_jpair_new(tn_jrun *r, tn_jval a, tn_jval b, tn_jval *out); /* a tuple of two */

/* A list that grows while it is made. */
typedef struct tn_jlist_maker {
    tn_jrun *r;
    tn_jval *at;
    uint32_t n, cap;
} tn_jlist_maker;
void tn_jlist_open(tn_jlist_maker *m, tn_jrun *r);
bool tn_jlist_add(tn_jlist_maker *m, tn_jval v);
bool tn_jlist_close(tn_jlist_maker *m, tn_jtype type, tn_jval *out);

tn_jdict *tn_jdict_new(tn_jrun *r, uint32_t room);
/* Fails on a key that cannot be hashed. */
bool tn_jdict_set(tn_jrun *r, tn_jdict *d, tn_jval key, tn_jval val);
bool tn_jdict_get(tn_jrun *r, const tn_jdict *d, tn_jval key, tn_jval *out); /* MISSING: absent */
const tn_jval *tn_jdict_find(tn_jrun *r, const tn_jdict *d, tn_jval str);  /* NULL: absent */
const tn_jval *tn_jdict_text(const tn_jdict *d, const char *key);          /* slow, small dicts */

bool tn_jundef_var(tn_jrun *r, tn_jval name, tn_jval *out);
bool tn_jundef_of(tn_jrun *r, tn_jval obj, tn_jval name, tn_jval *out);
bool tn_jundef_hint(tn_jrun *r, const char *hint, tn_jval *out);           /* hint is a literal */
bool tn_jundef_said(tn_jrun *r, tn_jval hint, tn_jval *out);               /* hint is a STR */
bool tn_jundef_unsafe(tn_jrun *r, tn_jval obj, tn_jval name, tn_jval *out);
bool tn_jundef_fail(tn_jrun *r, tn_jval undef);  /* the error that using it is */

/* --------------------------------------------------------------------- text being made */

typedef struct tn_jtext {
    tn_jrun *r;
    char *p;
    size_t size, cap;
    bool failed;
} tn_jtext;

void tn_jtext_open(tn_jtext *t, tn_jrun *r, size_t hint);
void tn_jtext_put(tn_jtext *t, const char *p, size_t size);
void tn_jtext_puts(tn_jtext *t, const char *text);
void tn_jtext_putc(tn_jtext *t, char c);
void tn_jtext_put_cp(tn_jtext *t, uint32_t cp);
void tn_jtext_put_str(tn_jtext *t, tn_jval s);
void tn_jtext_fill(tn_jtext *t, uint32_t cp, uint64_t count);
bool tn_jtext_close(tn_jtext *t, tn_jval *out);

/* ------------------------------------------------------------------- asking about values */

bool tn_jval_truth(tn_jval v);
const char *tn_jval_kind(tn_jval v);             /* Python's name of the type */
static inline bool tn_jval_is_int(tn_jval v)     /* booleans count, as in Python */
{
    return v.type == TN_J_INT || v.type == TN_J_BOOL;
}
static inline int64_t tn_jval_int(tn_jval v)
{
    return v.type == TN_J_BOOL ? v.as.b : v.as.i;
}
static inline bool tn_jval_is_number(tn_jval v)
{
    return tn_jval_is_int(v) || v.type == TN_J_FLOAT;
}
static inline double tn_jval_float(tn_jval v)
{
    return v.type == TN_J_FLOAT ? v.as.f : (double)tn_jval_int(v);
}
static inline bool tn_jval_is_seq(tn_jval v)
{
    return v.type == TN_J_LIST || v.type == TN_J_TUPLE;
}
/* len(v), or -1 when it has none. */
int64_t tn_jval_len(tn_jval v);

/* jinja_compare.c */
bool tn_jval_equal(tn_jrun *r, tn_jval a, tn_jval b, bool *out);
bool tn_jval_same(tn_jval a, tn_jval b);         /* Python's `is` */
/* a < b, with Python's error for values that have no order. */
bool tn_jval_less(tn_jrun *r, tn_jval a, tn_jval b, bool *out);
/* op: "<", "<=", ">", ">=" */
bool tn_jval_order(tn_jrun *r, const char *op, tn_jval a, tn_jval b, bool *out);
bool tn_jval_hash(tn_jrun *r, tn_jval v, uint64_t *out);
bool tn_jval_contains(tn_jrun *r, tn_jval where, tn_jval what, bool *out);
/* Stable; `key` has one value an item. Sorts both. */
bool tn_jval_sort(tn_jrun *r, tn_jval *items, tn_jval *keys, uint32_t n, bool reverse);

/* jinja_repr.c */
bool tn_jval_str(tn_jrun *r, tn_jval v, tn_jval *out);   /* str(v): STR, markup dropped */
bool tn_jval_soft(tn_jrun *r, tn_jval v, tn_jval *out);  /* the same, markup kept */
bool tn_jval_repr(tn_jrun *r, tn_jval v, tn_jtext *t);
bool tn_jval_print(tn_jrun *r, tn_jval v);               /* str(v) into the sink */
void tn_jstr_repr(tn_jtext *t, const tn_jstr *s);
void tn_jtext_put_hex(tn_jtext *t, uint32_t cp);         /* \xe9, \u65e5 or \U0001f600 */
bool tn_jval_escape(tn_jrun *r, tn_jval v, tn_jval *out); /* markupsafe.escape */

/* jinja_number.c */
size_t tn_jfloat_repr(double v, char out[32]);
/* Python's float(text) and int(text, base); false when it is none. */
bool tn_jfloat_parse(const char *p, size_t size, double *out);
typedef enum tn_jparse { TN_JPARSE_OK, TN_JPARSE_BAD, TN_JPARSE_HUGE } tn_jparse;
tn_jparse tn_jint_parse(const char *p, size_t size, int base, int64_t *out);
/* int(f): fails when it does not fit. */
bool tn_jint_of_float(tn_jrun *r, double f, int64_t *out);
bool tn_jval_round(tn_jrun *r, tn_jval v, int64_t digits, tn_jval *out);

/* jinja_json.c: json.dumps. `indent` MISSING or NONE: one line. */
typedef struct tn_jdumps {
    bool ascii, sort_keys;
    tn_jval indent;          /* NONE, or STR */
    tn_jval item_sep, key_sep;
} tn_jdumps;
bool tn_jval_dumps(tn_jrun *r, tn_jval v, const tn_jdumps *how, tn_jval *out);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_iter.h - going through the items of a value.
 *
 * A cursor walks any value that can be iterated. An iterator is a value itself, what Python
 * calls a generator: lazy, and empty once it has been walked. Filters such as map and select
 * give one, so that what they call runs when the items are asked for, not before. */
#ifndef TN_JINJA_ITER_H
#define TN_JINJA_ITER_H

#include "jinja_value.h"

typedef struct tn_jcursor {
    tn_jval v;
    uint32_t at;       /* next item */
    size_t byte;       /* STR: where it begins */
} tn_jcursor;

bool tn_jcursor_open(tn_jrun *r, tn_jcursor *c, tn_jval v);   /* fails: not iterable */
/* *more is false, and *out untouched, behind the last item. */
bool tn_jcursor_next(tn_jrun *r, tn_jcursor *c, tn_jval *out, bool *more);
bool tn_jval_is_iterable(tn_jval v);

typedef bool (*tn_jiter_next)(tn_jrun *r, tn_jiter *it, tn_jval *out, bool *more);

struct tn_jiter {
    tn_jiter_next next;
    const char *name;      /* for repr */
    tn_jcursor from;       /* what it draws on */
    bool open;             /* `from` has been opened */
    bool done;
    tn_jval source;
    tn_jval a, b, c;       /* of the function's own */
    void *more;
    uint32_t n;
};

/* A new iterator over `source`; the other members are set by the caller. */
tn_jiter *tn_jiter_new(tn_jrun *r, const char *name, tn_jiter_next next, tn_jval source,
                       tn_jval *out);
bool tn_jiter_draw(tn_jrun *r, tn_jiter *it, tn_jval *out, bool *more); /* one of the source */
/* All items, as LIST or TUPLE. */
bool tn_jval_items(tn_jrun *r, tn_jval v, tn_jtype type, tn_jval *out);
/* reversed(v). */
bool tn_jval_reversed(tn_jrun *r, tn_jval v, tn_jval *out);

/* jinja_loop.c: the variable of a for loop. */
struct tn_jloop {
    tn_jcursor from;
    tn_jval source;
    tn_jval after, current, before;   /* MISSING: none */
    tn_jval changed;                  /* arguments of the last changed(), or MISSING */
    int64_t index0, length, depth0;   /* length -1: not asked for yet */
    const tn_jnode *node;             /* of a recursive loop, else NULL */
    tn_jenv *env;                     /* where that loop was written */
};
bool tn_jloop_open(tn_jrun *r, tn_jval source, tn_jloop *l);
bool tn_jloop_next(tn_jrun *r, tn_jloop *l, tn_jval *out, bool *more);
bool tn_jloop_attr(tn_jrun *r, tn_jval loop, tn_jval name, tn_jval *out); /* MISSING: none */
bool tn_jloop_length(tn_jrun *r, tn_jloop *l, int64_t *out);

#endif

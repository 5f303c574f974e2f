/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_filters.h - the filters, table by table, and what several of them need.
 *
 * Each table is sorted by name; tn_jfilter_find (jinja_filters.c) looks through all. */
#ifndef TN_JINJA_FILTERS_H
#define TN_JINJA_FILTERS_H

#include "jinja_call.h"
#include "jinja_strings.h"

extern const tn_jbuiltin tn_jfilter_value[], tn_jfilter_text[], tn_jfilter_seq[], tn_jfilter_lazy[],
    tn_jfilter_layout[];
extern const size_t tn_jfilter_value_count, tn_jfilter_text_count, tn_jfilter_seq_count,
    tn_jfilter_lazy_count, tn_jfilter_layout_count;

/* `attribute=` of map, sort and their like: "a.b.0", a number, or nothing. */
typedef struct tn_jpath {
    const tn_jval *part;
    uint32_t n;
    tn_jval fallback;     /* for what is undefined; MISSING or NONE: nothing */
    bool fold;            /* text is lowered, for comparing */
} tn_jpath;

bool tn_jpath_open(tn_jrun *r, tn_jval attribute, tn_jpath *out);
bool tn_jpath_get(tn_jrun *r, const tn_jpath *p, tn_jval item, tn_jval *out);

static inline tn_jval tn_jarg_or_none(tn_jval v)
{
    return v.type == TN_J_MISSING ? tn_jnone() : v;
}

static inline bool tn_jarg_flag(tn_jval v)
{
    return v.type != TN_J_MISSING && tn_jval_truth(v);
}

/* jinja_pprint.c */
bool tn_jval_pprint(tn_jrun *r, tn_jval v, tn_jval *out);

#endif

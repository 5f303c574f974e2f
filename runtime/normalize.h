/* SPDX-License-Identifier: Apache-2.0 */
/* normalize.h - rewrites a text before it is cut: normal forms, replacements, prefixes. */
#ifndef TN_NORMALIZE_H
#define TN_NORMALIZE_H

#include "buf.h"
#include "normalform.h"
#include "pattern.h"

#define TN_NORMALIZE_STEPS_MAX 32u

typedef struct tn_normalizer {
    struct tn_normalize_step *step; /* owned */
    uint32_t n;
} tn_normalizer;

/* A text with, where asked for, the place every byte came from. */
typedef struct tn_normalize_side {
    tn_buf text;
    uint32_t *origin;   /* owned, [origin_cap] */
    size_t origin_cap;
} tn_normalize_side;

typedef struct tn_normalize_work {
    tn_normalize_side side[2];
    tn_normalform_work form;
    tn_regex_work **regex;       /* owned, one a step */
    uint32_t nregex;
    size_t work_size;            /* bytes of the whole request */
    /* the result; borrowed from here or from the caller's text, until the next run */
    const uint8_t *text;
    size_t size;
    const uint32_t *origin;      /* [size], NULL: nothing moved, or it was not asked for */
} tn_normalize_work;

/* `spec` NULL or null: no normalizer. `what` names the place in messages. TN_DATA. */
tn_status tn_normalizer_open(tn_normalizer *n, const tn_json *spec, const uint8_t *kinds,
                             const char *what, tn_err *err);
void tn_normalizer_close(tn_normalizer *n);

bool tn_normalize_work_open(tn_normalize_work *w, const tn_normalizer *n, size_t work_size);
void tn_normalize_work_close(tn_normalize_work *w);

/* Valid UTF-8 in, valid UTF-8 out, below 2^32 bytes. TN_REFUSED, TN_NO_MEMORY. */
tn_status tn_normalize_run(const tn_normalizer *n, tn_normalize_work *w, const uint8_t *text,
                           size_t size, bool want_origin, tn_err *err);

#endif

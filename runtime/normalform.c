/* SPDX-License-Identifier: Apache-2.0 */
/* normalform.c - the four normal forms of Unicode, as of version 9.0. */
#include "normalform.h"

#include "unicode.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define PARTS_MAX 32 /* the longest compatibility decomposition has 18 characters */

/* Hangul syllables compose and decompose by arithmetic (chapter 3.12 of the standard). */
#define L_BASE 0x1100u
#define V_BASE 0x1161u
#define T_BASE 0x11a7u
#define S_BASE 0xac00u
#define L_COUNT 19u
#define V_COUNT 21u
#define T_COUNT 28u
#define S_COUNT (L_COUNT * V_COUNT * T_COUNT)

typedef struct tn_compose {
    uint32_t first, second, result; /* result 0: free */
} compose;

static uint32_t pair_slot(const tn_normalform *f, uint32_t first, uint32_t second)
{
    return (first * 0x9e3779b1u ^ second * 0x85ebca6bu) >> 7 & f->pair_mask;
}

static uint32_t composed(const tn_normalform *f, uint32_t first, uint32_t second)
{
    if (first - L_BASE < L_COUNT && second - V_BASE < V_COUNT)
        return S_BASE + ((first - L_BASE) * V_COUNT + second - V_BASE) * T_COUNT;
    if (first - S_BASE < S_COUNT && (first - S_BASE) % T_COUNT == 0 &&
        second - T_BASE - 1 < T_COUNT - 1)
        return first + (second - T_BASE);
    uint32_t at = pair_slot(f, first, second);
    for (; f->pair[at].result != 0; at = (at + 1) & f->pair_mask)
        if (f->pair[at].first == first && f->pair[at].second == second)
            return f->pair[at].result;
    return 0;
}

static size_t decompose(uint32_t cp, bool compat, int32_t out[PARTS_MAX])
{
    int last = 0;
    utf8proc_option_t how = UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0);
    utf8proc_ssize_t n = utf8proc_decompose_char((int32_t)cp, out, PARTS_MAX, how, &last);
    if (n < 1 || n > PARTS_MAX) {
        out[0] = (int32_t)cp;
        return 1;
    }
    return (size_t)n;
}

/* A full decomposition of n parts is its first n - 1, composed, and the last. Those are found
 * once all shorter decompositions are in. */
static void put_compositions(tn_normalform *f, size_t nparts)
{
    for (uint32_t i = 0; i < tn_unicode_form_count; i++) {
        uint32_t bits = tn_unicode_form[i] & 0x7ff, from = tn_unicode_form[i] >> 11;
        if ((bits & TN_UF_NFD) == 0 || (bits & (TN_UF_SPLIT | TN_UF_ORDERED)) != 0)
            continue;
        uint32_t to = i + 1 < tn_unicode_form_count ? tn_unicode_form[i + 1] >> 11
                                                    : TN_UNICODE_END;
        for (uint32_t cp = from; cp < to; cp++) {
            int32_t part[PARTS_MAX];
            if (cp - S_BASE < S_COUNT || decompose(cp, false, part) != nparts)
                continue;
            uint32_t first = (uint32_t)part[0];
            for (size_t k = 1; k + 1 < nparts && first != 0; k++)
                first = composed(f, first, (uint32_t)part[k]);
            if (first == 0)
                continue;
            uint32_t at = pair_slot(f, first, (uint32_t)part[nparts - 1]);
            while (f->pair[at].result != 0)
                at = (at + 1) & f->pair_mask;
            f->pair[at] = (compose){first, (uint32_t)part[nparts - 1], cp};
        }
    }
}

bool tn_normalform_open(tn_normalform *f, bool compat, bool compose_too)
{
    *f = (tn_normalform){.compat = compat, .compose = compose_too, .pair_mask = 4095};
    f->unsafe = calloc(TN_UNICODE_END / 8, 1);
    f->pair = calloc(f->pair_mask + 1, sizeof *f->pair);
    if (f->unsafe == NULL || f->pair == NULL) {
        tn_normalform_close(f);
        return false;
    }
    uint32_t bit = compat ? (compose_too ? TN_UF_NFKC : TN_UF_NFKD)
                          : (compose_too ? TN_UF_NFC : TN_UF_NFD);
    for (uint32_t i = 0; i < tn_unicode_form_count; i++) {
        uint32_t to = i + 1 < tn_unicode_form_count ? tn_unicode_form[i + 1] >> 11
                                                    : TN_UNICODE_END;
        for (uint32_t cp = tn_unicode_form[i] >> 11; tn_unicode_form[i] & bit && cp < to; cp++)
            f->unsafe[cp >> 3] |= (uint8_t)(1u << (cp & 7));
    }
    for (size_t nparts = 2; compose_too && nparts <= 4; nparts++)
        put_compositions(f, nparts);
    return true;
}

void tn_normalform_close(tn_normalform *f)
{
    free(f->unsafe);
    free(f->pair);
    *f = (tn_normalform){0};
}

void tn_normalform_work_close(tn_normalform_work *w)
{
    free(w->cp);
    free(w->spare);
    free(w->order);
    *w = (tn_normalform_work){0};
}

static inline bool is_unsafe(const tn_normalform *f, uint32_t cp)
{
    return f->unsafe[cp >> 3] >> (cp & 7) & 1;
}

size_t tn_normalform_span(const tn_normalform *f, const uint8_t *text, size_t size)
{
    const uint8_t *p = text, *end = text + size, *last = text;
    while (p < end) {
        uint64_t word;
        while (end - p >= 8 && (memcpy(&word, p, 8), (word & 0x8080808080808080u) == 0)) {
            p += 8;
            last = p - 1;
        }
        if (p == end)
            break;
        const uint8_t *at = p;
        if (is_unsafe(f, tn_utf8_next(&p)))
            return (size_t)(last - text);
        last = at;
    }
    return size;
}

static bool reserve(tn_normalform_work *w, size_t more)
{
    if (w->cap - w->n >= more)
        return true;
    size_t cap = w->cap * 2 + more + 64;
    uint32_t *cp = realloc(w->cp, cap * sizeof *cp);
    if (cp == NULL)
        return false;
    w->cp = cp;
    uint32_t *spare = realloc(w->spare, cap * sizeof *spare);
    if (spare == NULL)
        return false;
    w->spare = spare;
    uint8_t *order = realloc(w->order, cap);
    if (order == NULL)
        return false;
    w->order = order;
    w->cap = cap;
    return true;
}

static uint8_t order_of(uint32_t cp)
{
    if (cp < 0x300 || (tn_uc_form(cp) & TN_UF_ORDERED) == 0)
        return 0;
    return (uint8_t)utf8proc_get_property((int32_t)cp)->combining_class;
}

/* Puts marks from..to in the order of their classes, equal ones as they were: short runs by
 * insertion, long ones by counting. */
static void order_run(tn_normalform_work *w, size_t from, size_t to)
{
    if (to - from < 16) {
        for (size_t i = from + 1; i < to; i++) {
            uint32_t cp = w->cp[i];
            uint8_t order = w->order[i];
            size_t k = i;
            for (; k > from && w->order[k - 1] > order; k--) {
                w->cp[k] = w->cp[k - 1];
                w->order[k] = w->order[k - 1];
            }
            w->cp[k] = cp;
            w->order[k] = order;
        }
        return;
    }
    size_t at[257] = {0};
    for (size_t i = from; i < to; i++)
        at[w->order[i] + 1]++;
    for (size_t c = 0; c < 256; c++)
        at[c + 1] += at[c];
    for (size_t i = from; i < to; i++)
        w->spare[from + at[w->order[i]]++] = w->cp[i];
    memcpy(w->cp + from, w->spare + from, (to - from) * sizeof *w->cp);
    for (size_t i = from; i < to; i++)
        w->order[i] = order_of(w->cp[i]);
}

static void order_marks(tn_normalform_work *w)
{
    for (size_t i = 0; i < w->n;) {
        size_t from = i++;
        if (w->order[from] == 0)
            continue;
        while (i < w->n && w->order[i] != 0)
            i++;
        order_run(w, from, i);
    }
}

/* Each character joins the last starter unless one of its own class, or a starter, stands
 * between. */
static void compose_all(const tn_normalform *f, tn_normalform_work *w)
{
    size_t out = 0, starter = SIZE_MAX;
    uint8_t between = 0; /* class of what was kept last behind the starter */
    bool adjacent = true;
    for (size_t i = 0; i < w->n; i++) {
        uint32_t cp = w->cp[i];
        uint8_t order = w->order[i];
        if (starter != SIZE_MAX && (adjacent || (between != 0 && between < order))) {
            uint32_t joined = composed(f, w->cp[starter], cp);
            if (joined != 0) {
                w->cp[starter] = joined;
                continue;
            }
        }
        if (order == 0) {
            starter = out;
            adjacent = true;
            between = 0;
        } else {
            adjacent = false;
            between = order;
        }
        w->cp[out] = cp;
        w->order[out++] = order;
    }
    w->n = out;
}

static bool put(const tn_normalform *f, tn_normalform_work *w, uint32_t cp)
{
    int32_t part[PARTS_MAX];
    if (!reserve(w, PARTS_MAX))
        return false;
    size_t n = 1;
    part[0] = (int32_t)cp;
    if (is_unsafe(f, cp))
        n = decompose(cp, f->compat, part);
    else if (f->compose && tn_uc_form(cp) & TN_UF_NFD)
        n = decompose(cp, false, part); /* a composed letter that marks follow */
    for (size_t i = 0; i < n; i++) {
        w->cp[w->n] = (uint32_t)part[i];
        w->order[w->n++] = order_of((uint32_t)part[i]);
    }
    return true;
}

size_t tn_normalform_stretch(const tn_normalform *f, const uint8_t *text, size_t size,
                             tn_normalform_work *w)
{
    const uint8_t *p = text, *end = text + size;
    w->n = 0;
    if (!put(f, w, tn_utf8_next(&p)))
        return 0;
    while (p < end) {
        const uint8_t *at = p;
        uint32_t cp = tn_utf8_next(&p);
        if (!is_unsafe(f, cp)) {
            p = at;
            break;
        }
        if (!put(f, w, cp))
            return 0;
    }
    order_marks(w);
    if (f->compose)
        compose_all(f, w);
    return (size_t)(p - text);
}

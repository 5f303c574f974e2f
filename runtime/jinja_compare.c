/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_compare.c - equality, order, hashes and membership of values, as Python has them. */
#include "jinja_value.h"

#include "jinja_iter.h"

#include <math.h>
#include <string.h>

/* ------------------------------------------------------------------------------- numbers */

/* Compares exactly, also where a double cannot hold the integer. 2: not comparable (NaN). */
static int compare_int_float(int64_t i, double f)
{
    if (isnan(f))
        return 2;
    if (f >= 9223372036854775808.0)
        return -1;
    if (f < -9223372036854775808.0)
        return 1;
    int64_t whole = (int64_t)f;
    if (i != whole)
        return i < whole ? -1 : 1;
    double rest = f - (double)whole;
    return rest > 0 ? -1 : rest < 0 ? 1 : 0;
}

static int compare_numbers(tn_jval a, tn_jval b)
{
    if (tn_jval_is_int(a) && tn_jval_is_int(b)) {
        int64_t x = tn_jval_int(a), y = tn_jval_int(b);
        return x < y ? -1 : x > y;
    }
    if (tn_jval_is_int(a))
        return compare_int_float(tn_jval_int(a), b.as.f);
    if (tn_jval_is_int(b)) {
        int c = compare_int_float(tn_jval_int(b), a.as.f);
        return c == 2 ? 2 : -c;
    }
    return isnan(a.as.f) || isnan(b.as.f) ? 2 : a.as.f < b.as.f ? -1 : a.as.f > b.as.f;
}

/* UTF-8 sorts by bytes as its code points do. */
static int compare_texts(const tn_jstr *a, const tn_jstr *b)
{
    uint32_t n = a->size < b->size ? a->size : b->size;
    int c = n > 0 ? memcmp(a->p, b->p, n) : 0;
    if (c != 0)
        return c < 0 ? -1 : 1; /* 2 would mean that they cannot be compared */
    return a->size < b->size ? -1 : a->size > b->size;
}

/* ------------------------------------------------------------------------------ equality */

static bool lists_equal(tn_jrun *r, const tn_jlist *a, const tn_jlist *b, bool *out)
{
    *out = a->n == b->n;
    for (uint32_t i = 0; i < a->n && *out; i++)
        if (!tn_jval_same(a->at[i], b->at[i]))
            TN_TRY(tn_jval_equal(r, a->at[i], b->at[i], out));
    return true;
}

static bool dicts_equal(tn_jrun *r, const tn_jdict *a, const tn_jdict *b, bool *out)
{
    *out = a->n == b->n;
    for (uint32_t i = 0; i < a->n && *out; i++) {
        tn_jval other;
        TN_TRY(tn_jdict_get(r, b, a->at[i].key, &other));
        *out = other.type != TN_J_MISSING;
        if (*out && !tn_jval_same(a->at[i].val, other))
            TN_TRY(tn_jval_equal(r, a->at[i].val, other, out));
    }
    return true;
}

static bool ranges_equal(const tn_jrange *a, const tn_jrange *b)
{
    if (a->n != b->n || a->n == 0)
        return a->n == b->n;
    return a->start == b->start && (a->n == 1 || a->step == b->step);
}

bool tn_jval_same(tn_jval a, tn_jval b)
{
    if (a.type != b.type)
        return false;
    switch (a.type) {
    case TN_J_MISSING:
    case TN_J_NONE: return true;
    case TN_J_BOOL: return a.as.b == b.as.b;
    case TN_J_INT: return a.as.i == b.as.i;
    case TN_J_FLOAT: return false;
    case TN_J_STR:
        return a.as.s == b.as.s || (a.as.s->p == b.as.s->p && a.as.s->size == b.as.s->size);
    default: return a.as.any == b.as.any;
    }
}

static bool containers_equal(tn_jrun *r, tn_jval a, tn_jval b, bool *out)
{
    switch (a.type) {
    case TN_J_LIST:
    case TN_J_TUPLE: return lists_equal(r, a.as.l, b.as.l, out);
    case TN_J_DICT: return dicts_equal(r, a.as.d, b.as.d, out);
    default: *out = ranges_equal(a.as.r, b.as.r); return true;
    }
}

bool tn_jval_equal(tn_jrun *r, tn_jval a, tn_jval b, bool *out)
{
    *out = false;
    if (tn_jval_is_number(a) && tn_jval_is_number(b)) {
        *out = compare_numbers(a, b) == 0;
        return true;
    }
    if (a.type != b.type)
        return true;
    switch (a.type) {
    case TN_J_UNDEF:
    case TN_J_NONE: *out = true; return true;
    case TN_J_STR:
        *out = tn_jstr_same(a.as.s, b.as.s->p, b.as.s->size);
        return tn_jrun_burn_bytes(r, *out ? a.as.s->size : 0);
    case TN_J_LIST:
    case TN_J_TUPLE:
    case TN_J_DICT:
    case TN_J_RANGE: {
        TN_TRY(tn_jrun_enter(r) && tn_jrun_burn(r, TN_JSTEP_NODE));
        bool ok = containers_equal(r, a, b, out);
        tn_jrun_leave(r);
        return ok;
    }
    case TN_J_VIEW: /* views of keys and items compare as sets; those of values never equal */
        if (a.as.v->kind != b.as.v->kind || a.as.v->kind == TN_JVIEW_VALUES) {
            *out = a.as.any == b.as.any;
            return true;
        }
        return dicts_equal(r, a.as.v->d, b.as.v->d, out);
    case TN_J_METHOD:
        *out = a.as.bound->fn == b.as.bound->fn && tn_jval_same(a.as.bound->self, b.as.bound->self);
        return true;
    default: *out = a.as.any == b.as.any; return true;
    }
}

/* --------------------------------------------------------------------------------- order */

static bool no_order(tn_jrun *r, const char *op, tn_jval a, tn_jval b)
{
    if (a.type == TN_J_UNDEF || b.type == TN_J_UNDEF)
        return tn_jundef_fail(r, a.type == TN_J_UNDEF ? a : b);
    return tn_jrun_fail(r, "'%s' not supported between instances of '%s' and '%s'", op,
                        tn_jval_kind(a), tn_jval_kind(b));
}

static bool decide(const char *op, int c)
{
    if (c == 2)
        return false;
    return op[0] == '<' ? c < 0 || (op[1] == '=' && c == 0)
                        : c > 0 || (op[1] == '=' && c == 0);
}

static bool order_lists(tn_jrun *r, const char *op, const tn_jlist *a, const tn_jlist *b,
                        bool *out)
{
    uint32_t n = a->n < b->n ? a->n : b->n;
    for (uint32_t i = 0; i < n; i++) {
        bool equal = tn_jval_same(a->at[i], b->at[i]);
        if (!equal)
            TN_TRY(tn_jval_equal(r, a->at[i], b->at[i], &equal));
        if (!equal)
            return tn_jval_order(r, op, a->at[i], b->at[i], out);
    }
    *out = decide(op, a->n < b->n ? -1 : a->n > b->n);
    return true;
}

bool tn_jval_order(tn_jrun *r, const char *op, tn_jval a, tn_jval b, bool *out)
{
    TN_TRY(tn_jrun_burn(r, TN_JSTEP_NODE));
    if (tn_jval_is_number(a) && tn_jval_is_number(b)) {
        *out = decide(op, compare_numbers(a, b));
        return true;
    }
    if (a.type != b.type)
        return no_order(r, op, a, b);
    if (a.type == TN_J_STR) {
        uint32_t n = a.as.s->size < b.as.s->size ? a.as.s->size : b.as.s->size;
        *out = decide(op, compare_texts(a.as.s, b.as.s));
        return tn_jrun_burn_bytes(r, n);
    }
    if (!tn_jval_is_seq(a))
        return no_order(r, op, a, b);
    TN_TRY(tn_jrun_enter(r));
    bool ok = order_lists(r, op, a.as.l, b.as.l, out);
    tn_jrun_leave(r);
    return ok;
}

bool tn_jval_less(tn_jrun *r, tn_jval a, tn_jval b, bool *out)
{
    return tn_jval_order(r, "<", a, b, out);
}

/* Merges item[from, mid) and item[mid, to) through the spare arrays. `reverse` sorts downwards
 * and keeps equal items in their order all the same. */
typedef struct sorter {
    tn_jrun *r;
    tn_jval *item, *key, *spare_item, *spare_key;
    bool reverse;
} sorter;

static bool merge(sorter *s, uint32_t from, uint32_t mid, uint32_t to)
{
    uint32_t i = from, j = mid, k = from;
    while (i < mid && j < to) {
        bool second;
        if (s->reverse)
            TN_TRY(tn_jval_less(s->r, s->key[i], s->key[j], &second));
        else
            TN_TRY(tn_jval_less(s->r, s->key[j], s->key[i], &second));
        uint32_t *at = second ? &j : &i;
        s->spare_item[k] = s->item[*at];
        s->spare_key[k++] = s->key[(*at)++];
    }
    for (; i < mid; i++, k++) {
        s->spare_item[k] = s->item[i];
        s->spare_key[k] = s->key[i];
    }
    for (; j < to; j++, k++) {
        s->spare_item[k] = s->item[j];
        s->spare_key[k] = s->key[j];
    }
    memcpy(s->item + from, s->spare_item + from, (to - from) * sizeof *s->item);
    memcpy(s->key + from, s->spare_key + from, (to - from) * sizeof *s->key);
    return true;
}

bool tn_jval_sort(tn_jrun *r, tn_jval *items, tn_jval *keys, uint32_t n, bool reverse)
{
    if (n < 2)
        return true;
    sorter s = {.r = r, .item = items, .key = keys, .reverse = reverse};
    s.spare_item = tn_jrun_array(r, n, sizeof *items);
    s.spare_key = s.spare_item != NULL ? tn_jrun_array(r, n, sizeof *keys) : NULL;
    if (s.spare_key == NULL)
        return false;
    for (uint64_t width = 1; width < n; width *= 2)
        for (uint64_t from = 0; from + width < n; from += width * 2) {
            uint64_t to = from + width * 2 < n ? from + width * 2 : n;
            TN_TRY(merge(&s, (uint32_t)from, (uint32_t)(from + width), (uint32_t)to));
        }
    return true;
}

/* -------------------------------------------------------------------------------- hashes */

static uint64_t mix(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)(a ^ 0x9e3779b97f4a7c15u) * (b | 1);
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Seeded, so that nobody can choose keys that collide. */
static uint64_t hash_bytes(uint64_t seed, const char *p, size_t size)
{
    uint64_t h = mix(seed, size + 0x165667b19e3779f9u), word;
    for (; size >= 8; p += 8, size -= 8) {
        memcpy(&word, p, 8);
        h = mix(h ^ word, seed + 0xd6e8feb86659fd93u);
    }
    word = 0;
    memcpy(&word, p, size);
    return mix(h ^ word, seed + 0xa0761d6478bd642fu);
}

static uint64_t hash_number(uint64_t seed, tn_jval v)
{
    double f = v.type == TN_J_FLOAT ? v.as.f : 0;
    int64_t i = v.type == TN_J_FLOAT ? 0 : tn_jval_int(v);
    if (v.type == TN_J_FLOAT && f >= -9223372036854775808.0 && f < 9223372036854775808.0
        && f == floor(f)) {
        i = (int64_t)f; /* 1, 1.0 and true are one key */
        f = 0;
    }
    uint64_t bits = 0;
    memcpy(&bits, &f, sizeof bits);
    return hash_bytes(seed, (const char *)&i, sizeof i) ^ (f != 0 ? mix(seed, bits) : 0);
}

bool tn_jval_hash(tn_jrun *r, tn_jval v, uint64_t *out)
{
    uint64_t part;
    switch (v.type) {
    case TN_J_STR:
        *out = hash_bytes(r->seed, v.as.s->p, v.as.s->size);
        return tn_jrun_burn_bytes(r, v.as.s->size);
    case TN_J_BOOL:
    case TN_J_INT: *out = hash_number(r->seed, v); return true;
    case TN_J_FLOAT:
        *out = isfinite(v.as.f) ? hash_number(r->seed, v) : r->seed;
        return true;
    case TN_J_NONE:
    case TN_J_UNDEF: *out = mix(r->seed, v.type); return true;
    case TN_J_TUPLE:
        TN_TRY(tn_jrun_enter(r));
        *out = mix(r->seed, v.as.l->n);
        for (uint32_t i = 0; i < v.as.l->n; i++) {
            if (!tn_jval_hash(r, v.as.l->at[i], &part)) {
                tn_jrun_leave(r);
                return false;
            }
            *out = mix(*out ^ part, r->seed);
        }
        tn_jrun_leave(r);
        return tn_jrun_burn(r, v.as.l->n);
    case TN_J_LIST:
    case TN_J_DICT:
    case TN_J_VIEW: return tn_jrun_fail(r, "unhashable type: '%s'", tn_jval_kind(v));
    default: *out = mix(r->seed, (uint64_t)(uintptr_t)v.as.any); return true;
    }
}

/* ---------------------------------------------------------------------------- membership */

static bool text_contains(tn_jrun *r, tn_jval where, tn_jval what, bool *out)
{
    if (what.type != TN_J_STR)
        return tn_jrun_fail(r, "'in <string>' requires string as left operand, not %s",
                            tn_jval_kind(what));
    *out = tn_jutf_find(where.as.s->p, where.as.s->size, what.as.s->p, what.as.s->size) != NULL;
    return tn_jrun_burn_bytes(r, (size_t)where.as.s->size + what.as.s->size);
}

static bool any_equals(tn_jrun *r, tn_jval where, tn_jval what, bool *out)
{
    tn_jcursor c;
    tn_jval v;
    bool more;
    *out = false;
    TN_TRY(tn_jcursor_open(r, &c, where));
    for (;;) {
        TN_TRY(tn_jcursor_next(r, &c, &v, &more));
        if (!more)
            return true;
        *out = tn_jval_same(v, what);
        if (!*out)
            TN_TRY(tn_jval_equal(r, v, what, out));
        if (*out)
            return true;
    }
}

bool tn_jval_contains(tn_jrun *r, tn_jval where, tn_jval what, bool *out)
{
    tn_jval found;
    switch (where.type) {
    case TN_J_STR: return text_contains(r, where, what, out);
    case TN_J_DICT:
        TN_TRY(tn_jdict_get(r, where.as.d, what, &found));
        *out = found.type != TN_J_MISSING;
        return true;
    case TN_J_VIEW:
        if (where.as.v->kind == TN_JVIEW_KEYS) {
            TN_TRY(tn_jdict_get(r, where.as.v->d, what, &found));
            *out = found.type != TN_J_MISSING;
            return true;
        }
        return any_equals(r, where, what, out);
    case TN_J_RANGE:
        if (tn_jval_is_int(what)) {
            int64_t v = tn_jval_int(what), first = where.as.r->start, n = where.as.r->n;
            __int128 off = (__int128)v - first;
            *out = n > 0 && off % where.as.r->step == 0 && off / where.as.r->step >= 0
                   && off / where.as.r->step < n;
            return true;
        }
        return any_equals(r, where, what, out);
    case TN_J_UNDEF:
    case TN_J_LIST:
    case TN_J_TUPLE:
    case TN_J_ITER:
    case TN_J_LOOP: return any_equals(r, where, what, out);
    default:
        return tn_jrun_fail(r, "argument of type '%s' is not iterable", tn_jval_kind(where));
    }
}

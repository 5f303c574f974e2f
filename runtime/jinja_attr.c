/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_attr.c - obj.name, obj[key] and obj[a:b:c], as the immutable sandbox allows them.
 *
 * obj.name asks for an attribute (a method, mostly) and then for an item; obj[key] the other
 * way round. What is there but would change its object, or begins with an underscore, reads
 * as an undefined that names the reason; so {{ x.__class__ }} prints nothing. */
#include "jinja_call.h"
#include "jinja_exec.h"
#include "jinja_iter.h"
#include "jinja_methods.h"

#include <string.h>

static bool bind_method(tn_jrun *r, tn_jval obj, const tn_jbuiltin *fn, tn_jval *out)
{
    tn_jmethod *m = tn_jrun_take(r, sizeof *m);
    if (m == NULL)
        return false;
    *m = (tn_jmethod){.self = obj, .fn = fn};
    *out = (tn_jval){.type = TN_J_METHOD, .as.bound = m};
    return true;
}

static bool one_of(tn_jval name, const char *const *list)
{
    for (; *list != NULL; list++)
        if (tn_jstr_is(name, *list))
            return true;
    return false;
}

/* What every object answers to in Python, and templates may not have. */
static bool is_dunder(tn_jval name)
{
    static const char *const names[] = {
        "__class__", "__delattr__", "__dict__", "__dir__", "__doc__", "__eq__", "__format__",
        "__ge__", "__getattribute__", "__getstate__", "__gt__", "__hash__", "__init__",
        "__init_subclass__", "__le__", "__lt__", "__module__", "__ne__", "__new__", "__reduce__",
        "__reduce_ex__", "__repr__", "__setattr__", "__sizeof__", "__str__", "__subclasshook__",
        NULL,
    };
    return one_of(name, names);
}

static bool changes_its_object(tn_jval obj, tn_jval name)
{
    static const char *const dict[] = {"clear", "pop", "popitem", "setdefault", "update", NULL};
    static const char *const list[] = {"append", "clear", "extend", "insert", "pop", "remove",
                                       "reverse", "sort", NULL};
    return (obj.type == TN_J_DICT && one_of(name, dict))
           || (obj.type == TN_J_LIST && one_of(name, list));
}

static bool space_attr(tn_jrun *r, tn_jval obj, tn_jval name, tn_jval *out)
{
    const tn_jval *v = tn_jdict_find(r, obj.as.d, name);
    if (r->failed || v == NULL)
        return !r->failed;
    if (name.as.s->size > 0 && name.as.s->p[0] == '_')
        return tn_jundef_unsafe(r, obj, name, out);
    *out = *v;
    return true;
}

/* MISSING when the object has no such attribute. */
static bool attribute(tn_jrun *r, tn_jval obj, tn_jval name, tn_jval *out)
{
    const char *p = name.as.s->p;
    const tn_jbuiltin *fn = NULL;
    *out = (tn_jval){.type = TN_J_MISSING};
    if (obj.type == TN_J_SPACE)
        return space_attr(r, obj, name, out);
    if (name.as.s->size > 2 && p[0] == '_' && p[1] == '_' && is_dunder(name))
        return tn_jundef_unsafe(r, obj, name, out);
    if (changes_its_object(obj, name))
        return tn_jundef_unsafe(r, obj, name, out);
    switch (obj.type) {
    case TN_J_STR: fn = tn_jstr_method(p, name.as.s->size); break;
    case TN_J_LOOP: return tn_jloop_attr(r, obj, name, out);
    case TN_J_MACRO: return tn_jmacro_attr(r, obj.as.m, name, out);
    default:
        fn = tn_jmethod_find(obj, p, name.as.s->size);
        if (fn == NULL)
            return tn_jval_field(r, obj, name, out);
    }
    return fn == NULL || bind_method(r, obj, fn, out);
}

/* ---------------------------------------------------------------------------------- items */

static bool str_item(tn_jrun *r, tn_jval s, int64_t i, tn_jval *out)
{
    const tn_jstr *t = s.as.s;
    if (i < 0)
        i += t->chars;
    if (i < 0 || i >= t->chars)
        return true;
    if (tn_jstr_ascii(t))
        return tn_jstr_part(r, s, (size_t)i, 1, out);
    TN_TRY(tn_jrun_burn_bytes(r, t->size));
    size_t off = tn_jutf_skip(t->p, t->size, (size_t)i);
    return tn_jstr_part(r, s, off, tn_jutf_skip(t->p + off, t->size - off, 1), out);
}

static bool hashable(tn_jval v)
{
    if (v.type == TN_J_TUPLE) {
        for (uint32_t i = 0; i < v.as.l->n; i++)
            if (!hashable(v.as.l->at[i]))
                return false;
        return true;
    }
    return v.type != TN_J_LIST && v.type != TN_J_DICT && v.type != TN_J_VIEW;
}

/* obj[key]; MISSING where Python would raise an error that jinja2 swallows. */
static bool item(tn_jrun *r, tn_jval obj, tn_jval key, tn_jval *out)
{
    *out = (tn_jval){.type = TN_J_MISSING};
    if (obj.type == TN_J_DICT)
        return !hashable(key) || tn_jdict_get(r, obj.as.d, key, out);
    if (!tn_jval_is_int(key))
        return true;
    int64_t i = tn_jval_int(key), n = tn_jval_len(obj);
    if (obj.type == TN_J_STR)
        return str_item(r, obj, i, out);
    i += i < 0 ? n : 0;
    if (i < 0 || i >= n)
        return true;
    if (tn_jval_is_seq(obj))
        *out = obj.as.l->at[i];
    else if (obj.type == TN_J_RANGE)
        *out = tn_jint(tn_jrange_at(obj.as.r, i));
    return true;
}

bool tn_jval_getattr(tn_jrun *r, tn_jval obj, tn_jval name, tn_jval *out)
{
    if (obj.type == TN_J_UNDEF)
        return tn_jundef_fail(r, obj);
    TN_TRY(attribute(r, obj, name, out));
    if (out->type == TN_J_MISSING)
        TN_TRY(item(r, obj, name, out));
    return out->type != TN_J_MISSING || tn_jundef_of(r, obj, name, out);
}

bool tn_jval_getitem(tn_jrun *r, tn_jval obj, tn_jval key, tn_jval *out)
{
    if (obj.type == TN_J_UNDEF)
        return tn_jundef_fail(r, obj);
    TN_TRY(item(r, obj, key, out));
    if (out->type == TN_J_MISSING && key.type == TN_J_STR)
        TN_TRY(attribute(r, obj, key, out));
    return out->type != TN_J_MISSING || tn_jundef_of(r, obj, key, out);
}

/* --------------------------------------------------------------------------------- slices */

bool tn_jval_index(tn_jrun *r, tn_jval v, const char *what, int64_t *out)
{
    if (v.type == TN_J_UNDEF)
        return tn_jundef_fail(r, v);
    if (!tn_jval_is_int(v))
        return tn_jrun_fail(r, "%s must be an integer, not '%s'", what, tn_jval_kind(v));
    *out = tn_jval_int(v);
    return true;
}

static int64_t clamp(int64_t i, int64_t n, int64_t least, int64_t most)
{
    if (i < 0)
        i = i < -n ? least : i + n;
    return i < least ? least : i > most ? most : i;
}

typedef struct bounds {
    int64_t start, stop, step, count;
} bounds;

/* Where item i of a slice stands; only what lies behind the last can pass 64 bits. */
static int64_t place_of(const bounds *b, int64_t i)
{
    return b->start + i * b->step;
}

static bool bounds_of(tn_jrun *r, int64_t n, tn_jval start, tn_jval stop, tn_jval step, bounds *b)
{
    b->step = 1;
    if (step.type != TN_J_NONE)
        TN_TRY(tn_jval_index(r, step, "a slice's step", &b->step));
    if (b->step == 0)
        return tn_jrun_fail(r, "slice step cannot be zero");
    if (b->step == INT64_MIN)
        b->step++;
    int64_t least = b->step < 0 ? -1 : 0, most = b->step < 0 ? n - 1 : n;
    b->start = b->step < 0 ? n - 1 : 0;
    b->stop = b->step < 0 ? -1 : n;
    if (start.type != TN_J_NONE) {
        TN_TRY(tn_jval_index(r, start, "a slice's start", &b->start));
        b->start = clamp(b->start, n, least, most);
    }
    if (stop.type != TN_J_NONE) {
        TN_TRY(tn_jval_index(r, stop, "a slice's stop", &b->stop));
        b->stop = clamp(b->stop, n, least, most);
    }
    if (b->step > 0)
        b->count = b->stop > b->start ? (b->stop - b->start - 1) / b->step + 1 : 0;
    else
        b->count = b->start > b->stop ? (b->start - b->stop - 1) / -b->step + 1 : 0;
    return true;
}

static bool slice_ascii(tn_jrun *r, tn_jval s, const bounds *b, tn_jval *out)
{
    tn_jtext t;
    tn_jtext_open(&t, r, (size_t)b->count);
    for (int64_t i = 0; i < b->count; i++)
        tn_jtext_putc(&t, s.as.s->p[place_of(b, i)]);
    return tn_jrun_burn_bytes(r, (size_t)b->count * 8) && tn_jtext_close(&t, out);
}

/* Any step over text whose characters differ in size: their places are listed first. */
static bool slice_chars(tn_jrun *r, tn_jval s, const bounds *b, tn_jval *out)
{
    const tn_jstr *t = s.as.s;
    uint32_t *off = tn_jrun_array(r, (size_t)t->chars + 1, sizeof *off);
    if (off == NULL)
        return false;
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->size; i++)
        if (((unsigned char)t->p[i] & 0xc0) != 0x80)
            off[n++] = i;
    off[n] = t->size;
    tn_jtext made;
    tn_jtext_open(&made, r, 0);
    for (int64_t i = 0; i < b->count; i++) {
        int64_t at = place_of(b, i);
        tn_jtext_put(&made, t->p + off[at], off[at + 1] - off[at]);
    }
    return tn_jrun_burn_bytes(r, (size_t)t->size * 8) && tn_jtext_close(&made, out);
}

static bool slice_text(tn_jrun *r, tn_jval s, const bounds *b, tn_jval *out)
{
    const tn_jstr *t = s.as.s;
    bool ok = true;
    if (b->count == 0)
        ok = tn_jstr_part(r, s, 0, 0, out);
    else if (b->step == 1 && tn_jstr_ascii(t))
        ok = tn_jstr_part(r, s, (size_t)b->start, (size_t)b->count, out);
    else if (b->step == 1) {
        TN_TRY(tn_jrun_burn_bytes(r, t->size));
        size_t off = tn_jutf_skip(t->p, t->size, (size_t)b->start);
        ok = tn_jstr_part(r, s, off, tn_jutf_skip(t->p + off, t->size - off, (size_t)b->count),
                          out);
    } else {
        ok = tn_jstr_ascii(t) ? slice_ascii(r, s, b, out) : slice_chars(r, s, b, out);
    }
    out->safe = s.safe;
    return ok;
}

static bool slice_range(tn_jrun *r, const tn_jrange *from, const bounds *b, tn_jval *out)
{
    tn_jrange *s = tn_jrun_take(r, sizeof *s);
    if (s == NULL)
        return false;
    /* Only the bounds and the step of an empty or single slice can pass 64 bits; nobody reads
     * those, but no step may become 0. */
    uint64_t first = (uint64_t)from->start, step = (uint64_t)from->step;
    *s = (tn_jrange){.start = (int64_t)(first + (uint64_t)b->start * step),
                     .stop = (int64_t)(first + (uint64_t)b->stop * step),
                     .step = (int64_t)(step * (uint64_t)b->step),
                     .n = b->count};
    s->step += s->step == 0;
    *out = (tn_jval){.type = TN_J_RANGE, .as.r = s};
    return true;
}

bool tn_jval_slice(tn_jrun *r, tn_jval obj, tn_jval start, tn_jval stop, tn_jval step,
                   tn_jval *out)
{
    bounds b;
    if (obj.type == TN_J_UNDEF)
        return tn_jundef_fail(r, obj);
    if (obj.type == TN_J_DICT)
        return tn_jrun_fail(r, "unhashable type: 'slice'");
    if (obj.type != TN_J_STR && !tn_jval_is_seq(obj) && obj.type != TN_J_RANGE)
        return tn_jrun_fail(r, "'%s' object is not subscriptable", tn_jval_kind(obj));
    TN_TRY(bounds_of(r, tn_jval_len(obj), start, stop, step, &b));
    if (obj.type == TN_J_STR)
        return slice_text(r, obj, &b, out);
    if (obj.type == TN_J_RANGE)
        return slice_range(r, obj.as.r, &b, out);
    tn_jval *at = tn_jlist_new(r, (tn_jtype)obj.type, (uint32_t)b.count, out);
    if (at == NULL)
        return false;
    for (int64_t i = 0; i < b.count; i++)
        at[i] = obj.as.l->at[place_of(&b, i)];
    return tn_jrun_burn(r, (uint64_t)b.count);
}

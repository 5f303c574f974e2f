/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_value.c - texts, lists and dictionaries of a template, and the memory they take.
 *
 * Texts and lists that grow at their end (x ~ y, xs + [x]) share one room: the new value
 * continues behind the old one when nothing else did so first, so a loop that builds a text
 * or a list step by step costs what the result is long. */
#include "jinja_value.h"

#include "jinja_ast.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define ROOM_LEAST 64u
#define CHUNK_LEAST 1024u
#define CHUNK_MOST 262144u
#define INDEX_FROM 8u          /* pairs a dictionary has before it is indexed */
#define TEXT_MAX UINT32_MAX

struct tn_jroom {
    size_t used, cap;          /* bytes of a text, values of a list */
};

/* ------------------------------------------------------------------------- the render */

/* A message may quote user text: no control characters, no half characters where it was cut,
 * and none of the marks that only the render knows. */
static void make_message(char *text, uint32_t mark)
{
    char marked[4];
    size_t mark_size = mark != 0 ? tn_jutf_encode(mark, marked) : 0;
    size_t size = strlen(text), kept = 0;
    size = tn_jutf_bad(text, size);
    for (size_t i = 0; i < size;) {
        if (mark_size > 0 && size - i >= mark_size && memcmp(text + i, marked, mark_size) == 0) {
            i += mark_size;
            continue;
        }
        unsigned char c = (unsigned char)text[i++];
        text[kept++] = c < 0x20 || c == 0x7f ? ' ' : (char)c;
    }
    text[kept] = 0;
}

bool tn_jrun_fail(tn_jrun *r, const char *fmt, ...)
{
    if (r->failed)
        return false;
    r->failed = true;
    char text[800];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    make_message(text, r->mark);
    const char *what = r->t != NULL ? r->t->what : "template";
    if (r->at != NULL)
        tn_fail(r->err, TN_REFUSED, "%s:%u:%u: %s", what, r->at->line, r->at->column, text);
    else
        tn_fail(r->err, TN_REFUSED, "%s: %s", what, text);
    if (r->err != NULL)
        snprintf(r->err->code, sizeof r->err->code, "template_error");
    return false;
}

void *tn_jrun_take(tn_jrun *r, size_t size)
{
    void *p = tn_arena_take(&r->arena, size);
    if (p != NULL)
        return p;
    if (size <= TN_JINJA_MEMORY_MAX - r->arena.used) {
        r->no_memory = r->no_memory || !r->failed;
        tn_jrun_fail(r, "no memory for %zu bytes", size);
    } else {
        tn_jrun_fail(r, "the render needs more than its %zu MiB of memory",
                     TN_JINJA_MEMORY_MAX >> 20);
    }
    return NULL;
}

void *tn_jrun_array(tn_jrun *r, size_t count, size_t size)
{
    if (size != 0 && count > SIZE_MAX / size)
        return tn_jrun_take(r, SIZE_MAX);
    return tn_jrun_take(r, count * size);
}

bool tn_jrun_burn(tn_jrun *r, uint64_t sixteenths)
{
    if (sixteenths > r->fuel) {
        r->fuel = 0;
        return tn_jrun_fail(r, "the render takes more than %u steps", TN_JINJA_STEPS_MAX);
    }
    r->fuel -= sixteenths;
    return true;
}

bool tn_jrun_burn_bytes(tn_jrun *r, size_t bytes)
{
    return tn_jrun_burn(r, bytes / TN_JSTEP_BYTES);
}

bool tn_jrun_enter(tn_jrun *r)
{
    if (r->nest >= TN_JINJA_NEST_MAX)
        return tn_jrun_fail(r, "values are nested deeper than %u", TN_JINJA_NEST_MAX);
    r->nest++;
    return true;
}

void tn_jrun_leave(tn_jrun *r)
{
    r->nest--;
}

static tn_jchunk *chunk_for(tn_jrun *r, tn_jsink *s)
{
    if (s->last != NULL && s->last->used < s->last->cap)
        return s->last;
    uint32_t cap = s->last == NULL ? CHUNK_LEAST : s->last->cap * 2;
    if (cap > CHUNK_MOST)
        cap = CHUNK_MOST;
    tn_jchunk *c = tn_jrun_take(r, sizeof *c + cap);
    if (c == NULL)
        return NULL;
    c->cap = cap;
    if (s->last == NULL)
        s->first = c;
    else
        s->last->next = c;
    s->last = c;
    return c;
}

bool tn_jrun_print(tn_jrun *r, const char *p, size_t size)
{
    tn_jsink *s = r->sink;
    if (size > TN_JINJA_OUTPUT_MAX - s->size)
        return tn_jrun_fail(r, "the output is longer than %zu MiB", TN_JINJA_OUTPUT_MAX >> 20);
    TN_TRY(tn_jrun_burn_bytes(r, size));
    s->size += size;
    while (size > 0) {
        tn_jchunk *c = chunk_for(r, s);
        if (c == NULL)
            return false;
        size_t n = c->cap - c->used < size ? c->cap - c->used : size;
        memcpy(c->data + c->used, p, n);
        c->used += (uint32_t)n;
        p += n;
        size -= n;
    }
    return true;
}

void tn_jsink_push(tn_jrun *r, tn_jsink *s)
{
    *s = (tn_jsink){.outer = r->sink};
    r->sink = s;
}

void tn_jsink_drop(tn_jrun *r, const tn_jsink *s)
{
    r->sink = s->outer;
}

bool tn_jsink_text(tn_jrun *r, const tn_jsink *s, tn_jval *out)
{
    if (s->first == s->last)
        return tn_jstr_borrow(r, s->first != NULL ? s->first->data : "", s->size, out);
    char *p = tn_jrun_take(r, s->size);
    if (p == NULL)
        return false;
    size_t at = 0;
    for (const tn_jchunk *c = s->first; c != NULL; c = c->next) {
        memcpy(p + at, c->data, c->used);
        at += c->used;
    }
    return tn_jstr_borrow(r, p, s->size, out);
}

/* ------------------------------------------------------------------------------- texts */

static bool str_of(tn_jrun *r, const char *p, size_t size, size_t chars, tn_jroom *room,
                   tn_jval *out)
{
    tn_jstr *s = tn_jrun_take(r, sizeof *s);
    if (s == NULL)
        return false;
    *s = (tn_jstr){.p = p, .size = (uint32_t)size, .chars = (uint32_t)chars, .room = room};
    *out = (tn_jval){.type = TN_J_STR, .as.s = s};
    return true;
}

static bool size_fits(tn_jrun *r, size_t size)
{
    return size < TEXT_MAX || tn_jrun_fail(r, "a text of %zu bytes is too long", size);
}

bool tn_jstr_borrow(tn_jrun *r, const char *p, size_t size, tn_jval *out)
{
    TN_TRY(size_fits(r, size));
    TN_TRY(tn_jrun_burn_bytes(r, size));
    return str_of(r, p, size, tn_jutf_chars(p, size), NULL, out);
}

bool tn_jstr_counted(tn_jrun *r, const char *p, size_t size, size_t chars, tn_jval *out)
{
    return size_fits(r, size) && tn_jrun_burn_bytes(r, size)
           && str_of(r, p, size, chars, NULL, out);
}

bool tn_jstr_copy(tn_jrun *r, const char *p, size_t size, tn_jval *out)
{
    TN_TRY(size_fits(r, size));
    char *copy = tn_jrun_take(r, size);
    if (copy == NULL)
        return false;
    if (size > 0)
        memcpy(copy, p, size);
    return tn_jstr_borrow(r, copy, size, out);
}

bool tn_jstr_text(tn_jrun *r, const char *text, tn_jval *out)
{
    return tn_jstr_borrow(r, text, strlen(text), out);
}

bool tn_jstr_ascii(const tn_jstr *s)
{
    return s->size == s->chars;
}

bool tn_jstr_part(tn_jrun *r, tn_jval s, size_t off, size_t size, tn_jval *out)
{
    const tn_jstr *from = s.as.s;
    if (off == 0 && size == from->size) {
        *out = s;
        return true;
    }
    size_t chars = size;
    if (!tn_jstr_ascii(from)) {
        TN_TRY(tn_jrun_burn_bytes(r, size));
        chars = tn_jutf_chars(from->p + off, size);
    }
    /* An end that is still the room's end may go on growing. */
    TN_TRY(str_of(r, from->p + off, size, chars, off + size == from->size ? from->room : NULL,
                  out));
    out->safe = s.safe;
    return true;
}

/* Room for `more` behind `used` old units; past a mebibyte it grows by a quarter. */
static size_t room_for(size_t used, size_t more, size_t unit)
{
    size_t want = used + more;
    size_t spare = want * unit > ((size_t)1 << 20) ? want / 4 : want;
    return want + spare < ROOM_LEAST / unit ? ROOM_LEAST / unit : want + spare;
}

/* The room's memory follows its head, so what ends there is recognised by its address. */
static bool ends_room(const tn_jroom *room, const void *end, size_t unit)
{
    return room != NULL && (const char *)(room + 1) + room->used * unit == (const char *)end;
}

bool tn_jstr_concat(tn_jrun *r, tn_jval a, tn_jval b, tn_jval *out)
{
    const tn_jstr *x = a.as.s, *y = b.as.s;
    size_t size = (size_t)x->size + y->size, chars = (size_t)x->chars + y->chars;
    TN_TRY(size_fits(r, size));
    TN_TRY(tn_jrun_burn_bytes(r, y->size));
    tn_jroom *room = x->room;
    if (ends_room(room, x->p + x->size, 1) && room->cap - room->used >= y->size) {
        if (y->size > 0)
            memcpy((char *)(room + 1) + room->used, y->p, y->size);
        room->used += y->size;
        return str_of(r, x->p, size, chars, room, out);
    }
    size_t cap = room_for(x->size, y->size, 1);
    TN_TRY(tn_jrun_burn_bytes(r, x->size));
    room = tn_jrun_take(r, sizeof *room + cap);
    if (room == NULL)
        return false;
    *room = (tn_jroom){.used = size, .cap = cap};
    char *p = (char *)(room + 1);
    if (x->size > 0)
        memcpy(p, x->p, x->size);
    if (y->size > 0)
        memcpy(p + x->size, y->p, y->size);
    return str_of(r, p, size, chars, room, out);
}

bool tn_jstr_is(tn_jval v, const char *text)
{
    return v.type == TN_J_STR && tn_jstr_same(v.as.s, text, strlen(text));
}

bool tn_jstr_same(const tn_jstr *s, const char *p, size_t size)
{
    return s->size == size && (size == 0 || memcmp(s->p, p, size) == 0);
}

/* ---------------------------------------------------------------------- text being made */

void tn_jtext_open(tn_jtext *t, tn_jrun *r, size_t hint)
{
    *t = (tn_jtext){.r = r};
    if (hint > 0) {
        t->p = tn_jrun_take(r, hint);
        t->cap = t->p != NULL ? hint : 0;
        t->failed = t->p == NULL;
    }
}

static bool text_grow(tn_jtext *t, size_t more)
{
    if (t->failed)
        return false;
    if (t->cap - t->size >= more)
        return true;
    if (more > TEXT_MAX - t->size) {
        t->failed = true;
        return size_fits(t->r, SIZE_MAX);
    }
    size_t cap = room_for(t->size, more, 1);
    char *p = tn_jrun_take(t->r, cap);
    if (p == NULL) {
        t->failed = true;
        return false;
    }
    if (t->size > 0)
        memcpy(p, t->p, t->size);
    t->p = p;
    t->cap = cap;
    return true;
}

void tn_jtext_put(tn_jtext *t, const char *p, size_t size)
{
    if (size == 0 || !text_grow(t, size))
        return;
    memcpy(t->p + t->size, p, size);
    t->size += size;
}

void tn_jtext_puts(tn_jtext *t, const char *text)
{
    tn_jtext_put(t, text, strlen(text));
}

void tn_jtext_putc(tn_jtext *t, char c)
{
    tn_jtext_put(t, &c, 1);
}

void tn_jtext_put_cp(tn_jtext *t, uint32_t cp)
{
    char buf[4];
    tn_jtext_put(t, buf, tn_jutf_encode(cp, buf));
}

void tn_jtext_put_str(tn_jtext *t, tn_jval s)
{
    tn_jtext_put(t, s.as.s->p, s.as.s->size);
}

void tn_jtext_fill(tn_jtext *t, uint32_t cp, uint64_t count)
{
    char buf[4];
    size_t n = tn_jutf_encode(cp, buf);
    if (count > TEXT_MAX)
        count = TEXT_MAX; /* refused by text_grow all the same */
    if (count == 0 || !text_grow(t, (size_t)count * n))
        return;
    if (!tn_jrun_burn_bytes(t->r, (size_t)count * n)) {
        t->failed = true;
        return;
    }
    for (uint64_t i = 0; i < count; i++) {
        memcpy(t->p + t->size, buf, n);
        t->size += n;
    }
}

bool tn_jtext_close(tn_jtext *t, tn_jval *out)
{
    return !t->failed && tn_jstr_borrow(t->r, t->p != NULL ? t->p : "", t->size, out);
}

/* ------------------------------------------------------------------------------- lists */

static bool list_of(tn_jrun *r, tn_jtype type, const tn_jval *at, size_t n, tn_jroom *room,
                    tn_jval *out)
{
    tn_jlist *l = tn_jrun_take(r, sizeof *l);
    if (l == NULL)
        return false;
    *l = (tn_jlist){.at = at, .n = (uint32_t)n, .room = room};
    *out = (tn_jval){.type = (uint8_t)type, .as.l = l};
    return true;
}

tn_jval *tn_jlist_new(tn_jrun *r, tn_jtype type, uint32_t n, tn_jval *out)
{
    tn_jval *at = tn_jrun_array(r, n > 0 ? n : 1, sizeof *at);
    if (at == NULL || !list_of(r, type, at, n, NULL, out))
        return NULL;
    return at;
}

bool tn_jlist_concat(tn_jrun *r, tn_jval a, tn_jval b, tn_jval *out)
{
    const tn_jlist *x = a.as.l, *y = b.as.l;
    size_t n = (size_t)x->n + y->n;
    TN_TRY(tn_jrun_burn(r, y->n));
    tn_jroom *room = x->room;
    if (ends_room(room, x->at + x->n, sizeof *x->at) && room->cap - room->used >= y->n) {
        if (y->n > 0)
            memcpy((tn_jval *)(void *)(room + 1) + room->used, y->at, y->n * sizeof *y->at);
        room->used += y->n;
        return list_of(r, (tn_jtype)a.type, x->at, n, room, out);
    }
    TN_TRY(tn_jrun_burn(r, x->n));
    if (n > UINT32_MAX)
        return tn_jrun_fail(r, "a list of %zu values is too long", n);
    size_t cap = room_for(x->n, y->n, sizeof *x->at);
    room = tn_jrun_take(r, sizeof *room + cap * sizeof *x->at);
    if (room == NULL)
        return false;
    *room = (tn_jroom){.used = n, .cap = cap};
    tn_jval *at = (tn_jval *)(void *)(room + 1);
    if (x->n > 0)
        memcpy(at, x->at, x->n * sizeof *at);
    if (y->n > 0)
        memcpy(at + x->n, y->at, y->n * sizeof *at);
    return list_of(r, (tn_jtype)a.type, at, n, room, out);
}

bool tn_jpair_new(tn_jrun *r, tn_jval a, tn_jval b, tn_jval *out)
{
    tn_jval *at = tn_jlist_new(r, TN_J_TUPLE, 2, out);
    if (at == NULL)
        return false;
    at[0] = a;
    at[1] = b;
    return true;
}

void tn_jlist_open(tn_jlist_maker *m, tn_jrun *r)
{
    *m = (tn_jlist_maker){.r = r};
}

bool tn_jlist_add(tn_jlist_maker *m, tn_jval v)
{
    if (m->n == m->cap) {
        if (m->cap > UINT32_MAX / 4)
            return tn_jrun_fail(m->r, "a list of %u values is too long", m->cap);
        uint32_t cap = m->cap == 0 ? 8 : m->cap * 2;
        tn_jval *at = tn_jrun_array(m->r, cap, sizeof *at);
        if (at == NULL)
            return false;
        if (m->n > 0)
            memcpy(at, m->at, m->n * sizeof *at);
        m->at = at;
        m->cap = cap;
    }
    m->at[m->n++] = v;
    return true;
}

bool tn_jlist_close(tn_jlist_maker *m, tn_jtype type, tn_jval *out)
{
    return list_of(m->r, type, m->at, m->n, NULL, out);
}

/* ------------------------------------------------------------------------ dictionaries */

tn_jdict *tn_jdict_new(tn_jrun *r, uint32_t room)
{
    tn_jdict *d = tn_jrun_take(r, sizeof *d);
    if (d == NULL || room == 0)
        return d;
    d->at = tn_jrun_array(r, room, sizeof *d->at);
    if (d->at == NULL)
        return NULL;
    d->cap = room;
    return d;
}

static void index_put(tn_jdict *d, uint64_t hash, uint32_t pair)
{
    uint32_t mask = d->index_cap - 1;
    uint32_t i = (uint32_t)hash & mask;
    while (d->index[i] != 0)
        i = (i + 1) & mask;
    d->index[i] = pair + 1;
}

static bool index_make(tn_jrun *r, tn_jdict *d)
{
    uint32_t cap = 32;
    while (cap < d->cap * 2)
        cap *= 2;
    d->index = tn_jrun_array(r, cap, sizeof *d->index);
    if (d->index == NULL)
        return false;
    d->index_cap = cap;
    for (uint32_t i = 0; i < d->n; i++) {
        uint64_t h;
        TN_TRY(tn_jval_hash(r, d->at[i].key, &h));
        index_put(d, h, i);
    }
    return true;
}

static bool grow_dict(tn_jrun *r, tn_jdict *d)
{
    if (d->cap > UINT32_MAX / 8)
        return tn_jrun_fail(r, "a dictionary of %u keys is too large", d->cap);
    uint32_t cap = d->cap == 0 ? 4 : d->cap * 2;
    tn_jpair *at = tn_jrun_array(r, cap, sizeof *at);
    if (at == NULL)
        return false;
    if (d->n > 0)
        memcpy(at, d->at, d->n * sizeof *at);
    d->at = at;
    d->cap = cap;
    d->index = NULL;
    return cap <= INDEX_FROM || index_make(r, d);
}

static bool same_key(tn_jrun *r, tn_jval a, tn_jval b, bool *same)
{
    if (a.type == TN_J_STR && b.type == TN_J_STR) {
        *same = tn_jstr_same(a.as.s, b.as.s->p, b.as.s->size);
        return true;
    }
    return tn_jval_equal(r, a, b, same);
}

/* *at is the pair with this key, or TN_NONE. */
static bool find_pair(tn_jrun *r, const tn_jdict *d, tn_jval key, uint64_t hash, uint32_t *at)
{
    bool same = false;
    *at = TN_NONE;
    if (d->index == NULL) {
        for (uint32_t i = 0; i < d->n; i++) {
            TN_TRY(same_key(r, d->at[i].key, key, &same));
            if (same) {
                *at = i;
                return true;
            }
        }
        return true;
    }
    uint32_t mask = d->index_cap - 1;
    for (uint32_t i = (uint32_t)hash & mask; d->index[i] != 0; i = (i + 1) & mask) {
        TN_TRY(same_key(r, d->at[d->index[i] - 1].key, key, &same));
        if (same) {
            *at = d->index[i] - 1;
            return true;
        }
    }
    return true;
}

bool tn_jdict_set(tn_jrun *r, tn_jdict *d, tn_jval key, tn_jval val)
{
    uint64_t h;
    uint32_t at;
    TN_TRY(tn_jval_hash(r, key, &h));
    TN_TRY(find_pair(r, d, key, h, &at));
    if (at != TN_NONE) {
        d->at[at].val = val;
        return true;
    }
    if (d->n == d->cap)
        TN_TRY(grow_dict(r, d));
    if (d->index == NULL && d->n >= INDEX_FROM)
        TN_TRY(index_make(r, d));
    d->at[d->n] = (tn_jpair){.key = key, .val = val};
    if (d->index != NULL)
        index_put(d, h, d->n);
    d->n++;
    return true;
}

bool tn_jdict_get(tn_jrun *r, const tn_jdict *d, tn_jval key, tn_jval *out)
{
    uint64_t h;
    uint32_t at;
    TN_TRY(tn_jval_hash(r, key, &h));
    TN_TRY(find_pair(r, d, key, h, &at));
    *out = at != TN_NONE ? d->at[at].val : (tn_jval){.type = TN_J_MISSING};
    return true;
}

const tn_jval *tn_jdict_find(tn_jrun *r, const tn_jdict *d, tn_jval str)
{
    uint64_t h = 0;
    uint32_t at;
    if (d->index != NULL)
        tn_jval_hash(r, str, &h);
    if (!find_pair(r, d, str, h, &at) || at == TN_NONE)
        return NULL;
    return &d->at[at].val;
}

const tn_jval *tn_jdict_text(const tn_jdict *d, const char *key)
{
    for (uint32_t i = 0; i < d->n; i++)
        if (tn_jstr_is(d->at[i].key, key))
            return &d->at[i].val;
    return NULL;
}

/* --------------------------------------------------------------------------- undefined */

static bool undef_new(tn_jrun *r, tn_jundef u, tn_jval *out)
{
    tn_jundef *p = tn_jrun_take(r, sizeof *p);
    if (p == NULL)
        return false;
    *p = u;
    *out = (tn_jval){.type = TN_J_UNDEF, .as.u = p};
    return true;
}

bool tn_jundef_var(tn_jrun *r, tn_jval name, tn_jval *out)
{
    return undef_new(r, (tn_jundef){.name = name}, out);
}

bool tn_jundef_of(tn_jrun *r, tn_jval obj, tn_jval name, tn_jval *out)
{
    return undef_new(r, (tn_jundef){.obj = obj, .name = name}, out);
}

bool tn_jundef_hint(tn_jrun *r, const char *hint, tn_jval *out)
{
    tn_jval text;
    return tn_jstr_text(r, hint, &text) && tn_jundef_said(r, text, out);
}

bool tn_jundef_said(tn_jrun *r, tn_jval hint, tn_jval *out)
{
    return undef_new(r, (tn_jundef){.hint = hint}, out);
}

bool tn_jundef_unsafe(tn_jrun *r, tn_jval obj, tn_jval name, tn_jval *out)
{
    return undef_new(r, (tn_jundef){.obj = obj, .name = name, .unsafe = true}, out);
}

bool tn_jundef_fail(tn_jrun *r, tn_jval undef)
{
    const tn_jundef *u = undef.as.u;
    tn_jval text;
    tn_jtext name;
    if (u->hint.type == TN_J_STR)
        return tn_jrun_fail(r, "%.*s", (int)u->hint.as.s->size, u->hint.as.s->p);
    tn_jtext_open(&name, r, 0);
    TN_TRY(tn_jval_repr(r, u->name, &name));
    TN_TRY(tn_jtext_close(&name, &text));
    const char *p = text.as.s->p;
    int n = text.as.s->size > 200 ? 200 : (int)text.as.s->size;
    if (u->unsafe)
        return tn_jrun_fail(r, "access to attribute %.*s of '%s' object is unsafe", n, p,
                            tn_jval_kind(u->obj));
    if (u->obj.type == TN_J_MISSING)
        return tn_jrun_fail(r, "%.*s is undefined", n, p);
    const char *kind = tn_jval_kind(u->obj);
    if (u->obj.type == TN_J_NONE)
        return tn_jrun_fail(r, "none has no %s %.*s",
                            u->name.type == TN_J_STR ? "attribute" : "element", n, p);
    if (u->name.type != TN_J_STR)
        return tn_jrun_fail(r, "%s object has no element %.*s", kind, n, p);
    return tn_jrun_fail(r, "'%s object' has no attribute %.*s", kind, n, p);
}

/* ------------------------------------------------------------------ asking about values */

const char *tn_jval_kind(tn_jval v)
{
    static const char *const names[] = {
        [TN_J_MISSING] = "missing", [TN_J_UNDEF] = "Undefined", [TN_J_NONE] = "NoneType",
        [TN_J_BOOL] = "bool", [TN_J_INT] = "int", [TN_J_FLOAT] = "float", [TN_J_STR] = "str",
        [TN_J_LIST] = "list", [TN_J_TUPLE] = "tuple", [TN_J_DICT] = "dict",
        [TN_J_VIEW] = "dict view", [TN_J_RANGE] = "range", [TN_J_ITER] = "generator",
        [TN_J_SPACE] = "Namespace", [TN_J_MACRO] = "Macro", [TN_J_FUNC] = "function",
        [TN_J_METHOD] = "method", [TN_J_LOOP] = "LoopContext", [TN_J_JOINER] = "Joiner",
    };
    return v.type == TN_J_STR && v.safe ? "Markup" : names[v.type];
}

int64_t tn_jval_len(tn_jval v)
{
    switch (v.type) {
    case TN_J_UNDEF: return 0;
    case TN_J_STR: return v.as.s->chars;
    case TN_J_LIST:
    case TN_J_TUPLE: return v.as.l->n;
    case TN_J_DICT: return v.as.d->n;
    case TN_J_VIEW: return v.as.v->d->n;
    case TN_J_RANGE: return v.as.r->n;
    default: return -1;
    }
}

bool tn_jval_truth(tn_jval v)
{
    switch (v.type) {
    case TN_J_MISSING:
    case TN_J_NONE: return false;
    case TN_J_BOOL: return v.as.b;
    case TN_J_INT: return v.as.i != 0;
    case TN_J_FLOAT: return v.as.f != 0;
    default: return tn_jval_len(v) != 0; /* what has no length is true */
    }
}

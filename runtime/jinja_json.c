/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_json.c - json.dumps of a template's value. */
#include "jinja_value.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct writer {
    tn_jrun *r;
    const tn_jdumps *how;
    tn_jtext t;
    uint32_t level;
} writer;

static bool write_value(writer *w, tn_jval v);

static void put_unit(tn_jtext *t, uint32_t unit)
{
    char buf[16];
    snprintf(buf, sizeof buf, "\\u%04x", unit);
    tn_jtext_puts(t, buf);
}

/* A character that does not stand for itself. Marks of user text stay whole: they are taken
 * out of the output later. */
static void put_escape(writer *w, uint32_t cp)
{
    static const char letters[] = "btnvfr"; /* from 8 on; \v has no short form in JSON */
    if (cp == '"' || cp == '\\') {
        tn_jtext_putc(&w->t, '\\');
        tn_jtext_putc(&w->t, (char)cp);
    } else if (cp >= 8 && cp <= 13 && cp != 11) {
        tn_jtext_putc(&w->t, '\\');
        tn_jtext_putc(&w->t, letters[cp - 8]);
    } else if (cp == w->r->mark && cp != 0) {
        tn_jtext_put_cp(&w->t, cp);
    } else if (cp >= 0x10000) {
        put_unit(&w->t, 0xd800 + ((cp - 0x10000) >> 10));
        put_unit(&w->t, 0xdc00 + ((cp - 0x10000) & 0x3ff));
    } else {
        put_unit(&w->t, cp);
    }
}

static void write_text(writer *w, const tn_jstr *s)
{
    const char *end = s->p + s->size, *from = s->p;
    tn_jtext_putc(&w->t, '"');
    for (const char *p = s->p; p < end;) {
        const char *here = p;
        unsigned char c = (unsigned char)*p;
        if (c >= 0x20 && c != '"' && c != '\\' && (!w->how->ascii || c < 0x7f)) {
            p++;
            continue;
        }
        uint32_t cp = tn_jutf_next(&p);
        tn_jtext_put(&w->t, from, (size_t)(here - from));
        put_escape(w, cp);
        from = p;
    }
    tn_jtext_put(&w->t, from, (size_t)(end - from));
    tn_jtext_putc(&w->t, '"');
}

static void write_float(writer *w, double f)
{
    char buf[32];
    if (isnan(f))
        tn_jtext_puts(&w->t, "NaN");
    else if (isinf(f))
        tn_jtext_puts(&w->t, f > 0 ? "Infinity" : "-Infinity");
    else
        tn_jtext_put(&w->t, buf, tn_jfloat_repr(f, buf));
}

static void write_int(writer *w, int64_t i)
{
    char buf[32];
    snprintf(buf, sizeof buf, "%" PRId64, i);
    tn_jtext_puts(&w->t, buf);
}

static void new_line(writer *w)
{
    if (w->how->indent.type != TN_J_STR)
        return;
    tn_jtext_putc(&w->t, '\n');
    for (uint32_t i = 0; i < w->level; i++)
        tn_jtext_put_str(&w->t, w->how->indent);
}

static void next_item(writer *w, bool first)
{
    if (!first)
        tn_jtext_put_str(&w->t, w->how->item_sep);
    new_line(w);
}

static bool write_list(writer *w, const tn_jlist *l)
{
    if (l->n == 0) {
        tn_jtext_puts(&w->t, "[]");
        return true;
    }
    tn_jtext_putc(&w->t, '[');
    w->level++;
    for (uint32_t i = 0; i < l->n; i++) {
        next_item(w, i == 0);
        TN_TRY(write_value(w, l->at[i]));
    }
    w->level--;
    new_line(w);
    tn_jtext_putc(&w->t, ']');
    return true;
}

static bool write_key(writer *w, tn_jval key)
{
    switch (key.type) {
    case TN_J_STR: write_text(w, key.as.s); return true;
    case TN_J_NONE: tn_jtext_puts(&w->t, "\"null\""); return true;
    case TN_J_BOOL: tn_jtext_puts(&w->t, key.as.b ? "\"true\"" : "\"false\""); return true;
    case TN_J_INT:
    case TN_J_FLOAT:
        tn_jtext_putc(&w->t, '"');
        if (key.type == TN_J_INT)
            write_int(w, key.as.i);
        else
            write_float(w, key.as.f);
        tn_jtext_putc(&w->t, '"');
        return true;
    default:
        return tn_jrun_fail(w->r, "keys must be str, int, float, bool or None, not %s",
                            tn_jval_kind(key));
    }
}

/* The pairs in the order they are written. */
static bool ordered(writer *w, const tn_jdict *d, const tn_jpair **out)
{
    *out = d->at;
    if (!w->how->sort_keys || d->n < 2)
        return true;
    tn_jval *keys = tn_jrun_array(w->r, d->n, sizeof *keys);
    tn_jval *places = keys != NULL ? tn_jrun_array(w->r, d->n, sizeof *places) : NULL;
    tn_jpair *sorted = places != NULL ? tn_jrun_array(w->r, d->n, sizeof *sorted) : NULL;
    if (sorted == NULL)
        return false;
    for (uint32_t i = 0; i < d->n; i++) {
        keys[i] = d->at[i].key;
        places[i] = tn_jint(i);
    }
    TN_TRY(tn_jval_sort(w->r, places, keys, d->n, false));
    for (uint32_t i = 0; i < d->n; i++)
        sorted[i] = d->at[places[i].as.i];
    *out = sorted;
    return true;
}

static bool write_dict(writer *w, const tn_jdict *d)
{
    const tn_jpair *at;
    if (d->n == 0) {
        tn_jtext_puts(&w->t, "{}");
        return true;
    }
    TN_TRY(ordered(w, d, &at));
    tn_jtext_putc(&w->t, '{');
    w->level++;
    for (uint32_t i = 0; i < d->n; i++) {
        next_item(w, i == 0);
        TN_TRY(write_key(w, at[i].key));
        tn_jtext_put_str(&w->t, w->how->key_sep);
        TN_TRY(write_value(w, at[i].val));
    }
    w->level--;
    new_line(w);
    tn_jtext_putc(&w->t, '}');
    return true;
}

static bool write_value(writer *w, tn_jval v)
{
    bool ok = true;
    TN_TRY(tn_jrun_burn(w->r, TN_JSTEP_NODE));
    switch (v.type) {
    case TN_J_NONE: tn_jtext_puts(&w->t, "null"); break;
    case TN_J_BOOL: tn_jtext_puts(&w->t, v.as.b ? "true" : "false"); break;
    case TN_J_INT: write_int(w, v.as.i); break;
    case TN_J_FLOAT: write_float(w, v.as.f); break;
    case TN_J_STR: write_text(w, v.as.s); break;
    case TN_J_LIST:
    case TN_J_TUPLE:
    case TN_J_DICT:
        TN_TRY(tn_jrun_enter(w->r));
        ok = v.type == TN_J_DICT ? write_dict(w, v.as.d) : write_list(w, v.as.l);
        tn_jrun_leave(w->r);
        break;
    default:
        return tn_jrun_fail(w->r, "Object of type %s is not JSON serializable", tn_jval_kind(v));
    }
    return ok && !w->t.failed;
}

bool tn_jval_dumps(tn_jrun *r, tn_jval v, const tn_jdumps *how, tn_jval *out)
{
    writer w = {.r = r, .how = how};
    tn_jtext_open(&w.t, r, 0);
    return write_value(&w, v) && tn_jtext_close(&w.t, out);
}

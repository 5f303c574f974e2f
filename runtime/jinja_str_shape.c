/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_str_shape.c - str methods that strip, split, join and pad. */
#include "jinja_strings.h"

#include "jinja_iter.h"

#include <string.h>

/* -------------------------------------------------------------------------------- stripping */

/* Characters to strip: whitespace, or those of a text. ASCII ones are kept as bits. */
typedef struct char_set {
    tn_jrun *r;
    const tn_jstr *text;     /* NULL: whitespace */
    uint64_t ascii[2];
} char_set;

static bool set_open(tn_jrun *r, tn_jval chars, char_set *set)
{
    *set = (char_set){.r = r};
    if (chars.type == TN_J_NONE || chars.type == TN_J_MISSING)
        return true;
    TN_TRY(tn_jarg_text(r, "strip arg", chars));
    set->text = chars.as.s;
    for (uint32_t i = 0; i < set->text->size; i++) {
        unsigned char c = (unsigned char)set->text->p[i];
        if (c < 0x80)
            set->ascii[c >> 6] |= (uint64_t)1 << (c & 63);
    }
    return tn_jrun_burn_bytes(r, set->text->size);
}

static bool in_set(const char_set *set, uint32_t cp)
{
    if (set->text == NULL)
        return tn_jchar_is_space(cp);
    if (cp < 0x80)
        return (set->ascii[cp >> 6] >> (cp & 63) & 1) != 0;
    if (tn_jstr_ascii(set->text) || !tn_jrun_burn_bytes(set->r, set->text->size))
        return false;
    for (const char *p = set->text->p, *end = p + set->text->size; p < end;)
        if (tn_jutf_next(&p) == cp)
            return true;
    return false;
}

bool tn_jstr_strip(tn_jrun *r, tn_jval str, tn_jval chars, int ends, tn_jval *out)
{
    const tn_jstr *s = str.as.s;
    const char *p = s->p, *end = s->p + s->size;
    char_set set;
    TN_TRY(set_open(r, chars, &set));
    while ((ends & 1) != 0 && p < end) {
        const char *q = p;
        if (!in_set(&set, tn_jutf_next(&q)))
            break;
        p = q;
    }
    while ((ends & 2) != 0 && end > p) {
        const char *q = end;
        if (!in_set(&set, tn_jutf_prev(&q)))
            break;
        end = q;
    }
    TN_TRY(!r->failed && tn_jrun_burn_bytes(r, s->size - (size_t)(end - p)));
    return tn_jstr_part(r, str, (size_t)(p - s->p), (size_t)(end - p), out);
}

static bool str_strip(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return tn_jstr_strip(r, a[0], a[1], 3, out);
}

static bool str_lstrip(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return tn_jstr_strip(r, a[0], a[1], 1, out);
}

static bool str_rstrip(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return tn_jstr_strip(r, a[0], a[1], 2, out);
}

/* -------------------------------------------------------------------------------- splitting */

typedef struct splitter {
    tn_jrun *r;
    tn_jval str;
    tn_jlist_maker parts;
    int64_t left;          /* cuts still allowed, negative: any */
} splitter;

static bool add_part(splitter *s, const char *from, const char *to)
{
    tn_jval v;
    TN_TRY(tn_jstr_part(s->r, s->str, (size_t)(from - s->str.as.s->p), (size_t)(to - from), &v));
    return tn_jlist_add(&s->parts, v);
}

static bool split_at(splitter *s, const tn_jstr *sep)
{
    const char *p = s->str.as.s->p, *end = p + s->str.as.s->size, *at;
    while (s->left != 0 && (at = tn_jutf_find(p, (size_t)(end - p), sep->p, sep->size)) != NULL) {
        TN_TRY(add_part(s, p, at));
        p = at + sep->size;
        s->left--;
    }
    return add_part(s, p, end);
}

static bool split_space(splitter *s)
{
    const char *p = s->str.as.s->p, *end = p + s->str.as.s->size, *q;
    for (;;) {
        while (p < end && (q = p, tn_jchar_is_space(tn_jutf_next(&q))))
            p = q;
        if (p == end)
            return true;
        if (s->left == 0)
            return add_part(s, p, end);
        const char *from = p;
        while (p < end && (q = p, !tn_jchar_is_space(tn_jutf_next(&q))))
            p = q;
        TN_TRY(add_part(s, from, p));
        s->left--;
    }
}

/* Parts come last first; the caller turns them round. */
static bool rsplit_at(splitter *s, const tn_jstr *sep)
{
    const char *start = s->str.as.s->p, *end = start + s->str.as.s->size;
    uint32_t *scratch = tn_jrun_array(s->r, sep->size, sizeof *scratch);
    if (scratch == NULL)
        return false;
    while (s->left != 0) {
        size_t size = (size_t)(end - start);
        const char *at = tn_jutf_find_last(start, size, sep->p, sep->size,
                                           sep->size < 32 ? NULL : scratch);
        TN_TRY(tn_jrun_burn_bytes(s->r, (size_t)(end - (at != NULL ? at : start)) + sep->size));
        if (at == NULL)
            break;
        TN_TRY(add_part(s, at + sep->size, end));
        end = at;
        s->left--;
    }
    return add_part(s, start, end);
}

static bool rsplit_space(splitter *s)
{
    const char *start = s->str.as.s->p, *end = start + s->str.as.s->size, *q;
    for (;;) {
        while (end > start && (q = end, tn_jchar_is_space(tn_jutf_prev(&q))))
            end = q;
        if (end == start)
            return true;
        if (s->left == 0)
            return add_part(s, start, end);
        const char *to = end;
        while (end > start && (q = end, !tn_jchar_is_space(tn_jutf_prev(&q))))
            end = q;
        TN_TRY(add_part(s, end, to));
        s->left--;
    }
}

static void turn_round(tn_jlist_maker *m)
{
    for (uint32_t i = 0; i < m->n / 2; i++) {
        tn_jval v = m->at[i];
        m->at[i] = m->at[m->n - 1 - i];
        m->at[m->n - 1 - i] = v;
    }
}

bool tn_jstr_split(tn_jrun *r, tn_jval str, tn_jval sep, int64_t count, bool from_right,
                   tn_jval *out)
{
    splitter s = {.r = r, .str = str, .left = count < 0 ? -1 : count};
    tn_jlist_open(&s.parts, r);
    TN_TRY(tn_jrun_burn_bytes(r, str.as.s->size));
    if (sep.type == TN_J_NONE || sep.type == TN_J_MISSING) {
        TN_TRY(from_right ? rsplit_space(&s) : split_space(&s));
    } else {
        TN_TRY(tn_jarg_text(r, "the separator", sep));
        if (sep.as.s->size == 0)
            return tn_jrun_fail(r, "empty separator");
        TN_TRY(from_right ? rsplit_at(&s, sep.as.s) : split_at(&s, sep.as.s));
    }
    if (from_right)
        turn_round(&s.parts);
    return tn_jlist_close(&s.parts, TN_J_LIST, out);
}

static bool split(tn_jrun *r, const tn_jval *a, bool from_right, tn_jval *out)
{
    int64_t count;
    TN_TRY(tn_jarg_int(r, "maxsplit", a[2], -1, &count));
    return tn_jstr_split(r, a[0], a[1], count, from_right, out);
}

static bool str_split(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return split(r, a, false, out);
}

static bool str_rsplit(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return split(r, a, true, out);
}

static bool is_line_end(uint32_t cp)
{
    return (cp >= 0x0a && cp <= 0x0d) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85
           || cp == 0x2028 || cp == 0x2029;
}

bool tn_jstr_splitlines(tn_jrun *r, tn_jval str, bool keep, tn_jval *out)
{
    splitter s = {.r = r, .str = str};
    const char *p = str.as.s->p, *end = p + str.as.s->size;
    tn_jlist_open(&s.parts, r);
    TN_TRY(tn_jrun_burn_bytes(r, str.as.s->size));
    while (p < end) {
        const char *from = p, *to = p;
        uint32_t cp = 0;
        while (p < end) {
            cp = tn_jutf_next(&p);
            if (is_line_end(cp))
                break;
            to = p;
        }
        if (cp == '\r' && p < end && *p == '\n')
            p++;
        TN_TRY(add_part(&s, from, keep ? p : to));
    }
    return tn_jlist_close(&s.parts, TN_J_LIST, out);
}

static bool str_splitlines(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return tn_jstr_splitlines(r, a[0], a[1].type != TN_J_MISSING && tn_jval_truth(a[1]), out);
}

/* ---------------------------------------------------------------------------------- joining */

bool tn_jstr_join(tn_jrun *r, tn_jval sep, tn_jval items, tn_jval *out)
{
    tn_jtext t;
    const tn_jlist *l = items.as.l;
    size_t size = 0;
    for (uint32_t i = 0; i < l->n; i++)
        size += l->at[i].as.s->size + (i > 0 ? sep.as.s->size : 0);
    if (l->n == 1) {
        *out = l->at[0];
        out->safe = 0;
        return true;
    }
    tn_jtext_open(&t, r, size);
    for (uint32_t i = 0; i < l->n; i++) {
        if (i > 0)
            tn_jtext_put_str(&t, sep);
        tn_jtext_put_str(&t, l->at[i]);
    }
    return tn_jtext_close(&t, out);
}

static bool str_join(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jval items;
    (void)all;
    if (!tn_jval_is_iterable(a[1]))
        return tn_jrun_fail(r, "can only join an iterable");
    TN_TRY(tn_jval_items(r, a[1], TN_J_LIST, &items));
    tn_jval *at = tn_jrun_array(r, items.as.l->n, sizeof *at);
    if (at == NULL)
        return false;
    for (uint32_t i = 0; i < items.as.l->n; i++) {
        at[i] = items.as.l->at[i];
        if (a[0].safe)
            TN_TRY(tn_jval_escape(r, at[i], &at[i]));
        else if (at[i].type != TN_J_STR)
            return tn_jrun_fail(r, "sequence item %u: expected str instance, %s found", i,
                                tn_jval_kind(at[i]));
    }
    tn_jlist list = {.at = at, .n = items.as.l->n};
    return tn_jstr_join(r, a[0], (tn_jval){.type = TN_J_LIST, .as.l = &list}, out);
}

/* ---------------------------------------------------------------------------------- padding */

bool tn_jstr_pad(tn_jrun *r, tn_jval s, uint64_t left, uint64_t right, uint32_t fill,
                 tn_jval *out)
{
    tn_jtext t;
    tn_jtext_open(&t, r, 0);
    tn_jtext_fill(&t, fill, left);
    tn_jtext_put_str(&t, s);
    tn_jtext_fill(&t, fill, right);
    return tn_jtext_close(&t, out);
}

/* Odd room goes to the left when the width is odd, as in Python. */
bool tn_jstr_center(tn_jrun *r, tn_jval s, int64_t width, uint32_t fill, tn_jval *out)
{
    int64_t room = width > s.as.s->chars ? width - s.as.s->chars : 0;
    if (room == 0) {
        *out = s;
        return true;
    }
    int64_t left = room / 2 + (room & width & 1);
    return tn_jstr_pad(r, s, (uint64_t)left, (uint64_t)(room - left), fill, out);
}

static bool fill_of(tn_jrun *r, tn_jval v, uint32_t *fill)
{
    *fill = ' ';
    if (v.type == TN_J_MISSING)
        return true;
    if (v.type != TN_J_STR || v.as.s->chars != 1)
        return tn_jrun_fail(r, "The fill character must be exactly one character long");
    const char *p = v.as.s->p;
    *fill = tn_jutf_next(&p);
    return true;
}

static bool justify(tn_jrun *r, const tn_jval *a, bool left, tn_jval *out)
{
    int64_t width;
    uint32_t fill;
    TN_TRY(tn_jval_index(r, a[1], "the width", &width) && fill_of(r, a[2], &fill));
    int64_t room = width > a[0].as.s->chars ? width - a[0].as.s->chars : 0;
    if (room == 0) {
        *out = a[0];
        return true;
    }
    return tn_jstr_pad(r, a[0], left ? 0 : (uint64_t)room, left ? (uint64_t)room : 0, fill, out);
}

static bool str_ljust(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return justify(r, a, true, out);
}

static bool str_rjust(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return justify(r, a, false, out);
}

static bool str_center(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    int64_t width;
    uint32_t fill;
    (void)all;
    TN_TRY(tn_jval_index(r, a[1], "the width", &width) && fill_of(r, a[2], &fill));
    return tn_jstr_center(r, a[0], width, fill, out);
}

/* Zeros go behind a sign. */
static bool str_zfill(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    const tn_jstr *s = a[0].as.s;
    int64_t width;
    tn_jtext t;
    (void)all;
    TN_TRY(tn_jval_index(r, a[1], "the width", &width));
    if (width <= s->chars) {
        *out = a[0];
        return true;
    }
    size_t sign = s->size > 0 && (s->p[0] == '-' || s->p[0] == '+');
    tn_jtext_open(&t, r, 0);
    tn_jtext_put(&t, s->p, sign);
    tn_jtext_fill(&t, '0', (uint64_t)(width - s->chars));
    tn_jtext_put(&t, s->p + sign, s->size - sign);
    return tn_jtext_close(&t, out);
}

static bool str_expandtabs(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    const tn_jstr *s = a[0].as.s;
    int64_t size, column = 0;
    tn_jtext t;
    (void)all;
    TN_TRY(tn_jarg_int(r, "the tab size", a[1], 8, &size));
    tn_jtext_open(&t, r, 0);
    for (const char *p = s->p, *end = s->p + s->size; p < end && !t.failed;) {
        const char *from = p;
        uint32_t cp = tn_jutf_next(&p);
        if (cp == '\t') {
            int64_t n = size > 0 ? size - column % size : 0;
            tn_jtext_fill(&t, ' ', (uint64_t)n);
            column += n;
            continue;
        }
        tn_jtext_put(&t, from, (size_t)(p - from));
        column = cp == '\n' || cp == '\r' ? 0 : column + 1;
    }
    return tn_jrun_burn_bytes(r, s->size) && tn_jtext_close(&t, out);
}

/* --------------------------------------------------------------------------------- formatting */

static bool str_format(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    return tn_jval_format(r, a[0], all, false, out);
}

static bool str_format_map(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    return tn_jval_format(r, a[0], all, true, out);
}

const tn_jbuiltin tn_jstr_shape_methods[] = {
    {.name = "center", .params = "/self /width /fill?", .fn = str_center, .safe = 1},
    {.name = "expandtabs", .params = "/self tabsize?", .fn = str_expandtabs, .safe = 1},
    {.name = "format", .params = "/self *", .fn = str_format, .safe = 1},
    {.name = "format_map", .params = "/self /mapping", .fn = str_format_map, .safe = 1},
    {.name = "join", .params = "/self /iterable", .fn = str_join, .safe = 1},
    {.name = "ljust", .params = "/self /width /fill?", .fn = str_ljust, .safe = 1},
    {.name = "lstrip", .params = "/self /chars?", .fn = str_lstrip, .safe = 1},
    {.name = "rjust", .params = "/self /width /fill?", .fn = str_rjust, .safe = 1},
    {.name = "rsplit", .params = "/self sep? maxsplit?", .fn = str_rsplit, .safe = 1},
    {.name = "rstrip", .params = "/self /chars?", .fn = str_rstrip, .safe = 1},
    {.name = "split", .params = "/self sep? maxsplit?", .fn = str_split, .safe = 1},
    {.name = "splitlines", .params = "/self keepends?", .fn = str_splitlines, .safe = 1},
    {.name = "strip", .params = "/self /chars?", .fn = str_strip, .safe = 1},
    {.name = "zfill", .params = "/self /width", .fn = str_zfill, .safe = 1},
};
const size_t tn_jstr_shape_count = sizeof tn_jstr_shape_methods / sizeof tn_jstr_shape_methods[0];

const tn_jbuiltin *tn_jstr_method(const char *name, size_t size)
{
    const tn_jbuiltin *fn =
        tn_jbuiltin_find(tn_jstr_shape_methods, tn_jstr_shape_count, name, size);
    if (fn == NULL)
        fn = tn_jbuiltin_find(tn_jstr_search_methods, tn_jstr_search_count, name, size);
    return fn != NULL ? fn
                      : tn_jbuiltin_find(tn_jstr_case_methods, tn_jstr_case_count, name, size);
}

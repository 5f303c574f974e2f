/* SPDX-License-Identifier: Apache-2.0 */
/* regex_set.c - the part of a pattern that matches one character: escapes, sets, classes.
 *
 * PCRE2's classes hold no classes, no && and no complement of a set, so a class may become an
 * alternative of several, with look-aheads for &&. */
#include "regex_parts.h"
#include "unicode.h"

#include <strings.h>

#define SPACE                                                                                  \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}"         \
    "\\x{202f}\\x{205f}\\x{3000}"
#define NO_SPACE                                                                               \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}"               \
    "\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}"             \
    "\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
#define WORD_BESIDE /* letters by property, not by category */                                 \
    "\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"
#define ANY "[\\x{0}-\\x{10ffff}]"

typedef tn_regex_reader reader;

/* ---- escapes ---- */

static bool take_hex(reader *r, int least, int most, uint32_t *out)
{
    uint32_t v = 0;
    int n = 0;
    for (; n < most && r->at < r->end; n++, r->at++) {
        char c = *r->at;
        int d = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f'
                                                     ? (c | 32) - 'a' + 10 : -1;
        if (d < 0)
            break;
        v = v * 16 + (uint32_t)d;
    }
    *out = v;
    return n >= least;
}

tn_status tn_regex_escaped(reader *r, uint32_t *cp, bool *is)
{
    static const char names[] = "tnrfvae", values[] = "\t\n\r\f\v\a\x1b";
    *is = true;
    char c = *r->at;
    const char *known = c != 0 ? strchr(names, c) : NULL;
    if (known != NULL) {
        r->at++;
        *cp = (uint8_t)values[known - names];
        return TN_OK;
    }
    if (c == 'x' || c == 'u') {
        r->at++;
        bool braced = c == 'x' && tn_regex_take(r, "{");
        bool ok = braced ? take_hex(r, 1, 8, cp) && tn_regex_take(r, "}")
                         : take_hex(r, c == 'u' ? 4 : 1, c == 'u' ? 4 : 2, cp);
        if (!ok || *cp > 0x10ffff || (*cp >= 0xd800 && *cp < 0xe000))
            return tn_regex_refuse(r, "no code point", "\\xHH, \\x{H...} or \\uHHHH");
        return TN_OK;
    }
    if (c == '0' && (r->at + 1 == r->end || r->at[1] < '0' || r->at[1] > '7')) {
        r->at++;
        *cp = 0;
        return TN_OK;
    }
    *is = (uint8_t)c >= 0x80 || !((c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z'));
    if (*is)
        *cp = tn_regex_take_char(r);
    return TN_OK;
}

static const char *category_name(const char *name)
{
    static const char *const names[][2] = {
        {"C", "Other"}, {"Cc", "Control"}, {"Cf", "Format"}, {"Cn", "Unassigned"},
        {"Co", "Private_Use"}, {"Cs", "Surrogate"}, {"L", "Letter"}, {"Ll", "Lowercase_Letter"},
        {"Lm", "Modifier_Letter"}, {"Lo", "Other_Letter"}, {"Lt", "Titlecase_Letter"},
        {"Lu", "Uppercase_Letter"}, {"M", "Mark"}, {"Mc", "Spacing_Mark"},
        {"Me", "Enclosing_Mark"}, {"Mn", "Nonspacing_Mark"}, {"N", "Number"},
        {"Nd", "Decimal_Number"}, {"Nl", "Letter_Number"}, {"No", "Other_Number"},
        {"P", "Punctuation"}, {"Pc", "Connector_Punctuation"}, {"Pd", "Dash_Punctuation"},
        {"Pe", "Close_Punctuation"}, {"Pf", "Final_Punctuation"}, {"Pi", "Initial_Punctuation"},
        {"Po", "Other_Punctuation"}, {"Ps", "Open_Punctuation"}, {"S", "Symbol"},
        {"Sc", "Currency_Symbol"}, {"Sk", "Modifier_Symbol"}, {"Sm", "Math_Symbol"},
        {"So", "Other_Symbol"}, {"Z", "Separator"}, {"Zl", "Line_Separator"},
        {"Zp", "Paragraph_Separator"}, {"Zs", "Space_Separator"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcasecmp(name, names[i][0]) == 0 || strcasecmp(name, names[i][1]) == 0)
            return names[i][0];
    return NULL;
}

static bool in_category(const char *name, uint32_t category)
{
    static const char *const names[] = {
        "Cn", "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps",
        "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co", "Cs"};
    return name[0] == names[category][0] && (name[1] == 0 || name[1] == names[category][1]);
}

/* A category as it stands inside a class, with the members that PCRE2 does not know yet. */
static void put_category(reader *r, const char *name, tn_buf *out)
{
    if (!r->has_newer && !tn_newer_open(&r->newer))
        out->failed = true;
    r->has_newer = true;
    tn_buf_printf(out, "\\p{%s}", name);
    for (uint32_t i = 0; i < r->newer.n; i++) {
        const tn_newer_range *w = &r->newer.range[i];
        if (in_category(name, w->category))
            tn_buf_printf(out, "\\x{%x}-\\x{%x}", w->from, w->to);
    }
}

/* The members of \s \S \d \D \w \W \h \H as they stand inside a class, whose complement is
 * meant where *negated comes back. False: none of them. */
static bool put_set(reader *r, char c, tn_buf *out, bool *negated)
{
    static const char *const word[] = {"L", "M", "Nd", "Nl", "Pc"};
    *negated = c == 'D' || c == 'W' || c == 'H';
    switch (c) {
    case 's': tn_buf_puts(out, SPACE); return true;
    case 'S': tn_buf_puts(out, NO_SPACE); return true;
    case 'h':
    case 'H': tn_buf_puts(out, "0-9A-Fa-f"); return true;
    case 'd':
    case 'D': put_category(r, "Nd", out); return true;
    case 'w':
    case 'W':
        for (size_t i = 0; i < sizeof word / sizeof *word; i++)
            put_category(r, word[i], out);
        tn_buf_puts(out, WORD_BESIDE);
        return true;
    default: return false;
    }
}

/* \p{Name}, \P{Name}, \p{^Name}, r->at on the p: as put_set. What is no category goes to PCRE2
 * as a script, which refuses what it lacks. */
static tn_status put_property(reader *r, tn_buf *out, bool *negated)
{
    char name[64];
    size_t n = 0;
    *negated = *r->at++ == 'P';
    if (!tn_regex_take(r, "{"))
        return tn_regex_refuse(r, "\\p without braces", "\\p{Name}");
    if (tn_regex_take(r, "^"))
        *negated = !*negated;
    while (r->at < r->end && *r->at != '}') {
        char c = *r->at;
        bool fits = c == '_' || (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
        if (!fits || n + 1 >= sizeof name)
            return tn_regex_refuse(r, "no property name", "letters, digits and _ in braces");
        name[n++] = c;
        r->at++;
    }
    name[n] = 0;
    if (n == 0 || !tn_regex_take(r, "}"))
        return tn_regex_refuse(r, "an unfinished \\p", "\\p{Name}");
    const char *category = category_name(name);
    if (category != NULL)
        put_category(r, category, out);
    else
        tn_buf_printf(out, "\\p{sc:%s}", name);
    return TN_OK;
}

/* ---- classes ---- */

/* What one [...] matches: `flat` is text for the inside of a PCRE2 class; `rest`, where not
 * empty, are alternatives that no class can hold. */
typedef struct set {
    tn_buf flat, rest;
    uint32_t nrest;
} set;

static void set_open(set *s)
{
    tn_buf_open(&s->flat, 1u << 20);
    tn_buf_open(&s->rest, 1u << 20);
    s->nrest = 0;
}

static void set_close(set *s)
{
    tn_buf_close(&s->flat);
    tn_buf_close(&s->rest);
}

static void put_buf(tn_buf *out, const tn_buf *b)
{
    if (b->len > 0)
        tn_buf_put(out, b->data, b->len);
    if (b->failed)
        out->failed = true;
}

static void put_union(tn_buf *out, const set *s)
{
    out->failed = out->failed || s->flat.failed || s->rest.failed;
    if (s->rest.len == 0) {
        tn_buf_puts(out, "[");
        put_buf(out, &s->flat);
        tn_buf_puts(out, "]");
        return;
    }
    if (s->flat.len == 0 && s->nrest == 1) {
        put_buf(out, &s->rest);
        return;
    }
    tn_buf_puts(out, "(?:");
    put_buf(out, &s->rest);
    if (s->flat.len > 0) {
        tn_buf_puts(out, "|[");
        put_buf(out, &s->flat);
        tn_buf_puts(out, "]");
    }
    tn_buf_puts(out, ")");
}

static void begin_alternative(set *s)
{
    if (s->nrest++ > 0)
        tn_buf_puts(&s->rest, "|");
}

static tn_status read_class(reader *r, uint32_t depth, set *into);

static tn_status read_posix(reader *r, set *s)
{
    static const struct {
        const char *name;
        char set;
    } names[] = {{"[:digit:]", 'd'}, {"[:space:]", 's'}, {"[:word:]", 'w'}, {"[:xdigit:]", 'h'}};
    bool negated;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (tn_regex_take(r, names[i].name)) {
            (void)put_set(r, names[i].set, &s->flat, &negated);
            return TN_OK;
        }
    }
    return tn_regex_refuse(r, "an unknown class", "[:digit:], [:space:], [:word:] or [:xdigit:]");
}

/* Adds a set to a class: a complement is an alternative beside it. */
static void add_set(set *s, const tn_buf *members, bool negated)
{
    if (negated) {
        begin_alternative(s);
        tn_buf_puts(&s->rest, "[^");
    }
    put_buf(negated ? &s->rest : &s->flat, members);
    if (negated)
        tn_buf_puts(&s->rest, "]");
}

/* \s \d \w \h \p and their complements, r->at on the letter. */
static tn_status read_member_set(reader *r, set *s)
{
    tn_buf members;
    bool negated = false;
    tn_status st = TN_OK;
    tn_buf_open(&members, 1u << 20);
    if (*r->at == 'p' || *r->at == 'P')
        st = put_property(r, &members, &negated);
    else if (put_set(r, *r->at, &members, &negated))
        r->at++;
    else
        st = tn_regex_refuse(r, "an unknown escape in a class",
                             "a character, \\s \\d \\w \\h or \\p");
    if (st == TN_OK)
        add_set(s, &members, negated);
    tn_buf_close(&members);
    return st;
}

/* One character of a class, or a set (*is_char false) that has gone into `s`. */
static tn_status read_member(reader *r, set *s, uint32_t *cp, bool *is_char)
{
    *is_char = true;
    if (*r->at != '\\') {
        *cp = tn_regex_take_char(r);
        return TN_OK;
    }
    if (++r->at == r->end)
        return tn_regex_refuse(r, "a lone backslash", "an escape");
    if (tn_regex_take(r, "b")) {
        *cp = 8;
        return TN_OK;
    }
    tn_status st = tn_regex_escaped(r, cp, is_char);
    if (st != TN_OK || *is_char)
        return st;
    return read_member_set(r, s);
}

static tn_status read_range(reader *r, set *s)
{
    uint32_t from = 0, to = 0;
    bool is_char = false;
    tn_status st = read_member(r, s, &from, &is_char);
    if (st != TN_OK || !is_char)
        return st;
    tn_regex_put_char(&s->flat, from);
    if (r->end - r->at < 2 || *r->at != '-' || r->at[1] == ']' || tn_regex_next_is(r, "-&&"))
        return TN_OK;
    r->at++;
    if (*r->at == '[')
        return tn_regex_refuse(r, "a range up to a class", "a range between two characters");
    st = read_member(r, s, &to, &is_char);
    if (st != TN_OK)
        return st;
    if (!is_char || to < from)
        return tn_regex_refuse(r, "an empty range", "a range that goes up");
    tn_buf_puts(&s->flat, "-");
    tn_regex_put_char(&s->flat, to);
    return TN_OK;
}

/* Members up to && or the closing bracket, which stay. */
static tn_status read_union(reader *r, uint32_t depth, set *s)
{
    while (r->at < r->end && *r->at != ']' && !tn_regex_next_is(r, "&&")) {
        tn_status st;
        if (tn_regex_next_is(r, "[:"))
            st = read_posix(r, s);
        else if (tn_regex_take(r, "["))
            st = read_class(r, depth + 1, s);
        else
            st = read_range(r, s);
        if (st != TN_OK)
            return st;
    }
    if (r->at == r->end)
        return tn_regex_refuse(r, "an unfinished class", "]");
    if (s->flat.failed || s->rest.failed)
        return tn_fail(r->err, TN_NO_MEMORY, "%s: no memory for its pattern", r->what);
    if (s->flat.len == 0 && s->rest.len == 0)
        return tn_regex_refuse(r, "an empty class", "at least one member");
    return TN_OK;
}

/* Sets joined by && become look-aheads before the last. */
static tn_status read_intersection(reader *r, uint32_t depth, tn_buf *out)
{
    for (;;) {
        set s;
        set_open(&s);
        tn_status st = read_union(r, depth, &s);
        bool more = st == TN_OK && tn_regex_take(r, "&&");
        tn_buf_puts(out, more ? "(?=" : "");
        put_union(out, &s);
        tn_buf_puts(out, more ? ")" : "");
        set_close(&s);
        if (st != TN_OK || !more)
            return st;
    }
}

/* Behind the '['. Adds what the class matches to `into`. */
static tn_status read_class(reader *r, uint32_t depth, set *into)
{
    set s;
    tn_buf more;
    if (depth > TN_REGEX_DEPTH_MAX)
        return tn_regex_refuse(r, "too deep a nesting", "at most 64 levels");
    bool negated = tn_regex_take(r, "^");
    set_open(&s);
    tn_buf_open(&more, 1u << 20);
    if (tn_regex_next_is(r, "]")) { /* first of all it stands for itself */
        tn_regex_put_char(&s.flat, ']');
        r->at++;
    }
    tn_status st = read_union(r, depth, &s);
    bool several = st == TN_OK && tn_regex_take(r, "&&");
    if (several)
        st = read_intersection(r, depth, &more);
    if (st != TN_OK)
        goto done;
    r->at++; /* the closing bracket */
    if (!several && !negated) {
        put_buf(&into->flat, &s.flat);
        into->flat.failed = into->flat.failed || s.rest.failed;
        if (s.rest.len > 0) {
            begin_alternative(into);
            put_buf(&into->rest, &s.rest);
            into->nrest += s.nrest - 1;
        }
        goto done;
    }
    begin_alternative(into);
    if (!several && s.rest.len == 0) {
        tn_buf_puts(&into->rest, "[^");
        put_buf(&into->rest, &s.flat);
        tn_buf_puts(&into->rest, "]");
        goto done;
    }
    tn_buf_puts(&into->rest, negated ? "(?:(?!" : "(?:");
    if (several)
        tn_buf_puts(&into->rest, "(?=");
    put_union(&into->rest, &s);
    if (several)
        tn_buf_puts(&into->rest, ")");
    put_buf(&into->rest, &more);
    tn_buf_puts(&into->rest, negated ? ")" ANY ")" : ")");
done:
    set_close(&s);
    tn_buf_close(&more);
    return st;
}

/* \b and \B: PCRE2's own know fewer word characters. */
void tn_regex_put_boundary(reader *r, bool is, tn_buf *out)
{
    tn_buf w;
    bool negated;
    tn_buf_open(&w, 1u << 20);
    (void)put_set(r, 'w', &w, &negated);
    const char *m = w.data != NULL ? w.data : "";
    tn_buf_printf(out, "(?:(?<=[%s])(?%c[%s])|(?<![%s])(?%c[%s]))", m, is ? '!' : '=', m, m,
                  is ? '=' : '!', m);
    out->failed = out->failed || w.failed;
    tn_buf_close(&w);
}

tn_status tn_regex_read_set(reader *r, tn_buf *out)
{
    set s;
    set_open(&s);
    tn_status st = read_member_set(r, &s);
    if (st == TN_OK)
        put_union(out, &s);
    set_close(&s);
    return st;
}

tn_status tn_regex_read_class(reader *r, uint32_t depth, tn_buf *out)
{
    set s;
    set_open(&s);
    tn_status st = read_class(r, depth, &s);
    if (st == TN_OK)
        put_union(out, &s);
    set_close(&s);
    return st;
}

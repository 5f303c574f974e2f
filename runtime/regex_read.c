/* SPDX-License-Identifier: Apache-2.0 */
/* regex_read.c - a regular expression from Oniguruma's Ruby dialect to PCRE2's.
 *
 * Where both write the same thing and mean the same, it passes; where they differ the PCRE2
 * text spells out what Oniguruma means. Groups never capture, for nothing refers to them. */
#include "regex.h"

#include "buf.h"
#include "newer.h"
#include "quote.h"
#include "unicode.h"

#include <strings.h>

#define DEPTH_MAX 64u
#define COUNT_MAX 1000u        /* greatest number in {n,m} */
#define REPEAT_VARIABLE_MAX 8u /* a body of varying length may repeat so often */
#define ENDLESS UINT32_MAX

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

typedef struct reader {
    const char *begin, *at, *end;
    const char *what;
    const tn_newer *newer;
    tn_err *err;
} reader;

/* How many characters an expression may match, ENDLESS and more being one. */
typedef struct shape {
    uint64_t least, most;
    bool atomic;  /* never gives back what it matched */
    bool width;   /* false for anchors and look-arounds, which may not repeat */
} shape;

static tn_status refuse(const reader *r, const char *why, const char *wanted)
{
    tn_quoted q;
    return tn_fail(r->err, TN_DATA, "%s: pattern %s: %s at its byte %zu; expected %s", r->what,
                   tn_quote(&q, r->begin, (size_t)(r->end - r->begin)), why,
                   (size_t)(r->at - r->begin), wanted);
}

static bool next_is(const reader *r, const char *text)
{
    size_t n = strlen(text);
    return (size_t)(r->end - r->at) >= n && memcmp(r->at, text, n) == 0;
}

static bool take(reader *r, const char *text)
{
    bool is = next_is(r, text);
    if (is)
        r->at += strlen(text);
    return is;
}

static uint32_t take_char(reader *r)
{
    const uint8_t *p = (const uint8_t *)r->at;
    uint32_t cp = tn_utf8_next(&p);
    r->at = (const char *)p;
    return cp;
}

static void put_char(tn_buf *out, uint32_t cp)
{
    tn_buf_printf(out, "\\x{%x}", cp);
}

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

/* The character an escape stands for, r->at behind the backslash. *is: false when the escape
 * is of another sort. */
static tn_status escaped_char(reader *r, uint32_t *cp, bool *is)
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
        bool braced = c == 'x' && take(r, "{");
        bool ok = braced ? take_hex(r, 1, 8, cp) && take(r, "}")
                         : take_hex(r, c == 'u' ? 4 : 1, c == 'u' ? 4 : 2, cp);
        if (!ok || *cp > 0x10ffff || (*cp >= 0xd800 && *cp < 0xe000))
            return refuse(r, "no code point", "\\xHH, \\x{H...} or \\uHHHH");
        return TN_OK;
    }
    if (c == '0' && (r->at + 1 == r->end || r->at[1] < '0' || r->at[1] > '7')) {
        r->at++;
        *cp = 0;
        return TN_OK;
    }
    *is = (uint8_t)c >= 0x80 || !((c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z'));
    if (*is)
        *cp = take_char(r);
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
static void put_category(const reader *r, const char *name, tn_buf *out)
{
    tn_buf_printf(out, "\\p{%s}", name);
    for (uint32_t i = 0; i < r->newer->n; i++) {
        const tn_newer_range *w = &r->newer->range[i];
        if (in_category(name, w->category))
            tn_buf_printf(out, "\\x{%x}-\\x{%x}", w->from, w->to);
    }
}

/* The members of \s \S \d \D \w \W \h \H as they stand inside a class, whose complement is
 * meant where *negated comes back. False: none of them. */
static bool put_set(const reader *r, char c, tn_buf *out, bool *negated)
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
    if (!take(r, "{"))
        return refuse(r, "\\p without braces", "\\p{Name}");
    if (take(r, "^"))
        *negated = !*negated;
    while (r->at < r->end && *r->at != '}') {
        char c = *r->at;
        bool fits = c == '_' || (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
        if (!fits || n + 1 >= sizeof name)
            return refuse(r, "no property name", "letters, digits and _ in braces");
        name[n++] = c;
        r->at++;
    }
    name[n] = 0;
    if (n == 0 || !take(r, "}"))
        return refuse(r, "an unfinished \\p", "\\p{Name}");
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
        if (take(r, names[i].name)) {
            (void)put_set(r, names[i].set, &s->flat, &negated);
            return TN_OK;
        }
    }
    return refuse(r, "an unknown class", "[:digit:], [:space:], [:word:] or [:xdigit:]");
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
        st = refuse(r, "an unknown escape in a class", "a character, \\s \\d \\w \\h or \\p");
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
        *cp = take_char(r);
        return TN_OK;
    }
    if (++r->at == r->end)
        return refuse(r, "a lone backslash", "an escape");
    if (take(r, "b")) {
        *cp = 8;
        return TN_OK;
    }
    tn_status st = escaped_char(r, cp, is_char);
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
    put_char(&s->flat, from);
    if (r->end - r->at < 2 || *r->at != '-' || r->at[1] == ']' || next_is(r, "-&&"))
        return TN_OK;
    r->at++;
    if (*r->at == '[')
        return refuse(r, "a range up to a class", "a range between two characters");
    st = read_member(r, s, &to, &is_char);
    if (st != TN_OK)
        return st;
    if (!is_char || to < from)
        return refuse(r, "an empty range", "a range that goes up");
    tn_buf_puts(&s->flat, "-");
    put_char(&s->flat, to);
    return TN_OK;
}

/* Members up to && or the closing bracket, which stay. */
static tn_status read_union(reader *r, uint32_t depth, set *s)
{
    while (r->at < r->end && *r->at != ']' && !next_is(r, "&&")) {
        tn_status st;
        if (next_is(r, "[:"))
            st = read_posix(r, s);
        else if (take(r, "["))
            st = read_class(r, depth + 1, s);
        else
            st = read_range(r, s);
        if (st != TN_OK)
            return st;
    }
    if (r->at == r->end)
        return refuse(r, "an unfinished class", "]");
    if (s->flat.len == 0 && s->rest.len == 0)
        return refuse(r, "an empty class", "at least one member");
    return TN_OK;
}

/* Sets joined by && become look-aheads before the last. */
static tn_status read_intersection(reader *r, uint32_t depth, tn_buf *out)
{
    for (;;) {
        set s;
        set_open(&s);
        tn_status st = read_union(r, depth, &s);
        bool more = st == TN_OK && take(r, "&&");
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
    if (depth > DEPTH_MAX)
        return refuse(r, "too deep a nesting", "at most 64 levels");
    bool negated = take(r, "^");
    set_open(&s);
    tn_buf_open(&more, 1u << 20);
    if (next_is(r, "]")) { /* first of all it stands for itself */
        put_char(&s.flat, ']');
        r->at++;
    }
    tn_status st = read_union(r, depth, &s);
    bool several = st == TN_OK && take(r, "&&");
    if (several)
        st = read_intersection(r, depth, &more);
    if (st != TN_OK)
        goto done;
    r->at++; /* the closing bracket */
    if (!several && !negated) {
        put_buf(&into->flat, &s.flat);
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

/* ---- atoms ---- */

static tn_status read_alternatives(reader *r, uint32_t depth, tn_buf *out, shape *sh);

/* \b and \B: PCRE2's own know fewer word characters. */
static void put_boundary(const reader *r, bool is, tn_buf *out)
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

static tn_status read_set(reader *r, tn_buf *out)
{
    set s;
    set_open(&s);
    tn_status st = read_member_set(r, &s);
    if (st == TN_OK)
        put_union(out, &s);
    set_close(&s);
    return st;
}

static tn_status read_escape(reader *r, tn_buf *out, shape *sh)
{
    if (++r->at == r->end)
        return refuse(r, "a lone backslash", "an escape");
    char c = *r->at;
    if (c != 0 && strchr("pPsSdDwWhH", c) != NULL)
        return read_set(r, out);
    if (c == 'A' || c == 'z' || c == 'Z' || c == 'b' || c == 'B') {
        r->at++;
        sh->least = sh->most = 0;
        sh->width = false;
        if (c == 'b' || c == 'B')
            put_boundary(r, c == 'b', out);
        else
            tn_buf_printf(out, "\\%c", c);
        return TN_OK;
    }
    uint32_t cp = 0;
    bool is_char = false;
    tn_status st = escaped_char(r, &cp, &is_char);
    if (st == TN_OK && !is_char)
        return refuse(r, "an unknown escape or a reference to a group",
                      "a character, \\s \\d \\w \\h \\p \\b \\A \\z or \\Z");
    if (st == TN_OK)
        put_char(out, cp);
    return st;
}

/* (?imx-imx) and (?imx-imx: with r->at behind the '?'. Ruby's m is what PCRE2 calls s. */
static tn_status read_options(reader *r, tn_buf *out)
{
    tn_buf_puts(out, "(?");
    for (; r->at < r->end && *r->at != ')' && *r->at != ':'; r->at++) {
        if (*r->at != 'i' && *r->at != 'm' && *r->at != '-')
            return refuse(r, "an unknown group or option (groups that look behind, recur or "
                             "are conditions are none)",
                          "(?: (?> (?= (?! (?<name> or the options i and m");
        tn_buf_putc(out, *r->at == 'm' ? 's' : *r->at);
    }
    tn_buf_puts(out, ":");
    return TN_OK;
}

static tn_status skip_name(reader *r)
{
    while (r->at < r->end && *r->at != '>')
        r->at++;
    return take(r, ">") ? TN_OK : refuse(r, "an unfinished group name", ">");
}

/* Behind the '('. An option without a colon lasts to the end of the group around it, so the
 * rest of that group becomes the option's own. */
static tn_status read_group(reader *r, uint32_t depth, tn_buf *out, shape *sh)
{
    bool look = false, to_end = false;
    tn_status st = TN_OK;
    if (take(r, "?=") || take(r, "?!")) {
        look = true;
        tn_buf_printf(out, "(?%c", r->at[-1]);
    } else if (take(r, "?>")) {
        sh->atomic = true;
        tn_buf_puts(out, "(?>");
    } else if (next_is(r, "?<=") || next_is(r, "?<!")) {
        return refuse(r, "a look-behind", "a pattern that looks ahead only");
    } else if (take(r, "?<")) {
        st = skip_name(r);
        tn_buf_puts(out, "(?:");
    } else if (take(r, "?")) {
        st = read_options(r, out);
        to_end = st == TN_OK && r->at < r->end && *r->at == ')';
        if (st == TN_OK && !to_end && !take(r, ":"))
            return refuse(r, "an unfinished group", ")");
        if (to_end)
            r->at++;
    } else {
        tn_buf_puts(out, "(?:");
    }
    if (st == TN_OK)
        st = read_alternatives(r, depth + 1, out, sh);
    if (st != TN_OK)
        return st;
    tn_buf_puts(out, ")");
    if (look) {
        sh->least = sh->most = 0;
        sh->width = false;
    }
    if (!to_end && !take(r, ")"))
        return refuse(r, "an unfinished group", ")");
    return TN_OK;
}

static tn_status read_atom(reader *r, uint32_t depth, tn_buf *out, shape *sh)
{
    *sh = (shape){.least = 1, .most = 1, .width = true};
    char c = *r->at;
    if (c == '\\')
        return read_escape(r, out, sh);
    if (c == '[') {
        set s;
        set_open(&s);
        r->at++;
        tn_status st = read_class(r, depth, &s);
        if (st == TN_OK)
            put_union(out, &s);
        set_close(&s);
        return st;
    }
    if (take(r, "("))
        return read_group(r, depth, out, sh);
    if (c == '^' || c == '$') {
        sh->least = sh->most = 0;
        sh->width = false;
        tn_buf_putc(out, c);
        r->at++;
        return TN_OK;
    }
    if (take(r, ".")) {
        tn_buf_puts(out, ".");
        return TN_OK;
    }
    if (c == '*' || c == '+' || c == '?')
        return refuse(r, "nothing to repeat", "a character, class or group before it");
    put_char(out, take_char(r));
    return TN_OK;
}

/* ---- repetition ---- */

static bool take_count(reader *r, uint32_t *out)
{
    const char *from = r->at;
    *out = 0;
    for (; r->at < r->end && *r->at >= '0' && *r->at <= '9'; r->at++)
        if (*out <= COUNT_MAX)
            *out = *out * 10 + (uint32_t)(*r->at - '0');
    return r->at > from;
}

/* {n} {n,} {,m} {n,m}; anything else after a brace is plain text. */
static bool take_counts(reader *r, uint32_t *least, uint32_t *most)
{
    const char *from = r->at;
    if (!take(r, "{"))
        return false;
    bool low = take_count(r, least), comma = take(r, ",");
    bool high = comma && take_count(r, most);
    if ((low || high) && take(r, "}")) {
        if (!comma)
            *most = *least;
        else if (!high)
            *most = ENDLESS;
        return true;
    }
    r->at = from;
    return false;
}

static tn_status check_repeat(const reader *r, const shape *sh, uint32_t least, uint32_t most,
                              bool possessive)
{
    if (!sh->width)
        return refuse(r, "an anchor or look-around that repeats", "something with a width");
    if (least > COUNT_MAX || (most != ENDLESS && (most > COUNT_MAX || most < least)))
        return refuse(r, "a count out of range", "{n,m} with n <= m <= 1000");
    if (sh->least != sh->most && most > REPEAT_VARIABLE_MAX && !sh->atomic && !possessive)
        return refuse(r, "a repetition of what may itself vary in length, which can take "
                         "exponential time", "no repetition inside a repetition");
    return TN_OK;
}

static void put_repeat(tn_buf *out, uint32_t least, uint32_t most, char kind)
{
    if (most == ENDLESS)
        tn_buf_printf(out, "{%u,}", least);
    else
        tn_buf_printf(out, "{%u,%u}", least, most);
    if (kind != 0)
        tn_buf_putc(out, kind);
}

/* Puts a group around what was written from `at` on. */
static void wrap(tn_buf *out, size_t at)
{
    size_t n = out->len - at;
    tn_buf_puts(out, "(?:)");
    if (out->failed)
        return;
    memmove(out->data + at + 3, out->data + at, n);
    memcpy(out->data + at, "(?:", 3);
    out->data[out->len - 1] = ')';
}

/* What follows an atom, which was written from `at` on. In Ruby's dialect a '+' behind {n,m}
 * is no sign of possession but repeats once more: X{1,3}+ is X+ then, where X has one width;
 * and X{3}* is (?:X{3})*. */
static tn_status read_repeat(reader *r, tn_buf *out, size_t at, shape *sh)
{
    uint32_t least = 1, most = 1;
    bool counted = false, lazy = false, possessive = false;
    if (take(r, "*"))
        least = 0, most = ENDLESS;
    else if (take(r, "+"))
        most = ENDLESS;
    else if (take(r, "?"))
        least = 0;
    else if (take_counts(r, &least, &most))
        counted = true;
    else
        return TN_OK;
    if (counted && least <= 1 && least < most && sh->least == sh->most && take(r, "+"))
        most = ENDLESS;
    else if (!counted && take(r, "+"))
        possessive = true;
    else if (!(counted && least == most) && take(r, "?"))
        lazy = true;
    bool again = r->at < r->end && (*r->at == '?' || *r->at == '*' || *r->at == '+');
    if (again && !(counted && least == most))
        return refuse(r, "a repetition of a repetition", "one repetition");
    tn_status st = check_repeat(r, sh, least, most, possessive);
    if (st != TN_OK)
        return st;
    put_repeat(out, least, most, possessive ? '+' : lazy ? '?' : 0);
    sh->least *= least;
    sh->most = sh->most >= ENDLESS || most == ENDLESS ? ENDLESS : sh->most * most;
    if (sh->most > ENDLESS)
        sh->most = ENDLESS;
    if (sh->least > ENDLESS)
        sh->least = ENDLESS;
    sh->atomic = sh->atomic || possessive;
    if (!again)
        return TN_OK;
    wrap(out, at);
    return read_repeat(r, out, at, sh);
}

static tn_status read_sequence(reader *r, uint32_t depth, tn_buf *out, shape *sh)
{
    *sh = (shape){.width = true};
    while (r->at < r->end && *r->at != '|' && *r->at != ')') {
        shape atom;
        size_t at = out->len;
        tn_status st = read_atom(r, depth, out, &atom);
        if (st == TN_OK)
            st = read_repeat(r, out, at, &atom);
        if (st != TN_OK)
            return st;
        sh->least += atom.least;
        sh->most = sh->most + atom.most > ENDLESS ? ENDLESS : sh->most + atom.most;
    }
    return TN_OK;
}

static tn_status read_alternatives(reader *r, uint32_t depth, tn_buf *out, shape *sh)
{
    if (depth > DEPTH_MAX)
        return refuse(r, "too deep a nesting", "at most 64 levels");
    bool atomic = sh->atomic;
    tn_status st = read_sequence(r, depth, out, sh);
    while (st == TN_OK && take(r, "|")) {
        shape next;
        tn_buf_puts(out, "|");
        st = read_sequence(r, depth, out, &next);
        sh->least = next.least < sh->least ? next.least : sh->least;
        sh->most = next.most > sh->most ? next.most : sh->most;
    }
    sh->atomic = atomic;
    return st;
}

tn_status tn_regex_translate(const char *pattern, size_t size, const char *what,
                             struct tn_buf *out, tn_err *err)
{
    tn_newer newer = {0};
    reader r = {.begin = pattern, .at = pattern, .end = pattern + size, .what = what,
                .newer = &newer, .err = err};
    shape sh = {0};
    if (memchr(pattern, '\\', size) != NULL && !tn_newer_open(&newer))
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory for its pattern", what);
    tn_status st = read_alternatives(&r, 0, out, &sh);
    if (st == TN_OK && r.at < r.end)
        st = refuse(&r, "a ')' too many", "balanced groups");
    tn_newer_close(&newer);
    return st;
}

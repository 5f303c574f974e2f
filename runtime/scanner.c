/* SPDX-License-Identifier: Apache-2.0 */
/* scanner.c - hand-written matchers for the patterns that published tokenizers split by.
 *
 * A regular expression tries its alternatives in order and takes the first that matches, so
 * each scanner below is its list of alternatives, and each alternative a function that
 * answers how far it reaches (NULL: not at all). */
#include "scanner.h"

#include "unicode.h"

#include <string.h>

#define LETTER TN_KIND_LETTER
#define NUMBER TN_KIND_NUMBER
#define MARK TN_KIND_MARK
#define SPACE TN_KIND_SPACE
#define PUNCT TN_KIND_PUNCT

/* The kind of the character at *p, which moves past it. */
static inline uint8_t kind_next(const uint8_t *kinds, const uint8_t **p)
{
    return kinds[tn_utf8_next(p)];
}

static inline uint8_t kind_at(const uint8_t *kinds, const uint8_t *p)
{
    return kinds[tn_utf8_next(&p)];
}

/* Behind the characters from p on that have one of the bits (`in`), or none of them. */
static inline const uint8_t *run(const uint8_t *kinds, const uint8_t *p, const uint8_t *end,
                                 uint8_t bits, bool in)
{
    while (p < end) {
        const uint8_t *q = p;
        if (((kind_next(kinds, &q) & bits) != 0) != in)
            break;
        p = q;
    }
    return p;
}

static inline bool is_newline(uint8_t c)
{
    return c == '\r' || c == '\n';
}

static const uint8_t *newlines(const uint8_t *p, const uint8_t *end)
{
    while (p < end && is_newline(*p))
        p++;
    return p;
}

/* ---- shared alternatives ---- */

/* 's 't 're 've 'm 'll 'd. Without regard to case the long s (U+017F) is an s too. */
static const uint8_t *contraction(const uint8_t *p, const uint8_t *end, bool any_case)
{
    size_t left = (size_t)(end - p);
    if (left < 2 || *p != '\'')
        return NULL;
    uint8_t a = p[1], b = left > 2 ? p[2] : 0;
    if (any_case && a == 0xc5 && b == 0xbf)
        return p + 3;
    if (any_case) {
        a |= a >= 'A' && a <= 'Z' ? 32 : 0;
        b |= b >= 'A' && b <= 'Z' ? 32 : 0;
    }
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return p + 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))
        return p + 3;
    return NULL;
}

/* [^\r\n\p{L}\p{N}]?X+ where X has one of `bits`. */
static const uint8_t *word(const uint8_t *kinds, const uint8_t *p, const uint8_t *end,
                           uint8_t bits)
{
    const uint8_t *q = p;
    uint8_t k = kind_next(kinds, &q);
    if ((k & (LETTER | NUMBER)) == 0 && !is_newline(*p)) {
        if (q < end && (kind_at(kinds, q) & bits) != 0)
            return run(kinds, q, end, bits, true);
    }
    return k & bits ? run(kinds, q, end, bits, true) : NULL;
}

/* \p{N}{1,most} */
static const uint8_t *number(const uint8_t *kinds, const uint8_t *p, const uint8_t *end,
                             unsigned most)
{
    const uint8_t *from = p;
    for (; most > 0 && p < end; most--) {
        const uint8_t *q = p;
        if ((kind_next(kinds, &q) & NUMBER) == 0)
            break;
        p = q;
    }
    return p > from ? p : NULL;
}

/* " ?X+" where X has one of the bits (`in`), or none of them. */
static const uint8_t *spaced(const uint8_t *kinds, const uint8_t *p, const uint8_t *end,
                             uint8_t bits, bool in)
{
    const uint8_t *from = p + (*p == ' ');
    const uint8_t *stop = run(kinds, from, end, bits, in);
    if (stop > from)
        return stop;
    stop = run(kinds, p, end, bits, in); /* a blank that is itself an X */
    return stop > p ? stop : NULL;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+, or the last two alone: through the last line end of the white
 * space, else all but its last character (which goes with the next word), else that one. */
static const uint8_t *blanks(const uint8_t *kinds, const uint8_t *p, const uint8_t *end,
                             bool lines)
{
    const uint8_t *from = p, *last = p, *line = NULL;
    while (p < end) {
        const uint8_t *q = p;
        if ((kind_next(kinds, &q) & SPACE) == 0)
            break;
        last = p;
        if (is_newline(*p))
            line = q;
        p = q;
    }
    if (p == from)
        return NULL;
    if (lines && line != NULL)
        return line;
    return p == end || last == from ? p : last;
}

/* ---- GPT-2 and its kin ---- */

static size_t gpt2(const uint8_t *kinds, const uint8_t *p, const uint8_t *end)
{
    const uint8_t *to = contraction(p, end, false);
    if (to == NULL)
        to = spaced(kinds, p, end, LETTER, true);
    if (to == NULL)
        to = spaced(kinds, p, end, NUMBER, true);
    if (to == NULL)
        to = spaced(kinds, p, end, SPACE | LETTER | NUMBER, false);
    if (to == NULL)
        to = blanks(kinds, p, end, false);
    return to == NULL ? 0 : (size_t)(to - p);
}

static inline size_t cl100k(const uint8_t *kinds, const uint8_t *p, const uint8_t *end,
                            uint8_t letters, unsigned digits)
{
    const uint8_t *to = contraction(p, end, true);
    if (to == NULL)
        to = word(kinds, p, end, letters);
    if (to == NULL)
        to = number(kinds, p, end, digits);
    if (to == NULL) {
        to = spaced(kinds, p, end, (uint8_t)(SPACE | letters | NUMBER), false);
        if (to != NULL)
            to = newlines(to, end);
    }
    if (to == NULL)
        to = blanks(kinds, p, end, true);
    return to == NULL ? 0 : (size_t)(to - p);
}

static size_t llama3(const uint8_t *kinds, const uint8_t *p, const uint8_t *end)
{
    return cl100k(kinds, p, end, LETTER, 3);
}

static size_t qwen2(const uint8_t *kinds, const uint8_t *p, const uint8_t *end)
{
    return cl100k(kinds, p, end, LETTER, 1);
}

static size_t qwen35(const uint8_t *kinds, const uint8_t *p, const uint8_t *end)
{
    return cl100k(kinds, p, end, LETTER | MARK, 1);
}

/* ---- o200k and Tekken: words split where capitals begin ---- */

/* [UPPER]*[LOWER]+ : the capitals reach as far as they can and give back as little as they
 * must, which is the last of them that counts as lower case too. */
static const uint8_t *upper_lower(const uint8_t *kinds, const uint8_t *p, const uint8_t *end)
{
    const uint8_t *both = NULL; /* behind the last character of the run that is in both sets */
    while (p < end) {
        const uint8_t *q = p;
        uint8_t k = kind_next(kinds, &q);
        if ((k & TN_KIND_UPPER) == 0)
            break;
        if (k & TN_KIND_LOWER)
            both = q;
        p = q;
    }
    const uint8_t *to = run(kinds, p, end, TN_KIND_LOWER, true);
    return to > p ? to : both;
}

/* [UPPER]+[LOWER]* */
static const uint8_t *upper_any(const uint8_t *kinds, const uint8_t *p, const uint8_t *end)
{
    const uint8_t *to = run(kinds, p, end, TN_KIND_UPPER, true);
    return to > p ? run(kinds, to, end, TN_KIND_LOWER, true) : NULL;
}

/* Both, each first behind one character that is no letter, number or line end. */
static const uint8_t *cased_word(const uint8_t *kinds, const uint8_t *p, const uint8_t *end)
{
    const uint8_t *q = p, *to = NULL;
    bool prefix = (kind_next(kinds, &q) & (LETTER | NUMBER)) == 0 && !is_newline(*p);
    if (prefix)
        to = upper_lower(kinds, q, end);
    if (to == NULL)
        to = upper_lower(kinds, p, end);
    if (to == NULL && prefix)
        to = upper_any(kinds, q, end);
    if (to == NULL)
        to = upper_any(kinds, p, end);
    return to;
}

static inline size_t cased(const uint8_t *kinds, const uint8_t *p, const uint8_t *end,
                           bool contractions, unsigned digits)
{
    const uint8_t *to = cased_word(kinds, p, end);
    if (to != NULL && contractions) {
        const uint8_t *more = contraction(to, end, true);
        if (more != NULL)
            to = more;
    }
    if (to == NULL)
        to = number(kinds, p, end, digits);
    if (to == NULL) {
        to = spaced(kinds, p, end, SPACE | LETTER | NUMBER, false);
        while (to != NULL && to < end && (is_newline(*to) || *to == '/'))
            to++;
    }
    if (to == NULL)
        to = blanks(kinds, p, end, true);
    return to == NULL ? 0 : (size_t)(to - p);
}

static size_t o200k(const uint8_t *kinds, const uint8_t *p, const uint8_t *end)
{
    return cased(kinds, p, end, true, 3);
}

static size_t tekken(const uint8_t *kinds, const uint8_t *p, const uint8_t *end)
{
    return cased(kinds, p, end, false, 1);
}

/* ---- DeepSeek: several splits one after the other ---- */

static size_t numbers3(const uint8_t *kinds, const uint8_t *p, const uint8_t *end)
{
    const uint8_t *to = number(kinds, p, end, 3);
    return to == NULL ? 0 : (size_t)(to - p);
}

static size_t numbers(const uint8_t *kinds, const uint8_t *p, const uint8_t *end)
{
    return (size_t)(run(kinds, p, end, NUMBER, true) - p);
}

static size_t one_number(const uint8_t *kinds, const uint8_t *p, const uint8_t *end)
{
    const uint8_t *to = number(kinds, p, end, 1);
    return to == NULL ? 0 : (size_t)(to - p);
}

/* Han up to U+9FA5, Hiragana, Katakana: all of three bytes. */
static size_t han_kana(const uint8_t *kinds, const uint8_t *p, const uint8_t *end)
{
    const uint8_t *from = p;
    (void)kinds;
    while (p < end && *p >= 0xe3 && *p <= 0xe9) {
        const uint8_t *q = p;
        uint32_t cp = tn_utf8_next(&q);
        if (!(cp >= 0x4e00 && cp <= 0x9fa5) && !(cp >= 0x3040 && cp <= 0x30ff))
            break;
        p = q;
    }
    return (size_t)(p - from);
}

static bool is_ascii_letter(uint8_t c)
{
    return (c | 32) >= 'a' && (c | 32) <= 'z';
}

static bool is_ascii_punct(uint8_t c)
{
    return c > ' ' && c < 0x7f && !is_ascii_letter(c) && !(c >= '0' && c <= '9');
}

static size_t deepseek3(const uint8_t *kinds, const uint8_t *p, const uint8_t *end)
{
    const uint8_t *q = p, *to = NULL;
    if (is_ascii_punct(*p) && p + 1 < end && is_ascii_letter(p[1])) {
        for (to = p + 2; to < end && is_ascii_letter(*to); to++)
            ;
        return (size_t)(to - p);
    }
    uint8_t k = kind_next(kinds, &q);
    if ((k & (LETTER | PUNCT)) == 0 && !is_newline(*p) && q < end &&
        (kind_at(kinds, q) & (LETTER | MARK)) != 0)
        to = run(kinds, q, end, LETTER | MARK, true);
    if (to == NULL && (k & (LETTER | MARK)) != 0)
        to = run(kinds, q, end, LETTER | MARK, true);
    if (to == NULL) {
        to = spaced(kinds, p, end, PUNCT, true);
        if (to != NULL)
            to = newlines(to, end);
    }
    if (to == NULL)
        to = blanks(kinds, p, end, true);
    return to == NULL ? 0 : (size_t)(to - p);
}

static size_t one_newline(const uint8_t *kinds, const uint8_t *p, const uint8_t *end)
{
    (void)kinds;
    (void)end;
    return is_newline(*p);
}

/* "\s?X+" where X has one of the bits and no X is white space. */
static size_t blank_then(const uint8_t *kinds, const uint8_t *p, const uint8_t *end,
                         uint8_t bits)
{
    const uint8_t *from = p;
    if (kind_at(kinds, p) & SPACE)
        (void)tn_utf8_next(&from);
    const uint8_t *to = run(kinds, from, end, bits, true);
    return to > from ? (size_t)(to - p) : 0;
}

static size_t blank_letters(const uint8_t *kinds, const uint8_t *p, const uint8_t *end)
{
    return blank_then(kinds, p, end, LETTER);
}

/* \s+$ : white space up to the end of the text, or to a line end that more text follows. */
static size_t blanks_to_end(const uint8_t *kinds, const uint8_t *p, const uint8_t *end)
{
    const uint8_t *from = p, *line = NULL;
    while (p < end) {
        const uint8_t *q = p;
        if ((kind_next(kinds, &q) & SPACE) == 0)
            break;
        if (*p == '\n' && p > from)
            line = p;
        p = q;
    }
    if (p == end && p > from)
        return (size_t)(p - from);
    return line == NULL ? 0 : (size_t)(line - from);
}

/* Han, and what lies around it, as the first DeepSeek models have it. */
static size_t han_wide(const uint8_t *kinds, const uint8_t *p, const uint8_t *end)
{
    const uint8_t *from = p;
    (void)kinds;
    while (p < end && *p >= 0xe0 && *p <= 0xed) {
        const uint8_t *q = p;
        uint32_t cp = tn_utf8_next(&q);
        if (!(cp >= 0x0800 && cp <= 0x9fa5) && !(cp >= 0xac00 && cp <= 0xd7ff))
            break;
        p = q;
    }
    return (size_t)(p - from);
}

/* ---- the list ---- */

#define TAIL "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define ANY_CASE "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define UP "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOW "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define OTHER "[^\\r\\n\\p{L}\\p{N}]?"

const tn_scanner tn_scanners[] = {
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
     gpt2, 0, false},
    {ANY_CASE "|" OTHER "\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" TAIL,
     llama3, 0, false},
    {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]++"
     "[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+", llama3, 0, false},
    {ANY_CASE "|" OTHER "\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" TAIL, qwen2, 0, false},
    {ANY_CASE "|" OTHER "[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" TAIL,
     qwen35, 0, false},
    {OTHER UP "*" LOW "+" ANY_CASE "?|" OTHER UP "+" LOW "*" ANY_CASE "?|\\p{N}{1,3}"
     "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" TAIL, o200k, 0, false},
    {OTHER UP "*" LOW "+|" OTHER UP "+" LOW "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" TAIL,
     tekken, 0, false},
    {"\\p{N}{1,3}", numbers3, NUMBER, false},
    {"\\p{N}+", numbers, NUMBER, false},
    {"\\p{N}", one_number, NUMBER, false},
    {"[\xe4\xb8\x80-\xe9\xbe\xa5\xe3\x81\x80-\xe3\x82\x9f\xe3\x82\xa0-\xe3\x83\xbf]+",
     han_kana, 0, false},
    {"[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?"
     "[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*" TAIL, deepseek3, 0, false},
    {"[\\r\\n]", one_newline, SPACE, false},
    {"\\s?\\p{L}+", blank_letters, SPACE | LETTER, false},
    {"\\s+$", blanks_to_end, SPACE, true},
    {"[\xe4\xb8\x80-\xe9\xbe\xa5\xe0\xa0\x80-\xe4\xb8\x80\xea\xb0\x80-\xed\x9f\xbf]+",
     han_wide, 0, false},
};

const size_t tn_scanner_count = sizeof tn_scanners / sizeof *tn_scanners;

/* Files write a carriage return inside a class as \r or as the character itself. */
static bool same(const char *pattern, const char *text, size_t size)
{
    size_t i = 0;
    for (; *pattern != 0 && i < size; pattern++, i++) {
        if (*pattern == text[i])
            continue;
        bool escape = *pattern == '\\' && ((pattern[1] == 'r' && text[i] == '\r') ||
                                           (pattern[1] == 'n' && text[i] == '\n'));
        if (!escape)
            return false;
        pattern++;
    }
    return *pattern == 0 && i == size;
}

const tn_scanner *tn_scanner_find(const char *pattern, size_t size)
{
    for (size_t i = 0; i < tn_scanner_count; i++)
        if (same(tn_scanners[i].pattern, pattern, size))
            return &tn_scanners[i];
    return NULL;
}

void tn_scanner_next(const tn_scanner *s, const uint8_t *kinds, const uint8_t *text,
                     size_t size, size_t from, size_t *start, size_t *stop)
{
    const uint8_t *p = text + from, *end = text + size;
    *start = SIZE_MAX;
    while (p < end) {
        if (s->begin != 0)
            p = run(kinds, p, end, s->begin, false);
        if (p == end)
            return;
        size_t n = s->match(kinds, p, end);
        if (n > 0) {
            *start = (size_t)(p - text);
            *stop = *start + n;
            return;
        }
        if (s->fails_whole)
            p = run(kinds, p, end, s->begin, true);
        else
            (void)tn_utf8_next(&p);
    }
}

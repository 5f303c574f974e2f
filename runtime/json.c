/* SPDX-License-Identifier: Apache-2.0 */
/* json.c - a strict JSON reader (RFC 8259) into the read-only tree of plugin.h.
 *
 * One pass over a private copy of the text. Strings are unescaped in place (an unescaped string
 * is never longer than its source) and nodes point into the copy. Duplicate keys are found by
 * a hash set per object once it outgrows a short scan, so 10^6 members stay linear. */
#include "json.h"

#include "arena.h"
#include "buf.h"

#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEYS_SCANNED 8u /* objects up to this size are checked by comparing */

struct tn_json_doc {
    tn_arena arena;
    char *text; /* owned copy, strings point into it */
    tn_json *root;
};

typedef struct key_set {
    const tn_json **slot;
    size_t cap, used;
} key_set;

typedef struct reader {
    tn_json_doc *doc;
    char *at, *end;
    const char *what;
    uint32_t depth_max;
    uint64_t salt; /* keeps a stranger from choosing colliding keys */
    locale_t c_locale;
    tn_err *err;
} reader;

static tn_status refuse(reader *r, const char *at, const char *code, const char *text)
{
    size_t offset = (size_t)(at - r->doc->text);
    tn_status st = tn_fail(r->err, TN_DATA, "%s: byte %zu: %s", r->what, offset, text);
    if (r->err != NULL)
        memcpy(r->err->code, code, strlen(code) + 1);
    return st;
}

static tn_status no_memory(reader *r)
{
    return tn_fail(r->err, TN_NO_MEMORY, "%s: no memory for the parsed document", r->what);
}

static void skip_blank(reader *r)
{
    while (r->at < r->end &&
           (*r->at == ' ' || *r->at == '\n' || *r->at == '\r' || *r->at == '\t'))
        r->at++;
}

/* Length of the valid UTF-8 sequence at p, 0 if there is none (Unicode table 3-7). */
static size_t utf8_len(const unsigned char *p, const unsigned char *end)
{
    size_t left = (size_t)(end - p);
    if (p[0] < 0x80)
        return 1;
    if (p[0] >= 0xC2 && p[0] <= 0xDF)
        return left >= 2 && (p[1] & 0xC0) == 0x80 ? 2 : 0;
    if (p[0] >= 0xE0 && p[0] <= 0xEF) {
        unsigned lo = p[0] == 0xE0 ? 0xA0 : 0x80, hi = p[0] == 0xED ? 0x9F : 0xBF;
        return left >= 3 && p[1] >= lo && p[1] <= hi && (p[2] & 0xC0) == 0x80 ? 3 : 0;
    }
    if (p[0] >= 0xF0 && p[0] <= 0xF4) {
        unsigned lo = p[0] == 0xF0 ? 0x90 : 0x80, hi = p[0] == 0xF4 ? 0x8F : 0xBF;
        return left >= 4 && p[1] >= lo && p[1] <= hi && (p[2] & 0xC0) == 0x80 &&
                       (p[3] & 0xC0) == 0x80
                   ? 4
                   : 0;
    }
    return 0;
}

static int hex4(const char *p, const char *end)
{
    int v = 0;
    if (end - p < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (d < 0)
            return -1;
        v = v * 16 + d;
    }
    return v;
}

static char *put_code(char *to, unsigned code)
{
    if (code < 0x80) {
        *to++ = (char)code;
    } else if (code < 0x800) {
        *to++ = (char)(0xC0 | code >> 6);
        *to++ = (char)(0x80 | (code & 63));
    } else if (code < 0x10000) {
        *to++ = (char)(0xE0 | code >> 12);
        *to++ = (char)(0x80 | (code >> 6 & 63));
        *to++ = (char)(0x80 | (code & 63));
    } else {
        *to++ = (char)(0xF0 | code >> 18);
        *to++ = (char)(0x80 | (code >> 12 & 63));
        *to++ = (char)(0x80 | (code >> 6 & 63));
        *to++ = (char)(0x80 | (code & 63));
    }
    return to;
}

/* The escape after a backslash at r->at; moves past it and writes what it stands for. */
static tn_status read_escape(reader *r, char **to)
{
    const char *start = r->at;
    if (r->end - r->at < 2)
        return refuse(r, start, "invalid_json",
                      "the text ends inside a string; expected its closing quote");
    char c = r->at[1];
    static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
    const char *hit = c != 0 ? strchr(from, c) : NULL;
    if (hit != NULL) {
        *(*to)++ = into[hit - from];
        r->at += 2;
        return TN_OK;
    }
    if (c != 'u')
        return refuse(r, start, "invalid_json",
                      "an unknown escape in a string; expected one of JSON's");
    int hi = hex4(r->at + 2, r->end);
    if (hi < 0)
        return refuse(r, start, "invalid_json",
                      "an incomplete \\u; expected four hexadecimal digits");
    r->at += 6;
    unsigned code = (unsigned)hi;
    if (hi >= 0xD800 && hi <= 0xDBFF) {
        int lo = r->end - r->at >= 6 && r->at[0] == '\\' && r->at[1] == 'u'
                     ? hex4(r->at + 2, r->end)
                     : -1;
        if (lo < 0xDC00 || lo > 0xDFFF)
            return refuse(r, start, "invalid_json", "half of a surrogate pair; expected both");
        code = 0x10000u + ((unsigned)(hi - 0xD800) << 10) + (unsigned)(lo - 0xDC00);
        r->at += 6;
    } else if (hi >= 0xDC00 && hi <= 0xDFFF) {
        return refuse(r, start, "invalid_json", "half of a surrogate pair; expected both");
    }
    *to = put_code(*to, code);
    return TN_OK;
}

/* r->at stands on the opening quote. */
static tn_status read_text(reader *r, const char **text, uint32_t *size)
{
    const char *start = r->at++;
    char *to = r->at;
    *text = to;
    for (;;) {
        char *from = r->at; /* the common run: plain ASCII */
        while (r->at < r->end && (unsigned char)*r->at >= 0x20 && *r->at != '"' &&
               *r->at != '\\' && (unsigned char)*r->at < 0x80)
            r->at++;
        if (to != from)
            memmove(to, from, (size_t)(r->at - from));
        to += r->at - from;
        if (r->at >= r->end)
            return refuse(r, start, "invalid_json",
                          "the text ends inside a string; expected its closing quote");
        unsigned char c = (unsigned char)*r->at;
        if (c == '"')
            break;
        if (c == '\\') {
            tn_status st = read_escape(r, &to);
            if (st != TN_OK)
                return st;
            continue;
        }
        if (c < 0x20)
            return refuse(r, r->at, "invalid_json",
                          "a control character inside a string; expected it escaped");
        size_t n = utf8_len((const unsigned char *)r->at, (const unsigned char *)r->end);
        if (n == 0)
            return refuse(r, r->at, "invalid_utf8", "invalid UTF-8; expected text in UTF-8");
        memmove(to, r->at, n);
        to += n;
        r->at += n;
    }
    size_t len = (size_t)(to - *text);
    if (len > UINT32_MAX)
        return refuse(r, start, "invalid_json",
                      "a string of more than 4 GiB; expected a shorter one");
    *size = (uint32_t)len;
    r->at++;
    *to = 0; /* the closing quote or what an escape freed */
    return TN_OK;
}

static const char *skip_digits(const char *p, const char *end)
{
    while (p < end && *p >= '0' && *p <= '9')
        p++;
    return p;
}

static tn_status read_number(reader *r, tn_json *v)
{
    const char *start = r->at, *p = start;
    bool whole = true;
    if (p < r->end && *p == '-')
        p++;
    const char *digits = p;
    p = skip_digits(p, r->end);
    if (p == digits)
        return refuse(r, start, "invalid_json", "no JSON value; expected one");
    if (*digits == '0' && p - digits > 1)
        return refuse(r, start, "invalid_json",
                      "a number with a leading zero; expected it without");
    if (p < r->end && *p == '.') {
        const char *f = p + 1;
        whole = false;
        p = skip_digits(f, r->end);
        if (p == f)
            return refuse(r, start, "invalid_json",
                          "a number ends with its decimal point; expected digits");
    }
    if (p < r->end && (*p == 'e' || *p == 'E')) {
        const char *e = p + 1;
        whole = false;
        if (e < r->end && (*e == '+' || *e == '-'))
            e++;
        p = skip_digits(e, r->end);
        if (p == e)
            return refuse(r, start, "invalid_json",
                          "a number ends with its exponent sign; expected digits");
    }
    char after = p < r->end ? *p : 0;
    char *mark = (char *)p; /* the copy is ours; one byte past `end` is a NUL of ours too */
    *mark = 0;
    v->type = TN_JSON_FLOAT;
    v->f = strtod_l(start, NULL, r->c_locale);
    if (whole) {
        errno = 0;
        long long i = strtoll(start, NULL, 10);
        if (errno == 0) {
            v->type = TN_JSON_INT;
            v->i = i;
            v->f = (double)i;
        }
    }
    *mark = after;
    r->at = mark;
    if (!isfinite(v->f))
        return refuse(r, start, "invalid_json",
                      "a number outside the range of a double; expected less");
    return TN_OK;
}

static uint64_t key_hash(const reader *r, const char *key, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u ^ r->salt;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)key[i]) * 0x100000001b3u;
    h ^= h >> 32;
    h *= 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

static bool same_key(const tn_json *a, const tn_json *b)
{
    return a->key_size == b->key_size && memcmp(a->key, b->key, a->key_size) == 0;
}

static void set_put(const reader *r, key_set *s, const tn_json *m)
{
    size_t i = key_hash(r, m->key, m->key_size) & (s->cap - 1);
    while (s->slot[i] != NULL)
        i = (i + 1) & (s->cap - 1);
    s->slot[i] = m;
    s->used++;
}

static const tn_json *set_find(const reader *r, const key_set *s, const tn_json *m)
{
    size_t i = key_hash(r, m->key, m->key_size) & (s->cap - 1);
    for (; s->slot[i] != NULL; i = (i + 1) & (s->cap - 1))
        if (same_key(s->slot[i], m))
            return s->slot[i];
    return NULL;
}

static bool set_grow(const reader *r, key_set *s)
{
    key_set bigger = {.cap = s->cap == 0 ? 64 : s->cap * 4};
    bigger.slot = calloc(bigger.cap, sizeof *bigger.slot);
    if (bigger.slot == NULL)
        return false;
    for (size_t i = 0; i < s->cap; i++)
        if (s->slot[i] != NULL)
            set_put(r, &bigger, s->slot[i]);
    free(s->slot);
    *s = bigger;
    return true;
}

/* Is m's key new in o (whose last child so far is linked)? Adds it to the set. */
static tn_status check_key(reader *r, const tn_json *o, key_set *s, const tn_json *m)
{
    bool twice = false;
    if (o->count < KEYS_SCANNED) {
        for (const tn_json *c = o->child; c != NULL && !twice; c = c->next)
            twice = same_key(c, m);
    } else {
        if (s->cap == 0) {
            if (!set_grow(r, s))
                return no_memory(r);
            for (const tn_json *c = o->child; c != NULL; c = c->next)
                set_put(r, s, c);
        }
        twice = set_find(r, s, m) != NULL;
        if (!twice && (s->used + 1) * 2 > s->cap && !set_grow(r, s))
            return no_memory(r);
        if (!twice)
            set_put(r, s, m);
    }
    if (!twice)
        return TN_OK;
    tn_status st = tn_fail(r->err, TN_DATA, "%s: byte %u: the key \"%.64s\" stands twice in one "
                           "object; expected unique keys", r->what, m->offset, m->key);
    if (r->err != NULL) {
        memcpy(r->err->code, "duplicate_key", sizeof "duplicate_key");
        snprintf(r->err->param, sizeof r->err->param, "%.100s", m->key);
    }
    return st;
}

static tn_status read_value(reader *r, uint32_t depth, tn_json *v);

static tn_status read_member_key(reader *r, tn_json *m)
{
    skip_blank(r);
    if (r->at >= r->end || *r->at != '"')
        return refuse(r, r->at, "invalid_json", "no key; expected one in double quotes");
    m->offset = (uint32_t)(r->at - r->doc->text);
    tn_status st = read_text(r, &m->key, &m->key_size);
    if (st != TN_OK)
        return st;
    skip_blank(r);
    if (r->at >= r->end || *r->at != ':')
        return refuse(r, r->at, "invalid_json", "no ':' after a key; expected it");
    r->at++;
    return TN_OK;
}

/* The children of the list or object v; r->at is behind the opening bracket. */
static tn_status read_children(reader *r, uint32_t depth, tn_json *v, key_set *keys)
{
    bool object = v->type == TN_JSON_OBJECT;
    char closing = object ? '}' : ']';
    tn_json *last = NULL;
    skip_blank(r);
    if (r->at < r->end && *r->at == closing) {
        r->at++;
        return TN_OK;
    }
    for (;;) {
        tn_json *m = tn_arena_take(&r->doc->arena, sizeof *m);
        if (m == NULL || v->count == UINT32_MAX)
            return no_memory(r);
        tn_status st = object ? read_member_key(r, m) : TN_OK;
        if (st == TN_OK && object)
            st = check_key(r, v, keys, m);
        if (st == TN_OK)
            st = read_value(r, depth + 1, m);
        if (st != TN_OK)
            return st;
        if (last == NULL)
            v->child = m;
        else
            last->next = m;
        last = m;
        v->count++;
        skip_blank(r);
        if (r->at >= r->end)
            return refuse(r, r->at, "invalid_json",
                          "the text ends inside a list or object; expected its end");
        char c = *r->at++;
        if (c == closing)
            return TN_OK;
        if (c != ',')
            return refuse(r, r->at - 1, "invalid_json",
                          "no ',' after an entry; expected it, or the closing bracket");
    }
}

static tn_status read_word(reader *r, const char *word, uint32_t type, tn_json *v)
{
    size_t n = strlen(word);
    if ((size_t)(r->end - r->at) < n || memcmp(r->at, word, n) != 0)
        return refuse(r, r->at, "invalid_json", "no JSON value; expected one");
    r->at += n;
    v->type = type;
    return TN_OK;
}

static tn_status read_value(reader *r, uint32_t depth, tn_json *v)
{
    skip_blank(r);
    if (r->at >= r->end)
        return refuse(r, r->at, "invalid_json", "the text ends; expected a JSON value");
    v->offset = (uint32_t)(r->at - r->doc->text);
    switch (*r->at) {
    case '{':
    case '[': {
        if (depth >= r->depth_max) {
            char text[64];
            snprintf(text, sizeof text, "nested deeper than %u levels; expected at most that",
                     r->depth_max);
            return refuse(r, r->at, "too_deep", text);
        }
        key_set keys = {0};
        v->type = *r->at++ == '{' ? TN_JSON_OBJECT : TN_JSON_LIST;
        tn_status st = read_children(r, depth, v, &keys);
        free(keys.slot);
        return st;
    }
    case '"':
        v->type = TN_JSON_TEXT;
        return read_text(r, &v->text, &v->count);
    case 't': return read_word(r, "true", TN_JSON_TRUE, v);
    case 'f': return read_word(r, "false", TN_JSON_FALSE, v);
    case 'n': return read_word(r, "null", TN_JSON_NULL, v);
    default: return read_number(r, v);
    }
}

static tn_status read_document(reader *r)
{
    tn_status st = read_value(r, 0, r->doc->root);
    if (st != TN_OK)
        return st;
    skip_blank(r);
    if (r->at < r->end)
        return refuse(r, r->at, "invalid_json", "text after the value; expected nothing");
    return TN_OK;
}

/* Takes over `text`, which has `size` bytes and a NUL behind them. */
static tn_status open_owned(char *text, size_t size, const char *what, uint32_t depth_max,
                            tn_json_doc **doc, tn_err *err)
{
    tn_json_doc *d = calloc(1, sizeof *d);
    if (d == NULL) {
        free(text);
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory for the parsed document", what);
    }
    tn_arena_open(&d->arena, 0);
    d->text = text;
    d->root = tn_arena_take(&d->arena, sizeof *d->root);
    reader r = {.doc = d, .at = text, .end = text + size, .what = what,
                .depth_max = depth_max, .salt = (uint64_t)(uintptr_t)d, .err = err};
    r.c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    tn_status st;
    if (d->root == NULL || r.c_locale == (locale_t)0)
        st = no_memory(&r);
    else if (size > UINT32_MAX)
        st = tn_fail(err, TN_DATA, "%s: %zu bytes; expected at most 4 GiB", what, size);
    else
        st = read_document(&r);
    if (r.c_locale != (locale_t)0)
        freelocale(r.c_locale);
    if (st != TN_OK) {
        tn_json_close(d);
        return st;
    }
    *doc = d;
    return TN_OK;
}

tn_status tn_json_open(const char *text, size_t size, const char *what, uint32_t depth_max,
                       tn_json_doc **doc, tn_err *err)
{
    char *copy = size < SIZE_MAX ? malloc(size + 1) : NULL;
    if (copy == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory for %zu bytes", what, size);
    if (size > 0)
        memcpy(copy, text, size);
    copy[size] = 0;
    return open_owned(copy, size, what, depth_max, doc, err);
}

void tn_json_close(tn_json_doc *doc)
{
    if (doc == NULL)
        return;
    tn_arena_close(&doc->arena);
    free(doc->text);
    free(doc);
}

const tn_json *tn_json_root(const tn_json_doc *doc)
{
    return doc->root;
}

bool tn_json_is_key(const tn_json *member, const char *key)
{
    return member->key_size == strlen(key) && memcmp(member->key, key, member->key_size) == 0;
}

/* Reads all of fd; st has been looked at by the caller. */
static tn_status read_all(int fd, const char *path, size_t size, char **out, tn_err *err)
{
    char *text = malloc(size + 1);
    if (text == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory for %zu bytes", path, size);
    size_t got = 0;
    while (got < size) {
        ssize_t n = read(fd, text + got, size - got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            tn_status st = tn_fail(err, TN_IO, "%s: read %zu of %zu bytes: %s", path, got, size,
                                   n < 0 ? strerror(errno) : "the file became shorter");
            free(text);
            return st;
        }
        got += (size_t)n;
    }
    text[size] = 0;
    *out = text;
    return TN_OK;
}

tn_status tn_json_open_file(const char *path, size_t size_max, tn_json_doc **doc, tn_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return tn_fail(err, errno == ENOENT || errno == ENOTDIR ? TN_NOINPUT
                            : errno == EACCES                   ? TN_NOPERM
                                                                : TN_IO,
                       "%s: cannot open: %s", path, strerror(errno));
    struct stat s;
    tn_status st = TN_OK;
    char *text = NULL;
    if (fstat(fd, &s) != 0)
        st = tn_fail(err, TN_IO, "%s: cannot examine: %s", path, strerror(errno));
    else if (!S_ISREG(s.st_mode))
        st = tn_fail(err, TN_DATA, "%s: not a regular file; expected JSON text", path);
    else if ((uint64_t)s.st_size > size_max)
        st = tn_fail(err, TN_DATA, "%s: %lld bytes; expected at most %zu", path,
                     (long long)s.st_size, size_max);
    else
        st = read_all(fd, path, (size_t)s.st_size, &text, err);
    close(fd);
    if (st != TN_OK)
        return st;
    return open_owned(text, (size_t)s.st_size, path, TN_JSON_DEPTH_FILE, doc, err);
}

static const char *type_name(const tn_json *v)
{
    static const char *const name[] = {"null", "a boolean", "a boolean", "an integer",
                                       "a number", "a string", "a list", "an object"};
    return v->type < sizeof name / sizeof *name ? name[v->type] : "an unknown value";
}

static tn_status wrong_type(const tn_json *v, const char *key, const char *what,
                            const char *wanted, tn_err *err)
{
    tn_status st = tn_fail(err, TN_DATA, "%s: %s: %s; expected %s", what, key, type_name(v),
                           wanted);
    if (err != NULL) {
        snprintf(err->code, sizeof err->code, "wrong_type");
        snprintf(err->param, sizeof err->param, "%s", key);
    }
    return st;
}

/* The member, or NULL when it is absent or null. */
static const tn_json *present(const tn_json *o, const char *key)
{
    const tn_json *v = tn_json_find(o, key);
    return v != NULL && v->type != TN_JSON_NULL ? v : NULL;
}

tn_status tn_json_get_int(const tn_json *o, const char *key, const char *what, int64_t fallback,
                          int64_t least, int64_t greatest, int64_t *out, tn_err *err)
{
    const tn_json *v = present(o, key);
    if (v == NULL) {
        *out = fallback;
        return TN_OK;
    }
    if (v->type != TN_JSON_INT)
        return wrong_type(v, key, what, "an integer", err);
    if (v->i < least || v->i > greatest) {
        tn_status st = tn_fail(err, TN_DATA, "%s: %s: %lld; expected %lld to %lld", what, key,
                               (long long)v->i, (long long)least, (long long)greatest);
        if (err != NULL) {
            snprintf(err->code, sizeof err->code, "value_out_of_range");
            snprintf(err->param, sizeof err->param, "%s", key);
        }
        return st;
    }
    *out = v->i;
    return TN_OK;
}

tn_status tn_json_get_float(const tn_json *o, const char *key, const char *what, double fallback,
                            double *out, tn_err *err)
{
    const tn_json *v = present(o, key);
    if (v != NULL && v->type != TN_JSON_INT && v->type != TN_JSON_FLOAT)
        return wrong_type(v, key, what, "a number", err);
    *out = v != NULL ? v->f : fallback;
    return TN_OK;
}

tn_status tn_json_get_bool(const tn_json *o, const char *key, const char *what, bool fallback,
                           bool *out, tn_err *err)
{
    const tn_json *v = present(o, key);
    if (v != NULL && v->type != TN_JSON_TRUE && v->type != TN_JSON_FALSE)
        return wrong_type(v, key, what, "true or false", err);
    *out = v != NULL ? v->type == TN_JSON_TRUE : fallback;
    return TN_OK;
}

tn_status tn_json_get_text(const tn_json *o, const char *key, const char *what,
                           const char *fallback, const char **out, tn_err *err)
{
    const tn_json *v = present(o, key);
    if (v != NULL && v->type != TN_JSON_TEXT)
        return wrong_type(v, key, what, "a string", err);
    if (v != NULL && strlen(v->text) != v->count)
        return wrong_type(v, key, what, "a string without NUL", err);
    *out = v != NULL ? v->text : fallback;
    return TN_OK;
}

static void new_line(bool indented, int width, tn_buf *out)
{
    if (!indented)
        return;
    tn_buf_putc(out, '\n');
    for (int i = 0; i < width; i++)
        tn_buf_putc(out, ' ');
}

static void write_value(const tn_json *v, bool python, int indent, int level, tn_buf *out)
{
    switch (v->type) {
    case TN_JSON_NULL: tn_buf_puts(out, "null"); return;
    case TN_JSON_FALSE: tn_buf_puts(out, "false"); return;
    case TN_JSON_TRUE: tn_buf_puts(out, "true"); return;
    case TN_JSON_INT: tn_buf_printf(out, "%lld", (long long)v->i); return;
    case TN_JSON_FLOAT: tn_buf_put_double(out, v->f); return;
    case TN_JSON_TEXT: tn_buf_put_json(out, v->text, v->count); return;
    default: break;
    }
    bool object = v->type == TN_JSON_OBJECT, indented = indent > 0 && v->child != NULL;
    tn_buf_putc(out, object ? '{' : '[');
    for (const tn_json *m = v->child; m != NULL; m = m->next) {
        new_line(indented, indent * (level + 1), out);
        if (object) {
            tn_buf_put_json(out, m->key, m->key_size);
            tn_buf_puts(out, python || indented ? ": " : ":");
        }
        write_value(m, python, indent, level + 1, out);
        if (m->next != NULL)
            tn_buf_puts(out, python && !indented ? ", " : ",");
    }
    new_line(indented, indent * level, out);
    tn_buf_putc(out, object ? '}' : ']');
}

void tn_json_write(const tn_json *v, bool python, int indent, struct tn_buf *out)
{
    write_value(v, python, indent, 0, out);
}

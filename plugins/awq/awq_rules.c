/* SPDX-License-Identifier: Apache-2.0 */
/* awq_rules.c - which modules a config means.
 *
 * AutoAWQ lists parts of names that stay plain. compressed-tensors lists targets and ignored
 * modules, each a full name, a class ("Linear") or "re:" and a pattern that is matched from
 * the start of the name. Names are looked up in a sorted array; patterns run in PCRE2 under
 * limits on depth, memory and steps, and under a clock for all modules together, since a
 * checkpoint's author chose both the patterns and how many modules they meet. */
#include "awq.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>

#define PATTERN_SIZE_MAX 65536u
#define PATTERNS_MAX 4096u
#define PATTERN_STEPS 20000u
#define PATTERN_DEPTH 2000u
#define PATTERN_KIB 1024u
#define HINT_MAX 47u
#define ANY '\1'
#define TIME_MAX ((uint64_t)5 * 1000 * 1000 * 1000)
#define PARTS_MAX 4096u

#define IGNORED TN_NONE   /* in place of a scheme's index */

typedef struct exact_name {
    const char *text;   /* borrowed from the config */
    uint32_t scheme;
} exact_name;

/* What a name must have for a pattern to match it. */
typedef struct hint {
    char prefix[HINT_MAX];     /* its first characters; ANY stands for one of any kind */
    char part[HINT_MAX + 1];   /* somewhere in it; "": nothing known */
    uint32_t nprefix;
} hint;

typedef struct pattern {
    pcre2_code *code;
    hint hint;
    uint32_t scheme;
} pattern;

struct awq_rules {
    const tn_host *h;
    const awq_config *c;
    exact_name *exact;   /* sorted by text; the first of equals counts */
    pattern *pattern;    /* in the order of the config */
    uint32_t nexact, npattern;
    uint32_t any;        /* scheme whose targets name the class Linear; TN_NONE without */
    bool ignore_all;     /* `ignore` names the class Linear */
    uint64_t spent;      /* nanoseconds of all matches so far */
    pcre2_general_context *memory;
    pcre2_match_context *limits;
    pcre2_match_data *match;
};

static void *take(size_t size, void *h)
{
    return ((const tn_host *)h)->alloc(((const tn_host *)h)->ctx, size);
}

static void give(void *p, void *h)
{
    if (p != NULL)
        ((const tn_host *)h)->release(((const tn_host *)h)->ctx, p);
}

static int by_text(const void *a, const void *b)
{
    const exact_name *x = a, *y = b;
    int order = strcmp(x->text, y->text);
    return order != 0 ? order : (x->scheme > y->scheme) - (x->scheme < y->scheme);
}

static bool is_plain(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           c == '_' || c == '-';
}

/* ------------------------------------------------------------------------------ hints */

/* Notes what every match of a pattern needs, read from its plain characters up to the first
 * group or class; with alternatives nothing is noted. A name that lacks it need not be matched:
 * lists name each layer, while nearly all modules are of another. */
static void hint_make(const char *text, size_t size, hint *out)
{
    char run[HINT_MAX + 1];
    size_t n = 0;
    bool at_start = true;
    *out = (hint){.nprefix = 0};
    if (memchr(text, '|', size) != NULL)
        return;
    for (size_t i = size > 0 && text[0] == '^' ? 1 : 0; i < size; i++) {
        bool escaped = text[i] == '\\' && i + 1 < size && text[i + 1] == '.';
        i += escaped;
        char c = text[i];
        bool any = c == '.' && !escaped;
        if (!escaped && !any && !is_plain(c))
            break;
        char next = i + 1 < size ? text[i + 1] : 0;
        bool repeated = next == '*' || next == '?' || next == '+' || next == '{';
        at_start = at_start && !repeated && out->nprefix < HINT_MAX;
        if (at_start)
            out->prefix[out->nprefix++] = any ? ANY : c;
        if (any || repeated || n == HINT_MAX) {
            n = 0;
        } else {
            run[n++] = c;
            run[n] = 0;
            if (n > strlen(out->part))
                memcpy(out->part, run, n + 1);
        }
        while (i + 1 < size && (text[i + 1] == '*' || text[i + 1] == '?' || text[i + 1] == '+'))
            i++;
    }
}

/* False: no match of the pattern begins this name. */
static bool hint_fits(const hint *t, const char *module)
{
    for (uint32_t i = 0; i < t->nprefix; i++) {
        unsigned char c = (unsigned char)module[i];
        if (t->prefix[i] == ANY && c >= 0x80)
            return true; /* a character of several bytes: the places behind it move */
        if (c == 0 || (t->prefix[i] != ANY && (unsigned char)t->prefix[i] != c))
            return false;
    }
    return t->part[0] == 0 || strstr(module, t->part) != NULL;
}

/* ---------------------------------------------------------------------------- compile */

static tn_status compile(awq_rules *r, const tn_json *entry, uint32_t scheme, tn_err *err)
{
    const char *text = entry->text + 3;
    size_t size = entry->count - 3;
    int code = 0;
    PCRE2_SIZE at = 0;
    if (size > PATTERN_SIZE_MAX || r->npattern == PATTERNS_MAX)
        return tn_fail(err, TN_DATA,
                       "quantization_config: pattern %u of %zu bytes, wanted at most %u patterns "
                       "of %u bytes",
                       r->npattern + 1, size, PATTERNS_MAX, PATTERN_SIZE_MAX);
    pcre2_compile_context *cc = pcre2_compile_context_create(r->memory);
    if (cc == NULL)
        return tn_fail(err, TN_NO_MEMORY, "no memory for a pattern of %zu bytes", size);
    pcre2_set_parens_nest_limit(cc, 64);
    pcre2_code *p = pcre2_compile((PCRE2_SPTR)text, size,
                                  PCRE2_ANCHORED | PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C, &code,
                                  &at, cc);
    pcre2_compile_context_free(cc);
    if (p == NULL) {
        char why[120] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        return tn_fail(err, TN_DATA,
                       "quantization_config: the pattern \"%.80s\" is wrong at byte %zu: %s", text,
                       (size_t)at, why);
    }
    pattern *to = &r->pattern[r->npattern++];
    *to = (pattern){.code = p, .scheme = scheme};
    hint_make(text, size, &to->hint);
    return TN_OK;
}

static bool is_pattern(const tn_json *e)
{
    return e->count >= 3 && memcmp(e->text, "re:", 3) == 0;
}

static tn_status add_list(awq_rules *r, const tn_json *list, uint32_t scheme, tn_err *err)
{
    for (const tn_json *e = list == NULL ? NULL : list->child; e != NULL; e = e->next) {
        tn_status st = TN_OK;
        if (e->type != TN_JSON_TEXT)
            return tn_fail(err, TN_DATA, "quantization_config: %s holds something that is no text",
                           scheme == IGNORED ? "ignore" : "targets");
        if (is_pattern(e))
            st = compile(r, e, scheme, err);
        else if (strcmp(e->text, "Linear") != 0)
            r->exact[r->nexact++] = (exact_name){e->text, scheme};
        else if (scheme == IGNORED)
            r->ignore_all = true;
        else if (r->any == TN_NONE)
            r->any = scheme;
        if (st != TN_OK)
            return st;
    }
    return TN_OK;
}

/* auto-round: {module: {"bits": 16}} keeps a module plain. */
static void add_exceptions(awq_rules *r, const tn_json *extra)
{
    for (const tn_json *e = extra->child; e != NULL; e = e->next) {
        const tn_json *bits = tn_json_find(e, "bits");
        if (bits != NULL && bits->type == TN_JSON_INT && bits->i >= 16)
            r->exact[r->nexact++] = (exact_name){e->key, IGNORED};
    }
}

static tn_status check_parts(const tn_json *list, tn_err *err)
{
    if (list->count > PARTS_MAX)
        return tn_fail(err, TN_DATA,
                       "quantization_config: modules_to_not_convert has %u entries, wanted at "
                       "most %u",
                       list->count, PARTS_MAX);
    for (const tn_json *e = list->child; e != NULL; e = e->next)
        if (e->type != TN_JSON_TEXT)
            return tn_fail(err, TN_DATA,
                           "quantization_config: modules_to_not_convert holds something that is "
                           "no text");
    return TN_OK;
}

static tn_status fill(awq_rules *r, tn_err *err)
{
    const awq_config *c = r->c;
    uint64_t total = c->plain != NULL ? c->plain->count : 0;
    for (uint32_t i = 0; i < c->nscheme; i++)
        total += c->scheme[i].targets != NULL ? c->scheme[i].targets->count : 0;
    uint64_t npattern = total < PATTERNS_MAX ? total : PATTERNS_MAX;
    r->exact = take((total + 1) * sizeof *r->exact, (void *)r->h);
    r->pattern = take((npattern + 1) * sizeof *r->pattern, (void *)r->h);
    r->memory = pcre2_general_context_create(take, give, (void *)r->h);
    r->limits = pcre2_match_context_create(r->memory);
    r->match = pcre2_match_data_create(1, r->memory);
    if (r->exact == NULL || r->pattern == NULL || r->limits == NULL || r->match == NULL)
        return tn_fail(err, TN_NO_MEMORY, "no memory for %llu names of a quantization_config",
                       (unsigned long long)total);
    pcre2_set_match_limit(r->limits, PATTERN_STEPS);
    pcre2_set_depth_limit(r->limits, PATTERN_DEPTH);
    pcre2_set_heap_limit(r->limits, PATTERN_KIB);

    tn_status st = TN_OK;
    if (c->method == AWQ_METHOD_AUTOAWQ) {
        r->any = 0;
        if (c->plain != NULL && c->plain->type == TN_JSON_OBJECT)
            add_exceptions(r, c->plain);
        else if (c->plain != NULL)
            st = check_parts(c->plain, err);
    } else {
        st = add_list(r, c->plain, IGNORED, err);
        for (uint32_t i = 0; i < c->nscheme && st == TN_OK; i++)
            st = add_list(r, c->scheme[i].targets, i, err);
    }
    qsort(r->exact, r->nexact, sizeof *r->exact, by_text);
    return st;
}

tn_status awq_rules_open(const tn_host *h, const awq_config *c, awq_rules **out, tn_err *err)
{
    awq_rules *r = h->alloc(h->ctx, sizeof *r);
    if (r == NULL)
        return tn_fail(err, TN_NO_MEMORY, "no memory for a quantization_config");
    *r = (awq_rules){.h = h, .c = c, .any = TN_NONE};
    tn_status st = fill(r, err);
    if (st == TN_OK)
        *out = r;
    else
        awq_rules_close(r);
    return st;
}

void awq_rules_close(awq_rules *r)
{
    const tn_host *h = r->h;
    for (uint32_t i = 0; i < r->npattern; i++)
        pcre2_code_free(r->pattern[i].code);
    pcre2_match_data_free(r->match);
    pcre2_match_context_free(r->limits);
    pcre2_general_context_free(r->memory);
    give(r->exact, (void *)h);
    give(r->pattern, (void *)h);
    h->release(h->ctx, r);
}

/* ------------------------------------------------------------------------------ match */

static bool has_part(const tn_json *list, const char *module)
{
    for (const tn_json *e = list->child; e != NULL; e = e->next)
        if (e->count != 0 && strstr(module, e->text) != NULL)
            return true;
    return false;
}

/* The entry of this name with the given kind of scheme, or NULL. */
static const exact_name *find_exact(const awq_rules *r, const char *module, bool ignored)
{
    uint32_t lo = 0, hi = r->nexact;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (strcmp(r->exact[mid].text, module) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    for (; lo < r->nexact && strcmp(r->exact[lo].text, module) == 0; lo++)
        if ((r->exact[lo].scheme == IGNORED) == ignored)
            return &r->exact[lo];
    return NULL;
}

static tn_status match_failed(uint32_t i, const char *module, int rc, tn_err *err)
{
    char why[120] = "";
    pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
    return tn_fail(err, TN_DATA,
                   "quantization_config: pattern %u gave up on %.200s: %s; wanted one that needs "
                   "at most %u steps",
                   i + 1, module, why, PATTERN_STEPS);
}

/* The first pattern of the given kind that matches, or NULL in *out. */
static tn_status find_pattern(awq_rules *r, const char *module, bool ignored,
                              const pattern **out, tn_err *err)
{
    *out = NULL;
    for (uint32_t i = 0; i < r->npattern && *out == NULL; i++) {
        if ((r->pattern[i].scheme == IGNORED) != ignored)
            continue;
        if (!hint_fits(&r->pattern[i].hint, module))
            continue;
        int rc = pcre2_match(r->pattern[i].code, (PCRE2_SPTR)module, strlen(module), 0, 0,
                             r->match, r->limits);
        if (rc >= 0)
            *out = &r->pattern[i];
        else if (rc != PCRE2_ERROR_NOMATCH)
            return match_failed(i, module, rc, err);
    }
    return TN_OK;
}

static tn_status match(awq_rules *r, const char *module, const awq_scheme **out, tn_err *err)
{
    const pattern *p = NULL;
    *out = NULL;
    if (r->c->method == AWQ_METHOD_AUTOAWQ) {
        const tn_json *plain = r->c->plain;
        bool is_plain = plain != NULL && plain->type == TN_JSON_LIST && has_part(plain, module);
        if (!is_plain && find_exact(r, module, true) == NULL)
            *out = &r->c->scheme[0];
        return TN_OK;
    }
    if (r->ignore_all || find_exact(r, module, true) != NULL)
        return TN_OK;
    tn_status st = find_pattern(r, module, true, &p, err);
    if (st != TN_OK || p != NULL)
        return st;
    const exact_name *e = find_exact(r, module, false);
    if (e == NULL)
        st = find_pattern(r, module, false, &p, err);
    if (st == TN_OK) {
        uint32_t scheme = e != NULL ? e->scheme : p != NULL ? p->scheme : r->any;
        *out = scheme != TN_NONE ? &r->c->scheme[scheme] : NULL;
    }
    return st;
}

tn_status awq_rules_match(awq_rules *r, const char *module, const awq_scheme **out, tn_err *err)
{
    uint64_t start = r->h->clock(r->h->ctx);
    tn_status st = match(r, module, out, err);
    r->spent += r->h->clock(r->h->ctx) - start;
    if (st == TN_OK && r->spent > TIME_MAX)
        return tn_fail(err, TN_DATA,
                       "quantization_config: its names and patterns take longer than %u seconds "
                       "on the checkpoint's modules",
                       (unsigned)(TIME_MAX / 1000000000));
    return st;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* gptq_rules.c - what a config says about one module.
 *
 * Three places speak: `dynamic` has patterns, matched from the start of the name, the first
 * that matches decides ("-:" keeps plain, "+:" or nothing overrides); auto-round's
 * extra_config has full names; modules_in_block_to_quantize has the ends of names that are
 * quantized at all. The patterns run in PCRE2 under limits on depth, memory and steps, and
 * under a clock for all modules together, since a checkpoint's author chose both the patterns
 * and how many modules they meet. */
#include "gptq.h"

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
#define ENTRIES_MAX 4096u   /* names in blocks: each is looked for in every module */

/* What a name must have for a pattern to match it. */
typedef struct hint {
    char prefix[HINT_MAX];     /* its first characters; ANY stands for one of any kind */
    char part[HINT_MAX + 1];   /* somewhere in it; "": nothing known */
    uint32_t nprefix;
} hint;

typedef struct pattern {
    pcre2_code *code;
    hint hint;
    const tn_json *rule;   /* the overrides; borrowed */
    bool plain;            /* "-:" */
} pattern;

struct gptq_rules {
    const tn_host *h;
    const gptq_config *c;
    pattern *pattern;      /* in the order of the config */
    uint32_t npattern;
    const tn_json **own;   /* members of extra_config, sorted by key */
    uint64_t spent;        /* nanoseconds of all matches so far */
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

static tn_status compile(gptq_rules *r, const tn_json *rule, tn_err *err)
{
    const char *text = rule->key;
    size_t size = rule->key_size;
    bool minus = size >= 2 && memcmp(text, "-:", 2) == 0;
    bool plus = size >= 2 && memcmp(text, "+:", 2) == 0;
    int code = 0;
    PCRE2_SIZE at = 0;
    if (minus || plus) {
        text += 2;
        size -= 2;
    }
    if (size > PATTERN_SIZE_MAX || rule->type != TN_JSON_OBJECT)
        return tn_fail(err, TN_DATA,
                       "quantization_config: dynamic \"%.80s\": wanted a pattern of at most %u "
                       "bytes with an object",
                       rule->key, PATTERN_SIZE_MAX);
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
                       "quantization_config: dynamic: the pattern \"%.80s\" is wrong at byte %zu: "
                       "%s",
                       text, (size_t)at, why);
    }
    pattern *to = &r->pattern[r->npattern++];
    *to = (pattern){.code = p, .rule = rule, .plain = minus};
    hint_make(text, size, &to->hint);
    return TN_OK;
}

/* modules_in_block_to_quantize is a list of names, or of lists of them. */
static tn_status check_blocks(const tn_json *list, uint32_t *total, tn_err *err)
{
    for (const tn_json *e = list == NULL ? NULL : list->child; e != NULL; e = e->next) {
        tn_status st = TN_OK;
        if (e->type == TN_JSON_LIST && *total != TN_NONE)
            st = check_blocks(e, total, err);
        else if (e->type != TN_JSON_TEXT || ++*total > ENTRIES_MAX)
            st = tn_fail(err, TN_DATA,
                         "quantization_config: modules_in_block_to_quantize: wanted at most %u "
                         "names",
                         ENTRIES_MAX);
        if (st != TN_OK)
            return st;
    }
    return TN_OK;
}

static int by_key(const void *a, const void *b)
{
    return strcmp((*(const tn_json *const *)a)->key, (*(const tn_json *const *)b)->key);
}

static tn_status sort_own(gptq_rules *r, tn_err *err)
{
    const tn_json *extra = r->c->extra;
    uint32_t n = 0, count = extra != NULL ? extra->count : 0;
    r->own = take((count + (size_t)1) * sizeof *r->own, (void *)r->h);
    if (r->own == NULL)
        return tn_fail(err, TN_NO_MEMORY, "no memory for %u names of an extra_config", count);
    for (const tn_json *e = count == 0 ? NULL : extra->child; e != NULL; e = e->next)
        r->own[n++] = e;
    qsort(r->own, count, sizeof *r->own, by_key);
    return TN_OK;
}

static const tn_json *find_own(const gptq_rules *r, const char *module)
{
    const tn_json key = {.key = module}, *at = &key;
    uint32_t count = r->c->extra != NULL ? r->c->extra->count : 0;
    const tn_json **found = count == 0 ? NULL : bsearch(&at, r->own, count, sizeof *r->own, by_key);
    return found != NULL ? *found : NULL;
}

static tn_status fill(gptq_rules *r, tn_err *err)
{
    const gptq_config *c = r->c;
    uint32_t total = 0, count = c->dynamic != NULL ? c->dynamic->count : 0;
    if (count > PATTERNS_MAX)
        return tn_fail(err, TN_DATA, "quantization_config: dynamic has %u rules, wanted at most %u",
                       count, PATTERNS_MAX);
    r->pattern = take((count + 1) * sizeof *r->pattern, (void *)r->h);
    r->memory = pcre2_general_context_create(take, give, (void *)r->h);
    r->limits = pcre2_match_context_create(r->memory);
    r->match = pcre2_match_data_create(1, r->memory);
    if (r->pattern == NULL || r->limits == NULL || r->match == NULL)
        return tn_fail(err, TN_NO_MEMORY, "no memory for %u rules of a quantization_config", count);
    pcre2_set_match_limit(r->limits, PATTERN_STEPS);
    pcre2_set_depth_limit(r->limits, PATTERN_DEPTH);
    pcre2_set_heap_limit(r->limits, PATTERN_KIB);
    tn_status st = sort_own(r, err);
    if (st == TN_OK)
        st = check_blocks(c->blocks, &total, err);
    for (const tn_json *e = count == 0 ? NULL : c->dynamic->child; e != NULL && st == TN_OK;
         e = e->next)
        st = compile(r, e, err);
    return st;
}

tn_status gptq_rules_open(const tn_host *h, const gptq_config *c, gptq_rules **out, tn_err *err)
{
    gptq_rules *r = h->alloc(h->ctx, sizeof *r);
    if (r == NULL)
        return tn_fail(err, TN_NO_MEMORY, "no memory for a quantization_config");
    *r = (gptq_rules){.h = h, .c = c};
    tn_status st = fill(r, err);
    if (st == TN_OK)
        *out = r;
    else
        gptq_rules_close(r);
    return st;
}

void gptq_rules_close(gptq_rules *r)
{
    const tn_host *h = r->h;
    for (uint32_t i = 0; i < r->npattern; i++)
        pcre2_code_free(r->pattern[i].code);
    pcre2_match_data_free(r->match);
    pcre2_match_context_free(r->limits);
    pcre2_general_context_free(r->memory);
    give(r->pattern, (void *)h);
    give(r->own, (void *)h);
    h->release(h->ctx, r);
}

/* ------------------------------------------------------------------------------ match */

static tn_status match_failed(const pattern *p, const char *module, int rc, tn_err *err)
{
    char why[120] = "";
    pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
    return tn_fail(err, TN_DATA,
                   "quantization_config: dynamic: the pattern \"%.80s\" gave up on %.200s: %s; "
                   "wanted one that needs at most %u steps",
                   p->rule->key, module, why, PATTERN_STEPS);
}

/* The first rule that matches, or NULL in *out. */
static tn_status find_pattern(gptq_rules *r, const char *module, const pattern **out, tn_err *err)
{
    *out = NULL;
    for (uint32_t i = 0; i < r->npattern && *out == NULL; i++) {
        if (!hint_fits(&r->pattern[i].hint, module))
            continue;
        int rc = pcre2_match(r->pattern[i].code, (PCRE2_SPTR)module, strlen(module), 0, 0,
                             r->match, r->limits);
        if (rc >= 0)
            *out = &r->pattern[i];
        else if (rc != PCRE2_ERROR_NOMATCH)
            return match_failed(&r->pattern[i], module, rc, err);
    }
    return TN_OK;
}

/* Is `part` a run of whole components of `module`? "mlp.up_proj" is one of
 * "model.layers.0.mlp.up_proj", "mlp.up" is not. */
static bool has_part(const char *module, const char *part, size_t size)
{
    for (const char *p = module; size != 0 && (p = strstr(p, part)) != NULL; p++)
        if ((p == module || p[-1] == '.') && (p[size] == 0 || p[size] == '.'))
            return true;
    return false;
}

static bool in_blocks(const tn_json *list, const char *module)
{
    for (const tn_json *e = list->child; e != NULL; e = e->next)
        if (e->type == TN_JSON_LIST ? in_blocks(e, module) : has_part(module, e->text, e->count))
            return true;
    return false;
}

static bool is_head(const char *module)
{
    size_t n = strlen(module);
    return n >= 7 && strcmp(module + n - 7, "lm_head") == 0;
}

bool gptq_rules_name(const gptq_rules *r, const char *module)
{
    return (r->c->lm_head && is_head(module)) || find_own(r, module) != NULL ||
           (r->c->blocks != NULL && in_blocks(r->c->blocks, module));
}

static tn_status match(gptq_rules *r, const char *module, bool *quantized, gptq_scheme *out,
                       tn_err *err)
{
    const pattern *p;
    const tn_json *own = find_own(r, module), *wide = tn_json_find(own, "bits");
    *out = r->c->scheme;
    *quantized = false;
    tn_status st = find_pattern(r, module, &p, err);
    if (st != TN_OK || (p != NULL && p->plain))
        return st;
    if (wide != NULL && wide->type == TN_JSON_INT && wide->i >= 16)
        return TN_OK;
    *quantized = p != NULL || own != NULL ||
                 (is_head(module) ? r->c->lm_head
                                  : r->c->blocks == NULL || in_blocks(r->c->blocks, module));
    if (p != NULL)
        st = gptq_config_override(p->rule, "dynamic", out, err);
    return st != TN_OK || own == NULL ? st : gptq_config_override(own, "extra_config", out, err);
}

tn_status gptq_rules_match(gptq_rules *r, const char *module, bool *quantized, gptq_scheme *out,
                           tn_err *err)
{
    uint64_t start = r->h->clock(r->h->ctx);
    tn_status st = match(r, module, quantized, out, err);
    r->spent += r->h->clock(r->h->ctx) - start;
    if (st == TN_OK && r->spent > TIME_MAX)
        return tn_fail(err, TN_DATA,
                       "quantization_config: its rules take longer than %u seconds on the "
                       "checkpoint's modules",
                       (unsigned)(TIME_MAX / 1000000000));
    return st;
}

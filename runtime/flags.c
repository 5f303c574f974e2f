/* SPDX-License-Identifier: Apache-2.0 */
/* flags.c - the command line, by tables. */
#include "flags.h"

#include "buf.h"
#include "flags_known.h"
#include "json.h"
#include "nearest.h"
#include "number.h"
#include "option.h"
#include "quote.h"
#include "settings.h"

#include <stdlib.h>

#define NAME_MAX_BYTES 96u
#define VALUE_MAX_BYTES TN_OPTION_TEXT_MAX

/* What a spelled name means. */
typedef struct target {
    uint32_t where;       /* TN_GIVEN_*; TN_NONE with `known` */
    const char *plugin;   /* PLUGIN */
    const char *key;
    uint32_t type;        /* TN_OPT_*; own flags: BOOL without value, TEXT with one */
    bool many;            /* takes further words */
    const tn_known *known; /* ONLY, REFUSED, IGNORED: no key behind it */
} target;

typedef struct parsing {
    int argc, at;
    char *const *argv;
    const tn_flag *own;
    uint32_t nown;
    const tn_flag_source *source;
    uint32_t nsource;
    tn_flags *out;
    /* The flag under the hand. */
    char name[NAME_MAX_BYTES + 1]; /* dashes, without the leading two */
    const char *spelled;           /* as typed, up to '=' */
    int spelled_size;
    const char *inline_value;      /* after '=', or NULL */
} parsing;

static tn_status no_memory(tn_err *err)
{
    return tn_fail(err, TN_OS, "command line: out of memory");
}

static tn_status fail_flag(const parsing *p, tn_err *err, const char *what)
{
    return tn_fail(err, TN_USAGE, "command line: %.*s %s", p->spelled_size, p->spelled, what);
}

/* Is `key` (with underscores) what `name` (with dashes) says? */
static bool is_same(const char *name, const char *key)
{
    for (; *name != 0 && *key != 0; name++, key++)
        if (*name != *key && !(*name == '-' && *key == '_'))
            return false;
    return *name == 0 && *key == 0;
}

/* ----------------------------------------------------------------------------- looking up */

static bool find_own(const parsing *p, const char *name, target *t)
{
    for (uint32_t i = 0; i < p->nown; i++)
        if (is_same(name, p->own[i].name)) {
            *t = (target){.where = TN_GIVEN_OWN, .key = p->own[i].name,
                          .type = p->own[i].takes ? TN_OPT_TEXT : TN_OPT_BOOL};
            return true;
        }
    return false;
}

static bool find_option(const tn_option *table, uint32_t n, const char *name, target *t)
{
    for (uint32_t i = 0; i < n; i++) {
        tn_option o = tn_option_at(table, i);
        if (is_same(name, o.key)) {
            t->key = o.key;
            t->type = o.type;
            return true;
        }
    }
    return false;
}

static bool find_core(const char *name, target *t)
{
    uint32_t n;
    const tn_option *table = tn_model_options(&n);
    *t = (target){.where = TN_GIVEN_MODEL};
    if (find_option(table, n, name, t))
        return true;
    table = tn_settings_options(&n);
    *t = (target){.where = TN_GIVEN_TENON};
    return find_option(table, n, name, t);
}

/* `--NAME.KEY`: the option of one plugin. */
static bool find_dotted(const parsing *p, const char *name, target *t)
{
    const char *dot = strchr(name, '.');
    for (uint32_t i = 0; dot != NULL && i < p->nsource; i++) {
        const tn_flag_source *s = &p->source[i];
        char plugin[NAME_MAX_BYTES + 1] = "";
        memcpy(plugin, name, (size_t)(dot - name));
        *t = (target){.where = TN_GIVEN_PLUGIN, .plugin = s->plugin};
        if (is_same(plugin, s->plugin) && find_option(s->options, s->noption, dot + 1, t))
            return true;
    }
    return false;
}

/* Among the plugins of one kind: how many have it; *t is the first. */
static uint32_t find_in_kind(const parsing *p, uint32_t kind, const char *name, target *t,
                             const char **second)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < p->nsource; i++) {
        const tn_flag_source *s = &p->source[i];
        target here = {.where = TN_GIVEN_PLUGIN, .plugin = s->plugin};
        if (s->kind != kind || !find_option(s->options, s->noption, name, &here))
            continue;
        if (found++ == 0)
            *t = here;
        else if (found == 2)
            *second = s->plugin;
    }
    return found;
}

static tn_status find_plugin(const parsing *p, uint32_t only, const char *name, target *t,
                             bool *found, tn_err *err)
{
    static const uint32_t order[] = {TN_KIND_FRONT, TN_KIND_DEVICE, TN_KIND_QUANT,
                                     TN_KIND_COMM};
    const char *second = NULL;
    *found = false;
    for (int i = 0; i < 4; i++) {
        if (only != 0 && order[i] != only)
            continue;
        uint32_t n = find_in_kind(p, order[i], name, t, &second);
        if (n > 1)
            return tn_fail(err, TN_USAGE, "command line: %.*s is an option of both %s and %s; "
                           "expected --%s.%s or --%s.%s", p->spelled_size, p->spelled,
                           t->plugin, second, t->plugin, name, second, name);
        if (n == 1) {
            *found = true;
            return TN_OK;
        }
    }
    return TN_OK;
}

static const tn_known *find_known(const char *name, const char *brief)
{
    uint32_t n;
    const tn_known *k = tn_flags_known(&n);
    for (uint32_t i = 0; i < n; i++)
        if (brief ? k[i].brief != NULL && strcmp(k[i].brief, brief) == 0
                  : is_same(name, k[i].name))
            return &k[i];
    return NULL;
}

/* The names people know from elsewhere; `late`: those without a key behind them. */
static tn_status look_known(const parsing *p, const char *name, bool late, target *t,
                            bool *found, tn_err *err)
{
    const tn_known *k = find_known(name, NULL);
    *found = false;
    if (k == NULL)
        return TN_OK;
    if (!late && k->what == TN_KNOWN_DEVICE)
        return find_plugin(p, TN_KIND_DEVICE, k->key, t, found, err);
    if (!late && k->what == TN_KNOWN_MODEL) {
        *found = find_core(k->key, t);
        t->many = k->takes == TN_TAKES_MANY;
    } else if (late && k->what >= TN_KNOWN_ONLY) {
        *found = true;
        *t = (target){.where = TN_NONE, .known = k,
                      .type = k->takes == TN_TAKES_NONE ? TN_OPT_BOOL : TN_OPT_TEXT,
                      .many = k->takes == TN_TAKES_MANY};
    }
    return TN_OK;
}

static tn_status look_up(const parsing *p, const char *name, target *t, bool *found,
                         tn_err *err)
{
    tn_status st = TN_OK;
    *found = find_own(p, name, t);
    if (!*found)
        st = look_known(p, name, false, t, found, err);
    if (st == TN_OK && !*found)
        *found = find_core(name, t) || find_dotted(p, name, t);
    if (st == TN_OK && !*found)
        st = find_plugin(p, 0, name, t, found, err);
    if (st == TN_OK && !*found)
        st = look_known(p, name, true, t, found, err);
    return st;
}

static void try_options(tn_nearest *near, const tn_option *table, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        tn_nearest_try(near, tn_option_at(table, i).key);
}

static tn_status say_unknown(const parsing *p, tn_err *err)
{
    tn_nearest near;
    tn_quoted quoted;
    uint32_t n;
    tn_nearest_open(&near, p->name);
    for (uint32_t i = 0; i < p->nown; i++)
        tn_nearest_try(&near, p->own[i].name);
    const tn_option *table = tn_model_options(&n);
    try_options(&near, table, n);
    table = tn_settings_options(&n);
    try_options(&near, table, n);
    for (uint32_t i = 0; i < p->nsource; i++)
        try_options(&near, p->source[i].options, p->source[i].noption);
    const tn_known *k = tn_flags_known(&n);
    for (uint32_t i = 0; i < n; i++)
        tn_nearest_try(&near, k[i].name);
    char best[NAME_MAX_BYTES + 1] = "";
    for (size_t i = 0; near.best != NULL && near.best[i] != 0 && i < NAME_MAX_BYTES; i++) {
        best[i] = near.best[i] == '_' ? '-' : near.best[i];
        best[i + 1] = 0;
    }
    return tn_fail(err, TN_USAGE, "command line: unknown flag %s; expected %s%s",
                   tn_quote(&quoted, p->spelled, (size_t)p->spelled_size),
                   best[0] ? "perhaps --" : "one that --help lists", best);
}

/* -------------------------------------------------------------------------------- storing */

static void *grown(void *list, uint32_t n, size_t size)
{
    return n % 16 == 0 ? realloc(list, (size_t)(n + 16) * size) : list;
}

static tn_given *find_given(const tn_flags *f, const target *t)
{
    for (uint32_t i = 0; i < f->ngiven; i++) {
        tn_given *g = &f->given[i];
        bool same = t->plugin == NULL ? g->plugin == NULL
                  : g->plugin != NULL && strcmp(g->plugin, t->plugin) == 0;
        if (g->where == t->where && same && strcmp(g->key, t->key) == 0)
            return g;
    }
    return NULL;
}

/* Takes over `value`. A list given again grows; anything else given again replaces. */
static tn_status store(const parsing *p, const target *t, char *value, tn_err *err)
{
    tn_flags *f = p->out;
    char origin[NAME_MAX_BYTES + 32];
    snprintf(origin, sizeof origin, "command line %.*s",
             p->spelled_size > (int)NAME_MAX_BYTES ? (int)NAME_MAX_BYTES : p->spelled_size,
             p->spelled);
    tn_given *old = find_given(f, t);
    if (old != NULL) {
        free(old->value);
        old->value = value;
        return TN_OK;
    }
    tn_given *list = grown(f->given, f->ngiven, sizeof *list);
    char *copy = strdup(origin);
    if (list != NULL)
        f->given = list;
    if (list == NULL || copy == NULL) {
        free(copy);
        free(value);
        return no_memory(err);
    }
    f->given[f->ngiven++] = (tn_given){.where = t->where, .plugin = t->plugin, .key = t->key,
                                       .value = value, .origin = copy};
    return TN_OK;
}

/* `size`: bytes that went into the text. */
static tn_status store_text(const parsing *p, const target *t, tn_buf *text, size_t size,
                            tn_err *err)
{
    if (text->failed) {
        tn_buf_close(text);
        return size < VALUE_MAX_BYTES ? no_memory(err)
                                      : fail_flag(p, err, "has a value past 8192 bytes");
    }
    char *value = text->data != NULL ? tn_buf_take(text) : strdup("");
    return value != NULL ? store(p, t, value, err) : no_memory(err);
}

static tn_status warn_ignored(const parsing *p, tn_err *err)
{
    tn_flags *f = p->out;
    char text[NAME_MAX_BYTES + 64];
    snprintf(text, sizeof text, "command line: %.*s is accepted and has no effect here",
             p->spelled_size > (int)NAME_MAX_BYTES ? (int)NAME_MAX_BYTES : p->spelled_size,
             p->spelled);
    char **list = grown(f->warning, f->nwarning, sizeof *list);
    char *copy = strdup(text);
    if (list != NULL)
        f->warning = list;
    if (list == NULL || copy == NULL) {
        free(copy);
        return no_memory(err);
    }
    f->warning[f->nwarning++] = copy;
    return TN_OK;
}

/* --------------------------------------------------------------------------------- values */

/* The next word as a value: present, and no flag. "-1" is a value, "--x" and "-x" are not. */
static const char *next_value(const parsing *p)
{
    const char *w = p->at < p->argc ? p->argv[p->at] : NULL;
    if (w == NULL || (w[0] == '-' && w[1] != 0 && !(w[1] >= '0' && w[1] <= '9') && w[1] != '.'))
        return NULL;
    return w;
}

/* A JSON list of texts, as some servers want lists, becomes our comma-separated one. */
static tn_status put_list(const parsing *p, const char *value, tn_buf *out, tn_err *err)
{
    tn_json_doc *doc;
    tn_err why;
    if (out->len > 0)
        tn_buf_putc(out, ',');
    if (value[0] != '[' || tn_json_open(value, strlen(value), "list", 2, &doc, &why) != TN_OK) {
        tn_buf_puts(out, value);
        return TN_OK;
    }
    const tn_json *item = tn_json_root(doc)->child;
    bool fits = true;
    for (; item != NULL && fits; item = item->next) {
        fits = item->type == TN_JSON_TEXT && strlen(item->text) == item->count
            && strchr(item->text, ',') == NULL;
        if (fits)
            tn_buf_printf(out, "%s%s", item->text, item->next ? "," : "");
    }
    tn_json_close(doc);
    return fits ? TN_OK : fail_flag(p, err, "wants a list of texts without commas");
}

static tn_status take_list(parsing *p, const target *t, const char *value, tn_err *err)
{
    tn_buf text;
    const tn_given *old = find_given(p->out, t);
    size_t size = strlen(value) + (old != NULL ? strlen(old->value) + 1 : 0);
    tn_buf_open(&text, VALUE_MAX_BYTES);
    if (old != NULL)
        tn_buf_puts(&text, old->value);
    tn_status st = put_list(p, value, &text, err);
    while (st == TN_OK && t->many && (value = next_value(p)) != NULL) {
        p->at++;
        size += strlen(value) + 1;
        st = put_list(p, value, &text, err);
    }
    if (st != TN_OK) {
        tn_buf_close(&text);
        return st;
    }
    return store_text(p, t, &text, size, err);
}

/* `--KEY.MEMBER V` of a key that holds a JSON object: adds the member to it. */
static tn_status take_member(parsing *p, const target *t, const char *member, const char *value,
                             tn_err *err)
{
    tn_buf text;
    tn_json_doc *doc;
    tn_err why;
    const tn_given *old = find_given(p->out, t);
    size_t n = old ? strlen(old->value) : 0;
    if (n > 0 && old->value[n - 1] != '}')
        return fail_flag(p, err, "adds to a value that is no JSON object");
    tn_buf_open(&text, VALUE_MAX_BYTES);
    tn_buf_put(&text, n > 0 ? old->value : "{", n > 0 ? n - 1 : 1);
    if (n > 2)
        tn_buf_puts(&text, ", ");
    tn_buf_putc(&text, '"');
    for (; *member != 0; member++) /* the name was folded to dashes; JSON has none */
        tn_buf_putc(&text, *member == '-' ? '_' : *member);
    tn_buf_puts(&text, "\": ");
    if (tn_json_open(value, strlen(value), "value", 16, &doc, &why) == TN_OK) {
        tn_json_close(doc);
        tn_buf_puts(&text, value);
    } else {
        tn_buf_put_json(&text, value, strlen(value));
    }
    tn_buf_putc(&text, '}');
    return store_text(p, t, &text, n + strlen(value) + NAME_MAX_BYTES, err);
}

static tn_status take_bool(parsing *p, const target *t, bool no, tn_err *err)
{
    bool given = true;
    const char *value = p->inline_value;
    if (t->where == TN_GIVEN_OWN && (value != NULL || no))
        return fail_flag(p, err, "takes no value");
    if (value == NULL && t->where != TN_GIVEN_OWN) {
        value = next_value(p);
        if (value != NULL && tn_number_bool(value, &given))
            p->at++;
    } else if (value != NULL && !tn_number_bool(value, &given)) {
        return fail_flag(p, err, "takes yes or no");
    }
    if (t->known != NULL)
        return TN_OK;
    char *copy = strdup(t->where == TN_GIVEN_OWN ? "" : given != no ? "yes" : "no");
    return copy != NULL ? store(p, t, copy, err) : no_memory(err);
}

static tn_status take_known(parsing *p, const target *t, const char *value, tn_err *err)
{
    const tn_known *k = t->known;
    while (t->many && next_value(p) != NULL)
        p->at++;
    if (k->what == TN_KNOWN_REFUSED)
        return tn_fail(err, TN_USAGE, "command line: %.*s: %s", p->spelled_size, p->spelled,
                       k->key);
    if (k->what == TN_KNOWN_IGNORED)
        return warn_ignored(p, err);
    tn_quoted quoted;
    if (strcmp(value, k->key) != 0)
        return tn_fail(err, TN_USAGE, "command line: %.*s %s; expected %s, the only one offered",
                       p->spelled_size, p->spelled, tn_quote_text(&quoted, value), k->key);
    return TN_OK;
}

/* `member`: what follows the dot of a JSON key, or NULL. */
static tn_status take(parsing *p, const target *t, bool no, const char *member, tn_err *err)
{
    if (t->type == TN_OPT_BOOL) {
        tn_status st = take_bool(p, t, no, err);
        return st == TN_OK && t->known != NULL ? take_known(p, t, "", err) : st;
    }
    const char *value = p->inline_value;
    if (value == NULL && (value = next_value(p)) != NULL)
        p->at++;
    if (value == NULL)
        return fail_flag(p, err, "wants a value");
    if (t->known != NULL)
        return take_known(p, t, value, err);
    if (member != NULL)
        return take_member(p, t, member, value, err);
    if (t->type == TN_OPT_LIST)
        return take_list(p, t, value, err);
    if (t->type == TN_OPT_INT && strcmp(value, "auto") == 0)
        value = "0"; /* what 0 means in every key that can be automatic */
    char *copy = strdup(value);
    return copy != NULL ? store(p, t, copy, err) : no_memory(err);
}

/* -------------------------------------------------------------------------------- parsing */

static tn_status split_name(parsing *p, const char *word, tn_err *err)
{
    const char *name = word + 2, *end = name + strcspn(name, "=");
    p->spelled = word;
    p->spelled_size = (int)(end - word > 200 ? 200 : end - word);
    p->inline_value = *end == '=' ? end + 1 : NULL;
    if ((size_t)(end - name) > NAME_MAX_BYTES)
        return say_unknown(p, err);
    for (size_t i = 0; name + i < end; i++)
        p->name[i] = name[i] == '_' ? '-' : name[i];
    p->name[end - name] = 0;
    return TN_OK;
}

/* --a.b of a JSON key or of an ignored flag: its base, when that is such a one. */
static tn_status look_up_base(parsing *p, target *t, bool *found, char **member, tn_err *err)
{
    char *dot = strchr(p->name, '.');
    *found = false;
    if (dot == NULL)
        return TN_OK;
    *dot = 0;
    tn_status st = look_up(p, p->name, t, found, err);
    bool json = *found && t->where == TN_GIVEN_MODEL && t->key != NULL
        && (strcmp(t->key, "override_generation_config") == 0
            || strcmp(t->key, "speculative_config") == 0);
    bool ignored = *found && t->known != NULL && t->known->what == TN_KNOWN_IGNORED;
    *found = json || ignored;
    *dot = *found ? 0 : '.';
    *member = dot + 1;
    return st;
}

static tn_status take_long(parsing *p, const char *word, tn_err *err)
{
    target t = {.where = 0};
    bool found = false, no = false;
    char *member = NULL;
    tn_status st = split_name(p, word, err);
    if (st != TN_OK)
        return st;
    st = look_up(p, p->name, &t, &found, err);
    if (st == TN_OK && !found && strncmp(p->name, "no-", 3) == 0) {
        st = look_up(p, p->name + 3, &t, &found, err);
        no = true;
        found = found && t.type == TN_OPT_BOOL && t.where != TN_GIVEN_OWN;
        if (t.known != NULL && found)
            no = false; /* no effect either way */
    }
    if (st == TN_OK && !found)
        st = look_up_base(p, &t, &found, &member, err);
    if (st != TN_OK)
        return st;
    return found ? take(p, &t, no, member, err) : say_unknown(p, err);
}

/* -q V, -tp=2, a command's own short flags, and -O3. */
static tn_status take_short(parsing *p, const char *word, tn_err *err)
{
    char brief[8] = "";
    target t = {.where = 0};
    bool found = false;
    size_t n = strcspn(word, "=");
    p->spelled = word;
    p->spelled_size = (int)(n > 200 ? 200 : n);
    p->inline_value = word[n] == '=' ? word + n + 1 : NULL;
    snprintf(p->name, sizeof p->name, "%.*s", p->spelled_size > 90 ? 90 : p->spelled_size, word);
    if (n < sizeof brief)
        memcpy(brief, word, n);
    for (uint32_t i = 0; i < p->nown; i++)
        if (p->own[i].brief != NULL && strcmp(p->own[i].brief, brief) == 0)
            found = find_own(p, p->own[i].name, &t);
    if (found)
        return take(p, &t, false, NULL, err);
    if (word[1] == 'O' && word[2] >= '0' && word[2] <= '9' && n < sizeof brief)
        return warn_ignored(p, err);
    const tn_known *k = find_known(NULL, brief);
    if (k == NULL)
        return say_unknown(p, err);
    tn_status st = look_known(p, k->name, k->what >= TN_KNOWN_ONLY, &t, &found, err);
    if (st != TN_OK)
        return st;
    return found ? take(p, &t, false, NULL, err) : say_unknown(p, err);
}

static tn_status take_word(parsing *p, tn_err *err)
{
    tn_flags *f = p->out;
    char **list = grown(f->word, f->nword, sizeof *list);
    if (list == NULL)
        return no_memory(err);
    f->word = list;
    f->word[f->nword++] = p->argv[p->at++];
    return TN_OK;
}

static tn_status parse(parsing *p, tn_err *err)
{
    tn_status st = TN_OK;
    bool words_only = false;
    while (st == TN_OK && p->at < p->argc) {
        const char *w = p->argv[p->at];
        if (words_only || w[0] != '-' || w[1] == 0 || (w[1] >= '0' && w[1] <= '9')) {
            st = take_word(p, err);
            continue;
        }
        p->at++;
        if (strcmp(w, "--") == 0)
            words_only = true;
        else
            st = w[1] == '-' ? take_long(p, w, err) : take_short(p, w, err);
    }
    return st;
}

tn_status tn_flags_parse(int argc, char *const *argv, const tn_flag *own, uint32_t nown,
                         const tn_flag_source *source, uint32_t nsource, tn_flags **out,
                         tn_err *err)
{
    parsing p = {.argc = argc, .argv = argv, .own = own, .nown = nown, .source = source,
                 .nsource = nsource};
    p.out = calloc(1, sizeof *p.out);
    if (p.out == NULL)
        return no_memory(err);
    tn_status st = parse(&p, err);
    if (st != TN_OK) {
        tn_flags_close(p.out);
        return st;
    }
    *out = p.out;
    return TN_OK;
}

void tn_flags_close(tn_flags *f)
{
    if (f == NULL)
        return;
    for (uint32_t i = 0; i < f->ngiven; i++) {
        free(f->given[i].value);
        free(f->given[i].origin);
    }
    for (uint32_t i = 0; i < f->nwarning; i++)
        free(f->warning[i]);
    free(f->given);
    free(f->warning);
    free(f->word);
    free(f);
}

const char *tn_flags_value(const tn_flags *f, const char *name)
{
    for (uint32_t i = 0; i < f->ngiven; i++)
        if (f->given[i].where == TN_GIVEN_OWN && strcmp(f->given[i].key, name) == 0)
            return f->given[i].value;
    return NULL;
}

/* The end of a flag's name when it is `name` (dashes and underscores alike), else NULL. */
static const char *name_end(const char *word, const char *name)
{
    if (strncmp(word, "--", 2) != 0)
        return NULL;
    for (word += 2; *name != 0; word++, name++)
        if (*word != *name && !(*word == '_' && *name == '-'))
            return NULL;
    return word;
}

const char *tn_flags_early(int argc, char *const *argv, const char *name)
{
    const char *value = NULL;
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
        const char *end = name_end(argv[i], name);
        if (end != NULL && *end == '=')
            value = end + 1;
        else if (end != NULL && *end == 0 && i + 1 < argc)
            value = argv[++i];
    }
    return value;
}

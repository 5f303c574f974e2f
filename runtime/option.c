/* SPDX-License-Identifier: Apache-2.0 */
/* option.c - option tables turned into checked values, each knowing where it came from. */
#include "option.h"

#include "buf.h"
#include "nearest.h"
#include "number.h"
#include "plain.h"
#include "quote.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>

#define CHOICES_MAX 64u
#define HELP_MAX_BYTES 1024u
#define LINE_MAX_BYTES 4096u /* of an INI */
#define OPTION_SIZE_1_0 (offsetof(tn_option, help) + sizeof(const char *))

/* ----------------------------------------------------------------------------- the tables */

tn_option tn_option_at(const tn_option *table, uint32_t i)
{
    tn_option o = {.size = 0};
    uint32_t step = table->size;
    const char *at = (const char *)table + (size_t)step * i;
    memcpy(&o, at, step < sizeof o ? step : sizeof o);
    return o;
}

static bool is_key(const char *s)
{
    if (*s < 'a' || *s > 'z')
        return false;
    for (; *s != 0; s++)
        if (!((*s >= 'a' && *s <= 'z') || (*s >= '0' && *s <= '9') || *s == '_'))
            return false;
    return true;
}

static bool is_bounded(const tn_option *o)
{
    return o->least != 0 || o->greatest != 0;
}

static const char *choices_fault(const tn_option *o)
{
    uint32_t n = 0;
    if (o->choices == NULL)
        return "has no choices";
    for (; o->choices[n] != NULL; n++) {
        size_t size = strnlen(o->choices[n], TN_OPTION_KEY_MAX + 1);
        if (n >= CHOICES_MAX)
            return "has more than 64 choices or no NULL after them";
        if (size == 0 || size > TN_OPTION_KEY_MAX)
            return "has a choice that is empty or longer than 64 bytes";
    }
    return n == 0 ? "has no choices" : NULL;
}

/* What is wrong with the option itself, NULL when nothing is. */
static const char *fault_of(const tn_option *o, const char *const *reserved)
{
    if (o->key == NULL || strnlen(o->key, TN_OPTION_KEY_MAX + 1) > TN_OPTION_KEY_MAX
        || !is_key(o->key))
        return "has a key that is not [a-z][a-z0-9_]*";
    for (; reserved != NULL && *reserved != NULL; reserved++)
        if (strcmp(o->key, *reserved) == 0)
            return "has a key that the core keeps for itself";
    if (o->type < TN_OPT_INT || o->type > TN_OPT_LIST)
        return "has an unknown type";
    if (o->fallback == NULL
        || strnlen(o->fallback, TN_OPTION_TEXT_MAX + 1) > TN_OPTION_TEXT_MAX)
        return "has no fallback or one past 8192 bytes";
    if (o->help == NULL || strnlen(o->help, HELP_MAX_BYTES + 1) > HELP_MAX_BYTES)
        return "has no help or more than 1024 bytes of it";
    if (isnan(o->least) || isnan(o->greatest) || (is_bounded(o) && o->least > o->greatest))
        return "has a range that ends before it begins";
    return o->type == TN_OPT_ENUM ? choices_fault(o) : NULL;
}

static tn_status read_value(tn_value *v, const char *written);
static void drop_value(tn_value *v);

tn_status tn_option_check(const tn_option *table, uint32_t n, const char *const *reserved,
                          const char *who, tn_err *err)
{
    tn_quoted quoted;
    if (n == 0)
        return TN_OK;
    if (table == NULL || n > TN_OPTIONS_MAX)
        return tn_fail(err, TN_UNAVAILABLE, "%s: %u options; expected a table of at most %u",
                       who, n, TN_OPTIONS_MAX);
    if (table->size < OPTION_SIZE_1_0 || table->size > 4096 || table->size % 8 != 0)
        return tn_fail(err, TN_UNAVAILABLE, "%s: option 0 has size %u; expected %u or more",
                       who, table->size, (unsigned)OPTION_SIZE_1_0);
    for (uint32_t i = 0; i < n; i++) {
        tn_value v = {.option = tn_option_at(table, i)};
        const char *fault = fault_of(&v.option, reserved);
        if (fault != NULL)
            return tn_fail(err, TN_UNAVAILABLE, "%s: option %u %s", who, i, fault);
        for (uint32_t j = 0; j < i; j++)
            if (strcmp(tn_option_at(table, j).key, v.option.key) == 0)
                return tn_fail(err, TN_UNAVAILABLE, "%s: options %u and %u are both %s", who,
                               j, i, v.option.key);
        if (read_value(&v, v.option.fallback) != TN_OK)
            return tn_fail(err, TN_UNAVAILABLE,
                           "%s: option %s: its fallback %s breaks its own rule", who,
                           v.option.key, tn_quote_text(&quoted, v.option.fallback));
        drop_value(&v);
    }
    return TN_OK;
}

/* ------------------------------------------------------------------------- reading values */

static bool in_range(const tn_option *o, double v)
{
    return !is_bounded(o) || (v >= o->least && v <= o->greatest);
}

static bool read_number(tn_value *v, const char *s)
{
    const tn_option *o = &v->option;
    bool b;
    switch (o->type) {
    case TN_OPT_INT:
        return tn_number_int(s, &v->i) && in_range(o, (double)v->i);
    case TN_OPT_SIZE:
        return tn_number_size(s, &v->i) && in_range(o, (double)v->i);
    case TN_OPT_FLOAT:
        return tn_number_float(s, &v->f) && in_range(o, v->f);
    default:
        if (!tn_number_bool(s, &b))
            return false;
        v->i = b;
        return true;
    }
}

static const char *blanks_end(const char *s)
{
    while (*s == ' ' || *s == '\t')
        s++;
    return s;
}

/* "a, b" into items; an empty text is an empty list, an empty item is a mistake. */
static tn_status read_list(tn_value *v, const char *s)
{
    size_t n = strlen(s);
    uint32_t count = 1;
    if (*blanks_end(s) == 0)
        return TN_OK;
    for (size_t i = 0; i < n; i++)
        count += s[i] == ',';
    char **item = malloc(count * sizeof *item + n + 1);
    if (item == NULL)
        return TN_OS;
    char *text = (char *)(item + count);
    memcpy(text, s, n + 1);
    for (uint32_t i = 0; i < count; i++) {
        char *end = text + strcspn(text, ",");
        char *next = end + 1;
        text += blanks_end(text) - text;
        while (end > text && (end[-1] == ' ' || end[-1] == '\t'))
            end--;
        if (end == text) {
            free(item);
            return TN_CONFIG;
        }
        *end = 0;
        item[i] = text;
        text = next;
    }
    v->item = item;
    v->count = count;
    return TN_OK;
}

static bool read_choice(tn_value *v, const char *s)
{
    for (const char *const *c = v->option.choices; *c != NULL; c++)
        if (strcmp(*c, s) == 0) {
            v->text = *c;
            return true;
        }
    return false;
}

/* Fills everything of v but `origin`. TN_CONFIG: the text breaks the option's rule. */
static tn_status read_value(tn_value *v, const char *written)
{
    tn_status st = TN_OK;
    size_t n = strnlen(written, TN_OPTION_TEXT_MAX + 1);
    if (n > TN_OPTION_TEXT_MAX)
        return TN_CONFIG;
    v->written = malloc(n + 1);
    if (v->written == NULL)
        return TN_OS;
    memcpy(v->written, written, n + 1);
    if (v->option.type == TN_OPT_LIST)
        st = read_list(v, written);
    else if (v->option.type == TN_OPT_ENUM)
        st = read_choice(v, written) ? TN_OK : TN_CONFIG;
    else if (v->option.type == TN_OPT_TEXT || v->option.type == TN_OPT_PATH)
        v->text = v->written;
    else
        st = read_number(v, written) ? TN_OK : TN_CONFIG;
    if (st != TN_OK)
        drop_value(v);
    return st;
}

static void drop_value(tn_value *v)
{
    free(v->written);
    free(v->origin);
    free(v->item);
    v->written = v->origin = NULL;
    v->item = NULL;
}

/* ---------------------------------------------------------------------------------- rules */

static void put_bound(const tn_option *o, double v, tn_buf *out)
{
    static const char unit[] = "KMGT";
    if (o->type == TN_OPT_FLOAT || fabs(v) >= 9.2e18) {
        tn_buf_put_double(out, v);
        return;
    }
    int64_t i = (int64_t)v;
    int u = -1;
    while (o->type == TN_OPT_SIZE && u < 3 && i != 0 && i % 1024 == 0) {
        i /= 1024;
        u++;
    }
    tn_buf_printf(out, "%lld", (long long)i);
    if (u >= 0)
        tn_buf_printf(out, " %ciB", unit[u]);
}

static void put_range(const tn_option *o, tn_buf *out)
{
    if (!is_bounded(o))
        return;
    tn_buf_puts(out, " from ");
    put_bound(o, o->least, out);
    tn_buf_puts(out, " to ");
    put_bound(o, o->greatest, out);
}

void tn_option_rule(const tn_option *o, struct tn_buf *out)
{
    static const char *const rule[] = {
        [TN_OPT_INT] = "a whole number",
        [TN_OPT_SIZE] = "a size such as 512MiB or 4G",
        [TN_OPT_FLOAT] = "a number",
        [TN_OPT_BOOL] = "yes or no",
        [TN_OPT_ENUM] = "one of ",
        [TN_OPT_TEXT] = "a text of at most 8192 bytes",
        [TN_OPT_PATH] = "a path of at most 8192 bytes",
        [TN_OPT_LIST] = "names with commas between them, none empty",
    };
    tn_buf_puts(out, o->type <= TN_OPT_LIST && rule[o->type] ? rule[o->type] : "nothing");
    if (o->type <= TN_OPT_FLOAT)
        put_range(o, out);
    for (uint32_t i = 0; o->type == TN_OPT_ENUM && o->choices[i] != NULL; i++)
        tn_buf_printf(out, "%s%s", i ? ", " : "", o->choices[i]);
}

static tn_status say_bad(const tn_values *v, const tn_option *o, const char *written,
                         const char *origin, tn_status st, tn_err *err)
{
    tn_quoted quoted;
    tn_nearest near;
    tn_buf rule;
    tn_buf_open(&rule, 800);
    tn_option_rule(o, &rule);
    tn_nearest_open(&near, written);
    for (uint32_t i = 0; o->type == TN_OPT_ENUM && o->choices[i] != NULL; i++)
        tn_nearest_try(&near, o->choices[i]);
    if (near.best != NULL)
        tn_buf_printf(&rule, " (nearest: %s)", near.best);
    st = tn_fail(err, st, "%s: [%s] %s = %s; expected %s", origin, v->section, o->key,
                 tn_quote_text(&quoted, written), rule.data ? rule.data : "another value");
    tn_buf_close(&rule);
    return st;
}

/* ---------------------------------------------------------------------------------- values */

tn_status tn_values_open(const char *section, tn_values **out, tn_err *err)
{
    tn_values *v = calloc(1, sizeof *v);
    if (v == NULL || (v->section = strdup(section)) == NULL) {
        free(v);
        return tn_fail(err, TN_OS, "conf: out of memory");
    }
    *out = v;
    return TN_OK;
}

void tn_values_close(tn_values *v)
{
    if (v == NULL)
        return;
    for (uint32_t i = 0; i < v->n; i++)
        drop_value(&v->value[i]);
    free(v->value);
    free(v->section);
    free(v);
}

tn_status tn_values_add(tn_values *v, const tn_option *table, uint32_t n, tn_err *err)
{
    if (n == 0)
        return TN_OK;
    tn_value *grown = realloc(v->value, (v->n + n) * sizeof *grown);
    if (grown == NULL)
        return tn_fail(err, TN_OS, "conf: out of memory");
    v->value = grown;
    for (uint32_t i = 0; i < n; i++) {
        tn_value *at = &v->value[v->n];
        *at = (tn_value){.option = tn_option_at(table, i)};
        tn_status st = read_value(at, at->option.fallback);
        if (st == TN_OS)
            return tn_fail(err, TN_OS, "conf: out of memory");
        if (st != TN_OK)
            return tn_fail(err, TN_INTERNAL, "[%s] %s: the fallback breaks its own rule",
                           v->section, at->option.key);
        v->n++;
    }
    return TN_OK;
}

tn_value *tn_values_find(const tn_values *v, const char *key)
{
    for (uint32_t i = 0; i < v->n; i++)
        if (strcmp(v->value[i].option.key, key) == 0)
            return &v->value[i];
    return NULL;
}

static tn_status say_unknown(const tn_values *v, const char *key, const char *origin,
                             tn_status st, tn_err *err)
{
    tn_quoted quoted;
    tn_nearest near;
    tn_nearest_open(&near, key);
    for (uint32_t i = 0; i < v->n; i++)
        tn_nearest_try(&near, v->value[i].option.key);
    return tn_fail(err, st, "%s: unknown key %s in [%s]; expected one of its %u keys%s%s",
                   origin, tn_quote_text(&quoted, key), v->section, v->n,
                   near.best ? ", nearest: " : "", near.best ? near.best : "");
}

tn_status tn_values_set(tn_values *v, const char *key, const char *written,
                        const char *origin, tn_status st, tn_err *err)
{
    tn_value *at = tn_values_find(v, key);
    if (at == NULL)
        return say_unknown(v, key, origin, st, err);
    tn_value now = {.option = at->option};
    tn_status read = read_value(&now, written);
    if (read == TN_CONFIG)
        return say_bad(v, &at->option, written, origin, st, err);
    if (read == TN_OK && (now.origin = strdup(origin)) == NULL) {
        drop_value(&now);
        read = TN_OS;
    }
    if (read != TN_OK)
        return tn_fail(err, TN_OS, "conf: out of memory");
    drop_value(at);
    *at = now;
    return TN_OK;
}

/* Would the INI reader give back this text after "key = "? */
static bool is_writable(const char *key, const char *s)
{
    size_t n = strlen(s);
    if (n == 0)
        return true;
    if (s[0] == ' ' || s[0] == ';' || s[n - 1] == ' ' || n + strlen(key) + 3 > LINE_MAX_BYTES)
        return false;
    for (size_t i = 0; i < n; i++)
        if (tn_plain_is_control(s + i, s[i + 1] != 0 ? 2 : 1)
            || (s[i] == ';' && s[i - 1] == ' '))
            return false;
    return true;
}

void tn_values_print(const tn_values *v, struct tn_buf *out)
{
    tn_quoted quoted;
    tn_buf_printf(out, "[%s]\n", v->section);
    for (uint32_t i = 0; i < v->n; i++) {
        const tn_value *at = &v->value[i];
        const char *key = at->option.key, *origin = at->origin ? at->origin : "default";
        bool fits = strlen(key) + strlen(at->written) + strlen(origin) + 16 < LINE_MAX_BYTES;
        if (!is_writable(key, at->written))
            tn_buf_printf(out, "; %s from %.200s holds what an INI cannot: %s\n", key, origin,
                          tn_quote_text(&quoted, at->written));
        else if (fits)
            tn_buf_printf(out, "%s = %s ; from %s\n", key, at->written, origin);
        else
            tn_buf_printf(out, "%s = %s\n", key, at->written);
    }
}

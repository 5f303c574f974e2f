/* SPDX-License-Identifier: Apache-2.0 */
/* conf.c - sections, keys and values as written, each with where it stands.
 *
 * How a file is read is conf_read.c's matter. */
#include "conf.h"

#include "option.h"
#include "quote.h"
#include "utf8seq.h"

#include <stdlib.h>

#define MODEL_NAME_MAX 128u
#define ENTRIES_MAX 512u     /* keys in one section */

typedef struct entry {
    char *key, *value, *origin; /* owned */
} entry;

typedef struct section {
    uint32_t kind;
    char *name;    /* owned; "" for [tenon] */
    char *origin;  /* owned */
    entry *entry;  /* owned */
    uint32_t n;
} section;

struct tn_conf {
    section *section;  /* owned, in the order of the file */
    uint32_t n;
};

/* -------------------------------------------------------------------------------- storage */

static tn_status no_memory(tn_err *err)
{
    return tn_fail(err, TN_OS, "conf: out of memory");
}

static section *find_section(const tn_conf *c, uint32_t kind, const char *name)
{
    for (uint32_t i = 0; i < c->n; i++)
        if (c->section[i].kind == kind
            && (kind == TN_CONF_TENON || strcmp(c->section[i].name, name) == 0))
            return &c->section[i];
    return NULL;
}

static entry *find_entry(const section *s, const char *key)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (strcmp(s->entry[i].key, key) == 0)
            return &s->entry[i];
    return NULL;
}

/* Steps of 8, so that growing needs no second count. */
static void *grown(void *list, uint32_t n, size_t size)
{
    return n % 8 == 0 ? realloc(list, (size_t)(n + 8) * size) : list;
}

static section *new_section(tn_conf *c, uint32_t kind, const char *name, const char *origin)
{
    section *list = grown(c->section, c->n, sizeof *list);
    if (list == NULL)
        return NULL;
    c->section = list;
    section s = {.kind = kind, .name = strdup(name), .origin = strdup(origin)};
    if (s.name == NULL || s.origin == NULL) {
        free(s.name);
        free(s.origin);
        return NULL;
    }
    c->section[c->n] = s;
    return &c->section[c->n++];
}

/* Adds key and value; all three texts are copied. */
static tn_status new_entry(section *s, const char *key, const char *value,
                           const char *origin, tn_err *err)
{
    if (s->n == ENTRIES_MAX)
        return tn_fail(err, TN_CONFIG, "%s: more than %u keys in one section", origin,
                       ENTRIES_MAX);
    entry *list = grown(s->entry, s->n, sizeof *list);
    if (list == NULL)
        return no_memory(err);
    s->entry = list;
    entry e = {strdup(key), strdup(value), strdup(origin)};
    if (e.key == NULL || e.value == NULL || e.origin == NULL) {
        free(e.key);
        free(e.value);
        free(e.origin);
        return no_memory(err);
    }
    s->entry[s->n++] = e;
    return TN_OK;
}

/* ------------------------------------------------------------------------- open and close */

tn_status tn_conf_new(tn_conf **out, tn_err *err)
{
    tn_conf *c = calloc(1, sizeof *c);
    if (c == NULL)
        return no_memory(err);
    *out = c;
    return TN_OK;
}

void tn_conf_close(tn_conf *c)
{
    if (c == NULL)
        return;
    for (uint32_t i = 0; i < c->n; i++) {
        section *s = &c->section[i];
        for (uint32_t j = 0; j < s->n; j++) {
            free(s->entry[j].key);
            free(s->entry[j].value);
            free(s->entry[j].origin);
        }
        free(s->entry);
        free(s->name);
        free(s->origin);
    }
    free(c->section);
    free(c);
}

/* --------------------------------------------------------------------------------- asking */

uint32_t tn_conf_count(const tn_conf *c, uint32_t kind)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n; i++)
        n += c->section[i].kind == kind;
    return n;
}

const char *tn_conf_name(const tn_conf *c, uint32_t kind, uint32_t want)
{
    for (uint32_t i = 0; i < c->n; i++)
        if (c->section[i].kind == kind && want-- == 0)
            return c->section[i].name;
    return NULL;
}

const char *tn_conf_origin(const tn_conf *c, uint32_t kind, const char *name)
{
    const section *s = find_section(c, kind, name);
    return s ? s->origin : NULL;
}

const char *tn_conf_get(const tn_conf *c, uint32_t kind, const char *name, const char *key,
                        const char **origin)
{
    const section *s = find_section(c, kind, name);
    const entry *e = s ? find_entry(s, key) : NULL;
    if (e != NULL && origin != NULL)
        *origin = e->origin;
    return e ? e->value : NULL;
}

bool tn_conf_is_name(uint32_t kind, const char *s)
{
    size_t n = strlen(s);
    if (kind == TN_CONF_TENON)
        return n == 0;
    if (n == 0 || n > (kind == TN_CONF_PLUGIN ? 32 : MODEL_NAME_MAX))
        return false;
    for (size_t i = 0; i < n; i++) {
        bool small = s[i] >= 'a' && s[i] <= 'z';
        bool large = s[i] >= 'A' && s[i] <= 'Z', digit = s[i] >= '0' && s[i] <= '9';
        bool fits = kind == TN_CONF_PLUGIN
            ? small || (i > 0 && (digit || s[i] == '_' || s[i] == '-'))
            : small || large || digit || (i > 0 && strchr("._-/:@+", s[i]) != NULL);
        if (!fits)
            return false;
    }
    return true;
}

tn_status tn_conf_add(tn_conf *c, uint32_t kind, const char *name, const char *origin,
                      tn_err *err)
{
    tn_quoted quoted;
    if (kind == TN_CONF_TENON)
        name = ""; /* callers may pass NULL */
    if (find_section(c, kind, name) != NULL)
        return TN_OK;
    if (kind > TN_CONF_MODEL || !tn_conf_is_name(kind, name))
        return tn_fail(err, TN_USAGE, "%s: %s is no name for a section", origin,
                       tn_quote_text(&quoted, name));
    return new_section(c, kind, name, origin) != NULL ? TN_OK : no_memory(err);
}

tn_status tn_conf_set(tn_conf *c, uint32_t kind, const char *name, const char *key,
                      const char *value, const char *origin, tn_err *err)
{
    if (!tn_is_utf8(value, strlen(value)))
        return tn_fail(err, TN_USAGE, "%s: bytes that are not UTF-8; expected text", origin);
    tn_status st = tn_conf_add(c, kind, name, origin, err);
    if (st != TN_OK)
        return st;
    section *s = find_section(c, kind, name);
    entry *old = find_entry(s, key);
    if (old == NULL)
        return new_entry(s, key, value, origin, err);
    char *v = strdup(value), *o = strdup(origin);
    if (v == NULL || o == NULL) {
        free(v);
        free(o);
        return no_memory(err);
    }
    free(old->value);
    free(old->origin);
    old->value = v;
    old->origin = o;
    return TN_OK;
}

tn_status tn_conf_fill(const tn_conf *c, uint32_t kind, const char *name, bool known_only,
                       struct tn_values *v, tn_err *err)
{
    const section *s = find_section(c, kind, name);
    for (uint32_t i = 0; s != NULL && i < s->n; i++) {
        const entry *e = &s->entry[i];
        if (known_only && tn_values_find(v, e->key) == NULL)
            continue;
        tn_status st = strncmp(e->origin, "command line", 12) == 0 ? TN_USAGE : TN_CONFIG;
        st = tn_values_set(v, e->key, e->value, e->origin, st, err);
        if (st != TN_OK)
            return st;
    }
    return TN_OK;
}

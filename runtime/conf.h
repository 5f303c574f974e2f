/* SPDX-License-Identifier: Apache-2.0 */
/* conf.h - the INI file: sections, keys and values as written, each with its line.
 *
 * Sections are [tenon], [plugin NAME] and [model NAME]. Opening checks the grammar, names and
 * duplicates; values are checked against option tables by tn_conf_fill, because the tables
 * of plugins are known only after loading. Every message begins with FILE:LINE.
 *
 * One line is one thing: there are no continued lines and no quotes. `;` or `#` begins a
 * comment line, ` ;` a comment after a value. A file has at most 1 MiB, a line 4,096 bytes,
 * 64 plugins and 64 models. TN_NOINPUT: no such file; TN_CONFIG: anything wrong in it. */
#ifndef TN_CONF_H
#define TN_CONF_H

#include <tenon/plugin.h>

#include <stdbool.h>
#include <stddef.h>

struct tn_values;

#define TN_CONF_TENON 0u
#define TN_CONF_PLUGIN 1u
#define TN_CONF_MODEL 2u

#define TN_CONF_PLUGINS_MAX 64u
#define TN_CONF_MODELS_MAX 64u
#define TN_CONF_FILE_MAX (1u << 20)
#define TN_CONF_LINE_MAX 4096u

typedef struct tn_conf tn_conf;

tn_status tn_conf_open(const char *path, tn_conf **out, tn_err *err);
/* `name` stands for the file in messages. */
tn_status tn_conf_open_text(const char *text, size_t size, const char *name, tn_conf **out,
                            tn_err *err);
/* No file: an empty configuration. */
tn_status tn_conf_new(tn_conf **out, tn_err *err);
void tn_conf_close(tn_conf *c);

/* Sections of a kind in the order of the file; names are borrowed until close. */
uint32_t tn_conf_count(const tn_conf *c, uint32_t kind);
const char *tn_conf_name(const tn_conf *c, uint32_t kind, uint32_t i);
/* FILE:LINE of the section's heading, or who added it; NULL when there is none. `name` is
 * ignored for [tenon], here and below, and may be NULL there. */
const char *tn_conf_origin(const tn_conf *c, uint32_t kind, const char *name);
/* A value as written, NULL when the key is not given; origin (may be NULL) as for a value. */
const char *tn_conf_get(const tn_conf *c, uint32_t kind, const char *name, const char *key,
                        const char **origin);

/* Is the text a name for a section of this kind? */
bool tn_conf_is_name(uint32_t kind, const char *name);
/* Adds an empty section (no error when it exists). TN_USAGE for a bad name. */
tn_status tn_conf_add(tn_conf *c, uint32_t kind, const char *name, const char *origin,
                      tn_err *err);
/* Overrides a value; adds the section when missing. `origin` is as "command line --port". */
tn_status tn_conf_set(tn_conf *c, uint32_t kind, const char *name, const char *key,
                      const char *value, const char *origin, tn_err *err);

/* Sets every key of the section in `v`. With `known_only` keys that v lacks are passed over;
 * else they are refused, with the nearest known name. */
tn_status tn_conf_fill(const tn_conf *c, uint32_t kind, const char *name, bool known_only,
                       struct tn_values *v, tn_err *err);

#endif

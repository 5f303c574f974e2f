/* SPDX-License-Identifier: Apache-2.0 */
/* flags.h - the command line, by tables: a command's own flags, then every key of [tenon],
 * [model] and of the loaded plugins as a flag, then the names that vLLM users type.
 *
 * Spellings: --a-b V, --a-b=V, --a_b; booleans --x and --no-x. --NAME.KEY V is the option KEY
 * of plugin NAME. A flag that is no key of the core is looked up among the options of the
 * loaded plugins, frontends first: `--port 8000` reaches whatever frontend has a `port`. */
#ifndef TN_FLAGS_H
#define TN_FLAGS_H

#include "conf.h"

struct tn_buf;

/* A command's own flag. */
typedef struct tn_flag {
    const char *name;    /* "print-config" */
    const char *brief;   /* "-n", or NULL */
    uint32_t takes;      /* values: 0 or 1 */
    const char *help;    /* one sentence */
} tn_flag;

/* The options of one loaded plugin, borrowed. */
typedef struct tn_flag_source {
    uint32_t kind;       /* TN_KIND_* */
    const char *plugin;
    const tn_option *options;
    uint32_t noption;
} tn_flag_source;

#define TN_GIVEN_OWN 0u
#define TN_GIVEN_TENON 1u
#define TN_GIVEN_MODEL 2u
#define TN_GIVEN_PLUGIN 3u

typedef struct tn_given {
    uint32_t where;      /* TN_GIVEN_* */
    const char *plugin;  /* PLUGIN: borrowed from the source */
    const char *key;     /* of the section, or the own flag's name; borrowed from a table */
    char *value;         /* owned; "" for a flag without value */
    char *origin;        /* owned; "command line --port" */
} tn_given;

typedef struct tn_flags {
    tn_given *given;     /* owned; a key of a section stands here once, its last value */
    uint32_t ngiven;
    char **word;         /* what is no flag, borrowed from argv; list owned */
    uint32_t nword;
    char **warning;      /* owned; one sentence for each flag accepted without effect */
    uint32_t nwarning;
} tn_flags;

/* The value of --NAME V or --NAME=V before anything is loaded (needed to find the INI that
 * says what to load); NULL when absent, the last one wins. argv[0] is the first argument. */
const char *tn_flags_early(int argc, char *const *argv, const char *name);

/* argv[0] is the first argument. TN_USAGE: unknown (names the nearest), ambiguous, a missing
 * or superfluous value, or one that is known but not offered here. */
tn_status tn_flags_parse(int argc, char *const *argv, const tn_flag *own, uint32_t nown,
                         const tn_flag_source *source, uint32_t nsource, tn_flags **out,
                         tn_err *err);
void tn_flags_close(tn_flags *f);

/* An own flag's value ("" without one), NULL when not given; the last one wins. */
const char *tn_flags_value(const tn_flags *f, const char *name);

/* Writes what was given for [tenon], [plugin ...] and [model ...] over the configuration.
 * Model keys go to every [model] section, to a new [model default] when there is none. */
tn_status tn_flags_apply(const tn_flags *f, tn_conf *c, tn_err *err);
/* The same for the MODEL argument: it becomes the path of the only model. */
tn_status tn_flags_set_model(const char *path, tn_conf *c, tn_err *err);

/* A line for every flag of the command. */
void tn_flags_help(const tn_flag *own, uint32_t nown, struct tn_buf *out);
/* The same for the keys that are flags too: [model]'s, [tenon]'s, the plugins'. `only`: names of
 * those wanted, ends with NULL; NULL: all, under titles. */
void tn_flags_help_keys(const tn_flag_source *source, uint32_t nsource, const char *const *only,
                        struct tn_buf *out);

/* The lines of one table alone. */
void tn_options_help(const tn_option *table, uint32_t n, struct tn_buf *out);

#endif

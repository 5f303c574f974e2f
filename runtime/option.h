/* SPDX-License-Identifier: Apache-2.0 */
/* option.h - option tables turned into checked values, each knowing where it came from.
 *
 * A tn_values starts as the defaults of its tables and takes written values one by one. It
 * keeps its own copy of the options (the tables may step by another size than ours); their
 * strings stay borrowed from the table's owner, who must outlive it. */
#ifndef TN_OPTION_H
#define TN_OPTION_H

#include <tenon/plugin.h>

#include <stdbool.h>

struct tn_buf;

#define TN_OPTIONS_MAX 256u      /* in one table */
#define TN_OPTION_KEY_MAX 64u    /* bytes */
#define TN_OPTION_TEXT_MAX 8192u /* bytes of a written value */

typedef struct tn_value {
    tn_option option;   /* copy, strings borrowed */
    char *written;      /* owned; as written, or the fallback */
    char *origin;       /* owned; "tenon.ini:12", "command line --port"; NULL: the default */
    int64_t i;          /* INT, SIZE, BOOL */
    double f;           /* FLOAT */
    const char *text;   /* ENUM, TEXT, PATH */
    uint32_t count;     /* LIST */
    char **item;        /* LIST: [count], one owned block with the texts behind it */
} tn_value;

typedef struct tn_values {
    char *section;      /* owned; "plugin http", for messages */
    tn_value *value;    /* owned */
    uint32_t n;
} tn_values;

/* The i-th option of a table, stepping by the size of its first element. What an older
 * author lacked reads as zero. */
tn_option tn_option_at(const tn_option *table, uint32_t i);

/* A stranger's table: sizes, keys (valid, unique, none of `reserved`, a NULL-ended list or
 * NULL), types, choices, ranges, and that every fallback passes its own check. `who` names
 * the owner. TN_UNAVAILABLE. */
tn_status tn_option_check(const tn_option *table, uint32_t n, const char *const *reserved,
                          const char *who, tn_err *err);

/* What a value must be, in words: "a whole number from 1 to 65535". */
void tn_option_rule(const tn_option *o, struct tn_buf *out);

/* No options yet; `section` is copied. */
tn_status tn_values_open(const char *section, tn_values **out, tn_err *err);
void tn_values_close(tn_values *v);
/* Adds a table, at its fallbacks. TN_INTERNAL when a fallback does not pass. */
tn_status tn_values_add(tn_values *v, const tn_option *table, uint32_t n, tn_err *err);

tn_value *tn_values_find(const tn_values *v, const char *key); /* NULL: no such option */
/* Sets a value as written; `origin` is copied and begins the message, which names key, value
 * and rule. `st` is the status of a bad value (TN_CONFIG, TN_USAGE). */
tn_status tn_values_set(tn_values *v, const char *key, const char *written,
                        const char *origin, tn_status st, tn_err *err);

/* "[section]" and a line `key = value ; from ORIGIN` for every value: a valid INI. A value
 * that an INI cannot hold is printed inside a comment. */
void tn_values_print(const tn_values *v, struct tn_buf *out);

#endif

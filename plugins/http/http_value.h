/* SPDX-License-Identifier: Apache-2.0 */
/* http_value.h - one JSON value, byte by byte: checked as it comes and written out anew.
 *
 * What it writes has ", " and ": " between its parts, strings without needless escapes, and
 * numbers as they were. It takes what RFC 8259 takes, and raw control characters in strings,
 * which models write and which come out escaped. It refuses what the house's own reader would
 * refuse when a client sends the value back: keys that stand twice, lone surrogates, numbers
 * that no double holds, more than HTTP_VALUE_DEPTH levels. */
#ifndef HTTP_VALUE_H
#define HTTP_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "http_text.h"

#define HTTP_VALUE_DEPTH 64u
#define HTTP_VALUE_KEYS 1024u    /* most keys of one object */
#define HTTP_VALUE_NUMBER 128u   /* longest number */

enum { HTTP_VALUE_MORE, HTTP_VALUE_DONE, HTTP_VALUE_BAD };

typedef struct http_value {
    uint32_t state;              /* of the grammar, private */
    uint32_t depth, depth_max;
    bool key;                    /* the string under way is a key */
    char open[HTTP_VALUE_DEPTH + 1]; /* '{' or '[' of each level */
    /* Of level 1 and on: where in `keys` its own begin, and how many. */
    size_t level_at[HTTP_VALUE_DEPTH + 2];
    uint32_t level_keys[HTTP_VALUE_DEPTH + 2];
    http_text keys;              /* keys of all open objects: size, then as written out */
    size_t string_at;            /* in `out`: where the string under way began */
    uint32_t code, digits, high; /* of a \u escape */
    uint32_t word_size;          /* of a number or name that has not ended */
    char word[HTTP_VALUE_NUMBER + 1];
} http_value;

/* `depth_max` at most HTTP_VALUE_DEPTH + 1. */
void http_value_open(http_value *v, uint32_t depth_max);
void http_value_close(http_value *v);
/* Takes one byte in and appends to `out`, which only this value writes to. DONE once the value
 * has ended with this byte; a number at the top ends with http_value_end. */
uint32_t http_value_put(http_value *v, char byte, http_text *out);
/* No byte follows: DONE or BAD. */
uint32_t http_value_end(http_value *v, http_text *out);
/* Whether `byte` would begin a value of a member (and is no blank). */
bool http_value_is_due(const http_value *v);
/* Whether a value inside a container has just ended. */
bool http_value_has_ended(const http_value *v);
/* The latest key of the innermost object, as written out, without its quotes. */
const char *http_value_key(const http_value *v, size_t *size);
/* The whole text at once: canonical JSON to `out`, or false and `out` as it was. */
bool http_value_text(const char *text, size_t size, uint32_t depth_max, http_text *out);
/* A string's inside as written out by http_value: escapes only what JSON must have escaped. */
void http_value_escape(const char *text, size_t size, http_text *out);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* pattern.c - what a tokenizer.json looks for in a text. */
#include "pattern.h"

#include "unicode.h"

#include <stdlib.h>

tn_status tn_pattern_open_string(tn_pattern *p, const char *string, size_t size,
                                 const char *what, tn_err *err)
{
    *p = (tn_pattern){0};
    if (size == 0)
        return tn_fail(err, TN_DATA, "%s: an empty pattern; expected text to look for", what);
    p->string = malloc(size);
    if (p->string == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory for its pattern", what);
    memcpy(p->string, string, size);
    p->string_size = size;
    return TN_OK;
}

tn_status tn_pattern_open(tn_pattern *p, const tn_json *spec, const uint8_t *kinds,
                          const char *what, tn_err *err)
{
    *p = (tn_pattern){0};
    const tn_json *string = tn_json_find(spec, "String"), *regex = tn_json_find(spec, "Regex");
    const tn_json *found = string != NULL ? string : regex;
    if (found == NULL || found->type != TN_JSON_TEXT || spec->count != 1)
        return tn_fail(err, TN_DATA, "%s: pattern is not {\"String\": text} or {\"Regex\": text}",
                       what);
    if (string != NULL || found->count == 0)
        return tn_pattern_open_string(p, found->text, found->count, what, err);
    p->kinds = kinds;
    p->scanner = tn_scanner_find(found->text, found->count);
    if (p->scanner != NULL)
        return TN_OK;
    return tn_regex_open(found->text, found->count, what, &p->regex, err);
}

void tn_pattern_close(tn_pattern *p)
{
    free(p->string);
    tn_regex_close(p->regex);
    *p = (tn_pattern){0};
}

static void find_string(const tn_pattern *p, const tn_pattern_walk *w, size_t *start,
                        size_t *stop)
{
    const uint8_t *at = w->from > w->size ? NULL
                        : p->string_size == 1
                            ? memchr(w->text + w->from, p->string[0], w->size - w->from)
                            : memmem(w->text + w->from, w->size - w->from, p->string,
                                     p->string_size);
    *start = at == NULL ? SIZE_MAX : (size_t)(at - w->text);
    *stop = *start + p->string_size;
}

static void find_char(const tn_pattern *p, const tn_pattern_walk *w, size_t *start,
                      size_t *stop)
{
    const uint8_t *at = w->text + w->from, *end = w->text + w->size;
    *start = SIZE_MAX;
    while (at < end) {
        const uint8_t *from = at;
        if (p->test(p->kinds, tn_utf8_next(&at))) {
            *start = (size_t)(from - w->text);
            *stop = (size_t)(at - w->text);
            return;
        }
    }
}

/* Only a regular expression can match nothing, and then it does so once between matches. */
static tn_status find_regex(const tn_pattern *p, tn_pattern_walk *w, size_t *start,
                            size_t *stop, tn_err *err)
{
    if (*w->work == NULL)
        *w->work = tn_regex_work_new(p->regex, w->work_size);
    if (*w->work == NULL)
        return tn_fail(err, TN_NO_MEMORY, "no memory to match a pattern");
    for (;;) {
        *start = SIZE_MAX;
        if (w->from > w->size)
            return TN_OK;
        tn_status st = tn_regex_find(p->regex, *w->work, w->text, w->size, w->from, start,
                                     stop, err);
        if (st != TN_OK || *start == SIZE_MAX || *stop > *start || *stop + 1 != w->last_stop)
            return st;
        do
            w->from++;
        while (w->from < w->size && (w->text[w->from] & 0xc0) == 0x80);
    }
}

tn_status tn_pattern_next(const tn_pattern *p, tn_pattern_walk *w, size_t *start, size_t *stop,
                          tn_err *err)
{
    tn_status st = TN_OK;
    if (p->scanner != NULL)
        tn_scanner_next(p->scanner, p->kinds, w->text, w->size, w->from, start, stop);
    else if (p->string != NULL)
        find_string(p, w, start, stop);
    else if (p->test != NULL)
        find_char(p, w, start, stop);
    else
        st = find_regex(p, w, start, stop, err);
    if (st != TN_OK || *start == SIZE_MAX)
        return st;
    w->from = *stop;
    w->last_stop = *stop + 1;
    return TN_OK;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* regex.c - regular expressions out of tokenizer.json, run by PCRE2. */
#include "regex.h"

#include "buf.h"
#include "quote.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>

#define WINDOW 512u            /* bytes seen by a first attempt */
#define STEPS_MAX 10000u       /* backtracks an attempt in the first window */
#define OUT_OF_MEMORY 121      /* what pcre2_compile calls it; its header has no name */
#define COST_A_BYTE 2048u      /* the ceiling: so many bytes seen by failures, per byte of text */

struct tn_regex {
    pcre2_code *code;  /* owned */
};

struct tn_regex_work {
    pcre2_match_data *data;      /* owned */
    pcre2_match_context *limits; /* owned */
    uint64_t cost_left;
};

tn_status tn_regex_open(const char *pattern, size_t size, const char *what, tn_regex **out,
                        tn_err *err)
{
    tn_quoted q;
    tn_buf text;
    if (size > TN_REGEX_SIZE_MAX)
        return tn_fail(err, TN_DATA, "%s: a pattern of %zu bytes; expected at most %u", what,
                       size, TN_REGEX_SIZE_MAX);
    tn_buf_open(&text, 64u << 20);
    tn_status st = tn_regex_translate(pattern, size, what, &text, err);
    tn_regex *r = st == TN_OK ? calloc(1, sizeof *r) : NULL;
    if (st == TN_OK && (r == NULL || text.failed))
        st = tn_fail(err, TN_NO_MEMORY, "%s: no memory for its pattern", what);
    if (st != TN_OK)
        goto done;
    int code = 0;
    PCRE2_SIZE at = 0;
    r->code = pcre2_compile((PCRE2_SPTR)(text.data != NULL ? text.data : ""), text.len,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_AUTO_CAPTURE |
                                PCRE2_NEVER_BACKSLASH_C,
                            &code, &at, NULL);
    if (r->code == NULL && code == OUT_OF_MEMORY) {
        st = tn_fail(err, TN_NO_MEMORY, "%s: no memory for its pattern", what);
        goto done;
    }
    if (r->code == NULL) {
        char why[128] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        st = tn_fail(err, TN_DATA, "%s: pattern %s: %s; expected a regular expression", what,
                     tn_quote(&q, pattern, size), why);
        goto done;
    }
    /* Without a just-in-time compiler the same code is interpreted. */
    (void)pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE | PCRE2_JIT_PARTIAL_HARD);
    *out = r;
    r = NULL;
done:
    tn_regex_close(r);
    tn_buf_close(&text);
    return st;
}

void tn_regex_close(tn_regex *r)
{
    if (r == NULL)
        return;
    pcre2_code_free(r->code);
    free(r);
}

tn_regex_work *tn_regex_work_new(const tn_regex *r, size_t text_size)
{
    tn_regex_work *w = calloc(1, sizeof *w);
    if (w == NULL)
        return NULL;
    w->data = pcre2_match_data_create_from_pattern(r->code, NULL);
    w->limits = pcre2_match_context_create(NULL);
    w->cost_left = (uint64_t)text_size * COST_A_BYTE + (1u << 20);
    if (w->data == NULL || w->limits == NULL) {
        tn_regex_work_free(w);
        return NULL;
    }
    pcre2_set_heap_limit(w->limits, 64 * 1024);
    return w;
}

void tn_regex_work_free(tn_regex_work *w)
{
    if (w == NULL)
        return;
    pcre2_match_data_free(w->data);
    pcre2_match_context_free(w->limits);
    free(w);
}

static size_t window_end(const uint8_t *text, size_t size, size_t from, size_t window)
{
    if (window >= size - from)
        return size;
    size_t end = from + window;
    while ((text[end] & 0xc0) == 0x80)
        end--;
    return end;
}

/* One attempt on text[from, end): PCRE2's answer. A match that depends on what lies behind
 * `end` counts as partial. */
static int attempt(const tn_regex *r, tn_regex_work *w, const uint8_t *text, size_t size,
                   size_t from, size_t end, bool anchored)
{
    uint32_t options = PCRE2_NO_UTF_CHECK | (end < size ? PCRE2_PARTIAL_HARD : 0) |
                       (anchored ? PCRE2_ANCHORED : 0);
    size_t steps = STEPS_MAX + (anchored ? 16 * (end - from) : 0);
    pcre2_set_match_limit(w->limits, steps > UINT32_MAX ? UINT32_MAX : (uint32_t)steps);
    return pcre2_match(r->code, text, end, from, options, w->data, w->limits);
}

static tn_status give_up(int rc, tn_err *err)
{
    if (rc == PCRE2_ERROR_NOMEMORY)
        return tn_fail(err, TN_NO_MEMORY, "no memory to match a pattern of the tokenizer");
    tn_status st = tn_fail(err, TN_REFUSED, "the text takes a pattern of the tokenizer too many "
                                            "steps; expected ordinary text");
    if (err != NULL)
        memcpy(err->code, "pattern_limit", sizeof "pattern_limit");
    return st;
}

/* Is there a match at `from` exactly? The window grows until the answer no longer depends on
 * its end. */
static tn_status match_at(const tn_regex *r, tn_regex_work *w, const uint8_t *text, size_t size,
                          size_t from, bool *found, tn_err *err)
{
    for (size_t window = WINDOW * 4;; window *= 4) {
        size_t end = window_end(text, size, from, window);
        int rc = attempt(r, w, text, size, from, end, true);
        if (rc > 0 || rc == PCRE2_ERROR_NOMATCH) {
            *found = rc > 0;
            if (rc > 0)
                return TN_OK;
        } else if (rc != PCRE2_ERROR_PARTIAL) {
            return give_up(rc, err);
        }
        if (w->cost_left < end - from)
            return give_up(PCRE2_ERROR_MATCHLIMIT, err);
        w->cost_left -= end - from;
        if (rc != PCRE2_ERROR_PARTIAL)
            return TN_OK;
    }
}

tn_status tn_regex_find(const tn_regex *r, tn_regex_work *w, const uint8_t *text, size_t size,
                        size_t from, size_t *start, size_t *stop, tn_err *err)
{
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(w->data);
    *start = SIZE_MAX;
    while (from <= size) {
        size_t end = window_end(text, size, from, WINDOW);
        int rc = attempt(r, w, text, size, from, end, false);
        bool found = rc > 0;
        if (rc == PCRE2_ERROR_NOMATCH) {
            if (end == size)
                return TN_OK;
            from = end;
            continue;
        }
        if (rc == PCRE2_ERROR_PARTIAL) {
            from = at[0];
            tn_status st = match_at(r, w, text, size, from, &found, err);
            if (st != TN_OK)
                return st;
        } else if (!found) {
            return give_up(rc, err);
        }
        if (found) {
            *start = at[0];
            *stop = at[1];
            return TN_OK;
        }
        if (from >= size)
            return TN_OK;
        for (from++; from < size && (text[from] & 0xc0) == 0x80; from++)
            ;
    }
    return TN_OK;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* newer.c - characters that our tables know and PCRE2's do not.
 *
 * PCRE2 searches a text of all assigned characters for those that it calls unassigned. */
#include "newer.h"

#include "buf.h"
#include "unicode.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>

static bool add(tn_newer *w, uint32_t cp)
{
    uint32_t category = tn_uc_class(cp) & TN_UC_CATEGORY;
    if (w->n > 0 && w->range[w->n - 1].to + 1 == cp && w->range[w->n - 1].category == category) {
        w->range[w->n - 1].to = cp;
        return true;
    }
    if (w->n == w->cap) {
        uint32_t cap = w->cap * 2 + 64;
        tn_newer_range *range = realloc(w->range, cap * sizeof *range);
        if (range == NULL)
            return false;
        w->range = range;
        w->cap = cap;
    }
    w->range[w->n++] = (tn_newer_range){cp, cp, category};
    return true;
}

static bool is_assigned(uint32_t class)
{
    uint32_t c = class & TN_UC_CATEGORY;
    return c != TN_UC_CN && c != TN_UC_CS && c != TN_UC_CO;
}

static void put_assigned(tn_buf *text)
{
    for (uint32_t i = 0; i < tn_unicode_class_count; i++) {
        uint32_t to = i + 1 < tn_unicode_class_count ? tn_unicode_class[i + 1] >> 11
                                                     : TN_UNICODE_END;
        for (uint32_t cp = tn_unicode_class[i] >> 11; is_assigned(tn_unicode_class[i]) && cp < to;
             cp++) {
            uint8_t utf8[4];
            tn_buf_put(text, utf8, tn_utf8_put(utf8, cp));
        }
    }
}

static bool search(tn_newer *w, const tn_buf *text, const pcre2_code *code,
                   pcre2_match_data *data)
{
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(data);
    size_t from = 0;
    while (pcre2_match(code, (PCRE2_SPTR)text->data, text->len, from, PCRE2_NO_UTF_CHECK, data,
                       NULL) > 0) {
        const uint8_t *p = (const uint8_t *)text->data + at[0];
        while (p < (const uint8_t *)text->data + at[1])
            if (!add(w, tn_utf8_next(&p)))
                return false;
        from = at[1];
    }
    return true;
}

bool tn_newer_open(tn_newer *w)
{
    tn_buf text;
    int error;
    PCRE2_SIZE at;
    *w = (tn_newer){0};
    tn_buf_open(&text, 4 * TN_UNICODE_END);
    put_assigned(&text);
    pcre2_code *code = pcre2_compile((PCRE2_SPTR) "\\p{Cn}+", PCRE2_ZERO_TERMINATED, PCRE2_UTF,
                                     &error, &at, NULL);
    pcre2_match_data *data = code != NULL ? pcre2_match_data_create(1, NULL) : NULL;
    bool ok = !text.failed && data != NULL;
    if (ok) {
        (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
        ok = search(w, &text, code, data);
    }
    pcre2_match_data_free(data);
    pcre2_code_free(code);
    tn_buf_close(&text);
    if (!ok)
        tn_newer_close(w);
    return ok;
}

void tn_newer_close(tn_newer *w)
{
    free(w->range);
    *w = (tn_newer){0};
}

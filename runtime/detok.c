/* SPDX-License-Identifier: Apache-2.0 */
/* detok.c - token ids to text, all at once or one by one. */
#include "tokparts.h"

#include <stdlib.h>

struct tn_detok {
    const tn_tok *t;     /* borrowed */
    bool keep_special;
    tn_decoding decoding;
};

/* An id without a token says nothing here. */
static void push(const tn_tok *t, tn_decoding *s, int32_t id, bool keep_special)
{
    uint32_t size;
    const char *token = tn_tok_decoded(t, id, &size);
    if (token != NULL && (keep_special || !t->skipped[id]))
        tn_decoding_push(s, token, size);
}

tn_status tn_tok_decode(const tn_tok *t, const int32_t *ids, size_t n, bool keep_special,
                        struct tn_buf *out, tn_err *err)
{
    tn_decoding s;
    uint32_t size;
    for (size_t i = 0; i < n; i++) {
        if (tn_tok_decoded(t, ids[i], &size) != NULL)
            continue;
        tn_status st = tn_fail(err, TN_REFUSED, "token id %d is not in the vocabulary; expected "
                               "0 to %u", ids[i], t->count - 1);
        if (err != NULL)
            snprintf(err->code, sizeof err->code, "value_out_of_range");
        return st;
    }
    if (!tn_decoding_open(&s, &t->decoder))
        return tn_fail(err, TN_NO_MEMORY, "no memory to decode %zu tokens", n);
    s.out = out;
    for (size_t i = 0; i < n; i++)
        push(t, &s, ids[i], keep_special);
    tn_decoding_finish(&s);
    tn_decoding_close(&s);
    return out->failed ? tn_fail(err, TN_NO_MEMORY, "no memory to decode %zu tokens", n) : TN_OK;
}

tn_status tn_detok_open(const tn_tok *t, bool keep_special, tn_detok **out, tn_err *err)
{
    tn_detok *d = calloc(1, sizeof *d);
    if (d == NULL || !tn_decoding_open(&d->decoding, &t->decoder)) {
        free(d);
        return tn_fail(err, TN_NO_MEMORY, "no memory to decode a reply");
    }
    d->t = t;
    d->keep_special = keep_special;
    *out = d;
    return TN_OK;
}

void tn_detok_close(tn_detok *d)
{
    if (d == NULL)
        return;
    tn_decoding_close(&d->decoding);
    free(d);
}

void tn_detok_prime(tn_detok *d, const int32_t *ids, size_t n)
{
    d->decoding.out = NULL;
    for (size_t i = 0; i < n; i++)
        push(d->t, &d->decoding, ids[i], d->keep_special);
    tn_decoding_forget(&d->decoding);
}

void tn_detok_push(tn_detok *d, int32_t id, struct tn_buf *out)
{
    d->decoding.out = out;
    push(d->t, &d->decoding, id, d->keep_special);
}

void tn_detok_finish(tn_detok *d, struct tn_buf *out)
{
    d->decoding.out = out;
    tn_decoding_finish(&d->decoding);
}

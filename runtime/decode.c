/* SPDX-License-Identifier: Apache-2.0 */
/* decode.c - the text that a row of tokens stands for, token by token.
 *
 *     push -> stage 0 -> stage 1 -> ... -> out
 *
 * Between stages a token travels as one or more parts; the last has `end` set. Fuse and
 * ByteLevel make one token of all, whose end comes only with finish. */
#include "decode_parts.h"

#include "bpe.h"
#include "unicode.h"

#include <stdlib.h>

#define HOLD_MAX 64u /* a pattern up to this long is replaced without waiting for the end */

static const char broken[] = "\xef\xbf\xbd"; /* U+FFFD */

typedef tn_decode_stage stage;

typedef struct tn_decode_room {
    tn_buf part;               /* the token in hand, where the stage wants it whole */
    tn_buf kept;               /* what is not passed on yet */
    tn_regex_work *regex;
    uint64_t ntoken;           /* whole tokens seen */
    uint32_t stripped;         /* STRIP: characters taken off the start of this token */
    bool past_start;           /* STRIP: the token's own text has begun */
    bool holds;                /* SUFFIX: `kept` is a token */
} room;

bool tn_decoding_open(tn_decoding *s, const tn_decoder *d)
{
    *s = (tn_decoding){.d = d};
    s->room = calloc(d->n + 1, sizeof *s->room);
    for (uint32_t i = 0; s->room != NULL && i < d->n; i++) {
        tn_buf_open(&s->room[i].part, SIZE_MAX / 2);
        tn_buf_open(&s->room[i].kept, SIZE_MAX / 2);
    }
    return s->room != NULL;
}

void tn_decoding_close(tn_decoding *s)
{
    for (uint32_t i = 0; s->room != NULL && i < s->d->n; i++) {
        tn_buf_close(&s->room[i].part);
        tn_buf_close(&s->room[i].kept);
        tn_regex_work_free(s->room[i].regex);
    }
    free(s->room);
    *s = (tn_decoding){0};
}

/* ---- tokens alone ---- */

/* The byte that "<0xHH>" names, -1 for any other token. */
static int byte_named(const char *t, size_t size)
{
    int v = 0;
    if (size != 6 || memcmp(t, "<0x", 3) != 0 || t[5] != '>')
        return -1;
    for (int i = 3; i < 5; i++) {
        char c = t[i];
        int d = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f'
                                                     ? (c | 32) - 'a' + 10 : -1;
        if (i == 3 && c == '+')
            d = 0; /* as Rust reads numbers */
        if (d < 0)
            return -1;
        v = v * 16 + d;
    }
    return v;
}

/* A token of the byte alphabet to its bytes; one with any other character stays as it is. */
static void put_byte_level(tn_buf *out, const char *t, size_t size)
{
    uint8_t bytes[256];
    size_t before = out->len, n = 0, part;
    for (size_t i = 0; i < size && n != SIZE_MAX; i += part) {
        part = size - i < sizeof bytes ? size - i : sizeof bytes;
        while (i + part < size && ((uint8_t)t[i + part] & 0xc0) == 0x80)
            part--; /* no character is cut */
        n = tn_word_bytes(t + i, part, bytes);
        if (n != SIZE_MAX)
            tn_buf_put(out, bytes, n);
    }
    if (n == SIZE_MAX) {
        out->len = before;
        tn_buf_put(out, t, size);
    }
}

/* Replaces every match. What the walk could not finish is copied. */
static tn_status put_replaced(tn_buf *out, const stage *s, const char *content,
                              size_t content_size, const char *t, size_t size,
                              tn_regex_work **work, tn_err *err)
{
    tn_pattern_walk walk = {.text = (const uint8_t *)t, .size = size, .work = work,
                            .work_size = 65536};
    size_t done = 0, start, stop = 0;
    tn_status st = TN_OK;
    while (size > 0) {
        st = tn_pattern_next(&s->pattern, &walk, &start, &stop, err);
        if (st != TN_OK || start == SIZE_MAX)
            break;
        tn_buf_put(out, t + done, start - done);
        tn_buf_put(out, content, content_size);
        done = stop;
    }
    tn_buf_put(out, t + done, size - done);
    return st;
}

static void put_marks(tn_buf *out, const stage *s, const char *t, size_t size, bool drop)
{
    const char *end = t + size;
    while (t < end) {
        const char *m = memmem(t, (size_t)(end - t), s->mark, s->mark_size);
        const char *stop = m != NULL ? m : end;
        tn_buf_put(out, t, (size_t)(stop - t));
        if (m != NULL && !drop)
            tn_buf_putc(out, ' ');
        t = m != NULL ? m + s->mark_size : end;
    }
}

void tn_decoder_room_open(tn_decoder_room *room)
{
    tn_buf_open(&room->side[0], 1u << 28);
    tn_buf_open(&room->side[1], 1u << 28);
}

void tn_decoder_room_close(tn_decoder_room *room)
{
    tn_buf_close(&room->side[0]);
    tn_buf_close(&room->side[1]);
}

/* True when the stage changes a token by itself; then `out` has what it makes of it. */
static bool change(const stage *s, const char *t, size_t size, tn_buf *out, tn_status *st,
                   tn_err *err)
{
    tn_regex_work *work = NULL;
    int byte = s->kind == TN_STAGE_BYTE_FALLBACK ? byte_named(t, size) : -1;
    if (s->kind == TN_STAGE_BYTE_LEVEL)
        put_byte_level(out, t, size);
    else if (byte >= 0)
        tn_buf_putc(out, (char)byte);
    else if (s->kind == TN_STAGE_REPLACE)
        *st = put_replaced(out, s, s->content, s->content_size, t, size, &work, err);
    else if (s->kind == TN_STAGE_SUFFIX)
        *st = put_replaced(out, s, " ", 1, t, size, &work, err);
    else if (s->kind == TN_STAGE_METASPACE)
        put_marks(out, s, t, size, false);
    else
        return false;
    tn_regex_work_free(work);
    return true;
}

tn_status tn_decoder_token(const tn_decoder *d, tn_decoder_room *room, const char *token,
                           size_t size, tn_buf *out, tn_err *err)
{
    tn_status st = TN_OK;
    tn_buf *to = &room->side[0], *other = &room->side[1];
    for (uint32_t i = 0; i < d->n && st == TN_OK; i++) {
        tn_buf_reset(to);
        if (!change(&d->stage[i], token, size, to, &st, err))
            continue;
        token = to->len > 0 ? to->data : "";
        size = to->len;
        tn_buf *swap = to;
        to = other;
        other = swap;
    }
    if (size > 0)
        tn_buf_put(out, token, size);
    if (st == TN_OK && (to->failed || other->failed || out->failed))
        st = tn_fail(err, TN_NO_MEMORY, "no memory for the text of a token");
    return st;
}

/* ---- tokens in a row ---- */

static void pass(tn_decoding *s, uint32_t at, const char *t, size_t size, bool end);

/* Passes on what is text for good, with U+FFFD for what never will be; keeps the start of an
 * unfinished character unless `finish`. */
static void pass_utf8(tn_decoding *s, uint32_t at, bool finish)
{
    tn_buf *kept = &s->room[at].kept;
    if (kept->len == 0)
        return;
    const uint8_t *p = (const uint8_t *)kept->data, *end = p + kept->len;
    while (p < end) {
        size_t good = tn_utf8_check(p, (size_t)(end - p));
        if (good > 0)
            pass(s, at + 1, (const char *)p, good, false);
        p += good;
        if (p == end)
            break;
        bool unfinished;
        size_t n = tn_utf8_bad_size(p, end, &unfinished);
        if (unfinished && !finish)
            break;
        pass(s, at + 1, broken, 3, false);
        p += n;
    }
    size_t left = (size_t)(end - p);
    if (left > 0)
        memmove(kept->data, p, left);
    kept->len = left;
}

/* A run of byte tokens is text if all of it is; else each of them is a U+FFFD. */
static void pass_bytes(tn_decoding *s, uint32_t at)
{
    tn_buf *kept = &s->room[at].kept;
    if (kept->len == 0)
        return;
    if (tn_utf8_check((const uint8_t *)kept->data, kept->len) == kept->len)
        pass(s, at + 1, kept->data, kept->len, true);
    else
        for (size_t i = 0; i < kept->len; i++)
            pass(s, at + 1, broken, 3, true);
    tn_buf_reset(kept);
}

static void strip(tn_decoding *s, uint32_t at, const char *t, size_t size, bool end)
{
    const stage *g = &s->d->stage[at];
    room *r = &s->room[at];
    const char *stop = t + size;
    while (!r->past_start && r->stripped < g->start && (size_t)(stop - t) >= g->mark_size &&
           memcmp(t, g->mark, g->mark_size) == 0) {
        t += g->mark_size;
        r->stripped++;
    }
    if (t < stop || r->stripped == g->start)
        r->past_start = true;
    /* Marks at the end wait, `stop` of them at most: they go when the token ends here. */
    tn_buf_put(&r->kept, t, (size_t)(stop - t));
    size_t n = r->kept.len, marks = 0;
    while (marks < g->stop && n >= g->mark_size &&
           memcmp(r->kept.data + n - g->mark_size, g->mark, g->mark_size) == 0) {
        n -= g->mark_size;
        marks++;
    }
    if (n > 0 || end)
        pass(s, at + 1, n > 0 ? r->kept.data : "", n, end);
    if (end) {
        tn_buf_reset(&r->kept);
        r->stripped = 0;
        r->past_start = false;
        return;
    }
    if (n > 0 && n < r->kept.len)
        memmove(r->kept.data, r->kept.data + n, r->kept.len - n);
    r->kept.len -= n;
}

/* Replaces in what is kept, all but a tail that may be the start of one more match. */
static void replace(tn_decoding *s, uint32_t at, bool end)
{
    const stage *g = &s->d->stage[at];
    room *r = &s->room[at];
    bool stream = g->pattern.string != NULL && g->pattern.string_size <= HOLD_MAX;
    if (!end && !stream)
        return;
    tn_buf out;
    tn_buf_open(&out, SIZE_MAX / 2);
    const char *t = r->kept.len > 0 ? r->kept.data : "";
    size_t done = 0, tail = 0;
    if (end) {
        tn_status st = put_replaced(&out, g, g->content, g->content_size, t, r->kept.len,
                                    &r->regex, NULL);
        s->no_memory = s->no_memory || st == TN_NO_MEMORY;
        done = r->kept.len;
    } else {
        const char *m;
        while ((m = memmem(t + done, r->kept.len - done, g->pattern.string,
                           g->pattern.string_size)) != NULL) {
            tn_buf_put(&out, t + done, (size_t)(m - t) - done);
            tn_buf_put(&out, g->content, g->content_size);
            done = (size_t)(m - t) + g->pattern.string_size;
        }
        size_t left = r->kept.len - done;
        tail = left < g->pattern.string_size ? left : g->pattern.string_size - 1;
        while (tail > 0 && memcmp(t + r->kept.len - tail, g->pattern.string, tail) != 0)
            tail--;
        tn_buf_put(&out, t + done, left - tail);
        done = r->kept.len - tail;
    }
    if (tail > 0 && done > 0)
        memmove(r->kept.data, r->kept.data + done, tail);
    r->kept.len = tail;
    if (out.len > 0 || end)
        pass(s, at + 1, out.len > 0 ? out.data : "", out.len, end);
    s->no_memory = s->no_memory || out.failed;
    tn_buf_close(&out);
}

/* A token whose suffix turns into a blank, or into nothing when it is the last. */
static void pass_held(tn_decoding *s, uint32_t at, bool last)
{
    const stage *g = &s->d->stage[at];
    room *r = &s->room[at];
    if (!r->holds)
        return;
    tn_buf out;
    tn_buf_open(&out, SIZE_MAX / 2);
    (void)put_replaced(&out, g, " ", last ? 0 : 1, r->kept.len > 0 ? r->kept.data : "",
                       r->kept.len, &r->regex, NULL);
    pass(s, at + 1, out.len > 0 ? out.data : "", out.len, true);
    s->no_memory = s->no_memory || out.failed;
    tn_buf_close(&out);
    tn_buf_reset(&r->kept);
    r->holds = false;
}

static void metaspace(tn_decoding *s, uint32_t at, const char *t, size_t size, bool end)
{
    const stage *g = &s->d->stage[at];
    tn_buf out;
    tn_buf_open(&out, SIZE_MAX / 2);
    put_marks(&out, g, t, size, g->drop_first && s->room[at].ntoken == 0);
    pass(s, at + 1, out.len > 0 ? out.data : "", out.len, end);
    s->no_memory = s->no_memory || out.failed;
    tn_buf_close(&out);
}

/* One whole token, for the stages that must see it whole. */
static void whole_token(tn_decoding *s, uint32_t at, const char *t, size_t size)
{
    room *r = &s->room[at];
    int byte;
    switch (s->d->stage[at].kind) {
    case TN_STAGE_BYTE_LEVEL:
        put_byte_level(&r->kept, t, size);
        pass_utf8(s, at, false);
        break;
    case TN_STAGE_BYTE_FALLBACK:
        byte = byte_named(t, size);
        if (byte >= 0) {
            tn_buf_putc(&r->kept, (char)byte);
            break;
        }
        pass_bytes(s, at);
        pass(s, at + 1, t, size, true);
        break;
    case TN_STAGE_SUFFIX:
        pass_held(s, at, false);
        tn_buf_put(&r->kept, t, size);
        r->holds = true;
        break;
    default: /* TN_STAGE_JOIN */
        if (r->ntoken > 0)
            pass(s, at + 1, " ", 1, true);
        pass(s, at + 1, t, size, true);
    }
}

static void pass(tn_decoding *s, uint32_t at, const char *t, size_t size, bool end)
{
    if (at == s->d->n) {
        if (s->out != NULL && size > 0)
            tn_buf_put(s->out, t, size);
        return;
    }
    room *r = &s->room[at];
    switch (s->d->stage[at].kind) {
    case TN_STAGE_FUSE:
        if (size > 0)
            pass(s, at + 1, t, size, false);
        break;
    case TN_STAGE_STRIP: strip(s, at, t, size, end); break;
    case TN_STAGE_REPLACE:
        tn_buf_put(&r->kept, t, size);
        replace(s, at, end);
        break;
    case TN_STAGE_METASPACE: metaspace(s, at, t, size, end); break;
    default:
        if (!end || r->part.len > 0)
            tn_buf_put(&r->part, t, size);
        if (!end)
            break; /* behind Fuse there is one token, and it ends with the text */
        if (r->part.len > 0)
            whole_token(s, at, r->part.data, r->part.len);
        else
            whole_token(s, at, t, size);
        tn_buf_reset(&r->part);
    }
    s->no_memory = s->no_memory || r->kept.failed || r->part.failed;
    r->ntoken += end;
}

void tn_decoding_push(tn_decoding *s, const char *token, size_t size)
{
    pass(s, 0, token, size, true);
    if (s->no_memory && s->out != NULL)
        s->out->failed = true;
}

void tn_decoding_finish(tn_decoding *s)
{
    for (uint32_t i = 0; i < s->d->n; i++) {
        switch (s->d->stage[i].kind) {
        case TN_STAGE_BYTE_LEVEL:
            pass_utf8(s, i, true);
            pass(s, i + 1, "", 0, true);
            break;
        case TN_STAGE_BYTE_FALLBACK: pass_bytes(s, i); break;
        case TN_STAGE_FUSE: pass(s, i + 1, "", 0, true); break;
        case TN_STAGE_SUFFIX: pass_held(s, i, true); break;
        default: break;
        }
    }
    if (s->no_memory && s->out != NULL)
        s->out->failed = true;
}

/* Keeps of a run of bytes only the unfinished character at its end. */
static void keep_unfinished(tn_buf *kept)
{
    if (kept->len == 0)
        return;
    const uint8_t *p = (const uint8_t *)kept->data, *end = p + kept->len;
    bool unfinished = false;
    while (p < end && !unfinished) {
        p += tn_utf8_check(p, (size_t)(end - p));
        if (p == end)
            break;
        size_t n = tn_utf8_bad_size(p, end, &unfinished);
        p += unfinished ? 0 : n;
    }
    size_t left = (size_t)(end - p);
    if (left > 0)
        memmove(kept->data, p, left);
    kept->len = left;
}

void tn_decoding_forget(tn_decoding *s)
{
    for (uint32_t i = 0; i < s->d->n; i++) {
        const stage *g = &s->d->stage[i];
        tn_buf *kept = &s->room[i].kept;
        tn_buf_reset(&s->room[i].part);
        if (g->kind == TN_STAGE_BYTE_LEVEL)
            continue;
        if (g->kind == TN_STAGE_BYTE_FALLBACK) {
            keep_unfinished(kept);
            continue;
        }
        size_t n = g->content_size;
        bool ends = g->kind == TN_STAGE_SUFFIX && n > 0 && kept->len >= n &&
                    memcmp(kept->data + kept->len - n, g->content, n) == 0;
        tn_buf_reset(kept);
        if (ends) /* the blank that it turns into is still to come */
            tn_buf_put(kept, g->content, g->content_size);
    }
}

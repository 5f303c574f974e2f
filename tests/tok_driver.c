/* SPDX-License-Identifier: Apache-2.0 */
/* tok_driver.c - a tokenizer behind two pipes, for tests/tokenizers.py.
 *
 *   tok_driver MODEL_DIR        reads requests, one after the other, from standard input:
 *
 *   E flags nplain size\n  plain offsets on a line, then `size` bytes: encode
 *   D keep n\n             n ids on a line: decode
 *   S keep nprime n\n      ids on a line: the first nprime prime, the rest stream
 *   B id\n                 the token's bytes
 *
 * and answers each with "ok size\n" and that many bytes, or "no text of the error\n". Ids are
 * answered as decimal text. A stream's pieces are parted by the byte FF. */
#include "buf.h"
#include "tokenizer.h"

#include <inttypes.h>
#include <stdlib.h>

#define COUNT_MAX (64u << 20)

static void answer(tn_status st, const tn_err *err, const tn_buf *out)
{
    if (st != TN_OK) {
        printf("no %s\n", err->text);
    } else {
        printf("ok %zu\n", out->len);
        if (out->len > 0)
            fwrite(out->data, 1, out->len, stdout);
    }
    fflush(stdout);
}

/* `n` numbers and the end of their line. */
static bool read_numbers(size_t n, int64_t *out)
{
    for (size_t i = 0; i < n; i++)
        if (scanf("%" SCNd64, &out[i]) != 1)
            return false;
    return getchar() == '\n';
}

static bool encode(const tn_tok *t, tn_err *err)
{
    int64_t head[3];
    if (!read_numbers(3, head) || head[1] > COUNT_MAX || head[2] > COUNT_MAX)
        return false;
    int64_t *at = calloc((size_t)head[1] + 1, sizeof *at);
    size_t *plain = calloc((size_t)head[1] + 1, sizeof *plain);
    char *text = malloc((size_t)head[2] + 1);
    bool ok = at != NULL && plain != NULL && text != NULL && read_numbers((size_t)head[1], at) &&
              fread(text, 1, (size_t)head[2], stdin) == (size_t)head[2];
    for (int64_t i = 0; ok && i < head[1]; i++)
        plain[i] = (size_t)at[i];
    if (ok) {
        tn_ids ids = {0};
        tn_buf out;
        tn_buf_open(&out, SIZE_MAX / 2);
        tn_status st = tn_tok_encode(t, text, (size_t)head[2], (uint32_t)head[0], plain,
                                     (size_t)head[1], &ids, err);
        for (size_t i = 0; i < ids.n; i++)
            tn_buf_printf(&out, "%d ", ids.id[i]);
        answer(st, err, &out);
        tn_buf_close(&out);
        tn_ids_close(&ids);
    }
    free(at);
    free(plain);
    free(text);
    return ok;
}

static void stream(const tn_tok *t, bool keep, const int32_t *ids, size_t nprime, size_t n,
                   tn_err *err)
{
    tn_detok *d = NULL;
    tn_buf out;
    tn_buf_open(&out, SIZE_MAX / 2);
    tn_status st = tn_detok_open(t, keep, &d, err);
    if (st == TN_OK && nprime > 0)
        tn_detok_prime(d, ids, nprime);
    for (size_t i = nprime; st == TN_OK && i < n; i++) {
        size_t before = out.len;
        tn_detok_push(d, ids[i], &out);
        if (out.len > before)
            tn_buf_putc(&out, '\xff');
    }
    if (st == TN_OK)
        tn_detok_finish(d, &out);
    answer(st, err, &out);
    tn_detok_close(d);
    tn_buf_close(&out);
}

static bool decode(const tn_tok *t, bool streamed, tn_err *err)
{
    int64_t head[3] = {0};
    if (!read_numbers(streamed ? 3 : 2, head))
        return false;
    size_t n = (size_t)(streamed ? head[2] : head[1]), nprime = streamed ? (size_t)head[1] : 0;
    if (n > COUNT_MAX || nprime > n)
        return false;
    int64_t *in = calloc(n + 1, sizeof *in);
    int32_t *ids = calloc(n + 1, sizeof *ids);
    bool ok = in != NULL && ids != NULL && read_numbers(n, in);
    for (size_t i = 0; ok && i < n; i++)
        ids[i] = (int32_t)in[i];
    if (ok && streamed) {
        stream(t, head[0] != 0, ids, nprime, n, err);
    } else if (ok) {
        tn_buf out;
        tn_buf_open(&out, SIZE_MAX / 2);
        tn_status st = tn_tok_decode(t, ids, n, head[0] != 0, &out, err);
        answer(st, err, &out);
        tn_buf_close(&out);
    }
    free(in);
    free(ids);
    return ok;
}

static bool bytes(const tn_tok *t, tn_err *err)
{
    int64_t id;
    uint32_t size = 0;
    tn_buf out;
    if (!read_numbers(1, &id))
        return false;
    const char *text = tn_tok_bytes(t, (int32_t)id, &size);
    tn_buf_open(&out, SIZE_MAX / 2);
    if (text != NULL)
        tn_buf_put(&out, text, size);
    snprintf(err->text, sizeof err->text, "no such id");
    answer(text != NULL ? TN_OK : TN_REFUSED, err, &out);
    tn_buf_close(&out);
    return true;
}

int main(int argc, char **argv)
{
    tn_tok *t = NULL;
    static tn_err err;
    if (argc != 2)
        return 64;
    tn_status st = tn_tok_open(argv[1], 0, &t, &err);
    printf("%s%s\n", st == TN_OK ? "ok" : "no ", st == TN_OK ? "" : err.text);
    fflush(stdout);
    bool ok = st == TN_OK;
    for (int c = getchar(); ok && c != EOF; c = getchar()) {
        if (c == 'E')
            ok = encode(t, &err);
        else if (c == 'D' || c == 'S')
            ok = decode(t, c == 'S', &err);
        else if (c == 'B')
            ok = bytes(t, &err);
        else
            ok = c == '\n';
    }
    tn_tok_close(t);
    return ok ? 0 : 65;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* bench_tokenizer.c - how fast a tokenizer opens, encodes and decodes.
 *
 *   bench_tokenizer MODEL_DIR TEXT_FILE [SECONDS]
 *
 * Times are of the processor, not of the wall, so that a busy machine disturbs them less. */
#include "buf.h"
#include "filemap.h"
#include "tokenizer.h"

#include <stdlib.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int fail(const tn_err *err)
{
    fprintf(stderr, "bench_tokenizer: %s\n", err->text);
    return 1;
}

/* The best of many runs: what the machine can do when nothing disturbs it. */
static tn_status encode_best(const tn_tok *t, const char *text, size_t size, double seconds,
                             tn_ids *ids, double *best, tn_err *err)
{
    double stop = now() + seconds;
    *best = 1e9;
    do {
        ids->n = 0;
        double from = now();
        tn_status st = tn_tok_encode(t, text, size, 0, NULL, 0, ids, err);
        if (st != TN_OK)
            return st;
        double took = now() - from;
        *best = took < *best ? took : *best;
    } while (now() < stop);
    return TN_OK;
}

int main(int argc, char **argv)
{
    tn_err err;
    tn_tok *t = NULL;
    tn_filemap map;
    tn_ids ids = {0};
    tn_buf text;
    double best, from = now();
    if (argc < 3) {
        fprintf(stderr, "usage: bench_tokenizer MODEL_DIR TEXT_FILE [SECONDS]\n");
        return 64;
    }
    if (tn_tok_open(argv[1], 0, &t, &err) != TN_OK)
        return fail(&err);
    printf("open    %8.1f ms, %u tokens\n", (now() - from) * 1e3, tn_tok_count(t));
    if (tn_filemap_open(&map, argv[2], NULL, 0, &err) != TN_OK)
        return fail(&err);
    const char *in = (const char *)map.data;
    double seconds = argc > 3 ? strtod(argv[3], NULL) : 2.0;
    if (encode_best(t, in, map.size, seconds, &ids, &best, &err) != TN_OK)
        return fail(&err);
    printf("encode  %8.2f MB/s, %zu tokens from %zu bytes\n", (double)map.size / best / 1e6,
           ids.n, (size_t)map.size);
    from = now();
    tn_buf_open(&text, SIZE_MAX / 2);
    if (tn_tok_decode(t, ids.id, ids.n, true, &text, &err) != TN_OK)
        return fail(&err);
    printf("decode  %8.2f MB/s, %s\n", (double)text.len / (now() - from) / 1e6,
           text.len == map.size && memcmp(text.data, in, text.len) == 0 ? "the same text"
                                                                         : "another text");
    tn_buf_close(&text);
    tn_ids_close(&ids);
    tn_filemap_close(&map);
    tn_tok_close(t);
    return 0;
}

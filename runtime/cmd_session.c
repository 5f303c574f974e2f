/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_session.c - `tenon session FILE`: what a saved conversation holds. */
#include "buf.h"
#include "command.h"
#include "flags.h"
#include "sessionfile.h"

#include <stdlib.h>
#include <time.h>

#define PORTION ((size_t)1 << 20)

static const tn_flag own[] = {
    {"json", NULL, 0, "Prints one JSON object."},
    {"help", "-h", 0, "Prints this text."},
};

/* Reads all of it, for its checksum. */
static tn_status read_through(tn_session_file *f, const tn_session_head *h, tn_err *err)
{
    uint64_t left = tn_session_parts_size(h);
    char *part = malloc(PORTION);
    tn_status st = part != NULL ? TN_OK : tn_fail(err, TN_NO_MEMORY, "no memory");
    for (uint64_t n; st == TN_OK && left > 0; left -= n) {
        n = left < PORTION ? left : PORTION;
        st = tn_session_get(f, part, n, err);
    }
    free(part);
    return st == TN_OK ? tn_session_check(f, err) : st;
}

static void print_json(const tn_session_head *h, tn_buf *out)
{
    tn_buf_puts(out, "{\"model\": ");
    tn_buf_put_json(out, h->model, strlen(h->model));
    tn_buf_printf(out, ", \"fingerprint\": \"%016llx%016llx\", \"created\": %lld, \"tokens\": %u, "
                  "\"cached_tokens\": %u, \"block_tokens\": %u, \"blocks\": %u, \"block_bytes\": "
                  "%llu, \"state_bytes\": %llu, \"note_bytes\": %llu, \"bytes\": %llu}\n",
                  (unsigned long long)h->fingerprint[0], (unsigned long long)h->fingerprint[1],
                  (long long)h->created, h->nid, h->ncached, h->block_tokens, h->nblock,
                  (unsigned long long)h->block_size, (unsigned long long)h->state_size,
                  (unsigned long long)h->note_size,
                  (unsigned long long)tn_session_file_size(h));
}

static void print_text(const tn_session_head *h, tn_buf *out)
{
    char when[64] = "?";
    time_t t = (time_t)h->created;
    struct tm tm;
    if (gmtime_r(&t, &tm) != NULL)
        strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S UTC", &tm);
    tn_buf_printf(out, "model        %s\nfingerprint  %016llx%016llx\nsaved        %s\n"
                  "tokens       %u, %u of them cached\nblocks       %u of %u tokens, %llu bytes "
                  "each\nstate        %llu bytes\nnote         %llu bytes\nfile         %llu bytes, "
                  "whole\n", h->model, (unsigned long long)h->fingerprint[0],
                  (unsigned long long)h->fingerprint[1], when, h->nid, h->ncached, h->nblock,
                  h->block_tokens, (unsigned long long)h->block_size,
                  (unsigned long long)h->state_size, (unsigned long long)h->note_size,
                  (unsigned long long)tn_session_file_size(h));
}

static tn_status run(const tn_flags *f, tn_err *err)
{
    tn_session_file *file = NULL;
    tn_session_head head;
    if (f->nword != 1)
        return tn_fail(err, TN_USAGE, "session: %u words; expected FILE", f->nword);
    tn_status st = tn_session_open(f->word[0], f->word[0], &file, &head, err);
    if (st == TN_OK)
        st = read_through(file, &head, err);
    tn_session_close(file);
    if (st != TN_OK)
        return st;
    tn_buf out;
    tn_buf_open(&out, 65536);
    if (tn_flags_value(f, "json") != NULL)
        print_json(&head, &out);
    else
        print_text(&head, &out);
    st = out.failed ? tn_fail(err, TN_NO_MEMORY, "no memory")
                    : tn_command_print(out.data, out.len, err);
    tn_buf_close(&out);
    return st;
}

int tn_cmd_session(int argc, char *const *argv)
{
    return tn_command_alone(argc, argv, own, sizeof own / sizeof *own,
                            "tenon session FILE - prints what a saved conversation holds.",
                            run);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_eval.c - `tenon eval DIR --text FILE`: how well the model predicts a text.
 *
 * One window: the first N tokens of the text, each but the first scored by the tokens before
 * it. perplexity = exp(mean negative log-likelihood). */
#include "answer.h"
#include "command.h"
#include "house.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BYTES_A_TOKEN 64u  /* of text read for each token wanted: more than any tokenizer needs */

static const tn_flag own[] = {
    {"text", NULL, 1, "The text to predict; - reads standard input."},
    {"max-tokens", "-n", 1, "Tokens of it that are used (2048)."},
    {"json", NULL, 0, "Prints one JSON object."},
};

/* Ends a text that was cut on a whole character. */
static size_t whole_characters(const char *text, size_t n)
{
    size_t i = n;
    while (i > 0 && n - i < 4 && ((unsigned char)text[i - 1] & 0xC0) == 0x80)
        i--;
    if (i == 0)
        return n;
    unsigned char c = (unsigned char)text[i - 1];
    size_t want = c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
    return n - (i - 1) < want ? i - 1 : n;
}

static tn_status make_ids(const tn_house *h, int64_t n, tn_ids *ids, tn_err *err)
{
    const char *path = tn_flags_value(h->flags, "text");
    char *text = NULL;
    size_t size = 0, most = (size_t)n * BYTES_A_TOKEN;
    if (path == NULL)
        return tn_fail(err, TN_USAGE, "eval: no text; expected --text FILE");
    tn_status st = tn_command_read(path, most, &text, &size, err);
    if (st != TN_OK)
        return st;
    st = tn_tok_encode(h->served[0].tok, text, whole_characters(text, size), TN_TOK_ADD_SPECIAL,
                       NULL, 0, ids, err);
    free(text);
    if (st == TN_OK && ids->n > (size_t)n)
        ids->n = (size_t)n;
    if (st == TN_OK && ids->n < 2)
        st = tn_fail(err, TN_DATA, "%s: %zu tokens; expected at least 2", path, ids->n);
    return st == TN_REFUSED ? TN_DATA : st;
}

static tn_status print_result(const tn_answer *c, bool json, tn_err *err)
{
    double sum = 0;
    size_t n = 0;
    for (size_t i = 1; i < c->nprompt; i++, n++)
        sum -= (double)c->prompt[i].logprob;
    double mean = n > 0 ? sum / (double)n : NAN;
    char text[256];
    int len = json ? snprintf(text, sizeof text, "{\"tokens\": %zu, \"mean_nll\": %.6f, "
                              "\"perplexity\": %.6f}\n", c->nprompt, mean, exp(mean))
                   : snprintf(text, sizeof text, "tokens      %zu\nmean NLL    %.6f\nperplexity  "
                              "%.4f\n", c->nprompt, mean, exp(mean));
    if (!isfinite(mean))
        return tn_fail(err, TN_INTERNAL, "eval: the model's log-probabilities are not finite");
    return tn_command_print(text, (size_t)len, err);
}

static tn_status run(tn_house *h, tn_err *err)
{
    int64_t n = 0;
    tn_ids ids = {0};
    tn_answer c;
    tn_status st = tn_command_int(h->flags, "max-tokens", 2048, 2, 1 << 24, &n, err);
    if (st == TN_OK)
        st = make_ids(h, n, &ids, err);
    if (st == TN_OK)
        st = tn_answer_open(&c, err);
    if (st != TN_OK) {
        tn_ids_close(&ids);
        return st;
    }
    tn_ask a = tn_ask_default();
    a.prompt.kind = TN_PROMPT_IDS;
    a.prompt.ids = ids.id;
    a.prompt.nid = ids.n;
    a.max_tokens = 0;
    a.prompt_logprobs = 0;
    st = tn_answer_start(&c, h->served[0].engine, &a, err);
    if (st == TN_OK)
        st = tn_answer_wait(&c, err);
    if (st == TN_OK)
        st = print_result(&c, tn_flags_value(h->flags, "json") != NULL, err);
    tn_answer_close(&c);
    tn_ids_close(&ids);
    return st;
}

int tn_cmd_eval(int argc, char *const *argv)
{
    tn_err err = {{0}, {0}, {0}};
    tn_house h;
    /* A long window on a slow machine is no reason to give up; nothing else runs here. */
    static const char *const set[] = {"request_timeout", "0", "max_num_seqs", "1", NULL};
    tn_house_setup setup = {.command = "eval", .argc = argc, .argv = argv, .own = own,
                            .nown = sizeof own / sizeof *own, .words_most = 1, .set = set,
                            .flags = TN_HOUSE_QUIET | TN_HOUSE_MODEL_WORD};
    tn_status st = tn_house_open(&setup, &h, &err);
    if (st == TN_CANCELLED)
        return 0; /* --help */
    if (st != TN_OK)
        return tn_command_fail(st, &err);
    st = run(&h, &err);
    tn_house_close(&h);
    return st == TN_OK ? 0 : tn_command_fail(st, &err);
}

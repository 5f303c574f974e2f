/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_complete.c - `tenon complete DIR --prompt TEXT`: one completion, as text or JSON. */
#include "answer.h"
#include "command.h"
#include "house.h"
#include "session.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROMPT_MAX ((size_t)64 << 20)

static const tn_flag own[] = {
    {"prompt", "-p", 1, "The text to go on from; - reads standard input."},
    {"prompt-file", NULL, 1, "Reads the prompt from a file."},
    {"max-tokens", "-n", 1, "Longest reply in tokens (16)."},
    {"temperature", NULL, 1, "0 is greedy; default: the model's own."},
    {"top-p", NULL, 1, "Nucleus: the share of probability that is kept."},
    {"top-k", NULL, 1, "How many tokens are kept; 0 keeps all."},
    {"min-p", NULL, 1, "Least probability, as a share of the best token's."},
    {"sampling-seed", NULL, 1, "Draws the same tokens again."},
    {"stop", NULL, 1, "Ends the reply where this text appears."},
    {"ignore-eos", NULL, 0, "Goes on past the end of the text."},
    {"logprobs", NULL, 1, "Log-probabilities of this many alternatives a token (with --json)."},
    {"no-special", NULL, 0, "Adds no BOS or other special tokens to the prompt."},
    {"session", NULL, 1, "A file that keeps the conversation: the prompt goes on behind it."},
    {"json", NULL, 0, "Prints one JSON object."},
};

static tn_status read_ask(const tn_flags *f, tn_ask *a, const char *stop[1], tn_err *err)
{
    int64_t n = 16, top_k = INT32_MIN, seed = -1, logprobs = -1;
    tn_status st = tn_command_int(f, "max-tokens", 16, 0, INT32_MAX, &n, err);
    if (st == TN_OK)
        st = tn_command_float(f, "temperature", NAN, &a->temperature, err);
    if (st == TN_OK)
        st = tn_command_float(f, "top-p", NAN, &a->top_p, err);
    if (st == TN_OK)
        st = tn_command_float(f, "min-p", NAN, &a->min_p, err);
    if (st == TN_OK)
        st = tn_command_int(f, "top-k", INT32_MIN, -1, INT32_MAX, &top_k, err);
    if (st == TN_OK)
        st = tn_command_int(f, "sampling-seed", -1, 0, INT64_MAX, &seed, err);
    if (st == TN_OK)
        st = tn_command_int(f, "logprobs", -1, 0, 1024, &logprobs, err);
    a->max_tokens = n;
    a->top_k = (int32_t)top_k;
    a->has_seed = seed >= 0;
    a->seed = seed;
    a->logprobs = (int32_t)logprobs;
    a->flags = TN_ASK_PROMPT_IDS;
    if (tn_flags_value(f, "ignore-eos") != NULL)
        a->flags |= TN_ASK_IGNORE_EOS;
    stop[0] = tn_flags_value(f, "stop");
    if (stop[0] != NULL) {
        a->stop = stop;
        a->nstop = 1;
    }
    return st;
}

/* `before`: there is a conversation to go on with. */
static tn_status read_prompt(const tn_flags *f, bool before, tn_ask *a, char **text, tn_err *err)
{
    const char *given = tn_flags_value(f, "prompt"), *file = tn_flags_value(f, "prompt-file");
    size_t size = 0;
    if (given == NULL && file == NULL && before) /* nothing is added to what was said */
        given = "";
    if ((given == NULL) == (file == NULL))
        return tn_fail(err, TN_USAGE, "complete: %s; expected one of --prompt and --prompt-file",
                       given == NULL ? "no prompt" : "two prompts");
    tn_status st = TN_OK;
    if (file != NULL || strcmp(given, "-") == 0)
        st = tn_command_read(file != NULL ? file : "-", PROMPT_MAX, text, &size, err);
    a->prompt.kind = TN_PROMPT_TEXT;
    a->prompt.text = *text != NULL ? *text : given;
    a->prompt.text_size = *text != NULL ? size : given != NULL ? strlen(given) : 0;
    a->prompt.add_special = tn_flags_value(f, "no-special") == NULL;
    return st;
}

static void put_ids(const tn_answer_token *t, size_t n, tn_buf *out)
{
    for (size_t i = 0; i < n; i++)
        tn_buf_printf(out, "%s%d", i > 0 ? ", " : "", t[i].id);
}

static void put_logprob(float v, tn_buf *out)
{
    if (isfinite(v))
        tn_buf_printf(out, "%.6f", (double)v);
    else
        tn_buf_puts(out, v < 0 ? "-9999.0" : "null");
}

static void put_steps(const tn_answer *c, tn_buf *out)
{
    tn_buf_puts(out, ", \"logprobs\": [");
    for (size_t i = 0; i < c->ntoken; i++) {
        const tn_answer_token *t = &c->token[i];
        tn_buf_printf(out, "%s{\"token\": %d, \"logprob\": ", i > 0 ? ", " : "", t->id);
        put_logprob(t->logprob, out);
        tn_buf_puts(out, ", \"top\": [");
        for (uint32_t j = 0; j < t->ntop; j++) {
            tn_buf_printf(out, "%s[%d, ", j > 0 ? ", " : "", c->top[t->top0 + j].id);
            put_logprob(c->top[t->top0 + j].logprob, out);
            tn_buf_putc(out, ']');
        }
        tn_buf_puts(out, "]}");
    }
    tn_buf_putc(out, ']');
}

static void put_json(const tn_answer *c, bool steps, bool session, tn_buf *out)
{
    tn_buf_puts(out, "{\"prompt_token_ids\": [");
    put_ids(c->prompt, c->nprompt, out);
    tn_buf_puts(out, "], \"token_ids\": [");
    put_ids(c->token, c->ntoken, out);
    tn_buf_puts(out, "], \"text\": ");
    tn_buf_put_json(out, c->text.data != NULL ? c->text.data : "", c->text.len);
    tn_buf_printf(out, ", \"finish_reason\": \"%s\"", tn_finish_name(c->finish));
    if (session)
        tn_buf_printf(out, ", \"cached_tokens\": %llu", (unsigned long long)c->cached_tokens);
    if (steps)
        put_steps(c, out);
    tn_buf_puts(out, "}\n");
}

/* Without --json the text appears as it is made. */
static void print_piece(void *user, const tn_piece *p)
{
    tn_err err;
    (void)user;
    (void)tn_command_print(p->text, p->text_size, &err); /* the reply itself reports a lost pipe */
}

/* --------------------------------------------------------------------------- the session */

static tn_session_place place_of(tn_house *h)
{
    const char *path = tn_flags_value(h->flags, "session");
    return (tn_session_place){.engine = h->served[0].engine, .model = tn_served_name(h->served, 0),
                              .fingerprint = h->served[0].fingerprint, .path = path,
                              .what = path, .recipe = &h->served[0].draft.recipe,
                              .nrank = h->served[0].place.nrank};
}

/* The conversation so far, if there is one. */
static tn_status open_session(tn_house *h, tn_session_talk *talk, tn_err *err)
{
    const tn_session_place p = place_of(h);
    uint32_t ncached;
    if (p.path == NULL || access(p.path, F_OK) != 0)
        return TN_OK;
    return tn_session_restore(&p, talk, &ncached, err);
}

static tn_status ids_add(tn_session_talk *talk, const int32_t *id, uint64_t n, tn_err *err)
{
    if (n > TN_SESSION_TOKENS_MAX - talk->nid)
        return tn_fail(err, TN_REFUSED, "session: more than %u tokens", TN_SESSION_TOKENS_MAX);
    int32_t *more = realloc(talk->id, (talk->nid + n) * sizeof *more + 1);
    if (more == NULL)
        return tn_fail(err, TN_NO_MEMORY, "session: no memory for its tokens");
    if (n > 0)
        memcpy(more + talk->nid, id, n * sizeof *more);
    talk->id = more;
    talk->nid += (uint32_t)n;
    return TN_OK;
}

/* The prompt becomes the conversation and the text behind it. Only its first text has the
 * special tokens of a beginning. */
static tn_status join_prompt(tn_house *h, tn_session_talk *talk, tn_ask *a, tn_err *err)
{
    int32_t *ids = NULL;
    uint64_t n = 0;
    if (tn_flags_value(h->flags, "session") == NULL)
        return TN_OK;
    if (talk->nid > 0)
        a->prompt.add_special = 0;
    tn_status st = tn_engine_tokenize(h->served[0].engine, &a->prompt, &ids, &n, err);
    if (st == TN_OK)
        st = ids_add(talk, ids, n, err);
    free(ids);
    a->prompt = (tn_prompt){.size = sizeof a->prompt, .kind = TN_PROMPT_IDS, .ids = talk->id,
                            .nid = talk->nid};
    return st;
}

static tn_status save_session(tn_house *h, const tn_answer *c, tn_session_talk *talk,
                              tn_err *err)
{
    const tn_session_place p = place_of(h);
    uint32_t ncached;
    tn_status st = TN_OK;
    if (p.path == NULL)
        return TN_OK;
    for (size_t i = 0; i < c->ntoken && st == TN_OK; i++)
        st = ids_add(talk, &c->token[i].id, 1, err);
    return st == TN_OK ? tn_session_save(&p, talk, &ncached, err) : st;
}

static tn_status run(tn_house *h, tn_ask *a, tn_session_talk *talk, tn_err *err)
{
    bool json = tn_flags_value(h->flags, "json") != NULL;
    tn_answer c;
    tn_status st = tn_answer_open(&c, err);
    if (st != TN_OK)
        return st;
    c.each = json ? NULL : print_piece;
    st = tn_answer_start(&c, h->served[0].engine, a, err);
    if (st == TN_OK)
        st = tn_answer_wait(&c, err);
    if (st == TN_OK) {
        tn_buf out;
        tn_buf_open(&out, (size_t)1 << 30);
        if (json)
            put_json(&c, a->logprobs >= 0, tn_flags_value(h->flags, "session") != NULL, &out);
        else
            tn_buf_putc(&out, '\n');
        st = out.failed ? tn_fail(err, TN_NO_MEMORY, "no memory for the reply")
                        : tn_command_print(out.data, out.len, err);
        tn_buf_close(&out);
    }
    if (st == TN_OK)
        st = save_session(h, &c, talk, err);
    tn_answer_close(&c);
    return st;
}

int tn_cmd_complete(int argc, char *const *argv)
{
    tn_err err = {{0}, {0}, {0}};
    tn_house h;
    tn_house_setup setup = {.command = "complete", .argc = argc, .argv = argv, .own = own,
                            .nown = sizeof own / sizeof *own, .words_most = 1,
                            .flags = TN_HOUSE_QUIET | TN_HOUSE_MODEL_WORD};
    tn_ask a = tn_ask_default();
    const char *stop[1];
    char *text = NULL;
    tn_session_talk talk = {0};
    tn_status st = tn_house_open(&setup, &h, &err);
    if (st == TN_CANCELLED)
        return 0; /* --help */
    if (st != TN_OK)
        return tn_command_fail(st, &err);
    st = read_ask(h.flags, &a, stop, &err);
    if (st == TN_OK)
        st = open_session(&h, &talk, &err);
    if (st == TN_OK)
        st = read_prompt(h.flags, talk.nid > 0, &a, &text, &err);
    if (st == TN_OK)
        st = join_prompt(&h, &talk, &a, &err);
    if (st == TN_OK)
        st = run(&h, &a, &talk, &err);
    if (st == TN_REFUSED)
        st = TN_USAGE; /* all that was asked stands on the command line */
    free(text);
    tn_session_talk_close(&talk);
    tn_house_close(&h);
    return st == TN_OK ? 0 : tn_command_fail(st, &err);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_chat.c - `tenon chat DIR`: a conversation on the terminal.
 *
 * Lines are edited with libedit and remembered for the session (and in --history FILE). The
 * reply streams; Ctrl-C stops it and keeps what was said. At the prompt Ctrl-C is a key: it
 * takes the line back, and on an empty line says how to leave, then leaves. */
#include "answer.h"
#include "command.h"
#include "house.h"
#include "json.h"
#include "quote.h"
#include "session.h"

#include <editline/readline.h>
#include <locale.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#define CTRL_C 3
#define TALK_MAX ((size_t)64 << 20)
#define HISTORY_LINES 1000
#define REPLY_TOKENS 1024        /* longest reply unless said otherwise: a small model may not end */

static const tn_flag own[] = {
    {"system", "-s", 1, "A system message to begin with."},
    {"max-tokens", "-n", 1, "Longest reply in tokens (1024, or what fits)."},
    {"temperature", NULL, 1, "0 is greedy; default: the model's own."},
    {"top-p", NULL, 1, "Nucleus: the share of probability that is kept."},
    {"history", NULL, 1, "A file that keeps the lines typed."},
    {"session", NULL, 1, "A file that keeps the conversation, to go on with it another time."},
};

typedef struct talk {
    tn_house *h;
    tn_buf messages;     /* JSON objects, comma separated, without the brackets */
    bool said;           /* something that no file has yet */
    const char *system;
    int64_t max_tokens;  /* -1: REPLY_TOKENS or what fits */
    float temperature, top_p;
} talk;

static void add_message(talk *t, const char *role, const char *text, size_t size)
{
    if (t->messages.len > 0)
        tn_buf_puts(&t->messages, ",");
    tn_buf_printf(&t->messages, "{\"role\":\"%s\",\"content\":", role);
    tn_buf_put_json(&t->messages, text, size);
    tn_buf_puts(&t->messages, "}");
}

static void begin_talk(talk *t)
{
    tn_buf_reset(&t->messages);
    if (t->system != NULL)
        add_message(t, "system", t->system, strlen(t->system));
}

static void print_piece(void *user, const tn_piece *p)
{
    tn_err err;
    (void)user;
    (void)tn_command_print(p->text, p->text_size, &err);
}

/* Waits for the reply, or for Ctrl-C, which is blocked everywhere and taken here. */
static tn_status wait_reply(tn_answer *c, tn_err *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    struct timespec tick = {.tv_nsec = 20000000}, none = {0};
    while (sigtimedwait(&set, NULL, &none) == SIGINT)
        ; /* typed at the prompt: not meant for this reply */
    for (;;) {
        pthread_mutex_lock(&c->lock);
        bool last = c->last;
        pthread_mutex_unlock(&c->lock);
        if (last)
            return tn_answer_wait(c, err);
        if (sigtimedwait(&set, NULL, &tick) == SIGINT)
            tn_answer_cancel(c);
    }
}

static void print_speed(const tn_answer *c)
{
    double s = (double)(c->last_ns - c->first_ns) / 1e9;
    if (isatty(STDOUT_FILENO) && c->ntoken > 1 && s > 0)
        fprintf(stderr, "\033[2m[%zu tokens, %.1f tok/s, first after %.2f s]\033[0m\n", c->ntoken,
                (double)(c->ntoken - 1) / s, (double)(c->first_ns - c->begun_ns) / 1e9);
}

static void print_cut(const talk *t, const tn_answer *c)
{
    if (isatty(STDOUT_FILENO) && c->finish == TN_FINISH_LENGTH && t->max_tokens < 0)
        fprintf(stderr, "\033[2m[cut after %zu tokens; --max-tokens N allows more]\033[0m\n",
                c->ntoken);
}

/* REPLY_TOKENS where nobody said how long a reply may get, but no more than fits; what does not
 * fit at all is left to the engine to refuse. */
static tn_status reply_limit(const talk *t, const tn_prompt *p, int64_t *out, tn_err *err)
{
    const tn_served *s = &t->h->served[0];
    int32_t *ids = NULL;
    uint64_t n = 0;
    *out = t->max_tokens;
    if (t->max_tokens >= 0 || s->gen.defaults.max_new_tokens > 0)
        return TN_OK;
    tn_status st = tn_engine_tokenize(s->engine, p, &ids, &n, err);
    free(ids);
    if (st == TN_OK && n < s->limits.context_max && s->limits.context_max - n > REPLY_TOKENS)
        *out = REPLY_TOKENS;
    return st;
}

static tn_status reply(talk *t, const tn_json *messages, tn_err *err)
{
    tn_answer c;
    tn_ask a = tn_ask_default();
    a.prompt.kind = TN_PROMPT_CHAT;
    a.prompt.messages = messages;
    a.prompt.add_generation = 1;
    a.temperature = t->temperature;
    a.top_p = t->top_p;
    tn_status st = reply_limit(t, &a.prompt, &a.max_tokens, err);
    if (st == TN_OK)
        st = tn_answer_open(&c, err);
    if (st != TN_OK)
        return st;
    c.each = print_piece;
    st = tn_answer_start(&c, t->h->served[0].engine, &a, err);
    if (st == TN_OK)
        st = wait_reply(&c, err);
    putchar('\n');
    fflush(stdout);
    if (st == TN_OK || st == TN_CANCELLED) {
        add_message(t, "assistant", c.text.data != NULL ? c.text.data : "", c.text.len);
        print_cut(t, &c);
        print_speed(&c);
        st = TN_OK;
    }
    tn_answer_close(&c);
    return st;
}

/* What was said as JSON; the caller closes it, whether or not it opened. */
static tn_status messages_open(const talk *t, tn_json_doc **doc, tn_err *err)
{
    tn_buf list;
    tn_buf_open(&list, TALK_MAX + 16);
    tn_buf_puts(&list, "[");
    tn_buf_put(&list, t->messages.data, t->messages.len);
    tn_buf_puts(&list, "]");
    tn_status st = t->messages.failed || list.failed
                       ? tn_fail(err, TN_NO_MEMORY, "chat: the conversation is too long")
                       : tn_json_open(list.data, list.len, "chat", TN_JSON_DEPTH_REQUEST, doc,
                                      err);
    tn_buf_close(&list);
    return st;
}

/* One turn. On failure the line is taken back, so that the talk can go on. */
static tn_status turn(talk *t, const char *line, tn_err *err)
{
    size_t before = t->messages.len;
    add_message(t, "user", line, strlen(line));
    tn_json_doc *doc = NULL;
    tn_status st = messages_open(t, &doc, err);
    if (st == TN_OK)
        st = reply(t, tn_json_root(doc), err);
    tn_json_close(doc);
    t->said = t->said || st == TN_OK;
    if (st != TN_OK) {
        t->messages.len = before;
        t->messages.failed = false;
    }
    return st;
}

/* True when the line was one; *over when the talk ends. */
static bool take_command(talk *t, const char *line, bool *over)
{
    if (line[0] != '/')
        return false;
    if (strcmp(line, "/exit") == 0 || strcmp(line, "/quit") == 0) {
        *over = true;
    } else if (strcmp(line, "/reset") == 0) {
        begin_talk(t);
    } else if (strcmp(line, "/help") == 0) {
        fputs("/reset  begins a new conversation\n/exit   ends (also /quit, and Ctrl-D)\n/help   "
              "prints this text\nCtrl-C  stops the reply; at the prompt it takes the line back, "
              "and on an empty line a second one ends\n\nA blank before the / sends a line that "
              "begins with one.\n", stderr);
    } else {
        tn_quoted quoted;
        fprintf(stderr, "tenon: no command %s; /help lists them, a blank before the / sends the "
                "line\n", tn_quote(&quoted, line, strcspn(line, " ")));
    }
    return true;
}

/* Ctrl-C: ends the editing without a line. */
static int on_interrupt(int count, int key)
{
    (void)count;
    (void)key;
    rl_done = 1;
    return 0;
}

/* A line from the terminal, on which Ctrl-C is a key as long as it is edited. */
static char *edit_line(void)
{
    struct termios was, now;
    bool changed = tcgetattr(STDIN_FILENO, &was) == 0;
    if (changed) {
        now = was;
        now.c_cc[VINTR] = _POSIX_VDISABLE;
        changed = tcsetattr(STDIN_FILENO, TCSADRAIN, &now) == 0;
    }
    char *line = readline("> ");
    if (changed)
        (void)tcsetattr(STDIN_FILENO, TCSADRAIN, &was);
    return line;
}

/* NULL at the end of the talk: the end of the input, or Ctrl-C twice on an empty line. */
static char *typed_line(void)
{
    bool warned = false;
    for (;;) {
        char *line = edit_line();
        if (line != NULL)
            return line;
        fputs(rl_done ? "^C\n" : "\n", stderr); /* the next prompt begins a line */
        bool empty = rl_end == 0;
        if (!rl_done || (empty && warned))
            return NULL;
        if (empty)
            fputs("Ctrl-C again, Ctrl-D or /exit ends the conversation.\n", stderr);
        warned = empty;
    }
}

static char *next_line(void)
{
    if (isatty(STDIN_FILENO))
        return typed_line();
    char *line = NULL;
    size_t cap = 0;
    ssize_t n = getline(&line, &cap, stdin);
    if (n < 0) {
        free(line);
        return NULL;
    }
    if (n > 0 && line[n - 1] == '\n')
        line[n - 1] = 0;
    return line;
}

static tn_status talk_on(talk *t, tn_err *err)
{
    bool over = false, terminal = isatty(STDIN_FILENO) == 1;
    char *line;
    tn_status st = TN_OK;
    while (!over && (line = next_line()) != NULL) {
        if (line[0] != 0) {
            if (terminal)
                add_history(line);
            st = TN_OK;
            if (!take_command(t, line, &over))
                st = turn(t, line, err);
            if (st != TN_OK)
                tn_command_tell(err);
        }
        free(line);
    }
    return terminal ? TN_OK : st; /* a script learns of its last failure */
}

/* --------------------------------------------------------------------------- the session */

static tn_session_place place_of(const talk *t, const char *path)
{
    const tn_served *s = &t->h->served[0];
    return (tn_session_place){.engine = s->engine, .fingerprint = s->fingerprint, .path = path,
                              .what = path, .model = tn_served_name(s, 0),
                              .recipe = &s->draft.recipe,
                              .nrank = s->place.nrank};
}

/* The messages are the file's note. */
static tn_status restore_talk(talk *t, const char *path, tn_err *err)
{
    tn_session_talk was = {0};
    tn_json_doc *doc = NULL;
    uint32_t ncached;
    if (path == NULL || access(path, F_OK) != 0)
        return TN_OK;
    const tn_session_place p = place_of(t, path);
    tn_status st = tn_session_restore(&p, &was, &ncached, err);
    if (st != TN_OK)
        return st;
    tn_buf_reset(&t->messages);
    tn_buf_put(&t->messages, was.note, was.note_size);
    st = messages_open(t, &doc, err);
    tn_json_close(doc);
    if (st == TN_OK && was.note_size == 0)
        st = tn_fail(err, TN_DATA, "%s: holds no messages; expected a conversation saved by "
                     "`tenon chat`", path);
    tn_session_talk_close(&was);
    return st;
}

static tn_status save_talk(const talk *t, const char *path, tn_err *err)
{
    tn_json_doc *doc = NULL;
    tn_session_talk now = {.note = t->messages.data, .note_size = t->messages.len};
    uint64_t nid = 0;
    uint32_t ncached;
    if (path == NULL || !t->said)
        return TN_OK;
    tn_status st = messages_open(t, &doc, err);
    if (st != TN_OK)
        return st;
    const tn_prompt prompt = {.size = sizeof prompt, .kind = TN_PROMPT_CHAT,
                              .messages = tn_json_root(doc)};
    const tn_session_place p = place_of(t, path);
    st = tn_engine_tokenize(t->h->served[0].engine, &prompt, &now.id, &nid, err);
    now.nid = nid < UINT32_MAX ? (uint32_t)nid : UINT32_MAX;
    if (st == TN_OK)
        st = tn_session_save(&p, &now, &ncached, err);
    free(now.id);
    tn_json_close(doc);
    return st;
}

static tn_status run(tn_house *h, tn_err *err)
{
    talk t = {.h = h, .system = tn_flags_value(h->flags, "system")};
    const char *file = tn_flags_value(h->flags, "history");
    const char *session = tn_flags_value(h->flags, "session");
    tn_buf_open(&t.messages, TALK_MAX);
    tn_status st = tn_command_int(h->flags, "max-tokens", -1, 1, INT32_MAX, &t.max_tokens, err);
    if (st == TN_OK)
        st = tn_command_float(h->flags, "temperature", NAN, &t.temperature, err);
    if (st == TN_OK)
        st = tn_command_float(h->flags, "top-p", NAN, &t.top_p, err);
    if (st == TN_OK && h->served[0].chat == NULL)
        st = tn_fail(err, TN_DATA, "chat: %s has no chat template; expected one, or "
                     "--chat-template FILE", h->served[0].settings->path);
    begin_talk(&t);
    if (st == TN_OK)
        st = restore_talk(&t, session, err);
    if (st == TN_OK) {
        if (isatty(STDIN_FILENO)) {
            fprintf(stderr, "%s, %s. /help lists the commands.\n",
                    tn_served_name(&h->served[0], 0), h->served[0].info.name);
            rl_initialize();
            rl_add_defun("tenon-interrupt", on_interrupt, CTRL_C);
        }
        using_history();
        stifle_history(HISTORY_LINES);
        if (file != NULL)
            read_history(file); /* a first time has none */
        st = talk_on(&t, err);
        tn_status saved = save_talk(&t, session, st == TN_OK ? err : NULL);
        st = st == TN_OK ? saved : st;
        if (file != NULL && write_history(file) != 0)
            fprintf(stderr, "tenon: %s: cannot keep the history there\n", file);
    }
    tn_buf_close(&t.messages);
    return st;
}

int tn_cmd_chat(int argc, char *const *argv)
{
    tn_err err = {{0}, {0}, {0}};
    tn_house h;
    sigset_t set;
    static const char *const fixed[] = {"max_num_seqs", "1", NULL};
    tn_house_setup setup = {.command = "chat", .argc = argc, .argv = argv, .own = own,
                            .nown = sizeof own / sizeof *own, .words_most = 1, .set = fixed,
                            .flags = TN_HOUSE_QUIET | TN_HOUSE_MODEL_WORD};
    setlocale(LC_CTYPE, "C.UTF-8"); /* for libedit: what is typed is UTF-8 */
    sigemptyset(&set); /* before any thread is made: they all inherit it */
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    tn_status st = tn_house_open(&setup, &h, &err);
    if (st == TN_CANCELLED)
        return 0; /* --help */
    if (st != TN_OK)
        return tn_command_fail(st, &err);
    st = run(&h, &err);
    tn_house_close(&h);
    return st == TN_OK ? 0 : tn_command_fail(st, &err);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_serve.c - `tenon serve`: models up, frontends live, until a signal says stop. */
#include "buf.h"
#include "command.h"
#include "guard.h"
#include "house.h"
#include "servedstats.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOOK_NS 200000000          /* between looks at the ranks */
#define BROKEN_SECONDS 1           /* that clients are told before the end */

static const tn_flag own[] = {
    {"print-config", NULL, 0, "Prints the effective configuration and where it came from."},
    {"print-recipe", NULL, 0, "Prints the model's recipe: buffers and operations."},
    {"print-tensors", NULL, 0, "Prints the loader's table: tensor, form, owner, bytes."},
    {"check", NULL, 0, "Checks the configuration, loads no model, and ends."},
};

static const char *const usual[] = {"host", "port", "api_key", "served_name", "quant", "device",
                                    "threads", "max_model_len", "max_num_seqs", "memory",
                                    "chat_template", "log_level", NULL};

/* The signals that end or steer the server are taken by sigwait alone, so no handler runs.
 * Those that mean nothing here would end it by default: a log rotator's SIGUSR1, say. */
static void block_signals(sigset_t *set)
{
    static const int idle[] = {SIGPIPE, SIGUSR1, SIGUSR2, SIGALRM};
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, set, NULL);
    for (size_t i = 0; i < sizeof idle / sizeof *idle; i++)
        signal(idle[i], SIG_IGN);
}

static tn_status print_text(void (*print)(const tn_house *, tn_buf *), const tn_house *h,
                            tn_err *err)
{
    tn_buf out;
    tn_buf_open(&out, (size_t)1 << 28);
    print(h, &out);
    tn_status st = out.failed ? tn_fail(err, TN_NO_MEMORY, "no memory for the output")
                              : tn_command_print(out.data != NULL ? out.data : "", out.len, err);
    tn_buf_close(&out);
    return st;
}

static void put_recipes(const tn_house *h, tn_buf *out)
{
    for (uint32_t i = 0; i < h->nserved; i++)
        tn_recipe_print(&h->served[i].draft.recipe, out);
}

static void put_tensors(const tn_house *h, tn_buf *out)
{
    for (uint32_t i = 0; i < h->nserved; i++)
        tn_buf_put(out, h->served[i].table.data, h->served[i].table.len);
}

static void check_ini(const tn_house *h, const tn_house_setup *setup)
{
    tn_err err = {{0}, {0}, {0}};
    tn_conf *c = NULL;
    const char *path = tn_flags_early(setup->argc, setup->argv, "config");
    tn_status st = tn_conf_open(path != NULL ? path : TN_CONF_FILE, &c, &err);
    if (st == TN_OK)
        st = tn_house_check(h, c, &err);
    if (st != TN_OK)
        tn_log_put(h->log, TN_LOG_ERROR, "core", NULL, "SIGHUP: %s; the old configuration stays",
                   err.text);
    else
        tn_log_put(h->log, TN_LOG_INFO, "core", NULL, "SIGHUP: the INI is sound; a restart takes "
                   "it over");
    tn_conf_close(c);
}

/* A model whose ranks are no longer all there; a new start is what brings it back. */
static const tn_served *broken(const tn_house *h)
{
    for (uint32_t i = 0; i < h->nserved; i++) {
        tn_health health = {.live = 1};
        if (h->served[i].team != NULL)
            tn_engine_health(h->served[i].engine, &health);
        if (!health.live)
            return &h->served[i];
    }
    return NULL;
}

/* Waits for a signal to end, or for a team to break (0). SIGHUP only re-checks the INI: what runs
 * keeps its configuration. */
static int wait_for_end(const sigset_t *set, tn_house *h, const tn_house_setup *setup)
{
    const struct timespec look = {.tv_nsec = LOOK_NS};
    for (;;) {
        int sig = sigtimedwait(set, NULL, &look);
        if (sig < 0 && errno != EAGAIN && errno != EINTR)
            return SIGTERM;
        if (sig > 0 && sig != SIGHUP)
            return sig;
        if (sig == SIGHUP)
            check_ini(h, setup);
        for (uint32_t i = 0; i < h->nserved; i++)
            tn_served_tick(&h->served[i]);
        if (broken(h) != NULL)
            return 0;
    }
}

/* Whoever asks a second time is not kept waiting: the system ends the process. Files that it
 * leaves half-written are put away at the next start. */
static void obey_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static tn_status serve(tn_house *h, const tn_house_setup *setup, const sigset_t *set, tn_err *err)
{
    if (tn_wall_of(h->wall, TN_KIND_FRONT, 0) == NULL)
        return tn_fail(err, TN_CONFIG, "serve: no frontend is loaded; expected a [plugin NAME] "
                       "section for one");
    tn_status st = tn_house_start(h, err);
    if (st != TN_OK)
        return st;
    int sig = wait_for_end(set, h, setup);
    if (sig == 0) {
        const struct timespec told = {.tv_sec = BROKEN_SECONDS};
        tn_log_put(h->log, TN_LOG_ERROR, "core", NULL, "model %s: its ranks are not all there: "
                   "ending, to be started again", tn_served_name(broken(h), 0));
        nanosleep(&told, NULL); /* /health says so meanwhile */
        (void)tn_house_drain(h, 0, err);
        err->text[0] = 0;
        return TN_INTERNAL;
    }
    tn_log_put(h->log, TN_LOG_INFO, "core", NULL, "%s: draining, up to %u s; a second one ends at "
               "once", strsignal(sig), h->settings.drain_timeout);
    obey_signals();
    st = tn_house_drain(h, h->settings.drain_timeout * 1000u, err);
    err->text[0] = 0; /* told already */
    return broken(h) != NULL ? TN_INTERNAL : st;
}

/* --print-config and --check need no model; --print-recipe and --print-tensors no memory. */
static uint32_t house_flags(int argc, char *const *argv)
{
    uint32_t flags = TN_HOUSE_FRONTS | TN_HOUSE_MODEL_WORD;
    for (int i = 0; i < argc; i++) {
        const char *a = argv[i];
        if (strcmp(a, "--check") == 0 || strcmp(a, "--print-config") == 0 ||
            strcmp(a, "--print_config") == 0)
            flags |= TN_HOUSE_CHECK | TN_HOUSE_QUIET;
        if (strcmp(a, "--print-recipe") == 0 || strcmp(a, "--print-tensors") == 0 ||
            strcmp(a, "--print_recipe") == 0 || strcmp(a, "--print_tensors") == 0)
            flags |= TN_HOUSE_PLAN | TN_HOUSE_QUIET;
    }
    return flags;
}

static tn_status run(tn_house *h, const tn_house_setup *setup, const sigset_t *set, tn_err *err)
{
    tn_status st = TN_OK;
    bool printed = false;
    if (tn_flags_value(h->flags, "print-config") != NULL) {
        st = print_text(tn_house_print_config, h, err);
        printed = true;
    }
    if (st == TN_OK && tn_flags_value(h->flags, "print-recipe") != NULL) {
        st = print_text(put_recipes, h, err);
        printed = true;
    }
    if (st == TN_OK && tn_flags_value(h->flags, "print-tensors") != NULL) {
        st = print_text(put_tensors, h, err);
        printed = true;
    }
    if (st == TN_OK && tn_flags_value(h->flags, "check") != NULL && !printed) {
        st = tn_wall_init_kind(h->wall, TN_KIND_FRONT, err); /* keys, addresses; no device */
        bool busy = st == TN_UNAVAILABLE; /* most likely by the server whose INI this is */
        if (st == TN_OK || busy)
            fprintf(stderr, "tenon: the configuration is sound%s%s\n", busy ? ", but for now: " : "",
                    busy ? err->text : "");
        st = busy ? TN_OK : st;
        printed = true;
    }
    return st != TN_OK || printed ? st : serve(h, setup, set, err);
}

int tn_cmd_serve(int argc, char *const *argv)
{
    tn_err err = {{0}, {0}, {0}};
    tn_house h;
    sigset_t set;
    tn_guard *guard = NULL;
    block_signals(&set);
    tn_status st = tn_guard_open(&guard, &err);
    if (st != TN_OK)
        return tn_command_fail(st, &err);
    tn_house_setup setup = {.command = "serve", .argc = argc, .argv = argv, .own = own,
                            .nown = sizeof own / sizeof *own, .words_most = 1,
                            .words = " [MODEL_DIR]", .usual = usual,
                            .flags = house_flags(argc, argv), .guard = guard};
    st = tn_house_open(&setup, &h, &err);
    if (st == TN_OK) {
        st = run(&h, &setup, &set, &err);
        tn_house_close(&h);
    } else if (st == TN_CANCELLED) {
        st = TN_OK; /* --help */
        err.text[0] = 0;
    }
    tn_guard_close(guard);
    if (st != TN_OK && err.text[0] == 0)
        return tn_command_exit(st); /* the log has told it */
    return st == TN_OK ? 0 : tn_command_fail(st, &err);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* http.c - the OpenAI-compatible frontend: options, life cycle, descriptor. */
#include "http.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

static tn_status draw_secrets(http_server *s, tn_err *err)
{
    uint64_t v[3];
    if (getrandom(v, sizeof v, 0) != (ssize_t)sizeof v)
        return tn_fail(err, TN_OS, "http: no random numbers: %s", strerror(errno));
    s->hash_key[0] = v[0];
    s->hash_key[1] = v[1];
    s->id_salt = v[2];
    return TN_OK;
}

static uint32_t tool_forms(const char *parser)
{
    static const struct { const char *name; uint32_t forms; } all[] = {
        {"auto", HTTP_FORM_HERMES | HTTP_FORM_XML}, {"hermes", HTTP_FORM_HERMES},
        {"qwen3_coder", HTTP_FORM_XML}, {"qwen3_xml", HTTP_FORM_XML},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(parser, all[i].name) == 0)
            return all[i].forms;
    return 0;
}

static uint32_t reasoning(const char *parser)
{
    return strcmp(parser, "qwen3") == 0         ? HTTP_REASONING_QWEN3
           : strcmp(parser, "deepseek_r1") == 0 ? HTTP_REASONING_R1
                                                : HTTP_REASONING_NONE;
}

static tn_status check_options(const http_options *o, tn_err *err)
{
    if (o->auto_tools && o->tool_forms == 0)
        return tn_fail(err, TN_CONFIG, "http: enable_auto_tool_choice is set and "
                       "tool_call_parser is none; expected the parser that fits the model");
    return TN_OK;
}

static void read_options(http_server *s)
{
    const tn_host *h = s->h;
    void *x = h->ctx;
    s->opt = (http_options){
        .host = h->opt_text(x, "host"),
        .port = (uint16_t)h->opt_int(x, "port"),
        .body_max = (uint64_t)h->opt_int(x, "body_limit"),
        .connections = (uint32_t)h->opt_int(x, "connection_limit"),
        .per_address = (uint32_t)h->opt_int(x, "connections_per_address"),
        .threads = (uint32_t)h->opt_int(x, "http_threads"),
        .body_seconds = (uint32_t)h->opt_int(x, "body_timeout"),
        .idle_seconds = (uint32_t)h->opt_int(x, "idle_timeout"),
        .write_seconds = (uint32_t)h->opt_int(x, "write_timeout"),
        .strict = h->opt_int(x, "strict") != 0,
        .usage_details = h->opt_int(x, "enable_prompt_tokens_details") != 0,
        .request_id_header = h->opt_int(x, "enable_request_id_headers") != 0,
        .access_log = h->opt_int(x, "access_log") != 0 &&
                      h->opt_int(x, "disable_uvicorn_access_log") == 0,
        .auto_tools = h->opt_int(x, "enable_auto_tool_choice") != 0,
        .exclude_tools = h->opt_int(x, "exclude_tools_when_tool_choice_none") != 0,
        .tool_forms = tool_forms(h->opt_text(x, "tool_call_parser")),
        .reasoning = reasoning(h->opt_text(x, "reasoning_parser")),
    };
    if (s->opt.connections < s->opt.threads) /* MHD shares them out over its threads */
        s->opt.connections = s->opt.threads;
}

static void free_server(http_server *s)
{
    free(s->key);
    free(s->series);
    free(s);
}

static tn_status http_init(const tn_host *h, void **self, tn_err *err)
{
    http_server *s = calloc(1, sizeof *s);
    if (s == NULL)
        return tn_fail(err, TN_NO_MEMORY, "http: no memory");
    s->h = h;
    s->front = h->front;
    s->series = calloc((size_t)http_route_count() * HTTP_STATUS_COUNT, sizeof *s->series);
    tn_status st = s->series == NULL ? tn_fail(err, TN_NO_MEMORY, "http: no memory") : TN_OK;
    if (st == TN_OK)
        st = draw_secrets(s, err);
    if (st == TN_OK) {
        read_options(s);
        st = check_options(&s->opt, err);
    }
    if (st == TN_OK)
        st = http_guard_keys(s, err);
    if (st == TN_OK)
        st = http_server_check(s, err);
    if (st != TN_OK) {
        free_server(s);
        return st;
    }
    *self = s;
    return TN_OK;
}

static tn_status http_start(void *self, tn_err *err)
{
    return http_server_start(self, err);
}

/* New generation is refused from here on; running replies have `ms` to end. */
static tn_status http_drain(void *self, uint32_t ms, tn_err *err)
{
    http_server *s = self;
    atomic_store(&s->draining, true);
    uint64_t until = http_now(s) + (uint64_t)ms * 1000000u;
    while (atomic_load(&s->ncall) > 0 && http_now(s) < until) {
        struct timespec t = {.tv_nsec = 5000000};
        nanosleep(&t, NULL);
    }
    uint32_t left = atomic_load(&s->ncall);
    if (left > 0)
        return tn_fail(err, TN_CUT, "http: %u replies were still running after %u ms", left, ms);
    return TN_OK;
}

static void http_stop(void *self)
{
    http_server *s = self;
    http_server_stop(s);
    /* Whoever writes a file uses the engine, which goes next. */
    while (atomic_load(&s->nsession) > 0) {
        struct timespec t = {.tv_nsec = 5000000};
        nanosleep(&t, NULL);
    }
    /* Calls whose connection is over may still wait for their last piece. */
    for (int i = 0; i < 1000 && atomic_load(&s->ncall) > 0; i++) {
        struct timespec t = {.tv_nsec = 5000000};
        nanosleep(&t, NULL);
    }
    if (atomic_load(&s->ncall) == 0)
        free_server(s);
}

static const char *http_address(void *self)
{
    http_server *s = self;
    return s->address[0] != 0 ? s->address : NULL;
}

#define OPTION(t, k, f, lo, hi, text) \
    {.size = sizeof(tn_option), .type = t, .key = k, .fallback = f, .least = lo, .greatest = hi, \
     .help = text}

static const char *const tool_parsers[] = {"none", "auto", "hermes", "qwen3_coder", "qwen3_xml",
                                           NULL};
static const char *const reasoning_parsers[] = {"none", "qwen3", "deepseek_r1", NULL};

static const tn_option options[] = {
    OPTION(TN_OPT_TEXT, "host", "127.0.0.1", 0, 0, "Address to listen on; 0.0.0.0 for all."),
    OPTION(TN_OPT_INT, "port", "8000", 0, 65535, "Port to listen on; 0 takes a free one."),
    OPTION(TN_OPT_LIST, "api_key", "", 0, 0,
           "Keys that clients must send; none: everybody may ask. Visible in ps when given on "
           "the command line."),
    OPTION(TN_OPT_PATH, "api_key_file", "", 0, 0, "File with one key a line, mode 0600."),
    OPTION(TN_OPT_LIST, "allowed_hosts", "", 0, 0,
           "Names that a Host header may carry beside this machine's own; * for any."),
    OPTION(TN_OPT_LIST, "allowed_origins", "", 0, 0,
           "Web pages (origins) that may use the server; * for all, empty for none."),
    OPTION(TN_OPT_SIZE, "body_limit", "8MiB", 1024, 1073741824, "Longest request body."),
    OPTION(TN_OPT_INT, "connection_limit", "1000", 4, 1000000, "Connections at once."),
    OPTION(TN_OPT_INT, "connections_per_address", "0", 0, 1000000,
           "Connections at once from one address; 0 for no limit."),
    OPTION(TN_OPT_INT, "http_threads", "4", 1, 64, "Threads that read and write sockets."),
    OPTION(TN_OPT_INT, "body_timeout", "60", 1, 86400, "Seconds until a body must be in."),
    OPTION(TN_OPT_INT, "idle_timeout", "60", 1, 86400,
           "Seconds that a connection may say nothing."),
    OPTION(TN_OPT_INT, "write_timeout", "30", 1, 86400,
           "Seconds that a client may leave its reply unread."),
    OPTION(TN_OPT_BOOL, "strict", "no", 0, 0, "Refuse request fields that are not known."),
    OPTION(TN_OPT_BOOL, "enable_prompt_tokens_details", "no", 0, 0,
           "Report cached tokens in usage."),
    OPTION(TN_OPT_BOOL, "enable_request_id_headers", "no", 0, 0,
           "Send the request's id back as X-Request-Id."),
    OPTION(TN_OPT_BOOL, "access_log", "yes", 0, 0,
           "Log a line for each request: who, what, status, seconds. /health, /ping and /metrics "
           "only at log_level debug."),
    OPTION(TN_OPT_BOOL, "disable_uvicorn_access_log", "no", 0, 0,
           "What vLLM calls access_log = no."),
    OPTION(TN_OPT_BOOL, "enable_auto_tool_choice", "no", 0, 0,
           "Let the model call tools when it sees fit; needs tool_call_parser."),
    {.size = sizeof(tn_option), .type = TN_OPT_ENUM, .key = "tool_call_parser", .fallback = "none",
     .choices = tool_parsers,
     .help = "How the model writes tool calls; auto takes hermes and qwen3_coder."},
    OPTION(TN_OPT_BOOL, "exclude_tools_when_tool_choice_none", "no", 0, 0,
           "Keep tools out of the prompt when tool_choice is none."),
    {.size = sizeof(tn_option), .type = TN_OPT_ENUM, .key = "reasoning_parser", .fallback = "none",
     .choices = reasoning_parsers,
     .help = "Part replies into reasoning and content; not for models that do not think."},
};

static const tn_front front = {.size = sizeof front, .address = http_address};

TN_EXPORT const tn_plugin tn_plugin_entry = {
    .abi_major = TN_ABI_MAJOR,
    .abi_minor = TN_ABI_MINOR,
    .size = sizeof(tn_plugin),
    .kind = TN_KIND_FRONT,
    .name = "http",
    .version = "0.1.0",
    .summary = "OpenAI-compatible HTTP frontend on libmicrohttpd.",
    .options = options,
    .noption = sizeof options / sizeof *options,
    .table = &front,
    .init = http_init,
    .start = http_start,
    .drain = http_drain,
    .stop = http_stop,
};

/* SPDX-License-Identifier: Apache-2.0 */
/* http.h - the parts of the HTTP frontend and how they hang together.
 *
 *     server  sockets, framing, bodies          (MHD's threads)
 *     guard   keys, hosts, origins
 *     routes  method and path -> handler
 *     ask     JSON -> tn_ask            (chat: messages, offer: tools)
 *     call    one HTTP request and its tn_requests; pieces arrive on the core's thread
 *     reply   pieces -> JSON or events  (speech: reasoning, content and tool calls)
 *     session conversations kept as files
 *     desk    long bodies are worked on         (two threads of its own)
 *     watch   clients that left, deadlines      (one thread of its own)
 *
 * A call is reached from four sides: MHD's thread, the desk, the core's output thread and the
 * watcher.
 * Its lock guards what they share; it lives until the connection has let go of it and every
 * request of it has said its last piece. */
#ifndef HTTP_H
#define HTTP_H

#include <tenon/plugin.h>

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "http_speech.h"
#include "http_text.h"

#define HTTP_PROMPTS_MAX 64u     /* prompts of one completion request */
#define HTTP_CHOICES_MAX 8u
#define HTTP_MESSAGES_MAX 4096u
#define HTTP_TOOLS_MAX 128u
#define HTTP_JSON_DEPTH 64u
#define HTTP_ID_SIZE 80u
#define HTTP_SALT_MAX 256u
#define HTTP_BODY_LIGHT 65536u   /* bytes of a body that MHD's own thread may work on */
#define HTTP_REPLY_MAX ((size_t)256 << 20)
#define HTTP_QUEUE_MAX ((size_t)1 << 20)  /* unread event bytes before a reader is given up */

typedef struct http_key {
    uint64_t hash[2];
    char salt[33];               /* prefix-cache name space of this key's owner */
    char owner[33];              /* of files; the same in every process */
} http_key;

enum { HTTP_REASONING_NONE, HTTP_REASONING_QWEN3, HTTP_REASONING_R1 };

/* What the options say, read once in init. */
typedef struct http_options {
    const char *host;
    uint16_t port;
    uint64_t body_max;
    uint32_t connections, per_address, threads;
    uint32_t body_seconds, idle_seconds, write_seconds;
    bool strict, usage_details, request_id_header;
    bool access_log;
    bool auto_tools, exclude_tools;
    uint32_t tool_forms;         /* HTTP_FORM_* of the tool call parser, 0: none */
    uint32_t reasoning;          /* HTTP_REASONING_* */
} http_options;

#define HTTP_STATUS_COUNT 16u

typedef struct http_server {
    const tn_host *h;
    const tn_front_host *front;
    http_options opt;
    uint64_t hash_key[2];        /* secret of this process, for keys */
    http_key *key;
    uint32_t nkey;
    char address[300];
    bool loopback;               /* bound to this machine only */
    struct MHD_Daemon *daemon;
    struct http_watch *watch;
    struct http_desk *desk;
    atomic_bool draining, stopping;
    atomic_uint ncall;           /* calls that generate, work at the desk or keep sessions */
    atomic_uint nsession;        /* of these, calls for sessions */
    atomic_ullong next_id;
    uint64_t id_salt;
    uint32_t *series;            /* [routes][HTTP_STATUS_COUNT] metric ids */
} http_server;

/* -------- ask: the body of a generation request, checked for shape */
typedef struct http_ask {
    tn_ask ask;                  /* pointers into the parsed body and `block` */
    tn_json_doc *doc;            /* owned */
    const tn_json *body;
    bool chat, stream, include_usage, continuous_usage, echo, token_ids;
    bool tokens_as_ids;          /* tokens in logprobs print as token_id:N */
    uint32_t tool_forms;         /* of calls to look for in the reply; 0: none */
    bool parallel;               /* more than one call may come */
    bool reasons, hides_reasoning; /* the reply begins in a thought; that is left out */
    const tn_json *tools;        /* offered, as the template sees them; in a block */
    int32_t logprobs;            /* as asked for; -1: none */
    uint32_t nprompt;
    const tn_json *prompt[HTTP_PROMPTS_MAX]; /* completions: each a text or a list of ids */
    void *block[16];             /* owned arrays */
    uint32_t nblock;
} http_ask;

/* TN_REFUSED with code and param, TN_NO_MEMORY. The caller closes `a` either way. */
tn_status http_ask_open(http_server *s, const char *body, size_t size, bool chat, http_ask *a,
                        tn_err *err);
void http_ask_close(http_server *s, http_ask *a);
/* Turns prompt i of a completion into a->ask.prompt. Ids are kept in a block. */
tn_status http_ask_prompt(http_ask *a, uint32_t i, tn_err *err);
/* Refuses with code and param; the sentence is "<param>: <found>; expected <rule>". */
tn_status http_refuse(tn_err *err, const char *code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* Remembers an owned array; NULL when there is no memory (or no room: then it is freed). */
void *http_ask_keep(http_ask *a, void *p);
/* messages, tools, tool_choice and the template's switches. */
tn_status http_chat_shape(const http_server *s, http_ask *a, tn_prompt *p, tn_err *err);
/* tools and tool_choice; *out stays when the template is to see none. */
tn_status http_offer_shape(const http_options *o, http_ask *a, const tn_json **out, tn_err *err);
/* With `strict`: refuses a member of the object that is not among the n known ones. */
tn_status http_check_known(const tn_json *body, const char *const *known, size_t n, tn_err *err);
/* Whether v is this text and nothing else: "user\0x" is not "user". */
bool http_is_text(const tn_json *v, const char *text);
/* Typed members: absent and null leave *out; another type is refused by name. */
tn_status http_get_bool(const tn_json *o, const char *key, bool *out, tn_err *err);
tn_status http_get_int(const tn_json *o, const char *key, int64_t *out, tn_err *err);
tn_status http_get_text(const tn_json *o, const char *key, const char **out, tn_err *err);
tn_status http_get_float(const tn_json *o, const char *key, float *out, tn_err *err);

/* -------- call */
struct http_call;

/* One choice of the reply, index = prompt * n + choice. */
typedef struct http_choice {
    http_text text;
    http_speech speech;          /* chat: instead of text */
    http_text logprobs;          /* JSON entries gathered so far (see http_reply.c) */
    http_text ids;               /* JSON list items, with return_token_ids */
    uint64_t offset;             /* characters of text before the next token */
    uint32_t finish;             /* TN_FINISH_*, NONE while it runs */
    uint32_t stop_kind;
    int32_t stop_token;
    http_text stop_text;
    bool opened;                 /* its first event is out */
} http_choice;

typedef struct http_part {
    struct http_call *call;
    uint32_t index;              /* which prompt */
    tn_request *request;
    bool last;                   /* its last piece has come */
    uint64_t prompt_tokens, cached_tokens, reply_tokens;
    http_text prompt_logprobs;   /* JSON list, or empty */
    http_text prompt_ids;        /* JSON list items */
} http_part;

typedef struct http_call {
    http_server *s;
    struct MHD_Connection *connection;
    pthread_mutex_t lock;
    uint32_t users;              /* under the lock: connection and parts without last piece */
    bool suspended, gone, answered;
    bool at_desk;                /* its work is not done: nothing is answered before */
    bool refused;                /* its work failed; from the desk st and err say how */
    /* the request on the wire */
    const struct http_route *route;
    http_text body;
    bool handled;                /* the route has been run */
    uint32_t status;             /* answered with; 0: not, or by bytes of our own */
    bool begun, counted;         /* its work was begun; it is one of the server's ncall */
    uint64_t begun_ns, body_ns;  /* monotonic */
    char id[HTTP_ID_SIZE];       /* X-Request-Id or one of ours */
    char salt[33];               /* of the key */
    char cache_salt[33 + HTTP_SALT_MAX + 2];
    /* generation */
    bool generating, streaming, begun_stream, finished;
    http_ask a;
    uint32_t npart, nchoice, ndone;
    http_part *part;
    http_choice *choice;
    http_text out;               /* events not yet read by MHD, or the whole reply */
    uint64_t progress_ns;        /* when MHD last took bytes, or bytes came to an empty out */
    uint64_t spoke_ns;           /* when the last event was written */
    int64_t created;
    char model[256];
    tn_status st;                /* of a failure before the reply began */
    tn_err err;
    int fd;
    uint64_t ticket;             /* of the watcher: its events name calls by it */
    struct http_call *next, *prev; /* of the watcher */
    struct http_call *desk_next;
} http_call;

http_call *http_call_new(http_server *s, struct MHD_Connection *c);
/* Ends one use; the last one frees. */
void http_call_drop(http_call *c);
/* The server waits for it before it goes. */
void http_call_count(http_call *c);
/* Makes c->cache_salt from the key's name space and the body's own. */
tn_status http_call_salt(http_call *c, tn_err *err);
/* TN_UNAVAILABLE while the server drains. */
tn_status http_call_admit(const http_call *c, tn_err *err);
/* Runs a generation request from c->body. On failure nothing is in flight. */
tn_status http_call_generate(http_call *c, tn_err *err);
/* The client left, or its time is up: cancels, wakes the connection. Any thread. */
void http_call_abandon(http_call *c);
/* An id for a tool call of the http_call `ctx`. */
void http_call_tool_id(void *ctx, char id[HTTP_CALL_ID_SIZE]);
/* Wakes a suspended connection; the lock is held. */
void http_call_wake(http_call *c);

/* -------- reply: all with the call's lock held */
/* Takes a piece in: gathers it, and with streaming writes events to c->out. */
void http_reply_piece(http_call *c, http_part *p, const tn_piece *piece);
/* Opens the event stream: the first events of all choices. */
void http_reply_begin(http_call *c);
/* The whole reply of a request that does not stream, to c->out. */
void http_reply_whole(http_call *c);
/* An error as JSON; `event` as an SSE event. */
void http_reply_error(http_text *out, tn_status st, const tn_err *err, bool event);
/* Usage event and [DONE]. */
void http_reply_end(http_call *c);

/* HTTP status of a failure, its type and its code. */
uint32_t http_error_status(tn_status st, const tn_err *err, const char **type, const char **code);

/* reply_token.c: tokens with their log-probabilities as JSON. */
void http_token_gather(http_call *c, http_choice *ch, const tn_token *t, http_text *out);
void http_token_prompt(const http_call *c, http_part *p, const tn_token *t, uint64_t n);
/* `"logprobs":...` from gathered entries. */
void http_token_close(const http_call *c, const http_text *entries, http_text *out);

/* -------- server and routes */
typedef struct http_route {
    const char *path, *method, *name;
    bool open;                   /* needs no key */
    bool body;
    /* Answers now by http_answer, or suspends (generation). */
    enum MHD_Result (*run)(http_call *c);
    /* With http_work as run: what is done with the body, on whatever thread. Writes the reply
     * to c->out and says finished, or leaves that to pieces. */
    tn_status (*work)(http_call *c, tn_err *err);
} http_route;

const http_route *http_route_find(const char *path, const char *method, bool *path_exists,
                                  char allow[64]);
uint32_t http_route_count(void);
const http_route *http_route_at(uint32_t i);

/* Queues a reply with the given text (copied). */
enum MHD_Result http_answer(http_call *c, uint32_t status, const char *type, const char *text,
                            size_t size);
enum MHD_Result http_answer_error(http_call *c, tn_status st, const tn_err *err);
/* Runs a route's work, or goes on with one after its connection was woken. */
enum MHD_Result http_work(http_call *c);
enum MHD_Result http_session(http_call *c); /* the same for /v1/sessions */
/* Begins what the route says in a thread of its own, which finishes the call. */
tn_status http_session_begin(http_call *c, tn_err *err);
/* Reads c->body as an object into `a`, and its model. */
tn_status http_body_open(http_call *c, const char *const *known, size_t nknown, http_ask *a,
                         const char **model, tn_err *err);
/* A short reply straight to the socket of a connection whose body is still coming, where MHD
 * takes no response any more; the connection is shut down. */
void http_raw_reply(int fd, uint32_t status, const char *reason, const char *code,
                    const char *message);

/* Whether `host` is an address; known before the models are loaded. */
tn_status http_server_check(const http_server *s, tn_err *err);
tn_status http_server_start(http_server *s, tn_err *err);
void http_server_stop(http_server *s);

/* -------- guard */
tn_status http_guard_keys(http_server *s, tn_err *err);
/* TN_OK, or TN_NOPERM with code invalid_api_key, host_not_allowed or origin_not_allowed. On
 * TN_OK `salt` is the key's cache name space or "". */
tn_status http_guard_check(http_server *s, struct MHD_Connection *c, bool open, char salt[33],
                           tn_err *err);
/* Content-Type must be JSON, no Content-Encoding. */
tn_status http_guard_body(struct MHD_Connection *c, tn_err *err);
/* What MHD lets pass: two Hosts, two lengths, length with chunks. */
tn_status http_guard_framing(struct MHD_Connection *c, tn_err *err);

/* What a page of an allowed origin may read; NULL: no such header. */
const char *http_guard_origin(http_server *s, struct MHD_Connection *c);

/* -------- desk */
tn_status http_desk_start(http_server *s, tn_err *err);
void http_desk_stop(http_server *s);   /* after MHD's threads; waits for what is worked on */
void http_desk_put(http_call *c);      /* has its route's work run, then wakes it */

/* -------- watch */
tn_status http_watch_start(http_server *s, tn_err *err);
void http_watch_stop(http_server *s);
void http_watch_add(http_call *c);     /* from the first handler call */
void http_watch_remove(http_call *c);  /* before the connection lets go */
/* Runs `each` for every call in turn. */
void http_watch_each(http_server *s, void (*each)(http_call *c));

uint64_t http_now(const http_server *s);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* log.c - one event, one line, one write.
 *
 * A line is at most 4,096 bytes (PIPE_BUF) and goes out in a single write, so lines of
 * several threads and processes never mix and no lock is needed. Before writing, the file
 * descriptor is asked whether it takes a line: a reader that stopped reading costs one
 * short wait, after that its lines are dropped at once until it reads again. */
#include "log.h"

#include "plain.h"
#include "utf8seq.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 4096u  /* what a pipe takes whole or not at all */
#define TEXT_MAX_BYTES 3072u  /* of an event's own text, before escapes */
#define WAIT_MS 20            /* once, for a reader that is merely slow */

struct tn_log {
    int fd;  /* borrowed */
    uint32_t level;
    bool json;
    _Atomic uint64_t dropped;
    _Atomic uint64_t told;  /* dropped lines that were already reported */
    _Atomic bool stuck;     /* the last line did not fit: do not wait again */
};

/* A line under construction; what does not fit is left out, the end is always kept. */
typedef struct line {
    char data[LINE_MAX_BYTES];
    size_t len;
    size_t max;
} line;

static void put_bytes(line *o, const char *data, size_t n)
{
    if (n > o->max - o->len)
        n = o->max - o->len;
    memcpy(o->data + o->len, data, n);
    o->len += n;
}

static void put_text(line *o, const char *text)
{
    put_bytes(o, text, strlen(text));
}

static void put_escape(line *o, bool json, const unsigned char *s, size_t size)
{
    static const char hex[] = "0123456789abcdef";
    if (s[0] == '\n' || s[0] == '\t' || s[0] == '\r') {
        char two[2] = {'\\', s[0] == '\n' ? 'n' : s[0] == '\t' ? 't' : 'r'};
        put_bytes(o, two, 2);
        return;
    }
    if (json && size == 0) {
        put_text(o, "\xef\xbf\xbd"); /* U+FFFD: JSON text has no way to say a stray byte */
        return;
    }
    unsigned char c = size == 2 ? s[1] : s[0];
    char two[2] = {hex[c >> 4], hex[c & 15]};
    put_text(o, json ? "\\u00" : "\\x");
    put_bytes(o, two, 2);
}

/* Text on one line: controls and stray bytes are spelled out. */
static void put_escaped(line *o, bool json, const char *text)
{
    const char *s = text;
    size_t n = strlen(text);
    while (n > 0) {
        size_t size = tn_utf8_size(s, n);
        if (o->max - o->len < 8)
            return;
        if (size == 0 || tn_plain_is_control(s, size)) {
            put_escape(o, json, (const unsigned char *)s, size);
        } else {
            if (json && (s[0] == '"' || s[0] == '\\'))
                put_bytes(o, "\\", 1);
            put_bytes(o, s, size);
        }
        s += size ? size : 1;
        n -= size ? size : 1;
    }
}

static void put_time(line *o)
{
    struct timespec now;
    struct tm tm;
    char text[88];
    if (clock_gettime(CLOCK_REALTIME, &now) != 0 || gmtime_r(&now.tv_sec, &tm) == NULL)
        return;
    snprintf(text, sizeof text, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", tm.tm_year + 1900,
             tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
             (int)(now.tv_nsec / 1000000));
    put_text(o, text);
}

static const char *level_name(uint32_t level)
{
    static const char *const name[] = {"error", "error", "warn", "info", "debug"};
    return name[level > TN_LOG_DEBUG ? TN_LOG_DEBUG : level];
}

static void put_as_text(line *o, uint32_t level, const char *part, const char *request,
                        const char *text)
{
    put_time(o);
    put_text(o, " ");
    put_text(o, level_name(level));
    put_text(o, " ");
    put_escaped(o, false, part);
    if (request != NULL) {
        put_text(o, " [");
        put_escaped(o, false, request);
        put_text(o, "]");
    }
    put_text(o, ": ");
    put_escaped(o, false, text);
}

static void put_as_json(line *o, uint32_t level, const char *part, const char *request,
                        const char *text)
{
    put_text(o, "{\"time\":\"");
    put_time(o);
    put_text(o, "\",\"level\":\"");
    put_text(o, level_name(level));
    put_text(o, "\",\"part\":\"");
    put_escaped(o, true, part);
    if (request != NULL) {
        put_text(o, "\",\"request\":\"");
        put_escaped(o, true, request);
    }
    put_text(o, "\",\"text\":\"");
    put_escaped(o, true, text);
}

/* True once the descriptor takes a line; a closed pipe answers POLLERR and must not be
 * written to (SIGPIPE). A regular file always answers at once. */
static bool is_ready(tn_log *l)
{
    struct pollfd p = {.fd = l->fd, .events = POLLOUT};
    int wait = atomic_load_explicit(&l->stuck, memory_order_relaxed) ? 0 : WAIT_MS;
    int n;
    do
        n = poll(&p, 1, wait);
    while (n < 0 && errno == EINTR);
    return n == 1 && (p.revents & POLLOUT) && !(p.revents & (POLLERR | POLLNVAL));
}

static bool send_line(tn_log *l, const line *o)
{
    ssize_t n = -1;
    if (is_ready(l)) {
        do
            n = write(l->fd, o->data, o->len);
        while (n < 0 && errno == EINTR);
    }
    bool sent = n == (ssize_t)o->len;
    atomic_store_explicit(&l->stuck, !sent, memory_order_relaxed);
    return sent;
}

static void write_event(tn_log *l, uint32_t level, const char *part, const char *request,
                        const char *text)
{
    line o;
    o.len = 0;
    o.max = sizeof o.data - 4; /* room for the tail below */
    if (l->json)
        put_as_json(&o, level, part, request, text);
    else
        put_as_text(&o, level, part, request, text);
    o.max = sizeof o.data;
    put_text(&o, l->json ? "\"}\n" : "\n");
    if (!send_line(l, &o))
        atomic_fetch_add_explicit(&l->dropped, 1, memory_order_relaxed);
}

/* Says once how many lines went missing while nobody read. */
static void report_dropped(tn_log *l)
{
    uint64_t dropped = atomic_load_explicit(&l->dropped, memory_order_relaxed);
    uint64_t told = atomic_load_explicit(&l->told, memory_order_relaxed);
    char text[80];
    if (dropped == told || atomic_load_explicit(&l->stuck, memory_order_relaxed)
        || !atomic_compare_exchange_strong(&l->told, &told, dropped))
        return;
    snprintf(text, sizeof text, "%llu lines could not be written here",
             (unsigned long long)(dropped - told));
    write_event(l, TN_LOG_WARN, "core", NULL, text);
}

tn_status tn_log_open(int fd, uint32_t level, bool json, tn_log **out, tn_err *err)
{
    tn_log *l = calloc(1, sizeof *l);
    if (l == NULL)
        return tn_fail(err, TN_OS, "log: out of memory");
    l->fd = fd;
    l->level = level;
    l->json = json;
    *out = l;
    return TN_OK;
}

void tn_log_close(tn_log *l)
{
    free(l);
}

bool tn_log_wants(const tn_log *l, uint32_t level)
{
    return l != NULL && level <= l->level;
}

uint64_t tn_log_dropped(const tn_log *l)
{
    return l == NULL ? 0 : atomic_load_explicit(&l->dropped, memory_order_relaxed);
}

void tn_log_put(tn_log *l, uint32_t level, const char *part, const char *request,
                const char *fmt, ...)
{
    char text[TEXT_MAX_BYTES];
    va_list ap;
    if (!tn_log_wants(l, level))
        return;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n < 0)
        snprintf(text, sizeof text, "an event that could not be formatted");
    else if ((size_t)n >= sizeof text)
        memcpy(text + sizeof text - 4, "...", 4);
    report_dropped(l);
    write_event(l, level, part, request, text);
}

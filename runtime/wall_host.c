/* SPDX-License-Identifier: Apache-2.0 */
/* wall_host.c - what the core lends one plugin: log, memory, settings, metrics, JSON, clock.
 *
 * Memory is counted per plugin. Each block has a 64-byte head with its size and a mark, so
 * that a plugin that gives back what it never took is told so instead of trusted; the blocks
 * are chained, so that what a plugin forgot is given back when it is unloaded. */
#include "wall_guest.h"

#include "json.h"
#include "log.h"
#include "metric.h"

#include <stdlib.h>
#include <time.h>

#define HEAD_SIZE 64u
#define MARK 0x746e6d656d6f7279ull

struct tn_held {
    uint64_t mark, size;
    guest *owner;
    struct tn_held *next, *last; /* what this plugin holds, under its lock */
};
typedef struct tn_held head;
_Static_assert(sizeof(head) <= HEAD_SIZE, "the head fits");

static void host_log(void *ctx, uint32_t level, const char *text)
{
    guest *g = ctx;
    if (level < TN_LOG_ERROR)
        level = TN_LOG_ERROR;
    if (level > TN_LOG_DEBUG)
        level = TN_LOG_DEBUG;
    tn_log_put(g->wall->log, level, g->name, NULL, "%.3000s", text ? text : "(null)");
}

static void say_bug(guest *g, const char *what, const char *key)
{
    tn_log_put(g->wall->log, TN_LOG_ERROR, g->name, NULL, "bug of the plugin: %s %.64s", what,
               key ? key : "(null)");
}

/* ---------------------------------------------------------------------------------- memory */

static void tell_held(guest *g)
{
    tn_metrics_put(g->wall->metrics, g->memory_gauge, (double)atomic_load(&g->held_bytes));
}

static void *host_alloc(void *ctx, uint64_t size)
{
    guest *g = ctx;
    if (size > SIZE_MAX / 2)
        return NULL;
    head *h = aligned_alloc(64, HEAD_SIZE + (((size_t)size + 63) & ~(size_t)63));
    if (h == NULL)
        return NULL;
    *h = (head){.mark = MARK, .size = size, .owner = g};
    pthread_mutex_lock(&g->lock);
    h->next = g->held;
    if (h->next != NULL)
        h->next->last = h;
    g->held = h;
    pthread_mutex_unlock(&g->lock);
    atomic_fetch_add(&g->held_bytes, size);
    atomic_fetch_add(&g->held_blocks, 1);
    tell_held(g);
    return (char *)h + HEAD_SIZE;
}

static void unlink_held(guest *g, head *h)
{
    pthread_mutex_lock(&g->lock);
    if (h->last != NULL)
        h->last->next = h->next;
    else
        g->held = h->next;
    if (h->next != NULL)
        h->next->last = h->last;
    pthread_mutex_unlock(&g->lock);
}

static void host_release(void *ctx, void *p)
{
    guest *g = ctx;
    if (p == NULL)
        return;
    head *h = (head *)((char *)p - HEAD_SIZE);
    if ((uintptr_t)p % 64 != 0 || h->mark != MARK || h->owner != g) {
        say_bug(g, "releases memory it never took", "");
        return;
    }
    unlink_held(g, h);
    h->mark = 0;
    atomic_fetch_sub(&g->held_bytes, h->size);
    atomic_fetch_sub(&g->held_blocks, 1);
    free(h);
    tell_held(g);
}

void tn_wall_reclaim(guest *g)
{
    while (g->held != NULL) {
        head *h = g->held;
        g->held = h->next;
        free(h);
    }
    atomic_store(&g->held_bytes, 0);
    atomic_store(&g->held_blocks, 0);
}

/* -------------------------------------------------------------------------------- settings */

/* The value of a declared key of one of the types in `types` (bits), else NULL and a line. */
static const tn_value *value_of(guest *g, const char *key, uint32_t types)
{
    const tn_value *v = key && g->values ? tn_values_find(g->values, key) : NULL;
    if (v == NULL)
        say_bug(g, "asks for an option it does not declare:", key);
    else if ((types >> v->option.type & 1u) == 0)
        say_bug(g, "asks for an option by another type than it declares:", key);
    else
        return v;
    return NULL;
}

static int64_t host_opt_int(void *ctx, const char *key)
{
    const tn_value *v = value_of(ctx, key, 1u << TN_OPT_INT | 1u << TN_OPT_SIZE
                                           | 1u << TN_OPT_BOOL);
    return v ? v->i : 0;
}

static double host_opt_float(void *ctx, const char *key)
{
    const tn_value *v = value_of(ctx, key, 1u << TN_OPT_FLOAT);
    return v ? v->f : 0;
}

static const char *host_opt_text(void *ctx, const char *key)
{
    const tn_value *v = value_of(ctx, key, 1u << TN_OPT_ENUM | 1u << TN_OPT_TEXT
                                           | 1u << TN_OPT_PATH);
    return v ? v->text : "";
}

static uint32_t host_opt_count(void *ctx, const char *key)
{
    const tn_value *v = value_of(ctx, key, 1u << TN_OPT_LIST);
    return v ? v->count : 0;
}

static const char *host_opt_item(void *ctx, const char *key, uint32_t i)
{
    const tn_value *v = value_of(ctx, key, 1u << TN_OPT_LIST);
    return v && i < v->count ? v->item[i] : "";
}

/* --------------------------------------------------------------------------------- metrics */

static uint32_t host_metric(void *ctx, uint32_t type, const char *name, const char *help,
                            const char *labels, const double *bounds, uint32_t nbound)
{
    guest *g = ctx;
    char all[1024];
    if (labels == NULL)
        labels = "";
    int n = snprintf(all, sizeof all, "plugin=\"%s\"%s%s", g->name, labels[0] ? "," : "",
                     labels);
    uint32_t id = TN_NONE;
    if (n > 0 && (size_t)n < sizeof all)
        id = tn_metrics_add(g->wall->metrics, type, name, help, all, bounds, nbound);
    if (id == TN_NONE && g->wall->metrics != NULL)
        say_bug(g, "declares a metric that is refused:", name);
    return id;
}

static void host_metric_put(void *ctx, uint32_t id, double value)
{
    guest *g = ctx;
    tn_metrics_put(g->wall->metrics, id, value);
}

/* -------------------------------------------------------------------------- JSON and clock */

static tn_status host_json_open(void *ctx, const char *text, uint64_t size, const char *what,
                                uint32_t depth_max, tn_json_doc **doc, tn_err *err)
{
    (void)ctx;
    if (size > SIZE_MAX)
        return tn_fail(err, TN_NO_MEMORY, "%s: too large", what);
    return tn_json_open(text, (size_t)size, what, depth_max, doc, err);
}

static const tn_json *host_json_root(void *ctx, const tn_json_doc *doc)
{
    (void)ctx;
    return tn_json_root(doc);
}

static void host_json_close(void *ctx, tn_json_doc *doc)
{
    (void)ctx;
    tn_json_close(doc);
}

static uint64_t host_clock(void *ctx)
{
    struct timespec t;
    (void)ctx;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void tn_wall_lend(guest *g)
{
    char label[64];
    snprintf(label, sizeof label, "plugin=\"%s\"", g->name);
    g->memory_gauge = tn_metrics_add(g->wall->metrics, TN_METRIC_GAUGE,
                                     "tenon_plugin_memory_bytes",
                                     "Host memory that a plugin holds.", label, NULL, 0);
    g->host = (tn_host){
        .size = sizeof(tn_host),
        .ctx = g,
        .log = host_log,
        .alloc = host_alloc,
        .release = host_release,
        .opt_int = host_opt_int,
        .opt_float = host_opt_float,
        .opt_text = host_opt_text,
        .opt_count = host_opt_count,
        .opt_item = host_opt_item,
        .metric = host_metric,
        .metric_put = host_metric_put,
        .json_open = host_json_open,
        .json_root = host_json_root,
        .json_close = host_json_close,
        .clock = host_clock,
        .front = g->pub.kind == TN_KIND_FRONT ? g->wall->front : NULL,
    };
}

uint64_t tn_wall_held(const tn_guest *pub)
{
    const guest *g = (const guest *)pub; /* pub is its first member */
    return atomic_load(&g->held_bytes);
}

void *tn_wall_user(void *ctx)
{
    const guest *g = ctx;
    return g->wall->user;
}

const char *tn_wall_name(void *ctx)
{
    const guest *g = ctx;
    return g->name;
}

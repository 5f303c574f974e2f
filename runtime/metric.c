/* SPDX-License-Identifier: Apache-2.0 */
/* metric.c - counters, gauges and histograms, printed as Prometheus text.
 *
 * Series live in chunks that never move, so a put finds its series without a lock. Sums are
 * kept as whole units and billionths in two integers: adding is one atomic addition each (a
 * compare-and-swap loop on a double could be outrun for ever), counts stay exact past 2^53. */
#include "metric.h"

#include "buf.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#define CHUNK_SERIES 64u
#define CHUNKS_MAX 1024u
#define BOUNDS_MAX 128u
#define NAME_MAX_BYTES 200u
#define LABELS_MAX_BYTES 4096u
#define NANO 1000000000u
#define CARRY 4000000000u  /* whole units moved at once out of the billionths */

typedef struct sum {
    _Atomic uint64_t whole; /* modulo 2^64; read as signed for histograms */
    _Atomic uint64_t nano;  /* billionths, only ever added, carried long before 2^64 */
} sum;

typedef struct family family;

typedef struct series {
    family *family;
    char *labels;             /* owned, "" without */
    _Atomic uint64_t gauge;   /* bits of the double */
    sum sum;                  /* a counter's value, a histogram's sum */
    _Atomic uint64_t *bucket; /* histogram: nbound + 1 counts, not cumulative, owned */
    struct series *next;      /* of the same family */
    uint32_t id;
} series;

struct family {
    char *name;     /* as printed, owned */
    char *help;     /* owned */
    uint32_t type;
    uint32_t nbound;
    double *bound;  /* [nbound] ascending, owned; NULL unless a histogram */
    series *first, *last;
    family *next;
};

struct tn_metrics {
    pthread_mutex_t *lock;  /* owned; guards declaring and printing, never a put */
    _Atomic(series *) chunk[CHUNKS_MAX];
    _Atomic uint32_t nseries;
    family *first, *last;
};

/* ------------------------------------------------------------------------- Prometheus text */

static bool is_alpha(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_name(const char *s)
{
    size_t n = 0;
    for (; s[n] != 0; n++)
        if (!is_alpha(s[n]) && s[n] != ':' && (n == 0 || !is_digit(s[n])))
            return false;
    return n > 0 && n <= NAME_MAX_BYTES;
}

/* The end of a quoted label value that begins at s, NULL when it is malformed. */
static const char *value_end(const char *s)
{
    if (*s++ != '"')
        return NULL;
    for (; *s != '"'; s++) {
        if ((unsigned char)*s < 0x20)
            return NULL;
        if (*s == '\\' && *++s != '\\' && *s != '"' && *s != 'n')
            return NULL;
    }
    return s + 1;
}

/* name="value",name="value"; `le` belongs to the buckets of a histogram. */
static bool are_labels(const char *s, bool histogram)
{
    if (strlen(s) > LABELS_MAX_BYTES)
        return false;
    while (*s != 0) {
        const char *name = s;
        if (!is_alpha(*s))
            return false;
        while (is_alpha(*s) || is_digit(*s))
            s++;
        if (*s != '=' || (histogram && s - name == 2 && memcmp(name, "le", 2) == 0))
            return false;
        s = value_end(s + 1);
        if (s == NULL || (*s == ',' && s[1] == 0) || (*s != ',' && *s != 0))
            return false;
        s += *s == ',';
    }
    return true;
}

static bool are_bounds(const double *bound, uint32_t n)
{
    if (n > BOUNDS_MAX || (n > 0 && bound == NULL))
        return false;
    for (uint32_t i = 0; i < n; i++)
        if (!isfinite(bound[i]) || (i > 0 && bound[i] <= bound[i - 1]))
            return false;
    return true;
}

static void put_number(tn_buf *out, double v)
{
    if (isnan(v))
        tn_buf_puts(out, "NaN");
    else if (isinf(v))
        tn_buf_puts(out, v > 0 ? "+Inf" : "-Inf");
    else if (v == floor(v) && fabs(v) < 1e15)
        tn_buf_printf(out, "%lld", (long long)v); /* 100, where the shortest is 1e+02 */
    else
        tn_buf_put_double(out, v);
}

/* ----------------------------------------------------------------------------------- sums */

static void sum_add(sum *s, double value)
{
    double whole = floor(value);
    if (fabs(whole) >= 9.2e18)
        return; /* no count or time we keep gets there; wrapping would be worse */
    uint64_t nano = (uint64_t)((value - whole) * NANO + 0.5);
    atomic_fetch_add_explicit(&s->whole, (uint64_t)(int64_t)whole, memory_order_relaxed);
    if (nano == 0)
        return;
    const uint64_t limit = (uint64_t)CARRY * NANO;
    uint64_t old = atomic_fetch_add_explicit(&s->nano, nano, memory_order_relaxed);
    if (old < limit && old + nano >= limit) { /* exactly one thread sees the crossing */
        atomic_fetch_add_explicit(&s->whole, CARRY, memory_order_relaxed);
        atomic_fetch_sub_explicit(&s->nano, limit, memory_order_relaxed);
    }
}

static uint64_t sum_load(const sum *s, uint32_t *nano)
{
    uint64_t n = atomic_load_explicit(&s->nano, memory_order_relaxed);
    *nano = (uint32_t)(n % NANO);
    return atomic_load_explicit(&s->whole, memory_order_relaxed) + n / NANO;
}

static void put_sum(tn_buf *out, const sum *s, bool is_signed)
{
    uint32_t nano;
    uint64_t whole = sum_load(s, &nano);
    if (is_signed && (int64_t)whole < 0) {
        put_number(out, (double)(int64_t)whole + (double)nano / NANO);
        return;
    }
    tn_buf_printf(out, "%llu", (unsigned long long)whole);
    if (nano == 0)
        return;
    char digits[16];
    int n = snprintf(digits, sizeof digits, ".%09u", nano);
    while (n > 0 && digits[n - 1] == '0')
        n--;
    tn_buf_put(out, digits, (size_t)n);
}

/* ------------------------------------------------------------------------------- declaring */

static char *joined(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b);
    char *s = malloc(na + nb + 1);
    if (s != NULL) {
        memcpy(s, a, na);
        memcpy(s + na, b, nb + 1);
    }
    return s;
}

static bool ends_with(const char *s, size_t n, const char *end)
{
    size_t m = strlen(end);
    return n > m && memcmp(s + n - m, end, m) == 0;
}

static family *find_family(tn_metrics *m, const char *name, size_t n)
{
    for (family *f = m->first; f != NULL; f = f->next)
        if (strlen(f->name) == n && memcmp(f->name, name, n) == 0)
            return f;
    return NULL;
}

/* Would the lines of a histogram and of another family carry one name? */
static bool is_taken(tn_metrics *m, const char *name, uint32_t type)
{
    static const char *const end[] = {"_bucket", "_sum", "_count"};
    size_t n = strlen(name);
    for (size_t i = 0; i < 3; i++) {
        if (ends_with(name, n, end[i])) {
            const family *f = find_family(m, name, n - strlen(end[i]));
            if (f != NULL && f->type == TN_METRIC_HISTOGRAM)
                return true;
        }
        if (type != TN_METRIC_HISTOGRAM)
            continue;
        for (const family *f = m->first; f != NULL; f = f->next)
            if (strncmp(f->name, name, n) == 0 && strcmp(f->name + n, end[i]) == 0)
                return true;
    }
    return false;
}

static void free_family(family *f)
{
    free(f->name);
    free(f->help);
    free(f->bound);
    free(f);
}

/* A new family, not yet in the list; takes over `name`. */
static family *new_family(char *name, uint32_t type, const char *help, const double *bound,
                          uint32_t nbound)
{
    family *f = calloc(1, sizeof *f);
    if (f == NULL) {
        free(name);
        return NULL;
    }
    f->name = name;
    f->type = type;
    f->nbound = nbound;
    f->help = joined(help, "");
    f->bound = nbound ? malloc(nbound * sizeof *bound) : NULL;
    if (f->help == NULL || (nbound && f->bound == NULL)) {
        free_family(f);
        return NULL;
    }
    if (nbound)
        memcpy(f->bound, bound, nbound * sizeof *bound);
    return f;
}

/* The slot for the next series; its chunk is made when it is the first in it. */
static series *next_slot(tn_metrics *m, uint32_t id)
{
    uint32_t c = id / CHUNK_SERIES;
    if (c >= CHUNKS_MAX)
        return NULL;
    series *chunk = atomic_load_explicit(&m->chunk[c], memory_order_relaxed);
    if (chunk == NULL) {
        chunk = calloc(CHUNK_SERIES, sizeof *chunk);
        if (chunk == NULL)
            return NULL;
        atomic_store_explicit(&m->chunk[c], chunk, memory_order_release);
    }
    return &chunk[id % CHUNK_SERIES];
}

/* Adds a series to f; the family joins the list with its first one. */
static uint32_t new_series(tn_metrics *m, family *f, const char *labels)
{
    uint32_t id = atomic_load_explicit(&m->nseries, memory_order_relaxed);
    series *s = next_slot(m, id);
    char *copy = joined(labels, "");
    _Atomic uint64_t *bucket = NULL;
    if (f->type == TN_METRIC_HISTOGRAM)
        bucket = calloc(f->nbound + 1, sizeof *bucket);
    if (s == NULL || copy == NULL || (f->type == TN_METRIC_HISTOGRAM && bucket == NULL)) {
        free(copy);
        free(bucket);
        return TN_NONE;
    }
    s->family = f;
    s->labels = copy;
    s->bucket = bucket;
    s->id = id;
    if (f->last == NULL)
        f->first = s;
    else
        f->last->next = s;
    f->last = s;
    atomic_store_explicit(&m->nseries, id + 1, memory_order_release);
    return id;
}

static bool same_bounds(const family *f, const double *bound, uint32_t n)
{
    return f->nbound == n && (n == 0 || memcmp(f->bound, bound, n * sizeof *bound) == 0);
}

/* `name` as printed, given up to this call. */
static uint32_t add_locked(tn_metrics *m, uint32_t type, char *name, const char *help,
                           const char *labels, const double *bound, uint32_t nbound)
{
    family *f = find_family(m, name, strlen(name));
    if (f != NULL) {
        free(name);
        if (f->type != type || !same_bounds(f, bound, nbound))
            return TN_NONE;
        for (series *s = f->first; s != NULL; s = s->next)
            if (strcmp(s->labels, labels) == 0)
                return s->id;
        return new_series(m, f, labels);
    }
    if (is_taken(m, name, type)) {
        free(name);
        return TN_NONE;
    }
    f = new_family(name, type, help, bound, nbound);
    if (f == NULL)
        return TN_NONE;
    uint32_t id = new_series(m, f, labels);
    if (id == TN_NONE) {
        free_family(f);
        return TN_NONE;
    }
    if (m->last == NULL)
        m->first = f;
    else
        m->last->next = f;
    m->last = f;
    return id;
}

uint32_t tn_metrics_add(tn_metrics *m, uint32_t type, const char *name, const char *help,
                        const char *labels, const double *bounds, uint32_t nbound)
{
    bool histogram = type == TN_METRIC_HISTOGRAM;
    if (m == NULL || type < TN_METRIC_COUNTER || type > TN_METRIC_HISTOGRAM || name == NULL
        || !is_name(name) || (labels != NULL && !are_labels(labels, histogram))
        || (histogram && !are_bounds(bounds, nbound)))
        return TN_NONE;
    bool bare = type == TN_METRIC_COUNTER && !ends_with(name, strlen(name), "_total");
    char *printed = joined(name, bare ? "_total" : "");
    if (printed == NULL)
        return TN_NONE;
    pthread_mutex_lock(m->lock);
    uint32_t id = add_locked(m, type, printed, help ? help : "", labels ? labels : "",
                             histogram ? bounds : NULL, histogram ? nbound : 0);
    pthread_mutex_unlock(m->lock);
    return id;
}

/* --------------------------------------------------------------------------------- values */

static series *at(const tn_metrics *m, uint32_t id)
{
    if (m == NULL || id >= atomic_load_explicit(&m->nseries, memory_order_acquire))
        return NULL;
    return &atomic_load_explicit(&m->chunk[id / CHUNK_SERIES],
                                 memory_order_acquire)[id % CHUNK_SERIES];
}

static void observe(series *s, double value)
{
    const family *f = s->family;
    uint32_t i = 0;
    while (i < f->nbound && value > f->bound[i])
        i++;
    atomic_fetch_add_explicit(&s->bucket[i], 1, memory_order_relaxed);
    sum_add(&s->sum, value);
}

void tn_metrics_put(tn_metrics *m, uint32_t id, double value)
{
    series *s = at(m, id);
    if (s == NULL)
        return;
    if (s->family->type == TN_METRIC_GAUGE) {
        uint64_t bits;
        memcpy(&bits, &value, sizeof bits);
        atomic_store_explicit(&s->gauge, bits, memory_order_relaxed);
    } else if (isfinite(value) && s->family->type == TN_METRIC_HISTOGRAM) {
        observe(s, value);
    } else if (isfinite(value) && value > 0) { /* a counter never falls */
        sum_add(&s->sum, value);
    }
}

static double gauge_load(const series *s)
{
    uint64_t bits = atomic_load_explicit(&s->gauge, memory_order_relaxed);
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static uint64_t bucket_load(const series *s, uint32_t i)
{
    return atomic_load_explicit(&s->bucket[i], memory_order_relaxed);
}

double tn_metrics_get(const tn_metrics *m, uint32_t id)
{
    const series *s = at(m, id);
    if (s == NULL)
        return 0;
    if (s->family->type == TN_METRIC_GAUGE)
        return gauge_load(s);
    if (s->family->type == TN_METRIC_COUNTER) {
        uint32_t nano;
        uint64_t whole = sum_load(&s->sum, &nano);
        return (double)whole + (double)nano / NANO;
    }
    uint64_t count = 0;
    for (uint32_t i = 0; i <= s->family->nbound; i++)
        count += bucket_load(s, i);
    return (double)count;
}

/* ------------------------------------------------------------------------------- printing */

static void put_head(tn_buf *out, const family *f)
{
    static const char *const type[] = {"", "counter", "gauge", "histogram"};
    tn_buf_printf(out, "# HELP %s ", f->name);
    for (const char *s = f->help; *s != 0; s++) {
        if (*s == '\\')
            tn_buf_puts(out, "\\\\");
        else if (*s == '\n')
            tn_buf_puts(out, "\\n");
        else
            tn_buf_putc(out, *s);
    }
    tn_buf_printf(out, "\n# TYPE %s %s\n", f->name, type[f->type]);
}

static void put_name(tn_buf *out, const series *s, const char *end)
{
    tn_buf_printf(out, "%s%s", s->family->name, end);
    if (s->labels[0] != 0)
        tn_buf_printf(out, "{%s}", s->labels);
    tn_buf_putc(out, ' ');
}

static void put_histogram(tn_buf *out, const series *s)
{
    const family *f = s->family;
    uint64_t count = 0;
    for (uint32_t i = 0; i <= f->nbound; i++) {
        count += bucket_load(s, i);
        tn_buf_printf(out, "%s_bucket{%s%sle=\"", f->name, s->labels, s->labels[0] ? "," : "");
        put_number(out, i < f->nbound ? f->bound[i] : (double)INFINITY);
        tn_buf_printf(out, "\"} %llu\n", (unsigned long long)count);
    }
    put_name(out, s, "_sum");
    put_sum(out, &s->sum, true);
    tn_buf_putc(out, '\n');
    put_name(out, s, "_count");
    tn_buf_printf(out, "%llu\n", (unsigned long long)count);
}

static void put_series(tn_buf *out, const series *s)
{
    if (s->family->type == TN_METRIC_HISTOGRAM) {
        put_histogram(out, s);
        return;
    }
    put_name(out, s, "");
    if (s->family->type == TN_METRIC_COUNTER)
        put_sum(out, &s->sum, false);
    else
        put_number(out, gauge_load(s));
    tn_buf_putc(out, '\n');
}

void tn_metrics_print(const tn_metrics *m, struct tn_buf *out)
{
    if (m == NULL)
        return;
    pthread_mutex_lock(m->lock);
    for (const family *f = m->first; f != NULL; f = f->next) {
        put_head(out, f);
        for (const series *s = f->first; s != NULL; s = s->next)
            put_series(out, s);
    }
    pthread_mutex_unlock(m->lock);
}

/* --------------------------------------------------------------------------- open and close */

tn_status tn_metrics_open(tn_metrics **out, tn_err *err)
{
    tn_metrics *m = calloc(1, sizeof *m);
    pthread_mutex_t *lock = malloc(sizeof *lock);
    if (m == NULL || lock == NULL || pthread_mutex_init(lock, NULL) != 0) {
        free(m);
        free(lock);
        return tn_fail(err, TN_OS, "metrics: out of memory");
    }
    m->lock = lock;
    *out = m;
    return TN_OK;
}

void tn_metrics_close(tn_metrics *m)
{
    if (m == NULL)
        return;
    for (family *f = m->first, *next; f != NULL; f = next) {
        next = f->next;
        for (series *s = f->first; s != NULL; s = s->next) {
            free(s->labels);
            free(s->bucket);
        }
        free_family(f);
    }
    for (uint32_t i = 0; i < CHUNKS_MAX; i++)
        free(atomic_load_explicit(&m->chunk[i], memory_order_relaxed));
    pthread_mutex_destroy(m->lock);
    free(m->lock);
    free(m);
}

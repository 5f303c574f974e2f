/* SPDX-License-Identifier: Apache-2.0 */
/* teamstats.c - what each rank tells of itself, and the series that rank 0 makes of it. */
#include "teamstats.h"

#include "buf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LABELS_MAX 1024u

/* What is put for each rank; the facts of a device come behind. */
enum {
    TOTAL, USED, FREE, RESIDENT, STEPS, STEP_TIME, CALLS, BYTES, COMM_TIME, COMM_SHARE, FIRST_FACT,
    SERIES = FIRST_FACT + TN_RANK_FACTS
};

typedef struct series {
    const char *name, *help;
    const char *more;            /* labels beside model_name and rank, or NULL */
    uint32_t type;
    const char *key;             /* of a device's report */
    double unit;                 /* of the report in that of the series */
} series;

#define GAUGE(n, h, l) {n, h, l, TN_METRIC_GAUGE, NULL, 1}
#define COUNTER(n, h) {n, h, NULL, TN_METRIC_COUNTER, NULL, 1}
#define FACT(n, h, k, u) {n, h, NULL, TN_METRIC_GAUGE, k, u}
#define MEMORY_NAME "tenon_rank_device_memory_bytes"
#define MEMORY_HELP "Memory of the rank's device, other programs' included."

static const series all[SERIES] = {
    [TOTAL] = GAUGE(MEMORY_NAME, MEMORY_HELP, "kind=\"total\""),
    [USED] = GAUGE(MEMORY_NAME, MEMORY_HELP, "kind=\"used\""),
    [FREE] = GAUGE(MEMORY_NAME, MEMORY_HELP, "kind=\"free\""),
    [RESIDENT] = GAUGE("tenon_rank_resident_bytes", "Memory of the rank's process.", NULL),
    [STEPS] = COUNTER("tenon_rank_steps", "Steps that the rank has done."),
    [STEP_TIME] = COUNTER("tenon_rank_step_seconds", "Time that the rank was in steps."),
    [CALLS] = COUNTER("tenon_rank_comm_calls", "Sums and gathers over the ranks."),
    [BYTES] = COUNTER("tenon_rank_comm_bytes", "Bytes that the rank brought to them."),
    [COMM_TIME] = COUNTER("tenon_rank_comm_seconds",
                          "Time that the rank was in them, waiting for others included."),
    [COMM_SHARE] = GAUGE("tenon_rank_comm_share",
                         "Share of the rank's latest steps that it was in them, 0 to 1.", NULL),
    [FIRST_FACT + TN_RANK_UTILIZATION] =
        FACT("tenon_rank_device_utilization", "Share of the time that the device computed, 0 to 1.",
             "utilization", 0.01),
    [FIRST_FACT + TN_RANK_TEMPERATURE] =
        FACT("tenon_rank_device_temperature_celsius", "Temperature of the device.", "temperature",
             1),
    [FIRST_FACT + TN_RANK_CLOCK] =
        FACT("tenon_rank_device_clock_hertz", "Clock of the device.", "clock", 1e6),
    [FIRST_FACT + TN_RANK_MEMORY_CLOCK] =
        FACT("tenon_rank_device_memory_clock_hertz", "Clock of the device's memory.",
             "memory_clock", 1e6),
    [FIRST_FACT + TN_RANK_POWER] =
        FACT("tenon_rank_device_power_watts", "Power that the device draws.", "power", 1),
};

/* What is kept of a rank between two of its messages. */
typedef struct row {
    uint32_t id[SERIES];         /* TN_NONE until its first number */
    tn_rank_stats last;
    double wait;                 /* comm seconds a step, in the latest steps; NaN: none yet */
} row;

struct tn_rank_board {
    tn_metrics *metrics;
    char *model;                 /* its label, escaped */
    pthread_mutex_t lock;
    uint32_t nrank, skew;
    row *row;                    /* [nrank] */
};

/* ----------------------------------------------------------------------------- one's own */

void tn_rank_stats_open(tn_rank_stats *s)
{
    memset(s, 0, sizeof *s);
    for (uint32_t i = 0; i < TN_RANK_FACTS; i++)
        s->fact[i] = (double)NAN;
}

void tn_rank_stats_fact(tn_rank_stats *s, const char *key, const char *text)
{
    for (uint32_t i = 0; key != NULL && text != NULL && i < TN_RANK_FACTS; i++) {
        char *end;
        if (strcmp(key, all[FIRST_FACT + i].key) != 0)
            continue;
        double v = strtod(text, &end);
        if (end != text && isfinite(v))
            s->fact[i] = v * all[FIRST_FACT + i].unit;
    }
}

void tn_rank_stats_process(tn_rank_stats *s)
{
    unsigned long long all_pages, pages;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f == NULL)
        return;
    if (fscanf(f, "%llu %llu", &all_pages, &pages) == 2)
        s->resident = pages * (uint64_t)sysconf(_SC_PAGESIZE);
    fclose(f);
}

/* --------------------------------------------------------------------------------- board */

/* A label value: backslash, quote and newline are escaped. */
static void put_label(tn_buf *b, const char *text)
{
    for (; *text != 0; text++) {
        if (*text == '\n')
            tn_buf_puts(b, "\\n");
        else if (*text == '\\' || *text == '"')
            tn_buf_printf(b, "\\%c", *text);
        else
            tn_buf_putc(b, *text);
    }
}

tn_status tn_rank_board_open(tn_metrics *metrics, const char *model, uint32_t nrank,
                             tn_rank_board **out, tn_err *err)
{
    tn_buf label;
    tn_buf_open(&label, LABELS_MAX - 100);
    put_label(&label, model);
    bool long_name = label.failed;
    tn_rank_board *b = long_name ? NULL : calloc(1, sizeof *b);
    if (b != NULL)
        b->row = calloc(nrank, sizeof *b->row);
    if (b == NULL || b->row == NULL || pthread_mutex_init(&b->lock, NULL) != 0) {
        if (b != NULL)
            free(b->row);
        free(b);
        tn_buf_close(&label);
        return long_name ? tn_fail(err, TN_CONFIG, "metrics: the model's name is too long for a "
                                   "label; expected at most %u bytes", LABELS_MAX - 100)
                         : tn_fail(err, TN_NO_MEMORY, "no memory for the metrics of %u ranks", nrank);
    }
    b->metrics = metrics;
    b->model = tn_buf_take(&label);
    b->nrank = nrank;
    b->skew = TN_NONE;
    for (uint32_t r = 0; r < nrank; r++) {
        b->row[r].wait = (double)NAN;
        for (uint32_t i = 0; i < SERIES; i++)
            b->row[r].id[i] = TN_NONE;
    }
    *out = b;
    return TN_OK;
}

void tn_rank_board_close(tn_rank_board *b)
{
    if (b == NULL)
        return;
    pthread_mutex_destroy(&b->lock);
    free(b->model);
    free(b->row);
    free(b);
}

static void put(tn_rank_board *b, uint32_t r, uint32_t i, double value)
{
    row *to = &b->row[r];
    char labels[LABELS_MAX];
    if (b->metrics == NULL || isnan(value))
        return;
    if (to->id[i] == TN_NONE) {
        snprintf(labels, sizeof labels, "model_name=\"%s\",rank=\"%u\"%s%s",
                 b->model != NULL ? b->model : "", r, all[i].more != NULL ? "," : "",
                 all[i].more != NULL ? all[i].more : "");
        to->id[i] = tn_metrics_add(b->metrics, all[i].type, all[i].name, all[i].help, labels, NULL,
                                   0);
    }
    tn_metrics_put(b->metrics, to->id[i], value);
}

/* How much longer the rank that waits longest is in calls than the one that waits least, a step:
 * what the slowest rank costs the fastest. */
static void put_skew(tn_rank_board *b)
{
    double least = HUGE_VAL, most = 0;
    char labels[LABELS_MAX];
    for (uint32_t r = 0; r < b->nrank; r++) {
        if (isnan(b->row[r].wait))
            return;
        least = fmin(least, b->row[r].wait);
        most = fmax(most, b->row[r].wait);
    }
    if (b->nrank < 2 || b->metrics == NULL)
        return;
    if (b->skew == TN_NONE) {
        snprintf(labels, sizeof labels, "model_name=\"%s\"", b->model != NULL ? b->model : "");
        b->skew = tn_metrics_add(b->metrics, TN_METRIC_GAUGE, "tenon_rank_skew_seconds",
                                 "Time a step that the fastest rank waits longer for others than "
                                 "the slowest does, in the latest steps.", labels, NULL, 0);
    }
    tn_metrics_put(b->metrics, b->skew, most - least);
}

/* Steps, and what of them was spent together. */
static void put_steps(tn_rank_board *b, uint32_t r, const tn_rank_stats *s)
{
    const tn_rank_stats *last = &b->row[r].last;
    double steps = (double)(s->steps - last->steps);
    double time = (double)(s->step_ns - last->step_ns) * 1e-9;
    double comm = (double)(s->comm_ns - last->comm_ns) * 1e-9;
    if (s->steps == 0)
        return;
    put(b, r, STEPS, steps);
    put(b, r, STEP_TIME, time);
    if (s->comm_calls == 0)
        return;
    put(b, r, CALLS, (double)(s->comm_calls - last->comm_calls));
    put(b, r, BYTES, (double)(s->comm_bytes - last->comm_bytes));
    put(b, r, COMM_TIME, comm);
    if (steps > 0 && time > 0) {
        put(b, r, COMM_SHARE, comm < time ? comm / time : 1);
        b->row[r].wait = comm / steps;
        put_skew(b);
    }
}

static void put_memory(tn_rank_board *b, uint32_t r, const tn_rank_stats *s)
{
    uint64_t total = s->memory_total, left = s->memory_free < total ? s->memory_free : total;
    if (total == 0)
        return;
    put(b, r, TOTAL, (double)total);
    put(b, r, USED, (double)(total - left));
    put(b, r, FREE, (double)left);
}

void tn_rank_board_put(tn_rank_board *b, uint32_t r, const tn_rank_stats *s)
{
    if (b == NULL || r >= b->nrank)
        return;
    pthread_mutex_lock(&b->lock);
    put_memory(b, r, s);
    if (s->resident > 0)
        put(b, r, RESIDENT, (double)s->resident);
    for (uint32_t i = 0; i < TN_RANK_FACTS; i++)
        put(b, r, FIRST_FACT + i, s->fact[i]);
    /* Counts that went back are nobody's; a connection is of one process. */
    if (s->steps >= b->row[r].last.steps && s->comm_calls >= b->row[r].last.comm_calls)
        put_steps(b, r, s);
    b->row[r].last = *s;
    pthread_mutex_unlock(&b->lock);
}

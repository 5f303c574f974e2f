/* SPDX-License-Identifier: Apache-2.0 */
/* servedstats.c - what the ranks of a served model are told of in /metrics. */
#include "servedstats.h"

#include <time.h>

#define REPORT_SECONDS 10u       /* a device may open a library to answer */

static void take_fact(void *stats, const char *key, const char *text)
{
    tn_rank_stats_fact(stats, key, text);
}

/* What the device reports of itself, at most REPORT_SECONDS old. */
static void look_at_facts(tn_served *s, tn_rank_stats *out)
{
    time_t now = time(NULL);
    tn_err err;
    if (s->device->table->report == NULL)
        return;
    if (s->reported == 0 || now - s->reported >= REPORT_SECONDS || now < s->reported) {
        tn_rank_stats_open(&s->report);
        (void)s->device->table->report(s->dev, take_fact, &s->report, &err);
        s->reported = now;
    }
    memcpy(out->fact, s->report.fact, sizeof out->fact);
}

void tn_served_look(void *served, tn_rank_stats *out)
{
    tn_served *s = served;
    tn_device_info info = {.size = sizeof info};
    tn_err err;
    tn_rank_stats_open(out);
    tn_rank_stats_process(out);
    if (s->device->table->info(s->dev, &info, &err) == TN_OK) {
        out->memory_total = info.memory_total;
        out->memory_free = info.memory_free;
    }
    look_at_facts(s, out);
    if (s->team != NULL)
        tn_team_steps(s->team, &out->steps, &out->step_ns);
    if (s->count.table != NULL) {
        out->comm_calls = atomic_load_explicit(&s->count.calls, memory_order_relaxed);
        out->comm_bytes = atomic_load_explicit(&s->count.bytes, memory_order_relaxed);
        out->comm_ns = atomic_load_explicit(&s->count.ns, memory_order_relaxed);
    }
}

tn_status tn_served_board(tn_served *s, tn_metrics *metrics, tn_err *err)
{
    return tn_rank_board_open(metrics, tn_served_name(s, 0), s->place.nrank > 0 ? s->place.nrank : 1,
                              &s->board, err);
}

void tn_served_hear(void *served, uint32_t rank, const tn_rank_stats *stats)
{
    const tn_served *s = served;
    tn_rank_board_put(s->board, rank, stats);
}

void tn_served_tick(tn_served *s)
{
    tn_rank_stats own;
    time_t now = time(NULL);
    if (s->board == NULL || (s->ticked != 0 && now >= s->ticked &&
                             now - s->ticked < (time_t)TN_TEAM_BEAT_SECONDS))
        return;
    s->ticked = now;
    tn_served_look(s, &own);
    tn_rank_board_put(s->board, 0, &own);
}

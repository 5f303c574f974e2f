/* SPDX-License-Identifier: Apache-2.0 */
/* progress.c - how far long work has come. */
#include "progress.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define QUIET_NS 500000000u  /* shorter work is not worth a bar */
#define REDRAW_NS 100000000u
#define LINE_NS 5000000000u
#define BAR_WIDTH 32

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void tn_progress_open(tn_progress *p, const char *what, bool bytes)
{
    *p = (tn_progress){.what = what, .bytes = bytes, .begun = now_ns()};
    p->terminal = isatty(STDERR_FILENO) == 1;
}

static void draw(const tn_progress *p, uint64_t done, uint64_t all, uint64_t now)
{
    double share = all > 0 ? (double)done / (double)all : 0;
    double s = (double)(now - p->begun) / 1e9;
    char rate[64] = "";
    if (p->bytes && s > 0)
        snprintf(rate, sizeof rate, "  %.0f of %.0f MiB, %.0f MiB/s", (double)done / 1048576,
                 (double)all / 1048576, (double)done / 1048576 / s);
    if (!p->terminal) {
        fprintf(stderr, "%s: %.0f %%%s\n", p->what, share * 100, rate);
        return;
    }
    char bar[BAR_WIDTH + 1];
    int filled = (int)(share * BAR_WIDTH);
    for (int i = 0; i < BAR_WIDTH; i++)
        bar[i] = i < filled ? '#' : '.';
    bar[BAR_WIDTH] = 0;
    fprintf(stderr, "\r%s [%s] %3.0f %%%s\033[K", p->what, bar, share * 100, rate);
    fflush(stderr);
}

void tn_progress_step(void *user, uint64_t done, uint64_t all)
{
    tn_progress *p = user;
    uint64_t now = now_ns();
    if (now - p->begun < QUIET_NS)
        return;
    uint64_t pause = p->terminal ? REDRAW_NS : LINE_NS;
    bool all_done = done >= all, again = p->shown && now - p->last < pause;
    if (all_done ? p->ended : again)
        return;
    p->shown = true;
    p->ended = all_done;
    p->last = now;
    draw(p, done, all, now);
}

void tn_progress_close(tn_progress *p)
{
    if (p->shown && p->terminal) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
    p->shown = false;
}

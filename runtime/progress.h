/* SPDX-License-Identifier: Apache-2.0 */
/* progress.h - how far long work has come: a bar on a terminal, plain lines elsewhere.
 *
 * Goes to standard error. A bar redraws at most ten times a second, lines come every five
 * seconds and at the end; work done within half a second shows nothing. */
#ifndef TN_PROGRESS_H
#define TN_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct tn_progress {
    const char *what;      /* "loading default", borrowed */
    bool bytes;            /* the unit is bytes: show MiB and MiB/s */
    bool terminal, shown;
    bool ended;            /* the end was drawn: callers may report it many times */
    uint64_t begun, last;  /* monotonic ns */
} tn_progress;

void tn_progress_open(tn_progress *p, const char *what, bool bytes);
/* The signature of tn_loader_progress, with the tn_progress as user. One thread at a time. */
void tn_progress_step(void *p, uint64_t done, uint64_t all);
void tn_progress_close(tn_progress *p); /* clears the bar */

#endif

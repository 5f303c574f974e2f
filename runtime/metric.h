/* SPDX-License-Identifier: Apache-2.0 */
/* metric.h - counters, gauges and histograms, printed as Prometheus text.
 *
 * Declaring happens at start (one thread at a time, a lock inside); putting is wait-free from
 * any thread. A series is a name with a fixed label text; series of one name share HELP and
 * TYPE. */
#ifndef TN_METRIC_H
#define TN_METRIC_H

#include <tenon/plugin.h>

struct tn_buf;
typedef struct tn_metrics tn_metrics;

tn_status tn_metrics_open(tn_metrics **out, tn_err *err);
void tn_metrics_close(tn_metrics *m);
/* Returns an id, TN_NONE when the name or labels are no Prometheus text, the type differs
 * from an earlier series of that name, or memory is short. The same name and labels again
 * give the same id. Counter names get "_total" when printed, unless they end so. */
uint32_t tn_metrics_add(tn_metrics *m, uint32_t type, const char *name, const char *help,
                        const char *labels, const double *bounds, uint32_t nbound);
/* Counter: adds. Gauge: sets. Histogram: observes. TN_NONE and a NULL m do nothing. */
void tn_metrics_put(tn_metrics *m, uint32_t id, double value);
double tn_metrics_get(const tn_metrics *m, uint32_t id); /* counter or gauge; histogram: count */
void tn_metrics_print(const tn_metrics *m, struct tn_buf *out);

#endif

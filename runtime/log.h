/* SPDX-License-Identifier: Apache-2.0 */
/* log.h - one event, one line, on standard error, as text or as JSON.
 *
 *   2026-01-31T12:00:00.000Z info http [req-7]: listening
 *   {"time":"...","level":"info","part":"http","request":"req-7","text":"listening"}
 *
 * A line carries time, level, the part that speaks ("core", a plugin's name, "engine") and,
 * where there is one, the request's id. Writing never blocks for long and never fails the
 * caller: what cannot be written is counted. Any thread. Control characters and bytes that
 * are not UTF-8 are escaped. The process must ignore SIGPIPE if fd may be a pipe. */
#ifndef TN_LOG_H
#define TN_LOG_H

#include <tenon/plugin.h>

#include <stdbool.h>

typedef struct tn_log tn_log;

/* fd is borrowed; level: the greatest TN_LOG_* that is written. */
tn_status tn_log_open(int fd, uint32_t level, bool json, tn_log **out, tn_err *err);
void tn_log_close(tn_log *l);
bool tn_log_wants(const tn_log *l, uint32_t level);
uint64_t tn_log_dropped(const tn_log *l);
/* request may be NULL. A NULL log swallows. */
void tn_log_put(tn_log *l, uint32_t level, const char *part, const char *request,
                const char *fmt, ...) __attribute__((format(printf, 5, 6)));

#endif

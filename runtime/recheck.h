/* SPDX-License-Identifier: Apache-2.0 */
/* recheck.h - whether what the prefix cache gave was right: a request that is run again without.
 *
 * A reply is a function of its prompt and its seed, whatever was cached. The second request has
 * no keys, so it finds nothing and leaves nothing to be found; its tokens are compared with the
 * first one's as they come, a difference is logged once with its place, and both outcomes are
 * counted. Its own cost is that of any request without a cache. */
#ifndef TN_RECHECK_H
#define TN_RECHECK_H

#include "log.h"
#include "request.h"
#include "servestats.h"

/* Over, with a reply of which a part of the prompt came out of the cache. */
bool tn_recheck_fits(const tn_request *was);
/* The request to submit; holds `was`. It releases itself with its last piece. Output thread. */
tn_status tn_recheck_new(tn_request *was, tn_log *log, tn_serve_stats *stats, uint64_t now_ns,
                         tn_request **out, tn_err *err);
/* One that was not submitted. */
void tn_recheck_drop(tn_request *again);

#endif

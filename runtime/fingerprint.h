/* SPDX-License-Identifier: Apache-2.0 */
/* fingerprint.h - tells whether what one process cached means the same to another.
 *
 * Over all of config.json, the name, type and shape of every tensor and its first and last
 * bytes, the form of every weight, and how the cache is laid out: its type, its blocks, the
 * caches and states of the recipe, the exact mode. Not over the length of the context, the
 * memory, or where the files lie. */
#ifndef TN_FINGERPRINT_H
#define TN_FINGERPRINT_H

#include <tenon/plugin.h>

/* `second` is the view of the drafting module's folder, or NULL. */
void tn_fingerprint(const tn_view *view, const tn_view *second, const tn_recipe *recipe,
                    const tn_limits *limits, uint32_t cache_dtype, uint64_t out[2]);
/* Of a JSON value alone, however it is spaced. */
uint64_t tn_fingerprint_json(const tn_json *v);

#endif

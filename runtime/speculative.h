/* SPDX-License-Identifier: Apache-2.0 */
/* speculative.h - speculative_config, the JSON object in which other servers are told to draft.
 *
 * {"method": "mtp", "num_speculative_tokens": 2, "model": "/folder"} says what the keys drafts
 * and draft_path say, and is turned into them. */
#ifndef TN_SPECULATIVE_H
#define TN_SPECULATIVE_H

#include "option.h"

/* Sets drafts and draft_path of [model NAME] by its speculative_config, if it has one.
 * TN_CONFIG: no such object, a method that is not offered, or another number or folder than
 * the keys themselves were given. */
tn_status tn_speculative_apply(tn_values *v, tn_err *err);

#endif

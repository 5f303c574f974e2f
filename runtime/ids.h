/* SPDX-License-Identifier: Apache-2.0 */
/* ids.h - a list of token ids that grows. */
#ifndef TN_IDS_H
#define TN_IDS_H

#include "tokenizer.h"

bool tn_ids_reserve(tn_ids *ids, size_t more); /* false when memory is short */

static inline bool tn_ids_put(tn_ids *ids, int32_t id)
{
    if (ids->n == ids->cap && !tn_ids_reserve(ids, 1))
        return false;
    ids->id[ids->n++] = id;
    return true;
}

#endif

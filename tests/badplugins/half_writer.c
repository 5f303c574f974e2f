/* SPDX-License-Identifier: Apache-2.0 */
/* half_writer.c - L08: a writer that begins and cannot end. */
#include <tenon/plugin.h>

static tn_status begin(void *self, const tn_write_options *o, const tn_json *config,
                       const tn_sink *sink, void **writer, tn_err *err)
{
    return TN_OK;
}
#define WRITE_BEGIN begin
#include "good.h"

/* SPDX-License-Identifier: Apache-2.0 */
/* quant_other.c - a sound writer that offers 4 bits in groups of OFFERED alone (0: nothing). It
 * stores groups of 32 whatever it was asked for. */
#include <tenon/plugin.h>

#undef TN_EXPORT
#define TN_EXPORT static
#define tn_plugin_entry demo_entry
#include "../../plugins/skeleton/w4demo.c"
#undef tn_plugin_entry
#undef TN_EXPORT
#define TN_EXPORT __attribute__((visibility("default")))

static tn_status begin_other(void *self, const tn_write_options *o, const tn_json *config,
                             const tn_sink *sink, void **writer, tn_err *err)
{
    tn_write_options inner = *o;
    if (o->group != OFFERED)
        return tn_fail(err, TN_UNSUPPORTED, "w4demo: wanted group %d", OFFERED);
    inner.group = 32;
    return write_begin(self, &inner, config, sink, writer, err);
}

static const tn_quant other = {
    .size = sizeof other, .claims = claims, .form_of = form_of, .cut = cut, .read = read_rows,
    .write_begin = begin_other, .write_linear = write_linear, .write_end = write_end,
    .write_drop = free};

TN_EXPORT const tn_plugin tn_plugin_entry = {
    .abi_major = TN_ABI_MAJOR, .abi_minor = TN_ABI_MINOR, .size = sizeof tn_plugin_entry,
    .kind = TN_KIND_QUANT, .name = "w4demo", .version = "1.0", .table = &other, .init = init,
    .start = start, .stop = stop, .summary = "A 4-bit format of odd groups."};

/* SPDX-License-Identifier: Apache-2.0 */
/* quant_entries.h - quantization plugins linked into a test beside each other (entry_*.c). */
#ifndef QUANT_ENTRIES_H
#define QUANT_ENTRIES_H

#include <tenon/plugin.h>

extern const tn_plugin awq_plugin_entry, gptq_plugin_entry, w4demo_plugin_entry,
    private8_plugin_entry;

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* writable_entry.c - the descriptor could be changed after it was checked. */
#define NO_ENTRY
#include "good.h"
#undef NO_ENTRY

/* Declared const in plugin.h: only assembler can define it otherwise. */
__asm__(".pushsection .data\n.globl tn_plugin_entry\n.type tn_plugin_entry, @object\n"
        ".size tn_plugin_entry, 256\ntn_plugin_entry: .zero 256\n.popsection\n");

/* SPDX-License-Identifier: Apache-2.0 */
/* guard.h - names the plugin when the process dies or hangs inside one.
 *
 * While a visit is entered, a crash, an abort, an exit() or a silence longer than allowed
 * ends the process with 70 and one sentence on standard error: "tenon: plugin NAME: ... while
 * in init of NAME". Outside visits a crash in a plugin's own code is named as well; any other
 * crash takes its usual course (and leaves its core).
 *
 * Signals and exit handlers belong to a process, so there is one guard a process and this
 * file keeps a pointer to it. Only main (and the checker's children) opens one. */
#ifndef TN_GUARD_H
#define TN_GUARD_H

#include <tenon/plugin.h>

typedef struct tn_guard tn_guard;

/* TN_INTERNAL when this process already has one. */
tn_status tn_guard_open(tn_guard **out, tn_err *err);
/* Puts the signal handlers back. */
void tn_guard_close(tn_guard *g);

/* [control] Both texts must stay until leave. seconds 0: no limit. A NULL guard does nothing. */
void tn_guard_enter(tn_guard *g, const char *plugin, const char *phase, uint32_t seconds);
void tn_guard_leave(tn_guard *g);

/* [control] The plugin's code lies at [lo, hi); several ranges a plugin, 256 in all. */
void tn_guard_note(tn_guard *g, const char *plugin, uintptr_t lo, uintptr_t hi);
void tn_guard_forget(tn_guard *g, const char *plugin);

#endif

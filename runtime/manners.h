/* SPDX-License-Identifier: Apache-2.0 */
/* manners.h - has a plugin's call changed what belongs to the whole process?
 *
 * A note holds locale, umask, working directory, rounding and flush-to-zero mode, signal
 * handlers, the thread's signal mask, and which file descriptors are open. Looked at again
 * after the call, it names the first thing that differs and puts back what can be put back.
 * Control thread only: reading the umask means setting it for an instant. */
#ifndef TN_MANNERS_H
#define TN_MANNERS_H

#include <tenon/plugin.h>

#include <stdbool.h>

typedef struct tn_manners tn_manners;

tn_status tn_manners_open(tn_manners **out, tn_err *err);
void tn_manners_close(tn_manners *m);
/* files: also descriptors, for calls before which the plugin cannot have any of its own. */
void tn_manners_note(tn_manners *m, bool files);
/* True when all is as noted; else `what` says what changed ("changed the umask from 022 to
 * 077"). New file descriptors are no change, closed or replaced ones are. */
bool tn_manners_kept(tn_manners *m, char *what, size_t size);

#endif

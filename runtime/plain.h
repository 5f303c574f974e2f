/* SPDX-License-Identifier: Apache-2.0 */
/* plain.h - strangers' text made fit for one line of a log or a message. */
#ifndef TN_PLAIN_H
#define TN_PLAIN_H

#include <stdbool.h>
#include <stddef.h>

/* Is this character one a terminal would obey (C0, DEL, C1)? `size` as from tn_utf8_size. */
bool tn_plain_is_control(const char *s, size_t size);

/* In place: terminates within `cap` bytes and turns controls and stray bytes into '?'. */
void tn_plain_make(char *text, size_t cap);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* plain.h - strangers' text made fit for one line of a log or a message. */
#ifndef TN_PLAIN_H
#define TN_PLAIN_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes of the UTF-8 character at s (n >= 1 bytes left), 0 when there is none: too long,
 * cut, a surrogate or past U+10FFFF. */
size_t tn_plain_size(const char *s, size_t n);

/* Is this character one a terminal would obey (C0, DEL, C1)? `size` as from tn_plain_size. */
bool tn_plain_is_control(const char *s, size_t size);

/* In place: terminates within `cap` bytes and turns controls and stray bytes into '?'. */
void tn_plain_make(char *text, size_t cap);

#endif

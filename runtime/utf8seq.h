/* SPDX-License-Identifier: Apache-2.0 */
/* utf8seq.h - is this UTF-8? One sequence at a time, or a whole text. */
#ifndef TN_UTF8SEQ_H
#define TN_UTF8SEQ_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes of the valid sequence at p (1 to 4), of which `left` bytes exist; 0: none. Overlong
 * forms, surrogates and what lies past U+10FFFF are not valid. */
size_t tn_utf8_size(const char *p, size_t left);
bool tn_is_utf8(const char *text, size_t size);

#endif

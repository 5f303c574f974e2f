/* SPDX-License-Identifier: Apache-2.0 */
/* number.h - numbers as people write them in settings, the same in every locale.
 *
 * Every function takes the whole text or nothing: no blanks, no trailing letters. On false
 * *out is untouched. */
#ifndef TN_NUMBER_H
#define TN_NUMBER_H

#include <stdbool.h>
#include <stdint.h>

/* Decimal, perhaps signed. A suffix multiplies: k m g t by powers of 1000, K M G T by powers
 * of 1024 ("32k" is 32000, "32K" is 32768). A fraction must come out whole ("25.6k"). */
bool tn_number_int(const char *text, int64_t *out);

/* Bytes: as above, never negative, also KB MB GB TB (1000) and KiB MiB GiB TiB (1024), and
 * "B"; a fraction of a byte is cut off. */
bool tn_number_size(const char *text, int64_t *out);

/* Decimal with optional fraction and exponent; finite. */
bool tn_number_float(const char *text, double *out);

/* yes no, on off, true false, 1 0, in any case. */
bool tn_number_bool(const char *text, bool *out);

#endif

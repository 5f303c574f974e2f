/* SPDX-License-Identifier: Apache-2.0 */
/* tinytok.h - a tokenizer of 261 tokens, written to a folder at run time.
 *
 * Byte-level BPE: ids 0 .. 255 are the bytes, then "ab", "abc" and " x" by merges, then two
 * control tokens. So a test can say exactly which bytes come in which token. */
#ifndef TN_TESTS_TINYTOK_H
#define TN_TESTS_TINYTOK_H

#include <stdbool.h>
#include <stddef.h>

#include "tokenizer.h"

#define TINY_AB 256
#define TINY_ABC 257
#define TINY_BLANK_X 258
#define TINY_END 259             /* "<|end|>" */
#define TINY_START 260           /* "<|start|>" */
#define TINY_VOCAB 261u

/* Writes the files, opens them, removes them again. NULL: it could not. */
tn_tok *tiny_open(tn_err *err);

#endif

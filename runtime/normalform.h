/* SPDX-License-Identifier: Apache-2.0 */
/* normalform.h - the four normal forms of Unicode, as of version 9.0.
 *
 * That is the version Hugging Face's library follows: what came later has no decomposition
 * and no combining class here, whatever utf8proc's version knows of it. Text that is in the
 * form already, nearly all of it, is only looked through; every other stretch is worked on
 * alone, in time linear in its length (a million marks on one letter included). */
#ifndef TN_NORMALFORM_H
#define TN_NORMALFORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct tn_normalform {
    bool compat;            /* NFKC, NFKD */
    bool compose;           /* NFC, NFKC */
    uint8_t *unsafe;        /* owned: a bit a code point that may change or change others */
    struct tn_compose *pair; /* owned: what two characters compose to */
    uint32_t pair_mask;
} tn_normalform;

typedef struct tn_normalform_work {
    uint32_t *cp, *spare;   /* owned, [cap] */
    uint8_t *order;         /* owned, [cap]: combining classes */
    size_t n, cap;
} tn_normalform_work;

bool tn_normalform_open(tn_normalform *f, bool compat, bool compose); /* false: memory */
void tn_normalform_close(tn_normalform *f);

/* Length of the start of the text that is in the form and stays so whatever follows. */
size_t tn_normalform_span(const tn_normalform *f, const uint8_t *text, size_t size);
/* A text that begins where span stopped (so with the last safe character before the trouble):
 * the bytes of its first stretch, and in w->cp the w->n characters it becomes. 0 when memory
 * is short. */
size_t tn_normalform_stretch(const tn_normalform *f, const uint8_t *text, size_t size,
                             tn_normalform_work *w);
void tn_normalform_work_close(tn_normalform_work *w);

#endif

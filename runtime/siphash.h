/* SPDX-License-Identifier: Apache-2.0 */
/* siphash.h - SipHash-2-4 with 128 bits of output, over words or over bytes as they come.
 * Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012. */
#ifndef TN_SIPHASH_H
#define TN_SIPHASH_H

#include <stdint.h>

typedef struct tn_sip {
    uint64_t a, b, c, d;
    uint64_t size;               /* bytes put so far */
    uint64_t part;               /* those of them that are no whole word yet */
} tn_sip;

void tn_sip_open(tn_sip *s, const uint64_t secret[2]);
/* One word. Not to be mixed with tn_sip_put. */
void tn_sip_word(tn_sip *s, uint64_t word);
/* Ends a hash of words; `size` tells apart what zeros would fill up. */
void tn_sip_close(tn_sip *s, uint64_t size, uint64_t out[2]);

/* Bytes in any portions: only their sequence counts. */
void tn_sip_put(tn_sip *s, const void *data, uint64_t size);
void tn_sip_done(tn_sip *s, uint64_t out[2]);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* flags_known.h - flag names that other servers taught people to type. */
#ifndef TN_FLAGS_KNOWN_H
#define TN_FLAGS_KNOWN_H

#include <stdint.h>

#define TN_KNOWN_MODEL 1u    /* another name of a [model] key */
#define TN_KNOWN_DEVICE 2u   /* an option of the device plugins */
#define TN_KNOWN_ONLY 3u     /* only the value `key` is offered */
#define TN_KNOWN_REFUSED 4u  /* never offered; `key` says why */
#define TN_KNOWN_IGNORED 5u  /* without effect here; one warning */

#define TN_TAKES_NONE 0u
#define TN_TAKES_ONE 1u
#define TN_TAKES_MANY 2u     /* further words up to the next flag */

typedef struct tn_known {
    const char *name;        /* with dashes */
    const char *brief;       /* "-tp", or NULL */
    uint32_t what;
    uint32_t takes;
    const char *key;
} tn_known;

const tn_known *tn_flags_known(uint32_t *n);

#endif

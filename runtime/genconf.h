/* SPDX-License-Identifier: Apache-2.0 */
/* genconf.h - generation_config.json and its overrides: a model's own sampling defaults. */
#ifndef TN_GENCONF_H
#define TN_GENCONF_H

#include "sampling.h"

#define TN_GENCONF_LIST_MAX 16u /* ids in one eos_token_id */
#define TN_GENCONF_EOS_MAX (3 * TN_GENCONF_LIST_MAX) /* generation_config, override, config */

typedef struct tn_genconf {
    tn_generation defaults;
    int32_t eos[TN_GENCONF_EOS_MAX];
    uint32_t neos;
} tn_genconf;

/* Everything at "not said". */
void tn_genconf_open(tn_genconf *g);
/* Takes over what the object says; `what` names it in errors ("generation_config.json").
 * NULL is an empty object. TN_DATA for a value out of range or an id >= vocab. */
tn_status tn_genconf_read(tn_genconf *g, const tn_json *o, const char *what, uint32_t vocab,
                          tn_err *err);
void tn_genconf_add_eos(tn_genconf *g, int32_t id); /* no effect when known or full */

#endif

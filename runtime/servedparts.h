/* SPDX-License-Identifier: Apache-2.0 */
/* servedparts.h - steps of bringing up that are also taken without going on: for a plan. */
#ifndef TN_SERVEDPARTS_H
#define TN_SERVEDPARTS_H

#include "served.h"

/* How many ranks of this host, this one included, share the memory of its device: all that of the
 * host, and those beyond the last card that of the first cards. */
uint32_t tn_served_sharers(const tn_served *s);
/* What max_model_len asks for, held against what the model was made for. */
tn_status tn_served_context(const tn_served *s, uint32_t *context, tn_err *err);
/* Recipe, forms, limits, program and need of rank s->place.rank for one context length, as the
 * settings say. */
tn_status tn_served_compile(tn_served *s, uint32_t context, uint32_t flags, tn_err *err);
/* The budget for what s->need says; TN_UNAVAILABLE where not even one block fits. */
tn_status tn_served_share_out(tn_served *s, uint32_t context, tn_err *err);
/* Lets go of what tn_served_compile made, also half of it. */
void tn_served_drop(tn_served *s);

#endif

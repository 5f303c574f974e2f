/* SPDX-License-Identifier: Apache-2.0 */
/* recipe_reference.h - runs a fixture's recipe in double precision, operation by operation, as
 * the contract describes them and with no thought of speed. Devices are held against it.
 *
 * LOGITS stops at softcap and padding; SAMPLE does nothing: both are tested elsewhere. Caches
 * are paged by the step's own block numbers, states by its slots. */
#ifndef TN_RECIPE_REFERENCE_H
#define TN_RECIPE_REFERENCE_H

#include "recipe_fixture.h"

typedef struct reference reference;

reference *ref_new(fixture *f, uint32_t rows_max, uint32_t block_tokens, uint32_t nblock,
                   uint32_t nslot);
void ref_free(reference *r);
/* Ids must be given: row_token >= 0. */
void ref_step(reference *r, const tn_step *s);
/* A row of a buffer as the last step left it, [width]. */
const double *ref_row(const reference *r, uint32_t buffer, uint32_t row);
/* S of a slot as the last step left it, [heads, k_dim, v_dim]. */
const double *ref_state(const reference *r, uint32_t state, uint32_t slot);
/* Row `row` of weight `w`, expert `expert` applied to x: for tests of a single multiply. */
double ref_dot(const reference *r, uint32_t w, uint32_t expert, uint64_t row, const double *x);

#endif

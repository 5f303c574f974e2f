/* SPDX-License-Identifier: Apache-2.0 */
/* teamstep.h - a step as bytes, for the other ranks of the team.
 *
 *   | tn_step | rows: token, seq | sequences | blocks | per output: tn_out, tn_sampling,
 *   | history, bias, mask |      every piece begins at a multiple of 8 bytes
 *
 * Both ends are the same program (the handshake sees to it), so structs go as they lie in
 * memory and their pointers are set anew. */
#ifndef TN_TEAMSTEP_H
#define TN_TEAMSTEP_H

#include <tenon/plugin.h>

#include "buf.h"

/* TN_NO_MEMORY when it passes the ceiling of `to`. */
tn_status tn_team_step_put(const tn_step *s, uint32_t vocab, tn_buf *to, tn_err *err);

/* A step that was read; its arrays lie in the bytes it came from and in `memory`. */
typedef struct tn_team_step {
    tn_step step;
    void *memory;                /* owned: outputs and how they are sampled */
    uint64_t size;
} tn_team_step;

/* `data` stays as it is until the step is done. TN_DATA: bytes that are no step. */
tn_status tn_team_step_get(tn_team_step *t, char *data, uint64_t size, uint32_t vocab,
                           tn_err *err);
void tn_team_step_close(tn_team_step *t);

#endif

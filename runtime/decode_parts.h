/* SPDX-License-Identifier: Apache-2.0 */
/* decode_parts.h - the stages of a decoder, for decoder.c, which reads them, and decode.c. */
#ifndef TN_DECODE_PARTS_H
#define TN_DECODE_PARTS_H

#include "decode.h"

enum tn_stage_kind {
    TN_STAGE_JOIN,          /* no decoder: tokens with blanks between */
    TN_STAGE_BYTE_LEVEL, TN_STAGE_BYTE_FALLBACK, TN_STAGE_FUSE, TN_STAGE_STRIP,
    TN_STAGE_REPLACE, TN_STAGE_METASPACE,
    TN_STAGE_SUFFIX         /* BPEDecoder */
};

typedef struct tn_decode_stage {
    enum tn_stage_kind kind;
    tn_pattern pattern;        /* REPLACE */
    char *content;             /* owned: REPLACE: what comes in; SUFFIX: the suffix */
    size_t content_size;
    char mark[4];              /* METASPACE, STRIP: the character */
    uint32_t mark_size;
    uint32_t start, stop;      /* STRIP: how many at each end */
    bool drop_first;           /* METASPACE: the first token loses its mark */
} tn_decode_stage;

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* ckptparts.h - the two halves of opening a checkpoint: its JSON files and its weights.
 *
 * Both know the folder and whether links may leave it; both add to the note. */
#ifndef TN_CKPTPARTS_H
#define TN_CKPTPARTS_H

#include "buf.h"
#include "filemap.h"
#include "safetensors.h"

#define TN_CKPT_NOTE_MAX 4096u

typedef struct tn_ckpt_place {
    const char *dir;    /* borrowed */
    const char *inside; /* the same, or NULL when links may leave the folder */
    bool lax;
    tn_buf note;        /* owned */
} tn_ckpt_place;

void tn_ckpt_remark(tn_ckpt_place *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A mapped JSON file of the folder and its document. doc NULL: the folder has no such file. */
typedef struct tn_ckpt_json {
    tn_filemap map;
    tn_json_doc *doc;
} tn_ckpt_json;

void tn_ckpt_json_close(tn_ckpt_json *j);
/* Absent is TN_OK with doc NULL, unless `need`. The root must be an object. */
tn_status tn_ckpt_json_open(const tn_ckpt_place *p, const char *name, bool need,
                            tn_ckpt_json *out, tn_err *err);

/* quantization_config wherever it stands: config.json, its text_config, quantize_config.json
 * or quant_config.json. `older` receives the extra file, if any. When two speak, they must
 * agree. *quant NULL: nowhere; *file is the name of the one that was taken. */
tn_status tn_ckpt_find_quant(const tn_ckpt_place *p, const tn_json *config, tn_ckpt_json *older,
                             const tn_json **quant, const char **file, tn_err *err);

/* Opens the weights of the folder into `set`. `index`: receives the index file, if any. */
tn_status tn_ckpt_weights(tn_ckpt_place *p, tn_st *set, tn_filemap *index, tn_err *err);

#endif

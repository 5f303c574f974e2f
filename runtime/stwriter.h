/* SPDX-License-Identifier: Apache-2.0 */
/* stwriter.h - writes a model folder: safetensors shards, their index, small files beside.
 *
 * Everything is written under NAME.part and renamed in one go by finish, so that a folder
 * never shows half a model under its final names; close without finish removes the parts. One
 * shard is called model.safetensors, several model-0000i-of-0000n.safetensors with an index.
 *
 * Tensors come in one of two ways. Planned: all shapes are known first (plan), then bytes are
 * put anywhere in any order. Streamed: whole tensors in the order they are made (tensor).
 * Either way a shard holds its tensors sorted by falling alignment and name, or, where that
 * would mean copying a large shard once more, in the order they came; never unaligned. */
#ifndef TN_STWRITER_H
#define TN_STWRITER_H

#include <tenon/plugin.h>

#include <stdbool.h>

#define TN_STW_SHARD_USUAL ((uint64_t)4 << 30)

typedef struct tn_stw tn_stw;

typedef struct tn_stw_entry {
    const char *name;   /* borrowed for the call */
    uint32_t dtype;     /* TN_F32 ... */
    uint32_t ndim;      /* at most 8 */
    uint64_t dim[8];
} tn_stw_entry;

/* The folder must exist, and is this writer's alone from its first file until close. shard_max:
 * bytes of data after which the next shard begins, 0 for the usual 4 GiB; a larger tensor gets
 * a shard of its own. */
tn_status tn_stw_open(const char *dir, uint64_t shard_max, tn_stw **out, tn_err *err);
/* Removes what was not finished. NULL is fine. */
void tn_stw_close(tn_stw *w);

/* Once, instead of streaming. Takes the disk space of all shards where the file system can. */
tn_status tn_stw_plan(tn_stw *w, const tn_stw_entry *entry, uint64_t count, tn_err *err);
/* `size` bytes of entry i of the plan, from its byte `at`. One thread. */
tn_status tn_stw_put(tn_stw *w, uint64_t i, uint64_t at, const void *data, uint64_t size,
                     tn_err *err);

/* A whole tensor, copied to disk before it returns. Any thread. The signature is that of
 * tn_sink.tensor with the writer as ctx. */
tn_status tn_stw_tensor(void *w, const char *name, uint32_t dtype, uint32_t ndim,
                        const uint64_t *dim, const void *data, tn_err *err);
/* A small file beside the shards; names with a slash are refused. Any thread. Files appear in
 * the order they came, after the shards: config.json last marks a whole model. */
tn_status tn_stw_file(void *w, const char *name, const void *data, uint64_t size, tn_err *err);

/* Forces all to disk and gives the files their names. `tidy`: also removes safetensors files
 * and indexes of an earlier model in the folder that would stand beside the new ones. */
tn_status tn_stw_finish(tn_stw *w, bool tidy, tn_err *err);
uint64_t tn_stw_bytes(const tn_stw *w); /* of tensor data taken so far */

#endif

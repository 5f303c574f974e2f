/* SPDX-License-Identifier: Apache-2.0 */
/* checkpoint.h - a model folder: its configs and every tensor of its safetensors files.
 *
 * Files are mapped, never copied. An open checkpoint is read-only; any thread. */
#ifndef TN_CHECKPOINT_H
#define TN_CHECKPOINT_H

#include <tenon/plugin.h>

#include <stdbool.h>

typedef struct tn_ckpt tn_ckpt;

#define TN_CKPT_NO_WEIGHTS 1u   /* configs only (load-format dummy, plan) */
#define TN_CKPT_FOLLOW 2u       /* links may leave the folder (a hub cache consists of such) */
#define TN_CKPT_LAX 4u          /* an index with a wrong total_size is noted, not refused */

/* TN_NOINPUT: no such folder or no config.json; TN_DATA: anything invalid, by name. The files of
 * the tokenizer and of chat templates are only looked at: whether they are files, and where. */
tn_status tn_ckpt_open(const char *dir, uint32_t flags, tn_ckpt **out, tn_err *err);
void tn_ckpt_close(tn_ckpt *c);
/* Lives as long as the checkpoint. A tensor whose type plugin.h has no number for (F4, F6,
 * E8M0, complex) reads with dtype 0 and its bytes. */
const tn_view *tn_ckpt_view(const tn_ckpt *c);
const tn_json *tn_ckpt_generation(const tn_ckpt *c); /* generation_config.json or NULL */
uint64_t tn_ckpt_bytes(const tn_ckpt *c);            /* of all shards */
uint32_t tn_ckpt_shards(const tn_ckpt *c);
/* The i-th shard as it is mapped, borrowed; false past the end. */
bool tn_ckpt_shard(const tn_ckpt *c, uint32_t i, const char **name, const void **data,
                   uint64_t *size);
/* What was decided between contradictory files (single file and index both there, tensors the
 * index does not list, ...), for the log: sentences joined by "; ", NULL when all was plain. */
const char *tn_ckpt_note(const tn_ckpt *c);
/* Tells the kernel that the maps will be read front to back / are no longer needed. */
void tn_ckpt_advise(const tn_ckpt *c, bool soon);
/* Inode, size and mtime of every file are what they were at open, else TN_DATA (a file was
 * replaced while loading). */
tn_status tn_ckpt_unchanged(const tn_ckpt *c, tn_err *err);

/* Any plain tensor of `count` elements as f32 (F32, F16, BF16); TN_DATA for another type or
 * count, TN_NOINPUT when absent. */
tn_status tn_ckpt_floats(const tn_ckpt *c, const char *name, uint64_t count, float *out,
                         tn_err *err);

#endif

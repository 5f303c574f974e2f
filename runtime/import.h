/* SPDX-License-Identifier: Apache-2.0 */
/* import.h - turns one GGUF file into a Hugging Face model folder.
 *
 * Weights are dequantized, tensor by tensor, into safetensors of one plain type; metadata
 * becomes config.json and generation_config.json; the vocabulary becomes tokenizer.json with
 * its companions, the chat template a file of its own. Architectures: llama (mistral and
 * SmolLM come as llama), qwen2, qwen3 and mistral3. What a folder could not say exactly is
 * refused, never approximated in silence. */
#ifndef TN_IMPORT_H
#define TN_IMPORT_H

#include <tenon/plugin.h>

#include <stdbool.h>

typedef struct tn_import_options {
    uint32_t dtype;     /* TN_F16 (0 means it), TN_BF16 or TN_F32 */
    bool overwrite;     /* a folder that holds a model already is replaced, else refused */
    uint64_t shard_max; /* bytes of data a file, 0: 4 GiB */
    /* Called before each piece of work with what is about to be done, and bytes written out
     * of all. Anything but 0 stops the import with TN_CANCELLED. May be NULL. */
    int (*progress)(void *ctx, const char *what, uint64_t done, uint64_t total);
    /* A remark on something that was decided, one sentence. May be NULL. */
    void (*note)(void *ctx, const char *text);
    void *ctx;
} tn_import_options;

/* Makes `dir` when it does not exist (its parent must). Until the last moment the folder has
 * no file under a final name; config.json appears last. options may be NULL. */
tn_status tn_import(const char *gguf, const char *dir, const tn_import_options *options,
                    tn_err *err);

#endif

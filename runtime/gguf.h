/* SPDX-License-Identifier: Apache-2.0 */
/* gguf.h - reads a GGUF file: metadata by key, tensors by name, nothing copied.
 *
 * Versions 2 and 3, little-endian. Every length, count and offset is checked against the file
 * at open, so that later reads cannot leave it. Read-only afterwards; any thread. */
#ifndef TN_GGUF_H
#define TN_GGUF_H

#include "ggml_types.h"

#include <tenon/plugin.h>

#include <stdbool.h>

#define TN_GGUF_U8 0u
#define TN_GGUF_I8 1u
#define TN_GGUF_U16 2u
#define TN_GGUF_I16 3u
#define TN_GGUF_U32 4u
#define TN_GGUF_I32 5u
#define TN_GGUF_F32 6u
#define TN_GGUF_BOOL 7u
#define TN_GGUF_TEXT 8u
#define TN_GGUF_ARRAY 9u
#define TN_GGUF_U64 10u
#define TN_GGUF_I64 11u
#define TN_GGUF_F64 12u

#define TN_GGUF_DIMS 4u

typedef struct tn_gguf tn_gguf;

typedef struct tn_gguf_kv {
    const char *key;     /* terminated */
    uint32_t type;       /* TN_GGUF_* */
    uint32_t item;       /* ARRAY: type of its elements */
    uint64_t count;      /* ARRAY: elements; TEXT: bytes; else 1 */
    const uint8_t *data; /* TEXT: its first byte, ARRAY: its first element; unaligned */
    uint64_t size;       /* bytes from `data` on */
    uint64_t offset;     /* of the value in the file, for messages */
} tn_gguf_kv;

/* Bytes of a text in the map: valid UTF-8 is not promised, and no terminator. */
typedef struct tn_gguf_text {
    const char *text;
    uint64_t size;
} tn_gguf_text;

typedef struct tn_gguf_tensor {
    const char *name;            /* terminated, no NUL inside */
    const tn_ggml_type *type;    /* never NULL */
    uint32_t ndim;
    uint64_t dim[TN_GGUF_DIMS];  /* fastest first, as in the file; 1 past ndim */
    uint64_t rows;               /* product of all but dim[0] */
    uint64_t row_size;           /* bytes a row */
    const uint8_t *data;
    uint64_t data_size;          /* rows * row_size */
    uint64_t offset;             /* of its description in the file, for messages */
} tn_gguf_tensor;

/* TN_NOINPUT: absent; TN_DATA: anything invalid, with the byte offset. */
tn_status tn_gguf_open(const char *path, tn_gguf **out, tn_err *err);
void tn_gguf_close(tn_gguf *g);
const char *tn_gguf_path(const tn_gguf *g); /* for messages: long ones keep their end */
tn_status tn_gguf_unchanged(const tn_gguf *g, tn_err *err);

uint64_t tn_gguf_tensors(const tn_gguf *g);
const tn_gguf_tensor *tn_gguf_tensor_at(const tn_gguf *g, uint64_t i); /* file order */
const tn_gguf_tensor *tn_gguf_tensor_find(const tn_gguf *g, const char *name); /* or NULL */

uint64_t tn_gguf_keys(const tn_gguf *g);
const tn_gguf_kv *tn_gguf_key_at(const tn_gguf *g, uint64_t i);
const tn_gguf_kv *tn_gguf_find(const tn_gguf *g, const char *key); /* or NULL */

/* Typed reads. An absent key gives the fallback; another type or a value out of range is
 * TN_DATA by name. Integers of any width are integers, F32 and F64 are floats. */
tn_status tn_gguf_get_uint(const tn_gguf *g, const char *key, uint64_t fallback,
                           uint64_t greatest, uint64_t *out, tn_err *err);
tn_status tn_gguf_get_float(const tn_gguf *g, const char *key, double fallback, double *out,
                            tn_err *err);
tn_status tn_gguf_get_bool(const tn_gguf *g, const char *key, bool fallback, bool *out,
                           tn_err *err);
/* Absent: out->text is NULL. */
tn_status tn_gguf_get_text(const tn_gguf *g, const char *key, tn_gguf_text *out, tn_err *err);

/* Elements of an ARRAY. The list of texts is malloc'ed, count elements; free() it. */
tn_status tn_gguf_texts(const tn_gguf *g, const tn_gguf_kv *kv, tn_gguf_text **out, tn_err *err);
bool tn_gguf_item_int(const tn_gguf_kv *kv, uint64_t i, int64_t *out);    /* false: no integer */
bool tn_gguf_item_float(const tn_gguf_kv *kv, uint64_t i, double *out);   /* false: no float */

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* ggml_types.h - the tensor types of GGUF files and how their blocks become f32.
 *
 * A row of a tensor is cut into blocks of `block` values that take `size` bytes each. Every
 * published type is known by name and size, so that a file with any of them can be checked
 * and talked about; those with a `read` function can be dequantized. */
#ifndef TN_GGML_TYPES_H
#define TN_GGML_TYPES_H

#include <stddef.h>
#include <stdint.h>

typedef struct tn_ggml_type {
    uint32_t id;    /* as written in the file */
    uint32_t block; /* values a block */
    uint32_t size;  /* bytes a block */
    uint32_t reserved;
    const char *name;
    /* Dequantizes `n` values, a multiple of `block`, from unaligned bytes; NULL: not offered.
     * The arithmetic is that of the reference in single precision, so the bits agree. */
    void (*read)(const uint8_t *src, size_t n, float *out);
} tn_ggml_type;

/* NULL for a number that no published type has. */
const tn_ggml_type *tn_ggml_type_find(uint32_t id);
/* The names of the types that have a `read`, "F32, F16, ...", for messages. */
const char *tn_ggml_types_read(void);

#endif

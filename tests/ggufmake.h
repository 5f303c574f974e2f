/* SPDX-License-Identifier: Apache-2.0 */
/* ggufmake.h - writes GGUF files for tests, right ones and wrong ones.
 *
 * Keys and tensors go into two buffers; the file is put together at the end, so a test may
 * lie about counts, versions and offsets. */
#ifndef TN_GGUFMAKE_H
#define TN_GGUFMAKE_H

#include "buf.h"
#include "gguf.h"
#include "scratchdir.h"

typedef struct ggufmake {
    tn_buf keys, tensors, data;
    uint32_t version;
    uint64_t nkey, ntensor, align;
} ggufmake;

static inline void gm_open(ggufmake *g)
{
    *g = (ggufmake){.version = 3, .align = 32};
    tn_buf_open(&g->keys, 1u << 28);
    tn_buf_open(&g->tensors, 1u << 28);
    tn_buf_open(&g->data, 1u << 28);
}

static inline void gm_close(ggufmake *g)
{
    tn_buf_close(&g->keys);
    tn_buf_close(&g->tensors);
    tn_buf_close(&g->data);
}

static inline void gm_again(ggufmake *g)
{
    gm_close(g);
    gm_open(g);
}

static inline void gm_int(tn_buf *b, uint64_t v, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        tn_buf_putc(b, (char)(v >> (8 * i)));
}

static inline void gm_string(tn_buf *b, const char *text)
{
    gm_int(b, strlen(text), 8);
    tn_buf_puts(b, text);
}

static inline void gm_key(ggufmake *g, const char *key, uint32_t type)
{
    gm_string(&g->keys, key);
    gm_int(&g->keys, type, 4);
    g->nkey++;
}

static inline void gm_scalar(ggufmake *g, const char *key, uint32_t type, uint64_t v,
                             unsigned size)
{
    gm_key(g, key, type);
    gm_int(&g->keys, v, size);
}

static inline void gm_u32(ggufmake *g, const char *key, uint32_t v)
{
    gm_key(g, key, TN_GGUF_U32);
    gm_int(&g->keys, v, 4);
}

static inline void gm_bool(ggufmake *g, const char *key, bool v)
{
    gm_key(g, key, TN_GGUF_BOOL);
    gm_int(&g->keys, v, 1);
}

static inline void gm_f32(ggufmake *g, const char *key, float v)
{
    uint32_t u;
    memcpy(&u, &v, 4);
    gm_key(g, key, TN_GGUF_F32);
    gm_int(&g->keys, u, 4);
}

static inline void gm_text(ggufmake *g, const char *key, const char *v)
{
    gm_key(g, key, TN_GGUF_TEXT);
    gm_string(&g->keys, v);
}

static inline void gm_array(ggufmake *g, const char *key, uint32_t item, uint64_t count)
{
    gm_key(g, key, TN_GGUF_ARRAY);
    gm_int(&g->keys, item, 4);
    gm_int(&g->keys, count, 8);
}

static inline void gm_texts(ggufmake *g, const char *key, const char *const *list, size_t count)
{
    gm_array(g, key, TN_GGUF_TEXT, count);
    for (size_t i = 0; i < count; i++)
        gm_string(&g->keys, list[i]);
}

static inline void gm_i32s(ggufmake *g, const char *key, const int32_t *list, size_t count)
{
    gm_array(g, key, TN_GGUF_I32, count);
    for (size_t i = 0; i < count; i++)
        gm_int(&g->keys, (uint32_t)list[i], 4);
}

static inline void gm_f32s(ggufmake *g, const char *key, const float *list, size_t count)
{
    gm_array(g, key, TN_GGUF_F32, count);
    for (size_t i = 0; i < count; i++) {
        uint32_t u;
        memcpy(&u, &list[i], 4);
        gm_int(&g->keys, u, 4);
    }
}

/* Description only; `offset` in the data. */
static inline void gm_describe(ggufmake *g, const char *name, uint32_t ndim, const uint64_t *dim,
                               uint32_t type, uint64_t offset)
{
    gm_string(&g->tensors, name);
    gm_int(&g->tensors, ndim, 4);
    for (uint32_t i = 0; i < ndim; i++)
        gm_int(&g->tensors, dim[i], 8);
    gm_int(&g->tensors, type, 4);
    gm_int(&g->tensors, offset, 8);
    g->ntensor++;
}

/* cols x rows (fastest first), rows 0: a vector; the bytes follow the others. */
static inline void gm_tensor(ggufmake *g, const char *name, uint64_t cols, uint64_t rows,
                             uint32_t type, const void *data, size_t size)
{
    uint64_t dim[2] = {cols, rows};
    while (g->data.len % g->align != 0)
        tn_buf_putc(&g->data, 0);
    gm_describe(g, name, rows > 0 ? 2 : 1, dim, type, g->data.len);
    tn_buf_put(&g->data, data, size);
}

static inline void gm_write(const ggufmake *g, scratch *s, const char *name)
{
    tn_buf all;
    tn_buf_open(&all, 1u << 30);
    tn_buf_puts(&all, "GGUF");
    gm_int(&all, g->version, 4);
    gm_int(&all, g->ntensor, 8);
    gm_int(&all, g->nkey, 8);
    tn_buf_put(&all, g->keys.data, g->keys.len);
    tn_buf_put(&all, g->tensors.data, g->tensors.len);
    while (all.len % g->align != 0)
        tn_buf_putc(&all, 0);
    tn_buf_put(&all, g->data.data, g->data.len);
    if (all.failed)
        abort();
    scratch_write(s, name, all.data, all.len);
    tn_buf_close(&all);
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* gguf.c - reads a GGUF file: metadata by key, tensors by name, nothing copied.
 *
 *   "GGUF" | u32 version | u64 tensors | u64 keys
 *   keys    x { u64 n, n bytes of key | u32 type | value }
 *   tensors x { u64 n, n bytes of name | u32 ndim | u64 dim[ndim] | u32 type | u64 offset }
 *   padding to general.alignment (32) | data
 *
 * A text is u64 n and n bytes; an array is u32 type, u64 n and n values. Offsets of tensors
 * count from the start of the data and are multiples of the alignment.
 *
 * Each description takes at least 13 (key) or 24 (tensor) bytes of the file, so the counts of
 * the head are held against the file's size before anything is allocated for them. */
#include "gguf.h"

#include "arena.h"
#include "filemap.h"
#include "names.h"
#include "quote.h"

#include <stdlib.h>
#include <string.h>

#define KEYS_MAX (1u << 20)
#define TENSORS_MAX 1000000u
#define KEY_SIZE_MAX 65535u
#define NAME_SIZE_MAX 1024u
#define NEST_MAX 4u
#define ALIGN_USUAL 32u
#define ALIGN_MAX (1u << 20)
#define KEY_LEAST 13u    /* bytes of the smallest key and value */
#define TENSOR_LEAST 24u /* bytes of the smallest description */

struct tn_gguf {
    tn_filemap map;
    tn_arena arena;           /* keys, names and both lists */
    tn_gguf_kv *kv;
    uint64_t nkv;
    tn_gguf_tensor *tensor;
    uint64_t ntensor;
    tn_names keys, names;
};

typedef struct reader {
    tn_gguf *g;
    uint64_t at;
    tn_err *err;
} reader;

static const struct {
    const char *name;
    uint32_t size; /* bytes a value; 0: has its own length */
} kinds[] = {
    [TN_GGUF_U8] = {"uint8", 1},    [TN_GGUF_I8] = {"int8", 1},
    [TN_GGUF_U16] = {"uint16", 2},  [TN_GGUF_I16] = {"int16", 2},
    [TN_GGUF_U32] = {"uint32", 4},  [TN_GGUF_I32] = {"int32", 4},
    [TN_GGUF_F32] = {"float32", 4}, [TN_GGUF_BOOL] = {"bool", 1},
    [TN_GGUF_TEXT] = {"string", 0}, [TN_GGUF_ARRAY] = {"array", 0},
    [TN_GGUF_U64] = {"uint64", 8},  [TN_GGUF_I64] = {"int64", 8},
    [TN_GGUF_F64] = {"float64", 8},
};
#define NKIND (sizeof kinds / sizeof kinds[0])

static tn_status refuse(const reader *r, uint64_t offset, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static tn_status refuse(const reader *r, uint64_t offset, const char *fmt, ...)
{
    char what[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return tn_fail(r->err, TN_DATA, "%s:%llu: %s", tn_gguf_path(r->g),
                   (unsigned long long)offset, what);
}

static tn_status no_memory(const reader *r)
{
    return tn_fail(r->err, TN_NO_MEMORY, "%s: no memory for its %llu keys and %llu tensors",
                   tn_gguf_path(r->g), (unsigned long long)r->g->nkv,
                   (unsigned long long)r->g->ntensor);
}

/* ------------------------------------------------------------------------- plain values */

static uint64_t left(const reader *r)
{
    return r->g->map.size - r->at;
}

static uint64_t bits_at(const uint8_t *p, uint32_t size)
{
    uint64_t v = 0;
    for (uint32_t i = 0; i < size; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static tn_status take(reader *r, uint64_t size, const char *what, const uint8_t **out)
{
    if (size > left(r))
        return refuse(r, r->at, "the file ends inside %s; expected %llu more bytes, found %llu",
                      what, (unsigned long long)size, (unsigned long long)left(r));
    *out = r->g->map.data + r->at;
    r->at += size;
    return TN_OK;
}

static tn_status take_u32(reader *r, const char *what, uint32_t *out)
{
    const uint8_t *p = NULL;
    tn_status st = take(r, 4, what, &p);
    if (st == TN_OK)
        *out = (uint32_t)bits_at(p, 4);
    return st;
}

static tn_status take_u64(reader *r, const char *what, uint64_t *out)
{
    const uint8_t *p = NULL;
    tn_status st = take(r, 8, what, &p);
    if (st == TN_OK)
        *out = bits_at(p, 8);
    return st;
}

/* A key or a tensor's name, copied so that it is terminated. */
static tn_status take_name(reader *r, const char *what, uint64_t size_max, const char **out)
{
    uint64_t offset = r->at, size = 0;
    const uint8_t *p = NULL;
    tn_status st = take_u64(r, what, &size);
    if (st != TN_OK)
        return st;
    if (size == 0 || size > size_max)
        return refuse(r, offset, "%s of %llu bytes; expected 1 to %llu", what,
                      (unsigned long long)size, (unsigned long long)size_max);
    st = take(r, size, what, &p);
    if (st != TN_OK)
        return st;
    if (memchr(p, 0, (size_t)size) != NULL)
        return refuse(r, offset, "%s with a NUL inside; expected text", what);
    *out = tn_arena_text(&r->g->arena, (const char *)p, (size_t)size);
    return *out != NULL ? TN_OK : no_memory(r);
}

/* ------------------------------------------------------------------------------ metadata */

static tn_status skip_value(reader *r, uint32_t type, uint32_t nest);

/* Reads type and count of an array and steps over its elements. Fixed sizes go in one step;
 * texts and inner arrays one by one, each at least 8 bytes of the file. */
static tn_status skip_array(reader *r, uint32_t nest, uint32_t *item, uint64_t *count)
{
    uint64_t offset = r->at;
    const uint8_t *p = NULL;
    tn_status st = take_u32(r, "an array", item);
    if (st == TN_OK)
        st = take_u64(r, "an array", count);
    if (st != TN_OK)
        return st;
    if (*item >= NKIND)
        return refuse(r, offset, "an array of type %u; expected 0 to %zu", *item, NKIND - 1);
    if (*item == TN_GGUF_ARRAY && nest >= NEST_MAX)
        return refuse(r, offset, "arrays nested deeper than %u", NEST_MAX);
    uint32_t size = kinds[*item].size;
    uint64_t least = size > 0 ? size : *item == TN_GGUF_TEXT ? 8 : 12;
    if (*count > left(r) / least)
        return refuse(r, offset, "an array of %llu values of type %s; expected at most the %llu "
                      "bytes that are left", (unsigned long long)*count, kinds[*item].name,
                      (unsigned long long)left(r));
    if (size > 0)
        return take(r, *count * size, "an array", &p);
    for (uint64_t i = 0; i < *count && st == TN_OK; i++)
        st = skip_value(r, *item, nest + 1);
    return st;
}

static tn_status skip_value(reader *r, uint32_t type, uint32_t nest)
{
    const uint8_t *p = NULL;
    uint64_t n = 0;
    uint32_t item = 0;
    if (type == TN_GGUF_ARRAY)
        return skip_array(r, nest, &item, &n);
    if (type != TN_GGUF_TEXT)
        return take(r, kinds[type].size, "a value", &p);
    tn_status st = take_u64(r, "a string", &n);
    return st == TN_OK ? take(r, n, "a string", &p) : st;
}

static tn_status read_kv(reader *r, tn_gguf_kv *kv)
{
    uint32_t type = 0;
    tn_status st = take_name(r, "a key", KEY_SIZE_MAX, &kv->key);
    if (st == TN_OK)
        st = take_u32(r, "a key's type", &type);
    if (st != TN_OK)
        return st;
    tn_quoted q;
    if (type >= NKIND)
        return refuse(r, r->at - 4, "key %s of type %u; expected 0 to %zu",
                      tn_quote_text(&q, kv->key), type, NKIND - 1);
    kv->type = type;
    kv->offset = r->at;
    kv->count = 1;
    uint64_t head = 0;
    if (type == TN_GGUF_ARRAY) {
        head = 12;
        st = skip_array(r, 0, &kv->item, &kv->count);
    } else {
        head = type == TN_GGUF_TEXT ? 8 : 0;
        st = skip_value(r, type, 0);
    }
    if (st != TN_OK)
        return st;
    kv->data = r->g->map.data + kv->offset + head;
    kv->size = r->at - kv->offset - head;
    if (type == TN_GGUF_TEXT)
        kv->count = kv->size;
    return TN_OK;
}

static tn_status read_metadata(reader *r)
{
    tn_gguf *g = r->g;
    tn_quoted q;
    for (uint64_t i = 0; i < g->nkv; i++) {
        uint64_t offset = r->at;
        uint32_t found = TN_NAMES_NONE;
        tn_status st = read_kv(r, &g->kv[i]);
        if (st != TN_OK)
            return st;
        if (!tn_names_add(&g->keys, g->kv[i].key, strlen(g->kv[i].key), (uint32_t)i, &found))
            return no_memory(r);
        if (found != TN_NAMES_NONE)
            return refuse(r, offset, "key %s a second time; expected each key once",
                          tn_quote_text(&q, g->kv[i].key));
    }
    return TN_OK;
}

/* ------------------------------------------------------------------------------- tensors */

static tn_status read_dims(reader *r, tn_gguf_tensor *t)
{
    tn_quoted q;
    tn_status st = take_u32(r, "a tensor's description", &t->ndim);
    if (st != TN_OK)
        return st;
    if (t->ndim == 0 || t->ndim > TN_GGUF_DIMS)
        return refuse(r, r->at - 4, "tensor %s with %u dimensions; expected 1 to %u",
                      tn_quote_text(&q, t->name), t->ndim, TN_GGUF_DIMS);
    uint64_t count = 1;
    t->rows = 1;
    for (uint32_t i = 0; i < TN_GGUF_DIMS; i++) {
        t->dim[i] = 1;
        if (i >= t->ndim)
            continue;
        st = take_u64(r, "a tensor's description", &t->dim[i]);
        if (st != TN_OK)
            return st;
        if (t->dim[i] == 0 || t->dim[i] > INT64_MAX / count)
            return refuse(r, r->at - 8, "tensor %s: dimension %u is %llu; expected 1 or more, "
                          "and a product below 2^63", tn_quote_text(&q, t->name), i,
                          (unsigned long long)t->dim[i]);
        count *= t->dim[i];
        if (i > 0)
            t->rows *= t->dim[i];
    }
    return TN_OK;
}

static tn_status read_type(reader *r, tn_gguf_tensor *t)
{
    uint32_t id = 0;
    tn_quoted q;
    tn_status st = take_u32(r, "a tensor's description", &id);
    if (st != TN_OK)
        return st;
    t->type = tn_ggml_type_find(id);
    if (t->type == NULL)
        return refuse(r, r->at - 4, "tensor %s of type %u; expected a known type such as %s",
                      tn_quote_text(&q, t->name), id, tn_ggml_types_read());
    if (t->dim[0] % t->type->block != 0)
        return refuse(r, r->at - 4, "tensor %s of type %s with rows of %llu values; expected a "
                      "multiple of %u", tn_quote_text(&q, t->name), t->type->name,
                      (unsigned long long)t->dim[0], t->type->block);
    uint64_t blocks = t->dim[0] / t->type->block;
    if (blocks > INT64_MAX / t->type->size || t->rows > INT64_MAX / (blocks * t->type->size))
        return refuse(r, r->at - 4, "tensor %s: a size beyond 2^63 bytes",
                      tn_quote_text(&q, t->name));
    t->row_size = blocks * t->type->size;
    t->data_size = t->rows * t->row_size;
    return TN_OK;
}

static tn_status read_tensor(reader *r, tn_gguf_tensor *t, uint64_t *begin)
{
    t->offset = r->at;
    tn_status st = take_name(r, "a tensor's name", NAME_SIZE_MAX, &t->name);
    if (st == TN_OK)
        st = read_dims(r, t);
    if (st == TN_OK)
        st = read_type(r, t);
    return st == TN_OK ? take_u64(r, "a tensor's description", begin) : st;
}

typedef struct span {
    uint64_t begin, end;
    uint32_t tensor;
} span;

static int by_begin(const void *a, const void *b)
{
    const span *x = a, *y = b;
    return x->begin != y->begin ? (x->begin < y->begin ? -1 : 1) : 0;
}

static tn_status check_overlap(reader *r, span *spans)
{
    const tn_gguf *g = r->g;
    tn_quoted q, p;
    qsort(spans, (size_t)g->ntensor, sizeof *spans, by_begin);
    for (uint64_t i = 1; i < g->ntensor; i++)
        if (spans[i].begin < spans[i - 1].end)
            return refuse(r, g->tensor[spans[i].tensor].offset,
                          "tensor %s overlaps tensor %s; expected each byte to have one owner",
                          tn_quote_text(&q, g->tensor[spans[i].tensor].name),
                          tn_quote_text(&p, g->tensor[spans[i - 1].tensor].name));
    return TN_OK;
}

static tn_status read_alignment(reader *r, uint64_t *align)
{
    tn_status st = tn_gguf_get_uint(r->g, "general.alignment", ALIGN_USUAL, ALIGN_MAX, align,
                                    r->err);
    if (st == TN_OK && (*align == 0 || (*align & (*align - 1)) != 0))
        return refuse(r, tn_gguf_find(r->g, "general.alignment")->offset,
                      "general.alignment is %llu; expected a power of two up to %u",
                      (unsigned long long)*align, ALIGN_MAX);
    return st;
}

static tn_status place_tensors(reader *r, span *spans, uint64_t align)
{
    tn_gguf *g = r->g;
    tn_quoted q;
    uint64_t start = (r->at + align - 1) / align * align;
    uint64_t size = g->map.size > start ? g->map.size - start : 0;
    for (uint64_t i = 0; i < g->ntensor; i++) {
        tn_gguf_tensor *t = &g->tensor[i];
        uint64_t begin = spans[i].begin;
        if (begin % align != 0)
            return refuse(r, t->offset, "tensor %s at data offset %llu; expected a multiple of "
                          "%llu", tn_quote_text(&q, t->name), (unsigned long long)begin,
                          (unsigned long long)align);
        if (begin > size || t->data_size > size - begin)
            return refuse(r, t->offset, "tensor %s takes %llu bytes from data offset %llu; "
                          "expected them inside the %llu bytes of data (a file cut short?)",
                          tn_quote_text(&q, t->name), (unsigned long long)t->data_size,
                          (unsigned long long)begin, (unsigned long long)size);
        t->data = g->map.data + start + begin;
        spans[i].end = begin + t->data_size;
        spans[i].tensor = (uint32_t)i;
    }
    return check_overlap(r, spans);
}

static tn_status read_tensors(reader *r)
{
    tn_gguf *g = r->g;
    tn_quoted q;
    uint64_t align = ALIGN_USUAL;
    tn_status st = read_alignment(r, &align);
    span *spans = calloc((size_t)g->ntensor + 1, sizeof *spans);
    if (st == TN_OK && spans == NULL)
        st = no_memory(r);
    for (uint64_t i = 0; i < g->ntensor && st == TN_OK; i++) {
        tn_gguf_tensor *t = &g->tensor[i];
        uint32_t found = TN_NAMES_NONE;
        st = read_tensor(r, t, &spans[i].begin);
        if (st == TN_OK &&
            !tn_names_add(&g->names, t->name, strlen(t->name), (uint32_t)i, &found))
            st = no_memory(r);
        if (st == TN_OK && found != TN_NAMES_NONE)
            st = refuse(r, t->offset, "tensor %s a second time; expected each name once",
                        tn_quote_text(&q, t->name));
    }
    if (st == TN_OK)
        st = place_tensors(r, spans, align);
    free(spans);
    return st;
}

/* ---------------------------------------------------------------------------------- file */

static tn_status check_version(reader *r, uint32_t version)
{
    if (version == 2 || version == 3)
        return TN_OK;
    if ((version & 0xffffu) == 0)
        return refuse(r, 4, "a big-endian GGUF file; expected a little-endian one");
    if (version == 1)
        return refuse(r, 4, "GGUF version 1; expected 2 or 3 (convert it again)");
    return refuse(r, 4, "GGUF version %u; expected 2 or 3", version);
}

static tn_status read_head(reader *r)
{
    tn_gguf *g = r->g;
    const uint8_t *magic = NULL;
    uint32_t version = 0;
    tn_status st = take(r, 4, "the magic number", &magic);
    if (st != TN_OK)
        return st;
    if (memcmp(magic, "GGUF", 4) != 0) {
        tn_quoted q;
        if (g->map.size > 16 && memcmp(g->map.data, "version https://", 16) == 0)
            return refuse(r, 0, "a Git LFS pointer instead of the file; expected GGUF data (run "
                          "git lfs pull)");
        return refuse(r, 0, "begins with %s; expected \"GGUF\"",
                      tn_quote(&q, (const char *)magic, 4));
    }
    st = take_u32(r, "the version", &version);
    if (st == TN_OK)
        st = check_version(r, version);
    if (st == TN_OK)
        st = take_u64(r, "the head", &g->ntensor);
    if (st == TN_OK)
        st = take_u64(r, "the head", &g->nkv);
    if (st != TN_OK)
        return st;
    if (g->ntensor > TENSORS_MAX || g->ntensor > left(r) / TENSOR_LEAST)
        return refuse(r, 8, "%llu tensors; expected at most %u, and no more than the file holds",
                      (unsigned long long)g->ntensor, TENSORS_MAX);
    if (g->nkv > KEYS_MAX || g->nkv > left(r) / KEY_LEAST)
        return refuse(r, 16, "%llu keys; expected at most %u, and no more than the file holds",
                      (unsigned long long)g->nkv, KEYS_MAX);
    return TN_OK;
}

static tn_status read_file(reader *r)
{
    tn_gguf *g = r->g;
    tn_status st = read_head(r);
    if (st != TN_OK)
        return st;
    g->kv = tn_arena_array(&g->arena, (size_t)g->nkv + 1, sizeof *g->kv);
    g->tensor = tn_arena_array(&g->arena, (size_t)g->ntensor + 1, sizeof *g->tensor);
    if (g->kv == NULL || g->tensor == NULL)
        return no_memory(r);
    st = read_metadata(r);
    return st == TN_OK ? read_tensors(r) : st;
}

tn_status tn_gguf_open(const char *path, tn_gguf **out, tn_err *err)
{
    tn_gguf *g = calloc(1, sizeof *g);
    if (g == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory to open it", tn_path_tail(path));
    tn_status st = tn_filemap_open(&g->map, path, NULL, 0, err);
    if (st != TN_OK) {
        free(g);
        return st;
    }
    tn_arena_open(&g->arena, 0);
    tn_names_open(&g->keys);
    tn_names_open(&g->names);
    reader r = {.g = g, .err = err};
    st = read_file(&r);
    if (st == TN_OK)
        *out = g;
    else
        tn_gguf_close(g);
    return st;
}

void tn_gguf_close(tn_gguf *g)
{
    if (g == NULL)
        return;
    tn_names_close(&g->keys);
    tn_names_close(&g->names);
    tn_arena_close(&g->arena);
    tn_filemap_close(&g->map);
    free(g);
}

const char *tn_gguf_path(const tn_gguf *g)
{
    return tn_path_tail(g->map.path);
}

tn_status tn_gguf_unchanged(const tn_gguf *g, tn_err *err)
{
    return tn_filemap_unchanged(&g->map, err);
}

uint64_t tn_gguf_tensors(const tn_gguf *g)
{
    return g->ntensor;
}

const tn_gguf_tensor *tn_gguf_tensor_at(const tn_gguf *g, uint64_t i)
{
    return i < g->ntensor ? &g->tensor[i] : NULL;
}

const tn_gguf_tensor *tn_gguf_tensor_find(const tn_gguf *g, const char *name)
{
    uint32_t i = tn_names_find(&g->names, name, strlen(name));
    return i != TN_NAMES_NONE ? &g->tensor[i] : NULL;
}

uint64_t tn_gguf_keys(const tn_gguf *g)
{
    return g->nkv;
}

const tn_gguf_kv *tn_gguf_key_at(const tn_gguf *g, uint64_t i)
{
    return i < g->nkv ? &g->kv[i] : NULL;
}

const tn_gguf_kv *tn_gguf_find(const tn_gguf *g, const char *key)
{
    uint32_t i = tn_names_find(&g->keys, key, strlen(key));
    return i != TN_NAMES_NONE ? &g->kv[i] : NULL;
}

/* ----------------------------------------------------------------------------- typed reads */

static bool is_signed(uint32_t type)
{
    return type == TN_GGUF_I8 || type == TN_GGUF_I16 || type == TN_GGUF_I32 ||
           type == TN_GGUF_I64;
}

static bool is_integer(uint32_t type)
{
    return is_signed(type) || type == TN_GGUF_U8 || type == TN_GGUF_U16 || type == TN_GGUF_U32 ||
           type == TN_GGUF_U64;
}

static uint64_t integer_at(const uint8_t *p, uint32_t type)
{
    uint32_t size = kinds[type].size;
    uint64_t v = bits_at(p, size);
    if (is_signed(type) && size < 8 && (v >> (8 * size - 1) & 1) != 0)
        v |= UINT64_MAX << (8 * size);
    return v;
}

static bool float_at(const uint8_t *p, uint32_t type, double *out)
{
    uint64_t v = bits_at(p, kinds[type].size);
    if (type == TN_GGUF_F64) {
        memcpy(out, &v, sizeof v);
        return true;
    }
    if (type != TN_GGUF_F32)
        return false;
    uint32_t u = (uint32_t)v;
    float f;
    memcpy(&f, &u, sizeof f);
    *out = (double)f;
    return true;
}

static tn_status wrong_type(const tn_gguf *g, const tn_gguf_kv *kv, const char *wanted,
                            tn_err *err)
{
    return tn_fail(err, TN_DATA, "%s:%llu: key \"%s\" of type %s; expected %s", tn_gguf_path(g),
                   (unsigned long long)kv->offset, kv->key, kinds[kv->type].name, wanted);
}

tn_status tn_gguf_get_uint(const tn_gguf *g, const char *key, uint64_t fallback,
                           uint64_t greatest, uint64_t *out, tn_err *err)
{
    const tn_gguf_kv *kv = tn_gguf_find(g, key);
    if (kv == NULL) {
        *out = fallback;
        return TN_OK;
    }
    if (!is_integer(kv->type))
        return wrong_type(g, kv, "an integer", err);
    uint64_t v = integer_at(kv->data, kv->type);
    bool negative = is_signed(kv->type) && v > INT64_MAX;
    if (negative || v > greatest)
        return tn_fail(err, TN_DATA, "%s:%llu: key \"%s\" is %s%llu; expected 0 to %llu",
                       tn_gguf_path(g), (unsigned long long)kv->offset, key, negative ? "-" : "",
                       (unsigned long long)(negative ? 0 - v : v), (unsigned long long)greatest);
    *out = v;
    return TN_OK;
}

tn_status tn_gguf_get_float(const tn_gguf *g, const char *key, double fallback, double *out,
                            tn_err *err)
{
    const tn_gguf_kv *kv = tn_gguf_find(g, key);
    if (kv == NULL) {
        *out = fallback;
        return TN_OK;
    }
    return float_at(kv->data, kv->type, out) ? TN_OK : wrong_type(g, kv, "a float", err);
}

tn_status tn_gguf_get_bool(const tn_gguf *g, const char *key, bool fallback, bool *out,
                           tn_err *err)
{
    const tn_gguf_kv *kv = tn_gguf_find(g, key);
    if (kv != NULL && kv->type != TN_GGUF_BOOL)
        return wrong_type(g, kv, "bool", err);
    *out = kv != NULL ? kv->data[0] != 0 : fallback;
    return TN_OK;
}

tn_status tn_gguf_get_text(const tn_gguf *g, const char *key, tn_gguf_text *out, tn_err *err)
{
    const tn_gguf_kv *kv = tn_gguf_find(g, key);
    if (kv != NULL && kv->type != TN_GGUF_TEXT)
        return wrong_type(g, kv, "string", err);
    *out = (tn_gguf_text){.text = kv != NULL ? (const char *)kv->data : NULL,
                          .size = kv != NULL ? kv->size : 0};
    return TN_OK;
}

tn_status tn_gguf_texts(const tn_gguf *g, const tn_gguf_kv *kv, tn_gguf_text **out, tn_err *err)
{
    if (kv->type != TN_GGUF_ARRAY || kv->item != TN_GGUF_TEXT)
        return wrong_type(g, kv, "an array of strings", err);
    tn_gguf_text *list = calloc((size_t)kv->count + 1, sizeof *list);
    if (list == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory for the %llu strings of \"%s\"",
                       tn_gguf_path(g), (unsigned long long)kv->count, kv->key);
    const uint8_t *p = kv->data; /* lengths were checked at open */
    for (uint64_t i = 0; i < kv->count; i++) {
        list[i].size = bits_at(p, 8);
        list[i].text = (const char *)p + 8;
        p += 8 + list[i].size;
    }
    *out = list;
    return TN_OK;
}

bool tn_gguf_item_int(const tn_gguf_kv *kv, uint64_t i, int64_t *out)
{
    if (kv->type != TN_GGUF_ARRAY || i >= kv->count || !is_integer(kv->item))
        return false;
    uint64_t v = integer_at(kv->data + i * kinds[kv->item].size, kv->item);
    if (!is_signed(kv->item) && v > INT64_MAX)
        return false;
    *out = (int64_t)v;
    return true;
}

bool tn_gguf_item_float(const tn_gguf_kv *kv, uint64_t i, double *out)
{
    if (kv->type != TN_GGUF_ARRAY || i >= kv->count)
        return false;
    return float_at(kv->data + i * kinds[kv->item].size, kv->item, out);
}

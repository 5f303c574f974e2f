/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors.c - a set of mapped safetensors files and the tensors in them, by name.
 *
 *   u64 n | n bytes of JSON, blanks behind it allowed | data
 *   {"__metadata__": {text: text, ...},
 *    name: {"dtype": "F16", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
 *
 * Offsets count from the start of the data. The tensors of a file must cover its data without
 * gap or overlap, as the format demands: what is cut off or glued on is noticed here. Data may
 * be unaligned; readers copy. */
#include "safetensors.h"

#include "arena.h"
#include "filemap.h"
#include "jsonscan.h"
#include "names.h"
#include "quote.h"

#include <stdlib.h>
#include <string.h>

#define HEADER_DEPTH 8u /* of values that are stepped over; the format itself needs 3 */

typedef struct dtype_row {
    const char *name;
    uint32_t dtype; /* TN_*, 0: known to the format but not to plugin.h */
    uint32_t bits;
} dtype_row;

static const dtype_row dtypes[] = {
    {"F32", TN_F32, 32},         {"F16", TN_F16, 16},         {"BF16", TN_BF16, 16},
    {"F64", TN_F64, 64},         {"I8", TN_I8, 8},            {"U8", TN_U8, 8},
    {"I16", TN_I16, 16},         {"U16", TN_U16, 16},         {"I32", TN_I32, 32},
    {"U32", TN_U32, 32},         {"I64", TN_I64, 64},         {"U64", TN_U64, 64},
    {"BOOL", TN_BOOL, 8},        {"F8_E4M3", TN_F8_E4M3, 8},  {"F8_E5M2", TN_F8_E5M2, 8},
    {"F8_E8M0", 0, 8},           {"F4", 0, 4},                {"F6_E2M3", 0, 6},
    {"F6_E3M2", 0, 6},           {"C64", 0, 64},
};
#define NDTYPE (sizeof dtypes / sizeof dtypes[0])

typedef struct item {
    const char *name;    /* arena */
    const uint64_t *dim; /* arena */
    uint64_t begin, end; /* in the file's data */
    uint32_t file;
    uint8_t ndim, row;   /* row of dtypes[] */
} item;

typedef struct st_file {
    tn_filemap map;
    char *name;          /* owned */
    const uint8_t *data; /* in the map */
    uint64_t data_size;
} st_file;

struct tn_st {
    st_file *file;       /* owned */
    uint32_t nfile;
    item *item;          /* owned */
    uint32_t count, cap;
    tn_names names;
    tn_arena arena;
    uint64_t bytes;
};

typedef struct reader {
    tn_st *set;
    tn_scan scan;
    uint32_t file;
    uint32_t first; /* the file's first item */
    tn_err *err;
} reader;

const char *tn_st_dtype_name(uint32_t dtype)
{
    for (size_t i = 0; i < NDTYPE; i++)
        if (dtypes[i].dtype == dtype && dtype != 0)
            return dtypes[i].name;
    return NULL;
}

uint32_t tn_st_dtype_bits(uint32_t dtype)
{
    for (size_t i = 0; i < NDTYPE; i++)
        if (dtypes[i].dtype == dtype && dtype != 0)
            return dtypes[i].bits;
    return 0;
}

/* ------------------------------------------------------------------- one tensor's members */

static tn_status read_dtype(reader *r, item *t)
{
    tn_scan_text text;
    tn_quoted q, name;
    tn_status st = tn_scan_string(&r->scan, &text);
    if (st != TN_OK)
        return st;
    for (uint8_t i = 0; i < NDTYPE; i++)
        if (tn_scan_is(&text, dtypes[i].name)) {
            t->row = i;
            return TN_OK;
        }
    return tn_scan_refuse(&r->scan, text.text, "tensor %s: dtype %s; expected a type of the "
                          "format such as F32, F16, BF16, I32, U8 or F8_E4M3",
                          tn_quote_text(&name, t->name), tn_quote(&q, text.text, text.size));
}

static tn_status read_shape(reader *r, item *t)
{
    uint64_t dim[TN_ST_DIMS_MAX];
    uint32_t n = 0;
    bool first = true, more = true;
    tn_quoted q;
    tn_status st = tn_scan_expect(&r->scan, '[');
    while (st == TN_OK) {
        st = tn_scan_more(&r->scan, ']', &first, &more);
        if (st != TN_OK || !more)
            break;
        if (n == TN_ST_DIMS_MAX)
            return tn_scan_refuse(&r->scan, NULL, "tensor %s: more than %u dimensions; expected "
                                  "at most %u", tn_quote_text(&q, t->name), TN_ST_DIMS_MAX,
                                  TN_ST_DIMS_MAX);
        st = tn_scan_uint(&r->scan, &dim[n++]);
    }
    if (st != TN_OK)
        return st;
    uint64_t *copy = tn_arena_array(&r->set->arena, n + (size_t)1, sizeof *copy);
    if (copy == NULL)
        return tn_fail(r->err, TN_NO_MEMORY, "%s: no memory for its tensors", r->scan.what);
    memcpy(copy, dim, n * sizeof *dim);
    t->dim = copy;
    t->ndim = (uint8_t)n;
    return TN_OK;
}

static tn_status read_offsets(reader *r, item *t)
{
    tn_quoted q;
    const char *from = r->scan.at;
    tn_status st = tn_scan_expect(&r->scan, '[');
    if (st == TN_OK)
        st = tn_scan_uint(&r->scan, &t->begin);
    if (st == TN_OK)
        st = tn_scan_expect(&r->scan, ',');
    if (st == TN_OK)
        st = tn_scan_uint(&r->scan, &t->end);
    if (st == TN_OK)
        st = tn_scan_expect(&r->scan, ']');
    if (st == TN_OK && t->begin > t->end)
        return tn_scan_refuse(&r->scan, from, "tensor %s: data_offsets [%llu, %llu]; expected "
                              "the begin not behind the end", tn_quote_text(&q, t->name),
                              (unsigned long long)t->begin, (unsigned long long)t->end);
    return st;
}

/* The span must be as long as shape and type say. */
static tn_status check_span(reader *r, const char *from, const item *t)
{
    tn_quoted q;
    const dtype_row *d = &dtypes[t->row];
    uint64_t count = 1;
    for (uint32_t i = 0; i < t->ndim; i++) {
        if (t->dim[i] > 0 && count > INT64_MAX / t->dim[i])
            return tn_scan_refuse(&r->scan, from, "tensor %s: the product of its shape is beyond "
                                  "2^63", tn_quote_text(&q, t->name));
        count *= t->dim[i];
    }
    if (count > INT64_MAX / d->bits)
        return tn_scan_refuse(&r->scan, from, "tensor %s: shape times dtype is beyond 2^63 bits",
                              tn_quote_text(&q, t->name));
    if (count * d->bits % 8 != 0)
        return tn_scan_refuse(&r->scan, from, "tensor %s: %llu values of type %s end inside a "
                              "byte; expected whole bytes", tn_quote_text(&q, t->name),
                              (unsigned long long)count, d->name);
    if (t->end - t->begin != count * d->bits / 8)
        return tn_scan_refuse(&r->scan, from, "tensor %s: data_offsets span %llu bytes; expected "
                              "%llu by its shape and dtype %s", tn_quote_text(&q, t->name),
                              (unsigned long long)(t->end - t->begin),
                              (unsigned long long)(count * d->bits / 8), d->name);
    return TN_OK;
}

static tn_status read_member(reader *r, item *t, uint32_t *seen)
{
    static const struct {
        const char *key;
        tn_status (*read)(reader *r, item *t);
    } members[] = {{"dtype", read_dtype}, {"shape", read_shape}, {"data_offsets", read_offsets}};
    tn_scan_text key;
    tn_quoted q;
    tn_status st = tn_scan_key(&r->scan, &key);
    if (st != TN_OK)
        return st;
    for (uint32_t i = 0; i < 3; i++) {
        if (!tn_scan_is(&key, members[i].key))
            continue;
        if ((*seen >> i & 1) != 0)
            return tn_scan_refuse(&r->scan, key.text, "tensor %s: \"%s\" a second time",
                                  tn_quote_text(&q, t->name), members[i].key);
        *seen |= 1u << i;
        return members[i].read(r, t);
    }
    return tn_scan_skip(&r->scan); /* members that later versions of the format may add */
}

static tn_status read_tensor(reader *r, const char *from, item *t)
{
    bool first = true, more = true;
    uint32_t seen = 0;
    tn_quoted q;
    tn_status st = tn_scan_expect(&r->scan, '{');
    while (st == TN_OK) {
        st = tn_scan_more(&r->scan, '}', &first, &more);
        if (st != TN_OK || !more)
            break;
        st = read_member(r, t, &seen);
    }
    if (st != TN_OK)
        return st;
    if (seen != 7)
        return tn_scan_refuse(&r->scan, from, "tensor %s: no \"%s\"; expected dtype, shape and "
                              "data_offsets", tn_quote_text(&q, t->name),
                              (seen & 1) == 0 ? "dtype" : (seen & 2) == 0 ? "shape"
                                                                          : "data_offsets");
    return check_span(r, from, t);
}

/* -------------------------------------------------------------------------------- header */

static tn_status read_metadata(reader *r)
{
    bool first = true, more = true;
    tn_scan_text text;
    tn_status st = tn_scan_expect(&r->scan, '{');
    while (st == TN_OK) {
        st = tn_scan_more(&r->scan, '}', &first, &more);
        if (st != TN_OK || !more)
            break;
        st = tn_scan_key(&r->scan, &text);
        if (st == TN_OK && tn_scan_peek(&r->scan) != '"')
            return tn_scan_refuse(&r->scan, NULL, "a value of \"__metadata__\"; expected a string");
        if (st == TN_OK)
            st = tn_scan_string(&r->scan, &text);
    }
    return st;
}

static tn_status push_item(reader *r, const item *t)
{
    tn_st *s = r->set;
    if (s->count == s->cap) {
        uint32_t cap = s->cap > 0 ? s->cap * 2 : 256;
        item *list = realloc(s->item, cap * sizeof *list);
        if (list == NULL)
            return tn_fail(r->err, TN_NO_MEMORY, "%s: no memory for its tensors", r->scan.what);
        s->item = list;
        s->cap = cap;
    }
    s->item[s->count++] = *t;
    return TN_OK;
}

/* A name belongs to one tensor of the whole set. */
static tn_status claim_name(reader *r, const char *from, const char *name, size_t size)
{
    tn_st *s = r->set;
    uint32_t found = TN_NAMES_NONE;
    tn_quoted q;
    if (size == 0 || size > TN_ST_NAME_MAX)
        return tn_scan_refuse(&r->scan, from, "a tensor name of %zu bytes; expected 1 to %u", size,
                              TN_ST_NAME_MAX);
    if (s->count >= TN_ST_TENSORS_MAX)
        return tn_scan_refuse(&r->scan, from, "more than %u tensors; expected at most %u",
                              TN_ST_TENSORS_MAX, TN_ST_TENSORS_MAX);
    if (!tn_names_add(&s->names, name, size, s->count, &found))
        return tn_fail(r->err, TN_NO_MEMORY, "%s: no memory for its tensors", r->scan.what);
    if (found == TN_NAMES_NONE)
        return TN_OK;
    if (found >= r->first)
        return tn_scan_refuse(&r->scan, from, "tensor %s a second time; expected each name once",
                              tn_quote(&q, name, size));
    return tn_scan_refuse(&r->scan, from, "tensor %s, which is in %s too; expected each tensor "
                          "in one file", tn_quote(&q, name, size),
                          tn_path_tail(s->file[s->item[found].file].name));
}

static tn_status read_entry(reader *r, bool *metadata)
{
    tn_scan_text key;
    size_t size = 0;
    item t = {.file = r->file};
    tn_status st = tn_scan_key(&r->scan, &key);
    if (st == TN_OK && key.size > 6 * TN_ST_NAME_MAX) /* even if it were all escapes */
        return tn_scan_refuse(&r->scan, key.text, "a tensor name of %zu bytes; expected 1 to %u",
                              key.size, TN_ST_NAME_MAX);
    if (st == TN_OK)
        st = tn_scan_copy(&r->scan, &key, &r->set->arena, &t.name, &size);
    if (st != TN_OK)
        return st;
    if (strcmp(t.name, "__metadata__") == 0) {
        if (*metadata)
            return tn_scan_refuse(&r->scan, key.text, "\"__metadata__\" a second time");
        *metadata = true;
        return read_metadata(r);
    }
    st = claim_name(r, key.text, t.name, size);
    if (st == TN_OK)
        st = read_tensor(r, key.text, &t);
    return st == TN_OK ? push_item(r, &t) : st;
}

static tn_status read_header(reader *r)
{
    bool first = true, more = true, metadata = false;
    if (r->scan.at >= r->scan.end || *r->scan.at != '{')
        return tn_scan_refuse(&r->scan, NULL, "the header does not begin with '{'");
    r->scan.at++;
    for (;;) {
        tn_status st = tn_scan_more(&r->scan, '}', &first, &more);
        if (st != TN_OK)
            return st;
        if (!more)
            return tn_scan_end(&r->scan);
        st = read_entry(r, &metadata);
        if (st != TN_OK)
            return st;
    }
}

/* ---------------------------------------------------------------------------------- data */

typedef struct span {
    uint64_t begin, end;
    uint32_t item;
} span;

static int by_begin(const void *a, const void *b)
{
    const span *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end != y->end ? (x->end < y->end ? -1 : 1) : 0;
}

static tn_status check_cover(const reader *r, const st_file *f, const span *spans, uint32_t n)
{
    const tn_st *s = r->set;
    uint64_t at = 0;
    tn_quoted q, p;
    for (uint32_t i = 0; i < n; i++) {
        const char *name = tn_quote_text(&q, s->item[spans[i].item].name);
        if (spans[i].begin < at)
            return tn_fail(r->err, TN_DATA, "%s: tensor %s overlaps tensor %s at byte %llu of the "
                           "data; expected each byte to have one owner", r->scan.what, name,
                           tn_quote_text(&p, s->item[spans[i - 1].item].name),
                           (unsigned long long)spans[i].begin);
        if (spans[i].begin > at)
            return tn_fail(r->err, TN_DATA, "%s: %llu bytes before tensor %s have no owner; "
                           "expected the tensors to cover the data", r->scan.what,
                           (unsigned long long)(spans[i].begin - at), name);
        if (spans[i].end > f->data_size)
            return tn_fail(r->err, TN_DATA, "%s: cut short: tensor %s ends at byte %llu of the "
                           "file, which has %llu", r->scan.what, name,
                           (unsigned long long)(f->map.size - f->data_size + spans[i].end),
                           (unsigned long long)f->map.size);
        at = spans[i].end;
    }
    if (at != f->data_size)
        return tn_fail(r->err, TN_DATA, "%s: %llu bytes of data, of which the tensors own %llu; "
                       "expected them to cover it", r->scan.what,
                       (unsigned long long)f->data_size, (unsigned long long)at);
    return TN_OK;
}

static tn_status check_data(reader *r, st_file *f)
{
    tn_st *s = r->set;
    uint32_t n = s->count - r->first;
    span *spans = malloc((n + (size_t)1) * sizeof *spans);
    if (spans == NULL)
        return tn_fail(r->err, TN_NO_MEMORY, "%s: no memory for its tensors", r->scan.what);
    bool sorted = true;
    for (uint32_t i = 0; i < n; i++) {
        const item *t = &s->item[r->first + i];
        spans[i] = (span){t->begin, t->end, r->first + i};
        sorted = sorted && (i == 0 || by_begin(&spans[i - 1], &spans[i]) <= 0);
    }
    if (!sorted)
        qsort(spans, n, sizeof *spans, by_begin);
    tn_status st = check_cover(r, f, spans, n);
    free(spans);
    return st;
}

/* Finds the header and says what the file is when it is no safetensors file. */
static tn_status find_header(const st_file *f, const char *what, uint64_t *size, tn_err *err)
{
    const uint8_t *p = f->map.data;
    uint64_t n = 0;
    if (tn_filemap_is_pointer(&f->map))
        return tn_fail(err, TN_DATA, "%s:0: a Git LFS pointer instead of the weights; expected "
                       "safetensors data (run git lfs pull)", what);
    if (f->map.size < 10)
        return tn_fail(err, TN_DATA, "%s:0: %llu bytes; expected a safetensors file, at least 10",
                       what, (unsigned long long)f->map.size);
    for (int i = 0; i < 8; i++)
        n |= (uint64_t)p[i] << (8 * i);
    if (n < 2 || n > TN_ST_HEADER_MAX)
        return tn_fail(err, TN_DATA, "%s:0: a header of %llu bytes; expected 2 to %u", what,
                       (unsigned long long)n, TN_ST_HEADER_MAX);
    if (n > f->map.size - 8)
        return tn_fail(err, TN_DATA, "%s:0: a header of %llu bytes in a file of %llu; expected "
                       "the file to hold it (cut short?)", what, (unsigned long long)n,
                       (unsigned long long)f->map.size);
    *size = n;
    return TN_OK;
}

static tn_status read_file(tn_st *s, uint32_t index, tn_err *err)
{
    st_file *f = &s->file[index];
    uint64_t n = 0;
    const char *what = tn_path_tail(f->map.path);
    tn_status st = find_header(f, what, &n, err);
    if (st != TN_OK)
        return st;
    const char *text = (const char *)f->map.data + 8;
    f->data = f->map.data + 8 + n;
    f->data_size = f->map.size - 8 - n;
    reader r = {.set = s, .file = index, .first = s->count, .err = err,
                .scan = {.begin = text, .at = text, .end = text + n, .what = what, .base = 8,
                         .depth_max = HEADER_DEPTH, .err = err}};
    st = read_header(&r);
    if (st == TN_OK)
        st = check_data(&r, f);
    if (st == TN_OK)
        s->bytes += f->data_size;
    return st;
}

/* ----------------------------------------------------------------------------- interface */

tn_status tn_st_open(tn_st **out, tn_err *err)
{
    tn_st *s = calloc(1, sizeof *s);
    if (s == NULL)
        return tn_fail(err, TN_NO_MEMORY, "no memory to open a model");
    tn_arena_open(&s->arena, 0);
    tn_names_open(&s->names);
    *out = s;
    return TN_OK;
}

void tn_st_close(tn_st *s)
{
    if (s == NULL)
        return;
    for (uint32_t i = 0; i < s->nfile; i++) {
        tn_filemap_close(&s->file[i].map);
        free(s->file[i].name);
    }
    free(s->file);
    free(s->item);
    tn_names_close(&s->names);
    tn_arena_close(&s->arena);
    free(s);
}

tn_status tn_st_add(tn_st *s, const char *dir, const char *name, const char *inside, tn_err *err)
{
    size_t a = strlen(dir), b = strlen(name);
    st_file *list = realloc(s->file, (s->nfile + (size_t)1) * sizeof *list);
    if (list != NULL)
        s->file = list;
    char *path = malloc(a + b + 2);
    st_file f = {.name = strdup(name)};
    tn_status st = TN_OK;
    if (list == NULL || path == NULL || f.name == NULL) {
        st = tn_fail(err, TN_NO_MEMORY, "%s: no memory to open it", tn_path_tail(name));
        goto done;
    }
    memcpy(path, dir, a);
    path[a] = '/';
    memcpy(path + a + 1, name, b + 1);
    st = tn_filemap_open(&f.map, path, inside, 0, err);
    if (st != TN_OK)
        goto done;
    s->file[s->nfile++] = f;
    f.name = NULL;
    st = read_file(s, s->nfile - 1, err);
done:
    free(f.name);
    free(path);
    return st;
}

uint32_t tn_st_files(const tn_st *s)
{
    return s->nfile;
}

const char *tn_st_file(const tn_st *s, uint32_t i)
{
    return i < s->nfile ? s->file[i].name : NULL;
}

uint64_t tn_st_file_size(const tn_st *s, uint32_t i)
{
    return i < s->nfile ? s->file[i].map.size : 0;
}

const void *tn_st_file_data(const tn_st *s, uint32_t i)
{
    return i < s->nfile ? s->file[i].map.data : NULL;
}

uint64_t tn_st_count(const tn_st *s)
{
    return s->count;
}

uint64_t tn_st_data_bytes(const tn_st *s)
{
    return s->bytes;
}

bool tn_st_at(const tn_st *s, uint64_t i, const char **name, tn_tensor *out)
{
    if (i >= s->count)
        return false;
    const item *t = &s->item[i];
    const st_file *f = &s->file[t->file];
    if (name != NULL)
        *name = t->name;
    *out = (tn_tensor){.dtype = dtypes[t->row].dtype, .ndim = t->ndim, .data = f->data + t->begin,
                       .data_size = t->end - t->begin, .file = f->name};
    memcpy(out->dim, t->dim, t->ndim * sizeof *t->dim);
    return true;
}

uint32_t tn_st_find(const tn_st *s, const char *name)
{
    return tn_names_find(&s->names, name, strlen(name));
}

uint32_t tn_st_file_of(const tn_st *s, uint64_t i)
{
    return i < s->count ? s->item[i].file : TN_NONE;
}

tn_status tn_st_unchanged(const tn_st *s, tn_err *err)
{
    tn_status st = TN_OK;
    for (uint32_t i = 0; i < s->nfile && st == TN_OK; i++)
        st = tn_filemap_unchanged(&s->file[i].map, err);
    return st;
}

void tn_st_advise(const tn_st *s, bool soon)
{
    for (uint32_t i = 0; i < s->nfile; i++)
        tn_filemap_advise(&s->file[i].map, soon);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* ckptfiles.c - which files of a model folder hold the weights.
 *
 * In this order: an index (model.safetensors.index.json, else the only *.safetensors.index.json)
 * names its shards; model.safetensors; a whole set NAME-00001-of-0000n.safetensors; the only
 * *.safetensors. An index wins over everything beside it, and the note says so. */
#include "ckptparts.h"

#include "arena.h"
#include "jsonscan.h"
#include "names.h"
#include "quote.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FILES_MAX 4096u                       /* shards of a model */
#define INDEX_SIZE_MAX ((uint64_t)512 << 20)
#define INDEX_DEPTH 16u
#define LISTED_MAX 65536u                     /* names looked at in a folder */

static const char single_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";

void tn_ckpt_remark(tn_ckpt_place *p, const char *fmt, ...)
{
    va_list ap;
    if (p->note.len > 0)
        tn_buf_puts(&p->note, "; ");
    va_start(ap, fmt);
    tn_buf_vprintf(&p->note, fmt, ap);
    va_end(ap);
}

/* -------------------------------------------------------------------------------- folder */

typedef struct listing {
    char **name;   /* owned, names that hold weights or an index, sorted */
    uint32_t count, cap;
    char other[64]; /* a file with weights in another format, if one was met */
} listing;

static bool ends_with(const char *name, const char *tail)
{
    size_t a = strlen(name), b = strlen(tail);
    return a > b && strcmp(name + a - b, tail) == 0;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void listing_close(listing *l)
{
    for (uint32_t i = 0; i < l->count; i++)
        free(l->name[i]);
    free(l->name);
    *l = (listing){0};
}

static bool listing_push(listing *l, const char *name)
{
    if (l->count == l->cap) {
        uint32_t cap = l->cap > 0 ? l->cap * 2 : 32;
        char **list = realloc(l->name, cap * sizeof *list);
        if (list == NULL)
            return false;
        l->name = list;
        l->cap = cap;
    }
    l->name[l->count] = strdup(name);
    return l->name[l->count] != NULL && ++l->count > 0;
}

static tn_status list_folder(const tn_ckpt_place *p, listing *l, tn_err *err)
{
    tn_status st = TN_OK;
    uint32_t seen = 0;
    DIR *d = opendir(p->dir);
    if (d == NULL)
        return tn_fail(err, errno == EACCES ? TN_NOPERM : TN_NOINPUT, "%s: cannot be listed; "
                       "expected a model folder", tn_path_tail(p->dir));
    for (struct dirent *f = readdir(d); f != NULL && st == TN_OK; f = readdir(d)) {
        if (++seen > LISTED_MAX)
            st = tn_fail(err, TN_DATA, "%s: more than %u files; expected a model folder",
                         tn_path_tail(p->dir), LISTED_MAX);
        else if (f->d_name[0] != '.' && (ends_with(f->d_name, ".safetensors") ||
                                         ends_with(f->d_name, ".safetensors.index.json")) &&
                 !listing_push(l, f->d_name))
            st = tn_fail(err, TN_NO_MEMORY, "%s: no memory to list it", tn_path_tail(p->dir));
        else if (ends_with(f->d_name, ".bin") || ends_with(f->d_name, ".gguf") ||
                 ends_with(f->d_name, ".pt") || ends_with(f->d_name, ".pth"))
            snprintf(l->other, sizeof l->other, "%.*s", (int)sizeof l->other - 1, f->d_name);
    }
    closedir(d);
    if (st == TN_OK && l->count > 1)
        qsort(l->name, l->count, sizeof *l->name, by_text);
    return st;
}

static bool listed(const listing *l, const char *name)
{
    return l->count > 0 &&
           bsearch(&name, l->name, l->count, sizeof *l->name, by_text) != NULL;
}

/* --------------------------------------------------------------------------------- index */

typedef struct index_entry {
    const char *name; /* arena */
    uint32_t file;
} index_entry;

typedef struct weight_index {
    tn_scan scan;
    tn_arena arena;
    tn_names names, files;
    index_entry *entry;  /* owned */
    uint32_t count, cap;
    const char **file;   /* owned list of arena texts */
    uint32_t nfile, file_cap;
    bool has_total, has_map;
    uint64_t total;
    const char *total_at;    /* in the map, as is its value */
    const char *total_text;
    int total_size;
    tn_err *err;
} weight_index;

static tn_status no_memory(const weight_index *x)
{
    return tn_fail(x->err, TN_NO_MEMORY, "%s: no memory for its names", x->scan.what);
}

/* A shard is named by a path that stays in the folder: relative, without ".." on the way. */
static bool stays_inside(const char *path)
{
    if (path[0] == '/' || path[0] == 0)
        return false;
    for (const char *at = path; *at != 0;) {
        size_t n = strcspn(at, "/");
        if (n == 0 || (n == 1 && at[0] == '.') || (n == 2 && at[0] == '.' && at[1] == '.'))
            return false;
        at += n;
        if (*at == '/' && *++at == 0)
            return false;
    }
    return true;
}

static tn_status intern_file(weight_index *x, const tn_scan_text *text, uint32_t *out)
{
    size_t size = 0;
    const char *name = NULL;
    tn_quoted q;
    if (text->raw) {
        *out = tn_names_find(&x->files, text->text, text->size);
        if (*out != TN_NAMES_NONE)
            return TN_OK;
    }
    if (text->size > 255)
        return tn_scan_refuse(&x->scan, text->text, "a file name of %zu bytes; expected at most "
                              "255", text->size);
    tn_status st = tn_scan_copy(&x->scan, text, &x->arena, &name, &size);
    if (st != TN_OK)
        return st;
    if (!stays_inside(name))
        return tn_scan_refuse(&x->scan, text->text, "file %s leaves the folder of the model; "
                              "expected a name inside it", tn_quote(&q, name, size));
    if (!tn_names_add(&x->files, name, size, x->nfile, out))
        return no_memory(x);
    if (*out != TN_NAMES_NONE)
        return TN_OK;
    if (x->nfile == FILES_MAX)
        return tn_scan_refuse(&x->scan, text->text, "more than %u files; expected at most %u",
                              FILES_MAX, FILES_MAX);
    if (x->nfile == x->file_cap) {
        uint32_t cap = x->file_cap > 0 ? x->file_cap * 2 : 64;
        const char **list = realloc(x->file, cap * sizeof *list);
        if (list == NULL)
            return no_memory(x);
        x->file = list;
        x->file_cap = cap;
    }
    *out = x->nfile;
    x->file[x->nfile++] = name;
    return TN_OK;
}

static tn_status push_entry(weight_index *x, const char *name, uint32_t file)
{
    if (x->count == x->cap) {
        uint32_t cap = x->cap > 0 ? x->cap * 2 : 256;
        index_entry *list = realloc(x->entry, cap * sizeof *list);
        if (list == NULL)
            return no_memory(x);
        x->entry = list;
        x->cap = cap;
    }
    x->entry[x->count++] = (index_entry){.name = name, .file = file};
    return TN_OK;
}

static tn_status read_pair(weight_index *x)
{
    tn_scan_text key, value;
    const char *name = NULL;
    size_t size = 0;
    uint32_t file = 0, found = TN_NAMES_NONE;
    tn_quoted q;
    tn_status st = tn_scan_key(&x->scan, &key);
    if (st == TN_OK)
        st = tn_scan_string(&x->scan, &value);
    if (st == TN_OK)
        st = tn_scan_copy(&x->scan, &key, &x->arena, &name, &size);
    if (st != TN_OK)
        return st;
    if (size == 0 || size > TN_ST_NAME_MAX || x->count >= TN_ST_TENSORS_MAX)
        return tn_scan_refuse(&x->scan, key.text, "a tensor name of %zu bytes at place %u; "
                              "expected 1 to %u bytes and at most %u names", size, x->count,
                              TN_ST_NAME_MAX, TN_ST_TENSORS_MAX);
    if (!tn_names_add(&x->names, name, size, x->count, &found))
        return no_memory(x);
    if (found != TN_NAMES_NONE)
        return tn_scan_refuse(&x->scan, key.text, "tensor %s a second time; expected each name "
                              "once", tn_quote(&q, name, size));
    st = intern_file(x, &value, &file);
    return st == TN_OK ? push_entry(x, name, file) : st;
}

/* total_size is informational and its writers have made floats of it; only an integer is
 * looked at. One that no set of files can have (negative, beyond 2^63) counts as 2^64 - 1. */
static tn_status read_total(weight_index *x, const char *at)
{
    tn_scan before = x->scan;
    (void)tn_scan_peek(&x->scan);
    const char *from = x->scan.at;
    x->scan.err = NULL;
    tn_status st = tn_scan_uint(&x->scan, &x->total);
    x->scan.err = before.err;
    if (st != TN_OK) {
        x->scan = before;
        st = tn_scan_skip(&x->scan);
        x->total = UINT64_MAX;
    }
    size_t n = st == TN_OK ? (size_t)(x->scan.at - from) : 0;
    size_t digits = n > 0 && *from == '-' ? 1 : 0;
    while (digits < n && from[digits] >= '0' && from[digits] <= '9')
        digits++;
    x->has_total = n > 0 && digits == n;
    x->total_at = at;
    x->total_text = from;
    x->total_size = n < 24 ? (int)n : 24;
    return st;
}

static tn_status read_metadata(weight_index *x)
{
    bool first = true, more = true;
    tn_scan_text key;
    tn_status st = tn_scan_expect(&x->scan, '{');
    while (st == TN_OK) {
        st = tn_scan_more(&x->scan, '}', &first, &more);
        if (st != TN_OK || !more)
            break;
        st = tn_scan_key(&x->scan, &key);
        if (st == TN_OK)
            st = tn_scan_is(&key, "total_size") ? read_total(x, key.text) : tn_scan_skip(&x->scan);
    }
    return st;
}

static tn_status read_map(weight_index *x)
{
    bool first = true, more = true;
    tn_status st = tn_scan_expect(&x->scan, '{');
    while (st == TN_OK) {
        st = tn_scan_more(&x->scan, '}', &first, &more);
        if (st != TN_OK || !more)
            break;
        st = read_pair(x);
    }
    return st;
}

static tn_status read_index(weight_index *x)
{
    bool first = true, more = true;
    tn_scan_text key;
    tn_status st = tn_scan_expect(&x->scan, '{');
    while (st == TN_OK) {
        st = tn_scan_more(&x->scan, '}', &first, &more);
        if (st != TN_OK || !more)
            break;
        st = tn_scan_key(&x->scan, &key);
        if (st != TN_OK)
            return st;
        if (tn_scan_is(&key, "weight_map")) {
            if (x->has_map)
                return tn_scan_refuse(&x->scan, key.text, "\"weight_map\" a second time");
            x->has_map = true;
            st = read_map(x);
        } else if (tn_scan_is(&key, "metadata") && tn_scan_peek(&x->scan) == '{') {
            st = read_metadata(x);
        } else {
            st = tn_scan_skip(&x->scan);
        }
    }
    if (st == TN_OK)
        st = tn_scan_end(&x->scan);
    if (st == TN_OK && x->count == 0)
        return tn_scan_refuse(&x->scan, x->scan.begin, "no \"weight_map\", or an empty one; "
                              "expected a file for each tensor");
    return st;
}

/* Every entry must be where the index says; tensors it does not list are counted. */
static tn_status check_entries(const weight_index *x, tn_ckpt_place *p, const tn_st *set)
{
    tn_quoted q;
    for (uint32_t i = 0; i < x->count; i++) {
        const index_entry *e = &x->entry[i];
        uint32_t at = tn_st_find(set, e->name);
        if (at == TN_NONE)
            return tn_fail(x->err, TN_DATA, "%s: tensor %s; expected it in %s, which lacks it",
                           x->scan.what, tn_quote_text(&q, e->name), x->file[e->file]);
        if (tn_st_file_of(set, at) != e->file)
            return tn_fail(x->err, TN_DATA, "%s: tensor %s is said to be in %s; found in %s",
                           x->scan.what, tn_quote_text(&q, e->name), x->file[e->file],
                           tn_st_file(set, tn_st_file_of(set, at)));
    }
    if (tn_st_count(set) > x->count)
        tn_ckpt_remark(p, "%llu tensors of the shards are not listed in the index",
                       (unsigned long long)(tn_st_count(set) - x->count));
    return TN_OK;
}

/* Some writers add up the tensors, some the files. */
static tn_status check_total(const weight_index *x, tn_ckpt_place *p, const tn_st *set)
{
    uint64_t listed_bytes = 0, files = 0;
    tn_tensor t;
    if (!x->has_total)
        return TN_OK;
    for (uint32_t i = 0; i < x->count; i++)
        if (tn_st_at(set, tn_st_find(set, x->entry[i].name), NULL, &t))
            listed_bytes += t.data_size;
    for (uint32_t i = 0; i < tn_st_files(set); i++)
        files += tn_st_file_size(set, i);
    if (x->total == listed_bytes || x->total == tn_st_data_bytes(set) || x->total == files)
        return TN_OK;
    if (p->lax) {
        tn_ckpt_remark(p, "the index says total_size %.*s, its tensors have %llu bytes",
                       x->total_size, x->total_text, (unsigned long long)listed_bytes);
        return TN_OK;
    }
    return tn_scan_refuse(&x->scan, x->total_at, "total_size is %.*s; expected %llu, the bytes of "
                          "its tensors (lax_index = yes lets it pass)", x->total_size,
                          x->total_text, (unsigned long long)listed_bytes);
}

static tn_status open_shards(const weight_index *x, tn_ckpt_place *p, tn_st *set, const listing *l)
{
    for (uint32_t i = 0; i < x->nfile; i++) {
        tn_status st = tn_st_add(set, p->dir, x->file[i], p->inside, x->err);
        if (st == TN_NOINPUT)
            return tn_fail(x->err, TN_NOINPUT, "%s: names the shard %s, which does not exist",
                           x->scan.what, x->file[i]);
        if (st != TN_OK)
            return st;
    }
    bool beside = listed(l, single_name) &&
                  tn_names_find(&x->files, single_name, strlen(single_name)) == TN_NAMES_NONE;
    if (beside)
        tn_ckpt_remark(p, "both %s and an index are there: the index is used", single_name);
    return TN_OK;
}

static tn_status open_index(tn_ckpt_place *p, const char *name, const listing *l, tn_st *set,
                            tn_filemap *map, tn_err *err)
{
    size_t size = strlen(p->dir) + strlen(name) + 2;
    char *path = malloc(size);
    if (path == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory to open it", name);
    snprintf(path, size, "%s/%s", p->dir, name);
    tn_status st = tn_filemap_open(map, path, p->inside, INDEX_SIZE_MAX, err);
    free(path);
    if (st != TN_OK)
        return st;
    const char *text = map->data != NULL ? (const char *)map->data : "";
    weight_index x = {.err = err,
               .scan = {.begin = text, .at = text, .end = text + map->size,
                        .what = tn_path_tail(map->path), .depth_max = INDEX_DEPTH, .err = err}};
    tn_arena_open(&x.arena, 0);
    tn_names_open(&x.names);
    tn_names_open(&x.files);
    st = read_index(&x);
    if (st == TN_OK)
        st = open_shards(&x, p, set, l);
    if (st == TN_OK)
        st = check_entries(&x, p, set);
    if (st == TN_OK)
        st = check_total(&x, p, set);
    free(x.entry);
    free(x.file);
    tn_names_close(&x.names);
    tn_names_close(&x.files);
    tn_arena_close(&x.arena);
    return st;
}

/* --------------------------------------------------------------------- without an index */

/* NAME-00002-of-00005.safetensors: 2 of 5, and the bytes of NAME. */
static bool shard_name(const char *name, uint32_t *i, uint32_t *n, size_t *stem)
{
    static const char tail[] = ".safetensors";
    size_t size = strlen(name), end = size - (sizeof tail - 1);
    if (!ends_with(name, tail) || end < 15 || memcmp(name + end - 9, "-of-", 4) != 0 ||
        name[end - 15] != '-')
        return false;
    *i = *n = 0;
    for (size_t k = 0; k < 5; k++) {
        char a = name[end - 14 + k], b = name[end - 5 + k];
        if (a < '0' || a > '9' || b < '0' || b > '9')
            return false;
        *i = *i * 10 + (uint32_t)(a - '0');
        *n = *n * 10 + (uint32_t)(b - '0');
    }
    *stem = end - 15;
    return true;
}

static tn_status open_set(tn_ckpt_place *p, const char *first, uint32_t n, size_t stem, tn_st *set,
                          tn_err *err)
{
    char name[256];
    if (n > FILES_MAX || stem > 200)
        return tn_fail(err, TN_DATA, "%s: one of %u shards; expected at most %u",
                       tn_path_tail(first), n, FILES_MAX);
    for (uint32_t i = 1; i <= n; i++) {
        snprintf(name, sizeof name, "%.*s-%05u-of-%05u.safetensors", (int)stem, first, i, n);
        tn_status st = tn_st_add(set, p->dir, name, p->inside, err);
        if (st == TN_NOINPUT)
            return tn_fail(err, TN_NOINPUT, "%s/%s: no such shard; expected all %u",
                           tn_path_tail(p->dir), name, n);
        if (st != TN_OK)
            return st;
    }
    tn_ckpt_remark(p, "no index: the %u shards of %.*s were read", n, (int)stem, first);
    return TN_OK;
}

static tn_status open_loose(tn_ckpt_place *p, const listing *l, tn_st *set, tn_err *err)
{
    const char *found[2] = {NULL, NULL};
    uint32_t i = 0, n = 0, count = 0;
    size_t stem = 0;
    for (uint32_t k = 0; k < l->count; k++) {
        if (!ends_with(l->name[k], ".safetensors"))
            continue;
        if (shard_name(l->name[k], &i, &n, &stem) && n > 0 && i <= n)
            return open_set(p, l->name[k], n, stem, set, err);
        found[count > 0] = l->name[k];
        count++;
    }
    if (count == 1) {
        tn_ckpt_remark(p, "no %s: %s is used", single_name, found[0]);
        return tn_st_add(set, p->dir, found[0], p->inside, err);
    }
    if (count > 1)
        return tn_fail(err, TN_DATA, "%s: both %s and %s; expected %s or an index",
                       tn_path_tail(p->dir), found[0], found[1], single_name);
    if (l->other[0] != 0)
        return tn_fail(err, TN_NOINPUT, "%s: no safetensors file, but %s; expected %s or %s",
                       tn_path_tail(p->dir), l->other, single_name, index_name);
    return tn_fail(err, TN_NOINPUT, "%s: no weights; expected %s or %s", tn_path_tail(p->dir),
                   single_name, index_name);
}

static tn_status choose(tn_ckpt_place *p, const listing *l, tn_st *set, tn_filemap *index_map,
                        tn_err *err)
{
    const char *index_found = NULL;
    for (uint32_t k = 0; k < l->count; k++) {
        if (!ends_with(l->name[k], ".index.json"))
            continue;
        if (index_found != NULL && !listed(l, index_name))
            return tn_fail(err, TN_DATA, "%s: both %s and %s; expected one index",
                           tn_path_tail(p->dir), index_found, l->name[k]);
        index_found = l->name[k];
    }
    if (listed(l, index_name))
        index_found = index_name;
    if (index_found != NULL)
        return open_index(p, index_found, l, set, index_map, err);
    if (listed(l, single_name))
        return tn_st_add(set, p->dir, single_name, p->inside, err);
    return open_loose(p, l, set, err);
}

tn_status tn_ckpt_weights(tn_ckpt_place *p, tn_st *set, tn_filemap *index_map, tn_err *err)
{
    listing l = {0};
    tn_status st = list_folder(p, &l, err);
    if (st == TN_OK)
        st = choose(p, &l, set, index_map, err);
    listing_close(&l);
    return st;
}

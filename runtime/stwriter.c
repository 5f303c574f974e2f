/* SPDX-License-Identifier: Apache-2.0 */
/* stwriter.c - writes a model folder: safetensors shards, their index, small files beside.
 *
 *   NAME.part:  u64 n | n bytes of header, padded with blanks | data
 *
 * A streamed shard cannot know its header, so its data begins behind a gap. When the shard is
 * full the header is written into the gap; if it does not fit, if a tensor came to lie
 * unaligned, or if the shard is small, the data is copied into sorted order behind an exact
 * header instead. A planned shard has its exact header from the start. */
#include "stwriter.h"

#include "arena.h"
#include "buf.h"
#include "names.h"
#include "quote.h"
#include "safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define GAP_USUAL ((uint64_t)1 << 20)
#define COPY_ALWAYS ((uint64_t)64 << 20) /* shards below this are always put in order */
#define COPY_STEP ((size_t)4 << 20)
#define HEADER_FULL ((uint64_t)50 << 20) /* half of what readers take: begin a new shard */
#define HEADER_MAX ((size_t)100000000)
#define TENSORS_MAX 1000000u
#define INDEX_MAX ((size_t)1 << 30)

typedef struct entry {
    const char *name;      /* arena */
    uint32_t dtype, ndim;
    const uint64_t *dim;   /* arena */
    uint64_t begin, size;  /* in the shard's data */
    uint64_t done;         /* bytes put */
    uint32_t shard;
} entry;

typedef struct part {
    char *path;            /* owned: DIR/NAME.part */
    char *name;            /* owned: final name; NULL for a shard until finish */
    int fd;                /* -1 once closed */
} part;

typedef struct shard {
    part file;
    uint32_t *entry;       /* owned: indices into the writer's list */
    uint32_t count, cap;
    uint64_t gap;          /* bytes of header that fit before the data */
    uint64_t data_size;
    uint64_t header_guess; /* bytes of header so far */
    bool settled;
} shard;

struct tn_stw {
    char *dir;             /* owned */
    int dir_fd;            /* the folder, locked from the first part on; -1: not yet */
    uint64_t shard_max;
    pthread_mutex_t lock;
    tn_arena arena;
    tn_names names;
    entry *entry;          /* owned */
    uint32_t count, cap;
    shard *shard;          /* owned */
    uint32_t nshard;
    part *file;            /* owned */
    uint32_t nfile;
    uint64_t bytes;
    bool planned, finished, failed;
};

/* ------------------------------------------------------------------------------ helpers */

static tn_status no_memory(const tn_stw *w, tn_err *err)
{
    return tn_fail(err, TN_NO_MEMORY, "%s: no memory to write a model", tn_path_tail(w->dir));
}

static tn_status io_failed(const char *path, const char *doing, int e, tn_err *err)
{
    const char *why = e == ENOSPC ? "no space left on the disk" : e == EDQUOT ? "quota used up"
                      : e == EFBIG ? "larger than files may be" : e == EROFS ? "read-only"
                      : e == EACCES || e == EPERM ? "no permission"
                      : e == ENOTDIR ? "not a folder" : NULL;
    bool create = e == EACCES || e == EPERM || e == EROFS || e == ENOENT || e == ENOTDIR ||
                  e == EISDIR || e == ELOOP;
    if (why != NULL)
        return tn_fail(err, create ? TN_CANTCREATE : TN_IO, "%s: %s: %s", tn_path_tail(path),
                       doing, why);
    return tn_fail(err, create ? TN_CANTCREATE : TN_IO, "%s: %s: errno %d", tn_path_tail(path),
                   doing, e);
}

static bool grow(void *list, uint32_t *cap, uint32_t count, size_t size)
{
    void **p = list;
    if (count < *cap)
        return true;
    uint32_t more = *cap > 0 ? *cap * 2 : 16;
    void *made = realloc(*p, more * size);
    if (made == NULL)
        return false;
    *p = made;
    *cap = more;
    return true;
}

static char *join(const char *dir, const char *name, const char *tail)
{
    size_t a = strlen(dir), b = strlen(name), c = strlen(tail);
    char *path = malloc(a + b + c + 2);
    if (path == NULL)
        return NULL;
    memcpy(path, dir, a);
    path[a] = '/';
    memcpy(path + a + 1, name, b);
    memcpy(path + a + 1 + b, tail, c + 1);
    return path;
}

static tn_status write_at(const part *p, const void *data, uint64_t size, uint64_t at, tn_err *err)
{
    const char *from = data;
    while (size > 0) {
        size_t step = size < ((uint64_t)1 << 30) ? (size_t)size : (size_t)1 << 30;
        ssize_t n = pwrite(p->fd, from, step, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return io_failed(p->path, "writing", n == 0 ? ENOSPC : errno, err);
        from += n;
        at += (uint64_t)n;
        size -= (uint64_t)n;
    }
    return TN_OK;
}

/* File systems that cannot lock let everybody in. */
static bool is_taken(int fd)
{
    return flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

/* One writer a folder, until it closes: parts lie there sealed and unlocked till finish. */
static tn_status dir_take(tn_stw *w, tn_err *err)
{
    if (w->dir_fd >= 0)
        return TN_OK;
    int fd = open(w->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return io_failed(w->dir, "opening", errno, err);
    if (is_taken(fd)) {
        close(fd);
        return tn_fail(err, TN_CANTCREATE, "%s: another process is writing a model there",
                       tn_path_tail(w->dir));
    }
    w->dir_fd = fd;
    return TN_OK;
}

static tn_status part_open(tn_stw *w, part *p, const char *name, tn_err *err)
{
    *p = (part){.fd = -1};
    tn_status st = dir_take(w, err);
    if (st != TN_OK)
        return st;
    p->path = join(w->dir, name, ".part");
    if (p->path == NULL)
        return no_memory(w, err);
    p->fd = open(p->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (p->fd < 0) {
        st = io_failed(p->path, "creating", errno, err);
        free(p->path);
        p->path = NULL;
        return st;
    }
    /* A part left by a run that was killed is taken over; one in use is not, even where
     * folders cannot be locked. */
    if (is_taken(p->fd)) {
        st = tn_fail(err, TN_CANTCREATE, "%s: another process is writing it",
                     tn_path_tail(p->path));
        close(p->fd);
        free(p->path);
        *p = (part){.fd = -1};
        return st;
    }
    if (ftruncate(p->fd, 0) != 0)
        return io_failed(p->path, "emptying", errno, err);
    return TN_OK;
}

static void part_drop(part *p)
{
    if (p->fd >= 0)
        close(p->fd);
    if (p->path != NULL)
        (void)unlink(p->path);
    free(p->path);
    free(p->name);
    *p = (part){.fd = -1};
}

/* To disk and closed; the part keeps its path for the rename. */
static tn_status part_seal(part *p, tn_err *err)
{
    if (p->fd < 0)
        return TN_OK;
    int fd = p->fd;
    p->fd = -1;
    int bad = fsync(fd) != 0 ? errno : 0;
    if (close(fd) != 0 && bad == 0 && errno != EINTR)
        bad = errno;
    return bad != 0 ? io_failed(p->path, "forcing it to disk", bad, err) : TN_OK;
}

/* ------------------------------------------------------------------------------- header */

/* The order of the reference writer: falling alignment, then the name. */
static uint32_t dtype_rank(uint32_t dtype)
{
    static const uint32_t rising[] = {TN_BOOL, TN_U8,  TN_I8,  TN_F8_E5M2, TN_F8_E4M3,
                                      TN_I16,  TN_U16, TN_F16, TN_BF16,    TN_I32,
                                      TN_U32,  TN_F32, TN_F64, TN_I64,     TN_U64};
    uint32_t i = 0;
    while (i < sizeof rising / sizeof rising[0] && rising[i] != dtype)
        i++;
    return i;
}

static int by_layout(const void *a, const void *b, void *ctx)
{
    const tn_stw *w = ctx;
    const entry *x = &w->entry[*(const uint32_t *)a], *y = &w->entry[*(const uint32_t *)b];
    uint32_t p = dtype_rank(x->dtype), q = dtype_rank(y->dtype);
    return p != q ? (p > q ? -1 : 1) : strcmp(x->name, y->name);
}

static int by_name(const void *a, const void *b, void *ctx)
{
    const tn_stw *w = ctx;
    return strcmp(w->entry[*(const uint32_t *)a].name, w->entry[*(const uint32_t *)b].name);
}

static tn_status header_text(const tn_stw *w, const shard *s, tn_buf *out, tn_err *err)
{
    tn_buf_open(out, HEADER_MAX);
    tn_buf_puts(out, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (uint32_t i = 0; i < s->count; i++) {
        const entry *e = &w->entry[s->entry[i]];
        tn_buf_putc(out, ',');
        tn_buf_put_json(out, e->name, strlen(e->name));
        tn_buf_printf(out, ":{\"dtype\":\"%s\",\"shape\":[", tn_st_dtype_name(e->dtype));
        for (uint32_t d = 0; d < e->ndim; d++)
            tn_buf_printf(out, "%s%llu", d > 0 ? "," : "", (unsigned long long)e->dim[d]);
        tn_buf_printf(out, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)e->begin,
                      (unsigned long long)(e->begin + e->size));
    }
    tn_buf_putc(out, '}');
    while (out->len % 8 != 0 && !out->failed)
        tn_buf_putc(out, ' ');
    return out->failed ? no_memory(w, err) : TN_OK;
}

static tn_status header_write(const shard *s, const part *p, tn_buf *text, uint64_t gap,
                              tn_err *err)
{
    uint8_t size[8];
    while (text->len < gap && !text->failed)
        tn_buf_putc(text, ' ');
    if (text->failed)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory for its header",
                       tn_path_tail(s->file.path));
    for (int i = 0; i < 8; i++)
        size[i] = (uint8_t)(gap >> (8 * i));
    tn_status st = write_at(p, size, 8, 0, err);
    return st == TN_OK ? write_at(p, text->data, gap, 8, err) : st;
}

/* Sorts the shard's tensors and gives them the offsets of that order. */
static void lay_out(tn_stw *w, shard *s)
{
    uint64_t at = 0;
    qsort_r(s->entry, s->count, sizeof *s->entry, by_layout, w);
    for (uint32_t i = 0; i < s->count; i++) {
        entry *e = &w->entry[s->entry[i]];
        e->begin = at;
        at += e->size;
    }
}

static bool is_aligned(const tn_stw *w, const shard *s)
{
    for (uint32_t i = 0; i < s->count; i++) {
        const entry *e = &w->entry[s->entry[i]];
        if (e->begin % (tn_st_dtype_bits(e->dtype) / 8) != 0)
            return false;
    }
    return true;
}

/* ------------------------------------------------------------------------------- shards */

static tn_status shard_open(tn_stw *w, tn_err *err)
{
    char name[48];
    shard *list = realloc(w->shard, (w->nshard + 1) * sizeof *list);
    if (list == NULL)
        return no_memory(w, err);
    w->shard = list;
    shard *s = &list[w->nshard];
    *s = (shard){.file.fd = -1, .gap = GAP_USUAL};
    snprintf(name, sizeof name, "model-shard-%05u", w->nshard + 1);
    tn_status st = part_open(w, &s->file, name, err);
    if (st == TN_OK)
        w->nshard++;
    else
        part_drop(&s->file); /* another thread's next tensor must not find it */
    return st;
}

static tn_status copy_range(const part *from, uint64_t src, const part *to, uint64_t dst,
                            uint64_t size, char *room, tn_err *err)
{
    while (size > 0) {
        size_t step = size < COPY_STEP ? (size_t)size : COPY_STEP;
        ssize_t n = pread(from->fd, room, step, (off_t)src);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return io_failed(from->path, "reading it back", n == 0 ? EIO : errno, err);
        tn_status st = write_at(to, room, (uint64_t)n, dst, err);
        if (st != TN_OK)
            return st;
        src += (uint64_t)n;
        dst += (uint64_t)n;
        size -= (uint64_t)n;
    }
    return TN_OK;
}

/* Copies a streamed shard into sorted order behind an exact header, in a second part that
 * takes the place of the first. */
static tn_status shard_copy(tn_stw *w, shard *s, tn_err *err)
{
    part to = {.fd = -1};
    tn_buf text = {0};
    char *room = malloc(COPY_STEP);
    tn_status st = room != NULL ? part_open(w, &to, "model-sorted", err) : no_memory(w, err);
    if (st != TN_OK)
        goto done;
    /* `done` of a streamed entry has served its purpose and remembers the old offset. */
    for (uint32_t i = 0; i < s->count; i++)
        w->entry[s->entry[i]].done = w->entry[s->entry[i]].begin;
    lay_out(w, s);
    st = header_text(w, s, &text, err);
    if (st == TN_OK)
        st = header_write(s, &to, &text, text.len, err);
    for (uint32_t i = 0; i < s->count && st == TN_OK; i++) {
        entry *e = &w->entry[s->entry[i]];
        st = copy_range(&s->file, 8 + s->gap + e->done, &to, 8 + text.len + e->begin, e->size,
                        room, err);
        e->done = e->size;
    }
    if (st == TN_OK && rename(to.path, s->file.path) != 0)
        st = io_failed(to.path, "renaming", errno, err);
    if (st == TN_OK) {
        close(s->file.fd);
        s->file.fd = to.fd;
        s->gap = text.len;
        to.fd = -1;
        free(to.path);
        to.path = NULL;
    }
done:
    part_drop(&to);
    tn_buf_close(&text);
    free(room);
    return st;
}

/* Gives a full shard its header. */
static tn_status shard_settle(tn_stw *w, shard *s, tn_err *err)
{
    if (s->settled)
        return TN_OK;
    tn_buf text = {0};
    tn_status st = header_text(w, s, &text, err);
    if (st == TN_OK && !w->planned &&
        (text.len > s->gap || s->data_size < COPY_ALWAYS || !is_aligned(w, s)))
        st = shard_copy(w, s, err);
    else if (st == TN_OK)
        st = header_write(s, &s->file, &text, s->gap, err);
    tn_buf_close(&text);
    s->settled = st == TN_OK;
    return st == TN_OK ? part_seal(&s->file, err) : st;
}

static tn_status entry_check(const tn_stw *w, const char *name, uint32_t dtype, uint32_t ndim,
                             const uint64_t *dim, uint64_t *size, tn_err *err)
{
    tn_quoted q;
    uint64_t bytes = tn_st_dtype_bits(dtype) / 8;
    if (name[0] == 0 || strcmp(name, "__metadata__") == 0 || bytes == 0 || ndim > 8)
        return tn_fail(err, TN_INTERNAL, "%s: tensor %s of type %u with %u dimensions cannot be "
                       "written", tn_path_tail(w->dir), tn_quote_text(&q, name), dtype, ndim);
    for (uint32_t i = 0; i < ndim; i++) {
        if (dim[i] > 0 && bytes > INT64_MAX / dim[i])
            return tn_fail(err, TN_INTERNAL, "%s: tensor %s is larger than 2^63 bytes",
                           tn_path_tail(w->dir), tn_quote_text(&q, name));
        bytes *= dim[i];
    }
    if (w->count >= TENSORS_MAX)
        return tn_fail(err, TN_DATA, "%s: more than %u tensors", tn_path_tail(w->dir), TENSORS_MAX);
    *size = bytes;
    return TN_OK;
}

/* Adds the tensor to the last shard, or to a new one when that is full. The name's room in
 * the header is counted generously. */
static tn_status entry_add(tn_stw *w, const tn_stw_entry *t, entry **out, tn_err *err)
{
    uint64_t size = 0;
    uint32_t found = TN_NAMES_NONE;
    tn_quoted q;
    tn_status st = entry_check(w, t->name, t->dtype, t->ndim, t->dim, &size, err);
    if (st != TN_OK)
        return st;
    char *name = tn_arena_text(&w->arena, t->name, strlen(t->name));
    uint64_t *dim = tn_arena_array(&w->arena, t->ndim + (size_t)1, sizeof *dim);
    if (name == NULL || dim == NULL || !grow(&w->entry, &w->cap, w->count, sizeof *w->entry) ||
        !tn_names_add(&w->names, name, strlen(name), w->count, &found))
        return no_memory(w, err);
    if (found != TN_NAMES_NONE)
        return tn_fail(err, TN_INTERNAL, "%s: tensor %s written twice", tn_path_tail(w->dir),
                       tn_quote_text(&q, name));
    memcpy(dim, t->dim, t->ndim * sizeof *dim);
    uint64_t header = 2 * strlen(name) + 256;
    shard *s = w->nshard > 0 ? &w->shard[w->nshard - 1] : NULL;
    bool full = s != NULL && s->count > 0 && (s->settled || s->data_size + size > w->shard_max ||
                                              s->header_guess + header > HEADER_FULL);
    if (s == NULL || full) {
        if (full && !w->planned)
            st = shard_settle(w, s, err);
        if (st == TN_OK)
            st = shard_open(w, err);
        if (st != TN_OK)
            return st;
        s = &w->shard[w->nshard - 1];
    }
    if (!grow(&s->entry, &s->cap, s->count, sizeof *s->entry))
        return no_memory(w, err);
    w->entry[w->count] = (entry){.name = name, .dtype = t->dtype, .ndim = t->ndim, .dim = dim,
                                 .begin = s->data_size, .size = size, .shard = w->nshard - 1};
    *out = &w->entry[w->count];
    s->entry[s->count++] = w->count++;
    s->data_size += size;
    s->header_guess += header;
    return TN_OK;
}

/* ----------------------------------------------------------------------------- interface */

tn_status tn_stw_open(const char *dir, uint64_t shard_max, tn_stw **out, tn_err *err)
{
    tn_stw *w = calloc(1, sizeof *w);
    char *copy = strdup(dir);
    if (w == NULL || copy == NULL || pthread_mutex_init(&w->lock, NULL) != 0) {
        free(copy);
        free(w);
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory to write a model", tn_path_tail(dir));
    }
    w->dir = copy;
    w->dir_fd = -1;
    w->shard_max = shard_max > 0 ? shard_max : TN_STW_SHARD_USUAL;
    tn_arena_open(&w->arena, 0);
    tn_names_open(&w->names);
    *out = w;
    return TN_OK;
}

void tn_stw_close(tn_stw *w)
{
    if (w == NULL)
        return;
    for (uint32_t i = 0; i < w->nshard; i++) {
        part_drop(&w->shard[i].file);
        free(w->shard[i].entry);
    }
    for (uint32_t i = 0; i < w->nfile; i++)
        part_drop(&w->file[i]);
    if (w->dir_fd >= 0)
        close(w->dir_fd);
    free(w->shard);
    free(w->file);
    free(w->entry);
    free(w->dir);
    tn_names_close(&w->names);
    tn_arena_close(&w->arena);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

static tn_status reserve_space(const shard *s, tn_err *err)
{
    uint64_t size = 8 + s->gap + s->data_size;
    if (fallocate(s->file.fd, 0, 0, (off_t)size) == 0)
        return TN_OK;
    if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)
        return io_failed(s->file.path, "reserving space", errno, err);
    return TN_OK; /* a file system that cannot reserve: writing will tell */
}

tn_status tn_stw_plan(tn_stw *w, const tn_stw_entry *list, uint64_t count, tn_err *err)
{
    if (w->planned || w->count > 0)
        return tn_fail(err, TN_INTERNAL, "%s: planned twice", tn_path_tail(w->dir));
    tn_status st = TN_OK;
    entry *e = NULL;
    w->planned = true;
    for (uint64_t i = 0; i < count && st == TN_OK; i++)
        st = entry_add(w, &list[i], &e, err);
    for (uint32_t i = 0; i < w->nshard && st == TN_OK; i++) {
        shard *s = &w->shard[i];
        tn_buf text = {0};
        lay_out(w, s);
        st = header_text(w, s, &text, err);
        s->gap = text.len;
        if (st == TN_OK)
            st = reserve_space(s, err);
        tn_buf_close(&text);
    }
    w->failed = w->failed || st != TN_OK;
    return st;
}

tn_status tn_stw_put(tn_stw *w, uint64_t i, uint64_t at, const void *data, uint64_t size,
                     tn_err *err)
{
    tn_quoted q;
    if (!w->planned || i >= w->count)
        return tn_fail(err, TN_INTERNAL, "%s: tensor %llu is not in the plan",
                       tn_path_tail(w->dir), (unsigned long long)i);
    entry *e = &w->entry[i];
    if (at > e->size || size > e->size - at)
        return tn_fail(err, TN_INTERNAL, "%s: bytes %llu to %llu of tensor %s; expected at most "
                       "%llu", tn_path_tail(w->dir), (unsigned long long)at,
                       (unsigned long long)(at + size), tn_quote_text(&q, e->name),
                       (unsigned long long)e->size);
    const shard *s = &w->shard[e->shard];
    tn_status st = write_at(&s->file, data, size, 8 + s->gap + e->begin + at, err);
    w->failed = w->failed || st != TN_OK;
    e->done += size;
    w->bytes += size;
    return st;
}

tn_status tn_stw_tensor(void *ctx, const char *name, uint32_t dtype, uint32_t ndim,
                        const uint64_t *dim, const void *data, tn_err *err)
{
    tn_stw *w = ctx;
    tn_stw_entry t = {.name = name, .dtype = dtype, .ndim = ndim};
    entry *e = NULL;
    if (ndim > 8 || w->planned)
        return tn_fail(err, TN_INTERNAL, "%s: %s", tn_path_tail(w->dir), w->planned ?
                       "streamed into a plan" : "more than 8 dimensions");
    for (uint32_t i = 0; i < ndim; i++)
        t.dim[i] = dim[i];
    pthread_mutex_lock(&w->lock);
    tn_status st = entry_add(w, &t, &e, err);
    if (st == TN_OK) {
        const shard *s = &w->shard[e->shard];
        st = write_at(&s->file, data, e->size, 8 + s->gap + e->begin, err);
        e->done = e->size;
        w->bytes += e->size;
    }
    w->failed = w->failed || st != TN_OK;
    pthread_mutex_unlock(&w->lock);
    return st;
}

static tn_status file_write(tn_stw *w, const char *name, const void *data, uint64_t size,
                            tn_err *err)
{
    part *list = realloc(w->file, (w->nfile + 1) * sizeof *list);
    if (list == NULL)
        return no_memory(w, err);
    w->file = list;
    part *p = &list[w->nfile];
    tn_status st = part_open(w, p, name, err);
    if (st != TN_OK) {
        part_drop(p);
        return st;
    }
    w->nfile++;
    p->name = strdup(name);
    if (p->name == NULL)
        return no_memory(w, err);
    st = write_at(p, data, size, 0, err);
    return st == TN_OK ? part_seal(p, err) : st;
}

tn_status tn_stw_file(void *ctx, const char *name, const void *data, uint64_t size, tn_err *err)
{
    tn_stw *w = ctx;
    tn_quoted q;
    if (name[0] == 0 || name[0] == '.' || strchr(name, '/') != NULL || strlen(name) > 200)
        return tn_fail(err, TN_INTERNAL, "%s: file %s; expected a plain name",
                       tn_path_tail(w->dir), tn_quote_text(&q, name));
    pthread_mutex_lock(&w->lock);
    tn_status st = file_write(w, name, data, size, err);
    w->failed = w->failed || st != TN_OK;
    pthread_mutex_unlock(&w->lock);
    return st;
}

uint64_t tn_stw_bytes(const tn_stw *w)
{
    return w->bytes;
}

/* -------------------------------------------------------------------------------- finish */

static tn_status name_shards(tn_stw *w, tn_err *err)
{
    char name[64];
    for (uint32_t i = 0; i < w->nshard; i++) {
        if (w->nshard == 1)
            snprintf(name, sizeof name, "model.safetensors");
        else
            snprintf(name, sizeof name, "model-%05u-of-%05u.safetensors", i + 1, w->nshard);
        free(w->shard[i].file.name);
        w->shard[i].file.name = strdup(name);
        if (w->shard[i].file.name == NULL)
            return no_memory(w, err);
    }
    return TN_OK;
}

static tn_status write_index(tn_stw *w, tn_err *err)
{
    tn_buf text;
    uint64_t total = 0;
    tn_buf_open(&text, INDEX_MAX);
    uint32_t *order = malloc((w->count + (size_t)1) * sizeof *order);
    tn_status st = order != NULL ? TN_OK : no_memory(w, err);
    if (st != TN_OK)
        goto done;
    for (uint32_t i = 0; i < w->count; i++) {
        order[i] = i;
        total += w->entry[i].size;
    }
    qsort_r(order, w->count, sizeof *order, by_name, w);
    tn_buf_printf(&text, "{\n  \"metadata\": {\n    \"total_size\": %llu\n  },\n"
                  "  \"weight_map\": {", (unsigned long long)total);
    for (uint32_t i = 0; i < w->count; i++) {
        const entry *e = &w->entry[order[i]];
        tn_buf_puts(&text, i > 0 ? ",\n    " : "\n    ");
        tn_buf_put_json(&text, e->name, strlen(e->name));
        tn_buf_printf(&text, ": \"%s\"", w->shard[e->shard].file.name);
    }
    tn_buf_puts(&text, "\n  }\n}\n");
    st = text.failed ? no_memory(w, err)
                     : file_write(w, "model.safetensors.index.json", text.data, text.len, err);
done:
    free(order);
    tn_buf_close(&text);
    return st;
}

static tn_status check_complete(const tn_stw *w, tn_err *err)
{
    tn_quoted q;
    if (w->failed || w->finished)
        return tn_fail(err, TN_INTERNAL, "%s: finished %s", tn_path_tail(w->dir),
                       w->failed ? "after a failure" : "twice");
    for (uint32_t i = 0; i < w->count; i++)
        if (w->entry[i].done != w->entry[i].size)
            return tn_fail(err, TN_INTERNAL, "%s: tensor %s has %llu bytes of %llu",
                           tn_path_tail(w->dir), tn_quote_text(&q, w->entry[i].name),
                           (unsigned long long)w->entry[i].done,
                           (unsigned long long)w->entry[i].size);
    return TN_OK;
}

static bool is_ours(const tn_stw *w, const char *name)
{
    for (uint32_t i = 0; i < w->nshard; i++)
        if (strcmp(w->shard[i].file.name, name) == 0)
            return true;
    for (uint32_t i = 0; i < w->nfile; i++)
        if (strcmp(w->file[i].name, name) == 0)
            return true;
    return false;
}

static bool ends_with(const char *name, const char *tail)
{
    size_t a = strlen(name), b = strlen(tail);
    return a >= b && strcmp(name + a - b, tail) == 0;
}

static void remove_stale(const tn_stw *w)
{
    DIR *d = opendir(w->dir);
    if (d == NULL)
        return;
    for (struct dirent *f = readdir(d); f != NULL; f = readdir(d))
        if ((ends_with(f->d_name, ".safetensors") ||
             ends_with(f->d_name, ".safetensors.index.json")) && !is_ours(w, f->d_name))
            (void)unlinkat(dirfd(d), f->d_name, 0);
    closedir(d);
}

static tn_status part_rename(const tn_stw *w, part *p, tn_err *err)
{
    char *path = join(w->dir, p->name, "");
    if (path == NULL)
        return no_memory(w, err);
    tn_status st = rename(p->path, path) == 0 ? TN_OK : io_failed(path, "renaming", errno, err);
    free(path);
    if (st == TN_OK) {
        free(p->path);
        p->path = NULL; /* nothing left to drop */
    }
    return st;
}

static tn_status sync_dir(const tn_stw *w, tn_err *err)
{
    if (w->dir_fd < 0 || fsync(w->dir_fd) == 0 || errno == EINVAL) /* cannot sync folders */
        return TN_OK;
    return io_failed(w->dir, "forcing it to disk", errno, err);
}

tn_status tn_stw_finish(tn_stw *w, bool tidy, tn_err *err)
{
    tn_status st = check_complete(w, err);
    for (uint32_t i = 0; i < w->nshard && st == TN_OK; i++)
        st = shard_settle(w, &w->shard[i], err);
    if (st == TN_OK)
        st = name_shards(w, err);
    uint32_t before = w->nfile;
    if (st == TN_OK && w->nshard > 1)
        st = write_index(w, err);
    if (st != TN_OK)
        return st;
    for (uint32_t i = 0; i < w->nshard && st == TN_OK; i++)
        st = part_rename(w, &w->shard[i].file, err);
    if (st == TN_OK && w->nfile > before) /* the index follows its shards */
        st = part_rename(w, &w->file[before], err);
    if (st == TN_OK && tidy)
        remove_stale(w);
    for (uint32_t i = 0; i < before && st == TN_OK; i++)
        st = part_rename(w, &w->file[i], err);
    w->finished = st == TN_OK;
    return st == TN_OK ? sync_dir(w, err) : st;
}

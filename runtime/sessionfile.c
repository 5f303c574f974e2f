/* SPDX-License-Identifier: Apache-2.0 */
/* sessionfile.c - a conversation in one file: its tokens, and what the cache knows of them. */
#include "sessionfile.h"

#include "siphash.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAD_SIZE 256u
#define SUM_SIZE 16u
#define ORDER_MARK 0x01020304u
#define PORTION ((size_t)1 << 20)
#define BLOCK_TOKENS_MAX 65536u
#define PATH_SIZE 4096u
#define TEMP_NAME_MAX 200u       /* of the name, in the temporary one */
#define TEMP_DIGITS 16u
#define TEMP_TRIES 8

static const char magic[8] = {'t', 'e', 'n', 'o', 'n', 's', 'e', 's'};
static const uint64_t secret[2] = {UINT64_C(0x6e6f6e6574), 1}; /* fixed: against accidents */

/* The head as it lies in the file; what is not named is zero. */
typedef struct image {
    char magic[8];
    uint32_t version, order;
    tn_session_head head;
    uint8_t zero[HEAD_SIZE - 16 - sizeof(tn_session_head) - SUM_SIZE];
    uint64_t sum[2];             /* over what is before it */
} image;
_Static_assert(sizeof(image) == HEAD_SIZE, "the head has no holes");

struct tn_session_file {
    int fd, folder;              /* folder: the writer's, -1: a reader */
    uint64_t left;               /* bytes of the parts still to come */
    tn_sip sum;
    const char *what;            /* borrowed */
    char name[256];              /* the writer's: what it will be called */
    char temp[300];              /* and how it is called until then; "": it is no more */
};

uint64_t tn_session_file_size(const tn_session_head *h)
{
    return HEAD_SIZE + (uint64_t)h->nid * sizeof(int32_t) + h->note_size +
           h->nblock * h->block_size + h->state_size + SUM_SIZE;
}

uint64_t tn_session_parts_size(const tn_session_head *h)
{
    return tn_session_file_size(h) - HEAD_SIZE - SUM_SIZE;
}

static void image_sum(const image *i, uint64_t out[2])
{
    tn_sip s;
    tn_sip_open(&s, secret);
    tn_sip_put(&s, i, HEAD_SIZE - SUM_SIZE);
    tn_sip_done(&s, out);
}

/* ---------------------------------------------------------------------------- the head */

/* Sizes that fit each other and whose sums stay far from 2^64. */
static tn_status head_check(const char *what, const tn_session_head *h, tn_err *err)
{
    const struct { const char *name; uint64_t found, most; } all[] = {
        {"tokens", h->nid, TN_SESSION_TOKENS_MAX}, {"cached tokens", h->ncached, h->nid},
        {"bytes of note", h->note_size, TN_SESSION_NOTE_MAX},
        {"bytes a block", h->block_size, TN_SESSION_STATE_MAX},
        {"bytes of state", h->state_size, TN_SESSION_STATE_MAX},
        {"tokens a block", h->block_tokens, BLOCK_TOKENS_MAX},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].found > all[i].most)
            return tn_fail(err, TN_DATA, "%s: %llu %s; expected at most %llu", what,
                           (unsigned long long)all[i].found, all[i].name,
                           (unsigned long long)all[i].most);
    if (h->block_tokens == 0)
        return tn_fail(err, TN_DATA, "%s: 0 tokens a block; expected at least 1", what);
    uint32_t n = h->ncached / h->block_tokens + (h->ncached % h->block_tokens != 0);
    if (h->nblock != n)
        return tn_fail(err, TN_DATA, "%s: %u blocks; expected %u for %u tokens by %u", what,
                       h->nblock, n, h->ncached, h->block_tokens);
    if (memchr(h->model, 0, sizeof h->model) == NULL)
        return tn_fail(err, TN_DATA, "%s: the model's name has no end; expected at most %zu "
                       "bytes", what, sizeof h->model - 1);
    return TN_OK;
}

static tn_status image_check(const char *what, const image *i, tn_err *err)
{
    uint64_t sum[2];
    if (memcmp(i->magic, magic, sizeof magic) != 0)
        return tn_fail(err, TN_DATA, "%s: begins with other bytes; expected a saved "
                       "conversation (\"tenonses\")", what);
    if (i->order != ORDER_MARK)
        return tn_fail(err, TN_DATA, "%s: byte order %08x; expected %08x, this machine's", what,
                       i->order, ORDER_MARK);
    if (i->version != TN_SESSION_VERSION)
        return tn_fail(err, TN_DATA, "%s: version %u; expected %u", what, i->version,
                       TN_SESSION_VERSION);
    image_sum(i, sum);
    if (sum[0] != i->sum[0] || sum[1] != i->sum[1])
        return tn_fail(err, TN_DATA, "%s: damaged: the head's checksum is %016llx; expected "
                       "%016llx", what, (unsigned long long)i->sum[0], (unsigned long long)sum[0]);
    return head_check(what, &i->head, err);
}

/* -------------------------------------------------------------- what dead writers left */

/* ".NAME.0123456789abcdef"; `ending`: of any name that ends so. */
static bool is_temp(const char *file, const char *name, bool ending)
{
    size_t n = strlen(file), most = strlen(name) < TEMP_NAME_MAX ? strlen(name) : TEMP_NAME_MAX;
    if (n < TEMP_DIGITS + 2 + most || file[0] != '.' || file[n - TEMP_DIGITS - 1] != '.' ||
        strspn(file + n - TEMP_DIGITS, "0123456789abcdef") != TEMP_DIGITS)
        return false;
    size_t middle = n - TEMP_DIGITS - 2; /* bytes of its name */
    return (ending || middle == most) && memcmp(file + 1 + middle - most, name, most) == 0;
}

/* Whoever gets the lock of such a file knows that its writer is no more. */
static void remove_dead(int folder, const char *temp)
{
    struct stat s;
    int fd = openat(folder, temp, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return;
    if (fstat(fd, &s) == 0 && S_ISREG(s.st_mode) && s.st_uid == geteuid() &&
        flock(fd, LOCK_EX | LOCK_NB) == 0)
        unlinkat(folder, temp, 0);
    close(fd);
}

static void sweep(int folder, const char *name, bool ending)
{
    int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *e;
    while (d != NULL && (e = readdir(d)) != NULL)
        if (is_temp(e->d_name, name, ending))
            remove_dead(folder, e->d_name);
    if (d != NULL)
        closedir(d);
    else if (fd >= 0)
        close(fd);
}

void tn_session_sweep(const char *folder)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    sweep(fd, TN_SESSION_ENDING, true);
    close(fd);
}

/* ----------------------------------------------------------------------------- writing */

static tn_status os_fail(tn_err *err, tn_status st, const char *what, const char *doing, int e)
{
    if (e == EACCES || e == EPERM || e == EROFS)
        st = TN_NOPERM;
    return tn_fail(err, st, "%s: cannot %s: %s", what, doing, strerror(e));
}

static tn_status write_all(tn_session_file *f, const void *data, uint64_t size, tn_err *err)
{
    const uint8_t *at = data;
    tn_sip_put(&f->sum, data, size);
    while (size > 0) {
        ssize_t n = write(f->fd, at, size < PORTION ? size : PORTION);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return os_fail(err, TN_IO, f->what, "write", n < 0 ? errno : ENOSPC);
        at += n;
        size -= (uint64_t)n;
    }
    return TN_OK;
}

/* Folder and last part of the path. */
static tn_status folder_open(tn_session_file *f, const char *path, tn_err *err)
{
    const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path;
    char folder[PATH_SIZE];
    size_t n = slash == NULL ? 0 : slash == path ? 1 : (size_t)(slash - path);
    if (name[0] == 0 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
        strlen(name) >= sizeof f->name || n >= sizeof folder)
        return tn_fail(err, TN_CANTCREATE, "%s: no name for a file; expected one of 1 to %zu "
                       "bytes", f->what, sizeof f->name - 1);
    memcpy(folder, n > 0 ? path : ".", n > 0 ? n : 1);
    folder[n > 0 ? n : 1] = 0;
    snprintf(f->name, sizeof f->name, "%s", name);
    f->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (f->folder < 0)
        return os_fail(err, TN_CANTCREATE, f->what, "open its folder", errno);
    return TN_OK;
}

/* A writer holds a lock on its file, which ends with it however it ends. A sweep that came
 * between creating and locking has it: that name is lost. Where there are no locks, files of
 * dead writers stay. */
static bool temp_lock(int fd)
{
    struct stat s;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0)
        return errno != EWOULDBLOCK;
    return fstat(fd, &s) == 0 && s.st_nlink > 0;
}

static tn_status temp_open(tn_session_file *f, tn_err *err)
{
    for (int i = 0; i < TEMP_TRIES; i++) {
        uint64_t word;
        if (getrandom(&word, sizeof word, 0) != (ssize_t)sizeof word)
            return tn_fail(err, TN_OS, "%s: the system gave no random bytes", f->what);
        snprintf(f->temp, sizeof f->temp, ".%.*s.%0*llx", (int)TEMP_NAME_MAX, f->name,
                 (int)TEMP_DIGITS, (unsigned long long)word);
        f->fd = openat(f->folder, f->temp,
                       O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (f->fd >= 0 && temp_lock(f->fd))
            return TN_OK;
        if (f->fd < 0)
            break;
        close(f->fd);
        f->fd = -1;
        errno = EBUSY;
    }
    f->temp[0] = 0;
    return os_fail(err, TN_CANTCREATE, f->what, "create", errno);
}

static tn_session_file *file_new(const char *what)
{
    tn_session_file *f = calloc(1, sizeof *f);
    if (f == NULL)
        return NULL;
    f->fd = f->folder = -1;
    f->what = what;
    tn_sip_open(&f->sum, secret);
    return f;
}

tn_status tn_session_create(const char *path, const char *what, const tn_session_head *head,
                            tn_session_file **out, tn_err *err)
{
    image i = {.version = TN_SESSION_VERSION, .order = ORDER_MARK, .head = *head};
    memcpy(i.magic, magic, sizeof magic);
    image_sum(&i, i.sum);
    tn_status st = image_check(what, &i, err);
    if (st != TN_OK)
        return st;
    tn_session_file *f = file_new(what);
    if (f == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory", what);
    f->left = tn_session_parts_size(head);
    st = folder_open(f, path, err);
    if (st == TN_OK) {
        sweep(f->folder, f->name, false);
        st = temp_open(f, err);
    }
    if (st == TN_OK)
        st = write_all(f, &i, sizeof i, err);
    if (st != TN_OK) {
        tn_session_close(f);
        return st;
    }
    *out = f;
    return TN_OK;
}

tn_status tn_session_put(tn_session_file *f, const void *data, uint64_t size, tn_err *err)
{
    if (size > f->left)
        return tn_fail(err, TN_INTERNAL, "%s: %llu bytes more than its head says", f->what,
                       (unsigned long long)(size - f->left));
    f->left -= size;
    return write_all(f, data, size, err);
}

/* Gives the file its name. A link fails where the name is taken, a rename replaces. */
static tn_status take_place(tn_session_file *f, bool replace, tn_err *err)
{
    int r = replace ? renameat(f->folder, f->temp, f->folder, f->name)
                    : linkat(f->folder, f->temp, f->folder, f->name, 0);
    if (r != 0 && errno == EEXIST && !replace) {
        tn_fail(err, TN_REFUSED, "%s: exists already; expected a new name", f->what);
        snprintf(err->code, sizeof err->code, "session_exists");
        return TN_REFUSED;
    }
    if (r != 0)
        return os_fail(err, TN_CANTCREATE, f->what, "put it in its place", errno);
    if (replace)
        f->temp[0] = 0;
    if (fsync(f->folder) != 0 && errno != EINVAL)
        return os_fail(err, TN_IO, f->what, "flush its folder", errno);
    return TN_OK;
}

tn_status tn_session_commit(tn_session_file *f, bool replace, tn_err *err)
{
    uint64_t sum[2];
    if (f->left > 0)
        return tn_fail(err, TN_INTERNAL, "%s: %llu bytes fewer than its head says", f->what,
                       (unsigned long long)f->left);
    tn_sip_done(&f->sum, sum);
    tn_status st = write_all(f, sum, sizeof sum, err);
    if (st != TN_OK)
        return st;
    if (fsync(f->fd) != 0)
        return os_fail(err, TN_IO, f->what, "flush", errno);
    return take_place(f, replace, err);
}

/* ----------------------------------------------------------------------------- reading */

static tn_status read_all(tn_session_file *f, void *data, uint64_t size, tn_err *err)
{
    uint8_t *at = data;
    while (size > 0) {
        ssize_t n = read(f->fd, at, size < PORTION ? size : PORTION);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return os_fail(err, TN_IO, f->what, "read", errno);
        if (n == 0)
            return tn_fail(err, TN_DATA, "%s: cut short while it was read: %llu bytes are "
                           "missing; expected a whole file", f->what, (unsigned long long)size);
        at += n;
        size -= (uint64_t)n;
    }
    return TN_OK;
}

static tn_status head_read(tn_session_file *f, tn_session_head *head, tn_err *err)
{
    struct stat s;
    image i;
    if (fstat(f->fd, &s) != 0)
        return os_fail(err, TN_IO, f->what, "look at", errno);
    if (!S_ISREG(s.st_mode))
        return tn_fail(err, TN_DATA, "%s: not a plain file; expected a saved conversation",
                       f->what);
    if ((uint64_t)s.st_size < HEAD_SIZE + SUM_SIZE)
        return tn_fail(err, TN_DATA, "%s: %lld bytes; expected at least %u", f->what,
                       (long long)s.st_size, HEAD_SIZE + SUM_SIZE);
    tn_status st = read_all(f, &i, sizeof i, err);
    if (st == TN_OK)
        st = image_check(f->what, &i, err);
    if (st != TN_OK)
        return st;
    uint64_t whole = tn_session_file_size(&i.head);
    if ((uint64_t)s.st_size != whole)
        return tn_fail(err, TN_DATA, "%s: %lld bytes; expected %llu by its head", f->what,
                       (long long)s.st_size, (unsigned long long)whole);
    tn_sip_put(&f->sum, &i, sizeof i);
    f->left = tn_session_parts_size(&i.head);
    *head = i.head;
    return TN_OK;
}

tn_status tn_session_open(const char *path, const char *what, tn_session_file **out,
                          tn_session_head *head, tn_err *err)
{
    tn_session_file *f = file_new(what);
    if (f == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory", what);
    f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    tn_status st = TN_OK;
    if (f->fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        st = tn_fail(err, TN_NOINPUT, "%s: does not exist; expected a saved conversation", what);
    else if (f->fd < 0)
        st = os_fail(err, TN_IO, what, "open", errno);
    else
        st = head_read(f, head, err);
    if (st != TN_OK) {
        tn_session_close(f);
        return st;
    }
    *out = f;
    return TN_OK;
}

tn_status tn_session_get(tn_session_file *f, void *data, uint64_t size, tn_err *err)
{
    if (size > f->left)
        return tn_fail(err, TN_INTERNAL, "%s: read %llu bytes past its parts", f->what,
                       (unsigned long long)(size - f->left));
    tn_status st = read_all(f, data, size, err);
    if (st != TN_OK)
        return st;
    f->left -= size;
    tn_sip_put(&f->sum, data, size);
    return TN_OK;
}

tn_status tn_session_check(tn_session_file *f, tn_err *err)
{
    uint64_t sum[2], found[2];
    if (f->left > 0)
        return tn_fail(err, TN_INTERNAL, "%s: %llu bytes were not read", f->what,
                       (unsigned long long)f->left);
    tn_status st = read_all(f, found, sizeof found, err);
    if (st != TN_OK)
        return st;
    tn_sip_done(&f->sum, sum);
    if (sum[0] == found[0] && sum[1] == found[1])
        return TN_OK;
    return tn_fail(err, TN_DATA, "%s: damaged: its checksum is %016llx; expected %016llx",
                   f->what, (unsigned long long)found[0], (unsigned long long)sum[0]);
}

void tn_session_close(tn_session_file *f)
{
    if (f == NULL)
        return;
    if (f->temp[0] != 0)
        unlinkat(f->folder, f->temp, 0);
    if (f->fd >= 0)
        close(f->fd);
    if (f->folder >= 0)
        close(f->folder);
    free(f);
}

/* ----------------------------------------------------------------------------- copying */

static tn_status parts_copy(tn_session_file *in, tn_session_file *out, tn_err *err)
{
    uint8_t *part = malloc(PORTION);
    if (part == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory to copy it", in->what);
    tn_status st = TN_OK;
    while (st == TN_OK && in->left > 0) {
        uint64_t n = in->left < PORTION ? in->left : PORTION;
        st = tn_session_get(in, part, n, err);
        if (st == TN_OK)
            st = tn_session_put(out, part, n, err);
    }
    free(part);
    return st == TN_OK ? tn_session_check(in, err) : st;
}

tn_status tn_session_copy(const char *from, const char *from_what, const char *to,
                          const char *to_what, tn_err *err)
{
    tn_session_file *in = NULL, *out = NULL;
    tn_session_head head;
    tn_status st = tn_session_open(from, from_what, &in, &head, err);
    if (st == TN_OK)
        st = tn_session_create(to, to_what, &head, &out, err);
    if (st == TN_OK)
        st = parts_copy(in, out, err);
    if (st == TN_OK)
        st = tn_session_commit(out, false, err);
    tn_session_close(out);
    tn_session_close(in);
    return st;
}

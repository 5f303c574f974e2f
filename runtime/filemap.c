/* SPDX-License-Identifier: Apache-2.0 */
/* filemap.c - one regular file, mapped read-only, that remembers which file it was. */
#include "filemap.h"

#include "quote.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static tn_status refuse_errno(const char *path, int e, tn_err *err)
{
    const char *shown = tn_path_tail(path);
    if (e == ENOENT || e == ENOTDIR)
        return tn_fail(err, TN_NOINPUT, "%s: no such file", shown);
    if (e == EACCES || e == EPERM)
        return tn_fail(err, TN_NOPERM, "%s: no permission to read it", shown);
    if (e == ELOOP)
        return tn_fail(err, TN_DATA, "%s: a loop of links; expected a file", shown);
    if (e == ENXIO || e == ENAMETOOLONG)
        return tn_fail(err, TN_DATA, "%s: cannot be opened (%s); expected a regular file", shown,
                       e == ENXIO ? "no such device" : "name too long");
    if (e == ENOMEM)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory to map it", shown);
    return tn_fail(err, e == EIO ? TN_IO : TN_OS, "%s: cannot be read (errno %d)", shown, e);
}

static const char *kind_of(mode_t mode)
{
    return S_ISDIR(mode) ? "a folder" : S_ISFIFO(mode) ? "a FIFO" : S_ISSOCK(mode) ? "a socket"
           : S_ISCHR(mode) || S_ISBLK(mode) ? "a device" : "no regular file";
}

/* The real path of the file must begin with the real path of `inside`, and must still be the
 * file behind `opened`: a link that is turned between the two looks is refused too. */
static tn_status check_inside(const char *path, const char *inside, const struct stat *opened,
                              tn_err *err)
{
    tn_status st = TN_OK;
    struct stat now;
    char *dir = realpath(inside, NULL);
    char *file = realpath(path, NULL);
    if (dir == NULL || file == NULL) {
        st = refuse_errno(path, errno, err);
        goto done;
    }
    size_t n = strlen(dir);
    bool within = strncmp(file, dir, n) == 0 && (file[n] == '/' || (n > 0 && dir[n - 1] == '/'));
    if (!within)
        st = tn_fail(err, TN_DATA, "%s: a link that leaves the folder of the model; expected a "
                     "file inside it, or links to be allowed", tn_path_tail(path));
    else if (stat(file, &now) != 0 || now.st_ino != opened->st_ino || now.st_dev != opened->st_dev)
        st = tn_fail(err, TN_DATA, "%s: replaced while it was opened", tn_path_tail(path));
done:
    free(dir);
    free(file);
    return st;
}

static tn_status check_file(const char *path, const char *inside, const struct stat *s,
                            uint64_t size_max, tn_err *err)
{
    if (!S_ISREG(s->st_mode))
        return tn_fail(err, TN_DATA, "%s: %s; expected a regular file", tn_path_tail(path),
                       kind_of(s->st_mode));
    if (size_max > 0 && (uint64_t)s->st_size > size_max)
        return tn_fail(err, TN_DATA, "%s: %llu bytes; expected at most %llu", tn_path_tail(path),
                       (unsigned long long)s->st_size, (unsigned long long)size_max);
    return inside != NULL ? check_inside(path, inside, s, err) : TN_OK;
}

static tn_status map_bytes(tn_filemap *m, int fd, tn_err *err)
{
    if (m->size == 0)
        return TN_OK;
    void *p = mmap(NULL, (size_t)m->size, PROT_READ, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
    if (p == MAP_FAILED)
        return refuse_errno(m->path, errno, err);
    m->data = p;
    return TN_OK;
}

tn_status tn_filemap_open(tn_filemap *m, const char *path, const char *inside, uint64_t size_max,
                          tn_err *err)
{
    struct stat s;
    /* O_NONBLOCK: opening a FIFO without a writer must not hang. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return refuse_errno(path, errno, err);
    tn_filemap made = {0};
    tn_status st = fstat(fd, &s) == 0 ? check_file(path, inside, &s, size_max, err)
                                      : refuse_errno(path, errno, err);
    if (st != TN_OK)
        goto close_fd;
    made.size = (uint64_t)s.st_size;
    made.device = (uint64_t)s.st_dev;
    made.inode = (uint64_t)s.st_ino;
    made.mtime_s = s.st_mtim.tv_sec;
    made.mtime_ns = s.st_mtim.tv_nsec;
    made.path = strdup(path);
    st = made.path != NULL ? map_bytes(&made, fd, err) : refuse_errno(path, ENOMEM, err);
    if (st != TN_OK)
        free(made.path);
    else
        *m = made;
close_fd:
    close(fd);
    return st;
}

void tn_filemap_close(tn_filemap *m)
{
    if (m->data != NULL)
        munmap((void *)(uintptr_t)m->data, (size_t)m->size);
    free(m->path);
    *m = (tn_filemap){0};
}

tn_status tn_filemap_unchanged(const tn_filemap *m, tn_err *err)
{
    struct stat s;
    if (stat(m->path, &s) != 0)
        return tn_fail(err, TN_DATA, "%s: gone since it was opened; expected it unchanged",
                       tn_path_tail(m->path));
    if ((uint64_t)s.st_size != m->size)
        return tn_fail(err, TN_DATA, "%s: %llu bytes since it was opened with %llu; expected it "
                       "unchanged", tn_path_tail(m->path), (unsigned long long)s.st_size,
                       (unsigned long long)m->size);
    if ((uint64_t)s.st_ino != m->inode || (uint64_t)s.st_dev != m->device ||
        s.st_mtim.tv_sec != m->mtime_s || s.st_mtim.tv_nsec != m->mtime_ns)
        return tn_fail(err, TN_DATA, "%s: replaced or written since it was opened; expected it "
                       "unchanged", tn_path_tail(m->path));
    return TN_OK;
}

bool tn_filemap_is_pointer(const tn_filemap *m)
{
    static const char head[] = "version https://git-lfs";
    return m->size >= sizeof head - 1 && memcmp(m->data, head, sizeof head - 1) == 0;
}

void tn_filemap_soon(const void *data, uint64_t size)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)data / page * page;
    (void)madvise((void *)at, (size_t)((uintptr_t)data + size - at), MADV_WILLNEED);
}

void tn_filemap_advise(const tn_filemap *m, bool soon)
{
    if (m->data == NULL)
        return;
    void *p = (void *)(uintptr_t)m->data;
    if (soon) {
        (void)madvise(p, (size_t)m->size, MADV_SEQUENTIAL);
        (void)madvise(p, (size_t)m->size, MADV_WILLNEED);
    } else {
        (void)madvise(p, (size_t)m->size, MADV_DONTNEED);
    }
}

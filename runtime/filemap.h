/* SPDX-License-Identifier: Apache-2.0 */
/* filemap.h - one regular file, mapped read-only, that remembers which file it was.
 *
 * A file that is cut short while mapped raises SIGBUS at the next touch of the lost part; no
 * check can rule that out. Sizes are taken once, at open, and tn_filemap_unchanged tells
 * afterwards whether the file is still the one that was opened. */
#ifndef TN_FILEMAP_H
#define TN_FILEMAP_H

#include <tenon/plugin.h>

#include <stdbool.h>
#include <stdint.h>

typedef struct tn_filemap {
    const uint8_t *data; /* NULL for an empty file */
    uint64_t size;
    uint64_t device, inode;
    int64_t mtime_s, mtime_ns;
    char *path;          /* owned, as given */
} tn_filemap;

/* `inside`: a folder that the file must not leave, links followed; NULL: anywhere. What is no
 * regular file (folder, FIFO, device) is TN_DATA and is never waited for; TN_NOINPUT: absent;
 * TN_NOPERM; a size above size_max (0: any) is TN_DATA. */
tn_status tn_filemap_open(tn_filemap *m, const char *path, const char *inside, uint64_t size_max,
                          tn_err *err);
void tn_filemap_close(tn_filemap *m);
/* TN_DATA when the path now leads to another file, or to another size or time. */
tn_status tn_filemap_unchanged(const tn_filemap *m, tn_err *err);
/* What a clone without Git LFS has in place of a large file. */
bool tn_filemap_is_pointer(const tn_filemap *m);
/* Has the kernel fetch a piece of some map that will be read in a moment. */
void tn_filemap_soon(const void *data, uint64_t size);
/* Tells the kernel that the whole map will be read front to back, or is done with. */
void tn_filemap_advise(const tn_filemap *m, bool soon);

#endif

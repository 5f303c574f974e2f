/* SPDX-License-Identifier: Apache-2.0 */
/* sessionfile.h - a conversation in one file: its tokens, and what the cache knows of them.
 *
 *     head        256 bytes: what follows and for which model, with a checksum of its own
 *     ids         nid x i32, the whole conversation
 *     note        note_size bytes of text, the owner's business
 *     blocks      nblock x block_size, for the first ncached of the ids
 *     state       state_size, as it is behind ncached ids; none for models without
 *     checksum    16 bytes over everything before
 *
 * Numbers are in the byte order of the machine that wrote it; another refuses it. Writing goes
 * to a file of another name, ".NAME." and 16 digits, which takes its place at once when it is
 * whole, so no reader ever meets half a file, whenever the writer dies. What a dead writer left
 * is removed by the next one of that name, and by tn_session_sweep. Reading needs no memory that the
 * file could ask for: the caller brings it, once the head was found to be true.
 *
 * `what` names the file in messages, whoever they go to; it lives as long as the file. */
#ifndef TN_SESSIONFILE_H
#define TN_SESSIONFILE_H

#include <tenon/plugin.h>

#include <stdbool.h>

#define TN_SESSION_VERSION 1u
#define TN_SESSION_TOKENS_MAX (1u << 24)
#define TN_SESSION_NOTE_MAX (UINT64_C(64) << 20)
#define TN_SESSION_STATE_MAX (UINT64_C(1) << 32) /* also of a block */

typedef struct tn_session_head {
    uint64_t fingerprint[2];     /* of the model and of how it is held */
    uint64_t owner[2];           /* whose it is; zeros: nobody's in particular */
    uint64_t block_size, state_size, note_size; /* bytes */
    uint32_t block_tokens;
    uint32_t nid, ncached, nblock;
    int64_t created;             /* seconds since 1970 */
    char model[64];              /* for people */
} tn_session_head;

/* All bytes of a file with this head, and those of its parts. */
uint64_t tn_session_file_size(const tn_session_head *head);
uint64_t tn_session_parts_size(const tn_session_head *head);

typedef struct tn_session_file tn_session_file;

/* Removes what dead writers left of files in the folder whose names have the ending. */
#define TN_SESSION_ENDING ".session"
void tn_session_sweep(const char *folder);

/* Begins a file that will be `path`, mode 0600. TN_CANTCREATE, TN_NOPERM, TN_IO. */
tn_status tn_session_create(const char *path, const char *what, const tn_session_head *head,
                            tn_session_file **out, tn_err *err);
/* The parts in their order, in portions of any size. */
tn_status tn_session_put(tn_session_file *f, const void *data, uint64_t size, tn_err *err);
/* Makes it visible, once all is put. `replace` false: TN_REFUSED with code session_exists when
 * there is such a file. The file is still to be closed. */
tn_status tn_session_commit(tn_session_file *f, bool replace, tn_err *err);

/* TN_NOINPUT when there is none; TN_DATA when it is damaged, cut short or no such file at all;
 * *head is as good as its writer. */
tn_status tn_session_open(const char *path, const char *what, tn_session_file **out,
                          tn_session_head *head, tn_err *err);
tn_status tn_session_get(tn_session_file *f, void *data, uint64_t size, tn_err *err);
/* After the last part: TN_DATA unless the checksum is right. Only then is what was read true. */
tn_status tn_session_check(tn_session_file *f, tn_err *err);
/* Also a writer's that was not committed: nothing of it stays. NULL is closed already. */
void tn_session_close(tn_session_file *f);

/* A second file with the content of the first, checked on the way. */
tn_status tn_session_copy(const char *from, const char *from_what, const char *to,
                          const char *to_what, tn_err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors.h - a set of mapped safetensors files and the tensors in them, by name.
 *
 * Files are added one by one; a name belongs to one tensor over all files of the set. Headers
 * are read in one pass without a tree, so 10^6 tensors cost time and memory in proportion.
 * After the last add a set is read-only; any thread. */
#ifndef TN_SAFETENSORS_H
#define TN_SAFETENSORS_H

#include <tenon/plugin.h>

#include <stdbool.h>

#define TN_ST_HEADER_MAX 100000000u /* bytes; the reference implementation's limit too */
#define TN_ST_TENSORS_MAX 1000000u  /* of a set */
#define TN_ST_NAME_MAX 1024u        /* bytes of a tensor's name */
#define TN_ST_DIMS_MAX 8u

/* A type's name in the files ("F16"), NULL for a number that is no TN_* type. */
const char *tn_st_dtype_name(uint32_t dtype);
uint32_t tn_st_dtype_bits(uint32_t dtype); /* 0 for no type */

typedef struct tn_st tn_st;

tn_status tn_st_open(tn_st **out, tn_err *err);
void tn_st_close(tn_st *s); /* unmaps all */

/* Maps the file `name` (relative) of folder `dir` and reads its header. `inside`: a folder
 * that links must not leave, or NULL. On failure the set is only good for closing. */
tn_status tn_st_add(tn_st *s, const char *dir, const char *name, const char *inside, tn_err *err);

uint32_t tn_st_files(const tn_st *s);
const char *tn_st_file(const tn_st *s, uint32_t i);      /* its name as given to add */
uint64_t tn_st_file_size(const tn_st *s, uint32_t i);
const void *tn_st_file_data(const tn_st *s, uint32_t i); /* all of it, borrowed */
uint64_t tn_st_count(const tn_st *s);                    /* tensors */
uint64_t tn_st_data_bytes(const tn_st *s);               /* of all tensors */

/* The i-th tensor in the order of the headers; false past the end. A type that plugin.h has
 * no number for (F4, F6, E8M0, complex) reads as dtype 0 with its bytes. */
bool tn_st_at(const tn_st *s, uint64_t i, const char **name, tn_tensor *out);
/* Its index, TN_NONE when there is none. */
uint32_t tn_st_find(const tn_st *s, const char *name);
uint32_t tn_st_file_of(const tn_st *s, uint64_t i);

tn_status tn_st_unchanged(const tn_st *s, tn_err *err);
void tn_st_advise(const tn_st *s, bool soon);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* scratchdir.h - a temporary folder for a test that needs files, and what fills it. */
#ifndef TN_SCRATCHDIR_H
#define TN_SCRATCHDIR_H

#include <fcntl.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct scratch {
    char dir[64];
    char path[512]; /* of the last scratch_path */
} scratch;

static inline void scratch_open(scratch *s)
{
    snprintf(s->dir, sizeof s->dir, "/tmp/tenon-test-XXXXXX");
    if (mkdtemp(s->dir) == NULL)
        abort();
}

static inline int scratch_remove(const char *path, const struct stat *st, int type,
                                 struct FTW *f)
{
    (void)st;
    (void)type;
    (void)f;
    return remove(path);
}

static inline void scratch_close(scratch *s)
{
    nftw(s->dir, scratch_remove, 16, FTW_DEPTH | FTW_PHYS);
}

static inline const char *scratch_path(scratch *s, const char *name)
{
    snprintf(s->path, sizeof s->path, "%s/%s", s->dir, name);
    return s->path;
}

static inline void scratch_write(scratch *s, const char *name, const void *data, size_t size)
{
    FILE *f = fopen(scratch_path(s, name), "wb");
    if (f == NULL || (size > 0 && fwrite(data, 1, size, f) != size) || fclose(f) != 0)
        abort();
}

static inline void scratch_text(scratch *s, const char *name, const char *text)
{
    scratch_write(s, name, text, strlen(text));
}

/* The whole file, terminated; free() it. NULL when there is none. */
static inline char *scratch_read(scratch *s, const char *name, size_t *size)
{
    struct stat st;
    FILE *f = fopen(scratch_path(s, name), "rb");
    if (f == NULL)
        return NULL;
    if (fstat(fileno(f), &st) != 0)
        abort();
    char *text = malloc((size_t)st.st_size + 1);
    if (text == NULL || fread(text, 1, (size_t)st.st_size, f) != (size_t)st.st_size)
        abort();
    text[st.st_size] = 0;
    fclose(f);
    if (size != NULL)
        *size = (size_t)st.st_size;
    return text;
}

static inline bool scratch_has(scratch *s, const char *name)
{
    return access(scratch_path(s, name), F_OK) == 0;
}

/* A safetensors file: the length of `header`, the header, `data_size` bytes 0, 1, 2, ... */
static inline void scratch_safetensors(scratch *s, const char *name, const char *header,
                                       size_t header_size, size_t data_size)
{
    uint8_t *all = malloc(8 + header_size + data_size + 1);
    if (all == NULL)
        abort();
    for (int i = 0; i < 8; i++)
        all[i] = (uint8_t)((uint64_t)header_size >> (8 * i));
    memcpy(all + 8, header, header_size);
    for (size_t i = 0; i < data_size; i++)
        all[8 + header_size + i] = (uint8_t)i;
    scratch_write(s, name, all, 8 + header_size + data_size);
    free(all);
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_safetensors.c - any bytes as a safetensors file, or as the index of a model folder.
 *
 * The first byte chooses. Files live in memory and are reached through /proc/self/fd. */
#include "checkpoint.h"
#include "safetensors.h"
#include "scratchdir.h"

#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int ok)
{
    if (!ok)
        abort();
}

static void read_all(const tn_st *s)
{
    tn_tensor t;
    const char *name = NULL;
    volatile uint8_t sum = 0;
    for (uint64_t i = 0; tn_st_at(s, i, &name, &t); i++) {
        check(tn_st_find(s, name) == i);
        for (uint64_t k = 0; k < t.data_size && k < 64; k++)
            sum = (uint8_t)(sum + ((const uint8_t *)t.data)[k]);
        if (t.data_size > 0)
            sum = (uint8_t)(sum + ((const uint8_t *)t.data)[t.data_size - 1]);
    }
}

static void as_file(int fd)
{
    char name[16];
    tn_err err = {.text = ""};
    tn_st *s = NULL;
    snprintf(name, sizeof name, "%d", fd);
    check(tn_st_open(&s, &err) == TN_OK);
    tn_status st = tn_st_add(s, "/proc/self/fd", name, NULL, &err);
    if (st == TN_OK)
        read_all(s);
    else
        check(err.text[0] != 0);
    tn_st_close(s);
}

/* A folder with two shards whose index is a link to the bytes. */
static const char *folder_for(int fd)
{
    static scratch s;
    static const char one[] = "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}";
    static const char two[] = "{\"b\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,2]}}";
    char target[64];
    if (s.dir[0] == 0) {
        scratch_open(&s);
        scratch_text(&s, "config.json", "{}");
        scratch_safetensors(&s, "one.safetensors", one, sizeof one - 1, 4);
        scratch_safetensors(&s, "two.safetensors", two, sizeof two - 1, 2);
        snprintf(target, sizeof target, "/proc/self/fd/%d", fd);
        check(symlink(target, scratch_path(&s, "model.safetensors.index.json")) == 0);
    }
    return s.dir;
}

static void as_index(int fd)
{
    tn_ckpt *c = NULL;
    tn_err err = {.text = ""};
    if (tn_ckpt_open(folder_for(fd), TN_CKPT_FOLLOW, &c, &err) == TN_OK) {
        check(tn_ckpt_view(c)->ntensor > 0);
        tn_ckpt_close(c);
    } else {
        check(err.text[0] != 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    if (fd < 0)
        fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (size == 0 || fd < 0)
        return 0;
    check(ftruncate(fd, 0) == 0);
    check(pwrite(fd, data + 1, size - 1, 0) == (ssize_t)(size - 1));
    if (data[0] % 4 == 0)
        as_index(fd);
    else
        as_file(fd);
    return 0;
}

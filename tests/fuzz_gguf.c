/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_gguf.c - any bytes as a GGUF file, read and followed as far as an import would go. */
#include "buf.h"
#include "gguf.h"
#include "import_model.h"
#include "import_vocab.h"
#include "json.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int ok)
{
    if (!ok)
        abort();
}

static void read_tensors(const tn_gguf *g)
{
    float out[1024];
    for (uint64_t i = 0; i < tn_gguf_tensors(g); i++) {
        const tn_gguf_tensor *t = tn_gguf_tensor_at(g, i);
        check(tn_gguf_tensor_find(g, t->name) == t);
        uint64_t n = t->dim[0] < 1024 ? t->dim[0] : 1024 / t->type->block * t->type->block;
        if (t->type->read != NULL)
            t->type->read(t->data + (t->rows - 1) * t->row_size, (size_t)n, out);
    }
}

static void read_keys(const tn_gguf *g)
{
    tn_err err;
    tn_gguf_text *list = NULL;
    int64_t n;
    double d;
    for (uint64_t i = 0; i < tn_gguf_keys(g); i++) {
        const tn_gguf_kv *kv = tn_gguf_key_at(g, i);
        check(tn_gguf_find(g, kv->key) == kv);
        if (tn_gguf_texts(g, kv, &list, &err) == TN_OK) {
            for (uint64_t k = 0; k < kv->count; k++)
                check(list[k].size <= kv->size);
            free(list);
        }
        for (uint64_t k = 0; k < kv->count && k < 100; k++)
            if (!tn_gguf_item_int(kv, k, &n))
                (void)tn_gguf_item_float(kv, k, &d);
    }
}

/* What is written must be JSON again. */
static void is_json(const tn_buf *b)
{
    tn_json_doc *doc = NULL;
    tn_err err;
    if (b->failed)
        return;
    check(tn_json_open(b->data, b->len, "made", TN_JSON_DEPTH_FILE, &doc, &err) == TN_OK);
    tn_json_close(doc);
}

static void write_vocab(const tn_import_model *m, tn_err *err)
{
    tn_import_vocab v;
    tn_buf b;
    if (tn_import_vocab_read(m, &v, err) != TN_OK)
        return;
    tn_buf_open(&b, 1u << 26);
    if (tn_import_tokenizer(m, &v, &b, err) == TN_OK)
        is_json(&b);
    tn_buf_reset(&b);
    if (tn_import_tokenizer_config(m, &v, &b, err) == TN_OK)
        is_json(&b);
    tn_buf_reset(&b);
    tn_import_special_map(m, &v, &b);
    is_json(&b);
    tn_buf_close(&b);
    tn_import_vocab_close(&v);
}

static void write_model(const tn_gguf *g, tn_err *err)
{
    tn_import_model m;
    tn_import_tensor *list = NULL;
    uint64_t n = 0;
    tn_buf b;
    if (tn_import_model_read(g, &m, err) != TN_OK)
        return;
    if (tn_import_tensors(&m, &list, &n, err) == TN_OK)
        free(list);
    tn_buf_open(&b, 1u << 20);
    tn_import_config(&m, TN_F16, &b);
    is_json(&b);
    tn_buf_reset(&b);
    if (tn_import_generation(&m, &b, err) == TN_OK)
        is_json(&b);
    tn_buf_close(&b);
    write_vocab(&m, err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    char path[32];
    tn_gguf *g = NULL;
    tn_err err = {.text = ""};
    if (fd < 0)
        fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0)
        return 0;
    check(ftruncate(fd, 0) == 0);
    check(pwrite(fd, data, size, 0) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (tn_gguf_open(path, &g, &err) == TN_OK) {
        read_tensors(g);
        read_keys(g);
        write_model(g, &err);
        tn_gguf_close(g);
    } else {
        check(err.text[0] != 0);
    }
    return 0;
}

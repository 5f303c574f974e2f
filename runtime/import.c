/* SPDX-License-Identifier: Apache-2.0 */
/* import.c - turns one GGUF file into a Hugging Face model folder.
 *
 * Order of work: everything that can be refused is read and checked before a byte is
 * written; then the weights go out in pieces of some megabytes, so memory stays flat. */
#include "import.h"

#include "buf.h"
#include "floats.h"
#include "gguf.h"
#include "import_model.h"
#include "import_vocab.h"
#include "quote.h"
#include "stwriter.h"
#include "utf8seq.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE_VALUES ((uint64_t)1 << 20) /* values dequantized at once, at least one head */
#define TEXT_MAX ((size_t)256 << 20)     /* tokenizer.json at most */

typedef struct job {
    tn_import_options o;
    const char *dir;
    tn_gguf *g;
    tn_import_model model;
    tn_import_vocab vocab;
    tn_import_tensor *tensor; /* owned */
    uint64_t ntensor;
    tn_stw *writer;
    uint64_t total;           /* bytes of all tensors as written */
    uint64_t odd;             /* values that are no finite numbers */
    bool made;                /* the folder was not there */
    bool has_template;        /* chat_template.jinja is written */
    tn_err *err;
} job;

static tn_status progress(const job *j, const char *what)
{
    uint64_t done = j->writer != NULL ? tn_stw_bytes(j->writer) : 0;
    if (j->o.progress != NULL && j->o.progress(j->o.ctx, what, done, j->total) != 0)
        return tn_fail(j->err, TN_CANCELLED, "%s: stopped before it was whole",
                       tn_path_tail(j->dir));
    return TN_OK;
}

static void note(const job *j, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void note(const job *j, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    if (j->o.note == NULL)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    j->o.note(j->o.ctx, text);
}

static uint32_t value_size(uint32_t dtype)
{
    return dtype == TN_F32 ? 4 : 2;
}

/* ------------------------------------------------------------------------------- weights */

/* Where row r of a head belongs. GGUF interleaves the two halves of a head: its row 2i + p is
 * row p * head / 2 + i. */
static uint64_t row_place(uint64_t r, uint64_t head_dim)
{
    if (head_dim == 0)
        return r;
    uint64_t in = r % head_dim;
    return r - in + in % 2 * (head_dim / 2) + in / 2;
}

/* f16 ends at 65504: a larger value would become infinite. Values that are none already are
 * counted and kept. */
static tn_status check_values(job *j, const tn_import_tensor *t, const float *v, uint64_t n)
{
    float most = 0;
    uint64_t odd = 0;
    for (uint64_t i = 0; i < n; i++) {
        float a = fabsf(v[i]);
        if (a <= 3.4028235e38f)
            most = a > most ? a : most;
        else
            odd++;
    }
    j->odd += odd;
    if (j->o.dtype == TN_F16 && most >= 65520.0f)
        return tn_fail(j->err, TN_DATA, "tensor %s holds %g; expected at most 65504 for float16 "
                       "(import as bfloat16 instead)", t->name, (double)most);
    return TN_OK;
}

static void narrow_row(uint32_t dtype, const float *v, uint64_t n, uint8_t *out)
{
    if (dtype == TN_F32)
        memcpy(out, v, (size_t)n * 4);
    else if (dtype == TN_BF16)
        tn_row_bf16(v, (size_t)n, out);
    else
        tn_row_f16(v, (size_t)n, out);
}

static tn_status write_tensor(job *j, uint64_t index, float *values, uint8_t *bytes)
{
    const tn_import_tensor *t = &j->tensor[index];
    const tn_gguf_tensor *from = t->from;
    /* A permuted bias is a column of one-value rows to the permutation. */
    bool column = t->ndim == 1 && t->head_dim > 0;
    uint64_t rows = column ? from->dim[0] : from->rows;
    uint64_t cols = column ? 1 : from->dim[0];
    uint64_t unit = t->head_dim > 0 ? t->head_dim : 1;
    uint64_t step = PIECE_VALUES / (cols * unit) > 0 ? PIECE_VALUES / (cols * unit) * unit : unit;
    uint64_t row_bytes = cols * value_size(j->o.dtype);
    if (column)
        step = rows; /* one row of the file; never more than a head count times a head */
    for (uint64_t row = 0; row < rows; row += step) {
        uint64_t n = rows - row < step ? rows - row : step;
        from->type->read(from->data + (column ? 0 : row * from->row_size), (size_t)(n * cols),
                         values);
        tn_status st = check_values(j, t, values, n * cols);
        if (st != TN_OK)
            return st;
        for (uint64_t r = 0; r < n; r++)
            narrow_row(j->o.dtype, values + r * cols, cols,
                       bytes + row_place(r, t->head_dim) * row_bytes);
        st = tn_stw_put(j->writer, index, row * row_bytes, bytes, n * row_bytes, j->err);
        if (st != TN_OK)
            return st;
    }
    return TN_OK;
}

/* The largest piece of any tensor, in values. */
static uint64_t piece_values(const job *j)
{
    uint64_t most = PIECE_VALUES;
    for (uint64_t i = 0; i < j->ntensor; i++) {
        const tn_import_tensor *t = &j->tensor[i];
        uint64_t unit = t->ndim == 1 ? 1 : t->head_dim > 0 ? t->head_dim : 1;
        uint64_t n = t->from->dim[0] * unit;
        most = n > most ? n : most;
    }
    return most;
}

static tn_status write_weights(job *j)
{
    uint64_t n = piece_values(j);
    tn_status st = TN_OK;
    float *values = malloc((size_t)n * sizeof *values);
    uint8_t *bytes = malloc((size_t)n * value_size(j->o.dtype));
    if (values == NULL || bytes == NULL)
        st = tn_fail(j->err, TN_NO_MEMORY, "%s: no memory for %llu values at once",
                     tn_gguf_path(j->g), (unsigned long long)n);
    for (uint64_t i = 0; i < j->ntensor && st == TN_OK; i++) {
        st = progress(j, j->tensor[i].name);
        if (st == TN_OK)
            st = write_tensor(j, i, values, bytes);
    }
    free(values);
    free(bytes);
    return st;
}

static tn_status plan_weights(job *j)
{
    tn_stw_entry *list = calloc((size_t)j->ntensor + 1, sizeof *list);
    if (list == NULL)
        return tn_fail(j->err, TN_NO_MEMORY, "%s: no memory for its tensors", tn_gguf_path(j->g));
    for (uint64_t i = 0; i < j->ntensor; i++) {
        const tn_import_tensor *t = &j->tensor[i];
        list[i] = (tn_stw_entry){.name = t->name, .dtype = j->o.dtype, .ndim = t->ndim};
        memcpy(list[i].dim, t->dim, sizeof t->dim);
        j->total += t->dim[0] * t->dim[1] * value_size(j->o.dtype);
    }
    tn_status st = tn_stw_plan(j->writer, list, j->ntensor, j->err);
    free(list);
    return st;
}

/* ---------------------------------------------------------------------------- small files */

typedef tn_status (*put_file)(job *j, tn_buf *out);

static tn_status put_tokenizer(job *j, tn_buf *out)
{
    return tn_import_tokenizer(&j->model, &j->vocab, out, j->err);
}

static tn_status put_tokenizer_config(job *j, tn_buf *out)
{
    return tn_import_tokenizer_config(&j->model, &j->vocab, out, j->err);
}

static tn_status put_special_map(job *j, tn_buf *out)
{
    tn_import_special_map(&j->model, &j->vocab, out);
    return TN_OK;
}

static tn_status put_generation(job *j, tn_buf *out)
{
    return tn_import_generation(&j->model, out, j->err);
}

static tn_status put_config(job *j, tn_buf *out)
{
    tn_import_config(&j->model, j->o.dtype, out);
    return TN_OK;
}

/* Empty when the file has no template, or has several and they went into the config. */
static tn_status put_template(job *j, tn_buf *out)
{
    tn_gguf_text text;
    const tn_gguf_kv *names = tn_gguf_find(j->g, "tokenizer.chat_templates");
    tn_status st = tn_gguf_get_text(j->g, "tokenizer.chat_template", &text, j->err);
    if (st != TN_OK || text.text == NULL || (names != NULL && names->count > 0))
        return st;
    if (!tn_is_utf8(text.text, (size_t)text.size))
        return tn_fail(j->err, TN_DATA, "%s: tokenizer.chat_template: expected valid UTF-8",
                       tn_gguf_path(j->g));
    tn_buf_put(out, text.text, (size_t)text.size);
    j->has_template = text.size > 0;
    return TN_OK;
}

static tn_status write_file(job *j, const char *name, put_file put)
{
    tn_buf text;
    tn_buf_open(&text, TEXT_MAX);
    tn_status st = progress(j, name);
    if (st == TN_OK)
        st = put(j, &text);
    if (st == TN_OK && text.failed)
        st = tn_fail(j->err, TN_NO_MEMORY, "%s: no memory for it, or larger than %zu bytes", name,
                     TEXT_MAX);
    if (st == TN_OK && text.len > 0)
        st = tn_stw_file(j->writer, name, text.data, text.len, j->err);
    tn_buf_close(&text);
    return st;
}

static tn_status write_files(job *j)
{
    static const struct {
        const char *name;
        put_file put;
    } files[] = {
        {"tokenizer.json", put_tokenizer},
        {"tokenizer_config.json", put_tokenizer_config},
        {"special_tokens_map.json", put_special_map},
        {"chat_template.jinja", put_template},
        {"generation_config.json", put_generation},
        {"config.json", put_config}, /* last: it marks the folder as whole */
    };
    tn_status st = TN_OK;
    for (size_t i = 0; i < sizeof files / sizeof files[0] && st == TN_OK; i++)
        st = write_file(j, files[i].name, files[i].put);
    return st;
}

/* Files of the model that was there before, which readers would take for the new one's. */
static void remove_old(const job *j)
{
    static const char *const names[] = {
        "quantize_config.json", "quant_config.json", "chat_template.json", "added_tokens.json",
        "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja",
    };
    size_t n = sizeof names / sizeof names[0] - (j->has_template ? 1 : 0);
    int dir = open(j->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (size_t i = 0; i < n && dir >= 0; i++)
        (void)unlinkat(dir, names[i], 0);
    if (dir >= 0)
        close(dir);
}

/* ----------------------------------------------------------------------------- the whole */

static tn_status make_dir(job *j)
{
    char path[4096];
    struct stat s;
    const char *shown = tn_path_tail(j->dir);
    j->made = mkdir(j->dir, 0777) == 0;
    if (j->made)
        return TN_OK;
    if (errno != EEXIST)
        return tn_fail(j->err, TN_CANTCREATE, "%s: cannot make the folder: %s", shown,
                       errno == ENOENT ? "its parent does not exist" : errno == EACCES ?
                       "no permission" : errno == ENOSPC ? "no space left on the disk" :
                       errno == EROFS ? "read-only" : "the system refused");
    if (stat(j->dir, &s) != 0 || !S_ISDIR(s.st_mode))
        return tn_fail(j->err, TN_CANTCREATE, "%s: not a folder; expected one, or nothing", shown);
    int n = snprintf(path, sizeof path, "%s/config.json", j->dir);
    if (n < 0 || (size_t)n >= sizeof path)
        return tn_fail(j->err, TN_CANTCREATE, "%s: a path of %d bytes; expected fewer than 4096",
                       shown, n);
    if (!j->o.overwrite && access(path, F_OK) == 0)
        return tn_fail(j->err, TN_CANTCREATE, "%s: holds a model already; expected an empty "
                       "folder, or leave to overwrite", shown);
    return TN_OK;
}

static tn_status read_source(job *j, const char *path)
{
    tn_status st = tn_gguf_open(path, &j->g, j->err);
    if (st == TN_OK)
        st = tn_import_model_read(j->g, &j->model, j->err);
    if (st == TN_OK)
        st = tn_import_tensors(&j->model, &j->tensor, &j->ntensor, j->err);
    return st == TN_OK ? tn_import_vocab_read(&j->model, &j->vocab, j->err) : st;
}

static tn_status write_folder(job *j)
{
    tn_status st = make_dir(j);
    if (st == TN_OK)
        st = tn_stw_open(j->dir, j->o.shard_max, &j->writer, j->err);
    if (st == TN_OK)
        st = plan_weights(j);
    if (st == TN_OK)
        st = write_weights(j);
    if (st == TN_OK)
        st = write_files(j);
    if (st == TN_OK)
        st = tn_gguf_unchanged(j->g, j->err);
    if (st == TN_OK)
        st = progress(j, "forcing it to disk");
    if (st == TN_OK)
        st = tn_stw_finish(j->writer, j->o.overwrite, j->err);
    if (st == TN_OK && j->o.overwrite)
        remove_old(j);
    return st;
}

tn_status tn_import(const char *gguf, const char *dir, const tn_import_options *options,
                    tn_err *err)
{
    job j = {.dir = dir, .err = err};
    if (options != NULL)
        j.o = *options;
    if (j.o.dtype == 0)
        j.o.dtype = TN_F16;
    if (j.o.dtype != TN_F16 && j.o.dtype != TN_BF16 && j.o.dtype != TN_F32)
        return tn_fail(err, TN_USAGE, "import: type %u; expected float16, bfloat16 or float32",
                       j.o.dtype);
    tn_status st = read_source(&j, gguf);
    if (st == TN_OK)
        st = write_folder(&j);
    if (st == TN_OK && j.odd > 0)
        note(&j, "%s: %llu values of the weights are not finite numbers", tn_gguf_path(j.g),
             (unsigned long long)j.odd);
    if (st == TN_OK && tn_gguf_find(j.g, "tokenizer.ggml.pre") == NULL && j.vocab.pre != NULL)
        note(&j, "%s: no tokenizer.ggml.pre: text is cut as GPT-2 does", tn_gguf_path(j.g));
    tn_stw_close(j.writer);
    if (st != TN_OK && j.made)
        (void)rmdir(j.dir); /* empty: nothing was written under its own name */
    tn_import_vocab_close(&j.vocab);
    free(j.tensor);
    tn_gguf_close(j.g);
    return st;
}

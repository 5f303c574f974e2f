/* SPDX-License-Identifier: Apache-2.0 */
/* checkpoint.c - a model folder: its configs and every tensor of its safetensors files. */
#include "checkpoint.h"

#include "ckptparts.h"
#include "floats.h"
#include "json.h"
#include "quote.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* What others read of the folder. Held open so that they, too, stay inside it and are the same
 * files at the end of a load. */
static const char *const side_names[] = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
    "chat_template.json", "additional_chat_templates/tool_use.jinja", "quantize_config.json",
    "quant_config.json", /* quantizations may read both */
};
#define NSIDE (sizeof side_names / sizeof side_names[0])

struct tn_ckpt {
    char *dir;                 /* owned */
    tn_ckpt_place place;
    tn_ckpt_json config, generation, older;
    tn_filemap index, side[NSIDE];
    tn_st *set;
    tn_view view;
};

static int32_t view_find(const tn_view *v, const char *name, tn_tensor *out)
{
    const tn_ckpt *c = v->ctx;
    return tn_st_at(c->set, tn_st_find(c->set, name), NULL, out) ? 1 : 0;
}

static int32_t view_at(const tn_view *v, uint64_t i, const char **name, tn_tensor *out)
{
    const tn_ckpt *c = v->ctx;
    return tn_st_at(c->set, i, name, out) ? 1 : 0;
}

static tn_status check_folder(const char *dir, tn_err *err)
{
    struct stat s;
    const char *shown = tn_path_tail(dir);
    if (stat(dir, &s) != 0)
        return tn_fail(err, errno == EACCES ? TN_NOPERM : TN_NOINPUT, "%s: %s", shown,
                       errno == EACCES ? "no permission to read it" : "no such folder");
    if (!S_ISDIR(s.st_mode))
        return tn_fail(err, TN_DATA, "%s: a file; expected the folder of a model (a GGUF file is "
                       "imported first)", shown);
    return TN_OK;
}

static tn_status open_side(tn_ckpt *c, tn_err *err)
{
    tn_status st = TN_OK;
    size_t size = strlen(c->dir) + 64; /* more than any of the names needs */
    char *path = malloc(size);
    if (path == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory to open it", tn_path_tail(c->dir));
    for (size_t i = 0; i < NSIDE && st == TN_OK; i++) {
        snprintf(path, size, "%s/%s", c->dir, side_names[i]);
        st = tn_filemap_open(&c->side[i], path, c->place.inside, 0, err);
        st = st == TN_NOINPUT ? TN_OK : st;
    }
    free(path);
    return st;
}

static tn_status open_parts(tn_ckpt *c, uint32_t flags, tn_err *err)
{
    tn_status st = tn_ckpt_json_open(&c->place, "config.json", true, &c->config, err);
    if (st != TN_OK)
        return st;
    c->view.config = tn_json_root(c->config.doc);
    st = tn_ckpt_json_open(&c->place, "generation_config.json", false, &c->generation, err);
    if (st == TN_OK)
        st = tn_ckpt_find_quant(&c->place, c->view.config, &c->older, &c->view.quant,
                                &c->view.quant_file, err);
    if (st == TN_OK)
        st = open_side(c, err);
    if (st == TN_OK && (flags & TN_CKPT_NO_WEIGHTS) == 0)
        st = tn_ckpt_weights(&c->place, c->set, &c->index, err);
    return st;
}

tn_status tn_ckpt_open(const char *dir, uint32_t flags, tn_ckpt **out, tn_err *err)
{
    tn_status st = check_folder(dir, err);
    if (st != TN_OK)
        return st;
    tn_ckpt *c = calloc(1, sizeof *c);
    if (c == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory to open it", tn_path_tail(dir));
    tn_buf_open(&c->place.note, TN_CKPT_NOTE_MAX);
    c->dir = strdup(dir);
    st = c->dir != NULL ? tn_st_open(&c->set, err)
                        : tn_fail(err, TN_NO_MEMORY, "%s: no memory to open it", tn_path_tail(dir));
    if (st == TN_OK) {
        c->place.dir = c->dir;
        c->place.inside = (flags & TN_CKPT_FOLLOW) != 0 ? NULL : c->dir;
        c->place.lax = (flags & TN_CKPT_LAX) != 0;
        c->view = (tn_view){.size = sizeof c->view, .ctx = c, .dir = c->dir, .find = view_find,
                            .at = view_at};
        st = open_parts(c, flags, err);
    }
    if (st == TN_OK && c->place.note.failed)
        st = tn_fail(err, TN_NO_MEMORY, "%s: no memory to open it", tn_path_tail(dir));
    if (st != TN_OK) {
        tn_ckpt_close(c);
        return st;
    }
    c->view.ntensor = tn_st_count(c->set);
    *out = c;
    return TN_OK;
}

void tn_ckpt_close(tn_ckpt *c)
{
    if (c == NULL)
        return;
    tn_st_close(c->set);
    for (size_t i = 0; i < NSIDE; i++)
        tn_filemap_close(&c->side[i]);
    tn_filemap_close(&c->index);
    tn_ckpt_json_close(&c->older);
    tn_ckpt_json_close(&c->generation);
    tn_ckpt_json_close(&c->config);
    tn_buf_close(&c->place.note);
    free(c->dir);
    free(c);
}

const tn_view *tn_ckpt_view(const tn_ckpt *c)
{
    return &c->view;
}

const tn_json *tn_ckpt_generation(const tn_ckpt *c)
{
    return c->generation.doc != NULL ? tn_json_root(c->generation.doc) : NULL;
}

uint64_t tn_ckpt_bytes(const tn_ckpt *c)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < tn_st_files(c->set); i++)
        bytes += tn_st_file_size(c->set, i);
    return bytes;
}

uint32_t tn_ckpt_shards(const tn_ckpt *c)
{
    return c->set != NULL ? tn_st_files(c->set) : 0;
}

bool tn_ckpt_shard(const tn_ckpt *c, uint32_t i, const char **name, const void **data,
                   uint64_t *size)
{
    if (i >= tn_ckpt_shards(c))
        return false;
    *name = tn_st_file(c->set, i);
    *data = tn_st_file_data(c->set, i);
    *size = tn_st_file_size(c->set, i);
    return true;
}

const char *tn_ckpt_note(const tn_ckpt *c)
{
    return c->place.note.len > 0 ? c->place.note.data : NULL;
}

void tn_ckpt_advise(const tn_ckpt *c, bool soon)
{
    tn_st_advise(c->set, soon);
}

tn_status tn_ckpt_unchanged(const tn_ckpt *c, tn_err *err)
{
    const tn_filemap *maps[] = {&c->config.map, &c->generation.map, &c->older.map, &c->index};
    for (size_t i = 0; i < sizeof maps / sizeof maps[0]; i++) {
        tn_status st = maps[i]->path != NULL ? tn_filemap_unchanged(maps[i], err) : TN_OK;
        if (st != TN_OK)
            return st;
    }
    for (size_t i = 0; i < NSIDE; i++) {
        tn_status st = c->side[i].path != NULL ? tn_filemap_unchanged(&c->side[i], err) : TN_OK;
        if (st != TN_OK)
            return st;
    }
    return tn_st_unchanged(c->set, err);
}

/* --------------------------------------------------------------------------------- values */

tn_status tn_ckpt_floats(const tn_ckpt *c, const char *name, uint64_t count, float *out,
                         tn_err *err)
{
    tn_tensor t;
    tn_quoted q;
    if (!view_find(&c->view, name, &t))
        return tn_fail(err, TN_NOINPUT, "%s: no tensor %s", tn_path_tail(c->dir),
                       tn_quote_text(&q, name));
    uint64_t n = 1;
    for (uint32_t i = 0; i < t.ndim; i++)
        n *= t.dim[i]; /* checked at open */
    if (n != count)
        return tn_fail(err, TN_DATA, "%s: tensor %s has %llu values; expected %llu", t.file,
                       tn_quote_text(&q, name), (unsigned long long)n, (unsigned long long)count);
    if (t.dtype == TN_F32)
        memcpy(out, t.data, (size_t)t.data_size);
    else if (t.dtype == TN_F16)
        tn_f16_row(t.data, (size_t)n, out);
    else if (t.dtype == TN_BF16)
        tn_bf16_row(t.data, (size_t)n, out);
    else
        return tn_fail(err, TN_DATA, "%s: tensor %s of type %s; expected F32, F16 or BF16", t.file,
                       tn_quote_text(&q, name), t.dtype != 0 ? tn_st_dtype_name(t.dtype) : "?");
    return TN_OK;
}

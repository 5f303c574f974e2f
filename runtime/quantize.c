/* SPDX-License-Identifier: Apache-2.0 */
/* quantize.c - a model folder rewritten in a quantization's own file format. */
#include "quantize.h"

#include "buf.h"
#include "checkpoint.h"
#include "filemap.h"
#include "floats.h"
#include "graph.h"
#include "json.h"
#include "modelconf.h"
#include "names.h"
#include "stwriter.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define THREADS_MOST 64u
#define SMALL_FILE_MOST ((size_t)256 << 20)

/* What belongs to a model beside its tensors; whichever of them exist are copied. */
static const char *const companions[] = {
    "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja", "chat_template.json", "added_tokens.json",
    "vocab.json", "merges.txt", "tokenizer.model", "LICENSE", "README.md",
};

typedef struct job {
    const tn_quantize *q;
    tn_ckpt *ckpt;
    const tn_view *view;
    tn_draft draft;         /* serves to list the model's linears */
    const tn_slice **linear; /* owned [nlinear], each module once */
    uint32_t nlinear;
    tn_names names;         /* of their tensors */
    tn_stw *out;
    tn_buf config;          /* quantization_config as the plugin emitted it */
    void *writer;
    atomic_uint next;       /* linear to take */
    pthread_mutex_t lock;   /* progress, and the first failure */
    uint64_t done, all;
    tn_status st;
    tn_err err;
} job;

static tn_status take_config(void *ctx, const char *json, tn_err *err)
{
    job *j = ctx;
    tn_buf_reset(&j->config);
    tn_buf_puts(&j->config, json);
    return j->config.failed ? tn_fail(err, TN_NO_MEMORY, "quantize: no memory") : TN_OK;
}

static tn_status take_tensor(void *ctx, const char *name, uint32_t dtype, uint32_t ndim,
                             const uint64_t *dim, const void *data, tn_err *err)
{
    return tn_stw_tensor(((job *)ctx)->out, name, dtype, ndim, dim, data, err);
}

static tn_status take_file(void *ctx, const char *name, const void *data, uint64_t size,
                           tn_err *err)
{
    return tn_stw_file(((job *)ctx)->out, name, data, size, err);
}

static bool plain_dtype(uint32_t dtype)
{
    return dtype == TN_F32 || dtype == TN_F16 || dtype == TN_BF16;
}

static void to_floats(const tn_tensor *t, uint64_t count, float *out)
{
    if (t->dtype == TN_F16)
        tn_f16_row(t->data, count, out);
    else if (t->dtype == TN_BF16)
        tn_bf16_row(t->data, count, out);
    else
        memcpy(out, t->data, count * sizeof *out);
}

static tn_status write_one(job *j, const tn_slice *p, tn_err *err)
{
    char name[320];
    tn_tensor t;
    snprintf(name, sizeof name, "%s.weight", p->module);
    if (!j->view->find(j->view, name, &t) || !plain_dtype(t.dtype) || t.ndim != 2 ||
        t.dim[0] != p->n || t.dim[1] != p->k)
        return tn_fail(err, TN_DATA, "quantize: %s: tensor %s is missing or not a plain matrix "
                       "[%llu, %llu]", j->q->from, name, (unsigned long long)p->n,
                       (unsigned long long)p->k);
    float *w = malloc(p->n * p->k * sizeof *w);
    if (w == NULL)
        return tn_fail(err, TN_NO_MEMORY, "quantize: no memory for %s in full precision", name);
    to_floats(&t, p->n * p->k, w);
    tn_write_linear l = {.size = sizeof l, .name = p->module, .n = p->n, .k = p->k, .w = w};
    tn_status st = j->q->quant->table->write_linear(j->writer, &l, err);
    free(w);
    return st;
}

static void *work(void *arg)
{
    job *j = arg;
    for (;;) {
        uint32_t i = atomic_fetch_add(&j->next, 1);
        if (i >= j->nlinear)
            return NULL;
        const tn_slice *p = j->linear[i];
        tn_err err = {{0}, {0}, {0}};
        tn_status st = write_one(j, p, &err);
        pthread_mutex_lock(&j->lock);
        if (st != TN_OK && j->st == TN_OK) {
            j->st = st;
            j->err = err;
            atomic_store(&j->next, UINT32_MAX / 2); /* the others stop at their next turn */
        }
        j->done += p->n * p->k;
        if (j->q->progress != NULL)
            j->q->progress(j->q->user, j->done, j->all);
        pthread_mutex_unlock(&j->lock);
    }
}

static tn_status write_linears(job *j, tn_err *err)
{
    pthread_t thread[THREADS_MOST];
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t n = j->q->threads != 0 ? j->q->threads : cores > 0 ? (uint32_t)cores : 1, up = 0;
    n = n > THREADS_MOST ? THREADS_MOST : n;
    while (up + 1 < n && pthread_create(&thread[up], NULL, work, j) == 0)
        up++;
    work(j); /* the caller works too: no thread at all still finishes */
    for (uint32_t i = 0; i < up; i++)
        pthread_join(thread[i], NULL);
    if (j->st != TN_OK && err != NULL)
        *err = j->err;
    return j->st;
}

/* Everything that no writer took. */
static tn_status copy_rest(job *j, tn_err *err)
{
    tn_status st = TN_OK;
    for (uint64_t i = 0; i < j->view->ntensor && st == TN_OK; i++) {
        const char *at;
        tn_tensor t;
        if (!j->view->at(j->view, i, &at, &t))
            break;
        if (tn_names_find(&j->names, at, strlen(at)) == TN_NAMES_NONE)
            st = tn_stw_tensor(j->out, at, t.dtype, t.ndim, t.dim, t.data, err);
    }
    return st;
}

/* config.json with quantization_config added at its end. */
static tn_status write_config(job *j, tn_err *err)
{
    tn_json_doc *quant = NULL;
    tn_status st = tn_json_open(j->config.len > 0 ? j->config.data : "", j->config.len,
                                "quantization_config", TN_JSON_DEPTH_FILE, &quant, err);
    if (st != TN_OK)
        return st;
    tn_buf text;
    tn_buf_open(&text, SMALL_FILE_MOST);
    tn_json_write(j->view->config, true, 2, &text);
    while (text.len > 0 && (text.data[text.len - 1] == '}' || text.data[text.len - 1] == '\n'))
        text.len--;
    tn_buf_puts(&text, j->view->config->count > 0 ? ",\n" : "\n");
    tn_buf_puts(&text, "  \"quantization_config\": ");
    tn_buf part;
    tn_buf_open(&part, SMALL_FILE_MOST);
    tn_json_write(tn_json_root(quant), true, 2, &part);
    for (size_t i = 0; i < part.len; i++) { /* one level further in */
        tn_buf_putc(&text, part.data[i]);
        if (part.data[i] == '\n')
            tn_buf_puts(&text, "  ");
    }
    tn_buf_puts(&text, "\n}\n");
    if (text.failed || part.failed)
        st = tn_fail(err, TN_NO_MEMORY, "quantize: no memory for config.json");
    else
        st = tn_stw_file(j->out, "config.json", text.data, text.len, err);
    tn_buf_close(&part);
    tn_buf_close(&text);
    tn_json_close(quant);
    return st;
}

static tn_status copy_file(job *j, const char *name, tn_err *err)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s/%s", j->q->from, name) >= (int)sizeof path)
        return TN_OK;
    tn_filemap map;
    tn_status st = tn_filemap_open(&map, path, NULL, SMALL_FILE_MOST, err);
    if (st != TN_OK)
        return st == TN_NOINPUT ? TN_OK : st;
    st = tn_stw_file(j->out, name, map.size > 0 ? (const char *)map.data : "", (size_t)map.size,
                     err);
    tn_filemap_close(&map);
    return st;
}

static tn_status make_folder(const char *to, bool *made, tn_err *err)
{
    *made = mkdir(to, 0777) == 0;
    if (!*made && errno != EEXIST)
        return tn_fail(err, TN_CANTCREATE, "%s: cannot make the folder: %s", to,
                       strerror(errno));
    char path[4096];
    snprintf(path, sizeof path, "%s/config.json", to);
    if (access(path, F_OK) == 0)
        return tn_fail(err, TN_CANTCREATE, "%s: holds a model already; expected a new folder",
                       to);
    return TN_OK;
}

static tn_status write_all(job *j, tn_err *err)
{
    tn_sink sink = {.size = sizeof sink, .ctx = j, .tensor = take_tensor, .config = take_config,
                    .file = take_file};
    const tn_quant *t = j->q->quant->table;
    tn_status st = t->write_begin(j->q->quant->self, &j->q->options, j->view->config, &sink,
                                  &j->writer, err);
    if (st != TN_OK)
        return st;
    st = write_linears(j, err);
    if (st == TN_OK)
        st = t->write_end(j->writer, err);
    t->write_drop(j->writer);
    if (st == TN_OK)
        st = copy_rest(j, err);
    for (size_t i = 0; i < sizeof companions / sizeof *companions && st == TN_OK; i++)
        st = copy_file(j, companions[i], err);
    if (st == TN_OK)
        st = write_config(j, err); /* last: it marks a whole model */
    if (st == TN_OK)
        st = tn_ckpt_unchanged(j->ckpt, err);
    return st == TN_OK ? tn_stw_finish(j->out, false, err) : st;
}

/* Adds a module unless an earlier weight took rows of it already. */
static tn_status add_linear(job *j, const tn_slice *p, tn_err *err)
{
    uint32_t found = TN_NAMES_NONE;
    const char *name = tn_draft_name(&j->draft, "%s.weight", p->module);
    if (p->bare)
        return tn_fail(err, TN_UNSUPPORTED, "quantize: %s: tensor %s holds all experts of a layer; "
                       "expected one tensor an expert", j->q->from, p->module);
    if (name == NULL || !tn_names_add(&j->names, name, strlen(name), j->nlinear, &found))
        return tn_fail(err, TN_NO_MEMORY, "quantize: no memory");
    if (found != TN_NAMES_NONE)
        return TN_OK;
    j->linear[j->nlinear++] = p;
    j->all += p->n * p->k;
    return TN_OK;
}

/* Matrices that are multiplied by every token, and experts; neither head nor routers. */
static bool is_linear(const tn_weight_spec *w)
{
    return w->role == TN_ROLE_DENSE || w->role == TN_ROLE_EXPERTS;
}

static tn_status list_linears(job *j, tn_err *err)
{
    tn_model_conf conf;
    tn_status st = tn_model_conf_read(j->view->config, &conf, err);
    if (st == TN_OK)
        st = tn_graph_build(&conf, &(tn_graph_ask){.view = j->view, .act_dtype = TN_F32, .npos = 1},
                            &j->draft, err);
    if (st != TN_OK)
        return st;
    const tn_weight_spec *w = j->draft.weight;
    size_t most = 0;
    for (uint32_t i = 0; i < j->draft.recipe.nweight; i++)
        most += is_linear(&w[i]) ? (size_t)w[i].nexpert * j->draft.source[i].nslice : 0;
    j->linear = calloc(most + 1, sizeof *j->linear);
    if (j->linear == NULL)
        return tn_fail(err, TN_NO_MEMORY, "quantize: no memory");
    for (uint32_t i = 0; i < j->draft.recipe.nweight; i++) {
        const tn_source *s = &j->draft.source[i];
        for (uint32_t k = 0; is_linear(&w[i]) && k < w[i].nexpert * s->nslice; k++)
            if (st == TN_OK && (k == 0 || s->slice[k].module != s->slice[k - 1].module))
                st = add_linear(j, &s->slice[k], err);
    }
    return st;
}

tn_status tn_quantize_run(const tn_quantize *q, tn_err *err)
{
    const tn_quant *t = q->quant->table;
    if (t->write_begin == NULL || t->write_linear == NULL || t->write_end == NULL ||
        t->write_drop == NULL)
        return tn_fail(err, TN_UNSUPPORTED, "quantize: plugin %s reads its format but does not "
                       "write it", q->quant->name);
    job j = {.q = q, .lock = PTHREAD_MUTEX_INITIALIZER};
    tn_buf_open(&j.config, SMALL_FILE_MOST);
    tn_names_open(&j.names);
    tn_status st = tn_ckpt_open(q->from, TN_CKPT_FOLLOW | TN_CKPT_LAX, &j.ckpt, err);
    if (st != TN_OK)
        return st;
    j.view = tn_ckpt_view(j.ckpt);
    if (j.view->quant != NULL)
        st = tn_fail(err, TN_DATA, "quantize: %s: is quantized already; expected a model in "
                     "full precision", q->from);
    if (st == TN_OK)
        st = list_linears(&j, err);
    bool made = false;
    if (st == TN_OK)
        st = make_folder(q->to, &made, err);
    if (st == TN_OK)
        st = tn_stw_open(q->to, 0, &j.out, err);
    if (st == TN_OK)
        st = write_all(&j, err);
    tn_stw_close(j.out);
    if (st != TN_OK && made)
        (void)rmdir(q->to); /* empty: nothing was written under its own name */
    tn_names_close(&j.names);
    free(j.linear);
    tn_draft_close(&j.draft);
    tn_buf_close(&j.config);
    tn_ckpt_close(j.ckpt);
    pthread_mutex_destroy(&j.lock);
    return st;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* cupack.c - weights from a reader to the card.
 *
 * A weight is cut into jobs, some rows of one expert each. Worker threads pull the rows into
 * pinned memory of their own, copy them over and have them packed where they belong; while one
 * job is on its way over the bus the worker reads the next into its other buffer. On the card
 * these buffers lie in the workspace, which nobody uses before the first step. */
#include "cuprogram.h"

#include <pthread.h>
#include <stdatomic.h>

#define STAGE_SIZE (8u << 20)      /* bytes of one buffer; at least one run of rows fits */
#define WORKERS_MAX 16u

/* One buffer of a worker, on both sides. */
typedef struct stage {
    uint8_t *host, *card;
    cudaEvent_t done;
    bool busy;
} stage;

typedef struct packing {
    cu_program *p;
    cu_weight *w;
    const tn_reader *reader;
    uint64_t row_bytes, scale_bytes, zero_bytes; /* of one row as read */
    uint32_t rows, jobs_each, half_rows;  /* rows a job; jobs an expert; rows of one half, or all */
    uint64_t size;                 /* of a stage */
    uint32_t *bad;                 /* on the card, behind the stages */
    _Atomic uint64_t next;
    _Atomic uint32_t worker;       /* how many have begun */
    _Atomic int failed;
    pthread_mutex_t lock;          /* of the two below */
    tn_status st;
    tn_err err;
} packing;

static void note(packing *k, tn_status st, const tn_err *err)
{
    pthread_mutex_lock(&k->lock);
    if (k->st == TN_OK) {
        k->st = st;
        k->err = *err;
    }
    pthread_mutex_unlock(&k->lock);
    atomic_store(&k->failed, 1);
}

static void note_cuda(packing *k, cudaError_t e, const char *what)
{
    tn_err err;
    tn_status st = cu_fail(&err, e, what);
    note(k, st, &err);
}

/* Reads a job's rows into the stage; the raw rows as the card will see them. */
static tn_status read_rows(const packing *k, stage *s, uint64_t expert, uint32_t row0,
                           uint32_t rows, gpu_raw *raw, tn_err *err)
{
    const tn_form *f = &k->w->spec.form;
    uint64_t scale_at = cu_round(rows * k->row_bytes, 256);
    uint64_t zero_at = scale_at + cu_round(rows * k->scale_bytes, 256);
    tn_block b = {.size = sizeof b, .codes = s->host};
    *raw = (gpu_raw){.codes = s->card, .form = f->kind, .group = f->group, .rows = rows,
                     .row_bytes = (uint32_t)k->row_bytes};
    raw->cols = (uint32_t)(k->scale_bytes != 0 ? f->cols : k->w->spec.k);
    if (k->scale_bytes != 0) {
        b.scale = (float *)(void *)(s->host + scale_at);
        raw->scale = (const float *)(const void *)(s->card + scale_at);
    }
    if (k->zero_bytes != 0) {
        b.zero = s->host + zero_at;
        raw->zero = s->card + zero_at;
    }
    return k->reader->rows(k->reader->ctx, (uint32_t)expert, row0, row0 + rows, &b, err);
}

static cudaError_t send(const packing *k, stage *s, uint64_t expert, const gpu_raw *raw,
                        cudaStream_t stream)
{
    cudaError_t e = cudaMemcpyAsync(s->card, s->host, k->size, cudaMemcpyHostToDevice, stream);
    if (e != cudaSuccess)
        return e;
    if (k->w->spec.role == TN_ROLE_VECTOR) {
        float *to = k->w->vector + (expert * k->w->spec.n + raw->row0) * k->w->spec.k;
        e = gpu_pack_vector(raw->codes, raw->form, (uint64_t)raw->rows * raw->cols, to, stream);
    } else {
        e = gpu_pack(&k->w->m, (uint32_t)expert, raw, k->bad, stream);
    }
    if (e == cudaSuccess)
        e = cudaEventRecord(s->done, stream);
    s->busy = true;
    return e;
}

/* Job `j` is rows of one half of one expert: which, and where they go. */
static void do_job(packing *k, stage *s, uint64_t j, cudaStream_t stream)
{
    uint64_t expert = j / k->jobs_each, in = j % k->jobs_each;
    uint64_t runs = (k->half_rows + k->rows - 1) / k->rows, half = in / runs;
    uint32_t from = (uint32_t)(in % runs) * k->rows, left = k->half_rows - from;
    uint32_t rows = left < k->rows ? left : k->rows;
    gpu_raw raw;
    tn_err err;
    cudaError_t e = s->busy ? cudaEventSynchronize(s->done) : cudaSuccess;
    if (e != cudaSuccess) {
        note_cuda(k, e, "packing weights");
        return;
    }
    tn_status st = read_rows(k, s, expert, (uint32_t)(half * k->half_rows) + from, rows, &raw,
                             &err);
    if (st != TN_OK) {
        note(k, st, &err);
        return;
    }
    raw.row0 = from;
    raw.half = k->w->half != 0 ? k->w->half : (uint32_t)half + 1;
    e = send(k, s, expert, &raw, stream);
    if (e != cudaSuccess)
        note_cuda(k, e, "packing weights");
}

static cudaError_t open_stage(const cu_program *p, uint32_t i, stage *s)
{
    s->host = p->stage + i * p->stage_size;
    s->card = p->work.data + i * p->stage_size;
    return cudaEventCreateWithFlags(&s->done, cudaEventDisableTiming);
}

static void *work(void *arg)
{
    packing *k = arg;
    stage s[2] = {{0}, {0}};
    cudaStream_t stream = NULL;
    uint64_t jobs = (uint64_t)k->jobs_each * k->w->spec.nexpert, j;
    cudaError_t e = cudaSetDevice(k->p->dev->index);
    if (e == cudaSuccess)
        e = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    uint32_t worker = atomic_fetch_add(&k->worker, 1);
    for (uint32_t i = 0; i < 2 && e == cudaSuccess; i++)
        e = open_stage(k->p, 2 * worker + i, &s[i]);
    if (e != cudaSuccess)
        note_cuda(k, e, "memory to pack weights");
    for (uint32_t turn = 0; e == cudaSuccess && !atomic_load(&k->failed); turn ^= 1) {
        j = atomic_fetch_add(&k->next, 1);
        if (j >= jobs)
            break;
        do_job(k, &s[turn], j, stream);
    }
    if (stream != NULL && (e = cudaStreamSynchronize(stream)) != cudaSuccess)
        note_cuda(k, e, "packing weights");
    for (uint32_t i = 0; i < 2; i++)
        if (s[i].done != NULL)
            cudaEventDestroy(s[i].done);
    if (stream != NULL)
        cudaStreamDestroy(stream);
    return NULL;
}

/* Permutations, a row each, before the codes. */
static tn_status pack_perms(cu_program *p, const cu_weight *w, const tn_reader *reader,
                            tn_err *err)
{
    uint64_t n = w->m.cols, have = w->spec.form.cols;
    int32_t *perm = p->dev->host->alloc(p->dev->host->ctx, n * sizeof *perm);
    tn_status st = TN_OK;
    if (perm == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cuda: no memory to read a permutation");
    for (uint32_t e = 0; st == TN_OK && e < w->spec.nexpert; e++) {
        tn_block b = {.size = sizeof b, .perm = perm};
        for (uint64_t i = have; i < n; i++)
            perm[i] = -1;
        st = reader->rows(reader->ctx, e, 0, 1, &b, err);
        for (uint64_t i = 0; st == TN_OK && i < have; i++)
            if (perm[i] < -1 || perm[i] >= (int64_t)w->spec.k)
                st = tn_fail(err, TN_DATA, "cuda: weight %s: column %llu multiplies input %d of "
                             "%llu", w->spec.name, (unsigned long long)i, perm[i],
                             (unsigned long long)w->spec.k);
        cudaError_t c = st == TN_OK ? cudaMemcpy((int32_t *)(uintptr_t)w->m.perm + e * n, perm,
                                                 n * sizeof *perm, cudaMemcpyDefault)
                                    : cudaSuccess;
        if (c != cudaSuccess)
            st = cu_fail(err, c, "packing a permutation");
    }
    p->dev->host->release(p->dev->host->ctx, perm);
    return st;
}

static void plan(packing *k)
{
    const tn_weight_spec *s = &k->w->spec;
    const tn_form *f = &s->form;
    bool coded = f->kind == TN_FORM_W4G || f->kind == TN_FORM_W8G;
    k->row_bytes = f->kind == TN_FORM_W4G ? f->cols / 2 : f->kind == TN_FORM_W8G ? f->cols
                   : f->kind == TN_FORM_F32 ? s->k * 4 : s->k * 2;
    k->scale_bytes = coded ? f->cols / f->group * sizeof(float) : 0;
    k->zero_bytes = coded && (f->flags & TN_FORM_ZEROS) != 0 ? f->cols / f->group : 0;
    uint64_t each = k->row_bytes + k->scale_bytes + k->zero_bytes;
    bool halves = k->w->m.pairs && k->w->half == 0;
    k->half_rows = (uint32_t)(halves ? s->n / 2 : s->n);
    uint64_t rows = (STAGE_SIZE - 1024) / each / 16 * 16;
    rows = rows < 16 ? 16 : rows;
    k->rows = (uint32_t)(rows < k->half_rows ? rows : k->half_rows);
    k->size = (uint64_t)k->rows * each + 1024;
    k->jobs_each = (k->half_rows + k->rows - 1) / k->rows * (halves ? 2 : 1);
}

static tn_status check_halves(const cu_program *p, packing *k, tn_err *err)
{
    uint32_t bad = 0;
    cudaError_t e = cudaMemcpy(&bad, k->bad, sizeof bad, cudaMemcpyDeviceToHost);
    if (e != cudaSuccess)
        return cu_fail(err, e, "packing weights");
    if (bad == 0)
        return TN_OK;
    char text[256];
    snprintf(text, sizeof text, "weight %s: %u values or scales are NaN, infinite or beyond the "
             "range of f16", k->w->spec.name, bad);
    p->dev->host->log(p->dev->host->ctx, TN_LOG_WARN, text);
    return TN_OK;
}

static tn_status run_workers(packing *k, tn_err *err)
{
    pthread_t thread[WORKERS_MAX];
    uint64_t jobs = (uint64_t)k->jobs_each * k->w->spec.nexpert;
    uint32_t n = k->p->nworker < jobs ? k->p->nworker : (uint32_t)jobs, started = 1;
    while (started < n && pthread_create(&thread[started], NULL, work, k) == 0)
        started++;
    work(k);                   /* the caller works too, so one thread is enough */
    for (uint32_t i = 1; i < started; i++)
        pthread_join(thread[i], NULL);
    if (k->st != TN_OK)
        *err = k->err;
    return k->st;
}

void cu_plan_packing(cu_program *p)
{
    p->nworker = p->dev->threads < WORKERS_MAX ? p->dev->threads : WORKERS_MAX;
    for (uint32_t i = 0; i < p->nweight; i++) {
        packing k = {.p = p, .w = &p->weight[i]};
        plan(&k);
        p->stage_size = k.size > p->stage_size ? k.size : p->stage_size;
    }
    p->stage_size = cu_round(p->stage_size, 4096);
}

uint64_t cu_stages_size(const cu_program *p)
{
    return 2 * p->nworker * p->stage_size + 256;
}

/* Packing, and packing again once steps have run: the workspace is no longer as they left it. */
static tn_status begin(cu_program *p, packing *k, tn_err *err)
{
    cudaError_t e = cudaSuccess;
    if (p->stage == NULL)
        e = cudaHostAlloc((void **)&p->stage, cu_stages_size(p), cudaHostAllocPortable);
    if (e == cudaSuccess && p->cleared)
        e = cudaStreamSynchronize(p->dev->stream);
    p->cleared = false;
    k->bad = (uint32_t *)(void *)(p->work.data + cu_stages_size(p) - 256);
    if (e == cudaSuccess)
        e = cudaMemset(k->bad, 0, sizeof *k->bad);
    if (e == cudaSuccess)
        e = cudaDeviceSynchronize();
    return e == cudaSuccess ? TN_OK : cu_fail(err, e, "memory to pack weights");
}

tn_status cu_pack(cu_program *p, uint32_t index, const tn_reader *reader, tn_err *err)
{
    if (!p->reserved || index >= p->nweight)
        return tn_fail(err, TN_INTERNAL, "cuda: weight %u of %u packed %s", index, p->nweight,
                       p->reserved ? "" : "before reserve");
    cu_weight *w = &p->weight[index];
    packing k = {.p = p, .w = w, .reader = reader, .lock = PTHREAD_MUTEX_INITIALIZER};
    tn_status st = (w->spec.form.flags & TN_FORM_PERM) != 0 ? pack_perms(p, w, reader, err) : TN_OK;
    if (st != TN_OK)
        return st;
    plan(&k);
    st = begin(p, &k, err);
    if (st == TN_OK)
        st = run_workers(&k, err);
    if (st == TN_OK)
        st = check_halves(p, &k, err);
    if (st == TN_OK && !w->packed) {
        w->packed = true;
        p->npacked++;
    }
    return st;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* packing.c - weights on their way in: rows from a reader, spread over the workers.
 *
 * A matrix is cut into jobs of some strips, a private form into its experts, a vector is read
 * at once. The first failure stops the others. */
#include "half16.h"
#include "program.h"

#define JOB_BYTES (1u << 20)      /* of neutral rows, about, that a worker asks for at once */

typedef struct packing {
    cpu_weight *w;
    const tn_reader *reader;
    uint64_t strips, per_expert;  /* strips a job, jobs an expert */
    uint64_t njob;
    _Atomic uint64_t next;
    _Atomic uint32_t failed;
    tn_status status;             /* written by whoever set `failed` */
    tn_err err;
} packing;

static void give_up(packing *k, tn_status st, const tn_err *err)
{
    uint32_t not_yet = 0;
    if (atomic_compare_exchange_strong(&k->failed, &not_yet, 1)) {
        k->status = st;
        k->err = *err;
    }
}

static tn_status pack_job(packing *k, uint64_t job, tn_err *err)
{
    cpu_weight *w = k->w;
    uint32_t expert = (uint32_t)(job / k->per_expert);
    if (w->matrix == NULL) {
        tn_block out = {.size = sizeof out, .codes = w->bytes + expert * w->piece_size};
        return k->reader->rows(k->reader->ctx, expert, 0, w->spec.form.rows, &out, err);
    }
    cpu_matrix *m = &w->matrix[expert];
    uint64_t strip0 = job % k->per_expert * k->strips, strip1 = strip0 + k->strips;
    return cpu_matrix_pack(m, &w->spec.form, k->reader, expert, strip0,
                           strip1 < m->nstrip ? strip1 : m->nstrip, err);
}

static void pack_jobs(void *arg, uint32_t worker)
{
    packing *k = arg;
    (void)worker;
    for (;;) {
        uint64_t job = atomic_fetch_add(&k->next, 1);
        tn_err err = {.text = ""};
        if (job >= k->njob || atomic_load(&k->failed) != 0)
            return;
        tn_status st = pack_job(k, job, &err);
        if (st != TN_OK)
            give_up(k, st, &err);
    }
}

/* Permutations, and 16-bit scales where all are exact in 16 bits: then pieces shrink and move
 * together. */
static tn_status settle(cpu_weight *w, const tn_reader *reader, tn_err *err)
{
    const tn_form *f = &w->spec.form;
    tn_status st = cpu_matrix_settle(&w->matrix[0], f, reader, w->spec.nexpert, err);
    uint8_t *base = w->matrix[0].data;
    uint64_t piece = cpu_matrix_bytes(&w->matrix[0]);
    if (st == TN_OK && piece > w->piece_size)
        return tn_fail(err, TN_INTERNAL, "cpu: weight %s grew while it was packed",
                       w->spec.name);
    for (uint32_t e = 0; st == TN_OK && e < w->spec.nexpert; e++) {
        const int32_t *perm = w->matrix[e].perm;
        w->matrix[e] = w->matrix[0];
        w->matrix[e].data = w->mapped ? NULL : base + e * piece;
        w->matrix[e].perm = perm;
        if (w->perm_size > 0)
            st = cpu_matrix_perm(&w->matrix[e], f, reader, e,
                                 (int32_t *)(void *)(w->perms + e * w->perm_size), err);
    }
    return st;
}

static float plain_value(const uint8_t *codes, uint32_t kind, uint64_t i)
{
    float x;
    uint16_t h;
    if (kind == TN_FORM_F32) {
        memcpy(&x, codes + 4 * i, sizeof x);
        return x;
    }
    memcpy(&h, codes + 2 * i, sizeof h);
    return kind == TN_FORM_F16 ? half_from_f16(h) : half_from_bf16(h);
}

/* The vector's own memory takes the 16-bit values at its end, and is widened from the front:
 * value i is written at 4 i and read at 2 n + 2 i, which is never overtaken. */
static tn_status pack_vector(cpu_weight *w, const tn_reader *reader, tn_err *err)
{
    uint64_t n = w->spec.n * w->spec.k;
    uint32_t kind = w->spec.form.kind;
    uint8_t *codes = (uint8_t *)w->vector + (kind == TN_FORM_F32 ? 0 : 2 * n);
    tn_block out = {.size = sizeof out, .codes = codes};
    tn_status st = reader->rows(reader->ctx, 0, 0, w->spec.n, &out, err);
    if (st != TN_OK)
        return st;
    for (uint64_t i = 0; kind != TN_FORM_F32 && i < n; i++)
        w->vector[i] = plain_value(codes, kind, i);
    return TN_OK;
}

static tn_status pack_matrices(cpu_program *p, cpu_weight *w, const tn_reader *reader,
                               tn_err *err)
{
    packing k = {.w = w, .reader = reader, .per_expert = 1};
    if (w->matrix != NULL) {
        tn_status st = settle(w, reader, err);
        if (st != TN_OK)
            return st;
        w->reader = *reader;
        if (w->mapped) /* its strips are packed when they are needed */
            return TN_OK;
        uint64_t row = w->spec.k * 4 + 1; /* bytes of a neutral row, at most */
        k.strips = JOB_BYTES / (row * CPU_STRIP);
        k.strips = k.strips < 1 ? 1 : k.strips;
        k.per_expert = (w->matrix[0].nstrip + k.strips - 1) / k.strips;
    }
    k.njob = k.per_expert * w->spec.nexpert;
    cpu_pool_run(p->dev->pool, pack_jobs, &k);
    if (atomic_load(&k.failed) != 0) {
        if (err != NULL)
            *err = k.err;
        return k.status;
    }
    return TN_OK;
}

tn_status cpu_pack(cpu_program *p, uint32_t index, const tn_reader *reader, tn_err *err)
{
    if (index >= p->nweight)
        return tn_fail(err, TN_INTERNAL, "cpu: weight %u of %u", index, p->nweight);
    if (!p->reserved)
        return tn_fail(err, TN_INTERNAL, "cpu: pack before reserve");
    if (reader == NULL || reader->rows == NULL)
        return tn_fail(err, TN_INTERNAL, "cpu: weight %s: no reader", p->weight[index].spec.name);
    cpu_weight *w = &p->weight[index];
    tn_status st = w->spec.role == TN_ROLE_VECTOR ? pack_vector(w, reader, err)
                                                  : pack_matrices(p, w, reader, err);
    if (st != TN_OK || w->packed)
        return st;
    w->packed = 1;
    return ++p->npacked == p->nweight ? cpu_stash_open(p, err) : TN_OK;
}

uint64_t cpu_weight_bytes(const cpu_program *p, uint32_t index)
{
    if (index >= p->nweight)
        return 0;
    const cpu_weight *w = &p->weight[index];
    uint64_t piece = w->matrix != NULL ? cpu_matrix_bytes(&w->matrix[0]) : w->piece_size;
    return w->spec.nexpert * (piece + w->perm_size);
}

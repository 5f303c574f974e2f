/* SPDX-License-Identifier: Apache-2.0 */
/* cupools.c - all memory of a program: bookkeeping on the host, four blocks on the card. */
#include "cuprogram.h"

/* --------------------------------------------------------------------------- bookkeeping */

typedef struct cu_piece {
    _Alignas(64) struct cu_piece *next;
} cu_piece;

void *cu_take(cu_program *p, uint64_t count, uint64_t size)
{
    const tn_host *h = p->dev->host;
    uint64_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > UINT64_MAX - sizeof(cu_piece))
        return NULL;
    cu_piece *piece = h->alloc(h->ctx, sizeof *piece + bytes);
    if (piece == NULL)
        return NULL;
    memset(piece, 0, sizeof *piece + bytes);
    piece->next = p->pieces;
    p->pieces = piece;
    return piece + 1;
}

tn_status cu_fail(tn_err *err, cudaError_t e, const char *what)
{
    tn_status st = e == cudaErrorMemoryAllocation ? TN_NO_MEMORY : TN_UNAVAILABLE;
    cudaGetLastError();        /* or the next launch would be blamed for it */
    return tn_fail(err, st, "cuda: %s: %s (%s)", what, cudaGetErrorString(e),
                   cudaGetErrorName(e));
}

static void give(cu_memory *m)
{
    if (m->data != NULL)
        cudaFree(m->data);
    *m = (cu_memory){0};
}

/* All that reserve took. */
static void give_all(cu_program *p)
{
    cu_step_close(p);
    give(&p->weights);
    cu_host_give(p);
    give(&p->work);
    give(&p->cache);
    give(&p->states);
    cudaFreeHost(p->stage);
    p->stage = NULL;
    p->reserved = false;
}

void cu_release(cu_program *p)
{
    const tn_host *h = p->dev->host;
    tn_err why;
    if (p->reserved) { /* before, nothing was taken or begun: a card to plan for has no driver */
        if (cu_await(p, NULL, "the last step", &why) != TN_OK)
            cudaStreamSynchronize(p->dev->stream); /* aborted, what runs ends */
        give_all(p);
    }
    for (cu_piece *piece = p->pieces, *next; piece != NULL; piece = next) {
        next = piece->next;
        h->release(h->ctx, piece);
    }
    h->release(h->ctx, p);
}

/* ---------------------------------------------------------------------- blocks and slots */

static uint64_t cache_side(const cu_program *p, uint32_t i)
{
    const tn_cache_spec *c = cu_cache_spec(p, i);
    return (uint64_t)c->heads * c->k_dim * p->lim.block_tokens * cu_cache_elem(p);
}

uint64_t cu_block_bytes(const cu_program *p)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < p->ncache; i++)
        n += 2 * cache_side(p, i);
    return n;
}

static uint64_t pending_max(const cu_program *p)
{
    return p->lim.drafts_max > 0 ? 1 + (uint64_t)p->lim.drafts_max : 0;
}

uint64_t cu_state_floats(const cu_program *p, const tn_state_spec *s)
{
    uint64_t n = (uint64_t)s->heads * s->k_dim * s->v_dim + (uint64_t)s->conv_keep * s->conv_width +
                 pending_max(p) * (s->conv_width + 2ull * s->heads);
    return cu_round(n, 64);
}

uint64_t cu_slot_bytes(const cu_program *p)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < p->nstate; i++)
        n += cu_state_floats(p, cu_state_spec(p, i)) * sizeof(float);
    return n;
}

gpu_cache cu_cache_of(const cu_program *p, uint32_t cache)
{
    const tn_cache_spec *c = cu_cache_spec(p, cache);
    uint8_t *k = p->cache.data + p->cache_at[cache];
    return (gpu_cache){.k = k, .v = k + p->nblock * cache_side(p, cache), .heads = c->heads,
                       .k_dim = c->k_dim, .v_dim = c->v_dim, .tokens = p->lim.block_tokens,
                       .type = p->lim.cache_dtype};
}

gpu_state cu_state_of(const cu_program *p, uint32_t state)
{
    const tn_state_spec *s = cu_state_spec(p, state);
    return (gpu_state){.data = (float *)(void *)(p->states.data + p->state_at[state]),
                       .slot_floats = cu_state_floats(p, s), .heads = s->heads,
                       .k_dim = s->k_dim, .v_dim = s->v_dim, .width = s->conv_width,
                       .keep = s->conv_keep, .pending_max = (uint32_t)pending_max(p)};
}

/* ------------------------------------------------------------------------------- reserve */

static tn_status take(cu_memory *m, uint64_t size, const char *what, tn_err *err)
{
    void *data = NULL;
    size_t free = 0, total = 0;
    if (size == 0)
        return TN_OK;
    cudaError_t e = cudaMalloc(&data, size);
    if (e == cudaSuccess) {
        *m = (cu_memory){.data = data, .size = size};
        return TN_OK;
    }
    cudaGetLastError();
    cudaMemGetInfo(&free, &total);
    return tn_fail(err, TN_NO_MEMORY, "cuda: %s want %.2f GiB of the card's memory; %.2f of %.2f GiB "
                   "are free (%s)", what, (double)size / 0x1p30, (double)free / 0x1p30,
                   (double)total / 0x1p30, cudaGetErrorString(e));
}

static uint8_t *next_piece(uint8_t **at, uint64_t size)
{
    uint8_t *p = *at;
    *at += cu_round(size, 256);
    return p;
}

/* A stack's codes, scales, zeros and permutations, one array each. */
static void place_weight(cu_program *p, cu_weight *w)
{
    uint8_t *at = (w->host ? p->host.data : p->weights.data) + w->at;
    gpu_matrix *m = &w->m;
    if (w->spec.role == TN_ROLE_VECTOR) {
        w->vector = (float *)(void *)at;
        return;
    }
    m->codes = next_piece(&at, m->nexpert * m->codes_size);
    if (m->scale_size != 0)
        m->scale = (uint16_t *)(void *)next_piece(&at, m->nexpert * m->scale_size);
    if (m->zero_size != 0)
        m->zero = next_piece(&at, m->nexpert * m->zero_size);
    if ((w->spec.form.flags & TN_FORM_PERM) != 0)
        m->perm = (const int32_t *)(const void *)at;
}

static void place_all(cu_program *p)
{
    uint64_t at = 0;
    for (uint32_t i = 0; i < p->nweight; i++)
        if (p->weight[i].into == i)
            place_weight(p, &p->weight[i]);
    for (uint32_t i = 0; i < p->nweight; i++)
        if (p->weight[i].into != i)
            p->weight[i].m = p->weight[p->weight[i].into].m;
    for (uint32_t i = 0; i < p->ncache; i++) {
        p->cache_at[i] = at;
        at += 2 * p->nblock * cache_side(p, i);
    }
    at = 0;
    for (uint32_t i = 0; i < p->nstate; i++) {
        p->state_at[i] = at;
        at += p->nslot * cu_state_floats(p, cu_state_spec(p, i)) * sizeof(float);
    }
}

/* Workspace that is once zero, frequencies. Packing is over: its buffers go. */
tn_status cu_clear(cu_program *p, tn_err *err)
{
    cudaStream_t s = p->dev->stream;
    cudaError_t e = cudaMemsetAsync(p->work.data, 0, p->work.size, s);
    for (uint32_t i = 0; e == cudaSuccess && i < p->nrope; i++)
        e = cudaMemcpyAsync(p->work.data + p->freq_at[i], cu_rope(p, i)->inv_freq,
                            cu_rope(p, i)->dims / 2 * sizeof(double), cudaMemcpyHostToDevice, s);
    if (e == cudaSuccess)
        e = cudaStreamSynchronize(s);
    if (e != cudaSuccess)
        return cu_fail(err, e, "clearing the workspace");
    cudaFreeHost(p->stage);
    p->stage = NULL;
    p->cleared = true;
    return TN_OK;
}

static tn_status clear_pools(cu_program *p, tn_err *err)
{
    cudaStream_t s = p->dev->stream;
    cudaError_t e = cudaSuccess;
    if (p->states.data != NULL)
        e = cudaMemsetAsync(p->states.data, 0, p->states.size, s);
    if (e == cudaSuccess && p->cache.data != NULL)
        e = cudaMemsetAsync(p->cache.data, 0, p->cache.size, s);
    if (e == cudaSuccess)
        e = cudaStreamSynchronize(s);
    return e == cudaSuccess ? TN_OK : cu_fail(err, e, "clearing cache and states");
}

tn_status cu_reserve(cu_program *p, const tn_pools *pools, tn_err *err)
{
    tn_status planned = cu_planned_refuse(p->dev, "reserving memory", err);
    if (planned != TN_OK)
        return planned;
    if (p->reserved)
        return tn_fail(err, TN_INTERNAL, "cuda: reserve was called twice");
    if (pools == NULL || pools->nblock > INT32_MAX || pools->nslot > INT32_MAX ||
        (p->ncache > 0 && pools->nblock < 1) || (p->nstate > 0 && pools->nslot < 1))
        return tn_fail(err, TN_CONFIG, "cuda: %u blocks, %u slots for %u caches and %u states",
                       pools != NULL ? pools->nblock : 0, pools != NULL ? pools->nslot : 0,
                       p->ncache, p->nstate);
    tn_status st = cu_ranks_joined(p, err);
    if (st != TN_OK)
        return st;
    p->nblock = pools->nblock;
    p->nslot = pools->nslot;
    uint64_t cache = cu_block_bytes(p) * p->nblock;
    uint64_t states = p->nstate > 0 ? cu_slot_bytes(p) * p->nslot + p->nslot * sizeof(int32_t) : 0;
    uint64_t weights, host;
    cu_host_share(p, pools->mapped_kib * 1024ull, &weights, &host);
    st = take(&p->weights, weights, "the weights", err);
    if (st == TN_OK)
        st = cu_host_take(p, host, err);
    if (st == TN_OK)
        st = take(&p->work, p->work_size, "the workspace", err);
    if (st == TN_OK)
        st = take(&p->cache, cache, "the cache", err);
    if (st == TN_OK)
        st = take(&p->states, states, "the states", err);
    if (st == TN_OK)
        st = clear_pools(p, err);
    if (st == TN_OK) {
        place_all(p);
        st = cu_step_open(p, err);
    }
    if (st == TN_OK)
        st = cu_lower(p, false, err);
    if (st == TN_OK)
        st = cu_host_tell(p, err);
    if (st != TN_OK)
        give_all(p);
    p->reserved = st == TN_OK;
    return st;
}

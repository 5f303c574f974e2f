/* SPDX-License-Identifier: Apache-2.0 */
/* cublocks.c - cache blocks and states between steps: copies, and the neutral order in and out;
 * rows of buffers for those who compare devices. */
#include "cuprogram.h"

static tn_status check(const cu_program *p, int32_t i, uint32_t n, const char *what, tn_err *err)
{
    if (p->reserved && i >= 0 && (uint32_t)i < n)
        return TN_OK;
    return tn_fail(err, TN_INTERNAL, "cuda: %s %d of %u", what, i, n);
}

static tn_status settle(cu_program *p, cudaError_t e, const char *what, tn_err *err)
{
    return e == cudaSuccess ? cu_await(p, NULL, what, err) : cu_fail(err, e, what);
}

/* --------------------------------------------------------------------------------- blocks */

tn_status cu_block_copy(cu_program *p, int32_t from, int32_t to, tn_err *err)
{
    tn_status st = check(p, from, p->nblock, "block", err);
    if (st == TN_OK)
        st = check(p, to, p->nblock, "block", err);
    if (st != TN_OK || from == to)
        return st;
    cudaError_t e = cudaSuccess;
    for (uint32_t i = 0; i < p->ncache && e == cudaSuccess; i++) {
        gpu_cache c = cu_cache_of(p, i);
        uint64_t size = (uint64_t)c.heads * c.tokens * c.k_dim * cu_cache_elem(p);
        void *const side[2] = {c.k, c.v};
        for (uint32_t j = 0; j < 2 && e == cudaSuccess; j++)
            e = cudaMemcpyAsync((uint8_t *)side[j] + (uint64_t)to * size,
                                (uint8_t *)side[j] + (uint64_t)from * size, size,
                                cudaMemcpyDeviceToDevice, p->dev->stream);
    }
    return settle(p, e, "copying a block", err);
}

/* Neutral order: K [tokens, heads, dim], then V; here every head's tokens lie together. */
tn_status cu_block_move(cu_program *p, int32_t block, void *data, bool read, tn_err *err)
{
    tn_status st = check(p, block, p->nblock, "block", err);
    uint8_t *at = data;
    cudaError_t e = cudaSuccess;
    for (uint32_t i = 0; st == TN_OK && i < p->ncache && e == cudaSuccess; i++) {
        gpu_cache c = cu_cache_of(p, i);
        uint64_t row = (uint64_t)c.k_dim * cu_cache_elem(p), piece = row * c.tokens, wide = row * c.heads;
        void *const side[2] = {c.k, c.v};
        for (uint32_t j = 0; j < 2; j++, at += wide * c.tokens)
            for (uint32_t h = 0; h < c.heads && e == cudaSuccess; h++) {
                uint8_t *card = (uint8_t *)side[j] + ((uint64_t)block * c.heads + h) * piece;
                uint8_t *host = at + h * row;
                e = read ? cudaMemcpy2DAsync(host, wide, card, row, row, c.tokens,
                                             cudaMemcpyDeviceToHost, p->dev->stream)
                         : cudaMemcpy2DAsync(card, row, host, wide, row, c.tokens,
                                             cudaMemcpyHostToDevice, p->dev->stream);
            }
    }
    return st != TN_OK ? st : settle(p, e, "moving a block", err);
}

/* --------------------------------------------------------------------------------- states */

tn_status cu_state_copy(cu_program *p, int32_t from, int32_t to, tn_err *err)
{
    tn_status st = check(p, from, p->nslot, "state slot", err);
    if (st == TN_OK)
        st = check(p, to, p->nslot, "state slot", err);
    if (st != TN_OK || from == to)
        return st;
    cudaError_t e = cudaSuccess;
    for (uint32_t i = 0; i < p->nstate && e == cudaSuccess; i++) {
        gpu_state s = cu_state_of(p, i);
        e = cudaMemcpyAsync(s.data + (uint64_t)to * s.slot_floats,
                            s.data + (uint64_t)from * s.slot_floats,
                            s.slot_floats * sizeof(float), cudaMemcpyDeviceToDevice,
                            p->dev->stream);
    }
    if (e == cudaSuccess && p->step.verdict != NULL)
        e = cudaMemcpyAsync(p->step.verdict + to, p->step.verdict + from, sizeof(int32_t),
                            cudaMemcpyDeviceToDevice, p->dev->stream);
    return settle(p, e, "copying a state", err);
}

static uint64_t settled_floats(const gpu_state *s)
{
    return (uint64_t)s->heads * s->k_dim * s->v_dim + (uint64_t)s->keep * s->width;
}

uint64_t cu_state_size(const cu_program *p)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < p->nstate; i++) {
        const tn_state_spec *s = cu_state_spec(p, i);
        n += (uint64_t)s->heads * s->k_dim * s->v_dim + (uint64_t)s->conv_keep * s->conv_width;
    }
    return n * sizeof(float);
}

/* S [heads, k_dim, v_dim] is the neutral order, [heads, v_dim, k_dim] the card's. */
static void turn(const gpu_state *s, const float *in, float *out, bool read)
{
    for (uint64_t h = 0; h < s->heads; h++)
        for (uint64_t v = 0; v < s->v_dim; v++)
            for (uint64_t k = 0; k < s->k_dim; k++) {
                uint64_t card = (h * s->v_dim + v) * s->k_dim + k;
                uint64_t neutral = (h * s->k_dim + k) * s->v_dim + v;
                if (read)
                    out[neutral] = in[card];
                else
                    out[card] = in[neutral];
            }
}

static tn_status move_state(cu_program *p, uint32_t i, int32_t slot, float *data, float *room,
                            bool read, tn_err *err)
{
    gpu_state s = cu_state_of(p, i);
    float *card = s.data + (uint64_t)slot * s.slot_floats;
    uint64_t n = settled_floats(&s), matrix = (uint64_t)s.heads * s.k_dim * s.v_dim;
    if (!read) {
        turn(&s, data, room, false);
        memcpy(room + matrix, data + matrix, (n - matrix) * sizeof *data);
    }
    cudaError_t e = read ? cudaMemcpyAsync(room, card, n * sizeof *room, cudaMemcpyDeviceToHost,
                                           p->dev->stream)
                         : cudaMemcpyAsync(card, room, n * sizeof *room, cudaMemcpyHostToDevice,
                                           p->dev->stream);
    tn_status st = settle(p, e, "moving a state", err);
    if (st == TN_OK && read) {
        turn(&s, room, data, true);
        memcpy(data + matrix, room + matrix, (n - matrix) * sizeof *data);
    }
    return st;
}

tn_status cu_state_move(cu_program *p, int32_t slot, void *data, bool read, tn_err *err)
{
    tn_status st = check(p, slot, p->nslot, "state slot", err);
    const tn_host *h = p->dev->host;
    if (st != TN_OK)
        return st;
    float *room = h->alloc(h->ctx, cu_state_size(p) + 64), *at = data;
    if (room == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cuda: no memory to move a state");
    for (uint32_t i = 0; st == TN_OK && i < p->nstate; i++) {
        gpu_state s = cu_state_of(p, i);
        st = move_state(p, i, slot, at, room, read, err);
        at += settled_floats(&s);
    }
    h->release(h->ctx, room);
    return st;
}

/* ----------------------------------------------------------------------------------- peek */

static float half_value(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 1023, u;
    if (e == 31)
        u = sign | 0x7f800000u | m << 13;
    else if (e != 0)
        u = sign | (e + 112) << 23 | m << 13;
    else
        return (sign ? -1.0f : 1.0f) * (float)m * 0x1p-24f;
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

tn_status cu_peek(cu_program *p, uint32_t buffer, uint32_t row0, uint32_t nrow, float *out,
                  tn_err *err)
{
    if (!p->reserved || buffer >= p->nbuffer ||
        (uint64_t)row0 + nrow > cu_rows_max(p, p->buffer[buffer].rows))
        return tn_fail(err, TN_INTERNAL, "cuda: peek at buffer %u, rows %u + %u", buffer, row0,
                       nrow);
    if (p->buffer[buffer].skipped)
        return tn_fail(err, TN_UNSUPPORTED, "cuda: buffer %s is never formed: its operations are "
                       "fused, but with limits.profile they are not", p->buffer[buffer].name);
    const cu_buffer *b = &p->buffer[buffer];
    const tn_host *h = p->dev->host;
    uint64_t size = (uint64_t)nrow * b->width * b->elem;
    uint8_t *raw = h->alloc(h->ctx, size + 64);
    if (raw == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cuda: no memory to peek");
    uint64_t pitch = (uint64_t)b->stride * b->elem, line = (uint64_t)b->width * b->elem;
    cudaError_t e = nrow == 0 ? cudaSuccess
                              : cudaMemcpy2DAsync(raw, line, p->work.data + b->at + row0 * pitch,
                                                  pitch, line, nrow, cudaMemcpyDeviceToHost,
                                                  p->dev->stream);
    tn_status st = settle(p, e, "peeking", err);
    for (uint64_t i = 0; st == TN_OK && i < (uint64_t)nrow * b->width; i++) {
        if (b->type == TN_F16) {
            uint16_t u;
            memcpy(&u, raw + 2 * i, sizeof u);
            out[i] = half_value(u);
        } else if (b->type == TN_I32) {
            int32_t v;
            memcpy(&v, raw + 4 * i, sizeof v);
            out[i] = (float)v;
        } else {
            memcpy(&out[i], raw + 4 * i, sizeof out[i]);
        }
    }
    h->release(h->ctx, raw);
    return st;
}

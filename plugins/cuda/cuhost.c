/* SPDX-License-Identifier: Apache-2.0 */
/* cuhost.c - experts that stay in the host's memory (TN_PLACE_HOST), for models that are larger
 * than the card.
 *
 * The memory is pinned, and the card knows it by the same address: kernels read the tiles of
 * the experts that a row chose over the link, where they lie, as they read the card's own.
 * Nothing is copied ahead, for which experts are chosen is known on the card alone, and the host
 * would have to wait for it in the middle of every layer. A weight lies whole here or there. */
#include "cuprogram.h"

#define COPY_SIZE (64ull << 20)
#define COPY_TURNS 4

void cu_host_share(cu_program *p, uint64_t room, uint64_t *card, uint64_t *host)
{
    *card = p->weight_size;
    *host = 0;
    for (uint32_t i = 0; i < p->nweight; i++) {
        cu_weight *w = &p->weight[i];
        uint64_t size = cu_round(w->size, 256);
        if (w->spec.place != TN_PLACE_HOST)
            continue;
        w->host = size > room;
        uint64_t *end = w->host ? host : card;
        w->at = *end;
        *end += size;
        room -= w->host ? 0 : size;
    }
}

tn_status cu_host_take(cu_program *p, uint64_t size, tn_err *err)
{
    void *data = NULL;
    if (size == 0)
        return TN_OK;
    cudaError_t e = cudaHostAlloc(&data, size, cudaHostAllocPortable);
    if (e == cudaSuccess) {
        p->host = (cu_memory){.data = data, .size = size};
        return TN_OK;
    }
    cudaGetLastError();
    return tn_fail(err, TN_NO_MEMORY, "cuda: experts want %.2f GiB of the host's memory, pinned, beside "
                   "the card's (%s)", (double)size / 0x1p30, cudaGetErrorString(e));
}

void cu_host_give(cu_program *p)
{
    cudaFreeHost(p->host.data);
    p->host = (cu_memory){0};
}

static uint64_t expert_bytes(const cu_weight *w)
{
    return w->host ? w->m.codes_size + w->m.scale_size + w->m.zero_size : 0;
}

/* Of the host's memory, at most: choices of one row in all layers. */
static uint64_t token_bytes(const cu_program *p)
{
    uint64_t n = 0;
    for (uint32_t i = p->section[0].op0; i < p->section[0].op0 + p->section[0].nop; i++) {
        const tn_op_experts *a = cu_op(p, i)->args;
        if (cu_op(p, i)->kind == TN_OP_EXPERTS)
            n += a->ntop * (expert_bytes(&p->weight[a->w_up]) + expert_bytes(&p->weight[a->w_down]));
    }
    return n;
}

/* Bytes a second from the host's memory to the workspace, which nobody uses yet. */
static cudaError_t measure(const cu_program *p, double *rate)
{
    uint64_t size = p->host.size < p->work.size ? p->host.size : p->work.size;
    cudaEvent_t begin = NULL, end = NULL;
    float ms = 0;
    size = size < COPY_SIZE ? size : COPY_SIZE;
    *rate = 0;
    cudaError_t e = cudaEventCreateWithFlags(&begin, cudaEventDefault);
    if (e == cudaSuccess)
        e = cudaEventCreateWithFlags(&end, cudaEventDefault);
    for (uint32_t i = 0; i < COPY_TURNS && e == cudaSuccess; i++) {
        e = cudaEventRecord(begin, p->dev->stream);
        if (e == cudaSuccess)
            e = cudaMemcpyAsync(p->work.data, p->host.data, size, cudaMemcpyHostToDevice,
                                p->dev->stream);
        if (e == cudaSuccess)
            e = cudaEventRecord(end, p->dev->stream);
        if (e == cudaSuccess)
            e = cudaEventSynchronize(end);
        if (e == cudaSuccess)
            e = cudaEventElapsedTime(&ms, begin, end);
        double now = ms > 0 ? (double)size / ((double)ms * 1e-3) : 0;
        *rate = now > *rate ? now : *rate;
    }
    if (begin != NULL)
        cudaEventDestroy(begin);
    if (end != NULL)
        cudaEventDestroy(end);
    return e;
}

static void size_text(uint64_t bytes, char text[32])
{
    bool large = bytes >= 1u << 30;
    snprintf(text, 32, "%.2f %s", (double)bytes / (large ? 0x1p30 : 0x1p20), large ? "GiB" : "MiB");
}

tn_status cu_host_tell(cu_program *p, tn_err *err)
{
    char text[256], price[96] = "", there[32], all[32], each[32];
    double rate;
    if (p->host.size == 0)
        return TN_OK;
    cudaError_t e = measure(p, &rate);
    if (e != cudaSuccess)
        return cu_fail(err, e, "measuring the link to the host's memory");
    double bytes = (double)token_bytes(p);
    if (rate > 0)
        snprintf(price, sizeof price, ", at %.1f GB/s at least %.2f ms", rate * 1e-9,
                 bytes / rate * 1e3);
    size_text(p->host.size, there);
    size_text(p->host_size, all);
    size_text(token_bytes(p), each);
    snprintf(text, sizeof text, "%s of %s of experts stay in the host's memory; a token alone reads %s "
             "of it over the link%s", there, all, each, price);
    p->dev->host->log(p->dev->host->ctx, TN_LOG_INFO, text);
    return TN_OK;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* experts.cuh - what the products of experts share: items, their inputs and where sums go. */
#ifndef TN_CUDA_EXPERTS_CUH
#define TN_CUDA_EXPERTS_CUH

#include "matmul.cuh"

#define MANY 64u               /* pairs an item, tall */

/* Rows of the step that this portion takes: [row0, row0 + rows). */
typedef struct portion {
    uint32_t row0, rows_max;
} portion;

LANE uint32_t pairs_here(const gpu_experts &a, const gpu_step &s, const portion &c)
{
    uint32_t all = s.count[a.rows];
    uint32_t rows = all > c.row0 ? all - c.row0 : 0;
    return (rows < c.rows_max ? rows : c.rows_max) * a.ntop;
}

LANE int32_t expert_of(const gpu_experts &a, const portion &c, uint32_t pair)
{
    const int32_t *ids = (const int32_t *)a.ids.data;
    int32_t e = ids[(uint64_t)(c.row0 + pair / a.ntop) * a.ids.stride + pair % a.ntop];
    return e >= 0 && (uint32_t)e < a.up.nexpert ? e : -1;
}

/* tallexperts.cu: the products of one half for items of up to MANY pairs. */
cudaError_t experts_tall(const gpu_experts *a, const portion *c, uint32_t items, bool down,
                         cudaStream_t stream);

/* wideexperts.cu: the same where wide_offered, for items of up to WIDE_MANY pairs. Leaves halves
 * in `partial` and turned columns in `hidden`, and reads a.turned and turned `gathered`. */
#define WIDE_MANY 128u
cudaError_t experts_wide(const gpu_experts *a, const portion *c, uint32_t items, bool down,
                         cudaStream_t stream);

/* The product of an item. up: rows of x or gathered ones; down: hidden or gathered. */
LANE product item_product(const gpu_experts &a, const portion &c, const int4 &item, bool down)
{
    const gpu_matrix &w = down ? a.down : a.up;
    product p = product_of(w, (uint32_t)item.x);
    p.m = (uint32_t)item.z;
    p.ldx = w.cols;
    p.k = w.cols;
    if (w.perm != NULL) {
        p.x = (const __half *)a.gathered + (uint64_t)item.y * w.cols;
    } else if (down) {
        p.x = (const __half *)a.hidden + (uint64_t)item.y * w.cols;
    } else {
        p.pair = a.group.pair + item.y;
        p.ntop = a.ntop;
        p.ldx = a.in.stride;
        p.k = w.k;
        p.x = (const __half *)a.in.data + (uint64_t)c.row0 * a.in.stride;
    }
    return p;
}

/* The routing weight of the i-th pair of an item. */
LANE float pair_weight(const gpu_experts &a, const portion &c, const int4 &item, uint32_t i)
{
    uint32_t pair = (uint32_t)a.group.pair[(uint32_t)item.y + i];
    return span_get(a.weights, c.row0 + pair / a.ntop, pair % a.ntop);
}

/* Row n of gate and up for the i-th pair of an item. */
LANE void put_weighted(const gpu_experts &a, const int4 &item, uint32_t n, uint32_t i, float gate,
                       float up, float weight)
{
    if (n < a.width)
        ((__half *)a.hidden)[(uint64_t)((uint32_t)item.y + i) * a.down.cols + n] =
            to_half(activate(gate, a.act) * up * weight);
}

LANE void put_hidden(const gpu_experts &a, const portion &c, const int4 &item, uint32_t n,
                     uint32_t i, float gate, float up)
{
    if (n < a.width)
        put_weighted(a, item, n, i, gate, up, pair_weight(a, c, item, i));
}

/* Columns of hidden behind the width multiply zeros, but not NaN. */
LANE void clear_tail(const gpu_experts &a, const int4 &item)
{
    uint32_t tail = a.down.cols - a.width;
    if (blockIdx.x != 0)
        return;
    for (uint32_t i = threadIdx.x; i < tail * (uint32_t)item.z; i += blockDim.x)
        a.hidden[(uint64_t)((uint32_t)item.y + i / tail) * a.down.cols + a.width + i % tail] = 0;
}

LANE void put_partial(const gpu_experts &a, const int4 &item, uint32_t n, uint32_t i, float sum)
{
    if (n < a.down.n)
        a.partial[(uint64_t)((uint32_t)item.y + i) * a.down.n + n] = sum;
}

#endif

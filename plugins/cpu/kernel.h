/* SPDX-License-Identifier: Apache-2.0 */
/* kernel.h - the inner loops of the cpu device, one table per instruction set.
 *
 * The scalar table is plain C and the specification; every other level is held against it.
 * Each level is one translation unit compiled with its own -m flags and nothing else of it
 * runs before cpu_kernels_pick has looked at the processor.
 *
 * Packed matrix ("R16"): strips of 16 rows; in a strip the columns follow in blocks of 32.
 * W4G block: 256 bytes of nibbles. Byte (j, r, c), j = 0..3, r = row 0..15, c = 0..3: low
 * nibble w[r][4j + c], high nibble w[r][16 + 4j + c]. Rows past n and columns past cols are
 * packed as code = zero. How scales and zeros lie beside the blocks is matrix.c's own. */
#ifndef TN_CPU_KERNEL_H
#define TN_CPU_KERNEL_H

#include <tenon/plugin.h>

#include <stdbool.h>
#include <stddef.h>

#define CPU_STRIP 16u
#define CPU_BLOCK 32u

/* A packed weight. `data` is 64-byte aligned and belongs to the program's weight arena. */
typedef struct cpu_matrix {
    uint32_t kind;        /* TN_FORM_F32, F16, BF16, W4G, W8G: as packed */
    uint32_t group;       /* columns a scale, W4G and W8G; a multiple or divisor of 32 */
    uint64_t n, k;        /* logical shape */
    uint64_t cols;        /* columns as packed: k, or more with padding; rounded up to 32 */
    uint64_t nstrip;      /* ceil(n / 16) */
    uint64_t strip_size;  /* bytes from one strip to the next */
    uint8_t *data;
    const int32_t *perm;  /* [cols], -1 = padding; NULL: column j multiplies input j */
    float *scratch;       /* reserved for the owner of matrix.c */
} cpu_matrix;

/* Activations of m rows, made ready for one or more matrices with the same perm. */
typedef struct cpu_act {
    uint64_t cols;        /* rounded up to 32; columns past k are zero */
    float *x;             /* [m, cols] fp32: plain forms, and exact mode */
    int8_t *q;            /* [m, cols] rint(x / scale) in [-127, 127] */
    float *scale;         /* [m, cols / 32] max |x| / 127 */
    float *sum;           /* [m, cols / 32] sum of q in the block, as float */
} cpu_act;

/* One run of cached tokens of one KV head against a set of query rows (online softmax).
 * k, v: [ntoken, dim] with `stride` elements from token to token. Query i sees the tokens
 * [first[i], limit[i]) of the run. m, l, acc carry the running maximum, the running sum and
 * the weighted V; start with m = -INFINITY, l = 0, acc = 0; the caller divides at the end. */
typedef struct cpu_attend {
    uint32_t nquery, dim, ntoken, stride;
    const float *q;           /* [nquery, dim] */
    const void *k, *v;        /* in the cache's type */
    const int32_t *first, *limit; /* [nquery] */
    float scale, softcap;     /* softcap 0: none */
    float *m, *l;             /* [nquery] */
    float *acc;               /* [nquery, dim] */
} cpu_attend;

typedef struct cpu_kernels {
    const char *name;         /* "scalar", "avx2", "avxvnni", "avx512", "avx512vnni" */

    /* Fills rows [row0, row1) of `a` from x (ldx floats a row) gathered by perm.
     * quant: fill q, scale, sum; else fill x. */
    void (*prepare)(cpu_act *a, const float *x, uint64_t ldx, uint64_t k, const int32_t *perm,
                    uint32_t row0, uint32_t row1, bool quant);

    /* y[i * ldy + r] (+)= sum over columns, strips [strip0, strip1) of w, rows i < m; `y`
     * points at the matrix's row 0 and rows past n are not written. quant: int8 activations
     * (W4G, W8G only); else fp32 activations. Accumulates in fp32 per block, in column order,
     * and gives bit-equal results for a row whatever m is. */
    void (*multiply)(const cpu_matrix *w, const cpu_act *a, uint32_t m, uint64_t strip0,
                     uint64_t strip1, bool quant, float *y, uint64_t ldy, bool add);

    /* One row of a packed matrix, dequantized exactly: embeddings. out [k] */
    void (*row)(const cpu_matrix *w, uint64_t r, float *out);

    /* out = x * rsqrt(mean(x^2) + eps) * (w + offset); w may be NULL; may run in place */
    void (*norm)(const float *x, const float *w, float offset, float eps, uint32_t n, float *out);
    void (*act_mul)(const float *a, const float *b, uint32_t act, uint32_t n, float *out);
    void (*add)(float *x, const float *y, uint32_t n);                  /* x += y */
    void (*mul_sigmoid)(float *x, const float *gate, uint32_t n);       /* x *= sigmoid(gate) */
    /* Rotates one head in place; cos, sin [dims / 2]; pairing as TN_ROPE_*. */
    void (*rope)(float *x, const float *cos, const float *sin, uint32_t dims, uint32_t pairing);
    void (*attend_f32)(const cpu_attend *a);
    void (*attend_f16)(const cpu_attend *a);
    void (*attend_bf16)(const cpu_attend *a);
    void (*to_f16)(const float *x, uint32_t n, uint16_t *out);
    void (*to_bf16)(const float *x, uint32_t n, uint16_t *out);
    float (*max)(const float *x, uint32_t n, uint32_t *at);             /* first of equals */
    double (*sum_exp)(const float *x, float max, uint32_t n);           /* sum exp(x - max) */
    bool (*finite)(const float *x, uint32_t n);                         /* no NaN, no +inf */
    /* Sum of bytes read, so that nothing is optimised away: the bandwidth measurement. */
    uint64_t (*read)(const void *p, size_t size);
} cpu_kernels;

/* The best level this processor runs, or the named one; NULL when it cannot run it. */
const cpu_kernels *cpu_kernels_pick(const char *name);
/* The i-th level compiled in that this processor runs, worst first; NULL past the end. */
const cpu_kernels *cpu_kernels_at(uint32_t i);

/* matrix.c - packing */
/* The kind a form is packed as: W4G, W8G, plain kinds as they are; requant W8G on a 16- or
 * 32-bit form gives W8G with group 32 per row. False: not packable (PRIVATE). */
bool cpu_matrix_plan(const tn_form *f, uint64_t n, uint64_t k, uint32_t requant, cpu_matrix *out);
uint64_t cpu_matrix_bytes(const cpu_matrix *w);   /* of `data`, a multiple of 64 */
/* Packs strips [strip0, strip1) from rows pulled through the reader; any thread. */
tn_status cpu_matrix_pack(cpu_matrix *w, const tn_form *f, const tn_reader *r, uint32_t expert,
                          uint64_t strip0, uint64_t strip1, tn_err *err);

#endif

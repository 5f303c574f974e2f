/* SPDX-License-Identifier: Apache-2.0 */
/* kernel.h - the inner loops of the cpu device, one table per instruction set.
 *
 * The scalar table is plain C and the specification; every other level is held against it.
 * Each level is one translation unit level_NAME.c compiled with its own -m flags (named at
 * its head; on other processors than x86-64 it is empty) and nothing else of it runs before
 * cpu_kernels_pick has looked at the processor.
 *
 * Packed matrix ("R16"): strips of 16 rows, strip_size bytes apart. Rows past n and columns
 * past the form's are packed as code = zero, or 0. Inside a strip:
 *
 *   F32 F16 BF16   value (c, r): column by column, 16 rows side by side
 *   W4G, W8G       scale [ngroup][16 rows] in scale_kind, then from zero_at
 *                  zero  [ngroup][16 rows] u8, absent unless `zeros` (then 8 or 128), then
 *                  from code_at blocks of 32 columns:
 *     W4G  256 B   byte (j, r, c), j = 0..3, r = 0..15, c = 0..3: low nibble w[r][4j + c],
 *                  high nibble w[r][16 + 4j + c]
 *     W8G  512 B   byte (j, r, c), j = 0..7: w[r][4j + c]
 *
 * Each part begins on 64 bytes. A dword of a block is four columns of one row, so a vector
 * of dwords has rows for lanes and meets a broadcast dword of int8 activations. */
#ifndef TN_CPU_KERNEL_H
#define TN_CPU_KERNEL_H

#include <tenon/plugin.h>

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

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
    const int32_t *perm;  /* [cols], -1 = padding; NULL: column j multiplies input j.
                             Memory of the device, filled by cpu_matrix_perm */
    uint64_t ngroup;      /* W4G, W8G: groups a row */
    uint64_t zero_at;     /* byte offsets inside a strip */
    uint64_t code_at;
    uint32_t scale_kind;  /* TN_F32, TN_F16 or TN_BF16: how scales are stored */
    uint32_t zeros;       /* 1: zero points are stored */
} cpu_matrix;

/* Activations of m rows, made ready for one or more matrices with the same perm. */
typedef struct cpu_act {
    uint64_t cols;        /* rounded up to 32; columns past k are zero */
    float *x;             /* [m, cols] fp32: plain forms, and exact mode */
    int8_t *q;            /* [m, cols] rint(x / scale) in [-127, 127] */
    float *scale;         /* [m, cols / 32] max |x| / 127 */
    float *sum;           /* [m, cols / 32] sum of q in the block, as float */
    void *room;           /* CPU_ROOM_BYTES of the caller's own, begun on 64, that multiply may
                             use; NULL: many tokens go the way of few */
} cpu_act;

#define CPU_ROOM_BYTES (448u << 10)

/* In a room multiply remembers which inputs it laid out last: whoever changes activations, or
 * uses a room for the first time, makes it forget. */
#define CPU_ROOM_MEMORY 64u
static inline void cpu_room_forget(void *room)
{
    memset(room, 0, CPU_ROOM_MEMORY);
}

/* One run of cached tokens of one KV head against a set of query rows (online softmax).
 * v: [ntoken, dim]; k: strips of 16 tokens, [dim][16] each, the last one whole with anything
 * behind the run's end. Query i sees the tokens [first[i], limit[i]) of the run. m, l, acc carry the running maximum, the running sum and
 * the weighted V; start with m = -INFINITY, l = 0, acc = 0; the caller divides at the end. */
typedef struct cpu_attend {
    uint32_t nquery, dim, ntoken;
    const float *q;           /* [nquery, dim] */
    const void *k, *v;        /* in the cache's type */
    const int32_t *first, *limit; /* [nquery] */
    float scale, softcap;     /* softcap 0: none */
    float *m, *l;             /* [nquery] */
    float *acc;               /* [nquery, dim] */
    void *room;               /* as in cpu_act */
} cpu_attend;

/* One step of the gated delta rule on a head's state S [rows, cols], in place:
 *   S *= decay; u = beta (v - S^T k); S += k u^T; o = S^T q
 * `slow`: fade is decay - 1, which fp32 holds better near 1; else fade is decay. Sums run down
 * the rows in order, a chain per column. Source: Yang et al., arXiv 2412.06464. */
typedef struct cpu_rule {
    float *s;
    uint32_t rows, cols;
    const float *q, *k;       /* [rows] */
    const float *v;           /* [cols] */
    float *o;                 /* [cols], apart from all others */
    bool slow;
    float fade, beta;
} cpu_rule;

typedef struct cpu_kernels {
    const char *name;         /* "scalar", "avx2", "avxvnni", "avx512", "avx512vnni",
                                 "avx512amx" */

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
    void (*rule)(const cpu_rule *r);
    void (*to_f16)(const float *x, uint32_t n, uint16_t *out);
    void (*to_bf16)(const float *x, uint32_t n, uint16_t *out);
    /* First of equals; passes over NaN; n >= 1, -inf at 0 when there is nothing above it. */
    float (*max)(const float *x, uint32_t n, uint32_t *at);
    double (*sum_exp)(const float *x, float max, uint32_t n);           /* sum exp(x - max) */
    bool (*finite)(const float *x, uint32_t n);                         /* no NaN, no +inf */
    /* Sum of the 8-byte words (and last bytes) read, so that nothing is optimised away: the
     * bandwidth measurement. */
    uint64_t (*read)(const void *p, size_t size);
} cpu_kernels;

/* The best level this processor runs, or the named one; NULL when it cannot run it. */
const cpu_kernels *cpu_kernels_pick(const char *name);
/* The i-th level compiled in that this processor runs, worst first; NULL past the end. */
const cpu_kernels *cpu_kernels_at(uint32_t i);

/* matrix.c - packing: plan, then settle (optional), then pack; all [any].
 *
 * plan fixes kind, shape and an upper bound of the size without seeing data: scales take
 * 4 bytes. W4G and W8G stay what they are, plain kinds too; requant W8G makes of a plain
 * form W8G with group 32. A group that neither is a multiple of 32 nor covers the whole row
 * is expanded to F32, exactly. False: not packable (PRIVATE, or an impossible form). */
bool cpu_matrix_plan(const tn_form *f, uint64_t n, uint64_t k, uint32_t requant, cpu_matrix *out);
/* Reads every scale of all `nexpert` matrices once and, when all are exact in 16 bits, moves
 * `w` to 16-bit scales: up to a ninth less memory traffic. strip_size only ever shrinks, so a
 * place of the planned size holds. To be called before the first strip is packed, or never. */
tn_status cpu_matrix_settle(cpu_matrix *w, const tn_form *f, const tn_reader *r,
                            uint32_t nexpert, tn_err *err);
/* Fills perm [w->cols] from the reader, -1 past the form's columns; entries outside [-1, k)
 * are refused. Only for forms with TN_FORM_PERM. */
tn_status cpu_matrix_perm(const cpu_matrix *w, const tn_form *f, const tn_reader *r,
                          uint32_t expert, int32_t *perm, tn_err *err);
uint64_t cpu_matrix_bytes(const cpu_matrix *w);   /* of `data`, a multiple of 64 */
/* Packs strips [strip0, strip1) from rows pulled through the reader; any thread. */
tn_status cpu_matrix_pack(cpu_matrix *w, const tn_form *f, const tn_reader *r, uint32_t expert,
                          uint64_t strip0, uint64_t strip1, tn_err *err);
/* The same to a place outside the matrix, strip0 first, and without taking memory: `memory` has
 * cpu_matrix_pull_size bytes, begun on 4. */
uint64_t cpu_matrix_pull_size(const cpu_matrix *w, const tn_form *f);
tn_status cpu_matrix_pack_to(const cpu_matrix *w, const tn_form *f, const tn_reader *r,
                             uint32_t expert, uint64_t strip0, uint64_t strip1, void *memory,
                             uint8_t *to, tn_err *err);

#endif

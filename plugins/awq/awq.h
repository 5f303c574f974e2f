/* SPDX-License-Identifier: Apache-2.0 */
/* awq.h - what the files of the awq plugin share.
 *
 * The plugin reads two families of 4-bit (and, for the second, 1- to 8-bit) checkpoints:
 * AutoAWQ's (quant_method "awq", and "auto-round" packed that way) and compressed-tensors'
 * pack-quantized, which most builds named "AWQ" are today.
 *
 *   awq_config  what quantization_config says          awq_tensor  finding and checking tensors
 *   awq_rules   which module it says it about          awq_linear  one module: layout, sizes
 *   awq_cols    how columns leave: groups, padding     awq_unpack  codes, scales, zeros as rows
 *   awq_read    the contract's form_of and read        awq_write   the way back; awq_round
 *
 * A module's tensors decide how it is read. The config supplies what tensors cannot say, and
 * where both speak and disagree the plugin warns once (or, with `strict`, refuses). Nothing
 * is cached between calls: every call opens the module anew, which costs a few look-ups. */
#ifndef AWQ_H
#define AWQ_H

#include <tenon/plugin.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#define AWQ_NAME_MAX 1024u     /* bytes of a tensor's name that can be looked up */
#define AWQ_SCHEMES_MAX 64u    /* config_groups of one checkpoint */

/* Kinds of warnings; each is given once a checkpoint. */
#define AWQ_WARN_ZEROS 0u
#define AWQ_WARN_GROUP 1u
#define AWQ_WARN_BITS 2u
#define AWQ_WARN_LAYOUT 3u
#define AWQ_WARN_COUNT 4u

typedef struct awq_self {
    const tn_host *h;                            /* borrowed, valid until stop */
    bool strict;
    atomic_uintptr_t warned[AWQ_WARN_COUNT];     /* the checkpoint last warned about */
} awq_self;

/* The config and the tensors disagree. With `strict` that is TN_DATA; else it is logged,
 * unless this kind was already said about this checkpoint, and the tensors count. */
tn_status awq_disagree(awq_self *self, const tn_view *v, uint32_t kind, tn_err *err,
                       const char *fmt, ...) __attribute__((format(printf, 5, 6)));

/* ------------------------------------------------------------------------ awq_config.c */

#define AWQ_METHOD_AUTOAWQ 1u   /* "awq", and "auto-round" packed as auto_awq */
#define AWQ_METHOD_PACKED 2u    /* "compressed-tensors" */

/* One way of quantizing: AutoAWQ has one for the whole checkpoint, compressed-tensors one a
 * config group. */
typedef struct awq_scheme {
    uint32_t bits;
    uint64_t group;           /* columns a scale; 0: a whole row (or the whole tensor) */
    bool symmetric;
    bool ordered;             /* act-order: a weight_g_idx is due */
    const tn_json *targets;   /* compressed-tensors: list of text; else NULL */
} awq_scheme;

typedef struct awq_config {
    uint32_t method;
    bool natural;             /* AutoAWQ: version says gemv or gemv_fast, not gemm */
    bool fast;                /* gemv_fast */
    bool padded;              /* packed: the library's version pads odd bit widths */
    const tn_json *plain;     /* modules_to_not_convert, extra_config or ignore; may be NULL */
    uint32_t nscheme;
    awq_scheme scheme[AWQ_SCHEMES_MAX];
} awq_config;

/* Is this one of the plugin's quantization methods? Says in `why` what it is instead. */
bool awq_config_is_ours(const tn_json *quant, const char *file, tn_err *why);
/* Reads quantization_config; every value that the plugin cannot honour is refused by key. */
tn_status awq_config_read(const tn_json *quant, const char *file, awq_config *out, tn_err *err);
/* A second copy of the configuration beside config.json, where one exists, must agree. */
tn_status awq_config_twin(const tn_host *h, const tn_view *v, tn_err *err);

/* ------------------------------------------------------------------------- awq_rules.c */

typedef struct awq_rules awq_rules;

/* Compiles the names and patterns of a config; the config and its JSON stay borrowed. */
tn_status awq_rules_open(const tn_host *h, const awq_config *c, awq_rules **out, tn_err *err);
void awq_rules_close(awq_rules *r);
/* The scheme that the config gives `module`, or NULL in *out when it stays plain. Fails when
 * patterns take unreasonably long. */
tn_status awq_rules_match(awq_rules *r, const char *module, const awq_scheme **out, tn_err *err);

/* ------------------------------------------------------------------------ awq_tensor.c */

uint32_t awq_dtype_size(uint32_t dtype);       /* 0 for one that does not exist */
const char *awq_dtype_name(uint32_t dtype);

/* Looks up MODULE.suffix; false when there is none. */
bool awq_find(const tn_view *v, const char *module, const char *suffix, tn_tensor *out);
/* The tensor has this type and shape and as many bytes as they take, else TN_DATA with both
 * shapes. `ndim` 1 or 2; `why` explains the wanted shape. */
tn_status awq_check(const char *module, const char *suffix, const tn_tensor *t, uint32_t dtype,
                    uint32_t ndim, uint64_t d0, uint64_t d1, const char *why, tn_err *err);
/* As awq_check, for scales: F16, BF16 or F32. */
tn_status awq_check_scale(const char *module, const char *suffix, const tn_tensor *t,
                          uint32_t ndim, uint64_t d0, uint64_t d1, const char *why, tn_err *err);

/* Unaligned little-endian loads; the maps promise no alignment. */
static inline uint16_t awq_load16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint32_t awq_load32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint64_t awq_load64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* ------------------------------------------------------------------------ awq_linear.c */

#define AWQ_PLAIN 1u       /* weight [n, k], a floating type */
#define AWQ_GEMM 2u        /* qweight [k, n / 8], output columns interleaved */
#define AWQ_GEMV 3u        /* qweight [n, k / 8] */
#define AWQ_GEMV_FAST 4u   /* qweight i16 [n / 4, k], fp16 -scale * zero */
#define AWQ_PACKED 5u      /* weight_packed [n, ceil(k * bits / 32)] */

#define AWQ_ZERO_NONE 1u   /* symmetric */
#define AWQ_ZERO_GEMM 2u   /* i32 [groups, n / 8], interleaved as the codes */
#define AWQ_ZERO_GEMV 3u   /* i32 [n, words], a group a nibble */
#define AWQ_ZERO_FAST 4u   /* f16 [8 * words, n] of -scale * zero */
#define AWQ_ZERO_ROWS 5u   /* i32 [ceil(n * bits / 32), groups], packed along n */
#define AWQ_ZERO_BYTES 6u  /* i8 [n, groups], signed: older compressed-tensors */

#define AWQ_SCALE_GROUPS 1u /* [groups, n] */
#define AWQ_SCALE_ROWS 2u   /* [n, stride >= groups] */
#define AWQ_SCALE_ONE 3u    /* a single number */

/* One module, opened: every tensor here has passed its check against n and k, so the rest of
 * the plugin reads it without looking back. Borrowed from the view. */
typedef struct awq_linear {
    const char *name;
    uint32_t layout;         /* AWQ_PLAIN ... */
    uint32_t bits;
    uint32_t zeros;          /* AWQ_ZERO_* */
    uint32_t scales;         /* AWQ_SCALE_* */
    uint64_t n, k;
    uint64_t group;          /* columns a scale in the file */
    uint64_t ngroup;         /* scales a row in the file, without padding */
    uint64_t scale_stride;   /* elements from row to row of the scale tensor */
    uint64_t zero_stride;    /* the same for zeros */
    tn_tensor code, scale, zero;
    const void *order;       /* i32 [k]: the group of each column; NULL: column / group */
    uint64_t file_bytes;
} awq_linear;

/* TN_NOINPUT: no tensor of that name; TN_DATA: impossible, in one sentence. */
tn_status awq_linear_open(awq_self *self, const tn_view *v, const tn_module *m,
                          awq_linear *out, tn_err *err);
/* The kind of codes a linear leaves in: TN_FORM_W4G, TN_FORM_W8G or a plain one. */
uint32_t awq_linear_kind(const awq_linear *l);

/* -------------------------------------------------------------------------- awq_cols.c */

/* How the columns [col0, col1) of a linear leave: form group i of `group` columns takes its
 * scale and zero from the file's group source[i]. With `perm`, column j of the form is column
 * perm[j] of the rectangle, -1 being padding. */
typedef struct awq_cols {
    uint64_t col0, col1;
    uint64_t cols, group, ngroup;
    bool permuted;
    uint32_t *source;   /* [ngroup], in `memory` */
    int32_t *perm;      /* [cols] when permuted, in `memory` */
    void *memory;       /* from the host; give it back with awq_cols_close */
} awq_cols;

/* With `arrays` false only the numbers are filled in and nothing needs closing. */
tn_status awq_cols_open(const tn_host *h, const awq_linear *l, uint64_t col0, uint64_t col1,
                        bool arrays, awq_cols *out, tn_err *err);
void awq_cols_close(const tn_host *h, awq_cols *c);

/* ------------------------------------------------------------------------ awq_unpack.c */

/* Columns that awq_unpack_codes can begin and end at, a power of two. */
uint64_t awq_unpack_unit(const awq_linear *l);
/* Codes of rows [row0, row1) and columns [col0, col1) in the file's order: two a byte for
 * W4G kinds, one a byte for W8G kinds. col0 is a multiple of the unit, and so is col1 or it
 * is the last column rounded up to the unit. Row r goes to dst + (r - row0) * stride. */
void awq_unpack_codes(const awq_linear *l, uint64_t row0, uint64_t row1, uint64_t col0,
                      uint64_t col1, uint8_t *dst, size_t stride);

/* ------------------------------------------------------------------------- awq_scale.c */

/* Scales of rows [row0, row1) for the form groups of `c`: out [rows, c->ngroup]. TN_DATA
 * when one is infinite or not a number. */
tn_status awq_scale_rows(const awq_linear *l, const awq_cols *c, uint64_t row0, uint64_t row1,
                         float *out, tn_err *err);
/* Zeros likewise, as the form's codes count (the middle is 8 or 128). */
tn_status awq_zero_rows(const awq_linear *l, const awq_cols *c, uint64_t row0, uint64_t row1,
                        uint8_t *out, tn_err *err);
/* Does some zero of these rows and form groups differ from the middle? */
tn_status awq_zero_differs(const awq_linear *l, const awq_cols *c, uint64_t row0,
                           uint64_t row1, bool *out, tn_err *err);

/* -------------------------------------------------------------------------- awq_read.c */

tn_status awq_form_of(void *self, const tn_view *v, const tn_module *m, const tn_rect *r,
                      tn_form *out, tn_err *err);
tn_status awq_cut(void *self, const tn_view *v, const tn_module *m, uint64_t *row_unit,
                  uint64_t *col_unit, tn_err *err);
tn_status awq_read(void *self, const tn_view *v, const tn_module *m, const tn_rect *r,
                   uint64_t row0, uint64_t row1, tn_block *out, tn_err *err);

/* ------------------------------------------------------------------------- awq_round.c */

#define AWQ_ROUND_AWQ 1u       /* AutoAWQ: the group's own minimum and maximum */
#define AWQ_ROUND_AWQ_SYM 2u   /* the same file, every zero point 8 */
#define AWQ_ROUND_PACKED 3u    /* compressed-tensors, asymmetric */
#define AWQ_ROUND_PACKED_SYM 4u

typedef struct awq_round {
    uint32_t how;          /* AWQ_ROUND_* */
    uint32_t bits;         /* 4 or 8 */
    uint32_t scale_dtype;  /* TN_F16 or TN_BF16: codes are chosen for the scale as stored */
    uint32_t search;       /* 0: round to nearest; 1: shrink each group's range to fit */
} awq_round;

/* Quantizes one group of `count` weights: unsigned codes, the scale as stored (its bits), the
 * unsigned zero point. `importance` [count] weighs the errors of a search; may be NULL. False
 * when a weight is not finite or the scale does not fit its type. */
bool awq_round_group(const awq_round *r, const float *w, const float *importance,
                     uint64_t count, uint8_t *codes, uint16_t *scale, uint8_t *zero);

/* -------------------------------------------------------------------------- awq_pack.c */

/* A quantized matrix before it is packed. */
typedef struct awq_matrix {
    uint64_t n, k, ngroup;
    uint32_t bits;
    uint32_t scale_dtype;
    uint8_t *code;         /* [n, k] */
    uint16_t *scale;       /* [n, ngroup], bits of scale_dtype */
    uint8_t *zero;         /* [n, ngroup]; NULL: symmetric, no tensor */
} awq_matrix;

/* Hands the module's tensors to the sink in one of the layouts AWQ_GEMM ... AWQ_PACKED. */
tn_status awq_pack(const tn_host *h, const tn_sink *sink, uint32_t layout, const char *name,
                   const awq_matrix *m, tn_err *err);

float awq_from_half(uint32_t dtype, uint16_t bits);
uint16_t awq_to_half(uint32_t dtype, float v);   /* nearest, ties to even */

/* ------------------------------------------------------------------------- awq_write.c */

tn_status awq_write_begin(void *self, const tn_write_options *o, const tn_json *config,
                          const tn_sink *sink, void **writer, tn_err *err);
tn_status awq_write_linear(void *writer, const tn_write_linear *l, tn_err *err);
tn_status awq_write_end(void *writer, tn_err *err);
void awq_write_drop(void *writer);

#endif

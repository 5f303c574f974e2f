/* SPDX-License-Identifier: Apache-2.0 */
/* gptq.h - what the files of the gptq plugin share.
 *
 * The plugin reads checkpoints of AutoGPTQ and GPTQModel (quant_method "gptq", zero points
 * stored as in v1 or v2, 2, 3, 4 or 8 bits, with or without act-order) and auto-round's packed
 * the same way, and writes the gptq and gptq_v2 formats.
 *
 *   gptq_config  what quantization_config says        gptq_tensor  finding and checking tensors
 *   gptq_rules   what it says about one module        gptq_linear  one module: widths, groups
 *   gptq_cols    how columns leave: groups, padding   gptq_unpack  codes, scales, zeros as rows
 *   gptq_read    the contract's form_of and read      gptq_write   the way back; gptq_round
 *
 * A module's tensors decide how it is read: its width and its groups follow from the shapes.
 * Only v1 or v2 cannot be seen and is the config's word. Nothing is cached between calls. */
#ifndef GPTQ_H
#define GPTQ_H

#include <tenon/plugin.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#define GPTQ_NAME_MAX 1024u    /* bytes of a tensor's name that can be looked up */

/* Kinds of warnings; each is given once a checkpoint. */
#define GPTQ_WARN_ZEROS 0u
#define GPTQ_WARN_GROUP 1u
#define GPTQ_WARN_BITS 2u
#define GPTQ_WARN_WRAPPED 3u
#define GPTQ_WARN_COUNT 4u

typedef struct gptq_self {
    const tn_host *h;                            /* borrowed, valid until stop */
    bool strict;
    atomic_uintptr_t warned[GPTQ_WARN_COUNT];    /* the checkpoint last warned about */
} gptq_self;

/* Logs the text unless this kind was already said about this checkpoint. */
void gptq_warn(gptq_self *self, const tn_view *v, uint32_t kind, const char *text);
/* The config and the tensors disagree. With `strict` that is TN_DATA; else it is a warning
 * and the tensors count. */
tn_status gptq_disagree(gptq_self *self, const tn_view *v, uint32_t kind, tn_err *err,
                        const char *fmt, ...) __attribute__((format(printf, 5, 6)));

/* ----------------------------------------------------------------------- gptq_config.c */

/* How a module is quantized, by the config. */
typedef struct gptq_scheme {
    uint32_t bits;
    uint64_t group;            /* columns a scale; 0: a whole row */
    bool symmetric;
    bool ordered;              /* desc_act: a g_idx is due */
} gptq_scheme;

typedef struct gptq_config {
    gptq_scheme scheme;        /* of modules without a rule of their own */
    bool v2;                   /* zero points are stored as they are, not less one */
    bool lm_head;              /* the head is quantized too */
    const tn_json *dynamic;    /* object of pattern: overrides; may be NULL */
    const tn_json *blocks;     /* modules_in_block_to_quantize; may be NULL */
    const tn_json *extra;      /* auto-round's object of module: overrides; may be NULL */
} gptq_config;

/* Is this one of the plugin's quantization methods? Says in `why` what it is instead. */
bool gptq_config_is_ours(const tn_json *quant, const char *file, tn_err *why);
/* Reads quantization_config; every value that the plugin cannot honour is refused by key. */
tn_status gptq_config_read(const tn_json *quant, const char *file, gptq_config *out, tn_err *err);
/* Applies a rule's own bits, group_size, sym and desc_act to `s`. */
tn_status gptq_config_override(const tn_json *o, const char *file, gptq_scheme *s, tn_err *err);
/* A quantize_config.json beside config.json must agree with it. */
tn_status gptq_config_twin(const tn_host *h, const tn_view *v, tn_err *err);

/* ------------------------------------------------------------------------ gptq_rules.c */

typedef struct gptq_rules gptq_rules;

/* Compiles the patterns of a config; the config and its JSON stay borrowed. */
tn_status gptq_rules_open(const tn_host *h, const gptq_config *c, gptq_rules **out, tn_err *err);
void gptq_rules_close(gptq_rules *r);
/* What the config says about `module`; *quantized false when it stays plain. Fails when
 * patterns take unreasonably long. */
tn_status gptq_rules_match(gptq_rules *r, const char *module, bool *quantized, gptq_scheme *out,
                           tn_err *err);
/* Is `module` named outright: by lm_head, extra_config or modules_in_block_to_quantize?
 * Patterns only change what is quantized anyway. */
bool gptq_rules_name(const gptq_rules *r, const char *module);

/* ----------------------------------------------------------------------- gptq_tensor.c */

uint32_t gptq_dtype_size(uint32_t dtype);       /* 0 for one that does not exist */
const char *gptq_dtype_name(uint32_t dtype);

/* Looks up MODULE.suffix; false when there is none. */
bool gptq_find(const tn_view *v, const char *module, const char *suffix, tn_tensor *out);
/* The tensor has this type and shape and as many bytes as they take, else TN_DATA with both
 * shapes. `ndim` 1 or 2; `why` explains the wanted shape. */
tn_status gptq_check(const char *module, const char *suffix, const tn_tensor *t, uint32_t dtype,
                     uint32_t ndim, uint64_t d0, uint64_t d1, const char *why, tn_err *err);
/* As gptq_check, for scales: F16, BF16 or F32. */
tn_status gptq_check_scale(const char *module, const char *suffix, const tn_tensor *t,
                           uint32_t ndim, uint64_t d0, uint64_t d1, const char *why,
                           tn_err *err);

/* Unaligned little-endian loads; the maps promise no alignment. */
static inline uint16_t gptq_load16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint32_t gptq_load32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* ----------------------------------------------------------------------- gptq_linear.c */

/* One module, opened: every tensor here has passed its check against n and k, so the rest of
 * the plugin reads it without looking back. Borrowed from the view. */
typedef struct gptq_linear {
    const char *name;
    bool plain;             /* code is weight [n, k] of a floating type */
    bool v2;
    uint32_t bits;          /* 2, 3, 4 or 8 */
    uint64_t n, k;
    uint64_t group;         /* columns a scale, where `order` does not say otherwise */
    uint64_t ngroup;
    tn_tensor code;         /* i32 [k * bits / 32, n] */
    tn_tensor scale;        /* [ngroup, n] */
    tn_tensor zero;         /* i32 [ngroup, n * bits / 32] */
    const void *order;      /* g_idx, i32 [k]: the group of each column; NULL: column / group */
    uint64_t file_bytes;
} gptq_linear;

/* TN_NOINPUT: no tensor of that name; TN_DATA: impossible, in one sentence. */
tn_status gptq_linear_open(const tn_view *v, const tn_module *m, gptq_linear *out, tn_err *err);
/* Holds an opened module against the config; what is impossible is TN_DATA, what merely
 * disagrees goes through gptq_disagree. */
tn_status gptq_linear_compare(gptq_self *self, const tn_view *v, const gptq_linear *l,
                              tn_err *err);
/* The kind of codes a linear leaves in: TN_FORM_W4G, TN_FORM_W8G or a plain one. */
uint32_t gptq_linear_kind(const gptq_linear *l);

/* ------------------------------------------------------------------------- gptq_cols.c */

/* How the columns [col0, col1) of a linear leave: form group i of `group` columns takes its
 * scale and zero from the file's group source[i]. With `perm`, column j of the form is column
 * perm[j] of the rectangle, -1 being padding. */
typedef struct gptq_cols {
    uint64_t col0, col1;
    uint64_t cols, group, ngroup;
    bool permuted;
    uint32_t *source;   /* [ngroup], in `memory` */
    int32_t *perm;      /* [cols] when permuted, in `memory` */
    void *memory;       /* from the host; give it back with gptq_cols_close */
} gptq_cols;

/* With `arrays` false only the numbers are filled in and nothing needs closing. */
tn_status gptq_cols_open(const tn_host *h, const gptq_linear *l, uint64_t col0, uint64_t col1,
                         bool arrays, gptq_cols *out, tn_err *err);
void gptq_cols_close(const tn_host *h, gptq_cols *c);

/* ----------------------------------------------------------------------- gptq_unpack.c */

/* Columns that gptq_unpack_codes can begin and end at: those of a word, or of three. */
uint64_t gptq_unpack_unit(const gptq_linear *l);
/* Codes of rows [row0, row1) and columns [col0, col1), multiples of the unit, in the file's
 * order: two a byte for W4G kinds, one a byte for W8G kinds. Row r goes to
 * dst + (r - row0) * stride. */
void gptq_unpack_codes(const gptq_linear *l, uint64_t row0, uint64_t row1, uint64_t col0,
                       uint64_t col1, uint8_t *dst, size_t stride);

/* ------------------------------------------------------------------------ gptq_scale.c */

/* Scales of rows [row0, row1) for the form groups of `c`: out [rows, c->ngroup]. TN_DATA
 * when one is infinite or not a number. */
tn_status gptq_scale_rows(const gptq_linear *l, const gptq_cols *c, uint64_t row0, uint64_t row1,
                          float *out, tn_err *err);
/* Zeros likewise, as the form's codes count (the middle is 8 or 128). */
void gptq_zero_rows(const gptq_linear *l, const gptq_cols *c, uint64_t row0, uint64_t row1,
                    uint8_t *out);
/* Does some zero of these rows and form groups differ from the middle? *wrapped: does one of
 * a v1 file hold the greatest field, which stands for 0 only if its writer masked it? */
bool gptq_zero_differs(const gptq_linear *l, const gptq_cols *c, uint64_t row0, uint64_t row1,
                       bool *wrapped);

/* ------------------------------------------------------------------------- gptq_read.c */

tn_status gptq_form_of(void *self, const tn_view *v, const tn_module *m, const tn_rect *r,
                       tn_form *out, tn_err *err);
tn_status gptq_cut(void *self, const tn_view *v, const tn_module *m, uint64_t *row_unit,
                   uint64_t *col_unit, tn_err *err);
tn_status gptq_read(void *self, const tn_view *v, const tn_module *m, const tn_rect *r,
                    uint64_t row0, uint64_t row1, tn_block *out, tn_err *err);

/* ------------------------------------------------------------------------ gptq_round.c */

typedef struct gptq_round {
    uint32_t bits;      /* 2, 3, 4 or 8 */
    bool symmetric;
    uint32_t search;    /* 0: round to nearest; 1: shrink each group's range to fit */
} gptq_round;

/* Chooses the scale (fp16 bits as stored, and its value) and the zero point of one group of
 * weights. `importance` [count] weighs the errors of a search; may be NULL. False when a
 * weight is not finite or the scale does not fit fp16. */
bool gptq_round_group(const gptq_round *r, const float *w, const float *importance,
                      uint64_t count, uint16_t *half, float *scale, float *zero);
/* The code of one weight. */
float gptq_round_code(const gptq_round *r, float w, float scale, float zero);

/* ------------------------------------------------------------------------ gptq_write.c */

tn_status gptq_write_begin(void *self, const tn_write_options *o, const tn_json *config,
                           const tn_sink *sink, void **writer, tn_err *err);
tn_status gptq_write_linear(void *writer, const tn_write_linear *l, tn_err *err);
tn_status gptq_write_end(void *writer, tn_err *err);
void gptq_write_drop(void *writer);

#endif

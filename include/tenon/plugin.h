/* SPDX-License-Identifier: Apache-2.0 */
/* plugin.h - the whole contract between tenon and its plugins.
 *
 * A plugin is one shared object with one exported symbol, `tn_plugin_entry`. The core
 * (runtime/) reads that descriptor before it runs anything, negotiates alone, copies the
 * tables into zeroed structs of its own and from then on calls the copies.
 *
 * Rules that hold everywhere below
 *  - Structs that cross begin with `size`, the sizeof their author knew. Members are only
 *    ever added at the end. A member that an older author lacked reads as zero or NULL;
 *    NULL means "not offered". Arrays of structs step by the `size` of their first element.
 *    The few without a `size` (tn_err, tn_json, tn_tensor, tn_rect, and the elements of a
 *    step and of its results) are frozen within a major version.
 *  - No enum, bit-field, bool or long in a struct that crosses.
 *  - A call that can fail returns a tn_status, writes its outputs only on TN_OK, and on
 *    failure writes one sentence into `err`: what failed, on what, found and wanted.
 *  - No call may exit, print, or change locale, signals, working directory, umask or
 *    rounding mode. Strings are UTF-8, NUL-terminated, borrowed for the call unless said.
 *  - Thread classes: [control] one call at a time, may block; [step] the engine's thread,
 *    must neither allocate nor wait; [any] any thread, at once with all others.
 *
 * A plugin links nothing of ours: what it needs arrives in the tn_host given to init. */
#ifndef TENON_PLUGIN_H
#define TENON_PLUGIN_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Same major: compatible. A plugin's minor may not be newer than the core's. */
#define TN_ABI_MAJOR 1u
#define TN_ABI_MINOR 2u
#define TN_NONE 0xffffffffu   /* "no such index" in every uint32_t index below */

#if defined(__GNUC__)
#define TN_GNU(attribute) __attribute__((attribute))
#else
#define TN_GNU(attribute)
#endif

/* ------------------------------------------------------------------ status and errors */
typedef int32_t tn_status;

/* Values from 64 on are the exit codes of sysexits.h that a command ends with. */
#define TN_OK 0
#define TN_REFUSED 1      /* a request's own fault; err->code and err->param say which */
#define TN_UNSUPPORTED 2  /* well-formed, but not offered here */
#define TN_BUSY 3         /* full for now; try again */
#define TN_CANCELLED 4
#define TN_TIMEOUT 5
#define TN_NO_MEMORY 6
#define TN_USAGE 64       /* command line */
#define TN_DATA 65        /* a model's files are invalid */
#define TN_NOINPUT 66     /* a file is missing */
#define TN_UNAVAILABLE 69 /* device, port, plugin or peer */
#define TN_INTERNAL 70    /* our own bug */
#define TN_OS 71          /* the operating system refused a resource */
#define TN_CANTCREATE 73
#define TN_IO 74
#define TN_CUT 75         /* stopped with work cut off */
#define TN_NOPERM 77
#define TN_CONFIG 78      /* the INI is invalid */
typedef struct tn_err {
    char text[1024];  /* one sentence, always terminated */
    char code[48];    /* short machine name ("context_length_exceeded"), may be empty */
    char param[160];  /* the field at fault ("messages[2].content"), may be empty */
} tn_err;

/* Writes the sentence and returns `st`: `return tn_fail(err, TN_DATA, "...")`. */
TN_GNU(format(printf, 3, 4))
TN_GNU(unused)
static tn_status tn_fail(tn_err *err, tn_status st, const char *fmt, ...)
{
    if (err != NULL) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(err->text, sizeof err->text, fmt, ap);
        va_end(ap);
        err->code[0] = 0;
        err->param[0] = 0;
    }
    return st;
}

/* ------------------------------------------------------------------------- data types */
enum {
    TN_F32 = 1, TN_F16 = 2, TN_BF16 = 3, TN_F64 = 4, TN_I8 = 5, TN_U8 = 6, TN_I16 = 7,
    TN_U16 = 8, TN_I32 = 9, TN_U32 = 10, TN_I64 = 11, TN_U64 = 12, TN_BOOL = 13,
    TN_F8_E4M3 = 14, TN_F8_E5M2 = 15
};

/* --------------------------------------------------------------------------- JSON tree */
/* INT: written without fraction or exponent and fits int64; FLOAT: any other number. */
enum {
    TN_JSON_NULL = 0, TN_JSON_FALSE = 1, TN_JSON_TRUE = 2, TN_JSON_INT = 3, TN_JSON_FLOAT = 4,
    TN_JSON_TEXT = 5, TN_JSON_LIST = 6, TN_JSON_OBJECT = 7
};

/* One node of a parsed document, read-only, owned by the document. Members of an object and
 * elements of a list are chained by `next` in the order they were written. */
typedef struct tn_json {
    uint32_t type;
    uint32_t count;             /* text: bytes; list, object: children */
    uint32_t key_size;          /* bytes of key */
    uint32_t offset;            /* byte offset in the source, for messages */
    const char *key;            /* inside an object, else NULL */
    const char *text;           /* TEXT only: valid UTF-8, terminated, may hold NULs */
    int64_t i;                  /* INT only */
    double f;                   /* INT and FLOAT */
    const struct tn_json *child;
    const struct tn_json *next;
} tn_json;

typedef struct tn_json_doc tn_json_doc;
/* The member called `key`, or NULL (also when `o` is NULL or no object). */
TN_GNU(unused)
static const tn_json *tn_json_find(const tn_json *o, const char *key)
{
    size_t n = strlen(key);
    if (o == NULL || o->type != TN_JSON_OBJECT)
        return NULL;
    for (const tn_json *m = o->child; m != NULL; m = m->next)
        if (m->key_size == n && memcmp(m->key, key, n) == 0)
            return m;
    return NULL;
}

/* ---------------------------------------------------------------------------- options */
#define TN_OPT_INT 1u
#define TN_OPT_SIZE 2u    /* bytes; K, M, G, KiB, MiB, GiB accepted */
#define TN_OPT_FLOAT 3u
#define TN_OPT_BOOL 4u    /* yes/no, on/off, true/false, 1/0 */
#define TN_OPT_ENUM 5u
#define TN_OPT_TEXT 6u
#define TN_OPT_PATH 7u
#define TN_OPT_LIST 8u    /* comma separated text */
typedef struct tn_option {
    uint32_t size, type;         /* TN_OPT_* */
    const char *key;             /* [a-z][a-z0-9_]*, unique in the table */
    const char *fallback;        /* as written in the INI; never NULL */
    double least, greatest;      /* numbers and sizes; both 0: unbounded */
    const char *const *choices;  /* ENUM: ends with NULL */
    const char *help;            /* one sentence */
} tn_option;

/* ------------------------------------------------------------------------------- host */
enum { TN_LOG_ERROR = 1, TN_LOG_WARN = 2, TN_LOG_INFO = 3, TN_LOG_DEBUG = 4 };

enum { TN_METRIC_COUNTER = 1, TN_METRIC_GAUGE = 2, TN_METRIC_HISTOGRAM = 3 };
typedef struct tn_front_host tn_front_host;
/* What the core lends a plugin; valid from probe until stop returns. */
typedef struct tn_host {
    uint32_t size, reserved;
    void *ctx;                   /* the first argument of every call below */
    /* [any] One event, one line, no newline. */
    void (*log)(void *ctx, uint32_t level, const char *text);
    /* [any] Counted memory, 64-byte aligned, not zeroed; NULL when there is none. */
    void *(*alloc)(void *ctx, uint64_t size);
    void (*release)(void *ctx, void *p);
    /* [any] The value of a declared option, already checked. An undeclared key is a bug of
     * the plugin: it is logged and reads as 0 or "". Text lives as long as the host. */
    int64_t (*opt_int)(void *ctx, const char *key);       /* INT, SIZE, BOOL (0 or 1) */
    double (*opt_float)(void *ctx, const char *key);
    const char *(*opt_text)(void *ctx, const char *key);  /* ENUM, TEXT, PATH */
    uint32_t (*opt_count)(void *ctx, const char *key);    /* LIST */
    const char *(*opt_item)(void *ctx, const char *key, uint32_t i);
    /* [control] Declares a series; `labels` is Prometheus text such as `rank="0"` or "".
     * `bounds` are the histogram's upper bounds. Returns an id, TN_NONE when refused. */
    uint32_t (*metric)(void *ctx, uint32_t type, const char *name, const char *help,
                       const char *labels, const double *bounds, uint32_t nbound);
    /* [any] Counter: adds. Gauge: sets. Histogram: observes. */
    void (*metric_put)(void *ctx, uint32_t id, double value);
    /* [any] The house's strict JSON reader: refuses what RFC 8259 refuses, invalid UTF-8,
     * duplicate keys and depth past `depth_max`; err->code says which. The document owns
     * its nodes and is closed by the caller. */
    tn_status (*json_open)(void *ctx, const char *text, uint64_t size, const char *what,
                           uint32_t depth_max, tn_json_doc **doc, tn_err *err);
    const tn_json *(*json_root)(void *ctx, const tn_json_doc *doc);
    void (*json_close)(void *ctx, tn_json_doc *doc);
    uint64_t (*clock)(void *ctx); /* [any] Nanoseconds of the monotonic clock. */
    const tn_front_host *front;  /* frontends only, else NULL */
} tn_host;

/* ------------------------------------------------------------------------- descriptor */
enum { TN_KIND_QUANT = 1, TN_KIND_DEVICE = 2, TN_KIND_COMM = 3, TN_KIND_FRONT = 4 };

/* Life cycle, all [control]: probe -> init -> start -> drain -> stop. Only init and stop must
 * be there. stop is called once after a successful init, whatever came between; after a failed
 * init nothing is called, so init undoes what it did. All state hangs on *self. */
typedef struct tn_plugin {
    uint32_t abi_major, abi_minor; /* TN_ABI_MAJOR, TN_ABI_MINOR as compiled */
    uint32_t size;
    uint32_t kind;                 /* TN_KIND_* */
    const char *name;              /* [a-z][a-z0-9_-]{0,31}, the file's name without .so */
    const char *version;
    const char *summary;           /* one sentence */
    const tn_option *options;      /* NULL when there are none */
    uint32_t noption;
    uint32_t reserved;
    const void *table;             /* tn_quant, tn_device, tn_comm or tn_front, by kind */
    /* Can this plugin work here? Takes nothing, changes nothing, leaves no trace. */
    tn_status (*probe)(const tn_host *h, tn_err *err);
    tn_status (*init)(const tn_host *h, void **self, tn_err *err);
    tn_status (*start)(void *self, tn_err *err);            /* goes live */
    tn_status (*drain)(void *self, uint32_t ms, tn_err *err); /* no new work, finish the old */
    void (*stop)(void *self);
} tn_plugin;

#define TN_EXPORT TN_GNU(visibility("default"))
extern TN_EXPORT const tn_plugin tn_plugin_entry;

/* -------------------------------------------------------------------------------- forms */
/* A form is how a weight W[n, k] (n output rows, k input columns, y = x . W^T) leaves a
 * quantization and enters a device. Row-major. G = `group`.
 *
 *   F32 F16 BF16  codes: values [rows, cols]
 *   W4G           codes: two a byte, [rows, cols / 2], the even column in the low nibble
 *   W8G           codes: one a byte, [rows, cols]
 *   PRIVATE       codes: bytes of the plugin's own; see tn_multiply
 *
 * W4G and W8G carry scale f32 [rows, cols / G] and zero u8 [rows, cols / G], and mean
 *   W[n][perm[j]] = (code[n][j] - zero[n][j / G]) * scale[n][j / G].
 * perm is i32 [cols], relative to the first column asked for; without it perm[j] = j. An
 * entry of -1 is padding: the column multiplies nothing (its code equals its zero). `cols`
 * is k without padding, more with it, and always a multiple of G. 2- and 3-bit files are
 * handed over as W4G. */
enum {
    TN_FORM_F32 = 1, TN_FORM_F16 = 2, TN_FORM_BF16 = 3, TN_FORM_W4G = 4, TN_FORM_W8G = 5,
    TN_FORM_PRIVATE = 6
};
#define TN_FORM_ZEROS 1u  /* some zero differs from the middle code (8 or 128) */
#define TN_FORM_PERM 2u   /* has a permutation */

/* Multiply of a PRIVATE form on one device. For the device "cpu" `entry` is a
 * tn_cpu_multiply; for others it is what that device documents. */
typedef struct tn_multiply {
    uint32_t size, reserved;
    const char *device;
    const void *entry;  /* a function pointer, stored as an object pointer */
} tn_multiply;

/* y[i * ldy + r - row0] += sum_c x[i * ldx + c] * W[r][c] for i < m, rows [row0, row1).
 * `bytes` is what read() gave for the whole block. [any], from several threads at once. */
typedef void (*tn_cpu_multiply)(void *self, const void *bytes, uint64_t n, uint64_t k,
                                uint64_t row0, uint64_t row1, const float *x, uint64_t ldx,
                                uint64_t m, float *y, uint64_t ldy);

typedef struct tn_form {
    uint32_t size, kind; /* TN_FORM_* */
    uint32_t group;   /* W4G, W8G: columns a scale; else 0 */
    uint32_t bits;    /* bits a weight in the file, for reports */
    uint32_t flags;
    uint32_t reserved;
    uint64_t rows;    /* of the rectangle asked for */
    uint64_t cols;    /* of the codes: k, or more with padding */
    uint64_t bytes;   /* PRIVATE: bytes of the whole rectangle */
    uint64_t file_bytes; /* bytes the module takes in the files, for reports */
} tn_form;

/* A destination for rows in a form; the caller owns every array. NULL: not wanted. */
typedef struct tn_block {
    uint32_t size, reserved;
    void *codes;
    float *scale;
    uint8_t *zero;
    int32_t *perm;
} tn_block;

/* ------------------------------------------------------------------------- quantization */
/* One tensor as it lies in a mapped file. Not aligned to its type: read with memcpy. */
typedef struct tn_tensor {
    uint32_t dtype, ndim;
    uint64_t dim[8];
    const void *data;    /* borrowed from the map */
    uint64_t data_size;
    const char *file;    /* name of the shard, for messages */
} tn_tensor;

/* A checkpoint as a quantization sees it. Every call is [any]. */
typedef struct tn_view {
    uint32_t size, reserved;
    void *ctx;
    const char *dir;
    const tn_json *config;        /* config.json, an object */
    const tn_json *quant;         /* its quantization_config, or NULL for a plain model */
    const char *quant_file;       /* the file `quant` came from, NULL with it */
    uint64_t ntensor;
    /* 1 and *out, or 0 when there is no such tensor. */
    int32_t (*find)(const struct tn_view *v, const char *name, tn_tensor *out);
    /* The i-th tensor, in no promised order; 0 past the end. */
    int32_t (*at)(const struct tn_view *v, uint64_t i, const char **name, tn_tensor *out);
} tn_view;

/* A linear of the model by its full name without the tensor's last part
 * ("model.layers.3.mlp.down_proj"), with the sizes the architecture gives it. */
typedef struct tn_module {
    uint32_t size, reserved;
    const char *name;
    uint64_t n, k;
} tn_module;

/* Rows [row0, row1) and columns [col0, col1) of a module. */
typedef struct tn_rect {
    uint64_t row0, row1, col0, col1;
} tn_rect;

/* What `tenon quantize` asks for. */
typedef struct tn_write_options {
    uint32_t size;
    uint32_t bits;
    int32_t group;        /* columns a scale; -1: the whole row */
    uint32_t symmetric;
    uint32_t act_order;
    uint32_t search;      /* 0: round to nearest; others as the plugin offers */
    const char *variant;  /* file layout ("gemm", "gptq_v2", ...); NULL: the plugin's usual */
} tn_write_options;

/* Where a writer puts its output; every call copies. */
typedef struct tn_sink {
    uint32_t size, reserved;
    void *ctx;
    tn_status (*tensor)(void *ctx, const char *name, uint32_t dtype, uint32_t ndim,
                        const uint64_t *dim, const void *data, tn_err *err);
    /* The text of quantization_config (a JSON object), and other small files if any. */
    tn_status (*config)(void *ctx, const char *json, tn_err *err);
    tn_status (*file)(void *ctx, const char *name, const void *data, uint64_t data_size,
                      tn_err *err);
} tn_sink;

/* One linear to write, with what calibration learned about its input (NULL without). */
typedef struct tn_write_linear {
    uint32_t size, reserved;
    const char *name;
    uint64_t n, k;
    const float *w;        /* [n, k] */
    const float *act_mean; /* [k] mean |x| per input column */
    const float *hessian;  /* [k, k] 2/T sum x x^T */
    const float *x;        /* [x_rows, k] sample of input rows */
    uint64_t x_rows;
} tn_write_linear;

/* A quantization knows a family of file formats and nothing about devices. */
typedef struct tn_quant {
    uint32_t size, nmultiply;
    const tn_multiply *multiply;   /* PRIVATE forms; one for "cpu" is required then */
    /* [control] 0: not mine, up to 100: certainly mine; by config and by what exists. On 0
     * `why` (never NULL) says in one sentence what spoke against it. */
    uint32_t (*claims)(void *self, const tn_view *v, tn_err *why);
    /* [any] The form of this rectangle of the module. A module that the file holds in plain
     * form (ignored, not converted) is not an error: it answers F32, F16 or BF16 and read
     * serves it. TN_NOINPUT when the module has no tensor
     * of this format: the core then serves a plain NAME.weight itself. Contradictions between
     * config and tensors: the tensors decide; impossible ones are TN_DATA. Values that only
     * appear in the data (g_idx in range) are checked here too. */
    tn_status (*form_of)(void *self, const tn_view *v, const tn_module *m, const tn_rect *r,
                         tn_form *out, tn_err *err);
    /* [any] Where the module may be cut: row bounds at multiples of *row_unit, column bounds
     * at multiples of *col_unit. 1, or NULL for cut: anywhere. */
    tn_status (*cut)(void *self, const tn_view *v, const tn_module *m, uint64_t *row_unit,
                     uint64_t *col_unit, tn_err *err);
    /* [any] Fills `out` with rows [row0, row1) of the rectangle `r` (counted from the
     * module's row 0, inside r's rows). PRIVATE: always the whole rectangle. */
    tn_status (*read)(void *self, const tn_view *v, const tn_module *m, const tn_rect *r,
                      uint64_t row0, uint64_t row1, tn_block *out, tn_err *err);
    /* Writer, optional, all [control]; linear may come from several threads for different
     * modules. end() emits the config; drop() frees after end or on failure. */
    tn_status (*write_begin)(void *self, const tn_write_options *o, const tn_json *config,
                             const tn_sink *sink, void **writer, tn_err *err);
    tn_status (*write_linear)(void *writer, const tn_write_linear *l, tn_err *err);
    tn_status (*write_end)(void *writer, tn_err *err);
    void (*write_drop)(void *writer);
} tn_quant;

/* --------------------------------------------------------------------------------- recipe */
/* A recipe is a model on one rank as plain data: buffers, weights, tables, and a flat list of
 * operations in sections. The core builds it once; a device compiles it and may fuse, reorder
 * and overlap as long as every buffer an operation reads holds what the list says. A recipe
 * and all it points to stays valid while the program lives.
 *
 * Buffers are [count, width]; their rows are the step's token rows, its output rows or its
 * sequences. `dtype` is the least precision; a device may keep more. */
enum { TN_ROWS_TOKENS = 1, TN_ROWS_OUTS = 2, TN_ROWS_SEQS = 3 };
#define TN_BUF_KEEP 1u   /* keeps its rows until the next step (hidden states for drafting) */
typedef struct tn_buffer {
    uint32_t size, rows;  /* TN_ROWS_* */
    uint32_t width;       /* elements a row */
    uint32_t dtype;       /* TN_F32, TN_F16, TN_BF16, TN_I32 */
    uint32_t flags;
    uint32_t reserved;
    const char *name;
} tn_buffer;

#define TN_ROLE_DENSE 1u    /* operand of LINEAR */
#define TN_ROLE_HEAD 2u     /* LINEAR to logits, vocabulary rows */
#define TN_ROLE_ROUTER 3u
#define TN_ROLE_EMBED 4u    /* looked up by row; may be the HEAD as well (tied) */
#define TN_ROLE_EXPERTS 5u  /* a stack [nexpert] of [n, k] */
#define TN_ROLE_VECTOR 6u   /* norms, biases, convolutions: n rows of k, plain forms only */
#define TN_WEIGHT_TIED 1u   /* used by EMBED and by a LINEAR */

/* Where a weight may live. */
#define TN_PLACE_DEVICE 0u
#define TN_PLACE_HOST 1u    /* pinned host memory, streamed or computed there */
#define TN_PLACE_MAPPED 2u  /* in the file: pack's reader stays valid, and run may call it */
typedef struct tn_weight_spec {
    uint32_t size, role, flags; /* TN_ROLE_*, TN_WEIGHT_* */
    uint32_t nexpert;       /* EXPERTS: stack height; else 1 */
    uint32_t requant;       /* 0, or TN_FORM_W8G: a 16-bit form is requantized at load */
    uint32_t place;
    uint64_t n, k;          /* of this rank's shard, one expert */
    tn_form form;           /* what the reader hands over, one expert */
    const char *name;       /* for messages and tables */
    const void *quant_self; /* PRIVATE: first argument of the multiply */
    const tn_multiply *multiply; /* PRIVATE: the owner's table */
    uint32_t nmultiply;
    uint32_t reserved;
} tn_weight_spec;

/* Rotary tables. Angle of pair i at position p: p * inv_freq[i]; cos and sin are multiplied
 * by `scale`. Pairs: dim i with dim i + dims / 2 (TN_ROPE_HALF) or 2i with 2i + 1. Angles are
 * formed in double or reduced exactly: positions reach 1,010,000. */
#define TN_ROPE_HALF 0u
#define TN_ROPE_PAIRS 1u
typedef struct tn_rope {
    uint32_t size, pairing;
    uint32_t dims;           /* rotated dims of a head, even; the rest passes through */
    uint32_t npos;           /* positions 0 .. npos - 1 are valid */
    double scale;            /* YaRN's attention factor; 1 */
    const double *inv_freq;  /* [dims / 2] */
} tn_rope;

/* One paged cache (one per attention layer) and one kind of state (one per DeltaNet layer). */
typedef struct tn_cache_spec {
    uint32_t size, heads, k_dim, v_dim; /* KV heads on this rank */
} tn_cache_spec;

typedef struct tn_state_spec {
    uint32_t size, heads, k_dim, v_dim; /* Hv: state f32 [heads, k_dim, v_dim] */
    uint32_t conv_width;     /* channels through the convolution */
    uint32_t conv_keep;      /* columns kept: kernel - 1 */
} tn_state_spec;

enum {
    TN_OP_EMBED = 1, TN_OP_NORM = 2, TN_OP_LINEAR = 3, TN_OP_ACT_MUL = 4, TN_OP_HEADS = 5,
    TN_OP_ATTEND = 6, TN_OP_DELTA = 7, TN_OP_ROUTE = 8, TN_OP_EXPERTS = 9, TN_OP_MIX = 10,
    TN_OP_CONCAT = 11, TN_OP_PICK = 12, TN_OP_SUM = 13, TN_OP_GATHER = 14, TN_OP_LOGITS = 15,
    TN_OP_SAMPLE = 16
};

/* Below, `x`, `y`, `in`, `out` are buffer indices, `w*` weight indices, `*_col` the first
 * column inside a buffer; TN_NONE where optional. B is the row count of the buffer. */

/* out[B, width] = w[token] * scale. A token outside [first, first + w.n) gives zeros. */
typedef struct tn_op_embed {
    uint32_t size, w, out, first;
    float scale;
} tn_op_embed;

/* out = in * rsqrt(mean(in^2) + eps) * (w + offset) over `width` columns; in fp32. w TN_NONE:
 * no weight. groups > 1: the row is `groups` pieces of `width`, each normed alone. */
typedef struct tn_op_norm {
    uint32_t size, in, in_col, out, out_col, w, width, groups;
    float eps, offset;  /* offset 1: zero-centred weight */
} tn_op_norm;

/* For every part: out[:, col ..] (+)= in . W^T + bias. Parts share `in`. With `add` the result
 * is added to what out holds (the residual), rounded once. */
#define TN_LINEAR_PARTS 8u
typedef struct tn_part {
    uint32_t w, bias, out, col;
} tn_part;
typedef struct tn_op_linear {
    uint32_t size, in, in_col, nparts, add;
    tn_part part[TN_LINEAR_PARTS];
} tn_op_linear;

/* out = act(in[a_col ..]) * in[b_col ..], `width` columns. */
#define TN_ACT_SILU 1u
#define TN_ACT_GELU 2u       /* erf */
#define TN_ACT_GELU_TANH 3u
typedef struct tn_op_act_mul {
    uint32_t size, in, a_col, b_col, out, width, act;
} tn_op_act_mul;

/* In place on `x`: q and k norm per head (TN_NONE: none), rotary on q and k, then K and V of
 * these rows are written to `cache`. */
typedef struct tn_op_heads {
    uint32_t size, x, q_col, k_col, v_col;
    uint32_t q_heads, kv_heads, head_dim;
    uint32_t rope;        /* index, TN_NONE: no rotation */
    uint32_t q_norm, k_norm;
    float eps, offset;
    uint32_t cache;
} tn_op_heads;

/* Causal attention of the step's rows over their sequences' cache, fp32 softmax. window > 0:
 * a row at p sees positions (p - window, p]. gate: out *= sigmoid(gate). softcap > 0:
 * s = softcap * tanh(s / softcap). */
typedef struct tn_op_attend {
    uint32_t size, q, q_col, out, out_col;
    uint32_t q_heads, kv_heads, head_dim;
    uint32_t cache, window, gate, gate_col;
    float scale, softcap;
} tn_op_attend;

/* Gated DeltaNet: causal convolution (kernel conv_keep + 1) and SiLU over q|k|v, l2 norms,
 * decay g = -exp(A_log) softplus(a + dt_bias), beta = sigmoid(b), the gated delta rule on the
 * state, then the gated norm: out = norm(o) * w_norm * act(z). v-head h uses k-head
 * h / (v_heads / k_heads). Shapes: qkv [2 k_heads k_dim + v_heads v_dim], z [v_heads v_dim],
 * a, b [v_heads]. Source: Gated Delta Networks, arXiv 2412.06464. */
typedef struct tn_op_delta {
    uint32_t size, qkv, qkv_col, z, z_col, a, a_col, b, b_col, out, out_col;
    uint32_t k_heads, v_heads, k_dim, v_dim;
    uint32_t w_conv;      /* VECTOR [channels, kernel] */
    uint32_t w_conv_bias; /* VECTOR [channels] or TN_NONE */
    uint32_t w_a_log, w_dt_bias, w_norm;
    uint32_t gate_act;    /* TN_ACT_SILU, or TN_ACT_SIGMOID */
    uint32_t state;
    float eps;
} tn_op_delta;
#define TN_ACT_SIGMOID 4u

/* Picks ntop of nexpert columns of `in`: softmax or sigmoid over all in fp32, `bias` (VECTOR)
 * added for the choice only, ties to the lower index, optionally renormalised, times scale.
 * ids: i32 [B, ntop]; weights: f32 [B, ntop]. */
#define TN_ROUTE_SOFTMAX 1u
#define TN_ROUTE_SIGMOID 2u
typedef struct tn_op_route {
    uint32_t size, in, ids, weights, nexpert, ntop, kind, renorm, bias;
    float scale;
} tn_op_route;

/* out (+)= sum_e weights_e * down_e(act(gate_e x) * up_e x). w_up stacks gate rows then up
 * rows [nexpert][2 width, k]; w_down [nexpert][n, width]. */
typedef struct tn_op_experts {
    uint32_t size, in, ids, weights, out, add;
    uint32_t nexpert, ntop, width, act, w_up, w_down;
} tn_op_experts;

/* out (+)= scale * sigmoid(gate[:, gate_col]) * in; gate TN_NONE: factor 1. */
typedef struct tn_op_mix {
    uint32_t size, in, in_col, out, out_col, width, gate, gate_col, add;
    float scale;
} tn_op_mix;

/* out = a | b side by side. */
typedef struct tn_op_concat {
    uint32_t size, a, a_col, a_width, b, b_col, b_width, out;
} tn_op_concat;

/* out[o] = in[row of output o]: from token rows to output rows. */
typedef struct tn_op_pick {
    uint32_t size, in, out, width;
} tn_op_pick;

/* Sums a buffer's columns over the ranks, in rank order, in place. */
typedef struct tn_op_sum {
    uint32_t size, x, col, width;
} tn_op_sum;

/* out[B, ranks * width] = the ranks' in[B, width] side by side. */
typedef struct tn_op_gather {
    uint32_t size, in, width, out;
} tn_op_gather;

/* On f32 logits [outs, vocab], by each output row's tn_sampling: reports (raw log-softmax)
 * are taken first; then masks, bias, penalties. softcap as in ATTEND. Columns from `valid` on
 * are padding and become -inf. */
typedef struct tn_op_logits {
    uint32_t size, x, vocab, valid;
    float softcap;
} tn_op_logits;

/* Draws one token per output row from what LOGITS left. */
typedef struct tn_op_sample {
    uint32_t size, x, vocab;
} tn_op_sample;

typedef struct tn_op {
    uint32_t size;
    uint32_t kind;       /* TN_OP_* */
    uint32_t layer;      /* TN_NONE outside layers */
    uint32_t reserved;
    const void *args;    /* tn_op_<kind>, begins with its size */
    const char *name;    /* "layers.3.down" */
} tn_op;

/* Sections: 0 is the model; others (drafting) share its buffers, weights and caches. */
typedef struct tn_section {
    uint32_t size, op0, nop, reserved;
    const char *name;
} tn_section;

typedef struct tn_recipe {
    uint32_t size;
    uint32_t nbuffer, nweight, nop, nrope, ncache, nstate, nsection;
    uint32_t act_dtype;          /* TN_F16, TN_BF16 or TN_F32: what the operator asked for */
    uint32_t vocab;
    const char *name;
    const tn_buffer *buffer;
    const tn_weight_spec *weight;
    const tn_op *op;
    const tn_rope *rope;
    const tn_cache_spec *cache;
    const tn_state_spec *state;
    const tn_section *section;
} tn_recipe;

/* ----------------------------------------------------------------------------------- step */
#define TN_SAMPLE_GREEDY 1u      /* argmax, ties to the lower id */
#define TN_SAMPLE_SCORE 2u       /* draw nothing; report `target` */
typedef struct tn_bias {
    int32_t token;
    float value;                 /* -INFINITY forbids */
} tn_bias;

/* What one output row wants. All pointers are borrowed until the step is done. Order of work
 * as in the header of LOGITS, then temperature, min_p, top_k (ties at the threshold stay),
 * top_p, draw. Randomness is a function of (seed, draw, token id) alone - a counter-based
 * generator - so a seeded request draws the same whatever runs beside it. */
typedef struct tn_sampling {
    uint32_t flags;              /* TN_SAMPLE_* */
    int32_t top_k;               /* 0: off */
    float temperature, top_p, min_p;
    float repetition, frequency, presence;  /* 1, 0, 0: off */
    uint64_t seed;
    uint64_t draw;               /* index of the drawn token in its reply */
    const int32_t *history;      /* prompt then reply, append-only; NULL without penalties */
    uint32_t nhistory, nprompt;
    const tn_bias *bias;         /* sorted by token, unique */
    uint32_t nbias;
    uint32_t ntop;               /* log-probabilities wanted beside the chosen one */
    const uint32_t *mask;        /* grammar: one bit a token, set = allowed; NULL: all */
    int32_t target;              /* SCORE: whose log-probability */
    int32_t draft;               /* token drafted after this row, -1: none (verification) */
} tn_sampling;

typedef struct tn_out {
    int32_t row;                 /* token row whose logits are wanted */
    int32_t slot;                /* stable small number of the request */
    const tn_sampling *sampling;
} tn_out;

#define TN_SEQ_DRAFT 1u          /* rows after the first are drafts: all rows stay pending */
#define TN_SEQ_FRESH 2u          /* state_in is zero whatever the slot holds */
typedef struct tn_seq {
    int32_t row0, nrow;          /* this step's rows of the sequence, consecutive */
    int32_t context;             /* tokens in the cache before them; row i is at context + i */
    uint32_t block0;             /* first entry in the step's block list; entry j holds
                                    positions [j * block, (j + 1) * block) */
    int32_t state_in, state_out; /* slots, -1: the model has none */
    int32_t accepted;            /* how many pending rows count, the first included; -1: as the
                                    draft step's own verdict says; 0: none are pending */
    uint32_t flags;
} tn_seq;

/* One step. A row_token of -1 - i takes the token that the previous step drew for its output
 * i, so the host may run one step ahead. A row_seq of -1 is padding and touches nothing. */
typedef struct tn_step {
    uint32_t size, nrow, nseq, nout, nblock, section;
    uint64_t number;             /* consecutive */
    const int32_t *row_token;    /* [nrow] */
    const int32_t *row_seq;      /* [nrow] */
    const tn_seq *seq;           /* [nseq] */
    const tn_out *out;           /* [nout] */
    const int32_t *block;        /* [nblock] */
} tn_step;

#define TN_RESULT_NONFINITE 1u   /* the row's logits held a NaN or an infinity: no token */
#define TN_RESULT_ACCEPTED 2u    /* token equals the draft and stands */
typedef struct tn_result {
    int32_t token;               /* drawn, or the SCORE target; -1 with NONFINITE */
    uint32_t flags;
    float logprob;               /* raw log-softmax of token */
    int32_t rank;                /* 1 + how many raw logits are greater; 0: no ntop, no SCORE */
    uint32_t ntop;               /* entries in the row's top list, best first */
    uint32_t reserved;
} tn_result;

/* Valid until the next step but one is run. */
typedef struct tn_results {
    uint32_t size, nout;
    uint32_t top_stride;         /* entries a row in the two arrays below */
    uint32_t nop;                /* with limits.profile: entries in op_ns */
    const tn_result *result;     /* [nout] */
    const int32_t *top_token;    /* [nout, top_stride] */
    const float *top_logprob;
    const uint64_t *op_ns;       /* time per operation of the section */
} tn_results;

/* ----------------------------------------------------------------------------------- device */
typedef struct tn_device_info {
    uint32_t size;
    uint32_t ndevice;            /* how many of this kind the machine has */
    uint32_t forms;              /* bit f: TN_FORM f is packed natively */
    uint32_t act_dtypes;         /* bit d: activations of TN_ d */
    uint32_t block_tokens;       /* preferred tokens a cache block */
    uint32_t host_memory;        /* 1: buffers live in host memory (communicators) */
    uint64_t memory_total, memory_free;
    char name[128];              /* "AMD EPYC, 2 threads, avx2" */
    char arch[32];               /* "avx2", "sm_90" */
} tn_device_info;

typedef struct tn_limits {
    uint32_t size;
    uint32_t rows_max, seqs_max, outs_max; /* token rows, sequences, output rows a step */
    uint32_t blocks_max;         /* entries in a step's block list */
    uint32_t block_tokens;
    uint32_t context_max;        /* tokens a sequence */
    uint32_t top_max;            /* greatest ntop */
    uint32_t cache_dtype;        /* TN_F16, TN_BF16, TN_F32, TN_F8_E4M3; 0: the device's own */
    uint32_t exact;              /* 1: fp32 activations and fp32 cache, the oracle */
    uint32_t profile;            /* 1: time every operation */
    uint32_t rank, nrank;
    uint32_t drafts_max;         /* most draft rows a sequence in a step; 0: none are run */
    const struct tn_comm *comm;  /* with nrank > 1 */
    void *group;                 /* the joined group */
} tn_limits;

/* What a compiled program will take, before anything is taken. */
typedef struct tn_need {
    uint32_t size;
    uint32_t cache_dtype;        /* as chosen */
    uint64_t weight_bytes;
    uint64_t workspace_bytes;
    uint64_t block_bytes;        /* one cache block over all layers */
    uint64_t slot_bytes;         /* one state slot over all layers, 0 without states */
    uint64_t host_bytes;         /* pinned memory with all placed HOST, or copies of all MAPPED */
} tn_need;

/* Hands rows [row0, row1) of an expert to a device, in the spec's form; `perm` is the same for
 * every row. A block that wants nothing announces that the expert will be read soon. [any] */
typedef struct tn_reader {
    uint32_t size, reserved;
    void *ctx;
    tn_status (*rows)(void *ctx, uint32_t expert, uint64_t row0, uint64_t row1,
                      tn_block *out, tn_err *err);
} tn_reader;

typedef struct tn_pools {
    uint32_t size, nblock;       /* cache blocks */
    uint32_t nslot;              /* state slots, snapshots included */
    uint32_t mapped_kib;         /* KiB of device memory for weights placed MAPPED or HOST */
} tn_pools;

/* A device knows memory, kernels and forms, and nothing about files.
 * Order: open, compile, reserve, pack every weight, then run and wait; release, close. */
typedef struct tn_device {
    uint32_t size, reserved;
    tn_status (*open)(void *self, uint32_t index, void **dev, tn_err *err);      /* [control] */
    void (*close)(void *dev);                                                    /* [control] */
    tn_status (*info)(void *dev, tn_device_info *out, tn_err *err);              /* [control] */
    /* Read bandwidth of its memory in bytes a second, measured now (under a second). */
    tn_status (*bandwidth)(void *dev, double *out, tn_err *err);                 /* [control] */
    /* An operation or form that the device does not know fails here, by name. */
    tn_status (*compile)(void *dev, const tn_recipe *r, const tn_limits *l, void **program,
                         tn_need *need, tn_err *err);                            /* [control] */
    /* Takes all memory the program will ever use. */
    tn_status (*reserve)(void *program, const tn_pools *p, tn_err *err);         /* [control] */
    /* Packs weight `w`; pulls rows through `reader`, from threads of its own too. */
    tn_status (*pack)(void *program, uint32_t w, const tn_reader *reader, tn_err *err);
    uint64_t (*weight_bytes)(void *program, uint32_t w);        /* [any] packed size */
    void (*release)(void *program);                             /* [control] */
    /* Enqueues a step; its arrays stay untouched until waited for. */
    tn_status (*run)(void *program, const tn_step *step, tn_err *err);           /* [step] */
    /* Blocks until step `number` is done. TN_BUSY at once when `poll` and it is not. */
    tn_status (*wait)(void *program, uint64_t number, uint32_t poll, const tn_results **out,
                      tn_err *err);                                              /* [step] */
    /* Between steps. Counts of blocks or slots; `data` in a neutral order, see below. */
    tn_status (*block_copy)(void *program, int32_t from, int32_t to, tn_err *err);
    tn_status (*state_copy)(void *program, int32_t from, int32_t to, tn_err *err);
    /* Neutral order of a block: per cache K [tokens, heads, k_dim] then V, in cache_dtype.
     * Of a state: per state S f32 [heads, k_dim, v_dim], then columns f32 [keep, width]. */
    uint64_t (*block_size)(void *program);
    tn_status (*block_read)(void *program, int32_t block, void *data, tn_err *err);
    tn_status (*block_write)(void *program, int32_t block, const void *data, tn_err *err);
    uint64_t (*state_size)(void *program);
    tn_status (*state_read)(void *program, int32_t slot, void *data, tn_err *err);
    tn_status (*state_write)(void *program, int32_t slot, const void *data, tn_err *err);
    /* For comparing devices: rows of a buffer as the last step left them, as f32. Only with
     * limits.profile; a fused device answers TN_UNSUPPORTED for buffers it never forms. */
    tn_status (*peek)(void *program, uint32_t buffer, uint32_t row0, uint32_t nrow,
                      float *out, tn_err *err);
    /* Memory for communicators and tools. Host devices hand out host memory. */
    tn_status (*mem_take)(void *dev, uint64_t size, void **p, tn_err *err);
    void (*mem_give)(void *dev, void *p);
    tn_status (*mem_copy)(void *dev, void *to, const void *from, uint64_t size, tn_err *err);
    void *(*stream)(void *dev);                                  /* NULL on host devices */
    /* For `tenon doctor`: facts such as driver, links and clocks, one put each; `key` is
     * [a-z][a-z0-9_]*, `text` one line. [control], since 1.2. */
    tn_status (*report)(void *dev, void (*put)(void *ctx, const char *key, const char *text),
                        void *ctx, tn_err *err);
} tn_device;

/* --------------------------------------------------------------------------- communicator */
#define TN_COMM_CAPTURABLE 1u   /* calls may be captured into a device graph */
#define TN_COMM_HOST 2u         /* works on host memory */
#define TN_COMM_DEVICE 4u       /* works on device memory */
#define TN_COMM_ID_SIZE 256u

/* Joins ranks. Buffers are in the memory the flags name; calls are ordered on `stream` (NULL
 * on host: they block until done). Sums are the same bits on all ranks. After abort every
 * call returns TN_CANCELLED. */
typedef struct tn_comm {
    uint32_t size;
    uint32_t flags;
    tn_status (*make_id)(void *self, uint8_t id[TN_COMM_ID_SIZE], tn_err *err);  /* [control] */
    tn_status (*join)(void *self, const uint8_t id[TN_COMM_ID_SIZE], uint32_t rank,
                      uint32_t nrank, uint32_t device, uint32_t timeout_ms, void **group,
                      tn_err *err);                                              /* [control] */
    tn_status (*all_reduce)(void *group, void *x, uint64_t count, uint32_t dtype,
                            void *stream, tn_err *err);                          /* [step] */
    tn_status (*all_gather)(void *group, const void *in, void *out, uint64_t count,
                            uint32_t dtype, void *stream, tn_err *err);          /* [step] */
    tn_status (*broadcast)(void *group, void *x, uint64_t bytes, uint32_t root, void *stream,
                           tn_err *err);                                         /* [step] */
    tn_status (*barrier)(void *group, tn_err *err);                              /* [control] */
    void (*abort)(void *group);                                                  /* [any] */
    tn_status (*health)(void *group, tn_err *err);                               /* [any] */
    void (*leave)(void *group);                                                  /* [control] */
} tn_comm;

/* -------------------------------------------------------------------------------- frontend */
typedef struct tn_model_info {
    uint32_t size;
    uint32_t context_max;       /* tokens, prompt and reply together */
    uint32_t vocab;
    uint32_t flags;             /* TN_MODEL_* */
    int64_t created;            /* seconds since 1970 */
    const char *name;           /* as clients say it */
    const char *root;           /* the model folder's last part, never a full path */
    uint32_t queue_max, reserved; /* requests that may wait at once; 0: not told */
} tn_model_info;
#define TN_MODEL_CHAT 1u        /* has a chat template */
#define TN_MODEL_READY 2u

enum { TN_PROMPT_CHAT = 1, TN_PROMPT_TEXT = 2, TN_PROMPT_IDS = 3 };
typedef struct tn_prompt {
    uint32_t size, kind;        /* TN_PROMPT_* */
    const char *text;           /* TEXT, text_size bytes */
    uint64_t text_size;
    const int32_t *ids;         /* IDS */
    uint64_t nid;
    const tn_json *messages;    /* CHAT: a list of objects, checked by the frontend for shape */
    const tn_json *tools;       /* or NULL */
    const tn_json *kwargs;      /* more template variables, or NULL */
    uint32_t add_special;       /* add the tokenizer's special tokens */
    uint32_t add_generation;    /* CHAT: open the assistant's turn */
    uint32_t continue_final;    /* CHAT: leave the last message open */
    uint32_t truncate;          /* keep the last N tokens; UINT32_MAX: all that fit; 0: refuse */
} tn_prompt;

typedef struct tn_logprob {
    int32_t token, rank;
    float logprob;
    uint32_t text_size;
    const char *text;           /* the token's own bytes, perhaps part of a character */
} tn_logprob;

/* One generated (or prompt) token with its alternatives, best first. */
typedef struct tn_token {
    tn_logprob self;            /* logprob NaN: not asked for, or a prompt's first token */
    uint32_t ntop;
    uint32_t reserved;
    const tn_logprob *top;
} tn_token;

#define TN_FINISH_NONE 0u
#define TN_FINISH_STOP 1u
#define TN_FINISH_LENGTH 2u
#define TN_FINISH_ABORT 3u      /* cancelled or timed out: err says */
#define TN_FINISH_ERROR 4u

/* What a request says, choice by choice. Text is whole UTF-8; the pieces of a choice joined
 * are its reply. A request's last piece has `last` 1 and comes exactly once, always. */
typedef struct tn_piece {
    uint32_t size, choice;
    uint32_t finish;            /* TN_FINISH_*, NONE while the choice goes on */
    uint32_t last;              /* 1: no piece of any choice follows */
    const char *text;
    uint64_t text_size;
    const tn_token *token;      /* the tokens behind this piece */
    uint32_t ntoken;
    uint32_t stop_kind;         /* 0: none or end of sequence; 1: stop_token; 2: stop_text */
    int32_t stop_token;
    uint32_t reserved;
    const char *stop_text;
    const tn_token *prompt;     /* once, in the first piece, when prompt data was asked for */
    uint64_t prompt_tokens, cached_tokens, reply_tokens; /* usage so far, all choices */
    uint64_t nprompt;
    tn_status status;           /* with ABORT and ERROR */
    uint32_t reserved2;
    const tn_err *err;
} tn_piece;

/* A request. Everything is copied by submit. Ranges as in the OpenAI dialect; submit refuses
 * with err->param the field and err->code the rule. A NaN or negative max means "default". */
typedef struct tn_ask {
    uint32_t size;
    uint32_t n;                 /* choices, 1 .. 8 */
    const char *model;          /* NULL: the first */
    const char *request_id;     /* for logs; NULL: made up */
    const char *cache_salt;     /* prefix-cache name space (one per API key); NULL: none */
    tn_prompt prompt;
    float temperature, top_p, min_p, repetition, frequency, presence; /* NaN: default */
    int32_t top_k;              /* -1: off; INT32_MIN: default */
    int64_t max_tokens;         /* negative: what fits */
    int64_t min_tokens;
    int64_t seed;               /* with has_seed */
    uint32_t has_seed;
    uint32_t flags;             /* TN_ASK_* */
    int32_t logprobs;           /* -1: none; else alternatives a token */
    int32_t prompt_logprobs;    /* -1: none */
    const char *const *stop;
    const int32_t *stop_token;
    const tn_bias *bias;
    const int32_t *allowed;     /* only these tokens; 0 of them: all */
    uint32_t nstop, nstop_token, nbias, nallowed;
    const char *const *bad_words;
    uint32_t nbad_words;
    uint32_t timeout_ms;        /* 0: the server's */
    /* [any] Called in order from the core's output thread; must not block, must copy. */
    void (*on_piece)(void *user, const tn_piece *p);
    void *user;
} tn_ask;
#define TN_ASK_IGNORE_EOS 1u
#define TN_ASK_KEEP_STOP 2u     /* the stop string stays in the text */
#define TN_ASK_KEEP_SPECIAL 4u  /* special tokens stay in the text */
#define TN_ASK_ECHO 8u          /* pieces begin with the prompt's text */
#define TN_ASK_PROMPT_IDS 16u   /* fill piece.prompt without log-probabilities */
typedef struct tn_request tn_request;
typedef struct tn_health {
    uint32_t size;
    uint32_t live;              /* 0: the engine is dead */
    uint32_t ready;             /* 0: loading or draining */
    uint32_t running, waiting;
    uint32_t retry_after;       /* seconds, when not ready or full */
    const char *why;            /* "ok", "loading", "draining", "engine_down" */
} tn_health;

/* A conversation kept as a file called `name`: [A-Za-z0-9._-], 1 to 64 of them, never a path. */
typedef struct tn_session {
    uint32_t size, reserved;
    const char *model, *name;       /* model NULL: the first */
    const char *to;                 /* fork: the second name */
    const char *cache_salt;         /* as in tn_ask */
    const char *owner;              /* a name space of files, one per API key; NULL: the common */
    const tn_prompt *prompt;        /* save: the conversation so far */
    uint64_t tokens, cached_tokens; /* out: in the file; of these, known without computing */
} tn_session;

/* What frontends get beside tn_host (same ctx). All [any]. */
struct tn_front_host {
    uint32_t size, reserved;
    /* The i-th served model; TN_NOINPUT past the end. Borrowed until stop. */
    tn_status (*model)(void *ctx, uint32_t i, tn_model_info *out);
    /* Checks, renders, tokenizes, queues. TN_REFUSED, TN_BUSY (queue full), TN_NOINPUT (no such
     * model), TN_UNAVAILABLE. On TN_OK pieces follow, perhaps before submit returns. */
    tn_status (*submit)(void *ctx, const tn_ask *ask, tn_request **out, tn_err *err);
    void (*cancel)(void *ctx, tn_request *r);   /* its last piece still comes */
    void (*release)(void *ctx, tn_request *r);  /* the frontend's hold on it, exactly once */
    /* Ids of a prompt as submit would make them; released with give. */
    tn_status (*tokenize)(void *ctx, const char *model, const tn_prompt *p, int32_t **ids,
                          uint64_t *nid, tn_err *err);
    tn_status (*detokenize)(void *ctx, const char *model, const int32_t *ids, uint64_t nid,
                            uint32_t keep_special, char **text, uint64_t *size, tn_err *err);
    /* The token's vocabulary text, borrowed; NULL outside the vocabulary. */
    const char *(*token_text)(void *ctx, const char *model, int32_t id, uint32_t *size);
    void (*give)(void *ctx, void *p);
    void (*health)(void *ctx, tn_health *out);
    /* Prometheus text of every series, terminated; released with give. */
    tn_status (*metrics)(void *ctx, char **text, uint64_t *size, tn_err *err);
    const char *(*version)(void *ctx);
    /* Each blocks until done. save keeps what the cache knows of the prompt's beginning, restore
     * makes the cache know it, fork copies the file. err->code: sessions_not_offered,
     * session_not_found, session_exists, session_invalid, session_mismatch, session_too_large,
     * cache_full. Since 1.1. */
    tn_status (*session_save)(void *ctx, tn_session *s, tn_err *err);
    tn_status (*session_restore)(void *ctx, tn_session *s, tn_err *err);
    tn_status (*session_fork)(void *ctx, tn_session *s, tn_err *err);
};

/* A frontend turns a protocol into requests; threads and sockets are its own. start opens the
 * port, drain refuses new work while streams finish, stop closes all. */
typedef struct tn_front {
    uint32_t size, reserved;
    /* [any] Where it listens ("http://127.0.0.1:8000"), for the log; NULL before start. */
    const char *(*address)(void *self);
} tn_front;

#ifdef __cplusplus
}
#endif

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* program.h - a recipe made ready to run, and how its parts see each other.
 *
 *     program.c    what the core calls
 *     specs.c      copies the recipe's buffers, weights, tables and limits
 *     checks.c     refuses what is wrong, lists what each operation uses
 *     compile.c    turns operations into commands, fuses, counts memory
 *     pools.c      takes the memory
 *     packing.c    packs weights
 *     stash.c      packs experts that stay in the file, when they are chosen
 *     steps.c      checks a step
 *     run.c        runs the commands on all workers, results
 *     the rest     one kind of command each; a command is run by every worker at once and
 *                  ends with a barrier that the loop in run.c puts there
 *
 * Nothing below run() allocates, locks or fails, but for a communicator and for the reader of
 * experts that stay in the file. */
#ifndef TN_CPU_PROGRAM_H
#define TN_CPU_PROGRAM_H

#include "cache.h"
#include "cpu.h"
#include "sample.h"

#include <stdatomic.h>

/* ------------------------------------------------------------------------- the recipe */

#define CPU_READ 1u
#define CPU_WRITE 2u

/* What an operation does with columns [col, col + width) of a buffer. */
typedef struct cpu_use {
    uint32_t buffer, col, width, mode;
} cpu_use;

typedef union cpu_args {
    uint32_t size;
    tn_op_embed embed;
    tn_op_norm norm;
    tn_op_linear linear;
    tn_op_act_mul act_mul;
    tn_op_heads heads;
    tn_op_attend attend;
    tn_op_delta delta;
    tn_op_route route;
    tn_op_experts experts;
    tn_op_mix mix;
    tn_op_concat concat;
    tn_op_pick pick;
    tn_op_sum sum;
    tn_op_gather gather;
    tn_op_logits logits;
    tn_op_sample sample;
} cpu_args;

#define CPU_USES_MAX 12u

typedef struct cpu_op {
    uint32_t kind, index;         /* index in the recipe */
    const char *name;             /* borrowed from the recipe, never NULL */
    cpu_args a;
    uint32_t nuse;
    cpu_use use[CPU_USES_MAX];
} cpu_op;

typedef struct cpu_buffer {
    const char *name;             /* borrowed, never NULL */
    uint32_t rows, width, dtype, flags;
    uint32_t formed;              /* 0: fused away, has no memory */
    uint32_t written;             /* the last section, from 1, that writes it */
    uint64_t stride;              /* floats from row to row, a multiple of 16 */
    uint64_t at;                  /* floats into the buffers' memory */
    float *data;
} cpu_buffer;

typedef struct cpu_weight {
    tn_weight_spec spec;          /* name never NULL; arrays in it borrowed */
    cpu_matrix *matrix;           /* [nexpert]; VECTOR and PRIVATE: NULL */
    float *vector;                /* [n * k], VECTOR only */
    tn_cpu_multiply multiply;     /* PRIVATE only */
    uint8_t *bytes;               /* PRIVATE only, [nexpert] of piece_size */
    uint64_t piece_size;          /* one expert in the arena, a multiple of 64 */
    uint64_t perm_size;           /* one expert's permutation, behind the pieces; 0: none */
    uint8_t *perms;               /* [nexpert] of perm_size */
    uint32_t mapped;              /* stays in the file: no pieces, matrices only while stashed */
    tn_reader reader;             /* mapped only */
    uint64_t at, size;            /* in the weight arena, as planned */
    uint32_t packed;
} cpu_weight;

typedef struct cpu_section {
    uint32_t op0, nop, cmd0, ncmd;
    uint32_t vocab;               /* columns that SAMPLE draws from; 0: it draws nothing */
} cpu_section;

/* -------------------------------------------------------------------------- activations */

/* Rows prepared for one or more matrices: the same permutation, the same kind of numbers. */
typedef struct cpu_set {
    uint32_t weight;              /* whose permutation; TN_NONE: columns as they are */
    uint32_t quant;               /* int8 with a scale a block, else fp32 */
    uint64_t k, cols;
    uint64_t row_size;            /* bytes a row takes, all arrays together */
    uint64_t before;              /* bytes a row of the sets before this one */
} cpu_set;

/* ----------------------------------------------------------------------------- commands */

struct cpu_program;
struct cpu_cmd;
struct cpu_linear;
typedef void (*cpu_cmd_fn)(struct cpu_program *p, const struct cpu_cmd *c, uint32_t worker);

typedef struct cpu_cmd {
    cpu_cmd_fn fn;
    const cpu_op *op;             /* the operation it is named and timed after */
    const void *plan;             /* what compile worked out for this kind, or NULL */
    const cpu_op *first;          /* the operations that it begins, [nop] */
    uint32_t nop;                 /* 0: it goes on with those of the command before */
    const struct cpu_linear *linear; /* the weights that it streams; NULL: none, or many */
} cpu_cmd;

typedef struct cpu_linear_part {
    const cpu_weight *w;
    const cpu_weight *bias;       /* or NULL */
    uint32_t set;
    uint32_t out, col;
    uint64_t strip0, nstrip;      /* the strips of w that this part multiplies */
} cpu_linear_part;

/* LINEAR with what was fused into it. With `act` there are two parts, gate and up, whose
 * strips pair up, and `out` [B, width] gets act(gate) * up. */
typedef struct cpu_linear {
    uint32_t in, in_col;
    uint64_t k;
    uint32_t add;
    const tn_op_norm *norm;       /* NORM before it, or NULL */
    uint32_t norm_formed;         /* someone else reads the normed rows too */
    uint32_t act, out;
    uint64_t act_width;
    uint32_t nset, npart;
    cpu_set set[TN_LINEAR_PARTS];
    cpu_linear_part part[TN_LINEAR_PARTS];
    uint64_t nunit;               /* strips of all parts; with act: pairs */
    uint64_t unit_size;           /* bytes of weights a unit, about */
    uint64_t *cut;                /* [nthread + 1] each worker's units for a single row */
} cpu_linear;

/* LOGITS and SAMPLE, with the LINEAR that feeds them when only they read it. */
typedef struct cpu_head {
    const cpu_linear *linear;     /* NULL: the logits lie in buffer `x` */
    uint32_t x, vocab, valid;
    float softcap;
    uint32_t chunk;               /* output rows at a time */
    uint32_t nsegment;
    const cpu_op *logits, *sample; /* for timing; NULL: not in the recipe */
} cpu_head;

typedef struct cpu_attention {
    const cpu_cache *cache;
    uint32_t tiling;              /* index in program->tiling */
    uint32_t group;               /* query heads a KV head */
    uint32_t split_tiles;         /* most tiles that are split into runs of tokens */
} cpu_attention;

/* The experts of one EXPERTS operation that stay in the file, see stash.c. */
typedef struct cpu_shelf {
    cpu_weight *up, *down;        /* one of them may be in memory all the same */
    uint32_t *slot;               /* [nexpert] where the packed copy is; TN_NONE: nowhere */
    struct cpu_shelf *next;
} cpu_shelf;

typedef struct cpu_slot {
    cpu_shelf *shelf;             /* whose expert it holds; NULL: free */
    uint32_t expert, newer, older;
    uint64_t pinned;              /* the turn that needed it last */
} cpu_slot;

typedef struct cpu_stash {
    uint64_t slot_size, turn;
    uint32_t nslot, newest, oldest;
    cpu_slot *slot;               /* [nslot] */
} cpu_stash;

#define CPU_STRAIGHT_STRIPS 4u    /* strips packed at a time of an expert without a slot */

typedef struct cpu_experts {
    cpu_set up, down;             /* weight: whose per-expert permutations, or TN_NONE */
    uint32_t pairs_max;           /* (row, choice) pairs at a time */
    cpu_shelf *shelf;             /* NULL: all are in memory */
} cpu_experts;

/* ------------------------------------------------------------------------------ a step */

/* Rows of one sequence that are attended together. */
typedef struct cpu_tile {
    int32_t seq, row0, nrow;
} cpu_tile;

typedef struct cpu_tiling {
    uint32_t rows;                /* most rows a tile */
    uint32_t ntile;
    cpu_tile *tile;               /* [rows_max] */
} cpu_tiling;

typedef struct cpu_rotary {
    uint32_t dims, pairing, npos;
    double scale;
    double *inv_freq;             /* [dims / 2] */
    float *cos, *sin;             /* [rows_max, dims / 2] of the step's rows */
} cpu_rotary;

/* One worker's own memory. */
typedef struct cpu_worker {
    _Alignas(64) uint64_t ticket; /* where the next shared-out loop begins counting */
    float *row;                   /* one normed row */
    float *wide;                  /* CPU_WIDE floats */
    void *room;                   /* CPU_ROOM_BYTES for a kernel that has many rows */
    uint8_t *act;                 /* one row of activations, all sets of a LINEAR */
    float *query, *acc, *part;    /* attention, [CPU_QUERIES, dim] each */
    float *max, *sum;             /* [2 * CPU_QUERIES] */
    int32_t *first, *limit;       /* [CPU_QUERIES] */
    float *delta;                 /* one row of a DELTA head */
    float *pair;                  /* EXPERTS: one strip of every pair */
    uint8_t *pull;                /* [pull_size] rows on their way from the file */
    uint8_t *straight;            /* [straight_size] strips of an expert without a slot */
} cpu_worker;

#define CPU_WIDE 32768u           /* 128 KiB: gate and up of a tile stay in the cache */
#define CPU_QUERIES 64u           /* most of a tile of attention */
#define CPU_QUERIES_MANY 60u      /* what a tile of many rows has: vector levels take 6 or 12 */
#define CPU_SEGMENT 1024u         /* columns of logits that are looked at together */
#define CPU_DRAWS_MAX 8u          /* rows drawn for at the same time: each has its scratch */

/* A set of results; two of them take turns. */
typedef struct cpu_outcome {
    tn_results results;
    uint64_t number;              /* the step's; UINT64_MAX: none yet */
    tn_result *result;            /* [outs_max] */
    int32_t *top_token;           /* [outs_max, top_max] */
    float *top_logprob;
    uint64_t *op_ns;              /* [nop of the longest section] */
} cpu_outcome;

typedef struct cpu_program {
    cpu_dev *dev;                 /* borrowed */
    const cpu_kernels *k;         /* dev's */
    uint32_t nthread;
    tn_limits lim;
    uint32_t cache_dtype;
    const char *name;             /* borrowed from the recipe */

    uint32_t nbuffer, nweight, nop, nrope, ncache, nstate, nsection, ncmd;
    cpu_buffer *buffer;
    cpu_weight *weight;
    cpu_op *op;
    cpu_rotary *rope;
    cpu_cache *cache;
    cpu_state *state;
    cpu_section *section;
    cpu_cmd *cmd;

    uint32_t ntiling;
    cpu_tiling tiling[4];
    uint32_t run_tokens;          /* tokens of a run of attention, a multiple of block_tokens */
    uint32_t nrun_max;

    /* what the commands need, found by compile */
    uint64_t buffer_floats;
    uint64_t act_row_size;        /* most bytes a row of activations takes */
    uint64_t experts_size;
    uint64_t pair_floats;
    uint32_t row_floats, delta_floats, dim_max;
    uint64_t split_floats;        /* partial results of split attention */
    uint64_t gather_floats;
    uint64_t logits_floats;
    uint32_t logits_rows, vocab_max, ndraw, nop_max;
    uint64_t weight_size;

    uint64_t mapped_size;         /* of packed copies of all that stays in the file */
    uint64_t pull_size, straight_size;

    cpu_region weights, work, cache_memory, state_memory, stash_memory;
    cpu_stash stash;
    cpu_shelf *shelf;             /* of all operations, chained */
    uint32_t npacked;
    uint32_t nblock, nslot, reserved;
    uint32_t ready;               /* every weight is packed */

    /* workspace, see pools.c */
    float *buffer_data;
    uint8_t *act;                 /* activations of all rows */
    uint8_t *experts;
    float *split;
    float *gather;
    float *logits;
    cpu_segment *segment;         /* [logits_rows, nsegment] */
    cpu_draw *draw;               /* [logits_rows] */
    cpu_scratch *scratch;         /* [ndraw] */
    cpu_worker *worker;           /* [nthread] */

    /* the step that runs now */
    const tn_step *step;
    int32_t *token;               /* [rows_max] ids, -1: none */
    int32_t *pos;                 /* [rows_max] positions, -1: padding */
    _Alignas(64) _Atomic uint64_t ticket;
    _Alignas(64) _Atomic uint32_t failed; /* the command that failed, counted from 1: workers
                                             leave behind its barrier, not before */
    tn_status status;             /* of a communicator's call */
    tn_err *err;
    uint64_t clock;               /* profile: when what is timed now began */
    int32_t *verdict;             /* [nslot] pending rows that the draft step let stand */
    cpu_outcome outcome[2];
    uint32_t current;             /* the outcome that the running step fills */

    struct cpu_piece *pieces;     /* bookkeeping memory, owned */
} cpu_program;

/* ------------------------------------------------------------------------------ helpers */

/* Bookkeeping memory: zeroed, lives as long as the program. NULL when there is none. */
void *cpu_take(cpu_program *p, uint64_t count, uint64_t size);

static inline uint32_t cpu_count(const cpu_program *p, uint32_t rows)
{
    return rows == TN_ROWS_TOKENS ? p->step->nrow : rows == TN_ROWS_OUTS ? p->step->nout
                                                                        : p->step->nseq;
}

/* Most rows of a kind. */
static inline uint64_t cpu_rows_max(const cpu_program *p, uint32_t rows)
{
    return rows == TN_ROWS_TOKENS ? p->lim.rows_max : rows == TN_ROWS_OUTS ? p->lim.outs_max
                                                                          : p->lim.seqs_max;
}

/* Rows in this step of the buffer. */
static inline uint32_t cpu_rows_of(const cpu_program *p, uint32_t buffer)
{
    return cpu_count(p, p->buffer[buffer].rows);
}

static inline float *cpu_row(const cpu_program *p, uint32_t buffer, uint64_t row, uint32_t col)
{
    const cpu_buffer *b = &p->buffer[buffer];
    return b->data + row * b->stride + col;
}

static inline void cpu_sync(const cpu_program *p, uint32_t worker)
{
    cpu_pool_barrier(p->dev->pool, worker);
}

/* An even share of [0, n) for a worker. */
static inline void cpu_share(const cpu_program *p, uint32_t worker, uint64_t n, uint64_t *from,
                             uint64_t *to)
{
    *from = n * worker / p->nthread;
    *to = n * (worker + 1) / p->nthread;
}

/* The next of `n` items that no worker has had; false when all are given out. Every worker
 * asks until it hears false, and a barrier follows before the next such loop: so each loop
 * draws exactly n + nthread tickets and all workers know where the next one begins. */
static inline bool cpu_claim(cpu_program *p, uint32_t worker, uint64_t n, uint64_t *item)
{
    cpu_worker *w = &p->worker[worker];
    uint64_t t = atomic_fetch_add_explicit(&p->ticket, 1, memory_order_relaxed) - w->ticket;
    if (t >= n) {
        w->ticket += n + p->nthread;
        return false;
    }
    *item = t;
    return true;
}

/* With limits.profile: the time since the last lap was `op`'s. Worker 0 only. */
void cpu_lap(cpu_program *p, const cpu_op *op);

static inline uint64_t cpu_round(uint64_t n, uint64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

const char *cpu_op_word(uint32_t kind); /* "LINEAR" */

/* program.c: as the members of tn_device say */
tn_status cpu_program_open(cpu_dev *dev, const tn_recipe *r, const tn_limits *l,
                           cpu_program **out, tn_need *need, tn_err *err);
tn_status cpu_program_run(cpu_program *p, const tn_step *s, tn_err *err);
tn_status cpu_program_wait(const cpu_program *p, uint64_t number, const tn_results **out,
                           tn_err *err);
tn_status cpu_program_peek(const cpu_program *p, uint32_t buffer, uint32_t row0, uint32_t nrow,
                           float *out, tn_err *err);
tn_status cpu_block_move(cpu_program *p, int32_t from, int32_t to, tn_err *err);
tn_status cpu_block_get(const cpu_program *p, int32_t block, void *data, tn_err *err);
tn_status cpu_block_set(cpu_program *p, int32_t block, const void *data, tn_err *err);
tn_status cpu_slot_move(cpu_program *p, int32_t from, int32_t to, tn_err *err);
tn_status cpu_slot_get(const cpu_program *p, int32_t slot, void *data, tn_err *err);
tn_status cpu_slot_set(cpu_program *p, int32_t slot, const void *data, tn_err *err);

/* specs.c */
tn_status cpu_take_specs(cpu_program *p, const tn_recipe *r, const tn_limits *l, tn_err *err);

/* checks.c */
tn_status cpu_check(cpu_program *p, tn_err *err);
/* "recipe NAME: operation 3 layers.0.qkv (LINEAR): ..." */
tn_status cpu_bad_op(const cpu_program *p, const cpu_op *op, tn_status st, tn_err *err,
                     const char *fmt, ...) __attribute__((format(printf, 5, 6)));

/* compile.c */
tn_status cpu_compile(cpu_program *p, tn_err *err);

/* pools.c */
tn_status cpu_place_buffers(cpu_program *p, tn_err *err); /* which may share memory */
uint64_t cpu_workspace(cpu_program *p, uint8_t *base); /* lays out; bytes */
uint64_t cpu_block_bytes(const cpu_program *p);
uint64_t cpu_slot_bytes(const cpu_program *p);
uint64_t cpu_neutral_bytes(const cpu_program *p); /* of a block, in the neutral order */
uint64_t cpu_settled_bytes(const cpu_program *p); /* of a slot, in the neutral order */
tn_status cpu_reserve(cpu_program *p, const tn_pools *pools, tn_err *err);
void cpu_release(cpu_program *p);

/* packing.c */
tn_status cpu_pack(cpu_program *p, uint32_t w, const tn_reader *reader, tn_err *err);
uint64_t cpu_weight_bytes(const cpu_program *p, uint32_t w);

/* stash.c. need: counts what a mapped weight takes; shelf_open: *out is NULL when nothing of the
 * operation is mapped; open: once all is packed. */
void cpu_stash_need(cpu_program *p, const cpu_weight *w);
tn_status cpu_shelf_open(cpu_program *p, const tn_op_experts *a, cpu_shelf **out, tn_err *err);
tn_status cpu_stash_open(cpu_program *p, tn_err *err);
/* Worker 0: gives slots to the experts that are needed now. Those that are new in theirs go to
 * `fresh`, and their number is returned; the others have one, or will be computed straight. */
uint32_t cpu_stash_want(cpu_program *p, cpu_shelf *s, const uint32_t *active, uint32_t n,
                        uint32_t *fresh);
/* Every worker: packs the fresh ones. Failures go to p->failed, for command `cmd`. */
void cpu_stash_fill(cpu_program *p, uint32_t cmd, cpu_shelf *s, const uint32_t *fresh,
                    uint32_t nfresh, uint32_t worker);
/* Worker 0, after a failure: they are not in their slots after all. */
void cpu_stash_drop(cpu_program *p, cpu_shelf *s, const uint32_t *fresh, uint32_t nfresh);
/* cpu_strips for an expert without a slot. */
void cpu_stash_strips(cpu_program *p, uint32_t cmd, const cpu_weight *w, uint32_t expert,
                      const cpu_set *set, const cpu_act *a, uint64_t m, uint64_t s0, uint64_t s1,
                      float *y, uint64_t ldy, uint32_t worker);

/* steps.c: checks a step and fills what its commands share */
tn_status cpu_step_take(cpu_program *p, const tn_step *s, tn_err *err);

/* run.c */
tn_status cpu_run_step(cpu_program *p, const tn_step *s, tn_err *err);

/* experts.c, delta.c: what their commands need */
void cpu_experts_init(cpu_experts *e, const cpu_program *p, const tn_op_experts *a);
uint64_t cpu_experts_size(const cpu_experts *e, const tn_op_experts *a);
uint32_t cpu_delta_floats(const cpu_program *p, const tn_op_delta *a);

/* acts.c: activations */
void cpu_set_init(cpu_set *s, const cpu_program *p, const cpu_weight *w, uint64_t k);
/* The arrays of one set in memory made for `rows` rows. */
cpu_act cpu_set_act(const cpu_set *s, uint8_t *base, uint64_t rows);
/* Row `row` of `a` alone. */
cpu_act cpu_act_at(const cpu_set *s, const cpu_act *a, uint64_t row);
/* Fills row `row` from one row of floats; `expert` chooses the permutation. */
void cpu_act_fill(const cpu_program *p, const cpu_set *s, cpu_act *a, uint64_t row,
                  const float *x, uint32_t expert);
/* y[i * ldy + 16 s] (+)= rows of strips [strip0, strip1) of one expert, for m rows of `a`; `y`
 * points at the first of these strips. */
void cpu_strips(const cpu_program *p, const cpu_weight *w, uint32_t expert, const cpu_set *s,
                const cpu_act *a, uint64_t m, uint64_t strip0, uint64_t strip1, float *y,
                uint64_t ldy, bool add);

/* commands */
void cpu_do_embed(cpu_program *p, const cpu_cmd *c, uint32_t worker);
void cpu_do_norm(cpu_program *p, const cpu_cmd *c, uint32_t worker);
void cpu_do_linear(cpu_program *p, const cpu_cmd *c, uint32_t worker);
void cpu_do_act_mul(cpu_program *p, const cpu_cmd *c, uint32_t worker);
void cpu_do_heads(cpu_program *p, const cpu_cmd *c, uint32_t worker);
void cpu_do_attend(cpu_program *p, const cpu_cmd *c, uint32_t worker);
void cpu_do_delta(cpu_program *p, const cpu_cmd *c, uint32_t worker);
void cpu_do_route(cpu_program *p, const cpu_cmd *c, uint32_t worker);
void cpu_do_experts(cpu_program *p, const cpu_cmd *c, uint32_t worker);
void cpu_do_mix(cpu_program *p, const cpu_cmd *c, uint32_t worker);
void cpu_do_concat(cpu_program *p, const cpu_cmd *c, uint32_t worker);
void cpu_do_pick(cpu_program *p, const cpu_cmd *c, uint32_t worker);
void cpu_do_sum(cpu_program *p, const cpu_cmd *c, uint32_t worker);
void cpu_do_gather(cpu_program *p, const cpu_cmd *c, uint32_t worker);
void cpu_do_head(cpu_program *p, const cpu_cmd *c, uint32_t worker);

/* multiply.c, for logits.c too: makes all rows ready; ends with a barrier, but for a single
 * row, which every worker makes ready for itself. */
void cpu_linear_ready(cpu_program *p, const cpu_linear *l, uint32_t rows, uint32_t worker);
/* Has the cache fetch the first weights that the worker will multiply a single row with. */
void cpu_linear_ahead(const cpu_linear *l, uint32_t worker);
/* Strips [s0, s1) of part i (counted in its matrix) for rows [row0, row1) of the `rows` made
 * ready; `y` gets strip s0's first column of row row0. */
void cpu_linear_strips(const cpu_program *p, const cpu_linear *l, uint32_t i, uint64_t s0,
                       uint64_t s1, uint64_t row0, uint64_t row1, uint32_t rows, uint32_t worker,
                       float *y, uint64_t ldy, bool add);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* cuprogram.h - a recipe on a card: what compile plans, what reserve takes, what a step needs.
 *
 *     cuda.c       the plugin and its device
 *     cuplan.c     checks the recipe, plans weights and buffers, counts memory
 *     culower.c    operations become commands: calls of the kernels with their arguments
 *     cupack.c     weights from the reader to the card, by threads of its own
 *     cupools.c    the memory
 *     cuhost.c     experts that stay in the host's memory
 *     custep.c     a step: staging, graphs, results
 *     cublocks.c   blocks and states in and out
 *     cubad.c      rows that are not finite
 *     curanks.c    what goes over the communicator, and waiting for it
 *     cureport.c   what a doctor asks
 *     cuplanned.c  a card that is not there, for plans
 *
 * Compile takes no memory of the card. All device memory of a program is four blocks: weights,
 * workspace, cache, states; commands point into them, so they are made after reserve. */
#ifndef TN_CUDA_CUPROGRAM_H
#define TN_CUDA_CUPROGRAM_H

#include "gpu.h"

#include <stdbool.h>

/* What the options say of a card to plan for. */
typedef struct cu_planned {
    uint64_t memory, kept;     /* memory 0: cards are real; kept: by driver and context */
    const char *arch;          /* "8.0" */
    uint32_t nsm;              /* 0: the most that cards of the kind have */
} cu_planned;

typedef struct cu_dev {
    const tn_host *host;       /* borrowed */
    int index;
    uint32_t first;            /* the card that counts as the plugin's first */
    uint32_t nsm;
    cudaStream_t stream;
    char name[128];
    uint32_t major, minor;
    uint32_t threads;          /* that pack */
    bool graphs;
    uint32_t graph_steps, graphs_dropped; /* metrics */
    cu_planned planned;
} cu_dev;

typedef struct cu_weight {
    tn_weight_spec spec;       /* name never NULL */
    gpu_matrix m;              /* pointers NULL until reserve */
    uint32_t into;             /* the weight whose matrix holds this one's rows: itself, or with
                                  `half` 1 and 2 the gate of a pair */
    uint32_t half;
    float *vector;             /* VECTOR */
    uint64_t at, size;         /* in the weights' memory, or the host's */
    bool host;                 /* in the host's memory, read over the link */
    bool packed;
} cu_weight;

typedef struct cu_buffer {
    uint32_t rows, width, stride, type, elem;
    uint64_t at;               /* in the workspace */
    bool skipped;              /* its operations are fused: nothing is ever in it */
    const char *name;
} cu_buffer;

/* Arrays that experts keep between their kernels: six of the grouping, gathered rows, hidden
 * rows, partial sums. */
#define CU_EXPERT_PARTS 9

/* What a command calls. */
enum cu_call { CU_EMBED = 1, CU_NORM, CU_PREPARE, CU_LINEAR, CU_ACT_MUL, CU_HEADS, CU_ATTEND,
               CU_DELTA, CU_ROUTE, CU_EXPERTS, CU_COMBINE, CU_MIX, CU_PICK, CU_SAMPLE, CU_ROTARY,
               CU_SUM, CU_GATHER };

typedef struct cu_cmd {
    enum cu_call call;
    uint32_t op;               /* of the recipe, for timing and messages */
    union {
        struct { gpu_matrix w; uint32_t first; float scale; gpu_span out; } embed;
        gpu_norm norm;
        struct { gpu_span in; const int32_t *perm; uint32_t k, cols, rows; uint16_t *out; } prepare;
        gpu_linear *linear;    /* owned by the program's bookkeeping memory */
        struct { gpu_span a, b, out; uint32_t width, act, rows; } act_mul;
        gpu_heads heads;
        gpu_attend attend;
        gpu_delta delta;
        gpu_route route;
        gpu_experts *experts;
        gpu_combine *combine;
        struct { gpu_span in, gate, out; uint32_t width, add, rows; float scale; } mix;
        struct { gpu_span in, out; uint32_t width; } pick;
        gpu_sample sample;
        struct { const double *inv_freq; float *cs; uint32_t dims; double scale; } rotary;
        struct { gpu_span x; uint32_t rows; } sum;
        struct { gpu_span in, out; float *all; uint32_t width, rows; } gather;
    } a;
} cu_cmd;

typedef struct cu_section {
    uint32_t op0, nop, cmd0, ncmd;
    uint32_t vocab;            /* 0: draws nothing */
} cu_section;

/* A captured step of one shape. The card's memory for it is in no budget, so there are few of
 * them; the longest unused makes room. */
#define CU_GRAPHS_MAX 64
typedef struct cu_graph {
    uint64_t used;             /* when last, by the program's count of steps */
    uint32_t section;
    gpu_shape shape;
    cudaGraphExec_t exec;      /* NULL: this shape could not be captured */
} cu_graph;

/* Steps take turns with two of these. */
typedef struct cu_slot {
    uint8_t *parcel;           /* pinned, [parcel_size]: all of a step but what does not fit */
    uint32_t *bad;             /* pinned, [nbad], and behind them result */
    tn_result *result;
    int32_t *top_token;
    float *top_logprob;
    uint64_t *op_ns;
    cudaEvent_t done;
    uint64_t number;           /* UINT64_MAX: none */
    bool fetched;              /* `bad` and `result` came with this step */
    tn_results results;
} cu_slot;

typedef struct cu_memory {
    uint8_t *data;
    uint64_t size;
} cu_memory;

typedef struct cu_program {
    cu_dev *dev;               /* borrowed */
    const tn_recipe *recipe;   /* borrowed, stays valid */
    const char *name;
    tn_limits lim;
    uint32_t nbuffer, nweight, nop, nrope, ncache, nstate, nsection;
    cu_buffer *buffer;
    cu_weight *weight;
    cu_section *section;
    cu_cmd *cmd;
    uint32_t ncmd, cmd_max;

    /* planned by compile: sizes and places */
    uint64_t weight_size, work_size;
    uint64_t host_size;               /* of weights that may stay in the host's memory */
    uint64_t act_at, act_size;        /* rows turned to halves for a product */
    uint64_t attend_at, delta_at, sample_at, step_at;
    uint64_t attend_size, delta_size, sample_size;
    uint64_t meet_at, meet_size;      /* counters of DELTA's blocks, zero between launches */
    uint64_t gather_at, gather_size;  /* rows of all ranks, rank after rank */
    uint64_t experts_at[CU_EXPERT_PARTS], experts_size[CU_EXPERT_PARTS];
    uint32_t experts_rows;
    uint64_t *rope_at, *freq_at;      /* [nrope] cs, inv_freq */
    uint64_t extra_words;             /* histories, biases and masks of a step at most */
    uint64_t parcel_size;             /* with room for the usual ones alone */
    uint64_t stage_size;              /* of one buffer of rows on their way to be packed */
    uint32_t nworker;                 /* that pack, each with two of them */

    cu_memory weights, work, cache, states;
    cu_memory host;                   /* pinned; the card knows it by the same address */
    uint32_t nblock, nslot;
    uint64_t *cache_at, *state_at;    /* [ncache], [nstate] in their memory */
    bool reserved, cleared;           /* cleared: the workspace is as kernels want it first */
    uint32_t npacked;
    uint8_t *stage;                   /* pinned, [nworker][2][stage_size], while packing */
    uint8_t *parcel;                  /* device */
    gpu_step step;
    cu_slot slot[2];
    uint32_t current;
    cu_graph graph[CU_GRAPHS_MAX];
    uint32_t ngraph;
    uint64_t nstep;                   /* run so far */
    /* Rows that were not finite where a layer normed them, layer by layer, then those behind the
     * last; counted on for ever on the card, seen so far here. */
    uint32_t nbad;
    uint32_t *bad, *bad_seen, *bad_metric;
    uint64_t bad_told;                /* when the log last heard of it */
    uint64_t looked;           /* when the group's health was last asked for */
    cudaEvent_t *lap;                 /* with profile: [ncmd_max + 1] */
    struct cu_piece *pieces;          /* bookkeeping memory, owned */
} cu_program;

/* cupools.c: zeroed bookkeeping memory that lives as long as the program; NULL: none. */
void *cu_take(cu_program *p, uint64_t count, uint64_t size);
tn_status cu_reserve(cu_program *p, const tn_pools *pools, tn_err *err);
/* What kernels take for granted of a workspace that weights were packed through. */
tn_status cu_clear(cu_program *p, tn_err *err);
void cu_release(cu_program *p);
uint64_t cu_block_bytes(const cu_program *p);
uint64_t cu_slot_bytes(const cu_program *p);
uint64_t cu_state_floats(const cu_program *p, const tn_state_spec *s);
gpu_cache cu_cache_of(const cu_program *p, uint32_t cache);
gpu_state cu_state_of(const cu_program *p, uint32_t state);

/* One sentence from a CUDA call that failed. */
tn_status cu_fail(tn_err *err, cudaError_t e, const char *what);

/* cuhost.c: shares out weights placed HOST, as many as `room` bytes hold to the card, and gives
 * what both memories take in all; takes the host's; tells what a token reads of it. */
void cu_host_share(cu_program *p, uint64_t room, uint64_t *card, uint64_t *host);
tn_status cu_host_take(cu_program *p, uint64_t size, tn_err *err);
void cu_host_give(cu_program *p);
tn_status cu_host_tell(cu_program *p, tn_err *err);

/* cuplan.c */
tn_status cu_program_open(cu_dev *dev, const tn_recipe *r, const tn_limits *l, cu_program **out,
                          tn_need *need, tn_err *err);
const tn_op *cu_op(const cu_program *p, uint32_t i);
const tn_rope *cu_rope(const cu_program *p, uint32_t i);
const tn_cache_spec *cu_cache_spec(const cu_program *p, uint32_t i);
const tn_state_spec *cu_state_spec(const cu_program *p, uint32_t i);
gpu_span cu_span(const cu_program *p, uint32_t buffer, uint32_t col);
uint64_t cu_rows_max(const cu_program *p, uint32_t rows);
uint32_t cu_rows_index(uint32_t rows);

/* culower.c: the commands, or with `count` only what they need of the workspace. */
tn_status cu_lower(cu_program *p, bool count, tn_err *err);
/* True when ACT_MUL behind this LINEAR may be done by it; *gate, *up: its weights. */
bool cu_is_pair(const cu_program *p, uint32_t section_end, uint32_t op, uint32_t *gate,
                uint32_t *up);

/* cupack.c: workers and their buffers, which lie in the workspace until the first step. */
void cu_plan_packing(cu_program *p);
uint64_t cu_stages_size(const cu_program *p);
tn_status cu_pack(cu_program *p, uint32_t w, const tn_reader *reader, tn_err *err);

/* custep.c */
tn_status cu_step_open(cu_program *p, tn_err *err);
void cu_step_close(cu_program *p);
tn_status cu_run(cu_program *p, const tn_step *s, tn_err *err);
tn_status cu_wait(cu_program *p, uint64_t number, bool poll, const tn_results **out, tn_err *err);

/* cubad.c: rows that are not finite. */
tn_status cu_bad_open(cu_program *p, tn_err *err);
uint64_t cu_bad_size(const cu_program *p);
uint32_t *cu_bad_of(const cu_program *p, uint32_t layer);
void cu_bad_look(cu_program *p, const cu_slot *t);

/* cublocks.c */
tn_status cu_block_copy(cu_program *p, int32_t from, int32_t to, tn_err *err);
tn_status cu_state_copy(cu_program *p, int32_t from, int32_t to, tn_err *err);
tn_status cu_block_move(cu_program *p, int32_t block, void *data, bool read, tn_err *err);
uint64_t cu_state_size(const cu_program *p);
tn_status cu_state_move(cu_program *p, int32_t slot, void *data, bool read, tn_err *err);
tn_status cu_peek(cu_program *p, uint32_t buffer, uint32_t row0, uint32_t nrow, float *out,
                  tn_err *err);

/* cuplanned.c: fills in a card to plan for; what it says of itself; refuses what wants a real one. */
void cu_planned_open(cu_dev *d, const cu_planned *p);
void cu_planned_info(const cu_dev *d, tn_device_info *out);
tn_status cu_planned_refuse(const cu_dev *d, const char *what, tn_err *err);

/* curanks.c: what compile refuses of several ranks, who need not be there for a plan; and reserve. */
tn_status cu_ranks_check(const tn_limits *l, uint32_t first, tn_err *err);
tn_status cu_ranks_joined(const cu_program *p, tn_err *err);
/* Calls on the step's stream, for `rows` rows. */
tn_status cu_sum(const cu_program *p, const cu_cmd *c, uint32_t rows, tn_err *err);
tn_status cu_gather(const cu_program *p, const cu_cmd *c, uint32_t rows, tn_err *err);
uint64_t cu_gather_bytes(const cu_program *p, uint32_t rows, uint32_t stride);
/* Until the event, or NULL: the stream, is done. TN_UNAVAILABLE: another rank is lost, and the
 * group was aborted. cu_poll: TN_BUSY while it is not. */
tn_status cu_await(cu_program *p, cudaEvent_t event, const char *what, tn_err *err);
tn_status cu_poll(cu_program *p, cudaEvent_t event, const char *what, tn_err *err);

/* cureport.c */
tn_status cu_report(void *dev, void (*put)(void *ctx, const char *key, const char *text),
                    void *ctx, tn_err *err);

static inline void cu_count(const cu_dev *d, uint32_t metric, double n)
{
    if (metric != TN_NONE)
        d->host->metric_put(d->host->ctx, metric, n);
}

/* Bytes of one number in the cache. */
static inline uint32_t cu_cache_elem(const cu_program *p)
{
    return p->lim.cache_dtype == TN_F8_E4M3 ? 1 : 2;
}

static inline uint64_t cu_round(uint64_t n, uint64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

#endif

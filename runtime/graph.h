/* SPDX-License-Identifier: Apache-2.0 */
/* graph.h - the forward pass of every supported model, as a recipe.
 *
 *     x = embed(token)
 *     per layer:  x += mixer(norm(x))       attention, gated or not; or Gated DeltaNet
 *                 x += mlp(norm(x))         dense, or experts with or without a shared one
 *     logits = head(norm(x at the rows that want one))
 *
 * The residual x stays in fp32; everything between is in the operator's dtype. One builder
 * serves all families: what differs between them are numbers and switches in tn_model_conf.
 * graph.c holds the frame, graph_mixer.c and graph_mlp.c what a layer is made of, graph_mtp.c
 * the second section, which drafts. */
#ifndef TN_GRAPH_H
#define TN_GRAPH_H

#include "recipe.h"
#include "share.h"

/* What is built beside the model's own numbers. */
typedef struct tn_graph_ask {
    const tn_view *view;          /* tells which optional tensors exist; may be NULL */
    uint32_t act_dtype;
    uint32_t npos;                /* positions are below it */
    bool drafting;                /* with the section that drafts (graph_mtp.c) */
    const tn_view *second;        /* the folder its tensors come from; NULL: the model's own */
    uint32_t rank, nrank;         /* whose recipe; nrank 0 and 1: one rank has all */
} tn_graph_ask;

/* Sections of the recipe. */
#define TN_SECTION_MODEL 0u
#define TN_SECTION_DRAFT 1u

/* The recipe of one rank. Opens the draft; close it also after a failure. TN_CONFIG: the model
 * does not come apart into that many ranks (share.h). */
tn_status tn_graph_build(const tn_model_conf *c, const tn_graph_ask *ask, tn_draft *d,
                         tn_err *err);
/* Whether these tensors hold the drafting module. */
bool tn_graph_can_draft(const tn_view *view);

/* --------------------------------------------------------- between the files of the builder */

/* Buffers are made when first wanted: TN_NONE until then. */
typedef struct tn_graph {
    tn_draft *d;
    const tn_model_conf *c;
    const tn_view *view;          /* may be NULL: nothing is known of the files */
    tn_share s;                   /* what is this rank's */
    uint32_t act_dtype;
    uint32_t rows;                /* of the buffers made next: TN_ROWS_TOKENS, then _OUTS */
    uint32_t x, h;                /* residual and normed rows, [rows, hidden] */
    uint32_t part;                /* what this rank adds to x; only with others */
    uint32_t qkv, att;            /* q | k | v | gate; what attention made */
    uint32_t mix, delta;          /* q | k | v | z | b | a; what the delta rule made */
    uint32_t gu, ff;              /* gate | up of a dense MLP; their product */
    uint32_t route, ids, weights; /* router logits | shared gate; the choice */
    uint32_t shared_gu, shared_ff, shared;
    uint32_t last;                /* normed rows behind the last layer, kept for drafting;
                                     TN_NONE without */
    uint32_t embed, head;         /* weights */
    uint32_t h_out, logits;       /* output rows */
    uint32_t some_logits;         /* of this rank's tokens; only with others */
    uint32_t rope;
} tn_graph;

/* A layer by the name of its tensors ("model.layers.3") and of its operations ("layers.3"). */
typedef struct tn_graph_layer {
    const char *path, *label;
    uint32_t index;               /* for timing; TN_NONE outside the model's layers */
    uint32_t window;
    uint32_t mixer, mlp;          /* TN_MIXER_*, TN_MLP_* */
    bool end;                     /* behind its mixer only rows whose logits are wanted count */
} tn_graph_layer;

void tn_graph_embed(tn_graph *g, const char *name);
void tn_graph_head(tn_graph *g);
void tn_graph_draft(tn_graph *g);
void tn_graph_layer_add(tn_graph *g, const tn_graph_layer *l);
void tn_graph_attention(tn_graph *g, const tn_graph_layer *l);
void tn_graph_delta(tn_graph *g, const tn_graph_layer *l);
void tn_graph_mlp(tn_graph *g, const tn_graph_layer *l);
void tn_graph_experts(tn_graph *g, const tn_graph_layer *l);

/* Rows of a module, run by run; a row may be there twice. In the draft's arena. */
typedef struct tn_span {
    uint64_t row0, row1;
} tn_span;

typedef struct tn_spans {
    tn_span *at;
    uint32_t n, cap;
    uint64_t rows;                /* of all runs */
} tn_spans;

/* Adds rows [row0, row0 + rows); those that go on where the last run ends lengthen it. */
void tn_graph_span(tn_graph *g, tn_spans *s, uint64_t row0, uint64_t rows);
/* Just these rows. */
tn_spans tn_graph_spans(tn_graph *g, uint64_t row0, uint64_t rows);

/* Part of a LINEAR: these rows of the module PATH.NAME [n, k], into columns of `out`. A bias
 * that the config names must be there; one that only the file holds is used as well (some
 * quantizers write them for every linear). */
tn_part tn_graph_part(tn_graph *g, const tn_graph_layer *l, const char *module, uint64_t n,
                      uint64_t k, const tn_spans *rows, bool bias, uint32_t out, uint32_t col);
/* A weight of rows of the module PATH.NAME one below the other, called PATH.NAME.part. */
uint32_t tn_graph_rows(tn_graph *g, const tn_graph_layer *l, uint32_t role, const tn_slice *module,
                       const tn_spans *rows, const char *part);

/* What leads back to the residual: the module PATH.NAME [hidden, k], over this rank's columns, which
 * are those of `in` from in_col on. */
typedef struct tn_graph_way {
    const char *module, *op;
    uint64_t k;
    tn_run cols;
    uint32_t in, in_col;
    bool bias;
} tn_graph_way;

/* x += in . W^T, with others only as a part, which tn_graph_join adds up. */
void tn_graph_back(tn_graph *g, const tn_graph_layer *l, const tn_graph_way *way);
/* A part of zeros, of a rank that has nothing of an MLP. */
void tn_graph_nothing(tn_graph *g, const tn_graph_layer *l, const char *op);
/* What a mixer made, `in`, for tn_graph_back: in the layer at the end the output rows alone, and
 * the residual's likewise from here on. */
uint32_t tn_graph_narrow(tn_graph *g, const tn_graph_layer *l, uint32_t in, uint32_t width);
/* Where what a rank adds to the residual goes: x itself when it is alone. */
uint32_t tn_graph_target(tn_graph *g);
/* x += the sum of all ranks' parts; nothing to do for one alone. */
void tn_graph_join(tn_graph *g, const tn_graph_layer *l, const char *op);
/* out = norm(in) over the model's width, with the vector NAME. */
void tn_graph_norm_named(tn_graph *g, uint32_t in, uint32_t out, const char *name,
                         const char *op);
/* out = norm(in) with the vector PATH.NAME.weight. */
void tn_graph_norm(tn_graph *g, const tn_graph_layer *l, const char *name, uint32_t in,
                   uint32_t out, const char *op);
/* The buffer at *slot, made now if it is missing. */
uint32_t tn_graph_buffer(tn_graph *g, uint32_t *slot, uint32_t width, uint32_t dtype,
                         const char *name);

#endif

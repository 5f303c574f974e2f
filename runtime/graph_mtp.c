/* SPDX-License-Identifier: Apache-2.0 */
/* graph_mtp.c - the section that drafts: the checkpoint's own multi-token prediction module.
 *
 *     x = fc(norm(embed(token at p + 1)) | norm(last at p))
 *     x through one layer of attention and experts, at position p, with a cache of its own
 *     last = norm(x);  logits = head(last) predict the token at p + 2
 *
 * `last` holds the model's normed rows of the step before, row by row, and afterwards the
 * module's own: so the section is run again for each further draft. Source: transformers' and
 * vLLM's qwen3_next_mtp. */
#include "graph.h"

/* A quantized mtp.fc has other tensors, of whatever names; the norm before it is always plain. */
bool tn_graph_can_draft(const tn_view *view)
{
    tn_tensor t;
    return view->find(view, "mtp.fc.weight", &t) != 0 ||
           view->find(view, "mtp.pre_fc_norm_hidden.weight", &t) != 0;
}

void tn_graph_draft(tn_graph *g)
{
    tn_draft *d = g->d;
    uint32_t hidden = g->c->hidden;
    uint32_t e = tn_draft_buffer(d, TN_ROWS_TOKENS, hidden, g->act_dtype, "mtp_embed");
    uint32_t hh = tn_draft_buffer(d, TN_ROWS_TOKENS, hidden, g->act_dtype, "mtp_last");
    uint32_t both = tn_draft_buffer(d, TN_ROWS_TOKENS, 2 * hidden, g->act_dtype, "mtp_both");
    tn_graph_embed(g, "mtp.embed");
    tn_graph_norm_named(g, g->x, e, "mtp.pre_fc_norm_embedding.weight", "mtp.norm_embed");
    tn_graph_norm_named(g, g->last, hh, "mtp.pre_fc_norm_hidden.weight", "mtp.norm_last");
    tn_op_concat concat = {.size = sizeof concat, .a = e, .a_width = hidden, .b = hh,
                           .b_width = hidden, .out = both};
    tn_draft_op(d, TN_OP_CONCAT, TN_NONE, &concat, "mtp.concat");
    tn_op_linear fc = {.size = sizeof fc, .in = both, .nparts = 1};
    fc.part[0] = (tn_part){.bias = TN_NONE, .out = g->x};
    fc.part[0].w = tn_draft_matrix(d, TN_ROLE_DENSE, hidden, 2 * (uint64_t)hidden, "mtp.fc");
    tn_draft_op(d, TN_OP_LINEAR, TN_NONE, &fc, "mtp.fc");
    tn_graph_layer l = {.path = "mtp.layers.0", .label = "mtp", .index = TN_NONE,
                        .mixer = TN_MIXER_ATTENTION,
                        .mlp = g->c->moe.nexpert > 0 ? TN_MLP_EXPERTS : TN_MLP_DENSE};
    tn_graph_layer_add(g, &l);
    tn_graph_norm_named(g, g->x, g->last, "mtp.norm.weight", "mtp.norm");
    tn_op_pick pick = {.size = sizeof pick, .in = g->last, .out = g->h_out, .width = hidden};
    tn_draft_op(d, TN_OP_PICK, TN_NONE, &pick, "mtp.pick");
    tn_graph_head(g);
    tn_draft_section(d, "draft");
}

/* SPDX-License-Identifier: Apache-2.0 */
/* cuplan.c - from a recipe to a plan: what each weight becomes, where each buffer lies, what all
 * of it takes. Refuses by name what the kernels do not know. */
#include "cuprogram.h"

#include <stdarg.h>

#define ROWS_MAX 65535u          /* rows of a step: one block each in some grids */
#define DIM_MAX 1024u
#define USUAL_EXTRA (1u << 18)   /* words of histories and biases that go with a parcel */

/* ----------------------------------------------------------------- reading the recipe */

/* Arrays of structs step by the size of their first element, which may be longer than ours. */
static const void *element(const void *array, uint32_t i)
{
    uint32_t size;
    memcpy(&size, array, sizeof size);
    return (const uint8_t *)array + (uint64_t)i * size;
}

static void copy_sized(void *to, const void *from, uint32_t size)
{
    uint32_t have;
    memcpy(&have, from, sizeof have);
    memset(to, 0, size);
    memcpy(to, from, have < size ? have : size);
}

static const char *name_or(const char *name)
{
    return name != NULL ? name : "?";
}

const tn_op *cu_op(const cu_program *p, uint32_t i)
{
    return element(p->recipe->op, i);
}

const tn_rope *cu_rope(const cu_program *p, uint32_t i)
{
    return element(p->recipe->rope, i);
}

const tn_cache_spec *cu_cache_spec(const cu_program *p, uint32_t i)
{
    return element(p->recipe->cache, i);
}

const tn_state_spec *cu_state_spec(const cu_program *p, uint32_t i)
{
    return element(p->recipe->state, i);
}

uint64_t cu_rows_max(const cu_program *p, uint32_t rows)
{
    return rows == TN_ROWS_TOKENS ? p->lim.rows_max : rows == TN_ROWS_OUTS ? p->lim.outs_max
                                                                          : p->lim.seqs_max;
}

uint32_t cu_rows_index(uint32_t rows)
{
    return rows == TN_ROWS_TOKENS ? GPU_TOKENS : rows == TN_ROWS_OUTS ? GPU_OUTS : GPU_SEQS;
}

gpu_span cu_span(const cu_program *p, uint32_t buffer, uint32_t col)
{
    const cu_buffer *b = &p->buffer[buffer];
    uint8_t *data = p->work.data + b->at + (uint64_t)col * b->elem;
    return (gpu_span){.data = data, .stride = b->stride, .type = b->type};
}

static tn_status bad(const cu_program *p, tn_status st, tn_err *err, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static tn_status bad(const cu_program *p, tn_status st, tn_err *err, const char *fmt, ...)
{
    char text[640];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return tn_fail(err, st, "cuda: recipe %s: %s", p->name, text);
}

/* -------------------------------------------------------------------------------- weights */

static bool is_plain(uint32_t form)
{
    return form == TN_FORM_F32 || form == TN_FORM_F16 || form == TN_FORM_BF16;
}

/* What the spec becomes on the card; no places yet. */
static void plan_matrix(const tn_weight_spec *s, bool pairs, gpu_matrix *m)
{
    const tn_form *f = &s->form;
    uint64_t cols = is_plain(f->kind) ? s->k : f->cols;
    bool whole = !is_plain(f->kind) && f->group >= f->cols;
    bool coded = !is_plain(f->kind) && (whole || f->group % 32 == 0);
    *m = (gpu_matrix){.n = (uint32_t)s->n, .k = (uint32_t)s->k, .nexpert = s->nexpert,
                      .pairs = pairs, .cols = (uint32_t)cu_round(cols, 64)};
    m->form = coded ? f->kind : s->requant == TN_FORM_W8G && is_plain(f->kind) ? TN_FORM_W8G
                                                                              : TN_FORM_F16;
    m->group = m->form == TN_FORM_F16 ? 0 : !coded ? 32 : whole ? m->cols : f->group;
    m->ntile = pairs ? (m->n / 2 + 7) / 8 : (m->n + 15) / 16;
    uint32_t ngroup = m->group == 0 ? 0 : (m->cols + m->group - 1) / m->group;
    m->nquad = (ngroup + 3) / 4;
    m->codes_size = (uint64_t)m->ntile * m->cols *
                    (m->form == TN_FORM_W4G ? 8 : m->form == TN_FORM_W8G ? 16 : 32);
    m->scale_size = (uint64_t)m->ntile * m->nquad * 128;
    m->zero_size = coded && (f->flags & TN_FORM_ZEROS) != 0 ? m->scale_size / 2 : 0;
}

static uint64_t matrix_bytes(const cu_weight *w)
{
    const gpu_matrix *m = &w->m;
    uint64_t perm = (w->spec.form.flags & TN_FORM_PERM) != 0 ? (uint64_t)m->cols * 4 : 0;
    return m->nexpert * (cu_round(m->codes_size, 256) + cu_round(m->scale_size, 256) +
                         cu_round(m->zero_size, 256) + perm) + 256;
}

static tn_status check_weight(const cu_program *p, uint32_t i, const tn_weight_spec *s,
                              tn_err *err)
{
    if (s->n < 1 || s->k < 1 || s->n > INT32_MAX || s->k > INT32_MAX || s->nexpert < 1)
        return bad(p, TN_INTERNAL, err, "weight %u %s: %u matrices of %llu x %llu", i, s->name,
                   s->nexpert, (unsigned long long)s->n, (unsigned long long)s->k);
    if (s->form.kind == TN_FORM_PRIVATE)
        return bad(p, TN_UNSUPPORTED, err, "weight %s has a private form; this device knows f32, "
                   "f16, bf16, w4g and w8g", s->name);
    if (s->form.kind < TN_FORM_F32 || s->form.kind > TN_FORM_W8G)
        return bad(p, TN_UNSUPPORTED, err, "weight %s: form %u is not known", s->name,
                   s->form.kind);
    if (s->role == TN_ROLE_VECTOR && !is_plain(s->form.kind))
        return bad(p, TN_UNSUPPORTED, err, "weight %s: a vector needs a plain form", s->name);
    if (!is_plain(s->form.kind) && (s->form.group < 1 || s->form.cols < s->k ||
                                    s->form.cols % s->form.group != 0))
        return bad(p, TN_INTERNAL, err, "weight %s: %llu columns in groups of %u", s->name,
                   (unsigned long long)s->form.cols, s->form.group);
    if (s->place != TN_PLACE_DEVICE && (s->place != TN_PLACE_HOST || s->role != TN_ROLE_EXPERTS))
        return bad(p, TN_UNSUPPORTED, err, "weight %s is to stay %s; this device keeps experts on "
                   "the card or in the host's memory (experts = host), all else on the card",
                   s->name, s->place == TN_PLACE_MAPPED ? "in its file" : "outside the card");
    return TN_OK;
}

static tn_status take_weights(cu_program *p, tn_err *err)
{
    const tn_recipe *r = p->recipe;
    p->weight = cu_take(p, r->nweight + 1, sizeof *p->weight);
    if (p->weight == NULL)
        return bad(p, TN_NO_MEMORY, err, "no memory for %u weights", r->nweight);
    for (uint32_t i = 0; i < r->nweight; i++) {
        cu_weight *w = &p->weight[i];
        copy_sized(&w->spec, element(r->weight, i), sizeof w->spec);
        w->spec.name = name_or(w->spec.name);
        tn_status st = check_weight(p, i, &w->spec, err);
        if (st != TN_OK)
            return st;
        w->into = i;
        if (w->spec.role != TN_ROLE_VECTOR)
            plan_matrix(&w->spec, false, &w->m);
    }
    p->nweight = r->nweight;
    return TN_OK;
}

/* Gate and up of every LINEAR that does its ACT_MUL, and stacks of experts, become pairs. */
static void pair_up(cu_program *p)
{
    for (uint32_t s = 0; s < p->nsection; s++)
        for (uint32_t i = p->section[s].op0; i < p->section[s].op0 + p->section[s].nop; i++) {
            const tn_op *op = cu_op(p, i);
            uint32_t gate, up;
            if (op->kind == TN_OP_EXPERTS) {
                cu_weight *w = &p->weight[((const tn_op_experts *)op->args)->w_up];
                plan_matrix(&w->spec, true, &w->m);
            } else if (cu_is_pair(p, p->section[s].op0 + p->section[s].nop, i, &gate, &up)) {
                tn_weight_spec both = p->weight[gate].spec;
                if (gate != up) {
                    both.n *= 2;
                    p->weight[gate].half = 1;
                    p->weight[up].half = 2;
                    p->weight[up].into = gate;
                }
                plan_matrix(&both, true, &p->weight[gate].m);
            }
        }
}

static void place_weights(cu_program *p)
{
    for (uint32_t i = 0; i < p->nweight; i++) {
        cu_weight *w = &p->weight[i];
        w->at = p->weight_size;
        w->host = w->spec.place == TN_PLACE_HOST;
        if (w->spec.role == TN_ROLE_VECTOR)
            w->size = w->spec.n * w->spec.k * w->spec.nexpert * sizeof(float);
        else
            w->size = w->into == i ? matrix_bytes(w) : 0;
        *(w->host ? &p->host_size : &p->weight_size) += cu_round(w->size, 256);
    }
}

/* -------------------------------------------------------------------------------- buffers */

static uint64_t place(cu_program *p, uint64_t bytes)
{
    uint64_t at = p->work_size;
    p->work_size += cu_round(bytes, 256);
    return at;
}

static tn_status take_buffers(cu_program *p, tn_err *err)
{
    const tn_recipe *r = p->recipe;
    p->buffer = cu_take(p, r->nbuffer + 1, sizeof *p->buffer);
    if (p->buffer == NULL)
        return bad(p, TN_NO_MEMORY, err, "no memory for %u buffers", r->nbuffer);
    for (uint32_t i = 0; i < r->nbuffer; i++) {
        tn_buffer b;
        copy_sized(&b, element(r->buffer, i), sizeof b);
        if (b.rows < TN_ROWS_TOKENS || b.rows > TN_ROWS_SEQS || b.width < 1 ||
            b.width > (1u << 28))
            return bad(p, TN_INTERNAL, err, "buffer %u %s: rows of kind %u, %u wide", i,
                       name_or(b.name), b.rows, b.width);
        cu_buffer *to = &p->buffer[i];
        *to = (cu_buffer){.rows = b.rows, .width = b.width, .name = name_or(b.name),
                          .stride = (uint32_t)cu_round(b.width, 64)};
        to->type = b.dtype == TN_F32 || b.dtype == TN_I32 ? b.dtype : TN_F16;
        to->elem = to->type == TN_F16 ? 2 : 4;
        to->at = place(p, cu_rows_max(p, b.rows) * to->stride * to->elem);
    }
    p->nbuffer = r->nbuffer;
    return TN_OK;
}

/* Rotary tables of the step's rows, the arrays of the step, results. */
static void place_step(cu_program *p)
{
    const tn_limits *l = &p->lim;
    uint64_t vocab = 0;
    for (uint32_t i = 0; i < p->nsection; i++)
        vocab = p->section[i].vocab > vocab ? p->section[i].vocab : vocab;
    uint64_t bias = vocab < 2048 ? 2 * vocab : 2 * 2048;
    p->extra_words = (uint64_t)l->outs_max * (l->context_max + vocab / 32 + 64 + bias) + 2 * vocab;
    for (uint32_t i = 0; i < p->nrope; i++) {
        p->rope_at[i] = place(p, (uint64_t)l->rows_max * cu_rope(p, i)->dims * sizeof(float));
        p->freq_at[i] = place(p, cu_rope(p, i)->dims / 2 * sizeof(double));
    }
    uint64_t usual = l->outs_max * (vocab / 32 + 64) + USUAL_EXTRA;
    uint64_t arrays = (uint64_t)l->rows_max * 12 + (uint64_t)l->seqs_max * sizeof(tn_seq) +
                      (uint64_t)l->blocks_max * 4 + (uint64_t)l->outs_max * sizeof(gpu_out);
    p->parcel_size = cu_round(sizeof(gpu_parcel), 64) + 1024 + arrays +
                     4 * (usual < p->extra_words ? usual : p->extra_words);
    p->step_at = place(p, p->parcel_size + arrays + p->extra_words * 4 + cu_bad_size(p) + 4096 +
                              (uint64_t)l->outs_max * 64 + (uint64_t)l->outs_max * l->top_max * 8);
}

/* --------------------------------------------------------------------------------- limits */

static tn_status take_limits(cu_program *p, const tn_limits *l, tn_err *err)
{
    copy_sized(&p->lim, l, sizeof p->lim);
    tn_limits *m = &p->lim;
    m->nrank = m->nrank > 0 ? m->nrank : 1;
    if (m->exact != 0)
        return tn_fail(err, TN_UNSUPPORTED, "cuda: exact mode (fp32 activations) is the cpu "
                       "device's; this device computes in f16 with f32 sums");
    if (m->rows_max < 1 || m->rows_max > ROWS_MAX || m->seqs_max < 1 || m->seqs_max > ROWS_MAX ||
        m->outs_max < 1 || m->outs_max > ROWS_MAX || m->context_max < 1)
        return tn_fail(err, TN_CONFIG, "cuda: %u rows, %u sequences, %u outputs a step; expected 1 "
                       "to %u of each", m->rows_max, m->seqs_max, m->outs_max, ROWS_MAX);
    if (p->recipe->ncache > 0 && (m->block_tokens < 8 || m->block_tokens % 8 != 0 ||
                                  m->block_tokens > 256))
        return tn_fail(err, TN_UNSUPPORTED, "cuda: blocks of %u tokens; expected a multiple of 8 "
                       "from 8 to 256", m->block_tokens);
    tn_status st = cu_ranks_check(m, p->dev->first, err);
    if (st != TN_OK)
        return st;
    m->cache_dtype = m->cache_dtype != 0 ? m->cache_dtype : TN_F16;
    if (m->cache_dtype != TN_F16 && m->cache_dtype != TN_F8_E4M3)
        return tn_fail(err, TN_UNSUPPORTED, "cuda: kv_cache_dtype: %s is not offered; expected "
                       "float16, fp8 or auto", m->cache_dtype == TN_BF16 ? "bfloat16"
                       : m->cache_dtype == TN_F32 ? "float32" : "this type");
    return TN_OK;
}

static tn_status take_sections(cu_program *p, tn_err *err)
{
    const tn_recipe *r = p->recipe;
    p->section = cu_take(p, r->nsection + 1, sizeof *p->section);
    p->rope_at = cu_take(p, r->nrope + 1, sizeof *p->rope_at);
    p->freq_at = cu_take(p, r->nrope + 1, sizeof *p->freq_at);
    p->cache_at = cu_take(p, r->ncache + 1, sizeof *p->cache_at);
    p->state_at = cu_take(p, r->nstate + 1, sizeof *p->state_at);
    if (p->section == NULL || p->rope_at == NULL || p->freq_at == NULL || p->cache_at == NULL ||
        p->state_at == NULL)
        return bad(p, TN_NO_MEMORY, err, "no memory for sections");
    p->nop = r->nop;
    p->nrope = r->nrope;
    p->ncache = r->ncache;
    p->nstate = r->nstate;
    for (uint32_t i = 0; i < r->nsection; i++) {
        tn_section s;
        copy_sized(&s, element(r->section, i), sizeof s);
        if (s.nop < 1 || (uint64_t)s.op0 + s.nop > r->nop)
            return bad(p, TN_INTERNAL, err, "section %u: operations %u + %u of %u", i, s.op0, s.nop,
                       r->nop);
        p->section[i] = (cu_section){.op0 = s.op0, .nop = s.nop};
        for (uint32_t j = s.op0; j < s.op0 + s.nop; j++)
            if (cu_op(p, j)->kind == TN_OP_SAMPLE && cu_op(p, j)->args != NULL)
                p->section[i].vocab = ((const tn_op_sample *)cu_op(p, j)->args)->vocab;
    }
    p->nsection = r->nsection;
    return TN_OK;
}

/* What looking ahead relies on: arguments, parts, weights that are there. */
static tn_status check_ops(const cu_program *p, tn_err *err)
{
    for (uint32_t i = 0; i < p->nop; i++) {
        const tn_op *op = cu_op(p, i);
        const tn_op_linear *l = op->args;
        const tn_op_experts *e = op->args;
        bool sound = op->args != NULL;
        for (uint32_t j = 0; sound && op->kind == TN_OP_LINEAR && j < l->nparts; j++)
            sound = l->nparts <= TN_LINEAR_PARTS && l->part[j].w < p->nweight;
        if (sound && op->kind == TN_OP_EXPERTS)
            sound = e->w_up < p->nweight && e->w_down < p->nweight;
        if (!sound)
            return bad(p, TN_INTERNAL, err, "operation %u %s: impossible arguments", i,
                       name_or(op->name));
    }
    return TN_OK;
}

static tn_status check_specs(const cu_program *p, tn_err *err)
{
    for (uint32_t i = 0; i < p->ncache; i++) {
        const tn_cache_spec *c = cu_cache_spec(p, i);
        if (c->heads < 1 || c->k_dim < 8 || c->k_dim > DIM_MAX || c->k_dim % 8 != 0 ||
            c->v_dim != c->k_dim)
            return bad(p, TN_UNSUPPORTED, err, "cache %u: %u heads of %u and %u dims; expected equal "
                       "multiples of 8 up to %u", i, c->heads, c->k_dim, c->v_dim, DIM_MAX);
    }
    for (uint32_t i = 0; i < p->nrope; i++)
        if (cu_rope(p, i)->dims < 2 || cu_rope(p, i)->dims % 2 != 0 ||
            cu_rope(p, i)->dims > DIM_MAX || cu_rope(p, i)->inv_freq == NULL)
            return bad(p, TN_INTERNAL, err, "rotary table %u: %u dims", i, cu_rope(p, i)->dims);
    return TN_OK;
}

tn_status cu_program_open(cu_dev *dev, const tn_recipe *r, const tn_limits *l, cu_program **out,
                          tn_need *need, tn_err *err)
{
    if (r == NULL || r->size < sizeof *r || l == NULL)
        return tn_fail(err, TN_INTERNAL, "cuda: recipe or limits are missing or too short");
    cu_program *p = dev->host->alloc(dev->host->ctx, sizeof *p);
    if (p == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cuda: no memory for a program");
    memset(p, 0, sizeof *p);
    p->dev = dev;
    p->recipe = r;
    p->name = name_or(r->name);
    tn_status st = take_limits(p, l, err);
    if (st == TN_OK)
        st = take_sections(p, err);
    if (st == TN_OK)
        st = check_specs(p, err);
    if (st == TN_OK)
        st = take_buffers(p, err);
    if (st == TN_OK)
        st = take_weights(p, err);
    if (st == TN_OK)
        st = check_ops(p, err);
    if (st == TN_OK)
        st = cu_bad_open(p, err);
    if (st == TN_OK) {
        pair_up(p);
        place_weights(p);
        st = cu_lower(p, true, err);
    }
    if (st != TN_OK) {
        cu_release(p);
        return st;
    }
    place_step(p);
    p->act_at = place(p, p->act_size);
    p->attend_at = place(p, p->attend_size);
    p->delta_at = place(p, p->delta_size);
    p->sample_at = place(p, p->sample_size);
    p->meet_at = place(p, p->meet_size);
    p->gather_at = place(p, p->gather_size);
    for (uint32_t i = 0; i < CU_EXPERT_PARTS; i++)
        p->experts_at[i] = place(p, p->experts_size[i]);
    cu_plan_packing(p);
    p->work_size = p->work_size + 256 > cu_stages_size(p) ? p->work_size + 256 : cu_stages_size(p);
    if (need != NULL)
        *need = (tn_need){.size = sizeof *need, .cache_dtype = p->lim.cache_dtype,
                          .weight_bytes = p->weight_size, .workspace_bytes = p->work_size,
                          .block_bytes = cu_block_bytes(p), .slot_bytes = cu_slot_bytes(p),
                          .host_bytes = 2 * p->parcel_size + cu_stages_size(p) + p->host_size};
    *out = p;
    return TN_OK;
}

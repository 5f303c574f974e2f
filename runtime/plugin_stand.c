/* SPDX-License-Identifier: Apache-2.0 */
/* plugin_stand.c - a device on the test stand. */
#include "plugin_stand.h"

#include <math.h>
#include <stdlib.h>

#define SEQS 3u
#define STEPS 5u
#define BLOCKS 24u
#define SLOTS 12u
#define SEQ_BLOCKS 4u

/* Rows of each sequence in each step: first prompts, then single tokens and a late prompt. */
static const int32_t script[STEPS][SEQS] = {
    {5, 1, 0}, {1, 17, 3}, {1, 1, 1}, {19, 1, 1}, {1, 1, 1},
};

/* ------------------------------------------------------------------------------- building */

uint32_t tn_stand_begin(tn_stand *s, uint64_t seed, uint32_t width)
{
    tn_lab_open(&s->lab, seed);
    s->program = NULL;
    s->number = 1;
    s->compared = 0;
    s->logits = TN_NONE;
    s->tolerance = s->exact ? 4e-4 : 2.5e-2;
    s->lab.recipe.vocab = TN_STAND_VOCAB;
    uint32_t w = tn_lab_weight_of(&s->lab, TN_ROLE_EMBED, 1, TN_STAND_VOCAB, width,
                                  (tn_lab_form){.kind = TN_FORM_F32});
    uint32_t x = tn_lab_buffer(&s->lab, TN_ROWS_TOKENS, width, TN_F32);
    tn_lab_op(&s->lab, TN_OP_EMBED, "embed")->embed =
        (tn_op_embed){.size = sizeof(tn_op_embed), .w = w, .out = x, .scale = 1};
    return x;
}

static void add_tail(tn_stand *s, uint32_t y, float softcap, uint32_t valid)
{
    tn_lab *l = &s->lab;
    uint32_t width = l->buffer[y].width;
    if (s->tail == TN_TAIL_NONE)
        return;
    uint32_t h = tn_lab_buffer(l, TN_ROWS_OUTS, width, TN_F32);
    tn_lab_op(l, TN_OP_PICK, "pick")->pick =
        (tn_op_pick){.size = sizeof(tn_op_pick), .in = y, .out = h, .width = width};
    uint32_t head = tn_lab_weight_of(l, TN_ROLE_HEAD, 1, TN_STAND_VOCAB, width,
                                     (tn_lab_form){.kind = TN_FORM_F16});
    s->logits = tn_lab_buffer(l, TN_ROWS_OUTS, TN_STAND_VOCAB, TN_F32);
    tn_lab_op(l, TN_OP_LINEAR, "head")->linear = (tn_op_linear){
        .size = sizeof(tn_op_linear), .in = h, .nparts = 1,
        .part = {{.w = head, .bias = TN_NONE, .out = s->logits}}};
    if (s->tail == TN_TAIL_LOGITS)
        tn_lab_op(l, TN_OP_LOGITS, "logits")->logits = (tn_op_logits){
            .size = sizeof(tn_op_logits), .x = s->logits, .vocab = TN_STAND_VOCAB,
            .valid = valid, .softcap = softcap};
    tn_lab_op(l, TN_OP_SAMPLE, "sample")->sample = (tn_op_sample){
        .size = sizeof(tn_op_sample), .x = s->logits, .vocab = TN_STAND_VOCAB};
}

static uint32_t act_dtype(const tn_stand *s)
{
    static const uint32_t order[] = {TN_F16, TN_BF16, TN_F32};
    for (size_t i = 0; !s->exact && i < 3; i++)
        if (s->info.act_dtypes >> order[i] & 1u)
            return order[i];
    return TN_F32;
}

static tn_status compile(tn_stand *s, tn_need *need, tn_err *err)
{
    tn_limits m = {.size = sizeof m, .rows_max = TN_STAND_ROWS, .seqs_max = SEQS + 1,
                   .outs_max = TN_STAND_OUTS, .blocks_max = BLOCKS, .context_max = 64,
                   .top_max = TN_STAND_TOP, .exact = s->exact, .profile = 1, .nrank = 1};
    uint32_t sizes[] = {16, s->info.block_tokens};
    tn_status st = TN_INTERNAL;
    s->lab.recipe.act_dtype = act_dtype(s);
    for (size_t i = 0; st != TN_OK && i < 2; i++) {
        if (sizes[i] == 0 || (i == 1 && sizes[1] == sizes[0]))
            continue;
        s->block_tokens = m.block_tokens = sizes[i];
        *need = (tn_need){.size = sizeof *need};
        st = s->d->compile(s->dev, tn_lab_recipe(&s->lab), &m, &s->program, need, err);
    }
    return st;
}

static tn_status pack(tn_stand *s, tn_err *err)
{
    tn_status st = TN_OK;
    for (uint32_t w = 0; st == TN_OK && w < s->lab.recipe.nweight; w++) {
        tn_lab_reader r;
        tn_lab_read(&s->lab, w, &r);
        st = s->d->pack(s->program, w, &r.reader, err);
    }
    return st;
}

tn_status tn_stand_up(tn_stand *s, uint32_t y, float softcap, uint32_t valid, tn_err *err)
{
    tn_need need;
    const tn_pools pools = {.size = sizeof pools, .nblock = BLOCKS, .nslot = SLOTS};
    add_tail(s, y, softcap, valid);
    if (s->lab.failed)
        return tn_fail(err, TN_OS, "the checker has no memory or room for this recipe");
    for (uint32_t i = 0; i < s->lab.recipe.nweight; i++)
        if (s->lab.weight[i].form.group != 0 && !s->exact)
            s->tolerance = 7e-2; /* activations may be rounded to 8 bits for coded weights */
    tn_status st = compile(s, &need, err);
    if (st != TN_OK) {
        s->program = NULL;
        return st;
    }
    if (!tn_lab_reserve(&s->lab, TN_STAND_ROWS, s->block_tokens, BLOCKS, SLOTS))
        return tn_fail(err, TN_OS, "out of memory");
    st = s->d->reserve(s->program, &pools, err);
    return st == TN_OK ? pack(s, err) : st;
}

void tn_stand_down(tn_stand *s)
{
    if (s->program != NULL)
        s->d->release(s->program);
    s->program = NULL;
    tn_lab_close(&s->lab);
}

/* ------------------------------------------------------------------------------ comparing */

static bool is_padding(const tn_stand *s, const tn_step *step, uint32_t buffer, uint32_t row)
{
    return s->lab.buffer[buffer].rows == TN_ROWS_TOKENS && step->row_seq[row] < 0;
}

static tn_status compare_rows(tn_stand *s, const tn_step *step, uint32_t b, const float *found,
                              tn_err *err)
{
    const tn_buffer *buffer = &s->lab.buffer[b];
    uint32_t rows = tn_lab_rows(&s->lab, step, b);
    double most = 0;
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; !is_padding(s, step, b, r) && c < buffer->width; c++)
            most = fmax(most, fabs(tn_lab_row(&s->lab, b, r)[c]));
    double limit = buffer->dtype == TN_I32 ? 0 : s->tolerance * (most + 0.05);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; !is_padding(s, step, b, r) && c < buffer->width; c++) {
            double want = tn_lab_row(&s->lab, b, r)[c];
            double got = (double)found[(size_t)r * buffer->width + c];
            s->compared++;
            if (!(fabs(got - want) <= limit) && !(isinf(got) && b == s->logits))
                return tn_fail(err, TN_INTERNAL, "step %llu, buffer %s, row %u, column %u: %g; "
                               "expected %g within %.2g", (unsigned long long)step->number,
                               buffer->name, r, c, got, want, limit);
        }
    return TN_OK;
}

static tn_status compare_buffers(tn_stand *s, const tn_step *step, tn_err *err)
{
    tn_status st = TN_OK;
    for (uint32_t b = 0; s->d->peek != NULL && st == TN_OK && b < s->lab.recipe.nbuffer; b++) {
        uint32_t rows = tn_lab_rows(&s->lab, step, b);
        float *found = malloc(((size_t)rows * s->lab.buffer[b].width + 1) * sizeof *found);
        tn_err why;
        if (found == NULL)
            return tn_fail(err, TN_OS, "out of memory");
        if (b != s->logits && rows > 0
            && s->d->peek(s->program, b, 0, rows, found, &why) == TN_OK)
            st = compare_rows(s, step, b, found, err);
        free(found);
    }
    return st;
}

/* The reference's log-probability of a token for output o. */
static double reference_logprob(const tn_stand *s, uint32_t o, int32_t token)
{
    const double *x = tn_lab_row(&s->lab, s->logits, o);
    double most = -INFINITY, sum = 0;
    for (uint32_t v = 0; v < TN_STAND_VOCAB; v++)
        most = fmax(most, x[v]);
    for (uint32_t v = 0; v < TN_STAND_VOCAB; v++)
        sum += exp(x[v] - most);
    return x[token] - most - log(sum);
}

static double best_logit(const tn_stand *s, uint32_t o)
{
    const double *x = tn_lab_row(&s->lab, s->logits, o);
    double best = x[0];
    for (uint32_t v = 1; v < TN_STAND_VOCAB; v++)
        best = fmax(best, x[v]);
    return best;
}

/* Greedy rows: the token is the best, its log-probability and the top list are right. */
static tn_status compare_output(tn_stand *s, const tn_step *step, uint32_t o, tn_err *err)
{
    const tn_result *r = &s->results->result[o];
    double limit = s->tolerance * 6;
    if (r->token < 0 || r->token >= (int32_t)TN_STAND_VOCAB)
        return tn_fail(err, TN_INTERNAL, "step %llu, output %u: token %d; expected 0 to %u",
                       (unsigned long long)step->number, o, r->token, TN_STAND_VOCAB - 1);
    double short_of = best_logit(s, o) - tn_lab_row(&s->lab, s->logits, o)[r->token];
    double off = fabs((double)r->logprob - reference_logprob(s, o, r->token));
    s->compared += 2;
    if (!(short_of <= limit))
        return tn_fail(err, TN_INTERNAL, "step %llu, output %u: greedy token %d is %.3g short of "
                       "the best logit", (unsigned long long)step->number, o, r->token, short_of);
    if (!(off <= limit))
        return tn_fail(err, TN_INTERNAL, "step %llu, output %u: log-probability %g of token %d; "
                       "expected %g within %.2g", (unsigned long long)step->number, o,
                       (double)r->logprob, r->token, reference_logprob(s, o, r->token), limit);
    for (uint32_t i = 0; i < r->ntop; i++) {
        int32_t t = s->results->top_token[(size_t)o * s->results->top_stride + i];
        double p = (double)s->results->top_logprob[(size_t)o * s->results->top_stride + i];
        if (t < 0 || t >= (int32_t)TN_STAND_VOCAB
            || !(fabs(p - reference_logprob(s, o, t)) <= limit))
            return tn_fail(err, TN_INTERNAL, "step %llu, output %u: top entry %u is token %d with "
                           "%g, which is not its log-probability",
                           (unsigned long long)step->number, o, i, t, p);
        s->compared++;
    }
    return TN_OK;
}

static tn_status wait_for(tn_stand *s, uint64_t number, tn_err *err)
{
    tn_status st = s->d->wait(s->program, number, 0, &s->results, err);
    if (st != TN_OK)
        return st;
    if (s->results == NULL || (s->tail != TN_TAIL_NONE && s->results->result == NULL))
        return tn_fail(err, TN_INTERNAL, "wait gave no results for step %llu",
                       (unsigned long long)number);
    return TN_OK;
}

tn_status tn_stand_step(tn_stand *s, tn_step *step, tn_err *err)
{
    step->size = sizeof *step;
    step->number = s->number++;
    s->lab.drawn = s->drawn;
    tn_lab_run(&s->lab, step);
    tn_status st = s->d->run(s->program, step, err);
    if (st == TN_OK)
        st = wait_for(s, step->number, err);
    if (st == TN_OK)
        st = compare_buffers(s, step, err);
    for (uint32_t o = 0; st == TN_OK && s->tail != TN_TAIL_NONE && o < step->nout; o++)
        s->drawn[o] = s->results->result[o].token;
    return st;
}

/* -------------------------------------------------------------------------------- playing */

typedef struct player {
    int32_t context, slot;
    bool begun;
    int32_t block[SEQ_BLOCKS];
    int32_t out;             /* output index in the last step, -1: none */
} player;

/* The arrays of one step. */
typedef struct page {
    tn_step step;
    int32_t token[TN_STAND_ROWS], row_seq[TN_STAND_ROWS], block[BLOCKS];
    tn_seq seq[SEQS];
    tn_out out[TN_STAND_OUTS];
    tn_sampling sampling;
} page;

static void add_rows(tn_stand *s, page *p, const player *a, int32_t nrow)
{
    for (int32_t i = 0; i < nrow; i++) {
        bool fed = nrow == 1 && a->out >= 0 && s->tail != TN_TAIL_NONE;
        p->token[p->step.nrow] = fed ? -1 - a->out
            : (int32_t)(tn_check_random(&s->lab.seed) % TN_STAND_VOCAB);
        p->row_seq[p->step.nrow++] = (int32_t)p->step.nseq;
    }
}

static void add_seq(tn_stand *s, page *p, player *a, int32_t nrow, int32_t slot_out)
{
    tn_seq *q = &p->seq[p->step.nseq];
    *q = (tn_seq){.row0 = (int32_t)p->step.nrow, .nrow = nrow, .context = a->context,
                  .block0 = p->step.nblock, .state_in = -1, .state_out = -1,
                  .flags = a->begun ? 0 : TN_SEQ_FRESH};
    if (s->lab.recipe.nstate > 0) {
        q->state_in = a->slot;
        q->state_out = slot_out;
        a->slot = slot_out;
    }
    add_rows(s, p, a, nrow);
    for (uint32_t b = 0; b < SEQ_BLOCKS; b++)
        p->block[p->step.nblock++] = a->block[b];
    a->out = -1;
    if (nrow > 3)
        p->out[p->step.nout++] = (tn_out){.row = q->row0 + 1, .sampling = &p->sampling};
    a->out = (int32_t)p->step.nout;
    p->out[p->step.nout++] = (tn_out){.row = q->row0 + nrow - 1, .slot = (int32_t)p->step.nseq,
                                      .sampling = &p->sampling};
    a->context += nrow;
    a->begun = true;
    p->step.nseq++;
}

static void open_page(const tn_stand *s, page *p)
{
    memset(p, 0, sizeof *p);
    p->sampling = (tn_sampling){.flags = TN_SAMPLE_GREEDY, .temperature = 1, .top_p = 1,
                                .repetition = 1, .target = -1, .draft = -1,
                                .ntop = s->tail == TN_TAIL_LOGITS ? TN_STAND_TOP : 0};
    p->step = (tn_step){.row_token = p->token, .row_seq = p->row_seq, .seq = p->seq,
                        .out = p->out, .block = p->block};
}

static tn_status play_step(tn_stand *s, player *a, uint32_t n, tn_err *err)
{
    page p;
    open_page(s, &p);
    for (uint32_t q = 0; q < SEQS; q++) {
        int32_t moved = n == 3 ? a[q].slot + (int32_t)SEQS : a[q].slot; /* into another slot */
        if (script[n][q] > 0)
            add_seq(s, &p, &a[q], script[n][q], moved);
    }
    p.token[p.step.nrow] = 0;
    p.row_seq[p.step.nrow++] = -1;
    tn_status st = tn_stand_step(s, &p.step, err);
    for (uint32_t o = 0; st == TN_OK && s->tail != TN_TAIL_NONE && o < p.step.nout; o++)
        st = compare_output(s, &p.step, o, err);
    return st;
}

/* Through host memory, as session files do it. */
static tn_status carry_block(tn_stand *s, int32_t from, int32_t to, tn_err *err)
{
    uint64_t size = s->d->block_size(s->program);
    void *data = malloc((size_t)size + 1);
    if (data == NULL || size == 0 || size > 1u << 28) {
        free(data);
        return tn_fail(err, TN_INTERNAL, "block_size says %llu bytes", (unsigned long long)size);
    }
    tn_status st = s->d->block_read(s->program, from, data, err);
    if (st == TN_OK)
        st = s->d->block_write(s->program, to, data, err);
    free(data);
    return st;
}

static tn_status carry_state(tn_stand *s, int32_t from, int32_t to, tn_err *err)
{
    uint64_t size = s->d->state_size(s->program);
    void *data = malloc((size_t)size + 1);
    if (data == NULL || size == 0 || size > 1u << 28) {
        free(data);
        return tn_fail(err, TN_INTERNAL, "state_size says %llu bytes", (unsigned long long)size);
    }
    tn_status st = s->d->state_read(s->program, from, data, err);
    if (st == TN_OK)
        st = s->d->state_write(s->program, to, data, err);
    free(data);
    return st;
}

/* Sequence 0 goes on from a copied block, sequence 1 from one read and written. */
static tn_status move_blocks(tn_stand *s, player *a, tn_err *err)
{
    int32_t spare = (int32_t)(SEQS * SEQ_BLOCKS);
    tn_status st = TN_OK;
    if (s->lab.recipe.ncache == 0)
        return TN_OK;
    if (s->d->block_copy != NULL) {
        st = s->d->block_copy(s->program, a[0].block[0], spare, err);
        tn_lab_copy_block(&s->lab, a[0].block[0], spare);
        a[0].block[0] = spare;
    }
    if (st == TN_OK && s->d->block_read != NULL && s->d->block_write != NULL
        && s->d->block_size != NULL) {
        st = carry_block(s, a[1].block[0], spare + 1, err);
        tn_lab_copy_block(&s->lab, a[1].block[0], spare + 1);
        a[1].block[0] = spare + 1;
    }
    return st;
}

static tn_status move_states(tn_stand *s, player *a, tn_err *err)
{
    int32_t spare = (int32_t)(2 * SEQS);
    tn_status st = TN_OK;
    if (s->lab.recipe.nstate == 0)
        return TN_OK;
    if (s->d->state_copy != NULL) {
        st = s->d->state_copy(s->program, a[0].slot, spare, err);
        tn_lab_copy_state(&s->lab, a[0].slot, spare);
        a[0].slot = spare;
    }
    if (st == TN_OK && s->d->state_read != NULL && s->d->state_write != NULL
        && s->d->state_size != NULL) {
        st = carry_state(s, a[1].slot, spare + 1, err);
        tn_lab_copy_state(&s->lab, a[1].slot, spare + 1);
        a[1].slot = spare + 1;
    }
    return st;
}

tn_status tn_stand_play(tn_stand *s, tn_err *err)
{
    player a[SEQS] = {{.context = 0}};
    tn_status st = TN_OK;
    for (uint32_t q = 0; q < SEQS; q++) {
        a[q].slot = (int32_t)(SEQS - 1 - q);
        a[q].out = -1;
        for (uint32_t b = 0; b < SEQ_BLOCKS; b++) /* interleaved, not one after another */
            a[q].block[b] = (int32_t)(b * SEQS + (q + 1) % SEQS);
    }
    for (uint32_t n = 0; st == TN_OK && n < STEPS; n++) {
        if (n == STEPS - 1) {
            st = move_blocks(s, a, err);
            if (st == TN_OK)
                st = move_states(s, a, err);
        }
        if (st == TN_OK)
            st = play_step(s, a, n, err);
    }
    return st;
}

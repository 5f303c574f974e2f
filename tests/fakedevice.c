/* SPDX-License-Identifier: Apache-2.0 */
/* fakedevice.c - a device for tests whose model is a hash of what it can see. */
#include "fakedevice.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

void fake_defaults(fake_device *d)
{
    memset(d, 0, sizeof *d);
    d->limits = (tn_limits){.size = sizeof d->limits, .rows_max = 48, .seqs_max = 16,
                            .outs_max = 32, .blocks_max = 256, .block_tokens = 4,
                            .context_max = 128, .top_max = 5};
    d->pools = (tn_pools){.size = sizeof d->pools, .nblock = 256, .nslot = 16};
    d->vocab = 97;
    d->step_first = 1;
    d->nan_token = -1;
    d->bug_token = -1;
}

bool fake_open(fake_device *d)
{
    size_t ncell = (size_t)d->pools.nblock * d->limits.block_tokens;
    d->cell = malloc(ncell * sizeof *d->cell);
    d->guess_cell = malloc(ncell * sizeof *d->guess_cell);
    d->state = calloc((size_t)d->pools.nslot + 1, sizeof *d->state);
    d->pending = calloc((size_t)d->pools.nslot + 1, sizeof *d->pending);
    d->npending = calloc((size_t)d->pools.nslot + 1, sizeof *d->npending);
    bool ok = d->cell != NULL && d->state != NULL && d->guess_cell != NULL &&
              d->pending != NULL && d->npending != NULL;
    for (int i = 0; i < 2; i++) {
        size_t n = d->limits.outs_max, ntop = n * d->limits.top_max;
        d->result[i] = calloc(n, sizeof *d->result[i]);
        d->top_token[i] = calloc(ntop + 1, sizeof *d->top_token[i]);
        d->top_logprob[i] = calloc(ntop + 1, sizeof *d->top_logprob[i]);
        ok = ok && d->result[i] != NULL && d->top_token[i] != NULL && d->top_logprob[i] != NULL;
    }
    for (size_t i = 0; ok && i < ncell; i++)
        d->cell[i] = d->guess_cell[i] = -1;
    d->number = d->step_first;
    return ok;
}

void fake_close(fake_device *d)
{
    free(d->cell);
    free(d->guess_cell);
    free(d->state);
    free(d->pending);
    free(d->npending);
    for (int i = 0; i < 2; i++) {
        free(d->result[i]);
        free(d->top_token[i]);
        free(d->top_logprob[i]);
    }
}

/* --------------------------------------------------------------------------- the model */

static uint64_t mix(uint64_t h, uint64_t x)
{
    h ^= x + UINT64_C(0x9e3779b97f4a7c15) + (h << 6) + (h >> 2);
    h *= UINT64_C(0xff51afd7ed558ccd);
    return h ^ (h >> 33);
}

static uint64_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static bool is_forbidden(const tn_sampling *s, int32_t token)
{
    if (s->mask != NULL && (s->mask[token / 32] >> (token % 32) & 1) == 0)
        return true;
    for (uint32_t i = 0; i < s->nbias; i++)
        if (s->bias[i].token == token && isinf(s->bias[i].value))
            return true;
    return false;
}

/* Whatever may steer a draw steers this one, so that a wrong parameter shows too. */
static uint64_t steer(uint64_t h, const tn_sampling *s)
{
    if (s->flags & TN_SAMPLE_GREEDY)
        h = mix(h, 1);
    else
        h = mix(mix(mix(mix(h, s->seed), s->draw), bits_of(s->temperature)),
                bits_of(s->top_p) ^ bits_of(s->min_p) << 32 ^ (uint64_t)(uint32_t)s->top_k);
    if (s->history != NULL)
        h = mix(mix(h, bits_of(s->repetition) ^ bits_of(s->frequency) << 32),
                bits_of(s->presence) ^ (uint64_t)s->nprompt << 32);
    for (uint32_t i = 0; i < s->nbias; i++)
        if (!isinf(s->bias[i].value))
            h = mix(h, (uint64_t)s->bias[i].token << 32 ^ bits_of(s->bias[i].value));
    return h;
}

static tn_result result_of(const fake_device *d, uint64_t h, bool nan, bool bug,
                           const tn_sampling *s, int32_t *top_token, float *top_logprob)
{
    tn_result r = {.token = -1};
    if (nan) {
        r.flags = TN_RESULT_NONFINITE;
        return r;
    }
    if (s->flags & TN_SAMPLE_SCORE) {
        r.token = s->target;
    } else {
        r.token = (int32_t)(steer(h, s) % d->vocab);
        for (uint32_t i = 0; i < d->vocab && is_forbidden(s, r.token); i++)
            r.token = (int32_t)(((uint32_t)r.token + 1) % d->vocab);
    }
    uint64_t raw = mix(h, (uint64_t)r.token);
    r.logprob = -(float)(raw % 4096) / 256;
    r.rank = s->ntop > 0 || (s->flags & TN_SAMPLE_SCORE) ? (int32_t)(raw % d->vocab) + 1 : 0;
    r.ntop = s->ntop;
    for (uint32_t i = 0; i < s->ntop && top_token != NULL; i++) {
        top_token[i] = (int32_t)((h + 31 * i) % d->vocab);
        top_logprob[i] = -(float)i - (float)(h % 64) / 64;
    }
    if (bug)
        r.token = -7;
    return r;
}

typedef struct sight {
    uint64_t h;
    bool nan, bug;
} sight;

static void see(const fake_device *d, sight *v, int32_t id)
{
    v->h = mix(v->h, (uint64_t)(uint32_t)id);
    v->nan = v->nan || id == d->nan_token;
    v->bug = v->bug || id == d->bug_token;
}

static uint64_t state_next(uint64_t state, int32_t id)
{
    return mix(state, (uint64_t)(uint32_t)id * 7 + 1);
}

tn_result fake_next(const fake_device *d, const int32_t *ids, uint32_t n, const tn_sampling *s,
                    int32_t *top_token, float *top_logprob)
{
    sight v = {0};
    uint64_t state = 0;
    for (uint32_t i = 0; i < n; i++) {
        see(d, &v, ids[i]);
        state = state_next(state, ids[i]);
    }
    if (d->has_states)
        v.h = mix(v.h, state);
    return result_of(d, v.h, v.nan, v.bug, s, top_token, top_logprob);
}

/* ------------------------------------------------------------------------ the contract */

#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
static bool must(fake_device *d, bool ok, const char *fmt, ...)
{
    if (ok)
        return true;
    if (atomic_fetch_add(&d->nbreach, 1) == 0) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(d->breach, sizeof d->breach, fmt, ap);
        va_end(ap);
    }
    return false;
}

static void most(_Atomic uint32_t *seen, uint32_t n)
{
    if (n > atomic_load(seen))
        atomic_store(seen, n);
}

static bool step_check(fake_device *d, const tn_step *s)
{
    const tn_limits *l = &d->limits;
    bool ok = must(d, s->size == sizeof *s, "step.size %u", s->size) &&
              must(d, s->number == d->number, "step %llu, expected %llu",
                   (unsigned long long)s->number, (unsigned long long)d->number) &&
              must(d, !d->open_step, "run before wait") &&
              must(d, s->nrow <= l->rows_max, "%u rows", s->nrow) &&
              must(d, s->nseq > 0 && s->nseq <= l->seqs_max, "%u sequences", s->nseq) &&
              must(d, s->nout <= l->outs_max, "%u outputs", s->nout) &&
              must(d, s->nblock <= l->blocks_max, "%u block entries", s->nblock);
    most(&d->rows_most, s->nrow);
    most(&d->seqs_most, s->nseq);
    most(&d->outs_most, s->nout);
    uint32_t row = 0, entry = 0;
    for (uint32_t q = 0; ok && q < s->nseq; q++) {
        const tn_seq *seq = &s->seq[q];
        uint32_t need = ((uint32_t)(seq->context + seq->nrow) + l->block_tokens - 1) /
                        l->block_tokens;
        bool settles = seq->nrow == 0 && seq->accepted > 0; /* only takes in what is pending */
        ok = must(d, (seq->nrow > 0 || settles) && (uint32_t)seq->row0 == row,
                  "rows of sequence %u", q) &&
             must(d, (uint32_t)(seq->context + seq->nrow) <= l->context_max, "context of %u",
                  q) &&
             must(d, seq->block0 >= entry && seq->block0 + need <= s->nblock, "blocks of %u",
                  q) &&
             must(d, d->has_states == (seq->state_in >= 0), "state of %u", q);
        for (uint32_t i = 0; ok && i < need; i++)
            ok = must(d, s->block[seq->block0 + i] >= 0 &&
                             (uint32_t)s->block[seq->block0 + i] < d->pools.nblock,
                      "block number %d", s->block[seq->block0 + i]);
        for (int32_t i = 0; ok && i < seq->nrow; i++)
            ok = must(d, s->row_seq[seq->row0 + i] == (int32_t)q, "row_seq") &&
                 must(d, s->row_token[seq->row0 + i] >= 0 &&
                             (uint32_t)s->row_token[seq->row0 + i] < d->vocab, "row_token");
        row += (uint32_t)seq->nrow;
        entry = seq->block0 + need;
    }
    return ok && must(d, row == s->nrow, "%u rows told, %u in sequences", s->nrow, row);
}

static bool sampling_check(fake_device *d, const tn_sampling *s)
{
    for (uint32_t i = 0; i < s->nbias; i++)
        if (!must(d, s->bias[i].token >= 0 && (uint32_t)s->bias[i].token < d->vocab &&
                         (i == 0 || s->bias[i - 1].token < s->bias[i].token),
                  "bias not sorted"))
            return false;
    bool penal = s->repetition != 1 || s->frequency != 0 || s->presence != 0;
    return must(d, s->ntop <= d->limits.top_max, "ntop %u", s->ntop) &&
           must(d, !penal || s->history != NULL, "penalties without history") &&
           must(d, s->temperature > 0 || (s->flags & TN_SAMPLE_GREEDY), "temperature");
}

/* ------------------------------------------------------------------------------ running */

/* The cell of a position of a sequence. */
static int32_t *cell_of(fake_device *d, const tn_step *s, const tn_seq *q, uint32_t position)
{
    uint32_t b = d->limits.block_tokens;
    int32_t block = s->block[q->block0 + position / b];
    return &d->cell[(size_t)block * b + position % b];
}

static void out_run(fake_device *d, const tn_step *s, uint32_t o, uint64_t state)
{
    const tn_out *out = &s->out[o];
    const tn_seq *q = &s->seq[s->row_seq[out->row]];
    uint32_t n = (uint32_t)(q->context + out->row - q->row0) + 1, set = s->number % 2;
    const tn_sampling *p = out->sampling;
    sight v = {0};
    if (!sampling_check(d, p))
        return;
    must(d, p->history == NULL || p->nhistory == n, "history of %u, context of %u", p->nhistory,
         n);
    for (uint32_t i = 0; i < n; i++) {
        int32_t id = *cell_of(d, s, q, i);
        must(d, id >= 0, "position %u was never written", i);
        must(d, p->history == NULL || i >= p->nhistory || p->history[i] == id,
             "history differs at %u", i);
        see(d, &v, id);
    }
    if (d->has_states)
        v.h = mix(v.h, state);
    d->result[set][o] = result_of(d, v.h, v.nan, v.bug, p,
                                  d->top_token[set] + (size_t)o * d->limits.top_max,
                                  d->top_logprob[set] + (size_t)o * d->limits.top_max);
}

/* Rows are written first: a row sees those before it in the same step. */
static void seq_write(fake_device *d, const tn_step *s, const tn_seq *q)
{
    for (int32_t i = 0; i < q->nrow; i++)
        *cell_of(d, s, q, (uint32_t)(q->context + i)) = s->row_token[q->row0 + i];
}

/* A draft stands when it was drawn and all before it stand. */
static void judge(fake_device *d, const tn_step *s)
{
    tn_result *r = d->result[s->number % 2];
    for (uint32_t o = 0; o < s->nout; o++) {
        int32_t draft = s->out[o].sampling->draft;
        bool follows = o > 0 && s->out[o - 1].row + 1 == s->out[o].row &&
                       s->out[o - 1].sampling->draft >= 0 &&
                       s->row_seq[s->out[o].row] == s->row_seq[s->out[o - 1].row];
        if (draft >= 0 && r[o].token == draft &&
            (!follows || (r[o - 1].flags & TN_RESULT_ACCEPTED) != 0))
            r[o].flags |= TN_RESULT_ACCEPTED;
    }
}

/* The state that the step begins with: settled, and the pending rows that count. */
static uint64_t state_open(fake_device *d, const tn_seq *q)
{
    if ((q->flags & TN_SEQ_FRESH) != 0 && !d->ignore_fresh)
        return 0;
    uint64_t state = d->state[q->state_in];
    int32_t n = d->npending[q->state_in], count = d->ignore_accepted ? n : q->accepted;
    must(d, q->accepted <= n && (n == 0) == (q->accepted == 0), "%d of %d pending rows count",
         q->accepted, n);
    for (int32_t i = 0; i < count; i++)
        state = state_next(state, d->pending[q->state_in][i]);
    return state;
}

static void state_close(fake_device *d, const tn_step *s, const tn_seq *q, uint64_t before,
                        uint64_t after)
{
    bool draft = (q->flags & TN_SEQ_DRAFT) != 0;
    d->state[q->state_out] = draft ? before : after;
    d->npending[q->state_out] = 0;
    if (!draft || !must(d, q->nrow <= FAKE_PENDING, "%d draft rows", q->nrow))
        return;
    d->npending[q->state_out] = q->nrow;
    for (int32_t i = 0; i < q->nrow; i++)
        d->pending[q->state_out][i] = s->row_token[q->row0 + i];
}

static void seq_run(fake_device *d, const tn_step *s, const tn_seq *q)
{
    uint64_t state = d->has_states ? state_open(d, q) : 0, before = state;
    for (int32_t row = q->row0; row < q->row0 + q->nrow; row++) {
        state = state_next(state, s->row_token[row]);
        for (uint32_t o = 0; o < s->nout; o++)
            if (s->out[o].row == row)
                out_run(d, s, o, state);
    }
    if (d->has_states)
        state_close(d, s, q, before, state);
}

/* ----------------------------------------------------------------------------- drafting */

static bool guess_check(fake_device *d, const tn_step *s)
{
    bool ok = must(d, s->number == d->number && !d->open_step, "draft step %llu",
                   (unsigned long long)s->number);
    uint32_t rows = 0;
    for (uint32_t q = 0; ok && q < s->nseq; q++) {
        const tn_seq *seq = &s->seq[q];
        ok = must(d, seq->nrow > 0 && (uint32_t)(seq->row0 + seq->nrow) <= s->nrow &&
                     (uint32_t)(seq->context + seq->nrow) <= d->limits.context_max,
                  "draft rows of %u", q);
        for (int32_t i = 0; ok && i < seq->nrow; i++)
            ok = must(d, s->row_seq[seq->row0 + i] == (int32_t)q, "row_seq of a draft row");
        rows += (uint32_t)seq->nrow;
    }
    for (uint32_t i = 0; i < s->nrow; i++)
        rows -= s->row_seq[i] >= 0;
    return ok && must(d, rows == 0 && s->nout <= s->nseq, "draft rows");
}

/* What the model would say greedily behind the tokens that drafting was told of. */
static int32_t guess(fake_device *d, const tn_step *s, const tn_seq *q, uint32_t position)
{
    static const tn_sampling greedy = {.flags = TN_SAMPLE_GREEDY, .temperature = 1, .top_p = 1,
                                       .repetition = 1, .draft = -1};
    int32_t ids[1024] = {*cell_of(d, s, q, 0)};
    for (uint32_t i = 0; i <= position; i++)
        ids[i + 1] = *(cell_of(d, s, q, i) - d->cell + d->guess_cell);
    int32_t id = fake_next(d, ids, position + 2, &greedy, NULL, NULL).token;
    bool wrong = d->guess_wrong > 0 && ++d->nguess % d->guess_wrong == 0;
    return wrong || id < 0 ? (id + 1) % (int32_t)d->vocab : id;
}

static void guesses_run(fake_device *d, const tn_step *s)
{
    uint32_t set = s->number % 2;
    for (uint32_t q = 0; q < s->nseq; q++)
        for (int32_t i = 0; i < s->seq[q].nrow; i++)
            *(cell_of(d, s, &s->seq[q], (uint32_t)(s->seq[q].context + i)) - d->cell +
              d->guess_cell) = s->row_token[s->seq[q].row0 + i];
    for (uint32_t o = 0; o < s->nout; o++) {
        const tn_seq *q = &s->seq[s->row_seq[s->out[o].row]];
        uint32_t at = (uint32_t)(q->context + s->out[o].row - q->row0);
        d->result[set][o] = (tn_result){.token = guess(d, s, q, at)};
    }
}

static void pause_us(uint32_t us)
{
    struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = (long)(us % 1000000) * 1000};
    if (us > 0)
        nanosleep(&t, NULL);
}

static tn_status fake_run(void *program, const tn_step *s, tn_err *err)
{
    fake_device *d = program;
    if (atomic_fetch_add(&d->nrun, 1) + 1 == atomic_load(&d->fail_run))
        return tn_fail(err, TN_UNAVAILABLE, "fake: the device fell off the bus");
    if (s->section == 0 ? !step_check(d, s) : !guess_check(d, s))
        return tn_fail(err, TN_INTERNAL, "fake: a step broke the contract");
    uint32_t set = s->number % 2;
    for (uint32_t q = 0; q < s->nseq && s->section == 0; q++)
        seq_write(d, s, &s->seq[q]);
    for (uint32_t q = 0; q < s->nseq && s->section == 0; q++)
        seq_run(d, s, &s->seq[q]);
    if (s->section == 0)
        judge(d, s);
    else
        guesses_run(d, s);
    d->results[set] = (tn_results){.size = sizeof d->results[set], .nout = s->nout,
                                   .top_stride = d->limits.top_max, .result = d->result[set],
                                   .top_token = d->top_token[set],
                                   .top_logprob = d->top_logprob[set]};
    atomic_fetch_add(&d->nrow, s->nrow);
    d->open_step = true;
    return TN_OK;
}

static tn_status fake_wait(void *program, uint64_t number, uint32_t poll,
                           const tn_results **out, tn_err *err)
{
    fake_device *d = program;
    if (!must(d, d->open_step && number == d->number, "wait for step %llu",
              (unsigned long long)number))
        return tn_fail(err, TN_INTERNAL, "fake: no such step");
    if (poll && atomic_load(&d->hold))
        return TN_BUSY;
    pause_us(atomic_load(&d->step_us));
    while (atomic_load(&d->hold))
        pause_us(200);
    if (atomic_fetch_add(&d->nwait, 1) + 1 == atomic_load(&d->fail_wait))
        return tn_fail(err, TN_UNAVAILABLE, "fake: the step never came back");
    *out = &d->results[number % 2];
    d->number++;
    d->open_step = false;
    return TN_OK;
}

static tn_status fake_block_copy(void *program, int32_t from, int32_t to, tn_err *err)
{
    fake_device *d = program;
    size_t n = d->limits.block_tokens;
    (void)err;
    must(d, from != to && !d->open_step, "copy of block %d to %d", from, to);
    memcpy(d->cell + (size_t)to * n, d->cell + (size_t)from * n, n * sizeof *d->cell);
    memcpy(d->guess_cell + (size_t)to * n, d->guess_cell + (size_t)from * n,
           n * sizeof *d->guess_cell);
    atomic_fetch_add(&d->ncopy, 1);
    return TN_OK;
}

static tn_status fake_state_copy(void *program, int32_t from, int32_t to, tn_err *err)
{
    fake_device *d = program;
    (void)err;
    must(d, d->has_states && from != to && !d->open_step, "copy of state %d to %d", from, to);
    d->state[to] = d->state[from];
    d->npending[to] = d->npending[from];
    memcpy(d->pending[to], d->pending[from], sizeof d->pending[to]);
    return TN_OK;
}

/* Of a block: the tokens it was told, and those that drafting was told. */
static uint64_t fake_block_size(void *program)
{
    const fake_device *d = program;
    return 2 * d->limits.block_tokens * sizeof *d->cell;
}

static tn_status fake_block_read(void *program, int32_t block, void *data, tn_err *err)
{
    fake_device *d = program;
    size_t n = d->limits.block_tokens * sizeof *d->cell;
    size_t at = (size_t)block * d->limits.block_tokens;
    if (!must(d, block >= 0 && (uint32_t)block < d->pools.nblock && !d->open_step,
              "read of block %d", block))
        return tn_fail(err, TN_INTERNAL, "fake: no such block");
    if (atomic_load(&d->fail_read))
        return tn_fail(err, TN_UNAVAILABLE, "fake: nothing can be read");
    memcpy(data, d->cell + at, n);
    memcpy((char *)data + n, d->guess_cell + at, n);
    return TN_OK;
}

static tn_status fake_block_write(void *program, int32_t block, const void *data, tn_err *err)
{
    fake_device *d = program;
    size_t n = d->limits.block_tokens * sizeof *d->cell;
    size_t at = (size_t)block * d->limits.block_tokens;
    if (!must(d, block >= 0 && (uint32_t)block < d->pools.nblock && !d->open_step,
              "write of block %d", block))
        return tn_fail(err, TN_INTERNAL, "fake: no such block");
    memcpy(d->cell + at, data, n);
    memcpy(d->guess_cell + at, (const char *)data + n, n);
    atomic_fetch_add(&d->nwritten, 1);
    return TN_OK;
}

static uint64_t fake_state_size(void *program)
{
    return sizeof *((fake_device *)program)->state;
}

/* Pending rows are no part of what is read: whoever wants them has them settled before. */
static tn_status fake_state_read(void *program, int32_t slot, void *data, tn_err *err)
{
    fake_device *d = program;
    (void)err;
    must(d, d->has_states && !d->open_step && d->npending[slot] == 0,
         "read of state %d with %d pending rows", slot, d->npending[slot]);
    memcpy(data, &d->state[slot], sizeof *d->state);
    return TN_OK;
}

static tn_status fake_state_write(void *program, int32_t slot, const void *data, tn_err *err)
{
    fake_device *d = program;
    (void)err;
    must(d, d->has_states && !d->open_step, "write of state %d", slot);
    memcpy(&d->state[slot], data, sizeof *d->state);
    d->npending[slot] = 0;
    return TN_OK;
}

const tn_device *fake_table(void)
{
    static const tn_device table = {.size = sizeof table, .run = fake_run, .wait = fake_wait,
                                    .block_copy = fake_block_copy,
                                    .state_copy = fake_state_copy,
                                    .block_size = fake_block_size,
                                    .block_read = fake_block_read,
                                    .block_write = fake_block_write,
                                    .state_size = fake_state_size,
                                    .state_read = fake_state_read,
                                    .state_write = fake_state_write};
    return &table;
}

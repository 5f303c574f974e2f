/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_delta.cpp - DELTA of the device cuda against a twin in double, written from the rule.
 *
 * A world is a model's layer with slots on the device and in the twin; steps are run on both and
 * everything is compared: outputs, S, columns and pending rows of every slot, and that nothing
 * else was touched. Numbers come from a generator with a fixed seed. With --small sizes are as on
 * the simulator and fewer, with --bench there are times.
 *
 *     g++ -DTN_CUDASIM ... delta.cu delta_prompt.cu delta_chunk.cu cudasim.cpp   without a card
 *     nvcc -x cu ...                                                             on one */
#include "cuda_delta_world.h"

#ifndef TN_CUDASIM
#include "cuda_delta_bench.h"
#endif

/* Sizes for the simulator, and for tools that make a card as slow. */
#ifdef TN_CUDASIM
static bool light = true;
#else
static bool light = false;
#endif
static bool lightest = false;  /* without what a tool takes minutes for */

/* --------------------------------------------------------------------------------- compare */

struct worst {
    const char *name;
    double out, s;
    int steps, bad;
};

static void complain(worst *b, const char *what, double found, double wanted)
{
    failures++;
    if (b->bad++ < 5)
        printf("FAIL %s step %d: %s found %.9g wanted %.9g\n", b->name, b->steps, what, found,
               wanted);
}

static bool same(float a, float b)
{
    return a == b || (a != a && b != b);
}

/* Relative L2 of found against wanted; infinite when one is not finite and the other is. */
static double distance(const float *found, const double *wanted, uint64_t n)
{
    double err = 0, all = 0;
    for (uint64_t i = 0; i < n; i++) {
        if (!std::isfinite(wanted[i]) && !std::isfinite(found[i]))
            continue;
        err += ((double)found[i] - wanted[i]) * ((double)found[i] - wanted[i]);
        all += wanted[i] * wanted[i];
    }
    if (!(err < 1e300))
        return INFINITY;
    return err == 0 ? 0 : sqrt(err / (all > 1e-60 ? all : 1e-60));
}

/* `reached`: the bound is of what S could give, and so of rows that cancel to little larger. */
static void compare_out(world *w, const doubles &wanted, double bound, bool reached, worst *b)
{
    floats found = get_span(w->a.out, w->rows_max);
    const uint32_t stride = w->a.out.stride;
    for (uint64_t r = 0; r < w->rows_max; r++) {
        bool inside = r < w->row_seq.size();
        if (inside && w->pos[r] >= 0) {
            for (uint32_t h = 0; h < w->z.v_heads; h++) {
                double d = distance(&found[r * stride + h * w->z.v_dim],
                                    &wanted[r * w->value + h * w->z.v_dim], w->z.v_dim);
                double most = reached ? bound * w->reach[r * w->z.v_heads + h] + 1e-3 : bound;
                b->out = d > b->out ? d : b->out;
                if (!(d <= most))
                    complain(b, "out of a row", d, most);
            }
        }
        for (uint32_t i = inside && w->pos[r] >= 0 ? w->value : 0; i < stride; i++) {
            float want = inside && i < w->value ? 0.0f : UNTOUCHED;
            if (found[r * stride + i] != want)
                complain(b, inside ? "padding or beyond" : "a row beyond", found[r * stride + i],
                         want);
        }
    }
}

static floats get_slot(const world *w, uint32_t i)
{
    floats all(w->a.state.slot_floats);
    cudaMemcpy(all.data(), w->a.state.data + i * all.size(), all.size() * 4,
               cudaMemcpyDeviceToHost);
    return all;
}

static void compare_slots(world *w, double bound, worst *b)
{
    for (uint32_t i = 0; i < w->slots; i++) {
        const slot &t = w->twin[i];
        floats all = get_slot(w, i);
        const float *columns = &all[t.s.size()], *pending = columns + t.columns.size();
        const uint64_t head = (uint64_t)w->z.k_dim * w->z.v_dim;
        for (uint32_t h = 0; h < w->z.v_heads; h++) {
            double d = distance(&all[h * head], &t.s[h * head], head);
            b->s = d > b->s ? d : b->s;
            if (!(d <= bound))
                complain(b, "S of a head", d, bound);
        }
        for (uint64_t j = 0; j < t.columns.size(); j++)
            if (!same(columns[j], t.columns[j]))
                complain(b, "a column", columns[j], t.columns[j]);
        for (uint64_t j = 0; j < t.pending.size(); j++)
            if (!same(pending[j], t.pending[j]))
                complain(b, "a pending row", pending[j], t.pending[j]);
    }
    floats work(w->work_floats + 64);
    cudaMemcpy(work.data(), w->a.work, work.size() * 4, cudaMemcpyDeviceToHost);
    for (uint64_t j = w->work_floats; j < work.size(); j++)
        if (work[j] != UNTOUCHED)
            complain(b, "behind the workspace", work[j], UNTOUCHED);
    std::vector<uint32_t> meet(w->a.meet != NULL ? w->seqs_max * w->z.k_heads : 0);
    if (w->a.meet != NULL)
        cudaMemcpy(meet.data(), w->a.meet, meet.size() * 4, cudaMemcpyDeviceToHost);
    for (uint32_t n : meet)
        if (n != 0)
            complain(b, "a counter", n, 0);
}

/* Bounds for S; an output rounded to f16 has its own. */
static void run_both(world *w, double bound, worst *b)
{
    b->steps++;
    run_device(w);
    doubles wanted = run_twin(w);
    compare_out(w, wanted, w->z.type == TN_F16 ? fmax(bound * 20, 6e-4) : bound * 20, false, b);
    compare_slots(w, bound, b);
}

/* kernels.md 5.2 for chunks: over all rows of a sequence and head 2e-3, S too. A single row may be
 * off by what errors of S of that size do to its o. */
static void run_chunks(world *w, double bound, worst *b)
{
    b->steps++;
    run_device(w);
    doubles wanted = run_twin(w), all;
    floats found = get_span(w->a.out, w->row_seq.size()), some;
    for (const tn_seq &q : w->seq)
        for (uint32_t h = 0; h < w->z.v_heads; h++) {
            all.clear();
            some.clear();
            for (int i = 0; i < q.nrow * (int)w->z.v_dim; i++) {
                uint64_t row = (uint64_t)(q.row0 + i / (int)w->z.v_dim);
                uint32_t col = h * w->z.v_dim + (uint32_t)i % w->z.v_dim;
                all.push_back(wanted[row * w->value + col]);
                some.push_back(found[row * w->a.out.stride + col]);
            }
            double d = distance(some.data(), all.data(), all.size());
            b->out = d > b->out ? d : b->out;
            if (!(d <= bound))
                complain(b, "out of a sequence", d, bound);
        }
    worst rows = *b;
    compare_out(w, wanted, bound, true, &rows);
    b->bad = rows.bad;
    compare_slots(w, 2e-3, b);
}

static void done(const worst &b)
{
    if (b.bad == 0)
        printf("ok %s: %d steps, out %.1e, S %.1e\n", b.name, b.steps, b.out, b.s);
    fflush(stdout);
}

/* ----------------------------------------------------------------------------------- cases */

static const sizes SMALL = {2, 4, 64, 64, 3, 4, TN_ACT_SILU, TN_F32, true, false};

/* Fresh, moved and idle sequences of 0 to 16 rows with padding in between. */
static void few_rows(world *w, worst *b)
{
    for (int round = 0; round < 3; round++) {
        begin_step(w);
        add_padding(w, round);
        add_seq(w, 1, 0, 0, 0, 0);
        add_seq(w, 1, 3, 1, 0, 0);                 /* moves; slot 3 stays */
        add_padding(w, 1);
        add_seq(w, 0, 2, 2, 0, 0);                 /* nothing to do */
        add_seq(w, 2 + round, 4, 4, 0, TN_SEQ_FRESH);
        add_seq(w, 16 - 7 * round, 3, 5, 0, 0);    /* shares its origin */
        add_padding(w, 2);
        random_rows(w);
        run_both(w, 3e-6, b);
    }
}

static void case_few_rows()
{
    static const uint32_t dims[][2] = {{64, 64}, {128, 128}, {32, 32},
                                      {128, 64}, {40, 8}, {16, 40}};
    worst b = {"few rows", 0, 0, 0, 0};
    for (const uint32_t *d : dims)
        for (int how = 0; how < 4; how++) {
            sizes z = SMALL;
            z.k_dim = d[0];
            z.v_dim = d[1];
            z.k_heads = how == 2 ? 1 : 2;
            z.v_heads = how == 1 ? 2 : how == 2 ? 3 : 4;
            z.meet = how != 3;
            z.type = how & 1 ? TN_F16 : TN_F32;
            z.act = how & 2 ? TN_ACT_SIGMOID : TN_ACT_SILU;
            z.bias = how == 2;
            z.drafts = how == 0 ? 0 : 3;
            world *w = world_open(z, 40, 8, 7);
            few_rows(w, &b);
            world_close(w);
        }
    done(b);
}

static void case_kernels()
{
    worst b = {"convolution of 2 to 8", 0, 0, 0, 0};
    for (uint32_t keep = 1; keep <= 7; keep++) {
        sizes z = SMALL;
        z.k_heads = 1;
        z.v_heads = 2;
        z.keep = keep;
        z.meet = keep & 1;
        z.bias = keep & 2;
        world *w = world_open(z, 60, 8, 7);
        few_rows(w, &b);
        begin_step(w);
        add_seq(w, 20, 0, 0, 0, 0);
        add_seq(w, 33, 1, 1, 0, TN_SEQ_FRESH);
        random_rows(w);
        run_both(w, 3e-6, &b);
        world_close(w);
    }
    done(b);
}

/* Draft steps one after the other, each with another count of rows that stand. */
static void case_drafts()
{
    worst b = {"drafts", 0, 0, 0, 0};
    for (int how = 0; how < 4; how++) {
        sizes z = SMALL;
        z.k_heads = how == 1 ? 1 : 2;
        z.v_heads = 2 * z.k_heads;
        z.k_dim = z.v_dim = how == 1 ? 128 : 64;
        z.meet = how != 2;
        z.keep = how == 3 ? 6 : 3;
        z.type = how == 1 ? TN_F16 : TN_F32;
        world *w = world_open(z, 64, 8, 8);
        for (int accepted = 0; accepted <= 5; accepted++) {
            for (int i = 0; i < 8; i++)
                w->verdict[i] = (accepted + i) % 6;
            begin_step(w);
            add_seq(w, 5, 0, 0, accepted, TN_SEQ_DRAFT);
            add_seq(w, 1 + accepted % 5, 1, 1, -1, TN_SEQ_DRAFT);
            add_padding(w, 1);
            add_seq(w, 3, 2, 3, accepted, TN_SEQ_DRAFT); /* 2 keeps its pending rows */
            add_seq(w, 0, 4, 4, accepted, 0);            /* settles */
            add_seq(w, 2, 5, 5, -1, 0);                  /* goes on without drafts */
            add_seq(w, 0, 6, 7, -1, 0);
            random_rows(w);
            run_both(w, 1e-5, &b);
        }
        begin_step(w);
        add_seq(w, 4, 0, 0, 0, TN_SEQ_DRAFT | TN_SEQ_FRESH);
        add_seq(w, 21, 1, 1, 3, 0);                      /* a prompt behind pending rows */
        add_seq(w, 18, 2, 4, -1, 0);
        add_seq(w, 0, 3, 3, 2, TN_SEQ_DRAFT);
        random_rows(w);
        run_both(w, 1e-5, &b);
        world_close(w);
    }
    done(b);
}

static void case_prompts()
{
    static const uint32_t dims[][2] = {{64, 64}, {128, 128}, {24, 36}};
    worst b = {"prompts", 0, 0, 0, 0};
    for (const uint32_t *d : dims)
        for (int how = 0; how < 2; how++) {
            sizes z = SMALL;
            z.k_dim = d[0];
            z.v_dim = d[1];
            z.k_heads = 1;
            z.v_heads = 2;
            z.meet = how;
            z.type = how ? TN_F16 : TN_F32;
            world *w = world_open(z, 200, 8, 8);
            begin_step(w);
            add_seq(w, 17, 0, 0, 0, TN_SEQ_FRESH);
            add_padding(w, 3);
            add_seq(w, 41, 1, 2, 0, 0);
            add_seq(w, 1, 3, 3, 0, 0);
            add_seq(w, 5, 4, 4, 2, TN_SEQ_DRAFT);
            add_seq(w, 0, 5, 5, 1, 0);
            add_seq(w, 100 + how, 6, 6, 0, 0);
            add_padding(w, 1);
            random_rows(w);
            run_both(w, 5e-6, &b);
            world_close(w);
        }
    done(b);
}

/* More rows than a segment of delta_prompt.cu, two sequences across its border. */
static void case_segments()
{
    worst b = {"segments", 0, 0, 0, 0};
    sizes z = SMALL;
    z.k_dim = z.v_dim = 16;
    z.k_heads = z.v_heads = 1;
    world *w = world_open(z, 2200, 8, 8);
    begin_step(w);
    add_seq(w, 1990, 0, 0, 0, 0);
    add_padding(w, 1);
    add_seq(w, 96, 1, 1, 2, 0);
    add_seq(w, 2, 2, 2, 0, 0);
    add_seq(w, 90, 3, 3, 0, TN_SEQ_FRESH);
    random_rows(w);
    run_both(w, 2e-5, &b);
    world_close(w);
    done(b);
}

/* Runs rows [from, to) of a kept input as one sequence; gives what the device wrote. */
static floats run_piece(world *w, const floats all[3], int from, int to, bool fresh)
{
    begin_step(w);
    add_seq(w, to - from, 0, 0, 0, fresh ? TN_SEQ_FRESH : 0);
    random_rows(w);
    uint64_t n = (uint64_t)(to - from), r = (uint64_t)from;
    memcpy(w->qkv.data(), &all[0][r * w->width], n * w->width * 4);
    memcpy(w->zed.data(), &all[1][r * w->value], n * w->value * 4);
    memcpy(w->ab.data(), &all[2][r * 2 * w->z.v_heads], n * 2 * w->z.v_heads * 4);
    run_device(w);
    floats out = get_span(w->a.out, n);
    return out;
}

/* A prompt of n rows in pieces gives the bits that it gives whole. */
static void case_cuts()
{
    static const int pieces[] = {1, 16, 17, 2, 23, 1, 31, 9};
    worst b = {"cuts", 0, 0, 0, 0};
    for (int how = 0; how < 3; how++) {
        sizes z = SMALL;
        z.k_dim = z.v_dim = how == 0 ? 128 : how == 1 ? 64 : 40;
        z.k_heads = 1;
        z.v_heads = 2;
        const int n = 100;
        world *w = world_open(z, n, 4, 2);
        begin_step(w);
        add_seq(w, n, 0, 0, 0, 0);
        random_rows(w);
        floats all[3] = {w->qkv, w->zed, w->ab};
        floats whole = run_piece(w, all, 0, n, true), slot_whole = get_slot(w, 0);
        floats cut;
        for (int at = 0, i = 0; at < n; i++) {
            int to = at + pieces[i] < n ? at + pieces[i] : n;
            floats part = run_piece(w, all, at, to, at == 0);
            cut.insert(cut.end(), part.begin(), part.end());
            at = to;
        }
        b.steps++;
        floats slot_cut = get_slot(w, 0);
        if (memcmp(whole.data(), cut.data(), whole.size() * 4) != 0)
            complain(&b, "outputs of pieces differ", 1, 0);
        if (memcmp(slot_whole.data(), slot_cut.data(), settled_floats(w) * 4) != 0)
            complain(&b, "the state after pieces differs", 1, 0);
        world_close(w);
    }
    done(b);
}

/* Sequences that go in chunks beside others that do not; every length of the last chunk. */
static void case_chunks()
{
    worst b = {"chunks", 0, 0, 0, 0};
    std::vector<int> tails = {0, 15, 49};
    if (!light)
        for (int i = 0; i < 64; i++)
            tails.push_back(i);
    for (int tail : tails)
        for (int how = 0; how < 2; how++) {
            sizes z = SMALL;
            z.k_dim = z.v_dim = how ? 128 : 64;
            z.k_heads = 1;
            z.v_heads = how ? 1 : 2;
            z.type = tail & 2 ? TN_F16 : TN_F32;
            if (how && tail % 16 != 15)
                continue;
            world *w = world_open(z, 400, 8, 8);
            begin_step(w);
            add_seq(w, 128 + tail, 0, 1, 0, 0);
            add_padding(w, 2);
            add_seq(w, 20, 2, 2, 3, 0);
            add_seq(w, 3, 4, 4, 1, TN_SEQ_DRAFT);
            add_seq(w, 129, 3, 3, 2, 0);
            random_rows(w);
            run_chunks(w, 2e-3, &b);
            world_close(w);
        }
    done(b);
}

/* Chunked sequences across the border of a segment. */
static void case_long_chunks()
{
    worst b = {"chunks across segments", 0, 0, 0, 0};
    sizes z = SMALL;
    z.k_heads = z.v_heads = 1;
    world *w = world_open(z, 2300, 8, 8);
    begin_step(w);
    add_seq(w, 300, 2, 2, 0, TN_SEQ_FRESH);
    add_seq(w, 1600, 0, 0, 0, 0);
    add_seq(w, 200, 1, 1, 0, TN_SEQ_FRESH);
    add_seq(w, 140, 3, 4, 2, 0);
    random_rows(w);
    run_chunks(w, 2e-3, &b);
    world_close(w);
    done(b);
}

/* kernels.md 5.3: betas of 0 and 1, no decay, full decay, one key for ever, large numbers. */
static void case_adversarial(bool chunks)
{
    worst b = {chunks ? "adversarial chunks" : "adversarial", 0, 0, 0, 0};
    for (int how = 0; how < 7; how++) {
        sizes z = SMALL;
        z.k_heads = 1;
        z.v_heads = 2;
        z.type = how & 1 ? TN_F16 : TN_F32;
        world *w = world_open(z, 240, 4, 4);
        if (how == 5)
            random_states(w, 1e5f);
        begin_step(w);
        add_seq(w, chunks ? 150 : 50, 0, 0, 0, 0);
        add_seq(w, 7, 1, 1, 0, 0);
        add_seq(w, 1, 2, 2, 0, 0);
        random_rows(w);
        for (uint64_t i = 0; i < w->ab.size(); i += 2 * z.v_heads)
            for (uint32_t h = 0; h < z.v_heads; h++) {
                float *a = &w->ab[i + h], *beta = a + z.v_heads;
                *beta = how == 0 ? -200.0f : how == 1 || how == 4 ? 200.0f : *beta;
                *a = how == 2 || how == 4 ? -200.0f : how == 3 ? 1000.0f : *a;
            }
        for (uint64_t i = 0; how == 4 && i < w->qkv.size(); i++)
            w->qkv[i] = w->qkv[i % w->width];
        for (uint64_t i = 0; how == 6 && i < w->qkv.size(); i++)
            w->qkv[i] *= z.type == TN_F16 ? 1e4f : 1e5f;
        if (chunks)
            run_chunks(w, how == 5 ? 2e-2 : 2e-3, &b); /* 5: S begins at 1e5, v is about 1 */
        else
            run_both(w, 1e-5, &b);
        world_close(w);
    }
    done(b);
}

/* A NaN stays in its sequence; graphs of rows that do not come touch nothing. */
static void case_poison()
{
    worst b = {"poison and empty steps", 0, 0, 0, 0};
    world *w = world_open(SMALL, 170, 4, 4);
    begin_step(w);
    add_seq(w, 2, 0, 0, 0, 0);
    add_seq(w, 30, 1, 1, 0, 0);
    add_seq(w, 130, 3, 3, 0, 0);
    add_seq(w, 3, 2, 2, 0, 0);
    random_rows(w);
    w->qkv[w->width * 1 + 3] = NAN;
    w->qkv[w->width * 10 + 5] = INFINITY;
    w->qkv[w->width * 110 + w->width - 1] = NAN;
    run_device(w);
    floats out = get_span(w->a.out, 165), third = get_slot(w, 2);
    for (uint64_t i = 162 * w->a.out.stride; i < out.size(); i++)
        if (!std::isfinite(out[i]))
            complain(&b, "a row of another sequence", out[i], 0);
    for (int row : {1, 10, 161}) {
        bool finite = true;
        for (uint32_t i = 0; i < w->value; i++)
            finite = finite && std::isfinite(out[(uint64_t)row * w->a.out.stride + i]);
        if (finite)
            complain(&b, "a poisoned row is finite", row, NAN);
    }
    for (uint64_t i = 0; i < settled_floats(w); i++)
        if (!std::isfinite(third[i]))
            complain(&b, "another sequence's state", third[i], 0);
    b.steps++;
    random_states(w, 1);
    begin_step(w);
    add_padding(w, 5);
    random_rows(w);
    run_both(w, 0, &b);
    begin_step(w);
    random_rows(w);
    run_both(w, 0, &b);
    world_close(w);
    done(b);
}

/* Many steps of one row: errors of S do not grow. */
static void case_drift()
{
    const int steps = light ? 60 : 1000;
    worst b = {"drift", 0, 0, 0, 0};
    sizes z = SMALL;
    z.k_heads = 1;
    z.v_heads = 1;
    world *w = world_open(z, 2, 2, 2);
    for (int i = 0; i < steps; i++) {
        begin_step(w);
        add_seq(w, 1, 0, 0, 0, 0);
        random_rows(w);
        run_both(w, 1e-5, &b);
    }
    world_close(w);
    done(b);
}

static void case_offers()
{
    worst b = {"offers", 0, 0, 1, 0};
    static const uint32_t size[][4] = {{128, 128, 3, 1}, {64, 64, 1, 1}, {16, 40, 7, 1},
                                       {128, 128, 0, 0}, {128, 128, 8, 0}, {256, 128, 3, 0},
                                       {128, 136, 3, 0}, {30, 32, 3, 0}, {0, 32, 3, 0}};
    for (const uint32_t *s : size)
        if ((gpu_delta_offered(s[0], s[1], s[2]) != 0) != (s[3] != 0))
            complain(&b, "offered", !s[3], s[3]);
    done(b);
}

int main(int argc, char **argv)
{
    lightest = argc > 1 && strcmp(argv[1], "--small") == 0;
    light = light || lightest;
    case_offers();
    case_few_rows();
    case_kernels();
    case_drafts();
    case_prompts();
    case_segments();
    case_cuts();
    case_chunks();
    case_adversarial(false);
    case_poison();
    if (!lightest) {
        case_long_chunks();
        case_adversarial(true);
        case_drift();
    }
#ifndef TN_CUDASIM
    if (argc > 1 && strcmp(argv[1], "--bench") == 0)
        bench_all();
#endif
    if (failures > 0)
        printf("%d failures\n", failures);
    return failures > 0;
}

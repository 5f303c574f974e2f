/* SPDX-License-Identifier: Apache-2.0 */
/* test_sample.c - drawing a token, against a reference that sorts the whole vocabulary, and
 * against the distribution it promises. */
#include "sample.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#define WIDTH 1024u               /* of a segment */
#define VOCAB_MAX 40000u

/* ------------------------------------------------------------------------------- the bench */

typedef struct bench {
    float raw[VOCAB_MAX];
    uint32_t mask[VOCAB_MAX / 32 + 1];
    int32_t history[5000];
    tn_bias bias[64];
    cpu_segment segment[VOCAB_MAX / WIDTH + 1], changed[VOCAB_MAX / WIDTH + 1];
    cpu_racer racer[VOCAB_MAX / WIDTH + 1];
    float z[VOCAB_MAX], value[VOCAB_MAX];
    int32_t id[VOCAB_MAX];
    cpu_scratch scratch;
    cpu_draw d;
    tn_sampling s;
    uint32_t vocab;
    uint64_t random;
    /* the reference's */
    double l[VOCAB_MAX];
    int32_t order[VOCAB_MAX];
    bool kept[VOCAB_MAX];
} bench;

static uint64_t bits(bench *b)
{
    return cpu_rng_mix(b->random += CPU_RNG_STEP);
}

static double unit(bench *b)
{
    return cpu_rng_unit(bits(b));
}

static double gauss(bench *b)
{
    return sqrt(-2 * log(unit(b))) * cos(6.283185307179586 * unit(b));
}

static void bench_open(bench *b, uint32_t vocab, uint64_t seed)
{
    memset(b, 0, sizeof *b);
    b->vocab = vocab;
    b->random = seed;
    b->scratch = (cpu_scratch){.z = b->z, .value = b->value, .id = b->id,
                               .segment = b->changed, .racer = b->racer};
    b->s = (tn_sampling){.temperature = 1, .top_p = 1, .repetition = 1, .target = -1,
                         .draft = -1};
    memset(b->id, 0x55, sizeof b->id); /* scratch is never clean */
}

static void draw_begin(bench *b)
{
    uint32_t n = (b->vocab + WIDTH - 1) / WIDTH;
    b->d = (cpu_draw){.k = cpu_kernels_pick(NULL), .s = &b->s, .raw = b->raw,
                      .raw_segment = b->segment, .vocab = b->vocab, .segment_width = WIDTH,
                      .nsegment = n, .scratch = &b->scratch};
    for (uint32_t i = 0; i < n; i++)
        cpu_segment_measure(b->d.k, b->raw, i * WIDTH,
                            (i + 1) * WIDTH < b->vocab ? (i + 1) * WIDTH : b->vocab,
                            &b->segment[i]);
    cpu_draw_begin(&b->d);
}

static tn_result draw(bench *b)
{
    draw_begin(b);
    cpu_draw_all(&b->d);
    return b->d.result;
}

/* The same with every stage cut into `parts`. */
static tn_result draw_in_parts(bench *b, uint32_t parts)
{
    void (*const stage[])(cpu_draw *, uint32_t, uint32_t) = {cpu_draw_mask, cpu_draw_top,
                                                             cpu_draw_scale, cpu_draw_race};
    void (*const between[])(cpu_draw *) = {cpu_draw_adjust, cpu_draw_join, cpu_draw_cut,
                                           cpu_draw_end};
    draw_begin(b);
    for (uint32_t i = 0; i < 4; i++) {
        for (uint32_t p = parts; p-- > 0;)
            stage[i](&b->d, b->d.nsegment * p / parts, b->d.nsegment * (p + 1) / parts);
        between[i](&b->d);
    }
    return b->d.result;
}

/* --------------------------------------------------------------------------- the reference */

static void ref_penalize(bench *b)
{
    const tn_sampling *s = &b->s;
    for (uint32_t i = 0; i < s->nhistory; i++) {
        int32_t t = s->history[i], count = 0;
        bool first = true;
        for (uint32_t j = 0; j < s->nhistory; j++) {
            first = first && !(j < i && s->history[j] == t);
            count += j >= s->nprompt && s->history[j] == t;
        }
        if (!first || t < 0 || t >= (int32_t)b->vocab)
            continue;
        b->l[t] = b->l[t] > 0 ? b->l[t] / (double)s->repetition : b->l[t] * (double)s->repetition;
        b->l[t] -= (double)s->frequency * count + (count > 0 ? (double)s->presence : 0);
    }
}

static int by_logit(const void *a, const void *b, void *ctx)
{
    int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    const double *l = ctx;
    if (l[i] != l[j])
        return l[i] > l[j] ? -1 : 1;
    return i < j ? -1 : 1;
}

/* Fills l (after temperature, relative to the best) and kept; the number kept, 0: nothing. */
static uint32_t ref_keep(bench *b)
{
    const tn_sampling *s = &b->s;
    for (uint32_t i = 0; i < b->vocab; i++) {
        b->l[i] = (double)b->raw[i];
        if (s->mask != NULL && (s->mask[i / 32] >> i % 32 & 1u) == 0)
            b->l[i] = -INFINITY;
        b->order[i] = (int32_t)i;
        b->kept[i] = false;
    }
    for (uint32_t i = 0; i < s->nbias; i++)
        b->l[s->bias[i].token] += (double)s->bias[i].value;
    if (s->history != NULL)
        ref_penalize(b);
    qsort_r(b->order, b->vocab, sizeof *b->order, by_logit, b->l);
    double top = b->l[b->order[0]], all = 0, before = 0, threshold;
    if (!(top > -INFINITY))
        return 0;
    uint32_t k = s->top_k > 0 && s->top_k < (int32_t)b->vocab ? (uint32_t)s->top_k : b->vocab;
    threshold = b->l[b->order[k - 1]];
    for (uint32_t i = 0; i < b->vocab; i++) {
        double v = (b->l[i] - top) / (double)s->temperature;
        b->kept[i] = b->l[i] > -INFINITY && b->l[i] >= threshold && exp(v) >= (double)s->min_p;
        all += b->kept[i] ? exp(v) : 0;
    }
    uint32_t n = 0;
    for (uint32_t i = 0; i < b->vocab; i++) {
        int32_t t = b->order[i];
        if (!b->kept[t])
            continue;
        b->kept[t] = n == 0 || s->top_p >= 1 || before < (double)s->top_p * all;
        before += exp((b->l[t] - top) / (double)s->temperature);
        n += b->kept[t];
    }
    for (uint32_t i = 0; i < b->vocab; i++)
        b->l[i] = (b->l[i] - top) / (double)s->temperature;
    return n;
}

static int32_t ref_draw(bench *b)
{
    cpu_rng rng = cpu_rng_open(b->s.seed, b->s.draw);
    double best = -INFINITY;
    int32_t token = -1;
    for (uint32_t i = 0; i < b->vocab; i++) {
        double score;
        if (!b->kept[i])
            continue;
        score = b->l[i] - log(-log1p(-cpu_rng_unit(cpu_rng_bits(&rng, i))));
        if (score > best) {
            best = score;
            token = (int32_t)i;
        }
    }
    return token;
}

/* ---------------------------------------------------------------------------------- settings */

/* Logits like a model's (a few high, a long tail), flat ones, few levels with many ties. */
static void fill_logits(bench *b, uint32_t kind)
{
    for (uint32_t i = 0; i < b->vocab; i++) {
        double x = gauss(b) * 3;
        if (kind == 0 && bits(b) % 50 == 0)
            x += 8 * unit(b);
        if (kind == 1)
            x = gauss(b) * 0.05;
        if (kind == 2)
            x = floor(x);
        if (kind == 3 && bits(b) % 3 == 0)
            x = -INFINITY;
        b->raw[i] = (float)x;
    }
}

static void choose_setting(bench *b)
{
    static const float temperature[] = {1, 0.5f, 1.3f, 0.05f, 2};
    static const float top_p[] = {1, 0.95f, 0.5f, 0.1f, 0.999f, 1e-6f};
    static const int32_t top_k[] = {0, 1, 20, 300, 5000, 1 << 30};
    b->s.temperature = temperature[bits(b) % 5];
    b->s.top_p = bits(b) % 2 ? 1 : top_p[bits(b) % 6];
    b->s.top_k = bits(b) % 2 ? 0 : top_k[bits(b) % 6];
    b->s.min_p = bits(b) % 3 ? 0 : 0.07f;
    b->s.seed = bits(b);
    b->s.draw = bits(b) % 1000;
    if (bits(b) % 4 == 0) {
        for (uint32_t i = 0; i < b->vocab / 32 + 1; i++)
            b->mask[i] = bits(b) % 3 ? (uint32_t)bits(b) : 0xffffffffu;
        b->s.mask = b->mask;
    }
    if (bits(b) % 4 == 0) {
        b->s.nbias = b->vocab > 40 ? 40 : 1;
        for (uint32_t i = 0; i < b->s.nbias; i++)
            b->bias[i] = (tn_bias){.token = (int32_t)(b->vocab / b->s.nbias * i),
                                   .value = i % 3 ? (float)gauss(b) * 5 : -INFINITY};
        b->s.bias = b->bias;
    }
    if (bits(b) % 4 == 0) {
        b->s.history = b->history;
        b->s.nhistory = 200;
        b->s.nprompt = 120;
        for (uint32_t i = 0; i < 200; i++)
            b->history[i] = (int32_t)(bits(b) % (b->vocab < 90 ? b->vocab : 90));
        b->s.repetition = bits(b) % 2 ? 1 : 1.3f;
        b->s.frequency = bits(b) % 2 ? 0 : 0.4f;
        b->s.presence = bits(b) % 2 ? 0 : -0.5f;
    }
}

/* ------------------------------------------------------------------------------------- tests */

static void test_against_sorting(void **state)
{
    bench *b = malloc(sizeof *b);
    (void)state;
    for (uint32_t i = 0; i < 2400; i++) {
        static const uint32_t vocab[] = {1, 2, 31, 33, 100, 1024, 1025, 3000};
        bench_open(b, i % 200 == 0 ? 33000 : vocab[i % 8], i);
        fill_logits(b, i % 4);
        choose_setting(b);
        uint32_t n = ref_keep(b);
        tn_result got = draw(b);
        if (n == 0) {
            assert_int_equal(got.token, -1);
            assert_int_equal(got.flags, TN_RESULT_NONFINITE);
            continue;
        }
        int32_t want = ref_draw(b);
        if (got.token != want)
            fail_msg("case %u: vocab %u, T %g, top_p %g, top_k %d, min_p %g, %u kept: %d, "
                     "expected %d", i, b->vocab, (double)b->s.temperature, (double)b->s.top_p,
                     b->s.top_k, (double)b->s.min_p, n, got.token, want);
        tn_result parts = draw_in_parts(b, 1 + i % 5);
        assert_int_equal(parts.token, want);
        assert_true(parts.logprob == got.logprob);
    }
    free(b);
}

/* Pearson's statistic of `n` draws against exp(l) over the kept tokens. */
static double chi_square(bench *b, uint32_t n, uint32_t *freedom)
{
    double all = 0, sum = 0;
    uint32_t *count = calloc(b->vocab, sizeof *count);
    ref_keep(b);
    for (uint32_t i = 0; i < n; i++) {
        b->s.draw = i;
        int32_t t = draw(b).token;
        assert_in_range(t, 0, b->vocab - 1);
        count[t]++;
    }
    for (uint32_t i = 0; i < b->vocab; i++)
        all += b->kept[i] ? exp(b->l[i]) : 0;
    *freedom = 0;
    double rest = 0, seen = 0;    /* tokens of few expected draws are counted together */
    for (uint32_t i = 0; i < b->vocab; i++) {
        double want = b->kept[i] ? exp(b->l[i]) / all * n : 0;
        if (!b->kept[i])
            assert_int_equal(count[i], 0);
        if (want < 8) {
            rest += want;
            seen += count[i];
            continue;
        }
        sum += (count[i] - want) * (count[i] - want) / want;
        ++*freedom;
    }
    if (rest > 4) {
        sum += (seen - rest) * (seen - rest) / rest;
        ++*freedom;
    }
    *freedom -= *freedom > 0;
    free(count);
    return sum;
}

static void test_distribution(void **state)
{
    bench *b = malloc(sizeof *b);
    (void)state;
    for (uint32_t i = 0; i < 12; i++) {
        uint32_t freedom;
        bench_open(b, i < 6 ? 12 : 1500, 77 + i);
        fill_logits(b, i % 3);
        b->s.temperature = i % 2 ? 1 : 1.7f;
        b->s.top_k = i % 4 == 1 ? 7 : 0;
        b->s.top_p = i % 4 == 2 ? 0.8f : 1;
        b->s.min_p = i % 4 == 3 ? 0.02f : 0;
        b->s.seed = 1000 + i;
        double x = chi_square(b, 20000, &freedom);
        /* Wilson and Hilferty: the cube root is about normal; 4.5 sigma */
        double f = freedom, z = (cbrt(x / f) - (1 - 2 / (9 * f))) / sqrt(2 / (9 * f));
        if (freedom > 0 && !(fabs(z) < 4.5))
            fail_msg("case %u: chi-square %g with %u degrees of freedom", i, x, freedom);
    }
    free(b);
}

/* Draws of neighbouring tokens, draws and seeds do not go together. */
static void test_rng(void **state)
{
    double sum[3] = {0}, mean = 0;
    const uint32_t n = 200000;
    (void)state;
    for (uint32_t i = 0; i < n; i++) {
        cpu_rng a = cpu_rng_open(i, 5), next_seed = cpu_rng_open(i + 1, 5);
        cpu_rng next_draw = cpu_rng_open(i, 6);
        double x = cpu_rng_unit(cpu_rng_bits(&a, 3)) - 0.5;
        mean += x;
        sum[0] += x * (cpu_rng_unit(cpu_rng_bits(&a, 4)) - 0.5);
        sum[1] += x * (cpu_rng_unit(cpu_rng_bits(&next_seed, 3)) - 0.5);
        sum[2] += x * (cpu_rng_unit(cpu_rng_bits(&next_draw, 3)) - 0.5);
    }
    assert_true(fabs(mean / n) < 5 / sqrt(12.0 * n));
    for (uint32_t i = 0; i < 3; i++)
        assert_true(fabs(sum[i] / n * 12) < 5 / sqrt(n));
}

/* The same seed and draw give the same token whatever else the row holds in reserve. */
static void test_reproducible(void **state)
{
    bench *b = malloc(sizeof *b);
    (void)state;
    bench_open(b, 5000, 3);
    fill_logits(b, 0);
    b->s.seed = 42;
    uint32_t differ = 0;
    for (uint32_t i = 0; i < 200; i++) {
        b->s.draw = i;
        b->s.top_k = 0;
        int32_t first = draw(b).token;
        assert_int_equal(draw(b).token, first);
        b->s.top_k = 4999;        /* through candidates instead of over all columns */
        assert_int_equal(draw(b).token, first);
        b->s.top_k = 0;
        b->s.seed = 43;
        differ += draw(b).token != first;
        b->s.seed = 42;
    }
    assert_true(differ > 50);
    free(b);
}

static void test_greedy(void **state)
{
    bench *b = malloc(sizeof *b);
    (void)state;
    bench_open(b, 3000, 4);
    fill_logits(b, 2);
    b->raw[1700] = b->raw[900] = b->raw[2999] = 50;
    b->s.flags = TN_SAMPLE_GREEDY;
    b->s.temperature = 0;
    assert_int_equal(draw(b).token, 900);
    assert_true(fabsf(draw(b).logprob + logf(3)) < 1e-5f);
    assert_int_equal(draw(b).rank, 0);
    b->s.flags = 0;               /* a temperature of 0 is greedy by itself */
    assert_int_equal(draw(b).token, 900);
    b->s.flags = TN_SAMPLE_GREEDY;
    b->bias[0] = (tn_bias){900, -0.5f};
    b->s.bias = b->bias;
    b->s.nbias = 1;
    assert_int_equal(draw(b).token, 1700);
    b->history[0] = b->history[1] = 1700;
    b->s.history = b->history;
    b->s.nhistory = b->s.nprompt = 2;
    b->s.presence = 3;            /* counts replies only */
    assert_int_equal(draw(b).token, 1700);
    b->s.nprompt = 1;
    assert_int_equal(draw(b).token, 2999);
    b->s.presence = 0;
    b->s.frequency = 0.1f;
    b->s.nprompt = 0;
    assert_int_equal(draw(b).token, 2999);
    b->s.frequency = 0;
    b->s.repetition = 1.01f;
    b->s.nprompt = 2;
    assert_int_equal(draw(b).token, 2999);
    b->mask[2999 / 32] = 0;
    for (uint32_t i = 0; i < 93; i++)
        b->mask[i] = 0xffffffffu;
    b->s.mask = b->mask;          /* the last word stays 0 */
    assert_int_equal(draw(b).token, 1700); /* 50 / 1.01 against 50 - 0.5 */
    free(b);
}

static void test_not_finite(void **state)
{
    bench *b = malloc(sizeof *b);
    (void)state;
    for (uint32_t i = 0; i < 8; i++) {
        bench_open(b, 2100, 5);
        fill_logits(b, 0);
        b->s.flags = i % 2 ? TN_SAMPLE_GREEDY : 0;
        b->s.ntop = 3;
        float what = i < 4 ? NAN : INFINITY;
        b->raw[i < 2 || i > 5 ? 2099 : 7] = what;
        tn_result r = draw(b);
        assert_int_equal(r.token, -1);
        assert_int_equal(r.flags, TN_RESULT_NONFINITE);
        float logprob[3];
        int32_t token[3];
        cpu_draw_report(&b->d, token, logprob);
        assert_int_equal(b->d.result.ntop, 0);
    }
    bench_open(b, 2100, 6);       /* -inf alone is fine */
    for (uint32_t i = 0; i < b->vocab; i++)
        b->raw[i] = -INFINITY;
    assert_int_equal(draw(b).token, -1);
    b->raw[1500] = -3;
    assert_int_equal(draw(b).token, 1500);
    assert_true(draw(b).logprob == 0);
    b->s.mask = b->mask;          /* nothing is allowed */
    assert_int_equal(draw(b).token, -1);
    free(b);
}

/* Extremes end in a token, and in the right one. */
static void test_extremes(void **state)
{
    bench *b = malloc(sizeof *b);
    (void)state;
    bench_open(b, 1100, 7);
    fill_logits(b, 2);
    b->raw[600] = 3e38f;
    b->raw[20] = -3e38f;
    assert_int_equal(draw(b).token, 600);
    b->s.temperature = 1e-40f;
    assert_int_equal(draw(b).token, 600);
    b->s.top_p = 1e-30f;
    assert_int_equal(draw(b).token, 600);
    b->s.top_p = -1;
    assert_int_equal(draw(b).token, 600);
    b->s.top_p = 0.5f;
    b->s.temperature = 1e30f;
    b->raw[600] = 1;
    assert_in_range(draw(b).token, 0, 1099);
    b->s.min_p = 1;
    b->s.top_p = 1;
    b->s.temperature = 1;
    b->raw[600] = 40;
    assert_int_equal(draw(b).token, 600);
    free(b);
}

static void test_reports(void **state)
{
    bench *b = malloc(sizeof *b);
    (void)state;
    for (uint32_t i = 0; i < 60; i++) {
        int32_t token[40];
        float logprob[40];
        bench_open(b, i % 3 == 0 ? 17 : 4000, i);
        fill_logits(b, i % 4);
        b->s.ntop = i % 3 == 0 ? 20 : 1 + i % 40;
        b->s.seed = i;
        b->s.top_k = 10;
        b->s.bias = b->bias;      /* reports are of the raw logits */
        b->s.nbias = 1;
        b->bias[0] = (tn_bias){3, 5};
        tn_result r = draw(b);
        cpu_draw_report(&b->d, token, logprob);
        b->s.nbias = 0;
        b->s.top_k = 0;
        ref_keep(b);
        double sum = 0;
        uint32_t finite = 0;
        int32_t rank = 1;
        for (uint32_t j = 0; j < b->vocab; j++) {
            sum += exp(b->l[j]);
            finite += b->raw[j] > -INFINITY;
            rank += b->raw[j] > b->raw[r.token];
        }
        assert_int_equal(b->d.result.ntop, b->s.ntop < finite ? b->s.ntop : finite);
        assert_int_equal(r.rank, rank);
        assert_true(fabs((double)r.logprob - (b->l[r.token] - log(sum))) < 1e-5);
        for (uint32_t j = 0; j < b->d.result.ntop; j++) {
            assert_int_equal(token[j], b->order[j]);
            assert_true(fabs((double)logprob[j] - (b->l[token[j]] - log(sum))) < 1e-5);
        }
        b->s.flags = TN_SAMPLE_SCORE;
        b->s.target = (int32_t)(bits(b) % b->vocab);
        b->s.ntop = 0;
        r = draw(b);
        assert_int_equal(r.token, b->s.target);
        rank = 1;
        for (uint32_t j = 0; j < b->vocab; j++)
            rank += b->raw[j] > b->raw[r.token];
        assert_int_equal(r.rank, rank);
    }
    free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_sorting), cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_rng), cmocka_unit_test(test_reproducible),
        cmocka_unit_test(test_greedy), cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_extremes), cmocka_unit_test(test_reports),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

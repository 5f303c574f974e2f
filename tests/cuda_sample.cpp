/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_sample.cpp - LOGITS and SAMPLE of the plugin cuda against their definitions.
 *
 * Builds with nvcc (-x cu) for a card and with g++ -DTN_CUDASIM for the simulator. All memory
 * that the call does not own is filled and looked at afterwards, every step runs twice and
 * must leave the same bits. --small: as on the simulator; --bench: times on a card instead. */
#include "cuda_sample_twin.h"

#include <atomic>
#include <ctime>
#include <thread>

static int failures;
static const char *group;

/* Sizes for the simulator, and for tools that make a card as slow. */
#ifdef TN_CUDASIM
static bool light = true;
#else
static bool light = false;
#endif

/* -------------------------------------------------------------------------------- memory */

static void must(cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return;
    printf("FAIL %s: %s\n", what, cudaGetErrorString(e));
    exit(1);
}

#define CANARY 0x7fc0dead         /* as a float: NaN */
#define MARGIN 64                 /* words behind every array */

static std::vector<void *> taken;

/* n words, the canary in them and behind them. */
static void *take(size_t n)
{
    void *p = NULL;
    std::vector<uint32_t> fill(n + MARGIN, CANARY);
    must(cudaMalloc(&p, fill.size() * 4), "cudaMalloc");
    must(cudaMemcpy(p, fill.data(), fill.size() * 4, cudaMemcpyHostToDevice), "fill");
    taken.push_back(p);
    return p;
}

static void give_all()
{
    for (void *p : taken)
        cudaFree(p);
    taken.clear();
}

static void *upload(const void *from, size_t words)
{
    void *p = take(words);
    if (words > 0)
        must(cudaMemcpy(p, from, words * 4, cudaMemcpyHostToDevice), "upload");
    return p;
}

static std::vector<uint32_t> download(const void *p, size_t words)
{
    std::vector<uint32_t> v(words);
    must(cudaMemcpy(v.data(), p, words * 4, cudaMemcpyDeviceToHost), "download");
    return v;
}

static void fail(const char *what, long at, double found, double wanted)
{
    printf("FAIL %s: %s of row %ld: found %.9g, wanted %.9g\n", group, what, at, found, wanted);
    failures++;
}

static void check_margin(const void *p, size_t words, const char *what)
{
    std::vector<uint32_t> v = download((const uint32_t *)p + words, MARGIN);
    for (uint32_t w : v)
        if (w != CANARY) {
            printf("FAIL %s: wrote behind %s\n", group, what);
            failures++;
            return;
        }
}

/* ---------------------------------------------------------------------------------- a step */

/* A step: what it is given, and where it leaves what. */
struct job {
    head h;
    uint32_t stride, top_max;
    std::vector<ask> row;
    std::vector<int32_t> row_seq;  /* empty: row i is sequence i */
    std::vector<tn_seq> seq;
    uint32_t nslot;                /* 0: no verdicts */
    uint32_t more;                 /* outputs that the shape allows beyond those there are */
    /* after run */
    std::vector<tn_result> result;
    std::vector<int32_t> drawn, verdict, top_token;
    std::vector<float> top_logprob;
};

static job job_open(uint32_t vocab)
{
    job j = job();
    j.h.vocab = j.h.valid = vocab;
    j.stride = (vocab + 63) / 64 * 64;
    j.top_max = 20;
    return j;
}

static gpu_out plain_out(uint32_t row)
{
    gpu_out w = gpu_out();
    w.row = (int32_t)row;
    w.temperature = w.top_p = w.repetition = 1;
    w.target = w.draft = -1;
    w.history = w.bias = w.mask = TN_NONE;
    w.seed = 7;
    return w;
}

static ask &job_add(job &j, const std::vector<float> &x)
{
    ask a;
    a.x = x;
    a.out = plain_out((uint32_t)j.row.size());
    j.row.push_back(a);
    return j.row.back();
}

template <typename T>
static uint32_t append(std::vector<uint32_t> &extra, const std::vector<T> &v)
{
    if (v.empty())
        return TN_NONE;
    size_t at = extra.size();
    extra.resize(at + v.size() * sizeof(T) / 4);
    memcpy(&extra[at], v.data(), v.size() * sizeof(T));
    return (uint32_t)at;
}

struct device_job {
    gpu_sample a;
    gpu_step s;
    gpu_shape n;
    void *logits;
    size_t logit_words, work_words;
};

static device_job job_upload(job &j)
{
    device_job d = device_job();
    const uint32_t nout = (uint32_t)j.row.size(), outs = nout + j.more;
    std::vector<uint32_t> extra(1, CANARY);
    std::vector<gpu_out> out(outs);
    std::vector<float> x((size_t)outs * j.stride, NAN);
    if (j.row_seq.empty())
        for (uint32_t i = 0; i < outs; i++)
            j.row_seq.push_back((int32_t)i);
    if (j.seq.empty())
        j.seq.resize(outs);
    for (uint32_t i = 0; i < nout; i++) {
        ask &a = j.row[i];
        a.out.history = append(extra, a.history);
        a.out.nhistory = (uint32_t)a.history.size();
        a.out.bias = append(extra, a.bias);
        a.out.nbias = (uint32_t)a.bias.size();
        a.out.mask = append(extra, a.mask);
        out[i] = a.out;
        memcpy(&x[(size_t)i * j.stride], a.x.data(), a.x.size() * 4);
    }
    uint32_t count[4] = {(uint32_t)j.row_seq.size(), (uint32_t)j.seq.size(), nout, 0};
    tn_limits l = tn_limits();
    l.outs_max = outs;
    d.logit_words = x.size();
    d.logits = upload(x.data(), x.size());
    d.work_words = (gpu_sample_bytes(j.h.vocab, &l) + 3) / 4;
    d.a.logits = (float *)take(x.size());
    d.a.stride = j.stride;
    d.a.vocab = j.h.vocab;
    d.a.valid = j.h.valid;
    d.a.softcap = j.h.softcap;
    d.a.top_max = j.top_max;
    d.a.work = take(d.work_words);
    d.s.count = (const uint32_t *)upload(count, 4);
    d.s.row_seq = (const int32_t *)upload(j.row_seq.data(), j.row_seq.size());
    d.s.seq = (const tn_seq *)upload(j.seq.data(), j.seq.size() * sizeof(tn_seq) / 4);
    d.s.out = (const gpu_out *)upload(out.data(), out.size() * sizeof(gpu_out) / 4);
    d.s.extra = (const uint32_t *)upload(extra.data(), extra.size());
    d.s.drawn = (int32_t *)take(outs);
    d.s.verdict = j.nslot > 0 ? (int32_t *)take(j.nslot) : NULL;
    d.s.result = (tn_result *)take(outs * sizeof(tn_result) / 4);
    d.s.top_token = (int32_t *)take(outs * j.top_max);
    d.s.top_logprob = (float *)take(outs * j.top_max);
    d.n.rows = count[0];
    d.n.seqs = count[1];
    d.n.outs = outs;
    return d;
}

template <typename T>
static std::vector<T> download_as(const void *p, size_t n)
{
    std::vector<T> v(n);
    must(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost), "download");
    return v;
}

static void job_download(job &j, const device_job &d)
{
    const size_t outs = d.n.outs;
    j.result = download_as<tn_result>(d.s.result, outs);
    j.drawn = download_as<int32_t>(d.s.drawn, outs);
    j.top_token = download_as<int32_t>(d.s.top_token, outs * j.top_max);
    j.top_logprob = download_as<float>(d.s.top_logprob, outs * j.top_max);
    if (j.nslot > 0)
        j.verdict = download_as<int32_t>(d.s.verdict, j.nslot);
}

template <typename T>
static bool same_bits(const std::vector<T> &a, const std::vector<T> &b)
{
    return a.size() == b.size() &&
           (a.empty() || memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

static void check_behind(const job &j, const device_job &d)
{
    const size_t outs = d.n.outs;
    check_margin(d.a.work, d.work_words, "the workspace");
    check_margin(d.a.logits, d.logit_words, "the logits");
    check_margin(d.s.result, outs * sizeof(tn_result) / 4, "the results");
    check_margin(d.s.drawn, outs, "the drawn tokens");
    check_margin(d.s.top_token, outs * j.top_max, "the top tokens");
    check_margin(d.s.top_logprob, outs * j.top_max, "the top logprobs");
    if (j.nslot > 0)
        check_margin(d.s.verdict, j.nslot, "the verdicts");
    const uint32_t canary = CANARY;
    std::vector<float> x = download_as<float>(d.a.logits, d.logit_words);
    for (size_t i = 0; i < j.row.size(); i++)
        for (size_t k = j.h.valid; k < j.stride; k++)
            if (k < j.h.vocab ? x[i * j.stride + k] != -INFINITY
                              : x[i * j.stride + k] == x[i * j.stride + k])
                return fail("padding", (long)i, x[i * j.stride + k], -INFINITY);
    for (size_t i = j.row.size(); i < outs; i++)
        if (memcmp(&j.drawn[i], &canary, 4) != 0 || memcmp(&j.result[i], &canary, 4) != 0)
            fail("an output that does not exist", (long)i, j.drawn[i], 0);
}

/* Twice, from a graph. */
static void job_run(job &j)
{
    device_job d = job_upload(j);
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
    must(cudaMemcpyAsync(d.a.logits, d.logits, d.logit_words * 4, cudaMemcpyDeviceToDevice,
                         stream), "copy");
    must(gpu_do_sample(&d.a, &d.s, &d.n, stream), "gpu_do_sample");
    must(cudaStreamEndCapture(stream, &graph), "capture");
    must(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
    for (int turn = 0; turn < 2; turn++) {
        job before = j;
        must(cudaGraphLaunch(exec, stream), "launch");
        must(cudaStreamSynchronize(stream), "run");
        job_download(j, d);
        if (turn > 0 && !(same_bits(before.result, j.result) && same_bits(before.drawn, j.drawn) &&
                          same_bits(before.verdict, j.verdict) &&
                          same_bits(before.top_token, j.top_token) &&
                          same_bits(before.top_logprob, j.top_logprob)))
            fail("second run, other bits", -1, 0, 0);
    }
    check_behind(j, d);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
    give_all();
}

/* ------------------------------------------------------------------------------- checking */

static int close_calls, rows_checked;

static bool near_enough(float found, double wanted)
{
    if (std::isinf(wanted))
        return found == wanted;
    return fabs((double)found - wanted) <= 2e-5 + 1e-6 * fabs(wanted);
}

static void check_top(const job &j, size_t i, const answer &want)
{
    const uint32_t canary = CANARY;
    for (size_t k = 0; k < j.top_max; k++) {
        int32_t token = j.top_token[i * j.top_max + k];
        float logprob = j.top_logprob[i * j.top_max + k];
        if (k >= want.top.size()) {
            if (memcmp(&token, &canary, 4) != 0)
                return fail("top token that nobody asked for", (long)i, token, 0);
        } else if (token != want.top[k]) {
            return fail("top token", (long)i, token, want.top[k]);
        } else if (!near_enough(logprob, want.top_logprob[k])) {
            return fail("top logprob", (long)i, logprob, want.top_logprob[k]);
        }
    }
}

static void check_row(const job &j, size_t i, const answer &want)
{
    const tn_result &r = j.result[i];
    rows_checked++;
    close_calls += !want.also.empty() && r.token != want.r.token;
    if (r.token != want.r.token)
        fail("token", (long)i, r.token, want.r.token);
    else if (j.drawn[i] != r.token)
        fail("drawn token", (long)i, j.drawn[i], r.token);
    else if ((r.flags & TN_RESULT_NONFINITE) != want.r.flags)
        fail("flags", (long)i, r.flags, want.r.flags);
    else if (want.r.flags != 0 ? r.logprob == r.logprob : !near_enough(r.logprob, want.r.logprob))
        fail("logprob", (long)i, r.logprob, want.r.logprob);
    else if (r.rank != want.r.rank)
        fail("rank", (long)i, r.rank, want.r.rank);
    else if (r.ntop != want.top.size())
        fail("ntop", (long)i, r.ntop, (double)want.top.size());
    else
        check_top(j, i, want);
}

static void job_check(job &j)
{
    job_run(j);
    std::vector<answer> want(j.row.size());
    std::vector<std::thread> thread;
    std::atomic<size_t> next(0);
    auto work = [&] {          /* the twin takes its time over a vocabulary */
        for (size_t i; (i = next++) < want.size();)
            want[i] = twin_answer(j.h, j.row[i], j.result[i].token);
    };
    for (unsigned i = 1; i < std::thread::hardware_concurrency() && j.h.vocab > 5000; i++)
        thread.emplace_back(work);
    work();
    for (std::thread &t : thread)
        t.join();
    for (size_t i = 0; i < want.size(); i++) {
        close_calls += want[i].usual != want[i].r.token;
        check_row(j, i, want[i]);
    }
}

static void open_group(const char *name)
{
    static int before;
    static time_t begun;
    if (group != NULL && failures == before)
        printf("ok %s (%ld s)\n", group, (long)(time(NULL) - begun));
    fflush(stdout);
    before = failures;
    begun = time(NULL);
    group = name;
}

/* ---------------------------------------------------------------------------------- inputs */

static uint64_t dice_state = 1;

static uint32_t dice(uint32_t sides)
{
    dice_state = dice_state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)((dice_state >> 33) % sides);
}

static double unit()
{
    return (dice(1u << 30) + 0.5) / (double)(1u << 30);
}

static double gauss()
{
    return sqrt(-2 * log(unit())) * cos(6.283185307179586 * unit());
}

/* On a grid, so that ties are many and what is no tie is none after a soft cap either. */
static std::vector<float> gauss_row(uint32_t n, double spread)
{
    std::vector<float> x(n);
    for (float &v : x)
        v = (float)(floor(gauss() * spread * 64) / 64);
    return x;
}

static const uint32_t vocab_list[] = {32, 1000, 3000, 49152, 151936, 262144, 100003};

static size_t nvocab()
{
    return light ? 3 : sizeof vocab_list / sizeof vocab_list[0];
}

/* ---------------------------------------------------------------------------------- groups */

static void test_greedy()
{
    open_group("greedy rows, ties, ranks, top lists");
    for (size_t v = 0; v < nvocab(); v++) {
        job j = job_open(vocab_list[v]);
        uint32_t n = light ? 24 : v > 3 ? 12 : 80;
        for (uint32_t i = 0; i < n; i++) {
            ask &a = job_add(j, gauss_row(j.h.vocab, i % 3 == 0 ? 0.05 : 3));
            a.out.flags = i % 4 == 1 ? TN_SAMPLE_SCORE : i % 4 == 2 ? 0 : TN_SAMPLE_GREEDY;
            a.out.temperature = i % 4 == 2 ? 0 : 1;
            a.out.target = i % 4 == 1 ? (int32_t)dice(j.h.vocab) : -1;
            a.out.ntop = i % 21;
            if (i == 5)
                a.out.target = (int32_t)j.h.vocab - 1;
            if (i == 6 || i == 7)
                std::fill(a.x.begin(), a.x.end(), i == 6 ? 0.25f : -0.0f);
            if (i == 8)
                for (size_t k = 0; k < a.x.size(); k++)
                    a.x[k] = k % 7 == 3 ? 0.0f : -0.0f;
            if (i == 10)               /* fewer than the list wants */
                for (size_t k = 0; k < a.x.size(); k++)
                    a.x[k] = k % (a.x.size() / 5) == 1 ? 1.0f : -INFINITY;
            if (i == 11)
                for (size_t k = 0; k < a.x.size(); k++)
                    a.x[k] = (k & 1 ? -3e38f : 3e38f) * (float)unit();
        }
        j.more = 3;
        job_check(j);
    }
}

static void test_shapes()
{
    open_group("padding, soft caps, odd strides, many outputs");
    static const struct { uint32_t vocab, valid, stride, outs; float softcap; } shape[] = {
        {1000, 990, 1024, 3, 0}, {1000, 1, 1024, 2, 0}, {1000, 1000, 1001, 5, 30},
        {515, 514, 517, 4, 2}, {4096, 4096, 4096, 2, 0}, {4097, 4095, 4160, 2, 5},
        {33, 32, 64, 130, 0}, {33, 33, 33, 65, 0}, {512, 512, 512, 64, 0}, {64, 0, 64, 2, 0},
    };
    for (size_t i = 0; i < sizeof shape / sizeof shape[0]; i++) {
        job j = job_open(shape[i].vocab);
        j.h.valid = shape[i].valid;
        j.h.softcap = shape[i].softcap;
        j.stride = shape[i].stride;
        for (uint32_t o = 0; o < shape[i].outs; o++) {
            ask &a = job_add(j, gauss_row(j.h.vocab, 1.5));
            for (uint32_t k = j.h.valid; k < j.h.vocab; k++)
                a.x[k] = k % 2 == 0 ? NAN : INFINITY;
            a.out.flags = o % 3 == 0 ? TN_SAMPLE_GREEDY : o % 7 == 1 ? TN_SAMPLE_SCORE : 0;
            a.out.target = (int32_t)j.h.vocab - 1;
            a.out.ntop = o % 4;
            a.out.seed = o;
            a.out.top_k = o % 3 == 1 ? 5 : 0;
        }
        job_check(j);
    }
}

static void test_not_finite()
{
    open_group("rows that are not finite, and their neighbours");
    job j = job_open(light ? 1500 : 151936);
    for (uint32_t i = 0; i < 18; i++) {
        ask &a = job_add(j, gauss_row(j.h.vocab, 2));
        a.out.flags = i % 3 == 0 ? TN_SAMPLE_GREEDY : i % 3 == 1 ? TN_SAMPLE_SCORE : 0;
        a.out.target = i % 3 == 1 ? 3 : -1;
        a.out.ntop = i % 2 * 4;
        uint32_t at = dice(j.h.vocab);
        if (i % 2 == 0)
            continue;
        if (i < 6)
            a.x[at] = NAN;
        else if (i < 9)
            a.x[at] = INFINITY;
        else if (i == 9)
            a.x[at] = -NAN;
        else if (i < 14)
            std::fill(a.x.begin(), a.x.end(), -INFINITY);
        else if (i == 15)
            a.mask.assign((j.h.vocab + 31) / 32, 0);
        else
            a.bias.push_back(tn_bias{(int32_t)at, INFINITY});
    }
    ask &spread = job_add(j, gauss_row(j.h.vocab, 2));
    std::fill(spread.x.begin(), spread.x.end(), -INFINITY);
    spread.x[j.h.vocab - 2] = -5;
    spread.out.ntop = 3;
    job_check(j);
}

static void add_history(ask &a, uint32_t vocab, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        a.history.push_back((int32_t)dice(dice(3) == 0 ? vocab : vocab < 40 ? vocab : 40));
    if (n > 4) {
        a.history[1] = -1;
        a.history[2] = (int32_t)vocab + 5;
    }
    a.out.nprompt = dice(n + 1);
}

/* Whatever a row may ask for, by dice. */
static void ask_anything(ask &a, uint32_t vocab, bool changes)
{
    static const float t[] = {0.7f, 1, 1.5f, 0.2f, 3, 0.01f, 100, 1e-38f, 1e30f, 0};
    static const float p[] = {1, 1, 0.9f, 0.5f, 0.95f, 0, 1e-6f, 0.999999f, 0.99f, 2};
    static const float m[] = {0, 0, 0, 0.05f, 0.5f, 1, 1e-9f};
    const int32_t k[] = {0, 0, 1, 5, 50, 40, (int32_t)vocab, (int32_t)vocab - 1, 300,
                         (int32_t)vocab / 2};
    a.out.temperature = t[dice(10)];
    a.out.top_p = p[dice(10)];
    a.out.min_p = m[dice(7)];
    a.out.top_k = k[dice(10)];
    a.out.seed = (uint64_t)dice(1u << 30) << 32 | dice(1u << 30);
    a.out.draw = dice(10000);
    a.out.ntop = dice(4) == 0 ? dice(21) : 0;
    a.out.flags = dice(8) == 0 ? TN_SAMPLE_GREEDY : 0;
    if (!changes)
        return;
    if (dice(2) == 0) {
        a.out.repetition = dice(2) ? 1.3f : 0.7f;
        a.out.frequency = dice(2) ? 0.4f : 0;
        a.out.presence = dice(2) ? 0.3f : dice(2) ? -0.7f : 0;
        add_history(a, vocab, dice(3) == 0 ? dice(2000) : dice(30));
    }
    if (dice(2) == 0)
        for (uint32_t i = 0, at = dice(5); i < 30 && at < vocab; i++, at += 1 + dice(vocab / 10))
            a.bias.push_back(tn_bias{(int32_t)at, dice(4) == 0 ? -INFINITY : (float)gauss()});
    if (dice(2) == 0) {
        a.mask.resize((vocab + 31) / 32);
        for (uint32_t &w : a.mask)
            w = dice(3) == 0 ? 0xffffffffu : dice(3) == 0 ? 0 : dice(1u << 30) * 4 + dice(4);
        a.mask[dice((uint32_t)a.mask.size())] |= 1;
    }
}

static void test_anything(bool changes)
{
    open_group(changes ? "masks, bias, penalties" : "temperature, min_p, top_k, top_p");
    for (size_t v = 0; v < nvocab(); v++) {
        static const double spread[] = {0, 0.05, 0.7, 3, 12};
        uint32_t rounds = light ? 1 : v > 2 ? 2 : 16, n = light && v > 1 ? 40 : v > 2 ? 24 : 64;
        for (uint32_t round = 0; round < rounds; round++) {
            job j = job_open(vocab_list[v]);
            for (uint32_t i = 0; i < n; i++)
                ask_anything(job_add(j, gauss_row(j.h.vocab, spread[dice(5)])), j.h.vocab,
                             changes);
            job_check(j);
        }
    }
}

/* The token that leads is the first of the reply, or the last of the prompt, which
 * presence and frequency leave alone. */
static void test_prompt_ends()
{
    open_group("where the reply begins in a history");
    job j = job_open(light ? 600 : 151936);
    for (uint32_t i = 0; i < 32; i++) {
        ask &a = job_add(j, std::vector<float>(j.h.vocab, 1.0f));
        a.out.flags = TN_SAMPLE_GREEDY;
        a.out.presence = i % 4 < 2 ? 1.0f : 0;
        a.out.frequency = 0.5f;
        for (uint32_t k = 0; k < 300; k++)
            a.history.push_back((int32_t)(k * 2));
        uint32_t leads = dice(300);
        a.out.nprompt = leads + i % 2;
        a.x[a.history[leads]] = 1.4f;
    }
    job_check(j);
}

static void test_single()
{
    open_group("all but one token forbidden");
    job j = job_open(light ? 2000 : 151936);
    for (uint32_t i = 0; i < 12; i++) {
        ask &a = job_add(j, gauss_row(j.h.vocab, 2));
        uint32_t one = dice(j.h.vocab);
        ask_anything(a, j.h.vocab, false);
        if (i % 2 == 0) {
            a.mask.assign((j.h.vocab + 31) / 32, 0);
            a.mask[one / 32] = 1u << one % 32;
        } else {
            for (uint32_t k = 0; k < j.h.vocab; k++)
                if (k != one)
                    a.bias.push_back(tn_bias{(int32_t)k, -INFINITY});
        }
    }
    job_check(j);
}

/* ----------------------------------------------------------------------------------- edges */

/* A seed under which `token` wins against all of `left`; 0: too seldom to look for. */
static uint64_t seed_for(int32_t token, const std::vector<int32_t> &left,
                         const std::vector<double> &v)
{
    double sum = 0;
    for (int32_t i : left)
        sum += exp(v[i]);
    const double need = log(sum) + 1 - v[token];
    if (need > 13)
        return 0;
    for (uint64_t seed = 1;; seed++) {
        if (ldexp((double)twin_bits(seed, 0, (uint32_t)token), -64) > exp(-need))
            continue;
        double mine = v[token] + twin_gumbel(seed, 0, (uint32_t)token);
        bool wins = true;
        for (int32_t i : left)
            wins = wins && (i == token || v[i] + twin_gumbel(seed, 0, (uint32_t)i) < mine - 1e-3);
        if (wins)
            return seed;
    }
}

static int edges;

static void add_winner(job &j, const std::vector<float> &x, gpu_out w,
                       const std::vector<int32_t> &left, const std::vector<double> &v)
{
    w.row = (int32_t)j.row.size();
    w.seed = seed_for(left.back(), left, v);
    if (w.seed == 0)
        return;
    job_add(j, x).out = w;
    edges++;
}

/* The last one that is left must be drawn under its seed, the next one never. */
static void add_edge(job &j, const std::vector<float> &x, gpu_out w)
{
    std::vector<double> v = twin_values(w, x);
    std::vector<int32_t> left = twin_left(w, x, v, 0), all = twin_sort(v);
    add_winner(j, x, w, left, v);
    if (left.size() == all.size())
        return;
    left.push_back(all[left.size()]);
    add_winner(j, x, w, left, v);
}

/* top_p that ends in the middle of the n-th. */
static float top_p_of(const std::vector<double> &v, size_t n)
{
    std::vector<int32_t> id = twin_sort(v);
    double all = 0, before = 0;
    for (size_t i = 0; i < id.size(); i++) {
        all += exp(v[id[i]]);
        if (i + 1 < n)
            before += exp(v[id[i]]);
    }
    return (float)((before + 0.5 * exp(v[id[n - 1]])) / all);
}

static std::vector<std::vector<float>> edge_rows(uint32_t vocab)
{
    std::vector<std::vector<float>> rows(7, std::vector<float>(vocab));
    for (uint32_t i = 0; i < vocab; i++) {
        rows[0][i] = 1.5f;                                      /* all equal */
        rows[1][i] = i % 3 == 0 ? 2.0f : i % 3 == 1 ? 1.0f : 0.5f; /* three heaps */
        rows[2][i] = (float)((uint64_t)i * 7919 % vocab) / (float)vocab; /* a slope */
        rows[3][i] = -(float)(i % 41) / 4;                      /* stairs */
        rows[4][i] = -0.001f * (float)((uint64_t)i * 104729 % 977); /* steep, many equals */
        rows[5][i] = i % 2 ? 100.0f : (float)gauss();           /* two heaps far apart */
        rows[6][i] = i == 5 ? 13.8f : rows[2][i] / 2;           /* one leads by far */
    }
    return rows;
}

static void test_edges()
{
    open_group("where top_k, top_p and min_p cut");
    const uint32_t vocab = light ? 4100 : 50021;
    const size_t place[] = {1, 30, 600, vocab / 3, vocab / 2 - 7, vocab - 3};
    for (const std::vector<float> &x : edge_rows(vocab)) {
        job j = job_open(vocab);
        gpu_out w = plain_out(0);
        w.temperature = x[5] == 13.8f ? 64 : 1;
        std::vector<double> v = twin_values(w, x);
        for (size_t n : place) {
            w.top_p = top_p_of(v, n);
            add_edge(j, x, w);
            w.top_k = (int32_t)vocab / 4;
            w.top_p = 1;
            add_edge(j, x, w);
            w.top_k = (int32_t)n;
            add_edge(j, x, w);
            w.top_k = 0;
        }
        w.min_p = 0.6f;
        add_edge(j, x, w);
        w.temperature = 1e30f;
        w.min_p = 0;
        w.top_p = 0.3000003f;
        add_edge(j, x, w);
        job_check(j);
    }
    if (edges < 60)
        fail("edges looked at", -1, edges, 60);
}

/* ---------------------------------------------------------------------------------- drafts */

/* Sequences of drafts of 1 to 5 rows, now and then one without, rows of padding between. */
static job draft_job()
{
    job j = job_open(64);
    j.nslot = 40;
    for (int32_t q = 0; q < 20; q++) {
        int32_t n = 1 + (int32_t)dice(5), row0 = (int32_t)j.row_seq.size();
        bool drafts = dice(4) != 0;
        tn_seq seq = tn_seq();
        seq.row0 = row0;
        seq.nrow = n;
        seq.state_out = dice(5) == 0 ? -1 : 39 - q;
        seq.flags = drafts ? TN_SEQ_DRAFT : 0;
        for (int32_t i = 0; i < n; i++) {
            j.row_seq.push_back(q);
            if (dice(12) == 0)
                continue;
            ask &a = job_add(j, gauss_row(64, 2));
            a.out.row = row0 + i;
            a.out.flags = dice(15) == 0 ? TN_SAMPLE_SCORE : TN_SAMPLE_GREEDY;
            a.out.target = 5;
            a.out.draft = dice(6) == 0 ? -1 : twin_sort(a.x)[dice(4) == 0];
            if (a.out.flags == TN_SAMPLE_SCORE)
                a.out.draft = 5;
            if (dice(20) == 0)
                a.x[7] = NAN;
        }
        j.seq.push_back(seq);
        for (uint32_t i = dice(3); i > 1; i--)
            j.row_seq.push_back(-1);
    }
    return j;
}

/* From the definition, one after the other. */
static void check_drafts(const job &j)
{
    std::vector<int32_t> verdict(j.nslot, CANARY);
    for (const tn_seq &q : j.seq)
        if ((q.flags & TN_SEQ_DRAFT) != 0 && q.state_out >= 0)
            verdict[q.state_out] = q.nrow > 0;
    int32_t last_row = -2, last_seq = -1;
    bool last_stands = true, last_draft = false;
    for (size_t i = 0; i < j.row.size(); i++) {
        const gpu_out &w = j.row[i].out;
        int32_t q = j.row_seq[w.row];
        bool follows = w.row == last_row + 1 && q >= 0 && q == last_seq && last_draft;
        bool stands = (!follows || last_stands) && w.draft >= 0 && w.flags != TN_SAMPLE_SCORE &&
                      j.result[i].token == w.draft;
        if (((j.result[i].flags & TN_RESULT_ACCEPTED) != 0) != stands)
            fail("accepted", (long)i, j.result[i].flags, stands);
        if (stands && q >= 0 && (j.seq[q].flags & TN_SEQ_DRAFT) && j.seq[q].state_out >= 0)
            verdict[j.seq[q].state_out]++;
        last_row = w.row;
        last_seq = q;
        last_stands = stands;
        last_draft = w.draft >= 0;
    }
    for (uint32_t i = 0; i < j.nslot; i++)
        if (verdict[i] != j.verdict[i])
            fail("verdict of slot", i, j.verdict[i], verdict[i]);
}

static void test_drafts()
{
    open_group("drafts of several sequences");
    for (int round = 0; round < (light ? 6 : 40); round++) {
        job j = draft_job();
        job_check(j);
        check_drafts(j);
    }
    job j = draft_job();
    j.row.clear();                /* no outputs: verdicts all the same */
    j.more = 2;
    job_run(j);
    check_drafts(j);
}

/* ----------------------------------------------------------------------------- expectations */

/* What the device cpu draws (plugins/cpu/sample.c) from logits x[i] = i * 7919 % 2003 / 128. */
static const struct known_draw {
    uint32_t vocab;
    float temperature, top_p, min_p;
    int32_t top_k;
    uint64_t seed, draw;
    float repetition, frequency, presence;
    int32_t token;
    float logprob;
} known[] = {
    {32, 1, 1, 0, 0, 1u, 0u, 1, 0, 0, 3, -3.02093339},
    {32, 1, 1, 0, 0, 1u, 1u, 1, 0, 0, 2, -2.29437089},
    {1000, 1, 1, 0, 0, 12345678901234567u, 3u, 1, 0, 0, 754, -4.29790783},
    {1000, 2, 0.899999976, 0, 0, 42u, 7u, 1, 0, 0, 518, -4.96197033},
    {1000, 5, 1, 0, 50, 43u, 8u, 1, 0, 0, 733, -4.68853283},
    {1000, 5, 0.800000012, 0, 50, 44u, 9u, 1, 0, 0, 776, -4.63384533},
    {1000, 1, 1, 0.200000003, 0, 45u, 10u, 1, 0, 0, 928, -5.53228283},
    {1000, 3, 1, 0, 0, 46u, 11u, 1.29999995, 0.200000003, 0.100000001, 885, -5.58697033},
    {5000, 30, 0.949999988, 0, 0, 47u, 12u, 1, 0, 0, 1405, -9.43776226},
    {5000, 30, 0.5, 0, 3000, 48u, 13u, 1.20000005, 0, 0, 992, -6.68776274},
    {5000, 1.00000002e+30, 0.300000012, 0, 0, 49u, 14u, 1, 0, 0, 4312, -9.01588726},
    {5000, 100, 1, 0, 0, 18446744073709551615u, 4294967295u, 1, 0, 0, 2107, -18.7346382},
};

static void test_known()
{
    open_group("tokens that the device cpu draws");
    for (const known_draw &k : known) {
        job j = job_open(k.vocab);
        std::vector<float> x(k.vocab);
        for (uint32_t i = 0; i < k.vocab; i++)
            x[i] = (float)(i * 7919 % 2003) / 128;
        ask &a = job_add(j, x);
        a.out.temperature = k.temperature;
        a.out.top_p = k.top_p;
        a.out.min_p = k.min_p;
        a.out.top_k = k.top_k;
        a.out.seed = k.seed;
        a.out.draw = k.draw;
        a.out.repetition = k.repetition;
        a.out.frequency = k.frequency;
        a.out.presence = k.presence;
        for (int32_t i = 0; i < 60; i++)
            a.history.push_back(i * i % 37 * 11);
        a.out.nprompt = 20;
        job_run(j);
        if (j.result[0].token != k.token)
            fail("token", &k - known, j.result[0].token, k.token);
        if (!near_enough(j.result[0].logprob, k.logprob))
            fail("logprob", &k - known, j.result[0].logprob, k.logprob);
    }
}

/* Draws against probabilities: chi-square of 31 degrees of freedom, 61.1 is passed by chance
 * once in a thousand times; seeds are fixed, so either always or never. */
static void test_distribution()
{
    const uint32_t n = light ? 512 : 20480, at_once = 256;
    for (int kind = 0; kind < 3; kind++) {
        open_group(kind == 0 ? "distribution, plain" : kind == 1 ? "distribution, cut"
                                                                 : "distribution, changed");
        std::vector<float> x = gauss_row(32, 1);
        std::vector<double> count(32), p(32);
        gpu_out w = plain_out(0);
        w.temperature = 1.3f;
        w.top_k = kind == 1 ? 20 : 0;
        w.top_p = kind == 1 ? 0.9f : 1;
        ask changed;
        changed.out = w;
        if (kind == 2)
            for (int32_t i = 0; i < 32; i += 3)
                changed.bias.push_back(tn_bias{i, 0.5f});
        std::vector<float> z = twin_changed(changed, x);
        std::vector<double> v = twin_values(w, z);
        std::vector<int32_t> left = twin_left(w, z, v, 0);
        double sum = 0, chi = 0;
        for (int32_t i : left)
            sum += p[i] = exp(v[i]);
        for (uint32_t first = 0; first < n; first += at_once) {
            job j = job_open(32);
            for (uint32_t i = 0; i < at_once; i++) {
                ask &a = job_add(j, x);
                a.out = w;
                a.out.row = (int32_t)i;
                a.out.seed = (first + i) / 100;
                a.out.draw = (first + i) % 100;
                a.bias = changed.bias;
            }
            job_run(j);
            for (uint32_t i = 0; i < at_once; i++)
                count[j.result[i].token & 31]++;
        }
        for (int i = 0; i < 32; i++) {
            double want = p[i] / sum * n;
            if (want == 0 && count[i] > 0)
                fail("draws of a token that is cut", i, count[i], 0);
            chi += want > 0 ? (count[i] - want) * (count[i] - want) / want : 0;
        }
        if (!(chi < 61.1))
            fail("chi-square", kind, chi, 61.1);
    }
}

#include "cuda_sample_bench.h"

int main(int argc, char **argv)
{
    light = light || (argc > 1 && strcmp(argv[1], "--small") == 0);
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        bench_all();
        return 0;
    }
    test_greedy();
    test_shapes();
    test_not_finite();
    test_anything(false);
    test_anything(true);
    test_prompt_ends();
    test_single();
    test_edges();
    test_drafts();
    test_known();
    test_distribution();
    open_group("rounding decides seldom");
    if (close_calls * 100 > rows_checked)
        fail("close calls", rows_checked, close_calls, rows_checked / 100);
    open_group(NULL);
    printf("%d rows, %d decided by rounding, %d failures\n", rows_checked, close_calls, failures);
    return failures != 0;
}

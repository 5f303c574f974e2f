/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_bench.c - `tenon bench latency|throughput DIR`: speed, against this machine's memory.
 *
 * latency: B requests of I tokens in, O out, at once. Prefill is over when the last of them
 * has its first token; decode is what follows. The bound of a decode step is the time it
 * takes to read the packed weights once and each sequence's cache; the read bandwidth is
 * measured in the same run, between the repetitions.
 * throughput: N requests through the queue, total tokens over total time. */
#include "answer.h"
#include "command.h"
#include "house.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const tn_flag own[] = {
    {"input-len", NULL, 1, "Prompt tokens (128)."},
    {"output-len", NULL, 1, "Reply tokens (128)."},
    {"batch-size", NULL, 1, "latency: requests at once (1)."},
    {"num-prompts", NULL, 1, "throughput: requests in all (32)."},
    {"repeat", NULL, 1, "latency: repetitions, the median counts (3)."},
    {"json", NULL, 0, "Prints one JSON object."},
};

typedef struct shape {
    int64_t in, out, batch, prompts, repeat;
} shape;

typedef struct sample {
    double ttft, prefill, decode; /* seconds, tok/s, tok/s */
} sample;

static tn_status read_shape(const tn_flags *f, bool latency, shape *s, tn_err *err)
{
    tn_status st = tn_command_int(f, "input-len", 128, 1, 1 << 24, &s->in, err);
    if (st == TN_OK)
        st = tn_command_int(f, "output-len", 128, 1, 1 << 24, &s->out, err);
    if (st == TN_OK)
        st = tn_command_int(f, "batch-size", 1, 1, 1024, &s->batch, err);
    if (st == TN_OK)
        st = tn_command_int(f, "num-prompts", 32, 1, 65536, &s->prompts, err);
    if (st == TN_OK)
        st = tn_command_int(f, "repeat", 3, 1, 1000, &s->repeat, err);
    if (st == TN_OK && latency && s->out < 2)
        st = tn_fail(err, TN_USAGE, "--output-len: 1; expected at least 2 to time decoding");
    return st;
}

/* Prompt ids spread over the vocabulary, different for every request and repetition. */
static void fill_prompt(int32_t *ids, int64_t n, uint32_t vocab, uint64_t salt)
{
    uint64_t x = salt * 0x9E3779B97F4A7C15u + 1;
    for (int64_t i = 0; i < n; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        ids[i] = (int32_t)(x % vocab);
    }
}

static tn_ask make_ask(const shape *s, int32_t *ids)
{
    tn_ask a = tn_ask_default();
    a.prompt.kind = TN_PROMPT_IDS;
    a.prompt.ids = ids;
    a.prompt.nid = (uint64_t)s->in;
    a.max_tokens = s->out;
    a.temperature = 0;
    a.flags = TN_ASK_IGNORE_EOS;
    return a;
}

/* Starts n requests and waits for all; *started is how many there are to close. */
static tn_status run_batch(const tn_served *m, const shape *s, int64_t n, uint64_t salt,
                           int32_t *ids, tn_answer *c, int64_t *started, tn_err *err)
{
    tn_status st = TN_OK;
    for (*started = 0; *started < n && st == TN_OK; (*started)++) {
        tn_ask a = make_ask(s, ids);
        fill_prompt(ids, s->in, m->conf.vocab, salt + (uint64_t)*started);
        st = tn_answer_open(&c[*started], err);
        if (st != TN_OK)
            return st;
        st = tn_answer_start(&c[*started], m->engine, &a, err);
    }
    for (int64_t i = 0; i < *started && st == TN_OK; i++)
        st = tn_answer_wait(&c[i], err);
    for (int64_t i = 0; i < *started && st != TN_OK; i++)
        tn_answer_cancel(&c[i]);
    for (int64_t i = 0; i < *started && st != TN_OK; i++)
        if (c[i].request != NULL)
            (void)tn_answer_wait(&c[i], NULL);
    return st;
}

static sample measure(const tn_answer *c, const shape *s)
{
    uint64_t begun = UINT64_MAX, first = 0, last = 0;
    double ttft = 0, later = 0;
    for (int64_t i = 0; i < s->batch; i++) {
        later += (double)(c[i].ntoken - c[i].nfirst);
        begun = c[i].begun_ns < begun ? c[i].begun_ns : begun;
        first = c[i].first_ns > first ? c[i].first_ns : first;
        last = c[i].last_ns > last ? c[i].last_ns : last;
        ttft += (double)(c[i].first_ns - c[i].begun_ns) / 1e9 / (double)s->batch;
    }
    /* Sequences that began earlier have tokens before `first`: with prompts in one token
     * budget that is at most one step's worth, which the small batch of a latency run hides. */
    sample r = {.ttft = ttft};
    r.prefill = (double)(s->batch * s->in) / ((double)(first - begun) / 1e9);
    /* A reply so short that all of it came in one piece has no decode to time: then the whole
     * request's rate, which is less, stands for it. */
    if (later > 0 && last > first)
        r.decode = later / ((double)(last - first) / 1e9);
    else
        r.decode = (double)(s->batch * s->out) / ((double)(last - begun) / 1e9);
    return r;
}

static int by_decode(const void *a, const void *b)
{
    double x = ((const sample *)a)->decode, y = ((const sample *)b)->decode;
    return (x > y) - (x < y);
}

/* Bytes that one decode step reads: the weights once, every sequence's cache at its mean
 * length. */
static double step_bytes(const tn_served *m, const shape *s)
{
    double tokens = (double)s->in + (double)s->out / 2;
    double cache = tokens * (double)m->need.block_bytes / (double)m->limits.block_tokens;
    return (double)m->token_bytes + cache * (double)s->batch;
}

static tn_status print_latency(const tn_served *m, const shape *s, const sample *r,
                               double bandwidth, bool json, tn_err *err)
{
    char text[1024], share[96];
    double bytes = step_bytes(m, s), a_token = bytes / (double)s->batch;
    double ratio = r->decode * a_token / bandwidth;
    if (json || ratio <= 1)
        snprintf(share, sizeof share, "%.4f", ratio);
    else
        snprintf(share, sizeof share, "unknown: others used the memory while it was measured");
    const char *form =
        json ? "{\"input_len\": %lld, \"output_len\": %lld, \"batch_size\": %lld, "
               "\"prefill_tok_s\": %.2f, \"decode_tok_s\": %.2f, \"ttft_s\": %.5f, "
               "\"bytes_per_token\": %.0f, \"bandwidth_bytes_s\": %.0f, \"bandwidth_ratio\": "
               "%s, \"device\": \"%s\"}\n"
             : "input %lld, output %lld, batch %lld\nprefill           %.1f tok/s\ndecode         "
               "   %.1f tok/s\nfirst token       %.4f s\nbytes a token     %.0f\nread bandwidth  "
               "  %.0f B/s\nshare of bound    %s\ndevice            %s\n";
    int n = snprintf(text, sizeof text, form, (long long)s->in, (long long)s->out,
                     (long long)s->batch, r->prefill, r->decode, r->ttft, a_token, bandwidth,
                     share, m->info.name);
    return tn_command_print(text, (size_t)n, err);
}

static tn_status measure_bandwidth(const tn_served *m, double *out, tn_err *err)
{
    if (m->device->table->bandwidth != NULL)
        return m->device->table->bandwidth(m->dev, out, err);
    return tn_fail(err, TN_UNAVAILABLE, "bench: device %s does not measure its bandwidth; expected "
                   "one that does", m->device->name);
}

static tn_status run_latency(tn_house *h, const shape *s, tn_err *err)
{
    tn_served *m = &h->served[0];
    bool json = tn_flags_value(h->flags, "json") != NULL;
    int32_t *ids = calloc((size_t)s->in, sizeof *ids);
    tn_answer *c = calloc((size_t)s->batch, sizeof *c);
    sample *r = calloc((size_t)s->repeat, sizeof *r);
    double best = 0;
    tn_status st = ids == NULL || c == NULL || r == NULL ? tn_fail(err, TN_NO_MEMORY, "no memory")
                                                         : TN_OK;
    for (int64_t i = 0; i < s->repeat && st == TN_OK; i++) {
        int64_t started = 0;
        double bandwidth = 0;
        st = measure_bandwidth(m, &bandwidth, err);
        best = bandwidth > best ? bandwidth : best;
        if (st == TN_OK)
            st = run_batch(m, s, s->batch, (uint64_t)(i * s->batch + 1), ids, c, &started, err);
        if (st == TN_OK)
            r[i] = measure(c, s);
        for (int64_t j = 0; j < started; j++)
            tn_answer_close(&c[j]);
    }
    if (st == TN_OK) {
        qsort(r, (size_t)s->repeat, sizeof *r, by_decode);
        st = print_latency(m, s, &r[s->repeat / 2], best, json, err);
    }
    free(ids);
    free(c);
    free(r);
    return st;
}

static tn_status run_throughput(tn_house *h, const shape *s, tn_err *err)
{
    tn_served *m = &h->served[0];
    int32_t *ids = calloc((size_t)s->in, sizeof *ids);
    tn_answer *c = calloc((size_t)s->prompts, sizeof *c);
    int64_t started = 0;
    tn_status st = ids == NULL || c == NULL ? tn_fail(err, TN_NO_MEMORY, "no memory") : TN_OK;
    if (st == TN_OK)
        st = run_batch(m, s, s->prompts, 1, ids, c, &started, err);
    uint64_t begun = UINT64_MAX, last = 0;
    for (int64_t i = 0; i < started; i++) {
        begun = c[i].begun_ns < begun ? c[i].begun_ns : begun;
        last = c[i].last_ns > last ? c[i].last_ns : last;
    }
    if (st == TN_OK) {
        char text[512];
        double seconds = (double)(last - begun) / 1e9;
        const char *form = tn_flags_value(h->flags, "json") != NULL
                               ? "{\"requests\": %lld, \"seconds\": %.3f, \"requests_s\": %.3f, "
                                 "\"total_tok_s\": %.2f, \"output_tok_s\": %.2f}\n"
                               : "requests          %lld\ntime              %.2f s\nrequests        "
                                 "  %.2f /s\ntokens in and out %.1f tok/s\ntokens out        %.1f "
                                 "tok/s\n";
        int n = snprintf(text, sizeof text, form, (long long)s->prompts, seconds,
                         (double)s->prompts / seconds,
                         (double)(s->prompts * (s->in + s->out)) / seconds,
                         (double)(s->prompts * s->out) / seconds);
        st = tn_command_print(text, (size_t)n, err);
    }
    for (int64_t i = 0; i < started; i++)
        tn_answer_close(&c[i]);
    free(ids);
    free(c);
    return st;
}

int tn_cmd_bench(int argc, char *const *argv)
{
    tn_err err = {{0}, {0}, {0}};
    tn_house h;
    const char *first = argc > 0 ? argv[0] : "";
    bool latency = strcmp(first, "latency") == 0;
    bool help = strcmp(first, "--help") == 0 || strcmp(first, "-h") == 0;
    int words = help ? 0 : 1;
    if (!latency && !help && strcmp(first, "throughput") != 0)
        return tn_command_fail(tn_fail(&err, TN_USAGE, "bench: expected latency or throughput"),
                               &err);
    /* Reused prefixes would flatter prefill. Every request may run at once. */
    static const char *const set[] = {"prefix_caching", "no", "request_timeout", "0", "queue",
                                      "65536", NULL};
    const char *batch = latency ? tn_flags_early(argc, argv, "batch-size") : NULL;
    const char *const set_batch[] = {"prefix_caching", "no", "request_timeout", "0", "queue",
                                     "65536", "max_num_seqs", batch, NULL};
    tn_house_setup setup = {.command = help ? "bench latency|throughput"
                                            : latency ? "bench latency" : "bench throughput",
                            .argc = argc - words, .argv = argv + words, .own = own,
                            .nown = sizeof own / sizeof *own, .words_most = 1,
                            .set = batch != NULL ? set_batch : set,
                            .flags = TN_HOUSE_QUIET | TN_HOUSE_MODEL_WORD};
    shape s;
    tn_status st = tn_house_open(&setup, &h, &err);
    if (st == TN_CANCELLED)
        return 0; /* --help */
    if (st != TN_OK)
        return tn_command_fail(st, &err);
    st = read_shape(h.flags, latency, &s, &err);
    if (st == TN_OK)
        st = latency ? run_latency(&h, &s, &err) : run_throughput(&h, &s, &err);
    tn_house_close(&h);
    return st == TN_OK ? 0 : tn_command_fail(st, &err);
}

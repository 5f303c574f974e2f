/* SPDX-License-Identifier: Apache-2.0 */
/* servestats.c - what a served model tells Prometheus, under the names vLLM uses. */
#include "servestats.h"

#include "buf.h"

#define LABELS_MAX 1024u
#define TOKEN_BOUNDS_MAX 32u

enum stat {
    RUNNING, WAITING, CACHE_USAGE, CACHE_USAGE_OLD, CACHE_INFO,
    PROMPT_TOKENS, REPLY_TOKENS, PROMPT_CACHED, SOURCE_COMPUTED, SOURCE_CACHED,
    PREEMPTIONS, CACHE_QUERIES, CACHE_HITS, CORRUPTED, STATES_USED, STATES_KEPT,
    CHECK_SAME, CHECK_DIFFERS,
    DRAFT_TURNS, DRAFTS, DRAFTS_STOOD, STOOD_0, STOOD_1, STOOD_2, STOOD_3,
    END_STOP, END_LENGTH, END_ABORT, END_ERROR,
    REQ_PROMPT, REQ_REPLY, REQ_MAX_REPLY, REQ_MAX_TOKENS, REQ_N, REQ_COMPUTED, STEP_TOKENS,
    FIRST_TOKEN, BETWEEN, BETWEEN_OLD, PER_TOKEN,
    WHOLE, QUEUE, INFERENCE, PREFILL, DECODE,
    STATS
};
_Static_assert(STATS <= TN_STAT_COUNT, "tn_serve_stats.id is too short");

typedef enum bounds {
    NO_BOUNDS, TOKENS, CHOICES, STEP, FIRST, GAP, LONG
} bounds;

typedef struct series {
    const char *name, *help;
    const char *label;           /* beside model_name and engine, or NULL */
    uint8_t type, bounds;
} series;

static const double choice_bounds[] = {1, 2, 5, 10, 20};
static const double step_bounds[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192,
                                     16384};
static const double first_bounds[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25,
                                      0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640,
                                      2560};
static const double gap_bounds[] = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
                                    0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80};
static const double long_bounds[] = {0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50,
                                     60, 120, 240, 480, 960, 1920, 7680};

#define STOOD "vllm:spec_decode_num_accepted_tokens_per_pos"
#define GAUGE(n, h) {n, h, NULL, TN_METRIC_GAUGE, NO_BOUNDS}
#define COUNTER(n, h, l) {n, h, l, TN_METRIC_COUNTER, NO_BOUNDS}
#define HISTOGRAM(n, h, b) {n, h, NULL, TN_METRIC_HISTOGRAM, b}

static const series all[STATS] = {
    [RUNNING] = GAUGE("vllm:num_requests_running", "Sequences in the running batch."),
    [WAITING] = GAUGE("vllm:num_requests_waiting", "Sequences waiting to run."),
    [CACHE_USAGE] = GAUGE("vllm:kv_cache_usage_perc", "Share of cache blocks in use, 0 to 1."),
    [CACHE_USAGE_OLD] = GAUGE("vllm:gpu_cache_usage_perc",
                              "Older name of vllm:kv_cache_usage_perc."),
    [PROMPT_TOKENS] = COUNTER("vllm:prompt_tokens", "Prompt tokens processed.", NULL),
    [REPLY_TOKENS] = COUNTER("vllm:generation_tokens", "Tokens generated.", NULL),
    [PROMPT_CACHED] = COUNTER("vllm:prompt_tokens_cached",
                              "Prompt tokens found in the prefix cache.", NULL),
    [SOURCE_COMPUTED] = COUNTER("vllm:prompt_tokens_by_source",
                                "Prompt tokens by where they came from.",
                                "source=\"local_compute\""),
    [SOURCE_CACHED] = COUNTER("vllm:prompt_tokens_by_source",
                              "Prompt tokens by where they came from.",
                              "source=\"local_cache_hit\""),
    [PREEMPTIONS] = COUNTER("vllm:num_preemptions",
                            "Sequences put back because cache blocks ran out.", NULL),
    [CACHE_QUERIES] = COUNTER("vllm:prefix_cache_queries",
                              "Tokens looked up in the prefix cache.", NULL),
    [CACHE_HITS] = COUNTER("vllm:prefix_cache_hits", "Tokens found in the prefix cache.", NULL),
    [CORRUPTED] = COUNTER("vllm:corrupted_requests", "Replies ended by NaN logits.", NULL),
    [STATES_USED] = GAUGE("tenon:states_used", "Recurrent states of sequences."),
    [STATES_KEPT] = GAUGE("tenon:states_kept", "Recurrent states kept for prefix caching."),
    [CHECK_SAME] = COUNTER("tenon:prefix_checks", "Replies run again without the prefix cache.",
                           "result=\"same\""),
    [CHECK_DIFFERS] = COUNTER("tenon:prefix_checks", "Replies run again without the prefix cache.",
                              "result=\"different\""),
    [DRAFT_TURNS] = COUNTER("vllm:spec_decode_num_drafts",
                            "Turns of sequences that verified drafts.", NULL),
    [DRAFTS] = COUNTER("vllm:spec_decode_num_draft_tokens", "Tokens drafted.", NULL),
    [DRAFTS_STOOD] = COUNTER("vllm:spec_decode_num_accepted_tokens", "Drafts that stood.", NULL),
    [STOOD_0] = COUNTER(STOOD, "Drafts that stood, by place in their turn.", "position=\"0\""),
    [STOOD_1] = COUNTER(STOOD, "Drafts that stood, by place in their turn.", "position=\"1\""),
    [STOOD_2] = COUNTER(STOOD, "Drafts that stood, by place in their turn.", "position=\"2\""),
    [STOOD_3] = COUNTER(STOOD, "Drafts that stood, by place in their turn.", "position=\"3\""),
    [END_STOP] = COUNTER("vllm:request_success", "Finished replies by reason.",
                         "finished_reason=\"stop\""),
    [END_LENGTH] = COUNTER("vllm:request_success", "Finished replies by reason.",
                           "finished_reason=\"length\""),
    [END_ABORT] = COUNTER("vllm:request_success", "Finished replies by reason.",
                          "finished_reason=\"abort\""),
    [END_ERROR] = COUNTER("vllm:request_success", "Finished replies by reason.",
                          "finished_reason=\"error\""),
    [REQ_PROMPT] = HISTOGRAM("vllm:request_prompt_tokens", "Prompt tokens a reply.", TOKENS),
    [REQ_REPLY] = HISTOGRAM("vllm:request_generation_tokens", "Tokens a reply.", TOKENS),
    [REQ_MAX_REPLY] = HISTOGRAM("vllm:request_max_num_generation_tokens",
                                "Tokens that a reply could have had.", TOKENS),
    [REQ_MAX_TOKENS] = HISTOGRAM("vllm:request_params_max_tokens", "The max_tokens asked for.",
                                 TOKENS),
    [REQ_N] = HISTOGRAM("vllm:request_params_n", "Choices asked for.", CHOICES),
    [REQ_COMPUTED] = HISTOGRAM("vllm:request_prefill_kv_computed_tokens",
                               "Prompt tokens computed, cached ones left out.", TOKENS),
    [STEP_TOKENS] = HISTOGRAM("vllm:iteration_tokens_total", "Tokens a step.", STEP),
    [FIRST_TOKEN] = HISTOGRAM("vllm:time_to_first_token_seconds",
                              "From arrival to the first token.", FIRST),
    [BETWEEN] = HISTOGRAM("vllm:inter_token_latency_seconds", "From token to token.", GAP),
    [BETWEEN_OLD] = HISTOGRAM("vllm:time_per_output_token_seconds",
                              "Older name of vllm:inter_token_latency_seconds.", GAP),
    [PER_TOKEN] = HISTOGRAM("vllm:request_time_per_output_token_seconds",
                            "Mean time a token after the first, a reply.", GAP),
    [WHOLE] = HISTOGRAM("vllm:e2e_request_latency_seconds", "From arrival to the end.", LONG),
    [QUEUE] = HISTOGRAM("vllm:request_queue_time_seconds", "From arrival to the first step.",
                        LONG),
    [INFERENCE] = HISTOGRAM("vllm:request_inference_time_seconds",
                            "From the first step to the last token.", LONG),
    [PREFILL] = HISTOGRAM("vllm:request_prefill_time_seconds",
                          "From the first step to the first token.", LONG),
    [DECODE] = HISTOGRAM("vllm:request_decode_time_seconds",
                         "From the first token to the last.", LONG),
};

static const char *const outcome_name[TN_OUTCOME_COUNT] = {
    [TN_OUTCOME_ACCEPTED] = "tenon:requests_accepted",
    [TN_OUTCOME_COMPLETED] = "tenon:requests_completed",
    [TN_OUTCOME_CANCELLED] = "tenon:requests_cancelled",
    [TN_OUTCOME_TIMED_OUT] = "tenon:requests_timed_out",
    [TN_OUTCOME_FAILED] = "tenon:requests_failed",
    [TN_OUTCOME_REJECTED] = "tenon:requests_rejected",
};

/* ---------------------------------------------------------------------------- declaring */

/* 1, 2, 5, 10, 20, ... below `most`, then `most`. */
static uint32_t token_bounds(uint32_t most, double out[TOKEN_BOUNDS_MAX])
{
    static const uint32_t digit[] = {1, 2, 5};
    uint32_t n = 0;
    for (uint64_t ten = 1; n + 4 < TOKEN_BOUNDS_MAX; ten *= 10)
        for (int i = 0; i < 3; i++) {
            if (ten * digit[i] >= most) {
                out[n++] = most;
                return n;
            }
            out[n++] = (double)(ten * digit[i]);
        }
    return n;
}

static const double *bounds_of(const series *s, const double *tokens, uint32_t ntokens,
                               uint32_t *n)
{
#define GIVE(array) (*n = sizeof array / sizeof array[0], array)
    switch (s->bounds) {
    case TOKENS:
        *n = ntokens;
        return tokens;
    case CHOICES:
        return GIVE(choice_bounds);
    case STEP:
        return GIVE(step_bounds);
    case FIRST:
        return GIVE(first_bounds);
    case GAP:
        return GIVE(gap_bounds);
    case LONG:
        return GIVE(long_bounds);
    default:
        *n = 0;
        return NULL;
    }
#undef GIVE
}

/* A label value: backslash, quote and newline are escaped, the rest is kept. */
static void put_value(tn_buf *b, const char *text)
{
    for (; *text != 0; text++) {
        if (*text == '\n')
            tn_buf_puts(b, "\\n");
        else if (*text == '\\' || *text == '"')
            tn_buf_printf(b, "\\%c", *text);
        else
            tn_buf_putc(b, *text);
    }
}

static void add_cache_info(tn_serve_stats *s, const tn_stats_setup *setup)
{
    static const char *const dtype[] = {[TN_F32] = "float32", [TN_F16] = "float16",
                                        [TN_BF16] = "bfloat16", [TN_F8_E4M3] = "fp8_e4m3"};
    const char *name = setup->cache_dtype < sizeof dtype / sizeof dtype[0]
                           ? dtype[setup->cache_dtype] : NULL;
    tn_buf b;
    tn_buf_open(&b, LABELS_MAX);
    tn_buf_printf(&b, "block_size=\"%u\",cache_dtype=\"%s\",enable_prefix_caching=\"%s\","
                  "num_gpu_blocks=\"%u\",engine=\"0\",served=\"",
                  setup->block_tokens, name != NULL ? name : "auto",
                  setup->prefix_caching ? "True" : "False", setup->nblock);
    put_value(&b, setup->name);
    tn_buf_putc(&b, '"');
    s->id[CACHE_INFO] = b.failed ? TN_NONE
                                 : tn_metrics_add(s->metrics, TN_METRIC_GAUGE,
                                                  "vllm:cache_config_info",
                                                  "How the cache is set up.", b.data, NULL, 0);
    tn_buf_close(&b);
    tn_metrics_put(s->metrics, s->id[CACHE_INFO], 1);
}

static tn_status labels_make(tn_buf *b, const char *model, const char *more, tn_err *err)
{
    tn_buf_reset(b);
    tn_buf_puts(b, "model_name=\"");
    put_value(b, model);
    tn_buf_puts(b, "\",engine=\"0\"");
    if (more != NULL)
        tn_buf_printf(b, ",%s", more);
    if (b->failed)
        return tn_fail(err, TN_CONFIG, "metrics: the model's name is too long for a label; "
                       "expected at most %u bytes", LABELS_MAX - 100);
    return TN_OK;
}

static tn_status add_all(tn_serve_stats *s, const tn_stats_setup *setup, tn_buf *labels,
                         tn_err *err)
{
    double tokens[TOKEN_BOUNDS_MAX];
    uint32_t ntokens = token_bounds(setup->context_max, tokens);
    for (uint32_t i = 0; i < STATS; i++) {
        uint32_t nbound;
        if (i == CACHE_INFO)
            continue;
        const double *bound = bounds_of(&all[i], tokens, ntokens, &nbound);
        tn_status st = labels_make(labels, setup->name, all[i].label, err);
        if (st != TN_OK)
            return st;
        s->id[i] = tn_metrics_add(s->metrics, all[i].type, all[i].name, all[i].help,
                                  labels->data, bound, nbound);
    }
    tn_status st = labels_make(labels, setup->name, NULL, err);
    for (uint32_t i = 0; i < TN_OUTCOME_COUNT && st == TN_OK; i++)
        s->outcome_id[i] = tn_metrics_add(s->metrics, TN_METRIC_COUNTER, outcome_name[i],
                                          "Requests by outcome; accepted counts them all.",
                                          labels->data, NULL, 0);
    return st;
}

tn_status tn_stats_open(tn_serve_stats *s, const tn_stats_setup *setup, tn_err *err)
{
    tn_buf labels;
    s->metrics = setup->metrics;
    for (uint32_t i = 0; i < TN_STAT_COUNT; i++)
        s->id[i] = TN_NONE;
    for (uint32_t i = 0; i < TN_OUTCOME_COUNT; i++) {
        s->outcome_id[i] = TN_NONE;
        atomic_init(&s->outcome[i], 0);
    }
    if (s->metrics == NULL)
        return TN_OK;
    tn_buf_open(&labels, LABELS_MAX);
    tn_status st = add_all(s, setup, &labels, err);
    if (st == TN_OK)
        add_cache_info(s, setup);
    tn_buf_close(&labels);
    return st;
}

/* ------------------------------------------------------------------------------ telling */

static void put(tn_serve_stats *s, uint32_t stat, double value)
{
    tn_metrics_put(s->metrics, s->id[stat], value);
}

static void put_seconds(tn_serve_stats *s, uint32_t stat, uint64_t from_ns, uint64_t to_ns)
{
    put(s, stat, to_ns > from_ns ? (double)(to_ns - from_ns) * 1e-9 : 0);
}

void tn_stats_outcome(tn_serve_stats *s, uint32_t outcome)
{
    atomic_fetch_add_explicit(&s->outcome[outcome], 1, memory_order_relaxed);
    tn_metrics_put(s->metrics, s->outcome_id[outcome], 1);
}

void tn_stats_put_check(tn_serve_stats *s, bool differs)
{
    put(s, differs ? CHECK_DIFFERS : CHECK_SAME, 1);
}

void tn_stats_put_step(tn_serve_stats *s, const tn_stats_step *v)
{
    put(s, RUNNING, v->running);
    put(s, WAITING, v->waiting);
    put(s, CACHE_USAGE, v->cache_usage);
    put(s, CACHE_USAGE_OLD, v->cache_usage);
    if (v->rows > 0)
        put(s, STEP_TOKENS, v->rows);
    if (v->npreempt > 0)
        put(s, PREEMPTIONS, v->npreempt);
    if (v->cache_queries > 0)
        put(s, CACHE_QUERIES, (double)v->cache_queries);
    if (v->cache_hits > 0)
        put(s, CACHE_HITS, (double)v->cache_hits);
    put(s, STATES_USED, v->states_used);
    put(s, STATES_KEPT, v->states_kept);
    if (v->ndrafted == 0)
        return;
    put(s, DRAFT_TURNS, (double)v->ndrafted);
    put(s, DRAFTS, (double)v->ndraft);
    put(s, DRAFTS_STOOD, (double)v->nstood);
    for (int i = 0; i < 4; i++)
        put(s, STOOD_0 + i, (double)v->stood_at[i]);
}

void tn_stats_put_prompt(tn_serve_stats *s, uint32_t nprompt, uint32_t ncached)
{
    put(s, PROMPT_TOKENS, nprompt);
    put(s, PROMPT_CACHED, ncached);
    put(s, SOURCE_CACHED, ncached);
    put(s, SOURCE_COMPUTED, nprompt - ncached);
}

void tn_stats_put_tokens(tn_serve_stats *s, uint32_t ntoken, bool first, uint64_t gap_ns)
{
    put(s, REPLY_TOKENS, ntoken);
    if (first)
        put_seconds(s, FIRST_TOKEN, 0, gap_ns);
    double each = (double)gap_ns * 1e-9 / ntoken;
    for (uint32_t i = first; i < ntoken; i++) {
        /* Tokens that came together with the first cost nothing more. */
        put(s, BETWEEN, first ? 0 : each);
        put(s, BETWEEN_OLD, first ? 0 : each);
    }
}

static void put_times(tn_serve_stats *s, const tn_stats_end *v)
{
    put_seconds(s, WHOLE, v->arrival_ns, v->now_ns);
    if (v->begun_ns == 0)
        return;
    put_seconds(s, QUEUE, v->arrival_ns, v->begun_ns);
    if (v->first_ns == 0)
        return;
    put_seconds(s, PREFILL, v->begun_ns, v->first_ns);
    put_seconds(s, DECODE, v->first_ns, v->last_ns);
    put_seconds(s, INFERENCE, v->begun_ns, v->last_ns);
    if (v->nreply > 1)
        put(s, PER_TOKEN, (double)(v->last_ns - v->first_ns) * 1e-9 / (v->nreply - 1));
}

void tn_stats_put_end(tn_serve_stats *s, const tn_stats_end *v)
{
    static const uint32_t reason[] = {[TN_FINISH_NONE] = END_ERROR, [TN_FINISH_STOP] = END_STOP,
                                      [TN_FINISH_LENGTH] = END_LENGTH,
                                      [TN_FINISH_ABORT] = END_ABORT,
                                      [TN_FINISH_ERROR] = END_ERROR};
    put(s, reason[v->finish], 1);
    if (v->nan)
        put(s, CORRUPTED, 1);
    put(s, REQ_PROMPT, v->nprompt);
    put(s, REQ_REPLY, v->nreply);
    put(s, REQ_MAX_REPLY, v->max_tokens);
    put(s, REQ_MAX_TOKENS, v->max_tokens);
    put(s, REQ_N, v->nchoice);
    put(s, REQ_COMPUTED, v->nprompt - v->ncached);
    put_times(s, v);
}

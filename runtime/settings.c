/* SPDX-License-Identifier: Apache-2.0 */
/* settings.c - the keys of [tenon] and [model NAME], and their values as structs. */
#include "settings.h"

#include "speculative.h"

#include <stdio.h>

#ifndef TN_PLUGIN_DIR
#define TN_PLUGIN_DIR "/usr/local/lib/tenon"
#endif

#define OPT(t, k, d, h) \
    {.size = sizeof(tn_option), .type = TN_OPT_##t, .key = k, .fallback = d, .help = h}
#define NUM(t, k, d, lo, hi, h) \
    {.size = sizeof(tn_option), .type = TN_OPT_##t, .key = k, .fallback = d, .least = lo, \
     .greatest = hi, .help = h}
#define ENUM(k, d, c, h) \
    {.size = sizeof(tn_option), .type = TN_OPT_ENUM, .key = k, .fallback = d, .choices = c, \
     .help = h}

static const char *const log_levels[] = {"error", "warn", "info", "debug", NULL};
static const char *const log_formats[] = {"text", "json", NULL};
static const char *const dtypes[] = {"auto", "float16", "bfloat16", "float32", "half", "float",
                                     NULL};
static const char *const cache_dtypes[] = {"auto", "float16", "bfloat16", "float32", "fp8",
                                           "fp8_e4m3", NULL};
static const char *const load_formats[] = {"auto", "safetensors", "dummy", NULL};
static const char *const experts[] = {"memory", "mapped", "host", NULL};
static const char *const rank_starters[] = {"auto", "mp", "external_launcher", NULL};
static const char *const requants[] = {"keep", "int8", NULL};

static const tn_option tenon_options[] = {
    OPT(LIST, "plugin_path", TN_PLUGIN_DIR,
        "Absolute folders in which plugins are looked for, with commas between them."),
    ENUM("log_level", "info", log_levels, "The least urgent events that are logged."),
    ENUM("log_format", "text", log_formats, "How a log line is written."),
    OPT(LIST, "keep_environment", "", "Variables of Open MPI, NCCL, UCX and CUDA that may name code to load "
        "and are taken out before plugins are loaded: those to keep."),
    NUM(INT, "drain_timeout", "30", 0, 86400,
        "Seconds that running requests get to finish at shutdown."),
};

#define GB (1024.0 * 1024.0 * 1024.0)
#define BYTES_MAX (1048576.0 * GB)

static const tn_option model_options[] = {
    OPT(PATH, "path", "", "The model's folder."),
    OPT(TEXT, "quant", "auto", "The quant plugin that reads the weights; auto asks all."),
    OPT(TEXT, "device", "auto", "The device plugin that computes; auto takes the first of the INI that opens."),
    ENUM("dtype", "auto", dtypes, "Type of the activations; auto takes config.json's, or the weights' own."),
    OPT(BOOL, "exact", "no", "Compute in float32 throughout, slowly, as the reference."),
    NUM(INT, "max_model_len", "0", -1, 1048576,
        "Tokens of prompt and reply together; 0 takes the model's own limit."),
    NUM(INT, "max_num_seqs", "16", 1, 1024, "Sequences that run at once."),
    NUM(INT, "max_num_batched_tokens", "512", 1, 1048576, "Tokens in one step."),
    NUM(SIZE, "memory", "0", 0, BYTES_MAX,
        "Budget of each rank for weights, cache and workspace; 0 takes what is free."),
    NUM(SIZE, "kv_cache_memory", "0", 0, BYTES_MAX,
        "Budget for the cache alone; 0 takes what the budget leaves."),
    NUM(FLOAT, "gpu_memory_utilization", "0", 0, 1, "Share of the device's memory that may be in use once "
        "all is taken, other programs' included, where memory names no budget; 0: 0.9 of a card."),
    NUM(INT, "num_gpu_blocks_override", "0", 0, 2147483647, "Blocks of the cache, whatever the budget "
        "leaves; 0: as it does."),
    NUM(SIZE, "cpu_memory", "0", 0, BYTES_MAX, "Most of the host's memory that experts = host may take "
        "beside a card, for each rank; 0 sets no limit."),
    ENUM("kv_cache_dtype", "auto", cache_dtypes, "Type of the cached keys and values."),
    NUM(INT, "block_size", "0", 0, 4096, "Tokens a cache block; 0 takes the device's own."),
    OPT(BOOL, "prefix_caching", "yes", "Reuse the cache of prompts that begin alike."),
    NUM(FLOAT, "prefix_check", "0", 0, 1, "Share of the requests that hit that cache to compute again "
        "without it and compare, to find faults; 0: none."),
    NUM(INT, "state_snapshots", "16", 0, 65536,
        "Recurrent states kept for prefix caching beside the running ones."),
    NUM(INT, "snapshot_interval", "2048", 0, 1048576,
        "Prompt tokens between such snapshots; 0 keeps them at the ends of turns only."),
    NUM(INT, "drafts", "0", 0, 4, "Tokens drafted ahead by the model's own MTP module, if it has one."),
    OPT(PATH, "draft_path", "", "A folder whose MTP module is taken, plain or quantized, instead of path's."),
    OPT(TEXT, "speculative_config", "", "The two keys before as other servers take them: a JSON object "
        "with method (mtp, qwen3_next_mtp), num_speculative_tokens and model."),
    OPT(BOOL, "allow_links", "no", "Follow links out of the model's folder (a hub's cache)."),
    OPT(BOOL, "lax_index", "no", "Open a folder whose index has a wrong total_size."),
    OPT(BOOL, "strict_weights", "no", "Refuse weights that are NaN or infinite; otherwise they "
        "are counted in the log."),
    ENUM("experts", "memory", experts, "Where routed experts live: packed in memory; mapped, "
         "where they stay in the files and are packed when chosen; or host, where a card has as "
         "many as there is room for and reads the others from the host's memory."),
    NUM(SIZE, "experts_memory", "0", 0, BYTES_MAX, "Budget for packed copies of mapped experts, or for "
        "those on the card with host; 0 takes what the budget leaves."),
    ENUM("load_format", "auto", load_formats, "Where weights come from: auto and safetensors read "
         "the folder's files; dummy needs only its config.json and makes random ones."),
    ENUM("head", "keep", requants, "Requantize a 16-bit output head at load."),
    ENUM("dense", "keep", requants, "Requantize other 16-bit weights at load."),
    NUM(INT, "tensor_parallel_size", "1", 1, 64, "Ranks that share the model, a process each."),
    OPT(TEXT, "communicator", "auto", "The plugin that joins the ranks; auto: of the loaded ones "
        "that work on the device's memory, the fastest for each size, measured at the start."),
    NUM(INT, "rank_timeout", "30", 1, 86400, "Seconds after which a rank that says nothing, or cannot "
        "be reached, is lost."),
    NUM(INT, "rank_patience", "60", 1, 86400, "Seconds for all ranks to come at the start."),
    ENUM("distributed_executor_backend", "auto", rank_starters, "Who starts the ranks: mp, tenon itself; "
         "external_launcher, mpirun or srun; auto, a launcher where there is one."),
    NUM(INT, "nnodes", "1", 1, 64, "Hosts that share the ranks, each with as many; the same command "
        "runs on all of them."),
    NUM(INT, "node_rank", "0", 0, 63, "Which of these hosts this is; 0 answers clients."),
    OPT(TEXT, "master_addr", "", "Address of host 0, where the others find it; empty: MASTER_ADDR of "
        "the environment, or 127.0.0.1."),
    NUM(INT, "master_port", "0", 0, 65535, "Port there; 0: MASTER_PORT of the environment, or 29501."),
    OPT(BOOL, "headless", "no", "This host answers no clients, as is true of all but host 0."),
    OPT(BOOL, "rank_check", "no", "Compare the results of all ranks after every step, to find faults."),
    NUM(INT, "seed", "0", -9.2e18, 9.2e18, "Where unseeded requests draw their seeds from; 0: the system."),
    OPT(LIST, "served_name", "", "Names that clients may use; empty: the section's name."),
    OPT(TEXT, "chat_template", "", "A file with a template, or the template; empty: the "
        "model's own."),
    OPT(TEXT, "generation_config", "auto", "Where sampling defaults come from: auto (the "
        "model's folder), vllm (nowhere), or a folder."),
    OPT(TEXT, "override_generation_config", "", "A JSON object over those defaults."),
    NUM(INT, "max_logprobs", "20", 0, 1024, "Most log-probabilities a request may ask for."),
    NUM(INT, "queue", "0", 0, 65536, "Requests that may wait; 0 takes 4 x max_num_seqs."),
    NUM(INT, "request_timeout", "300", 0, 86400,
        "Seconds a request may take in all; 0 sets no limit."),
    OPT(PATH, "session_dir", "", "The folder of conversations that clients save; empty: they "
        "save none."),
    NUM(SIZE, "session_space", "16GiB", 0, BYTES_MAX,
        "Most bytes that the files of session_dir may take together."),
};

#define COUNT(a) ((uint32_t)(sizeof(a) / sizeof(a)[0]))

const tn_option *tn_settings_options(uint32_t *n)
{
    *n = COUNT(tenon_options);
    return tenon_options;
}

const tn_option *tn_model_options(uint32_t *n)
{
    *n = COUNT(model_options);
    return model_options;
}

static tn_status values_of(const tn_conf *c, uint32_t kind, const char *name,
                           const char *section, tn_values **out, tn_err *err)
{
    uint32_t n;
    tn_values *v;
    const tn_option *table =
        kind == TN_CONF_MODEL ? tn_model_options(&n) : tn_settings_options(&n);
    tn_status st = tn_values_open(section, &v, err);
    if (st != TN_OK)
        return st;
    st = tn_values_add(v, table, n, err);
    if (st == TN_OK)
        st = tn_conf_fill(c, kind, name, false, v, err);
    if (st != TN_OK) {
        tn_values_close(v);
        return st;
    }
    *out = v;
    return TN_OK;
}

static const char *text_of(const tn_values *v, const char *key)
{
    return tn_values_find(v, key)->text;
}

static int64_t int_of(const tn_values *v, const char *key)
{
    return tn_values_find(v, key)->i;
}

/* An enum's value as its place among the choices. */
static uint32_t place_of(const tn_values *v, const char *key)
{
    const tn_value *at = tn_values_find(v, key);
    uint32_t i = 0;
    while (strcmp(at->option.choices[i], at->text) != 0)
        i++;
    return i;
}

static tn_status check_folders(const tn_value *v, tn_err *err)
{
    for (uint32_t i = 0; i < v->count; i++)
        if (v->item[i][0] != '/')
            return tn_fail(err, TN_CONFIG, "%s: [tenon] plugin_path holds %s; expected an "
                           "absolute folder", v->origin ? v->origin : "default", v->item[i]);
    return TN_OK;
}

tn_status tn_settings_open(const tn_conf *c, tn_settings *out, tn_err *err)
{
    tn_settings s = {.values = NULL};
    tn_status st = values_of(c, TN_CONF_TENON, "", "tenon", &s.values, err);
    if (st != TN_OK)
        return st;
    const tn_value *path = tn_values_find(s.values, "plugin_path");
    st = check_folders(path, err);
    if (st != TN_OK) {
        tn_values_close(s.values);
        return st;
    }
    s.nplugin_path = path->count;
    s.plugin_path = path->item;
    const tn_value *keep = tn_values_find(s.values, "keep_environment");
    s.nkeep_environment = keep->count;
    s.keep_environment = keep->item;
    s.log_level = TN_LOG_ERROR + place_of(s.values, "log_level");
    s.log_json = place_of(s.values, "log_format") == 1;
    s.drain_timeout = (uint32_t)int_of(s.values, "drain_timeout");
    *out = s;
    return TN_OK;
}

void tn_settings_close(tn_settings *s)
{
    tn_values_close(s->values);
    *s = (tn_settings){.values = NULL};
}

static void fill_model(const tn_values *v, tn_model_settings *s)
{
    static const uint32_t types[] = {0, TN_F16, TN_BF16, TN_F32, TN_F16, TN_F32};
    static const uint32_t cache_types[] = {0, TN_F16, TN_BF16, TN_F32, TN_F8_E4M3, TN_F8_E4M3};
    const tn_value *served = tn_values_find(v, "served_name");
    s->path = text_of(v, "path");
    s->quant = text_of(v, "quant");
    s->device = text_of(v, "device");
    s->dtype = types[place_of(v, "dtype")];
    s->exact = int_of(v, "exact") != 0;
    s->max_model_len = int_of(v, "max_model_len") < 0 ? 0 : int_of(v, "max_model_len");
    s->max_num_seqs = (uint32_t)int_of(v, "max_num_seqs");
    s->max_num_batched_tokens = (uint32_t)int_of(v, "max_num_batched_tokens");
    s->memory = (uint64_t)int_of(v, "memory");
    s->kv_cache_memory = (uint64_t)int_of(v, "kv_cache_memory");
    s->gpu_memory_utilization = tn_values_find(v, "gpu_memory_utilization")->f;
    s->num_gpu_blocks_override = (uint32_t)int_of(v, "num_gpu_blocks_override");
    s->cpu_memory = (uint64_t)int_of(v, "cpu_memory");
    s->kv_cache_dtype = cache_types[place_of(v, "kv_cache_dtype")];
    s->block_size = (uint32_t)int_of(v, "block_size");
    s->prefix_caching = int_of(v, "prefix_caching") != 0;
    s->prefix_check = tn_values_find(v, "prefix_check")->f;
    s->state_snapshots = s->prefix_caching ? (uint32_t)int_of(v, "state_snapshots") : 0;
    s->drafts = (uint32_t)int_of(v, "drafts");
    s->draft_path = text_of(v, "draft_path");
    s->snapshot_interval = (uint32_t)int_of(v, "snapshot_interval");
    s->allow_links = int_of(v, "allow_links") != 0;
    s->lax_index = int_of(v, "lax_index") != 0;
    s->strict_weights = int_of(v, "strict_weights") != 0;
    s->mapped = place_of(v, "experts") == 1;
    s->host_experts = place_of(v, "experts") == 2;
    s->experts_memory = (uint64_t)int_of(v, "experts_memory");
    s->dummy = place_of(v, "load_format") == 2;
    s->head_int8 = place_of(v, "head") == 1;
    s->dense_int8 = place_of(v, "dense") == 1;
    s->tensor_parallel_size = (uint32_t)int_of(v, "tensor_parallel_size");
    s->communicator = text_of(v, "communicator");
    s->rank_check = int_of(v, "rank_check") != 0;
    s->rank_timeout = (uint32_t)int_of(v, "rank_timeout");
    s->rank_patience = (uint32_t)int_of(v, "rank_patience");
    s->rank_starter = place_of(v, "distributed_executor_backend");
    s->nnodes = (uint32_t)int_of(v, "nnodes");
    s->node_rank = (uint32_t)int_of(v, "node_rank");
    s->master_addr = text_of(v, "master_addr");
    s->master_port = (uint32_t)int_of(v, "master_port");
    s->headless = int_of(v, "headless") != 0;
    s->seed = int_of(v, "seed");
    s->nserved_name = served->count;
    s->served_name = served->item;
    s->chat_template = text_of(v, "chat_template");
    s->generation_config = text_of(v, "generation_config");
    s->override_generation_config = text_of(v, "override_generation_config");
    s->max_logprobs = (uint32_t)int_of(v, "max_logprobs");
    s->queue = (uint32_t)int_of(v, "queue");
    if (s->queue == 0)
        s->queue = 4 * s->max_num_seqs;
    s->request_timeout = (uint32_t)int_of(v, "request_timeout");
    s->session_dir = text_of(v, "session_dir");
    s->session_space = (uint64_t)int_of(v, "session_space");
}

tn_status tn_model_settings_open(const tn_conf *c, const char *name, tn_model_settings *out,
                                 tn_err *err)
{
    char section[160];
    tn_model_settings s = {.name = name};
    snprintf(section, sizeof section, "model %s", name);
    tn_status st = values_of(c, TN_CONF_MODEL, name, section, &s.values, err);
    if (st != TN_OK)
        return st;
    st = tn_speculative_apply(s.values, err);
    if (st != TN_OK) {
        tn_values_close(s.values);
        return st;
    }
    fill_model(s.values, &s);
    *out = s;
    return TN_OK;
}

void tn_model_settings_close(tn_model_settings *s)
{
    tn_values_close(s->values);
    *s = (tn_model_settings){.values = NULL};
}

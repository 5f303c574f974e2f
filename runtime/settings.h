/* SPDX-License-Identifier: Apache-2.0 */
/* settings.h - the keys of [tenon] and [model NAME], and their values as structs.
 *
 * All texts are borrowed from `values`, which the struct owns. */
#ifndef TN_SETTINGS_H
#define TN_SETTINGS_H

#include "conf.h"
#include "option.h"

typedef struct tn_settings {
    tn_values *values;
    uint32_t nplugin_path;
    char **plugin_path;        /* absolute folders, searched in order */
    uint32_t nkeep_environment;
    char **keep_environment;   /* variables that are not taken out, see cleanenv.h */
    uint32_t log_level;        /* TN_LOG_* */
    bool log_json;
    uint32_t drain_timeout;    /* seconds that running requests get at shutdown */
} tn_settings;

typedef struct tn_model_settings {
    tn_values *values;
    const char *name;          /* of the section, borrowed from the conf */
    const char *path;          /* "" when not given */
    const char *quant;         /* "auto" or a plugin's name */
    const char *device;        /* "auto" or a plugin's name */
    uint32_t dtype;            /* TN_F16, TN_BF16, TN_F32; 0: auto */
    bool exact;                /* fp32 throughout: the oracle */
    int64_t max_model_len;     /* 0: from the model's config */
    uint32_t max_num_seqs;
    uint32_t max_num_batched_tokens;
    uint64_t memory;           /* of each rank: weights, cache and workspace; 0: auto */
    uint64_t kv_cache_memory;  /* 0: what is left */
    double gpu_memory_utilization;    /* share of the device's memory in use in the end; 0: auto */
    uint32_t num_gpu_blocks_override; /* blocks of the cache, 0: as the budget says */
    uint64_t cpu_memory;       /* of the host's, for experts beside a card; 0: no limit */
    uint32_t kv_cache_dtype;   /* TN_F16, TN_BF16, TN_F32, TN_F8_E4M3; 0: auto */
    uint32_t block_size;       /* 0: the device's own */
    bool prefix_caching;
    double prefix_check;       /* share of its hits to compute again, 0 to 1 */
    uint32_t state_snapshots;  /* recurrent states kept beside the running ones */
    uint32_t snapshot_interval; /* prompt tokens between them, 0: at the ends of turns only */
    uint32_t drafts;           /* tokens drafted ahead, 0: none */
    const char *draft_path;    /* folder of the drafting module; "": the model's own */
    bool allow_links;          /* of the model folder, to files outside it */
    bool mapped;               /* routed experts stay in the files */
    bool host_experts;         /* what the device has no room for stays in the host's memory */
    uint64_t experts_memory;   /* of packed copies of mapped ones, or the device's; 0: what is left */
    bool dummy;                /* load_format: random numbers instead of the files' */
    bool lax_index;            /* a wrong total_size is logged, not refused */
    bool strict_weights;       /* NaN and infinities are refused, not only counted */
    bool head_int8, dense_int8; /* requantized at load */
    uint32_t tensor_parallel_size;
    const char *communicator;  /* "auto" or a plugin's name */
    bool rank_check;           /* compare what the ranks draw */
    uint32_t rank_timeout, rank_patience; /* seconds */
    uint32_t rank_starter;     /* 0: a launcher where there is one, 1: tenon, 2: a launcher */
    uint32_t nnodes, node_rank; /* hosts that share the ranks, and which this is */
    const char *master_addr;   /* of host 0; "": the environment's */
    uint32_t master_port;      /* 0: the environment's */
    bool headless;
    int64_t seed;
    uint32_t nserved_name;     /* 0: the section's name */
    char **served_name;
    const char *chat_template; /* a file, or the template itself; "": the model's own */
    const char *generation_config;          /* "auto", "vllm" (ignore it), or a folder */
    const char *override_generation_config; /* a JSON object, or "" */
    uint32_t max_logprobs;
    uint32_t queue;            /* waiting requests allowed; already 4 x max_num_seqs for 0 */
    uint32_t request_timeout;  /* seconds, 0: none */
    const char *session_dir;   /* folder of saved conversations, "": none are */
    uint64_t session_space;    /* bytes that its files may take */
} tn_model_settings;

/* The tables themselves, for help texts, flags and man pages. */
const tn_option *tn_settings_options(uint32_t *n);
const tn_option *tn_model_options(uint32_t *n);

/* Reads and checks [tenon]. */
tn_status tn_settings_open(const tn_conf *c, tn_settings *out, tn_err *err);
void tn_settings_close(tn_settings *s);
/* Reads and checks [model NAME]. */
tn_status tn_model_settings_open(const tn_conf *c, const char *name, tn_model_settings *out,
                                 tn_err *err);
void tn_model_settings_close(tn_model_settings *s);

#endif

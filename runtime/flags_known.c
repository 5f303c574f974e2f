/* SPDX-License-Identifier: Apache-2.0 */
/* flags_known.c - flag names that other servers taught people to type.
 *
 * These are looked at after every key of the core and of the plugins, save for the MODEL and
 * DEVICE rows: a plugin that offers one of the names below gets it. Names that guard access
 * (api-key, host, ssl-*) are not here: without a plugin that knows them they are errors. */
#include "flags_known.h"

#define MODEL(n, b, t, k) {n, b, TN_KNOWN_MODEL, t, k}
#define IN_CONFIG "not offered; expected it in the model's config.json"
#define IGNORED(n, t) {n, (void *)0, TN_KNOWN_IGNORED, t, (void *)0}

static const tn_known known[] = {
    MODEL("model", 0, TN_TAKES_ONE, "path"),
    MODEL("served-model-name", 0, TN_TAKES_MANY, "served_name"),
    MODEL("quantization", "-q", TN_TAKES_ONE, "quant"),
    MODEL("kv-cache-memory-bytes", 0, TN_TAKES_ONE, "kv_cache_memory"),
    MODEL("enable-prefix-caching", 0, TN_TAKES_NONE, "prefix_caching"),
    MODEL("tensor-parallel-size", "-tp", TN_TAKES_ONE, "tensor_parallel_size"),
    MODEL("nnodes", "-n", TN_TAKES_ONE, "nnodes"),
    MODEL("node-rank", "-r", TN_TAKES_ONE, "node_rank"),
    MODEL("speculative-config", "-sc", TN_TAKES_ONE, "speculative_config"),
    MODEL("cpu-exact", 0, TN_TAKES_NONE, "exact"),

    {"threads", 0, TN_KNOWN_DEVICE, TN_TAKES_ONE, "threads"},

    {"pipeline-parallel-size", "-pp", TN_KNOWN_ONLY, TN_TAKES_ONE, "1"},
    {"data-parallel-size", "-dp", TN_KNOWN_ONLY, TN_TAKES_ONE, "1"},

    {"enable-lora", 0, TN_KNOWN_REFUSED, TN_TAKES_NONE, "LoRA adapters are not served"},
    {"lora-modules", 0, TN_KNOWN_REFUSED, TN_TAKES_MANY, "LoRA adapters are not served"},
    {"hf-overrides", 0, TN_KNOWN_REFUSED, TN_TAKES_ONE, IN_CONFIG},
    {"rope-scaling", 0, TN_KNOWN_REFUSED, TN_TAKES_ONE, IN_CONFIG},
    {"rope-theta", 0, TN_KNOWN_REFUSED, TN_TAKES_ONE, IN_CONFIG},

    IGNORED("tokenizer", TN_TAKES_ONE),
    IGNORED("tokenizer-mode", TN_TAKES_ONE),
    IGNORED("revision", TN_TAKES_ONE),
    IGNORED("tokenizer-revision", TN_TAKES_ONE),
    IGNORED("code-revision", TN_TAKES_ONE),
    IGNORED("hf-config-path", TN_TAKES_ONE),
    IGNORED("download-dir", TN_TAKES_ONE),
    IGNORED("allowed-origins", TN_TAKES_ONE),
    IGNORED("allowed-methods", TN_TAKES_ONE),
    IGNORED("allowed-headers", TN_TAKES_ONE),
    IGNORED("allow-credentials", TN_TAKES_NONE),
    IGNORED("root-path", TN_TAKES_ONE),
    IGNORED("uvicorn-log-level", TN_TAKES_ONE),
    IGNORED("enable-log-requests", TN_TAKES_NONE),
    IGNORED("disable-log-requests", TN_TAKES_NONE),
    IGNORED("max-log-len", TN_TAKES_ONE),
    IGNORED("disable-log-stats", TN_TAKES_NONE),
    IGNORED("cpu-offload-gb", TN_TAKES_ONE),
    IGNORED("swap-space", TN_TAKES_ONE),
    IGNORED("mamba-cache-dtype", TN_TAKES_ONE),
    IGNORED("mamba-ssm-cache-dtype", TN_TAKES_ONE),
    IGNORED("mamba-cache-mode", TN_TAKES_ONE),
    IGNORED("mamba-block-size", TN_TAKES_ONE),
    IGNORED("enable-chunked-prefill", TN_TAKES_NONE),
    IGNORED("max-num-partial-prefills", TN_TAKES_ONE),
    IGNORED("max-long-partial-prefills", TN_TAKES_ONE),
    IGNORED("long-prefill-token-threshold", TN_TAKES_ONE),
    IGNORED("scheduling-policy", TN_TAKES_ONE),
    IGNORED("async-scheduling", TN_TAKES_NONE),
    IGNORED("stream-interval", TN_TAKES_ONE),
    IGNORED("enforce-eager", TN_TAKES_NONE),
    {"compilation-config", "-O", TN_KNOWN_IGNORED, TN_TAKES_ONE, 0},
    IGNORED("cuda-graph-sizes", TN_TAKES_MANY),
    IGNORED("enable-expert-parallel", TN_TAKES_NONE),
    IGNORED("disable-custom-all-reduce", TN_TAKES_NONE),
    IGNORED("trust-remote-code", TN_TAKES_NONE),
    IGNORED("chat-template-content-format", TN_TAKES_ONE),
    IGNORED("default-chat-template-kwargs", TN_TAKES_ONE),
    IGNORED("trust-request-chat-template", TN_TAKES_NONE),
    IGNORED("response-role", TN_TAKES_ONE),
    IGNORED("enable-auto-tool-choice", TN_TAKES_NONE),
    IGNORED("tool-call-parser", TN_TAKES_ONE),
    IGNORED("exclude-tools-when-tool-choice-none", TN_TAKES_NONE),
    IGNORED("reasoning-parser", TN_TAKES_ONE),
    IGNORED("structured-outputs-config", TN_TAKES_ONE),
    IGNORED("guided-decoding-backend", TN_TAKES_ONE),
    IGNORED("logprobs-mode", TN_TAKES_ONE),
    IGNORED("enable-prompt-tokens-details", TN_TAKES_NONE),
    IGNORED("enable-force-include-usage", TN_TAKES_NONE),
    IGNORED("enable-server-load-tracking", TN_TAKES_NONE),
    IGNORED("enable-request-id-headers", TN_TAKES_NONE),
    IGNORED("return-tokens-as-token-ids", TN_TAKES_NONE),
    IGNORED("limit-mm-per-prompt", TN_TAKES_ONE),
};

const tn_known *tn_flags_known(uint32_t *n)
{
    *n = (uint32_t)(sizeof known / sizeof known[0]);
    return known;
}

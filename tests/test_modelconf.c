/* SPDX-License-Identifier: Apache-2.0 */
/* test_modelconf.c - config.json and generation_config.json: what is read, what is refused (rows
 * C02 to C14), and the rotary tables. */
#include "genconf.h"
#include "json.h"
#include "modelconf.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define LLAMA "\"model_type\":\"llama\",\"hidden_size\":64,\"num_hidden_layers\":2," \
              "\"num_attention_heads\":4,\"intermediate_size\":128,\"vocab_size\":1000," \
              "\"max_position_embeddings\":512"

static tn_status read_text(const char *text, tn_model_conf *c, tn_err *err)
{
    tn_json_doc *doc = NULL;
    tn_status st = tn_json_open(text, strlen(text), "config.json", 64, &doc, err);
    if (st == TN_OK)
        st = tn_model_conf_read(tn_json_root(doc), c, err);
    tn_json_close(doc);
    return st;
}

static tn_model_conf good(const char *text)
{
    tn_model_conf c;
    tn_err err = {{0}, {0}, {0}};
    if (read_text(text, &c, &err) != TN_OK)
        fail_msg("%s: %s", text, err.text);
    return c;
}

static void reads_what_matters(void **state)
{
    (void)state;
    tn_model_conf c = good("{" LLAMA ",\"num_key_value_heads\":2,\"rms_norm_eps\":1e-5,"
                           "\"rope_theta\":100000.0,\"tie_word_embeddings\":true,"
                           "\"torch_dtype\":\"bfloat16\",\"bos_token_id\":1,\"eos_token_id\":[2,3],"
                           "\"rope_scaling\":null,\"num_experts\":8}");
    assert_string_equal(c.type, "llama");
    assert_int_equal(c.kv_heads, 2);
    assert_int_equal(c.head_dim, 16);
    assert_true(c.eps == 1e-5f);
    assert_true(c.tied);
    assert_int_equal(c.dtype, TN_BF16);
    assert_int_equal(c.neos, 2);
    assert_int_equal(c.eos[1], 3);
    assert_false(c.qkv_bias);
    assert_false(c.qk_norm);
}

static void families_differ(void **state)
{
    (void)state;
    tn_model_conf q2 = good("{\"model_type\":\"qwen2\",\"hidden_size\":64,\"num_hidden_layers\":2,"
                            "\"num_attention_heads\":4,\"intermediate_size\":128,\"vocab_size\":9,"
                            "\"max_position_embeddings\":512,\"sliding_window\":8,"
                            "\"use_sliding_window\":false}");
    assert_true(q2.qkv_bias);
    assert_false(q2.o_bias);
    assert_int_equal(q2.window[0], 0);
    tn_model_conf q3 = good("{\"model_type\":\"qwen3\",\"hidden_size\":64,\"num_hidden_layers\":2,"
                            "\"num_attention_heads\":4,\"head_dim\":32,\"intermediate_size\":128,"
                            "\"vocab_size\":9,\"max_position_embeddings\":512,"
                            "\"use_sliding_window\":true,\"sliding_window\":8,"
                            "\"max_window_layers\":1}");
    assert_true(q3.qk_norm);
    assert_int_equal(q3.head_dim, 32);
    assert_int_equal(q3.window[0], 0);
    assert_int_equal(q3.window[1], 8);
    tn_model_conf m = good("{\"model_type\":\"mistral\",\"hidden_size\":64,\"num_hidden_layers\":2,"
                           "\"num_attention_heads\":4,\"intermediate_size\":128,\"vocab_size\":9,"
                           "\"max_position_embeddings\":512,\"sliding_window\":16}");
    assert_int_equal(m.window[0], 16);
    tn_model_conf t = good("{" LLAMA ",\"sliding_window\":8,\"layer_types\":"
                           "[\"sliding_attention\",\"full_attention\"]}");
    assert_int_equal(t.window[0], 8);
    assert_int_equal(t.window[1], 0);
}

#define NEXT "\"model_type\":\"qwen3_next\",\"hidden_size\":64,\"num_hidden_layers\":6," \
             "\"num_attention_heads\":4,\"head_dim\":32,\"vocab_size\":1000," \
             "\"max_position_embeddings\":512,\"num_experts\":8,\"num_experts_per_tok\":2," \
             "\"moe_intermediate_size\":16,\"shared_expert_intermediate_size\":48"

/* Released configs name an interval, re-saved ones every layer; both say the same. */
static void hybrids_in_both_spellings(void **state)
{
    (void)state;
    tn_model_conf a = good("{" NEXT ",\"full_attention_interval\":3,\"rope_theta\":1e7,"
                           "\"partial_rotary_factor\":0.25}");
    tn_model_conf b = good("{" NEXT ",\"layer_types\":[\"linear_attention\",\"linear_attention\","
                           "\"full_attention\",\"linear_attention\",\"linear_attention\","
                           "\"full_attention\"],\"rope_parameters\":{\"rope_type\":\"default\","
                           "\"rope_theta\":1e7,\"partial_rotary_factor\":0.25}}");
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(a.mixer[i], i % 3 == 2 ? TN_MIXER_ATTENTION : TN_MIXER_DELTA);
        assert_int_equal(b.mixer[i], a.mixer[i]);
        assert_int_equal(a.mlp[i], TN_MLP_EXPERTS);
    }
    assert_int_equal(a.rope_dims, 8);
    assert_int_equal(b.rope_dims, 8);
    assert_true(a.rope_theta == 1e7 && b.rope_theta == 1e7);
    assert_true(a.norm_offset == 1 && a.attn_gate && a.qk_norm && !a.delta.split);
    assert_int_equal(a.delta.k_heads, 16); /* the class's own numbers where none are given */
    assert_int_equal(a.delta.v_heads, 32);
    assert_int_equal(a.delta.kernel, 4);
    assert_int_equal(a.moe.shared, 48);
    assert_true(a.moe.renorm);
    assert_string_equal(a.prefix, "model.");
}

static void experts_and_dense_layers_mix(void **state)
{
    (void)state;
    tn_model_conf c = good("{" NEXT ",\"intermediate_size\":128,\"decoder_sparse_step\":2,"
                           "\"mlp_only_layers\":[3]}");
    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(c.mlp[i], i % 2 == 1 && i != 3 ? TN_MLP_EXPERTS : TN_MLP_DENSE);
    tn_model_conf q = good("{\"model_type\":\"qwen3_moe\",\"hidden_size\":64,"
                           "\"num_hidden_layers\":1,\"num_attention_heads\":4,\"vocab_size\":9,"
                           "\"max_position_embeddings\":512,\"num_experts\":4,"
                           "\"num_experts_per_tok\":4,\"moe_intermediate_size\":16}");
    assert_false(q.moe.renorm); /* here the class says no */
    assert_int_equal(q.moe.shared, 0);
    tn_model_conf x = good("{\"model_type\":\"mixtral\",\"hidden_size\":64,"
                           "\"num_hidden_layers\":1,\"num_attention_heads\":4,\"vocab_size\":9,"
                           "\"max_position_embeddings\":512,\"num_local_experts\":4,"
                           "\"num_experts_per_tok\":2,\"intermediate_size\":96}");
    assert_int_equal(x.moe.width, 96);
    assert_string_equal(x.moe.up, "w3");
    tn_model_conf v = good("{\"model_type\":\"qwen3_5_moe\",\"text_config\":{\"model_type\":"
                           "\"qwen3_5_moe_text\",\"hidden_size\":64,\"num_hidden_layers\":4,"
                           "\"num_attention_heads\":4,\"vocab_size\":9,\"num_experts\":4,"
                           "\"max_position_embeddings\":512,\"num_experts_per_tok\":2,"
                           "\"moe_intermediate_size\":16},\"tie_word_embeddings\":true}");
    assert_true(v.delta.split && v.moe.renorm && v.tied);
    assert_int_equal(v.moe.shared, 512); /* the classes have one where the config is silent */
    assert_string_equal(v.prefix, "model.language_model.");
    assert_int_equal(v.dtype, 0); /* not said: the weights are asked */
    v = good("{\"model_type\":\"qwen3_5_moe\",\"dtype\":\"bfloat16\",\"text_config\":{\"model_type\":"
             "\"qwen3_5_moe_text\",\"hidden_size\":64,\"num_hidden_layers\":4,"
             "\"num_attention_heads\":4,\"vocab_size\":9,\"num_experts\":4,"
             "\"max_position_embeddings\":512,\"num_experts_per_tok\":2,"
             "\"moe_intermediate_size\":16}}");
    assert_int_equal(v.dtype, TN_BF16);
}

static void families_name_their_class(void **state) /* C02 */
{
    (void)state;
    static const char *const fine[] = {
        "null", "[\"LlamaForCausalLM\"]", "[\"LLaMAForCausalLM\"]", "[\"X\", \"LlamaForCausalLM\"]",
    };
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) {
        char text[512];
        snprintf(text, sizeof text, "{" LLAMA ",\"architectures\":%s}", fine[i]);
        good(text);
    }
}

/* C04: the greatest sizes are read; what follows from them stays in 64 bits. */
static void greatest_sizes(void **state)
{
    (void)state;
    tn_model_conf c = good("{\"model_type\":\"llama\",\"hidden_size\":16777216,"
                           "\"num_hidden_layers\":1024,\"num_attention_heads\":65536,"
                           "\"num_key_value_heads\":65536,\"head_dim\":4096,"
                           "\"intermediate_size\":16777216,\"vocab_size\":16777216,"
                           "\"max_position_embeddings\":134217728}");
    assert_int_equal(c.context, 134217728);
    assert_int_equal((uint64_t)c.heads * c.head_dim, (uint64_t)1 << 28);
}

/* C09, C10, C13: what may be absent, and what is passed over. */
static void defaults(void **state)
{
    (void)state;
    tn_model_conf c = good("{" LLAMA ",\"num_local_experts\":8,\"num_experts_per_tok\":2,"
                           "\"moe_intermediate_size\":64,\"n_routed_experts\":\"many\"}");
    assert_int_equal(c.neos, 0);
    assert_int_equal(c.bos, -1);
    assert_false(c.tied);
    assert_int_equal(good("{" LLAMA ",\"eos_token_id\":null}").neos, 0);
    assert_int_equal(good("{" LLAMA ",\"eos_token_id\":[]}").neos, 0);
    assert_int_equal(good("{" LLAMA ",\"eos_token_id\":999}").eos[0], 999);
}

static void refuses_by_name(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"[]", "not an object"}, /* C01 */
        /* C02 */
        {"{" LLAMA ",\"architectures\":[]}", "no name of a class; expected a list with "
                                             "LlamaForCausalLM"},
        {"{" LLAMA ",\"architectures\":5}", "architectures: no name of a class"},
        {"{" LLAMA ",\"architectures\":[5]}", "architectures: no name of a class"},
        {"{" LLAMA ",\"architectures\":\"LlamaForCausalLM\"}", "expected a list"},
        {"{" LLAMA ",\"architectures\":[\"GPT2LMHeadModel\"]}", "\"GPT2LMHeadModel\""},
        {"{" LLAMA ",\"architectures\":[\"LlamaForSequenceClassification\"]}",
         "expected a list with LlamaForCausalLM"},
        {"{" LLAMA ",\"architectures\":[\"MistralForCausalLM\"]}", "model_type is \"llama\""},
        /* C04 */
        {"{" LLAMA ",\"head_dim\":4097}", "head_dim"},
        {"{\"model_type\":\"llama\",\"hidden_size\":16777217}", "1 to 16777216"},
        {"{\"model_type\":\"llama\",\"hidden_size\":9223372036854775807}", "hidden_size"},
        {"{\"model_type\":\"llama\",\"hidden_size\":9223372036854775808}", "hidden_size"},
        {"{\"model_type\":\"llama\",\"hidden_size\":-64}", "hidden_size"},
        {"{\"model_type\":\"llama\",\"hidden_size\":\"64\"}", "hidden_size"},
        {"{" LLAMA ",\"num_key_value_heads\":0}", "num_key_value_heads"},
        /* C05 */
        {"{" LLAMA ",\"rope_theta\":-1}", "rope_theta"},
        {"{" LLAMA ",\"rope_theta\":\"NaN\"}", "rope_theta"},
        {"{" LLAMA ",\"rope_theta\":1e12}", "rope_theta"},
        {"{" LLAMA ",\"rope_parameters\":{\"rope_theta\":0}}", "rope_theta"},
        {"{" LLAMA ",\"rope_theta\":1e-300}", "rotary frequencies"},
        {"{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":1e-300}}", "factor 1e-300"},
        {"{" LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":1e-310}}", "rotary"},
        {"{" LLAMA ",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":1e-310,"
         "\"original_max_position_embeddings\":1}}", "rotary"},
        {"{" LLAMA ",\"rope_scaling\":[]}", "rope_scaling: no object"},
        {"{" LLAMA ",\"rope_parameters\":8}", "rope_parameters: no object"},
        {"{" LLAMA ",\"rope_parameters\":{\"full_attention\":{\"rope_theta\":7}}}",
         "\"full_attention\" has values of its own"},
        {"{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":-2}}", "factor"},
        {"{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":\"4\"}}", "factor"},
        {"{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\"}}", "factor"},
        {"{" LLAMA ",\"rope_scaling\":{\"type\":7}}", "type"},
        {"{" LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,"
         "\"original_max_position_embeddings\":0}}", "original_max_position_embeddings"},
        {"{" LLAMA ",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
         "\"high_freq_factor\":4}}", "high_freq_factor"},
        {"{" LLAMA ",\"partial_rotary_factor\":1e11}", "partial_rotary_factor"},
        {"{" LLAMA ",\"partial_rotary_factor\":0.01}", "partial_rotary_factor"},
        /* C08 */
        {"{" LLAMA ",\"rms_norm_eps\":1e-50}", "rms_norm_eps"},
        {"{" LLAMA ",\"rms_norm_eps\":1}", "rms_norm_eps"},
        {"{" LLAMA ",\"rms_norm_eps\":\"NaN\"}", "rms_norm_eps"},
        /* C09 */
        {"{" LLAMA ",\"eos_token_id\":2.0}", "eos_token_id"},
        {"{" LLAMA ",\"eos_token_id\":\"</s>\"}", "eos_token_id"},
        {"{" LLAMA ",\"bos_token_id\":1000}", "bos_token_id"},
        {"{" LLAMA ",\"eos_token_id\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}", "at most 16"},
        {"{}", "model_type"},
        {"{\"model_type\":\"gpt2\"}", "llama, mistral, mixtral, qwen2, qwen3, "},
        {"{\"model_type\":5}", "model_type"},
        {"{\"model_type\":\"llama\"}", "hidden_size: missing"},
        {"{" LLAMA ",\"num_key_value_heads\":3}", "num_key_value_heads"},
        {"{" LLAMA ",\"head_dim\":7}", "head_dim"},
        {"{" LLAMA ",\"hidden_act\":\"relu7\"}", "hidden_act"},
        {"{" LLAMA ",\"rms_norm_eps\":0}", "rms_norm_eps"},
        {"{" LLAMA ",\"rms_norm_eps\":-1e-5}", "rms_norm_eps"},
        {"{" LLAMA ",\"rope_theta\":0}", "rope_theta"},
        {"{" LLAMA ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}}", "dynamic"},
        {"{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}}", "factor"},
        {"{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2},"
         "\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":4}}", "two ways"},
        {"{" LLAMA ",\"eos_token_id\":1000}", "eos_token_id"},
        {"{" LLAMA ",\"eos_token_id\":[1,-1]}", "eos_token_id"},
        {"{" LLAMA ",\"torch_dtype\":\"int4\"}", "torch_dtype"},
        {"{" LLAMA ",\"layer_types\":[\"full_attention\"]}", "layer_types"},
        {"{" LLAMA ",\"layer_types\":\"full_attention\"}", "layer_types: no list"},
        {"{" LLAMA ",\"layer_types\":[\"full_attention\",\"linear_attention\"]}", "layer_types[1]"},
        {"{" LLAMA ",\"layer_types\":[\"full_attention\",\"sliding_attention\"]}",
         "layer_types[1]: sliding_attention without"},
        {"{" LLAMA ",\"sliding_window\":-1}", "sliding_window"},
        {"{" LLAMA ",\"num_attention_heads\":65536}", "num_attention_heads"},
        {"{\"model_type\":\"llama\",\"hidden_size\":4611686018427387904}", "hidden_size"},
        {"{" NEXT ",\"linear_num_value_heads\":24}", "linear_num_value_heads"},
        {"{" NEXT ",\"linear_conv_kernel_dim\":1}", "linear_conv_kernel_dim"},
        {"{" NEXT ",\"full_attention_interval\":0}", "full_attention_interval"},
        {"{" NEXT ",\"layer_types\":[\"sliding_attention\"]}", "layer_types"},
        {"{" NEXT ",\"mlp_only_layers\":[6]}", "mlp_only_layers"},
        {"{" NEXT ",\"mlp_only_layers\":[1]}", "intermediate_size: missing"},
        {"{" NEXT ",\"output_gate_type\":\"tanh\"}", "output_gate_type"},
        {"{" NEXT ",\"decoder_sparse_step\":0}", "decoder_sparse_step"},
        {"{\"model_type\":\"llama\",\"hidden_size\":64.5}", "hidden_size"},
        {"{\"model_type\":\"llama\",\"hidden_size\":64,\"num_hidden_layers\":100000}",
         "num_hidden_layers"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tn_model_conf c;
        tn_err err = {{0}, {0}, {0}};
        tn_status st = read_text(bad[i][0], &c, &err);
        if (st != TN_DATA || strstr(err.text, bad[i][1]) == NULL ||
            strncmp(err.text, "config.json: ", 13) != 0)
            fail_msg("%s: status %d, \"%s\"; wanted \"%s\"", bad[i][0], st, err.text, bad[i][1]);
    }
}

/* C05, C08, C14: what is no JSON is refused before anything is read of it. C06. */
static void refuses_the_text(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"{" LLAMA ",\"rope_theta\":NaN}", "config.json:"},
        {"{" LLAMA ",\"rms_norm_eps\":NaN}", "config.json:"},
        {"{" LLAMA ",\"rms_norm_eps\":Infinity}", "config.json:"},
        {"{" LLAMA ",\"rope_theta\":1e999}", "range of a double"},
        {"{" LLAMA ",\"vocab_size\":1000}", "vocab_size"},
        {"{" LLAMA ",\"rope_scaling\":{\"factor\":2,\"factor\":4}}", "factor"},
        {"{\"model_type\":\"llama\",\"hidden_size\":64,\"num_hidden_layers\":2,"
         "\"num_attention_heads\":4,\"intermediate_size\":128,\"vocab_size\":1000,"
         "\"max_position_embeddings\":0}", "max_position_embeddings: 0"},
        {"{\"model_type\":\"llama\",\"hidden_size\":64,\"num_hidden_layers\":2,"
         "\"num_attention_heads\":4,\"intermediate_size\":128,\"vocab_size\":1000,"
         "\"max_position_embeddings\":1000000000000}", "expected 1 to 134217728"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tn_model_conf c;
        tn_err err = {{0}, {0}, {0}};
        if (read_text(bad[i][0], &c, &err) != TN_DATA || strstr(err.text, bad[i][1]) == NULL)
            fail_msg("%s: \"%s\"; wanted \"%s\"", bad[i][0], err.text, bad[i][1]);
    }
}

static tn_status read_generation(const char *text, tn_genconf *g, tn_err *err)
{
    tn_json_doc *doc = NULL;
    tn_genconf_open(g);
    tn_status st = tn_json_open(text, strlen(text), "generation_config.json", 64, &doc, err);
    if (st == TN_OK)
        st = tn_genconf_read(g, tn_json_root(doc), "generation_config.json", 1000, err);
    tn_json_close(doc);
    return st;
}

/* C09, C12 */
static void generation_defaults(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"[]", "not an object"}, {"{\"temperature\":NaN}", "generation_config.json:"},
        {"{\"temperature\":1e999}", "double"}, {"{\"temperature\":-0.1}", "temperature"},
        {"{\"temperature\":2.1}", "temperature"}, {"{\"temperature\":\"hot\"}", "temperature"},
        {"{\"top_p\":0}", "top_p"}, {"{\"top_p\":1.1}", "top_p"}, {"{\"min_p\":-1}", "min_p"},
        {"{\"top_k\":-2}", "top_k"}, {"{\"top_k\":2147483648}", "top_k"},
        {"{\"top_k\":1.5}", "top_k"}, {"{\"repetition_penalty\":0}", "repetition_penalty"},
        {"{\"max_new_tokens\":0}", "max_new_tokens"}, {"{\"eos_token_id\":1000}", "eos_token_id"},
        {"{\"eos_token_id\":[1,\"2\"]}", "eos_token_id"},
        {"{\"eos_token_id\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}", "at most 16"},
        {"{\"temperature\":1,\"temperature\":1}", "temperature"},
    };
    tn_genconf g;
    tn_err err;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err.text[0] = 0;
        if (read_generation(bad[i][0], &g, &err) != TN_DATA || strstr(err.text, bad[i][1]) == NULL)
            fail_msg("%s: \"%s\"; wanted \"%s\"", bad[i][0], err.text, bad[i][1]);
        assert_int_equal(g.neos, 0);
    }
    assert_int_equal(read_generation("{\"temperature\":null,\"top_p\":0.5,\"eos_token_id\":"
                                     "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]}", &g, &err), TN_OK);
    assert_true(isnan(g.defaults.temperature));
    assert_true(g.defaults.top_p == 0.5f);
    tn_genconf_add_eos(&g, 99); /* config.json's own come on top */
    assert_int_equal(g.neos, 17);
    assert_int_equal(g.eos[16], 99);
}

static void near(double found, double wanted)
{
    if (fabs(found - wanted) > 1e-9 * fabs(wanted))
        fail_msg("found %.12g, wanted %.12g", found, wanted);
}

/* Values computed independently, in double precision, from the definitions. */
static void yarn_table(void **state)
{
    (void)state;
    tn_model_conf c = {.rope_dims = 64, .rope_theta = 1e7,
                       .scaling = {.kind = TN_SCALING_YARN, .factor = 4, .original = 262144,
                                   .beta_fast = 32, .beta_slow = 1, .truncate = true,
                                   .attention = 0.1 * log(4) + 1}};
    double inv[32], scale = tn_rope_fill(&c, inv);
    near(scale, 1.1386294361119891);
    near(inv[0], 1);
    assert_true(fabs(inv[14] - 8.659643234e-4) < 1e-13);
    assert_true(fabs(inv[15] - 4.742398227e-4) < 1e-13);
    assert_true(fabs(inv[18] - 7.217387404e-5) < 1e-14);
    assert_true(fabs(inv[22] - 3.849816315e-6) < 1e-15);
    assert_true(fabs(inv[31] - 4.137042750e-8) < 1e-17);
}

/* rope_scaling beside the rope_parameters of a newer config: one tells of the stretching, the
 * other of the base. */
static void both_rope_objects_count(void **state)
{
    static const char *const other[] = {
        "", ",\"rope_parameters\":null", ",\"rope_parameters\":{\"rope_type\":\"default\"}",
        ",\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":4,"
        "\"original_max_position_embeddings\":32}",
    };
    char text[1024];
    (void)state;
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++) {
        snprintf(text, sizeof text, "{" LLAMA ",\"rope_scaling\":{\"rope_type\":\"yarn\","
                 "\"factor\":4,\"original_max_position_embeddings\":32}%s}", other[i]);
        tn_model_conf c = good(text);
        assert_int_equal(c.scaling.kind, TN_SCALING_YARN);
        assert_true(c.scaling.factor == 4 && c.scaling.original == 32);
    }
    tn_model_conf c = good("{" LLAMA ",\"rope_scaling\":{\"type\":\"default\"},"
                           "\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":3,"
                           "\"rope_theta\":77777}}");
    assert_int_equal(c.scaling.kind, TN_SCALING_LINEAR);
    assert_true(c.scaling.factor == 3 && c.rope_theta == 77777);
}

static void llama3_and_linear_tables(void **state)
{
    (void)state;
    tn_model_conf c = good("{" LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,"
                           "\"low_freq_factor\":1,\"high_freq_factor\":4,"
                           "\"original_max_position_embeddings\":8192}}");
    c.rope_dims = 128;
    c.rope_theta = 500000;
    double inv[64], pi = acos(-1.0);
    assert_true(tn_rope_fill(&c, inv) == 1);
    for (int i = 0; i < 64; i++) {
        double plain = pow(500000, -2.0 * i / 128), wave = 2 * pi / plain, want;
        if (wave < 8192 / 4.0)
            want = plain;
        else if (wave > 8192)
            want = plain / 8;
        else {
            double s = (8192 / wave - 1) / 3;
            want = (1 - s) * plain / 8 + s * plain;
        }
        near(inv[i], want);
    }
    tn_model_conf l = good("{" LLAMA ",\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":2,"
                           "\"rope_theta\":10000}}");
    assert_int_equal(l.context, 1024);
    tn_rope_fill(&l, inv);
    near(inv[0], 0.5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_matters), cmocka_unit_test(families_differ),
        cmocka_unit_test(hybrids_in_both_spellings),
        cmocka_unit_test(experts_and_dense_layers_mix),
        cmocka_unit_test(families_name_their_class), cmocka_unit_test(greatest_sizes),
        cmocka_unit_test(defaults), cmocka_unit_test(refuses_by_name),
        cmocka_unit_test(refuses_the_text), cmocka_unit_test(generation_defaults),
        cmocka_unit_test(yarn_table),
        cmocka_unit_test(both_rope_objects_count),
        cmocka_unit_test(llama3_and_linear_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

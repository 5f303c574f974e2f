/* SPDX-License-Identifier: Apache-2.0 */
/* test_awq_claims.c - what the awq plugin claims: configurations it must refuse with a sentence,
 * spellings it must know, names and patterns, and tensors of another family. */
#include "fakeview.h"
#include "scratchdir.h"

#include <setjmp.h>

#include <cmocka.h>

#define GEMM "{\"quantization_config\": {\"quant_method\": \"awq\", \"bits\": 4, " \
             "\"group_size\": %d, \"zero_point\": true, \"version\": \"%s\"}}"
#define OPEN(b, ...) fake_bench_open(b, &tn_plugin_entry, __VA_ARGS__)

static uint32_t claim(fake_bench *b, tn_err *why)
{
    memset(why, 0, sizeof *why);
    return b->q->claims(b->self, &b->view.view, why);
}

/* Q01, Q02, Q09: a quantization_config that must be refused, and words of the sentence that says
 * why. */
static const char *const bad_configs[][2] = {
    {"{}", "quant_method is null"},
    {"{\"quant_method\": \"fp8\"}", "quant_method is \"fp8\"; this plugin reads awq"},
    {"{\"quant_method\": \"gptq\", \"bits\": 4}", "quant_method is \"gptq\""},
    {"{\"quant_method\": \"awq\", \"group_size\": 128}", "bits is null, wanted 4"},
    {"{\"quant_method\": \"awq\", \"bits\": 0, \"group_size\": 128}", "bits is 0"},
    {"{\"quant_method\": \"awq\", \"bits\": 1, \"group_size\": 128}", "bits is 1"},
    {"{\"quant_method\": \"awq\", \"bits\": 3, \"group_size\": 128}", "bits is 3"},
    {"{\"quant_method\": \"awq\", \"bits\": 5, \"group_size\": 128}", "bits is 5"},
    {"{\"quant_method\": \"awq\", \"bits\": 16, \"group_size\": 128}", "bits is 16"},
    {"{\"quant_method\": \"awq\", \"bits\": -4, \"group_size\": 128}", "bits is -4"},
    {"{\"quant_method\": \"awq\", \"bits\": \"4\", \"group_size\": 128}", "bits is \"4\""},
    {"{\"quant_method\": \"awq\", \"bits\": 4.0, \"group_size\": 128}", "bits is a fraction"},
    {"{\"quant_method\": \"awq\", \"bits\": true, \"group_size\": 128}", "bits is true"},
    {"{\"quant_method\": \"awq\", \"bits\": [4], \"group_size\": 128}", "bits is a list"},
    {"{\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 64.5}", "group_size is a fraction"},
    {"{\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 9223372036854775807}",
     "group_size is 9223372036854775807"},
    {"{\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 128, \"zero_point\": 1}",
     "zero_point is 1"},
    {"{\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 128, \"version\": 2}",
     "version is 2"},
    {"{\"quant_method\": 4, \"bits\": 4, \"group_size\": 128}", "quant_method is 4"},
    {"{\"quant_method\": \"awq\", \"w_bit\": 8, \"q_group_size\": 128}", "w_bit is 8"},
    {"{\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 0}", "group_size is 0"},
    {"{\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": -2}", "group_size is -2"},
    {"{\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 128, \"version\": \"gemx\"}",
     "version is \"gemx\", wanted gemm"},
    {"{\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 128, \"version\": \"gemm\", "
     "\"format\": \"gemv\"}", "format is \"gemv\", wanted the same as version"},
    {"{\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 128, \"zero_point\": \"maybe\"}",
     "zero_point is \"maybe\""},
    {"{\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 128, \"desc_act\": true}",
     "desc_act is true"},
    {"{\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 128, \"pack_dtype\": \"int16\"}",
     "pack_dtype is \"int16\""},
    {"{\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 128, "
     "\"modules_to_not_convert\": \"lm_head\"}", "modules_to_not_convert is \"lm_head\""},
    {"{\"quant_method\": \"auto-round\", \"bits\": 4, \"packing_format\": "
     "\"auto_round:auto_gptq\"}", "packing_format \"auto_round:auto_gptq\""},
    {"{\"quant_method\": \"compressed-tensors\"}", "config_groups is null"},
    {"{\"quant_method\": \"compressed-tensors\", \"format\": \"float-quantized\", "
     "\"config_groups\": {}}", "format is \"float-quantized\""},
    {"{\"quant_method\": \"compressed-tensors\", \"config_groups\": {\"W4A4\": [\"Linear\"]}}",
     "preset \"W4A4\""},
    {"{\"quant_method\": \"compressed-tensors\", \"sparsity_config\": {\"format\": "
     "\"sparse-24\"}, \"config_groups\": {\"W4A16\": [\"Linear\"]}}", "sparsity_config"},
    {"{\"quant_method\": \"compressed-tensors\", \"transform_config\": {\"config_groups\": "
     "{\"u\": {}}}, \"config_groups\": {\"W4A16\": [\"Linear\"]}}", "transform_config"},
    {"{\"quant_method\": \"compressed-tensors\", \"config_groups\": {\"W4A16\": [\"re:(\"]}}",
     "the pattern \"(\" is wrong at byte 1"},
    {"{\"quant_method\": \"compressed-tensors\", \"ignore\": [7], \"config_groups\": "
     "{\"W4A16\": [\"Linear\"]}}", "ignore holds something that is no text"},
};

#define GROUP "{\"quant_method\": \"compressed-tensors\", \"config_groups\": {\"g\": {" \
              "\"targets\": [\"Linear\"], "

static const char *const bad_groups[][2] = {
    {GROUP "\"weights\": null}}}", "weights is null"},
    {GROUP "\"input_activations\": {}, \"weights\": {\"num_bits\": 4}}}}", "input_activations"},
    {GROUP "\"weights\": {\"num_bits\": 9}}}}", "weights.num_bits is 9, wanted 1 to 8"},
    {GROUP "\"weights\": {\"num_bits\": \"4\"}}}}", "weights.num_bits is \"4\""},
    {GROUP "\"weights\": {\"num_bits\": 4, \"type\": \"float\"}}}}", "weights.type is \"float\""},
    {GROUP "\"weights\": {\"num_bits\": 4, \"strategy\": \"block\"}}}}",
     "weights.strategy is \"block\""},
    {GROUP "\"weights\": {\"num_bits\": 4, \"strategy\": \"group\"}}}}",
     "weights.group_size is null"},
    {GROUP "\"weights\": {\"num_bits\": 4, \"group_size\": 0}}}}", "weights.group_size is 0"},
    {GROUP "\"weights\": {\"num_bits\": 4, \"symmetric\": 1}}}}", "weights.symmetric is 1"},
    {GROUP "\"weights\": {\"num_bits\": 4, \"actorder\": \"up\"}}}}", "weights.actorder is \"up\""},
    {GROUP "\"weights\": {\"num_bits\": 4, \"dynamic\": true}}}}", "weights.dynamic is true"},
    {GROUP "\"weights\": {\"num_bits\": 4}, \"format\": \"int-quantized\"}}}",
     "format is \"int-quantized\""},
};

static void check_refused(const char *quant, const char *part)
{
    fake_bench b;
    tn_err why;
    OPEN(&b, "{\"quantization_config\": %s}", quant);
    if (claim(&b, &why) != 0)
        fail_msg("claimed: %s", quant);
    if (strstr(why.text, part) == NULL)
        fail_msg("\"%s\", wanted \"%s\"", why.text, part);
    assert_int_equal(fake_bench_close(&b), 0);
}

static void test_bad_configs(void **state)
{
    fake_bench b;
    tn_err why;
    (void)state;
    for (size_t i = 0; i < sizeof bad_configs / sizeof *bad_configs; i++)
        check_refused(bad_configs[i][0], bad_configs[i][1]);
    for (size_t i = 0; i < sizeof bad_groups / sizeof *bad_groups; i++)
        check_refused(bad_groups[i][0], bad_groups[i][1]);
    OPEN(&b, "{}");
    assert_int_equal(claim(&b, &why), 0);
    assert_non_null(strstr(why.text, "no quantization_config"));
    assert_int_equal(fake_bench_close(&b), 0);
}

static void test_claims(void **state)
{
    static const char *const fine[] = {
        "{\"quant_method\": \"AWQ\", \"bits\": 4, \"group_size\": -1, \"version\": \"GEMV_FAST\"}",
        "{\"w_bit\": 4, \"q_group_size\": 128, \"version\": \"GEMM\", \"zero_point\": true}",
        "{\"quant_method\": \"auto-round\", \"bits\": 4, \"group_size\": 128, \"sym\": true, "
        "\"packing_format\": \"auto_round:auto_awq\", \"extra_config\": {\"x\": {\"bits\": 16}}}",
        "{\"quant_method\": \"compressed-tensors\", \"config_groups\": {\"W4A16\": [\"Linear\"], "
        "\"W8A16\": [\"re:.*down_proj$\"]}}",
        GROUP "\"weights\": {\"num_bits\": 8, \"strategy\": \"channel\", \"group_size\": null, "
              "\"actorder\": \"static\"}}}}",
    };
    tn_err why;
    (void)state;
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) {
        fake_bench b;
        OPEN(&b, "{\"quantization_config\": %s}", fine[i]);
        if (claim(&b, &why) != 100)
            fail_msg("%s: %s", fine[i], why.text);
        assert_int_equal(fake_bench_close(&b), 0);
    }
}

/* Q01: GPTQ tensors under an AWQ config. */
static void test_wrong_family(void **state)
{
    fake_bench b;
    tn_err why;
    (void)state;
    OPEN(&b, GEMM, 32, "gemm");
    fake_view_put(&b.view, "l.qweight", TN_I32, 2, 8, 48, NULL);
    fake_view_put(&b.view, "l.scales", TN_F16, 2, 2, 48, NULL);
    assert_int_equal(claim(&b, &why), 0);
    assert_non_null(strstr(why.text, "quant_method is awq; wanted quant_method gptq"));
    fake_view_drop(&b.view, "l.qweight");
    fake_view_put(&b.view, "l.weight_packed", TN_I32, 2, 8, 48, NULL);
    assert_int_equal(claim(&b, &why), 0);
    assert_non_null(strstr(why.text, "l.weight_packed: found, but quant_method is awq"));
    assert_int_equal(fake_bench_close(&b), 0);
}

/* Names against ignore lists and targets: what is said about disagreements shows the rule. */
static void test_names(void **state)
{
    static const struct {
        const char *ignore, *name;
        bool quantized;   /* by the config */
    } all[] = {
        {"\"a.b\"", "a.b", false},           {"\"a.b\"", "a.b.c", true},
        {"\"re:.*gate$\"", "m.gate", false}, {"\"re:gate\"", "m.gate", true},
        {"\"re:m\"", "m.gate", false},       {"\"Linear\"", "m.gate", false},
        {"\"x\", \"re:^m\\\\.g\"", "m.gate", false},
        /* What is told without matching: beginnings, parts, and where neither can be. */
        {"\"re:m\\\\.0\\\\.gate$\"", "m.0.gate", false},
        {"\"re:m\\\\.1\\\\.gate$\"", "m.0.gate", true},
        {"\"re:m.0.gate\"", "m.0.gate", false},
        {"\"re:^m.0.gate\"", "m.0.gate", false},
        {"\"re:m\\\\.0\\\\.gatex?\"", "m.0.gate", false},
        {"\"re:m\\\\.0\\\\.gatex\"", "m.0.gate", true},
        {"\"re:mx*\\\\.0\"", "m.0.gate", false},
        {"\"re:mx+\\\\.0\"", "m.0.gate", true},
        {"\"re:m+\\\\.0\"", "m.0.gate", false},
        {"\"re:m++\\\\.+0\"", "m.0.gate", false},
        {"\"re:m\\\\.\\\\d+\\\\.gate\"", "m.0.gate", false},
        {"\"re:.*\\\\.0\\\\.\"", "m.0.gate", false},
        {"\"re:.*\\\\.1\\\\.\"", "m.0.gate", true},
        {"\"re:.*?gate\"", "m.0.gate", false},
        {"\"re:x|m\"", "m.0.gate", false},
        {"\"re:m\\\\.1|m\\\\.0\"", "m.0.gate", false},
        {"\"re:(?i)M\\\\.0\"", "m.0.gate", false},
        {"\"re:m\\\\.(1|0)\\\\.gate\"", "m.0.gate", false},
        {"\"re:m\\\\.[01]\\\\.gate\"", "m.0.gate", false},
        {"\"re:m\\\\.0\\\\.gate_{0}\"", "m.0.gate", false},
        {"\"re:m\\\\.0x{0,1}\\\\.\"", "m.0.gate", false},
        {"\"re:\\\\Qm.0\\\\E\"", "m.0.gate", false},
        {"\"re:\\\\x6d\\\\.0\"", "m.0.gate", false},
        {"\"re:(?=m)m\"", "m.0.gate", false},
        {"\"re:(?!m)m\"", "m.0.gate", true},
        {"\"re:m\\\\.0\\\\.gat.$\"", "m.0.gate", false},
        {"\"re:\"", "m.0.gate", false},
        {"\"re:\xc3\xbc.gate\"", "\xc3\xbc.gate", false}, {"\"re:.x.gate\"", "\xc3\xbcx.gate", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        fake_bench b;
        char name[64];
        tn_err why;
        OPEN(&b, "{\"quantization_config\": {\"quant_method\": \"compressed-tensors\", "
                        "\"config_groups\": {\"W4A16\": [\"Linear\"]}, \"ignore\": [%s]}}",
                    all[i].ignore);
        snprintf(name, sizeof name, "%s.weight_packed", all[i].name);
        fake_view_put(&b.view, name, TN_I32, 2, 8, 4, NULL);
        assert_int_equal(claim(&b, &why), 100);
        if ((b.host.nlog == 0) != all[i].quantized)
            fail_msg("%s against [%s]: %s", all[i].name, all[i].ignore, b.host.log);
        fake_bench_restart(&b, 1);
        assert_int_equal(claim(&b, &why), all[i].quantized ? 100 : 0);
        assert_int_equal(fake_bench_close(&b), 0);
    }
    fake_bench b;
    tn_err why;
    OPEN(&b, "{\"quantization_config\": {\"quant_method\": \"awq\", \"bits\": 4, "
                   "\"group_size\": 32, \"modules_to_not_convert\": [\"mlp.gate\"]}}");
    fake_view_put(&b.view, "m.0.mlp.gate_proj.qweight", TN_I32, 2, 64, 2, NULL);
    fake_view_put(&b.view, "m.0.mlp.up_proj.qweight", TN_I32, 2, 64, 2, NULL);
    assert_int_equal(claim(&b, &why), 100);
    assert_string_equal(b.host.log, "1 modules are quantized in the files but not by the config, "
                                    "m.0.mlp.gate_proj first; the files count");
    assert_int_equal(fake_bench_close(&b), 0);
}

/* A pattern that would take for ever is given up. */
static void test_slow_pattern(void **state)
{
    fake_bench b;
    tn_err why;
    (void)state;
    OPEN(&b, "{\"quantization_config\": {\"quant_method\": \"compressed-tensors\", "
                   "\"config_groups\": {\"W4A16\": [\"Linear\"]}, \"ignore\": [\"re:(a+)+$\"]}}");
    fake_view_put(&b.view, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab.weight_packed", TN_I32, 2, 8,
                  4, NULL);
    assert_int_equal(claim(&b, &why), 0);
    assert_non_null(strstr(why.text, "wanted one that needs at most"));
    assert_int_equal(fake_bench_close(&b), 0);
}

/* Q12: a quant_config.json or quantize_config.json beside config.json has to say the same. */
static void test_twin(void **state)
{
    static const struct {
        const char *file, *text;
        uint32_t score;
        const char *part;
    } all[] = {
        {"quant_config.json", "{\"w_bit\": 4, \"q_group_size\": 32, \"version\": \"GEMM\"}", 100,
         ""},
        {"quant_config.json", "{\"w_bit\": 4, \"q_group_size\": 128}", 0,
         "config.json says group_size 32, but quant_config.json says q_group_size 128; wanted"},
        {"quantize_config.json", "{\"bits\": 4, \"version\": \"gemv\"}", 0,
         "says version \"gemm\", but quantize_config.json says version \"gemv\""},
        {"quantize_config.json", "nothing", 0, "quantize_config.json"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        fake_bench b;
        scratch dir;
        tn_err why;
        scratch_open(&dir);
        scratch_text(&dir, all[i].file, all[i].text);
        OPEN(&b, GEMM, 32, "gemm");
        b.view.view.dir = dir.dir;
        uint32_t score = claim(&b, &why);
        if (score != all[i].score || strstr(why.text, all[i].part) == NULL)
            fail_msg("score %u: \"%s\", wanted \"%s\"", score, why.text, all[i].part);
        assert_int_equal(fake_bench_close(&b), 0);
        scratch_close(&dir);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_configs),
        cmocka_unit_test(test_claims),
        cmocka_unit_test(test_wrong_family),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_slow_pattern),
        cmocka_unit_test(test_twin),
    };
    return cmocka_run_group_tests_name("awq claims", tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* test_gptq_claims.c - what the gptq plugin claims: configurations it must refuse with a
 * sentence, spellings it must know, rules for names, and tensors of another family. */
#include "fakeview.h"
#include "scratchdir.h"

#include <setjmp.h>

#include <cmocka.h>

#define OPEN(b, ...) fake_bench_open(b, &tn_plugin_entry, __VA_ARGS__)
#define CLOSE(b) assert_int_equal(fake_bench_close(b), 0)
#define G4 "{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 32"

static uint32_t claim(fake_bench *b, tn_err *why)
{
    memset(why, 0, sizeof *why);
    return b->q->claims(b->self, &b->view.view, why);
}

/* Q01, Q02, Q09, Q13 */
static const char *const bad_configs[][2] = {
    {"{}", "quant_method is null"},
    {"{\"quant_method\": \"awq\", \"bits\": 4}", "quant_method is \"awq\"; this plugin reads gptq"},
    {"{\"quant_method\": \"gptq\", \"group_size\": 32}", "bits is null, wanted 2, 3, 4 or 8"},
    {"{\"quant_method\": \"gptq\", \"bits\": 4}", "group_size is null"},
    {"{\"quant_method\": \"gptq\", \"bits\": 0, \"group_size\": 32}", "bits is 0"},
    {"{\"quant_method\": \"gptq\", \"bits\": 1, \"group_size\": 32}", "bits is 1"},
    {"{\"quant_method\": \"gptq\", \"bits\": 5, \"group_size\": 32}", "bits is 5"},
    {"{\"quant_method\": \"gptq\", \"bits\": 16, \"group_size\": 32}", "bits is 16"},
    {"{\"quant_method\": \"gptq\", \"bits\": -4, \"group_size\": 32}", "bits is -4"},
    {"{\"quant_method\": \"gptq\", \"bits\": \"4\", \"group_size\": 32}", "bits is \"4\""},
    {"{\"quant_method\": \"gptq\", \"bits\": 4.0, \"group_size\": 32}", "bits is a fraction"},
    {"{\"quant_method\": \"gptq\", \"bits\": true, \"group_size\": 32}", "bits is true"},
    {"{\"quant_method\": \"gptq\", \"bits\": 7, \"group_size\": 32}", "bits is 7"},
    {"{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": \"32\"}", "group_size is \"32\""},
    {"{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": -2}", "group_size is -2"},
    {"{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 0}", "group_size is 0"},
    {"{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 2147483648}", "group_size is"},
    {G4 ", \"checkpoint_format\": \"marlin\"}", "checkpoint_format is \"marlin\", wanted gptq or"},
    {G4 ", \"checkpoint_format\": \"gptq_p\"}", "checkpoint_format is \"gptq_p\""},
    {G4 ", \"checkpoint_format\": \"gptq\", \"format\": \"gptq_v2\"}", "wanted the same as"},
    {G4 ", \"is_marlin_format\": true}", "is_marlin_format is true"},
    {G4 ", \"pack_dtype\": \"int16\"}", "pack_dtype is \"int16\""},
    {G4 ", \"desc_act\": 1}", "desc_act is 1, wanted true or false"},
    {G4 ", \"sym\": \"yes\"}", "sym is \"yes\""},
    {G4 ", \"lm_head\": 0}", "lm_head is 0"},
    {G4 ", \"dynamic\": []}", "dynamic is a list"},
    {G4 ", \"dynamic\": {\"-:(\": {}}}", "the pattern \"(\" is wrong at byte 1"},
    {G4 ", \"dynamic\": {\"x\": 4}}", "wanted a pattern of at most"},
    {G4 ", \"modules_in_block_to_quantize\": {}}", "modules_in_block_to_quantize is an object"},
    {G4 ", \"modules_in_block_to_quantize\": [[4]]}", "to_quantize: wanted at most"},
    {"{\"quant_method\": \"auto-round\", \"bits\": 4, \"group_size\": 32, \"packing_format\": "
     "\"auto_round:auto_awq\"}", "packing_format \"auto_round:auto_awq\""},
    {"{\"quant_method\": \"auto-round\", \"bits\": 4, \"group_size\": 32, \"data_type\": "
     "\"fp\"}", "data_type is \"fp\""},
};

static void test_bad_configs(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_configs / sizeof *bad_configs; i++) {
        fake_bench b;
        tn_err why;
        OPEN(&b, "{\"quantization_config\": %s}", bad_configs[i][0]);
        if (claim(&b, &why) != 0)
            fail_msg("claimed: %s", bad_configs[i][0]);
        if (strstr(why.text, bad_configs[i][1]) == NULL)
            fail_msg("\"%s\", wanted \"%s\"", why.text, bad_configs[i][1]);
        CLOSE(&b);
    }
}

static void test_claims(void **state)
{
    static const char *const fine[] = {
        "{\"quant_method\": \"GPTQ\", \"bits\": 3, \"group_size\": -1}",
        "{\"bits\": 4, \"group_size\": 128, \"desc_act\": false, \"damp_percent\": 0.01}",
        "{\"quant_method\": \"auto-round\", \"bits\": 4, \"group_size\": 128, \"sym\": true, "
        "\"data_type\": \"int\", \"packing_format\": \"auto_round:auto_gptq\"}",
        G4 ", \"dynamic\": null, \"checkpoint_format\": \"gptq_v2\", \"pack_dtype\": \"int32\"}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) {
        fake_bench b;
        tn_err why;
        OPEN(&b, "{\"quantization_config\": %s}", fine[i]);
        if (claim(&b, &why) != 100)
            fail_msg("%s: %s", fine[i], why.text);
        CLOSE(&b);
    }
}

/* Q01: AWQ and compressed-tensors tensors under a GPTQ config. */
static void test_wrong_family(void **state)
{
    fake_bench b;
    tn_err why;
    (void)state;
    OPEN(&b, "{\"quantization_config\": " G4 "}}");
    fake_view_put(&b.view, "l.qweight", TN_I32, 2, 64, 6, NULL);
    fake_view_put(&b.view, "l.scales", TN_F16, 2, 2, 48, NULL);
    assert_int_equal(claim(&b, &why), 0);
    assert_non_null(strstr(why.text, "is packed as AWQ does, [64, 6] beside scales [2, 48]"));
    fake_view_drop(&b.view, "l.qweight");
    fake_view_put(&b.view, "l.weight_packed", TN_I32, 2, 48, 8, NULL);
    assert_int_equal(claim(&b, &why), 0);
    assert_non_null(strstr(why.text, "wanted compressed-tensors"));
    CLOSE(&b);
}

/* Which names the rules keep plain: what is said about a quantized one shows it. */
static void test_names(void **state)
{
    static const struct {
        const char *rules, *name;
        bool quantized;
    } all[] = {
        {"\"dynamic\": {\"-:.*gate\": {}}", "m.0.gate", false},
        {"\"dynamic\": {\"-:gate\": {}}", "m.0.gate", true},   /* from the start of the name */
        {"\"dynamic\": {\"-:m\": {}}", "m.0.gate", false},
        /* What is told without matching: beginnings, parts, and where neither can be. */
        {"\"dynamic\": {\"-:m\\\\.0\\\\.gate$\": {}}", "m.0.gate", false},
        {"\"dynamic\": {\"-:m\\\\.1\\\\.gate$\": {}}", "m.0.gate", true},
        {"\"dynamic\": {\"-:m.0.gate\": {}}", "m.0.gate", false},
        {"\"dynamic\": {\"-:^m.0.gate\": {}}", "m.0.gate", false},
        {"\"dynamic\": {\"-:m\\\\.0\\\\.gatex?\": {}}", "m.0.gate", false},
        {"\"dynamic\": {\"-:m\\\\.0\\\\.gatex\": {}}", "m.0.gate", true},
        {"\"dynamic\": {\"-:mx*\\\\.0\": {}}", "m.0.gate", false},
        {"\"dynamic\": {\"-:mx+\\\\.0\": {}}", "m.0.gate", true},
        {"\"dynamic\": {\"-:m+\\\\.0\": {}}", "m.0.gate", false},
        {"\"dynamic\": {\"-:m++\\\\.+0\": {}}", "m.0.gate", false},
        {"\"dynamic\": {\"-:m\\\\.\\\\d+\\\\.gate\": {}}", "m.0.gate", false},
        {"\"dynamic\": {\"-:.*\\\\.0\\\\.\": {}}", "m.0.gate", false},
        {"\"dynamic\": {\"-:.*\\\\.1\\\\.\": {}}", "m.0.gate", true},
        {"\"dynamic\": {\"-:.*?gate\": {}}", "m.0.gate", false},
        {"\"dynamic\": {\"-:x|m\": {}}", "m.0.gate", false},
        {"\"dynamic\": {\"-:m\\\\.1|m\\\\.0\": {}}", "m.0.gate", false},
        {"\"dynamic\": {\"-:(?i)M\\\\.0\": {}}", "m.0.gate", false},
        {"\"dynamic\": {\"-:m\\\\.(1|0)\\\\.gate\": {}}", "m.0.gate", false},
        {"\"dynamic\": {\"-:m\\\\.[01]\\\\.gate\": {}}", "m.0.gate", false},
        {"\"dynamic\": {\"-:m\\\\.0\\\\.gate_{0}\": {}}", "m.0.gate", false},
        {"\"dynamic\": {\"-:m\\\\.0x{0,1}\\\\.\": {}}", "m.0.gate", false},
        {"\"dynamic\": {\"-:\\\\Qm.0\\\\E\": {}}", "m.0.gate", false},
        {"\"dynamic\": {\"-:\\\\x6d\\\\.0\": {}}", "m.0.gate", false},
        {"\"dynamic\": {\"-:(?=m)m\": {}}", "m.0.gate", false},
        {"\"dynamic\": {\"-:(?!m)m\": {}}", "m.0.gate", true},
        {"\"dynamic\": {\"-:m\\\\.0\\\\.gat.$\": {}}", "m.0.gate", false},
        {"\"dynamic\": {\"-:\": {}}", "m.0.gate", false},
        {"\"dynamic\": {\"+:m\": {\"bits\": 8}, \"-:m\": {}}", "m.0.gate", true},
        {"\"dynamic\": {\"m\": {\"bits\": 8}}", "m.0.gate", true},
        {"\"modules_in_block_to_quantize\": [[\"mlp.up\"], [\"mlp.gate\"]]", "m.0.mlp.gate", true},
        {"\"modules_in_block_to_quantize\": [\"mlp.gate\"]", "m.0.mlp.gate_proj", false},
        {"\"modules_in_block_to_quantize\": [[\"mlp.experts\"]]", "m.0.mlp.experts.3.up", true},
        {"\"modules_in_block_to_quantize\": [[\"x\"]], \"dynamic\": {\"+:m\": {}}", "m.0.y", true},
        {"\"lm_head\": false", "lm_head", false},
        {"\"lm_head\": true", "lm_head", true},
        {"\"dynamic\": {\"lm_head\": {\"bits\": 8}}", "lm_head", true},
    };
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        fake_bench b;
        char name[64];
        tn_err why;
        OPEN(&b, "{\"quantization_config\": " G4 ", %s}}", all[i].rules);
        snprintf(name, sizeof name, "%s.qweight", all[i].name);
        fake_view_put(&b.view, name, TN_I32, 2, 4, 32, NULL);
        assert_int_equal(claim(&b, &why), 100);
        if ((b.host.nlog == 0) != all[i].quantized)
            fail_msg("%s by {%s}: \"%s\"", all[i].name, all[i].rules, b.host.log);
        fake_bench_restart(&b, 1);
        assert_int_equal(claim(&b, &why), all[i].quantized ? 100 : 0);
        CLOSE(&b);
    }
    fake_bench b;
    tn_err why;
    OPEN(&b, "{\"quantization_config\": " G4 ", \"lm_head\": true}}");
    fake_view_put(&b.view, "lm_head.weight", TN_F16, 2, 32, 32, NULL);
    assert_int_equal(claim(&b, &why), 100);
    assert_string_equal(b.host.log, "lm_head is plain in the files but quantized by the config; "
                                    "the files count");
    CLOSE(&b);
}

/* A module that the config names, though the files hold it plain, is worth one warning; one
 * that only a pattern meets, or that is no matrix, is not. */
static void test_plain_names(void **state)
{
    fake_bench b;
    tn_err why;
    (void)state;
    OPEN(&b, "{\"quantization_config\": " G4 ", \"dynamic\": {\"-:.*1\": {}, \"+:.*\": {}}, "
             "\"modules_in_block_to_quantize\": [[\"mlp.up\", \"mlp.norm\"]]}}");
    fake_view_put(&b.view, "m.1.mlp.up.weight", TN_F16, 2, 32, 32, NULL);
    fake_view_put(&b.view, "m.0.mlp.gate.weight", TN_F16, 2, 32, 32, NULL);
    fake_view_put(&b.view, "m.0.mlp.norm.weight", TN_F16, 1, 32, 0, NULL);
    assert_int_equal(claim(&b, &why), 100);
    assert_int_equal(b.host.nlog, 0);
    fake_view_put(&b.view, "m.0.mlp.up.weight", TN_F16, 2, 32, 32, NULL);
    fake_view_put(&b.view, "m.2.mlp.up.weight", TN_F16, 2, 32, 32, NULL);
    assert_int_equal(claim(&b, &why), 100);
    assert_int_equal(b.host.nlog, 1);
    assert_string_equal(b.host.log, "2 modules are plain in the files but quantized by the "
                                    "config, m.0.mlp.up first; the files count");
    fake_bench_restart(&b, 1);
    assert_int_equal(claim(&b, &why), 0);
    CLOSE(&b);
}

static void test_slow_pattern(void **state)
{
    fake_bench b;
    tn_err why;
    (void)state;
    OPEN(&b, "{\"quantization_config\": " G4 ", \"dynamic\": {\"-:(a+)+$\": {}}}}");
    fake_view_put(&b.view, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab.qweight", TN_I32, 2, 4, 32,
                  NULL);
    assert_int_equal(claim(&b, &why), 0);
    assert_non_null(strstr(why.text, "wanted one that needs at most"));
    CLOSE(&b);
}

/* Q12: a quantize_config.json beside config.json has to say the same. */
static void test_twin(void **state)
{
    static const struct {
        const char *text;
        uint32_t score;
        const char *part;
    } all[] = {
        {G4 ", \"desc_act\": false}", 100, ""},
        {"{\"bits\": 8, \"group_size\": 32}", 0,
         "config.json says bits 4, but quantize_config.json says 8; wanted one value"},
        {"{\"group_size\": 128}", 0, "says group_size 32, but quantize_config.json says 128"},
        {"{\"checkpoint_format\": \"gptq_v2\"}", 0, "says checkpoint_format \"gptq\", but"},
        {"{\"sym\": false}", 0, "says sym true, but quantize_config.json says false"},
        {"{\"bits\": ", 0, "quantize_config.json"},
    };
    scratch dir;
    (void)state;
    scratch_open(&dir);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        fake_bench b;
        tn_err why;
        OPEN(&b, "{\"quantization_config\": " G4 ", \"checkpoint_format\": \"gptq\", "
                 "\"sym\": true}}");
        b.view.view.dir = dir.dir;
        scratch_text(&dir, "quantize_config.json", all[i].text);
        uint32_t score = claim(&b, &why);
        if (score != all[i].score || strstr(why.text, all[i].part) == NULL)
            fail_msg("score %u: \"%s\", wanted \"%s\"", score, why.text, all[i].part);
        CLOSE(&b);
    }
    scratch_close(&dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_configs),  cmocka_unit_test(test_claims),
        cmocka_unit_test(test_wrong_family), cmocka_unit_test(test_names),
        cmocka_unit_test(test_plain_names),  cmocka_unit_test(test_slow_pattern),
        cmocka_unit_test(test_twin),
    };
    return cmocka_run_group_tests_name("gptq claims", tests, NULL, NULL);
}

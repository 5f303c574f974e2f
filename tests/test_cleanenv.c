/* SPDX-License-Identifier: Apache-2.0 */
/* test_cleanenv.c - runtime/cleanenv.c: which variables are taken out, and which stay. */
#include "cleanenv.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct { const char *name, *value; bool code; } cases[] = {
    {"NCCL_NET_PLUGIN", "evil", true},
    {"NCCL_NET_PLUGIN", "none", false},
    {"NCCL_NET_PLUGIN", "", false},
    {"NCCL_TUNER_PLUGIN", "/tmp/x.so", true},
    {"NCCL_PROFILER_PLUGIN", "x", true},
    {"NCCL_GIN_PLUGIN", "x", true},
    {"NCCL_CONF_FILE", "/tmp/nccl.conf", true},
    {"NCCL_DEBUG", "INFO", false},
    {"NCCL_SOCKET_IFNAME", "lo", false},
    {"NCCL_TOPO_FILE", "/tmp/topo.xml", false},
    {"OMPI_MCA_mca_component_path", "/tmp", true},
    {"OMPI_MCA_mca_base_component_path", "/tmp", true},
    {"OMPI_MCA_mca_base_param_files", "/tmp/x", true},
    {"OMPI_MCA_orte_launch_agent", "/tmp/x", true},
    {"OMPI_MCA_btl", "tcp,self", false},
    {"OMPI_COMM_WORLD_RANK", "1", false},
    {"OMPI_FILE_LOCATION", "/tmp/ompi/0", false},
    {"OMPI_MCA_orte_top_session_dir", "/tmp/ompi", false},
    {"OPAL_PREFIX", "/tmp", true},
    {"PMIX_MCA_mca_base_component_path", "/tmp", true},
    {"PMIX_DSTORE_ESH_BASE_PATH", "/tmp/pmix", false},
    {"PMIX_GDS_MODULE", "hash", false},
    {"PMIX_RANK", "0", false},
    {"UCX_MODULE_DIR", "/tmp", true},
    {"UCX_TLS", "tcp", false},
    {"CUDA_INJECTION64_PATH", "/tmp/x.so", true},
    {"NVTX_INJECTION64_PATH", "/tmp/x.so", true},
    {"CUDA_VISIBLE_DEVICES", "0", false},
    {"CUDA_MODULE_LOADING", "LAZY", false},
    {"CUDA_MPS_PIPE_DIRECTORY", "/tmp/mps", false},
    {"FI_PROVIDER_PATH", "/tmp", true},
    {"HWLOC_PLUGINS_PATH", "/tmp", true},
    {"LD_PRELOAD", "x.so", false}, /* has had its say before */
    {"PATH", "/bin", false},
    {"MY_NCCL_NET_PLUGIN", "x", false},
    {"NCCLX_PLUGIN", "x", false},
};
#define NCASE (sizeof cases / sizeof *cases)

static void test_names(void **state)
{
    (void)state;
    for (size_t i = 0; i < NCASE; i++)
        if (tn_env_names_code(cases[i].name, cases[i].value) != cases[i].code)
            fail_msg("%s=%s: expected %d", cases[i].name, cases[i].value, cases[i].code);
}

static void test_clean(void **state)
{
    char kept[] = "NCCL_TUNER_PLUGIN", *keep[] = {kept};
    (void)state;
    for (size_t i = 0; i < NCASE; i++)
        if (strcmp(cases[i].name, "PATH") != 0 && strcmp(cases[i].name, "LD_PRELOAD") != 0)
            assert_int_equal(setenv(cases[i].name, cases[i].value, 1), 0);
    assert_int_equal(setenv("NCCL_NET_PLUGIN", "evil", 1), 0);
    tn_env_clean(keep, 1, NULL);
    for (size_t i = 0; i < NCASE; i++) {
        const char *now = getenv(cases[i].name);
        if (strcmp(cases[i].name, kept) == 0)
            assert_string_equal(now, cases[i].value);
        else if (cases[i].code && now != NULL)
            fail_msg("%s is still there", cases[i].name);
        else if (!cases[i].code && now == NULL && strcmp(cases[i].name, "NCCL_NET_PLUGIN") != 0 &&
                 strcmp(cases[i].name, "LD_PRELOAD") != 0)
            fail_msg("%s is gone", cases[i].name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_clean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

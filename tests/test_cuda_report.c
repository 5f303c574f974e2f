/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_report.c - what the plugin cuda tells a doctor, on the simulated card: without NVML,
 * and with libraries of its name that answer, refuse, or lack calls. */
#include "makeso.h"
#include "recipe_fixture.h"
#include "scratchdir.h"

#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

extern const tn_plugin tn_plugin_entry;

/* NVML of one card with two of four links up. FEWER leaves calls out, DEAD does not begin. */
static const char nvml_source[] =
    "#include <string.h>\n"
    "#define CALL __attribute__((visibility(\"default\"))) int\n"
    "#define UNSIGNED(name, v) CALL name(void *d, unsigned *x) { *x = v; return d != (void *)7; }\n"
    "static int begun;\n"
    "CALL nvmlInit_v2(void) {\n"
    "#ifdef DEAD\n"
    "    return 9;\n"
    "#endif\n"
    "    begun++; return 0; }\n"
    "CALL nvmlShutdown(void) { return --begun; }\n"
    "CALL nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **d)\n"
    "{ *d = (void *)7; return begun != 1 || strcmp(bus, \"0000:01:00.0\") != 0; }\n"
    "CALL nvmlSystemGetDriverVersion(char *s, unsigned n) { strncpy(s, \"580.65.06\", n); return 0; }\n"
    "UNSIGNED(nvmlDeviceGetPersistenceMode, 1)\n"
    "CALL nvmlDeviceGetUtilizationRates(void *d, unsigned *x) { x[0] = 93; x[1] = 20; return 0; }\n"
    "#ifndef FEWER\n"
    "CALL nvmlDeviceGetCurrentClocksThrottleReasons(void *d, unsigned long long *x)\n"
    "{ *x = 0x4 | 0x40; return 0; }\n"
    "UNSIGNED(nvmlDeviceGetCurrPcieLinkGeneration, 4)\n"
    "UNSIGNED(nvmlDeviceGetMaxPcieLinkGeneration, 5)\n"
    "UNSIGNED(nvmlDeviceGetCurrPcieLinkWidth, 8)\n"
    "UNSIGNED(nvmlDeviceGetMaxPcieLinkWidth, 16)\n"
    "UNSIGNED(nvmlDeviceGetPowerUsage, 123456)\n"
    "UNSIGNED(nvmlDeviceGetEnforcedPowerLimit, 700000)\n"
    "CALL nvmlDeviceGetClockInfo(void *d, unsigned t, unsigned *x)\n"
    "{ *x = t == 1 ? 1200 : 2619; return t != 1 && t != 2; }\n"
    "CALL nvmlDeviceGetMaxClockInfo(void *d, unsigned t, unsigned *x)\n"
    "{ *x = t == 1 ? 1980 : 2619; return 0; }\n"
    "CALL nvmlDeviceGetNvLinkState(void *d, unsigned i, unsigned *x) { *x = i % 2; return i > 3; }\n"
    "CALL nvmlDeviceGetNvLinkVersion(void *d, unsigned i, unsigned *x) { *x = 4; return 0; }\n"
    "CALL nvmlDeviceGetTemperature(void *d, unsigned t, unsigned *x) { *x = 41; return t; }\n"
    "#endif\n";

typedef struct facts {
    char text[8192];           /* "key: text" a line */
} facts;

static void put(void *ctx, const char *key, const char *text)
{
    facts *f = ctx;
    size_t n = strlen(f->text);
    snprintf(f->text + n, sizeof f->text - n, "%s: %s\n", key, text);
}

static void ask(facts *f)
{
    fx_device d = {0};
    tn_err err;
    f->text[0] = 0;
    fx_device_open(&d, &tn_plugin_entry, 1, NULL);
    if (d.table->report(d.dev, put, f, &err) != TN_OK)
        fail_msg("report: %s", err.text);
    fx_device_close(&d);
    assert_int_equal(d.live, 0);
}

static void want(const facts *f, const char *line)
{
    if (strstr(f->text, line) == NULL)
        fail_msg("expected \"%s\" in:\n%s", line, f->text);
}

static void test_without(void **state)
{
    facts f;
    (void)state;
    ask(&f);
    want(&f, "card: 0,");
    want(&f, "compute_capability: 9.0\n");
    want(&f, "multiprocessors: 4, L2 cache 1.0 MiB\n");
    want(&f, "cuda_driver: 13.0\n");
    want(&f, "cuda_runtime: 13.0\n");
    want(&f, "kernels: sm_90, compiled for this card\n");
    void *driver = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (driver == NULL)
        want(&f, "nvml: libnvidia-ml.so.1 is not there");
    else
        dlclose(driver);
}

/* A library of that name that is loaded already is the one that dlopen gives. */
static void ask_with(facts *f, const char *define)
{
    scratch s;
    char flags[128];
    scratch_open(&s);
    scratch_text(&s, "nvml.c", nvml_source);
    snprintf(flags, sizeof flags, "-Wl,-soname,libnvidia-ml.so.1 %s", define);
    assert_int_equal(make_so(s.dir, "fake", scratch_path(&s, "nvml.c"), flags), 0);
    void *library = dlopen(scratch_path(&s, "fake.so"), RTLD_NOW | RTLD_LOCAL);
    assert_non_null(library);
    ask(f);
    dlclose(library);
    scratch_close(&s);
}

static void test_with(void **state)
{
    facts f;
    (void)state;
    ask_with(&f, "");
    want(&f, "driver: 580.65.06\n");
    want(&f, "pcie: generation 4 of 5, 8 of 16 lanes\n");
    want(&f, "nvlink: 2 of 4 links up, version 4\n");
    want(&f, "\nclock: 1200 MHz of 1980\n");
    want(&f, "memory_clock: 2619 MHz of 2619\n");
    want(&f, "slowed_by: power cap, heat (hardware)\n");
    want(&f, "utilization: 93 %, of its memory's time 20 %\n");
    want(&f, "power: 123 W of 700\n");
    want(&f, "temperature: 41 C\n");
    want(&f, "persistence: on\n");
}

static void test_odd_libraries(void **state)
{
    facts f;
    (void)state;
    ask_with(&f, "-DFEWER");
    want(&f, "driver: 580.65.06\n");
    want(&f, "nvlink: none\n");
    assert_null(strstr(f.text, "pcie"));
    assert_null(strstr(f.text, "clock:"));
    ask_with(&f, "-DDEAD");
    want(&f, "nvml: libnvidia-ml.so.1 does not answer");
    want(&f, "cuda_driver: 13.0\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without), cmocka_unit_test(test_with),
        cmocka_unit_test(test_odd_libraries),
    };
    return cmocka_run_group_tests_name("cuda report", tests, NULL, NULL);
}

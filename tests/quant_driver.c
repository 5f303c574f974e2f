/* SPDX-License-Identifier: Apache-2.0 */
/* quant_driver.c - a built quantization plugin on real files, for quant_ref.py.
 *
 *   quant_driver PLUGIN.so read DIR OUT      values of modules of the checkpoint DIR, f32, one
 *                                            after another; modules from standard input, a line
 *                                            each: NAME N K [ROW0 ROW1 COL0 COL1]
 *   quant_driver PLUGIN.so write DIR VARIANT BITS GROUP SYMMETRIC ACT_ORDER SEARCH
 *                                            a checkpoint in the folder DIR; linears from
 *                                            standard input: NAME N K WEIGHTS.f32 [MEAN.f32]
 *
 * Prints a line a module. Status 0 when all went well, 1 with a sentence otherwise. */
#include "checkpoint.h"
#include "fakeview.h"
#include "stwriter.h"

#include <dlfcn.h>
#include <stdlib.h>

#define LINE_MAX_SIZE 2048

typedef struct driver {
    fake_host host;
    const tn_plugin *plugin;
    const tn_quant *q;
    void *self;
    char *config;   /* what a writer emitted, owned */
    tn_stw *out;
} driver;

static int say(const char *what)
{
    fprintf(stderr, "quant_driver: %s\n", what);
    return 1;
}

/* -------------------------------------------------------------------------------- read */

static tn_status read_one(driver *d, const tn_view *v, const char *line, FILE *out, tn_err *err)
{
    char name[512];
    unsigned long long n, k, at[4];
    int found = sscanf(line, "%511s %llu %llu %llu %llu %llu %llu", name, &n, &k, &at[0], &at[1],
                       &at[2], &at[3]);
    if (found != 3 && found != 7)
        return tn_fail(err, TN_USAGE, "wanted NAME N K [ROW0 ROW1 COL0 COL1], found %s", line);
    const tn_module m = {.size = sizeof m, .name = name, .n = n, .k = k};
    const tn_rect r = found == 7 ? (tn_rect){at[0], at[1], at[2], at[3]} : (tn_rect){0, n, 0, k};
    size_t count = (size_t)((r.row1 - r.row0) * (r.col1 - r.col0));
    float *w = malloc(count * sizeof *w);
    tn_form f;
    if (w == NULL)
        return tn_fail(err, TN_NO_MEMORY, "no memory for %s", name);
    tn_status st = fake_matrix(d->q, d->self, v, &m, &r, 48, &f, w, err);
    if (st == TN_OK && fwrite(w, sizeof *w, count, out) != count)
        st = tn_fail(err, TN_IO, "cannot write the values of %s", name);
    if (st == TN_OK)
        printf("%s kind %u bits %u group %u flags %u cols %llu file_bytes %llu\n", name, f.kind,
               f.bits, f.group, f.flags, (unsigned long long)f.cols,
               (unsigned long long)f.file_bytes);
    free(w);
    return st;
}

static int command_read(driver *d, const char *dir, const char *path)
{
    char line[LINE_MAX_SIZE];
    tn_ckpt *ckpt;
    tn_err err;
    FILE *out = fopen(path, "wb");
    if (out == NULL)
        return say("cannot open the output");
    tn_status st = tn_ckpt_open(dir, 0, &ckpt, &err);
    if (st != TN_OK) {
        fclose(out);
        return say(err.text);
    }
    const tn_view *v = tn_ckpt_view(ckpt);
    uint32_t score = d->q->claims(d->self, v, &err);
    if (score == 0)
        st = TN_DATA;
    while (st == TN_OK && fgets(line, sizeof line, stdin) != NULL)
        st = read_one(d, v, line, out, &err);
    tn_ckpt_close(ckpt);
    if (fclose(out) != 0 && st == TN_OK)
        st = tn_fail(&err, TN_IO, "cannot finish the output");
    if (d->host.nlog != 0)
        printf("log %u: %s\n", d->host.nlog, d->host.log);
    return st != TN_OK ? say(err.text) : 0;
}

/* ------------------------------------------------------------------------------- write */

static tn_status take_tensor(void *ctx, const char *name, uint32_t dtype, uint32_t ndim,
                             const uint64_t *dim, const void *data, tn_err *err)
{
    return tn_stw_tensor(((driver *)ctx)->out, name, dtype, ndim, dim, data, err);
}

static tn_status take_config(void *ctx, const char *json, tn_err *err)
{
    driver *d = ctx;
    size_t size = strlen(json) + 64;
    d->config = malloc(size);
    if (d->config == NULL)
        return tn_fail(err, TN_NO_MEMORY, "no memory for the config");
    snprintf(d->config, size, "{\"quantization_config\": %s}\n", json);
    return TN_OK;
}

static tn_status take_file(void *ctx, const char *name, const void *data, uint64_t size,
                           tn_err *err)
{
    return tn_stw_file(((driver *)ctx)->out, name, data, size, err);
}

/* `count` floats from a file, or NULL. */
static float *load(const char *path, size_t count)
{
    FILE *f = fopen(path, "rb");
    float *v = malloc(count * sizeof *v);
    bool whole = f != NULL && v != NULL && fread(v, sizeof *v, count, f) == count;
    if (f != NULL)
        fclose(f);
    if (!whole) {
        free(v);
        return NULL;
    }
    return v;
}

static tn_status write_one(driver *d, void *writer, const char *line, tn_err *err)
{
    char name[512], weights[512], mean[512] = "";
    unsigned long long n, k;
    int found = sscanf(line, "%511s %llu %llu %511s %511s", name, &n, &k, weights, mean);
    if (found < 4)
        return tn_fail(err, TN_USAGE, "wanted NAME N K WEIGHTS [MEAN], found %s", line);
    float *w = load(weights, (size_t)(n * k)), *act = found == 5 ? load(mean, (size_t)k) : NULL;
    const tn_write_linear l = {.size = sizeof l, .name = name, .n = n, .k = k, .w = w,
                               .act_mean = act};
    tn_status st = w == NULL || (found == 5 && act == NULL)
                       ? tn_fail(err, TN_NOINPUT, "cannot read %s", weights)
                       : d->q->write_linear(writer, &l, err);
    free(w);
    free(act);
    return st;
}

static tn_status write_all(driver *d, const tn_write_options *o, tn_err *err)
{
    char line[LINE_MAX_SIZE];
    void *writer;
    const tn_sink sink = {.size = sizeof sink, .ctx = d, .tensor = take_tensor,
                          .config = take_config, .file = take_file};
    tn_status st = d->q->write_begin(d->self, o, NULL, &sink, &writer, err);
    if (st != TN_OK)
        return st;
    while (st == TN_OK && fgets(line, sizeof line, stdin) != NULL)
        st = write_one(d, writer, line, err);
    if (st == TN_OK)
        st = d->q->write_end(writer, err);
    d->q->write_drop(writer);
    if (st == TN_OK)
        st = tn_stw_file(d->out, "config.json", d->config, strlen(d->config), err);
    return st == TN_OK ? tn_stw_finish(d->out, false, err) : st;
}

static int command_write(driver *d, char **arg)
{
    tn_err err;
    const tn_write_options o = {.size = sizeof o,
                                .variant = arg[1],
                                .bits = (uint32_t)strtoul(arg[2], NULL, 10),
                                .group = (int32_t)strtol(arg[3], NULL, 10),
                                .symmetric = (uint32_t)strtoul(arg[4], NULL, 10),
                                .act_order = (uint32_t)strtoul(arg[5], NULL, 10),
                                .search = (uint32_t)strtoul(arg[6], NULL, 10)};
    tn_status st = tn_stw_open(arg[0], 0, &d->out, &err);
    if (st == TN_OK) {
        st = write_all(d, &o, &err);
        tn_stw_close(d->out);
    }
    free(d->config);
    return st != TN_OK ? say(err.text) : 0;
}

/* -------------------------------------------------------------------------------- main */

int main(int argc, char **argv)
{
    static driver d;
    tn_err err;
    bool reads = argc == 5 && strcmp(argv[2], "read") == 0;
    if (!reads && !(argc == 10 && strcmp(argv[2], "write") == 0))
        return say("wanted PLUGIN.so read DIR OUT, or PLUGIN.so write DIR VARIANT BITS GROUP "
                   "SYMMETRIC ACT_ORDER SEARCH");
    void *so = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    d.plugin = so != NULL ? dlsym(so, "tn_plugin_entry") : NULL;
    if (d.plugin == NULL || d.plugin->kind != TN_KIND_QUANT)
        return say(so == NULL ? dlerror() : "the file is no quantization plugin");
    fake_host_open(&d.host);
    d.q = d.plugin->table;
    if (d.plugin->init(&d.host.host, &d.self, &err) != TN_OK)
        return say(err.text);
    int rc = reads ? command_read(&d, argv[3], argv[4]) : command_write(&d, argv + 3);
    d.plugin->stop(d.self);
    if (atomic_load(&d.host.live) != 0)
        rc = say("the plugin kept memory");
    dlclose(so);
    return rc;
}

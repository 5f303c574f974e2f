/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_quant.c - checkpoints made of any bytes, before the quantization plugins.
 *
 * The input chooses a plugin, a module's sizes, a configuration (a template with numbers of
 * its own, or the rest of the input as JSON) and some tensors: names, types, and shapes that
 * are mostly those a format would have. Whatever comes, claims, form_of and read must end in
 * a status, and a form that is handed over must keep the contract.
 *
 * fuzz: source tests/fakeview.c
 * fuzz: source tests/entry_*.c
 * fuzz: source plugins/awq/awq_*.c
 * fuzz: source plugins/gptq/gptq_*.c */
#include "fakeview.h"
#include "json.h"
#include "quant_entries.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct input {
    const uint8_t *at, *end;
} input;

static uint32_t next(input *in)
{
    return in->at < in->end ? *in->at++ : 0;
}

static const char *const templates[] = {
    "{\"quantization_config\": {\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": %d, "
    "\"version\": \"gemm\"}}",
    "{\"quantization_config\": {\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": %d, "
    "\"version\": \"gemv\"}}",
    "{\"quantization_config\": {\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": %d, "
    "\"version\": \"gemv_fast\"}}",
    "{\"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": %d, \"group_size\": %d, "
    "\"desc_act\": true, \"dynamic\": {\"-:x\": {}, \"+:l\": {\"bits\": 8}}}}",
    "{\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"config_groups\": "
    "{\"g\": {\"targets\": [\"Linear\"], \"weights\": {\"num_bits\": %d, \"group_size\": %d, "
    "\"strategy\": \"group\", \"symmetric\": false}}, \"W8A16\": [\"re:l.*\"]}, \"ignore\": "
    "[\"re:.*x$\"], \"version\": \"0.9\"}}",
    "{\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"config_groups\": "
    "{\"W4A16\": [\"Linear\"]}}}",
    "{\"quantization_config\": {\"quant_method\": \"w4demo\"}}",
    "{\"quantization_config\": {\"quant_method\": \"private8\"}}",
};

static const char *const parts[] = {
    "weight", "qweight", "qzeros", "scales", "g_idx", "weight_packed", "weight_scale",
    "weight_zero_point", "weight_shape", "weight_g_idx", "q4", "step", "p8", "row",
};

static const uint32_t dtypes[] = {TN_I32, TN_F16, TN_BF16, TN_F32, TN_I16, TN_I8, TN_U8, TN_I64};

typedef struct sizes {
    uint64_t n, k, group;
    uint32_t bits;
} sizes;

/* A size that a format would have, or any small one. */
static uint64_t choose_dim(const sizes *s, uint32_t how)
{
    const uint64_t all[] = {s->n, s->k, s->n / 8, s->k / 8, s->n / 4, s->k / s->group,
                            (s->k + s->group - 1) / s->group, s->k * s->bits / 32,
                            (s->k * s->bits + 31) / 32, (s->n * s->bits + 31) / 32, 1, 2,
                            s->k / 2, s->k / 32, 8, 16};
    size_t count = sizeof all / sizeof *all;
    return how < 240 ? all[how % count] : how - 240;
}

/* A tensor of that shape; its bytes are the input's next ones, over and over. */
static void put_tensor(fake_view *v, const sizes *s, input *in)
{
    char name[32];
    snprintf(name, sizeof name, "l.%s", parts[next(in) % (sizeof parts / sizeof *parts)]);
    uint32_t dtype = dtypes[next(in) % (sizeof dtypes / sizeof *dtypes)], ndim = 1 + next(in) % 2;
    uint64_t d0 = choose_dim(s, next(in)), d1 = ndim == 2 ? choose_dim(s, next(in)) : 0;
    fake_view_put(v, name, dtype, ndim, d0, d1, NULL);
    tn_tensor t;
    if (v->view.find(&v->view, name, &t) != 1)
        abort();
    uint8_t *to = fake_view_data(v, name);
    const uint8_t *from = in->at;
    uint64_t count = (uint64_t)(in->end - from) < 64 ? (uint64_t)(in->end - from) : 64;
    uint32_t step = next(in);
    for (uint64_t i = 0; i < t.data_size && count != 0 && step % 4 != 0; i++)
        to[i] = from[i % count];
    for (uint64_t i = 0; i + 4 <= t.data_size && step % 4 == 0; i += 4) {
        int32_t group = (int32_t)(i / 4 * (step / 4 + 1) % (s->k / s->group + 1));
        memcpy(to + i, &group, 4);   /* what a g_idx could be */
    }
}

/* Reads two rectangles; a broken promise ends the program. */
static void read_all(fake_bench *b, const sizes *s, input *in)
{
    const tn_module m = {.size = sizeof m, .name = "l", .n = s->n, .k = s->k};
    uint64_t row = next(in) % s->n, col = next(in) % s->k;
    const tn_rect rects[2] = {{0, s->n, 0, s->k},
                              {row, row + 1 + next(in) % (s->n - row), col,
                               col + 1 + next(in) % (s->k - col)}};
    float *out = malloc(s->n * s->k * sizeof *out);
    for (int i = 0; i < 2 && out != NULL; i++) {
        tn_err err;
        tn_form f;
        tn_status st = b->q->form_of(b->self, &b->view.view, &m, &rects[i], &f, &err);
        if (st == TN_OK && f.kind == TN_FORM_PRIVATE)
            continue;
        st = fake_matrix(b->q, b->self, &b->view.view, &m, &rects[i], 1 + next(in) % 20, &f, out,
                         &err);
        if (st == TN_INTERNAL) {
            fprintf(stderr, "%s\n", err.text);
            abort();
        }
    }
    free(out);
}

static void run(const tn_plugin *plugin, const char *config, const sizes *s, input *in)
{
    fake_bench b;
    tn_err why;
    fake_bench_open(&b, plugin, "{}");
    fake_view_config(&b.view, config);
    for (uint32_t i = next(in) % 8; i > 0; i--)
        put_tensor(&b.view, s, in);
    uint64_t unit;
    const tn_module m = {.size = sizeof m, .name = "l", .n = s->n, .k = s->k};
    (void)b.q->claims(b.self, &b.view.view, &why);
    (void)b.q->cut(b.self, &b.view.view, &m, &unit, &unit, &why);
    read_all(&b, s, in);
    if (fake_bench_close(&b) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const tn_plugin *const plugins[] = {&awq_plugin_entry, &gptq_plugin_entry,
                                               &w4demo_plugin_entry, &private8_plugin_entry};
    input in = {data, data + size};
    const tn_plugin *plugin = plugins[next(&in) % 4];
    uint32_t which = next(&in);
    sizes s = {.n = 8 * (1 + next(&in) % 8), .k = 8 * (1 + next(&in) % 16),
               .group = 1 + next(&in) % 64, .bits = 1 + next(&in) % 8};
    if (which & 64) {
        s.n -= next(&in) % 8;
        s.k -= next(&in) % 8;
    }
    if (which & 128) {
        char *text = malloc(size + 1);
        const uint8_t *zero = memchr(in.at, 0, (size_t)(in.end - in.at));
        size_t len = (size_t)((zero != NULL ? zero : in.end) - in.at);
        tn_json_doc *doc;
        tn_err err;
        if (text == NULL)
            return 0;
        memcpy(text, in.at, len);
        text[len] = 0;
        if (tn_json_open(text, len, "config.json", 64, &doc, &err) == TN_OK) {
            tn_json_close(doc);
            in.at += len;
            run(plugin, text, &s, &in);
        }
        free(text);
        return 0;
    }
    char config[1024];
    const char *t = templates[which % (sizeof templates / sizeof *templates)];
    bool two = strstr(t, "_bits\": %d") != NULL || strstr(t, "\"bits\": %d") != NULL;
    int group = (int)s.group;
    snprintf(config, sizeof config, t, two ? (int)s.bits : group, group);
    run(plugin, config, &s, &in);
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* bench_cpu_device.c - how fast the cpu device runs a model of SmolLM2-135M's shape.
 *
 *     bench_cpu_device [threads [isa [prompt | delta]]]
 *
 * `prompt` runs prompts alone, thirty of them, for a profiler to look at. `delta` runs nothing but
 * the Gated DeltaNet of one layer of Qwen3-Next-80B-A3B, in both forms of the option, by turns.
 * Prints tokens a second for decoding (1 and 8 sequences) and for reading a prompt, what a
 * token costs in bytes against the bandwidth measured in the same process, and where the time
 * goes, operation by operation. Weights are random: the time does not depend on them. */
#include "recipe_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

extern const tn_plugin tn_plugin_entry;

#define CONTEXT 2048u
#define ROWS 512u
#define SEQS 8u
#define BLOCK 32u
#define BLOCKS (CONTEXT / BLOCK)

static const fx_llama smollm = {
    .layers = 30, .hidden = 576, .ffn = 1536, .q_heads = 9, .kv_heads = 3, .dim = 64,
    .vocab = 49152, .context = CONTEXT, .form = TN_FORM_W4G, .group = 64,
    .flags = FX_SCALE16 | FX_ZEROS, .head_form = TN_FORM_F16,
};

typedef struct bench {
    fx_device d;
    void *program;
    fixture *f;
    uint64_t number;
    int32_t token[ROWS], row_seq[ROWS], block[SEQS * BLOCKS];
    tn_seq seq[SEQS];
    tn_out out[SEQS];
    tn_sampling sampling[SEQS];
} bench;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void must(tn_status st, const tn_err *err)
{
    if (st == TN_OK)
        return;
    fprintf(stderr, "bench: %s\n", err->text);
    exit(1);
}

/* `nseq` sequences with `rows` rows each, behind `context` tokens. */
static const tn_results *step(bench *b, uint32_t nseq, uint32_t rows, uint32_t context)
{
    tn_err err;
    const tn_results *results;
    tn_step s = {.size = sizeof s, .nrow = nseq * rows, .nseq = nseq, .nout = nseq,
                 .nblock = nseq * BLOCKS, .number = b->number++, .row_token = b->token,
                 .row_seq = b->row_seq, .seq = b->seq, .out = b->out, .block = b->block};
    for (uint32_t i = 0; i < nseq; i++) {
        b->seq[i] = (tn_seq){.row0 = (int32_t)(i * rows), .nrow = (int32_t)rows,
                             .context = (int32_t)context, .block0 = i * BLOCKS};
        b->out[i] = (tn_out){.row = (int32_t)(i * rows + rows - 1),
                             .sampling = &b->sampling[i]};
        for (uint32_t r = 0; r < rows; r++) {
            b->row_seq[i * rows + r] = (int32_t)i;
            b->token[i * rows + r] = (int32_t)(fx_bits(b->f) % b->f->recipe.vocab);
        }
        for (uint32_t j = 0; j < BLOCKS; j++)
            b->block[i * BLOCKS + j] = (int32_t)(i * BLOCKS + j);
    }
    must(b->d.table->run(b->program, &s, &err), &err);
    must(b->d.table->wait(b->program, s.number, 0, &results, &err), &err);
    return results;
}

/* Steps a second, the median of several rounds. */
static double rate(bench *b, uint32_t nseq, uint32_t rows, uint32_t context, uint32_t steps,
                   uint32_t rounds)
{
    double times[32];
    for (uint32_t i = 0; i < rounds; i++) {
        double t = now();
        for (uint32_t j = 0; j < steps; j++)
            step(b, nseq, rows, context + (rows == 1 ? j : 0));
        t = now() - t;
        uint32_t at = i;
        for (; at > 0 && times[at - 1] > t; at--)
            times[at] = times[at - 1];
        times[at] = t;
    }
    return steps / times[rounds / 2];
}

/* Bytes of weights that an operation of the recipe reads. */
static double bytes_of(const bench *b, const tn_op *op)
{
    const tn_op_linear *a = op->args;
    double n = 0;
    for (uint32_t i = 0; op->kind == TN_OP_LINEAR && i < a->nparts; i++)
        n += (double)b->d.table->weight_bytes(b->program, a->part[i].w);
    return n;
}

/* Time by name of operation, over 16 steps, with the bytes of weights read a second. */
static void print_profile(bench *b, const char *what, uint32_t nseq, uint32_t rows,
                          uint32_t context)
{
    double time[32] = {0}, bytes[32] = {0}, all = 0;
    const char *name[32];
    uint32_t n = 0, steps = rows > 1 ? 3 : 16;
    step(b, nseq, rows, context);
    for (uint32_t turn = 0; turn < steps; turn++) {
        const tn_results *r = step(b, nseq, rows, context);
        for (uint32_t i = 0; i < r->nop; i++) {
            uint32_t j = 0;
            while (j < n && strcmp(name[j], b->f->op[i].name) != 0)
                j++;
            if (j == n)
                name[n++] = b->f->op[i].name;
            time[j] += (double)r->op_ns[i] / steps;
            bytes[j] += bytes_of(b, &b->f->op[i]) / steps;
            all += (double)r->op_ns[i] / steps;
        }
    }
    printf("  %s: %.0f us:", what, all / 1e3);
    for (uint32_t j = 0; j < n; j++)
        if (time[j] / all > 0.002) {
            printf("  %s %.1f%%", name[j], 100 * time[j] / all);
            if (bytes[j] > 0 && rows == 1)
                printf(" (%.1f GB/s)", bytes[j] / time[j]);
        }
    printf("\n");
}

static void open_bench(bench *b, uint32_t requant, uint32_t profile)
{
    tn_limits l = {.size = sizeof l, .rows_max = ROWS, .seqs_max = SEQS, .outs_max = SEQS,
                   .blocks_max = SEQS * BLOCKS, .block_tokens = BLOCK, .context_max = CONTEXT,
                   .top_max = 20, .profile = profile};
    fx_llama m = smollm;
    m.head_requant = requant;
    b->f = fx_new(1);
    b->f->lean = true;
    fx_build_llama(b->f, &m);
    b->program = fx_program(&b->d, b->f, &l, SEQS * BLOCKS, 0);
    for (uint32_t i = 0; i < SEQS; i++)
        b->sampling[i] = (tn_sampling){.flags = TN_SAMPLE_GREEDY, .top_p = 1, .repetition = 1,
                                       .target = -1, .draft = -1};
}

static double weight_bytes(const bench *b)
{
    double n = 0;
    for (uint32_t i = 0; i < b->f->recipe.nweight; i++)
        n += (double)b->d.table->weight_bytes(b->program, i);
    return n;
}

static void set_sampled(bench *b, float temperature, float top_p, int32_t top_k)
{
    for (uint32_t i = 0; i < SEQS; i++) {
        b->sampling[i].flags = 0;
        b->sampling[i].temperature = temperature;
        b->sampling[i].top_p = top_p;
        b->sampling[i].top_k = top_k;
        b->sampling[i].seed = i;
    }
}

/* Logits of random weights are far flatter than a model's: a low temperature makes up for it. */
static void print_sampled(bench *b)
{
    static const struct { const char *name; float temperature, top_p; int32_t top_k; } c[] = {
        {"all columns", 0.2f, 1, 0}, {"top_p 0.95", 0.2f, 0.95f, 0}, {"top_k 20", 0.2f, 1, 20},
        {"top_p 0.95, flat", 1, 0.95f, 0},
    };
    for (uint32_t i = 0; i < sizeof c / sizeof c[0]; i++) {
        double sample = 0;
        set_sampled(b, c[i].temperature, c[i].top_p, c[i].top_k);
        step(b, 1, 1, 64);
        for (uint32_t n = 0; n < 10; n++) {
            const tn_results *r = step(b, 1, 1, 64);
            sample += (double)r->op_ns[r->nop - 1] / 1e4;
        }
        printf("  drawing, %s: %.0f us\n", c[i].name, sample);
    }
}

static void run(bench *b, const char *head, uint32_t requant)
{
    double bandwidth, bytes, decode;
    tn_err err;
    open_bench(b, requant, 0);
    bytes = weight_bytes(b);
    step(b, 1, ROWS, 0);
    printf("head %s: %.1f MB a token\n", head, bytes / 1e6);
    for (uint32_t i = 0; i < 5; i++) {
        must(b->d.table->bandwidth(b->d.dev, &bandwidth, &err), &err);
        decode = rate(b, 1, 1, 64, 20, 9);
        printf("  decode, 1 sequence    %7.1f tok/s = %.0f%% of what %.1f GB/s allow\n", decode,
               100 * decode * bytes / bandwidth, bandwidth / 1e9);
    }
    printf("  decode, 8 sequences   %7.1f tok/s\n", 8 * rate(b, 8, 1, 64, 8, 9));
    printf("  decode, context 1500  %7.1f tok/s\n", rate(b, 1, 1, 1500, 20, 9));
    printf("  prompt of %u         %7.1f tok/s\n", ROWS, ROWS * rate(b, 1, ROWS, 0, 1, 7));
    b->d.table->release(b->program);
    fx_free(b->f);
    open_bench(b, requant, 1);
    step(b, 1, ROWS, 0);
    print_profile(b, "decode 1", 1, 1, 64);
    print_profile(b, "decode 8", 8, 1, 64);
    print_profile(b, "prompt", 1, ROWS, 0);
    print_profile(b, "context 1500", 1, 1, 1500);
    print_sampled(b);
    b->d.table->release(b->program);
    fx_free(b->f);
}

static void run_prompts(bench *b)
{
    open_bench(b, 0, 0);
    step(b, 1, ROWS, 0);
    for (uint32_t i = 0; i < 3; i++)
        printf("  prompt of %u         %7.1f tok/s\n", ROWS, ROWS * rate(b, 1, ROWS, 0, 1, 10));
    b->d.table->release(b->program);
    fx_free(b->f);
}

/* ---------------------------------------------------------------------------------- DELTA */

#define DELTA_WIDTH (8192u + 4096u + 2 * 32u) /* q|k|v, z, a and b of a row */

/* Rows come from a table as they would from the projections. */
static fixture *delta_layer(void)
{
    fixture *f = fx_new(1);
    f->recipe.vocab = ROWS;
    uint32_t x = fx_buffer(f, TN_ROWS_TOKENS, DELTA_WIDTH, "x");
    tn_op_embed e = {.size = sizeof e, .out = x, .scale = 1};
    e.w = fx_matrix(f, TN_ROLE_EMBED, ROWS, DELTA_WIDTH, TN_FORM_F32, 0, 0);
    fx_op(f, TN_OP_EMBED, &e, "embed");
    f->state[0] = (tn_state_spec){.size = sizeof(tn_state_spec), .heads = 32, .k_dim = 128,
                                  .v_dim = 128, .conv_width = 8192, .conv_keep = 3};
    f->recipe.nstate = 1;
    tn_op_delta op = {.size = sizeof op, .qkv = x, .z = x, .z_col = 8192, .a = x,
                      .a_col = 12288, .b = x, .b_col = 12320, .k_heads = 16, .v_heads = 32,
                      .k_dim = 128, .v_dim = 128, .w_conv_bias = TN_NONE,
                      .gate_act = TN_ACT_SILU, .eps = 1e-6f};
    op.out = fx_buffer(f, TN_ROWS_TOKENS, 4096, "y");
    op.w_conv = fx_vector(f, 4 * 8192, TN_FORM_F32, -0.6f, 0.6f);
    op.w_a_log = fx_vector(f, 32, TN_FORM_F32, -1, 1);
    op.w_dt_bias = fx_vector(f, 32, TN_FORM_F32, -4, -1);
    op.w_norm = fx_vector(f, 128, TN_FORM_F32, 0.5f, 1.5f);
    fx_op(f, TN_OP_DELTA, &op, "delta");
    fx_section(f);
    return f;
}

/* Microseconds a row of DELTA alone, of steps of `rows` rows; the least of three. */
static double delta_us(bench *b, uint32_t rows)
{
    double least = INFINITY;
    for (uint32_t i = 0; i < 3; i++) {
        const tn_results *r = step(b, 1, rows, 0);
        least = fmin(least, (double)r->op_ns[1] / 1e3 / rows);
    }
    return least;
}

static void run_delta(int64_t threads, const char *isa)
{
    static const char *const forms[2] = {"recurrent", "chunked"};
    static const uint32_t sizes[] = {1, 8, 64, 512};
    tn_limits l = {.size = sizeof l, .rows_max = ROWS, .seqs_max = SEQS, .outs_max = SEQS,
                   .blocks_max = SEQS * BLOCKS, .block_tokens = BLOCK, .context_max = CONTEXT,
                   .profile = 1};
    bench *b = calloc(2, sizeof *b);
    if (b == NULL)
        exit(1);
    for (uint32_t i = 0; i < 2; i++) {
        b[i].d.delta = forms[i];
        fx_device_open(&b[i].d, &tn_plugin_entry, threads, isa);
        b[i].f = delta_layer();
        b[i].program = fx_program(&b[i].d, b[i].f, &l, 0, 1);
    }
    for (uint32_t turn = 0; turn < 3; turn++)
        for (uint32_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            double us[2] = {delta_us(&b[0], sizes[i]), delta_us(&b[1], sizes[i])};
            printf("  %3u rows: recurrent %6.1f us a row, chunked %6.1f: %.2f times as fast\n",
                   sizes[i], us[0], us[1], us[0] / us[1]);
        }
    for (uint32_t i = 0; i < 2; i++) {
        b[i].d.table->release(b[i].program);
        fx_device_close(&b[i].d);
        fx_free(b[i].f);
    }
    free(b);
}

int main(int argc, char **argv)
{
    bench *b = calloc(1, sizeof *b);
    tn_device_info info;
    tn_err err;
    if (b == NULL)
        return 1;
    fx_device_open(&b->d, &tn_plugin_entry, argc > 1 ? strtol(argv[1], NULL, 10) : 0,
                   argc > 2 ? argv[2] : "auto");
    must(b->d.table->info(b->d.dev, &info, &err), &err);
    printf("%s\n", info.name);
    if (argc > 3 && strcmp(argv[3], "prompt") == 0) {
        run_prompts(b);
    } else if (argc > 3 && strcmp(argv[3], "delta") == 0) {
        run_delta(strtol(argv[1], NULL, 10), argv[2]);
    } else {
        run(b, "f16", 0);
        run(b, "w8g", TN_FORM_W8G);
    }
    fx_device_close(&b->d);
    free(b);
    return 0;
}

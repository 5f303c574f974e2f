/* SPDX-License-Identifier: Apache-2.0 */
/* step_script.c - steps and models for the tests of a device. */
#include "step_script.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

const tn_sampling script_greedy = {.flags = TN_SAMPLE_GREEDY, .temperature = 1, .top_p = 1,
                                     .repetition = 1, .target = -1, .draft = -1};

void script_open(script *s, uint64_t number)
{
    s->step = (tn_step){.size = sizeof s->step, .number = number, .row_token = s->token,
                        .row_seq = s->row_seq, .seq = s->seq, .out = s->out,
                        .block = s->block};
}

/* `n` rows behind `context` tokens. blocks: [NBLOCK] or NULL: the block of the same number. */
tn_seq *script_add(script *s, const int32_t *token, int32_t n, int32_t context,
                          const int32_t *blocks, uint32_t nblock)
{
    tn_seq *q = &s->seq[s->step.nseq];
    *q = (tn_seq){.row0 = (int32_t)s->step.nrow, .nrow = n, .context = context,
                  .block0 = s->step.nblock, .state_in = -1, .state_out = -1};
    for (int32_t i = 0; i < n; i++) {
        s->token[s->step.nrow] = token[i];
        s->row_seq[s->step.nrow++] = (int32_t)s->step.nseq;
    }
    for (uint32_t i = 0; i < nblock; i++)
        s->block[s->step.nblock++] = blocks != NULL ? blocks[i] : (int32_t)i;
    s->step.nseq++;
    return q;
}

void script_pad(script *s, int32_t token)
{
    s->token[s->step.nrow] = token;
    s->row_seq[s->step.nrow++] = -1;
}

tn_sampling *script_out(script *s, int32_t row)
{
    uint32_t i = s->step.nout++;
    s->sampling[i] = script_greedy;
    s->out[i] = (tn_out){.row = row, .slot = (int32_t)i, .sampling = &s->sampling[i]};
    return &s->sampling[i];
}

tn_limits script_limits(void)
{
    return (tn_limits){.size = sizeof(tn_limits), .rows_max = 256, .seqs_max = 32,
                       .outs_max = 64, .blocks_max = 1024, .block_tokens = SCRIPT_BLOCK,
                       .context_max = SCRIPT_NBLOCK * SCRIPT_BLOCK, .top_max = 8, .profile = 1, .nrank = 1};
}

const tn_results *script_run(fx_device *d, void *program, const tn_step *s)
{
    tn_err err;
    const tn_results *results = NULL;
    if (d->table->run(program, s, &err) != TN_OK)
        fail_msg("run: %s", err.text);
    if (d->table->wait(program, s->number, 0, &results, &err) != TN_OK)
        fail_msg("wait: %s", err.text);
    return results;
}

uint32_t fx_buffer_named(const fixture *f, const char *name)
{
    for (uint32_t i = 0; i < f->recipe.nbuffer; i++)
        if (strcmp(f->buffer[i].name, name) == 0)
            return i;
    fail_msg("no buffer %s", name);
    return TN_NONE;
}

model *model_open(const tn_plugin *plugin, const fx_llama *m, int64_t threads, const char *isa,
                  const tn_limits *l)
{
    model *t = calloc(1, sizeof *t);
    if (t == NULL)
        abort();
    t->f = fx_new(11);
    fx_build_llama(t->f, m);
    fx_device_open(&t->d, plugin, threads, isa);
    t->program = fx_program(&t->d, t->f, l, 2 * SCRIPT_NBLOCK, 0);
    t->logits = fx_buffer_named(t->f, "logits");
    return t;
}

void model_close(model *t)
{
    t->d.table->release(t->program);
    fx_device_close(&t->d);
    fx_free(t->f);
    free(t);
}

void script_tokens(int32_t *token, uint32_t n, uint32_t vocab)
{
    uint64_t z = 99;
    for (uint32_t i = 0; i < n; i++) {
        z = z * 6364136223846793005ull + 1442695040888963407ull;
        token[i] = (int32_t)((z >> 33) % vocab);
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
/* program.c - what the core calls on a program: compile, run, wait, blocks and slots, peek. */
#include "program.h"

static tn_status make_tables(cpu_program *p, tn_err *err)
{
    p->worker = cpu_take(p, p->nthread, sizeof *p->worker);
    p->scratch = cpu_take(p, p->ndraw, sizeof *p->scratch);
    p->draw = cpu_take(p, p->logits_rows, sizeof *p->draw);
    if (p->worker == NULL || p->scratch == NULL || p->draw == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cpu: no memory for the workers of recipe %s", p->name);
    p->outcome[0].number = p->outcome[1].number = UINT64_MAX;
    return TN_OK;
}

tn_status cpu_program_open(cpu_dev *dev, const tn_recipe *r, const tn_limits *l,
                           cpu_program **out, tn_need *need, tn_err *err)
{
    cpu_program *p = dev->host->alloc(dev->host->ctx, sizeof *p);
    if (p == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cpu: no memory for a program");
    memset(p, 0, sizeof *p);
    p->dev = dev;
    p->k = dev->kernels;
    p->nthread = dev->nthread;
    tn_status st = cpu_take_specs(p, r, l, err);
    if (st == TN_OK)
        st = cpu_check(p, err);
    if (st == TN_OK)
        st = cpu_compile(p, err);
    if (st == TN_OK)
        st = make_tables(p, err);
    if (st != TN_OK) {
        cpu_release(p);
        return st;
    }
    if (need != NULL)
        *need = (tn_need){.size = sizeof *need, .cache_dtype = p->cache_dtype,
                          .weight_bytes = p->weight_size, .host_bytes = p->mapped_size,
                          .workspace_bytes = cpu_workspace(p, NULL),
                          .block_bytes = cpu_block_bytes(p), .slot_bytes = cpu_slot_bytes(p)};
    *out = p;
    return TN_OK;
}

/* --------------------------------------------------------------------------------- steps */

tn_status cpu_program_run(cpu_program *p, const tn_step *s, tn_err *err)
{
    if (!p->ready) {
        for (uint32_t i = 0; i < p->nweight; i++)
            if (!p->weight[i].packed)
                return tn_fail(err, TN_INTERNAL, "cpu: run before weight %s was packed",
                               p->weight[i].spec.name);
        if (!p->reserved)
            return tn_fail(err, TN_INTERNAL, "cpu: run before reserve");
        p->ready = 1;
    }
    return cpu_run_step(p, s, err);
}

tn_status cpu_program_wait(const cpu_program *p, uint64_t number, const tn_results **out,
                           tn_err *err)
{
    for (uint32_t i = 0; i < 2; i++)
        if (number != UINT64_MAX && p->outcome[i].number == number) {
            *out = &p->outcome[i].results;
            return TN_OK;
        }
    return tn_fail(err, TN_INTERNAL, "cpu: step %llu is neither the last nor the one before it",
                   (unsigned long long)number);
}

/* ----------------------------------------------------------------------- blocks and slots */

static tn_status check_index(const char *what, int32_t i, uint32_t n, tn_err *err)
{
    if (i >= 0 && (uint32_t)i < n)
        return TN_OK;
    return tn_fail(err, TN_INTERNAL, "cpu: %s %d of %u", what, i, n);
}

tn_status cpu_block_move(cpu_program *p, int32_t from, int32_t to, tn_err *err)
{
    tn_status st = check_index("block", from, p->nblock, err);
    if (st == TN_OK)
        st = check_index("block", to, p->nblock, err);
    for (uint32_t i = 0; st == TN_OK && i < p->ncache; i++)
        cpu_cache_copy(&p->cache[i], from, to);
    return st;
}

tn_status cpu_block_get(const cpu_program *p, int32_t block, void *data, tn_err *err)
{
    uint8_t *at = data;
    tn_status st = check_index("block", block, p->nblock, err);
    for (uint32_t i = 0; st == TN_OK && i < p->ncache; i++)
        at = cpu_cache_read(&p->cache[i], block, at);
    return st;
}

tn_status cpu_block_set(cpu_program *p, int32_t block, const void *data, tn_err *err)
{
    const uint8_t *at = data;
    tn_status st = check_index("block", block, p->nblock, err);
    for (uint32_t i = 0; st == TN_OK && i < p->ncache; i++)
        at = cpu_cache_write(&p->cache[i], block, at);
    return st;
}

tn_status cpu_slot_move(cpu_program *p, int32_t from, int32_t to, tn_err *err)
{
    tn_status st = check_index("state slot", from, p->nslot, err);
    if (st == TN_OK)
        st = check_index("state slot", to, p->nslot, err);
    for (uint32_t i = 0; st == TN_OK && from != to && i < p->nstate; i++)
        memcpy(cpu_state_slot(&p->state[i], to), cpu_state_slot(&p->state[i], from),
               p->state[i].slot_floats * sizeof(float));
    if (st == TN_OK)
        p->verdict[to] = p->verdict[from];
    return st;
}

tn_status cpu_slot_get(const cpu_program *p, int32_t slot, void *data, tn_err *err)
{
    uint8_t *at = data;
    tn_status st = check_index("state slot", slot, p->nslot, err);
    for (uint32_t i = 0; st == TN_OK && i < p->nstate; i++) {
        uint64_t size = p->state[i].settled_floats * sizeof(float);
        memcpy(at, cpu_state_slot(&p->state[i], slot), size);
        at += size;
    }
    return st;
}

tn_status cpu_slot_set(cpu_program *p, int32_t slot, const void *data, tn_err *err)
{
    const uint8_t *at = data;
    tn_status st = check_index("state slot", slot, p->nslot, err);
    for (uint32_t i = 0; st == TN_OK && i < p->nstate; i++) {
        uint64_t size = p->state[i].settled_floats * sizeof(float);
        memcpy(cpu_state_slot(&p->state[i], slot), at, size);
        at += size;
    }
    return st;
}

/* ----------------------------------------------------------------------------------- peek */

tn_status cpu_program_peek(const cpu_program *p, uint32_t buffer, uint32_t row0, uint32_t nrow,
                           float *out, tn_err *err)
{
    if (p->lim.profile == 0)
        return tn_fail(err, TN_UNSUPPORTED, "cpu: peek needs limits.profile");
    if (buffer >= p->nbuffer)
        return tn_fail(err, TN_INTERNAL, "cpu: buffer %u of %u", buffer, p->nbuffer);
    const cpu_buffer *b = &p->buffer[buffer];
    if (!b->formed)
        return tn_fail(err, TN_UNSUPPORTED, "cpu: buffer %s is never formed", b->name);
    if (!p->reserved || (uint64_t)row0 + nrow > cpu_rows_max(p, b->rows))
        return tn_fail(err, TN_INTERNAL, "cpu: rows %u + %u of buffer %s", row0, nrow, b->name);
    for (uint64_t i = 0; i < nrow; i++) {
        const float *x = cpu_row(p, buffer, row0 + i, 0);
        if (b->dtype != TN_I32)
            memcpy(out + i * b->width, x, b->width * sizeof *x);
        else
            for (uint32_t j = 0; j < b->width; j++)
                out[i * b->width + j] = (float)((const int32_t *)(const void *)x)[j];
    }
    return TN_OK;
}

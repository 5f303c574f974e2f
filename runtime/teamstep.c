/* SPDX-License-Identifier: Apache-2.0 */
/* teamstep.c - a step as bytes. */
#include "teamstep.h"

#include <stdlib.h>

static void put(tn_buf *to, const void *data, uint64_t size)
{
    static const char zeros[8];
    tn_buf_put(to, data, size);
    tn_buf_put(to, zeros, -size & 7);
}

static uint64_t mask_words(uint32_t vocab)
{
    return ((uint64_t)vocab + 31) / 32;
}

static void put_out(const tn_out *o, uint32_t vocab, tn_buf *to)
{
    const tn_sampling *s = o->sampling;
    put(to, o, sizeof *o);
    put(to, s, sizeof *s);
    if (s->history != NULL)
        put(to, s->history, (uint64_t)s->nhistory * sizeof *s->history);
    if (s->bias != NULL)
        put(to, s->bias, (uint64_t)s->nbias * sizeof *s->bias);
    if (s->mask != NULL)
        put(to, s->mask, mask_words(vocab) * sizeof *s->mask);
}

tn_status tn_team_step_put(const tn_step *s, uint32_t vocab, tn_buf *to, tn_err *err)
{
    tn_buf_reset(to);
    put(to, s, sizeof *s);
    put(to, s->row_token, (uint64_t)s->nrow * sizeof *s->row_token);
    put(to, s->row_seq, (uint64_t)s->nrow * sizeof *s->row_seq);
    put(to, s->seq, (uint64_t)s->nseq * sizeof *s->seq);
    put(to, s->block, (uint64_t)s->nblock * sizeof *s->block);
    for (uint32_t i = 0; i < s->nout; i++)
        put_out(&s->out[i], vocab, to);
    return to->failed ? tn_fail(err, TN_NO_MEMORY, "no memory to send a step to other ranks")
                      : TN_OK;
}

/* The rest of the bytes; `bad` once they did not suffice. */
typedef struct rest {
    char *at;
    uint64_t size;
    int bad;
} rest;

static void *get(rest *r, uint64_t size)
{
    uint64_t whole = size + (-size & 7);
    if (r->bad || whole > r->size) {
        r->bad = 1;
        return NULL;
    }
    void *found = r->at;
    r->at += whole;
    r->size -= whole;
    return found;
}

static void get_out(rest *r, uint32_t vocab, tn_out *o, tn_sampling *s)
{
    const tn_out *out = get(r, sizeof *out);
    const tn_sampling *sampling = get(r, sizeof *sampling);
    if (r->bad)
        return;
    memcpy(o, out, sizeof *o);
    memcpy(s, sampling, sizeof *s);
    o->sampling = s;
    if (s->history != NULL)
        s->history = get(r, (uint64_t)s->nhistory * sizeof *s->history);
    if (s->bias != NULL)
        s->bias = get(r, (uint64_t)s->nbias * sizeof *s->bias);
    if (s->mask != NULL)
        s->mask = get(r, mask_words(vocab) * sizeof *s->mask);
}

static bool make_room(tn_team_step *t, uint32_t nout)
{
    uint64_t size = (uint64_t)nout * (sizeof(tn_sampling) + sizeof(tn_out));
    if (size <= t->size)
        return true;
    void *memory = realloc(t->memory, size);
    if (memory == NULL)
        return false;
    t->memory = memory;
    t->size = size;
    return true;
}

tn_status tn_team_step_get(tn_team_step *t, char *data, uint64_t size, uint32_t vocab,
                           tn_err *err)
{
    rest r = {.at = data, .size = size};
    tn_step *s = &t->step;
    const tn_step *head = get(&r, sizeof *head);
    if (head == NULL || head->nout > size)
        return tn_fail(err, TN_DATA, "rank 0 sent %llu bytes that are no step",
                       (unsigned long long)size);
    *s = *head;
    if (!make_room(t, s->nout))
        return tn_fail(err, TN_NO_MEMORY, "no memory for a step of %u outputs", s->nout);
    tn_sampling *sampling = t->memory; /* the stricter of the two to align */
    tn_out *out = (tn_out *)(sampling + s->nout);
    s->row_token = get(&r, (uint64_t)s->nrow * sizeof *s->row_token);
    s->row_seq = get(&r, (uint64_t)s->nrow * sizeof *s->row_seq);
    s->seq = get(&r, (uint64_t)s->nseq * sizeof *s->seq);
    s->block = get(&r, (uint64_t)s->nblock * sizeof *s->block);
    for (uint32_t i = 0; i < s->nout; i++)
        get_out(&r, vocab, &out[i], &sampling[i]);
    s->out = out;
    if (r.bad || r.size != 0)
        return tn_fail(err, TN_DATA, "rank 0 sent a step whose sizes do not add up");
    return TN_OK;
}

void tn_team_step_close(tn_team_step *t)
{
    free(t->memory);
    *t = (tn_team_step){0};
}

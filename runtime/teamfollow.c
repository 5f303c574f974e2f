/* SPDX-License-Identifier: Apache-2.0 */
/* teamfollow.c - the other ranks while rank 0 serves: each call of its is done here too. */
#include "teamparts.h"

#include "siphash.h"

#include <stdlib.h>

/* What a call brings along: a place, then perhaps the bytes for it. */
typedef struct called {
    tn_team *t;
    tn_team_step step;
    tn_buf out;                  /* what was read for rank 0 */
} called;

/* Of the tokens that were drawn and their probabilities, bit by bit. */
uint64_t tn_team_hash(const tn_results *r)
{
    static const uint64_t secret[2] = {0x7261746e6b732e2e, 0x73616d65206f6e65};
    uint64_t sum[2];
    tn_sip s;
    tn_sip_open(&s, secret);
    for (uint32_t i = 0; r != NULL && i < r->nout; i++) {
        const tn_result *x = &r->result[i];
        tn_sip_put(&s, &x->token, sizeof x->token);
        tn_sip_put(&s, &x->flags, sizeof x->flags);
        tn_sip_put(&s, &x->logprob, sizeof x->logprob);
    }
    tn_sip_done(&s, sum);
    return sum[0];
}

static tn_status do_step(called *c, tn_buf *data, tn_err *err)
{
    const tn_team_work *w = &c->t->work;
    const tn_results *results = NULL;
    uint64_t begun = tn_team_now();
    tn_status st = tn_team_step_get(&c->step, data->data, data->len, w->vocab, err);
    if (st == TN_OK)
        st = w->device->run(w->program, &c->step.step, err);
    if (st == TN_OK)
        st = w->device->wait(w->program, c->step.step.number, 0, &results, err);
    if (st == TN_OK)
        tn_team_count(c->t, begun);
    if (st == TN_OK && w->check) {
        uint64_t hash = tn_team_hash(results);
        st = tn_team_send(c->t, 0, TN_WIRE_REPLY, 0, &hash, sizeof hash, NULL, 0, err);
    }
    return st;
}

static tn_status do_copy(called *c, uint32_t kind, const tn_buf *data, tn_err *err)
{
    const tn_team_work *w = &c->t->work;
    int32_t pair[2];
    if (data->len != sizeof pair)
        return tn_fail(err, TN_DATA, "rank 0 sent %zu bytes for a copy", data->len);
    memcpy(pair, data->data, sizeof pair);
    return kind == TN_WIRE_BLOCK_COPY
               ? w->device->block_copy(w->program, pair[0], pair[1], err)
               : w->device->state_copy(w->program, pair[0], pair[1], err);
}

static tn_status do_read(called *c, uint32_t kind, const tn_buf *data, tn_err *err)
{
    const tn_team_work *w = &c->t->work;
    bool block = kind == TN_WIRE_BLOCK_READ;
    uint64_t size = block ? w->device->block_size(w->program) : w->device->state_size(w->program);
    int32_t at;
    tn_buf_reset(&c->out);
    if (data->len != sizeof at)
        return tn_fail(err, TN_DATA, "rank 0 sent %zu bytes to read at", data->len);
    if (!tn_buf_room(&c->out, size))
        return tn_fail(err, TN_NO_MEMORY, "no memory to read %llu bytes out of the cache",
                       (unsigned long long)size);
    memcpy(&at, data->data, sizeof at);
    tn_status st = block ? w->device->block_read(w->program, at, c->out.data, err)
                         : w->device->state_read(w->program, at, c->out.data, err);
    return st == TN_OK ? tn_team_send(c->t, 0, TN_WIRE_REPLY, 0, c->out.data, size, NULL, 0, err)
                       : st;
}

static tn_status do_write(called *c, uint32_t kind, const tn_buf *data, tn_err *err)
{
    const tn_team_work *w = &c->t->work;
    bool block = kind == TN_WIRE_BLOCK_WRITE;
    uint64_t size = block ? w->device->block_size(w->program) : w->device->state_size(w->program);
    int32_t at;
    if (data->len != sizeof at + size)
        return tn_fail(err, TN_DATA, "rank 0 sent %zu bytes to write", data->len);
    memcpy(&at, data->data, sizeof at);
    tn_buf_reset(&c->out); /* aligned, as a device may want it */
    tn_buf_put(&c->out, data->data + sizeof at, size);
    if (c->out.failed)
        return tn_fail(err, TN_NO_MEMORY, "no memory to write %llu bytes into the cache",
                       (unsigned long long)size);
    return block ? w->device->block_write(w->program, at, c->out.data, err)
                 : w->device->state_write(w->program, at, c->out.data, err);
}

static tn_status do_call(called *c, uint32_t kind, tn_buf *data, tn_err *err)
{
    switch (kind) {
    case TN_WIRE_STEP: return do_step(c, data, err);
    case TN_WIRE_BLOCK_COPY:
    case TN_WIRE_STATE_COPY: return do_copy(c, kind, data, err);
    case TN_WIRE_BLOCK_READ:
    case TN_WIRE_STATE_READ: return do_read(c, kind, data, err);
    case TN_WIRE_BLOCK_WRITE:
    case TN_WIRE_STATE_WRITE: return do_write(c, kind, data, err);
    default: return tn_fail(err, TN_DATA, "rank 0 asked for %#x, which no rank does", kind);
    }
}

/* Rank 0 reads it, should it be stopped, when it runs again. */
static void say_fail(tn_team *t, tn_status st, const char *why)
{
    tn_err other;
    (void)tn_team_send(t, 0, TN_WIRE_FAIL, (uint32_t)st, why, strlen(why), NULL, 0, &other);
}

tn_status tn_team_follow(tn_team *t, const tn_team_work *w, tn_err *err)
{
    called c = {.t = t};
    tn_status st = TN_OK;
    pthread_mutex_lock(&t->lock);
    t->work = *w;                /* the beat looks at it */
    pthread_mutex_unlock(&t->lock);
    tn_buf_open(&c.out, TN_WIRE_SIZE_MAX);
    while (st == TN_OK) {
        tn_frame f;
        tn_buf *data = &t->peer[0].data;
        st = tn_wire_recv(t->peer[0].fd, &f, data, t->silence * 1000u, err);
        if (st != TN_OK) {
            tn_err how = *err;
            if (st == TN_TIMEOUT)
                say_fail(t, st, "rank 0 was silent for too long");
            st = tn_fail(err, TN_UNAVAILABLE, "rank %u: rank 0 is gone: %.800s", t->rank, how.text);
            break;
        }
        if (f.kind == TN_WIRE_BEAT)
            continue;
        if (f.kind == TN_WIRE_BYE)
            break;
        st = do_call(&c, f.kind, data, err);
        if (st != TN_OK)
            say_fail(t, st, err->text);
    }
    /* Leaving a group that counts as sound waits for ranks that may never answer. */
    if (st != TN_OK && w->comm != NULL && w->comm->abort != NULL && w->group != NULL)
        w->comm->abort(w->group);
    tn_team_step_close(&c.step);
    tn_buf_close(&c.out);
    return st;
}

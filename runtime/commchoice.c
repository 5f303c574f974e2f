/* SPDX-License-Identifier: Apache-2.0 */
/* commchoice.c - several communicators at once: each call goes to the one that was fastest. */
#include "commchoice.h"

#include "commtrial.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define NSIZE 6u
#define TRIAL_MS 10000u        /* a busy machine is no communicator's fault */
#define MEASURE_MS 1500u

/* The greatest sum of each class, and how many are timed. */
static const uint64_t size_of_class[NSIZE] = {4096, 16384, 65536, 262144, 1048576, 8388608};
static const uint32_t calls_of_class[NSIZE] = {20, 20, 20, 10, 5, 3};

typedef struct candidate {
    const tn_comm_ref *ref;
    void *group;
    double us[NSIZE];          /* INFINITY: not measured */
    bool is_in;                /* joined, and nothing is wrong with it */
    bool is_stuck;             /* one of its calls hangs here: never left */
} candidate;

/* The group of the communicator that chooses. */
typedef struct choice {
    tn_comm face;
    tn_comm_ref ref;
    candidate c[TN_CHOICE_MAX];
    uint32_t nc;
    uint32_t best[NSIZE];      /* which of c */
} choice;

/* ------------------------------------------------------------------------- the communicator */

static uint32_t class_of(uint64_t bytes)
{
    uint32_t i = 0;
    while (i < NSIZE - 1 && bytes > size_of_class[i])
        i++;
    return i;
}

static uint64_t bytes_of(uint64_t count, uint32_t dtype)
{
    return count * (dtype == TN_F16 || dtype == TN_BF16 ? 2 : 4); /* a class is coarse */
}

/* The best of a class first, then the others: not all offer every type, and all ranks find that
 * out alike. */
static const candidate *nth(const choice *x, uint32_t best, uint32_t n)
{
    return n == 0 ? &x->c[best] : &x->c[n - 1 < best ? n - 1 : n];
}

static tn_status all_reduce(void *group, void *p, uint64_t count, uint32_t dtype, void *stream,
                            tn_err *err)
{
    const choice *x = group;
    uint32_t best = x->best[class_of(bytes_of(count, dtype))];
    tn_status st = TN_UNSUPPORTED;
    for (uint32_t i = 0; st == TN_UNSUPPORTED && i < x->nc; i++) {
        const candidate *c = nth(x, best, i);
        st = c->ref->table->all_reduce(c->group, p, count, dtype, stream, err);
    }
    return st;
}

static tn_status all_gather(void *group, const void *in, void *out, uint64_t count,
                            uint32_t dtype, void *stream, tn_err *err)
{
    const choice *x = group;
    uint32_t best = x->best[class_of(bytes_of(count, dtype))];
    tn_status st = TN_UNSUPPORTED;
    for (uint32_t i = 0; st == TN_UNSUPPORTED && i < x->nc; i++) {
        const candidate *c = nth(x, best, i);
        st = c->ref->table->all_gather(c->group, in, out, count, dtype, stream, err);
    }
    return st;
}

static tn_status broadcast(void *group, void *p, uint64_t bytes, uint32_t root, void *stream,
                           tn_err *err)
{
    const choice *x = group;
    const candidate *c = &x->c[x->best[class_of(bytes)]];
    return c->ref->table->broadcast(c->group, p, bytes, root, stream, err);
}

static tn_status barrier(void *group, tn_err *err)
{
    const choice *x = group;
    const candidate *c = &x->c[x->best[0]];
    return c->ref->table->barrier != NULL ? c->ref->table->barrier(c->group, err) : TN_OK;
}

static void abort_all(void *group)
{
    const choice *x = group;
    for (uint32_t i = 0; i < x->nc; i++)
        x->c[i].ref->table->abort(x->c[i].group);
}

static tn_status health(void *group, tn_err *err)
{
    const choice *x = group;
    tn_status st = TN_OK;
    for (uint32_t i = 0; st == TN_OK && i < x->nc; i++)
        if (x->c[i].ref->table->health != NULL)
            st = x->c[i].ref->table->health(x->c[i].group, err);
    return st;
}

static void leave(void *group)
{
    choice *x = group;
    for (uint32_t i = 0; i < x->nc; i++)
        x->c[i].ref->table->leave(x->c[i].group);
    free(x);
}

/* What all of them offer is offered; names the candidates in its own. */
static void make_face(choice *x)
{
    uint32_t flags = x->c[0].ref->table->flags;
    for (uint32_t i = 1; i < x->nc; i++)
        flags &= x->c[i].ref->table->flags;
    x->face = (tn_comm){.size = sizeof(tn_comm), .flags = flags, .all_reduce = all_reduce,
                        .all_gather = all_gather, .broadcast = broadcast, .barrier = barrier,
                        .abort = abort_all, .health = health, .leave = leave};
    x->ref = (tn_comm_ref){.name = "auto", .table = &x->face, .self = x};
}

/* ------------------------------------------------------------------------------------ joining */

static void leave_out(const tn_choice_setup *s, candidate *c, uint32_t level, const tn_err *why)
{
    c->is_in = false;
    if (s->rank == 0)
        tn_log_put(s->log, level, "core", NULL, "the communicator %s is left out: %s", c->ref->name,
                   why->text);
    if (c->group != NULL && !c->is_stuck)
        c->ref->table->leave(c->group);
    c->group = NULL;
}

/* Joined by all ranks, or by none. */
static tn_status join(const tn_choice_setup *s, candidate *c, tn_err *err)
{
    const tn_comm *t = c->ref->table;
    uint8_t id[TN_COMM_ID_SIZE] = {0};
    tn_status st = s->rank == 0 ? t->make_id(c->ref->self, id, err) : TN_OK;
    st = s->round(s->team, st, NULL, 0, NULL, err);
    if (st == TN_OK)
        st = s->share(s->team, id, sizeof id, err);
    if (st != TN_OK)
        return st;
    st = t->join(c->ref->self, id, s->rank, s->nrank, s->card, s->join_ms, &c->group, err);
    if (st != TN_OK)
        c->group = NULL;
    return s->round(s->team, st, NULL, 0, NULL, err);
}

uint32_t tn_comm_fitting(const tn_comm_ref *comm, uint32_t ncomm, uint32_t flag)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < ncomm; i++)
        n += (comm[i].table->flags & flag) != 0;
    return n;
}

static tn_status join_all(const tn_choice_setup *s, choice *x, tn_err *err)
{
    uint32_t nin = 0;
    tn_fail(err, TN_UNAVAILABLE, "no communicator works on this memory");
    for (uint32_t i = 0; i < s->ncomm && x->nc < TN_CHOICE_MAX; i++) {
        candidate *c = &x->c[x->nc];
        if ((s->comm[i].table->flags & s->flag) == 0)
            continue;
        x->nc++;
        *c = (candidate){.ref = &s->comm[i], .is_in = true};
        for (uint32_t k = 0; k < NSIZE; k++)
            c->us[k] = INFINITY;
        tn_status st = join(s, c, err);
        if (st != TN_OK)
            leave_out(s, c, st == TN_TIMEOUT ? TN_LOG_WARN : TN_LOG_INFO, err);
        nin += c->is_in;
    }
    return nin > 0 ? TN_OK : TN_UNAVAILABLE;
}

/* ---------------------------------------------------------------------------------- measuring */

/* One size of one candidate, the slowest rank's time. *spent grows by what it took. */
static tn_status try_size(const tn_choice_setup *s, candidate *c, const tn_trial_room *room,
                          uint32_t k, double *spent, tn_err *err)
{
    tn_trial t = {.comm = c->ref->table, .group = c->group, .rank = s->rank, .nrank = s->nrank,
                  .bytes = size_of_class[k], .calls = calls_of_class[k],
                  .limit_ms = s->trial_ms > 0 ? s->trial_ms : TRIAL_MS};
    double us = INFINITY, *all = s->rank == 0 ? calloc(s->nrank, sizeof *all) : NULL;
    tn_status st = s->rank == 0 && all == NULL ? tn_fail(err, TN_NO_MEMORY, "out of memory")
        : tn_trial_run(&t, room, &us, &c->is_stuck, err);
    /* Whose trial failed aborts the others': its reason is the one to tell. */
    tn_status first = s->round(s->team, st == TN_CANCELLED ? TN_OK : st, &us, sizeof us, all, err);
    if (first == TN_OK)
        first = s->round(s->team, st, NULL, 0, NULL, err);
    st = first;
    for (uint32_t r = 0; st == TN_OK && s->rank == 0 && r < s->nrank; r++)
        us = all[r] > us ? all[r] : us;
    free(all);
    if (st == TN_OK)
        st = s->share(s->team, &us, sizeof us, err);
    if (st == TN_OK) {
        c->us[k] = us;
        *spent += us * (calls_of_class[k] + 2);
    }
    return st;
}

/* Sizes from small to large, each of all candidates, as long as there is time. */
static void try_all(const tn_choice_setup *s, choice *x, tn_trial_room *room)
{
    double spent = 0, most = 1000.0 * (s->measure_ms > 0 ? s->measure_ms : MEASURE_MS);
    tn_err err;
    for (uint32_t k = 0; k < NSIZE && (k == 0 || spent < most); k++)
        for (uint32_t i = 0; i < x->nc; i++) {
            candidate *c = &x->c[i];
            if (!c->is_in || try_size(s, c, room, k, &spent, &err) == TN_OK)
                continue;
            leave_out(s, c, TN_LOG_WARN, &err);
            if (c->is_stuck) /* its call may still write there: the others get a room of their own */
                (void)tn_trial_open(s->device, s->dev, room->size, room, &err);
        }
}

/* --------------------------------------------------------------------------------- the choice */

/* Sizes that nobody measured go by the one before. */
static void choose_best(choice *x)
{
    for (uint32_t k = 0; k < NSIZE; k++) {
        uint32_t best = TN_NONE;
        for (uint32_t i = 0; i < x->nc; i++)
            if (x->c[i].is_in && isfinite(x->c[i].us[k])
                && (best == TN_NONE || x->c[i].us[k] < x->c[best].us[k]))
                best = i;
        for (uint32_t i = 0; k == 0 && best == TN_NONE; i++)
            best = x->c[i].is_in ? i : TN_NONE;
        x->best[k] = best != TN_NONE ? best : x->best[k - 1];
    }
}

/* Who is best nowhere is let go; the others close ranks. */
static void keep_best(choice *x)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < x->nc; i++) {
        bool is_best = false;
        for (uint32_t k = 0; k < NSIZE; k++)
            is_best = is_best || x->best[k] == i;
        if (x->c[i].is_in && !is_best)
            x->c[i].ref->table->leave(x->c[i].group);
        if (!x->c[i].is_in || !is_best)
            continue;
        for (uint32_t k = 0; k < NSIZE; k++)
            x->best[k] = x->best[k] == i ? kept : x->best[k];
        x->c[kept++] = x->c[i];
    }
    x->nc = kept;
}

static void print_size(uint64_t bytes, char *text, size_t size)
{
    bool large = bytes >= 1048576;
    snprintf(text, size, "%llu %s", (unsigned long long)(bytes / (large ? 1048576 : 1024)),
             large ? "MiB" : "KiB");
}

/* "all-reduce: peer up to 1 MiB (7.1 us for 4 KiB), nccl above (310.0 us for 8 MiB)" */
static void tell(const tn_choice_setup *s, const choice *x)
{
    char line[600] = "", to[32], at[32];
    size_t n = 0;
    for (uint32_t k = 0, first = 0; k < NSIZE && n < sizeof line; k++) {
        const candidate *c = &x->c[x->best[k]];
        if (k + 1 < NSIZE && x->best[k + 1] == x->best[k])
            continue;
        print_size(size_of_class[k], to, sizeof to);
        print_size(size_of_class[k == NSIZE - 1 ? k : first], at, sizeof at);
        n += (size_t)snprintf(line + n, sizeof line - n, "%s%s %s%s", n > 0 ? ", " : "",
                              c->ref->name, k < NSIZE - 1 ? "up to " : first > 0 ? "above" : "alone",
                              k < NSIZE - 1 ? to : "");
        double us = c->us[k == NSIZE - 1 ? k : first];
        if (n < sizeof line && isfinite(us))
            n += (size_t)snprintf(line + n, sizeof line - n, " (%.1f us for %s)", us, at);
        first = k + 1;
    }
    tn_log_put(s->log, TN_LOG_INFO, "core", NULL, "all-reduce of %u ranks: %s", s->nrank, line);
}

/* Measuring needs memory on all ranks; without it the first that could be joined is taken. */
static tn_status measure(const tn_choice_setup *s, choice *x, tn_err *err)
{
    tn_trial_room room = {.device = NULL};
    tn_err why;
    tn_status st = tn_trial_open(s->device, s->dev, size_of_class[NSIZE - 1], &room, &why);
    st = s->round(s->team, st, NULL, 0, NULL, &why);
    if (st == TN_OK)
        try_all(s, x, &room);
    else if (s->rank == 0)
        tn_log_put(s->log, TN_LOG_WARN, "core", NULL, "communicators are not measured: %s", why.text);
    uint32_t nin = 0;
    for (uint32_t i = 0; i < x->nc; i++)
        nin += x->c[i].is_in;
    tn_trial_close(&room);
    return nin > 0 ? TN_OK : tn_fail(err, TN_UNAVAILABLE, "every communicator failed its trial");
}

tn_status tn_comm_choose(const tn_choice_setup *s, const tn_comm_ref **comm, void **group,
                         tn_err *err)
{
    uint32_t nin = 0;
    choice *x = calloc(1, sizeof *x);
    tn_status st = s->round(s->team, x != NULL ? TN_OK : tn_fail(err, TN_NO_MEMORY, "out of memory"),
                            NULL, 0, NULL, err);
    if (st == TN_OK)
        st = join_all(s, x, err);
    for (uint32_t i = 0; st == TN_OK && i < x->nc; i++)
        nin += x->c[i].is_in;
    if (st == TN_OK && nin > 1)
        st = measure(s, x, err);
    if (st != TN_OK) {
        free(x);
        return st;
    }
    choose_best(x);
    keep_best(x);
    if (s->rank == 0)
        tell(s, x);
    if (x->nc > 1) {
        make_face(x);
        *comm = &x->ref;
        *group = x;
        return TN_OK;
    }
    *comm = x->c[0].ref;
    *group = x->c[0].group;
    free(x);
    return TN_OK;
}

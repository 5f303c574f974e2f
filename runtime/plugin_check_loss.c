/* SPDX-License-Identifier: Apache-2.0 */
/* plugin_check_loss.c - a communicator whose ranks are lost: nobody may wait for ever.
 *
 * The last rank is killed, stopped, or stays away while the others are in a sum. A killed one is
 * left unburied until the others have ended, as it is under a parent that is busy. */
#include "plugin_check_comm.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define FREED_MS 5000u         /* within which an abort or a death frees those who wait */
#define STOPPED_S 1            /* the plugin's `timeout` while a rank is stopped */
#define ABSENT_MS 300u
#define SETS_MAX 66u
#define LOSS_SECONDS 15        /* after which a group that hangs is ended */
#define COUNT 1000u

static uint64_t ms_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void sleep_ms(uint32_t ms)
{
    struct timespec nap = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l};
    while (nanosleep(&nap, &nap) != 0 && errno == EINTR)
        ;
}

static tn_status sum(tn_comm_rank *r, tn_err *err)
{
    tn_comm_buffer x;
    if (!tn_comm_take(r, COUNT * sizeof(float), &x))
        return TN_NO_MEMORY;
    memset(x.host, 0, COUNT * sizeof(float));
    tn_status st = tn_comm_push(r, &x, COUNT * sizeof(float)) ? TN_OK : TN_INTERNAL;
    if (st == TN_OK)
        st = r->comm->all_reduce(r->group, x.mem, COUNT, TN_F32, r->stream, err);
    st = tn_comm_settle(r, st, &x, err);
    tn_comm_give(r, &x);
    return st;
}

/* ---------------------------------------------------------------------------------- an abort */

static void *abort_soon(void *user)
{
    tn_comm_rank *r = user;
    sleep_ms(300);
    r->comm->abort(r->group);
    return NULL;
}

static bool is_cancelled(tn_comm_rank *r, const char *who)
{
    tn_err err = {.text = ""};
    uint64_t begin = ms_now();
    tn_status st = sum(r, &err);
    if (st != TN_CANCELLED)
        return tn_comm_failed(r, "abort", "the sum of %s ended with %d (%.700s); expected "
                              "TN_CANCELLED", who, (int)st, err.text);
    if (ms_now() - begin > FREED_MS)
        return tn_comm_failed(r, "abort", "%s was freed after %llu ms", who,
                              (unsigned long long)(ms_now() - begin));
    return true;
}

/* The last rank stays away; rank 0 waits for it like the others, and another of its threads
 * aborts. */
bool tn_comm_part_abort(tn_comm_rank *r)
{
    pthread_t t;
    bool aborts = r->rank == 0;
    if (aborts && pthread_create(&t, NULL, abort_soon, r) != 0)
        return tn_comm_failed(r, "abort", "no thread");
    if (r->rank == r->nrank - 1)
        sleep_ms(600);
    bool good = is_cancelled(r, r->rank == r->nrank - 1 ? "one who came late" : "one who waited");
    if (aborts)
        pthread_join(t, NULL);
    if (good && r->comm->health != NULL && r->comm->health(r->group, NULL) == TN_OK)
        return tn_comm_failed(r, "abort", "health is good after it");
    return good && is_cancelled(r, "one who called again");
}

/* ------------------------------------------------------------------------------ a rank is lost */

static bool is_last(const tn_comm_rank *r)
{
    return r->rank == r->nrank - 1;
}

static bool sum_fails(tn_comm_rank *r, const char *what, uint32_t ms_most)
{
    tn_err err = {.text = ""};
    uint64_t begin = ms_now();
    tn_status st = sum(r, &err);
    uint64_t took = ms_now() - begin;
    if (st == TN_OK)
        return tn_comm_failed(r, what, "a sum without rank %u succeeded", r->nrank - 1);
    if (took > ms_most)
        return tn_comm_failed(r, what, "took %llu ms to fail; expected at most %u",
                              (unsigned long long)took, ms_most);
    snprintf(r->b->seen[r->rank], sizeof r->b->seen[0], "after %llu ms: %.900s",
             (unsigned long long)took, err.text);
    return r->comm->health == NULL || r->comm->health(r->group, &err) != TN_OK
        || tn_comm_failed(r, what, "health is good after a sum that failed");
}

/* All have joined when a first sum is done. */
static bool sum_once(tn_comm_rank *r)
{
    tn_err err = {.text = ""};
    return sum(r, &err) == TN_OK || tn_comm_failed(r, "first sum", "%.800s", err.text);
}

bool tn_comm_part_killed(tn_comm_rank *r)
{
    if (!sum_once(r))
        return false;
    if (!is_last(r))
        return sum_fails(r, "rank killed", FREED_MS);
    sleep_ms(200);
    raise(SIGKILL);
    return false;
}

bool tn_comm_part_stopped(tn_comm_rank *r)
{
    if (!sum_once(r))
        return false;
    if (!is_last(r))
        return sum_fails(r, "rank stopped", STOPPED_S * 1000 + FREED_MS);
    raise(SIGSTOP);
    return false;
}

bool tn_comm_part_left(tn_comm_rank *r)
{
    return sum_once(r) && (is_last(r) || sum_fails(r, "rank left", FREED_MS));
}

static void lose(tn_check *c, tn_comm_board *b, uint32_t n, uint32_t part, const char *what)
{
    tn_comm_cast k;
    tn_comm_start(c, b, n, part, &k);
    tn_comm_end(&k, b, n - 1, LOSS_SECONDS);
    if (tn_comm_judge(c, b, n, n - 1))
        tn_check_ok(c, "%u ranks, the last %s: %s", n, what, b->seen[0]);
}

/* --------------------------------------------------------------------------- joins that fail */

typedef struct bad_join {
    const char *what;
    uint32_t rank, nrank;
    bool is_alien;             /* an id that make_id did not make */
} bad_join;

static bool join_fails(tn_comm_rank *r, const bad_join *j)
{
    uint8_t id[TN_COMM_ID_SIZE];
    tn_err err = {.text = ""};
    void *self = r->room.guest->self, *group = NULL;
    if (r->comm->make_id(self, id, &err) != TN_OK)
        return tn_comm_failed(r, j->what, "make_id: %.800s", err.text);
    if (j->is_alien)
        memset(id, 0x41, sizeof id);
    uint64_t begin = ms_now();
    tn_status st = r->comm->join(self, id, j->rank, j->nrank, 0, ABSENT_MS, &group, &err);
    if (st == TN_OK)
        return tn_comm_failed(r, j->what, "joined as rank %u of %u", j->rank, j->nrank);
    if (ms_now() - begin > ABSENT_MS + FREED_MS)
        return tn_comm_failed(r, j->what, "failed after %llu ms; expected %u",
                              (unsigned long long)(ms_now() - begin), ABSENT_MS);
    return err.text[0] != 0 || tn_comm_failed(r, j->what, "failed without a sentence");
}

static void check_joins(tn_check *c, tn_comm_board *b)
{
    static const bad_join joins[] = {
        {"rank outside of the group", 2, 2, false}, {"no ranks", 0, 0, false},
        {"an alien id", 1, 2, true},                {"rank 0 alone", 0, 2, false},
        {"rank 1 alone", 1, 2, false},
    };
    memset(b, 0, sizeof *b);
    pid_t pid = fork();
    if (pid == 0) {
        tn_err err = {.text = ""};
        tn_comm_rank r = {.c = c, .b = b, .rank = 0, .nrank = 2};
        bool good = tn_comm_enter(&r, &err) == TN_OK || tn_comm_failed(&r, "life", "%s", err.text);
        for (size_t i = 0; good && i < sizeof joins / sizeof joins[0]; i++)
            good = join_fails(&r, &joins[i]);
        if (good)
            tn_check_leave(&r.room);
        b->has_ended[0] = good;
        _exit(0);
    }
    tn_comm_reap(pid, 60);
    if (tn_comm_judge(c, b, 1, TN_NONE))
        tn_check_ok(c, "joins that cannot come about fail in time");
}

/* A second rank 1, once the group is whole. The others go on. */
bool tn_comm_part_crowded(tn_comm_rank *r)
{
    tn_err err = {.text = ""};
    for (int i = 0; i < 20000 && !r->b->is_over; i++)
        sleep_ms(1);
    return sum(r, &err) == TN_OK || tn_comm_failed(r, "sum after a second rank 1", "%.800s",
                                                   err.text);
}

static void intrude(tn_comm_rank *r)
{
    tn_err err = {.text = ""};
    void *group = NULL;
    for (int i = 0; i < 20000 && !(r->b->has_joined[0] && r->b->has_joined[1]); i++)
        sleep_ms(1);
    if (tn_comm_enter(r, &err) != TN_OK)
        tn_comm_failed(r, "life", "%.800s", err.text);
    else if (r->comm->join(r->room.guest->self, r->b->id, 1, 2, 0, ABSENT_MS, &group, &err) == TN_OK)
        tn_comm_failed(r, "join", "a second rank 1 could join");
    else
        r->b->has_ended[2] = 1;
    r->b->is_over = 1;
}

static void check_crowd(tn_check *c, tn_comm_board *b)
{
    tn_comm_cast k;
    if (c->launcher != NULL)
        return; /* it starts as many as are wanted, and no more */
    tn_comm_start(c, b, 2, TN_PART_CROWDED, &k);
    pid_t pid = fork();
    if (pid == 0) {
        tn_comm_rank r = {.c = c, .b = b, .rank = 2, .nrank = 2};
        intrude(&r);
        _exit(0);
    }
    tn_comm_end(&k, b, TN_NONE, LOSS_SECONDS);
    tn_comm_reap(pid, LOSS_SECONDS);
    if (tn_comm_judge(c, b, 3, TN_NONE))
        tn_check_ok(c, "a second rank 1 is turned away, and the group goes on");
}

/* ------------------------------------------------------------------------------------- whole */

static bool has_timeout(const tn_check *c)
{
    tn_check_room room;
    bool has = false;
    if (tn_check_enter(c, false, NULL, NULL, &room, NULL) != TN_OK)
        return false;
    for (uint32_t i = 0; i < room.guest->noption; i++)
        has = has || (strcmp(room.guest->options[i].key, "timeout") == 0
                      && room.guest->options[i].type == TN_OPT_INT);
    tn_check_leave(&room);
    return has;
}

static void check_stopped(tn_check *c, tn_comm_board *b)
{
    const char *set[SETS_MAX];
    tn_check hurried = *c;
    if (!has_timeout(c) || c->nset >= SETS_MAX - 1) {
        tn_check_skip(c, "has no option `timeout` (seconds), so no rank was stopped");
        return;
    }
    if (c->nset > 0)
        memcpy(set, c->set, c->nset * sizeof *set);
    set[hurried.nset++] = "timeout=1";
    hurried.set = set;
    lose(&hurried, b, 2, TN_PART_STOPPED, "stopped");
    lose(&hurried, b, 4, TN_PART_STOPPED, "stopped");
    c->nok = hurried.nok;
    c->nfail = hurried.nfail;
    c->nskip = hurried.nskip;
}

void tn_check_comm_loss(tn_check *c, tn_comm_board *b)
{
    lose(c, b, 2, TN_PART_KILLED, "killed");
    lose(c, b, 4, TN_PART_KILLED, "killed");
    lose(c, b, 3, TN_PART_LEFT, "gone in peace");
    check_stopped(c, b);
    check_joins(c, b);
    check_crowd(c, b);
}

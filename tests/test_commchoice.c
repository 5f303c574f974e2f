/* SPDX-License-Identifier: Apache-2.0 */
/* test_commchoice.c - of several communicators each size gets the fastest, and what lies, hangs or
 * cannot be joined is left out. Ranks are threads; communicators are fakes that really sum. */
#include "commchoice.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define NRANK 3u
#define NFAKE 2u
#define SMALL 256u             /* elements of f32 */
#define LARGE 2097152u

/* --------------------------------------------------------------------------- meeting threads */

typedef struct meeting {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    uint32_t ncome, round;
    _Atomic bool is_aborted;
} meeting;

static void open_meeting(meeting *m)
{
    *m = (meeting){.ncome = 0};
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->moved, NULL);
}

static void close_meeting(meeting *m)
{
    pthread_mutex_destroy(&m->lock);
    pthread_cond_destroy(&m->moved);
}

/* False: aborted. */
static bool meet(meeting *m)
{
    pthread_mutex_lock(&m->lock);
    uint32_t mine = m->round;
    if (++m->ncome == NRANK) {
        m->ncome = 0;
        m->round++;
        pthread_cond_broadcast(&m->moved);
    }
    while (m->round == mine && !m->is_aborted)
        pthread_cond_wait(&m->moved, &m->lock);
    bool good = !m->is_aborted;
    pthread_mutex_unlock(&m->lock);
    return good;
}

static void break_up(meeting *m)
{
    pthread_mutex_lock(&m->lock);
    m->is_aborted = true;
    pthread_cond_broadcast(&m->moved);
    pthread_mutex_unlock(&m->lock);
}

/* ------------------------------------------------------------------------------------- fakes */

enum { GOOD, LIES, HANGS, STICKS, NO_ID, ONE_STAYS_OUT, NO_F16 };

typedef struct fake {
    uint32_t kind;
    double base_us, us_per_kib;
    meeting m;
    const float *slot[NRANK];
    _Atomic uint32_t calls, aborts, leaves, joins, inside;
    _Atomic uint32_t is_over;  /* lets go what sticks */
} fake;

typedef struct fake_group {
    fake *f;
    uint32_t rank;
} fake_group;

static void sleep_us(double us)
{
    struct timespec t = {.tv_sec = (time_t)(us / 1e6), .tv_nsec = (long)fmod(us * 1e3, 1e9)};
    nanosleep(&t, NULL);
}

static tn_status make_id(void *self, uint8_t id[TN_COMM_ID_SIZE], tn_err *err)
{
    fake *f = self;
    memset(id, 7, TN_COMM_ID_SIZE);
    return f->kind == NO_ID ? tn_fail(err, TN_UNAVAILABLE, "no launcher") : TN_OK;
}

static tn_status join(void *self, const uint8_t id[TN_COMM_ID_SIZE], uint32_t rank, uint32_t nrank,
                      uint32_t device, uint32_t timeout_ms, void **group, tn_err *err)
{
    fake *f = self;
    (void)device;
    (void)timeout_ms;
    assert_int_equal(id[100], 7); /* rank 0's */
    assert_int_equal(nrank, NRANK);
    if (f->kind == ONE_STAYS_OUT && rank == 1)
        return tn_fail(err, TN_TIMEOUT, "rank 1 stays out");
    fake_group *g = malloc(sizeof *g);
    *g = (fake_group){f, rank};
    *group = g;
    atomic_fetch_add(&f->joins, 1);
    return TN_OK;
}

static tn_status all_reduce(void *group, void *x, uint64_t count, uint32_t dtype, void *stream,
                            tn_err *err)
{
    fake_group *g = group;
    fake *f = g->f;
    (void)stream;
    if (f->kind == NO_F16 && dtype == TN_F16)
        return tn_fail(err, TN_UNSUPPORTED, "no halves");
    atomic_fetch_add(&f->calls, 1);
    atomic_fetch_add(&f->inside, 1);
    while (f->kind == STICKS && !atomic_load(&f->is_over))
        sleep_us(1000);
    if (f->kind == HANGS && g->rank == 2)
        while (!f->m.is_aborted)
            sleep_us(1000);
    f->slot[g->rank] = x;
    float *sum = calloc(count, sizeof *sum);
    bool good = meet(&f->m);
    for (uint64_t i = 0; good && dtype == TN_F32 && i < count; i++)
        for (uint32_t r = 0; r < NRANK; r++)
            sum[i] += f->slot[r][i];
    good = good && meet(&f->m);
    if (good && dtype == TN_F32)
        memcpy(x, sum, count * sizeof *sum);
    free(sum);
    if (f->kind == LIES && g->rank == 1)
        ((float *)x)[count - 1] += 1;
    sleep_us(f->base_us + f->us_per_kib * (double)(count * 4) / 1024);
    atomic_fetch_sub(&f->inside, 1);
    return good ? TN_OK : tn_fail(err, TN_CANCELLED, "aborted");
}

static tn_status all_gather(void *group, const void *in, void *out, uint64_t count, uint32_t dtype,
                            void *stream, tn_err *err)
{
    fake_group *g = group;
    (void)in, (void)out, (void)count, (void)dtype, (void)stream, (void)err;
    atomic_fetch_add(&g->f->calls, 1);
    return TN_OK;
}

static tn_status broadcast(void *group, void *x, uint64_t bytes, uint32_t root, void *stream,
                           tn_err *err)
{
    return all_gather(group, x, x, bytes + root, TN_U8, stream, err);
}

static void abort_group(void *group)
{
    fake_group *g = group;
    atomic_fetch_add(&g->f->aborts, 1);
    break_up(&g->f->m);
}

static tn_status health(void *group, tn_err *err)
{
    fake_group *g = group;
    return g->f->m.is_aborted ? tn_fail(err, TN_CANCELLED, "aborted") : TN_OK;
}

static void leave(void *group)
{
    fake_group *g = group;
    atomic_fetch_add(&g->f->leaves, 1);
    free(g);
}

static const tn_comm table = {
    .size = sizeof(tn_comm), .flags = TN_COMM_HOST, .make_id = make_id, .join = join,
    .all_reduce = all_reduce, .all_gather = all_gather, .broadcast = broadcast,
    .abort = abort_group, .health = health, .leave = leave,
};

/* The same on memory that is not the host's: passed over here. */
static const tn_comm elsewhere = {.size = sizeof(tn_comm), .flags = TN_COMM_DEVICE};

/* -------------------------------------------------------------------------- a device, a team */

static tn_status mem_take(void *dev, uint64_t size, void **p, tn_err *err)
{
    (void)dev;
    *p = malloc(size);
    return *p != NULL ? TN_OK : tn_fail(err, TN_NO_MEMORY, "out of memory");
}

static void mem_give(void *dev, void *p)
{
    (void)dev;
    free(p);
}

static tn_status mem_copy(void *dev, void *to, const void *from, uint64_t size, tn_err *err)
{
    (void)dev, (void)err;
    memcpy(to, from, size);
    return TN_OK;
}

static const tn_device device = {.size = sizeof(tn_device), .mem_take = mem_take,
                                 .mem_give = mem_give, .mem_copy = mem_copy};

typedef struct team {
    meeting m;
    tn_status st[NRANK];
    tn_err err[NRANK];
    unsigned char data[NRANK][TN_COMM_ID_SIZE];
} team;

typedef struct seat {
    team *t;
    uint32_t rank;
} seat;

static tn_status round_of(void *user, tn_status mine, const void *data, uint64_t size, void *all,
                          tn_err *err)
{
    seat *s = user;
    team *t = s->t;
    t->st[s->rank] = mine;
    if (mine != TN_OK)
        t->err[s->rank] = *err;
    if (size > 0)
        memcpy(t->data[s->rank], data, size);
    meet(&t->m);
    tn_status st = TN_OK;
    for (uint32_t r = 0; r < NRANK; r++) {
        if (all != NULL)
            memcpy((char *)all + r * size, t->data[r], size);
        if (st == TN_OK && t->st[r] != TN_OK) {
            st = t->st[r];
            *err = t->err[r];
        }
    }
    meet(&t->m);
    return st;
}

static tn_status share_of(void *user, void *data, uint64_t size, tn_err *err)
{
    seat *s = user;
    (void)err;
    if (s->rank == 0)
        memcpy(s->t->data[0], data, size);
    meet(&s->t->m);
    memcpy(data, s->t->data[0], size);
    meet(&s->t->m);
    return TN_OK;
}

/* ------------------------------------------------------------------------------------ a world */

typedef struct world {
    fake f[NFAKE];
    tn_comm_ref ref[NFAKE + 1];
    team t;
    tn_log *log;
    uint32_t trial_ms;
    int pipe[2];
    tn_status st[NRANK];
    tn_err err[NRANK];
    const tn_comm_ref *comm[NRANK];
    void *group[NRANK];
    void (*then)(struct world *w, uint32_t rank);
} world;

static void open_world(world *w, uint32_t kind0, uint32_t kind1)
{
    static const char *const name[NFAKE] = {"first", "second"};
    const uint32_t kind[NFAKE] = {kind0, kind1};
    tn_err err;
    memset(w, 0, sizeof *w);
    w->ref[0] = (tn_comm_ref){"elsewhere", &elsewhere, NULL};
    for (uint32_t i = 0; i < NFAKE; i++) {
        w->f[i].kind = kind[i];
        open_meeting(&w->f[i].m);
        w->ref[i + 1] = (tn_comm_ref){name[i], &table, &w->f[i]};
    }
    open_meeting(&w->t.m);
    assert_int_equal(pipe(w->pipe), 0);
    assert_int_equal(tn_log_open(w->pipe[1], TN_LOG_INFO, false, &w->log, &err), TN_OK);
}

typedef struct life {
    world *w;
    uint32_t rank;
} life;

static void *live(void *user)
{
    life *l = user;
    world *w = l->w;
    seat s = {&w->t, l->rank};
    tn_choice_setup setup = {.comm = w->ref, .ncomm = NFAKE + 1, .flag = TN_COMM_HOST,
                             .rank = l->rank, .nrank = NRANK, .join_ms = 1000, .trial_ms = w->trial_ms, .measure_ms = 60000,
                             .device = &device, .round = round_of, .share = share_of, .team = &s, .log = w->log};
    uint32_t r = l->rank;
    w->st[r] = tn_comm_choose(&setup, &w->comm[r], &w->group[r], &w->err[r]);
    if (w->st[r] == TN_OK && w->then != NULL)
        w->then(w, r);
    if (w->st[r] == TN_OK)
        w->comm[r]->table->leave(w->group[r]);
    return NULL;
}

static void run(world *w)
{
    pthread_t thread[NRANK];
    life l[NRANK];
    for (uint32_t r = 0; r < NRANK; r++) {
        l[r] = (life){w, r};
        assert_int_equal(pthread_create(&thread[r], NULL, live, &l[r]), 0);
    }
    for (uint32_t r = 0; r < NRANK; r++)
        pthread_join(thread[r], NULL);
}

/* What was logged; closes the world. */
static void close_world(world *w, char *text, size_t size)
{
    tn_log_close(w->log);
    close(w->pipe[1]);
    ssize_t n = read(w->pipe[0], text, size - 1);
    text[n > 0 ? n : 0] = 0;
    close(w->pipe[0]);
    for (uint32_t i = 0; i < NFAKE; i++)
        close_meeting(&w->f[i].m);
    close_meeting(&w->t.m);
}

static void has(const char *text, const char *part)
{
    if (strstr(text, part) == NULL)
        fail_msg("\"%s\" is not in: %s", part, text);
}

/* ------------------------------------------------------------------------------------- tests */

static _Atomic uint32_t small_calls, large_calls, half_calls;

static void call_each(world *w, uint32_t rank)
{
    const tn_comm *c = w->comm[rank]->table;
    float *x = calloc(LARGE, sizeof *x);
    tn_err err;
    seat s = {&w->t, rank};
    uint32_t first = w->f[0].calls, second = w->f[1].calls;
    round_of(&s, TN_OK, NULL, 0, NULL, &err);
    x[5] = 1;
    assert_int_equal(c->all_reduce(w->group[rank], x, SMALL, TN_F32, NULL, &err), TN_OK);
    assert_true(x[5] == NRANK);
    round_of(&s, TN_OK, NULL, 0, NULL, &err);
    if (rank == 0)
        small_calls = w->f[0].calls - first;
    assert_int_equal(c->all_reduce(w->group[rank], x, LARGE, TN_F32, NULL, &err), TN_OK);
    round_of(&s, TN_OK, NULL, 0, NULL, &err);
    if (rank == 0)
        large_calls = w->f[1].calls - second;
    round_of(&s, TN_OK, NULL, 0, NULL, &err);
    assert_int_equal(c->all_reduce(w->group[rank], x, SMALL, TN_F16, NULL, &err), TN_OK);
    round_of(&s, TN_OK, NULL, 0, NULL, &err);
    if (rank == 0)
        half_calls = w->f[1].calls - second - large_calls;
    assert_int_equal(c->broadcast(w->group[rank], x, 4, 0, NULL, &err), TN_OK);
    assert_int_equal(c->all_gather(w->group[rank], x, x, 4, TN_F32, NULL, &err), TN_OK);
    assert_int_equal(c->barrier(w->group[rank], &err), TN_OK);
    assert_int_equal(c->health(w->group[rank], &err), TN_OK);
    free(x);
}

/* The first takes no time at 4 KiB and 80 ms at 8 MiB, the second 8 ms at any size. */
static void each_size_gets_the_fastest(void **state)
{
    world *w = test_malloc(sizeof *w);
    char text[4096];
    (void)state;
    open_world(w, NO_F16, GOOD);
    w->f[0].us_per_kib = 10;
    w->f[1].base_us = 8000;
    w->then = call_each;
    run(w);
    for (uint32_t r = 0; r < NRANK; r++)
        assert_int_equal(w->st[r], TN_OK);
    assert_int_equal(small_calls, NRANK);
    assert_int_equal(large_calls, NRANK);
    assert_int_equal(half_calls, NRANK); /* the first has no halves, so the second did them */
    for (uint32_t i = 0; i < NFAKE; i++) {
        assert_int_equal(w->f[i].joins, NRANK);
        assert_int_equal(w->f[i].leaves, NRANK);
    }
    close_world(w, text, sizeof text);
    has(text, "all-reduce of 3 ranks: first up to ");
    has(text, ", second above (");
    test_free(w);
}

static void who_is_best_nowhere_is_let_go(void **state)
{
    world *w = test_malloc(sizeof *w);
    char text[4096];
    (void)state;
    open_world(w, GOOD, GOOD);
    w->f[0].base_us = 15000;
    run(w);
    for (uint32_t r = 0; r < NRANK; r++) {
        assert_int_equal(w->st[r], TN_OK);
        assert_ptr_equal(w->comm[r], &w->ref[2]); /* itself, nothing before it */
    }
    assert_int_equal(w->f[0].leaves, NRANK);
    close_world(w, text, sizeof text);
    has(text, "all-reduce of 3 ranks: second alone (");
    test_free(w);
}

static void left_out(uint32_t kind, bool is_warned, const char *why, uint32_t leaves,
                     uint64_t seconds_most)
{
    world *w = test_malloc(sizeof *w);
    char text[4096], line[200];
    struct timespec a, b;
    open_world(w, kind, GOOD);
    w->trial_ms = kind == HANGS || kind == STICKS ? 3000 : 30000;
    clock_gettime(CLOCK_MONOTONIC, &a);
    run(w);
    clock_gettime(CLOCK_MONOTONIC, &b);
    for (uint32_t r = 0; r < NRANK; r++) {
        assert_int_equal(w->st[r], TN_OK);
        assert_ptr_equal(w->comm[r], &w->ref[2]);
    }
    assert_int_equal(w->f[0].leaves, leaves);
    assert_in_range(b.tv_sec - a.tv_sec, 0, seconds_most);
    atomic_store(&w->f[0].is_over, 1);
    break_up(&w->f[0].m);
    while (atomic_load(&w->f[0].inside) > 0)
        sleep_us(1000);        /* its threads end now */
    close_world(w, text, sizeof text);
    snprintf(line, sizeof line, "%s core: the communicator first is left out: ",
             is_warned ? "warn" : "info");
    has(text, line);
    has(text, why);
    test_free(w);
}

static void what_lies_is_left_out(void **state)
{
    (void)state;
    left_out(LIES, true, "element 1023 of a sum of 4096 bytes is ", NRANK, 60);
}

static void what_hangs_is_aborted(void **state)
{
    (void)state;
    left_out(HANGS, true, "a sum of 4096 bytes did not end within 3000 ms", NRANK, 60);
}

#ifndef __SANITIZE_ADDRESS__
/* Deaf to an abort: the call stays in its thread, and its group is not left under its feet. */
static void what_sticks_is_left_to_itself(void **state)
{
    (void)state;
    left_out(STICKS, true, "a sum of 4096 bytes did not end within 3000 ms", 0, 60);
}
#endif

static void what_has_no_id_is_left_out(void **state)
{
    (void)state;
    left_out(NO_ID, false, "no launcher", 0, 10);
}

static void what_one_rank_cannot_join_nobody_joins(void **state)
{
    (void)state;
    left_out(ONE_STAYS_OUT, true, "rank 1 stays out", NRANK - 1, 10);
}

static void none_is_an_error(void **state)
{
    world *w = test_malloc(sizeof *w);
    char text[4096];
    (void)state;
    open_world(w, NO_ID, NO_ID);
    run(w);
    for (uint32_t r = 0; r < NRANK; r++) {
        assert_int_equal(w->st[r], TN_UNAVAILABLE);
        assert_string_equal(w->err[r].text, "no launcher");
    }
    close_world(w, text, sizeof text);
    test_free(w);
}

static void both_lie(void **state)
{
    world *w = test_malloc(sizeof *w);
    char text[4096];
    (void)state;
    open_world(w, LIES, LIES);
    run(w);
    for (uint32_t r = 0; r < NRANK; r++) {
        assert_int_equal(w->st[r], TN_UNAVAILABLE);
        assert_string_equal(w->err[r].text, "every communicator failed its trial");
    }
    assert_int_equal(w->f[0].leaves + w->f[1].leaves, 2 * NRANK);
    close_world(w, text, sizeof text);
    test_free(w);
}

static void abort_one(world *w, uint32_t rank)
{
    tn_err err;
    seat s = {&w->t, rank};
    round_of(&s, TN_OK, NULL, 0, NULL, &err);
    w->comm[rank]->table->abort(w->group[rank]);
    round_of(&s, TN_OK, NULL, 0, NULL, &err);
    assert_int_equal(w->comm[rank]->table->health(w->group[rank], &err), TN_CANCELLED);
}

static void an_abort_reaches_all(void **state)
{
    world *w = test_malloc(sizeof *w);
    char text[4096];
    (void)state;
    open_world(w, GOOD, GOOD);
    w->f[0].us_per_kib = 10;
    w->f[1].base_us = 8000;
    w->then = abort_one;
    run(w);
    for (uint32_t i = 0; i < NFAKE; i++) {
        assert_int_equal(w->f[i].aborts, NRANK);
        assert_int_equal(w->f[i].leaves, NRANK);
    }
    close_world(w, text, sizeof text);
    test_free(w);
}

static void fitting(void **state)
{
    world *w = test_malloc(sizeof *w);
    char text[64];
    (void)state;
    open_world(w, GOOD, GOOD);
    assert_int_equal(tn_comm_fitting(w->ref, NFAKE + 1, TN_COMM_HOST), 2);
    assert_int_equal(tn_comm_fitting(w->ref, NFAKE + 1, TN_COMM_DEVICE), 1);
    assert_int_equal(tn_comm_fitting(w->ref, 0, TN_COMM_HOST), 0);
    close_world(w, text, sizeof text);
    test_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_size_gets_the_fastest),
        cmocka_unit_test(who_is_best_nowhere_is_let_go),
        cmocka_unit_test(what_lies_is_left_out),
        cmocka_unit_test(what_hangs_is_aborted),
#ifndef __SANITIZE_ADDRESS__ /* what is lost there on purpose counts as a leak */
        cmocka_unit_test(what_sticks_is_left_to_itself),
#endif
        cmocka_unit_test(what_has_no_id_is_left_out),
        cmocka_unit_test(what_one_rank_cannot_join_nobody_joins),
        cmocka_unit_test(none_is_an_error),
        cmocka_unit_test(both_lie),
        cmocka_unit_test(an_abort_reaches_all),
        cmocka_unit_test(fitting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

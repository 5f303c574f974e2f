/* SPDX-License-Identifier: Apache-2.0 */
/* test_team.c - runtime/team*.c: frames, steps as bytes, who a process is, meeting, rounds. Two
 * ranks are two threads of this process. */
#include "teamparts.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define VOCAB 1000u

static uint64_t seed = 1;

static uint32_t chance(uint32_t below)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % below;
}

/* ------------------------------------------------------------------------------- frames */

typedef struct line {
    int fd[2];
    tn_buf got;
    tn_frame f;
    tn_err err;
} line;

static void line_open(line *l, size_t most)
{
    *l = (line){.fd = {-1, -1}};
    tn_buf_open(&l->got, most);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, l->fd), 0);
    assert_int_equal(tn_wire_ready(l->fd[1], &l->err), TN_OK);
}

static void line_close(line *l)
{
    tn_buf_close(&l->got);
    close(l->fd[0]);
    close(l->fd[1]);
}

static const char text[] = "0123456789";

/* A frame as it lies on the wire, written by hand. */
static size_t frame_bytes(char *out, uint32_t kind, uint64_t size)
{
    const tn_frame f = {.kind = kind, .status = 7, .size = size};
    memcpy(out, &f, sizeof f);
    memcpy(out + sizeof f, text, sizeof text);
    return sizeof f + sizeof text;
}

static void test_frame(void **state)
{
    line l;
    (void)state;
    line_open(&l, 100);
    assert_int_equal(tn_wire_send(l.fd[0], &(tn_frame){.kind = TN_WIRE_STEP, .status = 7}, text, 4,
                                  text + 4, 7, 100, &l.err), TN_OK);
    assert_int_equal(tn_wire_recv(l.fd[1], &l.f, &l.got, 100, &l.err), TN_OK);
    assert_int_equal(l.f.kind, TN_WIRE_STEP);
    assert_int_equal(l.f.status, 7);
    assert_int_equal(l.got.len, sizeof text);
    assert_memory_equal(l.got.data, text, sizeof text);
    line_close(&l);
}

/* At each byte: the other side ends there, or says no more. */
static void test_frame_cut(void **state)
{
    char bytes[64];
    (void)state;
    size_t n = frame_bytes(bytes, TN_WIRE_STEP, sizeof text);
    for (size_t cut = 0; cut < n; cut++) {
        line l;
        line_open(&l, 100);
        assert_int_equal(write(l.fd[0], bytes, cut), (ssize_t)cut);
        assert_int_equal(tn_wire_recv(l.fd[1], &l.f, &l.got, 1, &l.err), TN_TIMEOUT);
        line_close(&l);
        line_open(&l, 100);
        assert_int_equal(write(l.fd[0], bytes, cut), (ssize_t)cut);
        shutdown(l.fd[0], SHUT_WR);
        assert_int_equal(tn_wire_recv(l.fd[1], &l.f, &l.got, 1000, &l.err), TN_UNAVAILABLE);
        line_close(&l);
    }
}

static void *drip(void *arg)
{
    char bytes[64];
    size_t n = frame_bytes(bytes, TN_WIRE_BEAT, sizeof text);
    for (size_t i = 0; i < n; i++) {
        const struct timespec nap = {.tv_nsec = 1000000};
        if (write(*(int *)arg, bytes + i, 1) != 1)
            break;
        nanosleep(&nap, NULL);
    }
    return NULL;
}

static void test_frame_drips(void **state)
{
    line l;
    pthread_t t;
    (void)state;
    line_open(&l, 100);
    assert_int_equal(pthread_create(&t, NULL, drip, &l.fd[0]), 0);
    assert_int_equal(tn_wire_recv(l.fd[1], &l.f, &l.got, 5000, &l.err), TN_OK);
    assert_memory_equal(l.got.data, text, sizeof text);
    pthread_join(t, NULL);
    line_close(&l);
}

static void test_frame_wrong(void **state)
{
    static const struct { uint32_t kind; uint64_t size; tn_status wanted; } wrong[] = {
        {0, 4, TN_DATA}, {TN_WIRE_HELLO - 1, 4, TN_DATA}, {TN_WIRE_BYE + 1, 4, TN_DATA},
        {TN_WIRE_STEP, 100, TN_NO_MEMORY}, {TN_WIRE_STEP, UINT64_MAX, TN_NO_MEMORY},
        {TN_WIRE_STEP, (uint64_t)1 << 63, TN_NO_MEMORY},
    };
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char bytes[64];
        line l;
        line_open(&l, 100);
        size_t n = frame_bytes(bytes, wrong[i].kind, wrong[i].size);
        assert_int_equal(write(l.fd[0], bytes, n), (ssize_t)n);
        tn_status st = tn_wire_recv(l.fd[1], &l.f, &l.got, 100, &l.err);
        if (st != wrong[i].wanted)
            fail_msg("kind %#x, size %llu: %d, expected %d", wrong[i].kind,
                     (unsigned long long)wrong[i].size, st, wrong[i].wanted);
        line_close(&l);
    }
}

/* Nobody reads: the sender gives up in time. */
static void test_send_full(void **state)
{
    static char much[1 << 20];
    line l;
    (void)state;
    line_open(&l, 100);
    assert_int_equal(tn_wire_send(l.fd[1], &(tn_frame){.kind = TN_WIRE_STEP}, much, sizeof much, NULL,
                                  0, 20, &l.err), TN_TIMEOUT);
    close(l.fd[0]);
    assert_int_equal(tn_wire_send(l.fd[1], &(tn_frame){.kind = TN_WIRE_BEAT}, NULL, 0, NULL, 0, 20,
                                  &l.err), TN_UNAVAILABLE);
    l.fd[0] = -1;
    line_close(&l);
}

/* -------------------------------------------------------------------------------- steps */

#define ROWS 9
#define OUTS 4

typedef struct made {
    tn_step step;
    int32_t token[ROWS], seq_of[ROWS], block[ROWS], history[OUTS][ROWS];
    tn_seq seq[ROWS];
    tn_out out[OUTS];
    tn_sampling sampling[OUTS];
    tn_bias bias[OUTS][ROWS];
    uint32_t mask[(VOCAB + 31) / 32];
} made;

static void fill(void *at, size_t size)
{
    for (size_t i = 0; i < size; i++)
        ((unsigned char *)at)[i] = (unsigned char)chance(256);
}

static void make_step(made *m)
{
    fill(m, sizeof *m);
    tn_step *s = &m->step;
    s->size = sizeof *s;
    s->nrow = chance(ROWS + 1);
    s->nseq = chance(ROWS + 1);
    s->nblock = chance(ROWS + 1);
    s->nout = chance(OUTS + 1);
    s->row_token = m->token;
    s->row_seq = m->seq_of;
    s->seq = m->seq;
    s->block = m->block;
    s->out = m->out;
    for (uint32_t i = 0; i < OUTS; i++) {
        tn_sampling *p = &m->sampling[i];
        m->out[i].sampling = p;
        p->nhistory = chance(ROWS + 1);
        p->history = chance(2) ? m->history[i] : NULL;
        p->nbias = chance(ROWS + 1);
        p->bias = chance(2) ? m->bias[i] : NULL;
        p->mask = chance(2) ? m->mask : NULL;
    }
}

/* Structs without their pointers. */
static bool is_same_out(const tn_out *a, const tn_out *b)
{
    tn_sampling x = *a->sampling, y = *b->sampling;
    bool same = a->row == b->row && a->slot == b->slot && !x.history == !y.history && !x.bias == !y.bias
             && !x.mask == !y.mask && x.nhistory == y.nhistory && x.nbias == y.nbias;
    if (same && x.history != NULL)
        same = memcmp(x.history, y.history, x.nhistory * sizeof *x.history) == 0;
    if (same && x.bias != NULL)
        same = memcmp(x.bias, y.bias, x.nbias * sizeof *x.bias) == 0;
    if (same && x.mask != NULL)
        same = memcmp(x.mask, y.mask, (VOCAB + 31) / 32 * sizeof *x.mask) == 0;
    x.history = y.history = NULL;
    x.bias = y.bias = NULL;
    x.mask = y.mask = NULL;
    return same && memcmp(&x, &y, sizeof x) == 0;
}

static bool is_same_step(const tn_step *a, const tn_step *b)
{
    bool same = a->nrow == b->nrow && a->nseq == b->nseq && a->nout == b->nout && a->nblock == b->nblock
             && a->section == b->section && a->number == b->number
             && memcmp(a->row_token, b->row_token, a->nrow * sizeof *a->row_token) == 0
             && memcmp(a->row_seq, b->row_seq, a->nrow * sizeof *a->row_seq) == 0
             && memcmp(a->seq, b->seq, a->nseq * sizeof *a->seq) == 0
             && memcmp(a->block, b->block, a->nblock * sizeof *a->block) == 0;
    for (uint32_t i = 0; same && i < a->nout; i++)
        same = is_same_out(&a->out[i], &b->out[i]);
    return same;
}

static char *copy_of(const char *data, size_t size)
{
    char *p = malloc(size > 0 ? size : 1); /* its end is where a sanitizer looks */
    assert_non_null(p);
    memcpy(p, data, size);
    return p;
}

static void test_step_round(void **state)
{
    static made m;
    tn_buf b;
    tn_err err;
    tn_team_step got = {0};
    (void)state;
    tn_buf_open(&b, 1 << 20);
    for (int turn = 0; turn < 500; turn++) {
        make_step(&m);
        assert_int_equal(tn_team_step_put(&m.step, VOCAB, &b, &err), TN_OK);
        char *bytes = copy_of(b.data, b.len);
        assert_int_equal(tn_team_step_get(&got, bytes, b.len, VOCAB, &err), TN_OK);
        if (!is_same_step(&m.step, &got.step))
            fail_msg("turn %d: another step came back", turn);
        /* A fault that is planted is seen: the comparison can fail. */
        if (m.step.nrow > 0) {
            bytes[sizeof(tn_step) + chance(m.step.nrow * 4)] ^= 1;
            assert_false(is_same_step(&m.step, &got.step));
        }
        free(bytes);
    }
    tn_team_step_close(&got);
    tn_buf_close(&b);
}

static void test_step_cut(void **state)
{
    static made m;
    tn_buf b;
    tn_err err;
    tn_team_step got = {0};
    (void)state;
    tn_buf_open(&b, 1 << 20);
    for (int turn = 0; turn < 10; turn++) {
        make_step(&m);
        assert_int_equal(tn_team_step_put(&m.step, VOCAB, &b, &err), TN_OK);
        for (size_t cut = 0; cut < b.len; cut++) {
            char *bytes = copy_of(b.data, cut);
            if (tn_team_step_get(&got, bytes, cut, VOCAB, &err) != TN_DATA)
                fail_msg("%zu of %zu bytes were taken for a step", cut, b.len);
            free(bytes);
        }
        tn_buf_put(&b, "12345678", 8);
        char *bytes = copy_of(b.data, b.len);
        assert_int_equal(tn_team_step_get(&got, bytes, b.len, VOCAB, &err), TN_DATA);
        free(bytes);
    }
    tn_team_step_close(&got);
    tn_buf_close(&b);
}

/* Counts that are not those of the bytes behind them; one more or less may be padding. */
static void test_step_wrong(void **state)
{
    static made m;
    tn_buf b;
    tn_err err;
    tn_team_step got = {0};
    (void)state;
    tn_buf_open(&b, 1 << 20);
    for (int turn = 0; turn < 200; turn++) {
        make_step(&m);
        assert_int_equal(tn_team_step_put(&m.step, VOCAB, &b, &err), TN_OK);
        char *bytes = copy_of(b.data, b.len);
        tn_step *s = (tn_step *)bytes;
        uint32_t *count[] = {&s->nrow, &s->nseq, &s->nout, &s->nblock};
        uint32_t more[] = {2 + chance(100), 1u << 20, UINT32_MAX / 2, UINT32_MAX - 1};
        *count[chance(4)] += more[chance(4)];
        tn_status st = tn_team_step_get(&got, bytes, b.len, VOCAB, &err);
        if (st == TN_OK)
            fail_msg("turn %d: a step with a wrong count was taken", turn);
        free(bytes);
    }
    tn_team_step_close(&got);
    tn_buf_close(&b);
}

/* ------------------------------------------------------------------------ who a process is */

static const char *const variables[] = {
    "TENON_RANK", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS",
    "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE", "SLURM_STEP_ID",
};

static void test_place(void **state)
{
    static const struct {
        const char *set[5][2];
        tn_team_hosts hosts;
        tn_status wanted;
        uint32_t rank, nrank, local, nlocal, starts;
    } cases[] = {
        {{{0}}, {2, 1, 0, TN_TEAM_AUTO}, TN_OK, 0, 0, 0, 1, 0},
        {{{0}}, {2, 1, 0, TN_TEAM_LAUNCHER}, TN_CONFIG, 0, 0, 0, 0, 0},
        {{{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}}, {2, 1, 0, TN_TEAM_AUTO},
         TN_OK, 1, 2, 1, 2, 0},
        {{{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}}, {2, 1, 0, TN_TEAM_ITSELF},
         TN_OK, 0, 0, 0, 1, 0},
        {{{"OMPI_COMM_WORLD_RANK", "3"}, {"OMPI_COMM_WORLD_SIZE", "4"},
          {"OMPI_COMM_WORLD_LOCAL_RANK", "1"}, {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}},
         {4, 1, 0, TN_TEAM_LAUNCHER}, TN_OK, 3, 4, 1, 2, 0},
        {{{"OMPI_COMM_WORLD_RANK", "2"}, {"OMPI_COMM_WORLD_SIZE", "2"}}, {2, 1, 0, TN_TEAM_AUTO},
         TN_CONFIG, 0, 0, 0, 0, 0},
        {{{"OMPI_COMM_WORLD_RANK", "-1"}, {"OMPI_COMM_WORLD_SIZE", "2"}}, {2, 1, 0, TN_TEAM_AUTO},
         TN_OK, 0, 0, 0, 1, 0},
        {{{"SLURM_PROCID", "1"}, {"SLURM_NTASKS", "2"}}, {2, 1, 0, TN_TEAM_AUTO}, TN_OK, 0, 0, 0, 1, 0},
        {{{"SLURM_PROCID", "1"}, {"SLURM_NTASKS", "2"}, {"SLURM_STEP_ID", "0"}},
         {2, 1, 0, TN_TEAM_AUTO}, TN_OK, 1, 2, 1, 2, 0},
        {{{"PMI_RANK", "0"}, {"PMI_SIZE", "3"}}, {3, 1, 0, TN_TEAM_AUTO}, TN_OK, 0, 3, 0, 3, 0},
        {{{0}}, {8, 2, 0, TN_TEAM_AUTO}, TN_OK, 0, 8, 0, 4, 3},
        {{{0}}, {8, 2, 1, TN_TEAM_AUTO}, TN_OK, 4, 8, 0, 4, 3},
        {{{"SLURM_PROCID", "1"}, {"SLURM_NTASKS", "2"}, {"SLURM_STEP_ID", "0"}},
         {8, 2, 1, TN_TEAM_AUTO}, TN_OK, 4, 8, 0, 4, 3},
        {{{0}}, {8, 2, 2, TN_TEAM_AUTO}, TN_CONFIG, 0, 0, 0, 0, 0},
        {{{0}}, {8, 3, 0, TN_TEAM_AUTO}, TN_CONFIG, 0, 0, 0, 0, 0},
        {{{0}}, {2, 4, 0, TN_TEAM_AUTO}, TN_CONFIG, 0, 0, 0, 0, 0},
        {{{"TENON_RANK", "0/5/8/1/4/-1"}}, {8, 2, 1, TN_TEAM_AUTO}, TN_OK, 5, 8, 1, 4, 0},
        {{{"TENON_RANK", "0/5/5/1/4/-1"}}, {8, 2, 1, TN_TEAM_AUTO}, TN_CONFIG, 0, 0, 0, 0, 0},
        {{{"TENON_RANK", "0/0/8/1/4/-1"}}, {8, 2, 1, TN_TEAM_AUTO}, TN_CONFIG, 0, 0, 0, 0, 0},
        {{{"TENON_RANK", "0/5/8/4/4/-1"}}, {8, 2, 1, TN_TEAM_AUTO}, TN_CONFIG, 0, 0, 0, 0, 0},
        {{{"TENON_RANK", "0/5/8/1/4/-1x"}}, {8, 2, 1, TN_TEAM_AUTO}, TN_CONFIG, 0, 0, 0, 0, 0},
        {{{"TENON_RANK", "0/5/80000/1/4/-1"}}, {8, 2, 1, TN_TEAM_AUTO}, TN_CONFIG, 0, 0, 0, 0, 0},
        {{{"TENON_RANK", ""}}, {8, 2, 1, TN_TEAM_AUTO}, TN_CONFIG, 0, 0, 0, 0, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tn_team_place p;
        tn_err err;
        for (size_t k = 0; k < sizeof variables / sizeof *variables; k++)
            unsetenv(variables[k]);
        for (size_t k = 0; k < 5 && cases[i].set[k][0] != NULL; k++)
            setenv(cases[i].set[k][0], cases[i].set[k][1], 1);
        tn_status st = tn_team_place_read(&cases[i].hosts, &p, &err);
        if (st != cases[i].wanted)
            fail_msg("case %zu: %d, expected %d", i, st, cases[i].wanted);
        if (st == TN_OK && (p.rank != cases[i].rank || p.nrank != cases[i].nrank ||
                            p.local != cases[i].local || p.nlocal != cases[i].nlocal ||
                            p.starts != cases[i].starts))
            fail_msg("case %zu: rank %u of %u, %u of %u here, starts %u", i, p.rank, p.nrank, p.local,
                     p.nlocal, p.starts);
    }
    for (size_t k = 0; k < sizeof variables / sizeof *variables; k++)
        unsetenv(variables[k]);
}

/* ------------------------------------------------------------------------------- meeting */

typedef struct member {
    tn_team_setup setup;
    tn_team *team;
    tn_err err;
    tn_status st;
    pthread_t thread;
} member;

static char address[32];

static void new_address(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, n), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    close(fd);
    snprintf(address, sizeof address, "127.0.0.1:%u", ntohs(a.sin_port));
}

static void *come(void *arg)
{
    member *m = arg;
    m->st = tn_team_start(&m->setup, &m->team, &m->err);
    return NULL;
}

static void begin(member *m, uint32_t rank, uint32_t nrank, uint32_t patience)
{
    *m = (member){.setup = {.place = {.rank = rank, .nrank = nrank, .local = rank, .nlocal = nrank,
                                      .fd = -1},
                            .address = address, .patience = patience, .silence = 5}};
    assert_int_equal(pthread_create(&m->thread, NULL, come, m), 0);
}

static int knock(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                            .sin_port = htons((uint16_t)atoi(strchr(address, ':') + 1))};
    for (int i = 0; i < 200; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        const struct timespec nap = {.tv_nsec = 10000000};
        if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0)
            return fd;
        close(fd);
        nanosleep(&nap, NULL);
    }
    fail_msg("nobody listens at %s", address);
    return -1;
}

/* A proof that is none, and one that another team member gave: it belongs to his own nonce. */
static void test_wrong_proof(void **state)
{
    member first, second;
    tn_buf b;
    tn_frame f;
    tn_err err;
    (void)state;
    setenv("TENON_TEAM_KEY", "0123456789abcdef", 1);
    new_address();
    begin(&first, 0, 2, 10);
    int fd = knock();
    tn_buf_open(&b, 1000);
    assert_int_equal(tn_wire_ready(fd, &err), TN_OK);
    assert_int_equal(tn_wire_recv(fd, &f, &b, 2000, &err), TN_OK);
    assert_int_equal(f.kind, TN_WIRE_HELLO);
    char answer[40];
    assert_int_equal(b.len, sizeof answer);
    memcpy(answer, b.data, sizeof answer);
    ((uint32_t *)(void *)answer)[8] = 1; /* rank 1 of 2 */
    assert_int_equal(tn_wire_send(fd, &(tn_frame){.kind = TN_WIRE_HELLO}, answer, sizeof answer, NULL,
                                  0, 1000, &err), TN_OK);
    assert_int_equal(tn_wire_recv(fd, &f, &b, 2000, &err), TN_OK);
    assert_int_equal(f.status, TN_UNAVAILABLE);
    assert_int_equal(tn_wire_recv(fd, &f, &b, 2000, &err), TN_UNAVAILABLE);
    close(fd);
    tn_buf_close(&b);
    begin(&second, 1, 2, 10);
    pthread_join(second.thread, NULL);
    pthread_join(first.thread, NULL);
    assert_int_equal(first.st, TN_OK);
    assert_int_equal(second.st, TN_OK);
    tn_team_close(first.team);
    tn_team_close(second.team);
}

static void test_turned_away(void **state)
{
    member first, other;
    (void)state;
    new_address();
    begin(&first, 0, 2, 1);
    begin(&other, 2, 3, 3);
    pthread_join(other.thread, NULL);
    assert_int_equal(other.st, TN_UNAVAILABLE);
    assert_non_null(strstr(other.err.text, "it is rank 2 of 3; rank 0 has a team of 2"));
    pthread_join(first.thread, NULL);
    assert_int_equal(first.st, TN_UNAVAILABLE);
    assert_string_equal(first.err.text, "rank 1 of 2 did not come within 1 s");
}

/* ------------------------------------------------------------------------------- rounds */

typedef struct turn {
    tn_team *team;
    tn_status mine, st;
    uint64_t say;
    uint64_t all[3];
    tn_err err;
} turn;

static void *take_turn(void *arg)
{
    turn *t = arg;
    t->st = tn_team_round(t->team, t->mine, &t->say, sizeof t->say, t->all, &t->err);
    return NULL;
}

static void both(turn *a, turn *b)
{
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, take_turn, b), 0);
    take_turn(a);
    pthread_join(t, NULL);
}

static void test_rounds(void **state)
{
    member m[2];
    (void)state;
    new_address();
    for (uint32_t i = 0; i < 2; i++)
        begin(&m[i], i, 2, 10);
    for (uint32_t i = 0; i < 2; i++)
        pthread_join(m[i].thread, NULL);
    assert_int_equal(m[0].st | m[1].st, TN_OK);
    turn a = {.team = m[0].team, .say = 5}, b = {.team = m[1].team, .say = 6};
    both(&a, &b);
    assert_int_equal(a.st | b.st, TN_OK);
    assert_int_equal(a.all[0], 5);
    assert_int_equal(a.all[1], 6);
    b.mine = tn_fail(&b.err, TN_DATA, "a tensor is missing");
    both(&a, &b);
    assert_int_equal(a.st, TN_DATA);
    assert_string_equal(a.err.text, "rank 1: a tensor is missing");
    assert_int_equal(b.st, TN_DATA);
    b.mine = TN_OK;
    a.mine = tn_fail(&a.err, TN_OS, "no memory here");
    both(&a, &b);
    assert_int_equal(a.st, TN_OS);
    assert_int_equal(b.st, TN_OS);
    assert_non_null(strstr(b.err.text, "no memory here"));
    a.mine = TN_OK;
    tn_team_close(m[1].team); /* it ends; rank 0 is told, and never waits for it again */
    take_turn(&a);
    assert_int_equal(a.st, TN_UNAVAILABLE);
    assert_non_null(strstr(a.err.text, "rank 1 is lost"));
    take_turn(&a);
    assert_int_equal(a.st, TN_UNAVAILABLE);
    assert_string_equal(a.err.text, "rank 1 is gone");
    tn_team_close(m[0].team);
}

static void *three_steps(void *arg)
{
    turn *t = arg;
    uint64_t number = t->say;
    take_turn(t);
    bool well = t->st == TN_OK && tn_team_share(t->team, &number, sizeof number, &t->err) == TN_OK;
    t->mine = well && number == 5 ? TN_OK : tn_fail(&t->err, TN_INTERNAL, "no verdict, or another's");
    take_turn(t);
    return NULL;
}

/* A rank says its word and ends. The others all hear one verdict, and of the loss a round later:
 * none waits for what another never begins. */
static void test_lost_in_between(void **state)
{
    member m[3];
    uint64_t word = 7;
    tn_err err;
    pthread_t thread;
    (void)state;
    new_address();
    for (uint32_t i = 0; i < 3; i++)
        begin(&m[i], i, 3, 10);
    for (uint32_t i = 0; i < 3; i++)
        pthread_join(m[i].thread, NULL);
    assert_int_equal(m[0].st | m[1].st | m[2].st, TN_OK);
    assert_int_equal(tn_team_send(m[1].team, 0, TN_WIRE_ROUND, TN_OK, &word, sizeof word, NULL, 0,
                                  &err), TN_OK);
    tn_team_close(m[1].team);
    turn a = {.team = m[0].team, .say = 5}, b = {.team = m[2].team, .say = 6};
    assert_int_equal(pthread_create(&thread, NULL, three_steps, &b), 0);
    three_steps(&a);
    pthread_join(thread, NULL);
    assert_int_equal(a.all[1], 7);
    assert_int_equal(a.st, TN_UNAVAILABLE);
    assert_non_null(strstr(a.err.text, "rank 1 is lost"));
    assert_int_equal(b.st, TN_UNAVAILABLE);
    assert_non_null(strstr(b.err.text, "rank 1 is lost"));
    tn_team_close(m[2].team);
    tn_team_close(m[0].team);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frame),
        cmocka_unit_test(test_frame_cut),
        cmocka_unit_test(test_frame_drips),
        cmocka_unit_test(test_frame_wrong),
        cmocka_unit_test(test_send_full),
        cmocka_unit_test(test_step_round),
        cmocka_unit_test(test_step_cut),
        cmocka_unit_test(test_step_wrong),
        cmocka_unit_test(test_place),
        cmocka_unit_test(test_wrong_proof),
        cmocka_unit_test(test_turned_away),
        cmocka_unit_test(test_rounds),
        cmocka_unit_test(test_lost_in_between),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

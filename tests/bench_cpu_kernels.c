/* SPDX-License-Identifier: Apache-2.0 */
/* bench_cpu_kernels.c - speed of the cpu device's kernels, as shares of what the machine can
 * do in the same run.
 *
 *   bench_cpu_kernels [-l LEVEL] [-r ROUNDS] [-q] [-a]
 *
 * "model": all products of one step of a SmolLM2-135M (30 layers, group 32, fp16 head) as a
 * device runs them: strips split evenly over the threads, a spin barrier after every group of
 * matrices that share their input. Its weights stream from memory; the plain read of the same
 * bytes by the same threads is measured in turn with it, round by round, and the best of each
 * is reported. "shape": single products over as many copies as pass the caches. -q: model
 * only. -a: attention and what else runs between the products, only. */
#include "kernel.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define THREADS 2
#define ROWS_MAX 512
#define COLD_SIZE (160ull << 20)

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *take(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        abort();
    madvise(p, size, MADV_HUGEPAGE);
    return p;
}

/* -------------------------------------------------------------------------- threads */

/* A list of products; `wait` ends a group whose members may run side by side. */
typedef struct product {
    const cpu_matrix *w;
    const cpu_act *a;
    float *y;
    bool quant, wait;
} product;

typedef struct plan {
    const cpu_kernels *ker;
    const product *list;
    uint32_t nlist, m;
    const uint8_t *bytes;   /* with nlist 0: read them */
    size_t size;
} plan;

typedef struct team {
    uint32_t nthread;
    const plan *plan;
    _Alignas(64) atomic_uint arrived;
    _Alignas(64) atomic_uint turn;
    _Alignas(64) atomic_uint start;
    _Alignas(64) atomic_ullong sum;
    atomic_bool stop;
    pthread_t worker[THREADS];
} team;

typedef struct seat {
    team *team;
    uint32_t number;
} seat;

static void barrier(team *t)
{
    if (t->nthread == 1)
        return;
    unsigned turn = atomic_load(&t->turn);
    if (atomic_fetch_add(&t->arrived, 1) + 1 == t->nthread) {
        atomic_store(&t->arrived, 0);
        atomic_store(&t->turn, turn + 1);
        return;
    }
    for (uint32_t spins = 0; atomic_load(&t->turn) == turn; spins++)
        if (spins > 100000)
            sched_yield();
}

static void share(team *t, uint32_t number)
{
    static _Alignas(64) uint8_t room[THREADS][CPU_ROOM_BYTES];
    const plan *p = t->plan;
    if (p->nlist == 0) {
        size_t part = p->size / t->nthread / 64 * 64;
        atomic_fetch_add(&t->sum, p->ker->read(p->bytes + number * part, part));
        barrier(t);
        return;
    }
    for (uint32_t i = 0; i < p->nlist; i++) {
        const product *x = &p->list[i];
        uint64_t n = x->w->nstrip, a = n * number / t->nthread, b = n * (number + 1) / t->nthread;
        cpu_act mine = *x->a;
        mine.room = room[number];
        if (i == 0 || p->list[i - 1].wait)
            cpu_room_forget(mine.room); /* its inputs are new */
        p->ker->multiply(x->w, &mine, p->m, a, b, x->quant, x->y, x->w->n, false);
        if (x->wait)
            barrier(t);
    }
}

static void *work(void *arg)
{
    seat s = *(seat *)arg;
    for (unsigned seen = 0;;) {
        uint32_t spins = 0;
        while (atomic_load(&s.team->start) == seen)
            if (++spins > 100000)
                sched_yield();
        seen = atomic_load(&s.team->start);
        if (atomic_load(&s.team->stop))
            return NULL;
        share(s.team, s.number);
    }
}

static double run(team *t, const plan *p)
{
    t->plan = p;
    double t0 = seconds();
    atomic_fetch_add(&t->start, 1);
    share(t, 0);
    return seconds() - t0;
}

static void team_open(team *t, uint32_t nthread, seat *seats)
{
    memset(t, 0, sizeof *t);
    t->nthread = nthread;
    for (uint32_t i = 1; i < nthread; i++) {
        seats[i] = (seat){t, i};
        if (pthread_create(&t->worker[i], NULL, work, &seats[i]) != 0)
            abort();
    }
}

static void team_close(team *t)
{
    atomic_store(&t->stop, true);
    atomic_fetch_add(&t->start, 1);
    for (uint32_t i = 1; i < t->nthread; i++)
        pthread_join(t->worker[i], NULL);
}

/* -------------------------------------------------------------------------- matrices */

/* Random codes and small scales laid straight into a planned matrix. */
static void fill(cpu_matrix *w, uint8_t *data)
{
    w->data = data;
    uint32_t x = 1;
    for (uint64_t s = 0; s < w->nstrip; s++) {
        uint8_t *p = data + s * w->strip_size;
        uint16_t *h = (uint16_t *)p;
        for (uint64_t i = 0; i < w->strip_size; i++) {
            x = x * 1664525u + 1013904223u;
            p[i] = (uint8_t)(x >> 24);
        }
        uint64_t n = w->ngroup != 0 ? w->zero_at / 2 : w->strip_size / 2;
        for (uint64_t i = 0; i < n; i++)       /* f16 or bf16 around 0.01 */
            h[i] = (uint16_t)(0x2000u | (h[i] & 0x3ffu));
    }
}

static cpu_matrix shape(uint32_t kind, uint32_t group, uint64_t n, uint64_t k)
{
    tn_form f = {.size = sizeof f, .kind = kind, .group = group, .rows = n, .cols = k,
                 .flags = group != 0 ? TN_FORM_ZEROS : 0};
    cpu_matrix w;
    if (!cpu_matrix_plan(&f, n, k, 0, &w))
        abort();
    if (group != 0) {       /* as settle leaves a file with f16 scales */
        uint64_t zero_size = w.code_at - w.zero_at, codes = w.strip_size - w.code_at;
        w.scale_kind = TN_F16;
        w.zero_at = (w.ngroup * 32 + 63) / 64 * 64;
        w.code_at = w.zero_at + zero_size;
        w.strip_size = w.code_at + codes;
    }
    return w;
}

static cpu_act inputs(const cpu_kernels *ker, uint64_t k)
{
    cpu_act a = {.cols = (k + 31) / 32 * 32};
    a.x = take(ROWS_MAX * a.cols * 4);
    a.q = take(ROWS_MAX * a.cols);
    a.scale = take(ROWS_MAX * a.cols / 8);
    a.sum = take(ROWS_MAX * a.cols / 8);
    float *x = take(ROWS_MAX * k * 4);
    for (uint64_t i = 0; i < ROWS_MAX * k; i++)
        x[i] = sinf((float)i) * 2.0f;
    ker->prepare(&a, x, k, k, NULL, 0, ROWS_MAX, true);
    ker->prepare(&a, x, k, k, NULL, 0, ROWS_MAX, false);
    munmap(x, ROWS_MAX * k * 4);
    return a;
}

/* ---------------------------------------------------------------------------- model */

#define LAYERS 30
#define PER_LAYER 7
#define NPRODUCT (LAYERS * PER_LAYER + 1)

typedef struct model {
    cpu_matrix w[NPRODUCT];
    product list[NPRODUCT];
    cpu_act a576, a1536;
    uint8_t *data;
    size_t size;
    double macs;
} model;

static void model_open(model *o, const cpu_kernels *ker, uint32_t group, uint32_t head)
{
    static const uint64_t dims[PER_LAYER][2] = {{576, 576}, {192, 576}, {192, 576}, {576, 576},
                                                {1536, 576}, {1536, 576}, {576, 1536}};
    static const bool wait[PER_LAYER] = {false, false, true, true, false, true, true};
    o->a576 = inputs(ker, 576);
    o->a1536 = inputs(ker, 1536);
    o->size = 0;
    o->macs = 0.0;
    for (uint32_t i = 0; i < NPRODUCT; i++) {
        uint32_t j = i % PER_LAYER;
        bool last = i == NPRODUCT - 1;
        o->w[i] = last ? shape(head, head == TN_FORM_W8G ? 32 : 0, 49152, 576)
                       : shape(TN_FORM_W4G, group, dims[j][0], dims[j][1]);
        o->size += cpu_matrix_bytes(&o->w[i]);
        o->macs += (double)o->w[i].n * (double)o->w[i].k;
    }
    o->data = take(o->size);
    uint8_t *at = o->data;
    float *y = take((size_t)ROWS_MAX * 49152 * 4);
    for (uint32_t i = 0; i < NPRODUCT; i++) {
        bool last = i == NPRODUCT - 1;
        fill(&o->w[i], at);
        at += cpu_matrix_bytes(&o->w[i]);
        o->list[i] = (product){&o->w[i], o->w[i].k == 576 ? &o->a576 : &o->a1536, y,
                               !last || head == TN_FORM_W8G, last || wait[i % PER_LAYER]};
    }
}

static void act_close(cpu_act *a)
{
    munmap(a->x, ROWS_MAX * a->cols * 4);
    munmap(a->q, ROWS_MAX * a->cols);
    munmap(a->scale, ROWS_MAX * a->cols / 8);
    munmap(a->sum, ROWS_MAX * a->cols / 8);
}

static void model_close(model *o)
{
    munmap(o->data, o->size);
    munmap(o->list[0].y, (size_t)ROWS_MAX * 49152 * 4);
    act_close(&o->a576);
    act_close(&o->a1536);
}

static void bench_model(const cpu_kernels *ker, uint32_t group, uint32_t head, uint32_t rounds)
{
    static const uint32_t batches[] = {1, 2, 4, 8, 16, 64, 512};
    model o;
    model_open(&o, ker, group, head);
    for (uint32_t nthread = 1; nthread <= THREADS; nthread++) {
        seat seats[THREADS];
        team t;
        team_open(&t, nthread, seats);
        for (size_t b = 0; b < sizeof batches / sizeof batches[0]; b++) {
            /* a prefill needs logits of its last row only: the head is left out */
            bool prefill = batches[b] >= 64;
            double best = 1e9, read = 1e9;
            double macs = prefill ? o.macs - 49152.0 * 576.0 : o.macs;
            plan p = {ker, o.list, NPRODUCT - prefill, batches[b], NULL, 0};
            plan r = {ker, NULL, 0, 0, o.data, o.size};
            uint32_t n = batches[b] == 512 ? (rounds + 3) / 4 : rounds;
            for (uint32_t i = 0; i < n; i++) {
                best = fmin(best, run(&t, &p));
                if (!prefill)
                    read = fmin(read, run(&t, &r));
            }
            printf("%-10s model g%-3u head %-4s %u thread m %-3u %8.2f ms %7.0f tok/s %6.1f "
                   "GMAC/s", ker->name, group, head == TN_FORM_W8G ? "int8" : "fp16", nthread,
                   batches[b], best * 1e3, batches[b] / best, macs * batches[b] / best * 1e-9);
            if (!prefill)
                printf(" %5.1f GB/s = %.0f %% of read %.1f", (double)o.size / best * 1e-9,
                       100.0 * read / best, (double)o.size / read * 1e-9);
            printf("\n");
            fflush(stdout);
        }
        team_close(&t);
    }
    model_close(&o);
}

/* --------------------------------------------------------------------------- shapes */

static void bench_shape(const cpu_kernels *ker, uint32_t kind, uint32_t group, uint64_t n,
                        uint64_t k, bool quant, uint32_t rounds)
{
    static const uint32_t batches[] = {1, 2, 4, 8, 16, 64, 512};
    static const char *const names[] = {"", "f32", "f16", "bf16", "w4g", "w8g"};
    cpu_matrix one = shape(kind, group, n, k);
    uint32_t ncopy = (uint32_t)(COLD_SIZE / cpu_matrix_bytes(&one)) + 1;
    size_t size = ncopy * cpu_matrix_bytes(&one);
    cpu_act a = inputs(ker, k);
    uint8_t *data = take(size);
    float *y = take((size_t)ROWS_MAX * n * 4);
    cpu_matrix *w = calloc(ncopy, sizeof *w);
    product *list = calloc(ncopy, sizeof *list);
    if (w == NULL || list == NULL)
        abort();
    for (uint32_t i = 0; i < ncopy; i++) {
        w[i] = one;
        fill(&w[i], data + i * cpu_matrix_bytes(&one));
        list[i] = (product){&w[i], &a, y, quant, true};
    }
    for (uint32_t nthread = 1; nthread <= THREADS; nthread++) {
        seat seats[THREADS];
        team t;
        team_open(&t, nthread, seats);
        for (size_t b = 0; b < sizeof batches / sizeof batches[0]; b++) {
            uint32_t m = batches[b];
            double work_of_one = (double)n * (double)k * m, best = 1e9, read = 1e9;
            uint32_t used = m < 16 ? ncopy : (uint32_t)(4e9 / work_of_one) + 1;
            used = used > ncopy ? ncopy : used;
            plan p = {ker, list, used, m, NULL, 0}, r = {ker, NULL, 0, 0, data, size};
            for (uint32_t i = 0; i < rounds; i++) {
                best = fmin(best, run(&t, &p) / used);
                if (m < 16)
                    read = fmin(read, run(&t, &r) / ncopy);
            }
            printf("%-10s %-4s g%-3u %s %5dx%-4d %u thread m %-3u %9.1f us %6.1f GMAC/s",
                   ker->name, names[kind], group, quant ? "int8" : "fp32", (int)n, (int)k,
                   nthread, m, best * 1e6, work_of_one / best * 1e-9);
            double bytes = (double)cpu_matrix_bytes(&one);
            if (m < 16)
                printf(" %5.1f GB/s = %.0f %% of read %.1f", bytes / best * 1e-9,
                       100.0 * read / best, bytes / read * 1e-9);
            printf("\n");
            fflush(stdout);
        }
        team_close(&t);
    }
    munmap(data, size);
    munmap(y, (size_t)ROWS_MAX * n * 4);
    act_close(&a);
    free(w);
    free(list);
}

/* ------------------------------------------------------------------------ attention */

/* Decode (3 queries) and prefill (64 rows of 3) over f16 blocks of 32 tokens. */
static void bench_attention(const cpu_kernels *ker, uint32_t dim, uint32_t rows, uint32_t ctx,
                            uint32_t rounds)
{
    uint32_t nq = rows * 3;
    size_t size = (size_t)ctx * dim * 2;
    uint16_t *k = take(size), *v = take(size);
    float *q = take(nq * dim * 4), *acc = take(nq * dim * 4);
    float *m = take(nq * 4), *l = take(nq * 4);
    int32_t *first = take(nq * 4), *limit = take(nq * 4);
    for (size_t i = 0; i < (size_t)ctx * dim; i++)
        k[i] = v[i] = (uint16_t)(0x3000u + i % 1000);
    for (uint32_t i = 0; i < nq * dim; i++)
        q[i] = sinf((float)i);
    static _Alignas(64) uint8_t room[CPU_ROOM_BYTES];
    double best = 1e9;
    for (uint32_t r = 0; r < rounds; r++) {
        double t0 = seconds();
        for (uint32_t i = 0; i < nq; i++)
            m[i] = -INFINITY;
        for (uint32_t t = 0; t < ctx; t += 32) {
            for (uint32_t i = 0; i < nq; i++)
                limit[i] = 32;
            cpu_attend a = {nq, dim, 32, q, k + t * dim, v + t * dim, first, limit,
                            0.125f, 0.0f, m, l, acc, room};
            ker->attend_f16(&a);
        }
        best = fmin(best, seconds() - t0);
    }
    double macs = 2.0 * nq * dim * ctx;
    printf("%-10s attend f16 dim %-3u rows %-3u context %-5u %8.1f us %6.1f GMAC/s %5.1f GB/s\n",
           ker->name, dim, rows, ctx, best * 1e6, macs / best * 1e-9,
           2.0 * (double)size / best * 1e-9);
    munmap(k, size);
    munmap(v, size);
    munmap(q, nq * dim * 4);
    munmap(acc, nq * dim * 4);
    munmap(m, nq * 4);
    munmap(l, nq * 4);
    munmap(first, nq * 4);
    munmap(limit, nq * 4);
}

/* Rows of 576 and a vocabulary of 49152: what runs between the products. */
static void bench_vectors(const cpu_kernels *ker, uint32_t rounds)
{
    cpu_act a = inputs(ker, 576);
    float *x = take(49152 * 4), *y = take(49152 * 4);
    for (int i = 0; i < 49152; i++)
        x[i] = y[i] = sinf((float)i);
    double t[5] = {1e9, 1e9, 1e9, 1e9, 1e9};
    uint32_t at;
    for (uint32_t r = 0; r < rounds; r++) {
        double t0 = seconds();
        for (int i = 0; i < 64; i++)
            ker->prepare(&a, x, 576, 576, NULL, 0, 1, true);
        double t1 = seconds();
        for (int i = 0; i < 64; i++)
            ker->norm(x, y, 0.0f, 1e-5f, 576, a.x);
        double t2 = seconds();
        for (int i = 0; i < 64; i++)
            ker->act_mul(x, y, TN_ACT_SILU, 1536, a.x);
        double t3 = seconds();
        float top = ker->max(x, 49152, &at);
        double t4 = seconds();
        y[0] = (float)ker->sum_exp(x, top, 49152);
        double t5 = seconds();
        t[0] = fmin(t[0], (t1 - t0) / 64);
        t[1] = fmin(t[1], (t2 - t1) / 64);
        t[2] = fmin(t[2], (t3 - t2) / 64);
        t[3] = fmin(t[3], t4 - t3);
        t[4] = fmin(t[4], t5 - t4);
    }
    printf("%-10s prepare 576: %.2f us, norm 576: %.2f us, silu 1536: %.2f us, max 49152: %.1f "
           "us, sum_exp 49152: %.1f us\n", ker->name, t[0] * 1e6, t[1] * 1e6, t[2] * 1e6,
           t[3] * 1e6, t[4] * 1e6);
    act_close(&a);
    munmap(x, 49152 * 4);
    munmap(y, 49152 * 4);
}

static void bench_between(const cpu_kernels *ker, uint32_t rounds)
{
    bench_vectors(ker, rounds);
    bench_attention(ker, 64, 1, 512, rounds);
    bench_attention(ker, 64, 1, 8192, rounds);
    bench_attention(ker, 64, 64, 512, rounds);
    bench_attention(ker, 128, 64, 512, rounds);
}

static void bench_level(const cpu_kernels *ker, uint32_t rounds, bool quick)
{
    bench_model(ker, 32, TN_FORM_F16, rounds);
    bench_model(ker, 64, TN_FORM_W8G, rounds);
    bench_between(ker, rounds);
    if (quick)
        return;
    bench_shape(ker, TN_FORM_W4G, 32, 576, 576, true, rounds);
    bench_shape(ker, TN_FORM_W4G, 32, 1536, 576, true, rounds);
    bench_shape(ker, TN_FORM_W4G, 32, 576, 1536, true, rounds);
    bench_shape(ker, TN_FORM_W4G, 32, 4096, 4096, true, rounds);
    bench_shape(ker, TN_FORM_W4G, 128, 4096, 4096, true, rounds);
    bench_shape(ker, TN_FORM_W4G, 128, 4096, 4096, false, rounds);
    bench_shape(ker, TN_FORM_W8G, 32, 4096, 4096, true, rounds);
    bench_shape(ker, TN_FORM_F16, 0, 4096, 4096, false, rounds);
    bench_shape(ker, TN_FORM_BF16, 0, 4096, 4096, false, rounds);
}

int main(int argc, char **argv)
{
    const char *level = NULL;
    uint32_t rounds = 10;
    bool quick = false, between = false;
    for (int c; (c = getopt(argc, argv, "l:r:qa")) != -1;) {
        if (c == 'l')
            level = optarg;
        else if (c == 'r')
            rounds = (uint32_t)strtoul(optarg, NULL, 10);
        else if (c == 'q')
            quick = true;
        else if (c == 'a')
            between = true;
        else
            return 64;
    }
    const cpu_kernels *best = cpu_kernels_pick(level);
    if (best == NULL || rounds == 0) {
        fprintf(stderr, "bench_cpu_kernels: this processor has no level %s\n", level);
        return 64;
    }
    if (between)
        bench_between(best, rounds);
    else
        bench_level(best, rounds, quick);
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* fakenccl.c - a libnccl, a driver and a card that are none, so that the communicator nccl is
 * tested where there is no card. Built twice: as the library (-DLIBRARY), and as a device plugin
 * whose memory is the host's (library named by -DLIBRARY_FILE).
 *
 * Like the real one it begins operations and returns; a thread of the communicator does them in
 * turn, waits for its peers without end, and hears of nothing but its own abort. */
#ifdef LIBRARY

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define OPEN __attribute__((visibility("default")))
#define RANKS 8
#define SLOT 65536u
#define QUEUE 4096u
enum { SUCCESS = 0, UNHANDLED = 1, IN_PROGRESS = 7 };

typedef struct id { char name[128]; } id;
typedef struct config { size_t size; unsigned magic, version; int blocking; } config;
typedef struct head { _Atomic int joined; _Atomic uint64_t arrived; } head;
typedef struct op { int kind, type, root; const void *in; void *out; size_t bytes; } op;

typedef struct comm {
    head *m;
    size_t size;
    id name;
    int rank, n;
    uint64_t rounds;
    bool blocks;
    _Atomic int aborted, code, has_ended;
    _Atomic uint64_t asked, done;
    op queue[QUEUE];
    pthread_t thread;
} comm;

static _Atomic int64_t pending; /* operations of all communicators: every stream is one */

static void nap(void)
{
    struct timespec t = {.tv_nsec = 50000};
    nanosleep(&t, NULL);
}

static char *slot(comm *c, int rank)
{
    return (char *)c->m + 4096 + (size_t)rank * SLOT;
}

static bool meet(comm *c)
{
    uint64_t goal = ++c->rounds * (uint64_t)c->n;
    atomic_fetch_add(&c->m->arrived, 1);
    while (atomic_load(&c->m->arrived) < goal && !atomic_load(&c->aborted))
        nap();
    return !atomic_load(&c->aborted);
}

static void add(char *to, const char *from, size_t bytes, int type)
{
    for (size_t i = 0; type == 7 && i < bytes / 4; i++)
        ((float *)to)[i] += ((const float *)from)[i];
    for (size_t i = 0; type == 2 && i < bytes / 4; i++)
        ((int32_t *)to)[i] += ((const int32_t *)from)[i];
    for (size_t i = 0; type == 6 && i < bytes / 2; i++)
        ((_Float16 *)to)[i] += ((const _Float16 *)from)[i];
    for (size_t i = 0; type == 9 && i < bytes / 2; i++) {
        uint32_t a = (uint32_t)((uint16_t *)to)[i] << 16, b = (uint32_t)((const uint16_t *)from)[i] << 16;
        float x, y;
        memcpy(&x, &a, 4);
        memcpy(&y, &b, 4);
        x += y;
        memcpy(&a, &x, 4);
        ((uint16_t *)to)[i] = (uint16_t)((a + 0x7fffu + (a >> 16 & 1u)) >> 16);
    }
}

/* kind 0: sum, 1: gather, 2: broadcast */
static void perform(comm *c, const op *o)
{
    for (size_t at = 0, n; at < o->bytes; at += n) {
        n = o->bytes - at < SLOT ? o->bytes - at : SLOT;
        memcpy(slot(c, c->rank), (const char *)o->in + at, n);
        if (!meet(c))
            return;
        for (int r = 0; r < c->n; r++) {
            if (o->kind == 0 && r == 0)
                memcpy((char *)o->out + at, slot(c, r), n);
            else if (o->kind == 0)
                add((char *)o->out + at, slot(c, r), n, o->type);
            else if (o->kind == 1)
                memcpy((char *)o->out + (size_t)r * o->bytes + at, slot(c, r), n);
            else if (r == o->root)
                memcpy((char *)o->out + at, slot(c, r), n);
        }
        if (!meet(c))
            return;
    }
}

static void *live(void *user)
{
    comm *c = user;
    atomic_fetch_add(&c->m->joined, 1);
    while (atomic_load(&c->m->joined) < c->n && !atomic_load(&c->aborted))
        nap();
    shm_unlink(c->name.name); /* whoever comes now comes too late */
    atomic_store(&c->code, SUCCESS);
    while (!atomic_load(&c->aborted) && !atomic_load(&c->has_ended)) {
        uint64_t i = atomic_load(&c->done);
        if (i == atomic_load(&c->asked)) {
            nap();
            continue;
        }
        perform(c, &c->queue[i % QUEUE]);
        atomic_fetch_add(&c->done, 1);
        atomic_fetch_sub(&pending, 1);
    }
    return NULL;
}

static int begin(comm **out, int n, const char *name, int rank, bool blocks)
{
    comm *c = calloc(1, sizeof *c);
    int fd = shm_open(name, O_RDWR | O_CREAT, 0600);
    c->size = 4096 + (size_t)n * SLOT;
    if (fd < 0 || ftruncate(fd, (off_t)c->size) != 0)
        return UNHANDLED;
    c->m = mmap(NULL, c->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    snprintf(c->name.name, sizeof c->name.name, "%s", name);
    c->rank = rank;
    c->n = n;
    c->blocks = blocks;
    atomic_store(&c->code, IN_PROGRESS);
    pthread_create(&c->thread, NULL, live, c);
    while (blocks && atomic_load(&c->code) == IN_PROGRESS)
        nap();
    *out = c;
    return atomic_load(&c->code);
}

/* FAKENCCL_GRAPHS: a graph holds a call for ever, and with it whoever ends the communicator. */
static int end(comm *c)
{
    while (getenv("FAKENCCL_GRAPHS") != NULL && c->blocks)
        nap();
    pthread_join(c->thread, NULL);
    atomic_fetch_sub(&pending, (int64_t)(atomic_load(&c->asked) - atomic_load(&c->done)));
    shm_unlink(c->name.name);
    munmap(c->m, c->size);
    free(c);
    return SUCCESS;
}

OPEN int ncclGetVersion(int *v) { *v = 22899; return SUCCESS; }
OPEN const char *ncclGetErrorString(int code) { return code == 0 ? "no error" : "a fake error"; }
OPEN const char *ncclGetLastError(comm *c) { (void)c; return ""; }

OPEN int ncclGetUniqueId(id *x)
{
    uint64_t bits;
    if (getrandom(&bits, sizeof bits, 0) != sizeof bits)
        return UNHANDLED;
    memset(x, 0, sizeof *x);
    snprintf(x->name, sizeof x->name, "/fakenccl-%016llx", (unsigned long long)bits);
    return SUCCESS;
}

OPEN int ncclCommInitRankConfig(comm **c, int n, id x, int rank, config *k)
{
    if (k->magic != 0xcafebeefu || k->size < sizeof *k || n > RANKS)
        return 4;
    return begin(c, n, x.name, rank, k->blocking != 0);
}

typedef struct splitting {
    comm *parent, **out;
    int key;
} splitting;

static void *split_later(void *user)
{
    splitting *s = user;
    char name[160];
    for (int i = 0; i < 200; i++)
        nap();
    snprintf(name, sizeof name, "%.100s-s", s->parent->name.name);
    int code = begin(s->out, s->parent->n, name, s->key, true);
    atomic_store(&s->parent->code, code);
    free(s);
    return NULL;
}

/* Says success at once, as the real one does, while the parent is not ready yet. */
OPEN int ncclCommSplit(comm *c, int color, int key, comm **out, config *k)
{
    pthread_t t;
    splitting *s = malloc(sizeof *s);
    (void)color;
    *s = (splitting){.parent = c, .out = out, .key = key};
    atomic_store(&c->code, IN_PROGRESS);
    if (!k->blocking || pthread_create(&t, NULL, split_later, s) != 0)
        return UNHANDLED;
    pthread_detach(t);
    return SUCCESS;
}

OPEN int ncclCommGetAsyncError(comm *c, int *code) { *code = atomic_load(&c->code); return SUCCESS; }
OPEN int ncclCommAbort(comm *c) { atomic_store(&c->aborted, 1); return end(c); }
OPEN int ncclCommDestroy(comm *c) { return end(c); }

OPEN int ncclCommFinalize(comm *c)
{
    if (atomic_load(&c->code) == IN_PROGRESS)
        return 4;
    while (atomic_load(&c->asked) != atomic_load(&c->done))
        nap();
    atomic_store(&c->has_ended, 1);
    return SUCCESS;
}

static int ask(comm *c, op o)
{
    atomic_fetch_add(&pending, 1);
    c->queue[atomic_load(&c->asked) % QUEUE] = o;
    atomic_fetch_add(&c->asked, 1);
    return SUCCESS;
}

OPEN int ncclAllReduce(const void *in, void *out, size_t n, int type, int sum, comm *c, void *stream)
{
    (void)sum;
    (void)stream;
    size_t size = type == 2 || type == 7 ? 4 : 2;
    return ask(c, (op){.kind = 0, .type = type, .in = in, .out = out, .bytes = n * size});
}

OPEN int ncclAllGather(const void *in, void *out, size_t n, int type, comm *c, void *stream)
{
    (void)stream;
    return ask(c, (op){.kind = 1, .type = type, .in = in, .out = out, .bytes = n});
}

OPEN int ncclBroadcast(const void *in, void *out, size_t n, int type, int root, comm *c, void *stream)
{
    (void)stream;
    return ask(c, (op){.kind = 2, .type = type, .root = root, .in = in, .out = out, .bytes = n});
}

OPEN int cuInit(unsigned flags) { (void)flags; return 0; }
OPEN int cuDeviceGetCount(int *n) { *n = 1; return 0; }
OPEN int cuDeviceGet(int *d, int i) { *d = i; return i == 0 ? 0 : 101; }
OPEN int cuDeviceGetPCIBusId(char *s, int n, int d) { snprintf(s, (size_t)n, "0000:%02x:00.0", d + 1); return 0; }
OPEN int cuDevicePrimaryCtxRetain(void **ctx, int d) { (void)d; *ctx = &pending; return 0; }
OPEN int cuDevicePrimaryCtxRelease_v2(int d) { (void)d; return 0; }
OPEN int cuCtxPushCurrent_v2(void *ctx) { (void)ctx; return 0; }
OPEN int cuCtxPopCurrent_v2(void **ctx) { *ctx = &pending; return 0; }
OPEN int cuStreamCreate(void **s, unsigned flags) { (void)flags; *s = &pending; return 0; }
OPEN int cuStreamDestroy_v2(void *s) { (void)s; return 0; }
OPEN int cuStreamQuery(void *s) { (void)s; return atomic_load(&pending) > 0 ? 600 : 0; }
OPEN int cuMemFree_v2(unsigned long long p) { free((void *)(uintptr_t)p); return 0; }

OPEN int cuMemAlloc_v2(unsigned long long *p, size_t size)
{
    *p = (uintptr_t)calloc(1, size);
    return *p != 0 ? 0 : 2;
}

#else

#define tn_plugin_entry plain_entry
#include "../../plugins/skeleton/device_plain.c"
#undef tn_plugin_entry

#include <dlfcn.h>
#include <time.h>

extern TN_EXPORT const tn_plugin tn_plugin_entry;

static tn_status mem_take(void *dev, uint64_t size, void **p, tn_err *err)
{
    (void)dev;
    *p = malloc(size);
    return *p != NULL ? TN_OK : tn_fail(err, TN_NO_MEMORY, "fakecard: out of memory");
}

static void mem_give(void *dev, void *p)
{
    (void)dev;
    free(p);
}

/* Waits for the stream, as copies between host and card do. */
static tn_status mem_copy(void *dev, void *to, const void *from, uint64_t size, tn_err *err)
{
    struct timespec nap = {.tv_nsec = 50000};
    void *library = dlopen(LIBRARY_FILE, RTLD_NOW | RTLD_LOCAL);
    int (*query)(void *s) = NULL;
    (void)dev;
    if (library != NULL)
        *(void **)&query = dlsym(library, "cuStreamQuery");
    if (query == NULL)
        return tn_fail(err, TN_UNAVAILABLE, "fakecard: no library");
    while (query(NULL) != 0)
        nanosleep(&nap, NULL);
    memcpy(to, from, size);
    dlclose(library);
    return TN_OK;
}

static const tn_device card = {
    .size = sizeof(tn_device),
    .open = open_device,
    .close = close_device,
    .info = info,
    .compile = compile,
    .reserve = reserve,
    .pack = pack,
    .release = release,
    .run = run,
    .wait = wait_for,
    .mem_take = mem_take,
    .mem_give = mem_give,
    .mem_copy = mem_copy,
};

const tn_plugin tn_plugin_entry = {
    .abi_major = TN_ABI_MAJOR,
    .abi_minor = TN_ABI_MINOR,
    .size = sizeof(tn_plugin),
    .kind = TN_KIND_DEVICE,
    .name = "fakecard",
    .version = "1.0",
    .summary = "Memory of a card that is none.",
    .table = &card,
    .init = init,
    .start = start,
    .stop = stop,
};

#endif

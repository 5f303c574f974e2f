/* SPDX-License-Identifier: Apache-2.0 */
/* cudasim.cpp - runs blocks as fibers and does what streams are told: see cuda_runtime.h here. */
#include "cuda_runtime.h"

#include <cstdio>
#include <ctime>
#include <fcntl.h>
#include <mutex>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

/* -------------------------------------------------------------------------------- fibers */

#define THREADS_MAX 1024
#define STACK_SIZE (64u << 10)
#define SHARED_MAX (228u << 10)

#if defined(__x86_64__)
/* Saves the caller-saved rest on the stack and leaves it for another one. */
extern "C" void cudasim_switch(void **from, void *to);
__asm__(".text\n.globl cudasim_switch\n.type cudasim_switch,@function\ncudasim_switch:\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp, (%rdi)\n  movq %rsi, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n  ret\n"
        ".size cudasim_switch, .-cudasim_switch\n");
#endif

enum state { READY, AT_WARP, AT_BLOCK, AT_NAMED, DONE };

struct fiber {
#if defined(__x86_64__)
    void *sp;
#else
    ucontext_t context;
#endif
    state at;
    unsigned mask;             /* AT_NAMED: the barrier's number */
};

static fiber thread[THREADS_MAX];
static uint8_t *stacks;
static unsigned arrived[16];         /* threads at a named barrier */
static unsigned nthread, now;
static const std::function<void()> *body;
static bool reverse;
static uint8_t shared_memory[SHARED_MAX] __attribute__((aligned(128)));
/* Two places take turns: whoever writes the next but one has met all that read this one. */
static uint8_t place[2][THREADS_MAX][256];
static uint8_t turn[THREADS_MAX];
#if defined(__x86_64__)
static void *main_sp;
#else
static ucontext_t main_context;
#endif

uint8_t *cudasim_shared()
{
    return shared_memory;
}

uint8_t *cudasim_place(unsigned lane)
{
    return place[turn[now]][now / 32 * 32 + lane];
}

void cudasim_next_place()
{
    turn[now] ^= 1;
}

[[noreturn]] static void die(const char *what)
{
    fprintf(stderr, "cudasim: block %u,%u,%u thread %u: %s\n", blockIdx.x, blockIdx.y,
            blockIdx.z, now, what);
    abort();
}

static void to_main()
{
#if defined(__x86_64__)
    cudasim_switch(&thread[now].sp, main_sp);
#else
    swapcontext(&thread[now].context, &main_context);
#endif
}

static void fiber_main()
{
    (*body)();
    thread[now].at = DONE;
    to_main();
    die("a finished thread was woken");
}

void cudasim_block_barrier()
{
    thread[now].at = AT_BLOCK;
    to_main();
}

void cudasim_warp_barrier(unsigned mask)
{
    thread[now].at = AT_WARP;
    thread[now].mask = mask;
    to_main();
}

void cudasim_named_barrier(unsigned number, unsigned count, bool wait)
{
    if (number >= 16 || arrived[number] >= count)
        die("a named barrier of a wrong number or count");
    if (++arrived[number] == count) {
        arrived[number] = 0;
        for (unsigned i = 0; i < nthread; i++)
            if (thread[i].at == AT_NAMED && thread[i].mask == number)
                thread[i].at = READY;
        return;
    }
    if (!wait)
        return;
    thread[now].at = AT_NAMED;
    thread[now].mask = number;
    to_main();
}

unsigned __ballot_sync(unsigned mask, int predicate)
{
    unsigned lane = threadIdx.x % 32, out = 0;
    int mine = predicate != 0;
    memcpy(cudasim_place(lane), &mine, sizeof mine);
    cudasim_warp_barrier(mask);
    for (unsigned i = 0; i < 32; i++) {
        int theirs;
        memcpy(&theirs, cudasim_place(i), sizeof theirs);
        if ((mask >> i & 1) != 0 && now / 32 * 32 + i < nthread && theirs != 0 &&
            thread[now / 32 * 32 + i].at != DONE)
            out |= 1u << i;
    }
    cudasim_next_place();
    return out;
}

unsigned __match_any_sync(unsigned mask, int value)
{
    unsigned lane = threadIdx.x % 32, out = 0;
    memcpy(cudasim_place(lane), &value, sizeof value);
    cudasim_warp_barrier(mask);
    for (unsigned i = 0; i < 32; i++) {
        int theirs;
        memcpy(&theirs, cudasim_place(i), sizeof theirs);
        if ((mask >> i & 1) != 0 && now / 32 * 32 + i < nthread && theirs == value)
            out |= 1u << i;
    }
    cudasim_next_place();
    return out;
}

static void prepare(unsigned i)
{
    thread[i].at = READY;
    turn[i] = 0;
    uint8_t *top = stacks + (size_t)(i + 1) * STACK_SIZE;
#if defined(__x86_64__)
    void **sp = (void **)(void *)top;
    *--sp = nullptr;                 /* keeps the stack as a call would leave it */
    *--sp = (void *)fiber_main;
    for (int r = 0; r < 6; r++)
        *--sp = nullptr;
    thread[i].sp = sp;
#else
    getcontext(&thread[i].context);
    thread[i].context.uc_stack.ss_sp = top - STACK_SIZE;
    thread[i].context.uc_stack.ss_size = STACK_SIZE;
    thread[i].context.uc_link = nullptr;
    makecontext(&thread[i].context, fiber_main, 0);
#endif
}

static void resume(unsigned i)
{
    now = i;
    threadIdx = uint3{i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
#if defined(__x86_64__)
    cudasim_switch(&main_sp, thread[i].sp);
#else
    swapcontext(&main_context, &thread[i].context);
#endif
}

/* Lets lanes that met at a warp's barrier go on; false when there is none. */
static bool release_warp(unsigned first)
{
    for (unsigned i = first; i < first + 32 && i < nthread; i++) {
        if (thread[i].at != AT_WARP)
            continue;
        unsigned mask = thread[i].mask;
        for (unsigned j = 0; j < 32 && first + j < nthread; j++) {
            fiber *t = &thread[first + j];
            if ((mask >> j & 1) != 0 && t->at != DONE && (t->at != AT_WARP || t->mask != mask)) {
                now = i;
                die("lanes of one mask wait at different barriers");
            }
        }
        for (unsigned j = 0; j < 32 && first + j < nthread; j++)
            if ((mask >> j & 1) != 0 && thread[first + j].at == AT_WARP)
                thread[first + j].at = READY;
        return true;
    }
    return false;
}

/* A warp until all its lanes are done or wait for the block. */
static void run_warp(unsigned first)
{
    unsigned n = nthread - first < 32 ? nthread - first : 32;
    do {
        for (bool ran = true; ran;) { /* again: the last of a named barrier lets others go */
            ran = false;
            for (unsigned j = 0; j < n; j++) {
                unsigned i = first + (reverse ? n - 1 - j : j);
                if (thread[i].at == READY) {
                    resume(i);
                    ran = true;
                }
            }
        }
    } while (release_warp(first));
}

static void run_block()
{
    unsigned nwarp = (nthread + 31) / 32;
    for (unsigned i = 0; i < nthread; i++)
        prepare(i);
    memset(arrived, 0, sizeof arrived);
    for (bool live = true; live;) {
        bool stuck = false;
        for (unsigned w = 0; w < nwarp; w++)
            run_warp((reverse ? nwarp - 1 - w : w) * 32);
        live = false;
        for (unsigned i = 0; i < nthread; i++)
            live = live || thread[i].at == READY; /* a named barrier let it go */
        for (unsigned i = 0; !live && i < nthread; i++)
            stuck = stuck || thread[i].at == AT_NAMED;
        if (stuck)
            die("threads wait at a named barrier for ever");
        if (live)
            continue;
        for (unsigned i = 0; i < nthread; i++)
            if (thread[i].at == AT_BLOCK) {
                thread[i].at = READY;
                live = true;
            }
    }
}

/* Host threads take turns: there is one set of fibers. */
static std::mutex turn_lock;

static void run_grid(dim3 grid, dim3 block, const std::function<void()> &f)
{
    std::lock_guard<std::mutex> held(turn_lock);
    const char *order = getenv("CUDASIM_ORDER");
    reverse = order != nullptr && strcmp(order, "reverse") == 0;
    nthread = block.x * block.y * block.z;
    if (nthread < 1 || nthread > THREADS_MAX)
        die("a block of no or too many threads");
    if (stacks == nullptr)
        stacks = (uint8_t *)mmap(nullptr, (size_t)THREADS_MAX * STACK_SIZE,
                                 PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED)
        die("no memory for stacks");
    body = &f;
    gridDim = grid;
    blockDim = block;
    uint64_t nblock = (uint64_t)grid.x * grid.y * grid.z;
    for (uint64_t b = 0; b < nblock; b++) {
        uint64_t i = reverse ? nblock - 1 - b : b;
        blockIdx = uint3{(unsigned)(i % grid.x), (unsigned)(i / grid.x % grid.y),
                         (unsigned)(i / grid.x / grid.y)};
        memset(shared_memory, 0xff, 4096); /* what nobody wrote is NaN */
        run_block();
    }
}

/* -------------------------------------------------------------------------------- streams */

struct cudasim_graph {
    std::vector<std::function<void()>> node;
};
struct cudasim_stream {
    cudasim_queue queue;
    cudasim_graph *capture;
};
struct cudasim_event {
    double ms;
    cudasim_stream *on;
};

static cudaError_t last;
static long fail_countdown = -2;

/* CUDASIM_FAIL=N makes the N-th call here fail. */
static bool fails()
{
    if (fail_countdown == -2) {
        const char *n = getenv("CUDASIM_FAIL");
        fail_countdown = n != nullptr ? atol(n) : -1;
    }
    if (fail_countdown <= 0)
        return false;
    if (--fail_countdown > 0)
        return false;
    last = cudaErrorUnknown;
    return true;
}

static cudaError_t on_stream(cudaStream_t s, std::function<void()> f)
{
    if (fails())
        return cudaErrorUnknown;
    if (s != nullptr && s->capture != nullptr)
        s->capture->node.push_back(std::move(f));
    else
        f();
    return cudaSuccess;
}

static int give(cudaStream_t s, void (*f)(void *user), void *user)
{
    bool kept = s->capture != nullptr;
    on_stream(s, [=] { f(user); });
    return kept;
}

static cudaError_t ready(const cudasim_stream *s)
{
    return s != nullptr && s->queue.held != 0 ? cudaErrorNotReady : cudaSuccess;
}

void cudasim_launch(dim3 grid, dim3 block, size_t shared, cudaStream_t s,
                    std::function<void()> f)
{
    if (shared > SHARED_MAX || grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > 65535 ||
        grid.z > 65535) {
        last = cudaErrorInvalidValue;
        return;
    }
    on_stream(s, [=] { run_grid(grid, block, f); });
}

static double now_ms()
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* --------------------------------------------------------------------------------- memory */

static size_t taken;

static int capability()
{
    const char *card = getenv("CUDASIM_CARD");
    return card != nullptr ? (int)strtol(card, nullptr, 10) : 90;
}

static size_t memory_size()
{
    const char *n = getenv("CUDASIM_MEMORY");
    return n != nullptr ? (size_t)atoll(n) : (size_t)1 << 30;
}

struct header {
    size_t size;
    int fd;                    /* large memory is a file's, so that other processes can open it */
    char fill[244];
};

#define OPEN_FROM (1u << 20)
#define OPEN_PAGE 4096u        /* before what a program gets; the header is its end */

static header *take_open(size_t size)
{
    int fd = memfd_create("cudasim", MFD_CLOEXEC);
    if (fd < 0)
        return nullptr;
    void *m = ftruncate(fd, (off_t)(OPEN_PAGE + size)) == 0
        ? mmap(nullptr, OPEN_PAGE + size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (m == MAP_FAILED) {
        close(fd);
        return nullptr;
    }
    header *h = (header *)((char *)m + OPEN_PAGE) - 1;
    h->fd = fd;
    return h;
}

static header *take(size_t size)
{
    if (size >= OPEN_FROM)
        return take_open(size);
    header *h = (header *)aligned_alloc(256, (sizeof *h + size + 255) / 256 * 256);
    if (h != nullptr)
        h->fd = -1;
    return h;
}

static void give(header *h)
{
    if (h->fd < 0) {
        free(h);
        return;
    }
    close(h->fd);
    munmap((char *)(h + 1) - OPEN_PAGE, OPEN_PAGE + h->size);
}

extern "C" {

cudaError_t cudaMalloc(void **p, size_t size)
{
    if (fails())
        return cudaErrorMemoryAllocation;
    if (taken + size > memory_size())
        return last = cudaErrorMemoryAllocation;
    header *h = take(size);
    if (h == nullptr)
        return last = cudaErrorMemoryAllocation;
    h->size = size;
    taken += size;
    memset((void *)(h + 1), 0xff, size);
    *p = h + 1;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    if (p != nullptr) {
        taken -= ((header *)p - 1)->size;
        give((header *)p - 1);
    }
    return cudaSuccess;
}

static bool ipc_is(const char *what)
{
    const char *s = getenv("CUDASIM_IPC");
    return s != nullptr && strcmp(s, what) == 0;
}

/* A handle says where another process of this user finds the memory: process, descriptor, size. */
cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *p)
{
    const header *h = (const header *)p - 1;
    if (fails() || h->fd < 0 || ipc_is("refused"))
        return last = cudaErrorInvalidValue;
    uint64_t facts[3] = {(uint64_t)getpid(), (uint64_t)h->fd, OPEN_PAGE + h->size};
    memset(handle, 0, sizeof *handle);
    memcpy(handle, facts, sizeof facts);
    return cudaSuccess;
}

cudaError_t cudaIpcOpenMemHandle(void **p, cudaIpcMemHandle_t handle, unsigned flags)
{
    (void)flags;
    uint64_t facts[3];
    char path[64];
    memcpy(facts, &handle, sizeof facts);
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)facts[0], (int)facts[1]);
    int fd = fails() ? -1 : open(path, O_RDWR | O_CLOEXEC);
    void *m = fd < 0 ? MAP_FAILED
        : mmap(nullptr, facts[2], PROT_READ | PROT_WRITE, ipc_is("deaf") ? MAP_PRIVATE : MAP_SHARED,
               fd, 0);
    if (fd >= 0)
        close(fd);
    if (m == MAP_FAILED)
        return last = cudaErrorInvalidValue;
    *p = (char *)m + OPEN_PAGE;
    return cudaSuccess;
}

cudaError_t cudaIpcCloseMemHandle(void *p)
{
    const header *h = (const header *)p - 1; /* the owner's, which wrote it there */
    munmap((char *)p - OPEN_PAGE, OPEN_PAGE + h->size);
    return cudaSuccess;
}

cudaError_t cudaHostRegister(void *p, size_t size, unsigned flags)
{
    (void)p;
    (void)size;
    (void)flags;
    return fails() ? cudaErrorMemoryAllocation : cudaSuccess;
}

cudaError_t cudaHostUnregister(void *p)
{
    (void)p;
    return cudaSuccess;
}

cudaError_t cudaHostGetDevicePointer(void **out, void *p, unsigned flags)
{
    (void)flags;
    *out = p;
    return fails() ? cudaErrorInvalidValue : cudaSuccess;
}

cudaError_t cudaHostAlloc(void **p, size_t size, unsigned flags)
{
    (void)flags;
    if (fails())
        return cudaErrorMemoryAllocation;
    *p = aligned_alloc(256, (size + 255) / 256 * 256 + 256);
    return *p != nullptr ? cudaSuccess : (last = cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void *p)
{
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, enum cudaMemcpyKind kind,
                            cudaStream_t s)
{
    (void)kind;
    return on_stream(s, [=] { memmove(to, from, n); });
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t n, enum cudaMemcpyKind kind)
{
    return cudaMemcpyAsync(to, from, n, kind, nullptr);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t s)
{
    (void)kind;
    return on_stream(s, [=] {
        for (size_t i = 0; i < height; i++)
            memmove((char *)to + i * to_pitch, (const char *)from + i * from_pitch, width);
    });
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t s)
{
    return on_stream(s, [=] { memset(p, value, n); });
}

cudaError_t cudaMemset(void *p, int value, size_t n)
{
    return cudaMemsetAsync(p, value, n, nullptr);
}

/* --------------------------------------------------------------------------------- devices */

cudaError_t cudaGetDeviceCount(int *n)
{
    if (getenv("CUDASIM_NO_DEVICE") != nullptr)
        return last = cudaErrorNoDevice;
    *n = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    return device == 0 ? cudaSuccess : (last = cudaErrorInvalidDevice);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    (void)device;
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "cudasim");
    p->totalGlobalMem = memory_size();
    p->major = capability() / 10;
    p->minor = capability() % 10;
    p->multiProcessorCount = 4;
    p->sharedMemPerBlockOptin = SHARED_MAX - 1024;
    p->l2CacheSize = 1 << 20;
    p->memoryBusWidth = 64;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr a, int device)
{
    (void)device;
    switch (a) {
    case cudaDevAttrMultiProcessorCount: *value = 4; break;
    case cudaDevAttrComputeCapabilityMajor: *value = capability() / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = capability() % 10; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrL2CacheSize: *value = 1 << 20; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = SHARED_MAX - 1024; break;
    default: *value = 0; break;
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int size, int device)
{
    snprintf(id, (size_t)size, "0000:%02x:00.0", 1 + device);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetByPCIBusId(int *device, const char *id)
{
    unsigned bus = 0;
    if (sscanf(id, "0000:%2x:00.0", &bus) != 1 || bus == 0)
        return last = cudaErrorInvalidValue;
    *device = (int)bus - 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int other)
{
    *can = device != other;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *v)
{
    *v = 13000;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *v)
{
    *v = 13000;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total)
{
    *total = memory_size();
    *free = *total > taken ? *total - taken : 0;
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t e = last;
    last = cudaSuccess;
    return e;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last;
}

const char *cudaGetErrorString(cudaError_t e)
{
    switch (e) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidValue: return "invalid argument";
    default: return "a simulated failure";
    }
}

const char *cudaGetErrorName(cudaError_t e)
{
    return e == cudaSuccess ? "cudaSuccess" : "cudaErrorSimulated";
}

/* ----------------------------------------------------------------------- streams and graphs */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
    (void)flags;
    if (fails())
        return cudaErrorUnknown;
    *s = new cudasim_stream{{give, 0}, nullptr};
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    delete s;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    (void)s;
    return fails() ? cudaErrorUnknown : cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t s)
{
    return ready(s);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags)
{
    (void)s;
    (void)e;
    (void)flags;
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags)
{
    (void)flags;
    if (fails())
        return cudaErrorUnknown;
    *e = new cudasim_event{0, nullptr};
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    delete e;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    e->on = s;
    return on_stream(s, [=] { e->ms = now_ms(); });
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    (void)e;
    return fails() ? cudaErrorUnknown : cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t e)
{
    return ready(e->on);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b)
{
    *ms = (float)(b->ms - a->ms);
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode)
{
    (void)mode;
    if (fails())
        return cudaErrorUnknown;
    s->capture = new cudasim_graph;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g)
{
    *g = s->capture;
    s->capture = nullptr;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *e, cudaGraph_t g, unsigned long long flags)
{
    (void)flags;
    if (fails())
        return cudaErrorUnknown;
    *e = new cudasim_graph(*g);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s)
{
    return on_stream(s, [=] {
        for (auto &f : e->node)
            f();
    });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e)
{
    delete e;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    delete g;
    return cudaSuccess;
}

} /* extern "C" */

/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_attend_bench.h - times of HEADS and ATTEND on a card, part of cuda_attend.cpp.
 *
 * Launches go round copies of the cache that together are larger than any second-level cache,
 * LAUNCHES of them in a captured graph; median, least and greatest of REPEATS graphs, and the
 * same for kernels that do nothing. */
#ifndef TN_CUDA_ATTEND_BENCH_H
#define TN_CUDA_ATTEND_BENCH_H

#ifdef TN_CUDASIM
#define LAUNCHES 2
#define REPEATS 1
#else
#define LAUNCHES 40
#define REPEATS 21
#endif

struct bench_times {
    double median, least, most; /* us a launch */
};

__global__ void do_nothing(int)
{
}

/* `enqueue` is given the number of the launch and the stream. */
template <typename F>
static bench_times time_graph(const F &enqueue)
{
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t from, to;
    must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "capture");
    for (uint32_t i = 0; i < LAUNCHES; i++)
        must(enqueue(i, stream), "launch");
    must(cudaStreamEndCapture(stream, &graph), "capture");
    must(cudaGraphInstantiate(&exec, graph, 0), "graph");
    must(cudaEventCreateWithFlags(&from, cudaEventDefault), "event");
    must(cudaEventCreateWithFlags(&to, cudaEventDefault), "event");
    std::vector<double> us;
    for (int r = 0; r < REPEATS + 3; r++) {
        float ms = 0;
        must(cudaEventRecord(from, stream), "event");
        must(cudaGraphLaunch(exec, stream), "graph");
        must(cudaEventRecord(to, stream), "event");
        must(cudaEventSynchronize(to), "graph");
        must(cudaEventElapsedTime(&ms, from, to), "event");
        if (r >= 3)
            us.push_back((double)ms * 1e3 / LAUNCHES);
    }
    cudaEventDestroy(from), cudaEventDestroy(to);
    cudaGraphExecDestroy(exec), cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
    std::sort(us.begin(), us.end());
    return bench_times{us[REPEATS / 2], us[0], us[REPEATS - 1]};
}

struct bench_shape {
    uint32_t q_heads, kv_heads, dim, seqs, nrow, context;
};

/* Halves of about 0.07; their values do not matter. */
static void *take_filled(size_t size)
{
    void *p = take(size);
    must(cudaMemset(p, 0x2c, size), "memset");
    return p;
}

static gpu_span span_of(uint32_t rows, uint32_t width)
{
    gpu_span s = {take_filled((size_t)rows * width * 2), width, TN_F16};
    return s;
}

/* Products with keys and with values, two operations each, of what the rows see. */
static double operations(const bench_shape &b)
{
    double seen = (double)b.nrow * b.context + (double)b.nrow * (b.nrow + 1) / 2;
    return 4.0 * seen * b.seqs * b.q_heads * b.dim;
}

static void bench_attend(const bench_shape &b, uint32_t nsm)
{
    std::vector<piece> p(b.seqs, piece{b.context, b.nrow});
    world w = make_world(p, 16, 0, 0);
    double elem = cache_type == TN_F16 ? 2 : 1;
    double bytes = 2 * elem * b.seqs * (b.context + b.nrow) * b.kv_heads * b.dim;
    uint32_t copies = (uint32_t)std::min(64.0, std::max(2.0, ceil(400e6 / bytes)));
    size_t side = (size_t)w.nblock * 16 * b.kv_heads * b.dim * (size_t)elem;
    gpu_attend a = {};
    a.q = span_of(w.nrow, b.q_heads * b.dim), a.out = span_of(w.nrow, b.q_heads * b.dim);
    a.gate = span_of(w.nrow, b.q_heads * b.dim);
    a.q_heads = b.q_heads, a.kv_heads = b.kv_heads, a.head_dim = b.dim;
    a.scale = (float)(1 / sqrt((double)b.dim));
    a.cache = gpu_cache{NULL, NULL, b.kv_heads, b.dim, b.dim, 16, cache_type};
    tn_limits lim = {};
    a.partial = (float *)take(gpu_attend_floats(&a, &lim, nsm) * 4);
    std::vector<void *> k(copies), v(copies);
    for (uint32_t i = 0; i < copies; i++)
        k[i] = take_filled(side), v[i] = take_filled(side);
    bench_times t = time_graph([&](uint32_t i, cudaStream_t stream) {
        a.cache.k = k[i % copies], a.cache.v = v[i % copies];
        return gpu_do_attend(&a, &w.step, &w.shape, nsm, stream);
    });
    printf("attend %s heads %u/%u dim %u seqs %u rows %u context %u: %.2f us (%.2f .. %.2f), "
           "%.0f GB/s, %.1f TFLOP/s\n", cache_type == TN_F16 ? "f16" : "e4m3",
           b.q_heads, b.kv_heads, b.dim, b.seqs, b.nrow, b.context, t.median, t.least, t.most,
           bytes / t.median * 1e-3, operations(b) / t.median * 1e-6);
    give_all();
}

static void bench_heads(uint32_t seqs, uint32_t nrow)
{
    world w = make_world(std::vector<piece>(seqs, piece{0, nrow}), 16, 0, 0);
    gpu_heads a = {};
    a.q = span_of(w.nrow, 16 * 256), a.k = span_of(w.nrow, 512), a.v = span_of(w.nrow, 512);
    a.q_heads = 16, a.kv_heads = 2, a.head_dim = 256, a.eps = 1e-6f, a.offset = 1;
    a.q_norm = a.k_norm = (const float *)take_filled(1024);
    a.cs = (const float *)take_filled((size_t)w.nrow * 64 * 4), a.dims = 64;
    size_t side = (size_t)w.nblock * 16 * 512 * 2;
    a.cache = gpu_cache{take_filled(side), take_filled(side), 2, 256, 256, 16, cache_type};
    bench_times t = time_graph([&](uint32_t, cudaStream_t stream) {
        return gpu_do_heads(&a, &w.step, &w.shape, stream);
    });
    printf("heads seqs %u rows %u: %.2f us (%.2f .. %.2f)\n", seqs, nrow, t.median, t.least,
           t.most);
    give_all();
}

static void bench(uint32_t type)
{
    cache_type = type;
    int sm = 132;
    cudaDeviceGetAttribute(&sm, cudaDevAttrMultiProcessorCount, 0);
    uint32_t nsm = (uint32_t)sm;
    bench_times none = time_graph([&](uint32_t, cudaStream_t stream) {
        GPU_LAUNCH((do_nothing), dim3(1), dim3(32), 0, stream, 0);
        return cudaGetLastError();
    });
    printf("empty launch: %.2f us\n", none.median);
#ifdef TN_CUDASIM
    bench_heads(1, 1);
    bench_attend({16, 2, 256, 1, 1, 100}, nsm);
#else
    bench_heads(1, 1), bench_heads(64, 1), bench_heads(1, 2048);
    for (uint32_t seqs : {1, 4, 16, 64})
        for (uint32_t context : {128, 512, 1024, 2048, 4096, 8192})
            bench_attend({16, 2, 256, seqs, 1, context - 1}, nsm);
    for (uint32_t context : {512, 4096, 32768})
        bench_attend({32, 8, 128, 1, 1, context - 1}, nsm),
            bench_attend({32, 8, 128, 16, 1, context - 1}, nsm),
            bench_attend({9, 3, 64, 16, 1, context - 1}, nsm);
    bench_attend({16, 2, 256, 1, 4, 4096}, nsm), bench_attend({16, 2, 256, 16, 4, 4096}, nsm);
    bench_attend({16, 2, 256, 1, 64, 8192}, nsm);
    for (uint32_t context : {0, 2048, 6144})
        bench_attend({16, 2, 256, 1, 2048, context}, nsm),
            bench_attend({32, 8, 128, 1, 2048, context}, nsm),
            bench_attend({9, 3, 64, 1, 2048, context}, nsm);
    bench_attend({16, 2, 256, 1, 8192, 0}, nsm), bench_attend({32, 8, 128, 1, 8192, 0}, nsm);
#endif
}

#endif

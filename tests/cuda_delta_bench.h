/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_delta_bench.h - times of DELTA on a card, for cuda_delta.cpp: launches of one captured
 * graph, each on other slots, so that the second-level cache holds no state when it is wanted. */
#ifndef TN_CUDA_DELTA_BENCH_H
#define TN_CUDA_DELTA_BENCH_H

#include "cuda_delta_world.h"

static double median_ms(cudaGraphExec_t graph, cudaStream_t stream, double *least)
{
    std::vector<float> ms;
    cudaEvent_t from, to;
    cudaEventCreate(&from);
    cudaEventCreate(&to);
    for (int i = 0; i < 25; i++) {
        float t;
        cudaEventRecord(from, stream);
        cudaGraphLaunch(graph, stream);
        cudaEventRecord(to, stream);
        cudaEventSynchronize(to);
        cudaEventElapsedTime(&t, from, to);
        if (i >= 5)
            ms.push_back(t);
    }
    for (size_t i = 1; i < ms.size(); i++)
        for (size_t j = i; j > 0 && ms[j] < ms[j - 1]; j--)
            std::swap(ms[j], ms[j - 1]);
    *least = ms[0];
    cudaEventDestroy(from);
    cudaEventDestroy(to);
    return ms[ms.size() / 2];
}

/* `seqs` sequences of `rows` rows; `layers` sets of slots, so that the cache stays cold. */
static void bench(uint32_t seqs, uint32_t rows, bool meet)
{
    const sizes z = {16, 32, 128, 128, 3, 0, TN_ACT_SILU, TN_F16, meet, false};
    const uint64_t state = 2u << 20;
    uint32_t layers = (uint32_t)((256u << 20) / (state * seqs)) + 1;
    layers = layers < 2 ? 2 : layers;
    const int launches = rows > 16 ? 2 : 60;
    world *w = world_open(z, seqs * rows, seqs, seqs * layers);
    begin_step(w);
    for (uint32_t i = 0; i < seqs; i++)
        add_seq(w, (int)rows, (int)i, (int)i, 0, 0);
    random_rows(w);
    run_device(w);
    gpu_shape n = {seqs * rows, seqs, 0, rows, 0};
    cudaStream_t stream;
    cudaGraph_t g;
    cudaGraphExec_t graph;
    require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
    require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
    for (int i = 0; i < launches; i++) {
        gpu_delta a = w->a;
        a.state.data += (uint64_t)(i % (int)layers) * seqs * a.state.slot_floats;
        require(gpu_do_delta(&a, &w->step, &n, stream), "gpu_do_delta");
    }
    require(cudaStreamEndCapture(stream, &g), "end of capture");
    require(cudaGraphInstantiate(&graph, g, 0), "graph");
    double least, ms = median_ms(graph, stream, &least);
    double us = ms * 1e3 / launches, bytes = 2.0 * (double)state * seqs;
    printf("bench %3u x %5u rows%s: %9.2f us a layer (least %.2f), %.0f GB/s of state, "
           "%.3f us a row\n", seqs, rows, meet ? "" : ", no counters", us, least * 1e3 / launches,
           bytes / us * 1e-3, us / rows / seqs);
    cudaGraphExecDestroy(graph);
    cudaGraphDestroy(g);
    cudaStreamDestroy(stream);
    world_close(w);
}

static void bench_all()
{
    static const uint32_t batch[] = {1, 2, 4, 8, 16, 32, 64, 128, 256};
    for (uint32_t n : batch)
        bench(n, 1, true);
    bench(1, 1, false);
    bench(16, 1, false);
    for (uint32_t n : batch)
        if (n <= 64)
            bench(n, 4, true);
    bench(1, 16, true);
    bench(1, 17, true);
    bench(1, 128, true);
    bench(1, 1024, true);
    bench(1, 4096, true);
    bench(1, 8192, true);
    bench(4, 2048, true);
    bench(8, 1000, true);
}

#endif

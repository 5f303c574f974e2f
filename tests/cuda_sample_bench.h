/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_sample_bench.h - cuda_sample.cpp --bench: microseconds a step on a card, 50 steps in a
 * graph, the median of 20. Included where the job is known. */
static double median_us(cudaGraphExec_t exec, cudaStream_t stream, int launches)
{
    std::vector<double> us;
    cudaEvent_t a, b;
    must(cudaEventCreateWithFlags(&a, cudaEventDefault), "event");
    must(cudaEventCreateWithFlags(&b, cudaEventDefault), "event");
    for (int turn = 0; turn < 22; turn++) {
        float ms = 0;
        must(cudaEventRecord(a, stream), "record");
        must(cudaGraphLaunch(exec, stream), "launch");
        must(cudaEventRecord(b, stream), "record");
        must(cudaStreamSynchronize(stream), "run");
        must(cudaEventElapsedTime(&ms, a, b), "time");
        if (turn > 1)
            us.push_back(ms * 1e3 / launches);
    }
    cudaEventDestroy(a);
    cudaEventDestroy(b);
    std::sort(us.begin(), us.end());
    return us[us.size() / 2];
}

/* As models make them: some forty candidates stand out of a bell. */
static std::vector<float> model_row(uint32_t vocab)
{
    std::vector<float> x = gauss_row(vocab, 2);
    for (int i = 0; i < 40; i++)
        x[dice(vocab)] = (float)(14 + log(unit()) * -1.5);
    return x;
}

/* The logits are where the multiply before leaves them: in the second-level cache. */
static void bench(const char *name, uint32_t vocab, uint32_t rows, gpu_out w, uint32_t nhistory)
{
    const int launches = 50;
    job j = job_open(vocab);
    std::vector<float> x = model_row(vocab);
    for (uint32_t i = 0; i < rows; i++) {
        ask &a = job_add(j, x);
        a.out = w;
        a.out.row = (int32_t)i;
        a.out.seed = i;
        for (uint32_t k = 0; k < nhistory; k++)
            a.history.push_back((int32_t)dice(vocab));
    }
    device_job d = job_upload(j);
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    must(cudaMemcpy(d.a.logits, d.logits, d.logit_words * 4, cudaMemcpyDeviceToDevice), "copy");
    must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
    for (int i = 0; i < launches; i++)
        must(gpu_do_sample(&d.a, &d.s, &d.n, stream), "gpu_do_sample");
    must(cudaStreamEndCapture(stream, &graph), "capture");
    must(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
    double us = median_us(exec, stream, launches);
    printf("%-44s vocab %6u rows %3u: %8.2f us, %7.1f GB/s of logits\n", name, vocab, rows, us,
           (double)rows * vocab * 4 / us * 1e-3);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
    give_all();
}

static void bench_all()
{
    static const uint32_t rows[] = {1, 8, 64, 256};
    gpu_out w[9];
    for (gpu_out &o : w)
        o = plain_out(0);
    w[0].flags = TN_SAMPLE_GREEDY;
    w[2].top_k = 50;
    w[3].top_p = 0.95f;
    w[4].top_k = 20;
    w[4].top_p = 0.8f;
    w[4].temperature = 0.7f;
    w[5].top_p = 0.95f;
    w[5].temperature = 100;
    w[6].min_p = 0.05f;
    w[7].top_k = 20;
    w[7].top_p = 0.8f;
    w[7].repetition = 1.1f;
    w[8].flags = TN_SAMPLE_GREEDY;
    w[8].ntop = 20;
    static const char *name[] = {"greedy", "temperature", "top_k 50", "top_p 0.95",
                                 "top_k 20, top_p 0.8, temperature 0.7",
                                 "top_p 0.95, nearly flat", "min_p 0.05",
                                 "top_k 20, top_p 0.8, history of 8192", "greedy, 20 alternatives"};
    for (int i = 0; i < 9; i++)
        for (uint32_t n : rows)
            bench(name[i], 151936, n, w[i], i == 7 ? 8192 : 0);
    w[2].top_k = 4000;
    bench("top_k 4000", 151936, 64, w[2], 0);
    bench("greedy", 262144, 1, w[0], 0);
    bench("greedy", 49152, 1, w[0], 0);
}

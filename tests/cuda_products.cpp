/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_products.cpp - LINEAR of the plugin cuda for steps of many rows, against sums in double
 * over the weights as the reader gave them.
 *
 * Builds with nvcc (-x cu) for a card and with g++ -DTN_CUDASIM for the simulator. What lies
 * behind the rows of x is NaN, so that whoever reads too much is seen. --bench: times on a card
 * instead, 20 launches in a graph. --small: for tools that make the card slow. */
#include "gpu.h"

#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

static int failures;

static void must(cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return;
    printf("FAIL %s: %s\n", what, cudaGetErrorString(e));
    exit(1);
}

static std::vector<void *> taken;

template <typename T>
static T *upload(const std::vector<T> &v)
{
    void *p = NULL;
    must(cudaMalloc(&p, v.size() * sizeof(T) + 256), "cudaMalloc");
    taken.push_back(p);
    must(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
    return (T *)p;
}

static void give_all()
{
    for (void *p : taken)
        cudaFree(p);
    taken.clear();
}

static uint64_t state = 1;

static uint32_t bits()
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

/* In [-1, 1), with few bits, so that halves hold it. */
static float small()
{
    return (float)((int)(bits() % 256) - 128) / 128.0f;
}

static uint16_t half_of(float x)
{
    return __half_as_ushort(__float2half_rn(x));
}

/* ------------------------------------------------------------------------------- weights */

struct shape {
    uint32_t form, group;
    bool zeros;
    uint32_t n, k, rows;
};

struct weights {
    gpu_matrix m;
    std::vector<float> value;  /* [n, k] as the reader gave them */
};

static gpu_matrix matrix_of(const shape &s)
{
    gpu_matrix m = {};
    m.form = s.form;
    m.n = s.n;
    m.k = s.k;
    m.cols = (s.k + 63) / 64 * 64;
    m.group = s.group;
    m.ntile = (s.n + 15) / 16;
    m.nquad = s.group == 0 ? 0 : ((m.cols + s.group - 1) / s.group + 3) / 4;
    m.nexpert = 1;
    m.codes_size = (uint64_t)m.ntile * m.cols *
                   (s.form == TN_FORM_W4G ? 8 : s.form == TN_FORM_W8G ? 16 : 32);
    m.scale_size = (uint64_t)m.ntile * m.nquad * 128;
    m.zero_size = s.zeros ? m.scale_size / 2 : 0;
    m.codes = upload(std::vector<uint8_t>(m.codes_size));
    m.scale = s.group > 0 ? upload(std::vector<uint16_t>(m.scale_size / 2)) : NULL;
    m.zero = s.zeros ? upload(std::vector<uint8_t>(m.zero_size)) : NULL;
    return m;
}

static void make_weights(const shape &s, weights *w)
{
    const uint32_t ngroup = s.group > 0 ? (s.k + s.group - 1) / s.group : 1;
    const uint32_t width = s.form == TN_FORM_W4G ? s.k / 2 : s.form == TN_FORM_W8G ? s.k : 2 * s.k;
    const float middle = s.form == TN_FORM_W8G ? 128 : 8;
    std::vector<uint8_t> codes((size_t)s.n * width), zero((size_t)s.n * ngroup);
    std::vector<float> scale((size_t)s.n * ngroup);
    w->m = matrix_of(s);
    w->value.resize((size_t)s.n * s.k);
    for (size_t i = 0; i < scale.size(); i++) {
        scale[i] = (float)(1 + bits() % 31) / (s.form == TN_FORM_W8G ? 4096.0f : 256.0f);
        zero[i] = (uint8_t)(s.form == TN_FORM_W8G ? bits() % 256 : bits() % 16);
    }
    for (uint32_t r = 0; r < s.n; r++)
        for (uint32_t c = 0; c < s.k; c++) {
            float *to = &w->value[(size_t)r * s.k + c];
            if (s.form == TN_FORM_F16) {
                *to = small();
                uint16_t h = half_of(*to);
                memcpy(&codes[((size_t)r * s.k + c) * 2], &h, 2);
                continue;
            }
            const size_t g = (size_t)r * ngroup + c / s.group;
            const uint32_t code = bits() % (s.form == TN_FORM_W8G ? 256 : 16);
            if (s.form == TN_FORM_W8G)
                codes[(size_t)r * width + c] = (uint8_t)code;
            else
                codes[(size_t)r * width + c / 2] |= (uint8_t)(code << 4 * (c % 2));
            *to = ((float)code - (s.zeros ? (float)zero[g] : middle)) * scale[g];
        }
    gpu_raw raw = {};
    raw.codes = upload(codes);
    raw.scale = s.group > 0 ? upload(scale) : NULL;
    raw.zero = s.zeros ? upload(zero) : NULL;
    raw.form = s.form;
    raw.group = s.group;
    raw.rows = s.n;
    raw.cols = s.k;
    raw.row_bytes = width;
    must(gpu_pack(&w->m, 0, &raw, upload(std::vector<uint32_t>(1)), NULL), "gpu_pack");
}

/* --------------------------------------------------------------------------------- cases */

static gpu_step step_of(uint32_t rows)
{
    gpu_step s = {};
    s.count = upload(std::vector<uint32_t>{rows, 1, 0, 0});
    return s;
}

static void check(const shape &s, uint32_t nsm)
{
    weights w;
    make_weights(s, &w);
    const uint32_t ldx = (s.k + 63) / 64 * 64, ldy = (s.n + 63) / 64 * 64;
    const uint32_t most = s.rows > 16 ? s.rows + 9 : s.rows > 8 ? 16 : 8;
    std::vector<uint16_t> x((size_t)most * ldx, 0x7e00), y((size_t)most * ldy, 0x7e00);
    for (uint32_t r = 0; r < s.rows; r++)
        for (uint32_t c = 0; c < s.k; c++)
            x[(size_t)r * ldx + c] = half_of(small());
    gpu_linear a = {};
    a.x = upload(x);
    a.ldx = ldx;
    a.k = s.k;
    a.turned = upload(std::vector<uint16_t>((size_t)most * w.m.cols, 0x7e00));
    a.rows = GPU_TOKENS;
    a.npart = 1;
    a.part[0].w = w.m;
    a.part[0].out.data = upload(y);
    a.part[0].out.stride = ldy;
    a.part[0].out.type = TN_F16;
    const gpu_step step = step_of(s.rows);
    must(gpu_do_linear(&a, &step, most, nsm, NULL), "gpu_do_linear");
    must(cudaDeviceSynchronize(), "gpu_do_linear");
    must(cudaMemcpy(y.data(), a.part[0].out.data, y.size() * 2, cudaMemcpyDeviceToHost), "y");
    double diff = 0, size = 0;
    uint32_t nan = 0, bad_row = 0, bad_col = 0, touched = 0;
    for (uint32_t r = 0; r < most; r++)
        for (uint32_t n = 0; n < s.n; n++) {
            const float got = __half2float(__ushort_as_half(y[(size_t)r * ldy + n]));
            double want = 0;
            if (r >= s.rows) {
                touched += got == got;
                continue;
            }
            for (uint32_t c = 0; c < s.k; c++)
                want += (double)w.value[(size_t)n * s.k + c] *
                        (double)__half2float(__ushort_as_half(x[(size_t)r * ldx + c]));
            if (got != got && nan++ == 0)
                bad_row = r, bad_col = n;
            if (got == got)
                diff += ((double)got - want) * ((double)got - want);
            size += want * want;
        }
    const double off = sqrt(diff / size);
    const bool good = nan == 0 && off <= 1e-3 && touched == 0;
    printf("%s form %u group %u%s n %u k %u rows %u: off %.2e", good ? "ok" : "FAIL", s.form,
           s.group, s.zeros ? " zeros" : "", s.n, s.k, s.rows, off);
    if (!good)
        printf(", wanted 1e-3; %u NaN, the first in row %u column %u; %u behind the last row", nan,
               bad_row, bad_col, touched);
    printf("\n");
    failures += !good;
    give_all();
}

/* --------------------------------------------------------------------------------- bench */

#ifndef TN_CUDASIM
#define LAUNCHES 20

static void bench(const shape &s, uint32_t nsm)
{
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t from, to;
    gpu_linear a = {};
    const uint32_t ldy = (s.n + 63) / 64 * 64;
    a.part[0].w = matrix_of(s);
    std::vector<uint16_t> x((size_t)s.rows * s.k), codes(a.part[0].w.codes_size / 2);
    for (uint16_t &h : x)
        h = half_of(small());
    for (uint16_t &h : codes)
        h = s.form == TN_FORM_F16 ? half_of(small()) : (uint16_t)bits();
    must(cudaMemcpy(a.part[0].w.codes, codes.data(), codes.size() * 2, cudaMemcpyHostToDevice),
         "codes");
    a.x = upload(x);
    a.ldx = a.k = s.k;
    a.turned = upload(x);
    a.npart = 1;
    a.part[0].out.data = upload(std::vector<uint16_t>((size_t)s.rows * ldy));
    a.part[0].out.stride = ldy;
    a.part[0].out.type = TN_F16;
    const gpu_step step = step_of(s.rows);
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaEventCreate(&from), cudaEventCreate(&to);
    must(gpu_do_linear(&a, &step, s.rows, nsm, stream), "gpu_do_linear");
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    for (int i = 0; i < LAUNCHES; i++)
        gpu_do_linear(&a, &step, s.rows, nsm, stream);
    cudaStreamEndCapture(stream, &graph);
    must(cudaGraphInstantiate(&exec, graph, 0), "graph");
    std::vector<float> ms(7);
    for (float &t : ms) {
        cudaEventRecord(from, stream);
        cudaGraphLaunch(exec, stream);
        cudaEventRecord(to, stream);
        must(cudaEventSynchronize(to), "graph");
        cudaEventElapsedTime(&t, from, to);
    }
    std::sort(ms.begin(), ms.end());
    const double us = (double)ms[3] / LAUNCHES * 1e3;
    printf("form %u group %u n %u k %u rows %u: %.1f us (%.1f to %.1f), %.0f TFLOP/s\n", s.form,
           s.group, s.n, s.k, s.rows, us, ms[0] / LAUNCHES * 1e3, ms[6] / LAUNCHES * 1e3,
           2e-6 * s.n * s.k * s.rows / us);
    cudaGraphExecDestroy(exec), cudaGraphDestroy(graph), cudaStreamDestroy(stream);
    give_all();
}
#endif

int main(int argc, char **argv)
{
    int nsm = 0;
    must(cudaDeviceGetAttribute(&nsm, cudaDevAttrMultiProcessorCount, 0), "multiprocessors");
#ifndef TN_CUDASIM
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        const shape times[] = {
            {TN_FORM_F16, 0, false, 12352, 2048, 4000}, {TN_FORM_F16, 0, false, 12352, 2048, 512},
            {TN_FORM_F16, 0, false, 2048, 4096, 4000}, {TN_FORM_F16, 0, false, 2048, 4096, 512},
            {TN_FORM_F16, 0, false, 1536, 2048, 4000}, {TN_FORM_F16, 0, false, 1536, 2048, 512},
            {TN_FORM_W4G, 128, true, 24576, 4096, 4000}, {TN_FORM_W4G, 128, true, 24576, 4096, 512},
            {TN_FORM_W4G, 32, false, 4096, 4096, 4000}, {TN_FORM_W4G, 32, false, 4096, 4096, 100},
        };
        for (const shape &s : times)
            bench(s, (uint32_t)nsm);
        return 0;
    }
#endif
    const uint32_t cases = argc > 1 && strcmp(argv[1], "--small") == 0 ? 2 : 6;
    const struct { uint32_t form, group; bool zeros; } forms[] = {
        {TN_FORM_F16, 0, false}, {TN_FORM_W4G, 32, false}, {TN_FORM_W4G, 64, true},
        {TN_FORM_W8G, 32, false}, {TN_FORM_W8G, 128, true},
    };
    /* with 132 multiprocessors as with few: other shapes of blocks are chosen */
    for (const auto &f : forms)
        for (uint32_t i = 0; i < cases; i++) {
            const uint32_t k[] = {128, 384, 640, 64, 1152, 256}, n[] = {128, 40, 272, 16, 130, 700};
            const uint32_t rows[] = {70, 200, 300, 65, 129, 257};
            const shape s = {f.form, f.group, f.zeros, n[i],
                             f.group == 128 ? (k[i] + 127) / 128 * 128 : k[i], rows[i]};
#ifdef TN_CUDASIM
            if (n[i] * rows[i] > 60000 || k[i] > 640)
                continue;
#endif
            check(s, i % 2 == 0 ? 2 : (uint32_t)nsm);
        }
    /* few rows: walked tile by tile, in one share of columns a warp, and in several */
    const struct { uint32_t k, n, rows, nsm; } few[] = {
        {1920, 300, 3, 2}, {2048, 80, 16, 2}, {4160, 40, 1, 132}, {4096, 300, 8, 1}, {8576, 40, 5, 2},
        {12672, 24, 9, 2},
    };
    for (const auto &f : forms)
        for (const auto &c : few) {
            const uint32_t k = f.group == 128 ? (c.k + 127) / 128 * 128 : c.k;
            check({f.form, f.group, f.zeros, c.n, k, c.rows}, c.nsm);
            if (f.form == TN_FORM_W4G)
                check({f.form, 128, f.zeros, c.n, (k + 127) / 128 * 128, c.rows}, c.nsm);
        }
    printf(failures == 0 ? "passed\n" : "%d FAILED\n", failures);
    return failures != 0;
}

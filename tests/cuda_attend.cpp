/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_attend.cpp - HEADS and ATTEND of the plugin cuda against their definitions in double.
 *
 * Builds with nvcc (-x cu) for a card and with g++ -DTN_CUDASIM for the simulator. The cache is
 * NaN wherever no sequence has a token, so that whoever reads too much is seen. --bench: times
 * on a card instead, the cache of a launch cold, 40 launches in a graph. */
#include "attend.cuh"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

static int failures;

/* -------------------------------------------------------------------------------- memory */

static void must(cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return;
    printf("FAIL %s: %s\n", what, cudaGetErrorString(e));
    exit(1);
}

static std::vector<void *> taken;

static void *take(size_t size)
{
    void *p = NULL;
    must(cudaMalloc(&p, size + 256), "cudaMalloc");
    taken.push_back(p);
    return p;
}

static void give_all()
{
    for (void *p : taken)
        cudaFree(p);
    taken.clear();
}

template <typename T>
static T *upload(const std::vector<T> &v)
{
    T *p = (T *)take(v.size() * sizeof(T));
    if (!v.empty())
        must(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
    return p;
}

template <typename T>
static std::vector<T> download(const T *p, size_t n)
{
    std::vector<T> v(n);
    must(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost), "download");
    return v;
}

static uint64_t seed = 1;

static uint32_t draw()
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(seed >> 33);
}

static float noise() /* about normal */
{
    float sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (float)(draw() & 0xffff) / 65536.0f - 0.5f;
    return sum * 1.7f;
}

static uint16_t half_bits(float x)
{
    __half h = __float2half_rn(x);
    uint16_t u;
    memcpy(&u, (const void *)&h, sizeof u);
    return u;
}

static double half_value(uint16_t u)
{
    __half h;
    memcpy((void *)&h, &u, sizeof u);
    return (double)__half2float(h);
}

/* A buffer of rows, with columns before and behind the span that nobody may write. */
struct rows {
    uint32_t type, stride, col, width;
    std::vector<float> f32;
    std::vector<uint16_t> f16;
    gpu_span span;

    double get(size_t row, size_t c) const
    {
        size_t at = row * stride + col + c;
        return type == TN_F32 ? (double)f32[at] : half_value(f16[at]);
    }
    void set(size_t row, size_t c, float x)
    {
        size_t at = row * stride + col + c;
        if (type == TN_F32)
            f32[at] = x;
        else
            f16[at] = half_bits(x);
    }
};

#define GUARD 7.0f

static rows make_rows(uint32_t type, uint32_t nrow, uint32_t width, uint32_t col)
{
    rows r;
    r.type = type, r.width = width, r.col = col;
    r.stride = (col + width + 8 + 63) / 64 * 64;
    r.f32.assign(type == TN_F32 ? (size_t)nrow * r.stride : 0, GUARD);
    r.f16.assign(type == TN_F32 ? 0 : (size_t)nrow * r.stride, half_bits(GUARD));
    return r;
}

static void fill(rows &r, uint32_t nrow, float scale)
{
    for (uint32_t i = 0; i < nrow; i++)
        for (uint32_t c = 0; c < r.width; c++)
            r.set(i, c, noise() * scale);
}

static void send(rows &r)
{
    if (r.type == TN_F32)
        r.span.data = upload(r.f32) + r.col;
    else
        r.span.data = upload(r.f16) + r.col;
    r.span.stride = r.stride, r.span.type = r.type;
}

static void fetch(rows &r)
{
    if (r.type == TN_F32)
        r.f32 = download((const float *)r.span.data - r.col, r.f32.size());
    else
        r.f16 = download((const uint16_t *)r.span.data - r.col, r.f16.size());
}

/* Whether all columns outside the span are as they were. */
static bool guards_stand(const rows &r, uint32_t nrow)
{
    for (uint32_t i = 0; i < nrow; i++)
        for (uint32_t c = 0; c < r.stride; c++)
            if ((c < r.col || c >= r.col + r.width) &&
                (r.type == TN_F32 ? r.f32[(size_t)i * r.stride + c]
                                  : (float)half_value(r.f16[(size_t)i * r.stride + c])) != GUARD)
                return false;
    return true;
}

/* ---------------------------------------------------------------------------------- steps */

struct piece {
    uint32_t context, nrow;
};

struct world {
    std::vector<tn_seq> seq;
    std::vector<int32_t> row_seq, pos, block;
    uint32_t nrow, tokens, nblock;
    gpu_step step;
    gpu_shape shape;
};

/* Sequences in rows with `gap` rows of padding before each, blocks in random order. `spare` rows
 * and sequences beyond the counts exist in the shape alone. */
static world make_world(const std::vector<piece> &p, uint32_t tokens, uint32_t spare,
                        uint32_t gap = 1)
{
    world w = {};
    w.tokens = tokens;
    for (const piece &x : p) {
        tn_seq s = {};
        for (uint32_t i = 0; i < gap; i++)
            w.row_seq.push_back(-1), w.pos.push_back(-1);
        s.row0 = (int32_t)w.pos.size(), s.nrow = (int32_t)x.nrow;
        s.context = (int32_t)x.context, s.block0 = (uint32_t)w.block.size();
        for (uint32_t i = 0; i < x.nrow; i++) {
            w.row_seq.push_back((int32_t)w.seq.size());
            w.pos.push_back((int32_t)(x.context + i));
        }
        for (uint32_t i = 0; i < (x.context + x.nrow + tokens - 1) / tokens; i++)
            w.block.push_back((int32_t)(w.nblock++));
        w.seq.push_back(s);
        w.shape.seq_rows = std::max(w.shape.seq_rows, x.nrow);
        w.shape.context = std::max(w.shape.context, x.context + x.nrow);
    }
    w.nblock += 3;
    std::vector<int32_t> order(w.nblock);
    for (uint32_t i = 0; i < w.nblock; i++)
        order[i] = (int32_t)i;
    for (uint32_t i = w.nblock - 1; i > 0; i--)
        std::swap(order[i], order[draw() % (i + 1)]);
    for (int32_t &b : w.block)
        b = order[(size_t)b];
    w.nrow = (uint32_t)w.pos.size();
    w.shape.rows = w.nrow + spare, w.shape.seqs = (uint32_t)w.seq.size() + spare;
    std::vector<int32_t> row_seq = w.row_seq, pos = w.pos;
    std::vector<tn_seq> seq = w.seq;
    tn_seq stale = w.seq[0]; /* what an earlier step left behind */
    for (uint32_t i = 0; i < spare; i++)
        row_seq.push_back(0), pos.push_back(5), seq.push_back(stale);
    w.step.count = upload(std::vector<uint32_t>{w.nrow, (uint32_t)w.seq.size(), 0, 0});
    w.step.row_seq = upload(row_seq), w.step.pos = upload(pos), w.step.seq = upload(seq);
    w.step.block = upload(w.block);
    return w;
}

/* E4M3 by its definition: NaN is 0x7f, there is no infinity. */
static double f8_value(uint32_t code)
{
    uint32_t e = code >> 3 & 15, m = code & 7;
    if ((code & 0x7f) == 0x7f)
        return NAN;
    double x = e == 0 ? ldexp(m, -9) : ldexp(8 + m, (int)e - 10);
    return code & 0x80 ? -x : x;
}

/* The nearest, of two as near the even one, at most 448. */
static uint8_t f8_code(double x)
{
    uint32_t best = 0;
    if (!std::isfinite(x))
        return (uint8_t)(0x7f | (std::signbit(x) ? 0x80 : 0));
    for (uint32_t i = 1; i < 0x7f; i++) {
        double off = fabs(fabs(x) - f8_value(i)), least = fabs(fabs(x) - f8_value(best));
        if (off < least || (off == least && i % 2 == 0))
            best = i;
    }
    return (uint8_t)(best | (std::signbit(x) ? 0x80 : 0));
}

#define NAN_BITS 0x7fffu

/* What caches of the tests hold. */
static uint32_t cache_type = TN_F16;

/* The cache: NaN, but for tokens of sequences. Of an E4M3 cache the values of its codes. */
struct pages {
    std::vector<uint16_t> k, v;
    gpu_cache c;
    size_t at(const world &w, uint32_t seq, uint32_t pos, uint32_t head) const
    {
        int32_t b = w.block[w.seq[seq].block0 + pos / c.tokens];
        return (((size_t)b * c.heads + head) * c.tokens + pos % c.tokens) * c.k_dim;
    }
};

static pages make_pages(const world &w, uint32_t heads, uint32_t dim)
{
    pages p;
    size_t n = (size_t)w.nblock * heads * w.tokens * dim;
    p.k.assign(n, NAN_BITS), p.v.assign(n, NAN_BITS);
    p.c = gpu_cache{NULL, NULL, heads, dim, dim, w.tokens, cache_type};
    return p;
}

/* Sends one side; what an E4M3 cache cannot hold is rounded here too. */
static void *send_side(std::vector<uint16_t> &side)
{
    if (cache_type == TN_F16)
        return upload(side);
    std::vector<uint8_t> code(side.size());
    std::vector<int> known(65536, -1); /* half to code */
    for (size_t i = 0; i < side.size(); i++) {
        int &c = known[side[i]];
        if (c < 0)
            c = f8_code(half_value(side[i]));
        code[i] = (uint8_t)c;
        side[i] = std::isnan(f8_value((uint32_t)c)) ? NAN_BITS : half_bits((float)f8_value((uint32_t)c));
    }
    return upload(code);
}

/* One side as halves again. */
static std::vector<uint16_t> fetch_side(const void *side, size_t n)
{
    if (cache_type == TN_F16)
        return download((const uint16_t *)side, n);
    std::vector<uint16_t> half(n);
    std::vector<uint8_t> code = download((const uint8_t *)side, n);
    for (size_t i = 0; i < n; i++)
        half[i] = code[i] == 0x7f ? NAN_BITS : half_bits((float)f8_value(code[i]));
    return half;
}

static void fill_pages(pages &p, const world &w, float scale)
{
    for (uint32_t s = 0; s < w.seq.size(); s++)
        for (uint32_t pos = 0; pos < (uint32_t)(w.seq[s].context + w.seq[s].nrow); pos++)
            for (uint32_t h = 0; h < p.c.heads; h++)
                for (uint32_t d = 0; d < p.c.k_dim; d++) {
                    p.k[p.at(w, s, pos, h) + d] = half_bits(noise() * scale);
                    p.v[p.at(w, s, pos, h) + d] = half_bits(noise());
                }
}

/* --------------------------------------------------------------------------------- ATTEND */

struct attend_case {
    const char *name;
    uint32_t q_heads, kv_heads, dim, tokens, window;
    float softcap;
    uint32_t type, gated, nsm, spare;
    std::vector<piece> seqs;
    float keys;                /* scale of K: large ones make one token win */
    uint32_t flavour;
};
enum { PLAIN, NAN_KEY, NAN_VALUE, EQUAL_KEYS, OUTLIER, LARGE, ONE_STAGE, HIDDEN_NAN };

/* One head of one row by the definition. */
static std::vector<double> twin(const attend_case &c, const world &w, const pages &p,
                                const rows &q, const rows &gate, uint32_t seq, uint32_t r,
                                uint32_t head)
{
    uint32_t pos = (uint32_t)w.seq[seq].context + r, row = (uint32_t)w.seq[seq].row0 + r;
    uint32_t from = c.window > 0 && pos + 1 > c.window ? pos + 1 - c.window : 0;
    uint32_t kv = head / (c.q_heads / c.kv_heads);
    std::vector<double> s(pos + 1), out(c.dim, 0.0);
    double top = -INFINITY, sum = 0, scale = (double)(float)(1 / sqrt((double)c.dim));
    for (uint32_t t = from; t <= pos; t++) {
        double x = 0;
        size_t at = p.at(w, seq, t, kv);
        for (uint32_t d = 0; d < c.dim; d++)
            x += q.get(row, (size_t)head * c.dim + d) * half_value(p.k[at + d]);
        x *= scale;
        s[t] = c.softcap > 0 ? (double)c.softcap * tanh(x / (double)c.softcap) : x;
        top = std::max(top, s[t]);
    }
    for (uint32_t t = from; t <= pos; t++) {
        double e = exp(s[t] - top);
        size_t at = p.at(w, seq, t, kv);
        sum += e;
        for (uint32_t d = 0; d < c.dim; d++)
            out[d] += e * half_value(p.v[at + d]);
    }
    for (uint32_t d = 0; d < c.dim; d++) {
        out[d] /= sum;
        if (c.gated != 0)
            out[d] /= 1 + exp(-gate.get(row, (size_t)head * c.dim + d));
    }
    return out;
}

static void spoil(const attend_case &c, pages &p, const world &w)
{
    for (uint32_t s = 0; s < w.seq.size(); s++) {
        uint32_t end = (uint32_t)(w.seq[s].context + w.seq[s].nrow);
        for (uint32_t pos = 0; pos < end; pos++)
            for (uint32_t h = 0; h < p.c.heads; h++) {
                size_t at = p.at(w, s, pos, h);
                for (uint32_t d = 0; d < c.dim; d++) {
                    if (c.flavour == EQUAL_KEYS)
                        p.k[at + d] = half_bits(0.25f);
                    if (c.flavour == OUTLIER) /* one token weighs 30000 times the others */
                        p.k[at + d] = half_bits(pos == end / 2 ? 1.0f : 0.0f);
                    if (c.flavour == LARGE)
                        p.v[at + d] = half_bits(draw() % 2 ? 60000.0f : -60000.0f);
                }
                bool early = c.window > 0 && pos + c.window <= (uint32_t)w.seq[s].context;
                if (c.flavour == HIDDEN_NAN && early)
                    for (uint32_t d = 0; d < c.dim; d++)
                        p.k[at + d] = p.v[at + d] = NAN_BITS;
            }
    }
    if (c.flavour == NAN_KEY)
        p.k[p.at(w, 1, 0, 0) + 3] = NAN_BITS;
    if (c.flavour == NAN_VALUE)
        for (uint32_t d = 0; d < c.dim; d++)
            p.v[p.at(w, 1, 0, 0) + d] = NAN_BITS;
}

/* Long sequences alone, with one tile at a time in shared memory, as on a small card. */
static cudaError_t run_one_stage(const gpu_attend *a, const world &w, uint32_t nsm,
                                 cudaStream_t stream)
{
    attend_args x = {};
    x.q = a->q, x.out = a->out, x.gate = a->gate;
    x.k = a->cache.k, x.v = a->cache.v, x.f8 = a->cache.type == TN_F8_E4M3;
    x.count = w.step.count, x.pos = w.step.pos, x.block = w.step.block, x.seq = w.step.seq;
    x.q_heads = a->q_heads, x.kv_heads = a->kv_heads, x.group = a->q_heads / a->kv_heads;
    x.head_dim = a->head_dim, x.window = a->window, x.tokens = w.tokens;
    x.magic = (uint32_t)((((uint64_t)1 << 32) + x.tokens - 1) / x.tokens);
    x.rows = w.shape.rows, x.seqs = w.shape.seqs, x.short_rows = attend_short_rows(x.group);
    x.scale = a->scale * 1.44269504f;
    x.partial = a->partial, x.peaks = a->partial + (uint64_t)attend_blocks(nsm) * 16 * a->head_dim;
    return attend_long(&x, w.shape.context, 1, nsm, stream);
}

static void check_rows(const attend_case &c, const world &w, const pages &p, const rows &q,
                       const rows &gate, const rows &out)
{
    double worst = 0;
    for (uint32_t s = 0; s < w.seq.size(); s++)
        for (uint32_t r = 0; r < (uint32_t)w.seq[s].nrow; r++)
            for (uint32_t h = 0; h < c.q_heads; h++) {
                std::vector<double> want = twin(c, w, p, q, gate, s, r, h);
                double diff = 0, size = 0, bad = 0;
                for (uint32_t d = 0; d < c.dim; d++) {
                    double got = out.get((uint32_t)w.seq[s].row0 + r, (size_t)h * c.dim + d);
                    bad += std::isfinite(got) != std::isfinite(want[d]);
                    if (!std::isfinite(want[d]))
                        continue;
                    diff += (got - want[d]) * (got - want[d]);
                    size += want[d] * want[d];
                }
                double e = sqrt(diff / (size + 1e-12));
                if (bad > 0 || !(e < 1e-3)) {
                    printf("FAIL %s seq %u row %u head %u: found error %g (%g not finite), "
                           "wanted < 1e-3\n", c.name, s, r, h, e, bad);
                    failures++;
                    return;
                }
                worst = std::max(worst, e);
            }
    uint32_t wrong = 0;
    for (uint32_t r = 0; r < w.nrow + c.spare; r++)
        if (r >= w.nrow || w.pos[r] < 0)
            for (uint32_t i = 0; i < out.width; i++)
                wrong += c.flavour != ONE_STAGE && out.get(r, i) != 0;
    if (wrong > 0 || !guards_stand(out, w.nrow + c.spare)) {
        printf("FAIL %s: found %u numbers in padding, guards %d; wanted 0, 1\n", c.name, wrong,
               guards_stand(out, w.nrow + c.spare));
        failures++;
        return;
    }
    printf("ok %s: error %.2g\n", c.name, worst);
}

static void run_case(const attend_case &c)
{
    world w = make_world(c.seqs, c.tokens, c.spare);
    uint32_t nrow = w.nrow + c.spare, width = c.q_heads * c.dim;
    rows q = make_rows(c.type, nrow, width, 64), gate = make_rows(c.type, nrow, width, 128);
    rows out = make_rows(c.type, nrow, width, 64);
    fill(q, nrow, 1.0f), fill(gate, nrow, 2.0f);
    if (c.flavour == OUTLIER)
        for (uint32_t r = 0; r < nrow; r++)
            for (uint32_t i = 0; i < width; i++)
                q.set(r, i, 10.3f / sqrtf((float)c.dim));
    pages p = make_pages(w, c.kv_heads, c.dim);
    fill_pages(p, w, c.keys);
    spoil(c, p, w);
    send(q), send(gate), send(out);
    p.c.k = send_side(p.k), p.c.v = send_side(p.v);
    gpu_attend a = {};
    a.q = q.span, a.out = out.span, a.gate = gate.span;
    if (c.gated == 0)
        a.gate.data = NULL;
    a.q_heads = c.q_heads, a.kv_heads = c.kv_heads, a.head_dim = c.dim, a.window = c.window;
    a.scale = (float)(1 / sqrt((double)c.dim)), a.softcap = c.softcap, a.cache = p.c;
    tn_limits lim = {};
    uint64_t floats = gpu_attend_floats(&a, &lim, c.nsm);
    std::vector<float> room(floats + 16, NAN);
    std::fill(room.end() - 16, room.end(), GUARD);
    a.partial = upload(room);
    must(c.flavour == ONE_STAGE ? run_one_stage(&a, w, c.nsm, NULL)
                                : gpu_do_attend(&a, &w.step, &w.shape, c.nsm, NULL), c.name);
    must(cudaDeviceSynchronize(), c.name);
    fetch(out);
    check_rows(c, w, p, q, gate, out);
    room = download(a.partial, floats + 16);
    for (int i = 0; i < 16; i++)
        if (room[floats + i] != GUARD) {
            printf("FAIL %s: wrote behind its workspace\n", c.name);
            failures++;
            break;
        }
    give_all();
}

static const uint32_t dims[] = {64, 96, 128, 256};

/* Contexts around every border; one row each, then drafts. */
static void test_decode()
{
    static const uint32_t groups[] = {1, 3, 7, 8, 16, 12, 64}, tokens[] = {8, 16, 24, 32, 256};
    std::vector<piece> edges;
    for (uint32_t c : {0, 1, 6, 7, 8, 14, 15, 16, 17, 31, 62, 63, 64, 65, 127, 128, 200})
        edges.push_back({c, 1});
    for (uint32_t i = 0; i < 7; i++) {
        uint32_t dim = dims[i % 4], kv = groups[i] > 12 ? 1 : 2;
        char name[64];
        snprintf(name, sizeof name, "decode dim %u group %u", dim, groups[i]);
        run_case({name, groups[i] * kv, kv, dim, tokens[i % 5], 0, 0, TN_F16, i % 2, 40, 0,
                  edges, 1, PLAIN});
    }
    for (uint32_t i = 0; i < 4; i++) {
        char name[64];
        snprintf(name, sizeof name, "drafts dim %u", dims[i]);
        run_case({name, 16, 2, dims[i], 16, 0, 0, TN_F16, 1, 132, 3,
                  {{0, 5}, {12, 2}, {14, 3}, {63, 4}, {126, 5}, {150, 1}}, 1, PLAIN});
        snprintf(name, sizeof name, "split dim %u", dims[i]);
        run_case({name, 8, 1, dims[i], 16, 0, 0, TN_F16, 1, 132, 0, {{700, 1}, {40, 1}}, 1,
                  PLAIN});
    }
    run_case({"one sequence alone", 16, 2, 256, 16, 0, 0, TN_F16, 1, 132, 0, {{300, 1}}, 1, PLAIN});
    run_case({"first token", 16, 2, 256, 16, 0, 0, TN_F16, 1, 132, 0, {{0, 1}}, 1, PLAIN});
    run_case({"window", 6, 2, 64, 8, 37, 0, TN_F16, 0, 132, 0,
              {{0, 2}, {36, 1}, {37, 1}, {38, 3}, {500, 5}}, 1, HIDDEN_NAN});
    run_case({"softcap", 6, 2, 128, 16, 0, 3.0f, TN_F16, 0, 132, 0, {{300, 1}, {77, 3}}, 3, PLAIN});
    run_case({"f32", 6, 2, 96, 16, 0, 0, TN_F32, 1, 132, 2, {{300, 1}, {77, 3}}, 1, PLAIN});
}

/* Chunks beside rows of decoding. */
static void test_prefill()
{
    for (uint32_t i = 0; i < 4; i++) {
        char name[64];
        snprintf(name, sizeof name, "chunks dim %u", dims[i]);
        run_case({name, 8, 1, dims[i], i % 2 ? 24u : 16u, 0, 0, TN_F16, i % 2, 132, 4,
                  {{0, 21}, {70, 1}, {37, 9}, {0, 3}, {5, 16}}, 1, PLAIN});
        snprintf(name, sizeof name, "one stage dim %u", dims[i]);
        run_case({name, 8, 1, dims[i], 32, 0, 0, TN_F16, 1, 132, 0, {{0, 17}, {75, 10}}, 1,
                  ONE_STAGE});
    }
    run_case({"chunks group 7", 14, 2, 64, 16, 0, 0, TN_F16, 1, 132, 0, {{100, 40}, {3, 12}}, 1,
              PLAIN});
    run_case({"chunks group 1", 3, 3, 64, 8, 0, 0, TN_F16, 1, 132, 0, {{10, 130}, {3, 65}}, 1,
              PLAIN});
    run_case({"chunks window", 6, 2, 64, 8, 29, 0, TN_F16, 0, 132, 0, {{0, 50}, {200, 30}}, 1,
              HIDDEN_NAN});
    run_case({"chunks softcap f32", 6, 2, 96, 16, 0, 3.0f, TN_F32, 1, 132, 0, {{50, 30}}, 3,
              PLAIN});
#ifdef TN_CUDASIM
    if (cache_type != TN_F16) /* splits are the same for all caches, and take long here */
        return;
#endif
    for (uint32_t i = 0; i < 4; i++) {
        char name[64];
        snprintf(name, sizeof name, "split chunks dim %u", dims[i]);
        run_case({name, 7, 1, dims[i], 16, i == 2 ? 600u : 0u, 0, TN_F16, 1, 132, 0,
                  {{1500, 11}, {20, 12}, {700, 1}}, 1, PLAIN});
    }
    std::vector<piece> many;
    for (uint32_t i = 0; i < 40; i++)
        many.push_back({i, i % 3 == 2 ? 17u : 1u});
    run_case({"many sequences", 4, 1, 64, 16, 0, 0, TN_F16, 0, 4, 0, many, 1, PLAIN});
}

static void test_adversaries()
{
    static const char *const names[] = {"", "NaN key", "NaN value", "equal keys", "outlier",
                                        "large values"};
    for (uint32_t f = NAN_KEY; f <= LARGE; f++)
        for (uint32_t longer = 0; longer < 2; longer++) {
            char name[64];
            snprintf(name, sizeof name, "%s, %s", names[f], longer ? "chunks" : "decode");
            uint32_t n = longer ? 17 : 1;
            run_case({name, 4, 2, 64, 16, 0, 0, TN_F32, 0, 132, 0,
                      {{90, n}, {30, n}, {400, n}}, 1, f});
        }
    run_case({"sharp", 8, 1, 256, 16, 0, 0, TN_F16, 0, 132, 0, {{300, 1}, {40, 10}}, 30, PLAIN});
}

/* Two sequences that share the blocks of a prefix. */
static void test_shared_blocks()
{
    attend_case c = {"shared blocks", 8, 1, 128, 16, 0, 0, TN_F16, 0, 132, 0,
                     {{64, 1}, {64, 1}}, 1, PLAIN};
    world w = make_world(c.seqs, c.tokens, 0);
    for (uint32_t i = 0; i < 4; i++)
        w.block[w.seq[1].block0 + i] = w.block[w.seq[0].block0 + i];
    w.step.block = upload(w.block);
    rows q = make_rows(c.type, w.nrow, 8 * 128, 0), out = q, gate = q;
    fill(q, w.nrow, 1);
    pages p = make_pages(w, 1, 128);
    fill_pages(p, w, 1);
    send(q), send(out);
    p.c.k = send_side(p.k), p.c.v = send_side(p.v);
    gpu_attend a = {};
    a.q = q.span, a.out = out.span, a.q_heads = 8, a.kv_heads = 1, a.head_dim = 128;
    a.scale = (float)(1 / sqrt(128.0)), a.cache = p.c;
    tn_limits lim = {};
    a.partial = (float *)take(gpu_attend_floats(&a, &lim, 132) * 4);
    must(gpu_do_attend(&a, &w.step, &w.shape, 132, NULL), c.name);
    must(cudaDeviceSynchronize(), c.name);
    fetch(out);
    check_rows(c, w, p, q, gate, out);
    give_all();
}

static void test_offers()
{
    bool good = gpu_attend_offered(16, 2, 256) && gpu_attend_offered(9, 3, 64) &&
                gpu_attend_offered(64, 1, 96) && !gpu_attend_offered(16, 2, 80) &&
                !gpu_attend_offered(16, 3, 64) && !gpu_attend_offered(128, 1, 64) &&
                !gpu_attend_offered(8, 0, 64);
    printf(good ? "ok offers\n" : "FAIL offers\n");
    failures += !good;
}

/* ---------------------------------------------------------------------------------- HEADS */

struct heads_case {
    const char *name;
    uint32_t q_heads, kv_heads, dim, tokens, type, dims, pairing, norms;
    float offset;
};

/* A head after norm and rotation. */
static std::vector<double> turned(const heads_case &c, const rows &x, uint32_t row, uint32_t head,
                                  const std::vector<float> &w, const std::vector<float> &cs)
{
    std::vector<double> v(c.dim), out;
    double sum = 0;
    for (uint32_t d = 0; d < c.dim; d++) {
        v[d] = x.get(row, (size_t)head * c.dim + d);
        sum += v[d] * v[d];
    }
    for (uint32_t d = 0; d < c.dim && c.norms != 0; d++)
        v[d] *= (double)(w[d] + c.offset) / sqrt(sum / c.dim + (double)1e-6f);
    out = v;
    for (uint32_t i = 0; i < c.dims / 2; i++) {
        uint32_t a = c.pairing == TN_ROPE_HALF ? i : 2 * i;
        uint32_t b = c.pairing == TN_ROPE_HALF ? i + c.dims / 2 : 2 * i + 1;
        double co = (double)cs[((size_t)row * (c.dims / 2) + i) * 2];
        double si = (double)cs[((size_t)row * (c.dims / 2) + i) * 2 + 1];
        out[a] = v[a] * co - v[b] * si;
        out[b] = v[b] * co + v[a] * si;
    }
    return out;
}

static bool near(double got, double want, uint32_t type, double size)
{
    if (type == TN_F8_E4M3) /* a step is an eighth, or 2^-9 */
        return fabs(got - want) <= fabs(want) / 16.0 + ldexp(1, -10) + 1e-6 * size;
    double slack = type == TN_F32 ? 1e-5 * size : fabs(want) / 2048 + 1e-6 * size + 6e-8;
    return fabs(got - want) <= slack;
}

static void run_heads(const heads_case &c)
{
    world w = make_world({{0, 3}, {c.tokens - 1, 2}, {c.tokens * 3 + 1, 1}}, c.tokens, 2);
    uint32_t nrow = w.nrow + 2;
    rows q = make_rows(c.type, nrow, c.q_heads * c.dim, 64);
    rows k = make_rows(c.type, nrow, c.kv_heads * c.dim, 64), v = k;
    fill(q, nrow, 2), fill(k, nrow, 2), fill(v, nrow, 2);
    std::vector<float> wq(c.dim), wk(c.dim), cs((size_t)nrow * c.dims + 2);
    for (uint32_t d = 0; d < c.dim; d++)
        wq[d] = noise(), wk[d] = noise();
    for (float &x : cs)
        x = noise();
    pages p = make_pages(w, c.kv_heads, c.dim);
    rows q0 = q, k0 = k, v0 = v;
    send(q), send(k), send(v);
    p.c.k = send_side(p.k), p.c.v = send_side(p.v);
    gpu_heads a = {};
    a.q = q.span, a.k = k.span, a.v = v.span, a.q_heads = c.q_heads, a.kv_heads = c.kv_heads;
    a.head_dim = c.dim, a.eps = 1e-6f, a.offset = c.offset, a.cs = upload(cs), a.dims = c.dims;
    a.q_norm = c.norms ? upload(wq) : NULL, a.k_norm = c.norms ? upload(wk) : NULL;
    a.pairing = c.pairing, a.cache = p.c;
    if (c.dims == 0)
        a.cs = NULL;
    must(gpu_do_heads(&a, &w.step, &w.shape, NULL), c.name);
    must(cudaDeviceSynchronize(), c.name);
    fetch(q), fetch(k), fetch(v);
    std::vector<uint16_t> gotk = fetch_side(p.c.k, p.k.size());
    std::vector<uint16_t> gotv = fetch_side(p.c.v, p.v.size());
    uint64_t wrong = 0, written = 0;
    for (uint32_t r = 0; r < nrow; r++) {
        bool real = r < w.nrow && w.pos[r] >= 0;
        for (uint32_t h = 0; h < c.q_heads + c.kv_heads; h++) {
            bool is_q = h < c.q_heads;
            uint32_t head = is_q ? h : h - c.q_heads;
            const rows &from = is_q ? q0 : k0, &got = is_q ? q : k;
            std::vector<double> want = turned(c, from, r, head, is_q ? wq : wk, cs);
            for (uint32_t d = 0; d < c.dim; d++) {
                size_t col = (size_t)head * c.dim + d;
                wrong += real ? !near(got.get(r, col), want[d], c.type, 30)
                              : got.get(r, col) != from.get(r, col);
                if (is_q || !real)
                    continue;
                size_t at = p.at(w, (uint32_t)w.row_seq[r], (uint32_t)w.pos[r], head) + d;
                wrong += !near(half_value(gotk[at]), want[d], cache_type, 30);
                wrong += !near(half_value(gotv[at]), v0.get(r, col), cache_type, 30);
                wrong += v.get(r, col) != v0.get(r, col);
                written += 2;
            }
        }
    }
    for (size_t i = 0; i < gotk.size(); i++)
        written -= (gotk[i] != NAN_BITS) + (gotv[i] != NAN_BITS);
    bool guards = guards_stand(q, nrow) && guards_stand(k, nrow) && guards_stand(v, nrow);
    if (wrong > 0 || written != 0 || !guards) {
        printf("FAIL heads %s: found %llu wrong, %lld written too much, guards %d; wanted 0, 0, 1\n",
               c.name, (unsigned long long)wrong, -(long long)written, guards);
        failures++;
    } else {
        printf("ok heads %s\n", c.name);
    }
    give_all();
}

static void test_heads()
{
    run_heads({"flagship", 16, 2, 256, 16, TN_F16, 64, TN_ROPE_HALF, 1, 1.0f});
    run_heads({"pairs", 7, 1, 128, 8, TN_F16, 128, TN_ROPE_PAIRS, 0, 0.0f});
    run_heads({"half 96", 6, 2, 96, 24, TN_F32, 96, TN_ROPE_HALF, 1, 0.0f});
    run_heads({"half 64", 3, 3, 64, 32, TN_F16, 64, TN_ROPE_HALF, 0, 0.0f});
    run_heads({"part of 96", 3, 1, 96, 32, TN_F16, 24, TN_ROPE_HALF, 1, 0.0f});
    run_heads({"no rotation", 4, 2, 64, 16, TN_F16, 0, TN_ROPE_HALF, 1, 0.0f});
}

/* ------------------------------------------------------------------------------ E4M3 */

/* Thread i: code i to a half, and float i to its code. */
__global__ void convert(const float *x, uint32_t n, uint8_t *code, uint16_t *half)
{
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        code[i] = float_to_f8(x[i]);
    if (i < 256) { /* the neighbour tells whether bytes mix */
        uint32_t w = i << 16 | (i ^ 0x55) << 24 | (255 - i) << 8 | i;
        uint32_t low = f8_pair<0>(w), high = f8_pair<2>(w);
        half[4 * i] = (uint16_t)low, half[4 * i + 1] = (uint16_t)(low >> 16);
        half[4 * i + 2] = (uint16_t)high, half[4 * i + 3] = (uint16_t)(high >> 16);
    }
}

static void test_f8()
{
    std::vector<float> x = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1e-30f, 448.0f, 463.9f, 464.0f,
                            465.0f, 1e30f, -1e30f, ldexpf(1, -10), ldexpf(1.0001f, -10)};
    for (uint32_t c = 0; c < 0x7e; c++) {
        float low = (float)f8_value(c), high = (float)f8_value(c + 1), mid = (low + high) / 2;
        for (float v : {low, mid, nextafterf(mid, 0), nextafterf(mid, 1000)})
            x.push_back(v), x.push_back(-v);
    }
    uint32_t n = (uint32_t)x.size(), wrong = 0;
    uint8_t *code = (uint8_t *)take(n);
    uint16_t *half = (uint16_t *)take(1024 * 2);
    GPU_LAUNCH(convert, (n + 255) / 256, 256, 0, NULL, upload(x), n, code, half);
    must(cudaDeviceSynchronize(), "convert");
    std::vector<uint8_t> got = download(code, n);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t want = std::isnan(x[i]) ? got[i] | 0x7fu : f8_code((double)x[i]);
        if (got[i] != want && wrong++ < 3)
            printf("FAIL f8: %g: found %02x, wanted %02x\n", (double)x[i], got[i], want);
    }
    std::vector<uint16_t> halves = download(half, 1024);
    for (uint32_t i = 0; i < 1024; i++) {
        uint32_t c = i / 4, in[4] = {c, 255 - c, c, c ^ 0x55};
        double have = half_value(halves[i]), want = f8_value(in[i % 4]);
        bool same = std::isnan(want) ? std::isnan(have) : have == want;
        if (!same && wrong++ < 3)
            printf("FAIL f8: code %02x: found %g, wanted %g\n", in[i % 4], have, want);
    }
    printf(wrong == 0 ? "ok f8\n" : "FAIL f8: %u wrong\n", wrong);
    failures += wrong > 0;
    give_all();
}

#include "cuda_attend_bench.h"

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        bench(TN_F16);
        bench(TN_F8_E4M3);
        return 0;
    }
    test_offers();
    test_f8();
    for (uint32_t type : {TN_F16, TN_F8_E4M3}) {
        cache_type = type;
        printf("a cache of %s\n", type == TN_F16 ? "f16" : "e4m3");
        test_heads();
        test_decode();
        test_prefill();
        test_adversaries();
        test_shared_blocks();
    }
    if (failures > 0)
        printf("%d cases failed\n", failures);
    return failures > 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* pick.cuh - one block finds in a row of logits, without sorting it, where a number of columns
 * or a share of the probability ends.
 *
 * A row is seen in groups of 512 columns, each with its maximum, and groups that cannot hold
 * what is looked for are not read. Columns are ordered by what they are worth, of equals the
 * lower id first, and carry a weight: 1 to count them, exp(value) for their mass.
 *
 * A column's depth is a number of 64 bits that orders the same way, best first:
 *
 *     63            32 31             0
 *     | nats * 2^24   | ~ordered(x)   |      nats below the best, at most 255
 *
 * so its upper part is even in the logits and its lower part tells apart what is left. A sweep
 * over the row spreads an interval of depths over BINS bins and lists what it meets as long as
 * that is little; little is sorted, otherwise the bin where the sum ends is the next interval.
 * The first bins are a nat wide, thus one sweep is enough for most rows that models make, and
 * three or four for any that are not made to annoy. Sums take the same order in every run. */
#ifndef TN_CUDA_PICK_CUH
#define TN_CUDA_PICK_CUH

#include "chance.cuh"

#define GROUP 512u                /* columns; a lane has four in every 128 */
#define PICK_THREADS 512u
#define PICK_WARPS (PICK_THREADS / 32)
#define BINS 14u
#define LIST 2048u                /* columns that are sorted in shared memory */
#define LOWEST (-3.402823466e38f) /* the least number above -inf */

#ifdef TN_CUDASIM
#define NO_UNROLL
#else
#define NO_UNROLL _Pragma("unroll 1")
#endif

typedef struct group_record {
    float max;                    /* NaN and +inf in `sum` say that something is not finite */
    int32_t at;                   /* first column of the maximum */
    float sum;                    /* of exp(x - max), or of exp((x - max) / temperature) */
    int32_t racer;                /* winner of the group's race, NOBODY */
} __attribute__((aligned(16))) group_record;

typedef struct row_view {
    const float *x;               /* [valid] */
    const group_record *group;    /* [ngroup] */
    uint32_t ngroup, valid;
} row_view;

typedef struct pick_room {
    uint64_t list[LIST];          /* ordered bits of x, ~column: greatest first when sorted */
    float bin[BINS * PICK_THREADS]; /* [bin][thread] */
    double sum[BINS];
    uint64_t wide[PICK_WARPS + 1];
    double part[PICK_WARPS + 1];
    float narrow[33];
    racer race[PICK_WARPS + 1];
    uint32_t n;                   /* listed; more than LIST: not all of them */
    uint32_t found;
} pick_room;

/* -------------------------------------------------------------------------------- columns */

/* Bits that order as the numbers do; both zeros are one. Only -inf and NaN are below
 * ordered(LOWEST); 0 is nobody's. */
LANE uint32_t ordered(float x)
{
    uint32_t u = __float_as_uint(x + 0.0f);
    return (u >> 31) != 0 ? ~u : u | 0x80000000u;
}

LANE float ordered_back(uint32_t u)
{
    return __uint_as_float((u >> 31) != 0 ? u & 0x7fffffffu : ~u);
}

/* In nats below the best one. A temperature so low that 0 * inf: the best column. */
LANE float value_of(float x, float top, float inverse)
{
    float v = (x - top) * inverse;
    return v == v ? v + 0.0f : 0.0f;
}

/* Four columns from `col` on, a multiple of four; those that are padding are -inf. */
LANE float4 load_four(const float *row, uint32_t col, uint32_t valid)
{
    if (((uintptr_t)row & 15) == 0 && col + 4 <= valid)
        return *(const float4 *)(row + col);
    return make_float4(col < valid ? row[col] : -INFINITY,
                       col + 1 < valid ? row[col + 1] : -INFINITY,
                       col + 2 < valid ? row[col + 2] : -INFINITY,
                       col + 3 < valid ? row[col + 3] : -INFINITY);
}

template <typename F>
LANE void visit_group(const row_view &r, uint32_t col, float floor, F f)
{
    float4 now = load_four(r.x, col, r.valid), next = load_four(r.x, col + 128, r.valid),
           third = load_four(r.x, col + 256, r.valid), last = load_four(r.x, col + 384, r.valid);
    NO_UNROLL
    for (uint32_t i = 0; i < 4; i++, col += 128) {
        if (now.x >= floor)
            f(now.x, col);
        if (now.y >= floor)
            f(now.y, col + 1);
        if (now.z >= floor)
            f(now.z, col + 2);
        if (now.w >= floor)
            f(now.w, col + 3);
        now = next;
        next = third;
        third = last;
    }
}

/* f(x, column) for every column of at least `floor`, each on one thread, the same in every
 * run. Groups are dealt out to the warps in turn; the loads of one are on their way together,
 * but it is looked at four columns at a time, for f is long. */
template <typename F>
LANE void visit(const row_view &r, float floor, F f)
{
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (uint32_t first = warp; first < r.ngroup; first += 32 * PICK_WARPS) {
        uint32_t g = first + lane * PICK_WARPS;
        unsigned todo = __ballot_sync(FULL_WARP, g < r.ngroup && r.group[g].max >= floor);
        for (; todo != 0; todo &= todo - 1) {
            uint32_t from = (first + (uint32_t)(__ffs((int)todo) - 1) * PICK_WARPS) * GROUP;
            visit_group(r, from + lane * 4, floor, f);
        }
    }
}

/* -------------------------------------------------------------------------- over the block */

LANE uint64_t warp_greatest(uint64_t x)
{
    for (int i = 16; i > 0; i >>= 1) {
        uint64_t y = __shfl_xor_sync(FULL_WARP, x, i);
        x = y > x ? y : x;
    }
    return x;
}

LANE uint64_t block_greatest(uint64_t x, pick_room &r)
{
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    x = warp_greatest(x);
    if (lane == 0)
        r.wide[warp] = x;
    __syncthreads();
    if (warp == 0) {
        x = warp_greatest(lane < PICK_WARPS ? r.wide[lane] : 0);
        if (lane == 0)
            r.wide[PICK_WARPS] = x;
    }
    __syncthreads();
    x = r.wide[PICK_WARPS];
    __syncthreads();
    return x;
}

/* Sum of what the threads before this one hold; *all: of all. */
LANE double block_before(double x, double *all, pick_room &r)
{
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    double sum = x, before = 0;
    for (unsigned i = 1; i < 32; i *= 2) {
        double y = __shfl_up_sync(FULL_WARP, sum, i);
        sum += lane >= i ? y : 0.0;
    }
    if (lane == 31)
        r.part[warp] = sum;
    __syncthreads();
    *all = 0;
    for (uint32_t w = 0; w < PICK_WARPS; w++) {
        before = w == warp ? *all : before;
        *all += r.part[w];
    }
    __syncthreads();
    return before + (sum - x);
}

/* Sorts list[0, n), greatest first; a bitonic network, filled up with zeros. */
__device__ static void sort_list(uint64_t *list, uint32_t n)
{
    uint32_t width = 2;
    while (width < n)
        width *= 2;
    for (uint32_t i = n + threadIdx.x; i < width; i += PICK_THREADS)
        list[i] = 0;
    __syncthreads();
    for (uint32_t run = 2; run <= width; run *= 2)
        for (uint32_t step = run / 2; step > 0; step /= 2) {
            for (uint32_t i = threadIdx.x; i < width / 2; i += PICK_THREADS) {
                uint32_t a = i / step * 2 * step + i % step;
                uint64_t x = list[a], y = list[a + step];
                if ((x < y) == ((a & run) == 0)) {
                    list[a] = y;
                    list[a + step] = x;
                }
            }
            __syncthreads();
        }
}

LANE uint64_t list_entry(uint32_t bits, uint32_t col)
{
    return (uint64_t)bits << 32 | (uint32_t)~col;
}

LANE int32_t list_column(uint64_t entry)
{
    return (int32_t)~(uint32_t)entry;
}

/* Whoever calls meets a barrier before the list is read. Once it has run over nobody counts
 * on, for a whole row would queue for one word. */
LANE void list_add(pick_room &r, uint64_t entry)
{
    if (*(volatile uint32_t *)&r.n > LIST)
        return;
    uint32_t at = atomicAdd(&r.n, 1u);
    if (at < LIST)
        r.list[at] = entry;
}

/* ------------------------------------------------------------------------------ selecting */

/* Which columns take part, and what they weigh. */
typedef struct order {
    row_view row;
    float top, inverse;           /* value_of's */
    float floor, least;           /* x >= floor and value >= least take part */
    bool by_mass;                 /* ordered by value and weigh exp(value); else by x, and 1 */
} order;

/* The last column that is in: those of more than `worth`, and of equals up to column `last`. */
typedef struct place {
    float worth;
    int32_t last;
    bool cut;                     /* false: all are in */
} place;

/* Depths from .. from + span, 2^shift to a bin. */
typedef struct interval {
    uint64_t from, span;
    uint32_t shift;
} interval;

/* What a sweep met: how many, and the least and the greatest depth. */
typedef struct met {
    uint32_t n;
    uint64_t best, worst;
} met;

LANE bool takes_part(const order &o, float x, float *value)
{
    *value = value_of(x, o.top, o.inverse);
    return x >= o.floor && *value >= o.least;
}

LANE float weight_of(const order &o, float worth)
{
    return o.by_mass ? expf(worth) : 1.0f;
}

LANE uint64_t depth_of(float value, uint32_t bits)
{
    float nats = fminf(-value * 16777216.0f, 4278190080.0f);
    return (uint64_t)(uint32_t)nats << 32 | (uint32_t)~bits;
}

/* Adds up the bins, thread by thread in turn. */
LANE void sum_bins(pick_room &r)
{
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (warp < BINS) {
        double sum = 0;
        for (uint32_t i = lane; i < PICK_THREADS; i += 32)
            sum += (double)r.bin[warp * PICK_THREADS + i];
        for (int i = 16; i > 0; i >>= 1)
            sum += __shfl_xor_sync(FULL_WARP, sum, i);
        if (lane == 0)
            r.sum[warp] = sum;
    }
}

__device__ static met sweep(const order &o, const interval &in, pick_room &r)
{
    uint64_t best = 0, worst = 0; /* best: its complement, so that 0 is nothing */
    uint32_t n = 0;
    for (uint32_t b = 0; b < BINS; b++)
        r.bin[b * PICK_THREADS + threadIdx.x] = 0;
    if (threadIdx.x == 0)
        r.n = 0;
    __syncthreads();
    visit(o.row, o.floor, [&](float x, uint32_t col) {
        float value;
        if (!takes_part(o, x, &value))
            return;
        float worth = o.by_mass ? value : x;
        uint32_t bits = ordered(worth);
        uint64_t depth = depth_of(value, bits), into = depth - in.from;
        if (depth < in.from || into > in.span)
            return;
        r.bin[(uint32_t)(into >> in.shift) * PICK_THREADS + threadIdx.x] += weight_of(o, worth);
        best = ~depth > best ? ~depth : best;
        worst = depth > worst ? depth : worst;
        n++;
        list_add(r, list_entry(bits, col));
    });
    __syncthreads();
    sum_bins(r);
    met m;
    double all;
    block_before((double)n, &all, r);
    m.n = (uint32_t)all;
    m.best = ~block_greatest(best, r);
    m.worst = block_greatest(worst, r);
    return m;
}

/* The sum ends in the list, which is all of an interval. */
__device__ static place end_in_list(const order &o, uint32_t n, double before, double target,
                                    pick_room &r)
{
    const uint32_t each = (n + PICK_THREADS - 1) / PICK_THREADS, from = threadIdx.x * each;
    double mine = 0, all;
    sort_list(r.list, n);
    for (uint32_t i = from; i < from + each && i < n; i++)
        mine += (double)weight_of(o, ordered_back((uint32_t)(r.list[i] >> 32)));
    double sum = before + block_before(mine, &all, r);
    if (threadIdx.x == 0)
        r.found = n - 1;
    __syncthreads();
    for (uint32_t i = from; i < from + each && i < n; i++) {
        sum += (double)weight_of(o, ordered_back((uint32_t)(r.list[i] >> 32)));
        if (sum >= target) {
            atomicMin(&r.found, i);
            break;
        }
    }
    __syncthreads();
    uint64_t e = r.list[r.found];
    place p;
    p.worth = ordered_back((uint32_t)(e >> 32));
    p.last = list_column(e);
    p.cut = true;
    __syncthreads();
    return p;
}

/* The m-th column, m >= 1, of those that are worth the same. */
__device__ static int32_t nth_equal(const order &o, uint32_t bits, uint32_t m, pick_room &r)
{
    double seen = 0, all;
    for (uint32_t from = 0; from < o.row.valid; from += PICK_THREADS, seen += all) {
        uint32_t col = from + threadIdx.x;
        bool equal = false;
        if (col < o.row.valid) {
            float x = o.row.x[col], value;
            equal = takes_part(o, x, &value) && ordered(o.by_mass ? value : x) == bits;
        }
        double before = seen + block_before(equal ? 1.0 : 0.0, &all, r);
        if (seen + all < (double)m)
            continue;
        if (equal && before + 1 == (double)m)
            r.found = col;
        __syncthreads();
        int32_t found = (int32_t)r.found;
        __syncthreads();
        return found;
    }
    return INT32_MAX;
}

/* The sum ends among n columns of one worth. */
__device__ static place end_in_equals(const order &o, const met &m, double before,
                                      double target, pick_room &r)
{
    const uint32_t bits = ~(uint32_t)m.best;
    place p;
    p.cut = true;
    p.worth = ordered_back(bits);
    double count = ceil((target - before) / (double)weight_of(o, p.worth));
    count = count < 1 ? 1 : count > (double)m.n ? (double)m.n : count;
    p.last = nth_equal(o, bits, (uint32_t)count, r);
    return p;
}

/* The bin where the sum ends becomes the interval; the last that holds something if rounding
 * lets it end nowhere. */
LANE interval narrow(const interval &in, const met &m, double *before, double target,
                     const pick_room &r)
{
    double sum = *before;
    uint32_t at = 0;
    for (uint32_t b = 0; b < BINS; b++) {
        if (!(r.sum[b] > 0))
            continue;
        at = b;
        *before = sum;
        sum += r.sum[b];
        if (sum >= target)
            break;
    }
    interval next;
    uint64_t first = in.from + ((uint64_t)at << in.shift);
    uint64_t last = first + (((uint64_t)1 << in.shift) - 1);
    next.from = first > m.best ? first : m.best;
    next.span = (last < m.worst ? last : m.worst) - next.from;
    next.shift = 0;
    while (((uint64_t)BINS << next.shift) <= next.span)
        next.shift++;
    return next;
}

/* Three intervals hold all depths: 14 nats in bins of one, 224 more, and the rest. */
LANE interval first_interval(uint32_t i)
{
    interval in;
    in.from = i == 0 ? 0 : i == 1 ? (uint64_t)14 << 56 : (uint64_t)238 << 56;
    in.span = (i == 0 ? (uint64_t)14 << 56 : i == 1 ? (uint64_t)14 << 60 : (uint64_t)18 << 56) - 1;
    in.shift = i == 0 ? 56 : i == 1 ? 60 : 57;
    return in;
}

/* The first column, best first, at which the sum of weights reaches `target`. */
__device__ static place pick(const order &o, double target, pick_room &r)
{
    double before = 0;
    for (uint32_t i = 0; i < 3; i++) {
        interval in = first_interval(i);
        met m = sweep(o, in, r);
        double sum = before;
        for (uint32_t b = 0; b < BINS; b++)
            sum += r.sum[b];
        if (m.n == 0 || sum < target) {
            before = sum;
            __syncthreads();
            continue;
        }
        while (m.n > LIST && m.best != m.worst) {
            in = narrow(in, m, &before, target, r);
            __syncthreads();
            m = sweep(o, in, r);
        }
        return m.n <= LIST ? end_in_list(o, m.n, before, target, r)
                           : end_in_equals(o, m, before, target, r);
    }
    place p;
    p.worth = LOWEST;
    p.last = INT32_MAX;
    p.cut = false;
    return p;
}

/* What the k-th greatest column reaches at least: the k-th greatest maximum of a group. */
__device__ static float bound_of_kth(const row_view &row, uint32_t k, pick_room &r)
{
    if (k > row.ngroup || row.ngroup > LIST)
        return LOWEST;
    for (uint32_t g = threadIdx.x; g < row.ngroup; g += PICK_THREADS)
        r.list[g] = list_entry(ordered(row.group[g].max), g);
    sort_list(r.list, row.ngroup);
    float bound = ordered_back((uint32_t)(r.list[k - 1] >> 32));
    __syncthreads();
    return bound > LOWEST ? bound : LOWEST;
}

/* The k-th column of a row whose maximum is `top`, best first. */
__device__ static place pick_count(const row_view &row, float top, uint32_t k, pick_room &r)
{
    order o;
    o.row = row;
    o.top = top;
    o.inverse = 1;
    o.floor = bound_of_kth(row, k, r);
    o.least = -INFINITY;
    o.by_mass = false;
    return pick(o, (double)k, r);
}

/* ---------------------------------------------------------------------------------- racing */

/* The race of all that take part and lie before `last`; the winner in all threads. */
__device__ static int32_t race_row(const order &o, int32_t last, float lead, const chance &c,
                                   pick_room &r)
{
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    racer best = race_open();
    visit(o.row, o.floor, [&](float x, uint32_t col) {
        float value;
        if (takes_part(o, x, &value) && (value > o.least || (int32_t)col <= last))
            race_join(c, lead, value, col, &best);
    });
    best = race_warp(c, best);
    if (lane == 0)
        r.race[warp] = best;
    __syncthreads();
    if (warp == 0) {
        best = race_warp(c, lane < PICK_WARPS ? r.race[lane] : race_open());
        if (lane == 0)
            r.race[PICK_WARPS] = best;
    }
    __syncthreads();
    int32_t winner = r.race[PICK_WARPS].token;
    __syncthreads();
    return winner;
}

#endif

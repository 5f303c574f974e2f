/* SPDX-License-Identifier: Apache-2.0 */
/* linear.cu - LINEAR up to 16 rows; tall.cu beyond. */
#include "linear.cuh"
#include "walk.cuh"

/* The part that tile `tile` of all parts belongs to, and its tile there. */
LANE uint32_t part_of(const gpu_linear &a, uint32_t *tile)
{
    uint32_t i = 0;
    while (i + 1 < a.npart && *tile >= a.part[i].w.ntile) {
        *tile -= a.part[i].w.ntile;
        i++;
    }
    return i;
}

/* What a block of sums is written from, one value a turn: row r of a tile for row i of x. */
typedef struct result_place {
    uint32_t part, tile, r, i, side; /* side: which of the warp's tiles */
    bool pair;
} result_place;

/* Place `v` of the T tiles from `tile0` on that the warps of a seat share; false: none. */
template <int T>
LANE bool find_result(const gpu_linear &a, uint32_t tile0, uint32_t all, uint32_t m, uint32_t v,
                      result_place *p)
{
    p->side = v / (16 * m);
    p->tile = tile0 + p->side;
    if (p->side >= T || p->tile >= all)
        return false;
    p->part = part_of(a, &p->tile);
    p->r = v % 16;
    p->i = v / 16 % m;
    p->pair = a.part[p->part].act != 0;
    return !p->pair || p->r < 8;
}

/* WARPS warps: as many seats as fit in of 2^log warps, which share T tiles. */
template <int FORM, int NT, bool ZEROS, int HOW, int T, int U, int WARPS>
__global__ void __launch_bounds__(WARPS * 32, WARPS == 8 ? 2 : 1)
skinny_kernel(const gpu_linear a, const gpu_step s, uint32_t log, uint32_t all)
{
    __shared__ float room[WARPS * T * NT * 128];
    const uint32_t warp = threadIdx.x / 32, nwarp = 1u << log;
    const uint32_t seat = warp >> log, first = warp & (nwarp - 1);
    const uint32_t tile0 = (blockIdx.x * (WARPS >> log) + seat) * T, row0 = blockIdx.y * NT * 8;
    tile_place at[T];
    product p;
    UNROLL for (int i = 0; i < T; i++) {
        uint32_t tile = tile0 + i < all ? tile0 + i : all - 1;
        p = product_of(a.part[part_of(a, &tile)].w, 0);
        at[i] = place_of<FORM>(p, tile);
    }
    share<FORM, HOW, ZEROS, T, U> loads;
    load_share<FORM, HOW, ZEROS, T, U>(p, at, first * U, &loads);
    const uint32_t m = s.count[a.rows];
    wait_for_earlier();
    start_next();
    if (row0 >= m)
        return;
    p.x = (const __half *)a.x + (uint64_t)row0 * a.ldx;
    p.ldx = a.ldx;
    p.k = a.k;
    p.m = m - row0 < NT * 8 ? m - row0 : NT * 8;
    const uint32_t threads = nwarp * 32, me = threadIdx.x & (threads - 1);
    result_place to;
    float before = 0;             /* what the first result is added to: it need not wait */
    if (a.add && find_result<T>(a, tile0, all, p.m, me, &to))
        before = sum_before(a, a.part[to.part], to.tile, to.r, row0 + to.i);
    float c[T][NT][4] = {};
    use_shares<FORM, HOW, ZEROS, T, NT, U>(p, at, &loads, first, nwarp, c);
    leave_sums<T, NT>(c, room);
    __syncthreads();
    for (uint32_t v = me; v < 16 * T * p.m; v += threads) {
        if (!find_result<T>(a, tile0, all, p.m, v, &to))
            continue;
        const gpu_linear_part &part = a.part[to.part];
        float sum = meet_sums<T, NT>(room, seat * nwarp, nwarp, to.side, to.r, to.i);
        if (to.pair) {
            put_pair(part, to.tile, to.r, row0 + to.i, sum,
                     meet_sums<T, NT>(room, seat * nwarp, nwarp, to.side, to.r + 8, to.i));
            continue;
        }
        if (a.add && v != me)
            before = sum_before(a, part, to.tile, to.r, row0 + to.i);
        put_sum_on(part, to.tile, to.r, row0 + to.i, sum, before);
    }
}

static uint32_t tiles_of(const gpu_linear *a)
{
    uint32_t tiles = 0;
    for (uint32_t i = 0; i < a->npart; i++)
        tiles += a->part[i].w.ntile;
    return tiles;
}

template <int FORM, int NT, bool ZEROS, int HOW, int T, int WARPS>
static cudaError_t launch(const gpu_linear *a, const gpu_step *s, uint32_t rows, uint32_t tiles,
                          cudaStream_t stream)
{
    constexpr int U = NT > 2 ? ahead<FORM>::blocks / 2 : ahead<FORM>::blocks;
    const gpu_linear args = *a;
    const gpu_step step = *s;
    uint32_t nwarp = warps_a_tile(a->part[0].w.cols, U, WARPS), block = WARPS / nwarp * T;
    dim3 grid((tiles + block - 1) / block, (rows + NT * 8 - 1) / (NT * 8));
    GPU_LAUNCH_EARLY((skinny_kernel<FORM, NT, ZEROS, HOW, T, U, WARPS>), grid, WARPS * 32, 0, stream,
                     args, step, log_of(nwarp), tiles);
    return cudaGetLastError();
}

/* ------------------------------------------------------------------------------- walking */

/* Where a lane walks: the tile of all parts, its place, and how many follow it in its part. */
typedef struct walker {
    tile_place at;
    uint32_t tile, left;
} walker;

/* At tile `tile`; what is behind the last is the last. */
template <int FORM>
LANE void walk_from(const gpu_linear &a, uint32_t tile, uint32_t all, product *p, walker *w)
{
    w->tile = tile < all ? tile : all - 1;
    uint32_t in = w->tile;
    const gpu_matrix &m = a.part[part_of(a, &in)].w;
    *p = product_of(m, 0);
    w->at = place_of<FORM>(*p, in);
    w->left = m.ntile - 1 - in;
}

template <int FORM>
LANE void walk_on(const gpu_linear &a, uint32_t all, product *p, walker *w)
{
    if (w->left == 0) {
        walk_from<FORM>(a, w->tile + 1, all, p, w);
        return;
    }
    w->tile++;
    w->left--;
    step_on<FORM>(*p, &w->at);
}

/* What the group of `n` tiles from tile0 on gives, by the threads of its seat. */
LANE void put_group(const gpu_linear &a, uint32_t tile0, uint32_t n, uint32_t all, uint32_t m,
                    uint32_t seat, uint32_t nwarp, const float *room)
{
    const uint32_t threads = nwarp * 32, me = threadIdx.x & (threads - 1);
    for (uint32_t v = me; v < 16 * m * n; v += threads) {
        const uint32_t r = v % 16, place = v / 16 / m, i = v / 16 - place * m;
        uint32_t tile = tile0 + place;
        if (tile >= all)
            return;
        const gpu_linear_part &part = a.part[part_of(a, &tile)];
        if (part.act && r >= 8)
            continue;
        float sum = walk_sum(room, seat * nwarp, nwarp, place, r, i);
        if (part.act)
            put_pair(part, tile, r, i, sum, walk_sum(room, seat * nwarp, nwarp, place, r + 8, i));
        else
            put_sum(a, part, tile, r, i, sum);
    }
}

/* Blocks of a walk on a multiprocessor: two tiles of 8-bit codes and x want twice the registers,
 * and are as many bytes on their way. */
template <int FORM, int WARPS> struct walk_blocks {
    static constexpr int count = WARPS == 8 && FORM == TN_FORM_W4G ? 2 : 1;
};

/* A seat walks `length` tiles. */
template <int FORM, bool ZEROS, int HOW, int WARPS>
__global__ void __launch_bounds__(WARPS * 32, (walk_blocks<FORM, WARPS>::count))
walking_kernel(const gpu_linear a, const gpu_step s, uint32_t log, uint32_t all, uint32_t length)
{
    constexpr int U = ahead<FORM>::blocks;
    __shared__ float room[WARPS * WALK_GROUP * 128];
    const uint32_t warp = threadIdx.x / 32, nwarp = 1u << log, seat = warp >> log;
    const uint32_t b0 = (warp & (nwarp - 1)) * U;
    const uint32_t tile0 = (blockIdx.x * (WARPS >> log) + seat) * length;
    share<FORM, HOW, ZEROS, 1, U> one, two;
    product p;
    walker w;
    walk_from<FORM>(a, tile0, all, &p, &w);
    load_share<FORM, HOW, ZEROS, 1, U>(p, &w.at, b0, &one);
    if (length > 1) {
        walk_on<FORM>(a, all, &p, &w);
        load_share<FORM, HOW, ZEROS, 1, U>(p, &w.at, b0, &two);
    }
    const uint32_t rows = s.count[a.rows], m = rows < 8 ? rows : 8;
    wait_for_earlier();
    start_next();
    p.x = (const __half *)a.x;
    p.ldx = a.ldx;
    p.k = a.k;
    p.m = m;
    if (m == 0)
        return;
    const bool mine = b0 < p.nblock;
    uint4 x[2 * U];
    load_rows<U>(p, b0, x);
    for (uint32_t i = 0; i < length; i += 2) {
        walk_tile<FORM, HOW, ZEROS, U>(one, x, mine, i % WALK_GROUP, room);
        if (i + 2 < length) {
            walk_on<FORM>(a, all, &p, &w);
            load_share<FORM, HOW, ZEROS, 1, U>(p, &w.at, b0, &one);
        }
        if (i + 1 < length)
            walk_tile<FORM, HOW, ZEROS, U>(two, x, mine, (i + 1) % WALK_GROUP, room);
        if (i + 3 < length) {
            walk_on<FORM>(a, all, &p, &w);
            load_share<FORM, HOW, ZEROS, 1, U>(p, &w.at, b0, &two);
        }
        if (i + 2 < length && (i + 2) % WALK_GROUP != 0)
            continue;
        const uint32_t group = i / WALK_GROUP * WALK_GROUP;
        __syncthreads();
        put_group(a, tile0 + group, length - group < WALK_GROUP ? length - group : WALK_GROUP,
                  all, m, seat, nwarp, room);
        __syncthreads();
    }
}

template <int FORM, bool ZEROS, int HOW, int WARPS>
static cudaError_t launch_walk(const gpu_linear *a, const gpu_step *s, uint32_t tiles,
                               uint32_t nsm, cudaStream_t stream)
{
    const gpu_linear args = *a;
    const gpu_step step = *s;
    const uint32_t nwarp = warps_a_tile(a->part[0].w.cols, ahead<FORM>::blocks, WARPS);
    const uint32_t seats = WARPS / nwarp;
    const uint32_t length = walk_length(tiles, seats, walk_blocks<FORM, WARPS>::count * nsm);
    if (length == 1)              /* nowhere to walk to */
        return launch<FORM, 1, ZEROS, HOW, 1, WARPS>(a, s, 8, tiles, stream);
    GPU_LAUNCH_EARLY((walking_kernel<FORM, ZEROS, HOW, WARPS>),
                     (tiles + seats * length - 1) / (seats * length), WARPS * 32, 0, stream, args,
                     step, log_of(nwarp), tiles, length);
    return cudaGetLastError();
}

/* ------------------------------------------------------------------------------ launchers */

/* Blocks of 16 warps where there are columns for so many, of 16-bit weights only where the tiles
 * are too few for two blocks of 8 on every multiprocessor. */
template <int FORM, int NT, bool ZEROS, int HOW>
static cudaError_t choose_shape(const gpu_linear *a, const gpu_step *s, uint32_t rows,
                                uint32_t nsm, cudaStream_t stream)
{
    constexpr int MANY_WARPS = HOW == SCALE_32 ? 8 : 16;
    constexpr bool WALKS = FORM != TN_FORM_F16 && HOW != SCALE_32;
    const uint32_t tiles = tiles_of(a), cols = a->part[0].w.cols;
    const bool many = MANY_WARPS == 16 && warps_a_tile(cols, ahead<FORM>::blocks, 16) == 16 &&
                      (FORM != TN_FORM_F16 || tiles <= 2 * nsm);
    if (WALKS && NT == 1 && walks(a->part[0].w, FORM == TN_FORM_W4G && many ? 16 : 8)) {
        constexpr int FORM4 = WALKS ? FORM : TN_FORM_W4G, HOW4 = WALKS ? HOW : SCALE_64;
        constexpr int MANY4 = FORM == TN_FORM_W4G ? 16 : 8;
        return many ? launch_walk<FORM4, ZEROS, HOW4, MANY4>(a, s, tiles, nsm, stream)
                    : launch_walk<FORM4, ZEROS, HOW4, 8>(a, s, tiles, nsm, stream);
    }
    constexpr int T = NT == 1 && FORM == TN_FORM_W4G && HOW != SCALE_32 && HOW != SCALE_128 ? 2 : 1;
    return many ? launch<FORM, NT, ZEROS, HOW, T, MANY_WARPS>(a, s, rows, tiles, stream)
                : launch<FORM, NT, ZEROS, HOW, 1, 8>(a, s, rows, tiles, stream);
}

template <int FORM, bool ZEROS, int HOW>
static cudaError_t choose_rows(const gpu_linear *a, const gpu_step *s, uint32_t rows,
                               uint32_t nsm, cudaStream_t stream)
{
    return rows <= 8 ? choose_shape<FORM, 1, ZEROS, HOW>(a, s, rows, nsm, stream)
                     : choose_shape<FORM, 2, ZEROS, HOW>(a, s, rows, nsm, stream);
}

/* Up to 64 rows of few 16-bit weights: a block reads all of x, so more tiles are dearer here than
 * in tall blocks. */
static cudaError_t choose_many(const gpu_linear *a, const gpu_step *s, uint32_t rows,
                               cudaStream_t stream)
{
    uint32_t tiles = tiles_of(a);
    return rows <= 32 ? launch<TN_FORM_F16, 4, false, SCALE_64, 1, 8>(a, s, rows, tiles, stream)
                      : launch<TN_FORM_F16, 8, false, SCALE_64, 1, 8>(a, s, rows, tiles, stream);
}

template <int FORM, bool ZEROS>
static cudaError_t choose_scales(const gpu_linear *a, const gpu_step *s, uint32_t rows,
                                 uint32_t nsm, cudaStream_t stream)
{
    int how = scales_of(a->part[0].w);
    if (how == SCALE_QUAD)
        return choose_rows<FORM, ZEROS, SCALE_QUAD>(a, s, rows, nsm, stream);
    constexpr int SOME = FORM == TN_FORM_W4G ? SCALE_64 : SCALE_32;
    constexpr int MOST = FORM == TN_FORM_W4G ? SCALE_128 : SCALE_32;
    if (how == SCALE_64 && a->part[0].w.group % 128 == 0)
        return choose_rows<FORM, ZEROS, MOST>(a, s, rows, nsm, stream);
    if (how == SCALE_64)
        return choose_rows<FORM, ZEROS, SOME>(a, s, rows, nsm, stream);
    return choose_rows<FORM, ZEROS, SCALE_32>(a, s, rows, nsm, stream);
}

extern "C" cudaError_t gpu_do_linear(const gpu_linear *a, const gpu_step *s, uint32_t rows_most,
                                     uint32_t nsm, cudaStream_t stream)
{
    const gpu_matrix *w = &a->part[0].w;
    if (rows_most > (w->form == TN_FORM_F16 ? SKINNY_ROWS_F16 : SKINNY_ROWS))
        return linear_tall(a, s, rows_most, nsm, stream);
    if (w->form == TN_FORM_F16 && rows_most > SKINNY_ROWS)
        return tiles_of(a) <= nsm ? choose_many(a, s, rows_most, stream)
                                  : linear_tall(a, s, rows_most, nsm, stream);
    if (w->form == TN_FORM_F16)
        return choose_rows<TN_FORM_F16, false, SCALE_64>(a, s, rows_most, nsm, stream);
    if (w->form == TN_FORM_W8G)
        return w->zero != NULL ? choose_scales<TN_FORM_W8G, true>(a, s, rows_most, nsm, stream)
                               : choose_scales<TN_FORM_W8G, false>(a, s, rows_most, nsm, stream);
    return w->zero != NULL ? choose_scales<TN_FORM_W4G, true>(a, s, rows_most, nsm, stream)
                           : choose_scales<TN_FORM_W4G, false>(a, s, rows_most, nsm, stream);
}

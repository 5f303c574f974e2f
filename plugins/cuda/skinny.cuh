/* SPDX-License-Identifier: Apache-2.0 */
/* skinny.cuh - up to 16 rows: a warp's share of some tiles' columns, and where the shares meet.
 *
 * Nothing but bytes on their way makes this fast. A warp takes T tiles of 16 weight rows by some
 * blocks of 64 columns, and issues all loads of such a share before the first product, those of
 * the first share before it waits for the kernel that makes x. The warps of a tile leave their
 * sums in shared memory, where they are added in order. Whole codes are summed, and the sums of
 * 32 to 128 columns scaled in fp32. How many tiles a warp takes changes no bit; how many warps share a
 * tile does, and follows from the matrix alone. */
#ifndef TN_CUDA_SKINNY_CUH
#define TN_CUDA_SKINNY_CUH

#include "matmul.cuh"

#define SKINNY_ROWS 16u          /* most rows, of weights in 16 bits: */
#define SKINNY_ROWS_F16 64u

/* How the scales of a share are loaded: one for every 32 columns, for every 64 or 128, or all
 * four groups of 32 that lie side by side at once. */
enum { SCALE_32, SCALE_64, SCALE_QUAD, SCALE_128 };

/* Halves of a block, 32 columns, that are summed before their scale is applied. */
template <int HOW> struct halves { static constexpr uint32_t count = 1; };
template <> struct halves<SCALE_64> { static constexpr uint32_t count = 2; };
template <> struct halves<SCALE_128> { static constexpr uint32_t count = 4; };

/* Blocks of 64 columns in a share, where the rows leave the registers for it. */
template <int FORM> struct ahead;
template <> struct ahead<TN_FORM_W4G> { static constexpr uint32_t blocks = 4; };
template <> struct ahead<TN_FORM_W8G> { static constexpr uint32_t blocks = 4; };
template <> struct ahead<TN_FORM_F16> { static constexpr uint32_t blocks = 4; };

/* Where a lane finds its part of a tile. */
typedef struct tile_place {
    const uint8_t *codes;
    const uint16_t *scale;
    const uint8_t *zero;
} tile_place;

template <int FORM>
LANE tile_place place_of(const product &p, uint32_t tile)
{
    const uint32_t lane = threadIdx.x % 32;
    const uint64_t at = (uint64_t)tile * p.nquad * 64 + lane / 4 * 8;
    tile_place t;
    t.codes = p.codes + (uint64_t)tile * p.nblock * (form_words<FORM>::count * 512) + lane * 16;
    t.scale = p.scale + at;
    t.zero = p.zero + at;
    return t;
}

/* Codes, scales and zeros of a share on their way to registers. */
template <int FORM, int HOW, bool ZEROS, int T, int U>
struct share {
    static constexpr uint32_t W = form_words<FORM>::count;
    static constexpr uint32_t S = FORM == TN_FORM_F16 ? 1 : 2 * U / halves<HOW>::count;
    static constexpr uint32_t Z = !ZEROS ? 1 : HOW == SCALE_QUAD ? U : 2 * U / halves<HOW>::count;
    uint4 w[T][U * W];
    uint32_t scale[T][S], zero[T][Z];
};

/* Where the scale of columns from `col` on lies, from the tile's first. */
template <int HOW>
LANE uint32_t group_place(const product &p, uint32_t col)
{
    uint32_t g;
    if (HOW != SCALE_32)
        g = p.group == 0 ? 0 : col >> (31 - __clz((int)p.group));
    else
        g = p.group == 0 ? 0 : col / p.group;
    return g / 4 * 64 + g % 4 * 2;
}

/* WHOLE: all blocks of the share are there; else the last one stands for those that are not. */
template <int FORM, int HOW, bool ZEROS, int T, int U, bool WHOLE>
LANE void load_scales(const product &p, const tile_place tile[T], uint32_t b0,
                      share<FORM, HOW, ZEROS, T, U> *s)
{
    typedef share<FORM, HOW, ZEROS, T, U> shape;
    const uint32_t step = HOW == SCALE_QUAD ? 4 : halves<HOW>::count;
    UNROLL for (uint32_t h = 0; h < 2 * U; h += step) {
        uint32_t b = WHOLE || b0 + h / 2 < p.nblock ? b0 + h / 2 : p.nblock - 1;
        uint32_t at = HOW == SCALE_QUAD ? b / 2 * 64
                                        : group_place<HOW>(p, b * 64 + h % 2 * 32);
        UNROLL for (int i = 0; i < T; i++) {
            if (HOW == SCALE_QUAD) {
                uint4 v = load_once(tile[i].scale + at);
                s->scale[i][h] = v.x;
                s->scale[i][(h + 1) % shape::S] = v.y;
                s->scale[i][(h + 2) % shape::S] = v.z;
                s->scale[i][(h + 3) % shape::S] = v.w;
            } else {
                s->scale[i][h / step] = __ldg((const uint32_t *)(tile[i].scale + at));
            }
            if (ZEROS && HOW == SCALE_QUAD) {
                uint2 v = __ldg((const uint2 *)(tile[i].zero + at));
                s->zero[i][h / 2 % shape::Z] = v.x;
                s->zero[i][(h / 2 + 1) % shape::Z] = v.y;
            } else if (ZEROS) {
                s->zero[i][h / step % shape::Z] =
                    __ldg((const uint16_t *)(tile[i].zero + at));
            }
        }
    }
}

template <int FORM, int HOW, bool ZEROS, int T, int U, bool WHOLE>
LANE void load_part(const product &p, const tile_place tile[T], uint32_t b0,
                    share<FORM, HOW, ZEROS, T, U> *s)
{
    typedef share<FORM, HOW, ZEROS, T, U> shape;
    UNROLL for (uint32_t u = 0; u < U; u++) {
        uint32_t b = WHOLE || b0 + u < p.nblock ? u : p.nblock - 1 - b0;
        UNROLL for (int i = 0; i < T; i++) {
            const uint8_t *from = tile[i].codes + (uint64_t)b0 * (shape::W * 512);
            UNROLL for (uint32_t j = 0; j < shape::W; j++)
                s->w[i][u * shape::W + j] = load_once(from + b * (shape::W * 512) + j * 512);
        }
    }
    if (FORM != TN_FORM_F16)
        load_scales<FORM, HOW, ZEROS, T, U, WHOLE>(p, tile, b0, s);
}

template <int FORM, int HOW, bool ZEROS, int T, int U>
LANE void load_share(const product &p, const tile_place tile[T], uint32_t b0,
                     share<FORM, HOW, ZEROS, T, U> *s)
{
    if (b0 + U <= p.nblock)
        load_part<FORM, HOW, ZEROS, T, U, true>(p, tile, b0, s);
    else if (b0 < p.nblock)
        load_part<FORM, HOW, ZEROS, T, U, false>(p, tile, b0, s);
}

/* Zeros of the columns of half block h. */
template <int FORM, int HOW, bool ZEROS, int T, int U>
LANE zeros zeros_in(const share<FORM, HOW, ZEROS, T, U> &s, int i, uint32_t h)
{
    typedef share<FORM, HOW, ZEROS, T, U> shape;
    if (!ZEROS)
        return zeros_of_bytes(FORM == TN_FORM_W8G ? 0x8080 : 0x0808);
    return zeros_of_bytes(HOW == SCALE_QUAD ? s.zero[i][h / 2 % shape::Z] >> h % 2 * 16
                                            : s.zero[i][h / halves<HOW>::count % shape::Z]);
}

/* c += the sums of one scale's columns. */
LANE void add_scaled(uint32_t scale, const float d[4], float c[4])
{
    const float s0 = __low2float(half2_of(scale)), s1 = __high2float(half2_of(scale));
    c[0] += s0 * d[0];
    c[1] += s0 * d[1];
    c[2] += s1 * d[2];
    c[3] += s1 * d[3];
}

/* c[tile][8-row group][4], as mma_f16 has it, += the share times rows of x, which begin with the
 * share's first column; `left` of it are there for the lane, what is behind them is zero. */
template <int FORM, int HOW, bool ZEROS, int T, int NT, int U>
LANE void use_share(const share<FORM, HOW, ZEROS, T, U> &s, const __half *const x[NT],
                    int32_t left, float c[T][NT][4])
{
    typedef share<FORM, HOW, ZEROS, T, U> shape;
    const uint32_t many = halves<HOW>::count;
    float d[T][NT][4];
    UNROLL for (uint32_t h = 0; h < 2 * U; h++) {
        uint4 v[NT];
        UNROLL for (int n = 0; n < NT; n++) {
            v[n] = make_uint4(0, 0, 0, 0);
            if ((int32_t)h * 32 < left)
                v[n] = *(const uint4 *)(x[n] + h * 32);
        }
        UNROLL for (int i = 0; i < T; i++) {
            uint32_t a[2][4];
            zeros z = {};
            if (FORM != TN_FORM_F16)
                z = zeros_in<FORM, HOW, ZEROS, T, U>(s, i, h);
            make_operands<FORM>(s.w[i] + h / 2 * shape::W, h % 2, z, a);
            UNROLL for (int n = 0; n < NT; n++) {
                const uint32_t lo[2] = {v[n].x, v[n].y}, hi[2] = {v[n].z, v[n].w};
                float *to = FORM == TN_FORM_F16 ? c[i][n] : d[i][n];
                if (h % many == 0)
                    UNROLL for (int j = 0; j < 4; j++)
                        d[i][n][j] = 0;
                mma_f16(to, a[0], lo);
                mma_f16(to, a[1], hi);
                if (FORM != TN_FORM_F16 && h % many == many - 1)
                    add_scaled(s.scale[i][h / many % shape::S], d[i][n], c[i][n]);
            }
        }
    }
}

/* All shares of a warp, the first one loaded: blocks from `first` shares on, `stride` shares
 * from one to the next, and one more on its way where registers are left. Sums of rows that are
 * not there are made of row 0 and mean nothing. */
template <int FORM, int HOW, bool ZEROS, int T, int NT, int U>
LANE void use_shares(const product &p, const tile_place tile[T],
                     share<FORM, HOW, ZEROS, T, U> *s, uint32_t first, uint32_t stride,
                     float c[T][NT][4])
{
    const uint32_t g = threadIdx.x % 32 / 4, t8 = threadIdx.x % 4 * 8;
    const int32_t end = (int32_t)(p.k < p.nblock * 64 ? p.k : p.nblock * 64) - (int32_t)t8;
    constexpr bool LOADS_TWO = FORM == TN_FORM_W4G && T * NT == 1 && HOW == SCALE_128;
    const __half *x[NT];
    UNROLL for (int n = 0; n < NT; n++)
        x[n] = x_row(p, n * 8 + g < p.m ? n * 8 + g : 0) + (first * U * 64 + t8);
    for (uint32_t b0 = first * U; b0 < p.nblock;) {
        const uint32_t next = b0 + stride * U;
        share<FORM, HOW, ZEROS, T, U> two;
        if (LOADS_TWO)
            load_share<FORM, HOW, ZEROS, T, U>(p, tile, next, &two);
        use_share<FORM, HOW, ZEROS, T, NT, U>(*s, x, end - (int32_t)b0 * 64, c);
        UNROLL for (int n = 0; n < NT; n++)
            x[n] += stride * U * 64;
        b0 = LOADS_TWO ? next + stride * U : next;
        load_share<FORM, HOW, ZEROS, T, U>(p, tile, b0, s);
        if (!LOADS_TWO || next >= p.nblock)
            continue;
        use_share<FORM, HOW, ZEROS, T, NT, U>(two, x, end - (int32_t)next * 64, c);
        UNROLL for (int n = 0; n < NT; n++)
            x[n] += stride * U * 64;
    }
}

/* Leaves a warp's sums where the other warps of its tiles look: room [warps][T][NT * 4][32]. */
template <int T, int NT>
LANE void leave_sums(const float c[T][NT][4], float *room)
{
    float *mine = room + threadIdx.x / 32 * (T * NT * 128) + threadIdx.x % 32;
    UNROLL for (int i = 0; i < T * NT * 4; i++)
        mine[i * 32] = c[i / 4 / NT][i / 4 % NT][i % 4];
}

/* Row r of tile i and row n of x, summed over `nwarp` warps from `warp0` on, in order. */
template <int T, int NT>
LANE float meet_sums(const float *room, uint32_t warp0, uint32_t nwarp, uint32_t i, uint32_t r,
                     uint32_t n)
{
    uint32_t lane = r % 8 * 4 + n % 8 / 2, reg = i * NT * 4 + n / 8 * 4 + r / 8 * 2 + n % 2;
    float sum = 0;
    for (uint32_t w = 0; w < nwarp; w++)
        sum += room[((warp0 + w) * (T * NT * 4) + reg) * 32 + lane];
    return sum;
}

/* Warps that share a tile's columns: as many, up to `most`, as there are shares for. */
static inline uint32_t warps_a_tile(uint32_t cols, uint32_t blocks, uint32_t most)
{
    uint32_t n = most;
    while (n > 1 && cols / 64 <= n / 2 * blocks)
        n /= 2;
    return n;
}

/* A power of two, for kernels, which would have to divide by it. */
static inline uint32_t log_of(uint32_t n)
{
    uint32_t log = 0;
    while (n > 1u << log)
        log++;
    return log;
}

/* How the scales of a matrix are loaded. */
static inline int scales_of(const gpu_matrix &w)
{
    if (w.group == 32 && w.cols > 32)
        return SCALE_QUAD;
    return w.group >= w.cols || (w.group % 64 == 0 && (w.group & (w.group - 1)) == 0) ? SCALE_64
                                                                                     : SCALE_32;
}

#endif

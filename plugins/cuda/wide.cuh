/* SPDX-License-Identifier: Apache-2.0 */
/* wide.cuh - tiles of a packed matrix times up to 256 rows of halves, by warpgroups, for wide.cu
 * and wideexperts.cu.
 *
 * A block is two warpgroups that multiply, 64 weight rows each, a tile a warp, and four warps
 * that feed them: rows of x go through shared memory, a stage for each of the four, and are
 * operands from there. A warp's codes come straight from memory, some blocks of 64 columns
 * ahead, and become scaled halves in registers while the products before run. Whoever writes
 * what products read must wait until all its loads have come before they may see it; therefore
 * those that multiply copy nothing, and each that feeds has one stage.
 *
 * The packed order gives lane t of four columns 8 t .. 8 t + 7 of every 32, but the product wants
 * pairs of columns lane by lane: so x comes turned (turned_column in matrix.cuh). */
#ifndef TN_CUDA_WIDE_CUH
#define TN_CUDA_WIDE_CUH

#include "tall.cuh"
#include "warpgroup.cuh"

#define WIDE_SUMMERS 256u      /* threads that multiply; then come those that feed */
#define WIDE_FEEDERS 4u        /* warps and stages */
#define WIDE_THREADS (WIDE_SUMMERS + 32 * WIDE_FEEDERS)
#define WIDE_FEED_REGISTERS 40 /* of 168 at the launch, what feeders keep and summers get */
#define WIDE_SUM_REGISTERS 232
#define WIDE_TILES 8u
#define WIDE_CHUNK 64          /* rows of x whose sums are put out together */
#define WIDE_LD 132            /* floats from one of these rows to the next: no bank twice */

/* Barriers of the block: a stage is full, for each warpgroup; a stage is empty; feeders; summers. */
enum { WIDE_FULL = 1, WIDE_EMPTY = WIDE_FULL + 2 * WIDE_FEEDERS,
       WIDE_FED = WIDE_EMPTY + WIDE_FEEDERS, WIDE_SUMMED };

/* A product with N rows of x: blocks of 64 columns a commit and a stage, and codes ahead. Shared
 * memory: the ring, then the sums. */
template <int N>
struct wide {
    static constexpr uint32_t turn = N > 128 ? 1 : 2, blocks = N > 128 ? 1 : N > 64 ? 2 : 4;
    static constexpr uint32_t block = N * 128, stage = block * blocks;
    static constexpr uint32_t ring = stage * WIDE_FEEDERS;
    static constexpr uint32_t sums = (N < WIDE_CHUNK ? N : WIDE_CHUNK) * WIDE_LD * 4;
    static constexpr uint32_t shared = (ring > sums ? ring : sums) + 1024; /* to align it */
};

/* Blocks of codes on their way, whole stages. */
template <int FORM, int N>
struct wide_codes {
    static constexpr uint32_t ahead = N > 128 || (FORM == TN_FORM_F16 && N > 64) ? 2
                                    : FORM == TN_FORM_W4G && N <= 32 ? 8 : 4;
};

/* True when this card runs products of warpgroups and this build has them. */
static inline bool wide_offered(void)
{
#if defined(TN_CUDASIM) || defined(TN_CUDA_WARPGROUPS)
    int device = 0, major = 0, minor = 0;
#ifndef TN_CUDASIM
    if (cudaGetDevice(&device) != cudaSuccess)
        return false;
#endif
    return cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) ==
               cudaSuccess &&
           cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) ==
               cudaSuccess && major == 9 && minor == 0;
#else
    return false;
#endif
}

/* wide.cu: turns k columns of `rows` rows, of kind `kind`, into `out` [rows, cols]; columns from
 * k on become 0. May be done in place. */
cudaError_t wide_turn(const uint16_t *x, uint32_t ldx, uint32_t k, uint32_t cols, uint16_t *out,
                      uint32_t kind, const gpu_step *s, uint32_t rows, cudaStream_t stream);

LANE uint8_t *aligned_ring(uint8_t *shared)
{
    return shared + (1024 - (uintptr_t)shared % 1024) % 1024;
}

#if WARPGROUPS

/* Stage by stage of the rows of x into the ring, by the warps that feed; a lane copies piece
 * lane % 8 of rows lane / 8, lane / 8 + 4, ... `at`: room for N, where those rows lie, in 16
 * bytes from p.x, side by side. Rows that are not there stay what the ring was. */
template <int N>
LANE void wide_feed(const product &p, uint8_t *ring, uint32_t *at)
{
    typedef wide<N> w;
    const uint32_t me = threadIdx.x - WIDE_SUMMERS, warp = me / 32, piece = me % 8;
    const uint32_t row0 = me % 32 / 8, nstage = (p.nblock + w::blocks - 1) / w::blocks;
    for (uint32_t i = me; i < N; i += 32 * WIDE_FEEDERS)
        at[i % 4 * (N / 4) + i / 4] = i < p.m ? (uint32_t)((x_row(p, i) - p.x) / 8) : TN_NONE;
    meet(WIDE_FED, 32 * WIDE_FEEDERS);
    uint8_t *const even = ring + warp * w::stage + row0 * 128 + (piece ^ row0) * 16;
    uint8_t *const odd = ring + warp * w::stage + row0 * 128 + (piece ^ (row0 + 4)) * 16;
    for (uint32_t i = warp; i < nstage; i += WIDE_FEEDERS) {
        const uint32_t block = i * w::blocks;
        const uint4 *from = (const uint4 *)p.x + block * 8 + piece;
        if (i >= WIDE_FEEDERS)
            meet(WIDE_EMPTY + warp, WIDE_SUMMERS + 32);
#pragma unroll (N > 64 ? 2 : 1)
        for (uint32_t j = 0; j < N / 4; j += 4) {
            const uint4 four = *(const uint4 *)(at + row0 * (N / 4) + j);
            const uint32_t there[4] = {four.x, four.y, four.z, four.w};
            UNROLL for (uint32_t e = 0; e < 4; e++)
                UNROLL for (uint32_t b = 0; b < w::blocks; b++)
                    if (there[e] != TN_NONE && block + b < p.nblock)
                        copy_async((e % 2 == 0 ? even : odd) + (j + e) * 512 + b * w::block,
                                   from + there[e] + b * 8, true);
        }
        copy_commit();
        copy_wait<0>();
        share_with_products();
        pass_by(WIDE_FULL + 2 * warp, WIDE_SUMMERS / 2 + 32);
        pass_by(WIDE_FULL + 2 * warp + 1, WIDE_SUMMERS / 2 + 32);
    }
}

/* Operands of a block of 64 columns, 16 at a time. */
template <int FORM, bool ZEROS>
LANE void wide_operands(const tall_weights<FORM, 1> &w, uint32_t a[4][4])
{
    uint32_t half[2][4];
    UNROLL for (int h = 0; h < 2; h++) {
        tall_operands<FORM, 1, ZEROS>(w, 0, h, half);
        UNROLL for (int i = 0; i < 8; i++)
            a[2 * h + i / 4][i % 4] = half[i / 4][i % 4];
    }
}

/* Operands of blocks block .. of a turn from codes u ..; then the codes' places get those of the
 * blocks `ahead` of them. */
template <int FORM, bool ZEROS, int N>
LANE void ready_turn(const product &p, uint32_t tile, uint32_t block, uint32_t u,
                     tall_weights<FORM, 1> *code, uint32_t ready[wide<N>::turn][4][4])
{
    UNROLL for (uint32_t i = 0; i < wide<N>::turn; i++) {
        if (block + i < p.nblock)
            wide_operands<FORM, ZEROS>(code[u + i], ready[i]);
        if (block + i + wide_codes<FORM, N>::ahead < p.nblock)
            load_tall<FORM, 1, ZEROS>(p, &tile, block + i + wide_codes<FORM, N>::ahead, &code[u + i]);
    }
}

/* c (as warpgroup_multiply has it) += the warp's tile x the N rows of p, whose columns are
 * turned and as many as the matrix has; by the warps that multiply. Ends behind a barrier of
 * theirs: `ring` may be used anew. */
template <int FORM, bool ZEROS, int N>
LANE void wide_product(const product &p, uint32_t tile, uint8_t *ring, float c[N / 2])
{
    typedef wide<N> w;
    const uint32_t ahead = wide_codes<FORM, N>::ahead;
    const uint32_t group = threadIdx.x / 128, never = p.ldx >> 31; /* columns are fewer */
    tall_weights<FORM, 1> code[wide_codes<FORM, N>::ahead];
    uint32_t a[w::turn][4][4] = {}, ready[w::turn][4][4] = {}, stage = 0;
    UNROLL for (uint32_t i = 0; i < ahead; i++)
        if (i < p.nblock)
            load_tall<FORM, 1, ZEROS>(p, &tile, i, &code[i]);
    ready_turn<FORM, ZEROS, N>(p, tile, 0, 0, code, ready);
    for (uint32_t b0 = 0; b0 < p.nblock; b0 += ahead)
        UNROLL for (uint32_t u = 0; u < ahead; u += w::turn) {
            const uint32_t b = b0 + u;
            if (b >= p.nblock)
                break;
            if (u % w::blocks == 0)
                meet(WIDE_FULL + 2 * stage + group, WIDE_SUMMERS / 2 + 32);
            UNROLL for (uint32_t i = 0; i < w::turn; i++)
                warpgroup_operands(a[i], ready[i], never);
            warpgroup_open();
            UNROLL for (uint32_t i = 0; i < w::turn; i++)
                if (b + i < p.nblock)
                    UNROLL for (uint32_t k = 0; k < 4; k++)
                        warpgroup_multiply<N>(c, a[i][k], ring + stage * w::stage +
                                              (u % w::blocks + i) * w::block, k);
            warpgroup_commit();
            ready_turn<FORM, ZEROS, N>(p, tile, b + w::turn, (u + w::turn) % ahead, code,
                                       ready);
            warpgroup_wait<0>();
            if ((u + w::turn) % w::blocks == 0) {
                if (b + w::turn + (WIDE_FEEDERS - 1) * w::blocks < p.nblock)
                    pass_by(WIDE_EMPTY + stage, WIDE_SUMMERS + 32);
                stage = (stage + 1) % WIDE_FEEDERS;
            }
        }
    meet(WIDE_SUMMED, WIDE_SUMMERS);
}

/* Sums of rows [x0, x0 + WIDE_CHUNK) of x to room [row - x0][128 weight rows]. */
template <int N>
LANE void leave_chunk(const float c[N / 2], uint32_t x0, float *room)
{
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    float *to = room + 2 * t * WIDE_LD + threadIdx.x / 32 * 16 + g;
    UNROLL for (uint32_t j = 0; j < N / 8; j++)
        if (j * 8 >= x0 && j * 8 < x0 + WIDE_CHUNK)
            UNROLL for (uint32_t e = 0; e < 4; e++)
                to[(j * 8 - x0 + e % 2) * WIDE_LD + e / 2 * 8] = c[j * 4 + e];
}

/* Eight sums of the room: weight rows 8 i .. of row x. */
LANE void take_eight(const float *room, uint32_t x, uint32_t i, float v[8])
{
    const float4 *from = (const float4 *)(room + x * WIDE_LD + 8 * i);
    const float4 lo = from[0], hi = from[1];
    v[0] = lo.x, v[1] = lo.y, v[2] = lo.z, v[3] = lo.w;
    v[4] = hi.x, v[5] = hi.y, v[6] = hi.z, v[7] = hi.w;
}

LANE uint4 eight_halves(const float v[8])
{
    uint32_t h[4];
    UNROLL for (int i = 0; i < 4; i++) {
        __half2 two = __halves2half2(to_half(v[2 * i]), to_half(v[2 * i + 1]));
        h[i] = bits_of(two);
    }
    return make_uint4(h[0], h[1], h[2], h[3]);
}

/* Columns n .. n + 7 of a row, those below `limit`. */
LANE void put_eight(const gpu_span &out, uint64_t row, uint32_t n, uint32_t limit,
                    const float v[8])
{
    const uint64_t at = row * out.stride + n;
    uint8_t *to = (uint8_t *)out.data + at * (out.type == TN_F32 ? 4 : 2);
    if (n + 8 <= limit && (uintptr_t)to % 16 == 0) {
        if (out.type != TN_F32) {
            *(uint4 *)to = eight_halves(v);
            return;
        }
        ((float4 *)to)[0] = make_float4(v[0], v[1], v[2], v[3]);
        ((float4 *)to)[1] = make_float4(v[4], v[5], v[6], v[7]);
        return;
    }
    UNROLL for (uint32_t i = 0; i < 8; i++)
        if (n + i < limit)
            span_put(out, row, n + i, v[i]);
}

#endif

#endif

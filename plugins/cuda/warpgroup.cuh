/* SPDX-License-Identifier: Apache-2.0 */
/* warpgroup.cuh - products of a warpgroup (four warps, the first's number divisible by four) on
 * sm_90a: a in registers, b in shared memory. With twins for cudasim, which does them at once.
 *
 * c (64 x N, fp32) += a (64 x 16 halves) b (16 x N). Warp w of the group has rows 16 w .. of a
 * and c, in its lanes as mma_f16 has them: c[4 j + i] is c[i] of columns 8 j ... Column n of b
 * is row n of `b`, rows of 64 halves (128 bytes) whose 16-byte pieces lie permuted: piece p of
 * row n at p ^ n % 8; `b` is aligned to 1,024. `step` is which 16 of the 64 halves are b.
 *
 * Products run on after their call until a warpgroup_wait that counts their commit; a and c are
 * left alone till then. a comes from warpgroup_operands, which copies it: the compiler makes
 * products wait for each other when it sees their operands made while others run. It also counts
 * an operand as dead once a product is issued, and puts other numbers into its registers while
 * the product reads them; so the copy is a choice between the new and the old a, which keeps the
 * old alive until here. warpgroup_open stands between that and the products. `never` is 0, which the compiler must not know. Shared memory is seen
 * after share_with_products in the thread that wrote it, and a barrier. */
#ifndef TN_CUDA_WARPGROUP_CUH
#define TN_CUDA_WARPGROUP_CUH

#include "lane.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(TN_CUDASIM)
#define WARPGROUPS 1           /* this compilation has them */
#else
#define WARPGROUPS 0
#endif

#ifdef TN_CUDASIM

LANE void warpgroup_operands(uint32_t a[4][4], const uint32_t from[4][4], uint32_t never)
{
    (void)never;
    memcpy(a, from, 16 * sizeof from[0][0]);
}
LANE void warpgroup_open() {}
LANE void warpgroup_commit() {}
template <int count> LANE void more_registers() {}
template <int count> LANE void fewer_registers() {}
LANE void meet(uint32_t number, uint32_t threads) { cudasim_named_barrier(number, threads, true); }
LANE void pass_by(uint32_t number, uint32_t threads)
{
    cudasim_named_barrier(number, threads, false);
}
template <int left> LANE void warpgroup_wait() {}
LANE void share_with_products() {}

template <int N>
LANE void warpgroup_multiply(float c[N / 2], const uint32_t a[4], const void *b, uint32_t step)
{
    unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    memcpy(cudasim_place(lane), a, 4 * sizeof a[0]);
    cudasim_warp_barrier(FULL_WARP);
    for (unsigned i = 0; i < N / 2; i++) {
        unsigned row = i % 4 >= 2 ? 1 : 0, n = i / 4 * 8 + 2 * t + (i & 1);
        float sum = c[i];
        for (unsigned k = 0; k < 16; k++) {
            uint32_t x[4], piece = (step * 2 + k / 8) ^ n % 8;
            memcpy(x, cudasim_place(g * 4 + k % 8 / 2), sizeof x);
            __half2 p = half2_of(x[row + (k >= 8 ? 2 : 0)]);
            sum += (k & 1 ? __high2float(p) : __low2float(p)) *
                   __half2float(((const __half *)b)[n * 64 + piece * 8 + k % 8]);
        }
        c[i] = sum;
    }
    cudasim_next_place();
}

#elif WARPGROUPS

LANE void warpgroup_operands(uint32_t a[4][4], const uint32_t from[4][4], uint32_t never)
{
    UNROLL for (int i = 0; i < 16; i++)
        asm volatile("{.reg .pred old; setp.ne.u32 old, %2, 0; selp.b32 %0, %0, %1, old;}"
                     : "+r"(a[i / 4][i % 4]) : "r"(from[i / 4][i % 4]), "r"(never));
}

LANE void warpgroup_open()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

LANE void warpgroup_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Waits until at most `left` committed groups of products run. */
template <int left>
LANE void warpgroup_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(left) : "memory");
}

/* Registers a thread of this warpgroup, from what it has to `count`. */
template <int count>
LANE void more_registers()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(count));
}

template <int count>
LANE void fewer_registers()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(count));
}

/* A warp at barrier `number` (1 to 15) of so many threads in all: waits for the others, or only
 * tells that it came. */
LANE void meet(uint32_t number, uint32_t threads)
{
    asm volatile("barrier.cta.sync %0, %1;" :: "r"(number), "r"(threads) : "memory");
}

LANE void pass_by(uint32_t number, uint32_t threads)
{
    asm volatile("barrier.cta.arrive %0, %1;" :: "r"(number), "r"(threads) : "memory");
}

LANE void share_with_products()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* Rows of 128 bytes, swizzled, eight of them 1,024 bytes. */
LANE uint64_t product_operand(const void *b, uint32_t step)
{
    return (uint64_t)1 << 62 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 16 |
           ((shared_address(b) + step * 32) & 0x3ffff) >> 4;
}

#define OUT4(i) "+f"(c[i]), "+f"(c[(i) + 1]), "+f"(c[(i) + 2]), "+f"(c[(i) + 3])
#define OUT8(i) OUT4(i), OUT4((i) + 4)
#define OUT16(i) OUT8(i), OUT8((i) + 8)
#define OUT32(i) OUT16(i), OUT16((i) + 16)
#define OUT64(i) OUT32(i), OUT32((i) + 32)
#define IN_AB "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(product_operand(b, step))
#define NUMBERS_0 "%0,%1,%2,%3,%4,%5,%6,%7"
#define NUMBERS_8 NUMBERS_0 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define NUMBERS_16 NUMBERS_8 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define NUMBERS_24 NUMBERS_16 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define NUMBERS_32 NUMBERS_24 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define NUMBERS_40 NUMBERS_32 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define NUMBERS_48 NUMBERS_40 ",%48,%49,%50,%51,%52,%53,%54,%55"
#define NUMBERS_56 NUMBERS_48 ",%56,%57,%58,%59,%60,%61,%62,%63"
#define NUMBERS_64 NUMBERS_56 ",%64,%65,%66,%67,%68,%69,%70,%71"
#define NUMBERS_72 NUMBERS_64 ",%72,%73,%74,%75,%76,%77,%78,%79"
#define NUMBERS_80 NUMBERS_72 ",%80,%81,%82,%83,%84,%85,%86,%87"
#define NUMBERS_88 NUMBERS_80 ",%88,%89,%90,%91,%92,%93,%94,%95"
#define NUMBERS_96 NUMBERS_88 ",%96,%97,%98,%99,%100,%101,%102,%103"
#define NUMBERS_104 NUMBERS_96 ",%104,%105,%106,%107,%108,%109,%110,%111"
#define NUMBERS_112 NUMBERS_104 ",%112,%113,%114,%115,%116,%117,%118,%119"
#define NUMBERS_120 NUMBERS_112 ",%120,%121,%122,%123,%124,%125,%126,%127"
#define MULTIPLY(n, numbers, a, b) \
    "wgmma.mma_async.sync.aligned.m64n" n "k16.f32.f16.f16 {" numbers "}, {" a "}, " b \
    ", 1, 1, 1, 0;"

template <int N>
LANE void warpgroup_multiply(float c[N / 2], const uint32_t a[4], const void *b, uint32_t step)
{
    static_assert(N == 16 || N == 32 || N == 48 || N == 64 || N == 80 || N == 96 || N == 128 ||
                  N == 256, "columns of a product");
    if constexpr (N == 16)
        asm volatile(MULTIPLY("16", NUMBERS_0, "%8,%9,%10,%11", "%12") : OUT8(0) : IN_AB);
    else if constexpr (N == 32)
        asm volatile(MULTIPLY("32", NUMBERS_8, "%16,%17,%18,%19", "%20") : OUT16(0) : IN_AB);
    else if constexpr (N == 48)
        asm volatile(MULTIPLY("48", NUMBERS_16, "%24,%25,%26,%27", "%28")
                     : OUT16(0), OUT8(16) : IN_AB);
    else if constexpr (N == 64)
        asm volatile(MULTIPLY("64", NUMBERS_24, "%32,%33,%34,%35", "%36") : OUT32(0) : IN_AB);
    else if constexpr (N == 80)
        asm volatile(MULTIPLY("80", NUMBERS_32, "%40,%41,%42,%43", "%44")
                     : OUT32(0), OUT8(32) : IN_AB);
    else if constexpr (N == 96)
        asm volatile(MULTIPLY("96", NUMBERS_40, "%48,%49,%50,%51", "%52")
                     : OUT32(0), OUT16(32) : IN_AB);
    else if constexpr (N == 128)
        asm volatile(MULTIPLY("128", NUMBERS_56, "%64,%65,%66,%67", "%68") : OUT64(0) : IN_AB);
    else
        asm volatile(MULTIPLY("256", NUMBERS_120, "%128,%129,%130,%131", "%132")
                     : OUT64(0), OUT64(64) : IN_AB);
}

#endif

#endif

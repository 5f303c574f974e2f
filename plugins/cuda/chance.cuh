/* SPDX-License-Identifier: Apache-2.0 */
/* chance.cuh - randomness as a function of (seed, draw, token), and the race that draws by it.
 *
 * The generator is the one of the device cpu (plugins/cpu/rng.h is the specification), so that
 * a seeded request draws the same token on both. Every (seed, draw) gives two keys of 64 bits;
 * a token's number walks a Weyl sequence from the first and goes through the splitmix64
 * finalizer with the second mixed in.
 *
 * The token with the greatest value - log(E), E exponential, is a draw from softmax(value).
 * Cards of consumers are slow in double, so scores are guessed in fp32, off by 1e-5 at most,
 * and only guesses that lie too close to tell are settled in double. */
#ifndef TN_CUDA_CHANCE_CUH
#define TN_CUDA_CHANCE_CUH

#include "lane.cuh"

#define CHANCE_STEP 0x9e3779b97f4a7c15ull /* 2^64 / golden ratio, odd */
#define GUESS_MARGIN 1e-4f        /* ten times what two guesses are off together */
#define NOBODY (-1)

typedef struct chance {
    uint64_t key[2];
} chance;

LANE uint64_t chance_mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

LANE chance chance_open(uint64_t seed, uint64_t draw)
{
    uint64_t a = chance_mix(seed + CHANCE_STEP);
    uint64_t b = chance_mix(a ^ chance_mix(draw + 2 * CHANCE_STEP));
    chance c;
    c.key[0] = b;
    c.key[1] = chance_mix(b + a);
    return c;
}

LANE uint64_t chance_bits(const chance &c, uint32_t token)
{
    uint64_t z = c.key[0] + (uint64_t)token * CHANCE_STEP;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull ^ c.key[1];
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

/* value - log(E) as the device cpu forms it: E = -log(1 - u), u in (0, 1) of 53 bits. */
__device__ static double score_exact(float value, uint64_t bits)
{
    double u = ((double)(bits >> 11) + 0.5) * 0x1p-53;
    return (double)value - log(-log1p(-u));
}

/* The same in fp32; 1 - u is formed from the bits where u is near one. */
LANE float score_guess(float value, uint64_t bits)
{
    bool low = bits >> 63 == 0;
    float u = ((float)((low ? bits : ~bits) >> 11) + 0.5f) * 0x1p-53f;
    return value - logf(low ? -log1pf(-u) : -logf(u));
}

/* Who leads so far. Guess and value of NOBODY are -inf. */
typedef struct racer {
    float guess, value;
    int32_t token;
} racer;

LANE racer race_open()
{
    racer r;
    r.guess = r.value = -INFINITY;
    r.token = NOBODY;
    return r;
}

/* Whether (value, token) a beats b; of equals the lower token wins. Seldom called and long. */
__device__ static __attribute__((noinline)) bool
race_judge(uint64_t key0, uint64_t key1, float a_value, int32_t a, float b_value, int32_t b)
{
    chance c;
    c.key[0] = key0;
    c.key[1] = key1;
    double x = score_exact(a_value, chance_bits(c, (uint32_t)a));
    double y = score_exact(b_value, chance_bits(c, (uint32_t)b));
    return x > y || (x == y && a < b);
}

/* One more takes part. Nobody below `lead`, a guessed score of somebody, can win: -log(E) is
 * at most (zeros + 1) log 2 for the leading zeros of the bits, and who does not get there even
 * so is passed over without a logarithm. */
LANE void race_join(const chance &c, float lead, float value, uint32_t token, racer *best)
{
    uint64_t bits = chance_bits(c, token);
    float zeros = (float)__clzll((long long)(bits | 1u << 10));
    if (value + (zeros + 1) * 0.69314724f < fmaxf(lead, best->guess) - GUESS_MARGIN)
        return;
    float guess = score_guess(value, bits);
    if (guess < best->guess - GUESS_MARGIN ||
        (guess <= best->guess + GUESS_MARGIN &&
         !race_judge(c.key[0], c.key[1], value, (int32_t)token, best->value, best->token)))
        return;
    best->guess = guess;
    best->value = value;
    best->token = (int32_t)token;
}

/* The winner of a warp, in all its lanes. */
LANE racer race_warp(const chance &c, racer mine)
{
    float lead = warp_max(mine.guess);
    bool near = mine.token != NOBODY && mine.guess >= lead - GUESS_MARGIN;
    unsigned who = __ballot_sync(FULL_WARP, near);
    int lane = who != 0 ? __ffs((int)who) - 1 : 0;
    for (unsigned rest = who & (who - 1); rest != 0; rest &= rest - 1) {
        int other = __ffs((int)rest) - 1;
        float a = __shfl_sync(FULL_WARP, mine.value, other);
        float b = __shfl_sync(FULL_WARP, mine.value, lane);
        int32_t a_token = __shfl_sync(FULL_WARP, mine.token, other);
        int32_t b_token = __shfl_sync(FULL_WARP, mine.token, lane);
        lane = race_judge(c.key[0], c.key[1], a, a_token, b, b_token) ? other : lane;
    }
    mine.guess = __shfl_sync(FULL_WARP, mine.guess, lane);
    mine.value = __shfl_sync(FULL_WARP, mine.value, lane);
    mine.token = __shfl_sync(FULL_WARP, mine.token, lane);
    return mine;
}

#endif

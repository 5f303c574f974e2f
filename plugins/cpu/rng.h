/* SPDX-License-Identifier: Apache-2.0 */
/* rng.h - randomness as a function of (seed, draw, token), so that a reply depends on nothing
 * that runs beside it, in no order.
 *
 * Every (seed, draw) gives two 64-bit keys. A token's number walks a Weyl sequence from the
 * first key and goes through the two multiplications of the splitmix64 finalizer (Steele,
 * Lea, Flood 2014; constants by Stafford), with the second key mixed in between them, so that
 * the streams of two draws are no shifted copies of each other. */
#ifndef TN_CPU_RNG_H
#define TN_CPU_RNG_H

#include <stdint.h>

typedef struct cpu_rng {
    uint64_t key[2];
} cpu_rng;

#define CPU_RNG_STEP 0x9e3779b97f4a7c15ull /* 2^64 / golden ratio, odd */

static inline uint64_t cpu_rng_mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static inline cpu_rng cpu_rng_open(uint64_t seed, uint64_t draw)
{
    uint64_t a = cpu_rng_mix(seed + CPU_RNG_STEP);
    uint64_t b = cpu_rng_mix(a ^ cpu_rng_mix(draw + 2 * CPU_RNG_STEP));
    return (cpu_rng){{b, cpu_rng_mix(b + a)}};
}

static inline uint64_t cpu_rng_bits(const cpu_rng *r, uint32_t token)
{
    uint64_t z = r->key[0] + (uint64_t)token * CPU_RNG_STEP;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull ^ r->key[1];
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

/* In (0, 1), 53 bits. */
static inline double cpu_rng_unit(uint64_t bits)
{
    return ((double)(bits >> 11) + 0.5) * 0x1p-53;
}

#endif

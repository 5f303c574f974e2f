/* SPDX-License-Identifier: Apache-2.0 */
/* lanes256.h - the vector words of the avx2 and avxvnni levels: 8 lanes of 32 bits.
 *
 * wide_*.h are written in these words and know no instruction set; lanes512.h has the same
 * words for 16 lanes. Included by one level's unit, which was compiled with its -m flags;
 * everything is static, so that no wide copy can be linked into another unit. */
#ifndef TN_CPU_LANES256_H
#define TN_CPU_LANES256_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define LANES 8
#define VECS 2          /* vectors that hold the 16 rows of a strip */
#define TILE 6          /* most tokens that share one unpacking of a block */
#define TILE_FLOATS 5   /* the same for fp32 activations */
#define TALL 6          /* the same where codes were unpacked before */
#define TALL_GRID 0
#define QUERIES 6       /* most queries of attention that read a key or value together */

typedef __m256 vf;
typedef __m256i vi;

/* Loops over a few registers: unrolled whole, or the arrays they walk live in memory. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define WIDE static inline __attribute__((always_inline, unused))

/* ------------------------------------------------------------------------------ floats */

WIDE vf f_load(const float *p) { return _mm256_loadu_ps(p); }
WIDE void f_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
/* Loaded once to a register, where the compiler would read memory at every use. */
WIDE vf f_held(vf a)
{
    __asm__("" : "+x"(a));
    return a;
}
WIDE vf f_set(float x) { return _mm256_set1_ps(x); }
WIDE vf f_copy(const float *p) { return _mm256_broadcast_ss(p); } /* one to all lanes */
WIDE vf f_count(void) { return _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7); }
WIDE float f_first(vf a) { return _mm256_cvtss_f32(a); }
WIDE vf f_zero(void) { return _mm256_setzero_ps(); }
WIDE vf f_add(vf a, vf b) { return _mm256_add_ps(a, b); }
WIDE vf f_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
WIDE vf f_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
WIDE vf f_div(vf a, vf b) { return _mm256_div_ps(a, b); }
WIDE vf f_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }   /* c + a b */
WIDE vf f_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); } /* c - a b */
WIDE vf f_max(vf a, vf b) { return _mm256_max_ps(a, b); } /* b when either is NaN */
WIDE vf f_min(vf a, vf b) { return _mm256_min_ps(a, b); } /* b when either is NaN */
WIDE vf f_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
WIDE vf f_round(vf a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
WIDE bool f_all_less(vf a, vf b)
{
    return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ)) == 0xff;
}
WIDE bool f_any_less(vf a, vf b)
{
    return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ)) != 0;
}
/* Lanes equal to b, as bits. */
WIDE uint32_t f_equal(vf a, vf b)
{
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ));
}
/* x where a < b, else y */
WIDE vf f_pick_less(vf a, vf b, vf x, vf y)
{
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}

/* The first n lanes (1 <= n < 8), zeros in the others. */
WIDE vi lane_mask(uint32_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
WIDE vf f_load_n(const float *p, uint32_t n) { return _mm256_maskload_ps(p, lane_mask(n)); }
WIDE void f_store_n(float *p, uint32_t n, vf a) { _mm256_maskstore_ps(p, lane_mask(n), a); }

WIDE vf f_load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
WIDE vf f_load_bf16(const uint16_t *p)
{
    vi u = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(u, 16));
}
WIDE vi i_load_u8(const uint8_t *p)   /* bytes to dwords */
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}
WIDE vf f_load_u8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(i_load_u8(p));
}
WIDE void f_store_f16(uint16_t *p, vf a)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
WIDE void f_store_bf16(uint16_t *p, vf a)
{
    vi u = _mm256_castps_si256(a), one = _mm256_set1_epi32(1);
    vi odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), one);
    vi r = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    vi nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    r = _mm256_blendv_epi8(r, _mm256_or_si256(u, _mm256_set1_epi32(0x400000)), nan);
    r = _mm256_srli_epi32(r, 16);
    r = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x08);
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(r));
}

WIDE float f_sum(vf a)
{
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)));
}
WIDE float f_top(vf a)
{
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
}
/* Adds the lanes to a sum in double. */
typedef struct vd { __m256d half[2]; } vd;
WIDE vd d_zero(void) { return (vd){{_mm256_setzero_pd(), _mm256_setzero_pd()}}; }
WIDE vd d_add(vd s, vf a)
{
    s.half[0] = _mm256_add_pd(s.half[0], _mm256_cvtps_pd(_mm256_castps256_ps128(a)));
    s.half[1] = _mm256_add_pd(s.half[1], _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)));
    return s;
}
WIDE vd d_add_square(vd s, vf a)
{
    __m256d lo = _mm256_cvtps_pd(_mm256_castps256_ps128(a));
    __m256d hi = _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1));
    s.half[0] = _mm256_fmadd_pd(lo, lo, s.half[0]);
    s.half[1] = _mm256_fmadd_pd(hi, hi, s.half[1]);
    return s;
}
WIDE double d_sum(vd s)
{
    __m256d a = _mm256_add_pd(s.half[0], s.half[1]);
    __m128d h = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_add_sd(h, _mm_unpackhi_pd(h, h)));
}

/* ---------------------------------------------------------------------------- integers */

WIDE vi i_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
WIDE void i_store(void *p, vi a) { _mm256_storeu_si256((__m256i *)p, a); }
WIDE vi i_set(int32_t x) { return _mm256_set1_epi32(x); }
WIDE vi i_set8(int8_t x) { return _mm256_set1_epi8(x); }
WIDE vi i_copy(const void *p)   /* one dword to all lanes */
{
    int32_t u;
    memcpy(&u, p, sizeof u);
    return _mm256_set1_epi32(u);
}
WIDE vi i_zero(void) { return _mm256_setzero_si256(); }
WIDE vi i_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
WIDE vi i_add64(vi a, vi b) { return _mm256_add_epi64(a, b); }
/* 32 bytes, x + 128: signed to unsigned. */
WIDE void block_to_unsigned(uint8_t *to, const int8_t *from)
{
    __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)from);
    _mm256_storeu_si256((__m256i *)(void *)to, _mm256_xor_si256(x, _mm256_set1_epi8(-128)));
}
WIDE vi i_sub(vi a, vi b) { return _mm256_sub_epi32(a, b); }
WIDE vi i_sub8(vi a, vi b) { return _mm256_sub_epi8(a, b); }
WIDE vi i_and(vi a, vi b) { return _mm256_and_si256(a, b); }
WIDE vi i_max(vi a, vi b) { return _mm256_max_epi32(a, b); }
#define i_right(a, n) _mm256_srli_epi32(a, n)
#define i_left(a, n) _mm256_slli_epi32(a, n)
#define i_right_signed(a, n) _mm256_srai_epi32(a, n)
WIDE vi i_from_f(vf a) { return _mm256_cvtps_epi32(a); }  /* to nearest, ties to even */
WIDE vf f_from_i(vi a) { return _mm256_cvtepi32_ps(a); }
WIDE vi i_bits(vf a) { return _mm256_castps_si256(a); }
WIDE vf f_bits(vi a) { return _mm256_castsi256_ps(a); }
WIDE int32_t i_top(vi a)
{
    __m128i h = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(h, _mm_shuffle_epi32(h, 0xb1)));
}
WIDE int32_t i_sum(vi a)
{
    __m128i h = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(h, _mm_shuffle_epi32(h, 0xb1)));
}
/* 32 values in [-127, 127] as bytes, in order. */
WIDE void i_store_bytes(int8_t *p, const vi v[4])
{
    vi a = _mm256_packs_epi32(v[0], v[1]), b = _mm256_packs_epi32(v[2], v[3]);
    vi c = _mm256_packs_epi16(a, b);
    i_store(p, _mm256_permutevar8x32_epi32(c, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
}

/* --------------------------------------------------------------------- code products */

/* A sum over four bytes a lane: dot4 adds u8 times s8, codes up to 15 times inputs in
 * [-127, 127], or inputs + 128 times codes less their zeros (wide_tall.h). Without VNNI the lanes
 * hold two int16 sums each: 2 * 15 * 127 a step, so that the eight steps of a block stay below
 * 2^15; codes up to 255 have a sum for each half. dot4_negative turns a sum's sign. */
#ifdef __AVXVNNI__
#define BYTES_ARE_WHOLE 1   /* dot4 takes codes up to 255 */
#define TILE_BYTES TILE
WIDE vi dot4(vi acc, vi w, vi x) { return _mm256_dpbusd_avx_epi32(acc, w, x); }
WIDE vi dot4_end(vi acc) { return acc; }
WIDE vi dot4_negative(vi acc) { return _mm256_sub_epi32(_mm256_setzero_si256(), acc); }
#else
#define BYTES_ARE_WHOLE 0
#define TILE_BYTES 4        /* tokens a tile of W8G: two sums each */
WIDE vi dot4(vi acc, vi w, vi x)
{
    acc = _mm256_add_epi16(acc, _mm256_maddubs_epi16(w, x));
    __asm__("" : "+x"(acc)); /* keeps the sum a chain: reordered into a tree, it spills */
    return acc;
}
WIDE vi dot4_end(vi acc) { return _mm256_madd_epi16(acc, _mm256_set1_epi16(1)); }
WIDE vi dot4_negative(vi acc) { return _mm256_sub_epi16(_mm256_setzero_si256(), acc); }
/* low + 16 high */
WIDE vi dot4_join(vi low, vi high)
{
    return i_add(dot4_end(low), _mm256_madd_epi16(high, _mm256_set1_epi16(16)));
}
#endif

#define fetch(p) _mm_prefetch((const char *)(p), _MM_HINT_T0)

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* lanes512.h - the vector words of the avx512 and avx512vnni levels: 16 lanes of 32 bits, so
 * that one vector holds a strip's rows. The words and their meaning are those of lanes256.h;
 * wanted of AVX-512: F, BW, VL and DQ. */
#ifndef TN_CPU_LANES512_H
#define TN_CPU_LANES512_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#define VECS 1
#define TILE 8
#define TILE_FLOATS 8
#ifdef LANES_GRID
#define TALL 16
#define TALL_GRID 1  /* products in the registers of AMX, see wide_grid.h */
#else
#define TALL 12
#define TALL_GRID 0
#endif
#define QUERIES 12

typedef __m512 vf;
typedef __m512i vi;

#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define WIDE static inline __attribute__((always_inline, unused))

/* ------------------------------------------------------------------------------ floats */

WIDE vf f_load(const float *p) { return _mm512_loadu_ps(p); }
WIDE void f_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
/* Loaded once to a register, where the compiler would read memory at every use. */
WIDE vf f_held(vf a)
{
    __asm__("" : "+v"(a));
    return a;
}
WIDE vf f_set(float x) { return _mm512_set1_ps(x); }
WIDE vf f_copy(const float *p) { return _mm512_set1_ps(*p); }
WIDE vf f_count(void)
{
    return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
WIDE float f_first(vf a) { return _mm512_cvtss_f32(a); }
WIDE vf f_zero(void) { return _mm512_setzero_ps(); }
WIDE vf f_add(vf a, vf b) { return _mm512_add_ps(a, b); }
WIDE vf f_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
WIDE vf f_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
WIDE vf f_div(vf a, vf b) { return _mm512_div_ps(a, b); }
WIDE vf f_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
WIDE vf f_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
WIDE vf f_max(vf a, vf b) { return _mm512_max_ps(a, b); }
WIDE vf f_min(vf a, vf b) { return _mm512_min_ps(a, b); }
WIDE vf f_abs(vf a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }
WIDE vf f_round(vf a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
WIDE bool f_all_less(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ) == 0xffff;
}
WIDE bool f_any_less(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ) != 0; }
WIDE uint32_t f_equal(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
WIDE vf f_pick_less(vf a, vf b, vf x, vf y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
WIDE __mmask16 lane_mask(uint32_t n) { return (__mmask16)((1u << n) - 1u); }
WIDE vf f_load_n(const float *p, uint32_t n) { return _mm512_maskz_loadu_ps(lane_mask(n), p); }
WIDE void f_store_n(float *p, uint32_t n, vf a) { _mm512_mask_storeu_ps(p, lane_mask(n), a); }

WIDE vf f_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
WIDE vf f_load_bf16(const uint16_t *p)
{
    vi u = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
}
WIDE vi i_load_u8(const uint8_t *p)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
}
WIDE vf f_load_u8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(i_load_u8(p));
}
WIDE void f_store_f16(uint16_t *p, vf a)
{
    __m256i h = _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_si256((__m256i *)p, h);
}
WIDE void f_store_bf16(uint16_t *p, vf a)
{
    vi u = _mm512_castps_si512(a), one = _mm512_set1_epi32(1);
    vi odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), one);
    vi r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    r = _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x400000));
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16)));
}

/* The upper eight lanes onto the lower. */
WIDE __m256 f_upper(vf a) { return _mm512_extractf32x8_ps(a, 1); }
WIDE __m256 f_lower(vf a) { return _mm512_castps512_ps256(a); }
WIDE __m256 f_fold(vf a) { return _mm256_add_ps(f_lower(a), f_upper(a)); }
WIDE float f_sum(vf a)
{
    __m256 w = f_fold(a);
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(w), _mm256_extractf128_ps(w, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)));
}
WIDE float f_top(vf a)
{
    __m256 w = _mm256_max_ps(f_lower(a), f_upper(a));
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(w), _mm256_extractf128_ps(w, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
}
typedef struct vd { __m512d half[2]; } vd;
WIDE vd d_zero(void) { return (vd){{_mm512_setzero_pd(), _mm512_setzero_pd()}}; }
WIDE vd d_add(vd s, vf a)
{
    s.half[0] = _mm512_add_pd(s.half[0], _mm512_cvtps_pd(f_lower(a)));
    s.half[1] = _mm512_add_pd(s.half[1], _mm512_cvtps_pd(f_upper(a)));
    return s;
}
WIDE vd d_add_square(vd s, vf a)
{
    __m512d lo = _mm512_cvtps_pd(f_lower(a)), hi = _mm512_cvtps_pd(f_upper(a));
    s.half[0] = _mm512_fmadd_pd(lo, lo, s.half[0]);
    s.half[1] = _mm512_fmadd_pd(hi, hi, s.half[1]);
    return s;
}
WIDE double d_sum(vd s)
{
    __m512d w = _mm512_add_pd(s.half[0], s.half[1]);
    __m256d a = _mm256_add_pd(_mm512_castpd512_pd256(w), _mm512_extractf64x4_pd(w, 1));
    __m128d h = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_add_sd(h, _mm_unpackhi_pd(h, h)));
}

/* ---------------------------------------------------------------------------- integers */

WIDE vi i_load(const void *p) { return _mm512_loadu_si512(p); }
WIDE void i_store(void *p, vi a) { _mm512_storeu_si512(p, a); }
WIDE vi i_set(int32_t x) { return _mm512_set1_epi32(x); }
WIDE vi i_set8(int8_t x) { return _mm512_set1_epi8(x); }
WIDE vi i_copy(const void *p)
{
    int32_t u;
    memcpy(&u, p, sizeof u);
    return _mm512_set1_epi32(u);
}
WIDE vi i_zero(void) { return _mm512_setzero_si512(); }
WIDE vi i_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
WIDE vi i_add64(vi a, vi b) { return _mm512_add_epi64(a, b); }
WIDE void block_to_unsigned(uint8_t *to, const int8_t *from)
{
    __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)from);
    _mm256_storeu_si256((__m256i *)(void *)to, _mm256_xor_si256(x, _mm256_set1_epi8(-128)));
}
WIDE vi i_sub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
WIDE vi i_sub8(vi a, vi b) { return _mm512_sub_epi8(a, b); }
WIDE vi i_and(vi a, vi b) { return _mm512_and_si512(a, b); }
WIDE vi i_max(vi a, vi b) { return _mm512_max_epi32(a, b); }
#define i_right(a, n) _mm512_srli_epi32(a, n)
#define i_left(a, n) _mm512_slli_epi32(a, n)
#define i_right_signed(a, n) _mm512_srai_epi32(a, n)
WIDE vi i_from_f(vf a) { return _mm512_cvtps_epi32(a); }
WIDE vf f_from_i(vi a) { return _mm512_cvtepi32_ps(a); }
WIDE vi i_bits(vf a) { return _mm512_castps_si512(a); }
WIDE vf f_bits(vi a) { return _mm512_castsi512_ps(a); }
WIDE int32_t i_top(vi a)
{
    __m256i w = _mm256_max_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    __m128i h = _mm_max_epi32(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
    h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(h, _mm_shuffle_epi32(h, 0xb1)));
}
WIDE int32_t i_sum(vi a)
{
    __m256i w = _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    __m128i h = _mm_add_epi32(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
    h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(h, _mm_shuffle_epi32(h, 0xb1)));
}
WIDE void i_store_bytes(int8_t *p, const vi v[2])
{
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(v[0]));
    _mm_storeu_si128((__m128i *)(p + 16), _mm512_cvtepi32_epi8(v[1]));
}

/* --------------------------------------------------------------------- code products */

/* See lanes256.h. */
#ifdef __AVX512VNNI__
#define BYTES_ARE_WHOLE 1
#define TILE_BYTES TILE
WIDE vi dot4(vi acc, vi w, vi x) { return _mm512_dpbusd_epi32(acc, w, x); }
WIDE vi dot4_end(vi acc) { return acc; }
WIDE vi dot4_negative(vi acc) { return _mm512_sub_epi32(_mm512_setzero_si512(), acc); }
#else
#define BYTES_ARE_WHOLE 0
#define TILE_BYTES TILE
WIDE vi dot4(vi acc, vi w, vi x)
{
    acc = _mm512_add_epi16(acc, _mm512_maddubs_epi16(w, x));
    __asm__("" : "+v"(acc));
    return acc;
}
WIDE vi dot4_end(vi acc) { return _mm512_madd_epi16(acc, _mm512_set1_epi16(1)); }
WIDE vi dot4_negative(vi acc) { return _mm512_sub_epi16(_mm512_setzero_si512(), acc); }
WIDE vi dot4_join(vi low, vi high)
{
    return i_add(dot4_end(low), _mm512_madd_epi16(high, _mm512_set1_epi16(16)));
}
#endif

#define fetch(p) _mm_prefetch((const char *)(p), _MM_HINT_T0)

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_fp16.h - the half types that the kernels use, for cudasim: see cuda_runtime.h here. */
#ifndef TN_CUDASIM_FP16_H
#define TN_CUDASIM_FP16_H

#include <cstdint>
#include <cstring>

struct __half {
    uint16_t bits;
};
struct __half2 {
    __half x, y;
};
typedef __half half;
typedef __half2 half2;

static inline float __half2float(__half h)
{
    _Float16 f;
    memcpy(&f, &h, sizeof f);
    return (float)f;
}

static inline __half __float2half_rn(float x)
{
    _Float16 f = (_Float16)x;
    __half h;
    memcpy(&h, &f, sizeof h);
    return h;
}

static inline __half __float2half(float x) { return __float2half_rn(x); }
static inline __half2 __floats2half2_rn(float a, float b)
{
    return __half2{__float2half_rn(a), __float2half_rn(b)};
}
static inline float __low2float(__half2 a) { return __half2float(a.x); }
static inline float __high2float(__half2 a) { return __half2float(a.y); }
static inline __half __low2half(__half2 a) { return a.x; }
static inline __half __high2half(__half2 a) { return a.y; }
static inline __half2 __half2half2(__half a) { return __half2{a, a}; }
static inline __half2 __halves2half2(__half a, __half b) { return __half2{a, b}; }
static inline __half __ushort_as_half(uint16_t u) { return __half{u}; }
static inline uint16_t __half_as_ushort(__half h) { return h.bits; }

/* One rounding each, as the instructions do. */
static inline __half2 __hadd2(__half2 a, __half2 b)
{
    return __floats2half2_rn(__low2float(a) + __low2float(b), __high2float(a) + __high2float(b));
}
static inline __half2 __hsub2(__half2 a, __half2 b)
{
    return __floats2half2_rn(__low2float(a) - __low2float(b), __high2float(a) - __high2float(b));
}
static inline __half2 __hmul2(__half2 a, __half2 b)
{
    return __floats2half2_rn(__low2float(a) * __low2float(b), __high2float(a) * __high2float(b));
}
static inline __half cudasim_fma(__half a, __half b, __half c)
{
    /* exact in double: 11 + 11 bits of product, exponents far apart lose only what rounds away */
    double d = (double)__half2float(a) * (double)__half2float(b) + (double)__half2float(c);
    _Float16 f = (_Float16)d;
    __half h;
    memcpy(&h, &f, sizeof h);
    return h;
}
static inline __half2 __hfma2(__half2 a, __half2 b, __half2 c)
{
    return __half2{cudasim_fma(a.x, b.x, c.x), cudasim_fma(a.y, b.y, c.y)};
}

#endif

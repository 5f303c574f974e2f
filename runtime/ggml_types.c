/* SPDX-License-Identifier: Apache-2.0 */
/* ggml_types.c - the tensor types of GGUF files and how their blocks become f32.
 *
 * Layouts, little-endian, n = values a block. "h" is f16; nibbles: the low half of byte j is
 * value j, the high half value j + 16 (inside a run of 32).
 *
 *   Q4_0   32  h d | 16 nibbles bytes                      w = d * (q - 8)
 *   Q4_1   32  h d | h m | 16                              w = d * q + m
 *   Q5_0   32  h d | 32 high bits | 16                     w = d * (q - 16)
 *   Q5_1   32  h d | h m | 32 high bits | 16               w = d * q + m
 *   Q8_0   32  h d | 32 int8                               w = d * q
 *   Q4_K  256  h d | h m | 12 packed | 128                 w = d * s[j] * q - m * z[j], j = i / 32
 *   Q5_K  256  h d | h m | 12 packed | 32 high | 128       the same with 5 bits
 *   Q6_K  256  128 low | 64 high | 16 int8 s | h d         w = d * s[i / 16] * (q - 32)
 *
 * The 12 packed bytes of the K types hold eight 6-bit scales s and eight 6-bit minima z. */
#include "ggml_types.h"

#include "floats.h"

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

static float half_at(const uint8_t *p)
{
    return tn_f16_to_f32((uint16_t)(p[0] | p[1] << 8));
}

static uint32_t word_at(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void read_f32(const uint8_t *src, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = tn_bits_to_f32(word_at(src + 4 * i));
}

static void read_f16(const uint8_t *src, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = half_at(src + 2 * i);
}

static void read_bf16(const uint8_t *src, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = tn_bf16_to_f32((uint16_t)(src[2 * i] | src[2 * i + 1] << 8));
}

static void read_q4_0(const uint8_t *src, size_t n, float *out)
{
    for (size_t i = 0; i < n; i += 32, src += 18) {
        float d = half_at(src);
        for (size_t j = 0; j < 16; j++) {
            uint8_t b = src[2 + j];
            out[i + j] = d * (float)((b & 15) - 8);
            out[i + j + 16] = d * (float)((b >> 4) - 8);
        }
    }
}

static void read_q4_1(const uint8_t *src, size_t n, float *out)
{
    for (size_t i = 0; i < n; i += 32, src += 20) {
        float d = half_at(src), m = half_at(src + 2);
        for (size_t j = 0; j < 16; j++) {
            uint8_t b = src[4 + j];
            out[i + j] = d * (float)(b & 15) + m;
            out[i + j + 16] = d * (float)(b >> 4) + m;
        }
    }
}

/* The fifth bits lie apart: bit i of `high` belongs to value i. */
static void read_q5_0(const uint8_t *src, size_t n, float *out)
{
    for (size_t i = 0; i < n; i += 32, src += 22) {
        float d = half_at(src);
        uint32_t high = word_at(src + 2);
        for (size_t j = 0; j < 16; j++) {
            uint32_t b = src[6 + j];
            uint32_t lo = (b & 15) | (high >> j & 1) << 4;
            uint32_t hi = b >> 4 | (high >> (j + 16) & 1) << 4;
            out[i + j] = d * (float)((int32_t)lo - 16);
            out[i + j + 16] = d * (float)((int32_t)hi - 16);
        }
    }
}

static void read_q5_1(const uint8_t *src, size_t n, float *out)
{
    for (size_t i = 0; i < n; i += 32, src += 24) {
        float d = half_at(src), m = half_at(src + 2);
        uint32_t high = word_at(src + 4);
        for (size_t j = 0; j < 16; j++) {
            uint32_t b = src[8 + j];
            out[i + j] = d * (float)((b & 15) | (high >> j & 1) << 4) + m;
            out[i + j + 16] = d * (float)(b >> 4 | (high >> (j + 16) & 1) << 4) + m;
        }
    }
}

static void read_q8_0(const uint8_t *src, size_t n, float *out)
{
    for (size_t i = 0; i < n; i += 32, src += 34) {
        float d = half_at(src);
        for (size_t j = 0; j < 32; j++)
            out[i + j] = d * (float)(int8_t)src[2 + j];
    }
}

/* Scale and minimum j of the 12 packed bytes. The first four of each lie in the low six bits
 * of bytes j and j + 4; of the others the low four bits are a nibble of byte j + 4 and the
 * high two are the top bits of bytes j - 4 and j. */
static void scale_at(const uint8_t *p, size_t j, uint32_t *scale, uint32_t *least)
{
    if (j < 4) {
        *scale = p[j] & 63u;
        *least = p[j + 4] & 63u;
        return;
    }
    *scale = (p[j + 4] & 15u) | (uint32_t)(p[j - 4] >> 6) << 4;
    *least = (uint32_t)(p[j + 4] >> 4) | (uint32_t)(p[j] >> 6) << 4;
}

/* Bytes hold two runs of 32 values: run 2r in the low, run 2r + 1 in the high nibbles. */
static void read_q4_k(const uint8_t *src, size_t n, float *out)
{
    for (size_t i = 0; i < n; i += 256, src += 144) {
        float d = half_at(src), m = half_at(src + 2);
        for (size_t r = 0; r < 8; r++) {
            uint32_t s, z;
            scale_at(src + 4, r, &s, &z);
            float scale = d * (float)s, least = m * (float)z;
            const uint8_t *q = src + 16 + 32 * (r / 2);
            for (size_t j = 0; j < 32; j++) {
                uint32_t v = r % 2 == 0 ? q[j] & 15u : q[j] >> 4;
                out[i + 32 * r + j] = scale * (float)v - least;
            }
        }
    }
}

/* The fifth bit of value j in run r is bit r of high byte j. */
static void read_q5_k(const uint8_t *src, size_t n, float *out)
{
    for (size_t i = 0; i < n; i += 256, src += 176) {
        float d = half_at(src), m = half_at(src + 2);
        const uint8_t *high = src + 16;
        for (size_t r = 0; r < 8; r++) {
            uint32_t s, z;
            scale_at(src + 4, r, &s, &z);
            float scale = d * (float)s, least = m * (float)z;
            const uint8_t *q = src + 48 + 32 * (r / 2);
            for (size_t j = 0; j < 32; j++) {
                uint32_t v = r % 2 == 0 ? q[j] & 15u : q[j] >> 4;
                v |= (uint32_t)(high[j] >> r & 1) << 4;
                out[i + 32 * r + j] = scale * (float)v - least;
            }
        }
    }
}

/* Two halves of 128 values, each four runs of 32: runs 0 and 1 in the low, 2 and 3 in the
 * high nibbles of 64 bytes; high bits of run r at bit 2 r of 32 bytes. */
static void read_q6_k(const uint8_t *src, size_t n, float *out)
{
    for (size_t i = 0; i < n; i += 256, src += 210) {
        float d = half_at(src + 208);
        for (size_t half = 0; half < 2; half++) {
            const uint8_t *low = src + 64 * half;
            const uint8_t *high = src + 128 + 32 * half;
            const uint8_t *scales = src + 192 + 8 * half;
            for (size_t r = 0; r < 4; r++) {
                const uint8_t *q = low + 32 * (r % 2);
                for (size_t j = 0; j < 32; j++) {
                    int32_t v = r < 2 ? q[j] & 15 : q[j] >> 4;
                    v |= (high[j] >> (2 * r) & 3) << 4;
                    float scale = d * (float)(int8_t)scales[2 * r + j / 16];
                    out[i + 128 * half + 32 * r + j] = scale * (float)(v - 32);
                }
            }
        }
    }
}

static const tn_ggml_type types[] = {
    {0, 1, 4, 0, "F32", read_f32},        {1, 1, 2, 0, "F16", read_f16},
    {2, 32, 18, 0, "Q4_0", read_q4_0},    {3, 32, 20, 0, "Q4_1", read_q4_1},
    {6, 32, 22, 0, "Q5_0", read_q5_0},    {7, 32, 24, 0, "Q5_1", read_q5_1},
    {8, 32, 34, 0, "Q8_0", read_q8_0},    {9, 32, 36, 0, "Q8_1", NULL},
    {10, 256, 84, 0, "Q2_K", NULL},       {11, 256, 110, 0, "Q3_K", NULL},
    {12, 256, 144, 0, "Q4_K", read_q4_k}, {13, 256, 176, 0, "Q5_K", read_q5_k},
    {14, 256, 210, 0, "Q6_K", read_q6_k}, {15, 256, 292, 0, "Q8_K", NULL},
    {16, 256, 66, 0, "IQ2_XXS", NULL},    {17, 256, 74, 0, "IQ2_XS", NULL},
    {18, 256, 98, 0, "IQ3_XXS", NULL},    {19, 256, 50, 0, "IQ1_S", NULL},
    {20, 32, 18, 0, "IQ4_NL", NULL},      {21, 256, 110, 0, "IQ3_S", NULL},
    {22, 256, 82, 0, "IQ2_S", NULL},      {23, 256, 136, 0, "IQ4_XS", NULL},
    {24, 1, 1, 0, "I8", NULL},            {25, 1, 2, 0, "I16", NULL},
    {26, 1, 4, 0, "I32", NULL},           {27, 1, 8, 0, "I64", NULL},
    {28, 1, 8, 0, "F64", NULL},           {29, 256, 56, 0, "IQ1_M", NULL},
    {30, 1, 2, 0, "BF16", read_bf16},     {34, 256, 54, 0, "TQ1_0", NULL},
    {35, 256, 66, 0, "TQ2_0", NULL},      {39, 32, 17, 0, "MXFP4", NULL},
    {40, 64, 36, 0, "NVFP4", NULL},
    {41, 128, 18, 0, "Q1_0", NULL},
};

const tn_ggml_type *tn_ggml_type_find(uint32_t id)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (types[i].id == id)
            return &types[i];
    return NULL;
}

const char *tn_ggml_types_read(void)
{
    return "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K or Q6_K";
}

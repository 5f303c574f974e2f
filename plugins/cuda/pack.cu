/* SPDX-License-Identifier: Apache-2.0 */
/* pack.cu - from rows as a reader hands them to tiles. One thread makes eight columns of one
 * row: what one lane of the kernels loads for its row. */
#include "matrix.cuh"
#include "span.cuh"

/* A value of a plain form. */
LANE float plain_at(const void *row, uint32_t form, uint32_t i)
{
    if (form == TN_FORM_F32)
        return ((const float *)row)[i];
    uint16_t u = ((const uint16_t *)row)[i];
    return form == TN_FORM_F16 ? __half2float(__ushort_as_half(u)) : bf16_to_float(u);
}

LANE bool is_plain(uint32_t form)
{
    return form == TN_FORM_F32 || form == TN_FORM_F16 || form == TN_FORM_BF16;
}

LANE const uint8_t *raw_row(const gpu_raw &raw, uint32_t r)
{
    return (const uint8_t *)raw.codes + (uint64_t)r * raw.row_bytes;
}

LANE uint32_t raw_groups(const gpu_raw &raw)
{
    return raw.group > 0 ? (raw.cols + raw.group - 1) / raw.group : 1;
}

LANE uint32_t raw_code(const gpu_raw &raw, uint32_t r, uint32_t c)
{
    const uint8_t *row = raw_row(raw, r);
    return raw.form == TN_FORM_W8G ? row[c] : row[c / 2] >> 4 * (c % 2) & 15;
}

LANE float raw_zero(const gpu_raw &raw, uint32_t r, uint32_t group)
{
    if (raw.zero != NULL)
        return (float)raw.zero[(uint64_t)r * raw_groups(raw) + group];
    return raw.form == TN_FORM_W8G ? 128.0f : 8.0f;
}

/* What column c of raw row r means; 0 behind the last. */
LANE float raw_value(const gpu_raw &raw, uint32_t r, uint32_t c)
{
    if (c >= raw.cols)
        return 0.0f;
    if (is_plain(raw.form))
        return plain_at(raw_row(raw, r), raw.form, c);
    uint32_t g = c / raw.group;
    return ((float)raw_code(raw, r, c) - raw_zero(raw, r, g)) *
           raw.scale[(uint64_t)r * raw_groups(raw) + g];
}

LANE uint16_t checked_half(float x, uint32_t *bad)
{
    __half h = __float2half_rn(x);
    if (!isfinite(__half2float(h)))
        atomicAdd(bad, 1u);
    return __half_as_ushort(h);
}

/* Row `in` of the i-th tile is raw row *r, -1: padding. False: it is of the other half. */
LANE bool raw_index(const gpu_matrix &m, const gpu_raw &raw, uint32_t tile, uint32_t in,
                    int32_t *r)
{
    if (m.pairs && in / 8 + 1 != raw.half)
        return false;
    uint32_t i = m.pairs ? tile * 8 + in % 8 : tile * 16 + in;
    *r = i < raw.rows ? (int32_t)i : -1;
    return true;
}

/* Codes that stay codes. */
LANE void put_codes(const gpu_matrix &m, const gpu_raw &raw, int32_t r, uint32_t col,
                    uint8_t *out)
{
    uint32_t word[2] = {0, 0};
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t c = col + i;
        bool there = r >= 0 && c < raw.cols;
        /* padding: the zero of its group, where there is one */
        uint32_t at = c < m.cols && m.group < m.cols ? c / m.group : 0;
        uint32_t pad = m.form == TN_FORM_W8G ? 128 : 8;
        if (!there && r >= 0 && raw.zero != NULL && at < raw_groups(raw))
            pad = (uint32_t)raw_zero(raw, (uint32_t)r, at);
        uint32_t code = there ? raw_code(raw, (uint32_t)r, c) : pad;
        if (m.form == TN_FORM_W8G)
            word[i / 4] |= code << 8 * (i % 4);
        else
            word[0] |= code << (4 * (i / 2) + 16 * (i % 2));
    }
    ((uint32_t *)out)[0] = word[0];
    if (m.form == TN_FORM_W8G)
        ((uint32_t *)out)[1] = word[1];
}

/* Thread (x, y, z): eight columns, a row of a tile, a tile. */
__global__ void pack_codes(const gpu_matrix m, uint32_t expert, uint32_t tile0, const gpu_raw raw,
                           uint32_t *bad)
{
    uint32_t eight = blockIdx.x * blockDim.x + threadIdx.x, in = blockIdx.y, tile = blockIdx.z;
    int32_t r;
    if (eight * 8 >= m.cols || !raw_index(m, raw, tile, in, &r))
        return;
    uint8_t *out = m.codes + expert * m.codes_size + eight_at(m, tile0 + tile, in, eight * 8);
    if (m.form != TN_FORM_F16) {
        put_codes(m, raw, r, eight * 8, out);
        return;
    }
    for (uint32_t i = 0; i < 8; i++)
        ((uint16_t *)out)[i] =
            checked_half(r >= 0 ? raw_value(raw, (uint32_t)r, eight * 8 + i) : 0.0f, bad);
}

/* Thread (x, y, z): a group. Scales and zeros that stay; rows behind the last get scale 0. */
__global__ void pack_scales(const gpu_matrix m, uint32_t expert, uint32_t tile0,
                            const gpu_raw raw, uint32_t *bad)
{
    uint32_t g = blockIdx.x * blockDim.x + threadIdx.x, in = blockIdx.y, tile = blockIdx.z;
    int32_t r;
    if (g >= m.nquad * 4 || !raw_index(m, raw, tile, in, &r))
        return;
    uint64_t at = scale_at(m, tile0 + tile, in, g);
    bool there = r >= 0 && g < raw_groups(raw);
    float scale = there ? raw.scale[(uint64_t)r * raw_groups(raw) + g] : 0.0f;
    m.scale[expert * m.scale_size / 2 + at] = checked_half(scale, bad);
    if (m.zero != NULL)
        m.zero[expert * m.zero_size + at] =
            (uint8_t)(there ? raw_zero(raw, (uint32_t)r, g) : m.form == TN_FORM_W8G ? 128 : 8);
}

/* Thread (x, y, z): a block of 32 columns of a plain form, requantized: scale = max / 127. What is
 * not finite makes the scale so too, and all that the block multiplies: fmaxf would lose a NaN. */
__global__ void pack_requant(const gpu_matrix m, uint32_t expert, uint32_t tile0,
                             const gpu_raw raw, uint32_t *bad)
{
    uint32_t b = blockIdx.x * blockDim.x + threadIdx.x, in = blockIdx.y, tile = blockIdx.z;
    int32_t r;
    if (b >= m.nquad * 4 || !raw_index(m, raw, tile, in, &r))
        return;
    float most = 0;
    for (uint32_t i = 0; i < 32 && r >= 0; i++) {
        float x = fabsf(raw_value(raw, (uint32_t)r, b * 32 + i));
        most = x <= most ? most : x;
        if (isnan(x))
            break;
    }
    uint16_t scale = checked_half(most / 127.0f, bad);
    m.scale[expert * m.scale_size / 2 + scale_at(m, tile0 + tile, in, b)] = scale;
    float s = __half2float(__ushort_as_half(scale));
    for (uint32_t e = 0; e < 4 && b * 32 < m.cols; e++) {
        uint32_t col = b * 32 + e * 8, word[2] = {0, 0};
        for (uint32_t i = 0; i < 8; i++) {
            float x = r >= 0 && s > 0 ? raw_value(raw, (uint32_t)r, col + i) / s : 0.0f;
            int32_t q = (int32_t)rintf(fminf(fmaxf(x, -127.0f), 127.0f)) + 128;
            word[i / 4] |= (uint32_t)q << 8 * (i % 4);
        }
        uint32_t *out = (uint32_t *)(m.codes + expert * m.codes_size +
                                     eight_at(m, tile0 + tile, in, col));
        out[0] = word[0];
        out[1] = word[1];
    }
}

extern "C" cudaError_t gpu_pack(const gpu_matrix *m, uint32_t expert, const gpu_raw *raw,
                                uint32_t *bad, cudaStream_t stream)
{
    const gpu_matrix w = *m;
    const gpu_raw r = *raw;
    uint32_t per = w.pairs ? 8 : 16, tile0 = r.row0 / per;
    dim3 grid(1, 16, (r.rows + per - 1) / per);
    bool plain = r.form == TN_FORM_F32 || r.form == TN_FORM_F16 || r.form == TN_FORM_BF16;
    if (w.form == TN_FORM_W8G && plain) {
        grid.x = (w.nquad * 4 + 127) / 128;
        GPU_LAUNCH(pack_requant, grid, 128, 0, stream, w, expert, tile0, r, bad);
        return cudaGetLastError();
    }
    grid.x = (w.cols / 8 + 127) / 128;
    GPU_LAUNCH(pack_codes, grid, 128, 0, stream, w, expert, tile0, r, bad);
    if (w.form != TN_FORM_F16) {
        grid.x = (w.nquad * 4 + 127) / 128;
        GPU_LAUNCH(pack_scales, grid, 128, 0, stream, w, expert, tile0, r, bad);
    }
    return cudaGetLastError();
}

__global__ void vector_kernel(const void *x, uint32_t form, uint64_t n, float *out)
{
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        out[i] = plain_at(x, form, (uint32_t)i);
}

extern "C" cudaError_t gpu_pack_vector(const void *x, uint32_t form, uint64_t n, float *out,
                                       cudaStream_t stream)
{
    GPU_LAUNCH(vector_kernel, (unsigned)((n + 255) / 256), 256, 0, stream, x, form, n, out);
    return cudaGetLastError();
}

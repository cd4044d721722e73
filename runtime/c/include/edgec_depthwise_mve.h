/* Depthwise convolution on Cortex-M55 (Helium), kernels up to 4 x 4.
 *
 * The rows under the window lie transposed in scratch: for every channel and every column of the
 * image one word of four rows, row y in byte y modulo 4. A window is then 16 bytes in a row, and
 * one instruction sums all its products; weights of taps that are not there are zero. */
#ifndef EDGEC_DEPTHWISE_MVE_H
#define EDGEC_DEPTHWISE_MVE_H

#include "edgec_gemm_mve.h"

#if EDGEC_MVE

/* Put one row of the image, or padding where x is null, into byte `slot` of the columns of `count`
 * channels, `stride` words apart. */
EDGEC_INLINE void edgec_transpose_row__mve(const int8_t *x, int32_t zero, int32_t width,
                                           int32_t channels, int32_t count, int32_t stride,
                                           int8_t *slot)
{
    const uint16x8_t offsets = vmulq_n_u16(vidupq_n_u16(0U, 1), (uint16_t)(stride * 4));
    const uint16x8_t padding = vdupq_n_u16((uint16_t)(uint8_t)zero);
    for (int32_t c = 0; c < count; c += 8) {
        /* Predicates are computed at run time: GCC 12 miscompiles constant ones. */
        const mve_pred16_t some = vctp16q((uint32_t)(count - c));
        const uint8_t *source = (const uint8_t *)x + c;
        uint8_t *target = (uint8_t *)slot + c * stride * 4;
        if (x == NULL) {
            for (int32_t i = 0; i < width; ++i) {
                vstrbq_scatter_offset_p_u16(target + 4 * i, offsets, padding, some);
            }
        } else if (count - c >= 8) {
            EDGEC_UNROLL_2
            for (int32_t i = 0; i < width; ++i) {
                const uint16x8_t codes = vldrbq_u16(source + i * channels);
                vstrbq_scatter_offset_u16(target + 4 * i, offsets, codes);
            }
        } else {
            for (int32_t i = 0; i < width; ++i) {
                const uint16x8_t codes = vldrbq_z_u16(source + i * channels, some);
                vstrbq_scatter_offset_p_u16(target + 4 * i, offsets, codes, some);
            }
        }
    }
}

/* The weights of one channel, for windows whose first row is in byte `turn`. */
EDGEC_INLINE int8x16_t edgec_turned__mve(const int8_t *w, int32_t turn)
{
    const uint32x4_t words = vldrwq_u32((const uint32_t *)(const void *)w);
    const uint32x4_t up = vshlq_r_u32(words, 8 * turn);
    return vreinterpretq_s8_u32(vorrq_u32(up, vshlq_r_u32(words, 8 * turn - 32)));
}

/* Sum of the products of a window. */
EDGEC_INLINE int32_t edgec_window__mve(const int32_t *columns, int8x16_t w)
{
    return vmladavq_s8(vreinterpretq_s8_s32(vldrwq_s32(columns)), w);
}

/* A row of `width` outputs of `count` (1 to 4) channels; windows are `step` columns apart. */
EDGEC_INLINE void edgec_depthwise_four__mve(const int32_t *columns, int32_t stride, int32_t step,
                                            const int8_t *w, int32_t turn, const int32_t *bias,
                                            const int32_t *multiplier, edgec_epilogue e,
                                            int32_t width, int32_t channels, int32_t count,
                                            int32_t flags, int8_t *y)
{
    const mve_pred16_t some = vctp32q((uint32_t)count);
    const int32x4_t start = (count == 4) ? vldrwq_s32(bias) : vldrwq_z_s32(bias, some);
    const int32x4_t factor = (count == 4) ? vldrwq_s32(multiplier)
                                          : vldrwq_z_s32(multiplier, some);
    const int8x16_t w0 = edgec_turned__mve(w, turn);
    const int8x16_t w1 = edgec_turned__mve(w + 16, turn);
    const int8x16_t w2 = edgec_turned__mve(w + 32, turn);
    const int8x16_t w3 = edgec_turned__mve(w + 48, turn);
    for (int32_t i = 0; i < width; ++i) {
        const int32_t sums[4] = {
            edgec_window__mve(columns, w0), edgec_window__mve(columns + stride, w1),
            edgec_window__mve(columns + 2 * stride, w2),
            edgec_window__mve(columns + 3 * stride, w3)};
        const int32x4_t acc = vaddq_s32(edgec_vector4__mve(sums), start);
        const int32x4_t codes = edgec_requantise4_lean__mve(acc, factor, e, flags);
        edgec_store_some__mve(y, 0, codes, count, flags);
        columns += step;
        y += channels;
    }
}

/* Outputs of `count` channels of an image: `oh` rows of `ow`. w: for every channel kw words of
 * four rows; columns: scratch of `stride` words for each of `count` channels, rounded up to a
 * multiple of 4. */
EDGEC_INLINE void edgec_depthwise_block__mve(const int8_t *x, const int8_t *w, const int32_t *bias,
                                             const int32_t *multiplier, const int32_t *q,
                                             int32_t height, int32_t width, int32_t channels,
                                             int32_t count, int32_t kh, int32_t sy, int32_t sx,
                                             int32_t top, int32_t left, int32_t oh, int32_t ow,
                                             int32_t stride, int32_t flags, int32_t *columns,
                                             int8_t *y)
{
    const edgec_epilogue e = edgec_epilogue_of(q, flags);
    const int32_t zero = q[EDGEC_Q_INPUT_ZERO];
    int32_t next = 0;
    edgec_fill_s8__mve(zero, (count + 3) / 4 * 4 * stride * 4, (int8_t *)columns);
    for (int32_t oy = 0; oy < oh; ++oy) {
        const int32_t first = oy * sy - top;
        for (; next < first + kh; ++next) {
            const int8_t *row = (next < height) ? (x + next * width * channels) : NULL;
            edgec_transpose_row__mve(row, zero, width, channels, count, stride,
                                     (int8_t *)(columns + left) + next % 4);
        }
        int32_t c = 0;
        for (; c + 4 <= count; c += 4) {
            edgec_depthwise_four__mve(columns + c * stride, stride, sx, w + c * 16, first & 3,
                                      bias + c, multiplier + c, e, ow, channels, 4, flags, y + c);
        }
        if (c < count) {
            edgec_depthwise_four__mve(columns + c * stride, stride, sx, w + c * 16, first & 3,
                                      bias + c, multiplier + c, e, ow, channels, count - c, flags,
                                      y + c);
        }
        y += ow * channels;
    }
}

#endif /* EDGEC_MVE */

#endif /* EDGEC_DEPTHWISE_MVE_H */

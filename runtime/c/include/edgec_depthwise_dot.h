/* Depthwise convolution on aarch64 with dot products (Armv8.2 sdot), kernels up to 4 x 4.
 *
 * The rows under the windows of one row of outputs lie transposed in scratch: for every column of
 * the image and every channel the codes of four rows. Four channels of a column are then a vector
 * whose products with the weights one instruction sums; weights of rows that are not there are
 * zero. */
#ifndef EDGEC_DEPTHWISE_DOT_H
#define EDGEC_DEPTHWISE_DOT_H

#include "edgec_gemm_dot.h"

#if EDGEC_NEON && defined(__ARM_FEATURE_DOTPROD)

/* `count` (1 to 16) codes; the others are zero or what follows. */
EDGEC_INLINE int8x16_t edgec_load_codes__dot(const int8_t *x, int32_t count)
{
    if (count == 16) {
        return vld1q_s8(x);
    }
    if (count == 8) {
        return vcombine_s8(vld1_s8(x), vdup_n_s8(0));
    }
    int8_t all[16] = {0};
    memcpy(all, x, (size_t)count);
    return vld1q_s8(all);
}

/* Write `width` columns of `count` channels of four rows; codes of a row are `step[r]` apart. */
EDGEC_INLINE void edgec_transpose_rows__dot(const int8_t *const *row, const int32_t *step,
                                            int32_t kh, int32_t width, int32_t count,
                                            int8_t *columns)
{
    const int32_t groups = (count + 3) / 4;
    for (int32_t i = 0; i < width; ++i) {
        int8x16_t r[4];
        EDGEC_UNROLL_4
        for (int32_t k = 0; k < 4; ++k) {
            r[k] = (k < kh) ? edgec_load_codes__dot(row[k] + i * step[k], count) : r[0];
        }
        const int16x8_t a = vreinterpretq_s16_s8(vzip1q_s8(r[0], r[1]));
        const int16x8_t b = vreinterpretq_s16_s8(vzip1q_s8(r[2], r[3]));
        const int16x8_t c = vreinterpretq_s16_s8(vzip2q_s8(r[0], r[1]));
        const int16x8_t d = vreinterpretq_s16_s8(vzip2q_s8(r[2], r[3]));
        const int16x8_t four[4] = {vzip1q_s16(a, b), vzip2q_s16(a, b), vzip1q_s16(c, d),
                                   vzip2q_s16(c, d)};
        EDGEC_UNROLL_4
        for (int32_t g = 0; g < groups; ++g) {
            vst1q_s8(columns + 16 * g, vreinterpretq_s8_s16(four[g]));
        }
        columns += 16 * groups;
    }
}

/* A row of `width` outputs of `count` (1 to 16) channels; windows are `step` columns apart. */
EDGEC_INLINE void edgec_depthwise_row__dot(const int8_t *columns, int32_t step, const int8_t *w,
                                           const int32_t *bias, const int32_t *multiplier,
                                           edgec_epilogue e, int32_t kw, int32_t width,
                                           int32_t channels, int32_t count, int32_t flags,
                                           int8_t *y)
{
    const int32_t groups = (count + 3) / 4;
    int8x16_t weight[4][4];
    int32x4_t start[4];
    int32x4_t factor[4];
    EDGEC_UNROLL_4
    for (int32_t g = 0; g < groups; ++g) {
        start[g] = vld1q_s32(bias + 4 * g);
        factor[g] = vld1q_s32(multiplier + 4 * g);
        EDGEC_UNROLL_4
        for (int32_t kx = 0; kx < kw; ++kx) {
            weight[kx][g] = vld1q_s8(w + 16 * (kx * groups + g));
        }
    }
    for (int32_t i = 0; i < width; ++i) {
        int32x4_t acc[4];
        EDGEC_UNROLL_4
        for (int32_t g = 0; g < groups; ++g) {
            acc[g] = start[g];
        }
        EDGEC_UNROLL_4
        for (int32_t kx = 0; kx < kw; ++kx) {
            EDGEC_UNROLL_4
            for (int32_t g = 0; g < groups; ++g) {
                const int8x16_t column = vld1q_s8(columns + 16 * (kx * groups + g));
                acc[g] = vdotq_s32(acc[g], column, weight[kx][g]);
            }
        }
        edgec_store_codes__dot(acc, factor, e, groups, count, flags, y);
        columns += 16 * groups * step;
        y += channels;
    }
}

/* Outputs of `count` channels of an image: `oh` rows of `ow`. w: for every column of the kernel,
 * for every channel, four rows; columns: scratch of `stride` columns. */
EDGEC_INLINE void edgec_depthwise_block__dot(const int8_t *x, const int8_t *w, const int32_t *bias,
                                             const int32_t *multiplier, const int32_t *q,
                                             int32_t height, int32_t width, int32_t channels,
                                             int32_t count, int32_t kh, int32_t kw, int32_t sy,
                                             int32_t sx, int32_t top, int32_t left, int32_t oh,
                                             int32_t ow, int32_t stride, int32_t flags,
                                             int32_t *columns, int8_t *y)
{
    const edgec_epilogue e = edgec_epilogue_of(q, flags);
    const int32_t zero = q[EDGEC_Q_INPUT_ZERO];
    const int32_t pitch = (count + 3) / 4 * 16;
    int8_t padding[16];
    memset(padding, (int)zero, sizeof padding);
    memset(columns, (int)zero, (size_t)(stride * pitch));
    for (int32_t oy = 0; oy < oh; ++oy) {
        const int8_t *row[4];
        int32_t step[4];
        for (int32_t ky = 0; ky < 4; ++ky) {
            const int32_t iy = oy * sy - top + ky;
            const int outside = (iy < 0) || (iy >= height);
            row[ky] = outside ? padding : (x + iy * width * channels);
            step[ky] = outside ? 0 : channels;
        }
        edgec_transpose_rows__dot(row, step, kh, width, count, (int8_t *)columns + left * pitch);
        edgec_depthwise_row__dot((const int8_t *)columns, sx, w, bias, multiplier, e, kw, ow, channels, count,
                                 flags, y);
        y += ow * channels;
    }
}

#endif /* EDGEC_NEON && __ARM_FEATURE_DOTPROD */

#endif /* EDGEC_DEPTHWISE_DOT_H */

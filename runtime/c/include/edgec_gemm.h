/* Inner blocks of convolution and fully connected layers: int8 columns, rows of weights as they
 * are, plain loops that compilers vectorise. Those of Cortex-M4, M7 and M33:
 * edgec_gemm_dsp.h, of Cortex-M55: edgec_gemm_mve.h. */
#ifndef EDGEC_GEMM_H
#define EDGEC_GEMM_H

#include "edgec_math.h"

/* ---------------------------------------------------------------- columns (im2col) */

/* Gather the patch whose first tap is (iy, ix) of an H x W x C image into kh * kw * cg bytes. */
EDGEC_INLINE void edgec_column_s8__generic(const int8_t *x, int32_t iy, int32_t ix, int32_t height,
                                           int32_t width, int32_t channels, int32_t cg, int32_t kh,
                                           int32_t kw, int32_t dy, int32_t dx, int32_t zero,
                                           int8_t *column)
{
    const int whole_row = (dx == 1) && (cg == channels) && (ix >= 0) && (ix + kw <= width);
    for (int32_t ky = 0; ky < kh; ++ky) {
        const int32_t y = iy + ky * dy;
        if ((y < 0) || (y >= height)) {
            memset(column, (int)zero, (size_t)(kw * cg));
            column += kw * cg;
        } else if (whole_row) {
            memcpy(column, x + (y * width + ix) * channels, (size_t)(kw * cg));
            column += kw * cg;
        } else {
            for (int32_t kx = 0; kx < kw; ++kx) {
                const int32_t at = ix + kx * dx;
                if ((at < 0) || (at >= width)) {
                    memset(column, (int)zero, (size_t)cg);
                } else {
                    memcpy(column, x + (y * width + at) * channels, (size_t)cg);
                }
                column += cg;
            }
        }
    }
}

/* Copy n bytes and pad with zeros to `padded` bytes. */
EDGEC_INLINE void edgec_pad(const void *x, int32_t n, int32_t padded, void *out)
{
    memcpy(out, x, (size_t)n);
    memset((uint8_t *)out + n, 0, (size_t)(padded - n));
}

/* ---------------------------------------------------------------- generic inner blocks */

EDGEC_INLINE int32_t edgec_dot_s8_s8__generic(const int8_t *a, const int8_t *b, int32_t k)
{
    int32_t acc = 0;
    for (int32_t i = 0; i < k; ++i) {
        acc += (int32_t)a[i] * (int32_t)b[i];
    }
    return acc;
}

/* int16 values times int8 weights. */
EDGEC_INLINE int32_t edgec_dot_s16_s8__generic(const int16_t *a, const int8_t *b, int32_t k)
{
    int32_t acc = 0;
#if EDGEC_MVE
    for (int32_t i = 0; i < k; i += 8) {
        /* A predicate computed at run time: GCC 12 miscompiles constant ones. */
        const mve_pred16_t rest = vctp16q((uint32_t)(k - i));
        acc = vmladavaq_p_s16(acc, vldrhq_z_s16(a + i, rest), vldrbq_z_s16(b + i, rest), rest);
    }
#else
    for (int32_t i = 0; i < k; ++i) {
        acc += (int32_t)a[i] * (int32_t)b[i];
    }
#endif
    return acc;
}

#if EDGEC_MVE
/* Four dot products with one column: acc[r] = sum of column[i] * w[r * k + i]. */
EDGEC_INLINE void edgec_dot4_s8_s8(const int8_t *column, const int8_t *w, int32_t k,
                                   int32_t *acc)
{
    int32_t a0 = 0;
    int32_t a1 = 0;
    int32_t a2 = 0;
    int32_t a3 = 0;
    int32_t i = 0;
    EDGEC_UNROLL_2
    for (; i + 16 <= k; i += 16) {
        const int8x16_t x = vldrbq_s8(column + i);
        a0 = vmladavaq_s8(a0, x, vldrbq_s8(w + i));
        a1 = vmladavaq_s8(a1, x, vldrbq_s8(w + k + i));
        a2 = vmladavaq_s8(a2, x, vldrbq_s8(w + 2 * k + i));
        a3 = vmladavaq_s8(a3, x, vldrbq_s8(w + 3 * k + i));
    }
    if (i < k) {
        /* A predicate computed at run time: GCC 12 miscompiles constant ones. */
        const mve_pred16_t rest = vctp8q((uint32_t)(k - i));
        const int8x16_t x = vldrbq_z_s8(column + i, rest);
        a0 = vmladavaq_p_s8(a0, x, vldrbq_z_s8(w + i, rest), rest);
        a1 = vmladavaq_p_s8(a1, x, vldrbq_z_s8(w + k + i, rest), rest);
        a2 = vmladavaq_p_s8(a2, x, vldrbq_z_s8(w + 2 * k + i, rest), rest);
        a3 = vmladavaq_p_s8(a3, x, vldrbq_z_s8(w + 3 * k + i, rest), rest);
    }
    acc[0] = a0;
    acc[1] = a1;
    acc[2] = a2;
    acc[3] = a3;
}
#elif EDGEC_NEON
/* acc += the products of 16 bytes, in four lanes. */
EDGEC_INLINE int32x4_t edgec_mac16_s8__neon(int32x4_t acc, int8x16_t a, int8x16_t b)
{
#if defined(__ARM_FEATURE_DOTPROD)
    return vdotq_s32(acc, a, b);
#else
    const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
    return vpadalq_s16(vpadalq_s16(acc, low), vmull_high_s8(a, b));
#endif
}

/* Four dot products with one column: acc[r] = sum of column[i] * w[r * k + i]. */
EDGEC_INLINE void edgec_dot4_s8_s8(const int8_t *column, const int8_t *w, int32_t k, int32_t *acc)
{
    int32x4_t a0 = vdupq_n_s32(0);
    int32x4_t a1 = a0;
    int32x4_t a2 = a0;
    int32x4_t a3 = a0;
    int32_t i = 0;
    for (; i + 16 <= k; i += 16) {
        const int8x16_t x = vld1q_s8(column + i);
        a0 = edgec_mac16_s8__neon(a0, x, vld1q_s8(w + i));
        a1 = edgec_mac16_s8__neon(a1, x, vld1q_s8(w + k + i));
        a2 = edgec_mac16_s8__neon(a2, x, vld1q_s8(w + 2 * k + i));
        a3 = edgec_mac16_s8__neon(a3, x, vld1q_s8(w + 3 * k + i));
    }
    acc[0] = vaddvq_s32(a0);
    acc[1] = vaddvq_s32(a1);
    acc[2] = vaddvq_s32(a2);
    acc[3] = vaddvq_s32(a3);
    for (; i < k; ++i) {
        for (int32_t r = 0; r < 4; ++r) {
            acc[r] += (int32_t)column[i] * (int32_t)w[r * k + i];
        }
    }
}
#endif

#if EDGEC_MVE
/* Four dot products with one int16 column: acc[r] = sum of column[i] * w[r * k + i]. */
EDGEC_INLINE void edgec_dot4_s16_s8(const int16_t *column, const int8_t *w, int32_t k,
                                    int32_t *acc)
{
    int32_t a0 = 0;
    int32_t a1 = 0;
    int32_t a2 = 0;
    int32_t a3 = 0;
    for (int32_t i = 0; i < k; i += 8) {
        /* A predicate computed at run time: GCC 12 miscompiles constant ones. */
        const mve_pred16_t rest = vctp16q((uint32_t)(k - i));
        const int16x8_t x = vldrhq_z_s16(column + i, rest);
        a0 = vmladavaq_p_s16(a0, x, vldrbq_z_s16(w + i, rest), rest);
        a1 = vmladavaq_p_s16(a1, x, vldrbq_z_s16(w + k + i, rest), rest);
        a2 = vmladavaq_p_s16(a2, x, vldrbq_z_s16(w + 2 * k + i, rest), rest);
        a3 = vmladavaq_p_s16(a3, x, vldrbq_z_s16(w + 3 * k + i, rest), rest);
    }
    acc[0] = a0;
    acc[1] = a1;
    acc[2] = a2;
    acc[3] = a3;
}
#elif EDGEC_NEON
EDGEC_INLINE int32x4_t edgec_mac8_s16__neon(int32x4_t acc, int16x8_t a, const int8_t *b)
{
    const int16x8_t w = vmovl_s8(vld1_s8(b));
    return vmlal_high_s16(vmlal_s16(acc, vget_low_s16(a), vget_low_s16(w)), a, w);
}

/* Four dot products with one int16 column: acc[r] = sum of column[i] * w[r * k + i]. */
EDGEC_INLINE void edgec_dot4_s16_s8(const int16_t *column, const int8_t *w, int32_t k,
                                    int32_t *acc)
{
    int32x4_t a0 = vdupq_n_s32(0);
    int32x4_t a1 = a0;
    int32x4_t a2 = a0;
    int32x4_t a3 = a0;
    int32_t i = 0;
    for (; i + 8 <= k; i += 8) {
        const int16x8_t x = vld1q_s16(column + i);
        a0 = edgec_mac8_s16__neon(a0, x, w + i);
        a1 = edgec_mac8_s16__neon(a1, x, w + k + i);
        a2 = edgec_mac8_s16__neon(a2, x, w + 2 * k + i);
        a3 = edgec_mac8_s16__neon(a3, x, w + 3 * k + i);
    }
    acc[0] = vaddvq_s32(a0);
    acc[1] = vaddvq_s32(a1);
    acc[2] = vaddvq_s32(a2);
    acc[3] = vaddvq_s32(a3);
    for (; i < k; ++i) {
        for (int32_t r = 0; r < 4; ++r) {
            acc[r] += (int32_t)column[i] * (int32_t)w[r * k + i];
        }
    }
}
#endif

/* `count` (at most 4) dot products of rows of k weights with one column of k codes; column_flags:
 * EDGEC_S16 if they are int16. */
EDGEC_INLINE void edgec_dots__generic(const void *column, const int8_t *w, int32_t k,
                                      int32_t count, int32_t column_flags, int32_t *acc)
{
    int32_t done = 0;
#if EDGEC_MVE || EDGEC_NEON
    if (count == 4) {
        if ((column_flags & EDGEC_S16) != 0) {
            edgec_dot4_s16_s8((const int16_t *)column, w, k, acc);
        } else {
            edgec_dot4_s8_s8((const int8_t *)column, w, k, acc);
        }
        done = 4;
    }
#endif
    for (int32_t r = done; r < count; ++r) {
        acc[r] = ((column_flags & EDGEC_S16) != 0)
                     ? edgec_dot_s16_s8__generic((const int16_t *)column, w + r * k, k)
                     : edgec_dot_s8_s8__generic((const int8_t *)column, w + r * k, k);
    }
}

/* One output row: n outputs from one column of k codes. */
EDGEC_INLINE void edgec_gemm_row__generic(const void *column, const int8_t *w, const int32_t *bias,
                                          const int32_t *multiplier, const int32_t *q, int32_t k,
                                          int32_t n, int32_t column_flags, int32_t flags, void *y)
{
    const edgec_epilogue e = edgec_epilogue_of(q, flags);
    int32_t done = 0;
#if EDGEC_MVE || EDGEC_NEON
    done = n - (n % 4);
    for (int32_t j = 0; j < done; j += 4) {
        int32_t acc4[4];
        edgec_dots__generic(column, w + j * k, k, 4, column_flags, acc4);
#if EDGEC_NEON
        const int32x4_t sum = vaddq_s32(vld1q_s32(acc4), vld1q_s32(bias + j));
        edgec_store4(y, j, edgec_requantise4(sum, vld1q_s32(multiplier + j), e, flags), flags);
#else
        const int32x4_t sum = vaddq_s32(vldrwq_s32(acc4), vldrwq_s32(bias + j));
        edgec_store4(y, j, edgec_requantise4(sum, vldrwq_s32(multiplier + j), e, flags), flags);
#endif
    }
#endif
    for (int32_t j = done; j < n; ++j) {
        int32_t acc;
        edgec_dots__generic(column, w + j * k, k, 1, column_flags, &acc);
        edgec_store(y, j, edgec_requantise(acc + bias[j], multiplier[j], e, flags), flags);
    }
}

#endif /* EDGEC_GEMM_H */

/* Inner blocks of convolution and fully connected layers on Cortex-M4, M7 and M33.
 *
 * A column (the K inputs of one pixel) is expanded once to int16 pairs and reused for all output
 * channels. For every 4 values of K it holds two words, of values (0, 2) and (1, 3), which is what
 * sxtb16 gives; columns of two or four pixels are interleaved, so that one pointer walks them all.
 *
 * Several pixels: two output channels of two pixels at a time, their weights in pairs: two
 * channels share the halfwords of a word, see edgec_mac_pairs__dsp. Or, where weights do not allow
 * that, one output channel of four pixels; weights are rows of K bytes.
 * One pixel: four output channels at a time; for every 4 values of K their weights lie together,
 * or in pairs. */
#ifndef EDGEC_GEMM_DSP_H
#define EDGEC_GEMM_DSP_H

#include "edgec_gemm.h"

#if EDGEC_DSP

/* Written out because GCC keeps several copies of the pointers. */
#define EDGEC_EXPAND__dsp(bytes)                                                                   \
    do {                                                                                           \
        uint32_t even;                                                                             \
        uint32_t odd;                                                                              \
        __asm__ volatile("ldr %[odd], [%[x]], #4\n\t"                                              \
                         "sxtb16 %[even], %[odd]\n\t"                                              \
                         "sxtb16 %[odd], %[odd], ror #8\n\t"                                       \
                         "strd %[even], %[odd], [%[c]], " bytes                                    \
                         : [x] "+r"(x), [c] "+r"(column), [even] "=&r"(even), [odd] "=&r"(odd)     \
                         :                                                                         \
                         : "memory");                                                              \
    } while (0)

/* Expand n bytes (a multiple of 4) into a column, whose pairs of words are `step` (a constant)
 * words apart: 2 for a pixel alone, 4 or 8 for two or four together; returns its end. */
EDGEC_INLINE int32_t *edgec_expand_s8_s16__dsp(const int8_t *x, int32_t n, int32_t step,
                                               int32_t *column)
{
    EDGEC_UNROLL_4
    for (int32_t i = 0; i < n; i += 4) {
        if (step == 2) {
            EDGEC_EXPAND__dsp("#8");
        } else if (step == 4) {
            EDGEC_EXPAND__dsp("#16");
        } else {
            EDGEC_EXPAND__dsp("#32");
        }
    }
    return column;
}

/* The same from int16 values. */
EDGEC_INLINE int32_t *edgec_expand_s16__dsp(const int16_t *x, int32_t n, int32_t step,
                                            int32_t *column)
{
    for (int32_t i = 0; i < n; i += 4) {
        const uint32_t low = edgec_load32(x + i);
        const uint32_t high = edgec_load32(x + i + 2);
        column[0] = (int32_t)((low & 0xFFFFU) | (high << 16));
        column[1] = (int32_t)((low >> 16) | (high & 0xFFFF0000U));
        column += step;
    }
    return column;
}

EDGEC_INLINE int32_t *edgec_fill_s16__dsp(int32_t value, int32_t n, int32_t step, int32_t *column)
{
    const int32_t pair = (int32_t)(((uint32_t)value & 0xFFFFu) | ((uint32_t)value << 16));
    for (int32_t i = 0; i < n; i += 4) {
        column[0] = pair;
        column[1] = pair;
        column += step;
    }
    return column;
}

/* As edgec_column_s8__generic, straight into a column of a quad; cg is a multiple of 4. */
EDGEC_INLINE void edgec_column_s8_s16__dsp(const int8_t *x, int32_t iy, int32_t ix, int32_t height,
                                           int32_t width, int32_t channels, int32_t cg, int32_t kh,
                                           int32_t kw, int32_t dy, int32_t dx, int32_t zero,
                                           int32_t step, int32_t *column)
{
    const int whole_row = (dx == 1) && (cg == channels) && (ix >= 0) && (ix + kw <= width);
    for (int32_t ky = 0; ky < kh; ++ky) {
        const int32_t y = iy + ky * dy;
        if ((y < 0) || (y >= height)) {
            column = edgec_fill_s16__dsp(zero, kw * cg, step, column);
        } else if (whole_row) {
            column = edgec_expand_s8_s16__dsp(x + (y * width + ix) * channels, kw * cg, step,
                                              column);
        } else {
            for (int32_t kx = 0; kx < kw; ++kx) {
                const int32_t at = ix + kx * dx;
                if ((at < 0) || (at >= width)) {
                    column = edgec_fill_s16__dsp(zero, cg, step, column);
                } else {
                    column = edgec_expand_s8_s16__dsp(x + (y * width + at) * channels, cg, step,
                                                      column);
                }
            }
        }
    }
}

/* 4 values of K, one channel, four pixels: 16 products. Written out because compilers spill the
 * accumulators or load word by word. */
EDGEC_INLINE void edgec_mac_quad__dsp(const int32_t **columns, const int8_t **w, int32_t *a0,
                                      int32_t *a1, int32_t *a2, int32_t *a3)
{
    uint32_t even;
    uint32_t odd;
    __asm__ volatile("ldr %[even], [%[w]], #4\n\t"
                     "ldmia %[c]!, {r4, r5, r6, r8}\n\t"
                     "sxtb16 %[odd], %[even], ror #8\n\t"
                     "sxtb16 %[even], %[even]\n\t"
                     "smlad %[a0], r4, %[even], %[a0]\n\t"
                     "smlad %[a0], r5, %[odd], %[a0]\n\t"
                     "smlad %[a1], r6, %[even], %[a1]\n\t"
                     "smlad %[a1], r8, %[odd], %[a1]\n\t"
                     "ldmia %[c]!, {r4, r5, r6, r8}\n\t"
                     "smlad %[a2], r4, %[even], %[a2]\n\t"
                     "smlad %[a2], r5, %[odd], %[a2]\n\t"
                     "smlad %[a3], r6, %[even], %[a3]\n\t"
                     "smlad %[a3], r8, %[odd], %[a3]"
                     : [c] "+r"(*columns), [w] "+r"(*w), [a0] "+r"(*a0), [a1] "+r"(*a1),
                       [a2] "+r"(*a2), [a3] "+r"(*a3), [even] "=&r"(even), [odd] "=&r"(odd)
                     :
                     : "r4", "r5", "r6", "r8", "memory");
}

/* Rows of n outputs for `pixels` (1 to 4) columns of a quad; output rows are `row` codes apart;
 * k is a multiple of 4. Columns beyond `pixels` are computed and not stored. */
EDGEC_INLINE void edgec_gemm_quad_s16_s8__dsp(const int32_t *columns, const int8_t *w,
                                              const int32_t *bias, const int32_t *multiplier,
                                              const int32_t *q, int32_t k, int32_t n,
                                              int32_t flags, int32_t pixels, int32_t row, void *y)
{
    const edgec_epilogue e = edgec_epilogue_of(q, flags);
    for (int32_t j = 0; j < n; ++j) {
        const int32_t *c = columns;
        int32_t a0 = bias[j];
        int32_t a1 = a0;
        int32_t a2 = a0;
        int32_t a3 = a0;
        EDGEC_UNROLL_4
        for (int32_t i = 0; i < k; i += 4) {
            edgec_mac_quad__dsp(&c, &w, &a0, &a1, &a2, &a3);
        }
        const int32_t factor = multiplier[j];
        edgec_store(y, j, edgec_requantise(a0, factor, e, flags), flags);
        if (pixels > 1) {
            edgec_store(y, j + row, edgec_requantise(a1, factor, e, flags), flags);
        }
        if (pixels > 2) {
            edgec_store(y, j + 2 * row, edgec_requantise(a2, factor, e, flags), flags);
        }
        if (pixels > 3) {
            edgec_store(y, j + 3 * row, edgec_requantise(a3, factor, e, flags), flags);
        }
    }
}

/* 4 values of K, four channels, one pixel: 16 products. */
EDGEC_INLINE void edgec_mac_row__dsp(const int32_t **column, const int8_t **w, int32_t *acc)
{
    uint32_t even;
    uint32_t odd;
    uint32_t part;
    __asm__ volatile("ldrd %[even], %[odd], [%[c]], #8\n\t"
                     "ldmia %[w]!, {r4, r5, r6, r8}\n\t"
                     "sxtb16 %[part], r4\n\t"
                     "smlad %[a0], %[part], %[even], %[a0]\n\t"
                     "sxtb16 %[part], r4, ror #8\n\t"
                     "smlad %[a0], %[part], %[odd], %[a0]\n\t"
                     "sxtb16 %[part], r5\n\t"
                     "smlad %[a1], %[part], %[even], %[a1]\n\t"
                     "sxtb16 %[part], r5, ror #8\n\t"
                     "smlad %[a1], %[part], %[odd], %[a1]\n\t"
                     "sxtb16 %[part], r6\n\t"
                     "smlad %[a2], %[part], %[even], %[a2]\n\t"
                     "sxtb16 %[part], r6, ror #8\n\t"
                     "smlad %[a2], %[part], %[odd], %[a2]\n\t"
                     "sxtb16 %[part], r8\n\t"
                     "smlad %[a3], %[part], %[even], %[a3]\n\t"
                     "sxtb16 %[part], r8, ror #8\n\t"
                     "smlad %[a3], %[part], %[odd], %[a3]"
                     : [c] "+r"(*column), [w] "+r"(*w), [a0] "+r"(acc[0]), [a1] "+r"(acc[1]),
                       [a2] "+r"(acc[2]), [a3] "+r"(acc[3]), [even] "=&r"(even),
                       [odd] "=&r"(odd), [part] "=&r"(part)
                     :
                     : "r4", "r5", "r6", "r8", "memory");
}

/* acc += four dot products of weights of four channels with one column; k is a multiple of 4. */
EDGEC_INLINE void edgec_dots4__dsp(const int32_t *column, const int8_t *w, int32_t k, int32_t *acc)
{
    EDGEC_UNROLL_4
    for (int32_t i = 0; i < k; i += 4) {
        edgec_mac_row__dsp(&column, &w, acc);
    }
}

/* One row of n outputs from one column; k is a multiple of 4. Weights of channels beyond n are
 * zeros. */
EDGEC_INLINE void edgec_gemm_row_s16_s8__dsp(const int32_t *column, const int8_t *w,
                                             const int32_t *bias, const int32_t *multiplier,
                                             const int32_t *q, int32_t k, int32_t n, int32_t flags,
                                             void *y)
{
    const edgec_epilogue e = edgec_epilogue_of(q, flags);
    for (int32_t j = 0; j < n; j += 4) {
        int32_t acc[4] = {0, 0, 0, 0};
        edgec_dots4__dsp(column, w + j * k, k, acc);
        for (int32_t r = 0; r < 4; ++r) {
            if (j + r < n) {
                const int32_t sum = acc[r] + bias[j + r];
                edgec_store(y, j + r, edgec_requantise(sum, multiplier[j + r], e, flags), flags);
            }
        }
    }
}

/* 4 values of K, two pairs of channels, one pixel: 16 products. A halfword of weights is 256 b + a:
 * as it is it adds to full = 256 B + A, its low byte alone to A. One sxtb16 in place of two. */
EDGEC_INLINE void edgec_mac_pairs__dsp(const int32_t **column, const int8_t **w, int32_t *low,
                                       int32_t *full)
{
    uint32_t even;
    uint32_t odd;
    __asm__ volatile("ldrd %[even], %[odd], [%[c]], #8\n\t"
                     "ldmia %[w]!, {r4, r5, r6, r8}\n\t"
                     "smlad %[f0], r4, %[even], %[f0]\n\t"
                     "sxtb16 r4, r4\n\t"
                     "smlad %[a0], r4, %[even], %[a0]\n\t"
                     "smlad %[f0], r5, %[odd], %[f0]\n\t"
                     "sxtb16 r5, r5\n\t"
                     "smlad %[a0], r5, %[odd], %[a0]\n\t"
                     "smlad %[f1], r6, %[even], %[f1]\n\t"
                     "sxtb16 r6, r6\n\t"
                     "smlad %[a1], r6, %[even], %[a1]\n\t"
                     "smlad %[f1], r8, %[odd], %[f1]\n\t"
                     "sxtb16 r8, r8\n\t"
                     "smlad %[a1], r8, %[odd], %[a1]"
                     : [c] "+r"(*column), [w] "+r"(*w), [a0] "+r"(low[0]), [a1] "+r"(low[1]),
                       [f0] "+r"(full[0]), [f1] "+r"(full[1]), [even] "=&r"(even),
                       [odd] "=&r"(odd)
                     :
                     : "r4", "r5", "r6", "r8", "memory");
}

/* 4 values of K, a pair of channels, two pixels: 16 products. */
EDGEC_INLINE void edgec_mac_duo__dsp(const int32_t **columns, const int8_t **w, int32_t *low,
                                     int32_t *full)
{
    uint32_t w0;
    uint32_t w1;
    __asm__ volatile("ldrd %[w0], %[w1], [%[w]], #8\n\t"
                     "ldmia %[c]!, {r4, r5, r6, r8}\n\t"
                     "smlad %[f0], r4, %[w0], %[f0]\n\t"
                     "smlad %[f1], r6, %[w0], %[f1]\n\t"
                     "sxtb16 %[w0], %[w0]\n\t"
                     "smlad %[a0], r4, %[w0], %[a0]\n\t"
                     "smlad %[a1], r6, %[w0], %[a1]\n\t"
                     "smlad %[f0], r5, %[w1], %[f0]\n\t"
                     "smlad %[f1], r8, %[w1], %[f1]\n\t"
                     "sxtb16 %[w1], %[w1]\n\t"
                     "smlad %[a0], r5, %[w1], %[a0]\n\t"
                     "smlad %[a1], r8, %[w1], %[a1]"
                     : [c] "+r"(*columns), [w] "+r"(*w), [a0] "+r"(low[0]), [a1] "+r"(low[1]),
                       [f0] "+r"(full[0]), [f1] "+r"(full[1]), [w0] "=&r"(w0), [w1] "=&r"(w1)
                     :
                     : "r4", "r5", "r6", "r8", "memory");
}

/* Full sums may wrap; their difference to A is 256 B modulo 2^32, which holds all of B. */
EDGEC_INLINE int32_t edgec_upper__dsp(int32_t full, int32_t low)
{
    return (int32_t)((uint32_t)full - (uint32_t)low) >> 8;
}

/* As edgec_gemm_quad_s16_s8__dsp for 1 or 2 columns of a duo and weights in pairs, whose sums B
 * stay within 2^23. */
EDGEC_INLINE void edgec_gemm_duo_pairs_s16_s8__dsp(const int32_t *columns, const int8_t *w,
                                                   const int32_t *bias, const int32_t *multiplier,
                                                   const int32_t *q, int32_t k, int32_t n,
                                                   int32_t flags, int32_t pixels, int32_t row,
                                                   void *y)
{
    const edgec_epilogue e = edgec_epilogue_of(q, flags);
    for (int32_t j = 0; j < n; j += 2) {
        const int32_t *c = columns;
        int32_t low[2] = {bias[j], bias[j]};
        int32_t full[2] = {low[0], low[0]};
        EDGEC_UNROLL_8
        for (int32_t i = 0; i < k; i += 4) {
            edgec_mac_duo__dsp(&c, &w, low, full);
        }
        const int32_t factor = multiplier[j];
        edgec_store(y, j, edgec_requantise(low[0], factor, e, flags), flags);
        if (pixels > 1) {
            edgec_store(y, j + row, edgec_requantise(low[1], factor, e, flags), flags);
        }
        if ((n % 2 == 0) || (j + 1 < n)) {
            const int32_t next = multiplier[j + 1];
            const int32_t b0 = edgec_upper__dsp(full[0], low[0]) + bias[j + 1];
            edgec_store(y, j + 1, edgec_requantise(b0, next, e, flags), flags);
            if (pixels > 1) {
                const int32_t b1 = edgec_upper__dsp(full[1], low[1]) + bias[j + 1];
                edgec_store(y, j + 1 + row, edgec_requantise(b1, next, e, flags), flags);
            }
        }
    }
}

/* As edgec_gemm_row_s16_s8__dsp, for weights in pairs, whose sums B stay within 2^23. */
EDGEC_INLINE void edgec_gemm_row_pairs_s16_s8__dsp(const int32_t *column, const int8_t *w,
                                                   const int32_t *bias, const int32_t *multiplier,
                                                   const int32_t *q, int32_t k, int32_t n,
                                                   int32_t flags, void *y)
{
    const edgec_epilogue e = edgec_epilogue_of(q, flags);
    for (int32_t j = 0; j < n; j += 4) {
        const int32_t *c = column;
        int32_t low[2] = {0, 0};
        int32_t full[2] = {0, 0};
        EDGEC_UNROLL_4
        for (int32_t i = 0; i < k; i += 4) {
            edgec_mac_pairs__dsp(&c, &w, low, full);
        }
        const int32_t sums[4] = {low[0], edgec_upper__dsp(full[0], low[0]), low[1],
                                 edgec_upper__dsp(full[1], low[1])};
        for (int32_t r = 0; r < 4; ++r) {
            if (j + r < n) {
                const int32_t acc = sums[r] + bias[j + r];
                edgec_store(y, j + r, edgec_requantise(acc, multiplier[j + r], e, flags), flags);
            }
        }
    }
}

#endif /* EDGEC_DSP */

#endif /* EDGEC_GEMM_DSP_H */

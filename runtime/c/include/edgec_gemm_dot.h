/* Inner blocks of convolution and fully connected layers on aarch64 with dot products (Armv8.2
 * sdot), int8 activations.
 *
 * Sixteen output channels of four pixels at a time: a vector of codes holds 16 values of K of one
 * pixel, a vector of weights 4 values of K of four channels, so that each serves four of the other.
 * For every 4 values of K the weights of sixteen channels lie together; of the channels that are
 * left, those of all, in fours. K and the channels are padded with zeros. */
#ifndef EDGEC_GEMM_DOT_H
#define EDGEC_GEMM_DOT_H

#include "edgec_gemm.h"

#if EDGEC_NEON && defined(__ARM_FEATURE_DOTPROD)

/* acc[p][g] += products of 4 values of K: those of lane `lane` of x[p] with w[g]. */
#define EDGEC_MAC_LANE__dot(lane)                                                                  \
    do {                                                                                           \
        EDGEC_UNROLL_4                                                                             \
        for (int32_t g = 0; g < groups; ++g) {                                                     \
            const int8x16_t wv = vld1q_s8(w + 16 * g);                                             \
            EDGEC_UNROLL_4                                                                         \
            for (int32_t p = 0; p < pixels; ++p) {                                                 \
                acc[p][g] = vdotq_laneq_s32(acc[p][g], wv, x[p], lane);                            \
            }                                                                                      \
        }                                                                                          \
        w += 16 * groups;                                                                          \
    } while (0)

/* Where the codes of up to four pixels lie: `parts` runs of `length` codes, `step[p]` apart. Only the
 * last run may have a length off a multiple of 4. Pixels that there are not repeat others. */
typedef struct {
    const int8_t *at[4];
    int32_t step[4];
    int32_t parts;
    int32_t length;
} edgec_columns;

/* acc[p][g] = bias + dot products of `pixels` (1 or 4) columns with the weights of `groups` (1 to 4)
 * times four channels. */
EDGEC_INLINE void edgec_dots__dot(const edgec_columns *columns, const int8_t *w,
                                  const int32_t *bias, int32_t groups, int32_t pixels,
                                  int32x4_t acc[4][4])
{
    const int32_t k = columns->length;
    const int8_t *at[4];
    int8x16_t x[4];
    EDGEC_UNROLL_4
    for (int32_t p = 0; p < pixels; ++p) {
        at[p] = columns->at[p];
        EDGEC_UNROLL_4
        for (int32_t g = 0; g < groups; ++g) {
            acc[p][g] = vld1q_s32(bias + 4 * g);
        }
    }
    for (int32_t part = 0; part < columns->parts; ++part) {
        int32_t i = 0;
        for (; i + 16 <= k; i += 16) {
            EDGEC_UNROLL_4
            for (int32_t p = 0; p < pixels; ++p) {
                x[p] = vld1q_s8(at[p] + i);
            }
            EDGEC_MAC_LANE__dot(0);
            EDGEC_MAC_LANE__dot(1);
            EDGEC_MAC_LANE__dot(2);
            EDGEC_MAC_LANE__dot(3);
        }
        for (; i + 4 <= k; i += 4) {
            EDGEC_UNROLL_4
            for (int32_t p = 0; p < pixels; ++p) {
                x[p] = vreinterpretq_s8_u32(vdupq_n_u32(edgec_load32(at[p] + i)));
            }
            EDGEC_MAC_LANE__dot(0);
        }
        if (i < k) {
            EDGEC_UNROLL_4
            for (int32_t p = 0; p < pixels; ++p) {
                uint32_t last = 0;
                memcpy(&last, at[p] + i, (size_t)(k - i));
                x[p] = vreinterpretq_s8_u32(vdupq_n_u32(last));
            }
            EDGEC_MAC_LANE__dot(0);
        }
        EDGEC_UNROLL_4
        for (int32_t p = 0; p < pixels; ++p) {
            at[p] += columns->step[p];
        }
    }
}

/* Store the first `count` of four times `groups` codes. */
EDGEC_INLINE void edgec_store_codes__dot(const int32x4_t *acc, const int32x4_t *factor,
                                         edgec_epilogue e, int32_t groups, int32_t count,
                                         int32_t flags, void *y)
{
    if ((flags & (EDGEC_WIDE | EDGEC_S16)) != 0) {
        EDGEC_UNROLL_4
        for (int32_t g = 0; g < groups; ++g) {
            int32_t code[4];
            vst1q_s32(code, edgec_requantise4(acc[g], factor[g], e, flags));
            for (int32_t r = 0; (r < 4) && (4 * g + r < count); ++r) {
                edgec_store(y, 4 * g + r, code[r], flags);
            }
        }
        return;
    }
    const int32x4_t right = vdupq_n_s32(-(e.shift + 1));
    const int16x8_t zero = vdupq_n_s16((int16_t)e.zero_point);
    int16x4_t half[4];
    EDGEC_UNROLL_4
    for (int32_t g = 0; g < 4; ++g) {
        /* As in edgec_requantise4; what saturates here does so in int8 as well. */
        const int32_t known = (g < groups) ? g : 0;
        half[g] = vqmovn_s32(vrshlq_s32(vqdmulhq_s32(acc[known], factor[known]), right));
    }
    const int16x8_t low = vqaddq_s16(vcombine_s16(half[0], half[1]), zero);
    const int16x8_t rest = vqaddq_s16(vcombine_s16(half[2], half[3]), zero);
    int8x16_t codes = vcombine_s8(vqmovn_s16(low), vqmovn_s16(rest));
    if ((flags & EDGEC_CLAMP) != 0) {
        codes = vmaxq_s8(codes, vdupq_n_s8((int8_t)e.low));
        codes = vminq_s8(codes, vdupq_n_s8((int8_t)e.high));
    }
    if (count == 16) {
        vst1q_s8((int8_t *)y, codes);
        return;
    }
    int8_t all[16];
    vst1q_s8(all, codes);
    memcpy(y, all, (size_t)count);
}

/* `count` outputs (at most four times `groups`) of `pixels` (1 or 4) columns, of which those of the
 * first `stored` are stored, `row` codes apart. */
EDGEC_INLINE void edgec_gemm_block__dot(const edgec_columns *columns, const int8_t *w,
                                        const int32_t *bias, const int32_t *multiplier,
                                        edgec_epilogue e, int32_t groups, int32_t count,
                                        int32_t flags, int32_t pixels, int32_t stored, int32_t row,
                                        void *y)
{
    const int32_t width = ((flags & EDGEC_S16) != 0) ? 2 : 1;
    int32x4_t acc[4][4];
    int32x4_t factor[4];
    edgec_dots__dot(columns, w, bias, groups, pixels, acc);
    EDGEC_UNROLL_4
    for (int32_t g = 0; g < groups; ++g) {
        factor[g] = vld1q_s32(multiplier + 4 * g);
    }
    EDGEC_UNROLL_4
    for (int32_t p = 0; p < pixels; ++p) {
        if (p >= stored) {
            break;
        }
        edgec_store_codes__dot(acc[p], factor, e, groups, count, flags,
                               (int8_t *)y + p * row * width);
    }
}

/* Rows of n outputs of the first `stored` (1 to 4) columns; output rows are `row` codes apart. */
EDGEC_INLINE void edgec_gemm_columns__dot(const edgec_columns *columns, const int8_t *w,
                                          const int32_t *bias, const int32_t *multiplier,
                                          const int32_t *q, int32_t n, int32_t flags,
                                          int32_t stored, int32_t row, void *y)
{
    const edgec_epilogue e = edgec_epilogue_of(q, flags);
    const int32_t pixels = (stored > 1) ? 4 : 1;
    const int32_t padded = (columns->parts * columns->length + 3) / 4 * 4;
    const int32_t width = ((flags & EDGEC_S16) != 0) ? 2 : 1;
    const int32_t whole = n - n % 16;
    for (int32_t j = 0; j < whole; j += 16) {
        edgec_gemm_block__dot(columns, w + j * padded, bias + j, multiplier + j, e, 4, 16, flags,
                              pixels, stored, row, (int8_t *)y + j * width);
    }
    if (whole < n) {
        edgec_gemm_block__dot(columns, w + whole * padded, bias + whole, multiplier + whole, e,
                              (n - whole + 3) / 4, n - whole, flags, pixels, stored, row,
                              (int8_t *)y + whole * width);
    }
}

/* Rows of n outputs of `stored` (1 to 4) columns of k codes that follow each other. */
EDGEC_INLINE void edgec_gemm_rows__dot(const int8_t *x, const int8_t *w, const int32_t *bias,
                                       const int32_t *multiplier, const int32_t *q, int32_t k,
                                       int32_t n, int32_t flags, int32_t stored, int32_t row,
                                       void *y)
{
    edgec_columns columns = {.parts = 1, .length = k};
    EDGEC_UNROLL_4
    for (int32_t p = 0; p < 4; ++p) {
        columns.at[p] = x + ((p < stored) ? p : 0) * k;
    }
    edgec_gemm_columns__dot(&columns, w, bias, multiplier, q, n, flags, stored, row, y);
}

/* Outputs of `stored` (1 to 4) pixels of a convolution, from output pixel `first` of the image on.
 * A window is kh runs of `run` codes, a multiple of 4 if there are several. Inside the image they are
 * read where they are; at its border they are gathered in scratch. */
EDGEC_INLINE void edgec_conv_rows__dot(const int8_t *x, int32_t first, int32_t ow, int32_t sy,
                                       int32_t sx, int32_t top, int32_t left, int32_t height,
                                       int32_t width, int32_t channels, int32_t cg, int32_t kh,
                                       int32_t kw, int32_t dy, int32_t dx, const int8_t *w,
                                       const int32_t *bias, const int32_t *multiplier,
                                       const int32_t *q, int32_t n, int32_t flags, int32_t stored,
                                       int32_t row, int8_t *scratch, void *y)
{
    const int32_t run = kw * cg;
    edgec_columns columns = {.parts = kh, .length = run};
    int32_t oy = first / ow;
    int32_t ox = first % ow;
    EDGEC_UNROLL_4
    for (int32_t p = 0; p < stored; ++p) {
        const int32_t iy = oy * sy - top;
        const int32_t ix = ox * sx - left;
        const int inside = (iy >= 0) && (iy + (kh - 1) * dy < height) && (ix >= 0) &&
                           (ix + (kw - 1) * dx < width);
        if (inside) {
            columns.at[p] = x + (iy * width + ix) * channels;
            columns.step[p] = dy * width * channels;
        } else {
            columns.at[p] = scratch + p * kh * run;
            columns.step[p] = run;
            edgec_column_s8__generic(x, iy, ix, height, width, channels, cg, kh, kw, dy, dx,
                                     q[EDGEC_Q_INPUT_ZERO], scratch + p * kh * run);
        }
        ++ox;
        if (ox == ow) {
            ox = 0;
            ++oy;
        }
    }
    EDGEC_UNROLL_4
    for (int32_t p = stored; p < 4; ++p) {
        columns.at[p] = columns.at[0];
        columns.step[p] = columns.step[0];
    }
    edgec_gemm_columns__dot(&columns, w, bias, multiplier, q, n, flags, stored, row, y);
}

#endif /* EDGEC_NEON && __ARM_FEATURE_DOTPROD */

#endif /* EDGEC_GEMM_DOT_H */

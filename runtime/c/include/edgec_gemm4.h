/* Inner blocks of convolution and fully connected layers with int4 weights. Those of Cortex-M4, M7
 * and M33: edgec_gemm4_dsp.h.
 *
 * Storage of n rows of K weights: for every 32 values of K 16 bytes, byte i holding code i in its
 * low half and code i + 16 in its high half; what is left of K follows two neighbours a byte. After
 * all rows come their multipliers, one byte for every `group` values of K (16 or whole 32s), row by
 * row; none where group is 0. acc = sum over groups of multiplier * (sum of codes * x). */
#ifndef EDGEC_GEMM4_H
#define EDGEC_GEMM4_H

#include "edgec_gemm.h"

EDGEC_INLINE int32_t edgec_low4(int32_t byte)
{
    return ((byte & 15) ^ 8) - 8;
}

EDGEC_INLINE int32_t edgec_high4(int32_t byte)
{
    return ((byte >> 4) ^ 8) - 8;
}

/* Bytes of one row of k codes. */
EDGEC_INLINE int32_t edgec_row_bytes4(int32_t k)
{
    return k / 32 * 16 + (k % 32 + 1) / 2;
}

/* The dot product of a column of k codes from code `first` on, a multiple of 32 and of the group,
 * with one row of weights. */
EDGEC_INLINE int32_t edgec_dot_s4__generic(const void *column, const uint8_t *w, const uint8_t *m,
                                           int32_t first, int32_t k, int32_t group,
                                           int32_t column_flags)
{
    int32_t acc = 0;
    int32_t sum = 0;
    int32_t i = first;
    w += first / 2;
    m += (group != 0) ? first / group : 0;
    for (; i + 32 <= k; i += 32) {
        int32_t low = 0;
        int32_t high = 0;
        for (int32_t j = 0; j < 16; ++j) {
            low += edgec_code(column, i + j, column_flags) * edgec_low4(w[j]);
            high += edgec_code(column, i + j + 16, column_flags) * edgec_high4(w[j]);
        }
        w += 16;
        if (group == 16) {
            acc += low * m[0] + high * m[1];
            m += 2;
        } else {
            sum += low + high;
            if ((group != 0) && ((i + 32) % group == 0)) {
                acc += sum * *m++;
                sum = 0;
            }
        }
    }
    for (; i < k; ++i) {
        const int32_t byte = w[(i % 32) / 2];
        sum += edgec_code(column, i, column_flags) *
               ((i % 2 == 0) ? edgec_low4(byte) : edgec_high4(byte));
        if ((group != 0) && ((i + 1) % group == 0)) {
            acc += sum * *m++;
            sum = 0;
        }
    }
    return acc + (((group != 0) && (k % group != 0)) ? sum * *m : sum);
}

#if EDGEC_NEON
/* How many values of K are summed before they meet their multiplier: a constant wherever it is
 * used, so that loops over them unroll. Sums of int16 have room for 128 products of int8 and int4
 * (31 a lane). */
EDGEC_INLINE int32_t edgec_part4(int32_t group)
{
    return ((group == 16) || (group % 64 != 0)) ? 32 : (group % 128 != 0) ? 64 : 128;
}

#if defined(__ARM_FEATURE_DOTPROD)
EDGEC_INLINE int32x4_t edgec_sum4__neon(const int8_t *x, const uint8_t *w, int32_t from, int32_t to,
                                        int32_t half)
{
    int32x4_t sum = vdupq_n_s32(0);
    EDGEC_UNROLL_4
    for (int32_t j = 0; j < to - from; j += 32) {
        const int32_t i = from + j;
        const uint8x16_t codes = vld1q_u8(w + i / 2);
        /* 16 times the code: one instruction less than the code, for a shift of the whole sum. */
        if (half != 2) {
            const int8x16_t low = vreinterpretq_s8_u8(vshlq_n_u8(codes, 4));
            sum = vdotq_s32(sum, vld1q_s8(x + i), low);
        }
        if (half != 1) {
            const int8x16_t high = vreinterpretq_s8_u8(vandq_u8(codes, vdupq_n_u8(0xF0)));
            sum = vdotq_s32(sum, vld1q_s8(x + i + 16), high);
        }
    }
    return vshrq_n_s32(sum, 4);
}

EDGEC_INLINE int32x4_t edgec_group4_s8__neon(int32x4_t total, const int8_t *x, const uint8_t *w,
                                             int32_t from, int32_t to, int32_t half, int32_t m)
{
    const int32x4_t sum = edgec_sum4__neon(x, w, from, to, half);
    return (m == 0) ? vaddq_s32(total, sum) : vmlaq_n_s32(total, sum, m);
}
#else
/* total += m * the products of values `from` to `to` of K (at most 128); half: 1: only the first 16
 * of every 32, 2: only the others; m = 0: there is no multiplier. */
EDGEC_INLINE int32x4_t edgec_group4_s8__neon(int32x4_t total, const int8_t *x, const uint8_t *w,
                                             int32_t from, int32_t to, int32_t half, int32_t m)
{
    int16x8_t sum = vdupq_n_s16(0);
    EDGEC_UNROLL_4
    for (int32_t j = 0; j < to - from; j += 32) {
        const int32_t i = from + j;
        const int8x16_t codes = vreinterpretq_s8_u8(vld1q_u8(w + i / 2));
        if (half != 2) {
            const int8x16_t a = vld1q_s8(x + i);
            const int8x16_t low = vshrq_n_s8(vshlq_n_s8(codes, 4), 4);
            sum = (j == 0) ? vmull_s8(vget_low_s8(a), vget_low_s8(low))
                              : vmlal_s8(sum, vget_low_s8(a), vget_low_s8(low));
            sum = vmlal_high_s8(sum, a, low);
        }
        if (half != 1) {
            const int8x16_t b = vld1q_s8(x + i + 16);
            const int8x16_t high = vshrq_n_s8(codes, 4);
            sum = vmlal_high_s8(vmlal_s8(sum, vget_low_s8(b), vget_low_s8(high)), b, high);
        }
    }
    if (m == 0) {
        return vpadalq_s16(total, sum);
    }
    total = vmlal_n_s16(total, vget_low_s16(sum), (int16_t)m);
    return vmlal_high_n_s16(total, sum, (int16_t)m);
}
#endif

/* The same for int16 codes. */
EDGEC_INLINE int32x4_t edgec_group4_s16__neon(int32x4_t total, const int16_t *x, const uint8_t *w,
                                              int32_t from, int32_t to, int32_t half, int32_t m)
{
    int32x4_t sum = vdupq_n_s32(0);
    EDGEC_UNROLL_4
    for (int32_t j = 0; j < to - from; j += 32) {
        const int32_t i = from + j;
        const int8x16_t codes = vreinterpretq_s8_u8(vld1q_u8(w + i / 2));
        for (int32_t h = 0; h < 2; ++h) {
            if ((half == 2 && h == 0) || (half == 1 && h == 1)) {
                continue;
            }
            const int8x16_t c = (h == 0) ? vshrq_n_s8(vshlq_n_s8(codes, 4), 4)
                                         : vshrq_n_s8(codes, 4);
            const int16x8_t a = vld1q_s16(x + i + 16 * h);
            const int16x8_t b = vld1q_s16(x + i + 16 * h + 8);
            const int16x8_t low = vmovl_s8(vget_low_s8(c));
            const int16x8_t high = vmovl_high_s8(c);
            sum = vmlal_high_s16(vmlal_s16(sum, vget_low_s16(a), vget_low_s16(low)), a, low);
            sum = vmlal_high_s16(vmlal_s16(sum, vget_low_s16(b), vget_low_s16(high)), b, high);
        }
    }
    return (m == 0) ? vaddq_s32(total, sum) : vmlaq_n_s32(total, sum, m);
}

EDGEC_INLINE int32x4_t edgec_group4__neon(int32x4_t total, const void *x, const uint8_t *w,
                                          int32_t from, int32_t to, int32_t half, int32_t m,
                                          int32_t column_flags)
{
    return ((column_flags & EDGEC_S16) != 0)
               ? edgec_group4_s16__neon(total, (const int16_t *)x, w, from, to, half, m)
               : edgec_group4_s8__neon(total, (const int8_t *)x, w, from, to, half, m);
}

/* The products of `part` values of K with four rows, times the multipliers at m. */
EDGEC_INLINE void edgec_part4_rows__neon(const void *column, const uint8_t *w, const uint8_t *m,
                                         int32_t row, int32_t groups, int32_t first, int32_t part,
                                         int32_t group, int32_t column_flags, int32x4_t *total)
{
    EDGEC_UNROLL_4
    for (int32_t r = 0; r < 4; ++r) {
        const uint8_t *scale = m + r * groups + ((group != 0) ? first / group : 0);
        total[r] = edgec_group4__neon(total[r], column, w + r * row, first, first + part,
                                      (group == 16) ? 1 : 0, (group != 0) ? scale[0] : 0,
                                      column_flags);
        if (group == 16) {
            total[r] = edgec_group4__neon(total[r], column, w + r * row, first, first + part, 2,
                                          scale[1], column_flags);
        }
    }
}

/* Four dot products; returns how much of K they took, whole groups of it. */
EDGEC_INLINE int32_t edgec_dot4_s4(const void *column, const uint8_t *w, const uint8_t *m,
                                   int32_t k, int32_t group, int32_t column_flags, int32_t *acc)
{
    const int32_t row = edgec_row_bytes4(k);
    const int32_t groups = (group != 0) ? (k + group - 1) / group : 0;
    const int32_t part = edgec_part4(group);
    const int32_t step = (group > 32) ? group : 32;
    const int32_t whole = k / ((group != 0) ? step : part) * ((group != 0) ? step : part);
    const int32_t done = k / step * step;
    int32x4_t total[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
    for (int32_t first = 0; first < whole; first += part) {
        edgec_part4_rows__neon(column, w, m, row, groups, first, part, group, column_flags, total);
    }
    for (int32_t first = whole; first < done; first += 32) {
        edgec_part4_rows__neon(column, w, m, row, groups, first, 32, group, column_flags, total);
    }
    EDGEC_UNROLL_4
    for (int32_t r = 0; r < 4; ++r) {
        acc[r] = vaddvq_s32(total[r]);
    }
    return done;
}
#elif EDGEC_MVE
/* 8 products of int16 codes with codes of weights: those in the lower (half 0) or upper halves. */
EDGEC_INLINE int32_t edgec_mac8_s4__mve(int32_t sum, const int16_t *x, const uint8_t *w,
                                        int32_t half)
{
    const int16x8_t bytes = vreinterpretq_s16_u16(vldrbq_u16(w));
    const int16x8_t shifted = (half == 0) ? vshlq_n_s16(bytes, 12) : vshlq_n_s16(bytes, 8);
    return vmladavaq_s16(sum, vldrhq_s16(x), vshrq_n_s16(shifted, 12));
}

/* Four dot products; returns how much of K they took, whole groups of it. */
EDGEC_INLINE int32_t edgec_dot4_s4(const void *column, const uint8_t *w, const uint8_t *m,
                                   int32_t k, int32_t group, int32_t column_flags, int32_t *acc)
{
    const int32_t row = edgec_row_bytes4(k);
    const int32_t groups = (group != 0) ? (k + group - 1) / group : 0;
    const int32_t step = (group == 0) ? k / 32 * 32 : (group < 32) ? 32 : group;
    const int32_t done = (step == 0) ? 0 : k / step * step;
    const uint8x16_t upper = vdupq_n_u8(0xF0);
    EDGEC_UNROLL_4
    for (int32_t r = 0; r < 4; ++r) {
        acc[r] = 0;
    }
    for (int32_t first = 0; first < done; first += step) {
        int32_t low[4] = {0, 0, 0, 0};
        int32_t high[4] = {0, 0, 0, 0};
        for (int32_t i = first; i < first + step; i += 32) {
            if ((column_flags & EDGEC_S16) != 0) {
                const int16_t *x = (const int16_t *)column + i;
                EDGEC_UNROLL_4
                for (int32_t r = 0; r < 4; ++r) {
                    const uint8_t *at = w + r * row + i / 2;
                    low[r] = edgec_mac8_s4__mve(edgec_mac8_s4__mve(low[r], x, at, 0), x + 8, at + 8,
                                                0);
                    high[r] = edgec_mac8_s4__mve(edgec_mac8_s4__mve(high[r], x + 16, at, 1), x + 24,
                                                 at + 8, 1);
                }
            } else {
                const int8x16_t a = vldrbq_s8((const int8_t *)column + i);
                const int8x16_t b = vldrbq_s8((const int8_t *)column + i + 16);
                EDGEC_UNROLL_4
                for (int32_t r = 0; r < 4; ++r) {
                    /* 16 times the code: one instruction less, for a shift of the whole sum. */
                    const uint8x16_t codes = vldrbq_u8(w + r * row + i / 2);
                    const int8x16_t c = vreinterpretq_s8_u8(vshlq_n_u8(codes, 4));
                    const int8x16_t d = vreinterpretq_s8_u8(vandq_u8(codes, upper));
                    low[r] = vmladavaq_s8(low[r], a, c);
                    if (group == 16) {
                        high[r] = vmladavaq_s8(high[r], b, d);
                    } else {
                        low[r] = vmladavaq_s8(low[r], b, d);
                    }
                }
            }
        }
        const int32_t shift = ((column_flags & EDGEC_S16) != 0) ? 0 : 4;
        EDGEC_UNROLL_4
        for (int32_t r = 0; r < 4; ++r) {
            const uint8_t *scale = m + r * groups + ((group != 0) ? first / group : 0);
            if (group == 16) {
                acc[r] += (low[r] >> shift) * scale[0] + (high[r] >> shift) * scale[1];
            } else {
                const int32_t sum = (low[r] + high[r]) >> shift;
                acc[r] += (group != 0) ? sum * scale[0] : sum;
            }
        }
    }
    return done;
}
#endif

/* `count` (at most 4) dot products of rows of k int4 weights with one column of k codes. */
EDGEC_INLINE void edgec_dots_s4__generic(const void *column, const uint8_t *w, const uint8_t *m,
                                         int32_t k, int32_t group, int32_t count,
                                         int32_t column_flags, int32_t *acc)
{
    const int32_t row = edgec_row_bytes4(k);
    const int32_t groups = (group != 0) ? (k + group - 1) / group : 0;
    int32_t done = 0;
#if EDGEC_NEON || EDGEC_MVE
    if (count == 4) {
        done = edgec_dot4_s4(column, w, m, k, group, column_flags, acc);
    }
#endif
    for (int32_t r = 0; r < count; ++r) {
        const int32_t rest = (done < k) ? edgec_dot_s4__generic(column, w + r * row, m + r * groups,
                                                                done, k, group, column_flags)
                                        : 0;
        acc[r] = (done != 0) ? acc[r] + rest : rest;
    }
}

/* One output row: n outputs from one column of k codes. */
EDGEC_INLINE void edgec_gemm4_row__generic(const void *column, const void *w, const int32_t *bias,
                                           const int32_t *multiplier, const int32_t *q, int32_t k,
                                           int32_t n, int32_t group, int32_t column_flags,
                                           int32_t flags, void *y)
{
    const edgec_epilogue e = edgec_epilogue_of(q, flags);
    const int32_t row = edgec_row_bytes4(k);
    const int32_t groups = (group != 0) ? (k + group - 1) / group : 0;
    const uint8_t *codes = (const uint8_t *)w;
    const uint8_t *scales = codes + n * row;
    const int32_t count = (n < 4) ? n : 4;
    for (int32_t block = 0; block < n; block += 4) {
        const int32_t j = (block + count <= n) ? block : n - count; /* the last four may overlap */
        int32_t acc[4];
        edgec_dots_s4__generic(column, codes + j * row, scales + j * groups, k, group, count,
                               column_flags, acc);
#if EDGEC_MVE || EDGEC_NEON
        if (count == 4) {
#if EDGEC_NEON
            const int32x4_t sum = vaddq_s32(vld1q_s32(acc), vld1q_s32(bias + j));
            const int32x4_t factor = vld1q_s32(multiplier + j);
#else
            const int32x4_t sum = vaddq_s32(vldrwq_s32(acc), vldrwq_s32(bias + j));
            const int32x4_t factor = vldrwq_s32(multiplier + j);
#endif
            edgec_store4(y, j, edgec_requantise4(sum, factor, e, flags), flags);
            continue;
        }
#endif
        for (int32_t r = 0; r < count; ++r) {
            edgec_store(y, j + r,
                        edgec_requantise(acc[r] + bias[j + r], multiplier[j + r], e, flags), flags);
        }
    }
}

#endif /* EDGEC_GEMM4_H */

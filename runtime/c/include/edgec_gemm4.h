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
/* acc += 16 products of int8 codes from x on. */
EDGEC_INLINE int32x4_t edgec_mac16__neon(int32x4_t acc, const void *x, int32_t i, int8x16_t w,
                                         int32_t column_flags)
{
    if ((column_flags & EDGEC_S16) == 0) {
        return edgec_mac16_s8__neon(acc, vld1q_s8((const int8_t *)x + i), w);
    }
    const int16x8_t a = vld1q_s16((const int16_t *)x + i);
    const int16x8_t b = vld1q_s16((const int16_t *)x + i + 8);
    const int16x8_t low = vmovl_s8(vget_low_s8(w));
    const int16x8_t high = vmovl_high_s8(w);
    acc = vmlal_high_s16(vmlal_s16(acc, vget_low_s16(a), vget_low_s16(low)), a, low);
    return vmlal_high_s16(vmlal_s16(acc, vget_low_s16(b), vget_low_s16(high)), b, high);
}

/* Four dot products; weights enter as 16 times their codes, which costs one instruction less, and
 * |16 * code * x| <= 2^18 leaves room for groups of 2^12; a layer without groups is cut into such.
 * Returns how much of K it took: whole groups of it. */
EDGEC_INLINE int32_t edgec_dot4_s4(const void *column, const uint8_t *w, const uint8_t *m,
                                   int32_t k, int32_t group, int32_t column_flags, int32_t *acc)
{
    const int32_t row = edgec_row_bytes4(k);
    const int32_t groups = (group != 0) ? (k + group - 1) / group : 0;
    const int32_t part = (group != 0) ? ((group < 32) ? 32 : group) : ((k < 4096) ? k / 32 * 32 : 4096);
    int32x4_t total[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
    int32_t done = 0;
    for (; (part != 0) && (done + part <= k); done += part) {
        int32x4_t low[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
        int32x4_t high[4] = {low[0], low[0], low[0], low[0]};
        for (int32_t i = done; i < done + part; i += 32) {
            for (int32_t r = 0; r < 4; ++r) {
                const uint8x16_t codes = vld1q_u8(w + r * row + i / 2);
                const int8x16_t a = vreinterpretq_s8_u8(vshlq_n_u8(codes, 4));
                const int8x16_t b = vreinterpretq_s8_u8(vandq_u8(codes, vdupq_n_u8(0xF0)));
                low[r] = edgec_mac16__neon(low[r], column, i, a, column_flags);
                if (group == 16) {
                    high[r] = edgec_mac16__neon(high[r], column, i + 16, b, column_flags);
                } else {
                    low[r] = edgec_mac16__neon(low[r], column, i + 16, b, column_flags);
                }
            }
        }
        for (int32_t r = 0; r < 4; ++r) {
            const uint8_t *scale = m + r * groups + ((group != 0) ? done / group : 0);
            const int32x4_t sum = vshrq_n_s32(low[r], 4);
            total[r] = (group != 0) ? vmlaq_n_s32(total[r], sum, scale[0]) : vaddq_s32(total[r], sum);
            if (group == 16) {
                total[r] = vmlaq_n_s32(total[r], vshrq_n_s32(high[r], 4), scale[1]);
            }
        }
    }
    for (int32_t r = 0; r < 4; ++r) {
        acc[r] = vaddvq_s32(total[r]);
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
#if EDGEC_NEON
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
    for (int32_t j = 0; j < n; j += 4) {
        const int32_t count = (n - j < 4) ? n - j : 4;
        int32_t acc[4];
        edgec_dots_s4__generic(column, codes + j * row, scales + j * groups, k, group, count,
                               column_flags, acc);
        for (int32_t r = 0; r < count; ++r) {
            edgec_store(y, j + r,
                        edgec_requantise(acc[r] + bias[j + r], multiplier[j + r], e, flags), flags);
        }
    }
}

#endif /* EDGEC_GEMM4_H */

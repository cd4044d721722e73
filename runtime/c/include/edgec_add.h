/* Sums of two tensors. */
#ifndef EDGEC_ADD_H
#define EDGEC_ADD_H

#include "edgec_math.h"

/* Meaning of the further entries of q[]. */
enum {
    EDGEC_ADD_ZERO_A = 4,
    EDGEC_ADD_ZERO_B = 5,
    EDGEC_ADD_FACTOR_A = 6,
    EDGEC_ADD_FACTOR_B = 7
};

/* q[] in registers. `base` is what the zero points and the rounding add to every sum. */
typedef struct {
    int64_t base;
    int32_t factor_a;
    int32_t factor_b;
    int32_t shift;
    int32_t zero_point;
    int32_t low;
    int32_t high;
} edgec_adder;

/* unit is the power of two that the shift accounts for: 2^20 for int8 operands. */
EDGEC_INLINE edgec_adder edgec_adder_of(const int32_t *q, int32_t unit)
{
    edgec_adder s;
    s.factor_a = q[EDGEC_ADD_FACTOR_A];
    s.factor_b = q[EDGEC_ADD_FACTOR_B];
    s.shift = q[EDGEC_Q_SHIFT] - 32;
    s.zero_point = q[EDGEC_Q_ZERO_POINT];
    s.low = q[EDGEC_Q_LOW];
    s.high = q[EDGEC_Q_HIGH];
    s.base = ((int64_t)1 << (q[EDGEC_Q_SHIFT] - 1)) -
             (int64_t)(q[EDGEC_ADD_ZERO_A] * unit) * s.factor_a -
             (int64_t)(q[EDGEC_ADD_ZERO_B] * unit) * s.factor_b;
    return s;
}

/* (a - zero a) * unit * factor a + (b - zero b) * unit * factor b, rounded and shifted, not yet
 * clamped. The shift is at least 33, and floors nest: the high word of the sum is enough. */
EDGEC_INLINE int32_t edgec_sum(int32_t a, int32_t b, int32_t unit, edgec_adder s)
{
    const int64_t sum = s.base + (int64_t)(a * unit) * s.factor_a +
                        (int64_t)(b * unit) * s.factor_b;
    return ((int32_t)(sum >> 32) >> s.shift) + s.zero_point;
}

EDGEC_INLINE int32_t edgec_add(int32_t a, int32_t b, int32_t unit, const int32_t *q)
{
    const edgec_adder s = edgec_adder_of(q, unit);
    return edgec_clamp(edgec_sum(a, b, unit, s), s.low, s.high);
}

#if EDGEC_DSP || EDGEC_MVE || EDGEC_NEON
/* The same sum in 32 bits, for a unit of 2^20: the factors are 65536 high + low, and
 *   (65536 (high_sum + base_high) + (low_sum + base_low)) >> (16 + shift)
 * nests as floors do. */
typedef struct {
    int32_t high_a;
    int32_t high_b;
    int32_t low_a;
    int32_t low_b;
    int32_t base_high; /* the zero point of the output included */
    int32_t base_low;
    int32_t shift;
} edgec_split_adder;

/* The upper part of a factor, so that the lower is an int16. */
EDGEC_INLINE int32_t edgec_upper_factor(int32_t factor)
{
    return ((factor >> 15) + 1) >> 1;
}

/* Whether the upper parts are int16 and nothing below leaves int32. */
EDGEC_INLINE int edgec_may_split(edgec_adder s, int32_t unit)
{
    return (unit == 1048576) && (s.shift >= 4) && (s.shift <= 20) &&
           (edgec_upper_factor(s.factor_a) < 32768) && (edgec_upper_factor(s.factor_b) < 32768);
}

EDGEC_INLINE edgec_split_adder edgec_split(edgec_adder s)
{
    edgec_split_adder r;
    r.high_a = edgec_upper_factor(s.factor_a);
    r.high_b = edgec_upper_factor(s.factor_b);
    r.low_a = s.factor_a - r.high_a * 65536;
    r.low_b = s.factor_b - r.high_b * 65536;
    r.shift = s.shift - 4;
    r.base_high = (int32_t)(s.base >> 36) + s.zero_point * (1 << r.shift);
    r.base_low = (int32_t)((s.base >> 20) & 0xFFFF);
    return r;
}
#endif

#if EDGEC_MVE
/* Four sums. */
EDGEC_INLINE int32x4_t edgec_sum4__mve(int32x4_t a, int32x4_t b, edgec_split_adder s, int32_t low,
                                       int32_t high, int32_t flags)
{
    int32x4_t lower = vmlaq_n_s32(vdupq_n_s32(s.base_low), a, s.low_a);
    lower = vmlaq_n_s32(lower, b, s.low_b);
    int32x4_t upper = vmlaq_n_s32(vdupq_n_s32(s.base_high), a, s.high_a);
    upper = vmlaq_n_s32(upper, b, s.high_b);
    const int32x4_t sum = vshlq_r_s32(vaddq_s32(upper, vshrq_n_s32(lower, 16)), -s.shift);
    if ((flags & EDGEC_CLAMP) != 0) {
        return vminq_s32(vmaxq_s32(sum, vdupq_n_s32(low)), vdupq_n_s32(high));
    }
    return edgec_saturate4__mve(sum);
}

EDGEC_INLINE void edgec_add_split__mve(const int8_t *a, const int8_t *b, int32_t n, edgec_adder s,
                                       int32_t flags, int8_t *y)
{
    const edgec_split_adder r = edgec_split(s);
    int32_t i = 0;
    EDGEC_UNROLL_2
    for (; i + 4 <= n; i += 4) {
        const int32x4_t left = vldrbq_s32(a + i);
        vstrbq_s32(y + i, edgec_sum4__mve(left, vldrbq_s32(b + i), r, s.low, s.high, flags));
    }
    if (i < n) {
        /* A predicate computed at run time: GCC 12 miscompiles constant ones. */
        const mve_pred16_t rest = vctp32q((uint32_t)(n - i));
        const int32x4_t left = vldrbq_z_s32(a + i, rest);
        const int32x4_t right = vldrbq_z_s32(b + i, rest);
        vstrbq_p_s32(y + i, edgec_sum4__mve(left, right, r, s.low, s.high, flags), rest);
    }
}
#elif EDGEC_NEON
/* Four sums of the halfwords a and b. */
EDGEC_INLINE int16x4_t edgec_add4__neon(int16x4_t a, int16x4_t b, edgec_split_adder s)
{
    int32x4_t lower = vmlal_n_s16(vdupq_n_s32(s.base_low), a, (int16_t)s.low_a);
    lower = vmlal_n_s16(lower, b, (int16_t)s.low_b);
    int32x4_t upper = vmlal_n_s16(vdupq_n_s32(s.base_high), a, (int16_t)s.high_a);
    upper = vmlal_n_s16(upper, b, (int16_t)s.high_b);
    return vqmovn_s32(vshlq_s32(vsraq_n_s32(upper, lower, 16), vdupq_n_s32(-s.shift)));
}

EDGEC_INLINE int8x8_t edgec_add8__neon(int8x8_t a, int8x8_t b, edgec_split_adder s)
{
    const int16x8_t left = vmovl_s8(a);
    const int16x8_t right = vmovl_s8(b);
    const int16x4_t low = edgec_add4__neon(vget_low_s16(left), vget_low_s16(right), s);
    const int16x4_t high = edgec_add4__neon(vget_high_s16(left), vget_high_s16(right), s);
    return vqmovn_s16(vcombine_s16(low, high));
}

/* n sums, a multiple of 16. */
EDGEC_INLINE void edgec_add_split__neon(const int8_t *a, const int8_t *b, int32_t n, edgec_adder s,
                                        int32_t flags, int8_t *y)
{
    const edgec_split_adder r = edgec_split(s);
    for (int32_t i = 0; i < n; i += 16) {
        const int8x16_t left = vld1q_s8(a + i);
        const int8x16_t right = vld1q_s8(b + i);
        const int8x8_t low = edgec_add8__neon(vget_low_s8(left), vget_low_s8(right), r);
        const int8x8_t high = edgec_add8__neon(vget_high_s8(left), vget_high_s8(right), r);
        int8x16_t codes = vcombine_s8(low, high);
        if ((flags & EDGEC_CLAMP) != 0) {
            codes = vmaxq_s8(codes, vdupq_n_s8((int8_t)s.low));
            codes = vminq_s8(codes, vdupq_n_s8((int8_t)s.high));
        }
        vst1q_s8(y + i, codes);
    }
}
#elif EDGEC_DSP
/* The halfwords low and high as one word. */
EDGEC_INLINE int16x2_t edgec_halves__dsp(int32_t low, int32_t high)
{
    return (int16x2_t)(((uint32_t)low & 0xFFFFU) | ((uint32_t)high << 16));
}

/* The sum of the two codes in the halfwords of a word, not yet clamped. */
EDGEC_INLINE int32_t edgec_sum_pair__dsp(int16x2_t pair, int16x2_t high, int16x2_t low,
                                         edgec_split_adder s)
{
    return (__smlad(pair, high, s.base_high) + (__smlad(pair, low, s.base_low) >> 16)) >> s.shift;
}

/* n sums, a multiple of 4. */
EDGEC_INLINE void edgec_add_split__dsp(const int8_t *a, const int8_t *b, int32_t n, edgec_adder s,
                                       int32_t flags, int8_t *y)
{
    const edgec_split_adder r = edgec_split(s);
    const int16x2_t high = edgec_halves__dsp(r.high_a, r.high_b);
    const int16x2_t low = edgec_halves__dsp(r.low_a, r.low_b);
    for (int32_t i = 0; i < n; i += 4) {
        const uint32_t left = edgec_load32(a + i);
        const uint32_t right = edgec_load32(b + i);
        const uint32_t even[2] = {(uint32_t)edgec_even_s16(left), (uint32_t)edgec_even_s16(right)};
        const uint32_t odd[2] = {(uint32_t)edgec_odd_s16(left), (uint32_t)edgec_odd_s16(right)};
        const uint32_t pairs[4] = {(even[0] & 0xFFFFU) | (even[1] << 16),
                                   (odd[0] & 0xFFFFU) | (odd[1] << 16),
                                   (even[0] >> 16) | (even[1] & 0xFFFF0000U),
                                   (odd[0] >> 16) | (odd[1] & 0xFFFF0000U)};
        EDGEC_UNROLL_4
        for (int32_t j = 0; j < 4; ++j) {
            int32_t code =
                edgec_saturate_s8(edgec_sum_pair__dsp((int16x2_t)pairs[j], high, low, r));
            if ((flags & EDGEC_CLAMP) != 0) {
                code = edgec_clamp(code, s.low, s.high);
            }
            y[i + j] = (int8_t)code;
        }
    }
}
#endif

/* n sums; y may be a or b. flags: EDGEC_CLAMP. */
EDGEC_INLINE void edgec_add_row_s8(const int8_t *a, const int8_t *b, int32_t n, int32_t unit,
                                   const int32_t *q, int32_t flags, int8_t *y)
{
    const edgec_adder s = edgec_adder_of(q, unit);
    int32_t i = 0;
#if EDGEC_MVE
    if (edgec_may_split(s, unit)) {
        edgec_add_split__mve(a, b, n, s, flags, y);
        i = n;
    }
#elif EDGEC_NEON
    if (edgec_may_split(s, unit)) {
        i = n - n % 16;
        edgec_add_split__neon(a, b, i, s, flags, y);
    }
#elif EDGEC_DSP
    if (edgec_may_split(s, unit)) {
        i = n - n % 4;
        edgec_add_split__dsp(a, b, i, s, flags, y);
    }
#endif
    EDGEC_UNROLL_2
    for (; i < n; ++i) {
        int32_t code = edgec_saturate_s8(edgec_sum(a[i], b[i], unit, s));
        if ((flags & EDGEC_CLAMP) != 0) {
            code = edgec_clamp(code, s.low, s.high);
        }
        y[i] = (int8_t)code;
    }
}

#endif /* EDGEC_ADD_H */

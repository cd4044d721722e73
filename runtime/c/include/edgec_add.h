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

/* n sums; y may be a or b. flags: EDGEC_CLAMP. */
EDGEC_INLINE void edgec_add_row_s8(const int8_t *a, const int8_t *b, int32_t n, int32_t unit,
                                   const int32_t *q, int32_t flags, int8_t *y)
{
    const edgec_adder s = edgec_adder_of(q, unit);
    EDGEC_UNROLL_2
    for (int32_t i = 0; i < n; ++i) {
        int32_t code = edgec_saturate_s8(edgec_sum(a[i], b[i], unit, s));
        if ((flags & EDGEC_CLAMP) != 0) {
            code = edgec_clamp(code, s.low, s.high);
        }
        y[i] = (int8_t)code;
    }
}

#endif /* EDGEC_ADD_H */

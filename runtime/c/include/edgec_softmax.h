/* Integer softmax of one row. exponent[d] = round(exp(-d * scale) * 2^B) for d = max - x. */
#ifndef EDGEC_SOFTMAX_H
#define EDGEC_SOFTMAX_H

#include "edgec_math.h"

/* Probabilities of the first `valid` of n values (all when mask is NULL; those with mask != 0
 * otherwise); the rest get the code of zero. multiplier and q rescale the sum to the output's
 * scale: y = round(256 * e / rescale(sum)) + zero point. */
EDGEC_INLINE void edgec_softmax_any_row_s8(const int8_t *x, const uint8_t *mask, int32_t n,
                                       int32_t valid, const uint32_t *exponent, int32_t multiplier,
                                       const int32_t *q, int8_t *y)
{
    int32_t largest = -128;
    for (int32_t i = 0; i < valid; ++i) {
        const int32_t value = x[i];
        if ((value > largest) && ((mask == NULL) || (mask[i] != 0U))) {
            largest = value;
        }
    }
    uint32_t sum = 0U;
    for (int32_t i = 0; i < valid; ++i) {
        const int32_t value = x[i];
        if ((mask == NULL) || (mask[i] != 0U)) {
            sum += exponent[largest - value];
        }
    }
    uint32_t divisor = (uint32_t)edgec_rescale((int32_t)sum, multiplier, q[EDGEC_Q_SHIFT]);
    divisor = (divisor == 0U) ? 1U : divisor;
    for (int32_t i = 0; i < n; ++i) {
        uint32_t p = 0U;
        if ((i < valid) && ((mask == NULL) || (mask[i] != 0U))) {
            const int32_t value = x[i];
            p = ((exponent[largest - value] << 8) + (divisor >> 1)) / divisor;
        }
        y[i] = (int8_t)edgec_clamp((int32_t)p + q[EDGEC_Q_ZERO_POINT], q[EDGEC_Q_LOW],
                                   q[EDGEC_Q_HIGH]);
    }
}

EDGEC_INLINE void edgec_softmax_row_s8(const int8_t *x, int32_t n, int32_t valid,
                                       const uint32_t *exponent, int32_t multiplier,
                                       const int32_t *q, int8_t *y)
{
    edgec_softmax_any_row_s8(x, NULL, n, valid, exponent, multiplier, q, y);
}

EDGEC_INLINE void edgec_softmax_masked_row_s8(const int8_t *x, const uint8_t *mask, int32_t n,
                                              const uint32_t *exponent, int32_t multiplier,
                                              const int32_t *q, int8_t *y)
{
    edgec_softmax_any_row_s8(x, mask, n, n, exponent, multiplier, q, y);
}

#endif /* EDGEC_SOFTMAX_H */

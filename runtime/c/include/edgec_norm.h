/* Integer LayerNorm and RMSNorm of one row.
 *
 * With a = n * x - sum(x) (LayerNorm) or x - zero (RMSNorm) and v the matching variance term, the
 * normalised value is a / sqrt(v + epsilon), kept with 24 fractional bits; gamma is a multiplier,
 * beta (with the output's zero point) has 12 fractional bits. */
#ifndef EDGEC_NORM_H
#define EDGEC_NORM_H

#include "edgec_math.h"

/* 1 / sqrt(v) = r * 2^-(46 + k) for v > 0; r lies in [2^30, 2^31]. Five Newton steps. */
EDGEC_INLINE uint32_t edgec_inverse_sqrt(uint64_t v, int32_t *k)
{
    int32_t half = 0;
    while (v >= ((uint64_t)1 << 32)) {
        v >>= 2;
        ++half;
    }
    while (v < ((uint64_t)1 << 30)) {
        v <<= 2;
        --half;
    }
    const uint64_t f = v;                     /* v / 2^32 lies in [1/4, 1) */
    uint64_t r = 2469606195U - ((f * 5U) >> 4); /* 2.3 - 1.25 f, 30 fractional bits */
    for (int32_t i = 0; i < 5; ++i) {
        const uint64_t fr2 = (f * ((r * r) >> 30)) >> 32;
        r = (r * (((uint64_t)3 << 30) - fr2)) >> 31;
    }
    *k = half;
    return (uint32_t)r;
}

enum { EDGEC_NORM_RMS = 0, EDGEC_NORM_LAYER = 1 };

/* epsilon: two words, low then high, of epsilon in units of v with 8 fractional bits. flags say
 * how wide the codes of x are (EDGEC_S16: 12 bits in int16). */
EDGEC_INLINE void edgec_norm_row_s8(const void *x, int32_t n, int32_t kind, const int32_t *gamma,
                                    const int32_t *beta, const int32_t *epsilon, const int32_t *q,
                                    int32_t flags, int8_t *y)
{
    int32_t sum = 0;
    int64_t squares = 0;
    const int32_t zero = (kind == EDGEC_NORM_RMS) ? q[EDGEC_Q_INPUT_ZERO] : 0;
    for (int32_t i = 0; i < n; ++i) {
        const int32_t value = edgec_code(x, i, flags) - zero;
        sum += value;
        squares += value * value;
    }
    uint64_t v = (uint64_t)squares;
    if (kind == EDGEC_NORM_LAYER) {
        v = (uint64_t)(n * squares - (int64_t)sum * sum);
    }
    v = (v << 8) + (((uint64_t)(uint32_t)epsilon[1] << 32) | (uint32_t)epsilon[0]);
    int32_t k = 0;
    const uint32_t r = (v == 0U) ? 0U : edgec_inverse_sqrt(v, &k);
    const int32_t narrow = q[EDGEC_Q_SHIFT] - 12;
    for (int32_t i = 0; i < n; ++i) {
        const int32_t value = edgec_code(x, i, flags) - zero;
        const int32_t a = (kind == EDGEC_NORM_LAYER) ? (n * value - sum) : value;
        const int32_t t = (int32_t)(((int64_t)a * (int64_t)r) >> (18 + k));
        const int32_t u = (int32_t)(((int64_t)t * gamma[i]) >> narrow);
        y[i] = (int8_t)edgec_clamp((u + beta[i] + 2048) >> 12, q[EDGEC_Q_LOW], q[EDGEC_Q_HIGH]);
    }
}

#endif /* EDGEC_NORM_H */

/* One row times a Hadamard matrix: butterflies of additions, then the small factor.
 *
 * A row of small * power * inner codes, `inner` fastest: `signs` [small * power] of +-1 multiply
 * it, Sylvester's matrix of order `power` (a
 * power of two) mixes the middle index, `matrix` [small, small] the outer one, all in int32, and
 * the result is rescaled once. The sums fit: whoever calls has seen to it. */
#ifndef EDGEC_HADAMARD_H
#define EDGEC_HADAMARD_H

#include "edgec_math.h"

/* s[0..n) in blocks of `block`: butterflies between elements h = first, 2 first, .. apart. Two
 * stages are done at once, so that every sum is loaded and stored half as often. */
EDGEC_INLINE void edgec_butterflies_s32(int32_t *s, int32_t n, int32_t first, int32_t block)
{
    int32_t h = first;
    for (; h * 4 <= block; h *= 4) {
        for (int32_t start = 0; start < n; start += 4 * h) {
            for (int32_t i = start; i < start + h; ++i) {
                const int32_t a = s[i] + s[i + h];
                const int32_t b = s[i] - s[i + h];
                const int32_t c = s[i + 2 * h] + s[i + 3 * h];
                const int32_t d = s[i + 2 * h] - s[i + 3 * h];
                s[i] = a + c;
                s[i + h] = b + d;
                s[i + 2 * h] = a - c;
                s[i + 3 * h] = b - d;
            }
        }
    }
    if (h < block) {
        for (int32_t start = 0; start < n; start += 2 * h) {
            for (int32_t i = start; i < start + h; ++i) {
                const int32_t a = s[i];
                const int32_t b = s[i + h];
                s[i] = a + b;
                s[i + h] = a - b;
            }
        }
    }
}

/* input_flags: how wide the codes of x are; flags: of y and its epilogue. s: scratch for a row. */
EDGEC_INLINE void edgec_hadamard_row(const void *x, int32_t small, int32_t power, int32_t inner,
                                     const int8_t *signs, const int8_t *matrix, int32_t multiplier,
                                     const int32_t *q, int32_t input_flags, int32_t flags,
                                     int32_t *s, void *y)
{
    const edgec_epilogue e = edgec_epilogue_of(q, flags);
    const int32_t zero = q[EDGEC_Q_INPUT_ZERO];
    const int32_t width = power * inner;
    const int32_t n = small * width;
    for (int32_t i = 0; i < small * power; ++i) {
        for (int32_t j = i * inner; j < (i + 1) * inner; ++j) {
            s[j] = (edgec_code(x, j, input_flags) - zero) * signs[i];
        }
    }
    edgec_butterflies_s32(s, n, inner, width);
    for (int32_t g = 0; g < small; ++g) {
        for (int32_t j = 0; j < width; ++j) {
            int32_t sum = s[j];
            if (small > 1) {
                sum *= matrix[g];
                for (int32_t k = 1; k < small; ++k) {
                    sum += s[k * width + j] * matrix[k * small + g];
                }
            }
            edgec_store(y, g * width + j, edgec_requantise(sum, multiplier, e, flags), flags);
        }
    }
}

#endif /* EDGEC_HADAMARD_H */

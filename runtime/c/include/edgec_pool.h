/* Inner blocks of pooling: `count` channels of one output pixel. The window is already clipped to
 * the image: rows x columns pixels, row_step and `channels` apart. And the mean over masked
 * tokens. */
#ifndef EDGEC_POOL_H
#define EDGEC_POOL_H

#include "edgec_math.h"

EDGEC_INLINE void edgec_max_pool_pixel_s8(const int8_t *x, int32_t row_step, int32_t rows,
                                          int32_t columns, int32_t channels, int32_t count,
                                          int8_t *y)
{
    for (int32_t c = 0; c < count; ++c) {
        int32_t best = -128;
        for (int32_t r = 0; r < rows; ++r) {
            for (int32_t i = 0; i < columns; ++i) {
                const int32_t value = x[r * row_step + i * channels + c];
                best = (value > best) ? value : best;
            }
        }
        y[c] = (int8_t)best;
    }
}

/* multiplier[count] rescales a sum of as many values. */
EDGEC_INLINE void edgec_average_pool_pixel_s8(const int8_t *x, int32_t row_step, int32_t rows,
                                              int32_t columns, int32_t channels, int32_t count,
                                              const int32_t *multiplier, const int32_t *q,
                                              int8_t *y)
{
    const int32_t taps = rows * columns;
    for (int32_t c = 0; c < count; ++c) {
        int32_t sum = -taps * q[EDGEC_Q_INPUT_ZERO];
        for (int32_t r = 0; r < rows; ++r) {
            for (int32_t i = 0; i < columns; ++i) {
                sum += x[r * row_step + i * channels + c];
            }
        }
        y[c] = (int8_t)edgec_requantise_average(sum, multiplier[taps], q);
    }
}

/* Mean of `channels` of a token's `width` over the tokens that mask keeps; multiplier[count]
 * rescales a sum of `count` values. */
EDGEC_INLINE void edgec_masked_mean_s8(const int8_t *x, const uint8_t *mask, int32_t tokens,
                                       int32_t width, int32_t channels,
                                       const int32_t *multiplier, const int32_t *q, int8_t *y)
{
    int32_t count = 0;
    for (int32_t t = 0; t < tokens; ++t) {
        count += (mask[t] != 0U) ? 1 : 0;
    }
    for (int32_t c = 0; c < channels; ++c) {
        int32_t sum = -count * q[EDGEC_Q_INPUT_ZERO];
        for (int32_t t = 0; t < tokens; ++t) {
            sum += (mask[t] != 0U) ? x[t * width + c] : 0;
        }
        y[c] = (int8_t)edgec_requantise_average(sum, multiplier[count], q);
    }
}

#endif /* EDGEC_POOL_H */

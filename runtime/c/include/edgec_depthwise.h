/* Inner block of depthwise convolution: one output pixel, all channels. */
#ifndef EDGEC_DEPTHWISE_H
#define EDGEC_DEPTHWISE_H

#include "edgec_math.h"

/* taps_y x taps_x taps; tap (ky, kx) of channel c is x[ky * row + kx * step + c]. */
EDGEC_INLINE void edgec_depthwise_pixel_s8_s8_s8(const int8_t *x, int32_t row, int32_t step,
                                                 const int8_t *w, const int32_t *bias,
                                                 const int32_t *multiplier, const int32_t *q,
                                                 int32_t taps_y, int32_t taps_x, int32_t channels,
                                                 int32_t flags, int8_t *y)
{
    const edgec_epilogue e = edgec_epilogue_of(q, flags);
    int32_t c = 0;
#if EDGEC_NEON
    for (; c + 8 <= channels; c += 8) {
        int32x4_t low = vld1q_s32(bias + c);
        int32x4_t high = vld1q_s32(bias + c + 4);
        for (int32_t ky = 0; ky < taps_y; ++ky) {
            for (int32_t kx = 0; kx < taps_x; ++kx) {
                const int8x8_t xv = vld1_s8(x + ky * row + kx * step + c);
                const int8x8_t wv = vld1_s8(w + (ky * taps_x + kx) * channels + c);
                const int16x8_t products = vmull_s8(xv, wv);
                low = vaddw_s16(low, vget_low_s16(products));
                high = vaddw_high_s16(high, products);
            }
        }
        low = edgec_requantise4(low, vld1q_s32(multiplier + c), e, flags);
        high = edgec_requantise4(high, vld1q_s32(multiplier + c + 4), e, flags);
        vst1_s8(y + c, vmovn_s16(vcombine_s16(vmovn_s32(low), vmovn_s32(high))));
    }
#elif EDGEC_MVE
    for (; c + 8 <= channels; c += 8) {
        /* Even and odd channels apart, as the widening products give them. */
        const int32x4x2_t start = vld2q_s32(bias + c);
        const int32x4x2_t factor = vld2q_s32(multiplier + c);
        int32x4_t even = start.val[0];
        int32x4_t odd = start.val[1];
        for (int32_t ky = 0; ky < taps_y; ++ky) {
            for (int32_t kx = 0; kx < taps_x; ++kx) {
                const int16x8_t xv = vldrbq_s16(x + ky * row + kx * step + c);
                const int16x8_t wv = vldrbq_s16(w + (ky * taps_x + kx) * channels + c);
                even = vaddq_s32(even, vmullbq_int_s16(xv, wv));
                odd = vaddq_s32(odd, vmulltq_int_s16(xv, wv));
            }
        }
        even = edgec_requantise4(even, factor.val[0], e, flags);
        odd = edgec_requantise4(odd, factor.val[1], e, flags);
        vstrbq_s16(y + c, vmovntq_s32(vmovnbq_s32(vdupq_n_s16(0), even), odd));
    }
    for (; c + 4 <= channels; c += 4) {
        int32x4_t acc4 = vldrwq_s32(bias + c);
        for (int32_t ky = 0; ky < taps_y; ++ky) {
            for (int32_t kx = 0; kx < taps_x; ++kx) {
                const int32x4_t xv = vldrbq_s32(x + ky * row + kx * step + c);
                const int32x4_t wv = vldrbq_s32(w + (ky * taps_x + kx) * channels + c);
                acc4 = vaddq_s32(acc4, vmulq_s32(xv, wv));
            }
        }
        vstrbq_s32(y + c, edgec_requantise4(acc4, vldrwq_s32(multiplier + c), e, flags));
    }
#endif
    for (; c < channels; ++c) {
        int32_t acc = bias[c];
        for (int32_t ky = 0; ky < taps_y; ++ky) {
            for (int32_t kx = 0; kx < taps_x; ++kx) {
                acc += (int32_t)x[ky * row + kx * step + c] *
                       (int32_t)w[(ky * taps_x + kx) * channels + c];
            }
        }
        y[c] = (int8_t)edgec_requantise(acc, multiplier[c], e, flags);
    }
}

#if EDGEC_DSP
/* One tap of four channels: their codes lie in one word, their weights in two, of channels (0, 2)
 * and (1, 3). Written out because compilers load the weights one by one and spill the sums. */
EDGEC_INLINE void edgec_mac_tap__dsp(uint32_t codes, const int16_t **w, int32_t *acc)
{
    uint32_t even;
    uint32_t odd;
    uint32_t part;
    __asm__ volatile("ldrd %[even], %[odd], [%[w]], #8\n\t"
                     "sxtb16 %[part], %[codes]\n\t"
                     "smlabb %[a0], %[part], %[even], %[a0]\n\t"
                     "smlatt %[a2], %[part], %[even], %[a2]\n\t"
                     "sxtb16 %[part], %[codes], ror #8\n\t"
                     "smlabb %[a1], %[part], %[odd], %[a1]\n\t"
                     "smlatt %[a3], %[part], %[odd], %[a3]"
                     : [w] "+r"(*w), [a0] "+r"(acc[0]), [a1] "+r"(acc[1]), [a2] "+r"(acc[2]),
                       [a3] "+r"(acc[3]), [even] "=&r"(even), [odd] "=&r"(odd), [part] "=&r"(part)
                     : [codes] "r"(codes)
                     : "memory");
}

/* As edgec_depthwise_pixel_s8_s8_s8. Weights are int16 pairs: for every four channels, for every
 * tap, two words; channels are padded to a multiple of 4 with zeros. */
EDGEC_INLINE void edgec_depthwise_pixel_s8_s16__dsp(const int8_t *x, int32_t row, int32_t step,
                                                    const int16_t *w, const int32_t *bias,
                                                    const int32_t *multiplier, const int32_t *q,
                                                    int32_t taps_y, int32_t taps_x,
                                                    int32_t channels, int32_t flags, int8_t *y)
{
    const edgec_epilogue e = edgec_epilogue_of(q, flags);
    int32_t c = 0;
    for (; c + 4 <= channels; c += 4) {
        int32_t acc[4] = {bias[c], bias[c + 1], bias[c + 2], bias[c + 3]};
        EDGEC_UNROLL_4
        for (int32_t ky = 0; ky < taps_y; ++ky) {
            EDGEC_UNROLL_4
            for (int32_t kx = 0; kx < taps_x; ++kx) {
                edgec_mac_tap__dsp(edgec_load32(x + ky * row + kx * step + c), &w, acc);
            }
        }
        EDGEC_UNROLL_4
        for (int32_t r = 0; r < 4; ++r) {
            y[c + r] = (int8_t)edgec_requantise(acc[r], multiplier[c + r], e, flags);
        }
    }
    for (int32_t r = 0; c + r < channels; ++r) {
        int32_t acc = bias[c + r];
        const int16_t *tap = w + 2 * (r % 2) + r / 2;
        for (int32_t ky = 0; ky < taps_y; ++ky) {
            for (int32_t kx = 0; kx < taps_x; ++kx) {
                acc += (int32_t)x[ky * row + kx * step + c + r] * (int32_t)*tap;
                tap += 4;
            }
        }
        y[c + r] = (int8_t)edgec_requantise(acc, multiplier[c + r], e, flags);
    }
}
#endif /* EDGEC_DSP */

#endif /* EDGEC_DEPTHWISE_H */

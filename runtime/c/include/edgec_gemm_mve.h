/* Inner blocks of convolution and fully connected layers on Cortex-M55 (Helium), int8 activations.
 *
 * Four output channels of one or two pixels at a time: every vector of weights that is loaded
 * serves both pixels, every vector of codes four channels. For every 16 values of K the weights of
 * four channels lie together; K and the channels are padded with zeros. */
#ifndef EDGEC_GEMM_MVE_H
#define EDGEC_GEMM_MVE_H

#include "edgec_gemm.h"

#if EDGEC_MVE

/* Copy n bytes. May write up to 15 bytes more. */
EDGEC_INLINE void edgec_copy_s8__mve(const int8_t *x, int32_t n, int8_t *out)
{
    int32_t i = 0;
    EDGEC_UNROLL_4
    for (; i + 16 <= n; i += 16) {
        vstrbq_s8(out + i, vldrbq_s8(x + i));
    }
    if (i < n) {
        vstrbq_s8(out + i, vldrbq_z_s8(x + i, vctp8q((uint32_t)(n - i))));
    }
}

/* Write n times value. May write up to 15 bytes more. */
EDGEC_INLINE void edgec_fill_s8__mve(int32_t value, int32_t n, int8_t *out)
{
    const int8x16_t same = vdupq_n_s8((int8_t)value);
    EDGEC_UNROLL_4
    for (int32_t i = 0; i < n; i += 16) {
        vstrbq_s8(out + i, same);
    }
}

/* As edgec_column_s8__generic. May write up to 15 bytes more. */
EDGEC_INLINE void edgec_column_s8__mve(const int8_t *x, int32_t iy, int32_t ix, int32_t height,
                                       int32_t width, int32_t channels, int32_t cg, int32_t kh,
                                       int32_t kw, int32_t dy, int32_t dx, int32_t zero,
                                       int8_t *column)
{
    const int whole_row = (dx == 1) && (cg == channels) && (ix >= 0) && (ix + kw <= width);
    for (int32_t ky = 0; ky < kh; ++ky) {
        const int32_t y = iy + ky * dy;
        if ((y < 0) || (y >= height)) {
            edgec_fill_s8__mve(zero, kw * cg, column);
        } else if (whole_row) {
            edgec_copy_s8__mve(x + (y * width + ix) * channels, kw * cg, column);
        } else {
            for (int32_t kx = 0; kx < kw; ++kx) {
                const int32_t at = ix + kx * dx;
                if ((at < 0) || (at >= width)) {
                    edgec_fill_s8__mve(zero, cg, column + kx * cg);
                } else {
                    edgec_copy_s8__mve(x + (y * width + at) * channels, cg, column + kx * cg);
                }
            }
        }
        column += kw * cg;
    }
}

/* Four sums as a vector. */
EDGEC_INLINE int32x4_t edgec_vector4__mve(const int32_t *a)
{
    int32x4_t sums;
    /* Compilers go through memory or move word by word. */
    __asm__("vmov %q0[2], %q0[0], %1, %3\n\t"
            "vmov %q0[3], %q0[1], %2, %4"
            : "=&w"(sums)
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]));
    return sums;
}

/* Store `count` (1 to 4) codes from y[i] on, in the width that flags name. */
EDGEC_INLINE void edgec_store_some__mve(void *y, int32_t i, int32x4_t codes, int32_t count,
                                        int32_t flags)
{
    if (count == 4) {
        edgec_store4(y, i, codes, flags);
    } else if ((flags & EDGEC_S16) != 0) {
        vstrhq_p_s32((int16_t *)y + i, codes, vctp32q((uint32_t)count));
    } else {
        vstrbq_p_s32((int8_t *)y + i, codes, vctp32q((uint32_t)count));
    }
}

/* Products of 16 values of K with four channels, codes in vector x, or in x and z of two pixels.
 * Written out because GCC copies sums between registers and spills them. */
#define EDGEC_MAC_ONE__mve(x)                                                                      \
    "vldrb.8 q2, [%[w]], #16\n\t"                                                                  \
    "vldrb.8 q3, [%[w]], #16\n\t"                                                                  \
    "vmlava.s8 %[a0], " x ", q2\n\t"                                                               \
    "vmlava.s8 %[a1], " x ", q3\n\t"                                                               \
    "vldrb.8 q2, [%[w]], #16\n\t"                                                                  \
    "vldrb.8 q3, [%[w]], #16\n\t"                                                                  \
    "vmlava.s8 %[a2], " x ", q2\n\t"                                                               \
    "vmlava.s8 %[a3], " x ", q3\n\t"
#define EDGEC_MAC_TWO__mve(x, z)                                                                   \
    "vldrb.8 q2, [%[w]], #16\n\t"                                                                  \
    "vldrb.8 q3, [%[w]], #16\n\t"                                                                  \
    "vmlava.s8 %[a0], " x ", q2\n\t"                                                               \
    "vmlava.s8 %[b0], " z ", q2\n\t"                                                               \
    "vldrb.8 q2, [%[w]], #16\n\t"                                                                  \
    "vmlava.s8 %[a1], " x ", q3\n\t"                                                               \
    "vmlava.s8 %[b1], " z ", q3\n\t"                                                               \
    "vldrb.8 q3, [%[w]], #16\n\t"                                                                  \
    "vmlava.s8 %[a2], " x ", q2\n\t"                                                               \
    "vmlava.s8 %[b2], " z ", q2\n\t"                                                               \
    "vmlava.s8 %[a3], " x ", q3\n\t"                                                               \
    "vmlava.s8 %[b3], " z ", q3\n\t"
#define EDGEC_STEP_ONE__mve "vldrb.8 q0, [%[c0]], #16\n\t" EDGEC_MAC_ONE__mve("q0")
#define EDGEC_STEP_TWO__mve                                                                        \
    "vldrb.8 q0, [%[c0]], #16\n\tvldrb.8 q1, [%[c1]], #16\n\t" EDGEC_MAC_TWO__mve("q0", "q1")
#define EDGEC_LOOP__mve(step) "1:\n\t" step step "subs %[n], #1\n\tbne 1b"
/* The instruction wants its sum in an even register, and the eight of two pixels need them all:
 * GCC does not find that by itself. */
#define EDGEC_SUMS_ONE__mve [a0] "+r"(a0), [a1] "+r"(a1), [a2] "+r"(a2), [a3] "+r"(a3)
#define EDGEC_SUMS_TWO__mve [b0] "+r"(b0), [b1] "+r"(b1), [b2] "+r"(b2), [b3] "+r"(b3)
#define EDGEC_REGISTERS__mve(p, s, r0, r1, r2, r3)                                                 \
    register int32_t p##0 __asm__(r0) = s[0];                                                      \
    register int32_t p##1 __asm__(r1) = s[1];                                                      \
    register int32_t p##2 __asm__(r2) = s[2];                                                      \
    register int32_t p##3 __asm__(r3) = s[3]
#define EDGEC_PUT__mve(p, s) (s[0] = p##0, s[1] = p##1, s[2] = p##2, s[3] = p##3)
#define EDGEC_VECTORS__mve "q0", "q1", "q2", "q3", "cc", "memory"

/* sum += four dot products of k codes with weights of four channels. */
EDGEC_INLINE void edgec_dots_one__mve(const int8_t *c0, const int8_t *w, int32_t k, int32_t *sum)
{
    EDGEC_REGISTERS__mve(a, sum, "r0", "r2", "r4", "r6");
    int32_t n = k / 32;
    if ((k % 32) >= 16) {
        __asm__ volatile(EDGEC_STEP_ONE__mve
                         : [c0] "+r"(c0), [w] "+r"(w), EDGEC_SUMS_ONE__mve
                         :
                         : EDGEC_VECTORS__mve);
    }
    if (n > 0) {
        __asm__ volatile(EDGEC_LOOP__mve(EDGEC_STEP_ONE__mve)
                         : [c0] "+r"(c0), [w] "+r"(w), [n] "+r"(n), EDGEC_SUMS_ONE__mve
                         :
                         : EDGEC_VECTORS__mve);
    }
    if ((k % 16) != 0) {
        /* A predicate computed at run time: GCC 12 miscompiles constant ones. */
        const int8x16_t x = vldrbq_z_s8(c0, vctp8q((uint32_t)(k % 16)));
        __asm__ volatile(EDGEC_MAC_ONE__mve("%q[x]")
                         : [w] "+r"(w), EDGEC_SUMS_ONE__mve
                         : [x] "w"(x)
                         : EDGEC_VECTORS__mve);
    }
    EDGEC_PUT__mve(a, sum);
}

/* The same for two columns. */
EDGEC_INLINE void edgec_dots_two__mve(const int8_t *c0, const int8_t *c1, const int8_t *w,
                                      int32_t k, int32_t *sum, int32_t *other)
{
    EDGEC_REGISTERS__mve(a, sum, "r0", "r2", "r4", "r6");
    EDGEC_REGISTERS__mve(b, other, "r8", "r10", "r12", "lr");
    int32_t n = k / 32;
    if ((k % 32) >= 16) {
        __asm__ volatile(EDGEC_STEP_TWO__mve
                         : [c0] "+r"(c0), [c1] "+r"(c1), [w] "+r"(w), EDGEC_SUMS_ONE__mve,
                           EDGEC_SUMS_TWO__mve
                         :
                         : EDGEC_VECTORS__mve);
    }
    if (n > 0) {
        __asm__ volatile(EDGEC_LOOP__mve(EDGEC_STEP_TWO__mve)
                         : [c0] "+r"(c0), [c1] "+r"(c1), [w] "+r"(w), [n] "+r"(n),
                           EDGEC_SUMS_ONE__mve, EDGEC_SUMS_TWO__mve
                         :
                         : EDGEC_VECTORS__mve);
    }
    if ((k % 16) != 0) {
        const mve_pred16_t rest = vctp8q((uint32_t)(k % 16));
        const int8x16_t x = vldrbq_z_s8(c0, rest);
        const int8x16_t z = vldrbq_z_s8(c1, rest);
        __asm__ volatile(EDGEC_MAC_TWO__mve("%q[x]", "%q[z]")
                         : [w] "+r"(w), EDGEC_SUMS_ONE__mve, EDGEC_SUMS_TWO__mve
                         : [x] "w"(x), [z] "w"(z)
                         : EDGEC_VECTORS__mve);
    }
    EDGEC_PUT__mve(a, sum);
    EDGEC_PUT__mve(b, other);
}

/* `count` (1 to 4) outputs of `pixels` (1 or 2) columns c0, c1 of k codes; those of the second are
 * `row` codes after y. */
EDGEC_INLINE void edgec_gemm_block__mve(const int8_t *c0, const int8_t *c1, const int8_t *w,
                                        const int32_t *bias, const int32_t *multiplier,
                                        edgec_epilogue e, int32_t k, int32_t count, int32_t flags,
                                        int32_t pixels, int32_t row, void *y)
{
    int32_t a[4] = {bias[0], (count > 1) ? bias[1] : 0, (count > 2) ? bias[2] : 0,
                    (count > 3) ? bias[3] : 0};
    int32_t b[4] = {a[0], a[1], a[2], a[3]};
    if (pixels > 1) {
        edgec_dots_two__mve(c0, c1, w, k, a, b);
    } else {
        edgec_dots_one__mve(c0, w, k, a);
    }
    const int32x4_t factor = (count == 4) ? vldrwq_s32(multiplier)
                                          : vldrwq_z_s32(multiplier, vctp32q((uint32_t)count));
    edgec_store_some__mve(y, 0, edgec_requantise4(edgec_vector4__mve(a), factor, e, flags), count,
                          flags);
    if (pixels > 1) {
        edgec_store_some__mve(y, row, edgec_requantise4(edgec_vector4__mve(b), factor, e, flags),
                              count, flags);
    }
}

/* Rows of n outputs of `pixels` (1 or 2) columns c0, c1 of k codes; output rows are `row` codes
 * apart. */
EDGEC_INLINE void edgec_gemm_rows__mve(const int8_t *c0, const int8_t *c1, const int8_t *w,
                                       const int32_t *bias, const int32_t *multiplier,
                                       const int32_t *q, int32_t k, int32_t n, int32_t flags,
                                       int32_t pixels, int32_t row, void *y)
{
    const edgec_epilogue e = edgec_epilogue_of(q, flags);
    const int32_t padded = (k + 15) / 16 * 16;
    const int32_t width = ((flags & EDGEC_S16) != 0) ? 2 : 1;
    int32_t j = 0;
    for (; j + 4 <= n; j += 4) {
        edgec_gemm_block__mve(c0, c1, w + j * padded, bias + j, multiplier + j, e, k, 4, flags,
                              pixels, row, (int8_t *)y + j * width);
    }
    if (j < n) {
        edgec_gemm_block__mve(c0, c1, w + j * padded, bias + j, multiplier + j, e, k, n - j, flags,
                              pixels, row, (int8_t *)y + j * width);
    }
}

#endif /* EDGEC_MVE */

#endif /* EDGEC_GEMM_MVE_H */

/* Inner blocks of layers with int4 weights on Cortex-M4, M7 and M33.
 *
 * Columns are those of edgec_gemm_dsp.h. A halfword of weights holds the codes w0 to w3 of four
 * channels for one value of K: (w0 + 8) + 16 (w1 + 8) + 256 (w2 + 8) + 4096 w3. As it is it adds to
 * one sum of products, without its upper nibble to a second and so on, so that four sums cost three
 * masks and no unpacking; their differences, shifted, are the four channels' sums (modulo 2^32, of
 * which 2^19 are left for the last: K is cut into parts). 8 times the sum of the column's part is
 * taken off again. Stream of four channels: for every part of K the words of every 4 values, (0, 2)
 * and (1, 3); with groups, then a word with the part's four multipliers. */
#ifndef EDGEC_GEMM4_DSP_H
#define EDGEC_GEMM4_DSP_H

#include "edgec_gemm_dsp.h"

#if EDGEC_DSP

/* One word of weights in w with the word of codes in x. */
#define EDGEC_MAC4_ONE__dsp(w, x)                                                                  \
    "smlad %[s0], " w ", " x ", %[s0]\n\t"                                                         \
    "bic " w ", " w ", #0xF000F000\n\t"                                                            \
    "smlad %[s1], " w ", " x ", %[s1]\n\t"                                                         \
    "and " w ", " w ", #0x00FF00FF\n\t"                                                            \
    "smlad %[s2], " w ", " x ", %[s2]\n\t"                                                         \
    "and " w ", " w ", #0x000F000F\n\t"                                                            \
    "smlad %[s3], " w ", " x ", %[s3]\n\t"

/* 4 values of K, four channels, one pixel: 16 products. */
EDGEC_INLINE void edgec_mac4_one__dsp(const int32_t **column, const uint8_t **w, int32_t *s)
{
    uint32_t w0;
    uint32_t w1;
    uint32_t x0;
    uint32_t x1;
    __asm__ volatile("ldrd %[w0], %[w1], [%[w]], #8\n\t"
                     "ldrd %[x0], %[x1], [%[c]], #8\n\t" EDGEC_MAC4_ONE__dsp("%[w0]", "%[x0]")
                         EDGEC_MAC4_ONE__dsp("%[w1]", "%[x1]")
                     : [c] "+r"(*column), [w] "+r"(*w), [s0] "+r"(s[0]), [s1] "+r"(s[1]),
                       [s2] "+r"(s[2]), [s3] "+r"(s[3]), [w0] "=&r"(w0), [w1] "=&r"(w1),
                       [x0] "=&r"(x0), [x1] "=&r"(x1)
                     :
                     : "memory");
}

/* One word of weights with the words of codes at offsets x0 and x1 of two pixels. */
#define EDGEC_MAC4_TWO__dsp(x0, x1)                                                                \
    "ldr r2, [r1], #4\n\t"                                                                         \
    "ldr r3, [r0, #" x0 "]\n\t"                                                                    \
    "ldr lr, [r0, #" x1 "]\n\t"                                                                    \
    "smlad r4, r2, r3, r4\n\t"                                                                     \
    "smlad r9, r2, lr, r9\n\t"                                                                     \
    "bic r2, r2, #0xF000F000\n\t"                                                                  \
    "smlad r5, r2, r3, r5\n\t"                                                                     \
    "smlad r10, r2, lr, r10\n\t"                                                                   \
    "and r2, r2, #0x00FF00FF\n\t"                                                                  \
    "smlad r6, r2, r3, r6\n\t"                                                                     \
    "smlad r11, r2, lr, r11\n\t"                                                                   \
    "and r2, r2, #0x000F000F\n\t"                                                                  \
    "smlad r8, r2, r3, r8\n\t"                                                                     \
    "smlad r12, r2, lr, r12\n\t"
#define EDGEC_STEP4_TWO__dsp(a, b, c, d) EDGEC_MAC4_TWO__dsp(a, c) EDGEC_MAC4_TWO__dsp(b, d)
/* 13 registers are taken and compilers offer no more, so the count waits on the stack. */
#define EDGEC_LOOP4_TWO__dsp(steps, bytes)                                                         \
    "push {r2, r3}\n\t"                                                                            \
    "ldm r3, {r4, r5, r6, r8, r9, r10, r11, r12}\n"                                                \
    "1:\n\t" steps "adds r0, #" bytes "\n\t"                                                       \
    "ldr r2, [sp]\n\t"                                                                             \
    "subs r2, #1\n\t"                                                                              \
    "str r2, [sp]\n\t"                                                                             \
    "bne 1b\n\t"                                                                                   \
    "pop {r2, r3}\n\t"                                                                             \
    "stm r3, {r4, r5, r6, r8, r9, r10, r11, r12}\n\t"

/* k (a multiple of 4) values of K, four channels, two pixels: sums[0..3] and sums[4..7]. */
EDGEC_INLINE void edgec_dots4_two__dsp(const int32_t **columns, const uint8_t **w, int32_t k,
                                       int32_t *sums)
{
    register const int32_t *c __asm__("r0") = *columns;
    register const uint8_t *stream __asm__("r1") = *w;
    register int32_t *p __asm__("r3") = sums;
    if (k >= 16) {
        register int32_t n __asm__("r2") = k / 16;
        __asm__ volatile(EDGEC_LOOP4_TWO__dsp(
                             EDGEC_STEP4_TWO__dsp("0", "4", "8", "12")
                                 EDGEC_STEP4_TWO__dsp("16", "20", "24", "28")
                                     EDGEC_STEP4_TWO__dsp("32", "36", "40", "44")
                                         EDGEC_STEP4_TWO__dsp("48", "52", "56", "60"),
                             "64")
                         : "+r"(c), "+r"(stream), "+r"(n), "+r"(p)
                         :
                         : "r4", "r5", "r6", "r8", "r9", "r10", "r11", "r12", "lr", "cc",
                           "memory");
    }
    if ((k % 16) != 0) {
        register int32_t n __asm__("r2") = k % 16 / 4;
        __asm__ volatile(EDGEC_LOOP4_TWO__dsp(EDGEC_STEP4_TWO__dsp("0", "4", "8", "12"), "16")
                         : "+r"(c), "+r"(stream), "+r"(n), "+r"(p)
                         :
                         : "r4", "r5", "r6", "r8", "r9", "r10", "r11", "r12", "lr", "cc",
                           "memory");
    }
    *columns = c;
    *w = stream;
}

/* 8 times the sum of each part of a column of k codes whose pairs of words are `step` apart. */
EDGEC_INLINE void edgec_sums8__dsp(const int32_t *column, int32_t k, int32_t part, int32_t step,
                                   int32_t *sums)
{
    for (int32_t first = 0; first < k; first += part) {
        const int32_t count = (k - first < part) ? k - first : part;
        int32_t sum = 0;
        EDGEC_UNROLL_4
        for (int32_t i = 0; i < count; i += 4) {
            sum = __smlad(column[0], 0x00010001, sum);
            sum = __smlad(column[1], 0x00010001, sum);
            column += step;
        }
        *sums++ = 8 * sum;
    }
}

/* Add the sums of one part, times multipliers where the layer has them, to the four channels'. */
EDGEC_INLINE void edgec_finish4__dsp(const int32_t *s, int32_t sum8, uint32_t multipliers,
                                     int32_t grouped, int32_t *acc)
{
    const int32_t a0 = s[3] - sum8;
    const int32_t a1 = ((int32_t)((uint32_t)s[2] - (uint32_t)s[3]) >> 4) - sum8;
    const int32_t a2 = ((int32_t)((uint32_t)s[1] - (uint32_t)s[2]) >> 8) - sum8;
    const int32_t a3 = (int32_t)((uint32_t)s[0] - (uint32_t)s[1]) >> 12;
    acc[0] += grouped ? a0 * (int32_t)(multipliers & 255U) : a0;
    acc[1] += grouped ? a1 * (int32_t)((multipliers >> 8) & 255U) : a1;
    acc[2] += grouped ? a2 * (int32_t)((multipliers >> 16) & 255U) : a2;
    acc[3] += grouped ? a3 * (int32_t)(multipliers >> 24) : a3;
}

/* Rows of n outputs for `pixels` (1 or 2) of the `together` columns that lie together; output rows
 * are `row` codes apart; k is a multiple of 4. `sums`: scratch for one word a part and column. */
EDGEC_INLINE void edgec_gemm4_rows__dsp(const int32_t *columns, const void *weights,
                                        const int32_t *bias, const int32_t *multiplier,
                                        const int32_t *q, int32_t *sums, int32_t k, int32_t n,
                                        int32_t part, int32_t grouped, int32_t together,
                                        int32_t flags, int32_t pixels, int32_t row, void *y)
{
    const edgec_epilogue e = edgec_epilogue_of(q, flags);
    const int32_t parts = (k + part - 1) / part;
    const uint8_t *w = (const uint8_t *)weights;
    for (int32_t i = 0; i < together; ++i) {
        edgec_sums8__dsp(columns + 2 * i, k, part, 2 * together, sums + i * parts);
    }
    for (int32_t j = 0; j < n; j += 4) {
        const int32_t *c = columns;
        int32_t a[4] = {0, 0, 0, 0};
        int32_t b[4] = {0, 0, 0, 0};
        for (int32_t p = 0; p < parts; ++p) {
            const int32_t count = (k - p * part < part) ? k - p * part : part;
            int32_t s[8] = {0, 0, 0, 0, 0, 0, 0, 0};
            if (together == 1) {
                EDGEC_UNROLL_8
                for (int32_t i = 0; i < count; i += 4) {
                    edgec_mac4_one__dsp(&c, &w, s);
                }
            } else {
                edgec_dots4_two__dsp(&c, &w, count, s);
            }
            uint32_t factors = 0;
            if (grouped) {
                factors = (uint32_t)edgec_load32(w);
                w += 4;
            }
            edgec_finish4__dsp(s, sums[p], factors, grouped, a);
            if (together > 1) {
                edgec_finish4__dsp(s + 4, sums[parts + p], factors, grouped, b);
            }
        }
        EDGEC_UNROLL_4
        for (int32_t r = 0; r < 4; ++r) {
            if ((n % 4 == 0) || (j + r < n)) {
                const int32_t offset = bias[j + r];
                const int32_t factor = multiplier[j + r];
                edgec_store(y, j + r, edgec_requantise(a[r] + offset, factor, e, flags), flags);
                if (pixels > 1) {
                    edgec_store(y, j + r + row, edgec_requantise(b[r] + offset, factor, e, flags),
                                flags);
                }
            }
        }
    }
}

#endif /* EDGEC_DSP */

#endif /* EDGEC_GEMM4_DSP_H */

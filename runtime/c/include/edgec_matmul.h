/* Products of two activations (attention): operands are centred (zero point removed) into int16
 * scratch, transposed where needed, and multiplied with 32-bit accumulation. */
#ifndef EDGEC_MATMUL_H
#define EDGEC_MATMUL_H

#include "edgec_math.h"

/* out[r * padded + i] = x[r * row_step + i * step] - zero, padded with zeros: rows x k values.
 * flags: EDGEC_S16 if x holds int16 codes. */
EDGEC_INLINE void edgec_centre_s16(const void *x, int32_t row_step, int32_t step, int32_t rows,
                                   int32_t k, int32_t padded, int32_t zero, int32_t flags,
                                   int16_t *out)
{
    for (int32_t r = 0; r < rows; ++r) {
        for (int32_t i = 0; i < k; ++i) {
            out[i] = (int16_t)(edgec_code(x, r * row_step + i * step, flags) - zero);
        }
        for (int32_t i = k; i < padded; ++i) {
            out[i] = 0;
        }
        out += padded;
    }
}

/* n outputs of one row: dot products of row[k] with rows of other[n][k]; k is even. */
EDGEC_INLINE void edgec_matmul_row_s16_s16(const int16_t *row, const int16_t *other, int32_t k,
                                           int32_t n, int32_t multiplier, const int32_t *q,
                                           int32_t flags, void *y, int32_t y_step)
{
    const edgec_epilogue e = edgec_epilogue_of(q, flags);
    int32_t j = 0;
#if EDGEC_DSP
    for (; j + 2 <= n; j += 2) {
        const int16_t *b0 = other + j * k;
        const int16_t *b1 = b0 + k;
        int32_t a0 = 0;
        int32_t a1 = 0;
        for (int32_t i = 0; i < k; i += 2) {
            const int16x2_t x = (int16x2_t)edgec_load32(row + i);
            a0 = __smlad(x, (int16x2_t)edgec_load32(b0 + i), a0);
            a1 = __smlad(x, (int16x2_t)edgec_load32(b1 + i), a1);
        }
        edgec_store(y, j * y_step, edgec_requantise(a0, multiplier, e, flags), flags);
        edgec_store(y, (j + 1) * y_step, edgec_requantise(a1, multiplier, e, flags), flags);
    }
#endif
    for (; j < n; ++j) {
        int32_t acc = 0;
        for (int32_t i = 0; i < k; ++i) {
            acc += (int32_t)row[i] * (int32_t)other[j * k + i];
        }
        edgec_store(y, j * y_step, edgec_requantise(acc, multiplier, e, flags), flags);
    }
}

#endif /* EDGEC_MATMUL_H */

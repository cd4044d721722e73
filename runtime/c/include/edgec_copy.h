/* Moving values about. */
#ifndef EDGEC_COPY_H
#define EDGEC_COPY_H

#include "edgec_math.h"

/* Writes rows x width values of x into y, in which a row begins every pitch values; what lies
 * between is that of old, which may be the same memory as y. */
EDGEC_INLINE void edgec_paste_s8(const int8_t *x, const int8_t *old, int32_t rows, int32_t width,
                                 int32_t pitch, int8_t *y)
{
    for (int32_t row = 0; row < rows; ++row) {
        memcpy(y + row * pitch, x + row * width, (size_t)width);
        if (old != y && row + 1 < rows) {
            memcpy(y + row * pitch + width, old + row * pitch + width, (size_t)(pitch - width));
        }
    }
}

#endif /* EDGEC_COPY_H */

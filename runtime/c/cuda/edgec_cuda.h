/* What kernels for NVIDIA GPUs use besides edgec_kernels.h.
 *
 * The text of a kernel is compiled twice: by NVRTC for the GPU, and as plain C for its emulation on
 * a CPU (edgec_cuda_emulator.c), so that every bit can be tested without a GPU. */
#ifndef EDGEC_CUDA_H
#define EDGEC_CUDA_H

#include "edgec_kernels.h"

/* A launch has at least one thread; a kernel deals its work out by edgec_thread() in steps of
 * edgec_threads(), so any number of threads gives the same result. */
#if defined(__CUDACC_RTC__)
#define EDGEC_CUDA_KERNEL extern "C" __global__ void
EDGEC_INLINE int32_t edgec_thread(void)
{
    return (int32_t)(blockIdx.x * blockDim.x + threadIdx.x);
}
EDGEC_INLINE int32_t edgec_threads(void)
{
    return (int32_t)(gridDim.x * blockDim.x);
}
#else
#define EDGEC_CUDA_KERNEL void
extern int32_t edgec_emulated_thread, edgec_emulated_threads;
EDGEC_INLINE int32_t edgec_thread(void)
{
    return edgec_emulated_thread;
}
EDGEC_INLINE int32_t edgec_threads(void)
{
    return edgec_emulated_threads;
}
#endif

/* ---------------------------------------------------------------- dot products of words */

/* acc + the products of four int8 of a with four int8 of b: one IDP.4A. */
EDGEC_INLINE int32_t edgec_dot4__cuda(int32_t a, int32_t b, int32_t acc)
{
#if defined(__CUDACC_RTC__)
    return __dp4a(a, b, acc);
#else
    for (int32_t i = 0; i < 32; i += 8) {
        acc += (int32_t)(int8_t)(a >> i) * (int32_t)(int8_t)(b >> i);
    }
    return acc;
#endif
}

/* acc + the products of four int16 (low, high) with four int8 of b: two IDP.2A. */
EDGEC_INLINE int32_t edgec_dot4_s16__cuda(int32_t low, int32_t high, int32_t b, int32_t acc)
{
#if defined(__CUDACC_RTC__)
    return __dp2a_hi(high, b, __dp2a_lo(low, b, acc));
#else
    acc += (int32_t)(int16_t)low * (int32_t)(int8_t)b;
    acc += (int32_t)(int16_t)(low >> 16) * (int32_t)(int8_t)(b >> 8);
    acc += (int32_t)(int16_t)high * (int32_t)(int8_t)(b >> 16);
    return acc + (int32_t)(int16_t)(high >> 16) * (int32_t)(int8_t)(b >> 24);
#endif
}

/* The first `valid` (1 to 4) int8 at x as a word, the rest 0; aligned: x is a multiple of 4. */
EDGEC_INLINE int32_t edgec_word_s8__cuda(const int8_t *x, int32_t valid, int32_t aligned)
{
    if ((aligned != 0) && (valid == 4)) {
        return *(const int32_t *)(const void *)x;
    }
    uint32_t word = (uint8_t)x[0];
    for (int32_t i = 1; i < valid; ++i) {
        word |= (uint32_t)(uint8_t)x[i] << (8 * i);
    }
    return (int32_t)word;
}

/* Two int16 at x as a word; those from `valid` on are 0. */
EDGEC_INLINE int32_t edgec_word_s16__cuda(const int16_t *x, int32_t valid)
{
    const uint32_t low = (valid > 0) ? (uint16_t)x[0] : 0U;
    const uint32_t high = (valid > 1) ? (uint16_t)x[1] : 0U;
    return (int32_t)(low | (high << 16));
}

/* ---------------------------------------------------------------- one output per thread */

/* Words of four weights lie n words apart, so that neighbouring threads (outputs of one row) read
 * neighbouring words; the weights of a last word that k does not fill are 0. */

/* One output of a fully connected layer over int8 codes x[k]. */
EDGEC_INLINE void edgec_gemm_value_s8__cuda(const int8_t *x, const int8_t *w, int32_t bias,
                                            int32_t multiplier, const int32_t *q, int32_t k,
                                            int32_t n, int32_t flags, void *y)
{
    const int32_t *words = (const int32_t *)(const void *)w;
    int32_t acc = bias;
    for (int32_t i = 0; i < k; i += 4) {
        const int32_t valid = (k - i < 4) ? (k - i) : 4;
        acc = edgec_dot4__cuda(edgec_word_s8__cuda(x + i, valid, k % 4 == 0), *words, acc);
        words += n;
    }
    edgec_store(y, 0, edgec_requantise_q(acc, multiplier, q, flags), flags);
}

/* The same over int16 codes. */
EDGEC_INLINE void edgec_gemm_value_s16__cuda(const int16_t *x, const int8_t *w, int32_t bias,
                                             int32_t multiplier, const int32_t *q, int32_t k,
                                             int32_t n, int32_t flags, void *y)
{
    const int32_t *words = (const int32_t *)(const void *)w;
    int32_t acc = bias;
    for (int32_t i = 0; i < k; i += 4) {
        const int32_t low = edgec_word_s16__cuda(x + i, k - i);
        const int32_t high = edgec_word_s16__cuda(x + i + 2, k - i - 2);
        acc = edgec_dot4_s16__cuda(low, high, *words, acc);
        words += n;
    }
    edgec_store(y, 0, edgec_requantise_q(acc, multiplier, q, flags), flags);
}

/* One output of int4 weights, stored as edgec_gemm4.h says; channel j of n. */
EDGEC_INLINE void edgec_gemm4_value__cuda(const void *x, const int8_t *w, const int32_t *bias,
                                          const int32_t *multiplier, const int32_t *q, int32_t j,
                                          int32_t k, int32_t n, int32_t group, int32_t column_flags,
                                          int32_t flags, void *y)
{
    const int32_t row = edgec_row_bytes4(k);
    const int32_t groups = (group != 0) ? (k + group - 1) / group : 0;
    const uint8_t *codes = (const uint8_t *)w;
    const int32_t acc = edgec_dot_s4__generic(x, codes + j * row, codes + n * row + j * groups, 0,
                                              k, group, column_flags);
    edgec_store(y, 0, edgec_requantise_q(acc + bias[j], multiplier[j], q, flags), flags);
}

/* One output of a convolution: the window whose first tap is (iy, ix) of an H x W x C image, cg of
 * its channels. The weights of one tap fill whole words. */
EDGEC_INLINE void edgec_conv_value_s8__cuda(const int8_t *x, int32_t iy, int32_t ix, int32_t height,
                                            int32_t width, int32_t channels, int32_t cg, int32_t kh,
                                            int32_t kw, int32_t dy, int32_t dx, const int8_t *w,
                                            int32_t bias, int32_t multiplier, const int32_t *q,
                                            int32_t n, int32_t flags, int8_t *y)
{
    const int32_t *words = (const int32_t *)(const void *)w;
    const int32_t zero = (int32_t)((uint32_t)(uint8_t)q[EDGEC_Q_INPUT_ZERO] * 0x01010101U);
    const int32_t aligned = (channels % 4 == 0) && (cg % 4 == 0);
    int32_t acc = bias;
    for (int32_t ky = 0; ky < kh; ++ky) {
        const int32_t row = iy + ky * dy;
        for (int32_t kx = 0; kx < kw; ++kx) {
            const int32_t column = ix + kx * dx;
            const int32_t inside = (row >= 0) && (row < height) && (column >= 0) && (column < width);
            const int8_t *pixel = inside ? (x + (row * width + column) * channels) : x;
            for (int32_t c = 0; c < cg; c += 4) {
                const int32_t valid = (cg - c < 4) ? (cg - c) : 4;
                const int32_t word = inside ? edgec_word_s8__cuda(pixel + c, valid, aligned) : zero;
                acc = edgec_dot4__cuda(word, *words, acc);
                words += n;
            }
        }
    }
    *y = (int8_t)edgec_requantise_q(acc, multiplier, q, flags);
}

/* Weight i of a row of k int4 weights times its multiplier, stored as edgec_gemm4.h says. */
EDGEC_INLINE int32_t edgec_weight4__cuda(const uint8_t *w, const uint8_t *m, int32_t i, int32_t k,
                                         int32_t group)
{
    const int32_t whole = i < k / 32 * 32;
    const int32_t byte = w[whole ? (i / 32 * 16 + i % 16) : (i / 2)];
    const int32_t high = whole ? (i % 32 >= 16) : (i % 2);
    const int32_t code = (high != 0) ? edgec_high4(byte) : edgec_low4(byte);
    return (group != 0) ? code * m[i / group] : code;
}

/* As edgec_conv_value_s8__cuda for filter `member` of n in a group, int4 weights. */
EDGEC_INLINE void edgec_conv4_value_s8__cuda(const int8_t *x, int32_t iy, int32_t ix,
                                             int32_t height, int32_t width, int32_t channels,
                                             int32_t cg, int32_t kh, int32_t kw, int32_t dy,
                                             int32_t dx, const int8_t *w, int32_t bias,
                                             int32_t multiplier, const int32_t *q, int32_t member,
                                             int32_t n, int32_t group, int32_t flags, int8_t *y)
{
    const int32_t k = kh * kw * cg;
    const int32_t row = edgec_row_bytes4(k);
    const int32_t groups = (group != 0) ? (k + group - 1) / group : 0;
    const uint8_t *codes = (const uint8_t *)w + member * row;
    const uint8_t *scales = (const uint8_t *)w + n * row + member * groups;
    int32_t acc = bias;
    for (int32_t i = 0; i < k; ++i) {
        const int32_t tap = i / cg;
        const int32_t at_y = iy + tap / kw * dy;
        const int32_t at_x = ix + tap % kw * dx;
        const int32_t inside = (at_y >= 0) && (at_y < height) && (at_x >= 0) && (at_x < width);
        const int32_t code = inside ? x[(at_y * width + at_x) * channels + i % cg]
                                    : q[EDGEC_Q_INPUT_ZERO];
        acc += code * edgec_weight4__cuda(codes, scales, i, k, group);
    }
    *y = (int8_t)edgec_requantise_q(acc, multiplier, q, flags);
}

/* One output of a depthwise convolution; x and w point at its channel. */
EDGEC_INLINE void edgec_depthwise_value_s8__cuda(const int8_t *x, int32_t iy, int32_t ix,
                                                 int32_t height, int32_t width, int32_t channels,
                                                 int32_t kh, int32_t kw, int32_t dy, int32_t dx,
                                                 const int8_t *w, int32_t bias, int32_t multiplier,
                                                 const int32_t *q, int32_t flags, int8_t *y)
{
    int32_t acc = bias;
    for (int32_t ky = 0; ky < kh; ++ky) {
        const int32_t row = iy + ky * dy;
        for (int32_t kx = 0; kx < kw; ++kx) {
            const int32_t column = ix + kx * dx;
            const int32_t inside = (row >= 0) && (row < height) && (column >= 0) && (column < width);
            const int32_t value =
                inside ? x[(row * width + column) * channels] : q[EDGEC_Q_INPUT_ZERO];
            acc += value * w[(ky * kw + kx) * channels];
        }
    }
    *y = (int8_t)edgec_requantise_q(acc, multiplier, q, flags);
}

/* One output of a product of two activations; left and right: EDGEC_S16 where codes are int16. */
EDGEC_INLINE void edgec_matmul_value__cuda(const void *a, int32_t a_step, int32_t a_zero,
                                           int32_t left, const void *b, int32_t b_step,
                                           int32_t b_zero, int32_t right, int32_t k,
                                           int32_t multiplier, const int32_t *q, int32_t flags,
                                           void *y)
{
    int32_t acc = 0;
    for (int32_t i = 0; i < k; ++i) {
        acc += (edgec_code(a, i * a_step, left) - a_zero) *
               (edgec_code(b, i * b_step, right) - b_zero);
    }
    edgec_store(y, 0, edgec_requantise_q(acc, multiplier, q, flags), flags);
}

#endif /* EDGEC_CUDA_H */

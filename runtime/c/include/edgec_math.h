/* Integer arithmetic shared by every edgec kernel. C11, no heap, no stdio, no state.
 *
 * The requantisation rule (the same on every target, bit for bit):
 *   y = clamp(floor(acc * multiplier / 2^shift + 1/2) + zero_point, low, high)
 * Parameters travel in q[]: see the enumeration below. */
#ifndef EDGEC_MATH_H
#define EDGEC_MATH_H

#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define EDGEC_INLINE static inline __attribute__((always_inline))
#else
#define EDGEC_INLINE static inline
#endif

/* One function per kernel of a model: inlined into the caller, their loops spill each other's
 * registers (3 % more instructions on a MobileNet, Cortex-M4, GCC 12.2), and no profile shows them. */
#if defined(__GNUC__)
#define EDGEC_KERNEL static __attribute__((noinline))
#else
#define EDGEC_KERNEL static
#endif

#if defined(__clang__)
#define EDGEC_UNROLL_2 _Pragma("clang loop unroll_count(2)")
#define EDGEC_UNROLL_4 _Pragma("clang loop unroll_count(4)")
#define EDGEC_UNROLL_8 _Pragma("clang loop unroll_count(8)")
#elif defined(__GNUC__)
#define EDGEC_UNROLL_2 _Pragma("GCC unroll 2")
#define EDGEC_UNROLL_4 _Pragma("GCC unroll 4")
#define EDGEC_UNROLL_8 _Pragma("GCC unroll 8")
#else
#define EDGEC_UNROLL_2
#define EDGEC_UNROLL_4
#define EDGEC_UNROLL_8
#endif

/* GCC's scheduling before register allocation hoists loads until the accumulators of the dsp inner
 * blocks spill: 9 % more instructions on resnet8 (Cortex-M4, GCC 12.2). */
#if defined(__GNUC__) && !defined(__clang__) && defined(__ARM_FEATURE_DSP) && !defined(__aarch64__)
#pragma GCC optimize("no-schedule-insns")
/* The inner blocks need their sums in registers, which -O0 and -Os do not give; at -O1, registers
 * run out without this one. */
#pragma GCC optimize("expensive-optimizations")
#if !defined(__OPTIMIZE__) || defined(__OPTIMIZE_SIZE__)
#pragma GCC optimize("O2")
#endif
#endif

#if defined(__ARM_FEATURE_DSP) && (__ARM_FEATURE_DSP == 1) && !defined(__aarch64__)
#include <arm_acle.h>
#define EDGEC_DSP 1
#else
#define EDGEC_DSP 0
#endif

#if defined(__ARM_FEATURE_MVE) && ((__ARM_FEATURE_MVE & 1) == 1)
#include <arm_mve.h>
#define EDGEC_MVE 1
#else
#define EDGEC_MVE 0
#endif

#if defined(__aarch64__) && defined(__ARM_NEON)
#include <arm_neon.h>
#define EDGEC_NEON 1
#else
#define EDGEC_NEON 0
#endif

/* Right shifts of negative numbers are arithmetic on every compiler edgec supports; C11 leaves
 * them to the implementation, so the assumption is checked where it is made. */
_Static_assert((-1 >> 1) == -1, "edgec needs arithmetic right shifts");

/* Meaning of the entries of q[]. */
enum {
    EDGEC_Q_SHIFT = 0,      /* total shift, 1..62 */
    EDGEC_Q_ZERO_POINT = 1, /* zero point of the output */
    EDGEC_Q_LOW = 2,        /* lower clamp */
    EDGEC_Q_HIGH = 3,       /* upper clamp */
    EDGEC_Q_INPUT_ZERO = 4  /* zero point of the input: the value of padding */
};

/* Epilogue flags, compile-time constants at every call. */
enum {
    EDGEC_WIDE = 1, /* the 64-bit form is needed: shift outside 33..54, or a large zero point */
    EDGEC_CLAMP = 2, /* low and high are narrower than int8 */
    EDGEC_S16 = 4    /* codes are int16; low and high always apply */
};

EDGEC_INLINE int32_t edgec_clamp(int32_t value, int32_t low, int32_t high)
{
    if (value < low) {
        value = low;
    }
    if (value > high) {
        value = high;
    }
    return value;
}

EDGEC_INLINE int32_t edgec_saturate_s8(int32_t value)
{
#if EDGEC_DSP
    return __ssat(value, 8);
#else
    return edgec_clamp(value, -128, 127);
#endif
}

/* High word of a 32 x 32 bit product, plus an addend: one smmla on Cortex-M with DSP. */
EDGEC_INLINE int32_t edgec_mulhi_add(int32_t a, int32_t b, int32_t addend)
{
#if EDGEC_DSP
    int32_t result;
    __asm__("smmla %0, %1, %2, %3" : "=r"(result) : "r"(a), "r"(b), "r"(addend));
    return result;
#else
    return (int32_t)(((int64_t)a * b) >> 32) + addend;
#endif
}

/* floor(acc * multiplier / 2^shift + 1/2) for any shift in 1..62. */
EDGEC_INLINE int32_t edgec_rescale(int32_t acc, int32_t multiplier, int32_t shift)
{
    const int64_t product = (int64_t)acc * multiplier;
    return (int32_t)((product + ((int64_t)1 << (shift - 1))) >> shift);
}

/* q[] in registers: stores to int8 outputs may alias it, so it is read once, before the loops.
 * In the narrow form shift is q[shift] - 32 and applies to the high word, and rounding holds the
 * zero point too: |high word| < 2^30 and |zero point| <= 128 leave the sum within int32. */
typedef struct {
    int32_t shift;
    int32_t rounding;
    int32_t zero_point;
    int32_t low;
    int32_t high;
} edgec_epilogue;

EDGEC_INLINE edgec_epilogue edgec_epilogue_of(const int32_t *q, int32_t flags)
{
    edgec_epilogue e;
    const int32_t wide = flags & EDGEC_WIDE;
    e.shift = (wide != 0) ? q[EDGEC_Q_SHIFT] : (q[EDGEC_Q_SHIFT] - 32);
    e.zero_point = q[EDGEC_Q_ZERO_POINT];
    e.rounding = (wide != 0) ? 0 : e.zero_point * (1 << e.shift) + (1 << (e.shift - 1));
    e.low = q[EDGEC_Q_LOW];
    e.high = q[EDGEC_Q_HIGH];
    return e;
}

/* Beyond any code by more than any zero point: where the wide form saturates. */
#define EDGEC_FAR 1048576

/* The requantisation rule. flags: EDGEC_WIDE, EDGEC_CLAMP, EDGEC_S16. */
EDGEC_INLINE int32_t edgec_requantise(int32_t acc, int32_t multiplier, edgec_epilogue e,
                                      int32_t flags)
{
    int32_t y;
    if ((flags & EDGEC_WIDE) != 0) {
        const int64_t product = (int64_t)acc * multiplier;
        const int64_t scaled = (product + ((int64_t)1 << (e.shift - 1))) >> e.shift;
        const int64_t low = (scaled < -EDGEC_FAR) ? -EDGEC_FAR : scaled;
        y = (int32_t)((low > EDGEC_FAR) ? EDGEC_FAR : low) + e.zero_point;
    } else {
        y = edgec_mulhi_add(acc, multiplier, e.rounding) >> e.shift;
    }
    if ((flags & EDGEC_S16) == 0) {
        y = edgec_saturate_s8(y);
    }
    if ((flags & (EDGEC_CLAMP | EDGEC_S16)) != 0) {
        y = edgec_clamp(y, e.low, e.high);
    }
    return y;
}

/* The code at x[i], in the width that flags name. */
EDGEC_INLINE int32_t edgec_code(const void *x, int32_t i, int32_t flags)
{
    return ((flags & EDGEC_S16) != 0) ? ((const int16_t *)x)[i] : ((const int8_t *)x)[i];
}

/* Store a code at y[i], in the width that flags name. */
EDGEC_INLINE void edgec_store(void *y, int32_t i, int32_t code, int32_t flags)
{
    if ((flags & EDGEC_S16) != 0) {
        ((int16_t *)y)[i] = (int16_t)code;
    } else {
        ((int8_t *)y)[i] = (int8_t)code;
    }
}

/* The same with q[] as it is stored. */
EDGEC_INLINE int32_t edgec_requantise_q(int32_t acc, int32_t multiplier, const int32_t *q,
                                        int32_t flags)
{
    return edgec_requantise(acc, multiplier, edgec_epilogue_of(q, flags), flags);
}

/* The rule for four channels. In the narrow form vqdmulh gives floor(acc * multiplier / 2^31) and
 * vrshl rounds half up by the rest of the shift, which is the rule because floors nest. */
#if EDGEC_NEON
EDGEC_INLINE int32x4_t edgec_requantise4(int32x4_t acc, int32x4_t multiplier, edgec_epilogue e,
                                         int32_t flags)
{
    int32x4_t y;
    if ((flags & EDGEC_WIDE) != 0) {
        const int64x2_t right = vdupq_n_s64(-(int64_t)e.shift);
        const int64x2_t low = vmull_s32(vget_low_s32(acc), vget_low_s32(multiplier));
        const int64x2_t high = vmull_high_s32(acc, multiplier);
        y = vqmovn_high_s64(vqmovn_s64(vrshlq_s64(low, right)), vrshlq_s64(high, right));
    } else {
        y = vrshlq_s32(vqdmulhq_s32(acc, multiplier), vdupq_n_s32(-(e.shift + 1)));
    }
    y = vqaddq_s32(y, vdupq_n_s32(e.zero_point));
    return vminq_s32(vmaxq_s32(y, vdupq_n_s32(e.low)), vdupq_n_s32(e.high));
}

EDGEC_INLINE void edgec_store4(void *y, int32_t i, int32x4_t codes, int32_t flags)
{
    int32_t lane[4];
    vst1q_s32(lane, codes);
    for (int32_t r = 0; r < 4; ++r) {
        edgec_store(y, i + r, lane[r], flags);
    }
}
#elif EDGEC_MVE
EDGEC_INLINE int32x4_t edgec_requantise4(int32x4_t acc, int32x4_t multiplier, edgec_epilogue e,
                                         int32_t flags)
{
    if ((flags & EDGEC_WIDE) != 0) {
        int32_t lane[4];
        int32_t factor[4];
        vstrwq_s32(lane, acc);
        vstrwq_s32(factor, multiplier);
        for (int32_t i = 0; i < 4; ++i) {
            lane[i] = edgec_requantise(lane[i], factor[i], e, flags);
        }
        return vldrwq_s32(lane);
    }
    int32x4_t y = vrshlq_s32(vqdmulhq_s32(acc, multiplier), vdupq_n_s32(-(e.shift + 1)));
    y = vqaddq_s32(y, vdupq_n_s32(e.zero_point));
    return vminq_s32(vmaxq_s32(y, vdupq_n_s32(e.low)), vdupq_n_s32(e.high));
}

/* Saturated to int8 in the low byte of each lane; the other bytes are left over. */
EDGEC_INLINE int32x4_t edgec_saturate4__mve(int32x4_t value)
{
    const int16x8_t halves = vqmovnbq_s32(vreinterpretq_s16_s32(value), value);
    return vreinterpretq_s32_s8(vqmovnbq_s16(vreinterpretq_s8_s16(halves), halves));
}

/* As edgec_requantise4, where vector registers are scarce; only the low byte of an int8 code
 * counts. */
EDGEC_INLINE int32x4_t edgec_requantise4_lean__mve(int32x4_t acc, int32x4_t multiplier,
                                                   edgec_epilogue e, int32_t flags)
{
    if ((flags & (EDGEC_WIDE | EDGEC_CLAMP | EDGEC_S16)) != 0) {
        return edgec_requantise4(acc, multiplier, e, flags);
    }
    const int32x4_t y = vrshlq_n_s32(vqdmulhq_s32(acc, multiplier), -(e.shift + 1));
    return edgec_saturate4__mve(vqaddq_n_s32(y, e.zero_point));
}

EDGEC_INLINE void edgec_store4(void *y, int32_t i, int32x4_t codes, int32_t flags)
{
    if ((flags & EDGEC_S16) != 0) {
        vstrhq_s32((int16_t *)y + i, codes);
    } else {
        vstrbq_s32((int8_t *)y + i, codes);
    }
}
#endif

/* As edgec_requantise, but exact ties go to even: averages over 2^n values have many, and that is
 * how ONNX rounds them. */
EDGEC_INLINE int32_t edgec_requantise_average(int32_t acc, int32_t multiplier, const int32_t *q)
{
    const int64_t half = (int64_t)1 << (q[EDGEC_Q_SHIFT] - 1);
    const int64_t sum = (int64_t)acc * multiplier + half;
    int32_t y = (int32_t)(sum >> q[EDGEC_Q_SHIFT]);
    if (((sum & (2 * half - 1)) == 0) && ((y & 1) != 0)) {
        --y;
    }
    return edgec_clamp(y + q[EDGEC_Q_ZERO_POINT], q[EDGEC_Q_LOW], q[EDGEC_Q_HIGH]);
}

/* Code of a real value, rounded half to even (q: zero point, low, high), as ONNX defines it; NaN
 * gives the lowest. */
EDGEC_INLINE int32_t edgec_quantise_f32(float x, float scale, const int32_t *q)
{
    float steps = x / scale;
    steps = (steps > -1.0e6F) ? steps : -1.0e6F;
    steps = (steps > 1.0e6F) ? 1.0e6F : steps;
    /* Adding 1.5 * 2^23 leaves the integer nearest to steps, ties to even, in the low bits. */
    const float shifted = steps + 12582912.0F;
    int32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return edgec_clamp(bits - 0x4B400000 + q[0], q[1], q[2]);
}

/* Row of a table: negative indices count from the end, others are clamped into it. */
EDGEC_INLINE int32_t edgec_row(int32_t index, int32_t entries)
{
    return edgec_clamp((index < 0) ? (index + entries) : index, 0, entries - 1);
}

EDGEC_INLINE uint32_t edgec_load32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

#if EDGEC_DSP
/* Bytes 0 and 2 of a word, and bytes 1 and 3, as two int16 each. */
EDGEC_INLINE int16x2_t edgec_even_s16(uint32_t bytes)
{
    return __sxtb16((int8x4_t)bytes);
}

EDGEC_INLINE int16x2_t edgec_odd_s16(uint32_t bytes)
{
    /* GCC does not fold the rotation of the intrinsic's operand into the instruction. */
    int16x2_t odd;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(odd) : "r"(bytes));
    return odd;
}

#endif

#endif /* EDGEC_MATH_H */

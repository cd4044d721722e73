/* Inner blocks of LSTM and GRU.
 *
 * Pre-activations of gates are int32 with 16 fractional bits; sigmoid and tanh come from one table
 * with 15 fractional bits, interpolated. The hidden state is int16 with F fractional bits (15, or
 * fewer where it starts beyond 1 or its products with the weights would overflow), the cell state
 * int32 with 20. */
#ifndef EDGEC_RECURRENT_H
#define EDGEC_RECURRENT_H

#include "edgec_gemm_dsp.h"

/* A pre-activation further from 0 than 512 is 512: sigmoid and tanh are long flat there. */
#define EDGEC_GATE_LIMIT (1 << 25)
/* Intervals of the table, each 1/64 wide: it ends at 8. */
#define EDGEC_TANH_INTERVALS 512
#define EDGEC_ONE_Q15 32768

/* ---------------------------------------------------------------- functions of the gates */

/* tanh of p, whose fractional bits are 6 + bits, with 15 fractional bits. */
EDGEC_INLINE int32_t edgec_tanh_q15(int32_t p, int32_t bits, const int16_t *table)
{
    const int32_t last = (EDGEC_TANH_INTERVALS << bits) - 1;
    const int32_t size = (p < 0) ? -p : p;
    const int32_t at = (size > last) ? last : size;
    const int32_t i = at >> bits;
    const int32_t rest = at & ((1 << bits) - 1);
    const int32_t step = (int32_t)table[i + 1] - table[i];
    const int32_t y = table[i] + ((step * rest + (1 << (bits - 1))) >> bits);
    return (p < 0) ? -y : y;
}

/* Of a pre-activation; tanh lies within +-32767, sigmoid in 0..32768. */
EDGEC_INLINE int32_t edgec_gate_tanh(int32_t pre, const int16_t *table)
{
    return edgec_tanh_q15(pre, 10, table);
}

EDGEC_INLINE int32_t edgec_gate_sigmoid(int32_t pre, const int16_t *table)
{
    return (EDGEC_ONE_Q15 + edgec_tanh_q15(pre, 11, table) + 1) >> 1;
}

/* ---------------------------------------------------------------- pre-activations */

/* Two accumulators and a bias as one pre-activation, rounded once. */
EDGEC_INLINE int32_t edgec_gate(int32_t x, int32_t x_multiplier, int32_t h, int32_t h_multiplier,
                                int32_t bias, int32_t shift)
{
    const int64_t sum = (int64_t)x * x_multiplier + (int64_t)h * h_multiplier;
    const int64_t pre = ((sum + ((int64_t)1 << (shift - 1))) >> shift) + bias;
    const int64_t low = (pre < -EDGEC_GATE_LIMIT) ? -EDGEC_GATE_LIMIT : pre;
    return (int32_t)((low > EDGEC_GATE_LIMIT) ? EDGEC_GATE_LIMIT : low);
}

/* pre[j] of `rows` rows: w by the column x of kx codes, r by the column h of kh codes. Either may
 * be empty. flags: EDGEC_S16 if the codes of x are int16. */
EDGEC_INLINE void edgec_gates__generic(const void *x, int32_t kx, const int16_t *h, int32_t kh,
                                       const int8_t *w, const int8_t *r,
                                       const int32_t *x_multiplier, const int32_t *h_multiplier,
                                       const int32_t *bias, const int32_t *q, int32_t rows,
                                       int32_t flags, int32_t *pre)
{
    for (int32_t j = 0; j < rows; j += 4) {
        const int32_t count = (rows - j < 4) ? (rows - j) : 4;
        int32_t from_x[4] = {0, 0, 0, 0};
        int32_t from_h[4] = {0, 0, 0, 0};
        if (kx > 0) {
            edgec_dots__generic(x, w + j * kx, kx, count, flags, from_x);
        }
        if (kh > 0) {
            edgec_dots__generic(h, r + j * kh, kh, count, EDGEC_S16, from_h);
        }
        for (int32_t i = 0; i < count; ++i) {
            pre[j + i] = edgec_gate(from_x[i], x_multiplier[j + i], from_h[i],
                                    h_multiplier[j + i], bias[j + i], q[EDGEC_Q_SHIFT]);
        }
    }
}

#if EDGEC_DSP
/* As the generic form, from expanded columns; kx and kh are multiples of 4, and so are the rows of
 * w and r: those beyond `rows` are computed and not used. */
EDGEC_INLINE void edgec_gates__dsp(const int32_t *x, int32_t kx, const int32_t *h, int32_t kh,
                                   const int8_t *w, const int8_t *r, const int32_t *x_multiplier,
                                   const int32_t *h_multiplier, const int32_t *bias,
                                   const int32_t *q, int32_t rows, int32_t *pre)
{
    for (int32_t j = 0; j < rows; j += 4) {
        int32_t from_x[4] = {0, 0, 0, 0};
        int32_t from_h[4] = {0, 0, 0, 0};
        edgec_dots4__dsp(x, w + j * kx, kx, from_x);
        edgec_dots4__dsp(h, r + j * kh, kh, from_h);
        for (int32_t i = j; (i < j + 4) && (i < rows); ++i) {
            pre[i] = edgec_gate(from_x[i - j], x_multiplier[i], from_h[i - j], h_multiplier[i],
                                bias[i], q[EDGEC_Q_SHIFT]);
        }
    }
}
#endif

/* ---------------------------------------------------------------- one step of n units */

/* Rounded Q30 as a hidden value of `bits` fractional bits. */
EDGEC_INLINE int16_t edgec_hidden(int64_t value, int32_t bits)
{
    const int32_t drop = 30 - bits;
    const int32_t rounded = (int32_t)((value + (1 << (drop - 1))) >> drop);
    return (int16_t)edgec_clamp(rounded, -32768, 32767);
}

/* pre: gates i, o, f, c, n each. Cells that grow beyond 2^10 stay there. */
EDGEC_INLINE void edgec_lstm_step(const int32_t *pre, int32_t n, const int16_t *table,
                                  int32_t bits, int32_t *c, int16_t *h)
{
    for (int32_t j = 0; j < n; ++j) {
        const int32_t i = edgec_gate_sigmoid(pre[j], table);
        const int32_t o = edgec_gate_sigmoid(pre[n + j], table);
        const int32_t f = edgec_gate_sigmoid(pre[2 * n + j], table);
        const int32_t g = edgec_gate_tanh(pre[3 * n + j], table);
        const int64_t sum = (int64_t)f * c[j] + (int64_t)(i * g) * 32;
        const int32_t cell = edgec_clamp((int32_t)((sum + 16384) >> 15), -(1 << 30), 1 << 30);
        c[j] = cell;
        h[j] = edgec_hidden(o * edgec_gate_tanh((cell + 8) >> 4, table), bits);
    }
}

/* reset[j] = r[j] * h[j]; pre: gates z, r, n each. */
EDGEC_INLINE void edgec_gru_reset(const int32_t *pre, int32_t n, const int16_t *table,
                                  const int16_t *h, int16_t *reset)
{
    for (int32_t j = 0; j < n; ++j) {
        const int32_t r = edgec_gate_sigmoid(pre[n + j], table);
        reset[j] = (int16_t)((r * h[j] + 16384) >> 15);
    }
}

/* pre: gates z, r, h, n each; with linear, a fourth part that r multiplies. */
EDGEC_INLINE void edgec_gru_step(const int32_t *pre, int32_t n, int32_t linear,
                                 const int16_t *table, int32_t bits, int16_t *h)
{
    for (int32_t j = 0; j < n; ++j) {
        const int32_t z = edgec_gate_sigmoid(pre[j], table);
        int32_t candidate = pre[2 * n + j];
        if (linear != 0) {
            const int32_t r = edgec_gate_sigmoid(pre[n + j], table);
            candidate += (int32_t)(((int64_t)r * pre[3 * n + j] + 16384) >> 15);
        }
        const int32_t fresh = (EDGEC_ONE_Q15 - z) * edgec_gate_tanh(candidate, table);
        const int64_t kept = (int64_t)(z * h[j]) * (1 << (15 - bits));
        h[j] = edgec_hidden(fresh + kept, bits);
    }
}

/* ---------------------------------------------------------------- states in and out */

EDGEC_INLINE void edgec_clear(void *at, int32_t bytes)
{
    memset(at, 0, (size_t)bytes);
}

/* Behind the usual entries of q[]: a state has one scale. */
enum { EDGEC_STATE_MULTIPLIER = 5 };

/* Hidden values of n codes. */
EDGEC_INLINE void edgec_hidden_of(const void *x, int32_t n, const int32_t *q,
                                  int32_t flags, int16_t *h)
{
    for (int32_t i = 0; i < n; ++i) {
        const int32_t code = edgec_code(x, i, flags) - q[EDGEC_Q_INPUT_ZERO];
        h[i] = (int16_t)edgec_requantise_q(code, q[EDGEC_STATE_MULTIPLIER], q, EDGEC_WIDE | EDGEC_S16);
    }
}

EDGEC_INLINE void edgec_cell_of(const void *x, int32_t n, const int32_t *q,
                                int32_t flags, int32_t *c)
{
    for (int32_t i = 0; i < n; ++i) {
        const int32_t code = edgec_code(x, i, flags) - q[EDGEC_Q_INPUT_ZERO];
        const int64_t product = (int64_t)code * q[EDGEC_STATE_MULTIPLIER];
        const int64_t value = (product + ((int64_t)1 << (q[EDGEC_Q_SHIFT] - 1))) >>
                              q[EDGEC_Q_SHIFT];
        const int64_t low = (value < -(1 << 30)) ? -(1 << 30) : value;
        c[i] = (int32_t)((low > (1 << 30)) ? (1 << 30) : low);
    }
}

/* Codes of n hidden values, of n cells. */
EDGEC_INLINE void edgec_hidden_codes(const int16_t *h, int32_t n, const int32_t *q,
                                     int32_t flags, void *y)
{
    for (int32_t i = 0; i < n; ++i) {
        edgec_store(y, i, edgec_requantise_q(h[i], q[EDGEC_STATE_MULTIPLIER], q, flags), flags);
    }
}

EDGEC_INLINE void edgec_cell_codes(const int32_t *c, int32_t n, const int32_t *q,
                                   int32_t flags, void *y)
{
    for (int32_t i = 0; i < n; ++i) {
        edgec_store(y, i, edgec_requantise_q(c[i], q[EDGEC_STATE_MULTIPLIER], q, flags), flags);
    }
}

#endif /* EDGEC_RECURRENT_H */

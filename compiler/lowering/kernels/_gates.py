"""Numbers of LSTM and GRU: formats, the functions of gates, and the constants kernels read."""

from __future__ import annotations

import math

import numpy as np

from ...core.encoding import F64, I8, I32, I64, Requantiser, TensorEncoding
from ..program import Array
from ._shared import Q_SIZE, parameters

# Formats of runtime/c/include/edgec_recurrent.h.
PRE_BITS = 16
CELL_BITS = 20
HIDDEN_BITS = 15
ONE = 1 << 15
GATE_LIMIT = 1 << 25
CELL_LIMIT = 1 << 30
INTERVALS = 512
# EDGEC_STATE_MULTIPLIER
MULTIPLIER = Q_SIZE


def tanh_table() -> Array:
    """Return tanh at multiples of 1/64 up to 8, with 15 fractional bits: int16 [513]."""
    exact = np.tanh(np.arange(INTERVALS + 1) / 64.0)
    return np.minimum(np.floor(exact * ONE + 0.5), ONE - 1).astype(np.int16)


def gate_tanh(pre: I64, table: Array, bits: int = 10) -> I64:
    """Return tanh of pre-activations (6 + bits fractional bits), as the C computes it."""
    size = np.minimum(np.abs(pre), (INTERVALS << bits) - 1)
    i, rest = size >> bits, size & ((1 << bits) - 1)
    values = table.astype(np.int64)
    y = values[i] + (((values[i + 1] - values[i]) * rest + (1 << (bits - 1))) >> bits)
    return np.where(pre < 0, -y, y)


def gate_sigmoid(pre: I64, table: Array) -> I64:
    """Return the logistic function of pre-activations, 0 to 2**15."""
    return (ONE + gate_tanh(pre, table, 11) + 1) >> 1


def hidden(value: I64, bits: int) -> I64:
    """Return numbers of 30 fractional bits as hidden values of `bits`."""
    drop = 30 - bits
    return np.clip((value + (1 << (drop - 1))) >> drop, -ONE, ONE - 1)


def hidden_format(recurrence: I8, initial: TensorEncoding | None) -> tuple[int, int]:
    """Return (fractional bits of the hidden state, its largest code plus one).

    `recurrence`: [rows, units] weights, whose products with it stay within int32. Outside 1 it
    is only where `initial` lets it start there.
    """
    longest = int(np.abs(recurrence.astype(np.int64)).sum(axis=1).max(initial=1))
    whole = 0
    if initial is not None:
        reach = max(abs(end - initial.zero_point[0]) for end in initial.limits) * initial.scale[0]
        # Codes of one step beyond 1 only round the range up: the value 1 itself is among them.
        whole = max(0, math.ceil(math.log2(max(reach - initial.scale[0], 1.0))))
    width = min(HIDDEN_BITS, 30 - longest.bit_length())
    return width - whole, 1 << width


def gate_constants(
    weights: tuple[I8, I8], scales: tuple[F64, F64], bias: F64, x: TensorEncoding, bits: int
) -> I32:
    """Return what edgec_gates needs for rows of (w, r): multipliers of x and of h, biases, shift.

    `bias`: real, one per row, and behind these what belongs to r alone. Raises ValueError when
    the scales are out of range.
    """
    w, _ = weights
    unit_x, unit_h = scales[0] * x.scale[0], scales[1] * 2.0**-bits
    zero = x.zero_point[0] * unit_x * w.astype(np.int64).sum(axis=1)
    largest = max(float(unit_x.max()), float(unit_h.max())) * 2**PRE_BITS
    shift = min(62, 30 - math.frexp(largest)[1])
    if shift < 1:
        raise ValueError("a step of its weights times a step of its input is more than 4000")
    multipliers = [np.floor(np.ldexp(u, shift + PRE_BITS) + 0.5) for u in (unit_x, unit_h)]
    offset = bias.copy()
    offset[: w.shape[0]] -= zero
    codes = np.clip(np.floor(offset * 2**PRE_BITS + 0.5), -(2**30), 2**30)
    return np.concatenate([*multipliers, codes, [shift]]).astype(np.int32)


def state_constants(encoding: TensorEncoding, fraction_bits: int, limit: int = ONE) -> I32:
    """Return q, multiplier included, that turns codes of an initial state into the kernel's format.

    `limit`: the largest code of a hidden state plus one; the C gives cells a limit of its own.
    """
    rule = Requantiser.of(encoding.scale[0] * 2.0**fraction_bits)
    q = parameters(rule, 0, -limit, limit - 1, encoding.zero_point[0])
    return _with_multiplier(q, rule)


def output_constants(encoding: TensorEncoding, fraction_bits: int, low: int, high: int) -> I32:
    """Return q, multiplier included, that turns the kernel's format into codes."""
    rule = Requantiser.of(2.0**-fraction_bits / encoding.scale[0])
    q = parameters(rule, encoding.zero_point[0], low, high)
    return _with_multiplier(q, rule)


def _with_multiplier(q: I32, rule: Requantiser) -> I32:
    return np.append(q, rule.multiplier[0]).astype(np.int32)

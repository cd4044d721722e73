"""What the linear kernels have in common: parameters of the epilogue, padding, test data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.encoding import I8, I32, I64, Requantiser
from ..program import Array, Param
from ._tir import call, in_turns, loop

# Entries of q[], as in runtime/c/include/edgec_math.h.
SHIFT, ZERO_POINT, LOW, HIGH, INPUT_ZERO = range(5)
Q_SIZE = 5


def width_flag(dtype: str) -> int:
    """Return EDGEC_S16 for int16 codes, 0 for int8."""
    return 4 if dtype == "int16" else 0


@dataclass(frozen=True, slots=True)
class Epilogue:
    """What the compiled code must know about requantisation.

    `wide`: which form of the rule; `clamp`: int8 codes are clamped further; `dtype`: of the codes.
    """

    wide: bool = False
    clamp: bool = False
    dtype: str = "int8"

    @property
    def flags(self) -> int:
        """The flags argument of the C functions."""
        return int(self.wide) + 2 * int(self.clamp) + width_flag(self.dtype)

    @staticmethod
    def of(q: I32, dtype: str = "int8") -> Epilogue:
        """Return the epilogue that the parameters need."""
        clamp = dtype == "int8" and bool(q[LOW] > -128 or q[HIGH] < 127)
        wide = not 33 <= q[SHIFT] <= 54 or abs(int(q[ZERO_POINT])) > 128
        return Epilogue(wide, clamp, dtype)


PLAIN = Epilogue()


def parameters(
    requantiser: Requantiser, zero_point: int, low: int = -128, high: int = 127, input_zero: int = 0
) -> I32:
    """Return q[] for a requantiser and the output's zero point and clamp."""
    return np.array([requantiser.shift, zero_point, low, high, input_zero], np.int32)


def requantise(acc: Array, multiplier: Array, q: Array, dtype: str = "int8") -> Array:
    """Apply the integer contract to accumulators (channels last); codes of dtype."""
    rule = Requantiser(tuple(int(m) for m in np.ravel(multiplier)), int(q[SHIFT]))
    return rule.apply(acc, int(q[ZERO_POINT]), int(q[LOW]), int(q[HIGH])).astype(dtype)


def round_up(value: int, multiple: int) -> int:
    """Return the smallest multiple of `multiple` not below value."""
    return -(-value // multiple) * multiple


def linear_params(weight_size: int, filters: int, dtype: str = "int8") -> tuple[Param, ...]:
    """Return the constants of a linear kernel: weights of dtype, bias, multipliers, q."""
    return (
        Param("w", weight_size, dtype, "constant"),
        Param("bias", filters, "int32", "constant"),
        Param("multiplier", filters, "int32", "constant"),
        Param("q", Q_SIZE, "int32", "constant"),
    )


def pack_rows(weight: Array, together: int, depth: int = 4) -> I8:
    """Lay [rows, k] weights out for inner blocks: `depth` values of `together` rows in turn.

    Rows are padded to a multiple of together and k to a multiple of depth, with zeros.
    """
    rows, k = weight.shape
    padded: NDArray[np.int8] = np.zeros((round_up(rows, together), round_up(k, depth)), np.int8)
    padded[:rows, :k] = weight
    grouped = padded.reshape(-1, together, padded.shape[1] // depth, depth)
    return np.ascontiguousarray(grouped.transpose(0, 2, 1, 3)).reshape(-1)


def fits_pairs(weight: Array) -> bool:
    """Return whether int8 weights [rows, k] may share halfwords in products with int8 codes.

    256 b + a is an int16 for weights above -128, and the sums of b come out of an int32 that holds
    256 times them where they stay within 2**23.
    """
    sums = np.abs(weight.astype(np.int64)).sum(axis=1)
    return bool(weight.min(initial=0) > -128 and sums.max(initial=0) * 128 < 2**23)


def pack_pairs_dsp(weight: Array, together: int = 2) -> I8:
    """Lay [rows, k] weights out in pairs for edgec_gemm_dsp.h: halfwords 256 b + a of two rows.

    For every `together` pairs of rows and every 4 values of K: words of rows 0 and 1, values (0, 2)
    and (1, 3), then of rows 2 and 3 and so on. Rows are padded to whole groups, k to a multiple of
    4, with zeros.
    """
    rows, k = weight.shape
    shape = round_up(rows, 2 * together), round_up(k, 4)
    padded: NDArray[np.int16] = np.zeros(shape, np.int16)
    padded[:rows, :k] = weight
    pairs = (padded[0::2] + 256 * padded[1::2]).reshape(-1, together, padded.shape[1] // 4, 4)
    words = pairs[..., [0, 2, 1, 3]].transpose(0, 2, 1, 3)
    return np.ascontiguousarray(words).astype("<i2").reshape(-1).view(np.int8)


@dataclass(frozen=True, slots=True)
class Sink:
    """Where a linear kernel puts its rows of outputs, one row a pixel.

    `place(pixel, channel)`: address of an output; `row`: codes from one row to the next;
    `done(pixel, count)` emits what is to be done with finished rows; on "cuda" each output is
    finished alone: `done(output, 1)`.
    """

    place: Callable[[Any, Any], Any]
    row: int
    done: Callable[[Any, int], None] = lambda pixel, count: None


@dataclass(frozen=True, slots=True)
class DspLayout:
    """How a linear kernel of so many pixels runs on dsp: one pixel alone, two or four at a time.

    `rows` x `k`: weights of one group, as the layer has them; `paired`: two channels' weights may
    share halfwords (see `fits_pairs`).
    """

    pixels: int
    rows: int
    k: int
    paired: bool = False

    @property
    def together(self) -> int:
        """Pixels that run together."""
        return 1 if self._alone else 2 if self.paired else 4

    @property
    def _alone(self) -> bool:
        return self.pixels == 1

    @property
    def _rows_together(self) -> int:
        return 4 if self._alone else 2 if self.paired else 1

    @property
    def padded_k(self) -> int:
        """Values in one column."""
        return round_up(self.k, 4)

    @property
    def step(self) -> int:
        """Words from one pair of words of a column to the next."""
        return 2 * self.together

    @property
    def weight_bytes(self) -> int:
        """Bytes of one group's weights."""
        return round_up(self.rows, self._rows_together) * self.padded_k

    @property
    def column_words(self) -> int:
        """Scratch for the columns of the pixels that run together."""
        return self.padded_k // 4 * self.step

    def pack(self, weight: Array) -> I8:
        """Return one group's weights [rows, k] as the inner block reads them."""
        if self.paired:
            return pack_pairs_dsp(weight, self._rows_together // 2)
        return pack_rows(weight, self._rows_together)

    def emit(
        self,
        column: Callable[[Any, Any], None],
        operands: Sequence[Any],
        flags: int,
        sink: Sink,
        channel: Any = 0,
    ) -> None:
        """Emit the loop over all pixels of the group whose first output channel is given.

        `column(pixel, word)` expands a pixel's column from that word of the scratch on; `operands`:
        columns, w, bias, multiplier, q.
        """
        shape = (*operands, self.padded_k, self.rows, flags)
        if self._alone:
            column(0, 0)
            block = f"edgec_gemm_row{'_pairs' if self.paired else ''}_s16_s8__dsp"
            call(block, *shape, sink.place(0, channel))
            sink.done(0, 1)
            return

        block = f"edgec_gemm_{'duo_pairs' if self.paired else 'quad'}_s16_s8__dsp"

        def some(first: Any, count: int) -> None:
            with loop("i", count) as i:
                column(first + i, i * 2)
            call(block, *shape, count, sink.row, sink.place(first, channel))
            sink.done(first, count)

        in_turns(self.pixels, self.together, some)


def pack_words_cuda(weight: Array) -> I8:
    """Turn [rows, k] weights into words of four, [k / 4, rows, 4]; k is padded with zeros."""
    rows, k = weight.shape
    padded = np.pad(weight, ((0, 0), (0, -k % 4)))
    words = padded.reshape(rows, padded.shape[1] // 4, 4).transpose(1, 0, 2)
    return np.ascontiguousarray(words).reshape(-1)


def random_linear(
    rng: np.random.Generator,
    rows: int,
    k: int,
    low: int = -128,
    wide: bool = False,
    high: int = 127,
) -> tuple[I8, I32, I32, I32]:
    """Return seeded (weights [rows, k], bias, multiplier, q) whose outputs span int8.

    wide: most weights are zero and the rescale is large, so that shift < 33. A clamp wider than
    int8 spreads the outputs as far.
    """
    weight = rng.integers(-127, 128, (rows, k)).astype(np.int8)
    spread = rng.uniform(0.2, 1.0, rows) * 60 / (74 * 74 * np.sqrt(k))
    bias = rng.integers(-(50 * k) - 1, 50 * k + 1, rows).astype(np.int32)
    if wide:
        weight = np.where(rng.random((rows, k)) < 0.9, 0, weight // 64).astype(np.int8)
        spread, bias = rng.uniform(0.3, 0.9, rows), bias // (2 * k)
    rule = Requantiser.of(spread * max(1, high // 127))
    q = parameters(rule, int(rng.integers(-20, 20)), low, high, int(rng.integers(-128, 128)))
    return weight, bias, np.array(rule.multiplier, np.int32), q


def random_codes(rng: np.random.Generator, size: int, dtype: str) -> Array:
    """Return seeded int8 codes over the whole range, or int16 codes of 12 bits."""
    reach = 2048 if dtype == "int16" else 128
    return rng.integers(-reach, reach, size).astype(dtype)


def random_s8(rng: np.random.Generator, size: int) -> I8:
    """Return seeded int8 values over the whole range."""
    return rng.integers(-128, 128, size).astype(np.int8)


def exact_sum(a: Array, b: Array) -> I64:
    """Return a @ b.T in exact integers ([m, k] and [n, k])."""
    # Products of int16 are below 2**30; float64 holds sums of 2**23 of them exactly and is fast.
    return (a.astype(np.float64) @ b.astype(np.float64).T).astype(np.int64)

"""How linear kernels store int4 weights: two codes a byte, multipliers of groups behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.encoding import I8, I32
from ..program import Array
from ._shared import Sink, round_up
from ._tir import call, in_turns, loop

# Codes of 32 values of K share 16 bytes: byte i holds codes i and i + 16.
BLOCK = 32
# Values of K whose sums of int4 codes times activations fit 2**19 (of int16 12 bits are used).
PARTS = {"int8": 504, "int16": 28}


@dataclass(frozen=True, slots=True)
class Int4:
    """Storage of rows of k int4 weights, as runtime/c/include/edgec_gemm4.h describes it.

    `group`: how many values of K share a multiplier (16 or whole 32s); 0: the row has none.
    """

    group: int = 0

    def __post_init__(self) -> None:
        if self.group != 16 and self.group % BLOCK:
            raise ValueError(f"groups hold 16 or whole {BLOCK}s of values, not {self.group}")

    def groups(self, k: int) -> int:
        """Multipliers of one row."""
        return -(-k // self.group) if self.group else 0

    @staticmethod
    def row_bytes(k: int) -> int:
        """Bytes of the codes of one row."""
        return k // BLOCK * (BLOCK // 2) + (k % BLOCK + 1) // 2

    def size(self, rows: int, k: int) -> int:
        """Bytes of all rows and their multipliers."""
        return rows * (self.row_bytes(k) + self.groups(k))

    def pack(self, codes: Array, multiplier: Array | None = None) -> I8:
        """Return codes [rows, k] and multipliers [rows, groups] as stored: flat bytes."""
        rows, k = codes.shape
        whole = k // BLOCK * BLOCK
        nibbles = codes.astype(np.int8).view(np.uint8) & 15
        blocks = nibbles[:, :whole].reshape(rows, -1, 2, BLOCK // 2)
        body = blocks[:, :, 0] | blocks[:, :, 1] << 4
        rest = np.zeros((rows, round_up(k - whole, 2)), np.uint8)
        rest[:, : k - whole] = nibbles[:, whole:]
        tail = rest[:, 0::2] | rest[:, 1::2] << 4
        stored = np.concatenate([body.reshape(rows, -1), tail], axis=1).reshape(-1)
        if self.group:
            assert multiplier is not None and multiplier.shape == (rows, self.groups(k))
            stored = np.concatenate([stored, multiplier.astype(np.uint8).reshape(-1)])
        return stored.view(np.int8)

    def unpack(self, stored: Array, rows: int, k: int) -> tuple[I8, I32]:
        """Return codes [rows, k] and multipliers [rows, groups] of what `pack` made."""
        width, whole = self.row_bytes(k), k // BLOCK * BLOCK
        flat = np.asarray(stored).view(np.uint8)
        packed = flat[: rows * width].reshape(rows, width)
        body = packed[:, : whole // 2].reshape(rows, -1, 1, BLOCK // 2)
        tail = packed[:, whole // 2 :, None]
        nibbles = np.concatenate(
            [
                np.concatenate([body & 15, body >> 4], axis=2).reshape(rows, whole),
                np.concatenate([tail & 15, tail >> 4], axis=2).reshape(rows, -1)[:, : k - whole],
            ],
            axis=1,
        )
        codes: NDArray[np.int8] = (nibbles.astype(np.int8) ^ 8) - 8
        multiplier = flat[rows * width :].astype(np.int32)
        return codes, multiplier.reshape(rows, self.groups(k))

    def whole(self, stored: Array, rows: int, k: int) -> I32:
        """Return codes times their multipliers [rows, k]: what the sums are made of."""
        codes, multiplier = self.unpack(stored, rows, k)
        if not self.group:
            return codes.astype(np.int32)
        return codes * np.repeat(multiplier, self.group, axis=1)[:, :k]


def random_int4(rng: np.random.Generator, rows: int, k: int, group: int) -> tuple[I8, I32]:
    """Return seeded codes [rows, k] over all of int4 and multipliers [rows, groups]."""
    shape = (rows, Int4(group).groups(k))
    codes = rng.integers(-8, 8, (rows, k)).astype(np.int8)
    return codes, rng.integers(1, 256, shape).astype(np.int32)


@dataclass(frozen=True, slots=True)
class DspInt4Layout:
    """How a linear kernel with int4 weights runs on dsp, per group: one or two pixels at a time.

    `rows` x `k`: weights of one group of a convolution, as the layer has them; `dtype`: of the
    activations.
    """

    pixels: int
    rows: int
    k: int
    form: Int4
    dtype: str = "int8"

    @property
    def together(self) -> int:
        """Pixels that run together."""
        return min(self.pixels, 2)

    @property
    def padded_k(self) -> int:
        """Values in one column."""
        return round_up(self.k, 4)

    @property
    def step(self) -> int:
        """Words from one pair of words of a column to the next."""
        return 2 * self.together

    @property
    def _part(self) -> int:
        """Values of K whose sums come out of the four together; they divide a group.

        A quarter of what four sums share is 2**19: |8 * code| * part must stay below.
        """
        most = PARTS[self.dtype]
        if not self.form.group:
            return min(most, self.padded_k)
        return next(p for p in range(most, 0, -4) if self.form.group % p == 0)

    @property
    def _parts(self) -> int:
        return -(-self.padded_k // self._part)

    @property
    def weight_bytes(self) -> int:
        """Bytes of one group's weights and multipliers."""
        words = self.padded_k // 2 + (self._parts if self.form.group else 0)
        return 4 * words * (round_up(self.rows, 4) // 4)

    @property
    def column_words(self) -> int:
        """Scratch for the columns of the pixels that run together and the sums of their parts."""
        return self.sums_word + self.together * self._parts

    @property
    def sums_word(self) -> int:
        """Where in the scratch the sums of the parts lie."""
        return self.padded_k // 4 * self.step

    def pack(self, stored: Array) -> I8:
        """Return one group's weights as the inner block reads them; see edgec_gemm4_dsp.h."""
        codes, scales = self.form.unpack(stored, self.rows, self.k)
        rows, k, part = round_up(self.rows, 4), self.padded_k, self._part
        padded: NDArray[np.int32] = np.zeros((rows, k), np.int32)
        padded[: self.rows, : self.k] = codes
        w0, w1, w2, w3 = (padded[r::4] for r in range(4))
        halves = (w0 + 8) + 16 * (w1 + 8) + 256 * (w2 + 8) + 4096 * w3
        pairs = np.ascontiguousarray(halves.reshape(rows // 4, -1, 4)[..., [0, 2, 1, 3]])
        words = pairs.astype("<i2").reshape(rows // 4, -1).view("<i4")
        if not self.form.group:
            return words.reshape(-1).view(np.int8)
        by_part: NDArray[np.uint8] = np.ones((rows, self._parts), np.uint8)
        by_part[: self.rows] = np.repeat(scales, self.form.group // part, axis=1)[:, : self._parts]
        factors = by_part.reshape(-1, 4, self._parts).transpose(0, 2, 1).reshape(rows // 4, -1)
        factors = np.ascontiguousarray(factors).view("<i4")
        pieces: list[Array] = []
        for index in range(self._parts):
            pieces += [words[:, index * part // 2 : (index + 1) * part // 2], factors[:, [index]]]
        return np.ascontiguousarray(np.concatenate(pieces, axis=1)).reshape(-1).view(np.int8)

    def emit(
        self,
        column: Callable[[Any, Any], None],
        operands: Sequence[Any],
        flags: int,
        sink: Sink,
        channel: Any = 0,
    ) -> None:
        """As DspLayout.emit; operands: columns, w, bias, multiplier, q and the sums' place."""
        shape = self.padded_k, self.rows, self._part, int(self.form.group > 0), self.together, flags

        def some(first: Any, count: int) -> None:
            with loop("i", count) as i:
                column(first + i, i * 2)
            call(
                "edgec_gemm4_rows__dsp", *operands, *shape, count, sink.row,
                sink.place(first, channel),
            )  # fmt: skip
            sink.done(first, count)

        in_turns(self.pixels, self.together, some)

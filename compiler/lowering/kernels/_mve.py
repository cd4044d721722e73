"""How linear kernels run on Helium (Cortex-M55): two pixels at a time, sixteen values of K."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..program import Array
from ._shared import I8, Sink, pack_rows, round_up
from ._tir import call, loop

VECTOR = 16


@dataclass(frozen=True, slots=True)
class MveLayout:
    """Weights, columns and loops of a linear kernel of so many pixels, per group.

    `rows` x `k`: weights of one group, as the layer has them.
    """

    pixels: int
    rows: int
    k: int

    @property
    def together(self) -> int:
        """Pixels that run together."""
        return min(self.pixels, 2)

    @property
    def padded_k(self) -> int:
        """Values in one column in scratch."""
        return round_up(self.k, VECTOR)

    @property
    def weight_bytes(self) -> int:
        """Bytes of one group's weights."""
        return round_up(self.rows, 4) * self.padded_k

    @property
    def column_bytes(self) -> int:
        """Scratch for the columns of the pixels that run together; whole vectors are written."""
        return self.together * self.padded_k + VECTOR

    def pack(self, weight: Array) -> I8:
        """Return one group's weights [rows, k] as the inner block reads them."""
        return pack_rows(weight, 4, VECTOR)

    def emit(
        self,
        column: Callable[[Any, int], Any],
        operands: Sequence[Any],
        k: int,
        flags: int,
        sink: Sink,
        channel: Any = 0,
    ) -> None:
        """Emit the loop over all pixels of the group whose first output channel is given.

        `column(pixel, i)` returns the address of a pixel's column of k codes, the i-th of those
        that run together; `operands`: w, bias, multiplier, q.
        """

        def some(first: Any, count: int) -> None:
            columns = [column(first + i, i) for i in range(count)]
            call(
                "edgec_gemm_rows__mve", columns[0], columns[-1], *operands, k, self.rows, flags,
                count, sink.row, sink.place(first, channel),
            )  # fmt: skip
            sink.done(first, count)

        if self.pixels >= 2:
            with loop("pair", self.pixels // 2) as pair:
                some(pair * 2, 2)
        if self.pixels % 2:
            some(self.pixels - 1, 1)

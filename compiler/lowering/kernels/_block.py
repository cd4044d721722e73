"""How linear kernels run on vector units: a few pixels at a time, blocks of channels by vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..program import Array
from ._shared import I8, Sink, pack_rows, round_up
from ._tir import in_turns


@dataclass(frozen=True, slots=True)
class _Form:
    """What the inner block of an isa takes.

    `pixels`: most that run together; `depth`: values of K that lie together; `rows`: channels that
    do; `slack`: bytes that are written behind a column; `whole`: biases and multipliers are read as
    whole vectors.
    """

    pixels: int
    depth: int
    rows: int
    slack: int
    whole: bool


FORMS = {
    "mve": _Form(pixels=2, depth=16, rows=4, slack=16, whole=False),  # Helium: edgec_gemm_mve.h
    "dot": _Form(pixels=4, depth=4, rows=16, slack=0, whole=True),  # aarch64: edgec_gemm_dot.h
}
# Channels are computed in fours.
LANES = 4


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """Weights, columns and loops of a linear kernel of so many pixels, per group.

    `rows` x `k`: weights of one group, as the layer has them.
    """

    isa: str
    pixels: int
    rows: int
    k: int

    @property
    def _form(self) -> _Form:
        return FORMS[self.isa]

    @property
    def together(self) -> int:
        """Pixels that run together."""
        return min(self.pixels, self._form.pixels)

    @property
    def padded_k(self) -> int:
        """Values in one column in scratch."""
        return round_up(self.k, self._form.depth)

    @property
    def weight_bytes(self) -> int:
        """Bytes of one group's weights."""
        return round_up(self.rows, LANES) * self.padded_k

    @property
    def column_bytes(self) -> int:
        """Scratch for the columns of the pixels that run together; whole vectors are written."""
        return self.together * self.padded_k + self._form.slack

    @property
    def spare(self) -> int:
        """Biases and multipliers behind those of the last channel, which whole vectors read."""
        return -self.rows % LANES if self._form.whole else 0

    def pack(self, weight: Array) -> I8:
        """Return one group's weights [rows, k] as the inner block reads them.

        Whole blocks of channels lie together, then the channels that are left.
        """
        form = self._form
        whole = self.rows // form.rows * form.rows
        parts = [pack_rows(weight[:whole], form.rows, form.depth)]
        if whole < self.rows:
            parts.append(pack_rows(weight[whole:], round_up(self.rows - whole, LANES), form.depth))
        return np.concatenate(parts)

    def emit(
        self, block: Callable[[Any, int], None], sink: Sink, pixels: int, start: Any = 0
    ) -> None:
        """Emit the loop over so many pixels from `start` on; block(first, count) emits outputs."""

        def some(first: Any, count: int) -> None:
            block(first, count)
            sink.done(start + first, count)

        in_turns(pixels, self._form.pixels, some)


def with_spare(constants: Sequence[Array], spare: int) -> tuple[Array, ...]:
    """Return bias and multiplier with so many zeros behind them, and what follows them."""
    bias, multiplier, *others = constants
    return (np.pad(bias, (0, spare)), np.pad(multiplier, (0, spare)), *others)

"""Mean over the tokens that a mask known at run time keeps (sentence embeddings)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..program import Array, Case, Param
from ._base import KernelBase
from ._shared import INPUT_ZERO, Q_SIZE, parameters, random_s8
from ._tir import at, call, current_isa, parallel
from .average_pool import average_multipliers, round_average


@dataclass(frozen=True, slots=True)
class MaskedMean(KernelBase):
    """batch x tokens x width int8 and a uint8 mask (0 drops) to batch x width int8.

    multiplier[count] divides a sum of count tokens; where none is kept the mean is zero.
    """

    batch: int
    tokens: int
    width: int

    name: ClassVar[str] = "masked_mean"

    def params(self, isa: str) -> tuple[Param, ...]:
        """x, mask, multiplier, q, y."""
        return (
            Param("x", self.batch * self.tokens * self.width, "int8", "input"),
            Param("mask", self.batch * self.tokens, "uint8", "input"),
            Param("multiplier", self.tokens + 1, "int32", "constant"),
            Param("q", Q_SIZE, "int32", "constant"),
            Param("y", self.batch * self.width, "int8", "output"),
        )

    def write(self, x: Any, mask: Any, multiplier: Any, q: Any, y: Any) -> None:
        """Emit the loop over the batch; on "cuda" every thread computes one channel."""
        channels = 1 if current_isa() == "cuda" else self.width
        with parallel(("b", "c"), (self.batch, self.width // channels)) as (b, c):
            call("edgec_masked_mean_s8", at(x, b * self.tokens * self.width + c),
                 at(mask, b * self.tokens), self.tokens, self.width, channels, at(multiplier, 0),
                 at(q, 0), at(y, b * self.width + c))  # fmt: skip

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Exact integers in NumPy."""
        x, mask, multiplier, q = arrays
        kept = (mask != 0).reshape(self.batch, self.tokens, 1)
        value = x.reshape(self.batch, self.tokens, self.width).astype(np.int64)
        sums = ((value - int(q[INPUT_ZERO])) * kept).sum(axis=1)
        counts = kept.sum(axis=(1, 2))
        rows = [
            round_average(row, int(multiplier[n]), q) for row, n in zip(sums, counts, strict=True)
        ]
        return (np.concatenate(rows),)

    @staticmethod
    def cases() -> Iterable[Case]:
        """Some, all and no tokens kept; one token."""
        rng = np.random.default_rng(19)
        for batch, tokens, width, scale in ((3, 7, 10, 1.3), (1, 1, 3, 0.4)):
            rule, multipliers = average_multipliers(scale, tokens, False)
            q = parameters(rule, 5, -128, 127, int(rng.integers(-128, 127)))
            mask = rng.integers(0, 2, (batch, tokens)).astype(np.uint8)
            mask[0], mask[-1] = 1, mask[-1] * (batch == 1)
            x = random_s8(rng, batch * tokens * width)
            constants = (np.array(multipliers, np.int32), q)
            yield Case(MaskedMean(batch, tokens, width), (x, mask.reshape(-1), *constants))

"""Movement: transpose, slice, concat, expand, pad as affine copies of parts into one buffer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..program import Array, Case, Param
from ._access import Access, axis_names, collapse, dense
from ._base import KernelBase
from ._tir import parallel, store, tir


@dataclass(frozen=True, slots=True)
class Part:
    """One rectangular piece: loop shape, where it is read, where it is written."""

    shape: tuple[int, ...]
    source: Access
    target: Access

    @staticmethod
    def of(shape: Sequence[int], source: Access, target: Access) -> Part:
        """Return the part with mergeable axes merged."""
        extents, (a, b) = collapse(shape, (source, target))
        return Part(extents, a, b)


@dataclass(frozen=True, slots=True)
class Copy(KernelBase):
    """One input per part; `fill` is written first where the parts leave gaps (padding)."""

    parts: tuple[Part, ...]
    size: int
    dtype: str = "int8"
    fill: int | None = None

    name: ClassVar[str] = "copy"

    def params(self, isa: str) -> tuple[Param, ...]:
        """x0, x1, ..., y."""
        inputs = (
            Param(f"x{i}", p.source.size, self.dtype, "input") for i, p in enumerate(self.parts)
        )
        return (*inputs, Param("y", self.size, self.dtype, "output"))

    def write(self, *buffers: Any) -> None:
        """Emit the loops."""
        *sources, y = buffers
        if self.fill is not None:
            with parallel(["i"], [self.size]) as (i,):
                store(y, i, tir().Cast(self.dtype, self.fill))
        for part, x in zip(self.parts, sources, strict=True):
            with parallel(axis_names(len(part.shape)), part.shape) as axes:
                store(y, part.target.index(axes), x[part.source.index(axes)])

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Exact copy in NumPy."""
        y = np.full(self.size, self.fill or 0, self.dtype)
        for part, x in zip(self.parts, arrays, strict=True):
            y[part.target.positions(part.shape)] = x[part.source.positions(part.shape)]
        return (y,)

    @staticmethod
    def cases() -> Iterable[Case]:
        """Transpose, concat of two, padding, reversed slice of int32."""
        rng = np.random.default_rng(4)
        x = rng.integers(-128, 128, 24).astype(np.int8)
        turn = Part.of((4, 2, 3), Access(24, (1, 12, 4)), dense((4, 2, 3)))
        yield Case(Copy((turn,), 24), (x,))
        left = Part.of((3, 4), dense((3, 4)), Access(18, (6, 1)))
        right = Part.of((3, 2), dense((3, 2)), Access(18, (6, 1), 4))
        yield Case(Copy((left, right), 18), (x[:12], x[12:18]))
        inner = Part.of((2, 3), dense((2, 3)), Access(20, (5, 1), 6))
        yield Case(Copy((inner,), 20, fill=-7), (x[:6],))
        backwards = Part.of((5,), Access(9, (-2,), 8), dense((5,)))
        yield Case(Copy((backwards,), 5, "int32"), (rng.integers(-9, 9, 9).astype(np.int32),))

"""Elementwise choice between two int8 tensors of one encoding by a condition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..program import Array, Case, Param
from ._access import Access, axis_names, collapse, dense
from ._base import KernelBase
from ._tir import parallel, store, tir


@dataclass(frozen=True, slots=True)
class Select(KernelBase):
    """y = condition != 0 ? a : b, broadcasting."""

    shape: tuple[int, ...]
    condition: Access
    a: Access
    b: Access
    dtype: str = "int8"

    name: ClassVar[str] = "select"

    @staticmethod
    def of(shape: Sequence[int], condition: Access, a: Access, b: Access, dtype: str) -> Select:
        """Return the kernel with mergeable axes merged."""
        extents, (c, x, z, _) = collapse(shape, (condition, a, b, dense(shape)))
        return Select(extents, c, x, z, dtype)

    def params(self, isa: str) -> tuple[Param, ...]:
        """condition, a, b, y."""
        return (
            Param("condition", self.condition.size, "uint8", "input"),
            Param("a", self.a.size, self.dtype, "input"),
            Param("b", self.b.size, self.dtype, "input"),
            Param("y", int(np.prod(self.shape)), self.dtype, "output"),
        )

    def write(self, condition: Any, a: Any, b: Any, y: Any) -> None:
        """Emit the loops."""
        t, target = tir(), dense(self.shape)
        with parallel(axis_names(len(self.shape)), self.shape) as axes:
            chosen = t.Select(
                condition[self.condition.index(axes)] != t.uint8(0),
                a[self.a.index(axes)],
                b[self.b.index(axes)],
            )
            store(y, target.index(axes), chosen)

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Exact choice in NumPy."""
        condition, a, b = arrays
        keep = condition[self.condition.positions(self.shape)] != 0
        left, right = a[self.a.positions(self.shape)], b[self.b.positions(self.shape)]
        return (np.where(keep, left, right).reshape(-1),)

    def in_place(self, isa: str) -> Mapping[int, int]:
        """Over the first operand that is dense."""
        for index, access in ((1, self.a), (2, self.b)):
            if access == dense(self.shape):
                return {0: index}
        return {}

    @staticmethod
    def cases() -> Iterable[Case]:
        """Broadcast condition and operand."""
        rng = np.random.default_rng(14)
        a, b = (rng.integers(-128, 128, 24).astype(np.int8) for _ in range(2))
        condition = np.array([0, 1, 0, 1], np.uint8)
        rows = Access(4, (1, 0))
        yield Case(Select.of((4, 6), rows, dense((4, 6)), dense((4, 6)), "int8"), (condition, a, b))
        yield Case(
            Select.of((4, 6), rows, Access(6, (0, 1)), dense((4, 6)), "int8"),
            (condition, a[:6], b),
        )

"""Rows of a table chosen by int32 indices known at run time (embeddings, position tables)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..program import Array, Case, Param
from ._base import KernelBase
from ._tir import parallel, store, tir


@dataclass(frozen=True, slots=True)
class GatherRows(KernelBase):
    """y[o, i, :] = x[o, index[i], :]; negative indices count from the end, others are clamped."""

    outer: int
    entries: int
    width: int
    count: int
    dtype: str = "int8"

    name: ClassVar[str] = "gather_rows"

    def params(self, isa: str) -> tuple[Param, ...]:
        """x, index, y."""
        return (
            Param("x", self.outer * self.entries * self.width, self.dtype, "input"),
            Param("index", self.count, "int32", "input"),
            Param("y", self.outer * self.count * self.width, self.dtype, "output"),
        )

    def write(self, x: Any, index: Any, y: Any) -> None:
        """Emit the loops."""
        t = tir()
        with parallel(("outer", "i", "j"), (self.outer, self.count, self.width)) as (outer, i, j):
            row = t.call_extern("int32", "edgec_row", index[i], self.entries)
            value = x[(outer * self.entries + row) * self.width + j]
            store(y, (outer * self.count + i) * self.width + j, value)

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Exact look-up in NumPy."""
        x, index = arrays
        rows = np.where(index < 0, index + self.entries, index)
        rows = np.clip(rows, 0, self.entries - 1)
        return (x.reshape(self.outer, self.entries, self.width)[:, rows].reshape(-1),)

    @staticmethod
    def cases() -> Iterable[Case]:
        """One table, an inner axis, negative and out-of-range indices."""
        rng = np.random.default_rng(13)
        x = rng.integers(-128, 128, 60).astype(np.int8)
        index = np.array([0, 4, -1, 3, 99, -99], np.int32)
        yield Case(GatherRows(1, 10, 6, 6), (x, index))
        yield Case(GatherRows(3, 5, 4, 2), (x, index[:2]))

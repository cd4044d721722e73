"""Comparisons of int32 tensors known at run time (positions), to 0 or 1."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..program import Array, Case, Param
from ._access import Access, axis_names, collapse, dense
from ._base import KernelBase
from ._tir import parallel, store, tir

RELATIONS = {
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Equal": np.equal,
}


@dataclass(frozen=True, slots=True)
class Compare(KernelBase):
    """y = (a relation b), broadcasting; relation is the ONNX operator's name."""

    shape: tuple[int, ...]
    a: Access
    b: Access
    relation: str

    name: ClassVar[str] = "compare"

    @staticmethod
    def of(shape: Sequence[int], a: Access, b: Access, relation: str) -> Compare:
        """Return the kernel with mergeable axes merged."""
        extents, (left, right, _) = collapse(shape, (a, b, dense(shape)))
        return Compare(extents, left, right, relation)

    def params(self, isa: str) -> tuple[Param, ...]:
        """a, b, y."""
        return (
            Param("a", self.a.size, "int32", "input"),
            Param("b", self.b.size, "int32", "input"),
            Param("y", int(np.prod(self.shape)), "uint8", "output"),
        )

    def write(self, a: Any, b: Any, y: Any) -> None:
        """Emit the loops."""
        target, t = dense(self.shape), tir()
        with parallel(axis_names(len(self.shape)), self.shape) as axes:
            left, right = a[self.a.index(axes)], b[self.b.index(axes)]
            holds = {
                "Greater": left > right,
                "GreaterOrEqual": left >= right,
                "Less": left < right,
                "LessOrEqual": left <= right,
                "Equal": t.EQ(left, right),
            }[self.relation]
            store(y, target.index(axes), t.Select(holds, t.uint8(1), t.uint8(0)))

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Exact comparison in NumPy."""
        left = arrays[0][self.a.positions(self.shape)]
        right = arrays[1][self.b.positions(self.shape)]
        return (RELATIONS[self.relation](left, right).astype(np.uint8).reshape(-1),)

    @staticmethod
    def cases() -> Iterable[Case]:
        """Every relation, one operand broadcast."""
        a = np.arange(12, dtype=np.int32)
        for relation in RELATIONS:
            kernel = Compare.of((12,), dense((12,)), Access(1, (0,)), relation)
            yield Case(kernel, (a, np.array([5], np.int32)))

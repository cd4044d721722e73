"""Any elementwise function of one int8 tensor: a 256-entry table (also plain rescaling)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..program import Array, Case, Param
from ._access import Access, axis_names, collapse, dense
from ._base import KernelBase
from ._tir import parallel, store


@dataclass(frozen=True, slots=True)
class Table(KernelBase):
    """y[i] = table[x[i] + 128]; the input may be strided, the output is dense, of dtype."""

    shape: tuple[int, ...]
    source: Access
    dtype: str = "int8"

    name: ClassVar[str] = "table"

    @staticmethod
    def of(shape: Sequence[int], source: Access, dtype: str = "int8") -> Table:
        """Return the kernel with mergeable axes merged."""
        extents, (access, _) = collapse(shape, (source, dense(shape)))
        return Table(extents, access, dtype)

    @property
    def _size(self) -> int:
        return int(np.prod(self.shape))

    def params(self, isa: str) -> tuple[Param, ...]:
        """x, table, y."""
        return (
            Param("x", self.source.size, "int8", "input"),
            Param("table", 256, self.dtype, "constant"),
            Param("y", self._size, self.dtype, "output"),
        )

    def write(self, x: Any, table: Any, y: Any) -> None:
        """Emit the loops."""
        target = dense(self.shape)
        with parallel(axis_names(len(self.shape)), self.shape) as axes:
            code = x[self.source.index(axes)].astype("int32")
            store(y, target.index(axes), table[code + 128])

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Exact look-up in NumPy."""
        x, table = arrays
        return (table[x[self.source.positions(self.shape)].astype(np.int64) + 128].reshape(-1),)

    def in_place(self, isa: str) -> Mapping[int, int]:
        """Element by element when the input is dense."""
        return {0: 0} if self.source == dense(self.shape) and self.dtype == "int8" else {}

    @staticmethod
    def cases() -> Iterable[Case]:
        """Dense and transposed input, int16 output."""
        rng = np.random.default_rng(5)
        x, table = (rng.integers(-128, 128, n).astype(np.int8) for n in (30, 256))
        yield Case(Table.of((5, 6), dense((5, 6))), (x, table))
        yield Case(Table.of((6, 5), Access(30, (1, 6))), (x, table))
        wide = rng.integers(-2048, 2048, 256).astype(np.int16)
        yield Case(Table.of((6, 5), Access(30, (1, 6)), "int16"), (x, wide))

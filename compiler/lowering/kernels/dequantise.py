"""Codes to float32: the entrance of a float island."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..program import Array, Case, Param
from ._access import Access, axis_names, collapse, dense
from ._base import KernelBase
from ._tir import parallel, store


@dataclass(frozen=True, slots=True)
class Dequantise(KernelBase):
    """y[i] = scale * (x[i] - zero); the input may be strided, the output is dense."""

    shape: tuple[int, ...]
    source: Access
    dtype: str = "int8"

    name: ClassVar[str] = "dequantise"

    @staticmethod
    def of(shape: Sequence[int], source: Access, dtype: str = "int8") -> Dequantise:
        """Return the kernel with mergeable axes merged."""
        extents, (access, _) = collapse(shape, (source, dense(shape)))
        return Dequantise(extents, access, dtype)

    def params(self, isa: str) -> tuple[Param, ...]:
        """x, scale, zero, y."""
        return (
            Param("x", self.source.size, self.dtype, "input"),
            Param("scale", 1, "float32", "constant"),
            Param("zero", 1, "int32", "constant"),
            Param("y", int(np.prod(self.shape)), "float32", "output"),
        )

    def write(self, x: Any, scale: Any, zero: Any, y: Any) -> None:
        """Emit the loops."""
        target = dense(self.shape)
        with parallel(axis_names(len(self.shape)), self.shape) as axes:
            code = x[self.source.index(axes)].astype("int32") - zero[0]
            store(y, target.index(axes), code.astype("float32") * scale[0])

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """One exact difference, one rounded product, as ONNX defines it."""
        x, scale, zero = arrays
        codes = x[self.source.positions(self.shape)].astype(np.int32) - zero[0]
        return ((codes.astype(np.float32) * scale[0]).reshape(-1),)

    @staticmethod
    def cases() -> Iterable[Case]:
        """Dense and transposed, int16."""
        rng = np.random.default_rng(15)
        x = rng.integers(-128, 128, 30).astype(np.int8)
        constants = np.array([0.037], np.float32), np.array([-9], np.int32)
        yield Case(Dequantise.of((5, 6), dense((5, 6))), (x, *constants))
        yield Case(Dequantise.of((6, 5), Access(30, (1, 6))), (x, *constants))
        wide = rng.integers(-2048, 2048, 30).astype(np.int16)
        yield Case(Dequantise.of((6, 5), Access(30, (1, 6)), "int16"), (wide, *constants))

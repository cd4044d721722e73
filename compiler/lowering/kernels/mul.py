"""Product of two int8 or int16 tensors, broadcasting, fused clamp."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...core.encoding import Requantiser
from ..program import Array, Case, Param
from ._access import Access, axis_names, collapse, dense
from ._base import KernelBase
from ._shared import PLAIN, Epilogue, parameters, random_codes, requantise
from ._tir import parallel, store, tir


@dataclass(frozen=True, slots=True)
class Mul(KernelBase):
    """y[i] = requantise((a[i] - za) * (b[i] - zb)); zeros holds (za, zb).

    `dtypes`: of a and b; that of y is in the epilogue.
    """

    shape: tuple[int, ...]
    a: Access
    b: Access
    epilogue: Epilogue = PLAIN
    dtypes: tuple[str, str] = ("int8", "int8")

    name: ClassVar[str] = "mul"

    @staticmethod
    def of(
        shape: Sequence[int], a: Access, b: Access, epilogue: Epilogue,
        dtypes: tuple[str, str] = ("int8", "int8"),
    ) -> Mul:  # fmt: skip
        """Return the kernel with mergeable axes merged."""
        extents, (left, right, _) = collapse(shape, (a, b, dense(shape)))
        return Mul(extents, left, right, epilogue, dtypes)

    def params(self, isa: str) -> tuple[Param, ...]:
        """a, b, zeros, multiplier, q, y."""
        return (
            Param("a", self.a.size, self.dtypes[0], "input"),
            Param("b", self.b.size, self.dtypes[1], "input"),
            Param("zeros", 2, "int32", "constant"),
            Param("multiplier", 1, "int32", "constant"),
            Param("q", 5, "int32", "constant"),
            Param("y", int(np.prod(self.shape)), self.epilogue.dtype, "output"),
        )

    def write(self, a: Any, b: Any, zeros: Any, multiplier: Any, q: Any, y: Any) -> None:
        """Emit the loops."""
        t, target = tir(), dense(self.shape)
        with parallel(axis_names(len(self.shape)), self.shape) as axes:
            left = a[self.a.index(axes)].astype("int32") - zeros[0]
            right = b[self.b.index(axes)].astype("int32") - zeros[1]
            value = t.call_extern(
                "int32", "edgec_requantise_q", left * right, multiplier[0], t.address_of(q[0]),
                self.epilogue.flags,
            )  # fmt: skip
            store(y, target.index(axes), value.astype(self.epilogue.dtype))

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Exact integers in NumPy."""
        a, b, zeros, multiplier, q = arrays
        left = a[self.a.positions(self.shape)].astype(np.int64) - int(zeros[0])
        right = b[self.b.positions(self.shape)].astype(np.int64) - int(zeros[1])
        acc = (left * right).reshape(-1, 1)
        return (requantise(acc, multiplier, q, self.epilogue.dtype).reshape(-1),)

    def in_place(self, isa: str) -> Mapping[int, int]:
        """Over the first operand that is dense and as wide."""
        for index, access in enumerate((self.a, self.b)):
            if access == dense(self.shape) and self.dtypes[index] == self.epilogue.dtype:
                return {0: index}
        return {}

    def macs(self) -> int:
        """One per element."""
        return int(np.prod(self.shape))

    @staticmethod
    def cases() -> Iterable[Case]:
        """Same shapes, a broadcast operand, every mix of widths."""
        rng = np.random.default_rng(7)
        x, z = (rng.integers(-128, 128, 24).astype(np.int8) for _ in range(2))
        zeros = np.array([4, -9], np.int32)
        for scale, b, other in ((0.01, dense((4, 6)), z), (0.4, Access(6, (0, 1)), z[:6])):
            rule = Requantiser.of(scale)
            q = parameters(rule, -3, -60 if scale > 0.1 else -128)
            kernel = Mul.of((4, 6), dense((4, 6)), b, Epilogue.of(q))
            yield Case(kernel, (x, other, zeros, np.array(rule.multiplier, np.int32), q))
        for a, b, y in (("int8", "int8", "int16"), ("int16", "int8", "int16"),
                        ("int16", "int16", "int16"), ("int8", "int16", "int8")):  # fmt: skip
            left, right = random_codes(rng, 24, a), random_codes(rng, 6, b)
            reach = float(np.abs(left).max()) * float(np.abs(right).max())
            limits = (-2048, 2047) if y == "int16" else (-128, 127)
            rule = Requantiser.of(limits[1] / reach)
            q = parameters(rule, 0, *limits)
            kernel = Mul.of((4, 6), dense((4, 6)), Access(6, (0, 1)), Epilogue.of(q, y), (a, b))
            yield Case(kernel, (left, right, zeros, np.array(rule.multiplier, np.int32), q))

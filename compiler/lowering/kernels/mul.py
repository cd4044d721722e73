"""Product of two int8 tensors, broadcasting, fused clamp."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...core.encoding import Requantiser
from ..program import Array, Case, Param
from ._access import Access, axis_names, collapse, dense
from ._base import KernelBase
from ._shared import PLAIN, Epilogue, parameters, requantise
from ._tir import loops, store, tir


@dataclass(frozen=True, slots=True)
class Mul(KernelBase):
    """y[i] = requantise((a[i] - za) * (b[i] - zb)); zeros holds (za, zb)."""

    shape: tuple[int, ...]
    a: Access
    b: Access
    epilogue: Epilogue = PLAIN

    name: ClassVar[str] = "mul"

    @staticmethod
    def of(shape: Sequence[int], a: Access, b: Access, epilogue: Epilogue) -> Mul:
        """Return the kernel with mergeable axes merged."""
        extents, (left, right, _) = collapse(shape, (a, b, dense(shape)))
        return Mul(extents, left, right, epilogue)

    def params(self, isa: str) -> tuple[Param, ...]:
        """a, b, zeros, multiplier, q, y."""
        return (
            Param("a", self.a.size, "int8", "input"),
            Param("b", self.b.size, "int8", "input"),
            Param("zeros", 2, "int32", "constant"),
            Param("multiplier", 1, "int32", "constant"),
            Param("q", 5, "int32", "constant"),
            Param("y", int(np.prod(self.shape)), "int8", "output"),
        )

    def write(self, a: Any, b: Any, zeros: Any, multiplier: Any, q: Any, y: Any) -> None:
        """Emit the loops."""
        t, target = tir(), dense(self.shape)
        with loops(axis_names(len(self.shape)), self.shape) as axes:
            left = a[self.a.index(axes)].astype("int32") - zeros[0]
            right = b[self.b.index(axes)].astype("int32") - zeros[1]
            value = t.call_extern(
                "int32", "edgec_requantise_q", left * right, multiplier[0], t.address_of(q[0]),
                self.epilogue.flags,
            )  # fmt: skip
            store(y, target.index(axes), value.astype("int8"))

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Exact integers in NumPy."""
        a, b, zeros, multiplier, q = arrays
        left = a[self.a.positions(self.shape)].astype(np.int64) - int(zeros[0])
        right = b[self.b.positions(self.shape)].astype(np.int64) - int(zeros[1])
        return (requantise((left * right).reshape(-1, 1), multiplier, q).reshape(-1),)

    def in_place(self) -> Mapping[int, int]:
        """Over the first operand that is dense."""
        for index, access in enumerate((self.a, self.b)):
            if access == dense(self.shape):
                return {0: index}
        return {}

    def macs(self) -> int:
        """One per element."""
        return int(np.prod(self.shape))

    @staticmethod
    def cases() -> Iterable[Case]:
        """Same shapes and a broadcast operand."""
        rng = np.random.default_rng(7)
        x, z = (rng.integers(-128, 128, 24).astype(np.int8) for _ in range(2))
        zeros = np.array([4, -9], np.int32)
        for scale, b, other in ((0.01, dense((4, 6)), z), (0.4, Access(6, (0, 1)), z[:6])):
            rule = Requantiser.of(scale)
            q = parameters(rule, -3, -60 if scale > 0.1 else -128)
            kernel = Mul.of((4, 6), dense((4, 6)), b, Epilogue.of(q))
            yield Case(kernel, (x, other, zeros, np.array(rule.multiplier, np.int32), q))

"""Sum of two int8 tensors with different scales, broadcasting, fused clamp."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...core.encoding import I32
from ..program import Array, Case, Param
from ._access import Access, axis_names, collapse, dense
from ._base import KernelBase
from ._tir import loops, store, tir

# Entries of q[].
SHIFT, ZERO_POINT, LOW, HIGH, ZERO_A, ZERO_B, FACTOR_A, FACTOR_B = range(8)
PRESHIFT = 20  # of both operands, so that the high word of the sum keeps fractional bits


def add_parameters(
    scales: tuple[float, float], zeros: tuple[int, int], zero_point: int, low: int, high: int
) -> I32:
    """Return q[] for y = a * scales[0] + b * scales[1] in output steps.

    Codes less their zero point have 9 bits and are shifted up by 20; the larger factor has 30,
    so the 64-bit sum of both products stays below 2**61. Raises ValueError when the larger scale
    ratio is outside [2**-12, 2**16].
    """
    largest = max(abs(s) for s in scales)
    bits = 30 - math.frexp(largest)[1]
    shift = bits + PRESHIFT
    if not 33 <= shift <= 62:
        raise ValueError(f"scale ratio {largest} is outside [2**-12, 2**16]")
    factors = [round(math.ldexp(s, bits)) for s in scales]
    return np.array([shift, zero_point, low, high, *zeros, *factors], np.int32)


@dataclass(frozen=True, slots=True)
class Add(KernelBase):
    """y = clamp(((a - za) * 2**20 * fa + (b - zb) * 2**20 * fb + half >> shift) + zero point)."""

    shape: tuple[int, ...]
    a: Access
    b: Access

    name: ClassVar[str] = "add"

    @staticmethod
    def of(shape: Sequence[int], a: Access, b: Access) -> Add:
        """Return the kernel with mergeable axes merged."""
        extents, (left, right, _) = collapse(shape, (a, b, dense(shape)))
        return Add(extents, left, right)

    def params(self, isa: str) -> tuple[Param, ...]:
        """a, b, q, y."""
        return (
            Param("a", self.a.size, "int8", "input"),
            Param("b", self.b.size, "int8", "input"),
            Param("q", 8, "int32", "constant"),
            Param("y", int(np.prod(self.shape)), "int8", "output"),
        )

    def write(self, a: Any, b: Any, q: Any, y: Any) -> None:
        """Emit the loops."""
        t, target = tir(), dense(self.shape)
        with loops(axis_names(len(self.shape)), self.shape) as axes:
            left = a[self.a.index(axes)].astype("int32")
            right = b[self.b.index(axes)].astype("int32")
            value = t.call_extern("int32", "edgec_add_s8", left, right, t.address_of(q[0]))
            store(y, target.index(axes), value.astype("int8"))

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Exact integers in NumPy."""
        a, b, q = arrays
        left = a[self.a.positions(self.shape)].astype(np.int64) - int(q[ZERO_A])
        right = b[self.b.positions(self.shape)].astype(np.int64) - int(q[ZERO_B])
        acc = (left * int(q[FACTOR_A]) + right * int(q[FACTOR_B])) << PRESHIFT
        acc += 1 << (int(q[SHIFT]) - 1)
        y = np.clip((acc >> int(q[SHIFT])) + int(q[ZERO_POINT]), int(q[LOW]), int(q[HIGH]))
        return (y.astype(np.int8).reshape(-1),)

    def in_place(self) -> Mapping[int, int]:
        """Over the first operand that is dense."""
        for index, access in enumerate((self.a, self.b)):
            if access == dense(self.shape):
                return {0: index}
        return {}

    @staticmethod
    def cases() -> Iterable[Case]:
        """Same shapes, a broadcast row, a transposed operand, a clamp."""
        rng = np.random.default_rng(6)
        x, z = (rng.integers(-128, 128, 24).astype(np.int8) for _ in range(2))
        q = add_parameters((0.7, 0.4), (3, -5), 10, -128, 127)
        yield Case(Add.of((4, 6), dense((4, 6)), dense((4, 6))), (x, z, q))
        relu = add_parameters((1.9, 0.01), (0, -128), -100, -100, 127)
        yield Case(Add.of((4, 6), dense((4, 6)), Access(6, (0, 1))), (x, z[:6], relu))
        big = add_parameters((0.5, -0.5), (0, 1), 1, -128, 127)  # half of the sums are ties
        yield Case(Add.of((4, 6), Access(24, (1, 4)), dense((4, 6))), (x, z, big))

"""Sum of two int8 or int16 tensors with different scales, broadcasting, fused clamp."""

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
from ._shared import random_codes
from ._tir import at, call, current_isa, parallel, store, tir

# Entries of q[].
SHIFT, ZERO_POINT, LOW, HIGH, ZERO_A, ZERO_B, FACTOR_A, FACTOR_B = range(8)


def preshift(bits: int) -> int:
    """Return by how much operands of `bits` are shifted up to keep fractional bits in the sum."""
    return 28 - bits


def add_parameters(
    scales: tuple[float, float], zeros: tuple[int, int], zero_point: int, low: int, high: int,
    bits: int = 8,
) -> I32:  # fmt: skip
    """Return q[] for y = a * scales[0] + b * scales[1] in output steps; bits: of the wider operand.

    Codes less their zero point have one bit more and are shifted up to 29; the larger factor has
    30, so the 64-bit sum of both products stays below 2**61. Raises ValueError when the larger
    scale ratio is outside [2**-12, 2**16] (int8), a factor 2 lower per further bit.
    """
    largest = max(abs(s) for s in scales)
    digits = 30 - math.frexp(largest)[1]
    shift = digits + preshift(bits)
    if not 33 <= shift <= 62:
        limits = f"[2**{preshift(bits) - 32}, 2**{preshift(bits) - 4}]"
        raise ValueError(f"scale ratio {largest} is outside {limits}")
    factors = [round(math.ldexp(s, digits)) for s in scales]
    return np.array([shift, zero_point, low, high, *zeros, *factors], np.int32)


@dataclass(frozen=True, slots=True)
class Add(KernelBase):
    """y = clamp(((a - za) * unit * fa + (b - zb) * unit * fb + half >> shift) + zero point).

    `dtypes`: of a, b and y; `bits`: of the wider operand; unit = 2**preshift(bits); `clamp`: int8
    sums are clamped further than int8.
    """

    shape: tuple[int, ...]
    a: Access
    b: Access
    dtypes: tuple[str, str, str] = ("int8", "int8", "int8")
    bits: int = 8
    clamp: bool = True

    name: ClassVar[str] = "add"

    @staticmethod
    def of(
        shape: Sequence[int], a: Access, b: Access,
        dtypes: tuple[str, str, str] = ("int8", "int8", "int8"), bits: int = 8,
        clamp: bool = True,
    ) -> Add:  # fmt: skip
        """Return the kernel with mergeable axes merged."""
        extents, (left, right, _) = collapse(shape, (a, b, dense(shape)))
        return Add(extents, left, right, dtypes, bits, clamp)

    @property
    def is_row(self) -> bool:
        """Whether three int8 tensors are walked as they are stored."""
        whole = dense(self.shape)
        return set(self.dtypes) == {"int8"} and self.a == self.b == whole and len(self.shape) == 1

    def params(self, isa: str) -> tuple[Param, ...]:
        """a, b, q, y."""
        return (
            Param("a", self.a.size, self.dtypes[0], "input"),
            Param("b", self.b.size, self.dtypes[1], "input"),
            Param("q", 8, "int32", "constant"),
            Param("y", int(np.prod(self.shape)), self.dtypes[2], "output"),
        )

    def write(self, a: Any, b: Any, q: Any, y: Any) -> None:
        """Emit the loops."""
        t, target = tir(), dense(self.shape)
        if self.is_row and current_isa() != "cuda":
            self.write_row(at(a, 0), at(b, 0), self.shape[0], q, at(y, 0))
            return
        with parallel(axis_names(len(self.shape)), self.shape) as axes:
            left = a[self.a.index(axes)].astype("int32")
            right = b[self.b.index(axes)].astype("int32")
            unit = 1 << preshift(self.bits)
            value = t.call_extern("int32", "edgec_add", left, right, unit, t.address_of(q[0]))
            store(y, target.index(axes), value.astype(self.dtypes[2]))

    def write_row(self, a: Any, b: Any, count: int, q: Any, y: Any) -> None:
        """Emit count sums of the tensors at addresses a and b to y."""
        flags = 2 * int(self.clamp)
        call("edgec_add_row_s8", a, b, count, 1 << preshift(self.bits), at(q, 0), flags, y)

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Exact integers in NumPy."""
        a, b, q = arrays
        left = a[self.a.positions(self.shape)].astype(np.int64) - int(q[ZERO_A])
        right = b[self.b.positions(self.shape)].astype(np.int64) - int(q[ZERO_B])
        acc = (left * int(q[FACTOR_A]) + right * int(q[FACTOR_B])) << preshift(self.bits)
        acc += 1 << (int(q[SHIFT]) - 1)
        y = np.clip((acc >> int(q[SHIFT])) + int(q[ZERO_POINT]), int(q[LOW]), int(q[HIGH]))
        return (y.astype(self.dtypes[2]).reshape(-1),)

    def in_place(self, isa: str) -> Mapping[int, int]:
        """Over the first operand that is dense and as wide."""
        for index, access in enumerate((self.a, self.b)):
            if access == dense(self.shape) and self.dtypes[index] == self.dtypes[2]:
                return {0: index}
        return {}

    @staticmethod
    def cases() -> Iterable[Case]:
        """Same shapes, a broadcast row, a transposed operand, a clamp, mixes of widths."""
        rng = np.random.default_rng(6)
        x, z = (rng.integers(-128, 128, 24).astype(np.int8) for _ in range(2))
        q = add_parameters((0.7, 0.4), (3, -5), 10, -128, 127)
        yield Case(Add.of((4, 6), dense((4, 6)), dense((4, 6))), (x, z, q))
        free = Add.of((4, 6), dense((4, 6)), dense((4, 6)), clamp=False)
        yield Case(free, (x, z, add_parameters((1.7, 0.4), (3, -5), 10, -128, 127)))
        relu = add_parameters((1.9, 0.01), (0, -128), -100, -100, 127)
        yield Case(Add.of((4, 6), dense((4, 6)), Access(6, (0, 1))), (x, z[:6], relu))
        big = add_parameters((0.5, -0.5), (0, 1), 1, -128, 127)  # half of the sums are ties
        yield Case(Add.of((4, 6), Access(24, (1, 4)), dense((4, 6))), (x, z, big))
        row = Add.of((23,), dense((23,)), dense((23,)))
        yield Case(row, (x[:23], z[:23], add_parameters((1.9, -0.3), (9, -128), 4, -90, 100)))
        mixes = (("int16", "int16", "int16"), ("int16", "int8", "int8"), ("int8", "int8", "int16"))
        for dtypes in mixes:
            a, b = (random_codes(rng, 24, dtype) for dtype in dtypes[:2])
            bits = 12 if "int16" in dtypes[:2] else 8
            limits = (-2048, 2047) if dtypes[2] == "int16" else (-128, 127)
            scale = limits[1] / (float(np.abs(a).max()) * 1.5)
            q = add_parameters((scale, -scale / 3), (0, 9), 0, *limits, bits)
            yield Case(Add.of((4, 6), dense((4, 6)), dense((4, 6)), dtypes, bits), (a, b, q))

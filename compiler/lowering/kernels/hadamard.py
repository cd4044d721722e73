"""Rows times a Hadamard matrix, by butterflies: n log2 n additions, never n^2 products."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...core.encoding import I32, Requantiser, TensorEncoding
from ..program import Array, Case, Param
from ._base import KernelBase
from ._shared import INPUT_ZERO, PLAIN, Epilogue, parameters, random_codes, requantise, width_flag
from ._tir import at, call, current_isa, parallel


def hadamard_constants(
    small: Array, power: int, scale: float, x: TensorEncoding, y: TensorEncoding
) -> tuple[Array, I32, I32]:
    """Return (small factor [m * m], multiplier [1], q) for scale * (small (x) Sylvester).

    Raises ValueError where sums of int32 could overflow, or the rescale is out of range.
    """
    low, high = x.limits
    reach = max(x.zero_point[0] - low, high - x.zero_point[0])
    largest = reach * power * int(np.abs(small.astype(np.int64)).sum(axis=0).max())
    if largest >= 1 << 31:
        raise ValueError(f"sums of {len(small) * power} codes of {x.bits} bits overflow 32 bits")
    rule = Requantiser.of(scale * x.scale[0] / y.scale[0])
    q = parameters(rule, y.zero_point[0], *y.limits, x.zero_point[0])
    return small.astype(np.int8).reshape(-1), np.array(rule.multiplier, np.int32), q


@dataclass(frozen=True, slots=True)
class Hadamard(KernelBase):
    """y = requantise(signs * (x - zero) (small (x) Sylvester (x) identity)) on rows.

    A row has small x power x inner codes; power is a power of two. `dtype`: of the input.
    """

    rows: int
    small: int
    power: int
    inner: int
    epilogue: Epilogue = PLAIN
    dtype: str = "int8"

    name: ClassVar[str] = "hadamard"

    @property
    def _n(self) -> int:
        return self.small * self.power * self.inner

    def params(self, isa: str) -> tuple[Param, ...]:
        """x, signs, matrix, multiplier, q, y, a row of sums (on GPUs one per row)."""
        rows = self.rows if isa == "cuda" else 1
        return (
            Param("x", self.rows * self._n, self.dtype, "input"),
            Param("signs", self.small * self.power, "int8", "constant"),
            Param("matrix", self.small**2, "int8", "constant"),
            Param("multiplier", 1, "int32", "constant"),
            Param("q", 5, "int32", "constant"),
            Param("y", self.rows * self._n, self.epilogue.dtype, "output"),
            Param("sums", rows * self._n, "int32", "scratch"),
        )

    def write(
        self, x: Any, signs: Any, matrix: Any, multiplier: Any, q: Any, y: Any, sums: Any
    ) -> None:
        """Emit the loop over rows."""
        with parallel(("row",), (self.rows,)) as (row,):
            first = row * self._n
            call("edgec_hadamard_row", at(x, first), self.small, self.power, self.inner,
                 at(signs, 0), at(matrix, 0), multiplier[0], at(q, 0), width_flag(self.dtype),
                 self.epilogue.flags, at(sums, first if current_isa() == "cuda" else 0),
                 at(y, first))  # fmt: skip

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Exact integers in NumPy."""
        x, signs, matrix, multiplier, q = arrays
        shape = (self.rows, self.small, self.power, self.inner)
        sums = x.astype(np.int64).reshape(shape) - int(q[INPUT_ZERO])
        sums = sums * signs.astype(np.int64).reshape(self.small, self.power, 1)
        step = 1
        while step < self.power:
            pairs = sums.reshape(self.rows, self.small, -1, 2, step, self.inner)
            one, two = pairs[:, :, :, 0], pairs[:, :, :, 1]
            sums = np.stack([one + two, one - two], axis=3).reshape(shape)
            step *= 2
        small = matrix.reshape(self.small, self.small).astype(np.float64)  # exact below 2**53
        flat = sums.reshape(self.rows, self.small, -1).astype(np.float64)
        acc = np.rint(small.T @ flat).astype(np.int64).reshape(-1, 1)
        return (requantise(acc, multiplier, q, self.epilogue.dtype).reshape(-1),)

    def in_place(self, isa: str) -> Mapping[int, int]:
        """A row is read whole before it is written."""
        return {0: 0} if self.dtype == self.epilogue.dtype else {}

    def macs(self) -> int:
        """Additions of the butterflies, products of the small factor."""
        stages = self.power.bit_length() - 1
        return self.rows * self._n * (stages + (self.small if self.small > 1 else 0))

    @staticmethod
    def cases() -> Iterable[Case]:
        """Powers of two with an even and an odd number of stages, small factors, heads, widths."""
        rng = np.random.default_rng(23)
        three = np.array([[81, -30, 93], [50, 127, -3], [-85, 12, 90]])
        four = rng.choice([-1, 1], (4, 4))
        for small, power, inner, read, write in (
            (np.ones((1, 1)), 64, 1, "int8", "int8"), (np.ones((1, 1)), 8, 5, "int8", "int8"),
            (three, 8, 1, "int16", "int8"), (four, 16, 3, "int8", "int16"),
            (three, 1, 4, "int16", "int16"), (np.ones((1, 1)), 2, 1, "int8", "int8"),
        ):  # fmt: skip
            n = len(small) * power * inner
            wide = TensorEncoding(12, (0.01,), (0,)), TensorEncoding(8, (0.1,), (-7,))
            x, y = (wide[0] if d == "int16" else wide[1] for d in (read, write))
            length = np.sqrt(np.square(small).sum(0).max() * power)
            scale = 0.4 * y.limits[1] / x.limits[1] * y.scale[0] / x.scale[0] / length
            matrix, multiplier, q = hadamard_constants(small, power, float(scale), x, y)
            kernel = Hadamard(3, len(small), power, inner, Epilogue.of(q, write), read)
            signs = rng.choice([-1, 1], len(small) * power).astype(np.int8)
            yield Case(kernel, (random_codes(rng, 3 * n, read), signs, matrix, multiplier, q))

"""A linear kernel whose outputs are added to another tensor: the end of a residual branch.

The sum may overwrite the other tensor, so a residual block needs no memory for its branch's result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..program import Array, Case, Param
from ._access import dense
from ._base import KernelBase
from ._shared import Epilogue, Sink, random_linear, random_s8
from ._tir import at, prim_func
from ._window import Window
from .add import Add, add_parameters
from .conv2d import Conv2d
from .gemm import Gemm


@dataclass(frozen=True, slots=True)
class LinearAdd(KernelBase):
    """linear(x) + other, or other + linear(x) where `swapped`, all int8; linear has one group.

    The rows of a few pixels are rounded to codes in scratch, as if they had been stored, and added
    from there: the same bits as the two kernels apart.
    """

    linear: Conv2d | Gemm
    sum: Add
    swapped: bool = False

    name: ClassVar[str] = "linear_add"

    @property
    def _filters(self) -> int:
        return self.linear.filters if isinstance(self.linear, Conv2d) else self.linear.n

    def params(self, isa: str) -> tuple[Param, ...]:
        """x, other, the constants of both, y, then rows and the scratch of the linear kernel."""
        x, w, bias, multiplier, q, y, *scratch = self.linear.params(isa)
        rows = [Param("rows", self.linear.together(isa) * self._filters, "int8", "scratch")]
        if isa == "cuda":
            rows = []  # a thread adds to the code it has just stored
        return (
            x, Param("other", y.size, "int8", "input"), w, bias, multiplier, q,
            Param("sum_q", 8, "int32", "constant"), y, *rows, *scratch,
        )  # fmt: skip

    def pack(self, isa: str, constants: Sequence[Array]) -> tuple[Array, ...]:
        """Lay the weights out as the linear kernel does."""
        return (*self.linear.pack(isa, constants[:4]), constants[4])

    def build(self, isa: str) -> Any:
        """Return the PrimFunc."""

        def one(x: Any, other: Any, *rest: Any) -> None:
            *constants, sum_q, y = rest

            def add(output: Any, count: int) -> None:
                operands = at(y, output), at(other, output)
                a, b = reversed(operands) if self.swapped else operands
                self.sum.write_row(a, b, count, sum_q, at(y, output))

            sink = Sink(lambda p, channel: at(y, p * self._filters + channel), self._filters, add)
            self.linear.emit(isa, x, constants, (), sink)

        def body(*buffers: Any) -> None:
            x, other, *constants, sum_q, y, rows = buffers[:9]

            def add(pixel: Any, count: int) -> None:
                first = pixel * self._filters
                operands = at(rows, 0), at(other, first)
                a, b = reversed(operands) if self.swapped else operands
                self.sum.write_row(a, b, count * self._filters, sum_q, at(y, first))

            sink = Sink(lambda pixel, channel: at(rows, channel), self._filters, add)
            self.linear.emit(isa, x, constants, buffers[9:], sink)

        return prim_func(self.name, self.params(isa), one if isa == "cuda" else body, isa)

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Exact integers in NumPy."""
        x, other, *constants, sum_q = arrays
        (codes,) = self.linear.reference(x, *constants)
        operands = (other, codes) if self.swapped else (codes, other)
        return self.sum.reference(*operands, sum_q)

    def in_place(self, isa: str) -> Mapping[int, int]:
        """Over the other tensor."""
        return {0: 1}

    def macs(self) -> int:
        """Those of the linear kernel."""
        return self.linear.macs()

    @staticmethod
    def cases() -> Iterable[Case]:
        """Convolution and gemm, both orders, pixels off multiples of 4 and alone, clamped sums."""
        rng = np.random.default_rng(17)
        window = Window(5, 3, 8, (3, 3), pads=(1, 1, 1, 1))
        shapes = [(15, 6, 72, window), (7, 10, 12, None), (1, 5, 30, None)]
        for i, (pixels, filters, k, seen) in enumerate(shapes):
            w, bias, multiplier, q = random_linear(rng, filters, k, -128)
            epilogue = Epilogue.of(q)
            linear = Gemm(pixels, k, filters, epilogue, paired=i == 1)
            if seen is not None:
                linear = Conv2d(1, seen, filters, 1, epilogue)
            size, low = pixels * filters, -20 if i == 1 else -128
            total = Add.of((size,), dense((size,)), dense((size,)), clamp=low > -128)
            sum_q = add_parameters((0.7, -1.3), (4, -90), 3, low, 127)
            (x, *_) = linear.params("generic")
            kernel = LinearAdd(linear, total, swapped=i == 1)
            arrays = random_s8(rng, x.size), random_s8(rng, size)
            yield Case(kernel, (*arrays, w.reshape(-1), bias, multiplier, q, sum_q))

"""Fully connected layers, 1x1 convolutions, MatMul by a weight: y[m, n] = x[m, k] w[n, k]^T."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..program import Array, Case, Param
from ._base import KernelBase
from ._shared import (
    PLAIN,
    Epilogue,
    exact_sum,
    linear_params,
    pack_rows_dsp,
    random_codes,
    random_linear,
    random_s8,
    requantise,
    round_up,
)
from ._tir import at, call, loop, prim_func


@dataclass(frozen=True, slots=True)
class Gemm(KernelBase):
    """rows x k activations times n x k int8 weights; zero points are folded into the bias.

    `dtype`: of the activations, int8 or int16; that of the outputs is in the epilogue.
    """

    rows: int
    k: int
    n: int
    epilogue: Epilogue = PLAIN
    dtype: str = "int8"

    name: ClassVar[str] = "gemm"

    def params(self, isa: str) -> tuple[Param, ...]:
        """x, w, bias, multiplier, q, y; on dsp also the column pair."""
        n, k = (round_up(self.n, 2), round_up(self.k, 4)) if isa == "dsp" else (self.n, self.k)
        scratch = [Param("columns", 2 * k // 2, "int32", "scratch")] if isa == "dsp" else []
        if isa == "dsp" and self.k % 4:
            scratch.append(Param("tail", k, self.dtype, "scratch"))
        return (
            Param("x", self.rows * self.k, self.dtype, "input"),
            *linear_params(n * k, self.n),
            Param("y", self.rows * self.n, self.epilogue.dtype, "output"),
            *scratch,
        )

    def pack(self, isa: str, constants: Sequence[Array]) -> tuple[Array, ...]:
        """Lay the weights out for the inner block of isa."""
        if isa != "dsp":
            return tuple(constants)
        return (pack_rows_dsp(constants[0].reshape(self.n, self.k)), *constants[1:])

    def build(self, isa: str) -> Any:
        """Return the PrimFunc."""
        body = self._dsp if isa == "dsp" else self._generic
        return prim_func(self.name, self.params(isa), body)

    def _generic(self, x: Any, w: Any, bias: Any, multiplier: Any, q: Any, y: Any) -> None:
        column = "s16" if self.dtype == "int16" else "s8"
        with loop("row", self.rows) as row:
            call(
                f"edgec_gemm_row_{column}_s8__generic", at(x, row * self.k), at(w, 0), at(bias, 0),
                at(multiplier, 0), at(q, 0), self.k, self.n, self.epilogue.flags,
                at(y, row * self.n),
            )  # fmt: skip

    def _dsp(
        self, x: Any, w: Any, bias: Any, multiplier: Any, q: Any, y: Any, columns: Any,
        tail: Any = None,
    ) -> None:  # fmt: skip
        expand = f"edgec_expand_{'s16' if self.dtype == 'int16' else 's8_s16'}__dsp"
        width, padded = np.dtype(self.dtype).itemsize, round_up(self.k, 4)

        def pair(row: Any, pixels: int) -> None:
            for i in range(pixels):
                source = at(x, (row + i) * self.k)
                if tail is not None:
                    call("edgec_pad", source, self.k * width, padded * width, at(tail, 0))
                    source = at(tail, 0)
                call(expand, source, padded, at(columns, 2 * i))
            call(
                "edgec_gemm_pair_s16_s8__dsp", at(columns, 0), at(w, 0), at(bias, 0),
                at(multiplier, 0), at(q, 0), padded, self.n, self.epilogue.flags, pixels,
                at(y, row * self.n), at(y, (row + pixels - 1) * self.n),
            )  # fmt: skip

        if self.rows >= 2:
            with loop("pair", self.rows // 2) as i:
                pair(i * 2, 2)
        if self.rows % 2:
            pair(self.rows - 1, 1)

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Exact integers in NumPy."""
        x, w, bias, multiplier, q = arrays
        acc = exact_sum(x.reshape(self.rows, self.k), w.reshape(self.n, self.k)) + bias
        return (requantise(acc, multiplier, q, self.epilogue.dtype).reshape(-1),)

    def macs(self) -> int:
        """rows * k * n."""
        return self.rows * self.k * self.n

    @staticmethod
    def cases() -> Iterable[Case]:
        """Even and odd rows and channels, k off and on multiples of 4, both forms, int16."""
        rng = np.random.default_rng(1)
        shapes = [(1, 64, 10), (5, 64, 16), (4, 30, 7), (2, 3, 1), (1, 2, 6), (3, 17, 8)]
        for i, (rows, k, n) in enumerate(shapes):
            w, bias, multiplier, q = random_linear(rng, n, k, -128 if i % 2 else -5, i % 3 == 2)
            kernel = Gemm(rows, k, n, Epilogue.of(q))
            yield Case(kernel, (random_s8(rng, rows * k), w.reshape(-1), bias, multiplier, q))
        for i, (rows, k, n) in enumerate(shapes):
            x, y = (("int8", "int16"), ("int16", "int8"), ("int16", "int16"))[i % 3]
            limits = (-128, 127) if y == "int8" else (-2048, 2047)
            w, bias, multiplier, q = random_linear(rng, n, k, limits[0], i == 4, limits[1])
            kernel = Gemm(rows, k, n, Epilogue.of(q, y), x)
            data = random_codes(rng, rows * k, x) // (8 if x == "int16" else 1)
            yield Case(kernel, (data, w.reshape(-1), bias, multiplier, q))

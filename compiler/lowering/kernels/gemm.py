"""Fully connected layers, 1x1 convolutions, MatMul by a weight: y[m, n] = x[m, k] w[n, k]^T."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..program import Array, Case, Param
from ._base import KernelBase
from ._mve import MveLayout
from ._shared import (
    PLAIN,
    DspLayout,
    Epilogue,
    Sink,
    exact_sum,
    linear_params,
    pack_words_cuda,
    random_codes,
    random_linear,
    random_s8,
    requantise,
    round_up,
    width_flag,
)
from ._tir import at, call, loop, parallel, prim_func


@dataclass(frozen=True, slots=True)
class Gemm(KernelBase):
    """rows x k activations times n x k int8 weights; zero points are folded into the bias.

    `dtype`: of the activations, int8 or int16; that of the outputs is in the epilogue. `paired`:
    int8 activations times weights for which `fits_pairs` holds.
    """

    rows: int
    k: int
    n: int
    epilogue: Epilogue = PLAIN
    dtype: str = "int8"
    paired: bool = False

    name: ClassVar[str] = "gemm"

    @property
    def _layout(self) -> DspLayout:
        return DspLayout(self.rows, self.n, self.k, self.paired)

    def _mve_layout(self, isa: str) -> MveLayout | None:
        """Return the layout on Helium, if the kernel is for it: int16 activations are generic."""
        return (
            MveLayout(self.rows, self.n, self.k) if (isa, self.dtype) == ("mve", "int8") else None
        )

    def params(self, isa: str) -> tuple[Param, ...]:
        """x, w, bias, multiplier, q, y; on dsp also columns."""
        size, scratch = self.n * self.k, list[Param]()
        if isa == "cuda":
            size = self.n * round_up(self.k, 4)
        if (mve := self._mve_layout(isa)) is not None:
            size = mve.weight_bytes
        if isa == "dsp":
            layout = self._layout
            size = layout.weight_bytes
            scratch = [Param("columns", layout.column_words, "int32", "scratch")]
            if self.k % 4:
                scratch.append(Param("tail", layout.padded_k, self.dtype, "scratch"))
        return (
            Param("x", self.rows * self.k, self.dtype, "input"),
            *linear_params(size, self.n),
            Param("y", self.rows * self.n, self.epilogue.dtype, "output"),
            *scratch,
        )

    def together(self, isa: str) -> int:
        """Return how many rows of outputs are finished at a time."""
        mve = self._mve_layout(isa)
        return self._layout.together if isa == "dsp" else 1 if mve is None else mve.together

    def pack(self, isa: str, constants: Sequence[Array]) -> tuple[Array, ...]:
        """Lay the weights out for the inner block of isa."""
        order = {"dsp": self._layout.pack, "cuda": pack_words_cuda}.get(isa)
        if (mve := self._mve_layout(isa)) is not None:
            order = mve.pack
        if order is None:
            return tuple(constants)
        return (order(constants[0].reshape(self.n, self.k)), *constants[1:])

    def build(self, isa: str) -> Any:
        """Return the PrimFunc."""

        def body(*buffers: Any) -> None:
            x, w, bias, multiplier, q, y, *scratch = buffers
            sink = Sink(lambda row, channel: at(y, row * self.n + channel), self.n)
            self.emit(isa, x, (w, bias, multiplier, q), scratch, sink)

        return prim_func(self.name, self.params(isa), body, isa)

    def emit(
        self, isa: str, x: Any, constants: Sequence[Any], scratch: Sequence[Any], sink: Sink
    ) -> None:
        """Emit the loops, outputs going to sink."""
        if isa == "dsp":
            self._dsp(x, constants, scratch, sink)
            return
        if isa == "cuda":
            self._cuda(x, constants, sink)
            return
        if (mve := self._mve_layout(isa)) is not None:
            operands = [at(c, 0) for c in constants]
            mve.emit(
                lambda row, _: at(x, row * self.k), operands, self.k, self.epilogue.flags, sink
            )
            return
        with loop("row", self.rows) as row:
            call(
                "edgec_gemm_row__generic", at(x, row * self.k), *[at(c, 0) for c in constants],
                self.k, self.n, width_flag(self.dtype), self.epilogue.flags, sink.place(row, 0),
            )  # fmt: skip
            sink.done(row, 1)

    def _dsp(self, x: Any, constants: Sequence[Any], scratch: Sequence[Any], sink: Sink) -> None:
        expand = f"edgec_expand_{'s16' if self.dtype == 'int16' else 's8_s16'}__dsp"
        width, layout, columns = np.dtype(self.dtype).itemsize, self._layout, scratch[0]

        def column(row: Any, word: Any) -> None:
            source = at(x, row * self.k)
            for tail in scratch[1:]:
                call("edgec_pad", source, self.k * width, layout.padded_k * width, at(tail, 0))
                source = at(tail, 0)
            call(expand, source, layout.padded_k, layout.step, at(columns, word))

        operands = [at(b, 0) for b in (columns, *constants)]
        layout.emit(column, operands, self.epilogue.flags, sink)

    def _cuda(self, x: Any, constants: Sequence[Any], sink: Sink) -> None:
        w, bias, multiplier, q = constants
        codes = "s16" if self.dtype == "int16" else "s8"
        with parallel(("row", "j"), (self.rows, self.n)) as (row, j):
            call(
                f"edgec_gemm_value_{codes}__cuda", at(x, row * self.k), at(w, j * 4), bias[j],
                multiplier[j], at(q, 0), self.k, self.n, self.epilogue.flags, sink.place(row, j),
            )  # fmt: skip
            sink.done(row * self.n + j, 1)

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Exact integers in NumPy."""
        x, w, bias, multiplier, q = arrays
        acc = exact_sum(x.reshape(self.rows, self.k), w.reshape(self.n, self.k)) + bias
        return (requantise(acc, multiplier, q, self.epilogue.dtype).reshape(-1),)

    def behind(self, isa: str) -> Mapping[int, tuple[int, int]]:
        """Row by row; on dsp all that is written together is read before."""
        read, written = (np.dtype(t).itemsize for t in (self.dtype, self.epilogue.dtype))
        first = np.arange(0, self.rows, self.together(isa))
        ends = np.minimum(first + self.together(isa), self.rows)
        still_read = (ends if isa == "dsp" else first) * self.k * read
        return {0: (0, int((ends * self.n * written - still_read).max()))}

    def macs(self) -> int:
        """rows * k * n."""
        return self.rows * self.k * self.n

    @staticmethod
    def cases() -> Iterable[Case]:
        """Even and odd rows and channels, k off and on multiples of 4, both forms, pairs, int16."""
        rng = np.random.default_rng(1)
        shapes = [(1, 64, 10), (5, 64, 16), (4, 30, 7), (2, 3, 1), (1, 2, 6), (3, 17, 8)]
        for i, (rows, k, n) in enumerate(shapes):
            w, bias, multiplier, q = random_linear(rng, n, k, -128 if i % 2 else -5, i % 3 == 2)
            kernel = Gemm(rows, k, n, Epilogue.of(q))
            yield Case(kernel, (random_s8(rng, rows * k), w.reshape(-1), bias, multiplier, q))
        for rows, k, n in ((1, 64, 8), (1, 31, 6), (1, 3, 1), (4, 64, 8), (5, 31, 7), (3, 3, 1)):
            w, bias, multiplier, q = random_linear(rng, n, k, -128)
            kernel = Gemm(rows, k, n, Epilogue.of(q), paired=True)
            yield Case(kernel, (random_s8(rng, rows * k), w.reshape(-1), bias, multiplier, q))
        for i, (rows, k, n) in enumerate(shapes):
            x, y = (("int8", "int16"), ("int16", "int8"), ("int16", "int16"))[i % 3]
            limits = (-128, 127) if y == "int8" else (-2048, 2047)
            w, bias, multiplier, q = random_linear(rng, n, k, limits[0], i == 4, limits[1])
            kernel = Gemm(rows, k, n, Epilogue.of(q, y), x)
            data = random_codes(rng, rows * k, x) // (8 if x == "int16" else 1)
            yield Case(kernel, (data, w.reshape(-1), bias, multiplier, q))

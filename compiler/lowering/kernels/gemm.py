"""Fully connected layers, 1x1 convolutions, MatMul by a weight: y[m, n] = x[m, k] w[n, k]^T."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..program import Array, Case, Param
from ._base import KernelBase
from ._block import FORMS, BlockLayout, with_spare
from ._int4 import DspInt4Layout, Int4, random_int4
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
    int8 activations times weights for which `fits_pairs` holds. `int4`: how int4 weights are
    stored, where they are none of int8.
    """

    rows: int
    k: int
    n: int
    epilogue: Epilogue = PLAIN
    dtype: str = "int8"
    paired: bool = False
    int4: Int4 | None = None

    name: ClassVar[str] = "gemm"

    @property
    def _layout(self) -> DspLayout | DspInt4Layout:
        if self.int4 is not None:
            return DspInt4Layout(self.rows, self.n, self.k, self.int4, self.dtype)
        return DspLayout(self.rows, self.n, self.k, self.paired)

    def _block(self, isa: str) -> BlockLayout | None:
        """Return the layout on vector units with a block for it: int16 and int4 are generic."""
        if isa not in FORMS or self.dtype != "int8" or self.int4 is not None:
            return None
        return BlockLayout(isa, self.rows, self.n, self.k)

    def params(self, isa: str) -> tuple[Param, ...]:
        """x, w, bias, multiplier, q, y; on dsp also columns."""
        size, spare, scratch = self.n * self.k, 0, list[Param]()
        if isa == "cuda":
            size = self.n * round_up(self.k, 4)
        if (block := self._block(isa)) is not None:
            size, spare = block.weight_bytes, block.spare
        if self.int4 is not None:
            size = self.int4.size(self.n, self.k)
        if isa == "dsp":
            layout = self._layout
            size = layout.weight_bytes
            scratch = [Param("columns", layout.column_words, "int32", "scratch")]
            if self.k % 4:
                scratch.append(Param("tail", layout.padded_k, self.dtype, "scratch"))
        return (
            Param("x", self.rows * self.k, self.dtype, "input"),
            *linear_params(size, self.n + spare),
            Param("y", self.rows * self.n, self.epilogue.dtype, "output"),
            *scratch,
        )

    def together(self, isa: str) -> int:
        """Return how many rows of outputs are finished at a time."""
        block = self._block(isa)
        return self._layout.together if isa == "dsp" else 1 if block is None else block.together

    def pack(self, isa: str, constants: Sequence[Array]) -> tuple[Array, ...]:
        """Lay the weights out for the inner block of isa."""
        layout, others = self._layout, tuple(constants[1:])
        if isinstance(layout, DspInt4Layout):
            first = layout.pack(constants[0]) if isa == "dsp" else constants[0]
            return (first, *others)
        order = {"dsp": layout.pack, "cuda": pack_words_cuda}.get(isa)
        if (block := self._block(isa)) is not None:
            order, others = block.pack, with_spare(others, block.spare)
        if order is None:
            return tuple(constants)
        return (order(constants[0].reshape(self.n, self.k)), *others)

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
        if self.int4 is not None:
            self._int4(isa, self.int4, x, constants, sink)
            return
        if isa == "cuda":
            self._cuda(x, constants, sink)
            return
        if (block := self._block(isa)) is not None:
            self._blocks(block, x, constants, sink)
            return
        with loop("row", self.rows) as row:
            call(
                "edgec_gemm_row__generic", at(x, row * self.k), *[at(c, 0) for c in constants],
                self.k, self.n, width_flag(self.dtype), self.epilogue.flags, sink.place(row, 0),
            )  # fmt: skip
            sink.done(row, 1)

    def _blocks(self, layout: BlockLayout, x: Any, constants: Sequence[Any], sink: Sink) -> None:
        def block(first: Any, count: int) -> None:
            rows = [at(x, first * self.k)]
            if layout.isa == "mve":
                rows.append(at(x, (first + count - 1) * self.k))
            call(
                f"edgec_gemm_rows__{layout.isa}", *rows, *[at(c, 0) for c in constants], self.k,
                self.n, self.epilogue.flags, count, sink.row, sink.place(first, 0),
            )  # fmt: skip

        layout.emit(block, sink, self.rows)

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
        if isinstance(layout, DspInt4Layout):
            operands.append(at(columns, layout.sums_word))
        layout.emit(column, operands, self.epilogue.flags, sink)

    def _int4(self, isa: str, form: Int4, x: Any, constants: Sequence[Any], sink: Sink) -> None:
        shape = self.k, self.n, form.group, width_flag(self.dtype), self.epilogue.flags
        if isa == "cuda":
            with parallel(("row", "j"), (self.rows, self.n)) as (row, j):
                operands = [at(c, 0) for c in constants]
                call("edgec_gemm4_value__cuda", at(x, row * self.k), *operands, j, *shape,
                     sink.place(row, j))  # fmt: skip
                sink.done(row * self.n + j, 1)
            return
        with loop("row", self.rows) as row:
            call("edgec_gemm4_row__generic", at(x, row * self.k), *[at(c, 0) for c in constants],
                 *shape, sink.place(row, 0))  # fmt: skip
            sink.done(row, 1)

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
        weight = w if self.int4 is None else self.int4.whole(w, self.n, self.k)
        acc = exact_sum(x.reshape(self.rows, self.k), weight.reshape(self.n, self.k)) + bias
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
        yield from _int4_cases(rng)


def _int4_cases(rng: np.random.Generator) -> Iterable[Case]:
    """Yield cases without groups and with groups of every size, k off and on their multiples."""
    shapes = [
        (1, 64, 10, 0), (3, 45, 7, 0), (2, 3, 1, 0), (1, 96, 8, 32), (5, 100, 6, 32),
        (4, 64, 9, 16), (2, 72, 5, 16), (1, 200, 4, 64), (3, 300, 5, 128), (1, 20, 4, 128),
    ]  # fmt: skip
    for i, (rows, k, n, group) in enumerate(shapes):
        for dtype in ("int8", "int16"):
            form, (codes, scales) = Int4(group), random_int4(rng, n, k, group)
            _, bias, multiplier, q = random_linear(rng, n, k, -128 if i % 2 else -90)
            reach = np.abs(form.whole(form.pack(codes, scales), n, k)).sum(axis=1).mean()
            q[0] += int(np.round(np.log2(reach / (64.0 * k)))) + 4 * (dtype == "int16")
            kernel = Gemm(rows, k, n, Epilogue.of(q), dtype, int4=form)
            x = random_codes(rng, rows * k, dtype)
            yield Case(kernel, (x, form.pack(codes, scales), bias, multiplier, q))

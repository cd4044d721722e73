"""Batched product of two int8 or int16 activations (attention scores, weighted values)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...core.encoding import Requantiser
from ..program import Array, Case, Param
from ._access import Access, axis_names, dense
from ._base import KernelBase
from ._shared import (
    PLAIN,
    Epilogue,
    parameters,
    random_codes,
    random_s8,
    requantise,
    round_up,
    width_flag,
)
from ._tir import at, call, loop, loops, parallel, prim_func


@dataclass(frozen=True, slots=True)
class MatMul(KernelBase):
    """y[b, i, j] = sum over k of (a[b, i, k] - za) * (b[b, k, j] - zb), requantised.

    `a`, `b`, `y` give the accesses over (*batch, m, k), (*batch, k, n) and (*batch, m, n), so
    transposes, head splits and repeated heads cost nothing. zeros holds (za, zb). `dtypes`: of a
    and b; that of y is in the epilogue.
    """

    batch: tuple[int, ...]
    m: int
    k: int
    n: int
    a: Access
    b: Access
    y: Access
    epilogue: Epilogue = PLAIN
    dtypes: tuple[str, str] = ("int8", "int8")

    name: ClassVar[str] = "matmul"

    @property
    def _k(self) -> int:
        return round_up(self.k, 2)

    def params(self, isa: str) -> tuple[Param, ...]:
        """a, b, zeros, multiplier, q, y, then centred copies of one row of a and all of b."""
        copies = (
            Param("row", self._k, "int16", "scratch"),
            Param("other", self._k * self.n, "int16", "scratch"),
        )
        return (
            Param("a", self.a.size, self.dtypes[0], "input"),
            Param("b", self.b.size, self.dtypes[1], "input"),
            Param("zeros", 2, "int32", "constant"),
            Param("multiplier", 1, "int32", "constant"),
            Param("q", 5, "int32", "constant"),
            Param("y", self.y.size, self.epilogue.dtype, "output"),
            *(() if isa == "cuda" else copies),
        )

    def build(self, isa: str) -> Any:
        """Return the PrimFunc."""
        body = self._cuda if isa == "cuda" else self.write
        return prim_func(self.name, self.params(isa), body, isa)

    def write(
        self, a: Any, b: Any, zeros: Any, multiplier: Any, q: Any, y: Any, row: Any, other: Any
    ) -> None:
        """Emit the loops."""
        left, right = (width_flag(dtype) for dtype in self.dtypes)
        with loops(axis_names(len(self.batch)), self.batch) as at_batch:
            call("edgec_centre_s16", at(b, self.b.index((*at_batch, 0, 0))),
                 self.b.strides[-1], self.b.strides[-2], self.n, self.k, self._k, zeros[1],
                 right, at(other, 0))  # fmt: skip
            with loop("i", self.m) as i:
                call("edgec_centre_s16", at(a, self.a.index((*at_batch, i, 0))), 0,
                     self.a.strides[-1], 1, self.k, self._k, zeros[0],
                     left, at(row, 0))  # fmt: skip
                call("edgec_matmul_row_s16_s16", at(row, 0), at(other, 0), self._k, self.n,
                     multiplier[0], at(q, 0), self.epilogue.flags,
                     at(y, self.y.index((*at_batch, i, 0))), self.y.strides[-1])  # fmt: skip

    def _cuda(self, a: Any, b: Any, zeros: Any, multiplier: Any, q: Any, y: Any) -> None:
        left, right = (width_flag(dtype) for dtype in self.dtypes)
        names = (*axis_names(len(self.batch)), "i", "j")
        with parallel(names, (*self.batch, self.m, self.n)) as (*at_batch, i, j):
            call(
                "edgec_matmul_value__cuda", at(a, self.a.index((*at_batch, i, 0))),
                self.a.strides[-1], zeros[0], left, at(b, self.b.index((*at_batch, 0, j))),
                self.b.strides[-2], zeros[1], right, self.k, multiplier[0], at(q, 0),
                self.epilogue.flags, at(y, self.y.index((*at_batch, i, j))),
            )  # fmt: skip

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Exact integers in NumPy."""
        a, b, zeros, multiplier, q = arrays
        left = a[self.a.positions((*self.batch, self.m, self.k))].astype(np.float64)
        right = b[self.b.positions((*self.batch, self.k, self.n))].astype(np.float64)
        acc = ((left - int(zeros[0])) @ (right - int(zeros[1]))).astype(np.int64)
        dtype = self.epilogue.dtype
        y = np.zeros(self.y.size, dtype)
        codes = requantise(acc.reshape(-1, 1), multiplier, q, dtype).reshape(acc.shape)
        y[self.y.positions((*self.batch, self.m, self.n))] = codes
        return (y,)

    def macs(self) -> int:
        """Batch * m * k * n."""
        return int(np.prod(self.batch)) * self.m * self.k * self.n

    @staticmethod
    def cases() -> Iterable[Case]:
        """Plain, transposed b, shared heads, odd sizes, strided output, every mix of widths."""
        rng = np.random.default_rng(12)
        plain = MatMul((2,), 3, 4, 5, dense((2, 3, 4)), dense((2, 4, 5)), dense((2, 3, 5)))
        turned = MatMul(
            (2, 3), 4, 7, 3, dense((2, 3, 4, 7)), Access(2 * 3 * 7, (21, 0, 1, 7)),
            Access(72, (36, 3, 9, 1)),
        )  # fmt: skip
        for kernel, scale in ((plain, 0.0008), (turned, 0.3)):
            rule = Requantiser.of(scale)
            q = parameters(rule, -3, -100 if scale > 0.1 else -128)
            k = MatMul(kernel.batch, kernel.m, kernel.k, kernel.n, kernel.a, kernel.b, kernel.y,
                       Epilogue.of(q))  # fmt: skip
            zeros = np.array([5, -128], np.int32)
            yield Case(k, (random_s8(rng, k.a.size), random_s8(rng, k.b.size), zeros,
                           np.array(rule.multiplier, np.int32), q))  # fmt: skip
        for a, b, y in (("int16", "int16", "int8"), ("int8", "int16", "int16")):
            limits = (-2048, 2047) if y == "int16" else (-128, 127)
            rule = Requantiser.of(limits[1] / (2048 * (2048 if a == "int16" else 128)))
            q = parameters(rule, 0, *limits)
            k = MatMul(turned.batch, turned.m, turned.k, turned.n, turned.a, turned.b, turned.y,
                       Epilogue.of(q, y), (a, b))  # fmt: skip
            left, right = random_codes(rng, k.a.size, a), random_codes(rng, k.b.size, b)
            zeros = np.zeros(2, np.int32)
            yield Case(k, (left, right, zeros, np.array(rule.multiplier, np.int32), q))

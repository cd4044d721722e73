"""Integer softmax over the last axis, optionally masked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...core.encoding import I32, I64, Requantiser
from ..program import Array, Case, Param
from ._access import Access
from ._base import KernelBase
from ._shared import HIGH, LOW, SHIFT, ZERO_POINT, parameters
from ._tir import at, call, parallel


def softmax_constants(
    n: int, scale: float, y_scale: float, zero_point: int
) -> tuple[Array, I32, I32]:
    """Return (exponent table [256] uint32, multiplier [1], q) for rows of n.

    scale: of the input, any factor applied to the logits included. The table has as many
    fractional bits as keep a row's sum, rescaled by 256 * y_scale, below 2**31.
    """
    growth = max(1.0, 256.0 * y_scale)
    bits = min(22, int(np.floor(30 - np.log2(n * growth))))
    distances = np.arange(256, dtype=np.float64)
    table = np.floor(np.exp(-distances * scale) * 2.0**bits + 0.5).astype(np.uint32)
    rule = Requantiser.of(256.0 * float(y_scale))
    return table, np.array(rule.multiplier, np.int32), parameters(rule, zero_point)


@dataclass(frozen=True, slots=True)
class Softmax(KernelBase):
    """rows x n int8 logits.

    mask: "none"; "causal" (row r sees its first r % period + 1 values); "input" (a uint8 input,
    1 keeps, read by `mask_access` over (rows / period, period, n) with a dense last axis).
    """

    rows: int
    n: int
    mask: str = "none"
    period: int = 1
    mask_access: Access | None = None

    name: ClassVar[str] = "softmax"

    def params(self, isa: str) -> tuple[Param, ...]:
        """x, mask if it is an input, exponent, multiplier, q, y."""
        size = self.rows * self.n
        masks = [Param("mask", self.mask_access.size, "uint8", "input")] if self.mask_access else []
        return (
            Param("x", size, "int8", "input"),
            *masks,
            Param("exponent", 256, "uint32", "constant"),
            Param("multiplier", 1, "int32", "constant"),
            Param("q", 5, "int32", "constant"),
            Param("y", size, "int8", "output"),
        )

    def write(self, x: Any, *rest: Any) -> None:
        """Emit the loops."""
        *masks, exponent, multiplier, q, y = rest
        with parallel(("outer", "row"), (self.rows // self.period, self.period)) as (outer, row):
            start = (outer * self.period + row) * self.n
            tail = (at(exponent, 0), multiplier[0], at(q, 0), at(y, start))
            if self.mask_access is not None:
                mask = at(masks[0], self.mask_access.index((outer, row, 0)))
                call("edgec_softmax_masked_row_s8", at(x, start), mask, self.n, *tail)
            else:
                valid = row + 1 if self.mask == "causal" else self.n
                call("edgec_softmax_row_s8", at(x, start), self.n, valid, *tail)

    def _keep(self, masks: Sequence[Array]) -> Array:
        """Return the boolean [rows, n] of values that count."""
        row = np.arange(self.rows)[:, None]
        if self.mask == "causal":
            return np.arange(self.n)[None, :] <= row % self.period
        if self.mask == "input":
            assert self.mask_access is not None
            shape = (self.rows // self.period, self.period, self.n)
            return (masks[0][self.mask_access.positions(shape)] != 0).reshape(self.rows, self.n)
        return np.ones((self.rows, self.n), bool)

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Exact integers in NumPy."""
        x, *masks, exponent, multiplier, q = arrays
        keep = self._keep(masks)
        logits = np.where(keep, x.reshape(self.rows, self.n).astype(np.int64), -128)
        distance = logits.max(axis=1, keepdims=True) - logits
        e: I64 = np.where(keep, exponent.astype(np.int64)[distance], 0)
        rule = Requantiser((int(multiplier[0]),), int(q[SHIFT]))
        total = e.sum(axis=1, keepdims=True)
        divisor = np.maximum(rule.apply(total, 0, 0, (1 << 31) - 1), 1)
        p = ((e << 8) + (divisor >> 1)) // divisor
        y = np.clip(np.where(keep, p, 0) + int(q[ZERO_POINT]), int(q[LOW]), int(q[HIGH]))
        return (y.astype(np.int8).reshape(-1),)

    def in_place(self, isa: str) -> Mapping[int, int]:
        """A row is read again after it is written from the front: only its own element."""
        return {0: 0}

    @staticmethod
    def cases() -> Iterable[Case]:
        """Plain, other output scale, causal, masked rows shared by heads."""
        rng = np.random.default_rng(10)
        x = rng.integers(-128, 128, 6 * 10).astype(np.int8)
        for kernel, scale, y_scale, zero in (
            (Softmax(6, 10), 0.1, 1 / 256, -128),
            (Softmax(6, 10), 0.02, 2 / 255, 0),
            (Softmax(6, 10, "causal", 3), 0.05, 1 / 256, -128),
            (Softmax(6, 10, "input", 3, Access(30, (0, 10, 1))), 0.05, 1 / 255, -128),
        ):
            masks = [rng.integers(0, 2, 30).astype(np.uint8)] if kernel.mask_access else []
            yield Case(kernel, (x, *masks, *softmax_constants(10, scale, y_scale, zero)))

"""Integer LayerNorm and RMSNorm over the last axis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...core.encoding import I32, I64, TensorEncoding
from ..program import Array, Case, Param
from ._base import KernelBase
from ._shared import HIGH, INPUT_ZERO, LOW, SHIFT, random_codes, width_flag
from ._tir import at, call, parallel

FRACTION_BITS = 24  # of the normalised value
BETA_BITS = 12  # of beta and of the last rounding


def norm_constants(
    n: int, layer: bool, epsilon: float, gamma: Array, beta: Array,
    x: TensorEncoding, y: TensorEncoding,
) -> tuple[I32, I32, I32, I32]:  # fmt: skip
    """Return (gamma [n], beta [n], epsilon [2], q) of edgec_norm.h.

    gamma, beta: [n] float. Raises ValueError where 32 bits could overflow: a row's largest
    normalised value is sqrt(n), it has 24 fractional bits, its product with gamma 12.
    """
    x_scale, y_scale = x.scale[0], y.scale[0]
    # LayerNorm: v = n^2 var / s^2, a = n (x - mean) / s. RMSNorm: v = n mean(x^2) / s^2, a = x / s,
    # so its quotient is short of a factor sqrt(n), which joins gamma.
    eps = epsilon / x_scale**2 * (n * n if layer else n)
    factor = gamma.astype(np.float64) / y_scale * (1.0 if layer else math.sqrt(n))
    largest = float(np.abs(factor).max(initial=0.0)) or 1.0
    bits = 30 - math.frexp(largest)[1]
    shift = FRACTION_BITS + bits
    reach = largest * (math.sqrt(n) if layer else 1.0)
    if not BETA_BITS < shift <= 60 or reach >= 2 ** (30 - BETA_BITS):
        raise ValueError(f"gamma over the output scale is out of range ({largest})")
    if n > 1 << 14:
        raise ValueError(f"rows of {n} values are too long, at most {1 << 14}")
    scaled_gamma = np.floor(np.ldexp(factor, bits) + 0.5).astype(np.int32)
    offset = beta.astype(np.float64) / y_scale + y.zero_point[0]
    scaled_beta = np.floor(np.clip(offset, -30000, 30000) * 2**BETA_BITS + 0.5).astype(np.int32)
    word = round(eps * 256)
    words = np.array([word & 0xFFFFFFFF, word >> 32], np.uint32).view(np.int32)
    q = np.array([shift, 0, *y.limits, x.zero_point[0]], np.int32)
    return scaled_gamma, scaled_beta, words, q


def inverse_sqrt(v: Array) -> tuple[I64, I64]:
    """Return (r, k) with 1 / sqrt(v) = r * 2**-(46 + k), exactly as edgec_norm.h computes it."""
    value, half = v.astype(np.uint64).copy(), np.zeros(v.shape, np.int64)
    while np.any(high := value >= np.uint64(1 << 32)):
        value[high] >>= np.uint64(2)
        half[high] += 1
    while np.any(low := (value < np.uint64(1 << 30)) & (value > 0)):
        value[low] <<= np.uint64(2)
        half[low] -= 1
    r = np.uint64(2469606195) - ((value * np.uint64(5)) >> np.uint64(4))
    for _ in range(5):
        fr2 = (value * ((r * r) >> np.uint64(30))) >> np.uint64(32)
        r = (r * (np.uint64(3 << 30) - fr2)) >> np.uint64(31)
    return np.where(v > 0, r, 0).astype(np.int64), half


@dataclass(frozen=True, slots=True)
class Norm(KernelBase):
    """rows x n codes to int8; layer: LayerNorm, else RMSNorm; dtype: of the input.

    int16 holds codes of 12 bits: more would overflow 64 bits on the longest rows.
    """

    rows: int
    n: int
    layer: bool
    dtype: str = "int8"

    name: ClassVar[str] = "norm"

    def params(self, isa: str) -> tuple[Param, ...]:
        """x, gamma, beta, epsilon, q, y."""
        size = self.rows * self.n
        return (
            Param("x", size, self.dtype, "input"),
            Param("gamma", self.n, "int32", "constant"),
            Param("beta", self.n, "int32", "constant"),
            Param("epsilon", 2, "int32", "constant"),
            Param("q", 5, "int32", "constant"),
            Param("y", size, "int8", "output"),
        )

    def write(self, x: Any, gamma: Any, beta: Any, epsilon: Any, q: Any, y: Any) -> None:
        """Emit the loops."""
        with parallel(["row"], [self.rows]) as (row,):
            call("edgec_norm_row_s8", at(x, row * self.n), self.n, int(self.layer), at(gamma, 0),
                 at(beta, 0), at(epsilon, 0), at(q, 0), width_flag(self.dtype),
                 at(y, row * self.n))  # fmt: skip

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Exact integers in NumPy."""
        x, gamma, beta, epsilon, q = arrays
        zero = 0 if self.layer else int(q[INPUT_ZERO])
        value = x.reshape(self.rows, self.n).astype(np.int64) - zero
        total, squares = value.sum(1, keepdims=True), (value * value).sum(1, keepdims=True)
        v = self.n * squares - total * total if self.layer else squares
        words = epsilon.view(np.uint32).astype(np.uint64)
        v = (v.astype(np.uint64) << np.uint64(8)) + (words[0] | (words[1] << np.uint64(32)))
        r, k = inverse_sqrt(v)
        a = self.n * value - total if self.layer else value
        t = (a * r) >> (18 + k)
        u = (t * gamma.astype(np.int64)) >> np.int64(int(q[SHIFT]) - BETA_BITS)
        y = (u + beta.astype(np.int64) + (1 << (BETA_BITS - 1))) >> BETA_BITS
        return (np.clip(y, int(q[LOW]), int(q[HIGH])).astype(np.int8).reshape(-1),)

    def in_place(self, isa: str) -> Mapping[int, int]:
        """Sums are taken before the first write of a row."""
        return {0: 0} if self.dtype == "int8" else {}

    @staticmethod
    def cases() -> Iterable[Case]:
        """Both kinds, a constant row, a row of one outlier, negative gamma, large epsilon."""
        rng = np.random.default_rng(11)
        for layer, n, eps in ((True, 16, 1e-5), (False, 64, 1e-5), (True, 7, 0.5), (False, 5, 0.0)):
            x = rng.integers(-128, 128, (4, n)).astype(np.int8)
            x[0] = 12
            x[1] = 0
            x[1, 0] = 127
            enc_x = TensorEncoding(8, (0.05,), (12,))
            enc_y = TensorEncoding(8, (0.03,), (-20,))
            gamma, beta = rng.normal(1, 0.7, n), rng.normal(0, 0.3, n)
            constants = norm_constants(n, layer, eps, gamma, beta, enc_x, enc_y)
            yield Case(Norm(4, n, layer), (x.reshape(-1), *constants))
        for layer, n in ((True, 48), (False, 9)):
            wide, narrow = TensorEncoding(12, (0.004,), (0,)), TensorEncoding(8, (0.03,), (4,))
            constants = norm_constants(
                n, layer, 1e-5, rng.normal(1, 0.7, n), rng.normal(0, 0.3, n), wide, narrow
            )
            yield Case(Norm(3, n, layer, "int16"), (random_codes(rng, 3 * n, "int16"), *constants))

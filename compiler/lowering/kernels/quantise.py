"""float32 to codes: the exit of a float island."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..program import Array, Case, Param
from ._base import KernelBase
from ._tir import at, parallel, store, tir

ZERO_POINT, LOW, HIGH = range(3)


@dataclass(frozen=True, slots=True)
class Quantise(KernelBase):
    """y[i] = clamp(round_half_even(x[i] / scale) + zero point)."""

    size: int
    dtype: str = "int8"

    name: ClassVar[str] = "quantise"

    def params(self, isa: str) -> tuple[Param, ...]:
        """x, scale, q, y."""
        return (
            Param("x", self.size, "float32", "input"),
            Param("scale", 1, "float32", "constant"),
            Param("q", 3, "int32", "constant"),
            Param("y", self.size, self.dtype, "output"),
        )

    def write(self, x: Any, scale: Any, q: Any, y: Any) -> None:
        """Emit the loops."""
        with parallel(["i"], [self.size]) as (i,):
            code = tir().call_extern("int32", "edgec_quantise_f32", x[i], scale[0], at(q, 0))
            store(y, i, code.astype(self.dtype))

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """One rounded quotient, as ONNX defines it."""
        x, scale, q = arrays
        least, most = np.float32(-1e6), np.float32(1e6)
        steps = x / scale[0]
        steps = np.minimum(np.where(steps > least, steps, least), most)  # NaN gives the lowest
        codes = np.rint(steps).astype(np.int32) + q[ZERO_POINT]
        return (np.clip(codes, q[LOW], q[HIGH]).astype(self.dtype),)

    def in_place(self, isa: str) -> Mapping[int, int]:
        """Code i is written after value i was read, and lies before it."""
        return {0: 0}

    @staticmethod
    def cases() -> Iterable[Case]:
        """Ties, values far outside, a clamp, int16."""
        rng = np.random.default_rng(16)
        x = np.concatenate([rng.normal(0, 4, 40), [0.25, 0.75, -0.25, 1e30, -1e30]])
        for low in (-128, -5):
            q = np.array([-5, low, 127], np.int32)
            yield Case(Quantise(45), (x.astype(np.float32), np.array([0.5], np.float32), q))
        q = np.array([0, -2048, 2047], np.int32)
        scale = np.array([0.01], np.float32)
        yield Case(Quantise(45, "int16"), (x.astype(np.float32), scale, q))

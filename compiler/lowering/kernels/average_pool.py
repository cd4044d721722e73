"""Average pooling (also global) over NHWC images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...core.encoding import I8, I32, I64, Requantiser
from ..program import Array, Case, Param
from ._base import KernelBase
from ._shared import HIGH, INPUT_ZERO, LOW, SHIFT, ZERO_POINT, parameters, random_s8
from ._tir import at, call
from ._window import Window, clipped_windows


def average_multipliers(
    scale: float, taps: int, include_pad: bool
) -> tuple[Requantiser, tuple[int, ...]]:
    """Return the requantiser and one multiplier per count 0..taps of values in the window.

    scale: input scale over output scale. With include_pad the divisor is always `taps`.
    """
    counts = np.arange(1, taps + 1)
    divisors = np.full(taps, taps) if include_pad else counts
    rule = Requantiser.of(scale / divisors)
    return rule, (0, *rule.multiplier)


def round_average(sums: I64, multiplier: int, q: I32) -> I8:
    """Rescale sums; exact ties go to even, as ONNX rounds averages."""
    half = np.int64(1) << np.int64(int(q[SHIFT]) - 1)
    total = sums * np.int64(multiplier) + half
    y = total >> np.int64(int(q[SHIFT]))
    y -= ((total & (2 * half - 1)) == 0) & (y & 1 == 1)
    return np.clip(y + int(q[ZERO_POINT]), int(q[LOW]), int(q[HIGH])).astype(np.int8)


@dataclass(frozen=True, slots=True)
class AveragePool(KernelBase):
    """batch x H x W x C int8 image; multiplier[count] divides a sum of count values."""

    batch: int
    window: Window

    name: ClassVar[str] = "average_pool"

    @property
    def _taps(self) -> int:
        return self.window.kernel[0] * self.window.kernel[1]

    def params(self, isa: str) -> tuple[Param, ...]:
        """x, multiplier, q, y."""
        return (
            Param("x", self.batch * self.window.input_size, "int8", "input"),
            Param("multiplier", self._taps + 1, "int32", "constant"),
            Param("q", 5, "int32", "constant"),
            Param("y", self.batch * self.window.output_size, "int8", "output"),
        )

    def write(self, x: Any, multiplier: Any, q: Any, y: Any) -> None:
        """Emit the loops."""
        w = self.window
        with clipped_windows(self.batch, w) as (start, rows, columns, count, out):
            call("edgec_average_pool_pixel_s8", at(x, start), w.width * w.channels, rows, columns,
                 w.channels, count, at(multiplier, 0), at(q, 0),
                 at(y, out))  # fmt: skip

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Exact integers in NumPy."""
        x, multiplier, q = arrays
        w, zero = self.window, int(q[INPUT_ZERO])
        image = x.reshape(self.batch, w.height, w.width, w.channels)
        sums = (w.patches(image, zero).astype(np.int64) - zero).sum(axis=(3, 4))
        counts = w.patches(np.ones((1, w.height, w.width, 1), np.int64), 0).sum(axis=(3, 4))
        y = np.empty(sums.shape, np.int8)
        for count in np.unique(counts):
            where = np.broadcast_to(counts == count, sums.shape)
            y[where] = round_average(sums[where], int(multiplier[count]), q)
        return (y.reshape(-1),)

    def behind(self, isa: str) -> Mapping[int, tuple[int, int]]:
        """Pixel by pixel."""
        return {0: (0, self.window.behind_bytes(self.batch, self.window.channels))}

    @staticmethod
    def cases() -> Iterable[Case]:
        """Global, strided, padded with both divisors."""
        rng = np.random.default_rng(9)
        for batch, window, scale, include_pad in (
            (1, Window(8, 4, 6, (8, 4)), 1.0, False),
            (2, Window(6, 6, 3, (2, 2), (2, 2)), 0.6, False),
            (1, Window(5, 5, 4, (3, 3), (2, 2), pads=(1, 1, 1, 1)), 0.9, False),
            (1, Window(5, 5, 4, (3, 3), (1, 1), pads=(1, 1, 0, 0)), 2.5, True),
        ):
            taps = window.kernel[0] * window.kernel[1]
            rule, multipliers = average_multipliers(scale, taps, include_pad)
            q = parameters(rule, 5, -128, 127, int(rng.integers(-128, 127)))
            x = random_s8(rng, batch * window.input_size)
            kernel = AveragePool(batch, window)
            yield Case(kernel, (x, np.array(multipliers, np.int32), q))

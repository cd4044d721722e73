"""Max pooling over NHWC images; padding never wins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..program import Array, Case, Param
from ._base import KernelBase
from ._shared import random_s8
from ._tir import at, call
from ._window import Window, clipped_windows


@dataclass(frozen=True, slots=True)
class MaxPool(KernelBase):
    """batch x H x W x C int8 image, undilated window."""

    batch: int
    window: Window

    name: ClassVar[str] = "max_pool"

    def params(self, isa: str) -> tuple[Param, ...]:
        """x, y."""
        return (
            Param("x", self.batch * self.window.input_size, "int8", "input"),
            Param("y", self.batch * self.window.output_size, "int8", "output"),
        )

    def write(self, x: Any, y: Any) -> None:
        """Emit the loops."""
        w = self.window
        with clipped_windows(self.batch, w) as (start, rows, columns, count, out):
            call("edgec_max_pool_pixel_s8", at(x, start), w.width * w.channels, rows, columns,
                 w.channels, count, at(y, out))  # fmt: skip

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Exact integers in NumPy."""
        w = self.window
        image = arrays[0].reshape(self.batch, w.height, w.width, w.channels)
        return (w.patches(image, -128).max(axis=(3, 4)).reshape(-1),)

    def behind(self, isa: str) -> Mapping[int, tuple[int, int]]:
        """Pixel by pixel."""
        return {0: (0, self.window.behind_bytes(self.batch, self.window.channels))}

    @staticmethod
    def cases() -> Iterable[Case]:
        """With and without padding, overlapping, batch 2."""
        rng = np.random.default_rng(8)
        for batch, window in (
            (1, Window(6, 6, 4, (2, 2), (2, 2))),
            (2, Window(7, 5, 3, (3, 3), (2, 1), pads=(1, 1, 1, 1))),
        ):
            x = random_s8(rng, batch * window.input_size)
            yield Case(MaxPool(batch, window), (x,))

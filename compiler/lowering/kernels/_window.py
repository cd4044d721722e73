"""Sliding windows over NHWC images."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..program import Array
from ._tir import current_isa, parallel, tir


@dataclass(frozen=True, slots=True)
class Window:
    """A sliding window over an NHWC image; pads are (top, left, bottom, right)."""

    height: int
    width: int
    channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def output(self) -> tuple[int, int]:
        """Height and width of the output."""
        size: list[int] = []
        for axis, extent in enumerate((self.height, self.width)):
            reach = (self.kernel[axis] - 1) * self.dilations[axis] + 1
            padded = extent + self.pads[axis] + self.pads[axis + 2]
            size.append((padded - reach) // self.strides[axis] + 1)
        return size[0], size[1]

    @property
    def input_size(self) -> int:
        """Elements of one image."""
        return self.height * self.width * self.channels

    @property
    def output_size(self) -> int:
        """Elements of one output image with as many channels."""
        return self.output[0] * self.output[1] * self.channels

    def behind_bytes(
        self, batch: int, out_bytes: int, together: int = 1, buffered: bool = False
    ) -> int:
        """Return by how much an output must begin before the int8 input that it may overlap.

        For kernels that write pixels of out_bytes in row-major order, `together` at a time, and
        read no pixel before the window of the first of these. `buffered`: of these, all is read
        before anything is written.
        """
        tops, lefts = (
            np.clip(np.arange(count) * self.strides[axis] - self.pads[axis], 0, extent)
            for axis, (count, extent) in enumerate(
                zip(self.output, (self.height, self.width), strict=True)
            )
        )
        first = ((tops[:, None] * self.width + lefts) * self.channels).reshape(-1)
        first = (np.arange(batch)[:, None] * self.input_size + first).reshape(-1)
        still_read = np.minimum.accumulate(first[::-1])[::-1]
        groups = np.arange(0, first.size, together)
        ends = np.minimum(groups + together, first.size)
        still_read = np.append(still_read, batch * self.input_size)
        return int((ends * out_bytes - still_read[ends if buffered else groups]).max())

    def patches(self, image: Array, fill: int) -> Array:
        """Return [n, oh, ow, kh, kw, c] patches of an [n, h, w, c] image padded with fill."""
        top, left, bottom, right = self.pads
        padded = np.pad(image, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
        rows = np.arange(self.output[0])[:, None] * self.strides[0]
        rows = rows + np.arange(self.kernel[0]) * self.dilations[0]
        columns = np.arange(self.output[1])[:, None] * self.strides[1]
        columns = columns + np.arange(self.kernel[1]) * self.dilations[1]
        return padded[:, rows[:, None, :, None], columns[None, :, None, :]]


@contextmanager
def clipped_windows(batch: int, w: Window) -> Generator[tuple[Any, Any, Any, int, Any]]:
    """Open loops over outputs; yield (input index, rows, columns, channels, output index) once.

    rows and columns count the window's pixels inside the image; channels says how many to compute:
    all of a pixel, on "cuda" one.
    """
    t, (oh, ow) = tir(), w.output

    def clip(position: Any, kernel: int, extent: int, padded: bool) -> tuple[Any, Any]:
        if not padded:
            return position, kernel
        first = t.max(position, 0)
        return first, t.min(position + kernel, extent) - first

    count = 1 if current_isa() == "cuda" else w.channels
    extents = (batch, oh, ow, w.channels // count)
    with parallel(("image", "oy", "ox", "c"), extents) as (image, oy, ox, c):
        iy, rows = clip(oy * w.strides[0] - w.pads[0], w.kernel[0], w.height,
                        bool(w.pads[0] or w.pads[2]))  # fmt: skip
        ix, columns = clip(ox * w.strides[1] - w.pads[1], w.kernel[1], w.width,
                           bool(w.pads[1] or w.pads[3]))  # fmt: skip
        start = image * w.input_size + (iy * w.width + ix) * w.channels + c
        yield start, rows, columns, count, ((image * oh + oy) * ow + ox) * w.channels + c

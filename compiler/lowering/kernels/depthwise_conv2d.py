"""Depthwise convolution over NHWC images: one filter per channel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..program import Array, Case, Param
from ._base import KernelBase
from ._block import with_spare
from ._shared import (
    INPUT_ZERO,
    PLAIN,
    Epilogue,
    linear_params,
    random_linear,
    random_s8,
    requantise,
    round_up,
)
from ._tir import at, call, loop, loops, parallel, prim_func, tir
from ._window import Window

# Channels whose rows are transposed together, on vector units.
BLOCK = 16


@dataclass(frozen=True, slots=True)
class DepthwiseConv2d(KernelBase):
    """batch x H x W x C int8 image, weights [kh, kw, C] int8."""

    batch: int
    window: Window
    epilogue: Epilogue = PLAIN

    name: ClassVar[str] = "depthwise_conv2d"

    @property
    def _taps(self) -> int:
        return self.window.kernel[0] * self.window.kernel[1]

    def _transposed(self, isa: str) -> bool:
        """Whether the rows under the window are transposed first, on vector units."""
        w = self.window
        small = max(w.kernel) <= 4 and w.dilations == (1, 1) and self._column_stride < 2048
        return isa in ("mve", "dot") and small

    @property
    def _column_stride(self) -> int:
        """Words of one channel's transposed rows: all columns, and whole windows of four."""
        w = self.window
        padded = w.pads[1] + w.width + w.pads[3]
        return max(padded, (w.output[1] - 1) * w.strides[1] + 4)

    @property
    def _padded(self) -> bool:
        return any(self.window.pads)

    def params(self, isa: str) -> tuple[Param, ...]:
        """x, w, bias, multiplier, q, y, then scratch: a patch where there is padding, or rows."""
        w, (oh, ow) = self.window, self.window.output
        scratch = [Param("patch", self._taps * w.channels, "int8", "scratch")]
        if not self._padded or isa == "cuda":
            scratch = []
        if self._transposed(isa):
            block = round_up(min(w.channels, BLOCK), 4)
            scratch = [Param("columns", block * self._column_stride, "int32", "scratch")]
        return (
            Param("x", self.batch * w.height * w.width * w.channels, "int8", "input"),
            *self._weights(isa),
            Param("y", self.batch * oh * ow * w.channels, "int8", "output"),
            *scratch,
        )

    def _weights(self, isa: str) -> tuple[Param, ...]:
        channels = self.window.channels
        if isa == "dsp":
            return linear_params(self._taps * round_up(channels, 4), channels, "int16")
        if self._transposed(isa):
            columns, spare = (4, 0) if isa == "mve" else (self.window.kernel[1], -channels % 4)
            return linear_params(4 * columns * round_up(channels, 4), channels + spare)
        return linear_params(self._taps * channels, channels)

    def pack(self, isa: str, constants: Sequence[Array]) -> tuple[Array, ...]:
        """Lay the weights out for the inner block of isa: on dsp int16, four channels together."""
        if self._transposed(isa):
            kh, kw, c = *self.window.kernel, self.window.channels
            windows: NDArray[np.int8] = np.zeros((round_up(c, 4), 4, 4), np.int8)
            windows[:c, :kw, :kh] = constants[0].reshape(kh, kw, c).transpose(2, 1, 0)
            if isa == "mve":
                return (windows.reshape(-1), *constants[1:])
            blocks = np.split(windows[:, :kw], range(BLOCK, len(windows), BLOCK))
            packed = np.concatenate([b.transpose(1, 0, 2).reshape(-1) for b in blocks])
            return (packed, *with_spare(constants[1:], -c % 4))
        if isa != "dsp":
            return tuple(constants)
        w, channels = constants[0].reshape(self._taps, -1), self.window.channels
        padded: NDArray[np.int16] = np.zeros((self._taps, round_up(channels, 4)), np.int16)
        padded[:, :channels] = w
        fours = padded.reshape(self._taps, -1, 4)[:, :, [0, 2, 1, 3]]
        packed = np.ascontiguousarray(fours.transpose(1, 0, 2)).reshape(-1)
        return (packed, *constants[1:])

    def build(self, isa: str) -> Any:
        """Return the PrimFunc."""

        def body(*buffers: Any) -> None:
            if isa == "cuda":
                self._cuda(*buffers)
            elif self._transposed(isa):
                self._blocks(isa, *buffers)
            else:
                self._loops(isa, *buffers)

        return prim_func(self.name, self.params(isa), body, isa)

    def _loops(
        self, isa: str, x: Any, w: Any, bias: Any, multiplier: Any, q: Any, y: Any,
        patch: Any = None,
    ) -> None:  # fmt: skip
        block = "s8_s16__dsp" if isa == "dsp" else "s8_s8_s8"
        win, t = self.window, tir()
        (kh, kw), (dy, dx), c = win.kernel, win.dilations, win.channels
        oh, ow = win.output
        image_size = win.height * win.width * c

        def pixel(source: Any, row: int, step: int, out: Any) -> None:
            call(
                f"edgec_depthwise_pixel_{block}", source, row, step, at(w, 0), at(bias, 0),
                at(multiplier, 0), at(q, 0), kh, kw, c, self.epilogue.flags, at(y, out),
            )  # fmt: skip

        def inside(image: Any, iy: Any, ix: Any, out: Any) -> None:
            start = image * image_size + (iy * win.width + ix) * c
            pixel(at(x, start), dy * win.width * c, dx * c, out)

        def border(image: Any, iy: Any, ix: Any, out: Any) -> None:
            call(
                "edgec_column_s8__generic", at(x, image * image_size), iy, ix, win.height,
                win.width, c, c, kh, kw, dy, dx, q[INPUT_ZERO], at(patch, 0),
            )  # fmt: skip
            pixel(at(patch, 0), kw * c, c, out)

        with loops(("image", "oy"), (self.batch, oh)) as (image, oy), loop("ox", ow) as ox:
            iy, ix = oy * win.strides[0] - win.pads[0], ox * win.strides[1] - win.pads[1]
            out = ((image * oh + oy) * ow + ox) * c
            if patch is None:
                inside(image, iy, ix, out)
                return
            last_y, last_x = win.height - (kh - 1) * dy, win.width - (kw - 1) * dx
            if last_y <= 0 or last_x <= 0:  # the window is larger than the image
                border(image, iy, ix, out)
                return
            with t.If(t.And(t.And(iy >= 0, iy < last_y), t.And(ix >= 0, ix < last_x))):
                with t.Then():
                    inside(image, iy, ix, out)
                with t.Else():
                    border(image, iy, ix, out)

    def _blocks(
        self, isa: str, x: Any, w: Any, bias: Any, multiplier: Any, q: Any, y: Any, columns: Any
    ) -> None:
        win, c = self.window, self.window.channels
        # On Helium windows are four columns wide, whatever the kernel.
        kernel, each = (win.kernel[:1], 16) if isa == "mve" else (win.kernel, 4 * win.kernel[1])

        def block(image: Any, first: Any, count: int) -> None:
            call(
                f"edgec_depthwise_block__{isa}", at(x, image * win.input_size + first),
                at(w, first * each), at(bias, first), at(multiplier, first), at(q, 0), win.height,
                win.width, c, count, *kernel, *win.strides, *win.pads[:2], *win.output,
                self._column_stride, self.epilogue.flags, at(columns, 0),
                at(y, image * win.output_size + first),
            )  # fmt: skip

        with loop("image", self.batch) as image:
            if c >= BLOCK:
                with loop("block", c // BLOCK) as i:
                    block(image, i * BLOCK, BLOCK)
            if c % BLOCK:
                block(image, c - c % BLOCK, c % BLOCK)

    def _cuda(self, x: Any, w: Any, bias: Any, multiplier: Any, q: Any, y: Any) -> None:
        win, (oh, ow), c = self.window, self.window.output, self.window.channels
        with parallel(("image", "oy", "ox", "c"), (self.batch, oh, ow, c)) as (image, oy, ox, j):
            call(
                "edgec_depthwise_value_s8__cuda", at(x, image * win.input_size + j),
                oy * win.strides[0] - win.pads[0], ox * win.strides[1] - win.pads[1], win.height,
                win.width, c, *win.kernel, *win.dilations, at(w, j), bias[j], multiplier[j],
                at(q, 0), self.epilogue.flags, at(y, ((image * oh + oy) * ow + ox) * c + j),
            )  # fmt: skip

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Exact integers in NumPy."""
        x, w, bias, multiplier, q = arrays
        win = self.window
        image = x.reshape(self.batch, win.height, win.width, win.channels)
        patches = win.patches(image, int(q[INPUT_ZERO])).astype(np.int64)
        acc = np.einsum("nyxhwc,hwc->nyxc", patches, w.reshape(*win.kernel, -1).astype(np.int64))
        return (requantise(acc + bias, multiplier, q).reshape(-1),)

    def in_place(self, isa: str) -> Mapping[int, int]:
        """Where rows are transposed first, and none is still to be read where one is written."""
        return {0: 0} if self._transposed(isa) and self._rows_behind(isa) <= 0 else {}

    def behind(self, isa: str) -> Mapping[int, tuple[int, int]]:
        """Pixel by pixel; transposed, row by row, if all channels are in one block."""
        if not self._transposed(isa):
            return {0: (0, self.window.behind_bytes(self.batch, self.window.channels))}
        return {0: (0, self._rows_behind(isa))} if self.window.channels <= BLOCK else {}

    def _rows_behind(self, isa: str) -> int:
        """Bytes from where a row of outputs ends to the first row still to be read then.

        On Helium a row is read once; else every row of outputs reads all rows under its windows.
        """
        w, (oh, ow) = self.window, self.window.output
        rows = np.arange(oh)
        ahead = w.kernel[0] if isa == "mve" else w.strides[0]
        taken = np.clip(rows * w.strides[0] - w.pads[0] + ahead, 0, w.height)
        if isa != "mve":
            taken[-1] = w.height
        behind = ((rows + 1) * ow - taken * w.width) * w.channels
        images = np.arange(self.batch)[:, None] * (w.output_size - w.input_size)
        return int((behind + images).max())

    def macs(self) -> int:
        """Outputs times taps."""
        oh, ow = self.window.output
        return self.batch * oh * ow * self.window.channels * self._taps

    @staticmethod
    def cases() -> Iterable[Case]:
        """Strides, dilation, even kernels, no padding, channels off multiples of 4, batch 2."""
        rng = np.random.default_rng(3)
        windows = [
            (1, Window(8, 8, 8, (3, 3), pads=(1, 1, 1, 1))),
            (1, Window(9, 7, 6, (3, 3), (2, 2), pads=(0, 0, 1, 1))),
            (2, Window(7, 7, 5, (3, 3), (1, 1), (2, 2), (2, 2, 2, 2))),
            (1, Window(6, 6, 4, (5, 3))),
            (1, Window(1, 1, 4, (3, 3), pads=(1, 1, 1, 1))),
            (2, Window(7, 6, 37, (3, 3), (2, 1), pads=(1, 0, 1, 2))),
            (1, Window(9, 9, 16, (4, 2), (3, 2), pads=(2, 1, 1, 0))),
            (1, Window(5, 5, 19, (2, 4), pads=(1, 2, 2, 3))),
        ]
        for i, (batch, window) in enumerate(windows):
            taps = window.kernel[0] * window.kernel[1]
            w, bias, multiplier, q = random_linear(
                rng, window.channels, taps, -128 if i % 2 else -128 + i, i == 3
            )
            kernel = DepthwiseConv2d(batch, window, Epilogue.of(q))
            x = random_s8(rng, batch * window.height * window.width * window.channels)
            yield Case(kernel, (x, np.ascontiguousarray(w.T).reshape(-1), bias, multiplier, q))

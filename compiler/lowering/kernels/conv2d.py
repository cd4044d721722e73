"""Convolution over NHWC images: any kernel, stride, dilation, padding and group."""

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
    INPUT_ZERO,
    PLAIN,
    DspLayout,
    Epilogue,
    Sink,
    exact_sum,
    linear_params,
    pack_words_cuda,
    random_linear,
    random_s8,
    requantise,
    round_up,
)
from ._tir import at, call, loop, loops, parallel, prim_func
from ._window import Window


@dataclass(frozen=True, slots=True)
class Conv2d(KernelBase):
    """batch x H x W x C int8 image, weights [filters, kh, kw, C / groups] int8.

    `paired`: `fits_pairs` holds for the weights. `int4`: how int4 weights are stored, one group
    of filters after the other, where they are none of int8.
    """

    batch: int
    window: Window
    filters: int
    groups: int = 1
    epilogue: Epilogue = PLAIN
    paired: bool = False
    int4: Int4 | None = None

    name: ClassVar[str] = "conv2d"

    @property
    def _group_channels(self) -> int:
        return self.window.channels // self.groups

    @property
    def _k(self) -> int:
        return self.window.kernel[0] * self.window.kernel[1] * self._group_channels

    @property
    def _group_filters(self) -> int:
        return self.filters // self.groups

    @property
    def _layout(self) -> DspLayout | DspInt4Layout:
        oh, ow = self.window.output
        shape = self.batch * oh * ow, self._group_filters, self._k
        return (
            DspLayout(*shape, self.paired)
            if self.int4 is None
            else DspInt4Layout(*shape, self.int4)
        )

    def _block(self, isa: str) -> BlockLayout | None:
        """Return the layout on vector units with a block for it: int4 weights are generic."""
        if isa not in FORMS or self.int4 is not None:
            return None
        oh, ow = self.window.output
        return BlockLayout(isa, self.batch * oh * ow, self._group_filters, self._k)

    @property
    def _pointwise(self) -> bool:
        """Whether a pixel's column lies in the image as it is."""
        return self.window.kernel == (1, 1) and not any(self.window.pads)

    def _weight_bytes(self, isa: str) -> int:
        """Bytes of one group's weights as isa has them."""
        if isa == "dsp":
            return self._layout.weight_bytes
        if self.int4 is not None:
            return self.int4.size(self._group_filters, self._k)
        if (block := self._block(isa)) is not None:
            return block.weight_bytes
        if isa == "cuda":
            taps = self.window.kernel[0] * self.window.kernel[1]
            return self._group_filters * taps * round_up(self._group_channels, 4)
        return self._group_filters * self._k

    def params(self, isa: str) -> tuple[Param, ...]:
        """x, w, bias, multiplier, q, y, then column scratch."""
        w, (oh, ow) = self.window, self.window.output
        scratch = [Param("column", self._layout.padded_k, "int8", "scratch")]
        if isa == "cuda":
            scratch = []
        if isa == "dsp":
            columns = Param("columns", self._layout.column_words, "int32", "scratch")
            scratch = [columns] if self._group_channels % 4 == 0 else [columns, *scratch]
        spare = 0
        if (block := self._block(isa)) is not None:
            columns, spare = Param("columns", block.column_bytes, "int8", "scratch"), block.spare
            scratch = [] if isa == "mve" and self._pointwise else [columns]
        return (
            Param("x", self.batch * w.height * w.width * w.channels, "int8", "input"),
            *linear_params(self.groups * self._weight_bytes(isa), self.filters + spare),
            Param("y", self.batch * oh * ow * self.filters, "int8", "output"),
            *scratch,
        )

    def together(self, isa: str) -> int:
        """Return how many rows of outputs are finished at a time."""
        layout = self._layout if isa == "dsp" else self._block(isa)
        return 1 if layout is None else layout.together

    def pack(self, isa: str, constants: Sequence[Array]) -> tuple[Array, ...]:
        """Lay the weights out for the inner block of isa, group by group."""
        layout = self._layout
        if isinstance(layout, DspInt4Layout):
            if isa != "dsp":
                return tuple(constants)
            each = constants[0].reshape(self.groups, -1)
            return (np.concatenate([layout.pack(g) for g in each]), *constants[1:])
        groups = constants[0].reshape(self.groups, self._group_filters, self._k)
        if (block := self._block(isa)) is not None:
            others = with_spare(constants[1:], block.spare)
            return (np.concatenate([block.pack(g) for g in groups]), *others)
        if isa == "dsp":
            return (np.concatenate([layout.pack(g) for g in groups]), *constants[1:])
        if isa == "cuda":  # every tap fills whole words
            taps = groups.reshape(*groups.shape[:2], -1, self._group_channels)
            taps = np.pad(taps, ((0, 0), (0, 0), (0, 0), (0, -self._group_channels % 4)))
            rows = taps.reshape(*groups.shape[:2], -1)
            return (np.concatenate([pack_words_cuda(g) for g in rows]), *constants[1:])
        return tuple(constants)

    def build(self, isa: str) -> Any:
        """Return the PrimFunc."""

        def body(*buffers: Any) -> None:
            x, w, bias, multiplier, q, y, *scratch = buffers

            def place(pixel: Any, channel: Any) -> Any:
                return at(y, pixel * self.filters + channel)

            sink = Sink(place, self.filters)
            self.emit(isa, x, (w, bias, multiplier, q), scratch, sink)

        return prim_func(self.name, self.params(isa), body, isa)

    def emit(
        self, isa: str, x: Any, constants: Sequence[Any], scratch: Sequence[Any], sink: Sink
    ) -> None:
        """Emit the loops, outputs going to sink."""
        if (block := self._block(isa)) is not None:
            emit = self._mve if isa == "mve" else self._dot
            emit(block, x, constants, scratch, sink)
            return
        body = {"dsp": self._dsp, "cuda": self._cuda}.get(isa, self._generic)
        body(x, constants, scratch, sink)

    def _column(self, x: Any, q: Any, image: Any, oy: Any, ox: Any, group: Any) -> tuple[Any, ...]:
        """Return the leading arguments of the column functions for one output pixel."""
        w = self.window
        start = image * (w.height * w.width * w.channels) + group * self._group_channels
        return (
            at(x, start), oy * w.strides[0] - w.pads[0], ox * w.strides[1] - w.pads[1],
            w.height, w.width, w.channels, self._group_channels, *w.kernel, *w.dilations,
            q[INPUT_ZERO],
        )  # fmt: skip

    def _generic(
        self, x: Any, constants: Sequence[Any], scratch: Sequence[Any], sink: Sink
    ) -> None:
        (w, bias, multiplier, q), (column,), (oh, ow) = constants, scratch, self.window.output
        with loops(("image", "oy", "ox"), (self.batch, oh, ow)) as (image, oy, ox):
            pixel = (image * oh + oy) * ow + ox
            with loop("group", self.groups) as group:
                call("edgec_column_s8__generic", *self._column(x, q, image, oy, ox, group),
                     at(column, 0))  # fmt: skip
                first, n = group * self._group_filters, self._group_filters
                name, form = "edgec_gemm_row__generic", list[int]()
                if self.int4 is not None:
                    name, form = "edgec_gemm4_row__generic", [self.int4.group]
                call(
                    name, at(column, 0), at(w, group * self._weight_bytes("generic")),
                    at(bias, first), at(multiplier, first), at(q, 0), self._k, n, *form, 0,
                    self.epilogue.flags, sink.place(pixel, first),
                )  # fmt: skip
            sink.done(pixel, 1)

    def _dsp(self, x: Any, constants: Sequence[Any], scratch: Sequence[Any], sink: Sink) -> None:
        (w, bias, multiplier, q), (oh, ow), layout = constants, self.window.output, self._layout
        columns, *column = scratch
        with loop("group", self.groups) as group:
            first = group * self._group_filters

            def expand(pixel: Any, word: Any) -> None:
                image, place = pixel // (oh * ow), pixel % (oh * ow)
                where = self._column(x, q, image, place // ow, place % ow, group)
                if not column:
                    call("edgec_column_s8_s16__dsp", *where, layout.step, at(columns, word))
                    return
                call("edgec_column_s8__generic", *where, at(column[0], 0))
                call("edgec_expand_s8_s16__dsp", at(column[0], 0), layout.padded_k, layout.step,
                     at(columns, word))  # fmt: skip

            operands = [
                at(columns, 0), at(w, group * layout.weight_bytes), at(bias, first),
                at(multiplier, first), at(q, 0),
            ]  # fmt: skip
            if isinstance(layout, DspInt4Layout):
                operands.append(at(columns, layout.sums_word))
            layout.emit(expand, operands, self.epilogue.flags, sink, first)

    def _mve(
        self, layout: BlockLayout, x: Any, constants: Sequence[Any], scratch: Sequence[Any],
        sink: Sink,
    ) -> None:  # fmt: skip
        (w, bias, multiplier, q), (oh, ow) = constants, self.window.output
        # Columns in scratch are whole vectors, what is beyond k meets weights of zero.
        k = layout.padded_k if scratch else self._k
        with loop("group", self.groups) as group:
            channel = group * self._group_filters

            def column(pixel: Any, i: int) -> Any:
                image, place = pixel // (oh * ow), pixel % (oh * ow)
                oy, ox = place // ow, place % ow
                if not scratch:
                    sy, sx = self.window.strides
                    start = (image * self.window.height + oy * sy) * self.window.width + ox * sx
                    return at(x, start * self.window.channels + group * self._group_channels)
                target = at(scratch[0], i * layout.padded_k)
                call("edgec_column_s8__mve", *self._column(x, q, image, oy, ox, group), target)
                return target

            def block(first: Any, count: int) -> None:
                columns = [column(first + i, i) for i in range(count)]
                call(
                    "edgec_gemm_rows__mve", columns[0], columns[-1],
                    at(w, group * layout.weight_bytes), at(bias, channel), at(multiplier, channel),
                    at(q, 0), k, self._group_filters, self.epilogue.flags, count, sink.row,
                    sink.place(first, channel),
                )  # fmt: skip

            layout.emit(block, sink, self.batch * oh * ow)

    @property
    def _in_place(self) -> bool:
        """Whether a window inside the image is one run of codes per row, of whole words."""
        w = self.window
        run = w.kernel[1] == 1 or (w.dilations[1] == 1 and self.groups == 1)
        return run and (w.kernel[0] == 1 or w.kernel[1] * self._group_channels % 4 == 0)

    def _dot(
        self, layout: BlockLayout, x: Any, constants: Sequence[Any], scratch: Sequence[Any],
        sink: Sink,
    ) -> None:  # fmt: skip
        (w, bias, multiplier, q), win, (oh, ow) = constants, self.window, self.window.output
        with loops(("image", "group"), (self.batch, self.groups)) as (image, group):
            channel = group * self._group_filters

            def block(first: Any, count: int) -> None:
                operands = (
                    at(w, group * layout.weight_bytes), at(bias, channel), at(multiplier, channel),
                    at(q, 0),
                )  # fmt: skip
                shape = self._group_filters, self.epilogue.flags, count, sink.row
                y = sink.place(image * (oh * ow) + first, channel)
                if self._in_place:
                    call(
                        "edgec_conv_rows__dot",
                        at(x, image * win.input_size + group * self._group_channels), first, ow,
                        *win.strides, *win.pads[:2], win.height, win.width, win.channels,
                        self._group_channels, *win.kernel, *win.dilations, *operands, *shape,
                        at(scratch[0], 0), y,
                    )  # fmt: skip
                    return
                for i in range(count):
                    where = self._column(x, q, image, (first + i) // ow, (first + i) % ow, group)
                    call("edgec_column_s8__generic", *where, at(scratch[0], i * layout.padded_k))
                call(
                    "edgec_gemm_rows__dot", at(scratch[0], 0), *operands, layout.padded_k, *shape, y
                )

            layout.emit(block, sink, oh * ow, image * (oh * ow))

    def _cuda(self, x: Any, constants: Sequence[Any], scratch: Sequence[Any], sink: Sink) -> None:
        w, bias, multiplier, q = constants
        win, (oh, ow) = self.window, self.window.output
        extents = (self.batch, oh, ow, self.filters)
        with parallel(("image", "oy", "ox", "filter"), extents) as (image, oy, ox, j):
            group, member = (0, j) if self.groups == 1 else (
                j // self._group_filters, j % self._group_filters
            )  # fmt: skip
            start = image * win.input_size + group * self._group_channels
            seen = (
                at(x, start), oy * win.strides[0] - win.pads[0], ox * win.strides[1] - win.pads[1],
                win.height, win.width, win.channels, self._group_channels, *win.kernel,
                *win.dilations,
            )  # fmt: skip
            target = sink.place((image * oh + oy) * ow + ox, j)
            first, n, flags = (
                group * self._weight_bytes("cuda"),
                self._group_filters,
                self.epilogue.flags,
            )
            if self.int4 is None:
                call("edgec_conv_value_s8__cuda", *seen, at(w, first + member * 4), bias[j],
                     multiplier[j], at(q, 0), n, flags, target)  # fmt: skip
            else:
                call("edgec_conv4_value_s8__cuda", *seen, at(w, first), bias[j], multiplier[j],
                     at(q, 0), member, n, self.int4.group, flags, target)  # fmt: skip
            sink.done(((image * oh + oy) * ow + ox) * self.filters + j, 1)

    def reference(self, *arrays: Array) -> tuple[Array, ...]:
        """Exact integers in NumPy."""
        x, w, bias, multiplier, q = arrays
        win = self.window
        image = x.reshape(self.batch, win.height, win.width, self.groups, self._group_channels)
        shape = self._group_filters, self._k
        weight = w.reshape(self.groups, -1)
        if self.int4 is not None:
            weight = [self.int4.whole(g, *shape) for g in weight]
        parts: list[Array] = []
        for g in range(self.groups):
            patches = win.patches(image[:, :, :, g], int(q[INPUT_ZERO])).reshape(-1, self._k)
            parts.append(exact_sum(patches, weight[g].reshape(shape)))
        return (requantise(np.concatenate(parts, axis=1) + bias, multiplier, q).reshape(-1),)

    def behind(self, isa: str) -> Mapping[int, tuple[int, int]]:
        """Pixel by pixel, unless groups or images are loops around these."""
        if (self.groups > 1 and isa != "generic") or (self.batch > 1 and isa == "dot"):
            return {}
        in_place = {"mve": self._pointwise, "dot": self._in_place}.get(isa, False)
        buffered = self.groups == 1 and not in_place
        shape = self.batch, self.filters, self.together(isa), buffered
        return {0: (0, self.window.behind_bytes(*shape))}

    def macs(self) -> int:
        """Outputs times taps."""
        oh, ow = self.window.output
        return self.batch * oh * ow * self.filters * self._k

    @staticmethod
    def cases() -> Iterable[Case]:
        """3x3, 5x5, rectangular, strided, dilated, grouped, one channel, batch 2, uneven pads."""
        rng = np.random.default_rng(2)
        windows = [
            (1, Window(8, 8, 4, (3, 3), pads=(1, 1, 1, 1)), 8, 1),
            (1, Window(7, 9, 3, (3, 3), (2, 2), pads=(0, 0, 1, 1)), 5, 1),
            (2, Window(6, 6, 8, (3, 3), (1, 2), (2, 1), (2, 1, 2, 1)), 6, 2),
            (1, Window(12, 10, 1, (10, 4), (2, 2), pads=(4, 1, 5, 1)), 7, 1),
            (1, Window(5, 5, 16, (1, 1), (2, 2)), 4, 1),
            (1, Window(6, 5, 6, (5, 5), pads=(2, 2, 2, 2)), 6, 3),
        ]
        for i, (batch, window, filters, groups) in enumerate(windows):
            k = window.kernel[0] * window.kernel[1] * window.channels // groups
            w, bias, multiplier, q = random_linear(rng, filters, k, -128 if i % 2 else -9, i == 4)
            x = random_s8(rng, batch * window.height * window.width * window.channels)
            for paired in (False, True):
                kernel = Conv2d(batch, window, filters, groups, Epilogue.of(q), paired)
                yield Case(kernel, (x, w.reshape(-1), bias, multiplier, q))
        yield from _int4_cases(rng)


def _int4_cases(rng: np.random.Generator) -> Iterable[Case]:
    """Yield int4 cases: with groups and without, columns copied, expanded and padded, grouped."""
    window = Window(6, 5, 32, (3, 3), (1, 2), pads=(1, 0, 1, 1))
    shapes = [(window, 6, 1, 16), (window, 5, 1, 32), (window, 8, 2, 16), (window, 3, 1, 0),
              (Window(5, 7, 3, (3, 3), pads=(1, 1, 1, 1)), 6, 1, 0),
              (Window(5, 4, 64, (1, 1), (2, 1)), 7, 1, 64)]  # fmt: skip
    for i, (seen, filters, groups, group) in enumerate(shapes):
        k, form = seen.kernel[0] * seen.kernel[1] * seen.channels // groups, Int4(group)
        codes, scales = random_int4(rng, filters, k, group)
        each = zip(np.split(codes, groups), np.split(scales, groups), strict=True)
        w = np.concatenate([form.pack(*pair) for pair in each])
        _, bias, multiplier, q = random_linear(rng, filters, k, -128 if i % 2 else -9)
        q[0] += 6 if group else -4
        kernel = Conv2d(1, seen, filters, groups, Epilogue.of(q), int4=form)
        yield Case(kernel, (random_s8(rng, seen.input_size), w, bias, multiplier, q))

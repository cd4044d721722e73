"""Kernels on a part of an image: what of its inputs a rectangle of outputs needs, exactly.

An output interval [lo, hi) along an axis of a window of reach k and stride s, padded by p, reads
[lo * s - p, (hi - 1) * s - p + k) of the input. What of it lies outside the image is the padding
of the tile, so a tile pads with the zero point at the real borders only, and its bits are those of
the whole image (ALGORITHMS 7; MCUNetV2, arXiv 2110.15352).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .kernels._access import Access, dense
from .kernels._window import Window
from .kernels.add import Add
from .kernels.average_pool import AveragePool
from .kernels.conv2d import Conv2d
from .kernels.copy import Copy, Part
from .kernels.depthwise_conv2d import DepthwiseConv2d
from .kernels.gemm import Gemm
from .kernels.linear_add import LinearAdd
from .kernels.max_pool import MaxPool
from .kernels.mul import Mul
from .kernels.table import Table
from .program import Call, Kernel, Program

# [first, last) along one axis.
Span = tuple[int, int]
Windowed = Conv2d | DepthwiseConv2d | MaxPool | AveragePool


class UnfitError(Exception):
    """A kernel that cannot run on a part of its image, or not on this part; says why."""


@dataclass(frozen=True, slots=True)
class Image:
    """An int8 tensor of height x width x channels in a buffer of its own."""

    height: int
    width: int
    channels: int

    @property
    def size(self) -> int:
        """Number of values."""
        return self.height * self.width * self.channels


@dataclass(frozen=True, slots=True)
class Rect:
    """Rows and columns of an image."""

    rows: Span
    columns: Span

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.rows[1] - self.rows[0]

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.columns[1] - self.columns[0]


def window_of(kernel: Kernel) -> Window | None:
    """Return the window that a kernel slides over its first input; None: it has none."""
    if isinstance(kernel, LinearAdd):
        kernel = kernel.linear
    return kernel.window if isinstance(kernel, Windowed) else None


def images_of(program: Program) -> dict[str, Image]:
    """Return what is known to be an image of batch 1, from windows and what is as large."""
    found: dict[str, Image] = {}
    for call in program.calls:
        window = window_of(call.kernel)
        if window is not None:
            found[call.inputs[0]] = Image(window.height, window.width, window.channels)
            found[call.outputs[0]] = Image(*window.output, _filters(call.kernel) or window.channels)
    known = -1
    while known < len(found):
        known = len(found)
        for call in program.calls:
            _spread(call, found)
    return found


def _filters(kernel: Kernel) -> int:
    """Return the channels that a linear kernel makes; 0: as many as it reads."""
    linear = kernel.linear if isinstance(kernel, LinearAdd) else kernel
    if isinstance(linear, Gemm):
        return linear.n
    return linear.filters if isinstance(linear, Conv2d) else 0


def _spread(call: Call, found: dict[str, Image]) -> None:
    """Add what the images known say about the other buffers of a call."""
    kernel = call.kernel
    linear = kernel.linear if isinstance(kernel, LinearAdd) else kernel
    if isinstance(linear, Gemm):
        ends = ((call.inputs[0], linear.k), (call.outputs[0], linear.n))
        for (source, _), (target, channels) in (ends, ends[::-1]):
            seen = found.get(source)
            if seen is not None and seen.height * seen.width == linear.rows:
                found.setdefault(target, replace(seen, channels=channels))
    alike = [*call.inputs, call.outputs[0]] if isinstance(kernel, Table | Add | Mul) else []
    if isinstance(kernel, LinearAdd):
        alike = [call.inputs[1], call.outputs[0]]
    for image in [found[name] for name in alike if name in found][:1]:
        for name in alike:
            found.setdefault(name, image)


def refusal(program: Program, call: Call, images: Mapping[str, Image]) -> str:
    """Return why a call cannot run tile by tile; empty: it can."""
    kernel, name = call.kernel, call.kernel.name
    image = images.get(call.outputs[0])
    if not isinstance(kernel, Windowed | LinearAdd | Gemm | Table | Add | Mul | Copy):
        return f"{name} has no form for a part of an image"
    if image is None or len(call.outputs) != 1:
        return f"{name} makes no image"
    buffers = [*([] if isinstance(kernel, Copy) else call.inputs), call.outputs[0]]
    if any(program.buffers[b].dtype != "int8" for b in buffers):
        return f"{name} works on more than int8"
    if any(b not in images or images[b].size != program.buffers[b].size for b in buffers):
        return f"{name} works on several images at once"
    if isinstance(kernel, Copy):
        return "" if layout(kernel, image) is not None else "a copy that moves pixels about"
    if isinstance(kernel, Add | Mul) and not kernel.a == kernel.b == dense(kernel.shape):
        return f"{name} does not read its inputs as they lie in memory"
    if isinstance(kernel, Table) and kernel.source != dense(kernel.shape):
        return f"{name} does not read its input as it lies in memory"
    window = window_of(kernel)
    if window is not None and window.kernel == (window.height, window.width) != (1, 1):
        return f"{name} reads the whole image for every output"
    return ""


def layout(kernel: Copy, image: Image) -> Access | None:
    """Return where pixel (y, x, channel) of the copy's result is read; None: nowhere regular."""
    if len(kernel.parts) != 1 or kernel.fill is not None:
        return None
    (part,) = kernel.parts
    shape = (image.height, image.width, image.channels)
    if part.target != dense(part.shape) or part.target.size != image.size:
        return None
    positions = part.source.positions(part.shape).reshape(shape)
    first = int(positions[0, 0, 0])
    steps = [
        int(np.take(positions, min(1, extent - 1), axis).reshape(-1)[0]) - first
        for axis, extent in enumerate(shape)
    ]
    access = Access(part.source.size, tuple(steps), first)
    regular = min(steps) >= 0 and np.array_equal(access.positions(shape), positions)
    return access if regular else None


def read_spans(call: Call, axis: int, span: Span) -> list[Span]:
    """Return what of each input along axis a span of outputs reads, clamped to the image.

    Raises UnfitError when that is nothing but padding.
    """
    window = window_of(call.kernel)
    if window is None:
        return [span] * len(call.inputs)
    low, high = _reach(window, axis, span)
    clamped = max(low, 0), min(high, (window.height, window.width)[axis])
    if clamped[0] >= clamped[1]:
        raise UnfitError(f"{call.kernel.name} has outputs made of padding alone")
    return [clamped, *[span] * (len(call.inputs) - 1)]


def _reach(window: Window, axis: int, span: Span) -> Span:
    """Return the input span of a span of outputs, padding included."""
    reach = (window.kernel[axis] - 1) * window.dilations[axis] + 1
    start = window.strides[axis], window.pads[axis]
    low, last = (i * start[0] - start[1] for i in (span[0], span[1] - 1))
    return low, last + reach


def tiled(kernel: Kernel, rect: Rect) -> Kernel:
    """Return the kernel that makes a rectangle of the outputs from exactly what that reads."""
    pixels = rect.height * rect.width
    match kernel:
        case LinearAdd():
            linear = tiled(kernel.linear, rect)
            assert isinstance(linear, Conv2d | Gemm)
            total = _row(kernel.sum, pixels * _filters(kernel))
            return replace(kernel, linear=linear, sum=total)
        case Gemm():
            _two_pixels(kernel, pixels)
            return replace(kernel, rows=pixels)
        case Conv2d():
            _two_pixels(kernel, pixels)
            return replace(kernel, window=_tile_window(kernel.window, rect))
        case DepthwiseConv2d() | MaxPool() | AveragePool():
            return replace(kernel, window=_tile_window(kernel.window, rect))
        case _:
            raise AssertionError(f"{kernel.name} is no kernel of a patch stage")


def elementwise(kernel: Kernel, size: int) -> Kernel:
    """Return the kernel on so many values, if each output depends on its own inputs only."""
    if isinstance(kernel, Table):
        return replace(kernel, shape=(size,), source=dense((size,)))
    assert isinstance(kernel, Add | Mul)
    return _row(kernel, size) if isinstance(kernel, Add) else replace(
        kernel, shape=(size,), a=dense((size,)), b=dense((size,))
    )  # fmt: skip


def _row(kernel: Add, size: int) -> Add:
    return replace(kernel, shape=(size,), a=dense((size,)), b=dense((size,)))


def _two_pixels(kernel: Kernel, pixels: int) -> None:
    """Refuse a single pixel: weights are laid out differently for it and would lie there twice."""
    if pixels == 1:
        raise UnfitError(f"{kernel.name} would make a single pixel")


def _tile_window(window: Window, rect: Rect) -> Window:
    """Return the window over the tile that a rectangle of outputs reads."""
    (top, bottom), (left, right) = (
        _reach(window, axis, span) for axis, span in enumerate((rect.rows, rect.columns))
    )
    pads = (
        max(-top, 0), max(-left, 0), max(bottom - window.height, 0), max(right - window.width, 0),
    )  # fmt: skip
    height, width = bottom - top - pads[0] - pads[2], right - left - pads[1] - pads[3]
    return replace(window, height=height, width=width, pads=pads)


def copied_tile(access: Access, image: Image, rect: Rect) -> tuple[Copy, int, int]:
    """Return the copy of a rectangle, and where in the buffer it is read: first value, how many.

    access: of pixel (y, x, channel) of the image.
    """
    shape = (rect.height, rect.width, image.channels)
    steps = access.strides
    start = access.offset + rect.rows[0] * steps[0] + rect.columns[0] * steps[1]
    size = 1 + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    part = Part.of(shape, Access(size, steps), dense(shape))
    return Copy((part,), rect.height * rect.width * image.channels), start, size


def whole_access(image: Image) -> Access:
    """Return where pixel (y, x, channel) of an image lies in its buffer."""
    return dense((image.height, image.width, image.channels))


def total(spans: Sequence[Span]) -> int:
    """Return how many rows or columns spans have together."""
    return sum(high - low for low, high in spans)

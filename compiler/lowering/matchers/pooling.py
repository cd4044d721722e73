"""Pooling and nearest-neighbour resizing of images."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...core.encoding import I32
from ...core.graph import label, shape_of
from ...core.masks import masked_mean
from ..kernels._shared import parameters
from ..kernels._window import Window
from ..kernels.average_pool import AveragePool, average_multipliers
from ..kernels.gather_rows import GatherRows
from ..kernels.masked_mean import MaskedMean
from ..kernels.max_pool import MaxPool
from ..lower import Lowering, RefusedError, Request
from ..program import Array
from ..rescale import rescaled
from ..values import Plain, Quantised
from ..views import View
from .linear import conv_window


def _image(low: Lowering, node: ir.Node) -> tuple[Quantised, str]:
    """Return the input and the name of its NHWC buffer."""
    assert node.inputs[0] is not None
    x = low.narrow(node, low.quantised(node.inputs[0]))
    if len(x.view.shape) != 4:
        raise RefusedError(f"{label(node)}: only pooling of 4-D images has an integer kernel")
    return x, low.builder.dense(x.view.transpose((0, 2, 3, 1)), str(node.inputs[0].name), ())


def _pool_window(node: ir.Node, x: Quantised) -> Window:
    kernel = tuple(node.attributes.get_ints("kernel_shape", ()))
    window = conv_window(node, x.view, (kernel[0], kernel[1]))
    if window.dilations != (1, 1):
        raise RefusedError(f"{label(node)}: dilated pooling has no integer kernel")
    declared = shape_of(node.outputs[0])[2:]
    if window.output != declared:
        raise RefusedError(f"{label(node)}: ceil_mode pooling past the edge has no integer kernel")
    return window


def _pooled(name: str, batch: int, window: Window) -> View:
    return View.whole(name, (batch, *window.output, window.channels)).transpose((0, 3, 1, 2))


def match_max_pool(low: Lowering, node: ir.Node, request: Request) -> Quantised | None:
    """Max commutes with quantisation, so it runs in the input's encoding."""
    x, source = _image(low, node)
    window = _pool_window(node, x)
    kernel = MaxPool(x.view.shape[0], window)
    name = low.builder.emit(kernel, [source], [], request.hint, (label(node),))
    held = Quantised(_pooled(name, x.view.shape[0], window), x.encoding)
    return rescaled(low.builder, held, request)


def match_average_pool(low: Lowering, node: ir.Node, request: Request) -> Quantised | None:
    """Divisors per number of values under the window."""
    x, source = _image(low, node)
    include = bool(node.attributes.get_int("count_include_pad", 0))
    return _average(low, node, request, x, source, _pool_window(node, x), include)


def match_global_average_pool(low: Lowering, node: ir.Node, request: Request) -> Quantised | None:
    """One window over the whole image."""
    x, source = _image(low, node)
    _, channels, height, width = x.view.shape
    window = Window(height, width, channels, (height, width))
    return _average(low, node, request, x, source, window, False)


def _average(
    low: Lowering, node: ir.Node, request: Request, x: Quantised, source: str, window: Window,
    include_pad: bool,
) -> Quantised:  # fmt: skip
    y, batch = request.encoding, x.view.shape[0]
    taps = window.kernel[0] * window.kernel[1]
    try:
        rule, multipliers = average_multipliers(x.encoding.scale[0] / y.scale[0], taps, include_pad)
    except ValueError as reason:
        raise RefusedError(f"{label(node)}: {reason}") from reason
    zero = x.encoding.zero_point[0]
    q: I32 = parameters(rule, y.zero_point[0], request.low, request.high, zero)
    kernel = AveragePool(batch, window)
    constants: list[Array] = [np.array(multipliers, np.int32), q]
    name = low.builder.emit(kernel, [source], constants, request.hint, (label(node),))
    return Quantised(_pooled(name, batch, window), y)


def match_masked_mean(low: Lowering, node: ir.Node, request: Request) -> Quantised | None:
    """Mean over the tokens that a mask known at run time keeps."""
    mean = masked_mean(node)
    keep = None if mean is None else low.known(mean.keep)
    if mean is None or not isinstance(keep, Plain):
        return None
    x, y = low.narrow(node, low.quantised(mean.x)), request.encoding
    batch, tokens, width = x.view.shape
    try:
        rule, multipliers = average_multipliers(x.encoding.scale[0] / y.scale[0], tokens, False)
    except ValueError as reason:
        raise RefusedError(f"{label(node)}: {reason}") from reason
    zero = x.encoding.zero_point[0]
    q = parameters(rule, y.zero_point[0], request.low, request.high, zero)
    names = (label(node),)
    per_token = keep.view.slice((slice(None), slice(None), 0))
    inputs = [
        low.builder.dense(x.view, f"{mean.x.name}", names),
        low.builder.dense(per_token, f"{request.hint}_keep", names),
    ]
    constants: list[Array] = [np.array(multipliers, np.int32), q]
    kernel = MaskedMean(batch, tokens, width)
    name = low.builder.emit(kernel, inputs, constants, request.hint, names)
    return Quantised(View.whole(name, shape_of(node.outputs[0])), y)


def match_resize(low: Lowering, node: ir.Node, request: Request) -> Quantised | None:
    """Nearest neighbour along height and width, as row look-ups."""
    if node.attributes.get_string("mode", "nearest") != "nearest":
        raise RefusedError(f"{label(node)}: only nearest-neighbour resizing has an integer kernel")
    x, _ = _image(low, node)
    target = shape_of(node.outputs[0])
    if target[:2] != x.view.shape[:2]:
        raise RefusedError(f"{label(node)}: resizing batch or channels has no integer kernel")
    view = x.view.transpose((0, 2, 3, 1))
    for axis in (1, 2):
        view = _nearest(low, node, request, view, axis, target[axis + 1])
    return rescaled(low.builder, Quantised(view.transpose((0, 3, 1, 2)), x.encoding), request)


def _nearest(
    low: Lowering, node: ir.Node, request: Request, view: View, axis: int, extent: int
) -> View:
    if view.shape[axis] == extent:
        return view
    scales = low.number(node.inputs[2]) if len(node.inputs) > 2 else None
    scale = None if scales is None or scales.size == 0 else float(scales[axis + 1])
    rows = nearest_rows(node, view.shape[axis], extent, scale)
    index = low.builder.constant(f"{request.hint}_rows{axis}", rows)
    shape = view.shape
    outer, width = int(np.prod(shape[:axis])), int(np.prod(shape[axis + 1 :]))
    source = low.builder.dense(view, request.hint, (label(node),))
    kernel = GatherRows(outer, shape[axis], width, extent)
    name = low.builder.emit(kernel, [source, index.buffer], [], request.hint, (label(node),))
    return View.whole(name, (*shape[:axis], extent, *shape[axis + 1 :]))


def nearest_rows(node: ir.Node, size: int, extent: int, given: float | None = None) -> I32:
    """Return the source row of each of `extent` output rows, by the node's attributes.

    given: the node's scale, None where it names sizes. In float32, as ONNX Runtime computes it.
    """
    scale = np.float32(extent) / np.float32(size) if given is None else np.float32(given)
    position = np.arange(extent, dtype=np.float32)
    half = np.float32(0.5)
    transform = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    if transform == "asymmetric":
        at = position / scale
    elif transform == "pytorch_half_pixel" and extent == 1:
        at = np.zeros(1, np.float32)
    elif transform in ("half_pixel", "pytorch_half_pixel"):
        at = (position + half) / scale - half
    elif transform == "align_corners":
        at = position * np.float32(size - 1) / np.float32(max(extent - 1, 1))
    else:
        raise RefusedError(f"{label(node)}: coordinate mode {transform} has no integer kernel")
    mode = node.attributes.get_string("nearest_mode", "round_prefer_floor")
    rounded = {
        "round_prefer_floor": np.ceil(at - half),
        "round_prefer_ceil": np.floor(at + half),
        "floor": np.floor(at),
        "ceil": np.ceil(at),
    }[mode]
    return np.clip(rounded, 0, size - 1).astype(np.int32)

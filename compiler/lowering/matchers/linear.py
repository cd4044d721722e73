"""Conv, Gemm and MatMul with quantised weights; MatMul of two activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ...core.encoding import F64, I8, I32, WIDE_BITS, Requantiser, TensorEncoding
from ...core.graph import label, shape_of
from ..kernels._access import Access
from ..kernels._int4 import BLOCK, Int4
from ..kernels._shared import Epilogue, fits_pairs, parameters, round_up
from ..kernels._window import Window
from ..kernels.conv2d import Conv2d
from ..kernels.depthwise_conv2d import DepthwiseConv2d
from ..kernels.gemm import Gemm
from ..kernels.matmul import MatMul
from ..lower import Lowering, RefusedError, Request
from ..program import Array
from ..values import Codes, Quantised
from ..views import View
from .binary import farthest, product_rule


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """Weights [out, ...] of at most 8 bits with their scale per output channel [out].

    `bits`: 4 where two codes may share a byte; `multiplier`: per code, where blocks of `block`
    input channels have scales of their own, else None.
    """

    codes: I8
    scale: F64
    bits: int = 8
    block: int = 0
    multiplier: I32 | None = None

    @property
    def whole(self) -> I32:
        """Codes times multipliers: what the accumulator adds up."""
        codes = self.codes.astype(np.int32)
        return codes if self.multiplier is None else codes * self.multiplier


def weights(low: Lowering, node: ir.Node, value: ir.Value | None, out_axis: int) -> Weights:
    """Return the weights stored in value, output axis first; raises RefusedError if too wide."""
    fact = low.known(value)
    name = "?" if value is None else value.name
    if not isinstance(fact, Codes):
        raise RefusedError(f"{label(node)}: its weight '{name}' is not quantised")
    encoding = fact.encoding
    codes = np.moveaxis(fact.data.astype(np.int32), out_axis, 0)
    if encoding.axis is not None and encoding.axis % fact.data.ndim != out_axis:
        raise RefusedError(f"{label(node)}: weight '{name}' is not encoded per output channel")
    zero = np.asarray(encoding.zero_point).reshape([-1] + [1] * (codes.ndim - 1))
    centred = codes - zero
    if encoding.bits not in (4, 8) or centred.min() < -128 or centred.max() > 127:
        raise RefusedError(
            f"{label(node)}: weight '{name}' does not fit int8 around its zero point; "
            "use symmetric weights"
        )
    scale = np.broadcast_to(np.asarray(encoding.scale, np.float64), (codes.shape[0],)).copy()
    packs = encoding.bits == 4 and centred.min() >= -8 and centred.max() <= 7
    bits, blocks = 4 if packs else 8, encoding.blocks
    if blocks is None:
        return Weights(centred.astype(np.int8), scale, bits)
    spread = np.moveaxis(blocks.spread(fact.data.shape[blocks.axis]), out_axis, 0)
    spread = np.broadcast_to(spread, codes.shape)
    if not packs or codes.ndim > 4 or (out_axis, blocks.axis) not in ((0, 1), (1, 0)):
        raise RefusedError(
            f"{label(node)}: weight '{name}' has blocks that are not int4 along its input channels"
        )
    return Weights(centred.astype(np.int8), scale, bits, blocks.size, spread)


def int4_of(node: ir.Node, rows: Array, multiplier: Array | None, block: int) -> tuple[Int4, I8]:
    """Return (form, stored bytes) of int4 codes [out, K], their multipliers each `block` of K."""
    if multiplier is None or block >= rows.shape[1]:
        form = Int4() if multiplier is None else Int4(round_up(block, BLOCK))
        return form, form.pack(rows, None if multiplier is None else multiplier[:, :1])
    if block != 16 and block % BLOCK:
        raise RefusedError(
            f"{label(node)}: its weight has blocks of {block}; use 16 or whole {BLOCK}s"
        )
    return Int4(block), Int4(block).pack(rows, multiplier[:, ::block])


def bias_of(low: Lowering, node: ir.Node, value: ir.Value | None, filters: int) -> F64:
    """Return the real bias [filters]; zeros when there is none."""
    if value is None:
        return np.zeros(filters)
    fact = low.known(value)
    if isinstance(fact, Codes):  # in float64: int32 codes times a float32 scale is not exact in f32
        scale = np.asarray(fact.encoding.scale, np.float64)
        real = (fact.data.astype(np.float64) - np.asarray(fact.encoding.zero_point)) * scale
    elif (number := low.number(value)) is not None:
        real = number.astype(np.float64)
    else:
        raise RefusedError(f"{label(node)}: its bias '{value.name}' is not a constant")
    if real.size not in (1, filters):
        raise RefusedError(f"{label(node)}: its bias '{value.name}' is not one value a channel")
    return np.broadcast_to(real.reshape(-1), (filters,)).copy()


def linear_constants(
    node: ir.Node, w: Weights, bias: F64, x: TensorEncoding, request: Request
) -> tuple[Epilogue, list[Array]]:
    """Return (epilogue, [bias, multiplier, q]) of a linear kernel, zero point folded into bias."""
    y = request.encoding
    unit = x.scale[0] * w.scale
    rows = w.whole.astype(np.int64).reshape(w.codes.shape[0], -1)
    sums = rows.sum(axis=1)
    codes = np.rint(bias / unit) - x.zero_point[0] * sums
    low, high = x.limits
    reach = max(-low, high) * np.abs(rows).sum(axis=1) + np.abs(codes)
    if np.any(reach >= 2**31):
        raise RefusedError(f"{label(node)}: its bias overflows the int32 accumulator")
    try:
        rule = Requantiser.of(unit / y.scale[0])
    except ValueError as reason:
        raise RefusedError(f"{label(node)}: {reason}") from reason
    q = parameters(rule, y.zero_point[0], request.low, request.high, x.zero_point[0])
    constants = [codes.astype(np.int32), np.array(rule.multiplier, np.int32), q]
    return Epilogue.of(q, request.dtype), constants


def match_gemm(low: Lowering, node: ir.Node, request: Request) -> Quantised | None:
    """Gemm with alpha = beta = 1."""
    get = node.attributes.get_float
    if node.attributes.get_int("transA", 0) or get("alpha", 1.0) != 1 or get("beta", 1.0) != 1:
        raise RefusedError(f"{label(node)}: transA, alpha or beta is set; fold them first")
    w = weights(low, node, node.inputs[1], 0 if node.attributes.get_int("transB", 0) else 1)
    bias = bias_of(low, node, node.inputs[2] if len(node.inputs) > 2 else None, w.scale.size)
    return _rows_by_weights(low, node, request, w, bias)


def match_matmul(low: Lowering, node: ir.Node, request: Request) -> Quantised | None:
    """MatMul by a weight, or of two activations."""
    fact = low.known(node.inputs[1])
    if isinstance(fact, Codes) and fact.data.ndim == 2:
        w = weights(low, node, node.inputs[1], 1)
        return _rows_by_weights(low, node, request, w, np.zeros(w.scale.size))
    return _activations(low, node, request)


def match_bias_add(low: Lowering, node: ir.Node, request: Request) -> Quantised | None:
    """Add of a constant per output channel to a MatMul by a weight that nobody asked for yet."""
    for value, other in (tuple(node.inputs), tuple(reversed(node.inputs))):
        assert value is not None
        product = value.producer()
        fact = low.known(other)
        if product is None or product.op_type != "MatMul" or low.known(value) is not None:
            continue
        if low.number(other) is None and not isinstance(fact, Codes):
            continue
        if not isinstance(low.known(product.inputs[1]), Codes):
            continue
        w = weights(low, product, product.inputs[1], 1)
        bias = bias_of(low, node, other, w.scale.size)
        return _rows_by_weights(low, product, request, w, bias)
    return None


def _rows_by_weights(
    low: Lowering, node: ir.Node, request: Request, w: Weights, bias: F64
) -> Quantised:
    assert node.inputs[0] is not None
    x = low.quantised(node.inputs[0])
    k = w.codes.shape[1]
    rows = int(np.prod(x.view.shape[:-1]))
    source = low.builder.dense(x.view, f"{node.inputs[0].name}", (label(node),))
    epilogue, constants = linear_constants(node, w, bias, x.encoding, request)
    dtype, stored = x.encoding.dtype.name, w.codes
    kernel = Gemm(rows, k, w.scale.size, epilogue, dtype)
    if w.bits == 4 and x.encoding.bits <= WIDE_BITS:
        form, stored = int4_of(node, w.codes, w.multiplier, w.block)
        kernel = replace(kernel, int4=form)
    elif w.multiplier is not None:
        raise RefusedError(
            f"{label(node)}: int4 weights in blocks meet activations of {x.encoding.bits} bits"
        )
    elif dtype == "int8":
        kernel = replace(kernel, paired=fits_pairs(w.codes))
    name = low.builder.emit(kernel, [source], [stored, *constants], request.hint, (label(node),))
    view = View.whole(name, (*x.view.shape[:-1], w.scale.size))
    return Quantised(view, request.encoding)


def match_conv(low: Lowering, node: ir.Node, request: Request) -> Quantised | None:
    """2-D and 1-D convolution; depthwise and 1x1 have kernels of their own."""
    assert node.inputs[0] is not None
    w = weights(low, node, node.inputs[1], 0)
    bias = bias_of(low, node, node.inputs[2] if len(node.inputs) > 2 else None, w.scale.size)
    x = low.narrow(node, low.quantised(node.inputs[0]))
    view, codes = x.view, w.codes
    if codes.ndim == 3:  # 1-D: an image of height one
        view, codes = _with_height(low, node, view), codes[:, :, None]
    if codes.ndim != 4 or len(view.shape) != 4:
        raise RefusedError(f"{label(node)}: only 1-D and 2-D convolution has an integer kernel")
    window = conv_window(node, view, (codes.shape[2], codes.shape[3]))
    groups = node.attributes.get_int("group", 1)
    epilogue, constants = linear_constants(node, w, bias, x.encoding, request)
    source = low.builder.dense(view.transpose((0, 2, 3, 1)), str(node.inputs[0].name), ())
    if w.bits == 4 and not _is_depthwise(window, codes, groups):
        kernel, packed = _conv_int4(node, view.shape[0], window, w, groups, epilogue)
    elif w.multiplier is not None:
        raise RefusedError(f"{label(node)}: depthwise weights in blocks have no integer kernel")
    else:
        kernel, packed = _conv_kernel(view.shape[0], window, codes, groups, epilogue)
    name = low.builder.emit(kernel, [source], [packed, *constants], request.hint, (label(node),))
    shape = (view.shape[0], *window.output, w.scale.size)
    result = View.whole(name, shape).transpose((0, 3, 1, 2))
    if w.codes.ndim == 3:
        squeezed = result.slice((slice(None), slice(None), 0))
        return Quantised(squeezed, request.encoding)
    return Quantised(result, request.encoding)


def _with_height(low: Lowering, node: ir.Node, view: View) -> View:
    return view.slice((slice(None), slice(None), None))


def conv_window(node: ir.Node, view: View, kernel: tuple[int, int]) -> Window:
    """Return the window of a Conv or pooling node over an NCHW view."""
    if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", ""):
        raise RefusedError(f"{label(node)}: auto_pad was not resolved")
    strides = _two(node.attributes.get_ints("strides", (1, 1)), 1)
    dilations = _two(node.attributes.get_ints("dilations", (1, 1)), 1)
    pads = tuple(node.attributes.get_ints("pads", (0, 0, 0, 0)))
    if len(pads) == 2:
        pads = (0, pads[0], 0, pads[1])
    _, channels, height, width = view.shape
    top, left, bottom, right = pads
    return Window(height, width, channels, kernel, strides, dilations, (top, left, bottom, right))


def _two(values: Sequence[int], missing: int) -> tuple[int, int]:
    given = tuple(values)
    return (missing, given[0]) if len(given) == 1 else (given[0], given[1])


def _is_depthwise(window: Window, codes: Array, groups: int) -> bool:
    return groups > 1 and groups == window.channels == codes.shape[0]


def _is_gemm(window: Window, groups: int) -> bool:
    pointwise = window.kernel == (1, 1) and window.strides == (1, 1) and not any(window.pads)
    return groups == 1 and pointwise


def _conv_int4(
    node: ir.Node, batch: int, window: Window, w: Weights, groups: int, epilogue: Epilogue
) -> tuple[Conv2d | Gemm, Array]:
    """Return the kernel and its int4 weights, [out, kh, kw, in] before they are packed."""
    taps, each, filters = window.kernel[0] * window.kernel[1], w.codes.shape[1], w.codes.shape[0]
    if w.multiplier is not None and taps > 1 and each % w.block:
        raise RefusedError(f"{label(node)}: blocks of {w.block} do not divide its {each} channels")

    def rows(values: Array) -> Array:
        by_tap = values.reshape(filters, each, taps).transpose(0, 2, 1)
        return by_tap.reshape(groups, filters // groups, -1)

    multiplier = [None] * groups if w.multiplier is None else list(rows(w.multiplier))
    packed = [
        int4_of(node, codes, scales, w.block)
        for codes, scales in zip(rows(w.codes), multiplier, strict=True)
    ]
    form, stored = packed[0][0], np.concatenate([part for _, part in packed])
    if _is_gemm(window, groups):
        pixels = batch * window.height * window.width
        return Gemm(pixels, window.channels, filters, epilogue, int4=form), stored
    return Conv2d(batch, window, filters, groups, epilogue, int4=form), stored


def _conv_kernel(
    batch: int, window: Window, codes: I8, groups: int, epilogue: Epilogue
) -> tuple[Conv2d | DepthwiseConv2d | Gemm, Array]:
    """Return the kernel and its weights: [out, kh, kw, in] in general."""
    filters = codes.shape[0]
    if _is_depthwise(window, codes, groups):
        return DepthwiseConv2d(batch, window, epilogue), codes[:, 0].transpose(1, 2, 0)
    paired = fits_pairs(codes.reshape(filters, -1))
    if _is_gemm(window, groups):
        rows = batch * window.height * window.width
        return Gemm(rows, window.channels, filters, epilogue, paired=paired), codes[:, :, 0, 0]
    kernel = Conv2d(batch, window, filters, groups, epilogue, paired)
    return kernel, codes.transpose(0, 2, 3, 1)


def _activations(low: Lowering, node: ir.Node, request: Request) -> Quantised:
    assert node.inputs[0] is not None and node.inputs[1] is not None
    a, b = low.quantised(node.inputs[0]), low.quantised(node.inputs[1])
    shape = shape_of(node.outputs[0])
    if len(a.view.shape) < 2 or len(b.view.shape) < 2:
        raise RefusedError(f"{label(node)}: a product with a vector has no integer kernel")
    batch, (m, n), k = shape[:-2], shape[-2:], a.view.shape[-1]
    if k * farthest(a.encoding) * farthest(b.encoding) >= 2**31:
        raise RefusedError(f"{label(node)}: a sum of {k} products overflows the int32 accumulator")
    left, right = a.view.broadcast((*batch, m, k)), b.view.broadcast((*batch, k, n))
    rule = product_rule(node, a.encoding, b.encoding, request.encoding)
    q = parameters(rule, request.encoding.zero_point[0], request.low, request.high)
    zeros = np.array([a.encoding.zero_point[0], b.encoding.zero_point[0]], np.int32)
    out = View.whole("", shape).access
    dtypes = a.encoding.dtype.name, b.encoding.dtype.name
    epilogue = Epilogue.of(q, request.dtype)
    kernel = MatMul(batch, m, k, n, left.access, right.access, _full(out, shape), epilogue, dtypes)
    constants: list[Array] = [zeros, np.array(rule.multiplier, np.int32), q]
    name = low.builder.emit(
        kernel, [left.buffer, right.buffer], constants, request.hint, (label(node),)
    )
    return Quantised(View.whole(name, shape), request.encoding)


def _full(access: Access, shape: tuple[int, ...]) -> Access:
    """Give the last axis its step of one even when it has one element."""
    return Access(access.size, (*access.strides[:-1], 1), access.offset)

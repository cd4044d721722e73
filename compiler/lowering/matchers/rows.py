"""Operators over the last axis: Softmax (scaled, masked), LayerNorm, RMSNorm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...core.encoding import WIDE_BITS
from ...core.graph import label, shape_of
from ...core.operators import MASKED
from ..kernels._access import Access
from ..kernels._shared import HIGH, LOW
from ..kernels.norm import Norm, norm_constants
from ..kernels.softmax import Softmax, softmax_constants
from ..lower import Lowering, RefusedError, Request
from ..program import Array
from ..values import Plain, Quantised
from ..views import View, inverse


@dataclass(frozen=True, slots=True, eq=False)
class Logits:
    """Softmax input as factor * quantised value, where `keep` (constant or view) holds."""

    value: ir.Value
    factor: float
    keep: Array | View | None


def _logits(low: Lowering, value: ir.Value) -> Logits:
    """Look through an additive mask and positive scalar factors that nobody materialised."""
    factor, keep = 1.0, None
    while low.known(value) is None:
        node = value.producer()
        if node is None or node.op_type not in ("Add", "Mul", "Div"):
            break
        a, b = node.inputs
        assert a is not None and b is not None
        if node.op_type == "Add":
            if keep is not None:
                break
            keep = _keep(low, b)
            value = a
            if keep is None and (keep := _keep(low, a)) is not None:
                value = b
            if keep is None:
                return Logits(node.outputs[0], factor, None)
        else:
            scalar, inner = low.scalar(b), a
            if scalar is None and node.op_type == "Mul":
                scalar, inner = low.scalar(a), b
            if scalar is None or scalar <= 0:
                break
            factor *= scalar if node.op_type == "Mul" else 1.0 / scalar
            value = inner
    return Logits(value, factor, keep)


def _keep(low: Lowering, value: ir.Value) -> Array | View | None:
    """Return where an additive mask lets values through, if value is such a mask."""
    number = low.number(value)
    if number is not None:
        removed = number <= MASKED
        return ~removed if np.all(removed | (number == 0)) and removed.any() else None
    node = value.producer()
    if node is None or node.op_type != "Where":
        return None
    condition = low.known(node.inputs[0])
    if_true, if_false = low.scalar(node.inputs[1]), low.scalar(node.inputs[2])
    if not isinstance(condition, Plain) or if_true is None or if_false is None:
        return None
    if if_true == 0 and if_false <= MASKED:
        return condition.view
    if if_true <= MASKED and if_false == 0:
        return _negated(low, condition.view, node)
    return None


def _negated(low: Lowering, condition: View, node: ir.Node) -> View:
    from ..kernels.select import Select

    zero = low.builder.constant("zero", np.zeros(1, np.uint8))
    one = low.builder.constant("one", np.ones(1, np.uint8))
    shape = condition.shape
    kernel = Select.of(
        shape, condition.access, zero.broadcast(shape).access, one.broadcast(shape).access, "uint8"
    )
    inputs = [condition.buffer, zero.buffer, one.buffer]
    name = low.builder.emit(kernel, inputs, [], f"{node.outputs[0].name}_keep", (label(node),))
    return View.whole(name, shape)


def match_softmax(low: Lowering, node: ir.Node, request: Request) -> Quantised | None:
    """Integer softmax with the scale and mask before it."""
    assert node.inputs[0] is not None
    logits = _logits(low, node.inputs[0])
    x = low.narrow(node, low.quantised(logits.value))
    shape = shape_of(node.outputs[0])
    if x.view.shape != shape:
        raise RefusedError(f"{label(node)}: its input is broadcast by the mask")
    axis = node.attributes.get_int("axis", -1) % len(shape)
    order = (*(a for a in range(len(shape)) if a != axis), axis)
    turned = x.view.transpose(order)
    rows, n = int(np.prod(turned.shape[:-1])), shape[axis]
    kernel, masks = _masked(low, logits.keep, rows, turned.shape, order)
    source = low.builder.dense(turned, request.hint, (label(node),))
    y = request.encoding
    scale = logits.factor * x.encoding.scale[0]
    table, multiplier, q = softmax_constants(n, scale, y.scale[0], y.zero_point[0])
    q[LOW], q[HIGH] = request.low, request.high
    constants: list[Array] = [table, multiplier, q]
    name = low.builder.emit(kernel, [source, *masks], constants, request.hint, (label(node),))
    view = View.whole(name, turned.shape).transpose(inverse(order))
    return Quantised(view, y)


def _masked(
    low: Lowering, keep: Array | View | None, rows: int, shape: tuple[int, ...],
    order: tuple[int, ...],
) -> tuple[Softmax, list[str]]:  # fmt: skip
    """Return the kernel for rows of the turned shape and its mask input."""
    n = shape[-1]
    if keep is None:
        return Softmax(rows, n), []
    period = shape[-2] if len(shape) > 1 else 1
    full = tuple(shape[order.index(a)] for a in range(len(shape)))
    if not isinstance(keep, View):
        causal = np.tril(np.ones((period, n), bool))
        spread = np.broadcast_to(keep, full).transpose(order)
        if period == n and np.array_equal(spread, np.broadcast_to(causal, spread.shape)):
            return Softmax(rows, n, "causal", period), []
        keep = low.builder.constant("mask", keep.astype(np.uint8))
    turned = keep.broadcast(full).transpose(order)
    folded = turned.reshape((rows // period, period, n))
    if folded is None or folded.access.strides[-1] != 1:
        name = low.builder.dense(turned, "mask", ())
        folded = View.whole(name, (rows // period, period, n))
    access = Access(folded.access.size, folded.access.strides, folded.access.offset)
    return Softmax(rows, n, "input", period, access), [folded.buffer]


def match_layer_norm(low: Lowering, node: ir.Node, request: Request) -> Quantised | None:
    """LayerNormalization over the last axis."""
    return _norm(low, node, request, layer=True)


def match_rms_norm(low: Lowering, node: ir.Node, request: Request) -> Quantised | None:
    """RMSNormalization (also ONNX Runtime's SimplifiedLayerNormalization) over the last axis."""
    return _norm(low, node, request, layer=False)


def _norm(low: Lowering, node: ir.Node, request: Request, layer: bool) -> Quantised:
    assert node.inputs[0] is not None
    x = low.quantised(node.inputs[0])
    if x.encoding.bits > WIDE_BITS:
        raise RefusedError(f"{label(node)}: no integer kernel reads more than {WIDE_BITS} bits")
    shape = x.view.shape
    if node.attributes.get_int("axis", -1) % len(shape) != len(shape) - 1:
        raise RefusedError(f"{label(node)}: only normalisation over the last axis is supported")
    n = shape[-1]
    gamma = low.number(node.inputs[1])
    beta = low.number(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(n, np.float32)
    if gamma is None or beta is None or gamma.size != n:
        raise RefusedError(f"{label(node)}: its scale or bias is not a constant of the last axis")
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    try:
        constants = norm_constants(
            n, layer, epsilon, gamma.reshape(-1), beta.reshape(-1), x.encoding, request.encoding
        )
    except ValueError as reason:
        raise RefusedError(f"{label(node)}: {reason}") from reason
    constants[3][LOW], constants[3][HIGH] = request.low, request.high
    source = low.builder.dense(x.view, request.hint, (label(node),))
    kernel = Norm(int(np.prod(shape[:-1])), n, layer, x.encoding.dtype.name)
    name = low.builder.emit(kernel, [source], list(constants), request.hint, (label(node),))
    return Quantised(View.whole(name, shape), request.encoding)

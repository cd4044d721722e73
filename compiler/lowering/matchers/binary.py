"""Add, Sub, Mul, Div of two tensors, and products with a positive scalar."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from ...core.encoding import Requantiser, TensorEncoding
from ...core.graph import label, shape_of
from ..kernels._shared import Epilogue, parameters
from ..kernels.add import Add, add_parameters
from ..kernels.mul import Mul
from ..lower import Lowering, RefusedError, Request
from ..program import Array, Kernel
from ..values import Codes, Constant, Quantised
from ..views import View, inverse


def match_binary(low: Lowering, node: ir.Node, request: Request) -> Quantised | None:
    """Two operands in memory; a scalar factor moves into the encoding of the other operand."""
    scaled = _scalar_factor(low, node, request)
    if scaled is not None:
        return scaled
    if node.op_type == "Div":
        raise RefusedError(f"{label(node)}: division of one tensor by another")
    a, b = (_operand(low, node, v) for v in node.inputs)
    if node.op_type == "Mul":
        return _emit_mul(low, node, request, a, b)
    return _emit_add(low, node, request, a, b)


def _scalar_factor(low: Lowering, node: ir.Node, request: Request) -> Quantised | None:
    """x * c in encoding (s, z) is x in encoding (s / c, z)."""
    if node.op_type not in ("Mul", "Div"):
        return None
    for value, other in (tuple(node.inputs), tuple(reversed(node.inputs))):
        factor = low.scalar(other)
        if factor is None or factor <= 0 or value is None:
            continue
        if node.op_type == "Div":
            if other is node.inputs[0]:
                continue
            factor = 1.0 / factor
        scale = float(np.float32(request.encoding.scale[0] / factor))
        inner = replace(request.encoding, scale=(scale,))
        held = low.request(Request(value, inner, request.low, request.high))
        return Quantised(held.view, request.encoding)
    return None


def _operand(low: Lowering, node: ir.Node, value: ir.Value | None) -> Quantised:
    assert value is not None
    fact = low.known(value)
    if isinstance(fact, Constant):
        raise RefusedError(f"{label(node)}: its constant operand '{value.name}' is not quantised")
    if fact is None or isinstance(fact, Codes | Quantised):
        return low.quantised(value)
    raise RefusedError(f"{label(node)}: operand '{value.name}' holds plain integers")


def aligned(shape: tuple[int, ...], views: list[View]) -> tuple[tuple[int, ...], list[View]]:
    """Broadcast views to shape and reorder axes so that the largest is walked as it is stored."""
    wide = [v.broadcast(shape) for v in views]
    largest = max(views, key=lambda v: int(np.prod(v.shape)))
    order = largest.broadcast(shape).storage_order()
    return order, [v.transpose(order) for v in wide]


def emit_elementwise(
    low: Lowering, node: ir.Node, request: Request, kernel: Kernel, views: list[View],
    order: tuple[int, ...], constants: list[Array],
) -> Quantised:  # fmt: skip
    """Emit an elementwise kernel over aligned views and undo the reordering."""
    name = low.builder.emit(
        kernel, [v.buffer for v in views], constants, request.hint, (label(node),)
    )
    view = View.whole(name, views[0].shape).transpose(inverse(order))
    return Quantised(view, request.encoding)


def _emit_add(
    low: Lowering, node: ir.Node, request: Request, a: Quantised, b: Quantised
) -> Quantised:
    order, views = aligned(shape_of(request.value), [a.view, b.view])
    y = request.encoding
    sign = -1.0 if node.op_type == "Sub" else 1.0
    scales = a.encoding.scale[0] / y.scale[0], sign * b.encoding.scale[0] / y.scale[0]
    zeros = a.encoding.zero_point[0], b.encoding.zero_point[0]
    bits = max(a.encoding.bits, b.encoding.bits)
    try:
        q = add_parameters(scales, zeros, y.zero_point[0], request.low, request.high, bits)
    except ValueError as reason:
        raise RefusedError(f"{label(node)}: {reason}") from reason
    dtypes = a.encoding.dtype.name, b.encoding.dtype.name, request.dtype
    clamp = request.low > -128 or request.high < 127
    kernel = Add.of(views[0].shape, views[0].access, views[1].access, dtypes, bits, clamp)
    return emit_elementwise(low, node, request, kernel, views, order, [q])


def _emit_mul(
    low: Lowering, node: ir.Node, request: Request, a: Quantised, b: Quantised
) -> Quantised:
    order, views = aligned(shape_of(request.value), [a.view, b.view])
    if farthest(a.encoding) * farthest(b.encoding) >= 2**31:
        raise RefusedError(f"{label(node)}: a product overflows 32 bits; use fewer bits")
    rule = product_rule(node, a.encoding, b.encoding, request.encoding)
    q = parameters(rule, request.encoding.zero_point[0], request.low, request.high)
    zeros = np.array([a.encoding.zero_point[0], b.encoding.zero_point[0]], np.int32)
    dtypes = a.encoding.dtype.name, b.encoding.dtype.name
    epilogue = Epilogue.of(q, request.dtype)
    kernel = Mul.of(views[0].shape, views[0].access, views[1].access, epilogue, dtypes)
    constants: list[Array] = [zeros, np.array(rule.multiplier, np.int32), q]
    return emit_elementwise(low, node, request, kernel, views, order, constants)


def farthest(encoding: TensorEncoding) -> int:
    """Return the largest distance of a code from the zero point."""
    low, high = encoding.limits
    return max(encoding.zero_point[0] - low, high - encoding.zero_point[0])


def product_rule(
    node: ir.Node, a: TensorEncoding, b: TensorEncoding, y: TensorEncoding
) -> Requantiser:
    """Return the requantiser of a product of two tensors."""
    try:
        return Requantiser.of(a.scale[0] * b.scale[0] / y.scale[0])
    except ValueError as reason:
        raise RefusedError(f"{label(node)}: {reason}") from reason

"""Operators that join tensors of one encoding: Concat, Where, Pad."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from ...core.graph import label, shape_of
from ..kernels.copy import Copy, Part
from ..kernels.select import Select
from ..lower import Lowering, RefusedError, Request
from ..rescale import rescaled
from ..values import Constant, Plain, Quantised
from ..views import View
from .binary import aligned, emit_elementwise


def _in_encoding(low: Lowering, value: ir.Value | None, request: Request) -> View:
    assert value is not None
    wanted = Request(value, request.encoding, request.low, request.high)
    return rescaled(low.builder, low.request(wanted), wanted).view


def match_concat(low: Lowering, node: ir.Node, request: Request) -> Quantised | None:
    """Copy every input to its place, in the storage order of the first."""
    views = [_in_encoding(low, v, request) for v in node.inputs]
    shape = shape_of(request.value)
    axis = node.attributes.get_int("axis", 0) % len(shape)
    order = max(views, key=lambda v: int(np.prod(v.shape))).storage_order()
    stored = View.whole("", tuple(shape[a] for a in order))
    result = stored.transpose(tuple(int(i) for i in np.argsort(order)))
    parts: list[Part] = []
    start = 0
    for view in views:
        index: list[Any] = [slice(None)] * len(shape)
        index[axis] = slice(start, start + view.shape[axis])
        start += view.shape[axis]
        target = result.slice(tuple(index))
        parts.append(
            Part.of(
                tuple(view.shape[a] for a in order),
                view.transpose(order).access,
                target.transpose(order).access,
            )
        )
    kernel = Copy(tuple(parts), int(np.prod(shape)), request.dtype)
    name = low.builder.emit(kernel, [v.buffer for v in views], [], request.hint, (label(node),))
    view = View(name, result.base, result.ghost)
    return Quantised(view, request.encoding)


def match_select(low: Lowering, node: ir.Node, request: Request) -> Quantised | None:
    """Where with a constant condition or one known at run time."""
    condition = _condition(low, node)
    a, b = (_in_encoding(low, v, request) for v in node.inputs[1:3])
    shape = shape_of(request.value)
    order, (left, right, chosen) = aligned(shape, [a, b, condition])
    kernel = Select.of(left.shape, chosen.access, left.access, right.access, request.dtype)
    views = [chosen, left, right]
    return emit_elementwise(low, node, request, kernel, views, order, [])


def _condition(low: Lowering, node: ir.Node) -> View:
    fact = low.known(node.inputs[0])
    if isinstance(fact, Constant):
        return low.builder.constant(f"{node.outputs[0].name}_condition", fact.data.astype(np.uint8))
    if not isinstance(fact, Plain):
        raise RefusedError(f"{label(node)}: its condition is not known as run-time booleans")
    return fact.view


def match_pad(low: Lowering, node: ir.Node, request: Request) -> Quantised | None:
    """Constant padding that only adds."""
    if node.attributes.get_string("mode", "constant") != "constant":
        raise RefusedError(f"{label(node)}: only constant padding has an integer kernel")
    view = _in_encoding(low, node.inputs[0], request)
    value = low.scalar(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else 0.0
    shape = shape_of(request.value)
    before = _pads_before(low, node, len(shape))
    order = view.storage_order()
    stored = View.whole("", tuple(shape[a] for a in order))
    result = stored.transpose(tuple(int(i) for i in np.argsort(order)))
    inner = result.slice(
        tuple(slice(b, b + extent) for b, extent in zip(before, view.shape, strict=True))
    )
    part = Part.of(
        tuple(view.shape[a] for a in order), view.transpose(order).access,
        inner.transpose(order).access,
    )  # fmt: skip
    fill = int(request.encoding.quantise(np.float32(value or 0.0)))
    fill = min(max(fill, request.low), request.high)
    kernel = Copy((part,), int(np.prod(shape)), request.dtype, fill)
    name = low.builder.emit(kernel, [view.buffer], [], request.hint, (label(node),))
    return Quantised(View(name, result.base, result.ghost), request.encoding)


def _pads_before(low: Lowering, node: ir.Node, rank: int) -> list[int]:
    pads = low.number(node.inputs[1])
    if pads is None or (pads < 0).any():
        raise RefusedError(f"{label(node)}: its pads are not constant or cut the tensor")
    axes = low.number(node.inputs[3]) if len(node.inputs) > 3 else None
    chosen = range(rank) if axes is None else [int(a) % rank for a in axes]
    before = [0] * rank
    for position, axis in enumerate(chosen):
        before[axis] = int(pads[position])
    return before

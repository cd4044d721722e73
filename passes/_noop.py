"""Recognise nodes whose output is one of their inputs."""

from __future__ import annotations

import onnx_ir as ir

from ..compiler.core.graph import constant, tensor_of
from ._edit import RESHAPES, is_op, static_shape

NEUTRAL = {"Mul": 1.0, "Div": 1.0, "Add": 0.0, "Sub": 0.0, "Pow": 1.0}


def source_of_noop(node: ir.Node) -> ir.Value | None:
    """Return the input that node merely passes on, or None if it does something."""
    source = node.inputs[0] if node.inputs else None
    if source is None:
        return None
    if is_op(node, *NEUTRAL):
        return _neutral(node)
    return source if _passes_first_on(node, source) else None


def _passes_first_on(node: ir.Node, source: ir.Value) -> bool:
    if is_op(node, "Identity") or (is_op(node, "Dropout") and _inactive(node)):
        return True
    if is_op(node, "Cast"):
        return source.dtype is not None and source.dtype == node.attributes.get_int("to")
    if is_op(node, "Concat", "Sum", "Mean", "Max", "Min"):
        return len(node.inputs) == 1
    shape = static_shape(source)
    if shape is None or len(node.outputs) != 1 or shape != static_shape(node.outputs[0]):
        return False
    if is_op(node, "Transpose"):
        perm = node.attributes.get_ints("perm", range(len(shape) - 1, -1, -1))
        return list(perm) == list(range(len(shape)))
    if is_op(node, "Slice"):
        steps = tensor_of(node.inputs[4]) if len(node.inputs) > 4 else None
        return len(node.inputs) <= 4 or (steps is not None and bool((steps > 0).all()))
    if is_op(node, "Pad"):
        amounts = tensor_of(node.inputs[1])
        return amounts is not None and not amounts.any()
    return is_op(node, "Expand", "Tile", "Split", *RESHAPES)


def _inactive(node: ir.Node) -> bool:
    """Return whether a Dropout does nothing: not training, and nobody reads its mask."""
    training = node.inputs[2] if len(node.inputs) > 2 else None
    mode = tensor_of(training)
    mask = node.outputs[1] if len(node.outputs) > 1 else None
    read = mask is not None and bool(mask.uses() or mask.is_graph_output())
    return not read and (training is None or (mode is not None and not mode.any()))


def _neutral(node: ir.Node) -> ir.Value | None:
    """Return x of x * 1, x / 1, x + 0, x - 0 and x ** 1, if the constant does not widen it."""
    first, second = node.inputs
    orders = [(first, second)]
    if is_op(node, "Mul", "Add"):
        orders.append((second, first))
    for value, other in orders:
        data, shape = constant(other), static_shape(value)
        if value is None or data is None or shape is None:
            continue
        out = node.outputs[0]
        same = shape == static_shape(out) and value.dtype == out.dtype
        if same and bool((data == NEUTRAL[node.op_type]).all()):
            return value
    return None

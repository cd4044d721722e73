"""Edits and questions that several passes share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ..compiler.core.encoding import F32
from ..compiler.core.graph import constant, fresh_name, remove_node, shape_of, take_over
from ..compiler.core.passbase import Note, Outcome

RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")  # same elements in the same order


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Return whether node is one of these operators of the standard ONNX domain."""
    return node is not None and node.domain in ("", "ai.onnx") and node.op_type in op_types


def nodes(model: ir.Model, *op_types: str) -> list[ir.Node]:
    """Return the nodes of these types in graph order, as a list that survives edits."""
    return [node for node in model.graph if is_op(node, *op_types)]


def graph_of(node: ir.Node) -> ir.Graph:
    """Return the graph that holds node."""
    assert isinstance(node.graph, ir.Graph)
    return node.graph


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """Return the static shape of value, or None if it has none."""
    try:
        return None if value is None else shape_of(value)
    except ValueError:
        return None


def is_float32(value: ir.Value | None) -> bool:
    """Return whether value is known to hold float32."""
    return value is not None and value.dtype == ir.DataType.FLOAT


def scalar(value: ir.Value | None) -> float | None:
    """Return the content of a constant of one element, else None."""
    data = constant(value)
    return float(data.reshape(-1)[0]) if data is not None and data.size == 1 else None


def split_operands(node: ir.Node) -> tuple[ir.Value, F32, int] | None:
    """Return (value, constant, index of the constant) of a node with one constant operand."""
    if len(node.inputs) != 2 or not is_float32(node.outputs[0]):
        return None
    for index in (0, 1):
        data, value = constant(node.inputs[index]), node.inputs[1 - index]
        if data is not None and value is not None and constant(value) is None:
            return value, data, index
    return None


def channel_vector(data: F32, shape: Sequence[int], axis: int) -> F32 | None:
    """Return data as [shape[axis]] if it broadcasts along that axis of shape alone, else None."""
    if data.ndim > len(shape):
        return None
    aligned = data.reshape((1,) * (len(shape) - data.ndim) + data.shape)
    others = [size for i, size in enumerate(aligned.shape) if i != axis]
    if any(size != 1 for size in others) or aligned.shape[axis] not in (1, shape[axis]):
        return None
    return np.broadcast_to(aligned.reshape(-1), (shape[axis],)).copy()


def insert_before(
    anchor: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    name: str,
    shape: Sequence[int] | ir.Shape | None,
    attributes: Mapping[str, Any] | None = None,
) -> ir.Value:
    """Insert a float node before anchor and return its output, called name (made unique)."""
    graph = graph_of(anchor)
    out = ir.Value(
        name=fresh_name(graph, name),
        type=anchor.outputs[0].type,
        shape=None if shape is None else ir.Shape(list(shape)),
    )
    node = ir.node(op_type, inputs, attributes=attributes, outputs=[out], name=out.name)
    graph.insert_before(anchor, node)
    return out


def replace(
    node: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    tag: str,
    attributes: Mapping[str, Any] | None = None,
) -> ir.Value:
    """Put another node in the place of node (one output, same shape) and return its output."""
    old = node.outputs[0]
    new = insert_before(node, op_type, inputs, f"{old.name}.{tag}", old.shape, attributes)
    take_over(old, new)
    remove_node(node)
    return new


def bypass(node: ir.Node, index: int) -> str | None:
    """Let the readers of node read its input `index` and remove it; or say why that cannot be."""
    source = node.inputs[index]
    assert source is not None
    return stand_in(node, source)


def stand_in(node: ir.Node, source: ir.Value) -> str | None:
    """Let the readers of node read source and remove node; or say why that cannot be."""
    out = node.outputs[0]
    if out.is_graph_output() and (source.producer() is None or source.is_graph_output()):
        return "it joins two public values"
    take_over(out, source)
    remove_node(node)
    return None


def remove_dead(value: ir.Value | None) -> None:
    """Remove the producer of value, and then what fed it, as far as nobody reads them."""
    node = value.producer() if value is not None else None
    if node is None or node.graph is None:
        return
    if any(v.uses() or v.is_graph_output() for v in node.outputs):
        return
    inputs = list(node.inputs)
    remove_node(node)
    for source in inputs:
        remove_dead(source)


class Notes:
    """Collects what a pass did and declined, in order."""

    def __init__(self) -> None:
        self.changed: list[Note] = []
        self.declined: list[Note] = []

    def add(self, where: str, done: str, reason: str | None) -> None:
        """Record a decline when there is a reason, else a change."""
        target, text = (self.declined, reason) if reason else (self.changed, done)
        target.append(Note(where, text))

    def outcome(self) -> Outcome:
        """Return the collected notes as an immutable outcome."""
        return Outcome(tuple(self.changed), tuple(self.declined))

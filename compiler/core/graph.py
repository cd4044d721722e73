"""Small questions and edits on onnx_ir graphs that every pass asks."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from .encoding import F32


def tensor_of(value: ir.Value | None) -> NDArray[Any] | None:
    """Return the content of an initializer (of any dtype) that is not a graph input, else None."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def constant(value: ir.Value | None) -> F32 | None:
    """Return the content of a constant as float32, or None if value is not constant."""
    data = tensor_of(value)
    return None if data is None else np.asarray(data, dtype=np.float32)


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """Return the static shape of value; raises ValueError naming it when it is not static."""
    shape = static_shape(value)
    if shape is None:
        raise ValueError(f"value '{value.name}' has no static shape")
    return shape


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """Return the shape of value, or None when it is not static or there is no value."""
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(value.shape.numpy())


def sole_consumer(value: ir.Value) -> ir.Node | None:
    """Return the only node that reads value; None if several do or the graph outputs it."""
    if value.is_graph_output() or len(value.uses()) != 1:
        return None
    (use,) = value.uses()
    return use.node


def fresh_name(graph: ir.Graph, wanted: str) -> str:
    """Return wanted, or wanted with primes added until no value of graph is called so."""
    taken = set(graph.initializers) | {v.name for v in graph.inputs}
    taken |= {v.name for n in graph for v in n.outputs}
    while wanted in taken:
        wanted += "'"
    return wanted


def add_constant(graph: ir.Graph, name: str, data: NDArray[Any]) -> ir.Value:
    """Register data as a new initializer of graph under name (made unique) and return it."""
    name = fresh_name(graph, name)
    value = ir.val(name, const_value=ir.tensor(data, name=name))
    graph.register_initializer(value)
    return value


def set_constant(node: ir.Node, index: int, data: NDArray[Any]) -> None:
    """Give input index of node its own initializer holding data; a shared one is left alone."""
    graph, old = node.graph, node.inputs[index]
    assert isinstance(graph, ir.Graph)
    node.replace_input_with(index, add_constant(graph, f"{node.outputs[0].name}.in{index}", data))
    if old is not None and old.is_initializer() and not old.uses() and not old.is_graph_output():
        del graph.initializers[str(old.name)]


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Let new stand for old everywhere, keeping old's type and, for a graph output, its name."""
    new.type, new.shape = new.type or old.type, new.shape or old.shape
    was_output, name = old.is_graph_output(), old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    if was_output:
        old.name = f"{name}.replaced"
        new.name = name


def remove_node(node: ir.Node) -> None:
    """Remove a node whose outputs nobody reads, with initializers that only it read."""
    graph, inputs = node.graph, list(node.inputs)
    assert isinstance(graph, ir.Graph)
    graph.remove(node, safe=True)
    for value in inputs:
        if value is not None and value.is_initializer() and not value.uses():
            graph.initializers.pop(str(value.name), None)


def label(node: ir.Node) -> str:
    """Return how reports and errors call a node: op type and name (or its first output)."""
    return f"{node.op_type} '{node.name or node.outputs[0].name}'"


def model_from_text(text: str, **arrays: NDArray[Any]) -> ir.Model:
    """Parse ONNX text whose constants are given as arrays; for examples and tests."""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()
    )
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


def matches(value: ir.Value, patterns: Iterable[str]) -> bool:
    """True if the name of value, or of the node that makes it, fits a shell pattern."""
    node = value.producer()
    names = [value.name, None if node is None else node.name]
    return any(fnmatchcase(name, pattern) for name in names if name for pattern in patterns)

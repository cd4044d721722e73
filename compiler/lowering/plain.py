"""Operators on integers and booleans known at run time: positions, conditions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..core.graph import label, shape_of
from .islands import computed_plain
from .kernels.compare import RELATIONS, Compare
from .lower import Lowering, RefusedError
from .values import Constant, Plain
from .views import View


def lower_plain(low: Lowering, node: ir.Node) -> None:
    """Emit an integer kernel for run-time integers, else what ONNX says in a float island."""
    try:
        _on_integers(low, node)
    except RefusedError as reason:
        for value in node.outputs:
            if value.name and value.dtype != ir.DataType.FLOAT:
                low.learn(value, computed_plain(low, value, str(reason)))


def _on_integers(low: Lowering, node: ir.Node) -> None:
    """Emit the kernel of a comparison, or look through a Cast between integer types."""
    fact = low.known(node.inputs[0])
    if node.op_type in RELATIONS:
        _compare(low, node)
    elif node.op_type == "Cast" and isinstance(fact, Plain):
        low.learn(node.outputs[0], fact)
    else:
        raise RefusedError(f"{label(node)}: no integer kernel computes run-time integers")


def _compare(low: Lowering, node: ir.Node) -> None:
    shape = shape_of(node.outputs[0])
    a, b = (_integers(low, node, v).broadcast(shape) for v in node.inputs[:2])
    kernel = Compare.of(shape, a.access, b.access, node.op_type)
    hint = str(node.outputs[0].name)
    name = low.builder.emit(kernel, [a.buffer, b.buffer], [], hint, (label(node),))
    low.learn(node.outputs[0], Plain(View.whole(name, shape), "uint8"))


def _integers(low: Lowering, node: ir.Node, value: ir.Value | None) -> View:
    fact = low.known(value)
    if isinstance(fact, Plain) and fact.dtype == "int32":
        return fact.view
    if isinstance(fact, Constant) and np.issubdtype(fact.data.dtype, np.integer):
        name = "operand" if value is None else str(value.name)
        return low.builder.constant(name, np.clip(fact.data, -(2**31), 2**31 - 1).astype(np.int32))
    raise RefusedError(f"{label(node)}: its operands are not run-time integers")

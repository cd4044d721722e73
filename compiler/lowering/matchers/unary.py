"""A region of elementwise operators with one source: a function of its codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ...core.graph import label
from ...core.operators import UNARY
from ..lower import Lowering, RefusedError, Request
from ..program import Array
from ..rescale import every_value, mapped
from ..values import Quantised

# Lowering also meets what canonicalisation leaves out of its regions.
UNARY_OPS = UNARY | {"Identity", "Cast"}


def region(low: Lowering, value: ir.Value) -> tuple[ir.Value, list[ir.Node]] | None:
    """Return (source, nodes in order) if value is elementwise in one value held in memory."""
    nodes: list[ir.Node] = []
    sources: dict[str, ir.Value] = {}
    seen: set[str] = set()

    def walk(current: ir.Value) -> bool:
        if str(current.name) in seen or low.scalar(current) is not None:
            return True
        seen.add(str(current.name))
        if isinstance(low.known(current), Quantised):
            sources[str(current.name)] = current
            return len(sources) == 1
        node = current.producer()
        if node is None or node.op_type not in UNARY_OPS:
            return False
        if not all(v is None or walk(v) for v in node.inputs):
            return False
        nodes.append(node)
        return True

    return (next(iter(sources.values())), nodes) if walk(value) and sources else None


def evaluate(
    low: Lowering, source: ir.Value, nodes: list[ir.Node], result: ir.Value, x: Array
) -> Array:
    """Return result's values for source = x, by ONNX's reference implementation in float32."""
    from onnx.reference import ReferenceEvaluator

    names = {id(source): "x"}
    protos: list[Any] = []
    constants: dict[str, Array] = {}

    def name_of(value: ir.Value | None) -> str:
        if value is None:
            return ""
        if id(value) not in names:
            names[id(value)] = f"v{len(names)}"
            if (number := low.number(value)) is not None:
                constants[names[id(value)]] = np.asarray(number).reshape(())
        return names[id(value)]

    for node in nodes:
        proto = ir.to_proto(node)
        del proto.input[:], proto.output[:]
        proto.input.extend(name_of(v) for v in node.inputs)
        proto.output.extend(name_of(v) for v in node.outputs)
        protos.append(proto)
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        protos, "region", [info("x", onnx.TensorProto.FLOAT, [x.size])],
        [info(name_of(result), onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(v, n) for n, v in constants.items()],
    )  # fmt: skip
    opset = low.opsets.get("", 21)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    with np.errstate(all="ignore"):
        (y,) = ReferenceEvaluator(model).run(None, {"x": x})
    return np.broadcast_to(np.asarray(y, np.float32), x.shape)


def match_unary(low: Lowering, node: ir.Node, request: Request) -> Quantised | None:
    """Tabulate the region that ends in node."""
    found = region(low, request.value)
    if found is None:
        return None
    source, nodes = found
    held = low.known(source)
    assert isinstance(held, Quantised)
    y = evaluate(low, source, nodes, request.value, every_value(held))
    if np.isnan(y).any():
        raise RefusedError(f"{label(node)}: undefined (NaN) for values its input can take")
    limit = np.float32(3e38)
    values = np.clip(y, -limit, limit)
    return mapped(low.builder, held, values, request, [label(n) for n in nodes])

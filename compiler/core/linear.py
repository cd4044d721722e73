"""MatMul, Gemm and Conv weights seen alike: [out, in], with the bias wherever it sits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .encoding import F32
from .graph import constant, sole_consumer


@dataclass(frozen=True, slots=True, eq=False)
class LinearView:
    """A node with a constant weight that contracts the feature axis of its first input.

    `weight`: [out, in] for MatMul and Gemm, [out, in / group, kh, kw] for Conv.
    `weight_index`: which input of `node` holds it; `out_axis`: its output axis as stored.
    `bias_node`: the Add that holds the bias when the node itself has none.
    """

    node: ir.Node
    weight: F32
    weight_index: int
    out_axis: int
    bias: F32 | None
    bias_node: ir.Node | None

    @property
    def weight_name(self) -> str:
        """What plans call the weight."""
        value = self.node.inputs[self.weight_index]
        assert value is not None
        return str(value.name)

    @property
    def output(self) -> ir.Value:
        """The value after the bias."""
        return (self.bias_node or self.node).outputs[0]


def linear_view(node: ir.Node) -> LinearView | None:
    """Return the view of node, or None if it is not a linear map with a constant weight."""
    if node.op_type not in ("MatMul", "Gemm", "Conv") or node.domain not in ("", "ai.onnx"):
        return None
    stored = constant(node.inputs[1])
    if stored is None or (node.op_type == "MatMul" and stored.ndim != 2):
        return None
    rows = node.op_type == "Conv" or node.attributes.get_int("transB", 0) == 1
    weight = stored if rows else np.ascontiguousarray(stored.T)
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    bias_node = None
    if node.op_type == "MatMul":
        bias, bias_node = _added_bias(node, weight.shape[0])
    return LinearView(node, weight, 1, 0 if rows else 1, bias, bias_node)


def _added_bias(node: ir.Node, out: int) -> tuple[F32 | None, ir.Node | None]:
    add = sole_consumer(node.outputs[0])
    if add is None or add.op_type != "Add":
        return None, None
    other = add.inputs[1] if add.inputs[0] is node.outputs[0] else add.inputs[0]
    bias = constant(other)
    if bias is None or bias.size not in (1, out) or (bias.size > 1 and bias.shape[-1] != out):
        return None, None
    return np.broadcast_to(bias.reshape(-1), (out,)).copy(), add

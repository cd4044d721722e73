"""How many multiply-accumulates an ONNX graph needs."""

from __future__ import annotations

import math
from collections import Counter

import onnx_ir as ir

from .graph import static_shape


def macs_by_operator(model: ir.Model) -> dict[str, int]:
    """Return the multiply-accumulates of all Conv, ConvTranspose, Gemm and MatMul, by operator."""
    found: Counter[str] = Counter()
    for node in model.graph:
        if (count := _macs(node)) > 0:
            found[node.op_type] += count
    return dict(found.most_common())


def _macs(node: ir.Node) -> int:
    """Return the multiply-accumulates of one node; 0 for other operators and open shapes."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    first, second, out = (static_shape(v) for v in (*node.inputs[:2], node.outputs[0]))
    if not first or not second or out is None:
        return 0
    if node.op_type == "Conv":
        return math.prod(out) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(first) * math.prod(second[1:])
    turned = node.op_type == "Gemm" and node.attributes.get_int("transA", 0)
    return math.prod(out) * (first[0] if turned else first[-1])

"""A movement operator on a float result: the request passes through it."""

from __future__ import annotations

import onnx_ir as ir

from ..lower import Lowering, Request
from ..values import Quantised


def match_moved(low: Lowering, node: ir.Node, request: Request) -> Quantised | None:
    """Ask for the input in the same encoding and clamp, then re-view it."""
    source = node.inputs[0]
    assert source is not None
    held = low.request(Request(source, request.encoding, request.low, request.high))
    index = list(node.outputs).index(request.value)
    return Quantised(low.movers[node.op_type](low, node, held.view, index), held.encoding)

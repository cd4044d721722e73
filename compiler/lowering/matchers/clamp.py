"""Relu and Clip on a float result: they narrow the clamp of whoever computes it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...core.encoding import TensorEncoding
from ..lower import Lowering, Request
from ..values import Codes, Quantised


def clamp_codes(low: Lowering, node: ir.Node, encoding: TensorEncoding) -> tuple[int, int] | None:
    """Return the codes that Relu or Clip clamps to, or None if its bounds are not constants."""
    bounds: list[float | None] = [0.0, None]
    if node.op_type == "Clip":
        given = [*node.inputs[1:], None, None][:2]
        bounds = [low.scalar(v) for v in given]
        if any(v is not None and b is None for v, b in zip(given, bounds, strict=True)):
            return None
    codes = [
        limit if bound is None else int(encoding.quantise(np.float32(bound)))
        for bound, limit in zip(bounds, encoding.limits, strict=True)
    ]
    return codes[0], codes[1]


def match_clamp(low: Lowering, node: ir.Node, request: Request) -> Quantised | None:
    """Clamping commutes with rounding, so clamp codes instead of values."""
    source = node.inputs[0]
    assert source is not None
    if isinstance(low.known(source), Quantised | Codes):
        return None  # already in memory: a table
    codes = clamp_codes(low, node, request.encoding)
    if codes is None:
        return None
    narrowed = max(request.low, codes[0]), min(request.high, codes[1])
    return low.request(Request(source, request.encoding, *narrowed))

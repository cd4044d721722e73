"""Give int4 weights in blocks scales that are whole multiples of one per channel.

Integer kernels sum blocks times whole multipliers (core/encoding.py, Blocks); quantisers elsewhere
choose any float. The nearest multiples up to 255 are taken, and the report says how far they are.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..core.encoding import bilevel, channel_axis, whole_multiples
from ..core.graph import label, set_constant, tensor_of
from ..core.passbase import Note, Outcome


def round_block_scales(model: ir.Model) -> Outcome:
    """Change scales of blocked DequantizeLinear over 4-bit constants in place; say by how much."""
    changed = [
        Note(label(node), text) for node in model.graph if (text := _rounded(node)) is not None
    ]
    return Outcome(changed)


def _rounded(node: ir.Node) -> str | None:
    """Round the scales of one node; None if there is nothing to do."""
    size = node.attributes.get_int("block_size", 0) if node.op_type == "DequantizeLinear" else 0
    codes = node.inputs[0] if node.inputs else None
    if size < 2 or codes is None or codes.dtype not in (ir.DataType.INT4, ir.DataType.UINT4):
        return None
    scale = tensor_of(node.inputs[1])
    if scale is None or scale.dtype != np.float32 or scale.ndim < 2 or not (scale > 0).all():
        return None
    axis = channel_axis(node.attributes.get_int("axis", 1) % scale.ndim, scale.ndim)
    rows = np.moveaxis(scale, axis, 0)
    flat = rows.reshape(len(rows), -1)
    if whole_multiples(flat) is not None:
        return None
    base, multiplier = bilevel(flat)
    new = base[:, None] * multiplier.astype(np.float32)
    moved = float(np.abs(new / flat - 1).max())
    stored = np.moveaxis(new.reshape(rows.shape), 0, axis)
    set_constant(node, 1, np.ascontiguousarray(stored))
    return f"scales of blocks moved by at most {moved:.2%}, to whole multiples of one per channel"

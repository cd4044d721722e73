"""float16 models computed in float32: what was stored in half precision is widened exactly."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..core.passbase import Note

_HALF, _WHOLE = ir.DataType.FLOAT16, ir.DataType.FLOAT


def widen_halves(model: ir.Model) -> list[Note]:
    """Make every float16 tensor of model float32, weights, inputs and outputs included."""
    graph = model.graph
    notes: list[Note] = []
    stored = [v for v in graph.initializers.values() if v.dtype == _HALF]
    computed = [v for v in (*graph.inputs, *(o for n in graph for o in n.outputs))
                if v.dtype == _HALF]  # fmt: skip
    if not computed:  # weights alone: their Casts to float32 fold away
        return notes
    for value in stored:
        assert value.const_value is not None
        data = value.const_value.numpy().astype(np.float32)
        value.const_value = ir.tensor(data, name=value.name)
        value.type = ir.TensorType(_WHOLE)
    for value in computed:
        value.type = ir.TensorType(_WHOLE)
    for node in graph:
        for attribute in list(node.attributes.values()):
            if attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype == _HALF:
                data = attribute.value.numpy().astype(np.float32)
                node.attributes[attribute.name] = ir.AttrTensor(attribute.name, ir.tensor(data))
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == int(_HALF):
            node.attributes["to"] = ir.AttrInt64("to", int(_WHOLE))
    ports = [str(v.name) for v in (*graph.inputs, *graph.outputs) if v in computed]
    text = f"float16 widened to float32: {len(stored)} weights, {len(computed)} activations"
    return [Note("float16", text), *(Note(n, "takes float32 in place of float16") for n in ports)]

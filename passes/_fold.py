"""Evaluate one node on constants, and infer the shapes of one node."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from ..compiler.core.graph import tensor_of
from ._edit import static_shape

# Shape inference sees the content of constants up to this size: shapes, axes, pads, repeats.
SMALL = 64


def evaluate(node: ir.Node, opsets: dict[str, int]) -> list[NDArray[Any]] | str:
    """Return the outputs of a node whose inputs are all constant, or why they are not known."""
    inputs = {str(v.name): tensor_of(v) for v in node.inputs if v is not None}
    outputs = [str(v.name) for v in node.outputs]
    imports = [onnx.helper.make_opsetid(d, version) for d, version in opsets.items()]
    proto = ir.to_proto(node)
    function = onnx.helper.make_function("edgec", "one", list(inputs), outputs, [proto], imports)
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(function).run(None, inputs, attributes={})
    except Exception as error:  # the evaluator raises whatever its kernels raise
        return f"it could not be evaluated: {type(error).__name__}: {error}"
    arrays = [np.asarray(r) for r in results if r is not None]
    return arrays if len(arrays) == len(outputs) else "its outputs are not tensors"


def infer_shapes(node: ir.Node, opsets: dict[str, int]) -> bool:
    """Give outputs of node that lack a static shape or a type one; return whether that helped."""
    unknown = [v for v in node.outputs if static_shape(v) is None or v.type is None]
    domain = "" if node.domain == "ai.onnx" else node.domain
    if not unknown or not onnx.defs.has(node.op_type, domain):
        return False
    found = _inferred(node, opsets, domain)
    helped = False
    for value in unknown:
        proto = found.get(str(value.name))
        shape = None if proto is None else ir.serde.deserialize_type_proto_for_shape(proto)
        if proto is None or shape is None or not all(isinstance(d, int) for d in shape):
            continue
        value.shape = shape
        value.type = ir.serde.deserialize_type_proto_for_type(proto)
        helped = True
    return helped


def _inferred(node: ir.Node, opsets: dict[str, int], domain: str) -> dict[str, onnx.TypeProto]:
    known = [v for v in node.inputs if v is not None]
    if any(v.type is None or v.shape is None for v in known):
        return {}
    try:
        return onnx.shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.op_type, opsets.get(domain, 1), domain),
            ir.to_proto(node),
            {str(v.name): _type_proto(v) for v in known},
            _small_constants(known),
        )
    except (onnx.shape_inference.InferenceError, onnx.defs.SchemaError) as error:
        logging.getLogger(__name__).debug("no shapes for %s: %s", node.name, error)
        return {}


def _small_constants(values: Sequence[ir.Value]) -> dict[str, onnx.TensorProto]:
    contents = {str(v.name): tensor_of(v) for v in values}
    return {
        name: onnx.numpy_helper.from_array(data, name)
        for name, data in contents.items()
        if data is not None and data.size <= SMALL
    }


def _type_proto(value: ir.Value) -> onnx.TypeProto:
    assert value.type is not None and value.shape is not None
    proto = ir.serde.serialize_type(value.type)
    ir.serde.serialize_shape_into(proto, value.shape)
    return proto

"""Operators that ONNX defines as functions, written out as the operators of their body."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnx.inliner

from ..core.kronecker import EDGEC_DOMAIN, KRONECKER, kronecker_function
from .program import Array

DOMAIN = "edgec.body"


def forms(model: bytes) -> Iterator[bytes]:
    """Yield what may be converted in the place of a one-node model, the best first."""
    proto = onnx.load_from_string(model)
    (node,) = proto.graph.node
    if not any(c(proto) for op_types, c in MISREAD if node.op_type in op_types):
        yield model
    yield from with_bodies(model)


Question = Callable[[onnx.ModelProto], bool]


def _always(proto: onnx.ModelProto) -> bool:
    return True


def _has_outputs(proto: onnx.ModelProto) -> bool:
    return len(proto.graph.output) > 1


def _on_floats(proto: onnx.ModelProto) -> bool:
    return any(
        v.type.tensor_type.elem_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
        for v in proto.graph.input
    )


def _has(name: str, *values: Any) -> Question:
    """Return the question whether the node has an attribute, with one of some values if any."""

    def asks(proto: onnx.ModelProto) -> bool:
        attributes = proto.graph.node[0].attribute
        found = [onnx.helper.get_attribute_value(a) for a in attributes if a.name == name]
        return bool(found) and (not values or found[0] in values)

    return asks


# Operators, with a condition, that TVM's converters answer wrongly, as ONNX's node tests showed.
MISREAD: tuple[tuple[tuple[str, ...], Question], ...] = (
    (("LayerNormalization",), _has_outputs),
    (("BatchNormalization",), _has("training_mode", 1)),
    (("ConvTranspose",), _has("output_shape")),
    (("Resize",), _has("mode", b"linear", b"cubic")),
    (("RoiAlign",), _has("mode", b"max")),
    (("SpaceToDepth",), _has("mode", b"CRD")),
    (("IsInf",), _has("detect_positive", 0)),
    (("IsInf",), _has("detect_negative", 0)),
    (("Mod",), _on_floats),
    (("BitShift", "Dropout"), _always),
)


def constant_results(model: bytes) -> list[Array] | None:
    """Return the outputs of a one-node model if they follow from constants and shapes alone."""
    proto = onnx.load_from_string(model)
    (node,) = proto.graph.node
    known = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    shapes = {v.name: _shape(v) for v in proto.graph.input}
    results = _results(node, known, shapes, list(proto.opset_import))
    return None if results is None else list(results.values())


def with_bodies(model: bytes) -> Iterator[bytes]:
    """Yield a one-node model with its node replaced by the operators of its function body.

    Nothing for an operator that ONNX defines only in words.
    """
    proto = onnx.load_from_string(model)
    (node,) = proto.graph.node
    opsets = {o.domain: o.version for o in proto.opset_import}
    domain = "" if node.domain == "ai.onnx" else node.domain
    if (domain, node.op_type) == (EDGEC_DOMAIN, KRONECKER):
        body = kronecker_function(opsets.get("", 1))
        yield _inlined(proto, node, body).SerializeToString(deterministic=True)
    if not onnx.defs.has(node.op_type, domain):
        return
    schema = onnx.defs.get_schema(node.op_type, opsets.get(domain, 1), domain)
    given = {a.name for a in node.attribute}
    for name, attribute in schema.attributes.items():
        if name not in given and attribute.default_value.type:
            node.attribute.append(attribute.default_value)
    for body in _bodies(schema, proto, node, opsets.get("", 1)):
        yield _inlined(proto, node, body).SerializeToString(deterministic=True)


def _bodies(
    schema: Any, proto: onnx.ModelProto, node: onnx.NodeProto, opset: int
) -> Iterator[onnx.FunctionProto]:
    """Yield the body that fits the opset best."""
    if schema.has_context_dependent_function:
        known = {v.name: v.type for v in proto.graph.input}
        for tensor in proto.graph.initializer:
            known[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        types = [known.get(name, onnx.TypeProto()).SerializeToString() for name in node.input]
        versions = [
            v for v in schema.context_dependent_function_opset_versions if v <= opset
        ] or list(schema.context_dependent_function_opset_versions)
        text = schema.get_context_dependent_function_with_opset_version(
            versions[-1], node.SerializeToString(), types
        )
        body = onnx.FunctionProto()
        body.ParseFromString(text)
        yield body
    elif schema.has_function:
        versions = [v for v in schema.function_opset_versions if v <= opset]
        if versions:
            body = onnx.FunctionProto()
            body.ParseFromString(schema.get_function_with_opset_version(versions[-1]))
            yield body


def _inlined(
    proto: onnx.ModelProto, node: onnx.NodeProto, body: onnx.FunctionProto
) -> onnx.ModelProto:
    """Return proto with body in the place of its node, all of it plain operators."""
    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    function = onnx.FunctionProto()
    function.CopyFrom(body)
    function.domain, function.name = DOMAIN, node.op_type
    whole.graph.node[0].domain = DOMAIN
    whole.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    whole.functions.append(function)
    held = {v.name for v in whole.graph.input}
    for tensor in whole.graph.initializer:  # the inliner knows types of inputs only
        info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        whole.graph.input.append(info)
    flat = onnx.inliner.inline_local_functions(whole, True)
    inputs = [v for v in flat.graph.input if v.name in held]
    del flat.graph.input[:]
    flat.graph.input.extend(inputs)
    kept = [o for o in flat.opset_import if o.domain != DOMAIN]
    del flat.opset_import[:]
    flat.opset_import.extend(kept)
    return _folded(flat)


def _folded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return proto with all computed that depends on nothing, or only on the shapes of inputs."""
    try:
        proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return proto  # the converter will say what is wrong with it
    shapes = {v.name: _shape(v) for v in (*proto.graph.input, *proto.graph.value_info)}
    known = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    opsets, kept = list(proto.opset_import), list[onnx.NodeProto]()
    public = {v.name for v in proto.graph.output}
    for node in proto.graph.node:
        results = None if public & set(node.output) else _results(node, known, shapes, opsets)
        if results is None:
            kept.append(node)
        else:
            known |= results
    read = {name for node in kept for name in node.input} | public
    del proto.graph.node[:], proto.graph.initializer[:], proto.graph.value_info[:]
    proto.graph.node.extend(kept)
    tensors = [onnx.numpy_helper.from_array(v, k) for k, v in known.items() if k in read]
    proto.graph.initializer.extend(tensors)
    return proto


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    dims = value.type.tensor_type.shape.dim
    if not value.type.tensor_type.HasField("shape"):
        return None
    static = all(d.HasField("dim_value") for d in dims)
    return tuple(d.dim_value for d in dims) if static else None


def _results(
    node: onnx.NodeProto, known: dict[str, Array], shapes: dict[str, tuple[int, ...] | None],
    opsets: list[onnx.OperatorSetIdProto],
) -> dict[str, Array] | None:  # fmt: skip
    """Return the outputs of a node that follow from constants and static shapes, else None."""
    from onnx.reference import ReferenceEvaluator

    feeds = {name: known[name] for name in node.input if name in known}
    if node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial"):
        return None
    if (
        node.op_type in ("Shape", "Size", "EyeLike")
        and (shape := shapes.get(node.input[0])) is not None
    ):
        feeds[node.input[0]] = np.broadcast_to(np.float32(0), shape)
    if any(name and name not in feeds for name in node.input):
        return None
    if any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute):
        return None
    function = onnx.helper.make_function(
        DOMAIN, "one", list(feeds), list(node.output), [node], opsets
    )
    answers = ReferenceEvaluator(function).run(None, feeds, attributes={})
    return {n: np.asarray(a) for n, a in zip(node.output, answers, strict=True) if n}

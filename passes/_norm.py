"""Find LayerNormalization and RMSNormalization written out in elementary operators."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..compiler.core.encoding import F32
from ..compiler.core.graph import add_constant, constant, sole_consumer, take_over, tensor_of
from ._edit import (
    graph_of,
    insert_before,
    is_float32,
    is_op,
    nodes,
    remove_dead,
    scalar,
    split_operands,
    static_shape,
)

# The first opset with RMSNormalization. Opsets 22 and 23 only add types, attributes with neutral
# defaults and operators, so a model of opset 21 means the same there. ONNX Runtime's older
# SimplifiedLayerNormalization is no alternative: onnx.checker rejects it in the standard domain
# and ONNX Runtime does not know it in com.microsoft.
RMS_OPSET = 23


def rms_problem(model: ir.Model) -> str | None:
    """Return why the opset of model may not be raised to RMSNormalization's, or None."""
    opset = model.opset_imports.get("", 1)
    if opset >= 21:
        return None
    return f"opset {opset} cannot be raised to {RMS_OPSET} safely: upgrade to 21 first"


@dataclass(frozen=True, slots=True, eq=False)
class NormMatch:
    """x normalised over its last axis: `last` computes gamma * normalised + beta.

    `centred`: the mean is subtracted first (LayerNormalization), else RMSNormalization.
    `gamma`, `beta`: [channels]; gamma is ones and beta None where the graph has neither.
    """

    source: ir.Value
    centred: bool
    epsilon: float
    gamma: F32
    beta: F32 | None
    last: ir.Node


def match_norm(root: ir.Node) -> NormMatch | tuple[bool, str] | None:
    """Match the Sqrt, or Pow by 0.5 or -0.5, in the middle of a normalisation.

    Returns (centred, reason) for a near miss and None for anything else.
    """
    inverse = _is_root(root)
    statistics = _mean_of_squares(root.inputs[0]) if inverse is not None else None
    if inverse is None or statistics is None:
        return None
    mean, epsilon = statistics
    deviation = _squared(mean.inputs[0])
    if deviation is None:
        return None
    centring = _centring(deviation)
    centred = centring is not None
    source = centring.inputs[0] if centring is not None else deviation
    assert source is not None
    if not all(_over_last_axis(m, source) for m in (mean, centring) if m is not None):
        return centred, "it does not normalise over the last axis alone"
    divided = _divided_by(root, inverse)
    if divided is None:
        return centred, "its standard deviation has other uses than one division"
    numerator, last = divided
    if numerator is not deviation and not (centred and _same_centring(numerator, source)):
        return centred, "the value divided is not the value measured"
    shape = static_shape(source)
    if shape is None or not is_float32(source):
        return centred, "its input is not float32 of static shape"
    gamma, beta, last = _affine(last, shape[-1], centred)
    if mean.op_type == "ReduceSum":  # x / |x| is x over its root mean square, over sqrt(n)
        epsilon, gamma = epsilon / shape[-1], gamma / np.float32(math.sqrt(shape[-1]))
    return NormMatch(source, centred, epsilon, gamma, beta, last)


def _is_root(node: ir.Node) -> bool | None:
    """Return whether node is an inverse square root; None if it is no square root at all."""
    if is_op(node, "Sqrt"):
        return False
    exponent = scalar(node.inputs[1]) if is_op(node, "Pow") else None
    return exponent == -0.5 if exponent in (0.5, -0.5) else None


def _mean_of_squares(variance: ir.Value | None) -> tuple[ir.Node, float] | None:
    """Return (ReduceMean or ReduceSum node, epsilon) of mean or mean + epsilon."""
    node = variance.producer() if variance is not None else None
    epsilon = 0.0
    if node is not None and is_op(node, "Add"):
        operands = split_operands(node)
        if operands is None or operands[1].size != 1:
            return None
        epsilon = float(operands[1].reshape(-1)[0])
        node = operands[0].producer()
    found = node is not None and is_op(node, "ReduceMean", "ReduceSum")
    return (node, epsilon) if node is not None and found else None


def _squared(value: ir.Value | None) -> ir.Value | None:
    """Return d if value is d * d or d ** 2."""
    node = value.producer() if value is not None else None
    if node is None:
        return None
    if is_op(node, "Mul") and node.inputs[0] is node.inputs[1]:
        return node.inputs[0]
    return node.inputs[0] if is_op(node, "Pow") and scalar(node.inputs[1]) == 2.0 else None


def _centring(value: ir.Value) -> ir.Node | None:
    """Return the ReduceMean node of x if value is x - mean(x), else None."""
    node = value.producer()
    if node is None or not is_op(node, "Sub") or node.inputs[0] is None or node.inputs[1] is None:
        return None
    mean = node.inputs[1].producer()
    if mean is None or not is_op(mean, "ReduceMean") or mean.inputs[0] is not node.inputs[0]:
        return None
    return mean


def _same_centring(value: ir.Value, source: ir.Value) -> bool:
    mean = _centring(value)
    return mean is not None and mean.inputs[0] is source and _over_last_axis(mean, source)


def _over_last_axis(mean: ir.Node, x: ir.Value) -> bool:
    axes = tensor_of(mean.inputs[1]) if len(mean.inputs) > 1 else None
    shape = static_shape(x)
    if axes is None or shape is None or not mean.attributes.get_int("keepdims", 1):
        return False
    return [int(axis) % len(shape) for axis in axes.reshape(-1)] == [len(shape) - 1]


def _divided_by(root: ir.Node, inverse: bool) -> tuple[ir.Value, ir.Node] | None:
    """Return (numerator, node) where node divides the numerator by the standard deviation."""
    out = root.outputs[0]
    reader = sole_consumer(out)
    if reader is None:
        return None
    if not inverse and is_op(reader, "Div") and reader.inputs[1] is out:
        numerator = reader.inputs[0]
        if numerator is not None and scalar(numerator) is None:
            return numerator, reader
        inverse = numerator is not None and scalar(numerator) == 1.0
    elif not inverse and is_op(reader, "Reciprocal"):
        inverse = True
    else:
        return _factor(reader, out) if inverse else None
    product = sole_consumer(reader.outputs[0])
    return _factor(product, reader.outputs[0]) if inverse and product is not None else None


def _factor(product: ir.Node, known: ir.Value) -> tuple[ir.Value, ir.Node] | None:
    """Return (x, product) if product is x * known."""
    if not is_op(product, "Mul"):
        return None
    x = product.inputs[1] if product.inputs[0] is known else product.inputs[0]
    return None if x is None or constant(x) is not None else (x, product)


def _affine(last: ir.Node, channels: int, centred: bool) -> tuple[F32, F32 | None, ir.Node]:
    """Take in the Mul by gamma and, after LayerNormalization, the Add of beta behind it."""
    gamma, scaled = _vector_after(last, "Mul", channels)
    if gamma is None:
        gamma = np.ones(channels, np.float32)
    beta, shifted = _vector_after(scaled, "Add", channels) if centred else (None, scaled)
    return gamma, beta, shifted


def _vector_after(node: ir.Node, op_type: str, channels: int) -> tuple[F32 | None, ir.Node]:
    """Return (constant [channels], reader) if an op_type by a vector alone reads node."""
    reader = sole_consumer(node.outputs[0])
    operands = split_operands(reader) if reader is not None and is_op(reader, op_type) else None
    if reader is None or operands is None:
        return None, node
    data = operands[1]
    same = static_shape(reader.outputs[0]) == static_shape(node.outputs[0])
    if not same or data.size not in (1, channels) or (data.ndim and data.shape[-1] != data.size):
        return None, node
    return np.broadcast_to(data.reshape(-1), (channels,)).copy(), reader


def norm_sites(model: ir.Model, centred: bool) -> Iterator[tuple[ir.Node, NormMatch | str]]:
    """Yield (root, match or reason) for every written-out normalisation of the wanted kind.

    Each is matched when it is asked for, so the one before it may have been rewritten by then.
    """
    for node in nodes(model, "Sqrt", "Pow"):
        match = match_norm(node) if node.graph is not None else None
        if isinstance(match, NormMatch) and match.centred == centred:
            yield node, match
        elif isinstance(match, tuple) and match[0] == centred:
            yield node, match[1]


def write_norm(match: NormMatch, op_type: str, tag: str) -> None:
    """Put one op_type node in the place of everything that match covers."""
    old, graph = match.last.outputs[0], graph_of(match.last)
    inputs = [match.source, add_constant(graph, f"{old.name}.{tag}.gamma", match.gamma)]
    if match.beta is not None:
        inputs.append(add_constant(graph, f"{old.name}.{tag}.beta", match.beta))
    attributes = {"axis": -1, "epsilon": match.epsilon}
    new = insert_before(match.last, op_type, inputs, f"{old.name}.{tag}", old.shape, attributes)
    take_over(old, new)
    remove_dead(old)

"""Round the operands of every layer as published methods do, and nothing else.

Weights are symmetric, one scale per output channel or per block of its inputs; what layers read is
symmetric, one scale per row (token) while the model runs, or one per tensor from calibration.
Products of activations, convolutions, tables and norms stay in float.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.compiler.core.graph import add_constant, constant, set_constant
from edgec.compiler.core.linear import linear_view
from edgec.compiler.core.passbase import Feeds
from edgec.compiler.frontend.reference import evaluate

SMALLEST = 1e-12
Op = Callable[..., ir.Value]
# Returns the step that a value is rounded to multiples of, given what inserts nodes.
Step = Callable[[ir.Value, Op], ir.Value]


def per_token(model: ir.Model, weight_bits: int, activation_bits: int, block: int = 0) -> ir.Model:
    """Return a copy whose layers read rows rounded to the largest of their own magnitudes."""
    largest = _largest(activation_bits)

    def step(value: ir.Value, op: Op) -> ir.Value:
        sizes = op("Max", op("ReduceMax", op("Abs", value), np.array([-1])), np.float32(SMALLEST))
        return op("Div", sizes, np.float32(largest))

    return _layers_rounded(model, weight_bits, activation_bits, block, step)


def per_tensor(
    model: ir.Model, samples: Sequence[Feeds], weight_bits: int, activation_bits: int
) -> ir.Model:
    """Return a copy whose layers read tensors rounded to the largest magnitude on samples."""
    reach: dict[str, float] = {}
    names = [str(v.name) for v in _read_by_layers(model)]
    for values in evaluate(model, samples, names):
        for name, held in values.items():
            reach[name] = max(reach.get(name, SMALLEST), float(np.abs(held).max()))

    def step(value: ir.Value, op: Op) -> ir.Value:
        return op("Identity", np.float32(reach[str(value.name)] / _largest(activation_bits)))

    return _layers_rounded(model, weight_bits, activation_bits, 0, step)


def _largest(bits: int) -> int:
    return (1 << (bits - 1)) - 1


def _read_by_layers(model: ir.Model) -> Mapping[ir.Value, list[ir.Node]]:
    """Return what MatMul and Gemm with constant weights read, and which of them."""
    found: dict[ir.Value, list[ir.Node]] = {}
    for node in model.graph:
        value = node.inputs[0] if node.inputs else None
        if value is None or node.op_type == "Conv" or linear_view(node) is None:
            continue
        if constant(value) is None:
            found.setdefault(value, []).append(node)
    return found


def _layers_rounded(
    model: ir.Model, weight_bits: int, activation_bits: int, block: int, step: Step
) -> ir.Model:
    copy = model.clone()
    for value, layers in _read_by_layers(copy).items():
        rounded = _inserted(copy.graph, layers[0], value, _largest(activation_bits), step)
        for node in layers:
            view = linear_view(node)
            assert view is not None
            weight = _rounded(view.weight, weight_bits, block)
            stored = weight if view.out_axis == 0 else np.ascontiguousarray(weight.T)
            set_constant(node, view.weight_index, stored)
            node.replace_input_with(0, rounded)
    return copy


def _rounded(weight: NDArray[np.float32], bits: int, block: int) -> NDArray[np.float32]:
    """Return weights [out, in] as multiples of a scale per row, or per `block` inputs of one."""
    out, size = weight.shape
    groups = weight.reshape(out, -1, block if block and size % block == 0 else size)
    scale = np.maximum(np.abs(groups).max(axis=2, keepdims=True) / _largest(bits), SMALLEST)
    return (np.rint(groups / scale) * scale).reshape(out, size).astype(np.float32)


def _inserted(
    graph: ir.Graph, anchor: ir.Node, value: ir.Value, largest: int, step: Step
) -> ir.Value:
    """Insert before anchor what rounds value to multiples of its step, up to the largest."""
    numbers = itertools.count()

    def op(op_type: str, *inputs: Any) -> ir.Value:
        given = [
            v if isinstance(v, ir.Value)
            else add_constant(graph, f"{value.name}.rounding.constant", np.array(v))
            for v in inputs
        ]  # fmt: skip
        node = ir.node(op_type, given)
        name = f"{value.name}.rounding.{next(numbers)}"
        node.outputs[0].name, node.outputs[0].type = name, value.type
        graph.insert_before(anchor, node)
        return node.outputs[0]

    unit = step(value, op)
    codes = op("Round", op("Div", value, unit))
    return op("Mul", op("Clip", codes, np.float32(-largest), np.float32(largest)), unit)

"""Rescale the outputs or inputs of a linear layer inside its weights, in float64, cast once."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..compiler.core.encoding import F32, F64
from ..compiler.core.graph import (
    add_constant,
    constant,
    fresh_name,
    set_constant,
    take_over,
)
from ..compiler.core.linear import LinearView, linear_view
from ._edit import graph_of, is_float32, static_shape


def editable(node: ir.Node) -> LinearView | str:
    """Return the view of a Conv, Gemm or MatMul whose weights may be edited, or why not."""
    view = linear_view(node)
    if view is None:
        return "its weight is not a constant matrix"
    if not is_float32(node.inputs[1]):
        return "its weight is not float32"
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias, out = constant(node.inputs[2]), view.weight.shape[0]
        if bias is None:
            return "its bias is not constant"
        if bias.size != 1 and (bias.size != out or bias.shape[-1] != out):
            return "its bias is not one number per output"
    return view


def channel_axis(view: LinearView) -> int | None:
    """Return the axis of the output that the weight produces, or None if the rank is unknown."""
    if view.node.op_type == "Conv":
        return 1
    shape = static_shape(view.node.outputs[0])
    return None if shape is None else len(shape) - 1


def gemm_factors(node: ir.Node) -> tuple[float, float]:
    """Return (alpha, beta) of a Gemm; (1, 1) for other nodes."""
    return node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)


def rescale(view: LinearView, scale: F64 | F32 | float, shift: F64 | F32 | float) -> str | None:
    """Make the layer compute scale * y + shift, both [out] or scalar; or say why not.

    Gemm's alpha and beta are folded on the way.
    """
    out = view.weight.shape[0]
    alpha, beta = gemm_factors(view.node)
    factor = np.broadcast_to(np.asarray(scale, np.float64), (out,))
    column = factor.reshape(-1, *[1] * (view.weight.ndim - 1))
    weight = view.weight.astype(np.float64) * alpha * column
    old = np.zeros(1) if view.bias is None else view.bias.astype(np.float64).reshape(-1) * beta
    bias = np.broadcast_to(old * factor + shift, (out,))
    return _write(view, weight, bias)


def absorb_input(view: LinearView, scale: F64 | F32, shift: F64 | F32) -> str | None:
    """Make the layer compute its function of scale * x + shift, both [in]; or say why not.

    For a Conv, a shift is exact only without padding, which the caller checks.
    """
    weight = view.weight.astype(np.float64)
    groups = view.node.attributes.get_int("group", 1) if view.node.op_type == "Conv" else 1
    alpha, beta = gemm_factors(view.node)
    # [group, out / group, in / group, taps]: input channel g * (in / group) + i.
    grouped = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1) * alpha
    scaled = grouped * np.reshape(scale, (groups, 1, -1, 1))
    moved = (grouped * np.reshape(shift, (groups, 1, -1, 1))).sum(axis=(2, 3)).reshape(-1)
    old = np.zeros(1) if view.bias is None else view.bias.astype(np.float64).reshape(-1) * beta
    return _write(view, scaled.reshape(weight.shape), old + moved)


def _write(view: LinearView, weight: F64, bias: F64) -> str | None:
    """Store weight [out, in, ...] and bias [out], resetting Gemm's factors."""
    with np.errstate(over="ignore"):
        new_weight, new_bias = weight.astype(np.float32), bias.astype(np.float32)
    if not (np.all(np.isfinite(new_weight)) and np.all(np.isfinite(new_bias))):
        return "a weight would not be finite"
    node = view.node
    stored = new_weight if view.out_axis == 0 else np.ascontiguousarray(new_weight.T)
    set_constant(node, view.weight_index, stored)
    for factor in ("alpha", "beta"):
        node.attributes.pop(factor, None)
    if view.bias is None and not new_bias.any():
        return None
    if node.op_type != "MatMul":
        node.resize_inputs(3)
        set_constant(node, 2, new_bias)
    elif view.bias_node is None:
        _append_bias(node, new_bias)
    else:
        _replace_bias(view.bias_node, node.outputs[0], new_bias)
    return None


def _replace_bias(add: ir.Node, product: ir.Value, bias: F32) -> None:
    index = 1 if add.inputs[0] is product else 0
    old = constant(add.inputs[index])
    assert old is not None
    set_constant(add, index, bias.reshape(*old.shape[:-1], bias.size))


def _append_bias(matmul: ir.Node, bias: F32) -> None:
    graph, product = graph_of(matmul), matmul.outputs[0]
    name = fresh_name(graph, f"{product.name}.biased")
    out = ir.Value(name=name, type=product.type, shape=product.shape)
    data = add_constant(graph, f"{product.name}.bias", bias)
    add = ir.node("Add", [product, data], outputs=[out], name=name)
    graph.insert_after(matmul, add)
    take_over(product, out)
    add.replace_input_with(0, product)

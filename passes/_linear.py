"""Rescale the outputs or inputs of a linear layer inside its weights, in float64, cast once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..compiler.core.encoding import F32, F64
from ..compiler.core.graph import (
    add_constant,
    constant,
    fresh_name,
    set_constant,
    take_over,
    tensor_of,
)
from ..compiler.core.linear import LinearView, linear_view
from ._edit import graph_of, static_shape

NOT_FINITE = "a weight would not be finite"
# An accumulator must hold the bias: |bias| / (s_input * s_weight) stays below this.
BIAS_LIMIT = float(1 << 29)
# Proofs to the last digit run the same code on models in float64.
REAL = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


def editable(node: ir.Node) -> LinearView | str:
    """Return the view of a Conv, Gemm or MatMul whose weights may be edited, or why not."""
    view = linear_view(node)
    if view is None:
        return "its weight is not a constant matrix"
    if node.inputs[1] is None or node.inputs[1].dtype not in REAL:
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


def room_for_bias(view: LinearView, magnitude: F64, input_scale: float, largest: int) -> F64:
    """Return [out] the largest weights, raised where the bias would leave the accumulator.

    `largest`: the code that stands for them.
    """
    if view.bias is None:
        return magnitude
    return np.maximum(magnitude, np.abs(view.bias) / (input_scale * BIAS_LIMIT) * largest)


@dataclass(slots=True, eq=False)
class Draft:
    """A layer being rewritten in float64, cast once when it is written.

    `weight`: [out, in / group, ...] with Gemm's alpha folded in; `bias`: [out].
    """

    view: LinearView
    weight: F64
    bias: F64

    @property
    def _groups(self) -> int:
        node = self.view.node
        return node.attributes.get_int("group", 1) if node.op_type == "Conv" else 1

    def by_input(self) -> F64:
        """Return a view of the weight: [group, out / group, in / group, taps]."""
        out, each = self.weight.shape[:2]
        return self.weight.reshape(self._groups, out // self._groups, each, -1)

    def rescale(self, scale: F64 | F32 | float, shift: F64 | F32 | float) -> None:
        """Compute scale * y + shift instead of y, both [out] or scalar."""
        factor = np.broadcast_to(np.asarray(scale, np.float64), self.bias.shape)
        self.weight = self.weight * factor.reshape(-1, *[1] * (self.weight.ndim - 1))
        self.bias = self.bias * factor + shift

    def absorb(self, scale: F64 | F32, shift: F64 | F32) -> None:
        """Compute the layer's function of scale * x + shift, both [in].

        For a Conv, a shift is exact only without padding, which the caller checks.
        """
        grouped = self.by_input()
        column = (self._groups, 1, -1, 1)
        moved = (grouped * np.reshape(shift, column)).sum(axis=(2, 3)).reshape(-1)
        self.weight = (grouped * np.reshape(scale, column)).reshape(self.weight.shape)
        self.bias = self.bias + moved

    def mix_outputs(self, matrix: F64, blocks: NDArray[np.bool_] | None = None) -> None:
        """Compute y @ matrix on neighbouring outputs, all or the chosen blocks of matrix's size."""
        size = len(matrix)
        chosen = np.ones(self.bias.size // size, bool) if blocks is None else blocks
        weight, bias = self.weight.reshape(len(chosen), size, -1).copy(), self.bias.copy()
        weight[chosen] = matrix.T @ weight[chosen]
        bias.reshape(len(chosen), size)[chosen] = bias.reshape(len(chosen), size)[chosen] @ matrix
        self.weight, self.bias = weight.reshape(self.weight.shape), bias

    def mix_inputs(self, matrix: F64, inner: int = 1) -> None:
        """Compute the layer's function of x @ matrix.T on inputs `inner` apart, of its size.

        That undoes x @ matrix before it if matrix is orthogonal, else x @ inverse(matrix).T.
        """
        out, size = self.bias.size, len(matrix)
        taps = int(np.prod(self.weight.shape[2:])) * inner
        blocks = self.weight.reshape(out, -1, size, taps)
        mixed = blocks.reshape(-1, size) @ matrix if taps == 1 else matrix.T @ blocks
        self.weight = mixed.reshape(self.weight.shape)

    def finite(self) -> bool:
        """Return whether every number can be stored in the type of the weight."""
        old = tensor_of(self.view.node.inputs[self.view.weight_index])
        assert old is not None
        with np.errstate(over="ignore"):
            stored = self.weight.astype(old.dtype), self.bias.astype(old.dtype)
        return all(bool(np.isfinite(data).all()) for data in stored)

    def cast(self) -> Cast | None:
        """Return what is to be stored, without float64 and the old weight; None if not finite."""
        if not self.finite():
            return None
        old = tensor_of(self.view.node.inputs[self.view.weight_index])
        assert old is not None
        weight, bias = self.weight.astype(old.dtype), self.bias.astype(old.dtype)
        stored = weight if self.view.out_axis == 0 else np.ascontiguousarray(weight.T)
        return Cast(replace(self.view, weight=self.view.weight[:0].copy()), stored, bias)

    def write(self) -> str | None:
        """Store weight and bias, resetting Gemm's factors; or say why they stay."""
        if (cast := self.cast()) is None:
            return NOT_FINITE
        cast.write()
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Cast:
    """A rewritten layer as it will be stored: `weight` in the layout of the node, `bias` [out].

    The weight of `view` is empty: it would keep a copy of the old one alive.
    """

    view: LinearView
    weight: NDArray[Any]
    bias: NDArray[Any]

    def write(self) -> None:
        """Store weight and bias, resetting Gemm's factors."""
        _write(self.view, self.weight, self.bias)


def draft(view: LinearView) -> Draft:
    """Return the weight and bias of view in float64."""
    alpha, beta = gemm_factors(view.node)
    stored, out = tensor_of(view.node.inputs[view.weight_index]), view.weight.shape[0]
    assert stored is not None
    weight = stored.astype(np.float64) * alpha
    bias = np.zeros(out)
    if (place := _bias_place(view)) is not None:
        data = tensor_of(place[0].inputs[place[1]])
        assert data is not None
        bias = np.broadcast_to(data.astype(np.float64).reshape(-1) * beta, (out,)).copy()
    return Draft(view, weight if view.out_axis == 0 else np.ascontiguousarray(weight.T), bias)


def rescale(view: LinearView, scale: F64 | F32 | float, shift: F64 | F32 | float) -> str | None:
    """Make the layer compute scale * y + shift, both [out] or scalar; or say why not."""
    layer = draft(view)
    layer.rescale(scale, shift)
    return layer.write()


def absorb_input(view: LinearView, scale: F64 | F32, shift: F64 | F32) -> str | None:
    """Make the layer compute its function of scale * x + shift, both [in]; or say why not."""
    layer = draft(view)
    layer.absorb(scale, shift)
    return layer.write()


def _bias_place(view: LinearView) -> tuple[ir.Node, int] | None:
    """Return (node, input) of the constant bias, if there is one."""
    if view.bias_node is not None:
        return view.bias_node, 1 if view.bias_node.inputs[0] is view.node.outputs[0] else 0
    return None if view.bias is None else (view.node, 2)


def _write(view: LinearView, stored: NDArray[Any], new_bias: NDArray[Any]) -> None:
    node = view.node
    set_constant(node, view.weight_index, stored)
    for factor in ("alpha", "beta"):
        node.attributes.pop(factor, None)
    if view.bias is None and not new_bias.any():
        return
    if node.op_type != "MatMul":
        node.resize_inputs(3)
        set_constant(node, 2, new_bias)
    elif view.bias_node is None:
        _append_bias(node, new_bias)
    else:
        place = _bias_place(view)
        assert place is not None
        data = tensor_of(place[0].inputs[place[1]])
        assert data is not None
        set_constant(*place, new_bias.reshape(*[1] * (data.ndim - 1), -1))


def _append_bias(matmul: ir.Node, bias: NDArray[Any]) -> None:
    graph, product = graph_of(matmul), matmul.outputs[0]
    name = fresh_name(graph, f"{product.name}.biased")
    out = ir.Value(name=name, type=product.type, shape=product.shape)
    data = add_constant(graph, f"{product.name}.bias", bias)
    add = ir.node("Add", [product, data], outputs=[out], name=name)
    graph.insert_after(matmul, add)
    take_over(product, out)
    add.replace_input_with(0, product)

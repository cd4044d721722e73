"""Fold Mul, Div, Add and Sub by constants that follow a linear layer into its weights and bias."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..compiler.core.encoding import F32, F64
from ..compiler.core.graph import label, model_from_text, sole_consumer
from ..compiler.core.linear import LinearView, linear_view
from ..compiler.core.passbase import Context, Effect, Example, Outcome
from ._edit import (
    RESHAPES,
    Notes,
    bypass,
    channel_vector,
    is_op,
    nodes,
    split_operands,
    static_shape,
)
from ._linear import channel_axis, editable, gemm_factors, rescale

ARITHMETIC = ("Mul", "Div", "Add", "Sub")


@dataclass(frozen=True, slots=True)
class FoldScalars:
    """Fold Gemm's alpha and beta, and per-channel arithmetic after Conv, Gemm and MatMul."""

    name: ClassVar[str] = "fold_scalars"
    effect: ClassVar[Effect] = Effect.EQUIVALENT

    def apply(self, model: ir.Model, ctx: Context) -> Outcome:
        """Fold every matching node, layer by layer in graph order."""
        notes = Notes()
        for gemm in nodes(model, "Gemm"):
            if gemm_factors(gemm) != (1.0, 1.0):
                view = editable(gemm)
                reason = view if isinstance(view, str) else rescale(view, 1.0, 0.0)
                notes.add(label(gemm), "alpha and beta folded", reason)
        for node in nodes(model, *ARITHMETIC):
            site = _site(node)
            if site is not None:
                where = label(node)
                reason = site if isinstance(site, str) else _fold(node, site)
                notes.add(where, "folded into the layer before it", reason)
        return notes.outcome()

    @staticmethod
    def examples() -> Iterable[Example]:
        """Every operator after every layer, through a Reshape; and three that must stay."""
        image = (
            "C = Conv (X, W)  Y = Add (C, c)",
            "C = Conv (X, W, B)  A = Add (c, C)  Y = Div (A, c)",
            "C = Conv (X, W)  S = Mul (C, s)  Y = Sub (S, c)",
            "C = Conv (X, W)  Y = Sub (c, C)",
        )
        rows = (
            "Y = Gemm <alpha = 0.5, beta = 2.0, transB = 1> (F, M, B)",
            "P = MatMul (F, M)  A = Add (B, P)  Y = Mul (A, B)",
            "P = MatMul (F, M)  A = Add (P, B)  Y = Add (A, B)",
            "P = MatMul (F, M)  Y = Sub (P, B)",
            "P = MatMul (F, M)  D = Div (P, B)  Y = Relu (D)",
            "P = Gemm (F, M)  A = Add (P, B)  T = Transpose <perm = [1, 0]> (A)  Y = Mul (s, T)",
            "P = MatMul (F, M)  R = Unsqueeze (P, axes)  A = Add (R, B)  Y = Squeeze (A, axes)",
        )
        for body in image:
            yield _example("float[1,4,6,6] X", "float[1,4,4,4] Y", body)
        for body in rows:
            yield _example("float[4,4] F", "float[4,4] Y", body)
        for body in (
            "P = MatMul (F, F)  Y = Mul (P, s)",
            "P = MatMul (F, M)  A = Relu (P)  B1 = Add (P, s)  Y = Add (B1, A)",
            "P = Gemm (F, M)  T = Transpose <perm = [1, 0]> (P)  Y = Mul (T, B)",
        ):
            yield _example("float[4,4] F", "float[4,4] Y", body, fires=False)


def _example(inputs: str, output: str, body: str, fires: bool = True) -> Example:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> F32:
        return rng.standard_normal(shape).astype(np.float32)

    model = model_from_text(
        f'<ir_version: 10, opset_import: ["" : 21]> m ({inputs}) => ({output}) {{ {body} }}',
        W=normal(4, 4, 3, 3), M=normal(4, 4), B=normal(4), c=normal(4, 1, 1),
        s=np.array([0.25], np.float32), axes=np.array([0], np.int64),
    )  # fmt: skip
    name = str(model.graph.inputs[0].name)
    feeds = {name: normal(1, 4, 6, 6) if name == "X" else normal(4, 4)}
    return Example(model, feeds, fires=fires)


@dataclass(frozen=True, slots=True, eq=False)
class _Affine:
    """The layer before input `index` of a node, and the scale and shift per output it applies."""

    view: LinearView
    index: int
    scale: F64
    shift: F64


def _fold(node: ir.Node, site: _Affine) -> str | None:
    return rescale(site.view, site.scale, site.shift) or bypass(node, site.index)


def _site(node: ir.Node) -> _Affine | str | None:
    """Return what to fold, why it cannot be folded, or None if no layer comes before node."""
    operands = split_operands(node)
    if operands is None:
        return None
    value, data, index = operands
    layer, path = _layer_before(value)
    view = linear_view(layer) if layer is not None else None
    if layer is None or (view is not None and view.bias_node is node):
        return None
    if view is None:
        return "the product before it is of two activations"
    if any(sole_consumer(v) is None for v in [value, *path]):
        return "the layer before it has other readers"
    shape = static_shape(value)
    if shape is None or shape != static_shape(node.outputs[0]):
        return "the constant widens the value"
    vector = _per_output(data, view, shape, path)
    if isinstance(vector, str):
        return vector
    affine = _scale_and_shift(node.op_type, vector, index)
    checked = editable(layer)
    if affine is None or isinstance(checked, str):
        return checked if isinstance(checked, str) else "it divides by the layer or by zero"
    return _Affine(checked, 1 - index, *affine)


def _layer_before(value: ir.Value) -> tuple[ir.Node | None, list[ir.Value]]:
    """Walk up through moves and a bias; return the linear node and the values on the way."""
    path: list[ir.Value] = []
    while (node := value.producer()) is not None:
        if is_op(node, "Conv", "Gemm", "MatMul"):
            return node, path
        step = node.inputs[0] if is_op(node, "Transpose", *RESHAPES) else _biased(node)
        if step is None:
            break
        path.append(step)
        value = step
    return None, path


def _biased(node: ir.Node) -> ir.Value | None:
    """Return the product that node adds a bias to, if node is the bias of a MatMul."""
    for value in node.inputs if is_op(node, "Add") else ():
        producer = value.producer() if value is not None else None
        view = linear_view(producer) if producer is not None else None
        if view is not None and view.bias_node is node:
            return value
    return None


def _per_output(
    data: F32, view: LinearView, shape: tuple[int, ...], path: list[ir.Value]
) -> F32 | str:
    """Return data as one number per output of the layer, or one for all; or why it is neither."""
    if data.size == 1:
        return data.reshape(1)
    axis = channel_axis(view)
    if axis is None:
        return "the shape of the layer before it is not static"
    if path and any(not _keeps_channels(v, view) for v in path):
        return "the channels move between the layer and the constant"
    vector = channel_vector(data, shape, axis if not path else len(shape) - 1)
    return "the constant is not one number per channel" if vector is None else vector


def _keeps_channels(value: ir.Value, view: LinearView) -> bool:
    """Return whether the reader of value leaves the layer's outputs on the last axis."""
    reader = sole_consumer(value)
    if view.node.op_type == "Conv" or reader is None or is_op(reader, "Transpose"):
        return False
    before, after = static_shape(value), static_shape(reader.outputs[0])
    return bool(before and after and before[-1] == after[-1] == view.weight.shape[0])


def _scale_and_shift(op_type: str, c: F32, index: int) -> tuple[F64, F64] | None:
    """Return (scale, shift) of x -> op(x, c), or of op(c, x) when index is 0."""
    data = c.astype(np.float64)
    one, zero = np.ones_like(data), np.zeros_like(data)
    if op_type == "Mul":
        return data, zero
    if op_type == "Add":
        return one, data
    if op_type == "Sub":
        return (-one, data) if index == 0 else (one, -data)
    return None if index == 0 or not data.all() else (1 / data, zero)

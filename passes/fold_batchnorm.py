"""Fold BatchNormalization: y = r x + t with r = gamma / sqrt(var + eps), t = beta - r mean."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..compiler.core.encoding import F32, F64
from ..compiler.core.graph import add_constant, constant, label, model_from_text, sole_consumer
from ..compiler.core.linear import LinearView, linear_view
from ..compiler.core.passbase import Context, Effect, Example, Outcome
from ._edit import Notes, bypass, graph_of, insert_before, is_op, nodes, replace, static_shape
from ._linear import absorb_input, editable, rescale


@dataclass(frozen=True, slots=True)
class FoldBatchnorm:
    """Fold inference-time BatchNormalization into the layer before or after it, else Mul + Add."""

    name: ClassVar[str] = "fold_batchnorm"
    effect: ClassVar[Effect] = Effect.EQUIVALENT

    def apply(self, model: ir.Model, ctx: Context) -> Outcome:
        """Replace every BatchNormalization with constant statistics."""
        notes = Notes()
        for bn in nodes(model, "BatchNormalization"):
            where = label(bn)
            done, reason = _fold(bn)
            notes.add(where, done, reason)
        return notes.outcome()

    @staticmethod
    def examples() -> Iterable[Example]:
        """After a Conv, before one, after a MatMul, alone; and one that is not constant."""
        for body in (
            "C = Conv <pads = [1, 1, 1, 1]> (X, W)  Y = BatchNormalization (C, g, b, m, v)",
            "C = Conv <pads = [1, 1, 1, 1]> (X, W, B) "
            "Y = BatchNormalization <epsilon = 0.01> (C, g, b, m, v)",
            "R = Relu (X)  N = BatchNormalization (R, g, b, m, v)  Y = Conv (N, W)",
            "R = Relu (X)  N = BatchNormalization (R, g, b, m, v) Y = Conv <group = 4> (N, D, B)",
            "R = Relu (X)  N = BatchNormalization (R, g, b, m, v) "
            "Y = Conv <pads = [1, 1, 1, 1]> (N, W)",
            "R = Relu (X)  Y = BatchNormalization (R, g, b, m, v)",
        ):
            size = 6 if "pads" not in body and "Conv" in body else 8
            yield _example(f"float[1,4,{size},{size}] Y", body)
        for body in (
            "P = MatMul (F, M)  Y = BatchNormalization (P, g, b, m, v)",
            "P = MatMul (F, M)  Q = Add (B, P)  Y = BatchNormalization (Q, g, b, m, v)",
            "P = Gemm <alpha = 0.5, beta = 2.0> (F, M, B)  Y = BatchNormalization (P, g, b, m, v)",
            "N = BatchNormalization (F, g, b, m, v)  Y = Gemm <transB = 1> (N, M, B)",
        ):
            yield _example("float[2,4] Y", body)
        yield _example("float[1,4,8,8] Y", "Y = BatchNormalization (X, g, b, m, V)", fires=False)


def _example(output: str, body: str, fires: bool = True) -> Example:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> F32:
        return rng.standard_normal(shape).astype(np.float32)

    inputs = {"X": "float[1,4,8,8] X", "F": "float[2,4] F", "V": "float[4] V"}
    used = [name for name in inputs if re.search(rf"\b{name}\b", body)]
    model = model_from_text(
        f'<ir_version: 10, opset_import: ["" : 21]> '
        f"m ({', '.join(inputs[name] for name in used)}) => ({output}) {{ {body} }}",
        W=normal(4, 4, 3, 3), D=normal(4, 1, 3, 3), M=normal(4, 4), B=normal(4),
        g=normal(4), b=normal(4), m=normal(4), v=normal(4) ** 2 + np.float32(0.1),
    )  # fmt: skip
    feeds = {"X": normal(1, 4, 8, 8), "F": normal(2, 4), "V": np.ones(4, np.float32)}
    return Example(model, {name: feeds[name] for name in used}, fires=fires)


def _fold(bn: ir.Node) -> tuple[str, str | None]:
    """Fold bn; return (what was done, why it was left alone)."""
    affine = _affine(bn)
    if isinstance(affine, str):
        return "", affine
    ratio, shift = affine
    before = _layer_before(bn)
    if isinstance(before, LinearView):
        reason = rescale(before, ratio, shift) or bypass(bn, 0)
        return f"folded into {label(before.node)} before it", reason
    after = _layer_after(bn, shift)
    if isinstance(after, LinearView):
        reason = absorb_input(after, ratio, shift) or bypass(bn, 0)
        return f"folded into {label(after.node)} after it", reason
    return f"became Mul + Add ({before}; {after})", _as_mul_add(bn, ratio, shift)


def _affine(bn: ir.Node) -> tuple[F64, F64] | str:
    if bn.attributes.get_int("training_mode", 0) or len(bn.outputs) > 1:
        return "it is in training mode"
    params = [constant(v) for v in bn.inputs[1:5]]
    if any(p is None for p in params):
        return "its statistics are not constant"
    gamma, beta, mean, var = (p.astype(np.float64) for p in params if p is not None)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = gamma / np.sqrt(var + bn.attributes.get_float("epsilon", 1e-5))
    if not np.all(np.isfinite(ratio)):
        return "its variance is not positive"
    return ratio, beta - mean * ratio


def _layer_before(bn: ir.Node) -> LinearView | str:
    x = bn.inputs[0]
    node = x.producer() if x is not None else None
    if is_op(node, "Add") and node is not None:
        products = (v.producer() for v in node.inputs if v is not None and v.producer())
        node = next((p for p in products if is_op(p, "MatMul")), None)
    view = linear_view(node) if node is not None else None
    if node is None or view is None or view.output is not x:
        return "no layer with constant weights before it"
    if sole_consumer(view.output) is not bn:
        return "the layer before it has other readers"
    if node.op_type != "Conv" and len(static_shape(x) or ()) != 2:
        return "the layer before it has its channels on another axis"
    return editable(node)


def _layer_after(bn: ir.Node, shift: F64) -> LinearView | str:
    node = sole_consumer(bn.outputs[0])
    if node is None or linear_view(node) is None or node.inputs[0] is not bn.outputs[0]:
        return "no single layer with constant weights after it"
    if node.op_type == "Conv":
        padded = any(node.attributes.get_ints("pads", ()))
        auto = node.attributes.get_string("auto_pad", "NOTSET").startswith("SAME")
        if (padded or auto) and shift.any():
            return "the Conv after it pads with zeros"
    elif len(static_shape(bn.outputs[0]) or ()) != 2 or node.attributes.get_int("transA", 0):
        return "the layer after it contracts another axis"
    return editable(node)


def _as_mul_add(bn: ir.Node, ratio: F64, shift: F64) -> str | None:
    x, out, graph = bn.inputs[0], bn.outputs[0], graph_of(bn)
    shape = static_shape(x)
    if shape is None:
        return "its shape is not static"
    column = (-1, *[1] * (len(shape) - 2))
    name = f"{out.name}.fold_batchnorm"
    scale = add_constant(graph, f"{name}.scale", ratio.astype(np.float32).reshape(column))
    offset = add_constant(graph, f"{name}.shift", shift.astype(np.float32).reshape(column))
    scaled = insert_before(bn, "Mul", [x, scale], f"{name}.scaled", out.shape)
    replace(bn, "Add", [scaled, offset], "fold_batchnorm")
    return None

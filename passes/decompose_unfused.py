"""Write rare operators as common ones, so that lowering meets fewer kinds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..compiler.core.graph import (
    add_constant,
    label,
    model_from_text,
    tensor_of,
)
from ..compiler.core.passbase import Context, Effect, Example, Outcome
from ._edit import (
    Notes,
    graph_of,
    insert_before,
    is_float32,
    nodes,
    replace,
    split_operands,
    static_shape,
)


@dataclass(frozen=True, slots=True)
class DecomposeUnfused:
    """Spatial ReduceMean becomes GlobalAveragePool, Sub and Div by constants Add and Mul.

    CastLike becomes the Cast it is.
    """

    name: ClassVar[str] = "decompose_unfused"
    effect: ClassVar[Effect] = Effect.EQUIVALENT

    def apply(self, model: ir.Model, ctx: Context) -> Outcome:
        """Rewrite every such node."""
        notes = Notes()
        for node in nodes(model, "ReduceMean"):
            where = label(node)
            notes.add(where, "became GlobalAveragePool", _pool(node))
        for node in nodes(model, "CastLike"):
            notes.add(label(node), "became Cast", _cast(node))
        for node in nodes(model, "Sub", "Div"):
            if split_operands(node) is not None:
                where, turned = label(node), "Add" if node.op_type == "Sub" else "Mul"
                notes.add(where, f"became {turned}", _turn(node, turned))
        return notes.outcome()

    @staticmethod
    def examples() -> Iterable[Example]:
        """Each rewrite, also in front of a graph output; and what has no simpler form."""
        for shape, body in (
            ("1,4,1,1", "Y = ReduceMean (X, spatial)"),
            ("1,4", "Y = ReduceMean <keepdims = 0> (X, spatial)"),
            ("1,4,5,6", "Y = Sub (X, c)"),
            ("1,4,5,6", "D = Div (X, c)  Y = Sub (D, s)"),
            ("1,4,5,6", "C = CastLike (X, spatial)  Y = CastLike (C, X)"),
        ):
            yield _example(shape, body)
        for shape, body in (
            ("1,4,5,1", "Y = ReduceMean (X, last)"),
            ("1,4,5,6", "Y = Sub (c, X)"),
            ("1,4,5,6", "Y = Div (X, zero)"),
        ):
            yield _example(shape, body, fires=False)


def _example(shape: str, body: str, fires: bool = True) -> Example:
    rng = np.random.default_rng(0)
    model = model_from_text(
        f'<ir_version: 10, opset_import: ["" : 21]> '
        f"m (float[1,4,5,6] X) => (float[{shape}] Y) {{ {body} }}",
        c=rng.standard_normal((4, 1, 1)).astype(np.float32),
        s=np.array([0.3], np.float32),
        zero=np.zeros(1, np.float32),
        spatial=np.array([3, -2]),
        last=np.array([-1]),
    )
    return Example(model, {"X": rng.standard_normal((1, 4, 5, 6)).astype(np.float32)}, fires=fires)


def _pool(node: ir.Node) -> str | None:
    """Turn a ReduceMean over height and width into a GlobalAveragePool, or say why not."""
    x, out = node.inputs[0], node.outputs[0]
    shape = static_shape(x)
    axes = tensor_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if x is None or shape is None or axes is None or not is_float32(x):
        return "its input is not float32 of static shape or its axes are not constant"
    if len(shape) != 4 or sorted(int(a) % 4 for a in axes.reshape(-1)) != [2, 3]:
        return "it does not reduce height and width of an image"
    if node.attributes.get_int("keepdims", 1):
        replace(node, "GlobalAveragePool", [x], "decompose_unfused")
        return None
    name = f"{out.name}.decompose_unfused"
    pooled = insert_before(node, "GlobalAveragePool", [x], f"{name}.pooled", [*shape[:2], 1, 1])
    target = add_constant(graph_of(node), f"{name}.shape", np.array(shape[:2], np.int64))
    replace(node, "Reshape", [pooled, target], "decompose_unfused")
    return None


def _cast(node: ir.Node) -> str | None:
    """Turn a CastLike into a Cast, or say why not."""
    kind = node.outputs[0].dtype
    if kind is None:
        return "the type of its result is not known"
    replace(node, "Cast", [node.inputs[0]], "decompose_unfused", {"to": int(kind)})
    return None


def _turn(node: ir.Node, op_type: str) -> str | None:
    """Turn x - c into x + (-c) and x / c into x * (1 / c), or say why not."""
    operands = split_operands(node)
    assert operands is not None
    value, data, index = operands
    if index == 0:
        return "the constant is on the left"
    with np.errstate(divide="ignore", over="ignore"):
        turned = np.float32(1) / data if op_type == "Mul" else -data
    if not np.all(np.isfinite(turned)):
        return "the constant has no finite reciprocal"
    constant = add_constant(graph_of(node), f"{node.outputs[0].name}.constant", turned)
    replace(node, op_type, [value, constant], "decompose_unfused")
    return None

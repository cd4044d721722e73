"""Recognise masks made by arithmetic on zeros and ones, as transformers export them.

(1 - mask) * -10000 becomes Where (mask > 0, 0, -10000), and the mask of a mean over kept tokens
becomes the float of mask > 0: the same numbers for zeros and ones, which is all a mask holds, and
a condition that needs no arithmetic on the device.
"""

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
    take_over,
)
from ..compiler.core.masks import MaskedMean, mask_cast, masked_mean
from ..compiler.core.operators import MASKED
from ..compiler.core.passbase import Context, Effect, Example, Outcome
from ._edit import Notes, graph_of, insert_before, nodes, remove_dead, scalar


@dataclass(frozen=True, slots=True)
class FuseMasks:
    """Masks by arithmetic on integer zeros and ones become conditions."""

    name: ClassVar[str] = "fuse_masks"
    effect: ClassVar[Effect] = Effect.EQUIVALENT

    def apply(self, model: ir.Model, ctx: Context) -> Outcome:
        """Rewrite every additive mask and the mask of every mean over tokens."""
        notes = Notes()
        for node in nodes(model, "Mul"):
            found, where = _additive(node), label(node)
            if isinstance(found, str):
                notes.add(where, "", found)
            elif found is not None:
                _write_where(node, *found, self.name)
                notes.add(where, "became Where", None)
        for node in nodes(model, "Div"):
            mean = masked_mean(node)
            if mean is not None and mean.keep is None:
                notes.add(label(node), "its mask became a condition", _write_mean(mean, self.name))
        return notes.outcome()

    @staticmethod
    def examples() -> Iterable[Example]:
        """Additive masks of either sign and type, means; and arithmetic that masks nothing."""
        for body in (
            "F = Cast <to = 1> (M)  U = Unsqueeze (F, axes)  N = Sub (one, U)"
            "  B = Mul (N, big)  Y = Add (X, B)",
            "U = Unsqueeze (M, axes)  F = Cast <to = 1> (U)  N = Sub (F, one)"
            "  B = Mul (minus_big, N)  Y = Add (X, B)",
        ):
            yield _example("1,2,1,6", body)
        mean = "F = Cast <to = 1> (M)  U = Unsqueeze (F, last)"
        for body in (
            f"{mean}  P = Mul (X, U)  S = ReduceSum <keepdims = 0> (P, tokens)"
            "  N = ReduceSum <keepdims = 0> (U, tokens)  Y = Div (S, N)",
            f"{mean}  E = Expand (U, whole)  P = Mul (E, X)"
            "  S = ReduceSum <keepdims = 0> (P, tokens)"
            "  N = ReduceSum <keepdims = 0> (E, tokens)  C = Clip (N, least)  Y = Div (S, C)",
        ):
            yield _example("2,6,5", body, output="2,5")
        for body in (
            "F = Cast <to = 1> (M)  U = Unsqueeze (F, axes)  N = Sub (half, U)"
            "  B = Mul (N, big)  Y = Add (X, B)",
            "F = Cast <to = 1> (M)  U = Unsqueeze (F, axes)  N = Sub (one, U)"
            "  B = Mul (N, half)  Y = Add (X, B)",
        ):
            yield _example("1,2,1,6", body, fires=False)


def _example(shape: str, body: str, output: str | None = None, fires: bool = True) -> Example:
    sizes = [int(size) for size in shape.split(",")]
    rows, tokens = (sizes[0], sizes[1]) if len(sizes) == 3 else (sizes[0], sizes[-1])
    model = model_from_text(
        f'<ir_version: 10, opset_import: ["" : 21]> m (int64[{rows},{tokens}] M, float[{shape}] X)'
        f" => (float[{output or shape}] Y) {{ {body} }}",
        one=np.ones((), np.float32),
        half=np.full((), 0.5, np.float32),
        big=np.full((), -1e5, np.float32),
        minus_big=np.full((), 1e5, np.float32),
        least=np.full((), 1e-9, np.float32),
        axes=np.array([1, 2]),
        last=np.array([-1]),
        tokens=np.array([1]),
        whole=np.array(sizes),
    )
    rng = np.random.default_rng(0)
    mask = np.arange(tokens)[None, :] < np.arange(tokens - rows, tokens)[:, None]
    feeds = {"M": mask.astype(np.int64), "X": rng.standard_normal(sizes).astype(np.float32)}
    return Example(model, feeds, fires=fires)


def _additive(node: ir.Node) -> tuple[ir.Value, float] | str | None:
    """Return (mask as floats, what it adds where it is 0), or a reason for a near miss.

    None for anything but the product of a number and a difference with a mask in it.
    """
    for value, factor in (tuple(node.inputs), tuple(reversed(node.inputs))):
        number, inner = scalar(factor), None if value is None else value.producer()
        if number is None or inner is None or inner.op_type != "Sub":
            continue
        a, b = inner.inputs
        for mask, one, sign in ((b, a, 1.0), (a, b, -1.0)):
            if mask is None or mask_cast(mask) is None:
                continue
            if scalar(one) != 1:
                return "the mask is not subtracted from 1"
            if sign * number > MASKED:
                return f"adding {sign * number:g} removes nothing"
            return mask, sign * number
    return None


def _write_where(node: ir.Node, mask: ir.Value, number: float, tag: str) -> None:
    graph, name = graph_of(node), f"{node.outputs[0].name}.{tag}"
    zero, big = (
        add_constant(graph, f"{name}.{end}", np.array(value, np.float32))
        for end, value in (("kept", 0.0), ("removed", number))
    )
    keep = _condition(node, mask, name)
    old = node.outputs[0]
    new = insert_before(node, "Where", [keep, zero, big], name, old.shape)
    take_over(old, new)
    remove_dead(old)


def _write_mean(mean: MaskedMean, tag: str) -> str | None:
    parts = [mask_cast(mean.weight), mask_cast(mean.count)]
    sources = {None if part is None else part[0].inputs[0] for part in parts}
    if len(sources) != 1:
        return "it sums one mask and counts another"
    product = mean.interior[1].producer()
    assert product is not None
    name = f"{mean.weight.name}.{tag}"
    keep = _condition(product, mean.weight, name)
    to = {"to": int(ir.DataType.FLOAT)}
    weight = insert_before(product, "Cast", [keep], name, keep.shape, to)
    for value in dict.fromkeys((mean.weight, mean.count)):
        for node, index in [(use.node, use.idx) for use in value.uses()]:
            if any(out in mean.interior for out in node.outputs):
                node.replace_input_with(index, weight)
        remove_dead(value)
    return None


def _condition(anchor: ir.Node, mask: ir.Value, name: str) -> ir.Value:
    """Insert before anchor what makes mask, as booleans; returns that."""
    found = mask_cast(mask)
    assert found is not None
    cast, moves = found
    value = cast.inputs[0]
    assert value is not None and value.dtype is not None
    if value.dtype != ir.DataType.BOOL:
        zero = add_constant(graph_of(anchor), f"{name}.zero", np.zeros((), value.dtype.numpy()))
        value = _boolean(anchor, "Greater", [value, zero], f"{name}.keep", value.shape)
    for move in moves:
        inputs = [value, *move.inputs[1:]]
        value = _boolean(anchor, move.op_type, inputs, f"{name}.keep", move.outputs[0].shape)
    return value


def _boolean(
    anchor: ir.Node, op_type: str, inputs: list[ir.Value | None], name: str, shape: ir.Shape | None
) -> ir.Value:
    out = insert_before(anchor, op_type, inputs, name, shape)
    out.type = ir.TensorType(ir.DataType.BOOL)
    return out

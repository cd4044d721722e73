"""Merge a Transpose with the Transpose before it, and a Reshape with the Reshape before it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..compiler.core.graph import add_constant, label, model_from_text
from ..compiler.core.passbase import Context, Effect, Example, Outcome
from ._edit import (
    RESHAPES,
    Notes,
    graph_of,
    is_op,
    nodes,
    remove_dead,
    replace,
    stand_in,
    static_shape,
)


@dataclass(frozen=True, slots=True)
class DropTransposePairs:
    """Cancel or merge neighbouring moves; Squeeze, Unsqueeze and Flatten count as Reshape."""

    name: ClassVar[str] = "drop_transpose_pairs"
    effect: ClassVar[Effect] = Effect.EQUIVALENT

    def apply(self, model: ir.Model, ctx: Context) -> Outcome:
        """Merge every pair; in graph order, so that chains collapse in one sweep."""
        notes = Notes()
        for node in nodes(model, "Transpose", *RESHAPES):
            first = node.inputs[0].producer() if node.inputs[0] is not None else None
            merge = _merge_transposes if is_op(node, "Transpose") else _merge_reshapes
            kinds = ("Transpose",) if is_op(node, "Transpose") else RESHAPES
            if first is not None and is_op(first, *kinds):
                where, middle = label(node), first.outputs[0]
                reason = merge(first, node)
                remove_dead(middle)
                notes.add(where, "merged with the one before it", reason)
        return notes.outcome()

    @staticmethod
    def examples() -> Iterable[Example]:
        """Pairs that cancel, pairs and a chain that merge; and one between public values."""
        turn, back = "Transpose <perm = [1, 2, 0]>", "Transpose <perm = [2, 0, 1]>"
        for shape, body in (
            ("2,3,4", f"R = Relu (X)  A = {turn} (R)  B = {back} (A)  Y = Neg (B)"),
            ("4,2,3", f"A = {turn} (X)  Y = {turn} (A)"),
            ("4,3,2", f"A = {turn} (X)  B = {turn} (A)  Y = Transpose <perm = [0, 2, 1]> (B)"),
            ("3,4,2", f"A = {turn} (X)  B = {turn} (A)  C = Transpose (B)"
                      "  D = Transpose (C)  E = Relu (D)  F = Relu (A)"
                      f"  G = {back} (E)  Y = Add (G, F)"),
            ("6,4", "A = Reshape (X, to_4_6)  Y = Reshape (A, to_6_4)"),
            ("2,3,4", "N = Neg (X)  A = Unsqueeze (N, axes)  B = Squeeze (A, axes)  Y = Neg (B)"),
            ("6,4", "A = Unsqueeze (X, axes)  B = Flatten <axis = 3> (A)  Y = Neg (B)"),
        ):  # fmt: skip
            yield _example(shape, body)
        yield _example("2,3,4", f"A = {turn} (X)  Y = {back} (A)", fires=False)


def _example(shape: str, body: str, fires: bool = True) -> Example:
    rng = np.random.default_rng(0)
    model = model_from_text(
        f'<ir_version: 10, opset_import: ["" : 21]> '
        f"m (float[2,3,4] X) => (float[{shape}] Y) {{ {body} }}",
        to_4_6=np.array([4, 6]),
        to_6_4=np.array([6, 4]),
        axes=np.array([0]),
    )
    return Example(model, {"X": rng.standard_normal((2, 3, 4)).astype(np.float32)}, fires=fires)


def _permutation(node: ir.Node, rank: int) -> list[int]:
    return list(node.attributes.get_ints("perm", range(rank - 1, -1, -1)))


def _merge_transposes(first: ir.Node, second: ir.Node) -> str | None:
    """Let second do the work of both on the input of first, or nothing if they cancel."""
    source = first.inputs[0]
    rank = len(source.shape) if source is not None and source.shape is not None else None
    if source is None or rank is None:
        return "its rank is not known"
    before = _permutation(first, rank)
    merged = [before[axis] for axis in _permutation(second, rank)]
    if merged == list(range(rank)):
        return stand_in(second, source)
    second.replace_input_with(0, source)
    second.attributes.add(ir.AttrInt64s("perm", merged))
    return None


def _merge_reshapes(first: ir.Node, second: ir.Node) -> str | None:
    """Let a Reshape do the work of both on the input of first, or nothing if they cancel."""
    source, shape = first.inputs[0], static_shape(second.outputs[0])
    if source is None or shape is None:
        return "its shape is not static"
    if static_shape(source) == shape:
        return stand_in(second, source)
    name = f"{second.outputs[0].name}.shape"
    target = add_constant(graph_of(second), name, np.array(shape, np.int64))
    replace(second, "Reshape", [source, target], "drop_transpose_pairs")
    return None

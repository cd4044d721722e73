"""Compute at compile time what does not depend on the inputs, and drop what does nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import CommonSubexpressionEliminationPass

from ..compiler.core.graph import label, model_from_text, remove_node, tensor_of
from ..compiler.core.passbase import Context, Effect, Example, Outcome
from ._edit import Notes, graph_of, is_op, remove_dead, stand_in, static_shape
from ._fold import evaluate, infer_shapes
from ._noop import source_of_noop

QUANTISERS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
RANDOM = ("RandomUniform", "RandomNormal", "RandomUniformLike", "RandomNormalLike",
          "Multinomial", "Bernoulli")  # fmt: skip


@dataclass(frozen=True, slots=True)
class FoldConstants:
    """Fold constants, drop operators without effect, repeated and unused nodes.

    A result that is more than twice as large as the constants it comes from is only folded
    up to `largest_bytes`. Encodings of already quantised models are never folded away.
    """

    largest_bytes: int = 1 << 20

    name: ClassVar[str] = "fold_constants"
    effect: ClassVar[Effect] = Effect.EQUIVALENT

    def apply(self, model: ir.Model, ctx: Context) -> Outcome:
        """Fold until nothing changes; each round may make more shapes static."""
        notes = Notes()
        while True:
            before, notes.declined = len(notes.changed), []
            self._sweep(model, notes)
            _share_integers(model.graph, notes)
            _drop_repeated(model, notes)
            _drop_unused(model.graph, notes)
            if len(notes.changed) == before:
                return notes.outcome()

    def _sweep(self, model: ir.Model, notes: Notes) -> None:
        for node in list(model.graph):
            where = label(node)
            if infer_shapes(node, model.opset_imports):
                notes.add(where, "static output shapes found", None)
            source = source_of_noop(node)
            if source is not None:
                notes.add(where, "has no effect: dropped", stand_in(node, source))
                continue
            folded = self._value(node, model.opset_imports)
            if isinstance(folded, str):
                notes.add(where, "", folded)
            elif folded is not None:
                _become(node, folded)
                notes.add(where, "computed", None)

    def _value(self, node: ir.Node, opsets: dict[str, int]) -> list[NDArray[Any]] | str | None:
        """Return the constant outputs of node, why they stay, or None if they are not constant."""
        known = _known(node)
        if known is None and not _all_constant(node):
            return None
        if any(v.is_graph_output() for v in node.outputs):
            return "it is constant but a graph output"
        if known is not None:
            return [known]
        reason = self._reason_to_keep(node)
        return reason or evaluate(node, opsets)

    def _reason_to_keep(self, node: ir.Node) -> str | None:
        if is_op(node, *QUANTISERS):
            return "it holds an encoding"
        if is_op(node, *RANDOM):
            return "it is random"
        given = sum(a.nbytes for v in node.inputs if (a := tensor_of(v)) is not None)
        made = sum(_nbytes(v) for v in node.outputs)
        if made > max(self.largest_bytes, 2 * given):
            return f"its result would take {made} bytes"
        return None

    @staticmethod
    def examples() -> Iterable[Example]:
        """Shape arithmetic, no-ops, repeats, half-precision weights; and what must stay."""
        for body in (
            "S = Shape (X)  C = Concat <axis = 0> (S, minus1)  R = Reshape (X, C)"
            "  Q = Squeeze (R, last)  Y = Relu (Q)",
            "one = Constant <value = float {1.0}> ()  I = Identity (X)  M = Mul (one, I)"
            "  D = Dropout (M)  Z = Cast <to = 1> (D)  T = Transpose <perm = [0, 1]> (Z)"
            "  Y = Relu (T)",
            "A = Relu (X)  B = Relu (X)  U = Exp (X)  Y = Add (A, B)",
            "H = Cast <to = 1> (half)  Y = Add (X, H)",
            "n = Constant <value_ints = [2, 3]> ()  K = ConstantOfShape (n)"
            "  E = Equal (n, n)  W = Where (E, n, n)  Z = Expand (K, W)  O = Exp (Z)"
            "  Y = Add (X, O)",
            "s = Split <axis = 1, num_outputs = 1> (X)  c = Concat <axis = 0> (s)"
            "  p = Pad (c, nothing)  t = Slice (p, nothing2, end)  Y = Neg (t)",
        ):
            yield _example(body)
        for body in (
            "W = DequantizeLinear (codes, scale)  Y = Add (X, W)",
            "E = Expand (scale, big)  M = ReduceMax (E)  Y = Add (X, M)",
            "Y = Identity (X)",
        ):
            yield _example(body, fires=False)


def _example(body: str, fires: bool = True) -> Example:
    rng = np.random.default_rng(0)
    arrays: dict[str, NDArray[Any]] = {
        "minus1": np.array([1]), "last": np.array([2]), "nothing": np.zeros(4, np.int64),
        "nothing2": np.zeros(2, np.int64), "end": np.array([2, 3]), "big": np.array([1024, 1024]),
        "half": rng.standard_normal((2, 3)).astype(np.float16),
        "scale": np.full((), 0.5, np.float32),
        "codes": rng.integers(-9, 9, (2, 3)).astype(np.int8),
    }  # fmt: skip
    used = {name: array for name, array in arrays.items() if re.search(rf"\b{name}\b", body)}
    model = model_from_text(
        f'<ir_version: 10, opset_import: ["" : 21]> '
        f"m (float[2,3] X) => (float[2,3] Y) {{ {body} }}",
        **used,
    )
    return Example(model, {"X": rng.standard_normal((2, 3)).astype(np.float32)}, fires=fires)


def _all_constant(node: ir.Node) -> bool:
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    nested = any(a.type in graphs for a in node.attributes.values())
    if nested or node.domain not in ("", "ai.onnx"):
        return False
    if is_op(node, *RANDOM, "Constant"):
        return True
    return bool(node.inputs) and all(v is None or tensor_of(v) is not None for v in node.inputs)


def _known(node: ir.Node) -> NDArray[Any] | None:
    """Return what a Constant holds, or Shape and Size of a value of static shape compute."""
    if is_op(node, "Constant"):
        return _held(node)
    shape = static_shape(node.inputs[0]) if is_op(node, "Shape", "Size") else None
    if shape is None:
        return None
    if node.op_type == "Size":
        return np.array(int(np.prod(shape)), np.int64)
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(shape))
    return np.array(shape[start:end], np.int64)


def _held(node: ir.Node) -> NDArray[Any] | None:
    attributes = node.attributes
    if "value" in attributes:
        tensor = attributes.get_tensor("value")
        return None if tensor is None else tensor.numpy()
    for key, read, dtype in (
        ("value_float", attributes.get_float, np.float32),
        ("value_floats", attributes.get_floats, np.float32),
        ("value_int", attributes.get_int, np.int64),
        ("value_ints", attributes.get_ints, np.int64),
    ):
        if key in attributes:
            return np.array(read(key), dtype)
    return None


def _nbytes(value: ir.Value) -> int:
    shape, dtype = static_shape(value), value.dtype
    if shape is None or dtype is None:
        return 0
    return int(np.prod(shape)) * max(int(dtype.itemsize), 1)


def _become(node: ir.Node, arrays: list[NDArray[Any]]) -> None:
    """Put initializers of the same names in the place of the outputs of node."""
    graph, outputs, inputs = graph_of(node), list(node.outputs), list(node.inputs)
    made = [
        ir.val(str(old.name), const_value=ir.tensor(data, name=old.name))
        for old, data in zip(outputs, arrays, strict=True)
    ]
    for old, new in zip(outputs, made, strict=True):
        old.replace_all_uses_with(new)
    remove_node(node)
    for new in made:
        graph.register_initializer(new)
    for source in inputs:
        remove_dead(source)


def _share_integers(graph: ir.Graph, notes: Notes) -> None:
    """Merge equal integer constants, so that equal nodes are seen to be equal.

    Float constants stay apart: each may get an encoding of its own.
    """
    first: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
    for value in list(graph.initializers.values()):
        data = tensor_of(value)
        if data is None or data.dtype != np.int64 or value.is_graph_output():
            continue
        kept = first.setdefault((str(data.dtype), data.shape, data.tobytes()), value)
        if kept is not value:
            value.replace_all_uses_with(kept)
            del graph.initializers[str(value.name)]
            notes.add(f"constant '{value.name}'", f"same as '{kept.name}'", None)


def _drop_repeated(model: ir.Model, notes: Notes) -> None:
    before = {id(node): label(node) for node in model.graph}
    CommonSubexpressionEliminationPass()(model)
    after = {id(node) for node in model.graph}
    for key, where in before.items():
        if key not in after:
            notes.add(where, "computed before: dropped", None)


def _drop_unused(graph: ir.Graph, notes: Notes) -> None:
    for node in reversed(list(graph)):
        if not any(v.uses() or v.is_graph_output() for v in node.outputs):
            notes.add(label(node), "unused: dropped", None)
            graph.remove(node, safe=True)
    for value in list(graph.initializers.values()):
        if not (value.uses() or value.is_graph_output() or value.is_graph_input()):
            del graph.initializers[str(value.name)]
            notes.add(f"constant '{value.name}'", "unused: dropped", None)

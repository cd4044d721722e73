"""Recognise one step of an LSTM that an exporter wrote out, as Keras and PyTorch cells are.

gates = x W + h R + b;  c' = sigmoid(f) c + sigmoid(i) tanh(g);  h' = sigmoid(o) tanh(c')
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..compiler.core.encoding import F32
from ..compiler.core.graph import (
    add_constant,
    constant,
    fresh_name,
    label,
    model_from_text,
    take_over,
)
from ..compiler.core.linear import linear_view
from ..compiler.core.passbase import Context, Effect, Example, Outcome
from ._edit import Notes, graph_of, insert_before, is_op, nodes, remove_dead, static_shape

# ONNX's order of the gates.
ORDER = ("i", "o", "f", "c")


@dataclass(frozen=True, slots=True)
class FuseLstm:
    """Replace the written-out step of an LSTM cell by the standard operator."""

    name: ClassVar[str] = "fuse_lstm"
    effect: ClassVar[Effect] = Effect.EQUIVALENT

    def apply(self, model: ir.Model, ctx: Context) -> Outcome:
        """Fuse every product sigmoid(o) tanh(c') that such a step ends in."""
        notes = Notes()
        for node in nodes(model, "Mul"):
            if node.graph is None or (step := _step(node)) is None:
                continue
            found = _gates(step)
            reason = found if isinstance(found, str) else None
            notes.add(label(node), "fused into LSTM", reason)
            if not isinstance(found, str):
                _write(node, step, found, self.name)
        return notes.outcome()

    @staticmethod
    def examples() -> Iterable[Example]:
        """MatMuls and Gemms, operands in either order; and a cell that its past does not enter."""
        cell = (
            "I = Sigmoid (i)  F = Sigmoid (f)  O = Sigmoid (o)  G = Tanh (g)  k = Mul (F, c0)"
            " a = Mul (I, G)  c = Add (k, a)  T = Tanh (c)  h = Mul (O, T)"
        )
        turned = (
            "I = Sigmoid (i)  F = Sigmoid (f)  O = Sigmoid (o)  G = Tanh (g)  k = Mul (c0, F)"
            " a = Mul (G, I)  c = Add (a, k)  T = Tanh (c)  h = Mul (T, O)"
        )
        split = "i, f, g, o = Split <axis = 1, num_outputs = 4> (s)"
        sums = "p = MatMul (x, W)  q = MatMul (h0, R)  a0 = Add (p, q)  s = Add (a0, B)"
        yield _example(f"{sums} {split} {cell}")
        gemms = (
            "p = Gemm <transB = 1> (x, Wt, B)  q = Gemm <transB = 1> (h0, Rt, B)  s = Add (q, p)"
        )
        yield _example(f"{gemms} {split} {turned}")
        yield _example(f"p = MatMul (x, W)  s = Add (p, B) {split} {cell}", fires=False)


def _example(body: str, fires: bool = True) -> Example:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> F32:
        return rng.standard_normal(shape).astype(np.float32)

    constants = {
        "W": normal(5, 16), "R": normal(4, 16), "B": normal(16), "Wt": normal(16, 5),
        "Rt": normal(16, 4),
    }  # fmt: skip
    model = model_from_text(
        '<ir_version: 10, opset_import: ["" : 21]> m (float[2,5] x, float[2,4] h0, float[2,4] c0) '
        f"=> (float[2,4] h, float[2,4] c) {{ {body} }}",
        **{n: a for n, a in constants.items() if f" {n}," in body or f" {n})" in body},
    )
    feeds = {"x": normal(2, 5), "h0": normal(2, 4), "c0": normal(2, 4)}
    return Example(model, feeds, fires=fires)


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """The values of one step: pre-activations by gate, the cell before and after."""

    pre: dict[str, ir.Value]
    before: ir.Value
    after: ir.Value


@dataclass(frozen=True, slots=True, eq=False)
class _Gates:
    """What the pre-activations are: x W^T + h R^T + b, gates in ONNX's order."""

    x: ir.Value
    h: ir.Value
    w: F32
    r: F32
    bias: F32


def _operand(node: ir.Node | None, op_type: str) -> list[tuple[ir.Node, ir.Value]]:
    """Return (producer of that type, other operand) for every operand of node with one."""
    if node is None or len(node.inputs) != 2:
        return []
    a, b = node.inputs
    return [
        (producer, other)
        for value, other in ((a, b), (b, a))
        if value is not None and other is not None
        and is_op(producer := value.producer(), op_type) and producer is not None
    ]  # fmt: skip


def _step(node: ir.Node) -> _Step | None:
    """Return the step that ends in node, if it does."""
    for tanh, other in _operand(node, "Tanh"):
        output, after = other.producer(), tanh.inputs[0]
        add = None if after is None else after.producer()
        if not is_op(output, "Sigmoid") or not is_op(add, "Add") or after is None:
            continue
        assert output is not None and add is not None
        for kept, added in zip(add.inputs, reversed(add.inputs), strict=True):
            found = _cell(kept, added)
            if found is not None and output.inputs[0] is not None:
                before, pre = found
                return _Step({**pre, "o": output.inputs[0]}, before, after)
    return None


def _cell(
    kept: ir.Value | None, added: ir.Value | None
) -> tuple[ir.Value, dict[str, ir.Value]] | None:
    """Return (cell before, pre-activations f, i, c) of sigmoid(f) c + sigmoid(i) tanh(g)."""
    products = [None if v is None else v.producer() for v in (kept, added)]
    if not all(is_op(p, "Mul") for p in products):
        return None
    for tanh, other in _operand(products[1], "Tanh"):
        gate = other.producer()
        for forget, before in _operand(products[0], "Sigmoid"):
            if is_op(gate, "Sigmoid") and gate is not None:
                pre = (forget.inputs[0], gate.inputs[0], tanh.inputs[0])
                return before, {n: v for n, v in zip("fic", pre, strict=True) if v is not None}
    return None


def _gates(step: _Step) -> _Gates | str:
    """Return the linear maps behind the pre-activations, or why they are none."""
    splits = {v.producer() for v in step.pre.values()}
    split = splits.pop()
    if splits or split is None or not is_op(split, "Split") or len(split.outputs) != 4:
        return "its gates are not the parts of one Split"
    terms, bias = _terms(split.inputs[0])
    shape = static_shape(split.inputs[0])
    if shape is None or len(shape) != 2 or split.attributes.get_int("axis", 0) not in (1, -1):
        return "its gates are not split along the last of two axes"
    hidden = shape[1] // 4
    if any(static_shape(v) != (shape[0], hidden) for v in split.outputs):
        return "its gates differ in size"
    if len(terms) != 2:
        return f"its gates are the sum of {len(terms)} layers, not of two"
    maps = [_map(t, shape[1]) for t in terms]
    if any(m is None for m in maps):
        return "its gates are not made by layers with weights"
    order = [list(split.outputs).index(step.pre[g]) for g in ORDER]
    rows = np.concatenate([np.arange(hidden) + hidden * at for at in order])
    (x, w, p), (h, r, q) = [m for m in maps if m is not None]
    if r.shape[1] != hidden or (w.shape[1] == hidden and _before(step, x)):
        (x, w, p), (h, r, q) = (h, r, q), (x, w, p)
    if r.shape[1] != hidden:
        return "neither layer takes as many values as there are units"
    total = (np.zeros(shape[1]) + bias + p + q).astype(np.float32)
    return _Gates(x, h, w[rows], r[rows], total[rows])


def _before(step: _Step, value: ir.Value) -> bool:
    """True if value comes from where the cell before comes from: a state of the model."""
    return _source(value) is _source(step.before)


def _source(value: ir.Value) -> ir.Value:
    while (node := value.producer()) is not None and is_op(
        node, "Slice", "Squeeze", "Unsqueeze", "Reshape", "Gather", "Split", "Transpose"
    ):
        first = node.inputs[0]
        assert first is not None
        value = first
    return value


def _terms(value: ir.Value | None) -> tuple[list[ir.Value], F32]:
    """Return the summands of value that are computed, and the sum of those that are constants."""
    if value is None:
        return [], np.zeros(1, np.float32)
    if (data := constant(value)) is not None:
        return [], data.reshape(-1) if data.size == data.shape[-1] else data
    node = value.producer()
    if node is None or not is_op(node, "Add"):
        return [value], np.zeros(1, np.float32)
    parts = [_terms(v) for v in node.inputs]
    return [t for terms, _ in parts for t in terms], parts[0][1] + parts[1][1]


def _map(value: ir.Value, rows: int) -> tuple[ir.Value, F32, F32] | None:
    """Return (input, weight [rows, k], bias) of the layer that makes value."""
    node = value.producer()
    view = None if node is None or is_op(node, "Conv") else linear_view(node)
    if node is None or view is None or node.inputs[0] is None or view.weight.shape[0] != rows:
        return None
    get = node.attributes
    if get.get_int("transA", 0) or get.get_float("alpha", 1.0) != 1:
        return None
    own = view.bias if view.bias is not None and view.bias_node is None else np.zeros(1)
    shape = static_shape(node.inputs[0])
    if get.get_float("beta", 1.0) != 1 or shape is None or len(shape) != 2:
        return None
    return node.inputs[0], view.weight, np.asarray(own, np.float32)


def _write(node: ir.Node, step: _Step, gates: _Gates, tag: str) -> None:
    """Put an LSTM of one step in the place of node and of the cell after it."""
    graph, name = graph_of(node), node.outputs[0].name
    batch, hidden = static_shape(node.outputs[0]) or (0, 0)
    zero = add_constant(graph, f"{name}.axis", np.array([0], np.int64))
    anchor = _first(graph, [node, *(n for n in (step.after.producer(),) if n is not None)])

    def lifted(value: ir.Value) -> ir.Value:
        shape = (1, *(static_shape(value) or ()))
        return insert_before(anchor, "Unsqueeze", [value, zero], f"{value.name}.{tag}", shape)

    bias = np.concatenate([gates.bias, np.zeros_like(gates.bias)])
    weights = [
        add_constant(graph, f"{name}.{n}", np.ascontiguousarray(a[None]))
        for n, a in (("w", gates.w), ("r", gates.r), ("b", bias))
    ]
    inputs = [lifted(gates.x), *weights, None, lifted(gates.h), lifted(step.before)]
    shapes = ([1, 1, batch, hidden], [1, batch, hidden], [1, batch, hidden])
    outputs = [
        ir.Value(name=fresh_name(graph, f"{name}.{n}"), type=step.after.type, shape=ir.Shape(s))
        for n, s in zip(("y", "h", "c"), shapes, strict=True)
    ]
    lstm = ir.node("LSTM", inputs, {"hidden_size": hidden}, outputs=outputs, name=f"{name}.lstm")
    graph.insert_before(anchor, lstm)
    replaced = (node.outputs[0], step.after)
    for old, new in zip(replaced, outputs[1:], strict=True):
        plain = insert_before(anchor, "Squeeze", [new, zero], f"{old.name}.{tag}", [batch, hidden])
        take_over(old, plain)
    for old in replaced:
        remove_dead(old)


def _first(graph: ir.Graph, found: Sequence[ir.Node]) -> ir.Node:
    """Return which of these nodes comes first in the graph."""
    wanted = set(found)
    return next(n for n in graph if n in wanted)

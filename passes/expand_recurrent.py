"""Bring LSTM and GRU to the one form that lowering knows: one direction, whole sequences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from ..compiler.core.encoding import F32
from ..compiler.core.graph import (
    add_constant,
    fresh_name,
    label,
    model_from_text,
    remove_node,
    take_over,
    tensor_of,
)
from ..compiler.core.operators import RECURRENT
from ..compiler.core.passbase import Context, Effect, Example, Outcome
from ._edit import Notes, graph_of, insert_before, nodes, static_shape

# Inputs of both operators behind x, w, r and the bias; LSTM has c0 and peepholes too.
LENGTHS, PEEPHOLES = 4, 7
# Per input its axis of directions.
DIRECTION_AXIS = {1: 0, 2: 0, 3: 0, 5: 0, 6: 0, 7: 0}
# Attributes that list one entry per activation of every direction.
PER_DIRECTION = ("activations", "activation_alpha", "activation_beta")


@dataclass(frozen=True, slots=True)
class ExpandRecurrent:
    """Split bidirectional LSTM and GRU, drop neutral lengths and peepholes."""

    name: ClassVar[str] = "expand_recurrent"
    effect: ClassVar[Effect] = Effect.EQUIVALENT

    def apply(self, model: ir.Model, ctx: Context) -> Outcome:
        """Rewrite every LSTM and GRU that is not in that form yet."""
        notes = Notes()
        for node in nodes(model, *sorted(RECURRENT)):
            where = label(node)
            for index, what, neutral in (
                (LENGTHS, "sequence lengths", _whole_sequences),
                (PEEPHOLES, "peephole weights", _all_zero),
            ):
                if index < len(node.inputs) and node.inputs[index] is not None:
                    reason = neutral(node, node.inputs[index])
                    notes.add(where, f"neutral {what} dropped", reason)
                    if reason is None:
                        _drop(node, index)
            if node.attributes.get_string("direction", "forward") == "bidirectional":
                reason = _split(node, self.name)
                notes.add(where, "split into its two directions", reason)
        return notes.outcome()

    @staticmethod
    def examples() -> Iterable[Example]:
        """Both operators in two directions, with states and without; lengths that matter."""
        yield _example("LSTM", "(X, W, R, B, lengths, H0, C0)", "Y, Yh, Yc")
        yield _example("LSTM", "(X, W, R)", "Y", states=False)
        yield _example("GRU", "(X, W, R, B, none, H0)", "Y, Yh", ", linear_before_reset = 1")
        yield _example("GRU", "(X, W, R, B, lengths)", "n, Yh", states=False, direction="reverse")
        short = _example("LSTM", "(X, W, R, B, short)", "Y", states=False, direction="forward")
        yield Example(short.model, short.feeds, fires=False)


def _example(
    op: str, inputs: str, outputs: str, attributes: str = "", states: bool = True,
    direction: str = "bidirectional",
) -> Example:  # fmt: skip
    rng = np.random.default_rng(0)
    gates, directions = (4 if op == "LSTM" else 3), 2 if direction == "bidirectional" else 1

    def normal(*shape: int) -> F32:
        return (rng.standard_normal(shape) / 2).astype(np.float32)

    shapes = {"Y": f"3,{directions},2,4", "Yh": f"{directions},2,4", "Yc": f"{directions},2,4"}
    public = ", ".join(f"float[{shapes[n]}] {n}" for n in outputs.split(", ") if n in shapes)
    fed = {"X": normal(3, 2, 5)}
    if states:
        fed |= {n: normal(directions, 2, 4) for n in ("H0", "C0") if n in inputs}
    ports = ", ".join(f"float[{','.join(map(str, a.shape))}] {n}" for n, a in fed.items())
    constants: dict[str, Any] = {
        "W": normal(directions, 4 * gates, 5), "R": normal(directions, 4 * gates, 4),
        "B": normal(directions, 8 * gates), "lengths": np.array([3, 3], np.int32),
        "short": np.array([3, 2], np.int32),
    }  # fmt: skip
    text = inputs.replace("none", '""')
    model = model_from_text(
        f'<ir_version: 10, opset_import: ["" : 21]> m ({ports}) => ({public}) {{ '
        f'{outputs} = {op} <hidden_size = 4, direction = "{direction}"{attributes}> {text} }}',
        **{n: a for n, a in constants.items() if n in text},
    )
    return Example(model, fed)


def _whole_sequences(node: ir.Node, value: ir.Value | None) -> str | None:
    data, shape = tensor_of(value), static_shape(node.inputs[0])
    if data is None or shape is None:
        return "sequence lengths are not constant"
    return None if np.all(data == shape[0]) else "some sequences are shorter than the longest"


def _all_zero(node: ir.Node, value: ir.Value | None) -> str | None:
    data = tensor_of(value)
    return None if data is not None and not np.any(data) else "peephole weights are not zero"


def _drop(node: ir.Node, index: int) -> None:
    value = node.inputs[index]
    node.replace_input_with(index, None)
    if value is not None and value.is_initializer() and not value.uses():
        graph_of(node).initializers.pop(str(value.name), None)


def _split(node: ir.Node, tag: str) -> str | None:
    """Replace a bidirectional node by one per direction and Concats; or say why not."""
    if any(static_shape(v) is None for v in node.outputs if v.uses() or v.is_graph_output()):
        return "its outputs have no static shape"
    for index in (1, 2, 3, PEEPHOLES):
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is not None and tensor_of(value) is None:
            return "its weights are not constants"
    graph, halves = graph_of(node), [_direction(node, i, tag) for i in range(2)]
    for index, old in enumerate(node.outputs):
        if not (old.uses() or old.is_graph_output()):
            continue
        axis = 1 if index == 0 else 0
        joined = ir.node("Concat", [h.outputs[index] for h in halves], {"axis": axis})
        new = joined.outputs[0]
        new.name = joined.name = fresh_name(graph, f"{old.name}.{tag}")
        graph.insert_before(node, joined)
        take_over(old, new)
    remove_node(node)
    return None


def _direction(node: ir.Node, which: int, tag: str) -> ir.Node:
    """Insert the node of one direction before node."""
    graph = graph_of(node)
    inputs = [
        _half(node, index, value, which, tag) if index in DIRECTION_AXIS else value
        for index, value in enumerate(node.inputs)
    ]
    attributes = [_attribute(a, which) for a in node.attributes.values()]
    outputs = [_half_output(graph, node, v, i, which, tag) for i, v in enumerate(node.outputs)]
    name = f"{node.name}.{('forward', 'reverse')[which]}"
    half = ir.Node("", node.op_type, inputs, attributes, outputs=outputs, name=name)
    graph.insert_before(node, half)
    return half


def _attribute(attribute: ir.Attr, which: int) -> ir.Attr:
    if attribute.name == "direction":
        return ir.AttrString("direction", ("forward", "reverse")[which])
    if attribute.name in PER_DIRECTION:
        both: Sequence[Any] = attribute.value
        half = len(both) // 2
        return ir.Attr(attribute.name, attribute.type, both[which * half : (which + 1) * half])
    return attribute


def _half_output(
    graph: ir.Graph, node: ir.Node, old: ir.Value, index: int, which: int, tag: str
) -> ir.Value:
    shape = static_shape(old)
    one = None if shape is None else [1 if i == (index == 0) else n for i, n in enumerate(shape)]
    name = fresh_name(graph, f"{old.name or node.name}.{tag}.{which}")
    return ir.Value(name=name, type=old.type, shape=None if one is None else ir.Shape(one))


def _half(
    node: ir.Node, index: int, value: ir.Value | None, which: int, tag: str
) -> ir.Value | None:
    """Return the part of an input that belongs to one direction."""
    if value is None:
        return None
    graph, name = graph_of(node), f"{value.name}.{which}"
    if (data := tensor_of(value)) is not None:
        return add_constant(graph, name, np.ascontiguousarray(data[which : which + 1]))
    bounds = [add_constant(graph, f"{name}.{k}", np.array([n], np.int64))
              for k, n in (("start", which), ("end", which + 1), ("axis", 0))]  # fmt: skip
    shape = static_shape(value)
    one = None if shape is None else (1, *shape[1:])
    return insert_before(node, "Slice", [value, *bounds], f"{name}.{tag}", one)

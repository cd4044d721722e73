"""Where the channels of a value go: every operator moves labels as it moves numbers.

A label is the number of a channel, -1 where none is carried. Labels have the shape of their value
(as NumPy views that repeat where they do not vary), so that any spelling of splitting heads,
repeating them for grouped queries or flattening an image is understood by executing it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..compiler.core.encoding import I32
from ..compiler.core.graph import constant, label, static_shape, tensor_of
from ._edit import RESHAPES, is_op, scalar

# What may be done to channels: multiplied by positive numbers, added to, mixed with each other.
SCALE, SHIFT, MIX = "scale", "shift", "mix"
KINDS = (SCALE, SHIFT, MIX)

HOMOGENEOUS = ("Relu", "LeakyRelu", "PRelu")
AVERAGES = ("GlobalAveragePool", "AveragePool")
LAYERS = ("MatMul", "Gemm", "Conv")


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One operator passed: its output, the labels there, and what it does not let through.

    `lost`: kind -> why. `width`: most neighbouring channels that may be mixed behind it, if less
    than all.
    """

    value: ir.Value
    labels: I32
    lost: Mapping[str, str] = field(default_factory=dict[str, str])
    width: int | None = None


def spread(shape: tuple[int, ...], axis: int) -> I32:
    """Return the labels of a value whose channels lie along axis."""
    column = np.arange(shape[axis], dtype=np.int32)
    column = column.reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])
    return np.broadcast_to(column, shape)


def condensed(labels: I32) -> I32:
    """Return labels without the repetitions that NumPy knows of, same rank."""
    return labels[tuple(slice(0, 1) if s == 0 else slice(None) for s in labels.strides)]


def constant_along(labels: I32, axes: tuple[int, ...]) -> I32 | None:
    """Return labels with these axes cut to one element, or None where they vary along them."""
    first = labels[tuple(slice(0, 1) if i in axes else slice(None) for i in range(labels.ndim))]
    small = condensed(labels)
    same = all(small.shape[a] == 1 or bool((small == first_of(small, a)).all()) for a in axes)
    return first if same else None


def first_of(labels: I32, axis: int) -> I32:
    """Return the first slice of labels along axis, which is kept."""
    return np.take(labels, [0], axis=axis)


def passed(node: ir.Node, index: int, labels: I32) -> list[Step] | str:
    """Return where labels at input `index` of node come out, or why they do not."""
    if not (handler := _HANDLERS.get(node.op_type)) or node.domain not in ("", "ai.onnx"):
        return f"{label(node)} computes with it"
    if static_shape(node.outputs[0]) is None:
        return f"the shape of {label(node)} is not known"
    return handler(node, index, labels)


def _moved(node: ir.Node, index: int, labels: I32) -> list[Step] | str:
    shape = static_shape(node.outputs[0])
    if index or shape is None:
        return f"{label(node)} reads it as a parameter"
    if is_op(node, *RESHAPES):
        return [Step(node.outputs[0], labels.reshape(shape))]
    if is_op(node, "Transpose"):
        perm = node.attributes.get_ints("perm", range(labels.ndim - 1, -1, -1))
        return [Step(node.outputs[0], labels.transpose(perm))]
    if is_op(node, "Tile"):
        repeats = tensor_of(node.inputs[1])
        return [Step(node.outputs[0], np.tile(labels, _ints(repeats)))]
    return [Step(node.outputs[0], np.broadcast_to(labels, shape))]


def _ints(data: NDArray[Any] | None) -> list[int]:
    return [] if data is None else [int(i) for i in data.reshape(-1)]


def _cut(node: ir.Node, index: int, labels: I32) -> list[Step] | str:
    """Slice, Gather and Split by constants."""
    if index:
        return f"{label(node)} reads it as a parameter"
    if is_op(node, "Split"):
        return _split(node, labels)
    given = [tensor_of(v) for v in node.inputs[1:]]
    if any(v is not None and d is None for v, d in zip(node.inputs[1:], given, strict=True)):
        return f"{label(node)} takes what is computed from it"
    if is_op(node, "Gather"):
        axis = node.attributes.get_int("axis", 0)
        assert given[0] is not None
        return [Step(node.outputs[0], np.take(labels, given[0], axis=axis))]
    starts, ends = _ints(given[0]), _ints(given[1])
    axes = _ints(given[2]) if len(given) > 2 and given[2] is not None else range(len(starts))
    steps = _ints(given[3]) if len(given) > 3 else [1] * len(starts)
    cuts = [slice(None)] * labels.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            return f"{label(node)} reverses it"
        cuts[axis] = slice(start, end, step)
    return [Step(node.outputs[0], labels[tuple(cuts)])]


def _split(node: ir.Node, labels: I32) -> list[Step] | str:
    axis = node.attributes.get_int("axis", 0)
    sizes = [(static_shape(v) or (0,) * labels.ndim)[axis] for v in node.outputs]
    if sum(sizes) != labels.shape[axis]:
        return f"the shapes of {label(node)} are not known"
    pieces = np.split(labels, np.cumsum(sizes)[:-1], axis=axis)
    return [Step(v, p) for v, p in zip(node.outputs, pieces, strict=True)]


def _joined(node: ir.Node, index: int, labels: I32) -> list[Step] | str:
    shape = static_shape(node.outputs[0])
    axis = node.attributes.get_int("axis", 0)
    sizes = [(static_shape(v) or (0,) * labels.ndim)[axis] for v in node.inputs]
    assert shape is not None
    if sum(sizes) != shape[axis]:
        return f"the shapes of {label(node)} are not known"
    others = labels.shape[: axis % labels.ndim], labels.shape[axis % labels.ndim + 1 :]
    empty = [np.full((*others[0], n, *others[1]), -1, np.int32) for n in sizes]
    empty[index] = labels
    return [Step(node.outputs[0], np.concatenate(empty, axis=axis))]


def _homogeneous(node: ir.Node, index: int, labels: I32) -> list[Step] | str:
    if index:
        return f"{label(node)} reads it as a parameter"
    why = f"{label(node)} is not linear"
    return [Step(node.outputs[0], labels, {SHIFT: why, MIX: why})]


def _product(node: ir.Node, index: int, labels: I32) -> list[Step] | str:
    shape, other = static_shape(node.outputs[0]), node.inputs[1 - index]
    if shape is None or other is node.inputs[index]:
        return f"{label(node)} multiplies it by itself"
    if is_op(node, "Div") and index == 1:
        return f"{label(node)} divides by it"
    why = f"{label(node)} multiplies every channel by a factor of its own"
    lost = {SHIFT: why} if scalar(other) is not None else {SHIFT: why, MIX: why}
    return [Step(node.outputs[0], np.broadcast_to(labels, shape), lost)]


def _summed(node: ir.Node, index: int, labels: I32) -> list[Step] | str:
    shape = static_shape(node.outputs[0])
    assert shape is not None
    if constant(node.inputs[1 - index]) is None:
        return f"{label(node)} joins it with another activation"
    why = f"{label(node)} adds a constant to it"
    lost = {SCALE: why, MIX: why}
    return [Step(node.outputs[0], np.broadcast_to(labels, shape), lost)]


def _pooled(node: ir.Node, index: int, labels: I32) -> list[Step] | str:
    first = constant_along(labels, tuple(range(2, labels.ndim)))
    shape = static_shape(node.outputs[0])
    if first is None or shape is None:
        return f"{label(node)} joins different channels"
    lost: dict[str, str] = {}
    if is_op(node, "MaxPool"):
        lost[MIX] = f"{label(node)} is not linear"
    elif is_op(node, "AveragePool"):
        lost[SHIFT] = f"{label(node)} may average padding too"
    return [Step(node.outputs[0], np.broadcast_to(first, shape), lost)]


def _reduced(node: ir.Node, index: int, labels: I32) -> list[Step] | str:
    axes = tensor_of(node.inputs[1]) if len(node.inputs) > 1 else None
    shape = static_shape(node.outputs[0])
    if index or axes is None or shape is None:
        return f"{label(node)} reduces all of it"
    first = constant_along(labels, tuple(int(a) % labels.ndim for a in axes.reshape(-1)))
    if first is None:
        return f"{label(node)} joins different channels"
    lost = {SHIFT: f"{label(node)} sums it"} if is_op(node, "ReduceSum") else {}
    return [Step(node.outputs[0], first.reshape(shape), lost)]


def _weighted(node: ir.Node, index: int, labels: I32) -> list[Step] | str:
    """A MatMul of two activations: the second one's rows are averaged with the first's weights."""
    if index != 1 or labels.ndim < 2:
        return f"{label(node)} takes products with another activation"
    first = constant_along(labels, (labels.ndim - 2,))
    shape = static_shape(node.outputs[0])
    if first is None or shape is None:
        return f"{label(node)} sums over different channels"
    lost: dict[str, str] = {}
    if not _sums_to_one(node.inputs[0]):
        lost[SHIFT] = f"the weights of {label(node)} are no softmax, so they need not sum to one"
    return [Step(node.outputs[0], np.broadcast_to(first, shape), lost, labels.shape[-1])]


def _sums_to_one(value: ir.Value | None) -> bool:
    """Return whether rows of value are a softmax."""
    node = value.producer() if value is not None else None
    shape = static_shape(value)
    if node is None or shape is None or not is_op(node, "Softmax"):
        return False
    return node.attributes.get_int("axis", -1) in (-1, len(shape) - 1)


def _attended(node: ir.Node, index: int, labels: I32) -> list[Step] | str:
    """The fused Attention of opset 23: only the values pass, each repeated for its queries."""
    shape = static_shape(node.outputs[0])
    queries = node.attributes.get_int("q_num_heads", 0)
    heads = node.attributes.get_int("kv_num_heads", 0)
    if index != 2 or shape is None or len(node.outputs) > 1 or len(node.inputs) > 4:
        return f"{label(node)} takes products with another activation"
    if labels.ndim == 3:
        if not heads or not queries:
            return f"{label(node)} does not say how many heads it has"
        labels = labels.reshape(*labels.shape[:2], heads, -1).transpose(0, 2, 1, 3)
    first = constant_along(labels, (2,))
    if first is None:
        return f"{label(node)} sums over different channels"
    total = queries if len(shape) == 3 else shape[1]
    out = np.repeat(first, total // first.shape[1], axis=1)
    if len(shape) == 3:
        out = out.transpose(0, 2, 1, 3).reshape(shape[0], 1, shape[2])
    return [Step(node.outputs[0], np.broadcast_to(out, shape), {}, labels.shape[-1])]


def _same(node: ir.Node, index: int, labels: I32) -> list[Step] | str:
    if index or any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return f"{label(node)} reads it as a parameter"
    return [Step(node.outputs[0], labels)]


Handler = Callable[[ir.Node, int, I32], "list[Step] | str"]
_HANDLERS: Mapping[str, Handler] = {
    **dict.fromkeys((*RESHAPES, "Transpose", "Expand", "Tile"), _moved),
    **dict.fromkeys(("Slice", "Gather", "Split"), _cut),
    **dict.fromkeys(("Identity", "Dropout"), _same),
    **dict.fromkeys(HOMOGENEOUS, _homogeneous),
    **dict.fromkeys(("Mul", "Div"), _product),
    **dict.fromkeys(("Add", "Sub"), _summed),
    **dict.fromkeys((*AVERAGES, "MaxPool"), _pooled),
    **dict.fromkeys(("ReduceMean", "ReduceSum"), _reduced),
    "Concat": _joined,
    "MatMul": _weighted,
    "Attention": _attended,
}

"""Movement operators: they change how a tensor is seen, rarely what is in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ..core.graph import label, shape_of
from .kernels.gather_rows import GatherRows
from .lower import Lowering, Mover, RefusedError
from .values import Plain
from .views import View


def _reshape(low: Lowering, node: ir.Node, view: View, out: int) -> View:
    shape = shape_of(node.outputs[out])
    seen = view.reshape(shape)
    if seen is None:
        name = low.builder.dense(view, str(node.outputs[out].name), (label(node),))
        return View.whole(name, shape)
    return seen


def _transpose(low: Lowering, node: ir.Node, view: View, out: int) -> View:
    rank = len(view.shape)
    order = node.attributes.get_ints("perm", tuple(reversed(range(rank))))
    return view.transpose(order)


def _expand(low: Lowering, node: ir.Node, view: View, out: int) -> View:
    return view.broadcast(shape_of(node.outputs[out]))


def _slice(low: Lowering, node: ir.Node, view: View, out: int) -> View:
    numbers = [low.number(v) if v is not None else None for v in node.inputs[1:]]
    starts, ends, axes, steps = [*numbers, *[None] * (4 - len(numbers))]
    if starts is None or ends is None:
        raise RefusedError(f"{label(node)}: starts and ends must be constants")
    axes = np.arange(starts.size) if axes is None else axes
    steps = np.ones(starts.size, np.int64) if steps is None else steps
    index: list[Any] = [slice(None)] * len(view.shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        limit = view.shape[int(axis)]
        # ONNX spells "to the very beginning" of a reversed slice as a hugely negative end.
        stop = None if int(end) < -limit else int(end)
        index[int(axis)] = slice(int(start), stop, int(step))
    return view.slice(tuple(index))


def _split(low: Lowering, node: ir.Node, view: View, out: int) -> View:
    axis = node.attributes.get_int("axis", 0) % len(view.shape)
    start = sum(shape_of(o)[axis] for o in node.outputs[:out])
    index: list[Any] = [slice(None)] * len(view.shape)
    index[axis] = slice(start, start + shape_of(node.outputs[out])[axis])
    return view.slice(tuple(index))


def _gather(low: Lowering, node: ir.Node, view: View, out: int) -> View:
    index = low.number(node.inputs[1])
    axis = node.attributes.get_int("axis", 0) % len(view.shape)
    if index is None:
        return _gather_rows(low, node, view, axis)
    before: list[Any] = [slice(None)] * axis
    if index.ndim == 0:
        return view.slice((*before, int(index)))
    picks = index.astype(np.int64).reshape(-1) % view.shape[axis]
    steps = set(np.diff(picks)) or {1}
    if len(steps) == 1 and 0 not in steps:
        step = int(steps.pop())
        stop = int(picks[-1]) + (1 if step > 0 else -1)
        seen = view.slice((*before, slice(int(picks[0]), stop if stop >= 0 else None, step)))
        return _reshaped(low, seen, shape_of(node.outputs[out]), node)
    table = low.builder.constant(f"{node.outputs[out].name}_index", picks.astype(np.int32))
    return _rows(low, node, view, axis, table)


def _reshaped(low: Lowering, view: View, shape: Sequence[int], node: ir.Node) -> View:
    seen = view.reshape(shape)
    if seen is not None:
        return seen
    return View.whole(low.builder.dense(view, str(node.outputs[0].name), ()), shape)


def _gather_rows(low: Lowering, node: ir.Node, view: View, axis: int) -> View:
    index = low.known(node.inputs[1])
    if not isinstance(index, Plain):
        raise RefusedError(f"{label(node)}: its indices are neither constant nor integers")
    return _rows(low, node, view, axis, index.view)


def _rows(low: Lowering, node: ir.Node, view: View, axis: int, index: View) -> View:
    outer = int(np.prod(view.shape[:axis]))
    width = int(np.prod(view.shape[axis + 1 :]))
    count = int(np.prod(index.shape))
    names = (label(node),)
    source = low.builder.dense(view, str(node.inputs[0] and node.inputs[0].name), names)
    chosen = low.builder.dense(index, f"{node.outputs[0].name}_index", names)
    dtype = low.builder.buffers[source].dtype
    kernel = GatherRows(outer, view.shape[axis], width, count, dtype)
    name = low.builder.emit(kernel, [source, chosen], [], str(node.outputs[0].name), names)
    return View.whole(name, shape_of(node.outputs[0]))


def _same(low: Lowering, node: ir.Node, view: View, out: int) -> View:
    return view


def _dropout(low: Lowering, node: ir.Node, view: View, out: int) -> View:
    training = node.inputs[2] if len(node.inputs) > 2 else None
    mode = low.number(training)
    if training is not None and (mode is None or mode.any()):
        raise RefusedError(f"{label(node)}: it may be training, which is random")
    return view


MOVEMENT: dict[str, Mover] = {
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Transpose": _transpose,
    "Expand": _expand,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "Identity": _same,
    "Dropout": _dropout,
}

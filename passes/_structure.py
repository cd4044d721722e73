"""Which channels of a model may be scaled, shifted or mixed inside its weights, and why not.

A site is a source (a norm, or a layer) and all layers that read its channels, however they get
there. A residual group is every value joined by additions, with all that writes and reads it.
Found by structure alone, shared by every pass that folds something into weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..compiler.core.encoding import I32
from ..compiler.core.graph import constant, label, static_shape
from ..compiler.core.linear import linear_view
from ._edit import is_op, nodes
from ._flow import KINDS, LAYERS, MIX, SHIFT, constant_along, passed, spread
from ._linear import channel_axis, editable

NORMS = ("LayerNormalization", "RMSNormalization")
NORM, VALUES, GATED, CHAIN = "norm -> layers", "values -> output", "up -> down", "layer -> layer"

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Sink:
    """A layer that reads the channels: `channels` [in] says which one each input is, or -1."""

    node: ir.Node
    channels: I32

    def per_input(self, factors: NDArray[Any], otherwise: float) -> NDArray[Any]:
        """Return the entry of factors [channels] that belongs to every input."""
        return np.where(self.channels >= 0, factors[self.channels], otherwise)


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A norm or a layer whose output channels only layers read.

    `free`: kind -> [channels] that may be changed so; `reasons`: kind -> why others may not.
    `skips`: sums with another activation that read all channels as they are, and at which input:
    what is folded into the site must be undone on the way there (post-norm networks).
    `width`: how many neighbouring channels, from multiples of it on, may be mixed.
    """

    kind: str
    source: ir.Node
    value: ir.Value
    channels: int
    sinks: Sequence[Sink]
    free: Mapping[str, Flags]
    reasons: Mapping[str, Sequence[str]]
    width: int
    skips: Sequence[tuple[ir.Node, int]] = ()

    def refused(self, kind: str) -> str | None:
        """Return why no channel may be changed so, or None if some may."""
        if self.free[kind].any():
            return None
        return next(iter(self.reasons[kind]), "no layer reads it")


@dataclass(slots=True, eq=False)
class _Walk:
    """What a walk from a source has met so far; `origin`: whose skip edges do not end it."""

    channels: int
    read: Flags
    sinks: dict[ir.Node, I32] = field(default_factory=dict[ir.Node, I32])
    lost: dict[str, Flags] = field(default_factory=dict[str, Flags])
    reasons: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    seen: set[ir.Node] = field(default_factory=set[ir.Node])
    width: int = 0
    through: set[str] = field(default_factory=set[str])
    origin: ir.Value | None = None
    skips: list[tuple[ir.Node, int]] = field(default_factory=list[tuple[ir.Node, int]])

    def lose(self, labels: I32, lost: Mapping[str, str]) -> None:
        """Record that these channels may not be changed so any more."""
        for kind, why in lost.items():
            flags = self.lost.setdefault(kind, np.zeros(self.channels, bool))
            flags[labels[labels >= 0]] = True
            if why not in (reasons := self.reasons.setdefault(kind, [])):
                reasons.append(why)


def sites(model: ir.Model, compensated: bool = False) -> Iterator[Site]:
    """Yield the site of every norm and of every layer with constant weights, in graph order.

    `compensated`: norms whose output is also summed with another activation have `skips`.
    """
    for node in nodes(model, *NORMS, *LAYERS):
        site = site_of(node, compensated)
        if site is not None:
            yield site


def site_of(node: ir.Node, compensated: bool = False) -> Site | None:
    """Return the site that begins at a norm or a layer with constant weights, else None."""
    value, axis = _channels_of(node)
    shape = static_shape(value)
    if value is None or shape is None or axis is None:
        return None
    origin = value if compensated and is_op(node, *NORMS) else None
    walk = _walk(value, spread(shape, axis), origin)
    if is_op(node, "Conv") and node.attributes.get_int("group", 1) > 1:
        walk.lose(
            np.arange(walk.channels, dtype=np.int32),
            {MIX: f"{label(node)} works on groups of channels"},
        )
    free = {k: walk.read & ~walk.lost.get(k, np.zeros(walk.channels, bool)) for k in KINDS}
    sinks = [Sink(n, c) for n, c in walk.sinks.items()]
    reasons = {k: tuple(walk.reasons.get(k, ())) for k in KINDS}
    kind = CHAIN
    if is_op(node, *NORMS):
        kind = NORM
    elif sinks and {"MatMul", "Attention"} & walk.through:
        kind = VALUES
    elif sinks and "Mul" in walk.through:
        kind = GATED
    width = walk.width or walk.channels
    return Site(kind, node, value, walk.channels, sinks, free, reasons, width, walk.skips)


def _channels_of(node: ir.Node) -> tuple[ir.Value | None, int | None]:
    """Return the value that node writes, its bias included, and the axis of its channels."""
    if is_op(node, *NORMS):
        return (node.outputs[0], -1) if norm_problem(node) is None else (None, None)
    view = editable(node)
    return (None, None) if isinstance(view, str) else (view.output, channel_axis(view))


def norm_problem(node: ir.Node) -> str | None:
    """Return why gain and offset of a norm cannot be edited, or None."""
    shape = static_shape(node.inputs[0])
    if shape is None or node.attributes.get_int("axis", -1) not in (-1, len(shape) - 1):
        return f"{label(node)} does not normalise over the last axis alone"
    given = [constant(v) for v in node.inputs[1:] if v is not None]
    if any(d is None or d.shape != shape[-1:] for d in given):
        return f"the gain or offset of {label(node)} is not constant"
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return f"the statistics of {label(node)} are read"
    return None


def _walk(value: ir.Value, labels: I32, origin: ir.Value | None) -> _Walk:
    channels = int(labels.max()) + 1
    walk = _Walk(channels, np.zeros(channels, bool), origin=origin)
    queue = [(value, labels)]
    while queue:
        value, labels = queue.pop(0)
        if value.is_graph_output():
            walk.lose(labels, dict.fromkeys(KINDS, f"'{value.name}' is an output of the model"))
        for use in value.uses():
            queue += _visit(walk, use.node, use.idx, labels)
    return walk


def _visit(walk: _Walk, node: ir.Node, index: int, labels: I32) -> list[tuple[ir.Value, I32]]:
    """Enter node with labels; return where they come out, if they do."""
    if is_op(node, *LAYERS) and index == 0 and linear_view(node) is not None:
        read = _read(node, labels)
        if isinstance(read, str) or node in walk.sinks:
            why = read if isinstance(read, str) else f"{label(node)} reads it twice"
            walk.lose(labels, dict.fromkeys(KINDS, why))
        else:
            walk.sinks[node] = read
            walk.read[read[read >= 0]] = True
            walk.lose(read, _conv_losses(node))
        return []
    if node.inputs[index] is walk.origin and _sums_activations(node):
        walk.skips.append((node, index))
        why = f"{label(node)} joins it with another activation"
        walk.lose(labels, {SHIFT: why, MIX: why})
        return []
    steps = passed(node, index, labels)
    if not isinstance(steps, str) and node in walk.seen and node.op_type in ("Mul", "Concat"):
        steps = f"{label(node)} joins it with itself"
    walk.seen.add(node)
    if isinstance(steps, str):
        walk.lose(labels, dict.fromkeys(KINDS, steps))
        return []
    walk.through.add(node.op_type)
    for step in steps:
        walk.lose(step.labels, step.lost)
        walk.width = min(filter(None, (walk.width, step.width)), default=0)
    return [(s.value, s.labels) for s in steps if bool((s.labels >= 0).any())]


def _sums_activations(node: ir.Node) -> bool:
    """Return whether node adds two activations of the shape of its result."""
    shapes = {static_shape(v) for v in (*node.inputs, *node.outputs)}
    return (
        is_op(node, "Add")
        and len(shapes) == 1
        and not any(constant(v) is not None for v in node.inputs)
    )


def _conv_losses(node: ir.Node) -> dict[str, str]:
    """Return what a convolution does not take back in its weights."""
    lost: dict[str, str] = {}
    if is_op(node, "Conv"):
        automatic = node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
        if automatic or any(node.attributes.get_ints("pads", ())):
            lost[SHIFT] = f"{label(node)} pads with zeros"
        if node.attributes.get_int("group", 1) > 1:
            lost[MIX] = f"{label(node)} works on groups of channels"
    return lost


def _read(node: ir.Node, labels: I32) -> I32 | str:
    """Return which channel each input of a layer is, or why that is not one answer."""
    view = editable(node)
    if isinstance(view, str):
        return f"{label(node)}: {view}"
    if node.attributes.get_int("transA", 0):
        return f"{label(node)} transposes its input"
    axis = 1 if node.op_type == "Conv" else labels.ndim - 1
    first = constant_along(labels, tuple(i for i in range(labels.ndim) if i != axis))
    if first is None:
        return f"{label(node)} reads different channels at different places"
    return np.ascontiguousarray(first.reshape(-1))


def whole_blocks(channels: I32, width: int) -> bool:
    """Return whether inputs come in whole blocks of width channels, each in its order."""
    if channels.size % width:
        return False
    blocks = channels.reshape(-1, width)
    starts = blocks[:, :1]
    return bool((starts % width == 0).all() and (blocks == starts + np.arange(width)).all())


def mixable(site: Site) -> str | None:
    """Return why channels of a site may not be mixed in whole blocks of its width, or None."""
    if (reason := site.refused(MIX)) is not None:
        return reason
    if site.channels % site.width:
        return f"{site.channels} channels are no multiple of {site.width}"
    blocks = site.free[MIX].reshape(-1, site.width)
    if (blocks.any(axis=1) != blocks.all(axis=1)).any():
        return next(iter(site.reasons[MIX]), "no layer reads some of its channels")
    for sink in site.sinks:
        if not site.free[MIX][sink.channels].all() or (sink.channels < 0).any():
            return f"{label(sink.node)} reads channels that must stay, too"
        if not whole_blocks(sink.channels, site.width):
            return f"{label(sink.node)} does not read them in their order"
    return None

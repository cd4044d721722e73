"""Fold a rotation of a stream, or of the values of attention heads, into the weights around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..compiler.core.encoding import F64
from ..compiler.core.graph import add_constant, label, set_constant, tensor_of
from ._edit import Notes, is_op, replace
from ._flow import MIX
from ._linear import NOT_FINITE, Cast, Draft
from ._norm import RMS_OPSET, rms_problem
from ._online import OnlineSite, OnlineTurn, insert_turns, undoing
from ._residual import Residual
from ._site_edit import layer_draft, norm_parameters, write_norm_parameters
from ._structure import NORMS, VALUES, Site, mixable, sites

# Written into the nodes around a rotated stream, so that no pass rotates it again.
MARK = "edgec.rotated"
# The same for the layer whose values are turned head by head.
HEADS = "edgec.heads_rotated"


# One step of rewriting a layer.
Change = Callable[[Draft], None]


def _absorbing(scale: F64, shift: F64) -> Change:
    return lambda layer: layer.absorb(scale, shift)


def around(stream: Residual) -> Iterator[ir.Node]:
    """Yield every node that writes or reads a stream through weights."""
    yield from stream.layers
    yield from stream.readers
    yield from (node for node, _, _ in stream.constants)
    yield from (site.source for site in stream.norms)


@dataclass(slots=True, eq=False)
class Rotation:
    """Rotations that are collected as steps, computed layer by layer in float64, written at once.

    Only what will be stored is held of all layers, so that models of many gigabytes fit.
    """

    name: str
    steps: dict[ir.Node, list[Change]] = field(default_factory=dict[ir.Node, list[Change]])
    constants: list[tuple[ir.Node, int, NDArray[Any]]] = field(
        default_factory=list[tuple[ir.Node, int, NDArray[Any]]]
    )
    norms: dict[ir.Node, bool] = field(default_factory=dict[ir.Node, bool])
    marked: dict[ir.Node, str] = field(default_factory=dict[ir.Node, str])
    online: list[tuple[OnlineSite, OnlineTurn]] = field(
        default_factory=list[tuple[OnlineSite, OnlineTurn]]
    )

    def _then(self, node: ir.Node, *changes: Change) -> None:
        self.steps.setdefault(node, []).extend(changes)

    def turn_stream(self, stream: Residual, matrix: F64) -> None:
        """Let the stream hold x @ matrix, [channels, channels]; x without its mean where norms
        drop it."""
        writing = matrix
        if stream.centred:
            writing = matrix - matrix.mean(axis=0, keepdims=True)
        for node in stream.layers:
            self._then(node, lambda layer: layer.mix_outputs(writing))
        for node, index, axis in stream.constants:
            data = tensor_of(node.inputs[index])
            assert data is not None
            turned = np.moveaxis(np.moveaxis(data.astype(np.float64), axis, -1) @ writing, -1, axis)
            self.constants.append((node, index, turned.astype(data.dtype)))
        for site in stream.norms:
            gain, offset = norm_parameters(site.source)
            for sink in site.sinks:
                absorb = _absorbing(sink.per_input(gain, 1.0), sink.per_input(offset, 0.0))
                self._then(sink.node, absorb, lambda layer: layer.mix_inputs(matrix))
            self.norms[site.source] = stream.centred
        for node in stream.readers:
            self._then(node, lambda layer: layer.mix_inputs(matrix))
        self.marked |= dict.fromkeys(around(stream), MARK)

    def turn_values(self, site: Site, matrix: F64) -> None:
        """Let the values of every head be v @ matrix, [head, head], and the output undo it."""
        blocks = site.free[MIX][:: site.width]  # all or none of a block is free
        self._then(site.source, lambda layer: layer.mix_outputs(matrix, blocks))
        for sink in site.sinks:
            self._then(sink.node, lambda layer: layer.mix_inputs(matrix))
        self.marked[site.source] = HEADS

    def turn_online(self, site: OnlineSite, turn: OnlineTurn) -> None:
        """Let the layers of site read x @ (turn.a (x) turn.b), and undo it in their weights."""
        outer, inner = undoing(turn.a), undoing(turn.b)
        for node in site.readers:
            self._then(node, lambda layer: layer.mix_inputs(outer, len(inner)),
                       lambda layer: layer.mix_inputs(inner))  # fmt: skip
        self.online.append((site, turn))

    def write(self, model: ir.Model) -> str | None:
        """Write everything, or nothing and say why."""
        done: list[Cast] = []
        for node, changes in self.steps.items():
            layer = layer_draft(node)
            for change in changes:
                change(layer)
            if (cast := layer.cast()) is None:
                return NOT_FINITE
            done.append(cast)
        for cast in done:
            cast.write()
        for node, index, data in self.constants:
            set_constant(node, index, data)
        for node, mark in self.marked.items():
            node.metadata_props[mark] = self.name
        insert_turns(model, self.online)
        for norm, centred in self.norms.items():
            self._plain(norm, centred)
            if centred:
                model.opset_imports[""] = max(model.opset_imports[""], RMS_OPSET)
        return None

    def _plain(self, norm: ir.Node, centred: bool) -> None:
        """Take gain and offset from a norm, and the mean where the stream has none any more."""
        gain, offset = norm_parameters(norm)
        if not centred:
            write_norm_parameters(norm, np.ones_like(gain), np.zeros_like(offset))
            return
        old, graph = tensor_of(norm.inputs[1]), norm.graph
        assert old is not None and isinstance(graph, ir.Graph)
        ones = add_constant(graph, f"{norm.outputs[0].name}.gain", np.ones_like(old))
        attributes = {"axis": -1, "epsilon": norm.attributes.get_float("epsilon", 1e-5)}
        new = replace(norm, "RMSNormalization", [norm.inputs[0], ones], self.name, attributes)
        node = new.producer()
        assert node is not None and is_op(node, "RMSNormalization")
        node.metadata_props[MARK] = self.name


def stream_problem(model: ir.Model, stream: Residual) -> str | None:
    """Return why a stream may not be turned, or None."""
    if stream.refused is not None:
        return stream.refused
    if any(MARK in node.metadata_props for node in around(stream)):
        return "it has been turned before"
    return rms_problem(model) if stream.centred else None


def head_sites(model: ir.Model) -> Iterator[tuple[Site, str | None]]:
    """Yield where values of attention reach their output projection, and why they may not turn."""
    for site in sites(model):
        if site.kind == VALUES and not is_op(site.source, *NORMS):
            yield (
                site,
                "it has been turned before"
                if HEADS in site.source.metadata_props
                else mixable(site),
            )


def online_heads(model: ir.Model) -> Iterator[tuple[str, OnlineSite | str]]:
    """Yield what output projections read of several heads, or why their heads cannot be mixed."""
    for site in sites(model):
        if site.kind != VALUES or is_op(site.source, *NORMS):
            continue
        reason = mixable(site)
        for sink in site.sinks:
            value, heads = sink.node.inputs[0], len(sink.channels) // site.width
            where = f"heads -> {label(sink.node)}"
            if reason is not None or value is None:
                yield where, str(reason)
            elif heads > 1 and is_op(sink.node, "MatMul", "Gemm"):
                yield where, OnlineSite(value, [sink.node], len(sink.channels), heads)


def weight_bytes(model: ir.Model) -> int:
    """Return the bytes of all constants."""
    held = [v.const_value for v in model.graph.initializers.values()]
    return sum(t.nbytes for t in held if t is not None)


def write_and_note(
    rotation: Rotation, model: ir.Model, done: Sequence[tuple[str, str]], notes: Notes
) -> None:
    """Write what was collected, or nothing, and note (where, what) of it and what it cost."""
    if not done:
        return
    before, count = weight_bytes(model), len(model.graph)
    failed = rotation.write(model)
    for where, text in done:
        notes.add(where, text, failed)
    nodes, size_bytes = len(model.graph) - count, weight_bytes(model) - before
    if failed is None:
        notes.add("graph", f"{nodes} nodes and {size_bytes} bytes of constants added", None)

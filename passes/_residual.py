"""The values that additions join into one stream, with everything that writes and reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from ..compiler.core.encoding import I32
from ..compiler.core.graph import label, static_shape, tensor_of
from ..compiler.core.linear import linear_view
from ._edit import is_op
from ._flow import LAYERS, MIX, passed, spread
from ._linear import channel_axis, editable
from ._structure import NORMS, Site, mixable, norm_problem, site_of


@dataclass(frozen=True, slots=True, eq=False)
class Residual:
    """A stream of channels: all `values` hold the same ones.

    `layers` and `constants` (node, input, axis) write it, `norms` and `readers` (layers) read it;
    `refused`: why its channels may not be mixed, or None.
    """

    channels: int
    values: Sequence[ir.Value]
    layers: Sequence[ir.Node]
    constants: Sequence[tuple[ir.Node, int, int]]
    norms: Sequence[Site]
    readers: Sequence[ir.Node]
    refused: str | None

    @property
    def centred(self) -> bool:
        """Whether its norms subtract the mean."""
        return any(is_op(site.source, "LayerNormalization") for site in self.norms)

    @property
    def name(self) -> str:
        """How reports call it."""
        return f"residual of {self.channels} channels from '{self.values[0].name}'"


def residuals(model: ir.Model) -> Iterator[Residual]:
    """Yield every stream that a norm reads or that a layer is added into."""
    seen: set[ir.Value] = set()
    for node in model.graph:
        seed = node.inputs[0] if is_op(node, *NORMS) else None
        if is_op(node, "Add") and _joins_a_layer(node):
            seed = node.outputs[0]
        shape = static_shape(seed)
        if seed is None or seed in seen or shape is None or len(shape) < 2:
            continue
        axis = len(shape) - 1 if is_op(node, *NORMS) or len(shape) != 4 else 1
        flood = _Flood(shape[axis])
        flood.join(seed, axis)
        flood.run()
        seen |= set(flood.axes)
        yield flood.result()


@dataclass(slots=True, eq=False)
class _Flood:
    """What is known of a stream while its values are being found."""

    channels: int
    axes: dict[ir.Value, int] = field(default_factory=dict[ir.Value, int])
    queue: list[ir.Value] = field(default_factory=list[ir.Value])
    layers: dict[ir.Node, None] = field(default_factory=dict[ir.Node, None])
    constants: dict[tuple[ir.Node, int, int], None] = field(
        default_factory=dict[tuple[ir.Node, int, int], None]
    )
    norms: dict[ir.Node, None] = field(default_factory=dict[ir.Node, None])
    readers: dict[ir.Node, None] = field(default_factory=dict[ir.Node, None])
    reasons: list[str] = field(default_factory=list[str])

    def join(self, value: ir.Value, axis: int) -> None:
        """Add a value whose channels lie along axis."""
        shape = static_shape(value)
        if shape is None or shape[axis] != self.channels:
            self.reasons.append(f"the channels of '{value.name}' are not the same")
        elif self.axes.setdefault(value, axis) != axis:
            self.reasons.append(f"'{value.name}' holds the channels along two axes")
        elif value not in self.queue:
            self.queue.append(value)

    def run(self) -> None:
        """Follow every value up and down, until nothing new is met or it is refused."""
        done = 0
        while done < len(self.queue) and not self.reasons:
            value = self.queue[done]
            self._up(value, self.axes[value])
            self._down(value, self.axes[value])
            done += 1

    def result(self) -> Residual:
        """Return the stream, with the first reason against it."""
        norms = [site for node in self.norms if (site := site_of(node)) is not None]
        reasons = [*self.reasons, *self._conflicts(norms)]
        return Residual(
            self.channels, tuple(self.axes), tuple(self.layers), tuple(self.constants), norms,
            tuple(self.readers), reasons[0] if reasons else None,
        )  # fmt: skip

    def _conflicts(self, norms: Sequence[Site]) -> Iterator[str]:
        kinds = {site.source.op_type for site in norms}
        if len(kinds) > 1:
            yield "norms with and without mean read it"
        if "LayerNormalization" in kinds and self.readers:
            yield f"{label(next(iter(self.readers)))} reads its mean, which a rotation would drop"
        for site in norms:
            why = mixable(site)
            if why is None and site.width != site.channels:
                why = "its channels may only be mixed in blocks"
            if why is not None:
                yield f"{label(site.source)}: {why}"
        if not self.layers and not self.constants:
            yield "nothing with weights writes it"
        if not norms and not self.readers:
            yield "nothing with weights reads it"

    def _up(self, value: ir.Value, axis: int) -> None:
        node = value.producer()
        if node is None:
            self.reasons.append(f"'{value.name}' is an input of the model")
        elif is_op(node, *NORMS):
            self.reasons.append(f"{label(node)} writes it: its gain does not commute (post-norm)")
        elif (layer := _layer_writing(node)) is not None:
            self._written(layer, axis)
        elif is_op(node, "Add"):
            self._added(node, axis)
        elif is_op(node, "Gather") and tensor_of(node.inputs[0]) is not None:
            self._looked_up(node, axis)
        else:
            self._moved(node, value, axis)

    def _written(self, layer: ir.Node, axis: int) -> None:
        view = editable(layer)
        if isinstance(view, str):
            self.reasons.append(f"{label(layer)}: {view}")
        elif channel_axis(view) != axis:
            self.reasons.append(f"{label(layer)} writes its channels along another axis")
        elif layer.attributes.get_int("group", 1) > 1:
            self.reasons.append(f"{label(layer)} works on groups of channels")
        else:
            self.layers[layer] = None

    def _looked_up(self, node: ir.Node, axis: int) -> None:
        rank = len(static_shape(node.outputs[0]) or ())
        table = tensor_of(node.inputs[0])
        if node.attributes.get_int("axis", 0) or table is None or table.ndim != 2:
            self.reasons.append(f"{label(node)} does not look up rows of a table")
        elif axis != rank - 1:
            self.reasons.append(f"{label(node)} writes its channels along another axis")
        else:
            self.constants[node, 0, 1] = None

    def _added(self, node: ir.Node, axis: int) -> None:
        """Both operands of an Add hold the channels, a constant one too."""
        rank = len(static_shape(node.outputs[0]) or ())
        for index, operand in enumerate(node.inputs):
            shape = static_shape(operand)
            if operand is None or shape is None:
                self.reasons.append(f"{label(node)} has operands of unknown shape")
                continue
            own = axis - (rank - len(shape))
            if own < 0 or shape[own] != self.channels:
                self.reasons.append(f"{label(node)} adds the same number to all channels")
            elif tensor_of(operand) is not None:
                self.constants[node, index, own] = None
            else:
                self.join(operand, own)

    def _moved(self, node: ir.Node, value: ir.Value, axis: int) -> None:
        """Find along which axis of its inputs a moving operator takes the channels."""
        for index, operand in enumerate(node.inputs):
            if operand is None or operand.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
                continue
            data = tensor_of(operand)
            if data is not None and data.size == 1 and is_op(node, "Mul", "Div"):
                continue
            source = self._axis_before(node, index, value, axis)
            if isinstance(source, str):
                self.reasons.append(source)
            elif data is not None:
                self.constants[node, index, source] = None
            else:
                self.join(operand, source)

    def _axis_before(self, node: ir.Node, index: int, value: ir.Value, axis: int) -> int | str:
        shape = static_shape(node.inputs[index]) or ()
        for candidate in reversed(range(len(shape))):
            if shape[candidate] != self.channels:
                continue
            steps = passed(node, index, spread(shape, candidate))
            if isinstance(steps, str):
                return steps
            for step in steps:
                if step.value is value and self._axis_after(step.labels) == axis:
                    return step.lost.get(MIX, candidate)
        return f"{label(node)} writes it"

    def _axis_after(self, labels: I32) -> int | None:
        """Return the axis along which labels count all channels wherever they are carried."""
        carried = labels >= 0
        for axis, size in enumerate(labels.shape):
            if size != self.channels or not carried.any():
                continue
            if bool((labels == spread(labels.shape, axis))[carried].all()):
                return axis
        return None

    def _down(self, value: ir.Value, axis: int) -> None:
        if value.is_graph_output():
            self.reasons.append(f"'{value.name}' is an output of the model")
        for use in value.uses():
            self._read(use.node, use.idx, value, axis)

    def _read(self, node: ir.Node, index: int, value: ir.Value, axis: int) -> None:
        shape = static_shape(value) or ()
        if is_op(node, "Add"):
            out = static_shape(node.outputs[0]) or shape
            self.join(node.outputs[0], axis + len(out) - len(shape))
        elif is_op(node, *NORMS) and index == 0:
            if (problem := norm_problem(node)) is not None or axis != len(shape) - 1:
                self.reasons.append(problem or f"{label(node)} normalises another axis")
            self.norms[node] = None
        elif is_op(node, *LAYERS) and index == 0 and linear_view(node) is not None:
            self._read_by_layer(node, axis, len(shape))
        else:
            steps = passed(node, index, spread(shape, axis))
            if isinstance(steps, str):
                self.reasons.append(steps)
                return
            for step in steps:
                after = self._axis_after(step.labels)
                if MIX in step.lost or after is None:
                    why = f"{label(node)} takes its channels apart"
                    self.reasons.append(step.lost.get(MIX, why))
                else:
                    self.join(step.value, after)

    def _read_by_layer(self, node: ir.Node, axis: int, rank: int) -> None:
        wanted = 1 if node.op_type == "Conv" else rank - 1
        problem = editable(node)
        if isinstance(problem, str):
            self.reasons.append(f"{label(node)}: {problem}")
        elif axis != wanted or node.attributes.get_int("transA", 0):
            self.reasons.append(f"{label(node)} contracts another axis")
        elif node.attributes.get_int("group", 1) > 1:
            self.reasons.append(f"{label(node)} works on groups of channels")
        else:
            self.readers[node] = None


def _joins_a_layer(add: ir.Node) -> bool:
    """Return whether add sums two activations of which a layer writes one."""
    producers = [v.producer() for v in add.inputs if v is not None and tensor_of(v) is None]
    return len(producers) == 2 and any(p is not None and _layer_writing(p) for p in producers)


def _layer_writing(node: ir.Node) -> ir.Node | None:
    """Return the layer whose result node writes: itself, or the one before its bias."""
    if is_op(node, *LAYERS):
        return node if linear_view(node) is not None else None
    for value in node.inputs if is_op(node, "Add") else ():
        producer = value.producer() if value is not None else None
        view = linear_view(producer) if producer is not None else None
        if view is not None and view.bias_node is node:
            return producer
    return None

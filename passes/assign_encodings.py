"""Choose an int8 encoding for every stored activation and every weight (W8A8, static)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..compiler.core.encoding import (
    F32,
    STATE_BITS,
    WIDE_BITS,
    TensorEncoding,
    affine_encoding,
    symmetric_encoding,
)
from ..compiler.core.graph import constant, matches, model_from_text, tensor_of
from ..compiler.core.linear import linear_view
from ..compiler.core.operators import RECURRENT
from ..compiler.core.passbase import Context, Example, Note, Outcome
from ..compiler.core.plan import QuantPlan
from ..compiler.core.states import states_of
from ..compiler.core.stats import ValueStats
from ._islands import Islands, analyse, is_mask, scalar
from ._linear import room_for_bias
from ._sensitive import KINDS, can_be_wide, recurrent_states

SOFTMAX = TensorEncoding(8, (1 / 256,), (-128,))
# Constants whose smallest number is below this are not stored as multiples of it.
SMALLEST_STEP = 1e-8
# Operators whose constant operands are tensors of their own (not weights or biases).
OPERAND_OPS = frozenset({"Add", "Sub", "Mul", "Concat", "Where", "Gather", "MatMul"})


@dataclass(frozen=True, slots=True)
class AssignEncodings:
    """Activations asymmetric per tensor from calibrated ranges; weights symmetric per channel.

    Tensors joined by Concat or Where share one encoding. Softmax gets the fixed range [0, 1).
    `wide` names the kinds of sensitive activations (KINDS) that get 12 bits in int16, symmetric;
    `wide_named` more of them, by patterns of their own or their layers' names.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    wide: tuple[str, ...] = ()
    wide_named: tuple[str, ...] = ()

    name: ClassVar[str] = "assign_encodings"

    @staticmethod
    def kinds() -> tuple[str, ...]:
        """Return the kinds of activations that `wide` may name."""
        return tuple(KINDS)

    def decide(self, model: ir.Model, ctx: Context) -> tuple[QuantPlan, Outcome]:
        """Return the plan with an encoding for all that integer kernels read or write."""
        islands = analyse(model.graph)
        ranges, declined = _ranges(islands, ctx)
        groups = _groups(model.graph, islands)
        wide = dict.fromkeys(self._wide(model.graph, islands, groups), WIDE_BITS)
        wide |= dict.fromkeys(recurrent_states(model.graph, islands, groups), STATE_BITS)
        encodings = {
            name: self._encoding(low, high, wide.get(name))
            for name, (low, high) in _joined(ranges, groups).items()
        }
        encodings |= _softmax_outputs(islands, groups)
        encodings |= self._operands(model.graph, islands, groups, encodings, wide)
        weights = self._weights(model.graph, islands, encodings)
        changed = [Note(name, _describe(e)) for name, e in (encodings | weights).items()]
        new = {n: e for n, e in (encodings | weights).items() if n not in ctx.plan.encodings}
        return ctx.plan.with_encodings(new), Outcome(changed, declined)

    def _encoding(self, low: float, high: float, wide: int | None) -> TensorEncoding:
        if wide is not None:
            return symmetric_encoding(max(abs(low), abs(high)), wide, None)
        return affine_encoding(low, high, self.activation_bits)

    def _wide(self, graph: ir.Graph, islands: Islands, groups: dict[str, str]) -> set[str]:
        """Return the names of the activations and constants that get WIDE_BITS."""
        asked = {v for kind in self.wide for v in KINDS[kind](graph, islands)}
        asked |= {v for v in islands.stored if matches(v, self.wide_named)}
        fit = {v for v in asked if tensor_of(v) is not None or can_be_wide(v, islands)}
        narrow = {str(v.name) for v in islands.stored if v not in fit}
        kept_back = {groups[name] for name in narrow if name in groups}
        names = {str(v.name) for v in fit}
        return {name for name in names if groups.get(name, name) not in kept_back}

    def _operands(
        self, graph: ir.Graph, islands: Islands, groups: dict[str, str],
        encodings: dict[str, TensorEncoding], wide: Mapping[str, int],
    ) -> dict[str, TensorEncoding]:  # fmt: skip
        """Encode constant tensors that enter elementwise and joining operators."""
        found: dict[str, TensorEncoding] = {}
        for node in graph:
            if node.op_type not in OPERAND_OPS:
                continue
            view = linear_view(node)
            for index, value in enumerate(node.inputs):
                data = constant(value)
                if data is None or value is None or not _is_operand(node, index, value, islands):
                    continue
                if view is not None and index == view.weight_index:
                    continue
                shared = encodings.get(groups.get(str(value.name), str(value.name)))
                low, high = float(data.min()), float(data.max())
                name = str(value.name)
                encoding = shared or _whole_multiples(data, self.activation_bits)
                found[name] = encoding or self._encoding(low, high, wide.get(name))
        return found

    def _weights(
        self, graph: ir.Graph, islands: Islands, encodings: dict[str, TensorEncoding]
    ) -> dict[str, TensorEncoding]:
        found: dict[str, TensorEncoding] = {}
        for node in graph:
            view = linear_view(node)
            if view is None or node.inputs[0] is None:
                continue
            source = encodings.get(str(islands.root(node.inputs[0]).name))
            if source is None:
                continue
            magnitude = np.abs(view.weight.reshape(view.weight.shape[0], -1)).max(axis=1)
            largest = (1 << (self.weight_bits - 1)) - 1
            magnitude = room_for_bias(view, magnitude, source.scale[0], largest)
            found[view.weight_name] = symmetric_encoding(magnitude, self.weight_bits, view.out_axis)
        return found | self._recurrent_weights(graph, islands, encodings)

    def _recurrent_weights(
        self, graph: ir.Graph, islands: Islands, encodings: dict[str, TensorEncoding]
    ) -> dict[str, TensorEncoding]:
        """Encode the weights [directions, rows, k] of LSTM and GRU per row."""
        found: dict[str, TensorEncoding] = {}
        for node in graph:
            if node.op_type not in RECURRENT or node.inputs[0] is None:
                continue
            for value in node.inputs[1:3]:
                data = constant(value)
                if str(islands.root(node.inputs[0]).name) in encodings and data is not None:
                    magnitude = np.abs(data).max(axis=(0, 2))
                    found[str(value and value.name)] = symmetric_encoding(
                        magnitude, self.weight_bits, 1
                    )
        return found

    @staticmethod
    def examples() -> Iterable[Example]:
        """A Conv with Relu fires; an integer-only model has nothing to encode."""
        rng = np.random.default_rng(0)
        model = model_from_text(
            """<ir_version: 10, opset_import: ["" : 21]>
            m (float[1,2,4,4] X) => (float[1,3,2,2] Y) {
              C = Conv <kernel_shape = [3, 3]> (X, W, B)
              Y = Relu (C)
            }""",
            W=rng.standard_normal((3, 2, 3, 3)).astype(np.float32),
            B=rng.standard_normal(3).astype(np.float32),
        )
        feeds = {"X": rng.standard_normal((1, 2, 4, 4)).astype(np.float32)}
        stats = {name: _stats(-2.0, 3.0) for name in ("X", "C", "Y")}
        yield Example(model, feeds, Context(stats))
        yield Example(model, feeds, fires=False)  # not calibrated


def _whole_multiples(data: F32, bits: int) -> TensorEncoding | None:
    """Return the encoding that holds data exactly as multiples of its smallest number, or None."""
    sizes = np.abs(data[data != 0])
    largest = (1 << (bits - 1)) - 1
    if not sizes.size or sizes.min() < SMALLEST_STEP or sizes.max() / sizes.min() > largest:
        return None
    codes = data / sizes.min()
    exact = np.array_equal(np.rint(codes) * sizes.min(), data)
    return TensorEncoding(bits, (float(sizes.min()),), (0,)) if exact else None


def _stats(low: float, high: float) -> ValueStats:
    ends = np.array([low], np.float32), np.array([high], np.float32)
    return ValueStats(low, high, low, high, *ends, np.zeros(1, np.float32), 0)


def _describe(encoding: TensorEncoding) -> str:
    kind = "per channel" if encoding.axis is not None else "per tensor"
    sort = "symmetric" if not any(encoding.zero_point) else "asymmetric"
    return f"int{encoding.bits} {sort} {kind}"


def _ranges(islands: Islands, ctx: Context) -> tuple[dict[str, tuple[float, float]], list[Note]]:
    """Return the calibrated range of every stored value, and what has none."""
    ranges: dict[str, tuple[float, float]] = {}
    declined: list[Note] = []
    for value in islands.stored:
        seen = ctx.stats.get(str(value.name))
        if seen is None:
            declined.append(Note(str(value.name), "not calibrated: stays float"))
        elif seen.high - seen.low <= 1e-12 and abs(seen.high) <= 1e-12:
            ranges[str(value.name)] = (0.0, 1.0)  # always zero: any scale stores it
        else:
            ranges[str(value.name)] = (seen.low, seen.high)
    return ranges, declined


def _groups(graph: ir.Graph, islands: Islands) -> dict[str, str]:
    """Return value name -> representative for values that must share one encoding.

    These are what Concat or Where joins, and a state's input with the output that becomes it.
    """
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for node in graph:
        if node.op_type not in ("Concat", "Where") or is_mask(node.outputs[0]):
            continue
        joined = node.inputs if node.op_type == "Concat" else node.inputs[1:3]
        if node.outputs[0].dtype != ir.DataType.FLOAT:
            continue
        for value in joined:
            if value is not None:
                parent[find(str(islands.root(value).name))] = find(str(node.outputs[0].name))
    outputs = {str(v.name): islands.root(v) for v in graph.outputs}
    for source, target in states_of(graph).items():  # what comes out goes in again as it is
        parent[find(source)] = find(str(outputs[target].name))
    return {name: find(name) for name in parent}


def _joined(
    ranges: dict[str, tuple[float, float]], groups: dict[str, str]
) -> dict[str, tuple[float, float]]:
    """Widen every range to that of its group; names of groups are kept as they are."""
    widest: dict[str, tuple[float, float]] = {}
    for name, (low, high) in ranges.items():
        group = groups.get(name, name)
        a, b = widest.get(group, (low, high))
        widest[group] = (min(a, low), max(b, high))
    return {name: widest[groups.get(name, name)] for name in ranges}


def _softmax_outputs(islands: Islands, groups: dict[str, str]) -> dict[str, TensorEncoding]:
    outputs = [v for v in islands.stored if (n := v.producer()) and n.op_type == "Softmax"]
    return {str(v.name): SOFTMAX for v in outputs if str(v.name) not in groups}


def _is_operand(node: ir.Node, index: int, value: ir.Value, islands: Islands) -> bool:
    """True if a constant is read as a tensor of codes by the kernel of node."""
    if scalar(value) is not None or is_mask(value) or is_mask(node.outputs[0]):
        return False
    data = tensor_of(value)
    if data is None or data.dtype.kind != "f":
        return False
    if node.op_type == "Gather":
        return index == 0
    if node.op_type == "Add":  # the bias of a MatMul belongs to its kernel
        other = node.inputs[1 - index]
        producer = None if other is None else other.producer()
        view = None if producer is None else linear_view(producer)
        return view is None or view.bias_node is not node
    return True

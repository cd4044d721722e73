"""Which float values an integer kernel produces or reads, and which exist only inside one.

A value is *inherited* when a movement operator makes it (it has the encoding of its root),
*absorbed* when its readers are computed in the same kernel as itself (bias, clamp, scalar factor,
additive mask, the inside of an elementwise region), and *stored* otherwise: stored values get an
encoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..compiler.core.graph import sole_consumer, tensor_of
from ..compiler.core.linear import linear_view
from ..compiler.core.masks import masked_mean
from ..compiler.core.operators import HIDDEN_INPUT, MASKED, NORMS, RECURRENT, UNARY
from ..compiler.core.states import states_of

MOVEMENT = frozenset(
    {
        "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Slice", "Split",
        "Gather", "Identity", "Dropout", "MaxPool",
    }
)  # fmt: skip
CLAMPED = frozenset(
    {
        "Conv", "Gemm", "MatMul", "Add", "Sub", "Mul", "AveragePool", "GlobalAveragePool",
    }
) | NORMS  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Islands:
    """`stored` values in graph order; `roots` maps inherited values to the value they re-view."""

    stored: tuple[ir.Value, ...]
    roots: Mapping[ir.Value, ir.Value]
    absorbed: frozenset[ir.Value]

    def root(self, value: ir.Value) -> ir.Value:
        """Return the value whose encoding `value` has."""
        return self.roots.get(value, value)


def is_float(value: ir.Value) -> bool:
    """True for float32 values that are computed or fed, not constants."""
    return value.dtype == ir.DataType.FLOAT and tensor_of(value) is None


def scalar(value: ir.Value | None) -> float | None:
    """Return the number in a one-element constant, else None."""
    data = tensor_of(value)
    return float(data.reshape(-1)[0]) if data is not None and data.size == 1 else None


def is_mask(value: ir.Value | None) -> bool:
    """True for an additive attention mask: zeros and huge negatives, constant or chosen."""
    data = tensor_of(value)
    if data is not None:
        removed = data <= MASKED
        return bool(removed.any() and np.all(removed | (data == 0)))
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Where":
        return False
    a, b = (scalar(v) for v in node.inputs[1:3])
    return a is not None and b is not None and max(a, b) == 0 and min(a, b) <= MASKED


def analyse(graph: ir.Graph) -> Islands:
    """Sort every float value of graph into stored, inherited and absorbed."""
    roots: dict[ir.Value, ir.Value] = {}
    absorbed: set[ir.Value] = set()
    values = [v for v in graph.inputs if is_float(v)]
    own = hidden_starts(graph)
    for node in graph:
        for out in node.outputs:
            if not is_float(out) or not (out.uses() or out.is_graph_output()):
                continue
            values.append(out)
            if out not in own:
                _classify(node, out, roots, absorbed)
    absorbed |= _mean_interiors(graph)
    absorbed |= _region_interiors(graph)
    stored = tuple(v for v in values if v not in roots and v not in absorbed)
    return Islands(stored, roots, frozenset(absorbed))


def _mean_interiors(graph: ir.Graph) -> set[ir.Value]:
    """Return the masks, sums and counts inside means over kept tokens."""
    means = [mean for node in graph if (mean := masked_mean(node)) and mean.keep is not None]
    return {v for mean in means for v in (mean.weight, *mean.interior)}


def hidden_starts(graph: ir.Graph) -> set[ir.Value]:
    """Return the hidden states that are moved out of a state of the model.

    They lie within 1 while cells, stored in the same state, may lie far outside: a hidden state
    keeps its bits in an encoding of its own.
    """
    states = states_of(graph)
    return {
        value
        for node in graph
        if node.op_type in RECURRENT and len(node.inputs) > HIDDEN_INPUT
        and (value := node.inputs[HIDDEN_INPUT]) is not None and value.producer() is not None
        and _source_name(value) in states
    }  # fmt: skip


def _source_name(value: ir.Value) -> str:
    """Return the name of what value is moved from."""
    while (node := value.producer()) is not None and node.op_type in MOVEMENT and node.inputs[0]:
        value = node.inputs[0]
    return str(value.name)


def _classify(
    node: ir.Node, out: ir.Value, roots: dict[ir.Value, ir.Value], absorbed: set[ir.Value]
) -> None:
    source = node.inputs[0] if node.inputs else None
    if node.op_type in MOVEMENT and source is not None:
        # A table looked up at run time is its own root: it is stored as a constant.
        roots[out] = roots.get(source, source)
        return
    if _is_absorbed(node, out):
        absorbed.add(out)


def _is_absorbed(node: ir.Node, out: ir.Value) -> bool:
    """True if the only reader of out is computed by the kernel that computes out."""
    if is_mask(out):
        return True
    reader = sole_consumer(out)
    if reader is None:
        return False
    if node.op_type == "MatMul" and (view := linear_view(node)) and view.bias_node is reader:
        return True
    if reader.op_type in ("Relu", "Clip") and node.op_type in CLAMPED:
        return True
    if node.op_type in ("MatMul", "Gemm", "Conv") and _positive_factor(reader, out):
        return True
    return _masks(node) and reader.op_type == "Softmax"


def _masks(node: ir.Node) -> bool:
    return node.op_type == "Add" and any(is_mask(v) for v in node.inputs)


def _positive_factor(reader: ir.Node, value: ir.Value) -> bool:
    if reader.op_type not in ("Mul", "Div") or (
        reader.op_type == "Div" and reader.inputs[0] is not value
    ):
        return False
    other = reader.inputs[1] if reader.inputs[0] is value else reader.inputs[0]
    factor = scalar(other)
    return factor is not None and factor > 0


def _joins_producer(node: ir.Node, source: ir.Value) -> bool:
    """True if node is the clamp, bias or factor of the kernel that computes its input."""
    inputs = [v for v in node.inputs if v is not None and is_float(v)]
    if len(inputs) != 1 or sole_consumer(inputs[0]) is not node:
        return False
    producer = inputs[0].producer()
    return producer is not None and _is_absorbed(producer, inputs[0])


def _region_interiors(graph: ir.Graph) -> set[ir.Value]:
    """Return elementwise results read only by the elementwise region they belong to.

    A result that others read too is stored, and whoever reads it starts from there. That may give
    a region two sources and break it, which makes more results stored: repeat until none does.
    """
    stored: frozenset[ir.Value] = frozenset()
    while True:
        regions = _regions(graph, stored)
        interiors = {v for v in regions if v not in stored and _is_interior(v, regions)}
        more = frozenset(regions) - interiors
        if more <= stored:
            return interiors
        stored |= more


def _regions(graph: ir.Graph, stored: frozenset[ir.Value]) -> dict[ir.Value, ir.Value]:
    """Return the source of every value that is elementwise in one value."""
    regions: dict[ir.Value, ir.Value] = {}
    for node in graph:
        source = node.inputs[0] if node.inputs else None
        if source is not None and _joins_producer(node, source):
            continue
        base = _region_source(node, regions, stored)
        for out in node.outputs:
            if base is not None and is_float(out):
                regions[out] = base
    return regions


def _is_interior(value: ir.Value, regions: dict[ir.Value, ir.Value]) -> bool:
    readers = list(value.consumers())
    inside = all(regions.get(o) is regions[value] for n in readers for o in n.outputs)
    return bool(readers) and inside and not value.is_graph_output()


def _region_source(
    node: ir.Node, regions: dict[ir.Value, ir.Value], stored: frozenset[ir.Value]
) -> ir.Value | None:
    """Return the one value that an elementwise node is a function of, else None."""
    if node.op_type not in UNARY:
        return None
    sources: set[ir.Value] = set()
    for value in node.inputs:
        if value is None or scalar(value) is not None:
            continue
        if not is_float(value):
            return None
        sources.add(value if value in stored else regions.get(value, value))
    return sources.pop() if len(sources) == 1 else None

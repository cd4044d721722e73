"""From a path or a model object to a checked model in which every shape is static."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import InlinePass

from ..core.errors import ModelError
from ..core.graph import label
from ..core.kronecker import EDGEC_DOMAIN
from ..core.passbase import Note
from .branches import inline_branches
from .halves import widen_halves
from .shapes import bind_shapes, check, infer_shapes
from .source import Readable, c_identifier, open_model, tensors

__all__ = ["Loaded", "c_identifier", "load"]

Floats = NDArray[Any]

MIN_OPSET = 7  # what ONNX Runtime still runs
MIN_IR_VERSION = 10  # from here on initializers need not be inputs and all working types exist

# Infinity is a legitimate constant in a mask or a bound; anywhere else it ruins the encoding.
_MASKING = frozenset(
    {"Where", "Clip", "Max", "Min", "Slice", "Expand", "Unsqueeze", "Pad", "Trilu"}
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready for the passes; `notes` says what loading had to decide or remove."""

    model: ir.Model
    name: str
    notes: tuple[Note, ...]
    source_sha256: str


def load(
    source: Readable, shapes: Mapping[str, Sequence[int]] | None = None, finite: bool = True
) -> Loaded:
    """Return the model of source with static shapes; the source itself is not changed.

    `shapes` maps input names to full shapes; `finite`: refuse weights with NaN or infinity, which
    no encoding holds. Raises ModelError listing all problems at once.
    """
    opened = open_model(source)
    model = opened.model
    model.ir_version = max(model.ir_version, MIN_IR_VERSION)
    notes = [*_drop_constant_inputs(model), *_inline_functions(model)]
    name_nodes(model)
    _require_opset(model)
    if problems := _unknown_operators(model) or check(model):
        raise ModelError(problems)  # nothing that follows can be trusted
    if branches := inline_branches(model):
        notes += branches
        name_nodes(model)
    notes += _drop_unused(model)
    problems = [*_control_flow(model), *(_bad_weights(model) if finite else ())]
    guesses, unbound = bind_shapes(model, shapes or {})
    problems += unbound
    # On an invalid, open or branching graph inference would only repeat the complaints.
    if not problems:
        problems = infer_shapes(model)
    if problems:
        raise ModelError(problems)
    notes += widen_halves(model)
    return Loaded(model, opened.name, (*notes, *guesses), opened.sha256)


def _drop_constant_inputs(model: ir.Model) -> list[Note]:
    """Old IR versions list every weight as an input too; those are constants."""
    graph = model.graph
    listed = [v for v in graph.inputs if v.name in graph.initializers]
    kept = [v for v in graph.inputs if v.name not in graph.initializers]
    graph.inputs.clear()
    graph.inputs.extend(kept)
    return [Note(str(v.name), "input with a default value, taken as a constant") for v in listed]


def _inline_functions(model: ir.Model) -> list[Note]:
    names = sorted(f.name for f in model.functions.values() if f.domain != EDGEC_DOMAIN)
    if not names:
        return []
    try:
        InlinePass(lambda function: function.domain != EDGEC_DOMAIN)(model)
    except Exception as error:
        cause = error.__cause__ or error
        raise ModelError(f"model-local functions cannot be inlined: {cause}") from error
    for key in [k for k, f in model.functions.items() if f.domain != EDGEC_DOMAIN]:
        del model.functions[key]
    return [Note(name, "model-local function inlined") for name in names]


def name_nodes(model: ir.Model) -> None:
    """Give every node a name of its own, from its op type and position."""
    taken: set[str] = set()
    for index, node in enumerate(model.graph):
        wanted = node.name or f"{node.op_type}_{index}"
        name, serial = wanted, 1
        while name in taken:
            serial += 1
            name = f"{wanted}_{serial}"
        node.name = name
        taken.add(name)


def _require_opset(model: ir.Model) -> None:
    opset = model.opset_imports.get("", MIN_OPSET)
    if opset < MIN_OPSET:
        raise ModelError(
            f"opset {opset} is too old: {MIN_OPSET} is the first that ONNX Runtime runs; "
            "export the model again with opset 17 or newer"
        )


def _unknown_operators(model: ir.Model) -> list[str]:
    """Name every node whose operator ONNX does not define; its checker stops at the first."""
    known = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    problems: list[str] = []
    for node in model.graph:
        if node.domain in ("", "ai.onnx") and not onnx.defs.has(node.op_type):
            near = difflib.get_close_matches(node.op_type, known, 1, 0.75)
            hint = f"did you mean {near[0]}?" if near else "give its node the domain it belongs to"
            problems.append(f"{label(node)}: ONNX has no operator {node.op_type}; {hint}")
    return problems


def _drop_unused(model: ir.Model) -> list[Note]:
    """Remove nodes and weights that no output depends on."""
    notes: list[Note] = []
    for node in reversed(list(model.graph)):
        if not any(v.uses() or v.is_graph_output() for v in node.outputs):
            notes.append(Note(label(node), "no output depends on it; removed"))
            model.graph.remove(node, safe=True)
    unused = [
        name
        for name, value in model.graph.initializers.items()
        if not value.uses() and not value.is_graph_output()
    ]
    for name in unused:
        del model.graph.initializers[name]
    return notes + [Note(name, "weight that nothing reads; removed") for name in unused]


def _subgraph_nodes(model: ir.Model) -> list[ir.Node]:
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return [n for n in model.graph if any(a.type in kinds for a in n.attributes.values())]


def _control_flow(model: ir.Model) -> list[str]:
    advice = {
        "If": "its condition is not a constant; export the branch that the device needs",
        "Loop": "unroll it when exporting",
        "Scan": "unroll it or use the LSTM, GRU or RNN operator",
    }
    return [
        f"{label(node)}: control flow is not supported; "
        + advice.get(node.op_type, "replace it by plain operators")
        for node in _subgraph_nodes(model)
    ]


def _bad_weights(model: ir.Model) -> list[str]:
    """Name every float weight that holds NaN, or infinity where it is not a mask or a bound."""
    problems: list[str] = []
    for value, tensor in tensors(model):
        if not tensor.dtype.is_floating_point():
            continue
        data = tensor.numpy()
        if data.dtype.itemsize == 1:  # float8 and smaller: few values, widen to ask
            data = data.astype(np.float32)
        if _any_in_blocks(data, np.isnan):
            problems.append(f"weight '{value.name}' holds NaN; export a model that is trained")
        elif _any_in_blocks(data, np.isinf) and not _masks(value, data):
            problems.append(f"weight '{value.name}' holds infinity; export a finite model")
    return problems


def _any_in_blocks(data: Floats, ask: Callable[[Floats], Floats]) -> bool:
    """Whether ask holds anywhere; in blocks, so that a big weight needs no big temporary."""
    flat = data.reshape(-1)
    return any(bool(ask(flat[i : i + (1 << 20)]).any()) for i in range(0, flat.size, 1 << 20))


def _masks(value: ir.Value, data: Floats) -> bool:
    # An added bias is a vector; an added mask has at least two axes and only -inf.
    added = data.ndim >= 2 and not bool(np.isposinf(data).any())
    return all(n.op_type in _MASKING or (n.op_type == "Add" and added) for n in value.consumers())

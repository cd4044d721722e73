"""If whose condition is a constant: the branch that is always taken becomes part of the graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..core.graph import fresh_name, label, take_over, tensor_of
from ..core.passbase import Note


def inline_branches(model: ir.Model) -> list[Note]:
    """Inline every If of the main graph, innermost last, whose condition is known now."""
    notes: list[Note] = []
    while (found := _decided(model.graph)) is not None:
        node, taken = found
        name = "then_branch" if taken else "else_branch"
        notes.append(Note(label(node), f"its condition is always {taken}; {name} inlined"))
        _inline(model.graph, node, node.attributes[name].as_graph())
    return notes


def _decided(graph: ir.Graph) -> tuple[ir.Node, bool] | None:
    for node in graph:
        if node.op_type == "If" and node.domain in ("", "ai.onnx"):
            condition = tensor_of(node.inputs[0])
            if condition is not None and condition.size == 1:
                return node, bool(np.ravel(condition)[0])
    return None


def _inline(graph: ir.Graph, node: ir.Node, branch: ir.Graph) -> None:
    """Move the nodes of branch before node and let its outputs stand for those of node."""
    results = list(branch.outputs)
    branch.outputs.clear()
    for value in list(branch.initializers.values()):
        branch.initializers.pop(str(value.name))
        value.name = fresh_name(graph, str(value.name))
        graph.register_initializer(value)
    moved = list(branch)
    branch.remove(moved)
    for inner in moved:
        for value in inner.outputs:
            value.name = fresh_name(graph, str(value.name))
        graph.insert_before(node, inner)
    for old, result in zip(node.outputs, results, strict=True):
        # A branch may hand on a value of the graph around it, or the same value twice.
        whole = ir.node("Identity", [result], name=fresh_name(graph, f"{old.name}.branch"))
        whole.outputs[0].name = fresh_name(graph, f"{old.name}.branch")
        graph.insert_before(node, whole)
        take_over(old, whole.outputs[0])
    graph.remove(node, safe=True)

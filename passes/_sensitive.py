"""Which activations lose most when they are rounded to 8 bits: found by structure, never by name.

Every other layer averages the rounding of its inputs over long sums with weights. A product of
two activations does not: it multiplies the errors of both, so what enters or leaves one is worth
more bits. Nor does the sum before a norm: a few large channels (outliers of transformers) set its
step, and the norm magnifies the rounding of all others. Both were found by leaving encodings out
(notes of docs/results.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from ..compiler.core.graph import tensor_of
from ..compiler.core.kronecker import is_kronecker
from ..compiler.core.linear import linear_view
from ..compiler.core.operators import CARRY_STATE, CARRY_WIDE, NORMS, READ_WIDE, TABULATED, WIDE
from ..compiler.core.states import states_of
from ._islands import Islands, hidden_starts, is_mask, scalar


def attention_operands(graph: ir.Graph, islands: Islands) -> set[ir.Value]:
    """Return what enters a MatMul of two activations, back to the layers that project it."""
    found: set[ir.Value] = set()
    for node in graph:
        if node.op_type == "MatMul" and linear_view(node) is None:
            for value in node.inputs:
                if value is not None:
                    _collect(value, islands, found)
    return found


def gated_products(graph: ir.Graph, islands: Islands) -> set[ir.Value]:
    """Return products of two stored activations that a linear layer reads (SwiGLU, GLU)."""
    found: set[ir.Value] = set()
    for node in graph:
        view = linear_view(node)
        if view is None or node.inputs[0] is None:
            continue
        value = islands.root(node.inputs[0])
        product = value.producer()
        if product is None or product.op_type != "Mul" or value not in islands.stored:
            continue
        if all(v is not None and islands.root(v) in islands.stored for v in product.inputs):
            found.add(value)
    return found


def norm_sums(graph: ir.Graph, islands: Islands) -> set[ir.Value]:
    """Return the sums of two activations that norms read, and what layers add into them."""
    found: set[ir.Value] = set()
    for node in graph:
        value = node.inputs[0] if node.op_type in NORMS else None
        total = None if value is None else islands.root(value)
        addition = None if total is None else total.producer()
        if total is None or addition is None or addition.op_type != "Add":
            continue
        if total not in islands.stored:
            continue
        found.add(total)
        for term in addition.inputs:
            root = None if term is None else islands.root(term)
            if root in islands.stored and (_is_linear(root) or _undoes_scale(root)):
                found.add(root)
    return found


def _is_linear(value: ir.Value) -> bool:
    """True if a layer with weights makes value, its bias included."""
    node = value.producer()
    if node is not None and node.op_type == "Add":
        views = [linear_view(p) for v in node.inputs if v is not None and (p := v.producer())]
        return any(view is not None and view.bias_node is node for view in views)
    return node is not None and linear_view(node) is not None


def _undoes_scale(value: ir.Value) -> bool:
    """True if value is an activation times constants (what Outlier Suppression+ adds)."""
    node = value.producer()
    constants = [] if node is None else [tensor_of(v) is not None for v in node.inputs if v]
    return node is not None and node.op_type == "Mul" and any(constants)


def _collect(value: ir.Value, islands: Islands, found: set[ir.Value]) -> None:
    """Add the root of value and everything that is carried into it."""
    root = islands.root(value)
    if root in found or is_mask(root) or scalar(root) is not None:
        return
    node = root.producer()
    if tensor_of(root) is not None or node is None or node.op_type in ("MatMul", "Gemm"):
        found.add(root)
    elif node.op_type in CARRY_WIDE:
        if root in islands.absorbed:
            return
        found.add(root)
        if any(v is not None and v in islands.absorbed for v in node.inputs):
            return  # the bias or factor of a linear layer
        for source in node.inputs[1:] if node.op_type == "Where" else node.inputs:
            if source is not None:
                _collect(source, islands, found)


def before_turns(graph: ir.Graph, islands: Islands) -> set[ir.Value]:
    """Return what is turned at run time: outliers that only leave it set its step."""
    turned = [node.inputs[0] for node in graph if is_kronecker(node)]
    roots = {islands.root(value) for value in turned if value is not None}
    return {root for root in roots if root in islands.stored}


def recurrent_states(
    graph: ir.Graph, islands: Islands, groups: Mapping[str, str]
) -> set[str]:  # fmt: skip
    """Return the names of what a recurrent layer carries from run to run.

    All that shares a state's encoding must be written and read by kernels of any width.
    """
    carried = {groups[name] for name in states_of(graph) if name in groups}
    members = [v for v in islands.stored if groups.get(str(v.name)) in carried]
    starts = hidden_starts(graph)
    unfit = {
        groups[str(v.name)]
        for v in members
        if not (_made_for(v, CARRY_STATE) and _carried_on(v, islands, starts))
    }
    fit = {str(v.name) for v in members if groups[str(v.name)] not in unfit}
    return fit | {str(v.name) for v in starts} if fit else set()


def _made_for(value: ir.Value, makers: frozenset[str]) -> bool:
    node = value.producer()
    return node is None or node.op_type in makers


def _carried_on(value: ir.Value, islands: Islands, starts: set[ir.Value]) -> bool:
    """True if only kernels that carry or take states, and layers with weights, read value."""
    views = starts | set(_views(value, islands))
    readers = [n for v in (value, *_views(value, islands)) for n in v.consumers()]
    takers = CARRY_STATE | {"MatMul", "Gemm"}
    return all(n.outputs[0] in views or n.op_type in takers for n in readers)


def _views(value: ir.Value, islands: Islands) -> list[ir.Value]:
    return [v for v, root in islands.roots.items() if root is value]


def can_be_wide(value: ir.Value, islands: Islands) -> bool:
    """True if kernels write value, and read it wherever it goes, with more than 8 bits."""
    node = value.producer()
    if node is not None and node.op_type not in WIDE | TABULATED:
        return False
    views = _views(value, islands)
    readers = [n for v in (value, *views) for n in v.consumers()]
    return all(n.op_type in READ_WIDE or n.outputs[0] in views for n in readers)


KINDS: Mapping[str, Callable[[ir.Graph, Islands], set[ir.Value]]] = {
    "attention operands": attention_operands,
    "gated products": gated_products,
    "sums before norms": norm_sums,
    "what is turned at run time": before_turns,
}

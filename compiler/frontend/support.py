"""Which operators of a model nothing in the compiler can lower, in words."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

import onnx_ir as ir

from ..core.artifact import stored_dtype
from ..core.graph import label
from ..core.kronecker import EDGEC_DOMAIN

_SHOWN = 5
# Domains whose operators ONNX Runtime knows, so that a model with them can be evaluated.
RUNNABLE_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", EDGEC_DOMAIN})


def unsupported(model: ir.Model, supported: Collection[str]) -> list[str]:
    """Return one sentence per operator of model outside supported, naming its nodes.

    `supported` holds op types of the ONNX domain, and `domain::Op` for other domains. Functions
    of the domain `edgec` are storage formats of this compiler and always supported.
    """
    groups: dict[str, list[ir.Node]] = {}
    for node in model.graph:
        if node.domain != EDGEC_DOMAIN:
            groups.setdefault(_key(node), []).append(node)
    return [_sentence(key, groups[key], supported) for key in groups if key not in supported]


def foreign(model: ir.Model) -> list[str]:
    """Return one sentence per operator of model from a domain that nothing here can run."""
    known = {_key(node) for node in model.graph if node.domain in RUNNABLE_DOMAINS}
    return unsupported(model, known)


def without_c_type(model: ir.Model) -> list[str]:
    """Return one sentence per public value whose type C lacks, naming a node that uses it."""
    found: list[str] = []
    for value in (*model.graph.inputs, *model.graph.outputs):
        if stored_dtype(value.dtype) is None:
            kind = str(value.type) if value.dtype is None else value.dtype.name.lower()
            users = [value.producer(), *value.consumers()]
            where = next((label(n) for n in users if n is not None), "the model")
            found.append(
                f"{where}: '{value.name}' has type {kind}, which C has no type for; "
                "export it as float32 or an integer type"
            )
    return found


def _key(node: ir.Node) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def _sentence(key: str, nodes: Sequence[ir.Node], supported: Collection[str]) -> str:
    names = ", ".join(f"'{n.name or n.outputs[0].name}'" for n in nodes[:_SHOWN])
    more = f" and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else ""
    noun = "node" if len(nodes) == 1 else "nodes"
    domain = "" if "::" not in key else f" of domain '{nodes[0].domain}'"
    return (
        f"{nodes[0].op_type}{domain} ({noun} {names}{more}) is not supported; "
        f"{_advice(key, nodes[0], supported)}"
    )


def _advice(key: str, node: ir.Node, supported: Collection[str]) -> str:
    if "::" in key:
        if node.op_type in supported:
            return f"export it as the standard ONNX operator {node.op_type}"
        return "export the model without it, or give it a body as a model-local function"
    near = difflib.get_close_matches(node.op_type, supported, 1, 0.75)
    hint = f", for example {near[0]}" if near else ""
    return f"rewrite it with supported operators when exporting{hint}"

"""`edgec inspect`, `targets`, `passes`, `recipes`, `doctor`: facts, without compiling anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_common import PATH, TOOL_MISSING, Verb, print_json, shape, shapes_by_name
from .core.units import capacity_text, size_text
from .terminal import print_table

if TYPE_CHECKING:
    from .inspect import Foldable, Inspection, Tensor
    from .stages import Step


@click.command("inspect", cls=Verb)
@click.argument("model", type=PATH)
@click.option("--shape", "shapes", type=shape, multiple=True, help="Shape of an open input.")
def inspect_verb(model: Path, shapes: Sequence[tuple[str, tuple[int, ...]]], as_json: bool) -> int:
    """Show what is in MODEL and whether it would compile."""
    by_name = shapes_by_name(shapes)
    from .inspect import inspect_model

    found = inspect_model(model, by_name)
    if as_json:
        print_json(_inspection(found))
    else:
        _show_inspection(found)
    return 0


def _inspection(found: Inspection) -> dict[str, Any]:
    return {
        "name": found.name,
        "opset": found.opset,
        "already_quantised": found.already_quantised,
        "inputs": [_tensor(t) for t in found.inputs],
        "outputs": [_tensor(t) for t in found.outputs],
        "operators": dict(found.operators),
        "parameters": found.parameters,
        "parameter_bytes": found.parameter_bytes,
        "passes": [_step(s) for s in found.steps],
        "canonical_operators": dict(found.canonical_operators),
        "macs": {"total": sum(found.macs.values()), **found.macs},
        "peak_activation_bytes": found.peak_activation_bytes,
        "kernels": dict(found.kernels),
        "float_islands": list(found.float_islands),
        "foldable": [asdict(site) for site in found.foldable],
        "compiles": not found.problems,
        "problems": list(found.problems),
    }


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype}


def _step(step: Step) -> dict[str, Any]:
    return {
        "name": step.name,
        "changed": [{"where": n.where, "text": n.text} for n in step.outcome.changed],
        "declined": [{"where": n.where, "text": n.text} for n in step.outcome.declined],
    }


def _show_inspection(found: Inspection) -> None:
    kind = "already quantised" if found.already_quantised else "float"
    rows = [[found.name, f"opset {found.opset}, {kind}"]]
    rows += [["input", _tensor_text(t)] for t in found.inputs]
    rows += [["output", _tensor_text(t)] for t in found.outputs]
    rows.append(["operators", _counts_text(found.operators)])
    rows.append(["parameters", f"{found.parameters:,} ({size_text(found.parameter_bytes)})"])
    macs = ", ".join(f"{name} {count:,}" for name, count in found.macs.items())
    rows.append(["MACs", f"{sum(found.macs.values()):,}" + (f" ({macs})" if macs else "")])
    if (peak := found.peak_activation_bytes) is not None:
        rows.append(["activations", f"about {size_text(peak)} alive at once as int8"])
    rows += [["canonical form", text] for text in _changes(found.steps)]
    rows.append(["gives", _counts_text(found.canonical_operators)])
    if found.kernels:
        rows.append(["kernels", _counts_text(found.kernels)])
    rows += [["in float", text] for text in found.float_islands]
    rows += [["foldable", text] for text in _foldable(found.foldable)]
    rows += [["PROBLEM", text] for text in found.problems]
    if not found.problems:
        extent = "mostly" if found.float_islands else "wholly"
        rows.append(["compiles", f"yes, {extent} on integers"])
    print_table(rows)


def _changes(steps: Sequence[Step]) -> list[str]:
    """Return one line per pass that changed something."""
    lines: list[str] = []
    for step in steps:
        notes = step.outcome.changed
        if len(notes) == 1:
            lines.append(f"{step.name}: {notes[0].where}: {notes[0].text}")
        elif notes:
            lines.append(f"{step.name}: {len(notes)} places")
    return lines


def _foldable(sites: Sequence[Foldable]) -> list[str]:
    """Return one line per kind of site and what may be done, with the first reason why not more."""
    alike: dict[tuple[str, tuple[str, ...]], list[Foldable]] = {}
    for site in sites:
        alike.setdefault((site.kind, site.may), []).append(site)
    lines: list[str] = []
    for (kind, may), group in alike.items():
        first = group[0]
        where = f"{len(group)} places" if len(group) > 1 else first.source
        reasons = dict.fromkeys(first.reasons.values())
        why = f"; not more: {'; '.join(reasons)}" if reasons else ""
        lines.append(f"{kind}: {where}: channels {_listed(may)}{why}")
    return lines


def _listed(may: Sequence[str]) -> str:
    verbs = {"scale": "scaled", "shift": "shifted", "mix": "mixed"}
    return f"may be {', '.join(verbs[kind] for kind in may)}" if may else "must stay"


def _tensor_text(tensor: Tensor) -> str:
    return f"{tensor.name}  {'x'.join(map(str, tensor.shape)) or 'scalar'}  {tensor.dtype}"


def _counts_text(counts: Any) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


@click.command("targets", cls=Verb)
def targets_verb(as_json: bool) -> int:
    """List the devices that can be compiled for: cores, then boards with their memory."""
    from ..targets import targets

    rows: list[dict[str, Any]] = []
    absent: dict[tuple[str, str], list[str]] = {}
    for name, (spec, backend) in targets().items():
        compiler = (spec.family, spec.cc)
        if compiler not in absent:
            absent[compiler] = [t.package for t in backend.missing(spec)]
        rows.append(
            {
                "name": name,
                "family": spec.family,
                "cpu": spec.cpu,
                "isa": spec.isa,
                "description": spec.description,
                "core": spec.core or None,
                "flash_bytes": spec.flash_bytes,
                "ram_bytes": spec.ram_bytes,
                "missing": absent[compiler],
            }
        )
    if as_json:
        print_json({"targets": rows})
        return 0
    cells = [
        [
            r["name"], r["isa"], capacity_text(r["flash_bytes"]), capacity_text(r["ram_bytes"]),
            r["description"], f"needs {', '.join(r['missing'])}" if r["missing"] else "",
        ]
        for r in rows
    ]  # fmt: skip
    print_table(cells, ("target", "inner loops", "flash", "RAM", "device", ""), right=(2, 3))
    return 0


@click.command("passes", cls=Verb)
def passes_verb(as_json: bool) -> int:
    """List the graph rewrites and decisions."""
    from .inspect import list_passes

    found = list_passes()
    if as_json:
        print_json({"passes": [{**vars(p)} for p in found]})
    else:
        header = ("pass", "kind", "runs", "what it does")
        print_table([(p.name, p.kind, p.runs, p.summary) for p in found], header)
    return 0


@click.command("recipes", cls=Verb)
def recipes_verb(as_json: bool) -> int:
    """List the recipes that --recipe takes."""
    from .recipes import RECIPES

    if as_json:
        print_json({"recipes": [{"name": n, **asdict(r)} for n, r in RECIPES.items()]})
    else:
        rows = [(n, ", ".join(r.passes), r.text) for n, r in RECIPES.items()]
        print_table(rows, ("recipe", "passes it asks for", "what it does"))
    return 0


@click.command("doctor", cls=Verb)
def doctor_verb(as_json: bool) -> int:
    """Look for the tools and packages that edgec needs."""
    from ..targets.doctor import diagnose

    checks = diagnose()
    needed = [c for c in checks if not c.found and set(c.needed_for) != {"tests"}]
    if as_json:
        rows = [
            {
                "tool": c.tool, "found": c.found, "version": c.version, "path": c.path,
                "needed_for": list(c.needed_for), "why": c.why, "install": c.install,
            }
            for c in checks
        ]  # fmt: skip
        print_json({"passed": not needed, "checks": rows})
    else:
        print_table(
            [
                ["ok" if c.found else "MISSING", c.tool, c.version or c.install, c.why]
                for c in checks
            ]
        )
    return TOOL_MISSING if needed else 0

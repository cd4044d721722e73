"""Why a limit does not hold: by how much, which layer or tensor is to blame, what would fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..targets import targets
from ..targets.spec import TargetSpec
from . import pipeline
from .core.artifact import Manifest
from .core.encoding import WIDE_BITS
from .core.errors import OptionError
from .core.units import capacity_text, size_text
from .drop import measured_drop
from .gates import GateVerdict, flash_bytes, ram_bytes
from .lowering.memory import plan_arena
from .memory_map import alive, content, where
from .options import CompileOptions
from .report import size_by_layer
from .stages import Built, Quantised

_SHOWN = 3
Rows = Sequence[Mapping[str, Any]]


def refusals(
    built: Built, manifest: Manifest, gates: Sequence[GateVerdict], layers: Rows,
    options: CompileOptions, spec: TargetSpec,
) -> list[str]:  # fmt: skip
    """Return one line per limit that does not hold; `layers`: those of the report."""
    found: list[str] = []
    for verdict in (g for g in gates if not g.passed):
        match verdict.name:
            case "flash_bytes":
                sentences = [*_over(verdict, manifest, options, spec), _flash_blame(built)]
                sentences += [*_boards(manifest, spec), _limit("--max-flash", verdict.value)]
            case "ram_bytes":
                sentences = [*_over(verdict, manifest, options, spec), _ram_blame(built, manifest)]
                sentences += [*_patches(built, options)]
                sentences += [*_narrower(built, manifest, options, verdict.limit)]
                sentences += [*_boards(manifest, spec), _limit("--max-ram", verdict.value)]
            case _:
                sentences = [_lost(verdict, manifest), *_drop_blame(built, layers)]
                sentences += _wider(built, options, verdict)
        found.append(" ".join(sentences))
    return found


def _over(
    verdict: GateVerdict, manifest: Manifest, options: CompileOptions, spec: TargetSpec
) -> list[str]:
    """Return by how much a limit of memory is broken, and whose limit it is."""
    flash = verdict.name == "flash_bytes"
    asked = options.max_flash_bytes if flash else options.max_ram_bytes
    option = "--max-flash" if flash else "--max-ram"
    what = "flash" if flash else "RAM without the stack"
    least = "" if manifest.memory.flash_bytes is not None else "at least "
    value, limit = int(verdict.value), int(verdict.limit)
    whose = f"{option} allows" if asked else f"{spec.name} has"
    return [
        f"FAILED {option if asked else spec.name}: {what} is {least}{value:,} bytes, "
        f"{value - limit:,} more than the {limit:,} that {whose}."
    ]


def _flash_blame(built: Built) -> str:
    rows = sorted(size_by_layer(built), key=lambda row: -row["weights_bytes"])[:_SHOWN]
    heavy = [
        f"{where(r['nodes'])} {size_text(r['weights_bytes'])}" for r in rows if r["weights_bytes"]
    ]
    total = size_text(built.c_model.weights_bytes)
    return f"Constants take {total} of it, most of all {'; '.join(heavy)}."


def _ram_blame(built: Built, manifest: Manifest) -> str:
    arena = built.c_model.arena
    program = built.lowered.on_device
    at = arena.peak_call
    largest = alive(arena)[:_SHOWN]
    names = [f"{content(program, b)} {size_text(b.size_bytes)}" for b in largest]
    ports = ram_bytes(manifest) - manifest.memory.arena_bytes
    return (
        f"The arena takes {size_text(arena.size_bytes)} of it, fullest at "
        f"{where(program.calls[at].nodes)}, where these are alive at once: {'; '.join(names)}. "
        f"Inputs, outputs and the rest take {size_text(ports)}."
    )


def _patches(built: Built, options: CompileOptions) -> list[str]:
    """Return what became of patches."""
    if options.patches == "never":
        return ["--patches auto would try to run the first layers patch by patch."]
    choice = built.lowered.choice
    return [] if choice is None else [f"Patches: {choice.text}."]


def _boards(manifest: Manifest, spec: TargetSpec) -> list[str]:
    """Return which board of the family, the smallest first, has the memory."""
    flash, ram = flash_bytes(manifest), ram_bytes(manifest)
    boards = [s for s, _ in targets().values() if s.core and s.family == spec.family]
    if not boards:
        return []
    fit = [
        s for s in boards
        if (s.flash_bytes or flash) >= flash and (s.ram_bytes or ram) >= ram
    ]  # fmt: skip
    if not fit:
        return ["No board known of this family has the memory."]
    if spec in fit:
        return []  # the limit was an option, not the board
    best = min(fit, key=lambda s: (s.ram_bytes or 0, s.flash_bytes or 0))
    memory = f"{capacity_text(best.ram_bytes)} of RAM"
    if best.flash_bytes:
        memory = f"{capacity_text(best.flash_bytes)} of flash, {memory}"
    return [f"The smallest board it would fit is {best.name} ({memory})."]


def _limit(option: str, value: float) -> str:
    return f"The least limit that would do is {option} {-(-int(value) // 1024)}K."


def _narrower(built: Built, manifest: Manifest, options: CompileOptions, limit: float) -> list[str]:
    """Return what RAM the model takes without 12-bit activations, where it has some."""
    planned = built.lowered.quantised.planned
    if not any(e.bits == WIDE_BITS for e in planned.plan.encodings.values()):
        return []
    optional = tuple(t.name for t in pipeline.CORRECTIONS)
    narrow = options.model_copy(
        update={"wide_activations": "never", "no_passes": optional, "passes": ()}
    )
    quantised = pipeline.quantise(pipeline.decide(planned.ranged, narrow), narrow)
    arena = plan_arena(pipeline.lower_program(quantised, narrow).program, manifest.isa)
    value = ram_bytes(manifest) - manifest.memory.arena_bytes + arena.size_bytes
    verdict = "would fit" if value <= limit else "would not be enough either"
    return [f"--wide-activations never takes {value:,} bytes and {verdict}."]


def _lost(verdict: GateVerdict, manifest: Manifest) -> str:
    what = {
        "agreement": "the top 1 differs from the float model's in",
        "noise": "the error's share of the outputs' power is",
    }.get(manifest.gates.drop_measure, f"{manifest.gates.drop_measure} got worse by")
    percent = manifest.gates.drop_measure not in ("nll", "max_abs", "sqnr_db")
    show: Callable[[float], str] = (lambda v: f"{v:.2%}") if percent else (lambda v: f"{v:.4g}")
    over = verdict.value - verdict.limit
    return (
        f"FAILED --max-drop: {what} {show(verdict.value)}, {show(over)} more than the "
        f"{show(verdict.limit)} allowed."
    )


def _drop_blame(built: Built, layers: Rows) -> list[str]:
    """Return the layer that adds most error to what its inputs bring."""
    noise = {row["value"]: 10 ** (-row["sqnr_db"] / 10) for row in layers}
    nodes = {row["value"]: row["nodes"] for row in layers}
    program = built.lowered.program
    worst, added, brought = "", 0.0, 0.0
    for call in program.calls:
        origin = program.origins.get(call.outputs[0])
        if origin is None or origin.value not in noise:
            continue
        sources = [program.origins[n].value for n in call.inputs if n in program.origins]
        before = max((noise[s] for s in sources if s in noise), default=0.0)
        if noise[origin.value] - before > added:
            worst, brought = origin.value, before
            added = noise[origin.value] - before
    if not worst:
        return []
    text = f"the error's share rises from {brought:.2%} to {noise[worst]:.2%}"
    return [f"Most is lost at {where(nodes[worst])} ('{worst}'): {text}."]


def _wider(built: Built, options: CompileOptions, verdict: GateVerdict) -> list[str]:
    """Return what 12-bit activations everywhere they are possible would lose, measured."""
    advice: list[str] = []
    if options.wide_activations != "always" and (wide := _widened(built, options)) is not None:
        lost = measured_drop(wide, options)
        fits = "would do" if lost <= verdict.limit else "would not be enough"
        advice.append(f"--wide-activations always loses {lost:.4g} and {fits}.")
    if options.calibration_method != "auto":
        advice.append("--calibration-method auto takes the method with the lowest error.")
    least = math.ceil(verdict.value * 1e4) / 100
    return [*advice, f"The least limit that would do is --max-drop {least:g}%."]


def _widened(built: Built, options: CompileOptions) -> Quantised | None:
    """Return the model quantised with wide activations; None if it has no use for them."""
    wide = options.model_copy(update={"wide_activations": "always"})
    try:
        decided = pipeline.decide(built.lowered.quantised.planned.ranged, wide)
    except OptionError:
        return None
    return pipeline.quantise(decided, wide)

"""Where everything lies in RAM and for how long: what `edgec plan` says, without building."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..targets.spec import TargetSpec
from .core.units import size_text
from .gates import limits
from .lowering.memory import Arena, Block, plan_arena
from .lowering.patches import choose
from .lowering.program import Program
from .options import CompileOptions
from .report import memory_plan, patch_facts
from .stages import Lowered


@dataclass(frozen=True, slots=True, eq=False)
class MemoryMap:
    """The RAM of a lowered model, without the stack; `limit_bytes`: what it may take, if anything.

    `advice`: sentences on what would take less.
    """

    name: str
    target: str
    lowered: Lowered
    arena: Arena
    limit_bytes: int | None
    advice: Sequence[str]

    @property
    def program(self) -> Program:
        """The program that the device runs."""
        return self.lowered.on_device

    @property
    def inputs_bytes(self) -> int:
        """Bytes of all inputs, which the caller owns."""
        return sum(self.program.buffers[p.buffer].size_bytes for p in self.program.inputs)

    @property
    def outputs_bytes(self) -> int:
        """Bytes of all outputs, which the caller owns."""
        return sum(self.program.buffers[p.buffer].size_bytes for p in self.program.outputs)

    @property
    def ram_bytes(self) -> int:
        """Arena, inputs and outputs."""
        return self.arena.size_bytes + self.inputs_bytes + self.outputs_bytes

    @property
    def fits(self) -> bool:
        """Whether the limit holds, the stack left out."""
        return self.limit_bytes is None or self.ram_bytes <= self.limit_bytes

    @property
    def peak(self) -> Sequence[Block]:
        """What is alive in the fullest step, the largest first."""
        return alive(self.arena)


def memory_map(lowered: Lowered, spec: TargetSpec, options: CompileOptions) -> MemoryMap:
    """Return where a lowered model keeps what on the device of spec."""
    source = lowered.quantised.planned.ranged.reshaped.profiled.canonical.source
    arena = plan_arena(lowered.on_device, spec.isa)
    limit = limits(options, spec).max_ram_bytes
    advice = _advice(lowered, arena, spec.isa, options)
    return MemoryMap(source.name, spec.name, lowered, arena, limit, advice)


def alive(arena: Arena) -> list[Block]:
    """Return what is alive in the fullest step, the largest first."""
    at = arena.peak_call
    found = [block for block, _ in arena.blocks if block.first <= at <= block.last]
    return sorted(found, key=lambda b: (-b.size_bytes, b.members))


def where(nodes: Sequence[str]) -> str:
    """Return what people call the layer of these nodes."""
    return ", ".join(nodes) or "a copy between layouts"


def content(program: Program, block: Block) -> str:
    """Return what people call the content of a block: an ONNX value, or the scratch of a layer."""
    values = [f"'{program.origins[m].value}'" for m in block.members if m in program.origins]
    if values:
        return " then ".join(dict.fromkeys((values[0], values[-1])))
    call, _, scratch = block.members[0].partition(":")
    if not scratch:
        return f"'{block.members[0]}'"
    return f"scratch of {where(program.calls[int(call)].nodes)}"


def _advice(lowered: Lowered, arena: Arena, isa: str, options: CompileOptions) -> list[str]:
    """Return what would make the arena smaller: options that were not used, measured."""
    found: list[str] = []
    program = lowered.on_device
    if lowered.patched is None and isa != "cuda":
        choice = choose(lowered.program, isa, None)
        option = "" if options.patches == "always" else "--patches always: "
        found.append(f"{option}{'' if choice.patches else 'patches: '}{choice.text}.")
    held = [m for block in alive(arena) for m in block.members if m in program.buffers]
    wide = sum(program.buffers[m].size_bytes for m in held if program.buffers[m].dtype == "int16")
    if wide and options.wide_activations != "never":
        found.append(
            f"--wide-activations never: {size_text(wide)} at the fullest step are 12-bit "
            "activations in int16; in 8 bits they take half."
        )
    return found


def as_json(found: MemoryMap) -> dict[str, Any]:
    """Return everything a plan says."""
    program, at = found.program, found.arena.peak_call
    return {
        "passed": found.fits,
        "name": found.name,
        "target": found.target,
        "ram_bytes": found.ram_bytes,
        "inputs_bytes": found.inputs_bytes,
        "outputs_bytes": found.outputs_bytes,
        "limit_bytes": found.limit_bytes,
        **memory_plan(found.arena),
        "peak": {
            "call": at,
            "tensors": [
                {"content": content(program, b), "bytes": b.size_bytes} for b in found.peak
            ],
        },
        "calls": [{"kernel": c.kernel.name, "nodes": list(c.nodes)} for c in program.calls],
        "macs": sum(c.kernel.macs() for c in program.calls),
        "patches": patch_facts(found.lowered.choice),
        "advice": list(found.advice),
    }

"""Limits on memory and quality: where they come from, and which of them hold."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from ..targets.spec import TargetSpec
from .core.artifact import Gates, Manifest
from .options import CompileOptions


class GateVerdict(BaseModel):
    """One limit and whether it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    limit: float
    value: float
    passed: bool


def gate(name: str, limit: float, value: float) -> GateVerdict:
    """Return the verdict on a value that may be at most limit."""
    return GateVerdict(name=name, limit=limit, value=value, passed=value <= limit)


def limits(options: CompileOptions, spec: TargetSpec) -> Gates:
    """Return the limits that were asked for, else the board's own."""
    return Gates(
        max_flash_bytes=options.max_flash_bytes or spec.flash_bytes,
        max_ram_bytes=options.max_ram_bytes or spec.ram_bytes,
        max_drop=options.max_drop, drop_measure=options.drop_measure,
    )  # fmt: skip


def static_gates(manifest: Manifest) -> list[GateVerdict]:
    """Return the verdict on the limits that compiling can judge; memory without the stack."""
    found = memory_gates(manifest.gates, flash_bytes(manifest), ram_bytes(manifest))
    if manifest.gates.max_drop is not None and manifest.drop is not None:
        found.append(gate("drop", manifest.gates.max_drop, manifest.drop))
    return found


def flash_bytes(manifest: Manifest) -> int:
    """Return the flash of a model; the constants alone where nothing was linked."""
    memory = manifest.memory
    return memory.weights_bytes if memory.flash_bytes is None else memory.flash_bytes


def ram_bytes(manifest: Manifest) -> int:
    """Return the RAM of a model; arena, inputs and outputs where nothing was linked."""
    memory = manifest.memory
    ports = sum(port.size_bytes for port in (*manifest.inputs, *manifest.outputs))
    return memory.arena_bytes + ports if memory.ram_bytes is None else memory.ram_bytes


def memory_gates(limits: Gates, flash_bytes: int, ram_bytes: int) -> list[GateVerdict]:
    """Return the verdict on the limits of flash and RAM, as far as there are any."""
    pairs = (
        ("flash_bytes", limits.max_flash_bytes, flash_bytes),
        ("ram_bytes", limits.max_ram_bytes, ram_bytes),
    )
    return [gate(name, limit, value) for name, limit, value in pairs if limit is not None]


def all_pass(gates: Sequence[GateVerdict]) -> bool:
    """Return whether every limit holds."""
    return all(g.passed for g in gates)

"""How much flash and RAM a model takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..compiler.core.artifact import Manifest
from .spec import TargetSpec


@dataclass(frozen=True, slots=True)
class StaticMemory:
    """Bytes a linked model takes: flash, arena and statics, and its inputs and outputs."""

    flash_bytes: int
    static_ram_bytes: int
    io_bytes: int

    def ram_bytes(self, stack_bytes: int) -> int:
        """Return all the RAM: arena, statics, inputs and outputs, and the measured stack."""
        return self.static_ram_bytes + self.io_bytes + stack_bytes


def measure_static(artifact: Path, spec: TargetSpec, manifest: Manifest) -> StaticMemory:
    """Return what the backend of spec weighs."""
    from . import find_target

    _, backend = find_target(spec.name)
    return backend.measure(spec, artifact, manifest)

"""How much flash and RAM a model takes: its check program less the harness alone."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..compiler.core.artifact import Manifest
from ..compiler.core.elf import read_elf
from . import find_target
from .spec import TargetSpec

# check_main.c declares an arena of this many bytes when the model needs none.
_EMPTY_ARENA_BYTES = 16


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
    """Weigh firmware/check.elf against the same harness with an empty model.

    Library code that only the model needs (memcpy, expf) counts as the model's.
    """
    _, backend = find_target(spec.name)
    ports = (manifest.inputs, manifest.outputs)
    with tempfile.TemporaryDirectory(prefix="edgec-empty-") as folder:
        empty = read_elf(backend.link_empty(spec, Path(folder), manifest.name, *ports))
    full = read_elf(artifact / "firmware" / "check.elf")
    return StaticMemory(
        flash_bytes=full.flash_bytes - empty.flash_bytes,
        static_ram_bytes=full.static_ram_bytes - empty.static_ram_bytes + _EMPTY_ARENA_BYTES,
        io_bytes=sum(port.size_bytes for port in (*manifest.inputs, *manifest.outputs)),
    )

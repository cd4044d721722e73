"""64-bit Arm Linux programs under qemu-aarch64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ...compiler.core.artifact import Manifest
from ...compiler.core.tools import QEMU_USER, require_tools
from .base import Array, RunResult
from .emulator import run_check


@dataclass(frozen=True, slots=True)
class QemuUser:
    """One emulated processor; implements `Device`."""

    cpu: str
    timeout_s: float = 600.0

    flashed: ClassVar[bool] = False

    @property
    def description(self) -> str:
        """What people call it."""
        return f"qemu-aarch64 {self.cpu}"

    def run(
        self,
        artifact: Path,
        manifest: Manifest,
        inputs: Mapping[str, Array],
        profile: bool = False,
        repeat: int = 1,
    ) -> RunResult:
        """Run the statically linked check program; see `Device.run`."""
        require_tools([QEMU_USER], f"checking '{manifest.name}' on {self.cpu}")
        where = f"qemu-aarch64 -cpu {self.cpu}"
        return run_check(self._command, where, artifact, manifest, inputs, profile, self.timeout_s)

    def _command(self, elf: Path, plugin: str) -> list[str]:
        options = ["-cpu", self.cpu, "-plugin", plugin]
        return [QEMU_USER.executable, *options, str(elf), "in.bin", "out.bin"]

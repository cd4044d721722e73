"""Cortex-M boards under qemu-system-arm; files travel by semihosting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ...compiler.core.artifact import Manifest
from ...compiler.core.tools import QEMU_SYSTEM, require_tools
from .base import Array, RunResult
from .emulator import run_check

_QUIET = ("-nographic", "-monitor", "none", "-serial", "none")


@dataclass(frozen=True, slots=True)
class QemuSystem:
    """One emulated board; implements `Device`."""

    machine: str
    timeout_s: float = 600.0

    flashed: ClassVar[bool] = False

    @property
    def description(self) -> str:
        """What people call it."""
        return f"qemu-system-arm {self.machine}"

    def run(
        self,
        artifact: Path,
        manifest: Manifest,
        inputs: Mapping[str, Array],
        profile: bool = False,
        repeat: int = 1,
    ) -> RunResult:
        """Run the bare-metal check program; see `Device.run`."""
        require_tools([QEMU_SYSTEM], f"checking '{manifest.name}' on {self.machine}")
        where = f"QEMU board {self.machine}"
        return run_check(self._command, where, artifact, manifest, inputs, profile, self.timeout_s)

    def _command(self, elf: Path, plugin: str) -> list[str]:
        files = ["-semihosting-config", "enable=on,target=native"]
        board = [QEMU_SYSTEM.executable, "-M", self.machine, *_QUIET, *files]
        return [*board, "-kernel", str(elf), "-plugin", plugin]

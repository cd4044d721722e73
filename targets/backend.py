"""What a family of targets can do: compile an artifact's C and link its check program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ..compiler.core.artifact import Manifest, PortInfo
from ..compiler.core.tools import Tool
from .constants import Constant
from .memory import StaticMemory
from .spec import TargetSpec


class Backend(Protocol):
    """One per family; every method takes the target it works for."""

    @property
    def family(self) -> str:
        """The family of the targets it builds for."""
        ...

    @property
    def build_tools(self) -> tuple[Tool, ...]:
        """What compiling and linking needs."""
        ...

    @property
    def check_tools(self) -> tuple[Tool, ...]:
        """What running the check program needs besides."""
        ...

    def missing(self, spec: TargetSpec) -> list[Tool]:
        """Return the build tools that are not installed."""
        ...

    def compile_library(
        self,
        spec: TargetSpec,
        source_folder: Path,
        name: str,
        out: Path,
        constants: Sequence[Constant] = (),
    ) -> None:
        """Compile source_folder/src/*.c into out/lib/libNAME.a, and libNAME.so where it loads.

        `constants`: all that src/NAME_weights.c defines, as bytes, which takes less time.
        Raises ToolMissingError without a compiler, EdgecError when it rejects the source.
        """
        ...

    def link_check(
        self,
        spec: TargetSpec,
        artifact: Path,
        name: str,
        inputs: Sequence[PortInfo],
        outputs: Sequence[PortInfo],
    ) -> Path:
        """Link artifact/firmware/check.elf from the harness and the library; returns its path."""
        ...

    def measure(self, spec: TargetSpec, artifact: Path, manifest: Manifest) -> StaticMemory:
        """Return the bytes that a linked artifact takes, without the harness."""
        ...

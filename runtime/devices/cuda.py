"""An NVIDIA GPU of this machine; without one its emulation, which gives the same integers."""

from __future__ import annotations

import ctypes
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from ...compiler.core.artifact import Manifest
from ...compiler.core.elf import read_elf
from ...compiler.core.tools import QEMU_USER, require_tools
from .base import Array, RunResult, stored_samples
from .emulator import check_program, run_program
from .local import Local

# Attributes of cuDeviceGetAttribute: compute capability, major and minor.
_MAJOR, _MINOR = 75, 76


@dataclass(frozen=True, slots=True)
class Gpu:
    """Device 0 of the CUDA driver: its name and compute capability."""

    name: str
    major: int
    minor: int

    def runs(self, architecture: str) -> bool:
        """Return whether it executes code for architecture (sm_80): the same major, no newer."""
        number = int(architecture.removeprefix("sm_"))
        return number // 10 == self.major and number % 10 <= self.minor


@lru_cache(maxsize=1)
def find_gpu() -> Gpu | None:
    """Return the first NVIDIA GPU of this machine, or None."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(96)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    driver.cuDeviceGetName(name, len(name), device)
    found: list[int] = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        found.append(value.value)
    return Gpu(name.value.decode("utf-8", "replace"), *found)


@dataclass(frozen=True, slots=True)
class Cuda:
    """A GPU of `architecture`; implements `Device`.

    `machine`: the QEMU processor that runs the emulation, empty where this machine's own does.
    """

    architecture: str
    machine: str = ""
    timeout_s: float = 600.0

    flashed: ClassVar[bool] = False

    @property
    def gpu(self) -> Gpu | None:
        """The GPU here that runs the artifact, or None when it must be emulated."""
        processor = "aarch64" if self.machine else "x86_64"
        found = find_gpu() if platform.machine() == processor else None
        return found if found is not None and found.runs(self.architecture) else None

    @property
    def description(self) -> str:
        """What runs the kernels, in words."""
        if self.gpu is not None:
            return f"{self.gpu.name} (sm_{self.gpu.major}{self.gpu.minor})"
        on = f"qemu-aarch64 {self.machine}" if self.machine else "this machine"
        return f"emulated GPU ({self.architecture}) on {on}"

    def run(
        self,
        artifact: Path,
        manifest: Manifest,
        inputs: Mapping[str, Array],
        profile: bool = False,
        repeat: int = 1,
    ) -> RunResult:
        """Run every sample; see `Device.run`. Counts nothing; times only a real GPU."""
        if self.gpu is not None:
            return Local().run(artifact, manifest, inputs, profile, repeat)
        if self.machine:
            require_tools([QEMU_USER], f"checking '{manifest.name}' without a GPU")
        arrays = stored_samples(manifest, inputs)
        program = check_program(artifact)
        emulator = [QEMU_USER.executable, "-cpu", self.machine] if self.machine else []
        command = [*emulator, str(program), "in.bin", "out.bin"]
        with tempfile.TemporaryDirectory(prefix="edgec-check-") as name:
            outputs, log = run_program(
                command, self.description, Path(name), read_elf(program), manifest, arrays,
                self.timeout_s,
            )  # fmt: skip
        return RunResult(outputs=outputs, log=log)

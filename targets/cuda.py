"""NVIDIA GPUs: kernels compiled by NVRTC, a host program in C that carries them.

Without a GPU the check program runs the same kernels, compiled as C, under an emulation of the
driver (runtime/c/cuda/edgec_cuda_emulator.c).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..compiler.core.artifact import Manifest, PortInfo
from ..compiler.core.elf import read_elf
from ..compiler.core.errors import EdgecError
from ..compiler.core.tools import NVRTC, Tool, missing_tools, require_tools
from .backend import Backend
from .constants import Constant
from .host import TOOLCHAIN
from .memory import StaticMemory
from .nvrtc import compile_cubin
from .spec import TargetSpec
from .toolchain import Toolchain

# Words of the GPU code per line of the C file that holds it.
_PER_LINE = 24


def cuda_spec(
    name: str, architecture: str, description: str, host: Toolchain, cflags: Sequence[str] = (),
    machine: str = "",
) -> TargetSpec:  # fmt: skip
    """Return the target of a GPU; `machine`: the QEMU processor where the host is no x86-64."""
    return TargetSpec(
        name=name,
        family="cuda",
        cpu=architecture,
        isa="cuda",
        cc=f"{host.prefix}gcc",
        cflags=tuple(cflags),
        machine=machine,
        description=description,
    )


SPECS = (
    cuda_spec("cuda-sm75", "sm_75", "NVIDIA Turing (T4, RTX 20), 64-bit Linux host", TOOLCHAIN),
    cuda_spec("cuda-sm80", "sm_80", "NVIDIA Ampere (A100, A30), 64-bit Linux host", TOOLCHAIN),
    cuda_spec("cuda-sm86", "sm_86", "NVIDIA Ampere (A10, RTX 30), 64-bit Linux host", TOOLCHAIN),
    cuda_spec("cuda-sm89", "sm_89", "NVIDIA Ada (L4, L40, RTX 40), 64-bit Linux host", TOOLCHAIN),
    cuda_spec("cuda-sm90", "sm_90", "NVIDIA Hopper (H100, H200), 64-bit Linux host", TOOLCHAIN),
)


@dataclass(frozen=True, slots=True)
class Cuda:
    """NVRTC beside `host`, the C compiler of the machine the GPU is in; implements `Backend`."""

    host: Toolchain
    check_tools: tuple[Tool, ...] = ()
    family: str = "cuda"

    @property
    def build_tools(self) -> tuple[Tool, ...]:
        """What compiling and linking needs."""
        return (NVRTC, *self.host.build_tools)

    def missing(self, spec: TargetSpec) -> list[Tool]:
        """Return the build tools that are not installed."""
        return missing_tools(self.build_tools)

    def compile_library(
        self,
        spec: TargetSpec,
        source_folder: Path,
        name: str,
        out: Path,
        constants: Sequence[Constant] = (),
    ) -> None:
        """Compile src/NAME.cu into src/NAME_cubin.c and lib/NAME.cubin, then the C as a library."""
        require_tools(self.build_tools, f"target '{spec.name}'")
        source = source_folder / "src"
        kernels = source / f"{name}.cu"
        if not kernels.is_file():
            raise EdgecError(f"'{source}' holds no {name}.cu to compile for {spec.name}.")
        headers = {h.name: h.read_text(encoding="utf-8") for h in source.glob("edgec_*.h")}
        text = kernels.read_text(encoding="utf-8")
        cubin = compile_cubin(text, kernels.name, headers, spec.cpu)
        (source / f"{name}_cubin.c").write_text(_cubin_source(name, cubin))
        self.host.compile_library(spec, source_folder, name, out, constants)
        (out / "lib" / f"{name}.cubin").write_bytes(cubin)

    def link_check(
        self,
        spec: TargetSpec,
        artifact: Path,
        name: str,
        inputs: Sequence[PortInfo],
        outputs: Sequence[PortInfo],
    ) -> Path:
        """Link artifact/firmware/check.elf, in which the emulator takes the driver's place."""
        with tempfile.TemporaryDirectory(prefix="edgec-emulator-") as folder:
            sources = sorted((artifact / "emulator").glob("*.c"))
            # The driver takes the addresses of pointers as numbers.
            flags = ("-fno-strict-aliasing",)
            objects = self.host.compile_objects(spec, artifact, sources, Path(folder), flags)
            return self.host.link_check(spec, artifact, name, inputs, outputs, objects)

    def measure(self, spec: TargetSpec, artifact: Path, manifest: Manifest) -> StaticMemory:
        """Weigh the library with its kernels (flash) and its memory on the GPU (RAM)."""
        library = read_elf(artifact / "lib" / f"lib{manifest.name}.so")
        ports = sum(port.size_bytes for port in (*manifest.inputs, *manifest.outputs))
        memory = manifest.memory
        return StaticMemory(
            flash_bytes=library.flash_bytes,
            static_ram_bytes=library.static_ram_bytes
            + memory.weights_bytes + memory.arena_bytes + ports,
            io_bytes=ports,
        )  # fmt: skip


def _cubin_source(name: str, cubin: bytes) -> str:
    """Return C that holds GPU code as the array NAME_cubin."""
    lines = [", ".join(map(str, cubin[i : i + _PER_LINE])) for i in range(0, len(cubin), _PER_LINE)]
    values = ",\n    ".join(lines)
    return (
        f"/* {name}.cu, compiled by NVRTC: generated by edgec. Do not edit. */\n"
        f"extern const unsigned char {name}_cubin[{len(cubin)}];\n"
        f"_Alignas(16) const unsigned char {name}_cubin[{len(cubin)}] = {{\n    {values}\n}};\n"
    )


BACKEND: Backend = Cuda(TOOLCHAIN)

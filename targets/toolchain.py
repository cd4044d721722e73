"""Compile and link with GCC or clang: one backend class, parameterised per family by data."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..compiler.core.artifact import Manifest, PortInfo
from ..compiler.core.elf import read_elf
from ..compiler.core.errors import EdgecError
from ..compiler.core.tools import CLANG, Tool, missing_tools, require_tools
from .constants import Constant, write_assembly
from .harness import PORT_FOLDER, check_ports_header, empty_model, rpc_ports_header
from .memory import StaticMemory
from .spec import TargetSpec

_JOBS = 2
# check_main.c declares an arena of this many bytes when the model needs none.
_EMPTY_ARENA_BYTES = 16
COMMON_FLAGS = (
    "-std=c11",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-ffunction-sections",
    "-fdata-sections",
    # Fused multiply-adds would make float results depend on the target.
    "-ffp-contract=off",
)
_HARNESS = (
    "-std=c11",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Os",
    "-ffunction-sections",
    "-fdata-sections",
    "-ffreestanding",
    # A memset found in the harness would hide the model's own from the flash measurement.
    "-fno-tree-loop-distribute-patterns",
)


def compile_with(spec: TargetSpec, cc: str) -> TargetSpec:
    """Return spec with another C compiler (a clang takes its place in every family)."""
    return replace(spec, cc=cc)


def _is_clang(spec: TargetSpec) -> bool:
    return Path(spec.cc).name.startswith("clang")


@dataclass(frozen=True, slots=True)
class Toolchain:
    """GCC and binutils of one family; implements `Backend`.

    `prefix`: of gcc and ar; `port`: the harness source of this family; `shared`: build a .so
    too; `clang_flags`: what clang needs to behave as this gcc; `libc`: the C library whose
    headers clang must be shown; `check_link`: flags of the check program; `scripts`: QEMU
    machine -> linker script in runtime/c/port.
    """

    family: str
    prefix: str
    port: str
    shared: bool
    build_tools: tuple[Tool, ...]
    check_tools: tuple[Tool, ...]
    clang_flags: tuple[str, ...] = ()
    libc: Tool | None = None
    check_link: tuple[str, ...] = ()
    scripts: Mapping[str, str] = field(default_factory=dict[str, str])

    def missing(self, spec: TargetSpec) -> list[Tool]:
        """Return the build tools that are not installed."""
        return missing_tools(self._needed(spec))

    def _needed(self, spec: TargetSpec) -> tuple[Tool, ...]:
        return (*self.build_tools, CLANG) if _is_clang(spec) else self.build_tools

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
        require_tools(self._needed(spec), f"target '{spec.name}'")
        sources = sorted((source_folder / "src").glob("*.c"))
        if not sources:
            raise EdgecError(f"'{source_folder}/src' holds no C file to compile for {spec.name}.")
        library = out / "lib"
        library.mkdir(parents=True, exist_ok=True)
        with _scratch() as folder:
            if constants:
                sources.remove(source_folder / "src" / f"{name}_weights.c")
            objects = self.compile_objects(spec, source_folder, sources, folder)
            if constants:
                assembly = write_assembly(constants, folder, f"{name}_weights")
                objects.append(str(assembly.with_suffix(".o")))
                self._compile(spec, (), assembly.name, Path(objects[-1]), folder)
            # D: no times and owners, so that the same input gives the same bytes.
            archive = folder / f"lib{name}.a"
            _run([f"{self.prefix}ar", "rcsD", str(archive), *objects], folder)
            shutil.move(archive, library / archive.name)
            if self.shared:
                loadable = self._link_shared(spec, f"lib{name}.so", objects, folder)
                shutil.move(loadable, library / loadable.name)

    def compile_objects(
        self,
        spec: TargetSpec,
        root: Path,
        sources: Sequence[Path],
        folder: Path,
        extra: Sequence[str] = (),
    ) -> list[str]:
        """Compile sources below root, with src and include on the path, to objects in folder."""
        pic = ("-fPIC",) if self.shared else ()
        flags = (spec.optimisation, *COMMON_FLAGS, *pic, *extra, "-Isrc", "-Iinclude")

        def compile_one(source: Path) -> str:
            target = folder / f"{source.stem}.o"
            self._compile(spec, flags, str(source.relative_to(root)), target, root)
            return str(target)

        with ThreadPoolExecutor(_JOBS) as pool:
            return list(pool.map(compile_one, sources))

    def _compile(
        self, spec: TargetSpec, flags: Sequence[str], source: str, target: Path, root: Path
    ) -> None:
        # `root` appears in no output: sources are named relative to it.
        clang = self._clang() if _is_clang(spec) else ()
        same = f"-ffile-prefix-map={root.resolve()}=."
        command = [spec.cc, *clang, *spec.cflags, *flags, same, "-c", source, "-o", str(target)]
        _run(command, root)

    def _clang(self) -> tuple[str, ...]:
        libc = None if self.libc is None else self.libc.find()
        headers = () if libc is None else ("-isystem", str(libc.parents[1] / "include"))
        return (*self.clang_flags, *headers)

    def _link_shared(
        self, spec: TargetSpec, soname: str, objects: Sequence[str], folder: Path
    ) -> Path:
        out = folder / soname
        options = ("-shared", f"-Wl,-soname,{soname}", "-Wl,--build-id=none", "-Wl,--gc-sections")
        # -z defs: a symbol that nobody defines is found here and not when the library loads.
        command = [f"{self.prefix}gcc", *spec.cflags, *options, "-Wl,-z,defs", *objects]
        _run([*command, "-lm", "-o", str(out)], folder)
        return out

    def link_check(
        self,
        spec: TargetSpec,
        artifact: Path,
        name: str,
        inputs: Sequence[PortInfo],
        outputs: Sequence[PortInfo],
        objects: Sequence[str] = (),
    ) -> Path:
        """Link artifact/firmware/check.elf from the harness and the library; returns its path.

        Where the library is a shared one, too, firmware/rpc.so, which loads it on a device.
        `objects`: come before the library and take the place of what it holds.
        """
        require_tools(self.build_tools, f"target '{spec.name}'")
        firmware = artifact / "firmware"
        firmware.mkdir(exist_ok=True)
        with _scratch() as folder:
            header = check_ports_header(name, inputs, outputs)
            harness = self._harness(spec, folder, header, artifact.resolve() / "include")
            library = artifact.resolve() / "lib" / f"lib{name}.a"
            elf = self._link(spec, folder, [*harness, *objects, str(library)])
            shutil.move(elf, firmware / "check.elf")
            if self.shared:
                ports = rpc_ports_header(name, inputs, outputs)
                loadable = self._link_rpc(spec, folder, ports, artifact.resolve() / "include")
                shutil.move(loadable, firmware / loadable.name)
        return firmware / "check.elf"

    def measure(self, spec: TargetSpec, artifact: Path, manifest: Manifest) -> StaticMemory:
        """Weigh firmware/check.elf against the same harness with an empty model.

        Library code that only the model needs (memcpy, expf) counts as the model's.
        """
        ports = (manifest.inputs, manifest.outputs)
        with _scratch() as folder:
            empty = read_elf(self._link_empty(spec, folder, manifest.name, *ports))
        full = read_elf(artifact / "firmware" / "check.elf")
        return StaticMemory(
            flash_bytes=full.flash_bytes - empty.flash_bytes,
            static_ram_bytes=full.static_ram_bytes - empty.static_ram_bytes + _EMPTY_ARENA_BYTES,
            io_bytes=sum(port.size_bytes for port in (*manifest.inputs, *manifest.outputs)),
        )

    def _link_empty(
        self,
        spec: TargetSpec,
        folder: Path,
        name: str,
        inputs: Sequence[PortInfo],
        outputs: Sequence[PortInfo],
    ) -> Path:
        """Link the harness with a model of the same ports that does nothing; returns its path."""
        require_tools(self.build_tools, f"target '{spec.name}'")
        header, source = empty_model(name, inputs, outputs)
        (folder / f"{name}.h").write_text(header)
        (folder / "empty_model.c").write_text(source)
        gcc = compile_with(spec, f"{self.prefix}gcc")
        self._compile(gcc, _HARNESS, "empty_model.c", folder / "empty_model.o", folder)
        ports = check_ports_header(name, inputs, outputs)
        harness = self._harness(spec, folder, ports, folder.resolve())
        return self._link(spec, folder, [*harness, "empty_model.o"])

    def _harness(self, spec: TargetSpec, folder: Path, ports: str, include: Path) -> list[str]:
        (folder / "check_ports.h").write_text(ports)
        gcc = compile_with(spec, f"{self.prefix}gcc")
        flags = (*_HARNESS, f"-I{folder.resolve()}", f"-I{include}")
        objects: list[str] = []
        for source in ("check_main.c", self.port):
            target = folder.resolve() / f"{Path(source).stem}.o"
            self._compile(gcc, flags, source, target, PORT_FOLDER)
            objects.append(str(target))
        return objects

    def _link_rpc(self, spec: TargetSpec, folder: Path, ports: str, include: Path) -> Path:
        (folder / "check_ports.h").write_text(ports)
        gcc = compile_with(spec, f"{self.prefix}gcc")
        found = (f"-I{folder.resolve()}", f"-I{include}")
        flags = (*_HARNESS, "-fPIC", "-fvisibility=hidden", *found)
        target = folder.resolve() / "edgec_rpc.o"
        self._compile(gcc, flags, "edgec_rpc.c", target, PORT_FOLDER)
        # -ldl: a C library before glibc 2.34 has it apart.
        return self._link_shared(spec, "rpc.so", [str(target), "-ldl"], folder)

    def _link(self, spec: TargetSpec, folder: Path, parts: Sequence[str]) -> Path:
        out = folder / "check.elf"
        script = self.scripts.get(spec.machine)
        where = () if script is None else (f"-L{PORT_FOLDER}", f"-T{PORT_FOLDER / script}")
        common = ("-Wl,--gc-sections", "-Wl,--build-id=none", *self.check_link, *where)
        command = [f"{self.prefix}gcc", *spec.cflags, *common, *parts, "-lm", "-o", out.name]
        _run(command, folder)
        return out


@contextmanager
def _scratch() -> Generator[Path]:
    with tempfile.TemporaryDirectory(prefix="edgec-build-") as name:
        yield Path(name)


def _run(command: Sequence[str], folder: Path) -> None:
    env = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(
        list(command), cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        telling = [line for line in said if "error" in line or "overflow" in line] or said
        raise EdgecError(
            f"{command[0]} failed ({' / '.join(telling[:3])}); "
            f"the command was, in '{folder}': {' '.join(command)}"
        )

"""The external programs that building and checking need, and how to get them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .errors import ToolMissingError


@dataclass(frozen=True, slots=True)
class Tool:
    """A program, or (with `library`) a file that the compiler `executable` must know.

    `distribution`: pinned name of the Python package whose file `executable` is, if it is one.
    """

    name: str
    executable: str
    debian_package: str
    why: str
    library: str | None = None
    distribution: str | None = None

    @property
    def package(self) -> str:
        """The Debian or Python package to install."""
        return self.distribution or self.debian_package

    def find(self) -> Path | None:
        """Return where the program or library is, or None."""
        if self.distribution is not None:
            return _file_of(self.distribution.split("==")[0], self.executable)
        program = shutil.which(self.executable)
        if program is None or self.library is None:
            return None if program is None else Path(program)
        asked = [program, f"-print-file-name={self.library}"]
        answer = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
        # A compiler that does not know the file repeats the bare name.
        return Path(answer).resolve() if Path(answer).is_absolute() else None


def _file_of(distribution: str, name: str) -> Path | None:
    """Return the file called name of an installed Python package, or None."""
    try:
        files = metadata.distribution(distribution).files or []
    except metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if file.name == name]
    return found[0] if found and found[0].is_file() else None


GCC = Tool("gcc", "gcc", "gcc", "compiles for the host and the instruction counter")
AR = Tool("ar", "ar", "binutils", "makes static libraries for the host")
HOST_LIBC = Tool("libc6-dev", "gcc", "libc6-dev", "the C library of the host", "crt1.o")
AARCH64_GCC = Tool(
    "aarch64 gcc", "aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu", "compiles for aarch64"
)
AARCH64_LIBC = Tool(
    "aarch64 libc",
    "aarch64-linux-gnu-gcc",
    "libc6-dev-arm64-cross",
    "the C library of aarch64",
    "libc.a",
)
ARM_GCC = Tool("arm gcc", "arm-none-eabi-gcc", "gcc-arm-none-eabi", "compiles for Cortex-M")
NEWLIB = Tool(
    "newlib",
    "arm-none-eabi-gcc",
    "libnewlib-arm-none-eabi",
    "the C library of Cortex-M",
    "libc_nano.a",
)
CLANG = Tool("clang", "clang", "clang", "compiles the C output a second time in the tests")
QEMU_USER = Tool("qemu-user", "qemu-aarch64", "qemu-user", "runs aarch64 programs")
QEMU_SYSTEM = Tool("qemu-system", "qemu-system-arm", "qemu-system-arm", "runs Cortex-M boards")
NVRTC = Tool(
    "nvrtc", "libnvrtc.so.12", "", "compiles kernels for NVIDIA GPUs",
    distribution="nvidia-cuda-nvrtc-cu12==12.9.86",
)  # fmt: skip
NVDISASM = Tool(
    "nvdisasm", "nvdisasm", "", "reads GPU code in the tests",
    distribution="nvidia-cuda-nvdisasm==13.5.37",
)  # fmt: skip


def missing_tools(tools: Sequence[Tool]) -> list[Tool]:
    """Return those of tools that are not installed."""
    return [tool for tool in tools if tool.find() is None]


def install_line(tools: Sequence[Tool]) -> str:
    """Return the commands that install tools: Debian's packages, then Python's."""
    debian = sorted({tool.debian_package for tool in tools if tool.distribution is None})
    python = sorted({tool.distribution for tool in tools if tool.distribution is not None})
    lines = [f"sudo apt-get install {' '.join(debian)}"] if debian else []
    return " && ".join([*lines, f"pip install {' '.join(python)}"] if python else lines)


def require_tools(tools: Sequence[Tool], purpose: str) -> None:
    """Raise ToolMissingError, with the line that installs them, when one of tools is missing."""
    absent = missing_tools(tools)
    if absent:
        names = ", ".join(tool.name for tool in absent)
        raise ToolMissingError(f"{purpose} needs {names}; install with: {install_line(absent)}")

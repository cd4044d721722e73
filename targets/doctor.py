"""What is installed, what is missing, which targets need it and how to get it."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..compiler.core.tools import CLANG, NVDISASM, Tool, install_line
from . import cores

_PACKAGES = ("apache-tvm", "apache-tvm-ffi", "numpy", "onnx", "onnx-ir", "onnxruntime", "pydantic")
_OLDEST_PYTHON = (3, 10)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked for; `version` and `path` are None when it is missing.

    `needed_for`: target names, or "compile", "check", "tests".
    """

    tool: str
    path: str | None
    version: str | None
    needed_for: tuple[str, ...]
    why: str
    install: str

    @property
    def found(self) -> bool:
        """Whether it is installed."""
        return self.version is not None


def diagnose() -> list[Check]:
    """Look for Python, the packages and every external tool; reports, never raises."""
    return [_python(), *map(_package, _PACKAGES), *_tools()]


def _python() -> Check:
    version = sys.version.split()[0] if sys.version_info >= _OLDEST_PYTHON else None
    install = "install Python 3.10 or newer"
    return Check("python", sys.executable, version, ("compile",), "runs edgec", install)


def _package(name: str) -> Check:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = None
    return Check(name, None, version, ("compile",), "Python package", f"pip install {name}")


def _tools() -> Iterator[Check]:
    users: dict[Tool, list[str]] = {}
    for name, (_, backend) in cores().items():
        for tool in dict.fromkeys((*backend.build_tools, *backend.check_tools)):
            users.setdefault(tool, []).append(name)
    for tool in (CLANG, NVDISASM):
        users.setdefault(tool, []).append("tests")
    for tool, needed_for in users.items():
        path = tool.find()
        yield Check(
            tool=tool.name,
            path=None if path is None else str(path),
            version=None if path is None else _version(tool, path),
            needed_for=tuple(needed_for),
            why=tool.why,
            install=install_line([tool]),
        )


def _version(tool: Tool, path: Path) -> str:
    if tool.distribution is not None:
        return importlib.metadata.version(tool.distribution.split("==")[0])
    if tool.library is not None:
        return "present"
    done = subprocess.run([str(path), "--version"], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    return lines[0] if lines else "unknown version"

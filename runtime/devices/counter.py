"""Exact instruction counts from the QEMU plugin runtime/c/counter.c."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...compiler.core.elf import Elf, FunctionTable
from ...compiler.core.errors import DeviceError
from ...compiler.core.tools import GCC, require_tools

_SOURCE = Path(__file__).parents[1] / "c" / "counter.c"
# What a window holds besides the model.
_HARNESS = ("port_window_begin", "port_window_end", "check_window", "check_once", "check_nothing")


@dataclass(frozen=True, slots=True)
class Window:
    """One counted stretch: all its instructions and, when asked for, how many per address."""

    total: int
    histogram: Mapping[int, int]


def plugin() -> Path:
    """Return the compiled plugin, built on first use into the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgec"
    key = hashlib.sha256(_SOURCE.read_bytes() + os.uname().machine.encode()).hexdigest()[:16]
    target = cache / f"counter-{key}.so"
    if not target.is_file():
        _build(target)
    return target


def _build(target: Path) -> None:
    require_tools([GCC], "counting instructions")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, suffix=".so")
    os.close(handle)
    command = ["gcc", "-O2", "-shared", "-fPIC", str(_SOURCE), "-o", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        os.unlink(name)
        raise DeviceError(f"gcc could not build the instruction counter: {done.stderr.strip()}")
    # Renamed only when complete: processes may build it at the same time.
    os.replace(name, target)


def plugin_option(elf: Elf, out: Path, profile: bool) -> str:
    """Return the value of QEMU's -plugin that counts the windows of elf into out."""
    begin, end = elf.address("port_window_begin"), elf.address("port_window_end")
    return f"{plugin()},begin={begin:#x},end={end:#x},out={out},hist={int(profile)}"


def read_windows(out: Path) -> list[Window]:
    """Return the windows that the plugin wrote; empty when it wrote nothing."""
    totals: list[int] = []
    histograms: list[dict[int, int]] = []
    for line in out.read_text().splitlines() if out.exists() else ():
        first, second = line.split()
        if first == "window":
            totals.append(int(second))
            histograms.append({})
        elif first != "end":
            histograms[-1][int(first, 16)] = int(second)
    return [Window(t, h) for t, h in zip(totals, histograms, strict=True)]


def per_function(elf: Elf, windows: Sequence[Window], samples: int) -> dict[str, float]:
    """Return instructions per sample by function, most first, without the harness's own."""
    functions = FunctionTable.of(elf)
    totals: dict[str, int] = {}
    for window in windows:
        for address, count in window.histogram.items():
            name = functions.name_at(address) or f"{address:#x}"
            totals[name] = totals.get(name, 0) + count
    kept = {name: n / samples for name, n in totals.items() if name not in _HARNESS}
    return dict(sorted(kept.items(), key=lambda item: (-item[1], item[0])))

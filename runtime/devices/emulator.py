"""Running firmware/check.elf under QEMU: shared by user mode and boards."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ...compiler.core.artifact import Manifest
from ...compiler.core.elf import Elf, read_elf
from ...compiler.core.errors import DeviceError
from .base import Array, RunResult, pack_samples, stored_samples, unpack_samples
from .counter import Window, per_function, plugin_option, read_windows
from .faults import exit_reason

# (check.elf, value of -plugin) -> the command; it runs where in.bin is and writes out.bin there.
CommandFor = Callable[[Path, str], Sequence[str]]


def run_check(
    command_for: CommandFor,
    where: str,
    artifact: Path,
    manifest: Manifest,
    inputs: Mapping[str, Array],
    profile: bool,
    timeout_s: float,
) -> RunResult:
    """Run the check program on inputs and return what it answered; see `Device.run`."""
    arrays = stored_samples(manifest, inputs)
    path = check_program(artifact)
    elf = read_elf(path)
    with tempfile.TemporaryDirectory(prefix="edgec-check-") as name:
        folder = Path(name)
        option = plugin_option(elf, folder / "counts.txt", profile)
        command = [*command_for(path, option), *_weights(artifact, manifest)]
        outputs, log = run_program(command, where, folder, elf, manifest, arrays, timeout_s)
        windows = read_windows(folder / "counts.txt")
    return _result(outputs, log, windows, elf, manifest.windows_per_sample, profile)


def run_program(
    command: Sequence[str],
    where: str,
    folder: Path,
    elf: Elf,
    manifest: Manifest,
    arrays: Sequence[Array],
    timeout_s: float,
) -> tuple[Mapping[str, Array], str]:
    """Run the check program `elf` by command in folder; return its outputs and what it printed."""
    (folder / "in.bin").write_bytes(pack_samples(arrays))
    code, log = _execute(command, folder, where, timeout_s)
    if code != 0:
        raise DeviceError(
            f"the check of '{manifest.name}' failed on {where}: "
            f"{exit_reason(code, log, elf)}; this is a fault of the compiled code, report it."
        )
    data = (folder / "out.bin").read_bytes() if (folder / "out.bin").exists() else b""
    return unpack_samples(data, manifest.outputs, len(arrays[0])), log


def _weights(artifact: Path, manifest: Manifest) -> list[str]:
    """Return the argument that names the file of constants, where there is one."""
    name = manifest.weights_file
    return [] if name is None else [str((artifact / name).resolve())]


def check_program(artifact: Path) -> Path:
    """Return the absolute path of the artifact's check program; raises DeviceError without it."""
    path = (artifact / "firmware" / "check.elf").resolve()
    if not path.is_file():
        raise DeviceError(f"'{artifact}' has no firmware/check.elf; compile the model again.")
    return path


def _execute(command: Sequence[str], folder: Path, where: str, timeout_s: float) -> tuple[int, str]:
    try:
        done = subprocess.run(
            list(command),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(
            f"{where} gave no answer within {timeout_s:g} s; check fewer samples, or the model "
            "hangs."
        ) from None
    return done.returncode, done.stdout.decode("utf-8", "replace")


def _result(
    outputs: Mapping[str, Array],
    log: str,
    windows: Sequence[Window],
    elf: Elf,
    per_sample: int,
    profile: bool,
) -> RunResult:
    samples = len(next(iter(outputs.values())))
    if len(windows) != samples * per_sample + 1:
        raise DeviceError(
            f"the instruction counter saw {len(windows)} windows, expected "
            f"{samples * per_sample + 1}; QEMU 6.0 to 8.1 with TCG plugins is needed."
        )
    empty, *counted = windows
    totals = [window.total - empty.total for window in counted]
    parts = [tuple(totals[i : i + per_sample]) for i in range(0, len(totals), per_sample)]
    stacks = [int(n) for n in re.findall(r"^stack (\d+)$", log, re.M)]
    return RunResult(
        outputs=outputs,
        log=log,
        instructions=tuple(map(sum, parts)),
        windows=tuple(parts),
        stack_bytes=max(stacks[1:]),
        profile=per_function(elf, counted, samples) if profile else None,
    )

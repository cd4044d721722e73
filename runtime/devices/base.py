"""What every device promises, and how samples travel to it and back."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ...compiler.core.artifact import Manifest, PortInfo
from ...compiler.core.errors import DataError, DeviceError

Array = NDArray[Any]


class DeviceSpec(Protocol):
    """What a device reads of a target; `TargetSpec` fits."""

    @property
    def name(self) -> str:
        """The target's name."""
        ...

    @property
    def family(self) -> str:
        """One of "host", "aarch64", "cortex_m", "cuda"."""
        ...

    @property
    def cpu(self) -> str:
        """The processor, or the architecture of the GPU."""
        ...

    @property
    def machine(self) -> str:
        """The QEMU board or processor."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class RunResult:
    """What came back: outputs per name, [samples, *shape], and what was measured (or None).

    `instructions`: of each sample, exact; `windows`: the same of every counted stretch of each
    sample; `stack_bytes`: the most of any sample, below the caller; `times_s`: of every inference;
    `ticks_per_second`: of the board's clock; `profile`: instructions per inference by function.
    """

    outputs: Mapping[str, Array]
    log: str
    instructions: tuple[int, ...] | None = None
    windows: tuple[tuple[int, ...], ...] | None = None
    stack_bytes: int | None = None
    times_s: tuple[float, ...] | None = None
    ticks_per_second: int | None = None
    profile: Mapping[str, float] | None = None

    @property
    def instructions_per_inference(self) -> float | None:
        """Mean of `instructions`."""
        counts = self.instructions
        return None if counts is None else sum(counts) / len(counts)

    @property
    def time_s(self) -> float | None:
        """Median of `times_s`."""
        return None if self.times_s is None else statistics.median(self.times_s)


class Device(Protocol):
    """Runs an artifact on samples; `flashed`: only what the user put on it before."""

    flashed: ClassVar[bool]

    @property
    def description(self) -> str:
        """What people call it."""
        ...

    def run(
        self,
        artifact: Path,
        manifest: Manifest,
        inputs: Mapping[str, Array],
        profile: bool = False,
        repeat: int = 1,
    ) -> RunResult:
        """Run inputs ([samples, *shape] per input name, stored integers).

        `profile`: count instructions per function; `repeat`: how often to time every sample.
        A device ignores what it cannot measure: emulators have no time, others count nothing.
        Raises DataError when inputs do not fit the manifest, ToolMissingError without the
        emulator, DeviceError when the artifact faults, hangs or answers short.
        """
        ...


def stored_samples(manifest: Manifest, inputs: Mapping[str, Array]) -> list[Array]:
    """Return the inputs in order as contiguous arrays of the stored type, [samples, *shape]."""
    expected = [port.name for port in manifest.inputs]
    if sorted(inputs) != sorted(expected):
        raise DataError(
            f"inputs {sorted(inputs)} were given, model '{manifest.name}' takes {expected}."
        )
    arrays = [stored(port, inputs[port.name], batched=True) for port in manifest.inputs]
    if len({len(array) for array in arrays}) != 1:
        counts = {port.name: len(a) for port, a in zip(manifest.inputs, arrays, strict=True)}
        raise DataError(f"the inputs of '{manifest.name}' differ in their samples: {counts}.")
    if not len(arrays[0]):
        raise DataError(f"there is no sample to run '{manifest.name}' on; give at least one.")
    return arrays


def stored(port: PortInfo, values: Array, batched: bool = False) -> Array:
    """Return values as a contiguous array of the port's type; raises DataError if they do not fit.

    Integers of another width are taken when every value fits.
    """
    shape = values.shape[1:] if batched else values.shape
    if shape != port.shape:
        lead = "[samples, ...] + " if batched else ""
        raise DataError(
            f"'{port.name}' has shape {values.shape}, expected {lead}{list(port.shape)}."
        )
    wanted = np.dtype(port.dtype)
    converted = np.ascontiguousarray(values.astype(wanted, copy=False))
    same_kind = (values.dtype.kind == "f") == (wanted.kind == "f")
    if not same_kind or (wanted.kind != "f" and not np.array_equal(converted, values)):
        raise DataError(
            f"'{port.name}' holds {values.dtype} values that {port.dtype} cannot store; "
            "quantise them with the encoding in manifest.json."
        )
    return converted


def pack_samples(arrays: Sequence[Array]) -> bytes:
    """Return the content of in.bin: sample after sample, each all arrays in order."""
    rows = [a.reshape(len(a), -1).view(np.uint8) for a in arrays]
    return np.concatenate(rows, axis=1).tobytes()


def unpack_samples(data: bytes, ports: Sequence[PortInfo], samples: int) -> dict[str, Array]:
    """Return the arrays of out.bin per output name; raises DeviceError when it is short."""
    size = sum(port.size_bytes for port in ports)
    if len(data) != size * samples:
        raise DeviceError(
            f"the check program wrote {len(data)} bytes, expected {samples} x {size}; "
            "it stopped early or out.bin could not be written."
        )
    rows = np.frombuffer(data, np.uint8).reshape(samples, size)
    found: dict[str, Array] = {}
    at = 0
    for port in ports:
        part = np.ascontiguousarray(rows[:, at : at + port.size_bytes])
        found[port.name] = part.view(port.dtype).reshape(samples, *port.shape)
        at += port.size_bytes
    return found

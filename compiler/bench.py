"""What an inference costs: instructions where they are counted, time on real devices, per layer."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np

from ..runtime.devices import open_device
from ..runtime.devices.base import Device
from ..targets import find_target
from .check import load_reference, of_kind
from .core.artifact import Manifest, Record, load_manifest, verify_files
from .layer_check import LayerVerdict, measure_layers


class Timing(Record):
    """Seconds of one inference, over all runs."""

    median_s: float
    fastest_s: float
    slowest_s: float
    runs: int


class Bench(Record):
    """What one artifact costs on its device; costs that were not measured are None.

    `instructions`: mean per inference of the artifact as shipped. `layers` come from a build that
    stops after every layer, so their sum differs slightly.
    """

    artifact: str
    target: str
    device: str
    samples: int
    macs: int
    instructions: float | None
    time: Timing | None
    flash_bytes: int | None
    ram_bytes: int | None
    layers: tuple[LayerVerdict, ...]


def bench_artifact(
    artifact: Path,
    layers: bool = True,
    repeat: int = 20,
    timeout_s: float = 600.0,
    device: str = "auto",
) -> Bench:
    """Run the reference samples of an artifact and return what they cost.

    `layers`: measure every layer, too (a board that the user flashes cannot); `repeat`: runs per
    sample where time is measured; `device`: where to run, as `device_for` takes it.
    Raises OptionError for a damaged artifact, DeviceError when the device fails.
    """
    manifest = load_manifest(artifact)
    verify_files(artifact, manifest)
    spec, _ = find_target(manifest.target)
    with open_device(spec, timeout_s, device) as runner:
        return _bench(artifact, manifest, runner, layers, repeat)


def _bench(artifact: Path, manifest: Manifest, runner: Device, layers: bool, repeat: int) -> Bench:
    codes = of_kind(load_reference(artifact), "codes")
    result = runner.run(artifact, manifest, codes, repeat=repeat)
    timed = 1 if result.times_s is None else repeat
    layer_codes = {name: np.repeat(array, timed, axis=0) for name, array in codes.items()}
    memory = manifest.memory
    stack = result.stack_bytes
    return Bench(
        artifact=str(artifact), target=manifest.target, device=runner.description,
        samples=len(next(iter(codes.values()))), macs=manifest.macs,
        instructions=result.instructions_per_inference,
        time=None if result.times_s is None else _timing(result.times_s),
        flash_bytes=memory.flash_bytes,
        ram_bytes=None if memory.ram_bytes is None else memory.ram_bytes + (stack or 0),
        layers=measure_layers(artifact, manifest, runner, layer_codes)
        if layers and not runner.flashed
        else (),
    )  # fmt: skip


def _timing(times_s: tuple[float, ...]) -> Timing:
    return Timing(
        median_s=statistics.median(times_s), fastest_s=min(times_s), slowest_s=max(times_s),
        runs=len(times_s),
    )  # fmt: skip

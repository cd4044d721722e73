"""Which layer answers differently: every call of an artifact on its device against NumPy."""

from __future__ import annotations

import shutil
import tempfile
import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..runtime.devices.base import Device, RunResult
from .core.artifact import Manifest, Record
from .layers import LayerRun, Layers, build_layered, find_layers, run_layered
from .lowering.program import Array


class LayerVerdict(Record):
    """One call of the artifact.

    `same_bits`: equal to NumPy on every sample; None for float32 results that are not, whose last
    digits may depend on the math library. Costs are per inference, None where not measured.
    """

    call: int
    function: str
    nodes: tuple[str, ...]
    macs: int
    same_bits: bool | None = None
    instructions: float | None = None
    time_s: float | None = None


class Difference(Record):
    """The first integer layer whose bits differ, on the first sample that shows it.

    `share`: of its values; `max_steps`: the largest distance of a value; None when the device
    cannot tell the values.
    """

    call: int
    function: str
    nodes: tuple[str, ...]
    sample: int
    share: float | None = None
    max_steps: int | None = None


class LayersVerdict(Record):
    """All calls in execution order and the first difference."""

    layers: tuple[LayerVerdict, ...]
    first_difference: Difference | None

    @property
    def differing(self) -> int:
        """Number of layers whose integer results differ."""
        return sum(layer.same_bits is False for layer in self.layers)


def measure_layers(
    artifact: Path, manifest: Manifest, device: Device, codes: Mapping[str, Array]
) -> tuple[LayerVerdict, ...]:
    """Return what every call of an artifact costs on its device; compares nothing."""
    layers = find_layers(artifact, manifest)
    with _build_folder(None) as folder:
        layered = build_layered(artifact, manifest, layers, folder)
        run = run_layered(device, folder, layered, codes)
    return tuple(_verdict(layers, run, index) for index in range(len(layers.functions)))


def check_layers(
    artifact: Path,
    manifest: Manifest,
    device: Device,
    codes: Mapping[str, Array],
    keep: Path | None = None,
) -> tuple[LayersVerdict, RunResult]:
    """Run a layered build on stored inputs and compare what every call wrote with NumPy.

    `keep`: where the layered build stays; a device that the user flashes needs it. Returns the
    verdict and what the layered build answered.
    """
    layers = find_layers(artifact, manifest)
    samples = [
        {name: a[i] for name, a in codes.items()} for i in range(len(next(iter(codes.values()))))
    ]
    with _build_folder(keep) as folder:
        layered = build_layered(artifact, manifest, layers, folder)
        run = run_layered(device, folder, layered, codes)
    expected = np.array([_sums(layers, layers.program.trace(sample)) for sample in samples])
    same = run.sums == expected
    verdicts = tuple(
        _verdict(layers, run, index).model_copy(update={"same_bits": _judge(layers, index, same)})
        for index in range(len(layers.functions))
    )
    wrong = [v.call for v in verdicts if v.same_bits is False]
    first = None
    if wrong:
        at, sample = wrong[0], int(np.argmin(same[:, wrong[0]]))
        first = Difference(
            call=at, function=layers.functions[at], nodes=layers.program.calls[at].nodes,
            sample=sample,
        )  # fmt: skip
        if not device.flashed:
            found = _distance(artifact, manifest, device, layers, samples[sample], at)
            first = first.model_copy(update=found)
    return LayersVerdict(layers=verdicts, first_difference=first), run.result


@contextmanager
def _build_folder(keep: Path | None) -> Generator[Path]:
    """Yield an empty folder, or keep without what was in it."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="edgec-layers-") as name:
            yield Path(name)
        return
    shutil.rmtree(keep, ignore_errors=True)
    keep.mkdir()
    yield keep


def _verdict(layers: Layers, run: LayerRun, index: int) -> LayerVerdict:
    call = layers.program.calls[index]
    return LayerVerdict(
        call=index, function=layers.functions[index], nodes=call.nodes, macs=call.kernel.macs(),
        instructions=float(run.instructions[index]) if run.instructions is not None else None,
        time_s=float(run.times_s[index]) if run.times_s is not None else None,
    )  # fmt: skip


def _sums(layers: Layers, memory: Mapping[str, Array]) -> list[int]:
    """Return the CRC of what every call writes, from a trace of the program.

    Valid as long as no buffer is written twice, which the interpreter's memory shares.
    """
    sums: list[int] = []
    for call in layers.program.calls:
        crc = 0
        for name in call.outputs:
            crc = zlib.crc32(np.ascontiguousarray(memory[name]).tobytes(), crc)
        sums.append(crc)
    return sums


def _judge(layers: Layers, index: int, same: Array) -> bool | None:
    if same[:, index].all():
        return True
    kinds = {np.dtype(p.dtype).kind for p in layers.written(index)}
    return None if kinds == {"f"} else False


def _distance(
    artifact: Path, manifest: Manifest, device: Device, layers: Layers,
    feeds: Mapping[str, Array], index: int,
) -> dict[str, float | int]:  # fmt: skip
    """Run a sample once more, with the values of a call among the outputs, and compare these."""
    with _build_folder(None) as folder:
        layered = build_layered(artifact, manifest, layers, folder, values_of=index)
        run = run_layered(device, folder, layered, {n: a[None] for n, a in feeds.items()})
    memory = layers.program.trace(feeds)
    assert run.values is not None
    got = _values(run.values[0], layers, index)
    wanted = [memory[name] for name in layers.program.calls[index].outputs]
    apart = np.concatenate(
        [np.abs(a.astype(np.int64) - b.astype(np.int64)) for a, b in zip(got, wanted, strict=True)]
    )
    return {"share": float(np.mean(apart > 0)), "max_steps": int(apart.max())}


def _values(content: Array, layers: Layers, index: int) -> list[Array]:
    """Return the arrays that a call wrote, from their bytes one after another."""
    arrays: list[Array] = []
    offset = 0
    for param in layers.written(index):
        part = content[offset : offset + param.size_bytes]
        arrays.append(np.ascontiguousarray(part).view(param.dtype))
        offset += param.size_bytes
    return arrays
